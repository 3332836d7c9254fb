//! What the command line and the daemon say to each other over the local socket: one JSON line asked, JSON lines answered, then the end.
//!
//! `{"verb":"invite",...}` -> `{"progress":{..}}`* -> `{"ok":{..}}` or `{"error":{"reason","message","hint"}}`. Written by `cli::socket` on
//! one side and the driver on the other; pure. Absent fields and null mean the same; unknown fields are ignored on both sides.

use miniserde::json;

/// A request. Only the fields its verb names are looked at.
#[derive(Clone, Debug, Default, PartialEq, miniserde::Serialize, miniserde::Deserialize)]
pub struct Request {
    /// `invite`, `join`, `unpeer`, `status`, `look` (a status that also searches the path MTU anew), `metrics`.
    pub verb: String,
    /// join: the ticket's line.
    pub ticket: Option<String>,
    /// invite, join: what we lend, as typed (`cpu=2,memory=1Gi,pods=50`; empty: the configured offer). join without: nothing is lent.
    pub provide: Option<String>,
    /// invite: ask for the joiner's resources too.
    pub consume: Option<bool>,
    /// invite: endpoint candidates `HOST:PORT`; none: those the daemon finds.
    pub endpoints: Option<Vec<String>>,
    /// invite: seconds the ticket is valid.
    pub valid: Option<u64>,
    /// join: a pinned ID or key may be replaced.
    pub replace: Option<bool>,
    /// unpeer, status: the peer's cluster ID.
    pub peer: Option<String>,
    /// unpeer: do not wait for the peer.
    pub force: Option<bool>,
}

/// One line of a reply: exactly one of the three.
#[derive(Clone, Debug, Default, PartialEq, miniserde::Serialize, miniserde::Deserialize)]
pub struct Line {
    /// A step that was reached; more follows.
    pub progress: Option<Progress>,
    /// The end: done.
    pub ok: Option<Done>,
    /// The end: not done, and nothing is half done.
    pub error: Option<Failure>,
}

/// A step that was reached.
#[derive(Clone, Debug, Default, PartialEq, miniserde::Serialize, miniserde::Deserialize)]
pub struct Progress {
    /// In two or three words: `tunnel up`.
    pub step: String,
    /// What is worth knowing about it, in one line.
    pub detail: String,
}

/// Why something was not done.
#[derive(Clone, Debug, Default, PartialEq, miniserde::Serialize, miniserde::Deserialize)]
pub struct Failure {
    /// One word for machines: `used`, `expired`, `unknown-peer`.
    pub reason: String,
    /// What happened, in one sentence without a full stop.
    pub message: String,
    /// What to do now; may be empty.
    pub hint: String,
}

impl Failure {
    /// A failure from its three parts.
    pub fn new(reason: &str, message: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure { reason: reason.to_owned(), message: message.into(), hint: hint.into() }
    }
}

/// What was done: the field of the verb that was asked.
#[derive(Clone, Debug, Default, PartialEq, miniserde::Serialize, miniserde::Deserialize)]
pub struct Done {
    /// invite.
    pub invited: Option<Invited>,
    /// join.
    pub joined: Option<Joined>,
    /// unpeer.
    pub left: Option<Left>,
    /// status, look.
    pub status: Option<Status>,
    /// metrics: the whole page.
    pub metrics: Option<String>,
}

/// A ticket was made.
#[derive(Clone, Debug, Default, PartialEq, miniserde::Serialize, miniserde::Deserialize)]
pub struct Invited {
    /// The line to be typed on the other side.
    pub ticket: String,
    /// Seconds it is valid.
    pub valid: u64,
    /// What is offered, empty if nothing.
    pub offers: String,
    /// What is asked, empty if nothing.
    pub asks: String,
    /// Endpoint candidates in the ticket.
    pub endpoints: Vec<String>,
    /// What should be known before it is used: all candidates are private addresses, say.
    pub warnings: Vec<String>,
}

/// A ticket was redeemed.
#[derive(Clone, Debug, Default, PartialEq, miniserde::Serialize, miniserde::Deserialize)]
pub struct Joined {
    /// The inviter's cluster ID.
    pub peer: String,
    /// Our own.
    pub id: String,
    /// Whether its resources are used here.
    pub consumes: bool,
    /// Whether ours are lent.
    pub provides: bool,
    /// Milliseconds from the request to here.
    pub took_ms: u64,
}

/// A peering has ended.
#[derive(Clone, Debug, Default, PartialEq, miniserde::Serialize, miniserde::Deserialize)]
pub struct Left {
    /// The peer's cluster ID.
    pub peer: String,
    /// Whether the peer was told; if not it is told when it comes back.
    pub told: bool,
}

/// The whole tree. Ages and lives are in seconds, sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, miniserde::Serialize, miniserde::Deserialize)]
pub struct Status {
    /// This cluster's ID.
    pub id: String,
    /// Its public key, base64.
    pub key: String,
    /// The daemon's version.
    pub version: String,
    /// The API server's version, once known: `v1.37.2`.
    pub kubernetes: Option<String>,
    /// Resident memory of the daemon.
    pub memory: u64,
    /// Seconds the daemon runs.
    pub uptime: u64,
    /// UDP port of the gateway.
    pub port: u16,
    /// Tickets that can still be redeemed.
    pub tickets: u32,
    /// What is wrong with this cluster's own side.
    pub warnings: Vec<Warning>,
    /// This cluster's API server.
    pub api: Server,
    /// What the daemon runs with, by the keys of its configuration.
    pub settings: Vec<Setting>,
    /// What was refused or dropped since the daemon began, each reason that applied.
    pub refused: Vec<Refused>,
    /// Peers that left, the newest last.
    pub left: Vec<Former>,
    /// The peers, by ID.
    pub peers: Vec<Peer>,
}

/// What is wrong.
#[derive(Clone, Debug, Default, PartialEq, miniserde::Serialize, miniserde::Deserialize)]
pub struct Warning {
    /// One word for machines; the label of the metric.
    pub reason: String,
    /// One sentence without a full stop.
    pub message: String,
}

/// An API server, as the daemon last found it.
#[derive(Clone, Debug, Default, PartialEq, miniserde::Serialize, miniserde::Deserialize)]
pub struct Server {
    /// It answers and accepts our credential.
    pub up: bool,
    /// Why it is not up; empty if it is.
    pub reason: String,
    /// It does not accept our credential.
    pub refused: bool,
    /// Seconds since it last answered well.
    pub answered: Option<u64>,
    /// How far its clock is ahead of ours, in seconds.
    pub clock_ahead: Option<i64>,
}

/// A key of the configuration with the value that is in force.
#[derive(Clone, Debug, Default, PartialEq, miniserde::Serialize, miniserde::Deserialize)]
pub struct Setting {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// How often something was refused for one reason.
#[derive(Clone, Debug, Default, PartialEq, miniserde::Serialize, miniserde::Deserialize)]
pub struct Refused {
    /// Where: `tunnel` (datagrams and packets), `rules` (packets, by the host's rules), `listener` (connections to the control end),
    /// `control` (requests there), `offload` (what objects of consumers ask for), `socket` (callers of the local socket).
    pub at: String,
    /// Why, in one word.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// A peer that left.
#[derive(Clone, Debug, Default, PartialEq, miniserde::Serialize, miniserde::Deserialize)]
pub struct Former {
    /// Its cluster ID.
    pub id: String,
    /// When, RFC 3339, by our clock.
    pub at: String,
    /// It knows.
    pub told: bool,
}

/// One peering.
#[derive(Clone, Debug, Default, PartialEq, miniserde::Serialize, miniserde::Deserialize)]
pub struct Peer {
    /// The peer's cluster ID.
    pub id: String,
    /// `joining`, `connected`, `away`, `leaving`.
    pub phase: String,
    /// Seconds in this phase.
    pub since: u64,
    /// Why it is not connected; empty if it is.
    pub reason: String,
    /// `in-band` or `out-of-band`.
    pub mode: String,
    /// Its resources are used here.
    pub consumes: bool,
    /// Ours are lent to it.
    pub provides: bool,
    /// The tunnel.
    pub tunnel: Tunnel,
    /// Its pod prefix, then its range for pods of third clusters, and what they are here.
    pub theirs: Vec<Mapped>,
    /// Our pod prefix, then our range for pods of third clusters, and what they are there.
    pub ours: Vec<Mapped>,
    /// Life of the credential we hold for its API server; none if we hold none.
    pub credential: Option<Credential>,
    /// The node that stands for it here; none if it does not provide.
    pub node: Option<Node>,
    /// What it uses of ours; none if we do not provide.
    pub lent: Option<Amounts>,
    /// Namespaces: ours there, then its here.
    pub namespaces: Vec<Namespace>,
    /// `hello` went through since the daemon began: the control end answers.
    pub linked: bool,
    /// Why our last question to its control end came to nothing; empty if it did not.
    pub trouble: String,
    /// Its API server; none if it does not provide.
    pub api: Option<Server>,
    /// How far its clock is ahead of ours, in seconds, as it last said.
    pub clock_ahead: Option<i64>,
    /// What is wrong with this peering.
    pub warnings: Vec<Warning>,
}

/// The way to a peer.
#[derive(Clone, Debug, Default, PartialEq, miniserde::Serialize, miniserde::Deserialize)]
pub struct Tunnel {
    /// Where it may be reached, as its ticket said; none if it calls us.
    pub candidates: Vec<String>,
    /// Its control end, address and port.
    pub control: String,
    /// Seconds since it was last heard; none: never since the daemon began.
    pub heard: Option<u64>,
    /// How often it was heard from another endpoint than before.
    pub moves: u32,
    /// Where its datagrams come from and ours go to; none before the first.
    pub endpoint: Option<String>,
    /// How it is reached: `direct`, `we are behind NAT`, `it is behind NAT`.
    pub reached: String,
    /// Round-trip time in milliseconds, as last measured.
    pub rtt_ms: Option<u32>,
    /// The largest packet that goes to it in one piece, in bytes.
    pub mtu: u32,
    /// Seconds since the last handshake.
    pub handshake: Option<u64>,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Packets dropped, all reasons.
    pub dropped: u64,
}

/// A prefix under two names; the same one twice if nothing is mapped.
#[derive(Clone, Debug, Default, PartialEq, miniserde::Serialize, miniserde::Deserialize)]
pub struct Mapped {
    /// As its owner knows it.
    pub original: String,
    /// As the other side sees it.
    pub image: String,
}

/// A credential's life.
#[derive(Clone, Debug, Default, PartialEq, miniserde::Serialize, miniserde::Deserialize)]
pub struct Credential {
    /// Seconds until it is renewed.
    pub renews: u64,
    /// Seconds until it ends.
    pub ends: u64,
}

/// A virtual node.
#[derive(Clone, Debug, Default, PartialEq, miniserde::Serialize, miniserde::Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Whether it is Ready.
    pub ready: bool,
    /// Why it is not; empty if it is.
    pub reason: String,
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// Used and in all.
    pub amounts: Amounts,
}

/// Resources used, and in all.
#[derive(Clone, Debug, Default, PartialEq, miniserde::Serialize, miniserde::Deserialize)]
pub struct Amounts {
    /// Thousandths of a processor used; none: not known on this side.
    pub cpu_used: Option<u64>,
    /// Thousandths of a processor in all.
    pub cpu: u64,
    /// Bytes of memory used; none: not known on this side.
    pub memory_used: Option<u64>,
    /// Bytes of memory in all.
    pub memory: u64,
    /// Pods used.
    pub pods_used: u32,
    /// Pods in all.
    pub pods: u32,
}

/// An offloaded namespace.
#[derive(Clone, Debug, Default, PartialEq, miniserde::Serialize, miniserde::Deserialize)]
pub struct Namespace {
    /// Its name at home.
    pub home: String,
    /// The twin's name.
    pub twin: String,
    /// True if home is here; false if the twin is.
    pub here: bool,
    /// `Local`, `Remote`, `LocalAndRemote`.
    pub strategy: String,
    /// `Accepted`, `CreationLoopBackOff`, `Terminating`.
    pub phase: String,
    /// Pods at the provider.
    pub pods: u32,
}

impl Request {
    /// A request for `verb` with nothing else set.
    pub fn new(verb: &str) -> Request {
        Request { verb: verb.to_owned(), ..Request::default() }
    }

    /// Reads a request line.
    pub fn read(line: &str) -> Result<Request, Failure> {
        json::from_str(line).map_err(|_| Failure::new("bad-request", "the request is not understood", "use the sluice command of the daemon's own version"))
    }

    /// The request as a line, without its newline.
    pub fn line(&self) -> String {
        json::to_string(self)
    }
}

impl Line {
    /// A step that was reached, as a line without its newline.
    pub fn progress(step: &str, detail: &str) -> String {
        json::to_string(&Line { progress: Some(Progress { step: step.to_owned(), detail: detail.to_owned() }), ..Line::default() })
    }

    /// The end, done.
    pub fn ok(done: Done) -> String {
        json::to_string(&Line { ok: Some(done), ..Line::default() })
    }

    /// The end, not done.
    pub fn error(failure: Failure) -> String {
        json::to_string(&Line { error: Some(failure), ..Line::default() })
    }

    /// Reads a reply line; `None` if it is none of the three.
    pub fn read(line: &str) -> Option<Line> {
        json::from_str::<Line>(line).ok().filter(|l| l.progress.is_some() || l.ok.is_some() || l.error.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_needs_only_the_fields_of_its_verb() {
        assert_eq!(Request::read(r#"{"verb":"status"}"#), Ok(Request::new("status")));
        assert_eq!(Request::read(r#"{"verb":"status","later":[1]}"#), Ok(Request::new("status")));
        assert_eq!(Request::read("{}").unwrap_err().reason, "bad-request");
        let request = Request { provide: Some(String::new()), endpoints: Some(vec!["a:1".into()]), valid: Some(900), ..Request::new("invite") };
        assert_eq!(Request::read(&request.line()), Ok(request));
    }

    #[test]
    fn reply_lines_are_one_of_three() {
        let status = Status { id: "a".into(), peers: vec![Peer { id: "b".into(), ..Peer::default() }], ..Status::default() };
        let done = Done { status: Some(status), ..Done::default() };
        assert_eq!(Line::read(&Line::ok(done.clone())).unwrap().ok, Some(done));
        assert_eq!(Line::read(&Line::progress("tunnel up", "38 ms")).unwrap().progress.unwrap().step, "tunnel up");
        assert_eq!(Line::read(&Line::error(Failure::new("used", "m", "h"))).unwrap().error.unwrap().hint, "h");
        for text in ["", "{}", "[]", "null", "{\"ok\":null}"] {
            assert_eq!(Line::read(text), None, "{text}");
        }
    }
}
