//! Holds TCP to the path MTU: the segment size that a SYN announces is lowered to what goes through in one piece (RFC 9293, 3.7.1; RFC 6691).
//! Both directions pass here, so neither end needs to learn the path by loss. Pure; called by the gateway for every packet.

use crate::tunnel::packet::{Header, IPV4, TCP};
use crate::tunnel::remap::{self, Checksum};

const SYN: u8 = 0x02;
/// Bytes of the TCP header without options.
const PLAIN: usize = 20;
/// The option's kind, its length, and the kinds that have no length.
const MSS: u8 = 2;
const MSS_LENGTH: u8 = 4;
const END: u8 = 0;
const NOTHING: u8 = 1;

/// Lowers the segment size in a SYN to what an IP packet of `mtu` bytes holds. `header` must have been read from this very packet.
#[inline]
pub fn clamp(packet: &mut [u8], header: &Header, mtu: u16, checksum: Checksum) {
    // A later fragment may be shorter than a TCP header; what is no fragment was read with a whole one.
    if header.protocol == TCP && !header.fragment && packet[IPV4 + 13] & SYN != 0 {
        lower(&mut packet[..header.total], mtu.saturating_sub((IPV4 + PLAIN) as u16), checksum);
    }
}

fn lower(packet: &mut [u8], most: u16, checksum: Checksum) {
    let end = IPV4 + usize::from(packet[IPV4 + 12] >> 4) * 4;
    // A header that ends behind the packet is none.
    if end > packet.len() {
        return;
    }
    let mut at = IPV4 + PLAIN;
    while at < end {
        let length = match packet[at] {
            END => return,
            NOTHING => 1,
            // A length of less than two makes no sense, and what follows neither.
            kind => match packet.get(at + 1) {
                Some(&MSS_LENGTH) if kind == MSS && at + 4 <= end => {
                    let announced = u16::from_be_bytes([packet[at + 2], packet[at + 3]]);
                    if announced > most {
                        remap::replace(packet, at + 2, most, checksum);
                    }
                    return;
                }
                Some(&length) if length >= 2 => usize::from(length),
                _ => return,
            },
        };
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::segment::intact;
    use crate::tunnel::sum::{pseudo, sum};

    /// A SYN with these options and right checksums.
    fn syn(options: &[u8]) -> Vec<u8> {
        let mut p = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, TCP, 0, 0, 10, 42, 0, 9, 10, 71, 0, 9];
        p.extend([0x1f, 0x90, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0, SYN, 0xfa, 0xf0, 0, 0, 0, 0]);
        p.extend(options);
        p.resize(p.len().next_multiple_of(4), 0);
        p[32] = (((p.len() - IPV4) / 4) as u8) << 4;
        let total = p.len() as u16;
        p[2..4].copy_from_slice(&total.to_be_bytes());
        let header = !sum(&p[..IPV4]);
        p[10..12].copy_from_slice(&header.to_be_bytes());
        let pseudo = pseudo([10, 42, 0, 9].into(), [10, 71, 0, 9].into(), TCP, p.len() - IPV4);
        p[36..38].copy_from_slice(&pseudo.to_be_bytes());
        let whole = !sum(&p[IPV4..]);
        p[36..38].copy_from_slice(&whole.to_be_bytes());
        p
    }

    fn clamped(packet: &[u8], mtu: u16) -> Vec<u8> {
        let (mut packet, header) = (packet.to_vec(), Header::read(packet).expect("a packet"));
        clamp(&mut packet, &header, mtu, Checksum::Whole);
        assert!(intact(&packet), "checksums are right");
        packet
    }

    #[test]
    fn a_segment_size_is_lowered_wherever_it_stands_and_never_raised() {
        for (options, place) in
            [(&[2, 4, 5, 180][..], 42), (&[1, 2, 4, 5, 180], 43), (&[8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 2, 4, 5, 180], 52), (&[4, 2, 1, 2, 4, 255, 255], 45)]
        {
            let (before, after) = (syn(options), clamped(&syn(options), 1220));
            assert_eq!(after[place..place + 2], 1180_u16.to_be_bytes(), "{options:?}");
            let others = |p: &[u8]| [&p[..36], &p[38..place], &p[place + 2..]].concat();
            assert_eq!(others(&before), others(&after), "nothing else changes");
            assert_eq!(clamped(&after, 1440), after);
        }
    }

    #[test]
    fn what_has_none_or_makes_no_sense_stays_as_it_is() {
        for options in [
            &[][..],
            &[1, 1, 1, 1],
            &[0, 2, 4, 5, 180],
            &[2, 3, 5, 180],
            &[8, 0, 2, 4, 5, 180],
            &[8, 1, 2, 4, 5, 180, 0, 0],
            &[3, 60, 2, 4, 5, 180],
            &[1, 1, 2, 4],
        ] {
            let packet = syn(options);
            assert_eq!(clamped(&packet, 600), packet, "{options:?}");
        }
        let mut data = syn(&[2, 4, 5, 180]);
        data[33] = 0x10;
        let header = Header::read(&data).expect("a packet");
        let before = data.clone();
        clamp(&mut data, &header, 600, Checksum::Whole);
        assert_eq!(data, before, "only a SYN announces");
        // A header longer than the packet.
        let mut long = syn(&[2, 4, 5, 180]);
        long[32] = 0xf0;
        clamp(&mut long, &header, 600, Checksum::Whole);
    }

    #[test]
    fn an_unfinished_checksum_stays_for_the_one_who_finishes_it() {
        let mut packet = syn(&[2, 4, 5, 180]);
        let header = Header::read(&packet).expect("a packet");
        let begun = pseudo(header.source, header.destination, TCP, packet.len() - IPV4);
        packet[36..38].copy_from_slice(&begun.to_be_bytes());
        clamp(&mut packet, &header, 1220, Checksum::Partial);
        remap::complete(&mut packet, &header);
        assert!(intact(&packet));
        assert_eq!(packet[42..44], 1180_u16.to_be_bytes());
    }

    #[test]
    fn a_fragment_shorter_than_a_tcp_header_is_let_alone() {
        for place in [[0x20, 0], [0, 1], [0x20, 1], [0x1f, 0xff]] {
            for length in IPV4..=IPV4 + PLAIN {
                let mut packet = syn(&[])[..length].to_vec();
                packet[3] = length as u8;
                packet[6..8].copy_from_slice(&place);
                let Ok(header) = Header::read(&packet) else { continue };
                let before = packet.clone();
                clamp(&mut packet, &header, 1200, Checksum::Whole);
                assert_eq!(packet, before);
            }
        }
    }

    #[test]
    fn a_header_that_ends_behind_the_packet_is_let_alone() {
        for options in [&[NOTHING, MSS, MSS_LENGTH, 0x05, 0xb4, NOTHING, NOTHING, NOTHING][..], &[MSS, MSS_LENGTH, 0x05, 0xb4, 3, 3, 7, NOTHING]] {
            let whole = syn(options);
            for length in IPV4 + PLAIN..whole.len() {
                let mut packet = whole[..length].to_vec();
                packet[3] = length as u8;
                let before = packet.clone();
                clamp(&mut packet, &Header::read(&before).expect("a packet"), 1200, Checksum::Whole);
                assert_eq!(packet, before);
            }
        }
    }
}
