//! Typed client of the Docker Engine API: unix sockets, TCP with TLS, ssh, hijacked streams.
//!
//! A [`Client`] keeps HTTP/1.1 connections alive, agrees on the API version by `HEAD /_ping`
//! before its first call, and offers one method per endpoint. Replies that are streams stay
//! streams: nothing is held in memory beyond a stated cap. The CLI and the end-to-end tests are
//! its users; the wire types are those of `pouch_docker_types`, shared with the daemon.
//!
//! All futures need a tokio runtime with I/O and time enabled.

#![forbid(unsafe_code)]

mod api;
mod body;
mod client;
mod dial;
mod endpoint;
mod error;
mod frames;
mod hijack;
mod ndjson;
mod pool;
mod query;
mod resolve;
mod tls;
mod version;

pub use api::containers::{
    ArchiveReader, Attach, Condition, ListContainers, Logs, PutArchive, RemoveContainer, Sampling,
    SizeInfo, Stop, TerminalSize, Wait,
};
pub use api::images::{
    Commit, CreateImage, ListImages, Progress, RemoveImage, SearchImages, encode_auth,
};
pub use api::system::{DiskUsageOf, EventRange};
pub use api::volumes::VolumeRemoval;
pub use body::{ReplyBody, ReplyBytes};
pub use client::{Client, ClientOptions, Ping};
pub use endpoint::{DEFAULT_HOST, Endpoint, SshTarget, Transport};
pub use error::ClientError;
pub use frames::{Channel, Demultiplexer};
pub use hijack::{Framing, Hijacked};
pub use ndjson::Ndjson;
pub use pouch_docker_types::Filters;
pub use query::Query;
pub use tls::{TlsOptions, Verify};
pub use version::{ApiVersion, InvalidVersion};
