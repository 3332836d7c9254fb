//! Datagrams between gateways: loss, delay (and so reordering), doubles, cuts, and routers that masquerade and forget.
//!
//! A router behaves as Linux' masquerade does: a mapping for each pair of inner source and destination, an outer port of its own, only
//! that destination may answer, and it is forgotten after 30 s of silence (120 s once answered), or when its table is reset.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use super::chance::Chance;
use super::clock::Agenda;
use crate::clock::Instant;

/// A machine with one UDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(pub usize);

/// A router between some hosts and all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouterId(pub usize);

/// What may happen to a datagram under way.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Lost, of 1000.
    pub loss: u16,
    /// Arrives twice, of 1000.
    pub double: u16,
    /// The shortest way takes this long.
    pub delay: Duration,
    /// And up to this much longer, each datagram for itself.
    pub jitter: Duration,
}

impl Weather {
    /// Nothing is lost; 20 ms.
    pub const FAIR: Weather = Weather { loss: 0, double: 0, delay: Duration::from_millis(20), jitter: Duration::from_millis(2) };
}

/// The network.
#[derive(Debug)]
pub struct Net {
    /// How it is at present; a test may change it at any time.
    pub weather: Weather,
    /// The largest datagram, with its IP header, that gets through in one piece; what is larger is cut up and put together again, or lost if it must not be.
    pub whole: usize,
    hosts: Vec<Host>,
    routers: Vec<Router>,
    cut: BTreeSet<(HostId, HostId)>,
    under_way: Agenda<Flight>,
    chance: Chance,
    /// Datagrams sent and delivered.
    pub sent: u64,
    /// See `sent`.
    pub delivered: u64,
}

#[derive(Debug)]
struct Host {
    address: SocketAddr,
    router: Option<RouterId>,
}

#[derive(Debug)]
struct Router {
    address: Ipv4Addr,
    mappings: BTreeMap<u16, Mapping>,
}

#[derive(Debug)]
struct Mapping {
    inside: HostId,
    outside: SocketAddr,
    answered: bool,
    used: Instant,
}

impl Mapping {
    fn forgotten(&self, now: Instant) -> bool {
        now.since(self.used) > Duration::from_secs(if self.answered { 120 } else { 30 })
    }
}

#[derive(Debug)]
struct Flight {
    sender: HostId,
    from: SocketAddr,
    to: SocketAddr,
    datagram: Vec<u8>,
}

/// A datagram that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Where.
    pub at: HostId,
    /// From whom, as the receiver sees it.
    pub from: SocketAddr,
    /// The bytes.
    pub datagram: Vec<u8>,
}

impl Net {
    /// A network without hosts.
    pub fn new(chance: Chance) -> Self {
        Net {
            weather: Weather::FAIR,
            whole: 1500,
            hosts: Vec::new(),
            routers: Vec::new(),
            cut: BTreeSet::new(),
            under_way: Agenda::default(),
            chance,
            sent: 0,
            delivered: 0,
        }
    }

    /// A host everybody can reach at `address`.
    pub fn host(&mut self, address: SocketAddr) -> HostId {
        self.hosts.push(Host { address, router: None });
        HostId(self.hosts.len() - 1)
    }

    /// A router with this outer address; nothing comes in that was not asked for.
    pub fn router(&mut self, address: Ipv4Addr) -> RouterId {
        self.routers.push(Router { address, mappings: BTreeMap::new() });
        RouterId(self.routers.len() - 1)
    }

    /// A host behind `router`.
    pub fn host_behind(&mut self, router: RouterId, address: SocketAddr) -> HostId {
        self.hosts.push(Host { address, router: Some(router) });
        HostId(self.hosts.len() - 1)
    }

    /// The host has a new address from now on (another network, a new lease).
    pub fn moves(&mut self, host: HostId, address: SocketAddr, router: Option<RouterId>) {
        self.hosts[host.0] = Host { address, router };
    }

    /// The host's own address.
    pub fn address(&self, host: HostId) -> SocketAddr {
        self.hosts[host.0].address
    }

    /// The router's table is empty from now on.
    pub fn reset(&mut self, router: RouterId) {
        self.routers[router.0].mappings.clear();
    }

    /// Nothing passes between the two, either way.
    pub fn cut(&mut self, a: HostId, b: HostId) {
        self.cut.insert((a.min(b), a.max(b)));
    }

    /// Undoes [`cut`](Self::cut).
    pub fn mend(&mut self, a: HostId, b: HostId) {
        self.cut.remove(&(a.min(b), a.max(b)));
    }

    /// `host` sends.
    pub fn send(&mut self, host: HostId, to: SocketAddr, datagram: &[u8], now: Instant) {
        self.sent += 1;
        let Host { address, router } = self.hosts[host.0];
        let from = match router {
            Some(router) => match self.map(router, host, to, now) {
                Some(from) => from,
                None => return,
            },
            None => address,
        };
        let copies = 1 + u8::from(self.chance.happens(self.weather.double));
        for _ in 0..copies {
            if !self.chance.happens(self.weather.loss) {
                let jitter = Duration::from_micros(self.chance.below(self.weather.jitter.as_micros() as u64 + 1));
                self.under_way.put(now + self.weather.delay + jitter, Flight { sender: host, from, to, datagram: datagram.to_vec() });
            }
        }
    }

    /// The same for a datagram that must not be cut up.
    pub fn send_whole(&mut self, host: HostId, to: SocketAddr, datagram: &[u8], now: Instant) {
        let headers = if to.is_ipv4() { 28 } else { 48 };
        if headers + datagram.len() <= self.whole {
            self.send(host, to, datagram, now);
        }
    }

    /// When the next datagram arrives.
    pub fn next(&self) -> Option<Instant> {
        self.under_way.next()
    }

    /// The next arrival that is due; what nobody receives is gone.
    pub fn receive(&mut self, now: Instant) -> Option<Arrival> {
        loop {
            let Flight { sender, from, to, datagram } = self.under_way.take(now)?;
            if let Some(at) = self.receiver(from, to, now).filter(|at| !self.cut.contains(&(sender.min(*at), sender.max(*at)))) {
                self.delivered += 1;
                return Some(Arrival { at, from, datagram });
            }
        }
    }

    fn receiver(&mut self, from: SocketAddr, to: SocketAddr, now: Instant) -> Option<HostId> {
        if let Some(open) = self.hosts.iter().position(|h| h.router.is_none() && h.address == to) {
            return Some(HostId(open));
        }
        let router = self.routers.iter_mut().find(|r| to.ip() == r.address)?;
        let mapping = router.mappings.get_mut(&to.port()).filter(|m| m.outside == from && !m.forgotten(now))?;
        (mapping.used, mapping.answered) = (now, true);
        Some(mapping.inside)
    }

    fn map(&mut self, router: RouterId, inside: HostId, outside: SocketAddr, now: Instant) -> Option<SocketAddr> {
        let router = &mut self.routers[router.0];
        let outer = |port| SocketAddr::V4(SocketAddrV4::new(router.address, port));
        router.mappings.retain(|_, m| !m.forgotten(now));
        if let Some((port, mapping)) = router.mappings.iter_mut().find(|(_, m)| m.inside == inside && m.outside == outside) {
            mapping.used = now;
            return Some(outer(*port));
        }
        let port = 1024 + self.chance.below(60_000) as u16;
        // A port that is taken: the datagram is dropped, as by a full table; the next one draws again.
        if router.mappings.contains_key(&port) {
            return None;
        }
        router.mappings.insert(port, Mapping { inside, outside, answered: false, used: now });
        Some(outer(port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUB: &str = "203.0.113.10:51820";

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(seconds))
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn two() -> (Net, HostId, HostId, RouterId) {
        let mut net = Net::new(Chance::new(3));
        let hub = net.host(address(HUB));
        let router = net.router(Ipv4Addr::new(198, 51, 100, 7));
        let edge = net.host_behind(router, address("192.168.1.20:51820"));
        (net, hub, edge, router)
    }

    #[test]
    fn a_router_lets_in_only_the_answer_of_the_one_that_was_asked() {
        let (mut net, hub, edge, _) = two();
        let stranger = net.host(address("203.0.113.66:51820"));
        net.send(hub, address("192.168.1.20:51820"), b"unasked", at(1));
        net.send(edge, address(HUB), b"asked", at(1));
        let asked = net.receive(at(2)).expect("it arrives");
        assert_eq!((asked.at, asked.datagram.as_slice(), asked.from.ip().to_string()), (hub, &b"asked"[..], "198.51.100.7".to_owned()));
        net.send(stranger, asked.from, b"forged", at(2));
        net.send(hub, asked.from, b"answer", at(2));
        let answer = net.receive(at(3)).expect("it arrives");
        assert_eq!((answer.at, answer.from, answer.datagram.as_slice()), (edge, address(HUB), &b"answer"[..]));
        assert_eq!(net.receive(at(3)), None);
    }

    #[test]
    fn a_mapping_is_forgotten_after_silence_and_the_next_has_another_port() {
        let (mut net, hub, edge, router) = two();
        let ask = |net: &mut Net, second| {
            net.send(edge, address(HUB), b"asked", at(second));
            net.receive(at(second + 1)).expect("it arrives").from
        };
        let first = ask(&mut net, 1);
        assert_eq!(ask(&mut net, 25), first);
        net.send(hub, first, b"late", at(60));
        assert_eq!(net.receive(at(61)), None);
        let second = ask(&mut net, 62);
        assert_ne!(first, second);
        net.reset(router);
        net.send(hub, second, b"lost", at(63));
        assert_eq!(net.receive(at(64)), None);
    }

    #[test]
    fn a_cut_is_a_cut_and_loss_is_about_what_it_says() {
        let (mut net, hub, edge, _) = two();
        net.cut(hub, edge);
        net.send(edge, address(HUB), b"x", at(1));
        assert_eq!(net.receive(at(2)), None);
        net.mend(hub, edge);
        net.weather = Weather { loss: 500, double: 100, ..Weather::FAIR };
        for _ in 0..1000 {
            net.send(edge, address(HUB), b"x", at(3));
        }
        let arrived = std::iter::from_fn(|| net.receive(at(4))).count();
        assert!((450..650).contains(&arrived), "{arrived}");
    }
}
