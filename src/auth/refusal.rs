//! Why a request is refused: one enum for the status, the message, the metric, on both sides of a control connection.
//!
//! Made by request and policy, answered by the authority, read back by the asking side. A refusal changes nothing.

use miniserde::{Deserialize, Serialize};

/// Why. The names are the metric's labels and what goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// No bearer, a wrong one, or an address that is no peer's.
    Unauthenticated,
    /// The body is not what the path wants.
    Unreadable,
    /// The body is larger than `CONTROL_BODY_MAX`.
    TooLarge,
    /// No such path.
    Path,
    /// Not with this method.
    Method,
    /// Not on this kind of session: enrolments may only enrol, peers may not.
    NotHere,
    /// No version is shared.
    Version,
    /// The ticket was redeemed by another.
    Used,
    /// The ticket has expired.
    Expired,
    /// The peering has ended.
    Left,
    /// The ID belongs to another peer.
    IdTaken,
    /// The ID is the other side's own.
    IdOurs,
    /// The ID is the name of a node.
    IdIsNode,
    /// The key belongs to a peer of another ID.
    KeyKnown,
    /// They are peers already.
    AlreadyPeered,
    /// The caller did not prove that the key is its own.
    Proof,
    /// A claimed prefix is not private, of a wrong size, or there are too many.
    Prefixes,
    /// No addresses are free for a claimed prefix.
    NoImage,
    /// No more peers fit.
    Full,
    /// Nothing was granted in this direction.
    NotGranted,
    /// What an earlier peering left is still being removed.
    Cleaning,
    /// The API server does not answer.
    ApiDown,
    /// The API server refuses.
    ApiRefused,
    /// An object of that name exists and is not ours.
    Foreign,
    /// The state could not be written.
    NotSaved,
    /// Too many requests of this peer are waiting.
    Busy,
    /// The other side never answered.
    NoAnswer,
}

/// Every reason with its name and HTTP status.
pub const REASONS: [(Reason, &str, u16); 27] = [
    (Reason::Unauthenticated, "unauthenticated", 401),
    (Reason::Unreadable, "unreadable", 400),
    (Reason::TooLarge, "too_large", 413),
    (Reason::Path, "path", 404),
    (Reason::Method, "method", 405),
    (Reason::NotHere, "not_here", 403),
    (Reason::Version, "version", 426),
    (Reason::Used, "used", 410),
    (Reason::Expired, "expired", 410),
    (Reason::Left, "left", 410),
    (Reason::IdTaken, "id_taken", 409),
    (Reason::IdOurs, "id_ours", 409),
    (Reason::IdIsNode, "id_is_node", 409),
    (Reason::KeyKnown, "key_known", 409),
    (Reason::AlreadyPeered, "already_peered", 409),
    (Reason::Proof, "proof", 403),
    (Reason::Prefixes, "prefixes", 422),
    (Reason::NoImage, "no_image", 422),
    (Reason::Full, "full", 507),
    (Reason::NotGranted, "not_granted", 403),
    (Reason::Cleaning, "cleaning", 503),
    (Reason::ApiDown, "api_down", 503),
    (Reason::ApiRefused, "api_refused", 502),
    (Reason::Foreign, "foreign", 409),
    (Reason::NotSaved, "not_saved", 503),
    (Reason::Busy, "busy", 429),
    (Reason::NoAnswer, "no_answer", 504),
];

impl Reason {
    /// Its name.
    pub fn name(self) -> &'static str {
        REASONS[self as usize].1
    }

    /// Its HTTP status.
    pub fn status(self) -> u16 {
        REASONS[self as usize].2
    }

    /// Whether asking again later may help.
    pub fn passes(self) -> bool {
        matches!(self, Reason::Cleaning | Reason::ApiDown | Reason::NotSaved | Reason::Busy)
    }
}

/// A refusal with the sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// What, where and what to do: one sentence, at most 512 bytes.
    pub message: String,
}

#[derive(Serialize, Deserialize)]
struct Form {
    reason: String,
    message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(reason: Reason, message: impl Into<String>) -> Refusal {
        Refusal { reason, message: message.into() }
    }

    /// The body of the answer.
    pub fn body(&self) -> String {
        miniserde::json::to_string(&Form { reason: self.reason.name().into(), message: self.message.clone() })
    }

    /// Reads an answer that is no 2xx. A reason that is not known is taken from the status; the message is bounded and printable.
    pub fn read(status: u16, body: &[u8]) -> Refusal {
        let form: Option<Form> = std::str::from_utf8(body).ok().and_then(|text| miniserde::json::from_str(text).ok());
        let named = form.as_ref().and_then(|f| REASONS.iter().find(|r| r.1 == f.reason));
        let reason = named.or_else(|| REASONS.iter().find(|r| r.2 == status)).map_or(if status >= 500 { Reason::ApiDown } else { Reason::Unreadable }, |r| r.0);
        let said = form.map_or_else(|| format!("the peer answered {status}"), |f| f.message);
        Refusal { reason, message: crate::auth::request::printable(&said, 512) }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_in_its_place_and_reads_back() {
        for (i, &(reason, name, status)) in REASONS.iter().enumerate() {
            assert_eq!(reason as usize, i, "{name}");
            let refusal = Refusal::new(reason, "because");
            assert_eq!(Refusal::read(status, refusal.body().as_bytes()), refusal);
        }
    }

    #[test]
    fn a_hostile_refusal_is_bounded_and_printable() {
        let read = Refusal::read(500, br#"{"reason":"new","message":"\u001b[31m"}"#);
        assert_eq!((read.reason, read.message.as_str()), (Reason::ApiDown, " [31m"));
        assert!(Refusal::read(410, format!(r#"{{"reason":"left","message":"{}"}}"#, "x".repeat(9000)).as_bytes()).message.len() <= 512);
        assert_eq!(Refusal::read(404, b"\xff").reason, Reason::Path);
    }
}
