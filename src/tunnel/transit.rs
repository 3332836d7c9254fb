//! The pods of third clusters that one peer may reach through us, and the addresses under which it does: pairs of a transit address, which
//! is ours and which the peer was told, and the image under which this host sees the pod. Nothing else of a third cluster is reached.
//!
//! Offload decides what is in it, the gateway looks: incoming transit -> image, outgoing image -> transit. The kernel in between forwards
//! what came out of the tunnel back into it, from our node end, so the third cluster sees us and never this peer.

use std::net::Ipv4Addr;

use crate::budget::TRANSIT;
use crate::tunnel::Full;

/// The pairs of one peer, in both orders so that either way is a binary search. Allocated when it changes, never for a packet.
#[derive(Debug, Default)]
pub(crate) struct Transit {
    /// (transit, image), ordered.
    inward: Box<[(Ipv4Addr, Ipv4Addr)]>,
    /// (image, transit), ordered.
    outward: Box<[(Ipv4Addr, Ipv4Addr)]>,
}

impl Transit {
    /// A table of `pairs` of transit address and image; each occurs once. Too many are refused: offload counts what it allots.
    pub(crate) fn new(pairs: &[(Ipv4Addr, Ipv4Addr)]) -> Result<Transit, Full> {
        if pairs.len() > TRANSIT {
            return Err(Full);
        }
        let mut inward: Box<[_]> = pairs.into();
        inward.sort_unstable();
        let mut outward: Box<[_]> = pairs.iter().map(|&(transit, image)| (image, transit)).collect();
        outward.sort_unstable();
        Ok(Transit { inward, outward })
    }

    /// The image that a transit address stands for.
    pub(crate) fn image(&self, transit: Ipv4Addr) -> Option<Ipv4Addr> {
        find(&self.inward, transit)
    }

    /// The transit address that stands for an image.
    pub(crate) fn transit(&self, image: Ipv4Addr) -> Option<Ipv4Addr> {
        find(&self.outward, image)
    }
}

fn find(pairs: &[(Ipv4Addr, Ipv4Addr)], address: Ipv4Addr) -> Option<Ipv4Addr> {
    pairs.binary_search_by_key(&address, |&(from, _)| from).ok().map(|at| pairs[at].1)
}
