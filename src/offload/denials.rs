//! How often what a consumer's objects ask for was refused here, by reason: for the status and the metrics. The object itself says why, in words.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// A pod that asks for more than is granted.
    Grant,
    /// A pod that asks for what no peer's pod may have, or that the API server here refuses, or whose name is taken.
    Pod,
    /// A namespace that may not be made or taken for this consumer.
    Namespace,
    /// An endpoint outside the consumer's own addresses; counted each time its slice is written.
    Endpoint,
}

impl Denied {
    /// All of them, with the word that the status and the metrics use.
    pub(crate) const ALL: [(Denied, &'static str); 4] =
        [(Denied::Grant, "grant"), (Denied::Pod, "pod"), (Denied::Namespace, "namespace"), (Denied::Endpoint, "endpoint")];
}

/// The counts since the daemon began. A clone counts into the same: endpoints are looked at within a running call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Denials(Arc<[AtomicU64; Denied::ALL.len()]>);

impl Denials {
    pub(crate) fn count(&self, what: Denied, times: usize) {
        self.0[what as usize].fetch_add(times as u64, Relaxed);
    }

    pub(crate) fn counted(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Denied::ALL.iter().map(|&(what, name)| (name, self.0[what as usize].load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_under_its_own_word_by_every_clone() {
        let denials = Denials::default();
        for (n, (what, _)) in Denied::ALL.into_iter().enumerate() {
            denials.clone().count(what, n + 1);
        }
        assert_eq!(denials.counted().collect::<Vec<_>>(), [("grant", 1), ("pod", 2), ("namespace", 3), ("endpoint", 4)]);
    }
}
