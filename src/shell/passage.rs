//! The API passage's bytes: to and from, until both sides have ended or neither has spoken for long.
//!
//! Between reads nothing is held but the two sockets; 8 KiB pass over the stack, and only what the other side does not
//! take at once is kept, before the next is read. Called by `listener` once a CONNECT was approved. It looks at no byte.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep};

/// Bytes read at once.
const PIECE: usize = 8 * 1024;

/// Why a passage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Both sides ended their streams.
    Done,
    /// No byte either way for the limit.
    Idle,
    /// A socket broke.
    Broken,
}

/// Passes bytes between `peer` and `server` until the end. `early` came from the peer behind its CONNECT.
pub async fn pipe(peer: TcpStream, early: Vec<u8>, server: TcpStream, idle: Duration) -> Ended {
    let _ = peer.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (from_peer, to_peer) = peer.into_split();
    let (from_server, to_server) = server.into_split();
    let opened = Instant::now();
    let stirred = AtomicU64::new(0);
    let stir = || stirred.store(opened.elapsed().as_millis() as u64, Ordering::Relaxed);
    let both = async { tokio::try_join!(pass(from_peer, to_server, early, &stir), pass(from_server, to_peer, Vec::new(), &stir)) };
    let watchdog = async {
        loop {
            let quiet = opened.elapsed().saturating_sub(Duration::from_millis(stirred.load(Ordering::Relaxed)));
            match idle.checked_sub(quiet) {
                Some(left) if !left.is_zero() => sleep(left).await,
                _ => return,
            }
        }
    };
    tokio::select! {
        ended = both => if ended.is_ok() { Ended::Done } else { Ended::Broken },
        () = watchdog => Ended::Idle,
    }
}

/// One direction, to its end; then the other side is told that no more will come.
async fn pass(from: OwnedReadHalf, mut to: OwnedWriteHalf, mut rest: Vec<u8>, stir: &impl Fn()) -> io::Result<()> {
    loop {
        if !rest.is_empty() {
            to.write_all(&rest).await?;
            rest = Vec::new();
        }
        from.readable().await?;
        match step(&from, &to, &mut rest) {
            Ok(0) => return to.shutdown().await,
            Ok(_) => stir(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        // Packets come first: one piece a turn.
        tokio::task::yield_now().await;
    }
}

/// Moves at most one piece; what the other side does not take at once is left in `rest`.
fn step(from: &OwnedReadHalf, to: &OwnedWriteHalf, rest: &mut Vec<u8>) -> io::Result<usize> {
    let mut piece = [0; PIECE];
    let n = from.try_read(&mut piece)?;
    let taken = match to.try_write(&piece[..n]) {
        Ok(taken) => taken,
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
        Err(e) => return Err(e),
    };
    rest.extend_from_slice(&piece[taken..n]);
    Ok(n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let near = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        (near, listener.accept().await.expect("accepted").0)
    }

    #[tokio::test]
    async fn megabytes_pass_intact_while_one_side_has_ended() {
        let ((mut client, peer), (server, mut api)) = (pair().await, pair().await);
        let piped = tokio::spawn(pipe(peer, b"early ".to_vec(), server, Duration::from_secs(5)));
        let answer: Vec<u8> = (0..3_000_000u32).map(|n| (n / 7) as u8).collect();
        let expected = answer.clone();
        let served = tokio::spawn(async move {
            let mut heard = String::new();
            api.read_to_string(&mut heard).await.expect("a question");
            api.write_all(&answer).await.expect("an answer");
            heard
        });
        client.write_all(b"question").await.expect("asked");
        client.shutdown().await.expect("ended");
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.expect("an answer");
        assert_eq!(served.await.expect("served"), "early question");
        assert!(heard == expected);
        assert_eq!(piped.await.expect("piped"), Ended::Done);
    }

    #[tokio::test]
    async fn silence_ends_a_passage_and_speech_prolongs_it() {
        let ((mut client, peer), (server, mut api)) = (pair().await, pair().await);
        let begun = Instant::now();
        let piped = tokio::spawn(pipe(peer, Vec::new(), server, Duration::from_millis(120)));
        for _ in 0..4 {
            sleep(Duration::from_millis(50)).await;
            client.write_u8(1).await.expect("written");
            api.read_u8().await.expect("read");
        }
        assert_eq!(piped.await.expect("piped"), Ended::Idle);
        assert!(begun.elapsed() >= Duration::from_millis(310), "{:?}", begun.elapsed());
        assert_eq!(client.read(&mut [0; 8]).await.expect("closed"), 0);
    }
}
