//! Frames against their packets: whatever comes, cutting the frames again gives the very packets that went in, flow by flow in order.

use super::*;
use crate::tunnel::packet::Header;
use crate::tunnel::remap;
use crate::tunnel::segment::tests::cut;

struct Tcp {
    ports: (u16, u16),
    number: u16,
    sequence: u32,
    flags: u8,
    stamp: u32,
}

const PLAIN_TCP: Tcp = Tcp { ports: (40_000, 80), number: 1, sequence: 1000, flags: ACK, stamp: 7 };

fn packet(protocol: u8, number: u16, transport: &[u8]) -> Vec<u8> {
    let mut p = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 42, 0, 9, 10, 71, 3, 7];
    p[2..4].copy_from_slice(&((20 + transport.len()) as u16).to_be_bytes());
    p[4..6].copy_from_slice(&number.to_be_bytes());
    let header = !sum(&p);
    p[10..12].copy_from_slice(&header.to_be_bytes());
    p.extend_from_slice(transport);
    let header = Header::read(&p).expect("a packet");
    let partial = pseudo(header.source, header.destination, protocol, transport.len());
    let at = if protocol == TCP { 36 } else { 26 };
    p[at..at + 2].copy_from_slice(&partial.to_be_bytes());
    remap::complete(&mut p, &header);
    p
}

fn tcp(t: &Tcp, payload: &[u8]) -> Vec<u8> {
    let mut s = Vec::new();
    s.extend(t.ports.0.to_be_bytes());
    s.extend(t.ports.1.to_be_bytes());
    s.extend(t.sequence.to_be_bytes());
    s.extend([9, 9, 9, 9, 0x80, t.flags, 2, 0, 0, 0, 0, 0, 1, 1, 8, 10]);
    s.extend(t.stamp.to_be_bytes());
    s.extend([0, 0, 0, 1]);
    s.extend(payload);
    packet(TCP, t.number, &s)
}

fn udp(ports: (u16, u16), number: u16, payload: &[u8]) -> Vec<u8> {
    let mut s = Vec::new();
    s.extend(ports.0.to_be_bytes());
    s.extend(ports.1.to_be_bytes());
    s.extend((8 + payload.len() as u16).to_be_bytes());
    s.extend([0, 0]);
    s.extend(payload);
    packet(UDP, number, &s)
}

fn filled(joins: Joins, packets: &[Vec<u8>]) -> Coalescer {
    let mut all = Coalescer::new(joins);
    for packet in packets {
        all.slot().expect("a slot")[..packet.len()].copy_from_slice(packet);
        all.take(packet.len());
    }
    all
}

/// How many packets each frame holds.
fn counts(joins: Joins, packets: &[Vec<u8>]) -> Vec<usize> {
    let mut all = filled(joins, packets);
    (0..all.frames()).map(|at| all.finish(at).1).collect()
}

/// The frames as the device takes them, cut again and finished.
fn again(all: &mut Coalescer) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for at in 0..all.frames() {
        let (header, _) = all.finish(at);
        let mut frame = all.pieces(at).collect::<Vec<_>>().concat();
        packets.extend(cut(Offload::read(&header), &mut frame));
    }
    packets
}

#[test]
fn segments_that_go_on_become_one_frame_and_a_shorter_or_pushed_one_ends_it() {
    let at = |n: u16, flags, len: usize| {
        tcp(&Tcp { number: n, sequence: (u32::MAX - 150).wrapping_add(u32::from(n) * 100), flags, ..PLAIN_TCP }, &vec![n as u8; len])
    };
    assert_eq!(counts(Joins::Tcp, &[at(1, ACK, 100), at(2, ACK, 100), at(3, ACK, 40)]), [3]);
    assert_eq!(counts(Joins::Tcp, &[at(1, ACK, 100), at(2, ACK | PSH, 100), at(3, ACK, 100), at(4, ACK, 100)]), [2, 2]);
    assert_eq!(counts(Joins::Tcp, &[at(1, ACK, 100), at(2, ACK, 100), at(3, ACK, 40), at(4, ACK, 100)]), [3, 1]);
    assert_eq!(counts(Joins::Tcp, &[at(1, ACK, 100), at(2, ACK, 101)]), [1, 1]);
    assert_eq!(counts(Joins::None, &[at(1, ACK, 100), at(2, ACK, 100)]), [1, 1]);
    let mut all = filled(Joins::Tcp, &[at(1, ACK, 100), at(2, ACK | PSH, 60)]);
    let (header, count) = all.finish(0);
    assert_eq!((Offload::read(&header), count), (Offload { unfinished: true, large: Large::Tcp, headers: 52, size: 100, start: 20, field: 16 }, 2));
    let frame = all.pieces(0).collect::<Vec<_>>().concat();
    assert_eq!((frame.len(), frame[33], !sum(&frame[..20])), (52 + 160, ACK | PSH, 0));
}

#[test]
fn what_differs_in_any_way_stays_apart() {
    let first = tcp(&PLAIN_TCP, &[1; 100]);
    let next = Tcp { number: 2, sequence: 1100, ..PLAIN_TCP };
    assert_eq!(counts(Joins::Tcp, &[first.clone(), tcp(&next, &[2; 100])]), [2]);
    for (what, other) in [
        ("a gap", tcp(&Tcp { sequence: 1101, ..next }, &[2; 100])),
        ("another stamp", tcp(&Tcp { stamp: 8, ..next }, &[2; 100])),
        ("FIN", tcp(&Tcp { flags: ACK | 1, ..next }, &[2; 100])),
        ("SYN", tcp(&Tcp { flags: ACK | 2, ..next }, &[2; 100])),
        ("RST", tcp(&Tcp { flags: ACK | 4, ..next }, &[2; 100])),
        ("URG", tcp(&Tcp { flags: ACK | 0x20, ..next }, &[2; 100])),
        ("CWR", tcp(&Tcp { flags: ACK | 0x80, ..next }, &[2; 100])),
        ("ECE on one", tcp(&Tcp { flags: ACK | 0x40, ..next }, &[2; 100])),
        ("no ACK", tcp(&Tcp { flags: 0, ..next }, &[2; 100])),
        ("no payload", tcp(&next, &[])),
        ("another port", tcp(&Tcp { ports: (40_001, 80), ..next }, &[2; 100])),
    ] {
        assert_eq!(counts(Joins::Tcp, &[first.clone(), other]), [1, 1], "{what}");
    }
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, Change); 8] = [
        ("a wrong checksum", |p| p[60] ^= 1),
        ("another acknowledgement", |p| (p[31], p[37]) = (p[31] + 1, p[37].wrapping_sub(1))),
        ("another window", |p| (p[35], p[37]) = (p[35] + 1, p[37].wrapping_sub(1))),
        ("a wrong checksum of the header", |p| p[10] ^= 1),
        ("another TOS", |p| (p[1], p[11]) = (1, p[11].wrapping_sub(1))),
        ("another TTL", |p| (p[8], p[10]) = (63, p[10].wrapping_add(1))),
        ("a fragment", |p| p[6] = 0x20),
        ("bytes behind it", |p| p.push(0)),
    ];
    for (what, change) in changes {
        let mut other = tcp(&next, &[2; 100]);
        change(&mut other);
        assert_eq!(counts(Joins::Tcp, &[first.clone(), other.clone()]), [1, 1], "{what}");
        let mut all = filled(Joins::Tcp, &[first.clone(), other.clone()]);
        all.finish(1);
        assert_eq!(all.pieces(1).collect::<Vec<_>>(), [&other[..]], "{what}: untouched");
    }
    let mut broken = first.clone();
    broken[60] ^= 1;
    assert_eq!(counts(Joins::Tcp, &[broken, tcp(&next, &[2; 100])]), [1, 1], "a wrong checksum in the first");
}

#[test]
fn a_packet_never_overtakes_one_of_its_flow() {
    let data = |n: u16| tcp(&Tcp { number: n, sequence: 1000 + u32::from(n) * 100, ..PLAIN_TCP }, &[n as u8; 100]);
    let other = |n: u16| tcp(&Tcp { ports: (1, 2), number: n, sequence: u32::from(n) * 100, ..PLAIN_TCP }, &[n as u8; 100]);
    // Two flows take turns: each is one frame.
    assert_eq!(counts(Joins::Tcp, &[data(1), other(1), data(2), other(2), data(3)]), [3, 2]);
    // What comes behind a packet that stays alone is not joined to what came before it.
    let ack = tcp(&Tcp { sequence: 1300, ..PLAIN_TCP }, &[]);
    assert_eq!(counts(Joins::Tcp, &[data(1), data(2), ack, data(3), data(4)]), [2, 1, 2]);
    let mut fragment = other(9);
    fragment[6] = 0x20;
    assert_eq!(counts(Joins::Tcp, &[data(1), data(2), fragment, data(3), data(4)]), [2, 1, 2]);
}

#[test]
fn datagrams_of_one_size_become_one_frame() {
    let at = |n: u16, len: usize| udp((5000, 53), n, &vec![n as u8; len]);
    assert_eq!(counts(Joins::TcpAndUdp, &[at(1, 64), at(2, 64), at(3, 64), at(4, 9), at(5, 64)]), [4, 1]);
    assert_eq!(counts(Joins::TcpAndUdp, &[at(1, 1), at(2, 1), at(3, 0), at(4, 1)]), [2, 1, 1]);
    assert_eq!(counts(Joins::Tcp, &[at(1, 64), at(2, 64)]), [1, 1]);
    let mut none = at(2, 64);
    none[26..28].fill(0);
    assert_eq!(counts(Joins::TcpAndUdp, &[at(1, 64), none, at(3, 64)]), [1, 1, 1], "no checksum is left so");
    let many: Vec<_> = (0..OPENED_PACKETS as u16).map(|n| at(n, 1)).collect();
    assert_eq!(counts(Joins::TcpAndUdp, &many), [FRAME_PACKETS; OPENED_PACKETS / FRAME_PACKETS]);
    let mut all = filled(Joins::TcpAndUdp, &many);
    assert!(all.slot().is_none());
    all.take(20);
    assert_eq!(again(&mut all), many);
    all.clear();
    assert!(all.is_empty() && all.frames() == 0 && all.slot().is_some());
    // Without the mark against fragments the numbers must go on by one.
    let unmarked = |n: u16| {
        let mut p = at(n, 64);
        p[6] = 0;
        p[10..12].fill(0);
        let header = !sum(&p[..20]);
        p[10..12].copy_from_slice(&header.to_be_bytes());
        p
    };
    assert_eq!(counts(Joins::TcpAndUdp, &[unmarked(1), unmarked(2), unmarked(4)]), [2, 1]);
}

#[test]
fn what_is_no_packet_passes_untouched() {
    for bytes in [&[][..], &[0x45], &[0; 28], &[0x45; 28], &[0xff; 64]] {
        let mut all = filled(Joins::TcpAndUdp, &[bytes.to_vec(), bytes.to_vec()]);
        assert_eq!(all.finish(0), ([0; OFFLOAD], 1));
        assert_eq!(all.pieces(0).collect::<Vec<_>>(), [bytes]);
    }
}

#[test]
fn frames_cut_again_are_the_packets_that_went_in() {
    let mut seed = 7u32;
    let mut roll = |below: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 16) % below
    };
    let mut joined = 0;
    for _ in 0..300 {
        let mut sequences = [u32::MAX - 4000, 5, 70_000];
        let (mut packets, mut number) = (Vec::new(), 0u16);
        while packets.len() < FRAME_PACKETS {
            let flow = roll(4) as usize;
            let size = if roll(5) == 0 { roll(1400) as usize } else { 1368 };
            let payload: Vec<u8> = (0..size).map(|n| (n as u32 ^ number as u32) as u8).collect();
            for _ in 0..1 + roll(6) {
                number = number.wrapping_add(1);
                let Some(sequence) = sequences.get_mut(flow) else {
                    packets.push(udp((5000, 53), number, &payload[..size.min(64)]));
                    continue;
                };
                let flags = match roll(12) {
                    0 => ACK | PSH,
                    1 => ACK | 1,
                    2 => ACK | 0x40,
                    _ => ACK,
                };
                let skipped = if roll(15) == 0 { 1368 } else { 0 };
                *sequence = sequence.wrapping_add(skipped);
                packets.push(tcp(&Tcp { ports: (flow as u16, 80), number, sequence: *sequence, flags, stamp: roll(40) / 39 }, &payload));
                *sequence = sequence.wrapping_add(size as u32);
            }
        }
        packets.truncate(FRAME_PACKETS);
        let mut all = filled(Joins::TcpAndUdp, &packets);
        joined += packets.len() - all.frames();
        let found = again(&mut all);
        assert_eq!(found.len(), packets.len());
        for ports in [[0, 0], [0, 1], [0, 2], [0x13, 0x88]] {
            // The numbers of packets that may not be cut into fragments mean nothing (RFC 6864), and change; so does the header's checksum.
            let of = |all: &[Vec<u8>]| -> Vec<Vec<u8>> {
                let mut flow: Vec<_> = all.iter().filter(|p| p[20..22] == ports).cloned().collect();
                flow.iter_mut().for_each(|p| [4, 5, 10, 11].into_iter().for_each(|at| p[at] = 0));
                flow
            };
            assert!(found.iter().all(|p| !sum(&p[..20]) == 0));
            assert_eq!(of(&found), of(&packets), "{ports:?}");
        }
    }
    assert!(joined > 3000, "{joined} packets joined");
}
