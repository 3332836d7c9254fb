//! The packet path without system calls, for counting instructions: `benches/packets` runs it under callgrind.
//! `packets tcp|udp ROUNDS` carries ROUNDS large frames of TCP, or batches of 64-byte datagrams, and prints how many packets that was.

#[path = "../tests/pair/mod.rs"]
mod pair;

use std::time::Duration;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let (kind, rounds) = (words.first().map_or("tcp", String::as_str), words.get(1).and_then(|word| word.parse().ok()).unwrap_or(1000u32));
    let mut pair = pair::Pair::new();
    let mut packets = 0;
    for round in 0..rounds {
        packets += if kind == "udp" { pair.udp() } else { pair.tcp(round.wrapping_mul(61_560)) };
        pair.rest(Duration::from_millis(1));
    }
    println!("{packets}");
}
