//! The embedded backend, with real shims and runtimes.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod group;
mod rig;
