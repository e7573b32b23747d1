//! The networks of pods: plugins that misbehave, Debian's real ones, and the native way beside
//! them. Each test has a host of its own; most need root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fakes;
mod native;
mod plugins;
mod rig;
