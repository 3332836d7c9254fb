//! How many handshake messages each source may have worked on in a second. A cookie proves an address, not good will: who knows our public
//! key and shows cookies could otherwise keep the processor busy with key agreements. The gateway asks after the MACs, before any of those.
//!
//! Counting begins anew every second. In a full table a source that is not in it is refused: at most [`SOURCES`] x [`SHARE`] a second.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::clock::Instant;

/// Sources a second. The first few handshake messages of a second need no cookie and may be forged; they cannot fill it.
const SOURCES: usize = 32;
/// Messages a source and second.
const SHARE: u8 = 5;

/// The sources of this second.
pub(crate) struct Sources {
    since: Instant,
    seen: heapless::Vec<(u64, u8), SOURCES>,
}

impl Sources {
    pub(crate) const fn new(now: Instant) -> Self {
        Sources { since: now, seen: heapless::Vec::new() }
    }

    /// Whether one more message of this source may be worked on.
    pub(crate) fn admit(&mut self, from: IpAddr, now: Instant) -> bool {
        if now.since(self.since) >= Duration::from_secs(1) {
            self.since = now;
            self.seen.clear();
        }
        let from = site(from);
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

    #[test]
    fn each_source_has_a_share_and_all_together_have_an_end() {
        let now = Instant::from_boot(Duration::from_secs(10));
        let mut sources = Sources::new(now);
        let from = |n: u8| IpAddr::from([192, 0, 2, n]);
        assert_eq!((0..9).filter(|_| sources.admit(from(0), now)).count(), usize::from(SHARE));
        assert_eq!((1..=99).filter(|&n| sources.admit(from(n), now)).count(), SOURCES - 1);
        assert!(!sources.admit(from(0), now));
        assert!(sources.admit(from(0), now + Duration::from_secs(1)));
    }

    #[test]
    fn addresses_of_one_v6_network_and_mapped_ones_are_one_source() {
        let now = Instant::default();
        let mut sources = Sources::new(now);
        let v6 = |text: &str| IpAddr::V6(text.parse().expect("an address"));
        assert!((1..=5).all(|n| sources.admit(v6(&format!("2001:db8::{n}")), now)));
        assert!(!sources.admit(v6("2001:db8::ffff"), now));
        assert!((1..=5).all(|_| sources.admit([192, 0, 2, 1].into(), now)));
        assert!(!sources.admit(v6("::ffff:192.0.2.1"), now));
    }
}
