//! What must hold at every moment, read from the history of the sites' API servers: nothing of others is touched, no pod is there twice,
//! no pod at home loses its UID by our doing, and nothing of a pod that lives at home is ended at its provider. A test asks after each step; each change is looked at once.

use std::collections::BTreeMap;

use serde_json::Value;

use super::api_server::server::terminating;
use super::api_server::store::{Change, Key};
use super::site::Site;

/// The label on what is ours.
pub const OURS: &str = "sluice.internal/managed";
/// On shadows and provider pods: the UID of the pod at home.
pub const HOME_UID: &str = "sluice.internal/home-uid";

/// On a twin namespace: whose it is.
const TWIN: &str = "liqo.io/remote-cluster-id";

/// What a peer may write at a provider, all in its tenant and twin namespaces.
const A_PEERS: &[&str] = &[
    "namespacemaps.offloading.liqo.io",
    "resourceslices.authentication.liqo.io",
    "shadowpods.offloading.liqo.io",
    "shadowendpointslices.offloading.liqo.io",
    "services",
    "configmaps",
    "secrets",
    "ingresses.networking.k8s.io",
    "persistentvolumeclaims",
];

/// Reads histories as they grow.
#[derive(Debug, Default)]
pub struct Watchdog {
    read: BTreeMap<usize, u64>,
    /// A peering is being left: pods bound to another than a real node of their site may be evicted.
    pub leaving: bool,
}

impl Watchdog {
    /// Looks at all that has changed since the last call. `daemons[site]` is the name of the daemon of that site; a daemon that writes at another
    /// site does so as a peer. The history must not be forgotten in between.
    pub fn look(&mut self, sites: &[Site], daemons: &[&str]) -> Result<(), String> {
        for (at, site) in sites.iter().enumerate() {
            let read = self.read.entry(at).or_default();
            if *read == site.api.store.version() {
                continue;
            }
            while let Some(change) = site.api.store.after(*read).map_err(|_| "the watchdog was not asked often enough")? {
                *read = change.version;
                let Some(daemon) = daemons.iter().position(|d| **d == *change.who) else { continue };
                let evicts = self.leaving && daemon == at && change.key.resource == "pods";
                if evicts
                    && change
                        .before
                        .as_ref()
                        .is_some_and(|p| p["spec"]["nodeName"].as_str().is_some_and(|n| !site.controllers.nodes.iter().any(|real| real == n)))
                {
                    continue;
                }
                let judged = judge(change, daemon == at).and_then(|()| if self.leaving { Ok(()) } else { spared(change, site, &sites[daemon]) });
                judged.map_err(|why| format!("{} {why}: {:?}", change.who, change.key))?;
            }
            once(site).map_err(|why| format!("at {}: {why}", daemons[at]))?;
        }
        Ok(())
    }
}

fn judge(change: &Change, at_home: bool) -> Result<(), String> {
    let resource = change.key.resource.as_str();
    if !at_home && !A_PEERS.contains(&resource) {
        return Err("writes what a peer may not".into());
    }
    let before = change.before.as_deref();
    let after = change.after.as_deref();
    match (before, after) {
        (None, Some(made)) if !ours(made) && !free_to_make(resource) => Err("makes something without our label".into()),
        (None, _) => Ok(()),
        // Our mark on a user's namespace says that it is offloaded; it makes it no twin.
        (Some(before), _) if resource == "namespaces" && before["metadata"]["labels"].get(TWIN).is_none() => match after {
            Some(after) => untouched(resource, before, after),
            None => Err("takes away what is not ours".into()),
        },
        (Some(before), _) if ours(before) => Ok(()),
        (Some(before), None) if resource == "pods" && terminating(before) => Ok(()),
        (Some(before), None) => Err(if terminating(before) { "ends what is not ours".into() } else { "takes away what is not ours".into() }),
        (Some(before), Some(after)) => untouched(resource, before, after),
    }
}

/// A ShadowPod ends only after its pod at home, a Pod made from one only after the ShadowPod; `home` is the site of the daemon that did it.
fn spared(change: &Change, site: &Site, home: &Site) -> Result<(), String> {
    let ended = |object: &Value| terminating(object) || ["Succeeded", "Failed"].iter().any(|phase| object["status"]["phase"] == *phase);
    let Some(before) = change.before.as_deref().filter(|before| !ended(before)) else { return Ok(()) };
    if change.after.as_deref().is_some_and(|after| !terminating(after)) {
        return Ok(());
    }
    let (owner, in_site, resource) = match change.key.resource.as_str() {
        "shadowpods.offloading.liqo.io" => (&before["metadata"]["annotations"][HOME_UID], home, "pods"),
        "pods" => (&before["metadata"]["ownerReferences"][0]["uid"], site, "shadowpods.offloading.liqo.io"),
        _ => return Ok(()),
    };
    let lives = owner.is_string() && in_site.api.store.all(resource, "").any(|(_, object)| object["metadata"]["uid"] == *owner && !ended(object));
    if lives { Err("ends what runs for a pod that lives".into()) } else { Ok(()) }
}

/// Whether `after` is `before` but for what a daemon may write on others' objects.
fn untouched(resource: &str, before: &Value, after: &Value) -> Result<(), String> {
    if terminating(after) && !terminating(before) {
        return Err("asks for the deletion of what is not ours".into());
    }
    if resource != "namespaces" && before.get("spec") != after.get("spec") {
        return Err("changes the spec of what is not ours".into());
    }
    if !["pods", "namespaceoffloadings.offloading.liqo.io", "namespacemaps.offloading.liqo.io"].contains(&resource)
        && before.get("status") != after.get("status")
    {
        return Err("changes the status of what is not ours".into());
    }
    for map in ["labels", "annotations"] {
        let (before, after) = (&before["metadata"][map], &after["metadata"][map]);
        let keys = before.as_object().into_iter().chain(after.as_object()).flat_map(|m| m.keys());
        for key in keys {
            let domain = key.split('/').next().unwrap_or_default();
            if before.get(key) != after.get(key) && domain != "sluice.internal" && domain != "liqo.io" && !domain.ends_with(".liqo.io") {
                return Err(format!("changes the {map} {key} of what is not ours"));
            }
        }
    }
    Ok(())
}

fn ours(object: &Value) -> bool {
    object["metadata"]["labels"].get(OURS).is_some_and(|v| v == "true")
}

fn free_to_make(resource: &str) -> bool {
    // Events are notes to the user; a node's lease lies beside all others and goes with its node.
    ["events", "events.events.k8s.io", "leases.coordination.k8s.io"].contains(&resource)
}

/// No two pods of one home UID, in whatever state.
fn once(site: &Site) -> Result<(), String> {
    for resource in ["pods", "shadowpods.offloading.liqo.io"] {
        let mut homes: BTreeMap<&str, &Key> = BTreeMap::new();
        for (key, object) in site.api.store.all(resource, "") {
            let meta = &object["metadata"];
            let home = meta["labels"].get(HOME_UID).or_else(|| meta["annotations"].get(HOME_UID)).and_then(Value::as_str);
            if let Some(other) = home.and_then(|home| homes.insert(home, key)) {
                return Err(format!("{resource} {} and {} are of the same pod at home", other.name, key.name));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::call::Verb::{self, Create, Delete, Merge};
    use crate::world::chance::Chance;
    use serde_json::json;

    const DAEMONS: [&str; 2] = ["edge", "hub"];

    /// What the watchdog says of one request at a site with a user's pod `a` and a pod of ours `b`.
    fn said(site: usize, who: &str, verb: Verb, path: &str, body: Value) -> Result<(), String> {
        let mut chance = Chance::new(1);
        let mut sites = [Site::new("edge", &mut chance), Site::new("hub", &mut chance)];
        let spec = json!({"nodeName": "x", "containers": [{"name": "c"}]});
        for s in &mut sites {
            s.api.make("/api/v1/namespaces/default/pods", json!({"metadata": {"name": "a"}, "spec": spec}));
            s.api.make("/api/v1/namespaces/default/pods", json!({"metadata": {"name": "b", "labels": {OURS: "true", HOME_UID: "u"}}, "spec": spec}));
        }
        let mut dog = Watchdog::default();
        dog.look(&sites, &DAEMONS)?;
        let (status, body) = sites[site].api.request(who, verb, path, Some(&body.to_string()));
        assert!(status < 300, "{status} {}", String::from_utf8_lossy(&body));
        dog.look(&sites, &DAEMONS)
    }

    #[test]
    fn it_bites_who_touches_what_is_not_ours_and_nobody_else() {
        let pods = "/api/v1/namespaces/default/pods";
        let (a, b) = (format!("{pods}/a"), format!("{pods}/b"));
        let twice = json!({"metadata": {"name": "c", "labels": {OURS: "true", HOME_UID: "u"}}});
        for (who, verb, path, body, fine) in [
            ("edge", Delete, a.clone(), json!({}), false),
            ("edge", Delete, a.clone(), json!({"gracePeriodSeconds": 0}), false),
            ("user", Delete, a.clone(), json!({"gracePeriodSeconds": 0}), true),
            ("edge", Delete, b.clone(), json!({"gracePeriodSeconds": 0}), true),
            ("edge", Merge, format!("{a}/status"), json!({"status": {"phase": "Running"}}), true),
            ("edge", Merge, a.clone(), json!({"metadata": {"labels": {"app": "x"}}}), false),
            ("edge", Merge, a.clone(), json!({"metadata": {"annotations": {"sluice.internal/x": "y"}}}), true),
            ("hub", Merge, format!("{a}/status"), json!({"status": {"phase": "Running"}}), false),
            ("edge", Create, pods.to_owned(), json!({"metadata": {"name": "c"}}), false),
            ("edge", Create, pods.to_owned(), twice.clone(), false),
            ("user", Create, pods.to_owned(), twice, false),
        ] {
            let said = said(0, who, verb, &path, body);
            assert_eq!(said.is_ok(), fine, "{who} {verb:?} {path}: {said:?}");
        }
    }

    #[test]
    fn it_bites_who_ends_what_runs_for_a_pod_that_lives() {
        let now = json!({"gracePeriodSeconds": 0});
        for (phase, gone, fine) in [("Running", false, false), ("Failed", false, true), ("Running", true, true)] {
            let mut chance = Chance::new(1);
            let mut sites = [Site::new("edge", &mut chance), Site::new("hub", &mut chance)];
            let pods = "/api/v1/namespaces/default/pods";
            let shadows = "/apis/offloading.liqo.io/v1beta1/namespaces/default/shadowpods";
            let home = sites[0].api.make(pods, json!({"metadata": {"name": "a"}}));
            sites[0].api.request("user", Merge, &format!("{pods}/a/status"), Some(&json!({"status": {"phase": phase}}).to_string()));
            let marks = json!({OURS: "true"});
            let shadow = json!({"metadata": {"name": "a", "labels": marks, "annotations": {HOME_UID: home["metadata"]["uid"]}}});
            let shadow = sites[1].api.make(shadows, shadow);
            let owner = json!([{"kind": "ShadowPod", "uid": shadow["metadata"]["uid"]}]);
            sites[1].api.make(pods, json!({"metadata": {"name": "a", "labels": marks, "ownerReferences": owner}}));
            if gone {
                sites[0].api.request("user", Delete, &format!("{pods}/a"), Some(&now.to_string()));
            }
            let mut dog = Watchdog::default();
            dog.look(&sites, &DAEMONS).expect("nothing was done");
            sites[1].api.request("edge", Delete, &format!("{shadows}/a"), Some(&now.to_string()));
            assert_eq!(dog.look(&sites, &DAEMONS).is_ok(), fine, "the ShadowPod, home {phase}, gone: {gone}");
            sites[1].api.request("hub", Delete, &format!("{pods}/a"), Some(&now.to_string()));
            dog.look(&sites, &DAEMONS).expect("its ShadowPod is gone");
        }
    }
}
