//! The edge without a network: one cluster whose API server is a map, a peer that never answers, restarts from what was saved.

use super::*;
use crate::auth::ledger::Peer;
use crate::identity::PublicKey;
use crate::kube::call::{Body, Cluster, Verb};
use crate::offload::read;
use serde_json::{Value, json};

const GRANT: Resources = Resources { cpu: 1000, memory: 512, pods: 9 };
const NODE: &str = "/api/v1/nodes/hub";
const TENANT: &str = "/api/v1/namespaces/liqo-tenant-hub";
const TWIN: &str = "/api/v1/namespaces/shop-hub";
const MAP: &str = "/apis/offloading.liqo.io/v1beta1/namespaces/liqo-tenant-hub/namespacemaps/edge";

fn system() -> WallTime {
    WallTime(1_800_000_000)
}

struct Host {
    edge: Edge,
    now: Now,
    file: String,
    disk_full: bool,
    /// What is kept beside the socket while the disk is full.
    floor: WallTime,
    api: BTreeMap<String, Value>,
    watches: BTreeMap<WatchId, (KindId, String)>,
    removed: Vec<String>,
    gone: Vec<ClusterId>,
}

fn facts() -> Facts {
    Facts {
        pods: vec!["10.42.0.0/16".parse().expect("prefix")],
        in_use: vec![],
        addresses: vec![],
        nodes: vec!["edge-1".into()],
        architecture: "amd64".into(),
        ca: String::new(),
        api_name: "kubernetes".into(),
        boot: "boot-1".into(),
        account: Account { namespace: "sluice".into(), name: "sluice".into() },
    }
}

fn started(file: &str, floor: WallTime, now: Now) -> Edge {
    let mut ledger = Ledger::parse(file.as_bytes()).expect("a state file");
    ledger.floor = ledger.floor.max(floor);
    Edge::new(Authority::new(ledger, facts(), now).expect("starts"), 7, now, system())
}

fn hub() -> ClusterId {
    "hub".parse().expect("an ID")
}

impl Host {
    /// A cluster that is peered with `hub`, which is away.
    fn peered(consume: bool, provide: bool) -> Host {
        let now = Now { mono: Instant::from_boot(Duration::from_secs(1000)), wall: system() };
        let mut ledger = Ledger::new("edge".parse().expect("an ID"), clamp([3; 32]));
        ledger.peers.push(Peer {
            row: PeerId(0),
            id: hub(),
            key: PublicKey(public_of(&clamp([5; 32])).0),
            end: End::Joiner,
            endpoints: vec![Endpoint::Address(([203, 0, 113, 10], 51820).into())],
            last: None,
            prefixes: vec!["10.42.0.0/16".parse().expect("prefix")],
            images: vec!["10.71.0.0/16".parse().expect("prefix")],
            seen_as: vec![],
            architecture: "arm64".into(),
            provide: provide.then_some(GRANT),
            consume: consume.then_some(GRANT),
            tenant: provide.then(|| "u-tenant".to_owned()),
        });
        let file = ledger.snapshot();
        let edge = started(&file, WallTime(0), now);
        let mut host = Host {
            edge,
            now,
            file,
            disk_full: false,
            floor: WallTime(0),
            api: BTreeMap::new(),
            watches: BTreeMap::new(),
            removed: Vec::new(),
            gone: Vec::new(),
        };
        if provide {
            let labels = json!({"sluice.internal/managed": "true", "liqo.io/remote-cluster-id": "hub"});
            host.api.insert(TENANT.into(), json!({"metadata": {"name": "liqo-tenant-hub", "uid": "u-tenant", "labels": labels}}));
            let notes = json!({"liqo.io/managed-by-namespace-map": "liqo-tenant-hub/edge", "liqo.io/original-name": "shop", "sluice.internal/uid": "u-twin"});
            host.api.insert(TWIN.into(), json!({"metadata": {"name": "shop-hub", "uid": "u-twin", "labels": labels, "annotations": notes}}));
            let map = json!({"metadata": {"name": "edge", "namespace": "liqo-tenant-hub", "uid": "u-map"}, "spec": {"desiredMapping": {"shop": "shop-hub"}}});
            host.api.insert(MAP.into(), map);
        }
        host
    }

    /// The daemon is killed and started: all that lives on is the state file, the floor and the cluster.
    fn restart(&mut self) {
        self.watches.clear();
        self.edge = started(&self.file, self.floor, self.now);
    }

    fn call(&mut self, call: Call) -> Reply {
        if call.to != Cluster::Home {
            return Reply::Unreachable("away".into());
        }
        let body = match call.body {
            Body::Json(body) => serde_json::from_str(&body).expect("JSON"),
            _ => Value::Null,
        };
        match call.verb {
            Verb::Create => {
                let name = body["metadata"]["name"].as_str().expect("a name").to_owned();
                let mut object = body;
                object["metadata"]["uid"] = json!(format!("u-{name}"));
                let path = format!("{}/{name}", call.path);
                self.api.insert(path.clone(), object.clone());
                self.tell(&path, &object, false);
                Reply::Done(object.to_string().into_bytes())
            }
            Verb::Delete => match self.api.remove(&call.path) {
                Some(object) => {
                    self.removed.push(call.path.clone());
                    let inside = format!("{}/", call.path.trim_start_matches("/api/v1"));
                    self.api.retain(|path, _| !path.contains(&inside));
                    self.tell(&call.path, &object, true);
                    Reply::Done(b"{}".to_vec())
                }
                None => Reply::NotFound,
            },
            Verb::Merge => {
                let path = call.path.strip_suffix("/status").unwrap_or(&call.path).to_owned();
                let Some(object) = self.api.get_mut(&path) else { return Reply::NotFound };
                merge(object, &body);
                let object = object.clone();
                self.tell(&path, &object, false);
                Reply::Done(object.to_string().into_bytes())
            }
            _ => match self.api.get(&call.path) {
                Some(object) => Reply::Done(object.to_string().into_bytes()),
                None => Reply::NotFound,
            },
        }
    }

    fn tell(&mut self, path: &str, object: &Value, gone: bool) {
        let heard: Vec<(WatchId, KindId)> = self.watches.iter().filter(|(_, (_, on))| collection(path) == on).map(|(id, (kind, _))| (*id, *kind)).collect();
        for (id, kind) in heard {
            let seen = read(kind, object.to_string().as_bytes()).expect("readable");
            self.edge.handle_told(id, if gone { Told::Gone(seen) } else { Told::Seen(seen) }, self.now);
        }
    }

    fn open(&mut self, order: Order) {
        match order {
            Order::Open { id, kind, watch } if watch.on == Cluster::Home => {
                let on = watch.path.split('?').next().unwrap_or_default().to_owned();
                let objects: Vec<Value> = self.api.iter().filter(|(path, _)| collection(path) == on).map(|(_, object)| object.clone()).collect();
                self.watches.insert(id, (kind, on));
                for object in objects {
                    self.edge.handle_told(id, Told::Seen(read(kind, object.to_string().as_bytes()).expect("readable")), self.now);
                }
                self.edge.handle_told(id, Told::Synced("1".into()), self.now);
            }
            Order::Open { .. } => {}
            Order::Close { id } => drop(self.watches.remove(&id)),
        }
    }

    /// Carries out what is wanted, once; false if there is nothing.
    fn turn(&mut self) -> bool {
        let Some(output) = self.edge.poll_output(self.now, system, true) else { return false };
        match output {
            Output::Save(_) if self.disk_full => {
                self.floor = self.edge.authority().ledger().floor;
                self.edge.saved(Err("no space left on the device".into()), self.now);
            }
            Output::Save(text) => {
                self.file = text;
                self.edge.saved(Ok(()), self.now);
            }
            Output::Call(owner, call) => {
                let reply = self.call(call);
                self.edge.handle_reply(owner, reply, self.now);
            }
            Output::Watch(order) => self.open(order),
            Output::Gone(_, cluster) => self.gone.push(cluster),
            _ => {}
        }
        true
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..=seconds {
            let quiet = (0..5000).any(|_| !self.turn());
            assert!(quiet, "the edge spins");
            assert_eq!(self.edge.agent.poll_event(), None, "what the agent says is heard before anything else happens");
            self.now.mono = self.now.mono + Duration::from_secs(1);
            self.now.wall.0 += 1;
            self.edge.handle_timeout(self.now);
        }
    }

    /// Nothing is left of the peering, here or in the state file, but the tombstone.
    fn is_over(&self) -> bool {
        let ledger = Ledger::parse(self.file.as_bytes()).expect("a state file");
        ledger.peers.is_empty() && ledger.owed.is_empty() && ledger.left.len() == 1 && self.api.is_empty() && self.edge.partings.is_empty()
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else { return *target = patch.clone() };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        match value {
            Value::Null => drop(target.as_object_mut().and_then(|o| o.remove(name))),
            value => merge(&mut target[name.as_str()], value),
        }
    }
}

fn collection(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(collection, _)| collection)
}

#[test]
fn an_echo_request_has_right_checksums() {
    for size in [28, 1280] {
        let mut packet = vec![0; size];
        look::request(&mut packet, Ipv4Addr::new(10, 70, 0, 2), Ipv4Addr::new(10, 70, 1, 1), ECHO, 7);
        assert_eq!((look::checksum(&packet[..20]), look::checksum(&packet[20..])), (0, 0), "{size}");
    }
}

#[test]
fn a_peer_that_is_away_is_left_on_both_accounts() {
    let mut host = Host::peered(true, true);
    host.run(5);
    assert!(host.api.contains_key(NODE) && host.api.contains_key(TWIN));
    assert_eq!(host.edge.unpeer(&hub(), false, host.now), Some(PeerId(0)));
    host.run(25);
    assert!(host.is_over(), "{:?} {}", host.api.keys(), host.file);
    assert_eq!(host.gone, [hub()]);
    for path in [NODE, TWIN, TENANT] {
        assert!(host.removed.iter().any(|p| p == path), "{path}");
    }
}

#[test]
fn a_leave_that_a_crash_ends_anywhere_goes_on_at_the_next_start() {
    for (consume, provide) in [(true, false), (false, true), (true, true)] {
        for turns in 1.. {
            let mut host = Host::peered(consume, provide);
            host.run(5);
            host.edge.unpeer(&hub(), false, host.now);
            // Nothing is promised before the first save.
            let before = host.file.clone();
            while host.file == before {
                host.turn();
            }
            let over = (0..turns).any(|_| !host.turn());
            host.restart();
            host.run(60);
            assert!(host.is_over(), "consume {consume}, provide {provide}, killed after {turns} turns: {:?} {}", host.api.keys(), host.file);
            if over {
                break;
            }
        }
    }
}

#[test]
fn a_leave_that_cannot_be_written_goes_on_when_it_can() {
    for (consume, provide) in [(true, false), (false, true), (true, true)] {
        let mut host = Host::peered(consume, provide);
        host.run(5);
        host.disk_full = true;
        host.edge.unpeer(&hub(), false, host.now);
        host.run(40);
        assert!(!host.gone.contains(&hub()) && host.edge.authority().ledger().peers.len() == 1, "{:?}", host.gone);
        // It is announced again, as it is whenever its images must move.
        let facts = Facts { in_use: vec!["10.71.0.0/16".parse().expect("prefix")], ..facts() };
        host.edge.authority().set_facts(facts);
        host.run(40);
        assert!(!host.api.contains_key(NODE), "a virtual node that is gone does not come back");
        host.disk_full = false;
        host.run(40);
        assert!(host.is_over(), "consume {consume}, provide {provide}: {:?} {}", host.api.keys(), host.file);
        assert_eq!(host.gone, [hub()]);
    }
}

#[test]
fn on_a_full_disk_too_each_start_is_above_every_stamp_of_the_life_before() {
    let mut host = Host::peered(true, true);
    host.run(5);
    host.disk_full = true;
    for life in 0..4 {
        host.run(3600 / (life + 1));
        let highest = host.edge.gateway().highest_stamp(host.now);
        host.restart();
        let floor = host.edge.authority().stamp_floor();
        assert!(floor >= highest, "life {life}: {floor} after {highest}");
    }
}

#[test]
fn a_peer_that_leaves_while_it_is_left_costs_no_clean_up() {
    let mut host = Host::peered(true, false);
    host.run(5);
    host.edge.leave_provider(PeerId(0), hub(), How::Asked, host.now);
    // As it does when the peer says so: the node still stands.
    host.edge.authority().unpeer(&hub(), host.now);
    assert!(host.api.contains_key(NODE));
    host.run(40);
    assert!(host.is_over(), "{:?} {}", host.api.keys(), host.file);
}

#[test]
fn other_images_do_not_make_a_provider_welcome_again() {
    let mut host = Host::peered(true, false);
    host.run(5);
    host.edge.unpeer(&hub(), false, host.now);
    // The peer's images are in use on this host by now: it is announced again.
    let facts = Facts { in_use: vec!["10.71.0.0/16".parse().expect("prefix")], ..facts() };
    host.edge.authority().set_facts(facts);
    host.run(40);
    assert!(host.is_over(), "{:?} {}", host.api.keys(), host.file);
}

#[test]
fn a_peer_that_is_away_is_looked_for_under_its_name_again_and_where_that_leads_by_now() {
    let host = Host::peered(true, false);
    let mut ledger = Ledger::parse(host.file.as_bytes()).expect("a state file");
    ledger.peers[0].endpoints = vec![Endpoint::Name("hub.example.org".try_into().expect("a name"), 51820)];
    let (mut edge, mut now) = (started(&ledger.snapshot(), WallTime(0), host.now), host.now);
    let address = |last: u8| SocketAddr::from(([203, 0, 113, last], 51820));
    let mut asked = Vec::new();
    let mut called = Vec::new();
    for second in 0..70_u64 {
        now.mono = host.now.mono + Duration::from_secs(second);
        edge.handle_timeout(now);
        while let Some(output) = edge.poll_output(now, system, true) {
            match output {
                Output::Save(_) => edge.saved(Ok(()), now),
                Output::Resolve(peer, names) => {
                    assert_eq!((peer, names.len()), (PeerId(0), 1));
                    asked.push(second);
                    // It moves after half a minute.
                    edge.resolved(peer, &[address(if second < 30 { 1 } else { 2 })], now);
                }
                _ => {}
            }
        }
        let mut out = [0; 256];
        while let Some((to, _)) = edge.poll_datagram(now, &mut out) {
            called.push((second, to));
        }
    }
    assert!(asked.len() >= 3 && asked.windows(2).all(|w| w[1] - w[0] <= 30), "{asked:?}");
    assert!(called.iter().any(|(_, to)| *to == address(1)) && called.iter().all(|(at, to)| *at < 60 || *to == address(2)), "{called:?}");
}
