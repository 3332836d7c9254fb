//! How things are printed: steps, errors, questions, sizes and ages. Colours only on a terminal (and not with NO_COLOR); one idea a line.

use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use super::protocol::{Failure, Progress};

/// Where a verb prints.
pub(crate) struct Terminal {
    colours: bool,
    stderr: bool,
}

impl Terminal {
    /// For results.
    pub(crate) fn stdout() -> Terminal {
        Terminal { colours: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(), stderr: false }
    }

    /// For files.
    pub(crate) fn plain() -> Terminal {
        Terminal { colours: false, stderr: false }
    }

    /// For errors, and for steps where the result is for machines.
    pub(crate) fn stderr() -> Terminal {
        Terminal { colours: std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(), stderr: true }
    }

    /// Prints a line; a closed pipe is not an error of ours.
    pub(crate) fn line(&self, text: &str) {
        let _ = if self.stderr { writeln!(std::io::stderr(), "{text}") } else { writeln!(std::io::stdout(), "{text}") };
    }

    /// A step that was reached.
    pub(crate) fn step(&self, step: &Progress) {
        self.line(format!("  {} {:<22} {}", self.paint("32", "✓"), step.step, step.detail).trim_end());
    }

    /// Why something was not done: the cause, then what to do.
    pub(crate) fn failure(&self, failure: &Failure) {
        self.line(&format!("{} {}", self.paint("31", "error:"), failure.message));
        if !failure.hint.is_empty() {
            self.line(&format!("  {}", failure.hint));
        }
    }

    /// What should be known.
    pub(crate) fn warning(&self, text: &str) {
        self.line(&format!("  {} {text}", self.paint("33", "warning:")));
    }

    /// `text` in a colour, if there are colours.
    pub(crate) fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Asks a person; no terminal, no yes.
pub(crate) fn confirm(question: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new("unconfirmed", "there is nobody to ask", "say --yes to go on without being asked"));
    }
    print!("{question} [y/N] ");
    let _ = std::io::stdout().flush();
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(Failure::new("unconfirmed", "nothing was changed", "")) }
}

/// Real time passing, for verbs that wait.
pub struct Stopwatch(std::time::Instant);

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Stopwatch {
        Stopwatch(std::time::Instant::now())
    }

    /// Time since the start.
    pub fn passed(&self) -> Duration {
        self.0.elapsed()
    }

    /// As `1.6 s`.
    pub fn shown(&self) -> String {
        format!("{:.1} s", self.passed().as_secs_f64())
    }

    /// Waits.
    pub fn pause(time: Duration) {
        std::thread::sleep(time);
    }
}

/// As `5.1 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift {
            let value = bytes as f64 / (1u64 << shift) as f64;
            return if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") };
        }
    }
    format!("{bytes} B")
}

/// As `3 d 4 h`, `24 min`, `74 s`.
pub(crate) fn age(seconds: u64) -> String {
    let two = |a: u64, unit: &str, b: u64, small: &str| if b == 0 { format!("{a} {unit}") } else { format!("{a} {unit} {b} {small}") };
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// A peer's text made fit for a terminal: no control characters.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_read_like_those_of_people() {
        assert_eq!([size(0), size(1023), size(5_347_737), size(310 << 20)], ["0 B", "1023 B", "5.1 MiB", "310 MiB"]);
        assert_eq!([age(74), age(1_440), age(7_200), age(273_600)], ["74 s", "24 min", "2 h", "3 d 4 h"]);
        assert_eq!(clean("a\u{1b}[31m"), "a?[31m");
    }
}
