//! `put`: extracts an archive into a directory of a container, as Docker's PUT archive does.

use std::path::Path;

use pouch_rootfd::RootFd;
use serde::Serialize;

use crate::extract::{EntryPath, Extractor, Limits, Ownership, Replace};
use crate::failure::{Failure, Result};
use crate::limits::ENTRY_OVERHEAD;
use crate::stream::{ArchiveStream, Hashing};
use crate::tar::{Kind, TarReader};

/// What was extracted.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    entries: u64,
    /// Sum of the sizes of the files.
    size: u64,
}

/// Extracts standard input into the directory `path` of `root`.
pub(crate) fn extract(
    root: &RootFd,
    path: &Path,
    ownership: Ownership,
    replace: Replace,
    limits: Limits,
) -> Result<Report> {
    let path = Path::new("/").join(path);
    if !root.metadata(&path)?.is_dir() {
        return Err(Failure::NotADirectory(path.display().to_string()));
    }
    let read = |source| Failure::Io { what: "read archive", source };
    let stream_limit = limits.bytes.saturating_add(limits.entries.saturating_mul(ENTRY_OVERHEAD));
    let mut stream =
        ArchiveStream::open(stream_limit, Hashing::Off).map_err(|e| read(e).behind(None))?;
    let mut extractor = Extractor::new(root, &path, ownership, replace, limits);
    let mut reader = TarReader::new(&mut stream);
    while let Some(entry) = reader.next_entry()? {
        let mut step = || {
            extractor.count(&entry)?;
            let to = EntryPath::clean(&entry.path)?;
            match (to.is_root(), entry.kind) {
                (false, _) => extractor.make(&to, &entry, &mut reader),
                // The directory itself is not the archive's to change.
                (true, Kind::Directory) => Ok(()),
                (true, _) => Err(Failure::Refused("the archive's root is not a directory".into())),
            }
        };
        step().map_err(|failure| failure.at(&entry.path))?;
    }
    // The sender must not meet a closed pipe before it has sent its padding.
    let last = reader.into_name();
    stream.finish().map_err(|e| read(e).behind(last))?;
    let report = Report { entries: extractor.entries, size: extractor.bytes };
    extractor.finish()?;
    Ok(report)
}
