//! The authority: owner of the ledger and of every session's purpose; the verbs of the CLI; durable steps.
//!
//! Called by the edge. Requests come in by `serve.rs`, the asking side and its timers are in `peering.rs`.
//! Whatever changes the ledger is in [`Authority::unsaved`] until the shell says [`Authority::saved`]; what follows from a durable step waits for that.
//! It never opens a socket, reads a clock or draws a random number.

use super::addresses::{self, External};
use super::endpoint::Endpoint;
use super::issue::{Account, Revoke};
use super::ledger::{Issued, Join, Ledger, Peer, TicketState};
use super::peering::{Line, Role};
use super::refusal::{REASONS, Reason, Refusal};
use super::resources::Resources;
use super::ticket::{BadTicket, CannotMint, Ticket, TicketSecret};
use crate::budget;
use crate::clock::{Instant, Now, WallTime};
use crate::identity::{ClusterId, End, PeerId, Prefix, PublicKey, SecretKey};
use crate::kube::call::Call;
use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// How far the stamp floor is reserved ahead, and how little of it may be left, in seconds.
const FLOOR_AHEAD: (i64, i64) = (5400, 1800);
/// How long after a failed write the next one without a step behind it is tried.
const RESAVE: Duration = Duration::from_secs(10);

/// What is true of this cluster and this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Our pod prefixes.
    pub pods: Vec<Prefix>,
    /// What else is in use here: service, node and LAN prefixes.
    pub in_use: Vec<Prefix>,
    /// The host's own addresses.
    pub addresses: Vec<IpAddr>,
    /// The names of real nodes.
    pub nodes: Vec<String>,
    /// The nodes' architecture, as Kubernetes names it.
    pub architecture: String,
    /// The API server's CA bundle, PEM.
    pub ca: String,
    /// A name in the API server's certificate.
    pub api_name: String,
    /// The kernel's boot ID.
    pub boot: String,
    /// The daemon's own ServiceAccount.
    pub account: Account,
}

/// A control request, numbered by the listener; every one gets exactly one [`Event::Answer`] or [`Event::Passage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u32);

/// A question of ours to a peer; every one must be answered with [`Authority::handle_answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AskId(pub u32);

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To redeem a ticket (either end): control only.
    Enrolment,
    /// A peering.
    Peering,
    /// To say or to hear that all is over: control only, for seconds.
    Farewell,
}

/// A session the gateway is to hold.
#[derive(Clone, Debug, PartialEq)]
pub struct AddPeer {
    /// Its row.
    pub id: PeerId,
    /// What it is for.
    pub purpose: Purpose,
    /// The other side's key.
    pub public_key: PublicKey,
    /// Our key in this session, if it is not the cluster's.
    pub secret: Option<SecretKey>,
    /// The pre-shared key.
    pub preshared: Option<[u8; 32]>,
    /// Keepalive: at the joiner, who may be behind NAT.
    pub keepalive: Option<Duration>,
    /// Whether to begin a handshake at once.
    pub initiate: bool,
    /// Where it may be, best first. Names are for the shell to resolve.
    pub endpoints: heapless::Vec<SocketAddr, { budget::ENDPOINTS }>,
    /// Host names and ports to resolve; what they yield goes to the gateway as further endpoints.
    pub names: Vec<(heapless::String<64>, u16)>,
    /// Which end we are.
    pub end: End,
    /// The control ends on this host: ours, the peer's.
    pub control: (Ipv4Addr, Ipv4Addr),
    /// The node ends on this host: ours, the peer's. None if only control passes.
    pub node: Option<(Ipv4Addr, Ipv4Addr)>,
    /// The peer's prefixes and the image of each.
    pub remote: heapless::Vec<(Prefix, Prefix), { budget::PREFIXES }>,
}

/// What the edge is to do.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// Answer a control request, with JSON.
    Answer {
        /// Which.
        request: RequestId,
        /// The HTTP status.
        status: u16,
        /// The body.
        body: String,
    },
    /// Let a CONNECT through to our API server.
    Passage {
        /// Which.
        request: RequestId,
        /// Whose.
        peer: PeerId,
    },
    /// POST to the peer's control end. Always to be answered, within 30 seconds.
    Ask {
        /// The number of the question.
        ask: AskId,
        /// Whom.
        peer: PeerId,
        /// The path.
        path: &'static str,
        /// For `Authorization: Bearer`.
        bearer: String,
        /// The JSON body.
        body: String,
    },
    /// Hold this session. A row that is held already is replaced.
    AddPeer(Box<AddPeer>),
    /// Let this session go.
    RemovePeer(PeerId),
    /// A credential for a provider's API server; it replaces the one before.
    Credential {
        /// Whose.
        peer: PeerId,
        /// The token.
        token: String,
        /// The CA bundle, PEM.
        ca: String,
        /// The name to expect in the certificate.
        name: String,
        /// How long it lives from now.
        lifetime: Duration,
    },
    /// This peer lends us resources: at the start, on a new peering, and again when its addresses here change.
    Provider {
        /// Its row.
        peer: PeerId,
        /// Its ID, and the name of its virtual node.
        cluster: ClusterId,
        /// Our tenant namespace there.
        tenant: String,
        /// What it lends.
        grant: Resources,
        /// Its nodes' architecture; empty if it did not say.
        architecture: String,
        /// Its prefixes and the image of each.
        images: Vec<(Prefix, Prefix)>,
        /// The virtual node's address on this host.
        virtual_node: Ipv4Addr,
    },
    /// We lend this peer resources; as [`Event::Provider`].
    Consumer {
        /// Its row.
        peer: PeerId,
        /// Its ID.
        cluster: ClusterId,
        /// Its tenant namespace here.
        tenant: String,
        /// What we lend.
        grant: Resources,
        /// Its prefixes and the image of each.
        images: Vec<(Prefix, Prefix)>,
    },
    /// The peering is over. The row stays taken until [`Authority::release`]; what is to be removed is in [`Authority::owed`] too.
    Gone {
        /// Its row.
        peer: PeerId,
        /// Its ID.
        cluster: ClusterId,
        /// Whether it was our provider.
        provider: bool,
        /// Whether it was our consumer.
        consumer: bool,
    },
    /// How a join, an invitation or a leave gets on; for the CLI and the log.
    Progress(PeerId, Progress),
}

/// A step that a person wants to know of.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// The session to the inviter is up.
    TunnelUp {
        /// Who answered.
        endpoint: SocketAddr,
        /// Since the first try.
        took: Duration,
    },
    /// The inviter said who it is.
    Greeted {
        /// Its ID.
        cluster: ClusterId,
        /// Whether we are behind NAT, as far as can be known from where the inviter sees us.
        behind_nat: Option<bool>,
    },
    /// Both have pinned each other.
    Enrolled {
        /// The peer's ID.
        cluster: ClusterId,
        /// Its prefixes and the image of each.
        images: Vec<(Prefix, Prefix)>,
        /// Ours as seen there.
        seen_as: Vec<Prefix>,
        /// What it lends us.
        consume: Option<Resources>,
        /// What we lend it.
        provide: Option<Resources>,
    },
    /// A credential has come, first or renewed.
    Credential,
    /// The peering's own session carries.
    Linked,
    /// Not yet, tried again; why.
    Retrying(String),
    /// It will not be; nothing is left of it.
    Failed(Refusal),
    /// Our leaving: whether the peer knows. If not it is told when it is back.
    Left {
        /// Whether it knows.
        told: bool,
    },
}

/// What `invite` wants.
#[derive(Clone, Debug)]
pub struct InviteOrder {
    /// Where we can be reached, best first.
    pub endpoints: Vec<Endpoint>,
    /// What we offer.
    pub offer: Option<Resources>,
    /// Whether we ask to use the joiner's resources.
    pub ask: bool,
    /// Whether the joiner may take the place of a peer with its ID or key.
    pub replace: bool,
    /// How long the ticket is good for.
    pub life: Duration,
    /// 16 random bytes.
    pub secret: [u8; 16],
}

/// What `invite` prints.
#[derive(Clone, Debug, PartialEq)]
pub struct Invitation {
    /// The line.
    pub line: String,
    /// What it says.
    pub ticket: Ticket,
    /// Whether all its endpoints are private addresses, of use on one site only.
    pub private: bool,
}

/// Why there is no ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CannotInvite {
    /// As it says.
    Mint(CannotMint),
    /// All tickets remembered are open.
    TooManyTickets,
    /// No more peers fit.
    Full,
}

/// What `join` wants.
#[derive(Clone, Debug)]
pub struct JoinOrder {
    /// The line.
    pub line: String,
    /// Whether to use what is offered.
    pub consume: bool,
    /// What we lend if the inviter asks.
    pub provide: Option<Resources>,
    /// Whether a peer with the inviter's ID or key is to be given up for it.
    pub replace: bool,
}

/// Why a join does not begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CannotJoin {
    /// It cannot be read.
    Ticket(BadTicket),
    /// We printed it.
    Own,
    /// It is being redeemed already.
    UnderWay,
    /// The inviter is a peer already.
    Peered(ClusterId),
    /// No more peers fit.
    Full,
}

/// Why the authority cannot start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannotStart {
    /// No /16 of the private ranges is free for the external addresses.
    NoRange,
    /// There is no pod prefix of ours.
    NoPods,
}

impl fmt::Display for CannotInvite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CannotInvite::Mint(why) => why.fmt(f),
            CannotInvite::TooManyTickets => write!(f, "{} tickets are open, as many as can be; wait until one is used or expires", budget::TICKETS),
            CannotInvite::Full => write!(f, "there are {} peers, as many as can be; unpeer one first", super::ledger::ADMITTED),
        }
    }
}

impl fmt::Display for CannotJoin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CannotJoin::Ticket(why) => why.fmt(f),
            CannotJoin::Own => f.write_str("this cluster made the ticket itself; run sluice join on the other cluster"),
            CannotJoin::UnderWay => f.write_str("this ticket is being redeemed already; see: sluice status"),
            CannotJoin::Peered(id) => write!(f, "this cluster is a peer of {id} already; run: sluice unpeer {id} first, or join with --replace"),
            CannotJoin::Full => write!(f, "there are {} peers, as many as can be; unpeer one first", super::ledger::ADMITTED),
        }
    }
}

impl fmt::Display for CannotStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CannotStart::NoRange => "no /16 is free in 10.0.0.0/8, 172.16.0.0/12 and 192.168.0.0/16 for the peers' addresses on this host",
            CannotStart::NoPods => "the pod prefix of this cluster is not known; set it in the configuration (pods = 10.42.0.0/16)",
        })
    }
}

impl std::error::Error for CannotInvite {}
impl std::error::Error for CannotJoin {}
impl std::error::Error for CannotStart {}

/// What follows once the ledger is on disk.
#[derive(Debug)]
pub(super) enum Step {
    /// A ticket is burnt and its redeemer pinned.
    Grant { row: PeerId, enrolment: PeerId, request: RequestId },
    /// A peer said that it leaves.
    Heard { row: PeerId, request: RequestId, gone: Event },
    /// We leave, or learnt that the peer did.
    Leave { row: PeerId, told: bool, gone: Event },
    /// The inviter took us.
    Enrolled { row: PeerId, credential: Option<super::request::Credential> },
    /// A join begins.
    Join { row: PeerId },
}

/// Who made a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Issue(PeerId),
    Revoke,
}

/// See the module's head.
#[derive(Debug)]
pub struct Authority {
    pub(super) ledger: Ledger,
    durable: Ledger,
    pub(super) public: PublicKey,
    pub(super) facts: Facts,
    pub(super) external: External,
    pub(super) lines: Vec<Option<Box<Line>>>,
    /// Rows whose peer is gone but not cleaned up after.
    held: [bool; budget::PEERS],
    pub(super) dirty: bool,
    offered: Option<(Ledger, usize)>,
    pub(super) steps: Vec<Step>,
    resave: Option<Instant>,
    pub(super) events: VecDeque<Event>,
    pub(super) revoke: Option<Revoke>,
    calls: Vec<(u32, Caller)>,
    counter: u32,
    refused: [u32; REASONS.len()],
    pub(super) tell: (Instant, u32),
    floor_start: (Instant, WallTime),
    floor_due: Instant,
    /// The floor found at the start.
    floor_found: WallTime,
}

impl Authority {
    /// Begins with what was stored. Sessions, providers and consumers of the ledger come as events.
    pub fn new(ledger: Ledger, facts: Facts, now: Now) -> Result<Authority, CannotStart> {
        if facts.pods.is_empty() {
            return Err(CannotStart::NoPods);
        }
        let own: Vec<Prefix> = facts.pods.iter().chain(&facts.in_use).copied().collect();
        let kept = ledger.external.and_then(External::new).filter(|x| !own.iter().any(|p| p.overlaps(x.prefix())));
        let external = kept.or_else(|| External::choose(&own)).ok_or(CannotStart::NoRange)?;
        let first = WallTime(now.wall.0.max(ledger.floor.0));
        let mut it = Authority {
            durable: ledger.clone(),
            public: ledger.public(),
            ledger,
            facts,
            external,
            lines: (0..budget::PEERS).map(|_| None).collect(),
            held: [false; budget::PEERS],
            dirty: true,
            offered: None,
            steps: Vec::new(),
            resave: None,
            events: VecDeque::new(),
            revoke: None,
            calls: Vec::new(),
            counter: 0,
            refused: [0; REASONS.len()],
            tell: (now.mono + Duration::from_secs(5), 0),
            floor_start: (now.mono, first),
            floor_due: now.mono,
            floor_found: WallTime(0),
        };
        it.floor_found = it.durable.floor;
        it.ledger.external = Some(external.prefix());
        it.refit();
        it.events.clear();
        for row in it.ledger.joins.iter().map(|j| j.row).collect::<Vec<_>>() {
            it.open_join(row, now.mono);
        }
        for row in it.ledger.peers.iter().map(|p| p.row).collect::<Vec<_>>() {
            it.open_peer(row, false, now.mono);
        }
        it.handle_timeout(now);
        Ok(it)
    }

    /// The stamps of handshakes must begin above this; for the gateway, at its start. What is given out later is covered by the reserve kept ahead.
    pub fn stamp_floor(&self) -> WallTime {
        self.floor_found
    }

    /// The addresses of the overlay on this host.
    pub fn external(&self) -> External {
        self.external
    }

    /// What is stored, for status and for tests.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// How often each reason refused a request, by its name.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u32)> {
        REASONS.iter().zip(self.refused).map(|(&(_, name, _), count)| (name, count))
    }

    /// Makes a ticket. Show it only after the state was saved.
    pub fn invite(&mut self, order: InviteOrder, now: Now) -> Result<Invitation, CannotInvite> {
        if !self.ledger.has_room() {
            return Err(CannotInvite::Full);
        }
        let ticket = Ticket {
            inviter: self.public,
            secret: TicketSecret(order.secret),
            expires: WallTime(now.wall.0.saturating_add(order.life.as_secs() as i64)),
            endpoints: order.endpoints.into_iter().take(budget::ENDPOINTS).collect(),
            offer: order.offer,
            ask: order.ask,
        };
        let line = ticket.mint().map_err(CannotInvite::Mint)?;
        let enrolment = ticket.enrolment();
        let issued = Issued {
            key: enrolment.public,
            preshared: enrolment.preshared,
            boot: self.facts.boot.clone(),
            expires: (now.mono + order.life).since_boot().as_secs(),
            offer: order.offer,
            ask: order.ask,
            replace: order.replace,
            state: TicketState::Open,
            closed: WallTime(0),
        };
        if !self.ledger.push_ticket(issued) {
            return Err(CannotInvite::TooManyTickets);
        }
        self.dirty = true;
        Ok(Invitation { line, private: ticket.endpoints.iter().all(Endpoint::is_private), ticket })
    }

    /// Begins to redeem a ticket; how it goes on comes as [`Event::Progress`] under the row returned. The ticket read comes along, for the CLI.
    pub fn join(&mut self, order: JoinOrder, now: Now) -> Result<(PeerId, Ticket), CannotJoin> {
        let ticket = Ticket::read(&order.line).map_err(CannotJoin::Ticket)?;
        if ticket.inviter == self.public {
            return Err(CannotJoin::Own);
        }
        // Two sessions with one inviter could not be told apart by its key.
        if self.ledger.joins.iter().any(|j| j.ticket.inviter == ticket.inviter) {
            return Err(CannotJoin::UnderWay);
        }
        let known = self.ledger.peers.iter().find(|p| p.key == ticket.inviter).map(|p| (p.row, p.id.clone()));
        if let Some((row, id)) = known {
            if !order.replace {
                return Err(CannotJoin::Peered(id));
            }
            self.depart(row, false, now).map_err(|_| CannotJoin::Full)?;
        }
        let row = self.free_row().filter(|_| self.ledger.has_room()).ok_or(CannotJoin::Full)?;
        let join = Join { row, ticket: ticket.clone(), consume: order.consume, provide: order.provide, replace: order.replace };
        self.ledger.joins.push(join);
        self.dirty = true;
        self.steps.push(Step::Join { row });
        Ok((row, ticket))
    }

    /// Gives a join up. True if there was one.
    pub fn cancel_join(&mut self, peer: PeerId, now: Now) -> bool {
        let found = self.ledger.join(peer).is_some();
        if found {
            if let Some(id) = self.met(peer) {
                self.regret(peer, id, now);
            }
            self.give_up(peer, Refusal::new(Reason::Left, "the join was given up"));
        }
        found
    }

    /// Ends a peering, whether the peer answers or not. None if there is no such peer or no room to remember what is owed.
    pub fn unpeer(&mut self, id: &ClusterId, now: Now) -> Option<PeerId> {
        let row = self.ledger.peers.iter().find(|p| p.id == *id)?.row;
        self.depart(row, false, now).ok()?;
        Some(row)
    }

    /// All that was to be removed for a peer that is gone has been: its row may be used again.
    pub fn release(&mut self, peer: PeerId) {
        if let Some(held) = self.held.get_mut(usize::from(peer.0)) {
            *held = false;
        }
    }

    /// Clean-up that is owed, over restarts.
    pub fn owed(&self) -> &[super::ledger::Owed] {
        &self.ledger.owed
    }

    /// Remembers clean-up. False if there is no room.
    pub fn owe(&mut self, owed: super::ledger::Owed) -> bool {
        self.dirty = true;
        self.ledger.push_owed(owed)
    }

    /// Forgets clean-up that has been done.
    pub fn settle(&mut self, owed: &super::ledger::Owed) {
        self.ledger.owed.retain(|o| o != owed);
        self.dirty = true;
    }

    /// Other facts: nodes came and went, the host has other addresses. Images that clash now are moved.
    pub fn set_facts(&mut self, facts: Facts) {
        self.facts = facts;
        self.refit();
    }

    /// A time that is believed (from NTP, or a peer's `hello`), for the next start without a clock. Stored with the next change.
    pub fn note_good_time(&mut self, wall: WallTime) {
        self.ledger.good_time = self.ledger.good_time.max(wall);
    }

    /// The last good time stored.
    pub fn good_time(&self) -> WallTime {
        self.ledger.good_time
    }

    /// The state to be written, if it has changed. To be followed by [`Authority::saved`] before anything else is done.
    pub fn unsaved(&mut self) -> Option<String> {
        if !self.dirty {
            return None;
        }
        self.dirty = false;
        let text = self.ledger.snapshot();
        self.offered = Some((self.ledger.clone(), self.steps.len()));
        Some(text)
    }

    /// Whether the state last asked for is on disk. If not, all that hung on it is undone.
    pub fn saved(&mut self, written: Result<(), String>, now: Now) {
        let Some((offered, count)) = self.offered.take() else { return };
        match written {
            Ok(()) => {
                self.durable = offered;
                for step in self.steps.drain(..count).collect::<Vec<_>>() {
                    self.finish(step, now);
                }
            }
            Err(why) => {
                self.ledger = self.durable.clone();
                self.ledger.external = Some(self.external.prefix());
                self.resave = Some(now.mono + RESAVE);
                for step in std::mem::take(&mut self.steps) {
                    self.undo(step, &why, now);
                }
            }
        }
    }

    /// What the edge is to do next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next API call.
    pub fn poll_call(&mut self) -> Option<(u32, Call)> {
        if self.calls.len() >= budget::CALLS {
            return None;
        }
        let revoke = self.revoke.as_mut().and_then(|r| Some((Caller::Revoke, r.poll_call()?)));
        let (caller, call) = revoke.or_else(|| {
            self.lines.iter_mut().enumerate().find_map(|(row, line)| Some((Caller::Issue(PeerId(row as u8)), line.as_mut()?.issue.as_mut()?.poll_call()?)))
        })?;
        self.counter = self.counter.wrapping_add(1);
        self.calls.push((self.counter, caller));
        Some((self.counter, call))
    }

    /// The answer to a call.
    pub fn handle_reply(&mut self, call: u32, reply: crate::kube::reply::Reply, now: Now) {
        let Some(at) = self.calls.iter().position(|(id, _)| *id == call) else { return };
        match self.calls.swap_remove(at).1 {
            Caller::Revoke => self.revoked(reply, now.mono),
            Caller::Issue(row) => self.issue_reply(row, reply, now),
        }
    }

    /// What to do about an initiation by a key that has no session: one for a ticket or a farewell, or nothing at all.
    pub fn stranger(&mut self, key: PublicKey, now: Now) -> Option<AddPeer> {
        self.expire(now);
        let role = self.role_of(&key)?;
        let open = |l: &Line| l.role == Role::Enrolment && self.ledger.ticket(&l.key).is_some_and(|t| t.state == TicketState::Open);
        let quiet = if self.ledger.ticket(&key).is_some_and(|t| t.state == TicketState::Open) {
            // Enrolments under way are not disturbed: who finds no room tries again.
            if self.lines.iter().flatten().filter(|l| open(l)).count() >= super::ENROLMENTS {
                return None;
            }
            super::peering::ENROLMENT
        } else {
            self.make_room();
            super::peering::FAREWELL
        };
        let row = self.free_row()?;
        let mut line = Line::new(role, &self.ledger.secret, key, now.mono)?;
        line.until = Some(now.mono + quiet);
        self.lines[usize::from(row.0)] = Some(Box::new(line));
        Some(self.session(row))
    }

    fn role_of(&self, key: &PublicKey) -> Option<Role> {
        if self.lines.iter().flatten().any(|l| l.key == *key) {
            return None;
        }
        match self.ledger.ticket(key) {
            Some(_) => Some(Role::Enrolment),
            None => self.ledger.left.iter().any(|l| l.key == *key).then_some(Role::Farewell),
        }
    }

    /// Farewells make room, oldest first.
    fn make_room(&mut self) {
        let closed = |l: &Line| l.role == Role::Enrolment && self.ledger.ticket(&l.key).is_none_or(|t| t.state != TicketState::Open);
        let passing = |l: &Line| l.role == Role::Farewell || closed(l);
        let rows = self.lines.iter().enumerate().filter_map(|(row, l)| Some((row, l.as_ref()?)));
        let farewells: Vec<(Instant, usize)> = rows.filter(|(row, l)| passing(l) && !self.held[*row]).map(|(row, l)| (l.since, row)).collect();
        if farewells.len() >= budget::FAREWELLS
            && let Some(&(_, oldest)) = farewells.iter().min()
        {
            self.take_down(PeerId(oldest as u8));
        }
    }

    /// The first row that nothing stands in.
    pub(super) fn free_row(&self) -> Option<PeerId> {
        (0..budget::PEERS as u8).map(PeerId).find(|&row| {
            let i = usize::from(row.0);
            self.lines[i].is_none() && !self.held[i] && self.ledger.peer(row).is_none() && self.ledger.join(row).is_none()
        })
    }

    pub(super) fn is_held(&self, row: PeerId) -> bool {
        self.held[usize::from(row.0)]
    }

    pub(super) fn hold(&mut self, row: PeerId) {
        self.held[usize::from(row.0)] = true;
    }

    pub(super) fn count(&mut self, reason: Reason) {
        let count = &mut self.refused[reason as usize];
        *count = count.saturating_add(1);
    }

    pub(super) fn next_number(&mut self) -> u32 {
        self.counter = self.counter.wrapping_add(1);
        self.counter
    }

    /// All that an image must avoid, but for those of the peer in `except`.
    pub(super) fn in_use(&self, except: Option<PeerId>) -> Vec<Prefix> {
        let v4 = |address: &SocketAddr| match address.ip() {
            IpAddr::V4(ip) => Some(addresses::single(ip)),
            IpAddr::V6(_) => None,
        };
        let candidate = |e: &Endpoint| match e {
            Endpoint::Address(address) => v4(address),
            Endpoint::Name(..) => None,
        };
        let mut all: Vec<Prefix> = self.facts.pods.iter().chain(&self.facts.in_use).copied().collect();
        all.push(self.external.prefix());
        for peer in &self.ledger.peers {
            all.extend(peer.endpoints.iter().filter_map(candidate));
            all.extend(peer.last.iter().filter_map(v4));
            if Some(peer.row) != except {
                all.extend_from_slice(&peer.images);
            }
        }
        all.extend(self.ledger.joins.iter().flat_map(|j| j.ticket.endpoints.iter().filter_map(candidate)));
        all.extend(self.lines.iter().flatten().filter_map(|l| l.seen.as_ref().and_then(v4)));
        all
    }

    /// An image for each prefix; none if one finds no place.
    pub(super) fn images(&self, prefixes: &[Prefix], except: Option<PeerId>) -> Option<Vec<Prefix>> {
        let mut in_use = self.in_use(except);
        let mut images = Vec::with_capacity(prefixes.len());
        for &prefix in prefixes {
            let image = addresses::image(prefix, &in_use)?;
            in_use.push(image);
            images.push(image);
        }
        Some(images)
    }

    /// Moves images that clash with what is in use by now.
    pub(super) fn refit(&mut self) {
        let rows: Vec<PeerId> = self.ledger.peers.iter().map(|p| p.row).collect();
        for row in rows {
            let in_use = self.in_use(Some(row));
            let Some(peer) = self.ledger.peer(row) else { continue };
            if !peer.images.iter().any(|image| in_use.iter().any(|used| used.overlaps(*image))) {
                continue;
            }
            // Without a free place the clash stays: the peering lives on, pods at the clashing addresses are not reached.
            let Some(images) = self.images(&peer.prefixes.clone(), Some(row)) else { continue };
            if let Some(peer) = self.ledger.peer_mut(row) {
                peer.images = images;
            }
            self.dirty = true;
            if self.lines[usize::from(row.0)].is_some() {
                let session = self.session(row);
                self.events.push_back(Event::AddPeer(Box::new(session)));
                self.announce(row);
            }
        }
    }

    /// Tells the agent what this peer is to us.
    pub(super) fn announce(&mut self, row: PeerId) {
        let Some(peer) = self.ledger.peer(row) else { return };
        let images = pairs(peer);
        let (cluster, consume, provide, architecture) = (peer.id.clone(), peer.consume, peer.provide, peer.architecture.clone());
        if let Some(grant) = consume {
            let tenant = super::issue::tenant(&self.ledger.id);
            let virtual_node = self.external.virtual_node(row);
            self.events.push_back(Event::Provider { peer: row, cluster: cluster.clone(), tenant, grant, architecture, images: images.clone(), virtual_node });
        }
        if let Some(grant) = provide {
            self.events.push_back(Event::Consumer { peer: row, tenant: super::issue::tenant(&cluster), cluster, grant, images });
        }
    }

    /// The session of a row, from what the ledger and its line say.
    pub(super) fn session(&self, row: PeerId) -> AddPeer {
        let external = self.external;
        let line = self.lines[usize::from(row.0)].as_deref().expect("called only for rows that have a line");
        let mut it = AddPeer {
            id: row,
            purpose: Purpose::Enrolment,
            public_key: line.key,
            secret: None,
            preshared: None,
            keepalive: None,
            initiate: false,
            endpoints: heapless::Vec::new(),
            names: Vec::new(),
            end: End::Inviter,
            control: (external.own_control(), external.control(row)),
            node: None,
            remote: heapless::Vec::new(),
        };
        let mut reach: Vec<Endpoint> = Vec::new();
        match line.role {
            Role::Enrolment => it.preshared = self.ledger.ticket(&line.key).map(|t| t.preshared),
            Role::Joining => {
                if let Some(join) = self.ledger.join(row) {
                    let enrolment = join.ticket.enrolment();
                    (it.secret, it.preshared) = (Some(enrolment.secret), Some(enrolment.preshared));
                    reach.extend(join.ticket.endpoints.iter().cloned());
                }
                it.end = End::Joiner;
            }
            Role::Farewell => {
                it.purpose = Purpose::Farewell;
                if let Some(left) = self.ledger.left.iter().find(|l| l.key == line.key) {
                    it.end = left.end;
                    it.initiate = !left.told && !left.endpoints.is_empty();
                    reach.extend(left.endpoints.iter().cloned());
                }
            }
            Role::Peer => {
                it.purpose = Purpose::Peering;
                if let Some(peer) = self.ledger.peer(row) {
                    it.end = peer.end;
                    reach.extend(peer.last.map(Endpoint::Address));
                    reach.extend(peer.endpoints.iter().cloned());
                    it.remote.extend(pairs(peer).into_iter().take(budget::PREFIXES));
                    it.node = Some((external.own_node(), external.node(row)));
                    it.initiate = !reach.is_empty() && !line.fresh;
                }
            }
        }
        if it.end == End::Joiner {
            it.initiate = true;
            it.keepalive = (it.purpose != Purpose::Farewell).then_some(super::peering::KEEPALIVE);
        }
        for endpoint in reach {
            match endpoint {
                Endpoint::Address(address) if !it.endpoints.contains(&address) => drop(it.endpoints.push(address)),
                Endpoint::Address(_) => {}
                Endpoint::Name(name, port) => it.names.push((name, port)),
            }
        }
        it
    }

    /// Keeps the floor of the stamps ahead of any stamp that can be given out, whatever the wall clock does.
    pub(super) fn keep_floor(&mut self, now: Now) {
        let ran = WallTime(self.floor_start.1.0.saturating_add(now.mono.since(self.floor_start.0).as_secs() as i64));
        let top = now.wall.max(ran);
        if self.ledger.floor.0 < top.0.saturating_add(FLOOR_AHEAD.1) {
            self.ledger.floor = WallTime(top.0.saturating_add(FLOOR_AHEAD.0));
            self.ledger.forget(now.wall);
            self.dirty = true;
        }
        if self.floor_due <= now.mono {
            self.floor_due = now.mono + Duration::from_secs(600);
        }
        if self.resave.is_some_and(|at| at <= now.mono) {
            (self.resave, self.dirty) = (None, true);
        }
    }

    /// The timers of this file.
    pub(super) fn own_timers(&self) -> impl Iterator<Item = Instant> {
        let ticket = self.ledger.tickets.iter().filter(|t| t.state == TicketState::Open).map(|t| Instant::from_boot(Duration::from_secs(t.expires)));
        ticket.chain(self.resave).chain([self.floor_due])
    }

    /// Closes tickets whose time is over, or that another boot made.
    pub(super) fn expire(&mut self, now: Now) {
        for ticket in self.ledger.tickets.iter_mut().filter(|t| t.state == TicketState::Open) {
            if ticket.boot != self.facts.boot || ticket.expires <= now.mono.since_boot().as_secs() {
                (ticket.state, ticket.closed) = (TicketState::Expired, now.wall);
                self.dirty = true;
            }
        }
    }
}

/// A peer's prefixes, each with its image.
pub(super) fn pairs(peer: &Peer) -> Vec<(Prefix, Prefix)> {
    peer.prefixes.iter().copied().zip(peer.images.iter().copied()).collect()
}
