//! One request to an API server, as a value. Cores make it, the shell (or the world in tests) carries it out and answers with a [`Reply`](crate::kube::reply::Reply).

use crate::identity::PeerId;

/// Which API server is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cluster {
    /// The cluster this process runs in, under the daemon's own ServiceAccount.
    Home,
    /// A provider's, through its API passage, with the credential it issued.
    Peer(PeerId),
}

/// What is done at the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// GET.
    Get,
    /// POST to a collection; the answer to an existing name is `Conflict`.
    Create,
    /// Server-side apply (PATCH, `application/apply-patch+yaml` with a JSON body, forced, under our field manager).
    Apply,
    /// PATCH with `application/merge-patch+json` (RFC 7386).
    Merge,
    /// DELETE; the body, if any, is a `DeleteOptions`.
    Delete,
}

/// A request. It is carried out at most once and always answered, with [`Unreachable`](crate::kube::reply::Reply::Unreachable) if it must be.
#[derive(Debug)]
pub struct Call {
    /// Where.
    pub to: Cluster,
    /// What.
    pub verb: Verb,
    /// Path and query, percent-encoded, beginning with `/`; made by [`Resource`] or literal.
    pub path: String,
    /// What is sent.
    pub body: Body,
}

/// What is sent with a call.
#[derive(Debug)]
pub enum Body {
    /// Nothing.
    None,
    /// This JSON text.
    Json(String),
    /// JSON made from another object, read at the moment of the call: so that no core ever holds a whole object.
    Forge(Forge),
}

/// A body that is made from an object. The shell gets `source`, calls `make` with its JSON, and sends what comes out.
pub struct Forge {
    /// The API server that has the source.
    pub from: Cluster,
    /// The source's path.
    pub path: String,
    /// Pure: source JSON to body JSON, or why not.
    pub make: Make,
}

/// The pure function of a [`Forge`].
pub type Make = Box<dyn FnOnce(&[u8]) -> Result<String, Unfit> + Send>;

impl std::fmt::Debug for Forge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Forge({:?} {})", self.from, self.path)
    }
}

/// Why a source object yields no body. It comes back as [`Reply::Unfit`](crate::kube::reply::Reply::Unfit).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The source has changed in a way that makes the call moot (another UID, say); look again.
    Changed,
    /// The source holds something that may not be carried over; said to the user in an event.
    Refused(String),
}

/// Appends `segment` to a URL path, percent-encoding all but unreserved characters (RFC 3986, 2.3).
pub fn push_segment(path: &mut String, segment: &str) {
    path.push('/');
    for b in segment.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            path.push(char::from(b));
        } else {
            path.push_str(&format!("%{b:02X}"));
        }
    }
}

/// The place of a kind in the API: group, version, plural.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// API version, as in `v1`.
    pub version: &'static str,
    /// Plural, as in `pods`.
    pub plural: &'static str,
}

impl Resource {
    /// The path of the collection: of `namespace`, or of the whole cluster if there is none.
    pub fn collection(&self, namespace: Option<&str>) -> String {
        let mut path = String::with_capacity(96);
        path.push_str(if self.group.is_empty() { "/api" } else { "/apis" });
        if !self.group.is_empty() {
            push_segment(&mut path, self.group);
        }
        push_segment(&mut path, self.version);
        if let Some(namespace) = namespace {
            path.push_str("/namespaces");
            push_segment(&mut path, namespace);
        }
        push_segment(&mut path, self.plural);
        path
    }

    /// The path of one object; cluster-scoped if there is no namespace.
    pub fn object(&self, namespace: Option<&str>, name: &str) -> String {
        let mut path = self.collection(namespace);
        push_segment(&mut path, name);
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api_server() {
        let pods = Resource { group: "", version: "v1", plural: "pods" };
        let shadows = Resource { group: "offloading.liqo.io", version: "v1beta1", plural: "shadowpods" };
        assert_eq!(pods.collection(None), "/api/v1/pods");
        assert_eq!(pods.object(Some("shop"), "web-1"), "/api/v1/namespaces/shop/pods/web-1");
        assert_eq!(shadows.object(Some("a"), "b"), "/apis/offloading.liqo.io/v1beta1/namespaces/a/shadowpods/b");
    }

    #[test]
    fn a_name_cannot_leave_its_segment() {
        let pods = Resource { group: "", version: "v1", plural: "pods" };
        assert_eq!(pods.object(Some("a"), "../x?y#z"), "/api/v1/namespaces/a/pods/..%2Fx%3Fy%23z");
    }
}
