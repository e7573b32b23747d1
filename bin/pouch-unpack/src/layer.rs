//! `layer`: a layer blob becomes a directory that overlayfs takes as a lower layer.
//!
//! The directory knows nothing of the layers below it, so all layers of an image unpack at the
//! same time. OCI whiteouts become overlay's: `.wh.x` a character device 0:0 named `x`,
//! `.wh..wh..opq` the attribute `trusted.overlay.opaque`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use pouch_rootfd::{FileType, PinnedFd, RootFd};
use serde::Serialize;

use crate::extract::{EntryPath, Extractor, Limits, Ownership, Replace};
use crate::failure::{Failure, Result};
use crate::limits::ENTRY_OVERHEAD;
use crate::stream::{ArchiveStream, Hashing};
use crate::tar::{Entry, Kind, TarReader};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names of this form were aufs' own bookkeeping; Docker skips them too.
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// What was unpacked.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Of the bytes on standard input, unless the caller knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    compressed_size: u64,
    /// Of the uncompressed tar.
    diff_id: String,
    /// Sum of the sizes of the files.
    size: u64,
    entries: u64,
    /// The layer hides everything below it, which overlayfs does not do for the top directory.
    opaque_root: bool,
}

/// Applies the blob on standard input to the empty directory `root`.
pub(crate) fn apply(root: &RootFd, limits: Limits, hashing: Hashing) -> Result<Report> {
    if root.read_dir("/")?.next().is_some() {
        return Err(Failure::Refused("the directory for a layer is not empty".into()));
    }
    let read = |source| Failure::Io { what: "read archive", source };
    // Padding between small files is not content: the stream may be longer than the files are.
    let stream_limit = limits.bytes.saturating_add(limits.entries.saturating_mul(ENTRY_OVERHEAD));
    let mut stream =
        ArchiveStream::open(stream_limit, hashing).map_err(|e| read(e).behind(None))?;
    let extractor =
        Extractor::new(root, Path::new("/"), Ownership::Archive, Replace::Anything, limits);
    let mut layer = Layer { extractor, opaque_root: false };
    let mut reader = TarReader::new(&mut stream);
    while let Some(entry) = reader.next_entry()? {
        layer.entry(&entry, &mut reader).map_err(|failure| failure.at(&entry.path))?;
    }
    let last = reader.into_name();
    let sums = stream.finish().map_err(|e| read(e).behind(last))?;
    let Layer { extractor, opaque_root } = layer;
    let (size, entries) = (extractor.bytes, extractor.entries);
    extractor.finish()?;
    Ok(Report {
        digest: sums.digest.map(|digest| digest.to_string()),
        compressed_size: sums.compressed,
        diff_id: sums.diff_id.to_string(),
        size,
        entries,
        opaque_root,
    })
}

struct Layer<'a> {
    extractor: Extractor<'a>,
    opaque_root: bool,
}

impl Layer<'_> {
    fn entry<R: std::io::BufRead>(&mut self, entry: &Entry, data: &mut TarReader<R>) -> Result<()> {
        self.extractor.count(entry)?;
        let path = EntryPath::clean(&entry.path)?;
        if path.is_root() {
            if entry.kind != Kind::Directory {
                return Err(Failure::Refused("the root of a layer is a directory".into()));
            }
            let root = self.extractor.directory(&path)?;
            return self.extractor.directory_attributes(&root.dir, &path, entry);
        }
        let mut parts = path.components().rev();
        let name = parts.next().unwrap_or_default();
        if path.components().any(|part| part.starts_with(AUFS) && part != OPAQUE) {
            return Ok(());
        }
        if parts.any(|part| part.starts_with(WHITEOUT)) {
            return Err(Failure::Refused("a directory has the name of a whiteout".into()));
        }
        if name == OPAQUE {
            let parent = path.parent();
            self.opaque_root |= parent.is_root();
            return make_opaque(&self.extractor.directory(&parent)?.dir);
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(&path.parent(), OsStr::from_bytes(hidden));
        }
        let was_hidden = entry.kind == Kind::Directory && self.is_hidden(&path)?;
        self.extractor.make(&path, entry, data)?;
        if was_hidden {
            // A whiteout or a file `d` and then `d/`: the new directory must not show what the
            // one below holds.
            let parent = self.extractor.directory(&path.parent())?;
            make_opaque(&parent.dir.pin_dir(path.name())?)?;
        }
        Ok(())
    }

    fn whiteout(&mut self, parent: &EntryPath, name: &OsStr) -> Result<()> {
        if name.is_empty() || name == "." || name == ".." {
            return Err(Failure::Refused("a whiteout names no file".into()));
        }
        let parent = self.extractor.directory(parent)?;
        match parent.dir.metadata_of(name) {
            // Whiteouts speak of the layers below; what this layer brings itself stays.
            Ok(there) if there.is_dir() => make_opaque(&parent.dir.pin_dir(name)?),
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => {
                Ok(parent.dir.mknod(name, FileType::CharacterDevice, 0, (0, 0))?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether what the layer brought at `path` until now hides a directory of the layers below.
    fn is_hidden(&mut self, path: &EntryPath) -> Result<bool> {
        let parent = self.extractor.directory(&path.parent())?;
        match parent.dir.metadata_of(path.name()) {
            Ok(there) => Ok(!there.is_dir()),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn make_opaque(dir: &PinnedFd) -> Result<()> {
    Ok(dir.set_xattr(OPAQUE_XATTR, b"y")?)
}
