//! Packet buffers, all made at start: the shell's sockets fill and empty them, the cores read and write them, nothing grows.
//!
//! [`Incoming`] takes what one call brings from the network, and the frame that a read brings from the device: the two are never there at
//! once. [`Outgoing`] gathers sealed datagrams until the end of a batch. What does not fit is the caller's to send first.

use std::net::{Ipv6Addr, SocketAddr};

use crate::budget::{BATCH_BYTES, BATCHES, DATAGRAM_MAX, OUTGOING_BYTES, RUNS, SINGLE_BYTES, SINGLES};

const _: () = assert!(SINGLES * SINGLE_BYTES <= BATCHES * BATCH_BYTES && BATCHES <= SINGLES && DATAGRAM_MAX < SINGLE_BYTES);

/// The most datagrams the kernel parts at once.
const RUN_DATAGRAMS: usize = 64;
/// The most bytes it does: what one datagram over IPv4 holds.
const RUN_BYTES: usize = 65_507;

/// What one batch holds: datagrams of one sender.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// The sender; `None` if the kernel named none that is understood.
    pub from: Option<SocketAddr>,
    /// Which of the host's addresses was called, where that was asked for; IPv4 wrapped in IPv6.
    pub to: Option<Ipv6Addr>,
    /// Bytes.
    pub len: usize,
    /// Bytes of each datagram but the last; 0 if there is one.
    pub size: usize,
}

/// Batches of datagrams, or a frame.
pub struct Incoming {
    bytes: Box<[u8]>,
    received: [Received; SINGLES],
    /// Bytes from one batch to the next.
    stride: usize,
}

impl Incoming {
    /// All of it, made once.
    #[expect(clippy::new_without_default, reason = "it is made at one place, and is large")]
    pub fn new() -> Incoming {
        Incoming {
            bytes: vec![0; BATCHES * BATCH_BYTES].into_boxed_slice(),
            received: [Received { from: None, to: None, len: 0, size: 0 }; SINGLES],
            stride: BATCH_BYTES,
        }
    }

    /// The place for one frame of the device.
    pub fn frame(&mut self) -> &mut [u8] {
        &mut self.bytes[..BATCH_BYTES]
    }

    /// Where a reader puts batches, and what it says of them: [`BATCHES`] of [`BATCH_BYTES`] if the kernel joins datagrams, else [`SINGLES`] of
    /// [`SINGLE_BYTES`].
    pub fn batches(&mut self, joined: bool) -> (&mut [u8], &mut [Received]) {
        let (count, stride) = if joined { (BATCHES, BATCH_BYTES) } else { (SINGLES, SINGLE_BYTES) };
        self.stride = stride;
        (&mut self.bytes[..count * stride], &mut self.received[..count])
    }

    /// Which of the host's addresses batch `at` was sent to, if that is known.
    pub fn called(&self, at: usize) -> Option<Ipv6Addr> {
        self.received.get(at)?.to
    }

    /// The datagrams of batch `at`, and their sender.
    pub fn batch(&self, at: usize) -> Option<(SocketAddr, impl Iterator<Item = &[u8]>)> {
        let batch = self.received.get(at)?;
        let from = at * self.stride;
        let size = if batch.size == 0 { batch.len } else { batch.size };
        Some((batch.from?, self.bytes.get(from..from + batch.len.min(self.stride))?.chunks(size.max(1))))
    }
}

/// Datagrams of equal length (the last may be shorter) for one destination, one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where they go.
    pub to: SocketAddr,
    /// Which of the host's addresses they come from; none: the kernel's choice.
    pub source: Option<Ipv6Addr>,
    /// Bytes of each but the last.
    pub size: usize,
    /// How many.
    pub count: usize,
    from: usize,
    len: usize,
}

/// Sealed datagrams in the order they were made.
pub struct Outgoing {
    bytes: Box<[u8]>,
    used: usize,
    runs: heapless::Vec<Run, RUNS>,
}

impl Outgoing {
    /// All of it, made once.
    #[expect(clippy::new_without_default, reason = "it is made at one place, and is large")]
    pub fn new() -> Outgoing {
        Outgoing { bytes: vec![0; OUTGOING_BYTES].into_boxed_slice(), used: 0, runs: heapless::Vec::new() }
    }

    /// The place for the next datagram, at least [`DATAGRAM_MAX`] long; `None` when what is here must be sent first.
    pub fn room(&mut self) -> Option<&mut [u8]> {
        let free = &mut self.bytes[self.used..];
        (free.len() >= DATAGRAM_MAX && !self.runs.is_full()).then_some(free)
    }

    /// The place that [`Outgoing::room`] gave now begins with a datagram of `len` bytes.
    pub fn push(&mut self, to: SocketAddr, source: Option<Ipv6Addr>, len: usize) {
        let from = self.used;
        self.used += len;
        if let Some(run) = self.runs.last_mut() {
            // A run whose last is shorter is at its end.
            let whole = run.len == run.size * run.count;
            if run.to == to && run.source == source && whole && len <= run.size && len > 0 && run.count < RUN_DATAGRAMS && run.len + len <= RUN_BYTES {
                run.count += 1;
                run.len += len;
                return;
            }
        }
        // Room was asked for before.
        let _ = self.runs.push(Run { to, source, size: len, count: 1, from, len });
    }

    /// All runs.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The bytes of a run.
    pub fn bytes(&self, run: &Run) -> &[u8] {
        &self.bytes[run.from..run.from + run.len]
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.used = 0;
        self.runs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
    const B: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2);

    fn gathered(all: &[(SocketAddr, usize)]) -> Vec<(usize, usize)> {
        let mut outgoing = Outgoing::new();
        for &(to, len) in all {
            outgoing.room().expect("room")[..len].fill(len as u8);
            outgoing.push(to, None, len);
        }
        let bytes: usize = outgoing.runs().iter().map(|run| outgoing.bytes(run).len()).sum();
        assert_eq!(bytes, all.iter().map(|(_, len)| len).sum::<usize>());
        outgoing.runs().iter().map(|run| (run.size, run.count)).collect()
    }

    #[test]
    fn a_run_is_of_one_size_and_one_destination_and_a_shorter_datagram_ends_it() {
        assert_eq!(gathered(&[(A, 100), (A, 100), (A, 60), (A, 60), (A, 100)]), [(100, 3), (60, 1), (100, 1)]);
        assert_eq!(gathered(&[(A, 100), (B, 100), (A, 100)]), [(100, 1), (100, 1), (100, 1)]);
        assert_eq!(gathered(&[(A, 100), (A, 101)]), [(100, 1), (101, 1)]);
        assert_eq!(gathered(&[(A, 0), (A, 0)]), [(0, 1), (0, 1)]);
        assert_eq!(gathered(&[(A, 96); 65]), [(96, 64), (96, 1)]);
        assert_eq!(gathered(&[(A, 1452); 46]), [(1452, 45), (1452, 1)]);
    }

    #[test]
    fn when_it_is_full_it_says_so() {
        let mut outgoing = Outgoing::new();
        let mut count = 0;
        while outgoing.room().is_some() {
            outgoing.push(A, None, DATAGRAM_MAX);
            count += 1;
        }
        assert_eq!(count, OUTGOING_BYTES / DATAGRAM_MAX);
        outgoing.clear();
        for n in 0..RUNS {
            assert!(outgoing.room().is_some(), "{n}");
            outgoing.push(if n % 2 == 0 { A } else { B }, None, 10);
        }
        assert!(outgoing.room().is_none());
    }

    #[test]
    fn a_batch_is_parted_by_its_size() {
        let mut incoming = Incoming::new();
        let (bytes, received) = incoming.batches(true);
        bytes[BATCH_BYTES..BATCH_BYTES + 5].copy_from_slice(b"aabbc");
        received[0] = Received { from: Some(A), to: None, len: 3, size: 0 };
        received[1] = Received { from: Some(B), to: None, len: 5, size: 2 };
        assert_eq!(incoming.batch(0).map(|(from, all)| (from, all.count())), Some((A, 1)));
        let (from, all) = incoming.batch(1).expect("a batch");
        assert_eq!((from, all.collect::<Vec<_>>()), (B, vec![&b"aa"[..], b"bb", b"c"]));
        assert!(incoming.batch(2).is_none() && incoming.batch(BATCHES).is_none());
        assert_eq!(incoming.frame().len(), BATCH_BYTES);
    }
}
