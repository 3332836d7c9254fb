//! Any method, path and body is read as a control request, and any body as an answer, without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice::auth::refusal::Refusal;
use sluice::auth::request::{self, Asked, Credential, Enrolled, Hello};

fuzz_target!(|input: (u8, &str, &[u8])| {
    let (which, path, body) = input;
    let path = match which {
        0 => request::HELLO,
        1 => request::ENROL,
        2 => request::CREDENTIAL,
        3 => request::LEAVE,
        _ => path,
    };
    let method = if which == 255 { "CONNECT" } else { "POST" };
    match request::read(method, path, body) {
        Ok(Asked::Hello(hello)) => assert_eq!(request::read("POST", request::HELLO, hello.body().as_bytes()), Ok(Asked::Hello(hello))),
        Ok(Asked::Enrol(enrol)) => assert_eq!(request::read("POST", request::ENROL, enrol.body().as_bytes()), Ok(Asked::Enrol(enrol))),
        Ok(_) => {}
        Err(refusal) => assert_eq!(Refusal::read(refusal.reason.status(), refusal.body().as_bytes()).reason, refusal.reason),
    }
    let _ = (Hello::answered(body), Enrolled::answered(body), Credential::answered(body), Refusal::read(u16::from(which) * 4, body));
});
