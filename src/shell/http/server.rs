//! The answering half: one whole request in, one answer out, and the connection is closed or has become a tunnel.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use ureq_proto::BodyMode;
use ureq_proto::http::{self, HeaderMap, header};
use ureq_proto::server::state::ProvideResponse;
use ureq_proto::server::{RecvRequestResult, Reply, SendResponseResult};

use super::connection::{Connection, Fault};

/// The longest bearer believed, in bytes.
const BEARER_MAX: usize = 1024;

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

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
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
        self.answer_as(turn, status, "application/json", body, limit).await
    }

    /// As [`Connection::answer`], with a body of another type.
    pub async fn answer_as(&mut self, turn: Turn, status: u16, media: &'static str, body: &[u8], limit: Duration) -> Result<(), Fault> {
        timeout(limit, self.reply(turn, status, media, body)).await.map_err(|_| Fault::Slow("sending the answer"))?
    }

    async fn reply(&mut self, Turn(reply): Turn, status: u16, media: &'static str, body: &[u8]) -> Result<(), Fault> {
        let mut response = http::Response::builder().status(status);
        if !body.is_empty() {
            response = response.header(header::CONTENT_TYPE, media).header(header::CONTENT_LENGTH, body.len());
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
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= BEARER_MAX).then(|| token.to_owned())
}
