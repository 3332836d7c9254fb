//! Sessions and their addresses: which rows are free, what the gateway must hold for each, under which images its peer is seen.
//!
//! Called by the rest of the authority, and by the edge for strangers. What a session is for follows from the ledger and its line.

use super::addresses;
use super::authority::Authority;
use super::endpoint::Endpoint;
use super::event::{AddPeer, Event, Purpose};
use super::ledger::{Peer, TicketState};
use super::peering::{Line, Role};
use crate::budget;
use crate::clock::{Instant, Now};
use crate::identity::{End, PeerId, Prefix, PublicKey};
use std::net::{IpAddr, SocketAddr};

impl Authority {
    /// What to do about an initiation by a key that has no session: one for a ticket or a farewell, or nothing at all.
    pub fn stranger(&mut self, key: PublicKey, now: Now) -> Option<AddPeer> {
        self.expire(now);
        let role = self.role_of(&key)?;
        let open = |l: &Line| l.role == Role::Enrolment && self.ledger.ticket(&l.key).is_some_and(|t| t.state == TicketState::Open);
        let quiet = if self.ledger.ticket(&key).is_some_and(|t| t.state == TicketState::Open) {
            // Enrolments under way are not disturbed: who finds no room tries again.
            if self.lines.iter().flatten().filter(|l| open(l)).count() >= super::ENROLMENTS {
                return None;
            }
            super::peering::ENROLMENT
        } else {
            self.make_room();
            super::peering::FAREWELL
        };
        let row = self.free_row()?;
        let mut line = Line::new(role, &self.ledger.secret, key, now.mono)?;
        line.until = Some(now.mono + quiet);
        self.lines[usize::from(row.0)] = Some(Box::new(line));
        self.former[usize::from(row.0)] = None;
        Some(self.session(row))
    }

    fn role_of(&self, key: &PublicKey) -> Option<Role> {
        if self.lines.iter().flatten().any(|l| l.key == *key) {
            return None;
        }
        match self.ledger.ticket(key) {
            Some(_) => Some(Role::Enrolment),
            None => self.ledger.left.iter().any(|l| l.key == *key).then_some(Role::Farewell),
        }
    }

    /// Farewells make room, oldest first.
    fn make_room(&mut self) {
        let closed = |l: &Line| l.role == Role::Enrolment && self.ledger.ticket(&l.key).is_none_or(|t| t.state != TicketState::Open);
        let passing = |l: &Line| l.role == Role::Farewell || closed(l);
        let rows = self.lines.iter().enumerate().filter_map(|(row, l)| Some((row, l.as_ref()?)));
        let farewells: Vec<(Instant, usize)> =
            rows.filter(|(row, l)| passing(l) && !self.is_leave(PeerId(*row as u8))).map(|(row, l)| (l.since, row)).collect();
        if farewells.len() >= budget::FAREWELLS
            && let Some(&(_, oldest)) = farewells.iter().min()
        {
            self.take_down(PeerId(oldest as u8));
        }
    }

    fn is_owed(&self, row: usize) -> bool {
        self.former[row].as_ref().is_some_and(|id| self.ledger.owed.iter().any(|o| o.cluster == *id))
    }

    /// Whether the session in this row is what is left of a peering, not one made for a farewell.
    pub(super) fn is_leave(&self, row: PeerId) -> bool {
        self.former[usize::from(row.0)].is_some()
    }

    /// The first row that nothing stands in.
    pub(super) fn free_row(&self) -> Option<PeerId> {
        (0..budget::PEERS as u8).map(PeerId).find(|&row| {
            let i = usize::from(row.0);
            self.lines[i].is_none() && !self.is_owed(i) && self.ledger.peer(row).is_none() && self.ledger.join(row).is_none()
        })
    }

    /// All that an image must avoid, but for those of the peer in `except`.
    pub(super) fn in_use(&self, except: Option<PeerId>) -> Vec<Prefix> {
        let v4 = |address: &SocketAddr| match address.ip() {
            IpAddr::V4(ip) => Some(addresses::single(ip)),
            IpAddr::V6(_) => None,
        };
        let candidate = |e: &Endpoint| match e {
            Endpoint::Address(address) => v4(address),
            Endpoint::Name(..) => None,
        };
        let mut all: Vec<Prefix> = self.facts.pods.iter().chain(&self.facts.in_use).copied().collect();
        all.push(self.external.prefix());
        for peer in &self.ledger.peers {
            all.extend(peer.endpoints.iter().filter_map(candidate));
            all.extend(peer.last.iter().filter_map(v4));
            if Some(peer.row) != except {
                all.extend_from_slice(&peer.images);
            }
        }
        all.extend(self.ledger.joins.iter().flat_map(|j| j.ticket.endpoints.iter().filter_map(candidate)));
        for line in self.lines.iter().flatten() {
            all.extend(line.seen.as_ref().and_then(v4));
            all.extend_from_slice(&line.images);
        }
        all
    }

    /// An image for each prefix; none if one finds no place.
    pub(super) fn images(&self, prefixes: &[Prefix], except: Option<PeerId>) -> Option<Vec<Prefix>> {
        let mut in_use = self.in_use(except);
        let mut images = Vec::with_capacity(prefixes.len());
        for &prefix in prefixes {
            let image = addresses::image(prefix, &in_use)?;
            in_use.push(image);
            images.push(image);
        }
        Some(images)
    }

    /// A peer claims other prefixes than before: those it keeps keep their images. Without a place for the others nothing changes.
    pub(super) fn reclaim(&mut self, row: PeerId, prefixes: &[Prefix]) {
        let Some(peer) = self.ledger.peer(row) else { return };
        let kept = pairs(peer);
        let mut in_use = self.in_use(Some(row));
        in_use.extend(kept.iter().filter(|(prefix, _)| prefixes.contains(prefix)).map(|(_, image)| *image));
        let mut images = Vec::with_capacity(prefixes.len());
        for &prefix in prefixes {
            let kept = kept.iter().find(|(before, _)| *before == prefix).map(|(_, image)| *image);
            let Some(image) = kept.or_else(|| addresses::image(prefix, &in_use)) else { return };
            in_use.push(image);
            images.push(image);
        }
        if let Some(peer) = self.ledger.peer_mut(row) {
            (peer.prefixes, peer.images) = (prefixes.to_vec(), images);
        }
        self.dirty = true;
        self.renew(row);
    }

    /// The row's session and what the agent knows of its peer, with its addresses as they are now.
    fn renew(&mut self, row: PeerId) {
        if self.lines[usize::from(row.0)].is_some() {
            let session = self.session(row);
            self.events.push_back(Event::AddPeer(Box::new(session)));
            self.announce(row);
        }
    }

    /// Moves images that clash with what is in use by now.
    pub(super) fn refit(&mut self) {
        let rows: Vec<PeerId> = self.ledger.peers.iter().map(|p| p.row).collect();
        for row in rows {
            let in_use = self.in_use(Some(row));
            let Some(peer) = self.ledger.peer(row) else { continue };
            if !peer.images.iter().any(|image| in_use.iter().any(|used| used.overlaps(*image))) {
                continue;
            }
            // Without a free place the clash stays: the peering lives on, pods at the clashing addresses are not reached.
            let Some(images) = self.images(&peer.prefixes.clone(), Some(row)) else { continue };
            if let Some(peer) = self.ledger.peer_mut(row) {
                peer.images = images;
            }
            self.dirty = true;
            self.renew(row);
        }
    }

    /// Tells the agent what this peer is to us.
    pub(super) fn announce(&mut self, row: PeerId) {
        let Some(peer) = self.ledger.peer(row) else { return };
        let images = pairs(peer);
        let (cluster, consume, provide, architecture) = (peer.id.clone(), peer.consume, peer.provide, peer.architecture.clone());
        if let Some(grant) = consume {
            let tenant = super::issue::tenant(&self.ledger.id);
            let virtual_node = self.external.virtual_node(row);
            self.events.push_back(Event::Provider { peer: row, cluster: cluster.clone(), tenant, grant, architecture, images: images.clone(), virtual_node });
        }
        if let Some(grant) = provide {
            self.events.push_back(Event::Consumer { peer: row, tenant: super::issue::tenant(&cluster), cluster, grant, images });
        }
    }

    /// The session of a row, from what the ledger and its line say.
    pub(super) fn session(&self, row: PeerId) -> AddPeer {
        let external = self.external;
        let line = self.lines[usize::from(row.0)].as_deref().expect("called only for rows that have a line");
        let mut it = AddPeer {
            id: row,
            purpose: Purpose::Enrolment,
            public_key: line.key,
            secret: None,
            preshared: None,
            keepalive: None,
            initiate: false,
            endpoints: heapless::Vec::new(),
            names: Vec::new(),
            end: End::Inviter,
            control: (external.own_control(), external.control(row)),
            node: None,
            remote: heapless::Vec::new(),
        };
        let mut reach: Vec<Endpoint> = Vec::new();
        match line.role {
            Role::Enrolment => it.preshared = self.ledger.ticket(&line.key).map(|t| t.preshared),
            Role::Joining => {
                if let Some(join) = self.ledger.join(row) {
                    let enrolment = join.ticket.enrolment();
                    (it.secret, it.preshared) = (Some(enrolment.secret), Some(enrolment.preshared));
                    reach.extend(join.ticket.endpoints.iter().cloned());
                }
                it.end = End::Joiner;
            }
            Role::Farewell => {
                it.purpose = Purpose::Farewell;
                if let Some(left) = self.ledger.left.iter().find(|l| l.key == line.key) {
                    it.end = left.end;
                    it.initiate = !left.told && !left.endpoints.is_empty();
                    reach.extend(left.endpoints.iter().cloned());
                }
            }
            Role::Peer => {
                it.purpose = Purpose::Peering;
                if let Some(peer) = self.ledger.peer(row) {
                    it.end = peer.end;
                    reach.extend(peer.last.map(Endpoint::Address));
                    reach.extend(peer.endpoints.iter().cloned());
                    it.remote.extend(pairs(peer).into_iter().take(budget::PREFIXES));
                    it.node = Some((external.own_node(), external.node(row)));
                    it.initiate = !reach.is_empty() && !line.fresh;
                }
            }
        }
        if it.end == End::Joiner {
            it.initiate = true;
            it.keepalive = (it.purpose != Purpose::Farewell).then_some(super::peering::KEEPALIVE);
        }
        for endpoint in reach {
            match endpoint {
                Endpoint::Address(address) if !it.endpoints.contains(&address) => drop(it.endpoints.push(address)),
                Endpoint::Address(_) => {}
                Endpoint::Name(name, port) => it.names.push((name, port)),
            }
        }
        it
    }
}

/// A peer's prefixes, each with its image.
pub(super) fn pairs(peer: &Peer) -> Vec<(Prefix, Prefix)> {
    peer.prefixes.iter().copied().zip(peer.images.iter().copied()).collect()
}
