//! The few system calls no safe library makes for us, each wrapped in a safe function: the one file of the program with `unsafe`.
//!
//! Called by `time`, `tun`, `udp`, `netlink` and `status`; decides nothing.
#![expect(unsafe_code, reason = "system calls that neither std nor socket2 offers; every pointer passed lives in the calling function")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use tokio::io::unix::AsyncFd;

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

/// Makes an open `/dev/net/tun` the device `name`: layer 3, no packet information header, for one process.
pub(super) fn attach_tun(device: &impl AsFd, name: &str) -> io::Result<()> {
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_TUN_EXCL) as libc::c_short;
    // SAFETY: the descriptor is open, and `request` is an ifreq that outlives the call.
    check(unsafe { libc::ioctl(device.as_fd().as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })
}

/// Sets a socket option whose value is an integer.
pub(super) fn set_option(socket: &impl AsFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the pointer and length describe `value`.
    check(unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const value).cast(), size_of::<i32>() as libc::socklen_t) })
}

/// Lets the runtime watch an open file or socket. Must be called inside the runtime.
pub(super) fn watched<T: AsFd + AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: `owner` is a std type that owns its descriptor, never swaps it, and closes it only after the AsyncFd has let go of it.
    unsafe { AsyncFd::register(owner) }.map_err(|refused| refused.into_parts().1)
}

fn check(returned: i32) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
