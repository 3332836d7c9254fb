//! Two authorities face to face: the questions of one are requests of the other, the network, the disk and the API server are a few lines of memory.

use super::endpoint::Endpoint;
use super::issue::Account;
use super::keys;
use super::ledger::{Debt, Ledger, TicketState};
use super::refusal::Reason;
use super::resources::Resources;
use super::status::Phase;
use super::*;
use crate::clock::{Instant, Now, WallTime};
use crate::identity::{ClusterId, PeerId, Prefix, PublicKey};
use crate::kube::call::{Call, Verb};
use crate::kube::reply::Reply;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

const HUB: usize = 0;
const EDGE: usize = 1;
const LENT: Resources = Resources { cpu: 4000, memory: 8192, pods: 110 };
const SMALL: Resources = Resources { cpu: 1000, memory: 512, pods: 9 };

struct Side {
    auth: Authority,
    facts: Facts,
    file: String,
    writes: u32,
    sessions: BTreeMap<PeerId, (AddPeer, bool)>,
    asks: Vec<(AskId, PeerId, &'static str, String, String)>,
    requests: BTreeMap<RequestId, (usize, AskId)>,
    api: BTreeMap<String, String>,
    api_down: bool,
    disk_full: bool,
    log: Vec<Event>,
}

struct World {
    now: Now,
    sides: [Side; 2],
    cut: bool,
    lose_answers: u32,
    number: u32,
}

fn id(text: &str) -> ClusterId {
    text.parse().expect("id")
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("prefix")
}

fn facts() -> Facts {
    Facts {
        pods: vec![prefix("10.42.0.0/16")],
        in_use: vec![prefix("10.43.0.0/16"), prefix("192.168.1.0/24")],
        addresses: vec![[192, 168, 1, 7].into()],
        nodes: vec!["node-1".into()],
        architecture: "arm64".into(),
        ca: "-----BEGIN CERTIFICATE-----\nx\n".into(),
        api_name: "kubernetes".into(),
        boot: "boot-1".into(),
        account: Account { namespace: "sluice".into(), name: "sluice".into() },
    }
}

fn address(side: usize) -> SocketAddr {
    ([203, 0, 113, side as u8 + 10], 51820).into()
}

impl Side {
    fn new(name: &str, key: u8, now: Now) -> Side {
        let ledger = Ledger::new(id(name), keys::clamp([key; 32]));
        let file = ledger.snapshot();
        Side {
            auth: Authority::new(ledger, facts(), now).expect("starts"),
            facts: facts(),
            file,
            writes: 0,
            sessions: BTreeMap::new(),
            asks: Vec::new(),
            requests: BTreeMap::new(),
            api: BTreeMap::new(),
            api_down: false,
            disk_full: false,
            log: Vec::new(),
        }
    }

    fn own_key(&self, session: &AddPeer) -> PublicKey {
        session.secret.as_ref().map_or(self.auth.ledger().public(), keys::public_of)
    }

    fn call(&mut self, call: &Call) -> Reply {
        if self.api_down {
            return Reply::Unreachable("refused".into());
        }
        let crate::kube::call::Body::Json(body) = &call.body else {
            return match (call.verb, self.api.get(&call.path).cloned()) {
                (Verb::Get, Some(body)) => Reply::Done(body.into()),
                (Verb::Delete, Some(_)) => self.remove(&call.path),
                _ => Reply::NotFound,
            };
        };
        match call.verb {
            Verb::Delete => self.remove(&call.path),
            Verb::Create if call.path.ends_with("/token") => {
                let account = call.path.trim_end_matches("/token");
                if !self.api.contains_key(account) {
                    return Reply::NotFound;
                }
                self.writes += 1;
                Reply::Done(format!(r#"{{"spec":{{"expirationSeconds":3600}},"status":{{"token":"t{}"}}}}"#, self.writes).into())
            }
            Verb::Create => {
                let object: serde_json::Value = serde_json::from_str(body).expect("JSON");
                let name = object["metadata"]["name"].as_str().expect("a name");
                let tenant = object["metadata"]["namespace"].as_str().unwrap_or(name).to_string();
                if tenant != name && !self.api.contains_key(&format!("/api/v1/namespaces/{tenant}")) {
                    return Reply::NotFound;
                }
                let path = format!("{}/{name}", call.path);
                if self.api.contains_key(&path) {
                    return Reply::Conflict;
                }
                let peer = tenant.trim_start_matches("liqo-tenant-");
                let made = format!(r#"{{"metadata":{{"uid":"u-{peer}","labels":{{"sluice.internal/managed":"true","liqo.io/remote-cluster-id":"{peer}"}}}}}}"#);
                self.api.insert(path, made.clone());
                Reply::Done(made.into())
            }
            _ => Reply::NotFound,
        }
    }

    fn remove(&mut self, path: &str) -> Reply {
        let before = self.api.len();
        let inside = format!("/{}/", path.trim_start_matches("/api/v1/"));
        self.api.retain(|p, _| p != path && !p.contains(&inside));
        if self.api.len() == before { Reply::NotFound } else { Reply::Done(b"{}".to_vec()) }
    }
}

impl World {
    fn new() -> World {
        let now = Now { mono: Instant::from_boot(Duration::from_secs(100)), wall: WallTime(1_795_498_593) };
        World { now, sides: [Side::new("hub", 1, now), Side::new("edge", 2, now)], cut: false, lose_answers: 0, number: 0 }
    }

    /// Does one thing that can be done; false if all is at rest.
    fn step(&mut self) -> bool {
        (0..2).any(|side| self.step_of(side))
    }

    fn step_of(&mut self, side: usize) -> bool {
        let now = self.now;
        let this = &mut self.sides[side];
        if let Some(text) = this.auth.unsaved() {
            if this.disk_full {
                this.auth.saved(Err("No space left on device".into()), now);
            } else {
                this.file = text;
                this.auth.saved(Ok(()), now);
            }
            return true;
        }
        if let Some(event) = this.auth.poll_event() {
            self.carry_out(side, event);
            return true;
        }
        if let Some((number, call)) = this.auth.poll_call() {
            let reply = this.call(&call);
            this.auth.handle_reply(number, reply, now);
            return true;
        }
        let waiting = this.sessions.iter().find(|(_, (s, up))| !up && s.initiate).map(|(row, _)| *row);
        if !self.cut
            && let Some(row) = waiting
            && self.shake(side, row)
        {
            return true;
        }
        if !self.sides[side].asks.is_empty() {
            let (ask, row, path, bearer, body) = self.sides[side].asks.remove(0);
            self.deliver(side, ask, row, path, &bearer, &body);
            return true;
        }
        false
    }

    fn carry_out(&mut self, side: usize, event: Event) {
        let this = &mut self.sides[side];
        match &event {
            Event::AddPeer(session) => {
                this.sessions.insert(session.id, ((**session).clone(), false));
            }
            Event::RemovePeer(row) => {
                this.sessions.remove(row);
            }
            Event::Ask { ask, peer, path, bearer, body } => this.asks.push((*ask, *peer, path, bearer.clone(), body.clone())),
            Event::Answer { request, status, body } => {
                if let Some((asker, ask)) = this.requests.remove(request) {
                    let lost = self.cut || self.lose_answers > 0;
                    self.lose_answers = self.lose_answers.saturating_sub(1);
                    let answer = if lost { Err("the connection was cut".into()) } else { Ok((*status, body.clone().into_bytes())) };
                    self.sides[asker].auth.handle_answer(ask, answer, self.now);
                }
            }
            _ => {}
        }
        self.sides[side].log.push(event);
    }

    /// The row at the other side that the session in `row` ends in; the gateway's question about a stranger included.
    fn far_row(&mut self, side: usize, row: PeerId) -> Option<PeerId> {
        let this = &self.sides[side];
        let (session, _) = this.sessions.get(&row)?;
        let (own, theirs) = (this.own_key(session), session.public_key);
        let far = &mut self.sides[1 - side];
        let found = far.sessions.iter().find(|(_, (s, _))| s.public_key == own && far.own_key(s) == theirs).map(|(row, _)| *row);
        if found.is_some() || far.auth.ledger().public() != theirs {
            return found;
        }
        let added = far.auth.stranger(own, self.now)?;
        let row = added.id;
        far.sessions.insert(row, (added, false));
        Some(row)
    }

    fn shake(&mut self, side: usize, row: PeerId) -> bool {
        let Some(far) = self.far_row(side, row) else { return false };
        for (side, row) in [(side, row), (1 - side, far)] {
            let this = &mut self.sides[side];
            if let Some((_, up)) = this.sessions.get_mut(&row)
                && !std::mem::replace(up, true)
            {
                this.auth.handle_session_up(row, address(1 - side), self.now);
            }
        }
        true
    }

    fn deliver(&mut self, side: usize, ask: AskId, row: PeerId, path: &str, bearer: &str, body: &str) {
        let far = if self.cut { None } else { self.far_row(side, row) };
        let Some(far_row) = far else {
            return self.sides[side].auth.handle_answer(ask, Err("no answer".into()), self.now);
        };
        self.number += 1;
        let far = &mut self.sides[1 - side];
        far.requests.insert(RequestId(self.number), (side, ask));
        let from = far.auth.external().control(far_row);
        let request = Request { from, method: "POST", path, bearer: Some(bearer), body: body.as_bytes() };
        far.auth.handle_request(RequestId(self.number), &request, self.now);
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.step() {
                return;
            }
        }
        panic!("it spins");
    }

    /// Lets this much time pass, timer by timer.
    fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        for _ in 0..200_000 {
            self.settle();
            let next = self.sides.iter().filter_map(|s| s.auth.poll_timeout()).min().unwrap_or(end);
            assert!(next > self.now.mono, "a timer that has fired stays due: {next:?}");
            self.move_to(next.min(end));
            if self.now.mono == end {
                return self.settle();
            }
        }
        panic!("too many timers");
    }

    fn move_to(&mut self, to: Instant) {
        let by = to.since(self.now.mono);
        self.now = Now { mono: to, wall: WallTime(self.now.wall.0 + by.as_secs() as i64) };
        for side in &mut self.sides {
            if side.auth.poll_timeout().is_some_and(|at| at <= to) {
                side.auth.handle_timeout(self.now);
            }
        }
    }

    fn restart(&mut self, side: usize) {
        let this = &mut self.sides[side];
        let ledger = Ledger::parse(this.file.as_bytes()).expect("the file that was written");
        this.auth = Authority::new(ledger, this.facts.clone(), self.now).expect("starts");
        this.sessions.clear();
        this.asks.clear();
        let open: Vec<(usize, AskId)> = std::mem::take(&mut this.requests).into_values().collect();
        for (asker, ask) in open {
            self.sides[asker].auth.handle_answer(ask, Err("reset".into()), self.now);
        }
        let far = &mut self.sides[1 - side];
        far.requests.clear();
        // Whoever sends keepalives finds out, and shakes hands anew.
        far.sessions.values_mut().for_each(|(session, up)| *up &= session.keepalive.is_none());
    }

    fn invite(&mut self, offer: Option<Resources>, ask: bool, replace: bool) -> String {
        self.number += 1;
        let endpoints = vec![Endpoint::Address(address(HUB))];
        let order = InviteOrder { endpoints, offer, ask, replace, life: Duration::from_secs(900), secret: [self.number as u8 + 100; 16] };
        self.sides[HUB].auth.invite(order, self.now).expect("a ticket").line
    }

    fn join(&mut self, line: &str, provide: Option<Resources>) -> PeerId {
        let order = JoinOrder { line: line.into(), consume: true, provide, replace: false };
        self.sides[EDGE].auth.join(order, self.now).expect("begins").0
    }

    fn peered(offer: Option<Resources>, ask: bool, provide: Option<Resources>) -> World {
        let mut world = World::new();
        let line = world.invite(offer, ask, false);
        world.join(&line, provide);
        world.pass(Duration::from_secs(5));
        world
    }

    fn linked(&self) -> bool {
        self.sides.iter().all(|s| matches!(&s.auth.status(self.now).peers[..], [p] if p.phase == Phase::Linked))
    }

    fn progress(&self, side: usize) -> Vec<&Progress> {
        self.sides[side].log.iter().filter_map(|e| if let Event::Progress(_, p) = e { Some(p) } else { None }).collect()
    }

    fn failures(&self, side: usize) -> Vec<Reason> {
        self.progress(side).into_iter().filter_map(|p| if let Progress::Failed(r) = p { Some(r.reason) } else { None }).collect()
    }

    fn credentials(&self, side: usize) -> usize {
        self.sides[side].log.iter().filter(|e| matches!(e, Event::Credential { .. })).count()
    }

    fn gone(&self, side: usize) -> usize {
        self.sides[side].log.iter().filter(|e| matches!(e, Event::Gone { .. })).count()
    }

    /// What must hold at any time.
    fn check(&self) {
        for side in &self.sides {
            let stored = Ledger::parse(side.file.as_bytes()).expect("a good file");
            let used = stored.tickets.iter().filter_map(|t| if let TicketState::Used(by) = t.state { Some(by) } else { None });
            for by in used {
                let known = stored.peers.iter().any(|p| p.key == by) || stored.left.iter().any(|l| l.key == by);
                assert!(known, "a ticket is burnt for nobody");
            }
            assert!(stored.peers.len() <= 1);
        }
    }
}

#[test]
fn one_line_joins_two_clusters() {
    let world = World::peered(Some(LENT), false, None);
    assert!(world.linked());
    let edge = &world.sides[EDGE].auth.status(world.now).peers[0];
    assert_eq!((edge.cluster.as_str(), edge.consume, edge.provide), ("hub", Some(LENT), None));
    let transit = (prefix("10.70.128.0/17"), prefix("10.72.0.0/17"));
    assert_eq!(edge.images, [(prefix("10.42.0.0/16"), prefix("10.71.0.0/16")), transit]);
    assert_eq!(edge.seen_as, edge.images);
    assert_eq!(edge.credential, Some((Duration::from_secs(2395), Duration::from_secs(3595))));
    let hub = &world.sides[HUB].auth.status(world.now).peers[0];
    assert_eq!((hub.cluster.as_str(), hub.consume, hub.provide), ("edge", None, Some(LENT)));
    assert_eq!(hub.seen_as, hub.images);
    let names: Vec<&str> = world
        .progress(EDGE)
        .iter()
        .map(|p| match p {
            Progress::TunnelUp { .. } => "tunnel",
            Progress::Greeted { behind_nat: Some(true), .. } => "greeted behind nat",
            Progress::Enrolled { .. } => "enrolled",
            Progress::Credential => "credential",
            Progress::Linked => "linked",
            _ => "other",
        })
        .collect();
    assert_eq!(names, ["tunnel", "greeted behind nat", "enrolled", "credential", "linked"]);
    assert!(
        world.sides[EDGE]
            .log
            .iter()
            .any(|e| matches!(e, Event::Provider { tenant, virtual_node, .. } if tenant == "liqo-tenant-edge" && *virtual_node == Ipv4Addr::new(10, 70, 3, 1)))
    );
    assert!(world.sides[HUB].log.iter().any(|e| matches!(e, Event::Consumer { tenant, .. } if tenant == "liqo-tenant-edge")));
    assert_eq!(world.sides[HUB].auth.ledger().peers[0].tenant.as_deref(), Some("u-edge"));
}

#[test]
fn both_directions_can_be_on_and_each_end_gets_its_credential() {
    let world = World::peered(Some(LENT), true, Some(SMALL));
    assert!(world.linked());
    assert_eq!((world.credentials(HUB), world.credentials(EDGE)), (1, 1));
    let hub = &world.sides[HUB].auth.status(world.now).peers[0];
    assert_eq!((hub.consume, hub.provide), (Some(SMALL), Some(LENT)));
}

#[test]
fn what_one_side_alone_wants_is_not_on() {
    for (offer, ask, provide) in [(None, false, Some(SMALL)), (None, true, None), (None, false, None)] {
        let world = World::peered(offer, ask, provide);
        assert!(world.linked());
        let (hub, edge) = (&world.sides[HUB].auth.status(world.now).peers[0], &world.sides[EDGE].auth.status(world.now).peers[0]);
        assert_eq!((hub.consume, hub.provide, edge.consume, edge.provide), (None, None, None, None));
        assert_eq!(world.credentials(HUB) + world.credentials(EDGE), 0);
    }
    let world = World::peered(None, true, Some(SMALL));
    assert_eq!((world.credentials(HUB), world.credentials(EDGE)), (1, 0));
}

#[test]
fn a_join_survives_any_answer_that_is_lost() {
    for lost in 1..=6 {
        let mut world = World::new();
        let line = world.invite(Some(LENT), true, false);
        world.lose_answers = lost;
        world.join(&line, Some(SMALL));
        world.pass(Duration::from_secs(60));
        assert!(world.linked(), "{lost}");
        assert_eq!(world.sides[HUB].auth.ledger().peers.len(), 1);
        world.check();
    }
}

#[test]
fn a_join_survives_a_restart_of_either_side_at_any_moment() {
    for side in [HUB, EDGE] {
        for moment in 0..80 {
            let mut world = World::new();
            let line = world.invite(Some(LENT), true, false);
            // The ticket counts once it is on disk.
            world.settle();
            world.join(&line, Some(SMALL));
            // So does the join.
            let stored = |w: &World| Ledger::parse(w.sides[EDGE].file.as_bytes()).is_ok_and(|l| !l.joins.is_empty() || !l.peers.is_empty());
            while !stored(&world) {
                assert!(world.step());
            }
            let mut rested = false;
            for _ in 0..moment {
                rested = !world.step();
                world.check();
            }
            world.restart(side);
            world.pass(Duration::from_secs(90));
            world.check();
            assert!(world.linked(), "side {side} at {moment}: {:?} {:?}", world.progress(EDGE), world.sides[HUB].auth.ledger().tickets);
            if rested {
                break;
            }
        }
    }
}

#[test]
fn while_the_inviters_api_server_is_down_the_joiner_waits_and_then_gets_in() {
    let mut world = World::new();
    world.sides[HUB].api_down = true;
    let line = world.invite(Some(LENT), false, false);
    world.join(&line, None);
    world.pass(Duration::from_secs(120));
    assert!(world.sides[EDGE].auth.ledger().peers.is_empty());
    assert!(world.progress(EDGE).iter().any(|p| matches!(p, Progress::Retrying(why) if why.contains("API server"))));
    world.sides[HUB].api_down = false;
    world.pass(Duration::from_secs(40));
    assert!(world.linked());
}

#[test]
fn a_full_disk_undoes_the_step_and_the_joiner_gets_in_when_there_is_room() {
    for side in [HUB, EDGE] {
        let mut world = World::new();
        let line = world.invite(Some(LENT), false, false);
        world.settle();
        world.join(&line, None);
        while !world.sides[EDGE].file.contains("sluice1:") {
            assert!(world.step());
        }
        world.sides[side].disk_full = true;
        world.pass(Duration::from_secs(30));
        assert!(world.sides[side].auth.ledger().peers.is_empty(), "nothing has changed");
        assert!(!world.sides[side].log.iter().any(|e| matches!(e, Event::Consumer { .. } | Event::Provider { .. })));
        world.check();
        world.sides[side].disk_full = false;
        world.pass(Duration::from_secs(60));
        assert!(world.linked(), "{side}");
    }
}

#[test]
fn a_join_whose_end_cannot_be_written_ends_when_there_is_room() {
    for answered in [true, false] {
        let mut world = World::new();
        world.cut = !answered;
        let line = world.invite(Some(LENT), false, false);
        world.settle();
        world.pass(Duration::from_secs(4000));
        world.join(&line, None);
        while !world.sides[EDGE].file.contains("sluice1:") {
            assert!(world.step());
        }
        world.sides[EDGE].disk_full = true;
        world.pass(Duration::from_secs(4000));
        assert!(world.failures(EDGE).is_empty(), "nothing is said to be over that would begin again with a restart");
        assert_eq!(world.sides[EDGE].auth.ledger().joins.len(), 1);
        world.sides[EDGE].disk_full = false;
        world.pass(Duration::from_secs(60));
        assert_eq!(world.failures(EDGE), [if answered { Reason::Expired } else { Reason::NoAnswer }]);
        assert!(world.sides[EDGE].auth.ledger().joins.is_empty() && world.sides[EDGE].sessions.is_empty());
    }
}

#[test]
fn a_write_that_failed_is_tried_again_after_ten_seconds_and_not_at_once() {
    let mut now = World::new().now;
    let mut side = Side::new("hub", 1, now);
    let mut tries = 0;
    for _ in 0..600 {
        side.auth.handle_timeout(now);
        if side.auth.unsaved().is_some() {
            side.auth.saved(Err("No space left on device".into()), now);
            tries += 1;
        }
        now.mono = now.mono + Duration::from_millis(100);
    }
    assert!((5..=7).contains(&tries), "{tries} tries in a minute");
}

#[test]
fn a_ticket_is_good_for_one_cluster() {
    let mut world = World::new();
    let line = world.invite(Some(LENT), false, false);
    world.join(&line, None);
    world.pass(Duration::from_secs(5));
    assert!(world.linked());
    // Another cluster with the same line, while the enrolment's session still stands and after it.
    for wait in [0, 120] {
        world.pass(Duration::from_secs(wait));
        world.sides[EDGE] = Side::new("other", 3, world.now);
        world.join(&line, None);
        world.pass(Duration::from_secs(5));
        assert_eq!(world.failures(EDGE), [Reason::Used]);
        assert!(world.sides[EDGE].auth.ledger().joins.is_empty() && world.sides[EDGE].sessions.is_empty());
        assert_eq!(world.sides[HUB].auth.ledger().peers[0].id, id("edge"));
    }
}

#[test]
fn a_ticket_ends_by_the_inviters_monotonic_clock_or_with_its_boot() {
    let mut world = World::new();
    let line = world.invite(Some(LENT), false, false);
    world.pass(Duration::from_secs(901));
    world.join(&line, None);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.failures(EDGE), [Reason::Expired]);

    let mut world = World::new();
    let line = world.invite(Some(LENT), false, false);
    world.settle();
    world.sides[HUB].facts.boot = "boot-2".into();
    world.restart(HUB);
    world.join(&line, None);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.failures(EDGE), [Reason::Expired]);

    let mut world = World::new();
    let line = world.invite(Some(LENT), false, false);
    // The wall clock jumps by a year: nothing to the ticket.
    world.now.wall.0 += 365 * 86_400;
    world.join(&line, None);
    world.pass(Duration::from_secs(5));
    assert!(world.linked());
}

#[test]
fn without_a_ticket_there_is_silence() {
    let mut world = World::new();
    assert_eq!(world.sides[HUB].auth.stranger(PublicKey([9; 32]), world.now), None);
    world.invite(None, false, false);
    assert_eq!(world.sides[HUB].auth.stranger(keys::public_of(&keys::clamp([8; 32])), world.now), None);
}

#[test]
fn our_own_ticket_and_nonsense_do_not_begin_a_join() {
    let mut world = World::new();
    let line = world.invite(None, false, false);
    let order = |line: &str| JoinOrder { line: line.into(), consume: true, provide: None, replace: false };
    assert_eq!(world.sides[HUB].auth.join(order(&line), world.now).unwrap_err(), CannotJoin::Own);
    assert!(matches!(world.sides[EDGE].auth.join(order(&line[..40]), world.now), Err(CannotJoin::Ticket(_))));
    world.join(&line, None);
    assert_eq!(world.sides[EDGE].auth.join(order(&line), world.now).unwrap_err(), CannotJoin::UnderWay);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.sides[EDGE].auth.join(order(&line), world.now).unwrap_err(), CannotJoin::Peered(id("hub")));
}

#[test]
fn an_id_that_is_taken_is_refused_and_can_be_replaced_on_purpose() {
    let mut world = World::peered(Some(LENT), false, None);
    world.sides[EDGE] = Side::new("edge", 7, world.now);
    let line = world.invite(Some(LENT), false, false);
    world.join(&line, None);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.failures(EDGE), [Reason::IdTaken]);
    let line = world.invite(Some(LENT), false, true);
    world.join(&line, None);
    world.pass(Duration::from_secs(5));
    assert!(!world.linked(), "the agent has not cleaned up yet");
    assert_eq!(world.gone(HUB), 1);
    for owed in world.sides[HUB].auth.owed().to_vec() {
        assert_eq!(owed.what, Debt::Consumer, "the tenant namespace is taken back by the authority itself");
        world.sides[HUB].auth.settle_all(owed.what, &owed.cluster);
    }
    world.pass(Duration::from_secs(30));
    assert!(world.linked());
    assert_eq!(world.sides[HUB].auth.ledger().peers[0].key, world.sides[EDGE].auth.ledger().public());
}

#[test]
fn the_joiner_judges_the_inviter_too_and_the_ticket_stays_good() {
    let mut world = World::new();
    world.sides[EDGE].facts.nodes.push("hub".into());
    world.restart(EDGE);
    let line = world.invite(Some(LENT), false, false);
    world.join(&line, None);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.failures(EDGE), [Reason::IdIsNode]);
    assert_eq!(world.sides[HUB].auth.ledger().tickets[0].state, TicketState::Open);
}

#[test]
fn a_credential_is_renewed_at_two_thirds_of_its_life_and_at_once_when_refused() {
    let mut world = World::peered(Some(LENT), false, None);
    world.pass(Duration::from_secs(2390));
    assert_eq!(world.credentials(EDGE), 1);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.credentials(EDGE), 2);
    world.pass(Duration::from_secs(60));
    let row = PeerId(0);
    for _ in 0..10 {
        world.sides[EDGE].auth.credential_refused(row, world.now);
        world.settle();
    }
    assert_eq!(world.credentials(EDGE), 3, "at once, but not ten times at once");
    world.pass(Duration::from_secs(6));
    assert_eq!(world.credentials(EDGE), 4);
    // After a restart there is none, and it comes by itself.
    world.restart(EDGE);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.credentials(EDGE), 5);
    // The account was removed by somebody: it is made again.
    world.sides[HUB].api.clear();
    world.pass(Duration::from_secs(2405));
    assert_eq!(world.credentials(EDGE), 6);
}

#[test]
fn leaving_tells_the_peer_and_takes_the_credential_back() {
    for leaver in [HUB, EDGE] {
        let mut world = World::peered(Some(LENT), true, Some(SMALL));
        assert!(world.sides[HUB].api.keys().any(|p| p.contains("liqo-tenant-edge")));
        let other = if leaver == HUB { id("edge") } else { id("hub") };
        assert!(world.sides[leaver].auth.unpeer(&other, world.now).is_some());
        world.pass(Duration::from_secs(40));
        for side in [HUB, EDGE] {
            assert_eq!(world.gone(side), 1);
            assert!(world.sides[side].sessions.is_empty() && world.sides[side].auth.ledger().peers.is_empty());
            assert!(world.sides[side].api.is_empty(), "{:?}", world.sides[side].api);
            assert!(world.sides[side].auth.ledger().left.iter().all(|l| l.told));
            assert!(world.sides[side].auth.owed().iter().all(|o| o.what != Debt::Tenant));
        }
        assert!(world.progress(leaver).iter().any(|p| **p == Progress::Left { told: true }));
    }
}

#[test]
fn leaving_finishes_with_the_peer_away_and_the_peer_hears_it_when_it_is_back() {
    for leaver in [HUB, EDGE] {
        let mut world = World::peered(Some(LENT), false, None);
        world.cut = true;
        for side in &mut world.sides {
            side.sessions.values_mut().for_each(|(_, up)| *up = false);
        }
        let other = if leaver == HUB { id("edge") } else { id("hub") };
        world.sides[leaver].auth.unpeer(&other, world.now);
        world.pass(Duration::from_secs(30));
        assert!(world.progress(leaver).iter().any(|p| **p == Progress::Left { told: false }));
        assert!(world.sides[leaver].auth.ledger().peers.is_empty());
        assert_eq!(world.gone(1 - leaver), 0);
        // The leaver restarts meanwhile; days go by.
        world.restart(leaver);
        world.pass(Duration::from_secs(2 * 86_400));
        world.cut = false;
        world.restart(1 - leaver);
        world.pass(Duration::from_secs(1000));
        assert_eq!(world.gone(1 - leaver), 1, "leaver {leaver}");
        assert!(world.sides[1 - leaver].auth.ledger().peers.is_empty());
        assert!(world.sides[leaver].auth.ledger().left.iter().all(|l| l.told), "leaver {leaver}");
    }
}

#[test]
fn a_farewell_makes_room_for_a_new_peering_with_the_same_peer() {
    let mut world = World::peered(None, false, None);
    // Both leave, and neither hears of it from the other.
    world.cut = true;
    world.sides[EDGE].auth.unpeer(&id("hub"), world.now);
    world.sides[HUB].auth.unpeer(&id("edge"), world.now);
    world.pass(Duration::from_secs(1));
    world.cut = false;
    let line = world.invite(Some(LENT), false, false);
    world.join(&line, None);
    for _ in 0..50 {
        world.pass(Duration::from_millis(100));
        for side in &world.sides {
            let keys: Vec<_> = side.auth.lines.iter().flatten().map(|l| l.key).collect();
            assert!(keys.iter().enumerate().all(|(at, key)| !keys[..at].contains(key)), "a gateway holds one session a key");
        }
    }
    assert!(world.linked());
}

#[test]
fn after_leaving_a_new_ticket_joins_them_again() {
    let mut world = World::peered(Some(LENT), false, None);
    world.sides[EDGE].auth.unpeer(&id("hub"), world.now);
    world.pass(Duration::from_secs(40));
    for side in [HUB, EDGE] {
        for owed in world.sides[side].auth.owed().to_vec() {
            world.sides[side].auth.settle_all(owed.what, &owed.cluster);
        }
    }
    let line = world.invite(Some(LENT), false, false);
    world.join(&line, None);
    world.pass(Duration::from_secs(5));
    assert!(world.linked());
    assert!(world.sides.iter().all(|s| s.auth.ledger().left.is_empty()));
}

fn ask(world: &mut World, from: Ipv4Addr, bearer: Option<&str>, method: &str, path: &str, body: &str) -> Result<u16, PeerId> {
    world.number += 1;
    let hub = &mut world.sides[HUB].auth;
    hub.handle_request(RequestId(world.number), &Request { from, method, path, bearer, body: body.as_bytes() }, world.now);
    let mut answer = None;
    while let Some(event) = hub.poll_event() {
        match event {
            Event::Answer { status, .. } => answer = Some(Ok(status)),
            Event::Passage { peer, .. } => answer = Some(Err(peer)),
            _ => {}
        }
    }
    answer.expect("an answer")
}

#[test]
fn only_a_proved_peer_gets_further_than_401() {
    let mut world = World::peered(Some(LENT), false, None);
    let hub = world.sides[HUB].auth.ledger();
    let edge_secret = world.sides[EDGE].auth.ledger().secret.clone();
    let (good, wrong_way) = bearer::Bearer::pair(&edge_secret, &keys::public_of(&edge_secret), &hub.public()).expect("keys");
    let (good, wrong_way) = (good.text(), wrong_way.text());
    let row = hub.peers[0].row;
    let from = world.sides[HUB].auth.external().control(row);
    let elsewhere = world.sides[HUB].auth.external().node(row);
    assert_eq!(ask(&mut world, from, Some(&good), "CONNECT", "10.0.0.1:22", ""), Err(row));
    for (from, shown) in [(from, None), (from, Some("")), (from, Some(wrong_way.as_str())), (elsewhere, Some(&good)), (Ipv4Addr::LOCALHOST, Some(&good))] {
        for (method, path) in [("CONNECT", "x"), ("POST", request::CREDENTIAL), ("POST", request::LEAVE), ("GET", "/nonsense")] {
            assert_eq!(ask(&mut world, from, shown, method, path, "{}"), Ok(401));
        }
    }
    assert_eq!(world.sides[HUB].auth.refusals().find(|(name, _)| *name == "unauthenticated"), Some(("unauthenticated", 20)));
    for (method, path, body, status) in [
        ("GET", request::HELLO, "", 405),
        ("POST", "/admin", "", 404),
        ("POST", request::HELLO, "[]", 400),
        ("POST", request::ENROL, "{}", 400),
        ("POST", request::HELLO, r#"{"min":7,"max":9,"id":"edge","prefixes":[],"time":0}"#, 426),
        ("POST", request::HELLO, r#"{"min":1,"max":1,"id":"other","prefixes":[],"time":0}"#, 409),
    ] {
        assert_eq!(ask(&mut world, from, Some(&good), method, path, body), Ok(status), "{path} {body}");
    }
    assert!(world.linked(), "and nothing has changed");
}

#[test]
fn a_peer_to_which_nothing_was_granted_gets_neither_passage_nor_credential() {
    let mut world = World::peered(None, false, None);
    let secret = world.sides[EDGE].auth.ledger().secret.clone();
    let hub = world.sides[HUB].auth.ledger();
    let good = bearer::Bearer::pair(&secret, &keys::public_of(&secret), &hub.public()).expect("keys").0.text();
    let from = world.sides[HUB].auth.external().control(hub.peers[0].row);
    assert_eq!(ask(&mut world, from, Some(&good), "CONNECT", "x", ""), Ok(403));
    assert_eq!(ask(&mut world, from, Some(&good), "POST", request::CREDENTIAL, ""), Ok(403));
}

#[test]
fn who_claims_a_key_without_holding_it_is_refused() {
    let mut world = World::new();
    let line = world.invite(Some(LENT), false, false);
    world.settle();
    let enrolment = ticket::Ticket::read(&line).expect("reads").enrolment();
    let hub = world.sides[HUB].auth.ledger().public();
    let session = world.sides[HUB].auth.stranger(enrolment.public, world.now).expect("a session");
    assert_eq!((session.purpose, session.node, session.preshared), (Purpose::Enrolment, None, Some(enrolment.preshared)));
    let (good, _) = bearer::Bearer::pair(&enrolment.secret, &enrolment.public, &hub).expect("keys");
    let victim = keys::clamp([77; 32]);
    let claim = request::Enrol {
        version: 1,
        id: id("victim"),
        key: keys::public_of(&victim),
        proof: good.text(),
        prefixes: vec![prefix("10.42.0.0/16")],
        architecture: String::new(),
        consume: true,
        provide: None,
    };
    for (path, body, status) in [
        (request::ENROL, claim.body(), 403),
        (request::ENROL, request::Enrol { key: PublicKey([0; 32]), ..claim.clone() }.body(), 403),
        (request::ENROL, request::Enrol { version: 2, ..claim.clone() }.body(), 426),
        (request::CREDENTIAL, "{}".into(), 403),
        (request::LEAVE, "{}".into(), 403),
    ] {
        assert_eq!(ask(&mut world, session.control.1, Some(&good.text()), "POST", path, &body), Ok(status), "{path}");
    }
    assert_eq!(ask(&mut world, session.control.1, Some(&good.text()), "CONNECT", "x", ""), Ok(403));
    let (proof, _) = bearer::Bearer::pair(&victim, &claim.key, &hub).expect("keys");
    let public = request::Enrol { proof: proof.text(), prefixes: vec![prefix("8.8.0.0/16")], ..claim };
    assert_eq!(ask(&mut world, session.control.1, Some(&good.text()), "POST", request::ENROL, &public.body()), Ok(422));
    assert_eq!(world.sides[HUB].auth.ledger().tickets[0].state, TicketState::Open);
}

#[test]
fn farewells_are_few_and_short_and_do_not_disturb_enrolments() {
    let mut world = World::new();
    let mut tickets = Vec::new();
    for _ in 0..8 {
        let line = world.invite(None, false, false);
        tickets.push(ticket::Ticket::read(&line).expect("reads").enrolment().public);
    }
    let rows: Vec<_> = tickets[..5].iter().map(|t| world.sides[HUB].auth.stranger(*t, world.now).map(|a| a.id)).collect();
    assert_eq!(rows.iter().flatten().count(), ENROLMENTS, "the fifth waits");
    world.pass(Duration::from_secs(61));
    assert!(world.sides[HUB].auth.stranger(tickets[4], world.now).is_some(), "and gets in when one has gone");
    world.pass(Duration::from_secs(900));
    let farewells: Vec<_> = tickets.iter().map(|t| world.sides[HUB].auth.stranger(*t, world.now).map(|a| a.id)).collect();
    assert_eq!(farewells.iter().flatten().count(), 8, "each gets one, the oldest goes");
    world.settle();
    let alive = world.sides[HUB].log.iter().rev().take_while(|e| matches!(e, Event::RemovePeer(_))).count();
    assert!(alive >= 4);
    world.pass(Duration::from_secs(31));
    assert_eq!(world.sides[HUB].auth.poll_event(), None);
}

#[test]
fn a_leave_that_could_not_be_written_leaves_the_images_where_they_are() {
    let mut world = World::peered(Some(LENT), false, Some(LENT));
    let hub = &mut world.sides[HUB];
    let (row, images) = (hub.auth.ledger().peers[0].row, hub.auth.ledger().peers[0].images.clone());
    hub.disk_full = true;
    assert!(hub.auth.unpeer(&id("edge"), world.now).is_some());
    world.settle();
    let hub = &mut world.sides[HUB];
    hub.log.clear();
    // Whenever the peer moves, it is looked whether its images are in use otherwise.
    hub.auth.handle_endpoint(row, ([198, 51, 100, 9], 4000).into(), world.now);
    assert_eq!(hub.auth.ledger().peers[0].images, images);
    world.settle();
    assert!(!world.sides[HUB].log.iter().any(|e| matches!(e, Event::AddPeer(_) | Event::Provider { .. })), "{:?}", world.sides[HUB].log);
}

#[test]
fn images_move_when_the_host_gets_an_address_inside_them() {
    let mut world = World::peered(Some(LENT), false, None);
    world.sides[EDGE].log.clear();
    let mut moved = facts();
    moved.in_use.push(prefix("10.71.3.0/24"));
    assert!(world.sides[EDGE].auth.set_facts(moved));
    world.settle();
    let image = world.sides[EDGE].auth.ledger().peers[0].images[0];
    assert_eq!(image, prefix("10.72.0.0/16"));
    assert!(world.sides[EDGE].log.iter().any(|e| matches!(e, Event::AddPeer(s) if s.remote[0].1 == image)));
    assert!(world.sides[EDGE].log.iter().any(|e| matches!(e, Event::Provider { images, .. } if images[0].1 == image)));
}

#[test]
fn the_floor_of_the_stamps_is_always_ahead_of_any_clock() {
    let mut world = World::new();
    world.pass(Duration::from_secs(1));
    for _ in 0..100 {
        world.pass(Duration::from_secs(3601));
        let stored = Ledger::parse(world.sides[HUB].file.as_bytes()).expect("good");
        assert!(stored.floor > world.now.wall);
    }
    let floor = Ledger::parse(world.sides[HUB].file.as_bytes()).expect("good").floor;
    // A board that wakes in 1970 begins above what it has given out, and stays above what it can give out.
    world.now.wall = WallTime(7);
    world.restart(HUB);
    assert_eq!(world.sides[HUB].auth.stamp_floor(), floor);
    world.pass(Duration::from_secs(4 * 3600));
    let stored = Ledger::parse(world.sides[HUB].file.as_bytes()).expect("good").floor;
    assert!(stored.0 > floor.0 + 4 * 3600);
}

#[test]
fn an_idle_peering_is_quiet_and_spares_the_flash() {
    let mut world = World::peered(Some(LENT), true, Some(SMALL));
    world.pass(Duration::from_secs(60));
    let (asked, mut writes) = (world.number, 0);
    let mut file = world.sides[HUB].file.clone();
    for _ in 0..24 {
        world.pass(Duration::from_secs(3600));
        writes += u32::from(std::mem::replace(&mut file, world.sides[HUB].file.clone()) != world.sides[HUB].file);
    }
    assert!(world.number - asked <= 2 * 37, "renewals alone: {}", world.number - asked);
    assert!(writes <= 25, "{writes}");
}

#[test]
fn two_that_race_for_a_ticket_get_one_answer_each_and_only_one_is_taken() {
    let mut world = World::new();
    let line = world.invite(None, false, false);
    world.settle();
    let enrolment = ticket::Ticket::read(&line).expect("reads").enrolment();
    let hub = world.sides[HUB].auth.ledger().public();
    let from = world.sides[HUB].auth.stranger(enrolment.public, world.now).expect("a session").control.1;
    let shown = bearer::Bearer::pair(&enrolment.secret, &enrolment.public, &hub).expect("keys").0.text();
    let claim = |n: u8| {
        let secret = keys::clamp([n; 32]);
        let key = keys::public_of(&secret);
        let proof = bearer::Bearer::pair(&secret, &key, &hub).expect("keys").0.text();
        let prefixes = vec![prefix("10.42.0.0/16")];
        request::Enrol { version: 1, id: id(&format!("c{n}")), key, proof, prefixes, architecture: String::new(), consume: false, provide: None }.body()
    };
    let hub = &mut world.sides[HUB].auth;
    let mut number = 0;
    let mut put = |hub: &mut Authority, body: &str| {
        number += 1;
        let request = Request { from, method: "POST", path: request::ENROL, bearer: Some(&shown), body: body.as_bytes() };
        hub.handle_request(RequestId(number), &request, world.now);
    };
    let answers = |hub: &mut Authority| {
        let mut all = Vec::new();
        while let Some(event) = hub.poll_event() {
            if let Event::Answer { request, status, .. } = event {
                all.push((request.0, status));
            }
        }
        all
    };
    put(hub, &claim(11));
    put(hub, &claim(12));
    assert_eq!(answers(hub), [(2, 429)], "nobody is answered before the disk");
    assert!(hub.unsaved().is_some());
    hub.saved(Err("disk".into()), world.now);
    assert_eq!(answers(hub), [(1, 503)]);
    put(hub, &claim(12));
    assert!(hub.unsaved().is_some());
    hub.saved(Ok(()), world.now);
    put(hub, &claim(11));
    put(hub, &claim(12));
    assert_eq!(answers(hub), [(3, 200), (4, 410), (5, 200)]);
    assert_eq!(hub.ledger().peers[0].id, id("c12"));
}

#[test]
fn two_that_invite_and_join_each_other_at_once_become_peers_once() {
    for first in [HUB, EDGE] {
        for head_start in (0..30).step_by(2) {
            let mut world = World::new();
            let mut lines = Vec::new();
            for side in [HUB, EDGE] {
                let order = InviteOrder {
                    endpoints: vec![Endpoint::Address(address(side))],
                    offer: Some(LENT),
                    ask: false,
                    replace: false,
                    life: Duration::from_secs(900),
                    secret: [side as u8 + 50; 16],
                };
                lines.push(world.sides[side].auth.invite(order, world.now).expect("a ticket").line);
            }
            world.settle();
            for side in [first, 1 - first] {
                let order = JoinOrder { line: lines[1 - side].clone(), consume: true, provide: None, replace: false };
                let begun = world.sides[side].auth.join(order, world.now);
                assert!(begun.is_ok() || matches!(begun, Err(CannotJoin::Peered(_))));
                for _ in 0..head_start {
                    world.step();
                }
            }
            world.pass(Duration::from_secs(60));
            assert!(world.linked(), "{first} {head_start}: {:?} {:?}", world.progress(HUB), world.progress(EDGE));
            let ends = [HUB, EDGE].map(|side| world.sides[side].auth.ledger().peers[0].end);
            assert_ne!(ends[0], ends[1]);
            assert!(world.sides.iter().all(|s| s.auth.ledger().joins.is_empty()));
        }
    }
}

#[test]
fn a_join_that_is_given_up_after_the_grant_leaves_nothing_at_the_inviter() {
    let mut world = World::new();
    world.sides[HUB].api_down = true;
    let line = world.invite(Some(LENT), false, false);
    let row = world.join(&line, None);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.sides[HUB].auth.ledger().peers.len(), 1);
    assert!(world.sides[EDGE].auth.cancel_join(row, world.now));
    world.sides[HUB].api_down = false;
    world.pass(Duration::from_secs(120));
    assert_eq!((world.sides[HUB].auth.ledger().peers.len(), world.gone(HUB)), (0, 1));
    assert!(world.sides[EDGE].sessions.is_empty() && world.sides[HUB].sessions.is_empty());
}

#[test]
fn a_peers_transit_range_may_move_and_its_pods_may_not() {
    let mut world = World::peered(Some(LENT), false, None);
    let secret = world.sides[EDGE].auth.ledger().secret.clone();
    let hub = world.sides[HUB].auth.ledger();
    let good = bearer::Bearer::pair(&secret, &keys::public_of(&secret), &hub.public()).expect("keys").0.text();
    let (row, pods, before) = (hub.peers[0].row, hub.peers[0].images[0], hub.peers[0].clone());
    let from = world.sides[HUB].auth.external().control(row);
    let say = |world: &mut World, prefixes: &str| {
        world.pass(super::peering::MOVES);
        world.number += 1;
        let body =
            format!(r#"{{"min":1,"max":1,"id":"edge","prefixes":{prefixes},"seen_as":["10.71.0.0/16","10.72.0.0/17"],"architecture":"arm64","time":0}}"#);
        let request = Request { from, method: "POST", path: request::HELLO, bearer: Some(&good), body: body.as_bytes() };
        let hub = &mut world.sides[HUB].auth;
        hub.handle_request(RequestId(world.number), &request, world.now);
        let events: Vec<Event> = std::iter::from_fn(|| hub.poll_event()).collect();
        assert!(events.iter().any(|e| matches!(e, Event::Answer { status: 200, .. })));
        let peer = hub.ledger().peers[0].clone();
        // The gateway and the agent hear of it.
        let session = events.iter().find_map(|e| if let Event::AddPeer(s) = e { Some(s.remote.to_vec()) } else { None });
        let told = events.iter().find_map(|e| if let Event::Consumer { images, .. } = e { Some(images.clone()) } else { None });
        assert_eq!(session, told);
        assert!(told.is_none_or(|told| told == super::sessions::pairs(&peer)));
        (peer.prefixes, peer.images, session.is_some())
    };
    // None, or none that may be: all stays.
    for prefixes in ["[]", r#"["10.44.0.0/16","10.70.128.0/17"]"#, r#"["10.42.0.0/16","8.8.0.0/16"]"#, r#"["10.42.0.0/16","10.42.128.0/17"]"#] {
        assert_eq!(say(&mut world, prefixes), (before.prefixes.clone(), before.images.clone(), false), "{prefixes}");
    }
    // As a peer of an earlier version, and as one of this whose range another interface took.
    assert_eq!(say(&mut world, r#"["10.42.0.0/16"]"#), (vec![prefix("10.42.0.0/16")], vec![pods], true));
    let moved = prefix("10.99.128.0/17");
    assert_eq!(say(&mut world, r#"["10.42.0.0/16","10.99.128.0/17"]"#), (vec![prefix("10.42.0.0/16"), moved], vec![pods, moved], true));
}

#[test]
fn a_peer_that_says_something_else_each_time_does_not_wear_out_the_flash() {
    let mut world = World::peered(Some(LENT), false, None);
    let secret = world.sides[EDGE].auth.ledger().secret.clone();
    let hub = world.sides[HUB].auth.ledger();
    let good = bearer::Bearer::pair(&secret, &keys::public_of(&secret), &hub.public()).expect("keys").0.text();
    let from = world.sides[HUB].auth.external().control(hub.peers[0].row);
    let (mut writes, mut tokens) = (0, 0);
    for n in 0..200 {
        let hello = format!(r#"{{"min":1,"max":1,"id":"edge","prefixes":[],"architecture":"a{n}","time":0}}"#);
        assert_eq!(ask(&mut world, from, Some(&good), "POST", request::HELLO, &hello), Ok(200));
        world.number += 1;
        let request = Request { from, method: "POST", path: request::CREDENTIAL, bearer: Some(&good), body: b"" };
        let hub = &mut world.sides[HUB].auth;
        hub.handle_request(RequestId(world.number), &request, world.now);
        let endpoint = ([198, 51, 100, n], 1).into();
        hub.handle_endpoint(PeerId(1), endpoint, world.now);
        writes += u32::from(hub.unsaved().is_some());
        hub.saved(Ok(()), world.now);
        while let Some((number, _)) = world.sides[HUB].auth.poll_call() {
            tokens += 1;
            world.sides[HUB].auth.handle_reply(number, Reply::Done(br#"{"spec":{},"status":{"token":"t"}}"#.to_vec()), world.now);
        }
    }
    assert!(writes <= 2 && tokens <= 1, "{writes} {tokens}");
}

/// Faults in any order, from a seed; then all heals, and all must come right by itself.
fn trouble(seed: u64) {
    let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut roll = move |sides: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % sides
    };
    let mut world = World::new();
    let line = world.invite(Some(LENT), true, false);
    world.settle();
    world.join(&line, Some(SMALL));
    while !world.sides[EDGE].file.contains("sluice1:") {
        assert!(world.step());
    }
    for _ in 0..40 {
        let side = roll(2) as usize;
        match roll(9) {
            0 => world.restart(side),
            1 => world.lose_answers = roll(3) as u32,
            2 => world.sides[side].api_down ^= true,
            3 => world.sides[side].disk_full ^= true,
            4 => {
                world.cut ^= true;
                for side in &mut world.sides {
                    side.sessions.values_mut().for_each(|(_, up)| *up &= !world.cut);
                }
            }
            5 => world.pass(Duration::from_millis(roll(9000))),
            _ => {}
        }
        for _ in 0..roll(12) {
            world.step();
            world.check();
        }
    }
    (world.cut, world.lose_answers) = (false, 0);
    for side in &mut world.sides {
        (side.api_down, side.disk_full) = (false, false);
    }
    world.pass(Duration::from_secs(120));
    world.check();
    assert!(world.linked(), "seed {seed}: {:?} {:?}", world.progress(EDGE), world.progress(HUB));
    let leaver = roll(2) as usize;
    let other = if leaver == HUB { id("edge") } else { id("hub") };
    assert!(world.sides[leaver].auth.unpeer(&other, world.now).is_some());
    for _ in 0..15 {
        match roll(6) {
            0 => world.restart(roll(2) as usize),
            1 => world.lose_answers = 1,
            2 => world.sides[roll(2) as usize].api_down ^= true,
            _ => {}
        }
        for _ in 0..roll(9) {
            world.step();
        }
    }
    world.lose_answers = 0;
    for side in &mut world.sides {
        side.api_down = false;
    }
    world.pass(Duration::from_secs(1500));
    // A leave that was lost with the process before it was stored did not happen; whatever did is known on both sides.
    let peers = world.sides.each_ref().map(|s| s.auth.ledger().peers.len());
    assert_eq!(peers[0], peers[1], "seed {seed}");
    if peers[0] == 0 {
        assert!(world.sides.iter().all(|s| s.api.is_empty() && s.sessions.is_empty()), "seed {seed}: {:?}", world.sides.each_ref().map(|s| &s.api));
    }
}

#[test]
fn whatever_goes_wrong_on_the_way_comes_right_in_the_end() {
    for seed in 0..60 {
        trouble(seed);
    }
}

#[test]
fn a_namespace_of_the_tenants_name_that_is_not_ours_ends_the_join_on_both_sides() {
    let mut world = World::new();
    world.sides[HUB].api.insert("/api/v1/namespaces/liqo-tenant-edge".into(), r#"{"metadata":{"uid":"liqo"}}"#.into());
    let line = world.invite(Some(LENT), false, false);
    world.join(&line, None);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.failures(EDGE), [Reason::Foreign]);
    assert_eq!((world.sides[HUB].auth.ledger().peers.len(), world.gone(HUB)), (0, 1));
    assert_eq!(world.sides[HUB].api.len(), 1, "what was there still is, and nothing else");
    assert!(world.sides[HUB].auth.owed().iter().all(|o| o.what == Debt::Consumer));
}

#[test]
fn an_answer_to_a_peer_that_left_is_not_taken_for_its_successors() {
    let mut world = World::peered(Some(LENT), false, None);
    let row = world.sides[HUB].auth.ledger().peers[0].row;
    world.pass(Duration::from_secs(10));
    world.sides[EDGE].auth.credential_refused(PeerId(0), world.now);
    let late = loop {
        if let Some((number, _)) = world.sides[HUB].auth.poll_call() {
            break number;
        }
        assert!(world.step());
    };
    world.sides[HUB].auth.unpeer(&id("edge"), world.now);
    world.pass(Duration::from_secs(40));
    for side in [HUB, EDGE] {
        for owed in world.sides[side].auth.owed().to_vec() {
            world.sides[side].auth.settle_all(owed.what, &owed.cluster);
        }
    }
    let line = world.invite(Some(LENT), false, false);
    world.join(&line, None);
    while world.sides[HUB].auth.ledger().peers.is_empty() {
        assert!(world.step());
    }
    world.sides[HUB].auth.handle_reply(late, Reply::Done(b"{}".to_vec()), world.now);
    world.pass(Duration::from_secs(5));
    assert!(world.linked(), "{row:?}");
}

#[test]
fn nothing_secret_is_ever_printed() {
    let world = World::peered(Some(LENT), true, Some(SMALL));
    let mut printed = format!("{:?} {:?}", world.sides[HUB].auth, world.sides[EDGE].auth);
    for side in &world.sides {
        printed.push_str(&format!("{:?} {:?}", side.log, side.sessions.values().map(|(s, _)| s).collect::<Vec<_>>()));
    }
    let ledger = world.sides[HUB].auth.ledger();
    let token = world.sides[EDGE].log.iter().find_map(|e| if let Event::Credential { token, .. } = e { Some(format!("\"{token}\"")) } else { None });
    let bearer = world.sides[EDGE].log.iter().find_map(|e| if let Event::Ask { bearer, .. } = e { Some(bearer.clone()) } else { None });
    for secret in [token.expect("a token"), bearer.expect("a bearer"), format!("{:?}", ledger.tickets[0].preshared), format!("{:?}", ledger.secret.0)] {
        assert!(!printed.contains(&secret), "{secret}");
    }
}
