//! `sluice offload namespace`: makes the NamespaceOffloading with the caller's kubeconfig, which is the consent, and is done only when the
//! API server's dry run of a pod comes back as the strategy says: with the toleration, or (Local) without.

use std::time::Duration;

use serde_json::{Value, json};

use super::admin::{Admin, explain};
use super::args::{OffloadNamespace, Output};
use super::protocol::{Failure, Progress};
use super::terminal::{Stopwatch, Terminal};
use crate::kube::call::{Resource, Verb};
use crate::kube::reply::Reply;

/// The kind that offloads a namespace.
pub(super) const OFFLOADINGS: Resource = Resource { group: "offloading.liqo.io", version: "v1beta1", plural: "namespaceoffloadings" };
pub(super) const NAMESPACES: Resource = Resource { group: "", version: "v1", plural: "namespaces" };
const PODS: Resource = Resource { group: "", version: "v1", plural: "pods" };
const NODES: Resource = Resource { group: "", version: "v1", plural: "nodes" };
const TAINT: &str = "virtual-node.liqo.io/not-allowed";
/// How long it may take until the policy sees the namespace.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn namespace(typed: OffloadNamespace) -> Result<(), Failure> {
    let body = offloading(&typed)?;
    let admin = Admin::from_kubeconfig(typed.kubeconfig.as_deref()).map_err(|e| Failure::new("kubeconfig", e, "name another with --kubeconfig PATH"))?;
    let out = if typed.output == Output::Json { Terminal::stderr() } else { Terminal::stdout() };
    let watch = Stopwatch::start();
    let api = |what: &str, reply: &Reply| Failure::new("api", explain(what, reply), "");

    match admin.call(Verb::Get, &NAMESPACES.object(None, &typed.name), None) {
        Reply::Done(_) => {}
        Reply::NotFound => {
            return Err(Failure::new("no-namespace", format!("there is no namespace {:?}", typed.name), "make it with: kubectl create namespace NAME"));
        }
        reply => return Err(api("the namespace", &reply)),
    }
    match admin.call(Verb::Apply, &OFFLOADINGS.object(Some(&typed.name), "offloading"), Some(&body.to_string())) {
        Reply::Done(_) => {}
        Reply::NotFound => {
            return Err(Failure::new(
                "not-set-up",
                "this cluster does not know the kind NamespaceOffloading",
                "start the daemon once, it applies what it needs: sluice run",
            ));
        }
        reply => return Err(api("the NamespaceOffloading", &reply)),
    }
    out.step(&Progress { step: "consent given".into(), detail: format!("NamespaceOffloading {}/offloading, {}", typed.name, typed.pod_offloading_strategy) });

    let leaves = typed.pod_offloading_strategy != "Local";
    let mut told = 0;
    loop {
        let reply = admin.call(Verb::Create, &format!("{}?dryRun=All", PODS.collection(Some(&typed.name))), Some(&probe().to_string()));
        match &reply {
            Reply::Done(pod) if tolerates(pod) == leaves => break,
            Reply::Done(_) | Reply::Throttled(_) | Reply::Unreachable(_) => {}
            // The policy's parameters or the namespace's account may not have reached the API server's caches yet.
            _ if watch.passed() < PATIENCE / 2 => {}
            reply => return Err(api("a pod's dry run", reply)),
        }
        if watch.passed() > PATIENCE {
            return Err(late(&admin, &typed.name));
        }
        if watch.passed().as_secs() >= told + 3 {
            told = watch.passed().as_secs();
            out.line(&format!("    waiting for the daemon to take the namespace up ({told} s)"));
        }
        Stopwatch::pause(Duration::from_millis(200));
    }
    let what = if leaves { "pods can leave" } else { "pods stay at home" };
    out.step(&Progress { step: what.into(), detail: format!("shown by a dry run, {}", watch.shown()) });

    let status = match admin.call(Verb::Get, &OFFLOADINGS.object(Some(&typed.name), "offloading"), None) {
        Reply::Done(body) => serde_json::from_slice::<Value>(&body).map(|o| o["status"].clone()).unwrap_or_default(),
        _ => Value::Null,
    };
    if typed.output == Output::Json {
        let result = json!({"namespace": typed.name, "strategy": typed.pod_offloading_strategy, "phase": status["offloadingPhase"], "twin": status["remoteNamespaceName"]});
        Terminal::stdout().line(&result.to_string());
    } else {
        let next = if leaves { "may run on peers now" } else { "run at home from now on" };
        out.line(&format!("  New pods of the namespace {next}; running ones stay where they are. See: sluice status"));
    }
    Ok(())
}

/// The object, or what is wrong with what was typed.
fn offloading(typed: &OffloadNamespace) -> Result<Value, Failure> {
    let one_of = |flag: &str, value: &str, all: &[&str]| {
        if all.contains(&value) { Ok(()) } else { Err(Failure::new("usage", format!("--{flag} {value}: one of {} is meant", all.join(", ")), "")) }
    };
    one_of("pod-offloading-strategy", &typed.pod_offloading_strategy, &["Local", "Remote", "LocalAndRemote"])?;
    one_of("namespace-mapping-strategy", &typed.namespace_mapping_strategy, &["DefaultName", "EnforceSameName", "SelectedName"])?;
    if typed.remote_namespace_name.is_some() != (typed.namespace_mapping_strategy == "SelectedName") {
        return Err(Failure::new("usage", "--remote-namespace-name goes with --namespace-mapping-strategy SelectedName, and only with it", ""));
    }
    let mut spec = json!({"namespaceMappingStrategy": typed.namespace_mapping_strategy, "podOffloadingStrategy": typed.pod_offloading_strategy});
    if let Some(name) = &typed.remote_namespace_name {
        spec["remoteNamespaceName"] = json!(name);
    }
    let terms = typed.selector.iter().map(|s| term(s)).collect::<Result<Vec<Value>, Failure>>()?;
    if !terms.is_empty() {
        spec["clusterSelector"] = json!({"nodeSelectorTerms": terms});
    }
    Ok(
        json!({"apiVersion": "offloading.liqo.io/v1beta1", "kind": "NamespaceOffloading", "metadata": {"name": "offloading", "namespace": typed.name}, "spec": spec}),
    )
}

/// `a=b,c!=d,e,!f` as one node selector term.
fn term(text: &str) -> Result<Value, Failure> {
    let expressions = text.split(',').map(str::trim).map(|part| {
        let (key, operator, values) = if let Some((key, value)) = part.split_once("!=") {
            (key, "NotIn", vec![value])
        } else if let Some((key, value)) = part.split_once('=') {
            (key, "In", vec![value.strip_prefix('=').unwrap_or(value)])
        } else if let Some(key) = part.strip_prefix('!') {
            (key, "DoesNotExist", vec![])
        } else {
            (part, "Exists", vec![])
        };
        if key.is_empty() {
            return Err(Failure::new("usage", format!("--selector {text}: KEY=VALUE,KEY=VALUE is meant"), "also KEY!=VALUE, KEY and !KEY"));
        }
        Ok(if values.is_empty() { json!({"key": key, "operator": operator}) } else { json!({"key": key, "operator": operator, "values": values}) })
    });
    Ok(json!({"matchExpressions": expressions.collect::<Result<Vec<Value>, Failure>>()?}))
}

/// A pod that every Pod Security level admits.
fn probe() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sluice-dry-run"}, "spec": {
        "securityContext": {"runAsNonRoot": true, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "probe", "image": "sluice.invalid/none",
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "10m", "memory": "16Mi"}},
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}})
}

/// Why the pods are not changed in time, as far as it can be seen from here.
fn late(admin: &Admin, name: &str) -> Failure {
    let nodes = admin.call(Verb::Get, &format!("{}?labelSelector=liqo.io%2Ftype%3Dvirtual-node", NODES.collection(None)), None);
    let lender =
        matches!(nodes, Reply::Done(list) if serde_json::from_slice::<Value>(&list).unwrap_or_default()["items"].as_array().is_some_and(|i| !i.is_empty()));
    let hint = if lender {
        "is the daemon running? sluice status. Before Kubernetes 1.36 the API server needs the feature gate MutatingAdmissionPolicy. The NamespaceOffloading stays: sluice unoffload takes it back"
    } else {
        "no peer lends resources to this cluster yet: sluice join. The NamespaceOffloading stays and takes effect then: sluice unoffload takes it back"
    };
    Failure::new("timeout", format!("pods of {name} are not changed by the API server after {} s", PATIENCE.as_secs()), hint)
}

fn tolerates(pod: &[u8]) -> bool {
    let pod: Value = serde_json::from_slice(pod).unwrap_or_default();
    pod["spec"]["tolerations"].as_array().is_some_and(|all| all.iter().any(|t| t["key"] == TAINT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed() -> OffloadNamespace {
        OffloadNamespace {
            name: "shop".into(),
            pod_offloading_strategy: "LocalAndRemote".into(),
            selector: vec![],
            namespace_mapping_strategy: "DefaultName".into(),
            remote_namespace_name: None,
            kubeconfig: None,
            output: Output::Text,
        }
    }

    #[test]
    fn the_object_says_what_was_typed() {
        let selector = vec!["a=b,!c".to_owned(), "d!=e,f".to_owned()];
        let object = offloading(&OffloadNamespace { selector, ..typed() }).unwrap();
        assert_eq!(object["metadata"]["name"], "offloading");
        assert_eq!(
            object["spec"]["clusterSelector"].to_string(),
            r#"{"nodeSelectorTerms":[{"matchExpressions":[{"key":"a","operator":"In","values":["b"]},{"key":"c","operator":"DoesNotExist"}]},{"matchExpressions":[{"key":"d","operator":"NotIn","values":["e"]},{"key":"f","operator":"Exists"}]}]}"#
        );
        assert!(offloading(&typed()).unwrap()["spec"].get("clusterSelector").is_none());
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_asked() {
        for wrong in [
            OffloadNamespace { pod_offloading_strategy: "remote".into(), ..typed() },
            OffloadNamespace { namespace_mapping_strategy: "Same".into(), ..typed() },
            OffloadNamespace { namespace_mapping_strategy: "SelectedName".into(), ..typed() },
            OffloadNamespace { remote_namespace_name: Some("x".into()), ..typed() },
            OffloadNamespace { selector: vec!["=b".into()], ..typed() },
        ] {
            assert_eq!(offloading(&wrong).unwrap_err().reason, "usage");
        }
    }

    #[test]
    fn a_dry_run_shows_whether_a_pod_may_leave() {
        assert!(tolerates(br#"{"spec":{"tolerations":[{"key":"virtual-node.liqo.io/not-allowed"}]}}"#));
        assert!(!tolerates(br#"{"spec":{}}"#) && !tolerates(b"<"));
    }
}
