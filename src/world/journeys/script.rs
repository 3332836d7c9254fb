//! Which events of a journey happen, and the search for the shortest story that still fails.
//!
//! Every event draws from a stream of its own: leaving one out does not change what the others are. The search is delta debugging (Zeller and
//! Hildebrandt, "Simplifying and isolating failure-inducing input", 2002): halves, then quarters and so on are left out while the rest still fails.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use crate::world::chance::Chance;

/// Walks of one failing seed until its shortest story is good enough.
const TRIES: usize = 200;

/// A seed and those of its events that happen.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) seed: u64,
    /// Every step is printed.
    pub(super) told: bool,
    left_out: BTreeSet<u64>,
    /// Events so far, those left out too; outlives a walk that panics.
    count: Rc<Cell<u64>>,
}

impl Script {
    fn new(seed: u64, told: bool) -> Script {
        Script { seed, told, left_out: BTreeSet::new(), count: Rc::default() }
    }

    /// The stream of the next event; none if it is left out.
    pub(super) fn event(&self) -> Option<Chance> {
        let number = self.count.get();
        self.count.set(number + 1);
        (!self.left_out.contains(&number)).then(|| Chance::new(self.seed ^ (number + 1).wrapping_mul(0xd134_2543_de82_ef95)))
    }

    fn fails(&self, walk: impl Fn(Script)) -> bool {
        self.count.set(0);
        catch_unwind(AssertUnwindSafe(|| walk(self.clone()))).is_err()
    }

    /// The fewest events found with which the walk still fails.
    fn shortest(&self, walk: impl Fn(Script) + Copy) -> Script {
        let all = self.count.get();
        let mut kept: Vec<u64> = (0..all).collect();
        let (mut parts, mut tries) = (2, 0);
        let leaving_out = |kept: &[u64]| Script { told: false, left_out: (0..all).filter(|n| !kept.contains(n)).collect(), ..self.clone() };
        while tries < TRIES && kept.len() > 1 {
            let size = kept.len().div_ceil(parts);
            let fewer = (0..kept.len()).step_by(size).find_map(|at| {
                tries += 1;
                let rest = [&kept[..at], &kept[(at + size).min(kept.len())..]].concat();
                leaving_out(&rest).fails(walk).then_some(rest)
            });
            match fewer {
                Some(rest) => (kept, parts) = (rest, parts.saturating_sub(1).max(2)),
                None if size == 1 => break,
                None => parts = (parts * 2).min(kept.len()),
            }
        }
        println!("seed {}: fails with {} of {all} events (event number: {kept:?})", self.seed, kept.len());
        leaving_out(&kept)
    }
}

/// A journey whose events its script may leave out.
pub(super) trait Scripted: Sized {
    /// The script, and the stream that events draw from.
    fn parts(&mut self) -> (&Script, &mut Chance);

    /// One event of the journey, unless its script leaves it out.
    fn event(&mut self, what: impl FnOnce(&mut Self)) {
        let (script, chance) = self.parts();
        if let Some(own) = script.event() {
            let others = std::mem::replace(chance, own);
            what(self);
            *self.parts().1 = others;
        }
    }
}

/// Walks the seeds of `all`, or only the one that is asked for. Panics at the first that fails, after telling its shortest story.
pub(super) fn walk_seeds(all: impl Iterator<Item = u64>, walk: impl Fn(Script) + Copy) {
    if let Some(seed) = number("SLUICE_SEED") {
        return walk(Script::new(seed, true));
    }
    for seed in all {
        let whole = Script::new(seed, false);
        if whole.fails(walk) {
            let story = Script { told: true, ..whole.shortest(walk) };
            story.count.set(0);
            walk(story);
            panic!("seed {seed}: failed once and not again");
        }
    }
}

/// The usual seeds, or those asked for.
pub(super) fn seeds(count: u64) -> Range<u64> {
    let first = number("SLUICE_FIRST_SEED").unwrap_or(0);
    first..first + number("SLUICE_SEEDS").unwrap_or(count)
}

#[expect(clippy::disallowed_methods, reason = "the one way to ask a test for a seed")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|s| s.parse().ok())
}

#[test]
fn the_shortest_story_holds_the_events_that_matter_and_no_others() {
    let walk = |script: Script| {
        let happened: Vec<usize> = (0..40).filter(|_| script.event().is_some()).collect();
        assert!(!(happened.contains(&3) && happened.contains(&17)), "three and seventeen");
    };
    let whole = Script::new(1, false);
    assert!(whole.fails(walk));
    let story = whole.shortest(walk);
    assert_eq!((0..40).filter(|n| !story.left_out.contains(n)).collect::<Vec<_>>(), [3, 17]);
}
