//! The only file that names boringtun and its mock clock; its result type, its queue and its clock end here. Called by `peer` (timers,
//! sealing) and `gateway` (opening). It knows no peer, no address, no schedule.
//!
//! boringtun, with feature `mock-instant`, takes its `Instant` from a variable of this thread: [`set_clock`] must run before any other call
//! of a turn, and the value never goes back below what a session has seen. It reads the system clock once, when a session is made, and
//! stamps every initiation with that reading plus the `Instant` elapsed. Making it with the variable set back by a lift puts its stamps
//! above a floor; [`Stamps`] works out the lift. Read first: the WireGuard paper, section 5; boringtun's noise/mod.rs and timers.rs.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;
use mock_instant::MockClock;

use crate::clock::{Instant, Now, WallTime};
use crate::identity::{PublicKey, SecretKey};
use crate::tunnel::Reason;
use crate::tunnel::datagram::{COOKIE, DATA_OVERHEAD, INITIATION};

/// Handshake messages a second that are worked on without a cookie; above it the sender must prove its address first.
const HANDSHAKES: u64 = 20;
/// Where boringtun's clock begins, so that it can be set back by any lift. Also the largest lift: 34,000 years.
const EPOCH: Duration = Duration::from_secs(1 << 40);

/// Sets boringtun's clock for this turn.
pub(crate) fn set_clock(now: Instant) {
    MockClock::set_time(EPOCH + now.since_boot());
}

/// The public key of a secret key.
pub fn public_key(secret: &SecretKey) -> PublicKey {
    PublicKey(x25519::PublicKey::from(&x25519::StaticSecret::from(secret.0)).to_bytes())
}

/// A number that nobody can know without the key, and that does not tell the key.
pub(crate) fn seed(secret: &SecretKey) -> u64 {
    let shared = x25519::StaticSecret::from(secret.0).diffie_hellman(&x25519::PublicKey::from([9; 32]));
    let [a, b, c, d, e, f, g, h, ..] = shared.to_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// The stamps of our initiations: never below the floor, never back, whatever the system clock does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamps {
    floor: i64,
    /// How far the stamps run ahead of the system clock.
    lift: i64,
    /// System clock minus monotonic clock when last looked at; a jump tells that the system clock was set.
    skew: i64,
}

impl Stamps {
    /// `system` is what `SystemTime::now()` reads.
    pub(crate) fn new(floor: WallTime, now: Now, system: WallTime) -> Self {
        Stamps { floor: floor.0, lift: 0, skew: system.0.saturating_sub(seconds(now.mono)) }
    }

    /// How far the clock must be set back while a session is made now.
    fn lift(&mut self, now: Now, system: WallTime) -> Duration {
        let skew = system.0.saturating_sub(seconds(now.mono));
        let jump = self.skew.saturating_sub(skew);
        if jump.unsigned_abs() > 1 {
            // The stamps go on from where they were; 2 s make up for readings in whole seconds.
            self.lift = self.lift.saturating_add(jump).saturating_add(2);
        }
        self.skew = skew;
        let due = self.floor.max(now.wall.0).saturating_sub(system.0);
        self.lift = self.lift.max(due).clamp(0, EPOCH.as_secs() as i64);
        Duration::from_secs(self.lift.unsigned_abs())
    }

    /// No stamp up to now is above this.
    pub(crate) fn highest(&self, now: Now) -> WallTime {
        WallTime(seconds(now.mono).saturating_add(self.skew).saturating_add(self.lift).saturating_add(2))
    }
}

fn seconds(now: Instant) -> i64 {
    i64::try_from(now.since_boot().as_secs()).unwrap_or(i64::MAX)
}

/// Our own key, and the guard before it: a handshake message costs no key agreement until it has passed.
pub(crate) struct Door {
    secret: x25519::StaticSecret,
    public: x25519::PublicKey,
    /// Counts and demands cookies.
    gate: RateLimiter,
    /// What the gate has counted in this second, which it does not tell: since when, how many.
    counted: Cell<(Instant, u64)>,
    /// Handed to the sessions, which check each message once more; it never demands a cookie, the gate has done so.
    open: Arc<RateLimiter>,
}

/// Why a handshake message gets no further than the door.
pub(crate) enum Stopped {
    /// Too many: `out` begins with a cookie of this length, which the sender must show with its next try.
    Cookie(usize),
    /// Not for us.
    Refused(Reason),
}

impl Door {
    /// The clock must be set.
    pub(crate) fn new(secret: &SecretKey, now: Instant) -> Self {
        let secret = x25519::StaticSecret::from(secret.0);
        let public = x25519::PublicKey::from(&secret);
        let counted = Cell::new((now, 0));
        Door { gate: RateLimiter::new(&public, HANDSHAKES), counted, open: Arc::new(RateLimiter::new(&public, u64::MAX)), secret, public }
    }

    /// Our public key.
    pub(crate) fn key(&self) -> PublicKey {
        PublicKey(self.public.to_bytes())
    }

    /// Checks the MACs of a handshake message, before any key agreement; whether the sender has proved its address with a cookie, which the first few
    /// of a second need not. `out` holds at least [`COOKIE`] bytes.
    pub(crate) fn check(&self, from: IpAddr, datagram: &[u8], now: Instant, out: &mut [u8]) -> Result<bool, Stopped> {
        // Counts anew if a second has passed.
        self.gate.reset_count();
        if now.since(self.counted.get().0) >= Duration::from_secs(1) {
            self.counted.set((now, 0));
        }
        let (since, before) = self.counted.get();
        match self.gate.verify_packet(Some(from), datagram, out) {
            Ok(_) => {
                self.counted.set((since, before + 1));
                Ok(before >= HANDSHAKES)
            }
            Err(TunnResult::WriteToNetwork(cookie)) => Err(Stopped::Cookie(cookie.len())),
            Err(TunnResult::Err(error)) => Err(Stopped::Refused(reason(&error))),
            Err(_) => Err(Stopped::Refused(Reason::HandshakeRefused)),
        }
    }

    /// Whose initiation it is, unless it is replayed; one key agreement.
    pub(crate) fn whose(&self, initiation: &[u8]) -> Result<PublicKey, Reason> {
        let Ok(Packet::HandshakeInit(initiation)) = Tunn::parse_incoming_packet(initiation) else { return Err(Reason::MalformedDatagram) };
        let half = parse_handshake_anon(&self.secret, &self.public, &initiation).map_err(|_| Reason::HandshakeRefused)?;
        Ok(PublicKey(half.peer_static_public))
    }
}

/// The sessions with one peer: those that stand, and the handshake under way. boringtun's state is 11 KiB and boxed, it must not move.
pub(crate) struct Session(Box<Tunn>);

/// What opening a datagram gave. Lengths count bytes of `out`.
pub(crate) enum Opened {
    /// An IPv4 packet.
    Packet(usize),
    /// An authentic packet that is not IPv4.
    Ipv6,
    /// An authentic datagram without a packet.
    Keepalive,
    /// A cookie for our next initiation.
    Cookie,
    /// Our answer to a handshake message or, for a cookie, our demand.
    Reply(usize),
    /// Nothing.
    Refused(Reason),
}

/// What a look at the timers gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tick {
    /// Nothing to do.
    Nothing,
    /// `out` begins with a datagram of this length.
    Send(usize),
    /// boringtun has given up, or the sessions are too old: all are gone.
    Expired,
}

impl Session {
    /// Makes the state for a peer. `secret` is our key if it is not the door's. The clock is set on return.
    pub(crate) fn new(keys: Keys<'_>, index: u32, stamps: &mut Stamps, now: Now, system: WallTime) -> Self {
        let lift = stamps.lift(now, system);
        MockClock::set_time(EPOCH + now.mono.since_boot() - lift);
        let (secret, limiter) = match keys.secret {
            // A session with a key of its own is only ever an initiator: boringtun's limiter of its own serves.
            Some(secret) => (x25519::StaticSecret::from(secret.0), None),
            None => (keys.door.secret.clone(), Some(keys.door.open.clone())),
        };
        let peer = x25519::PublicKey::from(keys.peer.0);
        // No keepalive of boringtun's: it would fill boringtun's queue whenever no session stands.
        let mut session = Session(Box::new(Tunn::new(secret, peer, keys.preshared, None, index, limiter)));
        set_clock(now.mono);
        // boringtun notes events at the time of the last look at its timers, which for it lies the lift back. A lift of 540 s or more
        // reads as a session that is too old: nothing is lost, there is none, and the next initiation starts anew.
        session.tick(&mut [0; INITIATION]);
        session
    }

    /// Whether packets can be sealed. Never call [`Session::seal`] without: boringtun would queue them.
    pub(crate) fn established(&self) -> bool {
        self.0.time_since_last_handshake().is_some()
    }

    /// The round trip of the last handshake that we began, in milliseconds.
    pub(crate) fn round_trip(&self) -> Option<u32> {
        self.0.stats().4
    }

    /// Seals a packet, or a keepalive if it is empty, into `out`; `None` if no session stands or `out` is too small.
    pub(crate) fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        if out.len() < (packet.len() + DATA_OVERHEAD).max(INITIATION) || !self.established() {
            return None;
        }
        match self.0.encapsulate(packet, out) {
            TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
            _ => None,
        }
    }

    /// Opens a datagram whose receiver index, or static key, is this peer's.
    pub(crate) fn open(&mut self, from: IpAddr, datagram: &[u8], out: &mut [u8]) -> Opened {
        if out.len() < datagram.len().max(INITIATION) || datagram.is_empty() {
            return Opened::Refused(Reason::TooLong);
        }
        match self.0.decapsulate(Some(from), datagram, out) {
            TunnResult::WriteToTunnelV4(packet, _) => Opened::Packet(packet.len()),
            TunnResult::WriteToTunnelV6(..) => Opened::Ipv6,
            TunnResult::WriteToNetwork(reply) => Opened::Reply(reply.len()),
            TunnResult::Done if datagram[0] == 3 => Opened::Cookie,
            TunnResult::Done => Opened::Keepalive,
            TunnResult::Err(error) => Opened::Refused(reason(&error)),
        }
    }

    /// Runs boringtun's timers; `out` holds at least [`INITIATION`] bytes.
    pub(crate) fn tick(&mut self, out: &mut [u8]) -> Tick {
        match self.0.update_timers(out) {
            TunnResult::WriteToNetwork(datagram) => Tick::Send(datagram.len()),
            TunnResult::Err(WireGuardError::ConnectionExpired) => Tick::Expired,
            _ => Tick::Nothing,
        }
    }

    /// Writes an initiation, whatever handshake is under way; `out` holds at least [`INITIATION`] bytes.
    pub(crate) fn initiate(&mut self, out: &mut [u8]) -> Option<usize> {
        match self.0.format_handshake_initiation(out, true) {
            TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
            _ => None,
        }
    }
}

/// Whose keys a session is made of.
pub(crate) struct Keys<'a> {
    /// Our key and its guard.
    pub(crate) door: &'a Door,
    /// Our key in this session, if it is another.
    pub(crate) secret: Option<&'a SecretKey>,
    /// The peer's key.
    pub(crate) peer: PublicKey,
    /// What both know besides.
    pub(crate) preshared: Option<[u8; 32]>,
}

fn reason(error: &WireGuardError) -> Reason {
    match error {
        WireGuardError::InvalidMac => Reason::BadMac,
        WireGuardError::UnderLoad => Reason::UnderLoad,
        WireGuardError::WrongTai64nTimestamp => Reason::StaleInitiation,
        WireGuardError::DuplicateCounter | WireGuardError::InvalidCounter => Reason::Replayed,
        WireGuardError::NoCurrentSession | WireGuardError::WrongIndex => Reason::NoSession,
        WireGuardError::InvalidAeadTag => Reason::NotAuthentic,
        WireGuardError::InvalidPacket => Reason::MalformedPacket,
        WireGuardError::DestinationBufferTooSmall => Reason::TooLong,
        _ => Reason::HandshakeRefused,
    }
}

const _: () = assert!(COOKIE < INITIATION);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono: u64, wall: i64) -> Now {
        Now { mono: Instant::from_boot(Duration::from_secs(mono)), wall: WallTime(wall) }
    }

    #[test]
    fn stamps_follow_the_higher_of_floor_and_clock() {
        for (floor, wall, system, lift) in [
            (0, 1_000, 1_000, 0),
            (5_000, 1_000, 1_000, 4_000),
            (5_000, 6_000, 6_000, 0),
            (0, 1_700_000_000, 0, 1_700_000_000),
            (0, 0, 1_700_000_000, 0),
            (i64::MAX, 0, 0, EPOCH.as_secs()),
            (i64::MIN, i64::MIN, i64::MAX, 0),
        ] {
            let now = at(10, wall);
            let mut stamps = Stamps::new(WallTime(floor), now, WallTime(system));
            assert_eq!(stamps.lift(now, WallTime(system)).as_secs(), lift, "floor {floor}, wall {wall}, system {system}");
        }
    }

    #[test]
    fn stamps_go_on_when_the_system_clock_is_set() {
        let mut stamps = Stamps::new(WallTime(0), at(0, 10_000), WallTime(10_000));
        assert_eq!(stamps.lift(at(0, 10_000), WallTime(10_000)).as_secs(), 0);
        // Set back by an hour after 100 s.
        let lift = stamps.lift(at(100, 6_500), WallTime(6_500)).as_secs();
        assert_eq!(lift, 3_602);
        assert!(stamps.highest(at(100, 6_500)).0 >= 6_500 + 3_602);
        // Set right again: the stamps need no lift any more, but do not fall either.
        let lift = stamps.lift(at(200, 10_200), WallTime(10_200)).as_secs();
        assert!(10_200 + lift >= 6_600 + 3_602);
        // As long as nobody sets it the lift stays.
        assert_eq!(stamps.lift(at(300, 10_300), WallTime(10_300)).as_secs(), lift);
    }
}
