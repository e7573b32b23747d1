//! Images: pull, load, save, import, tag, remove, over content store and snapshotter
