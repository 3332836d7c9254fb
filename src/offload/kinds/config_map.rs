//! ConfigMaps and Secrets: which ones a pod uses, and the copy at the provider. Only those that pods there use are copied; service account tokens never.

use super::pod::Reference;
use super::pod_spec::{keys, pick};
use crate::kube::call::Unfit;
use crate::offload::kind::{self, Seen, SeenView, SourceView};
use crate::offload::ownership;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The most references of one pod that are followed; further ones are left out.
const REFERENCES: usize = 64;

/// The parts of a pod spec that name ConfigMaps and Secrets.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct References {
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
    volumes: Option<Vec<Volume>>,
    image_pull_secrets: Option<Vec<Named>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    env: Option<Vec<Env>>,
    env_from: Option<Vec<EnvFrom>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Env {
    value_from: Option<EnvSource>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct EnvSource {
    config_map_key_ref: Option<Named>,
    secret_key_ref: Option<Named>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct EnvFrom {
    config_map_ref: Option<Named>,
    secret_ref: Option<Named>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Volume {
    name: String,
    config_map: Option<Named>,
    secret: Option<SecretVolume>,
    projected: Option<Projected>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Named {
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct SecretVolume {
    secret_name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Projected {
    sources: Option<Vec<Projection>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Projection {
    config_map: Option<Named>,
    secret: Option<Named>,
}

impl References {
    /// What the pod uses, sorted and without doubles.
    pub(crate) fn collect(self) -> Box<[Reference]> {
        let mut found = BTreeSet::new();
        let mut add = |secret: bool, name: Option<String>| {
            if let Some(name) = name.filter(|n| !n.is_empty() && n.len() <= 253)
                && found.len() < REFERENCES
                // Every namespace has its own, made by Kubernetes.
                && (secret || name != "kube-root-ca.crt")
            {
                found.insert(Reference { secret, name: name.into() });
            }
        };
        for container in self.init_containers.into_iter().chain(self.containers).flatten() {
            for from in container.env.into_iter().flatten().filter_map(|e| e.value_from) {
                add(false, from.config_map_key_ref.map(|n| n.name));
                add(true, from.secret_key_ref.map(|n| n.name));
            }
            for from in container.env_from.into_iter().flatten() {
                add(false, from.config_map_ref.map(|n| n.name));
                add(true, from.secret_ref.map(|n| n.name));
            }
        }
        for volume in self.volumes.into_iter().flatten().filter(|v| !v.name.starts_with("kube-api-access-")) {
            add(false, volume.config_map.map(|n| n.name));
            add(true, volume.secret.map(|s| s.secret_name));
            for source in volume.projected.and_then(|p| p.sources).into_iter().flatten() {
                add(false, source.config_map.map(|n| n.name));
                add(true, source.secret.map(|n| n.name));
            }
        }
        for secret in self.image_pull_secrets.into_iter().flatten() {
            add(true, Some(secret.name));
        }
        found.into_iter().collect()
    }
}

pub(crate) fn read(json: &[u8]) -> Result<Seen, String> {
    kind::read_source(json)
}

pub(crate) fn read_secret(json: &[u8]) -> Result<Seen, String> {
    #[derive(Deserialize)]
    struct Secret<'a> {
        #[serde(borrow)]
        metadata: kind::Meta<'a>,
        #[serde(default)]
        r#type: String,
    }
    let secret: Secret = kind::parse(json)?;
    let version = ownership::digest([secret.metadata.resource_version.as_bytes()]);
    let skipped = secret.metadata.skipped() || secret.metadata.deletion_timestamp.is_some() || never(&secret.r#type);
    secret.metadata.seen(SeenView::Source(SourceView { version, skipped }))
}

fn never(kind: &str) -> bool {
    kind == "kubernetes.io/service-account-token" || kind == "bootstrap.kubernetes.io/token"
}

/// The fields of the copy of a ConfigMap (`secret` false) or Secret, without metadata.
pub(crate) fn content(source: &Value, secret: bool) -> Result<Map<String, Value>, Unfit> {
    let object = source.as_object().ok_or_else(|| Unfit::Refused("the object is no JSON object".into()))?;
    if !secret {
        return Ok(pick(object, &["binaryData", "data", "immutable"]));
    }
    if never(source["type"].as_str().unwrap_or_default()) {
        return Err(Unfit::Refused("service account tokens are never copied to another cluster".into()));
    }
    Ok(pick(object, &["data", "immutable", "type"]))
}

/// The labels and annotations of a copy: the source's, less what is ours or large, and our marks.
pub(crate) fn meta(source: &Value, marks: &BTreeMap<&'static str, String>) -> Value {
    let mut labels = keys(source.get("metadata"), "labels", |_| true);
    labels.extend(marks.iter().map(|(k, v)| (k.to_string(), json!(v))));
    json!({"labels": labels})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found_wherever_a_pod_may_name_them() {
        let spec = json!({
            "containers": [{"env": [{"name": "a", "valueFrom": {"configMapKeyRef": {"name": "c1", "key": "k"}}}, {"name": "b", "value": "x"}],
                "envFrom": [{"secretRef": {"name": "s1"}}, {"configMapRef": {"name": "c1"}}]}],
            "initContainers": [{"env": [{"name": "a", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}}]}],
            "volumes": [{"name": "v1", "configMap": {"name": "c2"}}, {"name": "v2", "secret": {"secretName": "s3"}},
                {"name": "v3", "projected": {"sources": [{"secret": {"name": "s4"}}, {"configMap": {"name": "kube-root-ca.crt"}}]}},
                {"name": "kube-api-access-1", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}}],
            "imagePullSecrets": [{"name": "s5"}],
        });
        let references: References = serde_json::from_value(spec).expect("references");
        let found: Vec<String> = references.collect().iter().map(|r| format!("{}{}", if r.secret { "secret/" } else { "" }, r.name)).collect();
        assert_eq!(found, ["c1", "c2", "secret/s1", "secret/s2", "secret/s3", "secret/s4", "secret/s5"]);
    }

    #[test]
    fn tokens_are_never_copied() {
        assert!(content(&json!({"type": "kubernetes.io/service-account-token", "data": {}}), true).is_err());
        assert_eq!(
            Value::from(content(&json!({"type": "Opaque", "data": {"a": "Yg=="}, "stringData": {}}), true).expect("content")),
            json!({"type": "Opaque", "data": {"a": "Yg=="}})
        );
    }
}
