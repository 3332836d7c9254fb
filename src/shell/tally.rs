//! What has come of requests to API servers: counts by outcome, watches opened and ended, and whether each server answers.
//!
//! Written by `api` and `watches`, read for `status`, the metrics and `doctor`. It decides nothing. Counts are of all peers' servers
//! together, so that their number does not grow with peers; health is a row a server.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::time;
use crate::clock::{Instant, WallTime};
use crate::kube::call::Cluster;

/// What came of one request; the names are the metric's labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx, a watch's stream too.
    Done,
    /// 401.
    Unauthorized,
    /// 404.
    NotFound,
    /// 409.
    Conflict,
    /// 410: the resourceVersion is too old.
    Expired,
    /// 429.
    Throttled,
    /// Any other 4xx.
    Refused,
    /// 5xx.
    ServerError,
    /// No answer.
    Unreachable,
}

impl Outcome {
    /// All of them, in the order of the counts.
    pub const ALL: [(Outcome, &'static str); 9] = [
        (Outcome::Done, "done"),
        (Outcome::Unauthorized, "unauthorized"),
        (Outcome::NotFound, "not_found"),
        (Outcome::Conflict, "conflict"),
        (Outcome::Expired, "expired"),
        (Outcome::Throttled, "throttled"),
        (Outcome::Refused, "refused"),
        (Outcome::ServerError, "server_error"),
        (Outcome::Unreachable, "unreachable"),
    ];

    fn of(status: u16) -> Outcome {
        match status {
            200..=299 => Outcome::Done,
            401 => Outcome::Unauthorized,
            404 => Outcome::NotFound,
            409 => Outcome::Conflict,
            410 => Outcome::Expired,
            429 => Outcome::Throttled,
            500.. => Outcome::ServerError,
            _ => Outcome::Refused,
        }
    }
}

/// How a watch's stream was begun or ended; the names are the metrics' labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Begun with the whole list.
    Listed,
    /// Begun where an earlier one ended.
    Resumed,
    /// Ended by the server or the network.
    Cut,
    /// Ended because the server no longer knows its version: a list follows.
    Expired,
    /// Refused.
    Refused,
    /// Told to come later.
    Throttled,
    /// Ended by us, with all connections to the server.
    Dropped,
}

impl Turn {
    /// How they begin.
    pub const BEGUN: [(Turn, &'static str); 2] = [(Turn::Listed, "listed"), (Turn::Resumed, "resumed")];
    /// How they end.
    pub const ENDED: [(Turn, &'static str); 5] =
        [(Turn::Cut, "cut"), (Turn::Expired, "expired"), (Turn::Refused, "refused"), (Turn::Throttled, "throttled"), (Turn::Dropped, "dropped")];
}

/// How a server is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// When it last answered anything but 401 and 5xx.
    pub answered: Option<Instant>,
    /// When a request last failed, and why, if nothing was answered since.
    pub failed: Option<(Instant, String)>,
    /// When it last answered 401, if nothing was accepted since.
    pub refused: Option<Instant>,
    /// Its clock, and when it said so.
    pub time: Option<(WallTime, Instant)>,
}

/// See the module's head.
#[derive(Default)]
pub struct Tally {
    outcomes: [[AtomicU64; Outcome::ALL.len()]; 2],
    turns: [[AtomicU64; Turn::BEGUN.len() + Turn::ENDED.len()]; 2],
    health: Mutex<BTreeMap<Cluster, Health>>,
}

/// Home's counts, then those of all peers' servers.
pub(super) const SIDES: [&str; 2] = ["home", "peer"];

fn side(cluster: Cluster) -> usize {
    usize::from(cluster != Cluster::Home)
}

impl Tally {
    /// A request was answered with this status, and the server's `Date`.
    pub(super) fn answered(&self, cluster: Cluster, status: u16, date: Option<WallTime>) {
        let (outcome, now) = (Outcome::of(status), time::mono());
        self.outcomes[side(cluster)][outcome as usize].fetch_add(1, Relaxed);
        self.note(cluster, |health| {
            health.time = date.map(|date| (date, now)).or(health.time);
            match outcome {
                Outcome::Unauthorized => (health.refused, health.failed) = (Some(now), None),
                Outcome::ServerError => health.failed = Some((now, format!("it answers {status}"))),
                _ => (health.answered, health.failed, health.refused) = (Some(now), None, None),
            }
        });
    }

    /// A request was not answered.
    pub(super) fn failed(&self, cluster: Cluster, why: &str) {
        self.outcomes[side(cluster)][Outcome::Unreachable as usize].fetch_add(1, Relaxed);
        self.note(cluster, |health| health.failed = Some((time::mono(), why.to_owned())));
    }

    /// A request has not been answered yet.
    pub(super) fn silent(&self, cluster: Cluster, why: &str) {
        self.note(cluster, |health| health.failed = Some((time::mono(), why.to_owned())));
    }

    /// A watch's stream was begun or has ended.
    pub(super) fn turned(&self, cluster: Cluster, turn: Turn) {
        self.turns[side(cluster)][turn as usize].fetch_add(1, Relaxed);
    }

    /// A server is another one now, or is forgotten.
    pub(super) fn forget(&self, cluster: Cluster) {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).remove(&cluster);
    }

    /// How a server is doing.
    pub fn health(&self, cluster: Cluster) -> Health {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).get(&cluster).cloned().unwrap_or_default()
    }

    /// How often an outcome was met, at home and at peers.
    pub fn outcome(&self, outcome: Outcome) -> [u64; 2] {
        [0, 1].map(|side: usize| self.outcomes[side][outcome as usize].load(Relaxed))
    }

    /// How often streams began or ended so, at home and at peers.
    pub fn turn(&self, turn: Turn) -> [u64; 2] {
        [0, 1].map(|side: usize| self.turns[side][turn as usize].load(Relaxed))
    }

    /// Rows are those of the servers named to `api`, so there are at most one a peer and home's.
    fn note(&self, cluster: Cluster, change: impl FnOnce(&mut Health)) {
        change(self.health.lock().unwrap_or_else(PoisonError::into_inner).entry(cluster).or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::PeerId;

    #[test]
    fn a_server_is_well_as_soon_as_it_answers_and_ill_as_soon_as_it_does_not() {
        let (tally, peer) = (Tally::default(), Cluster::Peer(PeerId(3)));
        tally.answered(peer, 200, Some(WallTime(5)));
        tally.failed(peer, "cannot connect");
        let ill = tally.health(peer);
        assert!(ill.answered.is_some() && ill.failed.is_some_and(|(_, why)| why == "cannot connect"));
        tally.answered(peer, 503, None);
        assert!(tally.health(peer).failed.is_some_and(|(_, why)| why == "it answers 503"));
        tally.answered(peer, 401, None);
        assert!(tally.health(peer).refused.is_some() && tally.health(peer).failed.is_none());
        tally.answered(peer, 404, None);
        assert_eq!((tally.health(peer).refused, tally.health(peer).failed), (None, None));
        assert_eq!(tally.health(peer).time.map(|t| t.0), Some(WallTime(5)));
        assert_eq!(tally.health(Cluster::Home), Health::default());
        let counts = Outcome::ALL.map(|(outcome, _)| tally.outcome(outcome)[1]);
        assert_eq!(counts, [1, 1, 1, 0, 0, 0, 0, 1, 1]);
        tally.forget(peer);
        assert_eq!(tally.health(peer), Health::default());
    }

    #[test]
    fn every_outcome_and_turn_has_its_place() {
        assert!(Outcome::ALL.iter().enumerate().all(|(at, (outcome, _))| *outcome as usize == at));
        assert!(Turn::BEGUN.iter().chain(&Turn::ENDED).enumerate().all(|(at, (turn, _))| *turn as usize == at));
        let of = [
            (201, Outcome::Done),
            (400, Outcome::Refused),
            (403, Outcome::Refused),
            (410, Outcome::Expired),
            (429, Outcome::Throttled),
            (500, Outcome::ServerError),
        ];
        assert!(of.iter().all(|(status, outcome)| Outcome::of(*status) == *outcome));
    }
}
