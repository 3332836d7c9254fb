//! The nouns all rooms share: who a cluster is, which row a peer has, what a prefix is, and the addresses that exist only inside the tunnel.
//!
//! Everything here is parsed on the way in; a value of one of these types is valid.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// The control ends inside encrypted packets: `[inviter, joiner]`.
pub const LINK_CONTROL: [Ipv4Addr; 2] = [Ipv4Addr::new(169, 254, 18, 1), Ipv4Addr::new(169, 254, 18, 2)];
/// The node ends inside encrypted packets: `[inviter, joiner]`.
pub const LINK_NODE: [Ipv4Addr; 2] = [Ipv4Addr::new(169, 254, 18, 17), Ipv4Addr::new(169, 254, 18, 18)];
/// The TCP port of auth and the API passage on a control end.
pub const CONTROL_PORT: u16 = 5870;
/// The default UDP port of the gateway.
pub const GATEWAY_PORT: u16 = 51820;

/// Which end of a peering a cluster is; it decides its link addresses and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// The cluster that printed the ticket.
    Inviter,
    /// The cluster that redeemed it.
    Joiner,
}

impl End {
    /// The other end.
    pub const fn other(self) -> End {
        match self {
            End::Inviter => End::Joiner,
            End::Joiner => End::Inviter,
        }
    }

    /// This end's control address inside encrypted packets.
    pub const fn link_control(self) -> Ipv4Addr {
        LINK_CONTROL[self as usize]
    }

    /// This end's node address inside encrypted packets.
    pub const fn link_node(self) -> Ipv4Addr {
        LINK_NODE[self as usize]
    }
}

/// The row of a peer in this process: small, reused after a peer has left, kept in the state file so that its external addresses stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u8);

/// A cluster's ID: a DNS label (RFC 1123) of at most 40 characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(heapless::String<40>);

impl ClusterId {
    /// The most characters an ID may have, so that `liqo-tenant-<ID>` stays a DNS label.
    pub const MAX: usize = 40;

    /// The ID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no cluster ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadClusterId {
    /// No character at all.
    Empty,
    /// More than [`ClusterId::MAX`] characters.
    TooLong,
    /// A character other than a-z, 0-9 and `-`, or a `-` at either end.
    NotALabel,
}

impl fmt::Display for BadClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadClusterId::Empty => "a cluster ID cannot be empty",
            BadClusterId::TooLong => "a cluster ID has at most 40 characters",
            BadClusterId::NotALabel => "a cluster ID consists of a-z, 0-9 and '-', with a letter or digit at both ends",
        })
    }
}

impl std::error::Error for BadClusterId {}

impl FromStr for ClusterId {
    type Err = BadClusterId;

    fn from_str(text: &str) -> Result<Self, BadClusterId> {
        if text.is_empty() {
            return Err(BadClusterId::Empty);
        }
        if text.len() > Self::MAX {
            return Err(BadClusterId::TooLong);
        }
        let label = text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
        if !label || text.starts_with('-') || text.ends_with('-') {
            return Err(BadClusterId::NotALabel);
        }
        Ok(ClusterId(heapless::String::try_from(text).map_err(|_| BadClusterId::TooLong)?))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({})", self.0)
    }
}

/// A WireGuard public key (X25519, 32 bytes).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// A WireGuard private key (X25519, 32 bytes). Never printed; wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(pub [u8; 32]);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.fill(0);
        std::hint::black_box(&self.0);
    }
}

/// An IPv4 prefix whose host bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: Ipv4Addr,
    length: u8,
}

impl Prefix {
    /// The prefix that holds `address`, with host bits cleared; `None` if `length` is above 32.
    pub const fn new(address: Ipv4Addr, length: u8) -> Option<Prefix> {
        if length > 32 {
            return None;
        }
        Some(Prefix { address: Ipv4Addr::from_bits(address.to_bits() & mask(length)), length })
    }

    /// The first address.
    pub const fn address(self) -> Ipv4Addr {
        self.address
    }

    /// The number of fixed leading bits, 0 to 32.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Whether `address` lies inside.
    pub const fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.length) == self.address.to_bits()
    }

    /// Whether the two share an address.
    pub const fn overlaps(self, other: Prefix) -> bool {
        let shorter = if self.length < other.length { self.length } else { other.length };
        (self.address.to_bits() ^ other.address.to_bits()) & mask(shorter) == 0
    }

    /// `address` of this prefix with its leading bits replaced by those of `to`, host bits kept: the 1:1 map between a prefix and its image.
    /// Both must have the same length.
    pub const fn translate(self, address: Ipv4Addr, to: Prefix) -> Ipv4Addr {
        Ipv4Addr::from_bits(to.address.to_bits() | (address.to_bits() & !mask(self.length)))
    }
}

const fn mask(length: u8) -> u32 {
    if length == 0 { 0 } else { u32::MAX << (32 - length as u32) }
}

impl FromStr for Prefix {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        let (address, length) = text.split_once('/').ok_or(BadPrefix::NoLength)?;
        let address: Ipv4Addr = address.parse().map_err(|_| BadPrefix::NotAnAddress)?;
        let length: u8 = length.parse().map_err(|_| BadPrefix::BadLength)?;
        let prefix = Prefix::new(address, length).ok_or(BadPrefix::BadLength)?;
        if prefix.address != address {
            return Err(BadPrefix::HostBits);
        }
        Ok(prefix)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Why a text is no prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPrefix {
    /// No `/`.
    NoLength,
    /// The part before `/` is no IPv4 address.
    NotAnAddress,
    /// The part after `/` is not 0 to 32.
    BadLength,
    /// Bits are set behind the prefix length.
    HostBits,
}

impl fmt::Display for BadPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadPrefix::NoLength => "a prefix is written ADDRESS/LENGTH, as in 10.42.0.0/16",
            BadPrefix::NotAnAddress => "the part before '/' is no IPv4 address",
            BadPrefix::BadLength => "the part after '/' is not a number from 0 to 32",
            BadPrefix::HostBits => "bits are set behind the prefix length",
        })
    }
}

impl std::error::Error for BadPrefix {}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    #[test]
    fn an_image_keeps_the_host_bits() {
        let (original, image) = (prefix("10.42.0.0/16"), prefix("10.71.0.0/16"));
        assert_eq!(original.translate(Ipv4Addr::new(10, 42, 3, 7), image), Ipv4Addr::new(10, 71, 3, 7));
        assert_eq!(prefix("0.0.0.0/0").translate(Ipv4Addr::new(1, 2, 3, 4), prefix("0.0.0.0/0")), Ipv4Addr::new(1, 2, 3, 4));
    }

    #[test]
    fn prefixes_overlap_when_one_holds_the_other() {
        assert!(prefix("10.0.0.0/8").overlaps(prefix("10.42.0.0/16")));
        assert!(prefix("0.0.0.0/0").overlaps(prefix("192.168.0.0/16")));
        assert!(!prefix("10.42.0.0/16").overlaps(prefix("10.43.0.0/16")));
    }

    #[test]
    fn nonsense_is_no_prefix() {
        for (text, why) in [
            ("10.42.0.0", BadPrefix::NoLength),
            ("10.42.0/16", BadPrefix::NotAnAddress),
            ("10.42.0.0/33", BadPrefix::BadLength),
            ("10.42.0.1/16", BadPrefix::HostBits),
        ] {
            assert_eq!(text.parse::<Prefix>(), Err(why), "{text}");
        }
    }

    #[test]
    fn a_cluster_id_is_a_dns_label() {
        assert_eq!("shop-17-9be2d410".parse::<ClusterId>().map(|id| id.to_string()), Ok("shop-17-9be2d410".into()));
        assert_eq!("".parse::<ClusterId>(), Err(BadClusterId::Empty));
        assert_eq!("Shop".parse::<ClusterId>(), Err(BadClusterId::NotALabel));
        assert_eq!("-a".parse::<ClusterId>(), Err(BadClusterId::NotALabel));
        assert_eq!("a".repeat(41).parse::<ClusterId>(), Err(BadClusterId::TooLong));
    }
}
