//! Networks of Kubernetes pods by CNI, specification 1.1.
//!
//! [`Cni`] finds the configuration of a network, attaches pods to it and detaches them. The usual
//! networks (`bridge` with `host-local`, `portmap`) are made in-process (module `native`), some
//! milliseconds each; every other list is executed plugin by plugin, as libcni does it.
//!
//! What holds whatever the way:
//! * One operation at a time on one attachment (id and interface); different ones run in parallel.
//! * A change that was begun goes on to its end or is undone, also when the caller leaves.
//! * An ADD that fails leaves nothing; a DEL may be repeated, and needs neither namespace nor cache.
//! * libcni's cache and host-local's files are written as theirs, so that a DEL by another runtime
//!   works, and ours of what it attached.
//! * A plugin has a deadline, a clean environment and a capped answer, and none of its processes
//!   outlives it in its process group.
//!
//! Not here: the plugins' own daemons (`dhcp`), and names in containers.

#![forbid(unsafe_code)]

mod attachment;
mod cache;
mod cidr;
mod cni;
mod config;
mod error;
mod exec;
mod locks;
mod native;
mod plugin;
mod record;
mod result;
mod version;

pub use attachment::{Added, Attachment, Bandwidth, PortMapping, ValidAttachment};
pub use cidr::{Cidr, InvalidCidr};
pub use cni::{Cni, CniConfig, NativeUse, Status, Way};
pub use error::{CniError, PluginFailure, Stage};
pub use plugin::Deadlines;
pub use result::{Dns, Interface, IpConfig, Route};
pub use version::SpecVersion;
