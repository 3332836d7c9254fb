//! The port on which the metrics are read: one bounded request a connection, `GET /metrics`, and one page back.
//!
//! On a loopback address anybody of this host may read; on any other only who shows the bearer in the state directory. The page is made
//! by the driver when it is asked for. A few places; who finds them taken is closed, and counted.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::entropy;
use super::http::{Connection, Fault};
use super::metrics::TYPE;
use crate::budget::SCRAPES;

/// The bearer's file in the state directory.
pub const TOKEN: &str = "metrics-token";
/// How long a caller may take to ask, and to take the page.
const STEP: Duration = Duration::from_secs(5);
/// How long the driver may take to make the page; it looks around first.
const ANSWERING: Duration = Duration::from_secs(10);
/// A pause after an accept that failed for want of something.
const WANT: Duration = Duration::from_millis(200);

/// Somebody wants the page.
pub type Wanted = oneshot::Sender<String>;

/// Why a caller got no page; the names are the metric's labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// All places are taken.
    Full,
    /// No whole request in time.
    Slow,
    /// No request of HTTP/1.1, or too large a one.
    NotHttp,
    /// No bearer, or a wrong one.
    Unauthenticated,
    /// Another path or method.
    Path,
    /// The driver did not answer in time.
    Unanswered,
}

impl Refusal {
    /// All of them, in the order of the counts.
    pub const ALL: [(Refusal, &'static str); 6] = [
        (Refusal::Full, "full"),
        (Refusal::Slow, "slow"),
        (Refusal::NotHttp, "not_http"),
        (Refusal::Unauthenticated, "unauthenticated"),
        (Refusal::Path, "path"),
        (Refusal::Unanswered, "unanswered"),
    ];
}

/// How often each [`Refusal`] was given.
pub type Refusals = Arc<[AtomicU64; Refusal::ALL.len()]>;

/// Opens the port.
///
/// # Errors
/// When the address is taken or not ours, with what to do.
pub fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    let open = || -> io::Result<TcpListener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(SCRAPES as u32)
    };
    open().map_err(|e| format!("cannot serve metrics on {address}: {e}; choose another address with --metrics, or --metrics off"))
}

/// The bearer that callers from elsewhere must show: read from the state directory, or made there; root's alone, and the same after a restart.
///
/// # Errors
/// When it cannot be read or made, or others may read it.
pub fn token(state: &Path) -> Result<String, String> {
    let path: PathBuf = state.join(TOKEN);
    let at = |e: io::Error| format!("{}: {e}", path.display());
    let mut file = match std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let bytes: [u8; 32] = entropy::bytes();
            let text: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(at)?;
            file.write_all(format!("{text}\n").as_bytes()).and_then(|()| file.sync_all()).map_err(|e| {
                // Half a bearer must not be found by the next start.
                let _ = std::fs::remove_file(&path);
                at(e)
            })?;
            return Ok(text);
        }
        Err(e) => return Err(at(e)),
    };
    let found = file.metadata().map_err(at)?;
    if !found.is_file() || found.mode() & 0o077 != 0 {
        return Err(format!("{} is not root's alone (mode {:04o}): remove it, a new one is made at the next start", path.display(), found.mode() & 0o7777));
    }
    let mut text = String::new();
    (&mut file).take(1024).read_to_string(&mut text).map_err(at)?;
    let text = text.trim();
    if text.len() < 32 {
        Err(format!("{} is too short for a bearer: remove it, a new one is made at the next start", path.display()))
    } else {
        Ok(text.to_owned())
    }
}

/// Serves callers until the driver takes no more. `bearer`: what they must show, if anything.
pub async fn serve(listener: TcpListener, bearer: Option<String>, wanted: mpsc::Sender<Wanted>, refusals: Refusals) {
    let (places, bearer) = (Arc::new(Semaphore::new(SCRAPES)), Arc::new(bearer));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = wanted.closed() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(WANT).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            refusals[Refusal::Full as usize].fetch_add(1, Relaxed);
            continue;
        };
        let (bearer, wanted, refusals) = (bearer.clone(), wanted.clone(), refusals.clone());
        tokio::spawn(async move {
            if let Err(refusal) = answer(stream, bearer.as_deref(), &wanted).await {
                refusals[refusal as usize].fetch_add(1, Relaxed);
            }
            drop(place);
        });
    }
}

async fn answer(stream: TcpStream, bearer: Option<&str>, wanted: &mpsc::Sender<Wanted>) -> Result<(), Refusal> {
    let mut connection = Connection::new(stream);
    let (asked, turn) = match connection.asked(0, STEP).await {
        Ok(asked) => asked,
        Err(fault) => {
            let (refusal, status) = match fault {
                Fault::Slow(_) => (Refusal::Slow, 408),
                Fault::TooLarge(_) => (Refusal::NotHttp, 413),
                Fault::Bad(_) => (Refusal::NotHttp, 400),
                Fault::Unanswered | Fault::Cut | Fault::Io(_) => return Ok(()),
            };
            connection.dismiss(status, STEP).await;
            return Err(refusal);
        }
    };
    let path = asked.target.split('?').next().unwrap_or_default();
    let refusal = match bearer {
        Some(bearer) if !asked.bearer.is_some_and(|shown| same(shown.as_bytes(), bearer.as_bytes())) => Some((Refusal::Unauthenticated, 401)),
        _ if path != "/metrics" => Some((Refusal::Path, 404)),
        _ if asked.method != "GET" => Some((Refusal::Path, 405)),
        _ => None,
    };
    if let Some((refusal, status)) = refusal {
        connection.dismiss(status, STEP).await;
        return Err(refusal);
    }
    let (page, made) = oneshot::channel();
    let page = timeout(ANSWERING, async { if wanted.send(page).await.is_ok() { made.await.ok() } else { None } }).await.ok().flatten();
    let Some(page) = page else {
        connection.dismiss(503, STEP).await;
        return Err(Refusal::Unanswered);
    };
    let _ = connection.answer_as(turn, 200, TYPE, page.as_bytes(), STEP).await;
    connection.shutdown(STEP).await;
    Ok(())
}

/// Compares in a time that does not tell how much of it was right.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (x, y)| all | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn port(bearer: Option<&str>) -> (SocketAddr, Refusals) {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let (address, refusals) = (listener.local_addr().expect("an address"), Refusals::default());
        let (wanted, mut asked) = mpsc::channel::<Wanted>(1);
        tokio::spawn(serve(listener, bearer.map(str::to_owned), wanted, refusals.clone()));
        tokio::spawn(async move {
            while let Some(wanted) = asked.recv().await {
                let _ = wanted.send("sluice_uptime_seconds 1\n".to_owned());
            }
        });
        (address, refusals)
    }

    async fn ask(to: SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect(to).await.expect("connected");
        stream.write_all(format!("{head}\r\nHost: x\r\n\r\n").as_bytes()).await.expect("written");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    fn counts(refusals: &Refusals) -> [u64; 6] {
        [0, 1, 2, 3, 4, 5].map(|at: usize| refusals[at].load(Relaxed))
    }

    #[tokio::test]
    async fn the_page_comes_as_text_and_nothing_else_does() {
        let (to, refusals) = port(None).await;
        let page = ask(to, "GET /metrics?x=y HTTP/1.1").await;
        assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("content-type: text/plain; version=0.0.4"), "{page}");
        assert!(page.ends_with("\r\n\r\nsluice_uptime_seconds 1\n"), "{page}");
        assert!(ask(to, "GET / HTTP/1.1").await.starts_with("HTTP/1.1 404 "));
        assert!(ask(to, "DELETE /metrics HTTP/1.1").await.starts_with("HTTP/1.1 405 "));
        assert!(ask(to, "hello").await.starts_with("HTTP/1.1 400 "));
        assert_eq!(counts(&refusals), [0, 0, 1, 0, 2, 0]);
    }

    #[tokio::test]
    async fn where_a_bearer_is_wanted_nothing_is_told_without_it() {
        let (to, refusals) = port(Some("right")).await;
        for shown in ["", "Authorization: Bearer wrong", "Authorization: Bearer righ", "Authorization: Basic right"] {
            let answer = ask(to, format!("GET /metrics HTTP/1.1\r\n{shown}").trim_end()).await;
            assert!(answer.starts_with("HTTP/1.1 401 ") && !answer.contains("uptime"), "{shown}: {answer}");
        }
        assert!(ask(to, "GET /other HTTP/1.1").await.starts_with("HTTP/1.1 401 "), "paths are told to nobody either");
        assert_eq!(counts(&refusals)[Refusal::Unauthenticated as usize], 5);
        assert!(ask(to, "GET /metrics HTTP/1.1\r\nAuthorization: Bearer right").await.starts_with("HTTP/1.1 200 "));
    }

    #[tokio::test]
    async fn who_finds_no_place_is_closed_and_counted() {
        let (to, refusals) = port(None).await;
        let mut silent = Vec::new();
        for _ in 0..SCRAPES {
            silent.push(TcpStream::connect(to).await.expect("connected"));
        }
        let mut one_more = TcpStream::connect(to).await.expect("connected");
        assert_eq!(one_more.read(&mut [0; 8]).await.unwrap_or(0), 0, "closed at once");
        assert_eq!(counts(&refusals)[Refusal::Full as usize], 1);
        drop(silent);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(ask(to, "GET /metrics HTTP/1.1").await.starts_with("HTTP/1.1 200 "));
    }

    #[test]
    fn the_bearer_is_made_once_and_is_roots_alone() {
        let directory = std::env::temp_dir().join(format!("sluice-metrics-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).expect("a directory");
        let made = token(&directory).expect("made");
        assert_eq!((made.len(), token(&directory)), (64, Ok(made.clone())));
        let path = directory.join(TOKEN);
        assert_eq!(std::fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("changed");
        assert!(token(&directory).expect_err("open to others").contains("not root's alone"));
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("changed");
        std::fs::write(&path, "short\n").expect("written");
        assert!(token(&directory).expect_err("short").contains("too short"));
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
