//! The gateway's UDP port: for IPv4 and IPv6, read and written in batches.
//!
//! A peer that is heard gets a lane: a socket of its own on the same port, connected to where the peer is, so that the kernel sorts its datagrams
//! out and keeps them in a queue of their own. Lanes are read turn and turn about, and what one peer, or a stranger, sends too much is lost in
//! its own queue. Where there can be no lane, the one socket takes all. A host with several addresses answers from the one that was called, as
//! the router before a peer lets nobody else in.
//!
//! Datagrams of one size to one destination go to the kernel as one, which parts them (`UDP_SEGMENT`); where it will not, several go with
//! one call (`sendmmsg`), and where there is no such call, one by one. Those that come may be joined by the kernel (`UDP_GRO`).
//! Called by the driver alone. Addresses leave here in their plain form (an IPv4 sender is an IPv4 address, whatever the
//! socket's family). It decides nothing; what the kernel does not take is lost, as the network loses packets.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::budget::{BATCHES, PEERS, SINGLES};
use crate::clock::Instant;
use crate::shell::buffers::{Incoming, Outgoing, Run};
use crate::shell::syscall::{self, PARCELS, Parcel};
use crate::shell::time;

/// What the kernel may queue for us in each direction and lane, in bytes; as much of it as the machine grants (`udp_mem` bounds all together).
const QUEUE: usize = 2 * 1024 * 1024;
/// The same of all lanes together, about; and of each at least.
const LANES: usize = 4 * QUEUE;
const LANE_MIN: usize = 256 * 1024;
/// Datagrams that miss their lane within [`TIDY`] before the kernel may join those in the open too.
const MISSES: u32 = 4096;
/// How long what strangers send gathers once all that was there was read and dropped: so many at once cost little more than one. Long enough that
/// waking up counts for little in a flood, and far below the five seconds after which a handshake is tried again.
const REST: Duration = Duration::from_millis(8);
/// How often things are tidied up, and how long a lane stays without a datagram.
const TIDY: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(180);
/// How long a lane stays where it is at least.
const REMADE: Duration = Duration::from_secs(1);
/// The number of the socket that everybody may send to; lanes have their peer's.
pub const OPEN: usize = PEERS;

/// A bound UDP port.
pub struct Udp {
    open: UdpSocket,
    lanes: [Option<Lane>; PEERS],
    set: AsyncFd<OwnedFd>,
    both: bool,
    sends: Sends,
    /// Whether several batches are received with one call.
    many: bool,
    /// Whether the kernel may join datagrams, and whether it does in the open: strangers send little, and what they send too much is cheapest so.
    joined: bool,
    open_joined: bool,
    /// Whether peers may have lanes.
    laned: bool,
    /// Peers for which none could be made, a bit each.
    barred: u64,
    /// Datagrams of peers that came in the open although they have a lane, since things were last tidied up.
    missed: u32,
    /// Until when nobody listens in the open.
    rests: Option<Instant>,
    tidied: Instant,
    /// What was lost in the queues of lanes that have ended.
    lost: Arc<AtomicU64>,
}

const _: () = assert!(PEERS <= u64::BITS as usize);

/// A peer's own socket, and where the peer is.
struct Lane {
    socket: UdpSocket,
    to: SocketAddr,
    /// The host's address that it calls, if the kernel would answer from another.
    source: Option<Ipv6Addr>,
    made: Instant,
    heard: Instant,
    lost: Arc<AtomicU64>,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.lost.fetch_add(syscall::queue_drops(&self.socket), Relaxed);
    }
}

/// How datagrams are sent; each is the next one's better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sends {
    /// One by one.
    One,
    /// Several with one call.
    Many,
    /// Several as one, which the kernel parts.
    Parted,
}

/// Why there is no socket.
#[derive(Debug)]
pub enum UdpError {
    /// Another process has the port.
    Taken(u16),
    /// Anything else the kernel said.
    Kernel(u16, io::Error),
}

impl fmt::Display for UdpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UdpError::Taken(port) => {
                write!(
                    f,
                    "UDP port {port} is taken: end the process that has it (ss -ulpn 'sport = {port}' names it), or choose another with --port (ListenPort in a tunnel's file)"
                )
            }
            UdpError::Kernel(port, _) => write!(f, "cannot open UDP port {port}"),
        }
    }
}

impl std::error::Error for UdpError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            UdpError::Kernel(_, why) => Some(why),
            UdpError::Taken(_) => None,
        }
    }
}

impl Udp {
    /// Binds `port` (0: any) on all addresses: IPv6 and IPv4 in one socket, or IPv4 alone where IPv6 is off. Must be called inside the runtime.
    ///
    /// # Errors
    /// [`UdpError`] says what is in the way.
    pub fn bind(port: u16) -> Result<Udp, UdpError> {
        Udp::bind_with(port, Sends::Parted, true)
    }

    /// The same, with no better way of sending than `sends`, and datagrams joined by the kernel only if `joined`.
    ///
    /// # Errors
    /// As [`Udp::bind`].
    pub fn bind_with(port: u16, sends: Sends, joined: bool) -> Result<Udp, UdpError> {
        let refused = |why: io::Error| if why.kind() == io::ErrorKind::AddrInUse { UdpError::Taken(port) } else { UdpError::Kernel(port, why) };
        let (socket, both) = match bound(port, None, true, false) {
            Ok(socket) => (socket, true),
            Err(why) if why.kind() == io::ErrorKind::AddrInUse => return Err(UdpError::Taken(port)),
            Err(_) => (bound(port, None, false, false).map_err(refused)?, false),
        };
        enlarge(&socket);
        let _ = whole(&socket, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), false);
        let kernel = |why: io::Error| UdpError::Kernel(port, why);
        if both {
            // Where it cannot be had the kernel's choice is as good as any.
            let _ = syscall::set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1);
        }
        let open: UdpSocket = socket.into();
        let set = syscall::poll_set().map_err(kernel)?;
        syscall::poll_add(&set, &open, OPEN as u32).map_err(kernel)?;
        let set = syscall::watched(set).map_err(kernel)?;
        Ok(Udp {
            open,
            lanes: [const { None }; PEERS],
            set,
            both,
            sends,
            many: true,
            joined,
            open_joined: false,
            laned: true,
            barred: 0,
            missed: 0,
            rests: None,
            tidied: Instant::default(),
            lost: Arc::default(),
        })
    }

    /// The port.
    ///
    /// # Errors
    /// The kernel's.
    pub fn port(&self) -> io::Result<u16> {
        self.open.local_addr().map(|address| address.port())
    }

    /// How many datagrams came and were lost because nobody read them soon enough: the kernel drops what finds its queue full.
    pub fn overflowed(&self) -> u64 {
        let lanes = self.lanes.iter().flatten().map(|lane| syscall::queue_drops(&lane.socket));
        self.lost.load(Relaxed) + syscall::queue_drops(&self.open) + lanes.sum::<u64>()
    }

    /// Waits until a datagram may be read. It may also return when there is none.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        let rested = async {
            match self.rests {
                Some(until) => tokio::time::sleep(until.since(time::mono())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ready = self.set.readable() => ready.map(|mut guard| guard.retain_ready()),
            () = rested => Ok(()),
        }
    }

    /// Nobody listens in the open for a moment: what comes there gathers, and wakes nobody. For a flood of what is refused anyhow.
    pub fn rest(&mut self, now: Instant) {
        if syscall::poll_change(self.set.get_ref(), &self.open, OPEN as u32, false).is_ok() {
            self.rests = Some(now + REST);
        }
    }

    /// The lanes that have something to read, each once, whoever waits longest first; [`OPEN`] is the socket that is nobody's.
    pub fn waiting(&mut self, now: Instant) -> heapless::Vec<u32, { PEERS + 1 }> {
        if self.rests.is_some_and(|until| now >= until) && syscall::poll_change(self.set.get_ref(), &self.open, OPEN as u32, true).is_ok() {
            self.rests = None;
        }
        let some = |set: &OwnedFd| syscall::poll_ready(set).and_then(|found| if found.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(found) });
        self.set.try_io(Interest::READABLE, some).unwrap_or_default()
    }

    /// Receives what one call brings of a lane; says how many batches that is, and whether there may be more.
    /// A datagram longer than there is room for is cut there, and no longer opens.
    pub fn receive(&mut self, lane: usize, incoming: &mut Incoming, now: Instant) -> (usize, bool) {
        let own = self.lanes.get_mut(lane).and_then(Option::as_mut);
        let (socket, joined) = own.map_or((&self.open, self.open_joined), |own| {
            own.heard = now;
            (&own.socket, self.joined)
        });
        let (bytes, received) = incoming.batches(joined);
        let done = match joined {
            true => syscall::receive_many::<BATCHES>(socket, bytes, self.many, received),
            false => syscall::receive_many::<SINGLES>(socket, bytes, self.many, received),
        };
        match done {
            Ok(count) => {
                for batch in &mut received[..count] {
                    batch.from = batch.from.map(plain);
                }
                // Fewer than there is room for: the queue is empty.
                (count, !self.many || count == received.len())
            }
            Err(why) if why.raw_os_error() == Some(libc::ENOSYS) => (0, std::mem::take(&mut self.many)),
            // Otherwise an error of one datagram (an ICMP answer to an earlier one of ours, say); the next call goes on.
            Err(_) => (0, false),
        }
    }

    /// `peer` was heard from `from`, in another lane than its own: it has one from now on, where it is now. Who is at one address is in one lane.
    pub fn heard(&mut self, peer: usize, from: SocketAddr, called: Option<Ipv6Addr>, lane: usize, now: Instant) {
        if !self.laned || peer >= PEERS || self.barred & 1 << peer != 0 {
            return;
        }
        if let Some(at) = self.lanes.iter().position(|lane| lane.as_ref().is_some_and(|lane| lane.to == from)) {
            // Some were under way when the lane was made. If it goes on, its lane gets nothing, whatever the reason.
            self.missed += u32::from(lane == OPEN);
            if self.missed == MISSES {
                self.join_open(true);
            }
            // A lane that is old enough and still gets nothing: another of the host's addresses is called than when it was made.
            if lane == OPEN
                && self.lanes[at].as_ref().is_some_and(|own| now.since(own.made) >= REMADE)
                && let Ok(made) = self.lane(at, from, called, now)
            {
                self.lanes[at] = Some(made);
            }
            return;
        }
        // It may change its address as it likes, but a lane is not made for every datagram.
        if self.lanes[peer].as_ref().is_some_and(|own| now.since(own.made) < REMADE) {
            return;
        }
        match self.lane(peer, from, called, now) {
            Ok(lane) => self.lanes[peer] = Some(lane),
            // The kernel shares no port.
            Err(why) if matches!(why.raw_os_error(), Some(libc::EADDRINUSE | libc::ENOPROTOOPT)) => self.end_lanes(),
            // Too many open files, say. It is heard in the open for a while.
            Err(_) => self.barred |= 1 << peer,
        }
    }

    /// Ends the lanes of who is not heard any more, and forgets what went wrong a while ago.
    pub fn tidy(&mut self, now: Instant) {
        if now.since(self.tidied) < TIDY {
            return;
        }
        self.tidied = now;
        for lane in &mut self.lanes {
            lane.take_if(|lane| now.since(lane.heard) >= IDLE);
        }
        self.barred = 0;
        if self.laned && self.open_joined && self.missed < MISSES {
            self.join_open(false);
        }
        self.missed = 0;
    }

    fn lane(&self, peer: usize, to: SocketAddr, called: Option<Ipv6Addr>, now: Instant) -> io::Result<Lane> {
        // Shared with our own lanes for this moment only: nobody else is to take the port.
        let open = SockRef::from(&self.open);
        open.set_reuse_port(true)?;
        let made = self.connected(to, None, called);
        open.set_reuse_port(false)?;
        let (socket, source) = made?;
        // The more lanes, the less each: all together stay below what a small board's kernel keeps for UDP.
        queue(&socket, (LANES / (1 + self.lanes.iter().flatten().count())).clamp(LANE_MIN, QUEUE));
        // Linux 5.0 and later; without, every datagram comes alone.
        let _ = self.joined && syscall::set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
        let socket: UdpSocket = socket.into();
        syscall::poll_add(self.set.get_ref(), &socket, peer as u32)?;
        Ok(Lane { socket, to, source, made: now, heard: now, lost: self.lost.clone() })
    }

    /// A socket on the port whose ends are `to` and the address that was called; and that address, if the kernel would choose another.
    fn connected(&self, to: SocketAddr, source: Option<Ipv6Addr>, called: Option<Ipv6Addr>) -> io::Result<(Socket, Option<Ipv6Addr>)> {
        let socket = bound(self.port()?, source, self.both, true)?;
        socket.connect(&self.address(to).into())?;
        let chosen = socket.local_addr()?.as_socket_ipv6().map(|own| *own.ip());
        match called {
            Some(called) if source.is_none() && chosen != Some(called) => {
                drop(socket);
                self.connected(to, Some(called), None)
            }
            _ => Ok((socket, source)),
        }
    }

    /// Which of the host's addresses datagrams to `to` must come from, if the kernel would choose another.
    pub fn source(&self, to: SocketAddr) -> Option<Ipv6Addr> {
        self.lanes.iter().flatten().find(|lane| lane.source.is_some() && lane.to == to)?.source
    }

    /// The host has that address no longer.
    fn forget_source(&mut self, source: Ipv6Addr) {
        for lane in &mut self.lanes {
            lane.take_if(|lane| lane.source == Some(source));
        }
    }

    /// One socket takes all, and may join them.
    fn end_lanes(&mut self) {
        self.laned = false;
        self.lanes = [const { None }; PEERS];
        self.join_open(true);
    }

    fn join_open(&mut self, join: bool) {
        let done = self.joined && syscall::set_option(&self.open, libc::SOL_UDP, libc::UDP_GRO, i32::from(join)).is_ok();
        self.open_joined = join && done;
    }

    /// Sends all that was gathered; says how many datagrams the kernel did not take (its queue is full, no route, ...): they are lost.
    pub fn send(&mut self, outgoing: &Outgoing) -> u64 {
        let (mut runs, mut lost) = (outgoing.runs(), 0);
        while !runs.is_empty() {
            let sent = match self.sends {
                Sends::Parted => self.send_runs(outgoing, runs),
                Sends::Many | Sends::One => Err(io::ErrorKind::Unsupported.into()),
            };
            match sent {
                Ok(sent) => runs = &runs[sent..],
                Err(why) => {
                    // Only the first is refused. EIO: the link does not sum up checksums, and so cannot part. EINVAL, EMSGSIZE: too
                    // long for the link when parted, or the kernel is too old; one by one they may be cut into fragments.
                    let (first, rest) = (&runs[0], &runs[1..]);
                    let whole = why.raw_os_error();
                    if first.count > 1 && matches!(whole, Some(libc::EIO)) || matches!(whole, Some(libc::ENOSYS)) {
                        self.sends = Sends::Many;
                    }
                    let again = self.sends != Sends::Parted
                        || first.count > 1 && matches!(whole, Some(libc::EINVAL | libc::EMSGSIZE))
                        || first.source.is_some() && matches!(whole, Some(libc::EINVAL | libc::ENETUNREACH));
                    lost += if again { self.send_each(outgoing, first) } else { first.count as u64 };
                    runs = rest;
                }
            }
        }
        lost
    }

    /// Sends a datagram that must not be cut, here or on the way, whatever the kernel has heard of the path: one that is too large is lost.
    pub fn send_whole(&self, to: SocketAddr, datagram: &[u8]) {
        if whole(&self.open, to, true).is_ok() {
            let _ = syscall::send_many(&self.open, &[Parcel { to: self.address(to), source: self.source(to), bytes: datagram, size: None }]);
        }
        let _ = whole(&self.open, to, false);
    }

    /// Sends as many runs as one call takes.
    fn send_runs(&self, outgoing: &Outgoing, runs: &[Run]) -> io::Result<usize> {
        let mut parcels: heapless::Vec<Parcel<'_>, PARCELS> = heapless::Vec::new();
        parcels.extend(runs.iter().take(PARCELS).map(|run| Parcel {
            to: self.address(run.to),
            source: run.source,
            bytes: outgoing.bytes(run),
            size: (run.count > 1).then_some(run.size as u16),
        }));
        syscall::send_many(&self.open, &parcels)
    }

    /// Sends the datagrams of a run as they are; says how many were lost.
    fn send_each(&mut self, outgoing: &Outgoing, run: &Run) -> u64 {
        let (to, mut lost) = (self.address(run.to), 0);
        let mut datagrams = outgoing.bytes(run).chunks(run.size.max(1)).map(|bytes| Parcel { to, source: run.source, bytes, size: None }).peekable();
        while datagrams.peek().is_some() {
            let mut parcels: heapless::Vec<Parcel<'_>, PARCELS> = heapless::Vec::new();
            parcels.extend(datagrams.by_ref().take(PARCELS));
            let mut rest = &parcels[..];
            while let Some(first) = rest.first() {
                let sent = if self.sends > Sends::One { syscall::send_many(&self.open, rest) } else { Err(io::ErrorKind::Unsupported.into()) };
                match sent {
                    Ok(sent) => rest = &rest[sent..],
                    Err(why) => {
                        if why.raw_os_error() == Some(libc::ENOSYS) {
                            self.sends = Sends::One;
                        }
                        // What the kernel says of a source that is not its own, if there is no better reason.
                        if let (Some(source), Some(libc::EINVAL | libc::ENETUNREACH)) = (first.source, why.raw_os_error()) {
                            self.forget_source(source);
                        }
                        let alone = self.sends == Sends::One && self.open.send_to(first.bytes, to).is_ok();
                        lost += u64::from(!alone);
                        rest = &rest[1..];
                    }
                }
            }
        }
        lost
    }

    fn address(&self, to: SocketAddr) -> SocketAddr {
        if self.both { wide(to) } else { to }
    }
}

/// Whether datagrams to `to` must stay whole (`IP_PMTUDISC_PROBE`), or may be cut by whoever must (`IP_PMTUDISC_DONT`), so that nobody's ICMP can
/// keep them from leaving.
fn whole(socket: &impl AsFd, to: SocketAddr, whole: bool) -> io::Result<()> {
    let (level, option, cut) = match to {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IP_PMTUDISC_DONT),
    };
    if to.is_ipv6() {
        syscall::set_option(socket, level, libc::IPV6_DONTFRAG, i32::from(whole))?;
    }
    syscall::set_option(socket, level, option, if whole { libc::IP_PMTUDISC_PROBE } else { cut })
}

fn bound(port: u16, at: Option<Ipv6Addr>, both: bool, shared: bool) -> io::Result<Socket> {
    let any = at.unwrap_or(Ipv6Addr::UNSPECIFIED);
    let (domain, any) = if both { (Domain::IPV6, IpAddr::V6(any)) } else { (Domain::IPV4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)) };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if both {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&SocketAddr::new(any, port).into())?;
    Ok(socket)
}

/// Best effort: past the machine's limit where we may, up to it where we may not.
fn queue(socket: &Socket, bytes: usize) {
    if syscall::set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes as i32).is_err() {
        let _ = socket.set_recv_buffer_size(bytes);
    }
}

/// The same in both directions.
fn enlarge(socket: &Socket) {
    queue(socket, QUEUE);
    if syscall::set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, QUEUE as i32).is_err() {
        let _ = socket.set_send_buffer_size(QUEUE);
    }
}

/// An IPv4 address that came wrapped in an IPv6 one, unwrapped.
fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => v6.ip().to_ipv4_mapped().map_or(address, |v4| SocketAddr::new(v4.into(), v6.port())),
        SocketAddr::V4(_) => address,
    }
}

/// An IPv4 address wrapped in an IPv6 one, as a socket for both families wants it.
fn wide(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddr::V6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0)),
        SocketAddr::V6(_) => address,
    }
}

#[cfg(test)]
#[path = "udp_tests.rs"]
mod tests;
