//! The authority: owner of the ledger and of every session's purpose; the verbs of the CLI; durable steps.
//!
//! Called by the edge. Requests come in by `serve.rs`, the asking side and its timers are in `peering.rs`.
//! Whatever changes the ledger is in [`Authority::unsaved`] until the shell says [`Authority::saved`]; what follows from a durable step waits for that.
//! It never opens a socket, reads a clock or draws a random number.

use super::addresses::External;
use super::event::{Event, Facts};
use super::issue::Revoke;
use super::ledger::{Ledger, TicketState};
use super::peering::Line;
use super::refusal::{REASONS, Reason};
use super::steps::Step;
use crate::budget;
use crate::clock::{Instant, Now, WallTime};
use crate::identity::{ClusterId, PeerId, Prefix, PublicKey};
use crate::kube::call::Call;
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// How far the stamp floor is reserved ahead, and how little of it may be left, in seconds.
const FLOOR_AHEAD: (i64, i64) = (5400, 1800);

/// Why the authority cannot start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannotStart {
    /// No /16 of the private ranges is free for the external addresses.
    NoRange,
    /// There is no pod prefix of ours.
    NoPods,
}

impl fmt::Display for CannotStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CannotStart::NoRange => "no /16 is free in 10.0.0.0/8, 172.16.0.0/12 and 192.168.0.0/16 for the peers' addresses on this host",
            CannotStart::NoPods => "the pod prefix of this cluster is not known; set it in the configuration (pods = 10.42.0.0/16)",
        })
    }
}

impl std::error::Error for CannotStart {}

const _: () = assert!(size_of::<Line>() <= 1024 && size_of::<Authority>() <= 2048, "a session is one box of at most 1 KiB, the rest is small");

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
    pub(super) durable: Ledger,
    pub(super) public: PublicKey,
    pub(super) facts: Facts,
    pub(super) external: External,
    pub(super) lines: Vec<Option<Box<Line>>>,
    /// The peer that was last in a row, if it is gone: while debts are owed for it the row is not given to another.
    pub(super) former: Vec<Option<ClusterId>>,
    pub(super) dirty: bool,
    pub(super) offered: Option<(Ledger, usize)>,
    /// What was settled since the state was last written: a write that fails must not bring it back, for nobody would settle it again.
    pub(super) settled: Vec<(super::ledger::Debt, ClusterId)>,
    pub(super) steps: Vec<Step>,
    pub(super) resave: Option<Instant>,
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
            former: vec![None; budget::PEERS],
            dirty: true,
            offered: None,
            settled: Vec::new(),
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

    /// What we show a peer with every control request and every opening of its API passage; `None` if there is no session in this row.
    pub fn bearer(&self, peer: PeerId) -> Option<String> {
        Some(self.lines.get(usize::from(peer.0))?.as_ref()?.shown())
    }

    /// Our own range for pods of third clusters; see [`External::transit`].
    pub fn transit(&self) -> Option<Prefix> {
        self.external.transit(&self.facts.pods)
    }

    /// What we say that our prefixes are: those of our pods, then the transit range.
    pub(super) fn claimed(&self) -> Vec<Prefix> {
        self.facts.pods.iter().copied().chain(self.transit()).collect()
    }

    /// Our own pod prefixes.
    pub fn pods(&self) -> &[Prefix] {
        &self.facts.pods
    }

    /// Takes a free row, until nothing is owed for `cluster`, for clean-up after a peer of an earlier run.
    pub fn hold_free(&mut self, cluster: &ClusterId) -> Option<PeerId> {
        let row = self.free_row()?;
        self.former[usize::from(row.0)] = Some(cluster.clone());
        Some(row)
    }

    /// Forgets all clean-up of a kind that was owed for a cluster.
    pub fn settle_all(&mut self, what: super::ledger::Debt, cluster: &ClusterId) {
        let before = self.ledger.owed.len();
        self.ledger.owed.retain(|o| o.what != what || o.cluster != *cluster);
        if before != self.ledger.owed.len() {
            self.dirty = true;
            self.settled.push((what, cluster.clone()));
        }
    }

    /// What is stored, for status and for tests.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// How often each reason refused a request, by its name.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u32)> {
        REASONS.iter().zip(self.refused).map(|(&(_, name, _), count)| (name, count))
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

    /// Other facts: nodes came and went, the host has other addresses. Images that clash now are moved.
    /// False if the external range itself is taken by now: a new start chooses another.
    pub fn set_facts(&mut self, facts: Facts) -> bool {
        self.facts = facts;
        self.refit();
        let range = self.external.prefix();
        !self.facts.pods.iter().chain(&self.facts.in_use).any(|used| used.overlaps(range))
    }

    /// A time that is believed (from NTP, or a peer's `hello`), for the next start without a clock. Stored with the next change.
    pub fn note_good_time(&mut self, wall: WallTime) {
        self.ledger.good_time = self.ledger.good_time.max(wall);
    }

    /// The last good time stored.
    pub fn good_time(&self) -> WallTime {
        self.ledger.good_time
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
        let number = self.next_number();
        self.calls.push((number, caller));
        if let Caller::Issue(row) = caller
            && let Some(line) = self.line_mut(row)
        {
            line.call = Some(number);
        }
        Some((number, call))
    }

    /// The answer to a call.
    pub fn handle_reply(&mut self, call: u32, reply: crate::kube::reply::Reply, now: Now) {
        let Some(at) = self.calls.iter().position(|(id, _)| *id == call) else { return };
        match self.calls.swap_remove(at).1 {
            Caller::Revoke => self.revoked(reply, now.mono),
            // The row may belong to another peer by now.
            Caller::Issue(row) if self.line_mut(row).is_some_and(|l| l.call == Some(call)) => self.issue_reply(row, reply, now),
            Caller::Issue(_) => {}
        }
    }

    pub(super) fn count(&mut self, reason: Reason) {
        let count = &mut self.refused[reason as usize];
        *count = count.saturating_add(1);
    }

    pub(super) fn next_number(&mut self) -> u32 {
        self.counter = self.counter.wrapping_add(1);
        self.counter
    }

    /// Keeps the floor of the stamps ahead of any stamp that can be given out, whatever the wall clock does.
    pub(super) fn keep_floor(&mut self, now: Now) {
        let ran = WallTime(self.floor_start.1.0.saturating_add(now.mono.since(self.floor_start.0).as_secs() as i64));
        let top = now.wall.max(ran);
        if self.ledger.floor.0 < top.0.saturating_add(FLOOR_AHEAD.1) {
            self.ledger.floor = WallTime(top.0.saturating_add(FLOOR_AHEAD.0));
            self.ledger.forget(now.wall);
            // After a failed write this waits for the next try.
            self.dirty |= self.resave.is_none();
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
                ticket.state = TicketState::Expired;
                self.dirty |= self.resave.is_none();
            }
        }
    }
}
