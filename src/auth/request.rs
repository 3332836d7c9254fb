//! The control requests and their answers as values: bytes in, values out, and back. Parsed and bounded, not judged.
//!
//! Called by the authority for both roles, answering and asking. Unknown fields are ignored, so that versions can differ.
//! Paths: POST /v1/hello, /v1/enrol, /v1/credential, /v1/leave; CONNECT opens the API passage, whatever target it names.

use super::base64url;
use super::refusal::{Reason, Refusal};
use super::resources::Resources;
use crate::budget;
use crate::clock::WallTime;
use crate::identity::{ClusterId, Prefix, PublicKey};
use miniserde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The range of protocol versions spoken here, both ends included.
pub const VERSIONS: (u32, u32) = (1, 1);
/// Prefixes that are read; how many may be claimed is the policy's matter.
const PREFIXES_READ: usize = 16;

/// The paths.
pub const HELLO: &str = "/v1/hello";
/// See the module's head.
pub const ENROL: &str = "/v1/enrol";
/// See the module's head.
pub const CREDENTIAL: &str = "/v1/credential";
/// See the module's head.
pub const LEAVE: &str = "/v1/leave";

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// Who are you, which versions, what time is it.
    Hello(Hello),
    /// Let me in.
    Enrol(Enrol),
    /// A fresh API credential.
    Credential,
    /// The peering has ended.
    Leave,
    /// Bytes to and from the API server.
    Passage,
}

/// What each side says of itself, asked or answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Hello {
    /// Protocol versions spoken, lowest and highest.
    pub versions: (u32, u32),
    /// Its ID.
    pub id: ClusterId,
    /// Its pod prefixes.
    pub prefixes: Vec<Prefix>,
    /// Under which it sees the hearer's prefixes; empty before an enrolment.
    pub seen_as: Vec<Prefix>,
    /// Its nodes' architecture.
    pub architecture: String,
    /// Its wall clock.
    pub time: WallTime,
    /// The hearer's gateway as seen from there.
    pub you: Option<SocketAddr>,
}

/// The joiner's request for a peering.
#[derive(Clone, Debug, PartialEq)]
pub struct Enrol {
    /// The protocol version chosen after `hello`.
    pub version: u32,
    /// Its ID.
    pub id: ClusterId,
    /// Its key.
    pub key: PublicKey,
    /// The bearer that this key gives towards the inviter: only its holder can know it.
    pub proof: String,
    /// Its pod prefixes.
    pub prefixes: Vec<Prefix>,
    /// Its nodes' architecture.
    pub architecture: String,
    /// Whether it wants what the ticket offers.
    pub consume: bool,
    /// What it lends.
    pub provide: Option<Resources>,
}

/// The inviter's answer to [`Enrol`].
#[derive(Clone, Debug, PartialEq)]
pub struct Enrolled {
    /// The inviter.
    pub id: ClusterId,
    /// Its pod prefixes.
    pub prefixes: Vec<Prefix>,
    /// Under which it sees the joiner's.
    pub seen_as: Vec<Prefix>,
    /// Its nodes' architecture.
    pub architecture: String,
    /// What the joiner may use.
    pub consume: Option<Resources>,
    /// What of the joiner's the inviter uses.
    pub provide: Option<Resources>,
    /// For the joiner's first call, if it consumes.
    pub credential: Option<Credential>,
}

/// What opens a provider's API server.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The bearer token.
    pub token: String,
    /// Its life in seconds from now.
    pub lifetime: u64,
    /// The CA bundle, PEM.
    pub ca: String,
    /// The name in the API server's certificate.
    pub name: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credential({} s, {})", self.lifetime, self.name)
    }
}

/// Reads a request. The head (method, path) has been bounded by the listener.
pub fn read(method: &str, path: &str, body: &[u8]) -> Result<Asked, Refusal> {
    if method == "CONNECT" {
        return Ok(Asked::Passage);
    }
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    if ![HELLO, ENROL, CREDENTIAL, LEAVE].contains(&path) {
        return Err(Refusal::new(Reason::Path, "there is no such path here; this is sluice's auth service"));
    }
    if method != "POST" {
        return Err(Refusal::new(Reason::Method, format!("{path} is asked with POST")));
    }
    match path {
        HELLO => form::<HelloForm>(body)?.read().map(Asked::Hello),
        ENROL => form::<EnrolForm>(body)?.read().map(Asked::Enrol),
        CREDENTIAL => Ok(Asked::Credential),
        _ => Ok(Asked::Leave),
    }
}

/// The highest version both speak.
pub fn shared_version(theirs: (u32, u32)) -> Result<u32, Refusal> {
    let (low, high) = (theirs.0.max(VERSIONS.0), theirs.1.min(VERSIONS.1));
    if low > high {
        let says = format!(
            "no protocol version is shared: one side speaks {} to {}, the other {} to {}; update the older sluice",
            theirs.0, theirs.1, VERSIONS.0, VERSIONS.1
        );
        return Err(Refusal::new(Reason::Version, says));
    }
    Ok(high)
}

/// At most `most` bytes of `text`, control characters replaced.
pub(super) fn printable(text: &str, most: usize) -> String {
    let mut out = String::with_capacity(text.len().min(most));
    for c in text.chars() {
        if out.len() + c.len_utf8() > most {
            break;
        }
        out.push(if c.is_control() { ' ' } else { c });
    }
    out
}

#[derive(Serialize, Deserialize)]
struct HelloForm {
    min: u32,
    max: u32,
    id: String,
    prefixes: Vec<String>,
    seen_as: Option<Vec<String>>,
    architecture: Option<String>,
    time: i64,
    you: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct EnrolForm {
    version: u32,
    id: String,
    key: String,
    proof: String,
    prefixes: Vec<String>,
    architecture: Option<String>,
    consume: bool,
    provide: Option<Resources>,
}

#[derive(Serialize, Deserialize)]
struct EnrolledForm {
    id: String,
    prefixes: Vec<String>,
    seen_as: Option<Vec<String>>,
    architecture: Option<String>,
    consume: Option<Resources>,
    provide: Option<Resources>,
    credential: Option<CredentialForm>,
}

#[derive(Serialize, Deserialize)]
struct CredentialForm {
    token: String,
    lifetime: u64,
    ca: String,
    name: String,
}

fn form<T: Deserialize>(body: &[u8]) -> Result<T, Refusal> {
    if body.len() > budget::CONTROL_BODY_MAX {
        return Err(Refusal::new(Reason::TooLarge, format!("a body has at most {} bytes", budget::CONTROL_BODY_MAX)));
    }
    let text = std::str::from_utf8(body).map_err(|_| unreadable("the body is not UTF-8"))?;
    miniserde::json::from_str(text).map_err(|_| unreadable("the body is not the JSON that is wanted here"))
}

fn unreadable(what: &str) -> Refusal {
    Refusal::new(Reason::Unreadable, what)
}

fn id(text: &str) -> Result<ClusterId, Refusal> {
    text.parse().map_err(|why| unreadable(&format!("the ID cannot be used: {why}")))
}

fn prefixes(texts: &[String]) -> Result<Vec<Prefix>, Refusal> {
    if texts.len() > PREFIXES_READ {
        return Err(unreadable("there are too many prefixes"));
    }
    texts.iter().map(|t| t.parse().map_err(|why| unreadable(&format!("'{}' is no prefix: {why}", printable(t, 40))))).collect()
}

fn images(texts: &Option<Vec<String>>) -> Result<Vec<Prefix>, Refusal> {
    let mut read = prefixes(texts.as_deref().unwrap_or_default())?;
    read.truncate(budget::PREFIXES);
    Ok(read)
}

fn architecture(text: Option<String>) -> Result<String, Refusal> {
    let text = text.unwrap_or_default();
    let plain = text.len() <= 32 && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-');
    if plain { Ok(text) } else { Err(unreadable("the architecture is no short word")) }
}

fn lent(amounts: Option<Resources>) -> Result<Option<Resources>, Refusal> {
    if amounts.is_some_and(|r| !r.some_of_each()) { Err(unreadable("resources of zero are lent")) } else { Ok(amounts) }
}

impl HelloForm {
    fn read(self) -> Result<Hello, Refusal> {
        Ok(Hello {
            versions: (self.min, self.max),
            id: id(&self.id)?,
            prefixes: prefixes(&self.prefixes)?,
            seen_as: images(&self.seen_as)?,
            architecture: architecture(self.architecture)?,
            time: WallTime(self.time),
            you: self.you.and_then(|a| a.parse().ok()),
        })
    }
}

impl EnrolForm {
    fn read(self) -> Result<Enrol, Refusal> {
        Ok(Enrol {
            version: self.version,
            id: id(&self.id)?,
            key: base64url::public_key(&self.key).ok_or_else(|| unreadable("the key is not 32 bytes in base64url"))?,
            proof: if self.proof.len() <= 128 { self.proof } else { return Err(unreadable("the proof is too long")) },
            prefixes: prefixes(&self.prefixes)?,
            architecture: architecture(self.architecture)?,
            consume: self.consume,
            provide: lent(self.provide)?,
        })
    }
}

impl CredentialForm {
    fn read(self) -> Result<Credential, Refusal> {
        let plain = !self.token.is_empty() && self.token.bytes().all(|c| c.is_ascii_graphic());
        if !plain || self.lifetime < 10 || self.name.is_empty() || self.name.len() > 253 || !self.ca.contains("-----BEGIN CERTIFICATE-----") {
            return Err(unreadable("the credential makes no sense"));
        }
        Ok(Credential { token: self.token, lifetime: self.lifetime.min(86_400), ca: self.ca, name: self.name })
    }

    fn from(c: &Credential) -> CredentialForm {
        CredentialForm { token: c.token.clone(), lifetime: c.lifetime, ca: c.ca.clone(), name: c.name.clone() }
    }
}

fn texts(prefixes: &[Prefix]) -> Vec<String> {
    prefixes.iter().map(ToString::to_string).collect()
}

impl Hello {
    /// The body of the request, or of the answer.
    pub fn body(&self) -> String {
        miniserde::json::to_string(&HelloForm {
            min: self.versions.0,
            max: self.versions.1,
            id: self.id.to_string(),
            prefixes: texts(&self.prefixes),
            seen_as: Some(texts(&self.seen_as)),
            architecture: Some(self.architecture.clone()),
            time: self.time.0,
            you: self.you.map(|a| a.to_string()),
        })
    }

    /// Reads an answer.
    pub fn answered(body: &[u8]) -> Result<Hello, Refusal> {
        form::<HelloForm>(body)?.read()
    }
}

impl Enrol {
    /// The body of the request.
    pub fn body(&self) -> String {
        miniserde::json::to_string(&EnrolForm {
            version: self.version,
            id: self.id.to_string(),
            key: base64url::encode(&self.key.0),
            proof: self.proof.clone(),
            prefixes: texts(&self.prefixes),
            architecture: Some(self.architecture.clone()),
            consume: self.consume,
            provide: self.provide,
        })
    }
}

impl Enrolled {
    /// The body of the answer.
    pub fn body(&self) -> String {
        miniserde::json::to_string(&EnrolledForm {
            id: self.id.to_string(),
            prefixes: texts(&self.prefixes),
            seen_as: Some(texts(&self.seen_as)),
            architecture: Some(self.architecture.clone()),
            consume: self.consume,
            provide: self.provide,
            credential: self.credential.as_ref().map(CredentialForm::from),
        })
    }

    /// Reads an answer.
    pub fn answered(body: &[u8]) -> Result<Enrolled, Refusal> {
        let it = form::<EnrolledForm>(body)?;
        Ok(Enrolled {
            id: id(&it.id)?,
            prefixes: prefixes(&it.prefixes)?,
            seen_as: images(&it.seen_as)?,
            architecture: architecture(it.architecture)?,
            consume: lent(it.consume)?,
            provide: lent(it.provide)?,
            credential: it.credential.map(CredentialForm::read).transpose()?,
        })
    }
}

impl Credential {
    /// The body of the answer.
    pub fn body(&self) -> String {
        miniserde::json::to_string(&CredentialForm::from(self))
    }

    /// Reads an answer.
    pub fn answered(body: &[u8]) -> Result<Credential, Refusal> {
        form::<CredentialForm>(body)?.read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO_BODY: &str = r#"{"min":1,"max":3,"id":"shop","prefixes":["10.42.0.0/16"],"time":5,"news":{"a":[1,{}]}}"#;

    #[test]
    fn requests_read_back_as_written_and_unknown_fields_are_passed_over() {
        let Ok(Asked::Hello(hello)) = read("POST", HELLO, HELLO_BODY.as_bytes()) else { panic!("a hello") };
        assert_eq!(Hello::answered(hello.body().as_bytes()), Ok(hello.clone()));
        let enrol = Enrol {
            version: 1,
            id: hello.id,
            key: PublicKey([5; 32]),
            proof: "p".into(),
            prefixes: hello.prefixes,
            architecture: "arm64".into(),
            consume: true,
            provide: None,
        };
        assert_eq!(read("POST", ENROL, enrol.body().as_bytes()), Ok(Asked::Enrol(enrol)));
        assert_eq!(read("CONNECT", "anything:443", b""), Ok(Asked::Passage));
        assert_eq!(read("POST", LEAVE, b""), Ok(Asked::Leave));
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        for (method, path, body, reason) in [
            ("GET", HELLO, HELLO_BODY, Reason::Method),
            ("POST", "/v2/hello", HELLO_BODY, Reason::Path),
            ("POST", "", "", Reason::Path),
            ("POST", HELLO, "", Reason::Unreadable),
            ("POST", HELLO, &HELLO_BODY[..30], Reason::Unreadable),
            ("POST", HELLO, &HELLO_BODY.replace("shop", "-shop"), Reason::Unreadable),
            ("POST", HELLO, &HELLO_BODY.replace("10.42.0.0/16", "10.42.0.1/16"), Reason::Unreadable),
            ("POST", HELLO, &HELLO_BODY.replace("\"time\":5", "\"time\":1e99"), Reason::Unreadable),
            ("POST", ENROL, HELLO_BODY, Reason::Unreadable),
            ("POST", HELLO, &"[".repeat(10_000), Reason::Unreadable),
            ("POST", HELLO, &" ".repeat(budget::CONTROL_BODY_MAX + 1), Reason::TooLarge),
        ] {
            assert_eq!(read(method, path, body.as_bytes()).map_err(|r| r.reason), Err(reason), "{method} {path} {:.40}", body);
        }
        assert!(read("POST", HELLO, b"\xff\xff").is_err());
    }

    #[test]
    fn the_highest_shared_version_is_taken() {
        assert_eq!(shared_version((1, 9)), Ok(1));
        assert_eq!(shared_version((0, 1)), Ok(1));
        assert!(shared_version((2, 9)).unwrap_err().message.contains("2 to 9"));
        assert!(shared_version((9, 2)).is_err());
        assert!(shared_version((0, u32::MAX)).is_ok());
    }

    #[test]
    fn a_credential_that_makes_no_sense_is_not_taken() {
        let good = Credential { token: "a.b.c".into(), lifetime: 3600, ca: "-----BEGIN CERTIFICATE-----".into(), name: "kubernetes".into() };
        assert_eq!(Credential::answered(good.body().as_bytes()), Ok(good.clone()));
        for bad in [
            Credential { token: "a\nb".into(), ..good.clone() },
            Credential { lifetime: 0, ..good.clone() },
            Credential { ca: String::new(), ..good.clone() },
            Credential { name: String::new(), ..good },
        ] {
            assert!(Credential::answered(bad.body().as_bytes()).is_err());
        }
    }
}
