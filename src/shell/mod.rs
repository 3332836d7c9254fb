//! The only room that touches the world: sockets, clocks, files, TLS, HTTP.

pub mod http;
pub mod tls;
