//! The calls plans make, in one place: how a creation, a patch bound to a UID and a deletion with preconditions are written.

use super::kind::Uid;
use crate::kube::call::{Body, Call, Cluster, Forge, Make, Resource, Verb};
use serde_json::{Value, json};

pub(crate) fn create(to: Cluster, resource: &Resource, namespace: Option<&str>, body: &Value) -> Call {
    Call { to, verb: Verb::Create, path: resource.collection(namespace), body: Body::Json(body.to_string()) }
}

/// POST of an object made from the one at `path` on `from`.
pub(crate) fn create_from(to: Cluster, resource: &Resource, namespace: &str, from: Cluster, path: String, make: Make) -> Call {
    Call { to, verb: Verb::Create, path: resource.collection(Some(namespace)), body: Body::Forge(Forge { from, path, make }) }
}

pub(crate) fn merge(to: Cluster, path: String, body: &Value) -> Call {
    Call { to, verb: Verb::Merge, path, body: Body::Json(body.to_string()) }
}

/// Merge patch on the status of the object with this UID.
pub(crate) fn status(to: Cluster, path: String, uid: &Uid, status: Value) -> Call {
    merge(to, path + "/status", &json!({"metadata": {"uid": uid.as_str()}, "status": status}))
}

pub(crate) fn look(to: Cluster, path: String) -> Call {
    Call { to, verb: Verb::Get, path, body: Body::None }
}

/// DELETE of the object with this UID; `grace` in seconds, none: the object's own.
pub(crate) fn delete(to: Cluster, path: String, uid: &Uid, grace: Option<u32>) -> Call {
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
    if !uid.is_empty() {
        options["preconditions"] = json!({"uid": uid.as_str()});
    }
    if let Some(grace) = grace {
        options["gracePeriodSeconds"] = json!(grace);
    }
    Call { to, verb: Verb::Delete, path, body: Body::Json(options.to_string()) }
}

/// Merge patch on the status of the object at `path`, made from the one at `source` on `from`.
pub(crate) fn status_from(to: Cluster, path: String, from: Cluster, source: String, make: Make) -> Call {
    Call { to, verb: Verb::Merge, path: path + "/status", body: Body::Forge(Forge { from, path: source, make }) }
}

/// Server-side apply at `path` of what is made from the object at `source` on `from`.
pub(crate) fn apply_from(to: Cluster, path: String, from: Cluster, source: String, make: Make) -> Call {
    Call { to, verb: Verb::Apply, path, body: Body::Forge(Forge { from, path: source, make }) }
}
