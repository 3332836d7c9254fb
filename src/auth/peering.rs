//! The life of one peering, on both ends, and the questions each end asks the other.
//!
//! ```text
//! joiner    join --stored--> ASKED: enrolment session up, hello, enrol --answered, stored--> LINKED: own session up, hello, credential at 2/3 of its life
//! inviter   enrol --ticket burnt, key pinned, stored--> ISSUED: namespace, account, token, answer --hello on the own session--> LINKED
//! either    unpeer, `leave` heard, or 410 `left` answered --tombstone and debts stored--> LEAVING: told or timed out --> gone; told later if it was not
//! ```
//! What is wanted next follows from the ledger and the line alone, so a restart or a lost answer goes on where it stood: each question may be asked again.
//! Questions are asked one at a time a peer, only while its session is up, with waits that grow to 15 s. Called by the edge through the authority.

use super::authority::Authority;
use super::bearer::Bearer;
use super::event::{AskId, Event, Progress};
use super::issue::{Issue, Outcome, Revoke};
use super::keys;
use super::ledger::Debt;
use super::policy;
use super::refusal::{Reason, Refusal};
use super::request::Credential;
use super::serve::Waiter;
use super::steps::Step;
use crate::budget;
use crate::clock::{Instant, Now, WallTime};
use crate::identity::{ClusterId, PeerId, Prefix, PublicKey, SecretKey};
use crate::kube::reply::Reply;
use std::net::SocketAddr;
use std::time::Duration;

/// Keeps a NAT's mapping open.
pub const KEEPALIVE: Duration = Duration::from_secs(25);
/// An enrolment session without a request ends after this.
pub const ENROLMENT: Duration = Duration::from_secs(60);
/// A farewell session ends after this.
pub const FAREWELL: Duration = Duration::from_secs(30);
/// A ticket none of whose endpoints answers is given up after this.
const PATIENCE: Duration = Duration::from_secs(3600);
/// An endpoint that moves, or what a peer says of itself, is stored at most this often, to spare flash.
pub(super) const MOVES: Duration = Duration::from_secs(600);
/// A refused credential is asked for anew at most this often.
const RENEWALS: Duration = Duration::from_secs(5);

/// What a session is for, from our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Somebody redeems, or has redeemed, a ticket of ours.
    Enrolment,
    /// We redeem a ticket.
    Joining,
    /// A peer.
    Peer,
    /// Only to say that it is over.
    Farewell,
}

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Hello,
    Enrol,
    Credential,
    Leave,
}

/// What is known of one session; lost on restart.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) role: Role,
    pub(super) key: PublicKey,
    pub(super) fresh: bool,
    /// What we show, and what the other side must show.
    pub(super) shows: Bearer,
    pub(super) hears: Bearer,
    pub(super) since: Instant,
    pub(super) until: Option<Instant>,
    pub(super) up: bool,
    pub(super) seen: Option<SocketAddr>,
    /// When a change of endpoint, and one of what `hello` says, was last stored.
    stored: Option<Instant>,
    pub(super) told: Option<Instant>,
    /// When a token was last asked of the API server for it.
    pub(super) issued: Option<Instant>,
    pub(super) ask: Option<(AskId, What)>,
    pub(super) again: Instant,
    pub(super) failures: u32,
    /// Why the last question came to nothing, until one does not.
    pub(super) trouble: Option<Box<str>>,
    pub(super) greeted: Option<(ClusterId, u32)>,
    pub(super) said_hello: bool,
    pub(super) linked: bool,
    pub(super) issue: Option<Issue>,
    /// The call of the issuing that is under way.
    pub(super) call: Option<u32>,
    pub(super) waiters: heapless::Vec<Waiter, 4>,
    /// When to renew the credential, and when it ends.
    pub(super) credential: Option<(Instant, Instant)>,
    pub(super) renewed: Option<Instant>,
    /// The peer's wall clock, and when it said so.
    pub(super) time: Option<(WallTime, Instant)>,
    /// Images of a peer that is being left.
    pub(super) images: Vec<Prefix>,
}

impl Line {
    /// A session with `key`, in which we are `own`. None if the key is unusable.
    pub(super) fn new(role: Role, own: &SecretKey, key: PublicKey, now: Instant) -> Option<Line> {
        let (shows, hears) = Bearer::pair(own, &keys::public_of(own), &key)?;
        Some(Line {
            role,
            key,
            fresh: false,
            shows,
            hears,
            since: now,
            until: None,
            up: false,
            seen: None,
            stored: None,
            told: None,
            issued: None,
            ask: None,
            again: now,
            failures: 0,
            trouble: None,
            greeted: None,
            said_hello: false,
            linked: false,
            issue: None,
            call: None,
            waiters: heapless::Vec::new(),
            credential: None,
            renewed: None,
            time: None,
            images: Vec::new(),
        })
    }

    pub(super) fn shown(&self) -> String {
        self.shows.text()
    }

    pub(super) fn retry(&mut self, now: Instant) {
        self.again = now + Duration::from_millis(250 << self.failures.min(6)).min(Duration::from_secs(15));
        self.failures = self.failures.saturating_add(1);
    }
}

impl Authority {
    /// The session of this row is up: a handshake was completed with the peer at `endpoint`. Told at each new session after none.
    pub fn handle_session_up(&mut self, peer: PeerId, endpoint: SocketAddr, now: Now) {
        let Some(line) = self.line_mut(peer) else { return };
        let first = !std::mem::replace(&mut line.up, true);
        (line.again, line.failures) = (now.mono, 0);
        let took = now.mono.since(line.since);
        if line.role == Role::Joining && first {
            self.events.push_back(Event::Progress(peer, Progress::TunnelUp { endpoint, took }));
        }
        self.handle_endpoint(peer, endpoint, now);
        self.ask(peer, now);
    }

    /// Nothing comes from the peer any more: no questions until its session is up again.
    pub fn handle_quiet(&mut self, peer: PeerId) {
        if let Some(line) = self.line_mut(peer) {
            line.up = false;
        }
    }

    /// The peer was heard, and proved itself, from this endpoint.
    pub fn handle_endpoint(&mut self, peer: PeerId, endpoint: SocketAddr, now: Now) {
        let Some(line) = self.line_mut(peer) else { return };
        line.seen = Some(endpoint);
        if line.role != Role::Peer {
            return;
        }
        let store = line.stored.is_none_or(|at| now.mono.since(at) >= MOVES);
        let Some(known) = self.ledger.peer_mut(peer) else { return };
        if known.last == Some(endpoint) {
            return;
        }
        known.last = Some(endpoint);
        if store {
            self.dirty = true;
            if let Some(line) = self.line_mut(peer) {
                line.stored = Some(now.mono);
            }
        }
        self.refit();
    }

    /// The provider's API server did not take the credential: a new one is wanted at once.
    pub fn credential_refused(&mut self, peer: PeerId, now: Now) {
        let Some(line) = self.line_mut(peer) else { return };
        line.credential = None;
        let soonest = line.renewed.map_or(now.mono, |at| at + RENEWALS).max(now.mono);
        (line.again, line.failures) = (soonest, 0);
        self.ask(peer, now);
    }

    /// Time has passed, or the wall clock was set.
    pub fn handle_timeout(&mut self, now: Now) {
        self.keep_floor(now);
        self.expire(now);
        for row in (0..budget::PEERS as u8).map(PeerId) {
            self.line_timeout(row, now);
        }
        if self.revoke.is_none() {
            let debt = self.ledger.owed.iter().find(|o| o.what == Debt::Tenant);
            self.revoke = debt.map(|o| Revoke::begin(o.cluster.clone(), o.uid.clone()));
        }
        if let Some(revoke) = &mut self.revoke {
            revoke.handle_timeout(now.mono);
        }
        if self.tell.0 <= now.mono {
            self.tell_the_left(now);
        }
    }

    /// When [`Authority::handle_timeout`] is wanted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let lines = self.lines.iter().enumerate().filter_map(|(row, l)| Some((PeerId(row as u8), l.as_deref()?)));
        let of_lines = lines.flat_map(|(row, l)| {
            let waiting = l.waiters.iter().map(|w| w.until).min();
            let patience = (l.role == Role::Joining && !l.up).then(|| (l.since + PATIENCE).max(l.again));
            [l.until, self.due(row), l.issue.as_ref().and_then(Issue::poll_timeout), waiting, patience].into_iter().flatten()
        });
        let telling = self.untold().next().map(|_| self.tell.0);
        of_lines.chain(self.own_timers()).chain(telling).chain(self.revoke.as_ref().and_then(Revoke::poll_timeout)).min()
    }

    fn line_timeout(&mut self, row: PeerId, now: Now) {
        let Some(line) = self.line_mut(row) else { return };
        if line.role == Role::Joining && !line.up && now.mono >= (line.since + PATIENCE).max(line.again) {
            return self
                .give_up(row, Refusal::new(Reason::NoAnswer, "none of the ticket's endpoints answered for an hour; check that its UDP port is open there"));
        }
        if let Some(issue) = &mut line.issue {
            issue.handle_timeout(now.mono);
        }
        if line.until.is_some_and(|at| at <= now.mono) {
            return self.part(row);
        }
        self.expire_waiters(row, now.mono);
        self.ask(row, now);
    }

    /// The end of a session that was only to last for a while.
    pub(super) fn part(&mut self, row: PeerId) {
        let Some(line) = self.line_mut(row) else { return };
        let key = line.key;
        if line.role == Role::Farewell && self.is_leave(row) {
            let told = self.ledger.left.iter().any(|l| l.key == key && l.told);
            self.events.push_back(Event::Progress(row, Progress::Left { told }));
        }
        self.take_down(row);
    }

    pub(super) fn take_down(&mut self, row: PeerId) {
        self.answer_waiters(row, &policy::left());
        self.lines[usize::from(row.0)] = None;
        self.events.push_back(Event::RemovePeer(row));
    }

    pub(super) fn line_mut(&mut self, row: PeerId) -> Option<&mut Line> {
        self.lines.get_mut(usize::from(row.0))?.as_deref_mut()
    }

    pub(super) fn lines_key(&self, row: PeerId) -> Option<PublicKey> {
        self.lines.get(usize::from(row.0))?.as_deref().map(|l| l.key)
    }

    pub(super) fn open_join(&mut self, row: PeerId, now: Instant) {
        let Some(join) = self.ledger.join(row) else { return };
        match Line::new(Role::Joining, &join.ticket.enrolment().secret, join.ticket.inviter, now) {
            Some(line) => self.open(row, line),
            None => {
                self.ledger.joins.retain(|j| j.row != row);
                self.dirty = true;
                let why = Refusal::new(Reason::Proof, "the ticket's key cannot be used; ask for a new one: sluice invite");
                self.events.push_back(Event::Progress(row, Progress::Failed(why)));
            }
        }
    }

    /// `fresh`: the peer cannot know of the session yet, and will begin it.
    pub(super) fn open_peer(&mut self, row: PeerId, fresh: bool, now: Instant) {
        let Some(peer) = self.ledger.peer(row) else { return };
        if let Some(mut line) = Line::new(Role::Peer, &self.ledger.secret, peer.key, now) {
            line.fresh = fresh;
            self.open(row, line);
            self.announce(row);
        }
    }

    pub(super) fn open(&mut self, row: PeerId, line: Line) {
        // The gateway tells sessions apart by the other side's key: a farewell to it, in another row, makes room for what comes after it.
        let key = line.key;
        let same = |(at, l): (usize, &Option<Box<Line>>)| {
            (at != usize::from(row.0) && l.as_ref().is_some_and(|l| l.role == Role::Farewell && l.key == key)).then_some(at)
        };
        if let Some(old) = self.lines.iter().enumerate().find_map(same) {
            self.part(PeerId(old as u8));
        }
        self.lines[usize::from(row.0)] = Some(Box::new(line));
        self.former[usize::from(row.0)] = None;
        let session = self.session(row);
        self.events.push_back(Event::AddPeer(Box::new(session)));
    }

    /// Whom a join has met so far.
    pub(super) fn met(&self, row: PeerId) -> Option<ClusterId> {
        self.lines.get(usize::from(row.0))?.as_deref()?.greeted.as_ref().map(|(id, _)| id.clone())
    }

    /// A join comes to nothing, once that is on disk; if it cannot be written, the join goes on.
    pub(super) fn give_up(&mut self, row: PeerId, why: Refusal) {
        if self.ledger.join(row).is_none() {
            return;
        }
        self.ledger.joins.retain(|j| j.row != row);
        self.dirty = true;
        self.steps.push(Step::GiveUp { row, why });
    }

    pub(super) fn issue_reply(&mut self, row: PeerId, reply: Reply, now: Now) {
        let Some(line) = self.line_mut(row) else { return };
        let Some(outcome) = line.issue.as_mut().and_then(|issue| issue.handle_reply(reply, now.mono)) else { return };
        line.issue = None;
        match outcome {
            Outcome::Issued { token, lifetime, uid } => {
                if let Some(peer) = self.ledger.peer_mut(row)
                    && uid.is_some()
                    && peer.tenant != uid
                {
                    peer.tenant = uid;
                    self.dirty = true;
                }
                let credential = Credential { token, lifetime, ca: self.facts.ca.clone(), name: self.facts.api_name.clone() };
                self.answer_issued(row, &credential);
            }
            Outcome::Refused(refusal) => self.answer_waiters(row, &refusal),
        }
    }
}
