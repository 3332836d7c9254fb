//! The rest of a cluster: kubelets of real nodes, scheduler, replica sets, endpoint slices, garbage collection, namespace deletion.
//!
//! All level-triggered: a look at the objects says what is to be done, each thing is done a little later (chance says how much) and only
//! if it is still to be done then. Nothing here is unlucky: a cluster's own controllers reach their API server.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};

use super::server::{ApiServer, fields, terminating};
use super::store::Key;
use crate::clock::{Instant, Now, WallTime};
use crate::kube::call::Verb;
use crate::world::clock::Agenda;

/// Image of a container that ends well after so many seconds, as in `ends-after:5`; all others run on.
pub const ENDS_AFTER: &str = "ends-after:";

/// One cluster's controllers.
#[derive(Debug, Default)]
pub struct Controllers {
    /// Nodes with a kubelet; pods bound to others are somebody else's.
    pub nodes: Vec<String>,
    /// The real nodes' kubelets are away: nothing starts, ends or is reported.
    pub kubelets_down: bool,
    /// Nodes for the unbound pods of a namespace; the first real node for all others.
    pub place: BTreeMap<String, Vec<String>>,
    agenda: Agenda<Task>,
    planned: BTreeSet<Task>,
    looked_at: Option<(u64, bool)>,
    /// Leases grow old without anybody writing, so nodes are looked at every 10 s.
    nodes_looked_at: Instant,
    /// The greatest time seen in a node's lease, and when it was first seen: what the lease says is never compared with a clock.
    renewed: BTreeMap<String, (WallTime, Instant)>,
    addresses: u16,
    placed: usize,
}

/// Something to be done for one incarnation (UID) of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Task {
    what: What,
    key: Key,
    uid: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// Bind a pod to a node.
    Place,
    /// Containers have started.
    Start,
    /// Containers have ended by themselves.
    End,
    /// Containers are gone after a deletion.
    Kill,
    /// The pod's node does not exist any more.
    Orphan,
    /// The node's lease is old: it is taken for lost.
    Lose,
    /// The pod's node is lost, and the pod tolerates that no longer.
    Evict,
    /// None of the owners lives.
    Collect,
    /// Take away something that lies in a terminating namespace.
    Sweep,
    /// Take away the namespace itself.
    Close,
    /// More or fewer pods.
    Scale,
    /// The endpoint slice is not what the pods are.
    Slice,
}

impl What {
    /// After how many milliseconds it is done: from, to.
    const fn delay(self) -> (u64, u64) {
        match self {
            What::Place | What::Scale | What::Slice => (5, 300),
            What::Start => (100, 2_000),
            What::End => (0, 1),
            What::Kill => (50, 3_000),
            What::Orphan => (40_000, 60_000),
            What::Lose => (0, 5_000),
            What::Evict => (300_000, 305_000),
            What::Collect | What::Sweep | What::Close => (20, 1_500),
        }
    }
}

impl Controllers {
    /// Those of a cluster with these real nodes, which are made.
    pub fn new(server: &mut ApiServer, nodes: &[&str]) -> Self {
        for name in nodes {
            server.make("/api/v1/nodes", json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}));
            let ready =
                json!({"status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "192.168.1.10"}]}});
            server.request("kubelet", Verb::Merge, &format!("/api/v1/nodes/{name}/status"), Some(&ready.to_string()));
        }
        Controllers { nodes: nodes.iter().map(|n| (*n).to_owned()).collect(), ..Controllers::default() }
    }

    /// When something is due.
    pub fn next(&self) -> Option<Instant> {
        self.agenda.next()
    }

    /// Looks, plans, and does what is due.
    pub fn step(&mut self, server: &mut ApiServer, now: Now) {
        loop {
            self.look(server, now);
            let Some(task) = self.agenda.take(now.mono) else { return };
            self.planned.remove(&task);
            let Some(object) = server.store.at(&task.key).cloned().filter(|o| o["metadata"]["uid"] == task.uid) else { continue };
            // What was planned may be moot by now.
            if self.wanted(server, &uids(server), &task.key, &object, now).contains(&task.what) {
                self.carry_out(server, &task, &object);
            }
            self.looked_at = None;
        }
    }

    /// Nothing is planned and nothing is to be planned.
    pub fn is_quiet(&mut self, server: &mut ApiServer, now: Now) -> bool {
        self.look(server, now);
        self.agenda.is_empty()
    }

    fn look(&mut self, server: &mut ApiServer, now: Now) {
        let at = Some((server.store.touched(), self.kubelets_down));
        let whole = self.looked_at != at;
        if !whole && now.mono.since(self.nodes_looked_at) < Duration::from_secs(10) {
            return;
        }
        (self.looked_at, self.nodes_looked_at) = (at, now.mono);
        self.look_at_leases(server, now);
        let alive = uids(server);
        let mut found = BTreeMap::new();
        for (key, object) in server.store.everything().filter(|(k, _)| whole || k.resource == "nodes") {
            for what in self.wanted(server, &alive, key, object, now) {
                let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
                let ends = if what == What::End { ends_after(object).unwrap_or(0) } else { 0 };
                found.insert(Task { what, key: key.clone(), uid }, ends);
            }
        }
        // What is moot is forgotten, so that its time begins anew if it comes up again.
        if whole {
            self.agenda.retain(|task| found.contains_key(task));
            self.planned.retain(|task| found.contains_key(task));
        }
        for (task, ends) in found {
            if !self.planned.contains(&task) {
                let (from, to) = task.what.delay();
                let wait = Duration::from_secs(ends) + Duration::from_millis(from + server.chance.below(to - from));
                self.planned.insert(task.clone());
                self.agenda.put(now.mono + wait, task);
            }
        }
    }

    /// Takes down which leases have been renewed: those whose time is greater than any before it.
    fn look_at_leases(&mut self, server: &ApiServer, now: Now) {
        let times: Vec<(String, WallTime)> = server
            .store
            .everything()
            .filter(|(k, _)| k.resource == "nodes")
            .filter_map(|(k, _)| {
                let lease = server.store.at(&Key::new("leases.coordination.k8s.io", "kube-node-lease", &k.name))?;
                Some((k.name.clone(), WallTime::parse(lease["spec"]["renewTime"].as_str()?)?))
            })
            .collect();
        self.renewed.retain(|name, _| server.store.at(&Key::new("nodes", "", name)).is_some());
        for (name, time) in times {
            let seen = self.renewed.entry(name).or_insert((time, now.mono));
            if seen.0 < time {
                *seen = (time, now.mono);
            }
        }
    }

    /// Whether a Ready node's lease has not been renewed for 40 s.
    fn lost(&self, key: &Key, node: &Value, now: Now) -> bool {
        ready(node) && self.renewed.get(&key.name).is_none_or(|(_, at)| now.mono.since(*at) > Duration::from_secs(40))
    }

    /// What is to be done for the object as it is.
    fn wanted(&self, server: &ApiServer, alive: &BTreeSet<String>, key: &Key, object: &Rc<Value>, now: Now) -> Vec<What> {
        let mut out = Vec::new();
        match key.resource.as_str() {
            "pods" => out.extend(self.wanted_for_pod(server, object)),
            "namespaces" if terminating(object) && !server.store.everything().any(|(k, _)| k.namespace == key.name) => out.push(What::Close),
            "nodes" if !self.nodes.contains(&key.name) => out.extend(self.lost(key, object, now).then_some(What::Lose)),
            "replicasets.apps" if !terminating(object) && scale(server, object) != 0 => out.push(What::Scale),
            "services" if object["spec"].get("selector").is_some() && slice_key_and_body(server, object).is_some() => out.push(What::Slice),
            _ => {}
        }
        if !key.namespace.is_empty() && !terminating(object) {
            let home = server.store.at(&Key::new("namespaces", "", &key.namespace));
            if home.is_none_or(|n| terminating(n)) {
                out.push(What::Sweep);
            }
        }
        let owners = object["metadata"]["ownerReferences"].as_array().map_or(&[][..], Vec::as_slice);
        if !owners.is_empty() && !terminating(object) {
            let lives = |owner: &Value| owner["uid"].as_str().is_some_and(|uid| alive.contains(uid));
            if !owners.iter().any(lives) {
                out.push(What::Collect);
            }
        }
        out
    }

    fn wanted_for_pod(&self, server: &ApiServer, pod: &Value) -> Option<What> {
        let Some(node) = pod["spec"].get("nodeName").and_then(Value::as_str) else {
            return (!terminating(pod) && !self.there(server, pod).is_empty()).then_some(What::Place);
        };
        if !self.nodes.iter().any(|n| n == node) {
            let Some(node) = server.store.at(&Key::new("nodes", "", node)) else { return Some(What::Orphan) };
            return (!terminating(pod) && !ready(node) && !tolerates_for_ever(pod)).then_some(What::Evict);
        }
        if self.kubelets_down {
            return None;
        }
        match (terminating(pod), pod["status"]["phase"].as_str()) {
            (true, _) => Some(What::Kill),
            (false, Some("Pending")) => Some(What::Start),
            (false, Some("Running")) => ends_after(pod).map(|_| What::End),
            _ => None,
        }
    }

    /// The nodes that exist among those the pod may go to.
    fn there(&self, server: &ApiServer, pod: &Value) -> Vec<String> {
        let placed = pod["metadata"]["namespace"].as_str().and_then(|n| self.place.get(n)).filter(|n| !n.is_empty());
        let exists = |node: &&String| server.store.at(&Key::new("nodes", "", node)).is_some_and(|n| !terminating(n));
        match placed {
            Some(nodes) => nodes.iter().filter(exists).cloned().collect(),
            None => self.nodes.iter().take(1).cloned().collect(),
        }
    }

    fn carry_out(&mut self, server: &mut ApiServer, task: &Task, object: &Rc<Value>) {
        let path = path(&task.key, object);
        let only = |grace: Option<u64>| json!({"gracePeriodSeconds": grace, "preconditions": {"uid": task.uid}}).to_string();
        match task.what {
            What::Place => {
                let there = self.there(server, object);
                if let Some(node) = there.get(self.placed % there.len().max(1)) {
                    let body = json!({"target": {"name": node}}).to_string();
                    self.placed += 1;
                    server.request("scheduler", Verb::Create, &format!("{path}/binding"), Some(&body));
                }
            }
            What::Start => {
                self.addresses += 1;
                let [a, b] = self.addresses.to_be_bytes();
                let status = started(object, &format!("10.42.{a}.{b}"), &server.wall.to_string());
                server.request("kubelet", Verb::Merge, &format!("{path}/status"), Some(&status.to_string()));
            }
            What::End => {
                let status = ended(object);
                server.request("kubelet", Verb::Merge, &format!("{path}/status"), Some(&status.to_string()));
            }
            What::Kill | What::Orphan => drop(server.request("kubelet", Verb::Delete, &path, Some(&only(Some(0))))),
            What::Lose => {
                let condition = json!({"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "lastTransitionTime": server.wall.to_string()});
                let mut rest: Vec<_> = conditions(object).filter(|c| c["type"] != "Ready").cloned().collect();
                rest.push(condition);
                server.request("controller", Verb::Merge, &format!("{path}/status"), Some(&json!({"status": {"conditions": rest}}).to_string()));
            }
            What::Evict | What::Collect | What::Sweep => drop(server.request("controller", Verb::Delete, &path, Some(&only(None)))),
            What::Close => {
                server.store.writer = "controller".into();
                server.store.remove(&task.key);
            }
            What::Scale => rescale(server, &task.key, object),
            What::Slice => {
                if let Some((key, body)) = slice_key_and_body(server, object) {
                    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices/{}", key.namespace, key.name);
                    server.request("controller", Verb::Apply, &path, Some(&body.to_string()));
                }
            }
        }
    }
}

/// The UIDs of all that lives.
fn uids(server: &ApiServer) -> BTreeSet<String> {
    server.store.everything().filter_map(|(_, o)| Some(o["metadata"]["uid"].as_str()?.to_owned())).collect()
}

/// The path of the object at `key`.
pub fn path(key: &Key, object: &Value) -> String {
    let plural = key.resource.split('.').next().unwrap_or_default();
    let version = object["apiVersion"].as_str().unwrap_or("v1");
    let root = if version.contains('/') { "apis" } else { "api" };
    let within = if key.namespace.is_empty() { String::new() } else { format!("/namespaces/{}", key.namespace) };
    format!("/{root}/{version}{within}/{plural}/{}", key.name)
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object["status"]["conditions"].as_array().into_iter().flatten()
}

fn ready(object: &Value) -> bool {
    conditions(object).any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The first toleration that matches decides; one without seconds is for ever.
fn tolerates_for_ever(pod: &Value) -> bool {
    let all = pod["spec"]["tolerations"].as_array().into_iter().flatten();
    let first = all.into_iter().find(|t| t["key"] == "node.kubernetes.io/unreachable" || (t["operator"] == "Exists" && t.get("key").is_none()));
    first.is_some_and(|t| t.get("tolerationSeconds").is_none())
}

fn ends_after(pod: &Value) -> Option<u64> {
    pod["spec"]["containers"][0]["image"].as_str()?.strip_prefix(ENDS_AFTER)?.parse().ok()
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    pod["spec"]["containers"].as_array().into_iter().flatten()
}

/// The status a kubelet reports once all containers run.
fn started(pod: &Value, address: &str, at: &str) -> Value {
    let one =
        |c: &Value| json!({"name": c["name"], "image": c["image"], "ready": true, "started": true, "restartCount": 0, "state": {"running": {"startedAt": at}}});
    let condition = |what: &str| json!({"type": what, "status": "True", "lastTransitionTime": at});
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(condition);
    json!({"status": {
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "hostIP": "192.168.1.10", "startTime": at,
        "conditions": conditions,
        "containerStatuses": containers(pod).map(one).collect::<Vec<_>>(),
    }})
}

fn ended(pod: &Value) -> Value {
    let one = |c: &Value| json!({"name": c["name"], "image": c["image"], "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
    json!({"status": {
        "phase": "Succeeded", "conditions": [{"type": "Ready", "status": "False", "reason": "PodCompleted"}],
        "containerStatuses": containers(pod).map(one).collect::<Vec<_>>(),
    }})
}

fn owned<'a>(server: &'a ApiServer, set: &'a Value, namespace: &'a str) -> impl Iterator<Item = (&'a Key, &'a Rc<Value>)> {
    let live = |pod: &Value| !terminating(pod) && !matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
    server.store.all("pods", namespace).filter(move |(_, pod)| live(pod) && pod["metadata"]["ownerReferences"][0]["uid"] == set["metadata"]["uid"])
}

/// How many pods are missing (or too many, if negative).
fn scale(server: &ApiServer, set: &Value) -> i64 {
    let namespace = set["metadata"]["namespace"].as_str().unwrap_or_default();
    set["spec"]["replicas"].as_i64().unwrap_or(1) - owned(server, set, namespace).count() as i64
}

fn rescale(server: &mut ApiServer, key: &Key, set: &Value) {
    let missing = scale(server, set);
    for _ in 0..missing {
        let mut pod = set["spec"]["template"].clone();
        let metadata = fields(&mut pod, "metadata");
        metadata.insert("generateName".into(), json!(format!("{}-", key.name)));
        let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": key.name, "uid": set["metadata"]["uid"], "controller": true}]);
        metadata.insert("ownerReferences".into(), owner);
        server.request("controller", Verb::Create, &format!("/api/v1/namespaces/{}/pods", key.namespace), Some(&pod.to_string()));
    }
    let surplus: Vec<_> = owned(server, set, &key.namespace).map(|(k, o)| path(k, o)).take(usize::try_from(-missing).unwrap_or(0)).collect();
    for pod in surplus {
        server.request("controller", Verb::Delete, &pod, None);
    }
}

/// The endpoint slice a service should have; none if it has it.
fn slice_key_and_body(server: &ApiServer, service: &Value) -> Option<(Key, Value)> {
    let (namespace, name) = (service["metadata"]["namespace"].as_str()?, service["metadata"]["name"].as_str()?);
    let selector = service["spec"]["selector"].as_object()?;
    if terminating(server.store.at(&Key::new("namespaces", "", namespace))?) {
        return None;
    }
    let picked = |pod: &Value| selector.iter().all(|(k, v)| pod["metadata"]["labels"].get(k) == Some(v));
    let endpoints: Vec<_> = (server.store.all("pods", namespace))
        .filter(|(_, pod)| picked(pod) && pod["status"].get("podIP").is_some() && pod["status"]["phase"] == "Running")
        .map(|(key, pod)| {
            let ready =
                !terminating(pod) && pod["status"]["conditions"].as_array().is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
            json!({
                "addresses": [pod["status"]["podIP"]], "nodeName": pod["spec"]["nodeName"],
                "conditions": {"ready": ready, "serving": ready, "terminating": terminating(pod)},
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": key.name, "uid": pod["metadata"]["uid"]},
            })
        })
        .collect();
    let own = format!("{name}-{}", &service["metadata"]["uid"].as_str()?[..5]);
    let body = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints, "ports": service["spec"]["ports"],
        "metadata": {
            "name": own,
            "labels": {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": name, "uid": service["metadata"]["uid"], "controller": true}],
        },
    });
    let key = Key::new("endpointslices.discovery.k8s.io", namespace, &own);
    let same = server.store.at(&key).is_some_and(|o| o["endpoints"] == body["endpoints"] && o["ports"] == body["ports"]);
    (!same).then_some((key, body))
}
