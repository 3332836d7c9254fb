//! The one line that lets one cluster in: made here, read here, and what its secret yields.
//!
//! Called by the authority (invite, join) and the CLI (to show what a ticket says). Whether a ticket is still open is the ledger's matter.
//! Text: `sluice1:` and base64url of: length, inviter's key (32), secret (16), expiry (4, unix seconds), flags, [offer (10)], endpoints, checksum (4).
//! The length comes first so that a ticket cut anywhere can say how much is missing.

use super::base64url::{self, Bad};
use super::endpoint::Endpoint;
use super::keys;
use super::resources::Resources;
use crate::budget;
use crate::clock::WallTime;
use crate::identity::{PublicKey, SecretKey};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// The most characters of a ticket, so that it stays a readable QR.
pub const CHARACTERS: usize = 200;
const WORD: &str = "sluice";
const VERSION: &str = "1";
const HEAD: usize = "sluice1:".len();
const FIXED: usize = 1 + 32 + 16 + 4 + 1;
const CHECKSUM: usize = 4;
const OFFERS: u8 = 1;
const ASKS: u8 = 2;
/// Dates before this (late 2023) come from a board that has not learnt the time.
const PLAUSIBLE: i64 = 1_700_000_000;

/// What a ticket says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The inviter's key.
    pub inviter: PublicKey,
    /// What the keys of the enrolment come from.
    pub secret: TicketSecret,
    /// When it ends by the inviter's wall clock; the inviter itself goes by its monotonic clock.
    pub expires: WallTime,
    /// Where the inviter may be reached, best first.
    pub endpoints: heapless::Vec<Endpoint, { budget::ENDPOINTS }>,
    /// What the inviter lends the joiner.
    pub offer: Option<Resources>,
    /// Whether the inviter asks to use the joiner's resources.
    pub ask: bool,
}

/// The 16 random bytes in a ticket. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketSecret(pub [u8; 16]);

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSecret(..)")
    }
}

/// What the secret yields: the WireGuard identity of the enrolment.
#[derive(Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The joiner's key for this one session.
    pub secret: SecretKey,
    /// Its public half, by which the inviter knows the ticket.
    pub public: PublicKey,
    /// The pre-shared key of the session.
    pub preshared: [u8; 32],
}

impl fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Enrolment({:?})", self.public)
    }
}

/// Why a text is no ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadTicket {
    /// It does not begin like one.
    NotATicket,
    /// It is of another version.
    Version,
    /// It ends too early.
    CutShort {
        /// Characters there are.
        have: usize,
        /// Characters there should be, if the part that says so is there.
        want: Option<usize>,
    },
    /// More characters follow than belong to it.
    TooLong(usize),
    /// The character at this place (from 1) occurs in no ticket.
    Character(usize),
    /// The checksum does not fit: something was changed.
    Typo,
    /// The checksum fits, but a field makes no sense.
    Nonsense(&'static str),
}

impl fmt::Display for BadTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const AGAIN: &str = "Copy the whole line, or use: sluice join --file PATH";
        match self {
            BadTicket::NotATicket => write!(f, "this is no ticket; a ticket begins with {WORD}{VERSION}: and is printed by: sluice invite"),
            BadTicket::Version => write!(f, "the ticket is of a version that this sluice does not know; it reads {WORD}{VERSION}: (update the older side)"),
            BadTicket::CutShort { have, want: Some(want) } => write!(f, "the ticket is cut short ({have} of {want} characters). {AGAIN}"),
            BadTicket::CutShort { want: None, .. } => write!(f, "the ticket is cut short (only its beginning is there). {AGAIN}"),
            BadTicket::TooLong(extra) => write!(f, "the ticket is followed by {extra} characters that are not part of it. {AGAIN}"),
            BadTicket::Character(at) => write!(f, "character {at} of the ticket occurs in no ticket. {AGAIN}"),
            BadTicket::Typo => write!(f, "the ticket was changed on the way (its checksum does not fit). {AGAIN}"),
            BadTicket::Nonsense(field) => write!(f, "the ticket's {field} makes no sense; ask for a new one: sluice invite"),
        }
    }
}

impl std::error::Error for BadTicket {}

/// Why a ticket cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannotMint {
    /// No endpoint at all.
    NoEndpoint,
    /// Its line would be longer than [`CHARACTERS`]: fewer or shorter endpoints.
    TooLong(usize),
}

impl fmt::Display for CannotMint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CannotMint::NoEndpoint => f.write_str("no address is known under which this cluster can be reached; give one: sluice invite --endpoint HOST:PORT"),
            CannotMint::TooLong(n) => write!(f, "the ticket would have {n} characters, more than {CHARACTERS}; give fewer or shorter endpoints (--endpoint)"),
        }
    }
}

impl std::error::Error for CannotMint {}

impl Ticket {
    /// The keys of the enrolment.
    pub fn enrolment(&self) -> Enrolment {
        let draw = |what: &[u8]| keys::derive(b"sluice ticket v1", &self.secret.0, &[what, &self.inviter.0]);
        let secret = keys::clamp(draw(b"enrolment key"));
        Enrolment { public: keys::public_of(&secret), secret, preshared: draw(b"preshared key") }
    }

    /// Whether it seems to have ended, judged only if both clocks are believable. A hint: only the inviter knows.
    pub fn seems_expired(&self, now: WallTime) -> bool {
        now.0 > PLAUSIBLE && self.expires.0 > PLAUSIBLE && now > self.expires
    }

    /// The line.
    pub fn mint(&self) -> Result<String, CannotMint> {
        if self.endpoints.is_empty() {
            return Err(CannotMint::NoEndpoint);
        }
        let mut b = Vec::with_capacity(160);
        b.push(0);
        b.extend_from_slice(&self.inviter.0);
        b.extend_from_slice(&self.secret.0);
        b.extend_from_slice(&(self.expires.0.clamp(0, i64::from(u32::MAX)) as u32).to_be_bytes());
        b.push(if self.offer.is_some() { OFFERS } else { 0 } | if self.ask { ASKS } else { 0 });
        if let Some(offer) = self.offer {
            b.extend_from_slice(&offer.to_bytes());
        }
        for endpoint in &self.endpoints {
            let port = match endpoint {
                Endpoint::Address(SocketAddr::V4(a)) => {
                    b.push(4);
                    b.extend_from_slice(&a.ip().octets());
                    a.port()
                }
                Endpoint::Address(SocketAddr::V6(a)) => {
                    b.push(6);
                    b.extend_from_slice(&a.ip().octets());
                    a.port()
                }
                Endpoint::Name(name, port) => {
                    // Tags 128 and up are names; the length is in the tag.
                    b.push(128 + name.len() as u8);
                    b.extend_from_slice(name.as_bytes());
                    *port
                }
            };
            b.extend_from_slice(&port.to_be_bytes());
        }
        let total = b.len() + CHECKSUM;
        let characters = HEAD + base64url::length(total);
        if characters > CHARACTERS {
            return Err(CannotMint::TooLong(characters));
        }
        b[0] = total as u8;
        b.extend_from_slice(&keys::checksum(&b));
        Ok(format!("{WORD}{VERSION}:{}", base64url::encode(&b)))
    }

    /// Reads a line. White space anywhere is passed over, as terminals and mail wrap lines.
    pub fn read(text: &str) -> Result<Ticket, BadTicket> {
        let mut line = String::with_capacity(CHARACTERS);
        // More than four tickets' worth of text is somebody's file, not a ticket.
        for c in text.chars().filter(|c| !c.is_whitespace()).take(4 * CHARACTERS) {
            line.push(c);
        }
        let body = strip_head(&line)?;
        if let Some(at) = body.bytes().position(|c| !(c.is_ascii_alphanumeric() || c == b'-' || c == b'_')) {
            return Err(BadTicket::Character(HEAD + at + 1));
        }
        let have = line.len();
        let Some(head) = body.as_bytes().get(..2) else { return Err(BadTicket::CutShort { have, want: None }) };
        let word = base64url::decode(&[head[0], head[1], b'A', b'A']).map_err(|_| BadTicket::Typo)?;
        let total = usize::from(word[0]);
        let want = HEAD + base64url::length(total);
        if total < FIXED + CHECKSUM || want > CHARACTERS {
            return Err(BadTicket::Typo);
        }
        if have < want {
            return Err(BadTicket::CutShort { have, want: Some(want) });
        }
        if have > want {
            return Err(BadTicket::TooLong(have - want));
        }
        let bytes = base64url::decode(body.as_bytes()).map_err(|bad| match bad {
            Bad::Character(at) => BadTicket::Character(HEAD + at + 1),
            Bad::Length => BadTicket::Typo,
        })?;
        let (said, checksum) = bytes.split_at(bytes.len() - CHECKSUM);
        if keys::checksum(said) != checksum {
            return Err(BadTicket::Typo);
        }
        fields(said)
    }
}

fn strip_head(line: &str) -> Result<&str, BadTicket> {
    let Some(rest) = line.strip_prefix(WORD) else {
        let beginning = !line.is_empty() && WORD.starts_with(line);
        return Err(if beginning { BadTicket::CutShort { have: line.len(), want: None } } else { BadTicket::NotATicket });
    };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    match rest.as_bytes().get(digits) {
        None => Err(BadTicket::CutShort { have: line.len(), want: None }),
        Some(b':') if digits > 0 && &rest[..digits] == VERSION => Ok(&rest[digits + 1..]),
        Some(b':') if digits > 0 => Err(BadTicket::Version),
        Some(_) => Err(BadTicket::NotATicket),
    }
}

fn fields(said: &[u8]) -> Result<Ticket, BadTicket> {
    let mut rest = &said[1..];
    let key = *take::<32>(&mut rest).ok_or(BadTicket::Nonsense("key"))?;
    let secret = *take::<16>(&mut rest).ok_or(BadTicket::Nonsense("secret"))?;
    let expires = u32::from_be_bytes(*take::<4>(&mut rest).ok_or(BadTicket::Nonsense("expiry"))?);
    let [flags] = *take::<1>(&mut rest).ok_or(BadTicket::Nonsense("flags"))?;
    let mut offer = None;
    if flags & OFFERS != 0 {
        let amounts = *take::<10>(&mut rest).ok_or(BadTicket::Nonsense("offer"))?;
        offer = Some(Resources::from_bytes(amounts).ok_or(BadTicket::Nonsense("offer"))?);
    }
    let mut endpoints = heapless::Vec::new();
    while !rest.is_empty() {
        let endpoint = endpoint(&mut rest).ok_or(BadTicket::Nonsense("list of endpoints"))?;
        endpoints.push(endpoint).map_err(|_| BadTicket::Nonsense("list of endpoints"))?;
    }
    if endpoints.is_empty() {
        return Err(BadTicket::Nonsense("list of endpoints"));
    }
    Ok(Ticket { inviter: PublicKey(key), secret: TicketSecret(secret), expires: WallTime(i64::from(expires)), endpoints, offer, ask: flags & ASKS != 0 })
}

fn endpoint(rest: &mut &[u8]) -> Option<Endpoint> {
    let [tag] = *take::<1>(rest)?;
    match tag {
        4 => {
            let address = Ipv4Addr::from(*take::<4>(rest)?);
            Endpoint::at((address, u16::from_be_bytes(*take::<2>(rest)?)).into())
        }
        6 => {
            let address = Ipv6Addr::from(*take::<16>(rest)?);
            Endpoint::at((address, u16::from_be_bytes(*take::<2>(rest)?)).into())
        }
        128.. => {
            let (name, after) = rest.split_at_checked(usize::from(tag - 128))?;
            *rest = after;
            Endpoint::named(std::str::from_utf8(name).ok()?, u16::from_be_bytes(*take::<2>(rest)?))
        }
        _ => None,
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(endpoints: &[&str]) -> Ticket {
        Ticket {
            inviter: keys::public_of(&keys::clamp([9; 32])),
            secret: TicketSecret([7; 16]),
            expires: WallTime(1_795_498_593),
            endpoints: endpoints.iter().map(|e| e.parse().expect("endpoint")).collect(),
            offer: Some(Resources { cpu: 4000, memory: 8192, pods: 110 }),
            ask: true,
        }
    }

    #[test]
    fn a_ticket_reads_back_also_when_wrapped_by_a_terminal() {
        let made = ticket(&["203.0.113.10:51820", "[2001:db8::1]:51820", "hub.example.org:51820"]);
        let line = made.mint().expect("fits");
        assert!(line.len() <= CHARACTERS && line.starts_with("sluice1:"), "{}", line.len());
        assert_eq!(Ticket::read(&line), Ok(made.clone()));
        let wrapped = format!("  {}\r\n {}\n", &line[..50], &line[50..]);
        assert_eq!(Ticket::read(&wrapped), Ok(made));
    }

    #[test]
    fn a_ticket_cut_anywhere_says_so() {
        let line = ticket(&["203.0.113.10:51820"]).mint().expect("fits");
        for n in 1..line.len() {
            let read = Ticket::read(&line[..n]);
            let want = (n >= HEAD + 2).then_some(line.len());
            assert_eq!(read, Err(BadTicket::CutShort { have: n, want }), "{n}");
        }
        let said = Ticket::read(&line[..39]).unwrap_err().to_string();
        assert!(said.starts_with(&format!("the ticket is cut short (39 of {} characters). Copy the whole line", line.len())), "{said}");
    }

    #[test]
    fn any_changed_character_is_noticed() {
        let line = ticket(&["203.0.113.10:51820", "hub.example.org:1"]).mint().expect("fits");
        for at in 0..line.len() {
            for other in ["A", "_", "?", "é"] {
                let mut changed = line.clone();
                changed.replace_range(at..=at, other);
                assert!(changed == line || Ticket::read(&changed).is_err(), "{at} {other}");
            }
        }
    }

    #[test]
    fn what_is_no_ticket_says_what_it_is() {
        let line = ticket(&["203.0.113.10:51820"]).mint().expect("fits");
        for (text, want) in [
            (String::new(), BadTicket::NotATicket),
            ("hello".into(), BadTicket::NotATicket),
            ("sluicegate".into(), BadTicket::NotATicket),
            (line.replace("sluice1", "sluice2"), BadTicket::Version),
            (line.replace("sluice1", "sluice12"), BadTicket::Version),
            (format!("{line}abc"), BadTicket::TooLong(3)),
            (format!("{}+{}", &line[..20], &line[21..]), BadTicket::Character(21)),
        ] {
            assert_eq!(Ticket::read(&text), Err(want), "{text}");
        }
        assert!(Ticket::read(&"sluice1:".repeat(100_000)).is_err());
    }

    #[test]
    fn only_what_fits_is_minted() {
        assert_eq!(ticket(&[]).mint(), Err(CannotMint::NoEndpoint));
        let long = format!("{}.example.org:51820", "a".repeat(50));
        assert!(matches!(ticket(&[&long, "[2001:db8::1]:51820"]).mint(), Err(CannotMint::TooLong(_))));
    }

    #[test]
    fn both_sides_draw_the_same_keys_and_other_tickets_others() {
        let one = ticket(&["203.0.113.10:51820"]);
        let read = Ticket::read(&one.mint().expect("fits")).expect("reads");
        assert_eq!(one.enrolment(), read.enrolment());
        assert_ne!(one.enrolment().secret.0, one.enrolment().preshared);
        assert_ne!(Ticket { secret: TicketSecret([8; 16]), ..one.clone() }.enrolment().public, one.enrolment().public);
        assert_ne!(Ticket { inviter: PublicKey([1; 32]), ..one.clone() }.enrolment().public, one.enrolment().public);
    }

    #[test]
    fn a_board_without_a_clock_is_never_told_that_a_ticket_ended() {
        let it = ticket(&["203.0.113.10:51820"]);
        assert!(it.seems_expired(WallTime(it.expires.0 + 1)));
        assert!(!it.seems_expired(it.expires));
        assert!(!it.seems_expired(WallTime(5)));
        assert!(!Ticket { expires: WallTime(900), ..it }.seems_expired(WallTime(1_795_498_593)));
    }
}
