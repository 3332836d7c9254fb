//! EndpointSlices: home's own endpoints to the provider as a ShadowEndpointSlice, and there, as a real slice with the addresses under which the provider sees them.
//!
//! Home tells endpoints inside its own pod prefixes and not on that provider's node (no host-network pods), and other providers' pods under the
//! transit addresses that `transit` allotted. The provider takes only addresses inside that consumer's prefixes, and blanks `ready` while the consumer cannot be reached.

use super::pod_spec::{objects, pick};
use crate::identity::Prefix;
use crate::kube::call::Unfit;
use crate::offload::facts::Facts;
use crate::offload::kind::{self, Seen, SeenView};
use crate::offload::ownership;
use crate::offload::transit::Pair;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::net::Ipv4Addr;

/// The label that keeps Kubernetes' own controllers away from our slices.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Its value, as Liqo has it.
pub(crate) const MANAGER: &str = "endpointslice.reflection.liqo.io";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A slice at home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SliceView {
    /// Of everything but the endpoints.
    pub version: u64,
    pub skipped: bool,
    /// Address, digest of its conditions, digest of its node's name; at most 1,000.
    pub endpoints: Box<[(Ipv4Addr, u64, u64)]>,
}

impl SliceView {
    /// What is told to a provider: its version, and whether there is anything to tell.
    pub(crate) fn filtered(&self, prefixes: &[Prefix], node: &str, others: &[Pair]) -> (u64, bool) {
        let node = ownership::digest([node.as_bytes()]);
        let mut bytes = self.version.to_le_bytes().to_vec();
        let mut any = false;
        for (address, conditions, on) in &self.endpoints {
            let Some(address) = told(*address, *on == node, prefixes, others) else { continue };
            any = true;
            bytes.extend(address.octets());
            bytes.extend(conditions.to_le_bytes());
            bytes.extend(on.to_le_bytes());
        }
        (ownership::digest([&bytes[..]]), any)
    }
}

pub(crate) fn read(json: &[u8]) -> Result<Seen, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Slice<'a> {
        #[serde(borrow)]
        metadata: kind::Meta<'a>,
        #[serde(default)]
        address_type: String,
        #[serde(borrow, default)]
        ports: Option<&'a RawValue>,
        #[serde(borrow, default)]
        endpoints: Option<Vec<Endpoint<'a>>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Endpoint<'a> {
        #[serde(default)]
        addresses: Vec<String>,
        #[serde(borrow, default)]
        conditions: Option<&'a RawValue>,
        #[serde(default)]
        node_name: Option<String>,
    }
    let slice: Slice = kind::parse(json)?;
    let service = slice.metadata.label(SERVICE_NAME).unwrap_or_default();
    let version = ownership::digest([slice.ports.map_or("", RawValue::get).as_bytes(), service.as_bytes()]);
    let skipped = service.is_empty()
        || slice.address_type != "IPv4"
        || slice.metadata.skipped()
        || slice.metadata.deletion_timestamp.is_some()
        // Made from another cluster's endpoints: never reflected again.
        || slice.metadata.ours()
        || slice.metadata.label(MANAGED_BY) == Some(MANAGER);
    let endpoints = slice.endpoints.into_iter().flatten().take(1000).filter_map(|e| {
        let address = e.addresses.first()?.parse().ok()?;
        let node = ownership::digest([e.node_name.unwrap_or_default().as_bytes()]);
        Some((address, ownership::digest([e.conditions.map_or("", RawValue::get).as_bytes()]), node))
    });
    let view = SliceView { version, skipped, endpoints: endpoints.collect() };
    slice.metadata.seen(SeenView::Slice(view))
}

/// The content of a ShadowEndpointSlice, from a slice at home.
pub(crate) fn shadow(source: &Value, prefixes: &[Prefix], node: &str, others: &[Pair]) -> Result<Map<String, Value>, Unfit> {
    let slice = source.as_object().ok_or_else(|| Unfit::Refused("the EndpointSlice is no JSON object".into()))?;
    let endpoints: Vec<Value> = objects(slice, "endpoints")
        .filter_map(|e| {
            let there = e.get("nodeName").and_then(Value::as_str) == Some(node);
            let address = told(first_address(e)?, there, prefixes, others)?;
            Some(json!({"addresses": [address.to_string()], "conditions": e.get("conditions").cloned().unwrap_or_else(|| json!({}))}))
        })
        .collect();
    let mut template = pick(slice, &["addressType", "ports"]);
    template.insert("endpoints".into(), endpoints.into());
    Ok([("spec".to_string(), json!({"template": template}))].into_iter().collect())
}

/// The content of a real EndpointSlice, from a consumer's ShadowEndpointSlice. Endpoints outside the consumer's prefixes are left out and counted.
pub(crate) fn render(source: &Value, images: &[(Prefix, Prefix)], reachable: bool) -> Result<(Map<String, Value>, usize), Unfit> {
    let refuse = || Unfit::Refused("the ShadowEndpointSlice has no template with addressType IPv4".into());
    let template = source["spec"]["template"].as_object().ok_or_else(refuse)?;
    if template.get("addressType").and_then(Value::as_str) != Some("IPv4") {
        return Err(refuse());
    }
    let mut refused = 0;
    let mut endpoints = Vec::new();
    for endpoint in objects(template, "endpoints").take(1000) {
        let Some(address) = first_address(endpoint).and_then(|a| Facts::image(images, a)) else {
            refused += 1;
            continue;
        };
        let said = |field: &str| endpoint.get("conditions").and_then(|c| c.get(field)).and_then(Value::as_bool);
        let ready = reachable && said("ready") != Some(false);
        let serving = reachable && said("serving").unwrap_or(ready);
        let conditions = json!({"ready": ready, "serving": serving, "terminating": said("terminating").unwrap_or(false)});
        endpoints.push(json!({"addresses": [address.to_string()], "conditions": conditions}));
    }
    let ports: Vec<Value> = objects(template, "ports").take(100).map(|p| pick(p, &["appProtocol", "name", "port", "protocol"]).into()).collect();
    let mut out = Map::new();
    out.insert("addressType".into(), json!("IPv4"));
    out.insert("endpoints".into(), endpoints.into());
    out.insert("ports".into(), ports.into());
    Ok((out, refused))
}

/// The address under which a provider is told of an endpoint, if it is: `there`, on its own node, it is no news.
fn told(address: Ipv4Addr, there: bool, prefixes: &[Prefix], others: &[Pair]) -> Option<Ipv4Addr> {
    if !there && prefixes.iter().any(|p| p.contains(address)) {
        return Some(address);
    }
    others.iter().find(|(_, image)| *image == address).map(|(transit, _)| *transit)
}

fn first_address(endpoint: &Map<String, Value>) -> Option<Ipv4Addr> {
    endpoint.get("addresses")?.get(0)?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    #[test]
    fn only_pods_of_this_cluster_are_told() {
        let source: Value = serde_json::from_str(include_str!("golden/slice.json")).expect("golden");
        let expected: Value = serde_json::from_str(include_str!("golden/shadow_slice.json")).expect("golden");
        assert_eq!(Value::from(shadow(&source, &[prefix("10.42.0.0/16")], "hub", &[]).expect("content")), expected);
        let SeenView::Slice(view) = read(include_bytes!("golden/slice.json")).expect("readable").view else { panic!("a slice") };
        assert_eq!((view.endpoints.len(), view.skipped), (4, false));
        assert!(view.filtered(&[prefix("10.42.0.0/16")], "hub", &[]).1);
        assert!(!view.filtered(&[prefix("10.99.0.0/16")], "hub", &[]).1);
    }

    #[test]
    fn a_provider_takes_only_addresses_of_that_consumer_and_blanks_them_when_it_is_away() {
        let source: Value = json!({"spec": {"template": {"addressType": "IPv4", "ports": [{"port": 80, "nonsense": 1}], "endpoints": [
            {"addresses": ["10.42.1.2"], "conditions": {"ready": true}}, {"addresses": ["10.42.1.3"], "conditions": {"ready": false}},
            {"addresses": ["169.254.169.254"]}, {"addresses": ["10.43.0.1"]}, {"addresses": []}, {}]}}});
        let images = [(prefix("10.42.0.0/16"), prefix("10.71.0.0/16"))];
        let (out, refused) = render(&source, &images, true).expect("rendered");
        assert_eq!(refused, 4);
        assert_eq!(
            out["endpoints"],
            json!([
            {"addresses": ["10.71.1.2"], "conditions": {"ready": true, "serving": true, "terminating": false}},
            {"addresses": ["10.71.1.3"], "conditions": {"ready": false, "serving": false, "terminating": false}}])
        );
        assert_eq!(out["ports"], json!([{"port": 80}]));
        let (away, _) = render(&source, &images, false).expect("rendered");
        assert_eq!(away["endpoints"][0]["conditions"]["ready"], json!(false));
        assert!(render(&json!({"spec": 3}), &images, true).is_err());
    }
}
