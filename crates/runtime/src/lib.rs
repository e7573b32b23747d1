//! The library of `pouch-runtime`: an OCI runtime behind runc's command line.

pub mod cgroup;
mod channel;
pub mod cli;
mod command;
mod confine;
pub mod create;
pub mod error;
pub mod exec;
pub mod features;
mod hooks;
mod identity;
mod idmap;
pub mod init;
pub mod lifecycle;
pub mod log;
mod mounts;
mod namespaces;
mod process;
mod rootfs;
mod seccomp;
mod spawn;
mod spec;
pub mod state;
mod template;
mod terminal;
mod update;

/// Protection of the runtime binary itself.
pub use pouch_sealed_exe as sealed;
