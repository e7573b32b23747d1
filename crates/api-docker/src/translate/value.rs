//! Values that several fields share: paths, sizes, addresses, lists.

use std::fmt::Display;

use crate::http::{ApiError, ApiResult};

/// 400 with the field's name.
pub(super) fn bad(field: &str, why: impl Display) -> ApiError {
    ApiError::invalid(format!("invalid {field}: {why}"))
}

/// 501 with the field's name.
pub(super) fn unsupported(field: &str, why: impl Display) -> ApiError {
    ApiError::unsupported(format!("{field} is not supported: {why}"))
}

/// An empty list is `null` on the wire.
pub(super) fn list<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}

/// An absolute path without `.`, `..`, double or trailing slashes; `..` never climbs over `/`.
pub(super) fn clean_path(field: &str, path: &str) -> ApiResult<String> {
    if !path.starts_with('/') {
        return Err(bad(field, format_args!("'{path}' must be an absolute path")));
    }
    if path.contains('\0') || path.len() > 4096 {
        return Err(bad(field, "the path is no path"));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

/// A mount's place in the container: absolute and not the root.
pub(super) fn destination(field: &str, path: &str) -> ApiResult<String> {
    let path = clean_path(field, path)?;
    if path == "/" {
        return Err(bad(field, "destination can't be '/'"));
    }
    Ok(path)
}

/// A path below some directory that does not climb out of it.
pub(super) fn local_path(field: &str, path: &str) -> ApiResult<String> {
    let climbs = path.split('/').any(|part| part == "..");
    if path.is_empty() || path.starts_with('/') || climbs || path.contains('\0') {
        return Err(bad(field, format_args!("'{path}' must be a relative path inside the volume")));
    }
    Ok(path.to_owned())
}

/// Bytes with an optional suffix `b`, `k`, `m`, `g`, `t` (or `kb`, `kib` …), powers of 1024.
pub(super) fn size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let number: u64 = lower[..digits].parse().ok()?;
    let power = match lower[digits..].trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        _ => return None,
    };
    number.checked_mul(1024u64.checked_pow(power)?)
}

/// A number that must not be negative; 0 is unset.
pub(super) fn positive(field: &str, value: i64) -> ApiResult<Option<u64>> {
    match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(bad(field, format_args!("{value} is negative"))),
    }
}

/// Back to the wire: unset is 0.
pub(super) fn signed(value: Option<u64>) -> i64 {
    value.map_or(0, |value| i64::try_from(value).unwrap_or(i64::MAX))
}

/// A MAC address in lower case with colons.
pub(super) fn mac(field: &str, text: &str) -> ApiResult<Option<String>> {
    if text.is_empty() {
        return Ok(None);
    }
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let pair = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    if parts.len() != 6 || !parts.iter().all(pair) {
        return Err(bad(field, format_args!("'{text}' is no MAC address")));
    }
    Ok(Some(parts.join(":").to_ascii_lowercase()))
}

/// An address that may stand in brackets.
pub(super) fn address<T: std::str::FromStr>(field: &str, text: &str) -> ApiResult<T> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| bad(field, format_args!("'{text}' is no IP address")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (given, clean) in [
            ("/a//b/./c/", "/a/b/c"),
            ("/a/../../b", "/b"),
            ("/", "/"),
            ("/..", "/"),
            ("/a b", "/a b"),
        ] {
            assert_eq!(clean_path("x", given).unwrap(), clean);
        }
        for bad in ["", "a", "./a", "/a\0b"] {
            assert!(clean_path("x", bad).is_err(), "{bad:?}");
        }
        assert!(destination("x", "/a/..").is_err());
        for bad in ["", "/a", "..", "a/../b", "a/.."] {
            assert!(local_path("x", bad).is_err(), "{bad}");
        }
        assert!(local_path("x", "a/b..c").is_ok());
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("0", 0), ("10", 10), ("10b", 10), ("1k", 1024), ("2MB", 2 << 20), ("3 gib", 3 << 30)]
        {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for bad in ["", "k", "-1", "1.5m", "50%", "1x", "99999999999999t"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn macs() {
        assert_eq!(mac("x", "02-42-AC-11-00-02").unwrap().unwrap(), "02:42:ac:11:00:02");
        assert_eq!(mac("x", "").unwrap(), None);
        for bad in ["02:42", "02:42:ac:11:00:0g", "02:42:ac:11:00:002", "0242ac110002"] {
            assert!(mac("x", bad).is_err(), "{bad}");
        }
    }
}
