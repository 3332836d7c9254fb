//! What goes in and out of the authority besides bytes: facts of this cluster, events for the edge, progress for a person.
//!
//! Values only; who makes them and when is in `authority.rs`, `peering.rs` and `serve.rs`.

use super::issue::Account;
use super::refusal::Refusal;
use super::resources::Resources;
use crate::budget;
use crate::identity::{ClusterId, End, PeerId, Prefix, PublicKey, SecretKey};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// What is true of this cluster and this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Our pod prefixes.
    pub pods: Vec<Prefix>,
    /// What else is in use here: service, node and LAN prefixes.
    pub in_use: Vec<Prefix>,
    /// The host's own addresses.
    pub addresses: Vec<IpAddr>,
    /// The names of real nodes.
    pub nodes: Vec<String>,
    /// The nodes' architecture, as Kubernetes names it.
    pub architecture: String,
    /// The API server's CA bundle, PEM.
    pub ca: String,
    /// A name in the API server's certificate.
    pub api_name: String,
    /// The kernel's boot ID.
    pub boot: String,
    /// The daemon's own ServiceAccount.
    pub account: Account,
}

/// A control request, numbered by the listener; every one gets exactly one [`Event::Answer`] or [`Event::Passage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u32);

/// A question of ours to a peer; every one must be answered with [`Authority::handle_answer`](super::Authority::handle_answer).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AskId(pub u32);

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To redeem a ticket (either end): control only.
    Enrolment,
    /// A peering.
    Peering,
    /// To say or to hear that all is over: control only, for seconds.
    Farewell,
}

/// A session the gateway is to hold. Its keys are never printed.
#[derive(Clone, PartialEq)]
pub struct AddPeer {
    /// Its row.
    pub id: PeerId,
    /// What it is for.
    pub purpose: Purpose,
    /// The other side's key.
    pub public_key: PublicKey,
    /// Our key in this session, if it is not the cluster's.
    pub secret: Option<SecretKey>,
    /// The pre-shared key.
    pub preshared: Option<[u8; 32]>,
    /// Keepalive: at the joiner, who may be behind NAT.
    pub keepalive: Option<Duration>,
    /// Whether to begin a handshake at once.
    pub initiate: bool,
    /// Where it may be, best first. Names are for the shell to resolve.
    pub endpoints: heapless::Vec<SocketAddr, { budget::ENDPOINTS }>,
    /// Host names and ports to resolve; what they yield goes to the gateway as further endpoints.
    pub names: Vec<(heapless::String<64>, u16)>,
    /// Which end we are.
    pub end: End,
    /// The control ends on this host: ours, the peer's.
    pub control: (Ipv4Addr, Ipv4Addr),
    /// The node ends on this host: ours, the peer's. None if only control passes.
    pub node: Option<(Ipv4Addr, Ipv4Addr)>,
    /// The peer's prefixes and the image of each.
    pub remote: heapless::Vec<(Prefix, Prefix), { budget::PREFIXES }>,
}

/// What the edge is to do. Tokens, bearers and bodies are never printed.
#[derive(PartialEq)]
pub enum Event {
    /// Answer a control request, with JSON.
    Answer {
        /// Which.
        request: RequestId,
        /// The HTTP status.
        status: u16,
        /// The body.
        body: String,
    },
    /// Let a CONNECT through to our API server.
    Passage {
        /// Which.
        request: RequestId,
        /// Whose.
        peer: PeerId,
    },
    /// POST to the peer's control end. Always to be answered, within 30 seconds.
    Ask {
        /// The number of the question.
        ask: AskId,
        /// Whom.
        peer: PeerId,
        /// The path.
        path: &'static str,
        /// For `Authorization: Bearer`.
        bearer: String,
        /// The JSON body.
        body: String,
    },
    /// Hold this session. A row that is held already is replaced.
    AddPeer(Box<AddPeer>),
    /// Let this session go.
    RemovePeer(PeerId),
    /// The peer said `hello`: its daemon has begun anew, and knows nothing of connections from before.
    Greeted(PeerId),
    /// A credential for a provider's API server; it replaces the one before.
    Credential {
        /// Whose.
        peer: PeerId,
        /// The token.
        token: String,
        /// The CA bundle, PEM.
        ca: String,
        /// The name to expect in the certificate.
        name: String,
        /// How long it lives from now.
        lifetime: Duration,
    },
    /// This peer lends us resources: at the start, on a new peering, and again when its addresses here change.
    Provider {
        /// Its row.
        peer: PeerId,
        /// Its ID, and the name of its virtual node.
        cluster: ClusterId,
        /// Our tenant namespace there.
        tenant: String,
        /// What it lends.
        grant: Resources,
        /// Its nodes' architecture; empty if it did not say.
        architecture: String,
        /// Its prefixes and the image of each.
        images: Vec<(Prefix, Prefix)>,
        /// The virtual node's address on this host.
        virtual_node: Ipv4Addr,
    },
    /// We lend this peer resources; as [`Event::Provider`].
    Consumer {
        /// Its row.
        peer: PeerId,
        /// Its ID.
        cluster: ClusterId,
        /// Its tenant namespace here.
        tenant: String,
        /// What we lend.
        grant: Resources,
        /// Its prefixes and the image of each.
        images: Vec<(Prefix, Prefix)>,
    },
    /// The peering is over. What is to be removed is in [`Authority::owed`](super::Authority::owed) too; the row stays taken until all of it is settled.
    Gone {
        /// Its row.
        peer: PeerId,
        /// Its ID.
        cluster: ClusterId,
        /// Whether it was our provider.
        provider: bool,
        /// Whether it was our consumer.
        consumer: bool,
    },
    /// How a join, an invitation or a leave gets on; for the CLI and the log.
    Progress(PeerId, Progress),
}

/// A step that a person wants to know of.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// The session to the inviter is up.
    TunnelUp {
        /// Who answered.
        endpoint: SocketAddr,
        /// Since the first try.
        took: Duration,
    },
    /// The inviter said who it is.
    Greeted {
        /// Its ID.
        cluster: ClusterId,
        /// Whether we are behind NAT, as far as can be known from where the inviter sees us.
        behind_nat: Option<bool>,
    },
    /// Both have pinned each other.
    Enrolled {
        /// The peer's ID.
        cluster: ClusterId,
        /// Its prefixes and the image of each.
        images: Vec<(Prefix, Prefix)>,
        /// Ours as seen there.
        seen_as: Vec<Prefix>,
        /// What it lends us.
        consume: Option<Resources>,
        /// What we lend it.
        provide: Option<Resources>,
    },
    /// A credential has come, first or renewed.
    Credential,
    /// The peering's own session carries.
    Linked,
    /// Not yet, tried again; why.
    Retrying(String),
    /// It will not be; nothing is left of it.
    Failed(Refusal),
    /// Our leaving: whether the peer knows. If not it is told when it is back.
    Left {
        /// Whether it knows.
        told: bool,
    },
}

impl fmt::Debug for AddPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddPeer").field("id", &self.id).field("purpose", &self.purpose).field("public_key", &self.public_key).finish_non_exhaustive()
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Answer { request, status, .. } => write!(f, "Answer({request:?}, {status})"),
            Event::Passage { request, peer } => write!(f, "Passage({request:?}, {peer:?})"),
            Event::Ask { ask, peer, path, .. } => write!(f, "Ask({ask:?}, {peer:?}, {path})"),
            Event::AddPeer(session) => session.fmt(f),
            Event::RemovePeer(peer) => write!(f, "RemovePeer({peer:?})"),
            Event::Greeted(peer) => write!(f, "Greeted({peer:?})"),
            Event::Credential { peer, lifetime, .. } => write!(f, "Credential({peer:?}, {lifetime:?})"),
            Event::Provider { peer, cluster, grant, .. } => write!(f, "Provider({peer:?}, {cluster}, {grant})"),
            Event::Consumer { peer, cluster, grant, .. } => write!(f, "Consumer({peer:?}, {cluster}, {grant})"),
            Event::Gone { peer, cluster, .. } => write!(f, "Gone({peer:?}, {cluster})"),
            Event::Progress(peer, progress) => write!(f, "Progress({peer:?}, {progress:?})"),
        }
    }
}
