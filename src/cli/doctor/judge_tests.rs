//! One case a fault: a healthy pair of clusters, one thing changed, and the one finding that must come of it.

use super::super::facts::{Api, Daemon, Facts, Node, Place, Settings};
use super::*;
use crate::cli::protocol::{Amounts, Credential, Former, Namespace, Peer, Server, Status, Tunnel, Warning};
use crate::identity::Prefix;
use crate::shell::inspect::{Host, State};

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn hub() -> Peer {
    Peer {
        id: "hub".into(),
        phase: "connected".into(),
        linked: true,
        consumes: true,
        tunnel: Tunnel {
            candidates: vec!["hub.example.org:51820".into()],
            endpoint: Some("203.0.113.10:51820".into()),
            control: "10.70.1.1:10180".into(),
            rtt_ms: Some(13),
            heard: Some(1),
            handshake: Some(20),
            mtu: 1420,
            ..Tunnel::default()
        },
        credential: Some(Credential { renews: 1, ends: 2 }),
        api: Some(Server { up: true, ..Server::default() }),
        node: Some(crate::cli::protocol::Node { name: "hub".into(), ready: true, amounts: Amounts { pods: 110, ..Amounts::default() }, ..Default::default() }),
        ..Peer::default()
    }
}

/// Away since before the daemon began.
fn lost() -> Peer {
    let tunnel = Tunnel { heard: None, handshake: None, endpoint: None, rtt_ms: None, ..hub().tunnel };
    Peer { phase: "away".into(), linked: false, tunnel, credential: None, ..hub() }
}

fn healthy() -> Facts {
    let status = Status { id: "edge".into(), version: "1.2.3".into(), peers: vec![hub()], ..Status::default() };
    Facts {
        version: "1.2.3".into(),
        configuration: None,
        settings: Settings {
            state: "/var/lib/sluice".into(),
            socket: "/run/s".into(),
            kubeconfig: "/k".into(),
            interface: "sluice0".into(),
            port: 51820,
            pods: prefix("10.42.0.0/16"),
            services: prefix("10.43.0.0/16"),
            external: prefix("10.70.0.0/16"),
        },
        host: Host {
            root: true,
            link: Some(true),
            forwards: Some(true),
            table: Table::Ours,
            flannel: Some(true),
            conntrack: Some((100, 1000)),
            in_use: vec![prefix("10.42.0.0/24"), prefix("192.168.1.0/24")],
            port_taken: true,
            ..Host::default()
        },
        state: State { directory: "/var/lib/sluice".into(), exists: true, space: Some((1 << 30, false)), locked: true, ..State::default() },
        api: Api {
            server: "https://127.0.0.1:6443".into(),
            version: Some((1, 37)),
            clock_ahead: Some(0),
            nodes: Some(vec![Node { name: "edge".into(), ready: true, pods: Some("10.42.0.0/24".into()) }]),
            whole: true,
            ..Api::default()
        },
        daemon: Daemon::Answers(Box::new(status)),
        places: vec![Place { text: "hub.example.org:51820".into(), addresses: Ok(vec!["203.0.113.10:51820".parse().unwrap()]), unrouted: None }],
    }
}

fn status(facts: &mut Facts) -> &mut Status {
    match &mut facts.daemon {
        Daemon::Answers(status) => status,
        _ => unreachable!(),
    }
}

/// The healthy facts with one change.
fn with(change: impl FnOnce(&mut Facts)) -> Facts {
    let mut facts = healthy();
    change(&mut facts);
    facts
}

fn with_peer(change: impl FnOnce(&mut Peer)) -> Facts {
    with(|f| change(&mut status(f).peers[0]))
}

fn warned(reason: &str) -> Facts {
    with(|f| status(f).warnings.push(Warning { reason: reason.into(), message: format!("{reason} it is") }))
}

fn bad(facts: &Facts) -> Vec<Finding> {
    judge(facts).into_iter().filter(|f| f.mark == Mark::Bad).collect()
}

#[test]
fn of_a_healthy_pair_every_hop_is_good_and_told_in_order() {
    let findings = judge(&healthy());
    assert!(findings.iter().all(|f| f.mark == Mark::Good && f.fix.is_empty()), "{findings:?}");
    let hops: Vec<&str> = findings.iter().map(|f| f.hop).collect();
    assert_eq!(hops, ["host", "state", "api-server", "daemon", "rules", "underlay", "tunnel", "control", "peer-api", "node", "namespaces"]);
}

#[test]
fn each_fault_has_one_finding_with_cause_and_fix() {
    let silent = Some("cannot connect: refused".to_owned());
    let cases: Vec<(&str, &str, &str, Facts)> = vec![
        ("host", "not_root", "root", with(|f| f.host.root = false)),
        ("host", "no_tun", "/dev/net/tun", with(|f| f.host.tun = Some("No such file".into()))),
        ("host", "no_nftables", "packet rules", with(|f| f.host.table = Table::Lacking("EINVAL".into()))),
        ("host", "forwarding_off", "ip_forward", with(|f| f.host.forwards = Some(false))),
        ("host", "conntrack_full", "980 of 1000", with(|f| f.host.conntrack = Some((980, 1000)))),
        ("host", "rp_filter", "sluice0", with(|f| f.host.strict = true)),
        ("host", "prefix_clash", "services 10.43.0.0/16 overlaps 10.43.5.0/24", with(|f| f.host.in_use.push(prefix("10.43.5.0/24")))),
        (
            "host",
            "prefix_clash",
            "pods 10.42.0.0/16 overlaps 10.0.0.0/8",
            with(|f| {
                f.host.in_use.push(prefix("10.0.0.0/8"));
                (f.settings.services, f.settings.external) = (prefix("172.16.0.0/16"), prefix("172.17.0.0/16"));
            }),
        ),
        ("state", "state_disk_full", "4 KiB free", with(|f| f.state.space = Some((4096, false)))),
        ("state", "state_read_only", "read-only", with(|f| f.state.space = Some((1 << 30, true)))),
        ("state", "state_unusable", "damaged", with(|f| f.state.problem = Some("/var/lib/sluice/state.json is damaged".into()))),
        ("api-server", "kubeconfig", "/k: No such file", with(|f| f.api.kubeconfig = Some("/k: No such file".into()))),
        ("api-server", "api_unreachable", "https://127.0.0.1:6443 does not answer: cannot connect", with(|f| f.api.silent = silent.clone())),
        ("api-server", "api_refuses", "https://127.0.0.1:6443 does not accept", with(|f| f.api.refused = Some("401".into()))),
        ("api-server", "clock_api", "2 h behind ours", with(|f| f.api.clock_ahead = Some(-7_200))),
        ("api-server", "node_not_ready", "node edge is not Ready", with(|f| f.api.nodes.as_mut().unwrap()[0].ready = false)),
        ("api-server", "pod_prefix", "10.244.0.0/24", with(|f| f.api.nodes.as_mut().unwrap()[0].pods = Some("10.244.0.0/24".into()))),
        (
            "api-server",
            "several_nodes",
            "2 nodes (edge, two)",
            with(|f| f.api.nodes.as_mut().unwrap().push(Node { name: "two".into(), ready: true, pods: None })),
        ),
        (
            "api-server",
            "object_missing",
            "ValidatingAdmissionPolicy sluice-daemon",
            with(|f| f.api.missing.push("ValidatingAdmissionPolicy sluice-daemon".into())),
        ),
        ("api-server", "object_foreign", "not made by sluice", with(|f| f.api.foreign.push("CustomResourceDefinition x".into()))),
        ("daemon", "configuration", "f:1", with(|f| f.configuration = Some("f:1: no key".into()))),
        ("daemon", "daemon_mute", "/run/s", with(|f| f.daemon = Daemon::Mute("silent".into()))),
        ("daemon", "daemon_forbidden", "only root", with(|f| f.daemon = Daemon::Forbidden)),
        ("daemon", "daemon_elsewhere", "/var/lib/sluice", with(|f| f.daemon = Daemon::Absent).tap(|f| f.host.port_taken = false)),
        ("daemon", "daemon_absent", "/run/s", with(|f| f.daemon = Daemon::Absent).tap(|f| (f.host.port_taken, f.state.locked) = (false, false))),
        ("daemon", "daemon_version", "the daemon is sluice 1.0.0", with(|f| status(f).version = "1.0.0".into())),
        ("daemon", "daemon_warning", "state_not_saved it is", warned("state_not_saved")),
        ("daemon", "daemon_warning", "token it is", warned("token")),
        ("daemon", "daemon_warning", "rows_full it is", warned("rows_full")),
        ("rules", "table_foreign", "table ip sluice", with(|f| f.host.table = Table::Foreign)),
        ("rules", "table_missing", "table ip sluice", with(|f| f.host.table = Table::Missing)),
        ("rules", "device_missing", "sluice0 is gone", with(|f| f.host.link = None)),
        ("rules", "device_down", "sluice0 is down", with(|f| f.host.link = Some(false))),
        ("rules", "flannel_missing", "FLANNEL-POSTRTG", with(|f| f.host.flannel = Some(false))),
        ("rules", "host_network", "host_network it is", warned("host_network")),
        (
            "underlay",
            "name",
            "hub.example.org:51820 does not resolve",
            with(|f| {
                status(f).peers = vec![lost()];
                f.places[0].addresses = Err("no such name".into());
            }),
        ),
        (
            "underlay",
            "no_route",
            "no way to hub.example.org:51820",
            with(|f| {
                status(f).peers = vec![lost()];
                f.places[0].unrouted = Some("Network is unreachable".into());
            }),
        ),
        (
            "underlay",
            "private_endpoint",
            "192.168.5.1",
            with(|f| {
                status(f).peers = vec![lost()];
                f.places[0].addresses = Ok(vec!["192.168.5.1:51820".parse().unwrap()]);
            }),
        ),
        ("underlay", "udp_blocked", "no answer to any datagram from hub.example.org:51820 (203.0.113.10)", with(|f| status(f).peers = vec![lost()])),
        ("underlay", "never_called", "UDP port 51820", with(|f| status(f).peers = vec![lost().tap(|p| p.tunnel.candidates.clear())])),
        ("underlay", "peer_away", "203.0.113.10:51820 for 74 s", with_peer(|p| (p.phase, p.tunnel.heard) = ("away".into(), Some(74)))),
        ("tunnel", "mtu_hole", "packets of more than 940 bytes do not get through to 203.0.113.10:51820", with_peer(|p| p.tunnel.mtu = 940)),
        ("tunnel", "no_session", "no session", with_peer(|p| p.tunnel.handshake = None)),
        ("control", "version", "10.70.1.1:10180", with_peer(|p| (p.linked, p.trouble) = (false, "no protocol version is shared: update".into()))),
        ("control", "control_silent", "10.70.1.1:10180 does not answer: timed out", with_peer(|p| (p.linked, p.trouble) = (false, "timed out".into()))),
        ("control", "clock_peer", "60 min behind ours", with_peer(|p| p.clock_ahead = Some(-3_600))),
        (
            "control",
            "join",
            "expired",
            with(|f| {
                let tunnel = Tunnel { heard: Some(1), ..hub().tunnel };
                status(f).peers = vec![Peer { phase: "joining".into(), trouble: "the ticket has expired".into(), tunnel, ..Peer::default() }];
            }),
        ),
        (
            "peer-api",
            "credential_refused",
            "behind 10.70.1.1:10180",
            with_peer(|p| p.api = Some(Server { refused: true, reason: "401".into(), ..Server::default() })),
        ),
        (
            "peer-api",
            "credential_missing",
            "expired: the API server refuses",
            with_peer(|p| (p.credential, p.trouble) = (None, "the API server refuses".into())),
        ),
        (
            "peer-api",
            "peer_api_down",
            "does not answer its own daemon",
            with_peer(|p| p.api = Some(Server { reason: "CONNECT was answered 502".into(), ..Server::default() })),
        ),
        (
            "peer-api",
            "peer_api_down",
            "behind 10.70.1.1:10180, does not answer: slow",
            with_peer(|p| p.api = Some(Server { reason: "slow".into(), ..Server::default() })),
        ),
        (
            "node",
            "virtual_node",
            "not Ready: not made yet",
            with_peer(|p| {
                let node = p.node.as_mut().unwrap();
                (node.ready, node.reason) = (false, "not made yet".into());
            }),
        ),
        (
            "namespaces",
            "twin",
            "shop-edge",
            with_peer(|p| {
                p.namespaces.push(Namespace {
                    home: "shop".into(),
                    twin: "shop-edge".into(),
                    here: true,
                    phase: "CreationLoopBackOff".into(),
                    ..Namespace::default()
                });
            }),
        ),
    ];
    for (hop, reason, words, facts) in &cases {
        let found = bad(facts);
        assert_eq!(found.iter().map(|f| (f.hop, f.reason)).collect::<Vec<_>>(), [(*hop, *reason)], "{words}");
        assert!(found[0].cause.contains(words), "{words}: {}", found[0].cause);
        assert!(!found[0].fix.is_empty(), "{words}");
    }
    let mut reasons: Vec<&str> = cases.iter().map(|(_, reason, ..)| *reason).collect();
    reasons.sort_unstable();
    reasons.dedup();
    assert!(reasons.len() >= 40, "{}", reasons.len());
}

#[test]
fn without_a_daemon_a_port_that_is_taken_is_told() {
    let found = bad(&with(|f| (f.daemon, f.state.locked) = (Daemon::Absent, false)));
    assert_eq!(found.iter().map(|f| f.reason).collect::<Vec<_>>(), ["port_taken", "daemon_absent"]);
    assert!(found[0].cause.contains("0.0.0.0:51820"));
}

#[test]
fn what_is_behind_a_broken_hop_is_not_judged() {
    let findings = judge(&with(|f| status(f).peers = vec![lost()]));
    let behind: Vec<&str> = findings.iter().filter(|f| f.reason == "behind").map(|f| f.hop).collect();
    assert_eq!(behind, ["tunnel", "control", "peer-api", "node", "namespaces"]);
}

#[test]
fn what_ends_by_itself_is_no_fault() {
    let leaving = with_peer(|p| (p.phase, p.reason) = ("leaving".into(), "it is being left".into()));
    let left = with(|f| {
        status(f).peers.clear();
        status(f).left.push(Former { id: "hub".into(), at: "2026-11-24T05:36:00Z".into(), told: true });
    });
    let old = with(|f| (f.api.version, f.api.missing) = (Some((1, 35)), vec!["MutatingAdmissionPolicy sluice-offload".into()]));
    for (facts, reason) in
        [(old, "kubernetes_old"), (leaving, "leaving"), (left, "unpeered"), (warned("host_repaired"), "host_repaired"), (warned("cleanup_owed"), "owed")]
    {
        assert_eq!(bad(&facts), [], "{reason}");
        assert!(judge(&facts).iter().any(|f| f.mark == Mark::Note && f.reason == reason), "{reason}");
    }
}

trait Tap: Sized {
    fn tap<T>(mut self, change: impl FnOnce(&mut Self) -> T) -> Self {
        change(&mut self);
        self
    }
}

impl Tap for Facts {}
impl Tap for Peer {}
