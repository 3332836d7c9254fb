//! What `sluice status` shows of peers, tickets and joins: a copy of what the authority knows, without secrets.
//!
//! Made on request; the edge adds what the gateway and the agent know.

use super::authority::Authority;
use super::ledger::TicketState;
use super::peering::Role;
use super::resources::Resources;
use crate::clock::Now;
use crate::identity::{ClusterId, End, PeerId, Prefix, PublicKey};
use std::net::SocketAddr;
use std::time::Duration;

/// How far a peering has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The joiner was taken, but has not yet been heard on the peering's own session since this process began.
    Enrolled,
    /// `hello` went through since this process began.
    Linked,
}

/// One peer.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerStatus {
    /// Its row.
    pub peer: PeerId,
    /// Its ID.
    pub cluster: ClusterId,
    /// Its key.
    pub key: PublicKey,
    /// Which end we are.
    pub end: End,
    /// How far it has come.
    pub phase: Phase,
    /// Its prefixes and the image of each here.
    pub images: Vec<(Prefix, Prefix)>,
    /// Our prefixes (the transit range last) and the image of each there, as far as it said.
    pub seen_as: Vec<(Prefix, Prefix)>,
    /// Its architecture.
    pub architecture: String,
    /// What it lends us.
    pub consume: Option<Resources>,
    /// What we lend it.
    pub provide: Option<Resources>,
    /// From where it last proved itself.
    pub endpoint: Option<SocketAddr>,
    /// Until our credential there is renewed, and until it would end; none if there is none.
    pub credential: Option<(Duration, Duration)>,
    /// Where it may be reached, as its ticket said; none if it calls us.
    pub endpoints: Vec<String>,
    /// Why our last question to it came to nothing, if the last one did.
    pub trouble: Option<String>,
    /// How far its wall clock was ahead of ours when it last said, in seconds.
    pub clock_ahead: Option<i64>,
}

/// One ticket that we redeem.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinStatus {
    /// Its row.
    pub peer: PeerId,
    /// For how long.
    pub since: Duration,
    /// Whom it has met.
    pub met: Option<ClusterId>,
    /// The candidates of the ticket.
    pub endpoints: Vec<String>,
    /// Why the last question came to nothing, if it did.
    pub trouble: Option<String>,
}

/// One open ticket of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct TicketStatus {
    /// How long it is still good for.
    pub left: Duration,
    /// What it offers.
    pub offer: Option<Resources>,
    /// Whether it asks.
    pub ask: bool,
}

/// All.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Our ID.
    pub cluster: ClusterId,
    /// Our key.
    pub key: PublicKey,
    /// Peers, by row.
    pub peers: Vec<PeerStatus>,
    /// Open tickets.
    pub tickets: Vec<TicketStatus>,
    /// Joins under way.
    pub joins: Vec<JoinStatus>,
    /// Peers that left: who, when by the wall clock, and whether it knows.
    pub left: Vec<(ClusterId, crate::clock::WallTime, bool)>,
    /// Peers that left and are still to be told.
    pub untold: usize,
    /// Clean-up that is owed.
    pub owed: usize,
}

impl Authority {
    /// What there is to show.
    pub fn status(&self, now: Now) -> Status {
        let line = |row: PeerId| self.lines[usize::from(row.0)].as_deref();
        let mut peers: Vec<PeerStatus> = self
            .ledger
            .peers
            .iter()
            .map(|p| {
                let line = line(p.row).filter(|l| l.role == Role::Peer);
                let here = |(wall, at): (crate::clock::WallTime, crate::clock::Instant)| {
                    wall.0.saturating_add(now.mono.since(at).as_secs() as i64).saturating_sub(now.wall.0)
                };
                PeerStatus {
                    peer: p.row,
                    cluster: p.id.clone(),
                    key: p.key,
                    end: p.end,
                    phase: if line.is_some_and(|l| l.linked) { Phase::Linked } else { Phase::Enrolled },
                    images: super::sessions::pairs(p),
                    seen_as: self.claimed().into_iter().zip(p.seen_as.iter().copied()).collect(),
                    architecture: p.architecture.clone(),
                    consume: p.consume,
                    provide: p.provide,
                    endpoint: line.and_then(|l| l.seen).or(p.last),
                    credential: line
                        .and_then(|l| l.credential)
                        .filter(|(_, ends)| *ends > now.mono)
                        .map(|(renew, ends)| (renew.since(now.mono), ends.since(now.mono))),
                    endpoints: p.endpoints.iter().map(ToString::to_string).collect(),
                    trouble: line.and_then(|l| l.trouble.as_deref()).map(str::to_owned),
                    clock_ahead: line.and_then(|l| l.time).map(here),
                }
            })
            .collect();
        peers.sort_by_key(|p| p.peer);
        let open = self.ledger.tickets.iter().filter(|t| t.state == TicketState::Open);
        Status {
            cluster: self.ledger.id.clone(),
            key: self.public,
            peers,
            tickets: open
                .map(|t| TicketStatus { left: Duration::from_secs(t.expires).saturating_sub(now.mono.since_boot()), offer: t.offer, ask: t.ask })
                .collect(),
            joins: self
                .ledger
                .joins
                .iter()
                .map(|j| JoinStatus {
                    peer: j.row,
                    since: line(j.row).map_or(Duration::ZERO, |l| now.mono.since(l.since)),
                    met: self.met(j.row),
                    endpoints: j.ticket.endpoints.iter().map(ToString::to_string).collect(),
                    trouble: line(j.row).and_then(|l| l.trouble.as_deref()).map(str::to_owned),
                })
                .collect(),
            left: self.ledger.left.iter().map(|l| (l.id.clone(), l.at, l.told)).collect(),
            untold: self.ledger.left.iter().filter(|l| !l.told).count(),
            owed: self.ledger.owed.len(),
        }
    }

    /// What this peer's wall clock shows now, if it said so since this process began: TLS dates may be judged by it.
    pub fn peer_time(&self, peer: PeerId, now: Now) -> Option<crate::clock::WallTime> {
        let (wall, at) = self.lines.get(usize::from(peer.0))?.as_deref()?.time?;
        Some(crate::clock::WallTime(wall.0.saturating_add(now.mono.since(at).as_secs() as i64)))
    }
}
