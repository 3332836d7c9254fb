//! The WireGuard gateway: bytes and time in, verdicts out. It owns no socket, no device, no clock.
//!
//! Start at [`Gateway`]. A datagram goes `datagram` (type and receiver index, before any crypto) -> `index` (whose) -> `session` (opened)
//! -> `reach` (may it come in, and as which addresses) -> `remap` (rewritten) -> [`Verdict::ToTun`]; a packet goes the same rooms backwards.
//! On the way from and to the device, large frames are taken apart in `segment` and put together in `coalesce`.
//!
//! Why not boringtun's own queue, keepalive and give-up: its queue is unbounded in bytes (so we park packets in `waiting`), its
//! keepalive fills that queue when no session stands, and it stops for good 90 s into failed attempts (so `peer` keeps the schedule).
//! The endpoint follows transport data and handshake responses only, never an initiation: an initiation recorded before our last
//! restart may be replayed by anyone, and must not move a peer.

mod allowed_ips;
pub mod coalesce;
pub mod datagram;
mod gateway;
mod index;
pub mod offload;
pub mod packet;
mod peer;
mod reach;
pub mod remap;
pub mod segment;
mod session;
mod sources;
pub mod sum;
mod verdict;
mod waiting;

pub use gateway::Gateway;
pub use peer::{PeerSpec, PeerStatus};
pub use reach::Addresses;
pub use remap::Checksum;
pub use session::public_key;
pub use verdict::{Drops, Event, Full, Reason, Refused, Verdict};
