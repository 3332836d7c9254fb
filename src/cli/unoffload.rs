//! `sluice unoffload namespace`: takes the consent back and waits until the daemon has left the namespace: twins gone (or owed, the peer
//! being away), label off, and last its own binding.

use std::time::Duration;

use serde_json::{Value, json};

use super::admin::{Admin, explain};
use super::args::{Output, UnoffloadNamespace};
use super::offload::{NAMESPACES, OFFLOADINGS};
use super::protocol::{Failure, Progress};
use super::terminal::{Stopwatch, Terminal};
use crate::kube::call::{Resource, Verb};
use crate::kube::reply::Reply;

pub(super) const BINDINGS: Resource = Resource { group: "rbac.authorization.k8s.io", version: "v1", plural: "rolebindings" };
/// The binding by which the daemon serves a home namespace; the last it removes.
const BINDING: &str = "sluice-home";
/// How long the daemon may take, the peer being away.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn namespace(typed: UnoffloadNamespace) -> Result<(), Failure> {
    let admin = Admin::from_kubeconfig(typed.kubeconfig.as_deref()).map_err(|e| Failure::new("kubeconfig", e, "name another with --kubeconfig PATH"))?;
    let out = if typed.output == Output::Json { Terminal::stderr() } else { Terminal::stdout() };
    let watch = Stopwatch::start();
    let existed = match admin.call(Verb::Delete, &OFFLOADINGS.object(Some(&typed.name), "offloading"), None) {
        Reply::Done(_) => true,
        Reply::NotFound => false,
        reply => return Err(Failure::new("api", explain("the NamespaceOffloading", &reply), "")),
    };
    if existed {
        out.step(&Progress { step: "consent taken back".into(), detail: format!("NamespaceOffloading {}/offloading is gone", typed.name) });
    } else if !served(&admin, &typed.name)? {
        return Err(Failure::new("not-offloaded", format!("namespace {:?} is not offloaded", typed.name), "see what is with: kubectl get nsoff -A"));
    }
    let mut told = 0;
    while served(&admin, &typed.name)? {
        if watch.passed() > PATIENCE {
            let message = format!("the daemon has not left namespace {} after {} s", typed.name, PATIENCE.as_secs());
            return Err(Failure::new("timeout", message, "is it running? sluice status. It goes on with this whenever it runs"));
        }
        if watch.passed().as_secs() >= told + 3 {
            told = watch.passed().as_secs();
            out.line(&format!("    waiting until the pods on peers have ended ({told} s)"));
        }
        Stopwatch::pause(Duration::from_millis(200));
    }
    out.step(&Progress { step: "namespace at home".into(), detail: watch.shown() });
    if typed.output == Output::Json {
        Terminal::stdout().line(&json!({"namespace": typed.name, "offloaded": false}).to_string());
    }
    Ok(())
}

/// Whether the daemon is still in the namespace. A namespace that is gone is served no more.
fn served(admin: &Admin, name: &str) -> Result<bool, Failure> {
    let labelled = match admin.call(Verb::Get, &NAMESPACES.object(None, name), None) {
        Reply::Done(body) => serde_json::from_slice::<Value>(&body).unwrap_or_default()["metadata"]["labels"].get("liqo.io/scheduling-enabled").is_some(),
        Reply::NotFound => return Ok(false),
        Reply::Throttled(_) | Reply::Unreachable(_) => return Ok(true),
        reply => return Err(Failure::new("api", explain("the namespace", &reply), "")),
    };
    Ok(labelled || !matches!(admin.call(Verb::Get, &BINDINGS.object(Some(name), BINDING), None), Reply::NotFound))
}
