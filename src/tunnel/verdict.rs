//! What became of a datagram or packet. A packet never yields an error, only a [`Verdict`]; a drop carries its [`Reason`], and the
//! reasons are the names of the counters. Events tell the driver what changed about a peer,
//! and [`Refused`] why one was not added.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::identity::{PeerId, PublicKey};

/// What became of one input. Lengths count bytes at the start of the buffer the caller lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `out[..len]` is an IP packet of this peer for the TUN.
    ToTun {
        /// The sender.
        peer: PeerId,
        /// Bytes of `out`.
        len: usize,
    },
    /// `out[..len]` is a datagram for the network.
    ToPeer {
        /// Where it goes.
        to: SocketAddr,
        /// Bytes of `out`.
        len: usize,
    },
    /// Kept until a handshake ends.
    Parked,
    /// Used up; nothing to pass on.
    Handled,
    /// A well-formed initiation by a key that is no peer. It may be handed in again after the peer was added; if it is not, [`crate::tunnel::Gateway::ignore`].
    Unknown(PublicKey),
    /// Dropped, and counted.
    Dropped(Reason),
}

/// What changed about a peer, in [`crate::tunnel::Gateway::poll_event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer is heard (again).
    SessionUp {
        /// Which peer.
        id: PeerId,
        /// For how long nothing was heard from it; `None` the first time.
        away: Option<Duration>,
    },
    /// Authentic traffic came from a new address, which now is the peer's endpoint; worth keeping.
    EndpointChanged {
        /// Which peer.
        id: PeerId,
        /// Its endpoint.
        endpoint: SocketAddr,
    },
    /// Packets to the peer may be this large from now on, in bytes; routes to it should say so.
    PathMtu {
        /// Which peer.
        id: PeerId,
        /// Bytes of an IP packet.
        mtu: u16,
    },
    /// What was sent to the peer has stayed unanswered for too long, or its session ended.
    Quiet {
        /// Which peer.
        id: PeerId,
    },
}

/// More than there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Why a peer was not added. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such row.
    NoSuchRow,
    /// The row has a peer.
    RowTaken,
    /// Another row has this key.
    KeyTaken,
    /// The key is our own.
    OwnKey,
    /// Another peer has one of its addresses or images.
    RouteTaken,
    /// A prefix and its image differ in length.
    Unequal,
    /// The routes are full.
    Full,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::NoSuchRow => "there is no such peer row",
            Refused::RowTaken => "the peer row is in use",
            Refused::KeyTaken => "another peer has this public key",
            Refused::OwnKey => "the public key is this gateway's own",
            Refused::RouteTaken => "another peer has one of these prefixes",
            Refused::Unequal => "a prefix and its image differ in length",
            Refused::Full => "there is no room for more routes",
        })
    }
}

impl std::error::Error for Refused {}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why something was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Reason { $($(#[doc = $doc])+ $variant,)+ }

        impl Reason {
            /// Every reason, in the order of its counter.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)+];

            /// The metric's name.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)+ }
            }
        }
    };
}

reasons! {
    /// No WireGuard message by type and length.
    MalformedDatagram = "malformed_datagram",
    /// A receiver index that no peer has.
    UnknownIndex = "unknown_index",
    /// A handshake message whose first MAC is not made for our key.
    BadMac = "bad_mac",
    /// A handshake message over its source's share.
    UnderLoad = "under_load",
    /// An initiation whose stamp is not above the last one: a replay, or a peer whose clock went back.
    StaleInitiation = "stale_initiation",
    /// An initiation by a key that is no peer's, no ticket's and no former peer's.
    UnknownKey = "unknown_key",
    /// A handshake message that fits no handshake of ours.
    HandshakeRefused = "handshake_refused",
    /// Data under a session that has ended or never was.
    NoSession = "no_session",
    /// A counter seen before, or too old to tell.
    Replayed = "replayed",
    /// The seal does not match.
    NotAuthentic = "not_authentic",
    /// No IPv4 packet, or one whose lengths contradict each other.
    MalformedPacket = "malformed_packet",
    /// IPv6, not served yet.
    Ipv6 = "ipv6",
    /// IPv4 options, not served yet.
    Ipv4Options = "ipv4_options",
    /// A first fragment or whole packet too short for its transport header.
    TruncatedTransport = "truncated_transport",
    /// Longer than [`crate::budget::PACKET_MAX`], or than the buffer lent.
    TooLong = "too_long",
    /// An ICMP error that quotes a packet which this tunnel cannot have carried.
    ForeignQuote = "foreign_quote",
    /// Outgoing: no peer has the destination.
    NoPeer = "no_peer",
    /// Outgoing: the source is neither a pod nor an end of ours that this peer may see.
    SourceNotOurs = "source_not_ours",
    /// Outgoing: the peer has no endpoint yet.
    NoEndpoint = "no_endpoint",
    /// Incoming: the source is not this peer's.
    SourceNotPeers = "source_not_peers",
    /// Either way: a multicast destination.
    Multicast = "multicast",
    /// Either way: a broadcast destination, or the bare network address of a pod prefix.
    Broadcast = "broadcast",
    /// Incoming: an address in our pod prefixes that is the host's own.
    DestinationBarred = "destination_barred",
    /// Incoming: an address a tunnel may not reach (service, node, anything else local).
    DestinationForeign = "destination_foreign",
    /// Incoming: to the control end, but neither TCP on the control port nor an ICMP echo.
    NotControl = "not_control",
    /// A parked packet that made room for a newer one.
    ParkedOut = "parked_out",
    /// A parked packet that waited too long.
    ParkedTooLong = "parked_too_long",
}

/// How often each [`Reason`] applied.
#[derive(Clone, Debug)]
pub struct Drops([u64; Reason::ALL.len()]);

impl Drops {
    pub(crate) const fn new() -> Self {
        Drops([0; Reason::ALL.len()])
    }

    pub(crate) fn add(&mut self, reason: Reason) {
        let count = &mut self.0[reason as usize];
        *count = count.wrapping_add(1);
    }

    /// How often `reason` applied.
    pub fn count(&self, reason: Reason) -> u64 {
        self.0[reason as usize]
    }

    /// All of them, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.iter().map(|&reason| (reason, self.count(reason)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_and_a_name_of_its_own() {
        let mut drops = Drops::new();
        for (position, &reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, position);
            drops.add(reason);
        }
        assert!(drops.iter().all(|(_, count)| count == 1));
        let mut names: Vec<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
