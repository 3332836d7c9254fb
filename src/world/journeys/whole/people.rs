//! What people do: inviting, joining, working, leaving, in the order of the journey.

use std::time::Duration;

use serde_json::{Value, json};

use super::findings::twin;
use super::{HUB, Journey, LENT, NAMES, id};
use crate::edge::{Endpoint, InviteOrder, JoinOrder};
use crate::kube::call::Verb;
use crate::world::journeys::offload::pod;
use crate::world::journeys::script::Scripted;

const SETS: &str = "/apis/apps/v1/namespaces/shop/replicasets";
const OFFLOADING: &str = "/apis/offloading.liqo.io/v1beta1/namespaces/shop/namespaceoffloadings";

impl Journey {
    pub(super) fn invite(&mut self, life: Duration, ask: bool) -> String {
        loop {
            let bytes = self.chance.bytes();
            let order = InviteOrder {
                endpoints: vec![Endpoint::at(([203, 0, 113, 10], 51820).into()).expect("an endpoint")],
                offer: Some(LENT),
                ask,
                replace: true,
                life,
                secret: bytes[..16].try_into().expect("16 bytes"),
            };
            let now = self.clock.now();
            let invitation = self.machines[HUB].edge.authority().invite(order, now).expect("a ticket");
            let public = invitation.ticket.enrolment().public;
            self.drain(HUB);
            // A ticket that could not be stored is not shown.
            if self.machines[HUB].edge.authority().ledger().tickets.iter().any(|t| t.key == public) {
                self.tell("the hub invites");
                return invitation.line;
            }
            self.pass(Duration::from_secs(1));
        }
    }

    pub(super) fn join(&mut self, which: usize, line: &str, provide: bool) {
        let order = JoinOrder { line: line.to_owned(), consume: true, provide: provide.then_some(LENT), replace: true };
        let now = self.clock.now();
        let began = self.machines[which].edge.authority().join(order, now).map(|(row, _)| row);
        self.tell(&format!("{} joins: {began:?}", NAMES[which]));
        self.drain(which);
    }

    pub(super) fn peered(&mut self, which: usize, with: usize) -> bool {
        self.machines[which].edge.authority().ledger().peers.iter().any(|p| p.id.as_str() == NAMES[with])
    }

    pub(super) fn joining(&mut self, which: usize) -> bool {
        !self.machines[which].edge.authority().ledger().joins.is_empty()
    }

    pub(super) fn user(&mut self, site: usize, verb: Verb, path: &str, body: &Value) -> u16 {
        let (status, _) = self.sites[site].api.request("user", verb, path, (!body.is_null()).then(|| body.to_string()).as_deref());
        self.tell(&format!("user at {} {verb:?} {path} -> {status}", NAMES[site]));
        status
    }

    pub(super) fn work(&mut self, consumer: usize) {
        self.counter += 1;
        match self.chance.below(5) {
            0 => drop(self.user(consumer, Verb::Create, "/api/v1/namespaces/shop/pods", &pod(&format!("solo-{}", self.counter), "i"))),
            1 => {
                let replicas = json!({"spec": {"replicas": self.chance.below(5)}});
                self.user(consumer, Verb::Merge, &format!("{SETS}/web"), &replicas);
            }
            2 => {
                let there: Vec<String> = self.sites[HUB].api.store.all("pods", &twin(consumer)).map(|(k, _)| k.name.clone()).collect();
                if let Some(name) = self.chance.pick(&there) {
                    self.user(HUB, Verb::Delete, &format!("/api/v1/namespaces/{}/pods/{name}", twin(consumer)), &Value::Null);
                }
            }
            3 => {
                let here: Vec<String> = self.sites[consumer].api.store.all("pods", "shop").map(|(k, _)| k.name.clone()).collect();
                if let Some(name) = self.chance.pick(&here) {
                    self.user(consumer, Verb::Delete, &format!("/api/v1/namespaces/shop/pods/{name}"), &Value::Null);
                }
            }
            _ => {
                let colour = json!({"data": {"colour": self.chance.bits().to_string()}});
                self.user(consumer, Verb::Merge, "/api/v1/namespaces/shop/configmaps/conf", &colour);
            }
        }
    }

    pub(super) fn shop(&mut self, at: usize) {
        let api = &mut self.sites[at].api;
        api.make("/api/v1/namespaces", json!({"metadata": {"name": "shop"}}));
        api.make("/api/v1/namespaces/shop/configmaps", json!({"metadata": {"name": "conf"}, "data": {"colour": "red"}}));
        api.make("/api/v1/namespaces/shop/secrets", json!({"metadata": {"name": "key"}, "type": "Opaque", "data": {"k": "c2VjcmV0"}}));
        let ports = json!([{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]);
        api.make(
            "/api/v1/namespaces/shop/services",
            json!({"metadata": {"name": "web"}, "spec": {"type": "ClusterIP", "selector": {"app": "web"}, "ports": ports}}),
        );
        api.make(SETS, json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "template": pod("", "i")}}));
        self.sites[at].controllers.place.insert("shop".into(), vec!["hub".into(), format!("{}-1", NAMES[at])]);
    }

    pub(super) fn walk(&mut self) {
        self.pass(Duration::from_secs(5));
        let ask = self.chance.happens(300);
        let life = if self.chance.happens(200) { 1 } else { 3600 };
        let short = self.invite(Duration::from_secs(life), ask);
        assert!(
            self.machines[1]
                .edge
                .authority()
                .join(JoinOrder { line: short[..short.len() - 3].into(), consume: true, provide: None, replace: false }, self.clock.now())
                .is_err()
        );
        assert!(
            self.machines[HUB]
                .edge
                .authority()
                .join(JoinOrder { line: short.clone(), consume: true, provide: None, replace: false }, self.clock.now())
                .is_err()
        );
        if self.chance.happens(500) {
            self.pass(Duration::from_secs(2));
        }
        for which in 1..self.machines.len() {
            self.join(which, &short, ask);
        }
        self.trouble(5);
        self.all_is_well();
        self.until(12, "a join has come to no end", |j| (1..j.machines.len()).filter(|w| j.joining(*w)).map(|w| format!("{} still joins", NAMES[w])).collect());
        let takers: Vec<usize> = (1..self.machines.len()).filter(|w| self.peered(*w, HUB)).collect();
        assert!(takers.len() < 2, "seed {}: one ticket has made two peers", self.seed);
        // Who has come to nothing is invited again.
        let consumer = takers.first().copied().unwrap_or(1);
        for _ in 0..5 {
            if self.peered(consumer, HUB) {
                break;
            }
            let line = self.invite(Duration::from_secs(3600), ask);
            self.join(consumer, &line, ask);
            self.pass(Duration::from_secs(60));
        }
        self.until(10, "the virtual node is not ready", |j| j.not_ready(consumer));
        self.shop(consumer);
        self.user(
            consumer,
            Verb::Create,
            OFFLOADING,
            &json!({"metadata": {"name": "offloading"}, "spec": {"podOffloadingStrategy": "LocalAndRemote", "namespaceMappingStrategy": "DefaultName"}}),
        );
        for _ in 0..10 {
            self.event(|j| match j.chance.below(3) {
                0 => j.mishap(),
                _ => j.work(consumer),
            });
            let wait = if self.chance.happens(300) { 15_000 } else { 800 };
            let wait = Duration::from_millis(self.chance.below(wait));
            self.pass(wait);
        }
        if self.chance.happens(700) {
            self.all_is_well();
            self.until(15, "the pods are not as they should be", |j| j.unfinished(consumer));
            self.stays_quiet();
        }
        if self.chance.happens(400) {
            self.trouble(2);
            self.user(consumer, Verb::Delete, &format!("{OFFLOADING}/offloading"), &Value::Null);
            self.trouble(2);
        }
        // Somebody leaves, the other being there or not.
        self.trouble(3);
        let (who, whom) = if self.chance.happens(500) { (consumer, HUB) } else { (HUB, consumer) };
        let force = self.chance.happens(200);
        self.watchdog.leaving = true;
        for _ in 0..20 {
            let (now, life) = (self.clock.now(), self.machines[who].life);
            let began = self.machines[who].edge.unpeer(&id(whom), force, now);
            self.tell(&format!("{} leaves {}: {began:?}", NAMES[who], NAMES[whom]));
            self.drain(who);
            if began.is_none() {
                break;
            }
            self.trouble(3);
            if !self.peered(who, whom) {
                break;
            }
            self.pass(Duration::from_secs(30));
            if !self.peered(who, whom) {
                break;
            }
            self.all_is_well();
            // What its disk kept it from goes on by itself; only one that was killed before it had begun is asked again.
            if self.machines[who].life == life {
                self.until(5, "a leave has come to no end", |j| if j.peered(who, whom) { vec![format!("{} is a peer", NAMES[whom])] } else { Vec::new() });
                break;
            }
        }
        self.all_is_well();
        self.until(40, "something of ours is left", Journey::left_over);
        self.stays_quiet();
    }

    /// Two clusters race for each of several tickets, one right after the other: each race has one winner, who leaves again, and one who is told why not.
    pub(super) fn race(&mut self) {
        self.pass(Duration::from_secs(5));
        self.watchdog.leaving = true;
        for _ in 0..4 {
            let line = self.invite(Duration::from_secs(3600), false);
            for which in [1, 2] {
                let wait = self.chance.below(3);
                self.pass(Duration::from_millis(wait * 40));
                self.join(which, &line, false);
            }
            // As long as the one who waits at the command line would.
            self.until(2, "a race has come to no end", |j| [1, 2].into_iter().filter(|w| j.joining(*w)).map(|w| format!("{} still joins", NAMES[w])).collect());
            let winners: Vec<usize> = [1, 2].into_iter().filter(|w| self.peered(*w, HUB)).collect();
            assert_eq!(winners.len(), 1, "seed {}: {winners:?}", self.seed);
            self.until(1, "the virtual node is not ready", |j| j.not_ready(winners[0]));
            let wait = self.chance.below(3_000);
            self.pass(Duration::from_millis(wait));
            let now = self.clock.now();
            self.machines[winners[0]].edge.unpeer(&id(HUB), false, now);
            self.drain(winners[0]);
            self.until(2, "the winner does not leave", |j| {
                [1, 2].into_iter().filter(|w| j.peered(*w, HUB)).map(|w| format!("{} is a peer", NAMES[w])).collect()
            });
            let wait = self.chance.below(3_000);
            self.pass(Duration::from_millis(wait));
        }
    }
}
