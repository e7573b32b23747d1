//! To a real registry and back: pushes that skopeo checks, logins, private CAs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod fake;
mod rig;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use fake::{Answer, Request, Server};
use pouch_registry::document::{OCI_INDEX, OCI_MANIFEST};
use pouch_registry::{
    Credentials, FileSource, Login, PushTo, Pushed, Registry, RegistryConfig, RegistryError,
};
use pouch_testkit::{Access, Fault, FaultProxy, LocalRegistry, RegistryOptions};
use pouch_types::{Classified, Digest, ErrorKind};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType,
};
use rig::{LAYER, SIZE, alice, basic, config, describe, noise, open, push, read};

fn password() -> RegistryOptions {
    RegistryOptions { access: Access::Password, ..RegistryOptions::default() }
}

/// Copies an image to a directory, where skopeo has checked every digest.
fn skopeo_reads(registry: &LocalRegistry, name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let from = format!("docker://{}/{name}", registry.host());
    let to = format!("oci:{}:x", dir.path().display());
    let inspected = registry.skopeo("inspect", &["--raw", &from]);
    assert!(inspected.ok().contains("layers"));
    let pair = format!("{}:{}", LocalRegistry::USER, LocalRegistry::PASSWORD);
    let copied = registry.skopeo("copy", &["--src-creds", &pair, &from, &to]);
    copied.check();
}

#[tokio::test]
async fn what_is_pushed_is_what_skopeo_reads() {
    let Some(registry) = LocalRegistry::start(password()) else { return };
    // In one request, and in pieces.
    for (name, chunk) in [("one/image:1", 16 << 20), ("two/image:1", 300_000)] {
        let config = RegistryConfig { upload_chunk: chunk, ..config() };
        let repository = open(config, &format!("{}/{name}", registry.host()), alice()).await;
        let layer = noise(SIZE, chunk);
        let (_, manifest) = push(&repository, &layer).await;
        skopeo_reads(&registry, name);
        // An index over it, by its digest first.
        let digest = Digest::of(&manifest);
        let by_digest =
            repository.push_manifest(manifest.clone(), OCI_MANIFEST, PushTo::Digest).await.unwrap();
        assert_eq!(by_digest, digest);
        assert!(repository.has_manifest(&digest).await.unwrap());
        let entry = serde_json::to_string(&describe(OCI_MANIFEST, &manifest)).unwrap();
        let index =
            format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{entry}]}}"#);
        repository.push_manifest(index.clone().into(), OCI_INDEX, PushTo::Tag).await.unwrap();
        let document = repository.document().await.unwrap();
        assert_eq!(document.raw, index);
    }
}

#[tokio::test]
async fn only_what_is_missing_is_sent() {
    let Some(registry) = LocalRegistry::start(password()) else { return };
    let proxy = FaultProxy::start(registry.host());
    let layer = noise(SIZE, 3);
    let descriptor = describe(LAYER, &layer);
    let first = open(config(), &format!("{}/first:1", proxy.host()), alice()).await;
    let sent = AtomicU64::new(0);
    let tell = |bytes| sent.store(bytes, Ordering::SeqCst);
    let source: Arc<Bytes> = Arc::new(layer.clone());
    let outcome = first.push_blob(&descriptor, source.clone(), &[], &tell).await.unwrap();
    assert_eq!((outcome, sent.load(Ordering::SeqCst)), (Pushed::Uploaded, SIZE as u64));
    let outcome = first.push_blob(&descriptor, source.clone(), &[], &|_| {}).await.unwrap();
    assert_eq!(outcome, Pushed::Present);
    let second = open(config(), &format!("{}/second:1", proxy.host()), alice()).await;
    let from = ["nothing/here".to_owned(), "first".to_owned()];
    let uploads = proxy.count("PUT", "");
    let outcome = second.push_blob(&descriptor, source, &from, &|_| {}).await.unwrap();
    assert_eq!(outcome, Pushed::Mounted("first".to_owned()));
    assert_eq!(proxy.count("PUT", ""), uploads, "nothing was sent");
    assert!(read(&second, &descriptor, 0).await.unwrap() == layer);
}

#[tokio::test]
async fn a_broken_upload_goes_on() {
    let Some(registry) = LocalRegistry::start(password()) else { return };
    let layer = noise(SIZE, 4);
    let descriptor = describe(LAYER, &layer);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &layer).unwrap();
    for (n, (method, chunk, fault)) in [
        ("PATCH", 1 << 20, Fault::CutUpload(300_000)),
        ("PUT", 16 << 20, Fault::CutUpload(1_000_000)),
        ("PATCH", 1 << 20, Fault::Status(503, vec![("retry-after".into(), "0".into())])),
        ("PATCH", 1 << 20, Fault::Status(405, vec![])),
        ("POST", 1 << 20, Fault::Status(502, vec![])),
        ("PUT", 1 << 20, Fault::Status(504, vec![])),
        ("HEAD", 1 << 20, Fault::Status(500, vec![])),
    ]
    .into_iter()
    .enumerate()
    {
        let proxy = FaultProxy::start(registry.host());
        proxy.fault(method, "/", 1, fault.clone());
        let config = RegistryConfig { upload_chunk: chunk, ..config() };
        let name = format!("{}/broken{n}:1", proxy.host());
        let repository = open(config, &name, alice()).await;
        let source = Arc::new(FileSource::new(file.reopen().unwrap()));
        let outcome = repository.push_blob(&descriptor, source, &[], &|_| {}).await;
        assert_eq!(outcome.unwrap(), Pushed::Uploaded, "{method} {fault:?}");
        assert!(read(&repository, &descriptor, 0).await.unwrap() == layer, "{method} {fault:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_pushed_is_said() {
    let Some(registry) = LocalRegistry::start(password()) else { return };
    let layer = noise(100_000, 5);
    let name = format!("{}/x:1", registry.host());
    let blob = |bytes: &Bytes| Arc::new(bytes.clone());
    for credentials in [Credentials::Anonymous, basic("alice", "wrong")] {
        let repository = open(config(), &name, credentials).await;
        let wanted = describe(LAYER, &layer);
        let error = repository.push_blob(&wanted, blob(&layer), &[], &|_| {}).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    }
    let repository = open(config(), &name, alice()).await;
    // Fewer bytes than were promised, and other bytes.
    let longer = describe(LAYER, &noise(200_000, 5));
    let error = repository.push_blob(&longer, blob(&layer), &[], &|_| {}).await.unwrap_err();
    assert!(matches!(error, RegistryError::Truncated { .. }), "{error}");
    let other = describe(LAYER, &noise(100_000, 6));
    let error = repository.push_blob(&other, blob(&layer), &[], &|_| {}).await.unwrap_err();
    assert!(matches!(error, RegistryError::Status { status: 400, .. }), "{error}");
    let pinned = format!("{}/x@{}", registry.host(), Digest::of(b"x"));
    let repository = open(config(), &pinned, alice()).await;
    let error = repository.push_manifest("{}".into(), OCI_MANIFEST, PushTo::Tag).await.unwrap_err();
    assert!(matches!(error, RegistryError::NoTag(_)), "{error}");
}

/// SEC-30: an upload that is sent elsewhere takes no credentials along, and not into the clear.
#[tokio::test]
async fn uploads_elsewhere_go_without_credentials() {
    let store = Server::start(|r: &Request| match r.method.as_str() {
        "PUT" => Answer::new(201),
        _ => Answer::new(500),
    })
    .await;
    let port = store.port;
    let registry = Server::start(move |r: &Request| {
        match (r.method.as_str(), r.headers.contains_key("authorization")) {
            (_, false) => Answer::new(401).header("www-authenticate", "Basic realm=x"),
            ("HEAD", _) => Answer::new(404),
            ("POST", _) if r.path.contains("/bad/") => {
                Answer::new(202).header("location", "http://192.0.2.1/x")
            }
            ("POST", _) => {
                Answer::new(202).header("location", format!("http://127.0.0.1:{port}/up?s=1"))
            }
            _ => Answer::new(500),
        }
    })
    .await;
    let layer = noise(1000, 7);
    let wanted = describe(LAYER, &layer);
    let repository = open(config(), &format!("{}/a:1", registry.host()), alice()).await;
    repository.push_blob(&wanted, Arc::new(layer.clone()), &[], &|_| {}).await.unwrap();
    let seen = store.requests();
    assert!(seen[0].path.starts_with("/up?s=1&digest=sha256"), "{}", seen[0].path);
    assert!(!seen[0].headers.contains_key("authorization"));
    let repository = open(config(), &format!("{}/bad/a:1", registry.host()), alice()).await;
    let error = repository.push_blob(&wanted, Arc::new(layer), &[], &|_| {}).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unsafe { .. }), "{error}");
}

#[tokio::test]
async fn tokens_for_a_push_have_its_scope() {
    let server = Server::start(|r: &Request| {
        if r.path.starts_with("/token") {
            return Answer::ok(r#"{"token":"T"}"#);
        }
        match (r.method.as_str(), r.headers.contains_key("authorization")) {
            (_, false) => {
                let realm = format!("Bearer realm=\"http://{}/token\"", r.headers["host"]);
                Answer::new(401).header("www-authenticate", realm)
            }
            ("HEAD", _) => Answer::new(404),
            ("POST", _) => Answer::new(201),
            _ => Answer::new(500),
        }
    })
    .await;
    let repository = open(config(), &format!("{}/a/b:1", server.host()), alice()).await;
    let wanted = describe(LAYER, b"x");
    let source = Arc::new(Bytes::from_static(b"x"));
    let from = ["c/d".to_owned()];
    let outcome = repository.push_blob(&wanted, source, &from, &|_| {}).await.unwrap();
    assert_eq!(outcome, Pushed::Mounted("c/d".to_owned()));
    let tokens: Vec<_> =
        server.requests().into_iter().filter(|r| r.path.starts_with("/token")).collect();
    assert!(tokens[0].path.contains("scope=repository%3Aa%2Fb%3Apull%2Cpush"));
    assert!(tokens[1].path.contains("scope=repository%3Ac%2Fd%3Apull&"), "{}", tokens[1].path);
}

#[tokio::test]
async fn logins_are_checked() {
    let Some(local) = LocalRegistry::start(password()) else { return };
    let registry = Registry::new(config()).unwrap();
    let login = registry.check_login(local.host(), &alice()).await.unwrap();
    assert_eq!(login, Login::default());
    for wrong in [basic("alice", "wrong"), Credentials::Anonymous] {
        let error = registry.check_login(local.host(), &wrong).await.unwrap_err();
        assert!(matches!(error, RegistryError::Unauthorized { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Denied);
    }
    let server = Server::start(|r: &Request| {
        let auth = r.headers.get("authorization").map(String::as_str);
        if r.path.starts_with("/token?") {
            assert!(r.path.contains("offline_token=true"), "{}", r.path);
            return match auth {
                Some("Basic YWxpY2U6czNjcmV0") => {
                    Answer::ok(r#"{"token":"T","refresh_token":"KEEP"}"#)
                }
                _ => Answer::new(401),
            };
        }
        match auth {
            Some("Bearer T") => Answer::ok("{}"),
            _ => {
                let realm = format!("Bearer realm=\"http://{}/token\"", r.headers["host"]);
                Answer::new(401).header("www-authenticate", realm)
            }
        }
    })
    .await;
    let address = format!("http://{}/v2/", server.host());
    let login = registry.check_login(&address, &alice()).await.unwrap();
    assert_eq!(login.identity_token.as_deref(), Some("KEEP"));
    assert!(!format!("{login:?}").contains("KEEP"));
    let error = registry.check_login(&address, &basic("alice", "no")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { .. }), "{error}");
}

/// A CA with a certificate for 127.0.0.1 or for a client.
fn certified(ca: &CertifiedIssuer<'_, KeyPair>) -> (Certificate, KeyPair) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, ca).unwrap(), key)
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join(name), text).unwrap();
}

#[tokio::test]
async fn private_authorities_and_client_certificates() {
    let ca = authority();
    let (cert, key) = certified(&ca);
    let (client, client_key) = certified(&ca);
    let options = RegistryOptions {
        tls: Some((cert.pem(), key.serialize_pem())),
        client_ca: Some(ca.pem()),
        access: Access::Password,
    };
    let Some(registry) = LocalRegistry::start(options) else { return };
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().join(registry.host());
    let name = format!("{}/a:1", registry.host());
    let certs =
        || RegistryConfig { certs_dirs: vec![dir.path().to_owned()], attempts: 1, ..config() };
    let layer = noise(10_000, 8);
    // Without a certificate it speaks with nobody.
    write(&host, "ca.crt", &ca.pem());
    let error = open(certs(), &name, alice()).await.document().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    write(&host, "client.cert", &client.pem());
    write(&host, "client.key", &client_key.serialize_pem());
    let repository = open(certs(), &name, alice()).await;
    push(&repository, &layer).await;
    let login = Registry::new(certs()).unwrap().check_login(registry.host(), &alice()).await;
    login.unwrap();

    // The same by hosts.toml, where the certificate is checked even on loopback.
    let hosts = tempfile::tempdir().unwrap();
    let file = |ca: &str| {
        format!(
            "[host.\"https://{}\"]\nca = {ca:?}\nclient = [[{:?}, {:?}]]\n",
            registry.host(),
            host.join("client.cert"),
            host.join("client.key"),
        )
    };
    let by_hosts = || RegistryConfig { hosts_dirs: vec![hosts.path().to_owned()], ..config() };
    let alias = hosts.path().join("reg.test");
    write(&alias, "hosts.toml", &file(&host.join("ca.crt").display().to_string()));
    // The password is for reg.test, and this is another host: the mirror sees nothing of it.
    let repository = open(by_hosts(), "reg.test/a:1", alice()).await;
    let stranger = authority();
    write(&alias, "stranger.crt", &stranger.pem());
    let mirror = repository.has_blob(&describe(LAYER, &layer).digest).await.unwrap_err();
    assert_eq!(mirror.kind(), ErrorKind::Denied, "{mirror}");
    write(&alias, "hosts.toml", &file("stranger.crt"));
    let repository = open(by_hosts(), "reg.test/a:1", alice()).await;
    let error = repository.has_blob(&describe(LAYER, &layer).digest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}
