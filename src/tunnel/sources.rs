//! How many handshake messages are looked at, and how many each source may have worked on in a second. Both are asked before the work they save.
//!
//! Looking costs two MACs and, under load, a cookie: above [`CALM`] messages a second each socket (address and port) has [`LOOKS`] of them, told apart by a
//! hash that nobody outside can know and that is another every second. So a flood from one place costs next to nothing, one from forged addresses is
//! bounded, a newcomer's next try has a new chance, and where a peer is known to be it has [`LOOKS`] of its own.
//! Working on one costs key agreements. A cookie proves an address, not good will: who shows one has a [`SHARE`]. Messages that prove nothing are the first
//! few of a second and have no share: what is forged cannot use up that of the one it pretends to be.
//!
//! Counting begins anew every second. In a full table a source that is not in it is refused: at most [`SOURCES`] x [`SHARE`] a second.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::budget::PEERS;
use crate::clock::Instant;

/// Handshake messages a second that are looked at whoever sends them; a hub's peers that all come back at once stay below.
const CALM: u32 = 128;
/// Messages a socket and second that are looked at above that: a call, its proof, and another try.
const LOOKS: u8 = 4;
/// Places that sockets share by their hash: [`LOOKS`] each, so 4,096 messages a second at most.
const PLACES: usize = 1024;
/// Sources a second.
const SOURCES: usize = 32;
/// Messages a source and second.
const SHARE: u8 = 5;

/// The sources of this second.
pub(crate) struct Sources {
    since: Instant,
    seed: u64,
    heard: u32,
    places: [u8; PLACES],
    peers: heapless::Vec<(u64, u8), PEERS>,
    seen: heapless::Vec<((u64, u16), u8), SOURCES>,
}

impl Sources {
    /// `seed` is known to nobody else.
    pub(crate) const fn new(seed: u64, now: Instant) -> Self {
        Sources { since: now, seed, heard: 0, places: [0; PLACES], peers: heapless::Vec::new(), seen: heapless::Vec::new() }
    }

    /// Whether one more handshake message of this socket is looked at; `known` tells whether a peer is there.
    pub(crate) fn look(&mut self, from: SocketAddr, now: Instant, known: impl FnOnce() -> bool) -> bool {
        if now.since(self.since) >= Duration::from_secs(1) {
            (self.since, self.heard) = (now, 0);
            self.seed = mixed(self.seed, 1);
            self.places.fill(0);
            self.peers.clear();
            self.seen.clear();
        }
        self.heard = self.heard.saturating_add(1);
        if self.heard <= CALM {
            return true;
        }
        let hash = mixed(mixed(self.seed ^ site(from.ip()), u64::from(from.port())), self.seed.rotate_left(32));
        let looks = if known() {
            if !self.peers.iter().any(|(other, _)| *other == hash) {
                // There are no more peers than places.
                let _ = self.peers.push((hash, 0));
            }
            let Some((_, looks)) = self.peers.iter_mut().find(|(other, _)| *other == hash) else { return false };
            looks
        } else {
            &mut self.places[(hash >> 54) as usize % PLACES]
        };
        *looks = looks.saturating_add(1);
        *looks <= LOOKS
    }

    /// Whether one more message of this source may be worked on; asked after [`Sources::look`]. Where a peer is `known` to be it has a share of its own:
    /// others behind the same router have other ports.
    pub(crate) fn admit(&mut self, from: SocketAddr, known: bool) -> bool {
        let from = (site(from.ip()), if known { from.port() } else { 0 });
        match self.seen.iter_mut().find(|(other, _)| *other == from) {
            Some((_, count)) if *count >= SHARE => false,
            Some((_, count)) => {
                *count += 1;
                true
            }
            None => self.seen.push((from, 1)).is_ok(),
        }
    }
}

/// Every bit of `hash` reaches every bit of what comes out (the finisher of splitmix64), and then every bit of `word` with the next.
fn mixed(mut hash: u64, word: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (hash ^ (hash >> 31) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// One IPv4 address, or one IPv6 /64: what a single owner gets.
fn site(from: IpAddr) -> u64 {
    match from.to_canonical() {
        IpAddr::V4(address) => u64::from(Ipv4Addr::to_bits(address)),
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Flood = &'static dyn Fn(u32) -> SocketAddr;

    fn from(address: impl Into<IpAddr>) -> SocketAddr {
        (address.into(), 1).into()
    }

    #[test]
    fn each_source_has_a_share_and_all_together_have_an_end() {
        let now = Instant::from_boot(Duration::from_secs(10));
        let mut sources = Sources::new(7, now);
        let source = |n: u8| from([192, 0, 2, n]);
        assert_eq!((0..9).filter(|_| sources.admit(source(0), false)).count(), usize::from(SHARE));
        assert_eq!((1..=99).filter(|&n| sources.admit(source(n), false)).count(), SOURCES - 1);
        assert!(!sources.admit(source(0), false));
        assert!(sources.look(source(0), now + Duration::from_secs(1), || false) && sources.admit(source(0), false));
    }

    #[test]
    fn a_peer_is_not_shut_out_by_others_behind_its_router() {
        let mut sources = Sources::new(7, Instant::default());
        assert_eq!((0..9).filter(|_| sources.admit(from([192, 0, 2, 1]), false)).count(), usize::from(SHARE));
        assert_eq!((0..9).filter(|_| sources.admit(from([192, 0, 2, 1]), true)).count(), usize::from(SHARE));
    }

    #[test]
    fn addresses_of_one_v6_network_and_mapped_ones_are_one_source() {
        let mut sources = Sources::new(7, Instant::default());
        let v6 = |text: &str| from(text.parse::<IpAddr>().expect("an address"));
        assert!((1..=5).all(|n| sources.admit(v6(&format!("2001:db8::{n}")), false)));
        assert!(!sources.admit(v6("2001:db8::ffff"), false));
        assert!((1..=5).all(|_| sources.admit(from([192, 0, 2, 1]), false)));
        assert!(!sources.admit(v6("::ffff:192.0.2.1"), false));
    }

    #[test]
    fn a_flood_is_looked_at_a_little_and_a_peer_beside_it_is() {
        let now = Instant::default();
        let peer: SocketAddr = "198.51.100.7:4711".parse().expect("a socket");
        // From one socket; from all ports of the peer's address; from everywhere.
        let floods: [(Flood, std::ops::RangeInclusive<usize>); 3] = [
            (&|_| from([203, 0, 113, 66]), 131..=132),
            (&|n| ([198, 51, 100, 7], n as u16).into(), 3_500..=4_224),
            (&|n| (Ipv4Addr::from_bits(n.wrapping_mul(2_654_435_761)), 9).into(), 3_500..=4_224),
        ];
        for (flood, bound) in floods {
            let mut served = 0;
            for seed in 0..50 {
                let mut sources = Sources::new(seed << 20 | 0x5eed, now);
                // The peer calls somewhere within the second.
                let at = 1 + seed as u32 * 397;
                let mut looked = 0;
                for n in 0..20_000 {
                    looked += usize::from(flood(n) != peer && sources.look(flood(n), now, || false));
                    served += u32::from(n == at && sources.look(peer, now, || false));
                }
                assert!(bound.contains(&looked), "{looked}");
            }
            assert!(served >= 8, "{served} of 50 calls of the peer were looked at");
        }
        // Where it is known to be it is looked at whatever others do; who forges its very socket uses up its share, and no more.
        let mut sources = Sources::new(7, now);
        let looked = (0..20_000).filter(|_| sources.look(from([203, 0, 113, 66]), now, || false)).count();
        assert_eq!((looked, (0..20_000).filter(|_| sources.look(peer, now, || true)).count()), (CALM as usize + usize::from(LOOKS), usize::from(LOOKS)));
    }

    #[test]
    fn who_shares_a_place_with_a_flood_has_another_in_the_next_second() {
        let mut sources = Sources::new(7, Instant::default());
        let mut looked = 0;
        for second in 1..=40 {
            let now = Instant::from_boot(Duration::from_secs(second));
            // Half of all places are taken, every second.
            let taken = (0..20_000).filter(|n| sources.look(([198, 51, 100, 2], 20_000 + n % 700).into(), now, || false)).count();
            assert!((1_500..3_000).contains(&taken), "{taken}");
            looked += usize::from(sources.look("198.51.100.2:4711".parse().expect("a socket"), now, || false));
        }
        assert!((10..=30).contains(&looked), "{looked} of 40");
    }
}
