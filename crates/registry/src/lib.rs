//! The pull side of the registry protocol (OCI distribution-spec 1.1, Docker Registry HTTP API V2).
//!
//! A [`Registry`] is made once; a [`Repository`] is one client's session with one repository: its
//! credentials and token live and die with it, so no client ever uses another's rights.
//!
//! The protocol is spoken here rather than by a client library, because every byte of it is
//! untrusted: answers are bounded while they stream, redirects are followed by hand so that
//! credentials stay with the registry (SEC-30), a token service must be as private as the registry
//! itself, and documents that read two ways are refused (SEC-29).

#![forbid(unsafe_code)]

mod auth;
mod dns;
pub mod document;
mod endpoint;
mod error;
pub mod platform;
mod repository;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use pouch_types::ImageRef;

pub use auth::{AuthFields, Credentials, InvalidAuth};
pub use document::{Content, Descriptor, Document, Manifest};
pub use error::{DocumentError, RegistryError};
pub use platform::{Platform, Wanted};
pub use repository::{BlobStream, Repository, Resolved};

use endpoint::Endpoints;
use transport::Transport;

/// How registries are spoken to.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Hosts (`host[:port]`) or networks (`10.0.0.0/8`) whose certificates are not checked and
    /// that may speak plain HTTP. Loopback addresses always may.
    pub insecure: Vec<String>,
    /// For a TCP and TLS connection.
    pub connect_timeout: Duration,
    /// For the next byte.
    pub idle_timeout: Duration,
    /// Attempts of one request in all (Docker's `max-download-attempts`).
    pub attempts: u32,
    /// Before the second attempt; doubled for each further one.
    pub back_off: Duration,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            attempts: 5,
            back_off: Duration::from_millis(500),
        }
    }
}

/// All registries. A handle; clones share connections.
#[derive(Debug, Clone)]
pub struct Registry(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    transport: Transport,
    endpoints: Endpoints,
}

impl Registry {
    /// Prepares the clients; connects to nothing.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(config: RegistryConfig) -> Result<Self, RegistryError> {
        let endpoints = Endpoints::new(&config.insecure);
        let transport = Transport::new(config)?;
        Ok(Self(Arc::new(Inner { transport, endpoints })))
    }

    /// A session with the repository of `reference`.
    ///
    /// # Errors
    /// When a registry that may speak plain HTTP speaks neither that nor TLS.
    pub async fn repository(
        &self,
        reference: &ImageRef,
        credentials: Credentials,
    ) -> Result<Repository, RegistryError> {
        let endpoint = self.0.endpoints.of(reference.domain(), &self.0.transport).await?;
        Ok(Repository::new(Arc::clone(&self.0), reference, endpoint, credentials))
    }
}
