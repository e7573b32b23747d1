//! The remote backend over a real containerd, with our shim. Needs root, containerd and the built
//! programs; `POUCH_CONTAINERD` names another containerd than that in PATH.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod away;
mod ctr;
mod foreign;
mod life;
mod rig;
mod strangers;
