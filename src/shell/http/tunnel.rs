//! A stream whose CONNECT was sent and whose answer the first read will find: what goes through the tunnel need not wait for it.
//!
//! That saves a round trip a connection through a peer's API passage: the TLS hello leaves right behind the request. A refusal is
//! the error of the first read, of kind `ConnectionRefused`. A stream without CONNECT passes through as it is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use ureq_proto::client::Call;
use ureq_proto::client::state::RecvResponse;

use super::client::Request;
use super::connection::{Connection, Fault};

/// The longest answer to a CONNECT, in bytes.
const ANSWER_MAX: usize = 2048;

/// A stream, possibly with an answer to come first.
pub struct Tunnel<S> {
    stream: S,
    awaited: Option<Box<Call<RecvResponse>>>,
    /// Before the answer is whole: its beginning. After it: what came behind it and is not read yet.
    held: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Tunnel<S> {
    /// The stream as it is.
    pub fn direct(stream: S) -> Tunnel<S> {
        Tunnel { stream, awaited: None, held: Vec::new() }
    }

    /// Sends a CONNECT and does not wait for its answer.
    pub async fn through(stream: S, request: &Request<'_>, limit: Duration) -> Result<Tunnel<S>, Fault> {
        let mut connection = Connection::new(stream);
        let call = timeout(limit, connection.send(request)).await.map_err(|_| Fault::Slow("sending CONNECT"))??;
        Ok(Tunnel { stream: connection.stream, awaited: Some(Box::new(call)), held: Vec::new() })
    }

    /// Reads on until the answer is whole and good.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let refused = |why: String| io::Error::new(io::ErrorKind::ConnectionRefused, why);
        while let Some(call) = &mut self.awaited {
            let mut piece = [0; 512];
            let mut read = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() || self.held.len() > ANSWER_MAX {
                return Poll::Ready(Err(refused("CONNECT was not answered".to_owned())));
            }
            self.held.extend_from_slice(read.filled());
            let (used, response) = call.try_response(&self.held, false).map_err(|e| refused(format!("CONNECT was answered wrongly: {e}")))?;
            self.held.drain(..used);
            match response.map(|r| r.status().as_u16()) {
                None => {}
                Some(200) => self.awaited = None,
                Some(status) => return Poll::Ready(Err(refused(format!("CONNECT was answered {status}")))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_answer(cx))?;
        if this.held.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        }
        let n = this.held.len().min(buffer.remaining());
        buffer.put_slice(&this.held[..n]);
        this.held.drain(..n);
        if this.held.is_empty() {
            this.held = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tunnel<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::Method;
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const LIMIT: Duration = Duration::from_secs(5);

    /// What is read through a tunnel when the far end says `answer` in slices of `step` bytes, having read what we sent ahead.
    async fn heard(answer: &'static str, step: usize) -> Result<String, String> {
        let (near, mut far) = tokio::io::duplex(4096);
        let request = Request { method: Method::Connect, target: "api:443", host: "api:443", bearer: Some("b"), body: None };
        let mut tunnel = Tunnel::through(near, &request, LIMIT).await.map_err(|e| e.to_string())?;
        tunnel.write_all(b"ahead").await.map_err(|e| e.to_string())?;
        let served = tokio::spawn(async move {
            let mut asked = vec![0; 4096];
            let n = far.read(&mut asked).await.expect("asked");
            for slice in answer.as_bytes().chunks(step) {
                let _ = far.write_all(slice).await;
                tokio::task::yield_now().await;
            }
            String::from_utf8_lossy(&asked[..n]).into_owned()
        });
        let mut text = String::new();
        let read = tunnel.read_to_string(&mut text).await;
        let asked = served.await.expect("served");
        assert!(asked.starts_with("CONNECT api:443 HTTP/1.1\r\n") && asked.ends_with("\r\n\r\nahead"), "{asked}");
        read.map(|_| text).map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn what_comes_behind_the_answer_is_read_however_it_is_cut() {
        for step in 1..60 {
            assert_eq!(heard("HTTP/1.1 200 OK\r\nx: y\r\n\r\nthrough the tunnel", step).await, Ok("through the tunnel".into()));
        }
    }

    #[tokio::test]
    async fn a_refusal_is_the_error_of_the_first_read() {
        for (answer, why) in [
            ("HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\n{}", "CONNECT was answered 401"),
            ("HTTP/1.1 200", "CONNECT was not answered"),
            ("", "CONNECT was not answered"),
            ("SSH-2.0-x\r\n\r\n", "CONNECT was answered wrongly"),
        ] {
            assert!(heard(answer, 100).await.is_err_and(|e| e.starts_with(why)), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_direct_stream_is_untouched() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut tunnel = Tunnel::direct(near);
        far.write_all(b"bytes").await.expect("written");
        drop(far);
        let mut text = String::new();
        tunnel.read_to_string(&mut text).await.expect("read");
        assert_eq!(text, "bytes");
    }
}
