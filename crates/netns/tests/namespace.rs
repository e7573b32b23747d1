//! Namespaces on a real kernel; needs root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::time::Instant;

use pouch_netns::{Ipv6, Netns, NetnsError, list, remove};

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: making network namespaces needs root");
    }
    root
}

fn inode(path: &str) -> String {
    fs::read_link(path).unwrap().display().to_string()
}

fn sysctl(name: &str) -> String {
    fs::read_to_string(Path::new("/proc/sys/net").join(name)).unwrap().trim().to_owned()
}

#[test]
fn made_entered_and_removed() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/ns");
    let outside = inode("/proc/thread-self/ns/net");
    let ns = Netns::create(&path, Ipv6::Disabled).unwrap();
    assert_eq!(inode("/proc/thread-self/ns/net"), outside, "the caller stays where it is");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(path.parent().unwrap()).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o700);

    let (inside, lo, v6, ra) = ns
        .run(|| {
            (
                inode("/proc/thread-self/ns/net"),
                std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| {
                    std::net::TcpStream::connect(listener.local_addr()?).map(drop)
                }),
                sysctl("ipv6/conf/default/disable_ipv6"),
                sysctl("ipv6/conf/default/accept_ra"),
            )
        })
        .unwrap();
    assert_ne!(inside, outside);
    lo.unwrap();
    assert_eq!((v6.as_str(), ra.as_str()), ("1", "0"));

    assert!(matches!(Netns::create(&path, Ipv6::Disabled), Err(NetnsError::Exists { .. })));
    let again = Netns::open(&path).unwrap();
    assert_eq!(again.run(|| inode("/proc/thread-self/ns/net")).unwrap(), inside);
    assert!(matches!(ns.run(|| panic!("on purpose")), Err(NetnsError::Panicked)));

    remove(&path).unwrap();
    remove(&path).unwrap();
    assert!(matches!(Netns::open(&path), Err(NetnsError::NotFound { .. })));
    assert!(list(path.parent().unwrap()).unwrap().is_empty());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(directory.path().to_str().unwrap()));
}

#[tokio::test]
async fn the_async_forms_do_the_same_and_ipv6_can_stay() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ns");
    let ns = Netns::create_async(&path, Ipv6::Enabled).await.unwrap();
    let v6 = ns.run_async(|| sysctl("ipv6/conf/default/disable_ipv6")).await.unwrap();
    remove(&path).unwrap();
    assert_eq!(v6, "0");
}

#[test]
fn many_leave_nothing() {
    if !root() {
        return;
    }
    const ROUNDS: u32 = 100;
    let directory = tempfile::tempdir().unwrap();
    let count = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = count();
    let (mut made, mut removed) = (0.0, 0.0);
    for round in 0..ROUNDS {
        let path = directory.path().join(round.to_string());
        let start = Instant::now();
        let ns = Netns::create(&path, Ipv6::Disabled).unwrap();
        made += start.elapsed().as_secs_f64() * 1e3;
        drop(ns);
        let start = Instant::now();
        remove(&path).unwrap();
        removed += start.elapsed().as_secs_f64() * 1e3;
    }
    let n = f64::from(ROUNDS);
    println!("create {:.3} ms, remove {:.3} ms on average", made / n, removed / n);
    assert!(list(directory.path()).unwrap().is_empty());
    // Other tests of this binary run at the same time and hold a few descriptors.
    assert!(count() < before + 20, "descriptors leak");
}
