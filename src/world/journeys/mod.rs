//! Journeys through the world from seeds: the rooms do what users want of them while everything goes wrong, and what must always hold is
//! looked at after every step. A failure names its seed; `SLUICE_SEED=n cargo test --lib journeys` walks that one alone, told step by step,
//! and `SLUICE_SEEDS=n` walks that many instead of the usual number.

#[cfg(test)]
mod offload;
#[cfg(test)]
mod tunnel;
#[cfg(test)]
mod whole;

/// The seeds to walk: `count` of them, or only the one that is asked for.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the one way to ask a test for a seed")]
fn seeds(count: u64) -> (std::ops::Range<u64>, bool) {
    let number = |name| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    match number("SLUICE_SEED") {
        Some(seed) => (seed..seed + 1, true),
        None => (0..number("SLUICE_SEEDS").unwrap_or(count), false),
    }
}
