//! What `sluice status` shows of a peer: its node, what is used, its namespaces. Made on request from what the plans know anyway.

use super::agent::Agent;
use super::kind::Sort;
use super::namespace::Strategy;
use super::offer::Amount;
use crate::identity::PeerId;

/// One peer, as the agent sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Its virtual node is Ready.
    pub node_ready: bool,
    /// Pods of ours that are bound to its node.
    pub pods_there: u32,
    /// What its pods use here.
    pub used_here: Amount,
    /// Namespaces of ours there and of its here.
    pub namespaces: Vec<NamespaceReport>,
}

/// One offloaded namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceReport {
    /// Its name at home.
    pub home: String,
    /// Its twin's.
    pub twin: String,
    /// True if home is this cluster, false if the twin is here.
    pub here: bool,
    /// `Local`, `Remote`, `LocalAndRemote`; empty where only the consumer knows.
    pub strategy: &'static str,
    /// `Accepted`, `CreationLoopBackOff`, `Terminating`; empty while nothing is known.
    pub phase: &'static str,
    /// Pods at the provider.
    pub pods: u32,
}

impl Agent {
    /// How a peer is doing; all zero for one that is not known.
    pub fn report(&self, peer: PeerId) -> Report {
        let provider = self.facts.providers.get(&peer);
        let pods = |home: &str| self.loops.table.slots(|k| k.sort == Sort::Pod && k.peer == peer && *k.namespace == *home).len() as u32;
        let links = self.facts.links.iter().filter(|((of, _), _)| *of == peer).map(|((_, home), link)| NamespaceReport {
            home: home.to_string(),
            twin: link.twin.to_string(),
            here: true,
            strategy: match self.facts.offloadings.get(home).map(|o| o.strategy) {
                Some(Strategy::Local) => "Local",
                Some(Strategy::Remote) => "Remote",
                Some(Strategy::LocalAndRemote) => "LocalAndRemote",
                None => "",
            },
            phase: link.phase.map_or("", |p| p.as_str()),
            pods: pods(home),
        });
        let consumer = self.facts.consumers.get(&peer);
        let made = |twin: &str| self.loops.table.slots(|k| k.sort == Sort::Shadow && *k.namespace == *twin).len() as u32;
        let twins = consumer.into_iter().flat_map(|c| &c.phases).map(|(home, mapped)| NamespaceReport {
            home: home.to_string(),
            twin: mapped.twin.to_string(),
            here: false,
            strategy: "",
            phase: mapped.phase.as_str(),
            pods: made(&mapped.twin),
        });
        Report {
            node_ready: provider.and_then(|p| p.node.as_ref()).is_some_and(|n| n.ready),
            pods_there: provider.map_or(0, |p| p.home_pods as u32),
            used_here: self.facts.used_by(peer),
            namespaces: links.chain(twins).collect(),
        }
    }
}
