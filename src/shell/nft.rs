//! The packet rules the tunnel needs, in one nftables table of our own: `table ip sluice`.
//!
//! Read first: the kernel's include/uapi/linux/netfilter/nf_tables.h; nft(8). Called by `upkeep`. What they say:
//! 1. `exempt`: what our own pods send into the TUN keeps its source. It is a source NAT to the source itself, before the CNI's
//!    masquerade (priority 100): the first NAT chain that decides wins, and a mere `accept` decides nothing.
//!    And what came out of the TUN and goes back into it (a peer to a pod of a third cluster, which the gateway let in) leaves as our node
//!    end: the third cluster sees us alone, and only its replies find the way back.
//! 2. `guard`: to the node end only replies enter, to the control end what the TUN brings, to the rest of the external range nothing;
//!    and through no interface but the TUN (and this host itself) is a guarded address reached. Before destination NAT, counted.
//! 3. `calls`: of handshakes to the gateway's port, what one source (address and UDP port) sends beyond what any peer needs ends before the kernel
//!    does anything else with it, connection tracking first of all. That is what a flood costs a host most; what the gateway then refuses costs little.
//!    Sources are remembered for ten seconds, `CALLERS` of them; handshakes of others all reach the gateway, which bounds them (`tunnel/sources`).
//!    A kernel that cannot do this does without.
//!
//! The table is replaced whole, in one transaction. A table of that name without our mark is never touched.

use std::fmt;
use std::net::Ipv4Addr;

use crate::identity::Prefix;
use crate::shell::expression::{ACCEPT, DESTINATION, DROP, Expressions, Rate, SOURCE};
use crate::shell::log::{chain, log};
use crate::shell::netlink::{self, Message, Netlink, Refusal, attribute, attributes};

const TABLE: &str = "sluice";
/// The comment by which a table is known to be ours.
const MARK: &str = "sluice.internal: made and kept by sluice";
const EXEMPT: Chain = Chain { name: "exempt", kind: "nat", hook: 4, priority: 90 };
const GUARD: Chain = Chain { name: "guard", kind: "filter", hook: 0, priority: -150 };
const CALLS: Chain = Chain { name: "calls", kind: "filter", hook: 0, priority: -300 };
/// The set of sources that call; its number within the transaction that writes it.
const CALLING: (&str, u32) = ("calling", 1);
/// Sources of handshakes that are remembered: 200 KiB or so of the kernel's memory.
const CALLERS: u32 = 1024;
/// For how many milliseconds.
const CALLER_KEPT: u64 = 10_000;
/// Handshakes of one source: a peer makes one in five seconds at most (WireGuard's REKEY_TIMEOUT), and its proof when it is asked for one; the gateway
/// looks at four of a second under load.
const CALL_RATE: Rate = Rate { rate: 8, burst: 8 };
/// How a handshake initiation begins (type 1, three zeros).
const INITIATION: [u8; 4] = [1, 0, 0, 0];

const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const GET_TABLE: u16 = NEW_TABLE | 1;
const DELETE_TABLE: u16 = NEW_TABLE | 2;
const NEW_CHAIN: u16 = NEW_TABLE | 3;
const GET_CHAIN: u16 = NEW_TABLE | 4;
const NEW_RULE: u16 = NEW_TABLE | 6;
const GET_RULE: u16 = NEW_TABLE | 7;
const NEW_SET: u16 = NEW_TABLE | 9;
const GET_GENERATION: u16 = NEW_TABLE | 16;
const IPV4: [u8; 4] = [2, 0, 0, 0];

/// What the rules are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The TUN's name.
    pub interface: String,
    /// The gateway's UDP port.
    pub port: u16,
    /// Our own pod prefixes, whose sources stay.
    pub pods: Vec<Prefix>,
    /// Our node end: replies only.
    pub node_end: Ipv4Addr,
    /// Our control end.
    pub control_end: Ipv4Addr,
    /// The external range: nothing else in it is reached through the TUN.
    pub external: Prefix,
    /// What no other interface may reach: the control end, virtual nodes.
    pub guarded: Vec<Prefix>,
}

/// Packets dropped by the rules since they were last written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// From the TUN to the node end, and no reply.
    pub node_end: u64,
    /// From the TUN to another address of the external range.
    pub external: u64,
    /// From another interface to a guarded address.
    pub guarded: u64,
    /// Handshakes beyond what one source needs.
    pub calls: u64,
}

impl Dropped {
    /// Both together.
    pub fn plus(self, more: Dropped) -> Dropped {
        Dropped {
            node_end: self.node_end + more.node_end,
            external: self.external + more.external,
            guarded: self.guarded + more.guarded,
            calls: self.calls + more.calls,
        }
    }

    /// Each with the name of its rule, as users see it.
    pub fn named(self) -> [(&'static str, u64); 4] {
        [("node_end", self.node_end), ("external", self.external), ("guarded", self.guarded), ("calls", self.calls)]
    }
}

/// Why the rules are not in force.
#[derive(Debug)]
pub enum RulesError {
    /// A table of our name that we did not make.
    Foreign,
    /// The kernel lacks a part of nf_tables.
    Lacking(Refusal),
    /// The kernel refused (what was being done, its answer).
    Kernel(&'static str, Refusal),
}

impl fmt::Display for RulesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RulesError::Foreign => {
                write!(f, "there is a table {TABLE} that this program did not make: look at it (nft list table ip {TABLE}) and rename or delete it")
            }
            RulesError::Lacking(_) => {
                f.write_str("the kernel lacks a part of nf_tables: load or build nf_tables, nft_chain_nat, nft_nat and nft_ct (modprobe nft_chain_nat)")
            }
            RulesError::Kernel(doing, _) => write!(f, "cannot {doing}"),
        }
    }
}

impl std::error::Error for RulesError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RulesError::Lacking(why) | RulesError::Kernel(_, why) => Some(why),
            RulesError::Foreign => None,
        }
    }
}

/// The kernel's packet rules.
pub struct Ruleset {
    netlink: Netlink,
    /// The generation in which the table was last seen as we wrote it.
    generation: Option<u32>,
    /// The table as the kernel showed it right after we wrote it.
    written: Option<Shown>,
    /// Whether the kernel counts calls by source; believed until it refuses.
    counts_calls: bool,
}

/// A table as the kernel shows it, without handles and counts.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shown {
    table: Vec<u8>,
    chains: Vec<Vec<u8>>,
    rules: Vec<Vec<u8>>,
}

impl Ruleset {
    /// Opens the kernel's door to them.
    ///
    /// # Errors
    /// When there is no nf_tables, or no right to it.
    pub fn open() -> Result<Ruleset, RulesError> {
        let netlink = Netlink::open(libc::NETLINK_NETFILTER).map_err(RulesError::Lacking)?;
        let mut ruleset = Ruleset { netlink, generation: None, written: None, counts_calls: true };
        ruleset.current_generation().map_err(|why| match why {
            RulesError::Kernel(_, why) if why.is(libc::EINVAL) || why.is(libc::EOPNOTSUPP) => RulesError::Lacking(why),
            other => other,
        })?;
        Ok(ruleset)
    }

    /// Writes the table, in place of the one that is there if that is ours, all at once.
    ///
    /// # Errors
    /// As [`RulesError`] says; what was there before still is.
    pub fn apply(&mut self, rules: &Rules) -> Result<(), RulesError> {
        (self.generation, self.written) = (None, None);
        // What is read back is what was written only if nobody else wrote in between; on a busy machine the last try is believed.
        for attempt in 0..4 {
            let before = self.current_generation()?;
            let mut commands = Vec::new();
            if self.table_there()? {
                commands.push(table_message(DELETE_TABLE, 0));
            }
            commands.extend(written(rules));
            if self.counts_calls {
                commands.extend(counted_calls(rules.port));
            }
            match self.commit(commands) {
                Ok(()) => {}
                Err(why) if self.counts_calls && [libc::ENOENT, libc::EOPNOTSUPP, libc::EINVAL].into_iter().any(|errno| why.is(errno)) => {
                    // The likeliest part to be lacking, and the one the rest can do without; if it is not that others deleted the table just now.
                    if attempt > 0 {
                        self.counts_calls = false;
                        log!(
                            Info,
                            "rules",
                            "handshakes are not counted by source before they reach the gateway, a flood of them costs this host more: {}",
                            chain(&why)
                        );
                    }
                    continue;
                }
                Err(why) if why.is(libc::ENOENT) || why.is(libc::EOPNOTSUPP) => return Err(RulesError::Lacking(why)),
                Err(why) => return Err(RulesError::Kernel("write the packet rules", why)),
            }
            self.written = self.shown()?;
            let after = self.current_generation()?;
            if self.written.is_some() && after == before.wrapping_add(1) {
                self.generation = Some(after);
                break;
            }
        }
        Ok(())
    }

    /// Whether the table still is as it was written. One small question to the kernel as long as nobody changes any rule.
    ///
    /// # Errors
    /// When the kernel does not answer; never for a table that is gone.
    pub fn is_whole(&mut self) -> Result<bool, RulesError> {
        let now = self.current_generation()?;
        if self.generation == Some(now) {
            return Ok(true);
        }
        let shown = self.shown()?;
        if self.written.is_none() || shown != self.written {
            return Ok(false);
        }
        self.generation = Some(now);
        Ok(true)
    }

    /// Deletes the table if it is there and ours.
    ///
    /// # Errors
    /// [`RulesError::Foreign`] if it is not ours; else what the kernel said.
    pub fn remove(&mut self) -> Result<(), RulesError> {
        (self.generation, self.written) = (None, None);
        if !self.table_there()? {
            return Ok(());
        }
        match self.commit(vec![table_message(DELETE_TABLE, 0)]) {
            Err(why) if !why.is(libc::ENOENT) => Err(RulesError::Kernel("delete the packet rules", why)),
            _ => Ok(()),
        }
    }

    /// What the rules dropped since they were last written.
    ///
    /// # Errors
    /// When the kernel does not list them.
    pub fn dropped(&mut self) -> Result<Dropped, RulesError> {
        let mut dropped = Dropped::default();
        self.rules(|rule| {
            let packets = rule.counter.unwrap_or_default();
            match rule.comment {
                Comment::NODE_END => dropped.node_end += packets,
                Comment::EXTERNAL => dropped.external += packets,
                Comment::GUARDED => dropped.guarded += packets,
                Comment::CALLS => dropped.calls += packets,
                _ => {}
            }
        })?;
        Ok(dropped)
    }

    /// Whether there is a table of our name.
    ///
    /// # Errors
    /// [`RulesError::Foreign`] if it is not ours; else what the kernel said.
    pub fn there(&mut self) -> Result<bool, RulesError> {
        self.table_there()
    }

    /// The names of all chains for IPv4, whoever made them.
    ///
    /// # Errors
    /// When the kernel does not list them.
    pub fn chains(&mut self) -> Result<Vec<String>, RulesError> {
        let mut names = Vec::new();
        let name = |body: &[u8]| Some(String::from_utf8_lossy(attribute(body.get(4..)?, 3)?).trim_end_matches('\0').to_owned());
        self.netlink.dump(Message::new(GET_CHAIN, 0, &IPV4), |body| names.extend(name(body))).map_err(kernel("list the chains of packet rules"))?;
        Ok(names)
    }

    fn commit(&mut self, commands: Vec<Message>) -> Result<(), Refusal> {
        let frame = |kind| Message::new(kind, 0, &[0, 0, 0, SUBSYSTEM as u8]);
        self.netlink.batch(frame(0x10), commands, frame(0x11))
    }

    fn current_generation(&mut self) -> Result<u32, RulesError> {
        let ask = Message::new(GET_GENERATION, 0, &[0; 4]);
        self.netlink.ask(ask, |body| Some(u32::from_be_bytes(attribute(body.get(4..)?, 1)?.try_into().ok()?))).map_err(kernel("ask for the rules' generation"))
    }

    /// Whether there is a table of our name, which then is ours.
    fn table_there(&mut self) -> Result<bool, RulesError> {
        let ours = |body: &[u8]| Some(attribute(body.get(4..)?, 6).and_then(comment) == Some(MARK.as_bytes()));
        match self.netlink.ask(table_message(GET_TABLE, 0), ours) {
            Ok(true) => Ok(true),
            Ok(false) => Err(RulesError::Foreign),
            Err(why) if why.is(libc::ENOENT) => Ok(false),
            Err(why) => Err(RulesError::Kernel("look for our packet rules", why)),
        }
    }

    /// The table as it is now; `None` when it or a chain of it is not there.
    fn shown(&mut self) -> Result<Option<Shown>, RulesError> {
        let mut shown = Shown::default();
        // Flags, number of chains, comment.
        match self.netlink.ask(table_message(GET_TABLE, 0), |body| Some(picked(body.get(4..)?, &[2, 3, 6]))) {
            Ok(table) => shown.table = table,
            Err(why) if why.is(libc::ENOENT) => return Ok(None),
            Err(why) => return Err(RulesError::Kernel("look at our packet rules", why)),
        }
        for chain in [EXEMPT, GUARD].into_iter().chain(self.counts_calls.then_some(CALLS)) {
            let mut ask = Message::new(GET_CHAIN, 0, &IPV4);
            ask.text(1, TABLE).text(3, chain.name);
            // Name, hook, policy, type, flags.
            match self.netlink.ask(ask, |body| Some(picked(body.get(4..)?, &[3, 4, 5, 7, 10]))) {
                Ok(chain) => shown.chains.push(chain),
                Err(why) if why.is(libc::ENOENT) => return Ok(None),
                Err(why) => return Err(RulesError::Kernel("look at our packet rules", why)),
            }
        }
        self.rules(|rule| shown.rules.push(rule.shown))?;
        Ok(Some(shown))
    }

    fn rules(&mut self, mut each: impl FnMut(Rule<'_>)) -> Result<(), RulesError> {
        let mut ask = Message::new(GET_RULE, 0, &IPV4);
        ask.text(1, TABLE);
        match self.netlink.dump(ask, |body| {
            if let Some(rule) = body.get(4..).and_then(read_rule) {
                each(rule);
            }
        }) {
            // A list that changed while it was read differs from what was written, or will be read again.
            Err(why) if !why.is(libc::EINTR) && !why.is(libc::ENOENT) => Err(RulesError::Kernel("list our packet rules", why)),
            _ => Ok(()),
        }
    }
}

struct Chain {
    name: &'static str,
    kind: &'static str,
    hook: u32,
    priority: i32,
}

/// The comments by which rules are told apart when they are counted.
struct Comment;

impl Comment {
    const SOURCE: &'static [u8] = b"own pods keep their source";
    const TRANSIT: &'static [u8] = b"between peers as our node end";
    const REPLIES: &'static [u8] = b"replies to the node end";
    const NODE_END: &'static [u8] = b"nothing else to the node end";
    const CONTROL: &'static [u8] = b"to the control end";
    const EXTERNAL: &'static [u8] = b"nothing else in the external range";
    const GUARDED: &'static [u8] = b"only through the tunnel";
    const CALLS: &'static [u8] = b"more handshakes than a peer needs";
}

struct Rule<'a> {
    comment: &'a [u8],
    counter: Option<u64>,
    shown: Vec<u8>,
}

fn kernel(doing: &'static str) -> impl FnOnce(Refusal) -> RulesError {
    move |why| RulesError::Kernel(doing, why)
}

/// The whole table as commands.
fn written(rules: &Rules) -> Vec<Message> {
    let mut table = table_message(NEW_TABLE, netlink::CREATE | netlink::EXCLUSIVE);
    table.put(6, &noted(MARK.as_bytes()));
    let mut commands = vec![table, chain_message(&EXEMPT), chain_message(&GUARD)];
    let tun = rules.interface.as_str();
    for &pods in &rules.pods {
        commands.push(rule_message(&EXEMPT, Comment::SOURCE, |rule| {
            rule.leaves(tun).field(SOURCE, pods).null_source_nat();
        }));
    }
    commands.push(rule_message(&EXEMPT, Comment::TRANSIT, |rule| {
        rule.enters(tun, true).leaves(tun).source_nat(rules.node_end);
    }));
    let end = |address| Prefix::new(address, 32);
    let guard = |comment, from_tun: &dyn Fn(&mut Expressions<'_>)| {
        rule_message(&GUARD, comment, |rule| {
            rule.enters(tun, true);
            from_tun(rule);
        })
    };
    if let (Some(node), Some(control)) = (end(rules.node_end), end(rules.control_end)) {
        commands.push(guard(Comment::REPLIES, &|rule| {
            rule.field(DESTINATION, node).is_reply().verdict(ACCEPT);
        }));
        commands.push(guard(Comment::NODE_END, &|rule| {
            rule.field(DESTINATION, node).count().verdict(DROP);
        }));
        commands.push(guard(Comment::CONTROL, &|rule| {
            rule.field(DESTINATION, control).verdict(ACCEPT);
        }));
    }
    commands.push(guard(Comment::EXTERNAL, &|rule| {
        rule.field(DESTINATION, rules.external).count().verdict(DROP);
    }));
    for &guarded in &rules.guarded {
        commands.push(rule_message(&GUARD, Comment::GUARDED, |rule| {
            rule.enters(tun, false).enters("lo", false).field(DESTINATION, guarded).count().verdict(DROP);
        }));
    }
    commands
}

/// The chain `calls` and its set, as commands.
fn counted_calls(port: u16) -> [Message; 3] {
    // nft(8) writes the types of what is joined in six bits each: IPv4 address, port. Each is a multiple of four bytes.
    const ADDRESS_AND_PORT: u32 = 7 << 6 | 13;
    const LENGTH: u32 = 8;
    const EXPIRES_AND_IS_FILLED_BY_RULES: u32 = 0x10 | 0x20;
    let mut set = Message::new(NEW_SET, netlink::CREATE, &IPV4);
    set.text(1, TABLE).text(2, CALLING.0).put(3, &EXPIRES_AND_IS_FILLED_BY_RULES.to_be_bytes());
    set.put(4, &ADDRESS_AND_PORT.to_be_bytes()).put(5, &LENGTH.to_be_bytes());
    set.nest(9, |description| {
        description.put(1, &CALLERS.to_be_bytes());
    });
    set.put(10, &CALLING.1.to_be_bytes()).put(11, &CALLER_KEPT.to_be_bytes());
    let rule = rule_message(&CALLS, Comment::CALLS, |rule| {
        rule.datagram(port, INITIATION).source_exceeds(CALLING.0, CALLING.1, &CALL_RATE).count().verdict(DROP);
    });
    [set, chain_message(&CALLS), rule]
}

fn table_message(kind: u16, flags: u16) -> Message {
    let mut message = Message::new(kind, flags, &IPV4);
    message.text(1, TABLE);
    message
}

fn chain_message(chain: &Chain) -> Message {
    let mut message = Message::new(NEW_CHAIN, netlink::CREATE, &IPV4);
    message.text(1, TABLE).text(3, chain.name).text(7, chain.kind).nest(4, |hook| {
        hook.put(1, &chain.hook.to_be_bytes()).put(2, &chain.priority.to_be_bytes());
    });
    message.put(5, &ACCEPT.to_be_bytes());
    message
}

fn rule_message(chain: &Chain, comment: &[u8], write: impl FnOnce(&mut Expressions<'_>)) -> Message {
    let mut message = Message::new(NEW_RULE, netlink::CREATE | netlink::APPEND, &IPV4);
    message.text(1, TABLE).text(2, chain.name).nest(4, |list| write(&mut Expressions::of(list)));
    message.put(7, &noted(comment));
    message
}

/// A comment as nft(8) writes it into user data: type 0, length, text with its zero byte.
fn noted(comment: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, comment.len() as u8 + 1];
    bytes.extend_from_slice(comment);
    bytes.push(0);
    bytes
}

/// The comment in user data.
fn comment(noted: &[u8]) -> Option<&[u8]> {
    let (head, rest) = noted.split_first_chunk::<2>()?;
    (head[0] == 0).then_some(netlink::text(rest.get(..usize::from(head[1]))?))
}

/// The attributes of the given kinds, one after the other with their kinds and lengths.
fn picked(body: &[u8], kinds: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, value) in attributes(body).filter(|(kind, _)| kinds.contains(kind)) {
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(value.len() as u16).to_ne_bytes());
        bytes.extend_from_slice(value);
    }
    bytes
}

fn read_rule(body: &[u8]) -> Option<Rule<'_>> {
    if netlink::text(attribute(body, 1)?) != TABLE.as_bytes() {
        return None;
    }
    let comment = attribute(body, 7).and_then(comment).unwrap_or_default();
    // Chain and comment, then the expressions but for what counters have counted.
    let (mut shown, mut counter) = (picked(body, &[2, 7]), None);
    for (_, element) in attributes(attribute(body, 4)?) {
        let (name, data) = (attribute(element, 1)?, attribute(element, 2).unwrap_or_default());
        shown.extend_from_slice(name);
        if netlink::text(name) == b"counter" {
            counter = attribute(data, 2).and_then(|value| value.try_into().ok()).map(u64::from_be_bytes);
        } else {
            shown.extend_from_slice(data);
        }
    }
    Some(Rule { comment, counter, shown })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_read_as_it_was_noted() {
        assert_eq!(comment(&noted(MARK.as_bytes())), Some(MARK.as_bytes()));
        for foreign in [&b""[..], &[0], &[1, 2, b'x', 0], &[0, 9, b'x', 0]] {
            assert_eq!(comment(foreign), None);
        }
    }

    #[test]
    fn what_a_counter_has_counted_does_not_change_how_a_rule_is_shown() {
        let rule = |packets: u64, code: u32| {
            let mut message = Message::new(NEW_RULE, 0, &[]);
            message.text(1, TABLE).text(2, "guard").nest(4, |list| {
                let mut expressions = Expressions::of(list);
                expressions.add("counter", |data| {
                    data.put(1, &[9; 8]).put(2, &packets.to_be_bytes());
                });
                expressions.verdict(code);
            });
            message.put(7, &noted(Comment::NODE_END));
            message
        };
        let bytes = |message: Message| message.body().to_vec();
        let (first, later, altered) = (bytes(rule(0, DROP)), bytes(rule(7, DROP)), bytes(rule(7, ACCEPT)));
        let [first, later, altered] = [&first, &later, &altered].map(|body| read_rule(body).expect("a rule"));
        assert_eq!(first.shown, later.shown);
        assert_ne!(first.shown, altered.shown);
        assert_eq!((later.counter, later.comment), (Some(7), Comment::NODE_END));
    }

    #[test]
    fn rules_of_any_length_are_read_or_left() {
        let rules = Rules {
            interface: "sluice0".into(),
            port: 51820,
            pods: vec!["10.42.0.0/16".parse().expect("a prefix")],
            node_end: Ipv4Addr::new(10, 70, 0, 1),
            control_end: Ipv4Addr::new(10, 70, 0, 2),
            external: "10.70.0.0/16".parse().expect("a prefix"),
            guarded: vec!["10.70.0.2/32".parse().expect("a prefix")],
        };
        let (mut commands, [_, _, calls]) = (written(&rules), counted_calls(rules.port));
        assert_eq!(commands.len(), 3 + 2 + 4 + 1);
        commands.push(calls);
        for command in &commands[3..] {
            let body = &command.body()[4..];
            assert!(read_rule(body).is_some());
            for length in 0..body.len() {
                let _ = read_rule(&body[..length]);
            }
        }
    }
}
