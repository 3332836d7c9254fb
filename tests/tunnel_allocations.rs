//! The established packet path allocates nothing, in either direction. A program of its own, because it counts what its threads allocate.
#![expect(clippy::disallowed_methods, reason = "boringtun reads the system clock, and the figures are timed")]
#![allow(unsafe_code, reason = "an allocator that counts can only be written so")]

mod pair;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use pair::{Pair, place};
use sluice::identity::PeerId;
use sluice::tunnel::{Checksum, Verdict};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn an_established_path_allocates_nothing() {
    let Pair { mut gateways, mut now, .. } = Pair::new();
    let mut original = vec![0u8; 1420];
    original[..20].copy_from_slice(&[0x45, 0, 5, 140, 0, 1, 0, 0, 64, 17, 0, 0, 10, 42, 0, 9, 10, 71, 0, 9]);
    let (mut packet, mut datagram, mut out) = (original.clone(), [0; 2048], [0; 2048]);
    let before = ALLOCATIONS.get();
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
    let (took, made) = (began.elapsed(), ALLOCATIONS.get() - before);
    assert_eq!(made, 0, "allocations in {PACKETS} packets");
    println!("{PACKETS} packets there and opened: {:?} each", took / PACKETS as u32);
}

#[test]
fn frames_taken_apart_and_put_together_allocate_nothing() {
    let mut pair = Pair::new();
    let before = ALLOCATIONS.get();
    let (mut packets, began) = (0, std::time::Instant::now());
    for n in 0..200 {
        packets += pair.tcp(n * 61_560);
        packets += pair.udp();
        // 2 s in all: no keepalive is due yet.
        pair.rest(Duration::from_millis(10));
    }
    let (took, made) = (began.elapsed(), ALLOCATIONS.get() - before);
    assert_eq!(made, 0, "allocations in {packets} packets");
    println!("{packets} packets in frames: {:?} each", took / packets as u32);
}
