//! `sluice uninstall`: takes out of the cluster what carries our mark, and nothing else, in an order in which nothing is left hanging:
//! the policy that changes pods, labels on users' namespaces, nodes, namespaces we made, bindings, roles, our namespace, and last the kinds.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::admin::{Admin, explain};
use super::args::Uninstall;
use super::offload::NAMESPACES;
use super::protocol::{Failure, Progress, Request};
use super::terminal::{Stopwatch, Terminal, confirm};
use super::unoffload::BINDINGS;
use crate::kube::call::{Resource, Verb};
use crate::kube::reply::Reply;
use crate::shell::setup::{MARK, Object, objects};

const NODES: Resource = Resource { group: "", version: "v1", plural: "nodes" };
const LEASES: Resource = Resource { group: "coordination.k8s.io", version: "v1", plural: "leases" };
/// Where the kinds are.
const KINDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/";
/// How the namespace of a consumer begins; its ID follows.
const TENANT: &str = "liqo-tenant-";
/// How long namespaces and kinds may take to go.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often they are looked at, and after how many looks a kind that is still there is changed.
const LOOK: Duration = Duration::from_millis(300);
const REMIND: u32 = 10;

pub(super) fn uninstall(typed: Uninstall) -> Result<(), Failure> {
    let admin = Admin::from_kubeconfig(typed.kubeconfig.as_deref()).map_err(|e| Failure::new("kubeconfig", e, "name another with --kubeconfig PATH"))?;
    let objects = objects().map_err(|e| Failure::new("manifests", e, ""))?;
    let socket = super::run::socket(typed.socket)?;
    let running = super::socket::ask(&socket, &Request::new("status"), &mut |_| {});
    if !matches!(&running, Err(failure) if failure.reason == "not-running") {
        return Err(Failure::new(
            "running",
            "the daemon is running and would put back what is removed",
            "end its peerings with sluice unpeer, stop it, then: sluice uninstall",
        ));
    }
    // Made by sluice: the mark and a peer's ID. Offloaded, or sluice's own: the mark alone.
    let made = marked(&admin, &NAMESPACES.collection(None), ",liqo.io/remote-cluster-id")?;
    let homes = marked(&admin, &NAMESPACES.collection(None), ",!liqo.io/remote-cluster-id")?;
    let nodes = marked(&admin, &NODES.collection(None), "")?;
    let peers = peers(&nodes, &made);
    if !peers.is_empty() && !typed.force {
        let peers: Vec<&str> = peers.into_iter().collect();
        return Err(Failure::new(
            "peered",
            format!("this cluster is peered with {}", peers.join(", ")),
            "start the daemon and end that with sluice unpeer, or go on with --force: they are not told",
        ));
    }
    if !typed.yes {
        let twins = made.iter().map(|ns| ns.name.as_str()).collect::<Vec<_>>().join(", ");
        let twins = if twins.is_empty() { String::new() } else { format!(" and the namespaces {twins} with all in them") };
        confirm(&format!("Remove sluice from {}: its kinds, roles and policies, every NamespaceOffloading{twins}?", admin.server()))?;
    }
    let out = Terminal::stdout();
    let watch = Stopwatch::start();
    let step = |what: &str, count: usize| out.step(&Progress { step: what.to_owned(), detail: format!("{count} removed, {}", watch.shown()) });

    let mutating = objects.iter().rev().filter_map(|o| Some((o, o.older()?)));
    step("changing of pods", each(mutating, |(o, older)| Ok(remove_object(&admin, o)? || remove_object(&admin, &older)?))?);
    let bindings = marked(&admin, &BINDINGS.collection(None), "")?;
    step("labels", each(homes.iter().filter(|ns| ns.name != "sluice"), |ns| unlabel(&admin, &ns.name))?);
    step("virtual nodes", each(nodes.iter(), |n| remove(&admin, &NODES.object(None, &n.name)))?);
    let leases = marked(&admin, &LEASES.collection(Some("kube-node-lease")), "")?;
    step("leases", each(leases.iter(), |l| remove(&admin, &LEASES.object(Some("kube-node-lease"), &l.name)))?);
    let count = each(made.iter(), |ns| remove(&admin, &NAMESPACES.object(None, &ns.name)))?;
    gone(&admin, made.iter().map(|ns| NAMESPACES.object(None, &ns.name)), &watch)?;
    step("tenants and twins", count);
    step("bindings", each(bindings.iter(), |b| remove(&admin, &BINDINGS.object(b.namespace.as_deref(), &b.name)))?);
    let rest = objects.iter().rev().filter(|o| o.older().is_none() && o.kind != "CustomResourceDefinition");
    step("policies and roles", each(rest, |o| remove_object(&admin, o))?);
    let mut going = Vec::new();
    for kind in objects.iter().rev().filter(|o| o.kind == "CustomResourceDefinition") {
        if remove_object(&admin, kind)? {
            going.push(kind.path.clone());
        }
    }
    // A kind goes when the last object of it has gone.
    gone(&admin, going.iter().cloned(), &watch)?;
    step("kinds", going.len());
    gone(&admin, homes.iter().filter(|ns| ns.name == "sluice").map(|ns| NAMESPACES.object(None, &ns.name)), &watch)?;
    out.line("  Nothing of sluice is left in the cluster. Its key and state stay on this host, in its state directory (/var/lib/sluice by default).");
    Ok(())
}

/// What is needed of a listed object.
struct Name {
    namespace: Option<String>,
    name: String,
}

/// What carries our mark; `also` narrows the selector.
fn marked(admin: &Admin, collection: &str, also: &str) -> Result<Vec<Name>, Failure> {
    let selector = format!("{MARK}=true{also}").replace('/', "%2F").replace('=', "%3D").replace(',', "%2C").replace('!', "%21");
    names(admin, &format!("{collection}?labelSelector={selector}"))
}

fn names(admin: &Admin, path: &str) -> Result<Vec<Name>, Failure> {
    let body = match admin.call(Verb::Get, path, None) {
        Reply::Done(body) => body,
        Reply::NotFound => return Ok(Vec::new()),
        reply => return Err(Failure::new("api", explain("the list of what is ours", &reply), "")),
    };
    let list: Value = serde_json::from_slice(&body).map_err(|e| Failure::new("api", format!("the list of what is ours cannot be read: {e}"), ""))?;
    let text = |v: &Value| v.as_str().map(str::to_owned);
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(items.iter().filter_map(|i| Some(Name { namespace: text(&i["metadata"]["namespace"]), name: text(&i["metadata"]["name"])? })).collect())
}

fn each<T>(all: impl Iterator<Item = T>, mut act: impl FnMut(T) -> Result<bool, Failure>) -> Result<usize, Failure> {
    let mut count = 0;
    for one in all {
        count += usize::from(act(one)?);
    }
    Ok(count)
}

/// Removes an object of the manifests if it is there and carries our mark.
fn remove_object(admin: &Admin, object: &Object) -> Result<bool, Failure> {
    let what = format!("{} {}", object.kind, object.title);
    match admin.call(Verb::Get, &object.path, None) {
        Reply::Done(body) if serde_json::from_slice::<Value>(&body).unwrap_or_default()["metadata"]["labels"][MARK] == "true" => remove(admin, &object.path),
        Reply::Done(_) | Reply::NotFound => Ok(false),
        reply => Err(Failure::new("api", explain(&what, &reply), "")),
    }
}

fn remove(admin: &Admin, path: &str) -> Result<bool, Failure> {
    match admin.call(Verb::Delete, path, None) {
        Reply::Done(_) => Ok(true),
        // A namespace that is going already answers with a conflict.
        Reply::NotFound | Reply::Conflict => Ok(false),
        reply => Err(Failure::new("api", explain(path, &reply), "run the same command again: it goes on where it stopped")),
    }
}

fn unlabel(admin: &Admin, namespace: &str) -> Result<bool, Failure> {
    let body = r#"{"metadata":{"labels":{"liqo.io/scheduling-enabled":null,"sluice.internal/managed":null}}}"#;
    match admin.call(Verb::Merge, &NAMESPACES.object(None, namespace), Some(body)) {
        Reply::Done(_) => Ok(true),
        Reply::NotFound => Ok(false),
        reply => Err(Failure::new("api", explain(&format!("namespace {namespace}"), &reply), "")),
    }
}

fn gone(admin: &Admin, paths: impl Iterator<Item = String>, watch: &Stopwatch) -> Result<(), Failure> {
    for path in paths {
        let mut looks = 0;
        while !matches!(admin.call(Verb::Get, &path, None), Reply::NotFound) {
            if watch.passed() > PATIENCE {
                let message = format!("{path} is still there after {} s", PATIENCE.as_secs());
                return Err(Failure::new("timeout", message, "kubectl describe says what holds it; then run the same command again"));
            }
            looks += 1;
            if path.starts_with(KINDS) && looks % REMIND == 0 {
                remind(admin, &path, looks);
            }
            Stopwatch::pause(LOOK);
        }
    }
    Ok(())
}

/// Changes a kind that does not go. The API server lists the objects of a kind before it lets it go, which fails while it has only begun to
/// keep them ("storage is (re)initializing": nobody asked for one before), and its second try is lost if it comes before it has seen its own
/// note of the first; it looks again when the kind changes, or after five minutes (`crd_finalizer.go` of Kubernetes).
fn remind(admin: &Admin, path: &str, count: u32) {
    let body = format!(r#"{{"metadata":{{"annotations":{{"sluice.internal/leaving":"{count}"}}}}}}"#);
    // Whether it helped is seen at the next look.
    let _ = admin.call(Verb::Merge, path, Some(&body));
}

/// Whom this cluster is peered with, by what stands in it: the virtual nodes of its providers and the tenants of its consumers.
fn peers<'a>(nodes: &'a [Name], made: &'a [Name]) -> BTreeSet<&'a str> {
    let tenants = made.iter().filter_map(|ns| ns.name.strip_prefix(TENANT));
    nodes.iter().map(|node| node.name.as_str()).chain(tenants).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lends_or_borrows_is_a_peer_and_a_twin_alone_is_none() {
        let named = |names: &[&str]| names.iter().map(|n| Name { namespace: None, name: (*n).to_owned() }).collect::<Vec<_>>();
        for (nodes, made, wanted) in [
            (&[][..], &[][..], &[][..]),
            (&["hub"], &[], &["hub"]),
            (&["hub"], &["liqo-tenant-hub", "shop-hub", "liqo-tenant-edge"], &["edge", "hub"]),
            (&[], &["shop-hub"], &[]),
        ] {
            let (nodes, made) = (named(nodes), named(made));
            assert_eq!(peers(&nodes, &made).into_iter().collect::<Vec<_>>(), wanted);
        }
    }
}
