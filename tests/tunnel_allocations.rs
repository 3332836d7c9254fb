//! The established packet path allocates nothing, in either direction. A program of its own, because it counts what the whole process does.
#![expect(clippy::disallowed_methods, reason = "boringtun reads the system clock, and the figures are timed")]
#![allow(unsafe_code, reason = "an allocator that counts can only be written so")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sluice::clock::{Instant, Now, WallTime};
use sluice::identity::{End, PeerId, SecretKey};
use sluice::tunnel::{Addresses, Checksum, Gateway, PeerSpec, Verdict, public_key};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const PLACES: [&str; 2] = ["192.0.2.1:51820", "198.51.100.7:40000"];

fn place(at: usize) -> SocketAddr {
    PLACES[at].parse().expect("a socket address")
}

fn gateway(at: usize, now: Now) -> Gateway {
    let system = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).expect("after 1970");
    let system = WallTime(system.as_secs() as i64);
    let mut gateway = Gateway::new(&SecretKey([at as u8 + 1; 32]), now, WallTime(0), system);
    let (pods, image) = ("10.42.0.0/16".parse().expect("a prefix"), "10.71.0.0/16".parse().expect("a prefix"));
    gateway.set_local(&[pods], &[]).expect("room");
    let addresses = Addresses {
        end: [End::Inviter, End::Joiner][at],
        control: Some(([10, 70, 0, 2].into(), [10, 70, 1, 1].into())),
        node: Some(([10, 70, 0, 1].into(), [10, 70, 2, 1].into())),
        remote: [(pods, image)].into_iter().collect(),
    };
    let spec = PeerSpec {
        id: PeerId(0),
        public_key: public_key(&SecretKey([2 - at as u8; 32])),
        secret: None,
        preshared: None,
        keepalive: Some(Duration::from_secs(25)),
        endpoints: [place(1 - at)].into_iter().collect(),
        addresses,
    };
    gateway.add_peer(spec, now, system).expect("a free row");
    gateway
}

/// Carries what waits in one gateway to the other, and answers, until nothing moves.
fn settle(gateways: &mut [Gateway; 2], now: Now) {
    let (mut datagram, mut out) = ([0; 2048], [0; 2048]);
    loop {
        let mut moved = false;
        for from in 0..2 {
            while let Some((_, len)) = gateways[from].poll_datagram(&mut datagram) {
                moved = true;
                let (mut bytes, mut sender) = (datagram[..len].to_vec(), from);
                while let Verdict::ToPeer { len, .. } = gateways[1 - sender].handle_datagram(place(sender), &bytes, now, &mut out) {
                    bytes = out[..len].to_vec();
                    sender = 1 - sender;
                }
            }
        }
        if !moved {
            return;
        }
    }
}

#[test]
fn an_established_path_allocates_nothing() {
    let mut now = Now { mono: Instant::from_boot(Duration::from_secs(100)), wall: WallTime(0) };
    let mut gateways = [gateway(0, now), gateway(1, now)];
    settle(&mut gateways, now);
    let mut original = vec![0u8; 1420];
    original[..20].copy_from_slice(&[0x45, 0, 5, 140, 0, 1, 0, 0, 64, 17, 0, 0, 10, 42, 0, 9, 10, 71, 0, 9]);
    let (mut packet, mut datagram, mut out) = (original.clone(), [0; 2048], [0; 2048]);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let began = std::time::Instant::now();
    const PACKETS: usize = 20_000;
    for n in 0..PACKETS {
        let from = n % 2;
        // 100 s in all: timers are looked at, and no session is old enough to be renewed.
        now.mono = now.mono + Duration::from_millis(5);
        packet.copy_from_slice(&original);
        let Verdict::ToPeer { len, .. } = gateways[from].handle_packet(&mut packet, Checksum::Whole, now, &mut datagram) else { panic!("not sealed") };
        let verdict = gateways[1 - from].handle_datagram(place(from), &datagram[..len], now, &mut out);
        assert_eq!(verdict, Verdict::ToTun { peer: PeerId(0), len: original.len() });
        for gateway in &mut gateways {
            assert_eq!(gateway.poll_datagram(&mut out), None);
            while gateway.poll_event().is_some() {}
            if gateway.poll_timeout().is_some_and(|due| due <= now.mono) {
                gateway.handle_timeout(now);
            }
        }
    }
    let (took, made) = (began.elapsed(), ALLOCATIONS.load(Ordering::Relaxed) - before);
    assert_eq!(made, 0, "allocations in {PACKETS} packets");
    println!("{PACKETS} packets there and opened: {:?} each", took / PACKETS as u32);
}
