//! The edge: sole owner of gateway, authority and agent. It carries one room's events into another and decides nothing else.
//!
//! The shell's driver (and the world in tests) hands inputs to it and takes [`Output`]s until there are none. The order is the authority's
//! rule: what the ledger must hold is saved before anything that follows from it goes out ([`Output::Save`] and [`Edge::saved`]).
//!
//! Whether a peer is there is asked of the tunnel itself: an ICMP echo between the control ends, sent only when nothing else was heard
//! for a while. Its answer also is the round-trip time that `status` shows.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

pub use crate::auth::addresses::External;
pub use crate::auth::endpoint::Endpoint;
pub use crate::auth::issue::Account;
pub use crate::auth::ledger::Ledger;
pub use crate::auth::resources::Resources;
pub use crate::auth::status::{PeerStatus as Peering, Phase, Status};
pub use crate::auth::{AskId, Authority, Facts, Invitation, InviteOrder, JoinOrder, Progress, Request, RequestId};
pub use crate::tunnel::{Addresses, Checksum, Gateway, PeerSpec, PeerStatus, Verdict};

use crate::auth::{self, AddPeer, Purpose};
use crate::budget::{ENDPOINTS, PEERS};
use crate::clock::{Instant, Now, WallTime};
use crate::identity::{End, PeerId, Prefix};
use crate::kube::call::Call;
use crate::kube::reply::Reply;
use crate::tunnel;

/// After this long without a word from a peer it is asked whether it is there.
const PROBE: Duration = Duration::from_secs(10);
/// After this long without a word it is held to be away: two probes unanswered.
const AWAY: Duration = Duration::from_secs(22);
/// A path that was away for longer than this has stale connections.
const STALE: Duration = Duration::from_secs(10);
/// The identifier of our echo requests.
const ECHO: u16 = 0x5175;

/// Who made a call, so that its reply finds the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The authority.
    Authority(u32),
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
    /// The peer's path came back after a while: its connections are stale.
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
}

/// What the host's network must hold for us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Local addresses besides the node end: the control end, virtual nodes.
    pub local: Vec<Ipv4Addr>,
    /// Prefixes routed into the TUN.
    pub routes: Vec<Prefix>,
}

/// What is held of a session beside the gateway's row.
#[derive(Debug)]
struct Session {
    spec: Box<AddPeer>,
    probe: Option<(Instant, u16)>,
    round_trip: Option<Duration>,
    heard: bool,
    /// Its provider's credential, once there is one.
    credential: bool,
}

/// See the module's head.
pub struct Edge {
    gateway: Gateway,
    authority: Authority,
    sessions: [Option<Box<Session>>; PEERS],
    out: VecDeque<Output>,
    saving: bool,
    probes_due: Instant,
    sequence: u16,
}

impl Edge {
    /// Joins the rooms. `system` is what the system clock really reads (see [`Gateway::new`]).
    pub fn new(authority: Authority, now: Now, system: WallTime) -> Edge {
        let gateway = Gateway::new(&authority.ledger().secret, now, authority.stamp_floor(), system);
        let mut edge = Edge { gateway, authority, sessions: [const { None }; PEERS], out: VecDeque::new(), saving: false, probes_due: now.mono, sequence: 0 };
        edge.out.push_back(Output::Host);
        edge
    }

    /// The authority: for the verbs of the CLI.
    pub fn authority(&mut self) -> &mut Authority {
        &mut self.authority
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
            let ends = [Some(session.spec.control.1), session.spec.node.map(|(_, peer)| peer)];
            host.routes.extend(ends.into_iter().flatten().filter_map(|end| Prefix::new(end, 32)));
            host.routes.extend(session.spec.remote.iter().map(|&(_, image)| image));
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

    /// Whether the peer is there.
    pub fn is_heard(&self, peer: PeerId) -> bool {
        self.session(peer).is_some_and(|s| s.heard)
    }

    /// A datagram from the network; `out[..len]` of the verdict is what to pass on.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Now, system: WallTime, out: &mut [u8]) -> Verdict {
        let verdict = match self.gateway.handle_datagram(from, datagram, now, out) {
            Verdict::Unknown(key) => match self.authority.stranger(key, now) {
                Some(spec) => {
                    self.admit(Box::new(spec), now, system);
                    self.gateway.handle_datagram(from, datagram, now, out)
                }
                None => Verdict::Handled,
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
        }
    }

    /// Whether the state is on disk now.
    pub fn saved(&mut self, written: Result<(), String>, now: Now) {
        self.saving = false;
        self.authority.saved(written, now);
    }

    /// What the names of a session resolve to; added to what is known.
    pub fn resolved(&mut self, peer: PeerId, found: &[SocketAddr], now: Now) {
        let Some(session) = self.session_mut(peer) else { return };
        let mut endpoints = session.spec.endpoints.clone();
        for &endpoint in found {
            // Full: the candidates that came first stay.
            if !endpoints.contains(&endpoint) && endpoints.push(endpoint).is_err() {
                break;
            }
        }
        session.spec.endpoints = endpoints.clone();
        self.gateway.set_endpoints(peer, &endpoints, now);
    }

    /// Looks at everything that is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.gateway.handle_timeout(now);
        self.authority.handle_timeout(now);
        self.look_around(now);
    }

    /// When [`Edge::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.gateway.poll_timeout(), self.authority.poll_timeout(), Some(self.probes_due)].into_iter().flatten().min()
    }

    /// The next thing for the shell to do; `calls` says whether it takes calls at the moment.
    pub fn poll_output(&mut self, now: Now, system: WallTime, calls: bool) -> Option<Output> {
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
                self.from_gateway(event, now);
            } else if let Some(event) = self.authority.poll_event() {
                self.from_authority(event, now, system);
            } else {
                let call = calls.then(|| self.authority.poll_call()).flatten();
                return call.map(|(id, call)| Output::Call(Owner::Authority(id), call));
            }
        }
    }

    fn from_gateway(&mut self, event: tunnel::Event, now: Now) {
        match event {
            tunnel::Event::SessionUp { id, away } => {
                let endpoint = self.gateway.status(id, now).and_then(|s| s.endpoint);
                if let Some(session) = self.session_mut(id) {
                    session.heard = true;
                }
                if let Some(endpoint) = endpoint {
                    self.authority.handle_session_up(id, endpoint, now);
                }
                if away.is_some_and(|away| away > STALE) {
                    self.out.push_back(Output::Returned(id));
                }
            }
            tunnel::Event::EndpointChanged { id, endpoint } => self.authority.handle_endpoint(id, endpoint, now),
            tunnel::Event::Quiet { .. } => {}
        }
    }

    fn from_authority(&mut self, event: auth::Event, now: Now, system: WallTime) {
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
            auth::Event::AddPeer(spec) => self.admit(spec, now, system),
            auth::Event::RemovePeer(peer) => self.dismiss(peer),
            auth::Event::Credential { peer, token, ca, name, .. } => {
                let bearer = self.authority.bearer(peer);
                if let (Some(session), Some(bearer)) = (self.session_mut(peer), bearer) {
                    session.credential = true;
                    let to = session.spec.control.1;
                    self.out.push_back(Output::Target { peer, to, bearer, token, ca, name });
                }
            }
            auth::Event::Provider { .. } | auth::Event::Consumer { .. } => {}
            auth::Event::Gone { peer, .. } => self.authority.release(peer),
            auth::Event::Progress(peer, progress) => self.out.push_back(Output::Progress(peer, progress)),
        }
    }

    /// Holds a session in the gateway, in the place of one that was there.
    fn admit(&mut self, spec: Box<AddPeer>, now: Now, system: WallTime) {
        let id = spec.id;
        self.dismiss(id);
        let mut remote = heapless::Vec::new();
        for &pair in &spec.remote {
            // The gateway's table is the longer one.
            let _ = remote.push(pair);
        }
        let addresses = Addresses { end: spec.end, control: Some(spec.control), node: spec.node, remote };
        let endpoints: heapless::Vec<SocketAddr, ENDPOINTS> = spec.endpoints.clone();
        let (public_key, secret, preshared, keepalive) = (spec.public_key, spec.secret.clone(), spec.preshared, spec.keepalive);
        let added = self.gateway.add_peer(PeerSpec { id, public_key, secret, preshared, keepalive, endpoints, addresses }, now, system);
        if let Err(why) = added {
            // The authority's rows are the gateway's; only a key that both ends of a join share could clash.
            self.out.push_back(Output::Progress(id, Progress::Retrying(format!("the gateway refuses the session: {why}"))));
            return;
        }
        if !spec.names.is_empty() {
            self.out.push_back(Output::Resolve(id, spec.names.clone()));
        }
        self.sessions[usize::from(id.0)] = Some(Box::new(Session { spec, probe: None, round_trip: None, heard: false, credential: false }));
        self.out.push_back(Output::Host);
    }

    fn dismiss(&mut self, peer: PeerId) {
        self.gateway.remove_peer(peer);
        let Some(session) = self.sessions.get_mut(usize::from(peer.0)).and_then(Option::take) else { return };
        if session.credential {
            self.out.push_back(Output::NoTarget(peer));
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
            session.heard = silent.is_some_and(|silent| silent < AWAY);
            if session.spec.purpose == Purpose::Peering && silent.is_some_and(|silent| silent >= PROBE || session.round_trip.is_none()) {
                self.sequence = self.sequence.wrapping_add(1);
                session.probe = Some((now.mono, self.sequence));
            }
        }
    }

    /// The next echo request that is due, sealed.
    fn probe(&mut self, now: Now, out: &mut [u8]) -> Option<(SocketAddr, usize)> {
        let (own, peer, sequence) = self.sessions.iter_mut().flatten().find_map(|session| {
            let (at, sequence) = session.probe?;
            (at == now.mono && session.spec.purpose == Purpose::Peering).then_some((session.spec.control.0, session.spec.id, sequence))
        })?;
        let session = self.session_mut(peer)?;
        let to = session.spec.control.1;
        // Sent at most once: a moment later it is only waited for.
        session.probe = Some((now.mono + Duration::from_nanos(1), sequence));
        let mut packet = echo(own, to, sequence);
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
        if let Some((sent, sequence)) = session.probe
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

/// An ICMP echo request (RFC 792) without data.
fn echo(from: Ipv4Addr, to: Ipv4Addr, sequence: u16) -> [u8; 28] {
    let mut p = [0u8; 28];
    p[0] = 0x45;
    p[3] = 28;
    p[6] = 0x40;
    p[8] = 64;
    p[9] = 1;
    p[12..16].copy_from_slice(&from.octets());
    p[16..20].copy_from_slice(&to.octets());
    let header = checksum(&p[..20]);
    p[10..12].copy_from_slice(&header.to_be_bytes());
    p[20] = 8;
    p[24..26].copy_from_slice(&ECHO.to_be_bytes());
    p[26..28].copy_from_slice(&sequence.to_be_bytes());
    let body = checksum(&p[20..]);
    p[22..24].copy_from_slice(&body.to_be_bytes());
    p
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_request_has_right_checksums() {
        let packet = echo(Ipv4Addr::new(10, 70, 0, 2), Ipv4Addr::new(10, 70, 1, 1), 7);
        assert_eq!(checksum(&packet[..20]), 0);
        assert_eq!(checksum(&packet[20..]), 0);
    }
}
