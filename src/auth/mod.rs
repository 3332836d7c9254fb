//! Who may peer with this cluster, and as whom: tickets, enrolment, credentials, leaving. Pure: bytes, answers and time in; answers, asks and calls out.
//!
//! [`Authority`] is the door; [`peering`] draws the life of one peering, [`ledger`] is what outlives the process.
//! Why the order store-then-answer: a ticket that could serve two clusters after a crash would be no ticket. So whatever burns, pins or lets go
//! is a durable step, and its events come only once the state is on disk; a write that fails undoes the step.
//! Why proofs in every request: addresses prove nothing on a node shared with pods (see [`bearer`]).

pub mod addresses;
mod asking;
mod authority;
pub mod base64url;
pub mod bearer;
pub mod endpoint;
mod event;
pub mod issue;
pub mod keys;
mod leaving;
pub mod ledger;
mod orders;
pub mod peering;
pub mod policy;
pub mod refusal;
pub mod request;
pub mod resources;
mod serve;
mod sessions;
pub mod status;
mod steps;
#[cfg(test)]
mod tests;
pub mod ticket;

pub use authority::{Authority, CannotStart};
pub use event::{AddPeer, AskId, Event, Facts, Progress, Purpose, RequestId};
pub use orders::{CannotInvite, CannotJoin, Invitation, InviteOrder, JoinOrder};
pub use serve::Request;

/// Enrolment sessions at once; further callers wait in silence and try again.
pub const ENROLMENTS: usize = 4;
