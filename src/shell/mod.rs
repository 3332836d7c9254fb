//! The only room that touches the world: sockets, clocks, files, TLS, HTTP.

pub mod api;
pub mod dial;
pub mod http;
mod pool;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod watches;
