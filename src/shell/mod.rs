//! The only room that touches the world: clocks, chance, the TUN device, sockets, netlink, the disk, stderr.
//!
//! It carries bytes and facts to the cores and their outputs back; it decides nothing about peers, packets or pods. Everything
//! runs on one current-thread runtime. Below it nothing may call a clock, a socket or the file system.
//!
//! Why no netlink crate (2026-11): the ten messages we send fit in three small files whose requests are answered by the kernel
//! at once, so no async layer is needed; `nlink`, the only crate that covers links, routes and nftables without C, can say all
//! of it, but weighs 977 kB in a stripped size-optimised binary (398 kB without it), a third of ours.
//! Why no TUN crate: a device is one ioctl; reads and writes go straight between the kernel and buffers made at start.

#[expect(clippy::disallowed_types, reason = "the tasks of the one thread share it; never contended, never held over an await")]
pub mod api;
pub mod buffers;
pub mod dial;
pub mod driver;
pub mod entropy;
mod expression;
#[expect(clippy::disallowed_methods, reason = "it keeps one number in a file")]
mod floor;
pub mod http;
#[expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "it looks at the host's files and ports")]
pub mod inspect;
#[expect(clippy::disallowed_types, reason = "it reads the files of a kubeconfig")]
pub mod kubeconfig;
#[expect(clippy::disallowed_methods, reason = "the kernel's switches for forwarding and source checks are files")]
pub mod link;
#[expect(clippy::disallowed_types, reason = "the tasks of the one thread share it; never contended, never held over an await")]
pub mod listener;
#[expect(clippy::disallowed_methods, reason = "a stale socket is a file in the way")]
pub mod local;
#[expect(clippy::disallowed_methods, reason = "SLUICE_LOG may be set before there is a configuration")]
pub mod log;
mod looks;
mod metrics;
pub mod netlink;
pub mod nft;
pub mod passage;
#[expect(clippy::disallowed_types, reason = "the tasks of the one thread share it; never contended, never held over an await")]
mod pool;
#[expect(clippy::disallowed_methods, reason = "it runs on a thread of its own, and a pod's API server is named by the environment")]
pub mod prepare;
pub mod pump;
#[expect(clippy::disallowed_methods, reason = "the host's name is a file of the kernel")]
pub mod run;
#[expect(clippy::disallowed_methods, reason = "the bearer is in a file")]
pub mod scrape;
pub mod setup;
#[expect(clippy::disallowed_methods, reason = "the kernel says in a file how much memory is used")]
mod status;
#[expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "it keeps the state file")]
pub mod store;
mod syscall;
#[expect(clippy::disallowed_types, reason = "the tasks of the one thread share it; never contended, never held over an await")]
mod tally;
#[cfg(test)]
#[expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "what is tested against has clocks, files and locks of its own")]
mod testing;
#[expect(clippy::disallowed_methods, reason = "the kernel's ID of this boot is a file")]
pub mod time;
#[expect(clippy::disallowed_types, reason = "the tasks of the one thread share it; never contended, never held over an await")]
pub mod tls;
#[expect(clippy::disallowed_types, reason = "the TUN device is a file")]
pub mod tun;
pub mod tunnel;
pub mod uapi;
#[expect(clippy::disallowed_types, reason = "the one UDP socket")]
pub mod udp;
pub mod upkeep;
mod verbs;
mod warnings;
#[expect(clippy::disallowed_types, reason = "the tasks of the one thread share it; never contended, never held over an await")]
pub mod watches;
