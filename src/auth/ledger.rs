//! What must outlive this process: who we are, who our peers are, which tickets are out, who left, what is still to be removed.
//!
//! The authority changes it, one durable step at a time; the shell stores [`Ledger::snapshot`] and hands it back to [`Ledger::parse`].
//! It decides nothing. JSON with `version` 1; a newer version, a cut file or a value out of place is an error that says where.

use super::base64url;
use super::endpoint::Endpoint;
use super::keys;
use super::resources::Resources;
use super::ticket::Ticket;
use crate::budget;
use crate::clock::WallTime;
use crate::identity::{ClusterId, End, PeerId, Prefix, PublicKey, SecretKey};
use std::fmt;
use std::net::SocketAddr;

/// The version written and the newest one read.
pub const VERSION: u32 = 1;
/// The largest state file read, in bytes; all tables full take about half of it.
pub const BYTES: usize = 256 * 1024;
/// Rows of owed clean-up; a further one makes the step that would owe it fail.
pub const OWED: usize = 256;
/// Peers and joins together: the other rows are left for enrolments and farewells.
pub const ADMITTED: usize = budget::PEERS - budget::FAREWELLS - super::ENROLMENTS;

/// The whole state.
#[derive(Clone, Debug, PartialEq)]
pub struct Ledger {
    /// This cluster's ID.
    pub id: ClusterId,
    /// This cluster's key.
    pub secret: SecretKey,
    /// No handshake stamp at or above this was ever given out.
    pub floor: WallTime,
    /// The last wall time that was believable.
    pub good_time: WallTime,
    /// The external range, once chosen.
    pub external: Option<Prefix>,
    /// Peers, at most one a row.
    pub peers: Vec<Peer>,
    /// Tickets of others that are being redeemed.
    pub joins: Vec<Join>,
    /// Our tickets, oldest first; at most [`budget::TICKETS`].
    pub tickets: Vec<Issued>,
    /// Peers that left, oldest first; at most [`budget::LEFT`].
    pub left: Vec<Left>,
    /// Clean-up that is owed; at most [`OWED`].
    pub owed: Vec<Owed>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// Its row.
    pub row: PeerId,
    /// Its ID, pinned to its key.
    pub id: ClusterId,
    /// Its key.
    pub key: PublicKey,
    /// Which end we are.
    pub end: End,
    /// Where it may be reached (the ticket's candidates); empty at the inviter.
    pub endpoints: Vec<Endpoint>,
    /// The last endpoint from which it proved itself.
    pub last: Option<SocketAddr>,
    /// Its pod prefixes.
    pub prefixes: Vec<Prefix>,
    /// Under which each of them is seen here.
    pub images: Vec<Prefix>,
    /// Under which ours are seen there, as far as it said.
    pub seen_as: Vec<Prefix>,
    /// Its nodes' architecture.
    pub architecture: String,
    /// What we lend it.
    pub provide: Option<Resources>,
    /// What it lends us.
    pub consume: Option<Resources>,
    /// The UID of its tenant namespace here, once made.
    pub tenant: Option<String>,
}

/// A ticket of another cluster that we are redeeming.
#[derive(Clone, Debug, PartialEq)]
pub struct Join {
    /// Its row; the peer takes it over.
    pub row: PeerId,
    /// The ticket.
    pub ticket: Ticket,
    /// Whether we want what it offers.
    pub consume: bool,
    /// What we lend if it asks.
    pub provide: Option<Resources>,
    /// Whether a peer known under that ID or key is to be given up for it.
    pub replace: bool,
}

/// A ticket of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Issued {
    /// The public key of its enrolment.
    pub key: PublicKey,
    /// The pre-shared key of its enrolment.
    pub preshared: [u8; 32],
    /// The boot in which it was made.
    pub boot: String,
    /// When it ends, in seconds since that boot.
    pub expires: u64,
    /// What it offers.
    pub offer: Option<Resources>,
    /// Whether it asks for the joiner's resources.
    pub ask: bool,
    /// Whether the joiner may take the place of a peer of the same ID or key.
    pub replace: bool,
    /// What became of it.
    pub state: TicketState,
    /// When it was closed, by the wall clock.
    pub closed: WallTime,
}

/// What became of a ticket of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketState {
    /// It may be redeemed.
    Open,
    /// The cluster with this key redeemed it.
    Used(PublicKey),
    /// Nobody did in time.
    Expired,
}

/// A peer that left, or that we left.
#[derive(Clone, Debug, PartialEq)]
pub struct Left {
    /// Its ID.
    pub id: ClusterId,
    /// Its key.
    pub key: PublicKey,
    /// Which end we were.
    pub end: End,
    /// When.
    pub at: WallTime,
    /// Where it was last, if it may still be told there.
    pub endpoints: Vec<Endpoint>,
    /// Whether it knows.
    pub told: bool,
}

/// What is still to be removed, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// What.
    pub what: Debt,
    /// The peer it is about.
    pub cluster: ClusterId,
    /// A name, where one is needed; empty otherwise.
    pub name: String,
    /// The UID it must have, where one was recorded; empty otherwise.
    pub uid: String,
}

/// The kinds of clean-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Debt {
    /// The account and the tenant namespace of a consumer. Settled by the authority itself.
    Tenant,
    /// All that the agent made here for a consumer (twin namespaces). Settled by the agent.
    Consumer,
    /// All that the agent made here for a provider (the virtual node, pods bound to it). Settled by the agent.
    Provider,
    /// One twin namespace, by name. Settled by the agent.
    Twin,
}

/// Why a state file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadState {
    /// It is empty.
    Empty,
    /// It is larger than [`BYTES`].
    TooLarge(usize),
    /// It ends before its end.
    CutShort(usize),
    /// It is not the JSON it should be.
    Unreadable,
    /// It was written by a newer version.
    Newer(u32),
    /// A value in it makes no sense.
    Value(String),
}

impl fmt::Display for BadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadState::Empty => {
                f.write_str("the state file is empty; restore it from a copy, or remove it to begin as a new cluster (peers must be joined again)")
            }
            BadState::TooLarge(n) => write!(f, "the state file has {n} bytes, more than the {BYTES} it can have; it is not ours"),
            BadState::CutShort(n) => {
                write!(f, "the state file is cut short (it ends after {n} bytes); restore it from a copy, or remove it to begin as a new cluster")
            }
            BadState::Unreadable => {
                f.write_str("the state file is not the JSON that sluice writes; restore it from a copy, or remove it to begin as a new cluster")
            }
            BadState::Newer(v) => write!(f, "the state file is of version {v}, this sluice knows version {VERSION}; run the newer sluice again"),
            BadState::Value(place) => write!(f, "the state file's {place} makes no sense; restore it from a copy, or remove it to begin as a new cluster"),
        }
    }
}

impl std::error::Error for BadState {}

impl Ledger {
    /// The ledger of a cluster that has met nobody.
    pub fn new(id: ClusterId, secret: SecretKey) -> Ledger {
        Ledger {
            id,
            secret,
            floor: WallTime(0),
            good_time: WallTime(0),
            external: None,
            peers: Vec::new(),
            joins: Vec::new(),
            tickets: Vec::new(),
            left: Vec::new(),
            owed: Vec::new(),
        }
    }

    /// Our public key.
    pub fn public(&self) -> PublicKey {
        keys::public_of(&self.secret)
    }

    /// The peer in a row.
    pub fn peer(&self, row: PeerId) -> Option<&Peer> {
        self.peers.iter().find(|p| p.row == row)
    }

    pub(super) fn peer_mut(&mut self, row: PeerId) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|p| p.row == row)
    }

    /// The join in a row.
    pub fn join(&self, row: PeerId) -> Option<&Join> {
        self.joins.iter().find(|j| j.row == row)
    }

    /// The ticket whose enrolment has this key.
    pub fn ticket(&self, key: &PublicKey) -> Option<&Issued> {
        self.tickets.iter().find(|t| t.key == *key)
    }

    pub(super) fn ticket_mut(&mut self, key: &PublicKey) -> Option<&mut Issued> {
        self.tickets.iter_mut().find(|t| t.key == *key)
    }

    /// Whether another peer or join still fits.
    pub fn has_room(&self) -> bool {
        self.peers.len() + self.joins.len() < ADMITTED
    }

    /// Adds a ticket; a closed one makes room, oldest first. False if all are open.
    pub(super) fn push_ticket(&mut self, ticket: Issued) -> bool {
        if self.tickets.len() >= budget::TICKETS {
            let Some(oldest) = self.tickets.iter().position(|t| t.state != TicketState::Open) else { return false };
            self.tickets.remove(oldest);
        }
        self.tickets.push(ticket);
        true
    }

    /// Adds a peer that left; the oldest makes room.
    pub(super) fn push_left(&mut self, left: Left) {
        self.left.retain(|l| l.key != left.key);
        if self.left.len() >= budget::LEFT {
            self.left.remove(0);
        }
        self.left.push(left);
    }

    /// Adds owed clean-up, once. False if there is no room.
    #[must_use]
    pub(super) fn push_owed(&mut self, owed: Owed) -> bool {
        if self.owed.contains(&owed) {
            return true;
        }
        let room = self.owed.len() < OWED;
        if room {
            self.owed.push(owed);
        }
        room
    }

    /// Forgets tombstones whose time is over, judged only by a wall clock that is not behind them. Whether there were any.
    pub(super) fn forget(&mut self, now: WallTime) -> bool {
        let old = |at: WallTime, memory: u64| now.0.saturating_sub(at.0) > memory as i64;
        let before = self.tickets.len() + self.left.len();
        self.tickets.retain(|t| t.state == TicketState::Open || !old(t.closed, budget::TICKET_MEMORY));
        self.left.retain(|l| !old(l.at, budget::LEFT_MEMORY));
        before != self.tickets.len() + self.left.len()
    }

    /// The content of the state file.
    pub fn snapshot(&self) -> String {
        let mut text = miniserde::json::to_string(&form::State::from(self));
        text.push('\n');
        text
    }

    /// Reads a state file.
    pub fn parse(bytes: &[u8]) -> Result<Ledger, BadState> {
        if bytes.len() > BYTES {
            return Err(BadState::TooLarge(bytes.len()));
        }
        let text =
            std::str::from_utf8(bytes).map_err(|e| if e.error_len().is_none() { BadState::CutShort(bytes.len()) } else { BadState::Unreadable })?.trim_end();
        if text.is_empty() {
            return Err(BadState::Empty);
        }
        // The version is read by itself: the rest of a newer file need not be readable.
        let version = miniserde::json::from_str::<form::Head>(text)
            .map_err(|_| if text.starts_with('{') && !text.ends_with('}') { BadState::CutShort(bytes.len()) } else { BadState::Unreadable })?;
        if version.version > VERSION {
            return Err(BadState::Newer(version.version));
        }
        if version.version != VERSION {
            return Err(BadState::Value("version".into()));
        }
        miniserde::json::from_str::<form::State>(text).map_err(|_| BadState::Unreadable)?.read()
    }
}

/// The JSON shapes, and the way back with every value checked.
mod form {
    use super::*;
    use miniserde::{Deserialize, Serialize};

    #[derive(Deserialize)]
    pub(super) struct Head {
        pub(super) version: u32,
    }

    #[derive(Serialize, Deserialize)]
    pub(super) struct State {
        version: u32,
        id: String,
        secret: String,
        floor: i64,
        good_time: i64,
        external: Option<String>,
        peers: Vec<PeerForm>,
        joins: Vec<JoinForm>,
        tickets: Vec<TicketForm>,
        left: Vec<LeftForm>,
        owed: Vec<OwedForm>,
    }

    #[derive(Serialize, Deserialize)]
    struct PeerForm {
        row: u8,
        id: String,
        key: String,
        end: String,
        endpoints: Vec<String>,
        last: Option<String>,
        prefixes: Vec<String>,
        images: Vec<String>,
        seen_as: Vec<String>,
        architecture: String,
        provide: Option<Resources>,
        consume: Option<Resources>,
        tenant: Option<String>,
    }

    #[derive(Serialize, Deserialize)]
    struct JoinForm {
        row: u8,
        ticket: String,
        consume: bool,
        provide: Option<Resources>,
        replace: bool,
    }

    #[derive(Serialize, Deserialize)]
    struct TicketForm {
        key: String,
        preshared: String,
        boot: String,
        expires: u64,
        offer: Option<Resources>,
        ask: bool,
        replace: bool,
        state: String,
        by: Option<String>,
        closed: i64,
    }

    #[derive(Serialize, Deserialize)]
    struct LeftForm {
        id: String,
        key: String,
        end: String,
        at: i64,
        endpoints: Vec<String>,
        told: bool,
    }

    #[derive(Serialize, Deserialize)]
    struct OwedForm {
        what: String,
        cluster: String,
        name: String,
        uid: String,
    }

    fn texts<T: ToString>(values: &[T]) -> Vec<String> {
        values.iter().map(ToString::to_string).collect()
    }

    fn end_text(end: End) -> String {
        match end {
            End::Inviter => "inviter",
            End::Joiner => "joiner",
        }
        .into()
    }

    const DEBTS: [(Debt, &str); 4] = [(Debt::Tenant, "tenant"), (Debt::Consumer, "consumer"), (Debt::Provider, "provider"), (Debt::Twin, "twin")];

    impl From<&Ledger> for State {
        fn from(l: &Ledger) -> State {
            let peer = |p: &Peer| PeerForm {
                row: p.row.0,
                id: p.id.to_string(),
                key: base64url::encode(&p.key.0),
                end: end_text(p.end),
                endpoints: texts(&p.endpoints),
                last: p.last.map(|a| a.to_string()),
                prefixes: texts(&p.prefixes),
                images: texts(&p.images),
                seen_as: texts(&p.seen_as),
                architecture: p.architecture.clone(),
                provide: p.provide,
                consume: p.consume,
                tenant: p.tenant.clone(),
            };
            let join = |j: &Join| JoinForm {
                row: j.row.0,
                ticket: j.ticket.mint().expect("a ticket that was read has endpoints and fits its line"),
                consume: j.consume,
                provide: j.provide,
                replace: j.replace,
            };
            let ticket = |t: &Issued| {
                let (state, by) = match t.state {
                    TicketState::Open => ("open", None),
                    TicketState::Used(by) => ("used", Some(base64url::encode(&by.0))),
                    TicketState::Expired => ("expired", None),
                };
                TicketForm {
                    key: base64url::encode(&t.key.0),
                    preshared: base64url::encode(&t.preshared),
                    boot: t.boot.clone(),
                    expires: t.expires,
                    offer: t.offer,
                    ask: t.ask,
                    replace: t.replace,
                    state: state.into(),
                    by,
                    closed: t.closed.0,
                }
            };
            let left = |x: &Left| LeftForm {
                id: x.id.to_string(),
                key: base64url::encode(&x.key.0),
                end: end_text(x.end),
                at: x.at.0,
                endpoints: texts(&x.endpoints),
                told: x.told,
            };
            let owed = |o: &Owed| OwedForm {
                what: DEBTS.iter().find(|(debt, _)| *debt == o.what).map_or("", |(_, name)| name).into(),
                cluster: o.cluster.to_string(),
                name: o.name.clone(),
                uid: o.uid.clone(),
            };
            State {
                version: VERSION,
                id: l.id.to_string(),
                secret: base64url::encode(&l.secret.0),
                floor: l.floor.0,
                good_time: l.good_time.0,
                external: l.external.map(|p| p.to_string()),
                peers: l.peers.iter().map(peer).collect(),
                joins: l.joins.iter().map(join).collect(),
                tickets: l.tickets.iter().map(ticket).collect(),
                left: l.left.iter().map(left).collect(),
                owed: l.owed.iter().map(owed).collect(),
            }
        }
    }

    fn bad(place: impl Into<String>) -> BadState {
        BadState::Value(place.into())
    }

    fn all<T: std::str::FromStr>(values: &[String], most: usize, place: &str) -> Result<Vec<T>, BadState> {
        if values.len() > most {
            return Err(bad(place));
        }
        values.iter().map(|v| v.parse().map_err(|_| bad(place))).collect()
    }

    fn end(text: &str, place: &str) -> Result<End, BadState> {
        match text {
            "inviter" => Ok(End::Inviter),
            "joiner" => Ok(End::Joiner),
            _ => Err(bad(place)),
        }
    }

    fn short(text: String, most: usize, place: &str) -> Result<String, BadState> {
        if text.len() > most { Err(bad(place)) } else { Ok(text) }
    }

    fn lent(it: Option<Resources>, place: &str) -> Result<Option<Resources>, BadState> {
        if it.is_some_and(|r| !r.some_of_each()) { Err(bad(place)) } else { Ok(it) }
    }

    impl State {
        pub(super) fn read(self) -> Result<Ledger, BadState> {
            for (name, count, most) in [
                ("peers", self.peers.len() + self.joins.len(), ADMITTED),
                ("tickets", self.tickets.len(), budget::TICKETS),
                ("left", self.left.len(), budget::LEFT),
                ("owed", self.owed.len(), OWED),
            ] {
                if count > most {
                    return Err(bad(format!("list of {name} (more than {most})")));
                }
            }
            let external: Option<Prefix> = self.external.map(|p| p.parse().map_err(|_| bad("external"))).transpose()?;
            if external.is_some_and(|p| p.length() != 16) {
                return Err(bad("external"));
            }
            let mut ledger = Ledger {
                id: self.id.parse().map_err(|_| bad("id"))?,
                secret: SecretKey(base64url::decode_exactly(&self.secret).ok_or_else(|| bad("secret"))?),
                floor: WallTime(self.floor),
                good_time: WallTime(self.good_time),
                external,
                peers: Vec::with_capacity(self.peers.len()),
                joins: Vec::with_capacity(self.joins.len()),
                tickets: Vec::with_capacity(self.tickets.len()),
                left: Vec::with_capacity(self.left.len()),
                owed: Vec::with_capacity(self.owed.len()),
            };
            let mut taken = [false; budget::PEERS];
            let mut row = |row: u8, place: &str| match taken.get_mut(usize::from(row)) {
                Some(free) if !*free => {
                    *free = true;
                    Ok(PeerId(row))
                }
                _ => Err(bad(place)),
            };
            for (i, p) in self.peers.into_iter().enumerate() {
                let at = |field: &str| format!("peers[{i}].{field}");
                let peer = Peer {
                    row: row(p.row, &at("row"))?,
                    id: p.id.parse().map_err(|_| bad(at("id")))?,
                    key: base64url::public_key(&p.key).ok_or_else(|| bad(at("key")))?,
                    end: end(&p.end, &at("end"))?,
                    endpoints: all(&p.endpoints, budget::ENDPOINTS, &at("endpoints"))?,
                    last: p.last.map(|a| a.parse().map_err(|_| bad(at("last")))).transpose()?,
                    prefixes: all(&p.prefixes, budget::PREFIXES, &at("prefixes"))?,
                    images: all(&p.images, budget::PREFIXES, &at("images"))?,
                    seen_as: all(&p.seen_as, budget::PREFIXES, &at("seen_as"))?,
                    architecture: short(p.architecture, 32, &at("architecture"))?,
                    provide: lent(p.provide, &at("provide"))?,
                    consume: lent(p.consume, &at("consume"))?,
                    tenant: p.tenant.map(|uid| short(uid, 64, &at("tenant"))).transpose()?,
                };
                let same_length = |(a, b): (&Prefix, &Prefix)| a.length() == b.length();
                if peer.images.len() != peer.prefixes.len() || !peer.prefixes.iter().zip(&peer.images).all(same_length) {
                    return Err(bad(at("images")));
                }
                if ledger.peers.iter().any(|other| other.id == peer.id || other.key == peer.key) {
                    return Err(bad(at("id or key (another row has it too)")));
                }
                ledger.peers.push(peer);
            }
            for (i, j) in self.joins.into_iter().enumerate() {
                let at = |field: &str| format!("joins[{i}].{field}");
                ledger.joins.push(Join {
                    row: row(j.row, &at("row"))?,
                    ticket: Ticket::read(&j.ticket).map_err(|_| bad(at("ticket")))?,
                    consume: j.consume,
                    provide: lent(j.provide, &at("provide"))?,
                    replace: j.replace,
                });
            }
            for (i, t) in self.tickets.into_iter().enumerate() {
                let at = |field: &str| format!("tickets[{i}].{field}");
                let by = t.by.map(|by| base64url::public_key(&by).ok_or_else(|| bad(at("by")))).transpose()?;
                ledger.tickets.push(Issued {
                    key: base64url::public_key(&t.key).ok_or_else(|| bad(at("key")))?,
                    preshared: base64url::decode_exactly(&t.preshared).ok_or_else(|| bad(at("preshared")))?,
                    boot: short(t.boot, 64, &at("boot"))?,
                    expires: t.expires,
                    offer: lent(t.offer, &at("offer"))?,
                    ask: t.ask,
                    replace: t.replace,
                    state: match (t.state.as_str(), by) {
                        ("open", None) => TicketState::Open,
                        ("used", Some(by)) => TicketState::Used(by),
                        ("expired", None) => TicketState::Expired,
                        _ => return Err(bad(at("state"))),
                    },
                    closed: WallTime(t.closed),
                });
            }
            for (i, x) in self.left.into_iter().enumerate() {
                let at = |field: &str| format!("left[{i}].{field}");
                ledger.left.push(Left {
                    id: x.id.parse().map_err(|_| bad(at("id")))?,
                    key: base64url::public_key(&x.key).ok_or_else(|| bad(at("key")))?,
                    end: end(&x.end, &at("end"))?,
                    at: WallTime(x.at),
                    endpoints: all(&x.endpoints, budget::ENDPOINTS, &at("endpoints"))?,
                    told: x.told,
                });
            }
            for (i, o) in self.owed.into_iter().enumerate() {
                let at = |field: &str| format!("owed[{i}].{field}");
                ledger.owed.push(Owed {
                    what: DEBTS.iter().find(|(_, name)| *name == o.what).ok_or_else(|| bad(at("what")))?.0,
                    cluster: o.cluster.parse().map_err(|_| bad(at("cluster")))?,
                    name: short(o.name, 63, &at("name"))?,
                    uid: short(o.uid, 64, &at("uid"))?,
                });
            }
            Ok(ledger)
        }
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
