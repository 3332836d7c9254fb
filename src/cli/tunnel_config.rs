//! The wg-quick style file of `sluice tunnel`: text in, a valid configuration or a named line out. Pure.
//!
//! Read first: wg(8), CONFIGURATION FILE FORMAT; wg-quick(8). Called by the verb `tunnel`. It takes the keys a user-space tunnel
//! can honour and refuses every other one by name, so that nothing in a file is silently without effect.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::budget::{PACKET_MAX, PEERS};
use crate::identity::{Prefix, PublicKey, SecretKey};

/// The largest file, in bytes.
pub const FILE_MAX: usize = 64 * 1024;
/// Prefixes of one `AllowedIPs` list, and addresses of the interface.
pub const LIST_MAX: usize = 64;

/// What a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelConfig {
    /// Our key.
    pub secret: SecretKey,
    /// The UDP port; any if absent.
    pub listen_port: Option<u16>,
    /// The interface's addresses with the prefix each is in, in the file's order.
    pub addresses: Vec<(Ipv4Addr, Prefix)>,
    /// The interface's MTU, in bytes.
    pub mtu: Option<u16>,
    /// Which work is left to the kernel.
    pub offload: Offload,
    /// The peers, in the file's order; no key twice.
    pub peers: Vec<PeerConfig>,
}

/// What the kernel may be asked to do many packets at a time. It is asked for all, and what it refuses is done without; a file may leave
/// some out, where a kernel or driver does it wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// Frames of TCP segments at the device.
    pub tso: bool,
    /// Frames of UDP datagrams at the device; only with the former.
    pub uso: bool,
    /// Datagrams that the socket parts.
    pub gso: bool,
    /// Datagrams that the socket joins.
    pub gro: bool,
}

impl Offload {
    const NONE: Offload = Offload { tso: false, uso: false, gso: false, gro: false };
    /// Everything.
    pub const ALL: Offload = Offload { tso: true, uso: true, gso: true, gro: true };

    fn read(text: &str) -> Option<Offload> {
        let mut offload = Offload::NONE;
        for word in text.split(',').map(str::trim) {
            match word.to_ascii_lowercase().as_str() {
                "all" => offload = Offload::ALL,
                "none" => {}
                "tso" => offload.tso = true,
                "uso" => offload.uso = true,
                "gso" => offload.gso = true,
                "gro" => offload.gro = true,
                _ => return None,
            }
        }
        (offload.tso || !offload.uso).then_some(offload)
    }
}

/// One `[Peer]` section.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its key.
    pub public_key: PublicKey,
    /// The key shared with it beforehand.
    pub preshared: Option<[u8; 32]>,
    /// The addresses behind it; host bits cleared, as wg does.
    pub allowed: Vec<Prefix>,
    /// Where to call it.
    pub endpoint: Option<Endpoint>,
    /// Seconds between keepalives; `None` is off.
    pub keepalive: Option<u16>,
}

impl fmt::Debug for PeerConfig {
    /// Without the preshared key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerConfig({:?}, {:?}, {:?}, {:?})", self.public_key, self.allowed, self.endpoint, self.keepalive)
    }
}

/// An address and port, or a name to look up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// As written.
    Address(SocketAddr),
    /// A host name and port.
    Name(String, u16),
}

/// What is wrong with a file, and in which line (from 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadConfig {
    /// The line; 0 if the file as a whole is meant.
    pub line: usize,
    /// What is wrong.
    pub why: Why,
}

/// What can be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// More than [`FILE_MAX`] bytes.
    TooLarge,
    /// Neither a section nor `Key = value`.
    NotAPair,
    /// A section other than `[Interface]` and `[Peer]`.
    Section(String),
    /// A second `[Interface]`.
    SecondInterface,
    /// No `[Interface]` at all.
    NoInterface,
    /// A key before any section.
    NoSection,
    /// A key this section does not have.
    Key(&'static str, String),
    /// A key that stands twice in its section.
    Twice(&'static str),
    /// A key that must be there is not in the section.
    Absent(&'static str),
    /// The value of a key is not what it should be.
    Value(&'static str, &'static str),
    /// More entries than fit.
    TooMany(&'static str, usize),
    /// Two peers with one public key.
    SamePeer,
}

impl fmt::Display for BadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}: ", self.line)?;
        }
        match &self.why {
            Why::TooLarge => write!(f, "a tunnel's configuration has at most {FILE_MAX} bytes"),
            Why::NotAPair => f.write_str("neither [Interface], [Peer] nor Key = value"),
            Why::Section(name) => write!(f, "there is no section [{name}], only [Interface] and [Peer]"),
            Why::SecondInterface => f.write_str("a second [Interface]; a file has one"),
            Why::NoInterface => f.write_str("no [Interface] section"),
            Why::NoSection => f.write_str("a key before the first section; begin with [Interface]"),
            Why::Key(section, key) => {
                let known = if *section == "Interface" { "PrivateKey, ListenPort, Address, MTU, Offload" } else { PEER_KEYS };
                write!(f, "[{section}] has no key {key} here; it has {known}")
            }
            Why::Twice(key) => write!(f, "{key} stands twice in this section"),
            Why::Absent(key) => write!(f, "this section has no {key}"),
            Why::Value(key, wanted) => write!(f, "{key} is to be {wanted}"),
            Why::TooMany(what, most) => write!(f, "more than {most} {what}"),
            Why::SamePeer => f.write_str("a peer with this PublicKey stands above already"),
        }
    }
}

impl std::error::Error for BadConfig {}

const PEER_KEYS: &str = "PublicKey, PresharedKey, AllowedIPs, Endpoint, PersistentKeepalive";

/// Reads a file's text. Section and key names are taken in any case, `#` starts a comment, lines may end in CRLF.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub fn parse(text: &str) -> Result<TunnelConfig, BadConfig> {
    if text.len() > FILE_MAX {
        return Err(BadConfig { line: 0, why: Why::TooLarge });
    }
    let mut draft = Draft::default();
    for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line_number = at + 1;
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            draft.line(line, line_number).map_err(|why| BadConfig { line: line_number, why })?;
        }
    }
    draft.finish()
}

#[derive(Default)]
enum Section {
    #[default]
    None,
    Interface,
    Peer,
}

/// What was read so far; a section is checked as a whole when the next begins.
#[derive(Default)]
struct Draft {
    section: Section,
    interface_line: usize,
    secret: Option<SecretKey>,
    listen_port: Option<u16>,
    addresses: Vec<(Ipv4Addr, Prefix)>,
    mtu: Option<u16>,
    offload: Option<Offload>,
    peers: Vec<DraftPeer>,
}

#[derive(Default)]
struct DraftPeer {
    line: usize,
    public_key: Option<PublicKey>,
    preshared: Option<[u8; 32]>,
    allowed: Vec<Prefix>,
    endpoint: Option<Endpoint>,
    keepalive: Option<u16>,
}

impl Draft {
    fn line(&mut self, line: &str, number: usize) -> Result<(), Why> {
        if let Some(name) = line.strip_prefix('[') {
            return self.open(name.strip_suffix(']').ok_or(Why::NotAPair)?.trim(), number);
        }
        let (key, value) = line.split_once('=').ok_or(Why::NotAPair)?;
        let (key, value) = (key.trim(), value.trim());
        match self.section {
            Section::None => Err(Why::NoSection),
            Section::Interface => self.interface(key, value),
            Section::Peer => self.peers.last_mut().ok_or(Why::NoSection)?.pair(key, value),
        }
    }

    fn open(&mut self, name: &str, number: usize) -> Result<(), Why> {
        if name.eq_ignore_ascii_case("interface") {
            if self.interface_line > 0 {
                return Err(Why::SecondInterface);
            }
            (self.section, self.interface_line) = (Section::Interface, number);
        } else if name.eq_ignore_ascii_case("peer") {
            if self.peers.len() == PEERS {
                return Err(Why::TooMany("peers", PEERS));
            }
            self.section = Section::Peer;
            self.peers.push(DraftPeer { line: number, ..DraftPeer::default() });
        } else {
            return Err(Why::Section(shown(name)));
        }
        Ok(())
    }

    fn interface(&mut self, key: &str, value: &str) -> Result<(), Why> {
        match key.to_ascii_lowercase().as_str() {
            "privatekey" => once(&mut self.secret, "PrivateKey", value, KEY, |text| key_bytes(text).map(SecretKey)),
            "listenport" => once(&mut self.listen_port, "ListenPort", value, "a number from 0 to 65535", |text| text.parse().ok()),
            "mtu" => once(&mut self.mtu, "MTU", value, "a number of bytes from 576 to 1600", |text| {
                text.parse().ok().filter(|mtu| (576..=PACKET_MAX as u16).contains(mtu))
            }),
            "offload" => once(&mut self.offload, "Offload", value, "all, none, or a list of tso, uso (with tso), gso and gro", Offload::read),
            "address" => list(&mut self.addresses, "Address", value, |text| {
                let (address, length) = text.split_once('/').unwrap_or((text, "32"));
                let address = address.parse().ok()?;
                Some((address, Prefix::new(address, decimal(length)?)?))
            }),
            _ => Err(Why::Key("Interface", shown(key))),
        }
    }

    fn finish(self) -> Result<TunnelConfig, BadConfig> {
        if self.interface_line == 0 {
            return Err(BadConfig { line: 0, why: Why::NoInterface });
        }
        let secret = self.secret.ok_or(BadConfig { line: self.interface_line, why: Why::Absent("PrivateKey") })?;
        let mut peers: Vec<PeerConfig> = Vec::with_capacity(self.peers.len());
        for draft in self.peers {
            let public_key = draft.public_key.ok_or(BadConfig { line: draft.line, why: Why::Absent("PublicKey") })?;
            if peers.iter().any(|peer| peer.public_key == public_key) {
                return Err(BadConfig { line: draft.line, why: Why::SamePeer });
            }
            let DraftPeer { preshared, allowed, endpoint, keepalive, .. } = draft;
            peers.push(PeerConfig { public_key, preshared, allowed, endpoint, keepalive: keepalive.filter(|&seconds| seconds > 0) });
        }
        let offload = self.offload.unwrap_or(Offload::ALL);
        Ok(TunnelConfig { secret, listen_port: self.listen_port.filter(|&port| port > 0), addresses: self.addresses, mtu: self.mtu, offload, peers })
    }
}

impl DraftPeer {
    fn pair(&mut self, key: &str, value: &str) -> Result<(), Why> {
        match key.to_ascii_lowercase().as_str() {
            "publickey" => once(&mut self.public_key, "PublicKey", value, KEY, |text| key_bytes(text).map(PublicKey)),
            "presharedkey" => once(&mut self.preshared, "PresharedKey", value, KEY, key_bytes),
            "allowedips" => list(&mut self.allowed, "AllowedIPs", value, |text| {
                let (address, length) = text.split_once('/').unwrap_or((text, "32"));
                Prefix::new(address.parse().ok()?, decimal(length)?)
            }),
            "endpoint" => once(&mut self.endpoint, "Endpoint", value, "ADDRESS:PORT, [IPv6 ADDRESS]:PORT or NAME:PORT", endpoint),
            "persistentkeepalive" => once(&mut self.keepalive, "PersistentKeepalive", value, "off or a number of seconds up to 65535", |text| {
                if text.eq_ignore_ascii_case("off") { Some(0) } else { text.parse().ok() }
            }),
            _ => Err(Why::Key("Peer", shown(key))),
        }
    }
}

const KEY: &str = "a key of 32 bytes in base64 (44 characters, as wg genkey prints)";
const LIST: &str = "a list of IPv4 prefixes like 10.0.0.0/24, divided by commas (IPv6 is not carried yet)";

fn once<T>(place: &mut Option<T>, key: &'static str, value: &str, wanted: &'static str, read: impl FnOnce(&str) -> Option<T>) -> Result<(), Why> {
    if place.is_some() {
        return Err(Why::Twice(key));
    }
    *place = Some(read(value).ok_or(Why::Value(key, wanted))?);
    Ok(())
}

/// A list may go on in another line with the same key, and may be empty.
fn list<T>(place: &mut Vec<T>, key: &'static str, value: &str, read: impl Fn(&str) -> Option<T>) -> Result<(), Why> {
    if value.is_empty() {
        return Ok(());
    }
    for text in value.split(',') {
        if place.len() == LIST_MAX {
            return Err(Why::TooMany(key, LIST_MAX));
        }
        place.push(read(text.trim()).ok_or(Why::Value(key, LIST))?);
    }
    Ok(())
}

fn endpoint(text: &str) -> Option<Endpoint> {
    let (host, port) = text.rsplit_once(':')?;
    let port = text_port(port)?;
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return Some(Endpoint::Address(SocketAddr::new(IpAddr::V6(address.parse().ok()?), port)));
    }
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Some(Endpoint::Address(SocketAddr::new(address.into(), port)));
    }
    let plain = host.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_'));
    let number = host.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    ((1..=253).contains(&host.len()) && plain && !number).then(|| Endpoint::Name(host.into(), port))
}

fn text_port(text: &str) -> Option<u16> {
    decimal(text).filter(|&port| port > 0)
}

/// Digits only: the standard parser would also take a plus sign.
fn decimal<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse().ok())?
}

/// 32 bytes in standard base64 with its one `=`; the two spare bits must be zero.
fn key_bytes(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_suffix('=')?.as_bytes();
    if digits.len() != 43 {
        return None;
    }
    let (mut key, mut at) = ([0; 32], 0);
    let (mut held, mut bits) = (0u32, 0);
    for &digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        held = (held << 6 | u32::from(value)) & 0xfff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            *key.get_mut(at)? = (held >> bits) as u8;
            at += 1;
        }
    }
    (held & 3 == 0).then_some(key)
}

/// A word of the file as an error may repeat it: short and printable.
fn shown(word: &str) -> String {
    word.chars().take(32).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    const TWO: &str = "AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP8=";

    fn why(text: &str) -> (usize, Why) {
        let bad = parse(text).expect_err(text);
        assert!(!bad.to_string().is_empty());
        (bad.line, bad.why)
    }

    #[test]
    fn a_whole_file_is_read() {
        let text = format!(
            "# mine\r\n[Interface]\r\nPrivateKey = {ONE} # secret\r\nListenPort=51820\r\nAddress = 10.9.0.1/24, 10.9.1.1\r\nMTU = 1380\r\n\r\n[peer]\r\n\
             publickey = {TWO}\r\nPresharedKey = {ONE}\r\nAllowedIPs = 10.9.0.2/24,10.50.0.0/16\r\nallowedips = 192.168.7.1\r\nEndpoint = [2001:db8::1]:51820\r\n\
             PersistentKeepalive = 25\r\n"
        );
        let config = parse(&text).expect("a configuration");
        assert_eq!((config.secret.0[0], config.listen_port, config.mtu), (1, Some(51820), Some(1380)));
        let prefix = |text: &str| text.parse::<Prefix>().expect("a prefix");
        assert_eq!(config.addresses, [(Ipv4Addr::new(10, 9, 0, 1), prefix("10.9.0.0/24")), (Ipv4Addr::new(10, 9, 1, 1), prefix("10.9.1.1/32"))]);
        let peer = &config.peers[0];
        assert_eq!((peer.public_key.0[0], peer.public_key.0[31], peer.preshared.map(|key| key[0])), (2, 255, Some(1)));
        assert_eq!(peer.allowed, [prefix("10.9.0.0/24"), prefix("10.50.0.0/16"), prefix("192.168.7.1/32")]);
        assert_eq!(peer.endpoint, Some(Endpoint::Address("[2001:db8::1]:51820".parse().expect("an address"))));
        assert_eq!(peer.keepalive, Some(25));
        assert!(!format!("{config:?}").contains("[1, 0"), "no secret in debug output");
    }

    #[test]
    fn all_work_is_left_to_the_kernel_unless_the_file_says_which() {
        let offload = |line: &str| parse(&format!("[Interface]\nPrivateKey={ONE}\n{line}")).map(|config| config.offload);
        let tso_gro = Offload { tso: true, gro: true, ..Offload::NONE };
        for (line, expected) in [("", Offload::ALL), ("Offload = all", Offload::ALL), ("offload=none", Offload::NONE), ("Offload = TSO, gro", tso_gro)] {
            assert_eq!(offload(line), Ok(expected), "{line}");
        }
        for line in ["Offload = uso", "Offload =", "Offload = lro", "Offload = all\nOffload = all"] {
            assert!(offload(line).is_err_and(|bad| bad.to_string().contains("Offload")), "{line}");
        }
    }

    #[test]
    fn the_least_file_needs_a_key_only() {
        let config = parse(&format!("[Interface]\nPrivateKey={ONE}\n[Peer]\nPublicKey={TWO}\nPersistentKeepalive=off\nAllowedIPs=\nEndpoint=hub.example:7"))
            .expect("one");
        assert_eq!((config.listen_port, config.mtu, config.addresses.len(), config.peers.len()), (None, None, 0, 1));
        assert_eq!((config.peers[0].keepalive, config.peers[0].endpoint.clone()), (None, Some(Endpoint::Name("hub.example".into(), 7))));
    }

    #[test]
    fn every_wrong_line_is_named() {
        let head = format!("[Interface]\nPrivateKey = {ONE}\n");
        for (text, line, wanted) in [
            ("", 0, Why::NoInterface),
            ("MTU = 1400", 1, Why::NoSection),
            ("[Interface]\n[Peer]\n", 1, Why::Absent("PrivateKey")),
            ("[Interface\n", 1, Why::NotAPair),
            ("[Server]\n", 1, Why::Section("Server".into())),
            ("[Interface]\n[Interface]\n", 2, Why::SecondInterface),
            (&format!("{head}nonsense"), 3, Why::NotAPair),
            (&format!("{head}PostUp = rm -rf /"), 3, Why::Key("Interface", "PostUp".into())),
            (&format!("{head}PublicKey = {ONE}"), 3, Why::Key("Interface", "PublicKey".into())),
            (&format!("{head}PrivateKey = {ONE}"), 3, Why::Twice("PrivateKey")),
            (&format!("{head}[Peer]\n"), 3, Why::Absent("PublicKey")),
            (&format!("{head}[Peer]\nPublicKey={TWO}\n[Peer]\nPublicKey={TWO}"), 5, Why::SamePeer),
            (&format!("{head}[Peer]\nDNS = 1.1.1.1"), 4, Why::Key("Peer", "DNS".into())),
        ] {
            assert_eq!(why(text), (line, wanted), "{text}");
        }
    }

    #[test]
    fn values_that_are_none_are_refused() {
        let interface = format!("[Interface]\nPrivateKey = {ONE}\n");
        let peer = format!("{interface}[Peer]\nPublicKey = {TWO}\n");
        for (head, key, value) in [
            (&interface, "ListenPort", "65536"),
            (&interface, "MTU", "575"),
            (&interface, "MTU", "9000"),
            (&interface, "Address", "fd00::1/64"),
            (&interface, "Address", "10.0.0.1/33"),
            (&interface, "Address", "10.0.0.1/+8"),
            (&interface, "Address", "10.0.0.1,"),
            (&peer, "AllowedIPs", "::/0"),
            (&peer, "Endpoint", "1.2.3.4"),
            (&peer, "Endpoint", "1.2.3:5"),
            (&peer, "Endpoint", "host:0"),
            (&peer, "Endpoint", "fe80::1:51820"),
            (&peer, "Endpoint", "a b:5"),
            (&peer, "PersistentKeepalive", "-1"),
            (&peer, "PresharedKey", "AQ=="),
        ] {
            assert!(matches!(why(&format!("{head}{key} = {value}")).1, Why::Value(k, _) if k == key), "{key} = {value}");
        }
    }

    #[test]
    fn a_key_has_one_spelling() {
        assert!(key_bytes(ONE).is_some());
        for text in ["", "=", &ONE[1..], &ONE[..43], &ONE.replace('Q', "-"), &format!("{}B=", &ONE[..42]), &format!("{ONE}=")] {
            assert_eq!(key_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn files_lists_and_peers_have_an_end() {
        assert_eq!(why(&"#".repeat(FILE_MAX + 1)), (0, Why::TooLarge));
        let many = vec!["10.0.0.0/8"; LIST_MAX + 1].join(",");
        assert_eq!(why(&format!("[Interface]\nAddress = {many}")).1, Why::TooMany("Address", LIST_MAX));
        assert_eq!(why(&"[Peer]\n".repeat(PEERS + 1)).1, Why::TooMany("peers", PEERS));
    }
}
