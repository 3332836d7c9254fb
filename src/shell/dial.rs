//! Opening TCP connections, and asking a peer's control listener one question.
//!
//! Inside the tunnel a connection leaves from our own control end through the TUN device and by no other way, so that neither a
//! route of the host nor a pod can stand in for the peer. Every step is bounded by [`STEP`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::http::{Connection, Method, Request, Taken};
use crate::budget::CONTROL_BODY_MAX;

/// How long any one step of an exchange may take.
pub const STEP: Duration = Duration::from_secs(10);

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Address and port.
    pub to: SocketAddr,
    /// From where; none: as the host routes.
    pub through: Option<Through>,
}

/// The end of the tunnel a connection leaves from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Through {
    /// Our own control end.
    pub source: Ipv4Addr,
    /// The TUN device's name.
    pub interface: String,
}

/// Opens a connection, or says why not.
pub async fn dial(way: &Way) -> Result<TcpStream, String> {
    let socket = if way.to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(|e| format!("no socket: {e}"))?;
    if let Some(Through { source, interface }) = &way.through {
        socket.bind_device(Some(interface.as_bytes())).map_err(|e| format!("cannot bind to device {interface}: {e}"))?;
        socket.bind(SocketAddr::new(IpAddr::V4(*source), 0)).map_err(|e| format!("cannot bind to the own control end: {e}"))?;
    }
    let stream = timeout(STEP, socket.connect(way.to)).await.map_err(|_| "connecting took too long".to_owned())?.map_err(|e| format!("cannot connect: {e}"))?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// POSTs `body` to `path` at a peer's control listener. The answer: HTTP status and body (at most `CONTROL_BODY_MAX` bytes).
pub async fn ask(way: &Way, path: &str, bearer: Option<&str>, body: &[u8]) -> Result<(u16, Vec<u8>), String> {
    let exchange = async {
        let mut connection = Connection::new(dial(way).await?);
        let request = Request { method: Method::Post, target: path, host: "control", bearer, body: Some(("application/json", body)) };
        let mut response = connection.exchange(&request, STEP).await.map_err(|e| e.to_string())?;
        let mut whole = Vec::new();
        loop {
            let taken = {
                let mut piece = [0; 2048];
                let taken = connection.take(&mut response, &mut piece).map_err(|e| e.to_string())?;
                if let Taken::Bytes(n) = taken {
                    whole.extend_from_slice(&piece[..n]);
                }
                taken
            };
            match taken {
                Taken::Bytes(_) if whole.len() > CONTROL_BODY_MAX => return Err(format!("the answer is larger than {CONTROL_BODY_MAX} bytes")),
                Taken::Bytes(_) => {}
                Taken::Nothing => connection.fill(&mut response, STEP).await.map_err(|e| e.to_string())?,
                Taken::End => return Ok((response.status, whole)),
            }
        }
    };
    timeout(STEP, exchange).await.map_err(|_| "no whole answer within 10 s".to_owned())?
}
