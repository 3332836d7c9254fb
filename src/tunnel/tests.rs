//! Two gateways face to face, in memory, under a clock of their own.
#![expect(clippy::disallowed_methods, reason = "boringtun reads the system clock, and these tests must know what it reads")]

use std::time::SystemTime;

use super::*;
use crate::identity::{CONTROL_PORT, End};
use crate::tunnel::packet::{ICMP, TCP, UDP};
use crate::tunnel::{Addresses, PathMtu, public_key};

const MINUTE: u64 = 60;
const HOUR: i64 = 3600;
const ROOM: usize = 2048;

/// The addresses that every host uses for itself and for the peer of row 0.
const OWN_NODE: [u8; 4] = [10, 70, 0, 1];
const OWN_CONTROL: [u8; 4] = [10, 70, 0, 2];
const PEER_CONTROL: [u8; 4] = [10, 70, 1, 1];
const PEER_NODE: [u8; 4] = [10, 70, 2, 1];
const PEER: PeerId = PeerId(0);

/// What `SystemTime::now()` reads, as boringtun will.
fn system() -> WallTime {
    WallTime(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs() as i64)
}

fn at(mono: u64, wall: i64) -> Now {
    Now { mono: Instant::from_boot(Duration::from_secs(mono)), wall: WallTime(wall) }
}

fn later(now: Now, by: Duration) -> Now {
    Now { mono: now.mono + by, wall: WallTime(now.wall.0 + by.as_secs() as i64) }
}

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("a socket address")
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

fn secret(seed: u8) -> SecretKey {
    SecretKey([seed; 32])
}

fn peering(end: End, image: &str) -> Addresses {
    let remote = heapless::Vec::from_slice(&[(prefix("10.42.0.0/16"), prefix(image))]).expect("room");
    Addresses { end, control: Some((OWN_CONTROL.into(), PEER_CONTROL.into())), node: Some((OWN_NODE.into(), PEER_NODE.into())), remote }
}

fn enrolment(end: End) -> Addresses {
    Addresses { end, control: Some((OWN_CONTROL.into(), PEER_CONTROL.into())), node: None, remote: heapless::Vec::new() }
}

fn plain(prefixes: &[&str]) -> Addresses {
    let remote = prefixes.iter().map(|text| (prefix(text), prefix(text))).collect();
    Addresses { end: End::Inviter, control: None, node: None, remote }
}

fn spec(id: u8, key: PublicKey, endpoints: &[SocketAddr], addresses: Addresses) -> PeerSpec {
    PeerSpec {
        id: PeerId(id),
        public_key: key,
        secret: None,
        preshared: None,
        keepalive: Some(Duration::from_secs(25)),
        endpoints: heapless::Vec::from_slice(endpoints).expect("room"),
        addresses,
        path: PathMtu::Fixed(1420),
    }
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| low.into())).sum()
}

fn checksum(mut sum: u32) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// A packet with right checksums; `text` ends it.
fn packet(protocol: u8, from: [u8; 4], to: [u8; 4], ports: (u16, u16), text: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    match protocol {
        ICMP => body.extend([8, 0, 0, 0, 0, 7, 0, 1]),
        UDP => {
            body.extend([ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat());
            body.extend((8 + text.len() as u16).to_be_bytes());
            body.extend([0, 0]);
        }
        _ => {
            body.extend([ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat());
            body.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 2, 0, 0, 0, 0, 0]);
        }
    }
    body.extend(text);
    let place = match protocol {
        ICMP => 2,
        UDP => 6,
        _ => 16,
    };
    let pseudo = if protocol == ICMP { 0 } else { sum(&from) + sum(&to) + u32::from(protocol) + body.len() as u32 };
    let check = checksum(pseudo + sum(&body));
    body[place..place + 2].copy_from_slice(&check);
    let mut whole = vec![0x45, 0];
    whole.extend((20 + body.len() as u16).to_be_bytes());
    whole.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
    whole.extend([from, to].concat());
    let check = checksum(sum(&whole));
    whole[10..12].copy_from_slice(&check);
    whole.extend(body);
    whole
}

fn udp(from: [u8; 4], to: [u8; 4], text: &[u8]) -> Vec<u8> {
    packet(UDP, from, to, (4000, 53), text)
}

/// One host: its gateway, the address it sends from, and what came out of it.
struct Host {
    gateway: Gateway,
    address: SocketAddr,
    tun: Vec<Vec<u8>>,
    sent: Vec<(SocketAddr, Vec<u8>)>,
    events: Vec<Event>,
}

impl Host {
    fn new(seed: u8, address: &str, now: Now, floor: WallTime) -> Host {
        let mut gateway = Gateway::new(&secret(seed), now, floor, system());
        gateway.set_local(&[prefix("10.42.0.0/16")], &[[10, 42, 0, 1].into()]).expect("room");
        Host { gateway, address: socket(address), tun: Vec::new(), sent: Vec::new(), events: Vec::new() }
    }

    fn add(&mut self, spec: PeerSpec, now: Now) {
        self.gateway.add_peer(spec, now, system()).expect("a free row");
        self.drain();
    }

    fn drain(&mut self) {
        let mut out = [0; ROOM];
        while let Some((to, len)) = self.gateway.poll_datagram(&mut out) {
            self.sent.push((to, out[..len].to_vec()));
        }
        while let Some(event) = self.gateway.poll_event() {
            self.events.push(event);
        }
    }

    fn hear(&mut self, from: SocketAddr, datagram: &[u8], now: Now) -> Verdict {
        let mut out = [0; ROOM];
        let verdict = self.gateway.handle_datagram(from, datagram, now, &mut out);
        match verdict {
            Verdict::ToTun { len, .. } => self.tun.push(out[..len].to_vec()),
            Verdict::ToPeer { to, len } => self.sent.push((to, out[..len].to_vec())),
            _ => {}
        }
        self.drain();
        verdict
    }

    fn send(&mut self, packet: &[u8], now: Now) -> Verdict {
        let mut out = [0; ROOM];
        let mut packet = packet.to_vec();
        let verdict = self.gateway.handle_packet(&mut packet, Checksum::Whole, now, &mut out);
        if let Verdict::ToPeer { to, len } = verdict {
            self.sent.push((to, out[..len].to_vec()));
        }
        self.drain();
        verdict
    }

    fn timeout(&mut self, now: Now) {
        self.gateway.handle_timeout(now);
        self.drain();
    }
}

/// Carries datagrams until none is left; what goes nowhere is lost. The bytes carried, with UDP and IPv4 headers.
fn carry(hosts: &mut [&mut Host], now: Now) -> usize {
    let mut bytes = 0;
    loop {
        let mut moved = false;
        for from in 0..hosts.len() {
            let source = hosts[from].address;
            for (to, datagram) in std::mem::take(&mut hosts[from].sent) {
                moved = true;
                bytes += datagram.len() + 28;
                if let Some(host) = hosts.iter_mut().find(|host| host.address == to) {
                    host.hear(source, &datagram, now);
                }
            }
        }
        if !moved {
            return bytes;
        }
    }
}

/// Lets time pass; the wake-ups of the first host, and the bytes carried.
fn pass(hosts: &mut [&mut Host], now: &mut Now, time: Duration) -> (usize, usize) {
    let (end, mut wakes, mut bytes) = (now.mono + time, 0, 0);
    let next = |hosts: &[&mut Host]| hosts.iter().filter_map(|host| host.gateway.poll_timeout()).min();
    while let Some(next) = next(hosts).filter(|&next| next <= end) {
        let step = next.since(now.mono);
        *now = Now { mono: now.mono.max(next), wall: WallTime(now.wall.0 + step.as_secs() as i64) };
        for (at, host) in hosts.iter_mut().enumerate() {
            if host.gateway.poll_timeout().is_some_and(|due| due <= now.mono) {
                host.timeout(*now);
                wakes += usize::from(at == 0);
                assert!(host.gateway.poll_timeout().is_none_or(|due| due > now.mono), "a timer that spins");
            }
        }
        bytes += carry(hosts, *now);
    }
    *now = Now { mono: end, wall: now.wall };
    (wakes, bytes)
}

/// An inviter that is reachable and a joiner that must come; both have pods in 10.42.0.0/16 and see the other's in 10.71.0.0/16.
fn pair(now: Now) -> (Host, Host) {
    let mut home = Host::new(1, "192.0.2.1:51820", now, WallTime(0));
    let mut edge = Host::new(2, "198.51.100.7:40000", now, WallTime(0));
    home.add(spec(0, public_key(&secret(2)), &[], peering(End::Inviter, "10.71.0.0/16")), now);
    edge.add(spec(0, public_key(&secret(1)), &[home.address], peering(End::Joiner, "10.71.0.0/16")), now);
    (home, edge)
}

fn linked(now: Now) -> (Host, Host) {
    let (mut home, mut edge) = pair(now);
    carry(&mut [&mut home, &mut edge], now);
    assert!(home.gateway.status(PEER, now).expect("a peer").handshake.is_some());
    assert!(edge.gateway.status(PEER, now).expect("a peer").handshake.is_some());
    home.events.clear();
    edge.events.clear();
    (home, edge)
}

fn start() -> Now {
    at(1000, system().0)
}

#[test]
fn pods_with_the_same_address_on_both_sides_reach_each_other_by_image() {
    let now = start();
    let (mut home, mut edge) = linked(now);
    edge.send(&udp([10, 42, 0, 9], [10, 71, 0, 9], b"question"), now);
    carry(&mut [&mut home, &mut edge], now);
    assert_eq!(home.tun, [udp([10, 71, 0, 9], [10, 42, 0, 9], b"question")]);
    home.send(&packet(TCP, [10, 42, 0, 9], [10, 71, 0, 9], (53, 4000), b"answer"), now);
    carry(&mut [&mut home, &mut edge], now);
    assert_eq!(edge.tun, [packet(TCP, [10, 71, 0, 9], [10, 42, 0, 9], (53, 4000), b"answer")]);
    let status = home.gateway.status(PEER, now).expect("a peer");
    assert_eq!((status.bytes_in, status.bytes_out), (36, 46));
}

#[test]
fn both_ends_tell_when_the_peer_is_up_and_where_it_is() {
    let now = start();
    let (mut home, mut edge) = pair(now);
    assert_eq!(edge.sent.len(), 1, "the joiner initiates at once");
    assert!(home.sent.is_empty(), "the inviter has nowhere to send");
    carry(&mut [&mut home, &mut edge], now);
    for (host, endpoint) in [(&home, edge.address), (&edge, home.address)] {
        assert_eq!(host.events, [Event::EndpointChanged { id: PEER, endpoint }, Event::SessionUp { id: PEER, away: None }]);
    }
}

#[test]
fn ends_are_mapped_to_link_addresses_and_back() {
    let now = start();
    let (mut home, mut edge) = linked(now);
    for (from, to, seen_from, seen_to, ports) in [
        (OWN_CONTROL, PEER_CONTROL, PEER_CONTROL, OWN_CONTROL, (40000, CONTROL_PORT)),
        (OWN_CONTROL, PEER_CONTROL, PEER_CONTROL, OWN_CONTROL, (CONTROL_PORT, 40000)),
        (OWN_NODE, PEER_NODE, PEER_NODE, OWN_NODE, (1, 2)),
        (OWN_NODE, [10, 71, 0, 9], PEER_NODE, [10, 42, 0, 9], (1, 2)),
        ([10, 42, 0, 9], PEER_NODE, [10, 71, 0, 9], OWN_NODE, (1, 2)),
        ([10, 42, 0, 9], PEER_CONTROL, [10, 71, 0, 9], OWN_CONTROL, (1, CONTROL_PORT)),
    ] {
        edge.send(&packet(TCP, from, to, ports, b"x"), now);
        carry(&mut [&mut home, &mut edge], now);
        assert_eq!(home.tun.pop(), Some(packet(TCP, seen_from, seen_to, ports, b"x")));
        home.send(&packet(TCP, from, to, ports, b"y"), now);
        carry(&mut [&mut home, &mut edge], now);
        assert_eq!(edge.tun.pop(), Some(packet(TCP, seen_from, seen_to, ports, b"y")));
    }
}

#[test]
fn later_fragments_pass_however_short_they_are() {
    let now = start();
    let (mut home, mut edge) = linked(now);
    let whole = packet(TCP, [10, 42, 0, 9], [10, 71, 0, 9], (1, 2), b"12345678");
    for length in 20..=whole.len() {
        for more in [0, 0x20] {
            let mut rest = whole[..length].to_vec();
            (rest[3], rest[6], rest[7]) = (length as u8, more, 1);
            edge.send(&rest, now);
            carry(&mut [&mut home, &mut edge], now);
            assert_eq!(home.tun.pop().expect("what edge sent")[20..], rest[20..]);
            home.send(&rest, now);
            carry(&mut [&mut home, &mut edge], now);
            assert_eq!(edge.tun.pop().expect("what home sent")[20..], rest[20..]);
        }
    }
}

#[test]
fn what_a_tunnel_may_not_reach_is_dropped_by_reason() {
    let now = start();
    // An attacker holds a peer's key but obeys none of its rules: to it everything is its own, and nothing is mapped.
    let mut home = Host::new(1, "192.0.2.1:51820", now, WallTime(0));
    let mut rogue = Host::new(2, "198.51.100.7:40000", now, WallTime(0));
    home.add(spec(0, public_key(&secret(2)), &[], peering(End::Inviter, "10.71.0.0/16")), now);
    rogue.gateway.set_local(&[prefix("0.0.0.0/0")], &[]).expect("room");
    rogue.add(spec(0, public_key(&secret(1)), &[home.address], plain(&["0.0.0.0/0"])), now);
    carry(&mut [&mut home, &mut rogue], now);
    let (pod, link, ours) = ([10, 42, 0, 9], [169, 254, 18, 2], [169, 254, 18, 1]);
    let unreachable = |from, to, quoted: &[u8]| {
        let mut error = packet(ICMP, from, to, (0, 0), quoted);
        error[20] = 3;
        error
    };
    let mut v6 = udp(pod, pod, b"");
    v6.resize(60, 0);
    v6[0] = 0x60;
    (v6[4], v6[5]) = (0, 20);
    let mut fragment = packet(TCP, link, ours, (1, CONTROL_PORT), b"12345678");
    fragment[6] = 0x20;
    let cases = [
        (udp([10, 43, 0, 9], pod, b""), Reason::SourceNotPeers),
        (udp([10, 71, 0, 9], pod, b""), Reason::SourceNotPeers),
        (udp([169, 254, 18, 1], pod, b""), Reason::SourceNotPeers),
        (udp(pod, [10, 43, 0, 1], b""), Reason::DestinationForeign),
        (udp(pod, [127, 0, 0, 1], b""), Reason::DestinationForeign),
        (udp(pod, OWN_CONTROL, b""), Reason::DestinationForeign),
        (udp(pod, [10, 71, 0, 9], b""), Reason::DestinationForeign),
        (udp(pod, link, b""), Reason::DestinationForeign),
        (udp(pod, [10, 42, 0, 1], b""), Reason::DestinationBarred),
        (udp(pod, [10, 42, 255, 255], b""), Reason::Broadcast),
        (udp(pod, [10, 42, 0, 0], b""), Reason::Broadcast),
        (packet(TCP, link, ours, (1, CONTROL_PORT + 1), b""), Reason::NotControl),
        (packet(UDP, link, ours, (1, CONTROL_PORT), b""), Reason::NotControl),
        (fragment, Reason::NotControl),
        (unreachable(link, ours, &udp(ours, link, b"")), Reason::NotControl),
        (unreachable(pod, pod, &udp([10, 43, 0, 1], pod, b"")), Reason::ForeignQuote),
        (unreachable(pod, pod, &udp(pod, [10, 43, 0, 1], b"")), Reason::ForeignQuote),
    ];
    for (packet, reason) in cases {
        let before = home.gateway.drops().count(reason);
        assert!(matches!(rogue.send(&packet, now), Verdict::ToPeer { .. }), "{reason:?}");
        carry(&mut [&mut home, &mut rogue], now);
        assert_eq!(home.gateway.drops().count(reason), before + 1, "{reason:?}");
    }
    // What the rogue's own gateway would not send is sealed by hand.
    for (packet, reason) in [
        (udp(pod, [224, 0, 0, 1], b""), Reason::Multicast),
        (udp(pod, [255, 255, 255, 255], b""), Reason::Broadcast),
        (v6, Reason::Ipv6),
        (vec![0x45; 8], Reason::MalformedPacket),
        (vec![0x45; 200], Reason::MalformedPacket),
        ([&[0x46][..], &udp(pod, pod, b"")[1..]].concat(), Reason::Ipv4Options),
        ([&[0x45, 0, 0, 22][..], &udp(pod, pod, b"")[4..]].concat(), Reason::TruncatedTransport),
    ] {
        let mut out = [0; ROOM];
        let peer = rogue.gateway.peers[0].as_mut().expect("a peer");
        let len = peer.session.seal(&packet, &mut out).expect("a session");
        assert_eq!(home.hear(rogue.address, &out[..len], now), Verdict::Dropped(reason));
    }
    assert!(home.tun.is_empty());
    for welcome in [udp(pod, pod, b"hello"), packet(ICMP, link, ours, (0, 0), b""), unreachable(pod, pod, &udp(pod, pod, b"hello"))] {
        rogue.send(&welcome, now);
        carry(&mut [&mut home, &mut rogue], now);
        assert!(home.tun.pop().is_some());
    }
}

#[test]
fn what_is_not_ours_or_nobodys_does_not_leave() {
    let now = start();
    let (mut home, mut edge) = linked(now);
    for (packet, reason) in [
        (udp([192, 168, 1, 5], [10, 71, 0, 9], b""), Reason::SourceNotOurs),
        (udp([10, 42, 0, 9], [10, 72, 0, 9], b""), Reason::NoPeer),
        (udp([10, 42, 0, 9], [224, 0, 0, 251], b""), Reason::Multicast),
        (udp([10, 42, 0, 9], [10, 71, 0, 9], &[0; PACKET_MAX]), Reason::TooLong),
    ] {
        assert_eq!(edge.send(&packet, now), Verdict::Dropped(reason));
        assert_eq!(edge.gateway.drops().count(reason), 1);
    }
    let (mut home_alone, _) = pair(now);
    let packet = udp([10, 42, 0, 9], [10, 71, 0, 9], b"");
    assert_eq!(home_alone.send(&packet, now), Verdict::Dropped(Reason::NoEndpoint));
    carry(&mut [&mut home, &mut edge], now);
    assert!(home.tun.is_empty());
}

#[test]
fn a_partial_checksum_leaves_finished() {
    let now = start();
    let (mut home, mut edge) = linked(now);
    let (from, to) = ([10, 42, 0, 9], [10, 71, 0, 9]);
    let mut partial = udp(from, to, b"offloaded");
    let pseudo = !u16::from_be_bytes(checksum(sum(&from) + sum(&to) + u32::from(UDP) + 17));
    partial[26..28].copy_from_slice(&pseudo.to_be_bytes());
    let mut out = [0; ROOM];
    let Verdict::ToPeer { len, .. } = edge.gateway.handle_packet(&mut partial, Checksum::Partial, now, &mut out) else { panic!("not sent") };
    home.hear(edge.address, &out[..len], now);
    assert_eq!(home.tun, [udp([10, 71, 0, 9], [10, 42, 0, 9], b"offloaded")]);
}

#[test]
fn parked_packets_arrive_in_order_after_the_handshake() {
    let now = start();
    let (mut home, mut edge) = pair(now);
    for n in 0..40u8 {
        assert_eq!(edge.send(&udp([10, 42, 0, 9], [10, 71, 0, 9], &[n]), now), Verdict::Parked);
    }
    assert_eq!(edge.sent.len(), 1, "packets that wait cause no second initiation");
    carry(&mut [&mut home, &mut edge], now);
    let expected: Vec<_> = (8..40u8).map(|n| udp([10, 71, 0, 9], [10, 42, 0, 9], &[n])).collect();
    assert_eq!(home.tun, expected);
    assert_eq!(edge.gateway.drops().count(Reason::ParkedOut), 8);
}

#[test]
fn the_responder_parks_until_the_session_is_confirmed() {
    let now = start();
    let (mut home, mut edge) = pair(now);
    let initiation = edge.sent.pop().expect("an initiation").1;
    assert!(matches!(home.hear(edge.address, &initiation, now), Verdict::ToPeer { .. }));
    assert_eq!(home.send(&udp([10, 42, 0, 9], [10, 71, 0, 9], b"early"), now), Verdict::Dropped(Reason::NoEndpoint));
    let endpoints = heapless::Vec::from_slice(&[edge.address]).expect("room");
    let (_, response) = home.sent.pop().expect("a response");
    home.gateway.set_endpoints(PEER, &endpoints, now);
    assert_eq!(home.send(&udp([10, 42, 0, 9], [10, 71, 0, 9], b"parked"), now), Verdict::Parked);
    edge.hear(home.address, &response, now);
    home.sent.clear();
    carry(&mut [&mut home, &mut edge], now);
    assert_eq!(edge.tun, [udp([10, 71, 0, 9], [10, 42, 0, 9], b"parked")]);
}

#[test]
fn a_replayed_datagram_is_dropped() {
    let now = start();
    let (mut home, mut edge) = linked(now);
    edge.send(&udp([10, 42, 0, 9], [10, 71, 0, 9], b"once"), now);
    let (_, datagram) = edge.sent.pop().expect("a datagram");
    assert!(matches!(home.hear(edge.address, &datagram, now), Verdict::ToTun { .. }));
    let thief = socket("203.0.113.66:1");
    assert_eq!(home.hear(thief, &datagram, now), Verdict::Dropped(Reason::Replayed));
    let mut forged = datagram;
    forged[9] ^= 1;
    assert_eq!(home.hear(thief, &forged, now), Verdict::Dropped(Reason::NotAuthentic));
    assert_eq!(home.gateway.status(PEER, now).expect("a peer").endpoint, Some(edge.address));
}

#[test]
fn a_replayed_initiation_moves_nobody_and_is_refused_once_the_peer_was_heard() {
    let now = start();
    let (mut home, mut edge) = pair(now);
    let (_, initiation) = edge.sent.first().cloned().expect("an initiation");
    carry(&mut [&mut home, &mut edge], now);
    let thief = socket("203.0.113.66:1");
    assert_eq!(home.hear(thief, &initiation, now), Verdict::Dropped(Reason::StaleInitiation));
    // After a restart of home its memory of stamps is gone.
    let mut again = Host::new(1, "192.0.2.1:51820", now, WallTime(0));
    again.add(spec(0, public_key(&secret(2)), &[edge.address], peering(End::Inviter, "10.71.0.0/16")), now);
    assert!(matches!(again.hear(thief, &initiation, now), Verdict::ToPeer { .. }));
    assert_eq!(again.gateway.status(PEER, now).expect("a peer").endpoint, None);
    again.sent.clear();
    again.gateway.handshake_now(PEER, later(now, Duration::from_secs(1)));
    again.drain();
    carry(&mut [&mut again, &mut edge], later(now, Duration::from_secs(1)));
    assert_eq!(again.gateway.status(PEER, now).expect("a peer").endpoint, Some(edge.address));
}

#[test]
fn initiations_replayed_to_one_that_restarted_do_not_keep_it_from_initiating() {
    let mut now = start();
    let (mut hub, mut edge) = linked(now);
    // Overheard before the hub restarts: nine initiations, one for every place that a session may have.
    let mut overheard = Vec::new();
    for _ in 0..9 {
        now = later(now, Duration::from_secs(3));
        edge.gateway.handshake_now(PEER, now);
        edge.drain();
        overheard.extend(edge.sent.iter().map(|(_, datagram)| datagram.clone()));
        carry(&mut [&mut hub, &mut edge], now);
    }
    let mut hub = Host::new(1, "203.0.113.1:51820", now, WallTime(now.wall.0 + HOUR));
    let address = edge.address;
    hub.add(spec(0, edge.gateway.public_key(), &[address], peering(End::Inviter, "10.71.0.0/16")), now);
    hub.sent.clear();
    let attacker = socket("198.51.100.66:1");
    for datagram in &overheard {
        assert!(matches!(hub.hear(attacker, datagram, now), Verdict::ToPeer { .. }));
    }
    hub.sent.clear();
    assert_eq!(hub.gateway.status(PEER, now).and_then(|status| status.handshake), None, "nobody has used any of these sessions");
    assert_eq!(hub.send(&udp([10, 42, 0, 9], [10, 71, 0, 9], b"x"), now), Verdict::Parked);
    for _ in 0..20 {
        now = later(now, Duration::from_secs(1));
        hub.timeout(now);
    }
    assert!(hub.sent.iter().filter(|(to, datagram)| *to == address && datagram[0] == 1).count() > 2, "it goes on initiating");
}

#[test]
fn a_peer_that_roams_is_followed() {
    let now = start();
    let (mut home, mut edge) = linked(now);
    edge.address = socket("203.0.113.9:1234");
    edge.send(&udp([10, 42, 0, 9], [10, 71, 0, 9], b"moved"), now);
    carry(&mut [&mut home, &mut edge], now);
    assert_eq!(home.events, [Event::EndpointChanged { id: PEER, endpoint: edge.address }]);
    home.send(&udp([10, 42, 0, 9], [10, 71, 0, 9], b"followed"), now);
    carry(&mut [&mut home, &mut edge], now);
    assert_eq!(edge.tun.len(), 1);
}

#[test]
fn strangers_hear_nothing() {
    let now = start();
    let (mut home, _) = pair(now);
    let stranger = socket("203.0.113.66:1");
    // One who does not know our key, and one who does but is nobody's peer.
    let mut blind = Host::new(9, "203.0.113.66:1", now, WallTime(0));
    blind.add(spec(0, public_key(&secret(8)), &[home.address], plain(&["0.0.0.0/0"])), now);
    let (_, initiation) = blind.sent.pop().expect("an initiation");
    assert_eq!(home.hear(stranger, &initiation, now), Verdict::Dropped(Reason::BadMac));
    let mut knowing = Host::new(9, "203.0.113.66:1", now, WallTime(0));
    knowing.add(spec(0, public_key(&secret(1)), &[home.address], plain(&["0.0.0.0/0"])), now);
    let (_, initiation) = knowing.sent.pop().expect("an initiation");
    assert_eq!(home.hear(stranger, &initiation, now), Verdict::Unknown(public_key(&secret(9))));
    for len in [0, 1, 31, 32, 64, 92, 148, 1500] {
        for kind in 0..6 {
            let mut junk = vec![0x5a; len];
            junk.iter_mut().zip([kind, 0, 0, 0]).for_each(|(byte, value)| *byte = value);
            assert!(matches!(home.hear(stranger, &junk, now), Verdict::Dropped(_)));
        }
    }
    assert!(home.sent.is_empty() && home.events.is_empty());
}

#[test]
fn an_unknown_key_may_be_added_and_its_initiation_handed_in_again() {
    let now = start();
    let (mut home, _) = pair(now);
    let mut caller = Host::new(9, "203.0.113.66:1", now, WallTime(0));
    caller.add(spec(0, public_key(&secret(1)), &[home.address], enrolment(End::Joiner)), now);
    let (_, initiation) = caller.sent.pop().expect("an initiation");
    let Verdict::Unknown(key) = home.hear(caller.address, &initiation, now) else { panic!("known?") };
    let mut addresses = enrolment(End::Inviter);
    addresses.control = Some((OWN_CONTROL.into(), [10, 70, 1, 2].into()));
    home.add(spec(1, key, &[], addresses), now);
    assert!(matches!(home.hear(caller.address, &initiation, now), Verdict::ToPeer { .. }));
    carry(&mut [&mut home, &mut caller], now);
    assert!(home.gateway.status(PeerId(1), now).expect("a peer").handshake.is_some());
}

#[test]
fn an_enrolment_reaches_the_control_port_and_nothing_else() {
    let now = start();
    let mut home = Host::new(1, "192.0.2.1:51820", now, WallTime(0));
    let mut edge = Host::new(2, "198.51.100.7:40000", now, WallTime(0));
    let ticket = secret(77);
    let preshared = Some([5; 32]);
    home.add(PeerSpec { preshared, ..spec(0, public_key(&ticket), &[], enrolment(End::Inviter)) }, now);
    let joiner = PeerSpec { preshared, secret: Some(ticket), ..spec(0, public_key(&secret(1)), &[home.address], enrolment(End::Joiner)) };
    edge.add(joiner, now);
    carry(&mut [&mut home, &mut edge], now);
    edge.send(&packet(TCP, OWN_CONTROL, PEER_CONTROL, (40000, CONTROL_PORT), b"enrol"), now);
    carry(&mut [&mut home, &mut edge], now);
    assert_eq!(home.tun, [packet(TCP, PEER_CONTROL, OWN_CONTROL, (40000, CONTROL_PORT), b"enrol")]);
    home.send(&packet(TCP, OWN_CONTROL, PEER_CONTROL, (CONTROL_PORT, 40000), b"answer"), now);
    carry(&mut [&mut home, &mut edge], now);
    assert_eq!(edge.tun, [packet(TCP, PEER_CONTROL, OWN_CONTROL, (CONTROL_PORT, 40000), b"answer")]);
    home.tun.clear();
    // The joiner's gateway sends nothing else, and the inviter's would not take it.
    assert_eq!(edge.send(&udp([10, 42, 0, 9], PEER_CONTROL, b""), now), Verdict::Dropped(Reason::SourceNotOurs));
    let link = [169, 254, 18, 2];
    for (packet, reason) in [
        (packet(TCP, link, [169, 254, 18, 1], (40000, 22), b""), Reason::NotControl),
        (udp(link, [169, 254, 18, 17], b""), Reason::DestinationForeign),
        (udp(link, [10, 42, 0, 9], b""), Reason::DestinationForeign),
        (udp([169, 254, 18, 18], [169, 254, 18, 1], b""), Reason::SourceNotPeers),
        (udp([10, 42, 0, 9], [169, 254, 18, 1], b""), Reason::SourceNotPeers),
    ] {
        let mut out = [0; ROOM];
        let len = edge.gateway.peers[0].as_mut().expect("a peer").session.seal(&packet, &mut out).expect("a session");
        assert_eq!(home.hear(edge.address, &out[..len], now), Verdict::Dropped(reason));
    }
    // The same two gateways then peer for good, in another row, while the enrolment still stands.
    let mut addresses = peering(End::Inviter, "10.71.0.0/16");
    (addresses.control, addresses.node) = (Some((OWN_CONTROL.into(), [10, 70, 1, 2].into())), Some((OWN_NODE.into(), [10, 70, 2, 2].into())));
    home.add(spec(1, public_key(&secret(2)), &[], addresses.clone()), now);
    edge.add(spec(1, public_key(&secret(1)), &[home.address], Addresses { end: End::Joiner, ..addresses }), now);
    carry(&mut [&mut home, &mut edge], now);
    assert!(home.gateway.status(PeerId(1), now).expect("a peer").handshake.is_some());
    assert!(home.gateway.remove_peer(PEER) && edge.gateway.remove_peer(PEER));
    assert_eq!(home.gateway.status(PEER, now), None);
}

#[test]
fn without_an_answer_initiations_go_on_for_ever_to_every_endpoint() {
    let mut now = start();
    let mut edge = Host::new(2, "198.51.100.7:40000", now, WallTime(0));
    let places = [socket("192.0.2.1:51820"), socket("[2001:db8::1]:51820"), socket("192.168.1.1:51820")];
    edge.add(spec(0, public_key(&secret(1)), &places, peering(End::Joiner, "10.71.0.0/16")), now);
    let (mut last, mut longest, mut bursts) = (now.mono, Duration::ZERO, 0);
    let end = now.mono + Duration::from_secs(10 * MINUTE);
    while now.mono < end {
        let mut to: Vec<_> = std::mem::take(&mut edge.sent).into_iter().map(|(to, _)| to).collect();
        if !to.is_empty() {
            to.sort();
            let mut all = places;
            all.sort();
            assert_eq!(to, all);
            longest = longest.max(now.mono.since(last));
            (last, bursts) = (now.mono, bursts + 1);
        }
        let next = edge.gateway.poll_timeout().expect("it never gives up");
        assert!(next > now.mono);
        now.mono = next;
        edge.timeout(now);
    }
    assert!(longest <= Duration::from_secs(15), "{longest:?}");
    assert!((40..60).contains(&bursts), "{bursts} in ten minutes");
    // Home comes up at last.
    let mut home = Host::new(1, "192.0.2.1:51820", now, WallTime(0));
    home.add(spec(0, public_key(&secret(2)), &[], peering(End::Inviter, "10.71.0.0/16")), now);
    pass(&mut [&mut edge, &mut home], &mut now, Duration::from_secs(16));
    assert!(edge.gateway.status(PEER, now).expect("a peer").handshake.is_some());
}

#[test]
fn packets_that_wait_do_not_wait_for_the_back_off() {
    let mut now = start();
    let (_, mut edge) = pair(now);
    for _ in 0..20 {
        now.mono = edge.gateway.poll_timeout().expect("a retry");
        edge.timeout(now);
    }
    edge.sent.clear();
    now = later(now, Duration::from_secs(4));
    assert_eq!(edge.send(&udp([10, 42, 0, 9], [10, 71, 0, 9], b"urgent"), now), Verdict::Parked);
    assert_eq!(edge.sent.len(), 1, "at once");
    edge.send(&udp([10, 42, 0, 9], [10, 71, 0, 9], b"urgent"), later(now, Duration::from_millis(10)));
    assert_eq!(edge.sent.len(), 1, "but not with every packet");
}

#[test]
fn an_idle_peering_keeps_its_session_with_few_wake_ups_and_bytes() {
    let mut now = start();
    let (mut home, mut edge) = linked(now);
    let hour = Duration::from_secs(60 * MINUTE);
    let (wakes, bytes) = pass(&mut [&mut home, &mut edge], &mut now, hour);
    println!("an idle hour: {wakes} wake-ups, {bytes} bytes both ways");
    assert!(wakes <= 1200, "{wakes} wake-ups in an idle hour");
    assert!(bytes <= 40_000, "{bytes} bytes in an idle hour");
    assert!(home.events.is_empty() && edge.events.is_empty(), "{:?} {:?}", home.events, edge.events);
    for host in [&mut home, &mut edge] {
        let status = host.gateway.status(PEER, now).expect("a peer");
        assert!(status.handshake.is_some_and(|age| age <= Duration::from_secs(180)));
        assert!(status.received.is_some_and(|age| age <= Duration::from_secs(27)));
    }
}

#[test]
fn traffic_of_one_direction_is_answered_by_keepalives() {
    let mut now = start();
    let (mut home, mut edge) = linked(now);
    for _ in 0..10 * MINUTE {
        edge.send(&udp([10, 42, 0, 9], [10, 71, 0, 9], b"no answer needed"), now);
        carry(&mut [&mut home, &mut edge], now);
        pass(&mut [&mut home, &mut edge], &mut now, Duration::from_secs(1));
        assert!(edge.gateway.status(PEER, now).and_then(|status| status.received) < Some(Duration::from_secs(12)));
    }
    assert!(edge.events.is_empty() && home.events.is_empty(), "{:?} {:?}", home.events, edge.events);
    assert_eq!(home.tun.len(), 600);
}

#[test]
fn a_peer_that_lost_its_session_is_found_out_by_silence() {
    let mut now = start();
    let (_, mut edge) = linked(now);
    // Home has restarted without knowing where edge is.
    let mut home = Host::new(1, "192.0.2.1:51820", now, WallTime(0));
    home.add(spec(0, public_key(&secret(2)), &[], peering(End::Inviter, "10.71.0.0/16")), now);
    edge.send(&udp([10, 42, 0, 9], [10, 71, 0, 9], b"lost"), now);
    carry(&mut [&mut home, &mut edge], now);
    pass(&mut [&mut home, &mut edge], &mut now, Duration::from_secs(17));
    edge.send(&udp([10, 42, 0, 9], [10, 71, 0, 9], b"arrives"), now);
    carry(&mut [&mut home, &mut edge], now);
    assert_eq!(home.tun.len(), 1);
}

#[test]
fn a_session_under_load_is_renewed_without_a_packet_lost() {
    let mut now = start();
    let (mut home, mut edge) = linked(now);
    let mut sent = 0;
    for second in 0..15 * MINUTE {
        for host in [&mut edge, &mut home] {
            let text = second.to_be_bytes();
            assert!(matches!(host.send(&udp([10, 42, 0, 9], [10, 71, 0, 9], &text), now), Verdict::ToPeer { .. }), "second {second}");
        }
        sent += 1;
        carry(&mut [&mut home, &mut edge], now);
        pass(&mut [&mut home, &mut edge], &mut now, Duration::from_secs(1));
        let age = edge.gateway.status(PEER, now).and_then(|status| status.handshake).expect("a session");
        assert!(age <= Duration::from_secs(125), "{age:?}");
    }
    assert_eq!((home.tun.len(), edge.tun.len()), (sent, sent));
}

#[test]
fn two_renewals_at_once_whose_answers_are_lost_do_not_end_the_session() {
    for data in [true, false] {
        two_renewals_at_once(data);
    }
}

/// With data each second, or with keepalives alone.
fn two_renewals_at_once(data: bool) {
    let mut now = start();
    let (mut home, mut edge) = linked(now);
    pass(&mut [&mut home, &mut edge], &mut now, Duration::from_secs(60));
    // Each answers the other's initiation, and takes itself for the one that was called.
    for host in [&mut home, &mut edge] {
        host.gateway.handshake_now(PEER, now);
        host.drain();
    }
    let (from_home, from_edge) = (std::mem::take(&mut home.sent), std::mem::take(&mut edge.sent));
    assert!(from_home.iter().all(|(_, datagram)| matches!(edge.hear(home.address, datagram, now), Verdict::ToPeer { .. })));
    assert!(from_edge.iter().all(|(_, datagram)| matches!(home.hear(edge.address, datagram, now), Verdict::ToPeer { .. })));
    (home.sent, edge.sent) = (Vec::new(), Vec::new());
    for second in 0..5 * MINUTE {
        for host in [&mut edge, &mut home].into_iter().filter(|_| data) {
            assert!(matches!(host.send(&udp([10, 42, 0, 9], [10, 71, 0, 9], b"x"), now), Verdict::ToPeer { .. }), "second {second}");
        }
        carry(&mut [&mut home, &mut edge], now);
        pass(&mut [&mut home, &mut edge], &mut now, Duration::from_secs(1));
    }
    assert!(home.events.is_empty() && edge.events.is_empty(), "{:?} {:?}", home.events, edge.events);
}

#[test]
fn a_cut_path_is_told_and_its_return_with_the_time_away() {
    let mut now = start();
    let (mut home, mut edge) = linked(now);
    for _ in 0..5 * MINUTE {
        edge.send(&udp([10, 42, 0, 9], [10, 71, 0, 9], b"anyone?"), now);
        pass(&mut [&mut edge], &mut now, Duration::from_secs(1));
        edge.sent.clear();
    }
    assert_eq!(edge.events, [Event::Quiet { id: PEER }]);
    edge.events.clear();
    pass(&mut [&mut home, &mut edge], &mut now, Duration::from_secs(16));
    let [Event::SessionUp { id: PEER, away: Some(away) }] = edge.events[..] else { panic!("{:?}", edge.events) };
    assert!(away >= Duration::from_secs(5 * MINUTE));
}

#[test]
fn either_side_restarts_and_the_tunnel_comes_back() {
    for restarted in ["home", "edge"] {
        let now = start();
        let (mut home, mut edge) = linked(now);
        let then = later(now, Duration::from_secs(30));
        if restarted == "home" {
            home = Host::new(1, "192.0.2.1:51820", then, home.gateway.highest_stamp(now));
            home.add(spec(0, public_key(&secret(2)), &[edge.address], peering(End::Inviter, "10.71.0.0/16")), then);
        } else {
            let floor = edge.gateway.highest_stamp(now);
            edge = Host::new(2, "198.51.100.7:40001", then, floor);
            edge.add(spec(0, public_key(&secret(1)), &[home.address], peering(End::Joiner, "10.71.0.0/16")), then);
        }
        carry(&mut [&mut home, &mut edge], then);
        home.send(&udp([10, 42, 0, 9], [10, 71, 0, 9], b"still there?"), then);
        edge.send(&udp([10, 42, 0, 9], [10, 71, 0, 9], b"yes"), then);
        carry(&mut [&mut home, &mut edge], then);
        assert_eq!((home.tun.len(), edge.tun.len()), (1, 1), "{restarted}");
    }
}

#[test]
fn a_peer_restarted_an_hour_back_or_in_1970_is_answered() {
    // The first run's clock runs ten hours ahead of the real one, so that a real reading is a step back.
    let first = at(1000, system().0 + 10 * HOUR);
    for (what, wall, floored, answered) in [
        ("an hour back, no floor", first.wall.0 - HOUR, false, false),
        ("an hour back", first.wall.0 - HOUR, true, true),
        ("1970", 0, true, true),
        ("1970 and a while", 20_000, true, true),
    ] {
        let (mut home, edge) = linked(first);
        let floor = if floored { edge.gateway.highest_stamp(first) } else { WallTime(0) };
        // The machine has booted: its monotonic clock begins anew.
        let now = at(5, wall);
        let mut again = Host::new(2, "198.51.100.7:40001", now, floor);
        again.add(spec(0, public_key(&secret(1)), &[home.address], peering(End::Joiner, "10.71.0.0/16")), now);
        let there = later(first, Duration::from_secs(20));
        let (_, initiation) = again.sent.pop().expect("an initiation");
        let verdict = home.hear(again.address, &initiation, there);
        assert_eq!(matches!(verdict, Verdict::ToPeer { .. }), answered, "{what}: {verdict:?}");
        if !answered {
            assert_eq!(verdict, Verdict::Dropped(Reason::StaleInitiation));
            continue;
        }
        let (_, response) = home.sent.pop().expect("a response");
        assert!(matches!(again.hear(home.address, &response, later(now, Duration::from_millis(40))), Verdict::ToPeer { .. }), "{what}");
        // It lives: boringtun, which thinks it was made long ago, does not end the session.
        let mut then = later(now, Duration::from_secs(1));
        pass(&mut [&mut again], &mut then, Duration::from_secs(60));
        assert!(again.gateway.status(PEER, then).expect("a peer").handshake.is_some_and(|age| age < Duration::from_secs(70)), "{what}");
    }
}

#[test]
fn a_peer_added_an_hour_after_a_start_in_1970_is_answered() {
    let first = at(1000, system().0 + 10 * HOUR);
    let (mut home, edge) = linked(first);
    let floor = edge.gateway.highest_stamp(first);
    let booted = at(5, 5);
    let mut again = Host::new(2, "198.51.100.7:40001", booted, floor);
    let now = later(booted, Duration::from_secs(60 * MINUTE));
    again.add(spec(0, public_key(&secret(1)), &[home.address], peering(End::Joiner, "10.71.0.0/16")), now);
    let (_, initiation) = again.sent.pop().expect("an initiation");
    assert!(matches!(home.hear(again.address, &initiation, later(first, Duration::from_secs(20))), Verdict::ToPeer { .. }));
    // Removed and added again its stamps still rise.
    assert!(again.gateway.remove_peer(PEER));
    again.add(spec(0, public_key(&secret(1)), &[home.address], peering(End::Joiner, "10.71.0.0/16")), now);
    let (_, initiation) = again.sent.pop().expect("an initiation");
    assert!(matches!(home.hear(again.address, &initiation, later(first, Duration::from_secs(20))), Verdict::ToPeer { .. }));
    assert!(again.gateway.highest_stamp(now) > floor);
}

#[test]
fn a_machine_that_really_believes_in_1970_keeps_its_session() {
    // A lift of half a century. boringtun adds it to this machine's right clock; what matters is that its own clock survives it.
    let mut now = at(5, 0);
    let mut home = Host::new(1, "192.0.2.1:51820", now, WallTime(0));
    home.add(spec(0, public_key(&secret(2)), &[], peering(End::Inviter, "10.71.0.0/16")), now);
    let mut edge = Host::new(2, "198.51.100.7:40000", now, WallTime(0));
    edge.gateway = Gateway::new(&secret(2), now, system(), WallTime(0));
    let peer = spec(0, public_key(&secret(1)), &[home.address], peering(End::Joiner, "10.71.0.0/16"));
    edge.gateway.add_peer(peer, now, WallTime(0)).expect("a free row");
    edge.drain();
    carry(&mut [&mut home, &mut edge], now);
    edge.events.clear();
    pass(&mut [&mut home, &mut edge], &mut now, Duration::from_secs(20 * MINUTE));
    assert!(edge.events.is_empty(), "{:?}", edge.events);
    assert!(edge.gateway.status(PEER, now).and_then(|status| status.handshake).is_some());
}

#[test]
fn under_a_flood_the_sender_must_prove_its_address() {
    let now = start();
    let (mut home, mut edge) = linked(now);
    let flooder = socket("203.0.113.66:1");
    let mut knowing = Host::new(9, "203.0.113.66:1", now, WallTime(0));
    knowing.add(spec(0, public_key(&secret(1)), &[home.address], plain(&["0.0.0.0/0"])), now);
    let (_, initiation) = knowing.sent.pop().expect("an initiation");
    let verdicts: Vec<_> = (0..30).map(|_| home.hear(flooder, &initiation, now)).collect();
    assert!(verdicts[..19].iter().all(|verdict| matches!(verdict, Verdict::Unknown(_))));
    assert!(verdicts[20..].iter().all(|verdict| *verdict == Verdict::ToPeer { to: flooder, len: 64 }));
    home.sent.clear();
    // A peer is asked for the proof too, and gives it with its next try.
    for (millis, len) in [(500, 64), (600, 92)] {
        let then = later(now, Duration::from_millis(millis));
        edge.gateway.handshake_now(PEER, then);
        edge.drain();
        let (_, initiation) = edge.sent.pop().expect("an initiation");
        assert_eq!(home.hear(edge.address, &initiation, then), Verdict::ToPeer { to: edge.address, len });
        let (_, answer) = home.sent.pop().expect("an answer");
        edge.hear(home.address, &answer, then);
    }
}

#[test]
fn a_flood_in_a_peers_name_does_not_shut_it_out() {
    let mut now = start();
    let (mut home, mut edge) = linked(now);
    let mut knowing = Host::new(9, "203.0.113.66:1", now, WallTime(0));
    knowing.add(spec(0, public_key(&secret(1)), &[home.address], plain(&["0.0.0.0/0"])), now);
    let (_, bogus) = knowing.sent.pop().expect("an initiation");
    let mut answered = false;
    for _ in 0..6 {
        now = later(now, Duration::from_secs(5));
        // The forger is first in every second, from the very address of the peer.
        for _ in 0..100 {
            home.hear(edge.address, &bogus, now);
        }
        home.sent.clear();
        edge.gateway.handshake_now(PEER, now);
        edge.drain();
        let (_, initiation) = edge.sent.pop().expect("an initiation");
        if let Verdict::ToPeer { len, .. } = home.hear(edge.address, &initiation, now) {
            answered |= len == 92;
            let (_, answer) = home.sent.pop().expect("an answer");
            edge.hear(home.address, &answer, now);
        }
    }
    assert!(answered);
}

#[test]
fn a_plain_tunnel_routes_by_the_longest_prefix_and_checks_sources_by_it() {
    let now = start();
    let mut hub = Host::new(1, "192.0.2.1:51820", now, WallTime(0));
    hub.gateway.set_local(&[prefix("0.0.0.0/0")], &[]).expect("room");
    let mut wide = Host::new(2, "198.51.100.2:1", now, WallTime(0));
    let mut narrow = Host::new(3, "198.51.100.3:1", now, WallTime(0));
    hub.add(spec(0, public_key(&secret(2)), &[wide.address], plain(&["0.0.0.0/0"])), now);
    hub.add(spec(1, public_key(&secret(3)), &[narrow.address], plain(&["10.1.0.0/16", "10.2.0.5/32"])), now);
    for spoke in [&mut wide, &mut narrow] {
        spoke.gateway.set_local(&[prefix("0.0.0.0/0")], &[]).expect("room");
        spoke.add(spec(0, public_key(&secret(1)), &[], plain(&["0.0.0.0/0"])), now);
    }
    carry(&mut [&mut hub, &mut wide, &mut narrow], now);
    for (to, row) in [([8, 8, 8, 8], 0), ([10, 1, 2, 3], 1), ([10, 2, 0, 5], 1), ([10, 2, 0, 6], 0)] {
        hub.send(&udp([10, 9, 9, 9], to, b"x"), now);
        carry(&mut [&mut hub, &mut wide, &mut narrow], now);
        let (got, other) = if row == 0 { (&mut wide, &mut narrow) } else { (&mut narrow, &mut wide) };
        assert_eq!(got.tun.pop(), Some(udp([10, 9, 9, 9], to, b"x")));
        assert!(other.tun.is_empty());
    }
    narrow.send(&udp([10, 1, 2, 3], [10, 9, 9, 9], b"mine"), now);
    wide.send(&udp([10, 1, 2, 3], [10, 9, 9, 9], b"not mine"), now);
    narrow.send(&udp([8, 8, 8, 8], [10, 9, 9, 9], b"not mine"), now);
    carry(&mut [&mut hub, &mut wide, &mut narrow], now);
    assert_eq!(hub.tun, [udp([10, 1, 2, 3], [10, 9, 9, 9], b"mine")]);
    assert_eq!(hub.gateway.drops().count(Reason::SourceNotPeers), 2);
}

#[test]
fn a_quiet_plain_tunnel_without_keepalive_falls_silent_and_wakes_for_a_packet() {
    let mut now = start();
    let (mut home, mut edge) = (Host::new(1, "192.0.2.1:51820", now, WallTime(0)), Host::new(2, "198.51.100.7:40000", now, WallTime(0)));
    for (host, seed, place) in [(&mut home, 2, edge.address), (&mut edge, 1, socket("192.0.2.1:51820"))] {
        let addresses = peering(if seed == 2 { End::Inviter } else { End::Joiner }, "10.71.0.0/16");
        host.add(PeerSpec { keepalive: None, ..spec(0, public_key(&secret(seed)), &[place], addresses) }, now);
    }
    carry(&mut [&mut home, &mut edge], now);
    pass(&mut [&mut home, &mut edge], &mut now, Duration::from_secs(5 * MINUTE));
    assert_eq!((home.gateway.poll_timeout(), edge.gateway.poll_timeout()), (None, None));
    assert_eq!(home.send(&udp([10, 42, 0, 9], [10, 71, 0, 9], b"hello"), now), Verdict::Parked);
    carry(&mut [&mut home, &mut edge], now);
    assert_eq!(edge.tun.len(), 1);
}

#[test]
fn peers_that_cannot_be_are_refused_and_change_nothing() {
    let now = start();
    let (mut home, _) = pair(now);
    let addresses = || plain(&["10.99.0.0/16"]);
    let mut unequal = addresses();
    unequal.remote[0].1 = prefix("10.99.0.0/24");
    for (spec, why) in [
        (spec(PEERS as u8, public_key(&secret(9)), &[], addresses()), Refused::NoSuchRow),
        (spec(0, public_key(&secret(9)), &[], addresses()), Refused::RowTaken),
        (spec(1, public_key(&secret(2)), &[], addresses()), Refused::KeyTaken),
        (spec(1, public_key(&secret(1)), &[], addresses()), Refused::OwnKey),
        (spec(1, public_key(&secret(9)), &[], plain(&["10.98.0.0/16", "10.71.0.0/16"])), Refused::RouteTaken),
        (spec(1, public_key(&secret(9)), &[], unequal), Refused::Unequal),
    ] {
        assert_eq!(home.gateway.add_peer(spec, now, system()), Err(why));
    }
    home.add(spec(1, public_key(&secret(9)), &[], plain(&["10.98.0.0/16"])), now);
    assert_eq!(home.gateway.set_local(&[prefix("10.0.0.0/8"); 3], &[]), Err(Full));
}

#[test]
fn a_clock_that_goes_back_and_small_buffers_do_no_harm() {
    let now = start();
    let (mut home, mut edge) = linked(now);
    let back = at(10, 0);
    edge.send(&udp([10, 42, 0, 9], [10, 71, 0, 9], b"x"), back);
    let (_, datagram) = edge.sent.pop().expect("a datagram");
    let mut small = [0; 60];
    assert_eq!(home.gateway.handle_datagram(edge.address, &datagram, back, &mut small), Verdict::Dropped(Reason::TooLong));
    let mut packet = udp([10, 42, 0, 9], [10, 71, 0, 9], b"x");
    assert_eq!(home.gateway.handle_packet(&mut packet, Checksum::Whole, back, &mut small), Verdict::Dropped(Reason::TooLong));
    assert!(matches!(home.hear(edge.address, &datagram, back), Verdict::ToTun { .. }));
    home.timeout(back);
    assert!(home.gateway.status(PEER, back).is_some());
}

/// A small generator with a seed, so that a failure can be run again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

#[test]
fn loss_reordering_duplicates_cuts_and_restarts_never_lock_two_gateways_out() {
    for seed in 1..=8u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut now = start();
        let mut hosts = [Host::new(1, "192.0.2.1:51820", now, WallTime(0)), Host::new(2, "198.51.100.7:40000", now, WallTime(0))];
        let places = [hosts[0].address, hosts[1].address];
        let rejoin = |hosts: &mut [Host; 2], at: usize, now: Now, floor: WallTime| {
            let end = [End::Inviter, End::Joiner][at];
            hosts[at] = Host::new(at as u8 + 1, &places[at].to_string(), now, floor);
            let peer = spec(0, public_key(&secret(2 - at as u8)), &[places[1 - at]], peering(end, "10.71.0.0/16"));
            hosts[at].add(peer, now);
        };
        for at in 0..2 {
            rejoin(&mut hosts, at, now, WallTime(0));
        }
        let mut flight: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut cut = false;
        for step in 0..900 {
            let calm = step >= 800;
            match dice.roll(if calm { 3 } else { 300 }) {
                3 => cut = !cut,
                4 => {
                    let at = dice.roll(2) as usize;
                    let floor = hosts[at].gateway.highest_stamp(now);
                    rejoin(&mut hosts, at, now, floor);
                }
                5 => hosts[dice.roll(2) as usize].gateway.handshake_now(PEER, now),
                n => {
                    let text = (step as u32).to_be_bytes();
                    hosts[n as usize % 2].send(&udp([10, 42, 0, 9], [10, 71, 0, 9], &text), now);
                }
            }
            now = later(now, Duration::from_millis(1 + dice.roll(1500)));
            for host in &mut hosts {
                if host.gateway.poll_timeout().is_some_and(|due| due <= now.mono) {
                    host.timeout(now);
                }
                assert!(host.gateway.poll_timeout().is_none_or(|due| due > now.mono), "seed {seed}: a timer that spins");
            }
            for _ in 0..4 {
                for (at, host) in hosts.iter_mut().enumerate() {
                    host.drain();
                    for (to, datagram) in std::mem::take(&mut host.sent) {
                        assert_eq!(to, places[1 - at]);
                        let copies = if calm { 1 } else { [0, 1, 1, 1, 1, 1, 1, 2][dice.roll(8) as usize] };
                        flight.extend(std::iter::repeat_n((1 - at, datagram), if cut && !calm { 0 } else { copies }));
                    }
                }
                while !flight.is_empty() && (calm || dice.roll(6) > 0) {
                    let (to, datagram) = flight.remove(if calm { 0 } else { dice.roll(flight.len() as u64) as usize });
                    hosts[to].hear(places[1 - to], &datagram, now);
                }
            }
            if step == 850 {
                hosts.iter_mut().for_each(|host| host.tun.clear());
            }
        }
        for host in &mut hosts {
            let status = host.gateway.status(PEER, now).expect("a peer");
            assert!(status.handshake.is_some(), "seed {seed}: {status:?}");
            assert!(!host.tun.is_empty(), "seed {seed}: nothing arrives at {}, {status:?}", host.address);
        }
    }
}

#[path = "third_tests.rs"]
mod third;
