//! The daemon's loop. One task owns the edge; everything else is a mailbox of small values.
//!
//! A turn: 1 what the edge wants done, 2 at most 64 datagrams and 3 packets (the pump), 4 timers, 5 at most 8 values of every mailbox; then
//! again, or sleep until the next of them. A packet never waits for more than a small step of control work.
//! It decides nothing: it reads clocks, hands inputs in and carries outputs out.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::api::{Api, Notice, Target};
use super::dial::{self, Through, Way};
use super::kubeconfig;
use super::listener::{self, Answer, Asked, Control, Refusal};
use super::local::{self, Line};
use super::log::{chain, log};
use super::looks::{Asker, FRESH, Looks};
use super::metrics::{self, Counts};
use super::prepare::{self, Prepared, TOKEN_LIFE, Told as Prepares};
use super::pump::{Core, Pump};
use super::run::{self, TICK};
use super::scrape::{self, Wanted};
use super::status::{Known, Parts, counted, is_unanswered, status};
use super::store::Store;
use super::tally::{Outcome, SIDES, Turn};
use super::tls::{self, Times, Witness};
use super::tun::Tun;
use super::upkeep::Upkeep;
use super::verbs::{Later, Verbs};
use super::{floor, setup, time};
use crate::budget;
use crate::cli::protocol::{Done, Line as Reported, Refused};
use crate::clock::{Instant, Now};
use crate::config::Config;
use crate::edge::{AgentEvent, AskId, Checksum, Edge, Facts, Order, Output, Owner, Progress, Request, RequestId, Seen, Verdict, WatchId};
use crate::identity::{CONTROL_PORT, PeerId};
use crate::kube::call::{Body, Call, Cluster, Verb};
use crate::kube::reply::Reply;
use crate::kube::watch::Told;

/// Values of one mailbox a turn.
const LETTERS: usize = 8;
/// Places of the mailboxes that the driver's own tasks write to.
const MAILBOX: usize = 32;
/// How long a question to a peer may take; what answers it waits for its own API server.
const ASK: Duration = Duration::from_secs(30);
/// The pause before the daemon's own token is asked for again.
const TOKEN_AGAIN: Duration = Duration::from_secs(10);
/// How often a mounted token is read again; the kubelet writes a new one when the old one has a fifth of its life left, 12 minutes as a rule.
const MOUNTED_AGAIN: Duration = Duration::from_secs(300);
/// How often a peer's clock is taken down as a witness.
const WITNESS: Duration = Duration::from_secs(30);

/// Who made a call.
#[derive(Clone, Copy, Debug)]
enum Caller {
    Edge(Owner),
    /// The driver itself, for the daemon's own token.
    Token,
    /// The driver itself, which asks whether a server is there.
    Look(Cluster),
}

/// Both ends: the sender is cloned into the tasks that answer.
type Mailbox<T> = (mpsc::Sender<T>, mpsc::Receiver<T>);
type Answered = (AskId, Result<(u16, Vec<u8>), String>);

/// What reaches the driver.
pub struct Mailboxes {
    asked: mpsc::Receiver<Asked>,
    lines: mpsc::Receiver<Line>,
    notices: mpsc::Receiver<Notice>,
    prepared: Mailbox<Prepares>,
    scrapes: mpsc::Receiver<Wanted>,
    replies: Mailbox<(Caller, Reply)>,
    told: Mailbox<(u32, Told<Seen>)>,
    answers: Mailbox<Answered>,
    resolved: Mailbox<(PeerId, Vec<SocketAddr>)>,
}

impl Mailboxes {
    /// Those that others write to; the rest are the driver's own.
    pub fn new(asked: mpsc::Receiver<Asked>, lines: mpsc::Receiver<Line>, notices: mpsc::Receiver<Notice>, scrapes: mpsc::Receiver<Wanted>) -> Mailboxes {
        let prepared = mpsc::channel(1);
        let (replies, told, answers, resolved) = (mpsc::channel(MAILBOX), mpsc::channel(MAILBOX), mpsc::channel(MAILBOX), mpsc::channel(MAILBOX));
        Mailboxes { asked, lines, notices, prepared, scrapes, replies, told, answers, resolved }
    }
}

/// One value of any mailbox.
enum Letter {
    Asked(Asked),
    Line(Line),
    Notice(Notice),
    Prepared(Prepares),
    Scrape(Wanted),
    Reply(Caller, Reply),
    Told(u32, Told<Seen>),
    Answer(Answered),
    Resolved(PeerId, Vec<SocketAddr>),
}

impl Mailboxes {
    /// Waits for the next value.
    async fn next(&mut self) -> Letter {
        tokio::select! {
            Some(asked) = self.asked.recv() => Letter::Asked(asked),
            Some(line) = self.lines.recv() => Letter::Line(line),
            Some(notice) = self.notices.recv() => Letter::Notice(notice),
            Some(prepared) = self.prepared.1.recv() => Letter::Prepared(prepared),
            Some(wanted) = self.scrapes.recv() => Letter::Scrape(wanted),
            Some((caller, reply)) = self.replies.1.recv() => Letter::Reply(caller, reply),
            Some((id, told)) = self.told.1.recv() => Letter::Told(id, told),
            Some(answer) = self.answers.1.recv() => Letter::Answer(answer),
            Some((peer, found)) = self.resolved.1.recv() => Letter::Resolved(peer, found),
            else => std::future::pending().await,
        }
    }

    /// At most [`LETTERS`] more values, those that lie there already.
    fn more(&mut self) -> Option<Letter> {
        let mailboxes = &mut *self;
        None.or_else(|| mailboxes.replies.1.try_recv().ok().map(|(c, r)| Letter::Reply(c, r)))
            .or_else(|| mailboxes.told.1.try_recv().ok().map(|(i, t)| Letter::Told(i, t)))
            .or_else(|| mailboxes.asked.try_recv().ok().map(Letter::Asked))
            .or_else(|| mailboxes.answers.1.try_recv().ok().map(Letter::Answer))
            .or_else(|| mailboxes.lines.try_recv().ok().map(Letter::Line))
    }
}

/// The pump moves packets for an edge; it needs the real wall clock beside the program's.
struct Packets<'a>(&'a mut Edge);

impl Core for Packets<'_> {
    fn datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Now, out: &mut [u8]) -> Verdict {
        self.0.handle_datagram(from, datagram, now, time::wall, out)
    }

    fn packet(&mut self, packet: &mut [u8], checksum: Checksum, now: Now, out: &mut [u8]) -> Verdict {
        self.0.handle_packet(packet, checksum, now, out)
    }

    fn poll(&mut self, now: Now, out: &mut [u8]) -> Option<(SocketAddr, usize)> {
        self.0.poll_datagram(now, out)
    }

    fn probe(&mut self, out: &mut [u8]) -> Option<(SocketAddr, usize)> {
        self.0.poll_probe(out)
    }
}

/// How often the doors that serve on their own refused somebody.
#[derive(Default)]
pub struct Doors {
    /// The local socket.
    pub local: local::Refusals,
    /// The port of the metrics.
    pub scrape: scrape::Refusals,
}

/// The daemon.
pub struct Driver {
    config: Config,
    edge: Edge,
    facts: Facts,
    pump: Pump,
    upkeep: Upkeep,
    store: Store,
    api: Api,
    control: Control,
    doors: Doors,
    times: Times,
    mailboxes: Mailboxes,
    verbs: Verbs,
    known: Known,
    looks: Looks,
    waiting: BTreeMap<u32, oneshot::Sender<Answer>>,
    requests: u32,
    tick: Instant,
    witnesses: Instant,
    /// When the daemon's own token is renewed, and whether that is under way.
    token: Option<Instant>,
    renewing: bool,
    /// The cluster is being got ready; how.
    order: prepare::Order,
    preparing: bool,
}

impl Driver {
    /// Everything is open; nothing has been done yet.
    #[expect(clippy::too_many_arguments, reason = "the daemon's parts, handed over once by run.rs")]
    pub fn new(
        config: Config,
        edge: Edge,
        facts: Facts,
        pump: Pump,
        upkeep: Upkeep,
        store: Store,
        api: Api,
        control: Control,
        doors: Doors,
        times: Times,
        mailboxes: Mailboxes,
    ) -> Driver {
        let now = time::mono();
        let order = prepare::Order { times: times.clone(), kubeconfig: config.kubeconfig.clone(), pods: config.pods };
        Driver {
            verbs: Verbs::new(pump.port()),
            known: Known { started: now, ..Known::default() },
            looks: Looks::new(),
            config,
            edge,
            facts,
            pump,
            upkeep,
            store,
            api,
            control,
            doors,
            times,
            mailboxes,
            waiting: BTreeMap::new(),
            requests: 0,
            tick: now + TICK,
            witnesses: now + WITNESS,
            token: None,
            renewing: false,
            order,
            preparing: false,
        }
    }

    /// Runs until a signal comes.
    ///
    /// # Errors
    /// What the daemon cannot live with: the device is gone, the cluster cannot be served.
    pub async fn run(mut self) -> Result<(), String> {
        let ended = self.until_told().await;
        let removed = self.upkeep.remove().map_err(|e| chain(&e).to_string());
        ended.and(removed)
    }

    async fn until_told(&mut self) -> Result<(), String> {
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| format!("signals cannot be had: {e}"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| format!("signals cannot be had: {e}"))?;
        self.prepare();
        loop {
            self.turn()?;
            let now = time::mono();
            let mut until = self.tick;
            for due in [self.edge.poll_timeout(), self.token, self.verbs.poll_timeout(), self.looks.poll_timeout()].into_iter().flatten() {
                until = until.min(due);
            }
            let letter = tokio::select! {
                ready = self.pump.ready() => { ready.map_err(|e| format!("the socket or the device cannot be read: {e}"))?; None }
                letter = self.mailboxes.next() => Some(letter),
                () = tokio::time::sleep(until.since(now)) => None,
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            };
            let mut next = letter;
            for _ in 0..LETTERS {
                let Some(letter) = next.take().or_else(|| self.mailboxes.more()) else { break };
                self.take(letter)?;
            }
        }
        log!(Info, "run", "told to stop");
        Ok(())
    }

    fn turn(&mut self) -> Result<(), String> {
        let now = time::now();
        self.outputs(now);
        if self.pump.turn(&mut Packets(&mut self.edge), now).is_err() {
            self.remake()?;
        }
        self.edge.handle_timeout(now);
        self.outputs(now);
        self.pump.flush(&mut Packets(&mut self.edge), now);
        if now.mono >= self.tick {
            self.tick = now.mono + TICK;
            self.pump.tidy(now);
            self.look(now)?;
        }
        if self.token.is_some_and(|due| now.mono >= due) {
            self.token = Some(now.mono + TOKEN_AGAIN);
            if !self.renewing && !self.preparing {
                self.renew_token(now);
            }
        }
        self.verbs.handle_timeout(now, &mut self.edge);
        self.look_on(now);
        Ok(())
    }

    /// Looks whether the kernel still holds what it should.
    fn look(&mut self, now: Now) -> Result<(), String> {
        let tick = self.upkeep.tick();
        if tick.tun_gone {
            self.remake()?;
        }
        if tick.host_changed
            && let Some(facts) = run::renewed(&self.facts, &self.config, &mut self.upkeep)
            && facts != self.facts
        {
            match self.upkeep.own_within(&facts.pods).map(|barred| self.edge.gateway().set_local(&facts.pods, &barred)) {
                Ok(Ok(())) => {}
                Ok(Err(_)) => log!(Warn, "run", "the host has more addresses in its pod prefixes than there is room for; peers may reach the newest of them"),
                Err(why) => log!(Warn, "run", "{}", chain(&why)),
            }
            self.edge.authority().set_facts(facts.clone());
            self.facts = facts;
            self.edge.handshakes(now);
        }
        if now.mono >= self.witnesses {
            self.witnesses = now.mono + WITNESS;
            let peers: Vec<PeerId> = self.edge.authority().ledger().peers.iter().map(|p| p.row).collect();
            for peer in peers {
                if let Some(time) = self.edge.authority().peer_time(peer, now) {
                    self.times.vouch(Witness::Peer(peer), time);
                }
            }
        }
        Ok(())
    }

    /// Somebody deleted the device: it is made again, and with it all that was bound to it. Sessions and credentials are as they were.
    fn remake(&mut self) -> Result<(), String> {
        let name = &self.config.interface;
        log!(Warn, "run", "the device {name} was deleted; it is made again");
        let failed = |why: &str| format!("the device {name} was deleted and cannot be made again: {why}");
        self.pump.set_tun(Tun::open(name).map_err(|e| failed(&chain(&e).to_string()))?);
        self.upkeep.remade().map_err(|e| failed(&chain(&e).to_string()))?;
        let listener = listener::bind(listener::control_address(self.edge.external().own_control()), Some(name)).map_err(|e| failed(&e))?;
        self.control.listen_on(listener);
        for peer in &self.edge.authority().ledger().peers {
            self.api.drop_connections(Cluster::Peer(peer.row));
        }
        Ok(())
    }

    fn take(&mut self, letter: Letter) -> Result<(), String> {
        let now = time::now();
        match letter {
            Letter::Asked(asked) => self.asked(asked, now),
            Letter::Line(line) => {
                let later = self.verbs.handle(line, &mut self.edge, &self.config, &self.facts, now);
                // What a verb changes must be on the disk before it is told.
                self.outputs(now);
                match later {
                    Some(Later::Made(made)) => self.verbs.invited(made, &mut self.edge),
                    Some(Later::Look(asker, measure)) => self.look_around(asker, measure, now),
                    None => {}
                }
            }
            Letter::Notice(Notice::Unauthorized(Cluster::Peer(peer))) => self.edge.handle_unauthorized(peer, now),
            // One renewal answers for every request that was refused meanwhile, its own too.
            Letter::Notice(Notice::Unauthorized(Cluster::Home)) if self.renewing || self.preparing => {}
            Letter::Notice(Notice::Unauthorized(Cluster::Home)) => self.token = self.token.map(|due| due.min(now.mono)),
            Letter::Prepared(Prepares::Waits(why)) => self.known.waits = Some(why),
            Letter::Prepared(Prepares::Ended(prepared)) => {
                self.preparing = false;
                match *prepared {
                    Ok(prepared) => self.prepared(prepared, now)?,
                    // What was served so far goes on being served.
                    Err(why) if self.token.is_some() => {
                        log!(Warn, "api", "{why}");
                        self.known.token = Some(why);
                    }
                    Err(why) => return Err(why),
                }
            }
            Letter::Scrape(wanted) => self.look_around(Asker::Scrape(wanted), false, now),
            Letter::Reply(Caller::Edge(owner), reply) => self.edge.handle_reply(owner, reply, now),
            Letter::Reply(Caller::Token, reply) => self.token_came(reply, now),
            Letter::Reply(Caller::Look(cluster), _) => self.looks.answered(cluster),
            Letter::Told(id, told) => self.edge.handle_told(WatchId(id), told, now),
            Letter::Answer((ask, answer)) => self.edge.handle_answer(ask, answer, now),
            Letter::Resolved(peer, found) => self.edge.resolved(peer, &found, now),
        }
        self.outputs(now);
        Ok(())
    }

    /// What the listener, the local socket and the host's rules turned away.
    fn refused(&mut self) -> Vec<Refused> {
        let listener = Refusal::ALL.iter().zip(self.control.refusals()).filter_map(|(why, count)| counted("listener", why.name(), count));
        let socket = local::Refusal::ALL.iter().zip(self.doors.local.iter()).filter_map(|((_, name), count)| counted("socket", name, count.load(Relaxed)));
        let lost = self.pump.lost();
        let tunnel = lost.named().into_iter().filter_map(|(reason, count)| counted("tunnel", reason, count));
        let mut refused: Vec<Refused> = listener.chain(socket).chain(tunnel).collect();
        if let Ok(dropped) = self.upkeep.dropped() {
            refused.extend(dropped.named().into_iter().filter_map(|(reason, count)| counted("rules", reason, count)));
        }
        refused
    }

    fn asked(&mut self, asked: Asked, now: Now) {
        self.requests = self.requests.wrapping_add(1);
        self.waiting.retain(|_, answer| !answer.is_closed());
        self.waiting.insert(self.requests, asked.answer);
        let request = Request { from: asked.from, method: &asked.method, path: &asked.path, bearer: asked.bearer.as_deref(), body: &asked.body };
        self.edge.handle_request(RequestId(self.requests), &request, now);
    }

    fn outputs(&mut self, now: Now) {
        let mut host = false;
        while let Some(output) = self.edge.poll_output(now, time::wall, self.api.has_room()) {
            match output {
                Output::Host => host = true,
                other => {
                    // Addresses stand before anybody is told to use them.
                    if std::mem::take(&mut host) {
                        self.host();
                    }
                    self.output(other, now);
                }
            }
        }
        if host {
            self.host();
        }
    }

    fn host(&mut self) {
        if let Err(why) = self.upkeep.set(run::wanted(&self.config, &self.edge)) {
            log!(Warn, "link", "{}", chain(&why));
        }
    }

    fn output(&mut self, output: Output, now: Now) {
        match output {
            Output::Save(text) => {
                let written = self.store.save(&text).map_err(|e| chain(&e).to_string());
                if let Err(why) = &written {
                    log!(Warn, "store", "{why}");
                    if let Err(why) = floor::keep(Path::new(&self.config.socket), self.edge.authority().ledger().floor) {
                        log!(Warn, "store", "nor can the floor of the stamps be kept beside the socket: {why}");
                    }
                }
                self.known.unsaved = written.clone().err();
                self.edge.saved(written, now);
            }
            Output::Answer { request, status, body } => {
                if let Some(answer) = self.waiting.remove(&request.0) {
                    let _ = answer.send(Answer::Json(status, body.into_bytes()));
                }
            }
            Output::Passage { request, .. } => {
                if let Some(answer) = self.waiting.remove(&request.0) {
                    let _ = answer.send(Answer::Passage);
                }
            }
            Output::Ask { ask, to, path, bearer, body } => self.ask(ask, to, path, bearer, body),
            Output::Call(owner, call) => self.api.call(Caller::Edge(owner), call, self.mailboxes.replies.0.clone()),
            Output::Target { peer, to, bearer, token, ca, name } => match tls::Client::new(ca.as_bytes(), &name, None, &self.times) {
                Ok(tls) => {
                    let target = Target { way: self.way(to), passage: Some(bearer), tls, host: name, token: Some(token) };
                    self.api.set_target(Cluster::Peer(peer), target);
                }
                Err(why) => log!(Warn, "api", "a peer's credential cannot be used: {why}"),
            },
            Output::NoTarget(peer) => {
                self.api.remove_target(Cluster::Peer(peer));
                self.times.forget(Witness::Peer(peer));
            }
            Output::Returned(peer) => self.api.drop_connections(Cluster::Peer(peer)),
            Output::Closed { from } => self.control.close(from),
            Output::Resolve(peer, names) => self.resolve(peer, names),
            Output::Watch(Order::Open { id, kind, watch }) => {
                self.api.open_watch(id.0, watch, move |json: &[u8]| crate::offload::read(kind, json), self.mailboxes.told.0.clone());
            }
            Output::Watch(Order::Close { id }) => self.api.close_watch(id.0),
            Output::Progress(peer, progress) => {
                log_progress(peer, &progress);
                self.verbs.progress(peer, progress, &mut self.edge, now);
            }
            Output::Said(event) => {
                log_event(&event);
                self.verbs.said(&event, &mut self.edge, now);
            }
            Output::Gone(peer, cluster) => {
                log!(Info, "peering", "the peering in row {} has ended", peer.0);
                self.verbs.gone(peer, &cluster, &mut self.edge);
            }
            Output::Host => {}
        }
    }

    /// The way to a peer's control end.
    fn way(&self, to: Ipv4Addr) -> Way {
        let through = Through { source: self.edge.external().own_control(), interface: self.config.interface.clone() };
        Way { to: SocketAddr::from((to, CONTROL_PORT)), through: Some(through) }
    }

    fn ask(&self, ask: AskId, to: Ipv4Addr, path: &'static str, bearer: String, body: String) {
        let (way, answers) = (self.way(to), self.mailboxes.answers.0.clone());
        tokio::spawn(async move {
            let exchange = dial::ask(&way, path, Some(&bearer), body.as_bytes());
            let answer = tokio::time::timeout(ASK, exchange).await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
            let _ = answers.send((ask, answer)).await;
        });
    }

    fn resolve(&self, peer: PeerId, names: Vec<(heapless::String<64>, u16)>) {
        let resolved = self.mailboxes.resolved.0.clone();
        tokio::spawn(async move {
            let mut found = Vec::new();
            for (name, port) in &names {
                match tokio::net::lookup_host((name.as_str(), *port)).await {
                    Ok(addresses) => found.extend(addresses.take(crate::budget::ENDPOINTS)),
                    Err(why) => log!(Info, "run", "a peer's host name cannot be resolved: {why}"),
                }
            }
            let _ = resolved.send((peer, found)).await;
        });
    }

    /// Gets the cluster ready, on a thread of its own because it blocks.
    fn prepare(&mut self) {
        if !std::mem::replace(&mut self.preparing, true) {
            let (order, prepared) = (self.order.clone(), self.mailboxes.prepared.0.clone());
            tokio::task::spawn_blocking(move || {
                let ended = prepare::prepare(&order, &mut |why| drop(prepared.blocking_send(Prepares::Waits(why))));
                drop(prepared.blocking_send(Prepares::Ended(Box::new(ended))));
            });
        }
    }

    /// The cluster is ready, or cannot be served.
    fn prepared(&mut self, prepared: Prepared, now: Now) -> Result<(), String> {
        let Prepared { access, address, token, lifetime, nodes, architecture, version } = prepared;
        let tls = tls::Client::new(&access.ca, &access.name, None, &self.times).map_err(|e| format!("the kubeconfig's CA cannot be used: {e}"))?;
        let way = Way { to: address, through: None };
        self.api.set_target(Cluster::Home, Target { way, passage: None, tls, host: format!("{}:{}", access.host, access.port), token: Some(token) });
        if self.config.api_server.is_none() {
            self.control.lead_to(address);
        }
        self.token = Some(now.mono + lifetime.map_or(MOUNTED_AGAIN, |life| life * 2 / 3));
        let ca = String::from_utf8(access.ca).map_err(|_| "the kubeconfig's CA is no text".to_owned())?;
        self.facts = Facts { nodes, architecture, ca, ..self.facts.clone() };
        self.edge.authority().set_facts(self.facts.clone());
        self.edge.authority().note_good_time(now.wall);
        self.edge.set_kubelet_version(&version);
        (self.known.kubernetes, self.known.waits, self.known.token) = (Some(version), None, None);
        log!(Info, "run", "the API server answers; the daemon runs on its own account from here on");
        Ok(())
    }

    /// Somebody wants to know how things are.
    fn look_around(&mut self, asker: Asker, measure: bool, now: Now) {
        if !self.looks.ask(asker, measure, now.mono) {
            return;
        }
        if measure {
            self.edge.search_paths(now);
        }
        self.edge.look(FRESH, now);
        let mut servers = Vec::new();
        if self.known.kubernetes.is_some() {
            servers.push(Cluster::Home);
        }
        let peers: Vec<PeerId> = self.edge.authority().status(now).peers.iter().filter(|p| p.credential.is_some()).map(|p| p.peer).collect();
        servers.extend(peers.into_iter().filter(|peer| self.edge.is_heard(*peer)).map(Cluster::Peer));
        for cluster in servers {
            let health = self.api.tally().health(cluster);
            let fresh = health.failed.is_none() && health.refused.is_none() && health.answered.is_some_and(|at| now.mono.since(at) < FRESH);
            if !fresh && self.looks.question(cluster, now.mono) {
                let call = Call { to: cluster, verb: Verb::Get, path: "/livez".to_owned(), body: Body::None };
                self.api.call(Caller::Look(cluster), call, self.mailboxes.replies.0.clone());
            }
        }
    }

    /// Asks again, or answers whoever asked.
    fn look_on(&mut self, now: Now) {
        let Some(began) = self.looks.began() else { return };
        let peers: Vec<PeerId> = self.edge.authority().ledger().peers.iter().map(|p| p.row).collect();
        let waited = peers.into_iter().any(|peer| self.edge.is_heard(peer) && is_unanswered(self.edge.last_heard(peer, now), began, now));
        let whole = !waited && self.looks.servers_answered() && (!self.looks.measuring() || !self.edge.searches_paths());
        if !whole && !self.looks.is_over(now.mono) {
            if self.looks.is_due(now.mono) {
                self.edge.look(now.mono.since(began) + FRESH, now);
            }
            return;
        }
        for cluster in self.looks.silent(now.mono).collect::<Vec<_>>() {
            self.api.tally().silent(cluster, "it does not answer within 2.5 s");
        }
        let refused = self.refused();
        let mut parts = Parts { edge: &mut self.edge, config: &self.config, api: &self.api, upkeep: &self.upkeep, known: &self.known };
        let status = status(&mut parts, refused, Some(began), now);
        for asker in self.looks.end() {
            match asker {
                Asker::Status(replies) => drop(replies.try_send(Reported::ok(Done { status: Some(status.clone()), ..Done::default() }))),
                Asker::Metrics(replies) => {
                    let page = metrics::page(&status, &self.counts(now));
                    drop(replies.try_send(Reported::ok(Done { metrics: Some(page), ..Done::default() })));
                }
                Asker::Scrape(wanted) => drop(wanted.send(metrics::page(&status, &self.counts(now)))),
            }
        }
    }

    /// What the metrics tell beside the status.
    fn counts(&mut self, now: Now) -> Counts {
        let rules = self.upkeep.dropped().unwrap_or_default();
        let repairs = self.upkeep.repairs();
        let known = self.edge.authority().status(now);
        let authority = self.edge.authority();
        let refusals = authority.refusals().map(|(reason, count)| (reason, u64::from(count))).collect();
        let control = Refusal::ALL.iter().zip(self.control.refusals()).map(|(why, count)| ("control", why.name(), count));
        let load = |count: &AtomicU64| count.load(Relaxed);
        let local = local::Refusal::ALL.iter().zip(self.doors.local.iter()).map(|((_, name), count)| ("local", *name, load(count)));
        let scrape = scrape::Refusal::ALL.iter().zip(self.doors.scrape.iter()).map(|((_, name), count)| ("metrics", *name, load(count)));
        let doors = control.chain(local).chain(scrape).collect();
        let tally = self.api.tally();
        let turns = |all: &'static [(Turn, &'static str)]| {
            let of =
                |(turn, name): &(Turn, &'static str)| SIDES.into_iter().zip(tally.turn(*turn)).map(|(side, count)| (side, *name, count)).collect::<Vec<_>>();
            all.iter().flat_map(of).collect()
        };
        let outcomes = Outcome::ALL.iter().flat_map(|(outcome, name)| SIDES.into_iter().zip(tally.outcome(*outcome)).map(|(side, count)| (side, *name, count)));
        let (requests, passages) = self.control.open();
        let mut rows: Vec<_> = self.edge.agent().fill().collect();
        rows.extend([
            ("peer", known.peers.len() + known.joins.len(), budget::PEERS),
            ("watch", self.api.watches_open(), budget::WATCHES),
            ("control_connection", requests, budget::CONTROL_CONNECTIONS),
            ("api_passage", passages, budget::PASSAGES),
        ]);
        Counts {
            drops: self.edge.gateway().drops().iter().map(|(reason, count)| (reason.name(), count)).chain(self.pump.lost().named()).collect(),
            rule_drops: rules.named().to_vec(),
            refusals,
            denials: self.edge.agent().denials().collect(),
            doors,
            requests: outcomes.collect(),
            begun: turns(&Turn::BEGUN),
            ended: turns(&Turn::ENDED),
            rows,
            writes: self.store.writes(),
            repairs: vec![("rules", repairs.rules), ("links", repairs.links), ("device", repairs.device)],
            owed: known.owed,
            untold: known.untold,
            started: now.wall.0.saturating_sub(now.mono.since(self.known.started).as_secs() as i64),
        }
    }

    fn renew_token(&mut self, now: Now) {
        let mounted = Path::new(kubeconfig::MOUNTED).join("token");
        if !Path::new(&self.config.kubeconfig).exists()
            && let Ok(token) = kubeconfig::token_file(&mounted, &kubeconfig::read_file)
        {
            self.api.set_token(Cluster::Home, token);
            self.token = Some(now.mono + MOUNTED_AGAIN);
            return;
        }
        let body = format!(r#"{{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{{"expirationSeconds":{TOKEN_LIFE}}}}}"#);
        let path = "/api/v1/namespaces/sluice/serviceaccounts/sluice/token".to_owned();
        let call = Call { to: Cluster::Home, verb: Verb::Create, path, body: Body::Json(body) };
        self.api.call(Caller::Token, call, self.mailboxes.replies.0.clone());
        self.renewing = true;
    }

    fn token_came(&mut self, reply: Reply, now: Now) {
        self.renewing = false;
        match reply {
            Reply::Done(body) => match setup::read_minted(&body) {
                Ok(minted) => {
                    self.token = Some(now.mono + Duration::from_secs(minted.seconds) * 2 / 3);
                    self.api.set_token(Cluster::Home, minted.token);
                    self.known.token = None;
                }
                Err(why) => log!(Warn, "api", "{why}"),
            },
            // It expired while the API server was away, or its account was deleted: only the administrator's credential is left.
            Reply::Unauthorized => {
                log!(Warn, "api", "the daemon's own account is not accepted any more; the cluster is got ready again");
                self.known.token = Some("its account is not accepted any more; the cluster is got ready again".to_owned());
                self.prepare();
            }
            other => {
                let why = crate::cli::admin::explain("its renewal", &other);
                log!(Warn, "api", "the daemon's own token could not be renewed, trying again: {why}");
                self.known.token = Some(why);
            }
        }
    }
}

/// What an operator wants to see of a peering.
fn log_progress(peer: PeerId, progress: &Progress) {
    match progress {
        Progress::Linked => log!(Info, "peering", "the peering in row {} is linked", peer.0),
        Progress::Failed(refusal) => log!(Warn, "peering", "the join in row {} failed: {}", peer.0, refusal.message),
        Progress::Left { told } => log!(Info, "peering", "the peering in row {} is left; the peer {}", peer.0, if *told { "knows" } else { "will be told" }),
        other => log!(Debug, "peering", "row {}: {other:?}", peer.0),
    }
}

fn log_event(event: &AgentEvent) {
    match event {
        AgentEvent::NodeReady { peer } => log!(Info, "offload", "the virtual node of row {} is ready", peer.0),
        AgentEvent::NodeTaken { peer, node } => {
            log!(Warn, "offload", "a node {node} is there that is not ours; it is left alone, and row {} has no virtual node", peer.0);
        }
        AgentEvent::Full { what } => log!(Warn, "offload", "no room: {what}"),
        AgentEvent::Trouble { what } => log!(Warn, "offload", "{what}"),
        other => log!(Debug, "offload", "{other:?}"),
    }
}
