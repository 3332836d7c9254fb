//! Who may peer with this cluster, and as whom.

mod addresses;
mod base64url;
mod bearer;
mod endpoint;
mod keys;
mod resources;
pub mod ticket;
