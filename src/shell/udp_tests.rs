//! The UDP port on loopback: ways of sending and receiving, lanes, and which address answers.

use super::*;

fn in_runtime(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test);
}

/// Sends datagrams of these lengths, and gives what arrives, with its sender.
async fn carried(from: &mut Udp, to: &mut Udp, lengths: &[usize]) -> Vec<(Vec<u8>, SocketAddr)> {
    let target = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), to.port().expect("bound"));
    let (mut outgoing, mut incoming, mut arrived) = (Outgoing::new(), Incoming::new(), Vec::new());
    for (number, &len) in lengths.iter().enumerate() {
        outgoing.room().expect("room")[..len].fill(number as u8);
        outgoing.push(target, None, len);
    }
    assert_eq!(from.send(&outgoing), 0);
    while arrived.len() < lengths.len() {
        tokio::time::timeout(Duration::from_secs(5), to.readable()).await.expect("something comes").expect("readable");
        let (count, _) = to.waiting(Instant::default()).first().map_or((0, false), |lane| to.receive(*lane as usize, &mut incoming, Instant::default()));
        for at in 0..count {
            let (from, all) = incoming.batch(at).expect("a batch");
            arrived.extend(all.map(|datagram| (datagram.to_vec(), from)));
        }
    }
    assert!(to.waiting(Instant::default()).is_empty());
    arrived
}

#[test]
fn datagrams_arrive_as_they_were_sent_from_a_plain_address_however_they_are_sent_and_received() {
    in_runtime(async {
        let lengths: Vec<usize> = [[1452; 40].as_slice(), &[700], &[96; 30], &[1, 2, 3], &[148]].concat();
        for (sends, joined, many) in
            [(Sends::Parted, true, true), (Sends::Parted, false, true), (Sends::Many, true, true), (Sends::One, false, false), (Sends::Parted, true, false)]
        {
            let (mut a, mut b) = (Udp::bind_with(0, sends, joined).expect("a port"), Udp::bind_with(0, sends, joined).expect("a port"));
            b.many = many;
            let from = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), a.port().expect("bound"));
            let arrived = carried(&mut a, &mut b, &lengths).await;
            for (number, ((bytes, sender), len)) in arrived.iter().zip(&lengths).enumerate() {
                assert_eq!((&bytes[..], *sender), (&vec![number as u8; *len][..], from), "{sends:?} {joined} {many}: datagram {number}");
            }
            assert_eq!(a.sends, sends, "no fallback was needed");
        }
    });
}

#[test]
fn what_cannot_be_parted_is_sent_one_by_one_and_what_cannot_be_sent_is_counted() {
    in_runtime(async {
        let mut a = Udp::bind(0).expect("a port");
        let mut b = Udp::bind(0).expect("a port");
        let target = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), b.port().expect("bound"));
        let mut outgoing = Outgoing::new();
        for to in [target, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0), target] {
            for _ in 0..3 {
                outgoing.push(to, None, 100);
            }
        }
        assert_eq!(a.send(&outgoing), 3, "port 0 is nobody's");
        let (mut incoming, mut arrived) = (Incoming::new(), 0);
        while arrived < 6 {
            b.readable().await.expect("readable");
            let (count, _) = b.receive(OPEN, &mut incoming, Instant::default());
            arrived += (0..count).filter_map(|at| incoming.batch(at)).map(|(_, all)| all.count()).sum::<usize>();
        }
        assert_eq!((arrived, a.sends), (6, Sends::Parted));
    });
}

/// What waits, by lane: how many datagrams.
async fn waiting(udp: &mut Udp) -> Vec<(usize, usize)> {
    let mut incoming = Incoming::new();
    let mut found: Vec<(usize, usize)> = Vec::new();
    // The runtime looks at its sockets while this task waits.
    tokio::time::sleep(Duration::from_millis(20)).await;
    for lane in udp.waiting(Instant::default()) {
        let (count, _) = udp.receive(lane as usize, &mut incoming, Instant::from_boot(Duration::from_secs(100)));
        found.push((lane as usize, (0..count).filter_map(|at| incoming.batch(at)).map(|(_, all)| all.count()).sum()));
    }
    found.sort_unstable();
    found
}

#[test]
fn who_is_heard_has_a_lane_where_it_is_and_nobody_else_has_the_port() {
    in_runtime(async {
        let mut hub = Udp::bind(0).expect("a port");
        let port = hub.port().expect("bound");
        let target = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let [a, b, c] = [0; 3].map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
        let at = |socket: &UdpSocket| socket.local_addr().expect("bound");
        let say = |socket: &UdpSocket, times| (0..times).for_each(|_| assert_eq!(socket.send_to(b"hello", target).expect("sent"), 5));
        say(&a, 2);
        assert_eq!(waiting(&mut hub).await, [(OPEN, 2)]);
        let second = |n: u64| Instant::from_boot(Duration::from_secs(100 + n));
        hub.heard(3, at(&a), None, OPEN, second(0));
        hub.heard(4, at(&b), None, OPEN, second(0));
        say(&a, 2);
        say(&b, 3);
        say(&c, 1);
        assert_eq!(waiting(&mut hub).await, [(3, 2), (4, 3), (OPEN, 1)]);
        assert!(matches!(Udp::bind(port), Err(UdpError::Taken(_))), "the port is ours alone");
        // It moves, though not for every datagram; another comes to where it is, and shares its lane.
        hub.heard(3, at(&c), None, OPEN, second(0));
        say(&c, 1);
        assert_eq!(waiting(&mut hub).await, [(OPEN, 1)]);
        hub.heard(3, at(&c), None, OPEN, second(1));
        hub.heard(5, at(&c), None, 3, second(1));
        say(&a, 1);
        say(&c, 2);
        assert_eq!(waiting(&mut hub).await, [(3, 2), (OPEN, 1)]);
        // Who is not heard any more has none.
        hub.tidy(second(400));
        say(&b, 1);
        say(&c, 1);
        assert_eq!(waiting(&mut hub).await, [(OPEN, 2)]);
        // Without lanes all is as with one socket.
        hub.end_lanes();
        hub.heard(3, at(&a), None, OPEN, second(500));
        say(&a, 1);
        say(&c, 1);
        assert_eq!(waiting(&mut hub).await, [(OPEN, 2)]);
    });
}

#[test]
fn a_taken_port_is_named() {
    in_runtime(async {
        let first = Udp::bind(0).expect("a port");
        let port = first.port().expect("bound");
        let Err(why) = Udp::bind(port) else { panic!("two sockets on one port") };
        assert!(matches!(why, UdpError::Taken(_)) && why.to_string().contains(&port.to_string()), "{why}");
    });
}

#[test]
fn an_answer_comes_from_the_address_that_was_called() {
    in_runtime(async {
        let mut hub = Udp::bind(0).expect("a port");
        let port = hub.port().expect("bound");
        // All of 127/8 is this host; what calls from it would be answered from 127.0.0.1.
        let called = SocketAddr::new(Ipv4Addr::new(127, 0, 0, 9).into(), port);
        let peer = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        peer.connect(called).expect("connected: it hears nobody else");
        peer.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        let from = peer.local_addr().expect("bound");
        let (mut incoming, mut outgoing, mut bytes) = (Incoming::new(), Outgoing::new(), [0; 8]);
        let now = Instant::from_boot(Duration::from_secs(9));
        for (turn, lane) in [(0, OPEN), (1, 7)] {
            peer.send(b"question").expect("sent");
            tokio::time::timeout(Duration::from_secs(5), hub.readable()).await.expect("something comes").expect("readable");
            assert_eq!(hub.waiting(Instant::default()).first(), Some(&(lane as u32)), "turn {turn}");
            hub.receive(lane, &mut incoming, now);
            let to = incoming.called(0);
            if turn == 0 {
                assert_eq!(to, Some(Ipv4Addr::new(127, 0, 0, 9).to_ipv6_mapped()));
                outgoing.room().expect("room")[..6].copy_from_slice(b"answer");
                outgoing.push(from, to, 6);
                hub.heard(7, from, to, OPEN, now);
            } else {
                outgoing.room().expect("room")[..6].copy_from_slice(b"answer");
                outgoing.push(from, hub.source(from), 6);
            }
            assert_eq!(hub.send(&outgoing), 0);
            outgoing.clear();
            assert_eq!(peer.recv(&mut bytes).expect("an answer"), 6);
        }
        // It calls another address.
        let other = SocketAddr::new(Ipv4Addr::new(127, 0, 0, 8).into(), port);
        peer.connect(other).expect("connected");
        peer.send(b"question").expect("sent");
        tokio::time::timeout(Duration::from_secs(5), hub.readable()).await.expect("something comes").expect("readable");
        hub.receive(OPEN, &mut incoming, now);
        hub.heard(7, from, incoming.called(0), OPEN, now + Duration::from_secs(2));
        assert_eq!(hub.source(from), Some(Ipv4Addr::new(127, 0, 0, 8).to_ipv6_mapped()));
        // The address is the host's no longer.
        let gone = Ipv4Addr::new(203, 0, 113, 77).to_ipv6_mapped();
        hub.lanes[7].as_mut().expect("a lane").source = Some(gone);
        outgoing.room().expect("room")[..6].copy_from_slice(b"answer");
        outgoing.push(from, hub.source(from), 6);
        assert_eq!(hub.send(&outgoing), 1);
        assert_eq!(hub.source(from), None, "the kernel chooses again");
    });
}

#[test]
fn while_it_rests_what_comes_in_the_open_wakes_nobody_and_is_there_afterwards() {
    in_runtime(async {
        let mut hub = Udp::bind(0).expect("a port");
        let target = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), hub.port().expect("bound"));
        let stranger = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let began = time::mono();
        hub.rest(began);
        for _ in 0..3 {
            stranger.send_to(b"nonsense", target).expect("sent");
        }
        tokio::time::timeout(Duration::from_secs(5), hub.readable()).await.expect("the rest ends").expect("readable");
        assert!(time::mono() >= began + REST, "nothing woke it");
        assert!(hub.waiting(began).is_empty());
        let mut incoming = Incoming::new();
        let mut turns = 0;
        while hub.waiting(began + REST).is_empty() {
            tokio::time::timeout(Duration::from_secs(5), hub.readable()).await.expect("something is there").expect("readable");
            turns += 1;
            assert!(turns < 3, "it listens again");
        }
        assert_eq!(hub.receive(OPEN, &mut incoming, began + REST).0, 3);
    });
}

#[test]
fn what_finds_a_queue_full_is_counted_also_when_its_lane_has_ended() {
    in_runtime(async {
        let (mut a, mut b) = (Udp::bind(0).expect("a port"), Udp::bind(0).expect("a port"));
        let from = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), a.port().expect("bound"));
        let target = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), b.port().expect("bound"));
        let flood = |a: &mut Udp| {
            let mut outgoing = Outgoing::new();
            // More than any queue of ours holds, at some 2 KiB of the kernel's memory each.
            for _ in 0..200 {
                while let Some(room) = outgoing.room() {
                    room[..1400].fill(7);
                    outgoing.push(target, None, 1400);
                }
                a.send(&outgoing);
                outgoing.clear();
            }
        };
        assert_eq!(b.overflowed(), 0);
        flood(&mut a);
        let open = b.overflowed();
        assert!(open > 0);
        b.heard(1, from, None, OPEN, Instant::default());
        flood(&mut a);
        let lane = b.overflowed();
        assert!(lane > open, "{lane} {open}");
        b.end_lanes();
        assert_eq!(b.overflowed(), lane);
    });
}
