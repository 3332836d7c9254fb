//! The only clock reader: turns the kernel's clocks into the values of [`crate::clock`].
//!
//! Called once a turn by the driver, and by the logger. Never converts one clock into the other, and never sets one.
//! Built with feature `lab-clock` (the test lab's binary, never a release) `CLOCK_REALTIME` is shifted by the seconds in the file that
//! `SLUICE_LAB_CLOCK` names, for all that reads it in this program: boringtun too, whose stamps go by it.

use crate::clock::{Instant, Now, WallTime};
use crate::shell::syscall::{self, ClockId};

/// Both clocks.
pub fn now() -> Now {
    Now { mono: mono(), wall: wall() }
}

/// Time since boot, sleep included (`CLOCK_BOOTTIME`).
pub fn mono() -> Instant {
    Instant::from_boot(syscall::since_boot())
}

/// What the machine believes the date to be (`CLOCK_REALTIME`).
pub fn wall() -> WallTime {
    WallTime(syscall::read_clock(ClockId::Real).0)
}

/// The kernel's ID of this boot: another value means that the machine was restarted.
///
/// # Errors
/// When `/proc` cannot be read or holds something else.
pub fn boot_id() -> std::io::Result<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    parse_boot_id(&text).ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "/proc/sys/kernel/random/boot_id holds no UUID"))
}

fn parse_boot_id(text: &str) -> Option<[u8; 16]> {
    let digits = text.trim_end().bytes().filter(|&c| c != b'-');
    let mut id = [0; 16];
    let mut count = 0;
    for digit in digits {
        let value = char::from(digit).to_digit(16)? as u8;
        *id.get_mut(count / 2)? |= if count % 2 == 0 { value << 4 } else { value };
        count += 1;
    }
    (count == 32).then_some(id)
}

#[cfg(feature = "lab-clock")]
pub(super) mod lab {
    //! The lab's lever: an offset in whole seconds in a file, looked at again at most once a second.

    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

    pub(super) static OFFSET: AtomicI64 = AtomicI64::new(0);
    /// The second since boot, plus one, in which the file was last read.
    static READ_IN: AtomicU64 = AtomicU64::new(0);
    static FILE: OnceLock<Option<std::ffi::OsString>> = OnceLock::new();

    /// Seconds by which the wall clock is wrong. Asked by every reading of it, so it reads no wall clock itself.
    pub(in crate::shell) fn offset() -> i64 {
        let second = crate::shell::syscall::since_boot().as_secs() + 1;
        if READ_IN.swap(second, Relaxed) != second
            && let Some(file) = FILE.get_or_init(|| std::env::var_os("SLUICE_LAB_CLOCK"))
        {
            // A missing or half-written file leaves the last offset in force.
            if let Some(offset) = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()) {
                OFFSET.store(offset, Relaxed);
            }
        }
        OFFSET.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_does_not_go_back_and_the_date_is_plausible() {
        let (first, second) = (mono(), mono());
        assert!(second >= first && first > Instant::default());
        assert!(wall() > WallTime(1_500_000_000));
    }

    #[test]
    #[cfg(feature = "lab-clock")]
    #[expect(clippy::disallowed_methods, reason = "others' readings are what is tested")]
    fn the_lab_shifts_the_wall_clock_for_all_that_read_it_and_no_other_clock() {
        use std::time::{Instant, SystemTime, UNIX_EPOCH};
        let others = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
        let (before, steady) = (others(), Instant::now());
        lab::OFFSET.store(86_400, std::sync::atomic::Ordering::Relaxed);
        let shifted = (wall().0 - before, others() - before);
        lab::OFFSET.store(0, std::sync::atomic::Ordering::Relaxed);
        assert!((86_400..86_410).contains(&shifted.0) && (86_400..86_410).contains(&shifted.1), "{shifted:?}");
        assert!(steady.elapsed().as_secs() < 10);
    }

    #[test]
    fn a_boot_id_is_a_uuid_and_nothing_else() {
        assert_eq!(parse_boot_id("00112233-4455-6677-8899-aabbccddeeff\n").map(|id| (id[0], id[1], id[15])), Some((0, 0x11, 0xff)));
        for text in ["", "00112233", "00112233-4455-6677-8899-aabbccddeeffaa", "0x112233-4455-6677-8899-aabbccddeeff"] {
            assert_eq!(parse_boot_id(text), None, "{text}");
        }
        assert!(boot_id().is_ok());
    }
}
