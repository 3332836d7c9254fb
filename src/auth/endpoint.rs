//! Where a gateway may be reached: an address or a host name, and a UDP port. In tickets, in the ledger, on the command line.
//!
//! Names are resolved by the shell; here they are only checked and carried.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// One candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An IPv4 or IPv6 address and a port.
    Address(SocketAddr),
    /// A DNS name (lower case, at most 64 characters) and a port.
    Name(heapless::String<64>, u16),
}

/// Why a text is no endpoint; what was written, cut to 80 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadEndpoint(pub String);

impl fmt::Display for BadEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is no endpoint; write HOST:PORT, as in 203.0.113.10:51820, [2001:db8::1]:51820 or hub.example.org:51820", self.0)
    }
}

impl std::error::Error for BadEndpoint {}

impl Endpoint {
    /// A name with its port; none if it is not a DNS name of at most 64 characters or the port is 0.
    pub fn named(name: &str, port: u16) -> Option<Endpoint> {
        let name = name.to_ascii_lowercase();
        let label = |l: &str| !l.is_empty() && l.len() <= 63 && !l.starts_with('-') && !l.ends_with('-');
        let plain = name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.');
        // A last label of digits would be read as an address by some resolvers.
        let numeric = name.rsplit('.').next().is_none_or(|last| last.bytes().all(|c| c.is_ascii_digit()));
        if port == 0 || !plain || numeric || !name.split('.').all(label) {
            return None;
        }
        Some(Endpoint::Name(heapless::String::try_from(name.as_str()).ok()?, port))
    }

    /// An address with its port; none if nothing can be sent there.
    pub fn at(address: SocketAddr) -> Option<Endpoint> {
        let multicast_or_null = address.ip().is_multicast() || address.ip().is_unspecified();
        let broadcast = matches!(address, SocketAddr::V4(a) if a.ip().is_broadcast());
        (address.port() != 0 && !multicast_or_null && !broadcast).then_some(Endpoint::Address(address))
    }

    /// Whether only machines of the same site can reach it: a private, link-local or loopback address. A name is not.
    pub fn is_private(&self) -> bool {
        match self {
            Endpoint::Name(..) => false,
            Endpoint::Address(SocketAddr::V4(a)) => {
                let [b0, b1, ..] = a.ip().octets();
                a.ip().is_private() || a.ip().is_loopback() || a.ip().is_link_local() || (b0 == 100 && b1 & 0xc0 == 64)
            }
            Endpoint::Address(SocketAddr::V6(a)) => a.ip().is_loopback() || a.ip().is_unique_local() || a.ip().is_unicast_link_local(),
        }
    }
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let bad = || BadEndpoint(text.chars().filter(|c| !c.is_control()).take(80).collect());
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Endpoint::at(address).ok_or_else(bad);
        }
        let (name, port) = text.rsplit_once(':').ok_or_else(bad)?;
        Endpoint::named(name, port.parse().map_err(|_| bad())?).ok_or_else(bad)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Address(address) => write!(f, "{address}"),
            Endpoint::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_read_back_as_printed() {
        for text in ["203.0.113.10:51820", "[2001:db8::1]:51820", "hub.example.org:51820"] {
            assert_eq!(text.parse::<Endpoint>().map(|e| e.to_string()), Ok(text.to_string()));
        }
    }

    #[test]
    fn where_nothing_can_be_sent_is_no_endpoint() {
        for text in ["", ":1", "a:0", "1.2.3.4", "1.2.3.4:0", "0.0.0.0:5", "224.0.0.1:5", "255.255.255.255:5", "1.2.3:5", "a..b:5", "-a:5", "a b:5", "a:65536"]
        {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn private_addresses_are_known() {
        for (text, private) in [("192.168.1.2:1", true), ("100.64.0.1:1", true), ("203.0.113.1:1", false), ("[fd00::1]:1", true), ("a.b:1", false)] {
            assert_eq!(text.parse::<Endpoint>().expect(text).is_private(), private, "{text}");
        }
    }
}
