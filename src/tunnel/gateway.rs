//! The gateway: datagrams and packets in, verdicts out. It knows which peer an input belongs to and in which order it is checked; the
//! checks, the rewriting, the crypto and the schedule are the other files'. The driver owns it, hands in time with every call, and after
//! each one drains [`Gateway::poll_datagram`] and [`Gateway::poll_event`]. Nothing is allocated after a handshake.
//!
//! One thread at a time: boringtun's clock is a variable of the thread, which every call here sets first.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::budget::{ENDPOINTS, PACKET_MAX, PEERS};
use crate::clock::{Instant, Now, WallTime};
use crate::identity::{PeerId, Prefix, PublicKey, SecretKey};
use crate::tunnel::allowed_ips::{AllowedIps, NoRoute};
use crate::tunnel::datagram::{self, DATA_OVERHEAD, INITIATION, Kind};
use crate::tunnel::index::{Index, Rows};
use crate::tunnel::mss;
use crate::tunnel::packet::Header;
use crate::tunnel::path::{self, Probe};
use crate::tunnel::peer::Peer;
use crate::tunnel::reach::{Local, Own};
use crate::tunnel::remap::{self, Checksum};
use crate::tunnel::session::{Door, Keys, Opened, Session, Stamps, Stopped, seed, set_clock};
use crate::tunnel::sources::Sources;
use crate::tunnel::transit::Transit;
use crate::tunnel::waiting::{Taken, Waiting};
use crate::tunnel::{Drops, Event, Full, PeerSpec, PeerStatus, Reason, Refused, Verdict};

const SECOND: Duration = Duration::from_secs(1);

/// The state of all tunnels of this host.
pub struct Gateway {
    door: Door,
    sources: Sources,
    stamps: Stamps,
    /// The time of the call under way; never goes back, boringtun would not survive that.
    now: Now,
    local: Local,
    peers: [Option<Box<Peer>>; PEERS],
    /// When each row wants [`Gateway::handle_timeout`].
    due: [Option<Instant>; PEERS],
    /// Rows that may have a datagram to send, and rows that have an event.
    pending: Rows,
    /// Rows that may have a probe to send.
    probing: Rows,
    eventful: Rows,
    index: Index,
    routes: AllowedIps,
    waiting: Waiting,
    drops: Drops,
}

impl Gateway {
    /// A gateway without peers. No stamp of its initiations will be below `floor`, nor below `now.wall`. `system` is what the system clock
    /// really reads (`SystemTime::now()`), which boringtun adds on its own; it equals `now.wall` unless the lab shifts the program's clock.
    pub fn new(secret: &SecretKey, now: Now, floor: WallTime, system: WallTime) -> Gateway {
        set_clock(now.mono);
        Gateway {
            door: Door::new(secret, now.mono),
            sources: Sources::new(seed(secret), now.mono),
            stamps: Stamps::new(floor, now, system),
            now,
            local: Local::default(),
            peers: [const { None }; PEERS],
            due: [None; PEERS],
            pending: Rows::NONE,
            probing: Rows::NONE,
            eventful: Rows::NONE,
            index: Index::new(now.mono.since_boot().subsec_micros() ^ now.wall.0 as u32),
            routes: AllowedIps::new(),
            waiting: Waiting::new(),
            drops: Drops::new(),
        }
    }

    /// Our public key.
    pub fn public_key(&self) -> PublicKey {
        self.door.key()
    }

    /// Sets our pod prefixes, and the addresses inside them that are the host's own (its bridges', their broadcast addresses). If either
    /// list is too long nothing changes.
    pub fn set_local(&mut self, pods: &[Prefix], barred: &[Ipv4Addr]) -> Result<(), Full> {
        let pods = heapless::Vec::from_slice(pods).map_err(|_| Full)?;
        self.local = Local { pods, barred: heapless::Vec::from_slice(barred).map_err(|_| Full)? };
        Ok(())
    }

    /// Adds a peer and initiates at once if it has endpoints. `system` as in [`Gateway::new`], read anew.
    pub fn add_peer(&mut self, spec: PeerSpec, now: Now, system: WallTime) -> Result<(), Refused> {
        self.enter(now);
        let row = usize::from(spec.id.0);
        let place = self.peers.get(row).ok_or(Refused::NoSuchRow)?;
        if place.is_some() {
            return Err(Refused::RowTaken);
        }
        if spec.public_key == self.door.key() {
            return Err(Refused::OwnKey);
        }
        if spec.secret.is_none() && self.row_of(&spec.public_key).is_some() {
            return Err(Refused::KeyTaken);
        }
        if spec.addresses.remote.iter().any(|(original, image)| original.length() != image.length()) {
            return Err(Refused::Unequal);
        }
        for prefix in spec.addresses.routes() {
            if let Err(why) = self.routes.insert(prefix, row) {
                self.routes.remove(row);
                return Err(if why == NoRoute::Full { Refused::Full } else { Refused::RouteTaken });
            }
        }
        let keys = Keys { door: &self.door, secret: spec.secret.as_ref(), peer: spec.public_key, preshared: spec.preshared };
        let session = Session::new(keys, self.index.allot(row), &mut self.stamps, self.now, system);
        self.peers[row] = Some(Box::new(Peer::new(spec, session, self.now.mono)));
        self.tick(row);
        Ok(())
    }

    /// Ends everything with a peer, at once and without a word to it. False if there was none.
    pub fn remove_peer(&mut self, id: PeerId) -> bool {
        let row = usize::from(id.0);
        let Some(place) = self.peers.get_mut(row) else { return false };
        let existed = place.take().is_some();
        self.due[row] = None;
        self.index.release(row);
        self.routes.remove(row);
        self.waiting.forget(row);
        existed
    }

    /// Replaces the places where a peer may be found; where it was last heard stays the first choice.
    pub fn set_endpoints(&mut self, id: PeerId, endpoints: &heapless::Vec<SocketAddr, ENDPOINTS>, now: Now) {
        self.enter(now);
        let row = usize::from(id.0);
        if let Some(peer) = peer_at(&mut self.peers, row) {
            peer.set_endpoints(endpoints, self.now.mono);
            self.tick(row);
        }
    }

    /// Replaces what of third clusters a peer may reach through us: pairs of a transit address (ours, as the peer is told it) and the image
    /// under which this host sees the pod. Without such a peer nothing happens; a peer that is added begins with none.
    pub fn set_transit(&mut self, id: PeerId, pairs: &[(Ipv4Addr, Ipv4Addr)]) -> Result<(), Full> {
        let transit = Transit::new(pairs)?;
        if let Some(peer) = peer_at(&mut self.peers, usize::from(id.0)) {
            peer.transit = transit;
        }
        Ok(())
    }

    /// Initiates at once, session or not: after a new local address, or when somebody asks.
    pub fn handshake_now(&mut self, id: PeerId, now: Now) {
        self.enter(now);
        let row = usize::from(id.0);
        if let Some(peer) = peer_at(&mut self.peers, row) {
            peer.handshake_now(self.now.mono);
            self.schedule(row);
        }
    }

    /// How a peer is doing; `None` if there is none.
    pub fn status(&mut self, id: PeerId, now: Now) -> Option<PeerStatus> {
        self.enter(now);
        self.peers.get(usize::from(id.0))?.as_ref().map(|peer| peer.status(self.now.mono))
    }

    /// Drops so far, by reason.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// No stamp sent up to now is above this: the state file must hold a floor above it before more time passes.
    pub fn highest_stamp(&self, now: Now) -> WallTime {
        self.stamps.highest(now)
    }

    /// Takes a datagram from the network. `out` holds at least as many bytes as it, and [`INITIATION`].
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Now, out: &mut [u8]) -> Verdict {
        self.enter(now);
        if out.len() < datagram.len().max(INITIATION) {
            return self.drop(Reason::TooLong);
        }
        match datagram::read(datagram) {
            None => self.drop(Reason::MalformedDatagram),
            Some(Kind::Initiation) => self.initiation(from, datagram, out),
            Some(Kind::Response { receiver } | Kind::Cookie { receiver } | Kind::Data { receiver }) => match self.index.find(receiver) {
                Some(row) => self.message(row, receiver, from, datagram, out),
                None => self.drop(Reason::UnknownIndex),
            },
        }
    }

    /// An initiation by an unknown key comes to nothing: it is counted.
    pub fn ignore(&mut self) -> Verdict {
        self.drop(Reason::UnknownKey)
    }

    /// Takes an IP packet from the TUN; it is rewritten where it lies. `out` holds at least 32 bytes more than it, and [`INITIATION`].
    pub fn handle_packet(&mut self, packet: &mut [u8], checksum: Checksum, now: Now, out: &mut [u8]) -> Verdict {
        self.enter(now);
        let (row, total) = match self.outward(packet, checksum, out.len()) {
            Ok(found) => found,
            Err(reason) => return self.drop(reason),
        };
        self.freshen(row);
        let (packet, mono) = (&packet[..total], self.now.mono);
        let Some(peer) = peer_at(&mut self.peers, row) else { return self.drop(Reason::NoPeer) };
        if let Some(to) = peer.endpoint.filter(|_| peer.stands(mono))
            && let Some(len) = peer.session.seal(packet, out)
        {
            peer.sealed(total, mono);
            peer.path.sent(total);
            self.hurry(row);
            return Verdict::ToPeer { to, len };
        }
        let due = peer.hasten(mono);
        if self.waiting.park(row, packet, mono) {
            self.drops.add(Reason::ParkedOut);
        }
        if due {
            self.tick(row);
        } else {
            self.schedule(row);
        }
        Verdict::Parked
    }

    /// The next datagram for the network that no input was the cause of: handshakes, keepalives, packets that waited. Ask until `None`
    /// after every other call. `out` holds at least [`PACKET_MAX`] + 32 bytes.
    pub fn poll_datagram(&mut self, out: &mut [u8]) -> Option<(SocketAddr, usize)> {
        set_clock(self.now.mono);
        while let Some(row) = self.pending.first() {
            if let Some(found) = self.poll_row(row, out) {
                return Some(found);
            }
            self.pending.clear(row);
        }
        None
    }

    /// The next probe of a path's MTU: a datagram that must leave in one piece and not be cut on its way, whatever the kernel believes of the path.
    /// Ask until `None` after every other call. `out` holds at least [`PACKET_MAX`] + 32 bytes.
    pub fn poll_probe(&mut self, out: &mut [u8]) -> Option<(SocketAddr, usize)> {
        set_clock(self.now.mono);
        while let Some(row) = self.probing.first() {
            if let Some(found) = self.probe_row(row, out) {
                return Some(found);
            }
            self.probing.clear(row);
        }
        None
    }

    /// Searches a peer's path MTU anew; over when [`Gateway::is_searching`] says no.
    pub fn search_path(&mut self, id: PeerId, now: Now) {
        self.enter(now);
        let row = usize::from(id.0);
        if let Some(peer) = peer_at(&mut self.peers, row).filter(|peer| peer.stands(now.mono)) {
            peer.path.ask(now.mono);
            self.schedule(row);
        }
    }

    /// Whether a peer's path MTU is being searched.
    pub fn is_searching(&self, id: PeerId) -> bool {
        self.peers.get(usize::from(id.0)).and_then(Option::as_ref).is_some_and(|peer| peer.stands(self.now.mono) && peer.path.is_searching())
    }

    /// The largest packet in bytes that goes to a peer in one piece, as far as known.
    pub fn path_mtu(&self, id: PeerId) -> Option<u16> {
        Some(self.peers.get(usize::from(id.0))?.as_ref()?.path.mtu())
    }

    /// The next change of a peer.
    pub fn poll_event(&mut self) -> Option<Event> {
        while let Some(row) = self.eventful.first() {
            if let Some(event) = peer_at(&mut self.peers, row).and_then(Peer::poll_event) {
                return Some(event);
            }
            self.eventful.clear(row);
        }
        None
    }

    /// Looks at all timers that are due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.enter(now);
        for row in 0..PEERS {
            if self.due[row].is_some_and(|due| due <= self.now.mono) {
                self.tick(row);
            }
        }
    }

    /// When [`Gateway::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due.iter().copied().flatten().min()
    }

    fn enter(&mut self, now: Now) {
        self.now = Now { mono: self.now.mono.max(now.mono), wall: now.wall };
        set_clock(self.now.mono);
    }

    fn drop(&mut self, reason: Reason) -> Verdict {
        self.drops.add(reason);
        Verdict::Dropped(reason)
    }

    fn row_of(&self, key: &PublicKey) -> Option<usize> {
        self.peers.iter().position(|peer| peer.as_ref().is_some_and(|peer| peer.answers && peer.public_key == *key))
    }

    fn initiation(&mut self, from: SocketAddr, datagram: &[u8], out: &mut [u8]) -> Verdict {
        if let Some(stopped) = self.screen(from, datagram, out) {
            return stopped;
        }
        let key = match self.door.whose(datagram) {
            Ok(key) => key,
            Err(reason) => return self.drop(reason),
        };
        let Some(row) = self.row_of(&key) else { return Verdict::Unknown(key) };
        self.freshen(row);
        let Some(peer) = peer_at(&mut self.peers, row) else { return Verdict::Unknown(key) };
        match peer.session.open(from.ip(), datagram, out) {
            Opened::Reply(len) => {
                peer.answered(datagram::sender(out), self.now.mono);
                self.schedule(row);
                Verdict::ToPeer { to: from, len }
            }
            Opened::Refused(reason) => self.drop(reason),
            _ => self.drop(Reason::HandshakeRefused),
        }
    }

    /// Stops a handshake message made for the door's key that must not cost a key agreement.
    fn screen(&mut self, from: SocketAddr, datagram: &[u8], out: &mut [u8]) -> Option<Verdict> {
        let (peers, now) = (&self.peers, self.now.mono);
        let known = || peers.iter().flatten().any(|peer| peer.endpoint == Some(from));
        if !self.sources.look(from, now, known) {
            return Some(self.drop(Reason::UnderLoad));
        }
        let proved = match self.door.check(from.ip(), datagram, self.now.mono, out) {
            Err(Stopped::Cookie(len)) => return Some(Verdict::ToPeer { to: from, len }),
            Err(Stopped::Refused(reason)) => return Some(self.drop(reason)),
            Ok(proved) => proved,
        };
        // Without a proof the sender may be anybody: it must not use up the share of the one whose address it wears.
        (proved && !self.sources.admit(from, known())).then(|| self.drop(Reason::UnderLoad))
    }

    /// A message that carries an index of ours.
    fn message(&mut self, row: usize, receiver: u32, from: SocketAddr, datagram: &[u8], out: &mut [u8]) -> Verdict {
        let screened = datagram[0] == 2 && self.peers[row].as_ref().is_some_and(|peer| peer.answers);
        if screened && let Some(stopped) = self.screen(from, datagram, out) {
            return stopped;
        }
        self.freshen(row);
        let mono = self.now.mono;
        let Some(peer) = peer_at(&mut self.peers, row) else { return self.drop(Reason::UnknownIndex) };
        let mut verdict = match peer.session.open(from.ip(), datagram, out) {
            Opened::Refused(reason) => return self.drop(reason),
            Opened::Cookie => return Verdict::Handled,
            Opened::Reply(len) => {
                // A cookie, demanded by a session with a key of its own, proves nothing about the sender.
                if datagram::read(&out[..len]).is_some_and(|kind| matches!(kind, Kind::Data { .. })) {
                    peer.completed(from, mono);
                }
                Verdict::ToPeer { to: from, len }
            }
            Opened::Keepalive => {
                peer.received(from, receiver, 0, mono);
                Verdict::Handled
            }
            Opened::Ipv6 => {
                peer.received(from, receiver, datagram.len() - DATA_OVERHEAD, mono);
                Verdict::Dropped(Reason::Ipv6)
            }
            Opened::Packet(len) => {
                peer.received(from, receiver, len, mono);
                match Probe::read(&out[..len]).filter(|_| !peer.addresses.remote.is_empty()) {
                    None => Verdict::ToTun { peer: peer.id, len },
                    Some(Probe::Ask(volley)) => {
                        let mut answer = [0; path::SHORT];
                        Probe::Answer(volley, len as u16).write(peer.addresses.end, &mut answer);
                        match peer.session.seal(&answer, out) {
                            Some(len) => {
                                peer.sealed(answer.len(), mono);
                                Verdict::ToPeer { to: from, len }
                            }
                            None => Verdict::Handled,
                        }
                    }
                    Some(Probe::Answer(volley, size)) => {
                        peer.path.answered(volley, size, mono);
                        self.schedule(row);
                        Verdict::Handled
                    }
                }
            }
        };
        if let Verdict::ToTun { len, .. } = verdict
            && let Err(reason) = self.inward(row, &mut out[..len])
        {
            verdict = Verdict::Dropped(reason);
        }
        if let Verdict::Dropped(reason) = verdict {
            self.drops.add(reason);
        }
        self.hurry(row);
        if self.waiting.any(row) {
            self.pending.set(row);
        }
        verdict
    }

    /// Finds the peer of an outgoing packet and gives it the addresses under which it travels; the row and the packet's length.
    fn outward(&self, packet: &mut [u8], checksum: Checksum, room: usize) -> Result<(usize, usize), Reason> {
        let header = Header::read(packet)?;
        if header.total > PACKET_MAX || room < (header.total + DATA_OVERHEAD).max(INITIATION) {
            return Err(Reason::TooLong);
        }
        let row = self.routes.find(header.destination);
        let peer = row.and_then(|row| self.peers[row].as_deref());
        let (Some(row), Some(peer)) = (row, peer) else {
            return Err(if header.destination.is_multicast() { Reason::Multicast } else { Reason::NoPeer });
        };
        let (ends, quote) = peer.addresses.outward(Own { local: &self.local, transit: &peer.transit }, &header, packet)?;
        if !peer.reachable() {
            return Err(Reason::NoEndpoint);
        }
        remap::rewrite(packet, &header, ends, quote, checksum);
        mss::clamp(packet, &header, peer.path.mtu(), checksum);
        if checksum == Checksum::Partial {
            remap::complete(packet, &header);
        }
        Ok((row, header.total))
    }

    /// Checks a packet that a peer sent and gives it the addresses it has on this host.
    fn inward(&self, row: usize, packet: &mut [u8]) -> Result<(), Reason> {
        let Some(peer) = self.peers[row].as_deref() else { return Err(Reason::NoPeer) };
        let header = Header::read(packet)?;
        let (ends, quote) = peer.addresses.inward(Own { local: &self.local, transit: &peer.transit }, &header, packet)?;
        if self.routes.find(ends.source) != Some(row) {
            return Err(Reason::SourceNotPeers);
        }
        remap::rewrite(packet, &header, ends, quote, Checksum::Whole);
        mss::clamp(packet, &header, peer.path.mtu(), Checksum::Whole);
        Ok(())
    }

    fn poll_row(&mut self, row: usize, out: &mut [u8]) -> Option<(SocketAddr, usize)> {
        let peer = peer_at(&mut self.peers, row)?;
        if let Some(found) = peer.poll_outgoing(out) {
            return Some(found);
        }
        while let Some(to) = peer.endpoint.filter(|_| peer.stands(self.now.mono)) {
            match self.waiting.take(row, self.now.mono)? {
                Taken::TooLong => self.drops.add(Reason::ParkedTooLong),
                Taken::Packet(packet) => match peer.session.seal(packet, out) {
                    Some(len) => {
                        peer.sealed(packet.len(), self.now.mono);
                        self.due[row] = peer.due(self.now.mono, true);
                        return Some((to, len));
                    }
                    None => self.drops.add(Reason::TooLong),
                },
            }
        }
        None
    }

    fn probe_row(&mut self, row: usize, out: &mut [u8]) -> Option<(SocketAddr, usize)> {
        let mono = self.now.mono;
        let peer = peer_at(&mut self.peers, row).filter(|peer| peer.stands(mono))?;
        let (to, (volley, size)) = (peer.endpoint?, peer.path.poll()?);
        let mut packet = [0; PACKET_MAX];
        let packet = packet.get_mut(..usize::from(size))?;
        Probe::Ask(volley).write(peer.addresses.end, packet);
        let len = peer.session.seal(packet, out)?;
        peer.sealed(packet.len(), mono);
        self.hurry(row);
        Some((to, len))
    }

    fn tick(&mut self, row: usize) {
        let waiting = self.waiting.any(row);
        if let Some(peer) = peer_at(&mut self.peers, row) {
            peer.tick(self.now.mono, waiting);
        }
        self.schedule(row);
    }

    /// boringtun notes what happens at the time of the last look at its timers; a second's error is what it expects.
    fn freshen(&mut self, row: usize) {
        if self.peers[row].as_ref().is_some_and(|peer| self.now.mono.since(peer.ticked) >= SECOND) {
            self.tick(row);
        }
    }

    fn schedule(&mut self, row: usize) {
        let waiting = self.waiting.any(row);
        let Some(peer) = peer_at(&mut self.peers, row) else { return };
        self.due[row] = peer.due(self.now.mono, waiting);
        if peer.has_outgoing() {
            self.pending.set(row);
        }
        if peer.path.has_probe() {
            self.probing.set(row);
        }
        if peer.has_news() {
            self.eventful.set(row);
        }
    }

    /// What [`Gateway::schedule`] does, for the packet path: only if the next look is too far off, or there is news.
    fn hurry(&mut self, row: usize) {
        let Some(peer) = peer_at(&mut self.peers, row) else { return };
        if peer.has_news() || self.due[row].is_none_or(|due| due > self.now.mono + SECOND) {
            self.schedule(row);
        }
    }
}

// What a gateway holds when idle, and what each peer adds to it besides boringtun's 11 KiB.
const _: () = assert!(size_of::<Gateway>() <= 14 * 1024 && size_of::<Peer>() <= 2 * 1024);

fn peer_at(peers: &mut [Option<Box<Peer>>; PEERS], row: usize) -> Option<&mut Peer> {
    peers.get_mut(row)?.as_deref_mut()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
