//! A small Kubernetes API server: what our calls and watches use of one, as strict as the real one there.
//!
//! Faithful: versions, UIDs, 404/409/410/422, preconditions of DELETE, grace periods, finalizers, terminating namespaces, status subresources, immutable
//! pod specs, applies and merge patches with `metadata.uid`, selectors, streamed lists, bookmarks, forgotten history.
//! Simple: no schemas, no defaulting, no authorization (the journal says who did what), one version of a kind.
//! [`controllers`] plays kubelet, scheduler, endpoint slices, garbage collection and namespace deletion.

pub mod controllers;
mod patch;
pub mod path;
pub mod server;
pub mod store;
pub mod stream;
#[cfg(test)]
mod tests;

pub use server::{ApiServer, Faults, Request};
pub use store::Key;
pub use stream::{StreamId, Told};
