//! What all plans may know beside their own row: peers and whether they answer, which namespaces are offloaded where, what is used of a grant.
//!
//! Only [`super::agent`] (from watches) and settled replies change it. A plan that finds a fact not yet told waits; it never guesses.

use super::agent::{ConsumerSpec, Event, ProviderSpec};
use super::denials::Denials;
use super::kind::{Key, Uid};
use super::namespace::{MapView, Mapped, NamespaceView, OffloadingView, Phase};
use super::node::NodeView;
use super::offer::Amount;
use super::ownership;
use super::transit::Transit;
use crate::clock::Instant;
use crate::identity::{ClusterId, PeerId, Prefix};
use crate::kube::call::{Call, Cluster};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;

/// How many calls that tell users something may wait; more are dropped, for they are not needed by any plan.
const NOTES: usize = 32;
/// How many events for the edge may wait; the oldest makes room.
const EVENTS: usize = 128;

/// How far a watch has told, as a resourceVersion. Versions of one kind are comparable numbers (as Kubernetes promises since 1.35), so the reply to
/// a call that comes late is known to be older than what the watch has told since, and is not taken for a fact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached(u64);

impl Reached {
    /// The watch has told up to here.
    pub(crate) fn note(&mut self, version: u64) {
        self.0 = self.0.max(version);
    }

    /// Whether an object in a reply is as new as all that was told. One without a version is believed.
    pub(crate) fn allows(self, version: u64) -> bool {
        version == 0 || self.0 <= version
    }
}

/// What the rows share.
#[derive(Debug)]
pub(crate) struct Facts {
    pub home: ClusterId,
    /// Our own pod prefixes: only endpoints inside are told to a provider.
    pub pods: Vec<Prefix>,
    pub kubelet_version: String,
    pub providers: BTreeMap<PeerId, Provider>,
    pub consumers: BTreeMap<PeerId, Consumer>,
    /// Home namespaces that are offloaded to a provider.
    pub links: BTreeMap<(PeerId, Box<str>), Link>,
    /// Links have come, gone or changed phase since the agent last looked.
    pub links_changed: bool,
    /// Twin namespaces here that are complete, and whose they are.
    pub twins: BTreeMap<Box<str>, PeerId>,
    pub namespaces: BTreeMap<Box<str>, NamespaceView>,
    pub namespaces_at: Reached,
    pub offloadings: BTreeMap<Box<str>, Box<OffloadingView>>,
    /// What the pods in a twin namespace use.
    pub used: BTreeMap<Box<str>, Amount>,
    /// RoleBindings of ours that stand here, as `namespace/name`.
    pub bindings: BTreeSet<Box<str>>,
    pub bindings_at: Reached,
    pub namespaces_synced: bool,
    pub offloadings_synced: bool,
    pub bindings_synced: bool,
    pub shadows_synced: bool,
    pub made_synced: bool,
    pub shadow_slices_synced: bool,
    /// What providers are told of each other's pods.
    pub transit: Transit,
    /// What was refused of what consumers' objects ask for.
    pub denials: Denials,
    pub out: Outbox,
}

/// A provider: a cluster that runs our pods.
#[derive(Debug)]
pub(crate) struct Provider {
    pub spec: ProviderSpec,
    /// Whether its API answers through the tunnel, and since when it does or does not.
    pub reachable: bool,
    pub since: Instant,
    pub leaving: Option<Leaving>,
    pub node: Option<NodeView>,
    pub node_at: Reached,
    pub node_synced: bool,
    /// The labels its node had when last seen, ours at first: selectors are judged by these.
    pub labels: BTreeMap<String, String>,
    pub pods_synced: bool,
    /// Every pod of home's there was told of could be read and has a row.
    pub pods_whole: bool,
    /// Pods at home that are bound to its node and have not ended.
    pub home_pods: usize,
    pub map: Option<Box<MapView>>,
    pub map_at: Reached,
    pub map_synced: bool,
}

/// How far a provider has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaving {
    pub since: Instant,
    /// Nothing is asked of it any more.
    pub dead: bool,
}

/// A consumer: a cluster whose pods run here.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub spec: ConsumerSpec,
    pub reachable: bool,
    pub leaving: bool,
    pub map: Option<Box<MapView>>,
    pub map_at: Reached,
    pub map_synced: bool,
    /// What has become of each wanted mapping: home namespace to twin and phase.
    pub phases: BTreeMap<Box<str>, Mapped>,
    /// Home namespaces whose twin was asked for, and may come to be although nothing has told of it: the answer is under way, or was lost.
    pub making: BTreeSet<Box<str>>,
}

impl Consumer {
    /// One of which nothing is known yet.
    pub(crate) fn new(spec: ConsumerSpec) -> Consumer {
        Consumer {
            spec,
            reachable: false,
            leaving: false,
            map: None,
            map_at: Reached::default(),
            map_synced: false,
            phases: BTreeMap::new(),
            making: BTreeSet::new(),
        }
    }
}

/// A home namespace offloaded to one provider.
#[derive(Debug)]
pub(crate) struct Link {
    pub twin: Box<str>,
    /// The twin's UID, as the provider's map says it.
    pub uid: Uid,
    /// What the provider's map says of it; none: nothing yet.
    pub phase: Option<Phase>,
    /// The provider's pods of this namespace are known.
    pub far_synced: bool,
    /// Kinds whose objects at the provider are to be listed once, a bit each (see `watch`), and when that is next due.
    pub sweep: u8,
    pub sweep_at: Option<Instant>,
}

impl Link {
    pub(crate) fn accepted(&self) -> bool {
        self.phase == Some(Phase::Accepted)
    }
}

/// What leaves the rows sideways.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub notes: VecDeque<Call>,
    pub events: VecDeque<Event>,
    pub wake: Vec<Wake>,
    serial: u64,
}

/// Rows to look at again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// One row, made if there is none.
    Row(Key),
    /// All rows of a peer.
    Peer(PeerId),
    /// The rows of a home namespace at a provider, and the provider's map.
    Link(PeerId, Box<str>),
    /// All rows of this cluster in a namespace.
    Twin(Box<str>),
    /// ShadowPods that wait for room.
    Room,
}

/// The object a note is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    pub kind: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a Uid,
}

impl Facts {
    pub(crate) fn link(&self, peer: PeerId, namespace: &str) -> Option<&Link> {
        self.links.get(&(peer, namespace.into()))
    }

    /// Whether our RoleBinding of this name stands in the namespace.
    pub(crate) fn bound(&self, namespace: &str, name: &str) -> bool {
        self.bindings.contains(&*format!("{namespace}/{name}"))
    }

    /// Notes that our RoleBinding of this name stands in the namespace, or that it does not.
    pub(crate) fn bind(&mut self, namespace: &str, name: &str, stands: bool) {
        let binding = format!("{namespace}/{name}");
        if stands {
            self.bindings.insert(binding.into());
        } else {
            self.bindings.remove(&*binding);
        }
    }

    /// Whether it is known which namespaces are offloaded to this provider.
    pub(crate) fn settled(&self, peer: PeerId) -> bool {
        self.namespaces_synced && self.offloadings_synced && self.providers.get(&peer).is_some_and(|p| p.node_synced)
    }

    /// What a consumer uses, over all namespaces that are its: one that is not complete yet, or is on its way out, serves no more pods, but those in
    /// it run.
    pub(crate) fn used_by(&self, consumer: PeerId) -> Amount {
        let Some(cluster) = self.consumers.get(&consumer).map(|c| c.spec.cluster.as_str()) else { return Amount::default() };
        let theirs = self.used.iter().filter(|(namespace, _)| self.namespaces.get(*namespace).is_some_and(|n| *n.consumer == *cluster));
        theirs.fold(Amount::default(), |sum, (_, amount)| sum.plus(*amount))
    }

    /// The address under which this cluster sees `address`, an original one of the peer; `None` if it is none of that peer's.
    pub(crate) fn image(images: &[(Prefix, Prefix)], address: Ipv4Addr) -> Option<Ipv4Addr> {
        images.iter().find(|(original, _)| original.contains(address)).map(|(original, image)| original.translate(address, *image))
    }

    /// Whether the namespace is a twin of some consumer, which is never offloaded again.
    pub(crate) fn is_twin(&self, namespace: &str) -> bool {
        self.namespaces.get(namespace).is_some_and(|n| !n.consumer.is_empty())
    }

    /// Tells a user of the namespace what became of an object there, as a Kubernetes Event.
    pub(crate) fn note(&mut self, now: crate::clock::Now, about: About<'_>, reason: &str, message: &str) {
        if self.out.notes.len() >= NOTES {
            return;
        }
        self.out.serial += 1;
        let About { kind, namespace, name, uid } = about;
        let version = if kind == "NamespaceOffloading" { "offloading.liqo.io/v1beta1" } else { "v1" };
        let tag = ownership::digest([uid.as_bytes(), reason.as_bytes(), message.as_bytes(), &now.wall.0.to_le_bytes(), &self.out.serial.to_le_bytes()]);
        let at = now.wall.to_string();
        let body = serde_json::json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": format!("{}.{tag:016x}", clipped(name, 200)), "namespace": namespace},
            "involvedObject": {"apiVersion": version, "kind": kind, "namespace": namespace, "name": name, "uid": uid.as_str()},
            "type": "Warning", "reason": reason, "message": clipped(message, 1000),
            "source": {"component": "sluice"}, "reportingComponent": "sluice", "reportingInstance": "sluice",
            "firstTimestamp": at, "lastTimestamp": at, "count": 1,
        });
        self.out.notes.push_back(super::calls::create(Cluster::Home, &super::kind::EVENTS, Some(namespace), &body));
    }

    pub(crate) fn event(&mut self, event: Event) {
        if self.out.events.len() >= EVENTS {
            self.out.events.pop_front();
        }
        self.out.events.push_back(event);
    }

    pub(crate) fn wake(&mut self, wake: Wake) {
        if !self.out.wake.contains(&wake) {
            self.out.wake.push(wake);
        }
    }
}

/// `text` cut to at most `most` bytes at a character.
pub(crate) fn clipped(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
