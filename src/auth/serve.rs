//! The answering side: who calls, whether the proof is right, what this kind of session may ask, and the answer.
//!
//! Called by the edge for each request that the control listener has read. Every request gets one answer: at once, after the disk, or when the API server has spoken
//! (at most 20 seconds later). A refusal is counted by its reason and changes nothing.

use super::authority::Authority;
use super::bearer::Bearer;
use super::event::{Event, RequestId};
use super::issue::Issue;
use super::ledger::{Peer, TicketState};
use super::peering::{ENROLMENT, Role};
use super::policy::{self, Judgement};
use super::refusal::{Reason, Refusal};
use super::request::{self, Asked, Credential, Enrol, Enrolled};
use super::steps::Step;
use crate::clock::{Instant, Now};
use crate::identity::{End, PeerId};
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long an answer may wait for the API server.
const WAIT: Duration = Duration::from_secs(20);

/// A peer gets at most one token in this time.
const TOKENS: Duration = Duration::from_secs(1);

/// A control request as the listener read it: its head bounded by `HEAD_MAX`, its body by `CONTROL_BODY_MAX`.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The source address on this host: the control end of a row.
    pub from: Ipv4Addr,
    /// The method.
    pub method: &'a str,
    /// The path; for CONNECT the target, which is not looked at.
    pub path: &'a str,
    /// The `Authorization` header.
    pub bearer: Option<&'a str>,
    /// The body.
    pub body: &'a [u8],
}

/// A request that waits for the API server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    request: RequestId,
    /// Whether the whole answer to an enrolment is wanted, or only the credential.
    enrol: bool,
    pub(super) until: Instant,
}

impl Authority {
    /// A request has come.
    pub fn handle_request(&mut self, id: RequestId, request: &Request<'_>, now: Now) {
        self.expire(now);
        if let Err(refusal) = self.serve(id, request, now) {
            self.refuse(id, &refusal);
        }
    }

    fn serve(&mut self, id: RequestId, request: &Request<'_>, now: Now) -> Result<(), Refusal> {
        let stranger = || Refusal::new(Reason::Unauthenticated, "the caller is not proved");
        let row = self.external.caller(request.from).ok_or_else(stranger)?;
        let line = self.line_mut(row).ok_or_else(stranger)?;
        if !request.bearer.is_some_and(|shown| line.hears.is(shown)) {
            return Err(stranger());
        }
        let (role, key) = (line.role, line.key);
        let asked = request::read(request.method, request.path, request.body)?;
        match (role, asked) {
            (Role::Enrolment, Asked::Hello(hello)) => {
                request::shared_version(hello.versions)?;
                // Who redeemed a ticket is known only by `enrol`, so a used one still says hello.
                if self.ledger.ticket(&key).is_none_or(|t| t.state == TicketState::Expired) {
                    return Err(policy::expired());
                }
                self.stay(row, now.mono);
                let body = self.hello(row, now).body();
                self.answer(id, 200, body);
            }
            (Role::Enrolment, Asked::Enrol(enrol)) => {
                self.stay(row, now.mono);
                self.enrol(row, id, enrol, now)?;
            }
            (Role::Peer, Asked::Hello(hello)) => {
                self.heard_hello(row, &hello, now)?;
                self.events.push_back(Event::Greeted(row));
                let body = self.hello(row, now).body();
                self.answer(id, 200, body);
            }
            (Role::Peer, Asked::Credential) => {
                if self.ledger.peer(row).is_none_or(|p| p.provide.is_none()) {
                    return Err(not_granted());
                }
                self.await_credential(row, id, false, now.mono)?;
            }
            (Role::Peer, Asked::Passage) => {
                if self.ledger.peer(row).is_none_or(|p| p.provide.is_none()) {
                    return Err(not_granted());
                }
                self.events.push_back(Event::Passage { request: id, peer: row });
            }
            (Role::Peer, Asked::Leave) => {
                let gone = self.bury(row, true, now)?;
                self.steps.push(Step::Heard { row, request: id, gone });
            }
            (Role::Peer, Asked::Enrol(_)) => return Err(Refusal::new(Reason::NotHere, "the two clusters are peers; an enrolment needs a ticket")),
            // They leave as we do: then both know.
            (Role::Farewell, Asked::Leave) => {
                if let Some(left) = self.ledger.left.iter_mut().find(|l| l.key == key && !l.told) {
                    left.told = true;
                    self.dirty = true;
                }
                self.answer(id, 200, "{}".into());
            }
            (Role::Farewell, _) => return Err(policy::left()),
            (Role::Enrolment | Role::Joining, _) => return Err(Refusal::new(Reason::NotHere, "an enrolment may only say hello and enrol")),
        }
        Ok(())
    }

    /// An enrolment that is being used stays, unless its end is set for another reason.
    fn stay(&mut self, row: PeerId, now: Instant) {
        if let Some(line) = self.line_mut(row) {
            line.until = line.until.map(|at| at.max(now + ENROLMENT / 2));
        }
    }

    fn enrol(&mut self, enrolment: PeerId, id: RequestId, enrol: Enrol, now: Now) -> Result<(), Refusal> {
        if !self.steps.is_empty() {
            return Err(Refusal::new(Reason::Busy, "the state is being written; asked again soon"));
        }
        request::shared_version((enrol.version, enrol.version))?;
        let hears = Bearer::pair(&self.ledger.secret, &self.public, &enrol.key).map(|(_, hears)| hears);
        if !hears.is_some_and(|hears| hears.is(&enrol.proof)) {
            return Err(Refusal::new(Reason::Proof, "the caller did not prove that the key is its own"));
        }
        let key = self.line_mut(enrolment).ok_or_else(policy::left)?.key;
        let ticket = self.ledger.ticket(&key).ok_or_else(policy::expired)?;
        match policy::judge(&enrol, ticket, &self.ledger, &self.facts.nodes)? {
            Judgement::Again(row) => {
                self.answer_enrol(row, id, now.mono);
                Ok(())
            }
            Judgement::Replace(row) => {
                self.depart(row, false, now)?;
                Err(Refusal::new(Reason::Cleaning, "the peer that is replaced is removed first; asked again soon"))
            }
            Judgement::Grant { provide, consume } => {
                let no_image =
                    || Refusal::new(Reason::NoImage, "the inviter has no private addresses left as an image of the joiner's pods; use other pod prefixes");
                let images = self.images(&enrol.prefixes, None).ok_or_else(no_image)?;
                let row = self.free_row().ok_or_else(|| Refusal::new(Reason::Busy, "all rows are taken for the moment; asked again soon"))?;
                if let Some(ticket) = self.ledger.ticket_mut(&key) {
                    ticket.state = TicketState::Used(enrol.key);
                }
                let last = self.line_mut(enrolment).and_then(|l| l.seen);
                self.ledger.left.retain(|l| l.key != enrol.key);
                self.ledger.peers.push(Peer {
                    row,
                    id: enrol.id,
                    key: enrol.key,
                    end: End::Inviter,
                    endpoints: Vec::new(),
                    last,
                    prefixes: enrol.prefixes,
                    images,
                    seen_as: Vec::new(),
                    architecture: enrol.architecture,
                    provide,
                    consume,
                    tenant: None,
                });
                self.dirty = true;
                self.steps.push(Step::Grant { row, enrolment, request: id });
                Ok(())
            }
        }
    }

    /// The answer to an enrolment: at once if the joiner consumes nothing, else with its first credential.
    pub(super) fn answer_enrol(&mut self, row: PeerId, id: RequestId, now: Instant) {
        match self.ledger.peer(row).map(|p| p.provide) {
            None => self.refuse(id, &policy::left()),
            Some(None) => {
                if let Some(body) = self.enrolled_body(row, None) {
                    self.answer(id, 200, body);
                }
            }
            Some(Some(_)) => {
                if let Err(refusal) = self.await_credential(row, id, true, now) {
                    self.refuse(id, &refusal);
                }
            }
        }
    }

    fn enrolled_body(&self, row: PeerId, credential: Option<&Credential>) -> Option<String> {
        let peer = self.ledger.peer(row)?;
        let it = Enrolled {
            id: self.ledger.id.clone(),
            prefixes: self.claimed(),
            seen_as: peer.images.clone(),
            architecture: self.facts.architecture.clone(),
            consume: peer.provide,
            provide: peer.consume,
            credential: credential.cloned(),
        };
        Some(it.body())
    }

    fn await_credential(&mut self, row: PeerId, request: RequestId, enrol: bool, now: Instant) -> Result<(), Refusal> {
        let busy = || Refusal::new(Reason::Busy, "other requests of this peer are waiting; asked again soon");
        let peer = self.ledger.peer(row).ok_or_else(policy::left)?;
        let (id, exists, own) = (peer.id.clone(), peer.tenant.is_some(), self.facts.account.clone());
        let line = self.line_mut(row).ok_or_else(busy)?;
        if line.issue.is_none() && line.issued.is_some_and(|at| now.since(at) < TOKENS) {
            return Err(busy());
        }
        line.waiters.push(Waiter { request, enrol, until: now + WAIT }).map_err(|_| busy())?;
        if line.issue.is_none() {
            (line.issue, line.issued) = (Some(Issue::begin(id, own, exists)), Some(now));
        }
        Ok(())
    }

    pub(super) fn answer_issued(&mut self, row: PeerId, credential: &Credential) {
        for waiter in self.line_mut(row).map(|l| std::mem::take(&mut l.waiters)).unwrap_or_default() {
            let body = if waiter.enrol { self.enrolled_body(row, Some(credential)) } else { Some(credential.body()) };
            match body {
                Some(body) => self.answer(waiter.request, 200, body),
                None => self.refuse(waiter.request, &policy::left()),
            }
        }
    }

    pub(super) fn answer_waiters(&mut self, row: PeerId, refusal: &Refusal) {
        for waiter in self.line_mut(row).map(|l| std::mem::take(&mut l.waiters)).unwrap_or_default() {
            self.refuse(waiter.request, refusal);
        }
    }

    /// Who has waited too long is told to ask again; the issuing itself goes on.
    pub(super) fn expire_waiters(&mut self, row: PeerId, now: Instant) {
        let Some(line) = self.line_mut(row) else { return };
        let Some(delay) = line.issue.as_ref().map(Issue::delay) else { return };
        let late: Vec<RequestId> = line.waiters.iter().filter(|w| w.until <= now).map(|w| w.request).collect();
        line.waiters.retain(|w| w.until > now);
        for request in late {
            self.refuse(request, &delay);
        }
    }

    pub(super) fn refuse(&mut self, id: RequestId, refusal: &Refusal) {
        self.count(refusal.reason);
        self.answer(id, refusal.reason.status(), refusal.body());
    }

    pub(super) fn answer(&mut self, request: RequestId, status: u16, body: String) {
        self.events.push_back(Event::Answer { request, status, body });
    }
}

fn not_granted() -> Refusal {
    Refusal::new(Reason::NotGranted, "nothing was granted in this direction; a new ticket can change that: sluice invite")
}
