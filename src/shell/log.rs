//! What an operator reads: one line an event on stderr, with level, room and words.
//!
//! Called through the macro `log!` by the shell and the verbs; the cores never log. A line is built in a buffer of fixed size, so it
//! allocates nothing, and control characters in it become spaces: what comes from outside cannot forge a line. Levels: packet = trace, state change = debug, operator-visible = info, wake someone = warn.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// The program ends, or a promise cannot be kept.
    Error = 1,
    /// Someone should look.
    Warn,
    /// What an operator wants to know.
    Info,
    /// A change of state.
    Debug,
    /// A packet.
    Trace,
}

impl Level {
    /// The level's name, padded so that rooms stand in a column.
    const fn padded(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn ",
            Level::Info => "info ",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

/// A text that names no level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLevel;

impl fmt::Display for BadLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a log level is one of error, warn, info, debug, trace")
    }
}

impl std::error::Error for BadLevel {}

impl FromStr for Level {
    type Err = BadLevel;

    fn from_str(text: &str) -> Result<Self, BadLevel> {
        [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace].into_iter().find(|level| level.padded().trim_end() == text).ok_or(BadLevel)
    }
}

static SHOWN: AtomicU8 = AtomicU8::new(Level::Info as u8);

/// The longest line, in bytes; a longer one ends in `...`.
const LINE_MAX: usize = 1024;

/// Shows lines up to `level` from now on; info is the default.
pub fn show(level: Level) {
    SHOWN.store(level as u8, Relaxed);
}

/// The level that environment variable `SLUICE_LOG` names, if it names one.
///
/// # Errors
/// When the variable is set to anything else.
pub fn level_of_environment() -> Result<Option<Level>, BadLevel> {
    match std::env::var("SLUICE_LOG") {
        Ok(text) if !text.is_empty() => text.parse().map(Some),
        Ok(_) | Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(BadLevel),
    }
}

/// Whether lines of `level` are shown.
pub fn shows(level: Level) -> bool {
    level as u8 <= SHOWN.load(Relaxed)
}

/// Writes one line; use the macro, which asks [`shows`] first. A stderr that cannot be written is ignored.
pub fn write(level: Level, room: &str, words: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; LINE_MAX], length: 0 };
    let stamp = (!stamped_by_others()).then(crate::shell::time::wall);
    let _ = compose(&mut line, stamp, level, room, words);
    let _ = std::io::stderr().write_all(line.ended());
}

/// An error with all its causes, joined by colons.
pub fn chain<'a>(error: &'a (dyn std::error::Error + 'static)) -> impl fmt::Display + 'a {
    Chain(error)
}

/// Logs one line: `log!(Info, "link", "{} routes", n)`. The words are formatted only if the level is shown.
#[macro_export]
#[doc(hidden)]
macro_rules! sluice_log {
    ($level:ident, $room:expr, $($words:tt)+) => {
        if $crate::shell::log::shows($crate::shell::log::Level::$level) {
            $crate::shell::log::write($crate::shell::log::Level::$level, $room, format_args!($($words)+));
        }
    };
}
pub use crate::sluice_log as log;

struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        // A chain that long is a loop.
        for _ in 0..16 {
            let Some(error) = cause else { break };
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

fn compose(line: &mut Line, stamp: Option<crate::clock::WallTime>, level: Level, room: &str, words: fmt::Arguments<'_>) -> fmt::Result {
    if let Some(stamp) = stamp {
        write!(line, "{stamp} ")?;
    }
    write!(line, "{} {room}: {words}", level.padded())
}

/// Whether the journal or the kubelet writes the time in front of our lines.
fn stamped_by_others() -> bool {
    static STAMPED: OnceLock<bool> = OnceLock::new();
    *STAMPED.get_or_init(|| ["JOURNAL_STREAM", "KUBERNETES_SERVICE_HOST"].iter().any(|name| std::env::var_os(name).is_some()))
}

struct Line {
    bytes: [u8; LINE_MAX],
    length: usize,
}

impl Line {
    fn ended(&mut self) -> &[u8] {
        let end = self.length.min(LINE_MAX - 1);
        self.bytes[end] = b'\n';
        &self.bytes[..=end]
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        const MARK: &str = "...";
        for c in text.chars() {
            let c = if c.is_control() { ' ' } else { c };
            if self.length + c.len_utf8() > LINE_MAX - 1 - MARK.len() {
                self.bytes[self.length..self.length + MARK.len()].copy_from_slice(MARK.as_bytes());
                self.length += MARK.len();
                return Err(fmt::Error);
            }
            self.length += c.encode_utf8(&mut self.bytes[self.length..]).len();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: fmt::Arguments<'_>) -> String {
        let mut line = Line { bytes: [0; LINE_MAX], length: 0 };
        let _ = compose(&mut line, Some(crate::clock::WallTime(0)), Level::Warn, "store", words);
        String::from_utf8(line.ended().to_vec()).expect("UTF-8")
    }

    #[test]
    fn an_event_is_one_line_whatever_it_says() {
        assert_eq!(line(format_args!("a\nb\u{1b}[31m")), "1970-01-01T00:00:00Z warn  store: a b [31m\n");
    }

    #[test]
    fn a_long_line_is_cut_at_a_character() {
        let long = line(format_args!("{}{}", "ä".repeat(2000), "x"));
        assert!(long.len() <= LINE_MAX && long.ends_with("ä...\n"), "{}", long.len());
    }

    #[test]
    fn levels_have_names() {
        assert_eq!("trace".parse(), Ok(Level::Trace));
        assert_eq!("warn".parse(), Ok(Level::Warn));
        assert_eq!("".parse::<Level>(), Err(BadLevel));
        assert_eq!("INFO".parse::<Level>(), Err(BadLevel));
    }

    #[test]
    fn a_chain_names_every_cause() {
        #[derive(Debug)]
        struct Outer(BadLevel);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("cannot start")
            }
        }
        impl std::error::Error for Outer {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.0)
            }
        }
        assert_eq!(chain(&Outer(BadLevel)).to_string(), format!("cannot start: {BadLevel}"));
    }
}
