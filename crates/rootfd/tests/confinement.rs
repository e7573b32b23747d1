//! What hostile trees can and cannot do to somebody who works in them through `RootFd`.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pouch_rootfd::{Error, FileTime, FileType, RootFd};
use pouch_types::{Classified, ErrorKind};
use rustix::fs::{CWD, RenameFlags};

/// A root and, beside it, a secret that nothing may reach.
struct Rig {
    _dir: tempfile::TempDir,
    host: PathBuf,
    root: RootFd,
    path: PathBuf,
}

fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("secret"), "canary").unwrap();
    let path = dir.path().join("root");
    fs::create_dir(&path).unwrap();
    fs::create_dir(path.join("etc")).unwrap();
    fs::write(path.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
    let root = RootFd::open(&path).unwrap();
    Rig { _dir: dir, host, root, path }
}

fn host_intact(rig: &Rig) {
    assert_eq!(fs::read_to_string(rig.host.join("secret")).unwrap(), "canary");
    assert_eq!(fs::read_dir(&rig.host).unwrap().count(), 1);
}

#[test]
fn links_resolve_inside_the_root() {
    let rig = rig();
    symlink("/etc", rig.path.join("absolute")).unwrap();
    symlink("../../../../../../etc", rig.path.join("climbing")).unwrap();
    symlink("absolute", rig.path.join("chained")).unwrap();
    for path in ["absolute/passwd", "/climbing/passwd", "chained/passwd", "../../etc/passwd"] {
        let text = rig.root.read_to_string_bounded(path, 4096).unwrap();
        assert_eq!(text, "root:x:0:0::/:/bin/sh\n", "{path}");
    }
}

#[test]
fn host_paths_do_not_exist_inside() {
    let rig = rig();
    symlink(&rig.host, rig.path.join("out")).unwrap();
    symlink(rig.host.join("secret"), rig.path.join("leak")).unwrap();
    assert_eq!(rig.root.resolve("out").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(rig.root.read_bounded("out/secret", 100).unwrap_err().is_not_found());
    assert!(rig.root.read_bounded("leak", 100).unwrap_err().is_not_found());
    // The link itself can be seen, never what it names.
    assert_eq!(rig.root.symlink_metadata("leak").unwrap().file_type(), FileType::Symlink);
}

#[test]
fn magic_links_are_refused() {
    let root = RootFd::open("/proc").unwrap();
    let error = root.resolve("self/root/etc").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(root.resolve("self/cwd").is_err());
    assert!(root.resolve("self/status").is_ok());
}

#[test]
fn link_loops_end() {
    let rig = rig();
    symlink("b", rig.path.join("a")).unwrap();
    symlink("a", rig.path.join("b")).unwrap();
    assert_eq!(rig.root.resolve("a").unwrap_err().kind(), ErrorKind::Invalid);
    assert!(rig.root.create_dir_all("a/x", 0o755).is_err());
}

#[test]
fn only_short_regular_files_are_read() {
    let rig = rig();
    rustix::fs::mknodat(CWD, rig.path.join("fifo"), FileType::Fifo, 0o666.into(), 0).unwrap();
    let huge = fs::File::create(rig.path.join("huge")).unwrap();
    huge.set_len(4 << 30).unwrap();
    let began = Instant::now();
    for (path, what) in [("fifo", "fifo"), ("etc", "directory")] {
        match rig.root.open_file(path, 1 << 20).unwrap_err() {
            Error::NotRegular { found, .. } => assert_eq!(found, what),
            other => panic!("{path}: {other}"),
        }
    }
    assert!(matches!(rig.root.open_file("huge", 1 << 20), Err(Error::TooLarge { .. })));
    if rustix::process::geteuid().is_root() {
        let zero = rustix::fs::makedev(1, 5);
        let at = rig.path.join("zero");
        rustix::fs::mknodat(CWD, &at, FileType::CharacterDevice, 0o666.into(), zero).unwrap();
        assert!(matches!(rig.root.open_file("zero", 10), Err(Error::NotRegular { .. })));
    } else {
        println!("not root: the device node is not tried");
    }
    assert!(began.elapsed() < Duration::from_secs(1), "a reader blocked");
}

#[test]
fn a_file_that_grows_after_opening_is_an_error_not_a_short_read() {
    let rig = rig();
    let path = rig.path.join("growing");
    fs::write(&path, "12345").unwrap();
    let whole = rig.root.open_file("growing", 5).unwrap();
    let mut piecewise = rig.root.open_file("growing", 5).unwrap();
    assert_eq!(rig.root.read_bounded("growing", 5).unwrap(), b"12345");
    fs::write(&path, "1234567890").unwrap();
    assert!(matches!(whole.read_all(), Err(Error::TooLarge { limit: 5, .. })));
    let mut sink = Vec::new();
    assert!(piecewise.read_to_end(&mut sink).is_err());
    assert_eq!(sink, b"12345");
}

#[test]
fn text_must_be_text() {
    let rig = rig();
    fs::write(rig.path.join("binary"), b"\xff\xfe").unwrap();
    let error = rig.root.read_to_string_bounded("binary", 10).unwrap_err();
    assert!(matches!(error, Error::NotText { .. }));
}

#[test]
fn creating_directories_stays_inside() {
    let rig = rig();
    symlink(&rig.host, rig.path.join("dangling")).unwrap();
    symlink("/etc", rig.path.join("good")).unwrap();
    let error = rig.root.create_dir_all("dangling/x", 0o755).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    let made = rig.root.create_dir_all("good/../good/a/b", 0o750).unwrap();
    assert_eq!(made.metadata().unwrap().mode(), 0o750);
    assert!(rig.path.join("etc/a/b").is_dir());
    rig.root.create_dir_all("/../../../up", 0o755).unwrap();
    assert!(rig.path.join("up").is_dir());
    assert!(rig.root.create_dir_all("etc/passwd/x", 0o755).is_err());
    host_intact(&rig);
}

#[test]
fn writing_replaces_a_planted_link_and_leaves_its_target() {
    let rig = rig();
    for target in [rig.host.join("secret"), PathBuf::from("/etc/passwd")] {
        symlink(&target, rig.path.join("etc/hosts")).unwrap();
        rig.root.replace_file("/etc/hosts", b"127.0.0.1 localhost\n", 0o644).unwrap();
        let meta = fs::symlink_metadata(rig.path.join("etc/hosts")).unwrap();
        assert!(meta.is_file());
        assert_eq!(meta.permissions().mode() & 0o7777, 0o644);
        fs::remove_file(rig.path.join("etc/hosts")).unwrap();
    }
    assert!(fs::read_to_string(rig.path.join("etc/passwd")).unwrap().starts_with("root:"));
    assert!(rig.root.replace_file("etc", b"", 0o644).is_err());
    assert_eq!(fs::read_dir(rig.path.join("etc")).unwrap().count(), 1, "temporary file left");
    assert_eq!(fs::read_dir(&rig.path).unwrap().count(), 1, "temporary file left");
    host_intact(&rig);
}

#[test]
fn exclusive_creation_does_not_follow() {
    let rig = rig();
    symlink(rig.host.join("new"), rig.path.join("link")).unwrap();
    let error = rig.root.create_file_excl("link", 0o644).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    host_intact(&rig);
}

#[test]
fn metadata_operations_act_on_the_pinned_object() {
    let rig = rig();
    symlink(rig.host.join("secret"), rig.path.join("link")).unwrap();
    fs::write(rig.path.join("file"), "x").unwrap();
    let before = fs::metadata(rig.host.join("secret")).unwrap();
    let file = rig.root.resolve("file").unwrap();
    // The name now leads elsewhere; the descriptor does not.
    fs::rename(rig.path.join("file"), rig.path.join("moved")).unwrap();
    symlink(rig.host.join("secret"), rig.path.join("file")).unwrap();
    file.chmod(0o4711).unwrap();
    let when = FileTime { seconds: 1_000_000, nanoseconds: 5 };
    file.set_times(None, Some(when)).unwrap();
    let meta = fs::metadata(rig.path.join("moved")).unwrap();
    assert_eq!(meta.permissions().mode() & 0o7777, 0o4711);
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_000_000, 5));
    assert_eq!(file.metadata().unwrap().modified(), when);

    assert!(rig.root.chmod("link", 0o777).is_err(), "a link has no mode");
    rig.root.set_times("link", Some(when), Some(when)).unwrap();
    assert_eq!(rig.root.symlink_metadata("link").unwrap().modified(), when);
    if rustix::process::geteuid().is_root() {
        rig.root.chown("link", Some(12), Some(34)).unwrap();
        file.chown(Some(56), None).unwrap();
        assert_eq!(rig.root.symlink_metadata("link").unwrap().uid(), 12);
        assert_eq!(fs::metadata(rig.path.join("moved")).unwrap().uid(), 56);
    } else {
        println!("not root: chown is not tried");
    }
    let after = fs::metadata(rig.host.join("secret")).unwrap();
    assert_eq!(
        (before.mode(), before.uid(), before.mtime()),
        (after.mode(), after.uid(), after.mtime())
    );
}

#[test]
fn attributes_of_files_and_links() {
    if !rustix::process::geteuid().is_root() {
        println!("not root: trusted attributes are not tried");
        return;
    }
    let rig = rig();
    let etc = rig.root.resolve("etc").unwrap();
    etc.set_xattr("user.pouch", b"\0value").unwrap();
    assert_eq!(etc.xattr("user.pouch").unwrap().unwrap(), b"\0value");
    assert_eq!(etc.xattr_names().unwrap(), [OsString::from("user.pouch")]);
    etc.remove_xattr("user.pouch").unwrap();
    etc.remove_xattr("user.pouch").unwrap();
    assert_eq!(etc.xattr("user.pouch").unwrap(), None);

    symlink("passwd", rig.path.join("etc/link")).unwrap();
    etc.set_xattr_of("link", "trusted.pouch", b"1").unwrap();
    assert_eq!(etc.xattr_of("link", "trusted.pouch").unwrap().unwrap(), b"1");
    assert_eq!(etc.xattr_of("passwd", "trusted.pouch").unwrap(), None);
    assert_eq!(etc.xattr_names_of("link").unwrap(), [OsString::from("trusted.pouch")]);
}

#[test]
fn hard_links_never_follow() {
    let rig = rig();
    symlink(rig.host.join("secret"), rig.path.join("link")).unwrap();
    rig.root.hard_link("link", "second").unwrap();
    assert!(fs::symlink_metadata(rig.path.join("second")).unwrap().is_symlink());
    rig.root.hard_link("etc/passwd", "etc/copy").unwrap();
    assert_eq!(fs::metadata(rig.path.join("etc/copy")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(rig.host.join("secret")).unwrap().nlink(), 1);
}

#[test]
fn entry_names_are_single_components() {
    let rig = rig();
    let root = rig.root.pin().unwrap();
    let long = "n".repeat(256);
    for bad in ["", ".", "..", "a/b", "/", "a\0b", &long] {
        assert!(matches!(root.pin(bad), Err(Error::InvalidName { .. })), "{bad:?}");
        assert!(matches!(root.remove_tree(bad), Err(Error::InvalidName { .. })), "{bad:?}");
        assert!(matches!(root.create_dir(bad, 0o755), Err(Error::InvalidName { .. })), "{bad:?}");
    }
    for bad in ["/", "..", "etc/..", "etc/.", ""] {
        assert!(rig.root.remove_tree(bad).is_err(), "{bad:?}");
    }
    assert!(rig.path.join("etc/passwd").exists());
}

#[test]
fn removal_does_not_follow_links_out() {
    let rig = rig();
    fs::create_dir_all(rig.path.join("tree/a/b")).unwrap();
    symlink(&rig.host, rig.path.join("tree/a/out")).unwrap();
    symlink("/", rig.path.join("tree/a/b/root")).unwrap();
    fs::write(rig.path.join("tree/a/file"), "").unwrap();
    rig.root.remove_tree("tree").unwrap();
    assert!(!rig.path.join("tree").exists());
    rig.root.remove_tree("tree").unwrap();
    symlink(&rig.host, rig.path.join("just-a-link")).unwrap();
    rig.root.remove_tree("just-a-link").unwrap();
    host_intact(&rig);
}

#[test]
fn removal_of_a_tree_deeper_than_any_path() {
    let rig = rig();
    let mut here = rig.root.create_dir_all("deep", 0o755).unwrap();
    for level in 0..3000u32 {
        here.create_dir("d", 0o755).unwrap();
        if level % 100 == 0 {
            here.create_file_excl("f", 0o644).unwrap();
        }
        here = here.pin_dir("d").unwrap();
    }
    drop(here);
    rig.root.remove_tree("deep").unwrap();
    assert!(!rig.path.join("deep").exists());
}

#[test]
fn removal_of_a_wide_tree() {
    let rig = rig();
    for directory in 0..20 {
        let path = rig.path.join(format!("wide/{directory}"));
        fs::create_dir_all(&path).unwrap();
        for file in 0..200 {
            fs::write(path.join(file.to_string()), "").unwrap();
        }
    }
    rig.root.remove_tree("wide").unwrap();
    assert!(!rig.path.join("wide").exists());
}

/// A child in a mount namespace of its own, so that nothing is left behind.
fn in_own_mount_namespace(test: &str, body: impl FnOnce()) {
    if !rustix::process::geteuid().is_root() {
        println!("not root: {test} is skipped");
        return;
    }
    if std::env::var_os("POUCH_ROOTFD_NAMESPACE").is_some() {
        body();
        return;
    }
    let status = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("POUCH_ROOTFD_NAMESPACE", "1")
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn removal_stops_at_mounts() {
    in_own_mount_namespace("removal_stops_at_mounts", || {
        let rig = rig();
        fs::create_dir_all(rig.path.join("tree/a/mounted")).unwrap();
        fs::write(rig.path.join("tree/file"), "").unwrap();
        // A bind mount of the same file system: only the mount id tells.
        rustix::mount::mount_bind(&rig.host, rig.path.join("tree/a/mounted")).unwrap();
        let error = rig.root.remove_tree("tree").unwrap_err();
        assert!(matches!(&error, Error::MountPoint { path } if path.ends_with("tree/a/mounted")));
        assert_eq!(error.kind(), ErrorKind::Conflict);
        host_intact(&rig);
        rustix::mount::unmount(
            rig.path.join("tree/a/mounted"),
            rustix::mount::UnmountFlags::empty(),
        )
        .unwrap();
        rig.root.remove_tree("tree").unwrap();
    });
}

#[test]
fn a_directory_swapped_for_a_link_never_leads_out() {
    let rig = rig();
    fs::create_dir(rig.path.join("d")).unwrap();
    fs::write(rig.path.join("d/secret"), "inside").unwrap();
    symlink(&rig.host, rig.path.join("evil")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (stop, d, evil) = (stop.clone(), rig.path.join("d"), rig.path.join("evil"));
        std::thread::spawn(move || {
            let mut swaps = 0u64;
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(CWD, &d, CWD, &evil, RenameFlags::EXCHANGE).unwrap();
                swaps += 1;
            }
            swaps
        })
    };
    let mut inside = 0u32;
    for round in 0..3000u32 {
        if let Ok(text) = rig.root.read_to_string_bounded("d/secret", 100) {
            assert_eq!(text, "inside");
            inside += 1;
        }
        let name = format!("d/new-{round}");
        if let Ok(mut file) = rig.root.create_file_excl(&name, 0o644) {
            std::io::Write::write_all(&mut file, b"x").unwrap();
            let _ = rig.root.remove_file(&name);
        }
        let _ = rig.root.chmod("d/secret", 0o600);
    }
    stop.store(true, Ordering::Relaxed);
    assert!(swapper.join().unwrap() > 0);
    assert!(inside > 0, "never saw the directory; the race was not exercised");
    host_intact(&rig);
}

#[test]
fn special_files_and_renames() {
    let rig = rig();
    rig.root.mknod("pipe", FileType::Fifo, 0o600, (0, 0)).unwrap();
    assert_eq!(rig.root.metadata("pipe").unwrap().file_type(), FileType::Fifo);
    rig.root.rename("pipe", "etc/pipe").unwrap();
    rig.root.symlink("pipe", "etc/to-pipe").unwrap();
    assert_eq!(rig.root.read_link("etc/to-pipe").unwrap(), "pipe");
    let mut names: Vec<_> =
        rig.root.read_dir("etc").unwrap().map(|entry| entry.unwrap().name).collect();
    names.sort();
    assert_eq!(names, ["passwd", "pipe", "to-pipe"]);
    let etc = rig.root.resolve("etc").unwrap();
    let error = etc.rename_noreplace("pipe", &etc, "passwd").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    rig.root.remove_file("etc/to-pipe").unwrap();
    assert!(rig.root.remove_dir("etc").is_err());
}

#[test]
fn a_file_is_no_root() {
    let rig = rig();
    assert!(RootFd::open(rig.path.join("etc/passwd")).is_err());
    let file = rig.root.resolve("etc/passwd").unwrap();
    assert!(RootFd::from_fd(file.into_fd()).is_err());
    let sub = rig.root.subroot("etc").unwrap();
    assert!(sub.metadata("../../passwd").unwrap().file_type() == FileType::RegularFile);
    assert!(sub.metadata("etc").is_err());
    assert!(Path::new(&sub.proc_path()).join("passwd").exists());
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    fn component() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("..".to_owned()),
            Just(".".to_owned()),
            Just(String::new()),
            Just("etc".to_owned()),
            Just("up".to_owned()),
            Just("abs".to_owned()),
            Just("out".to_owned()),
            Just("secret".to_owned()),
            Just("host".to_owned()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// Whatever is resolved or made lies below the root.
        #[test]
        fn no_path_leaves(parts in proptest::collection::vec(component(), 1..8)) {
            let rig = rig();
            symlink("..", rig.path.join("up")).unwrap();
            symlink("/..", rig.path.join("etc/up")).unwrap();
            symlink("/", rig.path.join("abs")).unwrap();
            symlink(&rig.host, rig.path.join("out")).unwrap();
            let path = parts.join("/");
            if let Ok(pinned) = rig.root.resolve(&path) {
                let at = fs::read_link(pinned.proc_path()).unwrap();
                prop_assert!(at.starts_with(&rig.path), "{path} led to {}", at.display());
            }
            if let Ok(made) = rig.root.create_dir_all(&path, 0o755) {
                let at = fs::read_link(made.proc_path()).unwrap();
                prop_assert!(at.starts_with(&rig.path), "{path} made {}", at.display());
            }
            let _ = rig.root.replace_file(&path, b"x", 0o600);
            host_intact(&rig);
        }
    }
}
