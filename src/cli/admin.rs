//! The administrator's way to the API server, blocking: for the verbs that use the caller's kubeconfig and for `shell::setup`.
//!
//! The daemon's own client on a runtime of its own, which runs only while a call is under way. Every answer is a [`Reply`]; it decides nothing.

use std::path::Path;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use crate::budget::OBJECT_MAX;
use crate::kube::call::{Body, Call, Cluster, Verb};
use crate::kube::reply::Reply;
use crate::shell::api::{Api, target};
use crate::shell::kubeconfig::{Access, from_file, read_file};
use crate::shell::time;
use crate::shell::tls::Times;

/// The longest answer read, in bytes: a list of what is ours.
const ANSWER_MAX: usize = 16 * OBJECT_MAX;

/// An API server, and the right to speak to it as the administrator. It must not be used from within a runtime's task.
pub struct Admin {
    runtime: Runtime,
    api: Api,
    server: String,
}

impl Admin {
    /// From the kubeconfig that was named, else `$KUBECONFIG` (its first file), else K3s's.
    pub fn from_kubeconfig(named: Option<&str>) -> Result<Admin, String> {
        let environment = std::env::var("KUBECONFIG").ok().and_then(|v| v.split(':').find(|p| !p.is_empty()).map(str::to_owned));
        let path = named.map(str::to_owned).or(environment).unwrap_or_else(|| crate::shell::kubeconfig::K3S.to_owned());
        Admin::new(&from_file(Path::new(&path), &read_file)?, &Times::new(time::wall))
    }

    /// From an access that was read; the server's certificate must hold at one of `times`.
    pub fn new(access: &Access, times: &Times) -> Result<Admin, String> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| format!("the runtime cannot start: {e}"))?;
        let target = runtime.block_on(target(access, times))?;
        let server = format!("https://{}", target.host);
        let (notices, _) = mpsc::channel(1);
        let api = Api::new(notices, 0).with_answers_up_to(ANSWER_MAX);
        api.set_target(Cluster::Home, target);
        Ok(Admin { runtime, api, server })
    }

    /// Where it is, for messages.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// How far the server's clock is ahead of ours, in seconds, as it last said.
    pub fn clock_ahead(&self) -> Option<i64> {
        let (said, at) = self.api.tally().health(Cluster::Home).time?;
        let now = time::now();
        Some(said.0.saturating_add(now.mono.since(at).as_secs() as i64).saturating_sub(now.wall.0))
    }

    /// Carries out one request. `Apply` goes under our field manager, forced.
    pub fn call(&self, verb: Verb, path: &str, body: Option<&str>) -> Reply {
        let body = body.map_or(Body::None, |json| Body::Json(json.to_owned()));
        self.runtime.block_on(self.api.answer(Call { to: Cluster::Home, verb, path: path.to_owned(), body }))
    }
}

/// Says what a reply that is not `Done` means for `what`, in one sentence.
pub fn explain(what: &str, reply: &Reply) -> String {
    match reply {
        Reply::Done(_) => format!("{what}: done"),
        Reply::NotFound => format!("{what}: not found"),
        Reply::Conflict => format!("{what}: it exists already, or has changed meanwhile"),
        Reply::Expired => format!("{what}: too old"),
        Reply::Refused(why) => format!("{what}: the API server refuses: {why}"),
        Reply::Unauthorized => format!("{what}: the API server does not accept the kubeconfig's credential"),
        Reply::Throttled(_) => format!("{what}: the API server is overloaded"),
        Reply::Unreachable(why) => format!("{what}: no answer from the API server: {why}"),
        Reply::Unfit(_) => format!("{what}: nothing was sent"),
    }
}
