//! Anything may come out of a tunnel or the device: read, taken for a probe, held to a path MTU, rewritten there and back, finished.
//! Rewriting back restores every byte but those of checksums that have two forms.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice::identity::End;
use sluice::tunnel::Checksum;
use sluice::tunnel::mss;
use sluice::tunnel::packet::Header;
use sluice::tunnel::path::Probe;
use sluice::tunnel::remap::{self, Ends};

fuzz_target!(|input: &[u8]| {
    let Some((&kind, packet)) = input.split_first() else { return };
    let checksum = if kind & 1 == 0 { Checksum::Whole } else { Checksum::Partial };
    let Ok(header) = Header::read(packet) else { return };
    let _ = (header.ports(packet), header.is_echo(packet));
    if let Some(probe) = Probe::read(packet) {
        let mut again = vec![0; packet.len().min(1500)];
        probe.write(End::Joiner, &mut again);
        assert_eq!(Probe::read(&again), Some(probe));
    }
    let mut held = packet.to_vec();
    mss::clamp(&mut held, &header, 1200, checksum);
    let clamped = held.clone();
    mss::clamp(&mut held, &header, 1200, checksum);
    assert_eq!(held, clamped, "once is enough");
    assert_eq!(held[header.total..], packet[header.total..]);
    let Ok(quote) = header.quote(packet) else { return };
    let mut bytes = packet.to_vec();
    let new = Ends { source: [10, 71, 0, 9].into(), destination: [10, 42, 0, 9].into() };
    remap::rewrite(&mut bytes, &header, new, quote.map(|quote| (quote, new)), checksum);
    let moved = Header::read(&bytes).expect("still a packet");
    assert_eq!((moved.source, moved.destination), (new.source, new.destination));
    assert_eq!((moved.total, moved.protocol, moved.later), (header.total, header.protocol, header.later));
    let quoted = moved.quote(&bytes).expect("still a quote");
    assert_eq!(quoted.is_some(), quote.is_some());
    assert_eq!(bytes[header.total..], packet[header.total..]);
    let old = Ends { source: header.source, destination: header.destination };
    let back = quoted.zip(quote).map(|(now, then)| (now, Ends { source: then.source, destination: then.destination }));
    remap::rewrite(&mut bytes, &moved, old, back, checksum);
    for (at, (is, was)) in bytes.chunks(2).zip(packet.chunks(2)).enumerate() {
        let two_forms = matches!((is, was), ([0, 0], [255, 255]) | ([255, 255], [0, 0]));
        assert!(is == was || two_forms || [10, 22, 26, 36, 38, 54, 64].contains(&(2 * at)), "word {at}");
    }
    if checksum == Checksum::Partial {
        remap::complete(&mut bytes, &header);
    }
});
