//! TLS towards a daemon on TCP: who we are, whom we trust.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::error::ClientError;

/// Where distributions keep the public authorities.
const SYSTEM_BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// How the daemon's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Chain and name, `--tlsverify`.
    Full,
    /// Not at all, `--tls` alone: protects from listeners, not from impostors.
    Nothing,
}

/// The files and rules of one TLS identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// Authorities of the daemon; `None` takes the system's.
    pub ca: Option<PathBuf>,
    /// Our certificate chain and its key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// How the daemon is checked.
    pub verify: Verify,
}

/// Reads the files of `options` into a client configuration.
pub(crate) fn client_config(options: &TlsOptions) -> Result<Arc<ClientConfig>, ClientError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match options.verify {
        Verify::Full => builder.with_root_certificates(roots(options.ca.as_deref())?),
        Verify::Nothing => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
        }
    };
    let config = match &options.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates("certificate", cert)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| ClientError::TlsFile {
                what: "private key",
                path: key.clone(),
                reason: e.to_string(),
            })?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    Ok(Arc::new(config))
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, ClientError> {
    let mut store = RootCertStore::empty();
    match ca {
        Some(path) => {
            for cert in certificates("authority", path)? {
                store.add(cert)?;
            }
        }
        None => {
            if let Some(path) = SYSTEM_BUNDLES.iter().map(Path::new).find(|p| p.exists()) {
                store.add_parsable_certificates(certificates("authority", path)?);
            }
        }
    }
    Ok(store)
}

fn certificates(
    what: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let fail = |reason: String| ClientError::TlsFile { what, path: path.to_owned(), reason };
    let certs = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| fail(e.to_string()))?;
    if certs.is_empty() { Err(fail("it holds no certificate".to_owned())) } else { Ok(certs) }
}

/// Takes any certificate, but still checks that the peer holds its key.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_file_that_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, "not a certificate").unwrap();
        let options = TlsOptions { ca: Some(ca.clone()), identity: None, verify: Verify::Full };
        match client_config(&options) {
            Err(ClientError::TlsFile { what, path, .. }) => {
                assert_eq!((what, path), ("authority", ca))
            }
            other => panic!("{other:?}"),
        }
        let missing = dir.path().join("key.pem");
        let options = TlsOptions {
            ca: None,
            identity: Some((missing.clone(), missing)),
            verify: Verify::Nothing,
        };
        assert!(matches!(
            client_config(&options),
            Err(ClientError::TlsFile { what: "certificate", .. })
        ));
    }
}
