//! Sizes and times in the words that docker uses, in both directions.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::template::general;

const DECIMAL: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
const BINARY: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

fn scaled(size: f64, base: f64, precision: usize, units: &[&str]) -> String {
    let mut size = size;
    let mut unit = 0;
    while size >= base && unit + 1 < units.len() {
        size /= base;
        unit += 1;
    }
    format!("{}{}", general(size, precision), units[unit])
}

/// `1.24MB`: three digits, powers of 1000.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn size(bytes: i64) -> String {
    scaled(bytes as f64, 1000.0, 3, &DECIMAL)
}

/// `1.235MB`: four digits, powers of 1000.
#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
pub(crate) fn size4(bytes: i64) -> String {
    scaled(bytes as f64, 1000.0, 4, &DECIMAL)
}

/// `1.234MiB`: four digits, powers of 1024.
#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
pub(crate) fn binary_size(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, 4, &BINARY)
}

/// `2 minutes`, for a number of seconds.
pub(crate) fn duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    // Hours are rounded, what is below and above is cut.
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (..1, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, ..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".to_owned(),
        (_, _, ..48) => format!("{hours} hours"),
        (_, _, ..336) => format!("{} days", hours / 24),
        (_, _, ..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, ..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// `2 minutes ago`, for a moment in unix seconds.
pub(crate) fn ago(moment: i64, now: i64) -> String {
    format!("{} ago", duration(now.saturating_sub(moment)))
}

/// Unix seconds now.
pub(crate) fn now() -> i64 {
    Timestamp::now().as_second()
}

/// Go's `Time.String` in local time, as `CREATED AT` shows it; empty when out of range.
pub(crate) fn local_time(moment: i64) -> String {
    match Timestamp::from_second(moment) {
        Ok(time) => {
            time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
        }
        Err(_) => String::new(),
    }
}

/// Bytes from `512`, `64m`, `1.5GiB`: powers of 1024 whatever the spelling, as `--memory` reads it.
pub(crate) fn parse_bytes(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid size: {text:?} (want a number with b, k, m, g, t or p)");
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, suffix) = trimmed.split_at(digits);
    let suffix = suffix.trim_start().to_ascii_lowercase();
    let unit = match suffix.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(invalid()),
    };
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(1 << unit).ok_or_else(invalid);
    }
    let value: f64 = number.parse().map_err(|_| invalid())?;
    #[expect(clippy::cast_precision_loss, reason = "a power of two is exact")]
    let scaled = value * (1_i64 << unit) as f64;
    if !(0.0..9.2e18).contains(&scaled) {
        return Err(invalid());
    }
    #[expect(clippy::cast_possible_truncation, reason = "in range, and bytes are whole")]
    Ok(scaled as i64)
}

/// Nanoseconds from Go's `1h30m`, `1.5s`, `300ms`.
pub(crate) fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid =
        || format!("invalid duration {text:?} (want a number with ns, us, ms, s, m or h)");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(invalid()),
        };
        total += number.parse::<f64>().map_err(|_| invalid())? * scale;
        rest = tail;
    }
    if total >= 9.2e18 {
        return Err(invalid());
    }
    #[expect(clippy::cast_possible_truncation, reason = "in range, and nanoseconds are whole")]
    let nanoseconds = total.round() as i64;
    Ok(if negative { -nanoseconds } else { nanoseconds })
}

/// `--since` and `--until` as the API takes them: a duration counts back from now, dates without a
/// zone are local, anything else goes to the daemon as it is.
pub(crate) fn moment(text: &str, now: Timestamp) -> String {
    if text != "0"
        && let Ok(back) = parse_duration(text)
        && let Ok(moment) = now.checked_sub(jiff::SignedDuration::from_nanos(back))
    {
        // Whole seconds, as docker sends it.
        return moment.as_second().to_string();
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return unix(moment);
    }
    let civil = text
        .parse::<jiff::civil::DateTime>()
        .or_else(|_| text.parse::<jiff::civil::Date>().map(|date| date.at(0, 0, 0, 0)));
    match civil.and_then(|time| time.to_zoned(TimeZone::system())) {
        Ok(zoned) if text.contains('-') => unix(zoned.timestamp()),
        _ => text.to_owned(),
    }
}

fn unix(moment: Timestamp) -> String {
    format!("{}.{:09}", moment.as_second(), moment.subsec_nanosecond().unsigned_abs())
}

/// `text` cut to `width` characters, the last of which then is an ellipsis.
pub(crate) fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// The 12 digits that people read, without the algorithm.
pub(crate) fn short_id(id: &str) -> &str {
    let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_significant_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1_239_820, "1.24MB"),
            (72_800_000, "72.8MB"),
            (999_999, "1e+03kB"),
            (1_000_000_000_000, "1TB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
        assert_eq!(binary_size(1536), "1.5KiB");
        assert_eq!(size4(1_234_567), "1.235MB");
    }

    #[test]
    fn durations_round_as_docker_does() {
        for (seconds, text) in [
            (-5, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5399, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86400, "2 weeks"),
            (60 * 86400, "2 months"),
            (800 * 86400, "2 years"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn bytes_and_durations_are_read() {
        assert_eq!(parse_bytes("64m"), Ok(64 << 20));
        assert_eq!(parse_bytes("1.5GiB"), Ok(3 << 29));
        assert_eq!(parse_bytes("0"), Ok(0));
        for bad in ["", "m", "-1", "1x", "1.2.3", "99999999999p"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_duration("1h30m"), Ok(5_400_000_000_000));
        assert_eq!(parse_duration("1.5s"), Ok(1_500_000_000));
        assert_eq!(parse_duration("-10ms"), Ok(-10_000_000));
        for bad in ["", "5", "s", "1d", "1h-3m"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn moments_become_unix_seconds() {
        let now = Timestamp::from_second(1000).unwrap();
        assert_eq!(moment("10s", now), "990");
        assert_eq!(moment("1970-01-01T00:00:05Z", now), "5.000000000");
        assert_eq!(moment("1234.5", now), "1234.5");
    }

    #[test]
    fn cuts_keep_characters_whole() {
        assert_eq!(ellipsis("äöüß", 4), "äöüß");
        assert_eq!(ellipsis("äöüßx", 4), "äöü…");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
    }
}
