//! Leaving a peer: what stands of it is taken down, here and at the provider while it answers; then the authority lets it go. In which order, how long
//! each is waited for, and how it goes on after a restart, a full disk, or a peer that left first.

use std::time::Duration;

use super::{ACCOUNT, Amount, Edge, Output};
use crate::auth::issue::tenant;
use crate::auth::ledger::{Debt, Owed};
use crate::clock::{Instant, Now};
use crate::identity::{ClusterId, PeerId};
use crate::offload::{ConsumerSpec, How, ProviderSpec};

/// How long a provider that answers is waited for when we leave it, and between two tries of what could not be done.
const PATIENCE: Duration = Duration::from_secs(15);

/// A peering that is being left, and what still stands of it here.
#[derive(Debug)]
pub(super) struct Parting {
    pub(super) cluster: ClusterId,
    /// When the provider is no longer waited for; when it is gone and the peering still stands, when to end that again.
    until: Instant,
    /// The authority let it go (or never knew it: clean-up owed from an earlier run).
    gone: bool,
    pub(super) provider: bool,
    consumer: bool,
}

impl Parting {
    /// Whether something is done about it when its time has come.
    fn is_waited_for(&self) -> bool {
        self.provider || !self.gone
    }
}

impl Edge {
    /// Clean-up that an earlier run did not come to the end of.
    pub(super) fn resume(&mut self, now: Now) {
        for owed in self.authority.owed().to_vec() {
            let begun = self.partings.values().any(|p| p.cluster == owed.cluster) || self.authority.ledger().peers.iter().any(|p| p.id == owed.cluster);
            // A peer that stands and whose provider is owed is being left: that goes on once the authority has announced it.
            if !matches!(owed.what, Debt::Provider | Debt::Consumer) || begun {
                continue;
            }
            // No row free: done at the next start.
            let Some(peer) = self.authority.hold_free(&owed.cluster) else { return };
            let debts = |what| self.authority.owed().iter().any(|o| o.what == what && o.cluster == owed.cluster);
            let (provider, consumer) = (debts(Debt::Provider), debts(Debt::Consumer));
            let (cluster, tenant_namespace) = (owed.cluster.clone(), tenant(&owed.cluster));
            if provider {
                let address = self.external().virtual_node(peer);
                let (node, grant, images) = (cluster.to_string(), Amount::default(), Vec::new());
                let spec = ProviderSpec { peer, cluster, node, tenant_namespace, grant, architecture: String::new(), images, address };
                self.agent.add_provider(spec);
            }
            if consumer {
                let (cluster, tenant_namespace, account) = (owed.cluster.clone(), tenant(&owed.cluster), ACCOUNT.to_owned());
                let (grant, images, names) = (Amount::default(), Vec::new(), Vec::new());
                self.agent.add_consumer(ConsumerSpec { peer, cluster, tenant_namespace, account, grant, images, names });
            }
            self.part(peer, owed.cluster, provider, consumer, now);
        }
    }

    /// Begins to end a peering: what is there of it is taken down first, at the provider too while it answers (`force`: it is not asked);
    /// [`Output::Gone`] says when it is over; a restart on the way goes on with it. None if there is no such peer, or no room to remember what is owed.
    pub fn unpeer(&mut self, cluster: &ClusterId, force: bool, now: Now) -> Option<PeerId> {
        let peer = self.authority.ledger().peers.iter().find(|p| p.id == *cluster)?;
        let (row, provider) = (peer.row, peer.consume.is_some());
        if !provider {
            self.authority.unpeer(cluster, now)?;
            let until = now.mono + PATIENCE;
            self.partings.insert(row, Parting { cluster: cluster.clone(), until, gone: false, provider: false, consumer: false });
            return Some(row);
        }
        let owed = provider_of(cluster);
        if !self.authority.owed().contains(&owed) && !self.authority.owe(owed) {
            return None;
        }
        let how = if !force && self.is_heard(row) { How::Asked } else { How::Dead };
        self.leave_provider(row, cluster.clone(), how, now);
        Some(row)
    }

    /// Takes down what stands of a provider here while the peering still does.
    pub(super) fn leave_provider(&mut self, peer: PeerId, cluster: ClusterId, how: How, now: Now) {
        let until = now.mono + if how == How::Asked { PATIENCE } else { Duration::ZERO };
        self.partings.insert(peer, Parting { cluster, until, gone: false, provider: true, consumer: false });
        self.agent.remove_provider(peer, how);
    }

    /// Goes on with what is due.
    pub(super) fn look_at_partings(&mut self, now: Now) {
        let due: Vec<PeerId> = self.partings.iter().filter(|(_, p)| p.is_waited_for() && p.until <= now.mono).map(|(peer, _)| *peer).collect();
        for peer in due {
            let Some(parting) = self.partings.get_mut(&peer) else { continue };
            if parting.provider {
                // Once is enough, and asking again does no harm.
                parting.until = now.mono + PATIENCE;
                self.agent.remove_provider(peer, How::Dead);
            } else {
                self.let_go(peer, now);
            }
        }
    }

    /// When [`Edge::look_at_partings`] wants to be called next.
    pub(super) fn partings_due(&self) -> Option<Instant> {
        self.partings.values().filter(|p| p.is_waited_for()).map(|p| p.until).min()
    }

    /// Whether nothing of a provider is left here though its peering stands: only that it has ended could not be written yet.
    pub(super) fn stands_bare(&self, peer: PeerId) -> bool {
        self.partings.get(&peer).is_some_and(|p| !p.gone && !p.provider)
    }

    /// The authority let a peer go: the agent takes down what it made for it.
    pub(super) fn part(&mut self, peer: PeerId, cluster: ClusterId, provider: bool, consumer: bool, now: Now) {
        self.partings.insert(peer, Parting { cluster, until: now.mono + PATIENCE, gone: true, provider, consumer });
        if provider {
            self.agent.remove_provider(peer, How::Dead);
        }
        if consumer {
            self.agent.remove_consumer(peer);
        }
        if !provider && !consumer {
            self.all_parted(peer);
        }
    }

    /// The agent has taken down its part.
    pub(super) fn parted(&mut self, peer: PeerId, what: Debt, now: Now) {
        let Some(parting) = self.partings.get_mut(&peer) else { return };
        match what {
            Debt::Provider => parting.provider = false,
            _ => parting.consumer = false,
        }
        let (cluster, over) = (parting.cluster.clone(), !parting.provider && !parting.consumer);
        if parting.gone {
            self.authority.settle_all(what, &cluster);
            if over {
                self.all_parted(peer);
            }
        } else {
            self.let_go(peer, now);
        }
    }

    /// Ends a peering of which nothing of the provider is left here; again later, if that cannot be written or finds no room now.
    fn let_go(&mut self, peer: PeerId, now: Now) {
        let Some(parting) = self.partings.get_mut(&peer) else { return };
        parting.until = now.mono + PATIENCE;
        let cluster = parting.cluster.clone();
        if self.authority.ledger().peers.iter().any(|p| p.id == cluster) {
            self.authority.unpeer(&cluster, now);
        } else {
            // It left in the meantime.
            self.all_parted(peer);
        }
    }

    fn all_parted(&mut self, peer: PeerId) {
        if let Some(parting) = self.partings.remove(&peer) {
            for what in [Debt::Provider, Debt::Consumer] {
                self.authority.settle_all(what, &parting.cluster);
            }
            self.out.push_back(Output::Gone(peer, parting.cluster));
        }
    }
}

/// The debt that says that a provider is being left.
pub(super) fn provider_of(cluster: &ClusterId) -> Owed {
    Owed { what: Debt::Provider, cluster: cluster.clone(), name: String::new(), uid: String::new() }
}
