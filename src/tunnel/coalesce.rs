//! Packets that follow each other in one flow, put together into large frames for the TUN device: the kernel then handles one frame
//! instead of forty packets. Pure; the shell lets the gateway open datagrams into the slots and writes the frames at the end of a batch.
//!
//! A frame says no more and no less than its packets: the kernel, or whoever has to, can cut it into the very same ones. TCP is joined if
//! the sequence goes on and acknowledgement, window, flags, options, TOS and TTL are equal; PSH and a shorter packet end a frame. UDP is
//! joined if sizes are equal, the last may be shorter. Only checksums that are right are replaced. Packets of one flow never overtake each
//! other. Nothing is copied: a frame is a list of pieces. Read first: Linux' net/ipv4/tcp_offload.c, `tcp_gro_receive`.

use crate::budget::{DATAGRAM_MAX, FRAME_PACKETS, OPENED_BYTES, OPENED_PACKETS};
use crate::tunnel::offload::{Large, OFFLOAD, Offload};
use crate::tunnel::packet::{IPV4, TCP, UDP};
use crate::tunnel::segment::intact;
use crate::tunnel::sum::{pseudo, sum};

const FRAME_MAX: usize = 65_535;
const UDP_HEADER: usize = 8;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
/// Flags that a packet which is joined may bear: ACK, PSH, ECE.
const PLAIN: u8 = ACK | PSH | 0x40;

const _: () = assert!(FRAME_PACKETS <= 64, "the kernel takes no frame of more datagrams");
const _: () = assert!(OPENED_PACKETS <= 256, "a slot's number is a byte");

/// Which packets may be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joins {
    /// None: the device takes no frames.
    None,
    /// TCP segments.
    Tcp,
    /// TCP segments and UDP datagrams.
    TcpAndUdp,
}

/// The slots, and which of them make a frame.
pub struct Coalescer {
    bytes: Box<[u8]>,
    slots: heapless::Vec<Slot, OPENED_PACKETS>,
    /// Bytes in use.
    used: usize,
    frames: heapless::Vec<Frame, OPENED_PACKETS>,
    joins: Joins,
}

/// Where a packet is, and the slot that follows in its frame.
#[derive(Clone, Copy)]
struct Slot {
    from: u32,
    length: u16,
    next: u8,
}

/// A frame in the making; of one packet to begin with.
#[derive(Clone, Copy)]
struct Frame {
    flow: Flow,
    /// Whether a packet may still be joined.
    open: bool,
    /// Whether the first packet's checksum was looked at.
    checked: bool,
    first: u8,
    last: u8,
    count: u8,
    /// Bytes of headers.
    headers: u8,
    /// Payload of the first packet, and of all.
    size: u16,
    payload: u32,
}

/// Addresses, ports and protocol. Of a packet without ports the addresses count alone.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Flow {
    addresses: u64,
    ports: Option<(u32, u8)>,
}

impl Flow {
    fn meets(&self, other: &Flow) -> bool {
        self.addresses == other.addresses && (self.ports == other.ports || self.ports.is_none() || other.ports.is_none())
    }
}

impl Coalescer {
    /// All slots, made once.
    pub fn new(joins: Joins) -> Coalescer {
        Coalescer { bytes: vec![0; OPENED_BYTES].into_boxed_slice(), slots: heapless::Vec::new(), used: 0, frames: heapless::Vec::new(), joins }
    }

    /// The next free slot, [`DATAGRAM_MAX`] long; `None` when what is here must be written first.
    pub fn slot(&mut self) -> Option<&mut [u8]> {
        if self.slots.is_full() {
            return None;
        }
        self.bytes.get_mut(self.used..self.used + DATAGRAM_MAX)
    }

    /// The slot that [`Coalescer::slot`] gave now holds a packet of `length` bytes.
    pub fn take(&mut self, length: usize) {
        let at = self.slots.len();
        let slot = Slot { from: self.used as u32, length: length as u16, next: 0 };
        if self.used + length > self.bytes.len() || length > DATAGRAM_MAX || self.slots.push(slot).is_err() {
            return;
        }
        // The next one begins at a whole word.
        self.used = (self.used + length).next_multiple_of(16);
        let frame = self.look(at);
        if !self.joins_one(at, &frame) {
            // As many frames as slots: there is room.
            let _ = self.frames.push(frame);
        }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// How many frames there are.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// Frame `at`, finished: the header for the device, and how many packets it is made of.
    pub fn finish(&mut self, at: usize) -> ([u8; OFFLOAD], usize) {
        let Some(&frame) = self.frames.get(at) else { return ([0; OFFLOAD], 0) };
        let count = usize::from(frame.count);
        if count < 2 {
            return ([0; OFFLOAD], count);
        }
        let (headers, payload) = (usize::from(frame.headers), frame.payload as usize);
        let pushed = self.packet(usize::from(frame.last)).get(33).map_or(0, |flags| flags & PSH);
        let packet = self.packet_mut(usize::from(frame.first));
        let protocol = packet[9];
        packet[2..4].copy_from_slice(&((headers + payload) as u16).to_be_bytes());
        packet[10..12].fill(0);
        let header = !sum(&packet[..IPV4]);
        packet[10..12].copy_from_slice(&header.to_be_bytes());
        let transport = headers - IPV4 + payload;
        let source = [packet[12], packet[13], packet[14], packet[15]].into();
        let partial = pseudo(source, [packet[16], packet[17], packet[18], packet[19]].into(), protocol, transport).to_be_bytes();
        let (large, field) = if protocol == TCP {
            packet[33] |= pushed;
            (Large::Tcp, 16)
        } else {
            packet[24..26].copy_from_slice(&(transport as u16).to_be_bytes());
            (Large::Udp, 6)
        };
        packet[IPV4 + field..IPV4 + field + 2].copy_from_slice(&partial);
        let offload = Offload { unfinished: true, large, headers: headers as u16, size: frame.size, start: IPV4 as u16, field: field as u16 };
        (offload.write(), count)
    }

    /// The bytes of frame `at`, piece by piece: the first packet whole, of the others the payload.
    pub fn pieces(&self, at: usize) -> impl Iterator<Item = &[u8]> {
        let frame = self.frames.get(at);
        let mut slot = frame.map_or(0, |f| usize::from(f.first));
        (0..frame.map_or(0, |f| f.count)).map(move |number| {
            let packet = self.packet(slot);
            slot = self.slots.get(slot).map_or(0, |s| usize::from(s.next));
            if number == 0 { packet } else { &packet[frame.map_or(0, |f| usize::from(f.headers))..] }
        })
    }

    /// From now on, which packets may be joined.
    pub fn join(&mut self, joins: Joins) {
        self.joins = joins;
    }

    /// Forgets all packets.
    pub fn clear(&mut self) {
        self.used = 0;
        self.slots.clear();
        self.frames.clear();
    }

    fn packet(&self, slot: usize) -> &[u8] {
        let Slot { from, length, .. } = self.slots[slot];
        &self.bytes[from as usize..from as usize + usize::from(length)]
    }

    fn packet_mut(&mut self, slot: usize) -> &mut [u8] {
        let Slot { from, length, .. } = self.slots[slot];
        &mut self.bytes[from as usize..from as usize + usize::from(length)]
    }

    /// The packet in a slot as a frame of its own; open if others may be joined to it.
    fn look(&self, slot: usize) -> Frame {
        let packet = self.packet(slot);
        let alone = |flow| Frame { flow, open: false, checked: false, first: slot as u8, last: slot as u8, count: 1, headers: 0, size: 0, payload: 0 };
        let Some(head) = packet.first_chunk::<{ IPV4 + UDP_HEADER }>().filter(|_| self.joins != Joins::None) else {
            return alone(Flow { addresses: 0, ports: None });
        };
        let mut flow = Flow { addresses: u64::from_be_bytes([head[12], head[13], head[14], head[15], head[16], head[17], head[18], head[19]]), ports: None };
        let protocol = head[9];
        // No options, nothing behind the packet, no fragment, a transport with ports.
        let total = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if head[0] != 0x45 || total != packet.len() || head[6] & 0xbf != 0 || head[7] != 0 || !matches!(protocol, TCP | UDP) {
            return alone(flow);
        }
        flow.ports = Some((u32::from_be_bytes([head[20], head[21], head[22], head[23]]), protocol));
        let headers = if protocol == TCP {
            let Some(&[offset, flags]) = packet.get(32..34).and_then(|two| two.first_chunk()) else { return alone(flow) };
            if flags & ACK == 0 || flags & !PLAIN != 0 || offset < 0x50 {
                return alone(flow);
            }
            IPV4 + usize::from(offset >> 4) * 4
        } else {
            let length = usize::from(u16::from_be_bytes([head[24], head[25]]));
            if self.joins != Joins::TcpAndUdp || length != total - IPV4 || head[26..28] == [0, 0] {
                return alone(flow);
            }
            IPV4 + UDP_HEADER
        };
        let Some(payload) = total.checked_sub(headers).filter(|payload| *payload > 0) else { return alone(flow) };
        let pushed = protocol == TCP && packet[33] & PSH != 0;
        Frame { open: !pushed, headers: headers as u8, size: payload as u16, payload: payload as u32, ..alone(flow) }
    }

    /// Joins the packet in a slot to the frame of its flow; if it cannot, that frame is at its end, for it must not be overtaken.
    fn joins_one(&mut self, slot: usize, new: &Frame) -> bool {
        if self.joins == Joins::None {
            return false;
        }
        for at in (0..self.frames.len()).rev() {
            let frame = self.frames[at];
            if !frame.open || !frame.flow.meets(&new.flow) {
                continue;
            }
            if frame.flow == new.flow && self.continues(&frame, slot, new) {
                let frame = &mut self.frames[at];
                self.slots[usize::from(frame.last)].next = slot as u8;
                frame.last = slot as u8;
                frame.count += 1;
                frame.payload += new.payload;
                frame.checked = true;
                frame.open = new.open && new.size == frame.size && usize::from(frame.count) < FRAME_PACKETS;
                return true;
            }
            self.frames[at].open = false;
        }
        false
    }

    fn continues(&self, frame: &Frame, slot: usize, new: &Frame) -> bool {
        let (first, packet) = (self.packet(usize::from(frame.first)), self.packet(slot));
        let headers = usize::from(frame.headers);
        // A packet that cannot be joined has no headers.
        if new.headers != frame.headers || new.size > frame.size || headers + frame.payload as usize + usize::from(new.size) > FRAME_MAX {
            return false;
        }
        // TOS, the mark against fragments, TTL.
        if first[1] != packet[1] || first[6] != packet[6] || first[8] != packet[8] {
            return false;
        }
        // Without that mark the numbers tell fragments apart, and the kernel will count on from the first.
        let number = |p: &[u8]| u16::from_be_bytes([p[4], p[5]]);
        if first[6] & 0x40 == 0 && number(packet) != number(first).wrapping_add(u16::from(frame.count)) {
            return false;
        }
        if packet[9] == TCP {
            let sequence = |p: &[u8]| u32::from_be_bytes([p[24], p[25], p[26], p[27]]);
            let same = sequence(packet) == sequence(first).wrapping_add(frame.payload)
                && first[28..33] == packet[28..33]
                && first[33] & !PSH == packet[33] & !PSH
                && first[34..36] == packet[34..36]
                // The urgent pointer and the options.
                && first[38..headers] == packet[38..headers];
            if !same {
                return false;
            }
        }
        (frame.checked || intact(first)) && intact(packet)
    }
}

#[cfg(test)]
#[path = "coalesce_tests.rs"]
mod tests;
