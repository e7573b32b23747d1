//! Mirrors and Dragonfly peers, good and bad: none may cost more than two seconds, and none the
//! pull.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod fake;
mod rig;

use std::time::{Duration, Instant};

use fake::{Answer, Request, Server};
use pouch_registry::{Credentials, RegistryConfig, RegistryError};
use pouch_testkit::{Access, Fault, FaultProxy, RegistryOptions, dead_port};
use rig::{Rig, SIZE, alice, config, fetch, open, read, write_hosts};

/// Two seconds for the mirror, the rest for the pull itself in a debug build on a busy machine.
/// Less than what a mirror costs that is waited for twice.
const LIMIT: Duration = Duration::from_millis(3500);

async fn rig() -> Option<Rig> {
    Rig::start(RegistryOptions::default()).await
}

fn status(code: u16, name: &str, value: &str) -> Fault {
    Fault::Status(code, vec![(name.to_owned(), value.to_owned())])
}

#[tokio::test]
async fn a_good_mirror_serves_everything() {
    let Some(rig) = rig().await else { return };
    let mirror = FaultProxy::start(rig.registry.host());
    let config = rig.mirrored(&mirror.url());
    rig.pull(&open(config, &rig.name(), Credentials::Anonymous).await).await;
    assert!(rig.origin.seen().is_empty(), "the origin is left alone");
    assert_eq!(mirror.count("GET", "/v2/a/b/manifests/1"), 1);
    // What containerd tells a mirror of many registries.
    let host = rig.origin.host().replace(':', "%3A");
    assert_eq!(mirror.count("GET", &format!("ns={host}")), 3);
}

#[tokio::test]
async fn a_bad_mirror_costs_two_seconds_and_never_the_pull() {
    let Some(rig) = rig().await else { return };
    let nowhere = format!("http://127.0.0.1:{}", dead_port());
    let faults = [
        Fault::Cut(0),
        Fault::Cut(100),
        Fault::Cut(1_000_000),
        Fault::Stall(0),
        Fault::Stall(100),
        Fault::Stall(1_000_000),
        Fault::Truncate(50),
        Fault::Flip(20),
        Fault::Drip(40, Duration::from_millis(100)),
        Fault::Hang,
        Fault::Redirect(nowhere.clone()),
        Fault::Redirect("http://192.0.2.1".into()),
        status(503, "retry-after", "60"),
        status(429, "retry-after", "60"),
        status(500, "x", "y"),
        status(401, "www-authenticate", "Basic realm=x"),
        status(401, "www-authenticate", "Bearer realm=\"http://192.0.2.1/token\""),
        status(403, "x", "y"),
        status(404, "x", "y"),
        status(200, "x", "y"),
        status(206, "content-range", "bytes 5-9/10"),
    ];
    for fault in faults {
        for part in ["/manifests/", "/blobs/"] {
            let mirror = FaultProxy::start(rig.registry.host());
            mirror.fault("GET", part, usize::MAX, fault.clone());
            let config = rig.mirrored(&mirror.url());
            let repository = open(config, &rig.name(), Credentials::Anonymous).await;
            let begun = Instant::now();
            rig.pull(&repository).await;
            let took = begun.elapsed();
            assert!(took < LIMIT, "{fault:?} in {part}: {took:?}");
        }
    }
    let config = rig.mirrored(&nowhere);
    rig.pull(&open(config, &rig.name(), Credentials::Anonymous).await).await;
}

/// The cost is paid once, by however many blobs of however many pulls.
#[tokio::test]
async fn a_hung_mirror_is_passed_over_afterwards() {
    let Some(rig) = rig().await else { return };
    let mirror = FaultProxy::start(rig.registry.host());
    mirror.fault("GET", "/", usize::MAX, Fault::Hang);
    let registry = pouch_registry::Registry::new(rig.mirrored(&mirror.url())).unwrap();
    for _ in 0..5 {
        let name = rig.name().parse().unwrap();
        rig.pull(&registry.repository(&name, Credentials::Anonymous).await.unwrap()).await;
    }
    assert_eq!(mirror.seen().len(), 1);
}

/// Who comes late does not wait anew for what another stream already waits for.
#[tokio::test]
async fn what_one_stream_learns_all_know() {
    let Some(rig) = rig().await else { return };
    let mirror = FaultProxy::start(rig.registry.host());
    // One never begins, one stops in the middle.
    mirror.fault("GET", "/blobs/", 1, Fault::Stall(0));
    mirror.fault("GET", "/blobs/", 1, Fault::Stall(2_000_000));
    let patience = Duration::from_secs(3);
    let config = RegistryConfig { mirror_patience: patience, ..rig.mirrored(&mirror.url()) };
    let repository = open(config, &rig.name(), Credentials::Anonymous).await;
    let begun = Instant::now();
    let late = async {
        tokio::time::sleep(Duration::from_millis(2000)).await;
        read(&repository, &rig.layer, 0).await.unwrap()
    };
    let (early, late) = tokio::join!(read(&repository, &rig.layer, 0), late);
    assert!(early.unwrap() == rig.bytes && late == rig.bytes);
    assert_eq!(mirror.count("GET", "/blobs/"), 2);
    let took = begun.elapsed();
    assert!(took > patience && took < Duration::from_millis(4600), "{took:?}");
}

#[tokio::test]
async fn the_next_goes_on_where_a_mirror_stopped() {
    let Some(rig) = rig().await else { return };
    let mirror = FaultProxy::start(rig.registry.host());
    mirror.fault("GET", "/blobs/", usize::MAX, Fault::Cut(1_000_000));
    let config = rig.mirrored(&mirror.url());
    let repository = open(config, &rig.name(), Credentials::Anonymous).await;
    assert!(read(&repository, &rig.layer, 0).await.unwrap() == rig.bytes);
    let asked = rig.origin.seen();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].headers["range"], "bytes=1000000-");
    // And the answer to the look at /v2/.
    let sent = rig.origin.bytes_sent() - (rig.layer.size - 1_000_000);
    assert!(sent < 100, "{sent} bytes too many");
}

#[tokio::test]
async fn a_liar_is_not_asked_again() {
    let Some(rig) = rig().await else { return };
    let mirrors = [(); 2].map(|()| FaultProxy::start(rig.registry.host()));
    for mirror in &mirrors {
        mirror.fault("GET", "/blobs/", usize::MAX, Fault::Flip(2_000_000));
    }
    let text = format!("[host.\"{}\"]\n[host.\"{}\"]\n", mirrors[0].url(), mirrors[1].url());
    let repository = open(rig.hosts(&text), &rig.name(), Credentials::Anonymous).await;
    assert!(fetch(&repository, &rig.layer).await.unwrap() == rig.bytes);
    for place in [&mirrors[0], &mirrors[1], &rig.origin] {
        assert_eq!(place.count("GET", "/blobs/"), 1);
    }
    // When the registry itself is wrong, there is nobody left.
    rig.origin.fault("GET", "/blobs/", usize::MAX, Fault::Flip(5));
    let repository = open(config(), &rig.name(), Credentials::Anonymous).await;
    assert!(fetch(&repository, &rig.layer).await.is_none());
}

/// A mirror that failed is better than a registry that is away.
#[tokio::test]
async fn without_the_registry_a_mirror_gets_all_patience() {
    let Some(rig) = rig().await else { return };
    let mirror = FaultProxy::start(rig.registry.host());
    let text =
        format!("server = \"http://127.0.0.1:{}\"\n[host.\"{}\"]\n", dead_port(), mirror.url());
    mirror.fault("GET", "/manifests/", 2, status(503, "x", "y"));
    mirror.fault("GET", "/blobs/", 1, Fault::Cut(70_000));
    // Too slow for a mirror in the ordinary.
    mirror.fault("GET", "/blobs/", 1, Fault::Drip(60_000, Duration::from_millis(40)));
    let config = RegistryConfig { mirror_pace: 10 << 20, ..rig.hosts(&text) };
    rig.pull(&open(config, &rig.name(), Credentials::Anonymous).await).await;
}

#[tokio::test]
async fn a_mirror_is_asked_only_for_what_it_may() {
    let Some(rig) = rig().await else { return };
    let mirror = FaultProxy::start(rig.registry.host());
    let text = format!(
        "[host.\"{}\"]\ncapabilities = [\"pull\"]\n[host.\"{0}\".header]\nX-Key = \"k\"\n",
        mirror.url()
    );
    rig.pull(&open(rig.hosts(&text), &rig.name(), Credentials::Anonymous).await).await;
    assert_eq!(rig.origin.count("GET", "/manifests/1"), 1);
    assert_eq!(mirror.count("GET", "/manifests/1"), 0);
    assert_eq!(rig.origin.count("GET", "/blobs/"), 0);
    assert!(mirror.seen().iter().all(|request| request.headers["x-key"] == "k"));
}

/// SEC-30, mirrors included.
#[tokio::test]
async fn credentials_stay_away_from_mirrors() {
    let options = RegistryOptions { access: Access::Password, ..RegistryOptions::default() };
    let Some(rig) = Rig::start(options).await else { return };
    let mirror = FaultProxy::start(rig.registry.host());
    let config = rig.mirrored(&mirror.url());
    let repository = open(config, &rig.name(), alice()).await;
    rig.pull(&repository).await;
    assert!(!mirror.seen().is_empty());
    assert!(mirror.seen().iter().all(|request| !request.headers.contains_key("authorization")));
    assert!(rig.origin.seen().iter().any(|request| request.headers.contains_key("authorization")));
    // The same with the registry's place taken by another host.
    let text = format!("server = \"{}\"\n", mirror.url());
    let repository = open(rig.hosts(&text), &rig.name(), alice()).await;
    repository.document().await.unwrap_err();
    assert!(mirror.seen().iter().all(|request| !request.headers.contains_key("authorization")));
}

#[tokio::test]
async fn registry_mirrors_are_of_docker_io_alone() {
    let Some(rig) = rig().await else { return };
    let (dead, mirror) = (dead_port(), FaultProxy::start(rig.registry.host()));
    let mirrors = vec![format!("http://127.0.0.1:{dead}"), mirror.url()];
    let config = RegistryConfig { mirrors, ..config() };
    let repository = open(config.clone(), "docker.io/a/b:1", alice()).await;
    rig.pull(&repository).await;
    assert_eq!(mirror.count("GET", "/v2/a/b/manifests/1"), 1);
    assert!(mirror.seen().iter().all(|request| !request.headers.contains_key("authorization")));
    let asked = mirror.seen().len();
    rig.pull(&open(config, &rig.name(), Credentials::Anonymous).await).await;
    assert_eq!(mirror.seen().len(), asked);
}

#[tokio::test]
async fn a_broken_hosts_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    write_hosts(dir.path(), "reg.lan", "[host");
    let config = RegistryConfig { hosts_dirs: vec![dir.path().to_owned()], ..config() };
    assert!(config.validate().is_err());
    let registry = pouch_registry::Registry::new(config).unwrap();
    let name = "reg.lan/a".parse().unwrap();
    let error = registry.repository(&name, Credentials::Anonymous).await.unwrap_err();
    assert!(error.to_string().ends_with("reg.lan/hosts.toml"), "{error}");
}

// Dragonfly.

const ERROR_TYPE: &str = "x-dragonfly-error-type";

fn dragonfly(peer: &FaultProxy) -> RegistryConfig {
    RegistryConfig { dragonfly: Some(peer.url()), ..config() }
}

#[tokio::test]
async fn dragonfly_is_told_what_it_needs() {
    let Some(rig) = rig().await else { return };
    let peer = FaultProxy::start(rig.registry.host());
    rig.pull(&open(dragonfly(&peer), &rig.name(), Credentials::Anonymous).await).await;
    assert!(rig.origin.seen().is_empty());
    for request in peer.seen() {
        assert_eq!(request.headers["x-dragonfly-registry"], rig.origin.url());
        let blob = request.path.contains("/blobs/");
        assert_eq!(request.headers.contains_key("x-dragonfly-use-p2p"), blob);
        let by_digest = "x-dragonfly-enable-task-id-based-blob-digest";
        assert_eq!(request.headers.get(by_digest).map(String::as_str), blob.then_some("true"));
    }
}

#[tokio::test]
async fn dragonfly_s_own_failures_are_passed_by() {
    let Some(rig) = rig().await else { return };
    for fault in [
        status(500, ERROR_TYPE, "proxy"),
        status(502, ERROR_TYPE, "dfdaemon"),
        status(404, ERROR_TYPE, "proxy"),
        status(403, ERROR_TYPE, "dfdaemon"),
        status(404, "x", "y"),
        status(503, ERROR_TYPE, "backend"),
        Fault::Flip(200),
        Fault::Cut(10_000),
        Fault::Truncate(300),
    ] {
        let peer = FaultProxy::start(rig.registry.host());
        peer.fault("GET", "/blobs/", usize::MAX, fault.clone());
        let repository = open(dragonfly(&peer), &rig.name(), Credentials::Anonymous).await;
        let begun = Instant::now();
        rig.pull(&repository).await;
        assert!(begun.elapsed() < LIMIT, "{fault:?}: {:?}", begun.elapsed());
        assert!(rig.origin.count("GET", "/blobs/") > 0, "{fault:?}");
    }
    let dead =
        RegistryConfig { dragonfly: Some(format!("http://127.0.0.1:{}", dead_port())), ..config() };
    rig.pull(&open(dead, &rig.name(), Credentials::Anonymous).await).await;
}

/// What hangs as a whole costs what a mirror costs; a hang within it, what a registry may take.
#[tokio::test]
async fn a_dragonfly_that_hangs_is_left() {
    let Some(rig) = rig().await else { return };
    for fault in [Fault::Hang, Fault::Stall(1000)] {
        for lives in [false, true] {
            let peer = FaultProxy::start(rig.registry.host());
            peer.fault("GET", "/manifests/", usize::MAX, Fault::Drip(usize::MAX, Duration::ZERO));
            peer.fault("GET", "/blobs/", usize::MAX, fault.clone());
            if !lives {
                peer.fault("GET", "/v2/", usize::MAX, Fault::Hang);
            }
            let idle_timeout = Duration::from_secs(4);
            let config = RegistryConfig { idle_timeout, ..dragonfly(&peer) };
            let repository = open(config, &rig.name(), Credentials::Anonymous).await;
            let begun = Instant::now();
            rig.pull(&repository).await;
            let took = begun.elapsed();
            if lives {
                assert!(took > idle_timeout, "{fault:?}: {took:?}");
                assert!(took < idle_timeout + LIMIT, "{fault:?}: {took:?}");
            } else {
                assert!(took < LIMIT, "{fault:?}: {took:?}");
            }
            assert!(rig.origin.count("GET", "/blobs/") > 0, "{fault:?}");
        }
    }
}

/// For its peers each range is a download of its own, and one that was had is a blob that was had.
#[tokio::test]
async fn dragonfly_is_asked_for_whole_blobs() {
    let Some(rig) = rig().await else { return };
    let peer = FaultProxy::start(rig.registry.host());
    let config =
        RegistryConfig { parallel_above: 1 << 20, parallel_part: 512 << 10, ..dragonfly(&peer) };
    rig.pull(&open(config, &rig.name(), Credentials::Anonymous).await).await;
    assert!(peer.seen().iter().all(|request| !request.headers.contains_key("range")));
    assert!(rig.origin.seen().is_empty());
}

/// It sends nothing until it has a piece of 4 MiB.
#[tokio::test]
async fn a_dragonfly_that_is_at_work_is_waited_for() {
    let Some(rig) = rig().await else { return };
    let peer = FaultProxy::start(rig.registry.host());
    peer.fault("GET", "/blobs/", usize::MAX, Fault::Drip(SIZE / 2, Duration::from_millis(2500)));
    rig.pull(&open(dragonfly(&peer), &rig.name(), Credentials::Anonymous).await).await;
    assert!(rig.origin.seen().is_empty());
}

#[tokio::test]
async fn the_registry_s_word_through_dragonfly_is_final() {
    let Some(rig) = rig().await else { return };
    let peer = FaultProxy::start(rig.registry.host());
    peer.fault("GET", "/manifests/", 1, status(404, ERROR_TYPE, "backend"));
    peer.fault("GET", "/blobs/", 1, status(404, ERROR_TYPE, "backend"));
    peer.fault("GET", "/manifests/", 1, status(403, ERROR_TYPE, "backend"));
    let repository = open(dragonfly(&peer), &rig.name(), Credentials::Anonymous).await;
    let error = repository.document().await.unwrap_err();
    assert!(matches!(error, RegistryError::ManifestUnknown { .. }), "{error}");
    let error = repository.blob(&rig.layer, 0).await.unwrap_err();
    assert!(matches!(error, RegistryError::BlobUnknown(_)), "{error}");
    let error = repository.document().await.unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
    assert!(rig.origin.seen().is_empty());
}

/// The registry's challenge counts, not the proxy's; tokens may go there, passwords never.
#[tokio::test]
async fn dragonfly_sees_tokens_and_no_passwords() {
    let body = fake::manifest(b"{}", &[]);
    let registry = Server::start(move |r: &Request| {
        if r.path.starts_with("/token") {
            assert_eq!(r.headers["authorization"], "Basic YWxpY2U6czNjcmV0");
            return Answer::ok(r#"{"token":"T0K"}"#);
        }
        match r.headers.get("authorization").map(String::as_str) {
            Some("Bearer T0K") => Answer::ok(body.clone()).header("content-type", fake::MANIFEST),
            _ => Answer::new(401).header(
                "www-authenticate",
                format!("Bearer realm=\"http://{}/token\",service=\"r\"", r.headers["host"]),
            ),
        }
    })
    .await;
    let peer = FaultProxy::start(registry.host());
    // A proxy that names a token service of its own.
    let thief = FaultProxy::start(registry.host());
    let realm = format!("Bearer realm=\"{}/token\"", thief.url());
    let challenge = Fault::Status(
        401,
        vec![("www-authenticate".to_owned(), realm), (ERROR_TYPE.to_owned(), "backend".to_owned())],
    );
    peer.fault("GET", "/manifests/", 1, challenge);
    let name = format!("{}/a:1", registry.host());
    let repository = open(dragonfly(&peer), &name, alice()).await;
    repository.document().await.unwrap();
    let seen = peer.seen();
    assert!(!seen[0].headers.contains_key("authorization"));
    assert_eq!(seen[1].headers["authorization"], "Bearer T0K");
    assert!(thief.seen().is_empty());
    assert_eq!(registry.requests().iter().filter(|r| r.path.starts_with("/token")).count(), 1);

    let options = RegistryOptions { access: Access::Password, ..RegistryOptions::default() };
    let Some(rig) = Rig::start(options).await else { return };
    let peer = FaultProxy::start(rig.registry.host());
    rig.pull(&open(dragonfly(&peer), &rig.name(), alice()).await).await;
    assert!(peer.seen().iter().all(|request| !request.headers.contains_key("authorization")));
}
