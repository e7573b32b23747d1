//! Between the words of the API and those of the engine, both ways, without I/O.
//!
//! Each module owns one noun and reads and writes it side by side, so that what `create` takes is
//! what `inspect` shows again. Reading refuses: a malformed value is 400 and a known field that is
//! not honoured is 501, each with the field's name; unknown fields never get here. Writing is
//! total.

pub(crate) mod container;
pub(crate) mod create;
pub(crate) mod event;
pub(crate) mod image;
pub(crate) mod list;
pub(crate) mod log;
pub(crate) mod mount;
pub(crate) mod namespaces;
pub(crate) mod network;
pub(crate) mod object;
pub(crate) mod platform;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod resources;
pub(crate) mod restart;
pub(crate) mod security;
pub(crate) mod stats;
pub(crate) mod time;
mod value;

use pouch_types::spec::{CgroupnsMode, LogSpec};

/// What the daemon puts in where a request says nothing, and inspect must show.
#[derive(Debug, Clone)]
pub(crate) struct Defaults {
    /// Log driver and options of containers that name none.
    pub log: LogSpec,
    /// Name of the runtime of containers that name none.
    pub runtime: String,
    /// Cgroup namespace: private on cgroup v2, the host's on v1.
    pub cgroupns: CgroupnsMode,
    /// Paths that containers do not see.
    pub masked: Vec<String>,
    /// Paths that containers do not write to.
    pub read_only: Vec<String>,
}
