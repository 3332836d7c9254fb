//! The TUN device: frames of IP packets from and to the kernel, in buffers the caller lends.
//!
//! Read first: Documentation/networking/tuntap.rst of Linux, and `struct virtio_net_hdr`. The device is asked for frames of many packets
//! (TCP, and since Linux 6.2 UDP): one system call then moves what would be forty. Where the kernel refuses that, a frame is a packet. The
//! driver waits in [`Tun::readable`], then reads up to its work limit. The device lives as long as this value and vanishes with the
//! process; nothing persistent is made, and an interface that exists already is never adopted. Addresses and routes are `link`'s.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::budget::FRAME_PACKETS;
use crate::edge::{Coalescer, Joins, OFFLOAD, Offload};
use crate::shell::syscall;

const DEVICE: &str = "/dev/net/tun";

/// An attached TUN device.
pub struct Tun {
    device: AsyncFd<File>,
    /// Whether every frame, in both directions, begins with a header.
    headers: bool,
    joins: Joins,
}

/// Why there is no device.
#[derive(Debug)]
pub enum TunError {
    /// The name is empty, too long, or has a character an interface cannot have.
    Name(String),
    /// `/dev/net/tun` is missing: no such module, or a container without the device.
    NoDriver(io::Error),
    /// The process may not make devices.
    NoRight(io::Error),
    /// An interface of this name exists.
    Taken(String),
    /// Anything else the kernel said.
    Kernel(String, io::Error),
}

impl fmt::Display for TunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TunError::Name(name) => write!(f, "{name:?} cannot be the name of an interface: use 1 to 15 letters, digits, '-', '_' or '.'"),
            TunError::NoDriver(_) => write!(f, "cannot open {DEVICE}: load the kernel's module (modprobe tun), or give the container this device"),
            TunError::NoRight(_) => write!(f, "may not make a TUN device: run as root, or with the capability CAP_NET_ADMIN"),
            TunError::Taken(name) => write!(f, "an interface {name} exists already: end the process that has it, or choose another name with --interface"),
            TunError::Kernel(name, _) => write!(f, "cannot make the TUN device {name}"),
        }
    }
}

impl std::error::Error for TunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TunError::NoDriver(why) | TunError::NoRight(why) | TunError::Kernel(_, why) => Some(why),
            TunError::Name(_) | TunError::Taken(_) => None,
        }
    }
}

impl Tun {
    /// Makes the device `name`, for the largest frames the kernel has. Must be called inside the runtime.
    ///
    /// # Errors
    /// [`TunError`] says what is in the way and what to do.
    pub fn open(name: &str) -> Result<Tun, TunError> {
        Tun::open_with(name, Joins::TcpAndUdp)
    }

    /// The same, for frames of no more than `most`.
    ///
    /// # Errors
    /// As [`Tun::open`].
    pub fn open_with(name: &str, most: Joins) -> Result<Tun, TunError> {
        if !valid_name(name) {
            return Err(TunError::Name(name.chars().take(32).collect()));
        }
        let device = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(DEVICE).map_err(|why| {
            match why.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::NoDriver(why),
                Some(libc::EPERM | libc::EACCES) => TunError::NoRight(why),
                _ => TunError::Kernel(name.into(), why),
            }
        })?;
        let mut headers = most != Joins::None;
        let mut attached = syscall::attach_tun(&device, name, headers);
        if headers && attached.as_ref().is_err_and(|why| why.raw_os_error() == Some(libc::EINVAL)) {
            headers = false;
            attached = syscall::attach_tun(&device, name, headers);
        }
        attached.map_err(|why| match why.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => TunError::NoRight(why),
            Some(libc::EBUSY | libc::EEXIST) => TunError::Taken(name.into()),
            // The name of an interface of another kind.
            Some(libc::EINVAL) => TunError::Taken(name.into()),
            _ => TunError::Kernel(name.into(), why),
        })?;
        let joins = if headers { frames(&device, most) } else { Joins::None };
        let device = syscall::watched(device).map_err(|why| TunError::Kernel(name.into(), why))?;
        Ok(Tun { device, headers, joins })
    }

    /// Which packets may be joined to frames for this device.
    pub fn joins(&self) -> Joins {
        self.joins
    }

    /// Waits until a packet may be read. It may also return when there is none; [`Tun::read`] then says so.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        self.device.readable().await.map(|mut guard| guard.retain_ready())
    }

    /// Reads a frame: what is to be done with it, and its length. It begins at `buffer[OFFLOAD]`.
    ///
    /// # Errors
    /// `WouldBlock` if there is none now; `EBADFD` if somebody deleted the interface; others.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<(Offload, usize)> {
        let from = if self.headers { 0 } else { OFFLOAD };
        let length = self.device.try_io(Interest::READABLE, |mut device| device.read(&mut buffer[from..]))?;
        if !self.headers {
            return Ok((Offload::NONE, length));
        }
        let head: &[u8; OFFLOAD] = buffer[..length].first_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((Offload::read(head), length - OFFLOAD))
    }

    /// Hands one IP packet to the kernel.
    ///
    /// # Errors
    /// The kernel's refusal (interface down, malformed packet, queue full): the packet is lost.
    pub fn write(&self, packet: &[u8]) -> io::Result<()> {
        let header = Offload::NONE.write();
        let pieces = [IoSlice::new(&header), IoSlice::new(packet)];
        self.device.get_ref().write_vectored(&pieces[usize::from(!self.headers)..]).map(|_| ())
    }

    /// Hands all frames to the kernel; says how many packets it refused (interface down, malformed, queue full), which are lost.
    pub fn write_frames(&mut self, frames: &mut Coalescer) -> u64 {
        let mut lost = 0;
        for at in 0..frames.frames() {
            let (header, count) = frames.finish(at);
            let mut pieces: heapless::Vec<IoSlice<'_>, { FRAME_PACKETS + 1 }> = heapless::Vec::new();
            let head = self.headers.then_some(&header[..]);
            // A frame has at most as many pieces as there are slots.
            pieces.extend(head.into_iter().chain(frames.pieces(at)).map(IoSlice::new));
            if let Err(why) = self.device.get_ref().write_vectored(&pieces) {
                lost += count as u64;
                if count > 1 && why.raw_os_error() == Some(libc::EINVAL) {
                    // A kind of frame this kernel does not take after all.
                    self.joins = if self.joins == Joins::TcpAndUdp { Joins::Tcp } else { Joins::None };
                }
            }
        }
        frames.clear();
        frames.join(self.joins);
        lost
    }
}

/// Asks for frames, and for fewer kinds when refused. IPv6 ones are never asked for but with UDP, where the kernel knows only both.
fn frames(device: &File, most: Joins) -> Joins {
    const TCP: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4;
    if most == Joins::TcpAndUdp && syscall::set_offload(device, TCP | libc::TUN_F_USO4 | libc::TUN_F_USO6).is_ok() {
        return Joins::TcpAndUdp;
    }
    // If even that is refused the kernel sends plain packets; what we write it takes as it always has.
    let _ = syscall::set_offload(device, TCP);
    Joins::Tcp
}

/// Whether the kernel, `/proc/sys` and our rules all take `name` as it stands.
fn valid_name(name: &str) -> bool {
    let plain = name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'));
    plain && (1..=15).contains(&name.len()) && !matches!(name, "." | ".." | "all" | "default" | "lo")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_paths_patterns_or_too_long_are_refused_before_the_kernel_sees_them() {
        assert!(valid_name("sluice0"));
        for name in ["", "..", "a/b", "tun%d", "sixteen-letters-", "all", "lo", "a b", "ä"] {
            assert!(!valid_name(name), "{name}");
            assert!(matches!(Tun::open(name), Err(TunError::Name(_))));
        }
    }
}
