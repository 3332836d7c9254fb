//! A Service's copy at the provider: selector and ports, so that the provider makes the slices of pods there itself. No cluster address but `None`, no node
//! port, no external address; NodePort and LoadBalancer become ClusterIP there.

use super::pod_spec::{objects, pick};
use crate::kube::call::Unfit;
use crate::offload::kind::{self, Seen};
use serde_json::{Map, Value, json};

const FIELDS: &[&str] =
    &["internalTrafficPolicy", "ipFamilyPolicy", "publishNotReadyAddresses", "selector", "sessionAffinity", "sessionAffinityConfig", "trafficDistribution"];
const PORT: &[&str] = &["appProtocol", "name", "port", "protocol", "targetPort"];

pub(crate) fn read(json: &[u8]) -> Result<Seen, String> {
    kind::read_source(json)
}

/// The spec of the copy.
pub(crate) fn content(source: &Value) -> Result<Map<String, Value>, Unfit> {
    let spec = source["spec"].as_object().ok_or_else(|| Unfit::Refused("the Service has no spec".into()))?;
    let mut out = pick(spec, FIELDS);
    if spec.get("type").and_then(Value::as_str) == Some("ExternalName") {
        out = pick(spec, &["externalName"]);
        out.insert("type".into(), json!("ExternalName"));
    } else {
        out.insert("type".into(), json!("ClusterIP"));
        if spec.get("clusterIP").and_then(Value::as_str) == Some("None") {
            out.insert("clusterIP".into(), json!("None"));
        }
    }
    let ports: Vec<Value> = objects(spec, "ports").map(|p| pick(p, PORT).into()).collect();
    if !ports.is_empty() {
        out.insert("ports".into(), ports.into());
    }
    Ok([("spec".to_string(), Value::from(out))].into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_no_address_and_no_way_in_from_outside() {
        let source: Value = serde_json::from_str(include_str!("golden/service.json")).expect("golden");
        let expected: Value = serde_json::from_str(include_str!("golden/service_copy.json")).expect("golden");
        assert_eq!(Value::from(content(&source).expect("content")), expected);
        let headless = content(&json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}})).expect("content");
        assert_eq!(headless["spec"], json!({"type": "ClusterIP", "clusterIP": "None"}));
    }
}
