//! The verbs that reach the daemon over the local socket: each a request line, answered by lines of progress and one end.
//!
//! Called by the driver. It keeps who waits for what, for a bounded time, and never the answer to a question the edge can be asked again.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::mpsc;

use super::entropy;
use super::local::Line as Asked;
use super::looks::Asker;
use crate::cli::protocol::{Done, Failure, Invited, Joined, Left, Line, Request};
use crate::clock::{Instant, Now};
use crate::config::{Config, Offer};
use crate::edge::{AgentEvent, Edge, Endpoint, Facts, Invitation, InviteOrder, JoinOrder, Progress, Resources};
use crate::identity::{ClusterId, PeerId};

/// Callers that wait at once; a further one is told to come again.
const WAITING: usize = 16;
/// How long a join or a leave is followed for the person who asked; it goes on without them.
const FOLLOWED: Duration = Duration::from_secs(120);
/// The longest life of a ticket.
const TICKET_LIFE: Duration = Duration::from_secs(7 * 86_400);

/// Somebody who waits for the end of a join or a leave.
struct Waiter {
    peer: PeerId,
    replies: mpsc::Sender<String>,
    since: Instant,
    what: What,
}

enum What {
    Join { cluster: Option<ClusterId>, linked: bool, node: bool, consumes: Option<bool>, provides: bool },
    Leave { cluster: ClusterId, told: bool, left: bool, gone: bool },
}

/// A ticket that may be shown once the state is saved.
pub(super) struct Made {
    invitation: Invitation,
    valid: u64,
    replies: mpsc::Sender<String>,
}

/// What the driver is to do before the answer.
#[expect(clippy::large_enum_variant, reason = "it lives for one statement")]
pub(super) enum Later {
    /// Save the state, then show the ticket with [`Verbs::invited`].
    Made(Made),
    /// Look around, at sizes of packets too if so it says.
    Look(Asker, bool),
}

/// See the module's head.
pub(super) struct Verbs {
    waiters: Vec<Waiter>,
    port: u16,
}

impl Verbs {
    pub(super) fn new(port: u16) -> Verbs {
        Verbs { waiters: Vec::new(), port }
    }

    /// Begins what was asked; hands back what is not answered here.
    pub(super) fn handle(&mut self, asked: Asked, edge: &mut Edge, config: &Config, facts: &Facts, now: Now) -> Option<Later> {
        let Asked { text, replies } = asked;
        let begun = Request::read(&text).and_then(|request| match request.verb.as_str() {
            "invite" => self.invite(&request, edge, config, facts, now).map(Begun::Made),
            "join" => self.join(&request, edge, config, &replies, now),
            "unpeer" => self.unpeer(&request, edge, &replies, now),
            "status" | "look" => Ok(Begun::Later(Later::Look(Asker::Status(replies.clone()), request.verb == "look"))),
            "metrics" => Ok(Begun::Later(Later::Look(Asker::Metrics(replies.clone()), false))),
            other => {
                Err(Failure::new("unknown-verb", format!("the daemon does not know the verb {other:?}"), "use the sluice command of the daemon's own version"))
            }
        });
        match begun {
            Ok(Begun::Made((invitation, valid))) => return Some(Later::Made(Made { invitation, valid, replies })),
            Ok(Begun::Later(later)) => return Some(later),
            Ok(Begun::Waits) => {}
            Err(failure) => say(&replies, Line::error(failure)),
        }
        None
    }

    fn invite(&self, request: &Request, edge: &mut Edge, config: &Config, facts: &Facts, now: Now) -> Result<(Invitation, u64), Failure> {
        let offer = match &request.provide {
            None => None,
            Some(text) => Some(resources(text, config.offer)?),
        };
        let endpoints = match request.endpoints.as_deref() {
            None | Some([]) => own_endpoints(facts, self.port),
            Some(typed) => {
                let read = |text: &String| text.parse::<Endpoint>().map_err(|e| Failure::new("bad-endpoint", e.to_string(), ""));
                typed.iter().map(read).collect::<Result<Vec<_>, _>>()?
            }
        };
        if endpoints.is_empty() {
            return Err(Failure::new("no-endpoint", "this host has no address that another site could reach", "name one: sluice invite --endpoint HOST:PORT"));
        }
        let life = Duration::from_secs(request.valid.unwrap_or(900)).clamp(Duration::from_secs(30), TICKET_LIFE);
        let (ask, replace, secret) = (request.consume.unwrap_or(false), request.replace.unwrap_or(false), entropy::bytes());
        if offer.is_none() && !ask {
            return Err(Failure::new("nothing", "the ticket would offer nothing and ask for nothing", "leave --provide nothing out, or add --consume"));
        }
        let order = InviteOrder { endpoints, offer, ask, replace, life, secret };
        let invitation = edge.authority().invite(order, now).map_err(|e| Failure::new("invite", e.to_string(), ""))?;
        Ok((invitation, life.as_secs()))
    }

    /// The state is saved, or the ticket undone: says which.
    pub(super) fn invited(&self, made: Made, edge: &mut Edge) {
        let Made { invitation, valid, replies } = made;
        let ticket = &invitation.ticket;
        if edge.authority().ledger().ticket(&ticket.enrolment().public).is_none() {
            let hint = "make room on the disk and try again";
            return say(&replies, Line::error(Failure::new("not-saved", "the ticket could not be written to the state file, so it was not made", hint)));
        }
        let mut warnings = Vec::new();
        if invitation.private {
            warnings.push(
                "all endpoints are private addresses: only machines of this site can use the ticket; name a public one with --endpoint HOST:PORT".to_owned(),
            );
        }
        let invited = Invited {
            ticket: invitation.line.clone(),
            valid,
            offers: ticket.offer.map_or_else(String::new, |r| r.to_string()),
            asks: if ticket.ask { "what the joiner provides".to_owned() } else { String::new() },
            endpoints: ticket.endpoints.iter().map(ToString::to_string).collect(),
            warnings,
        };
        say(&replies, Line::ok(Done { invited: Some(invited), ..Done::default() }));
    }

    fn join(&mut self, request: &Request, edge: &mut Edge, config: &Config, replies: &mpsc::Sender<String>, now: Now) -> Result<Begun, Failure> {
        self.room()?;
        let line = request.ticket.clone().unwrap_or_default();
        let provide = match &request.provide {
            None => None,
            Some(text) => Some(resources(text, config.offer)?),
        };
        let order = JoinOrder { line, consume: true, provide, replace: request.replace.unwrap_or(false) };
        let (peer, ticket) = edge.authority().join(order, now).map_err(|e| Failure::new("ticket", e.to_string(), ""))?;
        let count = ticket.endpoints.len();
        let offers = ticket.offer.map_or_else(|| "nothing".to_owned(), |r| r.to_string());
        let asks = if ticket.ask { ", asks for ours" } else { "" };
        say(replies, Line::progress("ticket read", &format!("{count} endpoint{}, offers {offers}{asks}", if count == 1 { "" } else { "s" })));
        let what = What::Join { cluster: None, linked: false, node: false, consumes: None, provides: false };
        self.waiters.push(Waiter { peer, replies: replies.clone(), since: now.mono, what });
        Ok(Begun::Waits)
    }

    fn unpeer(&mut self, request: &Request, edge: &mut Edge, replies: &mpsc::Sender<String>, now: Now) -> Result<Begun, Failure> {
        self.room()?;
        let named = request.peer.clone().unwrap_or_default();
        let unknown = || Failure::new("unknown-peer", format!("there is no peering with {named}"), "see all with: sluice status");
        let cluster: ClusterId = named.parse().map_err(|_| unknown())?;
        let peer = edge.unpeer(&cluster, request.force.unwrap_or(false), now).ok_or_else(unknown)?;
        if edge.is_heard(peer) {
            say(replies, Line::progress("leaving", "waiting until nothing of ours is left there"));
        } else {
            say(replies, Line::progress("leaving", "the peer is away: cleaning up here"));
        }
        let what = What::Leave { cluster, told: false, left: false, gone: false };
        self.waiters.push(Waiter { peer, replies: replies.clone(), since: now.mono, what });
        Ok(Begun::Waits)
    }

    fn room(&mut self) -> Result<(), Failure> {
        self.waiters.retain(|w| !w.replies.is_closed());
        if self.waiters.len() >= WAITING {
            return Err(Failure::new("busy", format!("{WAITING} callers wait for joins and leaves already"), "try again in a moment"));
        }
        Ok(())
    }

    /// A peering got on.
    pub(super) fn progress(&mut self, peer: PeerId, progress: Progress, edge: &mut Edge, now: Now) {
        if let Progress::Left { told } = progress {
            for waiter in self.waiters.iter_mut().filter(|w| w.peer == peer) {
                if let What::Leave { told: known, left, .. } = &mut waiter.what {
                    (*known, *left) = (told, true);
                }
            }
            return self.settle(edge, now);
        }
        for waiter in self.waiters.iter_mut().filter(|w| w.peer == peer) {
            if let Progress::Retrying(why) = &progress {
                say(&waiter.replies, Line::progress("waiting", why));
                continue;
            }
            let What::Join { cluster, linked, consumes, provides, .. } = &mut waiter.what else { continue };
            match &progress {
                Progress::TunnelUp { endpoint, took } => {
                    say(&waiter.replies, Line::progress("tunnel up", &format!("{endpoint} answered in {} ms", took.as_millis())));
                }
                Progress::Greeted { behind_nat, .. } => {
                    if *behind_nat == Some(true) {
                        say(&waiter.replies, Line::progress("path found", "we are behind NAT; the tunnel keeps its mapping open"));
                    }
                }
                Progress::Enrolled { cluster: theirs, images, seen_as, consume, provide } => {
                    (*cluster, *consumes, *provides) = (Some(theirs.clone()), Some(consume.is_some()), provide.is_some());
                    let own = edge.authority().ledger().id.clone();
                    let mut detail = format!("with {theirs} as {own}");
                    // The first is its pods; under the other it shows us pods of third clusters.
                    for (original, image) in images.iter().take(1) {
                        let seen = if original == image { String::new() } else { format!(" seen here as {image} (clash with ours)") };
                        detail.push_str(&format!("; pods {original}{seen}"));
                    }
                    for image in seen_as.iter().take(1) {
                        detail.push_str(&format!("; ours seen there as {image}"));
                    }
                    say(&waiter.replies, Line::progress("enrolled", &detail));
                }
                Progress::Linked => *linked = true,
                Progress::Failed(refusal) => {
                    let reason = refusal.reason.name();
                    say(&waiter.replies, Line::error(Failure::new(reason, refusal.message.clone(), hint(reason))));
                    waiter.what = What::Leave { cluster: edge.authority().ledger().id.clone(), told: true, left: true, gone: true };
                    waiter.since = Instant::default();
                }
                Progress::Credential | Progress::Retrying(_) | Progress::Left { .. } => {}
            }
        }
        self.waiters.retain(|w| w.since != Instant::default());
        self.settle(edge, now);
    }

    /// The agent has something to say.
    pub(super) fn said(&mut self, event: &AgentEvent, edge: &mut Edge, now: Now) {
        if let AgentEvent::NodeReady { peer } = event {
            for waiter in self.waiters.iter_mut().filter(|w| w.peer == *peer) {
                if let What::Join { node, cluster, .. } = &mut waiter.what {
                    *node = true;
                    if let Some(cluster) = cluster {
                        let took = now.mono.since(waiter.since).as_secs_f64();
                        say(&waiter.replies, Line::progress("virtual node Ready", &format!("{cluster}    {took:.1} s")));
                    }
                }
            }
        }
        self.settle(edge, now);
    }

    /// A peering is gone from here.
    pub(super) fn gone(&mut self, peer: PeerId, _cluster: &ClusterId, edge: &mut Edge) {
        for waiter in self.waiters.iter_mut().filter(|w| w.peer == peer) {
            if let What::Leave { gone, .. } = &mut waiter.what {
                *gone = true;
            }
        }
        let now = super::time::now();
        self.settle(edge, now);
    }

    /// Tells those whose wait is over.
    fn settle(&mut self, edge: &mut Edge, now: Now) {
        let own = edge.authority().ledger().id.to_string();
        self.waiters.retain(|waiter| {
            let done = match &waiter.what {
                What::Join { cluster: Some(cluster), linked: true, node, consumes, provides } if *node || *consumes == Some(false) => {
                    let took_ms = now.mono.since(waiter.since).as_millis() as u64;
                    let (peer, id) = (cluster.to_string(), own.clone());
                    Done { joined: Some(Joined { peer, id, consumes: *consumes == Some(true), provides: *provides, took_ms }), ..Done::default() }
                }
                What::Leave { cluster, told, left: true, gone: true } => {
                    Done { left: Some(Left { peer: cluster.to_string(), told: *told }), ..Done::default() }
                }
                _ => return true,
            };
            say(&waiter.replies, Line::ok(done));
            false
        });
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.waiters.iter().map(|w| w.since + FOLLOWED).min()
    }

    pub(super) fn handle_timeout(&mut self, now: Now, edge: &mut Edge) {
        self.waiters.retain(|waiter| {
            if now.mono.since(waiter.since) < FOLLOWED {
                return true;
            }
            let failure = match &waiter.what {
                What::Join { cluster: None, .. } => {
                    edge.authority().cancel_join(waiter.peer, now);
                    Failure::new(
                        "no-answer",
                        format!("none of the ticket's endpoints answered in {} s; the join was given up", FOLLOWED.as_secs()),
                        "check that the inviter's UDP port is open to the outside, and that the ticket is not yet used or expired",
                    )
                }
                What::Join { .. } => Failure::new("slow", "the peering stands, but its virtual node is not ready yet", "see: sluice status"),
                What::Leave { .. } => Failure::new("slow", "the peering is being left, but not all of it is gone yet; that goes on", "see: sluice status"),
            };
            say(&waiter.replies, Line::error(failure));
            false
        });
    }
}

enum Begun {
    Made((Invitation, u64)),
    Waits,
    Later(Later),
}

fn say(replies: &mpsc::Sender<String>, line: String) {
    // A caller who does not read misses lines; the end of its wait closes the connection.
    let _ = replies.try_send(line);
}

fn resources(text: &str, base: Offer) -> Result<Resources, Failure> {
    let offer =
        if text.is_empty() { Ok(base) } else { Offer::parse(text, base) }.map_err(|e| Failure::new("bad-offer", e, "write cpu=2,memory=1Gi,pods=50"))?;
    let too_much = || Failure::new("bad-offer", "the offer is too large or empty", "write cpu=2,memory=1Gi,pods=50");
    let cpu = u32::try_from(offer.cpu_milli).map_err(|_| too_much())?;
    let memory = u32::try_from(offer.memory >> 20).map_err(|_| too_much())?;
    let pods = u16::try_from(offer.pods).map_err(|_| too_much())?;
    let resources = Resources { cpu, memory, pods };
    if resources.some_of_each() { Ok(resources) } else { Err(too_much()) }
}

/// The host's addresses that another machine may reach, public ones first; not those of its pods and services.
fn own_endpoints(facts: &Facts, port: u16) -> Vec<Endpoint> {
    let inside = |a: &IpAddr| matches!(a, IpAddr::V4(a) if facts.pods.iter().any(|p| p.contains(*a)) || a.is_loopback() || a.is_link_local());
    let mut found: Vec<Endpoint> = facts.addresses.iter().filter(|a| !inside(a)).filter_map(|a| Endpoint::at(SocketAddr::new(*a, port))).collect();
    found.sort_by_key(Endpoint::is_private);
    found.truncate(4);
    found
}

fn hint(reason: &str) -> &'static str {
    match reason {
        "used" | "expired" => "make a new one on the other side with: sluice invite",
        "id_taken" | "key_known" => "run sluice unpeer on the other side first, or invite with --replace",
        _ => "",
    }
}
