//! Any bytes as a request to the control listener and as an API server's response: no panic, and bodies stay within their bounds.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use sluice::shell::http::{Connection, Method, Request, Taken};
use tokio::io::{join, sink};

const LIMIT: Duration = Duration::from_secs(5);

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let mut server = Connection::new(join(bytes, sink()));
        if let Ok((asked, turn)) = server.asked(1024, LIMIT).await {
            assert!(asked.body.len() <= 1024);
            let _ = server.answer(turn, 200, b"{}", LIMIT).await;
        }
        for (method, target) in [(Method::Get, "/api"), (Method::Connect, "api:443")] {
            let mut client = Connection::new(join(bytes, sink()));
            let request = Request { method, target, host: "api", bearer: Some("t"), body: None };
            let Ok(mut response) = client.exchange(&request, LIMIT).await else { continue };
            let mut whole = 0;
            let mut piece = [0; 64];
            loop {
                match client.take(&mut response, &mut piece) {
                    Ok(Taken::Bytes(n)) => whole += n,
                    Ok(Taken::Nothing) if client.fill(&mut response, LIMIT).await.is_ok() => {}
                    _ => break,
                }
            }
            assert!(whole <= bytes.len());
        }
    });
});
