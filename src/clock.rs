//! Time as plain values. Nothing here can read a clock: `shell::time` makes these values and hands them down, tests make their own.
//!
//! Two clocks, never mixed: [`Instant`] runs on through suspend and never goes back, and all timers use it; [`WallTime`] is
//! what the machine believes the date to be, may jump, and serves only what other machines must understand.

use std::time::Duration;

/// A point on the monotonic clock that also runs while the machine sleeps (`CLOCK_BOOTTIME`), as time since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

impl Instant {
    /// From the time since boot.
    pub const fn from_boot(since: Duration) -> Self {
        Self(since)
    }

    /// The time since boot.
    pub const fn since_boot(self) -> Duration {
        self.0
    }

    /// How long ago `earlier` was; zero if it is in the future.
    pub const fn since(self, earlier: Instant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, by: Duration) -> Instant {
        Instant(self.0.saturating_add(by))
    }
}

/// The machine's date in whole seconds since 1970-01-01T00:00:00Z; negative before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub i64);

/// Both clocks, read together once a turn of the driver and handed to every core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock.
    pub mono: Instant,
    /// The wall clock.
    pub wall: WallTime,
}

impl std::fmt::Display for WallTime {
    /// RFC 3339 in UTC with whole seconds, as Kubernetes writes times; years outside 0..=9999 are clamped.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const FIRST: i64 = -62_167_219_200;
        const LAST: i64 = 253_402_300_799;
        let t = self.0.clamp(FIRST, LAST);
        let (days, second) = (t.div_euclid(86_400), t.rem_euclid(86_400));
        // Civil date from a day count, with years that begin in March so that the leap day comes last.
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let (d, m) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
        let y = yoe + era * 400 + i64::from(m <= 2);
        write!(f, "{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
    }
}

impl WallTime {
    /// Reads the `Date` of an HTTP answer (RFC 9110: `Tue, 24 Nov 2026 05:36:00 GMT`).
    pub fn parse_http(text: &str) -> Option<WallTime> {
        const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let mut words = text.split_once(", ")?.1.split(' ');
        let (day, month, year, time, zone) = (words.next()?, words.next()?, words.next()?, words.next()?, words.next()?);
        let month = MONTHS.iter().position(|m| *m == month)? + 1;
        (zone == "GMT" && words.next().is_none()).then(|| WallTime::parse(&format!("{year}-{month:02}-{day}T{time}Z")))?
    }

    /// Reads an RFC 3339 time as Kubernetes writes it (`2026-11-24T05:36:00Z`, with or without a fraction, UTC only).
    pub fn parse(text: &str) -> Option<WallTime> {
        let b = text.as_bytes();
        if b.len() < 20 || b.len() > 35 || *b.last()? != b'Z' {
            return None;
        }
        let digits = |from: usize, to: usize| -> Option<i64> {
            let part = text.get(from..to)?;
            part.bytes().all(|c| c.is_ascii_digit()).then(|| part.parse().ok())?
        };
        let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
        if marks.iter().any(|&(at, mark)| b[at] != mark) {
            return None;
        }
        let fraction = &b[19..b.len() - 1];
        if !fraction.is_empty() && (fraction[0] != b'.' || fraction.len() < 2 || !fraction[1..].iter().all(u8::is_ascii_digit)) {
            return None;
        }
        let (y, m, d) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
        let (h, min, s) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
        if !(1..=12).contains(&m) || !(1..=31).contains(&d) || h > 23 || min > 59 || s > 60 {
            return None;
        }
        let y = y - i64::from(m <= 2);
        let (era, yoe) = (y.div_euclid(400), y.rem_euclid(400));
        let doy = (153 * (m + if m > 2 { -3 } else { 9 }) + 2) / 5 + d - 1;
        let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468;
        Some(WallTime(days * 86_400 + h * 3600 + min * 60 + s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_times_print_as_kubernetes_writes_them_and_read_back() {
        for (seconds, text) in
            [(0, "1970-01-01T00:00:00Z"), (951_782_400, "2000-02-29T00:00:00Z"), (1_795_498_593, "2026-11-24T05:36:33Z"), (-1, "1969-12-31T23:59:59Z")]
        {
            assert_eq!(WallTime(seconds).to_string(), text);
            assert_eq!(WallTime::parse(text), Some(WallTime(seconds)));
        }
        assert_eq!(WallTime::parse("2026-11-24T05:36:33.123456Z"), Some(WallTime(1_795_498_593)));
    }

    #[test]
    fn the_date_of_an_http_answer_is_read() {
        assert_eq!(WallTime::parse_http("Tue, 24 Nov 2026 05:36:33 GMT"), Some(WallTime(1_795_498_593)));
        for text in [
            "",
            "Tue, 24 Nov 2026 05:36:33",
            "Tue, 24 Nov 2026 05:36:33 CET",
            "Tue, 4 Nov 2026 05:36:33 GMT",
            "Tue, 24 Foo 2026 05:36:33 GMT",
            "Tuesday, 24-Nov-26 05:36:33 GMT",
        ] {
            assert_eq!(WallTime::parse_http(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "2026-11-24", "2026-11-24T05:36:33+01:00", "2026-13-24T05:36:33Z", "2026-11-24T05:36:33.Z", "+026-11-24T05:36:33Z"] {
            assert_eq!(WallTime::parse(text), None, "{text}");
        }
    }

    #[test]
    fn any_second_prints_without_panic() {
        for s in [i64::MIN, i64::MAX, -62_167_219_201] {
            let _ = WallTime(s).to_string();
        }
    }
}
