//! What an edge wants done, and doing it in its world: the state file, calls and watches at home, questions and calls to peers, connections that end.
//! Called after whatever an edge was told. Never decides anything for it.

use super::exchanges::{Load, Outcome, Whose};
use super::{Due, Journey, NAMES, Target};
use crate::edge::{Order, Output, Progress};
use crate::identity::PeerId;
use crate::kube::call::{Body, Call, Cluster};
use crate::kube::reply::Reply;
use crate::kube::watch::Told;
use crate::world::journeys::tunnel::system;

impl Journey {
    pub(super) fn drain(&mut self, which: usize) {
        let now = self.clock.now();
        while let Some(output) = self.machines[which].edge.poll_output(now, system, true) {
            self.output(which, output);
        }
        let mut out = [0; 2048];
        while let Some((to, len)) = self.machines[which].edge.poll_datagram(now, &mut out) {
            self.net.send(self.machines[which].host, to, &out[..len], now.mono);
        }
    }

    pub(super) fn output(&mut self, which: usize, output: Output) {
        let (now, life) = (self.clock.now(), self.machines[which].life);
        match output {
            Output::Save(text) => {
                let fails = self.chance.happens(self.machines[which].disk_fails);
                if !fails {
                    self.machines[which].file = text;
                }
                let machine = &mut self.machines[which];
                if fails {
                    machine.floor = machine.edge.authority().ledger().floor;
                }
                machine.edge.saved(if fails { Err("no space left on the device".into()) } else { Ok(()) }, now);
                self.note_takers(which);
            }
            Output::Answer { request, status, body } => {
                let Some(exchange) = self.exchanges.get_mut(&u64::from(request.0)) else { return };
                exchange.outcome = Some(match exchange.whose {
                    Whose::Ask(_) => Outcome::Answer(status, body.into_bytes()),
                    _ => Outcome::Refused(format!("the passage is refused: {status}")),
                });
                self.send(u64::from(request.0), true);
            }
            Output::Passage { request, .. } => self.pass_on(which, u64::from(request.0)),
            Output::Ask { ask, to, path, bearer, body } => {
                self.tell(&format!("{} asks {to} {path}", NAMES[which]));
                let peer = self.machines[which].edge.external().caller(to).expect("the control end of a row");
                self.begin(which, peer, Target { to, bearer, token: String::new() }, Whose::Ask(ask), Load::Ask(path, body));
            }
            Output::Call(owner, call) => match far(&call) {
                None => {
                    let at = self.soon();
                    self.due.put(at, (which, life, Due::Do(owner, call)));
                }
                Some(peer) => match self.target(which, peer) {
                    Some(target) => self.begin(which, peer, target, Whose::Call(owner), Load::Call(call)),
                    None => {
                        let at = self.soon();
                        self.due.put(at, (which, life, Due::Reply(owner, Reply::Unreachable("the API server is not known".into()))));
                    }
                },
            },
            Output::Watch(Order::Open { id, kind, watch }) => match watch.on {
                Cluster::Home => {
                    let at = self.soon();
                    self.due.put(at, (which, life, Due::Open(id, kind, watch)));
                }
                Cluster::Peer(peer) => match self.target(which, peer) {
                    Some(target) => self.begin(which, peer, target, Whose::Open(id), Load::Open(kind, watch)),
                    None => {
                        let at = self.soon();
                        self.due.put(at, (which, life, Due::Told(id, Told::Cut)));
                    }
                },
            },
            Output::Watch(Order::Close { id }) => {
                if let Some(feed) = self.machines[which].feeds.remove(&id) {
                    self.sites[feed.site].api.unwatch(feed.stream);
                }
                let gone = |w: usize, l: u32, due: &Due| w == which && l == life && matches!(due, Due::Open(open, ..) | Due::Told(open, _) if *open == id);
                self.due.retain(|(w, l, due)| !gone(*w, *l, due));
                let over: Vec<u64> =
                    self.exchanges.iter().filter(|(_, e)| e.from == which && matches!(e.whose, Whose::Open(open) if open == id)).map(|(n, _)| *n).collect();
                over.into_iter().for_each(|number| self.forget(number));
            }
            Output::Target { peer, to, bearer, token, .. } => {
                self.machines[which].targets.insert(peer, Target { to, bearer, token });
            }
            Output::NoTarget(peer) => {
                self.machines[which].targets.remove(&peer);
                self.drop_connections(which, peer);
            }
            Output::Returned(peer) => self.drop_connections(which, peer),
            Output::Closed { from } => {
                for machine in &mut self.machines {
                    machine
                        .feeds
                        .values_mut()
                        .filter(|f| f.site == which && f.through.is_some_and(|(_, _, there)| there == from))
                        .for_each(|f| f.broken = true);
                }
                for exchange in self.exchanges.values_mut().filter(|e| e.at.is_some_and(|(at, _, there)| at == which && there == from)) {
                    exchange.until = now.mono;
                }
            }
            Output::Progress(peer, progress) => {
                if !matches!(progress, Progress::Retrying(_)) || self.script.told {
                    self.tell(&format!("{} row {}: {progress:?}", NAMES[which], peer.0));
                }
            }
            Output::Said(event) => self.tell(&format!("{} says {event:?}", NAMES[which])),
            Output::Gone(peer, cluster) => self.tell(&format!("{} row {}: {cluster} is gone", NAMES[which], peer.0)),
            Output::Resolve(..) | Output::Host => {}
        }
    }

    pub(super) fn target(&self, which: usize, peer: PeerId) -> Option<Target> {
        self.machines[which].targets.get(&peer).map(|t| Target { to: t.to, bearer: t.bearer.clone(), token: t.token.clone() })
    }

    /// A ticket is taken by one key at most, whatever happens.
    pub(super) fn note_takers(&mut self, which: usize) {
        for ticket in &self.machines[which].edge.authority().ledger().tickets {
            if let crate::auth::ledger::TicketState::Used(by) = ticket.state {
                let first = *self.takers.entry(ticket.key).or_insert(by);
                assert_eq!(first, by, "seed {}: a ticket was taken twice", self.seed);
            }
        }
    }
}

/// The peer whose API server a call needs.
fn far(call: &Call) -> Option<PeerId> {
    let from = match &call.body {
        Body::Forge(forge) => Some(forge.from),
        _ => None,
    };
    [Some(call.to), from].into_iter().flatten().find_map(|c| match c {
        Cluster::Peer(peer) => Some(peer),
        Cluster::Home => None,
    })
}
