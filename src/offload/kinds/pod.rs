//! A pod at home: to the provider as a ShadowPod, its status back from the Pod there. Three views in a row: the home pod, the provider's pod, and what is known of
//! the ShadowPod between, which is not watched but learnt from the answers to our own calls and from the hourly sweep.
//!
//! ShadowPods are made by POST with the home pod's UID; another UID there is deleted and waited for. A terminal phase goes home only after the ShadowPod has
//! latched it. A deleted home pod goes when nothing of it is left at the provider.

use super::pod_spec::{self, carried};
use super::pod_status;
pub(crate) use super::pod_view::{FarView, HomeView, Reference, Stage, read_far, read_home};
use crate::clock::{Instant, Now};
use crate::identity::ClusterId;
use crate::kube::call::{Cluster, Unfit};
use crate::kube::reply::Reply;
use crate::offload::calls;
use crate::offload::facts::{About, Facts, clipped};
use crate::offload::kind::{self, Key, Next, Op, PODS, SHADOW_PODS, Seen, SeenView, Step, Uid};
use crate::offload::namespace::Phase;
use crate::offload::ownership::{self, DESTINATION, HOME_UID, NODE_NAME, ORIGIN};
use serde_json::{Value, json};
use std::time::Duration;

/// How long changes of a pod that is not yet ready are gathered before home is told: most pods are ready by then, and are told of once.
const GATHER: Duration = Duration::from_secs(2);
/// How long a provider has to make the Pod before its ShadowPod is asked why not.
const ASK_AFTER: Duration = Duration::from_secs(2);
/// How long an unreachable provider is waited for before pods of a Terminating namespace go without it.
const FORCE_AFTER: Duration = Duration::from_secs(10);

/// What is known of the ShadowPod.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) enum Between {
    #[default]
    Unknown,
    Absent,
    /// One is there; whose is not known yet.
    Taken,
    There(There),
}

/// A ShadowPod that is there. Whose it is gets judged when it is asked, never when it is told: after a start the sweep may tell of it before home's pods are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct There {
    pub uid: Uid,
    /// The home pod it was made for.
    pub home_uid: Uid,
    /// The phase it has latched.
    pub latched: Option<Stage>,
}

/// The row of a pod.
#[derive(Debug, Default)]
pub(crate) struct PodRow {
    /// Whether the provider's count of pods that have not ended holds this one.
    pub counted: bool,
    pub home: Option<HomeView>,
    pub far: Option<FarView>,
    pub between: Between,
    /// Home's API server has said that the pod is gone. That a list did not tell of it is not enough to end what runs: it may be too large to be read, or
    /// have found no row.
    gone: bool,
    /// The far status home was last told, and the one it is being told.
    told: u64,
    telling: u64,
    /// Since when changes are being gathered.
    gathering: Option<Instant>,
    /// Why the pod waits, and what of it home was told.
    hold: Option<Box<str>>,
    held: u64,
    /// When the ShadowPod is asked why there is no Pod.
    ask_at: Option<Instant>,
    asked: u32,
}

impl PodRow {
    /// Takes a new view of the home pod; another UID under the name begins anew.
    pub(crate) fn take_home(&mut self, view: HomeView) {
        if self.home.as_ref().is_some_and(|h| h.uid != view.uid) {
            self.lose_home(true);
        }
        self.gone = false;
        self.home = Some(view);
    }

    /// The home pod is not told of any more, `gone` for certain or not; what is known of the provider stays.
    pub(crate) fn lose_home(&mut self, gone: bool) {
        *self = PodRow { gone, between: std::mem::take(&mut self.between), far: self.far.take(), ..Default::default() };
    }

    /// The ShadowPod of the home pod that is there now.
    fn ours(&self) -> Option<&There> {
        match (&self.between, &self.home) {
            (Between::There(there), Some(home)) if there.home_uid == home.uid => Some(there),
            _ => None,
        }
    }

    /// The terminal phase of the home pod that its ShadowPod has latched.
    fn latched(&self) -> Option<Stage> {
        self.ours().and_then(|there| there.latched)
    }
}

pub(crate) fn plan(facts: &mut Facts, key: &Key, row: &mut PodRow, now: Now) -> Step {
    if !facts.settled(key.peer) && facts.providers.contains_key(&key.peer) {
        return Step::Settled;
    }
    let Some(provider) = facts.providers.get(&key.peer) else { return Step::Forget };
    let link = facts.link(key.peer, &key.namespace);
    let Some(home) = &row.home else {
        let (true, Some(link)) = (provider.pods_synced, link) else {
            return if provider.pods_synced { Step::Forget } else { Step::Settled };
        };
        if !provider.reachable {
            return Step::Settled;
        }
        return match shadow_uid(row) {
            Some(uid) if row.gone => Step::Do(Op::Remove, remove_shadow(key, &link.twin, &uid)),
            Some(_) => Step::Do(Op::Confirm, calls::look(Cluster::Home, PODS.object(Some(&key.namespace), &key.name))),
            None if row.between == Between::Taken => Step::Do(Op::Look, calls::look(Cluster::Peer(key.peer), SHADOW_PODS.object(Some(&link.twin), &key.name))),
            None if row.far.is_some() => Step::Settled,
            None => Step::Forget,
        };
    };
    let path = PODS.object(Some(&key.namespace), &key.name);
    if let Some(leaving) = provider.leaving
        && (leaving.dead || !home.deleting)
    {
        // The pod's controller makes another, which goes elsewhere: the node is cordoned.
        let (op, grace) = if leaving.dead { (Op::Finish, Some(0)) } else { (Op::Evict, None) };
        return Step::Do(op, calls::delete(Cluster::Home, path, &home.uid, grace));
    }
    if home.deleting {
        return depart(facts, key, row, now);
    }
    if home.stage.terminal() {
        // Ended at home without an end at the provider (aborted, then offloaded again): what still runs, or may yet, is another's loss.
        let link = link.filter(|l| l.accepted() && l.far_synced && provider.reachable);
        let runs = row.far.as_ref().map_or(row.ours().is_some(), |f| f.home_uid == home.uid && !f.stage.terminal());
        return match (link, shadow_uid(row)) {
            (Some(link), Some(uid)) if runs && row.latched().is_none() => Step::Do(Op::Remove, remove_shadow(key, &link.twin, &uid)),
            _ => Step::Settled,
        };
    }
    arrive(facts, key, row, now)
}

/// The home pod is being deleted: the ShadowPod goes, then the Pod, then the home pod.
fn depart(facts: &Facts, key: &Key, row: &PodRow, now: Now) -> Step {
    let (Some(home), provider) = (&row.home, &facts.providers[&key.peer]) else { return Step::Settled };
    let finish = || Step::Do(Op::Finish, calls::delete(Cluster::Home, PODS.object(Some(&key.namespace), &key.name), &home.uid, Some(0)));
    let Some(link) = facts.link(key.peer, &key.namespace) else { return finish() };
    if !provider.reachable {
        let ending = facts.namespaces.get(&key.namespace).is_none_or(|n| n.deleting);
        let away = now.mono.since(provider.since);
        return match ending {
            true if away >= FORCE_AFTER => finish(),
            true => Step::Wait(FORCE_AFTER - away),
            false => Step::Settled,
        };
    }
    match link.phase {
        // Refused by the provider: nothing of it can be there.
        Some(Phase::CreationLoopBackOff) => return finish(),
        None => return if provider.map_synced { Step::Wait(Duration::from_secs(2)) } else { Step::Settled },
        Some(_) if !link.far_synced => return Step::Settled,
        Some(_) => {}
    }
    match (shadow_uid(row), &row.between) {
        (Some(uid), _) => Step::Do(Op::Remove, remove_shadow(key, &link.twin, &uid)),
        (None, Between::Unknown | Between::Taken) => Step::Do(Op::Look, calls::look(Cluster::Peer(key.peer), SHADOW_PODS.object(Some(&link.twin), &key.name))),
        (None, _) if row.far.is_some() => Step::Settled,
        _ => finish(),
    }
}

/// The home pod wants to run: a ShadowPod with its UID, then the status of what runs.
fn arrive(facts: &mut Facts, key: &Key, row: &mut PodRow, now: Now) -> Step {
    let Some(home) = &row.home else { return Step::Settled };
    let home_path = PODS.object(Some(&key.namespace), &key.name);
    let provider = &facts.providers[&key.peer];
    let refusal = match facts.link(key.peer, &key.namespace) {
        None if home.stage == Stage::Running => {
            row.hold = None;
            let status = pod_status::held("Failed", "OffloadingAborted", "its namespace is no longer offloaded to this provider");
            return Step::Do(Op::Hold, calls::status(Cluster::Home, home_path, &home.uid, status));
        }
        None => Some("its namespace is not offloaded to this provider: the pod tolerates the virtual node but nothing of it leaves this cluster"),
        Some(link) if link.phase == Some(Phase::CreationLoopBackOff) => Some("the provider refuses the namespace's twin; see the NamespaceOffloading's status"),
        Some(link) if !link.accepted() => return Step::Settled,
        Some(_) => None,
    };
    if let Some(why) = refusal {
        row.hold = Some(why.into());
    }
    let far = row.far.as_ref();
    if let Some(why) = &row.hold
        && far.is_none_or(|f| f.home_uid != home.uid)
        && row.held != ownership::digest([why.as_bytes()])
    {
        let status = pod_status::held("Pending", "OffloadingBackOff", why);
        return Step::Do(Op::Hold, calls::status(Cluster::Home, home_path, &home.uid, status));
    }
    let Some(link) = facts.link(key.peer, &key.namespace).filter(|l| l.accepted() && provider.reachable && l.far_synced) else { return Step::Settled };
    let twin = link.twin.clone();
    let there = Cluster::Peer(key.peer);
    let shadow_path = SHADOW_PODS.object(Some(&twin), &key.name);
    match (&row.between, far) {
        (Between::Taken, _) => Step::Do(Op::Look, calls::look(there, shadow_path)),
        (Between::There(shadow), _) if shadow.home_uid != home.uid => Step::Do(Op::Remove, remove_shadow(key, &twin, &shadow.uid)),
        // The pod of an earlier UID is still ending; POST comes when it is gone.
        (Between::Unknown | Between::Absent, Some(f)) if f.home_uid != home.uid => match f.shadow.is_empty() || row.between == Between::Absent {
            true => Step::Settled,
            false => Step::Do(Op::Remove, remove_shadow(key, &twin, &f.shadow)),
        },
        (Between::Unknown, Some(f)) if !f.shadow.is_empty() => {
            row.between = Between::There(There { uid: f.shadow.clone(), home_uid: home.uid.clone(), latched: None });
            Step::Wait(Duration::ZERO)
        }
        (Between::Unknown | Between::Absent, _) => {
            let (uid, node) = (home.uid.clone(), provider.spec.node.clone());
            let (name, origin, destination) = (key.name.to_string(), facts.home.clone(), provider.spec.cluster.clone());
            let make = Box::new(move |json: &[u8]| shadow_pod(json, &uid, &name, &twin, &origin, &destination, &node));
            let to = facts.link(key.peer, &key.namespace).map(|l| l.twin.to_string()).unwrap_or_default();
            Step::Do(Op::Create, calls::create_from(there, &SHADOW_PODS, &to, Cluster::Home, home_path, make))
        }
        (Between::There(shadow), Some(f)) if f.home_uid == home.uid => {
            if f.stage.terminal() && shadow.latched != Some(f.stage) {
                return Step::Do(Op::Latch, calls::look(there, shadow_path));
            }
            // Others write home's status too: Kubernetes marks pods of a lost node not ready.
            let lost_touch = (f.ready, f.stage) != (home.ready, home.stage) && row.told == f.digest;
            if row.told == f.digest && !lost_touch {
                return Step::Settled;
            }
            let urgent = f.stage.terminal() || f.ready || home.ready || lost_touch;
            let since = *row.gathering.get_or_insert(now.mono);
            if !urgent && now.mono.since(since) < GATHER {
                return Step::Wait(GATHER - now.mono.since(since));
            }
            row.gathering = None;
            row.telling = f.digest;
            let (uid, images, node) = (home.uid.clone(), provider.spec.images.clone(), provider.spec.address);
            let make = Box::new(move |json: &[u8]| pod_status::home_status(json, &uid, &images, node));
            Step::Do(Op::Status, calls::status_from(Cluster::Home, home_path, there, PODS.object(Some(&twin), &key.name), make))
        }
        (Between::There(_), Some(_)) => Step::Settled,
        (Between::There(shadow), None) => {
            if let Some(stage) = shadow.latched {
                let status = pod_status::held(stage.as_str(), "RemotePodTerminated", "the pod ended at the provider and is no longer there");
                return Step::Do(Op::Complete, calls::status(Cluster::Home, home_path, &home.uid, status));
            }
            let at = *row.ask_at.get_or_insert(now.mono + ASK_AFTER);
            if now.mono < at {
                return Step::Wait(at.since(now.mono));
            }
            Step::Do(Op::Look, calls::look(there, shadow_path))
        }
    }
}

/// The UID of a ShadowPod that is there for certain or in all likelihood.
fn shadow_uid(row: &PodRow) -> Option<Uid> {
    match (&row.between, &row.far) {
        (Between::There(there), _) => Some(there.uid.clone()),
        (Between::Unknown, Some(far)) if !far.shadow.is_empty() => Some(far.shadow.clone()),
        _ => None,
    }
}

fn remove_shadow(key: &Key, twin: &str, uid: &Uid) -> crate::kube::call::Call {
    calls::delete(Cluster::Peer(key.peer), SHADOW_PODS.object(Some(twin), &key.name), uid, None)
}

pub(crate) fn settle(facts: &mut Facts, key: &Key, row: &mut PodRow, op: Op, reply: &Reply, now: Now) -> Next {
    let home_uid = row.home.as_ref().map(|h| h.uid.clone()).unwrap_or_default();
    // What was said of an earlier pod of the name says nothing about this one.
    if let (Op::Status | Op::Hold | Op::Complete | Op::Evict, Reply::Done(body)) = (op, reply) {
        let uid = kind::uid_of(body);
        if !uid.is_empty() && uid != home_uid {
            return Next::Again;
        }
    }
    match (op, reply) {
        (Op::Create, Reply::Done(body)) => {
            row.between = Between::There(There { uid: kind::uid_of(body), home_uid, latched: None });
            row.ask_at = Some(now.mono + ASK_AFTER);
            Next::Again
        }
        (Op::Create | Op::Remove, Reply::Conflict) => {
            row.between = Between::Taken;
            Next::Again
        }
        (Op::Create, Reply::Unfit(Unfit::Refused(why)) | Reply::Refused(why)) => {
            row.hold = Some(clipped(why, 512).into());
            Next::BackOff
        }
        (Op::Create, Reply::Unfit(Unfit::Changed) | Reply::NotFound) => Next::BackOff,
        (Op::Look | Op::Latch, Reply::Done(body)) => learn(row, body, &home_uid, op, now),
        (Op::Look | Op::Latch, Reply::NotFound) => {
            row.between = Between::Absent;
            Next::Again
        }
        (Op::Confirm, Reply::NotFound) => {
            row.gone = true;
            Next::Again
        }
        (Op::Confirm, Reply::Done(body)) => {
            let now_there = kind::uid_of(body);
            row.gone = match (&row.between, &row.far) {
                (Between::There(there), _) => there.home_uid != now_there,
                (_, Some(far)) => far.home_uid != now_there,
                _ => false,
            };
            if row.gone { Next::Again } else { Next::BackOff }
        }
        (Op::Remove, Reply::Done(_) | Reply::NotFound) => {
            row.between = Between::Absent;
            Next::Again
        }
        (Op::Status, Reply::Done(_)) => {
            row.told = row.telling;
            (row.hold, row.held) = (None, 0);
            // What was just written is what the watch will tell; until it does, do not write it again.
            if let (Some(home), Some(far)) = (&mut row.home, &row.far)
                && far.digest == row.told
            {
                (home.ready, home.stage) = (far.ready, far.stage);
            }
            Next::Again
        }
        (Op::Hold, Reply::Done(_)) => {
            let why = row.hold.clone();
            row.held = why.as_ref().map_or(0, |w| ownership::digest([w.as_bytes()]));
            row.told = 0;
            match (why, &mut row.home) {
                (Some(why), _) => facts.note(now, About { kind: "Pod", namespace: &key.namespace, name: &key.name, uid: &home_uid }, "OffloadingBackOff", &why),
                (None, Some(home)) => home.stage = Stage::Failed,
                (None, None) => {}
            }
            Next::Again
        }
        (Op::Complete, Reply::Done(_)) => {
            let latched = row.latched();
            if let (Some(home), Some(stage)) = (&mut row.home, latched) {
                home.stage = stage;
            }
            Next::Again
        }
        (Op::Finish, Reply::Done(_) | Reply::NotFound) => {
            // The watch tells when it is gone; ask again only if it does not.
            Next::After(Duration::from_secs(5))
        }
        (Op::Evict, Reply::Done(_) | Reply::NotFound) => {
            if let Some(home) = &mut row.home {
                home.deleting = true;
            }
            Next::After(Duration::from_secs(1))
        }
        _ => Next::BackOff,
    }
}

impl From<&super::shadow::ShadowView> for There {
    fn from(view: &super::shadow::ShadowView) -> There {
        There { uid: view.uid.clone(), home_uid: view.home_uid.clone(), latched: Some(view.stage).filter(|stage| stage.terminal()) }
    }
}

/// What the ShadowPod itself says.
fn learn(row: &mut PodRow, body: &[u8], home_uid: &Uid, op: Op, now: Now) -> Next {
    let Ok(Seen { view: SeenView::Shadow(shadow), .. }) = super::shadow::read_shadow(body) else { return Next::BackOff };
    let ours = shadow.home_uid == *home_uid;
    row.between = Between::There(There::from(&shadow));
    if !ours {
        return Next::Again;
    }
    if op == Op::Latch {
        return if shadow.stage.terminal() { Next::Again } else { Next::BackOff };
    }
    row.asked = (row.asked + 1).min(5);
    row.ask_at = Some(now.mono + ASK_AFTER * (1 << row.asked));
    if let Some(why) = shadow.refusal {
        row.hold = Some(clipped(&why, 512).into());
    }
    Next::Again
}

/// The ShadowPod for a home pod.
fn shadow_pod(json: &[u8], uid: &Uid, name: &str, twin: &str, origin: &ClusterId, destination: &ClusterId, node: &str) -> Result<String, Unfit> {
    let pod: Value = serde_json::from_slice(json).map_err(|_| Unfit::Refused("the pod is no JSON".into()))?;
    if pod["metadata"]["uid"].as_str() != Some(uid) {
        return Err(Unfit::Changed);
    }
    let spec = pod["spec"].as_object().ok_or_else(|| Unfit::Refused("the pod has no spec".into()))?;
    let mut labels = pod_spec::keys(pod.get("metadata"), "labels", |_| true);
    for (key, value) in [(ownership::MANAGED, "true"), (ORIGIN, origin.as_str()), (DESTINATION, destination.as_str()), (NODE_NAME, node)] {
        labels.insert(key.into(), json!(value));
    }
    let mut annotations = pod_spec::keys(pod.get("metadata"), "annotations", ownership::carried_annotation);
    annotations.insert(HOME_UID.into(), json!(uid.as_str()));
    let shadow = json!({
        "apiVersion": "offloading.liqo.io/v1beta1", "kind": "ShadowPod",
        "metadata": {"name": name, "namespace": twin, "labels": labels, "annotations": annotations},
        "spec": {"pod": carried(spec).map_err(Unfit::Refused)?},
    });
    Ok(shadow.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_pod_becomes_the_shadow_pod_of_the_golden_file() {
        let cluster = |id: &str| id.parse::<ClusterId>().expect("an ID");
        let uid = Uid::try_from("home-1").expect("short");
        let made = shadow_pod(include_bytes!("golden/home_pod.json"), &uid, "web-1", "shop-edge", &cluster("edge"), &cluster("hub"), "hub").expect("made");
        let expected: Value = serde_json::from_str(include_str!("golden/shadow_pod.json")).expect("golden");
        assert_eq!(serde_json::from_str::<Value>(&made).expect("JSON"), expected);
        let other = Uid::try_from("home-2").expect("short");
        assert_eq!(
            shadow_pod(include_bytes!("golden/home_pod.json"), &other, "web-1", "shop-edge", &cluster("edge"), &cluster("hub"), "hub"),
            Err(Unfit::Changed)
        );
    }

    #[test]
    fn another_uid_under_the_name_begins_anew() {
        let view =
            |uid: &str| HomeView { uid: uid.try_into().expect("short"), deleting: false, stage: Stage::Pending, ready: false, references: Box::default() };
        let short = |uid: &str| Uid::try_from(uid).expect("short");
        let there = There { uid: short("s"), home_uid: short("a"), latched: Some(Stage::Failed) };
        let mut row = PodRow { between: Between::There(there.clone()), told: 7, ..Default::default() };
        assert_eq!(row.ours(), None, "before home is known");
        row.take_home(view("a"));
        row.take_home(view("a"));
        assert_eq!((row.ours(), row.told, row.latched()), (Some(&there), 7, Some(Stage::Failed)));
        row.take_home(view("b"));
        assert_eq!((&row.between, row.told, row.ours(), row.latched()), (&Between::There(there), 0, None, None));
    }
}
