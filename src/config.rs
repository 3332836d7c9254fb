//! What the configuration means: defaults, then the configuration file, then what was typed; valid, or refused with file, line and what to do.
//!
//! The file is lines of `key = value`; `#` begins a comment; lists are separated by commas. Read once at start by `main` and
//! `sluice run`; this file opens nothing itself. Keys are the fields of [`Config`]; one that nobody knows is an error.

use std::net::SocketAddr;
use std::str::FromStr;

use crate::identity::{ClusterId, GATEWAY_PORT, Prefix};

/// Where the configuration file is looked for; it need not exist there.
pub const PATH: &str = "/etc/sluice/config";
/// The longest configuration file, in bytes.
pub const FILE_MAX: usize = 64 * 1024;

/// The configuration, valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This cluster's ID; none: the one in the state file, else made from the host name and the key.
    pub cluster_id: Option<ClusterId>,
    /// Directory of the state file.
    pub state: String,
    /// Path of the local socket.
    pub socket: String,
    /// The administrator's kubeconfig, read at each start.
    pub kubeconfig: String,
    /// UDP port of the gateway.
    pub port: u16,
    /// Name of the TUN device.
    pub interface: String,
    /// The cluster's pod prefix.
    pub pods: Prefix,
    /// The cluster's service prefix.
    pub services: Prefix,
    /// The range for the ends of peers and virtual nodes on this host.
    pub external: Prefix,
    /// Where the API passage leads; none: where the kubeconfig points.
    pub api_server: Option<SocketAddr>,
    /// What `invite` offers and `join --provide` without a value lends.
    pub offer: Offer,
    /// Where the metrics are read; none: nowhere.
    pub metrics: Option<SocketAddr>,
    /// How much is logged.
    pub log: Level,
}

impl Default for Config {
    /// K3s's paths and prefixes.
    fn default() -> Config {
        Config {
            cluster_id: None,
            state: "/var/lib/sluice".to_owned(),
            socket: "/run/sluice/sluice.sock".to_owned(),
            kubeconfig: "/etc/rancher/k3s/k3s.yaml".to_owned(),
            port: GATEWAY_PORT,
            interface: "sluice0".to_owned(),
            pods: prefix([10, 42, 0, 0]),
            services: prefix([10, 43, 0, 0]),
            external: prefix([10, 70, 0, 0]),
            api_server: None,
            offer: Offer::default(),
            metrics: Some(METRICS),
            log: Level::Info,
        }
    }
}

/// Where the metrics are read by default: the tunnel's number, as TCP, on this host alone.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), GATEWAY_PORT);

const fn prefix(address: [u8; 4]) -> Prefix {
    match Prefix::new(std::net::Ipv4Addr::from_octets(address), 16) {
        Some(prefix) => prefix,
        None => unreachable!(),
    }
}

/// What is written to the log; each level holds those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Only what must wake someone.
    Warn,
    /// What an operator wants to see.
    Info,
    /// Each change of state.
    Debug,
    /// Each packet.
    Trace,
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Level, String> {
        Ok(match text {
            "warn" => Level::Warn,
            "info" => Level::Info,
            "debug" => Level::Debug,
            "trace" => Level::Trace,
            _ => return Err("one of warn, info, debug, trace is meant".to_owned()),
        })
    }
}

/// Resources one cluster lends another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// In thousandths of a processor.
    pub cpu_milli: u64,
    /// In bytes.
    pub memory: u64,
    /// Number of pods.
    pub pods: u32,
}

impl Default for Offer {
    /// 4 cpu, 8Gi, 110 pods.
    fn default() -> Offer {
        Offer { cpu_milli: 4_000, memory: 8 << 30, pods: 110 }
    }
}

impl Offer {
    /// Reads `cpu=2,memory=1Gi,pods=50`; what is not named keeps its value in `base`.
    pub fn parse(text: &str, base: Offer) -> Result<Offer, String> {
        let mut offer = base;
        for part in text.split(',') {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("{part:?}: resources are written as cpu=2,memory=1Gi,pods=50"))?;
            let (key, value) = (key.trim(), value.trim());
            match key {
                "cpu" => offer.cpu_milli = cpu(value)?,
                "memory" => offer.memory = memory(value)?,
                "pods" => {
                    offer.pods = value
                        .parse()
                        .ok()
                        .filter(|&n| (1..=PODS_MAX).contains(&n))
                        .ok_or_else(|| format!("pods={value}: a number from 1 to {PODS_MAX} is meant"))?;
                }
                _ => return Err(format!("{key:?} is no resource; there are cpu, memory, pods")),
            }
        }
        Ok(offer)
    }

    /// As Kubernetes writes the processors: `4` or `1500m`.
    pub fn cpu(&self) -> String {
        if self.cpu_milli.is_multiple_of(1_000) { (self.cpu_milli / 1_000).to_string() } else { format!("{}m", self.cpu_milli) }
    }

    /// As Kubernetes writes the memory: `8Gi`, `512Mi`, or bytes.
    pub fn memory(&self) -> String {
        for (shift, unit) in [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")] {
            if self.memory.is_multiple_of(1 << shift) {
                return format!("{}{unit}", self.memory >> shift);
            }
        }
        self.memory.to_string()
    }
}

impl std::fmt::Display for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} cpu, {}, {} pods", self.cpu(), self.memory(), self.pods)
    }
}

const PODS_MAX: u32 = 100_000;
const CPU_MAX: u64 = 1_000_000;

fn cpu(text: &str) -> Result<u64, String> {
    let milli = match text.strip_suffix('m') {
        Some(milli) => whole(milli),
        None => match text.split_once('.') {
            Some((whole_part, rest)) if rest.len() <= 3 => whole(&format!("{rest:0<3}")).and_then(|r| whole(whole_part)?.checked_mul(1_000)?.checked_add(r)),
            Some(_) => None,
            None => whole(text).and_then(|n| n.checked_mul(1_000)),
        },
    };
    milli.filter(|&m| (1..=CPU_MAX * 1_000).contains(&m)).ok_or_else(|| format!("cpu={text}: a number of processors is meant, as in 2, 0.5 or 500m"))
}

fn memory(text: &str) -> Result<u64, String> {
    let units: [(&str, u64); 8] =
        [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("Ti", 1 << 40), ("k", 1_000), ("M", 1_000_000), ("G", 1_000_000_000), ("T", 1_000_000_000_000)];
    let (number, unit) = units.iter().find_map(|&(unit, size)| Some((text.strip_suffix(unit)?, size))).unwrap_or((text, 1));
    let bytes = whole(number).and_then(|n| n.checked_mul(unit)).filter(|&b| (1 << 20..=1 << 50).contains(&b));
    bytes.ok_or_else(|| format!("memory={text}: a number of bytes from 1Mi to 1024Ti is meant, as in 512Mi or 8Gi"))
}

fn whole(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

impl Config {
    /// Reads a configuration file's text over the defaults; `file` is its name for errors, which read `file:line: what, and what to do`.
    pub fn read(text: &str, file: &str) -> Result<Config, String> {
        let mut config = Config::default();
        if text.len() > FILE_MAX {
            return Err(format!("{file}: larger than {FILE_MAX} bytes; this is no configuration of sluice"));
        }
        let mut seen: Vec<&str> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let at = |what: String| format!("{file}:{}: {what}", number + 1);
            let line = line.split('#').next().unwrap_or("").trim();
            if line.is_empty() {
                continue;
            }
            let (key, value) = line.split_once('=').ok_or_else(|| at(format!("{line:?}: lines are written as key = value")))?;
            let (key, value) = (key.trim(), value.trim());
            if seen.contains(&key) {
                return Err(at(format!("{key} is set twice; remove one")));
            }
            config.set(key, value).map_err(at)?;
            seen.push(key);
        }
        config.whole().map_err(|what| format!("{file}: {what}"))?;
        Ok(config)
    }

    /// Sets one key, as the file and the flags of `sluice run` do.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let wrong = |meant: &str| format!("{key} = {value}: {meant}");
        if value.is_empty() {
            return Err(format!("{key} has no value; remove the line to keep the default"));
        }
        match key {
            "cluster-id" => self.cluster_id = Some(value.parse().map_err(|e| wrong(&format!("{e}")))?),
            "state" => self.state = path(value).map_err(|e| wrong(&e))?,
            "socket" => self.socket = path(value).map_err(|e| wrong(&e))?,
            "kubeconfig" => self.kubeconfig = path(value).map_err(|e| wrong(&e))?,
            "port" => self.port = value.parse().ok().filter(|&p| p > 0).ok_or_else(|| wrong("a UDP port from 1 to 65535 is meant"))?,
            "interface" => {
                let good =
                    value.len() <= 15 && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) && value != "." && value != "..";
                self.interface = good.then(|| value.to_owned()).ok_or_else(|| wrong("an interface name has at most 15 letters, digits, '-', '_' and '.'"))?;
            }
            "pods" => self.pods = private(value).map_err(|e| wrong(&e))?,
            "services" => self.services = private(value).map_err(|e| wrong(&e))?,
            "external" => {
                self.external = private(value).map_err(|e| wrong(&e))?;
                if self.external.length() != 16 {
                    return Err(wrong("a /16 is meant, as in 10.70.0.0/16"));
                }
            }
            "api-server" => self.api_server = Some(value.parse().map_err(|_| wrong("an address and port are meant, as in 127.0.0.1:6443"))?),
            "provide" => self.offer = Offer::parse(value, Offer::default()).map_err(|e| wrong(&e))?,
            "metrics" if value == "off" => self.metrics = None,
            "metrics" => {
                let address = value.parse().ok().filter(|a: &SocketAddr| a.port() > 0);
                self.metrics = Some(address.ok_or_else(|| wrong("an address and port are meant, as in 127.0.0.1:51820, or off"))?);
            }
            "log" => self.log = value.parse().map_err(|e: String| wrong(&e))?,
            _ => return Err(format!("{key:?} is no key; there are {KEYS}")),
        }
        Ok(())
    }

    /// What must hold between the values.
    pub fn whole(&self) -> Result<(), String> {
        for (a, x, b, y) in [
            ("pods", self.pods, "services", self.services),
            ("pods", self.pods, "external", self.external),
            ("services", self.services, "external", self.external),
        ] {
            if x.overlaps(y) {
                return Err(format!("{a} {x} and {b} {y} overlap; set one of them to the prefix it really has"));
            }
        }
        Ok(())
    }
}

const KEYS: &str = "cluster-id, state, socket, kubeconfig, port, interface, pods, services, external, api-server, provide, metrics, log";

fn path(text: &str) -> Result<String, String> {
    if !text.starts_with('/') || text.len() > 1024 || text.bytes().any(|b| b < b' ') {
        return Err("an absolute path is meant".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn private(text: &str) -> Result<Prefix, String> {
    let prefix: Prefix = text.parse().map_err(|_| "an IPv4 prefix is meant, as in 10.42.0.0/16".to_owned())?;
    let pools = [([10, 0, 0, 0], 8), ([172, 16, 0, 0], 12), ([192, 168, 0, 0], 16)];
    let inside = pools.iter().any(|&(address, length)| {
        Prefix::new(std::net::Ipv4Addr::from_octets(address), length).is_some_and(|pool| prefix.length() >= length && pool.overlaps(prefix))
    });
    if !inside {
        return Err("a private prefix is meant: inside 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16".to_owned());
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_means_the_defaults_of_k3s() {
        let config = Config::read("\n# nothing\n", "f").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(config.pods.to_string(), "10.42.0.0/16");
    }

    #[test]
    fn a_file_is_read_key_by_key() {
        let text = "cluster-id = shop-17\nport = 6000 # moved\npods=10.50.0.0/16\nprovide = cpu=0.5, memory=1Gi\nmetrics = off\nlog = debug\napi-server = 127.0.0.1:6443\n";
        let config = Config::read(text, "f").unwrap();
        assert_eq!(config.cluster_id.unwrap().as_str(), "shop-17");
        assert_eq!((config.port, config.log, config.metrics), (6000, Level::Debug, None));
        assert_eq!(config.offer, Offer { cpu_milli: 500, memory: 1 << 30, pods: 110 });
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, said) in [
            ("port = 0", "f:1: port = 0: a UDP port"),
            ("\nprot = 1", "f:2: \"prot\" is no key; there are cluster-id"),
            ("port", "f:1: \"port\": lines are written as key = value"),
            ("port = 1\nport = 2", "f:2: port is set twice"),
            ("pods = 8.8.8.0/24", "f:1: pods = 8.8.8.0/24: a private prefix"),
            ("pods = 0.0.0.0/0", "a private prefix"),
            ("pods = 10.43.0.0/16", "pods 10.43.0.0/16 and services 10.43.0.0/16 overlap"),
            ("external = 10.70.0.0/24", "a /16 is meant"),
            ("interface = sluice0123456789", "an interface name"),
            ("state = here", "an absolute path"),
            ("cluster-id = Shop", "a cluster ID consists of"),
            ("provide = cpu=0", "cpu=0: a number of processors"),
            ("provide = gpus=1", "\"gpus\" is no resource"),
            ("metrics = 9090", "an address and port are meant"),
            ("metrics = 127.0.0.1:0", "an address and port are meant"),
            ("log =", "log has no value"),
        ] {
            let error = Config::read(text, "f").unwrap_err();
            assert!(error.contains(said), "{text:?}: {error}");
        }
        assert!(Config::read(&"#".repeat(FILE_MAX + 1), "f").is_err());
    }

    #[test]
    fn offers_read_and_print_as_kubernetes_writes_quantities() {
        for (text, printed) in [
            ("cpu=2,memory=1Gi,pods=50", "2 cpu, 1Gi, 50 pods"),
            ("cpu=1500m", "1500m cpu, 8Gi, 110 pods"),
            ("memory=1000M,cpu=1.25", "1250m cpu, 1000000000, 110 pods"),
            ("memory=512Mi", "4 cpu, 512Mi, 110 pods"),
        ] {
            assert_eq!(Offer::parse(text, Offer::default()).unwrap().to_string(), printed);
        }
        for text in
            ["", "cpu", "cpu=", "cpu=-1", "cpu=1.2345", "cpu=99999999999999999999", "memory=1", "memory=1e9", "pods=0", "pods=1000000", "memory=99999999999Ti"]
        {
            assert!(Offer::parse(text, Offer::default()).is_err(), "{text}");
        }
    }
}
