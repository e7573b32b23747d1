use std::path::PathBuf;

use axum::Router;
use axum::routing::get;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::server::Listener;
use crate::service::Service;

/// A certificate authority that signs for `localhost`.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Certificate and key.
    fn sign(&self) -> (String, String) {
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn client(server_ca: &Authority, identity: Option<(String, String)>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server_ca.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
    }
}

/// The reply to a ping, or nothing when the server did not let the client in.
async fn ping(address: std::net::SocketAddr, config: ClientConfig) -> std::io::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(b"GET /who HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    Ok(reply)
}

#[tokio::test]
async fn only_clients_of_our_authority_get_in() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let files = Files { dir: tempfile::tempdir().unwrap() };
    let (cert, key) = ours.sign();
    let config = server_config(
        &files.put("ca.pem", &ours.pem),
        &files.put("cert.pem", &cert),
        &files.put("key.pem", &key),
    )
    .unwrap();
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap(), config).await.unwrap();
    let address = listener.tcp_address().unwrap();
    let router = Router::new().route("/who", get(|| async { "a friend" }));
    let service = Service::new(router, "1", None, vec![]);
    let closing = CancellationToken::new();
    let tracker = TaskTracker::new();
    let server =
        tokio::spawn(crate::server::serve(service, vec![listener], tracker, closing.clone()));

    let reply = ping(address, client(&ours, Some(ours.sign()))).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with("a friend"), "{reply}");
    assert!(ping(address, client(&ours, None)).await.is_err(), "no certificate");
    assert!(
        ping(address, client(&ours, Some(theirs.sign()))).await.is_err(),
        "foreign certificate"
    );
    // Plain HTTP is not even answered.
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET /who HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut reply = Vec::new();
    let _ = plain.read_to_end(&mut reply).await;
    assert!(!String::from_utf8_lossy(&reply).contains("HTTP/1.1"));
    closing.cancel();
    server.await.unwrap();
}

#[test]
fn files_that_do_not_fit_are_named() {
    let ours = Authority::new("ours");
    let files = Files { dir: tempfile::tempdir().unwrap() };
    let (cert, key) = ours.sign();
    let ca = files.put("ca.pem", &ours.pem);
    let cert = files.put("cert.pem", &cert);
    let key = files.put("key.pem", &key);
    let other_key = files.put("other.pem", &ours.sign().1);
    let empty = files.put("empty.pem", "");
    let missing = files.dir.path().join("missing.pem");
    let refused = |ca, cert, key| server_config(ca, cert, key).unwrap_err();
    assert!(matches!(refused(&missing, &cert, &key), TlsError::Read { what: "client CA", .. }));
    assert!(matches!(refused(&empty, &cert, &key), TlsError::Empty { .. }));
    assert!(matches!(refused(&ca, &empty, &key), TlsError::Empty { .. }));
    assert!(matches!(refused(&ca, &cert, &empty), TlsError::Read { what: "private key", .. }));
    assert!(matches!(refused(&ca, &cert, &other_key), TlsError::Certificate { .. }));
}
