//! One API server: how to reach it, and its few connections kept for the next call or watch.
//!
//! Home is TCP and TLS; a peer is TCP to its control end, CONNECT through its API passage, TLS end to end right behind it. `api` and
//! `watches` take a connection, and put it back when an exchange has left it reusable. It sends no request of its own but CONNECT.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use super::dial::{STEP, Way, dial};
use super::http::{Connection, Method, Request, Tunnel};
use super::tls;
use crate::budget::{CALLS_EACH, CONNECTIONS_IDLE};

/// How long an idle connection is kept; API servers keep theirs for at least 90 s.
const IDLE_FOR: Duration = Duration::from_secs(30);

/// How an API server is reached and under which credential.
#[derive(Clone)]
pub struct Target {
    /// The server, or the peer's control end.
    pub way: Way,
    /// The control bearer for the peer's API passage; none: the server is reached directly.
    pub passage: Option<String>,
    /// Whom to trust, under which name, as whom.
    pub tls: tls::Client,
    /// The Host header.
    pub host: String,
    /// The ServiceAccount token; none if the client certificate is the credential.
    pub token: Option<String>,
}

/// A connection to an API server.
pub(super) type Link = Connection<tls::Stream<Tunnel<TcpStream>>>;

/// The state of one API server's connections.
pub(super) struct Server {
    target: Mutex<Target>,
    idle: Mutex<Vec<(Link, Instant)>>,
    /// One permit a call under way.
    pub(super) calls: Semaphore,
    /// Counts the times all connections were dropped; whoever waits on one gives up when it changes.
    pub(super) dropped: watch::Sender<u64>,
}

impl Server {
    pub(super) fn new(target: Target) -> Server {
        Server { target: Mutex::new(target), idle: Mutex::default(), calls: Semaphore::new(CALLS_EACH), dropped: watch::Sender::new(0) }
    }

    /// The Host header and the token of now.
    pub(super) fn credential(&self) -> (String, Option<String>) {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        (target.host.clone(), target.token.clone())
    }

    pub(super) fn set_token(&self, token: String) {
        self.target.lock().unwrap_or_else(PoisonError::into_inner).token = Some(token);
    }

    /// Closes what is idle and makes everything under way give up.
    pub(super) fn drop_connections(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.dropped.send_modify(|n| *n += 1);
    }

    /// An idle connection that still seems good.
    pub(super) fn take_idle(&self) -> Option<Link> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((mut link, since)) = idle.pop() {
            if since.elapsed() < IDLE_FOR && link.is_quiet() {
                return Some(link);
            }
        }
        None
    }

    /// Keeps a connection for later; the one idle longest makes room. Returns whether it is the first, so that someone must sweep.
    pub(super) fn put(&self, link: Link) -> bool {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() == CONNECTIONS_IDLE {
            idle.remove(0);
        }
        idle.push((link, Instant::now()));
        idle.len() == 1
    }

    /// Closes connections as they grow old, until none is left.
    pub(super) async fn sweep(&self) {
        loop {
            tokio::time::sleep(IDLE_FOR).await;
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|(_, since)| since.elapsed() < IDLE_FOR);
            if idle.is_empty() {
                idle.shrink_to_fit();
                return;
            }
        }
    }

    /// Opens a connection, or says which step failed and why.
    pub(super) async fn open(&self) -> Result<Link, String> {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let stream = dial(&target.way).await?;
        let tunnel = match &target.passage {
            None => Tunnel::direct(stream),
            Some(bearer) => {
                let request = Request { method: Method::Connect, target: "api:443", host: "api:443", bearer: Some(bearer), body: None };
                Tunnel::through(stream, &request, STEP).await.map_err(|e| format!("the peer's API passage: {e}"))?
            }
        };
        let handshake = timeout(STEP, target.tls.connect(tunnel)).await.map_err(|_| "the TLS handshake took too long".to_owned())?;
        handshake.map(Connection::new).map_err(|e| match e.kind() {
            std::io::ErrorKind::ConnectionRefused => format!("the peer's API passage: {e}"),
            _ => format!("the TLS handshake failed: {e}"),
        })
    }
}
