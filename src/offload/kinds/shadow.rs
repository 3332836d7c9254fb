//! The provider's side of a pod: a consumer's ShadowPod becomes a Pod here, within the grant, again if it is lost, never after it has ended.
//!
//! The ShadowPod is hostile input: only allow-listed fields are used, and the Pod is counted before it is made. The terminal phase is latched in the
//! ShadowPod's status before anything else happens with the Pod; nothing is made after that. A `Never` pod lost after its containers started is Failed.

use super::pod::Stage;
use super::pod_spec::{self, Counted};
use crate::clock::Now;
use crate::identity::ClusterId;
use crate::kube::call::{Cluster, Unfit};
use crate::kube::reply::Reply;
use crate::offload::calls;
use crate::offload::denials::Denied;
use crate::offload::facts::{Facts, Reached, Wake, clipped};
use crate::offload::kind::{self, Key, Next, Op, PODS, SHADOW_PODS, Seen, SeenView, Step, Uid};
use crate::offload::offer::Amount;
use crate::offload::ownership::{self, DESTINATION, HOME_UID, MANAGED, MANAGED_BY, NODE_NAME, ORIGIN};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::time::Duration;

/// How often a pod that does not fit is tried again if nothing becomes free.
const ROOM_EVERY: Duration = Duration::from_secs(60);

/// The largest Pod that is made. With the API server's defaults, its bookkeeping and the status (some seven times as much at worst) it stays
/// below what the watch reads: a Pod that is not seen would not be counted.
const POD_MAX: usize = crate::budget::OBJECT_MAX / 8;

/// When a pod that ended is begun again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Restart {
    #[default]
    Always,
    OnFailure,
    Never,
}

/// A ShadowPod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShadowView {
    pub uid: Uid,
    pub home_uid: Uid,
    pub deleting: bool,
    /// The latched phase.
    pub stage: Stage,
    /// Why there is no Pod, in words.
    pub refusal: Option<Box<str>>,
    pub restart: Restart,
    pub amount: Amount,
}

/// A Pod made from a ShadowPod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MadeView {
    pub uid: Uid,
    pub shadow: Uid,
    pub deleting: bool,
    pub stage: Stage,
    /// It ended for a reason of its own, not because the node took it away.
    pub ended: bool,
    /// A container has started.
    pub started: bool,
    pub amount: Amount,
}

/// The row of a ShadowPod and its Pod.
#[derive(Debug, Default)]
pub(crate) struct ShadowRow {
    pub shadow: Option<ShadowView>,
    /// The API server has said that the ShadowPod is gone; that a list did not tell of it does not end its Pod.
    pub gone: bool,
    pub made: Option<MadeView>,
    /// What of the grant is held for it.
    pub held: Option<Amount>,
    /// The ShadowPod whose containers have started, and how its Pod ended if it is gone since.
    begun: Uid,
    ended: Option<Stage>,
    latching: Stage,
    said: u64,
    /// It did not fit when it was last tried.
    short: bool,
    /// How far the watch on Pods has told of this one.
    pub told_at: Reached,
}

impl ShadowRow {
    /// Takes what the watch tells of the Pod; `gone` with its last state.
    pub(crate) fn take_made(&mut self, view: MadeView, gone: bool) {
        if view.started {
            self.begun = view.shadow.clone();
        }
        if gone && view.stage.terminal() && view.ended {
            self.ended = Some(view.stage);
        }
        self.made = (!gone).then_some(view);
    }
}

#[derive(Deserialize)]
struct Object<'a, S, T> {
    #[serde(borrow)]
    metadata: kind::Meta<'a>,
    spec: S,
    #[serde(default)]
    status: Option<T>,
}

/// Never fails for what a consumer can write: an object that cannot be read is not seen to go either, and what was held for it would stay.
pub(crate) fn read_shadow(json: &[u8]) -> Result<Seen, String> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Spec<'a> {
        #[serde(borrow)]
        pod: Option<&'a RawValue>,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Status {
        phase: String,
        reason: String,
        message: String,
    }
    let object: Object<Option<Spec>, Status> = kind::parse(json)?;
    let status = object.status.unwrap_or_default();
    let spec = object.spec.unwrap_or_default().pod.map_or("{}", RawValue::get);
    // A list would be read as a struct without fields.
    let counted = spec.trim_start().starts_with('{').then(|| serde_json::from_str(spec).ok()).flatten();
    let spec: Counted = counted.unwrap_or_else(Counted::unreadable);
    let view = ShadowView {
        uid: kind::uid(&object.metadata.uid)?,
        home_uid: kind::uid(object.metadata.annotation(HOME_UID).unwrap_or_default()).unwrap_or_default(),
        deleting: object.metadata.deletion_timestamp.is_some(),
        stage: Stage::read(&status.phase),
        refusal: (status.reason == "OffloadingBackOff").then(|| clipped(&status.message, 512).into()),
        restart: match spec.restart_policy.as_str() {
            "Never" => Restart::Never,
            "OnFailure" => Restart::OnFailure,
            _ => Restart::Always,
        },
        amount: spec.amount(),
    };
    object.metadata.seen(SeenView::Shadow(view))
}

pub(crate) fn read_made(json: &[u8]) -> Result<Seen, String> {
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Status {
        phase: String,
        reason: String,
        container_statuses: Option<Vec<Container>>,
        init_container_statuses: Option<Vec<Container>>,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Container {
        restart_count: u32,
        state: State,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct State {
        running: Option<serde::de::IgnoredAny>,
        terminated: Option<serde::de::IgnoredAny>,
    }
    let object: Object<Counted, Status> = kind::parse(json)?;
    let status = object.status.unwrap_or_default();
    let begun = |c: &Container| c.restart_count > 0 || c.state.running.is_some() || c.state.terminated.is_some();
    let stage = Stage::read(&status.phase);
    let taken = [
        "Evicted",
        "NodeShutdown",
        "NodeLost",
        "Shutdown",
        "Terminated",
        "Preempting",
        "NodeAffinity",
        "OutOfcpu",
        "OutOfmemory",
        "OutOfpods",
        "UnexpectedAdmissionError",
    ];
    let view = MadeView {
        uid: kind::uid(&object.metadata.uid)?,
        shadow: object.metadata.owner("ShadowPod"),
        deleting: object.metadata.deletion_timestamp.is_some(),
        stage,
        ended: stage.terminal() && !taken.contains(&status.reason.as_str()),
        started: status.container_statuses.iter().chain(&status.init_container_statuses).flatten().any(begun),
        amount: object.spec.amount(),
    };
    object.metadata.seen(SeenView::MadePod(view))
}

/// Whether a pod that came to this end is never begun again.
fn is_final(restart: Restart, stage: Stage, ended: bool) -> bool {
    match (restart, stage) {
        (Restart::Never, _) => stage.terminal(),
        (Restart::OnFailure, Stage::Succeeded) => true,
        // Failed of its own doing (its deadline, say): beginning again would not end.
        _ => stage.terminal() && ended,
    }
}

pub(crate) fn plan(facts: &mut Facts, key: &Key, row: &mut ShadowRow, now: Now) -> Step {
    let _ = now;
    if !facts.shadows_synced || !facts.made_synced {
        return Step::Settled;
    }
    let pod_path = PODS.object(Some(&key.namespace), &key.name);
    let shadow = row.shadow.as_ref().filter(|s| !s.deleting);
    let Some(shadow) = shadow else {
        return match &row.made {
            Some(made) if made.deleting => Step::Settled,
            Some(made) if row.gone || row.shadow.is_some() => Step::Do(Op::Remove, calls::delete(Cluster::Home, pod_path, &made.uid, None)),
            Some(_) => Step::Do(Op::Confirm, calls::look(Cluster::Home, SHADOW_PODS.object(Some(&key.namespace), &key.name))),
            None => {
                release(facts, key, row);
                if row.shadow.is_none() { Step::Forget } else { Step::Settled }
            }
        };
    };
    let Some(consumer) = facts.twins.get(&key.namespace).and_then(|peer| facts.consumers.get(peer)) else { return Step::Settled };
    let path = SHADOW_PODS.object(Some(&key.namespace), &key.name);
    let latch = |row: &mut ShadowRow, shadow: &Uid, stage: Stage, reason: &str, message: &str| {
        row.latching = stage;
        let status = json!({"phase": stage.as_str(), "reason": reason, "message": message});
        Step::Do(Op::Latch, calls::status(Cluster::Home, path.clone(), shadow, status))
    };
    let uid = shadow.uid.clone();
    if shadow.stage.terminal() {
        if row.made.as_ref().is_none_or(|m| m.stage.terminal()) {
            release(facts, key, row);
        }
        return Step::Settled;
    }
    match &row.made {
        Some(made) if made.shadow != uid => {
            if made.deleting {
                Step::Settled
            } else {
                Step::Do(Op::Remove, calls::delete(Cluster::Home, pod_path, &made.uid, None))
            }
        }
        Some(made) if is_final(shadow.restart, made.stage, made.ended) => {
            let stage = made.stage;
            latch(row, &uid, stage, "", "")
        }
        Some(made) if made.stage.terminal() => {
            if made.deleting {
                Step::Settled
            } else {
                Step::Do(Op::Remove, calls::delete(Cluster::Home, pod_path, &made.uid, None))
            }
        }
        // Noted where a restart of ours does not forget it: a Never pod that has begun is not begun twice.
        Some(made) if shadow.restart == Restart::Never && made.started && shadow.stage != Stage::Running => latch(row, &uid, Stage::Running, "", ""),
        Some(_) => Step::Settled,
        None => {
            if let Some(stage) = row.ended.filter(|stage| row.begun == uid && is_final(shadow.restart, *stage, true)) {
                return latch(row, &uid, stage, "", "");
            }
            if shadow.restart == Restart::Never && (row.begun == uid || shadow.stage == Stage::Running) {
                return latch(row, &uid, Stage::Failed, "RemotePodLost", "the pod was lost after its containers had started; its restart policy is Never");
            }
            let consumer_peer = consumer.spec.peer;
            let amount = shadow.amount;
            let used = facts.used_by(consumer_peer).minus(row.held.unwrap_or_default());
            let why = used.beyond(amount, consumer.spec.grant);
            row.short = why.is_some();
            if let Some(why) = why {
                return refuse(facts, row, &uid, path, (Denied::Grant, &why));
            }
            let (origin, here, grant) = (consumer.spec.cluster.clone(), facts.home.clone(), consumer.spec.grant);
            let (name, namespace) = (key.name.to_string(), key.namespace.to_string());
            hold(facts, key, row, amount);
            let make = Box::new(move |json: &[u8]| pod(json, &uid, (amount, grant), &name, &namespace, &origin, &here));
            Step::Do(Op::Create, calls::create_from(Cluster::Home, &PODS, &key.namespace, Cluster::Home, path, make))
        }
    }
}

/// Says in the ShadowPod why there is no Pod; the consumer asks for it there.
fn refuse(facts: &Facts, row: &mut ShadowRow, uid: &Uid, path: String, (what, why): (Denied, &str)) -> Step {
    let said = ownership::digest([uid.as_bytes(), why.as_bytes()]);
    if row.said == said {
        return Step::Wait(ROOM_EVERY);
    }
    row.said = said;
    facts.denials.count(what, 1);
    let status = json!({"reason": "OffloadingBackOff", "message": why});
    Step::Do(Op::Status, calls::status(Cluster::Home, path, uid, status))
}

/// Holds `amount` of the grant for this row.
pub(crate) fn hold(facts: &mut Facts, key: &Key, row: &mut ShadowRow, amount: Amount) {
    let used = facts.used.entry(key.namespace.clone()).or_default();
    *used = used.minus(row.held.unwrap_or_default()).plus(amount);
    row.held = Some(amount);
}

/// Gives back what was held; others may fit now.
pub(crate) fn release(facts: &mut Facts, key: &Key, row: &mut ShadowRow) {
    let Some(held) = row.held.take() else { return };
    if let Some(used) = facts.used.get_mut(&key.namespace) {
        *used = used.minus(held);
        if *used == Amount::default() {
            facts.used.remove(&key.namespace);
        }
    }
    facts.wake(Wake::Room);
}

/// Whether the row waits for room. One that was refused for another reason does not: its next try holds and gives back room, and two such rows
/// would wake each other without end.
pub(crate) fn waits(row: &ShadowRow) -> bool {
    row.shadow.is_some() && row.made.is_none() && row.short
}

pub(crate) fn settle(facts: &mut Facts, key: &Key, row: &mut ShadowRow, op: Op, reply: &Reply) -> Next {
    match (op, reply) {
        (Op::Create, Reply::Done(body)) => {
            if let Ok(Seen { view: SeenView::MadePod(made), version, .. }) = read_made(body)
                && row.told_at.allows(version)
            {
                row.take_made(made, false);
            }
            row.said = 0;
            Next::Again
        }
        // Ours that the watch has not told of, or a pod somebody else put there: wait, and say so if it lasts.
        // What was held stays held: if it is ours, it counts, whether or not it is ever seen.
        (Op::Create, Reply::Conflict) => tell(facts, key, row, "a pod of this name exists in the twin namespace"),
        (Op::Create, Reply::Unfit(Unfit::Refused(why)) | Reply::Refused(why)) => {
            let why = why.clone();
            release(facts, key, row);
            tell(facts, key, row, &why)
        }
        // No answer: the Pod may have been made. What was held stays held until the watch tells.
        (Op::Create, Reply::Unreachable(_)) => Next::BackOff,
        (Op::Create, _) => {
            release(facts, key, row);
            Next::BackOff
        }
        (Op::Latch, Reply::Done(_)) => {
            if let Some(shadow) = &mut row.shadow {
                shadow.stage = row.latching;
            }
            Next::Again
        }
        (Op::Status, Reply::Done(_)) => Next::BackOff,
        (Op::Status, _) => {
            row.said = 0;
            Next::BackOff
        }
        (Op::Confirm, Reply::NotFound) => {
            row.gone = true;
            Next::Again
        }
        (Op::Confirm, Reply::Done(body)) => {
            row.gone = row.made.as_ref().is_some_and(|made| made.shadow != kind::uid_of(body));
            if row.gone { Next::Again } else { Next::BackOff }
        }
        (Op::Remove, Reply::Done(_) | Reply::NotFound) => {
            if let Some(made) = &mut row.made {
                made.deleting = true;
            }
            Next::Again
        }
        _ => Next::BackOff,
    }
}

/// The refusal as the next call, if it has not been said yet.
fn tell(facts: &Facts, key: &Key, row: &mut ShadowRow, why: &str) -> Next {
    let Some(uid) = row.shadow.as_ref().map(|s| s.uid.clone()) else { return Next::Again };
    match refuse(facts, row, &uid, SHADOW_PODS.object(Some(&key.namespace), &key.name), (Denied::Pod, clipped(why, 512))) {
        Step::Do(op, call) => Next::Call(op, call),
        _ => Next::BackOff,
    }
}

/// The Pod for a ShadowPod.
fn pod(json: &[u8], uid: &Uid, (amount, grant): (Amount, Amount), name: &str, namespace: &str, origin: &ClusterId, here: &ClusterId) -> Result<String, Unfit> {
    let shadow: Value = serde_json::from_slice(json).map_err(|_| Unfit::Refused("the ShadowPod is no JSON".into()))?;
    if shadow["metadata"]["uid"].as_str() != Some(uid) {
        return Err(Unfit::Changed);
    }
    // Counted again from the very text the Pod is made from: it may have changed since it was seen.
    match read_shadow(json) {
        Ok(Seen { view: SeenView::Shadow(view), .. }) if view.amount == amount => {}
        _ => return Err(Unfit::Changed),
    }
    let spec = shadow["spec"]["pod"].as_object().ok_or_else(|| Unfit::Refused("the ShadowPod has no spec.pod".into()))?;
    let mut spec = pod_spec::carried(spec).map_err(Unfit::Refused)?;
    pod_spec::fill_resources(&mut spec, grant);
    let meta = shadow.get("metadata");
    let mut labels = pod_spec::keys(meta, "labels", |_| true);
    let node = shadow["metadata"]["labels"][NODE_NAME].as_str().unwrap_or_default();
    for (key, value) in [(MANAGED, "true"), (MANAGED_BY, "shadowpod"), (ORIGIN, origin.as_str()), (DESTINATION, here.as_str()), (NODE_NAME, node)] {
        labels.insert(key.into(), json!(value));
    }
    let mut annotations = pod_spec::keys(meta, "annotations", ownership::carried_annotation);
    annotations.insert(HOME_UID.into(), shadow["metadata"]["annotations"][HOME_UID].clone());
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations,
            "ownerReferences": [{"apiVersion": "offloading.liqo.io/v1beta1", "kind": "ShadowPod", "name": name, "uid": uid.as_str(), "controller": true,
                "blockOwnerDeletion": false}]},
        "spec": spec,
    });
    let text = pod.to_string();
    if text.len() > POD_MAX {
        return Err(Unfit::Refused(format!("the pod has {} bytes; at most {POD_MAX} are taken from a consumer", text.len())));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANT: Amount = Amount { cpu: 4000, memory: 8 << 30, pods: 10 };
    const SHADOW: &[u8] = include_bytes!("golden/shadow_pod_at_provider.json");

    #[test]
    fn a_shadow_pod_becomes_the_pod_of_the_golden_file() {
        let SeenView::Shadow(view) = read_shadow(SHADOW).expect("readable").view else { panic!("a ShadowPod") };
        let (origin, here) = ("edge".parse().expect("an ID"), "hub".parse().expect("an ID"));
        let made = pod(SHADOW, &view.uid, (view.amount, GRANT), "web-1", "shop-edge", &origin, &here).expect("made");
        let expected: Value = serde_json::from_str(include_str!("golden/pod.json")).expect("golden");
        assert_eq!(serde_json::from_str::<Value>(&made).expect("JSON"), expected);
        let SeenView::MadePod(back) = read_made(made.replace("\"metadata\":{", "\"metadata\":{\"uid\":\"p\",").as_bytes()).expect("readable").view else {
            panic!("a pod")
        };
        assert_eq!((back.amount, back.shadow), (view.amount, view.uid.clone()));
        let more = Amount { cpu: 1, ..view.amount };
        assert_eq!(pod(SHADOW, &view.uid, (more, GRANT), "web-1", "shop-edge", &origin, &here), Err(Unfit::Changed));
    }

    #[test]
    fn whatever_a_consumer_writes_is_seen_and_never_fits() {
        for pod in [json!("x"), json!({"containers": "x"}), json!({"containers": [{"resources": {"requests": []}}]}), json!({"restartPolicy": 5}), json!([])] {
            let json = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "annotations": {HOME_UID: "x".repeat(99)}}, "spec": {"pod": pod}});
            let SeenView::Shadow(view) = read_shadow(json.to_string().as_bytes()).expect("seen").view else { panic!("a ShadowPod") };
            let all = Amount { cpu: u64::MAX - 1, memory: u64::MAX - 1, pods: 110 };
            assert!(Amount::default().beyond(view.amount, all).is_some(), "{json}");
        }
        let none = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": null});
        assert!(read_shadow(none.to_string().as_bytes()).is_ok());
    }

    #[test]
    fn what_is_refused_for_another_reason_than_room_is_not_woken_by_room() {
        let SeenView::Shadow(view) = read_shadow(SHADOW).expect("readable").view else { panic!("a ShadowPod") };
        let mut row = ShadowRow { shadow: Some(view), said: 7, ..ShadowRow::default() };
        assert!(!waits(&row), "refused, with a word said");
        row.short = true;
        assert!(waits(&row));
    }

    #[test]
    fn a_pod_that_would_be_too_large_to_be_seen_is_refused() {
        let (origin, here) = ("edge".parse().expect("an ID"), "hub".parse().expect("an ID"));
        let env: Vec<Value> = (0..POD_MAX / 8).map(|n| json!({"name": format!("{n}")})).collect();
        let many: Vec<Value> = (0..=pod_spec::CONTAINERS).map(|n| json!({"name": format!("c{n}"), "image": "i"})).collect();
        for (containers, word) in [(json!([{"name": "c", "image": "i", "env": env}]), "bytes"), (many.into(), "containers")] {
            let json = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"pod": {"containers": containers}}}).to_string();
            let SeenView::Shadow(view) = read_shadow(json.as_bytes()).expect("seen").view else { panic!("a ShadowPod") };
            let refused = pod(json.as_bytes(), &view.uid, (view.amount, GRANT), "p", "n", &origin, &here);
            assert!(matches!(&refused, Err(Unfit::Refused(why)) if why.contains(word)), "{word}");
        }
    }

    #[test]
    fn what_is_final_depends_on_the_restart_policy_and_on_who_ended_it() {
        for (restart, stage, ended, last) in [
            (Restart::Never, Stage::Failed, false, true),
            (Restart::Never, Stage::Succeeded, true, true),
            (Restart::OnFailure, Stage::Succeeded, true, true),
            (Restart::OnFailure, Stage::Failed, false, false),
            (Restart::OnFailure, Stage::Failed, true, true),
            (Restart::Always, Stage::Failed, false, false),
            (Restart::Always, Stage::Failed, true, true),
            (Restart::Never, Stage::Running, false, false),
        ] {
            assert_eq!(is_final(restart, stage, ended), last, "{restart:?} {stage:?} {ended}");
        }
    }
}
