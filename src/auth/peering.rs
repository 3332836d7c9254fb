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
use super::ledger::{Debt, Peer};
use super::policy::{self, Claim};
use super::refusal::{Reason, Refusal};
use super::request::{self, Credential, Enrol, Enrolled, Hello};
use super::serve::Waiter;
use super::steps::Step;
use crate::budget;
use crate::clock::{Instant, Now, WallTime};
use crate::identity::{ClusterId, End, PeerId, PublicKey, SecretKey};
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
/// An endpoint that moves is stored at most this often, to spare flash.
const MOVES: Duration = Duration::from_secs(600);
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
    shows: Bearer,
    pub(super) hears: Bearer,
    pub(super) since: Instant,
    pub(super) until: Option<Instant>,
    up: bool,
    pub(super) seen: Option<SocketAddr>,
    /// When a change of endpoint, and one of what `hello` says, was last stored.
    stored: Option<Instant>,
    told: Option<Instant>,
    /// When a token was last asked of the API server for it.
    pub(super) issued: Option<Instant>,
    pub(super) ask: Option<(AskId, What)>,
    pub(super) again: Instant,
    pub(super) failures: u32,
    greeted: Option<(ClusterId, u32)>,
    said_hello: bool,
    pub(super) linked: bool,
    pub(super) issue: Option<Issue>,
    pub(super) waiters: heapless::Vec<Waiter, 4>,
    /// When to renew the credential, and when it ends.
    pub(super) credential: Option<(Instant, Instant)>,
    renewed: Option<Instant>,
    /// The peer's wall clock, and when it said so.
    pub(super) time: Option<(WallTime, Instant)>,
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
            greeted: None,
            said_hello: false,
            linked: false,
            issue: None,
            waiters: heapless::Vec::new(),
            credential: None,
            renewed: None,
            time: None,
        })
    }

    fn retry(&mut self, now: Instant) {
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

    /// The answer to a question, or why there is none.
    pub fn handle_answer(&mut self, ask: AskId, answer: Result<(u16, Vec<u8>), String>, now: Now) {
        let found = self.lines.iter_mut().enumerate().find_map(|(row, line)| {
            let line = line.as_mut()?;
            let (id, what) = line.ask?;
            (id == ask).then(|| {
                line.ask = None;
                (PeerId(row as u8), line.role, what)
            })
        });
        let Some((row, role, what)) = found else { return };
        match answer {
            Err(why) => self.retry(row, request::printable(&why, 200), now),
            Ok((200..=299, body)) => match self.answered(row, role, what, &body, now) {
                Ok(()) => self.progressed(row, now),
                Err(refusal) => self.refused(row, role, what, refusal, now),
            },
            Ok((status, body)) => self.refused(row, role, what, Refusal::read(status, &body), now),
        }
    }

    /// Time has passed.
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
            let patience = (l.role == Role::Joining && !l.up).then(|| l.since + PATIENCE);
            [l.until, self.due(row), l.issue.as_ref().and_then(Issue::poll_timeout), waiting, patience].into_iter().flatten()
        });
        let telling = self.untold().next().map(|_| self.tell.0);
        of_lines.chain(self.own_timers()).chain(telling).chain(self.revoke.as_ref().and_then(Revoke::poll_timeout)).min()
    }

    fn line_timeout(&mut self, row: PeerId, now: Now) {
        let Some(line) = self.line_mut(row) else { return };
        if line.role == Role::Joining && !line.up && now.mono.since(line.since) >= PATIENCE {
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
        self.lines[usize::from(row.0)] = Some(Box::new(line));
        self.former[usize::from(row.0)] = None;
        let session = self.session(row);
        self.events.push_back(Event::AddPeer(Box::new(session)));
    }

    /// When the next question to this peer is due; none if there is none, or it cannot be asked now.
    fn due(&self, row: PeerId) -> Option<Instant> {
        let line = self.lines[usize::from(row.0)].as_deref().filter(|l| l.up && l.ask.is_none())?;
        match (self.wanted(row, line)?, line.credential) {
            (What::Credential, Some((renew, _))) => Some(renew.max(line.again)),
            _ => Some(line.again),
        }
    }

    fn wanted(&self, row: PeerId, line: &Line) -> Option<What> {
        match line.role {
            Role::Enrolment => None,
            Role::Joining => self.ledger.join(row).map(|_| if line.greeted.is_none() { What::Hello } else { What::Enrol }),
            Role::Farewell => self.ledger.left.iter().any(|l| l.key == line.key && !l.told).then_some(What::Leave),
            Role::Peer if !line.said_hello => self.ledger.peer(row).map(|_| What::Hello),
            Role::Peer => self.ledger.peer(row)?.consume.map(|_| What::Credential),
        }
    }

    pub(super) fn ask(&mut self, row: PeerId, now: Now) {
        if self.due(row).is_none_or(|at| at > now.mono) {
            return;
        }
        let Some(line) = self.lines[usize::from(row.0)].as_deref() else { return };
        let Some(what) = self.wanted(row, line) else { return };
        let (path, body) = match what {
            What::Hello => (request::HELLO, self.hello(row, now).body()),
            What::Enrol => match self.enrolment(row) {
                Some(enrol) => (request::ENROL, enrol.body()),
                None => return,
            },
            What::Credential => (request::CREDENTIAL, "{}".into()),
            What::Leave => (request::LEAVE, "{}".into()),
        };
        let ask = AskId(self.next_number());
        let Some(line) = self.line_mut(row) else { return };
        line.ask = Some((ask, what));
        let bearer = line.shows.text();
        self.events.push_back(Event::Ask { ask, peer: row, path, bearer, body });
    }

    /// What we say of ourselves to the peer in this row.
    pub(super) fn hello(&self, row: PeerId, now: Now) -> Hello {
        let line = self.lines[usize::from(row.0)].as_deref();
        Hello {
            versions: request::VERSIONS,
            id: self.ledger.id.clone(),
            prefixes: self.facts.pods.clone(),
            seen_as: self.ledger.peer(row).map(|p| p.images.clone()).unwrap_or_default(),
            architecture: self.facts.architecture.clone(),
            time: now.wall,
            you: line.and_then(|l| l.seen),
        }
    }

    fn enrolment(&self, row: PeerId) -> Option<Enrol> {
        let join = self.ledger.join(row)?;
        let (proof, _) = Bearer::pair(&self.ledger.secret, &self.public, &join.ticket.inviter)?;
        let (_, version) = self.lines[usize::from(row.0)].as_deref()?.greeted.clone()?;
        Some(Enrol {
            version,
            id: self.ledger.id.clone(),
            key: self.public,
            proof: proof.text(),
            prefixes: self.facts.pods.clone(),
            architecture: self.facts.architecture.clone(),
            consume: join.consume,
            provide: join.provide,
        })
    }

    fn answered(&mut self, row: PeerId, role: Role, what: What, body: &[u8], now: Now) -> Result<(), Refusal> {
        match (what, role) {
            (What::Hello, Role::Joining) => self.greeted(row, Hello::answered(body)?, now),
            (What::Hello, _) => self.heard_hello(row, &Hello::answered(body)?, now).map(|()| {
                if let Some(line) = self.line_mut(row) {
                    line.said_hello = true;
                }
            }),
            (What::Enrol, _) => self.enrolled(row, Enrolled::answered(body)?, now),
            (What::Credential, _) => {
                let credential = Credential::answered(body)?;
                self.take_credential(row, credential, now.mono);
                Ok(())
            }
            (What::Leave, _) => {
                self.told(row, now.mono);
                Ok(())
            }
        }
    }

    fn progressed(&mut self, row: PeerId, now: Now) {
        if let Some(line) = self.line_mut(row)
            && line.again <= now.mono
        {
            (line.again, line.failures) = (now.mono, 0);
        }
        self.ask(row, now);
    }

    fn refused(&mut self, row: PeerId, role: Role, what: What, refusal: Refusal, now: Now) {
        match (role, refusal.reason) {
            (Role::Joining, reason) if reason.passes() => self.retry(row, refusal.message, now),
            (Role::Joining, _) => self.give_up(row, refusal),
            (Role::Peer, Reason::Left) => {
                // Without room for the debts the peer stays, and is told again.
                if self.depart(row, true, now).is_err() {
                    self.retry(row, "there is no room to remember what must be removed".into(), now);
                }
            }
            (Role::Farewell, Reason::Left) if what == What::Leave => self.told(row, now.mono),
            _ => self.retry(row, refusal.message, now),
        }
    }

    pub(super) fn retry(&mut self, row: PeerId, why: String, now: Now) {
        let Some(line) = self.line_mut(row) else { return };
        line.retry(now.mono);
        if line.role != Role::Farewell {
            self.events.push_back(Event::Progress(row, Progress::Retrying(why)));
        }
    }

    /// The inviter said who it is: judged by the same rules as a joiner.
    fn greeted(&mut self, row: PeerId, hello: Hello, now: Now) -> Result<(), Refusal> {
        let version = request::shared_version(hello.versions)?;
        let Some(join) = self.ledger.join(row) else { return Ok(()) };
        let (key, replace) = (join.ticket.inviter, join.replace);
        let claim = Claim { id: &hello.id, key: &key, prefixes: &hello.prefixes };
        if let Some(old) = policy::acceptable(claim, replace, &self.ledger, &self.facts.nodes)? {
            self.depart(old, false, now)?;
            return Err(Refusal::new(Reason::Cleaning, format!("the earlier peering with {} is removed first", hello.id)));
        }
        self.images(&hello.prefixes, None).ok_or_else(no_image)?;
        let behind_nat = hello.you.filter(|_| !self.facts.addresses.is_empty()).map(|you| !self.facts.addresses.contains(&you.ip()));
        self.events.push_back(Event::Progress(row, Progress::Greeted { cluster: hello.id.clone(), behind_nat }));
        if let Some(line) = self.line_mut(row) {
            line.greeted = Some((hello.id, version));
            line.time = Some((hello.time, now.mono));
        }
        Ok(())
    }

    /// A peer said who it is, asked or answering.
    pub(super) fn heard_hello(&mut self, row: PeerId, hello: &Hello, now: Now) -> Result<(), Refusal> {
        request::shared_version(hello.versions)?;
        let Some(peer) = self.ledger.peer_mut(row) else { return Err(policy::left()) };
        if peer.id != hello.id {
            return Err(Refusal::new(Reason::IdTaken, format!("this key belongs to {}, not to {}; unpeer and join again to change an ID", peer.id, hello.id)));
        }
        let changed = peer.seen_as != hello.seen_as || peer.architecture != hello.architecture;
        // A peer that says something else each time shall not wear out the flash.
        let line = self.lines[usize::from(row.0)].as_deref_mut();
        let heed = changed && line.is_some_and(|l| l.told.is_none_or(|at| now.mono.since(at) >= MOVES) && l.told.replace(now.mono) != Some(now.mono));
        if heed {
            let other = peer.architecture != hello.architecture;
            (peer.seen_as, peer.architecture) = (hello.seen_as.clone(), hello.architecture.clone());
            self.dirty = true;
            if other {
                self.announce(row);
            }
        }
        if let Some(line) = self.line_mut(row) {
            line.time = Some((hello.time, now.mono));
            if !std::mem::replace(&mut line.linked, true) {
                self.events.push_back(Event::Progress(row, Progress::Linked));
            }
        }
        Ok(())
    }

    /// The inviter took us: it becomes a peer, in the same row.
    fn enrolled(&mut self, row: PeerId, it: Enrolled, now: Now) -> Result<(), Refusal> {
        let Some(join) = self.ledger.join(row).cloned() else { return Ok(()) };
        let greeted = self.lines[usize::from(row.0)].as_deref().and_then(|l| l.greeted.clone());
        if greeted.is_none_or(|(id, _)| id != it.id) {
            return Err(Refusal::new(Reason::Unreadable, "the inviter changed its ID in the middle of the enrolment"));
        }
        let claim = Claim { id: &it.id, key: &join.ticket.inviter, prefixes: &it.prefixes };
        let judged = policy::acceptable(claim, false, &self.ledger, &self.facts.nodes);
        let images = match judged.and_then(|_| self.images(&it.prefixes, None).ok_or_else(no_image)) {
            Ok(images) => images,
            Err(refusal) => {
                // The inviter has pinned us all the same, so it must hear that nothing comes of it.
                if !refusal.reason.passes() {
                    self.regret(row, it.id, now);
                }
                return Err(refusal);
            }
        };
        let seen = self.lines[usize::from(row.0)].as_deref().and_then(|l| l.seen);
        self.ledger.joins.retain(|j| j.row != row);
        self.ledger.left.retain(|l| l.key != join.ticket.inviter);
        self.ledger.peers.push(Peer {
            row,
            id: it.id,
            key: join.ticket.inviter,
            end: End::Joiner,
            endpoints: join.ticket.endpoints.to_vec(),
            last: seen,
            prefixes: it.prefixes,
            images,
            seen_as: it.seen_as,
            architecture: it.architecture,
            // We lend what we said and use what we wanted, whatever the answer claims beyond.
            provide: join.provide.filter(|_| it.provide.is_some() && join.ticket.ask),
            consume: it.consume.filter(|_| join.consume),
            tenant: None,
        });
        self.dirty = true;
        self.steps.push(Step::Enrolled { row, credential: it.credential });
        Ok(())
    }

    /// Whom a join has met so far.
    pub(super) fn met(&self, row: PeerId) -> Option<ClusterId> {
        self.lines.get(usize::from(row.0))?.as_deref()?.greeted.as_ref().map(|(id, _)| id.clone())
    }

    pub(super) fn take_credential(&mut self, row: PeerId, it: Credential, now: Instant) {
        let Some(line) = self.line_mut(row) else { return };
        let lifetime = Duration::from_secs(it.lifetime);
        line.credential = Some((now + lifetime * 2 / 3, now + lifetime));
        line.renewed = Some(now);
        self.events.push_back(Event::Credential { peer: row, token: it.token, ca: it.ca, name: it.name, lifetime });
        self.events.push_back(Event::Progress(row, Progress::Credential));
    }

    pub(super) fn give_up(&mut self, row: PeerId, why: Refusal) {
        self.ledger.joins.retain(|j| j.row != row);
        self.dirty = true;
        if self.lines[usize::from(row.0)].is_some() {
            self.take_down(row);
        }
        self.events.push_back(Event::Progress(row, Progress::Failed(why)));
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

fn no_image() -> Refusal {
    Refusal::new(Reason::NoImage, "all private addresses are in use here, none are left as an image of the peer's pods; free some, or use other pod prefixes")
}
