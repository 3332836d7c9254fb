//! A stream with its one buffer, and what can go wrong on it. Knows no message; `client` and `server` read and write those.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use crate::budget::HEAD_MAX;

/// The one buffer of a connection, in bytes; the largest head too.
pub const BUFFER: usize = HEAD_MAX;

/// Why an exchange did not come to its end.
#[derive(Debug)]
pub enum Fault {
    /// The connection was closed before a byte of the response: the request may or may not have arrived.
    Unanswered,
    /// The connection was closed inside a message.
    Cut,
    /// A step took longer than its limit; which one.
    Slow(&'static str),
    /// A part is larger than its limit; which one.
    TooLarge(&'static str),
    /// The other side does not speak HTTP/1.1 as it should.
    Bad(String),
    /// The socket's own error, after a byte of the message had come.
    Io(io::Error),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Unanswered => f.write_str("the connection was closed without an answer"),
            Fault::Cut => f.write_str("the connection was closed inside a message"),
            Fault::Slow(what) => write!(f, "{what} took too long"),
            Fault::TooLarge(what) => write!(f, "{what} is too large"),
            Fault::Bad(why) => write!(f, "not the HTTP expected: {why}"),
            Fault::Io(e) => write!(f, "the connection broke: {e}"),
        }
    }
}

impl From<ureq_proto::Error> for Fault {
    fn from(e: ureq_proto::Error) -> Fault {
        Fault::Bad(e.to_string())
    }
}

/// A stream with its buffer.
pub struct Connection<S> {
    pub(super) stream: S,
    pub(super) buffer: Box<[u8]>,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Over an open stream.
    pub fn new(stream: S) -> Connection<S> {
        Connection { stream, buffer: vec![0; BUFFER].into_boxed_slice(), start: 0, end: 0 }
    }

    /// Whether an idle connection is still open and silent, as far as can be known without waiting.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0; 1];
        let mut read = ReadBuf::new(&mut byte);
        let polled = Pin::new(&mut self.stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut read);
        self.start == self.end && matches!(polled, Poll::Pending)
    }

    /// Gives up the HTTP connection after CONNECT: the stream, and what the client has sent behind its request already.
    pub fn into_stream_and_rest(self) -> (S, Vec<u8>) {
        (self.stream, self.buffer[self.start..self.end].to_vec())
    }

    /// Ends the sending side; under TLS with its closing alert.
    pub async fn shutdown(&mut self, limit: Duration) {
        let _ = timeout(limit, self.stream.shutdown()).await;
    }

    /// Reads once into the buffer; 0 is the other side's close. A full buffer is a fault: nothing in it could be used.
    pub(super) async fn read(&mut self, what: &'static str) -> Result<usize, Fault> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            return Err(Fault::TooLarge(what));
        }
        match self.stream.read(&mut self.buffer[self.end..]).await {
            Ok(n) => {
                self.end += n;
                Ok(n)
            }
            // A TLS peer that closes without its alert.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            Err(e) => Err(Fault::Io(e)),
        }
    }
}
