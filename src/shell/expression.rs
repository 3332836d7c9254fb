//! The expressions of one packet rule, as bytes for the kernel's small machine: load into a register, compare, decide.
//!
//! Read first: the kernel's include/uapi/linux/netfilter/nf_tables.h (`nft_*_attributes`); `nft --debug=netlink` shows the same
//! language. Called by `nft`, which knows what the rules are for. All numbers are big-endian but those the machine compares.

use std::net::Ipv4Addr;

use crate::identity::Prefix;
use crate::shell::netlink::Message;

/// The verdict that ends this chain; later chains still see the packet.
pub(super) const ACCEPT: u32 = 1;
/// The verdict that ends the packet.
pub(super) const DROP: u32 = 0;
/// The source's offset in the IPv4 header.
pub(super) const SOURCE: u32 = 12;
/// The destination's offset in the IPv4 header.
pub(super) const DESTINATION: u32 = 16;
/// The register everything is loaded into, of 16 bytes.
const REGISTER: [u8; 4] = 1u32.to_be_bytes();
/// Its second four bytes.
const REGISTER_NEXT: [u8; 4] = 9u32.to_be_bytes();
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// How often something may come.
pub(super) struct Rate {
    /// Packets a second.
    pub(super) rate: u64,
    /// Packets at once, after a pause.
    pub(super) burst: u32,
}

/// The expressions of one rule, as the kernel's small machine runs them: load into the register, compare, decide.
pub(super) struct Expressions<'a>(&'a mut Message);

impl<'a> Expressions<'a> {
    /// Writes into `list`, the rule's attribute of expressions.
    pub(super) fn of(list: &'a mut Message) -> Self {
        Expressions(list)
    }

    /// The packet came in (or not) through `interface`.
    pub(super) fn enters(&mut self, interface: &str, is: bool) -> &mut Self {
        self.interface(6, interface, is)
    }

    /// The packet goes out through `interface`.
    pub(super) fn leaves(&mut self, interface: &str) -> &mut Self {
        self.interface(7, interface, true)
    }

    fn interface(&mut self, key: u32, name: &str, is: bool) -> &mut Self {
        let mut padded = [0; 16];
        let length = name.len().min(15);
        padded[..length].copy_from_slice(&name.as_bytes()[..length]);
        self.add("meta", |data| {
            data.put(1, &REGISTER).put(2, &key.to_be_bytes());
        });
        self.compare(is, &padded)
    }

    /// The address at `offset` lies in `prefix`.
    pub(super) fn field(&mut self, offset: u32, prefix: Prefix) -> &mut Self {
        self.load(offset);
        if prefix.length() < 32 {
            self.mask(Prefix::new(Ipv4Addr::BROADCAST, prefix.length()).map_or([0; 4], |mask| mask.address().octets()));
        }
        self.compare(true, &prefix.address().octets())
    }

    /// The packet belongs to a connection that began the other way, or to one as an ICMP error does.
    pub(super) fn is_reply(&mut self) -> &mut Self {
        const STATE: u32 = 0;
        const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
        self.add("ct", |data| {
            data.put(1, &REGISTER).put(2, &STATE.to_be_bytes());
        });
        // The state is a number of this machine; the mask must have its byte order.
        self.mask(ESTABLISHED_OR_RELATED.to_ne_bytes());
        self.compare(false, &[0; 4])
    }

    /// The packet is a UDP datagram to `port`, and begins with `word`.
    pub(super) fn datagram(&mut self, port: u16, word: [u8; 4]) -> &mut Self {
        const PROTOCOL: u32 = 16;
        const UDP: u8 = 17;
        self.add("meta", |data| {
            data.put(1, &REGISTER).put(2, &PROTOCOL.to_be_bytes());
        });
        self.compare(true, &[UDP]);
        self.payload(REGISTER, TRANSPORT_HEADER, 2, 2).compare(true, &port.to_be_bytes());
        self.payload(REGISTER, TRANSPORT_HEADER, 8, 4).compare(true, &word)
    }

    /// The packet's source (address and UDP port) sends more than `rate`. Sources are remembered in `set`; for one that has no room there this is not so.
    pub(super) fn source_exceeds(&mut self, set: &str, number: u32, rate: &Rate) -> &mut Self {
        const UPDATE: u32 = 1;
        const ABOVE: u32 = 1;
        self.payload(REGISTER, NETWORK_HEADER, SOURCE, 4).payload(REGISTER_NEXT, TRANSPORT_HEADER, 0, 2);
        self.add("dynset", |data| {
            data.text(1, set).put(2, &number.to_be_bytes()).put(3, &UPDATE.to_be_bytes()).put(4, &REGISTER);
            data.nest(7, |limit| {
                limit.text(1, "limit").nest(2, |data| {
                    data.put(1, &rate.rate.to_be_bytes()).put(2, &1u64.to_be_bytes()).put(3, &rate.burst.to_be_bytes());
                    data.put(4, &0u32.to_be_bytes()).put(5, &ABOVE.to_be_bytes());
                });
            });
        })
    }

    /// Counts what comes this far.
    pub(super) fn count(&mut self) -> &mut Self {
        self.add("counter", |data| {
            data.put(1, &[0; 8]).put(2, &[0; 8]);
        })
    }

    /// Translates the source to itself, once for the connection: no later chain translates it.
    pub(super) fn null_source_nat(&mut self) -> &mut Self {
        self.load(SOURCE);
        self.translate()
    }

    /// Translates the source to `address`, for the whole connection.
    pub(super) fn source_nat(&mut self, address: Ipv4Addr) -> &mut Self {
        self.add("immediate", |data| {
            data.put(1, &REGISTER).nest(2, |value| {
                value.put(1, &address.octets());
            });
        });
        self.translate()
    }

    /// Ends the chain with a verdict.
    pub(super) fn verdict(&mut self, code: u32) -> &mut Self {
        self.add("immediate", |data| {
            data.put(1, &[0; 4]).nest(2, |value| {
                value.nest(2, |verdict| {
                    verdict.put(1, &code.to_be_bytes());
                });
            });
        })
    }

    /// The source becomes what the register holds.
    fn translate(&mut self) -> &mut Self {
        self.add("nat", |data| {
            data.put(1, &[0; 4]).put(2, &2u32.to_be_bytes()).put(3, &REGISTER);
        })
    }

    fn load(&mut self, offset: u32) -> &mut Self {
        self.payload(REGISTER, NETWORK_HEADER, offset, 4)
    }

    fn payload(&mut self, register: [u8; 4], header: u32, offset: u32, length: u32) -> &mut Self {
        self.add("payload", |data| {
            data.put(1, &register).put(2, &header.to_be_bytes()).put(3, &offset.to_be_bytes()).put(4, &length.to_be_bytes());
        })
    }

    fn mask(&mut self, mask: [u8; 4]) -> &mut Self {
        self.add("bitwise", |data| {
            data.put(1, &REGISTER).put(2, &REGISTER).put(3, &4u32.to_be_bytes());
            data.nest(4, |value| {
                value.put(1, &mask);
            });
            data.nest(5, |value| {
                value.put(1, &[0; 4]);
            });
        })
    }

    fn compare(&mut self, equal: bool, with: &[u8]) -> &mut Self {
        self.add("cmp", |data| {
            data.put(1, &REGISTER).put(2, &u32::from(!equal).to_be_bytes()).nest(3, |value| {
                value.put(1, with);
            });
        })
    }

    /// Adds any expression; `write` puts its attributes.
    pub(super) fn add(&mut self, name: &str, write: impl FnOnce(&mut Message)) -> &mut Self {
        self.0.nest(1, |element| {
            element.text(1, name).nest(2, write);
        });
        self
    }
}
