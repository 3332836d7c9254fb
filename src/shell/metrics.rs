//! The metrics as Prometheus reads them (text format 0.0.4): values in, one page out. Pure.
//!
//! Most of it comes from the tree that `status` prints, so that the two never disagree. How many lines there are is bounded: labels are
//! peers' IDs (at most `budget::PEERS`), reasons and kinds, which are fixed lists. Served by `scrape`, and over the local socket.

use std::fmt::{Display, Write as _};

use super::warnings;
use crate::cli::protocol::{Peer, Status};

/// Counts that `status` does not show. Labels are of fixed lists.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// Packets the tunnel dropped, by reason.
    pub(super) drops: Vec<(&'static str, u64)>,
    /// Packets the rules dropped, by rule.
    pub(super) rule_drops: Vec<(&'static str, u64)>,
    /// Control requests the authority refused, by reason.
    pub(super) refusals: Vec<(&'static str, u64)>,
    /// What consumers' objects asked for and was refused, by reason.
    pub(super) denials: Vec<(&'static str, u64)>,
    /// Connections that were refused before a request was read: door, reason.
    pub(super) doors: Vec<(&'static str, &'static str, u64)>,
    /// Requests to API servers: whose, outcome.
    pub(super) requests: Vec<(&'static str, &'static str, u64)>,
    /// Streams of watches begun: whose, how.
    pub(super) begun: Vec<(&'static str, &'static str, u64)>,
    /// Streams of watches ended: whose, how.
    pub(super) ended: Vec<(&'static str, &'static str, u64)>,
    /// Rows used and in all, by kind.
    pub(super) rows: Vec<(&'static str, usize, usize)>,
    /// States written, and writes that failed.
    pub(super) writes: (u64, u64),
    /// What was put back that others had changed.
    pub(super) repairs: Vec<(&'static str, u64)>,
    /// Clean-up owed.
    pub(super) owed: usize,
    /// Peers that left and do not know yet.
    pub(super) untold: usize,
    /// When the daemon began, in seconds since 1970.
    pub(super) started: i64,
}

/// The media type of the page.
pub(super) const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

struct Page(String);

impl Page {
    /// Begins a family: its name, what kind of metric it is, what it says.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One value of the family begun last.
    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"{}\"", if at == 0 { "{" } else { "," }, escaped(text));
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.value(name, &[], value);
    }

    /// A family with one label.
    fn by(&mut self, (name, kind, help): (&str, &str, &str), label: &str, values: impl IntoIterator<Item = (&'static str, u64)>) {
        self.family(name, kind, help);
        for (text, value) in values {
            self.value(name, &[(label, text)], value);
        }
    }

    /// A family with two labels.
    fn by_two(&mut self, (name, help): (&str, &str), labels: [&str; 2], values: &[(&'static str, &'static str, u64)]) {
        self.family(name, "counter", help);
        for (first, second, value) in values {
            self.value(name, &[(labels[0], first), (labels[1], second)], value);
        }
    }

    /// A family with a value for each peer that has one.
    fn peers<V: Display>(&mut self, peers: &[&Peer], (name, kind, help): (&str, &str, &str), value: impl Fn(&Peer) -> Option<V>) {
        self.family(name, kind, help);
        for peer in peers {
            if let Some(value) = value(peer) {
                self.value(name, &[("peer", &peer.id)], value);
            }
        }
    }
}

/// A label's value as the format wants it.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out
}

const fn bit(yes: bool) -> u8 {
    yes as u8
}

/// The whole page.
pub(super) fn page(status: &Status, counts: &Counts) -> String {
    let mut page = Page(String::with_capacity(16 * 1024));
    own(&mut page, status, counts);
    // A peer to be may have no ID yet; and one that joins anew beside its old self must not be told twice.
    let mut named: Vec<&Peer> = Vec::new();
    for peer in status.peers.iter().filter(|p| !p.id.is_empty()) {
        if !named.iter().any(|known| known.id == peer.id) {
            named.push(peer);
        }
    }
    peers(&mut page, status, &named);
    traffic(&mut page, counts);
    page.0
}

fn own(page: &mut Page, status: &Status, counts: &Counts) {
    page.family("sluice_build_info", "gauge", "The program's version and that of its API server; always 1.");
    page.value(
        "sluice_build_info",
        &[("version", &status.version), ("kubernetes", status.kubernetes.as_deref().unwrap_or_default()), ("cluster", &status.id)],
        1,
    );
    page.one("sluice_uptime_seconds", "gauge", "Seconds the daemon runs.", status.uptime);
    page.one("process_start_time_seconds", "gauge", "When the daemon began, by its own clock, in seconds since 1970.", counts.started);
    page.one("process_resident_memory_bytes", "gauge", "Resident memory of the daemon.", status.memory);
    page.one("sluice_api_up", "gauge", "Whether this cluster's API server answers and accepts the daemon.", bit(status.api.up));
    page.family("sluice_warning", "gauge", "Whether something is wrong with this cluster's own side, by reason.");
    for reason in warnings::OWN {
        page.value("sluice_warning", &[("reason", reason)], bit(status.warnings.iter().any(|w| w.reason == reason)));
    }
    page.one("sluice_tickets_open", "gauge", "Tickets that can still be redeemed.", status.tickets);
    page.one("sluice_cleanup_owed", "gauge", "Pieces of clean-up that are owed.", counts.owed);
    page.one("sluice_peers_untold", "gauge", "Former peers that do not know yet that they were left.", counts.untold);
    let writes = [("done", counts.writes.0), ("failed", counts.writes.1)];
    page.by(("sluice_state_writes_total", "counter", "Writes of the state file, by outcome."), "outcome", writes);
    let repairs = counts.repairs.iter().copied();
    page.by(("sluice_repairs_total", "counter", "What was put back in the host's network after others had changed it, by kind."), "what", repairs);
    let used = counts.rows.iter().map(|(kind, used, _)| (*kind, *used as u64));
    page.by(("sluice_rows", "gauge", "Objects that are kept in step, by kind."), "kind", used);
    let all = counts.rows.iter().map(|(kind, _, all)| (*kind, *all as u64));
    page.by(("sluice_rows_capacity", "gauge", "How many objects may be kept in step, by kind."), "kind", all);
}

fn peers(page: &mut Page, status: &Status, named: &[&Peer]) {
    let phases = ["connected", "away", "joining", "leaving"].map(|phase| (phase, status.peers.iter().filter(|p| p.phase == phase).count() as u64));
    page.by(("sluice_peers", "gauge", "Peers, by phase."), "phase", phases);
    page.peers(named, ("sluice_peer_connected", "gauge", "Whether the peer is heard."), |p| Some(bit(p.phase == "connected")));
    page.peers(named, ("sluice_peer_round_trip_seconds", "gauge", "Round-trip time to the peer, as last measured."), |p| {
        p.tunnel.rtt_ms.map(|ms| f64::from(ms) / 1000.0)
    });
    page.peers(named, ("sluice_peer_path_mtu_bytes", "gauge", "The largest packet that goes to the peer in one piece."), |p| {
        Some(p.tunnel.mtu).filter(|mtu| *mtu > 0)
    });
    page.peers(named, ("sluice_peer_handshake_age_seconds", "gauge", "Age of the session in use."), |p| p.tunnel.handshake);
    page.peers(named, ("sluice_peer_last_heard_age_seconds", "gauge", "Seconds since the peer was last heard."), |p| p.tunnel.heard);
    page.peers(named, ("sluice_peer_received_bytes_total", "counter", "Bytes of packets received from the peer."), |p| Some(p.tunnel.received));
    page.peers(named, ("sluice_peer_sent_bytes_total", "counter", "Bytes of packets sent to the peer."), |p| Some(p.tunnel.sent));
    page.peers(named, ("sluice_peer_endpoint_changes_total", "counter", "How often the peer was heard from another endpoint than before."), |p| {
        Some(p.tunnel.moves)
    });
    page.peers(named, ("sluice_peer_clock_ahead_seconds", "gauge", "How far the peer's clock is ahead of ours, as it last said."), |p| p.clock_ahead);
    page.peers(named, ("sluice_peer_credential_life_seconds", "gauge", "Seconds until our credential for the peer's API server ends."), |p| {
        p.consumes.then(|| p.credential.as_ref().map_or(0, |c| c.ends))
    });
    page.peers(named, ("sluice_peer_api_up", "gauge", "Whether the peer's API server answers and accepts us."), |p| {
        p.api.as_ref().map(|a| bit(a.up && p.phase == "connected"))
    });
    page.peers(named, ("sluice_peer_node_ready", "gauge", "Whether the peer's virtual node is Ready."), |p| p.node.as_ref().map(|n| bit(n.ready)));
    page.peers(named, ("sluice_peer_node_pods", "gauge", "Pods on the peer's virtual node."), |p| p.node.as_ref().map(|n| n.amounts.pods_used));
    page.peers(named, ("sluice_peer_node_pods_capacity", "gauge", "Pods that the peer's virtual node takes."), |p| p.node.as_ref().map(|n| n.amounts.pods));
    page.peers(named, ("sluice_peer_lent_pods", "gauge", "Pods of the peer that run here."), |p| p.lent.as_ref().map(|l| l.pods_used));
    page.peers(named, ("sluice_peer_lent_cpu_cores", "gauge", "Processors that the peer's pods ask for here."), |p| {
        p.lent.as_ref().and_then(|l| l.cpu_used).map(|milli| milli as f64 / 1000.0)
    });
    page.peers(named, ("sluice_peer_lent_memory_bytes", "gauge", "Memory that the peer's pods ask for here."), |p| p.lent.as_ref().and_then(|l| l.memory_used));
    page.family("sluice_peer_warning", "gauge", "Something that is wrong with the peering, by reason; only those that are.");
    for peer in named {
        for reason in warnings::PEER.iter().filter(|reason| peer.warnings.iter().any(|w| w.reason == **reason)) {
            page.value("sluice_peer_warning", &[("peer", &peer.id), ("reason", reason)], 1);
        }
    }
}

fn traffic(page: &mut Page, counts: &Counts) {
    page.by(("sluice_tunnel_drops_total", "counter", "Datagrams and packets the tunnel dropped, by reason."), "reason", counts.drops.iter().copied());
    let rules = counts.rule_drops.iter().copied();
    page.by(("sluice_rule_drops_total", "counter", "Packets the packet rules dropped, by rule."), "rule", rules);
    let refused = counts.refusals.iter().copied();
    page.by(("sluice_refusals_total", "counter", "Control requests of peers and strangers that were refused, by reason."), "reason", refused);
    let denied = counts.denials.iter().copied();
    page.by(("sluice_offload_refusals_total", "counter", "What the objects of consumers asked for and was refused, by reason."), "reason", denied);
    let doors = ("sluice_connection_refusals_total", "Connections that were refused before a request was heard, by door and reason.");
    page.by_two(doors, ["door", "reason"], &counts.doors);
    page.by_two(("sluice_api_requests_total", "Requests to API servers, by whose and outcome."), ["server", "outcome"], &counts.requests);
    page.by_two(("sluice_watch_streams_total", "Streams of watches begun: with a list, or where an earlier one ended."), ["server", "begun"], &counts.begun);
    page.by_two(("sluice_watch_ends_total", "Streams of watches ended, by whose and how."), ["server", "how"], &counts.ended);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::protocol::{Amounts, Credential, Node, Server, Tunnel, Warning};

    fn warning(reason: &str) -> Warning {
        Warning { reason: reason.into(), message: String::new() }
    }

    fn status() -> Status {
        let up = Server { up: true, ..Server::default() };
        let hub = Peer {
            id: "hub-4f1c09aa".into(),
            phase: "connected".into(),
            consumes: true,
            tunnel: Tunnel {
                mtu: 1440,
                rtt_ms: Some(38),
                handshake: Some(74),
                heard: Some(3),
                received: 1_288_490_188,
                sent: 325_058_560,
                moves: 2,
                ..Tunnel::default()
            },
            clock_ahead: Some(-7),
            credential: Some(Credential { renews: 1_440, ends: 2_640 }),
            api: Some(up.clone()),
            node: Some(Node { ready: true, amounts: Amounts { pods_used: 3, pods: 110, ..Amounts::default() }, ..Node::default() }),
            ..Peer::default()
        };
        let lent = Amounts { cpu_used: Some(1_500), memory_used: Some(1 << 30), pods_used: 4, pods: 10, ..Amounts::default() };
        let mast = Peer { id: "mast-1".into(), phase: "away".into(), provides: true, lent: Some(lent), warnings: vec![warning("away")], ..Peer::default() };
        let joining = Peer { phase: "joining".into(), warnings: vec![warning("joining")], ..Peer::default() };
        Status {
            id: "shop-17".into(),
            version: "0.1.0".into(),
            kubernetes: Some("v1.37.2+\"k3s\\1\"".into()),
            memory: 4_300_800,
            uptime: 3_600,
            tickets: 1,
            api: up,
            warnings: vec![warning("state_disk_full")],
            peers: vec![hub, mast, joining],
            ..Status::default()
        }
    }

    fn counts() -> Counts {
        Counts {
            drops: vec![("malformed_datagram", 5), ("no_peer", 0)],
            rule_drops: vec![("node_end", 1)],
            refusals: vec![("unauthenticated", 2), ("used", 1)],
            denials: vec![("grant", 2), ("endpoint", 0)],
            doors: vec![("control", "full", 0), ("local", "not_root", 3)],
            requests: vec![("home", "done", 9), ("peer", "throttled", 4)],
            begun: vec![("home", "listed", 2), ("home", "resumed", 7)],
            ended: vec![("peer", "expired", 1)],
            rows: vec![("pod", 3, 5_120)],
            writes: (12, 1),
            repairs: vec![("rules", 1), ("links", 0)],
            owed: 2,
            untold: 1,
            started: 1_795_495_000,
        }
    }

    #[test]
    fn the_page_is_what_it_was() {
        let page = page(&status(), &counts());
        assert!(page == include_str!("testing/metrics.txt"), "{page}");
    }

    #[test]
    fn every_line_is_of_the_format_and_no_series_is_told_twice() {
        let mut status = status();
        // A peer of the same ID beside its old self.
        status.peers.push(Peer { id: "mast-1".into(), phase: "joining".into(), ..Peer::default() });
        let page = page(&status, &counts());
        let mut series = Vec::new();
        let mut family = String::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# ") {
                let mut words = rest.split(' ');
                let (what, name) = (words.next(), words.next().unwrap_or_default());
                if what == Some("TYPE") {
                    assert_eq!(name, family, "{line}");
                    assert!(matches!(words.next(), Some("counter" | "gauge")), "{line}");
                }
                family = name.to_owned();
                continue;
            }
            let (name, value) = line.rsplit_once(' ').expect("a value");
            assert!(name.starts_with(&family) && name[family.len()..].chars().next().is_none_or(|c| c == '{'), "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            series.push(name.to_owned());
        }
        let all = series.len();
        series.sort();
        series.dedup();
        assert_eq!(series.len(), all);
        let counters = page.lines().filter_map(|l| l.strip_prefix("# TYPE ")).filter_map(|l| l.strip_suffix(" counter"));
        assert!(counters.into_iter().all(|name| name.ends_with("_total")));
    }
}
