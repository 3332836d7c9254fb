//! Keeps the TUN's addresses, routes and rules as they are wanted, whoever changes them.
//!
//! Called by the driver: [`Upkeep::set`] when what is wanted changes, [`Upkeep::tick`] once a second. A tick costs two small reads
//! while nobody changes anything; else it looks at the whole and puts back what is missing, so a flush is undone within a tick.
//! It owns no timer, touches nothing of others, and keeps on trying what failed; a failure is logged when it is a new one.

use std::error::Error;
use std::fmt;

use crate::clock::Instant;
use crate::identity::Prefix;
use crate::shell::link::{self, LinkError, Links};
use crate::shell::log::{chain, log};
use crate::shell::nft::{Dropped, Rules, RulesError, Ruleset};

/// Everything of ours in the host's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The TUN's place.
    pub link: link::Desired,
    /// The packet rules; none for a bare tunnel.
    pub rules: Option<Rules>,
}

/// What a tick found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// A link, address or route somewhere on the host changed: images and own addresses want another look.
    pub host_changed: bool,
    /// Addresses, routes or settings of the TUN that had to be put back.
    pub links_restored: usize,
    /// The rules had to be put back.
    pub rules_restored: bool,
    /// The TUN is gone; nothing can be kept without it.
    pub tun_gone: bool,
    /// Everything wanted is in force.
    pub whole: bool,
}

/// How often something had to be put back that others had changed or removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// The packet rules.
    pub rules: u64,
    /// Addresses, routes and settings of the TUN.
    pub links: u64,
    /// The TUN itself.
    pub device: u64,
    /// When the last repair was, on the monotonic clock.
    pub last: Option<Instant>,
}

/// What could not be done.
#[derive(Debug)]
pub enum UpkeepError {
    /// With links, addresses or routes.
    Link(LinkError),
    /// With the rules.
    Rules(RulesError),
}

impl fmt::Display for UpkeepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UpkeepError::Link(_) => "the tunnel's addresses and routes are not in force",
            UpkeepError::Rules(_) => "the tunnel's packet rules are not in force",
        })
    }
}

impl Error for UpkeepError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            UpkeepError::Link(why) => Some(why),
            UpkeepError::Rules(why) => Some(why),
        }
    }
}

impl From<LinkError> for UpkeepError {
    fn from(why: LinkError) -> Self {
        UpkeepError::Link(why)
    }
}

impl From<RulesError> for UpkeepError {
    fn from(why: RulesError) -> Self {
        UpkeepError::Rules(why)
    }
}

/// The keeper of one TUN's surroundings.
pub struct Upkeep {
    links: Links,
    ruleset: Option<Ruleset>,
    wanted: Wanted,
    link_owed: bool,
    last_failure: String,
    repairs: Repairs,
    /// What rules that we wrote anew had dropped.
    dropped: Dropped,
}

impl Upkeep {
    /// Takes charge of the interface in `wanted` and applies it. A prefix that others route already is logged and tried again with every tick.
    ///
    /// # Errors
    /// When anything else wanted cannot be had.
    pub fn start(wanted: Wanted) -> Result<Upkeep, UpkeepError> {
        let links = Links::open()?;
        let ruleset = if wanted.rules.is_some() { Some(Ruleset::open()?) } else { None };
        if let Err(why) = link::quiet(&wanted.link.name) {
            log!(Warn, "link", "cannot loosen reverse path filtering on {}: {why}", wanted.link.name);
        }
        let mut upkeep =
            Upkeep { links, ruleset, wanted, link_owed: true, last_failure: String::new(), repairs: Repairs::default(), dropped: Dropped::default() };
        match upkeep.apply() {
            Err(why @ UpkeepError::Link(LinkError::Clash(_))) => upkeep.failed(&why),
            other => other?,
        }
        upkeep.links.changed();
        Ok(upkeep)
    }

    /// Changes what is wanted and applies it.
    ///
    /// # Errors
    /// When it cannot be had; it stays wanted, and every tick tries again.
    pub fn set(&mut self, wanted: Wanted) -> Result<(), UpkeepError> {
        if wanted == self.wanted {
            return Ok(());
        }
        let rules_changed = wanted.rules != self.wanted.rules;
        self.wanted = wanted;
        if self.wanted.rules.is_some() && self.ruleset.is_none() {
            self.ruleset = Some(Ruleset::open()?);
        }
        let link = self.apply_link();
        if rules_changed {
            self.apply_rules()?;
        }
        link.map(|_| ())
    }

    /// The TUN was made again after somebody deleted it: all that stood on it is put back.
    ///
    /// # Errors
    /// When it cannot be had; every tick tries again.
    pub fn remade(&mut self) -> Result<(), UpkeepError> {
        self.repairs.device += 1;
        self.repairs.last = Some(super::time::mono());
        if let Err(why) = link::quiet(&self.wanted.link.name) {
            log!(Warn, "link", "cannot loosen reverse path filtering on {}: {why}", self.wanted.link.name);
        }
        self.apply_link().map(|_| ())
    }

    /// Looks whether all is as wanted and puts it right if not. Call it once a second.
    pub fn tick(&mut self) -> Tick {
        let mut tick = Tick { whole: true, ..Tick::default() };
        // Our own repairs are notices too; a second look tells them from others' changes.
        for _ in 0..3 {
            let changed = self.links.changed();
            tick.host_changed |= changed;
            if !changed && !self.link_owed {
                break;
            }
            match self.apply_link() {
                Ok(0) => {}
                Ok(restored) => tick.links_restored += restored,
                Err(why) => {
                    tick.tun_gone = matches!(why, UpkeepError::Link(LinkError::NoInterface(_)));
                    tick.whole = false;
                    self.failed(&why);
                    break;
                }
            }
        }
        match self.keep_rules() {
            Ok(restored) => tick.rules_restored = restored,
            Err(why) => {
                tick.whole = false;
                self.failed(&why);
            }
        }
        if tick.links_restored > 0 || tick.rules_restored {
            self.repairs.links += tick.links_restored as u64;
            self.repairs.rules += u64::from(tick.rules_restored);
            self.repairs.last = Some(super::time::mono());
            log!(Info, "link", "put back what others had changed: {} of addresses and routes, rules: {}", tick.links_restored, tick.rules_restored);
        }
        if tick.whole {
            self.last_failure.clear();
        }
        tick
    }

    /// Why what is wanted is not in force; empty if it is.
    pub fn trouble(&self) -> &str {
        &self.last_failure
    }

    /// What was put back so far.
    pub fn repairs(&self) -> Repairs {
        self.repairs
    }

    /// The prefixes other interfaces use; see [`Links::in_use`].
    ///
    /// # Errors
    /// When the kernel cannot list them.
    pub fn in_use(&mut self) -> Result<Vec<Prefix>, LinkError> {
        self.links.in_use(&self.wanted.link.name)
    }

    /// The addresses of this host on other interfaces; see [`Links::own_addresses`].
    ///
    /// # Errors
    /// When the kernel cannot list them.
    pub fn own_addresses(&mut self) -> Result<Vec<std::net::Ipv4Addr>, LinkError> {
        self.links.own_addresses(&self.wanted.link.name)
    }

    /// What of this host lies in its pod prefixes; see [`Links::own_within`].
    ///
    /// # Errors
    /// When the kernel cannot list them.
    pub fn own_within(&mut self, prefixes: &[Prefix]) -> Result<Vec<std::net::Ipv4Addr>, LinkError> {
        self.links.own_within(prefixes, &self.wanted.link.name)
    }

    /// What the rules have dropped, but for what those that others flushed had counted.
    ///
    /// # Errors
    /// When the kernel cannot list them.
    pub fn dropped(&mut self) -> Result<Dropped, RulesError> {
        let now = self.ruleset.as_mut().map_or(Ok(Dropped::default()), Ruleset::dropped)?;
        Ok(self.dropped.plus(now))
    }

    /// Takes everything of ours out of the kernel again, but for the TUN itself, which goes when it is dropped.
    ///
    /// # Errors
    /// The first thing that could not be removed; the rest is.
    pub fn remove(mut self) -> Result<(), UpkeepError> {
        let rules = self.ruleset.as_mut().map_or(Ok(()), Ruleset::remove);
        let link = link::Desired { name: self.wanted.link.name.clone(), mtu: self.wanted.link.mtu, ..link::Desired::default() };
        match self.links.apply(&link) {
            Ok(_) | Err(LinkError::NoInterface(_)) => rules.map_err(UpkeepError::Rules),
            Err(why) => Err(why.into()),
        }
    }

    /// Applies everything; one that fails does not cost the other.
    fn apply(&mut self) -> Result<(), UpkeepError> {
        let link = self.apply_link();
        self.apply_rules()?;
        link.map(|_| ())
    }

    fn apply_link(&mut self) -> Result<usize, UpkeepError> {
        self.link_owed = true;
        let changes = self.links.apply(&self.wanted.link)?;
        self.link_owed = false;
        Ok(changes)
    }

    fn apply_rules(&mut self) -> Result<(), UpkeepError> {
        let dropped = self.dropped().unwrap_or(self.dropped);
        match (&mut self.ruleset, &self.wanted.rules) {
            (Some(ruleset), Some(rules)) => ruleset.apply(rules)?,
            (Some(ruleset), None) => ruleset.remove()?,
            (None, _) => {}
        }
        // New rules count from nothing; those that could not be replaced still hold what they counted.
        self.dropped = dropped;
        Ok(())
    }

    /// Whether the rules had to be written again.
    fn keep_rules(&mut self) -> Result<bool, UpkeepError> {
        let (Some(ruleset), Some(rules)) = (&mut self.ruleset, &self.wanted.rules) else { return Ok(false) };
        if ruleset.is_whole()? {
            return Ok(false);
        }
        let dropped = self.dropped.plus(ruleset.dropped().unwrap_or_default());
        ruleset.apply(rules)?;
        self.dropped = dropped;
        Ok(true)
    }

    fn failed(&mut self, why: &UpkeepError) {
        let words = chain(why).to_string();
        if words != self.last_failure {
            log!(Warn, "link", "{words}; trying again every second");
            self.last_failure = words;
        }
    }
}
