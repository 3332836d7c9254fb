//! The asking half: one request out, one response in, its body taken piece by piece.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use ureq_proto::client::state::{RecvBody, RecvResponse};
use ureq_proto::client::{Call, RecvBodyResult, RecvResponseResult, SendRequestResult};
use ureq_proto::http::{self, HeaderValue, header};
use ureq_proto::{BodyMode, client};

use super::connection::{Connection, Fault};
use crate::clock::WallTime;

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
    /// `Date`, the server's clock.
    pub date: Option<WallTime>,
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

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Sends a request and waits for the head of its response; `limit` is for each of the two.
    pub async fn exchange(&mut self, request: &Request<'_>, limit: Duration) -> Result<Response, Fault> {
        self.start = 0;
        self.end = 0;
        let call = timeout(limit, self.send(request)).await.map_err(|_| Fault::Slow("sending the request"))??;
        timeout(limit, self.head(call)).await.map_err(|_| Fault::Slow("the response"))?
    }

    pub(super) async fn send(&mut self, request: &Request<'_>) -> Result<Call<RecvResponse>, Fault> {
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
        let date = head.headers().get(header::DATE).and_then(|v| v.to_str().ok()).and_then(WallTime::parse_http);
        let mut response = Response { status, retry_after, date, body: None, reusable: false };
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
