//! What a diagnosis is judged by: plain values, gathered by `gather`, judged by `judge`.

use std::net::SocketAddr;

use crate::cli::protocol::Status;
use crate::identity::Prefix;
use crate::shell::inspect;

/// Everything that was found.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// The version of this command.
    pub(super) version: String,
    /// Why the configuration cannot be used.
    pub(super) configuration: Option<String>,
    pub(super) settings: Settings,
    pub(super) host: inspect::Host,
    pub(super) state: inspect::State,
    pub(super) api: Api,
    pub(super) daemon: Daemon,
    /// Where peers may be reached, by the candidate's text.
    pub(super) places: Vec<Place>,
}

/// What the daemon runs with, or would.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) state: String,
    pub(super) socket: String,
    pub(super) kubeconfig: String,
    pub(super) interface: String,
    pub(super) port: u16,
    pub(super) pods: Prefix,
    pub(super) services: Prefix,
    pub(super) external: Prefix,
}

/// Whether a daemon answers.
#[derive(Clone, Debug)]
pub(super) enum Daemon {
    /// None is there.
    Absent,
    /// One is there and says nothing, or nothing that can be read: why.
    Mute(String),
    /// The socket cannot be opened by this user.
    Forbidden,
    /// It answers.
    Answers(Box<Status>),
}

/// The API server, looked at with the administrator's kubeconfig.
#[derive(Clone, Debug, Default)]
pub(super) struct Api {
    /// Where it is: `https://127.0.0.1:6443`.
    pub(super) server: String,
    /// Why there is no way to it.
    pub(super) kubeconfig: Option<String>,
    /// Why it does not answer.
    pub(super) silent: Option<String>,
    /// Why it does not let the administrator in.
    pub(super) refused: Option<String>,
    /// Major and minor.
    pub(super) version: Option<(u32, u32)>,
    /// How far its clock is ahead of ours, in seconds.
    pub(super) clock_ahead: Option<i64>,
    /// The real nodes, once listed.
    pub(super) nodes: Option<Vec<Node>>,
    /// Objects of ours that are not there, and those that are not ours.
    pub(super) missing: Vec<String>,
    pub(super) foreign: Vec<String>,
    /// All questions were answered.
    pub(super) whole: bool,
}

/// A real node.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) ready: bool,
    pub(super) pods: Option<String>,
}

/// A place where a peer may be reached.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// As the ticket has it: `hub.example.org:51820`.
    pub(super) text: String,
    /// What the name resolves to, or why it does not.
    pub(super) addresses: Result<Vec<SocketAddr>, String>,
    /// Why this host has no way there.
    pub(super) unrouted: Option<String>,
}
