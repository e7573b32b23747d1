//! Container Device Interface, specification 0.3.0 to 1.1.0: what a container needs for a device
//! of a vendor, read from the vendor's files.
//!
//! [`Registry`] reads the directories, finds fully qualified names (`vendor.com/class=name`) and
//! gives the [`Edits`] of all of them together; `pouch-oci` applies these to a specification.
//!
//! What holds:
//! * A file is taken whole or not at all: a field that is not known, or newer than the version
//!   that the file states, spoils it. Such a file is told and hides no other one.
//! * A device of a later directory hides one of the same name in an earlier one; two in one
//!   directory hide each other, as nobody can say which is meant.
//! * Files are foreign input: their number, their size, their depth and their values are bounded.
//! * What a container would have to do without (`intelRdt`, `netDevices`) is refused by its name
//!   when the device is asked for.
//!
//! Source: <https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>.

#![forbid(unsafe_code)]

mod edits;
mod error;
mod file;
mod name;
mod registry;
mod version;
mod yaml;

pub use edits::{DeviceNode, Edits, Hook, HookStage, Mount, NodeKind};
pub use error::{FileError, ResolveError, Unusable};
pub use file::{Format, SpecFile, parse};
pub use name::{DeviceName, Kind, NameError};
pub use registry::{DEFAULT_DIRS, Registry};
