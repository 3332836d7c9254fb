//! The edge: sole owner of gateway, authority and agent. It carries one room's events into another and decides nothing else.
//!
//! The shell's driver (and the world in tests) hands inputs to it and takes [`Output`]s until there are none. The order is the authority's
//! rule: what the ledger must hold is saved before anything that follows from it goes out ([`Output::Save`] and [`Edge::saved`]).
//!
//! Whether a peer is there is asked of the tunnel itself: an ICMP echo between the control ends, sent only when nothing else was heard
//! for a while. Its answer also is the round-trip time that `status` shows.

pub mod look;
mod parting;

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

pub use crate::auth::addresses::External;
pub use crate::auth::endpoint::Endpoint;
pub use crate::auth::issue::Account;
pub use crate::auth::keys::{clamp, public_of};
pub use crate::auth::ledger::Ledger;
pub use crate::auth::resources::Resources;
pub use crate::auth::status::{JoinStatus, PeerStatus as Peering, Phase, Status};
pub use crate::auth::{AskId, Authority, Facts, Invitation, InviteOrder, JoinOrder, Progress, Request, RequestId};
pub use crate::offload::{AgentSpec, Amount, Event as AgentEvent, KindId, NamespaceReport, Order, Seen, WatchId};
pub use crate::tunnel::coalesce::{Coalescer, Joins};
pub use crate::tunnel::offload::{OFFLOAD, Offload};
pub use crate::tunnel::segment::Segments;
pub use crate::tunnel::{Addresses, Checksum, Event as TunnelEvent, Gateway, PathMtu, PeerSpec, PeerStatus, Reason, Verdict};

use crate::auth::ledger::Debt;
use crate::auth::{self, AddPeer, Purpose};
use crate::budget::{ENDPOINTS, PACKET_SAFE, PEERS};
use crate::clock::{Instant, Now, WallTime};
use crate::identity::{ClusterId, End, PeerId, Prefix};
use crate::kube::call::Call;
use crate::kube::reply::Reply;
use crate::kube::watch::Told;
use crate::offload::{Agent, ConsumerSpec, How, ProviderSpec};
use crate::tunnel;

/// After this long without a word from a peer it is asked whether it is there.
const PROBE: Duration = Duration::from_secs(10);
/// After this long without a word it is held to be away: two probes unanswered.
const AWAY: Duration = Duration::from_secs(22);
/// A path that was away for longer than this has stale connections.
const STALE: Duration = Duration::from_secs(10);
/// After this long a peer that is away is looked for anew under its host names.
const RESOLVE: Duration = Duration::from_secs(20);
/// The account of a consumer in its tenant namespace.
const ACCOUNT: &str = "sluice-peer";
/// The identifier of our echo requests.
const ECHO: u16 = 0x5175;

/// Who made a call, so that its reply finds the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The authority.
    Authority(u32),
    /// The agent.
    Agent(u32),
}

/// What the shell is to do.
#[derive(Debug)]
pub enum Output {
    /// Write the state with fsync, then call [`Edge::saved`] before anything else.
    Save(String),
    /// Answer a control request.
    Answer {
        /// Which.
        request: RequestId,
        /// HTTP status.
        status: u16,
        /// JSON.
        body: String,
    },
    /// Let this CONNECT through to the API server.
    Passage {
        /// Which.
        request: RequestId,
        /// Whose.
        peer: PeerId,
    },
    /// POST to a control end; answer with [`Edge::handle_answer`].
    Ask {
        /// The question.
        ask: AskId,
        /// The peer's control end on this host.
        to: Ipv4Addr,
        /// The path.
        path: &'static str,
        /// For `Authorization: Bearer`.
        bearer: String,
        /// JSON.
        body: String,
    },
    /// Carry out; answer with [`Edge::handle_reply`].
    Call(Owner, Call),
    /// From now on this is how a provider's API server is reached.
    Target {
        /// Whose.
        peer: PeerId,
        /// Its control end on this host.
        to: Ipv4Addr,
        /// Opens the passage.
        bearer: String,
        /// For the API server.
        token: String,
        /// Its CA bundle, PEM.
        ca: String,
        /// The name in its certificate.
        name: String,
    },
    /// A provider's API server is no longer to be reached.
    NoTarget(PeerId),
    /// The peer's path came back after a while, or its daemon began anew: its connections are stale.
    Returned(PeerId),
    /// A session of this row ended: its connections to the listener are to be closed.
    Closed {
        /// Its control end on this host.
        from: Ipv4Addr,
    },
    /// Resolve, and tell [`Edge::resolved`].
    Resolve(PeerId, Vec<(heapless::String<64>, u16)>),
    /// Addresses and routes have changed: ask [`Edge::host`].
    Host,
    /// For the CLI and the log.
    Progress(PeerId, Progress),
    /// Open or close a watch.
    Watch(Order),
    /// What the agent has to say; for the CLI and the log.
    Said(AgentEvent),
    /// A peering that we ended is gone from here.
    Gone(PeerId, ClusterId),
}

/// What the host's network must hold for us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Local addresses besides the node end: the control end, virtual nodes.
    pub local: Vec<Ipv4Addr>,
    /// Prefixes routed into the TUN, and the largest packet in bytes that goes there in one piece.
    pub routes: Vec<(Prefix, u16)>,
}

/// What is held of a session beside the gateway's row.
#[derive(Debug)]
struct Session {
    spec: Box<AddPeer>,
    /// The number of the echo request that is due or waited for, and when it was sent.
    probe: Option<(u16, Option<Instant>)>,
    round_trip: Option<Duration>,
    /// Where it was last heard from, and how often that was another place than before.
    place: Option<SocketAddr>,
    moves: u32,
    /// Whether it is heard, and since when it is or is not.
    heard: bool,
    since: Instant,
    /// Its provider's credential, once there is one.
    credential: bool,
    /// What the agent was last told.
    reachable: bool,
    /// When its host names were last given to be resolved.
    resolving: Instant,
}

impl Session {
    fn hear(&mut self, heard: bool, now: Instant) {
        if self.heard != heard {
            (self.heard, self.since) = (heard, now);
        }
    }

    fn at(&mut self, place: SocketAddr) {
        if self.place.replace(place).is_some_and(|before| before != place) {
            self.moves = self.moves.saturating_add(1);
        }
    }
}

/// See the module's head.
pub struct Edge {
    gateway: Gateway,
    authority: Authority,
    agent: Agent,
    partings: BTreeMap<PeerId, parting::Parting>,
    sessions: [Option<Box<Session>>; PEERS],
    out: VecDeque<Output>,
    saving: bool,
    probes_due: Instant,
    sequence: u16,
}

impl Edge {
    /// Joins the rooms. `system` is what the system clock really reads (see [`Gateway::new`]).
    pub fn new(authority: Authority, seed: u64, now: Now, system: WallTime) -> Edge {
        let (cluster, pods, transit) = (authority.ledger().id.clone(), authority.pods().to_vec(), authority.transit());
        let agent = Agent::new(AgentSpec { cluster, pods, transit, kubelet_version: String::new(), seed }, now);
        let gateway = Gateway::new(&authority.ledger().secret, now, authority.stamp_floor(), system);
        let mut edge = Edge {
            gateway,
            authority,
            agent,
            partings: BTreeMap::new(),
            sessions: [const { None }; PEERS],
            out: VecDeque::new(),
            saving: false,
            probes_due: now.mono,
            sequence: 0,
        };
        edge.out.push_back(Output::Host);
        edge.resume(now);
        edge
    }

    /// The authority: for the verbs of the CLI.
    pub fn authority(&mut self) -> &mut Authority {
        &mut self.authority
    }

    /// The agent: for status.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// What the home API server says it is; virtual nodes say the same.
    pub fn set_kubelet_version(&mut self, version: &str) {
        self.agent.set_kubelet_version(version);
    }

    /// The gateway: for status and counters.
    pub fn gateway(&mut self) -> &mut Gateway {
        &mut self.gateway
    }

    /// The overlay's addresses on this host.
    pub fn external(&self) -> External {
        self.authority.external()
    }

    /// What the host's network must hold.
    pub fn host(&self) -> Host {
        let mut host = Host { local: vec![self.external().own_control()], routes: Vec::new() };
        for session in self.sessions.iter().flatten() {
            let ends = [Some(session.spec.control.1), session.spec.node.map(|(_, peer)| peer)].into_iter().flatten();
            let prefixes = ends.filter_map(|end| Prefix::new(end, 32)).chain(session.spec.remote.iter().map(|&(_, image)| image));
            let mtu = self.gateway.path_mtu(session.spec.id).unwrap_or(PACKET_SAFE);
            host.routes.extend(prefixes.map(|prefix| (prefix, mtu)));
            if session.spec.purpose == Purpose::Peering {
                host.local.push(self.external().virtual_node(session.spec.id));
            }
        }
        host
    }

    /// The last measured round trip to a peer's control end.
    pub fn round_trip(&self, peer: PeerId) -> Option<Duration> {
        self.session(peer)?.round_trip
    }

    /// For how long the peer has been there, or away.
    pub fn heard_for(&self, peer: PeerId, now: Now) -> Duration {
        self.session(peer).map_or(Duration::ZERO, |s| now.mono.since(s.since))
    }

    /// Whether the peer is there.
    pub fn is_heard(&self, peer: PeerId) -> bool {
        self.session(peer).is_some_and(|s| s.heard)
    }

    /// A datagram from the network; `out[..len]` of the verdict is what to pass on.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Now, system: fn() -> WallTime, out: &mut [u8]) -> Verdict {
        let verdict = match self.gateway.handle_datagram(from, datagram, now, out) {
            Verdict::Unknown(key) => match self.authority.stranger(key, now) {
                Some(spec) => {
                    self.admit(Box::new(spec), now, system());
                    self.gateway.handle_datagram(from, datagram, now, out)
                }
                None => self.gateway.ignore(),
            },
            verdict => verdict,
        };
        if let Verdict::ToTun { peer, len } = verdict {
            self.listen(peer, &out[..len], now.mono);
        }
        verdict
    }

    /// A packet from the TUN, rewritten where it lies.
    pub fn handle_packet(&mut self, packet: &mut [u8], checksum: Checksum, now: Now, out: &mut [u8]) -> Verdict {
        self.gateway.handle_packet(packet, checksum, now, out)
    }

    /// The next datagram that no input was the cause of. Ask until `None` after every other call.
    pub fn poll_datagram(&mut self, now: Now, out: &mut [u8]) -> Option<(SocketAddr, usize)> {
        self.gateway.poll_datagram(out).or_else(|| self.probe(now, out))
    }

    /// The next datagram that must leave in one piece and not be cut on its way; see [`Gateway::poll_probe`].
    pub fn poll_probe(&mut self, out: &mut [u8]) -> Option<(SocketAddr, usize)> {
        self.gateway.poll_probe(out)
    }

    /// A control request from the listener.
    pub fn handle_request(&mut self, id: RequestId, request: &Request<'_>, now: Now) {
        self.authority.handle_request(id, request, now);
    }

    /// The answer to a question of ours.
    pub fn handle_answer(&mut self, ask: AskId, answer: Result<(u16, Vec<u8>), String>, now: Now) {
        self.authority.handle_answer(ask, answer, now);
    }

    /// The reply to a call.
    pub fn handle_reply(&mut self, owner: Owner, reply: Reply, now: Now) {
        match owner {
            Owner::Authority(call) => self.authority.handle_reply(call, reply, now),
            Owner::Agent(call) => self.agent.handle_reply(call, reply, now),
        }
    }

    /// Something happened on a watch.
    pub fn handle_told(&mut self, watch: WatchId, told: Told<Seen>, now: Now) {
        self.agent.handle_told(watch, told, now);
    }

    /// An API server answered 401.
    pub fn handle_unauthorized(&mut self, peer: PeerId, now: Now) {
        self.authority.credential_refused(peer, now);
    }

    /// Whether the state is on disk now.
    pub fn saved(&mut self, written: Result<(), String>, now: Now) {
        self.saving = false;
        self.authority.saved(written, now);
    }

    /// What the names of a session resolve to now, in place of what they did: first of where the peer is looked for, in half of the places at most.
    pub fn resolved(&mut self, peer: PeerId, found: &[SocketAddr], now: Now) {
        let Some(session) = self.session_mut(peer) else { return };
        let mut endpoints = heapless::Vec::<SocketAddr, ENDPOINTS>::new();
        for endpoint in found.iter().take(ENDPOINTS / 2).chain(&session.spec.endpoints) {
            // Full: the best known ones come first.
            if !endpoints.contains(endpoint) && endpoints.push(*endpoint).is_err() {
                break;
            }
        }
        self.gateway.set_endpoints(peer, &endpoints, now);
    }

    /// The host has other addresses: every peer is called at once, so that it learns where we are.
    pub fn handshakes(&mut self, now: Now) {
        for session in self.sessions.iter().flatten() {
            self.gateway.handshake_now(session.spec.id, now);
        }
    }

    /// Looks at everything that is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.gateway.handle_timeout(now);
        self.authority.handle_timeout(now);
        self.look_around(now);
        self.agent.handle_timeout(now);
        self.look_at_partings(now);
    }

    /// When [`Edge::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let rooms = [self.gateway.poll_timeout(), self.authority.poll_timeout(), self.agent.poll_timeout()];
        rooms.into_iter().chain([Some(self.probes_due), self.partings_due()]).flatten().min()
    }

    /// The next thing for the shell to do; `calls` says whether it takes calls at the moment.
    pub fn poll_output(&mut self, now: Now, system: fn() -> WallTime, calls: bool) -> Option<Output> {
        loop {
            if let Some(output) = self.out.pop_front() {
                return Some(output);
            }
            if self.saving {
                return None;
            }
            if let Some(text) = self.authority.unsaved() {
                self.saving = true;
                return Some(Output::Save(text));
            }
            if let Some(event) = self.gateway.poll_event() {
                self.hear_gateway(event, now);
            } else if let Some(event) = self.authority.poll_event() {
                self.hear_authority(event, now, system);
            } else if let Some(event) = self.agent.poll_event() {
                self.hear_agent(event, now);
            } else if let Some((peer, pairs)) = self.agent.poll_transit() {
                // Before any call: what a provider is told it can reach. The agent's table is no longer than the gateway's.
                let _ = self.gateway.set_transit(peer, &pairs);
            } else if let Some(order) = self.agent.poll_watch() {
                return Some(Output::Watch(order));
            } else if !calls {
                return None;
            } else if let Some((id, call)) = self.authority.poll_call() {
                return Some(Output::Call(Owner::Authority(id), call));
            } else {
                if let Some((id, call)) = self.agent.poll_call() {
                    return Some(Output::Call(Owner::Agent(id), call));
                }
                // Looking for a call may have ended something: it is heard before an input can come in between.
                let event = self.agent.poll_event()?;
                self.hear_agent(event, now);
            }
        }
    }

    fn hear_gateway(&mut self, event: tunnel::Event, now: Now) {
        match event {
            tunnel::Event::SessionUp { id, away } => {
                let endpoint = self.gateway.status(id, now).and_then(|s| s.endpoint);
                self.sequence = self.sequence.wrapping_add(1);
                let sequence = self.sequence;
                if let Some(session) = self.session_mut(id) {
                    endpoint.into_iter().for_each(|place| session.at(place));
                    session.hear(true, now.mono);
                    session.probe = Some((sequence, None));
                }
                if let Some(endpoint) = endpoint {
                    self.authority.handle_session_up(id, endpoint, now);
                }
                if away.is_some_and(|away| away > STALE) {
                    self.out.push_back(Output::Returned(id));
                }
                self.tell_reachable(id, now);
            }
            tunnel::Event::EndpointChanged { id, endpoint } => {
                if let Some(session) = self.session_mut(id) {
                    session.at(endpoint);
                }
                self.authority.handle_endpoint(id, endpoint, now);
            }
            tunnel::Event::PathMtu { .. } => self.out.push_back(Output::Host),
            tunnel::Event::Quiet { id } => self.authority.handle_quiet(id),
        }
    }

    fn hear_authority(&mut self, event: auth::Event, now: Now, system: fn() -> WallTime) {
        match event {
            auth::Event::Answer { request, status, body } => self.out.push_back(Output::Answer { request, status, body }),
            auth::Event::Passage { request, peer } => self.out.push_back(Output::Passage { request, peer }),
            auth::Event::Ask { ask, peer, path, bearer, body } => match self.session(peer) {
                Some(session) => {
                    let to = session.spec.control.1;
                    self.out.push_back(Output::Ask { ask, to, path, bearer, body });
                }
                None => self.authority.handle_answer(ask, Err("there is no session with the peer".into()), now),
            },
            auth::Event::AddPeer(spec) => self.admit(spec, now, system()),
            auth::Event::RemovePeer(peer) => self.dismiss(peer, now),
            // A watch sends nothing, so its end here would not notice for minutes that the other is gone.
            auth::Event::Greeted(peer) => self.out.push_back(Output::Returned(peer)),
            auth::Event::Credential { peer, token, ca, name, .. } => {
                let bearer = self.authority.bearer(peer);
                if let (Some(session), Some(bearer)) = (self.session_mut(peer), bearer) {
                    session.credential = true;
                    let to = session.spec.control.1;
                    self.out.push_back(Output::Target { peer, to, bearer, token, ca, name });
                    self.tell_reachable(peer, now);
                }
            }
            // It is gone from here, and only the state could not be written yet: it is not made welcome again.
            auth::Event::Provider { peer, .. } if self.stands_bare(peer) => {}
            auth::Event::Provider { peer, cluster, tenant, grant, architecture, images, virtual_node } => {
                let (node, grant) = (cluster.to_string(), amount(grant));
                // A peering that stands owes nothing, but when a run before this one had begun to leave it.
                let leaving = self.authority.owed().contains(&parting::provider_of(&cluster)) && !self.partings.contains_key(&peer);
                let left = leaving.then(|| cluster.clone());
                self.agent.add_provider(ProviderSpec { peer, cluster, node, tenant_namespace: tenant, grant, architecture, images, address: virtual_node });
                self.tell_reachable(peer, now);
                if let Some(cluster) = left {
                    self.leave_provider(peer, cluster, How::Asked, now);
                }
            }
            auth::Event::Consumer { peer, cluster, tenant, grant, images } => {
                let (account, grant) = (ACCOUNT.to_owned(), amount(grant));
                self.agent.add_consumer(ConsumerSpec { peer, cluster, tenant_namespace: tenant, account, grant, images, names: Vec::new() });
                self.tell_reachable(peer, now);
            }
            auth::Event::Gone { peer, cluster, provider, consumer } => {
                // Of a provider whose parting we began all may be gone from here already; or the peer left while we did, and it is not.
                let provider = provider && self.partings.get(&peer).is_none_or(|p| p.provider);
                self.part(peer, cluster, provider, consumer, now);
            }
            auth::Event::Progress(peer, progress) => self.out.push_back(Output::Progress(peer, progress)),
        }
    }

    fn hear_agent(&mut self, event: AgentEvent, now: Now) {
        match &event {
            AgentEvent::CredentialRefused { peer } => self.authority.credential_refused(*peer, now),
            AgentEvent::ProviderGone { peer, .. } => self.parted(*peer, Debt::Provider, now),
            AgentEvent::ConsumerGone { peer } => self.parted(*peer, Debt::Consumer, now),
            _ => {}
        }
        self.out.push_back(Output::Said(event));
    }

    /// Tells the agent whether the peer answers, when that changed.
    fn tell_reachable(&mut self, peer: PeerId, now: Now) {
        let provides = self.authority.ledger().peer(peer).is_some_and(|p| p.consume.is_some());
        let Some(session) = self.session_mut(peer) else { return };
        let reachable = session.heard && (session.credential || !provides);
        if reachable != session.reachable {
            session.reachable = reachable;
            self.agent.set_reachable(peer, reachable, now);
        }
    }

    /// Holds a session in the gateway, in the place of one that was there.
    fn admit(&mut self, spec: Box<AddPeer>, now: Now, system: WallTime) {
        let id = spec.id;
        self.dismiss(id, now);
        let mut remote = heapless::Vec::new();
        for &pair in &spec.remote {
            // The gateway's table is the longer one.
            let _ = remote.push(pair);
        }
        let addresses = Addresses { end: spec.end, control: Some(spec.control), node: spec.node, remote };
        let endpoints: heapless::Vec<SocketAddr, ENDPOINTS> = spec.endpoints.clone();
        let (public_key, secret, preshared, keepalive) = (spec.public_key, spec.secret.clone(), spec.preshared, spec.keepalive);
        // An enrolment or a farewell is over before its path is worth a search.
        let path = if spec.purpose == Purpose::Peering { PathMtu::Found(PACKET_SAFE) } else { PathMtu::Fixed(PACKET_SAFE) };
        let added = self.gateway.add_peer(PeerSpec { id, public_key, secret, preshared, keepalive, endpoints, addresses, path }, now, system);
        if let Err(why) = added {
            // The authority's rows are the gateway's; only a key that both ends of a join share could clash.
            self.out.push_back(Output::Progress(id, Progress::Retrying(format!("the gateway refuses the session: {why}"))));
            return;
        }
        if spec.purpose == Purpose::Peering {
            let _ = self.gateway.set_transit(id, &self.agent.transit(id));
        }
        if !spec.names.is_empty() {
            self.out.push_back(Output::Resolve(id, spec.names.clone()));
        }
        self.sessions[usize::from(id.0)] = Some(Box::new(Session {
            spec,
            probe: None,
            round_trip: None,
            place: None,
            moves: 0,
            heard: false,
            since: now.mono,
            credential: false,
            reachable: false,
            resolving: now.mono,
        }));
        self.out.push_back(Output::Host);
    }

    fn dismiss(&mut self, peer: PeerId, now: Now) {
        self.gateway.remove_peer(peer);
        let Some(session) = self.sessions.get_mut(usize::from(peer.0)).and_then(Option::take) else { return };
        if session.credential {
            self.out.push_back(Output::NoTarget(peer));
        }
        if session.reachable {
            self.agent.set_reachable(peer, false, now);
        }
        self.out.push_back(Output::Closed { from: session.spec.control.1 });
        self.out.push_back(Output::Host);
    }

    fn session(&self, peer: PeerId) -> Option<&Session> {
        self.sessions.get(usize::from(peer.0))?.as_deref()
    }

    fn session_mut(&mut self, peer: PeerId) -> Option<&mut Session> {
        self.sessions.get_mut(usize::from(peer.0))?.as_deref_mut()
    }

    /// Who has not been heard for a while is away.
    fn look_around(&mut self, now: Now) {
        if now.mono < self.probes_due {
            return;
        }
        self.probes_due = now.mono + PROBE;
        for session in self.sessions.iter_mut().flatten() {
            let silent = self.gateway.status(session.spec.id, now).and_then(|s| s.received);
            session.hear(silent.is_some_and(|silent| silent < AWAY), now.mono);
            if session.spec.purpose == Purpose::Peering && silent.is_some_and(|silent| silent >= PROBE || session.round_trip.is_none()) {
                self.sequence = self.sequence.wrapping_add(1);
                session.probe = Some((self.sequence, None));
            }
            // Its name may lead elsewhere by now, or could not be resolved when we began.
            if !session.heard && !session.spec.names.is_empty() && now.mono.since(session.resolving) >= RESOLVE {
                session.resolving = now.mono;
                self.out.push_back(Output::Resolve(session.spec.id, session.spec.names.clone()));
            }
        }
        for row in 0..PEERS as u8 {
            self.tell_reachable(PeerId(row), now);
        }
    }

    /// The next echo request that is due, sealed.
    fn probe(&mut self, now: Now, out: &mut [u8]) -> Option<(SocketAddr, usize)> {
        let due = |s: &&mut Box<Session>| matches!(s.probe, Some((_, None))) && s.spec.purpose == Purpose::Peering;
        let session = self.sessions.iter_mut().flatten().find(due)?;
        let (sequence, _) = session.probe?;
        // Sent at most once; from now on it is only waited for.
        session.probe = Some((sequence, Some(now.mono)));
        let mut packet = [0; 28];
        look::request(&mut packet, session.spec.control.0, session.spec.control.1, ECHO, sequence);
        match self.gateway.handle_packet(&mut packet, Checksum::Whole, now, out) {
            Verdict::ToPeer { to, len } => Some((to, len)),
            _ => None,
        }
    }

    /// Takes the time of an answer to our echo request. The kernel sees it too, and has no use for it.
    fn listen(&mut self, peer: PeerId, packet: &[u8], now: Instant) {
        if packet.len() < 28 || packet[9] != 1 || packet[0] != 0x45 || packet[20] != 0 {
            return;
        }
        let Some(session) = self.session_mut(peer) else { return };
        let ours = packet[24..26] == ECHO.to_be_bytes();
        if let Some((sequence, Some(sent))) = session.probe
            && ours
            && packet[26..28] == sequence.to_be_bytes()
        {
            session.round_trip = Some(now.since(sent));
            session.probe = None;
        }
    }
}

/// Which end of a peering a session is; for status.
impl Edge {
    /// The end we are in this row's session.
    pub fn end(&self, peer: PeerId) -> Option<End> {
        Some(self.session(peer)?.spec.end)
    }
}

/// A grant in the agent's units.
fn amount(r: Resources) -> Amount {
    Amount { cpu: u64::from(r.cpu), memory: u64::from(r.memory) << 20, pods: u64::from(r.pods) }
}

#[cfg(test)]
mod tests;
