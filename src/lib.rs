//! Sluice joins independent Kubernetes clusters. This file is the map.
//!
//! # Rooms
//!
//! | room | decides | touches the world |
//! |---|---|---|
//! | [`identity`] [`clock`] [`budget`] | the nouns all rooms share: who, where, when, how many | no |
//! | [`kube`] | the API server's language as values: call, reply, watch | no |
//! | [`tunnel`] | the WireGuard gateway: bytes and time in, verdicts out | no |
//! | [`auth`] | who may peer, and as whom: tickets, enrolment, credentials, addresses | no |
//! | [`offload`] | the virtual node: what is reflected, and what a provider makes of it | no |
//! | [`edge`] | carries one room's events into another; the sole owner of the three above | no |
//! | [`config`] | what the configuration means | no |
//! | `shell` | sockets, TUN, netlink, HTTP, TLS, files, clocks; the driver's loop | yes |
//! | `cli` | one file a verb: asks the daemon or the API server, prints | yes |
//! | `world` | tests only: networks, NATs and API servers in memory | no |
//!
//! # Arrows
//!
//! All downward, and `rooms.rs` fails the build's tests on any other:
//! `main > cli, shell > edge > {auth, tunnel, offload} > kube > {identity, clock, budget}`. `tunnel` does not see `kube`; `auth`, `tunnel` and
//! `offload` never see each other; shell calls offload's pure `read`.
//!
//! # The four verbs of a core
//!
//! `handle_*(input, now)`, `handle_timeout(now)`, `poll_*()` for outputs, `poll_timeout()`. No async, callbacks, channels or locks inside; time and
//! randomness are arguments. Level-triggered: a lost event, a restart and a first run take the same path.
//!
//! # Three journeys
//!
//! **A datagram in, a packet on the TUN.** `shell/udp` (a batch out of the peer's lane) -> `shell/pump` -> [`edge`] -> `tunnel/gateway` -> datagram, index,
//! session (opened) -> packet, allowed_ips (is the source this peer's?) -> remap (original -> image) -> coalesce (into a frame) -> `shell/tun`. Back the same
//! way: a frame -> segment -> packets -> sealed one after another into a batch, which the kernel parts.
//!
//! **A pod here, its shadow there, its status back.** `shell/api` (watch) -> `kube/stream` -> `offload::read` (a small view) -> agent -> table (row due) ->
//! reflect -> the kind's plan -> a `Call` whose body is forged from the source at the moment it is sent -> `shell/api` -> `Reply` -> settled. The remote
//! pod's status arrives on another watch and meets *the same row*.
//!
//! **A ticket redeemed.** `sluice join` -> local socket -> authority: an enrolment session in the tunnel -> hello -> enrol -> the inviter burns the ticket and
//! pins the key in one durable step -> tenant namespace, account, token (`auth/issue`) -> the answer carries the first credential -> both sides switch to the
//! real session -> the agent's virtual node becomes Ready.
//!
//! # Glossary
//!
//! *peer* the other cluster; *consumer* and *provider* the cluster that asks for resources and the one that lends them; *datagram* UDP; *packet* IP; *frame*
//! packets of one flow that the kernel handles as one; *lane* a peer's own queue at the UDP port; *source* and *mirror* the roles of a reflected object;
//! *image* the addresses under which we see a peer's pods; *row* a peer's or an object's place in a table; *view* what a row keeps of an object; *plan* views
//! to a step; *forge* source object to body; *call* one request to an API server; *grant* what a provider lends.

pub mod auth;
pub mod budget;
pub mod cli;
pub mod clock;
pub mod config;
pub mod edge;
pub mod identity;
pub mod kube;
pub mod offload;
#[cfg(test)]
mod rooms;
#[cfg(feature = "shell")]
pub mod shell;
pub mod tunnel;
#[cfg(any(test, feature = "world"))]
pub mod world;
