//! The protocol against a registry that misbehaves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod fake;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fake::{Answer, CONFIG, INDEX, MANIFEST, Request, Server, descriptor, manifest};
use pouch_registry::{
    AuthFields, Content, Credentials, Descriptor, Registry, RegistryConfig, RegistryError,
    Repository, Wanted,
};
use pouch_types::{Classified, Digest, ErrorKind, ImageRef};

fn config() -> RegistryConfig {
    RegistryConfig {
        idle_timeout: Duration::from_millis(600),
        back_off: Duration::from_millis(10),
        attempts: 3,
        ..RegistryConfig::default()
    }
}

async fn open(server: &Server, name: &str, credentials: Credentials) -> Repository {
    let registry = Registry::new(config()).unwrap();
    let reference: ImageRef = format!("{}/{name}", server.host()).parse().unwrap();
    registry.repository(&reference, credentials).await.unwrap()
}

fn basic() -> Credentials {
    let fields =
        AuthFields { username: "alice".into(), password: "s3cret".into(), ..AuthFields::default() };
    Credentials::from_fields(fields).unwrap()
}

fn blob(bytes: &[u8]) -> Descriptor {
    serde_json::from_str(&descriptor("x", bytes)).unwrap()
}

fn answer_manifest(body: impl Into<Vec<u8>>) -> Answer {
    Answer::ok(body).header("content-type", MANIFEST)
}

async fn read(repository: &Repository, wanted: &Descriptor) -> Result<Vec<u8>, RegistryError> {
    let mut stream = repository.blob(wanted, 0).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[tokio::test]
async fn resolves_a_tag_and_says_what_it_accepts() {
    let body = manifest(b"{}", &[b"layer"]);
    let served = body.clone();
    let server = Server::start(move |_| answer_manifest(served.clone())).await;
    let repository = open(&server, "a/b:1", Credentials::Anonymous).await;
    let document = repository.document().await.unwrap();
    assert_eq!(document.descriptor.digest, Digest::of(body.as_bytes()));
    assert_eq!(document.raw, body);
    assert!(matches!(document.content, Content::Manifest(_)));
    let request = &server.requests()[0];
    assert_eq!(request.path, "/v2/a/b/manifests/1");
    assert!(
        request.headers["accept"].contains("vnd.")
            && !request.headers.contains_key("authorization")
    );
}

#[tokio::test]
async fn a_pinned_reference_is_checked() {
    let good = manifest(b"{}", &[]);
    let digest = Digest::of(good.as_bytes());
    let server = Server::start(move |_| answer_manifest(manifest(b"{ }", &[]))).await;
    let repository = open(&server, &format!("a@{digest}"), Credentials::Anonymous).await;
    let error = repository.document().await.unwrap_err();
    assert!(matches!(error, RegistryError::Digest { .. }), "{error}");
    // By tag the registry's own claim is compared.
    let server = Server::start(move |_| {
        answer_manifest("{}").header("docker-content-digest", digest.to_string())
    })
    .await;
    let repository = open(&server, "a", Credentials::Anonymous).await;
    assert!(matches!(repository.document().await, Err(RegistryError::Digest { .. })));
}

#[tokio::test]
async fn an_index_leads_to_the_platform() {
    let arm = manifest(b"arm", &[]);
    let amd = manifest(b"amd", &[]);
    let entry = |body: &str, arch: &str| {
        let mut text = descriptor(MANIFEST, body.as_bytes());
        text.pop();
        format!(r#"{text},"platform":{{"os":"linux","architecture":"{arch}"}}}}"#)
    };
    let index = format!(
        r#"{{"mediaType":"{INDEX}","manifests":[{},{}]}}"#,
        entry(&arm, "arm64"),
        entry(&amd, "amd64")
    );
    let top = Digest::of(index.as_bytes());
    let (arm_digest, amd_digest) = (Digest::of(arm.as_bytes()), Digest::of(amd.as_bytes()));
    let server = Server::start(move |r: &Request| match r.path.rsplit('/').next().unwrap() {
        "latest" => Answer::ok(index.clone()).header("content-type", INDEX),
        d if d == arm_digest.to_string() => answer_manifest(arm.clone()),
        d if d == amd_digest.to_string() => answer_manifest(amd.clone()),
        _ => Answer::new(404),
    })
    .await;
    let repository = open(&server, "a", Credentials::Anonymous).await;
    let wanted = |text: &str| Wanted::Exactly(text.parse().unwrap());
    let resolved = repository.resolve(&wanted("linux/arm64")).await.unwrap();
    assert_eq!((resolved.top.digest, resolved.descriptor.digest), (top, arm_digest));
    let resolved = repository.resolve(&wanted("linux/amd64")).await.unwrap();
    assert_eq!(resolved.descriptor.digest, amd_digest);
    let error = repository.resolve(&wanted("linux/s390x")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no matching manifest for linux/s390x in the manifest list entries"
    );
}

/// SEC-28: indexes without end, and a manifest without end.
#[tokio::test]
async fn bombs_are_refused_by_name() {
    let mut nest = vec![manifest(b"{}", &[])];
    for _ in 0..1000 {
        let inner = descriptor(INDEX, nest.last().unwrap().as_bytes());
        nest.push(format!(r#"{{"mediaType":"{INDEX}","manifests":[{inner}]}}"#));
    }
    let top = nest.last().unwrap().clone();
    let server = Server::start(move |r: &Request| {
        let wanted = |body: &&String| r.path.ends_with(&Digest::of(body.as_bytes()).to_string());
        let body = nest.iter().rev().take(10).find(wanted).unwrap_or(&top);
        Answer::ok(body.clone()).header("content-type", INDEX)
    })
    .await;
    let repository = open(&server, "a", Credentials::Anonymous).await;
    let error = repository.resolve(&Wanted::Host).await.unwrap_err();
    assert!(error.to_string().ends_with("indexes are nested too deep"), "{error}");
    assert!(server.requests().len() <= 4);

    let server = Server::start(|_| Answer { length: Some(1 << 30), ..answer_manifest("{") }).await;
    let repository = open(&server, "a", Credentials::Anonymous).await;
    let error = repository.document().await.unwrap_err();
    assert_eq!(error.to_string(), "manifest is larger than 4194304 bytes");
    let server = Server::start(|_| answer_manifest(vec![b' '; (4 << 20) + 1])).await;
    let repository = open(&server, "a", Credentials::Anonymous).await;
    assert!(matches!(repository.document().await, Err(RegistryError::TooLarge { .. })));
}

/// SEC-29.
#[tokio::test]
async fn ambiguous_documents_are_refused() {
    let body = format!(
        r#"{{"mediaType":"{MANIFEST}","config":{},"layers":[],"manifests":[]}}"#,
        descriptor(CONFIG, b"{}")
    );
    let server = Server::start(move |_| answer_manifest(body.clone())).await;
    let repository = open(&server, "a", Credentials::Anonymous).await;
    let error = repository.document().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("both layers and manifests"), "{error}");
}

#[tokio::test]
async fn schema_1_is_refused_by_name() {
    let server = Server::start(|_| {
        Answer::ok(r#"{"schemaVersion":1,"fsLayers":[]}"#)
            .header("content-type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
    })
    .await;
    let repository = open(&server, "a", Credentials::Anonymous).await;
    let error = repository.document().await.unwrap_err();
    assert!(matches!(error, RegistryError::Schema1(_)));
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn refusals_have_docker_s_words() {
    let server = Server::start(|r: &Request| {
        let error = |code: &str, message: &str| {
            format!(r#"{{"errors":[{{"code":"{code}","message":"{message}","detail":{{}}}}]}}"#)
        };
        let answer = |status, body: String| Answer { body: body.into(), ..Answer::new(status) };
        match r.path.as_str() {
            p if p.contains("/secret/") => {
                answer(403, error("DENIED", "requested access to the resource is denied"))
            }
            p if p.contains("/nope/") => {
                answer(404, error("NAME_UNKNOWN", "repository name not known"))
            }
            p if p.contains("/busy/") => {
                answer(429, error("TOOMANYREQUESTS", "slow down")).header("retry-after", "0")
            }
            p if p.contains("/closed/") => answer(401, String::new()),
            _ => answer(404, error("MANIFEST_UNKNOWN", "manifest unknown")),
        }
    })
    .await;
    let host = server.host();
    for (name, kind, text) in [
        (
            "a:nope",
            ErrorKind::NotFound,
            format!("manifest for {host}/a:nope not found: manifest unknown: manifest unknown"),
        ),
        (
            "secret",
            ErrorKind::NotFound,
            format!(
                "pull access denied for {host}/secret, repository does not exist or may require \
                 'docker login': denied: requested access to the resource is denied"
            ),
        ),
        (
            "nope",
            ErrorKind::NotFound,
            format!("repository {host}/nope not found: name unknown: repository name not known"),
        ),
        ("busy", ErrorKind::ResourceExhausted, "toomanyrequests: slow down".to_owned()),
        (
            "closed",
            ErrorKind::NotFound,
            format!(
                "pull access denied for {host}/closed, repository does not exist or may require \
                 'docker login': unauthorized: unauthorized"
            ),
        ),
    ] {
        let error = open(&server, name, Credentials::Anonymous).await.document().await.unwrap_err();
        assert_eq!((error.to_string(), error.kind()), (text, kind));
    }
    assert_eq!(server.requests().iter().filter(|r| r.path.contains("busy")).count(), 3);
}

#[tokio::test]
async fn a_token_is_fetched_once_and_used() {
    let server = Server::start(|r: &Request| {
        if let Some(query) = r.path.strip_prefix("/token?") {
            assert!(query.contains("scope=repository%3Aa%2Fb%3Apull"), "{query}");
            assert!(query.contains("service=reg") && query.contains("account=alice"));
            assert_eq!(r.headers["authorization"], "Basic YWxpY2U6czNjcmV0");
            return Answer::ok(r#"{"token":"T0K","expires_in":300}"#);
        }
        match r.headers.get("authorization").map(String::as_str) {
            Some("Bearer T0K") => answer_manifest(manifest(b"{}", &[])),
            _ => {
                let realm = format!("http://{}/token", r.headers["host"]);
                Answer::new(401)
                    .header("www-authenticate", format!("Bearer realm=\"{realm}\",service=\"reg\""))
            }
        }
    })
    .await;
    let repository = open(&server, "a/b", basic()).await;
    repository.document().await.unwrap();
    repository.document().await.unwrap();
    let paths: Vec<_> = server.requests().into_iter().map(|r| r.path).collect();
    assert_eq!(paths.iter().filter(|p| p.starts_with("/token")).count(), 1);
    assert_eq!(paths.len(), 4);
}

#[tokio::test]
async fn identity_and_registry_tokens() {
    let server = Server::start(|r: &Request| {
        if r.path == "/token" {
            assert_eq!(r.method, "POST");
            assert!(
                r.body.contains("grant_type=refresh_token")
                    && r.body.contains("refresh_token=R%26")
            );
            return Answer::ok(r#"{"access_token":"A"}"#);
        }
        match r.headers.get("authorization").map(String::as_str) {
            Some("Bearer A" | "Bearer direct") => answer_manifest(manifest(b"{}", &[])),
            _ => Answer::new(401).header(
                "www-authenticate",
                format!("Bearer realm=\"http://{}/token\"", r.headers["host"]),
            ),
        }
    })
    .await;
    let identity = Credentials::IdentityToken("R&".into());
    open(&server, "a", identity).await.document().await.unwrap();
    let direct = Credentials::RegistryToken("direct".into());
    open(&server, "a", direct).await.document().await.unwrap();
    let wrong = Credentials::RegistryToken("stale".into());
    let error = open(&server, "a", wrong).await.document().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn wrong_passwords_are_not_tried_forever() {
    let server =
        Server::start(|_| Answer::new(401).header("www-authenticate", "Basic realm=x")).await;
    let error = open(&server, "a", basic()).await.document().await.unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { .. }), "{error}");
    assert_eq!(server.requests().len(), 2);
}

/// SEC-30: a realm elsewhere in the clear.
#[tokio::test]
async fn credentials_go_to_no_foreign_realm() {
    let thief = Server::bind("127.0.0.2", |_| Answer::ok(r#"{"token":"x"}"#)).await;
    let port = thief.port;
    let server = Server::start(move |_| {
        let realm = format!("Bearer realm=\"http://127.0.0.2:{port}/token\"");
        Answer::new(401).header("www-authenticate", realm)
    })
    .await;
    let error = open(&server, "a", basic()).await.document().await.unwrap_err();
    assert!(matches!(error, RegistryError::Unsafe { .. }), "{error}");
    assert!(thief.seen.lock().unwrap().is_empty());
}

/// SEC-30: redirects keep the bytes coming and the credentials at home.
#[tokio::test]
async fn redirects_leave_credentials_behind() {
    let other = Server::start(|_| Answer::ok("bytes")).await;
    let port = other.port;
    let server = Server::start(move |r: &Request| match r.headers.get("authorization") {
        None => Answer::new(401).header("www-authenticate", "Basic realm=x"),
        Some(_) => Answer::new(307).header("location", format!("http://127.0.0.1:{port}/x?sig=1")),
    })
    .await;
    let repository = open(&server, "a", basic()).await;
    assert_eq!(read(&repository, &blob(b"bytes")).await.unwrap(), b"bytes");
    let seen = other.requests();
    assert_eq!(seen[0].path, "/x?sig=1");
    assert!(!seen[0].headers.contains_key("authorization"));
    assert!(server.requests()[1].headers.contains_key("authorization"));

    for target in ["http://127.0.0.2:1/x", "http://169.254.169.254/latest", "file:///etc/passwd"] {
        let server = Server::start(move |_| Answer::new(302).header("location", target)).await;
        let repository = open(&server, "a", Credentials::Anonymous).await;
        let error = read(&repository, &blob(b"x")).await.unwrap_err();
        assert!(matches!(error, RegistryError::Unsafe { .. }), "{target}: {error}");
    }
    let server =
        Server::start(|r: &Request| Answer::new(302).header("location", format!("{}x", r.path)))
            .await;
    let repository = open(&server, "a", Credentials::Anonymous).await;
    assert!(matches!(read(&repository, &blob(b"x")).await, Err(RegistryError::Protocol { .. })));
}

#[tokio::test]
async fn passing_failures_are_tried_again() {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |r: &Request| {
        if r.path == "/v2/" {
            return Answer::ok("{}");
        }
        match count.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::new(503).header("retry-after", "1"),
            1 => Answer::new(502),
            _ => answer_manifest(manifest(b"{}", &[])),
        }
    })
    .await;
    let begun = Instant::now();
    open(&server, "a", Credentials::Anonymous).await.document().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "Retry-After is honoured");
    assert_eq!(server.requests().len(), 3);

    let server = Server::start(|r: &Request| match r.path.as_str() {
        "/v2/" => Answer::ok("{}"),
        _ => Answer::new(500),
    })
    .await;
    let error = open(&server, "a", Credentials::Anonymous).await.document().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn a_silent_registry_is_given_up() {
    let server = Server::start(|r: &Request| match r.path.as_str() {
        "/v2/" => Answer::ok("{}"),
        _ => Answer { length: Some(10), hang: true, ..Answer::ok("half") },
    })
    .await;
    let repository = open(&server, "a", Credentials::Anonymous).await;
    let error = read(&repository, &blob(b"0123456789")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Slow { .. }) && error.is_transient(), "{error}");
}

#[tokio::test]
async fn no_byte_beyond_the_descriptor() {
    let server = Server::start(|r: &Request| match r.path.as_str() {
        "/v2/" => Answer::ok("{}"),
        _ => Answer::ok(vec![0; 100_000]),
    })
    .await;
    let repository = open(&server, "a", Credentials::Anonymous).await;
    let wanted = blob(&[0; 99_999]);
    assert!(matches!(read(&repository, &wanted).await, Err(RegistryError::TooLarge { .. })));
    let error = repository.small_blob(&wanted, 10).await.unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { limit: 10, .. }));
    let wrong = repository.small_blob(&blob(&[1; 100_000]), 1 << 20).await.unwrap_err();
    assert!(matches!(wrong, RegistryError::Digest { .. }));
}

#[tokio::test]
async fn ranges_resume_or_start_again() {
    let server = Server::start(|r: &Request| {
        match (r.headers.get("range").map(String::as_str), r.path.contains("/plain/")) {
            (Some("bytes=4-"), false) => Answer {
                status: 206,
                ..Answer::ok("456789").header("content-range", "bytes 4-9/10")
            },
            (Some("bytes=5-"), false) => Answer {
                status: 206,
                ..Answer::ok("456789").header("content-range", "bytes 4-9/10")
            },
            _ => Answer::ok("0123456789"),
        }
    })
    .await;
    let wanted = blob(b"0123456789");
    let repository = open(&server, "a", Credentials::Anonymous).await;
    assert_eq!(repository.blob(&wanted, 4).await.unwrap().start(), 4);
    assert!(matches!(repository.blob(&wanted, 5).await, Err(RegistryError::Protocol { .. })));
    let repository = open(&server, "plain/a", Credentials::Anonymous).await;
    let mut stream = repository.blob(&wanted, 4).await.unwrap();
    assert_eq!(stream.start(), 4);
    assert_eq!(stream.next().await.unwrap().unwrap(), "456789");
    assert!(stream.next().await.unwrap().is_none());
}

#[tokio::test]
async fn nothing_there_is_unavailable() {
    let registry = Registry::new(config()).unwrap();
    let reference = "127.0.0.1:1/a".parse().unwrap();
    let repository = registry.repository(&reference, Credentials::Anonymous).await.unwrap();
    let error = repository.document().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}
