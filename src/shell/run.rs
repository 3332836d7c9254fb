//! The start: opens everything the daemon needs, in the order in which a failure does least harm, and hands it to the driver.
//!
//! State, then socket and device, then rooms; the API server comes last, on a thread of its own, so that the tunnel is up while it is still down.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;

use super::api::Api;
use super::driver::{Doors, Driver, Mailboxes};
use super::listener::{self, Control};
use super::log::{self, chain, log};
use super::pump::Pump;
use super::store::Store;
use super::tls::{Times, Witness};
use super::tun::Tun;
use super::udp::Udp;
use super::upkeep::{Upkeep, UpkeepError, Wanted};
use super::{entropy, floor, link, local, nft, scrape, time};
use crate::budget::{CONTROL_CONNECTIONS, SCRAPES};
use crate::cli::tunnel_config;
use crate::config::{Config, Level};
use crate::edge::{Account, Authority, Edge, Facts, Ledger};
use crate::identity::{ClusterId, Prefix, SecretKey};

/// The TUN's MTU without a peer: 1,500 less 80 for IPv6, UDP and WireGuard.
const MTU: u32 = 1420;
/// The name in every API server's certificate under which peers know it.
pub(super) const API_NAME: &str = "kubernetes.default.svc";
/// Small values on their way from connection tasks to the driver.
const MAILBOX: usize = 16;

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// What is in the way, in words for the person who started it.
pub fn run(config: Config) -> Result<(), String> {
    log::show(match config.log {
        Level::Warn => log::Level::Warn,
        Level::Info => log::Level::Info,
        Level::Debug => log::Level::Debug,
        Level::Trace => log::Level::Trace,
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).thread_stack_size(256 * 1024).build();
    let runtime = runtime.map_err(|e| format!("the runtime cannot start: {e}"))?;
    let ended = runtime.block_on(serve(config));
    // A thread that still waits for an API server is not waited for.
    runtime.shutdown_background();
    ended
}

/// Runs the tunnel alone, from the file at `path`.
///
/// # Errors
/// As [`run`].
pub fn tunnel(path: &str, interface: &str) -> Result<(), String> {
    let bytes = super::kubeconfig::read_file(Path::new(path))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{path}: not UTF-8"))?;
    let config = tunnel_config::parse(&text).map_err(|e| format!("{path}:{e}"))?;
    super::tunnel::run(&config, interface)
}

async fn serve(config: Config) -> Result<(), String> {
    let store = Store::open(Path::new(&config.state)).map_err(|e| chain(&e).to_string())?;
    let mut ledger = ledger(&store, &config)?;
    ledger.floor = ledger.floor.max(floor::kept(Path::new(&config.socket)));
    let udp = Udp::bind(config.port).map_err(|e| chain(&e).to_string())?;
    let tun = Tun::open(&config.interface).map_err(|e| chain(&e).to_string())?;
    if !link::forwards().unwrap_or(true) {
        log!(Warn, "run", "net.ipv4.ip_forward is 0: pods reach no peer until it is 1");
    }
    let (now, system) = (time::now(), time::wall());
    let mut links = link::Links::open().map_err(|e| chain(&e).to_string())?;
    let facts = facts(&config, &mut links)?;
    let barred = links.own_within(&facts.pods, &config.interface).map_err(|e| chain(&e).to_string())?;
    drop(links);
    let times = Times::new(time::wall);
    times.vouch(Witness::State, ledger.good_time);
    let authority = Authority::new(ledger, facts.clone(), now).map_err(|e| e.to_string())?;
    let mut edge = Edge::new(authority, entropy::seed(), now, system);
    edge.gateway().set_local(&facts.pods, &barred).map_err(|_| "more pod prefixes or own addresses than there is room for".to_owned())?;
    let _alone = local::alone()?;
    let metrics = metrics(&config);
    // From here on the host is changed; whatever fails later takes it back.
    let socket = local::listen(Path::new(&config.socket))?;
    let upkeep = Upkeep::start(wanted(&config, &edge)).map_err(|e: UpkeepError| chain(&e).to_string())?;
    let listener = match listener::bind(listener::control_address(edge.external().own_control()), Some(&config.interface)) {
        Ok(listener) => listener,
        Err(why) => {
            let _ = upkeep.remove();
            return Err(why);
        }
    };

    let (asked, asked_out) = mpsc::channel(CONTROL_CONNECTIONS);
    let (lines, lines_out) = mpsc::channel(MAILBOX);
    let (notices, notices_out) = mpsc::channel(MAILBOX);
    let api = Api::new(notices, entropy::seed());
    // The passage leads where the configuration says, else where a K3s server listens, until the kubeconfig is read.
    let api_server = config.api_server.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 6443)));
    let control = Control::serve(listener, api_server, asked);
    let refusals = Doors::default();
    tokio::spawn(local::serve(socket, lines, refusals.local.clone()));
    let (wanted, scrapes) = mpsc::channel(SCRAPES);
    if let Some((port, bearer)) = metrics {
        tokio::spawn(scrape::serve(port, bearer, wanted, refusals.scrape.clone()));
    }
    log!(Info, "run", "{} is up: UDP port {}, device {}", edge.authority().ledger().id, config.port, config.interface);
    let mailboxes = Mailboxes::new(asked_out, lines_out, notices_out, scrapes);
    Driver::new(config, edge, facts, Pump::new(udp, tun), upkeep, store, api, control, refusals, times, mailboxes).run().await
}

/// The port of the metrics, and the bearer that is wanted there. Where they cannot be had the log says why; that is no reason not to carry pods' traffic.
fn metrics(config: &Config) -> Option<(tokio::net::TcpListener, Option<String>)> {
    let address = config.metrics?;
    let bearer = match address.ip().is_loopback() {
        true => None,
        false => match scrape::token(Path::new(&config.state)) {
            Ok(bearer) => Some(bearer),
            Err(why) => {
                log!(Warn, "metrics", "metrics are not served on {address}, for want of a bearer: {why}");
                return None;
            }
        },
    };
    match scrape::bind(address) {
        Ok(port) => Some((port, bearer)),
        Err(why) => {
            log!(Warn, "metrics", "{why}");
            None
        }
    }
}

/// What was stored, or a new cluster's.
fn ledger(store: &Store, config: &Config) -> Result<Ledger, String> {
    let Some(text) = store.load().map_err(|e| chain(&e).to_string())? else {
        let secret = crate::edge::clamp(entropy::bytes());
        let id = match &config.cluster_id {
            Some(id) => id.clone(),
            None => made_up_id(&secret)?,
        };
        let mut ledger = Ledger::new(id, secret);
        ledger.external = Some(config.external);
        // A key that peers will pin is kept before anybody hears of it.
        store.save(&ledger.snapshot()).map_err(|e| chain(&e).to_string())?;
        return Ok(ledger);
    };
    let ledger = Ledger::parse(text.as_bytes()).map_err(|e| format!("{}/state.json: {e}", config.state))?;
    match &config.cluster_id {
        Some(id) if *id != ledger.id => Err(format!(
            "{} holds the state of cluster {}, but the configuration says cluster-id = {id}; peers know this cluster under its old ID: remove the setting, or begin anew with another state directory",
            config.state, ledger.id
        )),
        _ => Ok(ledger),
    }
}

/// The host's name and eight digits of the key, as a DNS label.
fn made_up_id(secret: &SecretKey) -> Result<ClusterId, String> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut name: String = host.trim().chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    name.truncate(ClusterId::MAX - 9);
    let name = name.trim_matches('-');
    let key = crate::edge::public_of(secret);
    let digits: String = key.0[..4].iter().map(|b| format!("{b:02x}")).collect();
    let id = if name.is_empty() { format!("cluster-{digits}") } else { format!("{name}-{digits}") };
    id.parse().map_err(|e| format!("no cluster ID can be made from the host's name: {e}; set cluster-id in the configuration"))
}

/// What is true of this host before the API server was asked.
fn facts(config: &Config, links: &mut link::Links) -> Result<Facts, String> {
    let mut in_use = links.in_use(&config.interface).map_err(|e| chain(&e).to_string())?;
    let addresses = links.own_addresses(&config.interface).map_err(|e| chain(&e).to_string())?;
    in_use.push(config.services);
    in_use.retain(|p| !p.overlaps(config.pods) || p.length() < config.pods.length());
    let boot = time::boot_id().map_err(|e| format!("the kernel does not say which boot this is: {e}"))?;
    Ok(Facts {
        pods: vec![config.pods],
        in_use,
        addresses: addresses.into_iter().map(Into::into).collect(),
        nodes: Vec::new(),
        architecture: String::new(),
        ca: String::new(),
        api_name: API_NAME.to_owned(),
        boot: boot.iter().map(|b| format!("{b:02x}")).collect(),
        account: Account { namespace: "sluice".to_owned(), name: "sluice".to_owned() },
    })
}

/// The facts anew, after links, addresses or routes of the host changed.
pub(super) fn renewed(facts: &Facts, config: &Config, upkeep: &mut Upkeep) -> Option<Facts> {
    let mut in_use = upkeep.in_use().ok()?;
    let addresses = upkeep.own_addresses().ok()?;
    in_use.push(config.services);
    in_use.retain(|p| !p.overlaps(config.pods) || p.length() < config.pods.length());
    Some(Facts { in_use, addresses: addresses.into_iter().map(Into::into).collect(), ..facts.clone() })
}

/// What the kernel is to hold for us at the moment.
pub(super) fn wanted(config: &Config, edge: &Edge) -> Wanted {
    let (external, host) = (edge.external(), edge.host());
    let guarded = host.local.iter().filter_map(|a| Prefix::new(*a, 32)).collect();
    let rules = nft::Rules {
        interface: config.interface.clone(),
        port: config.port,
        pods: vec![config.pods],
        node_end: external.own_node(),
        control_end: external.own_control(),
        external: external.prefix(),
        guarded,
    };
    let routes: Vec<(Prefix, u32)> = host.routes.iter().map(|&(prefix, mtu)| (prefix, u32::from(mtu))).collect();
    // As wide as the widest path; each peer's own is in its routes.
    let mtu = routes.iter().map(|(_, mtu)| *mtu).max().unwrap_or(MTU);
    let link = link::Desired { name: config.interface.clone(), mtu, primary: Some(external.own_node()), local: host.local, routes };
    Wanted { link, rules: Some(rules) }
}

/// The pause between looks at what the kernel holds.
pub(super) const TICK: Duration = Duration::from_secs(1);
