//! The path MTU towards one peer: the largest packet that gets there in one piece. It is found by asking, for ICMP may never come, or come from
//! anybody. The gateway asks; this file decides which sizes, when, and what the answers mean. Read first: RFC 4821, RFC 8899.
//!
//! A probe is a UDP packet between the control ends' link addresses, which exist only inside the tunnel, filled up to the size under test; its
//! datagram must not be cut on the way (the shell sees to that). The other gateway answers with a short one. One that knows no probes answers
//! nothing, and the MTU stays where it began. A *volley* asks for several sizes at once, each up to three times; what stays unanswered is
//! too large. The first volley tries the sizes that links really have, the next ones what lies between.
//!
//! A volley is sent when the peer is first heard, and when its endpoint moves. While packets larger than [`SAFE`] go out, a look every 5 s
//! shows whether they still arrive, and every 10 minutes whether larger ones would.

use std::time::Duration;

use crate::budget::PACKET_SAFE as SAFE;
use crate::clock::Instant;
use crate::identity::End;
use crate::tunnel::packet::{IPV4, UDP};
use crate::tunnel::sum::sum;

/// The UDP port of both ends of a probe.
const PROBE_PORT: u16 = 5871;
/// What a datagram adds to its packet, over IPv4 and over IPv6.
const V4: u16 = 60;
const V6: u16 = 80;
/// The largest datagram that is tried, with its IP header.
const LINK: u16 = 1500;
/// The smallest size asked for. A path that does not carry it is cut.
const LEAST: u16 = 508;
/// Links of datagrams that are tried first: Ethernet, PPPoE, and what tunnels and mobile networks leave.
const LADDER: [u16; 9] = [1500, 1492, 1460, 1440, 1420, 1400, 1340, 1280, 900];
/// Sizes of one volley.
const VOLLEY: usize = LADDER.len() + 1;
/// How near the size found is to the truth, in bytes.
const GRAIN: u16 = 8;
/// How often each size of a volley is asked for.
const ROUNDS: u8 = 3;
/// The pause between rounds: half as long again as a round trip, within these.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(600));
/// The least time between the beginnings of two searches.
const SPACING: Duration = Duration::from_secs(2);
/// How often a look is taken while large packets go out.
const LOOK: Duration = Duration::from_secs(5);
/// How long after a search a larger size is tried again.
const RAISE: Duration = Duration::from_secs(600);

/// Bytes of a probe's headers and of what it says; an answer is no longer.
pub const SHORT: usize = IPV4 + 8 + 12;
const MARK: [u8; 3] = *b"mtu";
const ASK: u8 = 1;
const ANSWER: u8 = 2;

/// How a peer's path MTU comes about, in bytes of IP packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathMtu {
    /// It is this, whatever the path is like.
    Fixed(u16),
    /// It begins as this and is found.
    Found(u16),
}

/// What a probe packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Did this one arrive? The number of its volley.
    Ask(u16),
    /// One of this size arrived (the number of its volley, its bytes).
    Answer(u16, u16),
}

impl Probe {
    /// Reads a packet from a peer; `None` if it is no probe.
    pub fn read(packet: &[u8]) -> Option<Probe> {
        let head: &[u8; SHORT] = packet.first_chunk()?;
        let port = PROBE_PORT.to_be_bytes();
        // What nearly every packet fails comes first.
        if head[16..18] != [169, 254] || head[9] != UDP || head[0] != 0x45 || head[20..22] != port || head[22..24] != port || head[28..31] != MARK {
            return None;
        }
        let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        match head[31] {
            ASK => Some(Probe::Ask(word(32))),
            ANSWER => Some(Probe::Answer(word(32), word(34))),
            _ => None,
        }
    }

    /// Writes a packet that fills `packet`, zeros, at least [`SHORT`] of them. A UDP checksum it has not: the tunnel's seal covers it.
    pub fn write(self, from: End, packet: &mut [u8]) {
        let total = packet.len() as u16;
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet[6] = 0x40;
        (packet[8], packet[9]) = (64, UDP);
        packet[12..16].copy_from_slice(&from.link_control().octets());
        packet[16..20].copy_from_slice(&from.other().link_control().octets());
        let header = !sum(&packet[..IPV4]);
        packet[10..12].copy_from_slice(&header.to_be_bytes());
        packet[20..22].copy_from_slice(&PROBE_PORT.to_be_bytes());
        packet[22..24].copy_from_slice(&PROBE_PORT.to_be_bytes());
        packet[24..26].copy_from_slice(&(total - IPV4 as u16).to_be_bytes());
        packet[28..31].copy_from_slice(&MARK);
        let (kind, volley, size) = match self {
            Probe::Ask(volley) => (ASK, volley, 0),
            Probe::Answer(volley, size) => (ANSWER, volley, size),
        };
        packet[31] = kind;
        packet[32..34].copy_from_slice(&volley.to_be_bytes());
        packet[34..36].copy_from_slice(&size.to_be_bytes());
    }
}

/// What is known of the path to one peer.
pub(crate) struct Path {
    mtu: u16,
    fixed: bool,
    /// What it is as long as nothing is known, and the most there can be.
    start: u16,
    most: u16,
    /// The peer has answered a probe once.
    knows: bool,
    volley: Option<Volley>,
    number: u16,
    /// A search, or a look, is to begin.
    due: Option<(Instant, bool)>,
    searched: Option<Instant>,
    looked: Instant,
    /// Packets larger than [`SAFE`] went out since the last look.
    large: bool,
    pause: Duration,
}

/// Sizes asked for together, largest first.
struct Volley {
    sizes: heapless::Vec<u16, VOLLEY>,
    /// A bit a size: to be sent, answered.
    unsent: u16,
    answered: u16,
    round: u8,
    sent: Instant,
    next: Instant,
    /// What is known to pass and what is known not to; 0 and `u16::MAX` if nothing is.
    passes: u16,
    fails: u16,
    /// Only whether the MTU in use still passes.
    look: bool,
}

impl Path {
    pub(crate) fn new(how: PathMtu, now: Instant) -> Path {
        let (PathMtu::Fixed(start) | PathMtu::Found(start)) = how;
        let fixed = matches!(how, PathMtu::Fixed(_));
        Path {
            mtu: start,
            fixed,
            start,
            most: LINK - V4,
            knows: false,
            volley: None,
            number: 0,
            due: None,
            searched: None,
            looked: now,
            large: false,
            pause: PAUSE.1,
        }
    }

    /// The largest packet in bytes that goes to the peer in one piece, as far as known.
    pub(crate) fn mtu(&self) -> u16 {
        self.mtu
    }

    /// The peer is somewhere else, over IPv6 or not. True if the MTU is another now.
    pub(crate) fn moved(&mut self, v6: bool, now: Instant) -> bool {
        if self.fixed {
            return false;
        }
        self.most = LINK - if v6 { V6 } else { V4 };
        self.volley = None;
        self.due = Some((self.soon(now), false));
        self.set(self.start.min(self.most))
    }

    /// The peer is heard again after a while, where it was.
    pub(crate) fn resumed(&mut self, now: Instant) {
        if !self.fixed && !self.is_searching() {
            self.due = Some((now, self.mtu > SAFE));
        }
    }

    /// Somebody wants to know what it is now.
    pub(crate) fn ask(&mut self, now: Instant) {
        if !self.fixed && !self.is_searching() {
            self.due = Some((self.soon(now), false));
        }
    }

    /// Whether an answer to that is still to come.
    pub(crate) fn is_searching(&self) -> bool {
        self.volley.is_some() || self.due.is_some()
    }

    /// A packet of that many bytes went out.
    #[inline]
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.large |= bytes > usize::from(SAFE);
    }

    /// When [`Path::tick`] wants to be called next; besides, at least every few seconds while data flows.
    pub(crate) fn due(&self) -> Option<Instant> {
        let volley = self.volley.as_ref().map(|volley| volley.next);
        volley.or(self.due.map(|(at, _)| at))
    }

    /// Goes on with what is under way, and begins what is due. True if the MTU is another now.
    pub(crate) fn tick(&mut self, now: Instant) -> bool {
        if self.fixed {
            return false;
        }
        let mut changed = false;
        if let Some(volley) = &mut self.volley {
            if now < volley.next {
                return false;
            }
            if volley.round < ROUNDS && volley.answered & 1 == 0 {
                volley.ask(now, self.pause);
                return false;
            }
            changed = self.conclude(now);
            if self.volley.is_some() {
                return changed;
            }
        }
        match self.due {
            Some((at, look)) if at <= now => {
                self.due = None;
                if look { self.look(now) } else { self.search(0, now) }
            }
            None if self.large && self.knows && now.since(self.looked) >= LOOK => {
                let old = self.searched.is_none_or(|at| now.since(at) >= RAISE) && self.mtu < self.most;
                if old { self.search(self.mtu, now) } else { self.look(now) }
            }
            _ => {}
        }
        changed
    }

    /// The next probe to send: its volley and its size.
    pub(crate) fn poll(&mut self) -> Option<(u16, u16)> {
        let volley = self.volley.as_mut().filter(|volley| volley.unsent != 0)?;
        let at = volley.unsent.trailing_zeros() as usize;
        volley.unsent &= !(1 << at);
        Some((self.number, volley.sizes[at]))
    }

    pub(crate) fn has_probe(&self) -> bool {
        self.volley.as_ref().is_some_and(|volley| volley.unsent != 0)
    }

    /// The peer got a probe of `size` bytes.
    pub(crate) fn answered(&mut self, number: u16, size: u16, now: Instant) {
        let Some(volley) = self.volley.as_mut().filter(|_| number == self.number) else { return };
        let Some(at) = volley.sizes.iter().position(|&asked| asked == size) else { return };
        if volley.answered == 0 && volley.round == 1 {
            self.pause = (now.since(volley.sent) * 3 / 2).clamp(PAUSE.0, PAUSE.1);
            volley.next = volley.next.min(now.max(volley.sent + self.pause));
        }
        volley.answered |= 1 << at;
        self.knows = true;
        if at == 0 {
            // Nothing larger is in question.
            volley.next = now;
        }
    }

    /// When a search may begin.
    fn soon(&self, now: Instant) -> Instant {
        self.searched.map_or(now, |at| now.max(at + SPACING))
    }

    fn set(&mut self, mtu: u16) -> bool {
        std::mem::replace(&mut self.mtu, mtu) != mtu
    }

    /// Begins a volley of all that is between what passes and the most there can be.
    fn search(&mut self, passes: u16, now: Instant) {
        self.searched = Some(now);
        self.begin(passes, u16::MAX, false, now);
    }

    fn look(&mut self, now: Instant) {
        self.begin(0, u16::MAX, true, now);
    }

    fn begin(&mut self, passes: u16, fails: u16, look: bool, now: Instant) {
        (self.looked, self.large) = (now, false);
        self.number = self.number.wrapping_add(1);
        let mut sizes = heapless::Vec::new();
        if look {
            sizes.extend([self.mtu, LEAST]);
        } else if fails > self.most {
            let overhead = LINK - self.most;
            sizes.extend(LADDER.iter().map(|link| link - overhead).filter(|size| *size > passes).chain((passes == 0).then_some(LEAST)));
        } else {
            // Evenly between the two, both left out; never more than eight.
            let step = (fails - passes).div_ceil(9).max(GRAIN / 2);
            sizes.extend((1..=8).map(|n| passes + n * step).filter(|size| *size < fails).rev());
        }
        let mut volley = Volley { unsent: 0, answered: 0, round: 0, sent: now, next: now, passes, fails, look, sizes };
        volley.ask(now, self.pause);
        self.volley = Some(volley);
    }

    /// All that comes has come.
    fn conclude(&mut self, now: Instant) -> bool {
        let Some(volley) = self.volley.take() else { return false };
        let answered = |at: usize| volley.answered & 1 << at != 0;
        let passed = volley.sizes.iter().enumerate().find(|(at, _)| answered(*at)).map(|(at, size)| (at, *size));
        if volley.look {
            return match passed {
                // Only the small one: something is narrower than it was.
                Some((1, _)) => {
                    let changed = self.set(self.mtu.min(SAFE));
                    self.due = Some((self.soon(now), false));
                    changed
                }
                _ => false,
            };
        }
        // Nobody there, or nobody who knows probes.
        if passed.is_none() && volley.passes == 0 {
            return false;
        }
        let (passes, fails) = match passed {
            Some((0, size)) => (size, volley.fails),
            Some((at, size)) => (size, volley.sizes[at - 1]),
            None => (volley.passes, volley.sizes.last().copied().unwrap_or(volley.fails)),
        };
        if passes >= self.most || fails.saturating_sub(passes) <= GRAIN {
            return self.set(passes.min(self.most));
        }
        // What is sure already is in use at once.
        let changed = passes > self.mtu && self.set(passes);
        self.begin(passes, fails.min(self.most), false, now);
        changed
    }
}

impl Volley {
    /// Another round of what is larger than what is answered.
    fn ask(&mut self, now: Instant, pause: Duration) {
        self.round += 1;
        self.unsent = (1 << self.answered.trailing_zeros().min(self.sizes.len() as u32)) - 1;
        (self.sent, self.next) = (now, now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_boot(Duration::from_millis(1_000_000 + ms))
    }

    /// A path that carries packets up to `truth`, with a round trip of `trip` ms; every `lost`th probe is lost. Runs until `end`, gives when the
    /// MTU became what it is then.
    fn run(path: &mut Path, truth: &dyn Fn(u64) -> u16, trip: u64, lost: u64, from: u64, end: u64) -> (u64, u64) {
        let (mut under_way, mut sent, mut changed) = (Vec::new(), 0, from);
        for ms in from..end {
            under_way.retain(|&(arrives, number, size)| {
                if arrives == ms {
                    path.answered(number, size, at(ms));
                }
                arrives != ms
            });
            if path.due().is_some_and(|due| due <= at(ms)) || ms % 1000 == 0 {
                let before = path.mtu();
                path.tick(at(ms));
                if path.mtu() != before {
                    changed = ms;
                }
                assert!(path.due().is_none_or(|due| due > at(ms)) || path.due.is_some(), "what was looked at is due later");
            }
            while let Some((number, size)) = path.poll() {
                sent += 1;
                if size <= truth(ms) && (lost == 0 || sent % lost != 0) {
                    under_way.push((ms + trip, number, size));
                }
            }
        }
        (changed - from, sent)
    }

    #[test]
    fn any_path_is_found_to_eight_bytes_within_five_seconds() {
        for link in [576, 1006, 1280, 1300, 1380, 1400, 1452, 1492, 1493, 1499, 1500, 9000] {
            for (trip, lost) in [(1, 0), (40, 0), (300, 0), (900, 0), (40, 11)] {
                let mut path = Path::new(PathMtu::Found(SAFE), at(0));
                path.moved(false, at(0));
                let (took, sent) = run(&mut path, &|_| link - V4, trip, lost, 0, 8000);
                let truth = (link - V4).min(1440);
                assert!(path.mtu() <= truth && path.mtu() + GRAIN >= truth, "link {link}, {trip} ms: {}", path.mtu());
                assert!(took <= if trip < 500 { 5000 } else { 5500 } && sent <= 90, "link {link}, {trip} ms: took {took} ms and {sent} probes");
            }
        }
    }

    #[test]
    fn a_path_as_wide_as_any_takes_one_volley() {
        let mut path = Path::new(PathMtu::Found(SAFE), at(0));
        path.moved(false, at(0));
        assert_eq!(run(&mut path, &|_| 1440, 30, 0, 0, 3000), (30, 10));
        assert_eq!(path.mtu(), 1440);
        assert!(path.moved(true, at(4000)), "somewhere else it begins anew");
        assert_eq!(path.mtu(), SAFE);
        run(&mut path, &|_| 1440, 30, 0, 4000, 9000);
        assert_eq!(path.mtu(), 1420, "over IPv6 no more fits");
    }

    #[test]
    fn a_path_that_grows_narrow_is_noticed_while_large_packets_go_out() {
        let mut path = Path::new(PathMtu::Found(SAFE), at(0));
        path.moved(false, at(0));
        let truth = |ms: u64| if (10_000..600_000).contains(&ms) { 1320 } else { 1440 };
        run(&mut path, &truth, 40, 0, 0, 10_000);
        assert_eq!(run(&mut path, &truth, 40, 0, 10_000, 40_000).1, 0, "nothing is sent for nothing");
        assert_eq!(path.mtu(), 1440);
        path.sent(1400);
        run(&mut path, &truth, 40, 0, 40_000, 47_000);
        assert!((1312..=1320).contains(&path.mtu()), "{}", path.mtu());
        // And that it is wide again, a while after.
        for second in 47..760 {
            path.sent(1300);
            run(&mut path, &truth, 40, 0, second * 1000, second * 1000 + 1000);
        }
        assert_eq!(path.mtu(), 1440);
    }

    #[test]
    fn who_does_not_answer_is_left_alone_and_a_cut_path_keeps_its_mtu() {
        let mut path = Path::new(PathMtu::Found(1420), at(0));
        path.moved(false, at(0));
        let mut sent = 0;
        for second in 0..300 {
            path.sent(1400);
            sent += run(&mut path, &|_| 0, 40, 0, second * 1000, second * 1000 + 1000).1;
        }
        assert_eq!((path.mtu(), sent), (1420, 30));
        let mut path = Path::new(PathMtu::Found(SAFE), at(0));
        path.moved(false, at(0));
        run(&mut path, &|_| 1440, 40, 0, 0, 3000);
        for second in 10..30 {
            path.sent(1400);
            run(&mut path, &|_| 0, 40, 0, second * 1000, second * 1000 + 1000);
        }
        assert_eq!(path.mtu(), 1440, "a cut says nothing of sizes");
        let mut fixed = Path::new(PathMtu::Fixed(1380), at(0));
        fixed.moved(false, at(0));
        fixed.resumed(at(0));
        assert_eq!((run(&mut fixed, &|_| 1200, 40, 0, 0, 3000).1, fixed.mtu(), fixed.due()), (0, 1380, None));
    }

    #[test]
    fn stale_and_strange_answers_change_nothing() {
        let mut path = Path::new(PathMtu::Found(SAFE), at(0));
        path.moved(false, at(0));
        path.tick(at(0));
        let (number, size) = path.poll().expect("a probe");
        path.answered(number.wrapping_add(1), size, at(1));
        path.answered(number, size + 1, at(1));
        path.answered(number, u16::MAX, at(1));
        run(&mut path, &|_| 0, 40, 0, 1, 5000);
        assert_eq!(path.mtu(), SAFE);
        path.answered(number, size, at(5000));
        assert_eq!(path.mtu(), SAFE);
    }

    #[test]
    fn a_probe_reads_as_it_was_written_and_nothing_else_does() {
        for probe in [Probe::Ask(7), Probe::Answer(65_535, 1440)] {
            let mut packet = [0; 1440];
            probe.write(End::Joiner, &mut packet);
            assert_eq!(Probe::read(&packet), Some(probe));
            assert_eq!(crate::tunnel::packet::Header::read(&packet).map(|header| header.total), Ok(1440));
            assert_eq!(Probe::read(&packet[..SHORT - 1]), None);
            for at in [0, 9, 16, 17, 20, 23, 28, 30, 31] {
                let mut other = packet;
                other[at] ^= 0x40;
                assert_eq!(Probe::read(&other), None, "byte {at}");
            }
        }
    }
}
