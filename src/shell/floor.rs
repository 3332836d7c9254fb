//! The floor of the stamps while the state cannot be written: a file beside the local socket, in memory.
//!
//! Without it a daemon that starts twice on a full disk would begin twice at the same stamps, and peers would take its handshakes for old ones
//! until it had run for as long as the life before. It goes with a reboot; until then it only ever lifts the floor that the state file names.
//! Called by the driver when a state could not be saved, and once at the start.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::clock::WallTime;

/// The longest floor, in bytes: an `i64` in digits.
const LONGEST: u64 = 20;

fn path(socket: &Path) -> PathBuf {
    socket.with_extension("floor")
}

/// Keeps `floor`, in seconds of Unix time, in place of the last one.
///
/// # Errors
/// The kernel's; the last one stands then.
pub(super) fn keep(socket: &Path, floor: WallTime) -> io::Result<()> {
    let (path, new) = (path(socket), socket.with_extension("floor.new"));
    // Left behind by one that was killed while it wrote.
    if let Err(why) = fs::remove_file(&new)
        && why.kind() != io::ErrorKind::NotFound
    {
        return Err(why);
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?.write_all(floor.0.to_string().as_bytes())?;
    fs::rename(new, path)
}

/// The floor that was kept; the lowest there is if none was, or if others could have written it.
pub(super) fn kept(socket: &Path) -> WallTime {
    let read = || {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path(socket)).ok()?;
        let found = file.metadata().ok()?;
        let ours = found.is_file() && found.mode() & 0o022 == 0 && found.uid() == fs::metadata("/proc/self").ok()?.uid();
        let mut text = String::new();
        ours.then(|| file.take(LONGEST + 1).read_to_string(&mut text).ok()).flatten()?;
        text.parse().ok()
    };
    WallTime(read().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_kept_last_is_read_and_nothing_that_others_could_have_written() {
        let directory = std::env::temp_dir().join(format!("sluice-floor-{}", std::process::id()));
        fs::create_dir(&directory).expect("a directory");
        let socket = directory.join("sluice.sock");
        assert_eq!(kept(&socket), WallTime(0), "there is none");
        for floor in [1_800_000_000, i64::MAX, i64::MIN, 1_900_000_000] {
            // What was left behind is in nobody's way.
            fs::write(directory.join("sluice.floor.new"), "7").expect("written");
            keep(&socket, WallTime(floor)).expect("kept");
            assert_eq!(kept(&socket), WallTime(floor));
        }
        let path = path(&socket);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o622)).expect("changed");
        assert_eq!(kept(&socket), WallTime(0));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("changed");
        for text in ["", "1e9", "-", " 5", "5\n", "99999999999999999999", "123456789012345678901234567890"] {
            fs::write(&path, text).expect("written");
            assert_eq!(kept(&socket), WallTime(0), "{text:?}");
        }
        fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink("/proc/uptime", &path).expect("a link");
        assert_eq!(kept(&socket), WallTime(0));
        fs::remove_dir_all(&directory).expect("removed");
    }
}
