//! The gateway's UDP socket: one port for IPv4 and IPv6, read and written in batches.
//!
//! Called by the driver alone. Addresses leave here in their plain form (an IPv4 sender is an IPv4 address, whatever the
//! socket's family). It decides nothing; what the kernel does not take is lost, as the network loses packets.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::shell::buffers::Batch;
use crate::shell::syscall;

/// What the kernel may queue for us in each direction, in bytes; as much of it as the machine grants.
const QUEUE: usize = 2 * 1024 * 1024;

/// A bound UDP socket.
pub struct Udp {
    socket: AsyncFd<UdpSocket>,
    both: bool,
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
        let refused = |why: io::Error| if why.kind() == io::ErrorKind::AddrInUse { UdpError::Taken(port) } else { UdpError::Kernel(port, why) };
        let (socket, both) = match bound(port, true) {
            Ok(socket) => (socket, true),
            Err(why) if why.kind() == io::ErrorKind::AddrInUse => return Err(UdpError::Taken(port)),
            Err(_) => (bound(port, false).map_err(refused)?, false),
        };
        enlarge(&socket);
        let socket = syscall::watched(socket.into()).map_err(|why| UdpError::Kernel(port, why))?;
        Ok(Udp { socket, both })
    }

    /// The port.
    ///
    /// # Errors
    /// The kernel's.
    pub fn port(&self) -> io::Result<u16> {
        self.socket.get_ref().local_addr().map(|address| address.port())
    }

    /// Waits until a datagram may be read. It may also return when there is none.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await.map(|mut guard| guard.retain_ready())
    }

    /// Reads datagrams and their senders into the free slots of `batch`, at most `limit`, until the kernel has none; says how many came.
    /// One longer than a slot is cut there, and no longer opens.
    ///
    /// # Errors
    /// The first error other than "none now"; datagrams read before it are in the batch.
    pub fn read_batch(&self, batch: &mut Batch<SocketAddr>, limit: usize) -> io::Result<usize> {
        for count in 0..limit {
            match batch.fill(|slot| self.socket.try_io(Interest::READABLE, |socket| socket.recv_from(slot)).map(|(length, from)| (length, plain(from)))) {
                Ok(true) => {}
                Ok(false) => return Ok(count),
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => return Ok(count),
                Err(why) => return Err(why),
            }
        }
        Ok(limit)
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// What the kernel said (`WouldBlock`: its queue is full; no route; ...): the datagram is lost, the caller counts it.
    pub fn send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        let to = if self.both { wide(to) } else { to };
        self.socket.get_ref().send_to(datagram, to).map(|_| ())
    }
}

/// The empty tag of a batch of datagrams.
pub const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

fn bound(port: u16, both: bool) -> io::Result<Socket> {
    let (domain, any) = if both { (Domain::IPV6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)) } else { (Domain::IPV4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)) };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if both {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(any, port).into())?;
    Ok(socket)
}

/// Best effort: past the machine's limit where we may, up to it where we may not.
fn enlarge(socket: &Socket) {
    if syscall::set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, QUEUE as i32).is_err() {
        let _ = socket.set_recv_buffer_size(QUEUE);
    }
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
mod tests {
    use super::*;

    fn in_runtime(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test);
    }

    #[test]
    fn a_datagram_over_ipv4_arrives_with_a_plain_address_and_is_answered() {
        in_runtime(async {
            let (a, b) = (Udp::bind(0).expect("a port"), Udp::bind(0).expect("a port"));
            let to_b = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), b.port().expect("bound"));
            for text in [&b"one"[..], b"two", b"three"] {
                a.send(to_b, text).expect("sent");
            }
            let mut batch = Batch::new(2, 100, NOBODY);
            b.readable().await.expect("readable");
            assert_eq!(b.read_batch(&mut batch, 64).expect("read"), 2);
            let (text, from) = batch.iter().next().expect("a datagram");
            assert_eq!((text, from), (&b"one"[..], SocketAddr::new(Ipv4Addr::LOCALHOST.into(), a.port().expect("bound"))));
            batch.clear();
            assert_eq!(b.read_batch(&mut batch, 64).expect("read"), 1);
            batch.clear();
            assert_eq!(b.read_batch(&mut batch, 64).expect("none"), 0);
        });
    }

    #[test]
    fn a_taken_port_is_named() {
        in_runtime(async {
            let first = Udp::bind(0).expect("a port");
            let port = first.port().expect("bound");
            let Err(why) = Udp::bind(port) else { panic!("two sockets on one port") };
            assert!(matches!(why, UdpError::Taken(_)) && why.to_string().contains(&port.to_string()), "{why}");
        });
    }
}
