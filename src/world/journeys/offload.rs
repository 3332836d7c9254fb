//! Pods there and back: a consumer's and a provider's agent over two API servers, while users work on both and everything goes wrong.
//!
//! Always: what the watchdog watches, and no pod of a user is another than the one he made. In the end, all being well again: each home pod on the virtual
//! node has its one pod at the provider and its status, nothing else is there, what pods need has come along, and nobody writes but leases.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use super::script::{Script, seeds, walk_seeds};
use crate::clock::Instant;
use crate::identity::{PeerId, Prefix};
use crate::kube::call::{Call, Cluster, Verb};
use crate::kube::reply::Reply;
use crate::kube::watch::{Told, Watch};
use crate::offload::{Agent, AgentSpec, Amount, ConsumerSpec, KindId, Order, ProviderSpec, WatchId, read};
use crate::world::api_server::server::terminating;
use crate::world::api_server::{Faults, Key, StreamId, stream};
use crate::world::chance::Chance;
use crate::world::clock::{Agenda, Clock};
use crate::world::site::{Site, carry_out};
use crate::world::watchdog::{HOME_UID, Watchdog};

const EDGE: usize = 0;
const HUB: usize = 1;
const NAMES: [&str; 2] = ["edge", "hub"];
const TWIN: &str = "shop-edge";
const PODS: &str = "/api/v1/namespaces/shop/pods";
const TWIN_PODS: &str = "/api/v1/namespaces/shop-edge/pods";
const SETS: &str = "/apis/apps/v1/namespaces/shop/replicasets";

/// A process that runs an agent.
struct Daemon {
    agent: Agent,
    feeds: BTreeMap<WatchId, Feed>,
    /// Counts restarts: what was under way for an earlier life is answered to nobody.
    life: u32,
}

struct Feed {
    kind: KindId,
    site: usize,
    stream: StreamId,
}

enum Due {
    Open(WatchId, KindId, Watch),
    Do(u32, Call),
    Answer(u32, Reply),
    /// The daemon looks how the link is.
    Reachable,
}

struct Journey {
    seed: u64,
    script: Script,
    chance: Chance,
    clock: Clock,
    sites: Vec<Site>,
    daemons: Vec<Daemon>,
    /// For which daemon, in which of its lives.
    due: Agenda<(usize, u32, Due)>,
    /// The way between the two sites is open.
    linked: bool,
    watchdog: Watchdog,
    /// A copy was taken away at the provider: only the hourly sweep finds that.
    robbed: bool,
    /// Pods that users made by themselves and have not deleted: name to UID.
    made: BTreeMap<String, Value>,
    counter: u32,
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

fn agent(site: usize, seed: u64, clock: &Clock) -> Agent {
    let (cluster, pods) = (NAMES[site].parse().expect("an ID"), vec![prefix("10.42.0.0/16")]);
    let spec = AgentSpec { cluster, pods, transit: None, kubelet_version: "v1.37.0".into(), seed };
    let mut agent = Agent::new(spec, clock.now());
    let grant = Amount { cpu: 8_000, memory: 8 << 30, pods: 50 };
    let tenant_namespace = "liqo-tenant-edge".to_owned();
    if site == EDGE {
        agent.add_provider(ProviderSpec {
            peer: PeerId(0),
            cluster: "hub".parse().expect("an ID"),
            node: "hub".into(),
            tenant_namespace,
            grant,
            architecture: "arm64".into(),
            images: vec![(prefix("10.42.0.0/16"), prefix("10.71.0.0/16"))],
            address: [10, 70, 3, 1].into(),
        });
    } else {
        agent.add_consumer(ConsumerSpec {
            peer: PeerId(0),
            cluster: "edge".parse().expect("an ID"),
            tenant_namespace,
            account: "tenant".into(),
            grant,
            images: vec![(prefix("10.42.0.0/16"), prefix("10.72.0.0/16"))],
            names: Vec::new(),
        });
    }
    agent
}

impl Journey {
    fn new(script: Script) -> Self {
        let seed = script.seed;
        let mut chance = Chance::new(seed);
        let clock = Clock::new();
        let mut sites: Vec<Site> = NAMES.iter().map(|name| Site::new(name, &mut chance)).collect();
        sites[EDGE].api.make("/api/v1/namespaces", json!({"metadata": {"name": "shop"}}));
        sites[EDGE].api.make("/api/v1/namespaces", json!({"metadata": {"name": "other"}}));
        let shop = "/api/v1/namespaces/shop";
        sites[EDGE].api.make(&format!("{shop}/configmaps"), json!({"metadata": {"name": "conf"}, "data": {"colour": "red"}}));
        sites[EDGE].api.make(&format!("{shop}/secrets"), json!({"metadata": {"name": "key"}, "type": "Opaque", "data": {"k": "c2VjcmV0"}}));
        sites[EDGE].api.make(
            &format!("{shop}/services"),
            json!({"metadata": {"name": "web"}, "spec": {"type": "ClusterIP", "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]}}),
        );
        sites[EDGE].controllers.place.insert("shop".into(), vec!["hub".into(), "edge-1".into()]);
        sites[EDGE].controllers.place.insert("other".into(), vec!["hub".into()]);
        sites[HUB].api.make("/api/v1/namespaces", json!({"metadata": {"name": "liqo-tenant-edge", "labels": tenant_labels()}}));
        sites[HUB].api.make("/api/v1/namespaces/default/pods", pod("bystander", "i"));
        let offloading =
            json!({"metadata": {"name": "offloading"}, "spec": {"podOffloadingStrategy": "LocalAndRemote", "namespaceMappingStrategy": "DefaultName"}});
        sites[EDGE].api.make("/apis/offloading.liqo.io/v1beta1/namespaces/shop/namespaceoffloadings", offloading);
        sites[EDGE].api.make(SETS, json!({"metadata": {"name": "web"}, "spec": {"replicas": 3, "template": pod("", "i")}}));
        let daemons = (0..2).map(|site| Daemon { agent: agent(site, chance.bits(), &clock), feeds: BTreeMap::new(), life: 0 }).collect();
        let mut journey = Journey {
            seed,
            script,
            chance,
            clock,
            sites,
            daemons,
            due: Agenda::default(),
            linked: true,
            watchdog: Watchdog::default(),
            robbed: false,
            made: BTreeMap::new(),
            counter: 0,
        };
        journey.hear_of_link(0);
        journey
    }

    /// One event of the journey, unless its script leaves it out.
    fn event(&mut self, what: impl FnOnce(&mut Self)) {
        if let Some(own) = self.script.event() {
            let others = std::mem::replace(&mut self.chance, own);
            what(self);
            self.chance = others;
        }
    }

    fn tell(&self, what: &str) {
        if self.script.told {
            println!("{:9.3} {what}", self.clock.now().mono.since_boot().as_secs_f64());
        }
    }

    /// Both daemons notice how the link is, each after a while.
    fn hear_of_link(&mut self, most: u64) {
        for which in [EDGE, HUB] {
            let after = Duration::from_millis(self.chance.below(most + 1));
            self.due.put(self.clock.now().mono + after, (which, self.daemons[which].life, Due::Reachable));
        }
    }

    /// The site a cluster is to a daemon; none while the link is cut.
    fn way(&self, which: usize, to: Cluster) -> Option<usize> {
        match to {
            Cluster::Home => Some(which),
            Cluster::Peer(_) => self.linked.then_some(1 - which),
        }
    }

    fn latency(&mut self, to: Cluster) -> Duration {
        let (from, most) = if to == Cluster::Home { (500, 15_000) } else { (20_000, 180_000) };
        let slow = if self.chance.happens(20) { 10 } else { 1 };
        Duration::from_micros((from + self.chance.below(most)) * slow)
    }

    /// Takes what an agent wants done.
    fn drain(&mut self, which: usize) {
        let now = self.clock.now().mono;
        while let Some(order) = self.daemons[which].agent.poll_watch() {
            if self.script.told {
                self.tell(&format!("{} orders {order:?}", NAMES[which]));
            }
            match order {
                Order::Open { id, kind, watch } => {
                    let after = self.latency(watch.on);
                    self.due.put(now + after, (which, self.daemons[which].life, Due::Open(id, kind, watch)));
                }
                Order::Close { id } => {
                    if let Some(feed) = self.daemons[which].feeds.remove(&id) {
                        self.sites[feed.site].api.unwatch(feed.stream);
                    }
                    let life = self.daemons[which].life;
                    self.due.retain(|(w, l, due)| !(*w == which && *l == life && matches!(due, Due::Open(open, ..) if *open == id)));
                }
            }
        }
        while let Some((id, call)) = self.daemons[which].agent.poll_call() {
            let after = self.latency(call.to);
            self.due.put(now + after, (which, self.daemons[which].life, Due::Do(id, call)));
        }
        while let Some(event) = self.daemons[which].agent.poll_event() {
            self.tell(&format!("{} says {event:?}", NAMES[which]));
        }
    }

    fn carry(&mut self, which: usize, life: u32, due: Due) {
        let now = self.clock.now();
        let alive = life == self.daemons[which].life;
        match due {
            Due::Do(id, call) => {
                // A request that a dead process had sent may still arrive, or not.
                if !alive && self.chance.happens(500) {
                    return;
                }
                let (to, what) = (call.to, format!("{} {:?} {:?} {}", NAMES[which], call.verb, call.to, call.path));
                let way: Vec<Option<usize>> = [Cluster::Home, Cluster::Peer(PeerId(0))].map(|to| self.way(which, to)).to_vec();
                let reply = carry_out(&mut self.sites, NAMES[which], |to| way[usize::from(to != Cluster::Home)], call);
                if self.script.told {
                    let said = format!("{reply:?}");
                    self.tell(&format!("{what} -> {}", &said[..said.len().min(60)]));
                }
                if alive {
                    let after = self.latency(to);
                    self.due.put(now.mono + after, (which, life, Due::Answer(id, reply)));
                }
            }
            _ if !alive => return,
            Due::Answer(id, reply) => self.daemons[which].agent.handle_reply(id, reply, now),
            Due::Reachable => self.daemons[which].agent.set_reachable(PeerId(0), self.linked, now),
            Due::Open(id, kind, watch) => match self.way(which, watch.on) {
                Some(site) => {
                    let stream = self.sites[site].api.watch(&watch.path, watch.from.as_deref());
                    self.daemons[which].feeds.insert(id, Feed { kind, site, stream });
                }
                None => self.daemons[which].agent.handle_told(id, Told::Cut, now),
            },
        }
        self.drain(which);
    }

    /// Tells one thing of one watch that has news. False if none has.
    fn tell_one(&mut self) -> bool {
        let mut news = Vec::new();
        for (which, daemon) in self.daemons.iter().enumerate() {
            for (id, feed) in &daemon.feeds {
                let cut = feed.site != which && !self.linked;
                if cut || self.sites[feed.site].api.has_news(feed.stream) {
                    news.push((which, *id, cut));
                }
            }
        }
        let Some(&(which, id, cut)) = self.chance.pick(&news) else { return false };
        let feed = &self.daemons[which].feeds[&id];
        let (site, stream, kind) = (feed.site, feed.stream, feed.kind);
        let said = if cut {
            self.sites[site].api.unwatch(stream);
            Some(Told::Cut)
        } else {
            self.sites[site].api.told(stream).map(|told| stream::read(told, |object| read(kind, object)))
        };
        let Some(said) = said else { return true };
        if self.script.told {
            let what = format!("{said:?}");
            self.tell(&format!("{} is told {id:?} {kind:?} {}", NAMES[which], &what[..what.len().min(160)]));
        }
        if matches!(said, Told::Cut | Told::Expired | Told::Refused(_)) {
            self.daemons[which].feeds.remove(&id);
        }
        self.daemons[which].agent.handle_told(id, said, self.clock.now());
        self.drain(which);
        true
    }

    fn check(&mut self) {
        if let Err(why) = self.watchdog.look(&self.sites, &NAMES) {
            panic!("seed {} at {:?}: {why}", self.seed, self.clock.now().mono);
        }
        for (name, uid) in &self.made {
            let now = self.sites[EDGE].api.look(&format!("{PODS}/{name}")).map(|p| &p["metadata"]["uid"]);
            assert_eq!(now, Some(uid), "seed {}: the user's pod {name} is another or gone", self.seed);
        }
        for site in &mut self.sites {
            site.api.journal.clear();
        }
    }

    /// Time goes on until `until`.
    fn pass_until(&mut self, until: Instant) {
        loop {
            // Some of what can be told is told; the rest is late.
            while self.chance.happens(850) && self.tell_one() {
                self.check();
            }
            let timers = self.daemons.iter().filter_map(|d| d.agent.poll_timeout());
            let next = timers.chain(self.due.next()).chain(self.sites.iter().filter_map(Site::next)).min();
            let sites = &mut self.sites;
            let late = self.daemons.iter().any(|d| d.feeds.values().any(|f| sites[f.site].api.has_news(f.stream)));
            let soon = late.then(|| self.clock.now().mono + Duration::from_millis(1 + self.chance.below(30)));
            let Some(next) = next.into_iter().chain(soon).min().filter(|next| *next <= until) else { break };
            self.clock.reach(next);
            let now = self.clock.now();
            for site in &mut self.sites {
                site.step(now);
            }
            if let Some((which, life, due)) = self.due.take(now.mono) {
                self.carry(which, life, due);
            }
            for which in [EDGE, HUB] {
                if self.daemons[which].agent.poll_timeout().is_some_and(|at| at <= now.mono) {
                    self.daemons[which].agent.handle_timeout(now);
                    self.drain(which);
                }
            }
            self.check();
        }
        self.clock.reach(until);
        let now = self.clock.now();
        self.sites.iter_mut().for_each(|s| s.step(now));
    }

    fn pass(&mut self, time: Duration) {
        self.pass_until(self.clock.now().mono + time);
    }

    fn user(&mut self, site: usize, verb: Verb, path: &str, body: &Value) -> (u16, Value) {
        let (status, answer) = self.sites[site].api.request("user", verb, path, (!body.is_null()).then(|| body.to_string()).as_deref());
        self.tell(&format!("user at {} {verb:?} {path} -> {status}", NAMES[site]));
        (status, serde_json::from_slice(&answer).unwrap_or_default())
    }

    /// A user does something.
    fn work(&mut self) {
        match self.chance.below(9) {
            0 | 1 => {
                self.counter += 1;
                let name = format!("solo-{}", self.counter);
                let image = if self.chance.happens(300) { "ends-after:20" } else { "i" };
                let (_, made) = self.user(EDGE, Verb::Create, PODS, &pod(&name, image));
                self.made.insert(name, made["metadata"]["uid"].clone());
            }
            2 => {
                let names: Vec<String> = self.made.keys().cloned().collect();
                if let Some(name) = self.chance.pick(&names).cloned() {
                    self.made.remove(&name);
                    let grace = if self.chance.happens(200) { json!({"gracePeriodSeconds": 0}) } else { Value::Null };
                    self.user(EDGE, Verb::Delete, &format!("{PODS}/{name}"), &grace);
                    // And, at times, another of the same name at once.
                    if self.chance.happens(400) && self.user(EDGE, Verb::Create, PODS, &pod(&name, "i")).0 == 201 {
                        let uid = self.sites[EDGE].api.look(&format!("{PODS}/{name}")).map(|p| p["metadata"]["uid"].clone());
                        self.made.extend(uid.map(|uid| (name, uid)));
                    }
                }
            }
            3 => {
                let replicas = json!({"spec": {"replicas": self.chance.below(5)}});
                self.user(EDGE, Verb::Merge, &format!("{SETS}/web"), &replicas);
            }
            4 => {
                let there: Vec<String> = self.sites[HUB].api.store.all("pods", TWIN).map(|(k, _)| k.name.clone()).collect();
                if let Some(name) = self.chance.pick(&there) {
                    self.user(HUB, Verb::Delete, &format!("{TWIN_PODS}/{name}"), &Value::Null);
                }
            }
            5 => {
                let colour = json!({"data": {"colour": self.chance.bits().to_string()}});
                self.user(EDGE, Verb::Merge, "/api/v1/namespaces/shop/configmaps/conf", &colour);
            }
            6 => {
                self.counter += 1;
                let name = format!("lost-{}", self.counter);
                self.user(EDGE, Verb::Create, "/api/v1/namespaces/other/pods", &pod(&name, "i"));
            }
            7 => drop(self.user(EDGE, Verb::Delete, "/api/v1/nodes/hub", &Value::Null)),
            // Healed by the hourly sweep: an hour of the world is long, so only some journeys have it.
            _ if self.seed.is_multiple_of(16) => {
                let names = ["configmaps/conf", "services/web", "secrets/key"];
                let name = self.chance.pick(&names).copied().unwrap_or_default();
                self.robbed = true;
                self.user(HUB, Verb::Delete, &format!("/api/v1/namespaces/{TWIN}/{name}"), &Value::Null);
            }
            _ => {}
        }
    }

    /// Something goes wrong.
    fn mishap(&mut self) {
        let which = self.chance.below(2) as usize;
        match self.chance.below(7) {
            0 => {
                let mut rate = || self.chance.below(150) as u16;
                let faults = Faults { down: false, throttled: rate(), failed: rate(), answer_lost: rate(), conflict: rate() / 2, cut: rate() / 3 };
                self.sites[which].set_faults(faults);
                self.tell(&format!("{} is unwell: {faults:?}", NAMES[which]));
            }
            1 => {
                self.sites[which].set_faults(Faults { down: true, ..Faults::default() });
                self.tell(&format!("the API server of {} is down", NAMES[which]));
                let time = Duration::from_millis(self.chance.below(15_000));
                self.pass(time);
                self.sites[which].set_faults(Faults::default());
                self.tell("and up again");
            }
            2 => {
                self.linked = !self.linked;
                self.tell(&format!("linked: {}", self.linked));
                self.hear_of_link(5_000);
            }
            3 | 4 => {
                self.tell(&format!("{} is killed and starts again", NAMES[which]));
                self.restart(which);
            }
            5 => {
                self.check();
                self.sites[which].api.store.forget(self.counter as usize % 7);
                self.tell(&format!("{} forgets its history", NAMES[which]));
            }
            _ => {
                self.clock.set_off(self.chance.below(7200) as i64 - 3600);
                self.tell("the clock is set");
            }
        }
    }

    fn restart(&mut self, which: usize) {
        for (_, feed) in std::mem::take(&mut self.daemons[which].feeds) {
            self.sites[feed.site].api.unwatch(feed.stream);
        }
        let life = self.daemons[which].life + 1;
        self.daemons[which] = Daemon { agent: agent(which, self.chance.bits(), &self.clock), feeds: BTreeMap::new(), life };
        let after = Duration::from_millis(self.chance.below(2_000));
        self.due.put(self.clock.now().mono + after, (which, life, Due::Reachable));
        self.drain(which);
    }

    fn walk(&mut self) {
        self.drain(EDGE);
        self.drain(HUB);
        self.pass(Duration::from_secs(10));
        for _ in 0..25 {
            self.event(|j| match j.chance.below(3) {
                0 => j.mishap(),
                _ => j.work(),
            });
            let wait = if self.chance.happens(300) { 15_000 } else { 800 };
            let wait = Duration::from_millis(self.chance.below(wait));
            self.pass(wait);
        }
        self.tell("all is well from here");
        self.sites.iter_mut().for_each(|s| s.set_faults(Faults::default()));
        self.linked = true;
        self.hear_of_link(1_000);
        if self.robbed {
            self.pass(Duration::from_secs(4_000));
        }
        let mut wrong = String::new();
        for _ in 0..60 {
            self.pass(Duration::from_secs(10));
            wrong = self.unfinished().join("\n  ");
            if wrong.is_empty() {
                break;
            }
        }
        assert!(wrong.is_empty(), "seed {}: ten minutes after all is well:\n  {wrong}", self.seed);
        self.stays_quiet();
    }

    /// What is not yet as it should be.
    fn unfinished(&self) -> Vec<String> {
        let (home, hub) = (&self.sites[EDGE].api, &self.sites[HUB].api);
        let mut out = Vec::new();
        let there: BTreeMap<&str, (&Key, &Value)> = hub
            .store
            .all("pods", TWIN)
            .filter_map(|(k, o)| {
                let meta = &o["metadata"];
                let uid = meta["labels"].get(HOME_UID).or_else(|| meta["annotations"].get(HOME_UID))?;
                Some((uid.as_str()?, (k, &**o)))
            })
            .collect();
        let mut known = BTreeSet::new();
        for (key, pod) in home.store.all("pods", "shop") {
            let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
            let name = &key.name;
            if terminating(pod) {
                out.push(format!("{name} is still going"));
            }
            if pod["spec"]["nodeName"] != "hub" {
                continue;
            }
            known.insert(name.clone());
            let phase = &pod["status"]["phase"];
            match there.get(uid) {
                // What has ended may be gone there; its end is at home.
                None if *phase == "Succeeded" || *phase == "Failed" => {}
                None => out.push(format!("{name} has no pod there, and is {phase} here")),
                Some((_, far)) => {
                    if far["status"]["phase"] != *phase {
                        out.push(format!("{name} is {phase} here and {} there", far["status"]["phase"]));
                    }
                    let image = far["status"]["podIP"].as_str().map(|ip| ip.replacen("10.42.", "10.71.", 1));
                    if *phase == "Running" && pod["status"]["podIP"].as_str() != image.as_deref() {
                        out.push(format!("{name} has address {} here and {image:?} is wanted", pod["status"]["podIP"]));
                    }
                }
            }
        }
        for (key, _) in hub.store.all("pods", TWIN).chain(hub.store.all("shadowpods.offloading.liqo.io", TWIN)) {
            if !known.contains(&key.name) {
                out.push(format!("{} {} is there without a pod here", key.resource, key.name));
            }
        }
        for (key, pod) in home.store.all("pods", "other") {
            if pod["status"]["phase"] != "Pending" {
                out.push(format!("{} of a namespace that is not offloaded is {}", key.name, pod["status"]["phase"]));
            }
        }
        if !known.is_empty() {
            let copies = [("configmaps", "conf", "data"), ("secrets", "key", "data")];
            for (resource, name, field) in copies {
                let of = |api: &crate::world::api_server::ApiServer, ns: &str| {
                    api.look(&format!("/api/v1/namespaces/{ns}/{resource}/{name}")).map(|o| o[field].clone())
                };
                if of(home, "shop") != of(hub, TWIN) {
                    out.push(format!("{resource} {name} is {:?} there", of(hub, TWIN)));
                }
            }
            if hub.look(&format!("/api/v1/namespaces/{TWIN}/services/web")).is_none() {
                out.push("the service is not there".into());
            }
        }
        let tenant = hub.look("/api/v1/namespaces/liqo-tenant-edge").map(|n| &n["metadata"]["labels"]);
        if tenant != Some(&tenant_labels()) {
            out.push(format!("the tenant namespace has labels {tenant:?}"));
        }
        match home.look("/api/v1/nodes/hub") {
            Some(node) if node["status"]["conditions"].as_array().is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")) => {}
            node => out.push(format!("the virtual node is {:?}", node.map(|n| &n["status"]["conditions"]))),
        }
        out
    }

    /// Two minutes in which nobody but leases changes anything.
    fn stays_quiet(&mut self) {
        self.pass(Duration::from_secs(30));
        let mut at: Vec<u64> = self.sites.iter().map(|s| s.api.store.version()).collect();
        self.pass(Duration::from_secs(120));
        for (site, at) in self.sites.iter().zip(&mut at) {
            while let Ok(Some(change)) = site.api.store.after(*at) {
                *at = change.version;
                let lease = change.key.resource == "leases.coordination.k8s.io";
                assert!(lease || !NAMES.contains(&&*change.who), "seed {}: {} writes {:?} though nothing happens", self.seed, change.who, change.key);
            }
        }
    }
}

/// What the authority gives a tenant namespace.
fn tenant_labels() -> Value {
    json!({"sluice.internal/managed": "true", "liqo.io/remote-cluster-id": "edge", "liqo.io/tenant-namespace": "true"})
}

/// A pod of the service, which needs the ConfigMap and the Secret; one that ends is begun once.
pub(super) fn pod(name: &str, image: &str) -> Value {
    let policy = if image == "i" { "Always" } else { "Never" };
    let container = json!({"name": "c", "image": image, "envFrom": [{"configMapRef": {"name": "conf"}}, {"secretRef": {"name": "key"}}]});
    let mut pod = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"restartPolicy": policy, "containers": [container]}});
    if !name.is_empty() {
        pod["metadata"]["name"] = json!(name);
    }
    pod
}

/// The tests run side by side, so each walks half of the seeds.
fn walk_half(odd: u64) {
    walk_seeds(seeds(400).filter(|seed| seed % 2 == odd), |script| Journey::new(script).walk());
}

#[test]
fn pods_go_there_and_back_once_and_everything_settles() {
    walk_half(0);
}

#[test]
fn pods_go_there_and_back_once_and_everything_settles_with_other_seeds() {
    walk_half(1);
}
