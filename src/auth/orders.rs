//! The verbs of the CLI that change something: invite, join, unpeer. What each wants, what it gives back, why it cannot.
//!
//! Called by the edge for the local socket. A verb only begins things; how they go on comes as [`Progress`](super::Progress).

use super::authority::Authority;
use super::endpoint::Endpoint;
use super::ledger::{Issued, Join, TicketState};
use super::refusal::{Reason, Refusal};
use super::resources::Resources;
use super::steps::Step;
use super::ticket::{BadTicket, CannotMint, Ticket, TicketSecret};
use crate::budget;
use crate::clock::{Now, WallTime};
use crate::identity::{ClusterId, PeerId};
use std::fmt;
use std::time::Duration;

/// What `invite` wants.
#[derive(Clone)]
pub struct InviteOrder {
    /// Where we can be reached, best first.
    pub endpoints: Vec<Endpoint>,
    /// What we offer.
    pub offer: Option<Resources>,
    /// Whether we ask to use the joiner's resources.
    pub ask: bool,
    /// Whether the joiner may take the place of a peer with its ID or key.
    pub replace: bool,
    /// How long the ticket is good for.
    pub life: Duration,
    /// 16 random bytes.
    pub secret: [u8; 16],
}

/// What `invite` prints.
#[derive(Clone, PartialEq)]
pub struct Invitation {
    /// The line.
    pub line: String,
    /// What it says.
    pub ticket: Ticket,
    /// Whether all its endpoints are private addresses, of use on one site only.
    pub private: bool,
}

/// Why there is no ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CannotInvite {
    /// As it says.
    Mint(CannotMint),
    /// All tickets remembered are open.
    TooManyTickets,
    /// No more peers fit.
    Full,
}

/// What `join` wants.
#[derive(Clone)]
pub struct JoinOrder {
    /// The line.
    pub line: String,
    /// Whether to use what is offered.
    pub consume: bool,
    /// What we lend if the inviter asks.
    pub provide: Option<Resources>,
    /// Whether a peer with the inviter's ID or key is to be given up for it.
    pub replace: bool,
}

/// Why a join does not begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CannotJoin {
    /// It cannot be read.
    Ticket(BadTicket),
    /// We printed it.
    Own,
    /// It is being redeemed already.
    UnderWay,
    /// The inviter is a peer already.
    Peered(ClusterId),
    /// No more peers fit.
    Full,
}

impl Authority {
    /// Makes a ticket. Show it only after the state was saved.
    pub fn invite(&mut self, order: InviteOrder, now: Now) -> Result<Invitation, CannotInvite> {
        if !self.ledger.has_room() {
            return Err(CannotInvite::Full);
        }
        let ticket = Ticket {
            inviter: self.public,
            secret: TicketSecret(order.secret),
            expires: WallTime(now.wall.0.saturating_add(i64::try_from(order.life.as_secs()).unwrap_or(i64::MAX))),
            endpoints: order.endpoints.into_iter().take(budget::ENDPOINTS).collect(),
            offer: order.offer,
            ask: order.ask,
        };
        let line = ticket.mint().map_err(CannotInvite::Mint)?;
        let enrolment = ticket.enrolment();
        let issued = Issued {
            key: enrolment.public,
            preshared: enrolment.preshared,
            boot: self.facts.boot.clone(),
            expires: (now.mono + order.life).since_boot().as_secs(),
            offer: order.offer,
            ask: order.ask,
            replace: order.replace,
            state: TicketState::Open,
        };
        if !self.ledger.push_ticket(issued) {
            return Err(CannotInvite::TooManyTickets);
        }
        self.dirty = true;
        Ok(Invitation { line, private: ticket.endpoints.iter().all(Endpoint::is_private), ticket })
    }

    /// Begins to redeem a ticket; how it goes on comes as [`Event::Progress`](super::Event::Progress) under the row returned. The ticket read comes along, for the CLI.
    pub fn join(&mut self, order: JoinOrder, now: Now) -> Result<(PeerId, Ticket), CannotJoin> {
        let ticket = Ticket::read(&order.line).map_err(CannotJoin::Ticket)?;
        if ticket.inviter == self.public {
            return Err(CannotJoin::Own);
        }
        // Two sessions with one inviter could not be told apart by its key.
        if self.ledger.joins.iter().any(|j| j.ticket.inviter == ticket.inviter) {
            return Err(CannotJoin::UnderWay);
        }
        let known = self.ledger.peers.iter().find(|p| p.key == ticket.inviter).map(|p| (p.row, p.id.clone()));
        if let Some((row, id)) = known {
            if !order.replace {
                return Err(CannotJoin::Peered(id));
            }
            self.depart(row, false, now).map_err(|_| CannotJoin::Full)?;
        }
        let row = self.free_row().filter(|_| self.ledger.has_room()).ok_or(CannotJoin::Full)?;
        let join = Join { row, ticket: ticket.clone(), consume: order.consume, provide: order.provide, replace: order.replace };
        self.ledger.joins.push(join);
        self.dirty = true;
        self.steps.push(Step::Join { row });
        Ok((row, ticket))
    }

    /// Gives a join up. True if there was one.
    pub fn cancel_join(&mut self, peer: PeerId, now: Now) -> bool {
        let found = self.ledger.join(peer).is_some();
        if found {
            if let Some(id) = self.met(peer) {
                self.regret(peer, id, now);
            }
            self.give_up(peer, Refusal::new(Reason::Left, "the join was given up"));
        }
        found
    }

    /// Ends a peering, whether the peer answers or not. None if there is no such peer or no room to remember what is owed.
    pub fn unpeer(&mut self, id: &ClusterId, now: Now) -> Option<PeerId> {
        let row = self.ledger.peers.iter().find(|p| p.id == *id)?.row;
        self.depart(row, false, now).ok()?;
        Some(row)
    }
}

impl fmt::Display for CannotInvite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CannotInvite::Mint(why) => why.fmt(f),
            CannotInvite::TooManyTickets => write!(f, "{} tickets are open, as many as can be; wait until one is used or expires", budget::TICKETS),
            CannotInvite::Full => write!(f, "there are {} peers, as many as can be; unpeer one first", super::ledger::ADMITTED),
        }
    }
}

impl fmt::Display for CannotJoin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CannotJoin::Ticket(why) => why.fmt(f),
            CannotJoin::Own => f.write_str("this cluster made the ticket itself; run sluice join on the other cluster"),
            CannotJoin::UnderWay => f.write_str("this ticket is being redeemed already; see: sluice status"),
            CannotJoin::Peered(id) => write!(f, "this cluster is a peer of {id} already; run: sluice unpeer {id} first, or join with --replace"),
            CannotJoin::Full => write!(f, "there are {} peers, as many as can be; unpeer one first", super::ledger::ADMITTED),
        }
    }
}

impl std::error::Error for CannotInvite {}
impl std::error::Error for CannotJoin {}
