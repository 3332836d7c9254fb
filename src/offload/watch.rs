//! Which watches are open and how far each has come: opened when wanted, resumed after a cut, begun anew after 410, closed when no longer wanted. It knows no kind's meaning.
//!
//! What is wanted is computed from the facts each time ([`wanted`]), never remembered as a change: a restart and a lost event are one path.
//! A watch with `once` is a sweep: it is closed as soon as its initial objects have been told.

use super::facts::Facts;
use super::kind::{self, HERE, KindId, MAPS, NODES, PODS, Sort, Uid};
use super::ownership::{MANAGED, MANAGED_BY, ORIGIN};
use super::space;
use crate::clock::Instant;
use crate::identity::PeerId;
use crate::kube::call::{Cluster, Resource};
use crate::kube::watch::Watch;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// A watch's name between agent and shell; never used twice for different watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatchId(pub u32);

/// What the shell is to do about watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Open this watch; read its objects as `kind`. After Cut, Expired or Refused the same id is opened again.
    Open {
        /// Its name.
        id: WatchId,
        /// How its objects are read.
        kind: KindId,
        /// What to watch.
        watch: Watch,
    },
    /// Close it; what is still told of it is ignored.
    Close {
        /// Its name.
        id: WatchId,
    },
}

/// What a watch is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Purpose {
    pub on: Cluster,
    pub kind: KindId,
    /// The rows it tells about.
    pub sort: Sort,
    pub peer: PeerId,
    /// The home namespace of a link; else empty.
    pub namespace: Box<str>,
    pub once: bool,
    /// The twin the watch was opened for; another is listed anew.
    pub twin: Uid,
}

/// A watch and how far it has come.
#[derive(Debug)]
pub(crate) struct Feed {
    pub purpose: Purpose,
    path: String,
    version: Option<String>,
    /// Counts lists; a row's side that was told of in this round carries it.
    pub round: u32,
    /// The initial objects are being told.
    pub listing: bool,
    /// Names told in this list, for kinds that have no rows.
    pub names: BTreeSet<Box<str>>,
    /// An object could not be read: that something was not told means nothing.
    pub unread: bool,
    /// An object found no row: whoever has one was told of, but not everybody is known.
    pub full: bool,
    /// When the list is to be told again although the stream is good.
    again: Option<Instant>,
    open: bool,
    due: Option<Instant>,
    attempts: u8,
}

/// All watches.
#[derive(Debug, Default)]
pub(crate) struct Feeds {
    feeds: BTreeMap<WatchId, Feed>,
    index: BTreeMap<Purpose, WatchId>,
    orders: VecDeque<Order>,
    last: u32,
    rounds: u32,
}

impl Feeds {
    /// Brings the watches in line with what is wanted.
    pub(crate) fn align(&mut self, wanted: Vec<(Purpose, String)>, now: Instant) {
        let keep: BTreeMap<&Purpose, &String> = wanted.iter().map(|(p, path)| (p, path)).collect();
        let gone: Vec<WatchId> = self.feeds.iter().filter(|(_, f)| keep.get(&f.purpose) != Some(&&f.path)).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|id| self.remove(id));
        for (purpose, path) in wanted {
            if !self.index.contains_key(&purpose) {
                self.last += 1;
                let id = WatchId(self.last);
                self.index.insert(purpose.clone(), id);
                let feed = Feed {
                    purpose,
                    path,
                    version: None,
                    round: 0,
                    listing: false,
                    names: BTreeSet::new(),
                    unread: false,
                    full: false,
                    again: None,
                    open: false,
                    due: Some(now),
                    attempts: 0,
                };
                self.feeds.insert(id, feed);
            }
        }
    }

    /// Drops the watches whose whole list is to be told again. True if any: the next alignment makes them anew, under new ids.
    pub(crate) fn begin_again(&mut self, now: Instant) -> bool {
        let over: Vec<WatchId> = self.feeds.iter().filter(|(_, f)| f.again.is_some_and(|at| at <= now)).map(|(id, _)| *id).collect();
        for id in &over {
            self.remove(*id);
        }
        !over.is_empty()
    }

    fn remove(&mut self, id: WatchId) {
        if let Some(feed) = self.feeds.remove(&id) {
            self.index.remove(&feed.purpose);
            if feed.open {
                self.orders.push_back(Order::Close { id });
            }
        }
    }

    /// Opens what is due, where its cluster can be reached.
    pub(crate) fn open_due(&mut self, facts: &Facts, now: Instant) {
        for (id, feed) in &mut self.feeds {
            let there = match feed.purpose.on {
                Cluster::Home => true,
                Cluster::Peer(peer) => facts.providers.get(&peer).is_some_and(|p| p.reachable),
            };
            if feed.open || !there || feed.due.is_none_or(|at| at > now) {
                continue;
            }
            (feed.open, feed.due) = (true, None);
            if feed.version.is_none() {
                // Counted over all watches, so that no list takes the marks of another for its own; never 0, where rows begin.
                self.rounds = self.rounds.wrapping_add(1).max(1);
                feed.round = self.rounds;
                feed.listing = true;
                feed.names.clear();
                (feed.unread, feed.full) = (false, false);
            }
            let watch = Watch { on: feed.purpose.on, path: feed.path.clone(), from: feed.version.clone() };
            self.orders.push_back(Order::Open { id: *id, kind: feed.purpose.kind, watch });
        }
    }

    pub(crate) fn poll(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    pub(crate) fn feed(&mut self, id: WatchId) -> Option<&mut Feed> {
        self.feeds.get_mut(&id)
    }

    /// The round of the feed for a purpose, or 0.
    pub(crate) fn round(&self, purpose: &Purpose) -> u32 {
        self.index.get(purpose).and_then(|id| self.feeds.get(id)).map_or(0, |f| f.round)
    }

    /// Whether the feed has told all its initial objects.
    pub(crate) fn synced(&self, purpose: &Purpose) -> bool {
        self.index.get(purpose).and_then(|id| self.feeds.get(id)).is_some_and(|f| f.round > 0 && !f.listing)
    }

    /// Whether it has, and every one was taken.
    pub(crate) fn whole(&self, purpose: &Purpose) -> bool {
        self.synced(purpose) && self.index.get(purpose).and_then(|id| self.feeds.get(id)).is_some_and(|f| !f.unread && !f.full)
    }

    /// The stream ended or was refused; it is opened again after a while, or at once if only its version was too old.
    pub(crate) fn ended(&mut self, id: WatchId, fresh: bool, at_least: Duration, now: Instant) {
        let Some(feed) = self.feeds.get_mut(&id) else { return };
        let too_old = fresh && feed.version.is_some();
        if fresh || feed.listing {
            feed.version = None;
        }
        let wait = if too_old { Duration::ZERO } else { Duration::from_millis(100 << feed.attempts.min(5)).max(at_least) };
        feed.attempts = feed.attempts.saturating_add(1);
        (feed.open, feed.due) = (false, Some(now + wait));
    }

    /// Not all that was told could be taken, as it could not be read or the table is full: the whole list is to be told again at `at`.
    pub(crate) fn flaw(&mut self, id: WatchId, unread: bool, at: Instant) {
        if let Some(feed) = self.feeds.get_mut(&id) {
            (feed.unread, feed.full) = (feed.unread || unread, feed.full || !unread);
            feed.again.get_or_insert(at);
        }
    }

    /// All that watches on this kind told is to be told again: what it means has changed.
    pub(crate) fn all_again(&mut self, kind: KindId, now: Instant) {
        for feed in self.feeds.values_mut().filter(|feed| feed.purpose.kind == kind) {
            feed.again = Some(now);
        }
    }

    /// The stream has come to this version.
    pub(crate) fn reached(&mut self, id: WatchId, version: String) {
        if let Some(feed) = self.feeds.get_mut(&id) {
            feed.attempts = 0;
            // A bookmark inside the initial list is no place to resume from.
            if !feed.listing {
                feed.version = Some(version);
            }
        }
    }

    /// A peer answers again: its watches are opened at once.
    pub(crate) fn hurry(&mut self, peer: PeerId, now: Instant) {
        for feed in self.feeds.values_mut().filter(|f| f.purpose.on == Cluster::Peer(peer) && !f.open) {
            (feed.due, feed.attempts) = (Some(now), 0);
        }
    }

    pub(crate) fn next_due(&self, facts: &Facts) -> Option<Instant> {
        let there = |f: &&Feed| match f.purpose.on {
            Cluster::Home => true,
            Cluster::Peer(peer) => facts.providers.get(&peer).is_some_and(|p| p.reachable),
        };
        self.feeds.values().filter(there).filter_map(|f| if f.open { f.again } else { f.due }).min()
    }
}

/// The kinds swept at a provider, by the bit they have in `Link::sweep`.
pub(crate) const SWEPT: [(KindId, Sort, Resource); 5] = [
    (KindId::ShadowPod, Sort::Pod, kind::SHADOW_PODS),
    (KindId::Copy, Sort::Service, kind::SERVICES),
    (KindId::Copy, Sort::Slice, kind::SHADOW_SLICES),
    (KindId::Copy, Sort::ConfigMap, kind::CONFIG_MAPS),
    (KindId::Copy, Sort::Secret, kind::SECRETS),
];

/// The kinds watched in an offloaded namespace at home.
pub(crate) const SOURCES: [(KindId, Sort, Resource); 4] = [
    (KindId::Service, Sort::Service, kind::SERVICES),
    (KindId::EndpointSlice, Sort::Slice, kind::SLICES),
    (KindId::ConfigMap, Sort::ConfigMap, kind::CONFIG_MAPS),
    (KindId::Secret, Sort::Secret, kind::SECRETS),
];

/// The purpose of the watch on the provider's pods of a namespace.
pub(crate) fn far(peer: PeerId, namespace: &str, twin: &Uid) -> Purpose {
    Purpose { on: Cluster::Peer(peer), kind: KindId::FarPod, sort: Sort::Pod, peer, namespace: namespace.into(), once: false, twin: twin.clone() }
}

/// The purpose of a namespace's source watch.
pub(crate) fn source(kind: KindId, sort: Sort, peer: PeerId, namespace: &str) -> Purpose {
    Purpose { on: Cluster::Home, kind, sort, peer, namespace: namespace.into(), once: false, twin: Uid::new() }
}

/// All watches that the facts call for.
pub(crate) fn wanted(facts: &Facts) -> Vec<(Purpose, String)> {
    let mut out = Vec::new();
    let home = |kind, sort, peer| Purpose { on: Cluster::Home, kind, sort, peer, namespace: "".into(), once: false, twin: Uid::new() };
    out.push((home(KindId::Namespace, Sort::Space, HERE), kind::NAMESPACES.collection(None)));
    out.push((home(KindId::Offloading, Sort::Space, HERE), kind::OFFLOADINGS.collection(None)));
    let marked = format!("{}?labelSelector={}%3Dtrue", kind::BINDINGS.collection(None), MANAGED.replace('/', "%2F"));
    out.push((home(KindId::Binding, Sort::Space, HERE), marked));
    for (peer, provider) in &facts.providers {
        let node = &provider.spec.node;
        out.push((home(KindId::Node, Sort::Node, *peer), format!("{}?fieldSelector=metadata.name%3D{node}", NODES.collection(None))));
        out.push((home(KindId::HomePod, Sort::Pod, *peer), format!("{}?fieldSelector=spec.nodeName%3D{node}", PODS.collection(None))));
        let map =
            Purpose { on: Cluster::Peer(*peer), kind: KindId::NamespaceMap, sort: Sort::Map, peer: *peer, namespace: "".into(), once: false, twin: Uid::new() };
        out.push((map, space::map_watch(&provider.spec.tenant_namespace, &provider.spec.cluster)));
    }
    for ((peer, namespace), link) in facts.links.iter().filter(|(_, link)| link.accepted()) {
        // Labelled: the account is bound there, so its ConfigMaps and Secrets may be read.
        let bound = facts.namespaces.get(namespace).is_some_and(|n| n.marked);
        for (kind, sort, resource) in SOURCES.iter().copied().filter(|(kind, ..)| bound || !matches!(kind, KindId::ConfigMap | KindId::Secret)) {
            out.push((source(kind, sort, *peer, namespace), resource.collection(Some(namespace))));
        }
        let there =
            |kind, sort, once| Purpose { on: Cluster::Peer(*peer), kind, sort, peer: *peer, namespace: namespace.clone(), once, twin: link.uid.clone() };
        let select = |resource: &Resource| format!("{}?labelSelector={}%3D{}", resource.collection(Some(&link.twin)), ORIGIN.replace('/', "%2F"), facts.home);
        out.push((far(*peer, namespace, &link.uid), select(&PODS)));
        for (bit, (kind, sort, resource)) in SWEPT.iter().enumerate() {
            if link.sweep & (1 << bit) != 0 {
                out.push((there(*kind, *sort, true), select(resource)));
            }
        }
    }
    if !facts.consumers.is_empty() {
        let ours = |resource: &Resource, by: &str| {
            format!("{}?labelSelector={}%3Dtrue%2C{}%3D{by}", resource.collection(None), MANAGED.replace('/', "%2F"), MANAGED_BY.replace('/', "%2F"))
        };
        out.push((home(KindId::ShadowPod, Sort::Shadow, HERE), kind::SHADOW_PODS.collection(None)));
        out.push((home(KindId::MadePod, Sort::Shadow, HERE), ours(&PODS, "shadowpod")));
        out.push((home(KindId::ShadowSlice, Sort::Render, HERE), kind::SHADOW_SLICES.collection(None)));
        out.push((home(KindId::Copy, Sort::Render, HERE), ours(&kind::SLICES, "shadowendpointslice")));
    }
    for (peer, consumer) in &facts.consumers {
        let path = format!("{}?fieldSelector=metadata.name%3D{}", MAPS.collection(Some(&consumer.spec.tenant_namespace)), facts.home);
        out.push((home(KindId::NamespaceMap, Sort::Tenant, *peer), path));
    }
    out
}
