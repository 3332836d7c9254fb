//! An API server for the tests of this room: real TCP and TLS on loopback, answers from a script. It knows no Kubernetes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::api::{Api, Notice, Target};
use super::dial::Way;
use super::tls::testing::{CA, acceptor, in_2026};
use super::tls::{Client, Times};

/// What the server does after a request.
pub(crate) enum Then {
    /// Sends this and waits for the next request.
    Send(Vec<u8>),
    /// Sends this and closes the connection.
    Close(Vec<u8>),
    /// Sends this and is silent, the connection open.
    Hang(Vec<u8>),
}

/// A running server and what it has heard.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
}

impl Fake {
    /// All requests so far, head and body.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.heard.lock().expect("heard").clone()
    }

    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().expect("connections")
    }

    pub(crate) fn target(&self) -> Target {
        let tls = Client::new(CA, "kubernetes", None, &Times::new(in_2026)).expect("a TLS client");
        Target { way: Way { to: self.address, through: None }, passage: None, tls, host: "kubernetes".into(), token: Some("token-1".into()) }
    }
}

/// Serves on loopback; `script` is asked with the number of the request (from 0, over all connections) and its text.
pub(crate) async fn serve(script: impl Fn(usize, &str) -> Then + Send + Sync + 'static) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let fake = Fake { address: listener.local_addr().expect("an address"), heard: Arc::default(), connections: Arc::default() };
    let (heard, connections, script) = (fake.heard.clone(), fake.connections.clone(), Arc::new(script));
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            *connections.lock().expect("connections") += 1;
            let (heard, script) = (heard.clone(), script.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor().accept(stream).await else { return };
                while let Some(request) = request(&mut stream).await {
                    let number = {
                        let mut heard = heard.lock().expect("heard");
                        heard.push(request.clone());
                        heard.len() - 1
                    };
                    match script(number, &request) {
                        Then::Send(bytes) => stream.write_all(&bytes).await.unwrap_or(()),
                        Then::Close(bytes) => {
                            let _ = stream.write_all(&bytes).await;
                            let _ = stream.shutdown().await;
                            return;
                        }
                        Then::Hang(bytes) => {
                            let _ = stream.write_all(&bytes).await;
                            let _ = stream.flush().await;
                            std::future::pending::<()>().await;
                        }
                    }
                    let _ = stream.flush().await;
                }
            });
        }
    });
    fake
}

async fn request(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some(end) = text.find("\r\n\r\n") {
            let length = text.lines().find_map(|l| l.strip_prefix("content-length: ")).map_or(0, |n| n.trim().parse().expect("a length"));
            if bytes.len() >= end + 4 + length {
                return Some(text);
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// A response with this status and body.
pub(crate) fn response(status: u16, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// The head of a chunked response and one chunk for each line; `end` adds the last chunk.
pub(crate) fn chunked(lines: &[&str], end: bool) -> Vec<u8> {
    let mut out = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for line in lines {
        out.extend_from_slice(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes());
    }
    if end {
        out.extend_from_slice(b"0\r\n\r\n");
    }
    out
}

/// An `Api` without servers, and its notices.
pub(crate) fn api() -> (Api, mpsc::Receiver<Notice>) {
    let (notices, heard) = mpsc::channel(8);
    (Api::new(notices, 7), heard)
}
