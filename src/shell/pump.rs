//! Moves packets: socket to core to TUN and back, in batches, under a work limit a turn. Shared by the daemon and by `sluice tunnel`.
//!
//! One turn is: all outputs, datagrams until 64 or more are taken of each peer and of strangers, all outputs, packets until 64 or more are taken,
//! all outputs. So neither a peer nor a direction nor the control work behind it starves; a batch or frame that was begun is gone through. What was opened is written, and what was
//! sealed is sent, at the end of each part. It decides nothing; what the kernel will not take is lost and counted.

use std::io;
use std::net::SocketAddr;

use super::buffers::{Incoming, Outgoing};
use super::tun::Tun;
use super::udp::{OPEN, Udp};
use crate::clock::Now;
use crate::edge::{Checksum, Coalescer, OFFLOAD, Segments, Verdict};

/// Datagrams or packets after which a part of a turn ends.
const LIMIT: usize = 64;

/// What the pump moves packets for.
pub trait Core {
    /// A datagram came; see [`crate::edge::Edge::handle_datagram`].
    fn datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Now, out: &mut [u8]) -> Verdict;
    /// A packet came from the TUN.
    fn packet(&mut self, packet: &mut [u8], checksum: Checksum, now: Now, out: &mut [u8]) -> Verdict;
    /// The next datagram that no input was the cause of.
    fn poll(&mut self, now: Now, out: &mut [u8]) -> Option<(SocketAddr, usize)>;
    /// The next datagram that must leave in one piece and not be cut on its way.
    fn probe(&mut self, out: &mut [u8]) -> Option<(SocketAddr, usize)>;
}

/// What the kernel did not take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Datagrams the socket refused.
    pub datagrams: u64,
    /// Packets the TUN refused.
    pub packets: u64,
    /// Datagrams that came while the socket's queue was full.
    pub unread: u64,
}

impl Lost {
    /// Each with its word for the status and the metrics.
    pub fn named(&self) -> [(&'static str, u64); 3] {
        [("not_sent", self.datagrams), ("device_full", self.packets), ("queue_full", self.unread)]
    }
}

/// Socket, device and the buffers between them.
pub struct Pump {
    udp: Udp,
    tun: Tun,
    incoming: Incoming,
    opened: Coalescer,
    outgoing: Outgoing,
    lost: Lost,
    /// The last turn found something.
    busy: bool,
}

impl Pump {
    /// All buffers are made here.
    pub fn new(udp: Udp, tun: Tun) -> Pump {
        let opened = Coalescer::new(tun.joins());
        Pump { udp, tun, incoming: Incoming::new(), opened, outgoing: Outgoing::new(), lost: Lost::default(), busy: false }
    }

    /// The UDP port in use.
    pub fn port(&self) -> u16 {
        self.udp.port().unwrap_or_default()
    }

    /// Another device in the place of one that was deleted.
    pub fn set_tun(&mut self, tun: Tun) {
        self.opened.join(tun.joins());
        self.tun = tun;
    }

    /// What was lost so far.
    pub fn lost(&self) -> Lost {
        Lost { unread: self.udp.overflowed(), ..self.lost }
    }

    /// Lets go of what is no longer used; asked about once a second.
    pub fn tidy(&mut self, now: Now) {
        self.udp.tidy(now.mono);
    }

    /// Waits until there is something to read. After a turn that found something the runtime looks at everything else first: as long as one socket is
    /// never empty it would hear of no other, nor would any other task have a turn.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn ready(&self) -> io::Result<()> {
        if self.busy {
            tokio::task::yield_now().await;
        }
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
        self.gather(core, now);
        let found = self.take_datagrams(core, now);
        self.gather(core, now);
        let (packets, read) = self.take_packets(core, now);
        self.busy = found || packets > 0;
        self.flush(core, now);
        read
    }

    /// Sends what the core wants sent.
    pub fn flush(&mut self, core: &mut impl Core, now: Now) {
        self.gather(core, now);
        self.send();
        // Few and far between; the batch lends its room.
        while let Some(out) = self.outgoing.room()
            && let Some((to, len)) = core.probe(out)
        {
            self.udp.send_whole(to, &out[..len]);
        }
    }

    /// Takes what the core wants sent into the batch.
    fn gather(&mut self, core: &mut impl Core, now: Now) {
        while let Some(out) = self.room()
            && let Some((to, len)) = core.poll(now, out)
        {
            self.outgoing.push(to, self.udp.source(to), len);
        }
    }

    /// Room for one more datagram; there is some after sending.
    fn room(&mut self) -> Option<&mut [u8]> {
        make_room(&mut self.outgoing, &mut self.udp, &mut self.lost);
        self.outgoing.room()
    }

    fn send(&mut self) {
        self.lost.datagrams += self.udp.send(&self.outgoing);
        self.outgoing.clear();
    }

    fn write(&mut self) {
        self.lost.packets += self.tun.write_frames(&mut self.opened);
    }

    /// Whether there was anything.
    fn take_datagrams(&mut self, core: &mut impl Core, now: Now) -> bool {
        let mut found = false;
        for lane in self.udp.waiting(now.mono).into_iter().map(|lane| lane as usize) {
            // If only an error.
            found = true;
            let (mut here, mut refused, mut more) = (0, 0, true);
            while more && here < LIMIT {
                let count;
                (count, more) = self.udp.receive(lane, &mut self.incoming, now.mono);
                // Each batch counts, what has no sender or no byte too: nothing is free.
                here += count;
                for at in 0..count {
                    let called = self.incoming.called(at);
                    let Some((from, datagrams)) = self.incoming.batch(at) else { continue };
                    for (number, datagram) in datagrams.enumerate() {
                        here += usize::from(number > 0);
                        if self.opened.slot().is_none() {
                            self.lost.packets += self.tun.write_frames(&mut self.opened);
                        }
                        let Some(out) = self.opened.slot() else { break };
                        match core.datagram(from, datagram, now, out) {
                            Verdict::ToTun { peer, len } => {
                                self.opened.take(len);
                                if usize::from(peer.0) != lane {
                                    self.udp.heard(peer.0.into(), from, called, lane, now.mono);
                                }
                            }
                            Verdict::ToPeer { to, len } => {
                                make_room(&mut self.outgoing, &mut self.udp, &mut self.lost);
                                if let Some(room) = self.outgoing.room() {
                                    room[..len].copy_from_slice(&out[..len]);
                                    // An answer comes from where the question went; in a lane that is known already.
                                    let source = called.filter(|_| to == from).or_else(|| self.udp.source(to));
                                    self.outgoing.push(to, source, len);
                                }
                            }
                            Verdict::Dropped(_) => refused += 1,
                            Verdict::Parked | Verdict::Handled | Verdict::Unknown(_) => {}
                        }
                    }
                }
            }
            // As long as there is more nothing rests: who has no lane is not to be lost in a full queue.
            if lane == OPEN && !more && refused > 0 && refused == here {
                self.udp.rest(now.mono);
            }
        }
        self.write();
        self.send();
        found
    }

    /// How many were taken, or that the device is gone.
    fn take_packets(&mut self, core: &mut impl Core, now: Now) -> (usize, io::Result<()>) {
        let mut taken = 0;
        while taken < LIMIT {
            let (offload, length) = match self.tun.read(self.incoming.frame()) {
                Ok(read) => read,
                // EBADFD: the device was deleted. EIO: it is down, and will tell so again.
                Err(why) if why.raw_os_error() == Some(libc::EBADFD) => return (taken, Err(why)),
                Err(_) => break,
            };
            let frame = &mut self.incoming.frame()[OFFLOAD..OFFLOAD + length];
            let mut segments = Segments::new(offload, frame);
            while let Some((packet, checksum)) = segments.next(frame) {
                taken += 1;
                make_room(&mut self.outgoing, &mut self.udp, &mut self.lost);
                let Some(out) = self.outgoing.room() else { break };
                if let Verdict::ToPeer { to, len } = core.packet(packet, checksum, now, out) {
                    self.outgoing.push(to, self.udp.source(to), len);
                }
            }
        }
        (taken, Ok(()))
    }
}

/// Sends what is gathered if no more fits.
fn make_room(outgoing: &mut Outgoing, udp: &mut Udp, lost: &mut Lost) {
    if outgoing.room().is_none() {
        lost.datagrams += udp.send(outgoing);
        outgoing.clear();
    }
}
