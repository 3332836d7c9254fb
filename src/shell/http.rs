//! One HTTP/1.1 engine for everything: ureq-proto's client and server states over any tokio stream (RFC 9110, RFC 9112).
//!
//! A [`Connection`] owns its stream and one buffer of [`BUFFER`] bytes: heads must fit in it, bodies pass through it. Every step
//! has a time limit and every body a size limit, given by the caller. Used by `api` and `watches` (client), `listener` (server)
//! and the passage (CONNECT). It opens no socket, retries nothing and knows no path.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use ureq_proto::client::state::{RecvBody, RecvResponse};
use ureq_proto::client::{Call, RecvBodyResult, RecvResponseResult, SendRequestResult};
use ureq_proto::http::{self, HeaderMap, HeaderValue, header};
use ureq_proto::server::state::ProvideResponse;
use ureq_proto::server::{RecvRequestResult, Reply, SendResponseResult};
use ureq_proto::{BodyMode, client};

use crate::budget::HEAD_MAX;

/// The one buffer of a connection, in bytes; the largest head too.
pub const BUFFER: usize = HEAD_MAX;
/// The longest bearer believed, in bytes.
const BEARER_MAX: usize = 1024;

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

/// What a client may ask with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// POST.
    Post,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
    /// CONNECT; the target is an authority (`host:port`).
    Connect,
}

/// A request to be sent.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// Path and query, or an authority for CONNECT.
    pub target: &'a str,
    /// The Host header.
    pub host: &'a str,
    /// Sent as `Authorization: Bearer`.
    pub bearer: Option<&'a str>,
    /// The body with its content type.
    pub body: Option<(&'static str, &'a [u8])>,
}

/// A response whose head has come. The body is taken through the connection it came on.
pub struct Response {
    /// The status.
    pub status: u16,
    /// `Retry-After` in seconds.
    pub retry_after: Option<u64>,
    body: Option<Call<RecvBody>>,
    reusable: bool,
}

impl Response {
    /// Whether the body has come to its end and the connection may carry another request.
    pub fn leaves_reusable(&self) -> bool {
        self.body.is_none() && self.reusable
    }
}

/// What [`Connection::take`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// So many bytes of the body.
    Bytes(usize),
    /// Nothing now: [`Connection::fill`] first.
    Nothing,
    /// The body has ended.
    End,
}

/// A request that has come whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The method as sent.
    pub method: String,
    /// Path and query; the authority for CONNECT.
    pub target: String,
    /// The bearer of the Authorization header.
    pub bearer: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// The right to answer a request once.
pub struct Turn(Reply<ProvideResponse>);

/// A stream with its buffer.
pub struct Connection<S> {
    stream: S,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
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

    /// Sends a request and waits for the head of its response; `limit` is for each of the two.
    pub async fn exchange(&mut self, request: &Request<'_>, limit: Duration) -> Result<Response, Fault> {
        self.start = 0;
        self.end = 0;
        let call = timeout(limit, self.send(request)).await.map_err(|_| Fault::Slow("sending the request"))??;
        timeout(limit, self.head(call)).await.map_err(|_| Fault::Slow("the response"))?
    }

    async fn send(&mut self, request: &Request<'_>) -> Result<Call<RecvResponse>, Fault> {
        let mut call = Call::new(request.build()?)?.proceed();
        let mut filled = 0;
        while !call.can_proceed() {
            match call.write(&mut self.buffer[filled..]) {
                Ok(n) => filled += n,
                // A row that is too long for an empty buffer never fits; otherwise there is room again after a write.
                Err(_) if filled > 0 => {
                    self.put(filled).await?;
                    filled = 0;
                }
                Err(_) => return Err(Fault::TooLarge("a line of the request")),
            }
        }
        let call = match call.proceed()? {
            Some(SendRequestResult::RecvResponse(call)) => {
                self.put(filled).await?;
                call
            }
            Some(SendRequestResult::SendBody(mut call)) => {
                let body = request.body.map_or(&[][..], |(_, body)| body);
                // A small body leaves with the head, in one segment.
                let along = body.len().min(self.buffer.len() - filled);
                self.buffer[filled..filled + along].copy_from_slice(&body[..along]);
                self.put(filled + along).await?;
                self.stream.write_all(&body[along..]).await.map_err(|_| Fault::Unanswered)?;
                call.consume_direct_write(body.len())?;
                call.proceed().ok_or_else(|| Fault::Bad("the request's body is not sent".into()))?
            }
            _ => return Err(Fault::Bad("the request cannot be sent".into())),
        };
        self.stream.flush().await.map_err(|_| Fault::Unanswered)?;
        Ok(call)
    }

    async fn put(&mut self, length: usize) -> Result<(), Fault> {
        self.stream.write_all(&self.buffer[..length]).await.map_err(|_| Fault::Unanswered)
    }

    async fn head(&mut self, mut call: Call<RecvResponse>) -> Result<Response, Fault> {
        let mut heard = false;
        loop {
            let (used, response) = call.try_response(&self.buffer[self.start..self.end], false)?;
            self.start += used;
            if let Some(response) = response {
                return Response::new(call, &response);
            }
            if used == 0 {
                match self.read("the response's head").await {
                    Ok(0) if !heard => return Err(Fault::Unanswered),
                    Ok(0) => return Err(Fault::Cut),
                    Ok(_) => heard = true,
                    Err(Fault::Io(_)) if !heard => return Err(Fault::Unanswered),
                    Err(e) => return Err(e),
                }
            }
        }
    }

    /// Moves what has come of the body into `out`, without waiting.
    pub fn take(&mut self, response: &mut Response, out: &mut [u8]) -> Result<Taken, Fault> {
        let Some(body) = response.body.as_mut() else { return Ok(Taken::End) };
        loop {
            let (used, n) = body.read(&self.buffer[self.start..self.end], out)?;
            self.start += used;
            if n > 0 {
                return Ok(Taken::Bytes(n));
            }
            if body.can_proceed() && body.body_mode() != BodyMode::CloseDelimited {
                response.finish();
                return Ok(Taken::End);
            }
            if used == 0 {
                return Ok(Taken::Nothing);
            }
        }
    }

    /// Waits for more of the body. A close ends a body that has no other end, and cuts any other.
    pub async fn fill(&mut self, response: &mut Response, limit: Duration) -> Result<(), Fault> {
        match timeout(limit, self.read("a line of the body")).await.map_err(|_| Fault::Slow("the body"))? {
            Ok(0) if response.body.as_ref().is_some_and(|b| b.body_mode() == BodyMode::CloseDelimited) => {
                response.body = None;
                response.reusable = false;
                Ok(())
            }
            Ok(0) => Err(Fault::Cut),
            Ok(_) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Gives up the HTTP connection after CONNECT. Bytes that came too early are a fault.
    pub fn into_stream(self) -> Result<S, Fault> {
        if self.start != self.end {
            return Err(Fault::Bad("bytes came behind the answer to CONNECT".into()));
        }
        Ok(self.stream)
    }

    /// Like [`into_stream`](Self::into_stream) at the serving end, where the client may already have gone on: with those bytes.
    pub fn into_stream_and_rest(self) -> (S, Vec<u8>) {
        (self.stream, self.buffer[self.start..self.end].to_vec())
    }

    /// Waits for a whole request; `limit` is for head and body together.
    pub async fn asked(&mut self, body_max: usize, limit: Duration) -> Result<(Asked, Turn), Fault> {
        timeout(limit, self.receive(body_max)).await.map_err(|_| Fault::Slow("the request"))?
    }

    async fn receive(&mut self, body_max: usize) -> Result<(Asked, Turn), Fault> {
        let mut reply = Reply::new()?;
        let head = loop {
            let (used, head) = reply.try_request(&self.buffer[self.start..self.end])?;
            self.start += used;
            match head {
                Some(head) => break head,
                None => match self.read("the request's head").await? {
                    0 if self.start == self.end => return Err(Fault::Unanswered),
                    0 => return Err(Fault::Cut),
                    _ => {}
                },
            }
        };
        let mut asked = Asked { method: head.method().as_str().to_owned(), target: head.uri().to_string(), bearer: bearer(head.headers()), body: Vec::new() };
        let mut reply = match reply.proceed() {
            Some(RecvRequestResult::ProvideResponse(reply)) => return Ok((asked, Turn(reply))),
            Some(RecvRequestResult::RecvBody(reply)) => reply,
            Some(RecvRequestResult::Send100(reply)) => {
                let mut line = [0; 64];
                let (n, reply) = reply.accept(&mut line)?;
                self.stream.write_all(&line[..n]).await.map_err(Fault::Io)?;
                self.stream.flush().await.map_err(Fault::Io)?;
                reply
            }
            None => return Err(Fault::Bad("the request's head is not whole".into())),
        };
        if let BodyMode::LengthDelimited(n) = reply.body_mode()
            && n > body_max as u64
        {
            return Err(Fault::TooLarge("the request's body"));
        }
        while !reply.is_ended() {
            let room = body_max - asked.body.len();
            let mut piece = [0; 1024];
            // One byte more than there is room for shows a body that is too large.
            let piece = &mut piece[..1024.min(room + 1)];
            let (used, n) = reply.read(&self.buffer[self.start..self.end], piece)?;
            self.start += used;
            if n > room {
                return Err(Fault::TooLarge("the request's body"));
            }
            asked.body.extend_from_slice(&piece[..n]);
            if used == 0 && n == 0 && !reply.is_ended() && self.read("a line of the request's body").await? == 0 {
                return Err(Fault::Cut);
            }
        }
        Ok((asked, Turn(reply.proceed()?)))
    }

    /// Answers with a JSON body and says that the connection will be closed; an empty body to an approved CONNECT opens the tunnel.
    pub async fn answer(&mut self, turn: Turn, status: u16, body: &[u8], limit: Duration) -> Result<(), Fault> {
        timeout(limit, self.reply(turn, status, body)).await.map_err(|_| Fault::Slow("sending the answer"))?
    }

    async fn reply(&mut self, Turn(reply): Turn, status: u16, body: &[u8]) -> Result<(), Fault> {
        let mut response = http::Response::builder().status(status);
        if !body.is_empty() {
            response = response.header(header::CONTENT_TYPE, "application/json").header(header::CONTENT_LENGTH, body.len());
            response = response.header(header::CONNECTION, "close");
        }
        let response = response.body(()).map_err(|e| Fault::Bad(e.to_string()))?;
        let mut reply = reply.provide(response)?;
        let mut head = [0; 512];
        let mut filled = 0;
        while !reply.is_finished() {
            filled += reply.write(&mut head[filled..])?;
        }
        self.stream.write_all(&head[..filled]).await.map_err(Fault::Io)?;
        if let SendResponseResult::SendBody(mut reply) = reply.proceed() {
            if body.is_empty() {
                let n = reply.write(&[], &mut head)?.1;
                self.stream.write_all(&head[..n]).await.map_err(Fault::Io)?;
            } else {
                self.stream.write_all(body).await.map_err(Fault::Io)?;
                reply.consume_direct_write(body.len())?;
            }
        }
        self.stream.flush().await.map_err(Fault::Io)
    }

    /// Answers what could not be understood, with a bare status, and ends the sending side. Errors are of no interest any more.
    pub async fn dismiss(&mut self, status: u16, limit: Duration) {
        let line = format!("HTTP/1.1 {status} Refused\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let _ = timeout(limit, self.stream.write_all(line.as_bytes())).await;
        self.shutdown(limit).await;
    }

    /// Ends the sending side; under TLS with its closing alert.
    pub async fn shutdown(&mut self, limit: Duration) {
        let _ = timeout(limit, self.stream.shutdown()).await;
    }

    /// Reads once into the buffer; 0 is the other side's close. A full buffer is a fault: nothing in it could be used.
    async fn read(&mut self, what: &'static str) -> Result<usize, Fault> {
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

impl Request<'_> {
    fn build(&self) -> Result<http::Request<()>, Fault> {
        let method = match self.method {
            Method::Get => http::Method::GET,
            Method::Post => http::Method::POST,
            Method::Patch => http::Method::PATCH,
            Method::Delete => http::Method::DELETE,
            Method::Connect => http::Method::CONNECT,
        };
        let mut request = http::Request::builder()
            .method(method)
            .uri(self.target)
            .header(header::HOST, self.host)
            .header(header::USER_AGENT, concat!("sluice/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, "application/json");
        if let Some(bearer) = self.bearer {
            let mut value = HeaderValue::try_from(format!("Bearer {bearer}")).map_err(|_| Fault::Bad("the bearer is no header value".into()))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        if let Some((content_type, body)) = self.body {
            request = request.header(header::CONTENT_TYPE, content_type).header(header::CONTENT_LENGTH, body.len());
        }
        request.body(()).map_err(|e| Fault::Bad(e.to_string()))
    }
}

impl Response {
    fn new(call: Call<RecvResponse>, head: &http::Response<()>) -> Result<Response, Fault> {
        let status = head.status().as_u16();
        let retry_after = head.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.trim().parse().ok());
        let mut response = Response { status, retry_after, body: None, reusable: false };
        match call.proceed() {
            Some(RecvResponseResult::RecvBody(body)) => response.body = Some(body),
            Some(RecvResponseResult::Cleanup(call)) => response.reusable = !call.must_close_connection(),
            // Redirects are not followed; what comes behind one is of no interest.
            Some(RecvResponseResult::Redirect(_)) => {}
            None => return Err(Fault::Bad("the response's head is not whole".into())),
        }
        Ok(response)
    }

    fn finish(&mut self) {
        if let Some(RecvBodyResult::Cleanup(call)) = self.body.take().and_then(client::Call::<RecvBody>::proceed) {
            self.reusable = !call.must_close_connection();
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= BEARER_MAX).then(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);
    const GET: Request<'static> = Request { method: Method::Get, target: "/api/v1/pods?a=b", host: "kubernetes", bearer: Some("t"), body: None };

    /// Plays a server that reads one head and then writes `answer` in slices of `step` bytes.
    fn server(mut far: tokio::io::DuplexStream, answer: Vec<u8>, step: usize) -> tokio::task::JoinHandle<String> {
        tokio::spawn(async move {
            let mut heard = Vec::new();
            while !heard.windows(4).any(|w| w == b"\r\n\r\n") {
                if far.read_buf(&mut heard).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            for slice in answer.chunks(step) {
                let _ = far.write_all(slice).await;
                tokio::task::yield_now().await;
            }
            String::from_utf8_lossy(&heard).into_owned()
        })
    }

    async fn body(connection: &mut Connection<tokio::io::DuplexStream>, response: &mut Response) -> Result<Vec<u8>, Fault> {
        let mut whole = Vec::new();
        loop {
            let mut out = [0; 7];
            match connection.take(response, &mut out)? {
                Taken::Bytes(n) => whole.extend_from_slice(&out[..n]),
                Taken::Nothing => connection.fill(response, LIMIT).await?,
                Taken::End => return Ok(whole),
            }
        }
    }

    #[tokio::test]
    async fn bodies_of_every_framing_arrive_whole_however_they_are_cut() {
        for (answer, reusable) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world", true),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 11\r\n\r\nhello world", false),
            ("HTTP/1.0 200 OK\r\n\r\nhello world", false),
        ] {
            for step in 1..answer.len() {
                let (near, far) = tokio::io::duplex(64);
                let heard = server(far, answer.into(), step);
                let mut connection = Connection::new(near);
                let mut response = connection.exchange(&GET, LIMIT).await.expect("a head");
                assert_eq!(body(&mut connection, &mut response).await.expect("a body"), b"hello world");
                assert_eq!(response.leaves_reusable(), reusable, "{answer} at {step}");
                let heard = heard.await.expect("the server");
                assert!(heard.starts_with("GET /api/v1/pods?a=b HTTP/1.1\r\n"), "{heard}");
                assert!(heard.contains("authorization: Bearer t\r\n") && heard.contains("host: kubernetes\r\n"), "{heard}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_is_a_fault_that_says_why() {
        let huge = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(9000));
        for (answer, fault) in [
            ("", "without an answer"),
            ("HTTP/1.1 200 OK\r\nContent-Le", "inside a message"),
            ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "not the HTTP expected"),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "not the HTTP expected"),
            (&huge, "too large"),
        ] {
            let (near, far) = tokio::io::duplex(64);
            let heard = server(far, answer.into(), 100);
            let fault_heard = Connection::new(near).exchange(&GET, LIMIT).await.err().expect("a fault").to_string();
            assert!(fault_heard.contains(fault), "{answer:.40}: {fault_heard}");
            heard.await.expect("the server");
        }
    }

    #[tokio::test]
    async fn a_body_cut_short_or_garbled_is_a_fault() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello",
        ] {
            let (near, far) = tokio::io::duplex(64);
            let heard = server(far, answer.into(), 100);
            let mut connection = Connection::new(near);
            let mut response = connection.exchange(&GET, LIMIT).await.expect("a head");
            assert!(body(&mut connection, &mut response).await.is_err(), "{answer}");
            heard.await.expect("the server");
        }
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_slow() {
        let (near, _far) = tokio::io::duplex(4096);
        assert!(matches!(Connection::new(near).exchange(&GET, Duration::from_millis(20)).await, Err(Fault::Slow("the response"))));
    }

    #[tokio::test]
    async fn a_request_comes_whole_and_is_answered() {
        let (near, far) = tokio::io::duplex(100);
        let json = "x".repeat(3000);
        let served = tokio::spawn(async move {
            let mut connection = Connection::new(far);
            let (asked, turn) = connection.asked(4000, LIMIT).await.expect("a request");
            connection.answer(turn, 201, b"{\"a\":1}", LIMIT).await.expect("answered");
            asked
        });
        let mut connection = Connection::new(near);
        let request = Request { method: Method::Post, target: "/v1/hello", host: "h", bearer: Some("b64"), body: Some(("application/json", json.as_bytes())) };
        let mut response = connection.exchange(&request, LIMIT).await.expect("a head");
        assert_eq!((response.status, body(&mut connection, &mut response).await.expect("a body")), (201, b"{\"a\":1}".to_vec()));
        assert!(!response.leaves_reusable());
        let asked = served.await.expect("served");
        assert_eq!((asked.method.as_str(), asked.target.as_str(), asked.bearer.as_deref()), ("POST", "/v1/hello", Some("b64")));
        assert_eq!(asked.body.len(), 3000);
    }

    #[tokio::test]
    async fn connect_opens_a_tunnel_without_a_body() {
        let (near, far) = tokio::io::duplex(100);
        let served = tokio::spawn(async move {
            let mut connection = Connection::new(far);
            let (asked, turn) = connection.asked(10, LIMIT).await.expect("a request");
            connection.answer(turn, 200, b"", LIMIT).await.expect("answered");
            let (mut stream, rest) = connection.into_stream_and_rest();
            let hello = stream.read_u8().await.expect("the client speaks first");
            stream.write_u8(hello + 1).await.expect("written");
            (asked, rest)
        });
        let mut connection = Connection::new(near);
        let request = Request { method: Method::Connect, target: "kubernetes:443", host: "kubernetes:443", bearer: None, body: None };
        let response = connection.exchange(&request, LIMIT).await.expect("a head");
        assert_eq!(response.status, 200);
        let mut stream = connection.into_stream().expect("nothing early");
        stream.write_u8(1).await.expect("written");
        assert_eq!(stream.read_u8().await.expect("a byte"), 2);
        let (asked, rest) = served.await.expect("served");
        assert_eq!((asked.method.as_str(), asked.target.as_str(), rest.len()), ("CONNECT", "kubernetes:443", 0));
    }

    #[tokio::test]
    async fn requests_that_are_too_large_or_no_requests_are_refused() {
        let huge = format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(9000));
        for (sent, fault) in [
            ("POST / HTTP/1.1\r\nContent-Length: 11\r\n\r\nhello world", "the request's body is too large"),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n", "the request's body is too large"),
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhel", "inside a message"),
            ("\u{16}\u{3}\u{1}hello", "not the HTTP expected"),
            ("GET / HTTP/1.1\r\nBad Header: x\r\n\r\n", "not the HTTP expected"),
            (&huge, "the request's head is too large"),
            ("", "without an answer"),
        ] {
            let mut connection = Connection::new(tokio::io::join(sent.as_bytes(), tokio::io::sink()));
            let heard = connection.asked(10, LIMIT).await.err().expect("a fault").to_string();
            assert!(heard.contains(fault), "{sent:.60}: {heard}");
        }
    }
}
