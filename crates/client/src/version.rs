//! API versions: `1.41` and the like.

use std::fmt;
use std::str::FromStr;

/// A version of the API, ordered by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    /// Before the dot.
    pub major: u16,
    /// After it.
    pub minor: u16,
}

/// A text that is not `MAJOR.MINOR`.
#[derive(Debug, thiserror::Error)]
#[error("invalid API version {0:?}: want MAJOR.MINOR, as 1.41")]
pub struct InvalidVersion(String);

impl ApiVersion {
    /// The newest version that this client speaks.
    pub const NEWEST: Self = Self { major: 1, minor: 51 };
    /// What a daemon that does not name its version speaks: such daemons predate negotiation.
    pub const OLDEST: Self = Self { major: 1, minor: 24 };
}

impl FromStr for ApiVersion {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let number = |digits: &str| digits.parse::<u16>().ok();
        text.strip_prefix('v')
            .unwrap_or(text)
            .split_once('.')
            .and_then(|(major, minor)| Some(Self { major: number(major)?, minor: number(minor)? }))
            .ok_or_else(|| InvalidVersion(text.chars().take(32).collect()))
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_by_number_not_by_text() {
        let of = |text: &str| text.parse::<ApiVersion>().unwrap();
        assert!(of("1.9") < of("1.41"));
        assert_eq!(of("v1.24").to_string(), "1.24");
        for bad in ["", "1", "1.x", "1.2.3", "-1.2"] {
            assert!(bad.parse::<ApiVersion>().is_err(), "{bad}");
        }
    }
}
