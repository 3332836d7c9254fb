//! The allow-list of a pod's fields, for both ends: what of a home pod goes into a ShadowPod, and what of a ShadowPod, which may be hostile, goes into a Pod.
//!
//! What is not listed here does not exist on the other side: node names, priorities, host namespaces, service accounts, tokens, host paths and ports. What a
//! pod cannot run without is refused with a word, not dropped. Called inside a running call only, by the forges of `pod` and `shadow`; never holds an object.

use crate::offload::offer::{self, Amount, DEFAULT_CPU, DEFAULT_MEMORY, LEAST_CPU, LEAST_MEMORY};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

type Object = Map<String, Value>;

const POD: &[&str] = &[
    "activeDeadlineSeconds",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "hostAliases",
    "hostname",
    "imagePullSecrets",
    "readinessGates",
    "restartPolicy",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
    "topologySpreadConstraints",
];
const POD_SECURITY: &[&str] = &[
    "appArmorProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "seccompProfile",
    "supplementalGroups",
    "supplementalGroupsPolicy",
];
const CONTAINER: &[&str] = &[
    "args",
    "command",
    "image",
    "imagePullPolicy",
    "name",
    "resizePolicy",
    "restartPolicy",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "workingDir",
];
const CONTAINER_SECURITY: &[&str] =
    &["allowPrivilegeEscalation", "appArmorProfile", "capabilities", "readOnlyRootFilesystem", "runAsGroup", "runAsNonRoot", "runAsUser", "seccompProfile"];
const PORT: &[&str] = &["containerPort", "name", "protocol"];
const MOUNT: &[&str] = &["mountPath", "name", "readOnly", "subPath", "subPathExpr"];
const PROBE: &[&str] =
    &["failureThreshold", "grpc", "initialDelaySeconds", "periodSeconds", "successThreshold", "terminationGracePeriodSeconds", "timeoutSeconds"];
const ENV_SOURCE: &[&str] = &["configMapKeyRef", "fieldRef", "resourceFieldRef", "secretKeyRef"];
const VOLUMES: &[&str] = &["configMap", "downwardAPI", "emptyDir", "secret"];
const PROJECTIONS: &[&str] = &["configMap", "downwardAPI", "secret"];
const RESOURCES: &[&str] = &["cpu", "ephemeral-storage", "memory"];

const TOLERATED: &[&str] = &["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// The longest time a pod may take to end, in seconds.
const GRACE_MAX: u64 = 600;

/// Containers of one pod, those that initialise it counted.
pub(crate) const CONTAINERS: usize = 64;

/// The pod spec that may go to the other side, or what in it cannot.
pub(crate) fn carried(spec: &Object) -> Result<Object, String> {
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec.get(host).and_then(Value::as_bool) == Some(true) {
            return Err(format!("the pod asks for {host}, which is not to be had on another cluster"));
        }
    }
    let mut out = pick(spec, POD);
    cut_grace(&mut out);
    out.insert("automountServiceAccountToken".into(), json!(false));
    if let Some(Value::Object(security)) = spec.get("securityContext") {
        out.insert("securityContext".into(), pick(security, POD_SECURITY).into());
    }
    let mut dropped = Vec::new();
    let mut volumes = Vec::new();
    for volume in objects(spec, "volumes") {
        match carried_volume(volume)? {
            Some(volume) => volumes.push(volume),
            None => dropped.push(volume.get("name").cloned().unwrap_or_default()),
        }
    }
    if !volumes.is_empty() {
        out.insert("volumes".into(), volumes.into());
    }
    for list in ["initContainers", "containers"] {
        let mut containers = Vec::new();
        for container in objects(spec, list) {
            containers.push(Value::from(carried_container(container, &dropped)?));
        }
        if !containers.is_empty() {
            out.insert(list.into(), containers.into());
        }
    }
    let count: usize = ["initContainers", "containers"].into_iter().filter_map(|l| out.get(l)?.as_array()).map(Vec::len).sum();
    if count > CONTAINERS {
        return Err(format!("the pod has {count} containers, at most {CONTAINERS} are carried to another cluster"));
    }
    if !out.contains_key("containers") {
        return Err("the pod has no containers".into());
    }
    // A toleration without a key, or for a taint that the provider's admin set (a cordoned node has one too), would open nodes that were not meant:
    // only what says how long a pod stays on a lost node is carried.
    let known = |t: &&Object| t.get("key").and_then(Value::as_str).is_some_and(|k| TOLERATED.contains(&k));
    let tolerations: Vec<Value> =
        objects(spec, "tolerations").filter(known).map(|t| pick(t, &["effect", "key", "operator", "tolerationSeconds", "value"]).into()).collect();
    if !tolerations.is_empty() {
        out.insert("tolerations".into(), tolerations.into());
    }
    Ok(out)
}

fn carried_volume(volume: &Object) -> Result<Option<Value>, String> {
    let name = volume.get("name").and_then(Value::as_str).unwrap_or_default();
    let mut out = pick(volume, &["name"]);
    let Some((kind, source)) = volume.iter().find(|(key, value)| *key != "name" && !value.is_null()) else {
        out.insert("emptyDir".into(), json!({}));
        return Ok(Some(out.into()));
    };
    if VOLUMES.contains(&kind.as_str()) {
        out.insert(kind.clone(), source.clone());
        return Ok(Some(out.into()));
    }
    if kind == "projected" {
        let source = source.as_object().ok_or("a projected volume is no object")?;
        let token = objects(source, "sources").any(|s| s.contains_key("serviceAccountToken"));
        if token && name.starts_with("kube-api-access-") {
            return Ok(None);
        }
        let mut sources = Vec::new();
        for projection in objects(source, "sources") {
            let Some(kind) = projection.keys().find(|k| !PROJECTIONS.contains(&k.as_str())) else {
                sources.push(Value::from(projection.clone()));
                continue;
            };
            return Err(format!("volume {name} projects a {kind}, which is not carried to another cluster"));
        }
        let mut projected = pick(source, &["defaultMode"]);
        projected.insert("sources".into(), sources.into());
        out.insert("projected".into(), projected.into());
        return Ok(Some(out.into()));
    }
    Err(format!("volume {name} is a {kind}, which is not carried to another cluster"))
}

fn carried_container(container: &Object, dropped: &[Value]) -> Result<Object, String> {
    let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
    let mut out = pick(container, CONTAINER);
    if let Some(Value::Object(security)) = container.get("securityContext") {
        if security.get("privileged").and_then(Value::as_bool) == Some(true) {
            return Err(format!("container {name} is privileged, which no provider allows"));
        }
        out.insert("securityContext".into(), pick(security, CONTAINER_SECURITY).into());
    }
    let mut lists: Vec<(&str, Vec<Value>)> = Vec::new();
    lists.push(("ports", objects(container, "ports").map(|p| pick(p, PORT).into()).collect()));
    let kept = objects(container, "volumeMounts").filter(|m| !dropped.contains(m.get("name").unwrap_or(&Value::Null)));
    lists.push(("volumeMounts", kept.map(|m| pick(m, MOUNT).into()).collect()));
    lists.push(("envFrom", objects(container, "envFrom").map(|e| pick(e, &["configMapRef", "prefix", "secretRef"]).into()).collect()));
    let mut env = Vec::new();
    for variable in objects(container, "env") {
        let mut kept = pick(variable, &["name", "value"]);
        if let Some(Value::Object(from)) = variable.get("valueFrom") {
            if let Some(other) = from.keys().find(|k| !ENV_SOURCE.contains(&k.as_str())) {
                return Err(format!("container {name} takes a variable from a {other}, which is not carried to another cluster"));
            }
            kept.insert("valueFrom".into(), from.clone().into());
        }
        env.push(kept.into());
    }
    lists.push(("env", env));
    for (key, list) in lists {
        if !list.is_empty() {
            out.insert(key.into(), list.into());
        }
    }
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(Value::Object(probe)) = container.get(key) {
            let mut kept = pick(probe, PROBE);
            cut_grace(&mut kept);
            kept.extend(handler(probe));
            out.insert(key.into(), kept.into());
        }
    }
    if let Some(Value::Object(lifecycle)) = container.get("lifecycle") {
        let mut kept = Object::new();
        for key in ["postStart", "preStop"] {
            if let Some(Value::Object(hook)) = lifecycle.get(key) {
                let mut hook_kept = handler(hook);
                hook_kept.extend(pick(hook, &["sleep"]));
                kept.insert(key.into(), hook_kept.into());
            }
        }
        out.insert("lifecycle".into(), kept.into());
    }
    if let Some(Value::Object(resources)) = container.get("resources") {
        let mut kept = Object::new();
        for key in ["limits", "requests"] {
            let Some(Value::Object(list)) = resources.get(key) else { continue };
            if let Some(other) = list.keys().find(|k| !RESOURCES.contains(&k.as_str())) {
                return Err(format!("container {name} asks for {other}, which was not granted"));
            }
            kept.insert(key.into(), list.clone().into());
        }
        out.insert("resources".into(), kept.into());
    }
    Ok(out)
}

/// What a probe or hook does; never at another host than the pod itself.
fn handler(from: &Object) -> Object {
    let mut out = pick(from, &["exec"]);
    for (key, fields) in [("httpGet", &["httpHeaders", "path", "port", "scheme"][..]), ("tcpSocket", &["port"][..])] {
        if let Some(Value::Object(action)) = from.get(key) {
            out.insert(key.into(), pick(action, fields).into());
        }
    }
    out
}

/// A pod that is told to end does so: how long it may take is bounded, or it would outlive its peering.
fn cut_grace(of: &mut Object) {
    if let Some(grace) = of.get_mut("terminationGracePeriodSeconds")
        && grace.as_f64().is_some_and(|seconds| seconds > GRACE_MAX as f64)
    {
        *grace = json!(GRACE_MAX);
    }
}

/// Gives every container the requests it is counted with, so that what is counted is what the scheduler sees, and a limit where it has none or a larger one:
/// none can use more than the whole of what was granted.
pub(crate) fn fill_resources(spec: &mut Object, grant: Amount) {
    for list in ["initContainers", "containers"] {
        let Some(Value::Array(containers)) = spec.get_mut(list) else { continue };
        for container in containers.iter_mut().filter_map(Value::as_object_mut) {
            let resources = container.entry("resources").or_insert_with(|| json!({}));
            for (name, text, granted) in [("cpu", offer::cpu_text as fn(u64) -> String, grant.cpu), ("memory", offer::memory_text, grant.memory)] {
                let measure = Measure::of(name);
                let (request, limit) = (measure.read(resources["requests"].get(name)), measure.read(resources["limits"].get(name)));
                let counted = measure.counted(request, limit);
                if request != Some(counted) {
                    resources["requests"][name] = json!(text(counted));
                }
                let most = granted.max(counted);
                if limit.is_none_or(|limit| limit > most || limit < counted) {
                    resources["limits"][name] = json!(text(limit.unwrap_or(most).clamp(counted, most)));
                }
            }
        }
    }
}

/// How one resource of a container is read and counted.
struct Measure {
    digits: u32,
    default: u64,
    least: u64,
}

impl Measure {
    fn of(name: &str) -> Measure {
        match name {
            "cpu" => Measure { digits: 3, default: DEFAULT_CPU, least: LEAST_CPU },
            _ => Measure { digits: 0, default: DEFAULT_MEMORY, least: LEAST_MEMORY },
        }
    }

    /// An amount that is given: zero is none, for Kubernetes takes a limit of zero for no limit. What cannot be read is more than anybody has.
    fn read(&self, value: Option<&Value>) -> Option<u64> {
        let amount = match value? {
            Value::String(text) => offer::quantity(text, self.digits).unwrap_or(u64::MAX),
            Value::Number(number) => offer::quantity(&number.to_string(), self.digits).unwrap_or(u64::MAX),
            _ => u64::MAX,
        };
        (amount > 0).then_some(amount)
    }

    /// What a container counts as: its request, without one its limit, as Kubernetes has it; without either a default; and never nothing.
    fn counted(&self, request: Option<u64>, limit: Option<u64>) -> u64 {
        request.or(limit).unwrap_or(self.default).max(self.least)
    }
}

/// What of a pod spec is counted.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Counted {
    pub restart_policy: String,
    containers: Option<Vec<CountedContainer>>,
    init_containers: Option<Vec<CountedContainer>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct CountedContainer {
    restart_policy: Option<String>,
    resources: Option<CountedResources>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct CountedResources {
    requests: Option<BTreeMap<String, Value>>,
    limits: Option<BTreeMap<String, Value>>,
}

impl Counted {
    /// A spec that is none: one that counts as more than anybody has.
    pub(crate) fn unreadable() -> Counted {
        let everything = [("cpu", Value::Bool(true)), ("memory", Value::Bool(true))].map(|(name, value)| (name.to_string(), value)).into();
        let container = CountedContainer { restart_policy: None, resources: Some(CountedResources { requests: Some(everything), limits: None }) };
        Counted { restart_policy: String::new(), containers: Some(vec![container]), init_containers: None }
    }

    /// What the pod takes of a grant: its requests, put together as the scheduler does. What cannot be read counts as more than anybody has.
    pub(crate) fn amount(&self) -> Amount {
        let of = |c: &CountedContainer| {
            let counted = |name: &str| {
                let resources = c.resources.as_ref();
                let request = resources.and_then(|r| r.requests.as_ref()?.get(name));
                let limit = resources.and_then(|r| r.limits.as_ref()?.get(name));
                let measure = Measure::of(name);
                measure.counted(measure.read(request), measure.read(limit))
            };
            Amount { cpu: counted("cpu"), memory: counted("memory"), pods: 0 }
        };
        let sidecar = |c: &&CountedContainer| c.restart_policy.as_deref() == Some("Always");
        let init = || self.init_containers.iter().flatten();
        let sidecars = init().filter(sidecar).map(of).fold(Amount::default(), Amount::plus);
        let running = self.containers.iter().flatten().map(of).fold(sidecars, Amount::plus);
        let starting = init().filter(|c| !sidecar(c)).map(|c| of(c).plus(sidecars)).fold(Amount::default(), Amount::most);
        Amount { pods: 1, ..running.most(starting) }
    }
}

/// The listed fields of an object, where it has them.
pub(crate) fn pick(from: &Object, fields: &[&str]) -> Object {
    fields.iter().filter_map(|f| from.get_key_value(*f)).filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// The objects in a list field; anything else in it is passed over.
pub(crate) fn objects<'a>(from: &'a Object, field: &str) -> impl Iterator<Item = &'a Object> {
    from.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
}

/// The labels or annotations that may go over: none that are ours or Liqo's to set.
pub(crate) fn keys(meta: Option<&Value>, field: &str, wanted: impl Fn(&str) -> bool) -> Object {
    let map = meta.and_then(|m| m.get(field)).and_then(Value::as_object);
    map.into_iter()
        .flatten()
        .filter(|(k, v)| v.is_string() && !crate::offload::ownership::reserved(k) && wanted(k))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        value.as_object().expect("an object").clone()
    }

    #[test]
    fn what_is_not_listed_does_not_cross() {
        let spec = object(json!({
            "nodeName": "x", "priorityClassName": "system-node-critical", "priority": 9, "serviceAccountName": "admin", "schedulerName": "mine",
            "runtimeClassName": "r", "nodeSelector": {"a": "b"}, "affinity": {}, "ephemeralContainers": [{}], "overhead": {},
            "securityContext": {"runAsUser": 5, "sysctls": [{"name": "kernel.x", "value": "1"}]},
            "tolerations": [{"operator": "Exists"}, {"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}, {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": "0.0.0.0"}],
                "livenessProbe": {"httpGet": {"host": "169.254.169.254", "port": 80, "path": "/"}, "periodSeconds": 3},
                "securityContext": {"privileged": false, "procMount": "Unmasked", "runAsUser": 1}}],
        }));
        let expected = json!({
            "automountServiceAccountToken": false,
            "securityContext": {"runAsUser": 5},
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}],
                "livenessProbe": {"httpGet": {"port": 80, "path": "/"}, "periodSeconds": 3}, "securityContext": {"runAsUser": 1}}],
        });
        assert_eq!(Value::from(carried(&spec).expect("carried")), expected);
    }

    #[test]
    fn what_a_pod_cannot_run_without_is_refused_with_a_word() {
        let container = json!([{"name": "c", "image": "i"}]);
        for (spec, word) in [
            (json!({"containers": []}), "no containers"),
            (json!({"containers": container, "hostNetwork": true}), "hostNetwork"),
            (json!({"containers": container, "volumes": [{"name": "v", "hostPath": {"path": "/"}}]}), "hostPath"),
            (json!({"containers": container, "volumes": [{"name": "v", "csi": {}}]}), "csi"),
            (
                json!({"containers": container, "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
                "serviceAccountToken",
            ),
            (json!({"containers": [{"name": "c", "securityContext": {"privileged": true}}]}), "privileged"),
            (json!({"containers": [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": 1}}}]}), "nvidia.com/gpu"),
            (json!({"containers": [{"name": "c", "env": [{"name": "e", "valueFrom": {"fileKeyRef": {}}}]}]}), "fileKeyRef"),
        ] {
            let why = carried(&object(spec.clone())).expect_err("refused");
            assert!(why.contains(word), "{spec}: {why}");
        }
    }

    #[test]
    fn the_injected_token_volume_goes_with_its_mounts() {
        let spec = object(json!({
            "volumes": [{"name": "kube-api-access-x", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}, {"name": "tmp", "emptyDir": {}}],
            "containers": [{"name": "c", "volumeMounts": [{"name": "kube-api-access-x", "mountPath": "/var/run"}, {"name": "tmp", "mountPath": "/tmp"}]}],
        }));
        let out = Value::from(carried(&spec).expect("carried"));
        assert_eq!(out["volumes"], json!([{"name": "tmp", "emptyDir": {}}]));
        assert_eq!(out["containers"][0]["volumeMounts"], json!([{"name": "tmp", "mountPath": "/tmp"}]));
    }

    const GRANT: Amount = Amount { cpu: 4000, memory: 8 << 30, pods: 10 };

    #[test]
    fn requests_are_counted_and_limits_end_at_the_grant() {
        let spec = json!({"containers": [{"resources": {"requests": {"cpu": "250m"}, "limits": {"memory": "64Mi"}}}, {}, {"resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "64"}}}],
            "initContainers": [{"resources": {"requests": {"cpu": "2"}}}, {"restartPolicy": "Always", "resources": {"requests": {"cpu": "50m", "memory": "1Mi"}}}]});
        let counted: Counted = serde_json::from_value(spec.clone()).expect("counted");
        assert_eq!(counted.amount(), Amount { cpu: 2050, memory: (64 + 128 + 128 + 32) << 20, pods: 1 });
        let mut filled = object(spec);
        fill_resources(&mut filled, GRANT);
        assert_eq!(filled["containers"][0]["resources"], json!({"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"cpu": "4", "memory": "64Mi"}}));
        assert_eq!(filled["containers"][1]["resources"], json!({"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "4", "memory": "8Gi"}}));
        assert_eq!(filled["containers"][2]["resources"]["requests"]["cpu"], "100m");
        assert_eq!(filled["containers"][2]["resources"]["limits"]["cpu"], "4");
        assert_eq!(filled["initContainers"][1]["resources"]["requests"], json!({"cpu": "50m", "memory": "32Mi"}));
        let again: Counted = serde_json::from_value(filled.into()).expect("counted");
        assert_eq!(again.amount(), counted.amount());
        let nonsense: Counted = serde_json::from_value(json!({"containers": [{"resources": {"requests": {"cpu": "lots"}}}]})).expect("counted");
        assert_eq!(nonsense.amount().cpu, u64::MAX);
    }

    #[test]
    fn nothing_is_free() {
        for resources in [
            json!({"requests": {"cpu": "0", "memory": 0}}),
            json!({"limits": {"cpu": "0", "memory": "0.0"}}),
            json!({"requests": {"cpu": "0m"}, "limits": {"memory": "0Ki"}}),
        ] {
            let mut spec = object(json!({"containers": [{"resources": resources}]}));
            let counted: Counted = serde_json::from_value(spec.clone().into()).expect("counted");
            assert_eq!(counted.amount(), Amount { cpu: DEFAULT_CPU, memory: DEFAULT_MEMORY, pods: 1 }, "{resources}");
            fill_resources(&mut spec, GRANT);
            assert_eq!(spec["containers"][0]["resources"]["limits"], json!({"cpu": "4", "memory": "8Gi"}), "{resources}");
            assert_eq!(spec["containers"][0]["resources"]["requests"], json!({"cpu": "100m", "memory": "128Mi"}), "{resources}");
        }
        let mut tiny = object(json!({"containers": [{"resources": {"requests": {"cpu": "1n", "memory": "1"}, "limits": {"cpu": "1m", "memory": "1"}}}]}));
        fill_resources(&mut tiny, GRANT);
        assert_eq!(tiny["containers"][0]["resources"]["requests"], json!({"cpu": "20m", "memory": "32Mi"}));
        assert_eq!(tiny["containers"][0]["resources"]["limits"], json!({"cpu": "20m", "memory": "32Mi"}));
    }

    #[test]
    fn no_pod_takes_for_ever_to_end() {
        let spec = object(json!({"terminationGracePeriodSeconds": 1_000_000_000_u64,
            "containers": [{"name": "c", "livenessProbe": {"exec": {"command": ["x"]}, "terminationGracePeriodSeconds": 1e12}}]}));
        let out = Value::from(carried(&spec).expect("carried"));
        assert_eq!(
            (&out["terminationGracePeriodSeconds"], &out["containers"][0]["livenessProbe"]["terminationGracePeriodSeconds"]),
            (&json!(600), &json!(600))
        );
        let short = carried(&object(json!({"terminationGracePeriodSeconds": 5, "containers": [{"name": "c"}]}))).expect("carried");
        assert_eq!(short["terminationGracePeriodSeconds"], json!(5));
    }
}
