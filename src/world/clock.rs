//! The world's time: moved by the test, read by nobody but through [`Now`]. And what is due when.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::{Instant, Now, WallTime};

/// 2100-01-01T00:00:00Z, when the world begins. It is ahead of the machine's own clock, which boringtun reads on its own account and which stands all but
/// still here: stamps would follow that one as soon as it was ahead, and none of it could be relied on from then on.
pub const BEGIN: WallTime = WallTime(4_102_444_800);

/// One machine's two clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    mono: Instant,
    /// What the wall clock is off from the true time, in seconds.
    off: i64,
}

impl Clock {
    /// A minute after boot, with the right date.
    pub const fn new() -> Self {
        Self { mono: Instant::from_boot(Duration::from_secs(60)), off: 0 }
    }

    /// Both clocks now.
    pub fn now(&self) -> Now {
        let since = self.mono.since_boot().as_secs() as i64 - 60;
        Now { mono: self.mono, wall: WallTime(BEGIN.0 + since + self.off) }
    }

    /// Time passes.
    pub fn pass(&mut self, by: Duration) {
        self.mono = self.mono + by;
    }

    /// Time passes up to `then`; nothing if that is past.
    pub fn reach(&mut self, then: Instant) {
        self.mono = self.mono.max(then);
    }

    /// The wall clock is set to be `off` seconds from the truth (a board without a battery, a wrong NTP server). Timers must not notice.
    pub fn set_off(&mut self, off: i64) {
        self.off = off;
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// Things that are due at a time, in order; those due at the same time in the order they were put in.
#[derive(Debug)]
pub struct Agenda<T> {
    due: BTreeMap<(Instant, u64), T>,
    put: u64,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), put: 0 }
    }
}

impl<T> Agenda<T> {
    /// Puts `thing` in for `at`.
    pub fn put(&mut self, at: Instant, thing: T) {
        self.put += 1;
        self.due.insert((at, self.put), thing);
    }

    /// When the next thing is due.
    pub fn next(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the first thing that is due at `now` or before.
    pub fn take(&mut self, now: Instant) -> Option<T> {
        let (key, _) = self.due.first_key_value().filter(|((at, _), _)| *at <= now)?;
        let key = *key;
        self.due.remove(&key)
    }

    /// Drops what `keep` refuses.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.due.retain(|_, thing| keep(thing));
    }

    /// Nothing is due any more.
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_may_jump_and_the_other_does_not() {
        let mut clock = Clock::new();
        let before = clock.now();
        clock.set_off(-3600);
        clock.pass(Duration::from_secs(5));
        assert_eq!(clock.now().mono.since(before.mono), Duration::from_secs(5));
        assert_eq!(clock.now().wall.0, before.wall.0 - 3595);
    }

    #[test]
    fn an_agenda_is_worked_off_in_order() {
        let mut agenda = Agenda::default();
        let at = |s| Instant::from_boot(Duration::from_secs(s));
        agenda.put(at(2), 'c');
        agenda.put(at(1), 'a');
        agenda.put(at(1), 'b');
        assert_eq!(agenda.next(), Some(at(1)));
        let taken: Vec<_> = std::iter::from_fn(|| agenda.take(at(1))).collect();
        assert_eq!((taken, agenda.is_empty()), (vec!['a', 'b'], false));
    }
}
