//! The virtual node of a provider: made by POST, kept with a lease only while the provider answers, made again if others delete it, removed when the provider leaves.
//!
//! While the provider is away nothing is written: Kubernetes then treats the node as it treats any lost one. A node of that name without our
//! mark is never touched. `status` is written only when what is seen differs; a lease every ten seconds is the whole idle cost.

use super::agent::Event;
use super::calls;
use super::facts::{Facts, Leaving, Provider, Wake};
use super::kind::{self, Key, LEASES, NODES, Next, Op, Seen, SeenView, Step, Uid};
use super::ownership::{MANAGED, REMOTE_CLUSTER, TAINT, TYPE};
use crate::clock::{Instant, Now, WallTime};
use crate::kube::call::Cluster;
use crate::kube::reply::Reply;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// How often the lease is renewed; Kubernetes gives up after 40 s.
pub(crate) const LEASE_EVERY: Duration = Duration::from_secs(10);
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// How long a leaving provider that answers is waited for before it counts as dead.
pub(crate) const LEAVE_WITHIN: Duration = Duration::from_secs(120);
/// How long the pods of a leaving provider are waited for before its node goes without them.
const PODS_WITHIN: Duration = Duration::from_secs(25);
/// How long pods are waited for in all, their node being gone: Kubernetes removes what is left by itself.
const GONE_WITHIN: Duration = Duration::from_secs(35);
/// How long a leaving provider that does not answer is waited for.
pub(crate) const LEAVE_WITHOUT: Duration = Duration::from_secs(15);

/// A node as seen at home.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeView {
    pub uid: Uid,
    pub ours: bool,
    pub ready: bool,
    pub cordoned: bool,
    pub deleting: bool,
    /// Labels, at most 64.
    pub labels: BTreeMap<String, String>,
}

/// What is remembered of a virtual node.
#[derive(Debug, Default)]
pub(crate) struct NodeRow {
    /// The last renewal of the lease.
    renewed: Option<Instant>,
    /// The greatest time that is in the lease, and when we knew it: Kubernetes takes only a greater one for a renewal, whatever our clock says.
    stamp: Option<(WallTime, Instant)>,
    lease_missing: bool,
    lease_gone: bool,
    /// Whether the status was written since this process began.
    told: bool,
    /// The last state of the node was told as foreign.
    taken: bool,
}

pub(crate) fn read(json: &[u8]) -> Result<Seen, String> {
    #[derive(Deserialize)]
    struct Node<'a> {
        #[serde(borrow)]
        metadata: kind::Meta<'a>,
        #[serde(default, deserialize_with = "kind::or_default")]
        spec: Spec,
        #[serde(default, deserialize_with = "kind::or_default")]
        status: Status,
    }
    #[derive(Deserialize, Default)]
    struct Spec {
        #[serde(default)]
        unschedulable: bool,
    }
    #[derive(Deserialize, Default)]
    struct Status {
        #[serde(default)]
        conditions: Option<Vec<Condition>>,
    }
    #[derive(Deserialize)]
    struct Condition {
        r#type: String,
        status: String,
    }
    let node: Node = kind::parse(json)?;
    let ready = node.status.conditions.iter().flatten().any(|c| c.r#type == "Ready" && c.status == "True");
    let labels = node.metadata.labels.iter().flatten().take(64).map(|(k, v)| (k.clone(), v.clone())).collect();
    let view = NodeView {
        uid: kind::uid(&node.metadata.uid)?,
        ours: node.metadata.ours(),
        ready,
        cordoned: node.spec.unschedulable,
        deleting: node.metadata.deletion_timestamp.is_some(),
        labels,
    };
    node.metadata.seen(SeenView::Node(view))
}

/// The labels a virtual node is made with.
pub(crate) fn labels(provider: &super::agent::ProviderSpec) -> BTreeMap<String, String> {
    [
        ("kubernetes.io/hostname", provider.node.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", provider.architecture.as_str()),
        ("kubernetes.io/role", "agent"),
        (TYPE, "virtual-node"),
        (REMOTE_CLUSTER, provider.cluster.as_str()),
        ("node.kubernetes.io/exclude-from-external-load-balancers", "true"),
        ("alpha.service-controller.kubernetes.io/exclude-balancer", "true"),
        (MANAGED, "true"),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_string(), v.to_string()))
    .collect()
}

pub(crate) fn plan(facts: &mut Facts, key: &Key, row: &mut NodeRow, now: Now) -> Step {
    let Some(provider) = facts.providers.get_mut(&key.peer) else { return Step::Forget };
    if !provider.node_synced {
        return Step::Settled;
    }
    let name = provider.spec.node.clone();
    if let Some(leaving) = &mut provider.leaving {
        let patience = if provider.reachable { LEAVE_WITHIN } else { LEAVE_WITHOUT };
        if !leaving.dead && now.mono.since(leaving.since) >= patience {
            leaving.dead = true;
            facts.wake(Wake::Peer(key.peer));
            return Step::Wait(Duration::ZERO);
        }
        return leave(facts, key, row, now);
    }
    match &provider.node {
        None => {
            row.told = false;
            let node = json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": name, "labels": labels(&provider.spec)},
                "spec": {"taints": [{"key": TAINT, "value": "true", "effect": "NoExecute"}]},
                "status": status(provider, &facts.kubelet_version, now),
            });
            Step::Do(Op::Create, calls::create(Cluster::Home, &NODES, None, &node))
        }
        Some(node) if !node.ours => {
            if !std::mem::replace(&mut row.taken, true) {
                facts.event(Event::NodeTaken { peer: key.peer, node: name });
            }
            Step::Wait(Duration::from_secs(60))
        }
        Some(node) if node.deleting => Step::Settled,
        Some(node) => {
            if provider.reachable && !(row.told && node.ready) {
                let path = NODES.object(None, &name);
                return Step::Do(Op::Status, calls::status(Cluster::Home, path, &node.uid, status(provider, &facts.kubelet_version, now)));
            }
            if !provider.reachable {
                return Step::Settled;
            }
            let since = row.renewed.map_or(LEASE_EVERY, |at| now.mono.since(at));
            if since < LEASE_EVERY && !row.lease_missing {
                return Step::Wait(LEASE_EVERY - since);
            }
            renew(row, &name, now)
        }
    }
}

fn renew(row: &mut NodeRow, name: &str, now: Now) -> Step {
    if row.stamp.is_none() && !row.lease_missing {
        return Step::Do(Op::Look, calls::look(Cluster::Home, LEASES.object(Some(LEASE_NAMESPACE), name)));
    }
    let after = |(last, at): (WallTime, Instant)| WallTime(last.0.saturating_add(now.mono.since(at).as_secs().clamp(1, 1 << 40) as i64));
    let time = row.stamp.map_or(now.wall, |stamp| now.wall.max(after(stamp)));
    row.stamp = Some((time, now.mono));
    // A MicroTime needs its six digits; whole seconds are all the lease is read for.
    let time = time.to_string().replace('Z', ".000000Z");
    let spec = json!({"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": time});
    if row.lease_missing {
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "namespace": LEASE_NAMESPACE, "labels": {MANAGED: "true"}}, "spec": spec});
        return Step::Do(Op::LeaseMake, calls::create(Cluster::Home, &LEASES, Some(LEASE_NAMESPACE), &lease));
    }
    Step::Do(Op::Lease, calls::merge(Cluster::Home, LEASES.object(Some(LEASE_NAMESPACE), name), &json!({"spec": spec})))
}

/// The time of a lease's last renewal.
fn renew_time(lease: &[u8]) -> Option<WallTime> {
    #[derive(Deserialize)]
    struct Lease {
        spec: Spec,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        renew_time: String,
    }
    WallTime::parse(&kind::parse::<Lease>(lease).ok()?.spec.renew_time)
}

/// First no new pods, then no pods, then no map, then no lease, then no node.
fn leave(facts: &mut Facts, key: &Key, row: &mut NodeRow, now: Now) -> Step {
    let provider = &facts.providers[&key.peer];
    let dead = provider.leaving.is_some_and(|l| l.dead);
    let name = &provider.spec.node;
    let path = NODES.object(None, name);
    let ours = provider.node.as_ref().filter(|n| n.ours);
    if let Some(node) = ours
        && !node.cordoned
        && !node.deleting
    {
        let body = json!({"metadata": {"uid": node.uid.as_str()}, "spec": {"unschedulable": true}});
        return Step::Do(Op::Cordon, calls::merge(Cluster::Home, path, &body));
    }
    let mapped = provider.map.as_ref().is_some_and(|m| !m.current.is_empty() || !m.desired.is_empty());
    let left_for = provider.leaving.map_or(Duration::ZERO, |l| now.mono.since(l.since));
    // Pods of a DaemonSet come back for as long as there is a node: after a while it goes first.
    let pods = provider.home_pods > 0 && left_for < PODS_WITHIN;
    if !provider.pods_synced || pods || (!dead && (mapped || !provider.map_synced)) {
        return Step::Wait(Duration::from_secs(1));
    }
    if !row.lease_gone {
        let lease = LEASES.object(Some(LEASE_NAMESPACE), name);
        return Step::Do(Op::LeaseRemove, calls::delete(Cluster::Home, lease, &Uid::new(), None));
    }
    match ours {
        Some(node) if node.deleting => Step::Settled,
        Some(node) => Step::Do(Op::Remove, calls::delete(Cluster::Home, path, &node.uid, Some(0))),
        None if provider.home_pods > 0 && left_for < GONE_WITHIN => {
            if !dead && let Some(provider) = facts.providers.get_mut(&key.peer) {
                provider.leaving = provider.leaving.map(|l| Leaving { dead: true, ..l });
                facts.wake(Wake::Peer(key.peer));
            }
            Step::Wait(Duration::from_secs(1))
        }
        None => {
            let owed = mapped || !provider.map_synced;
            facts.event(Event::ProviderGone { peer: key.peer, owed });
            facts.providers.remove(&key.peer);
            facts.wake(Wake::Peer(key.peer));
            Step::Forget
        }
    }
}

pub(crate) fn settle(facts: &mut Facts, key: &Key, row: &mut NodeRow, op: Op, reply: &Reply, now: Now) -> Next {
    match (op, reply) {
        (Op::Create, Reply::Done(body)) => {
            // What was made is believed until the watch tells: the next plan needs its UID.
            if let Ok(Seen { view: SeenView::Node(node), version, .. }) = read(body)
                && let Some(provider) = facts.providers.get_mut(&key.peer)
                && provider.node_at.allows(version)
            {
                provider.node.get_or_insert(node);
            }
            Next::Again
        }
        (Op::Create, Reply::Conflict) => Next::After(Duration::from_secs(2)),
        (Op::Status, Reply::Done(body)) => {
            row.told = true;
            if let Some(provider) = facts.providers.get_mut(&key.peer)
                && !read(body).is_ok_and(|seen| !provider.node_at.allows(seen.version))
                && let Some(node) = &mut provider.node
            {
                node.ready = true;
            }
            facts.event(Event::NodeReady { peer: key.peer });
            Next::Again
        }
        // After a conflict the watch tells what is there; without a node another is made.
        (Op::Status, Reply::NotFound) => {
            if let Some(provider) = facts.providers.get_mut(&key.peer) {
                provider.node = None;
            }
            Next::Again
        }
        (Op::Lease | Op::LeaseMake, Reply::Done(_)) => {
            row.renewed = Some(now.mono);
            row.lease_missing = false;
            Next::Again
        }
        (Op::Look, Reply::Done(body)) => {
            row.stamp = Some((renew_time(body).unwrap_or(now.wall), now.mono));
            Next::Again
        }
        (Op::Look | Op::Lease, Reply::NotFound) => {
            row.lease_missing = true;
            Next::Again
        }
        (Op::LeaseMake, Reply::Conflict) => {
            row.lease_missing = false;
            Next::Again
        }
        (Op::LeaseRemove, Reply::Done(_) | Reply::NotFound) => {
            row.lease_gone = true;
            Next::Again
        }
        (Op::Remove, Reply::Done(_) | Reply::NotFound) => {
            if let Some(provider) = facts.providers.get_mut(&key.peer) {
                provider.node = None;
            }
            Next::Again
        }
        (Op::Cordon, Reply::Done(_)) => {
            if let Some(node) = facts.providers.get_mut(&key.peer).and_then(|p| p.node.as_mut()) {
                node.cordoned = true;
            }
            Next::Again
        }
        (_, reply) => match kind::usual(reply) {
            Next::Again => Next::BackOff,
            next => next,
        },
    }
}

/// The node's status: capacity is the grant, and the conditions say whether the provider answers.
fn status(provider: &Provider, kubelet: &str, now: Now) -> Value {
    let spec = &provider.spec;
    let grant =
        json!({"cpu": super::offer::cpu_text(spec.grant.cpu), "memory": super::offer::memory_text(spec.grant.memory), "pods": spec.grant.pods.to_string()});
    let at = now.wall.to_string();
    let condition = |kind: &str, status: bool, reason: &str, message: &str| {
        let status = if status { "True" } else { "False" };
        json!({"type": kind, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": at, "lastTransitionTime": at})
    };
    let up = provider.reachable;
    let resources = "the provider lends what was granted";
    json!({
        "capacity": grant, "allocatable": grant,
        "addresses": [{"type": "InternalIP", "address": spec.address.to_string()}, {"type": "Hostname", "address": spec.node}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
        "conditions": [
            condition("Ready", up, if up { "ProviderReachable" } else { "ProviderUnreachable" },
                if up { "the provider's API answers through the tunnel" } else { "the provider's API has not answered yet" }),
            condition("MemoryPressure", false, "GrantSufficient", resources),
            condition("DiskPressure", false, "GrantSufficient", resources),
            condition("PIDPressure", false, "GrantSufficient", resources),
            condition("NetworkUnavailable", !up, if up { "TunnelUp" } else { "TunnelDown" },
                if up { "the tunnel to the provider carries traffic" } else { "the tunnel to the provider carries no traffic" }),
        ],
        "nodeInfo": {
            "architecture": spec.architecture, "operatingSystem": "linux", "kubeletVersion": kubelet, "kubeProxyVersion": "",
            "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "", "machineID": "", "osImage": "", "systemUUID": "",
        },
    })
}
