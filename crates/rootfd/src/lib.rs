//! Paths of containers, images and volumes, touched by file descriptor only.
//!
//! Whatever lies below such a root was written by somebody else: any component may be a symbolic
//! link to anywhere, and a running container may swap it between two system calls. So nothing here
//! resolves a path twice. [`RootFd`] holds the root directory; `openat2(2)` with
//! `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS` turns a path into a [`PinnedFd`] in one step that the
//! kernel confines to the root; everything after that acts on the descriptor, or on one validated
//! name directly below a pinned directory without following it.
//!
//! Absolute paths and absolute link targets start at the root, and `..` stops there.
//!
//! Linux 5.6 or newer is needed; an older kernel gives [`Error::KernelTooOld`], never a weaker
//! resolution. `/proc` must be mounted for the few operations that the kernel offers only by path
//! (`chmod`, extended attributes and reopening of an `O_PATH` descriptor); the magic link
//! `/proc/self/fd/N` leads to the pinned object itself, so nothing is resolved there either.

#![forbid(unsafe_code)]

mod dir;
mod error;
mod file;
mod metadata;
mod pinned;
mod remove;
mod root;

pub use dir::{DirEntry, ReadDir};
pub use error::{Error, Result};
pub use file::BoundedFile;
pub use metadata::{FileTime, FileType, Metadata};
pub use pinned::PinnedFd;
pub use root::RootFd;
