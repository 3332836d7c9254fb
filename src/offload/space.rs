//! What an offloaded namespace calls for: labels, binding and status at home, the NamespaceMap at each provider. Without a NamespaceOffloading all of it goes:
//! binding first, then the labels. No finalizer is ever set. Which namespaces are offloaded where is decided in [`super::namespace`].

use super::calls;
use super::facts::{Facts, Provider};
use super::kind::{self, BINDINGS, HERE, Key, KindId, MAPS, NAMESPACES, Next, OFFLOADINGS, Op, Seen, SeenView, Sort, Step, Uid};
use super::namespace::{self, OffloadingView, Phase, Strategy, read_map, read_namespace, twin_of};
use super::ownership::{self, DAEMON, MANAGED, REMOTE_CLUSTER, SCHEDULING};
use crate::clock::Now;
use crate::identity::ClusterId;
use crate::kube::call::{Call, Cluster};
use crate::kube::reply::Reply;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Our own RoleBinding in an offloaded namespace, and its role.
const BINDING: &str = "sluice-home";

/// What is remembered of an offloaded namespace.
#[derive(Debug, Default)]
pub(crate) struct SpaceRow {
    told: u64,
    telling: u64,
}

/// What is remembered of a map at a provider: nothing; all is in the facts.
#[derive(Debug, Default)]
pub(crate) struct MapRow;

pub(crate) fn plan_space(facts: &mut Facts, key: &Key, row: &mut SpaceRow, now: Now) -> Step {
    if !facts.namespaces_synced || !facts.offloadings_synced || !facts.bindings_synced {
        return Step::Settled;
    }
    let name = &key.name;
    let Some(namespace) = facts.namespaces.get(name) else { return Step::Forget };
    if namespace.deleting {
        return Step::Settled;
    }
    let offloading = facts.offloadings.get(name).filter(|o| !o.deleting);
    let refusal = offloading.and_then(|o| twin_of(facts, name, o).err());
    let (twin, bound) = (!namespace.consumer.is_empty(), facts.bound(name, BINDING));
    if let Some(offloading) = offloading.filter(|_| refusal.is_none() && !facts.providers.is_empty()) {
        let scheduling = offloading.strategy != Strategy::Local;
        // The policy admits the label only where the account is bound, and the binding only where a NamespaceOffloading stands.
        if !bound {
            return Step::Do(Op::Bind(0), bind(name, BINDING, BINDING, DAEMON, DAEMON));
        }
        if !namespace.marked || namespace.scheduling != scheduling {
            let value = if scheduling { json!("true") } else { Value::Null };
            let body = json!({"metadata": {"uid": namespace.uid.as_str(), "labels": {MANAGED: "true", SCHEDULING: value}}});
            return Step::Do(Op::Label, calls::merge(Cluster::Home, NAMESPACES.object(None, name), &body));
        }
    } else if (namespace.marked || bound) && !twin && !namespace.made {
        if bound {
            return Step::Do(Op::Unbind, calls::delete(Cluster::Home, BINDINGS.object(Some(name), BINDING), &Uid::new(), None));
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
        (Op::Bind(_), Reply::Done(_) | Reply::Conflict) => bound(facts, &key.name, BINDING, reply),
        (Op::Unbind, Reply::Done(_) | Reply::NotFound) => {
            facts.bind(&key.name, BINDING, false);
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

/// Takes the answer to such a POST for a fact, unless the watch has told of later ones. One that existed already is as good.
pub(crate) fn bound(facts: &mut Facts, namespace: &str, name: &str, reply: &Reply) -> Next {
    if let Reply::Done(body) = reply
        && let Ok(Seen { version, .. }) = kind::read(KindId::Binding, body)
        && !facts.bindings_at.allows(version)
    {
        return kind::STALE;
    }
    facts.bind(namespace, name, true);
    Next::Again
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
                namespace::take_phases(facts);
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
