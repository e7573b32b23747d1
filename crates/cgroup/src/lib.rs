//! Reads and writes control groups: v1, v2 and hybrid.
//!
//! [`Layout`] says once what is mounted where; a [`Cgroup`] is one group by path in every
//! hierarchy of that layout. Everything is synchronous and small, since the shim links it too.
//!
//! Invariants
//! - A [`Cgroup`] never addresses the root group of a hierarchy: nothing here can freeze, kill or
//!   limit the whole machine by accident.
//! - No process is signalled by a bare number: a pidfd is opened first and the membership checked
//!   after that.
//! - Everything that waits takes a deadline.
//! - Reads are capped; a kernel file that is larger than its cap is an error, not a short read.
//!
//! Sources: Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst of the kernel.

#![forbid(unsafe_code)]

pub mod convert;
pub mod error;
mod family;
mod file;
mod freeze;
pub mod group;
mod kill;
pub mod layout;
mod limits;
pub mod oom;
pub mod parent;
pub mod stats;
pub mod support;

pub use error::Error;
pub use family::{Leader, kill_family, signal_family};
pub use freeze::Frozen;
pub use group::Cgroup;
pub use layout::{Layout, Mode};
pub use oom::OomWatch;
pub use stats::Stats;
pub use support::{Support, Warning};
