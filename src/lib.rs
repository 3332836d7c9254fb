//! Sluice joins independent Kubernetes clusters. This file is the map: rooms, arrows, glossary, journeys.
#![warn(missing_docs)]

pub mod budget;
pub mod clock;
pub mod identity;
pub mod kube;
pub mod offload;
pub mod tunnel;
#[cfg(any(test, feature = "world"))]
pub mod world;

#[cfg(test)]
mod rooms;
