//! Looking closer, when somebody asks: is a silent peer there, and how large a packet gets through to it.
//!
//! The same ICMP echo between the control ends that the edge sends on its own. Nothing here changes what the edge believes of a peer:
//! that asks are answered shows in when the peer was last heard. Called for `status`, the metrics and `doctor`.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Edge, Purpose};
use crate::clock::Now;
use crate::identity::{ClusterId, PeerId};

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

    /// Searches the path MTU of every peer with a session anew.
    pub fn search_paths(&mut self, now: Now) {
        for session in self.sessions.iter().flatten().filter(|s| s.spec.purpose == Purpose::Peering && s.heard) {
            self.gateway.search_path(session.spec.id, now);
        }
    }

    /// Whether any of them is still being searched.
    pub fn searches_paths(&self) -> bool {
        self.sessions.iter().flatten().any(|s| s.heard && self.gateway.is_searching(s.spec.id))
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
