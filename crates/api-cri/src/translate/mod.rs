//! The words of the contract and those of the engine, both ways.

pub(crate) mod container;
pub(crate) mod image;
pub(crate) mod mount;
pub(crate) mod pod;
pub(crate) mod resources;
pub(crate) mod security;
pub(crate) mod signal;

use std::collections::BTreeMap;
use std::hash::BuildHasher;

/// Nanoseconds since 1970, as the contract has times; 0 is never.
pub(crate) fn nanoseconds(at: Option<jiff::Timestamp>) -> i64 {
    at.map_or(0, |at| i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX))
}

/// Whether all of `wanted` are among `labels`.
pub(crate) fn selects<S: BuildHasher>(
    wanted: &std::collections::HashMap<String, String, S>,
    labels: &BTreeMap<String, String>,
) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// An absolute path without `.`, `..` and doubled slashes; `None` for a relative one or one that
/// leaves the root.
pub(crate) fn clean_path(path: &str) -> Option<String> {
    if path.contains('\0') {
        return None;
    }
    let rest = path.strip_prefix('/')?;
    let mut parts: Vec<&str> = Vec::new();
    for part in rest.split('/') {
        match part {
            "" | "." => {}
            // Above the root there is the root.
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Some(format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_the_kernel_reads_them() {
        for (path, clean) in
            [("/a//b/./c/", "/a/b/c"), ("/a/../b", "/b"), ("/../..", "/"), ("/", "/")]
        {
            assert_eq!(clean_path(path).as_deref(), Some(clean), "{path}");
        }
        for path in ["", "a/b", "./a", "/a\0b"] {
            assert_eq!(clean_path(path), None, "{path:?}");
        }
    }
}
