//! The JSON shapes of the state file, and the way back with every value checked and every list bounded.
//!
//! Only `ledger.rs` uses it. A value out of place is named by its path in the file.

use super::*;
use miniserde::{Deserialize, Serialize};

#[derive(Deserialize)]
pub(super) struct Head {
    pub(super) version: u32,
}

#[derive(Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    id: String,
    secret: String,
    floor: i64,
    good_time: i64,
    external: Option<String>,
    peers: Vec<PeerForm>,
    joins: Vec<JoinForm>,
    tickets: Vec<TicketForm>,
    left: Vec<LeftForm>,
    owed: Vec<OwedForm>,
}

#[derive(Serialize, Deserialize)]
struct PeerForm {
    row: u8,
    id: String,
    key: String,
    end: String,
    endpoints: Vec<String>,
    last: Option<String>,
    prefixes: Vec<String>,
    images: Vec<String>,
    seen_as: Vec<String>,
    architecture: String,
    provide: Option<Resources>,
    consume: Option<Resources>,
    tenant: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct JoinForm {
    row: u8,
    ticket: String,
    consume: bool,
    provide: Option<Resources>,
    replace: bool,
}

#[derive(Serialize, Deserialize)]
struct TicketForm {
    key: String,
    preshared: String,
    boot: String,
    expires: u64,
    offer: Option<Resources>,
    ask: bool,
    replace: bool,
    state: String,
    by: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct LeftForm {
    id: String,
    key: String,
    end: String,
    at: i64,
    endpoints: Vec<String>,
    told: bool,
}

#[derive(Serialize, Deserialize)]
struct OwedForm {
    what: String,
    cluster: String,
    name: String,
    uid: String,
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn end_text(end: End) -> String {
    match end {
        End::Inviter => "inviter",
        End::Joiner => "joiner",
    }
    .into()
}

const DEBTS: [(Debt, &str); 4] = [(Debt::Tenant, "tenant"), (Debt::Consumer, "consumer"), (Debt::Provider, "provider"), (Debt::Twin, "twin")];

impl From<&Ledger> for State {
    fn from(l: &Ledger) -> State {
        let peer = |p: &Peer| PeerForm {
            row: p.row.0,
            id: p.id.to_string(),
            key: base64url::encode(&p.key.0),
            end: end_text(p.end),
            endpoints: texts(&p.endpoints),
            last: p.last.map(|a| a.to_string()),
            prefixes: texts(&p.prefixes),
            images: texts(&p.images),
            seen_as: texts(&p.seen_as),
            architecture: p.architecture.clone(),
            provide: p.provide,
            consume: p.consume,
            tenant: p.tenant.clone(),
        };
        let join = |j: &Join| JoinForm {
            row: j.row.0,
            ticket: j.ticket.mint().expect("a ticket that was read has endpoints and fits its line"),
            consume: j.consume,
            provide: j.provide,
            replace: j.replace,
        };
        let ticket = |t: &Issued| {
            let (state, by) = match t.state {
                TicketState::Open => ("open", None),
                TicketState::Used(by) => ("used", Some(base64url::encode(&by.0))),
                TicketState::Expired => ("expired", None),
            };
            TicketForm {
                key: base64url::encode(&t.key.0),
                preshared: base64url::encode(&t.preshared),
                boot: t.boot.clone(),
                expires: t.expires,
                offer: t.offer,
                ask: t.ask,
                replace: t.replace,
                state: state.into(),
                by,
            }
        };
        let left = |x: &Left| LeftForm {
            id: x.id.to_string(),
            key: base64url::encode(&x.key.0),
            end: end_text(x.end),
            at: x.at.0,
            endpoints: texts(&x.endpoints),
            told: x.told,
        };
        let owed = |o: &Owed| OwedForm {
            what: DEBTS.iter().find(|(debt, _)| *debt == o.what).map_or("", |(_, name)| name).into(),
            cluster: o.cluster.to_string(),
            name: o.name.clone(),
            uid: o.uid.clone(),
        };
        State {
            version: VERSION,
            id: l.id.to_string(),
            secret: base64url::encode(&l.secret.0),
            floor: l.floor.0,
            good_time: l.good_time.0,
            external: l.external.map(|p| p.to_string()),
            peers: l.peers.iter().map(peer).collect(),
            joins: l.joins.iter().map(join).collect(),
            tickets: l.tickets.iter().map(ticket).collect(),
            left: l.left.iter().map(left).collect(),
            owed: l.owed.iter().map(owed).collect(),
        }
    }
}

fn bad(place: impl Into<String>) -> BadState {
    BadState::Value(place.into())
}

fn all<T: std::str::FromStr>(values: &[String], most: usize, place: &str) -> Result<Vec<T>, BadState> {
    if values.len() > most {
        return Err(bad(place));
    }
    values.iter().map(|v| v.parse().map_err(|_| bad(place))).collect()
}

fn end(text: &str, place: &str) -> Result<End, BadState> {
    match text {
        "inviter" => Ok(End::Inviter),
        "joiner" => Ok(End::Joiner),
        _ => Err(bad(place)),
    }
}

fn short(text: String, most: usize, place: &str) -> Result<String, BadState> {
    if text.len() > most { Err(bad(place)) } else { Ok(text) }
}

fn lent(it: Option<Resources>, place: &str) -> Result<Option<Resources>, BadState> {
    if it.is_some_and(|r| !r.some_of_each()) { Err(bad(place)) } else { Ok(it) }
}

impl State {
    pub(super) fn read(self) -> Result<Ledger, BadState> {
        for (name, count, most) in [
            ("peers", self.peers.len() + self.joins.len(), ADMITTED),
            ("tickets", self.tickets.len(), budget::TICKETS),
            ("left", self.left.len(), budget::LEFT),
            ("owed", self.owed.len(), OWED),
        ] {
            if count > most {
                return Err(bad(format!("list of {name} (more than {most})")));
            }
        }
        let external: Option<Prefix> = self.external.map(|p| p.parse().map_err(|_| bad("external"))).transpose()?;
        if external.is_some_and(|p| p.length() != 16) {
            return Err(bad("external"));
        }
        let mut ledger = Ledger {
            id: self.id.parse().map_err(|_| bad("id"))?,
            secret: SecretKey(base64url::decode_exactly(&self.secret).ok_or_else(|| bad("secret"))?),
            floor: WallTime(self.floor),
            good_time: WallTime(self.good_time),
            external,
            peers: Vec::with_capacity(self.peers.len()),
            joins: Vec::with_capacity(self.joins.len()),
            tickets: Vec::with_capacity(self.tickets.len()),
            left: Vec::with_capacity(self.left.len()),
            owed: Vec::with_capacity(self.owed.len()),
        };
        let mut taken = [false; budget::PEERS];
        let mut row = |row: u8, place: &str| match taken.get_mut(usize::from(row)) {
            Some(free) if !*free => {
                *free = true;
                Ok(PeerId(row))
            }
            _ => Err(bad(place)),
        };
        for (i, p) in self.peers.into_iter().enumerate() {
            let at = |field: &str| format!("peers[{i}].{field}");
            let peer = Peer {
                row: row(p.row, &at("row"))?,
                id: p.id.parse().map_err(|_| bad(at("id")))?,
                key: base64url::public_key(&p.key).ok_or_else(|| bad(at("key")))?,
                end: end(&p.end, &at("end"))?,
                endpoints: all(&p.endpoints, budget::ENDPOINTS, &at("endpoints"))?,
                last: p.last.map(|a| a.parse().map_err(|_| bad(at("last")))).transpose()?,
                prefixes: all(&p.prefixes, budget::PREFIXES, &at("prefixes"))?,
                images: all(&p.images, budget::PREFIXES, &at("images"))?,
                seen_as: all(&p.seen_as, budget::PREFIXES, &at("seen_as"))?,
                architecture: short(p.architecture, 32, &at("architecture"))?,
                provide: lent(p.provide, &at("provide"))?,
                consume: lent(p.consume, &at("consume"))?,
                tenant: p.tenant.map(|uid| short(uid, 64, &at("tenant"))).transpose()?,
            };
            let same_length = |(a, b): (&Prefix, &Prefix)| a.length() == b.length();
            if peer.images.len() != peer.prefixes.len() || !peer.prefixes.iter().zip(&peer.images).all(same_length) {
                return Err(bad(at("images")));
            }
            if ledger.peers.iter().any(|other| other.id == peer.id || other.key == peer.key) {
                return Err(bad(at("id or key (another row has it too)")));
            }
            ledger.peers.push(peer);
        }
        for (i, j) in self.joins.into_iter().enumerate() {
            let at = |field: &str| format!("joins[{i}].{field}");
            ledger.joins.push(Join {
                row: row(j.row, &at("row"))?,
                ticket: Ticket::read(&j.ticket).map_err(|_| bad(at("ticket")))?,
                consume: j.consume,
                provide: lent(j.provide, &at("provide"))?,
                replace: j.replace,
            });
        }
        for (i, t) in self.tickets.into_iter().enumerate() {
            let at = |field: &str| format!("tickets[{i}].{field}");
            let by = t.by.map(|by| base64url::public_key(&by).ok_or_else(|| bad(at("by")))).transpose()?;
            ledger.tickets.push(Issued {
                key: base64url::public_key(&t.key).ok_or_else(|| bad(at("key")))?,
                preshared: base64url::decode_exactly(&t.preshared).ok_or_else(|| bad(at("preshared")))?,
                boot: short(t.boot, 64, &at("boot"))?,
                expires: t.expires,
                offer: lent(t.offer, &at("offer"))?,
                ask: t.ask,
                replace: t.replace,
                state: match (t.state.as_str(), by) {
                    ("open", None) => TicketState::Open,
                    ("used", Some(by)) => TicketState::Used(by),
                    ("expired", None) => TicketState::Expired,
                    _ => return Err(bad(at("state"))),
                },
            });
        }
        for (i, x) in self.left.into_iter().enumerate() {
            let at = |field: &str| format!("left[{i}].{field}");
            ledger.left.push(Left {
                id: x.id.parse().map_err(|_| bad(at("id")))?,
                key: base64url::public_key(&x.key).ok_or_else(|| bad(at("key")))?,
                end: end(&x.end, &at("end"))?,
                at: WallTime(x.at),
                endpoints: all(&x.endpoints, budget::ENDPOINTS, &at("endpoints"))?,
                told: x.told,
            });
        }
        for (i, o) in self.owed.into_iter().enumerate() {
            let at = |field: &str| format!("owed[{i}].{field}");
            ledger.owed.push(Owed {
                what: DEBTS.iter().find(|(_, name)| *name == o.what).ok_or_else(|| bad(at("what")))?.0,
                cluster: o.cluster.parse().map_err(|_| bad(at("cluster")))?,
                name: short(o.name, 63, &at("name"))?,
                uid: short(o.uid, 64, &at("uid"))?,
            });
        }
        Ok(ledger)
    }
}
