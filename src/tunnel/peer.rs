//! One peer: its endpoint, keys, counters, and the schedule of its handshakes and keepalives. The gateway asks; this file decides when.
//!
//! Without a session a peer that wants one initiates for ever, to every endpoint known, 2 s after the first try, then later and later up
//! to every 15 s. Wanted is a session at start, on request, while packets wait, while an initiation is unanswered, and always when a
//! keepalive is set. With a session boringtun's timers run it; they need a look every second while data flows, else every 5 s, on whole
//! multiples so that all peers share a wake-up.

use std::net::SocketAddr;
use std::time::Duration;

use crate::budget::ENDPOINTS;
use crate::clock::Instant;
use crate::identity::{PeerId, PublicKey, SecretKey};
use crate::tunnel::datagram::INITIATION;
use crate::tunnel::path::{Path, PathMtu};
use crate::tunnel::session::{Session, Tick};
use crate::tunnel::transit::Transit;
use crate::tunnel::{Addresses, Event};

/// How long sent data may stay unanswered before the peer counts as away. A peer that has nothing to say answers after 10 s.
const PATIENCE: Duration = Duration::from_secs(13);
/// How long after data the timers are looked at every second: boringtun acts 10 and 15 s after data.
const ACTIVE: Duration = Duration::from_secs(20);
/// The least time between two initiations that packets or the schedule cause.
const SPACING: Duration = Duration::from_secs(2);
/// How long after data an answer is due, if only a keepalive; and how long sent data may go unanswered before a new handshake (the
/// WireGuard paper's Keepalive-Timeout, and that plus Rekey-Timeout). boringtun has both, but rounds to its last look at the timers and
/// takes what came and went within one for answered.
const ANSWER: Duration = Duration::from_secs(10);
const REKEY: Duration = Duration::from_secs(15);
/// When an initiator's session is renewed if only keepalives flow; boringtun renews at this age only if data does.
const RENEW: Duration = Duration::from_secs(120);
/// When either end renews a session that data flows in (the paper's Reject-After-Time less Keepalive-Timeout and Rekey-Timeout). boringtun has it
/// for what an initiator hears only: where both have called at once and both answers were lost, each takes itself for the one that was called.
/// Where only keepalives flow, [`RENEW`] does: what we call `initiated` is true of at least one end.
const OVERDUE: Duration = Duration::from_secs(165);
/// After how long a session ends (the WireGuard paper's Reject-After-Time).
const REJECT: Duration = Duration::from_secs(180);
/// Seconds after the first, second, ... unanswered initiation until the next; the last one repeats.
const BACK_OFF: [u64; 6] = [2, 3, 5, 8, 12, 15];

/// What a peer is, when it is added.
#[derive(Clone, Debug)]
pub struct PeerSpec {
    /// Its row.
    pub id: PeerId,
    /// Its key.
    pub public_key: PublicKey,
    /// Our key in this session, if it is not the gateway's (the joiner's enrolment). Such a session only ever initiates.
    pub secret: Option<SecretKey>,
    /// A key that both know besides.
    pub preshared: Option<[u8; 32]>,
    /// Send something at least this often, and always keep a session.
    pub keepalive: Option<Duration>,
    /// Where it may be found. May be empty: then it must come to us.
    pub endpoints: heapless::Vec<SocketAddr, ENDPOINTS>,
    /// Which addresses it has.
    pub addresses: Addresses,
    /// How large a packet may be that goes to it.
    pub path: PathMtu,
}

/// How a peer is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Where authentic traffic last came from.
    pub endpoint: Option<SocketAddr>,
    /// Age of the session in use; `None` if there is none.
    pub handshake: Option<Duration>,
    /// Round trip of the last handshake that we began.
    pub round_trip: Option<Duration>,
    /// Since when nothing authentic came; `None` if nothing ever did.
    pub received: Option<Duration>,
    /// Handshakes that we began have stayed unanswered, and we go on calling.
    pub calling: bool,
    /// The largest packet in bytes that goes to it in one piece, as far as known.
    pub mtu: u16,
    /// Bytes of packets received.
    pub bytes_in: u64,
    /// Bytes of packets sent.
    pub bytes_out: u64,
}

/// A row of the gateway.
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) public_key: PublicKey,
    /// Whether initiations made for the gateway's key may be this peer's.
    pub(crate) answers: bool,
    pub(crate) addresses: Addresses,
    /// What of third clusters it may reach through us.
    pub(crate) transit: Transit,
    pub(crate) session: Session,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) ticked: Instant,
    pub(crate) path: Path,
    candidates: heapless::Vec<SocketAddr, ENDPOINTS>,
    keepalive: Option<Duration>,
    wanted: bool,
    /// Initiations since the last session.
    attempts: u8,
    retry: Instant,
    attempted: Option<Instant>,
    active_until: Instant,
    sent: Instant,
    received: Option<Instant>,
    /// When the first data was sent that nothing has come after.
    unanswered: Option<Instant>,
    /// When the first data came that nothing was sent after.
    owed: Option<Instant>,
    /// Whether we began the session in use.
    initiated: bool,
    /// Our index of a session that the peer began and has not used yet.
    answered: Option<u32>,
    /// Since when a session stands that both have used. One that was only answered may be the work of a replay, and boringtun may take it
    /// for the one to seal with.
    proved: Option<Instant>,
    alive: bool,
    bytes_in: u64,
    bytes_out: u64,
    outgoing: Outgoing,
    news: News,
}

/// A handshake message or keepalive on its way out, once to each target.
struct Outgoing {
    bytes: [u8; INITIATION],
    len: usize,
    targets: heapless::Vec<SocketAddr, { ENDPOINTS + 1 }>,
}

/// Events not fetched yet; each kind at most once, so nothing can pile up.
#[derive(Default)]
struct News {
    up: Option<Option<Duration>>,
    moved: bool,
    quiet: bool,
    mtu: bool,
}

impl Peer {
    pub(crate) fn new(spec: PeerSpec, session: Session, now: Instant) -> Peer {
        Peer {
            id: spec.id,
            public_key: spec.public_key,
            answers: spec.secret.is_none(),
            addresses: spec.addresses,
            transit: Transit::default(),
            session,
            endpoint: None,
            ticked: now,
            path: Path::new(spec.path, now),
            candidates: spec.endpoints,
            keepalive: spec.keepalive,
            wanted: true,
            attempts: 0,
            retry: now,
            attempted: None,
            active_until: now,
            sent: now,
            received: None,
            unanswered: None,
            owed: None,
            initiated: false,
            answered: None,
            proved: None,
            alive: false,
            bytes_in: 0,
            bytes_out: 0,
            outgoing: Outgoing { bytes: [0; INITIATION], len: 0, targets: heapless::Vec::new() },
            news: News::default(),
        }
    }

    /// Looks at the timers: boringtun's, the schedule's, the keepalive's. `waiting`: packets wait for a session.
    pub(crate) fn tick(&mut self, now: Instant, waiting: bool) {
        self.ticked = now;
        let mut buffer = [0; INITIATION];
        let ticked = self.session.tick(&mut buffer);
        if let Tick::Send(len) = ticked {
            self.send(&buffer[..len], now);
        }
        if !self.stands(now) {
            if self.alive {
                self.lose();
            }
            if self.wants(waiting) && now >= self.retry && ticked != Tick::Send(INITIATION) {
                self.initiate(now);
            }
            return;
        }
        if self.alive && self.unanswered.is_some_and(|since| now.since(since) > PATIENCE) {
            self.lose();
        }
        self.news.mtu |= self.path.tick(now);
        if matches!(ticked, Tick::Send(_)) {
            return;
        }
        let silent = self.keepalive.is_some_and(|every| now.since(self.sent) >= every);
        let unanswered = self.attempts == 0 && self.unanswered.is_some_and(|since| now.since(since) >= REKEY);
        let age = self.age(now);
        let old = silent && self.initiated && age >= Some(RENEW) || now < self.active_until && age >= Some(OVERDUE);
        if unanswered || old && now >= self.retry {
            self.initiate(now);
        } else if (silent || self.owed.is_some_and(|since| now.since(since) >= ANSWER))
            && let Some(len) = self.session.seal(&[], &mut buffer)
        {
            self.send(&buffer[..len], now);
        }
    }

    /// When the timers want the next look.
    pub(crate) fn due(&self, now: Instant, waiting: bool) -> Option<Instant> {
        if !self.stands(now) {
            return self.wants(waiting).then_some(self.retry);
        }
        let grid = if now < self.active_until { 1 } else { 5 };
        let look = next_multiple(now, grid);
        let keepalive = self.keepalive.map(|every| next_multiple(self.sent + every, 1));
        let look = keepalive.map_or(look, |at| look.min(at.max(next_multiple(now, 1))));
        Some(self.path.due().map_or(look, |at| look.min(at)))
    }

    /// Initiates now, whatever stands, with the patience of a first try.
    pub(crate) fn handshake_now(&mut self, now: Instant) {
        self.wanted = true;
        self.attempts = 0;
        // Two initiations of one instant would bear one stamp, and the second be refused.
        if self.reachable() && self.attempted != Some(now) {
            self.initiate(now);
        }
    }

    /// A packet waits: initiate as soon as the spacing allows. True if that is now.
    pub(crate) fn hasten(&mut self, now: Instant) -> bool {
        self.retry = self.attempted.map_or(now, |at| self.retry.min((at + SPACING).max(now)));
        self.reachable() && self.retry <= now
    }

    /// Other places where the peer may be found.
    pub(crate) fn set_endpoints(&mut self, endpoints: &heapless::Vec<SocketAddr, ENDPOINTS>, now: Instant) {
        if self.candidates == *endpoints {
            return;
        }
        self.candidates.clone_from(endpoints);
        if !self.stands(now) && self.attempted != Some(now) {
            (self.attempts, self.retry) = (0, now);
        }
    }

    /// Whether packets can be sealed, and opened at the other end.
    pub(crate) fn stands(&self, now: Instant) -> bool {
        self.age(now).is_some()
    }

    /// The age of the session that both use.
    fn age(&self, now: Instant) -> Option<Duration> {
        self.proved.map(|since| now.since(since)).filter(|age| *age <= REJECT && self.session.established())
    }

    /// We answered an initiation; `index` is ours of the new session. It counts as the peer's sign of life only once it is used.
    pub(crate) fn answered(&mut self, index: Option<u32>, now: Instant) {
        self.answered = index;
        self.sent = now;
    }

    /// The peer answered our initiation.
    pub(crate) fn completed(&mut self, from: SocketAddr, now: Instant) {
        self.initiated = true;
        self.proved = Some(now);
        (self.wanted, self.attempts, self.retry) = (false, 0, now);
        self.outgoing.targets.clear();
        (self.sent, self.owed) = (now, None);
        self.heard(from, now);
    }

    /// An authentic data message came under the session with our index `receiver`, with a packet of `bytes` or as a keepalive.
    pub(crate) fn received(&mut self, from: SocketAddr, receiver: u32, bytes: usize, now: Instant) {
        if self.answered == Some(receiver) {
            (self.answered, self.initiated, self.proved) = (None, false, Some(now));
            self.outgoing.targets.clear();
        }
        (self.wanted, self.attempts) = (false, 0);
        self.bytes_in += bytes as u64;
        if bytes > 0 {
            self.owed.get_or_insert(now);
            self.active_until = now + ACTIVE;
        }
        self.heard(from, now);
    }

    /// A packet of `bytes` was sealed for the peer.
    pub(crate) fn sealed(&mut self, bytes: usize, now: Instant) {
        (self.sent, self.owed) = (now, None);
        self.active_until = now + ACTIVE;
        self.unanswered.get_or_insert(now);
        self.bytes_out += bytes as u64;
    }

    /// The next datagram on its way out.
    pub(crate) fn poll_outgoing(&mut self, out: &mut [u8]) -> Option<(SocketAddr, usize)> {
        let bytes = &self.outgoing.bytes[..self.outgoing.len];
        let place = out.get_mut(..bytes.len())?;
        let to = self.outgoing.targets.pop()?;
        place.copy_from_slice(bytes);
        Some((to, bytes.len()))
    }

    pub(crate) fn has_outgoing(&self) -> bool {
        !self.outgoing.targets.is_empty()
    }

    pub(crate) fn has_news(&self) -> bool {
        self.news.up.is_some() || self.news.moved || self.news.quiet || self.news.mtu
    }

    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        if std::mem::take(&mut self.news.quiet) {
            return Some(Event::Quiet { id: self.id });
        }
        if std::mem::take(&mut self.news.moved)
            && let Some(endpoint) = self.endpoint
        {
            return Some(Event::EndpointChanged { id: self.id, endpoint });
        }
        if std::mem::take(&mut self.news.mtu) {
            return Some(Event::PathMtu { id: self.id, mtu: self.path.mtu() });
        }
        self.news.up.take().map(|away| Event::SessionUp { id: self.id, away })
    }

    pub(crate) fn status(&self, now: Instant) -> PeerStatus {
        PeerStatus {
            endpoint: self.endpoint,
            handshake: self.age(now),
            round_trip: self.session.round_trip().map(|ms| Duration::from_millis(ms.into())),
            received: self.received.map(|at| now.since(at)),
            calling: self.attempts > 1,
            mtu: self.path.mtu(),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        }
    }

    /// Whether a packet for it can ever be sent: it has been heard, or may be found.
    pub(crate) fn reachable(&self) -> bool {
        self.endpoint.is_some() || !self.candidates.is_empty()
    }

    fn wants(&self, waiting: bool) -> bool {
        self.reachable() && (self.keepalive.is_some() || self.wanted || waiting || self.attempts > 0)
    }

    fn lose(&mut self) {
        self.alive = false;
        self.news.quiet = true;
    }

    fn heard(&mut self, from: SocketAddr, now: Instant) {
        if !self.alive || self.unanswered.is_some_and(|since| now.since(since) > PATIENCE) {
            self.alive = true;
            self.news.up = Some(self.received.map(|at| now.since(at)));
            self.path.resumed(now);
        }
        (self.received, self.unanswered) = (Some(now), None);
        if self.endpoint != Some(from) {
            // Another port is a router that forgot, and the path is the same.
            if self.endpoint.map(|before| before.ip()) != Some(from.ip()) {
                self.news.mtu |= self.path.moved(from.is_ipv6(), now);
            }
            self.endpoint = Some(from);
            self.news.moved = true;
        }
    }

    fn initiate(&mut self, now: Instant) {
        let mut buffer = [0; INITIATION];
        if let Some(len) = self.session.initiate(&mut buffer) {
            self.send(&buffer[..len], now);
        }
    }

    /// Sends what the timers made. The first initiation of a peer that is heard goes to its endpoint, any other to every place known;
    /// all get the same bytes, and the peer takes what comes first.
    fn send(&mut self, bytes: &[u8], now: Instant) {
        self.outgoing.bytes[..bytes.len()].copy_from_slice(bytes);
        self.outgoing.len = bytes.len();
        self.outgoing.targets.clear();
        self.sent = now;
        let initiation = bytes.len() == INITIATION;
        if !initiation {
            self.owed = None;
        }
        if initiation && (self.attempts > 0 || !self.alive) {
            for &candidate in self.candidates.iter().filter(|&&candidate| Some(candidate) != self.endpoint) {
                // There is room for every candidate and the endpoint.
                let _ = self.outgoing.targets.push(candidate);
            }
        }
        if let Some(endpoint) = self.endpoint {
            let _ = self.outgoing.targets.push(endpoint);
        }
        if initiation {
            let step = BACK_OFF[usize::from(self.attempts).min(BACK_OFF.len() - 1)];
            // Two ends that began together must not go on together.
            let apart = u64::from(self.public_key.0[usize::from(self.attempts % 32)]);
            self.retry = now + Duration::from_millis(step * 1000 - apart);
            self.attempted = Some(now);
            self.attempts = self.attempts.saturating_add(1);
        }
    }
}

/// The next whole multiple of `step` seconds after `at`.
fn next_multiple(at: Instant, step: u64) -> Instant {
    let seconds = at.since_boot().as_secs();
    Instant::from_boot(Duration::from_secs((seconds / step).saturating_add(1).saturating_mul(step)))
}
