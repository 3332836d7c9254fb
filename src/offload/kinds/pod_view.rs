//! What is looked at of a pod: at home, and at the provider. Read from JSON as it passes by; no object is kept. The plan on these views is [`super::pod`]'s.

use crate::offload::kind::{self, Seen, SeenView, Uid};
use crate::offload::ownership::{self, HOME_UID};
use serde::Deserialize;
use serde_json::value::RawValue;

/// A pod's phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Stage {
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Stage {
    pub(crate) fn read(text: &str) -> Stage {
        match text {
            "Running" => Stage::Running,
            "Succeeded" => Stage::Succeeded,
            "Failed" => Stage::Failed,
            _ => Stage::Pending,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Stage::Pending => "Pending",
            Stage::Running => "Running",
            Stage::Succeeded => "Succeeded",
            Stage::Failed => "Failed",
        }
    }

    pub(crate) fn terminal(self) -> bool {
        matches!(self, Stage::Succeeded | Stage::Failed)
    }
}

/// A ConfigMap or Secret a pod uses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reference {
    pub secret: bool,
    pub name: Box<str>,
}

/// A pod at home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HomeView {
    pub uid: Uid,
    pub deleting: bool,
    pub stage: Stage,
    pub ready: bool,
    /// Sorted, without doubles, at most 64.
    pub references: Box<[Reference]>,
}

/// The provider's pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FarView {
    pub uid: Uid,
    pub home_uid: Uid,
    /// The ShadowPod it was made from.
    pub shadow: Uid,
    pub stage: Stage,
    pub ready: bool,
    /// Changes whenever its status says something new to whom the pod belongs: the steps of an undisturbed start are one.
    pub digest: u64,
}

#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow)]
    metadata: kind::Meta<'a>,
    #[serde(borrow, default)]
    status: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    phase: String,
    #[serde(default)]
    conditions: Option<Vec<Condition>>,
    #[serde(default)]
    container_statuses: Option<Vec<Container>>,
    #[serde(default)]
    init_container_statuses: Option<Vec<Container>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    #[serde(default)]
    restart_count: i64,
    #[serde(default, deserialize_with = "kind::or_default")]
    state: State,
}

#[derive(Deserialize, Default)]
struct State {
    #[serde(default)]
    waiting: Option<Waiting>,
    #[serde(default)]
    terminated: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Waiting {
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    status: String,
}

impl Status {
    fn ready(&self) -> bool {
        self.conditions.iter().flatten().any(|c| c.r#type == "Ready" && c.status == "True")
    }

    /// On its way to run, with nothing to tell but that: a node has it, and no container has failed to start.
    fn starting(&self) -> bool {
        let waits = |c: &Container| matches!(&c.state.waiting, Some(w) if matches!(&*w.reason, "" | "ContainerCreating" | "PodInitializing"));
        let fresh = |c: &Container| c.restart_count == 0 && c.state.terminated.is_none();
        Stage::read(&self.phase) == Stage::Pending
            && self.conditions.iter().flatten().any(|c| c.r#type == "PodScheduled" && c.status == "True")
            && self.container_statuses.iter().flatten().all(waits)
            && self.init_container_statuses.iter().flatten().all(fresh)
            && self.init_container_statuses.iter().flatten().all(|c| c.state.waiting.is_none() || waits(c))
    }
}

pub(crate) fn read_home(json: &[u8]) -> Result<Seen, String> {
    #[derive(Deserialize)]
    struct Home<'a> {
        #[serde(borrow)]
        metadata: kind::Meta<'a>,
        #[serde(default, deserialize_with = "kind::or_default")]
        spec: super::config_map::References,
        #[serde(default, deserialize_with = "kind::or_default")]
        status: Status,
    }
    let pod: Home = kind::parse(json)?;
    let view = HomeView {
        uid: kind::uid(&pod.metadata.uid)?,
        deleting: pod.metadata.deletion_timestamp.is_some(),
        stage: Stage::read(&pod.status.phase),
        ready: pod.status.ready(),
        references: pod.spec.collect(),
    };
    pod.metadata.seen(SeenView::HomePod(view))
}

pub(crate) fn read_far(json: &[u8]) -> Result<Seen, String> {
    let pod: Object = kind::parse(json)?;
    let raw = pod.status.map_or("{}", RawValue::get);
    let status: Status = kind::parse(raw.as_bytes())?;
    let view = FarView {
        uid: kind::uid(&pod.metadata.uid)?,
        home_uid: kind::uid(pod.metadata.annotation(HOME_UID).unwrap_or_default())?,
        shadow: pod.metadata.owner("ShadowPod"),
        stage: Stage::read(&status.phase),
        ready: status.ready(),
        digest: ownership::digest([pod.metadata.uid.as_bytes(), if status.starting() { b"starting" } else { raw.as_bytes() }]),
    };
    pod.metadata.seen(SeenView::FarPod(view))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(status: &str) -> u64 {
        let json = format!(r#"{{"metadata":{{"name":"web","namespace":"shop","uid":"u"}},"status":{status}}}"#);
        let SeenView::FarPod(view) = read_far(json.as_bytes()).expect("a pod").view else { panic!("a far pod") };
        view.digest
    }

    #[test]
    fn an_undisturbed_start_is_told_once_and_trouble_at_once() {
        let scheduled = r#"{"type":"PodScheduled","status":"True"}"#;
        let creating = |more: &str| {
            format!(
                r#"{{"phase":"Pending","conditions":[{scheduled}{more}],"containerStatuses":[{{"state":{{"waiting":{{"reason":"ContainerCreating"}}}}}}]}}"#
            )
        };
        let first = digest(&format!(r#"{{"phase":"Pending","conditions":[{scheduled}]}}"#));
        assert_eq!(first, digest(&creating("")));
        assert_eq!(first, digest(&creating(r#",{"type":"PodReadyToStartContainers","status":"True"}"#)));
        for other in [
            r#"{"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable"}]}"#.to_owned(),
            creating("").replace("ContainerCreating", "ErrImagePull"),
            creating("").replace("ContainerCreating", "CreateContainerConfigError"),
            creating("").replace("Pending", "Running"),
            format!(r#"{{"phase":"Pending","conditions":[{scheduled}],"initContainerStatuses":[{{"restartCount":1,"state":{{"running":{{}}}}}}]}}"#),
            format!(r#"{{"phase":"Pending","conditions":[{scheduled}],"initContainerStatuses":[{{"state":{{"terminated":{{"exitCode":1}}}}}}]}}"#),
        ] {
            assert_ne!(first, digest(&other), "{other}");
        }
    }
}
