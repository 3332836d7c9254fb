//! The local socket: the verbs of the command line ask the daemon here. Root alone gets in.
//!
//! One request a connection: one JSON line of at most [`LOCAL_LINE_MAX`] bytes; the reply is lines until the daemon closes. A caller that
//! closes or ends its side before that has gone away. Lines are
//! handed to the driver unread. The directory is 0700, the socket 0600, and the caller's uid is asked of the kernel as well.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::budget::{LOCAL_CALLERS, LOCAL_LINE_MAX};

/// Where the socket is by default.
pub const PATH: &str = "/run/sluice/sluice.sock";
/// Reply lines the driver may be ahead of the caller.
const AHEAD: usize = 16;
/// How long a caller may take to say its line, or to take a reply line.
const STEP: Duration = Duration::from_secs(10);
/// The one user that is let in.
const ROOT: u32 = 0;
/// Why a caller was not heard; the names are the metric's labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not root.
    NotRoot,
    /// No whole line in time.
    Slow,
    /// A line that is too long, has no end or is no text.
    Unreadable,
}

impl Refusal {
    /// All of them, in the order of the counts.
    pub const ALL: [(Refusal, &'static str); 3] = [(Refusal::NotRoot, "not_root"), (Refusal::Slow, "slow"), (Refusal::Unreadable, "unreadable")];
}

/// How often each [`Refusal`] was given.
pub type Refusals = Arc<[AtomicU64; Refusal::ALL.len()]>;

/// A request of the command line.
#[derive(Debug)]
pub struct Line {
    /// The line, without its newline.
    pub text: String,
    /// Takes reply lines (without newlines); dropped, the connection is closed. It is closed itself when the caller goes away.
    pub replies: mpsc::Sender<String>,
}

/// Makes the socket. A stale one is replaced; one that answers belongs to a running daemon and is an error.
pub fn listen(path: &Path) -> Result<UnixListener, String> {
    let shown = path.display();
    if let Some(directory) = path.parent()
        && !directory.exists()
    {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|e| format!("cannot make {}: {e}", directory.display()))?;
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(format!("another sluice answers at {shown}; stop it first")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(_) => fs::remove_file(path).map_err(|e| format!("cannot replace the stale socket {shown}: {e}"))?,
    }
    let listener = UnixListener::bind(path).map_err(|e| format!("cannot make the socket {shown}: {e}"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(|e| format!("cannot protect the socket {shown}: {e}"))?;
    Ok(listener)
}

/// Takes the socket away again.
pub fn remove(path: &Path) {
    // It may be gone already.
    let _ = fs::remove_file(path);
}

/// Holds this host's network for one daemon: the packet rules there are one table. Free again when the value, or the process, is gone.
#[expect(clippy::disallowed_types, reason = "the lock lives as long as the file is open")]
pub fn alone() -> Result<fs::File, String> {
    let directory = Path::new(PATH).parent().unwrap_or(Path::new("/run"));
    let network = fs::metadata("/proc/self/ns/net").map_err(|e| format!("cannot tell which network this is: {e}"))?.ino();
    let path = directory.join(format!("net-{network}.lock"));
    let open = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(&path)
    };
    let file = open().map_err(|e| format!("cannot make {}: {e}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(format!("another sluice runs in this host's network (it holds {}): end it first", path.display())),
        Err(fs::TryLockError::Error(e)) => Err(format!("cannot lock {}: {e}", path.display())),
    }
}

/// Serves callers until the driver takes no more lines.
pub async fn serve(listener: UnixListener, lines: mpsc::Sender<Line>, refusals: Refusals) {
    let places = Arc::new(Semaphore::new(LOCAL_CALLERS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = lines.closed() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        if !stream.peer_cred().is_ok_and(|who| who.uid() == ROOT) {
            refusals[Refusal::NotRoot as usize].fetch_add(1, Relaxed);
            continue;
        }
        let (lines, refusals) = (lines.clone(), refusals.clone());
        tokio::spawn(async move {
            answer(stream, lines, &refusals).await;
            drop(place);
        });
    }
}

async fn answer(mut stream: UnixStream, lines: mpsc::Sender<Line>, refusals: &Refusals) {
    let count = |refusal: Refusal| refusals[refusal as usize].fetch_add(1, Relaxed);
    let text = match timeout(STEP, line(&mut stream)).await {
        Ok(Ok(text)) => text,
        Ok(Err(why)) => {
            count(Refusal::Unreadable);
            return complain(&mut stream, why).await;
        }
        Err(_) => {
            count(Refusal::Slow);
            return complain(&mut stream, "no whole line within 10 s").await;
        }
    };
    let (replies, mut said) = mpsc::channel(AHEAD);
    if lines.send(Line { text, replies }).await.is_err() {
        return complain(&mut stream, "the daemon is stopping").await;
    }
    let (mut from, mut to) = stream.split();
    let mut byte = [0; 1];
    loop {
        let reply = tokio::select! {
            reply = said.recv() => reply,
            // Nothing more is expected from the caller but a blank line, if it ends its requests with one, and its going away.
            more = from.read(&mut byte) => match (more, byte) {
                (Ok(1), [b'\n']) => continue,
                _ => return,
            },
        };
        let Some(mut reply) = reply else { break };
        reply.push('\n');
        if !matches!(timeout(STEP, to.write_all(reply.as_bytes())).await, Ok(Ok(()))) {
            return;
        }
    }
    let _ = to.shutdown().await;
}

async fn complain(stream: &mut UnixStream, why: &str) {
    let _ = timeout(STEP, stream.write_all(format!("{{\"error\":\"{why}\"}}\n").as_bytes())).await;
}

/// Reads up to the newline.
async fn line(stream: &mut UnixStream) -> Result<String, &'static str> {
    let mut held = Vec::new();
    loop {
        if let Some(end) = held.iter().position(|&b| b == b'\n') {
            held.truncate(end);
            return String::from_utf8(held).map_err(|_| "the line is not UTF-8");
        }
        if held.len() >= LOCAL_LINE_MAX {
            return Err("the line is longer than 65536 bytes");
        }
        match (&mut *stream).take((LOCAL_LINE_MAX - held.len()) as u64).read_buf(&mut held).await {
            Ok(0) | Err(_) => return Err("the line has no end"),
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(std::path::PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A socket whose driver repeats the line twice; only for root, as the socket itself.
    fn socket(name: &str) -> (Scratch, std::path::PathBuf) {
        let directory = std::env::temp_dir().join(format!("sluice-local-{name}-{}", std::process::id()));
        let path = directory.join("in").join("s.sock");
        let listener = listen(&path).expect("a socket");
        let (lines, mut heard) = mpsc::channel::<Line>(1);
        tokio::spawn(serve(listener, lines, Refusals::default()));
        tokio::spawn(async move {
            while let Some(line) = heard.recv().await {
                for _ in 0..2 {
                    let _ = line.replies.send(format!("re {}", line.text)).await;
                }
            }
        });
        (Scratch(directory), path)
    }

    async fn say(path: &Path, text: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).await.expect("connected");
        stream.write_all(text).await.expect("written");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    #[tokio::test]
    async fn a_line_is_answered_with_lines() {
        let (_scratch, path) = socket("lines");
        assert_eq!(say(&path, b"{\"verb\":\"status\"}\n").await, "re {\"verb\":\"status\"}\nre {\"verb\":\"status\"}\n");
        assert_eq!(say(&path, b"\xff\n").await, "{\"error\":\"the line is not UTF-8\"}\n");
        assert_eq!(say(&path, &[b'x'; LOCAL_LINE_MAX]).await, "{\"error\":\"the line is longer than 65536 bytes\"}\n");
        assert_eq!(fs::metadata(&path).expect("the socket").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().expect("a directory")).expect("it").permissions().mode() & 0o777, 0o700);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let (_scratch, path) = socket("stale");
        assert!(listen(&path).expect_err("in use").contains("another sluice answers"));
        let stale = path.with_file_name("stale.sock");
        drop(std::os::unix::net::UnixListener::bind(&stale).expect("a socket"));
        assert!(listen(&stale).is_ok());
    }
}
