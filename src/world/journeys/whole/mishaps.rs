//! What goes wrong, and how all is put right again: API servers, the network between, disks, clocks, daemons that are killed.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use super::{HUB, Journey, NAMES, start};
use crate::kube::call::Verb;
use crate::world::api_server::Faults;
use crate::world::clock::BEGIN;
use crate::world::journeys::script::Scripted;
use crate::world::net::Weather;

impl Journey {
    pub(super) fn mishap(&mut self) {
        let which = self.chance.below(self.machines.len() as u64) as usize;
        let joiner = 1 + self.chance.below(self.machines.len() as u64 - 1) as usize;
        match self.chance.below(16) {
            0 => {
                let faults = Faults::some(&mut self.chance, 120);
                self.sites[which].set_faults(faults);
                self.tell(&format!("{} is unwell: {faults:?}", NAMES[which]));
            }
            1 => {
                self.sites[which].set_faults(Faults { down: true, ..Faults::default() });
                self.tell(&format!("the API server of {} is down", NAMES[which]));
                let time = Duration::from_millis(self.chance.below(15_000));
                self.pass(time);
                self.sites[which].set_faults(Faults::default());
            }
            2 => {
                let (a, b) = (self.machines[HUB].host, self.machines[joiner].host);
                if self.cut.remove(&joiner) {
                    self.net.mend(a, b);
                } else {
                    self.cut.insert(joiner);
                    self.net.cut(a, b);
                }
                self.tell(&format!("cut: {:?}", self.cut));
            }
            3 | 4 => self.restart(which),
            5 => {
                self.net.weather = Weather {
                    loss: self.chance.below(300) as u16,
                    double: self.chance.below(100) as u16,
                    delay: Duration::from_millis(self.chance.below(300)),
                    jitter: Duration::from_millis(self.chance.below(200)),
                };
                self.tell("the weather turns");
            }
            6 => {
                self.net.reset(self.routers[joiner - 1]);
                self.tell("a router forgets");
            }
            7 => {
                let address = SocketAddr::from(([192, 168, joiner as u8, 20 + self.chance.below(100) as u8], 51820));
                self.net.moves(self.machines[joiner].host, address, Some(self.routers[joiner - 1]));
                self.tell("a joiner moves");
            }
            8 => {
                self.machines[which].disk_fails = self.chance.below(700) as u16;
                self.tell(&format!("{} has a bad disk", NAMES[which]));
            }
            9 => {
                self.clock.set_off(self.chance.below(7200) as i64 - 3600);
                self.tell("the clock is set");
            }
            10 => {
                let off = self.chance.pick(&[-BEGIN.0, 10 * 366 * 86_400]).copied().unwrap_or_default();
                self.clock.set_off(off);
                self.tell("the clock is years off");
            }
            11 => {
                // What was not looked at yet must be, before it is forgotten.
                self.check();
                self.sites[which].api.store.forget(0);
                let mut feeds: Vec<_> = self.machines.iter_mut().flat_map(|m| m.feeds.values_mut()).collect();
                feeds.iter_mut().filter(|f| f.site == which).for_each(|f| f.broken = true);
                self.tell(&format!("{} has lost its history, and ends all watches", NAMES[which]));
            }
            12 => {
                self.sites[which].slow = Duration::from_secs(2);
                self.tell(&format!("{} is slow", NAMES[which]));
            }
            13 => {
                self.machines[which].disk_fails = 1000;
                self.tell(&format!("{} has no room on its disk", NAMES[which]));
            }
            14 => {
                let bound: Vec<String> = self.sites[which]
                    .api
                    .store
                    .all("rolebindings.rbac.authorization.k8s.io", "")
                    .map(|(k, _)| format!("{}/rolebindings/{}", k.namespace, k.name))
                    .collect();
                if let Some(path) = self.chance.pick(&bound) {
                    self.user(which, Verb::Delete, &format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{path}"), &Value::Null);
                }
            }
            _ => drop(self.user(joiner, Verb::Delete, "/api/v1/nodes/hub", &Value::Null)),
        }
    }

    pub(super) fn restart(&mut self, which: usize) {
        self.tell(&format!("{} is killed and starts again", NAMES[which]));
        let seed = self.chance.bits();
        let machine = &mut self.machines[which];
        for (_, feed) in std::mem::take(&mut machine.feeds) {
            self.sites[feed.site].api.unwatch(feed.stream);
        }
        machine.targets.clear();
        machine.life += 1;
        machine.edge = start(&machine.file, machine.floor, &machine.facts, seed, &self.clock);
        self.drain(which);
    }

    pub(super) fn all_is_well(&mut self) {
        self.tell("all is well from here");
        self.sites.iter_mut().for_each(|s| s.set_faults(Faults::default()));
        self.net.weather = Weather::FAIR;
        for joiner in std::mem::take(&mut self.cut) {
            self.net.mend(self.machines[HUB].host, self.machines[joiner].host);
        }
        self.sites.iter_mut().for_each(|s| s.slow = Duration::ZERO);
        self.machines.iter_mut().for_each(|m| m.disk_fails = 0);
    }

    pub(super) fn trouble(&mut self, most: u64) {
        for _ in 0..self.chance.below(most + 1) {
            self.event(Self::mishap);
            let time = Duration::from_millis(self.chance.below(8_000));
            self.pass(time);
        }
    }
}
