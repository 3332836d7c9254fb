//! The provider's side of names: which twin namespaces a consumer's NamespaceMap asks for, which of them it may have, and what the map is told.
//!
//! A twin is deleted only when label, annotation and recorded UID all match; a namespace that others made is never touched, and its name is refused.
//! The consumer is never called: all is done at home.

use super::agent::Event;
use super::calls;
use super::denials::Denied;
use super::facts::{Consumer, Facts, Wake};
use super::kind::{self, Key, MAPS, NAMESPACES, Next, Op, QUOTAS, Seen, SeenView, Sort, Step};
use super::namespace::{self, Mapped, NamespaceView, Phase};
use super::ownership::{self, BY_MAP, DAEMON, MANAGED, ORIGINAL_NAME, OWN_UID, REMOTE_CLUSTER};
use super::space;
use crate::budget;
use crate::clock::Now;
use crate::identity::ClusterId;
use crate::kube::call::Cluster;
use crate::kube::reply::Reply;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// What is remembered of a twin namespace.
#[derive(Debug, Default)]
pub(crate) struct TwinRow {
    /// The twin's name as last seen or asked for.
    twin: Box<str>,
    /// The quota stands.
    quota: bool,
}

/// What is remembered of a consumer's map: nothing; all is in the facts.
#[derive(Debug, Default)]
pub(crate) struct TenantRow;

/// The two bindings of a twin, each named after its role: our own rights there, and the tenant's.
const BINDINGS: [&str; 2] = ["sluice-twin", "sluice-tenant-twin"];
/// The two of a tenant namespace and their roles, made with it by whoever issues credentials; here they are only put back.
const TENANT_BINDINGS: [(&str, &str); 2] = [("sluice", "sluice-tenant-admin"), ("sluice-peer", "sluice-tenant")];

/// The `<namespace>/<name>` of a consumer's map.
fn map_of(home: &ClusterId, consumer: &Consumer) -> String {
    format!("{}/{home}", consumer.spec.tenant_namespace)
}

/// Whether the namespace is this consumer's twin for `original`, as we made it.
fn owned(view: &NamespaceView, home: &ClusterId, consumer: &Consumer, original: &str) -> bool {
    view.marked
        && *view.consumer == *consumer.spec.cluster.as_str()
        && *view.by_map == *map_of(home, consumer)
        && *view.original == *original
        && (view.recorded_uid.is_empty() || *view.recorded_uid == *view.uid)
}

/// Why a consumer may not have a twin of this name.
fn refusal(consumer: &Consumer, original: &str, twin: &str) -> Option<&'static str> {
    if !ownership::is_label(original) || !ownership::is_label(twin) {
        return Some("it is no namespace name");
    }
    if ownership::forbidden_namespace(twin) {
        return Some("it is a system name");
    }
    let granted = |pattern: &String| match pattern.strip_suffix('*') {
        Some(start) => twin.starts_with(start),
        None => twin == pattern,
    };
    if twin == ownership::twin_name(original, &consumer.spec.cluster) || consumer.spec.names.iter().any(granted) {
        return None;
    }
    Some("it is not the default name and no pattern granted covers it")
}

pub(crate) fn plan(facts: &mut Facts, key: &Key, row: &mut TwinRow) -> Step {
    let original = &key.name;
    let Some(consumer) = facts.consumers.get(&key.peer) else { return Step::Forget };
    if !facts.namespaces_synced || !facts.bindings_synced || (!consumer.map_synced && !consumer.leaving) {
        return Step::Settled;
    }
    // The consumer takes names out of its map and never the map away: without it, it is waited for.
    if consumer.map.is_none() && !consumer.leaving {
        return Step::Settled;
    }
    let wanted = consumer.map.as_ref().and_then(|m| m.desired.get(original)).filter(|_| !consumer.leaving).cloned();
    if row.twin.is_empty() {
        let present = facts.namespaces.iter().find(|(_, view)| owned(view, &facts.home, consumer, original));
        row.twin = present.map(|(name, _)| name.clone()).or_else(|| wanted.clone()).unwrap_or_default();
    }
    if wanted.as_deref() != Some(&*row.twin) {
        return remove(facts, key, row, wanted.is_some());
    }
    let twin = row.twin.clone();
    if let Some(why) = refusal(consumer, original, &twin) {
        return answer(facts, key, &twin, Phase::CreationLoopBackOff, Some(why));
    }
    let Some(view) = facts.namespaces.get(&twin) else {
        row.quota = false;
        facts.twins.remove(&twin);
        let theirs = facts.namespaces.values().filter(|n| n.marked && *n.consumer == *consumer.spec.cluster.as_str());
        if theirs.count() >= budget::TWINS_EACH {
            return answer(facts, key, &twin, Phase::CreationLoopBackOff, Some("the consumer has as many namespaces here as it may"));
        }
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {
                "name": twin,
                "labels": {REMOTE_CLUSTER: consumer.spec.cluster.as_str(), MANAGED: "true", "pod-security.kubernetes.io/enforce": "baseline"},
                "annotations": {ORIGINAL_NAME: original, BY_MAP: map_of(&facts.home, consumer)},
            },
        });
        // Its bindings went with it, whatever their watch has told so far.
        BINDINGS.iter().for_each(|name| facts.bind(&twin, name, false));
        if let Some(consumer) = facts.consumers.get_mut(&key.peer) {
            consumer.making.insert(original.clone());
        }
        return Step::Do(Op::Create, calls::create(Cluster::Home, &NAMESPACES, None, &namespace));
    };
    if !owned(view, &facts.home, consumer, original) {
        return answer(facts, key, &twin, Phase::CreationLoopBackOff, Some("a namespace of this name exists and is not this mapping's"));
    }
    if view.deleting {
        row.quota = false;
        facts.twins.remove(&twin);
        return answer(facts, key, &twin, Phase::Terminating, None);
    }
    if view.recorded_uid.is_empty() {
        let body = json!({"metadata": {"uid": view.uid.as_str(), "annotations": {OWN_UID: view.uid.as_str()}}});
        return Step::Do(Op::Record, calls::merge(Cluster::Home, NAMESPACES.object(None, &twin), &body));
    }
    if !facts.bound(&twin, BINDINGS[0]) {
        return Step::Do(Op::Bind(0), space::bind(&twin, BINDINGS[0], BINDINGS[0], DAEMON, DAEMON));
    }
    if !row.quota {
        return Step::Do(Op::Quota, calls::create(Cluster::Home, &QUOTAS, Some(&twin), &quota()));
    }
    if !facts.bound(&twin, BINDINGS[1]) {
        return Step::Do(Op::Bind(1), space::bind(&twin, BINDINGS[1], BINDINGS[1], &consumer.spec.tenant_namespace, &consumer.spec.account));
    }
    if facts.twins.insert(twin.clone(), key.peer) != Some(key.peer) {
        facts.wake(Wake::Twin(twin.clone()));
    }
    answer(facts, key, &twin, Phase::Accepted, None)
}

/// How many objects a consumer may keep in a twin: it stands before the consumer gets its rights there. Only made, never changed: the administrator
/// may give more. No storage is granted, so there are no claims. Kinds of our own are left out: a cluster that learnt of them lately counts them only
/// minutes later, and lets none be made until then.
fn quota() -> Value {
    let most = budget::TWIN_OBJECTS.to_string();
    json!({
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": "sluice-peer", "labels": {MANAGED: "true"}},
        "spec": {"hard": {
            "count/services": most, "count/configmaps": most, "count/secrets": most, "count/ingresses.networking.k8s.io": most, "count/persistentvolumeclaims": "0",
        }},
    })
}

/// Sets what the map shall say of this mapping.
fn answer(facts: &mut Facts, key: &Key, twin: &str, phase: Phase, why: Option<&str>) -> Step {
    let Some(consumer) = facts.consumers.get_mut(&key.peer) else { return Step::Forget };
    let uid = facts.namespaces.get(twin).filter(|_| phase != Phase::CreationLoopBackOff).map(|n| n.uid.clone()).unwrap_or_default();
    let said = Mapped { twin: twin.into(), phase, uid };
    if consumer.phases.get(&key.name) != Some(&said) {
        consumer.phases.insert(key.name.clone(), said);
        facts.wake(Wake::Row(Key::new(Sort::Tenant, key.peer, "", "")));
        if let Some(why) = why {
            facts.denials.count(Denied::Namespace, 1);
            facts.event(Event::TwinRefused { peer: key.peer, twin: twin.into(), why: why.into() });
        }
    }
    // A name that is taken may become free without a word to us if its namespace was never ours to watch.
    if phase == Phase::CreationLoopBackOff { Step::Wait(Duration::from_secs(60)) } else { Step::Settled }
}

/// Takes a twin down; when it is gone the row ends, or starts anew under the name now wanted. One that may have been made although nobody has told so
/// is looked for first: once the row has ended nobody would take it down.
fn remove(facts: &mut Facts, key: &Key, row: &mut TwinRow, again: bool) -> Step {
    let consumer = &facts.consumers[&key.peer];
    facts.twins.remove(&row.twin);
    match facts.namespaces.get(&row.twin) {
        Some(view) if owned(view, &facts.home, consumer, &key.name) && view.deleting => answer(facts, key, &row.twin.clone(), Phase::Terminating, None),
        Some(view) if owned(view, &facts.home, consumer, &key.name) && !view.recorded_uid.is_empty() => {
            Step::Do(Op::Remove, calls::delete(Cluster::Home, NAMESPACES.object(None, &row.twin), &view.uid, None))
        }
        Some(view) if owned(view, &facts.home, consumer, &key.name) => {
            let body = json!({"metadata": {"uid": view.uid.as_str(), "annotations": {OWN_UID: view.uid.as_str()}}});
            Step::Do(Op::Record, calls::merge(Cluster::Home, NAMESPACES.object(None, &row.twin), &body))
        }
        _ if consumer.making.contains(&key.name) => Step::Do(Op::Look, calls::look(Cluster::Home, NAMESPACES.object(None, &row.twin))),
        _ => {
            if let Some(consumer) = facts.consumers.get_mut(&key.peer) {
                consumer.phases.remove(&key.name);
            }
            facts.wake(Wake::Row(Key::new(Sort::Tenant, key.peer, "", "")));
            *row = TwinRow::default();
            if again { Step::Wait(Duration::ZERO) } else { Step::Forget }
        }
    }
}

pub(crate) fn settle(facts: &mut Facts, key: &Key, row: &mut TwinRow, op: Op, reply: &Reply) -> Next {
    // Any other answer to the creation, no answer too, leaves open whether it is there.
    if matches!((op, reply), (Op::Create | Op::Look, Reply::Done(_)) | (Op::Look, Reply::NotFound))
        && let Some(consumer) = facts.consumers.get_mut(&key.peer)
    {
        consumer.making.remove(&key.name);
    }
    match (op, reply) {
        (Op::Create | Op::Record | Op::Look, Reply::Done(body)) => {
            if let Ok(Seen { name, view: SeenView::Namespace(view), version, .. }) = namespace::read_namespace(body)
                && facts.namespaces_at.allows(version)
                && (op != Op::Look || facts.consumers.get(&key.peer).is_some_and(|consumer| owned(&view, &facts.home, consumer, &key.name)))
            {
                facts.namespaces.insert(name, view);
                return Next::Again;
            }
            kind::STALE
        }
        (Op::Create, Reply::Conflict) => {
            // It exists and our watch has not told of it: either it soon will, or it is not ours.
            let twin = row.twin.clone();
            answer(facts, key, &twin, Phase::CreationLoopBackOff, Some("a namespace of this name exists"));
            Next::BackOff
        }
        (Op::Bind(which), Reply::Done(_) | Reply::Conflict) => space::bound(facts, &row.twin, BINDINGS[usize::from(which)], reply),
        (Op::Quota, Reply::Done(_) | Reply::Conflict) => {
            row.quota = true;
            Next::Again
        }
        (Op::Remove, Reply::Done(body)) => {
            match namespace::read_namespace(body) {
                Ok(Seen { version, .. }) if !facts.namespaces_at.allows(version) => return kind::STALE,
                _ => facts.namespaces.get_mut(&row.twin).into_iter().for_each(|view| view.deleting = true),
            }
            Next::Again
        }
        // The watch has told that it is gone, or soon will.
        (Op::Remove, Reply::NotFound) => kind::STALE,
        (_, reply) => match kind::usual(reply) {
            Next::Again => Next::BackOff,
            next => next,
        },
    }
}

/// The status of the consumer's map; and, when the consumer leaves, the end of all of it.
pub(crate) fn plan_tenant(facts: &mut Facts, key: &Key, _now: Now) -> Step {
    let Some(consumer) = facts.consumers.get(&key.peer) else { return Step::Forget };
    if consumer.leaving && facts.namespaces_synced {
        let theirs = || facts.namespaces.iter().filter(|(_, n)| n.marked && *n.consumer == *consumer.spec.cluster.as_str());
        let left = theirs().any(|(_, n)| owned(n, &facts.home, consumer, &n.original));
        if left || !consumer.phases.is_empty() || !consumer.making.is_empty() {
            return Step::Wait(Duration::from_secs(1));
        }
        // Put back from a backup, say, or with a mark changed by hand: nobody may take it for ours, the consumer's leaving does not wait for it.
        let others: Vec<_> = theirs().map(|(name, _)| name.to_string()).collect();
        if !others.is_empty() {
            let what = format!(
                "{} has left; of the namespaces marked as its twins, {} are not those that were made for it and stay: delete them by hand",
                consumer.spec.cluster,
                others.join(", ")
            );
            facts.event(Event::Trouble { what });
        }
        facts.consumers.remove(&key.peer);
        facts.event(Event::ConsumerGone { peer: key.peer });
        facts.wake(Wake::Peer(key.peer));
        return Step::Forget;
    }
    let Some(map) = &consumer.map else { return Step::Settled };
    // A consumer that has a map had its account once: whatever of its rights is gone now was taken away by hand.
    let tenant = &consumer.spec.tenant_namespace;
    if facts.bindings_synced
        && facts.namespaces.get(&**tenant).is_some_and(|n| n.marked && !n.deleting)
        && let Some((which, (name, role))) = TENANT_BINDINGS.iter().enumerate().find(|(_, (name, _))| !facts.bound(tenant, name))
    {
        let (namespace, account) = if which == 0 { (DAEMON, DAEMON) } else { (tenant.as_str(), consumer.spec.account.as_str()) };
        return Step::Do(Op::Bind(which as u8), space::bind(tenant, name, role, namespace, account));
    }
    let mut patch = Map::new();
    for stale in map.current.keys().filter(|k| !consumer.phases.contains_key(*k)) {
        patch.insert(stale.to_string(), Value::Null);
    }
    for (original, mapped) in &consumer.phases {
        if map.current.get(original) != Some(mapped) {
            patch.insert(original.to_string(), said(mapped));
        }
    }
    if patch.is_empty() {
        return Step::Settled;
    }
    let path = MAPS.object(Some(&consumer.spec.tenant_namespace), facts.home.as_str());
    Step::Do(Op::Status, calls::status(Cluster::Home, path, &map.uid, json!({"currentMapping": patch})))
}

/// A mapping in the words of the map's status.
fn said(mapped: &Mapped) -> Value {
    json!({"remoteNamespace": mapped.twin, "phase": mapped.phase.as_str(), "remoteNamespaceUid": mapped.uid.as_str()})
}

pub(crate) fn settle_tenant(facts: &mut Facts, key: &Key, op: Op, reply: &Reply) -> Next {
    match reply {
        Reply::Done(_) | Reply::Conflict if let Op::Bind(which) = op => {
            let Some(tenant) = facts.consumers.get(&key.peer).map(|c| c.spec.tenant_namespace.clone()) else { return Next::Again };
            space::bound(facts, &tenant, TENANT_BINDINGS[usize::from(which)].0, reply)
        }
        Reply::Done(body) => {
            if let Ok(Seen { view: SeenView::Map(map), version, .. }) = namespace::read_map(body)
                && let Some(consumer) = facts.consumers.get_mut(&key.peer)
                && consumer.map_at.allows(version)
            {
                // An API server that keeps less than it was told is not told at once again.
                let kept = consumer.phases == map.current;
                consumer.map = Some(map);
                return if kept { Next::Again } else { Next::BackOff };
            }
            kind::STALE
        }
        _ => Next::BackOff,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::agent::ConsumerSpec;
    use crate::offload::offer::Amount;

    fn consumer(names: &[&str]) -> Consumer {
        let spec = ConsumerSpec {
            peer: crate::identity::PeerId(0),
            cluster: "edge".parse().expect("an ID"),
            tenant_namespace: "liqo-tenant-edge".into(),
            account: "tenant".into(),
            grant: Amount::default(),
            images: vec![],
            names: names.iter().map(|n| n.to_string()).collect(),
        };
        Consumer::new(spec)
    }

    #[test]
    fn a_consumer_has_its_default_names_and_what_was_granted() {
        for (names, original, twin, granted) in [
            (&[][..], "shop", "shop-edge", true),
            (&[], "shop", "shop", false),
            (&["shop"], "shop", "shop", true),
            (&["team-*"], "shop", "team-7", true),
            (&["*"], "shop", "kube-system", false),
            (&["*"], "shop", "liqo-tenant-edge", false),
            (&["*"], "x/y", "abc", false),
            (&["*"], "shop", "Shop", false),
        ] {
            assert_eq!(refusal(&consumer(names), original, twin).is_none(), granted, "{original} as {twin} with {names:?}");
        }
    }

    #[cfg(feature = "shell")]
    #[test]
    fn the_api_server_keeps_every_field_of_what_a_map_is_told() {
        use serde::Deserialize;
        // It drops what the definition does not name, and the map would be told the same again without end.
        let crds = include_str!("../../k3s-manifests/crds-offloading.yaml");
        let all = serde_yaml_ng::Deserializer::from_str(crds).map(|d| Value::deserialize(d).expect("YAML"));
        let crd = all.into_iter().find(|c| c["spec"]["names"]["kind"] == "NamespaceMap").expect("the definition");
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let kept = &schema["properties"]["status"]["properties"]["currentMapping"]["additionalProperties"]["properties"];
        for field in said(&Mapped { twin: "shop-edge".into(), phase: Phase::Accepted, uid: "u".try_into().expect("short") }).as_object().expect("it").keys() {
            assert!(kept.get(field).is_some(), "{field}");
        }
    }

    #[test]
    fn a_namespace_is_ours_only_if_mark_map_name_and_uid_agree() {
        let home: ClusterId = "hub".parse().expect("an ID");
        let view = NamespaceView {
            uid: "u1".try_into().expect("short"),
            marked: true,
            made: true,
            consumer: "edge".into(),
            by_map: "liqo-tenant-edge/hub".into(),
            original: "shop".into(),
            recorded_uid: "u1".into(),
            ..Default::default()
        };
        assert!(owned(&view, &home, &consumer(&[]), "shop"));
        for broken in [
            NamespaceView { marked: false, ..view.clone() },
            NamespaceView { consumer: "other".into(), ..view.clone() },
            NamespaceView { by_map: "liqo-tenant-edge/other".into(), ..view.clone() },
            NamespaceView { original: "other".into(), ..view.clone() },
            NamespaceView { recorded_uid: "u0".into(), ..view.clone() },
        ] {
            assert!(!owned(&broken, &home, &consumer(&[]), "shop"), "{broken:?}");
        }
    }
}
