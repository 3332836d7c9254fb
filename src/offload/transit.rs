//! Endpoints of third clusters: pods of one provider that another provider is told of in our slices, under which addresses of ours, and for how long.
//!
//! Our *transit range* is a /17 that no pod has. The provider's row and the low bits of the pod's address decide its place there, so the same pod has the
//! same address for every peer and after every restart, with nothing stored. What stands here says what may be reached: the gateway lets a peer into an
//! address of the range only while a slice that it is told names it. Two pods of a provider that fall on one place (their addresses differ by a multiple
//! of [`EACH`]), or more than there is room for: the later one is left out and counted.

use super::facts::{Link, Provider};
use crate::budget::{PEERS, TRANSIT};
use crate::identity::{PeerId, Prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Addresses for the pods of one provider: those of a node's usual /24, twice.
const EACH: u32 = 512;

// Each row has its part of the range.
const _: () = assert!(PEERS as u32 * EACH == 1 << (32 - LENGTH));
const LENGTH: u8 = 17;

/// A transit address, and the image under which this host sees the pod.
pub(crate) type Pair = (Ipv4Addr, Ipv4Addr);

/// The slice that names them, at home, and which provider is told.
type Told = (PeerId, Box<str>, Box<str>);

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Transit {
    range: Option<Prefix>,
    told: BTreeMap<Told, Box<[Pair]>>,
    /// Whose pods are where, as the slices were last read by it.
    images: Vec<(PeerId, Prefix)>,
    /// Providers whose table has changed since it was last asked for.
    changed: BTreeSet<PeerId>,
    /// Endpoints left out so far.
    left_out: u64,
}

impl Transit {
    /// Without a range, or with one of another length, no endpoint of a third cluster is told.
    pub(crate) fn new(range: Option<Prefix>) -> Transit {
        Transit { range: range.filter(|range| range.length() == LENGTH), ..Transit::default() }
    }

    /// What a slice tells a provider of others' pods, from all its endpoints; false if some had to be left out.
    pub(crate) fn take(&mut self, to: PeerId, namespace: &str, name: &str, endpoints: impl Iterator<Item = Ipv4Addr>) -> bool {
        let key = (to, namespace.into(), name.into());
        let before = self.told.remove(&key);
        let mut standing: BTreeMap<Ipv4Addr, Ipv4Addr> = self.table(to).into_iter().collect();
        let mut room = TRANSIT.saturating_sub(self.told.values().map(|pairs| pairs.len()).sum());
        let mut pairs: Vec<Pair> = Vec::new();
        let mut whole = true;
        // What was told stays as it was; only then others find their place.
        let wanted: Vec<Pair> = endpoints.filter_map(|image| self.place(to, image)).collect();
        let old = |pair: &Pair| before.as_ref().is_some_and(|before| before.contains(pair));
        for &(transit, image) in wanted.iter().filter(|pair| old(pair)).chain(wanted.iter().filter(|pair| !old(pair))) {
            if room > 0 && *standing.entry(transit).or_insert(image) == image {
                if !pairs.contains(&(transit, image)) {
                    room -= 1;
                    pairs.push((transit, image));
                }
            } else {
                whole = false;
                self.left_out += 1;
            }
        }
        pairs.sort_unstable();
        if before.as_deref().unwrap_or_default() != &pairs[..] {
            self.changed.insert(to);
        }
        if !pairs.is_empty() {
            self.told.insert(key, pairs.into());
        }
        whole
    }

    /// What a slice tells a provider of others' pods.
    pub(crate) fn of(&self, to: PeerId, namespace: &str, name: &str) -> &[Pair] {
        self.told.get(&(to, namespace.into(), name.into())).map_or(&[], |pairs| pairs)
    }

    /// A slice is gone, or is told no more.
    pub(crate) fn release(&mut self, to: PeerId, namespace: &str, name: &str) {
        if self.told.remove(&(to, namespace.into(), name.into())).is_some() {
            self.changed.insert(to);
        }
    }

    /// Links or providers changed: what is told nobody any more is forgotten. True if the slices must be read anew, because they may name pods of a
    /// provider that has come, gone or moved.
    pub(crate) fn look(&mut self, links: &BTreeMap<(PeerId, Box<str>), Link>, providers: &BTreeMap<PeerId, Provider>) -> bool {
        let over: Vec<Told> = self.told.keys().filter(|(to, namespace, _)| !links.contains_key(&(*to, namespace.clone()))).cloned().collect();
        for (to, namespace, name) in over {
            self.release(to, &namespace, &name);
        }
        let images: Vec<(PeerId, Prefix)> = providers.iter().flat_map(|(peer, p)| p.spec.images.iter().map(|&(_, image)| (*peer, image))).collect();
        let moved = std::mem::replace(&mut self.images, images.clone()) != images;
        // A provider alone has no third cluster.
        moved && (providers.len() > 1 || !self.told.is_empty())
    }

    /// A provider whose table has changed, and the table.
    pub(crate) fn poll(&mut self) -> Option<(PeerId, Vec<Pair>)> {
        let to = self.changed.pop_first()?;
        Some((to, self.table(to)))
    }

    /// All that a provider is told, each address once.
    pub(crate) fn table(&self, to: PeerId) -> Vec<Pair> {
        let mut all: Vec<Pair> = self.told.iter().filter(|((of, ..), _)| *of == to).flat_map(|(_, pairs)| pairs.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// How often an endpoint was left out.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The place of an address that is another provider's pod, as this host sees it.
    fn place(&self, to: PeerId, image: Ipv4Addr) -> Option<Pair> {
        let range = self.range?;
        let (owner, _) = self.images.iter().find(|(peer, prefix)| *peer != to && prefix.contains(image))?;
        let place = u32::from(owner.0) * EACH + image.to_bits() % EACH;
        Some((Ipv4Addr::from_bits(range.address().to_bits() + place), image))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId(0);
    const B: PeerId = PeerId(1);

    fn transit() -> Transit {
        let mut transit = Transit::new("10.70.128.0/17".parse().ok());
        transit.images = vec![(A, "10.71.0.0/16".parse().expect("a prefix")), (B, "10.73.0.0/16".parse().expect("a prefix"))];
        transit
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_third_clusters_pod_has_the_same_place_always_and_a_providers_own_has_none() {
        for _ in 0..2 {
            let mut transit = transit();
            let all = ["10.42.0.3", "10.71.0.5", "10.73.0.7", "10.73.1.7", "192.0.2.1"].map(ip);
            assert!(transit.take(A, "shop", "web", all.into_iter()));
            assert!(transit.take(B, "shop", "web", all.into_iter()));
            assert_eq!(transit.of(A, "shop", "web"), [(ip("10.70.130.7"), ip("10.73.0.7")), (ip("10.70.131.7"), ip("10.73.1.7"))]);
            assert_eq!(transit.poll(), Some((A, transit.of(A, "shop", "web").to_vec())));
            assert_eq!(transit.poll(), Some((B, vec![(ip("10.70.128.5"), ip("10.71.0.5"))])));
            assert_eq!(transit.poll(), None);
        }
        let mut without = Transit { range: None, ..transit() };
        assert!(without.take(A, "shop", "web", [ip("10.73.0.7")].into_iter()));
        assert!(without.table(A).is_empty());
    }

    #[test]
    fn the_last_row_stays_inside_the_range() {
        let mut transit = transit();
        transit.images.push((PeerId(PEERS as u8 - 1), "10.80.0.0/16".parse().expect("a prefix")));
        transit.take(A, "shop", "web", [ip("10.80.255.255")].into_iter());
        assert_eq!(transit.table(A), [(ip("10.70.255.255"), ip("10.80.255.255"))]);
    }

    #[test]
    fn of_two_pods_on_one_place_the_first_stays_and_the_other_follows_when_it_went() {
        let mut transit = transit();
        let (first, second) = (ip("10.73.0.7"), ip("10.73.2.7"));
        assert!(transit.take(A, "shop", "web", [first].into_iter()));
        assert!(!transit.take(A, "shop", "web", [second, first].into_iter()), "in the same slice, listed before");
        assert!(!transit.take(A, "shop", "more", [second].into_iter()), "in another");
        assert_eq!((transit.table(A), transit.left_out()), (vec![(ip("10.70.130.7"), first)], 2));
        assert!(transit.take(A, "shop", "web", [second].into_iter()));
        assert_eq!(transit.table(A), [(ip("10.70.130.7"), second)]);
    }

    #[test]
    fn an_address_is_free_when_no_slice_names_it() {
        let mut transit = transit();
        for name in ["web", "more"] {
            transit.take(A, "shop", name, [ip("10.73.0.7")].into_iter());
        }
        transit.release(A, "shop", "web");
        assert_eq!(transit.table(A).len(), 1);
        transit.take(A, "shop", "more", [].into_iter());
        assert_eq!((transit.table(A), transit.poll()), (vec![], Some((A, vec![]))));
    }

    #[test]
    fn the_table_has_an_end() {
        let mut transit = transit();
        let many = |n: usize| (0..n as u32).map(|i| Ipv4Addr::from_bits(ip("10.73.0.0").to_bits() + i % EACH));
        for n in 0..TRANSIT / EACH as usize {
            assert!(transit.take(A, "shop", &format!("web-{n}"), many(EACH as usize)));
        }
        assert!(!transit.take(A, "shop", "more", many(3)));
        assert_eq!(transit.left_out(), 3);
        assert!(transit.of(A, "shop", "more").is_empty());
    }
}
