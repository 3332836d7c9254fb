//! Journeys through the world from seeds: the rooms do what users want of them while everything goes wrong, and what must always hold is
//! looked at after every step. A failure names its seed and tells its shortest story: events are left out as long as it still fails.
//! `SLUICE_SEED=n cargo test --lib journeys` walks one seed alone, whole and told step by step; `SLUICE_SEEDS=n` walks that many instead of the usual
//! number, and `SLUICE_FIRST_SEED=n` begins there.

#[cfg(test)]
mod offload;
#[cfg(test)]
mod script;
#[cfg(test)]
mod tunnel;
#[cfg(test)]
mod whole;
