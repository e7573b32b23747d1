//! The words that every floor of the engine shares: identifiers, digests, image references,
//! signals, the specification of a container and the one [`ErrorKind`].
//!
//! Values here are parsed once, at the edge (`FromStr`, serde), and trusted afterwards: a
//! [`ContainerId`] is always 64 hex digits, a [`Digest`] always a known algorithm with the right
//! length. No I/O and no async runtime lives in this crate; [`failpoint`] only ends the process.

#![forbid(unsafe_code)]

pub mod digest;
pub mod error;
pub mod failpoint;
pub mod id;
pub mod name;
pub mod pod;
pub mod reference;
pub mod signal;
pub mod spec;
pub mod untrusted;

pub use digest::{Digest, DigestWriter, Hasher};
pub use error::{Classified, ErrorKind};
pub use id::{ContainerId, ExecId, ImageId, NetworkId};
pub use name::{ContainerName, NetworkName, VolumeName};
pub use reference::ImageRef;
pub use signal::Signal;
pub use untrusted::Untrusted;
