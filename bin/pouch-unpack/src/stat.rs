//! `stat`, and how Docker reads a path of a container.
//!
//! `GET` and `HEAD archive` follow links in the directory part. The last component is the link
//! itself, unless the path ends in `/` or `/.`, which asks for what it leads to.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use pouch_rootfd::{FileTime, FileType, Metadata, PinnedFd, RootFd};
use serde::Serialize;

use crate::failure::{Failure, Result};

/// Links that are followed before a path counts as a loop, as in the kernel.
const MAX_LINKS: u32 = 40;

/// A path as a request gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DockerPath {
    /// Absolute and cleaned as text, without a trailing slash or dot.
    clean: PathBuf,
    ending: Ending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Name,
    Slash,
    Dot,
}

impl DockerPath {
    pub(crate) fn parse(path: &Path) -> Self {
        let text = path.as_os_str().as_bytes();
        let ending = if text.ends_with(b"/.") || text == b"." {
            Ending::Dot
        } else if text.ends_with(b"/") {
            Ending::Slash
        } else {
            Ending::Name
        };
        let mut clean = PathBuf::from("/");
        for component in path.components() {
            match component {
                Component::Normal(name) => clean.push(name),
                Component::ParentDir => {
                    clean.pop();
                }
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Self { clean, ending }
    }

    /// Pins what the path means.
    pub(crate) fn pin(&self, root: &RootFd) -> Result<PinnedFd> {
        if self.clean == Path::new("/") {
            return Ok(root.pin()?);
        }
        if self.ending == Ending::Name {
            return Ok(root.resolve_nofollow(&self.clean)?);
        }
        let pinned = root.resolve(&self.clean)?;
        if pinned.metadata()?.is_dir() {
            Ok(pinned)
        } else {
            Err(Failure::NotADirectory(self.clean.display().to_string()))
        }
    }

    /// The last component as it was asked for.
    pub(crate) fn base(&self) -> &OsStr {
        match (self.ending, self.clean.file_name()) {
            (_, None) => OsStr::new("/"),
            (Ending::Dot, _) => OsStr::new("."),
            (Ending::Name | Ending::Slash, Some(name)) => name,
        }
    }
}

/// Docker's `X-Docker-Container-Path-Stat`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PathStat {
    name: String,
    size: u64,
    /// Go's `os.FileMode`.
    mode: u32,
    mtime: String,
    link_target: String,
}

/// Describes `path` of `root`.
pub(crate) fn stat(root: &RootFd, path: &Path) -> Result<PathStat> {
    let asked = DockerPath::parse(path);
    let meta = asked.pin(root)?.metadata()?;
    let link_target = if meta.file_type() == FileType::Symlink {
        follow(root, &asked.clean)?.to_string_lossy().into_owned()
    } else {
        String::new()
    };
    Ok(PathStat {
        name: asked.base().to_string_lossy().into_owned(),
        size: meta.size(),
        mode: go_mode(&meta),
        mtime: rfc3339(meta.modified()),
        link_target,
    })
}

/// Where the link `path` ends, as an absolute path in the root. For display: what it names may be
/// missing, and nothing is opened by it.
fn follow(root: &RootFd, path: &Path) -> Result<PathBuf> {
    let mut todo: Vec<OsString> = parts(path.as_os_str());
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = todo.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        let target = match root.read_link(&next) {
            Ok(target) => target,
            // Not a link, or nothing there.
            Err(_) => {
                at = next;
                continue;
            }
        };
        links += 1;
        if links > MAX_LINKS {
            return Err(Failure::Refused("too many levels of symbolic links".into()));
        }
        if target.as_bytes().starts_with(b"/") {
            at = PathBuf::from("/");
        }
        todo.extend(parts(&target));
    }
    Ok(at)
}

/// The components of a path, last one first.
fn parts(path: &OsStr) -> Vec<OsString> {
    let mut parts: Vec<_> = path
        .as_bytes()
        .split(|byte| *byte == b'/')
        .filter(|part| !matches!(*part, b"" | b"."))
        .map(|part| OsString::from_vec(part.to_vec()))
        .collect();
    parts.reverse();
    parts
}

/// The bits of Go's `os.FileMode`.
fn go_mode(meta: &Metadata) -> u32 {
    let kind = match meta.file_type() {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        FileType::RegularFile => 0,
        FileType::Unknown => 1 << 19,
    };
    let mode = meta.mode();
    let bit = |unix: u32, go: u32| if mode & unix == 0 { 0 } else { 1 << go };
    kind | mode & 0o777 | bit(0o4000, 23) | bit(0o2000, 22) | bit(0o1000, 20)
}

/// UTC, with as many digits of the second as it needs, as Go's `RFC3339Nano`.
fn rfc3339(time: FileTime) -> String {
    let (days, second) = (time.seconds.div_euclid(86_400), time.seconds.rem_euclid(86_400));
    // Civil date from days (H. Hinnant's algorithm): years begin in March, eras have 400 years.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let fraction = match time.nanoseconds {
        0 => String::new(),
        n => format!(".{n:09}").trim_end_matches('0').to_owned(),
    };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let at = |seconds, nanoseconds| rfc3339(FileTime { seconds, nanoseconds });
        assert_eq!(at(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_400, 0), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_709_251_199, 500_000_000), "2024-02-29T23:59:59.5Z");
        assert_eq!(at(1_700_000_000, 1), "2023-11-14T22:13:20.000000001Z");
        assert_eq!(at(-1, 0), "1969-12-31T23:59:59Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn endings_decide_what_is_meant() {
        let base = |text: &str| DockerPath::parse(Path::new(text)).base().to_owned();
        for (text, want) in [
            ("/", "/"),
            ("/.", "/"),
            ("/a/b", "b"),
            ("a/b/", "b"),
            ("/a/b/.", "."),
            ("/a/../c", "c"),
            ("/../..", "/"),
            (".", "/"),
        ] {
            assert_eq!(base(text), want, "{text}");
        }
    }
}
