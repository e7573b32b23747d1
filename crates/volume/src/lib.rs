//! Volumes: directories that outlive containers, and the `local` driver with Docker's options.
//!
//! ```text
//! <root>/<name>/volume.json   the marker: no tree is ever deleted that does not hold it
//! <root>/<name>/_data         what containers see; a mount for volumes with options
//! <root>/.trash-<random>      a removed volume that is being deleted
//! ```
//!
//! Truth is the store: a row per volume, a row per use of a volume by a container. Use rows are
//! written in the transaction that makes or removes the container ([`use_volume`], [`release`]),
//! and a foreign key keeps a volume that is used. The marker repeats the row, so that volumes
//! survive the loss of the database.
//!
//! A volume with `type`/`o`/`device` is mounted when the first container starts and unmounted when
//! the last one stops. The mount runs on a thread of its own with a deadline: a dead NFS server
//! holds up the containers of that volume and nothing else.

#![forbid(unsafe_code)]

mod error;
mod local;
mod mounts;
mod prune;
mod record;
mod volumes;

pub use error::{Result, VolumeError};
pub use prune::{LabelFilter, PruneFilter, PruneReport, PruneScope};
pub use record::{SCHEMA, Volume, insert, release, use_volume, users};
pub use volumes::{NewVolume, Prepared, VolumeConfig, Volumes};
