//! The only room that touches the world: clocks, chance, the TUN device, sockets, netlink, the disk, stderr.
//!
//! It carries bytes and facts to the cores and their outputs back; it decides nothing about peers, packets or pods. Everything
//! runs on one current-thread runtime. Below it nothing may call a clock, a socket or the file system.
//!
//! Why no netlink crate (2026-11): the ten messages we send fit in three small files whose requests are answered by the kernel
//! at once, so no async layer is needed; `nlink`, the only crate that covers links, routes and nftables without C, can say all
//! of it, but weighs 977 kB in a stripped size-optimised binary (398 kB without it), a third of ours.
//! Why no TUN crate: a device is one ioctl; reads and writes go straight between the kernel and buffers made at start.

pub mod api;
pub mod buffers;
pub mod dial;
pub mod driver;
pub mod entropy;
mod expression;
pub mod http;
pub mod kubeconfig;
pub mod link;
pub mod listener;
pub mod local;
pub mod log;
pub mod netlink;
pub mod nft;
pub mod passage;
mod pool;
pub mod prepare;
pub mod pump;
pub mod run;
pub mod setup;
pub mod store;
mod syscall;
#[cfg(test)]
mod testing;
pub mod time;
pub mod tls;
pub mod tun;
pub mod tunnel;
pub mod udp;
pub mod upkeep;
mod verbs;
pub mod watches;
