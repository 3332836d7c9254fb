//! The asking side: which question to a peer is due, what is in it, and what its answer changes.
//!
//! Which one is wanted follows from the ledger and the line alone, so each may be asked again after a lost answer or a restart.
//! Called by `peering.rs` whenever something may be due, and by the edge with the answers. Answers are hostile input, as requests are.

use super::authority::Authority;
use super::bearer::Bearer;
use super::event::{AskId, Event, Progress};
use super::ledger::Peer;
use super::peering::{Line, MOVES, Role, What};
use super::policy::{self, Claim};
use super::refusal::{Reason, Refusal};
use super::request::{self, Credential, Enrol, Enrolled, Hello};
use super::steps::Step;
use crate::clock::{Instant, Now};
use crate::identity::{End, PeerId};
use std::time::Duration;

impl Authority {
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

    /// When the next question to this peer is due; none if there is none, or it cannot be asked now.
    pub(super) fn due(&self, row: PeerId) -> Option<Instant> {
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
            prefixes: self.claimed(),
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
            prefixes: self.claimed(),
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
        if let Some(line) = self.line_mut(row) {
            line.trouble = None;
        }
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
            (Role::Joining, reason) => {
                // These are said after the grant: the inviter must hear that nothing comes of it.
                if let (Reason::Foreign | Reason::ApiRefused, Some(id)) = (reason, self.met(row)) {
                    self.regret(row, id, now);
                }
                self.give_up(row, refusal);
            }
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
        line.trouble = Some(why.as_str().into());
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

    /// A peer said who it is, asked or answering. Its pods stay where they were enrolled; what else it claims (its transit range) may change, as when it
    /// moved or a peer of an earlier version becomes one of this.
    pub(super) fn heard_hello(&mut self, row: PeerId, hello: &Hello, now: Now) -> Result<(), Refusal> {
        request::shared_version(hello.versions)?;
        let Some(peer) = self.ledger.peer_mut(row) else { return Err(policy::left()) };
        if peer.id != hello.id {
            return Err(Refusal::new(Reason::IdTaken, format!("this key belongs to {}, not to {}; unpeer and join again to change an ID", peer.id, hello.id)));
        }
        let moved = peer.prefixes != hello.prefixes && policy::prefixes(&hello.prefixes).is_ok() && peer.prefixes.first() == hello.prefixes.first();
        let changed = moved || peer.seen_as != hello.seen_as || peer.architecture != hello.architecture;
        // A peer that says something else each time shall not wear out the flash.
        let line = self.lines[usize::from(row.0)].as_deref_mut();
        let heed = changed && line.is_some_and(|l| l.told.is_none_or(|at| now.mono.since(at) >= MOVES) && l.told.replace(now.mono) != Some(now.mono));
        if heed {
            let other = peer.architecture != hello.architecture;
            (peer.seen_as, peer.architecture) = (hello.seen_as.clone(), hello.architecture.clone());
            self.dirty = true;
            if moved {
                self.reclaim(row, &hello.prefixes);
            } else if other {
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

    pub(super) fn take_credential(&mut self, row: PeerId, it: Credential, now: Instant) {
        let Some(line) = self.line_mut(row) else { return };
        let lifetime = Duration::from_secs(it.lifetime);
        line.credential = Some((now + lifetime * 2 / 3, now + lifetime));
        line.renewed = Some(now);
        self.events.push_back(Event::Credential { peer: row, token: it.token, ca: it.ca, name: it.name, lifetime });
        self.events.push_back(Event::Progress(row, Progress::Credential));
    }
}

fn no_image() -> Refusal {
    Refusal::new(Reason::NoImage, "all private addresses are in use here, none are left as an image of the peer's pods; free some, or use other pod prefixes")
}
