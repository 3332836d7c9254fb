//! Brings the cluster into the state the daemon needs, with the administrator's credential: applies what is missing or of another version
//! among `k3s-manifests/`, then mints the daemon's own token. Called by `shell::run` at start, and backwards by `sluice uninstall`.
//!
//! It never touches an object that does not carry our mark: that is an error which names it, before anything was changed.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::admin::{Admin, explain};
use crate::kube::call::{Resource, Verb};
use crate::kube::reply::Reply;

/// The label that says an object is ours.
pub const MARK: &str = "sluice.internal/managed";
/// The annotation that says which manifests an object was applied from.
pub const VERSION: &str = "sluice.internal/version";
/// How long a new kind may take until it is served.
const ESTABLISHED: Duration = Duration::from_secs(30);

/// What a cluster without the kind can still do, and what switches it on.
const WITHOUT_POLICY: &str = "this API server has no MutatingAdmissionPolicy: it can lend, but no namespace can be offloaded from here. Kubernetes 1.36 has it; \
    before that start the API server with --feature-gates=MutatingAdmissionPolicy=true --runtime-config=admissionregistration.k8s.io/v1beta1=true";

/// In the order in which they are applied.
const MANIFESTS: [&str; 9] = [
    include_str!("../../k3s-manifests/namespace.yaml"),
    include_str!("../../k3s-manifests/crds-core.yaml"),
    include_str!("../../k3s-manifests/crds-authentication.yaml"),
    include_str!("../../k3s-manifests/crds-offloading.yaml"),
    include_str!("../../k3s-manifests/roles.yaml"),
    include_str!("../../k3s-manifests/policy-daemon.yaml"),
    include_str!("../../k3s-manifests/policy-tenants.yaml"),
    include_str!("../../k3s-manifests/policy-offloadable.yaml"),
    include_str!("../../k3s-manifests/policy-offload.yaml"),
];

/// The daemon's token.
pub struct Minted {
    /// The bearer token.
    pub token: String,
    /// When it ends, RFC 3339, by the API server's clock.
    pub expires: String,
    /// How long it lives, in seconds: what was granted, which may be other than what was asked.
    pub seconds: u64,
}

impl std::fmt::Debug for Minted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Minted(until {})", self.expires)
    }
}

/// One object of ours.
pub struct Object {
    /// Its kind.
    pub kind: String,
    /// Its namespace and name, for messages.
    pub title: String,
    /// Its path in the API.
    pub path: String,
    /// JSON text: as trees, all objects together would be a megabyte.
    body: String,
}

impl Object {
    /// The same object in the version of its kind that API servers before 1.36 have (v1beta1, behind a feature gate); none if `v1` is all there is.
    pub fn older(&self) -> Option<Object> {
        if !self.kind.starts_with("MutatingAdmissionPolicy") {
            return None;
        }
        let older = |text: &str| text.replacen("admissionregistration.k8s.io/v1", "admissionregistration.k8s.io/v1beta1", 1);
        Some(Object { kind: self.kind.clone(), title: self.title.clone(), path: older(&self.path), body: older(&self.body) })
    }
}

/// All objects, in the order in which they are applied. They carry the version of their manifests.
pub fn objects() -> Result<Vec<Object>, String> {
    let version = version();
    let mut objects = Vec::with_capacity(64);
    for text in MANIFESTS {
        for document in serde_yaml_ng::Deserializer::from_str(text) {
            let mut body = Value::deserialize(document).map_err(|e| format!("a manifest of ours cannot be read: {e}"))?;
            body["metadata"]["annotations"][VERSION] = json!(version);
            let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            let (kind, name) = (text(&body["kind"]), text(&body["metadata"]["name"]));
            let namespace = body["metadata"]["namespace"].as_str();
            let resource = resource(&kind).ok_or_else(|| format!("a manifest of ours has the unknown kind {kind}"))?;
            let title = namespace.map_or_else(|| name.clone(), |ns| format!("{ns}/{name}"));
            objects.push(Object { path: resource.object(namespace, &name), kind, title, body: body.to_string() });
        }
    }
    Ok(objects)
}

/// The version that is written on applied objects: the program's, and eight digits of what the manifests say.
pub fn version() -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    MANIFESTS.iter().for_each(|text| context.update(text.as_bytes()));
    let digest = context.finish();
    let digits: String = digest.as_ref()[..4].iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{digits}", env!("CARGO_PKG_VERSION"))
}

const fn built_in(group: &'static str, plural: &'static str) -> Resource {
    Resource { group, version: "v1", plural }
}

fn resource(kind: &str) -> Option<Resource> {
    Some(match kind {
        "Namespace" => built_in("", "namespaces"),
        "ServiceAccount" => built_in("", "serviceaccounts"),
        "CustomResourceDefinition" => built_in("apiextensions.k8s.io", "customresourcedefinitions"),
        "ClusterRole" => built_in("rbac.authorization.k8s.io", "clusterroles"),
        "ClusterRoleBinding" => built_in("rbac.authorization.k8s.io", "clusterrolebindings"),
        "Role" => built_in("rbac.authorization.k8s.io", "roles"),
        "RoleBinding" => built_in("rbac.authorization.k8s.io", "rolebindings"),
        "ValidatingAdmissionPolicy" => built_in("admissionregistration.k8s.io", "validatingadmissionpolicies"),
        "ValidatingAdmissionPolicyBinding" => built_in("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
        "MutatingAdmissionPolicy" => built_in("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
        "MutatingAdmissionPolicyBinding" => built_in("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
        _ => return None,
    })
}

/// What is looked at before anything is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Current,
    Other,
    Foreign,
}

fn found(object: &[u8], version: &str) -> Result<Found, String> {
    let object: Value = serde_json::from_slice(object).map_err(|e| format!("what the API server answered is no JSON: {e}"))?;
    let metadata = &object["metadata"];
    Ok(match (metadata["labels"][MARK].as_str(), metadata["annotations"][VERSION].as_str()) {
        (Some("true"), Some(v)) if v == version => Found::Current,
        (Some("true"), _) => Found::Other,
        _ => Found::Foreign,
    })
}

/// Whether an object, as JSON, carries our mark.
pub fn is_ours(object: &[u8]) -> bool {
    matches!(found(object, ""), Ok(Found::Current | Found::Other))
}

/// Applies what is missing or of another version. `progress` is told what was done, one line each. Nothing is changed if an object of the same
/// kind and name is not ours.
pub fn apply(admin: &Admin, progress: &mut dyn FnMut(&str)) -> Result<(), String> {
    let (objects, version) = (objects()?, version());
    let mut due = Vec::new();
    for object in &objects {
        let what = format!("{} {}", object.kind, object.title);
        let found = match admin.call(Verb::Get, &object.path, None) {
            Reply::Done(body) => found(&body, &version)?,
            Reply::NotFound => Found::Nothing,
            reply => return Err(explain(&what, &reply)),
        };
        match found {
            Found::Current => {}
            Found::Nothing | Found::Other => due.push(object),
            Found::Foreign => return Err(foreign(object)),
        }
    }
    let mut without_policy = false;
    let mut applied = 0;
    for (at, object) in due.iter().enumerate() {
        let mut reply = admin.call(Verb::Apply, &object.path, Some(&object.body));
        if let (Reply::NotFound, Some(older)) = (&reply, object.older()) {
            reply = match admin.call(Verb::Get, &older.path, None) {
                Reply::Done(body) => match found(&body, &version)? {
                    Found::Current => continue,
                    Found::Foreign => return Err(foreign(&older)),
                    Found::Nothing | Found::Other => admin.call(Verb::Apply, &older.path, Some(&older.body)),
                },
                Reply::NotFound => admin.call(Verb::Apply, &older.path, Some(&older.body)),
                reply => reply,
            };
        }
        match reply {
            Reply::Done(_) => applied += 1,
            Reply::NotFound if object.older().is_some() => without_policy = true,
            reply => return Err(explain(&format!("{} {} cannot be applied", object.kind, object.title), &reply)),
        }
        // What follows needs the kinds.
        if object.kind == "CustomResourceDefinition" && due.get(at + 1).is_none_or(|next| next.kind != object.kind) {
            established(admin, &objects)?;
        }
    }
    if applied > 0 {
        progress(&format!("{applied} of {} objects applied (roles, kinds, policies; version {version})", objects.len()));
    }
    if without_policy {
        progress(WITHOUT_POLICY);
    }
    Ok(())
}

fn foreign(object: &Object) -> String {
    let hint = if object.kind == "CustomResourceDefinition" {
        "A running Liqo has it: uninstall Liqo first, the two cannot share a cluster"
    } else {
        "Rename or remove it if nobody needs it"
    };
    format!("{} {} exists and was not made by sluice; nothing was changed. {hint}", object.kind, object.title)
}

fn established(admin: &Admin, objects: &[Object]) -> Result<(), String> {
    let started = crate::cli::Stopwatch::start();
    for object in objects.iter().filter(|o| o.kind == "CustomResourceDefinition") {
        loop {
            let reply = admin.call(Verb::Get, &object.path, None);
            let Reply::Done(body) = reply else { return Err(explain(&object.title, &reply)) };
            let body: Value = serde_json::from_slice(&body).map_err(|e| format!("{}: {e}", object.title))?;
            let is = |kind: &str| body["status"]["conditions"].as_array().is_some_and(|all| all.iter().any(|c| c["type"] == kind && c["status"] == "True"));
            if is("Established") {
                break;
            }
            if started.passed() > ESTABLISHED {
                return Err(format!("{}: the API server does not serve the new kind after {} s", object.title, ESTABLISHED.as_secs()));
            }
            crate::cli::Stopwatch::pause(Duration::from_millis(100));
        }
    }
    Ok(())
}

/// Mints a token of the daemon's own account that is valid for `seconds` (the API server may make it another time).
pub fn mint(admin: &Admin, seconds: u64) -> Result<Minted, String> {
    let path = format!("{}/token", built_in("", "serviceaccounts").object(Some("sluice"), "sluice"));
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": seconds.max(600)}}).to_string();
    let reply = admin.call(Verb::Create, &path, Some(&body));
    let Reply::Done(body) = reply else { return Err(explain("the token of ServiceAccount sluice/sluice", &reply)) };
    read_minted(&body)
}

/// Reads the answer to a TokenRequest.
pub fn read_minted(body: &[u8]) -> Result<Minted, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Status {
        token: String,
        expiration_timestamp: String,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        #[serde(default)]
        expiration_seconds: Option<u64>,
    }
    #[derive(Deserialize)]
    struct TokenRequest {
        #[serde(default)]
        spec: Spec,
        status: Status,
    }
    let answer: TokenRequest = serde_json::from_slice(body).map_err(|_| "the API server's answer to a TokenRequest holds no token".to_owned())?;
    let seconds = answer.spec.expiration_seconds.unwrap_or(600);
    Ok(Minted { token: answer.status.token, expires: answer.status.expiration_timestamp, seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_is_marked_named_once_and_has_a_place() {
        let objects = objects().unwrap();
        let mut paths: Vec<&str> = objects.iter().map(|o| o.path.as_str()).collect();
        assert!(objects.len() > 40, "{}", objects.len());
        for object in &objects {
            assert_eq!(found(object.body.as_bytes(), &version()), Ok(Found::Current), "{}", object.title);
        }
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), objects.len());
        assert_eq!(objects[0].path, "/api/v1/namespaces/sluice");
    }

    #[test]
    fn only_what_changes_pods_has_an_older_version() {
        let objects = objects().unwrap();
        let older: Vec<Object> = objects.iter().filter_map(Object::older).collect();
        assert_eq!(older.len(), 2);
        for object in older {
            let body: Value = serde_json::from_str(&object.body).unwrap();
            assert_eq!(body["apiVersion"], "admissionregistration.k8s.io/v1beta1");
            assert!(object.path.starts_with("/apis/admissionregistration.k8s.io/v1beta1/mutatingadmissionpolic"), "{}", object.path);
            assert!(!object.body.contains("v1beta1beta1") && body["metadata"]["name"] == "sluice-offload");
        }
    }

    #[test]
    fn no_cluster_wide_right_on_secrets_or_tokens() {
        let objects = objects().unwrap();
        let sluice = objects.iter().find(|o| o.kind == "ClusterRole" && o.title == "sluice").unwrap();
        let body: Value = serde_json::from_str(&sluice.body).unwrap();
        for rule in body["rules"].as_array().unwrap() {
            for resource in rule["resources"].as_array().unwrap() {
                assert!(!["secrets", "serviceaccounts", "serviceaccounts/token", "*"].contains(&resource.as_str().unwrap()), "{rule}");
            }
            assert!(!rule["verbs"].as_array().unwrap().iter().any(|v| ["*", "escalate", "impersonate"].contains(&v.as_str().unwrap())), "{rule}");
        }
    }

    #[test]
    fn an_object_without_our_mark_is_foreign_whatever_else_it_says() {
        let version = version();
        let with = |labels: &str, annotation: &str| {
            found(format!(r#"{{"metadata":{{"labels":{labels},"annotations":{{"sluice.internal/version":"{annotation}"}}}}}}"#).as_bytes(), &version)
        };
        assert_eq!(with(r#"{"sluice.internal/managed":"true"}"#, &version), Ok(Found::Current));
        assert_eq!(with(r#"{"sluice.internal/managed":"true"}"#, "0.0.1"), Ok(Found::Other));
        assert_eq!(with("{}", &version), Ok(Found::Foreign));
        assert_eq!(found(b"{}", &version), Ok(Found::Foreign));
        assert!(found(b"<html>", &version).is_err());
    }

    #[test]
    fn a_token_answer_is_read_and_never_printed() {
        let minted = read_minted(br#"{"status":{"token":"abc","expirationTimestamp":"2026-11-24T07:00:00Z"}}"#).unwrap();
        assert_eq!(minted.token, "abc");
        assert!(!format!("{minted:?}").contains("abc"));
        assert!(read_minted(b"{}").is_err());
    }

    /// Run by hand against a cluster that may be changed: `SLUICE_TEST_KUBECONFIG=... cargo test -- --ignored a_real_api_server`.
    #[test]
    #[ignore = "needs an API server"]
    #[expect(clippy::disallowed_methods, reason = "says which API server is meant")]
    fn a_real_api_server_is_set_up_once_and_gives_a_token() {
        let admin = Admin::from_kubeconfig(Some(&std::env::var("SLUICE_TEST_KUBECONFIG").unwrap())).unwrap();
        let mut said = Vec::new();
        apply(&admin, &mut |line| said.push(line.to_owned())).unwrap();
        println!("{said:?}");
        apply(&admin, &mut |line| panic!("applied twice: {line}")).unwrap();
        let minted = mint(&admin, 3_600).unwrap();
        assert!(minted.token.len() > 100 && crate::clock::WallTime::parse(&minted.expires).is_some());

        let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/sluice-twin";
        let unmark = r#"{"metadata":{"labels":{"sluice.internal/managed":null}}}"#;
        assert!(matches!(admin.call(Verb::Merge, role, Some(unmark)), Reply::Done(_)));
        let refused = apply(&admin, &mut |_| {}).unwrap_err();
        assert!(refused.contains("ClusterRole sluice-twin exists and was not made by sluice"), "{refused}");
        let remark = r#"{"metadata":{"labels":{"sluice.internal/managed":"true"}}}"#;
        assert!(matches!(admin.call(Verb::Merge, role, Some(remark)), Reply::Done(_)));
    }
}
