//! One API server: requests in, statuses out. It carries out [`Call`]s, tells watches, and is as unlucky as its [`Faults`] say.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::{Map, Value, json};

use super::patch;
use super::path::Target;
use super::store::{Key, Store};
use crate::clock::WallTime;
use crate::kube::call::Verb;
use crate::kube::reply::{Reply, from_status};
use crate::world::chance::Chance;

/// How often, in 1000 requests, each thing goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Nothing is answered and nothing done: the server or the way to it is away.
    pub down: bool,
    /// 429 with Retry-After.
    pub throttled: u16,
    /// 500, nothing done.
    pub failed: u16,
    /// Done, but the answer is lost.
    pub answer_lost: u16,
    /// 409 without need.
    pub conflict: u16,
    /// A watch is cut before an event.
    pub cut: u16,
}

impl Faults {
    /// Some of everything but an outage, each below `most`.
    pub fn some(chance: &mut Chance, most: u64) -> Faults {
        let mut rate = || chance.below(most) as u16;
        Faults { down: false, throttled: rate(), failed: rate(), answer_lost: rate(), conflict: rate() / 2, cut: rate() / 3 }
    }
}

/// One request, as the audit log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The caller's name, as the world knows it.
    pub who: String,
    /// What was asked.
    pub verb: Verb,
    /// Of which object; the name is empty for a collection.
    pub key: Key,
    /// The subresource, or empty.
    pub sub: String,
    /// The HTTP status it was answered with, lost or not.
    pub status: u16,
}

/// The server. Its parts are open to tests: they may look at everything and change objects as a cluster's users do.
#[derive(Debug)]
pub struct ApiServer {
    /// The objects.
    pub store: Store,
    /// What goes wrong.
    pub faults: Faults,
    /// Every request since the start, or since the test emptied it.
    pub journal: Vec<Request>,
    /// What each manager applied last, for the next apply.
    applied: BTreeMap<(Key, String), Value>,
    pub(super) streams: super::stream::Streams,
    pub(super) chance: Chance,
    /// The date, set by the world before it lets anything happen.
    pub wall: WallTime,
}

/// A status other than 2xx, with the message of its Status object.
pub(super) struct Refusal(pub(super) u16, pub(super) String);

type Outcome = Result<(u16, Rc<Value>), Refusal>;

fn refuse<T>(status: u16, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(status, message.into()))
}

impl ApiServer {
    /// An empty cluster, but for the namespaces every cluster has.
    pub fn new(chance: Chance) -> Self {
        let mut server = ApiServer {
            store: Store::default(),
            faults: Faults::default(),
            journal: Vec::new(),
            applied: BTreeMap::new(),
            streams: Default::default(),
            chance,
            wall: crate::world::clock::BEGIN,
        };
        for name in ["default", "kube-system", "kube-node-lease"] {
            server.make("/api/v1/namespaces", json!({"metadata": {"name": name}}));
        }
        server
    }

    /// Carries out one request of `who`, luck included, and reduces the answer as the shell does.
    pub fn carry_out(&mut self, who: &str, verb: Verb, path: &str, body: Option<&str>) -> Reply {
        let faults = self.faults;
        if faults.down || self.chance.happens(faults.failed) {
            return Reply::Unreachable("connection refused".into());
        }
        if self.chance.happens(faults.throttled) {
            return from_status(429, Vec::new(), Some(1));
        }
        if verb != Verb::Get && self.chance.happens(faults.conflict) {
            return Reply::Conflict;
        }
        let (status, body) = self.request(who, verb, path, body);
        if self.chance.happens(faults.answer_lost) {
            return Reply::Unreachable("connection reset".into());
        }
        from_status(status, body, None)
    }

    /// One request, without luck: status and body.
    pub fn request(&mut self, who: &str, verb: Verb, path: &str, body: Option<&str>) -> (u16, Vec<u8>) {
        let target = Target::parse(path);
        if *self.store.writer != *who {
            self.store.writer = who.into();
        }
        let outcome = match (&target, body.map(serde_json::from_str::<Value>).transpose()) {
            (None, _) => refuse(404, "the server could not find the requested resource"),
            (_, Err(e)) => refuse(400, format!("the body is not JSON: {e}")),
            (Some(target), Ok(body)) => self.act(who, verb, target, body),
        };
        let (status, body) = match outcome {
            Ok((status, object)) => (status, Rc::unwrap_or_clone(object)),
            Err(Refusal(status, message)) => (status, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": status})),
        };
        if let Some(target) = target {
            let key = Key { resource: target.resource, namespace: target.namespace, name: target.name.unwrap_or_default() };
            self.journal.push(Request { who: who.into(), verb, key, sub: target.sub.unwrap_or_default(), status });
        }
        (status, body.to_string().into_bytes())
    }

    /// Makes an object as a user would; for setting a scene, where a refusal is a mistake of the test.
    #[track_caller]
    pub fn make(&mut self, collection: &str, object: Value) -> Rc<Value> {
        let (status, body) = self.request("user", Verb::Create, collection, Some(&object.to_string()));
        assert_eq!(status, 201, "{collection}: {}", String::from_utf8_lossy(&body));
        Rc::new(serde_json::from_slice(&body).expect("an API server answers with JSON"))
    }

    /// The object at `path`.
    pub fn look(&self, path: &str) -> Option<&Value> {
        let target = Target::parse(path)?;
        self.store.at(&Key { resource: target.resource, namespace: target.namespace, name: target.name? }).map(|o| &**o)
    }

    fn act(&mut self, who: &str, verb: Verb, target: &Target, body: Option<Value>) -> Outcome {
        let Some(name) = &target.name else {
            return match (verb, body) {
                (Verb::Get, _) => self.list(target),
                (Verb::Create, Some(body)) => self.create(target, body),
                _ => refuse(405, "the server does not allow this method on the requested resource"),
            };
        };
        let key = Key::new(&target.resource, &target.namespace, name);
        match (verb, body, target.sub.as_deref()) {
            (Verb::Get, _, None | Some("status")) => Ok((200, self.found(&key)?)),
            (Verb::Create, Some(body), Some("token")) => self.token(&key, &body),
            (Verb::Create, Some(body), Some("binding")) => self.bind(&key, &body),
            (Verb::Merge, Some(body), sub @ (None | Some("status"))) => {
                let object = self.found(&key)?;
                let mut changed = (*object).clone();
                patch::merge(&mut changed, &body);
                self.update(&key, &object, changed, sub.is_some()).map(|o| (200, o))
            }
            (Verb::Apply, Some(body), sub @ (None | Some("status"))) => self.apply(who, target, &key, body, sub.is_some()),
            (Verb::Delete, body, None) => self.delete(&key, body.as_ref()),
            _ => refuse(405, "the server does not allow this method on the requested resource"),
        }
    }

    fn found(&self, key: &Key) -> Result<Rc<Value>, Refusal> {
        self.store.at(key).cloned().ok_or_else(|| Refusal(404, format!("{} \"{}\" not found", key.resource, key.name)))
    }

    fn list(&self, target: &Target) -> Outcome {
        let selectors = target.selectors().map_err(|m| Refusal(400, m))?;
        let items: Vec<_> = self.store.all(&target.resource, &target.namespace).map(|(_, o)| (**o).clone()).filter(|o| selectors.select(o)).collect();
        let list = json!({"kind": "List", "apiVersion": target.api_version, "metadata": {"resourceVersion": self.store.version().to_string()}, "items": items});
        Ok((200, Rc::new(list)))
    }

    fn create(&mut self, target: &Target, mut object: Value) -> Outcome {
        let metadata = fields(&mut object, "metadata");
        if metadata.contains_key("resourceVersion") {
            return refuse(400, "resourceVersion should not be set on objects to be created");
        }
        let name = match (metadata.get("name").and_then(Value::as_str), metadata.get("generateName").and_then(Value::as_str)) {
            (Some(name), _) if !name.is_empty() => name.to_owned(),
            (_, Some(stem)) => format!("{stem}{:05x}", self.chance.below(1 << 20)),
            _ => return refuse(422, "name or generateName is required"),
        };
        if metadata.get("namespace").and_then(Value::as_str).is_some_and(|n| n != target.namespace) {
            return refuse(400, "the namespace of the provided object does not match the namespace sent on the request");
        }
        self.room_for(&target.namespace)?;
        let key = Key::new(&target.resource, &target.namespace, &name);
        if self.store.at(&key).is_some() {
            return refuse(409, format!("{} \"{name}\" already exists", target.resource));
        }
        let uid = self.uid();
        let metadata = fields(&mut object, "metadata");
        metadata.insert("name".into(), json!(name));
        if !target.namespace.is_empty() {
            metadata.insert("namespace".into(), json!(target.namespace));
        }
        metadata.insert("uid".into(), json!(uid));
        metadata.insert("creationTimestamp".into(), json!(self.wall.to_string()));
        metadata.insert("generation".into(), json!(1));
        for set_by_the_server in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
            metadata.remove(set_by_the_server);
        }
        self.default(target, &mut object);
        Ok((201, self.store.put(key, object)))
    }

    /// Whether anything new may be made in `namespace`.
    fn room_for(&self, namespace: &str) -> Result<(), Refusal> {
        if namespace.is_empty() {
            return Ok(());
        }
        let home = self.store.at(&Key::new("namespaces", "", namespace)).ok_or_else(|| Refusal(404, format!("namespaces \"{namespace}\" not found")))?;
        if terminating(home) {
            return refuse(403, format!("unable to create new content in namespace {namespace} because it is being terminated"));
        }
        Ok(())
    }

    fn default(&mut self, target: &Target, object: &mut Value) {
        object["apiVersion"] = json!(target.api_version);
        match target.resource.as_str() {
            "pods" => {
                let status = json!({"phase": "Pending", "qosClass": "BestEffort"});
                object["status"] = status;
                let grace = object["spec"].get("terminationGracePeriodSeconds").cloned().unwrap_or(json!(30));
                fields(object, "spec").insert("terminationGracePeriodSeconds".into(), grace);
            }
            "namespaces" => object["status"] = json!({"phase": "Active"}),
            "services" => {
                let address = format!("10.43.{}.{}", self.chance.below(256), 1 + self.chance.below(254));
                fields(object, "spec").entry("clusterIP").or_insert(json!(address));
            }
            // A node brings its status along; of all other kinds it is only ever written apart.
            resource if has_status(resource) && resource != "nodes" => {
                if let Some(fields) = object.as_object_mut() {
                    fields.remove("status");
                }
            }
            _ => {}
        }
    }

    fn apply(&mut self, who: &str, target: &Target, key: &Key, mut wanted: Value, status: bool) -> Outcome {
        let manager = target.asked("fieldManager").unwrap_or(who).to_owned();
        let Some(object) = self.store.at(key).cloned() else {
            // With a UID in it an apply is never a creation: nothing is resurrected.
            if wanted["metadata"].get("uid").is_some() {
                return refuse(409, "uid mismatch: the provided object specified a uid, and no existing object was found");
            }
            if status {
                return self.found(key).map(|o| (200, o));
            }
            fields(&mut wanted, "metadata").insert("name".into(), json!(key.name));
            let made = self.create(target, wanted.clone())?;
            self.applied.insert((key.clone(), manager), wanted);
            return Ok(made);
        };
        let mut changed = (*object).clone();
        let before = self.applied.get(&(key.clone(), manager.clone()));
        patch::apply(&mut changed, before, &wanted);
        let after = self.update(key, &object, changed, status)?;
        self.applied.insert((key.clone(), manager), wanted);
        Ok((200, after))
    }

    /// Puts `changed` in the place of `object`, as far as a client may.
    fn update(&mut self, key: &Key, object: &Value, mut changed: Value, status: bool) -> Result<Rc<Value>, Refusal> {
        for (field, what) in [("uid", "UID"), ("resourceVersion", "version")] {
            if changed["metadata"][field] != object["metadata"][field] {
                return refuse(
                    409,
                    format!(
                        "Precondition failed: {what} in precondition: {}, {what} in object meta: {}",
                        changed["metadata"][field], object["metadata"][field]
                    ),
                );
            }
        }
        if status {
            let new = changed["status"].take();
            let labels = changed["metadata"].take();
            changed = object.clone();
            changed["status"] = new;
            // The status endpoint takes labels and annotations too, as the real one does.
            for field in ["labels", "annotations"] {
                if let Some(value) = labels.get(field) {
                    changed["metadata"][field] = value.clone();
                }
            }
        } else {
            if has_status(&key.resource) {
                match object.get("status") {
                    Some(status) => changed["status"] = status.clone(),
                    None => drop(changed.as_object_mut().and_then(|o| o.remove("status"))),
                }
            }
            for kept in ["name", "namespace", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
                match object["metadata"].get(kept) {
                    Some(value) => changed["metadata"][kept] = value.clone(),
                    None => drop(changed["metadata"].as_object_mut().and_then(|o| o.remove(kept))),
                }
            }
            if key.resource == "pods" && !same_but_tolerations(&changed["spec"], &object["spec"]) {
                return refuse(422, "pod updates may not change fields other than tolerations and images");
            }
            if changed.get("spec") != object.get("spec") {
                changed["metadata"]["generation"] = json!(object["metadata"]["generation"].as_u64().unwrap_or(0) + 1);
            }
        }
        if terminating(&changed) && changed["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(0) == 0 && !held(&changed) {
            self.store.put(key.clone(), changed.clone());
            self.store.remove(key);
            return Ok(Rc::new(changed));
        }
        Ok(self.store.put(key.clone(), changed))
    }

    fn delete(&mut self, key: &Key, options: Option<&Value>) -> Outcome {
        let object = self.found(key)?;
        for field in ["uid", "resourceVersion"] {
            let wanted = options.and_then(|o| o["preconditions"].get(field));
            if wanted.is_some_and(|w| *w != object["metadata"][field]) {
                return refuse(409, format!("the {field} in the precondition is not the object's"));
            }
        }
        let asked = options.and_then(|o| o["gracePeriodSeconds"].as_u64());
        let grace = if key.resource == "pods" && object["spec"].get("nodeName").is_some() {
            asked.or(object["spec"]["terminationGracePeriodSeconds"].as_u64()).unwrap_or(30)
        } else {
            0
        };
        let left = object["metadata"]["deletionGracePeriodSeconds"].as_u64().filter(|_| terminating(&object));
        let grace = left.map_or(grace, |left| left.min(grace));
        let namespace = key.resource == "namespaces";
        if grace == 0 && !held(&object) && !namespace {
            self.store.remove(key);
            return Ok((200, object));
        }
        let mut going = (*object).clone();
        if !terminating(&going) {
            going["metadata"]["deletionTimestamp"] = json!(WallTime(self.wall.0.saturating_add(grace as i64)).to_string());
        }
        going["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        if namespace {
            going["status"]["phase"] = json!("Terminating");
        }
        Ok((200, self.store.put(key.clone(), going)))
    }

    fn bind(&mut self, key: &Key, body: &Value) -> Outcome {
        let pod = self.found(key)?;
        if pod["spec"].get("nodeName").is_some() {
            return refuse(409, "the pod is already assigned to a node");
        }
        let mut bound = (*pod).clone();
        fields(&mut bound, "spec").insert("nodeName".into(), body["target"]["name"].clone());
        Ok((201, self.store.put(key.clone(), bound)))
    }

    /// TokenRequest: a token that [`knows`](Self::knows) accepts until it ends or its account is gone.
    fn token(&mut self, key: &Key, body: &Value) -> Outcome {
        let account = self.found(key)?;
        let seconds = body["spec"]["expirationSeconds"].as_i64().unwrap_or(3600).max(600);
        let ends = WallTime(self.wall.0 + seconds);
        let uid = account["metadata"]["uid"].as_str().unwrap_or_default();
        let token = format!("{}/{}/{uid}/{}/{:x}", key.namespace, key.name, ends.0, self.chance.bits());
        Ok((
            201,
            Rc::new(
                json!({"kind": "TokenRequest", "spec": {"expirationSeconds": seconds}, "status": {"token": token, "expirationTimestamp": ends.to_string()}}),
            ),
        ))
    }

    /// The account (`NAMESPACE/NAME`) a token is of, if it is still good.
    pub fn knows(&self, token: &str) -> Option<String> {
        let mut parts = token.split('/');
        let (namespace, name, uid, ends) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?.parse::<i64>().ok()?);
        let account = self.store.at(&Key::new("serviceaccounts", namespace, name))?;
        (account["metadata"]["uid"] == uid && self.wall.0 < ends).then(|| format!("{namespace}/{name}"))
    }

    fn uid(&mut self) -> String {
        let (a, b) = (self.chance.bits(), self.chance.bits());
        format!("{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}", a >> 32, a >> 16 & 0xffff, a & 0xfff, b >> 48 & 0xfff, b & 0xffff_ffff_ffff)
    }
}

/// The object at `key`, made if it is none.
pub(super) fn fields<'a>(object: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !object[key].is_object() {
        object[key] = Value::Object(Map::new());
    }
    object[key].as_object_mut().expect("it has just been made one")
}

/// Whether its deletion has been asked for.
pub fn terminating(object: &Value) -> bool {
    object["metadata"].get("deletionTimestamp").is_some()
}

fn held(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty())
}

/// Whether status is a subresource of its own; the rest is plain data.
fn has_status(resource: &str) -> bool {
    !["configmaps", "secrets", "events", "serviceaccounts"].contains(&resource)
        && !["discovery.k8s.io", "coordination.k8s.io", "rbac.authorization.k8s.io", "events.k8s.io"].iter().any(|g| resource.ends_with(g))
}

fn same_but_tolerations(a: &Value, b: &Value) -> bool {
    let strip = |spec: &Value| {
        let mut spec = spec.clone();
        if let Some(fields) = spec.as_object_mut() {
            fields.remove("tolerations");
            for list in ["containers", "initContainers"] {
                for container in fields.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                    drop(container.as_object_mut().and_then(|c| c.remove("image")));
                }
            }
        }
        spec
    };
    a == b || strip(a) == strip(b)
}
