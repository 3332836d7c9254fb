//! What is watched, and what a watch tells. The state of a watch (initial list, live, cut, expired) is kept by the core that wants it.
//!
//! Lists are streamed: a watch without a resourceVersion asks for `sendInitialEvents=true`, so the initial objects arrive as
//! ADDED events and end with a bookmark (Kubernetes 1.34 and later have this on by default). There is no second list parser.

use super::call::Cluster;

/// A watch to be kept open by the shell until it is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Where.
    pub on: Cluster,
    /// Path of the collection with selectors in its query, without the watch parameters.
    pub path: String,
    /// Resume after this version; none: initial objects first.
    pub from: Option<String>,
}

/// What happens on a watch, told to the core in order. `V` is the small view a kind reads from an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told<V> {
    /// An object was added or modified (or is part of the initial objects).
    Seen(V),
    /// An object is gone; the view is its last state.
    Gone(V),
    /// All initial objects have been told, up to this version.
    Synced(String),
    /// Nothing changed, but the stream has come to this version.
    Bookmark(String),
    /// The stream ended; resume from the last version told (a `Bookmark` right before tells the last that counts), or anew if none was.
    Cut,
    /// The version asked for is gone (410): begin anew, without one.
    Expired,
    /// The API server refuses the watch (401, 403, 404 ...); tried again later. The reason in a few words.
    Refused(String),
    /// An object could not be read: larger than `OBJECT_MAX`, or not what its kind promises. Its name if it could be read.
    Unreadable(Option<String>, String),
}
