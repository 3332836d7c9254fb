//! What each further peer costs a hub: memory held, time of an enrolment, time of a handshake after the hub's restart. Tunnel and enrolment only: nobody
//! lends anything, there is no API server, and datagrams go from one to the other without a network.
//!
//! `cargo bench --bench peers` takes the figures for 50 peers: a table, and one line of JSON. Run without arguments, as `cargo test` does, it
//! goes through the same steps with three. Times are of this process alone, the hub's part of them; memory is what the hub's calls left allocated.
#![expect(clippy::disallowed_methods, reason = "the figures are timed, and boringtun reads the system clock")]
#![allow(unsafe_code, reason = "an allocator that counts can only be written so")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use sluice::clock::{Instant, Now, WallTime};
use sluice::edge::{Account, AskId, Authority, Checksum, Edge, Endpoint, Facts, InviteOrder, JoinOrder, Ledger, Output, Request, RequestId, Verdict, clamp};
use sluice::identity::{CONTROL_PORT, PeerId};

/// Counts what is allocated and freed while the hub is at work.
struct Counting;

static AT_WORK: AtomicBool = AtomicBool::new(false);
static HELD: AtomicI64 = AtomicI64::new(0);

fn count(bytes: i64) {
    if AT_WORK.load(Ordering::Relaxed) {
        HELD.fetch_add(bytes, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as i64 - layout.size() as i64);
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const HUB: usize = 0;

struct Site {
    edge: Edge,
    address: SocketAddr,
    facts: Facts,
    /// What the state file holds.
    file: String,
    /// Time spent in its calls.
    spent: Duration,
}

/// A control request on its way.
struct Asked {
    from: usize,
    ask: AskId,
    path: &'static str,
    bearer: String,
    body: String,
}

struct World {
    sites: Vec<Site>,
    now: Now,
    datagrams: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
    asked: BTreeMap<u32, Asked>,
    numbers: u32,
}

fn system() -> WallTime {
    WallTime(std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64))
}

fn site(which: usize, now: Now) -> Site {
    let address = if which == HUB { ([203, 0, 113, 10], 51820) } else { ([198, 51, 100, which as u8], 51820) }.into();
    let facts = Facts {
        pods: vec!["10.42.0.0/16".parse().expect("a prefix")],
        in_use: vec!["10.43.0.0/16".parse().expect("a prefix")],
        addresses: vec![],
        nodes: vec![format!("node-{which}")],
        architecture: "arm64".into(),
        ca: String::new(),
        api_name: "kubernetes".into(),
        boot: "boot".into(),
        account: Account { namespace: "sluice".into(), name: "sluice".into() },
    };
    let ledger = Ledger::new(format!("site-{which}").parse().expect("an ID"), clamp([which as u8 + 1; 32]));
    let edge = started(ledger, &facts, now);
    Site { edge, address, facts, file: String::new(), spent: Duration::ZERO }
}

fn started(ledger: Ledger, facts: &Facts, now: Now) -> Edge {
    let mut edge = Edge::new(Authority::new(ledger, facts.clone(), now).expect("it starts"), 7, now, system());
    edge.gateway().set_local(&facts.pods, &[]).expect("room");
    edge
}

/// A TCP segment to the control port that carries the number of a request.
fn segment(from: Ipv4Addr, to: Ipv4Addr, number: u32) -> Vec<u8> {
    let mut p = vec![0; 48];
    p[..10].copy_from_slice(&[0x45, 0, 0, 48, 0, 0, 0x40, 0, 64, 6]);
    p[12..16].copy_from_slice(&from.octets());
    p[16..20].copy_from_slice(&to.octets());
    p[20..22].copy_from_slice(&40_000_u16.to_be_bytes());
    p[22..24].copy_from_slice(&CONTROL_PORT.to_be_bytes());
    p[32] = 0x50;
    p[44..48].copy_from_slice(&number.to_be_bytes());
    p
}

impl World {
    fn new() -> World {
        let now = Now { mono: Instant::from_boot(Duration::from_secs(1000)), wall: system() };
        AT_WORK.store(true, Ordering::Relaxed);
        let hub = site(HUB, now);
        AT_WORK.store(false, Ordering::Relaxed);
        World { sites: vec![hub], now, datagrams: VecDeque::new(), asked: BTreeMap::new(), numbers: 0 }
    }

    /// Calls a site; the hub's calls are timed and what they allocate is counted.
    fn at<T>(&mut self, which: usize, call: impl FnOnce(&mut Edge) -> T) -> T {
        AT_WORK.store(which == HUB, Ordering::Relaxed);
        let began = std::time::Instant::now();
        let result = call(&mut self.sites[which].edge);
        self.sites[which].spent += began.elapsed();
        AT_WORK.store(false, Ordering::Relaxed);
        result
    }

    fn drain(&mut self, which: usize) {
        let (now, mut out) = (self.now, [0; 2048]);
        while let Some(output) = self.at(which, |edge| edge.poll_output(now, system, true)) {
            match &output {
                Output::Save(text) => {
                    self.sites[which].file.clone_from(text);
                    self.at(which, |edge| edge.saved(Ok(()), now));
                }
                Output::Ask { ask, to, path, bearer, body } => {
                    self.numbers += 1;
                    let mut packet = segment(self.sites[which].edge.external().own_control(), *to, self.numbers);
                    self.asked.insert(self.numbers, Asked { from: which, ask: *ask, path, bearer: bearer.clone(), body: body.clone() });
                    if let Verdict::ToPeer { to, len } = self.at(which, |edge| edge.handle_packet(&mut packet, Checksum::Whole, now, &mut out)) {
                        self.datagrams.push_back((self.sites[which].address, to, out[..len].to_vec()));
                    }
                }
                Output::Answer { request, status, body } => {
                    if let Some(asked) = self.asked.remove(&request.0) {
                        let answer = Ok((*status, body.clone().into_bytes()));
                        self.at(asked.from, |edge| edge.handle_answer(asked.ask, answer, now));
                        self.drain(asked.from);
                    }
                }
                _ => {}
            }
            // What the hub allocated is freed as the hub's.
            self.at(which, |_| drop(output));
        }
        while let Some((to, len)) = self.at(which, |edge| edge.poll_datagram(now, &mut out)) {
            self.datagrams.push_back((self.sites[which].address, to, out[..len].to_vec()));
        }
    }

    fn deliver(&mut self) {
        let (now, mut out) = (self.now, [0; 2048]);
        while let Some((from, to, datagram)) = self.datagrams.pop_front() {
            let Some(which) = self.sites.iter().position(|site| site.address == to) else { continue };
            match self.at(which, |edge| edge.handle_datagram(from, &datagram, now, system, &mut out)) {
                Verdict::ToPeer { to, len } => self.datagrams.push_back((self.sites[which].address, to, out[..len].to_vec())),
                Verdict::ToTun { len: 48, .. } => {
                    let source = Ipv4Addr::new(out[12], out[13], out[14], out[15]);
                    let number = u32::from_be_bytes([out[44], out[45], out[46], out[47]]);
                    if let Some(Asked { path, bearer, body, .. }) = self.asked.get(&number) {
                        let (path, bearer, body) = (*path, bearer.clone(), body.clone());
                        let request = Request { from: source, method: "POST", path, bearer: Some(&bearer), body: body.as_bytes() };
                        self.at(which, |edge| edge.handle_request(RequestId(number), &request, now));
                    }
                }
                _ => {}
            }
            self.drain(which);
        }
    }

    /// Time passes until `done`, for a minute at the most.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut World) -> bool) {
        let end = self.now.mono + Duration::from_secs(60);
        for which in 0..self.sites.len() {
            self.drain(which);
        }
        self.deliver();
        while !done(self) {
            let next = self.sites.iter().filter_map(|site| site.edge.poll_timeout()).min().expect("something is always due");
            assert!(next < end, "{what} does not come to an end");
            self.now.mono = self.now.mono.max(next) + Duration::from_millis(1);
            let now = self.now;
            for which in 0..self.sites.len() {
                self.at(which, |edge| edge.handle_timeout(now));
                self.drain(which);
            }
            self.deliver();
        }
    }

    /// One more peer; the hub's time for it.
    fn enrol(&mut self) -> Duration {
        let (which, now) = (self.sites.len(), self.now);
        self.sites.push(site(which, now));
        let before = self.sites[HUB].spent;
        let endpoints = vec![Endpoint::at(self.sites[HUB].address).expect("an endpoint")];
        let order = InviteOrder { endpoints, offer: None, ask: false, replace: false, life: Duration::from_secs(900), secret: [which as u8; 16] };
        let line = self.at(HUB, |edge| edge.authority().invite(order, now).expect("a ticket").line);
        let order = JoinOrder { line, consume: false, provide: None, replace: false };
        self.at(which, |edge| edge.authority().join(order, now).expect("a join"));
        self.until("an enrolment", |world| world.linked(which));
        self.sites[HUB].spent - before
    }

    /// The site has the hub as a peer that it hears in the session of the peering.
    fn linked(&mut self, which: usize) -> bool {
        let now = self.now;
        let peer = self.sites[which].edge.authority().ledger().peers.first().map(|peer| peer.row);
        peer.is_some_and(|row| self.sites[which].edge.gateway().status(row, now).is_some_and(|status| status.received.is_some()))
    }

    /// The hub's process begins anew; its time until every peer is heard again.
    fn restart(&mut self) -> Duration {
        let ledger = Ledger::parse(self.sites[HUB].file.as_bytes()).expect("the state file");
        let (facts, now) = (self.sites[HUB].facts.clone(), self.now);
        self.sites[HUB].edge = started(ledger, &facts, now);
        self.sites[HUB].spent = Duration::ZERO;
        self.until("the return of all peers", |world| {
            let now = world.now;
            let rows: Vec<PeerId> = world.sites[HUB].edge.authority().ledger().peers.iter().map(|peer| peer.row).collect();
            rows.iter().all(|&row| world.sites[HUB].edge.gateway().status(row, now).is_some_and(|status| status.handshake.is_some()))
        });
        self.sites[HUB].spent
    }
}

/// The process's resident memory in KiB, all sites together.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or_default()
}

fn main() {
    let peers: usize = if std::env::args().any(|arg| arg == "--bench") { 50 } else { 3 };
    let mut world = World::new();
    let alone = HELD.load(Ordering::Relaxed);
    let mut enrolments: Vec<Duration> = Vec::with_capacity(peers);
    enrolments.push(world.enrol());
    let one = HELD.load(Ordering::Relaxed);
    for _ in 1..peers {
        enrolments.push(world.enrol());
    }
    let all = HELD.load(Ordering::Relaxed);
    let a_peer = (all - one) / (peers as i64 - 1);
    assert_eq!(world.sites[HUB].edge.authority().ledger().peers.len(), peers);
    let handshakes = world.restart() / peers as u32;
    enrolments.sort_unstable();
    let (median, most) = (enrolments[peers / 2], enrolments[peers - 1]);
    println!("one hub, {peers} peers, tunnel and enrolment only");
    println!("  memory held by the hub alone             {:>9} bytes", alone);
    println!("  memory of each further peer              {:>9} bytes", a_peer);
    println!("  enrolment, the hub's time, median        {:>9} us", median.as_micros());
    println!("  enrolment, the hub's time, longest       {:>9} us", most.as_micros());
    println!("  handshake after a restart, hub's time    {:>9} us", handshakes.as_micros());
    println!("  resident, the hub and all peers          {:>9} KiB", resident());
    println!(
        r#"{{"peers":{peers},"hub_bytes":{alone},"bytes_a_peer":{a_peer},"enrolment_us":{},"enrolment_us_most":{},"handshake_us":{},"resident_kib":{}}}"#,
        median.as_micros(),
        most.as_micros(),
        handshakes.as_micros(),
        resident()
    );
    assert!(a_peer < 64 * 1024, "a peer costs more than it may");
}
