//! Anything may come from the network: whole inputs as datagrams, to a gateway with a peer, in any order of messages and lengths.
#![no_main]

use std::net::SocketAddr;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use sluice::clock::{Instant, Now, WallTime};
use sluice::identity::{End, PeerId, SecretKey};
use sluice::tunnel::{Addresses, Gateway, PathMtu, PeerSpec, Verdict, public_key};

fuzz_target!(|input: &[u8]| {
    let mut now = Now { mono: Instant::from_boot(Duration::from_secs(100)), wall: WallTime(0) };
    let from = SocketAddr::from(([192, 0, 2, 1], 51820));
    let mut gateway = Gateway::new(&SecretKey([1; 32]), now, WallTime(0), WallTime(0));
    let prefix = "10.42.0.0/16".parse().expect("a prefix");
    gateway.set_local(&[prefix], &[]).expect("room");
    let spec = PeerSpec {
        id: PeerId(0),
        public_key: public_key(&SecretKey([2; 32])),
        secret: None,
        preshared: None,
        keepalive: Some(Duration::from_secs(25)),
        endpoints: [from].into_iter().collect(),
        addresses: Addresses { end: End::Inviter, control: None, node: None, remote: [(prefix, prefix)].into_iter().collect() },
        path: PathMtu::Found(sluice::budget::PACKET_SAFE),
    };
    gateway.add_peer(spec, now, WallTime(0)).expect("a free row");
    let mut out = [0; 2048];
    let Some((_, len)) = gateway.poll_datagram(&mut out) else { return };
    // The index of our initiation, so that answers to it can be hit upon.
    let index = out[4..8].to_vec();
    assert_eq!(len, 148);
    let mut rest = input;
    while let [size, step, tail @ ..] = rest {
        let (piece, tail) = tail.split_at((usize::from(*size) * 8 + usize::from(step & 7)).min(tail.len()));
        rest = tail;
        now.mono = now.mono + Duration::from_millis(u64::from(*step) * 16);
        let mut datagram = piece.to_vec();
        if step & 8 != 0 && datagram.len() >= 12 {
            let at = if datagram[0] == 2 { 8 } else { 4 };
            datagram[at..at + 4].copy_from_slice(&index);
        }
        let verdict = gateway.handle_datagram(from, &datagram, now, &mut out);
        assert!(!matches!(verdict, Verdict::ToTun { .. }), "nobody knows the keys");
        gateway.handle_timeout(now);
        while gateway.poll_datagram(&mut out).is_some() {}
        while gateway.poll_event().is_some() {}
        assert!(gateway.poll_timeout().is_none_or(|due| due > now.mono), "a timer that spins");
    }
});
