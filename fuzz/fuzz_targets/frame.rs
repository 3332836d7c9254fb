//! Anything may come from the device as a frame, and from a peer as packets: frames are taken apart, packets put together and taken apart
//! again. No payload is lost or made up, and what goes in together comes out with right checksums.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice::budget::DATAGRAM_MAX;
use sluice::tunnel::Checksum;
use sluice::tunnel::coalesce::{Coalescer, Joins};
use sluice::tunnel::offload::{Large, OFFLOAD, Offload};
use sluice::tunnel::packet::Header;
use sluice::tunnel::remap;
use sluice::tunnel::segment::Segments;

fuzz_target!(|input: &[u8]| {
    let Some((head, frame)) = input.split_first_chunk::<OFFLOAD>() else { return };
    let offload = Offload::read(head);
    let mut bytes = frame.to_vec();
    let mut all = Coalescer::new(if head[0] & 2 == 0 { Joins::TcpAndUdp } else { Joins::Tcp });
    let (mut segments, mut packets) = (Segments::new(offload, &mut bytes), Vec::new());
    while let Some((packet, checksum)) = segments.next(&mut bytes) {
        if let Ok(header) = Header::read(packet) {
            if checksum == Checksum::Partial {
                remap::complete(packet, &header);
            }
        }
        packets.push(packet.to_vec());
    }
    assert!(packets.iter().map(Vec::len).sum::<usize>() >= frame.len());
    if offload.large == Large::No {
        assert_eq!(packets.len(), 1);
    }
    for packets in packets.chunks(sluice::budget::FRAME_PACKETS) {
        for packet in packets.iter().filter(|packet| packet.len() <= DATAGRAM_MAX) {
            all.slot().expect("a slot")[..packet.len()].copy_from_slice(packet);
            all.take(packet.len());
        }
        let mut again = Vec::new();
        for at in 0..all.frames() {
            let (head, count) = all.finish(at);
            let mut frame = all.pieces(at).collect::<Vec<_>>().concat();
            let mut segments = Segments::new(Offload::read(&head), &mut frame);
            let before = again.len();
            while let Some((packet, checksum)) = segments.next(&mut frame) {
                if checksum == Checksum::Partial {
                    let header = Header::read(packet).expect("only packets are joined");
                    remap::complete(packet, &header);
                }
                again.push(packet.to_vec());
            }
            assert_eq!(again.len() - before, count);
        }
        all.clear();
        let mut went: Vec<_> = packets.iter().filter(|packet| packet.len() <= DATAGRAM_MAX).cloned().collect();
        // The numbers of packets that may not be cut change, and with them the header's checksum.
        for packet in went.iter_mut().chain(&mut again).filter(|packet| packet.len() >= 20) {
            packet[4..6].fill(0);
            packet[10..12].fill(0);
        }
        went.sort_unstable();
        again.sort_unstable();
        assert_eq!(went, again);
    }
});
