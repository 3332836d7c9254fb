//! Rewrites the addresses of a packet and keeps its checksums right without summing it up again (RFC 1624, equation 3). Who becomes whom is
//! not decided here. Pure; called by the gateway for both directions.
//!
//! TCP and UDP checksums cover the addresses, ICMP's does not; an ICMP error quotes a packet whose own header is rewritten, and the
//! outer ICMP checksum follows those changes. A UDP checksum of 0 means none and stays 0. SCTP and others are left alone behind the header.

use std::net::Ipv4Addr;

use crate::tunnel::packet::{Header, IPV4, Quote, TCP, UDP};
use crate::tunnel::sum::{fold, sum};

/// What the transport checksum field of a packet from the device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// A finished checksum.
    Whole,
    /// Only the sum over the pseudo header, not complemented: the kernel left the rest to the device (VIRTIO_NET_HDR_F_NEEDS_CSUM).
    Partial,
}

/// The two addresses of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Where it comes from.
    pub source: Ipv4Addr,
    /// Where it goes.
    pub destination: Ipv4Addr,
}

/// Gives the packet, and the packet it quotes if it is an ICMP error, new addresses.
/// `header` and `quote` must have been read from this very packet.
pub fn rewrite(packet: &mut [u8], header: &Header, ends: Ends, quote: Option<(Quote, Ends)>, checksum: Checksum) {
    let packet = &mut packet[..header.total];
    let change = write_ends(packet, 0, Ends { source: header.source, destination: header.destination }, ends);
    if !header.later {
        match (header.protocol, checksum) {
            (TCP | UDP, Checksum::Partial) => add_to_sum(packet, checksum_at(header.protocol), change),
            (TCP | UDP, Checksum::Whole) => {
                adjust_transport(packet, IPV4, header.protocol, change);
            }
            _ => {}
        }
    }
    if let Some((quote, ends)) = quote {
        rewrite_quote(packet, quote, ends);
    }
}

/// Finishes a partial checksum, as the device would have: the packet is about to be sealed, and no device comes after that.
pub fn complete(packet: &mut [u8], header: &Header) {
    if header.later || !matches!(header.protocol, TCP | UDP) {
        return;
    }
    let packet = &mut packet[..header.total];
    let at = IPV4 + checksum_at(header.protocol);
    let sum = sum(&packet[IPV4..]);
    store(packet, at, never_none(header.protocol, !sum));
}

/// Replaces the two bytes at `at` behind the fixed header of a whole TCP packet, and corrects the checksum if it is finished.
pub(crate) fn replace(packet: &mut [u8], at: usize, word: u16, checksum: Checksum) {
    // The sum is one of words at even places.
    let (first, last) = (at & !1, (at + 1) & !1);
    let before = (load(packet, first), load(packet, last));
    store(packet, at, word);
    if checksum == Checksum::Whole {
        let mut change = replaced(before.0, load(packet, first));
        if last != first {
            change += replaced(before.1, load(packet, last));
        }
        adjust(packet, IPV4 + checksum_at(TCP), change);
    }
}

fn rewrite_quote(packet: &mut [u8], quote: Quote, ends: Ends) {
    let at = Quote::AT;
    let before = load(packet, at + 10);
    let mut change = write_ends(packet, at, Ends { source: quote.source, destination: quote.destination }, ends);
    let pseudo = change;
    change += replaced(before, load(packet, at + 10));
    if !quote.later {
        change += adjust_transport(packet, at + IPV4, quote.protocol, pseudo);
    }
    adjust(packet, IPV4 + 2, change);
}

/// Writes both addresses into the IP header at `at` and corrects its checksum; the change of the sum is returned.
fn write_ends(packet: &mut [u8], at: usize, old: Ends, new: Ends) -> u32 {
    let change = differs(old.source, new.source) + differs(old.destination, new.destination);
    packet[at + 12..at + 16].copy_from_slice(&new.source.octets());
    packet[at + 16..at + 20].copy_from_slice(&new.destination.octets());
    adjust(packet, at + 10, change);
    change
}

/// Corrects the checksum of the transport that begins at `at`, if it has one (a quote may be cut before it); the change that this makes
/// to a sum over the packet is returned.
fn adjust_transport(packet: &mut [u8], at: usize, protocol: u8, change: u32) -> u32 {
    if !matches!(protocol, TCP | UDP) {
        return 0;
    }
    let at = at + checksum_at(protocol);
    if packet.len() < at + 2 {
        return 0;
    }
    let old = load(packet, at);
    if protocol == UDP && old == 0 {
        return 0;
    }
    let new = never_none(protocol, adjusted(old, change));
    store(packet, at, new);
    replaced(old, new)
}

/// RFC 768: a computed UDP checksum of 0 is sent as all ones.
fn never_none(protocol: u8, checksum: u16) -> u16 {
    if protocol == UDP && checksum == 0 { 0xffff } else { checksum }
}

const fn checksum_at(protocol: u8) -> usize {
    if protocol == TCP { 16 } else { 6 }
}

fn add_to_sum(packet: &mut [u8], at: usize, change: u32) {
    let sum = u32::from(load(packet, IPV4 + at)) + change;
    store(packet, IPV4 + at, fold(sum));
}

fn adjust(packet: &mut [u8], at: usize, change: u32) {
    let new = adjusted(load(packet, at), change);
    store(packet, at, new);
}

fn adjusted(checksum: u16, change: u32) -> u16 {
    !fold(u32::from(!checksum) + change)
}

/// What replacing one word by another adds to a one's complement sum: ~m + m'.
fn replaced(old: u16, new: u16) -> u32 {
    u32::from(!old) + u32::from(new)
}

fn differs(old: Ipv4Addr, new: Ipv4Addr) -> u32 {
    let ([a, b, c, d], [e, f, g, h]) = (old.octets(), new.octets());
    replaced(u16::from_be_bytes([a, b]), u16::from_be_bytes([e, f])) + replaced(u16::from_be_bytes([c, d]), u16::from_be_bytes([g, h]))
}

fn load(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

fn store(packet: &mut [u8], at: usize, word: u16) {
    packet[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (what it is, its checksum, the packet before, the packet after): the source 10.42.0.9 becomes 10.71.0.9, in a quote the destination.
    /// Both packets were built and summed up in full by an independent program.
    #[rustfmt::skip]
    const GOLDEN: &[(&str, Checksum, &str, &str)] = &[
        (
            "TCP",
            Checksum::Whole,
            "4500002d123400003f0652340a2a00090a2a03079c400050010203040a0b0c0d501802009be3000068656c6c6f",
            "4500002d123400003f0652170a4700090a2a03079c400050010203040a0b0c0d501802009bc6000068656c6c6f",
        ),
        (
            "UDP",
            Checksum::Whole,
            "45000024123400003f1152320a2a00090a2a030713880035001019ed7175657374696f6e",
            "45000024123400003f1152150a4700090a2a030713880035001019d07175657374696f6e",
        ),
        (
            "UDP without a checksum",
            Checksum::Whole,
            "45000024123400003f1152320a2a00090a2a030713880035001000007175657374696f6e",
            "45000024123400003f1152150a4700090a2a030713880035001000007175657374696f6e",
        ),
        (
            "UDP whose new checksum would be none",
            Checksum::Whole,
            "4500001e123400003f1152380a2a00090a2a030713880035000a001dd49c",
            "4500001e123400003f11521b0a4700090a2a030713880035000affffd49c",
        ),
        (
            "ICMP echo",
            Checksum::Whole,
            "45000024123400003f0152420a2a00090a2a030708003aa7000700017061796c6f616421",
            "45000024123400003f0152250a4700090a2a030708003aa7000700017061796c6f616421",
        ),
        (
            "ICMP unreachable that quotes UDP",
            Checksum::Whole,
            "4500003e123400003f0152280a2a00090a2a0307030314800000000045000022123400003f1152340a2a03070a2a000900351388000e9a59616e73776572",
            "4500003e123400003f01520b0a4700090a2a03070303149d0000000045000022123400003f1152170a2a03070a47000900351388000e9a3c616e73776572",
        ),
        (
            "ICMP time exceeded that quotes 8 bytes of TCP",
            Checksum::Whole,
            "45000038123400003f01522e0a2a00090a2a03070b0054690000000045000032123400003f06522f0a2a03070a2a000900509c4001020304",
            "45000038123400003f0152110a4700090a2a03070b0054690000000045000032123400003f0652120a2a03070a47000900509c4001020304",
        ),
        (
            "ICMP too big that quotes a whole TCP header",
            Checksum::Whole,
            "45000050123400003f0152160a2a00090a2a030703040f860000050045000034123400003f06522d0a2a03070a2a000900509c40010203040a0b0c0d501802000cdc0000787878787878787878787878",
            "45000050123400003f0151f90a4700090a2a030703040fa30000050045000034123400003f0652100a2a03070a47000900509c40010203040a0b0c0d501802000cbf0000787878787878787878787878",
        ),
        (
            "ICMP unreachable that quotes UDP without a checksum",
            Checksum::Whole,
            "4500003e123400003f0152280a2a00090a2a03070303aed90000000045000022123400003f1152340a2a03070a2a000900351388000e0000616e73776572",
            "4500003e123400003f01520b0a4700090a2a03070303aed90000000045000022123400003f1152170a2a03070a47000900351388000e0000616e73776572",
        ),
        (
            "ICMP unreachable that quotes a later fragment",
            Checksum::Whole,
            "45000038123400003f01522e0a2a00090a2a03070301594b000000004500001c123400b93f1151810a2a03070a2a0009667261676d656e74",
            "45000038123400003f0152110a4700090a2a03070301594b000000004500001c123400b93f1151640a2a03070a470009667261676d656e74",
        ),
        (
            "ICMP unreachable that quotes an echo",
            Checksum::Whole,
            "45000040123400003f0152260a2a00090a2a03070301fcfe0000000045000024123400003f0152420a2a03070a2a000908003aa7000700017061796c6f616421",
            "45000040123400003f0152090a4700090a2a03070301fcfe0000000045000024123400003f0152250a2a03070a47000908003aa7000700017061796c6f616421",
        ),
        (
            "a first fragment of UDP",
            Checksum::Whole,
            "45000024123420003f1132320a2a00090a2a030713880035001019ed7175657374696f6e",
            "45000024123420003f1132150a4700090a2a030713880035001019d07175657374696f6e",
        ),
        (
            "a later fragment of TCP",
            Checksum::Whole,
            "4500002e123400b93f06517a0a2a00090a2a03076e6f2068656164657220686572652c206f6e6c79206279746573",
            "4500002e123400b93f06515d0a4700090a2a03076e6f2068656164657220686572652c206f6e6c79206279746573",
        ),
        (
            "SCTP",
            Checksum::Whole,
            "45000024123400003f8451bf0a2a00090a2a03070b590b59000000000102030400030010",
            "45000024123400003f8451a20a4700090a2a03070b590b59000000000102030400030010",
        ),
        (
            "TCP with a partial checksum",
            Checksum::Partial,
            "4500002d123400003f0652340a2a00090a2a03079c400050010203040a0b0c0d501802001783000068656c6c6f",
            "4500002d123400003f0652170a4700090a2a03079c400050010203040a0b0c0d5018020017a0000068656c6c6f",
        ),
        (
            "UDP with a partial checksum",
            Checksum::Partial,
            "45000024123400003f1152320a2a00090a2a030713880035001017857175657374696f6e",
            "45000024123400003f1152150a4700090a2a030713880035001017a27175657374696f6e",
        ),
    ];

    /// (with a partial checksum, with the finished one), the last one's computed to 0.
    #[rustfmt::skip]
    const FINISHED: &[(&str, &str)] = &[
        (
            "4500002d123400003f0652340a2a00090a2a03079c400050010203040a0b0c0d501802001783000068656c6c6f",
            "4500002d123400003f0652340a2a00090a2a03079c400050010203040a0b0c0d501802009be3000068656c6c6f",
        ),
        (
            "45000024123400003f1152320a2a00090a2a030713880035001017857175657374696f6e",
            "45000024123400003f1152320a2a00090a2a030713880035001019ed7175657374696f6e",
        ),
        (
            "4500001e123400003f11521b0a4700090a2a030713880035000a179cd49c",
            "4500001e123400003f11521b0a4700090a2a030713880035000affffd49c",
        ),
    ];

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
    }

    fn mapped(address: Ipv4Addr, from: &str, to: &str) -> Ipv4Addr {
        if address == from.parse::<Ipv4Addr>().expect("an address") { to.parse().expect("an address") } else { address }
    }

    fn remap(packet: &mut [u8], from: &str, to: &str, checksum: Checksum) {
        let header = Header::read(packet).expect("a packet");
        let quote = header.quote(packet).expect("a quote or none");
        let quote = quote.map(|quote| (quote, Ends { source: quote.source, destination: mapped(quote.destination, from, to) }));
        rewrite(packet, &header, Ends { source: mapped(header.source, from, to), destination: header.destination }, quote, checksum);
    }

    #[test]
    fn golden_packets_are_rewritten_there_and_back() {
        for &(what, checksum, before, after) in GOLDEN {
            let mut packet = bytes(before);
            remap(&mut packet, "10.42.0.9", "10.71.0.9", checksum);
            assert_eq!(packet, bytes(after), "{what}");
            remap(&mut packet, "10.71.0.9", "10.42.0.9", checksum);
            assert_eq!(packet, bytes(before), "{what}, back");
        }
    }

    #[test]
    fn a_partial_checksum_is_finished() {
        for (partial, finished) in FINISHED {
            let mut packet = bytes(partial);
            let header = Header::read(&packet).expect("a packet");
            complete(&mut packet, &header);
            assert_eq!(packet, bytes(finished));
        }
    }

    #[test]
    fn bytes_behind_the_packet_are_not_touched() {
        for &(what, checksum, before, after) in GOLDEN {
            let mut packet = bytes(before);
            packet.extend([0xee; 24]);
            remap(&mut packet, "10.42.0.9", "10.71.0.9", checksum);
            let mut expected = bytes(after);
            expected.extend([0xee; 24]);
            assert_eq!(packet, expected, "{what}");
        }
    }

    #[test]
    fn errors_that_quote_what_cannot_be_rewritten_are_refused() {
        let unreachable = bytes(GOLDEN[5].2);
        type Change = fn(&mut Vec<u8>);
        let changes: [Change; 4] = [|p| p[28] = 0x46, |p| p[28] = 0x65, |p| p[3] = 47, |p| p[20] = 5];
        for (at, change) in changes.into_iter().enumerate() {
            let mut packet = unreachable.clone();
            change(&mut packet);
            let header = Header::read(&packet).expect("a packet");
            assert_eq!(header.quote(&packet), Err(crate::tunnel::Reason::ForeignQuote), "case {at}");
        }
    }
}
