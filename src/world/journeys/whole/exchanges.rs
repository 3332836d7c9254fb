//! Requests over the tunnel: each goes as a packet, again each second until it is answered, and its answer comes back as one; a passage opens the API server behind.
//! An exchange ends with the machine that began it, by its deadline, or when the machine it reached has died.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::{Due, Feed, Journey, NAMES, Target};
use crate::clock::Instant;
use crate::edge::{AskId, Checksum, KindId, Owner, Request, RequestId, Verdict, WatchId};
use crate::identity::{CONTROL_PORT, PeerId};
use crate::kube::call::{Call, Cluster};
use crate::kube::reply::Reply;
use crate::kube::watch::{Told, Watch};
use crate::world::api_server::StreamId;
use crate::world::journeys::tunnel::{sum, system};
use crate::world::site::carry_out;

/// How long a control request or call may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy)]
pub(super) enum Whose {
    Ask(AskId),
    Call(Owner),
    Open(WatchId),
}

pub(super) enum Load {
    Ask(&'static str, String),
    Call(Call),
    Open(KindId, Watch),
}

pub(super) enum Outcome {
    Answer(u16, Vec<u8>),
    Reply(Reply),
    Opened(KindId, usize, StreamId),
    Refused(String),
}

/// A request over the tunnel and what has become of it.
pub(super) struct Exchange {
    pub(super) from: usize,
    pub(super) life: u32,
    pub(super) peer: PeerId,
    pub(super) to: Ipv4Addr,
    pub(super) bearer: String,
    pub(super) token: String,
    pub(super) whose: Whose,
    pub(super) load: Option<Load>,
    /// Where it arrived: the machine, its life, and the caller as seen there.
    pub(super) at: Option<(usize, u32, Ipv4Addr)>,
    pub(super) outcome: Option<Outcome>,
    pub(super) until: Instant,
}

impl Journey {
    pub(super) fn begin(&mut self, which: usize, peer: PeerId, target: Target, whose: Whose, load: Load) {
        self.numbers += 1;
        let Target { to, bearer, token } = target;
        let (life, until) = (self.machines[which].life, self.clock.now().mono + PATIENCE);
        let exchange = Exchange { from: which, life, peer, to, bearer, token, whose, load: Some(load), at: None, outcome: None, until };
        self.exchanges.insert(self.numbers, exchange);
        let at = self.soon();
        self.due.put(at, (which, life, Due::Send(self.numbers)));
    }

    /// Sends the request, or the answer, as a packet.
    pub(super) fn send(&mut self, number: u64, back: bool) {
        let Some(exchange) = self.exchanges.get(&number) else { return };
        let (which, to) = match (back, exchange.at) {
            (true, Some((at, _, caller))) => (at, caller),
            _ => (exchange.from, exchange.to),
        };
        let own = self.machines[which].edge.external().own_control();
        let packet = segment(own, to, number, back);
        self.transmit(which, packet);
    }

    pub(super) fn transmit(&mut self, which: usize, mut packet: Vec<u8>) {
        let (now, mut out) = (self.clock.now(), [0; 2048]);
        if let Verdict::ToPeer { to, len } = self.machines[which].edge.handle_packet(&mut packet, Checksum::Whole, now, &mut out) {
            self.net.send(self.machines[which].host, to, &out[..len], now.mono);
        }
        while let Some((to, len)) = self.machines[which].edge.poll_datagram(now, &mut out) {
            self.net.send(self.machines[which].host, to, &out[..len], now.mono);
        }
    }

    pub(super) fn receive(&mut self, which: usize, from: SocketAddr, datagram: &[u8]) {
        let (now, mut out) = (self.clock.now(), [0; 2048]);
        match self.machines[which].edge.handle_datagram(from, datagram, now, system, &mut out) {
            Verdict::ToPeer { to, len } => self.net.send(self.machines[which].host, to, &out[..len], now.mono),
            Verdict::ToTun { len, .. } => self.packet(which, &out[..len]),
            _ => {}
        }
        self.drain(which);
    }

    /// What the kernel and the listener make of a packet.
    pub(super) fn packet(&mut self, which: usize, packet: &[u8]) {
        let (source, own): ([u8; 4], [u8; 4]) = (packet[12..16].try_into().expect("a packet"), packet[16..20].try_into().expect("a packet"));
        if packet[9] == 1 && packet[20] == 8 {
            let mut echo = packet.to_vec();
            echo[12..16].copy_from_slice(&own);
            echo[16..20].copy_from_slice(&source);
            echo[20..24].copy_from_slice(&[0; 4]);
            let check = sum(&echo[20..], 0);
            echo[22..24].copy_from_slice(&check.to_be_bytes());
            return self.transmit(which, echo);
        }
        if packet[9] != 6 || packet.len() < 48 {
            return;
        }
        let number = u64::from_be_bytes(packet[40..48].try_into().expect("a packet of ours"));
        let (number, back) = (number / 2, number % 2 == 1);
        let life = self.machines[which].life;
        let Some(exchange) = self.exchanges.get_mut(&number) else { return };
        if back {
            if exchange.from == which && exchange.outcome.is_some() {
                self.complete(number);
            }
        } else if exchange.outcome.is_some() {
            self.send(number, true);
        } else if exchange.at.is_none() {
            exchange.at = Some((which, life, source.into()));
            let (method, path, body) = match exchange.load.as_ref() {
                Some(Load::Ask(path, body)) => ("POST", *path, body.clone()),
                _ => ("CONNECT", "kubernetes.default.svc:443", String::new()),
            };
            let bearer = exchange.bearer.clone();
            let request = Request { from: source.into(), method, path, bearer: Some(&bearer), body: body.as_bytes() };
            let now = self.clock.now();
            self.machines[which].edge.handle_request(RequestId(number as u32), &request, now);
        }
    }

    /// The passage is open: the API server behind it is asked.
    pub(super) fn pass_on(&mut self, which: usize, number: u64) {
        let Some(exchange) = self.exchanges.get_mut(&number) else { return };
        let (from, known) = (exchange.from, self.sites[which].api.knows(&exchange.token).is_some());
        let outcome = match exchange.load.take() {
            Some(Load::Call(_)) if !known => Outcome::Reply(Reply::Unauthorized),
            Some(Load::Open(..)) if !known => Outcome::Reply(Reply::Unauthorized),
            Some(Load::Call(call)) => {
                let said = format!("{} {:?} at {} {}", NAMES[from], call.verb, NAMES[which], call.path);
                let reply = carry_out(&mut self.sites, NAMES[from], |to| Some(if to == Cluster::Home { from } else { which }), call);
                if self.script.told {
                    let reply = format!("{reply:?}");
                    println!("{:9.3} {said} -> {}", self.clock.now().mono.since_boot().as_secs_f64(), &reply[..reply.len().min(60)]);
                }
                Outcome::Reply(reply)
            }
            Some(Load::Open(kind, watch)) => Outcome::Opened(kind, which, self.sites[which].api.watch(&watch.path, watch.from.as_deref())),
            Some(Load::Ask(..)) | None => Outcome::Refused("no such request".into()),
        };
        if let Some(exchange) = self.exchanges.get_mut(&number) {
            exchange.outcome = Some(outcome);
        }
        self.send(number, true);
    }

    /// The answer has arrived.
    pub(super) fn complete(&mut self, number: u64) {
        let Some(exchange) = self.exchanges.remove(&number) else { return };
        let now = self.clock.now();
        let Exchange { from, life, peer, whose, outcome, at, .. } = exchange;
        if life != self.machines[from].life {
            return;
        }
        let edge = &mut self.machines[from].edge;
        match (whose, outcome) {
            (Whose::Ask(ask), Some(Outcome::Answer(status, body))) => edge.handle_answer(ask, Ok((status, body)), now),
            (Whose::Ask(ask), _) => edge.handle_answer(ask, Err("the connection broke".into()), now),
            // As the shell does it: the notice says whose credential it was, the call may have been another's.
            (Whose::Call(owner), Some(Outcome::Reply(Reply::Unauthorized))) => {
                edge.handle_unauthorized(peer, now);
                edge.handle_reply(owner, Reply::Unreachable("the credential is not accepted".into()), now);
            }
            (Whose::Call(owner), Some(Outcome::Reply(reply))) => edge.handle_reply(owner, reply, now),
            (Whose::Call(owner), Some(Outcome::Refused(why))) => edge.handle_reply(owner, Reply::Unreachable(why), now),
            (Whose::Call(owner), _) => edge.handle_reply(owner, Reply::Unreachable("no answer in time".into()), now),
            (Whose::Open(watch), Some(Outcome::Opened(kind, site, stream))) => {
                let through = at.map(|(_, life, caller)| (peer, life, caller));
                self.machines[from].feeds.insert(watch, Feed { kind, site, stream, through, broken: false });
            }
            (Whose::Open(watch), outcome) => {
                if matches!(outcome, Some(Outcome::Reply(Reply::Unauthorized))) {
                    edge.handle_unauthorized(peer, now);
                }
                edge.handle_told(watch, Told::Cut, now);
            }
        }
        self.drain(from);
    }

    /// Nobody waits for it any more.
    pub(super) fn forget(&mut self, number: u64) {
        if let Some(Exchange { outcome: Some(Outcome::Opened(_, site, stream)), .. }) = self.exchanges.remove(&number) {
            self.sites[site].api.unwatch(stream);
        }
    }

    /// All connections of a machine to a peer's API server end.
    pub(super) fn drop_connections(&mut self, which: usize, peer: PeerId) {
        let now = self.clock.now().mono;
        self.machines[which].feeds.values_mut().filter(|f| f.through.is_some_and(|(row, ..)| row == peer)).for_each(|f| f.broken = true);
        for exchange in self.exchanges.values_mut().filter(|e| e.from == which && e.peer == peer && !matches!(e.whose, Whose::Ask(_))) {
            exchange.until = now;
        }
    }
}

/// A TCP segment to the control port, or back from it, that carries the number of an exchange. Nobody here looks at its checksum.
fn segment(from: Ipv4Addr, to: Ipv4Addr, number: u64, back: bool) -> Vec<u8> {
    let mut p = vec![0; 48];
    p[..10].copy_from_slice(&[0x45, 0, 0, 48, 0, 0, 0x40, 0, 64, 6]);
    p[12..16].copy_from_slice(&from.octets());
    p[16..20].copy_from_slice(&to.octets());
    let header = sum(&p[..20], 0);
    p[10..12].copy_from_slice(&header.to_be_bytes());
    let (ours, control) = (40_000_u16.to_be_bytes(), CONTROL_PORT.to_be_bytes());
    let (source, destination) = if back { (control, ours) } else { (ours, control) };
    p[20..22].copy_from_slice(&source);
    p[22..24].copy_from_slice(&destination);
    p[32..34].copy_from_slice(&[0x50, 0x10]);
    p[40..48].copy_from_slice(&(number * 2 + u64::from(back)).to_be_bytes());
    p
}
