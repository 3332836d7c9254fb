//! Whether a cluster may become a peer, and with what: an enrolment and the ledger in, a judgement or a refusal out.
//!
//! Pure and final: it changes nothing, the authority carries the judgement out. The joiner judges the inviter by the same rules before it enrols.
//! A direction is on only if both sides want it: the inviter offers and the joiner consumes; the inviter asks and the joiner provides.

use super::addresses::claimable;
use super::ledger::{Issued, Ledger, TicketState};
use super::refusal::{Reason, Refusal};
use super::request::Enrol;
use super::resources::Resources;
use crate::budget;
use crate::identity::{ClusterId, PeerId, Prefix, PublicKey};

/// What becomes of an enrolment that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// This ticket was used by this very key: the same answer again.
    Again(PeerId),
    /// First the peer in this row must leave, then ask again.
    Replace(PeerId),
    /// It becomes a peer.
    Grant {
        /// What we lend it.
        provide: Option<Resources>,
        /// What it lends us.
        consume: Option<Resources>,
    },
}

/// Who asks to be a peer.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Under which ID.
    pub id: &'a ClusterId,
    /// With which key.
    pub key: &'a PublicKey,
    /// With which pod prefixes.
    pub prefixes: &'a [Prefix],
}

/// Judges an enrolment whose key has been proved, on a ticket of ours that has been found.
pub fn judge(enrol: &Enrol, ticket: &Issued, ledger: &Ledger, nodes: &[String]) -> Result<Judgement, Refusal> {
    match ticket.state {
        TicketState::Open => {}
        TicketState::Expired => return Err(expired()),
        TicketState::Used(by) if by == enrol.key => {
            return ledger.peers.iter().find(|p| p.key == by).map(|p| Judgement::Again(p.row)).ok_or_else(left);
        }
        TicketState::Used(_) => return Err(used()),
    }
    // Each may be redeeming a ticket of the other; then the one with the lower key goes on as the joiner.
    if ledger.joins.iter().any(|j| j.ticket.inviter == enrol.key) && ledger.public() < enrol.key {
        return Err(Refusal::new(Reason::Busy, format!("{} is redeeming a ticket of yours at this moment; asked again soon", ledger.id)));
    }
    let claim = Claim { id: &enrol.id, key: &enrol.key, prefixes: &enrol.prefixes };
    if let Some(row) = acceptable(claim, ticket.replace, ledger, nodes)? {
        return Ok(Judgement::Replace(row));
    }
    if !ledger.has_room() {
        return Err(Refusal::new(Reason::Full, format!("the inviter has {} peers, as many as it can have; unpeer one there first", super::ledger::ADMITTED)));
    }
    Ok(Judgement::Grant { provide: ticket.offer.filter(|_| enrol.consume), consume: enrol.provide.filter(|_| ticket.ask) })
}

/// Whether the claim can stand beside what the ledger holds. With `replace`, the row of the one peer that is in its way.
pub fn acceptable(claim: Claim<'_>, replace: bool, ledger: &Ledger, nodes: &[String]) -> Result<Option<PeerId>, Refusal> {
    let id = claim.id;
    if *id == ledger.id {
        return Err(Refusal::new(Reason::IdOurs, format!("both clusters have the ID {id}; give one of them another (cluster-id) before it has peers")));
    }
    if *claim.key == ledger.public() {
        return Err(Refusal::new(Reason::KeyKnown, "both clusters have the same key: one state directory was copied from the other; remove the copy"));
    }
    if nodes.iter().any(|n| n == id.as_str()) {
        return Err(Refusal::new(
            Reason::IdIsNode,
            format!("{id} is the name of a node there, where it would have to become the name of a virtual node; choose another ID (sluice run --cluster-id)"),
        ));
    }
    prefixes(claim.prefixes)?;
    let by_id = ledger.peers.iter().find(|p| p.id == *id);
    let by_key = ledger.peers.iter().find(|p| p.key == *claim.key);
    let in_the_way = match (by_id, by_key) {
        (None, None) => None,
        (Some(a), Some(b)) if a.row != b.row => {
            return Err(Refusal::new(Reason::KeyKnown, format!("the key is known as {}, the ID {id} belongs to another peer; unpeer both first", b.id)));
        }
        (Some(peer), _) | (None, Some(peer)) if replace => Some(peer.row),
        (Some(_), Some(_)) => {
            return Err(Refusal::new(Reason::AlreadyPeered, format!("{id} is a peer there already; unpeer it there first, or invite with --replace")));
        }
        (Some(_), None) => {
            return Err(Refusal::new(
                Reason::IdTaken,
                format!("another cluster is known as {id} there; choose another ID, or invite with --replace if it is gone"),
            ));
        }
        (None, Some(peer)) => {
            return Err(Refusal::new(Reason::KeyKnown, format!("this key is known there as {}; unpeer that one first, or invite with --replace", peer.id)));
        }
    };
    // Clean-up that is owed under this ID would take the new peer's objects along.
    if ledger.owed.iter().any(|o| o.cluster == *id) {
        return Err(Refusal::new(Reason::Cleaning, format!("what an earlier peering with {id} left is still being removed; asked again soon")));
    }
    Ok(in_the_way)
}

/// Whether a peer may have these prefixes.
pub(super) fn prefixes(claimed: &[Prefix]) -> Result<(), Refusal> {
    let refuse = |what: String| Err(Refusal::new(Reason::Prefixes, what));
    if claimed.is_empty() || claimed.len() > budget::PREFIXES {
        return refuse(format!("a cluster claims one or {} prefixes, not {}", budget::PREFIXES, claimed.len()));
    }
    if let Some(bad) = claimed.iter().find(|p| !claimable(**p)) {
        return refuse(format!("the prefix {bad} cannot be used: it must lie in 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16 and be /12 to /24"));
    }
    if claimed.len() == 2 && claimed[0].overlaps(claimed[1]) {
        return refuse(format!("the prefixes {} and {} overlap", claimed[0], claimed[1]));
    }
    Ok(())
}

/// The refusal of a ticket that another redeemed.
pub(super) fn used() -> Refusal {
    Refusal::new(Reason::Used, "the ticket has been used by another cluster; ask for a new one: sluice invite")
}

/// The refusal of a ticket whose time is over.
pub(super) fn expired() -> Refusal {
    Refusal::new(Reason::Expired, "the ticket has expired; ask for a new one: sluice invite")
}

/// The refusal of a peer that left.
pub(super) fn left() -> Refusal {
    Refusal::new(Reason::Left, "the peering has ended; a new ticket begins another: sluice invite")
}

#[cfg(test)]
mod tests {
    use super::super::keys;
    use super::super::ledger::{Debt, Owed, Peer};
    use super::*;
    use crate::identity::End;

    const LENT: Resources = Resources { cpu: 4000, memory: 8192, pods: 110 };
    const SMALL: Resources = Resources { cpu: 1000, memory: 512, pods: 9 };

    fn key(n: u8) -> PublicKey {
        keys::public_of(&keys::clamp([n; 32]))
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new("hub".parse().expect("id"), keys::clamp([1; 32]));
        ledger.peers.push(Peer {
            row: PeerId(0),
            id: "old".parse().expect("id"),
            key: key(2),
            end: End::Inviter,
            endpoints: vec![],
            last: None,
            prefixes: vec![],
            images: vec![],
            seen_as: vec![],
            architecture: String::new(),
            provide: None,
            consume: None,
            tenant: None,
        });
        ledger
    }

    fn ticket() -> Issued {
        Issued { key: key(50), preshared: [0; 32], boot: String::new(), expires: 0, offer: Some(LENT), ask: false, replace: false, state: TicketState::Open }
    }

    fn enrol() -> Enrol {
        Enrol {
            version: 1,
            id: "edge".parse().expect("id"),
            key: key(3),
            proof: String::new(),
            prefixes: vec!["10.42.0.0/16".parse().expect("prefix")],
            architecture: "amd64".into(),
            consume: true,
            provide: None,
        }
    }

    fn reason(enrol: &Enrol, ticket: &Issued, ledger: &Ledger) -> Reason {
        judge(enrol, ticket, ledger, &["node-1".into()]).expect_err("a refusal").reason
    }

    #[test]
    fn a_direction_is_on_only_if_both_sides_want_it() {
        for (offer, ask, consume, provide, want) in [
            (Some(LENT), false, true, None, (Some(LENT), None)),
            (Some(LENT), false, false, None, (None, None)),
            (None, false, true, None, (None, None)),
            (Some(LENT), true, true, None, (Some(LENT), None)),
            (Some(LENT), false, true, Some(SMALL), (Some(LENT), None)),
            (Some(LENT), true, true, Some(SMALL), (Some(LENT), Some(SMALL))),
            (None, true, false, Some(SMALL), (None, Some(SMALL))),
        ] {
            let judged = judge(&Enrol { consume, provide, ..enrol() }, &Issued { offer, ask, ..ticket() }, &ledger(), &[]);
            assert_eq!(judged, Ok(Judgement::Grant { provide: want.0, consume: want.1 }));
        }
    }

    #[test]
    fn a_ticket_serves_one_key_and_that_one_again() {
        let mut ledger = ledger();
        assert_eq!(reason(&enrol(), &Issued { state: TicketState::Expired, ..ticket() }, &ledger), Reason::Expired);
        assert_eq!(reason(&enrol(), &Issued { state: TicketState::Used(key(9)), ..ticket() }, &ledger), Reason::Used);
        let used = Issued { state: TicketState::Used(key(3)), ..ticket() };
        assert_eq!(reason(&enrol(), &used, &ledger), Reason::Left, "it has been unpeered since");
        ledger.peers[0].key = key(3);
        assert_eq!(judge(&enrol(), &used, &ledger, &[]), Ok(Judgement::Again(PeerId(0))));
    }

    #[test]
    fn an_id_and_a_key_belong_together() {
        let id = |text: &str| text.parse().expect("id");
        for (who, want) in [
            (Enrol { id: id("hub"), ..enrol() }, Reason::IdOurs),
            (Enrol { key: key(1), ..enrol() }, Reason::KeyKnown),
            (Enrol { id: id("node-1"), ..enrol() }, Reason::IdIsNode),
            (Enrol { id: id("old"), ..enrol() }, Reason::IdTaken),
            (Enrol { key: key(2), ..enrol() }, Reason::KeyKnown),
            (Enrol { id: id("old"), key: key(2), ..enrol() }, Reason::AlreadyPeered),
        ] {
            assert_eq!(reason(&who, &ticket(), &ledger()), want);
            let replaced = judge(&who, &Issued { replace: true, ..ticket() }, &ledger(), &["node-1".into()]);
            let may_be = matches!(want, Reason::IdTaken | Reason::AlreadyPeered) || who.key == key(2);
            assert_eq!(replaced.is_ok_and(|j| j == Judgement::Replace(PeerId(0))), may_be, "{want:?}");
        }
    }

    #[test]
    fn a_claim_across_two_peers_is_refused_even_with_replace() {
        let mut ledger = ledger();
        ledger.peers.push(Peer { row: PeerId(1), id: "two".parse().expect("id"), key: key(4), ..ledger.peers[0].clone() });
        let who = Enrol { id: "old".parse().expect("id"), key: key(4), ..enrol() };
        assert_eq!(reason(&who, &Issued { replace: true, ..ticket() }, &ledger), Reason::KeyKnown);
    }

    #[test]
    fn only_sane_private_prefixes_are_taken() {
        for list in
            [&[][..], &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"], &["8.8.0.0/16"], &["10.0.0.0/8"], &["10.1.2.0/25"], &["10.1.0.0/16", "10.1.7.0/24"]]
        {
            let prefixes = list.iter().map(|p| p.parse().expect("prefix")).collect();
            assert_eq!(reason(&Enrol { prefixes, ..enrol() }, &ticket(), &ledger()), Reason::Prefixes, "{list:?}");
        }
    }

    #[test]
    fn nobody_enters_while_an_earlier_peering_is_cleaned_away_or_the_table_is_full() {
        let mut owing = ledger();
        assert!(owing.push_owed(Owed { what: Debt::Consumer, cluster: "edge".parse().expect("id"), name: String::new(), uid: String::new() }));
        assert_eq!(reason(&enrol(), &ticket(), &owing), Reason::Cleaning);
        let mut full = ledger();
        for n in 1..super::super::ledger::ADMITTED as u8 {
            full.peers.push(Peer { row: PeerId(n), id: format!("p{n}").parse().expect("id"), key: PublicKey([n; 32]), ..full.peers[0].clone() });
        }
        assert_eq!(reason(&enrol(), &ticket(), &full), Reason::Full);
    }
}
