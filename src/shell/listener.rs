//! The control listener: what peers may ask, on our own control end, through the TUN device and no other.
//!
//! Reads one bounded request a connection, hands it to the driver with the caller's address and the bearer it showed, and sends
//! back what the driver answers. It proves nobody: auth does. An approved CONNECT becomes a passage to the one configured API
//! server; the caller names no target. Every table is bounded and says what happens when it is full.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::dial::{Way, dial};
use super::http::{Connection, Fault};
use super::passage::pipe;
use crate::budget::{CONTROL_BODY_MAX, CONTROL_CONNECTIONS, CONTROL_CONNECTIONS_EACH, PASSAGES, PASSAGES_EACH};

/// How long a caller may take to say what it wants.
const ASKING: Duration = Duration::from_secs(5);
/// How long the driver may take to answer, and how long sending the answer may take.
const ANSWERING: Duration = Duration::from_secs(10);
/// How long a passage may be silent. Watches tell a bookmark about once a minute.
const PASSAGE_IDLE: Duration = Duration::from_secs(300);
/// A pause after an accept that failed for want of something.
const WANT: Duration = Duration::from_millis(200);
/// The third octet of the peers' control ends in the external range (see [`crate::auth::addresses::External`]).
const PEERS_CONTROL: u8 = 1;

/// A request by a caller inside the tunnel.
#[derive(Debug)]
pub struct Asked {
    /// The caller, by the address its row has on this host.
    pub from: Ipv4Addr,
    /// The method, as sent.
    pub method: String,
    /// Path and query; the authority for CONNECT, of no meaning.
    pub path: String,
    /// What was shown as `Authorization: Bearer`.
    pub bearer: Option<String>,
    /// At most `CONTROL_BODY_MAX` bytes.
    pub body: Vec<u8>,
    /// Where the answer goes. Dropped: the caller gets 503.
    pub answer: oneshot::Sender<Answer>,
}

/// The driver's answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// A status with a JSON body; an empty one is sent as `{}`.
    Json(u16, Vec<u8>),
    /// This CONNECT may go on. To any other method it is a 500.
    Passage,
}

/// Why a connection was not served; the names are the counters'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// All places are taken.
    Full,
    /// All places for this caller are taken.
    FullForCaller,
    /// No whole request in time.
    Slow,
    /// Head or body too large.
    TooLarge,
    /// Not HTTP/1.1.
    NotHttp,
    /// The driver did not answer in time.
    Unanswered,
    /// The local API server cannot be reached.
    NoApiServer,
}

impl Refusal {
    /// All of them, in the order of the counters.
    pub const ALL: [Refusal; 7] =
        [Refusal::Full, Refusal::FullForCaller, Refusal::Slow, Refusal::TooLarge, Refusal::NotHttp, Refusal::Unanswered, Refusal::NoApiServer];

    /// The counter's name.
    pub const fn name(self) -> &'static str {
        match self {
            Refusal::Full => "full",
            Refusal::FullForCaller => "full_for_caller",
            Refusal::Slow => "slow",
            Refusal::TooLarge => "too_large",
            Refusal::NotHttp => "not_http",
            Refusal::Unanswered => "unanswered",
            Refusal::NoApiServer => "no_api_server",
        }
    }
}

/// Opens the listening socket on the own control end, bound to the device.
pub fn bind(address: SocketAddr, interface: Option<&str>) -> Result<TcpListener, String> {
    let open = || -> std::io::Result<TcpListener> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind_device(interface.map(str::as_bytes))?;
        socket.bind(address)?;
        socket.listen(CONTROL_CONNECTIONS as u32)
    };
    open().map_err(|e| format!("cannot listen on the control end, port {}: {e}", address.port()))
}

/// A running control listener. Dropped, it and all its connections end.
pub struct Control {
    doors: Arc<Doors>,
    accepting: AbortHandle,
    requests: mpsc::Sender<Asked>,
}

impl Control {
    /// Serves `listener`; requests go to `requests`, passages lead to `api_server`.
    pub fn serve(listener: TcpListener, api_server: SocketAddr, requests: mpsc::Sender<Asked>) -> Control {
        let doors = Arc::new(Doors::default());
        doors.lead_to(api_server);
        let accepting = tokio::spawn(accept(doors.clone(), listener, requests.clone())).abort_handle();
        Control { doors, accepting, requests }
    }

    /// Serves another listener instead, for the device that the old one was bound to is gone; so are its connections.
    pub fn listen_on(&mut self, listener: TcpListener) {
        self.accepting.abort();
        self.doors.close(|_| true);
        self.accepting = tokio::spawn(accept(self.doors.clone(), listener, self.requests.clone())).abort_handle();
    }

    /// From now on passages lead to this API server.
    pub fn lead_to(&self, api_server: SocketAddr) {
        self.doors.lead_to(api_server);
    }

    /// Ends all connections of a caller, passages too: a peer that left.
    pub fn close(&self, from: Ipv4Addr) {
        self.doors.close(|row| row.from == from);
    }

    /// Refusals so far, in the order of [`Refusal::ALL`].
    pub fn refusals(&self) -> [u64; Refusal::ALL.len()] {
        self.doors.table().refused
    }

    /// Requests and passages under way.
    pub fn open(&self) -> (usize, usize) {
        let table = self.doors.table();
        let passages = table.rows.values().filter(|r| r.passage).count();
        (table.rows.len() - passages, passages)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.accepting.abort();
        self.doors.close(|_| true);
    }
}

/// Who is inside.
#[derive(Default)]
struct Doors(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// Where passages lead.
    api_server: Option<SocketAddr>,
    rows: BTreeMap<u64, Row>,
    next: u64,
    refused: [u64; Refusal::ALL.len()],
}

struct Row {
    from: Ipv4Addr,
    passage: bool,
    task: Option<AbortHandle>,
}

impl Table {
    /// Whether there is a place for a request (or passage) of this caller, besides those in the table.
    fn place(&self, from: Ipv4Addr, passage: bool) -> Result<(), Refusal> {
        let [most, most_each] = if passage { [PASSAGES, PASSAGES_EACH] } else { [CONTROL_CONNECTIONS, CONTROL_CONNECTIONS_EACH] };
        let alike = self.rows.values().filter(|r| r.passage == passage);
        let each = alike.clone().filter(|r| r.from == from).count();
        match (alike.count() >= most, each >= most_each) {
            (_, true) => Err(Refusal::FullForCaller),
            (true, _) => Err(Refusal::Full),
            _ => Ok(()),
        }
    }
}

impl Doors {
    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lead_to(&self, api_server: SocketAddr) {
        self.table().api_server = Some(api_server);
    }

    fn api_server(&self) -> Option<SocketAddr> {
        self.table().api_server
    }

    fn count(&self, refusal: Refusal) {
        self.table().refused[refusal as usize] += 1;
    }

    fn close(&self, which: impl Fn(&Row) -> bool) {
        for row in self.table().rows.values().filter(|row| which(row)) {
            if let Some(task) = &row.task {
                task.abort();
            }
        }
    }
}

/// A place inside, given back when dropped.
struct Place {
    doors: Arc<Doors>,
    number: u64,
}

impl Place {
    fn take(doors: &Arc<Doors>, from: Ipv4Addr) -> Result<Place, Refusal> {
        let mut table = doors.table();
        table.place(from, false)?;
        let number = table.next;
        table.next += 1;
        table.rows.insert(number, Row { from, passage: false, task: None });
        Ok(Place { doors: doors.clone(), number })
    }

    /// From a request's place to a passage's.
    fn become_passage(&self) -> Result<(), Refusal> {
        let mut table = self.doors.table();
        let from = table.rows.get(&self.number).map_or(Ipv4Addr::UNSPECIFIED, |r| r.from);
        table.place(from, true)?;
        if let Some(row) = table.rows.get_mut(&self.number) {
            row.passage = true;
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.doors.table().rows.remove(&self.number);
    }
}

/// Under whose name a connection counts: a peer's control end under its own; all others, which can only be refused, as one: a peer's pods
/// reach this port too, and have a prefix full of addresses.
fn caller(from: Ipv4Addr, own: Ipv4Addr) -> Ipv4Addr {
    let (a, b) = (from.octets(), own.octets());
    if a[..2] == b[..2] && a[2] == PEERS_CONTROL { from } else { Ipv4Addr::UNSPECIFIED }
}

async fn accept(doors: Arc<Doors>, listener: TcpListener, requests: mpsc::Sender<Asked>) {
    let own = match listener.local_addr() {
        Ok(SocketAddr::V4(own)) => *own.ip(),
        _ => Ipv4Addr::UNSPECIFIED,
    };
    loop {
        let (stream, from) = match listener.accept().await {
            Ok((stream, SocketAddr::V4(from))) => (stream, *from.ip()),
            Ok(_) => continue,
            Err(_) => {
                tokio::time::sleep(WANT).await;
                continue;
            }
        };
        match Place::take(&doors, caller(from, own)) {
            // Closed without a word: whoever fills our places gets no more of our time.
            Err(refusal) => doors.count(refusal),
            Ok(place) => {
                let number = place.number;
                let task = tokio::spawn(serve(place, stream, from, requests.clone())).abort_handle();
                if let Some(row) = doors.table().rows.get_mut(&number) {
                    row.task = Some(task);
                }
            }
        }
    }
}

async fn serve(place: Place, stream: TcpStream, from: Ipv4Addr, requests: mpsc::Sender<Asked>) {
    let _ = stream.set_nodelay(true);
    let mut connection = Connection::new(stream);
    let (asked, turn) = match connection.asked(CONTROL_BODY_MAX, ASKING).await {
        Ok(asked) => asked,
        Err(fault) => {
            let (refusal, status) = match fault {
                Fault::Slow(_) => (Refusal::Slow, 408),
                Fault::TooLarge(_) => (Refusal::TooLarge, 413),
                Fault::Bad(_) => (Refusal::NotHttp, 400),
                Fault::Unanswered | Fault::Cut | Fault::Io(_) => return,
            };
            place.doors.count(refusal);
            return connection.dismiss(status, ANSWERING).await;
        }
    };
    let connect = asked.method == "CONNECT";
    let (answer, answered) = oneshot::channel();
    let asked = Asked { from, method: asked.method, path: asked.target, bearer: asked.bearer, body: asked.body, answer };
    let answer = timeout(ANSWERING, async { if requests.send(asked).await.is_ok() { answered.await.ok() } else { None } }).await.ok().flatten();
    let (status, body) = match answer {
        Some(Answer::Json(status, body)) => (status, body),
        Some(Answer::Passage) if connect => match open_passage(&place).await {
            Ok(server) => {
                if connection.answer(turn, 200, b"", ANSWERING).await.is_ok() {
                    let (peer, early) = connection.into_stream_and_rest();
                    pipe(peer, early, server, PASSAGE_IDLE).await;
                }
                return;
            }
            Err(refusal) => {
                place.doors.count(refusal);
                (if refusal == Refusal::NoApiServer { 502 } else { 503 }, Vec::new())
            }
        },
        Some(Answer::Passage) => (500, Vec::new()),
        None => {
            place.doors.count(Refusal::Unanswered);
            (503, Vec::new())
        }
    };
    let body = if body.is_empty() { b"{}".to_vec() } else { body };
    let _ = connection.answer(turn, status, &body, ANSWERING).await;
    connection.shutdown(ANSWERING).await;
}

async fn open_passage(place: &Place) -> Result<TcpStream, Refusal> {
    place.become_passage()?;
    let Some(to) = place.doors.api_server() else { return Err(Refusal::NoApiServer) };
    dial(&Way { to, through: None }).await.map_err(|_| Refusal::NoApiServer)
}

/// The address part of an own control end with its port.
pub fn control_address(own: Ipv4Addr) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(own), crate::identity::CONTROL_PORT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::PeerId;
    use crate::kube::call::{Body, Call, Cluster, Verb};
    use crate::kube::reply::Reply;
    use crate::shell::dial::{Through, ask};
    use crate::shell::testing::{Then, api, response, serve as serve_api};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

    /// A listener on loopback whose driver answers by `decide`.
    fn control(api_server: SocketAddr, decide: impl Fn(&Asked) -> Option<Answer> + Send + 'static) -> (Control, Way) {
        let listener = bind(SocketAddr::from((HERE, 0)), Some("lo")).expect("a listener");
        let to = listener.local_addr().expect("an address");
        let (requests, mut heard) = mpsc::channel::<Asked>(1);
        tokio::spawn(async move {
            while let Some(asked) = heard.recv().await {
                if let Some(answer) = decide(&asked) {
                    let _ = asked.answer.send(answer);
                }
            }
        });
        let way = Way { to, through: Some(Through { source: Ipv4Addr::new(127, 0, 1, 9), interface: "lo".into() }) };
        (Control::serve(listener, api_server, requests), way)
    }

    fn nowhere() -> SocketAddr {
        SocketAddr::from((HERE, 1))
    }

    #[tokio::test]
    async fn a_question_reaches_the_driver_with_its_caller_and_comes_back_answered() {
        let (control, way) = control(nowhere(), |asked| {
            let text = format!("{} {} {} {:?} {}", asked.from, asked.method, asked.path, asked.bearer, String::from_utf8_lossy(&asked.body));
            Some(Answer::Json(409, text.into_bytes()))
        });
        let answer = ask(&way, "/v1/hello", Some("proof"), b"{\"a\":1}").await;
        assert_eq!(answer, Ok((409, b"127.0.1.9 POST /v1/hello Some(\"proof\") {\"a\":1}".to_vec())));
        assert_eq!(control.refusals(), [0; 7]);
    }

    #[tokio::test]
    async fn a_driver_that_drops_the_question_is_a_503() {
        let (control, way) = control(nowhere(), |_| None);
        assert_eq!(ask(&way, "/", None, b"").await, Ok((503, b"{}".to_vec())));
        assert_eq!(control.refusals()[Refusal::Unanswered as usize], 1);
    }

    #[tokio::test]
    async fn what_is_too_large_or_no_request_is_refused_and_counted() {
        let (control, way) = control(nowhere(), |_| Some(Answer::Json(200, Vec::new())));
        assert_eq!(ask(&way, "/", None, &[b'x'; CONTROL_BODY_MAX]).await, Ok((200, b"{}".to_vec())));
        let _ = ask(&way, "/", None, &[b'x'; CONTROL_BODY_MAX + 1]).await;
        let mut stranger = TcpStream::connect(way.to).await.expect("connected");
        stranger.write_all(b"\x16\x03\x01hello").await.expect("written");
        let mut answer = String::new();
        stranger.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert_eq!((control.refusals()[Refusal::TooLarge as usize], control.refusals()[Refusal::NotHttp as usize]), (1, 1));
    }

    #[tokio::test]
    async fn one_caller_cannot_take_the_places_of_another() {
        let (control, way) = control(nowhere(), |_| Some(Answer::Json(200, Vec::new())));
        let mut silent = Vec::new();
        for _ in 0..CONTROL_CONNECTIONS_EACH {
            silent.push(TcpStream::connect(way.to).await.expect("connected"));
        }
        let mut ninth = TcpStream::connect(way.to).await.expect("connected");
        assert_eq!(ninth.read(&mut [0; 8]).await.unwrap_or(0), 0, "closed at once");
        assert_eq!(ask(&way, "/", None, b"").await, Ok((200, b"{}".to_vec())), "another caller is served");
        assert_eq!(control.refusals()[Refusal::FullForCaller as usize], 1);
        control.close(Ipv4Addr::UNSPECIFIED);
        assert_eq!(silent[0].read(&mut [0; 8]).await.unwrap_or(0), 0, "closed by name");
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(control.open(), (0, 0));
    }

    #[test]
    fn all_who_are_no_peers_control_end_count_as_one() {
        let own = Ipv4Addr::new(10, 70, 0, 2);
        for (from, counted) in [([10, 70, 1, 1], [10, 70, 1, 1]), ([10, 70, 2, 1], [0; 4]), ([10, 71, 1, 1], [0; 4]), ([10, 70, 0, 2], [0; 4])] {
            assert_eq!(caller(from.into(), own), Ipv4Addr::from(counted));
        }
    }

    #[tokio::test]
    async fn a_call_goes_through_the_passage_only_with_its_bearer() {
        let fake = serve_api(|_, _| Then::Send(response(200, "through"))).await;
        let (control, way) = control(fake.address, |asked| {
            Some(match (asked.method.as_str(), asked.bearer.as_deref()) {
                ("CONNECT", Some("proof")) => Answer::Passage,
                _ => Answer::Json(401, Vec::new()),
            })
        });
        let (api, _notices) = api();
        let peer = Cluster::Peer(PeerId(0));
        for (bearer, expected) in
            [("proof", Reply::Done(b"through".to_vec())), ("guess", Reply::Unreachable("the peer's API passage: CONNECT was answered 401".into()))]
        {
            let mut target = fake.target();
            target.way = way.clone();
            target.passage = Some(bearer.into());
            api.set_target(peer, target);
            let (answers, mut heard) = mpsc::channel(1);
            api.call((), Call { to: peer, verb: Verb::Get, path: "/x".into(), body: Body::None }, answers);
            assert_eq!(heard.recv().await.expect("an answer").1, expected);
        }
        assert_eq!(fake.heard().len(), 1);
        drop(control);
    }

    #[tokio::test]
    async fn a_passage_without_an_api_server_is_a_502() {
        let (control, way) = control(nowhere(), |_| Some(Answer::Passage));
        let mut connection = Connection::new(dial(&way).await.expect("connected"));
        let request = crate::shell::http::Request { method: crate::shell::http::Method::Connect, target: "api:443", host: "api:443", bearer: None, body: None };
        assert_eq!(connection.exchange(&request, ANSWERING).await.expect("an answer").status, 502);
        assert_eq!(control.refusals()[Refusal::NoApiServer as usize], 1);
        assert_eq!(ask(&way, "/", None, b"").await.map(|a| a.0), Ok(500), "a passage is for CONNECT alone");
    }
}
