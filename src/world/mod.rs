//! The outside, in memory: clusters' API servers, the network between gateways, time and chance. For tests, benches and fuzzing only.
//!
//! Everything here runs from one `u64` seed and a clock that a test moves, so a failed run is its seed. The world is as bad as the real one may
//! be (loss, delay, NAT, conflicts, throttling, cut watches, lost answers) and never worse than Kubernetes promises: what it does to a core, an API server
//! or a network can do too. It knows no room's inside: cores get [`Reply`](crate::kube::reply::Reply)s and
//! [`Told`](crate::kube::watch::Told)s from it as they do from the shell.

pub mod api_server;
pub mod chance;
pub mod clock;
mod journeys;
pub mod net;
pub mod site;
pub mod watchdog;
