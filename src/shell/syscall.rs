//! The few system calls no safe library makes for us, each wrapped in a safe function: the one file of the program with `unsafe`.
//!
//! Called by `time`, `tun`, `udp`, `netlink` and `status`; decides nothing.
#![expect(unsafe_code, reason = "system calls that neither std nor socket2 offers; every pointer passed lives in the calling function")]

use std::array::from_fn;
use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;
use std::time::Duration;

use socket2::{SockAddr, SockAddrStorage};
use tokio::io::unix::AsyncFd;

use crate::shell::buffers::Received;

/// The clocks we read.
#[derive(Clone, Copy)]
pub(super) enum ClockId {
    /// Time since boot, sleep included.
    Boot,
    /// What the machine believes the date to be.
    Real,
}

/// Seconds and nanoseconds of a clock; seconds may be negative on the wall clock.
pub(super) fn read_clock(clock: ClockId) -> (i64, u32) {
    let id = match clock {
        ClockId::Boot => libc::CLOCK_BOOTTIME,
        ClockId::Real => libc::CLOCK_REALTIME,
    };
    // SAFETY: all zeros is a valid timespec.
    let mut at: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: `at` is a valid place for one timespec. Both clocks exist on every kernel we run on, so the call cannot fail.
    let done = unsafe { libc::clock_gettime(id, &raw mut at) };
    debug_assert_eq!(done, 0);
    // The fields are 32 bits wide on some targets and 64 on others.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    (i64::from(at.tv_sec), at.tv_nsec as u32)
}

/// The C library's function, in its place: whatever in this program reads `CLOCK_REALTIME` (std, and with it boringtun) reads it shifted.
/// Only in the test lab's binary; other clocks are as they are.
#[cfg(feature = "lab-clock")]
#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: libc::clockid_t, at: *mut libc::timespec) -> libc::c_int {
    // SAFETY: the caller's promise to the C library's function, passed on: `at` is a valid place for one timespec.
    let done = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, at) } as libc::c_int;
    if done == 0 && clock == libc::CLOCK_REALTIME {
        // SAFETY: as above, and just written.
        let at = unsafe { &mut *at };
        at.tv_sec = at.tv_sec.saturating_add(super::time::lab::offset());
    }
    done
}

/// The time since boot.
pub(super) fn since_boot() -> Duration {
    let (seconds, nanoseconds) = read_clock(ClockId::Boot);
    Duration::new(seconds.max(0).unsigned_abs(), nanoseconds)
}

/// Bytes that are free for anybody on the file system of `path`, and whether it is read-only.
pub(super) fn space(path: &str) -> io::Result<(u64, bool)> {
    let path = std::ffi::CString::new(path)?;
    // SAFETY: all zeros is a valid statvfs.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends in a zero byte, and `found` is a valid place for one statvfs.
    check(unsafe { libc::statvfs(path.as_ptr(), &raw mut found) })?;
    // The fields are 32 bits wide on some targets and 64 on others.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    Ok((u64::from(found.f_bavail).saturating_mul(found.f_frsize as u64), found.f_flag as u64 & libc::ST_RDONLY as u64 != 0))
}

/// Makes an open `/dev/net/tun` the device `name`: layer 3, no packet information header, for one process; with `headers` each frame begins
/// with a `virtio_net_hdr`.
pub(super) fn attach_tun(device: &impl AsFd, name: &str, headers: bool) -> io::Result<()> {
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let headers = if headers { libc::IFF_VNET_HDR } else { 0 };
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_TUN_EXCL | headers) as libc::c_short;
    // SAFETY: the descriptor is open, and `request` is an ifreq that outlives the call.
    check(unsafe { libc::ioctl(device.as_fd().as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })
}

/// Says which frames the program behind the device takes: `TUN_F_*`.
pub(super) fn set_offload(device: &impl AsFd, frames: libc::c_uint) -> io::Result<()> {
    // SAFETY: the descriptor is open, and this request takes a number.
    check(unsafe { libc::ioctl(device.as_fd().as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(frames)) })
}

/// Sets a socket option whose value is an integer.
pub(super) fn set_option(socket: &impl AsFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the pointer and length describe `value`.
    check(unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const value).cast(), size_of::<i32>() as libc::socklen_t) })
}

/// How many datagrams the kernel dropped because this socket's queue was full; 0 before Linux 4.12.
pub(super) fn queue_drops(socket: &impl AsFd) -> u64 {
    // <linux/sock_diag.h>: SK_MEMINFO_DROPS, the last of nine.
    const DROPS: usize = 8;
    let mut all = [0u32; DROPS + 1];
    let mut size = size_of_val(&all) as libc::socklen_t;
    // SAFETY: the descriptor is open, and pointer and length describe `all`.
    let done = unsafe { libc::getsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, all.as_mut_ptr().cast(), &raw mut size) };
    if done == 0 && size as usize == size_of_val(&all) { u64::from(all[DROPS]) } else { 0 }
}

/// Lets the runtime watch an open file or socket. Must be called inside the runtime.
pub(super) fn watched<T: AsFd + AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: `owner` is a std type that owns its descriptor, never swaps it, and closes it only after the AsyncFd has let go of it.
    unsafe { AsyncFd::register(owner) }.map_err(|refused| refused.into_parts().1)
}

/// Datagrams of one destination: one, or several of `size` bytes (the last may be shorter) for the kernel to part.
#[derive(Clone, Copy)]
pub(super) struct Parcel<'a> {
    pub(super) to: SocketAddr,
    /// Which of the host's addresses they come from; IPv4 wrapped in IPv6. None: the kernel's choice.
    pub(super) source: Option<Ipv6Addr>,
    pub(super) bytes: &'a [u8],
    pub(super) size: Option<u16>,
}

/// The most parcels of one call.
pub(super) const PARCELS: usize = 16;

/// The kernel's `user_msghdr` and `mmsghdr`, and room for what goes beside a message. A C library's own may differ from them, and musl's sendmmsg
/// is a loop of single calls.
#[repr(C)]
struct Message {
    head: MessageHead,
    /// Filled in by the kernel.
    len: u32,
}

#[repr(C)]
struct MessageHead {
    name: *mut libc::c_void,
    name_len: u32,
    parts: *mut libc::iovec,
    part_count: usize,
    control: *mut libc::c_void,
    control_len: usize,
    flags: u32,
}

/// What goes beside a message: entries of a length, a level, a kind and a value, each beginning at a whole word (`cmsghdr`).
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

/// Room for two: a number, and an address with an interface.
const CONTROL: usize = 2 * CONTROL_HEAD + 8 + (PKTINFO + 4);
const CONTROL_HEAD: usize = size_of::<usize>() + 2 * size_of::<i32>();
/// Bytes of `in6_pktinfo`: an address and the number of an interface.
const PKTINFO: usize = 20;

impl Control {
    const EMPTY: Control = Control([0; CONTROL]);

    /// Adds an entry at `at`, where there must be room for it; where the next one goes.
    fn add(&mut self, at: usize, level: i32, kind: i32, value: &[u8]) -> usize {
        let length = CONTROL_HEAD + value.len();
        let entry = &mut self.0[at..at + length];
        let (head, rest) = entry.split_at_mut(size_of::<usize>());
        head.copy_from_slice(&length.to_ne_bytes());
        rest[..4].copy_from_slice(&level.to_ne_bytes());
        rest[4..8].copy_from_slice(&kind.to_ne_bytes());
        rest[8..].copy_from_slice(value);
        at + length.next_multiple_of(size_of::<usize>())
    }

    /// The value of an entry among the first `used` bytes.
    fn find(&self, used: usize, level: i32, kind: i32) -> Option<&[u8]> {
        let mut bytes = &self.0[..used.min(CONTROL)];
        loop {
            let length = usize::from_ne_bytes(*bytes.first_chunk()?);
            let entry = bytes.get(..length).filter(|entry| entry.len() >= CONTROL_HEAD)?;
            let number = |at: usize| i32::from_ne_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
            if (number(size_of::<usize>()), number(size_of::<usize>() + 4)) == (level, kind) {
                return Some(&entry[CONTROL_HEAD..]);
            }
            bytes = bytes.get(length.next_multiple_of(size_of::<usize>())..)?;
        }
    }
}

/// Sends parcels, at most [`PARCELS`]; says how many went.
///
/// # Errors
/// What the kernel said of the first one.
pub(super) fn send_many(socket: &impl AsFd, parcels: &[Parcel<'_>]) -> io::Result<usize> {
    let parcels = &parcels[..parcels.len().min(PARCELS)];
    let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let names: [SockAddr; PARCELS] = from_fn(|at| parcels.get(at).map_or(nobody, |p| p.to).into());
    let mut parts: [libc::iovec; PARCELS] = from_fn(|at| {
        let bytes = parcels.get(at).map_or(&[][..], |p| p.bytes);
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
    });
    let (mut controls, mut used) = ([Control::EMPTY; PARCELS], [0; PARCELS]);
    for ((control, used), parcel) in controls.iter_mut().zip(&mut used).zip(parcels) {
        if let Some(size) = parcel.size {
            *used = control.add(0, libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
        }
        if let Some(source) = parcel.source {
            let mut info = [0; PKTINFO];
            info[..16].copy_from_slice(&source.octets());
            *used = control.add(*used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
    }
    let mut messages: [Message; PARCELS] = from_fn(|at| {
        let head = MessageHead {
            name: names[at].as_ptr().cast_mut().cast(),
            name_len: names[at].len(),
            parts: &raw mut parts[at],
            part_count: 1,
            control: if used[at] > 0 { (&raw mut controls[at]).cast() } else { null_mut() },
            control_len: used[at],
            flags: 0,
        };
        Message { head, len: 0 }
    });
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open; the first `parcels.len()` messages, and the names, parts and controls they point to, outlive the call.
    // The kernel only reads what names and parts point to.
    let sent = unsafe { libc::syscall(libc::SYS_sendmmsg, fd, messages.as_mut_ptr(), parcels.len(), 0) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Receives into equal parts of `bytes`, one for each of `received`, at most `N`; says how many were filled. Without `many`, at most one is.
/// Each is a datagram or, where the socket joins them (`UDP_GRO`), several from one sender.
///
/// # Errors
/// What the kernel said; `WouldBlock` if there is none.
pub(super) fn receive_many<const N: usize>(socket: &impl AsFd, bytes: &mut [u8], many: bool, received: &mut [Received]) -> io::Result<usize> {
    let count = received.len().min(N);
    let stride = (bytes.len() / count.max(1)).max(1);
    let mut names: [SockAddrStorage; N] = from_fn(|_| SockAddrStorage::zeroed());
    let mut controls = [Control::EMPTY; N];
    let mut chunks = bytes.chunks_exact_mut(stride);
    let mut parts: [libc::iovec; N] = from_fn(|_| {
        let chunk = chunks.next().unwrap_or_default();
        libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: chunk.len() }
    });
    let mut messages: [Message; N] = from_fn(|at| {
        let head = MessageHead {
            name: (&raw mut names[at]).cast(),
            name_len: size_of::<SockAddrStorage>() as u32,
            parts: &raw mut parts[at],
            part_count: 1,
            control: (&raw mut controls[at]).cast(),
            control_len: CONTROL,
            flags: 0,
        };
        Message { head, len: 0 }
    });
    let fd = socket.as_fd().as_raw_fd();
    let filled = if many {
        // SAFETY: the descriptor is open; the first `count` messages, and what they point to, are valid and outlive the call. No time limit.
        usize::try_from(unsafe { libc::syscall(libc::SYS_recvmmsg, fd, messages.as_mut_ptr(), count, libc::MSG_DONTWAIT, null_mut::<libc::c_void>()) })
            .map_err(|_| io::Error::last_os_error())?
    } else {
        // SAFETY: as above, for the first message.
        let len = unsafe { libc::syscall(libc::SYS_recvmsg, fd, &raw mut messages[0].head, libc::MSG_DONTWAIT) };
        messages[0].len = u32::try_from(len).map_err(|_| io::Error::last_os_error())?;
        1
    };
    for (at, (message, name)) in messages.iter().zip(names).enumerate().take(filled) {
        // SAFETY: the kernel wrote an address of this length, or none (length 0), into zeroed storage.
        let from = unsafe { SockAddr::new(name, message.head.name_len.min(size_of::<SockAddrStorage>() as u32)) };
        let (len, control, used) = (message.len as usize, &controls[at], message.head.control_len);
        let size = control.find(used, libc::SOL_UDP, libc::UDP_GRO).and_then(|value| value.first_chunk()).map_or(0, |size| i32::from_ne_bytes(*size));
        let to = control.find(used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO).and_then(|value| value.first_chunk::<16>()).map(|to| Ipv6Addr::from(*to));
        received[at] = Received { from: from.as_socket(), to, len: len.min(stride), size: usize::try_from(size).unwrap_or(0) };
    }
    Ok(filled)
}

/// A set of sockets that can be asked with one call which of them have something to read: `epoll`.
///
/// # Errors
/// The kernel's.
pub(super) fn poll_set() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointer.
    let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    check(fd)?;
    // SAFETY: the descriptor was just made, and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes a socket into the set, under a number. It leaves when it is closed.
///
/// # Errors
/// The kernel's.
pub(super) fn poll_add(set: &OwnedFd, socket: &impl AsFd, number: u32) -> io::Result<()> {
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: u64::from(number) };
    // SAFETY: both descriptors are open, and `event` outlives the call.
    check(unsafe { libc::epoll_ctl(set.as_raw_fd(), libc::EPOLL_CTL_ADD, socket.as_fd().as_raw_fd(), &raw mut event) })
}

/// Whether a socket of the set is asked for, too; one that is not wakes nobody.
///
/// # Errors
/// The kernel's.
pub(super) fn poll_change(set: &OwnedFd, socket: &impl AsFd, number: u32, asked: bool) -> io::Result<()> {
    let mut event = libc::epoll_event { events: if asked { libc::EPOLLIN as u32 } else { 0 }, u64: u64::from(number) };
    // SAFETY: both descriptors are open, and `event` outlives the call.
    check(unsafe { libc::epoll_ctl(set.as_raw_fd(), libc::EPOLL_CTL_MOD, socket.as_fd().as_raw_fd(), &raw mut event) })
}

/// The numbers of those that have something to read, at most `N`, and at once.
///
/// # Errors
/// The kernel's.
pub(super) fn poll_ready<const N: usize>(set: &OwnedFd) -> io::Result<heapless::Vec<u32, N>> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; N];
    // SAFETY: the descriptor is open, and the pointer and number describe `events`.
    let count = unsafe { libc::epoll_wait(set.as_raw_fd(), events.as_mut_ptr(), N as i32, 0) };
    check(count)?;
    Ok(events.iter().take(count as usize).map(|event| event.u64 as u32).collect())
}

fn check(returned: i32) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
