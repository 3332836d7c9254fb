//! Objects that are copied whole, whatever their kind: Services, EndpointSlices, ConfigMaps and Secrets to a provider, and a consumer's endpoints into a real slice here.
//!
//! The first write is a POST, so that an object others made under the name is found and never touched; later ones are applies bound to the UID.
//! One plan serves five kinds; only the content is each kind's own (see the files beside this one).

use super::{config_map, endpoint_slice, service};
use crate::clock::Now;
use crate::kube::call::{Cluster, Make, Resource, Unfit};
use crate::kube::reply::Reply;
use crate::offload::calls;
use crate::offload::denials::Denied;
use crate::offload::facts::{About, Facts, Reached, clipped};
use crate::offload::kind::{self, CONFIG_MAPS, Key, Next, Op, SECRETS, SERVICES, SHADOW_SLICES, SLICES, Seen, SeenView, Sort, Step, Uid};
use crate::offload::ownership::{DESTINATION, MANAGED, MANAGED_BY, ORIGIN, digest};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long an object that may not be copied, or whose name is another's, is left before it is looked at again.
const RETRY: Duration = Duration::from_secs(300);

/// What is known of the source.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) enum Source {
    /// Not told yet.
    #[default]
    Unknown,
    Here(u64),
    Gone,
}

/// What is known of the copy.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) enum Mirror {
    #[default]
    Unknown,
    Absent,
    Ours(Uid),
    /// Somebody else's object has the name.
    Foreign,
}

/// The row of a copied object.
#[derive(Debug, Default)]
pub(crate) struct CopyRow {
    pub source: Source,
    pub mirror: Mirror,
    /// How many pods use it (ConfigMaps and Secrets).
    pub users: u16,
    /// The version that was last written, and the one being written.
    applied: u64,
    writing: u64,
    /// The copy's own version after our last write: another means that somebody changed it.
    copy_version: u64,
    /// A version that cannot be copied.
    refused: u64,
    /// How far watches and sweeps have told of the copy.
    pub told_at: Reached,
}

impl CopyRow {
    /// Takes what a watch or sweep tells of the copy.
    pub(crate) fn take_copy(&mut self, view: &kind::CopyView) {
        self.mirror = if view.ours { Mirror::Ours(view.uid.clone()) } else { Mirror::Foreign };
        if view.version != self.copy_version {
            self.applied = 0;
        }
    }
}

/// Where the source and the copy of a sort live.
fn resources(sort: Sort) -> (Resource, Resource, &'static str, &'static str) {
    match sort {
        Sort::Service => (SERVICES, SERVICES, "v1", "Service"),
        Sort::Slice => (SLICES, SHADOW_SLICES, "offloading.liqo.io/v1beta1", "ShadowEndpointSlice"),
        Sort::ConfigMap => (CONFIG_MAPS, CONFIG_MAPS, "v1", "ConfigMap"),
        Sort::Secret => (SECRETS, SECRETS, "v1", "Secret"),
        _ => (SHADOW_SLICES, SLICES, "discovery.k8s.io/v1", "EndpointSlice"),
    }
}

/// The target of a row: where the copy is, in which namespace, under which version it should be.
struct Target {
    to: Cluster,
    namespace: String,
    version: Option<u64>,
}

fn target(facts: &Facts, key: &Key, row: &CopyRow) -> Result<Target, Step> {
    let by_use = matches!(key.sort, Sort::ConfigMap | Sort::Secret);
    let version = match row.source {
        Source::Here(version) if !by_use || row.users > 0 => Some(version),
        _ => None,
    };
    if key.sort == Sort::Render {
        let Some(consumer) = facts.twins.get(&key.namespace).and_then(|p| facts.consumers.get(p)) else {
            // Not (or no longer) a twin: what is in it goes with the namespace.
            return Err(if row.source == Source::Gone { Step::Forget } else { Step::Settled });
        };
        if !facts.shadow_slices_synced {
            return Err(Step::Settled);
        }
        let version = version.map(|v| digest([&v.to_le_bytes()[..], &[u8::from(consumer.reachable)]]));
        return Ok(Target { to: Cluster::Home, namespace: key.namespace.to_string(), version });
    }
    if !facts.settled(key.peer) && facts.providers.contains_key(&key.peer) {
        return Err(Step::Settled);
    }
    let (Some(provider), Some(link)) = (facts.providers.get(&key.peer), facts.link(key.peer, &key.namespace)) else {
        return Err(if row.users > 0 && facts.providers.contains_key(&key.peer) { Step::Settled } else { Step::Forget });
    };
    if !link.accepted() || !provider.reachable {
        return Err(Step::Settled);
    }
    // Absence is believed only once both the source's list and the pods that may use it are known.
    if version.is_none() && (row.source == Source::Unknown || (by_use && !provider.pods_whole)) {
        return Err(Step::Settled);
    }
    Ok(Target { to: Cluster::Peer(key.peer), namespace: link.twin.to_string(), version })
}

pub(crate) fn plan(facts: &mut Facts, key: &Key, row: &mut CopyRow, now: Now) -> Step {
    let _ = now;
    if key.sort != Sort::Render && facts.link(key.peer, &key.namespace).is_none() {
        (row.mirror, row.applied) = (Mirror::Unknown, 0);
    }
    let target = match target(facts, key, row) {
        Ok(target) => target,
        Err(step) => return step,
    };
    let (source, mirror, ..) = resources(key.sort);
    let path = mirror.object(Some(&target.namespace), &key.name);
    let Some(version) = target.version else {
        return match &row.mirror {
            Mirror::Ours(uid) => Step::Do(Op::Remove, calls::delete(target.to, path, uid, None)),
            // A ConfigMap that pods name but that is not there yet keeps its row: its users are counted in it.
            _ if row.users > 0 => Step::Settled,
            _ => Step::Forget,
        };
    };
    if row.refused == version {
        return Step::Settled;
    }
    let from = Cluster::Home;
    let origin = source.object(Some(&key.namespace), &key.name);
    match &row.mirror {
        Mirror::Foreign => {
            row.mirror = Mirror::Unknown;
            Step::Wait(RETRY)
        }
        Mirror::Unknown | Mirror::Absent => {
            row.writing = version;
            let make = make(facts, key, &target.namespace, None);
            Step::Do(Op::Create, calls::create_from(target.to, &mirror, &target.namespace, from, origin, make))
        }
        Mirror::Ours(_) if row.applied == version => Step::Settled,
        Mirror::Ours(uid) => {
            row.writing = version;
            let make = make(facts, key, &target.namespace, Some(uid.clone()));
            Step::Do(Op::Update, calls::apply_from(target.to, path, from, origin, make))
        }
    }
}

/// The body of the copy, made from the source inside the call.
fn make(facts: &Facts, key: &Key, namespace: &str, uid: Option<Uid>) -> Make {
    let (_, _, version, kind) = resources(key.sort);
    let (sort, name, namespace) = (key.sort, key.name.to_string(), namespace.to_string());
    let mut marks: BTreeMap<&'static str, String> = BTreeMap::new();
    marks.insert(MANAGED, "true".into());
    let (mut prefixes, mut others, mut images, mut node, mut reachable) = (Vec::new(), Vec::new(), Vec::new(), String::new(), true);
    if sort == Sort::Render {
        if let Some(consumer) = facts.twins.get(&key.namespace).and_then(|p| facts.consumers.get(p)) {
            images = consumer.spec.images.clone();
            reachable = consumer.reachable;
            marks.insert(ORIGIN, consumer.spec.cluster.to_string());
        }
        marks.insert(DESTINATION, facts.home.to_string());
        marks.insert(MANAGED_BY, "shadowendpointslice".into());
    } else {
        marks.insert(ORIGIN, facts.home.to_string());
        if let Some(provider) = facts.providers.get(&key.peer) {
            marks.insert(DESTINATION, provider.spec.cluster.to_string());
            node = provider.spec.node.clone();
        }
        if sort == Sort::Slice {
            prefixes = facts.pods.clone();
            others = facts.transit.of(key.peer, &key.namespace, &key.name).to_vec();
        }
    }
    if matches!(sort, Sort::Slice | Sort::Render) {
        marks.insert(endpoint_slice::MANAGED_BY, endpoint_slice::MANAGER.into());
    }
    let denials = facts.denials.clone();
    Box::new(move |json: &[u8]| {
        let source: Value = serde_json::from_slice(json).map_err(|_| Unfit::Refused("the object is no JSON".into()))?;
        let content: Map<String, Value> = match sort {
            Sort::Service => service::content(&source)?,
            Sort::Slice => endpoint_slice::shadow(&source, &prefixes, &node, &others)?,
            Sort::ConfigMap => config_map::content(&source, false)?,
            Sort::Secret => config_map::content(&source, true)?,
            _ => {
                let (content, left_out) = endpoint_slice::render(&source, &images, reachable)?;
                denials.count(Denied::Endpoint, left_out);
                content
            }
        };
        let mut meta = config_map::meta(&source, &marks);
        meta["name"] = json!(name);
        meta["namespace"] = json!(namespace);
        if let Some(uid) = uid {
            meta["uid"] = json!(uid.as_str());
        }
        if sort == Sort::Render {
            meta["ownerReferences"] = json!([{"apiVersion": "offloading.liqo.io/v1beta1", "kind": "ShadowEndpointSlice", "name": name,
                "uid": source["metadata"]["uid"], "controller": true, "blockOwnerDeletion": false}]);
        }
        let mut body = Map::new();
        body.insert("apiVersion".into(), json!(version));
        body.insert("kind".into(), json!(kind));
        body.insert("metadata".into(), meta);
        body.extend(content);
        Ok(Value::from(body).to_string())
    })
}

pub(crate) fn settle(facts: &mut Facts, key: &Key, row: &mut CopyRow, op: Op, reply: &Reply, now: Now) -> Next {
    let (_, mirror, _, kind) = resources(key.sort);
    match (op, reply) {
        (Op::Create | Op::Update, Reply::Done(body)) => {
            if let Ok(Seen { view: SeenView::Copy(copy), version, .. }) = kind::read_copy(body) {
                // Changed or taken away since, and told already.
                if !row.told_at.allows(version) {
                    return kind::STALE;
                }
                row.mirror = Mirror::Ours(copy.uid);
                row.copy_version = copy.version;
            }
            row.applied = row.writing;
            Next::Again
        }
        (Op::Create, Reply::Conflict) => {
            let Ok(Target { to, namespace, .. }) = target(facts, key, row) else { return Next::BackOff };
            row.mirror = Mirror::Unknown;
            Next::Call(Op::Look, calls::look(to, mirror.object(Some(&namespace), &key.name)))
        }
        (Op::Look, Reply::Done(body)) => {
            let Ok(Seen { view: SeenView::Copy(copy), .. }) = kind::read_copy(body) else { return Next::BackOff };
            row.take_copy(&copy);
            if row.mirror == Mirror::Foreign {
                let why = "an object of this name that was not made by reflection exists in the twin namespace; it is left alone";
                note(facts, key, kind, why, now);
            }
            Next::Again
        }
        (Op::Update, Reply::Conflict | Reply::NotFound) | (Op::Look, Reply::NotFound) => {
            row.mirror = Mirror::Unknown;
            Next::BackOff
        }
        (Op::Remove, Reply::Done(_) | Reply::NotFound) => {
            (row.mirror, row.applied) = (Mirror::Absent, 0);
            Next::Again
        }
        (Op::Remove, Reply::Unreachable(_)) => {
            // It may be gone: if it is wanted again, the next write finds out.
            row.applied = 0;
            Next::BackOff
        }
        (Op::Remove, Reply::Conflict) => {
            row.mirror = Mirror::Unknown;
            Next::Again
        }
        (_, Reply::Unfit(Unfit::Refused(why)) | Reply::Refused(why)) => {
            if matches!(reply, Reply::Unfit(_)) {
                row.refused = row.writing;
            }
            note(facts, key, kind, why, now);
            Next::BackOff
        }
        _ => Next::BackOff,
    }
}

/// Says at home, on the source, why there is no copy. Nothing is said about objects of a consumer's: it reads its own twin.
fn note(facts: &mut Facts, key: &Key, kind: &str, why: &str, now: Now) {
    if key.sort != Sort::Render {
        let kind = if key.sort == Sort::Slice { "EndpointSlice" } else { kind };
        facts.note(now, About { kind, namespace: &key.namespace, name: &key.name, uid: &Uid::new() }, "FailedReflection", clipped(why, 512));
    }
}
