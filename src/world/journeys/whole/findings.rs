//! What should be, in the end: each names what is not so.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::{HUB, Journey, NAMES};
use crate::world::api_server::server::terminating;
use crate::world::site::{nobody_writes, versions};
use crate::world::watchdog::OURS;

impl Journey {
    /// Time goes on until `done`, or it is a failure.
    pub(super) fn until(&mut self, minutes: u64, what: &str, done: impl Fn(&mut Journey) -> Vec<String>) {
        let mut left = Vec::new();
        for _ in 0..minutes * 12 {
            left = done(self);
            if left.is_empty() {
                return;
            }
            self.pass(Duration::from_secs(5));
        }
        panic!("seed {}: {minutes} minutes after all is well, {what}:\n  {}", self.seed, left.join("\n  "));
    }

    pub(super) fn not_ready(&mut self, consumer: usize) -> Vec<String> {
        let node = self.sites[consumer].api.look("/api/v1/nodes/hub").map(|n| n["status"]["conditions"].clone());
        let ready = node.as_ref().and_then(Value::as_array).is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
        if ready { Vec::new() } else { vec![format!("the node is {node:?}, peered {} {}", self.peered(consumer, HUB), self.peered(HUB, consumer))] }
    }

    pub(super) fn unfinished(&mut self, consumer: usize) -> Vec<String> {
        let mut out = self.not_ready(consumer);
        let (home, hub) = (&self.sites[consumer].api, &self.sites[HUB].api);
        let twin = twin(consumer);
        let mut known = BTreeSet::new();
        for (key, pod) in home.store.all("pods", "shop") {
            if terminating(pod) {
                out.push(format!("{} is still going", key.name));
            }
            if pod["spec"]["nodeName"] != "hub" {
                continue;
            }
            known.insert(key.name.clone());
            let there = hub.look(&format!("/api/v1/namespaces/{twin}/pods/{}", key.name)).map(|p| &p["status"]["phase"]);
            if there != Some(&pod["status"]["phase"]) && pod["status"]["phase"] != "Failed" {
                out.push(format!("{} is {} here and {there:?} there", key.name, pod["status"]["phase"]));
            }
        }
        out.extend(hub.store.all("pods", &twin).filter(|(k, _)| !known.contains(&k.name)).map(|(k, _)| format!("{} is there without a pod here", k.name)));
        out
    }

    /// All that is ours anywhere.
    pub(super) fn left_over(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        for (which, site) in self.sites.iter().enumerate() {
            let at = NAMES[which];
            let ours = |o: &Value| o["metadata"]["labels"].get(OURS).is_some();
            out.extend(site.api.store.everything().filter(|(_, o)| ours(o)).map(|(k, _)| format!("at {at}: {k:?}")));
            let bound = |o: &Value| o["spec"]["nodeName"].as_str().is_some_and(|n| n != format!("{at}-1"));
            out.extend(site.api.store.all("pods", "").filter(|(_, o)| bound(o)).map(|(k, _)| format!("at {at}: {k:?} is bound to a node that is gone")));
        }
        for (which, machine) in self.machines.iter_mut().enumerate() {
            let ledger = machine.edge.authority().ledger();
            if !ledger.peers.is_empty() || !ledger.joins.is_empty() || !ledger.owed.is_empty() {
                out.push(format!("{} has {} peers, {} joins, owes {:?}", NAMES[which], ledger.peers.len(), ledger.joins.len(), ledger.owed));
            }
        }
        out
    }

    /// Two minutes in which nobody but leases changes anything.
    pub(super) fn stays_quiet(&mut self) {
        self.pass(Duration::from_secs(40));
        let since = versions(&self.sites);
        self.pass(Duration::from_secs(120));
        nobody_writes(&self.sites, &NAMES, &since).unwrap_or_else(|why| panic!("seed {}: {why}", self.seed));
    }
}

pub(super) fn twin(consumer: usize) -> String {
    format!("shop-{}", NAMES[consumer])
}
