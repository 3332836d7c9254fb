//! Prefix -> peer, as this host sees the addresses: where an outgoing packet goes, and whether an incoming source is its sender's. The
//! longest prefix wins; no prefix has two owners.

use std::net::Ipv4Addr;

use crate::budget::ROUTES;
use crate::identity::Prefix;

/// The table, longest prefixes first.
pub(crate) struct AllowedIps {
    routes: heapless::Vec<(Prefix, usize), ROUTES>,
}

/// Why a prefix was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoute {
    /// Another peer has this very prefix.
    Taken,
    /// The table is full.
    Full,
}

impl AllowedIps {
    pub(crate) const fn new() -> Self {
        AllowedIps { routes: heapless::Vec::new() }
    }

    /// Gives a prefix to a peer. When the table is full the prefix is refused; the peer is then not added.
    pub(crate) fn insert(&mut self, prefix: Prefix, row: usize) -> Result<(), NoRoute> {
        if let Some(&(_, owner)) = self.routes.iter().find(|(other, _)| *other == prefix) {
            return if owner == row { Ok(()) } else { Err(NoRoute::Taken) };
        }
        let at = self.routes.partition_point(|(other, _)| other.length() >= prefix.length());
        self.routes.insert(at, (prefix, row)).map_err(|_| NoRoute::Full)
    }

    /// Takes everything from a peer.
    pub(crate) fn remove(&mut self, row: usize) {
        self.routes.retain(|&(_, owner)| owner != row);
    }

    /// Whose address it is.
    pub(crate) fn find(&self, address: Ipv4Addr) -> Option<usize> {
        self.routes.iter().find(|(prefix, _)| prefix.contains(address)).map(|&(_, row)| row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    #[test]
    fn the_longest_prefix_wins_in_any_order_of_insertion() {
        let rows = [("0.0.0.0/0", 1), ("10.0.0.0/8", 2), ("10.71.0.0/16", 3), ("10.71.3.4/32", 4)];
        for turn in 0..rows.len() {
            let mut table = AllowedIps::new();
            for at in 0..rows.len() {
                let (text, row) = rows[(at + turn) % rows.len()];
                table.insert(prefix(text), row).expect("room");
            }
            for (address, row) in [([8, 8, 8, 8], 1), ([10, 1, 1, 1], 2), ([10, 71, 3, 5], 3), ([10, 71, 3, 4], 4)] {
                assert_eq!(table.find(address.into()), Some(row));
            }
            table.remove(4);
            table.remove(1);
            assert_eq!(table.find([10, 71, 3, 4].into()), Some(3));
            assert_eq!(table.find([8, 8, 8, 8].into()), None);
        }
    }

    #[test]
    fn a_prefix_has_one_owner_and_the_table_an_end() {
        let mut table = AllowedIps::new();
        assert_eq!(table.insert(prefix("10.0.0.0/8"), 1), Ok(()));
        assert_eq!(table.insert(prefix("10.0.0.0/8"), 1), Ok(()));
        assert_eq!(table.insert(prefix("10.0.0.0/8"), 2), Err(NoRoute::Taken));
        for n in 1..ROUTES as u32 {
            assert_eq!(table.insert(Prefix::new(Ipv4Addr::from_bits(n), 32).expect("a prefix"), 1), Ok(()));
        }
        assert_eq!(table.insert(prefix("11.0.0.0/8"), 1), Err(NoRoute::Full));
    }
}
