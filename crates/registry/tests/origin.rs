//! Blobs from a registry whose line is bad.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod rig;

use std::time::{Duration, Instant};

use pouch_registry::{Credentials, RegistryConfig, RegistryError};
use pouch_testkit::{Access, Fault, FaultProxy, RegistryOptions};
use pouch_types::Digest;
use rig::{Rig, SIZE, alice, config, open, read};

async fn rig() -> Option<Rig> {
    Rig::start(RegistryOptions::default()).await
}

fn status(code: u16, name: &str, value: &str) -> Fault {
    Fault::Status(code, vec![(name.to_owned(), value.to_owned())])
}

#[tokio::test]
async fn a_blob_survives_fifty_cuts() {
    let Some(rig) = rig().await else { return };
    rig.origin.fault("GET", "/blobs/", 50, Fault::Cut(60_000));
    let repository = open(config(), &rig.name(), Credentials::Anonymous).await;
    let begun = Instant::now();
    assert!(read(&repository, &rig.layer, 0).await.unwrap() == rig.bytes);
    assert_eq!(rig.origin.count("GET", "/blobs/"), 51);
    // Resumed, not begun anew: what came came once.
    assert!(rig.origin.bytes_sent() < rig.layer.size + 1000);
    assert!(begun.elapsed() < Duration::from_secs(5), "progress needs no back-off");
}

#[tokio::test]
async fn a_line_that_gives_nothing_is_given_up() {
    let Some(rig) = rig().await else { return };
    rig.origin.fault("GET", "/blobs/", usize::MAX, Fault::Cut(100));
    let repository = open(config(), &rig.name(), Credentials::Anonymous).await;
    let error = read(&repository, &rig.layer, 0).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(rig.origin.count("GET", "/blobs/"), 5);
    rig.origin.heal();
    assert!(read(&repository, &rig.layer, 0).await.unwrap() == rig.bytes);
}

#[tokio::test]
async fn a_registry_without_ranges_is_read_past() {
    let Some(rig) = rig().await else { return };
    rig.origin.fault("GET", "/blobs/", 1, Fault::Cut(1_000_000));
    rig.origin.fault("GET", "/blobs/", usize::MAX, Fault::IgnoreRange);
    let repository = open(config(), &rig.name(), Credentials::Anonymous).await;
    assert!(read(&repository, &rig.layer, 0).await.unwrap() == rig.bytes);
    assert!(read(&repository, &rig.layer, 2_000_000).await.unwrap() == rig.bytes[2_000_000..]);
    assert!(read(&repository, &rig.layer, rig.layer.size).await.unwrap().is_empty());
}

#[tokio::test]
async fn patience_is_what_the_registry_asks_for() {
    let Some(rig) = rig().await else { return };
    rig.origin.fault("GET", "/blobs/", 1, status(429, "retry-after", "1"));
    let repository = open(config(), &rig.name(), Credentials::Anonymous).await;
    let begun = Instant::now();
    assert!(read(&repository, &rig.layer, 0).await.unwrap() == rig.bytes);
    assert!(begun.elapsed() >= Duration::from_secs(1), "Retry-After is honoured");
    // More than anybody waits for.
    rig.origin.fault("GET", "/blobs/", 1, status(429, "retry-after", "3600"));
    let begun = Instant::now();
    let error = read(&repository, &rig.layer, 0).await.unwrap_err();
    assert!(matches!(error, RegistryError::RateLimited { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(1));
    rig.origin.fault("GET", "/blobs/", 4, status(503, "x", "y"));
    assert!(read(&repository, &rig.layer, 0).await.unwrap() == rig.bytes);
}

/// SEC-30.
#[tokio::test]
async fn redirects_take_no_credentials_along() {
    let options = RegistryOptions { access: Access::Password, ..RegistryOptions::default() };
    let Some(rig) = Rig::start(options).await else { return };
    // It stands for a store of blobs: open to whoever has the URL.
    let open_options = RegistryOptions::default();
    let Some(store) = Rig::start(open_options).await else { return };
    let repository = open(config(), &rig.name(), alice()).await;
    repository.document().await.unwrap();
    rig.origin.fault("GET", "/blobs/", usize::MAX, Fault::Redirect(store.origin.url()));
    assert!(read(&repository, &rig.layer, 0).await.unwrap() == rig.bytes);
    assert!(read(&repository, &rig.layer, 1000).await.unwrap() == rig.bytes[1000..]);
    let seen = store.origin.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1].headers["range"], "bytes=1000-");
    assert!(seen.iter().all(|request| !request.headers.contains_key("authorization")));
}

fn in_parts() -> RegistryConfig {
    RegistryConfig {
        parallel_above: 1 << 20,
        parallel_part: 256 << 10,
        parallel_ranges: 3,
        ..config()
    }
}

#[tokio::test]
async fn big_blobs_come_in_ranges_and_in_order() {
    let Some(rig) = rig().await else { return };
    let repository = open(in_parts(), &rig.name(), Credentials::Anonymous).await;
    assert!(read(&repository, &rig.layer, 0).await.unwrap() == rig.bytes);
    assert_eq!(rig.origin.count("GET", "/blobs/"), SIZE >> 18);
    let ranges: Vec<_> =
        rig.origin.seen().into_iter().map(|r| r.headers["range"].clone()).collect();
    assert!(ranges.contains(&"bytes=0-262143".to_owned()));
    assert!(ranges.contains(&"bytes=262144-524287".to_owned()));
    // The rest of one that was begun; a small rest comes as one.
    let rest = read(&repository, &rig.layer, 100_001).await.unwrap();
    assert!(rest == rig.bytes[100_001..]);
    let asked = rig.origin.count("GET", "/blobs/");
    assert!(read(&repository, &rig.layer, 2_500_000).await.unwrap() == rig.bytes[2_500_000..]);
    assert_eq!(rig.origin.count("GET", "/blobs/"), asked + 1);
}

#[tokio::test]
async fn ranges_have_their_own_accidents() {
    let Some(rig) = rig().await else { return };
    for fault in [
        Fault::Cut(50_000),
        Fault::Drip(20_000, Duration::from_millis(5)),
        status(503, "x", "y"),
        Fault::Truncate(70_000),
        Fault::IgnoreRange,
    ] {
        rig.origin.heal();
        // Fewer than the attempts, so that one range may have them all.
        rig.origin.fault("GET", "/blobs/", 4, fault.clone());
        let repository = open(in_parts(), &rig.name(), Credentials::Anonymous).await;
        let bytes = read(&repository, &rig.layer, 0).await.unwrap();
        assert!(bytes == rig.bytes, "{fault:?}");
    }
    // Mirrors too, each range for itself.
    rig.origin.heal();
    let mirror = FaultProxy::start(rig.registry.host());
    mirror.fault("GET", "/blobs/", 2, Fault::Drip(1 << 17, Duration::ZERO));
    mirror.fault("GET", "/blobs/", usize::MAX, Fault::Cut(1000));
    let config =
        RegistryConfig { hosts_dirs: rig.mirrored(&mirror.url()).hosts_dirs, ..in_parts() };
    let repository = open(config, &rig.name(), Credentials::Anonymous).await;
    let bytes = read(&repository, &rig.layer, 0).await.unwrap();
    assert_eq!(Digest::of(&bytes), rig.layer.digest);
}

/// A receiver that takes its time keeps memory bounded, and loses nothing.
#[tokio::test]
async fn a_slow_receiver_is_no_slow_source() {
    let Some(rig) = rig().await else { return };
    let mirror = FaultProxy::start(rig.registry.host());
    let config = RegistryConfig {
        hosts_dirs: rig.mirrored(&mirror.url()).hosts_dirs,
        mirror_patience: Duration::from_millis(400),
        ..in_parts()
    };
    let repository = open(config, &rig.name(), Credentials::Anonymous).await;
    let mut stream = repository.blob(&rig.layer, 0).await.unwrap();
    let mut bytes = stream.next().await.unwrap().unwrap().to_vec();
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert!(mirror.bytes_sent() < 4 << 18, "no more than the ranges at once are fetched ahead");
    while let Some(chunk) = stream.next().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    assert!(bytes == rig.bytes);
    assert_eq!(rig.origin.count("GET", "/blobs/"), 0, "the mirror was not blamed");
}
