//! What `status`, the metrics and `doctor` show: one tree, made on request from what every part of the daemon knows at that moment.
//!
//! Called by the driver. It decides nothing but words; what is worth a warning is in `warnings`.

use std::time::Duration;

use super::api::Api;
use super::looks::FRESH;
use super::syscall;
use super::tally::Health;
use super::upkeep::Upkeep;
use super::warnings::{self, Own};
use crate::cli::protocol::{Amounts, Credential, Former, Mapped, Namespace, Node, Peer, Refused, Server, Setting, Status, Tunnel};
use crate::clock::{Instant, Now};
use crate::config::Config;
use crate::edge::{Edge, JoinStatus, Peering, Phase, Resources};
use crate::identity::{CONTROL_PORT, End, PeerId, Prefix};
use crate::kube::call::Cluster;

/// Tombstones that are shown.
const LEFT_SHOWN: usize = 8;

/// What the driver alone knows.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// When the daemon began.
    pub(super) started: Instant,
    /// The API server's version, once it was reached.
    pub(super) kubernetes: Option<String>,
    /// Why the cluster is not ready yet.
    pub(super) waits: Option<String>,
    /// Why the state was not written, if the last write failed.
    pub(super) unsaved: Option<String>,
    /// Why the daemon's own token was not renewed, if the last try failed.
    pub(super) token: Option<String>,
}

/// The parts of the daemon that are asked.
pub(super) struct Parts<'a> {
    pub(super) edge: &'a mut Edge,
    pub(super) config: &'a Config,
    pub(super) api: &'a Api,
    pub(super) upkeep: &'a Upkeep,
    pub(super) known: &'a Known,
}

/// A counter that has counted.
pub(super) fn counted(at: &str, reason: &str, count: u64) -> Option<Refused> {
    (count > 0).then(|| Refused { at: at.to_owned(), reason: reason.to_owned(), count })
}

/// The tree. Peers that were asked at `looked`, and not heard since, are away; `refused` is what the shell's own doors count.
pub(super) fn status(parts: &mut Parts<'_>, mut refused: Vec<Refused>, looked: Option<Instant>, now: Now) -> Status {
    refused.extend(parts.edge.gateway().drops().iter().filter_map(|(reason, count)| counted("tunnel", reason.name(), count)));
    refused.extend(parts.edge.authority().refusals().filter_map(|(reason, count)| counted("control", reason, u64::from(count))));
    refused.extend(parts.edge.agent().denials().filter_map(|(reason, count)| counted("offload", reason, count)));
    let known = parts.edge.authority().status(now);
    let dropped: u64 = parts.edge.gateway().drops().iter().map(|(_, count)| count).sum();
    let mut peers: Vec<Peer> = known.peers.iter().map(|peering| peer(parts, peering, dropped, looked, now)).collect();
    peers.extend(known.joins.iter().map(|join| joining(parts, join, now)));
    let unknown: Vec<Peer> = parts.edge.leaving().filter(|(_, id)| !peers.iter().any(|p| p.id == id.as_str())).map(|(_, id)| leaving(id.to_string())).collect();
    peers.extend(unknown);
    let api = match &parts.known.waits {
        Some(why) if parts.known.kubernetes.is_none() => Server { reason: why.clone(), ..Server::default() },
        _ => server(&parts.api.tally().health(Cluster::Home), now),
    };
    let repairs = parts.upkeep.repairs();
    let own = Own {
        reached: parts.known.kubernetes.is_some(),
        api: api.clone(),
        token: parts.known.token.clone(),
        unsaved: parts.known.unsaved.clone(),
        state: parts.config.state.clone(),
        space: syscall::space(&parts.config.state).ok(),
        host: parts.upkeep.trouble().to_owned(),
        repaired: repairs.last.map(|at| now.mono.since(at)),
        forwards: super::link::forwards().unwrap_or(true),
        full: parts.edge.agent().fill().filter(|(_, used, all)| used >= all).map(|(name, used, _)| (name, used)).collect(),
        untold: known.untold,
        owed: known.owed,
    };
    let newest = known.left.len().saturating_sub(LEFT_SHOWN);
    Status {
        id: known.cluster.to_string(),
        key: base64(&known.key.0),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kubernetes: parts.known.kubernetes.clone(),
        memory: resident(),
        uptime: now.mono.since(parts.known.started).as_secs(),
        port: parts.config.port,
        tickets: known.tickets.len() as u32,
        warnings: warnings::own(&own),
        api,
        settings: settings(parts.config, parts.edge.external().prefix()),
        refused,
        left: known.left[newest..].iter().map(|(id, at, told)| Former { id: id.to_string(), at: at.to_string(), told: *told }).collect(),
        peers,
    }
}

fn peer(parts: &mut Parts<'_>, peering: &Peering, dropped: u64, looked: Option<Instant>, now: Now) -> Peer {
    let (row, edge) = (peering.peer, &mut *parts.edge);
    let leaving = edge.leaving().any(|(_, id)| *id == peering.cluster);
    let silent = edge.last_heard(row, now);
    let unanswered = looked.is_some_and(|at| is_unanswered(silent, at, now));
    let heard = edge.is_heard(row) && !unanswered;
    let since = if edge.is_heard(row) && unanswered { silent.unwrap_or_default() } else { edge.heard_for(row, now) };
    let tunnel = edge.gateway().status(row, now);
    let rtt = edge.round_trip(row).or(tunnel.and_then(|t| t.round_trip));
    let reached = match (peering.end, peering.endpoint) {
        (End::Inviter, Some(_)) => "it called",
        (End::Joiner, Some(_)) => "direct",
        (_, None) => "",
    };
    let mapped =
        |pairs: &[(Prefix, Prefix)]| pairs.iter().map(|(original, image)| Mapped { original: original.to_string(), image: image.to_string() }).collect();
    let report = edge.agent().report(row);
    let (phase, reason) = match (leaving, heard, silent) {
        (true, ..) => ("leaving", "it is being left; what stands of it is removed"),
        (_, true, _) => ("connected", ""),
        (_, false, Some(_)) => ("away", "nothing is heard from it; it is called again every 15 s at the most"),
        (_, false, None) => ("away", "nothing was heard from it since the daemon began; it is called again every 15 s at the most"),
    };
    let mut peer = Peer {
        id: peering.cluster.to_string(),
        phase: phase.to_owned(),
        since: since.as_secs(),
        reason: reason.to_owned(),
        mode: "in-band".to_owned(),
        consumes: peering.consume.is_some(),
        provides: peering.provide.is_some(),
        tunnel: Tunnel {
            candidates: peering.endpoints.clone(),
            control: control(edge, row),
            heard: silent.map(|s| s.as_secs()),
            moves: edge.moves(row),
            endpoint: tunnel.and_then(|t| t.endpoint).or(peering.endpoint).map(|e| e.to_string()),
            reached: reached.to_owned(),
            rtt_ms: rtt.map(|r| r.as_millis() as u32),
            mtu: tunnel.map_or(0, |t| t.mtu.into()),
            handshake: tunnel.and_then(|t| t.handshake).map(|h| h.as_secs()),
            received: tunnel.map_or(0, |t| t.bytes_in),
            sent: tunnel.map_or(0, |t| t.bytes_out),
            dropped,
        },
        theirs: mapped(&peering.images),
        ours: mapped(&peering.seen_as),
        credential: peering.credential.map(|(renews, ends)| Credential { renews: renews.as_secs(), ends: ends.as_secs() }),
        node: peering.consume.map(|grant| {
            let ready = report.node_ready && heard;
            let reason = match (ready, heard) {
                (true, _) => String::new(),
                (_, true) => "not made yet".to_owned(),
                (_, false) => "the provider does not answer".to_owned(),
            };
            let amounts = Amounts { pods_used: report.pods_there, ..amounts(None, grant) };
            Node { name: peering.cluster.to_string(), ready, reason, architecture: peering.architecture.clone(), amounts }
        }),
        lent: peering.provide.map(|grant| amounts(Some(report.used_here), grant)),
        namespaces: report.namespaces.into_iter().map(namespace).collect(),
        linked: peering.phase == Phase::Linked,
        trouble: peering.trouble.clone().unwrap_or_default(),
        api: peering.consume.map(|_| server(&parts.api.tally().health(Cluster::Peer(row)), now)),
        clock_ahead: peering.clock_ahead,
        warnings: Vec::new(),
    };
    peer.warnings = warnings::of_peer(&peer);
    peer
}

/// Whether a peer that was asked at `looked`, if it was not heard shortly before, has not answered yet.
pub(super) fn is_unanswered(silent: Option<Duration>, looked: Instant, now: Now) -> bool {
    silent.is_none_or(|silent| silent > now.mono.since(looked) + FRESH)
}

/// A ticket that is being redeemed: a peer to be.
fn joining(parts: &mut Parts<'_>, join: &JoinStatus, now: Now) -> Peer {
    let tunnel = parts.edge.gateway().status(join.peer, now);
    let heard = tunnel.and_then(|t| t.received);
    let tunnel = Tunnel {
        candidates: join.endpoints.clone(),
        control: control(parts.edge, join.peer),
        heard: heard.map(|s| s.as_secs()),
        endpoint: tunnel.and_then(|t| t.endpoint).map(|e| e.to_string()),
        mtu: tunnel.map_or(0, |t| t.mtu.into()),
        handshake: tunnel.and_then(|t| t.handshake).map(|h| h.as_secs()),
        ..Tunnel::default()
    };
    let reason = if heard.is_none() { "no endpoint of the ticket has answered yet" } else { "the enrolment is under way" };
    let mut peer = Peer {
        id: join.met.as_ref().map(ToString::to_string).unwrap_or_default(),
        phase: "joining".to_owned(),
        since: join.since.as_secs(),
        reason: reason.to_owned(),
        mode: "in-band".to_owned(),
        tunnel,
        trouble: join.trouble.clone().unwrap_or_default(),
        ..Peer::default()
    };
    peer.warnings = warnings::of_peer(&peer);
    peer
}

fn control(edge: &Edge, row: PeerId) -> String {
    edge.control_end(row).map_or_else(String::new, |at| format!("{at}:{CONTROL_PORT}"))
}

/// A peering that has ended, and whose clean-up goes on.
fn leaving(id: String) -> Peer {
    Peer { id, phase: "leaving".to_owned(), reason: "what stands of it is removed".to_owned(), mode: "in-band".to_owned(), ..Peer::default() }
}

fn server(health: &Health, now: Now) -> Server {
    let reason = match (&health.failed, health.refused, health.answered) {
        (Some((_, why)), ..) => why.clone(),
        (_, Some(_), _) => "it does not accept our credential (401)".to_owned(),
        (_, _, None) => "it has not been asked yet".to_owned(),
        _ => String::new(),
    };
    Server {
        up: reason.is_empty(),
        reason,
        refused: health.refused.is_some(),
        answered: health.answered.map(|at| now.mono.since(at).as_secs()),
        clock_ahead: health.time.map(|(wall, at)| wall.0.saturating_add(now.mono.since(at).as_secs() as i64).saturating_sub(now.wall.0)),
    }
}

/// The configuration in force; nothing in it is a secret.
fn settings(config: &Config, external: Prefix) -> Vec<Setting> {
    let all = [
        ("state", config.state.clone()),
        ("socket", config.socket.clone()),
        ("kubeconfig", config.kubeconfig.clone()),
        ("port", config.port.to_string()),
        ("interface", config.interface.clone()),
        ("pods", config.pods.to_string()),
        ("services", config.services.to_string()),
        ("external", external.to_string()),
        ("api-server", config.api_server.map_or_else(String::new, |a| a.to_string())),
        ("metrics", config.metrics.map_or_else(|| "off".to_owned(), |a| a.to_string())),
    ];
    all.into_iter().map(|(key, value)| Setting { key: key.to_owned(), value }).collect()
}

pub(super) fn amounts(used: Option<crate::edge::Amount>, grant: Resources) -> Amounts {
    Amounts {
        cpu_used: used.map(|u| u.cpu),
        cpu: u64::from(grant.cpu),
        memory_used: used.map(|u| u.memory),
        memory: u64::from(grant.memory) << 20,
        pods_used: used.map_or(0, |u| u.pods as u32),
        pods: u32::from(grant.pods),
    }
}

fn namespace(n: crate::edge::NamespaceReport) -> Namespace {
    Namespace { home: n.home, twin: n.twin, here: n.here, strategy: n.strategy.to_owned(), phase: n.phase.to_owned(), pods: n.pods }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The daemon's resident memory in bytes, from /proc.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_away_only_if_it_did_not_answer_a_look() {
        let at = |ms: u64| Instant::from_boot(Duration::from_millis(60_000 + ms));
        let unanswered = |silent: u64, now: u64| is_unanswered(Some(Duration::from_millis(silent)), at(0), Now { mono: at(now), ..Now::default() });
        // Heard just before the look, which therefore did not ask it.
        assert!(!unanswered(900, 10) && !unanswered(1_000, 10));
        // Asked, and heard in the middle of the look, or not at all.
        assert!(!unanswered(1_200, 2_500) && unanswered(30_000, 10) && unanswered(4_000, 2_500));
        assert!(is_unanswered(None, at(0), Now::default()));
    }
}
