//! The Kubernetes CRI v1 over gRPC: translates requests into use cases of the engine and their
//! answers back. No rule of its own.
//!
//! * `runtime` and `image` are the two services, one method per call of the contract;
//! * `translate` has the words of both sides;
//! * `stats` and `metrics` render what the engine measured;
//! * `streams` hands processes and pods to the streaming server.
//!
//! Lists, status and figures come from views that the engine has published; none of them waits for
//! a container, a shim or a disk.

#![forbid(unsafe_code)]

mod api;
mod error;
mod events;
mod image;
mod metrics;
mod record;
mod runtime;
mod server;
mod stats;
mod streams;
mod translate;

pub use api::{Config, CriError};
pub use record::Recorder;
pub use server::{Accept, serve};
