//! The TUN's place in the host's network: its addresses, MTU and routes, and what the host uses already.
//!
//! Read first: rtnetlink(7). Called by the driver with the whole [`Desired`] state: [`Links::apply`] makes the kernel equal to it
//! for that one interface, as often as it is called, and touches nothing of any other. A route that others have for the same
//! prefix is never replaced. The primary address alone has global scope, so the kernel never picks another as a source.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;

use crate::identity::Prefix;
use crate::shell::netlink::{self, Message, Netlink, Notices, Refusal, attribute};

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;

const INET: u8 = libc::AF_INET as u8;
/// Our mark on routes (`ip route show proto 83`); the kernel knows no such protocol.
const PROTOCOL: u8 = 83;
const SCOPE_GLOBAL: u8 = 0;
const SCOPE_LINK: u8 = 253;
const TABLE_MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;
const UNICAST: u8 = 1;
const UP: u32 = 1;
/// `RTA_METRICS`, and `RTAX_MTU` in it.
const METRICS: u16 = 8;
const METRIC_MTU: u16 = 2;
/// Groups of changes: links, IPv4 addresses, IPv4 routes.
const GROUPS: [u32; 3] = [1, 5, 7];

/// What one interface shall have, as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The interface.
    pub name: String,
    /// Its MTU in bytes, at least that of any route.
    pub mtu: u32,
    /// Its primary address: the source of what the host itself sends into it.
    pub primary: Option<Ipv4Addr>,
    /// More addresses that are local to this host.
    pub local: Vec<Ipv4Addr>,
    /// Prefixes routed into it, and the MTU of each.
    pub routes: Vec<(Prefix, u32)>,
}

/// What keeps the kernel from the desired state.
#[derive(Debug)]
pub enum LinkError {
    /// There is no interface of this name.
    NoInterface(String),
    /// Another route for this prefix exists.
    Clash(Prefix),
    /// The kernel refused (what was being done, its answer).
    Kernel(&'static str, Refusal),
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkError::NoInterface(name) => write!(f, "the interface {name} is gone"),
            LinkError::Clash(prefix) => {
                write!(f, "the host has a route to {prefix} already (ip route show {prefix}): remove it, or let the peer have another image")
            }
            LinkError::Kernel(doing, _) => write!(f, "cannot {doing}"),
        }
    }
}

impl std::error::Error for LinkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LinkError::Kernel(_, why) => Some(why),
            LinkError::NoInterface(_) | LinkError::Clash(_) => None,
        }
    }
}

/// The host's links, addresses and routes.
pub struct Links {
    netlink: Netlink,
    notices: Notices,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    index: u32,
    mtu: u32,
    up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Address {
    index: u32,
    local: Ipv4Addr,
    prefix: Prefix,
    scope: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Route {
    to: Prefix,
    table: u32,
    kind: u8,
    index: Option<u32>,
    source: Option<Ipv4Addr>,
    protocol: u8,
    priority: u32,
    mtu: Option<u32>,
}

impl Route {
    /// Whether it is as [`Links::apply`] makes it.
    fn is_ours(&self, source: Option<Ipv4Addr>) -> bool {
        self.kind == UNICAST && self.protocol == PROTOCOL && self.priority == 0 && self.source == source
    }
}

impl Links {
    /// Opens the kernel's door to them.
    ///
    /// # Errors
    /// When the kernel has no rtnetlink, or no sockets are left.
    pub fn open() -> Result<Links, LinkError> {
        let at = |why| LinkError::Kernel("open a route socket", why);
        Ok(Links { netlink: Netlink::open(libc::NETLINK_ROUTE).map_err(at)?, notices: Notices::open(libc::NETLINK_ROUTE, &GROUPS).map_err(at)? })
    }

    /// Whether a link, address or route of the host changed since the last call (our own changes included).
    pub fn changed(&mut self) -> bool {
        self.notices.changed()
    }

    /// Makes the interface what `desired` says and removes from it what is not in there. Says how many things had to be changed.
    ///
    /// Goes on after a route that clashes, so that one prefix does not cost the others; the first such error is returned.
    ///
    /// # Errors
    /// The first thing that could not be done.
    pub fn apply(&mut self, desired: &Desired) -> Result<usize, LinkError> {
        let link = self.link(&desired.name)?;
        let mut changes = 0;
        if link.mtu != desired.mtu || !link.up {
            self.set_link(link.index, desired.mtu).map_err(|why| LinkError::Kernel("set the MTU of the interface and bring it up", why))?;
            changes += 1;
        }
        changes += self.apply_addresses(link.index, desired)?;
        changes += self.apply_routes(link.index, desired)?;
        Ok(changes)
    }

    /// The prefixes of the addresses and routes of all other interfaces, without the default route: nothing of ours may overlap them.
    ///
    /// # Errors
    /// When the kernel cannot list them.
    pub fn in_use(&mut self, except: &str) -> Result<Vec<Prefix>, LinkError> {
        let own = self.index_if_there(except)?;
        let mut used: Vec<Prefix> = self.addresses(None)?.into_iter().filter(|address| Some(address.index) != own).map(|address| address.prefix).collect();
        let routes = self.routes(None)?;
        used.extend(
            routes
                .into_iter()
                .filter(|route| route.table != TABLE_LOCAL && route.to.length() > 0 && (own.is_none() || route.index != own))
                .map(|route| route.to),
        );
        used.sort_unstable();
        used.dedup();
        Ok(used)
    }

    /// The IPv4 addresses of all other interfaces: this host itself, whatever prefix they lie in.
    ///
    /// # Errors
    /// When the kernel cannot list them.
    pub fn own_addresses(&mut self, except: &str) -> Result<Vec<Ipv4Addr>, LinkError> {
        let own = self.index_if_there(except)?;
        let mut found: Vec<Ipv4Addr> = self.addresses(None)?.into_iter().filter(|address| Some(address.index) != own).map(|address| address.local).collect();
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// What of the host's own lies in `prefixes`, on every interface but `except`: its addresses, and the first and last of the subnets they are in, which
    /// a kernel takes for itself too. Sorted.
    ///
    /// # Errors
    /// When the kernel cannot list them.
    pub fn own_within(&mut self, prefixes: &[Prefix], except: &str) -> Result<Vec<Ipv4Addr>, LinkError> {
        let own = self.index_if_there(except)?;
        let mut found = Vec::new();
        for address in self.addresses(None)?.iter().filter(|address| Some(address.index) != own) {
            found.extend(edges(address.local, address.prefix));
        }
        found.retain(|address| prefixes.iter().any(|prefix| prefix.contains(*address)));
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    fn apply_addresses(&mut self, index: u32, desired: &Desired) -> Result<usize, LinkError> {
        let others = desired.local.iter().filter(|&&local| Some(local) != desired.primary);
        let wanted = desired.primary.iter().map(|&local| (local, SCOPE_GLOBAL)).chain(others.map(|&local| (local, SCOPE_LINK)));
        let wanted: Vec<Address> = wanted.filter_map(|(local, scope)| Some(Address { index, local, prefix: Prefix::new(local, 32)?, scope })).collect();
        let found = self.addresses(Some(index))?;
        let mut changes = 0;
        for address in found.iter().filter(|address| !wanted.contains(address)) {
            let deleted = self.netlink.request(address_message(DELETE_ADDRESS, 0, address));
            settle(deleted, libc::EADDRNOTAVAIL).map_err(|why| LinkError::Kernel("remove an address from the interface", why))?;
            changes += 1;
        }
        for address in wanted.iter().filter(|address| !found.contains(address)) {
            let added = self.netlink.request(address_message(NEW_ADDRESS, netlink::CREATE | netlink::EXCLUSIVE, address));
            settle(added, libc::EEXIST).map_err(|why| LinkError::Kernel("give the interface an address", why))?;
            changes += 1;
        }
        Ok(changes)
    }

    fn apply_routes(&mut self, index: u32, desired: &Desired) -> Result<usize, LinkError> {
        let found = self.routes(Some(index))?;
        let good = |route: &&Route| route.table == TABLE_MAIN && route.is_ours(desired.primary) && desired.routes.iter().any(|(to, _)| *to == route.to);
        let mut changes = 0;
        for route in found.iter().filter(|route| route.table == TABLE_MAIN && !good(route)) {
            let deleted = self.netlink.request(route_message(DELETE_ROUTE, 0, route));
            settle(deleted, libc::ESRCH).map_err(|why| LinkError::Kernel("remove a route from the interface", why))?;
            changes += 1;
        }
        let mut clash = None;
        for (at, &(to, mtu)) in desired.routes.iter().enumerate() {
            let there = found.iter().filter(good).find(|route| route.to == to);
            if desired.routes[..at].iter().any(|(before, _)| *before == to) || there.is_some_and(|route| route.mtu == Some(mtu)) {
                continue;
            }
            let (kind, protocol) = (UNICAST, PROTOCOL);
            let route = Route { to, table: TABLE_MAIN, kind, index: Some(index), source: desired.primary, protocol, priority: 0, mtu: Some(mtu) };
            // Only one of ours has its place taken.
            let how = if there.is_some() { netlink::REPLACE } else { netlink::EXCLUSIVE };
            match self.netlink.request(route_message(NEW_ROUTE, netlink::CREATE | how, &route)) {
                Ok(()) => changes += 1,
                Err(why) if why.is(libc::EEXIST) => clash = clash.or(Some(to)),
                Err(why) => return Err(LinkError::Kernel("route a prefix into the interface", why)),
            }
        }
        clash.map_or(Ok(changes), |prefix| Err(LinkError::Clash(prefix)))
    }

    fn link(&mut self, name: &str) -> Result<Link, LinkError> {
        let mut message = Message::new(GET_LINK, 0, &[0; 16]);
        message.text(3, name);
        self.netlink
            .ask(message, read_link)
            .map_err(|why| if why.is(libc::ENODEV) { LinkError::NoInterface(name.into()) } else { LinkError::Kernel("look at the interface", why) })
    }

    fn index_if_there(&mut self, name: &str) -> Result<Option<u32>, LinkError> {
        match self.link(name) {
            Ok(link) => Ok(Some(link.index)),
            Err(LinkError::NoInterface(_)) => Ok(None),
            Err(why) => Err(why),
        }
    }

    fn set_link(&mut self, index: u32, mtu: u32) -> Result<(), Refusal> {
        let mut head = [0; 16];
        head[4..8].copy_from_slice(&index.to_ne_bytes());
        head[8..12].copy_from_slice(&UP.to_ne_bytes());
        head[12..16].copy_from_slice(&UP.to_ne_bytes());
        let mut message = Message::new(NEW_LINK, 0, &head);
        message.put(4, &mtu.to_ne_bytes());
        self.netlink.request(message)
    }

    fn addresses(&mut self, of: Option<u32>) -> Result<Vec<Address>, LinkError> {
        let mut head = [INET, 0, 0, 0, 0, 0, 0, 0];
        head[4..8].copy_from_slice(&of.unwrap_or_default().to_ne_bytes());
        self.listed(
            "list the host's addresses",
            || Message::new(GET_ADDRESS, 0, &head),
            |body| read_address(body).filter(|address| of.is_none_or(|index| index == address.index)),
        )
    }

    fn routes(&mut self, of: Option<u32>) -> Result<Vec<Route>, LinkError> {
        self.listed(
            "list the host's routes",
            || {
                let mut message = Message::new(GET_ROUTE, 0, &[INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                if let Some(index) = of {
                    message.put(4, &index.to_ne_bytes());
                }
                message
            },
            |body| read_route(body).filter(|route| of.is_none() || route.index == of),
        )
    }

    /// All entries of a dump, asked for again if the kernel's list changed under it.
    fn listed<T>(&mut self, doing: &'static str, ask: impl Fn() -> Message, read: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>, LinkError> {
        for _ in 0..8 {
            let mut found = Vec::new();
            match self.netlink.dump(ask(), |body| found.extend(read(body))) {
                Ok(()) => return Ok(found),
                Err(why) if why.is(libc::EINTR) => {}
                Err(why) => return Err(LinkError::Kernel(doing, why)),
            }
        }
        Err(LinkError::Kernel(doing, io::Error::from_raw_os_error(libc::EINTR).into()))
    }
}

/// Whether the kernel forwards IPv4 packets between interfaces (`net.ipv4.ip_forward`); pods reach nothing without it.
///
/// # Errors
/// When `/proc/sys` cannot be read.
pub fn forwards() -> io::Result<bool> {
    Ok(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")?.trim() == "1")
}

/// Settles what netlink cannot say of our own interface: loose reverse path filtering, whatever the host's default is, and no IPv6
/// (a device without neighbours would otherwise send router solicitations into the tunnel). `name` is one [`Tun`](super::tun::Tun) took.
///
/// # Errors
/// When the filter cannot be set where it is strict; without IPv6 there is nothing to switch off.
pub fn quiet(name: &str) -> io::Result<()> {
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    let filter = |of: &str| format!("/proc/sys/net/ipv4/conf/{of}/rp_filter");
    let strict = |of: &str| std::fs::read_to_string(filter(of)).is_ok_and(|text| text.trim() == "1");
    // The kernel takes the greater of the two: 2, loose, wins over the host's 1.
    if strict(name) || strict("all") { std::fs::write(filter(name), "2") } else { Ok(()) }
}

/// A refusal that says that it is done already is none.
fn settle(done: Result<(), Refusal>, already: i32) -> Result<(), Refusal> {
    match done {
        Err(why) if why.is(already) => Ok(()),
        other => other,
    }
}

fn address_message(kind: u16, flags: u16, address: &Address) -> Message {
    let mut head = [INET, address.prefix.length(), 0, address.scope, 0, 0, 0, 0];
    head[4..8].copy_from_slice(&address.index.to_ne_bytes());
    let mut message = Message::new(kind, flags, &head);
    message.put(2, &address.local.octets());
    message
}

fn route_message(kind: u16, flags: u16, route: &Route) -> Message {
    let deleting = kind == DELETE_ROUTE;
    // Deleting with scope "nowhere" matches any; the rest identifies the route.
    let scope = if deleting { 255 } else { SCOPE_LINK };
    let mut message = Message::new(kind, flags, &[INET, route.to.length(), 0, 0, route.table as u8, route.protocol, scope, route.kind, 0, 0, 0, 0]);
    message.put(1, &route.to.address().octets());
    if let Some(index) = route.index {
        message.put(4, &index.to_ne_bytes());
    }
    if route.priority > 0 {
        message.put(6, &route.priority.to_ne_bytes());
    }
    if let Some(source) = route.source {
        message.put(7, &source.octets());
    }
    // Whatever its MTU is, a route that is to go is known by the rest.
    if let Some(mtu) = route.mtu.filter(|_| !deleting) {
        message.nest(METRICS, |inside| {
            inside.put(METRIC_MTU, &mtu.to_ne_bytes());
        });
    }
    message
}

fn read_link(body: &[u8]) -> Option<Link> {
    let head: &[u8; 16] = body.first_chunk()?;
    let index = u32::from_ne_bytes([head[4], head[5], head[6], head[7]]);
    let flags = u32::from_ne_bytes([head[8], head[9], head[10], head[11]]);
    Some(Link { index, mtu: number(attribute(&body[16..], 4)?)?, up: flags & UP != 0 })
}

fn read_address(body: &[u8]) -> Option<Address> {
    let head: &[u8; 8] = body.first_chunk()?;
    let rest = &body[8..];
    // The second is the far end of a point-to-point link; the first is then our own.
    let (local, far) = (attribute(rest, 2).and_then(address), attribute(rest, 1).and_then(address));
    let prefix = Prefix::new(far.or(local)?, head[1])?;
    let index = u32::from_ne_bytes([head[4], head[5], head[6], head[7]]);
    (head[0] == INET).then_some(Address { index, local: local.or(far)?, prefix, scope: head[3] })
}

fn read_route(body: &[u8]) -> Option<Route> {
    let head: &[u8; 12] = body.first_chunk()?;
    let rest = &body[12..];
    // Cached routes (exceptions learnt from ICMP) are not configuration.
    let cached = u32::from_ne_bytes([head[8], head[9], head[10], head[11]]) & 0x200 != 0;
    if head[0] != INET || cached {
        return None;
    }
    Some(Route {
        to: Prefix::new(attribute(rest, 1).map_or(Some(Ipv4Addr::UNSPECIFIED), address)?, head[1])?,
        table: attribute(rest, 15).and_then(number).unwrap_or(u32::from(head[4])),
        kind: head[7],
        index: attribute(rest, 4).and_then(number),
        source: attribute(rest, 7).and_then(address),
        protocol: head[5],
        priority: attribute(rest, 6).and_then(number).unwrap_or_default(),
        mtu: attribute(rest, METRICS).and_then(|metrics| attribute(metrics, METRIC_MTU)).and_then(number),
    })
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.try_into().ok()?))
}

/// An address with the first and last of its subnet, if that has such.
fn edges(local: Ipv4Addr, subnet: Prefix) -> impl Iterator<Item = Ipv4Addr> {
    let ends = (subnet.length() < 31).then(|| [subnet.address(), subnet.translate(Ipv4Addr::BROADCAST, subnet)]);
    ends.into_iter().flatten().chain([local])
}

fn address(value: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_can_be_looked_at_without_any_right() {
        let mut links = Links::open().expect("rtnetlink");
        assert!(links.own_addresses("no-such-link").expect("addresses").contains(&Ipv4Addr::LOCALHOST));
        assert!(links.in_use("no-such-link").expect("prefixes").iter().any(|prefix| prefix.contains(Ipv4Addr::LOCALHOST)));
        assert!(links.in_use("no-such-link").expect("prefixes").iter().all(|prefix| prefix.length() > 0));
        assert!(matches!(links.apply(&Desired { name: "no-such-link".into(), ..Desired::default() }), Err(LinkError::NoInterface(_))));
    }

    #[test]
    fn a_subnet_has_two_ends_but_for_the_smallest() {
        let subnet = |text: &str| -> Prefix { text.parse().expect("a prefix") };
        let all = |subnet: Prefix| edges([10, 42, 0, 1].into(), subnet).map(|a| a.to_string()).collect::<Vec<_>>();
        assert_eq!(all(subnet("10.42.0.0/24")), ["10.42.0.0", "10.42.0.255", "10.42.0.1"]);
        assert_eq!(all(subnet("10.42.0.1/32")), ["10.42.0.1"]);
        let mut links = Links::open().expect("rtnetlink");
        let found = links.own_within(&[subnet("127.0.0.0/8")], "no-such-link").expect("addresses");
        assert_eq!(found, [Ipv4Addr::new(127, 0, 0, 0), Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 255, 255, 255)]);
    }

    #[test]
    fn bodies_of_any_length_are_read_or_left() {
        let body: Vec<u8> = [vec![INET, 24, 0, 0, 254, 3, 253, 1, 0, 0, 0, 0], vec![8, 0, 1, 0, 10, 1, 2, 0], vec![8, 0, 4, 0, 7, 0, 0, 0]].concat();
        for length in 0..body.len() {
            let _ = (read_route(&body[..length]), read_address(&body[..length]), read_link(&body[..length]));
        }
        let route = read_route(&body).expect("a route");
        assert_eq!(route.to.to_string(), "10.1.2.0/24");
        assert_eq!((route.index, route.table, route.protocol), (Some(u32::from_ne_bytes([7, 0, 0, 0])), 254, 3));
        let odd: Vec<u8> = [vec![INET, 99, 0, 0, 254, 3, 253, 1, 0, 0, 0, 0], vec![7, 0, 1, 0, 10, 1, 2, 0]].concat();
        assert_eq!(read_route(&odd), None);
    }
}
