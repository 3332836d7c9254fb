//! `sluice tunnel`: the gateway alone, from a wg-quick style file, between this host and its peers. No cluster, no auth, no remapping.
//!
//! AllowedIPs are routed into the device and are the only sources a peer may use. A peer's host name is looked up at the start, and again while it
//! does not answer. Ends on SIGINT or SIGTERM, and takes its device along.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::log::{chain, log};
use super::pump::{Core, Pump};
use super::tun::Tun;
use super::udp::{Sends, Udp};
use super::upkeep::{Upkeep, Wanted};
use super::{link, local, time, uapi};
use crate::budget::{ENDPOINTS, PEERS};
use crate::cli::tunnel_config::{Endpoint, Offload, PeerConfig, TunnelConfig};
use crate::clock::Now;
use crate::edge::{Addresses, Checksum, Gateway, Joins, PathMtu, PeerSpec, TunnelEvent, Verdict};
use crate::identity::{End, PeerId, Prefix};

/// How often a look is taken at the device's routes, and at timers that are not due earlier.
const TICK: Duration = Duration::from_secs(1);
/// After this long a peer that does not answer is looked for anew under its host name.
const RESOLVE: Duration = Duration::from_secs(20);
/// The device's MTU where the file names none, as long as the path's is not found: 1,500 less 80 for IPv6, UDP and WireGuard.
const MTU: u16 = 1420;

/// Runs the tunnel until a signal comes.
///
/// # Errors
/// What is in the way, in words for the person who started it.
pub fn run(config: &TunnelConfig, interface: &str) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| format!("the runtime cannot start: {e}"))?;
    let ended = runtime.block_on(serve(config, interface));
    // A lookup of a name may take longer than anybody wants to wait for.
    runtime.shutdown_background();
    ended
}

impl Core for Gateway {
    fn datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Now, out: &mut [u8]) -> Verdict {
        self.handle_datagram(from, datagram, now, out)
    }

    fn packet(&mut self, packet: &mut [u8], checksum: Checksum, now: Now, out: &mut [u8]) -> Verdict {
        self.handle_packet(packet, checksum, now, out)
    }

    fn poll(&mut self, _now: Now, out: &mut [u8]) -> Option<(SocketAddr, usize)> {
        self.poll_datagram(out)
    }

    fn probe(&mut self, out: &mut [u8]) -> Option<(SocketAddr, usize)> {
        self.poll_probe(out)
    }
}

/// Where a peer may be.
type Endpoints = heapless::Vec<SocketAddr, ENDPOINTS>;

/// The socket that `wg show` asks; gone with the tunnel, however it ends.
struct Shown(PathBuf);

impl Drop for Shown {
    fn drop(&mut self) {
        local::remove(&self.0);
    }
}

async fn serve(config: &TunnelConfig, interface: &str) -> Result<(), String> {
    let offload = config.offload;
    let sends = if offload.gso { Sends::Parted } else { Sends::Many };
    let udp = Udp::bind_with(config.listen_port.unwrap_or(0), sends, offload.gro).map_err(|e| chain(&e).to_string())?;
    let joins = match offload {
        Offload { tso: true, uso: true, .. } => Joins::TcpAndUdp,
        Offload { tso: true, .. } => Joins::Tcp,
        _ => Joins::None,
    };
    let tun = Tun::open_with(interface, joins).map_err(|e| chain(&e).to_string())?;
    let mut pump = Pump::new(udp, tun);
    let (now, system) = (time::now(), time::wall());
    let mut gateway = Gateway::new(&config.secret, now, now.wall, system);
    let everything = Prefix::new(Ipv4Addr::UNSPECIFIED, 0).into_iter().collect::<Vec<_>>();
    gateway.set_local(&everything, &[]).map_err(|_| "the gateway takes no prefix".to_owned())?;
    let mut called = Vec::new();
    // A lookup a peer at most is under way: until it has ended there is no time of the last one.
    let (looked_up, mut found) = mpsc::channel(PEERS);
    let mut resolved = [None; PEERS];
    for (row, peer) in config.peers.iter().enumerate() {
        let id = PeerId(row as u8);
        let spec = spec(id, peer, config.mtu)?;
        called.push(spec.endpoints.first().copied());
        gateway.add_peer(spec, now, system).map_err(|e| format!("peer {}: {e}", row + 1))?;
        look_up(id, peer, &looked_up);
    }
    let mut upkeep = Upkeep::start(wanted(config, interface, &gateway)).map_err(|e| chain(&e).to_string())?;
    log!(Info, "tunnel", "{interface} is up, UDP port {}, {} peers", pump.port(), config.peers.len());

    let mut terminate = signal(SignalKind::terminate()).map_err(|e| format!("signals cannot be had: {e}"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| format!("signals cannot be had: {e}"))?;
    // Asked by `wg show` alone: without it the tunnel is none the worse.
    let (lines, mut asked) = mpsc::channel(1);
    let socket = uapi::path(interface);
    let _shown = match local::listen(&socket) {
        Ok(listener) => {
            drop(tokio::spawn(local::serve(listener, lines, local::Refusals::default())));
            Some(Shown(socket))
        }
        Err(why) => {
            log!(Warn, "tunnel", "wg show will not see {interface}: {why}");
            None
        }
    };
    let mut tick = time::mono() + TICK;
    loop {
        let now = time::now();
        gateway.handle_timeout(now);
        pump.turn(&mut gateway, now).map_err(|_| format!("the device {interface} was deleted"))?;
        while let Some(event) = gateway.poll_event() {
            if let TunnelEvent::PathMtu { id, mtu } = event {
                log!(Info, "tunnel", "packets of {mtu} bytes go to peer {} in one piece", id.0 + 1);
                if let Err(why) = upkeep.set(wanted(config, interface, &gateway)) {
                    log!(Warn, "tunnel", "{}", chain(&why));
                }
            }
        }
        if now.mono >= tick {
            tick = now.mono + TICK;
            pump.tidy(now);
            for (row, peer) in config.peers.iter().enumerate() {
                let id = PeerId(row as u8);
                // Its name may lead elsewhere by now, or could not be resolved when we began.
                if resolved[row].is_some_and(|since| now.mono.since(since) >= RESOLVE)
                    && gateway.status(id, now).is_some_and(|status| status.calling || called[row].is_none() && status.handshake.is_none())
                {
                    resolved[row] = None;
                    look_up(id, peer, &looked_up);
                }
            }
            if upkeep.tick().tun_gone {
                return Err(format!("the device {interface} was deleted"));
            }
        }
        let until = gateway.poll_timeout().map_or(tick, |due| due.min(tick)).since(time::mono());
        tokio::select! {
            _ = pump.ready() => {}
            () = tokio::time::sleep(until) => {}
            Some((id, endpoints)) = found.recv() => {
                let now = time::now();
                resolved[usize::from(id.0)] = Some(now.mono);
                if !endpoints.is_empty() {
                    called[usize::from(id.0)] = endpoints.first().copied();
                    gateway.set_endpoints(id, &endpoints, now);
                }
            }
            Some(line) = asked.recv() => {
                let (now, wall) = (time::now(), Duration::from_secs(time::wall().0.max(0).unsigned_abs()));
                let seen: Vec<uapi::Seen> = called.iter().enumerate().map(|(row, called)| (*called, gateway.status(PeerId(row as u8), now))).collect();
                // It holds one line for a caller that has just asked.
                let _ = line.replies.try_send(uapi::answer(&line.text, config, pump.port(), wall, &seen));
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    upkeep.remove().map_err(|e| chain(&e).to_string())
}

/// What the kernel is to hold: each peer's routes with the MTU of the path to it.
fn wanted(config: &TunnelConfig, interface: &str, gateway: &Gateway) -> Wanted {
    let mut routes: Vec<(Prefix, u32)> = Vec::new();
    for (row, peer) in config.peers.iter().enumerate() {
        let mtu = gateway.path_mtu(PeerId(row as u8)).unwrap_or(MTU);
        routes.extend(peer.allowed.iter().map(|&prefix| (prefix, u32::from(mtu))));
    }
    let mtu = routes.iter().map(|(_, mtu)| *mtu).max().unwrap_or(u32::from(config.mtu.unwrap_or(MTU)));
    routes.extend(config.addresses.iter().map(|&(_, prefix)| (prefix, mtu)).filter(|(prefix, _)| prefix.length() < 32));
    routes.sort_unstable();
    routes.dedup_by_key(|(prefix, _)| *prefix);
    let primary = config.addresses.first().map(|&(address, _)| address);
    let local = config.addresses.iter().skip(1).map(|&(address, _)| address).collect();
    Wanted { link: link::Desired { name: interface.to_owned(), mtu, primary, local, routes }, rules: None }
}

/// Looks up where a peer is if it has a host name. What is found comes through `found`; nothing if the lookup failed.
fn look_up(id: PeerId, peer: &PeerConfig, found: &mpsc::Sender<(PeerId, Endpoints)>) {
    let Some(Endpoint::Name(name, port)) = &peer.endpoint else { return };
    let (name, port, found) = (name.clone(), *port, found.clone());
    drop(tokio::spawn(async move {
        let mut endpoints = Endpoints::new();
        match tokio::net::lookup_host((name.as_str(), port)).await {
            // As many as there is room for: the first ones. In one order, as the same ones in another are no news.
            Ok(addresses) => {
                endpoints = addresses.take(ENDPOINTS).collect();
                endpoints.sort_unstable();
            }
            Err(why) => log!(Warn, "tunnel", "the endpoint {name} cannot be resolved: {why}; it is tried again"),
        }
        let _ = found.send((id, endpoints)).await;
    }));
}

fn spec(id: PeerId, peer: &PeerConfig, mtu: Option<u16>) -> Result<PeerSpec, String> {
    let mut endpoints = heapless::Vec::new();
    if let Some(Endpoint::Address(address)) = peer.endpoint {
        // There is room for several.
        let _ = endpoints.push(address);
    }
    let mut remote = heapless::Vec::new();
    for &prefix in &peer.allowed {
        remote.push((prefix, prefix)).map_err(|_| "a peer has more AllowedIPs than there is room for".to_owned())?;
    }
    let addresses = Addresses { end: End::Joiner, control: None, node: None, remote };
    let keepalive = peer.keepalive.filter(|s| *s > 0).map(|s| Duration::from_secs(u64::from(s)));
    let path = mtu.map_or(PathMtu::Found(MTU), PathMtu::Fixed);
    Ok(PeerSpec { id, public_key: peer.public_key, secret: None, preshared: peer.preshared, keepalive, endpoints, addresses, path })
}
