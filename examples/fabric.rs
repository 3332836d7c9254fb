//! Holds a TUN with addresses, routes and rules in the network namespace it is started in, echoes what is sent into it, and says
//! what it saw: the proof that the shell's network rooms work on a real kernel. `tests/fabric.sh` drives it.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::Duration;

use sluice::edge::OFFLOAD;
use sluice::identity::Prefix;
use sluice::shell::link::Desired;
use sluice::shell::log::chain;
use sluice::shell::nft::Rules;
use sluice::shell::time;
use sluice::shell::tun::Tun;
use sluice::shell::upkeep::{Upkeep, Wanted};
use tokio::signal::unix::{SignalKind, signal};

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    if let Err(why) = runtime.block_on(hold()) {
        println!("refused: {}", chain(why.as_ref()));
        std::process::exit(1);
    }
}

fn wanted(name: &str) -> Wanted {
    let prefix = |text: &str| text.parse::<Prefix>().expect("a prefix");
    let (node_end, control_end) = (Ipv4Addr::new(10, 70, 0, 1), Ipv4Addr::new(10, 70, 0, 2));
    Wanted {
        link: Desired {
            name: name.into(),
            mtu: 1380,
            primary: Some(node_end),
            local: vec![control_end, Ipv4Addr::new(10, 70, 3, 1)],
            routes: ["10.71.0.0/16", "10.70.1.1/32", "10.70.2.1/32"].map(|text| (prefix(text), 1420)).to_vec(),
        },
        rules: Some(Rules {
            interface: name.into(),
            port: 51820,
            pods: vec![prefix("10.42.0.0/16")],
            node_end,
            control_end,
            external: prefix("10.70.0.0/16"),
            guarded: vec![prefix("10.70.0.2/32"), prefix("10.70.3.0/24")],
        }),
    }
}

async fn hold() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "sluice0".into());
    let tun = Tun::open(&name)?;
    let mut upkeep = Upkeep::start(wanted(&name))?;
    println!("up: in use {:?}, own {:?}", upkeep.in_use()?, upkeep.own_addresses()?);
    let mut buffer = vec![0; 66 * 1024];
    let mut every = tokio::time::interval(Duration::from_secs(1));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut inject = signal(SignalKind::user_defined1())?;
    loop {
        tokio::select! {
            ready = tun.readable() => {
                ready?;
                match tun.read(&mut buffer) {
                    Ok((_, length)) => echo(&tun, &mut buffer[OFFLOAD..OFFLOAD + length]),
                    Err(why) if why.kind() == ErrorKind::WouldBlock => {}
                    Err(why) => return Err(why.into()),
                }
            }
            _ = every.tick() => {
                let before = time::mono();
                let tick = upkeep.tick();
                if tick.links_restored > 0 || tick.rules_restored || tick.host_changed || !tick.whole {
                    println!("tick at {:?} took {:?}: {tick:?}", before.since_boot(), time::mono().since(before));
                }
            }
            _ = hangup.recv() => {
                let mut other = wanted(&name);
                other.link.routes.remove(0);
                other.link.local.pop();
                println!("set: {:?}", upkeep.set(other));
            }
            _ = inject.recv() => {
                // What a peer could try: echo requests to the node end, a virtual node and the control end.
                for to in [[10, 70, 0, 1], [10, 70, 3, 1], [10, 70, 0, 2]] {
                    println!("inject {to:?}: {:?}", tun.write(&request(to)));
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                println!("dropped: {:?}", upkeep.dropped());
            }
            _ = terminate.recv() => {
                upkeep.remove()?;
                println!("removed");
                return Ok(());
            }
        }
    }
}

/// Answers an echo request and says who sent it; reports an echo reply.
fn echo(tun: &Tun, packet: &mut [u8]) {
    if packet.len() < 28 || packet[0] != 0x45 || packet[9] != 1 {
        return;
    }
    let (from, to) = (Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]), Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]));
    println!("saw type {} {from} -> {to}", packet[20]);
    if packet[20] != 8 {
        return;
    }
    packet[12..16].copy_from_slice(&to.octets());
    packet[16..20].copy_from_slice(&from.octets());
    packet[20] = 0;
    let checksum = sum(&[(u32::from(!u16::from_be_bytes([packet[22], packet[23]]))), 0xf7ff]);
    packet[22..24].copy_from_slice(&checksum);
    if let Err(why) = tun.write(packet) {
        println!("lost: {why}");
    }
}

/// An echo request from a pod's image.
fn request(to: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1, 0, 0, 10, 71, 0, 9, to[0], to[1], to[2], to[3], 8, 0, 0, 0, 0, 7, 0, 1];
    let words = |bytes: &[u8]| bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).collect::<Vec<_>>();
    let checksum = sum(&words(&packet[..20]));
    packet[10..12].copy_from_slice(&checksum);
    let checksum = sum(&words(&packet[20..]));
    packet[22..24].copy_from_slice(&checksum);
    packet
}

fn sum(words: &[u32]) -> [u8; 2] {
    let mut sum: u32 = words.iter().sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
