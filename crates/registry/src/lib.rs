//! The registry protocol (OCI distribution-spec 1.1, Docker Registry HTTP API V2): references to
//! verified documents and streams, and back.
//!
//! A [`Registry`] is made once; a [`Repository`] is one client's session with one repository: its
//! credentials and token live and die with it, so no client ever uses another's rights.
//!
//! The protocol is spoken here rather than by a client library, because every byte of it is
//! untrusted: answers are bounded while they stream, redirects are followed by hand so that
//! credentials stay with the registry (SEC-30), a token service must be as private as the registry
//! itself, and documents that read two ways are refused (SEC-29).
//!
//! A repository may be had from several *sources*: a Dragonfly peer, mirrors, the registry itself
//! (`source`). `rounds` decides whom to ask next, `session` asks one of them once, and `blob` puts
//! a stream together from whatever they give. No mirror is believed in what can be checked.

#![forbid(unsafe_code)]

mod auth;
mod blob;
mod body;
mod certs;
mod config;
mod dns;
pub mod document;
mod endpoint;
mod error;
mod hosts;
mod login;
mod peer;
pub mod platform;
mod push;
mod repository;
mod rounds;
mod search;
mod session;
mod source;
mod tags;
mod token;
mod transport;
mod upload;

use std::sync::Arc;

use pouch_types::ImageRef;

pub use auth::{AuthFields, Credentials, InvalidAuth};
pub use blob::BlobStream;
pub use config::RegistryConfig;
pub use document::{Content, Descriptor, Document, Manifest};
pub use error::{CertsError, DocumentError, HostsError, RegistryError};
pub use login::Login;
pub use platform::{Platform, Wanted};
pub use push::PushTo;
pub use repository::{Repository, Resolved};
pub use search::{Hit, SearchError};
pub use session::{Had, Recourse};
pub use upload::{FileSource, Pushed, UploadSource};

use endpoint::Endpoints;
use source::Bench;
use transport::Transport;

/// All registries. A handle; clones share connections.
#[derive(Debug, Clone)]
pub struct Registry(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    transport: Transport,
    endpoints: Endpoints,
    bench: Bench,
    /// Of docker.io.
    mirrors: Vec<reqwest::Url>,
    dragonfly: Option<reqwest::Url>,
}

impl Registry {
    /// Prepares the clients; connects to nothing.
    ///
    /// # Errors
    /// [`RegistryError::Config`] for a mirror that is no URL of one.
    pub fn new(config: RegistryConfig) -> Result<Self, RegistryError> {
        let endpoints = Endpoints::new(&config.insecure);
        let mirrors = config.parsed_mirrors()?;
        let dragonfly = config.parsed_dragonfly()?;
        let transport = Transport::new(config);
        let bench = Bench::default();
        Ok(Self(Arc::new(Inner { transport, endpoints, bench, mirrors, dragonfly })))
    }

    /// A session with the repository of `reference`. Reads the files that concern it, connects to
    /// nothing.
    ///
    /// # Errors
    /// [`RegistryError::Hosts`] and [`RegistryError::Certs`] for files that cannot be used.
    pub async fn repository(
        &self,
        reference: &ImageRef,
        credentials: Credentials,
    ) -> Result<Repository, RegistryError> {
        let inner = Arc::clone(&self.0);
        let domain = reference.domain().to_owned();
        let look = {
            let inner = Arc::clone(&inner);
            move || source::sources(&domain, &inner)
        };
        let sources =
            tokio::task::spawn_blocking(look).await.map_err(|_| RegistryError::Protocol {
                host: reference.domain().to_owned(),
                why: "cannot be looked up: the daemon stops".to_owned(),
            })??;
        Ok(Repository::new(inner, reference, sources, credentials))
    }
}
