//! The header that the kernel puts before a frame of the TUN device, and wants before ours: what was left to the device, and where a
//! frame is to be cut. Read first: `struct virtio_net_hdr` in Linux' include/uapi/linux/virtio_net.h. It decides nothing.

/// Bytes of the header.
pub const OFFLOAD: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;
const GSO_TCP4: u8 = 1;
const GSO_UDP: u8 = 5;

/// What kind of packets a frame is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Large {
    /// It is one packet.
    No,
    /// TCP segments over IPv4.
    Tcp,
    /// UDP datagrams.
    Udp,
    /// Something that is not asked for.
    Other,
}

/// The header's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// Whether the transport's checksum is unfinished: the field at `start + field` holds the pseudo header's sum.
    pub unfinished: bool,
    /// Whether and into what the frame is to be cut.
    pub large: Large,
    /// Bytes of headers before the payload; the kernel's hint.
    pub headers: u16,
    /// Bytes of payload of every packet but the last.
    pub size: u16,
    /// Where the unfinished checksum's sum begins.
    pub start: u16,
    /// Where the checksum is, from there.
    pub field: u16,
}

impl Offload {
    /// One whole packet.
    pub const NONE: Offload = Offload { unfinished: false, large: Large::No, headers: 0, size: 0, start: 0, field: 0 };

    /// Reads a header; numbers are in the machine's own order.
    pub fn read(bytes: &[u8; OFFLOAD]) -> Offload {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let large = match bytes[1] {
            0 => Large::No,
            GSO_TCP4 => Large::Tcp,
            GSO_UDP => Large::Udp,
            _ => Large::Other,
        };
        Offload { unfinished: bytes[0] & NEEDS_CHECKSUM != 0, large, headers: word(2), size: word(4), start: word(6), field: word(8) }
    }

    /// Writes a header. [`Large::Other`] cannot be asked for and is written as one packet.
    pub fn write(&self) -> [u8; OFFLOAD] {
        let kind = match self.large {
            Large::Tcp => GSO_TCP4,
            Large::Udp => GSO_UDP,
            Large::No | Large::Other => 0,
        };
        let mut bytes = [u8::from(self.unfinished) * NEEDS_CHECKSUM, kind, 0, 0, 0, 0, 0, 0, 0, 0];
        for (at, word) in [self.headers, self.size, self.start, self.field].into_iter().enumerate() {
            bytes[2 + 2 * at..4 + 2 * at].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        assert_eq!(Offload::NONE.write(), [0; OFFLOAD]);
        for large in [Large::Tcp, Large::Udp, Large::No] {
            let offload = Offload { unfinished: true, large, headers: 52, size: 1368, start: 20, field: 16 };
            assert_eq!(Offload::read(&offload.write()), offload);
        }
        // An IPv6 frame, and one that bears the mark of congestion, are not asked for.
        assert_eq!(Offload::read(&[1, 4, 0, 0, 0, 0, 0, 0, 0, 0]).large, Large::Other);
        assert_eq!(Offload::read(&[1, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]).large, Large::Other);
    }
}
