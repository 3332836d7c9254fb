//! The agent: told what is seen on watches and what became of calls, it decides what is watched and called next, for both roles. One owner of facts, rows and watches.
//!
//! Driven by the shell or the in-memory world with four verbs: `handle_*`, `handle_timeout`, `poll_*`, `poll_timeout`. It knows no transport and reads no clock.
//! Provider calls all go to `Cluster::Home`; only a consumer calls another cluster. What an object means to the rows is in [`super::route`].

use super::denials::Denials;
use super::facts::{Consumer, Facts, Leaving, Outbox, Provider, Reached, Wake};
use super::kind::{Key, KindId, Seen, Sort};
use super::namespace;
use super::node;
use super::offer::Amount;
use super::reflect::Reflector;
use super::space;
use super::transit::Transit;
use super::watch::{self, Feeds, Order, Purpose, SWEPT, WatchId};
use crate::budget;
use crate::clock::{Instant, Now};
use crate::identity::{ClusterId, PeerId, Prefix};
use crate::kube::call::Call;
use crate::kube::reply::Reply;
use crate::kube::watch::Told;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

/// How often copies at a provider are listed to find what others changed.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// When a list that found its table full is told again.
const FULL_RETRY: Duration = Duration::from_secs(60);
/// The same after an object that could not be read: it will most likely stay so.
const UNREAD_RETRY: Duration = Duration::from_secs(600);

/// What the agent is told of its own cluster.
#[derive(Clone, Debug)]
pub struct AgentSpec {
    /// This cluster's ID.
    pub cluster: ClusterId,
    /// This cluster's own pod prefixes.
    pub pods: Vec<Prefix>,
    /// Our own /17 that no pod has, under which providers are told of each other's pods; without it they are not.
    pub transit: Option<Prefix>,
    /// What virtual nodes say as kubelet version: the home API server's.
    pub kubelet_version: String,
    /// Randomness for jitter.
    pub seed: u64,
}

/// A provider: a cluster that lends resources to this one.
#[derive(Clone, Debug)]
pub struct ProviderSpec {
    /// Its row.
    pub peer: PeerId,
    /// Its cluster ID.
    pub cluster: ClusterId,
    /// The name of its virtual node here.
    pub node: String,
    /// Our tenant namespace there.
    pub tenant_namespace: String,
    /// What it lends.
    pub grant: Amount,
    /// Its architecture in Go's words, as in `arm64`.
    pub architecture: String,
    /// Its pod prefixes and the images under which this cluster sees them.
    pub images: Vec<(Prefix, Prefix)>,
    /// The address of its virtual node.
    pub address: Ipv4Addr,
}

/// A consumer: a cluster that this one lends resources to.
#[derive(Clone, Debug)]
pub struct ConsumerSpec {
    /// Its row.
    pub peer: PeerId,
    /// Its cluster ID.
    pub cluster: ClusterId,
    /// Its tenant namespace here.
    pub tenant_namespace: String,
    /// The name of its ServiceAccount in the tenant namespace.
    pub account: String,
    /// What it was granted.
    pub grant: Amount,
    /// Its pod prefixes and the images under which this cluster sees them.
    pub images: Vec<(Prefix, Prefix)>,
    /// Twin names it may have beside the default ones; a `*` at the end matches any rest.
    pub names: Vec<String>,
}

/// How a provider is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It is asked to delete the twins first, for as long as it answers.
    Asked,
    /// It is not asked anything; what it should still clean up is owed.
    Dead,
}

/// What the edge is to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The virtual node is there and ready.
    NodeReady {
        /// Whose.
        peer: PeerId,
    },
    /// A node of that name exists and is not ours; it is left alone.
    NodeTaken {
        /// Whose node cannot be made.
        peer: PeerId,
        /// The name.
        node: String,
    },
    /// The peer's API server did not accept our credential.
    CredentialRefused {
        /// Whose API server.
        peer: PeerId,
    },
    /// A consumer asked for a twin it may not have.
    TwinRefused {
        /// Which consumer.
        peer: PeerId,
        /// The name.
        twin: String,
        /// Why not.
        why: String,
    },
    /// A provider has left: node, lease and pods here are gone. `owed`: the twins there may not be.
    ProviderGone {
        /// Which.
        peer: PeerId,
        /// Something of ours may be left at the provider.
        owed: bool,
    },
    /// A consumer has left: its twin namespaces here are gone.
    ConsumerGone {
        /// Which.
        peer: PeerId,
    },
    /// A watch is refused, or an object on it cannot be read.
    Trouble {
        /// What, where and why.
        what: String,
    },
    /// A table is full; the object waits.
    Full {
        /// What could not be taken.
        what: String,
    },
}

/// The offload core. See the module's head.
#[derive(Debug)]
pub struct Agent {
    pub(super) facts: Facts,
    pub(super) loops: Reflector,
    pub(super) feeds: Feeds,
    pub(super) now: Now,
    /// Watches may have to be opened or closed.
    pub(super) stale: bool,
    /// The last object told found no row.
    pub(super) refused: bool,
}

impl Agent {
    /// An agent without peers.
    pub fn new(spec: AgentSpec, now: Now) -> Agent {
        let facts = Facts {
            home: spec.cluster,
            pods: spec.pods,
            kubelet_version: spec.kubelet_version,
            providers: BTreeMap::new(),
            consumers: BTreeMap::new(),
            links: BTreeMap::new(),
            links_changed: false,
            twins: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            namespaces_at: Reached::default(),
            offloadings: BTreeMap::new(),
            used: BTreeMap::new(),
            bindings: BTreeSet::new(),
            bindings_at: Reached::default(),
            namespaces_synced: false,
            offloadings_synced: false,
            bindings_synced: false,
            shadows_synced: false,
            made_synced: false,
            shadow_slices_synced: false,
            transit: Transit::new(spec.transit),
            denials: Denials::default(),
            out: Outbox::default(),
        };
        Agent { facts, loops: Reflector::new(spec.seed), feeds: Feeds::default(), now, stale: true, refused: false }
    }

    /// Takes a provider, or its changed terms. It counts as unreachable until [`Agent::set_reachable`] says otherwise.
    pub fn add_provider(&mut self, spec: ProviderSpec) {
        let peer = spec.peer;
        let labels = node::labels(&spec);
        match self.facts.providers.get_mut(&peer) {
            // One that is being left stays so: other terms do not make it welcome again.
            Some(provider) => provider.spec = spec,
            None => {
                let provider = Provider {
                    spec,
                    reachable: false,
                    since: self.now.mono,
                    leaving: None,
                    node: None,
                    node_at: Reached::default(),
                    node_synced: false,
                    labels,
                    pods_synced: false,
                    pods_whole: false,
                    home_pods: 0,
                    map: None,
                    map_at: Reached::default(),
                    map_synced: false,
                };
                self.facts.providers.insert(peer, provider);
            }
        }
        for sort in [Sort::Node, Sort::Map] {
            self.facts.wake(Wake::Row(Key::new(sort, peer, "", "")));
        }
        self.changed();
    }

    /// Begins to leave a provider; [`Event::ProviderGone`] says when nothing of it is left here.
    pub fn remove_provider(&mut self, peer: PeerId, how: How) {
        let now = self.now.mono;
        let Some(provider) = self.facts.providers.get_mut(&peer) else {
            self.facts.event(Event::ProviderGone { peer, owed: false });
            return;
        };
        let since = provider.leaving.map_or(now, |l| l.since);
        let dead = how == How::Dead || provider.leaving.is_some_and(|l| l.dead);
        provider.leaving = Some(Leaving { since, dead });
        self.facts.wake(Wake::Peer(peer));
        self.changed();
    }

    /// Takes a consumer, or its changed terms.
    pub fn add_consumer(&mut self, spec: ConsumerSpec) {
        let peer = spec.peer;
        match self.facts.consumers.get_mut(&peer) {
            Some(consumer) => {
                consumer.spec = spec;
                consumer.leaving = false;
            }
            None => {
                self.facts.consumers.insert(peer, Consumer::new(spec));
            }
        }
        self.facts.wake(Wake::Row(Key::new(Sort::Tenant, peer, "", "")));
        self.find_twins();
        self.changed();
    }

    /// Begins to take down all that a consumer has here; [`Event::ConsumerGone`] says when it is done.
    pub fn remove_consumer(&mut self, peer: PeerId) {
        let Some(consumer) = self.facts.consumers.get_mut(&peer) else {
            self.facts.event(Event::ConsumerGone { peer });
            return;
        };
        consumer.leaving = true;
        self.find_twins();
        self.facts.wake(Wake::Row(Key::new(Sort::Tenant, peer, "", "")));
        self.facts.wake(Wake::Peer(peer));
        self.changed();
    }

    /// Whether the peer's API (a provider's) or tunnel (a consumer's) answers.
    pub fn set_reachable(&mut self, peer: PeerId, reachable: bool, now: Now) {
        self.now = now;
        if let Some(provider) = self.facts.providers.get_mut(&peer)
            && provider.reachable != reachable
        {
            (provider.reachable, provider.since) = (reachable, now.mono);
            self.facts.wake(Wake::Peer(peer));
            if reachable {
                self.feeds.hurry(peer, now.mono);
            }
        }
        if let Some(consumer) = self.facts.consumers.get_mut(&peer)
            && consumer.reachable != reachable
        {
            consumer.reachable = reachable;
            self.facts.wake(Wake::Peer(peer));
            let twins: Vec<Box<str>> = self.facts.twins.iter().filter(|(_, of)| **of == peer).map(|(twin, _)| twin.clone()).collect();
            for twin in twins {
                self.facts.wake(Wake::Twin(twin));
            }
        }
        self.settle_down();
    }

    /// Something happened on a watch. What is told of a watch that was closed is ignored.
    pub fn handle_told(&mut self, id: WatchId, told: Told<Seen>, now: Now) {
        self.now = now;
        let Some(feed) = self.feeds.feed(id) else { return };
        let purpose = feed.purpose.clone();
        match told {
            Told::Seen(seen) => {
                if feed.listing && feed.names.len() < 4 * budget::ROWS && super::route::by_name(purpose.kind) {
                    feed.names.insert(super::route::name_of(purpose.kind, &seen));
                }
                let round = feed.round;
                self.seen(&purpose, round, seen, false);
                if std::mem::take(&mut self.refused) {
                    self.feeds.flaw(id, false, now.mono + FULL_RETRY);
                    self.doubt(&purpose);
                }
            }
            Told::Gone(seen) => {
                let round = feed.round;
                self.seen(&purpose, round, seen, true);
            }
            Told::Synced(version) => {
                feed.listing = false;
                let (round, names) = (feed.round, std::mem::take(&mut feed.names));
                let at = version.parse().unwrap_or(0);
                let whole = !feed.unread;
                self.feeds.reached(id, version);
                self.told_up_to(&purpose, at);
                self.synced(&purpose, round, at, whole.then_some(&names));
            }
            Told::Bookmark(version) => {
                self.told_up_to(&purpose, version.parse().unwrap_or(0));
                self.feeds.reached(id, version);
            }
            Told::Cut => self.feeds.ended(id, false, Duration::ZERO, now.mono),
            Told::Expired => {
                self.feeds.ended(id, true, Duration::ZERO, now.mono);
                // Without its history a provider may have lost more than what is watched there (it was restored from a copy, say).
                if purpose.kind == KindId::FarPod
                    && let Some(link) = self.facts.links.get_mut(&(purpose.peer, purpose.namespace.clone()))
                    && link.sweep_at.is_some()
                {
                    link.sweep_at = Some(now.mono);
                }
            }
            Told::Refused(why) => {
                let place = if purpose.namespace.is_empty() { String::new() } else { format!(" in {}", purpose.namespace) };
                self.facts.event(Event::Trouble { what: format!("the watch on each {}{place} is refused: {why}", purpose.kind) });
                self.feeds.ended(id, false, Duration::from_secs(1), now.mono);
            }
            Told::Unreadable(name, why) => {
                let name = name.unwrap_or_else(|| "without a name".into());
                self.facts.event(Event::Trouble { what: format!("{} {name} cannot be read: {why}", purpose.kind) });
                self.feeds.flaw(id, true, now.mono + UNREAD_RETRY);
                self.doubt(&purpose);
            }
        }
        self.settle_down();
    }

    /// Not all of home's pods are known: what none of the known ones uses may be in use all the same.
    fn doubt(&mut self, purpose: &Purpose) {
        if purpose.kind == KindId::HomePod
            && let Some(provider) = self.facts.providers.get_mut(&purpose.peer)
        {
            provider.pods_whole = false;
        }
    }

    /// The reply to a call of [`Agent::poll_call`].
    pub fn handle_reply(&mut self, id: u32, reply: Reply, now: Now) {
        self.now = now;
        self.loops.handle_reply(id, &reply, &mut self.facts, now);
        self.settle_down();
    }

    /// Time has come to [`Agent::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        self.settle_down();
    }

    /// The next call to carry out; each is answered by [`Agent::handle_reply`] under its number.
    pub fn poll_call(&mut self) -> Option<(u32, Call)> {
        let before = (self.facts.providers.len(), self.facts.consumers.len(), self.facts.twins.len());
        let call = self.loops.poll_call(&mut self.facts, self.now);
        if before != (self.facts.providers.len(), self.facts.consumers.len(), self.facts.twins.len()) {
            self.changed();
        }
        self.settle_down();
        call
    }

    /// The next watch to open or close.
    pub fn poll_watch(&mut self) -> Option<Order> {
        self.settle_down();
        self.feeds.poll()
    }

    /// A provider that may reach other pods of third clusters than before: which, each as the address it is told and the image here.
    pub fn poll_transit(&mut self) -> Option<(PeerId, Vec<(Ipv4Addr, Ipv4Addr)>)> {
        self.facts.transit.poll()
    }

    /// Which pods of third clusters a provider may reach; see [`Agent::poll_transit`].
    pub fn transit(&self, peer: PeerId) -> Vec<(Ipv4Addr, Ipv4Addr)> {
        self.facts.transit.table(peer)
    }

    /// How often an endpoint of a third cluster was left out of what a provider is told, for want of a place.
    pub fn left_out(&self) -> u64 {
        self.facts.transit.left_out()
    }

    /// What the edge is to know next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.facts.out.events.pop_front()
    }

    /// When [`Agent::handle_timeout`] is next needed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let swept = |((peer, _), link): (&(PeerId, Box<str>), &super::facts::Link)| {
            let due = link.accepted() && self.facts.providers.get(peer).is_some_and(|p| p.reachable);
            link.sweep_at.filter(|_| due)
        };
        let sweep = self.facts.links.iter().filter_map(swept).min();
        [self.loops.next_due(), self.feeds.next_due(&self.facts), sweep].into_iter().flatten().min()
    }

    /// What virtual nodes say as kubelet version, once it is known.
    pub fn set_kubelet_version(&mut self, version: &str) {
        self.facts.kubelet_version = version.to_owned();
    }

    /// How many objects are being kept in step, for the status and the metrics.
    pub fn rows(&self) -> usize {
        self.loops.table.len()
    }

    /// How many rows of each kind are used, and how many there may be; the names are the metric's labels.
    pub fn fill(&self) -> impl Iterator<Item = (&'static str, usize, usize)> + '_ {
        Sort::ALL.iter().map(|&(sort, name)| (name, self.loops.table.count(sort), sort.capacity()))
    }

    /// How often what consumers' objects ask for was refused since the daemon began, by reason; the names are the metric's labels.
    pub fn denials(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.facts.denials.counted()
    }

    /// Namespaces, providers or what is known of them changed: links and watches follow.
    pub(super) fn changed(&mut self) {
        namespace::relink(&mut self.facts);
        self.facts.links_changed = true;
    }

    /// Rows for the twins that consumers have here, wanted or not.
    pub(super) fn find_twins(&mut self) {
        let mut found = Vec::new();
        for (peer, consumer) in &self.facts.consumers {
            let theirs = self.facts.namespaces.values().filter(|n| n.marked && *n.consumer == *consumer.spec.cluster.as_str());
            found.extend(theirs.map(|n| Key::new(Sort::Twin, *peer, "", &n.original)));
            let wanted = consumer.map.iter().flat_map(|m| m.desired.keys());
            found.extend(wanted.map(|original| Key::new(Sort::Twin, *peer, "", original)));
        }
        for key in found {
            match self.loops.table.enter(key) {
                Ok(slot) => self.loops.table.touch(slot, self.now.mono),
                Err(_) => self.facts.event(Event::Full { what: "the table of twin namespaces is full".into() }),
            }
        }
    }

    /// Due sweeps, watches in line, rows that facts asked for.
    fn settle_down(&mut self) {
        let now = self.now.mono;
        if std::mem::take(&mut self.facts.links_changed) {
            for link in self.facts.links.values_mut().filter(|l| l.accepted() && l.sweep_at.is_none()) {
                link.sweep_at = Some(now);
            }
            self.loops.table.touch_where(now, false, |k| k.sort == Sort::Space);
            if self.facts.transit.look(&self.facts.links, &self.facts.providers) {
                self.feeds.all_again(KindId::EndpointSlice, now);
            }
            self.stale = true;
        }
        let reachable: Vec<PeerId> = self.facts.providers.iter().filter(|(_, p)| p.reachable).map(|(peer, _)| *peer).collect();
        for ((peer, _), link) in &mut self.facts.links {
            if link.accepted() && reachable.contains(peer) && link.sweep_at.is_some_and(|at| at <= now) {
                link.sweep = (1 << SWEPT.len()) - 1;
                link.sweep_at = Some(now + SWEEP_EVERY + Duration::from_secs(self.loops.chance(360)));
                self.stale = true;
            }
        }
        self.stale |= self.feeds.begin_again(now);
        if std::mem::take(&mut self.stale) {
            self.feeds.align(watch::wanted(&self.facts), now);
        }
        self.feeds.open_due(&self.facts, now);
        // A link that went and came back between two alignments has kept its watch, which tells its list only once.
        for ((peer, namespace), link) in &mut self.facts.links {
            if !link.far_synced && link.accepted() && self.feeds.synced(&watch::far(*peer, namespace, &link.uid)) {
                link.far_synced = true;
                self.facts.out.wake.push(Wake::Link(*peer, namespace.clone()));
            }
        }
        self.loops.wake(&mut self.facts, now);
    }

    /// A home namespace's row is looked at, and made if there is none.
    pub(super) fn look_at_space(&mut self, name: &str) {
        match self.loops.table.enter(space::space(name)) {
            Ok(slot) => self.loops.table.touch(slot, self.now.mono),
            Err(_) => self.facts.event(Event::Full { what: format!("namespace {name}: {} are offloaded", budget::NAMESPACES) }),
        }
    }
}
