//! Every bound on what an image, an archive or a registry may make us read or keep. The bounds of a
//! layer (entries, names, attributes, memory) are those of `pouch-unpack`, which reads it.

/// Bytes of an image configuration.
pub const CONFIG_BYTES: u64 = 8 << 20;
/// Bytes of a manifest or index, from a registry or in an archive.
pub const MANIFEST_BYTES: u64 = 4 << 20;
/// Layers of one image. Overlay mounts of the kernel stop at 500 lower directories.
pub const LAYERS: usize = 500;
/// Entries in the history of one image; every layer and every metadata step has one.
pub const HISTORY: usize = 4096;
/// Images in one archive, and tags on each.
pub const ARCHIVE_IMAGES: usize = 1024;
/// Entries of the archive that `load` reads (not of the layers within).
pub const ARCHIVE_ENTRIES: usize = 65_536;
/// Bytes of a name in that archive.
pub const ARCHIVE_NAME: usize = 1024;
/// Bytes of an extended header in that archive.
pub const ARCHIVE_HEADER: u64 = 1 << 20;
/// Bytes that one archive, or one layer to import, may unfold to.
pub const ARCHIVE_BYTES: u64 = 256 << 30;
/// How many times longer an archive may become, once [`RATIO_FLOOR`] has passed. Deflate ends at
/// 1032, which only one byte repeated reaches; programs and data stay below 20.
pub const RATIO: u64 = 512;
/// Unpacked bytes below which the ratio says nothing: images with an empty disk or swap file of
/// this size exist.
pub const RATIO_FLOOR: u64 = 4 << 30;
/// Bytes of documents (tables, manifests, configurations) that are read from one archive. Each has
/// a bound of its own, but a table can name the same one a thousand times.
pub const ARCHIVE_DOCUMENTS: u64 = 128 << 20;
/// Links that are followed from one name in that archive.
pub const ARCHIVE_LINKS: usize = 8;
/// Seconds that a client may take for its next bytes of an archive.
pub const INPUT_IDLE_SECONDS: u64 = 600;
/// Layers that are fetched and unpacked at the same time, over all pulls and loads. Each costs a
/// process and a few MiB.
pub const LAYERS_AT_ONCE: usize = 8;
/// Layers of one push that are sent at the same time (Docker's `max-concurrent-uploads`).
pub const UPLOADS: usize = 5;
/// Progress events that wait for a slow client before pictures of the progress are dropped.
pub const PROGRESS_QUEUE: usize = 64;
/// Age at which what an unfinished pull left is given up, seconds: beginnings of downloads, and
/// blobs and layers of no image.
pub const LEFTOVER_AGE_SECONDS: u64 = 24 * 3600;
/// Between two collections of such leftovers, seconds.
pub const COLLECT_EVERY_SECONDS: u64 = 3600;
