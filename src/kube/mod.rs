//! The API server's language as values: what is asked ([`call`]), what comes back ([`reply`]), what is watched ([`watch`]). No transport.
//!
//! Cores make these values, `shell::api` carries them out, the in-memory world answers them. Nothing here knows TLS, tokio or a socket.

pub mod call;
pub mod object;
pub mod reply;
pub mod stream;
pub mod watch;
