//! Facts in, findings out: one line a hop in the order in which traffic passes them, and for each fault its cause and what to do. Pure.
//!
//! A hop behind a broken one is not judged: what is wrong there would only be the same fault again.

use std::net::IpAddr;

use super::facts::{Daemon, Facts, Place};
use crate::budget::PACKET_SAFE;
use crate::cli::protocol::{Peer, Status};
use crate::shell::inspect::Table;

/// The smallest path MTU that is nothing out of the ordinary, in bytes: Ethernet less one tunnel more on the way.
const USUAL: u32 = 1360;
const LEAST: u32 = PACKET_SAFE as u32;

/// How a hop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// It works.
    Good,
    /// Worth knowing, and no fault; or it cannot be told.
    Note,
    /// It does not work.
    Bad,
}

/// One line of the diagnosis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// The peer it is about; empty for this cluster's own side.
    pub(super) peer: String,
    pub(super) hop: &'static str,
    pub(super) mark: Mark,
    /// One word for machines.
    pub(super) reason: &'static str,
    /// What was found.
    pub(super) cause: String,
    /// What to do; empty if nothing.
    pub(super) fix: String,
}

/// The oldest minor version of Kubernetes 1 that has all we need without a switch.
const MINOR: u32 = 36;
/// Clocks further apart than this are odd, in seconds.
const ODD: u64 = 60;
/// With less room than this the state cannot be counted on to be written, in bytes.
const ROOM: u64 = 1 << 20;
/// Connection tracking is as good as full from here on, in percent.
const TRACKED: u64 = 95;

struct Hop<'a> {
    out: &'a mut Vec<Finding>,
    peer: String,
    hop: &'static str,
    told: bool,
}

impl Hop<'_> {
    fn say(&mut self, mark: Mark, reason: &'static str, cause: impl Into<String>, fix: impl Into<String>) {
        self.told = true;
        self.out.push(Finding { peer: self.peer.clone(), hop: self.hop, mark, reason, cause: cause.into(), fix: fix.into() });
    }

    fn bad(&mut self, reason: &'static str, cause: impl Into<String>, fix: impl Into<String>) {
        self.say(Mark::Bad, reason, cause, fix);
    }

    fn note(&mut self, reason: &'static str, cause: impl Into<String>, fix: impl Into<String>) {
        self.say(Mark::Note, reason, cause, fix);
    }

    /// If nothing was wrong with it.
    fn else_good(&mut self, cause: impl Into<String>) {
        if !self.told {
            self.say(Mark::Good, "", cause, "");
        }
    }

    fn is_bad(&self) -> bool {
        self.out.iter().any(|f| f.mark == Mark::Bad && f.hop == self.hop && f.peer == self.peer)
    }
}

/// The whole diagnosis.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut out = Vec::new();
    let mut hop = |hop, judged: &dyn Fn(&mut Hop<'_>)| judged(&mut Hop { out: &mut out, peer: String::new(), hop, told: false });
    hop("host", &|h| host(h, facts));
    hop("state", &|h| state(h, facts));
    hop("api-server", &|h| api(h, facts));
    hop("daemon", &|h| daemon(h, facts));
    hop("rules", &|h| rules(h, facts));
    if let Daemon::Answers(status) = &facts.daemon {
        for peer in &status.peers {
            judge_peer(&mut out, facts, peer);
        }
        former(&mut out, status);
    }
    out
}

fn host(h: &mut Hop<'_>, facts: &Facts) {
    let (host, set) = (&facts.host, &facts.settings);
    if !host.root {
        h.bad("not_root", "this command does not run as root, so much cannot be seen", "run it again with sudo");
    }
    if let Some(why) = &host.tun {
        h.bad("no_tun", format!("/dev/net/tun cannot be opened: {why}"), "load the module: modprobe tun; in a container, give it the device /dev/net/tun");
    }
    if let Table::Lacking(why) = &host.table {
        h.bad("no_nftables", format!("the kernel's packet rules cannot be had: {why}"), "modprobe nft_chain_nat nft_ct; in a container, give it CAP_NET_ADMIN");
    }
    if host.forwards == Some(false) {
        h.bad("forwarding_off", "net.ipv4.ip_forward is 0: pods reach no peer", "sysctl -w net.ipv4.ip_forward=1, and in /etc/sysctl.d to keep it");
    }
    if let Some((used, most)) = host.conntrack.filter(|(used, most)| used * 100 >= most * TRACKED) {
        h.bad(
            "conntrack_full",
            format!("{used} of {most} connections are tracked: new ones are dropped"),
            "raise net.netfilter.nf_conntrack_max, and look who opens so many: conntrack -L",
        );
    }
    if host.strict {
        h.bad(
            "rp_filter",
            format!("strict reverse path filtering drops what comes out of {}", set.interface),
            format!("sysctl -w net.ipv4.conf.{}.rp_filter=2", set.interface),
        );
    }
    for (key, prefix) in [("pods", set.pods), ("services", set.services), ("external", set.external)] {
        // The CNI's own bridge lies inside the pods' prefix; what is as wide or wider is somebody else's.
        let clash = |used: &&crate::identity::Prefix| used.overlaps(prefix) && (key != "pods" || used.length() <= prefix.length());
        if let Some(used) = host.in_use.iter().find(clash) {
            let fix = if key == "external" {
                "set external to a free /16 in the configuration, and restart the daemon"
            } else {
                "give that network, or the cluster, another prefix"
            };
            h.bad("prefix_clash", format!("{key} {prefix} overlaps {used}, which this host uses for something else (ip addr; ip route)"), fix);
        }
    }
    if host.port_taken && matches!(facts.daemon, Daemon::Absent) {
        h.bad(
            "port_taken",
            format!("UDP port 0.0.0.0:{} is taken by another program", set.port),
            format!("ss -ulpn 'sport = {}' names it: end it, or set another port in the configuration", set.port),
        );
    }
    h.else_good(format!("TUN, packet rules and forwarding are there; UDP port {}", set.port));
}

fn state(h: &mut Hop<'_>, facts: &Facts) {
    let state = &facts.state;
    match state.space {
        Some((_, true)) => {
            h.bad("state_read_only", format!("the file system of {} is read-only", state.directory), "mount it for writing, or move the state with --state")
        }
        Some((free, _)) if free < ROOM => {
            h.bad(
                "state_disk_full",
                format!("the file system of {} has {} KiB free", state.directory, free >> 10),
                "make room on it; what was not saved is saved by itself then",
            );
        }
        _ => {}
    }
    if let Some(why) = &state.problem {
        // The message says what to do.
        h.bad("state_unusable", why.clone(), "nothing is changed until that is done; the peerings are in that file");
    } else if !state.exists && !h.is_bad() {
        h.note(
            "state_new",
            format!("{} holds no state yet: this cluster has no ID and no key", state.directory),
            "they are made when the daemon first runs: sluice run",
        );
    }
    h.else_good(format!("{}/state.json is whole", state.directory));
}

fn api(h: &mut Hop<'_>, facts: &Facts) {
    let (api, set) = (&facts.api, &facts.settings);
    if let Some(why) = &api.kubeconfig {
        return h.bad(
            "kubeconfig",
            why.clone(),
            format!("name the administrator's kubeconfig: kubeconfig = PATH in the configuration (now {})", set.kubeconfig),
        );
    }
    if let Some(why) = &api.silent {
        return h.bad(
            "api_unreachable",
            format!("{} does not answer: {why}", api.server),
            "start Kubernetes (systemctl status k3s), or correct the kubeconfig's server",
        );
    }
    if let Some(why) = &api.refused {
        return h.bad(
            "api_refuses",
            format!("{} does not accept the kubeconfig {}: {why}", api.server, set.kubeconfig),
            "its certificate or token may be over: make a new kubeconfig",
        );
    }
    // Before Kubernetes 1.36 that kind is behind a switch, and a cluster that only lends does not need it.
    let old = api.version.filter(|v| *v < (1, MINOR));
    let optional = |object: &&String| old.is_some() && object.starts_with("MutatingAdmissionPolicy");
    if let Some((major, minor)) = old.filter(|_| api.missing.iter().any(|object| optional(&object))) {
        h.note(
            "kubernetes_old",
            format!("{} is Kubernetes {major}.{minor} without MutatingAdmissionPolicy: it can lend, but no namespace can be offloaded from here", api.server),
            format!("update to 1.{MINOR}, or start the API server with --feature-gates=MutatingAdmissionPolicy=true --runtime-config=admissionregistration.k8s.io/v1beta1=true"),
        );
    }
    if let Some(ahead) = api.clock_ahead.filter(|s| s.unsigned_abs() > ODD) {
        h.bad("clock_api", format!("the clock of {} is {} ours", api.server, apart(ahead)), "set this machine's clock: timedatectl set-ntp true (now: date)");
    }
    for node in api.nodes.iter().flatten() {
        if !node.ready {
            h.bad("node_not_ready", format!("node {} is not Ready", node.name), format!("kubectl describe node {}", node.name));
        }
        let fits = |cidr: &String| cidr.parse::<crate::identity::Prefix>().is_ok_and(|p| set.pods.contains(p.address()) && p.length() >= set.pods.length());
        if let Some(cidr) = node.pods.as_ref().filter(|cidr| !fits(cidr)) {
            h.bad(
                "pod_prefix",
                format!("node {} has the pod prefix {cidr}, the configuration says pods = {}", node.name, set.pods),
                "set pods in the configuration to the cluster's own (K3s: --cluster-cidr), and restart the daemon",
            );
        }
    }
    if let Some(nodes) = api.nodes.as_ref().filter(|n| n.len() > 1) {
        let names: Vec<&str> = nodes.iter().take(4).map(|n| n.name.as_str()).collect();
        h.bad(
            "several_nodes",
            format!("the cluster has {} nodes ({}); sluice serves clusters of one", nodes.len(), names.join(", ")),
            "pods on the other nodes have no route to a peer: remove those nodes, or use a cluster of one",
        );
    }
    if let Some(first) = api.foreign.first() {
        h.bad(
            "object_foreign",
            format!("{first} exists and was not made by sluice"),
            "a running Liqo has it, or somebody else: remove it, the daemon does not start beside it",
        );
    }
    let missing: Vec<&String> = api.missing.iter().filter(|object| !optional(object)).collect();
    if let Some(first) = missing.first() {
        let more = if missing.len() > 1 { format!(" (and {} more)", missing.len() - 1) } else { String::new() };
        h.bad("object_missing", format!("{first} is missing at {}{more}", api.server), "restart the daemon: it applies what is missing at its start");
    }
    if !api.whole {
        h.note("api_slow", format!("{} did not answer everything in time", api.server), "run this again when it is less busy");
    }
    let version = api.version.map_or(String::new(), |(major, minor)| format!(", Kubernetes {major}.{minor}"));
    h.else_good(format!("{}{version}, all objects of sluice are there", api.server));
}

fn daemon(h: &mut Hop<'_>, facts: &Facts) {
    let set = &facts.settings;
    if let Some(why) = &facts.configuration {
        h.bad("configuration", why.clone(), "correct that line; the daemon does not start before");
    }
    let status = match &facts.daemon {
        Daemon::Absent if facts.state.locked => {
            return h.bad(
                "daemon_elsewhere",
                format!("a daemon holds {}, but not at the socket {}", set.state, set.socket),
                "name its socket: sluice doctor --socket PATH",
            );
        }
        Daemon::Absent => {
            return h.bad(
                "daemon_absent",
                format!("no daemon runs at {}", set.socket),
                "start it: sluice run (or: systemctl start sluice); its log says what stops it",
            );
        }
        Daemon::Forbidden => return h.bad("daemon_forbidden", format!("only root may ask the daemon at {}", set.socket), "run it again with sudo"),
        Daemon::Mute(why) => {
            return h.bad(
                "daemon_mute",
                format!("the daemon at {} does not answer as it should: {why}", set.socket),
                "restart it: running pods and connections of the cluster are not touched by that",
            );
        }
        Daemon::Answers(status) => status,
    };
    if status.version != facts.version {
        h.bad(
            "daemon_version",
            format!("the daemon is sluice {}, this command is {}", status.version, facts.version),
            "restart the daemon, so that both are the same",
        );
    }
    for warning in &status.warnings {
        let fix = match warning.reason.as_str() {
            // These are other hops', judged by what was seen there.
            "host_network" | "host_repaired" | "forwarding_off" | "state_disk_full" | "state_read_only" | "clock_odd" => continue,
            "api_unreachable" | "api_credential" if facts.api.silent.is_some() || facts.api.refused.is_some() => continue,
            "api_unreachable" => "it is tried again for ever; the hop api-server above says what this command found",
            "api_credential" | "token" => "restart the daemon if it lasts: it makes a new token at its start",
            "state_not_saved" => "make room, or make the state directory writable; it is tried again by itself",
            "rows_full" => "offload fewer objects: what is over the limit waits",
            "peers_untold" | "cleanup_owed" => {
                h.note("owed", warning.message.clone(), "");
                continue;
            }
            _ => "",
        };
        h.bad("daemon_warning", warning.message.clone(), fix);
    }
    h.else_good(format!("sluice {}, cluster {}", status.version, status.id));
}

fn rules(h: &mut Hop<'_>, facts: &Facts) {
    let (host, set) = (&facts.host, &facts.settings);
    if let Table::Foreign = host.table {
        h.bad("table_foreign", "there is a table ip sluice that was not made by sluice", "look at it (nft list table ip sluice) and rename or delete it");
    }
    if host.flannel == Some(false) {
        h.bad(
            "flannel_missing",
            "flannel runs, but its own masquerade rules (chain FLANNEL-POSTRTG) are gone",
            "restart K3s, or flannel: it writes them at its start",
        );
    }
    let Daemon::Answers(status) = &facts.daemon else {
        return if h.told {
        } else {
            h.note("rules_unknown", "they stand only while the daemon runs", "")
        };
    };
    if let Table::Missing = host.table {
        h.bad(
            "table_missing",
            "the table ip sluice is gone: packets to peers would be masqueraded by the CNI, and guarded addresses are open",
            "the daemon puts it back within a second; if it does not last, somebody flushes it: stop that",
        );
    }
    match host.link {
        None => h.bad(
            "device_missing",
            format!("the device {} is gone", set.interface),
            "the daemon makes it again, or ends and is started again; if neither happens, restart it",
        ),
        Some(false) => h.bad(
            "device_down",
            format!("the device {} is down", set.interface),
            format!("ip link set {} up; the daemon does so within a second", set.interface),
        ),
        Some(true) => {}
    }
    for warning in &status.warnings {
        match warning.reason.as_str() {
            "host_network" => h.bad("host_network", warning.message.clone(), "the message says what is in the way; it is tried again every second"),
            "host_repaired" => h.note("host_repaired", warning.message.clone(), "find who removes them: a firewall that is loaded anew, or a CNI"),
            _ => {}
        }
    }
    h.else_good(format!("table ip sluice and device {} are as they should be", set.interface));
}

/// The place and its addresses, for a message.
fn shown(places: &[&Place]) -> String {
    let one = |place: &&Place| match &place.addresses {
        Ok(addresses) if addresses.iter().all(|a| a.to_string() == place.text) => place.text.clone(),
        Ok(addresses) => format!("{} ({})", place.text, addresses.iter().take(3).map(|a| a.ip().to_string()).collect::<Vec<_>>().join(", ")),
        Err(_) => place.text.clone(),
    };
    places.iter().take(4).map(one).collect::<Vec<_>>().join(", ")
}

fn is_private(place: &Place) -> bool {
    let private = |a: &std::net::SocketAddr| match a.ip() {
        IpAddr::V4(a) => a.is_private() || a.is_link_local() || a.is_loopback(),
        IpAddr::V6(a) => a.is_loopback() || a.segments()[0] & 0xfe00 == 0xfc00 || a.segments()[0] & 0xffc0 == 0xfe80,
    };
    place.addresses.as_ref().is_ok_and(|all| !all.is_empty() && all.iter().all(private))
}

/// Seconds in words; a negative number is behind.
fn apart(seconds: i64) -> String {
    let n = crate::cli::terminal::age(seconds.unsigned_abs());
    if seconds < 0 { format!("{n} behind") } else { format!("{n} ahead of") }
}

/// Judges one hop of a peering.
type Judge = fn(&mut Hop<'_>, &Facts, &Peer);

fn judge_peer(out: &mut Vec<Finding>, facts: &Facts, peer: &Peer) {
    let name = if peer.id.is_empty() { "(joining)".to_owned() } else { peer.id.clone() };
    let mut broken = false;
    let hops: [(&'static str, Judge); 6] =
        [("underlay", underlay), ("tunnel", tunnel), ("control", control), ("peer-api", peer_api), ("node", node), ("namespaces", namespaces)];
    for (hop, judged) in hops {
        let mut h = Hop { out: &mut *out, peer: name.clone(), hop, told: false };
        if broken {
            h.note("behind", "not looked at: a hop before it is broken", "");
            continue;
        }
        judged(&mut h, facts, peer);
        broken = h.is_bad() && matches!(hop, "underlay" | "control") || peer.phase == "leaving" || peer.phase == "joining" && hop == "control";
        if peer.phase == "leaving" || peer.phase == "joining" && hop == "control" {
            break;
        }
    }
}

fn underlay(h: &mut Hop<'_>, facts: &Facts, peer: &Peer) {
    let (tunnel, connected) = (&peer.tunnel, peer.phase == "connected");
    if peer.phase == "leaving" {
        return h.note("leaving", peer.reason.clone(), "it finishes by itself; sluice status shows when");
    }
    let places: Vec<&Place> = facts.places.iter().filter(|p| tunnel.candidates.contains(&p.text)).collect();
    let heard = tunnel.heard.is_some();
    let up = connected || peer.phase == "joining" && heard;
    for place in &places {
        if let Err(why) = &place.addresses {
            let (cause, fix) = (
                format!("{} does not resolve: {why}", place.text),
                "correct DNS or /etc/hosts here, or join anew with a ticket that names an address: sluice invite --endpoint ADDRESS:PORT there",
            );
            if up { h.note("name", cause, fix) } else { h.bad("name", cause, fix) }
        }
    }
    if up {
        let rtt = tunnel.rtt_ms.map_or(String::new(), |ms| format!(", {ms} ms"));
        return h.else_good(format!("{}{rtt}", tunnel.endpoint.as_deref().unwrap_or("heard")));
    }
    let good: Vec<&Place> = places.iter().copied().filter(|p| p.addresses.is_ok()).collect();
    if let Some((place, why)) = good.iter().find_map(|p| Some((p, p.unrouted.as_ref()?))).filter(|_| good.iter().all(|p| p.unrouted.is_some())) {
        return h.bad(
            "no_route",
            format!("this host has no way to {}: {why}", place.text),
            "look at this host's uplink and default route: ip route get ADDRESS",
        );
    }
    let last = tunnel.endpoint.as_deref().unwrap_or("an unknown address");
    match (heard, tunnel.candidates.is_empty()) {
        (true, _) => {
            let ago = crate::cli::terminal::age(tunnel.heard.unwrap_or_default());
            h.bad(
                "peer_away",
                format!("nothing was heard from {last} for {ago}; it was there before"),
                "its link, its power or its daemon is down, or a firewall on the way changed: run sluice doctor there",
            );
        }
        (false, true) => h.bad(
            "never_called",
            format!("it calls us and has not since the daemon began (last from {last}): nothing comes in on UDP port {}", facts.settings.port),
            format!("run sluice doctor there; here UDP port {} must be open to the outside", facts.settings.port),
        ),
        (false, false) if !good.is_empty() && good.iter().all(|p| is_private(p)) => h.bad(
            "private_endpoint",
            format!("no answer to any datagram from {}: a private address, reached from its own site only", shown(&good)),
            "make the ticket with a public one: sluice invite --endpoint HOST:PORT there, and join anew",
        ),
        (false, false) if !good.is_empty() => h.bad(
            "udp_blocked",
            format!("no answer to any datagram from {}", shown(&good)),
            "UDP to that port is blocked on the way, or no daemon listens there: open it in the firewall and router of that site, and let UDP out of this one",
        ),
        // The name that does not resolve has been told.
        (false, false) => {}
    }
}

fn tunnel(h: &mut Hop<'_>, _: &Facts, peer: &Peer) {
    let tunnel = &peer.tunnel;
    let to = tunnel.endpoint.as_deref().unwrap_or("the peer");
    match tunnel.mtu {
        1..LEAST => h.bad(
            "mtu_hole",
            format!("packets of more than {} bytes do not get through to {to} in one piece", tunnel.mtu),
            format!(
                "something on the way carries datagrams of {} bytes at the most, fewer than any link should: let 1280 pass there, or better 1500",
                tunnel.mtu + 60
            ),
        ),
        LEAST..USUAL => h.note(
            "narrow_path",
            format!("packets of more than {} bytes do not get through to {to} in one piece; the tunnel keeps to that", tunnel.mtu),
            "nothing has to be done; it is a little faster where larger datagrams pass",
        ),
        _ => {}
    }
    if tunnel.handshake.is_none() && peer.phase == "connected" {
        h.bad("no_session", format!("there is no session with {to}"), "it is begun anew by itself within seconds; if not, restart the daemon on both sides");
    }
    h.else_good(format!("handshake {} ago, packets of {} bytes pass", tunnel.handshake.map_or("a moment".to_owned(), crate::cli::terminal::age), tunnel.mtu));
}

fn control(h: &mut Hop<'_>, _: &Facts, peer: &Peer) {
    let at = &peer.tunnel.control;
    if peer.trouble.contains("protocol version") {
        return h.bad("version", format!("{at}: {}", peer.trouble), "update the older sluice, and restart its daemon");
    }
    if peer.phase == "joining" {
        return match peer.trouble.is_empty() {
            true => h.note("joining", peer.reason.clone(), "it goes on by itself"),
            false => h.bad(
                "join",
                format!("{at}: the enrolment does not get on: {}", peer.trouble),
                "if the ticket is used or expired, make a new one there: sluice invite",
            ),
        };
    }
    if !peer.linked {
        let why = if peer.trouble.is_empty() { "no answer yet".to_owned() } else { peer.trouble.clone() };
        h.bad(
            "control_silent",
            format!("the peer's control end {at} does not answer: {why}"),
            "its daemon hangs or a firewall there drops what comes out of its device sluice0: run sluice doctor there",
        );
    }
    if let Some(ahead) = peer.clock_ahead.filter(|s| s.unsigned_abs() > ODD) {
        h.bad("clock_peer", format!("its clock is {} ours", apart(ahead)), "set the one that is wrong: timedatectl set-ntp true (now: date, on both)");
    }
    h.else_good(format!("{at} answers, clocks agree"));
}

fn peer_api(h: &mut Hop<'_>, _: &Facts, peer: &Peer) {
    if !peer.consumes {
        return h.else_good("not used: we only lend");
    }
    let at = &peer.tunnel.control;
    let server = peer.api.clone().unwrap_or_default();
    if server.refused {
        h.bad(
            "credential_refused",
            format!("its API server, behind {at}, does not accept our credential"),
            "a new one is asked for every few seconds; if that lasts, its daemon cannot make one: run sluice doctor there",
        );
    } else if peer.credential.is_none() {
        let why = if peer.trouble.is_empty() { String::new() } else { format!(": {}", peer.trouble) };
        h.bad(
            "credential_missing",
            format!("there is no credential for its API server, or it has expired{why}"),
            "its daemon makes one as soon as its API server lets it: run sluice doctor there",
        );
    } else if !server.up {
        let (cause, fix) = if server.reason.contains("502") {
            (format!("its API server does not answer its own daemon (passage {at})"), "start Kubernetes there (systemctl status k3s)")
        } else {
            (format!("its API server, behind {at}, does not answer: {}", server.reason), "run sluice doctor there")
        };
        h.bad("peer_api_down", cause, fix);
    }
    h.else_good(format!("reached through {at}"));
}

fn node(h: &mut Hop<'_>, _: &Facts, peer: &Peer) {
    match &peer.node {
        None => h.else_good("none: it lends us nothing"),
        Some(node) if node.ready => h.else_good(format!("{} is Ready, {} of {} pods", node.name, node.amounts.pods_used, node.amounts.pods)),
        Some(node) => h.bad(
            "virtual_node",
            format!("the virtual node {} is not Ready: {}", node.name, node.reason),
            format!("kubectl describe node {}; the hops above say what it waits for, the daemon's log says if the name is taken", node.name),
        ),
    }
}

fn namespaces(h: &mut Hop<'_>, _: &Facts, peer: &Peer) {
    for ns in peer.namespaces.iter().filter(|ns| ns.phase == "CreationLoopBackOff") {
        h.bad(
            "twin",
            format!("the twin {} of namespace {} cannot be made at {}", ns.twin, ns.home, if ns.here { "the provider" } else { "this cluster" }),
            format!("kubectl -n {} describe namespaceoffloading offloading", ns.home),
        );
    }
    h.else_good(match peer.namespaces.len() {
        0 => "none is offloaded".to_owned(),
        n => format!("{n} offloaded"),
    });
}

fn former(out: &mut Vec<Finding>, status: &Status) {
    for left in status.left.iter().filter(|l| !status.peers.iter().any(|p| p.id == l.id)) {
        let mut h = Hop { out: &mut *out, peer: left.id.clone(), hop: "peering", told: false };
        let told = if left.told { "both sides know" } else { "it will be told when it is back" };
        h.note("unpeered", format!("ended at {}; {told}", left.at), "to peer again: sluice invite on one side, sluice join TICKET on the other");
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
