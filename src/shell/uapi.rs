//! What `wg show` asks of a user-space WireGuard: the cross-platform userspace interface at `/run/wireguard/NAME.sock`, its `get` alone.
//!
//! The tunnel is what its file says for as long as it runs, so `set` is refused (`EPERM`). Root alone gets in (`local`); it is told the private key,
//! as `wg` makes the public one of it. Read first: wireguard.com/xplatform, "Configuration Protocol".

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::tunnel_config::TunnelConfig;
use crate::edge::PeerStatus;

/// Where `wg` looks for the socket of this interface.
pub fn path(interface: &str) -> PathBuf {
    PathBuf::from(format!("/var/run/wireguard/{interface}.sock"))
}

/// What is told of a peer besides its configuration: where it is called if it was not heard yet, and how it is doing.
pub type Seen = (Option<SocketAddr>, Option<PeerStatus>);

/// The answer to a request's first line; the blank line that ends it is the caller's to add. `port` is the UDP port in use, `wall` the time since 1970,
/// `seen` the peers in the file's order.
pub fn answer(line: &str, config: &TunnelConfig, port: u16, wall: Duration, seen: &[Seen]) -> String {
    match line {
        "get=1" => get(config, port, wall, seen),
        "set=1" => format!("errno={}\n", -libc::EPERM),
        _ => format!("errno={}\n", -libc::EINVAL),
    }
}

fn get(config: &TunnelConfig, port: u16, wall: Duration, seen: &[Seen]) -> String {
    let mut out = format!("private_key={}\nlisten_port={port}\n", hex(&config.secret.0));
    // Writing to a string cannot fail.
    let mut say = |key: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(out, "{key}={value}");
    };
    for (peer, (called, status)) in config.peers.iter().zip(seen) {
        say("public_key", &hex(&peer.public_key.0));
        if let Some(key) = &peer.preshared {
            say("preshared_key", &hex(key));
        }
        say("protocol_version", &1);
        if let Some(endpoint) = status.as_ref().and_then(|s| s.endpoint).or(*called) {
            say("endpoint", &endpoint);
        }
        let at = status.as_ref().and_then(|s| s.handshake).map_or(Duration::ZERO, |age| wall.saturating_sub(age));
        say("last_handshake_time_sec", &at.as_secs());
        say("last_handshake_time_nsec", &at.subsec_nanos());
        say("tx_bytes", &status.as_ref().map_or(0, |s| s.bytes_out));
        say("rx_bytes", &status.as_ref().map_or(0, |s| s.bytes_in));
        say("persistent_keepalive_interval", &peer.keepalive.unwrap_or(0));
        for prefix in &peer.allowed {
            say("allowed_ip", prefix);
        }
    }
    say("errno", &0);
    out
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().fold(String::with_capacity(64), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wg_asks_is_told_line_by_line_and_nothing_can_be_set() {
        // 32 equal bytes in base64: ten times the first three, and the last two.
        let key = |three: &str, two: &str| three.repeat(10) + two;
        let text = format!(
            "[Interface]\nPrivateKey = {}\nAddress = 10.9.0.1/24\n[Peer]\nPublicKey = {}\nPresharedKey = {}\nAllowedIPs = 10.9.0.2/32, 10.8.0.0/16\nPersistentKeepalive = 25\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.9.0.3/32\n",
            key("AQEB", "AQE="),
            key("AgIC", "AgI="),
            key("AwMD", "AwM="),
            key("BAQE", "BAQ=")
        );
        let config = crate::cli::tunnel_config::parse(&text).expect("a configuration");
        let status = PeerStatus {
            endpoint: "203.0.113.10:51820".parse().ok(),
            handshake: Some(Duration::from_millis(2_500)),
            round_trip: None,
            received: None,
            calling: false,
            mtu: 1420,
            bytes_in: 7,
            bytes_out: 8,
        };
        let called = "[2001:db8::1]:9".parse().ok();
        let said = answer("get=1", &config, 4711, Duration::from_secs(100), &[(None, Some(status)), (called, None)]);
        let hex = |digits: &str| digits.repeat(32);
        let expected = format!(
            "private_key={}\nlisten_port=4711\npublic_key={}\npreshared_key={}\nprotocol_version=1\nendpoint=203.0.113.10:51820\nlast_handshake_time_sec=97\nlast_handshake_time_nsec=500000000\ntx_bytes=8\nrx_bytes=7\npersistent_keepalive_interval=25\nallowed_ip=10.9.0.2/32\nallowed_ip=10.8.0.0/16\npublic_key={}\nprotocol_version=1\nendpoint=[2001:db8::1]:9\nlast_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\npersistent_keepalive_interval=0\nallowed_ip=10.9.0.3/32\nerrno=0\n",
            hex("01"),
            hex("02"),
            hex("03"),
            hex("04")
        );
        assert_eq!(said, expected);
        assert_eq!(answer("set=1", &config, 1, Duration::ZERO, &[]), "errno=-1\n");
        assert_eq!(answer("{\"get\":1}", &config, 1, Duration::ZERO, &[]), "errno=-22\n");
    }
}
