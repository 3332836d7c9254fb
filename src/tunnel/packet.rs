//! A view of an IPv4 packet: what the gateway must know to route it, check it and rewrite it. Whatever is not served is told apart by its
//! [`Reason`]. It changes nothing. Read first: RFC 791, RFC 792; fragments carry the transport header only in the first.

use std::net::Ipv4Addr;

use crate::tunnel::Reason;

/// Bytes of an IPv4 header without options, the only one served.
pub const IPV4: usize = 20;
/// ICMP's number.
pub const ICMP: u8 = 1;
/// TCP's number.
pub const TCP: u8 = 6;
/// UDP's number.
pub const UDP: u8 = 17;

/// What the header says; lengths are checked against the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The source.
    pub source: Ipv4Addr,
    /// The destination.
    pub destination: Ipv4Addr,
    /// The transport's number.
    pub protocol: u8,
    /// Whether it is a part of a packet.
    pub fragment: bool,
    /// Whether it is a part other than the first, thus without a transport header.
    pub later: bool,
    /// The packet's length; bytes behind it are padding.
    pub total: usize,
}

/// The packet that an ICMP error quotes, at [`Quote::AT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Its source.
    pub source: Ipv4Addr,
    /// Its destination.
    pub destination: Ipv4Addr,
    /// Its transport's number.
    pub protocol: u8,
    /// Whether it was a fragment other than the first.
    pub later: bool,
}

impl Header {
    /// Reads the header of a packet.
    pub fn read(packet: &[u8]) -> Result<Header, Reason> {
        match packet.first().map(|first| first >> 4) {
            Some(4) => {}
            Some(6) => return Err(Reason::Ipv6),
            _ => return Err(Reason::MalformedPacket),
        }
        let head: &[u8; IPV4] = packet.first_chunk().ok_or(Reason::MalformedPacket)?;
        match head[0] & 15 {
            0..5 => return Err(Reason::MalformedPacket),
            5 => {}
            _ => return Err(Reason::Ipv4Options),
        }
        let total = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if total < IPV4 || total > packet.len() {
            return Err(Reason::MalformedPacket);
        }
        let (protocol, place) = (head[9], u16::from_be_bytes([head[6], head[7]]));
        let (later, more) = (place & 0x1fff != 0, place & 0x2000 != 0);
        if !later && total - IPV4 < transport_length(protocol) {
            return Err(Reason::TruncatedTransport);
        }
        Ok(Header { source: address(head, 12), destination: address(head, 16), protocol, fragment: later || more, later, total })
    }

    /// Source and destination port of a TCP or UDP packet that has them.
    pub fn ports(&self, packet: &[u8]) -> Option<(u16, u16)> {
        if self.later || !matches!(self.protocol, TCP | UDP) {
            return None;
        }
        let ports = packet.get(IPV4..IPV4 + 4)?;
        Some((u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]])))
    }

    /// Whether it is an ICMP echo request or reply.
    pub fn is_echo(&self, packet: &[u8]) -> bool {
        self.protocol == ICMP && !self.later && matches!(packet.get(IPV4), Some(0 | 8))
    }

    /// The packet that this one quotes, if it is an ICMP error. A quote that cannot be rewritten (cut, with options, not IPv4) makes the
    /// whole error undeliverable, and so does a redirect, which names a router of the other side.
    pub fn quote(&self, packet: &[u8]) -> Result<Option<Quote>, Reason> {
        if self.protocol != ICMP || self.later || !matches!(packet.get(IPV4), Some(3 | 4 | 5 | 11 | 12)) {
            return Ok(None);
        }
        let quoted: &[u8; IPV4] = packet.get(Quote::AT..self.total).and_then(|rest| rest.first_chunk()).ok_or(Reason::ForeignQuote)?;
        if quoted[0] != 0x45 || packet[IPV4] == 5 {
            return Err(Reason::ForeignQuote);
        }
        let later = u16::from_be_bytes([quoted[6], quoted[7]]) & 0x1fff != 0;
        Ok(Some(Quote { source: address(quoted, 12), destination: address(quoted, 16), protocol: quoted[9], later }))
    }
}

impl Quote {
    /// Where in the packet the quote begins: behind the IP and the ICMP header.
    pub const AT: usize = IPV4 + 8;
}

const fn transport_length(protocol: u8) -> usize {
    match protocol {
        TCP => 20,
        UDP | ICMP => 8,
        _ => 0,
    }
}

fn address(head: &[u8; IPV4], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(head[at], head[at + 1], head[at + 2], head[at + 3])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        bytes.extend([0x1f, 0x90, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
        change(&mut bytes);
        bytes
    }

    #[test]
    fn what_is_not_served_is_told_apart() {
        type Change = fn(&mut Vec<u8>);
        let cases: [(Change, Result<usize, Reason>); 12] = [
            (|_| {}, Ok(40)),
            (|p| p.extend([0; 9]), Ok(40)),
            (|p| p[0] = 0x60, Err(Reason::Ipv6)),
            (|p| p[0] = 0x46, Err(Reason::Ipv4Options)),
            (|p| p[0] = 0x44, Err(Reason::MalformedPacket)),
            (|p| p[0] = 0x55, Err(Reason::MalformedPacket)),
            (|p| p.clear(), Err(Reason::MalformedPacket)),
            (|p| p.truncate(19), Err(Reason::MalformedPacket)),
            (|p| p[3] = 41, Err(Reason::MalformedPacket)),
            (|p| p[3] = 19, Err(Reason::MalformedPacket)),
            (|p| p[3] = 39, Err(Reason::TruncatedTransport)),
            (|p| (p[3], p[7]) = (24, 9), Ok(24)),
        ];
        for (at, (change, expected)) in cases.into_iter().enumerate() {
            assert_eq!(Header::read(&packet(change)).map(|h| h.total), expected, "case {at}");
        }
    }

    #[test]
    fn only_a_first_part_has_ports() {
        let whole = packet(|_| {});
        assert_eq!(Header::read(&whole).expect("whole").ports(&whole), Some((8080, 80)));
        let later = packet(|p| p[7] = 1);
        let header = Header::read(&later).expect("a later fragment");
        assert_eq!((header.ports(&later), header.later, header.fragment), (None, true, true));
        let first = packet(|p| p[6] = 0x20);
        let header = Header::read(&first).expect("a first fragment");
        assert_eq!((header.ports(&first), header.later, header.fragment), (Some((8080, 80)), false, true));
    }
}
