//! API versions, the `/v1.43` prefix and the range that is served.

use std::convert::Infallible;
use std::fmt;

use axum::extract::FromRequestParts;
use http::request::Parts;

/// A version of the Docker API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    major: u16,
    minor: u16,
}

impl ApiVersion {
    /// The newest that is served, and the one of paths without a prefix.
    pub const MAX: Self = Self { major: 1, minor: 51 };
    /// The oldest that is served.
    pub const MIN: Self = Self { major: 1, minor: 24 };

    /// Below `1.{minor}`.
    #[must_use]
    pub const fn below(self, minor: u16) -> bool {
        self.major < 1 || (self.major == 1 && self.minor < minor)
    }

    /// Parses `1.43`.
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        let number = |digits: &str| {
            (digits.len() <= 4 && digits.bytes().all(|b| b.is_ascii_digit()))
                .then(|| digits.parse::<u16>().ok())
                .flatten()
        };
        Some(Self { major: number(major)?, minor: number(minor)? })
    }

    /// Takes the prefix off a path. Without one the version is [`ApiVersion::MAX`].
    ///
    /// # Errors
    /// When the version is outside the range served; the text is dockerd's.
    pub(crate) fn strip(path: &str) -> Result<(Self, &str), String> {
        let unprefixed = (Self::MAX, path);
        let Some(rest) = path.strip_prefix("/v") else { return Ok(unprefixed) };
        let (version, rest) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        let Some(version) = Self::parse(version) else { return Ok(unprefixed) };
        if version < Self::MIN {
            return Err(format!(
                "client version {version} is too old. Minimum supported API version is {}, \
                 please upgrade your client to a newer version",
                Self::MIN
            ));
        }
        if version > Self::MAX {
            return Err(format!(
                "client version {version} is too new. Maximum supported API version is {}",
                Self::MAX
            ));
        }
        Ok((version, rest))
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl<S: Sync> FromRequestParts<S> for ApiVersion {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().copied().unwrap_or(Self::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let strip = ApiVersion::strip;
        assert_eq!(strip("/info"), Ok((ApiVersion::MAX, "/info")));
        assert_eq!(strip("/v1.41/info"), Ok((ApiVersion { major: 1, minor: 41 }, "/info")));
        assert_eq!(strip("/v1.24"), Ok((ApiVersion::MIN, "/")));
        assert_eq!(strip("/version"), Ok((ApiVersion::MAX, "/version")));
        assert_eq!(strip("/volumes/v1.41/x"), Ok((ApiVersion::MAX, "/volumes/v1.41/x")));
        assert_eq!(strip("/v1.41.1/info"), Ok((ApiVersion::MAX, "/v1.41.1/info")));
        assert_eq!(strip("/v1.99999/x"), Ok((ApiVersion::MAX, "/v1.99999/x")));
        assert!(strip("/v1.23/info").unwrap_err().contains("client version 1.23 is too old"));
        assert!(strip("/v1.52/info").unwrap_err().contains("client version 1.52 is too new"));
        assert!(strip("/v2.0/info").unwrap_err().contains("too new"));
        assert!(strip("/v0.99/info").unwrap_err().contains("too old"));
    }

    #[test]
    fn order_is_by_number() {
        let old = ApiVersion { major: 1, minor: 9 };
        assert!(old < ApiVersion::MIN && old.below(10) && !ApiVersion::MIN.below(24));
        assert!(!ApiVersion { major: 2, minor: 0 }.below(60));
    }
}
