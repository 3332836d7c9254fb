//! A grant made into a credential, and taken back: the tenant namespace, bindings, account and token of one consumer, as states over API calls.
//!
//! ```text
//! Token --404--> Namespace --409--> Look (ours? going?) --+
//!   ^                |                                     v
//!   +-- Account <-- Quota <-- Peer's binding <-- Own binding        Revoke: Account -> Look -> Namespace -> Look ... gone
//! ```
//! Every step may be repeated: after a restart, an unanswered call or a lost object it is simply walked again. Called by the authority.
//! It never touches a namespace without our mark. While the API server is down it waits, longer each time, to at most ten seconds.

use super::refusal::{Reason, Refusal};
use crate::budget;
use crate::clock::Instant;
use crate::identity::ClusterId;
use crate::kube::call::{Body, Call, Cluster, Resource, Verb};
use crate::kube::reply::Reply;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// The peer's account in its tenant namespace, and the name of its binding there.
pub const ACCOUNT: &str = "sluice-peer";
/// The ClusterRole of a peer in its tenant namespace.
pub const TENANT_ROLE: &str = "sluice-tenant";
/// The name of the daemon's own binding in a tenant namespace.
pub const OWN_BINDING: &str = "sluice";
/// The ClusterRole of the daemon in a tenant namespace: the peer's account, its token, what the agent reads and writes there.
pub const OWN_ROLE: &str = "sluice-tenant-admin";
/// Our mark on whatever we made.
pub const MARK: (&str, &str) = ("sluice.internal/managed", "true");
/// How long a token lives that is asked for, in seconds.
pub const TOKEN_LIFE: u64 = 3600;
/// A refused call is tried this often: a new binding takes the API server a moment to know.
const REFUSALS: u32 = 6;

const NAMESPACES: Resource = Resource { group: "", version: "v1", plural: "namespaces" };
const ACCOUNTS: Resource = Resource { group: "", version: "v1", plural: "serviceaccounts" };
const QUOTAS: Resource = Resource { group: "", version: "v1", plural: "resourcequotas" };
const BINDINGS: Resource = Resource { group: "rbac.authorization.k8s.io", version: "v1", plural: "rolebindings" };

/// The daemon's own ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The tenant namespace of a consumer.
pub fn tenant(id: &ClusterId) -> String {
    format!("liqo-tenant-{id}")
}

/// What has come of the issuing.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// A token.
    Issued {
        /// The bearer token.
        token: String,
        /// Its life in seconds from now.
        lifetime: u64,
        /// The UID of the tenant namespace, if this run learnt it.
        uid: Option<String>,
    },
    /// It cannot be had, or not now ([`Reason::passes`]).
    Refused(Refusal),
}

/// The wait between attempts and the one call under way.
#[derive(Debug, Default)]
struct Pace {
    asked: bool,
    due: Option<Instant>,
    failures: u32,
    refusals: u32,
}

impl Pace {
    /// Whether the next call goes out now.
    fn begin(&mut self) -> bool {
        !self.asked && self.due.is_none() && {
            self.asked = true;
            true
        }
    }

    fn wait(&mut self, now: Instant, atleast: Duration) {
        self.due = Some(now + Duration::from_millis(100 << self.failures.min(7)).min(Duration::from_secs(10)).max(atleast));
        self.failures = self.failures.saturating_add(1);
    }

    fn advance(&mut self) {
        (self.failures, self.refusals) = (0, 0);
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.due.is_some_and(|at| at <= now) {
            self.due = None;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Token,
    Namespace,
    Look,
    Own,
    Peer,
    Quota,
    Account,
}

/// One issuing.
#[derive(Debug)]
pub struct Issue {
    id: ClusterId,
    own: Account,
    step: Step,
    pace: Pace,
    uid: Option<String>,
}

impl Issue {
    /// Begins: at the token if the account is believed to exist, else at the namespace.
    pub fn begin(id: ClusterId, own: Account, exists: bool) -> Issue {
        Issue { id, own, step: if exists { Step::Token } else { Step::Namespace }, pace: Pace::default(), uid: None }
    }

    /// The next call, if it is time.
    pub fn poll_call(&mut self) -> Option<Call> {
        self.pace.begin().then(|| self.call())
    }

    /// When [`Issue::handle_timeout`] is wanted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.pace.due
    }

    /// A wait may be over.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.pace.handle_timeout(now);
    }

    /// Why nothing has come yet, for an answer that cannot wait any longer.
    pub fn delay(&self) -> Refusal {
        Refusal::new(Reason::ApiDown, "the provider's API server does not answer yet; asked again soon")
    }

    fn call(&self) -> Call {
        let namespace = tenant(&self.id);
        let inside = Some(namespace.as_str());
        let labels = json!({"liqo.io/tenant-namespace": "true", "liqo.io/remote-cluster-id": self.id.as_str(), MARK.0: MARK.1});
        let binding = |name: &str, role: &str, account: &Account| {
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                "metadata": {"name": name, "namespace": namespace, "labels": labels},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "ServiceAccount", "namespace": account.namespace, "name": account.name}]})
        };
        let mut guarded = labels.clone();
        // No pod runs in a tenant namespace; the daemon's policy wants the strictness said.
        guarded["pod-security.kubernetes.io/enforce"] = "restricted".into();
        let (path, body) = match self.step {
            Step::Look => return Call { to: Cluster::Home, verb: Verb::Get, path: NAMESPACES.object(None, &namespace), body: Body::None },
            Step::Namespace => {
                (NAMESPACES.collection(None), json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": guarded}}))
            }
            Step::Own => (BINDINGS.collection(inside), binding(OWN_BINDING, OWN_ROLE, &self.own)),
            Step::Quota => {
                let most = budget::TENANT_OBJECTS.to_string();
                let hard = json!({"count/namespacemaps.offloading.liqo.io": most, "count/resourceslices.authentication.liqo.io": most});
                let metadata = json!({"name": ACCOUNT, "namespace": namespace, "labels": labels});
                (QUOTAS.collection(inside), json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": hard}}))
            }
            Step::Peer => {
                let peer = Account { namespace: namespace.clone(), name: ACCOUNT.into() };
                (BINDINGS.collection(inside), binding(ACCOUNT, TENANT_ROLE, &peer))
            }
            Step::Account => {
                let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "automountServiceAccountToken": false,
                    "metadata": {"name": ACCOUNT, "namespace": namespace, "labels": labels}});
                (ACCOUNTS.collection(inside), account)
            }
            Step::Token => {
                let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": TOKEN_LIFE}});
                (format!("{}/token", ACCOUNTS.object(inside, ACCOUNT)), request)
            }
        };
        Call { to: Cluster::Home, verb: Verb::Create, path, body: Body::Json(body.to_string()) }
    }

    /// The answer to the last call.
    pub fn handle_reply(&mut self, reply: Reply, now: Instant) -> Option<Outcome> {
        self.pace.asked = false;
        let next = match (self.step, reply) {
            (Step::Token, Reply::Done(body)) => match serde_json::from_slice::<TokenRequest>(&body) {
                Ok(it) if !it.status.token.is_empty() => {
                    return Some(Outcome::Issued { token: it.status.token, lifetime: it.spec.lifetime.unwrap_or(TOKEN_LIFE), uid: self.uid.take() });
                }
                _ => return Some(Outcome::Refused(Refusal::new(Reason::ApiRefused, "the provider's API server sent no token"))),
            },
            (Step::Namespace | Step::Look, Reply::Done(body)) => match View::read(&body) {
                Some(it) if it.going() => {
                    self.step = Step::Look;
                    self.pace.wait(now, Duration::from_millis(500));
                    return None;
                }
                Some(it) if it.is_tenant_of(&self.id) => {
                    self.uid = Some(it.metadata.uid);
                    Step::Own
                }
                _ => return Some(Outcome::Refused(foreign(&self.id))),
            },
            (Step::Namespace, Reply::Conflict) => Step::Look,
            (Step::Own, Reply::Done(_) | Reply::Conflict) => Step::Peer,
            (Step::Peer, Reply::Done(_) | Reply::Conflict) => Step::Quota,
            (Step::Quota, Reply::Done(_) | Reply::Conflict) => Step::Account,
            (Step::Account, Reply::Done(_) | Reply::Conflict) => Step::Token,
            (Step::Namespace, Reply::NotFound) => {
                self.pace.wait(now, Duration::ZERO);
                return None;
            }
            // Somebody removed what was there: from the beginning.
            (_, Reply::NotFound) => {
                self.pace.wait(now, Duration::ZERO);
                self.step = Step::Namespace;
                return None;
            }
            (_, Reply::Refused(why)) => {
                self.pace.refusals += 1;
                if self.pace.refusals >= REFUSALS {
                    return Some(Outcome::Refused(Refusal::new(Reason::ApiRefused, format!("the provider's API server refuses: {why}"))));
                }
                if why.contains("terminated") {
                    self.step = Step::Look;
                }
                self.pace.wait(now, Duration::ZERO);
                return None;
            }
            (_, other) => {
                self.pace.wait(now, patience(&other));
                return None;
            }
        };
        // Refusals count over steps that go in circles, so only real progress forgives them.
        if self.step != Step::Look {
            self.pace.advance();
        }
        self.step = next;
        None
    }
}

fn patience(reply: &Reply) -> Duration {
    match reply {
        Reply::Throttled(wait) => *wait,
        _ => Duration::ZERO,
    }
}

fn foreign(id: &ClusterId) -> Refusal {
    Refusal::new(
        Reason::Foreign,
        format!("the provider has a namespace {} that sluice did not make (Liqo's, perhaps); it must be removed there first", tenant(id)),
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Undo {
    Account,
    Look,
    Namespace,
}

/// One taking back: the account first, so that its tokens end at once; then the namespace, if it is ours; done when it is gone.
#[derive(Debug)]
pub struct Revoke {
    id: ClusterId,
    uid: String,
    step: Undo,
    seen: String,
    pace: Pace,
}

impl Revoke {
    /// Begins; `uid` is that recorded at the issuing, or empty.
    pub fn begin(id: ClusterId, uid: String) -> Revoke {
        Revoke { id, uid, step: Undo::Account, seen: String::new(), pace: Pace::default() }
    }

    /// Whose tenancy ends.
    pub fn cluster(&self) -> &ClusterId {
        &self.id
    }

    /// The next call, if it is time.
    pub fn poll_call(&mut self) -> Option<Call> {
        if !self.pace.begin() {
            return None;
        }
        let namespace = tenant(&self.id);
        let (verb, path, body) = match self.step {
            Undo::Account => (Verb::Delete, ACCOUNTS.object(Some(&namespace), ACCOUNT), Body::None),
            Undo::Look => (Verb::Get, NAMESPACES.object(None, &namespace), Body::None),
            Undo::Namespace => {
                let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": self.seen}});
                (Verb::Delete, NAMESPACES.object(None, &namespace), Body::Json(options.to_string()))
            }
        };
        Some(Call { to: Cluster::Home, verb, path, body })
    }

    /// When [`Revoke::handle_timeout`] is wanted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.pace.due
    }

    /// A wait may be over.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.pace.handle_timeout(now);
    }

    /// The answer to the last call; true when nothing of ours is left.
    pub fn handle_reply(&mut self, reply: Reply, now: Instant) -> bool {
        self.pace.asked = false;
        match (self.step, reply) {
            // Without our binding there (a namespace that is not ours, or half made) the account cannot be reached; the look decides.
            (Undo::Account, Reply::Done(_) | Reply::NotFound | Reply::Refused(_) | Reply::Conflict) => self.step = Undo::Look,
            (Undo::Look, Reply::NotFound) => return true,
            (Undo::Look, Reply::Done(body)) => match View::read(&body) {
                Some(it) if !it.is_tenant_of(&self.id) || (!self.uid.is_empty() && it.metadata.uid != self.uid) => return true,
                Some(it) if it.going() => {
                    self.pace.wait(now, Duration::from_millis(500));
                    return false;
                }
                Some(it) => {
                    self.seen = it.metadata.uid;
                    self.step = Undo::Namespace;
                }
                None => {
                    self.pace.wait(now, Duration::from_secs(1));
                    return false;
                }
            },
            (Undo::Namespace, Reply::NotFound) => return true,
            (Undo::Namespace, Reply::Done(_) | Reply::Conflict) => {
                self.step = Undo::Look;
                self.pace.wait(now, Duration::from_millis(200));
                return false;
            }
            (_, other) => {
                self.pace.wait(now, patience(&other));
                return false;
            }
        }
        self.pace.advance();
        false
    }
}

/// What is read of a namespace.
#[derive(Deserialize)]
struct View {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    uid: String,
    labels: Option<BTreeMap<String, String>>,
    #[serde(rename = "deletionTimestamp")]
    deleted: Option<String>,
}

impl View {
    fn read(body: &[u8]) -> Option<View> {
        serde_json::from_slice(body).ok()
    }

    fn going(&self) -> bool {
        self.metadata.deleted.is_some()
    }

    fn is_tenant_of(&self, id: &ClusterId) -> bool {
        let label = |name: &str| self.metadata.labels.as_ref().and_then(|l| l.get(name)).map(String::as_str);
        label(MARK.0) == Some(MARK.1) && label("liqo.io/remote-cluster-id") == Some(id.as_str())
    }
}

#[derive(Deserialize)]
struct TokenRequest {
    spec: TokenSpec,
    status: TokenStatus,
}

#[derive(Deserialize)]
struct TokenSpec {
    #[serde(rename = "expirationSeconds")]
    lifetime: Option<u64>,
}

#[derive(Deserialize)]
struct TokenStatus {
    token: String,
}

#[cfg(test)]
#[path = "issue_tests.rs"]
mod tests;
