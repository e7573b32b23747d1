//! How the host's mounts propagate, for binds that want it.
//!
//! A bind mount that is to pass mounts to the host (`rshared`) or to receive the host's
//! (`rslave`) does so only if the mount that its source lies on is in a peer group, or has a
//! master. The kernel takes the request all the same, so it is looked up beforehand, as Docker and
//! Kubernetes' runtimes do.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::context::SourcePropagation;

/// Bytes of mountinfo; a line for each mount of the machine.
const LIMIT: u64 = 64 << 20;

impl SourcePropagation {
    /// That of the mount which `path` lies on, symbolic links resolved, in the caller's mount
    /// namespace.
    ///
    /// # Errors
    /// When `path` does not exist, or /proc is not there.
    pub fn of(path: &Path) -> io::Result<Self> {
        let path = std::fs::canonicalize(path)?;
        let mut text = Vec::new();
        File::open("/proc/self/mountinfo")?.take(LIMIT).read_to_end(&mut text)?;
        Ok(find(&text, &path))
    }
}

/// The longest mount point above `path`; of several on one another, the last.
fn find(mountinfo: &[u8], path: &Path) -> SourcePropagation {
    let mut found = (0, SourcePropagation::Unknown);
    for line in mountinfo.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ');
        let Some(point) = fields.nth(4).map(unescape) else { continue };
        let point = Path::new(std::ffi::OsStr::from_bytes(&point));
        let depth = point.components().count();
        if depth < found.0 || !path.starts_with(point) {
            continue;
        }
        let mut propagation = SourcePropagation::Private;
        // Behind the options, up to a dash. One that is both passes on.
        for tag in fields.skip(1).take_while(|tag| *tag != b"-") {
            if tag.starts_with(b"shared:") {
                propagation = SourcePropagation::Shared;
            } else if tag.starts_with(b"master:") && propagation == SourcePropagation::Private {
                propagation = SourcePropagation::Slave;
            }
        }
        found = (depth, propagation);
    }
    found.1
}

/// mountinfo writes blanks and backslashes as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, behind)) = rest.split_first() {
        let code = behind
            .get(..3)
            .filter(|_| *byte == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(code) => {
                text.push(code);
                rest = &behind[3..];
            }
            None => {
                text.push(*byte);
                rest = behind;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_and_last_mount_counts() {
        let mountinfo = b"1 0 0:1 / / rw shared:1 - ext4 x rw\n\
            2 1 0:2 / /a rw - tmpfs x rw\n\
            3 1 0:3 / /a\\040b rw,nosuid master:1 - tmpfs x rw\n\
            4 3 0:4 / /a\\040b/c rw shared:9 master:1 - tmpfs x rw\n\
            5 2 0:5 / /top rw shared:3 - tmpfs x rw\n\
            6 5 0:6 / /top rw - tmpfs x rw\n";
        let of = |path: &str| find(mountinfo, Path::new(path));
        assert_eq!(of("/home/x"), SourcePropagation::Shared);
        assert_eq!(of("/a/x"), SourcePropagation::Private);
        assert_eq!(of("/a b/x"), SourcePropagation::Slave);
        assert_eq!(of("/a b/c"), SourcePropagation::Shared);
        assert_eq!(of("/top/x"), SourcePropagation::Private);
        assert_eq!(find(b"", Path::new("/")), SourcePropagation::Unknown);
    }

    #[test]
    fn this_machine_says_something() {
        assert_ne!(SourcePropagation::of(Path::new("/")).unwrap(), SourcePropagation::Unknown);
        assert!(SourcePropagation::of(Path::new("/no/such/path")).is_err());
    }
}
