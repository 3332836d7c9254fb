//! The WireGuard gateway: bytes and time in, verdicts out. It owns no socket, no device, no clock.
//!
//! Start at [`Gateway`]. A datagram goes `datagram` (type and receiver index, before any crypto) -> `index` (whose) -> `session` (opened)
//! -> `reach` (may it come in, and as which addresses) -> `remap` (rewritten) -> [`Verdict::ToTun`]; a packet goes the same rooms backwards.
//! On the way from and to the device, large frames are taken apart in `segment` and put together in `coalesce`.
//!
//! A peer reaches, besides our pods, those pods of third clusters that `transit` names for it, and nothing else of them: its packet enters under the image of the
//! pod, the kernel forwards it into the TUN again as our node end, and the answer leaves as the transit address. Why the kernel and not a second table of
//! flows here: it has one already, with replies, errors and time-outs, and so the third cluster sees an end of ours to which only replies enter.
//! Why not boringtun's own queue, keepalive and give-up: its queue is unbounded in bytes (so we park packets in `waiting`), its
//! keepalive fills that queue when no session stands, and it stops for good 90 s into failed attempts (so `peer` keeps the schedule).
//! The endpoint follows transport data and handshake responses only, never an initiation: an initiation recorded before our last
//! restart may be replayed by anyone, and must not move a peer.

mod allowed_ips;
pub mod coalesce;
pub mod datagram;
mod gateway;
mod index;
pub mod mss;
pub mod offload;
pub mod packet;
pub mod path;
mod peer;
mod reach;
pub mod remap;
pub mod segment;
mod session;
mod sources;
pub mod sum;
mod transit;
mod verdict;
mod waiting;

pub use gateway::Gateway;
pub use path::PathMtu;
pub use peer::{PeerSpec, PeerStatus};
pub use reach::Addresses;
pub use remap::Checksum;
pub use session::public_key;
pub use verdict::{Drops, Event, Full, Reason, Refused, Verdict};
