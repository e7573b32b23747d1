//! Bounded reads and single writes of the kernel's small text files.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use crate::error::Error;

/// Bytes of the largest file of numbers; `memory.numa_stat` of a 1024-node machine fits.
const STAT_CAP: u64 = 1 << 20;
/// Bytes of a list of processes: four million pids, the kernel's PID_MAX_LIMIT.
pub(crate) const PROCS_CAP: u64 = 32 << 20;

fn read_capped(path: &Path, cap: u64) -> Result<String, Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut text = String::new();
    file.take(cap + 1).read_to_string(&mut text).map_err(Error::io("read", path))?;
    if text.len() as u64 > cap {
        return Err(Error::malformed(path, format!("more than {cap} bytes")));
    }
    Ok(text)
}

pub(crate) fn read(path: &Path) -> Result<String, Error> {
    read_capped(path, STAT_CAP)
}

pub(crate) fn read_procs(path: &Path) -> Result<String, Error> {
    read_capped(path, PROCS_CAP)
}

/// The file's text, or `None` where this kernel or hierarchy has no such file, or the group went
/// away meanwhile (ENODEV), or the statistic is switched off (EOPNOTSUPP).
pub(crate) fn read_optional(path: &Path) -> Result<Option<String>, Error> {
    present(read(path))
}

/// As [`read_optional`] of a list of processes.
pub(crate) fn read_procs_optional(path: &Path) -> Result<Option<String>, Error> {
    present(read_procs(path))
}

fn present(read: Result<String, Error>) -> Result<Option<String>, Error> {
    match read {
        Ok(text) => Ok(Some(text)),
        Err(Error::Io { source, .. }) if is_absent(&source) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn is_absent(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::NOTDIR | Errno::NODEV | Errno::OPNOTSUPP)
    )
}

/// One `write(2)`: the kernel parses each call on its own.
pub(crate) fn write(path: &Path, value: &str) -> Result<(), Error> {
    let mut file = OpenOptions::new().write(true).open(path).map_err(Error::io("open", path))?;
    file.write_all(value.as_bytes()).map_err(Error::io("write", path))
}

/// A number alone in a file; `max` and the v1 page counter's ceiling are `None`.
pub(crate) fn parse_limit(text: &str) -> Option<Option<u64>> {
    let text = text.trim();
    if text == "max" {
        return Some(None);
    }
    text.parse().ok().map(|value| (value < UNLIMITED).then_some(value))
}

/// v1 reports "no limit" as the largest page-aligned i64; the page size varies, so anything
/// above an exbibyte times four counts as none.
const UNLIMITED: u64 = 1 << 62;

pub(crate) fn number(path: &Path) -> Result<Option<u64>, Error> {
    let Some(text) = read_optional(path)? else { return Ok(None) };
    match text.trim().parse() {
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(Error::malformed(path, format!("{:?}", shorten(&text)))),
    }
}

/// `None`: no such file. `Some(None)`: unlimited.
pub(crate) fn limit(path: &Path) -> Result<Option<Option<u64>>, Error> {
    let Some(text) = read_optional(path)? else { return Ok(None) };
    match parse_limit(&text) {
        Some(limit) => Ok(Some(limit)),
        None => Err(Error::malformed(path, format!("{:?}", shorten(&text)))),
    }
}

/// Lines of `key value`; what does not parse as a number is left out.
pub(crate) fn flat(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.trim().parse().ok()?))
    })
}

/// One value out of `key value` lines.
pub(crate) fn flat_value(text: &str, key: &str) -> Option<u64> {
    flat(text).find(|(name, _)| *name == key).map(|(_, value)| value)
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        assert_eq!(parse_limit("max\n"), Some(None));
        assert_eq!(parse_limit("9223372036854771712\n"), Some(None));
        assert_eq!(parse_limit("9223372036854710272\n"), Some(None));
        assert_eq!(parse_limit("1048576\n"), Some(Some(1_048_576)));
        assert_eq!(parse_limit("many"), None);
    }

    #[test]
    fn reads_stop_at_the_cap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big");
        std::fs::write(&path, "1234567890").unwrap();
        assert_eq!(read_capped(&path, 10).unwrap(), "1234567890");
        assert!(matches!(read_capped(&path, 9), Err(Error::Malformed { .. })));
    }

    #[test]
    fn absent_is_not_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_optional(&dir.path().join("no")).unwrap(), None);
        assert_eq!(number(&dir.path().join("no")).unwrap(), None);
    }
}
