//! Asks the daemon over its local socket. Used by the verbs that change or show a running daemon; decides nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::protocol::{Done, Failure, Line, Progress, Request};

/// The longest reply line, in bytes.
const LINE_MAX: u64 = 4 << 20;
/// How long the daemon may be silent.
const SILENCE: Duration = Duration::from_secs(150);

/// Sends `request` and returns how it ended; each step on the way goes to `progress`.
pub fn ask(socket: &str, request: &Request, progress: &mut dyn FnMut(&Progress)) -> Result<Done, Failure> {
    ask_within(socket, request, SILENCE, progress)
}

/// As [`ask`], of a daemon that may be silent for no longer than `silence`.
pub fn ask_within(socket: &str, request: &Request, silence: Duration, progress: &mut dyn FnMut(&Progress)) -> Result<Done, Failure> {
    let mut stream = UnixStream::connect(socket).map_err(|e| unreachable(socket, &e))?;
    let broken = |e: std::io::Error| Failure::new("cut", format!("the daemon at {socket} broke off: {e}"), "see its log, then: sluice status");
    stream.set_read_timeout(Some(silence)).and_then(|()| stream.set_write_timeout(Some(silence))).map_err(broken)?;
    stream.write_all(format!("{}\n", request.line()).as_bytes()).map_err(broken)?;
    let mut reader = BufReader::with_capacity(4096, stream);
    loop {
        let mut line = String::new();
        let length = reader.by_ref().take(LINE_MAX).read_line(&mut line).map_err(broken)?;
        if length == 0 {
            return Err(Failure::new("cut", format!("the daemon at {socket} broke off before it was done"), "see its log, then: sluice status"));
        }
        match Line::read(line.trim_end()) {
            Some(Line { error: Some(failure), .. }) => return Err(failure),
            Some(Line { ok: Some(done), .. }) => return Ok(done),
            Some(Line { progress: Some(step), .. }) => progress(&step),
            _ => return Err(mismatch()),
        }
    }
}

/// The daemon's answer is not what the verb needs.
pub fn mismatch() -> Failure {
    Failure::new(
        "mismatch",
        "the daemon answered something this command does not understand",
        "restart the daemon so that both have the same version: sluice version",
    )
}

fn unreachable(socket: &str, error: &std::io::Error) -> Failure {
    use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    match error.kind() {
        PermissionDenied => Failure::new("not-root", format!("only root may speak to the daemon at {socket}"), "run the same command with sudo"),
        NotFound | ConnectionRefused => {
            Failure::new("not-running", format!("no daemon answers at {socket}"), "start it with: sluice run (or give its socket with --socket PATH)")
        }
        _ => Failure::new("unreachable", format!("the daemon at {socket} cannot be reached: {error}"), ""),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test with a real socket and thread")]
mod tests {
    use super::*;

    fn daemon(reply: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let path = std::env::temp_dir().join(format!("sluice-socket-{}-{:p}", std::process::id(), reply)).display().to_string();
        let _ = std::fs::remove_file(&path);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn({
            let path = path.clone();
            move || {
                let (stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                (&stream).write_all(reply.as_bytes()).unwrap();
                std::fs::remove_file(path).unwrap();
                line
            }
        });
        (path, thread)
    }

    #[test]
    fn steps_are_told_and_the_end_is_returned() {
        let (path, thread) = daemon("{\"progress\":{\"step\":\"a\",\"detail\":\"b\"}}\n{\"ok\":{\"left\":{\"peer\":\"p\",\"told\":true}}}\n");
        let mut steps = Vec::new();
        let done = ask(&path, &Request::new("unpeer"), &mut |p| steps.push(p.step.clone())).unwrap();
        assert!(done.left.unwrap().told);
        assert_eq!(steps, ["a"]);
        assert!(thread.join().unwrap().contains("\"verb\":\"unpeer\""));
    }

    #[test]
    fn a_daemon_that_breaks_off_or_talks_nonsense_is_an_error() {
        for (reply, reason) in [("", "cut"), ("{\"progress\":{\"step\":\"a\",\"detail\":\"\"}}\n", "cut"), ("what\n", "mismatch")] {
            let (path, thread) = daemon(reply);
            assert_eq!(ask(&path, &Request::new("status"), &mut |_| {}).unwrap_err().reason, reason);
            thread.join().unwrap();
        }
        assert_eq!(ask("/nonexistent/s", &Request::new("status"), &mut |_| {}).unwrap_err().reason, "not-running");
    }
}
