//! Namespaces on a real kernel; needs root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use pouch_netns::{
    IdMap, IdMaps, Ipv6, Netns, NetnsError, Pinned, Pod, list, pin_pid, remove, remove_pod,
};

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

fn user_maps() -> IdMaps {
    let map = IdMap { container: 0, host: 300_000, size: 65_536 };
    IdMaps { uids: vec![map], gids: vec![map] }
}

/// What `script` prints in what is pinned.
fn inside(pinned: &Pinned, script: &str) -> String {
    let mut command = Command::new("nsenter");
    let kinds = [("user", &pinned.user), ("net", &pinned.net), ("ipc", &pinned.ipc)];
    for (kind, path) in kinds.into_iter().chain([("uts", &pinned.uts)]) {
        if let Some(path) = path {
            command.arg(format!("--{kind}={}", path.display()));
        }
    }
    let output = command.args(["sh", "-c", script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn assert_gone(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(directory.to_str().unwrap()), "{mounts}");
    assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let helpers = threads.filter(|thread| {
        let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        name.trim() == "userns"
    });
    assert_eq!(helpers.count(), 0);
}

#[test]
fn a_pod_has_its_names_parameters_and_memory_without_a_process() {
    if !root() {
        return;
    }
    let outside =
        ["net", "ipc", "uts", "user"].map(|n| inode(&format!("/proc/thread-self/ns/{n}")));
    for user in [None, Some(user_maps())] {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path().join("deep/pod");
        let sysctls = [
            ("net.core.somaxconn", "77"),
            ("kernel.shm_rmid_forced", "1"),
            ("kernel.msgmax", "4242"),
            ("net/ipv4/ip_forward", "1"),
        ];
        let pod = Pod {
            net: Some(Ipv6::Disabled),
            ipc: Some(1 << 20),
            uts: Some("peapod".to_owned()),
            sysctls: sysctls.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            user: user.clone(),
        };
        let pinned = pod.create(&dir).unwrap();
        assert_eq!(Pinned::find(&dir).unwrap(), pinned);
        let now =
            ["net", "ipc", "uts", "user"].map(|n| inode(&format!("/proc/thread-self/ns/{n}")));
        assert_eq!(now, outside, "the caller stays where it is");
        assert_eq!(inside(&pinned, "hostname"), "peapod");
        let read = "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shm_rmid_forced \
             /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_forward";
        assert_eq!(inside(&pinned, read), "77\n1\n4242\n1");
        assert!(inside(&pinned, "ip link show lo").contains("UP"));
        let links =
            inside(&pinned, "for n in net ipc uts user; do readlink /proc/self/ns/$n; done");
        let links: Vec<_> = links.lines().collect();
        for (index, link) in links[..3].iter().enumerate() {
            assert_ne!(*link, outside[index]);
        }
        assert_eq!(links[3] == outside[3], user.is_none());
        if user.is_some() {
            assert_eq!(inside(&pinned, "cat /proc/self/uid_map | tr -s ' '"), "0 300000 65536");
            // Theirs, so their root may change them.
            inside(&pinned, "hostname other");
        }
        let shm = pinned.shm.clone().unwrap();
        let stat = rustix::fs::statfs(&shm).unwrap();
        assert_eq!(stat.f_blocks * u64::try_from(stat.f_bsize).unwrap(), 1 << 20);
        fs::write(shm.join("left"), "x").unwrap();
        remove_pod(&dir).unwrap();
        remove_pod(&dir).unwrap();
        assert!(matches!(Pinned::find(&dir), Err(NetnsError::NotFound { .. })));
        assert_gone(dir.parent().unwrap());
    }
}

#[test]
fn what_is_not_asked_for_is_the_hosts_and_a_crash_is_made_good() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("pod");
    // As a daemon leaves it that dies in between, or a reboot.
    fs::create_dir_all(dir.join("shm")).unwrap();
    fs::write(dir.join("net"), "").unwrap();
    assert!(matches!(Pinned::find(&dir), Err(NetnsError::NotANamespace { .. })));
    let pod = Pod { uts: Some("a".to_owned()), ..Pod::default() };
    let pinned = pod.create(&dir).unwrap();
    assert_eq!((&pinned.net, &pinned.ipc, &pinned.shm), (&None, &None, &None));
    assert!(!dir.join("net").exists() && !dir.join("shm").exists());
    // Made again over what is whole.
    pod.create(&dir).unwrap();
    remove_pod(&dir).unwrap();

    // A parameter that the kernel refuses leaves nothing.
    for user in [None, Some(user_maps())] {
        let sysctls = [("kernel.msgmax".to_owned(), "many".to_owned())];
        let pod = Pod { ipc: Some(1 << 16), sysctls: sysctls.into(), user, ..Pod::default() };
        let error = pod.create(&dir).unwrap_err();
        let NetnsError::Io { path, source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(path, Path::new("/proc/sys/kernel/msgmax"));
        assert_eq!(source.raw_os_error(), Some(22));
        assert_gone(directory.path());
    }
    // And so does a mapping.
    let mut maps = user_maps();
    maps.uids.push(maps.uids[0]);
    let pod = Pod { uts: Some("a".to_owned()), user: Some(maps), ..Pod::default() };
    pod.create(&dir).unwrap_err();
    assert_gone(directory.path());
}

#[test]
fn pods_are_made_side_by_side() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let dir = directory.path().join(worker.to_string());
            scope.spawn(move || {
                for _ in 0..10 {
                    let pod = Pod {
                        net: Some(Ipv6::Enabled),
                        ipc: Some(1 << 16),
                        uts: Some(worker.to_string()),
                        user: (worker % 2 == 0).then(user_maps),
                        ..Pod::default()
                    };
                    pod.create(&dir).unwrap();
                    remove_pod(&dir).unwrap();
                }
            });
        }
    });
    assert_gone(directory.path());
}

#[test]
fn a_namespace_of_processes_stays_itself_when_its_first_process_has_ended() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("pod");
    let mut first = Command::new("unshare")
        .args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            "echo up; exec sleep 600",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(first.stdout.as_mut().unwrap()),
        &mut line,
    )
    .unwrap();
    let children = format!("/proc/{0}/task/{0}/children", first.id());
    let pid: u32 = fs::read_to_string(children).unwrap().trim().parse().unwrap();
    let path = pin_pid(&dir, pid).unwrap();
    assert!(matches!(pin_pid(&dir, pid), Err(NetnsError::Exists { .. })));
    assert_eq!(Pinned::find(&dir).unwrap().pid.as_ref(), Some(&path));
    let joins = || {
        let inside = ["-c", "test $$ != 1 && exit 7"];
        let path = format!("--pid={}", path.display());
        Command::new("nsenter").args([&path, "sh"]).args(inside).status().unwrap().code()
    };
    assert_eq!(joins(), Some(7));
    first.kill().unwrap();
    first.wait().unwrap();
    let deadline = Instant::now() + std::time::Duration::from_secs(30);
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < deadline, "the first process ends with its parent");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_ne!(joins(), Some(7), "nothing runs in it any more");
    remove_pod(&dir).unwrap();
    assert_gone(directory.path());
    assert!(pin_pid(&dir, pid).is_err());
}
