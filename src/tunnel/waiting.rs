//! Packets parked until a handshake ends, over all peers together: [`PARKED`] of them, made at start. When full the oldest of all goes,
//! whoever's it is; a packet that waited longer than [`PATIENCE`] goes too, its sender has long sent it again.

use std::time::Duration;

use crate::budget::{PACKET_MAX, PARKED};
use crate::clock::Instant;

/// How long a parked packet is worth sending.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The parking place.
pub(crate) struct Waiting {
    slots: [Slot; PARKED],
    bytes: Box<[[u8; PACKET_MAX]]>,
    parked: usize,
    /// The number of the next packet; order over all peers.
    next: u64,
}

#[derive(Clone, Copy)]
struct Slot {
    row: Option<usize>,
    number: u64,
    since: Instant,
    len: usize,
}

/// What [`Waiting::take`] found.
pub(crate) enum Taken<'a> {
    /// The oldest packet of the peer.
    Packet(&'a [u8]),
    /// The oldest packet of the peer had waited too long and is gone.
    TooLong,
}

impl Waiting {
    /// All of it, empty.
    pub(crate) fn new() -> Self {
        let empty = Slot { row: None, number: 0, since: Instant::from_boot(Duration::ZERO), len: 0 };
        Waiting { slots: [empty; PARKED], bytes: vec![[0; PACKET_MAX]; PARKED].into_boxed_slice(), parked: 0, next: 0 }
    }

    /// Parks a packet of at most [`PACKET_MAX`] bytes; true if another had to go for it.
    pub(crate) fn park(&mut self, row: usize, packet: &[u8], now: Instant) -> bool {
        let slots = self.slots.iter_mut().zip(&mut self.bytes);
        let Some((slot, bytes)) = slots.min_by_key(|(slot, _)| (slot.row.is_some(), slot.number)) else { return false };
        let Some(place) = bytes.get_mut(..packet.len()) else { return false };
        place.copy_from_slice(packet);
        let evicted = slot.row.is_some();
        *slot = Slot { row: Some(row), number: self.next, since: now, len: packet.len() };
        self.next += 1;
        self.parked += usize::from(!evicted);
        evicted
    }

    /// Takes the oldest packet of a peer out.
    pub(crate) fn take(&mut self, row: usize, now: Instant) -> Option<Taken<'_>> {
        let slots = self.slots.iter_mut().zip(&self.bytes).filter(|(slot, _)| slot.row == Some(row));
        let (slot, bytes) = slots.min_by_key(|(slot, _)| slot.number)?;
        slot.row = None;
        self.parked -= 1;
        if now.since(slot.since) > PATIENCE {
            return Some(Taken::TooLong);
        }
        Some(Taken::Packet(&bytes[..slot.len]))
    }

    /// Whether a packet of this peer waits.
    pub(crate) fn any(&self, row: usize) -> bool {
        self.parked > 0 && self.slots.iter().any(|slot| slot.row == Some(row))
    }

    /// Throws away what waits for a peer that left.
    pub(crate) fn forget(&mut self, row: usize) {
        for slot in self.slots.iter_mut().filter(|slot| slot.row == Some(row)) {
            slot.row = None;
            self.parked -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(waiting: &mut Waiting, row: usize, now: Instant) -> Vec<u8> {
        let mut firsts = Vec::new();
        while let Some(taken) = waiting.take(row, now) {
            if let Taken::Packet(packet) = taken {
                firsts.push(packet[0]);
            }
        }
        firsts
    }

    #[test]
    fn packets_leave_in_order_and_the_oldest_of_all_makes_room() {
        let mut waiting = Waiting::new();
        let now = Instant::default();
        assert!(!waiting.park(1, &[100], now));
        for n in 0..PARKED as u8 {
            assert_eq!(waiting.park(2, &[n; 40], now), n as usize == PARKED - 1, "packet {n}");
        }
        assert!(!waiting.any(1));
        assert_eq!(drain(&mut waiting, 2, now), (0..PARKED as u8).collect::<Vec<_>>());
        assert!(!waiting.any(2));
    }

    #[test]
    fn a_packet_that_waited_too_long_is_not_sent() {
        let mut waiting = Waiting::new();
        let now = Instant::default();
        waiting.park(1, &[1], now);
        waiting.park(1, &[2], now + PATIENCE);
        assert_eq!(drain(&mut waiting, 1, now + PATIENCE + Duration::from_millis(1)), [2]);
    }

    #[test]
    fn nothing_waits_for_a_peer_that_left() {
        let mut waiting = Waiting::new();
        waiting.park(3, &[1], Instant::default());
        waiting.forget(3);
        assert!(!waiting.any(3));
    }
}
