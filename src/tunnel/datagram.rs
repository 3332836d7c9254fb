//! Reads the type and the receiver index of a WireGuard message, before any crypto, so that the gateway knows whose it is.
//! It never looks at anything that is encrypted. Read first: the WireGuard paper, section 5.4.

/// Bytes of a handshake initiation.
pub const INITIATION: usize = 148;
/// Bytes of a handshake response.
pub const RESPONSE: usize = 92;
/// Bytes of a cookie reply.
pub const COOKIE: usize = 64;
/// Bytes that a data message adds to its packet: header and tag.
pub const DATA_OVERHEAD: usize = 32;

/// The kind of a message; `receiver` is the index that we chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Type 1: somebody wants a session. It names nobody; the static key inside is encrypted.
    Initiation,
    /// Type 2: the answer to an initiation of ours.
    Response {
        /// The index of our initiation.
        receiver: u32,
    },
    /// Type 3: the peer is under load and gave us a cookie.
    Cookie {
        /// The index of our message.
        receiver: u32,
    },
    /// Type 4: a packet, or a keepalive when it is empty.
    Data {
        /// The index of our session.
        receiver: u32,
    },
}

/// Reads a datagram; `None` if type, reserved bytes and length fit no message.
pub fn read(datagram: &[u8]) -> Option<Kind> {
    match (word(datagram, 0)?, datagram.len()) {
        (1, INITIATION) => Some(Kind::Initiation),
        (2, RESPONSE) => Some(Kind::Response { receiver: word(datagram, 8)? }),
        (3, COOKIE) => Some(Kind::Cookie { receiver: word(datagram, 4)? }),
        (4, DATA_OVERHEAD..) => Some(Kind::Data { receiver: word(datagram, 4)? }),
        _ => None,
    }
}

/// The sender's index of an initiation or response.
pub(crate) fn sender(datagram: &[u8]) -> Option<u32> {
    word(datagram, 4)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_and_length_make_a_message() {
        let message = |kind: u8, len: usize| {
            let mut bytes = vec![0xab; len];
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
            bytes[4..8].copy_from_slice(&7u32.to_le_bytes());
            if len > 12 {
                bytes[8..12].copy_from_slice(&9u32.to_le_bytes());
            }
            bytes
        };
        for (kind, len, read_as) in [
            (1, 148, Some(Kind::Initiation)),
            (1, 147, None),
            (2, 92, Some(Kind::Response { receiver: 9 })),
            (2, 93, None),
            (3, 64, Some(Kind::Cookie { receiver: 7 })),
            (4, 31, None),
            (4, 32, Some(Kind::Data { receiver: 7 })),
            (4, 1500, Some(Kind::Data { receiver: 7 })),
            (5, 148, None),
            (0, 148, None),
        ] {
            assert_eq!(read(&message(kind, len)), read_as, "type {kind}, {len} bytes");
        }
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[4, 0, 0]), None);
        let mut reserved = message(4, 64);
        reserved[2] = 1;
        assert_eq!(read(&reserved), None);
    }
}
