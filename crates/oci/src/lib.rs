//! Builds the OCI runtime specification of a container: hardening, seccomp, users, devices.
//!
//! [`build`] turns a [`ContainerSpec`](pouch_types::spec::ContainerSpec), already merged with its
//! image by [`merge_image`], and what the engine has resolved ([`BuildContext`]) into a
//! [`Spec`](spec::Spec). It is pure: what it must know of the machine is in [`HostFeatures`],
//! devices come through [`DeviceSource`]. [`exec`] gives the process for one more program in a
//! container that runs.
//!
//! The yardstick is what dockerd emits for the same request; where we differ, the module says why.
//!
//! Invariants, held by property tests: no capability outside the kernel's bounding set, the
//! inheritable and ambient sets are empty, `noNewPrivileges` is written only when true, nothing is
//! mounted over `/proc` but the files that lxcfs provides, and a container that did not ask for a
//! right does not get it.

#![forbid(unsafe_code)]

mod build;
mod capability;
mod cdi;
pub mod context;
pub mod device;
pub mod error;
mod exec;
#[cfg(test)]
mod fixture;
pub mod host;
pub mod image;
mod mount;
pub mod numbers;
mod process;
mod propagation;
mod resources;
pub mod seccomp;
mod security;
pub mod spec;
mod sysctl;
#[cfg(test)]
mod tests;
pub mod user;

pub use build::{Built, CONTAINER_NAME, CONTAINER_TYPE, SANDBOX_ID, build};
pub use capability::{Capability, CapabilitySet};
pub use context::{
    Access, BuildContext, CgroupDriver, Defaults, IdMaps, NetworkNamespace, ResolvedKind,
    ResolvedMount, ResolvedNamespaces, SourcePropagation,
};
pub use device::{DeviceSource, HostDevices};
pub use error::{SpecError, UserError};
pub use exec::{ExecProcess, Rights, exec};
pub use host::HostFeatures;
pub use image::{ImageConfigView, merge_image};
pub use process::{command, environment};
pub use security::{default_masked_paths, default_readonly_paths};
pub use sysctl::NETWORK_DEFAULTS as NETWORK_SYSCTLS;
pub use user::{ResolvedUser, resolve_user};
