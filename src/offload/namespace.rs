//! Which home namespaces are offloaded where, and under which names: NamespaceOffloadings and virtual-node labels in, links out; labels, binding and status at home;
//! the NamespaceMap at each provider. Without a NamespaceOffloading everything of ours goes: binding first, then the labels. No finalizer is ever set.

use super::calls;
use super::facts::{Facts, Link, Provider, Wake};
use super::kind::{self, BINDINGS, HERE, Key, MAPS, NAMESPACES, Next, OFFLOADINGS, Op, Seen, SeenView, Sort, Step, Uid};
use super::ownership::{self, BY_MAP, DAEMON, MANAGED, ORIGINAL_NAME, OWN_UID, REMOTE_CLUSTER, SCHEDULING};
use crate::budget;
use crate::clock::Now;
use crate::identity::{ClusterId, PeerId};
use crate::kube::call::{Call, Cluster};
use crate::kube::reply::Reply;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

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

/// What is remembered of an offloaded namespace.
#[derive(Debug, Default)]
pub(crate) struct SpaceRow {
    bound: bool,
    unbound: bool,
    told: u64,
    telling: u64,
}

/// What is remembered of a map at a provider: nothing; all is in the facts.
#[derive(Debug, Default)]
pub(crate) struct MapRow;

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
    if terms.iter().map(|t| t.iter().map(|r| 1 + r.values.len()).sum::<usize>()).sum::<usize>() > 256 {
        return Err("the cluster selector has more than 256 parts".into());
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
fn twin_of(facts: &Facts, namespace: &str, offloading: &OffloadingView) -> Result<String, String> {
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

pub(crate) fn plan_space(facts: &mut Facts, key: &Key, row: &mut SpaceRow, now: Now) -> Step {
    if !facts.namespaces_synced || !facts.offloadings_synced {
        return Step::Settled;
    }
    let name = &key.name;
    let Some(namespace) = facts.namespaces.get(name) else { return Step::Forget };
    if namespace.deleting {
        return Step::Settled;
    }
    let offloading = facts.offloadings.get(name).filter(|o| !o.deleting);
    let refusal = offloading.and_then(|o| twin_of(facts, name, o).err());
    let twin = !namespace.consumer.is_empty();
    if let Some(offloading) = offloading.filter(|_| refusal.is_none() && !facts.providers.is_empty()) {
        let scheduling = offloading.strategy != Strategy::Local;
        // The policy admits the label only where the account is bound, and the binding only where a NamespaceOffloading stands.
        if !row.bound {
            return Step::Do(Op::Bind(0), bind(name, "sluice-home", "sluice-home", DAEMON, DAEMON));
        }
        row.unbound = false;
        if !namespace.marked || namespace.scheduling != scheduling {
            let value = if scheduling { json!("true") } else { Value::Null };
            let body = json!({"metadata": {"uid": namespace.uid.as_str(), "labels": {MANAGED: "true", SCHEDULING: value}}});
            return Step::Do(Op::Label, calls::merge(Cluster::Home, NAMESPACES.object(None, name), &body));
        }
    } else if namespace.marked && !twin && !namespace.made {
        if !row.unbound {
            return Step::Do(Op::Unbind, calls::delete(Cluster::Home, BINDINGS.object(Some(name), "sluice-home"), &Uid::new(), None));
        }
        let body = json!({"metadata": {"uid": namespace.uid.as_str(), "labels": {MANAGED: null, SCHEDULING: null}}});
        return Step::Do(Op::Label, calls::merge(Cluster::Home, NAMESPACES.object(None, name), &body));
    }
    let Some(offloading) = offloading else { return Step::Forget };
    let (told, status) = status(facts, name, offloading, refusal, now);
    if row.told == told {
        return Step::Settled;
    }
    row.telling = told;
    let path = OFFLOADINGS.object(Some(name), "offloading");
    Step::Do(Op::Status, calls::status(Cluster::Home, path, &offloading.uid, status))
}

pub(crate) fn settle_space(facts: &mut Facts, key: &Key, row: &mut SpaceRow, op: Op, reply: &Reply) -> Next {
    match (op, reply) {
        (Op::Label, Reply::Done(body)) => {
            if let Ok(Seen { view: SeenView::Namespace(view), version, .. }) = read_namespace(body)
                && facts.namespaces_at.allows(version)
            {
                facts.namespaces.insert(key.name.clone(), view);
                return Next::After(Duration::from_millis(1));
            }
            kind::STALE
        }
        (Op::Bind(_), Reply::Done(_) | Reply::Conflict) => {
            row.bound = true;
            Next::Again
        }
        (Op::Unbind, Reply::Done(_) | Reply::NotFound) => {
            (row.bound, row.unbound) = (false, true);
            Next::Again
        }
        (Op::Status, Reply::Done(_)) => {
            row.told = row.telling;
            Next::Again
        }
        (_, reply) => match kind::usual(reply) {
            Next::Again => Next::BackOff,
            next => next,
        },
    }
}

/// POST of a RoleBinding of ours.
pub(crate) fn bind(namespace: &str, name: &str, role: &str, account_namespace: &str, account: &str) -> Call {
    let body = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": namespace, "labels": {MANAGED: "true"}},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "namespace": account_namespace, "name": account}],
    });
    calls::create(Cluster::Home, &BINDINGS, Some(namespace), &body)
}

/// The status of a NamespaceOffloading, and what tells it from another.
fn status(facts: &Facts, namespace: &str, offloading: &OffloadingView, refusal: Option<String>, now: Now) -> (u64, Value) {
    let mut clusters = Map::new();
    let stale = |cluster: &str| !facts.providers.values().any(|p| p.spec.cluster.as_str() == cluster);
    let gone: Vec<&str> = offloading.reported.iter().map(|c| &**c).filter(|c| stale(c)).collect();
    for cluster in &gone {
        clusters.insert(cluster.to_string(), Value::Null);
    }
    let (mut ready, mut failed, mut all) = (0, 0, 0);
    let mut words = vec![offloading.generation.to_string(), refusal.clone().unwrap_or_default(), gone.join(",")];
    for (peer, provider) in &facts.providers {
        let link = facts.link(*peer, namespace);
        let (done, reason, message) = match link {
            _ if refusal.is_some() => (false, "CreationLoopBackOff", refusal.clone().unwrap_or_default()),
            None => (false, "ClusterNotSelected", "the cluster selector does not match this provider's node".to_string()),
            Some(l) if l.accepted() => (true, "NamespaceCreated", format!("offloaded as {}", l.twin)),
            Some(l) if l.phase == Some(Phase::CreationLoopBackOff) => {
                (false, "CreationLoopBackOff", format!("the provider refuses the twin {}: the name is taken there or it has not consented to it", l.twin))
            }
            Some(l) if l.phase == Some(Phase::Terminating) => (false, "Terminating", format!("an earlier twin {} is still being deleted", l.twin)),
            Some(l) => (false, "Creating", format!("the provider has been asked for {}", l.twin)),
        };
        let chosen = link.is_some() || refusal.is_some();
        all += usize::from(chosen);
        ready += usize::from(done);
        failed += usize::from(reason == "CreationLoopBackOff");
        words.extend([provider.spec.cluster.to_string(), reason.into(), message.clone()]);
        let at = now.wall.to_string();
        let truth = |b: bool| if b { "True" } else { "False" };
        let mut list = vec![json!({"type": "OffloadingRequired", "status": truth(chosen), "lastTransitionTime": at,
            "reason": if chosen { "ClusterSelected" } else { "ClusterNotSelected" },
            "message": if chosen { "selected by the cluster selector" } else { message.as_str() }})];
        if chosen {
            list.push(json!({"type": "Ready", "status": truth(done), "lastTransitionTime": at, "reason": reason, "message": message}));
        }
        clusters.insert(provider.spec.cluster.to_string(), list.into());
    }
    let phase = match (all, ready, failed) {
        _ if refusal.is_some() => "AllFailed",
        (0, ..) => "NoClusterSelected",
        (all, ready, _) if all == ready => "Ready",
        (all, _, failed) if all == failed => "AllFailed",
        (_, _, 0) => "InProgress",
        _ => "SomeFailed",
    };
    let twin = twin_of(facts, namespace, offloading).unwrap_or_default();
    let told = ownership::digest(words.iter().map(String::as_bytes));
    (told, json!({"offloadingPhase": phase, "observedGeneration": offloading.generation, "remoteNamespaceName": twin, "remoteNamespacesConditions": clusters}))
}

/// The name of a provider's map: its cluster ID.
fn map_path(provider: &Provider) -> String {
    MAPS.object(Some(&provider.spec.tenant_namespace), provider.spec.cluster.as_str())
}

pub(crate) fn plan_map(facts: &mut Facts, key: &Key, _row: &mut MapRow) -> Step {
    let Some(provider) = facts.providers.get(&key.peer) else { return Step::Forget };
    let dead = provider.leaving.is_some_and(|l| l.dead);
    if !provider.reachable || !provider.map_synced || dead || !(facts.settled(key.peer) || provider.leaving.is_some()) {
        return Step::Settled;
    }
    let to = Cluster::Peer(key.peer);
    let wanted: BTreeMap<&str, &str> = facts.links.iter().filter(|((peer, _), _)| *peer == key.peer).map(|((_, ns), link)| (&**ns, &*link.twin)).collect();
    match &provider.map {
        None if wanted.is_empty() => Step::Settled,
        None => {
            let body = json!({
                "apiVersion": "offloading.liqo.io/v1beta1", "kind": "NamespaceMap",
                "metadata": {"name": provider.spec.cluster.as_str(), "namespace": provider.spec.tenant_namespace,
                    "labels": {REMOTE_CLUSTER: facts.home.as_str(), MANAGED: "true"}},
                "spec": {"desiredMapping": wanted},
            });
            Step::Do(Op::Create, calls::create(to, &MAPS, Some(&provider.spec.tenant_namespace), &body))
        }
        Some(map) => {
            let mut patch = Map::new();
            for stale in map.desired.keys().filter(|k| !wanted.contains_key(&***k)) {
                patch.insert(stale.to_string(), Value::Null);
            }
            for (namespace, twin) in &wanted {
                if map.desired.get(*namespace).map(|t| &**t) != Some(*twin) {
                    patch.insert(namespace.to_string(), json!(twin));
                }
            }
            if patch.is_empty() {
                return Step::Settled;
            }
            Step::Do(Op::Update, calls::merge(to, map_path(provider), &json!({"metadata": {"uid": map.uid.as_str()}, "spec": {"desiredMapping": patch}})))
        }
    }
}

pub(crate) fn settle_map(facts: &mut Facts, key: &Key, _op: Op, reply: &Reply) -> Next {
    match reply {
        Reply::Done(body) => {
            if let Ok(Seen { view: SeenView::Map(map), version, .. }) = read_map(body)
                && let Some(provider) = facts.providers.get_mut(&key.peer)
                && provider.map_at.allows(version)
            {
                provider.map = Some(map);
                take_phases(facts);
                return Next::Again;
            }
            kind::STALE
        }
        Reply::NotFound => {
            if let Some(provider) = facts.providers.get_mut(&key.peer) {
                provider.map = None;
            }
            Next::BackOff
        }
        _ => Next::BackOff,
    }
}

/// The watch path of the one map a cluster has at a provider.
pub(crate) fn map_watch(tenant_namespace: &str, provider: &ClusterId) -> String {
    format!("{}?fieldSelector=metadata.name%3D{provider}", MAPS.collection(Some(tenant_namespace)))
}

/// The key of a home namespace's row.
pub(crate) fn space(namespace: &str) -> Key {
    Key::new(Sort::Space, HERE, "", namespace)
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
