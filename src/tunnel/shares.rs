//! Whose datagrams are taken when more come than can be carried: no sender's flood delays another's few.
//!
//! The socket's queue is one for all peers, first in, first out, and long enough for bursts. If it has not been read empty for [`STANDING`] (the idea
//! of a standing queue is CoDel's, RFC 8289) and not all in it is one sender's, each sender may have only so many datagrams of a batch: half as many with
//! every batch that does not empty the queue, one more with every one that does. What is over is dropped before anything is opened, so it costs
//! next to nothing; the queue is short again within milliseconds, and for a second after it is not let grow again. Who sends little loses nothing, and
//! neither does a burst: only who was over its share in the batch before as well is cut.
//! A sender alone is never cut here: the kernel's queue, when full, does that. Who forges a peer's address can only use up that peer's share.

use std::net::SocketAddr;
use std::time::Duration;

use crate::clock::Instant;

/// Datagrams of a batch.
pub const BATCH: usize = 64;
/// How long the queue may stand before senders are cut to their shares.
const STANDING: Duration = Duration::from_millis(5);
/// How long after a cut the next one comes at once.
const WARY: Duration = Duration::from_secs(1);
/// How long after a batch of several senders one of them counts as alone.
const COMPANY: Duration = Duration::from_secs(1);
/// The least share of a batch: who asks and answers in turn does not send more at a time.
const LEAST: usize = 4;

/// What is known of the queue and its senders.
#[derive(Debug)]
pub struct Shares {
    /// Since when the queue has not been read empty.
    standing: Option<Instant>,
    /// Until when a queue that is not emptied is cut at once.
    wary: Option<Instant>,
    /// Until when no sender counts as alone.
    company: Option<Instant>,
    /// Datagrams of a batch that each sender may have.
    share: usize,
    /// What each sender has had of this batch.
    taken: heapless::Vec<(SocketAddr, usize), BATCH>,
    /// The same of the batch before.
    before: heapless::Vec<(SocketAddr, usize), BATCH>,
    cut: bool,
}

impl Default for Shares {
    fn default() -> Shares {
        Shares { standing: None, wary: None, company: None, share: BATCH, taken: heapless::Vec::new(), before: heapless::Vec::new(), cut: false }
    }
}

impl Shares {
    /// A batch was read, from these senders; `emptied` if the socket had no more. Then [`Shares::takes`] judges each datagram of it.
    pub fn batch(&mut self, mut senders: impl Iterator<Item = SocketAddr>, emptied: bool, now: Instant) {
        std::mem::swap(&mut self.taken, &mut self.before);
        self.taken.clear();
        if let Some(first) = senders.next()
            && senders.any(|sender| sender != first)
        {
            self.company = Some(now + COMPANY);
        }
        if emptied {
            self.standing = None;
            self.share = (self.share + 1).min(BATCH);
        } else if now.since(*self.standing.get_or_insert(now)) >= STANDING || self.wary.is_some_and(|until| now < until) {
            self.share = (self.share / 2).max(LEAST);
            self.wary = Some(now + WARY);
        }
        self.cut = self.share < BATCH && self.company.is_some_and(|until| now < until);
    }

    /// Whether the next datagram of the batch, from this sender, is within its share.
    pub fn takes(&mut self, from: SocketAddr) -> bool {
        let of = |list: &[(SocketAddr, usize)]| list.iter().position(|(sender, _)| *sender == from);
        let Some(at) = of(&self.taken) else {
            // There are as many places as datagrams.
            return self.taken.push((from, 1)).is_ok();
        };
        self.taken[at].1 += 1;
        !self.cut || self.taken[at].1 <= self.share || of(&self.before).is_none_or(|before| self.before[before].1 <= self.share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 51820))
    }

    fn at(micros: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(1) + Duration::from_micros(micros))
    }

    /// What is taken of a batch, by sender.
    fn taken(shares: &mut Shares, batch: &[SocketAddr], emptied: bool, now: Instant) -> [usize; 3] {
        shares.batch(batch.iter().copied(), emptied, now);
        let mut count = [0; 3];
        for &from in batch {
            let SocketAddr::V4(v4) = from else { continue };
            count[usize::from(v4.ip().octets()[3])] += usize::from(shares.takes(from));
        }
        count
    }

    fn mixed() -> Vec<SocketAddr> {
        (0..BATCH).map(|at| sender(u8::from(at % 32 == 7))).collect()
    }

    #[test]
    fn a_sender_alone_and_bursts_are_never_cut() {
        let mut shares = Shares::default();
        for n in 0..100 {
            assert_eq!(taken(&mut shares, &[sender(0); BATCH], false, at(n * 1000)), [BATCH, 0, 0]);
        }
        let mut shares = Shares::default();
        for n in 0..100 {
            // Emptied every fourth millisecond.
            assert_eq!(taken(&mut shares, &mixed(), n % 4 == 3, at(n * 1000)), [62, 2, 0], "{n}");
        }
    }

    #[test]
    fn in_a_queue_that_stands_who_sends_little_loses_nothing_and_who_floods_is_cut() {
        let mut shares = Shares::default();
        let mut last = [0; 3];
        for n in 0..20 {
            last = taken(&mut shares, &mixed(), false, at(n * 1000));
            assert_eq!(last[1], 2, "{n}");
        }
        assert_eq!(last, [LEAST, 2, 0]);
        // A burst of who sent little passes, but not two batches of it: two who flood have the same.
        let both: Vec<SocketAddr> = (0..BATCH).map(|at| sender(at as u8 % 2)).collect();
        assert_eq!(taken(&mut shares, &both, false, at(20_000)), [LEAST, 32, 0]);
        assert_eq!(taken(&mut shares, &both, false, at(20_100)), [LEAST, LEAST, 0]);
        taken(&mut shares, &mixed(), false, at(20_200));
        // The queue is empty again and again: all is as before.
        for n in 21..90 {
            last = taken(&mut shares, &mixed(), true, at(n * 1000));
        }
        assert_eq!(last, [62, 2, 0]);
    }

    /// A queue like the socket's, in virtual microseconds: one sender asks every 5 ms, the other floods. What a datagram costs is about what it does on a
    /// small machine. The waits of the one that asks, in order, and how many of its datagrams were lost.
    fn flooded(gap: f64, fair: bool) -> (Vec<u64>, usize) {
        const PLACES: usize = 1600;
        let (mut shares, mut queue) = (Shares::default(), std::collections::VecDeque::new());
        let (mut waits, mut lost, mut clock, mut flood, mut question) = (Vec::new(), 0, 0.0_f64, 0.0_f64, 2500.0_f64);
        while clock < 4e6 {
            while flood.min(question) <= clock {
                let (from, at) = if flood <= question { (sender(0), &mut flood) } else { (sender(1), &mut question) };
                if queue.len() < PLACES {
                    queue.push_back((from, *at));
                } else {
                    lost += usize::from(from == sender(1));
                }
                *at += if from == sender(0) { gap } else { 5000.0 };
            }
            if queue.is_empty() {
                clock = flood.min(question);
                continue;
            }
            let batch: Vec<_> = queue.drain(..queue.len().min(BATCH)).collect();
            shares.batch(batch.iter().map(|(from, _)| *from), batch.len() < BATCH, at(clock as u64));
            clock += 20.0;
            for (from, arrived) in batch {
                let taken = shares.takes(from) || !fair;
                clock += if taken { 10.0 } else { 1.5 };
                match (taken, from == sender(1)) {
                    (true, true) => waits.push((clock - arrived) as u64),
                    (false, true) => lost += 1,
                    _ => {}
                }
            }
        }
        waits.sort_unstable();
        (waits, lost)
    }

    #[test]
    fn a_flood_does_not_delay_who_asks_and_answers() {
        let p99 = |waits: &[u64]| waits[waits.len() * 99 / 100];
        for gap in [8.5, 5.0, 3.5] {
            let (without, dropped) = flooded(gap, false);
            assert!(p99(&without) > 15_000 && dropped > 0, "{gap}: the flood is none: {}", p99(&without));
            let (with, dropped) = flooded(gap, true);
            assert!(p99(&with) < 1_000 && dropped == 0, "{gap}: {} us, {dropped} lost", p99(&with));
        }
    }

    #[test]
    fn who_is_alone_again_is_cut_no_more() {
        let mut shares = Shares::default();
        for n in 0..20 {
            taken(&mut shares, &mixed(), false, at(n * 1000));
        }
        assert_eq!(taken(&mut shares, &[sender(0); BATCH], false, at(500_000))[0], LEAST);
        assert_eq!(taken(&mut shares, &[sender(0); BATCH], false, at(1_020_000))[0], BATCH);
    }

    #[test]
    fn as_many_senders_as_datagrams_are_all_heard() {
        let mut shares = Shares::default();
        for n in 0..20 {
            let all: Vec<SocketAddr> = (0..BATCH as u16).map(|port| SocketAddr::from(([192, 0, 2, 2], port + 1))).collect();
            assert_eq!(taken(&mut shares, &all, false, at(n * 1000)), [0, 0, BATCH]);
        }
    }
}
