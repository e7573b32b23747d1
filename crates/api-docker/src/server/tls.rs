//! TLS with client certificates (SEC-44, SEC-45): only certificates signed by the configured CA,
//! never by the system's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pouch_types::{Classified, ErrorKind};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

/// A TLS configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing or not PEM.
    #[error("reading {what} {path}")]
    Read {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// A file holds no certificate.
    #[error("{path} holds no certificate")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The CA cannot verify clients.
    #[error("client CA {path}")]
    Verifier {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: VerifierBuilderError,
    },
    /// A certificate or key that does not fit.
    #[error("TLS certificate {path}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

impl Classified for TlsError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = |source| TlsError::Read { what, path: path.to_owned(), source };
    let list: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(read)?
        .collect::<Result<_, _>>()
        .map_err(read)?;
    if list.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned() });
    }
    Ok(list)
}

/// Reads `tlscacert`, `tlscert` and `tlskey`. TLS 1.2 is the oldest that is spoken.
///
/// # Errors
/// When a file cannot be read or the certificates do not fit together.
pub fn server_config(ca: &Path, cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in certificates("client CA", ca)? {
        roots.add(root).map_err(|source| TlsError::Certificate { path: ca.to_owned(), source })?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|source| TlsError::Verifier { path: ca.to_owned(), source })?;
    let chain = certificates("certificate", cert)?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Read {
        what: "private key",
        path: key.to_owned(),
        source,
    })?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder.with_client_cert_verifier(verifier).with_single_cert(chain, secret)
        })
        .map_err(|source| TlsError::Certificate { path: cert.to_owned(), source })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
