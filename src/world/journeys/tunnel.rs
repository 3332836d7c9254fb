//! Two gateways, one behind a router, through loss, doubles, reordering, cuts, forgotten mappings, moves, restarts and clocks set back.
//!
//! Always: what arrives was sent, arrives once, unchanged, under the addresses of PROTOCOL.md, at nobody else. In the end, the
//! weather being fair: packets pass both ways within a minute, whatever happened before.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::script::{Script, Scripted, seeds, walk_seeds};
use crate::budget::PACKET_SAFE;
use crate::clock::{Instant, WallTime};
use crate::identity::{End, PeerId, Prefix, SecretKey};
use crate::tunnel::{Addresses, Checksum, Gateway, PathMtu, PeerSpec, Verdict, public_key};
use crate::world::chance::Chance;
use crate::world::clock::Clock;
use crate::world::net::{HostId, Net, RouterId, Weather};

const HUB: usize = 0;
const EDGE: usize = 1;
const PODS: &str = "10.42.0.0/16";
/// How each sees the other's pods.
const IMAGES: [&str; 2] = ["10.71.0.0/16", "10.72.0.0/16"];

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

/// The wall clock of this machine, which boringtun adds on its own account.
#[expect(clippy::disallowed_methods, reason = "boringtun reads it too, and the gateway must be told what it reads")]
pub(super) fn system() -> WallTime {
    WallTime(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64))
}

struct Machine {
    host: HostId,
    secret: SecretKey,
    gateway: Gateway,
    /// What the state file holds.
    floor: WallTime,
}

struct Journey {
    seed: u64,
    script: Script,
    chance: Chance,
    clock: Clock,
    net: Net,
    router: RouterId,
    machines: [Machine; 2],
    /// Packets sent and not yet received: number to receiver, source host part, destination host part.
    sent: BTreeMap<u64, (usize, u16, u16)>,
    numbers: u64,
    /// When something last passed in this direction: to hub, to edge.
    passed: [Option<Instant>; 2],
    /// Datagrams an attacker has overheard.
    overheard: Vec<(usize, Vec<u8>)>,
    attacker: HostId,
}

impl Scripted for Journey {
    fn parts(&mut self) -> (&Script, &mut Chance) {
        (&self.script, &mut self.chance)
    }
}

impl Journey {
    fn new(script: Script) -> Self {
        let seed = script.seed;
        let mut chance = Chance::new(seed);
        let clock = Clock::new();
        let mut net = Net::new(chance.split());
        let hub = net.host("203.0.113.10:51820".parse().expect("an address"));
        let attacker = net.host("203.0.113.66:4444".parse().expect("an address"));
        let router = net.router(Ipv4Addr::new(198, 51, 100, 7));
        let edge = net.host_behind(router, "192.168.1.20:51820".parse().expect("an address"));
        let mut machine = |host| {
            let secret = SecretKey(chance.bytes());
            let floor = clock.now().wall;
            let gateway = Gateway::new(&secret, clock.now(), floor, system());
            Machine { host, secret, gateway, floor }
        };
        let machines = [machine(hub), machine(edge)];
        let mut journey = Journey {
            seed,
            script,
            chance,
            clock,
            net,
            router,
            machines,
            sent: BTreeMap::new(),
            numbers: 0,
            passed: [None; 2],
            overheard: Vec::new(),
            attacker,
        };
        journey.start(HUB);
        journey.start(EDGE);
        journey
    }

    fn tell(&self, what: &str) {
        if self.script.told {
            println!("{:9.3} {what}", self.clock.now().mono.since_boot().as_secs_f64());
        }
    }

    /// The process begins, with nothing but its state file.
    fn start(&mut self, which: usize) {
        let now = self.clock.now();
        let other = public_key(&self.machines[1 - which].secret);
        let machine = &mut self.machines[which];
        machine.gateway = Gateway::new(&machine.secret, now, machine.floor, system());
        machine.gateway.set_local(&[prefix(PODS)], &[]).expect("there is room");
        let mut remote = heapless::Vec::new();
        remote.push((prefix(PODS), prefix(IMAGES[which]))).expect("there is room");
        let mut endpoints = heapless::Vec::new();
        if which == EDGE {
            endpoints.push("203.0.113.10:51820".parse().expect("an address")).expect("there is room");
        }
        let addresses = Addresses { end: if which == HUB { End::Inviter } else { End::Joiner }, control: None, node: None, remote };
        let keepalive = (which == EDGE).then_some(Duration::from_secs(25));
        let spec =
            PeerSpec { id: PeerId(0), public_key: other, secret: None, preshared: None, keepalive, endpoints, addresses, path: PathMtu::Found(PACKET_SAFE) };
        machine.gateway.add_peer(spec, now, system()).expect("a peer");
        self.drain(which);
    }

    /// The state file keeps a floor ahead of all stamps, an hour at a time.
    fn keep_floor(&mut self, which: usize) {
        let machine = &mut self.machines[which];
        let highest = machine.gateway.highest_stamp(self.clock.now());
        if highest >= machine.floor {
            machine.floor = WallTime(highest.0 + 3600);
        }
    }

    fn drain(&mut self, which: usize) {
        let (now, mut out) = (self.clock.now(), [0; 2048]);
        self.keep_floor(which);
        while let Some((to, len)) = self.machines[which].gateway.poll_datagram(&mut out) {
            self.transmit(which, to, &out[..len], now.mono);
        }
        while let Some((to, len)) = self.machines[which].gateway.poll_probe(&mut out) {
            self.net.send_whole(self.machines[which].host, to, &out[..len], now.mono);
        }
        while self.machines[which].gateway.poll_event().is_some() {}
    }

    fn transmit(&mut self, which: usize, to: SocketAddr, datagram: &[u8], now: Instant) {
        if self.chance.happens(50) && self.overheard.len() < 64 {
            self.overheard.push((1 - which, datagram.to_vec()));
        }
        self.net.send(self.machines[which].host, to, datagram, now);
    }

    /// A pod of `which` sends to a pod of the other.
    fn send_packet(&mut self, which: usize) {
        let (now, mut out) = (self.clock.now(), [0; 2048]);
        let (from, to) = (1 + self.chance.below(60_000) as u16, 1 + self.chance.below(60_000) as u16);
        self.numbers += 1;
        let size = 8 + self.chance.below(1200) as usize;
        let mut packet = udp(inside(PODS, from), inside(IMAGES[which], to), self.numbers, size);
        self.sent.insert(self.numbers, (1 - which, from, to));
        match self.machines[which].gateway.handle_packet(&mut packet, Checksum::Whole, now, &mut out) {
            Verdict::ToPeer { to, len } => self.transmit(which, to, &out[..len], now.mono),
            Verdict::Parked | Verdict::Dropped(_) => {}
            other => panic!("seed {}: {other:?} for a packet", self.seed),
        }
        self.drain(which);
    }

    fn receive(&mut self, which: usize, from: SocketAddr, datagram: &[u8]) {
        let (now, mut out) = (self.clock.now(), [0; 2048]);
        match self.machines[which].gateway.handle_datagram(from, datagram, now, &mut out) {
            Verdict::ToPeer { to, len } => self.transmit(which, to, &out[..len], now.mono),
            Verdict::ToTun { peer, len } => {
                assert_eq!(peer, PeerId(0), "seed {}", self.seed);
                self.arrived(which, &out[..len], now.mono);
            }
            Verdict::Unknown(_) => panic!("seed {}: nobody else has a key", self.seed),
            Verdict::Parked | Verdict::Handled | Verdict::Dropped(_) => {}
        }
        self.drain(which);
    }

    fn arrived(&mut self, which: usize, packet: &[u8], now: Instant) {
        let seed = self.seed;
        let number = u64::from_be_bytes(packet[28..36].try_into().expect("a packet of ours"));
        let (receiver, from, to) = self.sent.remove(&number).unwrap_or_else(|| panic!("seed {seed}: packet {number} arrives twice or was never sent"));
        assert_eq!(receiver, which, "seed {seed}: packet {number} comes back to its sender");
        let wanted = udp(inside(IMAGES[which], from), inside(PODS, to), number, packet.len() - 28);
        assert_eq!(packet, wanted, "seed {seed}: packet {number} has changed on the way");
        self.passed[which] = Some(now);
    }

    /// Something happens to the two.
    fn mishap(&mut self) {
        let which = self.chance.below(2) as usize;
        let pick = self.chance.below(13);
        let hosts = (self.machines[HUB].host, self.machines[EDGE].host);
        match pick {
            0 => {
                self.net.weather = Weather {
                    loss: self.chance.below(400) as u16,
                    double: self.chance.below(200) as u16,
                    delay: Duration::from_millis(self.chance.below(400)),
                    jitter: Duration::from_millis(self.chance.below(300)),
                };
            }
            1 => self.net.weather = Weather::FAIR,
            2 => self.net.cut(hosts.0, hosts.1),
            3 | 4 => self.net.mend(hosts.0, hosts.1),
            5 => self.net.reset(self.router),
            6 => self.net.moves(hosts.1, SocketAddr::from(([192, 168, 1, 20 + self.chance.below(100) as u8], 51820)), Some(self.router)),
            7 => {
                // Killed; starts again with a clock that may be hours back, as on a board without a battery.
                if self.chance.happens(500) {
                    self.clock.set_off(-(self.chance.below(7200) as i64));
                }
                self.start(which);
            }
            12 => self.net.whole = *self.chance.pick(&[1280, 1380, 1400, 1452, 1500]).expect("one of five"),
            8 => self.clock.pass(Duration::from_secs(self.chance.below(3 * 3600))),
            9 => {
                let (n, garbage) = (self.chance.below(200) as usize, self.chance.bytes());
                let mut datagram: Vec<u8> = garbage.iter().copied().cycle().take(n).collect();
                if let Some(first) = datagram.get_mut(..4) {
                    first.copy_from_slice(&[1 + garbage[0] % 4, 0, 0, 0]);
                }
                self.receive(which, "203.0.113.66:4444".parse().expect("an address"), &datagram);
            }
            _ => {
                if let Some((to, datagram)) = self.chance.pick(&self.overheard).cloned() {
                    let from = self.net.address(self.attacker);
                    self.receive(to, from, &datagram);
                }
            }
        }
        self.tell(&format!("mishap {pick} at {which}"));
    }

    /// Time goes on until `until`; everything due is done in order.
    fn pass_until(&mut self, until: Instant) {
        loop {
            let timers = self.machines.iter().filter_map(|m| m.gateway.poll_timeout());
            let next = timers.chain(self.net.next()).min().filter(|next| *next <= until);
            let Some(next) = next else { break };
            self.clock.reach(next);
            let now = self.clock.now();
            while let Some(arrival) = self.net.receive(now.mono) {
                if let Some(which) = self.machines.iter().position(|m| m.host == arrival.at) {
                    self.receive(which, arrival.from, &arrival.datagram);
                }
            }
            for which in [HUB, EDGE] {
                self.machines[which].gateway.handle_timeout(now);
                self.drain(which);
                let next = self.machines[which].gateway.poll_timeout();
                assert!(next.is_none_or(|t| t > now.mono), "seed {}: a timer that was looked at is still due", self.seed);
            }
        }
        self.clock.reach(until);
    }

    fn walk(&mut self) {
        for _ in 0..40 {
            self.event(|j| match j.chance.below(3) {
                0 => j.mishap(),
                _ => {
                    let which = j.chance.below(2) as usize;
                    for _ in 0..=j.chance.below(4) {
                        j.send_packet(which);
                    }
                }
            });
            let wait = Duration::from_millis(self.chance.below(4_000));
            self.pass_until(self.clock.now().mono + wait);
        }
        self.tell("all is well from here");
        self.net.weather = Weather::FAIR;
        self.net.mend(self.machines[HUB].host, self.machines[EDGE].host);
        let began = self.clock.now().mono;
        let mut late = true;
        for _ in 0..60 {
            self.send_packet(HUB);
            self.send_packet(EDGE);
            self.pass_until(self.clock.now().mono + Duration::from_secs(1));
            if self.passed.iter().all(|p| p.is_some_and(|at| at > began)) {
                late = false;
                break;
            }
        }
        self.paths();
        assert!(!late, "seed {}: a minute of fair weather and packets do not pass both ways: {:?} since {began:?}", self.seed, self.passed);
    }
}

impl Journey {
    /// Large packets go out for a while: nobody believes the path to be wider than it is.
    fn paths(&mut self) {
        for _ in 0..20 {
            for which in [HUB, EDGE] {
                let (now, mut out) = (self.clock.now(), [0; 2048]);
                self.numbers += 1;
                let mut packet = udp(inside(PODS, 9), inside(IMAGES[which], 9), self.numbers, 1250);
                self.sent.insert(self.numbers, (1 - which, 9, 9));
                if let Verdict::ToPeer { to, len } = self.machines[which].gateway.handle_packet(&mut packet, Checksum::Whole, now, &mut out) {
                    self.transmit(which, to, &out[..len], now.mono);
                }
                self.drain(which);
            }
            self.pass_until(self.clock.now().mono + Duration::from_secs(1));
        }
        for machine in &mut self.machines {
            let mtu = usize::from(machine.gateway.path_mtu(PeerId(0)).expect("a peer"));
            assert!(mtu + 60 <= self.net.whole, "seed {}: an MTU of {mtu} on a link of {}", self.seed, self.net.whole);
        }
    }
}

fn inside(of: &str, host: u16) -> Ipv4Addr {
    prefix(PODS).translate(Ipv4Addr::from_bits(u32::from(host)), prefix(of))
}

/// A UDP packet whose payload is its number, then its number's lowest byte over and over.
fn udp(from: Ipv4Addr, to: Ipv4Addr, number: u64, payload: usize) -> Vec<u8> {
    let total = 28 + payload;
    let mut p = vec![number as u8; total];
    p[..12].copy_from_slice(&[0x45, 0, (total >> 8) as u8, total as u8, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    p[12..16].copy_from_slice(&from.octets());
    p[16..20].copy_from_slice(&to.octets());
    let header = sum(&p[..20], 0);
    p[10..12].copy_from_slice(&header.to_be_bytes());
    p[20..28].copy_from_slice(&[0x30, 0x39, 0x1f, 0x90, ((total - 20) >> 8) as u8, (total - 20) as u8, 0, 0]);
    p[28..36].copy_from_slice(&number.to_be_bytes());
    let pseudo = [&p[12..20], &[0, 17], &p[24..26]].concat();
    let whole = sum(&p[20..], u32::from(!sum(&pseudo, 0)));
    p[26..28].copy_from_slice(&(if whole == 0 { 0xffff } else { whole }).to_be_bytes());
    p
}

/// The Internet checksum (RFC 1071) of `bytes` on top of `before`.
pub(super) fn sum(bytes: &[u8], before: u32) -> u16 {
    let mut sum = before;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[test]
fn packets_pass_once_and_unchanged_and_the_tunnel_always_comes_back() {
    walk_seeds(seeds(1000), |script| Journey::new(script).walk());
}

/// Whatever links hide on the way, whoever asks first.
#[test]
fn the_path_mtu_is_found_within_five_seconds() {
    walk_seeds(seeds(100), |script| {
        let mut j = Journey::new(script);
        j.net.whole = 1280 + 4 * j.chance.below(56) as usize;
        j.net.weather.delay = Duration::from_millis(j.chance.below(200));
        j.send_packet(EDGE);
        let up =
            |j: &mut Journey| [HUB, EDGE].iter().all(|&which| j.machines[which].gateway.status(PeerId(0), j.clock.now()).is_some_and(|s| s.received.is_some()));
        while !up(&mut j) {
            j.pass_until(j.clock.now().mono + Duration::from_millis(10));
        }
        j.pass_until(j.clock.now().mono + Duration::from_secs(5));
        for which in [HUB, EDGE] {
            let (mtu, truth) = (usize::from(j.machines[which].gateway.path_mtu(PeerId(0)).expect("a peer")), j.net.whole - 60);
            assert!(mtu <= truth && mtu + 8 >= truth, "seed {}: {mtu} instead of {truth}", j.seed);
        }
    });
}
