//! What the world's API server promises, tried one by one: it must not be kinder than the real one where our safety rests on it.

use std::time::Duration;

use serde_json::{Value, json};

use super::controllers::{Controllers, ENDS_AFTER};
use super::{ApiServer, Key, StreamId, Told};
use crate::kube::call::Verb::{self, Apply, Create, Delete, Get, Merge};
use crate::kube::reply::Reply;
use crate::world::chance::Chance;
use crate::world::clock::Clock;

struct Cluster {
    api: ApiServer,
    controllers: Controllers,
    clock: Clock,
}

fn cluster(seed: u64) -> Cluster {
    let mut api = ApiServer::new(Chance::new(seed));
    let controllers = Controllers::new(&mut api, &["n1"]);
    api.make("/api/v1/namespaces", json!({"metadata": {"name": "shop"}}));
    Cluster { api, controllers, clock: Clock::new() }
}

impl Cluster {
    fn ask(&mut self, verb: Verb, path: &str, body: Value) -> (u16, Value) {
        let body = (!body.is_null()).then(|| body.to_string());
        let (status, body) = self.api.request("us", verb, path, body.as_deref());
        (status, serde_json::from_slice(&body).expect("JSON"))
    }

    fn status(&mut self, verb: Verb, path: &str, body: Value) -> u16 {
        self.ask(verb, path, body).0
    }

    /// A minute of the cluster's own work.
    fn work(&mut self) {
        for _ in 0..60 {
            self.clock.pass(Duration::from_secs(1));
            self.api.wall = self.clock.now().wall;
            self.controllers.step(&mut self.api, self.clock.now());
        }
    }

    fn all(&self, resource: &str, namespace: &str) -> Vec<String> {
        self.api.store.all(resource, namespace).map(|(k, _)| k.name.clone()).collect()
    }
}

fn pod(name: &str, node: Option<&str>) -> Value {
    let mut pod = json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    if let Some(node) = node {
        pod["spec"]["nodeName"] = json!(node);
    }
    pod
}

const PODS: &str = "/api/v1/namespaces/shop/pods";
const A: &str = "/api/v1/namespaces/shop/pods/a";

#[test]
fn a_name_is_taken_once_and_only_in_a_namespace_that_lives() {
    let mut c = cluster(1);
    assert_eq!(c.status(Create, PODS, pod("a", None)), 201);
    assert_eq!(c.status(Create, PODS, pod("a", None)), 409);
    assert_eq!(c.status(Create, "/api/v1/namespaces/none/pods", pod("a", None)), 404);
    assert_eq!(c.status(Create, PODS, json!({"metadata": {"name": "b", "resourceVersion": "1"}})), 400);
    assert_eq!(c.status(Delete, "/api/v1/namespaces/shop", Value::Null), 200);
    assert_eq!(c.status(Create, PODS, pod("b", None)), 403);
    c.work();
    assert_eq!(c.status(Get, "/api/v1/namespaces/shop", Value::Null), 404);
    assert_eq!(c.all("pods", ""), [""; 0]);
}

#[test]
fn a_deletion_holds_to_its_preconditions_and_grace() {
    let mut c = cluster(1);
    let uid = c.ask(Create, PODS, pod("a", Some("virtual"))).1["metadata"]["uid"].clone();
    assert_eq!(c.status(Delete, A, json!({"preconditions": {"uid": "other"}})), 409);
    assert_eq!(c.status(Delete, A, json!({"preconditions": {"resourceVersion": "1"}})), 409);
    let (status, going) = c.ask(Delete, A, json!({"preconditions": {"uid": uid}}));
    assert_eq!((status, &going["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(30)));
    assert_eq!(c.status(Get, A, Value::Null), 200, "a pod bound to a node stays until its kubelet says that it is gone");
    assert_eq!(c.status(Create, PODS, pod("a", None)), 409);
    assert_eq!(c.status(Delete, A, json!({"gracePeriodSeconds": 0})), 200);
    assert_eq!(c.status(Get, A, Value::Null), 404);
    c.ask(Create, PODS, pod("b", None));
    c.ask(Delete, "/api/v1/namespaces/shop/pods/b", Value::Null);
    assert_eq!(c.all("pods", "shop"), [""; 0], "an unbound pod goes at once");
}

#[test]
fn a_finalizer_holds_an_object_until_it_is_taken_off() {
    let mut c = cluster(1);
    let at = "/apis/offloading.liqo.io/v1beta1/namespaces/shop/shadowpods/s";
    c.ask(Create, "/apis/offloading.liqo.io/v1beta1/namespaces/shop/shadowpods", json!({"metadata": {"name": "s", "finalizers": ["x"]}}));
    assert_eq!(c.status(Delete, at, Value::Null), 200);
    assert_eq!(c.status(Get, at, Value::Null), 200);
    assert_eq!(c.status(Merge, at, json!({"metadata": {"finalizers": null}})), 200);
    assert_eq!(c.status(Get, at, Value::Null), 404);
}

#[test]
fn an_apply_with_a_uid_resurrects_nothing() {
    let mut c = cluster(1);
    let at = "/api/v1/namespaces/shop/configmaps/m?fieldManager=us&force=true";
    assert_eq!(c.status(Apply, at, json!({"metadata": {"uid": "u"}, "data": {"x": "1"}})), 409);
    let (status, made) = c.ask(Apply, at, json!({"data": {"x": "1"}}));
    assert_eq!(status, 201);
    assert_eq!(c.status(Apply, at, json!({"metadata": {"uid": "u"}, "data": {"x": "2"}})), 409);
    let (status, after) = c.ask(Apply, at, json!({"metadata": {"uid": made["metadata"]["uid"]}, "data": {"y": "2"}}));
    assert_eq!((status, &after["data"]), (200, &json!({"y": "2"})), "what we no longer apply goes");
    assert_eq!(c.status(Merge, "/api/v1/namespaces/shop/configmaps/m", json!({"metadata": {"uid": "u"}})), 409);
    assert_eq!(c.status(Merge, "/api/v1/namespaces/shop/configmaps/m", json!({"metadata": {"resourceVersion": "1"}})), 409);
}

#[test]
fn spec_and_status_are_written_apart_and_a_pods_spec_stays() {
    let mut c = cluster(1);
    c.ask(Create, PODS, pod("a", Some("virtual")));
    let both = json!({"metadata": {"labels": {"l": "1"}}, "status": {"phase": "Running"}});
    let (_, after) = c.ask(Merge, A, both.clone());
    assert_eq!((&after["status"]["phase"], &after["metadata"]["labels"]["l"]), (&json!("Pending"), &json!("1")));
    let (_, after) = c.ask(Merge, &format!("{A}/status"), json!({"spec": {"nodeName": "else"}, "status": {"phase": "Running"}}));
    assert_eq!((&after["status"]["phase"], &after["spec"]["nodeName"]), (&json!("Running"), &json!("virtual")));
    assert_eq!(c.status(Merge, A, json!({"spec": {"nodeName": "else"}})), 422);
    assert_eq!(c.status(Merge, A, json!({"spec": {"tolerations": [{"key": "k"}]}})), 200);
}

fn hear(api: &mut ApiServer, id: StreamId) -> Vec<String> {
    let name = |o: std::rc::Rc<Value>| o["metadata"]["name"].as_str().unwrap_or("?").to_owned();
    std::iter::from_fn(|| api.told(id))
        .map(|told| match told {
            Told::Seen(o) => format!("+{}", name(o)),
            Told::Gone(o) => format!("-{}", name(o)),
            Told::Synced(_) => "synced".into(),
            Told::Bookmark(_) => "bookmark".into(),
            other => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_watch_tells_the_list_then_the_events_of_what_it_selects() {
    let mut c = cluster(1);
    c.ask(Create, PODS, pod("a", Some("n1")));
    c.ask(Create, PODS, pod("b", Some("n2")));
    let id = c.api.watch("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1&labelSelector=app%3Dweb", None);
    assert_eq!(hear(&mut c.api, id), ["+a", "synced"]);
    c.ask(Create, PODS, pod("c", Some("n1")));
    c.ask(Merge, A, json!({"metadata": {"labels": {"app": "other"}}}));
    assert_eq!(hear(&mut c.api, id), ["+c", "-a"], "what is no longer selected is gone");
    c.ask(Create, "/api/v1/namespaces/shop/secrets", json!({"metadata": {"name": "s"}}));
    assert!(matches!(c.api.bookmark(id), Some(Told::Bookmark(_))));
    assert_eq!(c.api.bookmark(id), None);
}

#[test]
fn a_watch_resumes_from_a_version_and_ends_when_the_history_is_forgotten() {
    let mut c = cluster(1);
    let version = c.ask(Create, PODS, pod("a", None)).1["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    c.ask(Create, PODS, pod("b", None));
    let resumed = c.api.watch(PODS, version.as_deref());
    assert_eq!(hear(&mut c.api, resumed), ["+b"]);
    c.ask(Create, PODS, pod("c", None));
    c.ask(Create, PODS, pod("d", None));
    c.api.store.forget(1);
    let late = c.api.watch(PODS, version.as_deref());
    assert_eq!(hear(&mut c.api, late), ["Expired"]);
    assert_eq!(hear(&mut c.api, resumed), ["Expired"], "an open stream that is too slow is told so");
    c.api.faults.down = true;
    let refused = c.api.watch(PODS, None);
    assert_eq!(hear(&mut c.api, refused), ["Cut"]);
    c.api.faults.down = false;
    let nonsense = c.api.watch("/api/v1/pods?fieldSelector=spec.colour%3Dred", None);
    assert!(hear(&mut c.api, nonsense)[0].starts_with("Refused"));
    assert_eq!(c.api.watches(), 0);
}

#[test]
fn pods_of_real_nodes_live_and_those_of_others_wait() {
    let mut c = cluster(1);
    c.ask(Create, PODS, pod("a", None));
    c.ask(Create, PODS, pod("far", Some("virtual")));
    c.api.make("/api/v1/nodes", json!({"metadata": {"name": "virtual"}}));
    let mut job = pod("job", None);
    job["spec"]["containers"][0]["image"] = json!(format!("{ENDS_AFTER}5"));
    c.ask(Create, PODS, job);
    c.work();
    let phase = |c: &Cluster, name: &str| c.api.look(&format!("{PODS}/{name}")).map(|p| p["status"]["phase"].clone());
    assert_eq!(phase(&c, "a"), Some(json!("Running")));
    assert_eq!(phase(&c, "job"), Some(json!("Succeeded")));
    assert_eq!(phase(&c, "far"), Some(json!("Pending")));
    assert!(c.api.look(A).is_some_and(|p| p["status"]["podIP"].as_str().is_some_and(|ip| ip.starts_with("10.42."))));
    c.ask(Delete, A, Value::Null);
    c.ask(Delete, "/api/v1/nodes/virtual", Value::Null);
    c.work();
    c.work();
    assert_eq!(c.all("pods", "shop"), ["job"], "pods of a node that is gone are collected");
    assert!(c.controllers.is_quiet(&mut c.api, c.clock.now()));
}

#[test]
fn a_node_that_no_longer_renews_its_lease_is_lost_and_its_pods_evicted() {
    let mut c = cluster(1);
    c.api.make("/api/v1/nodes", json!({"metadata": {"name": "virtual"}}));
    c.ask(Merge, "/api/v1/nodes/virtual/status", json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
    let lease = json!({"metadata": {"name": "virtual"}, "spec": {"renewTime": c.api.wall.to_string()}});
    c.api.make("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", lease);
    c.ask(Create, PODS, pod("a", Some("virtual")));
    let mut patient = pod("patient", Some("virtual"));
    patient["spec"]["tolerations"] = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists"}]);
    c.ask(Create, PODS, patient);
    let ready = |c: &Cluster| c.api.look("/api/v1/nodes/virtual").map(|n| n["status"]["conditions"][0]["status"].clone());
    c.clock.pass(Duration::from_secs(30));
    c.api.wall = c.clock.now().wall;
    c.controllers.step(&mut c.api, c.clock.now());
    assert_eq!(ready(&c), Some(json!("True")));
    c.work();
    assert_eq!(ready(&c), Some(json!("Unknown")));
    for _ in 0..6 {
        c.work();
    }
    let going = |c: &Cluster, name: &str| c.api.look(&format!("{PODS}/{name}")).is_some_and(super::server::terminating);
    assert!(going(&c, "a") && !going(&c, "patient"));
}

#[test]
fn a_replica_set_keeps_its_number_and_a_service_its_endpoints() {
    let mut c = cluster(1);
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    c.api.make("/apis/apps/v1/namespaces/shop/replicasets", json!({"metadata": {"name": "web"}, "spec": {"replicas": 3, "template": template}}));
    c.api.make("/api/v1/namespaces/shop/services", json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}));
    c.work();
    let count = |c: &Cluster| c.api.store.all("endpointslices.discovery.k8s.io", "shop").next().and_then(|(_, s)| s["endpoints"].as_array()).map(Vec::len);
    assert_eq!((c.all("pods", "shop").len(), count(&c)), (3, Some(3)));
    c.ask(Merge, "/apis/apps/v1/namespaces/shop/replicasets/web", json!({"spec": {"replicas": 1}}));
    c.work();
    assert_eq!((c.all("pods", "shop").len(), count(&c)), (1, Some(1)));
    c.ask(Delete, "/apis/apps/v1/namespaces/shop/replicasets/web", Value::Null);
    c.ask(Delete, "/api/v1/namespaces/shop/services/web", Value::Null);
    c.work();
    assert_eq!((c.all("pods", "shop"), count(&c)), (vec![], None), "what is owned goes with its owner");
}

#[test]
fn tokens_die_with_their_account_and_with_time() {
    let mut c = cluster(1);
    c.api.make("/api/v1/namespaces/shop/serviceaccounts", json!({"metadata": {"name": "peer"}}));
    let at = "/api/v1/namespaces/shop/serviceaccounts/peer";
    let token =
        |c: &mut Cluster| c.ask(Create, &format!("{at}/token"), json!({"spec": {"expirationSeconds": 3600}})).1["status"]["token"].as_str().map(str::to_owned);
    let first = token(&mut c).expect("a token");
    assert_eq!(c.api.knows(&first).as_deref(), Some("shop/peer"));
    c.api.wall.0 += 3600;
    assert_eq!(c.api.knows(&first), None);
    let second = token(&mut c).expect("a token");
    c.ask(Delete, at, Value::Null);
    c.api.make("/api/v1/namespaces/shop/serviceaccounts", json!({"metadata": {"name": "peer"}}));
    assert_eq!(c.api.knows(&second), None, "an account of the same name is another one");
}

#[test]
fn a_lost_answer_is_of_a_call_that_happened() {
    let mut c = cluster(1);
    c.api.faults.answer_lost = 1000;
    let body = pod("a", None).to_string();
    assert!(matches!(c.api.carry_out("us", Create, PODS, Some(&body)), Reply::Unreachable(_)));
    assert!(c.api.look(A).is_some());
    c.api.faults = super::Faults { down: true, ..Default::default() };
    assert!(matches!(c.api.carry_out("us", Delete, A, None), Reply::Unreachable(_)));
    assert!(c.api.look(A).is_some());
    c.api.faults = super::Faults { throttled: 1000, ..Default::default() };
    assert_eq!(c.api.carry_out("us", Delete, A, None), Reply::Throttled(Duration::from_secs(1)));
}

#[test]
fn the_same_seed_makes_the_same_world() {
    let run = |seed| {
        let mut c = cluster(seed);
        for n in 0..5 {
            c.ask(Create, PODS, pod(&format!("p{n}"), None));
        }
        c.work();
        let at = Key::new("pods", "shop", "p3");
        (c.api.journal.clone(), c.api.store.at(&at).map(|o| o.to_string()))
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7).1, run(8).1);
}
