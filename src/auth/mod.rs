//! Who may peer with this cluster, and as whom.

pub mod addresses;
pub mod base64url;
pub mod bearer;
pub mod endpoint;
pub mod issue;
pub mod keys;
pub mod ledger;
pub mod policy;
pub mod refusal;
pub mod request;
pub mod resources;
pub mod ticket;

/// Enrolment sessions at once; further callers wait in silence and try again.
pub const ENROLMENTS: usize = 4;
