//! Three gateways: two peers of one hub, whose kernel forwards between them from its node end. A child of the gateway's tests.
//!
//! Every packet compared is built whole, with checksums summed up from nothing, so what was corrected step by step is checked against it.

use super::*;

/// Rows of the hub: who asks, and the third cluster.
const ASKS: PeerId = PeerId(0);
const THIRD: PeerId = PeerId(1);
/// A pod of each, all at the same address in their own clusters but for the host bits.
const ASKING: [u8; 4] = [10, 42, 0, 9];
const ANSWERING: [u8; 4] = [10, 42, 0, 7];
/// As the hub sees them.
const ASKING_HERE: [u8; 4] = [10, 71, 0, 9];
const ANSWERING_HERE: [u8; 4] = [10, 73, 0, 7];
/// As the hub tells the asking cluster of the answering pod, and as that sees it.
const TOLD: [u8; 4] = [10, 70, 130, 7];
const TOLD_THERE: [u8; 4] = [10, 72, 2, 7];

fn row(id: u8, end: End, remote: &[(&str, &str)]) -> Addresses {
    let (control, node) = ([10, 70, 1, id + 1].into(), [10, 70, 2, id + 1].into());
    let remote = remote.iter().map(|(original, image)| (prefix(original), prefix(image))).collect();
    Addresses { end, control: Some((OWN_CONTROL.into(), control)), node: Some((OWN_NODE.into(), node)), remote }
}

/// The hub, who asks and the third cluster; linked, and the one pod told.
fn three(now: Now) -> [Host; 3] {
    let mut hub = Host::new(1, "192.0.2.1:51820", now, WallTime(0));
    let mut asks = Host::new(2, "198.51.100.7:40000", now, WallTime(0));
    let mut third = Host::new(3, "198.51.100.8:40000", now, WallTime(0));
    hub.add(spec(0, public_key(&secret(2)), &[], row(0, End::Inviter, &[("10.42.0.0/16", "10.71.0.0/16"), ("10.70.128.0/17", "10.72.0.0/17")])), now);
    hub.add(spec(1, public_key(&secret(3)), &[], row(1, End::Inviter, &[("10.42.0.0/16", "10.73.0.0/16"), ("10.70.128.0/17", "10.72.128.0/17")])), now);
    for host in [&mut asks, &mut third] {
        let addresses = row(0, End::Joiner, &[("10.42.0.0/16", "10.71.0.0/16"), ("10.70.128.0/17", "10.72.0.0/17")]);
        host.add(spec(0, public_key(&secret(1)), &[hub.address], addresses), now);
    }
    carry(&mut [&mut hub, &mut asks, &mut third], now);
    hub.gateway.set_transit(ASKS, &[(TOLD.into(), ANSWERING_HERE.into())]).expect("room");
    [hub, asks, third]
}

fn go(hosts: &mut [Host; 3], now: Now) {
    let [a, b, c] = hosts;
    carry(&mut [a, b, c], now);
}

fn unreachable(from: [u8; 4], to: [u8; 4], quoted: &[u8]) -> Vec<u8> {
    let mut error = packet(ICMP, from, to, (0, 0), quoted);
    (error[20], error[21]) = (3, 3);
    (error[22], error[23]) = (0, 0);
    let check = checksum(sum(&error[20..]));
    error[22..24].copy_from_slice(&check);
    error
}

#[test]
fn a_pod_of_a_third_cluster_answers_through_the_hub_and_sees_only_the_hub() {
    let now = start();
    let mut all = three(now);
    for protocol in [UDP, TCP, ICMP] {
        let ports = (4000, 80);
        let make = |from, to, (a, b), text: &[u8]| packet(protocol, from, to, (a, b), text);
        // There: into the hub's kernel and, from its node end, out of it again.
        all[1].send(&make(ASKING, TOLD_THERE, ports, b"question"), now);
        go(&mut all, now);
        assert_eq!(all[0].tun.pop(), Some(make(ASKING_HERE, ANSWERING_HERE, ports, b"question")));
        all[0].send(&make(OWN_NODE, ANSWERING_HERE, ports, b"question"), now);
        go(&mut all, now);
        assert_eq!(all[2].tun.pop(), Some(make(PEER_NODE, ANSWERING, ports, b"question")));
        // And back.
        let ports = (80, 4000);
        all[2].send(&make(ANSWERING, PEER_NODE, ports, b"answer"), now);
        go(&mut all, now);
        assert_eq!(all[0].tun.pop(), Some(make(ANSWERING_HERE, OWN_NODE, ports, b"answer")));
        all[0].send(&make(ANSWERING_HERE, ASKING_HERE, ports, b"answer"), now);
        go(&mut all, now);
        assert_eq!(all[1].tun.pop(), Some(make(TOLD_THERE, ASKING, ports, b"answer")));
    }
    assert!(all.iter().all(|host| host.tun.is_empty()));
}

#[test]
fn errors_find_the_way_back_with_what_they_quote() {
    let now = start();
    let mut all = three(now);
    let question = |from, to| udp(from, to, b"question");
    // Nobody listens at the third cluster's pod.
    all[2].send(&unreachable(ANSWERING, PEER_NODE, &question(PEER_NODE, ANSWERING)), now);
    go(&mut all, now);
    assert_eq!(all[0].tun.pop(), Some(unreachable(ANSWERING_HERE, OWN_NODE, &question(OWN_NODE, ANSWERING_HERE))));
    all[0].send(&unreachable(ANSWERING_HERE, ASKING_HERE, &question(ASKING_HERE, ANSWERING_HERE)), now);
    go(&mut all, now);
    assert_eq!(all[1].tun.pop(), Some(unreachable(TOLD_THERE, ASKING, &question(ASKING, TOLD_THERE))));
    // The hub itself cannot pass it on.
    all[0].send(&unreachable(OWN_NODE, ASKING_HERE, &question(ASKING_HERE, ANSWERING_HERE)), now);
    go(&mut all, now);
    assert_eq!(all[1].tun.pop(), Some(unreachable(PEER_NODE, ASKING, &question(ASKING, TOLD_THERE))));
    // Who asked has gone before the answer came.
    let answer = |from, to| packet(UDP, from, to, (53, 4000), b"answer");
    all[1].send(&unreachable(ASKING, TOLD_THERE, &answer(TOLD_THERE, ASKING)), now);
    go(&mut all, now);
    assert_eq!(all[0].tun.pop(), Some(unreachable(ASKING_HERE, ANSWERING_HERE, &answer(ANSWERING_HERE, ASKING_HERE))));
    all[0].send(&unreachable(OWN_NODE, ANSWERING_HERE, &answer(ANSWERING_HERE, OWN_NODE)), now);
    go(&mut all, now);
    assert_eq!(all[2].tun.pop(), Some(unreachable(PEER_NODE, ANSWERING, &answer(ANSWERING, PEER_NODE))));
}

#[test]
fn nothing_else_of_a_third_cluster_is_reached() {
    let now = start();
    let mut all = three(now);
    // An attacker obeys none of its own rules: to it everything is its own, and nothing is mapped.
    all[1].gateway.set_local(&[prefix("0.0.0.0/0")], &[]).expect("room");
    assert!(all[1].gateway.remove_peer(PEER));
    let hub = all[0].address;
    all[1].add(spec(0, public_key(&secret(1)), &[hub], plain(&["0.0.0.0/0"])), now);
    go(&mut all, now);
    let beside = [10, 70, 130, 8];
    for (packet, reason) in [
        // Another pod of it, by a place that was not told; the very pod, by the hub's image of it; its ends on the hub.
        (udp(ASKING, beside, b""), Reason::DestinationForeign),
        (udp(ASKING, [10, 70, 128, 7], b""), Reason::DestinationForeign),
        (udp(ASKING, ANSWERING_HERE, b""), Reason::DestinationForeign),
        (udp(ASKING, [10, 70, 2, 2], b""), Reason::DestinationForeign),
        (udp(ASKING, [10, 70, 1, 2], b""), Reason::DestinationForeign),
        // In the third cluster's name.
        (udp(ANSWERING_HERE, ANSWERING, b""), Reason::SourceNotPeers),
        (udp(TOLD, ANSWERING, b""), Reason::DestinationForeign),
        (unreachable(ASKING, TOLD, &udp(beside, ASKING, b"")), Reason::ForeignQuote),
    ] {
        let before = all[0].gateway.drops().count(reason);
        assert!(matches!(all[1].send(&packet, now), Verdict::ToPeer { .. }), "{reason:?}");
        go(&mut all, now);
        let dropped = all[0].gateway.drops().count(reason) - before;
        // Its claimed range is its own: what it sends from there reaches our pods, and nobody else's.
        let ours = packet == udp(TOLD, ANSWERING, b"");
        assert_eq!((dropped, all[0].tun.pop().is_some()), if ours { (0, true) } else { (1, false) }, "{packet:?}");
    }
    // The third cluster was told of nobody: the same address is nothing to it.
    all[2].send(&udp(ANSWERING, TOLD_THERE, b""), now);
    go(&mut all, now);
    assert!(all[0].tun.is_empty());
    // What the hub's kernel would let out in a third cluster's name, or to it in another's.
    for (from, to) in [([10, 73, 0, 8], ASKING_HERE), (ASKING_HERE, ANSWERING_HERE), (TOLD, ASKING_HERE)] {
        assert_eq!(all[0].send(&udp(from, to, b""), now), Verdict::Dropped(Reason::SourceNotOurs), "{from:?}");
    }
}

#[test]
fn what_is_told_no_more_is_reached_no_more_and_a_peer_that_leaves_disturbs_nobody() {
    let now = start();
    let mut all = three(now);
    let question = udp(ASKING, TOLD_THERE, b"question");
    all[0].gateway.set_transit(ASKS, &[]).expect("room");
    all[1].send(&question, now);
    go(&mut all, now);
    assert!(all[0].tun.is_empty());
    all[0].gateway.set_transit(ASKS, &[(TOLD.into(), ANSWERING_HERE.into())]).expect("room");
    assert!(all[0].gateway.remove_peer(THIRD));
    all[1].send(&question, now);
    all[1].send(&udp(ASKING, [10, 71, 0, 3], b"to the hub"), now);
    go(&mut all, now);
    assert_eq!(all[0].tun, [udp(ASKING_HERE, ANSWERING_HERE, b"question"), udp(ASKING_HERE, [10, 42, 0, 3], b"to the hub")]);
    assert_eq!(all[0].send(&udp(OWN_NODE, ANSWERING_HERE, b"question"), now), Verdict::Dropped(Reason::NoPeer));
    // Too much is refused, and what stood still stands.
    let many: Vec<_> = (0..=crate::budget::TRANSIT as u32).map(|n| (Ipv4Addr::from_bits(n), Ipv4Addr::from_bits(n))).collect();
    assert_eq!(all[0].gateway.set_transit(ASKS, &many), Err(Full));
    all[1].send(&question, now);
    go(&mut all, now);
    assert_eq!(all[0].tun.len(), 3);
    assert_eq!(all[0].gateway.set_transit(THIRD, &[]), Ok(()), "a peer that is not there");
}
