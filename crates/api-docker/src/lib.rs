//! The Docker Engine API over HTTP: translation, protocol and streaming in front of the engine.
//!
//! Floors inside: `server` accepts and ends connections, `service` does what every request needs,
//! `handlers` hold one function per call, `translate` turns the API's words into the engine's and
//! back, `stream` carries what does not end at once. No rule about containers lives here.

#![forbid(unsafe_code)]

mod handlers;
mod http;
pub mod limits;
mod server;
mod service;
mod stream;
mod translate;

pub use crate::http::ApiVersion;
pub use crate::server::{ListenError, Listener, TlsError, server_config};
pub use crate::service::Telemetry;
