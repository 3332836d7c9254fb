//! Durable steps: what is changed in the ledger counts, and what follows from it happens, only once the state is on disk; else it is undone.
//!
//! The shell takes [`Authority::unsaved`], writes it, and says [`Authority::saved`] before it takes anything else.

use super::authority::Authority;
use super::event::{Event, Progress, RequestId};
use super::leaving::{LINGER, TELLING};
use super::peering::FAREWELL;
use super::refusal::{Reason, Refusal};
use super::request;
use crate::clock::Now;
use crate::identity::PeerId;
use std::time::Duration;

/// How long after a failed write the next one without a step behind it is tried.
const RESAVE: Duration = Duration::from_secs(10);

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
    /// A join comes to nothing.
    GiveUp { row: PeerId, why: Refusal },
}

impl Authority {
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
                self.settled.clear();
                for step in self.steps.drain(..count).collect::<Vec<_>>() {
                    self.finish(step, now);
                }
            }
            Err(why) => {
                self.ledger = self.durable.clone();
                for (what, cluster) in &self.settled {
                    self.ledger.owed.retain(|o| o.what != *what || o.cluster != *cluster);
                }
                self.ledger.external = Some(self.external.prefix());
                self.resave = Some(now.mono + RESAVE);
                for step in std::mem::take(&mut self.steps) {
                    self.undo(step, &why, now);
                }
            }
        }
    }

    /// What follows from a step that is on disk.
    pub(super) fn finish(&mut self, step: Step, now: Now) {
        match step {
            Step::Grant { row, enrolment, request } => {
                let key = self.ledger.peer(row).map(|p| p.key);
                for join in self.ledger.joins.iter().filter(|j| Some(j.ticket.inviter) == key).map(|j| j.row).collect::<Vec<_>>() {
                    self.give_up(join, Refusal::new(Reason::AlreadyPeered, "the inviter redeemed a ticket of ours in the meantime: the two are peers"));
                }
                self.open_peer(row, true, now.mono);
                self.tell_enrolled(row);
                if let Some(line) = self.line_mut(enrolment) {
                    line.until = Some(now.mono + FAREWELL);
                }
                self.answer_enrol(row, request, now.mono);
            }
            Step::Heard { row, request, gone } => {
                self.events.push_back(gone);
                self.answer(request, 200, "{}".into());
                self.linger(row, now.mono, LINGER);
            }
            Step::Leave { row, told, gone } => {
                self.events.push_back(gone);
                self.linger(row, now.mono, if told { LINGER } else { TELLING });
                self.tell = (now.mono + TELLING * 2, 0);
                self.ask(row, now);
            }
            Step::Enrolled { row, credential } => {
                self.open_peer(row, false, now.mono);
                self.tell_enrolled(row);
                if let Some(credential) = credential.filter(|_| self.ledger.peer(row).is_some_and(|p| p.consume.is_some())) {
                    self.take_credential(row, credential, now.mono);
                }
            }
            Step::Join { row } => self.open_join(row, now.mono),
            Step::GiveUp { row, why } => {
                if self.lines[usize::from(row.0)].is_some() {
                    self.take_down(row);
                }
                self.events.push_back(Event::Progress(row, Progress::Failed(why)));
            }
        }
        // Debts of this step are begun at once.
        self.handle_timeout(now);
    }

    pub(super) fn tell_enrolled(&mut self, row: PeerId) {
        let Some(peer) = self.ledger.peer(row) else { return };
        let (images, seen_as) = (super::sessions::pairs(peer), peer.seen_as.clone());
        let it = Progress::Enrolled { cluster: peer.id.clone(), images, seen_as, consume: peer.consume, provide: peer.provide };
        self.events.push_back(Event::Progress(row, it));
    }

    /// What is said when the state could not be written; the ledger is as it was.
    pub(super) fn undo(&mut self, step: Step, why: &str, now: Now) {
        if let Step::Heard { row, .. } | Step::Leave { row, .. } = step
            && let Some(line) = self.line_mut(row)
        {
            // The peer stands again and has them: they would clash with themselves, and be moved.
            line.images.clear();
        }
        let refusal = Refusal::new(Reason::NotSaved, format!("the state could not be written ({}); nothing has changed", request::printable(why, 200)));
        match step {
            Step::Grant { request, .. } | Step::Heard { request, .. } => self.refuse(request, &refusal),
            Step::Enrolled { row, .. } | Step::GiveUp { row, .. } => self.retry(row, refusal.message, now),
            // Whoever asked for it asks again.
            Step::Leave { row, .. } => self.events.push_back(Event::Progress(row, Progress::Retrying(refusal.message))),
            Step::Join { row } => self.events.push_back(Event::Progress(row, Progress::Failed(refusal))),
        }
    }
}
