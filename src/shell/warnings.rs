//! What is worth a warning: facts in, sentences out, each with a reason that is also the label of a metric. Pure.
//!
//! Called by `status`. A warning says what is wrong now; it goes by itself when that is over. What to do about it is `doctor`'s to say.

use std::time::Duration;

use crate::budget::PACKET_SAFE;
use crate::cli::protocol::{Peer, Server, Warning};

/// Reasons of warnings about this cluster's own side, in the order in which they are told.
pub(super) const OWN: [&str; 13] = [
    "api_unreachable",
    "api_credential",
    "token",
    "state_not_saved",
    "state_disk_full",
    "state_read_only",
    "host_network",
    "host_repaired",
    "forwarding_off",
    "clock_odd",
    "rows_full",
    "peers_untold",
    "cleanup_owed",
];

/// Reasons of warnings about a peering.
pub(super) const PEER: [&str; 10] =
    ["away", "joining", "leaving", "control", "credential", "api_unreachable", "clock_odd", "node_not_ready", "namespace", "packet_size"];

/// How long a repair is told.
const REPAIRED: Duration = Duration::from_secs(300);
/// Clocks further apart than this are odd, in seconds.
pub(super) const ODD: u64 = 60;
/// With less room than this the state cannot be counted on to be written, in bytes: three copies of the largest one.
pub(super) const ROOM: u64 = 1 << 20;

/// What is known of this cluster's own side.
#[derive(Clone, Debug, Default)]
pub(super) struct Own {
    /// The API server was reached since the daemon began.
    pub(super) reached: bool,
    pub(super) api: Server,
    /// Why the daemon's own token was not renewed.
    pub(super) token: Option<String>,
    /// Why the state was not written.
    pub(super) unsaved: Option<String>,
    /// The state's directory, and on its file system: bytes free, and whether it is read-only.
    pub(super) state: String,
    pub(super) space: Option<(u64, bool)>,
    /// Why rules, routes and addresses are not in force; empty if they are.
    pub(super) host: String,
    /// How long ago something of it was put back.
    pub(super) repaired: Option<Duration>,
    /// The kernel forwards packets.
    pub(super) forwards: bool,
    /// Kinds of which no more rows are free, and how many there are.
    pub(super) full: Vec<(&'static str, usize)>,
    pub(super) untold: usize,
    pub(super) owed: usize,
}

fn warning(reason: &str, message: String) -> Warning {
    Warning { reason: reason.to_owned(), message }
}

/// As `3 h` or `74 s`, for clocks.
pub(super) fn apart(seconds: i64) -> String {
    let n = seconds.unsigned_abs();
    let (n, unit) = match n {
        0..=119 => (n, "s"),
        120..=7_199 => (n / 60, "min"),
        7_200..=172_799 => (n / 3_600, "h"),
        172_800..=63_072_000 => (n / 86_400, "days"),
        _ => (n / 31_536_000, "years"),
    };
    format!("{n} {unit} {}", if seconds < 0 { "behind" } else { "ahead of" })
}

fn odd(seconds: Option<i64>) -> Option<i64> {
    seconds.filter(|s| s.unsigned_abs() > ODD)
}

/// What is wrong with this cluster's own side.
pub(super) fn own(own: &Own) -> Vec<Warning> {
    let mut all = Vec::new();
    let mut say = |reason: &str, message: String| all.push(warning(reason, message));
    if !own.reached {
        let why = if own.api.reason.is_empty() { String::new() } else { format!(": {}", own.api.reason) };
        say("api_unreachable", format!("the API server has not been reached since the daemon began{why}"));
    } else if own.api.refused {
        say("api_credential", "this cluster's API server does not accept the daemon's credential; it is renewed".to_owned());
    } else if !own.api.up {
        say("api_unreachable", format!("this cluster's API server does not answer: {}", own.api.reason));
    }
    if let Some(why) = &own.token {
        say("token", format!("the daemon's own token could not be renewed: {why}"));
    }
    if let Some(why) = &own.unsaved {
        say("state_not_saved", format!("the state is not on the disk: {why}"));
    }
    match own.space {
        Some((_, true)) => say("state_read_only", format!("the file system of {} is read-only: nothing new can be peered or left", own.state)),
        Some((free, _)) if free < ROOM => {
            say("state_disk_full", format!("the file system of {} has {} KiB free: the state may not be written", own.state, free >> 10))
        }
        _ => {}
    }
    if !own.host.is_empty() {
        say("host_network", own.host.clone());
    }
    if let Some(ago) = own.repaired.filter(|ago| *ago < REPAIRED) {
        say("host_repaired", format!("others changed rules, routes or addresses of ours; they were put back {} s ago", ago.as_secs()));
    }
    if !own.forwards {
        say("forwarding_off", "net.ipv4.ip_forward is 0: pods reach no peer until it is 1".to_owned());
    }
    if let Some(seconds) = odd(own.api.clock_ahead) {
        say("clock_odd", format!("the API server's clock is {} ours", apart(seconds)));
    }
    for (kind, rows) in &own.full {
        say("rows_full", format!("all {rows} rows of kind {kind} are used; further objects wait"));
    }
    if own.untold > 0 {
        say("peers_untold", format!("{} former peers are away and will be told that they were left when they come back", own.untold));
    }
    if own.owed > 0 {
        say("cleanup_owed", format!("{} pieces of clean-up are owed and go on", own.owed));
    }
    all
}

/// What is wrong with a peering.
pub(super) fn of_peer(peer: &Peer) -> Vec<Warning> {
    let mut all = Vec::new();
    let mut say = |reason: &str, message: String| all.push(warning(reason, message));
    let trouble = if peer.trouble.is_empty() { String::new() } else { format!(": {}", peer.trouble) };
    match peer.phase.as_str() {
        "joining" => say("joining", format!("{}{trouble}", peer.reason)),
        "leaving" => say("leaving", peer.reason.clone()),
        "away" => say("away", peer.reason.clone()),
        _ if !peer.linked => say("control", format!("it is heard, but its control end has not answered yet{trouble}")),
        _ => {}
    }
    let connected = peer.phase == "connected";
    let server = peer.api.as_ref().filter(|_| connected);
    if connected && peer.linked && peer.consumes && peer.credential.is_none() {
        say("credential", format!("there is no credential for its API server, it is asked for{trouble}"));
    } else if server.is_some_and(|s| s.refused) {
        say("credential", "its API server does not accept our credential; a new one is asked for".to_owned());
    } else if let Some(server) = server.filter(|s| !s.up && peer.linked) {
        say("api_unreachable", format!("its API server does not answer: {}", server.reason));
    }
    if let Some(seconds) = odd(peer.clock_ahead) {
        say("clock_odd", format!("its clock is {} ours; one of the two is wrong", apart(seconds)));
    }
    if let Some(node) = peer.node.as_ref().filter(|n| connected && !n.ready) {
        say("node_not_ready", format!("the virtual node {} is not Ready: {}", node.name, node.reason));
    }
    for ns in peer.namespaces.iter().filter(|ns| ns.phase == "CreationLoopBackOff") {
        say("namespace", format!("the twin {} of namespace {} cannot be made", ns.twin, ns.home));
    }
    if peer.phase == "connected" && peer.tunnel.mtu < u32::from(PACKET_SAFE) {
        say("packet_size", format!("packets of more than {} bytes do not get through in one piece", peer.tunnel.mtu));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::protocol::{Credential, Namespace, Node, Tunnel};

    fn well() -> Own {
        Own {
            reached: true,
            api: Server { up: true, ..Server::default() },
            state: "/s".into(),
            space: Some((1 << 30, false)),
            forwards: true,
            ..Own::default()
        }
    }

    fn friend() -> Peer {
        Peer {
            id: "hub".into(),
            phase: "connected".into(),
            linked: true,
            consumes: true,
            credential: Some(Credential { renews: 1, ends: 2 }),
            api: Some(Server { up: true, ..Server::default() }),
            node: Some(Node { ready: true, ..Node::default() }),
            tunnel: Tunnel { mtu: 1440, ..Tunnel::default() },
            ..Peer::default()
        }
    }

    fn reasons(all: &[Warning]) -> Vec<&str> {
        all.iter().map(|w| w.reason.as_str()).collect()
    }

    #[test]
    fn a_healthy_side_has_no_warning_and_each_fault_its_own() {
        assert_eq!(own(&well()), []);
        let down = Server { reason: "cannot connect".into(), ..Server::default() };
        let faults: [(&str, Own); 14] = [
            ("api_unreachable", Own { reached: false, api: down.clone(), ..well() }),
            ("api_unreachable", Own { api: down, ..well() }),
            ("api_credential", Own { api: Server { refused: true, reason: "401".into(), ..Server::default() }, ..well() }),
            ("token", Own { token: Some("no".into()), ..well() }),
            ("state_not_saved", Own { unsaved: Some("no".into()), ..well() }),
            ("state_disk_full", Own { space: Some((4096, false)), ..well() }),
            ("state_read_only", Own { space: Some((1 << 30, true)), ..well() }),
            ("host_network", Own { host: "no".into(), ..well() }),
            ("host_repaired", Own { repaired: Some(Duration::from_secs(3)), ..well() }),
            ("forwarding_off", Own { forwards: false, ..well() }),
            ("clock_odd", Own { api: Server { up: true, clock_ahead: Some(-3_600), ..Server::default() }, ..well() }),
            ("rows_full", Own { full: vec![("pod", 5_120)], ..well() }),
            ("peers_untold", Own { untold: 1, ..well() }),
            ("cleanup_owed", Own { owed: 2, ..well() }),
        ];
        for (reason, fault) in &faults {
            assert_eq!(reasons(&own(fault)), [*reason]);
            assert!(OWN.contains(reason), "{reason}");
        }
        assert!(OWN.iter().all(|reason| faults.iter().any(|(r, _)| r == reason)));
        assert_eq!(own(&Own { repaired: Some(Duration::from_secs(301)), ..well() }), []);
    }

    #[test]
    fn a_healthy_peering_has_no_warning_and_each_fault_its_own() {
        assert_eq!(of_peer(&friend()), []);
        let phase = |phase: &str| Peer { phase: phase.into(), ..friend() };
        let faults = [
            ("away", phase("away")),
            ("joining", phase("joining")),
            ("leaving", phase("leaving")),
            ("control", Peer { linked: false, ..friend() }),
            ("credential", Peer { credential: None, ..friend() }),
            ("credential", Peer { api: Some(Server { refused: true, ..Server::default() }), ..friend() }),
            ("api_unreachable", Peer { api: Some(Server { reason: "502".into(), ..Server::default() }), ..friend() }),
            ("clock_odd", Peer { clock_ahead: Some(7_200), ..friend() }),
            ("node_not_ready", Peer { node: Some(Node::default()), ..friend() }),
            ("namespace", Peer { namespaces: vec![Namespace { phase: "CreationLoopBackOff".into(), ..Namespace::default() }], ..friend() }),
            ("packet_size", Peer { tunnel: Tunnel { mtu: 940, ..Tunnel::default() }, ..friend() }),
        ];
        for (reason, fault) in &faults {
            assert_eq!(reasons(&of_peer(fault)), [*reason]);
            assert!(PEER.contains(reason), "{reason}");
        }
        assert!(PEER.iter().all(|reason| faults.iter().any(|(r, _)| r == reason)));
    }

    #[test]
    fn clocks_are_told_apart_in_words() {
        assert_eq!([apart(-74), apart(3_600), apart(-7_200), apart(315_360_000)], ["74 s behind", "60 min ahead of", "2 h behind", "10 years ahead of"]);
    }
}
