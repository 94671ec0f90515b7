//! Times, as Slurm writes and reads them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A moment on a local clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // They are what they are called.
pub struct Clock {
    pub year: i32,
    /// From 1.
    pub month: i32,
    /// From 1. A day that the month has not is one of the next month.
    pub day: i32,
    pub hour: i32,
    pub minute: i32,
    pub second: i32,
}

/// What the local clock shows.
#[allow(unsafe_code)]
pub fn clock(seconds: u64) -> Clock {
    let time = seconds as libc::time_t;
    // SAFETY: all zeroes is a valid `tm`, and both pointers are of values that live.
    let broken = unsafe {
        let mut broken: libc::tm = std::mem::zeroed();
        libc::localtime_r(&raw const time, &raw mut broken);
        broken
    };
    Clock {
        year: broken.tm_year + 1900,
        month: broken.tm_mon + 1,
        day: broken.tm_mday,
        hour: broken.tm_hour,
        minute: broken.tm_min,
        second: broken.tm_sec,
    }
}

/// When the local clock shows this, in seconds since 1970.
#[allow(unsafe_code)]
pub fn at(clock: Clock) -> u64 {
    // SAFETY: all zeroes is a valid `tm`, and the pointer is of a value that lives.
    let time = unsafe {
        let mut broken: libc::tm = std::mem::zeroed();
        broken.tm_year = clock.year - 1900;
        broken.tm_mon = clock.month - 1;
        broken.tm_mday = clock.day;
        broken.tm_hour = clock.hour;
        broken.tm_min = clock.minute;
        broken.tm_sec = clock.second;
        broken.tm_isdst = -1;
        libc::mktime(&raw mut broken)
    };
    u64::try_from(time).unwrap_or(0)
}

/// A local time as Slurm writes it: `2026-11-28T22:05:30`.
pub fn local(seconds: u64) -> String {
    let Clock { year, month, day, hour, minute, second } = clock(seconds);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// A duration as Slurm writes it: `[D-]HH:MM:SS`.
pub fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    let clock = format!("{hours:02}:{minutes:02}:{:02}", seconds % 60);
    if days > 0 { format!("{days}-{clock}") } else { clock }
}

/// A time limit as `-t` takes it, in minutes, seconds rounded up: `M`, `M:S`, `H:M:S`, `D-H`, `D-H:M`, `D-H:M:S`.
/// `Some(None)` is without limit (`UNLIMITED`, `INFINITE`, `-1`, `0`).
pub fn parse_limit(text: &str) -> Option<Option<u32>> {
    if ["UNLIMITED", "INFINITE", "-1"].iter().any(|word| text.eq_ignore_ascii_case(word)) {
        return Some(None);
    }
    let (days, rest) = match text.split_once('-') {
        Some((days, rest)) => (Some(number(days)?), rest),
        None => (None, text),
    };
    let parts = rest.split(':').map(number).collect::<Option<Vec<u64>>>()?;
    let seconds = match (days, &parts[..]) {
        (None, [m]) => m.checked_mul(60)?,
        (None, [m, s]) => m.checked_mul(60)?.checked_add(*s)?,
        (Some(_), [h]) => h.checked_mul(3600)?,
        (Some(_), [h, m]) => h.checked_mul(3600)?.checked_add(m.checked_mul(60)?)?,
        (_, [h, m, s]) => h.checked_mul(3600)?.checked_add(m.checked_mul(60)?)?.checked_add(*s)?,
        _ => return None,
    };
    let seconds = days.unwrap_or(0).checked_mul(86400)?.checked_add(seconds)?;
    let minutes = u32::try_from(seconds.div_ceil(60)).ok()?;
    Some((minutes > 0).then_some(minutes))
}

fn number(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_has_the_forms_of_the_manual() {
        for (text, minutes) in [
            ("5", Some(Some(5))),
            ("5:01", Some(Some(6))),
            ("1:02:03", Some(Some(63))),
            ("2-0", Some(Some(2880))),
            ("1-1:1", Some(Some(1501))),
            ("1-1:1:1", Some(Some(1502))),
            ("unlimited", Some(None)),
            ("0", Some(None)),
            ("", None),
            ("1h", None),
            ("1:2:3:4", None),
            ("99999999999999999999", None),
            ("9999999999999-9999999999999", None),
        ] {
            assert_eq!(parse_limit(text), minutes, "{text}");
        }
    }

    #[test]
    fn a_duration_is_written_as_slurm_does() {
        assert_eq!(duration(59), "00:00:59");
        assert_eq!(duration(86400 + 3661), "1-01:01:01");
    }
}
