//! The whole of it: edges over their own API servers and a network with a router in it: invited, joined, offloading, left, through everything that goes wrong.
//!
//! Control requests and calls to a peer go as packets through the tunnel, sent again each second as TCP would, so they arrive only when it really carries.
//! Always: what the watchdog watches; a ticket has at most one taker. In the end: what was wanted stands; after leaving nothing of ours is left on either side.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};

use super::offload::pod;
use super::tunnel::{sum, system};
use crate::clock::Instant;
use crate::edge::{
    Account, AskId, Authority, Checksum, Edge, Endpoint, Facts, InviteOrder, JoinOrder, KindId, Ledger, Order, Output, Owner, Progress, Request, RequestId,
    Resources, Verdict, WatchId, clamp,
};
use crate::identity::{CONTROL_PORT, ClusterId, PeerId, PublicKey};
use crate::kube::call::{Body, Call, Cluster, Verb};
use crate::kube::reply::Reply;
use crate::kube::watch::{Told, Watch};
use crate::offload::read;
use crate::world::api_server::server::terminating;
use crate::world::api_server::{Faults, StreamId, stream};
use crate::world::chance::Chance;
use crate::world::clock::{Agenda, Clock};
use crate::world::net::{HostId, Net, RouterId, Weather};
use crate::world::site::{Site, carry_out};
use crate::world::watchdog::{OURS, Watchdog};

const HUB: usize = 0;
const NAMES: [&str; 3] = ["hub", "edge", "field"];
const LENT: Resources = Resources { cpu: 8_000, memory: 8_192, pods: 50 };
/// How long a control request or call may take.
const PATIENCE: Duration = Duration::from_secs(30);
const SETS: &str = "/apis/apps/v1/namespaces/shop/replicasets";
const OFFLOADING: &str = "/apis/offloading.liqo.io/v1beta1/namespaces/shop/namespaceoffloadings";

struct Machine {
    host: HostId,
    facts: Facts,
    edge: Edge,
    /// What the state file holds.
    file: String,
    /// Of 1000 writes of it, those that fail.
    disk_fails: u16,
    life: u32,
    targets: BTreeMap<PeerId, Target>,
    feeds: BTreeMap<WatchId, Feed>,
}

struct Target {
    to: Ipv4Addr,
    bearer: String,
    token: String,
}

struct Feed {
    kind: KindId,
    site: usize,
    stream: StreamId,
    /// Through which peer's passage: its row here, and the server's life and our address there.
    through: Option<(PeerId, u32, Ipv4Addr)>,
    broken: bool,
}

#[derive(Clone, Copy)]
enum Whose {
    Ask(AskId),
    Call(Owner),
    Open(WatchId),
}

enum Load {
    Ask(&'static str, String),
    Call(Call),
    Open(KindId, Watch),
}

enum Outcome {
    Answer(u16, Vec<u8>),
    Reply(Reply),
    Opened(KindId, usize, StreamId),
    Refused(String),
}

/// A request over the tunnel and what has become of it.
struct Exchange {
    from: usize,
    life: u32,
    peer: PeerId,
    to: Ipv4Addr,
    bearer: String,
    token: String,
    whose: Whose,
    load: Option<Load>,
    /// Where it arrived: the machine, its life, and the caller as seen there.
    at: Option<(usize, u32, Ipv4Addr)>,
    outcome: Option<Outcome>,
    until: Instant,
}

enum Due {
    Do(Owner, Call),
    Open(WatchId, KindId, Watch),
    Reply(Owner, Reply),
    Told(WatchId, Told<crate::edge::Seen>),
    Send(u64),
}

struct Journey {
    seed: u64,
    told: bool,
    chance: Chance,
    clock: Clock,
    net: Net,
    routers: Vec<RouterId>,
    sites: Vec<Site>,
    machines: Vec<Machine>,
    due: Agenda<(usize, u32, Due)>,
    exchanges: BTreeMap<u64, Exchange>,
    numbers: u64,
    cut: BTreeSet<usize>,
    watchdog: Watchdog,
    takers: BTreeMap<PublicKey, PublicKey>,
    counter: u32,
}

fn id(which: usize) -> ClusterId {
    NAMES[which].parse().expect("an ID")
}

fn facts(which: usize) -> Facts {
    Facts {
        pods: vec!["10.42.0.0/16".parse().expect("a prefix")],
        in_use: ["10.43.0.0/16", "192.168.1.0/24"].iter().map(|p| p.parse().expect("a prefix")).collect(),
        addresses: vec![[192, 168, 1, 7].into()],
        nodes: vec![format!("{}-1", NAMES[which])],
        architecture: "arm64".into(),
        ca: "-----BEGIN CERTIFICATE-----\nx\n".into(),
        api_name: "kubernetes.default.svc".into(),
        boot: "boot-1".into(),
        account: Account { namespace: "sluice".into(), name: "sluice".into() },
    }
}

fn start(file: &str, facts: &Facts, seed: u64, clock: &Clock) -> Edge {
    let ledger = Ledger::parse(file.as_bytes()).expect("what was saved can be read");
    let authority = Authority::new(ledger, facts.clone(), clock.now()).expect("it starts");
    let mut edge = Edge::new(authority, seed, clock.now(), system());
    edge.gateway().set_local(&facts.pods, &[]).expect("there is room");
    edge.set_kubelet_version("v1.37.0");
    edge
}

impl Journey {
    fn new(seed: u64, told: bool) -> Self {
        let mut chance = Chance::new(seed);
        let clock = Clock::new();
        let mut net = Net::new(chance.split());
        let count = if seed.is_multiple_of(3) { 3 } else { 2 };
        let mut routers = Vec::new();
        let (mut sites, mut machines) = (Vec::new(), Vec::new());
        for which in 0..count {
            let host = if which == HUB {
                net.host(([203, 0, 113, 10], 51820).into())
            } else {
                routers.push(net.router(Ipv4Addr::new(198, 51, 100, which as u8)));
                net.host_behind(routers[which - 1], ([192, 168, which as u8, 20], 51820).into())
            };
            sites.push(Site::new(NAMES[which], &mut chance));
            let file = Ledger::new(id(which), clamp(chance.bytes())).snapshot();
            let facts = facts(which);
            let edge = start(&file, &facts, chance.bits(), &clock);
            machines.push(Machine { host, facts, edge, file, disk_fails: 0, life: 0, targets: BTreeMap::new(), feeds: BTreeMap::new() });
        }
        sites[HUB].api.make("/api/v1/namespaces/default/pods", pod("bystander", "i"));
        let mut journey = Journey {
            seed,
            told,
            chance,
            clock,
            net,
            routers,
            sites,
            machines,
            due: Agenda::default(),
            exchanges: BTreeMap::new(),
            numbers: 0,
            cut: BTreeSet::new(),
            watchdog: Watchdog::default(),
            takers: BTreeMap::new(),
            counter: 0,
        };
        (0..count).for_each(|which| journey.drain(which));
        journey
    }

    fn tell(&self, what: &str) {
        if self.told {
            println!("{:9.3} {what}", self.clock.now().mono.since_boot().as_secs_f64());
        }
    }

    fn soon(&mut self) -> Instant {
        let most = if self.chance.happens(20) { 150_000 } else { 15_000 };
        self.clock.now().mono + Duration::from_micros(500 + self.chance.below(most))
    }

    // What an edge wants done.

    fn drain(&mut self, which: usize) {
        let now = self.clock.now();
        while let Some(output) = self.machines[which].edge.poll_output(now, system, true) {
            self.output(which, output);
        }
        let mut out = [0; 2048];
        while let Some((to, len)) = self.machines[which].edge.poll_datagram(now, &mut out) {
            self.net.send(self.machines[which].host, to, &out[..len], now.mono);
        }
    }

    fn output(&mut self, which: usize, output: Output) {
        let (now, life) = (self.clock.now(), self.machines[which].life);
        match output {
            Output::Save(text) => {
                let fails = self.chance.happens(self.machines[which].disk_fails);
                if !fails {
                    self.machines[which].file = text;
                }
                self.machines[which].edge.saved(if fails { Err("no space left on the device".into()) } else { Ok(()) }, now);
                self.note_takers(which);
            }
            Output::Answer { request, status, body } => {
                let Some(exchange) = self.exchanges.get_mut(&u64::from(request.0)) else { return };
                exchange.outcome = Some(match exchange.whose {
                    Whose::Ask(_) => Outcome::Answer(status, body.into_bytes()),
                    _ => Outcome::Refused(format!("the passage is refused: {status}")),
                });
                self.send(u64::from(request.0), true);
            }
            Output::Passage { request, .. } => self.pass_on(which, u64::from(request.0)),
            Output::Ask { ask, to, path, bearer, body } => {
                self.tell(&format!("{} asks {to} {path}", NAMES[which]));
                let peer = self.machines[which].edge.external().caller(to).expect("the control end of a row");
                self.begin(which, peer, Target { to, bearer, token: String::new() }, Whose::Ask(ask), Load::Ask(path, body));
            }
            Output::Call(owner, call) => match far(&call) {
                None => {
                    let at = self.soon();
                    self.due.put(at, (which, life, Due::Do(owner, call)));
                }
                Some(peer) => match self.target(which, peer) {
                    Some(target) => self.begin(which, peer, target, Whose::Call(owner), Load::Call(call)),
                    None => {
                        let at = self.soon();
                        self.due.put(at, (which, life, Due::Reply(owner, Reply::Unreachable("the API server is not known".into()))));
                    }
                },
            },
            Output::Watch(Order::Open { id, kind, watch }) => match watch.on {
                Cluster::Home => {
                    let at = self.soon();
                    self.due.put(at, (which, life, Due::Open(id, kind, watch)));
                }
                Cluster::Peer(peer) => match self.target(which, peer) {
                    Some(target) => self.begin(which, peer, target, Whose::Open(id), Load::Open(kind, watch)),
                    None => {
                        let at = self.soon();
                        self.due.put(at, (which, life, Due::Told(id, Told::Cut)));
                    }
                },
            },
            Output::Watch(Order::Close { id }) => {
                if let Some(feed) = self.machines[which].feeds.remove(&id) {
                    self.sites[feed.site].api.unwatch(feed.stream);
                }
                let gone = |w: usize, l: u32, due: &Due| w == which && l == life && matches!(due, Due::Open(open, ..) | Due::Told(open, _) if *open == id);
                self.due.retain(|(w, l, due)| !gone(*w, *l, due));
                let over: Vec<u64> =
                    self.exchanges.iter().filter(|(_, e)| e.from == which && matches!(e.whose, Whose::Open(open) if open == id)).map(|(n, _)| *n).collect();
                over.into_iter().for_each(|number| self.forget(number));
            }
            Output::Target { peer, to, bearer, token, .. } => {
                self.machines[which].targets.insert(peer, Target { to, bearer, token });
            }
            Output::NoTarget(peer) => {
                self.machines[which].targets.remove(&peer);
                self.drop_connections(which, peer);
            }
            Output::Returned(peer) => self.drop_connections(which, peer),
            Output::Closed { from } => {
                for machine in &mut self.machines {
                    machine
                        .feeds
                        .values_mut()
                        .filter(|f| f.site == which && f.through.is_some_and(|(_, _, there)| there == from))
                        .for_each(|f| f.broken = true);
                }
                for exchange in self.exchanges.values_mut().filter(|e| e.at.is_some_and(|(at, _, there)| at == which && there == from)) {
                    exchange.until = now.mono;
                }
            }
            Output::Progress(peer, progress) => {
                if !matches!(progress, Progress::Retrying(_)) || self.told {
                    self.tell(&format!("{} row {}: {progress:?}", NAMES[which], peer.0));
                }
            }
            Output::Said(event) => self.tell(&format!("{} says {event:?}", NAMES[which])),
            Output::Gone(peer, cluster) => self.tell(&format!("{} row {}: {cluster} is gone", NAMES[which], peer.0)),
            Output::Resolve(..) | Output::Host => {}
        }
    }

    fn target(&self, which: usize, peer: PeerId) -> Option<Target> {
        self.machines[which].targets.get(&peer).map(|t| Target { to: t.to, bearer: t.bearer.clone(), token: t.token.clone() })
    }

    /// A ticket is taken by one key at most, whatever happens.
    fn note_takers(&mut self, which: usize) {
        for ticket in &self.machines[which].edge.authority().ledger().tickets {
            if let crate::auth::ledger::TicketState::Used(by) = ticket.state {
                let first = *self.takers.entry(ticket.key).or_insert(by);
                assert_eq!(first, by, "seed {}: a ticket was taken twice", self.seed);
            }
        }
    }

    // Requests over the tunnel.

    fn begin(&mut self, which: usize, peer: PeerId, target: Target, whose: Whose, load: Load) {
        self.numbers += 1;
        let Target { to, bearer, token } = target;
        let (life, until) = (self.machines[which].life, self.clock.now().mono + PATIENCE);
        let exchange = Exchange { from: which, life, peer, to, bearer, token, whose, load: Some(load), at: None, outcome: None, until };
        self.exchanges.insert(self.numbers, exchange);
        let at = self.soon();
        self.due.put(at, (which, life, Due::Send(self.numbers)));
    }

    /// Sends the request, or the answer, as a packet.
    fn send(&mut self, number: u64, back: bool) {
        let Some(exchange) = self.exchanges.get(&number) else { return };
        let (which, to) = match (back, exchange.at) {
            (true, Some((at, _, caller))) => (at, caller),
            _ => (exchange.from, exchange.to),
        };
        let own = self.machines[which].edge.external().own_control();
        let packet = segment(own, to, number, back);
        self.transmit(which, packet);
    }

    fn transmit(&mut self, which: usize, mut packet: Vec<u8>) {
        let (now, mut out) = (self.clock.now(), [0; 2048]);
        if let Verdict::ToPeer { to, len } = self.machines[which].edge.handle_packet(&mut packet, Checksum::Whole, now, &mut out) {
            self.net.send(self.machines[which].host, to, &out[..len], now.mono);
        }
        while let Some((to, len)) = self.machines[which].edge.poll_datagram(now, &mut out) {
            self.net.send(self.machines[which].host, to, &out[..len], now.mono);
        }
    }

    fn receive(&mut self, which: usize, from: SocketAddr, datagram: &[u8]) {
        let (now, mut out) = (self.clock.now(), [0; 2048]);
        match self.machines[which].edge.handle_datagram(from, datagram, now, system, &mut out) {
            Verdict::ToPeer { to, len } => self.net.send(self.machines[which].host, to, &out[..len], now.mono),
            Verdict::ToTun { len, .. } => self.packet(which, &out[..len]),
            _ => {}
        }
        self.drain(which);
    }

    /// What the kernel and the listener make of a packet.
    fn packet(&mut self, which: usize, packet: &[u8]) {
        let (source, own): ([u8; 4], [u8; 4]) = (packet[12..16].try_into().expect("a packet"), packet[16..20].try_into().expect("a packet"));
        if packet[9] == 1 && packet[20] == 8 {
            let mut echo = packet.to_vec();
            echo[12..16].copy_from_slice(&own);
            echo[16..20].copy_from_slice(&source);
            echo[20..24].copy_from_slice(&[0; 4]);
            let check = sum(&echo[20..], 0);
            echo[22..24].copy_from_slice(&check.to_be_bytes());
            return self.transmit(which, echo);
        }
        if packet[9] != 6 || packet.len() < 48 {
            return;
        }
        let number = u64::from_be_bytes(packet[40..48].try_into().expect("a packet of ours"));
        let (number, back) = (number / 2, number % 2 == 1);
        let life = self.machines[which].life;
        let Some(exchange) = self.exchanges.get_mut(&number) else { return };
        if back {
            if exchange.from == which && exchange.outcome.is_some() {
                self.complete(number);
            }
        } else if exchange.outcome.is_some() {
            self.send(number, true);
        } else if exchange.at.is_none() {
            exchange.at = Some((which, life, source.into()));
            let (method, path, body) = match exchange.load.as_ref() {
                Some(Load::Ask(path, body)) => ("POST", *path, body.clone()),
                _ => ("CONNECT", "kubernetes.default.svc:443", String::new()),
            };
            let bearer = exchange.bearer.clone();
            let request = Request { from: source.into(), method, path, bearer: Some(&bearer), body: body.as_bytes() };
            let now = self.clock.now();
            self.machines[which].edge.handle_request(RequestId(number as u32), &request, now);
        }
    }

    /// The passage is open: the API server behind it is asked.
    fn pass_on(&mut self, which: usize, number: u64) {
        let Some(exchange) = self.exchanges.get_mut(&number) else { return };
        let (from, known) = (exchange.from, self.sites[which].api.knows(&exchange.token).is_some());
        let outcome = match exchange.load.take() {
            Some(Load::Call(_)) if !known => Outcome::Reply(Reply::Unauthorized),
            Some(Load::Open(..)) if !known => Outcome::Reply(Reply::Unauthorized),
            Some(Load::Call(call)) => {
                let said = format!("{} {:?} at {} {}", NAMES[from], call.verb, NAMES[which], call.path);
                let reply = carry_out(&mut self.sites, NAMES[from], |to| Some(if to == Cluster::Home { from } else { which }), call);
                if self.told {
                    let reply = format!("{reply:?}");
                    println!("{:9.3} {said} -> {}", self.clock.now().mono.since_boot().as_secs_f64(), &reply[..reply.len().min(60)]);
                }
                Outcome::Reply(reply)
            }
            Some(Load::Open(kind, watch)) => Outcome::Opened(kind, which, self.sites[which].api.watch(&watch.path, watch.from.as_deref())),
            Some(Load::Ask(..)) | None => Outcome::Refused("no such request".into()),
        };
        if let Some(exchange) = self.exchanges.get_mut(&number) {
            exchange.outcome = Some(outcome);
        }
        self.send(number, true);
    }

    /// The answer has arrived.
    fn complete(&mut self, number: u64) {
        let Some(exchange) = self.exchanges.remove(&number) else { return };
        let now = self.clock.now();
        let Exchange { from, life, peer, whose, outcome, at, .. } = exchange;
        if life != self.machines[from].life {
            return;
        }
        let edge = &mut self.machines[from].edge;
        match (whose, outcome) {
            (Whose::Ask(ask), Some(Outcome::Answer(status, body))) => edge.handle_answer(ask, Ok((status, body)), now),
            (Whose::Ask(ask), _) => edge.handle_answer(ask, Err("the connection broke".into()), now),
            (Whose::Call(owner), Some(Outcome::Reply(reply))) => edge.handle_reply(owner, reply, now),
            (Whose::Call(owner), Some(Outcome::Refused(why))) => edge.handle_reply(owner, Reply::Unreachable(why), now),
            (Whose::Call(owner), _) => edge.handle_reply(owner, Reply::Unreachable("no answer in time".into()), now),
            (Whose::Open(watch), Some(Outcome::Opened(kind, site, stream))) => {
                let through = at.map(|(_, life, caller)| (peer, life, caller));
                self.machines[from].feeds.insert(watch, Feed { kind, site, stream, through, broken: false });
            }
            (Whose::Open(watch), outcome) => {
                if matches!(outcome, Some(Outcome::Reply(Reply::Unauthorized))) {
                    edge.handle_unauthorized(peer, now);
                }
                edge.handle_told(watch, Told::Cut, now);
            }
        }
        self.drain(from);
    }

    /// Nobody waits for it any more.
    fn forget(&mut self, number: u64) {
        if let Some(Exchange { outcome: Some(Outcome::Opened(_, site, stream)), .. }) = self.exchanges.remove(&number) {
            self.sites[site].api.unwatch(stream);
        }
    }

    /// All connections of a machine to a peer's API server end.
    fn drop_connections(&mut self, which: usize, peer: PeerId) {
        let now = self.clock.now().mono;
        self.machines[which].feeds.values_mut().filter(|f| f.through.is_some_and(|(row, ..)| row == peer)).for_each(|f| f.broken = true);
        for exchange in self.exchanges.values_mut().filter(|e| e.from == which && e.peer == peer && !matches!(e.whose, Whose::Ask(_))) {
            exchange.until = now;
        }
    }

    fn carry(&mut self, which: usize, life: u32, due: Due) {
        let now = self.clock.now();
        let alive = life == self.machines[which].life;
        match due {
            Due::Do(owner, call) => {
                // A request that a dead process had sent may still arrive, or not.
                if !alive && self.chance.happens(500) {
                    return;
                }
                let what = format!("{} {:?} {}", NAMES[which], call.verb, call.path);
                let reply = carry_out(&mut self.sites, NAMES[which], |to| (to == Cluster::Home).then_some(which), call);
                if self.told && !what.contains("/leases/") {
                    let said = format!("{reply:?}");
                    self.tell(&format!("{what} -> {}", &said[..said.len().min(60)]));
                }
                if alive {
                    let at = self.soon();
                    self.due.put(at, (which, life, Due::Reply(owner, reply)));
                }
            }
            Due::Send(number) => {
                let Some(exchange) = self.exchanges.get(&number) else { return };
                let reset = exchange.at.is_some_and(|(at, life, _)| self.machines[at].life != life);
                if !alive {
                    self.forget(number);
                } else if reset || exchange.until <= now.mono {
                    if let Some(Exchange { outcome, .. }) = self.exchanges.get_mut(&number)
                        && let Some(Outcome::Opened(_, site, stream)) = outcome.take()
                    {
                        self.sites[site].api.unwatch(stream);
                    }
                    self.complete(number);
                } else {
                    self.due.put(now.mono + Duration::from_secs(1), (which, life, Due::Send(number)));
                    self.send(number, false);
                }
            }
            _ if !alive => return,
            Due::Reply(owner, reply) => self.machines[which].edge.handle_reply(owner, reply, now),
            Due::Told(id, told) => self.machines[which].edge.handle_told(id, told, now),
            Due::Open(id, kind, watch) => {
                let stream = self.sites[which].api.watch(&watch.path, watch.from.as_deref());
                self.machines[which].feeds.insert(id, Feed { kind, site: which, stream, through: None, broken: false });
            }
        }
        self.drain(which);
    }

    /// Tells one thing of one watch that has news and can tell it. False if none has.
    fn tell_one(&mut self) -> bool {
        let mut news = Vec::new();
        for (which, machine) in self.machines.iter().enumerate() {
            for (id, feed) in &machine.feeds {
                let broken = feed.broken || feed.through.is_some_and(|(_, life, _)| self.machines[feed.site].life != life);
                let carries = feed.through.is_none_or(|(peer, ..)| machine.edge.is_heard(peer) && !self.cut.contains(&which));
                if broken || carries && self.sites[feed.site].api.has_news(feed.stream) {
                    news.push((which, *id, broken));
                }
            }
        }
        let Some(&(which, id, broken)) = self.chance.pick(&news) else { return false };
        let feed = &self.machines[which].feeds[&id];
        let (site, stream, kind) = (feed.site, feed.stream, feed.kind);
        let said = if broken {
            self.sites[site].api.unwatch(stream);
            Some(Told::Cut)
        } else {
            self.sites[site].api.told(stream).map(|told| stream::read(told, |object| read(kind, object)))
        };
        let Some(said) = said else { return true };
        if matches!(said, Told::Cut | Told::Expired | Told::Refused(_)) {
            self.machines[which].feeds.remove(&id);
        }
        self.machines[which].edge.handle_told(id, said, self.clock.now());
        self.drain(which);
        true
    }

    fn check(&mut self) {
        if let Err(why) = self.watchdog.look(&self.sites, &NAMES[..self.sites.len()]) {
            panic!("seed {} at {:?}: {why}", self.seed, self.clock.now().mono);
        }
        for site in &mut self.sites {
            site.api.journal.clear();
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.clock.now().mono + time;
        let mut spins = (Instant::default(), 0);
        loop {
            while self.chance.happens(850) && self.tell_one() {
                self.check();
            }
            let timers = self.machines.iter().filter_map(|m| m.edge.poll_timeout());
            let next = timers.chain(self.net.next()).chain(self.due.next()).chain(self.sites.iter().filter_map(Site::next)).min();
            let sites = &mut self.sites;
            let late = self.machines.iter().any(|m| m.feeds.values().any(|f| f.broken || sites[f.site].api.has_news(f.stream)));
            let soon = late.then(|| self.clock.now().mono + Duration::from_millis(1 + self.chance.below(30)));
            let Some(next) = next.into_iter().chain(soon).min().filter(|next| *next <= until) else { break };
            self.clock.reach(next);
            let now = self.clock.now();
            spins = if spins.0 == now.mono { (now.mono, spins.1 + 1) } else { (now.mono, 0) };
            assert!(spins.1 < 5_000, "seed {}: time stands still at {:?}", self.seed, now.mono);
            self.sites.iter_mut().for_each(|s| s.step(now));
            while let Some(arrival) = self.net.receive(now.mono) {
                if let Some(which) = self.machines.iter().position(|m| m.host == arrival.at) {
                    self.receive(which, arrival.from, &arrival.datagram);
                }
            }
            if let Some((which, life, due)) = self.due.take(now.mono) {
                self.carry(which, life, due);
            }
            for which in 0..self.machines.len() {
                if self.machines[which].edge.poll_timeout().is_some_and(|at| at <= now.mono) {
                    self.machines[which].edge.handle_timeout(now);
                    self.drain(which);
                }
            }
            self.check();
        }
        self.clock.reach(until);
        let now = self.clock.now();
        self.sites.iter_mut().for_each(|s| s.step(now));
    }

    // What goes wrong, and what is put right.

    fn mishap(&mut self) {
        let which = self.chance.below(self.machines.len() as u64) as usize;
        let joiner = 1 + self.chance.below(self.machines.len() as u64 - 1) as usize;
        match self.chance.below(10) {
            0 => {
                let mut rate = || self.chance.below(120) as u16;
                let faults = Faults { down: false, throttled: rate(), failed: rate(), answer_lost: rate(), conflict: rate() / 2, cut: rate() / 3 };
                self.sites[which].set_faults(faults);
                self.tell(&format!("{} is unwell: {faults:?}", NAMES[which]));
            }
            1 => {
                self.sites[which].set_faults(Faults { down: true, ..Faults::default() });
                self.tell(&format!("the API server of {} is down", NAMES[which]));
                let time = Duration::from_millis(self.chance.below(15_000));
                self.pass(time);
                self.sites[which].set_faults(Faults::default());
            }
            2 => {
                let (a, b) = (self.machines[HUB].host, self.machines[joiner].host);
                if self.cut.remove(&joiner) {
                    self.net.mend(a, b);
                } else {
                    self.cut.insert(joiner);
                    self.net.cut(a, b);
                }
                self.tell(&format!("cut: {:?}", self.cut));
            }
            3 | 4 => self.restart(which),
            5 => {
                self.net.weather = Weather {
                    loss: self.chance.below(300) as u16,
                    double: self.chance.below(100) as u16,
                    delay: Duration::from_millis(self.chance.below(300)),
                    jitter: Duration::from_millis(self.chance.below(200)),
                };
                self.tell("the weather turns");
            }
            6 => {
                self.net.reset(self.routers[joiner - 1]);
                self.tell("a router forgets");
            }
            7 => {
                let address = SocketAddr::from(([192, 168, joiner as u8, 20 + self.chance.below(100) as u8], 51820));
                self.net.moves(self.machines[joiner].host, address, Some(self.routers[joiner - 1]));
                self.tell("a joiner moves");
            }
            8 => {
                self.machines[which].disk_fails = self.chance.below(700) as u16;
                self.tell(&format!("{} has a bad disk", NAMES[which]));
            }
            _ => {
                self.clock.set_off(self.chance.below(7200) as i64 - 3600);
                self.tell("the clock is set");
            }
        }
    }

    fn restart(&mut self, which: usize) {
        self.tell(&format!("{} is killed and starts again", NAMES[which]));
        let seed = self.chance.bits();
        let machine = &mut self.machines[which];
        for (_, feed) in std::mem::take(&mut machine.feeds) {
            self.sites[feed.site].api.unwatch(feed.stream);
        }
        machine.targets.clear();
        machine.life += 1;
        machine.edge = start(&machine.file, &machine.facts, seed, &self.clock);
        self.drain(which);
    }

    fn all_is_well(&mut self) {
        self.tell("all is well from here");
        self.sites.iter_mut().for_each(|s| s.set_faults(Faults::default()));
        self.net.weather = Weather::FAIR;
        for joiner in std::mem::take(&mut self.cut) {
            self.net.mend(self.machines[HUB].host, self.machines[joiner].host);
        }
        self.machines.iter_mut().for_each(|m| m.disk_fails = 0);
    }

    fn trouble(&mut self, most: u64) {
        for _ in 0..self.chance.below(most + 1) {
            self.mishap();
            let time = Duration::from_millis(self.chance.below(8_000));
            self.pass(time);
        }
    }

    /// Time goes on until `done`, or it is a failure.
    fn until(&mut self, minutes: u64, what: &str, done: impl Fn(&mut Journey) -> Vec<String>) {
        let mut left = Vec::new();
        for _ in 0..minutes * 12 {
            left = done(self);
            if left.is_empty() {
                return;
            }
            self.pass(Duration::from_secs(5));
        }
        panic!("seed {}: {minutes} minutes after all is well, {what}:\n  {}", self.seed, left.join("\n  "));
    }

    // What people do.

    fn invite(&mut self, life: Duration, ask: bool) -> String {
        loop {
            let bytes = self.chance.bytes();
            let order = InviteOrder {
                endpoints: vec![Endpoint::at(([203, 0, 113, 10], 51820).into()).expect("an endpoint")],
                offer: Some(LENT),
                ask,
                replace: true,
                life,
                secret: bytes[..16].try_into().expect("16 bytes"),
            };
            let now = self.clock.now();
            let invitation = self.machines[HUB].edge.authority().invite(order, now).expect("a ticket");
            let public = invitation.ticket.enrolment().public;
            self.drain(HUB);
            // A ticket that could not be stored is not shown.
            if self.machines[HUB].edge.authority().ledger().tickets.iter().any(|t| t.key == public) {
                self.tell("the hub invites");
                return invitation.line;
            }
            self.pass(Duration::from_secs(1));
        }
    }

    fn join(&mut self, which: usize, line: &str, provide: bool) {
        let order = JoinOrder { line: line.to_owned(), consume: true, provide: provide.then_some(LENT), replace: true };
        let now = self.clock.now();
        let began = self.machines[which].edge.authority().join(order, now).map(|(row, _)| row);
        self.tell(&format!("{} joins: {began:?}", NAMES[which]));
        self.drain(which);
    }

    fn peered(&mut self, which: usize, with: usize) -> bool {
        self.machines[which].edge.authority().ledger().peers.iter().any(|p| p.id.as_str() == NAMES[with])
    }

    fn joining(&mut self, which: usize) -> bool {
        !self.machines[which].edge.authority().ledger().joins.is_empty()
    }

    fn user(&mut self, site: usize, verb: Verb, path: &str, body: &Value) -> u16 {
        let (status, _) = self.sites[site].api.request("user", verb, path, (!body.is_null()).then(|| body.to_string()).as_deref());
        self.tell(&format!("user at {} {verb:?} {path} -> {status}", NAMES[site]));
        status
    }

    fn work(&mut self, consumer: usize) {
        self.counter += 1;
        match self.chance.below(5) {
            0 => drop(self.user(consumer, Verb::Create, "/api/v1/namespaces/shop/pods", &pod(&format!("solo-{}", self.counter), "i"))),
            1 => {
                let replicas = json!({"spec": {"replicas": self.chance.below(5)}});
                self.user(consumer, Verb::Merge, &format!("{SETS}/web"), &replicas);
            }
            2 => {
                let there: Vec<String> = self.sites[HUB].api.store.all("pods", &twin(consumer)).map(|(k, _)| k.name.clone()).collect();
                if let Some(name) = self.chance.pick(&there) {
                    self.user(HUB, Verb::Delete, &format!("/api/v1/namespaces/{}/pods/{name}", twin(consumer)), &Value::Null);
                }
            }
            3 => {
                let here: Vec<String> = self.sites[consumer].api.store.all("pods", "shop").map(|(k, _)| k.name.clone()).collect();
                if let Some(name) = self.chance.pick(&here) {
                    self.user(consumer, Verb::Delete, &format!("/api/v1/namespaces/shop/pods/{name}"), &Value::Null);
                }
            }
            _ => {
                let colour = json!({"data": {"colour": self.chance.bits().to_string()}});
                self.user(consumer, Verb::Merge, "/api/v1/namespaces/shop/configmaps/conf", &colour);
            }
        }
    }

    fn shop(&mut self, at: usize) {
        let api = &mut self.sites[at].api;
        api.make("/api/v1/namespaces", json!({"metadata": {"name": "shop"}}));
        api.make("/api/v1/namespaces/shop/configmaps", json!({"metadata": {"name": "conf"}, "data": {"colour": "red"}}));
        api.make("/api/v1/namespaces/shop/secrets", json!({"metadata": {"name": "key"}, "type": "Opaque", "data": {"k": "c2VjcmV0"}}));
        let ports = json!([{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]);
        api.make(
            "/api/v1/namespaces/shop/services",
            json!({"metadata": {"name": "web"}, "spec": {"type": "ClusterIP", "selector": {"app": "web"}, "ports": ports}}),
        );
        api.make(SETS, json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "template": pod("", "i")}}));
        self.sites[at].controllers.place.insert("shop".into(), vec!["hub".into(), format!("{}-1", NAMES[at])]);
    }

    fn walk(&mut self) {
        self.pass(Duration::from_secs(5));
        let ask = self.chance.happens(300);
        let life = if self.chance.happens(200) { 1 } else { 3600 };
        let short = self.invite(Duration::from_secs(life), ask);
        assert!(
            self.machines[1]
                .edge
                .authority()
                .join(JoinOrder { line: short[..short.len() - 3].into(), consume: true, provide: None, replace: false }, self.clock.now())
                .is_err()
        );
        assert!(
            self.machines[HUB]
                .edge
                .authority()
                .join(JoinOrder { line: short.clone(), consume: true, provide: None, replace: false }, self.clock.now())
                .is_err()
        );
        if self.chance.happens(500) {
            self.pass(Duration::from_secs(2));
        }
        for which in 1..self.machines.len() {
            self.join(which, &short, ask);
        }
        self.trouble(5);
        self.all_is_well();
        self.until(12, "a join has come to no end", |j| (1..j.machines.len()).filter(|w| j.joining(*w)).map(|w| format!("{} still joins", NAMES[w])).collect());
        let takers: Vec<usize> = (1..self.machines.len()).filter(|w| self.peered(*w, HUB)).collect();
        assert!(takers.len() < 2, "seed {}: one ticket has made two peers", self.seed);
        // Who has come to nothing is invited again.
        let consumer = takers.first().copied().unwrap_or(1);
        for _ in 0..5 {
            if self.peered(consumer, HUB) {
                break;
            }
            let line = self.invite(Duration::from_secs(3600), ask);
            self.join(consumer, &line, ask);
            self.pass(Duration::from_secs(60));
        }
        self.until(10, "the virtual node is not ready", |j| j.not_ready(consumer));
        self.shop(consumer);
        self.user(
            consumer,
            Verb::Create,
            OFFLOADING,
            &json!({"metadata": {"name": "offloading"}, "spec": {"podOffloadingStrategy": "LocalAndRemote", "namespaceMappingStrategy": "DefaultName"}}),
        );
        for _ in 0..10 {
            match self.chance.below(3) {
                0 => self.mishap(),
                _ => self.work(consumer),
            }
            let wait = if self.chance.happens(300) { 15_000 } else { 800 };
            let wait = Duration::from_millis(self.chance.below(wait));
            self.pass(wait);
        }
        if self.chance.happens(700) {
            self.all_is_well();
            self.until(15, "the pods are not as they should be", |j| j.unfinished(consumer));
            self.stays_quiet();
        }
        if self.chance.happens(400) {
            self.trouble(2);
            self.user(consumer, Verb::Delete, &format!("{OFFLOADING}/offloading"), &Value::Null);
            self.trouble(2);
        }
        // Somebody leaves, the other being there or not.
        self.trouble(3);
        let (who, whom) = if self.chance.happens(500) { (consumer, HUB) } else { (HUB, consumer) };
        let force = self.chance.happens(200);
        self.watchdog.leaving = true;
        for _ in 0..20 {
            let now = self.clock.now();
            let began = self.machines[who].edge.unpeer(&id(whom), force, now);
            self.tell(&format!("{} leaves {}: {began:?}", NAMES[who], NAMES[whom]));
            self.drain(who);
            if began.is_none() {
                break;
            }
            self.trouble(3);
            // The daemon was killed before it had begun, or its disk failed: it is asked again.
            if !self.peered(who, whom) {
                break;
            }
            self.pass(Duration::from_secs(30));
            if !self.peered(who, whom) {
                break;
            }
            self.all_is_well();
        }
        self.all_is_well();
        self.until(40, "something of ours is left", Journey::left_over);
        self.stays_quiet();
    }

    // What should be.

    fn not_ready(&mut self, consumer: usize) -> Vec<String> {
        let node = self.sites[consumer].api.look("/api/v1/nodes/hub").map(|n| n["status"]["conditions"].clone());
        let ready = node.as_ref().and_then(Value::as_array).is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
        if ready { Vec::new() } else { vec![format!("the node is {node:?}, peered {} {}", self.peered(consumer, HUB), self.peered(HUB, consumer))] }
    }

    fn unfinished(&mut self, consumer: usize) -> Vec<String> {
        let mut out = self.not_ready(consumer);
        let (home, hub) = (&self.sites[consumer].api, &self.sites[HUB].api);
        let twin = twin(consumer);
        let mut known = BTreeSet::new();
        for (key, pod) in home.store.all("pods", "shop") {
            if terminating(pod) {
                out.push(format!("{} is still going", key.name));
            }
            if pod["spec"]["nodeName"] != "hub" {
                continue;
            }
            known.insert(key.name.clone());
            let there = hub.look(&format!("/api/v1/namespaces/{twin}/pods/{}", key.name)).map(|p| &p["status"]["phase"]);
            if there != Some(&pod["status"]["phase"]) && pod["status"]["phase"] != "Failed" {
                out.push(format!("{} is {} here and {there:?} there", key.name, pod["status"]["phase"]));
            }
        }
        out.extend(hub.store.all("pods", &twin).filter(|(k, _)| !known.contains(&k.name)).map(|(k, _)| format!("{} is there without a pod here", k.name)));
        out
    }

    /// All that is ours anywhere.
    fn left_over(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        for (which, site) in self.sites.iter().enumerate() {
            let at = NAMES[which];
            let ours = |o: &Value| o["metadata"]["labels"].get(OURS).is_some();
            out.extend(site.api.store.everything().filter(|(_, o)| ours(o)).map(|(k, _)| format!("at {at}: {k:?}")));
            let bound = |o: &Value| o["spec"]["nodeName"].as_str().is_some_and(|n| n != format!("{at}-1"));
            out.extend(site.api.store.all("pods", "").filter(|(_, o)| bound(o)).map(|(k, _)| format!("at {at}: {k:?} is bound to a node that is gone")));
        }
        for (which, machine) in self.machines.iter_mut().enumerate() {
            let ledger = machine.edge.authority().ledger();
            if !ledger.peers.is_empty() || !ledger.joins.is_empty() || !ledger.owed.is_empty() {
                out.push(format!("{} has {} peers, {} joins, owes {:?}", NAMES[which], ledger.peers.len(), ledger.joins.len(), ledger.owed));
            }
        }
        out
    }

    /// Two minutes in which nobody but leases changes anything.
    fn stays_quiet(&mut self) {
        self.pass(Duration::from_secs(40));
        let mut at: Vec<u64> = self.sites.iter().map(|s| s.api.store.version()).collect();
        self.pass(Duration::from_secs(120));
        for (site, at) in self.sites.iter().zip(&mut at) {
            while let Ok(Some(change)) = site.api.store.after(*at) {
                *at = change.version;
                let lease = change.key.resource == "leases.coordination.k8s.io";
                assert!(lease || !NAMES.contains(&&*change.who), "seed {}: {} writes {:?} though nothing happens", self.seed, change.who, change.key);
            }
        }
    }
}

fn twin(consumer: usize) -> String {
    format!("shop-{}", NAMES[consumer])
}

/// A TCP segment to the control port, or back from it, that carries the number of an exchange. Nobody here looks at its checksum.
fn segment(from: Ipv4Addr, to: Ipv4Addr, number: u64, back: bool) -> Vec<u8> {
    let mut p = vec![0; 48];
    p[..10].copy_from_slice(&[0x45, 0, 0, 48, 0, 0, 0x40, 0, 64, 6]);
    p[12..16].copy_from_slice(&from.octets());
    p[16..20].copy_from_slice(&to.octets());
    let header = sum(&p[..20], 0);
    p[10..12].copy_from_slice(&header.to_be_bytes());
    let (ours, control) = (40_000_u16.to_be_bytes(), CONTROL_PORT.to_be_bytes());
    let (source, destination) = if back { (control, ours) } else { (ours, control) };
    p[20..22].copy_from_slice(&source);
    p[22..24].copy_from_slice(&destination);
    p[32..34].copy_from_slice(&[0x50, 0x10]);
    p[40..48].copy_from_slice(&(number * 2 + u64::from(back)).to_be_bytes());
    p
}

/// The peer whose API server a call needs.
fn far(call: &Call) -> Option<PeerId> {
    let from = match &call.body {
        Body::Forge(forge) => Some(forge.from),
        _ => None,
    };
    [Some(call.to), from].into_iter().flatten().find_map(|c| match c {
        Cluster::Peer(peer) => Some(peer),
        Cluster::Home => None,
    })
}

/// The tests run side by side, so each walks half of the seeds.
fn walk_half(odd: u64) {
    let (seeds, told) = super::seeds(300);
    for seed in seeds.filter(|seed| seed % 2 == odd) {
        Journey::new(seed, told).walk();
    }
}

#[test]
fn clusters_meet_work_together_and_part_without_a_trace() {
    walk_half(0);
}

#[test]
fn clusters_meet_work_together_and_part_without_a_trace_with_other_seeds() {
    walk_half(1);
}
