//! Root file systems of containers: overlay over one directory per layer.
//!
//! ```text
//! <root>/l/<n>            a layer, keyed by diffID in the store; complete when its row exists
//! <root>/c/<container>/   fs (upper), work, lower (the layers, bottom first)
//! <root>/s/<random>       a layer that is being unpacked
//! <root>/t/<random>       waits for deletion in the background
//! <state>/l               link to <root>/l, so that 127 layers fit into one page of options
//! ```
//!
//! A layer directory knows nothing of the layers below it, so all layers of an image unpack at the
//! same time and a layer is shared by every image that has it. Whatever lies in `l`, `c`, `s` or
//! `t` without a row or a record of its own was left by a crash and goes at the next opening; the
//! order is always: data on the disk, rename, row.
//!
//! Foreign bytes are read by `pouch-unpack` only ([`archive`]); this process sees digests and
//! counts. A container costs no write to the store: its layers are told by its `lower` file and by
//! the engine's own record.

#![forbid(unsafe_code)]

pub mod archive;
mod changes;
mod container;
mod error;
mod layer;
mod layout;
mod mount;
mod reaper;
mod roots;
mod rounds;
mod subpath;
mod usage;

pub use archive::{ArchiveReader, CopyReport, PathStat, PutOptions, PutReport, Replace, Unpacker};
pub use changes::{Change, ChangeKind, changes_in};
pub use error::{Result, SnapshotError};
pub use layer::{LayerInfo, SCHEMA};
pub use layout::{SnapshotConfig, Snapshotter};
pub use mount::{MountEntry, open_mounts};
pub use roots::{DiffReader, Roots};
pub use subpath::below;
pub use usage::Usage;

use std::collections::BTreeMap;

/// Checks `--storage-opt`.
///
/// # Errors
/// [`SnapshotError::StorageOption`] names the first option that cannot be honoured.
pub fn validate_storage_opts(options: &BTreeMap<String, String>) -> Result<()> {
    match options.keys().next() {
        None => Ok(()),
        Some(name) if name == "size" => Err(SnapshotError::StorageOption {
            name: name.clone(),
            reason: "a quota per container is not supported by this storage",
        }),
        Some(name) => Err(SnapshotError::StorageOption {
            name: name.clone(),
            reason: "no such option for overlay",
        }),
    }
}
