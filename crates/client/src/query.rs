//! Query strings and path segments.

use std::fmt::Write as _;

use pouch_docker_types::Filters;

/// Parameters of a request, in the order in which they were added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(String);

impl Query {
    /// No parameters.
    #[must_use]
    pub const fn new() -> Self {
        Self(String::new())
    }

    /// Adds `key=value`.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        escape(&mut self.0, key, Place::Query);
        self.0.push('=');
        escape(&mut self.0, value, Place::Query);
        self
    }

    /// Adds `key=value` unless the value is empty, which the API reads as absent.
    #[must_use]
    pub fn with_text(self, key: &str, value: &str) -> Self {
        if value.is_empty() { self } else { self.with(key, value) }
    }

    /// Adds `key=1` when the switch is on.
    #[must_use]
    pub fn with_switch(self, key: &str, on: bool) -> Self {
        if on { self.with(key, "1") } else { self }
    }

    /// Adds a number.
    #[must_use]
    pub fn with_number(self, key: &str, value: Option<i64>) -> Self {
        match value {
            Some(number) => self.with(key, &number.to_string()),
            None => self,
        }
    }

    /// Adds the filters unless there are none.
    #[must_use]
    pub fn with_filters(self, filters: &Filters) -> Self {
        if filters.is_empty() { self } else { self.with("filters", &filters.encode()) }
    }

    /// The text after `?`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where escaped text will stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a path; slashes stay, since image names have them.
    Path,
    /// In a query; a space becomes a plus.
    Query,
}

/// Percent-encodes `text` (RFC 3986, section 2.1) onto `out`.
pub(crate) fn escape(out: &mut String, text: &str, place: Place) {
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b'.' | b'~')
            || (place == Place::Path && matches!(byte, b'/' | b':' | b'@'));
        if plain {
            out.push(char::from(byte));
        } else if byte == b' ' && place == Place::Query {
            out.push('+');
        } else {
            // Writing into a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// One path segment or image name, escaped.
pub(crate) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    escape(&mut out, text, Place::Path);
    // `..` as a name would leave the collection once a proxy normalises the path.
    if out.split('/').any(|part| part == ".." || part == ".") {
        out = out.replace('.', "%2E");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_escape_as_forms() {
        let query = Query::new()
            .with("name", "a b&c=d/é")
            .with_text("empty", "")
            .with_switch("force", true)
            .with_switch("off", false)
            .with_number("t", Some(-1));
        assert_eq!(query.as_str(), "name=a+b%26c%3Dd%2F%C3%A9&force=1&t=-1");
    }

    #[test]
    fn names_cannot_leave_their_collection() {
        assert_eq!(segment("library/x:1.0@sha256:aa"), "library/x:1.0@sha256:aa");
        assert_eq!(segment("a?b#c"), "a%3Fb%23c");
        assert_eq!(segment("../json"), "%2E%2E/json");
    }
}
