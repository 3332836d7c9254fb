//! The end of a peering: a peer becomes a tombstone and debts, hears of it if it can, now or when it is back, and its credential is taken back.
//!
//! Called by the rest of the authority. A leave always finishes here; what the peer has to do is the peer's matter.

use super::authority::Authority;
use super::endpoint::Endpoint;
use super::event::Event;
use super::issue::Revoke;
use super::ledger::{Debt, Left, Owed};
use super::peering::{Line, Role};
use super::policy;
use super::refusal::{Reason, Refusal};
use super::steps::Step;
use crate::budget;
use crate::clock::{Instant, Now};
use crate::identity::{ClusterId, End, PeerId, PublicKey};
use crate::kube::reply::Reply;
use std::time::Duration;

/// An answer that ends a session has this long to get out.
pub(super) const LINGER: Duration = Duration::from_secs(5);
/// A peer that we leave has this long to hear it.
pub(super) const TELLING: Duration = Duration::from_secs(10);

impl Authority {
    /// Turns a peer into a tombstone and debts; what follows waits for the disk.
    pub(super) fn depart(&mut self, row: PeerId, told: bool, now: Now) -> Result<(), Refusal> {
        let gone = self.bury(row, told, now)?;
        self.steps.push(Step::Leave { row, told, gone });
        Ok(())
    }

    pub(super) fn bury(&mut self, row: PeerId, told: bool, now: Now) -> Result<Event, Refusal> {
        let Some(at) = self.ledger.peers.iter().position(|p| p.row == row) else { return Err(policy::left()) };
        if self.ledger.owed.len() + 3 > super::ledger::OWED {
            return Err(Refusal::new(Reason::Full, "there is no room to remember what must be removed; it is tried again when older clean-up is done"));
        }
        let peer = self.ledger.peers.remove(at);
        let debt = |what, uid: &str| Owed { what, cluster: peer.id.clone(), name: String::new(), uid: uid.into() };
        let uid = peer.tenant.clone().unwrap_or_default();
        let debts =
            [peer.provide.map(|_| debt(Debt::Consumer, "")), peer.provide.map(|_| debt(Debt::Tenant, &uid)), peer.consume.map(|_| debt(Debt::Provider, ""))];
        let all_fit = debts.into_iter().flatten().all(|owed| self.ledger.push_owed(owed));
        debug_assert!(all_fit, "room was made sure of above");
        let mut endpoints: Vec<Endpoint> = peer.last.map(Endpoint::Address).into_iter().collect();
        endpoints.extend(peer.endpoints.into_iter().filter(|e| peer.last.map(Endpoint::Address).as_ref() != Some(e)));
        endpoints.truncate(budget::ENDPOINTS);
        self.ledger.push_left(Left { id: peer.id.clone(), key: peer.key, end: peer.end, at: now.wall, endpoints, told });
        // The gateway holds them until the farewell is over: nobody else gets them before.
        if let Some(line) = self.line_mut(row) {
            line.images = peer.images;
        }
        self.dirty = true;
        Ok(Event::Gone { peer: row, cluster: peer.id, provider: peer.consume.is_some(), consumer: peer.provide.is_some() })
    }

    pub(super) fn told(&mut self, row: PeerId, now: Instant) {
        let Some(line) = self.line_mut(row) else { return };
        line.until = Some(now);
        let key = line.key;
        if let Some(left) = self.ledger.left.iter_mut().find(|l| l.key == key) {
            left.told = true;
            self.dirty = true;
        }
        self.part(row);
    }

    pub(super) fn untold(&self) -> impl Iterator<Item = PublicKey> {
        let free = |key: &PublicKey| !self.lines.iter().flatten().any(|l| l.key == *key);
        self.ledger.left.iter().filter(|l| !l.told && !l.endpoints.is_empty()).map(|l| l.key).filter(move |key| free(key))
    }

    /// One of the peers that do not know yet gets a session in which it can be told; each less often as time goes by.
    pub(super) fn tell_the_left(&mut self, now: Now) {
        let untold: Vec<PublicKey> = self.untold().collect();
        let (tries, count) = (self.tell.1, untold.len() as u32);
        if count == 0 {
            self.tell = (now.mono + Duration::from_secs(10), 0);
            return;
        }
        self.tell = (now.mono + Duration::from_secs(10 << (tries / count).min(6)), tries.saturating_add(1));
        let farewells = self.lines.iter().flatten().filter(|l| l.role == Role::Farewell).count();
        let Some(row) = self.free_row().filter(|_| farewells < budget::FAREWELLS) else { return };
        let key = untold[(tries % count) as usize];
        if let Some(mut line) = Line::new(Role::Farewell, &self.ledger.secret, key, now.mono) {
            line.until = Some(now.mono + TELLING);
            self.open(row, line);
        }
    }

    pub(super) fn revoked(&mut self, reply: Reply, now: Instant) {
        let Some(revoke) = &mut self.revoke else { return };
        if revoke.handle_reply(reply, now) {
            let cluster = revoke.cluster().clone();
            self.revoke = None;
            self.ledger.owed.retain(|o| !(o.what == Debt::Tenant && o.cluster == cluster));
            self.dirty = true;
            let debt = self.ledger.owed.iter().find(|o| o.what == Debt::Tenant);
            self.revoke = debt.map(|o| Revoke::begin(o.cluster.clone(), o.uid.clone()));
        }
    }

    /// A join that the inviter may have granted comes to nothing: a tombstone sees to it that the inviter is told.
    pub(super) fn regret(&mut self, row: PeerId, id: ClusterId, now: Now) {
        let Some(join) = self.ledger.join(row) else { return };
        let (key, endpoints) = (join.ticket.inviter, join.ticket.endpoints.to_vec());
        if !self.ledger.peers.iter().any(|p| p.key == key) {
            self.ledger.push_left(Left { id, key, end: End::Joiner, at: now.wall, endpoints, told: false });
            self.tell = (now.mono + Duration::from_secs(1), 0);
            self.dirty = true;
        }
    }

    /// A peer's session becomes a farewell.
    pub(super) fn linger(&mut self, row: PeerId, now: Instant, time: Duration) {
        self.former[usize::from(row.0)] = self.lines_key(row).and_then(|key| self.ledger.left.iter().find(|l| l.key == key)).map(|l| l.id.clone());
        self.answer_waiters(row, &policy::left());
        let Some(line) = self.line_mut(row) else { return };
        line.role = Role::Farewell;
        (line.until, line.ask, line.issue, line.call) = (Some(now + time), None, None, None);
        (line.again, line.failures) = (now, 0);
    }
}
