//! What a tunnel may reach, and under which addresses: the table of PROTOCOL.md, "Inside the tunnel", for one peer. It decides and maps;
//! `remap` writes. Outgoing: own address -> as the peer shall see it, image -> original. Incoming: the other way round.
//!
//! Our own are the control end, the node end, our pods, and pods of third clusters that the peer was told of (`transit`): to the peer these
//! have addresses of ours, on this host the images of their own clusters.

use std::net::Ipv4Addr;

use crate::budget::{BARRED, PEER_ROUTES, PREFIXES};
use crate::identity::{CONTROL_PORT, End, Prefix};
use crate::tunnel::Reason;
use crate::tunnel::packet::{Header, Quote, TCP};
use crate::tunnel::remap::Ends;
use crate::tunnel::transit::Transit;

/// The addresses of one peering, as this host sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Which end this cluster is.
    pub end: End,
    /// Own and the peer's control end on this host; `None` if there is none (a plain tunnel).
    pub control: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Own and the peer's node end on this host; `None` if there is none (an enrolment, a farewell, a plain tunnel).
    pub node: Option<(Ipv4Addr, Ipv4Addr)>,
    /// The peer's prefixes and their images here, of equal lengths. A peer without any reaches the control end and nothing else.
    pub remote: heapless::Vec<(Prefix, Prefix), PEER_ROUTES>,
}

/// What is ours.
#[derive(Clone, Debug, Default)]
pub(crate) struct Local {
    pub(crate) pods: heapless::Vec<Prefix, PREFIXES>,
    pub(crate) barred: heapless::Vec<Ipv4Addr, BARRED>,
}

/// What is ours towards one peer.
#[derive(Clone, Copy)]
pub(crate) struct Own<'a> {
    pub(crate) local: &'a Local,
    pub(crate) transit: &'a Transit,
}

/// The new addresses of a packet and, if it is an ICMP error, of the packet that it quotes.
pub(crate) type Rewrite = (Ends, Option<(Quote, Ends)>);

impl Local {
    fn is_pod(&self, address: Ipv4Addr) -> bool {
        self.pods.iter().any(|prefix| prefix.contains(address))
    }

    fn is_edge(&self, address: Ipv4Addr) -> bool {
        self.pods.iter().any(|prefix| {
            let last = prefix.translate(Ipv4Addr::BROADCAST, *prefix);
            prefix.length() < 31 && (address == prefix.address() || address == last)
        })
    }
}

impl Addresses {
    /// Every prefix of this host's address space that belongs to the peer.
    pub(crate) fn routes(&self) -> impl Iterator<Item = Prefix> + '_ {
        let ends = [self.control, self.node].into_iter().flatten().filter_map(|(_, peer)| Prefix::new(peer, 32));
        ends.chain(self.remote.iter().map(|&(_, image)| image))
    }

    /// The addresses under which a packet from the TUN travels, and those of the packet that it quotes: one that came from the peer.
    pub(crate) fn outward(&self, own: Own<'_>, header: &Header, packet: &[u8]) -> Result<Rewrite, Reason> {
        unicast(header.destination)?;
        let source = self.own_outward(own, header.source).ok_or(Reason::SourceNotOurs)?;
        let destination = self.peers_outward(header.destination).ok_or(Reason::NoPeer)?;
        let quote = header.quote(packet)?.map(|quote| {
            let source = self.peers_outward(quote.source).ok_or(Reason::ForeignQuote)?;
            Ok((quote, Ends { source, destination: self.own_outward(own, quote.destination).ok_or(Reason::ForeignQuote)? }))
        });
        Ok((Ends { source, destination }, quote.transpose()?))
    }

    /// The addresses that a packet from the peer has on this host, if it may enter, and those of the packet that it quotes: one that we
    /// sent. Whether no other peer has a better claim to the source is left to the caller.
    pub(crate) fn inward(&self, own: Own<'_>, header: &Header, packet: &[u8]) -> Result<Rewrite, Reason> {
        let source = self.peers_inward(header.source).ok_or(Reason::SourceNotPeers)?;
        unicast(header.destination)?;
        let destination = self.own_inward(own, header.destination).ok_or(Reason::DestinationForeign)?;
        self.may_enter(own.local, header, packet)?;
        let quote = header.quote(packet)?.map(|quote| {
            let source = self.own_inward(own, quote.source).ok_or(Reason::ForeignQuote)?;
            Ok((quote, Ends { source, destination: self.peers_inward(quote.destination).ok_or(Reason::ForeignQuote)? }))
        });
        Ok((Ends { source, destination }, quote.transpose()?))
    }

    /// Whether a packet may enter, by the destination it carries. The node end takes all: the kernel lets only replies pass there.
    fn may_enter(&self, local: &Local, header: &Header, packet: &[u8]) -> Result<(), Reason> {
        if self.control.is_some() && header.destination == self.end.link_control() {
            let port = matches!(header.ports(packet), Some((from, to)) if header.protocol == TCP && (from == CONTROL_PORT || to == CONTROL_PORT));
            return if !header.fragment && (port || header.is_echo(packet)) { Ok(()) } else { Err(Reason::NotControl) };
        }
        if self.node.is_some() && header.destination == self.end.link_node() {
            return Ok(());
        }
        if local.barred.contains(&header.destination) {
            return Err(Reason::DestinationBarred);
        }
        if local.is_edge(header.destination) {
            return Err(Reason::Broadcast);
        }
        Ok(())
    }

    fn own_outward(&self, own: Own<'_>, address: Ipv4Addr) -> Option<Ipv4Addr> {
        match (self.control, self.node) {
            (Some((control, _)), _) if address == control => Some(self.end.link_control()),
            (_, Some((node, _))) if address == node => Some(self.end.link_node()),
            _ => self.reaches_pods(own.local, address).or_else(|| own.transit.transit(address)),
        }
    }

    fn own_inward(&self, own: Own<'_>, address: Ipv4Addr) -> Option<Ipv4Addr> {
        match (self.control, self.node) {
            (Some((control, _)), _) if address == self.end.link_control() => Some(control),
            (_, Some((node, _))) if address == self.end.link_node() => Some(node),
            _ => self.reaches_pods(own.local, address).or_else(|| own.transit.image(address)),
        }
    }

    fn reaches_pods(&self, local: &Local, address: Ipv4Addr) -> Option<Ipv4Addr> {
        (!self.remote.is_empty() && local.is_pod(address)).then_some(address)
    }

    fn peers_outward(&self, address: Ipv4Addr) -> Option<Ipv4Addr> {
        match (self.control, self.node) {
            (Some((_, peer)), _) if address == peer => Some(self.end.other().link_control()),
            (_, Some((_, peer))) if address == peer => Some(self.end.other().link_node()),
            _ => self.remote.iter().find(|(_, image)| image.contains(address)).map(|(original, image)| image.translate(address, *original)),
        }
    }

    fn peers_inward(&self, address: Ipv4Addr) -> Option<Ipv4Addr> {
        match (self.control, self.node) {
            (Some((_, peer)), _) if address == self.end.other().link_control() => Some(peer),
            (_, Some((_, peer))) if address == self.end.other().link_node() => Some(peer),
            _ => self.remote.iter().find(|(original, _)| original.contains(address)).map(|(original, image)| original.translate(address, *image)),
        }
    }
}

fn unicast(destination: Ipv4Addr) -> Result<(), Reason> {
    if destination.is_multicast() {
        return Err(Reason::Multicast);
    }
    if destination.is_broadcast() {
        return Err(Reason::Broadcast);
    }
    Ok(())
}
