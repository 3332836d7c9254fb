//! Which home namespaces are offloaded where, and under which names: NamespaceOffloadings, NamespaceMaps and virtual-node labels in, links out.
//!
//! What a link calls for is done in [`super::space`] (home) and, at the provider, in [`super::twin`].

use super::facts::{Facts, Link, Wake};
use super::kind::{self, Seen, SeenView, Uid};
use super::ownership::{self, BY_MAP, ORIGINAL_NAME, OWN_UID, REMOTE_CLUSTER, SCHEDULING};
use crate::budget;
use crate::identity::PeerId;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A namespace of this cluster.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct NamespaceView {
    pub uid: Uid,
    pub deleting: bool,
    /// Carries our mark.
    pub marked: bool,
    /// Made by Sluice (a tenant's, a twin, our own), or never offloaded: the mark does not say that it is.
    pub made: bool,
    pub scheduling: bool,
    /// The consumer whose twin this is; empty: none.
    pub consumer: Box<str>,
    pub by_map: Box<str>,
    pub original: Box<str>,
    pub recorded_uid: Box<str>,
}

/// Which pods may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    Local,
    Remote,
    LocalAndRemote,
}

/// How the twin is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mapping {
    Default,
    Same,
    Selected(Box<str>),
}

/// A NamespaceOffloading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OffloadingView {
    pub uid: Uid,
    pub generation: i64,
    pub deleting: bool,
    pub strategy: Strategy,
    pub mapping: Mapping,
    /// Alternatives of requirements; none: every provider.
    pub terms: Vec<Vec<Requirement>>,
    /// Clusters its status speaks of.
    pub reported: Vec<Box<str>>,
    /// What in it cannot be honoured.
    pub problem: Option<String>,
}

/// One requirement on the labels of a virtual node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Requirement {
    key: String,
    operator: String,
    #[serde(default)]
    values: Vec<String>,
}

/// How far a mapping has come, in Liqo's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Accepted,
    CreationLoopBackOff,
    Terminating,
}

impl Phase {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Phase::Accepted => "Accepted",
            Phase::CreationLoopBackOff => "CreationLoopBackOff",
            Phase::Terminating => "Terminating",
        }
    }
}

/// A NamespaceMap: home namespace to twin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MapView {
    pub uid: Uid,
    pub desired: BTreeMap<Box<str>, Box<str>>,
    pub current: BTreeMap<Box<str>, Mapped>,
}

/// What has become of one mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapped {
    pub twin: Box<str>,
    pub phase: Phase,
    /// The twin's UID, empty if there is none: a twin that was replaced is seen to be another even if no phase between was seen.
    pub uid: Uid,
}

pub(crate) fn read_namespace(json: &[u8]) -> Result<Seen, String> {
    let meta = kind::parse::<kind::OnlyMeta>(json)?.metadata;
    let text = |value: Option<&str>| -> Box<str> { value.filter(|v| v.len() <= 253).unwrap_or_default().into() };
    let view = NamespaceView {
        uid: kind::uid(&meta.uid)?,
        deleting: meta.deletion_timestamp.is_some(),
        marked: meta.ours(),
        made: meta.label(REMOTE_CLUSTER).is_some() || ownership::forbidden_namespace(&meta.name),
        scheduling: meta.label(SCHEDULING) == Some("true"),
        consumer: text(meta.annotation(BY_MAP).and(meta.label(REMOTE_CLUSTER))),
        by_map: text(meta.annotation(BY_MAP)),
        original: text(meta.annotation(ORIGINAL_NAME)),
        recorded_uid: text(meta.annotation(OWN_UID)),
    };
    meta.seen(SeenView::Namespace(view))
}

/// Keys and values a cluster selector may have: as many as the CRD lets through (4 terms of 8 expressions of 32 values).
const SELECTOR_PARTS: usize = 4 * 8 * (1 + 32);

pub(crate) fn read_offloading(json: &[u8]) -> Result<Seen, String> {
    #[derive(Deserialize)]
    #[serde(bound(deserialize = "'de: 'a"))]
    struct Object<'a> {
        #[serde(borrow)]
        metadata: kind::Meta<'a>,
        #[serde(default, deserialize_with = "kind::or_default")]
        spec: Spec,
        #[serde(default, deserialize_with = "kind::or_default")]
        status: Status,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Spec {
        namespace_mapping_strategy: String,
        remote_namespace_name: String,
        pod_offloading_strategy: String,
        cluster_selector: Option<Selector>,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Selector {
        node_selector_terms: Option<Vec<Term>>,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Term {
        match_expressions: Option<Vec<Requirement>>,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Status {
        remote_namespaces_conditions: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    }
    let object: Object = kind::parse(json)?;
    let mut problem = None;
    let strategy = match object.spec.pod_offloading_strategy.as_str() {
        "Local" => Strategy::Local,
        "Remote" => Strategy::Remote,
        "" | "LocalAndRemote" => Strategy::LocalAndRemote,
        other => {
            problem = Some(format!("podOffloadingStrategy {other:?} is none of Local, Remote, LocalAndRemote"));
            Strategy::Local
        }
    };
    let mapping = match object.spec.namespace_mapping_strategy.as_str() {
        "" | "DefaultName" => Mapping::Default,
        "EnforceSameName" => Mapping::Same,
        "SelectedName" => Mapping::Selected(super::facts::clipped(&object.spec.remote_namespace_name, 253).into()),
        other => {
            problem = Some(format!("namespaceMappingStrategy {other:?} is none of DefaultName, EnforceSameName, SelectedName"));
            Mapping::Default
        }
    };
    let terms: Vec<Vec<Requirement>> = object
        .spec
        .cluster_selector
        .and_then(|s| s.node_selector_terms)
        .unwrap_or_default()
        .into_iter()
        .map(|t| t.match_expressions.unwrap_or_default())
        .collect();
    if terms.iter().map(|t| t.iter().map(|r| 1 + r.values.len()).sum::<usize>()).sum::<usize>() > SELECTOR_PARTS {
        return Err(format!("the cluster selector has more than {SELECTOR_PARTS} parts"));
    }
    let reported = object.status.remote_namespaces_conditions.unwrap_or_default().into_keys().take(budget::PEERS).map(Into::into).collect();
    let view = OffloadingView {
        uid: kind::uid(&object.metadata.uid)?,
        generation: object.metadata.generation,
        deleting: object.metadata.deletion_timestamp.is_some(),
        strategy,
        mapping,
        terms,
        reported,
        problem,
    };
    object.metadata.seen(SeenView::Offloading(Box::new(view)))
}

pub(crate) fn read_map(json: &[u8]) -> Result<Seen, String> {
    #[derive(Deserialize)]
    struct Object<'a> {
        #[serde(borrow)]
        metadata: kind::Meta<'a>,
        #[serde(default, deserialize_with = "kind::or_default")]
        spec: Spec,
        #[serde(default, deserialize_with = "kind::or_default")]
        status: Status,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Spec {
        desired_mapping: Option<BTreeMap<Box<str>, Box<str>>>,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Status {
        current_mapping: Option<BTreeMap<Box<str>, Current>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Current {
        #[serde(default)]
        remote_namespace: Box<str>,
        #[serde(default)]
        phase: Box<str>,
        #[serde(default)]
        remote_namespace_uid: Box<str>,
    }
    let object: Object = kind::parse(json)?;
    let desired = object.spec.desired_mapping.unwrap_or_default();
    let current = object.status.current_mapping.unwrap_or_default();
    if desired.len() > budget::NAMESPACES || current.len() > 2 * budget::NAMESPACES {
        return Err(format!("more than {} namespaces are mapped", budget::NAMESPACES));
    }
    if desired.iter().any(|(home, twin)| home.len() > 63 || twin.len() > 63) {
        return Err("a namespace name has more than 63 characters".into());
    }
    let phase = |text: &str| match text {
        "Accepted" => Phase::Accepted,
        "Terminating" => Phase::Terminating,
        _ => Phase::CreationLoopBackOff,
    };
    let mapped = |c: Current| Mapped { phase: phase(&c.phase), twin: c.remote_namespace, uid: kind::uid(&c.remote_namespace_uid).unwrap_or_default() };
    let current = current.into_iter().map(|(home, c)| (home, mapped(c))).collect();
    object.metadata.seen(SeenView::Map(Box::new(MapView { uid: kind::uid(&object.metadata.uid)?, desired, current })))
}

/// Whether a node with these labels is selected: any term, all of its requirements, as a node selector means it.
pub(crate) fn selected(terms: &[Vec<Requirement>], labels: &BTreeMap<String, String>) -> bool {
    let holds = |r: &Requirement| {
        let value = labels.get(&r.key);
        let number = |text: Option<&String>| text.and_then(|t| t.parse::<i64>().ok());
        match r.operator.as_str() {
            "In" => value.is_some_and(|v| r.values.contains(v)),
            "NotIn" => value.is_none_or(|v| !r.values.contains(v)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => number(value).zip(number(r.values.first())).is_some_and(|(a, b)| a > b),
            "Lt" => number(value).zip(number(r.values.first())).is_some_and(|(a, b)| a < b),
            _ => false,
        }
    };
    terms.is_empty() || terms.iter().any(|term| !term.is_empty() && term.iter().all(holds))
}

/// The twin's name, or why there can be none.
pub(crate) fn twin_of(facts: &Facts, namespace: &str, offloading: &OffloadingView) -> Result<String, String> {
    if let Some(problem) = &offloading.problem {
        return Err(problem.clone());
    }
    if ownership::forbidden_namespace(namespace) {
        return Err(format!("namespace {namespace} is a system namespace and is never offloaded"));
    }
    if facts.is_twin(namespace) {
        return Err("this namespace is itself the twin of another cluster's; twins are never offloaded again".into());
    }
    let twin = match &offloading.mapping {
        Mapping::Default => ownership::twin_name(namespace, &facts.home),
        Mapping::Same => namespace.to_string(),
        Mapping::Selected(name) => name.to_string(),
    };
    if twin.len() > 63 {
        return Err(format!("the twin's name {twin} has {} characters, a namespace name has at most 63; choose a shorter one with SelectedName", twin.len()));
    }
    if !ownership::is_label(&twin) {
        return Err("the twin's name is no DNS label".into());
    }
    Ok(twin)
}

/// Brings the links in line with NamespaceOffloadings, labels and providers.
pub(crate) fn relink(facts: &mut Facts) {
    if !facts.namespaces_synced || !facts.offloadings_synced {
        return;
    }
    let mut wanted: BTreeMap<(PeerId, Box<str>), Box<str>> = BTreeMap::new();
    for (namespace, offloading) in &facts.offloadings {
        let Ok(twin) = twin_of(facts, namespace, offloading) else { continue };
        if offloading.deleting {
            continue;
        }
        for (peer, provider) in &facts.providers {
            let known = provider.node_synced;
            let before = facts.links.contains_key(&(*peer, namespace.clone()));
            let chosen = if known { selected(&offloading.terms, &provider.labels) } else { before };
            if chosen && provider.leaving.is_none() {
                wanted.insert((*peer, namespace.clone()), twin.as_str().into());
            }
        }
    }
    let gone: Vec<(PeerId, Box<str>)> = facts.links.iter().filter(|(key, link)| wanted.get(key) != Some(&link.twin)).map(|(key, _)| key.clone()).collect();
    for key in gone {
        facts.links.remove(&key);
        link_changed(facts, key);
    }
    for (key, twin) in wanted {
        if !facts.links.contains_key(&key) {
            facts.links.insert(key.clone(), Link { twin, uid: Uid::new(), phase: None, far_synced: false, sweep: 0, sweep_at: None });
            link_changed(facts, key);
        }
    }
    take_phases(facts);
}

fn link_changed(facts: &mut Facts, (peer, namespace): (PeerId, Box<str>)) {
    facts.links_changed = true;
    facts.wake(Wake::Link(peer, namespace));
}

/// Brings what the providers' maps say into the links.
pub(crate) fn take_phases(facts: &mut Facts) {
    let mut changed = Vec::new();
    for ((peer, namespace), link) in &mut facts.links {
        let map = facts.providers.get(peer).and_then(|p| p.map.as_ref());
        let mapped = map.and_then(|m| m.current.get(namespace)).filter(|m| m.twin == link.twin);
        let (phase, uid) = (mapped.map(|m| m.phase), mapped.map(|m| m.uid.clone()).unwrap_or_default());
        if link.phase != phase || link.uid != uid {
            let replaced = link.uid != uid;
            (link.phase, link.uid) = (phase, uid);
            if replaced || phase != Some(Phase::Accepted) {
                // What was known of the twin's content is no longer.
                (link.far_synced, link.sweep, link.sweep_at) = (false, 0, None);
            }
            changed.push((*peer, namespace.clone()));
        }
    }
    changed.into_iter().for_each(|key| link_changed(facts, key));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(key: &str, operator: &str, values: &[&str]) -> Requirement {
        Requirement { key: key.into(), operator: operator.into(), values: values.iter().map(|v| v.to_string()).collect() }
    }

    #[test]
    fn selectors_mean_what_node_selectors_mean() {
        let labels = [("region", "eu"), ("rank", "5")].into_iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        for (requirement, holds) in [
            (requirement("region", "In", &["eu", "us"]), true),
            (requirement("region", "NotIn", &["eu"]), false),
            (requirement("gpu", "NotIn", &["yes"]), true),
            (requirement("gpu", "Exists", &[]), false),
            (requirement("gpu", "DoesNotExist", &[]), true),
            (requirement("rank", "Gt", &["4"]), true),
            (requirement("rank", "Lt", &["4"]), false),
            (requirement("rank", "Nonsense", &["4"]), false),
        ] {
            assert_eq!(selected(&[vec![requirement.clone()]], &labels), holds, "{requirement:?}");
        }
        assert!(selected(&[], &labels));
        assert!(!selected(&[vec![]], &labels));
    }

    #[test]
    fn an_offloading_without_fields_has_liqos_defaults() {
        let seen = read_offloading(br#"{"metadata":{"name":"offloading","namespace":"shop","uid":"u","generation":2}}"#).expect("readable");
        let SeenView::Offloading(view) = seen.view else { panic!("an offloading") };
        assert_eq!((view.strategy, view.mapping, view.terms.len(), view.generation), (Strategy::LocalAndRemote, Mapping::Default, 0, 2));
    }

    #[test]
    fn nonsense_in_a_map_is_refused_without_a_panic() {
        for json in ["", "[]", "{\"metadata\":7}", "{\"metadata\":{\"name\":\"a\"},\"spec\":{\"desiredMapping\":[1]}}"] {
            assert!(read_map(json.as_bytes()).is_err(), "{json}");
        }
        let long = format!(r#"{{"metadata":{{"name":"a"}},"spec":{{"desiredMapping":{{"a":"{}"}}}}}}"#, "x".repeat(64));
        assert!(read_map(long.as_bytes()).is_err());
    }
}
