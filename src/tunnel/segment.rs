//! A large frame from the TUN device taken apart into the packets it stands for, as a network card would: TCP segments or UDP datagrams
//! with headers of their own. Pure; called by the shell for every frame, and each packet goes to the gateway before the next is made.
//!
//! Nothing is copied but headers. A packet's headers are written right before its payload, over the end of the payload before it, which has
//! been sealed by then. Transport checksums are left unfinished ([`Checksum::Partial`]), so that the gateway may still change the addresses.
//! Read first: `struct virtio_net_hdr`; Linux' net/ipv4/tcp_offload.c, `tcp_gso_segment`.

use std::net::Ipv4Addr;

use crate::tunnel::offload::{Large, Offload};
use crate::tunnel::packet::{IPV4, TCP, UDP};
use crate::tunnel::remap::Checksum;
use crate::tunnel::sum::{plus, pseudo, sum};

/// Bytes of the longest headers: IPv4 without options, TCP with all.
const HEADERS_MAX: usize = IPV4 + 60;
const UDP_HEADER: usize = 8;
const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// The packets of one frame.
pub struct Segments {
    headers: [u8; HEADERS_MAX],
    /// Bytes of `headers` in use; 0 if the frame is one packet.
    length: usize,
    size: usize,
    /// Bytes of the frame's payload that have gone out.
    done: usize,
    sequence: u32,
    identification: u16,
    number: u16,
    /// For a frame of one packet: whether it has gone out, and the state of its checksum.
    one: Option<Checksum>,
}

impl Segments {
    /// Looks at a frame, which must stay the same but for what [`Segments::next`] does to it. One that cannot be cut is one packet, and
    /// what is wrong with it is the gateway's to say. An unfinished checksum that is not its outermost transport's is finished here.
    pub fn new(offload: Offload, frame: &mut [u8]) -> Segments {
        let mut all =
            Segments { headers: [0; HEADERS_MAX], length: 0, size: usize::from(offload.size), done: 0, sequence: 0, identification: 0, number: 0, one: None };
        match headers(&offload, frame) {
            Some(length) => {
                all.headers[..length].copy_from_slice(&frame[..length]);
                all.length = length;
                all.identification = u16::from_be_bytes([frame[4], frame[5]]);
                all.sequence = u32::from_be_bytes([frame[24], frame[25], frame[26], frame[27]]);
            }
            None => all.one = Some(whole(&offload, frame)),
        }
        all
    }

    /// The next packet, in its place in the frame.
    pub fn next<'a>(&mut self, frame: &'a mut [u8]) -> Option<(&'a mut [u8], Checksum)> {
        if self.length == 0 {
            return self.one.take().map(|checksum| (frame, checksum));
        }
        let left = frame.len().checked_sub(self.length + self.done).filter(|left| *left > 0)?;
        let payload = left.min(self.size);
        let (headers, transport) = (self.headers, self.length - IPV4 + payload);
        let packet = &mut frame[self.done..self.done + self.length + payload];
        packet[..self.length].copy_from_slice(&headers[..self.length]);
        packet[2..4].copy_from_slice(&((self.length + payload) as u16).to_be_bytes());
        packet[4..6].copy_from_slice(&self.identification.wrapping_add(self.number).to_be_bytes());
        packet[10..12].fill(0);
        let header = !sum(&packet[..IPV4]);
        packet[10..12].copy_from_slice(&header.to_be_bytes());
        let (last, protocol) = (payload == left, packet[9]);
        let partial = pseudo(address(packet, 12), address(packet, 16), protocol, transport).to_be_bytes();
        if protocol == TCP {
            packet[24..28].copy_from_slice(&self.sequence.wrapping_add(self.done as u32).to_be_bytes());
            if !last {
                packet[33] &= !FIN_PSH;
            }
            if self.done > 0 {
                packet[33] &= !CWR;
            }
            packet[36..38].copy_from_slice(&partial);
        } else {
            packet[24..26].copy_from_slice(&(transport as u16).to_be_bytes());
            packet[26..28].copy_from_slice(&partial);
        }
        self.done += payload;
        self.number = self.number.wrapping_add(1);
        Some((packet, Checksum::Partial))
    }
}

/// The length of the headers of a frame that can be cut.
fn headers(offload: &Offload, frame: &[u8]) -> Option<usize> {
    let protocol = match offload.large {
        Large::Tcp => TCP,
        Large::Udp => UDP,
        Large::No | Large::Other => return None,
    };
    // No options, no fragment; Header::read tells the same of every packet again.
    let fits = frame.len() > IPV4 + UDP_HEADER && frame[0] == 0x45 && frame[9] == protocol && frame[6] & 0x3f == 0 && frame[7] == 0;
    if !fits || offload.size == 0 {
        return None;
    }
    let transport = if protocol == TCP { usize::from(*frame.get(IPV4 + 12)? >> 4) * 4 } else { UDP_HEADER };
    let length = IPV4 + transport;
    ((protocol == UDP || transport >= 20) && frame.len() > length).then_some(length)
}

/// What a frame of one packet says of its checksum.
fn whole(offload: &Offload, frame: &mut [u8]) -> Checksum {
    if !offload.unfinished {
        return Checksum::Whole;
    }
    let outermost = match frame.get(9) {
        Some(&TCP) => (IPV4, 16),
        Some(&UDP) => (IPV4, 6),
        _ => (0, 0),
    };
    let (start, field) = (usize::from(offload.start), usize::from(offload.field));
    if frame.first() == Some(&0x45) && outermost == (start, field) {
        return Checksum::Partial;
    }
    // Of a packet within the packet, whose addresses nobody changes.
    if let Some(part) = frame.get_mut(start..)
        && part.len() >= field + 2
    {
        let checksum = match !sum(part) {
            // Its transport is not known here, and all ones is right for each.
            0 => 0xffff,
            other => other,
        };
        part[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    Checksum::Whole
}

/// Whether both checksums of an IPv4 packet without options are right, its header's and its transport's.
pub(crate) fn intact(packet: &[u8]) -> bool {
    let (header, transport) = packet.split_at(IPV4);
    sum(header) == 0xffff && plus(sum(transport), pseudo(address(packet, 12), address(packet, 16), packet[9], transport.len())) == 0xffff
}

fn address(packet: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::tunnel::packet::Header;
    use crate::tunnel::remap;

    /// (what it is, the header's word for it, payload bytes a packet, a frame, its packets): built and summed up in full by an independent program.
    const GOLDEN: &[(Large, u16, &str, [&str; 3])] = &[
        (
            Large::Tcp,
            16,
            "45000047ffff4000400623310a2a00090a4703079c400050fffffffa0a0b0c0d8019020017ba00000101080a000010010000200274686520717569636b2062726f776e20666f78",
            [
                "4500003cffff40004006233c0a2a00090a4703079c400050fffffffa0a0b0c0d80100200c62c00000101080a00001001000020027468652071756963",
                "4500003c000040004006233c0a2a00090a4703079c400050000000020a0b0c0d80100200cf5c00000101080a00001001000020026b2062726f776e20",
                "4500003700014000400623400a2a00090a4703079c4000500000000a0a0b0c0d801902009c0b00000101080a0000100100002002666f78",
            ],
        ),
        (
            Large::Udp,
            6,
            "4500002f00070000401163370a2a00090a47030713880035001b17ad74686520717569636b2062726f776e20666f78",
            [
                "4500002400070000401163420a2a00090a470307138800350010202f7468652071756963",
                "4500002400080000401163410a2a00090a47030713880035001029666b2062726f776e20",
                "4500001f00090000401163450a2a00090a47030713880035000bf62a666f78",
            ],
        ),
    ];

    pub(crate) fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
    }

    /// The packets with finished checksums.
    pub(crate) fn cut(offload: Offload, frame: &mut [u8]) -> Vec<Vec<u8>> {
        let (mut segments, mut packets) = (Segments::new(offload, frame), Vec::new());
        while let Some((packet, checksum)) = segments.next(frame) {
            if checksum == Checksum::Partial {
                let header = Header::read(packet).expect("a packet");
                remap::complete(packet, &header);
            }
            packets.push(packet.to_vec());
        }
        packets
    }

    #[test]
    fn golden_frames_are_cut_into_the_packets_a_card_would_send() {
        for &(large, field, frame, packets) in GOLDEN {
            let offload = Offload { unfinished: true, large, headers: 0, size: 8, start: 20, field };
            let found = cut(offload, &mut bytes(frame));
            assert_eq!(found, packets.map(bytes), "{large:?}");
        }
    }

    #[test]
    fn a_frame_no_longer_than_its_size_is_one_packet() {
        let (large, field, frame, _) = GOLDEN[0];
        let offload = Offload { unfinished: true, large, headers: 0, size: 100, start: 20, field };
        let found = cut(offload, &mut bytes(frame));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].len(), bytes(frame).len());
        assert!(intact(&found[0]));
    }

    #[test]
    fn what_cannot_be_cut_is_one_packet_for_the_gateway_to_judge() {
        let offload = Offload { unfinished: true, large: Large::Tcp, headers: 0, size: 8, start: 20, field: 16 };
        type Change = fn(&mut Vec<u8>);
        let changes: [Change; 8] =
            [|f| f.clear(), |f| f.truncate(28), |f| f[0] = 0x46, |f| f[0] = 0x60, |f| f[9] = 17, |f| f[6] = 0x20, |f| f[32] = 0x40, |f| f.truncate(52)];
        for (at, change) in changes.into_iter().enumerate() {
            let mut frame = bytes(GOLDEN[0].2);
            change(&mut frame);
            let mut segments = Segments::new(offload, &mut frame);
            let length = frame.len();
            assert_eq!(segments.next(&mut frame).map(|(packet, _)| packet.len()), Some(length), "case {at}");
            assert!(segments.next(&mut frame).is_none());
        }
        for offload in [Offload { size: 0, ..offload }, Offload { large: Large::Other, ..offload }] {
            let mut frame = bytes(GOLDEN[0].2);
            assert!(Segments::new(offload, &mut frame).next(&mut frame).is_some_and(|(packet, _)| packet.len() == 71));
        }
    }

    #[test]
    fn a_packet_in_a_packet_gets_its_checksum_at_once_and_the_outermost_later() {
        let mut one = bytes(GOLDEN[1].3[0]);
        let header = Header::read(&one).expect("a packet");
        one[26..28].copy_from_slice(&pseudo(header.source, header.destination, UDP, 16).to_be_bytes());
        let outer = Offload { unfinished: true, large: Large::No, headers: 0, size: 0, start: 20, field: 6 };
        let mut segments = Segments::new(outer, &mut one.clone());
        assert_eq!(segments.next(&mut one.clone()).map(|(_, checksum)| checksum), Some(Checksum::Partial));
        // The same behind 20 bytes of an outer header (IP in IP).
        let mut nested = bytes("4500003800070000400400000a2a00090a470307");
        nested.extend_from_slice(&one);
        let inner = Offload { start: 40, ..outer };
        let mut segments = Segments::new(inner, &mut nested);
        let (packet, checksum) = segments.next(&mut nested).expect("one packet");
        assert_eq!(checksum, Checksum::Whole);
        assert_eq!(packet[20..], bytes(GOLDEN[1].3[0]));
        // A place outside of the packet is nobody's.
        let wild = Offload { start: 9000, ..outer };
        assert_eq!(Segments::new(wild, &mut one).next(&mut one).map(|(_, checksum)| checksum), Some(Checksum::Whole));
    }
}
