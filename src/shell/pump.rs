//! Moves packets: socket to core to TUN and back, in batches, under a work limit a turn. Shared by the daemon and by `sluice tunnel`.
//!
//! One turn is: all outputs, at most 64 datagrams, all outputs, at most 64 packets, all outputs. So neither direction nor the
//! control work behind it starves. It decides nothing; what the kernel will not take is lost and counted.

use std::io;
use std::net::SocketAddr;

use super::buffers::Batch;
use super::tun::Tun;
use super::udp::{NOBODY, Udp};
use crate::budget::PACKET_MAX;
use crate::clock::Now;
use crate::edge::{Checksum, Reason, Verdict};

/// Datagrams and packets a turn.
const LIMIT: usize = 64;
/// What WireGuard adds to a packet, padding included.
const OVERHEAD: usize = 48;

/// What the pump moves packets for.
pub trait Core {
    /// A datagram came; see [`crate::edge::Edge::handle_datagram`].
    fn datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Now, out: &mut [u8]) -> Verdict;
    /// A packet came from the TUN.
    fn packet(&mut self, packet: &mut [u8], checksum: Checksum, now: Now, out: &mut [u8]) -> Verdict;
    /// The next datagram that no input was the cause of.
    fn poll(&mut self, now: Now, out: &mut [u8]) -> Option<(SocketAddr, usize)>;
}

/// What the kernel did not take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Datagrams the socket refused.
    pub datagrams: u64,
    /// Packets the TUN refused.
    pub packets: u64,
}

/// Socket, device and the buffers between them.
pub struct Pump {
    udp: Udp,
    tun: Tun,
    datagrams: Batch<SocketAddr>,
    packets: Batch<()>,
    out: Box<[u8]>,
    lost: Lost,
    flooded: bool,
}

impl Pump {
    /// All buffers are made here.
    pub fn new(udp: Udp, tun: Tun) -> Pump {
        let size = PACKET_MAX + OVERHEAD;
        let (datagrams, packets) = (Batch::new(LIMIT, size, NOBODY), Batch::new(LIMIT, PACKET_MAX, ()));
        let out = vec![0; size + OVERHEAD].into_boxed_slice();
        Pump { udp, tun, datagrams, packets, out, lost: Lost::default(), flooded: false }
    }

    /// The UDP port in use.
    pub fn port(&self) -> u16 {
        self.udp.port().unwrap_or_default()
    }

    /// Another device in the place of one that was deleted.
    pub fn set_tun(&mut self, tun: Tun) {
        self.tun = tun;
    }

    /// What was lost so far.
    pub fn lost(&self) -> Lost {
        self.lost
    }

    /// Whether all that the last turn moved was datagrams of a flood: the next ones may well gather for a moment, each is worth no turn of its own.
    pub fn flooded(&self) -> bool {
        self.flooded
    }

    /// Waits until there is something to read.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn ready(&self) -> io::Result<()> {
        tokio::select! {
            ready = self.udp.readable() => ready,
            ready = self.tun.readable() => ready,
        }
    }

    /// One turn.
    ///
    /// # Errors
    /// When the TUN is gone.
    pub fn turn(&mut self, core: &mut impl Core, now: Now) -> io::Result<()> {
        self.flush(core, now);
        let refused = self.take_datagrams(core, now);
        self.flush(core, now);
        let read = self.take_packets(core, now);
        self.flooded = refused > 0 && refused == self.datagrams.len() && self.packets.is_empty();
        self.flush(core, now);
        read
    }

    /// Sends what the core wants sent.
    pub fn flush(&mut self, core: &mut impl Core, now: Now) {
        while let Some((to, length)) = core.poll(now, &mut self.out) {
            self.lost.datagrams += u64::from(self.udp.send(to, &self.out[..length]).is_err());
        }
    }

    /// How many of them a flood's limits refused.
    fn take_datagrams(&mut self, core: &mut impl Core, now: Now) -> usize {
        let mut refused = 0;
        self.datagrams.clear();
        // An error here is of one datagram (an ICMP answer to an earlier one of ours, say); the next read goes on.
        let _ = self.udp.read_batch(&mut self.datagrams, LIMIT);
        for (datagram, from) in self.datagrams.iter() {
            match core.datagram(from, datagram, now, &mut self.out) {
                Verdict::ToTun { len, .. } => self.lost.packets += u64::from(self.tun.write(&self.out[..len]).is_err()),
                Verdict::ToPeer { to, len } => self.lost.datagrams += u64::from(self.udp.send(to, &self.out[..len]).is_err()),
                Verdict::Dropped(why) => refused += usize::from(why == Reason::UnderLoad),
                Verdict::Parked | Verdict::Handled | Verdict::Unknown(_) => {}
            }
        }
        refused
    }

    fn take_packets(&mut self, core: &mut impl Core, now: Now) -> io::Result<()> {
        self.packets.clear();
        let read = self.tun.read_batch(&mut self.packets, LIMIT);
        for at in 0..self.packets.len() {
            let Some((packet, ())) = self.packets.packet(at) else { break };
            if let Verdict::ToPeer { to, len } = core.packet(packet, Checksum::Whole, now, &mut self.out) {
                self.lost.datagrams += u64::from(self.udp.send(to, &self.out[..len]).is_err());
            }
        }
        match read {
            // EBADFD and EIO: the device was deleted, or is down and will tell so again.
            Err(why) if why.raw_os_error() == Some(libc::EBADFD) => Err(why),
            _ => Ok(()),
        }
    }
}
