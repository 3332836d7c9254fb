//! The TUN device: IP packets from and to the kernel, read into buffers the caller lends.
//!
//! Read first: Documentation/networking/tuntap.rst of Linux. The driver waits in [`Tun::readable`], then takes a batch up to its
//! work limit. The device lives as long as this value and vanishes with the process; nothing persistent is made, and an interface
//! that exists already is never adopted. Addresses and routes are `link`'s.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::shell::buffers::Batch;
use crate::shell::syscall;

const DEVICE: &str = "/dev/net/tun";

/// An attached TUN device.
pub struct Tun {
    device: AsyncFd<File>,
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
    /// Makes the device `name`. Must be called inside the runtime.
    ///
    /// # Errors
    /// [`TunError`] says what is in the way and what to do.
    pub fn open(name: &str) -> Result<Tun, TunError> {
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
        syscall::attach_tun(&device, name).map_err(|why| match why.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => TunError::NoRight(why),
            Some(libc::EBUSY | libc::EEXIST) => TunError::Taken(name.into()),
            // The name of an interface of another kind.
            Some(libc::EINVAL) => TunError::Taken(name.into()),
            _ => TunError::Kernel(name.into(), why),
        })?;
        let device = syscall::watched(device).map_err(|why| TunError::Kernel(name.into(), why))?;
        Ok(Tun { device })
    }

    /// Waits until a packet may be read. It may also return when there is none; [`Tun::read_batch`] then finds nothing.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        self.device.readable().await.map(|mut guard| guard.retain_ready())
    }

    /// Reads packets into the free slots of `batch`, at most `limit`, until the kernel has none; says how many came.
    ///
    /// A packet longer than a slot cannot come while the slots hold the interface's MTU.
    ///
    /// # Errors
    /// The first error other than "no packet now" (`EBADFD`: somebody deleted the interface); packets read before it are in the batch.
    pub fn read_batch(&self, batch: &mut Batch<()>, limit: usize) -> io::Result<usize> {
        for count in 0..limit {
            let one = batch.fill(|slot| self.device.try_io(Interest::READABLE, |mut device| device.read(slot)).map(|length| (length, ())));
            match one {
                Ok(true) => {}
                Ok(false) => return Ok(count),
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => return Ok(count),
                Err(why) => return Err(why),
            }
        }
        Ok(limit)
    }

    /// Hands one IP packet to the kernel.
    ///
    /// # Errors
    /// The kernel's refusal (interface down, malformed packet, queue full): the packet is lost, the caller counts it.
    pub fn write(&self, packet: &[u8]) -> io::Result<()> {
        self.device.get_ref().write(packet).map(|_| ())
    }
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
