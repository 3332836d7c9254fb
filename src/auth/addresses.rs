//! Which addresses a peer has on this host, and under which image its pods are seen here. Pure arithmetic over what is in use.
//!
//! The authority allots at enrolment and keeps the result in the ledger, so that addresses stay over restarts. Nothing here touches the host.
//! The same inputs give the same answer, always: the first free place from a fixed start.

use crate::identity::{PeerId, Prefix};
use std::net::Ipv4Addr;

/// All addresses of this host that belong to the overlay: a /16 in which the row decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct External(Prefix);

/// The ranges of RFC 1918 and where the search in each begins (behind the prefixes that K3s uses).
const POOLS: [(u32, u8, u32); 3] = [(0x0a00_0000, 8, 0x0a47_0000), (0xac10_0000, 12, 0xac10_0000), (0xc0a8_0000, 16, 0xc0a8_0000)];

impl External {
    /// The range wanted unless it is taken.
    pub const DEFAULT: &'static str = "10.70.0.0/16";

    /// A range read from the ledger; none unless it is a /16.
    pub fn new(prefix: Prefix) -> Option<External> {
        (prefix.length() == 16).then_some(External(prefix))
    }

    /// 10.70.0.0/16, or the first /16 that touches nothing in use; none if there is none.
    pub fn choose(in_use: &[Prefix]) -> Option<External> {
        let wanted = Prefix::new(Ipv4Addr::new(10, 70, 0, 0), 16)?;
        image(wanted, in_use).map(External)
    }

    /// The whole range.
    pub fn prefix(self) -> Prefix {
        self.0
    }

    /// This host's node end: the TUN's primary address.
    pub fn own_node(self) -> Ipv4Addr {
        self.at(0, 1)
    }

    /// This host's control end, where the listeners bind.
    pub fn own_control(self) -> Ipv4Addr {
        self.at(0, 2)
    }

    /// The control end of the peer in this row.
    pub fn control(self, peer: PeerId) -> Ipv4Addr {
        self.at(1, peer.0 + 1)
    }

    /// The node end of the peer in this row.
    pub fn node(self, peer: PeerId) -> Ipv4Addr {
        self.at(2, peer.0 + 1)
    }

    /// The virtual node that stands for the peer in this row.
    pub fn virtual_node(self, peer: PeerId) -> Ipv4Addr {
        self.at(3, peer.0 + 1)
    }

    /// The upper half, in which pods of one peer have the addresses that another is told; none if a peer could not claim or would not tell it apart.
    pub fn transit(self, pods: &[Prefix]) -> Option<Prefix> {
        let upper = Prefix::new(self.at(128, 0), 17)?;
        // A peer accepts two prefixes at the most.
        (pods.len() < crate::budget::PREFIXES && claimable(upper)).then_some(upper)
    }

    /// The row whose control end `address` is.
    pub fn caller(self, address: Ipv4Addr) -> Option<PeerId> {
        let [_, _, kind, last] = address.octets();
        let row = PeerId(last.checked_sub(1)?);
        (kind == 1 && usize::from(row.0) < crate::budget::PEERS && self.control(row) == address).then_some(row)
    }

    fn at(self, kind: u8, last: u8) -> Ipv4Addr {
        let [a, b, ..] = self.0.address().octets();
        Ipv4Addr::new(a, b, kind, last)
    }
}

/// The prefix under which `original` is seen here: itself if it touches nothing in use, else the first free one of the same length in the private ranges.
/// None if all is taken.
pub fn image(original: Prefix, in_use: &[Prefix]) -> Option<Prefix> {
    if !in_use.iter().any(|used| used.overlaps(original)) {
        return Some(original);
    }
    POOLS.iter().find_map(|&(base, pool, start)| {
        if original.length() < pool {
            return None;
        }
        let end = u64::from(base) + (1 << (32 - pool));
        // Past the start first, then what lies before it.
        free(u64::from(start), end, original.length(), in_use).or_else(|| free(u64::from(base), u64::from(start), original.length(), in_use))
    })
}

fn free(from: u64, to: u64, length: u8, in_use: &[Prefix]) -> Option<Prefix> {
    let size = 1u64 << (32 - length);
    let mut at = from.next_multiple_of(size);
    while at + size <= to {
        let candidate = Prefix::new(Ipv4Addr::from_bits(at as u32), length)?;
        match in_use.iter().find(|used| used.overlaps(candidate)) {
            None => return Some(candidate),
            // Leap over the whole of what is in the way: the search is as long as the list, not as the range.
            Some(used) => at = (at + size).max(u64::from(used.address().to_bits()) + (1u64 << (32 - used.length()))).next_multiple_of(size),
        }
    }
    None
}

/// The prefix of one address.
pub fn single(address: Ipv4Addr) -> Prefix {
    Prefix::new(address, 32).expect("32 is a valid length")
}

/// Whether a peer may claim it: inside a private range, /12 to /24.
pub fn claimable(prefix: Prefix) -> bool {
    (12..=24).contains(&prefix.length())
        && POOLS
            .iter()
            .any(|&(base, pool, _)| prefix.length() >= pool && Prefix::new(Ipv4Addr::from_bits(base), pool).is_some_and(|p| p.contains(prefix.address())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    #[test]
    fn a_prefix_that_is_free_here_is_seen_as_it_is() {
        assert_eq!(image(p("10.42.0.0/16"), &[p("10.43.0.0/16")]), Some(p("10.42.0.0/16")));
    }

    #[test]
    fn an_image_avoids_all_that_is_in_use() {
        for (original, in_use, want) in [
            ("10.42.0.0/16", vec!["10.42.0.0/16"], "10.71.0.0/16"),
            ("10.42.0.0/16", vec!["10.42.0.0/16", "10.71.0.0/16", "10.72.3.0/24"], "10.73.0.0/16"),
            ("10.42.0.0/16", vec!["10.0.0.0/8"], "172.16.0.0/16"),
            ("10.42.0.0/16", vec!["10.64.0.0/10", "10.128.0.0/9", "10.0.0.0/10"], "172.16.0.0/16"),
            ("10.42.0.0/16", vec!["10.42.0.0/16", "10.64.0.0/10", "10.128.0.0/9"], "10.0.0.0/16"),
            ("10.42.0.0/16", vec!["10.0.0.0/8", "172.16.0.0/12"], "192.168.0.0/16"),
            ("10.16.0.0/12", vec!["10.16.3.0/24"], "10.80.0.0/12"),
            ("10.42.7.0/24", vec!["10.42.0.0/16"], "10.71.0.0/24"),
        ] {
            let in_use: Vec<Prefix> = in_use.into_iter().map(p).collect();
            assert_eq!(image(p(original), &in_use), Some(p(want)), "{original} {in_use:?}");
        }
        assert_eq!(image(p("10.16.0.0/12"), &[p("10.0.0.0/8"), p("172.16.0.0/12")]), None);
        assert_eq!(image(p("10.16.0.0/16"), &[p("0.0.0.0/0")]), None);
    }

    #[test]
    fn the_search_ends_soon_in_a_crowded_range() {
        let crowd: Vec<Prefix> = (0..=255u8).flat_map(|b| [0u8, 128].map(|c| Prefix::new(Ipv4Addr::new(10, b, c, 0), 24).expect("24"))).collect();
        assert_eq!(image(p("10.42.0.0/24"), &crowd), Some(p("10.71.1.0/24")));
        assert_eq!(image(p("10.42.0.0/16"), &crowd), Some(p("172.16.0.0/16")));
    }

    #[test]
    fn the_row_decides_every_address_and_the_control_end_tells_the_row() {
        let it = External::choose(&[p("10.42.0.0/16")]).expect("free");
        assert_eq!(it.prefix(), p(External::DEFAULT));
        assert_eq!(it.own_node(), Ipv4Addr::new(10, 70, 0, 1));
        assert_eq!(it.own_control(), Ipv4Addr::new(10, 70, 0, 2));
        for row in 0..crate::budget::PEERS as u8 {
            assert_eq!(it.caller(it.control(PeerId(row))), Some(PeerId(row)));
        }
        for stranger in [[10, 70, 1, 0], [10, 70, 1, 65], [10, 70, 2, 1], [10, 71, 1, 1], [10, 70, 0, 2]] {
            assert_eq!(it.caller(Ipv4Addr::from(stranger)), None);
        }
        assert_eq!(External::choose(&[p("10.70.5.0/24")]).map(External::prefix), Some(p("10.71.0.0/16")));
    }

    #[test]
    fn only_private_prefixes_of_a_sane_size_may_be_claimed() {
        for (text, ok) in [
            ("10.42.0.0/16", true),
            ("10.16.0.0/12", true),
            ("172.16.0.0/12", true),
            ("192.168.7.0/24", true),
            ("10.0.0.0/8", false),
            ("192.168.7.0/25", false),
            ("172.0.0.0/12", false),
            ("192.160.0.0/12", false),
            ("100.64.0.0/16", false),
            ("8.8.8.0/24", false),
            ("127.0.0.0/16", false),
            ("169.254.0.0/16", false),
        ] {
            assert_eq!(claimable(p(text)), ok, "{text}");
        }
    }
}
