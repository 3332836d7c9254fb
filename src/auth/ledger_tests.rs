//! The ledger comes back as it was, and no damage to its file goes unsaid.

use super::*;
use crate::auth::ticket::TicketSecret;

fn full() -> Ledger {
    let key = |n: u8| keys::public_of(&keys::clamp([n; 32]));
    let lent = Some(Resources { cpu: 2000, memory: 1024, pods: 50 });
    let mut ledger = Ledger::new("hub-4f1c09aa".parse().expect("id"), keys::clamp([1; 32]));
    ledger.floor = WallTime(1_795_498_593);
    ledger.external = "10.70.0.0/16".parse().ok();
    ledger.peers.push(Peer {
        row: PeerId(3),
        id: "shop".parse().expect("id"),
        key: key(2),
        end: End::Inviter,
        endpoints: vec!["hub.example.org:51820".parse().expect("endpoint")],
        last: "198.51.100.7:40000".parse().ok(),
        prefixes: vec!["10.42.0.0/16".parse().expect("prefix")],
        images: vec!["10.71.0.0/16".parse().expect("prefix")],
        seen_as: vec![],
        architecture: "arm64".into(),
        provide: lent,
        consume: None,
        tenant: Some("6f1c09aa-0000-4000-8000-000000000000".into()),
    });
    ledger.joins.push(Join {
        row: PeerId(0),
        ticket: Ticket {
            inviter: key(5),
            secret: TicketSecret([3; 16]),
            expires: WallTime(1_795_498_593),
            endpoints: ["203.0.113.10:51820".parse().expect("endpoint")].into_iter().collect(),
            offer: lent,
            ask: false,
        },
        consume: true,
        provide: lent,
        replace: false,
    });
    for state in [TicketState::Open, TicketState::Used(key(2)), TicketState::Expired] {
        let n = 10 + ledger.tickets.len() as u8;
        let it = Issued { key: key(n), preshared: [n; 32], boot: "b".into(), expires: 900, offer: lent, ask: true, replace: false, state };
        assert!(ledger.push_ticket(it));
    }
    ledger.push_left(Left { id: "gone".parse().expect("id"), key: key(7), end: End::Joiner, at: WallTime(9), endpoints: vec![], told: false });
    assert!(ledger.push_owed(Owed { what: Debt::Twin, cluster: "gone".parse().expect("id"), name: "shop-gone".into(), uid: "u".into() }));
    ledger
}

#[test]
fn a_ledger_comes_back_as_it_was() {
    assert_eq!(Ledger::parse(full().snapshot().as_bytes()), Ok(full()));
    let empty = Ledger::new("a".parse().expect("id"), keys::clamp([1; 32]));
    assert_eq!(Ledger::parse(empty.snapshot().as_bytes()), Ok(empty));
}

#[test]
fn a_file_cut_anywhere_is_cut_short() {
    let text = full().snapshot();
    for n in 1..text.trim_end().len() {
        match Ledger::parse(&text.as_bytes()[..n]) {
            // A cut behind a nested `}` looks closed; it must still be refused.
            Err(BadState::CutShort(_) | BadState::Unreadable) => {}
            other => panic!("{n}: {other:?}"),
        }
    }
    assert_eq!(Ledger::parse(&text.as_bytes()[..50]), Err(BadState::CutShort(50)));
    assert_eq!(Ledger::parse(b""), Err(BadState::Empty));
    assert_eq!(Ledger::parse(b"\n"), Err(BadState::Empty));
}

#[test]
fn a_newer_file_is_refused_by_its_version_alone() {
    assert_eq!(Ledger::parse(br#"{"peers":{"a":[1]},"version":2}"#), Err(BadState::Newer(2)));
    assert!(BadState::Newer(2).to_string().contains("version 2"));
    assert_eq!(Ledger::parse(br#"{"version":0}"#), Err(BadState::Value("version".into())));
    assert_eq!(Ledger::parse(br#"{"version":1}"#), Err(BadState::Unreadable));
}

#[test]
fn a_value_out_of_place_is_named() {
    let text = full().snapshot();
    for (from, to, place) in [
        (r#""row":3"#, r#""row":64"#, "peers[0].row"),
        (r#""row":3"#, r#""row":0"#, "joins[0].row"),
        (r#""id":"shop""#, r#""id":"Shop""#, "peers[0].id"),
        (r#""images":["10.71.0.0/16"]"#, r#""images":["10.71.0.0/17"]"#, "peers[0].images"),
        (r#""images":["10.71.0.0/16"]"#, r#""images":[]"#, "peers[0].images"),
        (r#""end":"inviter""#, r#""end":"both""#, "peers[0].end"),
        (r#""state":"used""#, r#""state":"open""#, "tickets[1].state"),
        (r#""what":"twin""#, r#""what":"all""#, "owed[0].what"),
        (r#""external":"10.70.0.0/16""#, r#""external":"10.70.0.0/24""#, "external"),
        (r#""ticket":"sluice1:"#, r#""ticket":"sluice1:A"#, "joins[0].ticket"),
        (r#""pods":50"#, r#""pods":0"#, "peers[0].provide"),
    ] {
        assert!(text.contains(from), "{from}");
        assert_eq!(Ledger::parse(text.replacen(from, to, 1).as_bytes()), Err(BadState::Value(place.into())), "{to}");
    }
    assert!(matches!(Ledger::parse(&vec![b' '; BYTES + 1]), Err(BadState::TooLarge(_))));
    assert_eq!(Ledger::parse(b"\xff\xfe{}"), Err(BadState::Unreadable));
}

#[test]
fn a_full_table_of_tickets_gives_up_closed_ones_only() {
    let mut ledger = Ledger::new("a".parse().expect("id"), keys::clamp([1; 32]));
    let ticket = |n: usize, state| Issued {
        key: PublicKey([n as u8; 32]),
        preshared: [0; 32],
        boot: String::new(),
        expires: 0,
        offer: None,
        ask: false,
        replace: false,
        state,
    };
    for n in 0..budget::TICKETS {
        assert!(ledger.push_ticket(ticket(n, if n == 7 { TicketState::Expired } else { TicketState::Open })));
    }
    assert!(ledger.push_ticket(ticket(100, TicketState::Open)));
    assert!(ledger.ticket(&PublicKey([7; 32])).is_none());
    assert!(!ledger.push_ticket(ticket(101, TicketState::Open)));
}

#[test]
fn tombstones_are_forgotten_in_their_time_and_full_tables_fit_the_file() {
    let mut ledger = full();
    assert!(!ledger.forget(WallTime(0)), "a clock that is behind forgets nothing");
    let (far, tickets) = (WallTime(10_000_000_000), ledger.tickets.len());
    ledger.left[0].told = false;
    assert!(!ledger.forget(far) && ledger.left.len() == 1, "who was not told is remembered even if the clock is years ahead");
    ledger.left[0].told = true;
    assert!(ledger.forget(far) && ledger.left.is_empty());
    assert_eq!(ledger.tickets.len(), tickets, "a ticket has its reason as long as there is room");
    for n in 0..budget::LEFT + 9 {
        let id = format!("{}{n}", "x".repeat(37)).parse().expect("id");
        let endpoints = vec![format!("{}.example.org:51820", "y".repeat(52)).parse().expect("endpoint"); budget::ENDPOINTS];
        ledger.push_left(Left { id, key: PublicKey([n as u8; 32]), end: End::Joiner, at: WallTime(0), endpoints, told: false });
    }
    assert_eq!(ledger.left.len(), budget::LEFT);
    assert!(Ledger::parse(ledger.snapshot().as_bytes()).is_ok());
}

#[test]
fn a_cluster_gets_an_id_from_whatever_its_host_is_called() {
    let key = PublicKey([0x9b; 32]);
    for (host, id) in [
        ("shop-17", "shop-17-9b9b9b9b"),
        ("Raspberry_Pi.local", "raspberry-pi-9b9b9b9b"),
        ("", "cluster-9b9b9b9b"),
        ("---", "cluster-9b9b9b9b"),
        ("küche", "k-che-9b9b9b9b"),
        (&"x".repeat(99), &format!("{}-9b9b9b9b", "x".repeat(31))),
    ] {
        assert_eq!(default_id(host, &key).as_str(), id);
    }
}
