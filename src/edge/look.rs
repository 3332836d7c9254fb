//! Looking closer, when somebody asks: is a silent peer there, and which sizes of packet get through to it.
//!
//! The same ICMP echo between the control ends that the edge sends on its own. Nothing here changes what the edge believes of a peer:
//! that asks are answered shows in when the peer was last heard. Called for `status`, the metrics and `doctor`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::{Checksum, ECHO, Edge, Purpose, Verdict};
use crate::clock::Now;
use crate::identity::{ClusterId, PeerId};

/// The sizes of whole packets that are tried, in bytes; the largest is what the TUN lets through.
pub const SIZES: [u16; 4] = [128, 576, 1280, 1420];
/// The identifier of echo requests that try a size; their number is the size's place.
const SIZED: u16 = ECHO + 1;

/// Which of [`SIZES`] were sent and answered, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tried {
    wanted: u8,
    sent: u8,
    answered: u8,
}

impl Edge {
    /// Asks each peer that was not heard for `silent` whether it is there. True if any was asked.
    pub fn look(&mut self, silent: Duration, now: Now) -> bool {
        let mut asked = false;
        for row in 0..self.sessions.len() {
            let Some(session) = self.sessions[row].as_deref_mut().filter(|s| s.spec.purpose == Purpose::Peering) else { continue };
            if self.gateway.status(session.spec.id, now).and_then(|s| s.received).is_none_or(|since| since < silent) {
                continue;
            }
            self.sequence = self.sequence.wrapping_add(1);
            session.probe = Some((self.sequence, None));
            asked = true;
        }
        asked
    }

    /// Sends an echo request of each of [`SIZES`] to every peer with a session, but for those that were answered since `anew`.
    pub fn measure(&mut self, anew: bool) {
        for session in self.sessions.iter_mut().flatten().filter(|s| s.spec.purpose == Purpose::Peering && s.heard) {
            let answered = if anew { 0 } else { session.tried.answered };
            session.tried = Tried { wanted: !answered & ((1 << SIZES.len()) - 1), sent: session.tried.sent, answered };
            if anew {
                session.tried.sent = 0;
            }
        }
    }

    /// Which sizes were sent to the peer, and whether they were answered.
    pub fn measured(&self, peer: PeerId) -> Vec<(u16, bool)> {
        let tried = self.session(peer).map(|s| s.tried).unwrap_or_default();
        SIZES.iter().enumerate().filter(|(at, _)| tried.sent & 1 << at != 0).map(|(at, &size)| (size, tried.answered & 1 << at != 0)).collect()
    }

    /// Whether every size that was sent, to anybody, was answered.
    pub fn all_measured(&self) -> bool {
        self.sessions.iter().flatten().all(|s| s.tried.wanted == 0 && s.tried.sent == s.tried.answered)
    }

    /// When something authentic last came from the peer.
    pub fn last_heard(&mut self, peer: PeerId, now: Now) -> Option<Duration> {
        self.gateway.status(peer, now)?.received
    }

    /// The peer's control end on this host.
    pub fn control_end(&self, peer: PeerId) -> Option<Ipv4Addr> {
        self.session(peer).map(|s| s.spec.control.1)
    }

    /// How often the peer was heard from another endpoint than before.
    pub fn moves(&self, peer: PeerId) -> u32 {
        self.session(peer).map_or(0, |s| s.moves)
    }

    /// Peerings that are being left, or whose clean-up goes on.
    pub fn leaving(&self) -> impl Iterator<Item = (PeerId, &ClusterId)> {
        self.partings.iter().map(|(peer, parting)| (*peer, &parting.cluster))
    }

    /// The next echo request of a size that is due, sealed.
    pub(super) fn try_size(&mut self, now: Now, out: &mut [u8]) -> Option<(SocketAddr, usize)> {
        let session = self.sessions.iter_mut().flatten().find(|s| s.tried.wanted != 0)?;
        let at = session.tried.wanted.trailing_zeros() as usize;
        session.tried.wanted &= !(1 << at);
        session.tried.sent |= 1 << at;
        let mut packet = [0; SIZES[SIZES.len() - 1] as usize];
        let packet = &mut packet[..usize::from(SIZES[at])];
        request(packet, session.spec.control.0, session.spec.control.1, SIZED, at as u16);
        match self.gateway.handle_packet(packet, Checksum::Whole, now, out) {
            Verdict::ToPeer { to, len } => Some((to, len)),
            _ => None,
        }
    }

    /// Notes the answer to an echo request of a size; `packet` is an echo answer of at least 28 bytes.
    pub(super) fn hear_size(&mut self, peer: PeerId, packet: &[u8]) {
        let at = usize::from(u16::from_be_bytes([packet[26], packet[27]]));
        if packet[24..26] == SIZED.to_be_bytes()
            && SIZES.get(at).is_some_and(|&size| usize::from(size) == packet.len())
            && let Some(session) = self.session_mut(peer)
        {
            session.tried.answered |= session.tried.sent & 1 << at;
        }
    }
}

/// Makes `packet`, zeros of an even number from 28, an ICMP echo request (RFC 792) that must not be cut up.
pub(super) fn request(packet: &mut [u8], from: Ipv4Addr, to: Ipv4Addr, identifier: u16, sequence: u16) {
    let length = packet.len() as u16;
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[6] = 0x40;
    packet[8] = 64;
    packet[9] = 1;
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    let header = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&header.to_be_bytes());
    packet[20] = 8;
    packet[24..26].copy_from_slice(&identifier.to_be_bytes());
    packet[26..28].copy_from_slice(&sequence.to_be_bytes());
    let body = checksum(&packet[20..]);
    packet[22..24].copy_from_slice(&body.to_be_bytes());
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
