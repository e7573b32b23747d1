//! Times as clients write and read them.

use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp};
use pouch_docker_types::ZERO_TIME;

use crate::http::{ApiError, ApiResult};

/// RFC 3339 with as many digits as needed; Go's zero time when there is none.
pub(crate) fn write(time: Option<Timestamp>) -> String {
    time.map_or_else(|| ZERO_TIME.to_owned(), |time| time.to_string())
}

/// A time of the system's clock; one beyond the calendar is shown as none.
pub(crate) fn of_system(time: SystemTime) -> Option<Timestamp> {
    Timestamp::try_from(time).ok()
}

/// Unix seconds with up to nine decimals, or RFC 3339, or how long ago (`10m`, `1h30m`).
///
/// # Errors
/// 400 naming the parameter.
pub(crate) fn read(field: &str, text: &str, now: Timestamp) -> ApiResult<Timestamp> {
    unix(text)
        .or_else(|| text.parse().ok())
        .or_else(|| now.checked_sub(duration(text)?).ok())
        .ok_or_else(|| ApiError::invalid(format!("invalid value for {field}: {text:?}")))
}

fn unix(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if seconds.is_empty() || fraction.len() > 9 || !digits(fraction) {
        return None;
    }
    let nanoseconds: i32 = format!("{fraction:0<9}").parse().ok()?;
    Timestamp::new(seconds.parse().ok()?, nanoseconds).ok()
}

/// Go's durations: numbers with units, `1h30m`, `500ms`.
fn duration(text: &str) -> Option<SignedDuration> {
    let mut rest = text;
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..number].parse().ok()?;
        rest = &rest[number..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += value
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    SignedDuration::try_from_secs_f64(total).ok()
}

/// How long, as `docker ps` says it.
pub(crate) fn human(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let minutes = seconds / 60;
    // Hours are rounded, which is why "About an hour" begins after 30 minutes past the first.
    let hours = (seconds + 1800) / 3600;
    match seconds {
        0 => return "Less than a second".to_owned(),
        1 => return "1 second".to_owned(),
        2..60 => return format!("{seconds} seconds"),
        _ => {}
    }
    match minutes {
        1 => return "About a minute".to_owned(),
        2..60 => return format!("{minutes} minutes"),
        _ => {}
    }
    match hours {
        ..=1 => "About an hour".to_owned(),
        2..48 => format!("{hours} hours"),
        48..336 => format!("{} days", hours / 24),
        336..1440 => format!("{} weeks", hours / 24 / 7),
        1440..17_520 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_spelling() {
        let now = Timestamp::new(1_000_000, 0).unwrap();
        for (text, seconds, nanoseconds) in [
            ("1700000000", 1_700_000_000, 0),
            ("1700000000.5", 1_700_000_000, 500_000_000),
            ("1700000000.000000001", 1_700_000_000, 1),
            ("0", 0, 0),
            ("2023-11-14T22:13:20Z", 1_700_000_000, 0),
            ("2023-11-15T00:13:20.5+02:00", 1_700_000_000, 500_000_000),
            ("10m", 999_400, 0),
            ("1h30m", 994_600, 0),
        ] {
            let expected = Timestamp::new(seconds, nanoseconds).unwrap();
            assert_eq!(read("since", text, now), Ok(expected), "{text}");
        }
        for bad in
            ["", "x", "1.x", "1.1234567890", "10", "10y", "m", "."].iter().filter(|t| **t != "10")
        {
            assert!(read("since", bad, now).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_dockers() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (13 * 86_400, "13 days"),
            (14 * 86_400, "2 weeks"),
            (59 * 86_400, "8 weeks"),
            (60 * 86_400, "2 months"),
            (729 * 86_400, "24 months"),
            (730 * 86_400, "2 years"),
        ] {
            assert_eq!(human(SignedDuration::from_secs(seconds)), words, "{seconds}");
        }
        assert_eq!(human(SignedDuration::from_secs(-5)), "Less than a second");
    }

    #[test]
    fn writes_gos_zero() {
        assert_eq!(write(None), "0001-01-01T00:00:00Z");
        let time = Timestamp::new(1_700_000_000, 120_000_000).unwrap();
        assert_eq!(write(Some(time)), "2023-11-14T22:13:20.12Z");
    }
}
