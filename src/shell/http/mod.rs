//! One HTTP/1.1 engine for everything: ureq-proto's client and server states over any tokio stream (RFC 9110, RFC 9112).
//!
//! A [`Connection`] owns its stream and one buffer of [`BUFFER`] bytes: heads must fit in it, bodies pass through it. Every step
//! has a time limit and every body a size limit, given by the caller. Used by `api` and `watches` (client), `listener` (server)
//! and the passage (CONNECT). It opens no socket, retries nothing and knows no path.

mod client;
mod connection;
mod server;
#[cfg(test)]
mod tests;
mod tunnel;

pub use client::{Method, Request, Response, Taken};
pub use connection::{BUFFER, Connection, Fault};
pub use server::{Asked, Turn};
pub use tunnel::Tunnel;
