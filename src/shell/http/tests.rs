//! Both halves against scripted streams, cut and damaged everywhere.

use super::*;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
async fn whoever_does_not_finish_is_slow() {
    let (near, _far) = tokio::io::duplex(4096);
    assert!(matches!(Connection::new(near).exchange(&GET, Duration::from_millis(20)).await, Err(Fault::Slow("the response"))));
    let (near, mut far) = tokio::io::duplex(4096);
    far.write_all(b"GET / HTTP/1.1\r\nHost:").await.expect("written");
    assert!(matches!(Connection::new(near).asked(10, Duration::from_millis(20)).await, Err(Fault::Slow("the request"))));
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
    let (mut stream, rest) = connection.into_stream_and_rest();
    assert!(rest.is_empty());
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

#[tokio::test]
async fn damaged_heads_and_bodies_never_panic() {
    let whole = [
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nRetry-After: 5\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
        "HTTP/1.1 307 X\r\nLocation: /x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
        "POST /v1/hello?a=b HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer x\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "CONNECT api:443 HTTP/1.1\r\nHost: api:443\r\nContent-Length: 5\r\n\r\n12345",
        "HEAD * HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ];
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    let mut roll = |limit: usize| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice % limit as u64) as usize
    };
    for _ in 0..4000 {
        let mut bytes = whole[roll(whole.len())].as_bytes().to_vec();
        for _ in 0..=roll(5) {
            let (at, to) = (roll(bytes.len()), roll(bytes.len()));
            match roll(4) {
                0 => bytes[at] = roll(256) as u8,
                1 => bytes[at] = b" :;\r\n0f*/"[roll(9)],
                2 => bytes.truncate(at.max(1)),
                _ => bytes.copy_within(at.min(to)..at.max(to), 0),
            }
        }
        let mut server = Connection::new(tokio::io::join(&bytes[..], tokio::io::sink()));
        if let Ok((asked, turn)) = server.asked(64, LIMIT).await {
            assert!(asked.body.len() <= 64);
            let _ = server.answer(turn, 200, b"{}", LIMIT).await;
        }
        for (method, target) in [(Method::Get, "/api"), (Method::Connect, "api:443")] {
            let mut client = Connection::new(tokio::io::join(&bytes[..], tokio::io::sink()));
            let request = Request { method, target, host: "api", bearer: Some("t"), body: None };
            let Ok(mut response) = client.exchange(&request, LIMIT).await else { continue };
            let mut piece = [0; 16];
            while match client.take(&mut response, &mut piece) {
                Ok(Taken::Bytes(_)) => true,
                Ok(Taken::Nothing) => client.fill(&mut response, LIMIT).await.is_ok(),
                _ => false,
            } {}
        }
    }
}
