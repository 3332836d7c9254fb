//! The host as `doctor` looks at it, beside the daemon or without one: it reads, and changes nothing.
//!
//! Called by `cli::doctor`. What it finds is judged there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::link::{self, Links};
use super::log::chain;
use super::nft::{RulesError, Ruleset};
use super::store::Store;
use super::syscall;
use crate::edge::Ledger;
use crate::identity::Prefix;

/// What was found of the table of packet rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Table {
    /// Ours.
    Ours,
    /// None.
    Missing,
    /// One of that name that is not ours.
    Foreign,
    /// The kernel has no packet rules for us, and why.
    Lacking(String),
    /// It could not be looked at.
    #[default]
    Unknown,
}

/// This host.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// This process is root.
    pub root: bool,
    /// Why `/dev/net/tun` cannot be opened.
    pub tun: Option<String>,
    /// Whether the device is up; none: it is not there.
    pub link: Option<bool>,
    /// `net.ipv4.ip_forward`, if it can be read.
    pub forwards: Option<bool>,
    /// Strict reverse path filtering on the device.
    pub strict: bool,
    /// The packet rules.
    pub table: Table,
    /// Whether flannel's own masquerade rules are there; none: it does not run, or keeps them where we cannot see.
    pub flannel: Option<bool>,
    /// Connections tracked, and how many may be.
    pub conntrack: Option<(u64, u64)>,
    /// Prefixes that other interfaces use.
    pub in_use: Vec<Prefix>,
    /// The UDP port has an owner.
    pub port_taken: bool,
}

/// The state directory.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Where.
    pub directory: String,
    /// There is a state.
    pub exists: bool,
    /// Why it cannot be used, and what to do.
    pub problem: Option<String>,
    /// Bytes free, and whether the file system is read-only.
    pub space: Option<(u64, bool)>,
    /// A process holds it.
    pub locked: bool,
}

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn number(path: &str) -> Option<u64> {
    text(path)?.parse().ok()
}

/// Looks at the host.
pub fn host(interface: &str, port: u16) -> Host {
    let filter = |of: &str| number(&format!("/proc/sys/net/ipv4/conf/{of}/rp_filter"));
    let up = text(&format!("/sys/class/net/{interface}/flags")).and_then(|flags| u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok());
    let table = match Ruleset::open().and_then(|mut rules| rules.there()) {
        Ok(true) => Table::Ours,
        Ok(false) => Table::Missing,
        Err(RulesError::Foreign) => Table::Foreign,
        Err(why @ RulesError::Lacking(_)) => Table::Lacking(chain(&why).to_string()),
        Err(RulesError::Kernel(..)) => Table::Unknown,
    };
    let flannel = if Path::new("/run/flannel/subnet.env").exists() || up_like("flannel") || up_like("cni0") { flannel() } else { None };
    Host {
        root: fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0),
        tun: OpenOptions::new().read(true).write(true).open("/dev/net/tun").err().map(|why| why.to_string()),
        link: up.map(|flags| flags & 1 != 0),
        forwards: link::forwards().ok(),
        strict: up.is_some() && filter(interface).max(filter("all")) == Some(1),
        table,
        flannel,
        conntrack: number("/proc/sys/net/netfilter/nf_conntrack_count").zip(number("/proc/sys/net/netfilter/nf_conntrack_max")),
        in_use: Links::open().and_then(|mut links| links.in_use(interface)).unwrap_or_default(),
        port_taken: taken(port),
    }
}

fn up_like(prefix: &str) -> bool {
    fs::read_dir("/sys/class/net").is_ok_and(|all| all.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(prefix)))
}

/// Whether flannel's chain is there, as far as rules of iptables are kept in nf_tables.
fn flannel() -> Option<bool> {
    let chains = Ruleset::open().ok()?.chains().ok()?;
    // Without kube-proxy's there it is iptables' older form that is in use, which cannot be seen from here.
    let seen = chains.iter().any(|name| name.starts_with("KUBE-") || name.starts_with("FLANNEL-"));
    seen.then(|| chains.iter().any(|name| name == "FLANNEL-POSTRTG"))
}

/// Whether somebody has the UDP port.
fn taken(port: u16) -> bool {
    let busy = |bound: io::Result<UdpSocket>| matches!(bound, Err(why) if why.kind() == io::ErrorKind::AddrInUse);
    busy(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))) || busy(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)))
}

/// Looks at the state directory.
pub fn state(directory: &str) -> State {
    let path = Path::new(directory);
    let mut state = State { directory: directory.to_owned(), space: syscall::space(directory).ok(), ..State::default() };
    if !path.exists() {
        return state;
    }
    match Store::peek(path) {
        Ok(found) => {
            state.exists = found.is_some();
            state.problem = found.and_then(|text| Ledger::parse(text.as_bytes()).err()).map(|why| format!("{directory}/state.json: {why}"));
        }
        Err(why) => state.problem = Some(chain(&why).to_string()),
    }
    state.locked = File::open(path.join("lock")).is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
    state
}

/// Why this host has no way to an address; nothing is sent.
pub fn unrouted(to: SocketAddr) -> Option<String> {
    let any: SocketAddr = if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    UdpSocket::bind(any).and_then(|socket| socket.connect(to)).err().map(|why| why.to_string())
}

/// What the kernel says of interfaces, routes and sockets, as it says it: for the support file.
pub fn kernel() -> Vec<(&'static str, String)> {
    let files = [
        ("links.txt", "/proc/net/dev"),
        ("routes.txt", "/proc/net/route"),
        ("udp.txt", "/proc/net/udp"),
        ("version.txt", "/proc/version"),
        ("memory.txt", "/proc/meminfo"),
    ];
    let mut all: Vec<(&'static str, String)> = files.into_iter().map(|(name, path)| (name, fs::read_to_string(path).unwrap_or_default())).collect();
    let chains = Ruleset::open().and_then(|mut rules| rules.chains()).unwrap_or_default();
    all.push(("rules.txt", chains.join("\n") + "\n"));
    all
}

/// The text of a file, at most `most` bytes of it; nothing if it cannot be read.
pub fn contents(path: &str, most: u64) -> String {
    use std::io::Read;
    let mut bytes = Vec::new();
    let _ = File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Writes a file of root's own in place of nothing: one that is there is left alone.
///
/// # Errors
/// When it is there, or cannot be written.
pub fn create(path: &str, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_looked_at_without_being_changed() {
        let seen = host("no-such-link", 1);
        assert_eq!((seen.link, seen.strict), (None, false));
        assert!(seen.in_use.iter().any(|p| p.contains(Ipv4Addr::LOCALHOST)));
        let held = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        assert!(taken(held.local_addr().expect("an address").port()));
        assert_eq!(unrouted(SocketAddr::from(([127, 0, 0, 1], 9))), None);
        assert!(kernel().iter().any(|(name, text)| *name == "links.txt" && text.contains("lo:")));
    }

    #[test]
    fn a_state_is_judged_without_taking_it() {
        let directory = std::env::temp_dir().join(format!("sluice-inspect-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        let shown = directory.display().to_string();
        assert!(!state(&shown).exists && state(&shown).problem.is_none());
        let store = Store::open(&directory).expect("a state directory");
        assert_eq!((state(&shown).exists, state(&shown).locked), (false, true));
        store.save("{}").expect("saved");
        assert!(state(&shown).problem.is_some_and(|why| why.contains("state.json: ")));
        let ledger = Ledger::new("a".parse().expect("an ID"), crate::edge::clamp([3; 32]));
        store.save(&ledger.snapshot()).expect("saved");
        assert_eq!((state(&shown).exists, state(&shown).problem), (true, None));
        drop(store);
        assert!(!state(&shown).locked);
        fs::write(directory.join("state.json"), "cut").expect("written");
        assert!(state(&shown).problem.is_some_and(|why| why.contains("damaged")));
        fs::remove_dir_all(&directory).expect("removed");
    }
}
