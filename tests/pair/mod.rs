//! Two gateways face to face, and what the shell does between them without its system calls: a frame is taken apart and sealed packet by
//! packet, the datagrams are opened into slots and put together again. For the test and the bench of the packet path.
#![expect(clippy::disallowed_methods, reason = "boringtun reads the system clock")]

use std::net::SocketAddr;
use std::time::Duration;

use sluice::budget::{DATAGRAM_MAX, FRAME_PACKETS, PACKET_SAFE};
use sluice::clock::{Instant, Now, WallTime};
use sluice::identity::{End, PeerId, SecretKey};
use sluice::tunnel::coalesce::{Coalescer, Joins};
use sluice::tunnel::offload::{Large, Offload};
use sluice::tunnel::segment::Segments;
use sluice::tunnel::sum::{pseudo, sum};
use sluice::tunnel::{Addresses, Gateway, PathMtu, PeerSpec, Verdict, public_key};

const PLACES: [([u8; 4], u16); 2] = [([192, 0, 2, 1], 51820), ([198, 51, 100, 7], 40000)];
/// Payload of a TCP segment in a tunnel with an MTU of 1,420.
const SEGMENT: usize = 1368;
const SEGMENTS: usize = 45;

/// Where a gateway is.
pub(crate) fn place(at: usize) -> SocketAddr {
    PLACES[at].into()
}

/// The gateways, the time, and the buffers.
pub(crate) struct Pair {
    pub(crate) gateways: [Gateway; 2],
    pub(crate) now: Now,
    frame: Vec<u8>,
    datagrams: Vec<u8>,
    lengths: Vec<usize>,
    opened: Coalescer,
}

impl Pair {
    /// A pair with a session.
    pub(crate) fn new() -> Pair {
        let now = Now { mono: Instant::from_boot(Duration::from_secs(100)), wall: WallTime(0) };
        let mut gateways = [gateway(0, now), gateway(1, now)];
        settle(&mut gateways, now);
        let (frame, datagrams) = (vec![0; 65_536], vec![0; FRAME_PACKETS * DATAGRAM_MAX]);
        Pair { gateways, now, frame, datagrams, lengths: Vec::with_capacity(FRAME_PACKETS), opened: Coalescer::new(Joins::TcpAndUdp) }
    }

    /// One large frame of TCP there, joined again; how many packets it was.
    pub(crate) fn tcp(&mut self, sequence: u32) -> usize {
        let payload = SEGMENT * SEGMENTS;
        let mut head = [0; 52];
        head[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 42, 0, 9, 10, 71, 0, 9]);
        head[2..4].copy_from_slice(&((52 + payload) as u16).to_be_bytes());
        head[20..24].copy_from_slice(&[0x9c, 0x40, 0, 80]);
        head[24..28].copy_from_slice(&sequence.to_be_bytes());
        head[32..36].copy_from_slice(&[0x80, 0x10, 2, 0]);
        head[40..44].copy_from_slice(&[1, 1, 8, 10]);
        self.frame[..52].copy_from_slice(&head);
        let offload = Offload { unfinished: true, large: Large::Tcp, headers: 52, size: SEGMENT as u16, start: 20, field: 16 };
        self.seal(offload, 52 + payload);
        self.open(1)
    }

    /// As many datagrams of 64 bytes as fit into a batch, each a frame of its own, joined at the other end; how many.
    pub(crate) fn udp(&mut self) -> usize {
        let mut head = [0; 28];
        head[..20].copy_from_slice(&[0x45, 0, 0, 92, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 42, 0, 9, 10, 71, 0, 9]);
        let header = !sum(&head[..20]);
        head[10..12].copy_from_slice(&header.to_be_bytes());
        head[20..26].copy_from_slice(&[0x13, 0x88, 0, 53, 0, 72]);
        head[26..28].copy_from_slice(&pseudo([10, 42, 0, 9].into(), [10, 71, 0, 9].into(), 17, 72).to_be_bytes());
        let offload = Offload { unfinished: true, large: Large::No, headers: 28, size: 0, start: 20, field: 6 };
        for _ in 0..FRAME_PACKETS {
            self.frame[..28].copy_from_slice(&head);
            self.seal(offload, 92);
        }
        self.open(1)
    }

    fn seal(&mut self, offload: Offload, length: usize) {
        let frame = &mut self.frame[..length];
        let mut segments = Segments::new(offload, frame);
        while let Some((packet, checksum)) = segments.next(frame) {
            let at = self.lengths.iter().sum::<usize>();
            let Verdict::ToPeer { len, .. } = self.gateways[0].handle_packet(packet, checksum, self.now, &mut self.datagrams[at..]) else {
                panic!("not sealed");
            };
            self.lengths.push(len);
        }
    }

    /// Opens what was sealed; it must make this many frames.
    fn open(&mut self, frames: usize) -> usize {
        let mut at = 0;
        for &len in &self.lengths {
            let out = self.opened.slot().expect("as many slots as datagrams");
            let verdict = self.gateways[1].handle_datagram(place(0), &self.datagrams[at..at + len], self.now, out);
            let Verdict::ToTun { len: opened, .. } = verdict else { panic!("not opened") };
            self.opened.take(opened);
            at += len;
        }
        assert_eq!(self.opened.frames(), frames);
        let packets = (0..frames).map(|frame| self.opened.finish(frame).1).sum();
        assert_eq!(packets, self.lengths.len());
        self.opened.clear();
        self.lengths.clear();
        packets
    }

    /// Lets time pass and both look at what is due.
    pub(crate) fn rest(&mut self, pause: Duration) {
        self.now.mono = self.now.mono + pause;
        let mut out = [0; 2048];
        for gateway in &mut self.gateways {
            assert_eq!(gateway.poll_datagram(&mut out), None);
            while gateway.poll_event().is_some() {}
            if gateway.poll_timeout().is_some_and(|due| due <= self.now.mono) {
                gateway.handle_timeout(self.now);
            }
        }
    }
}

fn gateway(at: usize, now: Now) -> Gateway {
    let system = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).expect("after 1970");
    let system = WallTime(system.as_secs() as i64);
    let mut gateway = Gateway::new(&SecretKey([at as u8 + 1; 32]), now, WallTime(0), system);
    let (pods, image) = ("10.42.0.0/16".parse().expect("a prefix"), "10.71.0.0/16".parse().expect("a prefix"));
    gateway.set_local(&[pods], &[]).expect("room");
    let addresses = Addresses {
        end: [End::Inviter, End::Joiner][at],
        control: Some(([10, 70, 0, 2].into(), [10, 70, 1, 1].into())),
        node: Some(([10, 70, 0, 1].into(), [10, 70, 2, 1].into())),
        remote: [(pods, image)].into_iter().collect(),
    };
    let spec = PeerSpec {
        id: PeerId(0),
        public_key: public_key(&SecretKey([2 - at as u8; 32])),
        secret: None,
        preshared: None,
        keepalive: Some(Duration::from_secs(25)),
        endpoints: [place(1 - at)].into_iter().collect(),
        addresses,
        path: PathMtu::Found(PACKET_SAFE),
    };
    gateway.add_peer(spec, now, system).expect("a free row");
    gateway
}

/// Carries what waits in one gateway to the other, and answers, until nothing moves.
fn settle(gateways: &mut [Gateway; 2], now: Now) {
    let (mut datagram, mut out) = ([0; 2048], [0; 2048]);
    loop {
        let mut moved = false;
        for from in 0..2 {
            while let Some((_, len)) = gateways[from].poll_datagram(&mut datagram) {
                moved = true;
                let (mut bytes, mut sender) = (datagram[..len].to_vec(), from);
                while let Verdict::ToPeer { len, .. } = gateways[1 - sender].handle_datagram(place(sender), &bytes, now, &mut out) {
                    bytes = out[..len].to_vec();
                    sender = 1 - sender;
                }
            }
        }
        if !moved {
            return;
        }
    }
}
