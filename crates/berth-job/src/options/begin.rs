//! `--begin`: a time, as Slurm writes them.

use crate::time::{Clock, at, clock};

/// Reads a time. `now` is when it is read.
///
/// # Errors
/// Where it cannot be understood, in bytes from the start.
pub fn parse(text: &str, now: u64) -> Result<u64, usize> {
    let lower = text.trim().to_ascii_lowercase();
    if lower.is_empty() {
        return Err(0);
    }
    if let Some(rest) = lower.strip_prefix("now") {
        return if rest.is_empty() {
            Ok(now)
        } else {
            offset(rest).map(|seconds| now.saturating_add(seconds)).ok_or(3)
        };
    }
    let today = clock(now);
    let (date, time) =
        match lower.split_once(['t', ' ']).filter(|(date, _)| date.starts_with(|c: char| c.is_ascii_digit())) {
            Some((date, time)) => (Some(date), Some(time)),
            None if lower.contains(['-', '/']) || (lower.len() == 6 && lower.bytes().all(|b| b.is_ascii_digit())) => {
                (Some(lower.as_str()), None)
            }
            None => (None, Some(lower.as_str())),
        };
    if date.is_none() {
        match lower.as_str() {
            "today" => return Ok(now),
            "tomorrow" => return Ok(at(Clock { day: today.day + 1, hour: 0, minute: 0, second: 0, ..today })),
            _ => {}
        }
    }
    let (year, month, day) = match date {
        Some(date) => day_of(date, &today).ok_or(0usize)?,
        None => (today.year, today.month, today.day),
    };
    let (hour, minute, second) = match time {
        Some(time) => time_of(time).ok_or_else(|| date.map_or(0, |date| date.len() + 1))?,
        None => (0, 0, 0),
    };
    let moment = at(Clock { year, month, day, hour, minute, second });
    if date.is_none() && moment < now {
        // The next time that it is so late.
        return Ok(at(Clock { year, month, day: day + 1, hour, minute, second }));
    }
    Ok(moment)
}

fn offset(text: &str) -> Option<u64> {
    let text = text.trim().strip_prefix('+')?.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
    let number: u64 = digits.parse().ok()?;
    let unit = match text[digits.len()..].trim() {
        "" | "s" | "second" | "seconds" => 1,
        "m" | "min" | "minute" | "minutes" => 60,
        "h" | "hour" | "hours" => 3600,
        "d" | "day" | "days" => 86400,
        "w" | "week" | "weeks" => 7 * 86400,
        _ => return None,
    };
    number.checked_mul(unit)
}

fn day_of(text: &str, today: &Clock) -> Option<(i32, i32, i32)> {
    let numbers = |separator| -> Option<Vec<i32>> { text.split(separator).map(|part| part.parse().ok()).collect() };
    let (year, month, day) = if text.contains('-') {
        match numbers('-')?[..] {
            [year, month, day] => (year, month, day),
            [month, day] => (today.year, month, day),
            _ => return None,
        }
    } else if text.contains('/') {
        match numbers('/')?[..] {
            [month, day] => (today.year, month, day),
            [month, day, year] => (if year < 100 { 2000 + year } else { year }, month, day),
            _ => return None,
        }
    } else {
        let part = |range: std::ops::Range<usize>| text.get(range)?.parse::<i32>().ok();
        (2000 + part(4..6)?, part(0..2)?, part(2..4)?)
    };
    ((1..=12).contains(&month) && (1..=31).contains(&day) && (1970..=9999).contains(&year))
        .then_some((year, month, day))
}

fn time_of(text: &str) -> Option<(i32, i32, i32)> {
    match text {
        "midnight" => return Some((0, 0, 0)),
        "noon" => return Some((12, 0, 0)),
        "elevenses" => return Some((11, 0, 0)),
        "fika" => return Some((15, 0, 0)),
        "teatime" => return Some((16, 0, 0)),
        _ => {}
    }
    let (clock, afternoon) = match (text.strip_suffix("am"), text.strip_suffix("pm")) {
        (Some(clock), _) => (clock.trim(), Some(false)),
        (_, Some(clock)) => (clock.trim(), Some(true)),
        _ => (text, None),
    };
    let parts: Vec<i32> = clock
        .split(':')
        .map(|part| part.parse().ok().filter(|_| part.len() <= 2 && part.bytes().all(|b| b.is_ascii_digit())))
        .collect::<Option<_>>()?;
    let (mut hour, minute, second) = match parts[..] {
        [hour, minute] => (hour, minute, 0),
        [hour, minute, second] => (hour, minute, second),
        [hour] if afternoon.is_some() => (hour, 0, 0),
        _ => return None,
    };
    match afternoon {
        Some(true) if hour < 12 => hour += 12,
        Some(false) if hour == 12 => hour = 0,
        _ => {}
    }
    ((0..24).contains(&hour) && (0..60).contains(&minute) && (0..60).contains(&second))
        .then_some((hour, minute, second))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::local;
    use proptest::prelude::*;

    #[test]
    fn times_have_slurms_forms() {
        let now = at(Clock { year: 2026, month: 11, day: 28, hour: 15, minute: 0, second: 0 });
        for (text, expected) in [
            ("now", "2026-11-28T15:00:00"),
            ("now+90", "2026-11-28T15:01:30"),
            ("now+1hour", "2026-11-28T16:00:00"),
            ("now + 2days", "2026-11-30T15:00:00"),
            ("16:30", "2026-11-28T16:30:00"),
            ("14:30", "2026-11-29T14:30:00"),
            ("2:30pm", "2026-11-29T14:30:00"),
            ("teatime", "2026-11-28T16:00:00"),
            ("midnight", "2026-11-29T00:00:00"),
            ("tomorrow", "2026-11-29T00:00:00"),
            ("2030-01-20T12:34", "2030-01-20T12:34:00"),
            ("2030-01-20T12:34:56", "2030-01-20T12:34:56"),
            ("12/24", "2026-12-24T00:00:00"),
            ("12/24/30", "2030-12-24T00:00:00"),
            ("122430", "2030-12-24T00:00:00"),
        ] {
            assert_eq!(parse(text, now).map(local), Ok(expected.to_owned()), "{text}");
        }
        for text in ["", "garbage", "25:00", "now+x", "2030-13-01", "16", "-1"] {
            assert!(parse(text, now).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,20}|(now|[0-9:/+t -]|am|pm){0,12}") {
            let _ = parse(&text, 1_795_000_000);
        }
    }
}
