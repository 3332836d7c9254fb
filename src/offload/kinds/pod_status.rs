//! What of a provider pod's status goes home, and what home is told when there is no pod to speak of. Pure forges, called inside a running call.
//!
//! Home status is patched field by field (merge patch): qosClass and generations stay the home object's own, hostIP is the virtual node's address, pod
//! addresses are those under which home sees them. A pod with an address outside its cluster's pod prefixes (host network) has none at home.

use super::pod_spec::{objects, pick};
use crate::identity::Prefix;
use crate::kube::call::Unfit;
use crate::offload::facts::Facts;
use crate::offload::ownership::HOME_UID;
use serde_json::{Map, Value, json};
use std::net::Ipv4Addr;

const CONTAINER_STATUS: &[&str] = &["containerID", "image", "imageID", "lastState", "name", "ready", "restartCount", "started", "state"];
const CONDITION: &[&str] = &["lastProbeTime", "lastTransitionTime", "message", "reason", "status", "type"];

/// The patch of the home pod's status, from the provider's pod.
pub(crate) fn home_status(far: &[u8], home_uid: &str, images: &[(Prefix, Prefix)], node: Ipv4Addr) -> Result<String, Unfit> {
    let far: Value = serde_json::from_slice(far).map_err(|_| Unfit::Refused("the provider's pod is no JSON".into()))?;
    if far["metadata"]["annotations"][HOME_UID].as_str() != Some(home_uid) {
        return Err(Unfit::Changed);
    }
    let empty = Map::new();
    let status = far["status"].as_object().unwrap_or(&empty);
    let mut out = Map::new();
    // A merge patch removes what is null: a field the provider's pod no longer has goes at home too.
    for field in ["phase", "reason", "message", "startTime"] {
        out.insert(field.into(), status.get(field).cloned().unwrap_or(Value::Null));
    }
    if out["phase"].is_null() {
        out.insert("phase".into(), json!("Pending"));
    }
    let conditions: Vec<Value> = objects(status, "conditions").map(|c| pick(c, CONDITION).into()).collect();
    out.insert("conditions".into(), conditions.into());
    for field in ["containerStatuses", "initContainerStatuses"] {
        let list: Vec<Value> = objects(status, field).map(|c| pick(c, CONTAINER_STATUS).into()).collect();
        out.insert(field.into(), if list.is_empty() { Value::Null } else { list.into() });
    }
    let address = status.get("podIP").and_then(Value::as_str).and_then(|a| a.parse().ok()).and_then(|a| Facts::image(images, a));
    let (ip, ips) = match address {
        Some(address) => (json!(address.to_string()), json!([{"ip": address.to_string()}])),
        None => (Value::Null, Value::Null),
    };
    out.insert("podIP".into(), ip);
    out.insert("podIPs".into(), ips);
    out.insert("hostIP".into(), json!(node.to_string()));
    out.insert("hostIPs".into(), json!([{"ip": node.to_string()}]));
    Ok(json!({"metadata": {"uid": home_uid}, "status": out}).to_string())
}

/// The status of a home pod that waits, or will never run there, with why.
pub(crate) fn held(phase: &str, reason: &str, message: &str) -> Value {
    json!({"phase": phase, "reason": reason, "message": message})
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: &str = include_str!("golden/far_pod.json");

    #[test]
    fn status_goes_home_field_by_field_with_addresses_as_home_sees_them() {
        let images = [("10.42.0.0/16".parse().expect("prefix"), "10.71.0.0/16".parse().expect("prefix"))];
        let patch = home_status(FAR.as_bytes(), "home-1", &images, Ipv4Addr::new(10, 70, 3, 1)).expect("a patch");
        let expected: Value = serde_json::from_str(include_str!("golden/home_status.json")).expect("golden");
        assert_eq!(serde_json::from_str::<Value>(&patch).expect("JSON"), expected);
    }

    #[test]
    fn the_status_of_another_pod_never_goes_home() {
        assert_eq!(home_status(FAR.as_bytes(), "home-2", &[], Ipv4Addr::LOCALHOST), Err(Unfit::Changed));
        assert!(matches!(home_status(b"[", "home-1", &[], Ipv4Addr::LOCALHOST), Err(Unfit::Refused(_))));
    }

    #[test]
    fn a_host_network_address_has_no_image() {
        let patch = home_status(FAR.as_bytes(), "home-1", &[], Ipv4Addr::new(10, 70, 3, 1)).expect("a patch");
        let patch: Value = serde_json::from_str(&patch).expect("JSON");
        assert_eq!((&patch["status"]["podIP"], &patch["status"]["podIPs"]), (&Value::Null, &Value::Null));
    }
}
