//! Netlink messages as bytes, and a socket that asks the kernel one thing at a time.
//!
//! Read first: Documentation/userspace-api/netlink/intro.rst of Linux. Called by `link` (routes) and `nft` (rules), which know what
//! the messages mean; this file knows framing, attributes, acknowledgements, dumps and batches. The kernel answers while it
//! handles the request, so calls block for well under a millisecond (a rule batch: some milliseconds). Everything read is bounded.

use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::shell::syscall;

const HEADER: usize = 16;
/// What one read takes; the kernel cuts its dumps to what readers offer.
const READ: usize = 32 * 1024;
/// The most messages of one dump; a machine with more routes than that is not one we run on.
const DUMP_MAX: usize = 262_144;
/// How long the kernel may take. It never does; a wedged module must not hang the daemon for ever.
const PATIENCE: Duration = Duration::from_secs(5);
const SOL_NETLINK: i32 = 270;

/// Message flags.
pub(super) const REQUEST: u16 = 1;
pub(super) const ACK: u16 = 4;
pub(super) const REPLACE: u16 = 0x100;
pub(super) const EXCLUSIVE: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;
pub(super) const DUMP: u16 = 0x300;

const DUMP_INTERRUPTED: u16 = 0x10;
const CAPPED: u16 = 0x100;
const ACK_ATTRIBUTES: u16 = 0x200;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// What the kernel answered instead of yes.
#[derive(Debug)]
pub struct Refusal {
    /// The kernel's error.
    pub error: io::Error,
    /// Its explanation, if it gave one.
    pub words: String,
}

impl Refusal {
    /// Whether the kernel said `errno`.
    pub fn is(&self, errno: i32) -> bool {
        self.error.raw_os_error() == Some(errno)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.words.as_str() {
            "" => write!(f, "{}", self.error),
            words => write!(f, "{} ({words})", self.error),
        }?;
        if self.is(libc::EPERM) { f.write_str(": this needs root or the capability CAP_NET_ADMIN") } else { Ok(()) }
    }
}

impl std::error::Error for Refusal {}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal { error, words: String::new() }
    }
}

/// One message being written.
pub(super) struct Message(Vec<u8>);

impl Message {
    /// A message of `kind` with `flags`, beginning with the family header `head`.
    pub(super) fn new(kind: u16, flags: u16, head: &[u8]) -> Message {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(head);
        pad(&mut bytes);
        Message(bytes)
    }

    /// Adds an attribute.
    pub(super) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.0.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        pad(&mut self.0);
        self
    }

    /// Adds a text that ends in a zero byte.
    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// Adds an attribute that holds what `inside` adds.
    pub(super) fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Message)) -> &mut Self {
        let from = self.0.len();
        self.put(kind | NESTED, &[]);
        inside(self);
        let length = (self.0.len() - from) as u16;
        self.0[from..from + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// What follows the header.
    #[cfg(test)]
    pub(super) fn body(&self) -> &[u8] {
        &self.0[HEADER..]
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }

    fn flag(&mut self, flags: u16) {
        let now = u16::from_ne_bytes([self.0[6], self.0[7]]) | flags;
        self.0[6..8].copy_from_slice(&now.to_ne_bytes());
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// One message as read: its kind, flags, sequence number and what follows the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heard<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The messages in what one read returned; stops at the first that does not fit.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Heard<'_>> {
    std::iter::from_fn(move || {
        let header: &[u8; HEADER] = bytes.first_chunk()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if length < HEADER || length > bytes.len() {
            return None;
        }
        let heard = Heard {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            body: &bytes[HEADER..length],
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(heard)
    })
}

/// The attributes in `bytes` with their kinds; stops at the first that does not fit.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header: &[u8; 4] = bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        if length < 4 || length > bytes.len() {
            return None;
        }
        let attribute = (u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK, &bytes[4..length]);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(attribute)
    })
}

/// The value of attribute `kind` in `bytes`.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|&(k, _)| k == kind).map(|(_, value)| value)
}

/// A text without its ending zero bytes.
pub(super) fn text(value: &[u8]) -> &[u8] {
    value.split(|&c| c == 0).next().unwrap_or_default()
}

/// A socket of one netlink family.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Box<[u8]>,
}

impl Netlink {
    /// Opens a socket of `family` (`libc::NETLINK_ROUTE`, `libc::NETLINK_NETFILTER`).
    pub(super) fn open(family: i32) -> Result<Netlink, Refusal> {
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::from(libc::SOCK_RAW), Some(Protocol::from(family)))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        // Explanations, short acknowledgements and filtered dumps: all best effort, old kernels lack them.
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK, libc::NETLINK_GET_STRICT_CHK] {
            let _ = syscall::set_option(&socket, SOL_NETLINK, option, 1);
        }
        Ok(Netlink { socket, sequence: 0, buffer: vec![0; READ].into_boxed_slice() })
    }

    /// Carries out one request.
    pub(super) fn request(&mut self, mut message: Message) -> Result<(), Refusal> {
        message.flag(ACK);
        let sequence = self.send(message)?;
        self.acknowledged(sequence, sequence)
    }

    /// Asks for one message of any kind and hands its body to `read`.
    pub(super) fn ask<T>(&mut self, message: Message, read: impl FnOnce(&[u8]) -> Option<T>) -> Result<T, Refusal> {
        let sequence = self.send(message)?;
        loop {
            let length = self.read()?;
            if let Some(heard) = messages(&self.buffer[..length]).find(|heard| heard.sequence == sequence) {
                return match refused(&heard) {
                    Some(refusal) => Err(refusal),
                    None => read(heard.body).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData).into()),
                };
            }
        }
    }

    /// Asks for a dump and hands each message's body to `each`. A dump that changed while it was read is reported as `EINTR`.
    pub(super) fn dump(&mut self, mut message: Message, mut each: impl FnMut(&[u8])) -> Result<(), Refusal> {
        message.flag(DUMP);
        let sequence = self.send(message)?;
        let (mut count, mut interrupted) = (0, false);
        loop {
            let length = self.read()?;
            for heard in messages(&self.buffer[..length]).filter(|heard| heard.sequence == sequence) {
                interrupted |= heard.flags & DUMP_INTERRUPTED != 0;
                if heard.kind == DONE {
                    return if interrupted { Err(io::Error::from_raw_os_error(libc::EINTR).into()) } else { Ok(()) };
                }
                if let Some(refusal) = refused(&heard) {
                    return Err(refusal);
                }
                each(heard.body);
                count += 1;
            }
            if count > DUMP_MAX {
                return Err(Refusal { error: io::ErrorKind::FileTooLarge.into(), words: format!("the kernel lists more than {DUMP_MAX} entries") });
            }
        }
    }

    /// Sends `begin`, `commands` and `end` in one datagram, which the kernel takes whole or not at all; the first refusal is returned.
    pub(super) fn batch(&mut self, begin: Message, mut commands: Vec<Message>, end: Message) -> Result<(), Refusal> {
        let Some(last) = commands.last_mut() else { return Ok(()) };
        last.flag(ACK);
        let mut bytes = Vec::new();
        let first = self.sequence.wrapping_add(1);
        let mut last = first;
        for message in std::iter::once(begin).chain(commands) {
            self.sequence = self.sequence.wrapping_add(1);
            last = self.sequence;
            bytes.extend(message.finish(last));
        }
        self.sequence = self.sequence.wrapping_add(1);
        bytes.extend(end.finish(self.sequence));
        self.write(&bytes)?;
        self.acknowledged(first, last)
    }

    /// Waits for the answer to message `last` and returns the first refusal of any message from `first` on.
    fn acknowledged(&mut self, first: u32, last: u32) -> Result<(), Refusal> {
        let mut refusal: Option<Refusal> = None;
        loop {
            let length = self.read()?;
            for heard in messages(&self.buffer[..length]) {
                if heard.kind != ERROR || heard.sequence.wrapping_sub(first) > last.wrapping_sub(first) {
                    continue;
                }
                let said = refused(&heard);
                // A refusal of the very first message is a refusal of the whole batch: nothing else will come.
                let over = heard.sequence == last || (heard.sequence == first && said.is_some());
                refusal = refusal.or(said);
                if over {
                    return refusal.map_or(Ok(()), Err);
                }
            }
        }
    }

    fn send(&mut self, message: Message) -> Result<u32, Refusal> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        self.write(&message.finish(sequence))?;
        Ok(sequence)
    }

    fn write(&self, bytes: &[u8]) -> Result<(), Refusal> {
        let sent = self.socket.send(bytes)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero).into()) }
    }

    fn read(&mut self) -> Result<usize, Refusal> {
        loop {
            match self.socket.read(&mut self.buffer) {
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Refusal { error: io::ErrorKind::TimedOut.into(), words: "the kernel did not answer".into() });
                }
                other => return Ok(other?),
            }
        }
    }
}

/// A socket that hears what changes; see [`Notices::changed`].
pub(super) struct Notices(Socket);

impl Notices {
    /// Listens to `groups` of `family`.
    pub(super) fn open(family: i32, groups: &[u32]) -> Result<Notices, Refusal> {
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::from(libc::SOCK_RAW), Some(Protocol::from(family)))?;
        socket.set_nonblocking(true)?;
        for &group in groups {
            syscall::set_option(&socket, SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group as i32)?;
        }
        // The kernel passes over listeners without an address, and gives one with the first thing sent: here a message that asks nothing.
        const NOTHING: u16 = 1;
        let sent = socket.send(&Message::new(NOTHING, 0, &[]).finish(0))?;
        debug_assert_eq!(sent, HEADER);
        Ok(Notices(socket))
    }

    /// Whether anything changed since the last call. What it was is not kept: the caller looks at the whole.
    pub(super) fn changed(&mut self) -> bool {
        let (mut changed, mut buffer) = (false, [0; 64]);
        // A flood ends at the socket's own queue; what is left is read in the next turn.
        for _ in 0..4096 {
            match self.0.read(&mut buffer) {
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => break,
                // An overrun of the queue (ENOBUFS) means changes we did not hear.
                _ => changed = true,
            }
        }
        changed
    }
}

/// The refusal in an error message; `None` for an acknowledgement or another kind of message.
fn refused(heard: &Heard<'_>) -> Option<Refusal> {
    if heard.kind != ERROR {
        return None;
    }
    let Some(code) = heard.body.first_chunk() else { return Some(io::Error::from(io::ErrorKind::InvalidData).into()) };
    let code = i32::from_ne_bytes(*code);
    if code == 0 {
        return None;
    }
    let original = heard.body.get(4..8).map_or(0, |bytes| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize);
    let skip = 4 + if heard.flags & CAPPED != 0 { HEADER } else { original.next_multiple_of(4).max(HEADER) };
    let words = if heard.flags & ACK_ATTRIBUTES != 0 { heard.body.get(skip..).and_then(|rest| attribute(rest, 1)) } else { None };
    let words = String::from_utf8_lossy(text(words.unwrap_or_default())).chars().take(200).collect();
    Some(Refusal { error: io::Error::from_raw_os_error(code.saturating_neg()), words })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut message = Message::new(24, ACK, &[2, 0, 0, 0, 9]);
        message.put(1, &[10, 0, 0, 1]).text(3, "tun").nest(5, |inside| {
            inside.put(6, &7u32.to_be_bytes());
        });
        let mut bytes = message.finish(77);
        bytes.extend(Message::new(3, 0, &[]).finish(78));
        let heard: Vec<_> = messages(&bytes).collect();
        assert_eq!(heard.len(), 2);
        assert_eq!((heard[0].kind, heard[0].flags, heard[0].sequence), (24, REQUEST | ACK, 77));
        let found: Vec<_> = attributes(&heard[0].body[8..]).collect();
        assert_eq!(found[0], (1, &[10, 0, 0, 1][..]));
        assert_eq!((found[1].0, text(found[1].1)), (3, &b"tun"[..]));
        assert_eq!((found[2].0, attribute(found[2].1, 6)), (5, Some(&[0, 0, 0, 7][..])));
    }

    #[test]
    fn lengths_that_lie_end_the_reading() {
        let whole = {
            let mut message = Message::new(24, 0, &[]);
            message.put(1, &[1, 2, 3, 4]).put(2, &[5]);
            message.finish(1)
        };
        for length in 0..whole.len() {
            assert_eq!(messages(&whole[..length]).count(), 0);
        }
        for at in 0..whole.len() {
            for value in [0, 1, 3, 15, 127, 255] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                for heard in messages(&bytes) {
                    let _ = (attributes(heard.body).count(), refused(&heard));
                }
            }
        }
    }

    #[test]
    fn a_refusal_carries_the_kernels_words() {
        let mut body = (-libc::EEXIST).to_ne_bytes().to_vec();
        body.extend_from_slice(&[0; HEADER]);
        body.extend_from_slice(&[9, 0, 1, 0, b'w', b'h', b'y', b'!', 0, 0, 0, 0]);
        let heard = Heard { kind: ERROR, flags: CAPPED | ACK_ATTRIBUTES, sequence: 1, body: &body };
        let refusal = refused(&heard).expect("a refusal");
        assert!(refusal.is(libc::EEXIST));
        assert_eq!(refusal.words, "why!");
        assert!(refused(&Heard { body: &[0; 20], ..heard }).is_none());
        assert!(refused(&Heard { body: &[1], ..heard }).is_some());
    }
}
