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
#[derive(Clone, PartialEq)]
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
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Issued({:?}, {:?})", self.key, self.state)
    }
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

/// The ID of a cluster that was given none: what a DNS label can have of the host's name, and eight hex digits of the key.
pub fn default_id(host: &str, key: &PublicKey) -> ClusterId {
    let host = host.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let label: String = host.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(31).collect();
    let label = label.trim_matches('-');
    let [a, b, c, d, ..] = key.0;
    let name = if label.is_empty() { "cluster" } else { label };
    format!("{name}-{a:02x}{b:02x}{c:02x}{d:02x}").parse().expect("at most 31 + 9 characters of a label")
}

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

    /// Forgets peers that left, know it, and did so long ago, judged only by a wall clock that is not behind. Whether there were any. Whoever does
    /// not know yet stays, whatever the clock says: nothing else could tell it, and there is room for [`budget::LEFT`]. So do closed tickets:
    /// a clock that jumps ahead must not keep their reason from those who redeem them.
    pub(super) fn forget(&mut self, now: WallTime) -> bool {
        let before = self.left.len();
        self.left.retain(|l| !l.told || now.0.saturating_sub(l.at.0) <= budget::LEFT_MEMORY as i64);
        before != self.left.len()
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

#[path = "ledger_form.rs"]
mod form;

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
