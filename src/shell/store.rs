//! The state directory: one small file, written whole and atomically, read back only if it is sound.
//!
//! Called by the driver with the snapshots `auth` asks to keep; it moves bytes and never looks into them. A file that is cut,
//! altered, foreign or readable by others is refused with what to do: this process never starts anew over a state it cannot read.
//! Last line of the file: `#sha256:` and the digest of all before it. The previous good copy stays beside it as `state.json.bak`.

use std::cell::Cell;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ring::digest;

/// Where the state lives unless told otherwise.
pub const DEFAULT_DIRECTORY: &str = "/var/lib/sluice";
/// The largest state, in bytes.
pub const STATE_MAX: usize = 256 * 1024;

const STATE: &str = "state.json";
const PREVIOUS: &str = "state.json.bak";
const NEW: &str = "state.json.new";
const LOCK: &str = "lock";
const SEAL: &str = "\n#sha256:";
const SEAL_LENGTH: usize = SEAL.len() + 64 + 1;

/// A state directory that this process alone has open.
pub struct Store {
    directory: PathBuf,
    owner: u32,
    _lock: File,
    /// States written and writes that failed.
    writes: (Cell<u64>, Cell<u64>),
}

/// Why the state cannot be read or written. [`fmt::Display`] says what to do about it.
#[derive(Debug)]
pub enum StoreError {
    /// The directory cannot be made or opened.
    Directory(PathBuf, io::Error),
    /// The directory or file is a symbolic link or not of the kind it should be.
    NotPlain(PathBuf),
    /// The directory or file belongs to another user (found, wanted).
    Owner(PathBuf, u32, u32),
    /// Others may read or write the file or directory (its mode).
    Open(PathBuf, u32),
    /// Another process has the directory.
    Locked(PathBuf),
    /// The file cannot be read.
    Read(PathBuf, io::Error),
    /// The file is larger than [`STATE_MAX`].
    TooLarge(PathBuf),
    /// The file is cut or altered: its seal is missing or wrong.
    Damaged(PathBuf),
    /// The file is gone but the copy of the one before is there.
    Missing(PathBuf),
    /// The new state could not be written; the old one stands.
    Write(PathBuf, io::Error),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let restore = |f: &mut fmt::Formatter<'_>, path: &Path| {
            let directory = path.parent().unwrap_or(path).display();
            write!(
                f,
                "put the last good copy back (mv {directory}/{PREVIOUS} {directory}/{STATE}), or remove both to begin as a new cluster without any peering"
            )
        };
        match self {
            StoreError::Directory(path, why) => {
                write!(f, "cannot use the state directory {}", path.display())?;
                hint(f, why)
            }
            StoreError::NotPlain(path) => {
                write!(f, "{} is a link or of the wrong kind: the state must be a plain file in a plain directory; remove it", path.display())
            }
            StoreError::Owner(path, found, wanted) => {
                if *found == 0 {
                    return write!(f, "{} belongs to root, not to user {wanted} who runs this: run as root", path.display());
                }
                write!(f, "{} belongs to user {found}, not to {wanted} who runs this: check where it comes from, then chown {wanted} it", path.display())
            }
            StoreError::Open(path, mode) => {
                write!(
                    f,
                    "{} holds a secret key but has mode {mode:04o}: if nobody else has read it, chmod go= it; else begin anew with a new key",
                    path.display()
                )
            }
            StoreError::Locked(path) => write!(f, "another sluice runs on {}: end it, or use another --state", path.display()),
            StoreError::Read(path, _) => write!(f, "cannot read {}", path.display()),
            StoreError::TooLarge(path) => {
                write!(f, "{} is larger than {STATE_MAX} bytes and cannot be ours: ", path.display())?;
                restore(f, path)
            }
            StoreError::Damaged(path) => {
                write!(f, "{} is damaged (cut off or changed): ", path.display())?;
                restore(f, path)
            }
            StoreError::Missing(path) => {
                write!(f, "{} is missing although this cluster has run before: ", path.display())?;
                restore(f, path)
            }
            StoreError::Write(path, why) => {
                write!(f, "cannot write {}; the state before it is kept", path.display())?;
                hint(f, why)
            }
        }
    }
}

/// What to do about an error of the disk.
fn hint(f: &mut fmt::Formatter<'_>, why: &io::Error) -> fmt::Result {
    f.write_str(match why.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room on this file system",
        io::ErrorKind::ReadOnlyFilesystem => "; mount this file system for writing, or move the state with --state",
        io::ErrorKind::PermissionDenied => "; run as root, or choose another place with --state",
        _ => "",
    })
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreError::Directory(_, why) | StoreError::Read(_, why) | StoreError::Write(_, why) => Some(why),
            _ => None,
        }
    }
}

impl Store {
    /// Opens `directory`, made with mode 0700 if it is not there, and locks it until this value is dropped.
    ///
    /// # Errors
    /// When the directory is not ours alone, or another process has it.
    pub fn open(directory: &Path) -> Result<Store, StoreError> {
        let at = |why| StoreError::Directory(directory.into(), why);
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at)?;
        let found = fs::symlink_metadata(directory).map_err(at)?;
        if !found.is_dir() {
            return Err(StoreError::NotPlain(directory.into()));
        }
        let owner = fs::metadata("/proc/self").map_err(at)?.uid();
        if found.uid() != owner {
            return Err(StoreError::Owner(directory.into(), found.uid(), owner));
        }
        // Others who could write here may have planted files; others who could only look are shut out from now on.
        if found.mode() & 0o022 != 0 {
            return Err(StoreError::Open(directory.into(), found.mode() & 0o7777));
        }
        if found.mode() & 0o077 != 0 {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(at)?;
        }
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(directory.join(LOCK)).map_err(at)?;
        match lock.try_lock() {
            Ok(()) => Ok(Store { directory: directory.into(), owner, _lock: lock, writes: Default::default() }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked(directory.into())),
            Err(TryLockError::Error(why)) => Err(at(why)),
        }
    }

    /// The state in `directory` as it was last saved, whoever has it open; nothing is made or locked.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn peek(directory: &Path) -> Result<Option<String>, StoreError> {
        let at = |why| StoreError::Directory(directory.into(), why);
        let (held, owner) = (File::open(directory).map_err(at)?, fs::metadata("/proc/self").map_err(at)?.uid());
        Store { directory: directory.into(), owner, _lock: held, writes: Default::default() }.load()
    }

    /// The state as it was last saved; `None` if there never was one.
    ///
    /// # Errors
    /// When there is a state that cannot be trusted, or only its predecessor.
    pub fn load(&self) -> Result<Option<String>, StoreError> {
        let path = self.directory.join(STATE);
        let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path) {
            Ok(file) => file,
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                return if fs::symlink_metadata(self.directory.join(PREVIOUS)).is_ok() { Err(StoreError::Missing(path)) } else { Ok(None) };
            }
            Err(why) if why.raw_os_error() == Some(libc::ELOOP) => return Err(StoreError::NotPlain(path)),
            Err(why) => return Err(StoreError::Read(path, why)),
        };
        let found = file.metadata().map_err(|why| StoreError::Read(path.clone(), why))?;
        if !found.is_file() {
            return Err(StoreError::NotPlain(path));
        }
        if found.uid() != self.owner {
            return Err(StoreError::Owner(path, found.uid(), self.owner));
        }
        if found.mode() & 0o077 != 0 {
            return Err(StoreError::Open(path, found.mode() & 0o7777));
        }
        let mut bytes = Vec::new();
        file.take((STATE_MAX + SEAL_LENGTH + 1) as u64).read_to_end(&mut bytes).map_err(|why| StoreError::Read(path.clone(), why))?;
        if bytes.len() > STATE_MAX + SEAL_LENGTH {
            return Err(StoreError::TooLarge(path));
        }
        unsealed(bytes).map(Some).ok_or(StoreError::Damaged(path))
    }

    /// Replaces the state and returns when the new one is on the disk. On an error the old state stands, here and on the disk.
    ///
    /// # Errors
    /// When the state is too large or any step of the writing fails.
    pub fn save(&self, state: &str) -> Result<(), StoreError> {
        let saved = self.replace(state);
        let count = if saved.is_ok() { &self.writes.0 } else { &self.writes.1 };
        count.set(count.get() + 1);
        saved
    }

    /// How many states were written, and how many writes failed.
    pub fn writes(&self) -> (u64, u64) {
        (self.writes.0.get(), self.writes.1.get())
    }

    fn replace(&self, state: &str) -> Result<(), StoreError> {
        let (path, new, previous) = (self.directory.join(STATE), self.directory.join(NEW), self.directory.join(PREVIOUS));
        if state.len() > STATE_MAX {
            return Err(StoreError::TooLarge(path));
        }
        let written = write_new(&new, state).and_then(|()| {
            keep(&path, &previous)?;
            fs::rename(&new, &path)?;
            File::open(&self.directory)?.sync_all()
        });
        written.map_err(|why| {
            let _ = fs::remove_file(&new);
            StoreError::Write(path, why)
        })
    }
}

/// Writes the sealed state to a file of its own, down to the disk.
fn write_new(new: &Path, state: &str) -> io::Result<()> {
    remove_if_there(new)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    file.write_all(state.as_bytes())?;
    file.write_all(seal(state.as_bytes()).as_bytes())?;
    file.sync_all()
}

/// Keeps the state in force as the previous one; a link where the file system has them, else a copy.
fn keep(path: &Path, previous: &Path) -> io::Result<()> {
    if !fs::exists(path)? {
        return Ok(());
    }
    remove_if_there(previous)?;
    fs::hard_link(path, previous).or_else(|_| fs::copy(path, previous).map(|_| ()))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
        _ => Ok(()),
    }
}

fn seal(state: &[u8]) -> String {
    let mut seal = String::with_capacity(SEAL_LENGTH);
    seal.push_str(SEAL);
    for byte in digest::digest(&digest::SHA256, state).as_ref() {
        seal.push_str(&format!("{byte:02x}"));
    }
    seal.push('\n');
    seal
}

/// The state in front of its seal, if the seal fits.
fn unsealed(mut bytes: Vec<u8>) -> Option<String> {
    let end = bytes.len().checked_sub(SEAL_LENGTH)?;
    if seal(&bytes[..end]).as_bytes() != &bytes[end..] {
        return None;
    }
    bytes.truncate(end);
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A directory that goes when the test ends.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("sluice-store-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Scratch(path)
        }

        fn open(&self) -> Store {
            Store::open(&self.0).expect("a state directory")
        }

        fn state(&self) -> PathBuf {
            self.0.join(STATE)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_was_saved_is_loaded_and_the_one_before_is_kept() {
        let scratch = Scratch::new("round");
        let store = scratch.open();
        assert_eq!(store.load().expect("empty"), None);
        store.save("{\"n\":1}").expect("saved");
        store.save("{\"n\":2}").expect("saved");
        assert_eq!(store.load().expect("sound").as_deref(), Some("{\"n\":2}"));
        assert!(fs::read_to_string(scratch.0.join(PREVIOUS)).expect("kept").starts_with("{\"n\":1}\n#sha256:"));
        assert_eq!(fs::metadata(scratch.state()).expect("there").mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(&scratch.0).expect("there").mode() & 0o7777, 0o700);
        assert!(!scratch.0.join(NEW).exists());
    }

    #[test]
    fn a_cut_or_altered_state_is_refused_at_every_length_and_left_as_it_is() {
        let scratch = Scratch::new("cut");
        let store = scratch.open();
        store.save("{\"key\":\"abc\"}").expect("saved");
        let whole = fs::read(scratch.state()).expect("there");
        for length in 0..whole.len() {
            fs::write(scratch.state(), &whole[..length]).expect("cut");
            assert!(matches!(store.load(), Err(StoreError::Damaged(_))), "{length}");
        }
        let mut altered = whole.clone();
        altered[3] ^= 1;
        fs::write(scratch.state(), &altered).expect("altered");
        let Err(why) = store.load() else { panic!("an altered state was taken") };
        assert!(why.to_string().contains("state.json is damaged") && why.to_string().contains("mv "), "{why}");
        assert_eq!(fs::read(scratch.state()).expect("there"), altered);
    }

    #[test]
    fn a_state_that_is_gone_is_not_taken_for_a_first_start() {
        let scratch = Scratch::new("gone");
        let store = scratch.open();
        store.save("1").expect("saved");
        store.save("2").expect("saved");
        fs::remove_file(scratch.state()).expect("removed");
        assert!(matches!(store.load(), Err(StoreError::Missing(_))));
    }

    #[test]
    fn links_foreign_modes_and_giants_are_refused() {
        let scratch = Scratch::new("foreign");
        let store = scratch.open();
        let state = scratch.state();
        symlink("/etc/hostname", &state).expect("linked");
        assert!(matches!(store.load(), Err(StoreError::NotPlain(_))));
        fs::remove_file(&state).expect("removed");
        fs::create_dir(&state).expect("made");
        assert!(matches!(store.load(), Err(StoreError::NotPlain(_))));
        assert!(store.save("x").is_err());
        fs::remove_dir(&state).expect("removed");
        store.save("x").expect("saved");
        fs::set_permissions(&state, fs::Permissions::from_mode(0o640)).expect("changed");
        assert!(matches!(store.load(), Err(StoreError::Open(_, 0o640))));
        fs::set_permissions(&state, fs::Permissions::from_mode(0o600)).expect("changed");
        fs::write(&state, vec![b' '; STATE_MAX + SEAL_LENGTH + 1]).expect("written");
        assert!(matches!(store.load(), Err(StoreError::TooLarge(_))));
        assert!(matches!(store.save(&" ".repeat(STATE_MAX + 1)), Err(StoreError::TooLarge(_))));
    }

    #[test]
    fn a_file_of_another_user_is_refused() {
        let scratch = Scratch::new("owner");
        let store = scratch.open();
        store.save("x").expect("saved");
        // Only root can give a file away.
        if std::os::unix::fs::chown(scratch.state(), Some(12_345), None).is_ok() {
            assert!(matches!(store.load(), Err(StoreError::Owner(_, 12_345, _))));
        }
    }

    #[test]
    fn a_directory_others_may_look_into_is_closed_and_one_they_may_write_into_is_refused() {
        let scratch = Scratch::new("directory");
        fs::create_dir(&scratch.0).expect("made");
        fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o755)).expect("changed");
        drop(scratch.open());
        assert_eq!(fs::metadata(&scratch.0).expect("there").mode() & 0o7777, 0o700);
        fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o777)).expect("changed");
        assert!(matches!(Store::open(&scratch.0), Err(StoreError::Open(_, 0o777))));
        let link = Scratch::new("link");
        symlink(&scratch.0, &link.0).expect("linked");
        assert!(matches!(Store::open(&link.0), Err(StoreError::NotPlain(_))));
        fs::remove_file(&link.0).expect("removed");
    }

    #[test]
    fn two_processes_cannot_have_one_directory() {
        let scratch = Scratch::new("lock");
        let first = scratch.open();
        assert!(matches!(Store::open(&scratch.0), Err(StoreError::Locked(_))));
        drop(first);
        drop(scratch.open());
    }

    #[test]
    fn a_failed_write_leaves_the_state_as_it_was() {
        let scratch = Scratch::new("failed");
        let store = scratch.open();
        store.save("old").expect("saved");
        // A directory in the way of the new file: creation fails whoever we are.
        fs::create_dir(scratch.0.join(NEW)).expect("made");
        let Err(why) = store.save("new") else { panic!("written over a directory") };
        assert!(why.to_string().contains("is kept"), "{why}");
        assert_eq!(store.load().expect("sound").as_deref(), Some("old"));
    }
}
