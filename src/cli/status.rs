//! `sluice status`: every peering as a tree, one idea a line; the same as JSON for machines.

use super::args::{Output, Status as Typed};
use super::protocol::{Amounts, Failure, Mapped, Namespace, Peer, Request, Status};
use super::socket::{ask, mismatch};
use super::terminal::{Terminal, age, clean, size};

pub(super) fn status(typed: Typed) -> Result<(), Failure> {
    let request = Request { peer: typed.id.clone(), ..Request::new("status") };
    let mut status = ask(&super::run::socket(typed.socket)?, &request, &mut |_| {})?.status.ok_or_else(mismatch)?;
    if let Some(id) = &typed.id {
        status.peers.retain(|p| p.id == *id);
        if status.peers.is_empty() {
            return Err(Failure::new("unknown-peer", format!("there is no peering with {}", clean(id)), "see all with: sluice status"));
        }
    }
    let out = Terminal::stdout();
    match typed.output {
        Output::Json => out.line(&miniserde::json::to_string(&status)),
        Output::Text => tree(&status, &out).iter().for_each(|line| out.line(line)),
    }
    Ok(())
}

/// The tree, line by line.
fn tree(status: &Status, out: &Terminal) -> Vec<String> {
    let kubernetes = status.kubernetes.as_deref().map_or("API server not reached".to_owned(), |v| format!("Kubernetes {}", clean(v)));
    let mut lines = vec![format!("{:<19} {kubernetes}, sluice {}, {}", status.id, status.version, size(status.memory))];
    for warning in &status.warnings {
        lines.push(format!("  {} {}", out.paint("33", "warning:"), clean(&warning.message)));
    }
    if status.peers.is_empty() {
        lines.push("  no peers yet".to_owned());
        lines.push("  Next: sluice invite, or on the side behind NAT: sluice join TICKET".to_owned());
    }
    for (at, peer) in status.peers.iter().enumerate() {
        let last = at + 1 == status.peers.len();
        lines.push(format!("{} {}", if last { "└─" } else { "├─" }, head(peer, out)));
        let mut branches = branches(peer, out);
        branches.extend(peer.warnings.iter().map(|w| ("warning", clean(&w.message))));
        for (at, (name, text)) in branches.iter().enumerate() {
            let mark = if at + 1 == branches.len() { "└─" } else { "├─" };
            let name = if at > 0 && branches[at - 1].0 == *name { "" } else { name };
            lines.push(format!("{}{mark} {name:<13} {text}", if last { "   " } else { "│  " }));
        }
    }
    if status.tickets > 0 {
        lines.push(format!("  {} not yet redeemed", if status.tickets == 1 { "1 ticket".to_owned() } else { format!("{} tickets", status.tickets) }));
    }
    lines
}

fn head(peer: &Peer, out: &Terminal) -> String {
    let role = match (peer.consumes, peer.provides) {
        (true, true) => "we consume and provide",
        (true, false) => "we consume",
        (false, true) => "we provide",
        (false, false) => "network only",
    };
    let phase = out.paint(if peer.phase == "connected" { "32" } else { "33" }, &clean(&peer.phase));
    let why = if peer.reason.is_empty() { String::new() } else { format!(" ({})", clean(&peer.reason)) };
    let rtt = peer.tunnel.rtt_ms.map_or(String::new(), |ms| format!("    {ms} ms"));
    format!("{:<16} {phase} {}{why}{rtt}    {}, {role}", clean(&peer.id), age(peer.since), peer.mode)
}

fn branches(peer: &Peer, out: &Terminal) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    let tunnel = &peer.tunnel;
    let endpoint = tunnel.endpoint.as_deref().unwrap_or("no endpoint known");
    let handshake = tunnel.handshake.map_or("no handshake yet".to_owned(), |s| format!("handshake {} ago", age(s)));
    let dropped = if tunnel.dropped == 0 { String::new() } else { format!(", {} dropped", tunnel.dropped) };
    all.push((
        "tunnel",
        format!("{endpoint} {}, mtu {}, {handshake}, {} in, {} out{dropped}", tunnel.reached, tunnel.mtu, size(tunnel.received), size(tunnel.sent)),
    ));
    all.push(("addresses", format!("{}; {}", prefixes("their pods", &peer.theirs), prefixes("ours as they see them", &peer.ours))));
    if let Some(node) = &peer.node {
        let state = if node.ready { out.paint("32", "Ready") } else { out.paint("31", &format!("not Ready ({})", clean(&node.reason))) };
        all.push(("virtual node", format!("{state}, {}, {}", amounts(&node.amounts), node.architecture)));
    }
    if let Some(lent) = &peer.lent {
        all.push(("lent", amounts(lent)));
    }
    if let Some(credential) = &peer.credential {
        all.push(("credential", format!("renews itself in {}, ends in {}", age(credential.renews), age(credential.ends))));
    }
    all.extend(peer.namespaces.iter().map(|ns| ("namespaces", namespace(ns))));
    all
}

fn prefixes(whose: &str, all: &[Mapped]) -> String {
    let each: Vec<String> = all.iter().map(|m| if m.original == m.image { m.original.clone() } else { format!("{} as {}", m.original, m.image) }).collect();
    match &each[..] {
        [] => format!("{whose} unknown"),
        [pods] => format!("{whose} {pods}"),
        [pods, others @ ..] => format!("{whose} {pods}, third clusters' {}", others.join(", ")),
    }
}

fn amounts(a: &Amounts) -> String {
    let tenth = |part: f64| format!("{part:.1}").trim_end_matches(".0").to_owned();
    let cpu = |milli: u64| tenth(milli as f64 / 1000.0);
    let memory = |bytes: u64| tenth(bytes as f64 / (1u64 << 30) as f64);
    // What pods use is counted where they run; the other side knows only what there is.
    let of = |used: Option<String>, all: String| used.map_or(all.clone(), |used| format!("{used} of {all}"));
    let (cpus, memories) = (of(a.cpu_used.map(cpu), cpu(a.cpu)), of(a.memory_used.map(memory), memory(a.memory)));
    format!("{} of {} pods, {cpus} cpu, {memories}Gi", a.pods_used, a.pods)
}

fn namespace(ns: &Namespace) -> String {
    let (home, twin) = (clean(&ns.home), clean(&ns.twin));
    let phase = if ns.phase.is_empty() || ns.phase == "Accepted" { String::new() } else { format!(", {}", clean(&ns.phase)) };
    match ns.here {
        true => format!("{home} -> {twin} ({}, {} pods there{phase})", clean(&ns.strategy), ns.pods),
        false => format!("{twin} <- {home} ({} pods here{phase})", ns.pods),
    }
}

#[cfg(test)]
mod tests {
    use super::super::protocol::{Credential, Node, Tunnel};
    use super::*;

    #[test]
    fn a_tree_says_one_idea_a_line() {
        let status = Status {
            id: "shop-17-9be2d410".into(),
            version: "0.1.0".into(),
            kubernetes: Some("v1.35.4".into()),
            memory: 5_347_737,
            peers: vec![Peer {
                id: "hub-4f1c09aa".into(),
                phase: "connected".into(),
                since: 273_600,
                mode: "in-band".into(),
                consumes: true,
                tunnel: Tunnel {
                    endpoint: Some("203.0.113.10:51820".into()),
                    reached: "direct".into(),
                    rtt_ms: Some(38),
                    mtu: 1420,
                    handshake: Some(74),
                    received: 1_288_490_188,
                    sent: 310 << 20,
                    dropped: 0,
                    ..Tunnel::default()
                },
                theirs: vec![Mapped { original: "10.42.0.0/16".into(), image: "10.71.0.0/16".into() }],
                ours: vec![Mapped { original: "10.42.0.0/16".into(), image: "10.72.0.0/16".into() }],
                credential: Some(Credential { renews: 1_440, ends: 2_640 }),
                node: Some(Node {
                    ready: true,
                    architecture: "amd64".into(),
                    amounts: Amounts { cpu_used: Some(300), cpu: 4_000, memory_used: Some(429_496_730), memory: 8 << 30, pods_used: 3, pods: 110 },
                    ..Node::default()
                }),
                namespaces: vec![Namespace {
                    home: "shop".into(),
                    twin: "shop-shop-17-9be2d410".into(),
                    here: true,
                    strategy: "LocalAndRemote".into(),
                    phase: "Accepted".into(),
                    pods: 3,
                }],
                ..Peer::default()
            }],
            ..Status::default()
        };
        let expected = "\
shop-17-9be2d410    Kubernetes v1.35.4, sluice 0.1.0, 5.1 MiB
└─ hub-4f1c09aa     connected 3 d 4 h    38 ms    in-band, we consume
   ├─ tunnel        203.0.113.10:51820 direct, mtu 1420, handshake 74 s ago, 1.2 GiB in, 310 MiB out
   ├─ addresses     their pods 10.42.0.0/16 as 10.71.0.0/16; ours as they see them 10.42.0.0/16 as 10.72.0.0/16
   ├─ virtual node  Ready, 3 of 110 pods, 0.3 of 4 cpu, 0.4 of 8Gi, amd64
   ├─ credential    renews itself in 24 min, ends in 44 min
   └─ namespaces    shop -> shop-shop-17-9be2d410 (LocalAndRemote, 3 pods there)";
        assert_eq!(tree(&status, &Terminal::stdout()).join("\n"), expected);
    }

    #[test]
    fn without_peers_the_next_step_is_said() {
        let text = tree(&Status::default(), &Terminal::stdout()).join("\n");
        assert!(text.contains("no peers yet") && text.contains("sluice invite"));
    }
}
