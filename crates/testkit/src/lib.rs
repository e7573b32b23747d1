//! A host for black-box tests: a daemon with private roots in a network namespace of its own,
//! images of this machine's static busybox, a local registry, and the census.
//!
//! [`Host::run`] gives a test its daemon and takes it away again. Between the two, nothing may
//! leak: after the test's containers are removed, mounts, links, packet rules, control groups,
//! processes, state files and the daemon's file descriptors must be what they were before
//! ([`Census`]). A test that fails gets the end of the daemon's log and its containers printed.
//!
//! Only for tests: it panics where a test would. Where it cannot work (no root, a program missing)
//! it prints `skipped: reason` and runs nothing.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

mod archive;
mod census;
mod containerd;
mod daemon;
mod fault;
mod host;
mod http;
mod kubelet;
mod live;
mod netns;
mod outcome;
mod programs;
mod registry;
mod shelf;
mod wait;

pub use archive::{Archive, busybox, docker_archive};
pub use census::Census;
pub use containerd::{Calls, Containerd};
pub use daemon::{Backend, Daemon, to_its_end};
pub use fault::{Fault, FaultProxy, Seen, dead_port};
pub use host::Host;
pub use http::{Answer, Connection};
pub use kubelet::{Called, Kubelet};
pub use live::Live;
pub use netns::Netns;
pub use outcome::Outcome;
pub use programs::{have, program};
pub use registry::{Access, LocalRegistry, Registry, RegistryOptions};
pub use shelf::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Shelf, describe, noise};
pub use wait::{eventually, is_alive, within};

/// Whether tests run on the embedded backend; prints `what` is not for a containerd otherwise.
#[must_use]
pub fn embedded(what: &str) -> bool {
    if daemon::remote() {
        println!("not over containerd: {what}");
    }
    !daemon::remote()
}

/// Runs `test` on a fresh daemon with the image `busybox`.
pub fn daemon(test: impl FnOnce(&mut Daemon)) {
    Host::new().run(test);
}
