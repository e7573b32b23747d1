//! Layers, container roots and archives on real overlay mounts.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use pouch_rootfd::RootFd;
use pouch_snapshot::{
    ArchiveReader, ChangeKind, PutOptions, Replace, SCHEMA, SnapshotConfig, SnapshotError,
    Snapshotter,
};
use pouch_store::Store;
use pouch_types::{Classified, ContainerId, Digest, ErrorKind};
use tokio::io::AsyncReadExt;

/// The program under test beside this one, built when it is missing or old.
fn unpack_binary() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let built = Command::new(env!("CARGO"))
                .args(["build", "-q", "-p", "pouch-unpack"])
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status()
                .unwrap();
            assert!(built.success());
            // target/<triple>/debug/deps/<this test>
            let here = std::env::current_exe().unwrap();
            here.parent().unwrap().parent().unwrap().join("pouch-unpack")
        })
        .clone()
}

struct Rig {
    dir: tempfile::TempDir,
    store: Store,
    snapshotter: Snapshotter,
}

impl Rig {
    fn config(&self) -> SnapshotConfig {
        config(self.dir.path())
    }

    async fn reopen(&self) -> Snapshotter {
        Snapshotter::open(self.config(), self.store.clone()).await.unwrap()
    }

    fn count(&self, directory: &str) -> usize {
        std::fs::read_dir(self.dir.path().join("data").join(directory)).unwrap().count()
    }
}

fn config(dir: &Path) -> SnapshotConfig {
    SnapshotConfig {
        root: dir.join("data"),
        state: dir.join("state"),
        unpack_binary: unpack_binary(),
    }
}

/// `None`, with the reason printed, where overlay mounts are not allowed.
async fn rig() -> Option<Rig> {
    if !rustix::process::geteuid().is_root() {
        println!("not root: skipped");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("db"), &[SCHEMA]).unwrap().store;
    let snapshotter = Snapshotter::open(config(dir.path()), store.clone()).await.unwrap();
    Some(Rig { dir, store, snapshotter })
}

/// A tar of entries: a path that ends in `/` is a directory, `a -> b` a link.
fn tar(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_700_000_000);
        header.set_mode(0o644);
        if let Some((from, to)) = path.split_once(" -> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, from, to).unwrap();
            continue;
        }
        if path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
        }
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn apply(snapshotter: &Snapshotter, tar: &[u8]) -> Digest {
    let blob = gzip(tar);
    let (diff_id, digest) = (Digest::of(tar), Digest::of(&blob));
    let layer = snapshotter.apply_layer(&blob[..], diff_id, Some(digest)).await.unwrap();
    assert_eq!(layer.diff_id, diff_id);
    diff_id
}

fn id() -> ContainerId {
    ContainerId::random().unwrap()
}

fn read(root: &RootFd, path: &str) -> String {
    root.read_to_string_bounded(path, 1 << 20).unwrap()
}

async fn eventually(what: &str, check: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !check() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn layers_stack_with_whiteouts() {
    let Some(rig) = rig().await else { return };
    let s = &rig.snapshotter;
    let base = apply(
        s,
        &tar(&[("etc/", ""), ("etc/a", "base"), ("etc/b", "base"), ("d/x", "x"), ("d/y", "y")]),
    )
    .await;
    let top = apply(
        s,
        &tar(&[
            ("etc/a", "top"),
            ("etc/.wh.b", ""),
            ("d/", ""),
            ("d/.wh..wh..opq", ""),
            ("d/z", "z"),
        ]),
    )
    .await;
    let c = id();
    s.prepare(&c, &[base, top]).await.unwrap();
    let root = s.mount_detached(&c).await.unwrap();
    assert_eq!(read(&root, "etc/a"), "top");
    assert!(root.metadata("etc/b").unwrap_err().is_not_found());
    let names: Vec<_> = root.read_dir("d").unwrap().map(|e| e.unwrap().name).collect();
    assert_eq!(names, ["z"], "opaque");

    // What is written goes to the container and nowhere else.
    root.replace_file("etc/a", b"mine", 0o600).unwrap();
    drop(root);
    let other = id();
    s.prepare(&other, &[base, top]).await.unwrap();
    assert_eq!(read(&s.mount_detached(&other).await.unwrap(), "etc/a"), "top");
    assert_eq!(read(&s.mount_detached(&c).await.unwrap(), "etc/a"), "mine");

    // Nothing is left in our mount table.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(rig.dir.path().to_str().unwrap()));
}

#[tokio::test]
async fn shims_can_mount_what_mounts_describes() {
    let Some(rig) = rig().await else { return };
    let s = &rig.snapshotter;
    let layer = apply(s, &tar(&[("hello", "world")])).await;
    let c = id();
    s.prepare(&c, &[layer]).await.unwrap();
    let entry = s.mounts(&c).unwrap().remove(0);
    assert_eq!((entry.kind.as_str(), entry.source.as_str()), ("overlay", "overlay"));
    let target = rig.dir.path().join("target");
    std::fs::create_dir(&target).unwrap();
    let script = format!(
        "mount -t overlay overlay -o {} {t} && cat {t}/hello",
        entry.options.join(","),
        t = target.display()
    );
    let out = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "world", "{out:?}");

    let scratch = id();
    s.prepare(&scratch, &[]).await.unwrap();
    let entry = s.mounts(&scratch).unwrap().remove(0);
    assert_eq!(entry.kind, "bind");
    assert!(Path::new(&entry.source).is_dir());
    s.mount_detached(&scratch).await.unwrap().replace_file("f", b"", 0o644).unwrap();
    assert_eq!(s.usage(&scratch).await.unwrap().inodes, 1);
}

#[tokio::test]
async fn the_most_layers_fit() {
    let Some(rig) = rig().await else { return };
    let s = &rig.snapshotter;
    let mut layers = Vec::new();
    for n in 0..128 {
        layers.push(apply(s, &tar(&[("n", &n.to_string())])).await);
    }
    let c = id();
    let refused = s.prepare(&c, &layers).await.unwrap_err();
    assert!(matches!(refused, SnapshotError::TooManyLayers { layers: 128, most: 127 }));
    layers.pop();
    s.prepare(&c, &layers).await.unwrap();
    assert_eq!(read(&s.mount_detached(&c).await.unwrap(), "n"), "126");
    let length: usize = s.mounts(&c).unwrap()[0].options.iter().map(|o| o.len() + 1).sum();
    assert!(length < 4096, "{length}");
}

#[tokio::test]
async fn a_wrong_layer_leaves_nothing() {
    let Some(rig) = rig().await else { return };
    let s = &rig.snapshotter;
    let good = tar(&[("a", "a")]);
    let blob = gzip(&good);
    let other = Digest::of(b"other");

    let error = s.apply_layer(&blob[..], other, None).await.unwrap_err();
    assert!(matches!(error, SnapshotError::Mismatch { what: "diff id", .. }), "{error}");
    let error = s.apply_layer(&blob[..], Digest::of(&good), Some(other)).await.unwrap_err();
    assert!(matches!(error, SnapshotError::Mismatch { what: "digest", .. }), "{error}");
    let error = s.apply_layer(&blob[..20], Digest::of(&good), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let evil = tar(&[("x", "")]);
    let evil = [&b"../evil"[..], &evil[7..]].concat();
    assert_eq!(
        s.apply_layer(&evil[..], Digest::of(&evil), None).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );

    assert!(s.layers().is_empty());
    eventually("staging and trash are empty", || rig.count("s") + rig.count("t") == 0).await;
    assert_eq!(rig.count("l"), 0);
    assert!(rig.reopen().await.layers().is_empty());
}

#[tokio::test]
async fn the_same_layer_at_the_same_time_is_unpacked_once() {
    let Some(rig) = rig().await else { return };
    let tar = tar(&[("a", "a")]);
    let diff_id = Digest::of(&tar);
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (s, tar) = (rig.snapshotter.clone(), tar.clone());
            tokio::spawn(async move { s.apply_layer(&tar[..], diff_id, None).await.unwrap() })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().diff_id, diff_id);
    }
    assert_eq!((rig.snapshotter.layers().len(), rig.count("l")), (1, 1));
}

#[tokio::test]
async fn a_dropped_apply_kills_the_child_and_cleans_up() {
    let Some(rig) = rig().await else { return };
    let (mut sender, receiver) = tokio::io::duplex(64 * 1024);
    let s = rig.snapshotter.clone();
    let task = tokio::spawn(async move { s.apply_layer(receiver, Digest::of(b"x"), None).await });
    let bytes = tar(&[("a", "a")]);
    tokio::io::AsyncWriteExt::write_all(&mut sender, &bytes[..600]).await.unwrap();
    eventually("the unpacking has begun", || rig.count("s") == 1).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    eventually("staging and trash are empty", || rig.count("s") + rig.count("t") == 0).await;
    let directory = rig.dir.path().to_str().unwrap().to_owned();
    eventually("the child is gone", || {
        !std::fs::read_dir("/proc").unwrap().flatten().any(|process| {
            std::fs::read(process.path().join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&directory))
        })
    })
    .await;
}

#[tokio::test]
async fn a_restart_keeps_what_is_whole_and_removes_the_rest() {
    let Some(rig) = rig().await else { return };
    let layer = apply(&rig.snapshotter, &tar(&[("a", "a")])).await;
    let (c, torn) = (id(), id());
    rig.snapshotter.prepare(&c, &[layer]).await.unwrap();
    rig.snapshotter.prepare(&torn, &[layer]).await.unwrap();
    let data = rig.dir.path().join("data");
    for left in ["l/99", "l/junk", "s/half", "c/new-1", "t/old"] {
        std::fs::create_dir_all(data.join(left).join("deep")).unwrap();
    }
    std::fs::write(data.join(format!("c/{torn}/lower")), "sha256:0").unwrap();

    let s = rig.reopen().await;
    assert!(s.has_layer(&layer));
    assert_eq!(s.containers(), std::slice::from_ref(&c));
    eventually("trash is empty", || rig.count("t") == 0).await;
    assert_eq!((rig.count("l"), rig.count("s"), rig.count("c")), (1, 0, 2));
    assert_eq!(read(&s.mount_detached(&c).await.unwrap(), "a"), "a");
    // The engine's record repairs the torn one, with what it had written.
    assert!(matches!(s.mounts(&torn), Err(SnapshotError::NoContainer(_))));
    s.prepare(&torn, &[layer]).await.unwrap();
    assert_eq!(rig.reopen().await.containers().len(), 2);
    // Numbers are never used again, also not those of directories without a row.
    let next = apply(&s, &tar(&[("b", "b")])).await;
    assert!(s.has_layer(&next));
    assert!(data.join("l/100").is_dir());
}

#[tokio::test]
async fn layers_in_use_stay() {
    let Some(rig) = rig().await else { return };
    let s = &rig.snapshotter;
    let layer = apply(s, &tar(&[("a", "a")])).await;
    let c = id();
    s.prepare(&c, &[layer]).await.unwrap();
    s.prepare(&c, &[layer]).await.unwrap();
    assert_eq!(s.prepare(&c, &[]).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let error = s.remove_layer(&layer).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    s.remove(&c).await.unwrap();
    s.remove(&c).await.unwrap();
    s.remove_layer(&layer).await.unwrap();
    s.remove_layer(&layer).await.unwrap();
    assert!(matches!(s.prepare(&c, &[layer]).await, Err(SnapshotError::NoLayer(_))));
    assert!(!s.has_container(&c));
    eventually("all is deleted", || ["l", "c", "s", "t"].iter().all(|d| rig.count(d) == 0)).await;
    assert!(rig.reopen().await.layers().is_empty());
}

#[tokio::test]
async fn changes_are_what_docker_diff_shows() {
    let Some(rig) = rig().await else { return };
    let s = &rig.snapshotter;
    for layers in [1, 2] {
        let mut stack = vec![
            apply(
                s,
                &tar(&[
                    ("etc/", ""),
                    ("etc/keep", ""),
                    ("etc/edit", "1"),
                    ("etc/gone", ""),
                    ("dir/", ""),
                    ("dir/old", ""),
                    ("still/", ""),
                ]),
            )
            .await,
        ];
        if layers == 2 {
            stack.push(apply(s, &tar(&[("second", "")])).await);
        }
        let c = id();
        s.prepare(&c, &stack).await.unwrap();
        assert_eq!(s.changes(&c).await.unwrap(), []);
        let root = s.mount_detached(&c).await.unwrap();
        root.replace_file("etc/edit", b"22", 0o644).unwrap();
        root.remove_file("etc/gone").unwrap();
        root.create_dir_all("new/sub", 0o755).unwrap();
        root.create_file_excl("new/sub/file", 0o644).unwrap();
        root.remove_tree("dir").unwrap();
        root.create_dir_all("dir", 0o755).unwrap();
        root.create_file_excl("dir/fresh", 0o644).unwrap();
        drop(root);
        let changes = s.changes(&c).await.unwrap();
        let lines: Vec<_> = changes
            .iter()
            .map(|change| {
                let kind = match change.kind {
                    ChangeKind::Modified => 'C',
                    ChangeKind::Added => 'A',
                    ChangeKind::Deleted => 'D',
                };
                format!("{kind} {}", change.path.display())
            })
            .collect();
        let want = [
            "C /dir",
            "A /dir/fresh",
            "D /dir/old",
            "C /etc",
            "C /etc/edit",
            "D /etc/gone",
            "A /new",
            "A /new/sub",
            "A /new/sub/file",
        ];
        assert_eq!(lines, want, "{layers} layers");
    }
}

#[tokio::test]
async fn usage_counts_bytes_once() {
    let Some(rig) = rig().await else { return };
    let s = &rig.snapshotter;
    let layer = apply(s, &tar(&[("big", &"x".repeat(1 << 20))])).await;
    assert_eq!(s.layer_size(&layer).unwrap(), 1 << 20);
    let c = id();
    s.prepare(&c, &[layer]).await.unwrap();
    assert_eq!(s.usage(&c).await.unwrap().size, 0);
    let root = s.mount_detached(&c).await.unwrap();
    root.replace_file("data", &[1u8; 100_000], 0o644).unwrap();
    root.hard_link("data", "again").unwrap();
    drop(root);
    let usage = s.usage(&c).await.unwrap();
    assert_eq!(usage.inodes, 1);
    assert!((100_000..200_000).contains(&usage.size), "{usage:?}");
    assert_eq!(s.usage(&id()).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_tree_as_deep_as_it_gets_does_not_use_up_descriptors() {
    let Some(rig) = rig().await else { return };
    let s = &rig.snapshotter;
    let c = id();
    s.prepare(&c, &[]).await.unwrap();
    let mut here = s.mount_detached(&c).await.unwrap().pin().unwrap();
    for _ in 0..2000 {
        here.create_dir("d", 0o755).unwrap();
        here = here.pin_dir("d").unwrap();
    }
    drop(here);
    assert!(matches!(s.usage(&c).await, Err(SnapshotError::TooDeep(_))));
    assert!(matches!(s.changes(&c).await, Err(SnapshotError::TooDeep(_))));
    s.remove(&c).await.unwrap();
    eventually("it is deleted", || rig.count("t") == 0).await;
}

#[tokio::test]
async fn directories_open_to_others_are_refused() {
    let Some(rig) = rig().await else { return };
    let data = rig.dir.path().join("data");
    for directory in ["", "l", "c", "s", "t"] {
        let mode = std::fs::metadata(data.join(directory)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777 & !0o710, 0, "{directory}");
    }
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = Snapshotter::open(rig.config(), rig.store.clone()).await.unwrap_err();
    assert!(matches!(error, SnapshotError::Insecure { mode: 0o755, .. }), "{error}");
}

#[tokio::test]
async fn the_top_directory_keeps_its_attributes() {
    let Some(rig) = rig().await else { return };
    let s = &rig.snapshotter;
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o711);
    header.set_uid(7);
    header.set_gid(8);
    header.set_size(0);
    header.set_mtime(5);
    builder.append_data(&mut header, "./", std::io::empty()).unwrap();
    let layer = apply(s, &builder.into_inner().unwrap()).await;
    let c = id();
    s.prepare(&c, &[layer]).await.unwrap();
    let meta = s.mount_detached(&c).await.unwrap().metadata("/").unwrap();
    assert_eq!((meta.mode(), meta.uid(), meta.gid()), (0o711, 7, 8));
}

#[tokio::test]
async fn an_opaque_top_hides_the_layers_below() {
    let Some(rig) = rig().await else { return };
    let s = &rig.snapshotter;
    let below = apply(s, &tar(&[("secret", "x")])).await;
    let top = apply(s, &tar(&[(".wh..wh..opq", ""), ("only", "me")])).await;
    let c = id();
    s.prepare(&c, &[below, top]).await.unwrap();
    let root = s.mount_detached(&c).await.unwrap();
    assert!(root.metadata("secret").unwrap_err().is_not_found());
    assert_eq!(read(&root, "only"), "me");
}

#[test]
fn storage_options() {
    let options = |name: &str| BTreeMap::from([(name.to_owned(), "1G".to_owned())]);
    assert!(pouch_snapshot::validate_storage_opts(&BTreeMap::new()).is_ok());
    for name in ["size", "quota"] {
        let error = pouch_snapshot::validate_storage_opts(&options(name)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(name), "{error}");
    }
}

async fn drain(mut reader: ArchiveReader) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await.map(|_| bytes)
}

fn listing(bytes: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(bytes);
    let paths = archive.entries().unwrap();
    paths.map(|e| String::from_utf8(e.unwrap().path_bytes().into_owned()).unwrap()).collect()
}

#[tokio::test]
async fn archives_in_and_out() {
    let Some(rig) = rig().await else { return };
    let s = &rig.snapshotter;
    let layer = apply(
        s,
        &tar(&[
            ("etc/", ""),
            ("etc/passwd", "root"),
            ("run/", ""),
            ("var/", ""),
            ("var/run -> /run", ""),
            ("loop -> loop", ""),
        ]),
    )
    .await;
    let c = id();
    s.prepare(&c, &[layer]).await.unwrap();
    let root = s.mount_detached(&c).await.unwrap();
    let u = s.unpacker();

    let stat = u.stat(&root, "/etc").await.unwrap();
    assert_eq!((stat.name.as_str(), stat.mode), ("etc", 1 << 31 | 0o755));
    let stat = u.stat(&root, "/var/run").await.unwrap();
    assert_eq!((stat.link_target.as_str(), stat.mode >> 27), ("/run", 1));
    assert_eq!(stat.mtime, "2023-11-14T22:13:20Z");
    for (path, kind) in [
        ("/none", ErrorKind::NotFound),
        ("/etc/passwd/", ErrorKind::Invalid),
        ("/loop/x", ErrorKind::Invalid),
    ] {
        assert_eq!(u.stat(&root, path).await.unwrap_err().kind(), kind, "{path}");
    }

    // Through a link in the directory part (the container's /var/run is a link to /run).
    let archive = gzip(&tar(&[("app/", ""), ("app/pid", "1")]));
    let report = u.put(&root, "/var/run", PutOptions::default(), &archive[..]).await.unwrap();
    assert_eq!((report.entries, report.size), (2, 1));
    assert_eq!(read(&root, "run/app/pid"), "1");
    let chowned = PutOptions { chown: Some((5, 6)), ..PutOptions::default() };
    u.put(&root, "/", chowned, &tar(&[("mine", "")])[..]).await.unwrap();
    let meta = root.metadata("mine").unwrap();
    assert_eq!((meta.uid(), meta.gid()), (5, 6));

    let refuse = PutOptions { replace: Replace::NotDirectories, ..PutOptions::default() };
    for (path, options, bytes, kind) in [
        ("/none", PutOptions::default(), tar(&[("a", "")]), ErrorKind::NotFound),
        ("/etc/passwd", PutOptions::default(), tar(&[("a", "")]), ErrorKind::Invalid),
        ("/", refuse, tar(&[("etc", "file")]), ErrorKind::Invalid),
        ("/", refuse, tar(&[("mine/", "")]), ErrorKind::Invalid),
        ("/", PutOptions::default(), b"this is no archive".repeat(100), ErrorKind::Invalid),
    ] {
        let error = u.put(&root, path, options, &bytes[..]).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{path}: {error}");
    }

    assert_eq!(
        listing(&drain(u.get(&root, "/var/run/").unwrap()).await.unwrap()),
        ["run/", "run/app/", "run/app/pid"]
    );
    assert_eq!(
        listing(&drain(u.get(&root, "/run/.").unwrap()).await.unwrap()),
        ["./", "./app/", "./app/pid"]
    );
    assert_eq!(listing(&drain(u.get(&root, "/var/run").unwrap()).await.unwrap()), ["run"]);
    let error = drain(u.get(&root, "/none").unwrap()).await.unwrap_err();
    assert_eq!(ArchiveReader::failure_kind(&error), ErrorKind::NotFound);
    let all = listing(&drain(u.export(&root).unwrap()).await.unwrap());
    assert_eq!(
        all,
        [
            "etc/",
            "etc/passwd",
            "loop",
            "mine",
            "run/",
            "run/app/",
            "run/app/pid",
            "var/",
            "var/run"
        ]
    );

    // A commit: what the upper directory holds makes the same tree on top of the same layer.
    root.remove_file("etc/passwd").unwrap();
    drop(root);
    let diff = drain(u.diff(&s.upper(&c).unwrap()).unwrap()).await.unwrap();
    assert_eq!(
        listing(&diff),
        ["etc/", "etc/.wh.passwd", "mine", "run/", "run/app/", "run/app/pid"]
    );
    let committed = apply(s, &diff).await;
    let again = id();
    s.prepare(&again, &[layer, committed]).await.unwrap();
    let root = s.mount_detached(&again).await.unwrap();
    assert!(root.metadata("etc/passwd").unwrap_err().is_not_found());
    assert_eq!(read(&root, "run/app/pid"), "1");
}

#[tokio::test]
async fn a_volume_takes_the_directory_of_the_image() {
    let Some(rig) = rig().await else { return };
    let s = &rig.snapshotter;
    let layer = apply(
        s,
        &tar(&[
            ("data/", ""),
            ("data/sub/", ""),
            ("data/sub/f", "1"),
            ("data/out -> /etc/passwd", ""),
            ("link -> data", ""),
        ]),
    )
    .await;
    let c = id();
    s.prepare(&c, &[layer]).await.unwrap();
    let root = s.mount_detached(&c).await.unwrap();
    root.chown("data", Some(3), Some(4)).unwrap();
    root.chmod("data", 0o2750).unwrap();
    root.hard_link("data/sub/f", "data/sub/g").unwrap();
    let volume = rig.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let to = RootFd::open(&volume).unwrap();
    let report = s.unpacker().copy_tree(&root, "/link", &to).await.unwrap();
    assert_eq!((report.entries, report.skipped), (4, false));
    let meta = std::fs::metadata(&volume).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (3, 4, 0o2750));
    assert_eq!(std::fs::read_to_string(volume.join("sub/g")).unwrap(), "1");
    assert_eq!(std::fs::metadata(volume.join("sub/f")).unwrap().nlink(), 2);
    assert_eq!(std::fs::metadata(volume.join("sub/f")).unwrap().mtime(), 1_700_000_000);
    assert_eq!(std::fs::read_link(volume.join("out")).unwrap(), Path::new("/etc/passwd"));
    assert!(s.unpacker().copy_tree(&root, "/link", &to).await.unwrap().skipped);
    let error = s.unpacker().copy_tree(&root, "/none", &to).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// SEC-21: what the container's links name is looked for in the container.
#[tokio::test]
async fn links_of_a_container_never_reach_the_host() {
    let Some(rig) = rig().await else { return };
    let s = &rig.snapshotter;
    let layer = apply(
        s,
        &tar(&[
            ("etc/", ""),
            ("a -> /etc", ""),
            ("b -> ../../../../etc", ""),
            ("c -> /proc/1/root", ""),
            ("proc/", ""),
        ]),
    )
    .await;
    let canary = rig.dir.path().join("canary");
    std::fs::create_dir(&canary).unwrap();
    let c = id();
    s.prepare(&c, &[layer]).await.unwrap();
    let root = s.mount_detached(&c).await.unwrap();
    symlink(&canary, rig.dir.path().join(format!("data/c/{c}/fs/out"))).unwrap();
    let archive = tar(&[("planted", "x")]);
    for path in ["/a", "/b", "/etc"] {
        s.unpacker().put(&root, path, PutOptions::default(), &archive[..]).await.unwrap();
        assert_eq!(read(&root, "etc/planted"), "x", "{path}");
        root.remove_file("etc/planted").unwrap();
        assert_eq!(
            listing(&drain(s.unpacker().get(&root, format!("{path}/")).unwrap()).await.unwrap())
                .len(),
            1
        );
    }
    for path in ["/c", "/out"] {
        let error =
            s.unpacker().put(&root, path, PutOptions::default(), &archive[..]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{path}: {error}");
    }
    assert!(!Path::new("/etc/planted").exists());
    assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 0);
}
