//! The API servers: carries out [`Call`]s and holds watches, at home and at peers. Called by the driver alone.
//!
//! A call is a task that answers exactly once into a mailbox. At most `CALLS` are under way, at most four at one server, and peers
//! together leave two for home, so that a dead peer cannot hold up the lease. Only one exchange at a time may hold more than
//! [`LARGE`] bytes. It decides nothing: what to ask and what an answer means is the cores' business.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time::timeout;

use super::dial::{STEP, Way};
use super::http::{Fault, Method, Request, Taken};
use super::kubeconfig::{Access, Credential};
pub use super::pool::Target;
use super::pool::{Link, Server};
use super::tally::Tally;
use super::tls;
use super::watches::Watches;
use crate::budget::{CALLS, CALLS_HOME, CALLS_WAITING, LARGE, OBJECT_MAX};
use crate::clock::WallTime;
use crate::kube::call::{Body, Call, Cluster, Forge, Unfit, Verb};
use crate::kube::reply::{Reply, from_status};

/// Under which name our fields are kept in objects we write.
pub const FIELD_MANAGER: &str = "sluice";
/// How long one call may take from its first byte, all its steps together.
const WHOLE: Duration = Duration::from_secs(30);

/// What the driver should know beyond answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A call or watch was answered 401: the credential should be renewed.
    Unauthorized(Cluster),
}

/// Where and how to speak to the server of a kubeconfig or mounted account. A host name is looked up once, here.
pub async fn target(access: &Access, times: &tls::Times) -> Result<Target, String> {
    let (identity, token) = match &access.credential {
        Credential::Token(token) | Credential::TokenFile(_, token) => (None, Some(token.clone())),
        Credential::Certificate(identity) => (Some(identity), None),
    };
    let tls = tls::Client::new(&access.ca, &access.name, identity, times)?;
    let to = match access.host.parse() {
        Ok(address) => SocketAddr::new(address, access.port),
        Err(_) => {
            let found = timeout(STEP, tokio::net::lookup_host((access.host.as_str(), access.port))).await;
            let found = found.map_err(|_| format!("looking up {} took too long", access.host))?;
            found.ok().and_then(|mut all| all.next()).ok_or_else(|| format!("{} has no address", access.host))?
        }
    };
    let host =
        if to.is_ipv6() && access.host.contains(':') { format!("[{}]:{}", access.host, access.port) } else { format!("{}:{}", access.host, access.port) };
    Ok(Target { way: Way { to, through: None }, passage: None, tls, host, token })
}

/// A peer's server behind its API passage. `way` leads to its control end; `bearer` opens the passage; `ca`, `name` and `token` are
/// the credential it issued.
pub fn passage(way: Way, bearer: String, ca: &[u8], name: &str, token: String, times: &tls::Times) -> Result<Target, String> {
    let tls = tls::Client::new(ca, name, None, times)?;
    Ok(Target { way, passage: Some(bearer), tls, host: name.to_owned(), token: Some(token) })
}

/// A handle to all API servers; clones share them.
#[derive(Clone)]
pub struct Api(pub(super) Arc<Shared>);

pub(super) struct Shared {
    servers: Mutex<BTreeMap<Cluster, Arc<Server>>>,
    all: Semaphore,
    peers: Semaphore,
    /// The right to hold more than [`LARGE`] bytes of one object.
    pub(super) large: Semaphore,
    waiting: AtomicUsize,
    notices: mpsc::Sender<Notice>,
    dice: AtomicU64,
    answer_max: usize,
    pub(super) tally: Tally,
    pub(super) watches: Watches,
}

impl Api {
    /// Without any server yet. `seed` is for jitter only; notices that find the mailbox full are dropped, their cause recurs.
    pub fn new(notices: mpsc::Sender<Notice>, seed: u64) -> Api {
        Api(Arc::new(Shared {
            servers: Mutex::default(),
            all: Semaphore::new(CALLS),
            peers: Semaphore::new(CALLS - CALLS_HOME),
            large: Semaphore::new(1),
            waiting: AtomicUsize::new(0),
            notices,
            dice: AtomicU64::new(seed | 1),
            answer_max: OBJECT_MAX,
            tally: Tally::default(),
            watches: Watches::default(),
        }))
    }

    /// Accepts answers of up to so many bytes, where that is more than an object may have: for lists. To be said before the handle is cloned.
    pub fn with_answers_up_to(mut self, bytes: usize) -> Api {
        if let Some(shared) = Arc::get_mut(&mut self.0) {
            shared.answer_max = bytes;
        }
        self
    }

    /// Names a server, or replaces it: all its connections are closed then and its watches cut.
    pub fn set_target(&self, cluster: Cluster, target: Target) {
        let old = self.0.servers.lock().unwrap_or_else(PoisonError::into_inner).insert(cluster, Arc::new(Server::new(target)));
        self.0.tally.forget(cluster);
        self.0.watches.forgive(cluster);
        if let Some(old) = old {
            old.drop_connections();
        }
    }

    /// Forgets a server; calls under way are answered `Unreachable`, watches `Cut`.
    pub fn remove_target(&self, cluster: Cluster) {
        if let Some(old) = self.0.servers.lock().unwrap_or_else(PoisonError::into_inner).remove(&cluster) {
            old.drop_connections();
        }
        self.0.tally.forget(cluster);
        self.0.watches.forgive(cluster);
    }

    /// A renewed token, used from the next request on; open watches go on under the old one.
    pub fn set_token(&self, cluster: Cluster, token: String) {
        if let Some(server) = self.0.server(cluster) {
            server.set_token(token);
            self.0.watches.forgive(cluster);
        }
    }

    /// Closes all connections of a server, because its path came back: calls under way are answered `Unreachable`, watches are
    /// `Cut` and may be opened again at once.
    pub fn drop_connections(&self, cluster: Cluster) {
        if let Some(server) = self.0.server(cluster) {
            server.drop_connections();
            self.0.watches.forgive(cluster);
        }
    }

    /// Whether another call is welcome. The driver asks before it takes one from a core.
    pub fn has_room(&self) -> bool {
        self.0.waiting.load(Ordering::Relaxed) < CALLS_WAITING
    }

    /// Carries out a call; the answer comes into `answers` with `tag`. Beyond [`CALLS_WAITING`] the answer is `Throttled`.
    pub fn call<T: Send + 'static>(&self, tag: T, call: Call, answers: mpsc::Sender<(T, Reply)>) {
        let shared = self.0.clone();
        let full = shared.waiting.fetch_add(1, Ordering::Relaxed) >= CALLS_WAITING;
        tokio::spawn(async move {
            let reply = if full { Reply::Throttled(Duration::from_secs(1)) } else { shared.carry_out(call).await };
            shared.waiting.fetch_sub(1, Ordering::Relaxed);
            let _ = answers.send((tag, reply)).await;
        });
    }

    /// What has come of requests so far.
    pub fn tally(&self) -> &Tally {
        &self.0.tally
    }

    /// Carries out a call in the caller's own time.
    pub async fn answer(&self, call: Call) -> Reply {
        self.0.carry_out(call).await
    }
}

impl Shared {
    pub(super) fn server(&self, cluster: Cluster) -> Option<Arc<Server>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).get(&cluster).cloned()
    }

    pub(super) fn notice(&self, notice: Notice) {
        let _ = self.notices.try_send(notice);
    }

    /// A number below `limit` for jitter (an LCG's high bits); not for secrets.
    pub(super) fn roll(&self, limit: u64) -> u64 {
        let step = |x: u64| x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let old = self.dice.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |x| Some(step(x))).unwrap_or(0);
        (step(old) >> 33) % limit.max(1)
    }

    /// Keeps a connection for the next exchange.
    pub(super) fn put_back(server: &Arc<Server>, link: Link) {
        if server.put(link) {
            let server = server.clone();
            tokio::spawn(async move { server.sweep().await });
        }
    }

    async fn carry_out(&self, call: Call) -> Reply {
        let Some(server) = self.server(call.to) else {
            return Reply::Unreachable("this API server is not known".to_owned());
        };
        // Narrow to wide, so that a call that waits for its own server holds nothing others need.
        let to = call.to;
        let Ok(_own) = server.calls.acquire().await else { return closed() };
        let _peers = match call.to {
            Cluster::Home => None,
            Cluster::Peer(_) => self.peers.acquire().await.ok(),
        };
        let Ok(_all) = self.all.acquire().await else { return closed() };
        let mut dropped = server.dropped.subscribe();
        tokio::select! {
            reply = timeout(WHOLE, self.perform(&server, call)) => reply.unwrap_or_else(|_| {
                self.tally.failed(to, "a call took longer than 30 s");
                Reply::Unreachable("the call took longer than 30 s".to_owned())
            }),
            _ = dropped.changed() => Reply::Unreachable("the connections to this API server were dropped".to_owned()),
        }
    }

    async fn perform(&self, server: &Arc<Server>, call: Call) -> Reply {
        let mut room = Room { large: &self.large, held: None, most: self.answer_max };
        let body = match call.body {
            Body::None => None,
            Body::Json(json) => Some(json),
            Body::Forge(forge) => match self.forge(forge, &mut room).await {
                Ok(json) => Some(json),
                Err(reply) => return reply,
            },
        };
        if body.as_ref().is_some_and(|b| b.len() > OBJECT_MAX) {
            return Reply::Refused(format!("the object to be sent is larger than {OBJECT_MAX} bytes"));
        }
        self.request(call.to, server, call.verb, &call.path, body.as_deref(), &mut room).await
    }

    /// Gets the source and makes the body. What keeps the source from being read is the call's answer: gone is `Unfit(Changed)`.
    async fn forge(&self, forge: Forge, room: &mut Room<'_>) -> Result<String, Reply> {
        let Some(server) = self.server(forge.from) else {
            return Err(Reply::Unreachable("the source's API server is not known".to_owned()));
        };
        match self.request(forge.from, &server, Verb::Get, &forge.path, None, room).await {
            Reply::Done(source) => (forge.make)(&source).map_err(Reply::Unfit),
            Reply::NotFound => Err(Reply::Unfit(Unfit::Changed)),
            Reply::Unauthorized => Err(Reply::Unreachable("the source's API server does not accept the credential".to_owned())),
            Reply::Refused(why) => Err(Reply::Refused(format!("the source cannot be read: {why}"))),
            Reply::Unreachable(why) => Err(Reply::Unreachable(format!("the source cannot be read: {why}"))),
            other => Err(other),
        }
    }

    async fn request(&self, cluster: Cluster, server: &Arc<Server>, verb: Verb, path: &str, body: Option<&str>, room: &mut Room<'_>) -> Reply {
        let target = with_parameters(verb, path);
        let (host, token) = server.credential();
        let (method, content_type) = match verb {
            Verb::Get => (Method::Get, ""),
            Verb::Create => (Method::Post, "application/json"),
            Verb::Apply => (Method::Patch, "application/apply-patch+yaml"),
            Verb::Merge => (Method::Patch, "application/merge-patch+json"),
            Verb::Delete => (Method::Delete, "application/json"),
        };
        let body = body.map(|json| (content_type, json.as_bytes()));
        let request = Request { method, target: &target, host: &host, bearer: token.as_deref(), body };
        let mut idle = server.take_idle();
        loop {
            let reused = idle.is_some();
            let link = match idle.take() {
                Some(link) => link,
                None => match server.open().await {
                    Ok(link) => link,
                    Err(why) => {
                        self.tally.failed(cluster, &why);
                        return Reply::Unreachable(why);
                    }
                },
            };
            match exchange(server, link, &request, room).await {
                Ok((status, retry_after, date, body)) => {
                    self.tally.answered(cluster, status, date);
                    if status == 401 {
                        self.notice(Notice::Unauthorized(cluster));
                    }
                    return from_status(status, body, retry_after);
                }
                // The server closed an idle connection just then. A GET can be sent again; so can a POST, a second one is told 409.
                Err(Fault::Unanswered) if reused && matches!(verb, Verb::Get | Verb::Create) => {}
                Err(Fault::TooLarge("the answer")) => return Reply::Refused(format!("the answer is larger than {} bytes", self.answer_max)),
                Err(fault) => {
                    self.tally.failed(cluster, &fault.to_string());
                    return Reply::Unreachable(fault.to_string());
                }
            }
        }
    }
}

fn closed() -> Reply {
    Reply::Unreachable("the daemon is stopping".to_owned())
}

/// The path with what a verb needs in its query.
fn with_parameters(verb: Verb, path: &str) -> String {
    let mark = if path.contains('?') { '&' } else { '?' };
    match verb {
        Verb::Get | Verb::Delete => path.to_owned(),
        Verb::Create | Verb::Merge => format!("{path}{mark}fieldManager={FIELD_MANAGER}"),
        Verb::Apply => format!("{path}{mark}fieldManager={FIELD_MANAGER}&force=true"),
    }
}

/// One request and its whole answer; the connection goes back to the pool if it may carry another.
async fn exchange(
    server: &Arc<Server>,
    mut link: Link,
    request: &Request<'_>,
    room: &mut Room<'_>,
) -> Result<(u16, Option<u64>, Option<WallTime>, Vec<u8>), Fault> {
    let mut response = link.exchange(request, STEP).await?;
    let body = whole_body(&mut link, &mut response, room).await?;
    if response.leaves_reusable() {
        Shared::put_back(server, link);
    }
    Ok((response.status, response.retry_after, response.date, body))
}

async fn whole_body(link: &mut Link, response: &mut super::http::Response, room: &mut Room<'_>) -> Result<Vec<u8>, Fault> {
    let mut whole = Vec::new();
    loop {
        let taken = {
            let mut piece = [0; 4096];
            let taken = link.take(response, &mut piece)?;
            if let Taken::Bytes(n) = taken {
                whole.extend_from_slice(&piece[..n]);
            }
            taken
        };
        match taken {
            Taken::Bytes(_) if whole.len() > room.most => return Err(Fault::TooLarge("the answer")),
            Taken::Bytes(_) if whole.len() > LARGE => room.claim().await,
            Taken::Bytes(_) => {}
            Taken::Nothing => link.fill(response, STEP).await?,
            Taken::End => return Ok(whole),
        }
    }
}

/// The right of one call to hold a large object, claimed when it turns out to be one and kept to its end; and the most it may hold.
struct Room<'a> {
    large: &'a Semaphore,
    held: Option<SemaphorePermit<'a>>,
    most: usize,
}

impl Room<'_> {
    async fn claim(&mut self) {
        if self.held.is_none() {
            self.held = self.large.acquire().await.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::PeerId;
    use crate::shell::testing::{Fake, Then, api, response, serve};

    const POD: &str = "/api/v1/namespaces/a/pods/b";

    fn call(to: Cluster, verb: Verb, path: &str, body: Body) -> Call {
        Call { to, verb, path: path.to_owned(), body }
    }

    async fn ask(api: &Api, call: Call) -> Reply {
        let (answers, mut heard) = mpsc::channel(1);
        api.call((), call, answers);
        timeout(Duration::from_secs(8), heard.recv()).await.expect("an answer in time").expect("an answer").1
    }

    async fn at_home(script: impl Fn(usize, &str) -> Then + Send + Sync + 'static) -> (Api, mpsc::Receiver<Notice>, Fake) {
        let fake = serve(script).await;
        let (api, notices) = api();
        api.set_target(Cluster::Home, fake.target());
        (api, notices, fake)
    }

    #[tokio::test]
    async fn every_verb_is_sent_as_the_api_server_wants_it() {
        let (api, _notices, fake) = at_home(|_, _| Then::Send(response(200, "{}"))).await;
        for (verb, body, line, content_type) in [
            (Verb::Get, Body::None, "GET /api/v1/namespaces/a/pods/b HTTP/1.1", None),
            (Verb::Create, Body::Json("{1}".into()), "POST /api/v1/namespaces/a/pods/b?fieldManager=sluice HTTP/1.1", Some("application/json")),
            (
                Verb::Apply,
                Body::Json("{2}".into()),
                "PATCH /api/v1/namespaces/a/pods/b?fieldManager=sluice&force=true HTTP/1.1",
                Some("application/apply-patch+yaml"),
            ),
            (Verb::Merge, Body::Json("{3}".into()), "PATCH /api/v1/namespaces/a/pods/b?fieldManager=sluice HTTP/1.1", Some("application/merge-patch+json")),
            (Verb::Delete, Body::Json("{4}".into()), "DELETE /api/v1/namespaces/a/pods/b HTTP/1.1", Some("application/json")),
            (Verb::Delete, Body::None, "DELETE /api/v1/namespaces/a/pods/b HTTP/1.1", None),
        ] {
            let sent = if let Body::Json(json) = &body { json.clone() } else { String::new() };
            assert_eq!(ask(&api, call(Cluster::Home, verb, POD, body)).await, Reply::Done(b"{}".to_vec()));
            let heard = fake.heard().pop().expect("a request");
            assert!(heard.starts_with(&format!("{line}\r\n")), "{heard}");
            assert!(heard.ends_with(&format!("\r\n\r\n{sent}")), "{heard}");
            assert!(
                heard.contains("authorization: Bearer token-1\r\n") && heard.contains(concat!("user-agent: sluice/", env!("CARGO_PKG_VERSION"))),
                "{heard}"
            );
            assert_eq!(heard.lines().find_map(|l| l.strip_prefix("content-type: ")), content_type);
        }
        assert_eq!(fake.connections(), 1, "one connection serves them all");
        api.set_token(Cluster::Home, "token-2".into());
        ask(&api, call(Cluster::Home, Verb::Get, "/x?y=z", Body::None)).await;
        assert!(fake.heard().pop().expect("a request").contains("Bearer token-2"));
    }

    #[tokio::test]
    async fn a_forged_call_reads_its_source_first() {
        let (api, _notices, fake) = at_home(|_, request| match request {
            r if r.starts_with("GET /gone") => Then::Send(response(404, "{}")),
            r if r.starts_with("GET /source") => Then::Send(response(200, "{\"n\":1}")),
            _ => Then::Send(response(201, "made")),
        })
        .await;
        let forge = |path: &str, make: fn(&[u8]) -> Result<String, Unfit>| Body::Forge(Forge { from: Cluster::Home, path: path.into(), make: Box::new(make) });
        let good = forge("/source", |json| Ok(format!("[{}]", String::from_utf8_lossy(json))));
        assert_eq!(ask(&api, call(Cluster::Home, Verb::Create, "/pods", good)).await, Reply::Done(b"made".to_vec()));
        assert!(fake.heard()[1].ends_with("\r\n\r\n[{\"n\":1}]"));
        let gone = forge("/gone", |_| Ok(String::new()));
        assert_eq!(ask(&api, call(Cluster::Home, Verb::Create, "/pods", gone)).await, Reply::Unfit(Unfit::Changed));
        let unfit = forge("/source", |_| Err(Unfit::Refused("no".into())));
        assert_eq!(ask(&api, call(Cluster::Home, Verb::Create, "/pods", unfit)).await, Reply::Unfit(Unfit::Refused("no".into())));
        assert_eq!(fake.heard().len(), 4, "nothing is sent without a body");
    }

    #[tokio::test]
    async fn a_reused_connection_that_closes_is_replaced_for_get_and_create_only() {
        for (verb, answered) in [(Verb::Get, true), (Verb::Create, true), (Verb::Merge, false), (Verb::Delete, false)] {
            let (api, _notices, fake) = at_home(|n, _| if n == 1 { Then::Close(Vec::new()) } else { Then::Send(response(200, "{}")) }).await;
            assert_eq!(ask(&api, call(Cluster::Home, Verb::Get, "/first", Body::None)).await, Reply::Done(b"{}".to_vec()));
            let reply = ask(&api, call(Cluster::Home, verb, POD, Body::Json("{}".into()))).await;
            assert_eq!(matches!(reply, Reply::Done(_)), answered, "{verb:?}: {reply:?}");
            assert_eq!(fake.connections(), if answered { 2 } else { 1 });
        }
        let (api, _notices, fake) = at_home(|_, _| Then::Close(Vec::new())).await;
        assert!(matches!(ask(&api, call(Cluster::Home, Verb::Get, POD, Body::None)).await, Reply::Unreachable(_)));
        assert_eq!(fake.heard().len(), 1, "a fresh connection that closes is not tried again");
    }

    #[tokio::test]
    async fn refusals_reach_the_caller_and_a_401_the_driver() {
        let (api, mut notices, _fake) = at_home(|n, _| {
            Then::Send(match n {
                0 => response(401, "{}"),
                1 => response(409, "{}"),
                2 => response(422, "{\"message\":\"no such field\"}"),
                3 => b"HTTP/1.1 429 X\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n".to_vec(),
                _ => response(500, "boom"),
            })
        })
        .await;
        let mut replies = Vec::new();
        for _ in 0..5 {
            replies.push(ask(&api, call(Cluster::Home, Verb::Get, POD, Body::None)).await);
        }
        let expected = [
            Reply::Unauthorized,
            Reply::Conflict,
            Reply::Refused("no such field".into()),
            Reply::Throttled(Duration::from_secs(3)),
            Reply::Unreachable("the API server answered 500: boom".into()),
        ];
        assert_eq!(replies, expected);
        assert_eq!(notices.try_recv(), Ok(Notice::Unauthorized(Cluster::Home)));
        assert!(notices.try_recv().is_err());
    }

    #[tokio::test]
    async fn an_answer_may_be_as_large_as_an_object_and_no_larger() {
        let (api, _notices, _fake) = at_home(|n, _| Then::Send(response(200, &"x".repeat(OBJECT_MAX + n)))).await;
        assert!(matches!(ask(&api, call(Cluster::Home, Verb::Get, POD, Body::None)).await, Reply::Done(body) if body.len() == OBJECT_MAX));
        let larger = ask(&api, call(Cluster::Home, Verb::Get, POD, Body::None)).await;
        assert_eq!(larger, Reply::Refused("the answer is larger than 1048576 bytes".into()));
        let sent = ask(&api, call(Cluster::Home, Verb::Create, POD, Body::Json("x".repeat(OBJECT_MAX + 1)))).await;
        assert!(matches!(sent, Reply::Refused(_)));
    }

    #[tokio::test]
    async fn dropping_connections_answers_what_is_under_way() {
        let (api, _notices, fake) = at_home(|_, _| Then::Hang(Vec::new())).await;
        let (answers, mut heard) = mpsc::channel(1);
        api.call(9, call(Cluster::Home, Verb::Get, POD, Body::None), answers);
        while fake.heard().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        api.drop_connections(Cluster::Home);
        let reply = timeout(Duration::from_secs(1), heard.recv()).await.expect("at once");
        assert!(matches!(reply, Some((9, Reply::Unreachable(_)))), "{reply:?}");
    }

    #[tokio::test]
    async fn dead_peers_do_not_hold_up_home() {
        let (api, _notices, _home) = at_home(|_, _| Then::Send(response(200, "{}"))).await;
        let dead = serve(|_, _| Then::Hang(Vec::new())).await;
        let (answers, _heard) = mpsc::channel(64);
        for peer in 0..3 {
            api.set_target(Cluster::Peer(PeerId(peer)), dead.target());
            for n in 0..8 {
                api.call(n, call(Cluster::Peer(PeerId(peer)), Verb::Get, POD, Body::None), answers.clone());
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(api.has_room());
        assert_eq!(ask(&api, call(Cluster::Home, Verb::Get, POD, Body::None)).await, Reply::Done(b"{}".to_vec()));
        assert_eq!(dead.heard().len(), CALLS - CALLS_HOME);
    }

    #[tokio::test]
    async fn too_many_calls_are_told_to_wait() {
        let (api, _notices, _fake) = at_home(|_, _| Then::Hang(Vec::new())).await;
        let (answers, _heard) = mpsc::channel(64);
        for n in 0..CALLS_WAITING {
            api.call(n, call(Cluster::Home, Verb::Get, POD, Body::None), answers.clone());
        }
        assert!(!api.has_room());
        assert_eq!(ask(&api, call(Cluster::Home, Verb::Get, POD, Body::None)).await, Reply::Throttled(Duration::from_secs(1)));
    }

    #[tokio::test]
    async fn a_server_that_is_not_known_or_not_there_is_unreachable() {
        let (api, _notices) = api();
        assert!(matches!(ask(&api, call(Cluster::Home, Verb::Get, POD, Body::None)).await, Reply::Unreachable(_)));
        let fake = serve(|_, _| Then::Hang(Vec::new())).await;
        let mut target = fake.target();
        target.way.to.set_port(1);
        api.set_target(Cluster::Home, target);
        let Reply::Unreachable(why) = ask(&api, call(Cluster::Home, Verb::Get, POD, Body::None)).await else { panic!("reached") };
        assert!(why.starts_with("cannot connect"), "{why}");
    }
}
