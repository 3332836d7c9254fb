//! The only room that touches the world: sockets, clocks, files, TLS, HTTP.

pub mod api;
pub mod dial;
pub mod http;
pub mod kubeconfig;
pub mod listener;
pub mod local;
pub mod passage;
mod pool;
pub mod run;
pub mod setup;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod watches;
