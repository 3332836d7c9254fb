//! The loop, once for all kinds: a row that is due is planned, the plan becomes a call, the reply is settled, and the row is settled or backs off.
//!
//! At most one call an object at a time and [`budget::CALLS`] over all. A change during a call is kept and looked at after it. Throttling is obeyed;
//! a failed row waits 0.25 s doubling to 60 s where it was refused (15 s where a pod waits on it), to 10 s where no answer came, with jitter from the agent's seed.

use super::agent::Event;
use super::facts::{Facts, Wake};
use super::kind::{Key, Next, Op, Sort, Step};
use super::kinds::{copy, pod, shadow};
use super::table::{Row, Slot, Table, View};
use super::{node, space, twin};
use crate::budget;
use crate::clock::{Instant, Now};
use crate::kube::call::{Call, Cluster};
use crate::kube::reply::Reply;
use std::collections::BTreeMap;
use std::time::Duration;

/// How many of the calls under way may be mere notes to users.
const NOTES_UNDER_WAY: usize = 2;

/// What a call under way is for.
#[derive(Clone, Copy, Debug)]
enum Flight {
    Row(Slot, Op, Cluster),
    Note,
}

/// Calls in a row that change nothing the plan looks at (the API server drops a field it does not know, say) are a spin; from this many on
/// the row is left alone for a while that doubles, up to a minute.
const STREAK: u8 = 12;

/// The rows and what is under way for them.
#[derive(Debug)]
pub(crate) struct Reflector {
    pub table: Table,
    flights: BTreeMap<u32, Flight>,
    /// A call that must come next for its row.
    next: Vec<(Slot, Op, Call)>,
    last: u32,
    chance: u64,
}

impl Reflector {
    pub(crate) fn new(seed: u64) -> Reflector {
        Reflector { table: Table::default(), flights: BTreeMap::new(), next: Vec::new(), last: 0, chance: seed | 1 }
    }

    /// The next call, if one is due and may be made.
    pub(crate) fn poll_call(&mut self, facts: &mut Facts, now: Now) -> Option<(u32, Call)> {
        if self.flights.len() >= budget::CALLS {
            return None;
        }
        if let Some((slot, op, call)) = self.next.pop() {
            return Some(self.fly(Flight::Row(slot, op, call.to), call));
        }
        while let Some(slot) = self.table.pop_due(now.mono) {
            let Some(row) = self.table.row(slot) else { continue };
            if let Some(calm) = row.calm.filter(|calm| now.mono < *calm) {
                self.table.set_due(slot, Some(calm));
                continue;
            }
            row.dirty = false;
            let step = plan(facts, row, now);
            if !matches!(step, Step::Do(..)) {
                (row.streak, row.calm) = (0, None);
            }
            let call = match step {
                Step::Settled => None,
                Step::Forget => {
                    self.table.remove(slot);
                    None
                }
                Step::Wait(wait) => {
                    self.table.set_due(slot, Some(now.mono + wait.max(Duration::from_millis(1))));
                    None
                }
                Step::Do(op, call) => {
                    row.busy = true;
                    Some(self.fly(Flight::Row(slot, op, call.to), call))
                }
            };
            self.wake(facts, now.mono);
            if call.is_some() {
                return call;
            }
        }
        let notes = self.flights.values().filter(|f| matches!(f, Flight::Note)).count();
        if notes < NOTES_UNDER_WAY
            && let Some(call) = facts.out.notes.pop_front()
        {
            return Some(self.fly(Flight::Note, call));
        }
        None
    }

    fn fly(&mut self, flight: Flight, call: Call) -> (u32, Call) {
        self.last = self.last.wrapping_add(1);
        self.flights.insert(self.last, flight);
        (self.last, call)
    }

    /// The reply to a call; unknown ids are ignored.
    pub(crate) fn handle_reply(&mut self, id: u32, reply: &Reply, facts: &mut Facts, now: Now) {
        let Some(Flight::Row(slot, op, to)) = self.flights.remove(&id) else { return };
        if let (Reply::Unauthorized, Cluster::Peer(peer)) = (reply, to) {
            facts.event(Event::CredentialRefused { peer });
        }
        let Some(row) = self.table.row(slot) else { return };
        row.busy = false;
        if let Reply::Throttled(wait) = reply {
            let wait = *wait;
            self.table.set_due(slot, Some(now.mono + wait));
            return;
        }
        let next = settle(facts, row, op, reply, now);
        if matches!(next, Next::Again | Next::After(_)) {
            row.streak = row.streak.saturating_add(1);
            row.calm = (row.streak >= STREAK).then(|| now.mono + Duration::from_millis(250 << (row.streak - STREAK).min(8)));
        }
        match next {
            Next::Call(op, call) => {
                row.busy = true;
                self.next.push((slot, op, call));
            }
            Next::Again => {
                row.attempts = 0;
                self.table.set_due(slot, Some(now.mono));
            }
            Next::After(wait) => {
                row.attempts = 0;
                let at = if row.dirty { now.mono } else { now.mono + wait };
                self.table.set_due(slot, Some(at));
            }
            Next::BackOff => {
                row.attempts = row.attempts.saturating_add(1);
                let most = match (row.key.sort, reply) {
                    // Somebody waits for it, and a policy may need half a minute to know a kind that is new to its API server.
                    (Sort::Space, _) => 2_000,
                    // Without its lease a node is lost after 40 s.
                    (Sort::Node, _) => 5_000,
                    // Whatever is wrong with the API server, all is in step soon after it is over.
                    (_, Reply::Unreachable(_)) => 10_000,
                    (Sort::Pod, _) => 15_000,
                    _ => 60_000,
                };
                let wait = (250_u64 << row.attempts.min(9).saturating_sub(1)).min(most);
                let wait = wait + self.chance(wait / 4);
                self.table.set_due(slot, Some(now.mono + Duration::from_millis(wait)));
            }
        }
        self.wake(facts, now.mono);
    }

    /// Looks at the rows that facts asked for.
    pub(crate) fn wake(&mut self, facts: &mut Facts, now: Instant) {
        for wake in std::mem::take(&mut facts.out.wake) {
            match wake {
                Wake::Row(key) => {
                    if let Ok(slot) = self.table.enter(key) {
                        self.table.touch(slot, now);
                    }
                }
                Wake::Peer(peer) => self.table.touch_where(now, true, |k| k.peer == peer),
                Wake::Link(peer, namespace) => {
                    self.table.touch_where(now, true, |k| k.peer == peer && (k.namespace == namespace || matches!(k.sort, Sort::Map | Sort::Node)));
                }
                Wake::Twin(namespace) => {
                    self.table.touch_where(now, true, |k| matches!(k.sort, Sort::Shadow | Sort::Render) && k.namespace == namespace);
                }
                Wake::Room => {
                    for slot in self.table.slots(|k| k.sort == Sort::Shadow) {
                        if let Some(Row { view: View::Shadow(row), attempts, .. }) = self.table.row(slot)
                            && shadow::waits(row)
                        {
                            *attempts = 0;
                            self.table.touch(slot, now);
                        }
                    }
                }
            }
        }
    }

    /// When the next row is due, if a call may be made then.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        if self.flights.len() >= budget::CALLS {
            return None;
        }
        if self.next.is_empty() { self.table.next_due() } else { Some(Instant::default()) }
    }

    /// A number below `most`, by xorshift from the seed.
    pub(crate) fn chance(&mut self, most: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        if most == 0 { 0 } else { self.chance % most }
    }
}

fn plan(facts: &mut Facts, row: &mut Row, now: Now) -> Step {
    let key: &Key = &row.key;
    match &mut row.view {
        View::Node(view) => node::plan(facts, key, view, now),
        View::Map(view) => space::plan_map(facts, key, view),
        View::Space(view) => space::plan_space(facts, key, view, now),
        View::Pod(view) => pod::plan(facts, key, view, now),
        View::Copy(view) => copy::plan(facts, key, view, now),
        View::Tenant(_) => twin::plan_tenant(facts, key, now),
        View::Twin(view) => twin::plan(facts, key, view),
        View::Shadow(view) => shadow::plan(facts, key, view, now),
    }
}

fn settle(facts: &mut Facts, row: &mut Row, op: Op, reply: &Reply, now: Now) -> Next {
    let key: &Key = &row.key;
    match &mut row.view {
        View::Node(view) => node::settle(facts, key, view, op, reply, now),
        View::Map(_) => space::settle_map(facts, key, op, reply),
        View::Space(view) => space::settle_space(facts, key, view, op, reply),
        View::Pod(view) => pod::settle(facts, key, view, op, reply, now),
        View::Copy(view) => copy::settle(facts, key, view, op, reply, now),
        View::Tenant(_) => twin::settle_tenant(facts, key, op, reply),
        View::Twin(view) => twin::settle(facts, key, view, op, reply),
        View::Shadow(view) => shadow::settle(facts, key, view, op, reply),
    }
}
