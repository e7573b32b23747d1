//! Image references as people write them, normalised as Docker does:
//! `busybox` is `docker.io/library/busybox:latest`.
//!
//! Grammar: distribution's `reference` package (distribution/reference v0.6).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Classified, ErrorKind};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
/// Total length of domain and path, as the registry protocol limits it.
const NAME_MAX: usize = 255;

/// A complete reference: domain, path and a tag or a digest (or both).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A string that is no image reference.
#[derive(Debug, thiserror::Error)]
#[error("invalid reference format: {text:?}: {why}")]
pub struct InvalidReference {
    text: String,
    why: &'static str,
}

impl Classified for InvalidReference {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl ImageRef {
    /// Registry host, with port if any: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Repository below the registry: `library/busybox`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag; `latest` was filled in when neither tag nor digest was given.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when the reference is pinned.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `domain/path` in full.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The repository as people know it: `busybox`, `localhost:5000/a`.
    #[must_use]
    pub fn familiar_repository(&self) -> String {
        if self.domain == DEFAULT_DOMAIN {
            self.path.strip_prefix(OFFICIAL).unwrap_or(&self.path).to_owned()
        } else {
            self.repository()
        }
    }

    /// The whole reference as people know it: `busybox:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        self.suffixed(self.familiar_repository())
    }

    /// The same repository with another tag and no digest.
    ///
    /// # Errors
    /// When `tag` is not `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`.
    pub fn with_tag(&self, tag: &str) -> Result<Self, InvalidReference> {
        check_tag(tag).map_err(|why| InvalidReference { text: clip(tag), why })?;
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same repository by digest and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    fn suffixed(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

fn clip(text: &str) -> String {
    text.chars().take(120).collect()
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let bytes = tag.as_bytes();
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if bytes.is_empty() || bytes.len() > 128 || !word(bytes[0]) {
        return Err("a tag is [A-Za-z0-9_][A-Za-z0-9_.-]{0,127}");
    }
    if bytes.iter().all(|&b| word(b) || matches!(b, b'.' | b'-')) {
        Ok(())
    } else {
        Err("a tag is [A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
    }
}

/// `[a-z0-9]+` parts joined by one of `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    if !alnum(first) || !alnum(last) {
        return false;
    }
    bytes
        .split(|&b| alnum(b))
        .filter(|run| !run.is_empty())
        .all(|run| matches!(run, b"." | b"_" | b"__") || run.iter().all(|&b| b == b'-'))
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    if port.is_some_and(|p| p.is_empty() || p.len() > 5 || !p.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    if let Some(v6) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return !v6.is_empty() && v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    }
    !host.is_empty()
        && host.split('.').all(|label| {
            let bytes = label.as_bytes();
            let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
            edge(bytes.first())
                && edge(bytes.last())
                && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
        })
}

impl FromStr for ImageRef {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |why| InvalidReference { text: clip(text), why };
        if text.is_empty() {
            return Err(invalid("it is empty"));
        }
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(invalid("64 hex digits are an image id, not a name"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(digest.parse().map_err(|_| invalid("the digest is malformed"))?))
            }
            None => (text, None),
        };
        // The tag's colon comes after the last slash; any earlier one is a port.
        let slash = rest.rfind('/').map_or(0, |i| i + 1);
        let (name, tag) = match rest[slash..].find(':') {
            Some(colon) => (&rest[..slash + colon], Some(&rest[slash + colon + 1..])),
            None => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag).map_err(invalid)?;
        }
        let (domain, path) = match name.split_once('/') {
            Some((first, path))
                if first.contains(['.', ':'])
                    || first == "localhost"
                    || first.bytes().any(|b| b.is_ascii_uppercase()) =>
            {
                (first, path.to_owned())
            }
            _ => (DEFAULT_DOMAIN, name.to_owned()),
        };
        let domain = if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain };
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("{OFFICIAL}{path}")
        } else {
            path
        };
        if !is_domain(domain) {
            return Err(invalid("the registry host is malformed"));
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(invalid("repository name must be lowercase"));
        }
        if !path.split('/').all(is_path_component) {
            return Err(invalid("the repository is malformed"));
        }
        if domain.len() + 1 + path.len() > NAME_MAX {
            return Err(invalid("repository name must not be more than 255 characters"));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Self { domain: domain.to_owned(), path, tag, digest })
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.suffixed(self.repository()))
    }
}

impl TryFrom<String> for ImageRef {
    type Error = InvalidReference;

    fn try_from(text: String) -> Result<Self, InvalidReference> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(reference: ImageRef) -> Self {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn normalises_as_docker_does() {
        for (text, full, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("a/b", "docker.io/a/b:latest", "a/b:latest"),
            ("localhost/b", "localhost/b:latest", "localhost/b:latest"),
            ("localhost:5000/b:1", "localhost:5000/b:1", "localhost:5000/b:1"),
            ("index.docker.io/x", "docker.io/library/x:latest", "x:latest"),
            ("[::1]:5000/x/y", "[::1]:5000/x/y:latest", "[::1]:5000/x/y:latest"),
            ("a__b/c--d.e", "docker.io/a__b/c--d.e:latest", "a__b/c--d.e:latest"),
        ] {
            let parsed: ImageRef = text.parse().unwrap();
            assert_eq!(parsed.to_string(), full);
            assert_eq!(parsed.familiar(), familiar);
        }
        let digest = Digest::of(b"x");
        let pinned: ImageRef = format!("busybox@{digest}").parse().unwrap();
        assert_eq!(pinned.tag(), None);
        assert_eq!(pinned.digest(), Some(&digest));
    }

    #[test]
    fn refuses() {
        for bad in [
            "",
            "Busybox",
            "a//b",
            "../x",
            "a:..",
            "a:",
            "a@sha256:0",
            "a___b",
            "-a",
            "a.",
            ":x",
            "a b",
            "é",
            "a/b:c/d",
            "http://x/y",
            "localhost:/x",
            "a:b:c",
        ] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad}");
        }
        assert!("0".repeat(64).parse::<ImageRef>().is_err());
        assert!("a/".repeat(200).parse::<ImageRef>().is_err());
    }

    proptest! {
        #[test]
        fn what_parses_prints_to_the_same(text in "[a-zA-Z0-9./:@_-]{0,60}") {
            if let Ok(reference) = text.parse::<ImageRef>() {
                prop_assert_eq!(&reference, &reference.to_string().parse::<ImageRef>().unwrap());
                prop_assert_eq!(&reference, &reference.familiar().parse::<ImageRef>().unwrap());
                prop_assert!(!reference.path().contains(".."));
            }
        }
    }
}
