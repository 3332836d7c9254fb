//! Journeys: two agents over two tiny API servers in memory, with a kubelet that starts what it is given. Enough to tell the stories of this room;
//! loss, seeds and invariants are the world's business, not this file's.

use super::kind::Uid;
use super::*;
use crate::clock::{Instant, Now, WallTime};
use crate::identity::PeerId;
use crate::kube::call::{Body, Call, Cluster, Unfit, Verb};
use crate::kube::reply::Reply;
use crate::kube::watch::Told;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

const PEER: PeerId = PeerId(0);

/// An API server: objects by path, and everything that happened to them.
#[derive(Default)]
struct Server {
    objects: BTreeMap<String, Value>,
    log: Vec<(Option<Value>, Option<Value>, String)>,
    serial: u64,
}

struct Open {
    on: usize,
    kind: KindId,
    path: String,
    at: usize,
}

struct Site {
    server: Server,
    agent: Agent,
    watches: BTreeMap<WatchId, Open>,
}

struct World {
    sites: Vec<Site>,
    now: Duration,
    up: bool,
    kubelet: bool,
    /// Each is the other's consumer and provider.
    both: bool,
    calls: Vec<(usize, Verb, String)>,
    /// Every call there is refused.
    denied: Option<String>,
    /// The answer to the first Create there is under way until it is handed over: whose it is, and what it says.
    slow: Option<String>,
    under_way: Option<(usize, u32, Reply)>,
    /// One call in this many goes wrong; 0: none.
    trouble: u64,
    chance: u64,
    /// The clock's error in seconds.
    off: i64,
}

impl Server {
    fn put(&mut self, path: &str, mut object: Value) -> Value {
        self.serial += 1;
        let before = self.objects.get(path).cloned();
        if before.is_none() {
            object["metadata"]["uid"] = json!(format!("u{}", self.serial));
            object["metadata"]["generation"] = json!(1);
        }
        // The place in the log, as a watch counts.
        object["metadata"]["resourceVersion"] = json!((self.log.len() + 1).to_string());
        self.objects.insert(path.into(), object.clone());
        self.log.push((before, Some(object.clone()), path.into()));
        object
    }

    fn drop(&mut self, path: &str) {
        if let Some(before) = self.objects.remove(path) {
            self.log.push((Some(before), None, path.into()));
        }
    }

    /// Removes an object as DELETE does: pods on a node and namespaces end gracefully.
    fn delete(&mut self, path: &str, now: bool) {
        let Some(object) = self.objects.get(path) else { return };
        let bound = path.contains("/pods/") && object["spec"]["nodeName"].is_string();
        let namespace = path.starts_with("/api/v1/namespaces/") && path.matches('/').count() == 4;
        if !now && (bound || namespace) {
            if object["metadata"]["deletionTimestamp"].is_null() {
                let mut object = object.clone();
                object["metadata"]["deletionTimestamp"] = json!("2026-11-24T00:00:00Z");
                self.put(path, object);
            }
        } else {
            self.drop(path);
        }
    }

    fn carry_out(&mut self, verb: Verb, path: &str, body: Option<String>) -> Reply {
        let body: Value = body.map_or(Value::Null, |b| serde_json::from_str(&b).expect("our bodies are JSON"));
        let done = |object: &Value| Reply::Done(object.to_string().into_bytes());
        match verb {
            Verb::Get => self.objects.get(path).map_or(Reply::NotFound, done),
            Verb::Create => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().expect("a name"));
                if let Some((namespace, _)) = path.strip_prefix("/api").and_then(|p| p.split_once("/namespaces/")).and_then(|(_, p)| p.split_once('/')) {
                    let alive = self.objects.get(&format!("/api/v1/namespaces/{namespace}")).is_some_and(|n| n["metadata"]["deletionTimestamp"].is_null());
                    if !alive && namespace != "kube-node-lease" {
                        return Reply::NotFound;
                    }
                }
                if self.objects.contains_key(&path) {
                    return Reply::Conflict;
                }
                done(&self.put(&path, body))
            }
            Verb::Merge => {
                let (path, status) = path.strip_suffix("/status").map_or((path, false), |p| (p, true));
                let Some(mut object) = self.objects.get(path).cloned() else { return Reply::NotFound };
                if body["metadata"]["uid"].is_string() && body["metadata"]["uid"] != object["metadata"]["uid"] {
                    return Reply::Conflict;
                }
                let before = object.clone();
                if status {
                    merge(&mut object["status"], &body["status"]);
                } else {
                    merge(&mut object, &body);
                    object["status"] = before["status"].clone();
                }
                if object == before { done(&object) } else { done(&self.put(path, object)) }
            }
            Verb::Apply => {
                let mut object = body;
                let before = self.objects.get(path).cloned().unwrap_or_default();
                if object["metadata"]["uid"].is_string() && object["metadata"]["uid"] != before["metadata"]["uid"] {
                    return Reply::Conflict;
                }
                object["metadata"]["uid"] = before["metadata"]["uid"].clone();
                done(&self.put(path, object))
            }
            Verb::Delete => {
                let Some(object) = self.objects.get(path) else { return Reply::NotFound };
                let wanted = &body["preconditions"]["uid"];
                if wanted.is_string() && *wanted != object["metadata"]["uid"] {
                    return Reply::Conflict;
                }
                self.delete(path, body["gracePeriodSeconds"] == json!(0));
                Reply::Done(b"{}".to_vec())
            }
        }
    }

    /// The namespace controller.
    fn end_namespaces(&mut self) {
        let ending: Vec<String> = self
            .objects
            .iter()
            .filter(|(p, o)| p.starts_with("/api/v1/namespaces/") && p.matches('/').count() == 4 && !o["metadata"]["deletionTimestamp"].is_null())
            .map(|(p, _)| p.clone())
            .collect();
        for path in ending {
            let part = format!("/namespaces/{}/", path.rsplit('/').next().expect("a name"));
            let inside: Vec<String> = self.objects.keys().filter(|p| p.contains(&part)).cloned().collect();
            for object in &inside {
                self.delete(object, false);
            }
            if inside.is_empty() {
                self.drop(&path);
            }
        }
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let object = target.as_object_mut().expect("an object");
    for (key, value) in patch {
        if value.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Whether an object at `path` is in the collection and passes its selectors.
fn chosen(watch: &str, path: &str, object: &Value) -> bool {
    let watch = watch.replace("%3D", "=").replace("%2F", "/").replace("%2C", ",");
    let (collection, query) = watch.split_once('?').unwrap_or((&watch, ""));
    let inside = path.strip_prefix(collection).and_then(|r| r.strip_prefix('/')).is_some_and(|r| !r.contains('/'));
    let (base, plural) = collection.rsplit_once('/').expect("a path");
    let wide = path.strip_prefix(base).and_then(|r| r.strip_prefix("/namespaces/")).is_some_and(|r| {
        let parts: Vec<&str> = r.split('/').collect();
        parts.len() == 3 && parts[1] == plural
    });
    if !inside && !wide {
        return false;
    }
    match query.split_once('=') {
        Some(("fieldSelector", rest)) => {
            let (field, value) = rest.split_once('=').expect("a selector");
            let (a, b) = field.split_once('.').expect("two parts");
            object[a][b] == json!(value)
        }
        Some((_, rest)) => rest.split(',').all(|one| {
            let (key, value) = one.split_once('=').expect("a selector");
            object["metadata"]["labels"][key] == json!(value)
        }),
        None => true,
    }
}

fn agent(cluster: &str, now: Now) -> Agent {
    let spec = AgentSpec {
        cluster: cluster.parse().expect("an ID"),
        pods: vec!["10.42.0.0/16".parse().expect("a prefix")],
        transit: "10.70.128.0/17".parse().ok(),
        kubelet_version: "v1.37.0".into(),
        seed: 7,
    };
    Agent::new(spec, now)
}

impl World {
    /// `edge` consumes, `hub` provides; both have the same pod prefix.
    fn new(grant: Amount) -> World {
        let mut world = World {
            sites: vec![],
            now: Duration::from_secs(1000),
            up: true,
            kubelet: true,
            both: false,
            calls: vec![],
            slow: None,
            denied: None,
            under_way: None,
            trouble: 0,
            chance: 1,
            off: 0,
        };
        for cluster in ["edge", "hub"] {
            let mut server = Server::default();
            for namespace in ["shop", "other", "liqo-tenant-edge", "liqo-tenant-hub", "sluice"] {
                server.put(&format!("/api/v1/namespaces/{namespace}"), json!({"metadata": {"name": namespace}}));
            }
            let agent = agent(cluster, world.clock());
            world.sites.push(Site { server, agent, watches: BTreeMap::new() });
        }
        world.join(grant);
        world
    }

    fn join(&mut self, grant: Amount) {
        let pair = |original: &str, image: &str| (original.parse().expect("a prefix"), image.parse().expect("a prefix"));
        let images = vec![pair("10.42.0.0/16", "10.71.0.0/16"), pair("10.70.128.0/17", "10.72.0.0/17")];
        let now = self.clock();
        self.sites[0].agent.add_provider(ProviderSpec {
            peer: PEER,
            cluster: "hub".parse().expect("an ID"),
            node: "hub".into(),
            tenant_namespace: "liqo-tenant-edge".into(),
            grant,
            architecture: "arm64".into(),
            images: images.clone(),
            address: [10, 70, 3, 1].into(),
        });
        self.sites[0].agent.set_reachable(PEER, self.up, now);
        self.sites[1].agent.add_consumer(ConsumerSpec {
            peer: PEER,
            cluster: "edge".parse().expect("an ID"),
            tenant_namespace: "liqo-tenant-edge".into(),
            account: "tenant".into(),
            grant,
            images,
            names: vec![],
        });
        self.sites[1].agent.set_reachable(PEER, self.up, now);
    }

    fn clock(&self) -> Now {
        Now { mono: Instant::from_boot(self.now), wall: WallTime(1_795_000_000 + self.off + self.now.as_secs() as i64) }
    }

    fn link(&mut self, up: bool) {
        self.up = up;
        let now = self.clock();
        if !up {
            let cut: Vec<WatchId> = self.sites[0].watches.iter().filter(|(_, w)| w.on == 1).map(|(id, _)| *id).collect();
            for id in cut {
                self.sites[0].watches.remove(&id);
                self.sites[0].agent.handle_told(id, Told::Cut, now);
            }
        }
        for site in &mut self.sites {
            site.agent.set_reachable(PEER, up, now);
        }
    }

    /// The daemon of a site is killed and starts again.
    fn restart(&mut self, site: usize, grant: Amount) {
        self.sites[site].agent = agent(["edge", "hub"][site], self.clock());
        self.sites[site].watches.clear();
        self.join(grant);
    }

    fn to(&self, site: usize, cluster: Cluster) -> usize {
        if cluster == Cluster::Home { site } else { 1 - site }
    }

    fn call(&mut self, site: usize, call: Call) -> Reply {
        let to = self.to(site, call.to);
        assert!(self.both || site == 0 || to == 1, "a provider never calls its consumer");
        self.calls.push((site, call.verb, call.path.clone()));
        assert!(self.calls.len() < 40_000, "a spin: {:?}", &self.calls[self.calls.len() - 12..]);
        let far = |world: &World, to: usize| to != site && !world.up;
        if far(self, to) {
            return Reply::Unreachable("the link is down".into());
        }
        let body = match call.body {
            Body::None => None,
            Body::Json(body) => Some(body),
            Body::Forge(forge) => {
                let from = self.to(site, forge.from);
                if far(self, from) {
                    return Reply::Unreachable("the link is down".into());
                }
                self.calls.push((site, Verb::Get, forge.path.clone()));
                let Some(source) = self.sites[from].server.objects.get(&forge.path) else { return Reply::NotFound };
                match (forge.make)(source.to_string().as_bytes()) {
                    Ok(body) => Some(body),
                    Err(why) => return Reply::Unfit(why),
                }
            }
        };
        if self.denied.as_ref() == Some(&call.path) {
            return Reply::Refused("forbidden".into());
        }
        // A call that goes wrong may be refused, throttled, lost on its way there or on its way back.
        match if self.trouble == 0 { 9 } else { self.dice(self.trouble * 4) } {
            0 => return Reply::Unreachable("lost on its way".into()),
            1 => return Reply::Throttled(Duration::from_secs(2)),
            2 => return Reply::Refused("not now".into()),
            3 => {
                self.sites[to].server.carry_out(call.verb, &call.path, body);
                return Reply::Unreachable("answer lost".into());
            }
            _ => {}
        }
        self.sites[to].server.carry_out(call.verb, &call.path, body)
    }

    fn dice(&mut self, sides: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % sides
    }

    /// Everything that can happen at this moment. True if anything did.
    fn turn(&mut self) -> bool {
        let now = self.clock();
        let mut busy = false;
        for site in 0..self.sites.len() {
            self.sites[site].agent.handle_timeout(now);
            while let Some(order) = self.sites[site].agent.poll_watch() {
                busy = true;
                match order {
                    Order::Close { id } => drop(self.sites[site].watches.remove(&id)),
                    Order::Open { id, kind, watch } => {
                        let on = self.to(site, watch.on);
                        let server = &self.sites[on].server;
                        let (told, at) = (server.objects.clone(), server.log.len());
                        if watch.from.is_none() {
                            for (_, object) in told.iter().filter(|(path, object)| chosen(&watch.path, path, object)) {
                                let seen = read(kind, object.to_string().as_bytes()).expect("readable");
                                self.sites[site].agent.handle_told(id, Told::Seen(seen), now);
                            }
                            self.sites[site].agent.handle_told(id, Told::Synced(at.to_string()), now);
                        }
                        let at = watch.from.map_or(at, |v| v.parse().expect("our version"));
                        self.sites[site].watches.insert(id, Open { on, kind, path: watch.path, at });
                    }
                }
            }
            while let Some((id, call)) = self.sites[site].agent.poll_call() {
                busy = true;
                let slow = call.verb == Verb::Create && self.slow.take_if(|path| *path == call.path).is_some();
                let reply = self.call(site, call);
                if slow {
                    self.under_way = Some((site, id, reply));
                    continue;
                }
                self.sites[site].agent.handle_reply(id, reply, now);
            }
            let ids: Vec<WatchId> = self.sites[site].watches.keys().copied().collect();
            for id in ids {
                while let Some(open) = self.sites[site].watches.get_mut(&id) {
                    let (kind, path) = (open.kind, open.path.clone());
                    let (on, at) = (open.on, open.at);
                    open.at += 1;
                    let Some((before, after, object_path)) = self.sites[on].server.log.get(at).cloned() else {
                        self.sites[site].watches.get_mut(&id).expect("open").at = at;
                        break;
                    };
                    busy = true;
                    let seen = |object: &Value| read(kind, object.to_string().as_bytes()).expect("readable");
                    let told = match (before, after) {
                        (_, Some(after)) if chosen(&path, &object_path, &after) => Told::Seen(seen(&after)),
                        (Some(before), _) if chosen(&path, &object_path, &before) => Told::Gone(seen(&before)),
                        _ => continue,
                    };
                    self.sites[site].agent.handle_told(id, told, now);
                }
            }
            let length = self.sites[site].server.log.len();
            self.sites[site].server.end_namespaces();
            busy |= self.sites[site].server.log.len() != length;
        }
        if self.kubelet {
            busy |= self.start_pods(1) | self.start_pods(0);
        }
        busy
    }

    /// The provider's scheduler and kubelet.
    fn start_pods(&mut self, site: usize) -> bool {
        let server = &mut self.sites[site].server;
        let twins = |path: &&String| path.contains("/pods/") && (path.contains("-edge/") || path.contains("-hub/"));
        let pods: Vec<String> = server.objects.keys().filter(twins).cloned().collect();
        let mut busy = false;
        for (i, path) in pods.iter().enumerate() {
            let mut pod = server.objects[path].clone();
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                server.drop(path);
                busy = true;
            } else if pod["status"].is_null() {
                pod["spec"]["nodeName"] = json!("board");
                let name = pod["metadata"]["name"].clone();
                pod["status"] = json!({"phase": "Running", "podIP": format!("10.42.0.{}", 10 + i), "hostIP": "192.168.1.5",
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "containerStatuses": [{"name": name, "ready": true, "restartCount": 0, "state": {"running": {}}}]});
                server.put(path, pod);
                busy = true;
            }
        }
        busy
    }

    /// Lets `seconds` pass.
    fn run(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        for turns in 0.. {
            assert!(turns < 100 * (seconds + 10), "a spin: timers in the past");
            let calm = (0..200).any(|_| !self.turn());
            assert!(calm, "a spin: {:?}", &self.calls[self.calls.len().saturating_sub(12)..]);
            let due = self.sites.iter().filter_map(|s| s.agent.poll_timeout()).map(Instant::since_boot).min().unwrap_or(end);
            if due >= end {
                self.now = end;
                return;
            }
            self.now = due.max(self.now + Duration::from_millis(1));
        }
    }

    fn offload(&mut self, namespace: &str) {
        let path = format!("/apis/offloading.liqo.io/v1beta1/namespaces/{namespace}/namespaceoffloadings/offloading");
        self.sites[0]
            .server
            .put(&path, json!({"metadata": {"name": "offloading", "namespace": namespace}, "spec": {"podOffloadingStrategy": "LocalAndRemote"}}));
    }

    fn pod(&mut self, namespace: &str, name: &str, spec: Value) -> Value {
        let mut full = json!({"nodeName": "hub", "restartPolicy": "Always", "containers": [{"name": name, "image": "lq/web:1"}]});
        merge(&mut full, &spec);
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        self.sites[0]
            .server
            .put(&path, json!({"metadata": {"name": name, "namespace": namespace, "labels": {"app": "web"}}, "spec": full, "status": {"phase": "Pending"}}))
    }

    fn at(&self, site: usize, path: &str) -> Option<&Value> {
        self.sites[site].server.objects.get(path)
    }

    fn count(&self, site: usize, part: &str) -> usize {
        self.sites[site].server.objects.keys().filter(|p| p.contains(part)).count()
    }

    fn writes(&self, part: &str) -> usize {
        self.calls.iter().filter(|(_, verb, path)| *verb != Verb::Get && path.contains(part)).count()
    }

    fn events(&mut self, site: usize) -> Vec<Event> {
        std::iter::from_fn(|| self.sites[site].agent.poll_event()).collect()
    }
}

const GRANT: Amount = Amount { cpu: 2000, memory: 4 << 30, pods: 20 };
const HOME_POD: &str = "/api/v1/namespaces/shop/pods/web-1";
const FAR_POD: &str = "/api/v1/namespaces/shop-edge/pods/web-1";
const SHADOW: &str = "/apis/offloading.liqo.io/v1beta1/namespaces/shop-edge/shadowpods/web-1";

/// A world in which `shop` is offloaded and `web-1` runs at the provider.
fn running() -> World {
    let mut world = World::new(GRANT);
    world.offload("shop");
    world.pod("shop", "web-1", json!({}));
    world.run(5);
    assert_eq!(world.at(0, HOME_POD).expect("home pod")["status"]["phase"], "Running");
    world
}

#[test]
fn a_pod_goes_there_and_its_status_comes_back() {
    let world = running();
    let home = world.at(0, HOME_POD).expect("home pod");
    assert_eq!(home["status"]["podIP"], "10.71.0.10");
    assert_eq!(home["status"]["hostIP"], "10.70.3.1");
    assert_eq!(world.at(1, FAR_POD).expect("far pod")["metadata"]["annotations"][ownership::HOME_UID], home["metadata"]["uid"]);
    let twin = world.at(1, "/api/v1/namespaces/shop-edge").expect("twin");
    assert_eq!(twin["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "baseline");
    assert_eq!(twin["metadata"]["annotations"][ownership::OWN_UID], twin["metadata"]["uid"]);
    assert_eq!(world.at(0, "/api/v1/namespaces/shop").expect("home")["metadata"]["labels"][ownership::SCHEDULING], "true");
    let offloading = world.at(0, "/apis/offloading.liqo.io/v1beta1/namespaces/shop/namespaceoffloadings/offloading").expect("it");
    assert_eq!(offloading["status"]["offloadingPhase"], "Ready");
    // The budget of writes: ShadowPod, Pod, home status once.
    assert_eq!(world.writes("/pods") + world.writes("/shadowpods"), 3, "{:?}", world.calls);
    assert_eq!(world.sites[0].server.objects.keys().filter(|p| p.contains("rolebindings")).count(), 1);
    assert_eq!(world.count(1, "rolebindings"), 2);
}

#[test]
fn an_idle_peering_writes_leases_and_nothing_else() {
    let mut world = running();
    world.run(60);
    world.calls.clear();
    world.run(60);
    let leases = world.calls.iter().filter(|(_, _, path)| path.contains("/leases/")).count();
    assert_eq!((leases, world.calls.len()), (6, 6), "{:?}", world.calls);
}

#[test]
fn bindings_deleted_by_hand_come_back() {
    let mut world = running();
    let bindings: Vec<(usize, String)> =
        (0..2).flat_map(|s| world.sites[s].server.objects.keys().filter(|p| p.contains("rolebindings")).map(move |p| (s, p.clone()))).collect();
    assert_eq!(bindings.len(), 3);
    for (site, path) in &bindings {
        world.sites[*site].server.drop(path);
    }
    world.run(2);
    for (site, path) in &bindings {
        assert!(world.at(*site, path).is_some(), "{path}");
    }
}

#[test]
fn a_map_deleted_by_hand_comes_back_and_what_it_maps_has_stayed() {
    let mut world = running();
    let map = "/apis/offloading.liqo.io/v1beta1/namespaces/liqo-tenant-edge/namespacemaps/hub";
    let far = world.at(1, FAR_POD).expect("far pod")["metadata"]["uid"].clone();
    let before = world.at(1, map).expect("a map").clone();
    world.sites[1].server.drop(map);
    world.run(10);
    assert_eq!(world.at(1, map).expect("a map")["status"], before["status"]);
    assert_eq!(world.at(1, FAR_POD).expect("far pod")["metadata"]["uid"], far);
    assert_eq!(world.at(0, HOME_POD).expect("home pod")["status"]["phase"], "Running");
}

#[test]
fn a_lease_goes_on_whatever_the_clock_says() {
    let mut world = running();
    let time = |w: &World| WallTime::parse(w.at(0, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/hub")?["spec"]["renewTime"].as_str()?);
    // An hour back, in 1970, far ahead, right again; each time the daemon goes on, or begins anew and knows nothing of before.
    for (off, restart) in [(-3600, false), (-1_795_000_000, true), (86_400 * 365, false), (0, true), (0, false)] {
        let before = time(&world).expect("a lease");
        world.off = off;
        if restart {
            world.restart(0, GRANT);
        }
        world.run(15);
        let after = time(&world).expect("a lease");
        assert!(after > before, "{off}: {after} is not after {before}");
        assert!(after.0 < before.0.max(world.clock().wall.0) + 30, "{off}: {after}");
    }
}

#[test]
fn a_deleted_home_pod_goes_when_nothing_of_it_is_left() {
    let mut world = running();
    world.kubelet = false;
    world.sites[0].server.delete(HOME_POD, false);
    world.run(5);
    assert!(world.at(0, HOME_POD).is_some() && world.at(1, SHADOW).is_none() && world.at(1, FAR_POD).is_some());
    world.kubelet = true;
    world.run(5);
    assert!(world.at(0, HOME_POD).is_none() && world.at(1, FAR_POD).is_none());
    assert_eq!(world.sites[0].agent.rows(), 3);
    assert_eq!(world.sites[1].agent.facts.used.len(), 0);
}

#[test]
fn a_provider_pod_deleted_by_hand_comes_back_and_the_home_pod_keeps_its_uid() {
    let mut world = running();
    let (home, far) = (world.at(0, HOME_POD).expect("it")["metadata"]["uid"].clone(), world.at(1, FAR_POD).expect("it")["metadata"]["uid"].clone());
    world.sites[1].server.delete(FAR_POD, false);
    world.run(5);
    assert_eq!(world.at(0, HOME_POD).expect("it")["metadata"]["uid"], home);
    assert_ne!(world.at(1, FAR_POD).expect("it")["metadata"]["uid"], far);
    assert_eq!(world.at(0, HOME_POD).expect("it")["status"]["phase"], "Running");
}

#[test]
fn a_pod_taken_away_before_a_list_comes_back_though_the_answer_to_its_making_comes_after_it() {
    let mut world = World::new(GRANT);
    world.offload("shop");
    world.run(5);
    // The provider's watch on its pods tells nothing more, and the answer takes its time.
    let watch = *world.sites[1].watches.iter().find(|(_, w)| w.kind == KindId::MadePod).expect("it is watched").0;
    world.sites[1].watches.remove(&watch);
    world.slow = Some("/api/v1/namespaces/shop-edge/pods".into());
    world.pod("shop", "web-1", json!({}));
    world.run(1);
    let (site, call, reply) = world.under_way.take().expect("it was made");
    world.sites[1].server.drop(FAR_POD);
    let now = world.clock();
    world.sites[1].agent.handle_told(watch, Told::Expired, now);
    world.run(1);
    assert!(world.sites[1].watches.values().any(|w| w.kind == KindId::MadePod), "it is listed anew");
    let now = world.clock();
    world.sites[site].agent.handle_reply(call, reply, now);
    world.run(5);
    assert!(world.at(1, FAR_POD).is_some());
    assert_eq!(world.at(0, HOME_POD).expect("home pod")["status"]["phase"], "Running");
}

#[test]
fn another_pod_of_the_name_replaces_the_first_one_whole() {
    let mut world = running();
    world.link(false);
    world.sites[0].server.drop(HOME_POD);
    let uid = world.pod("shop", "web-1", json!({}))["metadata"]["uid"].clone();
    world.run(20);
    world.link(true);
    world.run(20);
    assert_eq!(world.at(1, FAR_POD).expect("far")["metadata"]["annotations"][ownership::HOME_UID], uid);
    assert_eq!(world.at(0, HOME_POD).expect("home")["status"]["phase"], "Running");
}

#[test]
fn restarts_change_nothing() {
    let mut world = running();
    let before: Vec<(usize, String, Value)> =
        (0..2).flat_map(|s| world.sites[s].server.objects.iter().map(move |(p, o)| (s, p.clone(), o["metadata"]["uid"].clone()))).collect();
    world.restart(0, GRANT);
    world.run(30);
    world.restart(1, GRANT);
    world.run(30);
    let after: Vec<(usize, String, Value)> =
        (0..2).flat_map(|s| world.sites[s].server.objects.iter().map(move |(p, o)| (s, p.clone(), o["metadata"]["uid"].clone()))).collect();
    assert_eq!(before, after);
    assert_eq!(world.at(0, HOME_POD).expect("it")["status"]["phase"], "Running");
}

#[test]
fn a_pod_from_a_namespace_that_is_not_offloaded_never_leaves_and_says_why_once() {
    let mut world = running();
    world.pod("other", "agent-1", json!({}));
    world.run(60);
    let pod = world.at(0, "/api/v1/namespaces/other/pods/agent-1").expect("it");
    assert_eq!((&pod["status"]["phase"], &pod["status"]["reason"]), (&json!("Pending"), &json!("OffloadingBackOff")));
    assert_eq!((world.count(1, "agent-1"), world.count(0, "/events/")), (0, 1));
}

#[test]
fn what_was_not_granted_waits_and_says_so_until_there_is_room() {
    let mut world = World::new(Amount { cpu: 150, ..GRANT });
    world.offload("shop");
    world.pod("shop", "web-1", json!({}));
    world.run(5);
    world.pod("shop", "web-2", json!({}));
    world.run(10);
    let status = |w: &World| w.at(0, "/api/v1/namespaces/shop/pods/web-2").expect("it")["status"].clone();
    assert_eq!((&status(&world)["phase"], &status(&world)["reason"]), (&json!("Pending"), &json!("OffloadingBackOff")));
    assert!(status(&world)["message"].as_str().expect("text").contains("cpu"), "{}", status(&world));
    world.sites[0].server.delete(HOME_POD, false);
    world.run(10);
    assert_eq!((&status(&world)["phase"], &status(&world)["reason"]), (&json!("Running"), &Value::Null));
}

/// Two twins of one consumer, and room for one pod: `web-1` runs in the first, `web-2` waits in the second.
fn crowded() -> World {
    let mut world = World::new(Amount { cpu: 150, ..GRANT });
    world.offload("shop");
    world.offload("other");
    world.pod("shop", "web-1", json!({}));
    world.run(5);
    world.pod("other", "web-2", json!({}));
    world.run(5);
    assert_eq!((world.count(1, "/pods/web-1"), world.count(1, "/pods/web-2")), (1, 0));
    world
}

#[test]
fn what_runs_counts_after_a_restart_before_its_twin_is_whole_again() {
    for first in ["shop-edge", "other-edge"] {
        let mut world = crowded();
        world.slow = Some(format!("/api/v1/namespaces/{first}/resourcequotas"));
        world.restart(1, Amount { cpu: 150, ..GRANT });
        world.run(30);
        assert!(world.under_way.is_some(), "{first} is not whole yet");
        assert_eq!((world.count(1, "/pods/web-1"), world.count(1, "/pods/web-2")), (1, 0), "{first}");
    }
}

#[test]
fn what_runs_counts_until_it_is_gone_whatever_becomes_of_its_twin() {
    let mut world = crowded();
    // The consumer names the twin no more, and the pod in it takes its time.
    let path = "/apis/offloading.liqo.io/v1beta1/namespaces/liqo-tenant-edge/namespacemaps/hub";
    let mut map = world.at(1, path).expect("the map").clone();
    map["spec"]["desiredMapping"].as_object_mut().expect("names").remove("shop");
    world.link(false);
    world.kubelet = false;
    world.sites[1].server.put(path, map);
    world.run(200);
    assert!(!world.at(1, "/api/v1/namespaces/shop-edge").expect("it takes its time")["metadata"]["deletionTimestamp"].is_null());
    assert_eq!((world.count(1, "/pods/web-1"), world.count(1, "/pods/web-2")), (1, 0));
    world.kubelet = true;
    world.run(70);
    assert_eq!((world.count(1, "/pods/web-1"), world.count(1, "/pods/web-2")), (0, 1));
}

#[test]
fn what_is_refused_of_a_consumers_objects_is_counted_by_reason() {
    let mut world = crowded();
    let counted = |w: &World| -> Vec<u64> { w.sites[1].agent.denials().map(|(_, count)| count).collect() };
    assert_eq!(counted(&world), [1, 0, 0, 0], "over the grant, once");
    world.run(300);
    assert_eq!(counted(&world), [1, 0, 0, 0], "that it waits is no news");
    let pod = json!({"hostNetwork": true, "containers": [{"name": "c", "image": "lq/web:1", "resources": {"requests": {"cpu": "1m"}}}]});
    world.sites[1].server.put(&SHADOW.replace("web-1", "web-3"), json!({"metadata": {"name": "web-3", "namespace": "shop-edge"}, "spec": {"pod": pod}}));
    world.run(10);
    assert_eq!(counted(&world), [1, 1, 0, 0]);
}

#[test]
fn a_namespace_with_a_consumers_marks_that_is_not_the_one_we_made_does_not_keep_it() {
    let mut world = running();
    // As a backup that was put back: marks and all, under a new UID.
    let path = "/api/v1/namespaces/shop-edge";
    let copy = world.at(1, path).expect("the twin").clone();
    world.sites[1].server.drop(path);
    world.sites[1].server.put(path, copy);
    world.run(5);
    world.sites[1].agent.remove_consumer(PEER);
    world.run(60);
    let events = world.events(1);
    assert!(events.contains(&Event::ConsumerGone { peer: PEER }));
    assert!(events.iter().any(|e| matches!(e, Event::Trouble { what } if what.contains("shop-edge"))), "{events:?}");
    assert!(world.at(1, path).is_some(), "what is not ours stays");
}

#[test]
fn a_name_that_no_api_server_gives_is_cut_at_a_character() {
    let mut world = running();
    let name = format!("a{}", "é".repeat(126));
    let path = format!("/api/v1/namespaces/shop-edge/services/{name}");
    world.sites[1].server.put(
        &path,
        json!({"metadata": {"name": name, "namespace": "shop-edge",
        "labels": {"sluice.internal/managed": "true", "offloading.liqo.io/origin": "edge"}}}),
    );
    let asked = format!("/api/v1/namespaces/shop-edge/services/a{}", "%C3%A9".repeat(126));
    world.denied = Some(asked.clone());
    world.restart(0, GRANT);
    world.run(30);
    assert!(world.calls.iter().any(|(site, verb, at)| (*site, *verb) == (0, Verb::Delete) && *at == asked), "its removal is tried");
}

#[test]
fn a_job_ends_once_and_its_end_is_latched_before_home_hears() {
    let mut world = World::new(GRANT);
    world.offload("shop");
    world.pod("shop", "web-1", json!({"restartPolicy": "Never"}));
    world.run(5);
    let mut far = world.at(1, FAR_POD).expect("far").clone();
    far["status"]["phase"] = json!("Succeeded");
    far["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
    world.sites[1].server.put(FAR_POD, far);
    world.run(5);
    assert_eq!(world.at(1, SHADOW).expect("shadow")["status"]["phase"], "Succeeded");
    assert_eq!(world.at(0, HOME_POD).expect("home")["status"]["phase"], "Succeeded");
    world.sites[1].server.drop(FAR_POD);
    world.restart(1, GRANT);
    world.run(90);
    assert!(world.at(1, FAR_POD).is_none());
}

#[test]
fn a_never_pod_lost_after_it_began_is_failed_and_not_begun_again() {
    let mut world = World::new(GRANT);
    world.offload("shop");
    world.pod("shop", "web-1", json!({"restartPolicy": "Never"}));
    world.run(5);
    world.sites[1].server.drop(FAR_POD);
    world.restart(1, GRANT);
    world.run(60);
    assert_eq!(world.at(1, SHADOW).expect("shadow")["status"]["phase"], "Failed");
    assert_eq!(world.at(0, HOME_POD).expect("home")["status"]["phase"], "Failed");
    assert!(world.at(1, FAR_POD).is_none());
}

#[test]
fn a_node_that_others_delete_is_made_again() {
    let mut world = running();
    world.sites[0].server.drop("/api/v1/nodes/hub");
    world.run(5);
    let node = world.at(0, "/api/v1/nodes/hub").expect("made again");
    assert_eq!((&node["status"]["nodeInfo"]["architecture"], &node["status"]["capacity"]["pods"]), (&json!("arm64"), &json!("20")));
    assert_eq!(world.at(0, HOME_POD).expect("it")["status"]["phase"], "Running");
}

#[test]
fn a_node_that_is_not_ours_is_never_touched() {
    let mut world = World::new(GRANT);
    let node = world.sites[0].server.put("/api/v1/nodes/hub", json!({"metadata": {"name": "hub"}}));
    world.run(60);
    assert_eq!(world.at(0, "/api/v1/nodes/hub"), Some(&node));
    assert_eq!(world.events(0).iter().filter(|e| matches!(e, Event::NodeTaken { .. })).count(), 1);
}

#[test]
fn a_twin_name_that_is_taken_is_refused_and_heals_when_it_is_free() {
    let mut world = World::new(GRANT);
    world.sites[1].server.put("/api/v1/namespaces/shop-edge", json!({"metadata": {"name": "shop-edge"}}));
    world.offload("shop");
    world.run(10);
    let path = "/apis/offloading.liqo.io/v1beta1/namespaces/shop/namespaceoffloadings/offloading";
    assert_eq!(world.at(0, path).expect("it")["status"]["offloadingPhase"], "AllFailed");
    world.sites[1].server.drop("/api/v1/namespaces/shop-edge");
    world.run(10);
    assert_eq!(world.at(0, path).expect("it")["status"]["offloadingPhase"], "Ready");
}

#[test]
fn a_provider_is_told_of_anothers_pods_while_a_slice_names_them() {
    let mut world = World::new(GRANT);
    let from = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/web-abc";
    let there = "/apis/discovery.k8s.io/v1/namespaces/shop-edge/endpointslices/web-abc";
    let slice = |endpoints: &[(&str, &str)]| {
        let mut slice: Value = serde_json::from_str(include_str!("kinds/golden/slice.json")).expect("golden");
        slice["endpoints"] = endpoints.iter().map(|(address, node)| json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": node})).collect();
        slice
    };
    let told = |w: &World| -> Vec<String> {
        let slice = w.at(1, there).expect("a slice");
        slice["endpoints"].as_array().expect("endpoints").iter().map(|e| e["addresses"][0].as_str().expect("an address").to_owned()).collect()
    };
    let field = |w: &mut World| {
        w.sites[0].agent.add_provider(ProviderSpec {
            peer: PeerId(PEER.0 + 1),
            cluster: "field".parse().expect("an ID"),
            node: "field".into(),
            tenant_namespace: "liqo-tenant-edge".into(),
            grant: GRANT,
            architecture: "arm64".into(),
            images: vec![("10.42.0.0/16".parse().expect("a prefix"), "10.73.0.0/16".parse().expect("a prefix"))],
            address: [10, 70, 3, 2].into(),
        });
        w.run(5);
    };
    let place = (Ipv4Addr::from([10, 70, 128 + 2 * (PEER.0 + 1), 7]), Ipv4Addr::from([10, 73, 0, 7]));
    let image = format!("10.72.{}.7", 2 * (PEER.0 + 1));
    world.offload("shop");
    let all = [("10.42.0.9", "board"), ("10.71.0.5", "hub"), ("10.73.0.7", "field"), ("192.168.1.5", "board")];
    world.sites[0].server.put(from, slice(&all));
    world.run(5);
    assert_eq!(told(&world), ["10.71.0.9"], "an address that is nobody's is told to nobody");
    field(&mut world);
    assert_eq!(told(&world), ["10.71.0.9".to_owned(), image.clone()]);
    assert_eq!(world.sites[0].agent.transit(PEER), [place]);
    assert_eq!(world.sites[0].agent.poll_transit(), Some((PEER, vec![place])));
    assert!(world.sites[0].agent.transit(PeerId(PEER.0 + 1)).is_empty(), "nothing is offloaded there");
    // A start from nothing comes to the same, whatever it learns first.
    world.restart(0, GRANT);
    field(&mut world);
    assert_eq!((told(&world), world.sites[0].agent.transit(PEER)), (vec!["10.71.0.9".to_owned(), image], vec![place]));
    world.sites[0].server.put(from, slice(&all[..2]));
    world.run(5);
    assert_eq!((told(&world), world.sites[0].agent.transit(PEER)), (vec!["10.71.0.9".to_owned()], vec![]));
    world.sites[0].server.put(from, slice(&all));
    world.run(5);
    assert_eq!(world.sites[0].agent.transit(PEER), [place]);
    world.sites[0].server.delete(from, false);
    world.run(5);
    assert!(world.sites[0].agent.transit(PEER).is_empty());
}

#[test]
fn what_a_pod_needs_goes_with_it_and_nothing_else() {
    let mut world = World::new(GRANT);
    let put = |w: &mut World, path: &str, body: Value| drop(w.sites[0].server.put(path, body));
    for name in ["used", "unused"] {
        put(&mut world, &format!("/api/v1/namespaces/shop/configmaps/{name}"), json!({"metadata": {"name": name, "namespace": "shop"}, "data": {"a": "1"}}));
    }
    put(&mut world, "/api/v1/namespaces/shop/secrets/key", json!({"metadata": {"name": "key", "namespace": "shop"}, "type": "Opaque", "data": {"a": "MQ=="}}));
    let slice: Value = serde_json::from_str(include_str!("kinds/golden/slice.json")).expect("golden");
    put(&mut world, "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/web-abc", slice);
    put(
        &mut world,
        "/api/v1/namespaces/shop/services/web",
        json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"clusterIP": "10.43.0.9", "ports": [{"port": 80}]}}),
    );
    world.offload("shop");
    world.pod("shop", "web-1", json!({"volumes": [{"name": "v", "configMap": {"name": "used"}}, {"name": "s", "secret": {"secretName": "key"}}]}));
    world.run(5);
    assert_eq!((world.count(1, "/configmaps/"), world.count(1, "/secrets/"), world.count(1, "shop-edge/services/")), (1, 1, 1));
    let rendered = "/apis/discovery.k8s.io/v1/namespaces/shop-edge/endpointslices/web-abc";
    assert_eq!(
        world.at(1, rendered).expect("slice")["endpoints"],
        json!([{"addresses": ["10.71.0.9"], "conditions": {"ready": true, "serving": true, "terminating": false}}])
    );
    assert_eq!(world.at(1, rendered).expect("slice")["metadata"]["labels"]["kubernetes.io/service-name"], "web");
    // A change at home follows; a consumer that is away has no ready endpoints.
    put(&mut world, "/api/v1/namespaces/shop/configmaps/used", json!({"metadata": {"name": "used", "namespace": "shop"}, "data": {"a": "2"}}));
    world.run(5);
    assert_eq!(world.at(1, "/api/v1/namespaces/shop-edge/configmaps/used").expect("it")["data"]["a"], "2");
    world.link(false);
    world.run(5);
    assert_eq!(world.at(1, rendered).expect("slice")["endpoints"][0]["conditions"]["ready"], false);
    world.link(true);
    world.run(5);
    assert_eq!(world.at(1, rendered).expect("slice")["endpoints"][0]["conditions"]["ready"], true);
    // What nobody uses any more goes.
    world.sites[0].server.delete(HOME_POD, false);
    world.run(10);
    assert_eq!((world.count(1, "/configmaps/"), world.count(1, "/secrets/"), world.count(1, "shop-edge/services/")), (0, 0, 1));
}

#[test]
fn an_object_others_made_in_the_twin_is_left_alone() {
    let mut world = running();
    let theirs = world.sites[1]
        .server
        .put("/api/v1/namespaces/shop-edge/services/web", json!({"metadata": {"name": "web", "namespace": "shop-edge"}, "spec": {"mine": true}}));
    world.sites[0]
        .server
        .put("/api/v1/namespaces/shop/services/web", json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"ports": [{"port": 80}]}}));
    world.run(30);
    assert_eq!(world.at(1, "/api/v1/namespaces/shop-edge/services/web"), Some(&theirs));
    assert_eq!(world.count(0, "/events/"), 1);
}

#[test]
fn unoffloading_leaves_nothing() {
    let mut world = running();
    world.sites[0].server.drop("/apis/offloading.liqo.io/v1beta1/namespaces/shop/namespaceoffloadings/offloading");
    world.run(20);
    assert_eq!((world.count(1, "shop-edge"), world.count(0, "rolebindings")), (0, 0));
    let labels = &world.at(0, "/api/v1/namespaces/shop").expect("home")["metadata"]["labels"];
    assert!(labels.get(ownership::SCHEDULING).is_none() && labels.get(ownership::MANAGED).is_none());
    let status = &world.at(0, HOME_POD).expect("it")["status"];
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("OffloadingAborted")));
}

#[test]
fn a_provider_that_is_left_takes_pods_node_and_twin_along() {
    let mut world = running();
    world.sites[0].agent.remove_provider(PEER, How::Asked);
    world.run(20);
    assert!(world.events(0).contains(&Event::ProviderGone { peer: PEER, owed: false }));
    assert!(world.at(0, HOME_POD).is_none() && world.at(0, "/api/v1/nodes/hub").is_none());
    assert_eq!((world.count(0, "/leases/"), world.count(0, "rolebindings"), world.count(1, "shop-edge")), (0, 0, 0));
    assert!(world.at(0, "/api/v1/namespaces/shop").expect("home")["metadata"]["labels"].get(ownership::MANAGED).is_none());
}

#[test]
fn a_dead_provider_is_left_within_thirty_seconds_and_what_is_owed_is_said() {
    let mut world = running();
    world.link(false);
    world.run(5);
    world.sites[0].agent.remove_provider(PEER, How::Asked);
    world.run(30);
    assert!(world.events(0).contains(&Event::ProviderGone { peer: PEER, owed: true }));
    assert!(world.at(0, HOME_POD).is_none() && world.at(0, "/api/v1/nodes/hub").is_none());
    assert_eq!(world.count(0, "rolebindings"), 0);
}

#[test]
fn a_consumer_that_leaves_takes_its_twins_along_even_after_a_restart() {
    let mut world = running();
    world.link(false);
    world.sites[1].server.drop("/apis/offloading.liqo.io/v1beta1/namespaces/liqo-tenant-edge/namespacemaps/hub");
    world.restart(1, GRANT);
    world.sites[1].agent.remove_consumer(PEER);
    world.run(10);
    assert!(world.events(1).contains(&Event::ConsumerGone { peer: PEER }));
    assert_eq!(world.count(1, "shop-edge"), 0);
    assert!(world.at(1, "/api/v1/namespaces/shop").is_some());
}

#[test]
fn a_twin_whose_making_is_under_way_when_its_consumer_leaves_goes_too_whatever_comes_of_the_answer() {
    for lost in [false, true] {
        let mut world = World::new(GRANT);
        world.run(5);
        // The provider's watch on namespaces tells nothing for a while, and the answer takes its time.
        let watch = *world.sites[1].watches.iter().find(|(_, w)| w.kind == KindId::Namespace).expect("it is watched").0;
        world.sites[1].watches.remove(&watch);
        world.slow = Some("/api/v1/namespaces".into());
        world.offload("shop");
        world.run(1);
        let (site, call, reply) = world.under_way.take().expect("it was made");
        world.sites[1].agent.remove_consumer(PEER);
        world.run(20);
        assert!(!world.events(1).contains(&Event::ConsumerGone { peer: PEER }), "it is waited for");
        let now = world.clock();
        world.sites[site].agent.handle_reply(call, if lost { Reply::Unreachable("cut".into()) } else { reply }, now);
        world.run(5);
        assert!(world.at(1, "/api/v1/namespaces/shop-edge").is_none(), "lost: {lost}");
        let now = world.clock();
        world.sites[1].agent.handle_told(watch, Told::Expired, now);
        world.run(10);
        assert!(world.events(1).contains(&Event::ConsumerGone { peer: PEER }), "lost: {lost}");
    }
}

#[test]
fn a_namespace_deleted_while_daemon_and_peer_are_off_goes_within_thirty_seconds() {
    let mut world = running();
    world.link(false);
    world.sites[0].server.delete("/api/v1/namespaces/shop", false);
    world.sites[0].server.end_namespaces();
    assert!(world.at(0, HOME_POD).is_some());
    world.restart(0, GRANT);
    world.run(30);
    assert!(world.at(0, "/api/v1/namespaces/shop").is_none());
    world.link(true);
    world.run(20);
    assert_eq!(world.count(1, "shop-edge"), 0);
}

#[test]
fn a_pod_deleted_while_the_peer_is_away_waits_for_it() {
    let mut world = running();
    world.link(false);
    world.sites[0].server.delete(HOME_POD, false);
    world.run(60);
    assert!(world.at(0, HOME_POD).is_some());
    world.link(true);
    world.run(10);
    assert!(world.at(0, HOME_POD).is_none() && world.at(1, SHADOW).is_none() && world.at(1, FAR_POD).is_none());
}

#[test]
fn a_lost_answer_neither_loses_nor_doubles_a_pod() {
    let mut world = World::new(GRANT);
    world.offload("shop");
    world.run(5);
    let uid = world.pod("shop", "web-1", json!({}))["metadata"]["uid"].clone();
    let now = world.clock();
    // The ShadowPod arrives, its answer does not.
    for _ in 0..50 {
        world.sites[0].agent.handle_timeout(now);
        let ids: Vec<WatchId> = world.sites[0].watches.iter().filter(|(_, w)| w.kind == KindId::HomePod).map(|(id, _)| *id).collect();
        for id in ids {
            let seen = read(KindId::HomePod, world.at(0, HOME_POD).expect("it").to_string().as_bytes()).expect("readable");
            world.sites[0].agent.handle_told(id, Told::Seen(seen), now);
        }
        while let Some((id, call)) = world.sites[0].agent.poll_call() {
            let lost = call.path.contains("shadowpods");
            let reply = world.call(0, call);
            world.sites[0].agent.handle_reply(id, if lost { Reply::Unreachable("lost".into()) } else { reply }, now);
        }
    }
    world.run(20);
    assert_eq!(world.at(1, FAR_POD).expect("far")["metadata"]["annotations"][ownership::HOME_UID], uid);
    assert_eq!(world.at(0, HOME_POD).expect("home")["status"]["phase"], "Running");
    assert_eq!(world.count(1, "/shadowpods/"), 1);
}

#[test]
fn two_clusters_are_each_others_consumer_and_provider_at_once() {
    let mut world = running();
    world.both = true;
    let now = world.clock();
    let images = vec![("10.42.0.0/16".parse().expect("a prefix"), "10.71.0.0/16".parse().expect("a prefix"))];
    world.sites[1].agent.add_provider(ProviderSpec {
        peer: PEER,
        cluster: "edge".parse().expect("an ID"),
        node: "edge".into(),
        tenant_namespace: "liqo-tenant-hub".into(),
        grant: GRANT,
        architecture: "amd64".into(),
        images: images.clone(),
        address: [10, 70, 3, 1].into(),
    });
    world.sites[0].agent.add_consumer(ConsumerSpec {
        peer: PEER,
        cluster: "hub".parse().expect("an ID"),
        tenant_namespace: "liqo-tenant-hub".into(),
        account: "tenant".into(),
        grant: GRANT,
        images,
        names: vec![],
    });
    for site in &mut world.sites {
        site.agent.set_reachable(PEER, true, now);
    }
    // A twin is never offloaded again.
    for namespace in ["shop", "shop-edge"] {
        let offloading = json!({"metadata": {"name": "offloading", "namespace": namespace}, "spec": {"podOffloadingStrategy": "Remote"}});
        world.sites[1].server.put(&format!("/apis/offloading.liqo.io/v1beta1/namespaces/{namespace}/namespaceoffloadings/offloading"), offloading);
    }
    let pod =
        json!({"metadata": {"name": "db-1", "namespace": "shop"}, "spec": {"nodeName": "edge", "containers": [{"name": "c"}]}, "status": {"phase": "Pending"}});
    world.sites[1].server.put("/api/v1/namespaces/shop/pods/db-1", pod);
    world.run(20);
    assert_eq!(world.at(1, "/api/v1/namespaces/shop/pods/db-1").expect("home")["status"]["phase"], "Running");
    assert!(world.at(0, "/api/v1/namespaces/shop-hub/pods/db-1").is_some());
    assert_eq!(world.at(0, HOME_POD).expect("home")["status"]["phase"], "Running");
    assert_eq!(world.count(0, "/namespaces/shop-edge-hub"), 0);
    let refused = world.at(1, "/apis/offloading.liqo.io/v1beta1/namespaces/shop-edge/namespaceoffloadings/offloading").expect("it");
    assert_eq!(refused["status"]["offloadingPhase"], "AllFailed");
    // One direction ends, the other goes on.
    world.sites[1].agent.remove_provider(PEER, How::Asked);
    world.run(20);
    assert!(world.events(1).contains(&Event::ProviderGone { peer: PEER, owed: false }));
    assert_eq!((world.count(0, "shop-hub"), world.at(1, "/api/v1/nodes/edge").is_some()), (0, false));
    assert_eq!(world.at(0, HOME_POD).expect("home")["status"]["phase"], "Running");
    assert!(world.at(1, FAR_POD).is_some());
}

#[test]
fn a_daemon_set_on_the_virtual_node_does_not_keep_a_provider_from_leaving() {
    let mut world = running();
    world.pod("other", "agent-1", json!({}));
    world.run(5);
    world.sites[0].agent.remove_provider(PEER, How::Asked);
    for _ in 0..60 {
        world.run(1);
        if world.at(0, "/api/v1/nodes/hub").is_some() && world.at(0, "/api/v1/namespaces/other/pods/agent-1").is_none() {
            world.pod("other", "agent-1", json!({}));
        }
    }
    assert!(world.events(0).iter().any(|e| matches!(e, Event::ProviderGone { .. })));
    assert_eq!((world.count(0, "/nodes/"), world.count(0, "/pods/")), (0, 0));
}

#[test]
fn rows_are_small() {
    let (row, pod, shadow) = (size_of::<table::Row>(), size_of::<kinds::pod::PodRow>(), size_of::<kinds::shadow::ShadowRow>());
    assert!(row <= 192 && pod <= 448 && shadow <= 320, "{row} {pod} {shadow}");
}

#[test]
fn whatever_happens_all_is_well_once_it_is_over() {
    for seed in 1..=40_u64 {
        let mut world = World::new(GRANT);
        world.chance = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        world.offload("shop");
        let service = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"ports": [{"port": 80}]}});
        world.sites[0].server.put("/api/v1/namespaces/shop/services/web", service);
        let map = json!({"metadata": {"name": "conf", "namespace": "shop"}, "data": {"a": "1"}});
        world.sites[0].server.put("/api/v1/namespaces/shop/configmaps/conf", map);
        world.trouble = 6;
        let offloading = "/apis/offloading.liqo.io/v1beta1/namespaces/shop/namespaceoffloadings/offloading";
        for _ in 0..30 {
            let name = format!("web-{}", world.dice(3));
            let home = format!("/api/v1/namespaces/shop/pods/{name}");
            let far = format!("/api/v1/namespaces/shop-edge/pods/{name}");
            match world.dice(10) {
                0 | 1 if world.at(0, &home).is_none() => drop(world.pod("shop", &name, json!({"volumes": [{"name": "v", "configMap": {"name": "conf"}}]}))),
                0..=2 => world.sites[0].server.delete(&home, false),
                3 => world.sites[0].server.drop(&home),
                4 => world.sites[1].server.delete(&far, false),
                5 => world.link(!world.up),
                6 => world.restart(0, GRANT),
                7 => world.restart(1, GRANT),
                8 if world.at(0, offloading).is_some() => world.sites[0].server.drop(offloading),
                8 => world.offload("shop"),
                _ => world.sites[1].server.delete("/api/v1/namespaces/shop-edge", false),
            }
            let seconds = world.dice(8);
            world.run(seconds);
        }
        world.trouble = 0;
        world.link(true);
        if world.at(0, offloading).is_none() {
            world.offload("shop");
        }
        world.run(400);
        let homes: Vec<(String, Value)> =
            world.sites[0].server.objects.iter().filter(|(p, _)| p.contains("/shop/pods/")).map(|(p, o)| (p.clone(), o.clone())).collect();
        let mut live = 0;
        for (path, home) in &homes {
            assert!(home["metadata"]["deletionTimestamp"].is_null(), "seed {seed}: {path} is stuck");
            let far = world.at(1, &path.replace("/shop/", "/shop-edge/"));
            if home["status"]["phase"] == "Failed" {
                assert!(far.is_none(), "seed {seed}: {path} is aborted and runs");
                continue;
            }
            live += 1;
            let far = far.unwrap_or_else(|| panic!("seed {seed}: {path} is not there: {home}"));
            assert_eq!(far["metadata"]["annotations"][ownership::HOME_UID], home["metadata"]["uid"], "seed {seed}: {path}");
            assert_eq!(home["status"]["phase"], "Running", "seed {seed}: {path}");
        }
        assert_eq!(world.count(1, "/pods/"), live, "seed {seed}: pods nobody owns");
        assert_eq!(world.count(1, "/shadowpods/"), live, "seed {seed}: ShadowPods nobody owns");
        assert_eq!(world.count(1, "shop-edge/configmaps/"), usize::from(!homes.is_empty()), "seed {seed}");
        assert_eq!(world.count(1, "shop-edge/services/"), 1, "seed {seed}");
        let used = world.sites[1].agent.facts.used.values().fold(0, |sum, a| sum + a.pods);
        assert_eq!(used as usize, live, "seed {seed}: the grant is miscounted");
        world.sites[0].agent.remove_provider(PEER, How::Asked);
        world.run(60);
        assert_eq!((world.count(1, "shop-edge"), world.count(0, "/nodes/"), world.count(0, "/shop/pods/")), (0, 0, 0), "seed {seed}: something is left");
    }
}

#[test]
fn nonsense_in_objects_is_refused_without_a_panic() {
    let kinds = [
        KindId::Node,
        KindId::Namespace,
        KindId::Offloading,
        KindId::Binding,
        KindId::NamespaceMap,
        KindId::HomePod,
        KindId::FarPod,
        KindId::ShadowPod,
        KindId::MadePod,
        KindId::Service,
        KindId::EndpointSlice,
        KindId::ConfigMap,
        KindId::Secret,
        KindId::ShadowSlice,
        KindId::Copy,
    ];
    for kind in kinds {
        for text in
            ["", "{", "null", "[]", "{\"metadata\":null}", "{\"metadata\":{}}", "{\"metadata\":{\"name\":3}}", "{\"spec\":[],\"metadata\":{\"name\":\"a\"}}"]
        {
            let _ = read(kind, text.as_bytes());
        }
        let long = format!("{{\"metadata\":{{\"name\":\"a\",\"uid\":\"{}\"}}}}", "x".repeat(37));
        if !matches!(kind, KindId::Binding | KindId::Service | KindId::EndpointSlice | KindId::ConfigMap | KindId::Secret | KindId::ShadowSlice) {
            assert!(read(kind, long.as_bytes()).is_err(), "{kind:?}");
        }
    }
    let _ = (Uid::new(), Unfit::Changed);
}
