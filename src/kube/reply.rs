//! What became of a [`Call`](crate::kube::call::Call), reduced to what a caller can act on.

use std::time::Duration;

/// The answer to one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// 2xx: the body as the API server sent it, at most `OBJECT_MAX` bytes.
    Done(Vec<u8>),
    /// 404.
    NotFound,
    /// 409: the name exists, or the UID or version sent is not the object's.
    Conflict,
    /// 410: the resourceVersion is too old.
    Expired,
    /// 400, 403, 422 and other refusals that trying again will not change; the API server's message, cut to 512 bytes.
    Refused(String),
    /// 401: the credential is not, or no longer, accepted.
    Unauthorized,
    /// 429, or 503 with `Retry-After`: try again after this long.
    Throttled(Duration),
    /// No answer, or 5xx: the call may or may not have happened. The reason in a few words.
    Unreachable(String),
    /// The forge could not make a body; nothing was sent.
    Unfit(super::call::Unfit),
}

/// Reads the HTTP status of a finished call. `retry_after` is the header of that name in seconds, `message` the Status object's.
pub fn from_status(status: u16, body: Vec<u8>, retry_after: Option<u64>) -> Reply {
    let wait = |s: u64| Duration::from_secs(s.clamp(1, 60));
    match (status, retry_after) {
        (200..=299, _) => Reply::Done(body),
        (401, _) => Reply::Unauthorized,
        (404, _) => Reply::NotFound,
        (409, _) => Reply::Conflict,
        (410, _) => Reply::Expired,
        (429, s) => Reply::Throttled(wait(s.unwrap_or(1))),
        (500..=599, Some(s)) => Reply::Throttled(wait(s)),
        (500..=599, None) => Reply::Unreachable(format!("the API server answered {status}: {}", message(&body))),
        _ => Reply::Refused(message(&body)),
    }
}

/// The `message` of a Kubernetes `Status` body, or its first bytes where it is none; at most 512 bytes, control characters replaced.
pub fn message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Status {
        message: Option<String>,
    }
    let text = match serde_json::from_slice::<Status>(body) {
        Ok(Status { message: Some(m) }) => m,
        _ => String::from_utf8_lossy(&body[..body.len().min(512)]).into_owned(),
    };
    let mut out = String::with_capacity(text.len().min(512));
    for c in text.chars() {
        if out.len() + c.len_utf8() > 512 {
            break;
        }
        out.push(if c.is_control() { ' ' } else { c });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_become_what_a_caller_can_act_on() {
        let status = br#"{"kind":"Status","message":"pods \"a\" is forbidden"}"#.to_vec();
        assert_eq!(from_status(201, b"{}".to_vec(), None), Reply::Done(b"{}".to_vec()));
        assert_eq!(from_status(403, status, None), Reply::Refused("pods \"a\" is forbidden".into()));
        assert_eq!(from_status(429, vec![], Some(3)), Reply::Throttled(Duration::from_secs(3)));
        assert_eq!(from_status(429, vec![], Some(1 << 40)), Reply::Throttled(Duration::from_secs(60)));
        assert_eq!(from_status(503, vec![], None), Reply::Unreachable("the API server answered 503: ".into()));
    }

    #[test]
    fn a_message_is_bounded_and_printable() {
        assert_eq!(message("\u{1b}[31mé".repeat(400).as_bytes()).chars().filter(|c| c.is_control()).count(), 0);
        assert!(message(&[0xff; 4000]).len() <= 512);
    }
}
