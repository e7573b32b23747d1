//! Every bound on what a foreign archive may make this program read, keep or do.
//!
//! The bounds of what surrounds layers (manifests, configurations, the archive of `load`) stand in
//! `pouch-image`. What exceeds one is refused by name; nothing is cut silently.

/// Bytes: the sum of the logical sizes of the files, unless `--max-bytes` says otherwise. Larger
/// than any image that is in use, smaller than most disks.
pub(crate) const BYTES: u64 = 64 << 30;
/// Entries, unless `--max-entries` says otherwise. A full distribution has 400,000.
pub(crate) const ENTRIES: u64 = 4_000_000;
/// Bytes of tar for each entry besides its content: header, padding, an extended header.
pub(crate) const ENTRY_OVERHEAD: u64 = 1024;
/// How many times longer a stream may become, once [`RATIO_FLOOR`] has passed. Deflate ends at
/// 1032, which only one byte repeated reaches; programs and data stay below 20.
pub(crate) const RATIO: u64 = 512;
/// Unpacked bytes below which the ratio says nothing: images with an empty disk or swap file of
/// this size exist.
pub(crate) const RATIO_FLOOR: u64 = 4 << 30;
/// Bytes of memory of the xz decoder: `xz -9` needs 65 MiB.
pub(crate) const XZ_MEMORY: u64 = 256 << 20;
/// Logarithm of the largest zstd window: 128 MiB, what `zstd --ultra -22` writes.
pub(crate) const ZSTD_WINDOW_LOG: u32 = 27;
/// Bytes of one extended header or long name; as Go's reader, so that no image works there and not
/// here.
pub(crate) const EXTENSION: u64 = 1 << 20;
/// Extended headers before one entry: writers need at most three.
pub(crate) const EXTENSIONS: u32 = 16;
/// Extended attributes of one entry. The kernel's list of their names ends at 64 KiB, file systems
/// end sooner.
pub(crate) const XATTRS: usize = 1000;
/// Bytes of an attribute's name: the kernel's `XATTR_NAME_MAX`.
pub(crate) const XATTR_NAME: usize = 255;
/// Bytes of an attribute's value: the kernel's `XATTR_SIZE_MAX`.
pub(crate) const XATTR_VALUE: usize = 64 << 10;
/// Stored runs of one sparse file; a file with more holes than this is no accident.
pub(crate) const SEGMENTS: usize = 1 << 16;
/// Largest device number that `mknod(2)` takes: it drops the bits above without a word, which would
/// make another device of it.
pub(crate) const DEVICE_MAJOR: u32 = 0xfff;
/// As [`DEVICE_MAJOR`].
pub(crate) const DEVICE_MINOR: u32 = 0xf_ffff;
/// Bytes of directory names that are kept, because a directory's time is set when all is in it.
pub(crate) const DIRECTORY_NAMES: u64 = 512 << 20;
/// Parent directories that are kept open.
pub(crate) const PARENTS: usize = 256;
/// Bytes of address space (`RLIMIT_AS`): decoders need 256 MiB, names [`DIRECTORY_NAMES`].
pub(crate) const MEMORY: u64 = 2 << 30;
/// Open files (`RLIMIT_NOFILE`). A walk holds two for each level, and the longest path that can be
/// named has 2048.
pub(crate) const FILES: u64 = 8192;
