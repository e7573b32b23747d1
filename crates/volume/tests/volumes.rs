//! Life of volumes, with mounts in a mount namespace of the test's own.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use pouch_store::Store;
use pouch_types::{Classified, ContainerId, ErrorKind, VolumeName};
use pouch_volume::{
    LabelFilter, Prepared, PruneFilter, PruneScope, SCHEMA, VolumeConfig, VolumeError, Volumes,
};

struct Rig {
    dir: tempfile::TempDir,
    store: Store,
    volumes: Volumes,
}

impl Rig {
    fn config(&self) -> VolumeConfig {
        VolumeConfig { root: self.dir.path().join("volumes") }
    }

    async fn create(&self, name: &str) -> pouch_volume::Volume {
        self.volumes.create(Some(self::name(name)), "", map(&[]), map(&[])).await.unwrap()
    }

    async fn take(&self, volume: &VolumeName, container: &ContainerId) {
        let (volume, container) = (volume.clone(), container.clone());
        let write =
            self.store.write(move |tx| pouch_volume::use_volume(tx, &volume, &container, "/data"));
        write.await.unwrap();
    }

    async fn release(&self, container: &ContainerId) {
        let container = container.clone();
        self.store.write(move |tx| pouch_volume::release(tx, &container)).await.unwrap();
    }
}

async fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("db"), &[SCHEMA]).unwrap().store;
    let root = dir.path().join("volumes");
    let volumes = Volumes::open(VolumeConfig { root }, store.clone()).await.unwrap();
    Rig { dir, store, volumes }
}

fn name(text: &str) -> VolumeName {
    text.parse().unwrap()
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[tokio::test]
async fn the_same_name_is_the_same_volume() {
    let rig = rig().await;
    let labels = map(&[("a", "1")]);
    let first = rig.volumes.create(Some(name("data")), "local", map(&[]), labels).await.unwrap();
    assert_eq!(first.mountpoint, rig.dir.path().join("volumes/data/_data"));
    assert!(!first.anonymous);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&first.mountpoint), 0o755);
    assert_eq!(mode(first.mountpoint.parent().unwrap()), 0o711);
    std::fs::write(first.mountpoint.join("file"), "kept").unwrap();

    let again = rig.create("data").await;
    assert_eq!((again.labels, again.created_at), (first.labels, first.created_at));
    assert_eq!(std::fs::read_to_string(first.mountpoint.join("file")).unwrap(), "kept");
    assert_eq!(rig.volumes.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn conflicting_requests_are_refused() {
    let rig = rig().await;
    let tmpfs = map(&[("type", "tmpfs"), ("device", "tmpfs")]);
    rig.volumes.create(Some(name("data")), "", tmpfs.clone(), map(&[])).await.unwrap();
    rig.volumes.create(Some(name("data")), "", map(&[]), map(&[])).await.unwrap();
    rig.volumes.create(Some(name("data")), "", tmpfs, map(&[])).await.unwrap();
    let other = map(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")]);
    let error = rig.volumes.create(Some(name("data")), "", other, map(&[])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let error =
        rig.volumes.create(Some(name("x1")), "nfsplug", map(&[]), map(&[])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("\"nfsplug\" not found"), "{error}");
    let bad = map(&[("mountpoint", "/etc")]);
    let error = rig.volumes.create(Some(name("x1")), "", bad, map(&[])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("mountpoint"), "{error}");
    assert!(!rig.dir.path().join("volumes/x1").exists());
}

#[tokio::test]
async fn anonymous_volumes_have_names_of_their_own() {
    let rig = rig().await;
    let a = rig.volumes.create(None, "", map(&[]), map(&[])).await.unwrap();
    let b = rig.volumes.create(None, "", map(&[]), map(&[])).await.unwrap();
    assert!(a.anonymous && b.anonymous && a.name != b.name);
    assert_eq!(a.name.as_str().len(), 64);
}

#[tokio::test]
async fn the_row_can_be_part_of_a_larger_transaction() {
    let rig = rig().await;
    let prepared = rig.volumes.prepare(Some(name("data")), "", map(&[]), map(&[])).await.unwrap();
    let Prepared::New(new) = prepared else { panic!("{prepared:?}") };
    let container = ContainerId::random().unwrap();
    // Rolled back with the rest.
    let (row, id) = (new.clone(), container.clone());
    let failed = rig.store.write(move |tx| {
        pouch_volume::insert(tx, &row)?;
        pouch_volume::use_volume(tx, row.name(), &id, "/x")?;
        Err::<(), _>(VolumeError::Cancelled)
    });
    assert!(failed.await.is_err());
    assert!(rig.volumes.list().await.unwrap().is_empty());
    let (row, id) = (new.clone(), container.clone());
    let done = rig.store.write(move |tx| {
        pouch_volume::insert(tx, &row)?;
        pouch_volume::use_volume(tx, row.name(), &id, "/x")
    });
    done.await.unwrap();
    rig.volumes.finish(new).await.unwrap();
    assert_eq!(rig.volumes.users().await.unwrap()[&name("data")], [container]);
}

#[tokio::test]
async fn used_volumes_stay_and_the_error_names_the_users() {
    let rig = rig().await;
    let volume = rig.create("data").await;
    let (a, b) = (ContainerId::random().unwrap(), ContainerId::random().unwrap());
    rig.take(&volume.name, &a).await;
    rig.take(&volume.name, &a).await;
    rig.take(&volume.name, &b).await;
    let error = rig.volumes.remove(&volume.name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains(a.short()) && error.to_string().contains(b.short()));
    rig.release(&a).await;
    assert!(rig.volumes.remove(&volume.name).await.is_err());
    rig.release(&b).await;
    std::fs::create_dir_all(volume.mountpoint.join("deep/er")).unwrap();
    rig.volumes.remove(&volume.name).await.unwrap();
    assert_eq!(std::fs::read_dir(rig.dir.path().join("volumes")).unwrap().count(), 0);
    let error = rig.volumes.remove(&volume.name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_volume_that_is_not_there_cannot_be_used() {
    let rig = rig().await;
    let id = ContainerId::random().unwrap();
    let write = rig.store.write(move |tx| pouch_volume::use_volume(tx, &name("none"), &id, "/x"));
    assert_eq!(write.await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn prune_takes_what_nobody_uses() {
    let rig = rig().await;
    let anonymous = rig.volumes.create(None, "", map(&[]), map(&[("tier", "x")])).await.unwrap();
    std::fs::write(anonymous.mountpoint.join("f"), vec![1u8; 50_000]).unwrap();
    let used = rig.volumes.create(None, "", map(&[]), map(&[])).await.unwrap();
    rig.take(&used.name, &ContainerId::random().unwrap()).await;
    let named = rig.create("named").await;

    let only = PruneFilter {
        labels: vec![LabelFilter::HasNot("tier".into(), None)],
        ..PruneFilter::default()
    };
    assert!(rig.volumes.prune(&only).await.unwrap().removed.is_empty());
    let only = PruneFilter {
        labels: vec![LabelFilter::Has("tier".into(), Some("x".into()))],
        ..PruneFilter::default()
    };
    let report = rig.volumes.prune(&only).await.unwrap();
    assert_eq!(report.removed, [anonymous.name]);
    assert!(report.reclaimed >= 50_000, "{report:?}");
    let all = PruneFilter { scope: PruneScope::All, ..PruneFilter::default() };
    assert_eq!(rig.volumes.prune(&all).await.unwrap().removed, [named.name]);
    assert_eq!(rig.volumes.list().await.unwrap()[0].name, used.name);
}

#[tokio::test]
async fn nothing_without_a_marker_is_deleted() {
    let rig = rig().await;
    let volume = rig.create("data").await;
    let directory = volume.mountpoint.parent().unwrap();
    std::fs::remove_file(directory.join("volume.json")).unwrap();
    std::fs::write(volume.mountpoint.join("precious"), "").unwrap();
    let error = rig.volumes.remove(&volume.name).await.unwrap_err();
    assert!(matches!(error, VolumeError::NotOurs { .. }), "{error}");
    assert!(volume.mountpoint.join("precious").exists());
    // Nor is a foreign directory taken up.
    std::fs::create_dir_all(rig.dir.path().join("volumes/stranger/_data")).unwrap();
    let again = Volumes::open(rig.config(), rig.store.clone()).await.unwrap();
    assert_eq!(again.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn volumes_survive_the_loss_of_the_database() {
    let rig = rig().await;
    let volume =
        rig.volumes.create(Some(name("data")), "", map(&[]), map(&[("k", "v")])).await.unwrap();
    std::fs::write(volume.mountpoint.join("f"), "kept").unwrap();
    std::fs::create_dir_all(rig.dir.path().join("volumes/.trash-1/deep")).unwrap();
    let store = Store::open(&rig.dir.path().join("other-db"), &[SCHEMA]).unwrap().store;
    let volumes = Volumes::open(rig.config(), store).await.unwrap();
    assert_eq!(volumes.list().await.unwrap(), [volume]);
    for _ in 0..500 {
        if !rig.dir.path().join("volumes/.trash-1").exists() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the trash was not emptied");
}

#[tokio::test]
async fn a_making_that_was_cut_off_is_finished_or_undone() {
    let rig = rig().await;
    let prepare = async |text: &str| match rig
        .volumes
        .prepare(Some(name(text)), "", map(&[]), map(&[]))
        .await
        .unwrap()
    {
        Prepared::New(new) => new,
        Prepared::Exists(volume) => panic!("{volume:?}"),
    };
    let (committed, _, filled) =
        (prepare("committed").await, prepare("bare").await, prepare("filled").await);
    let row = committed.clone();
    rig.store.write(move |tx| pouch_volume::insert(tx, &row)).await.unwrap();
    let root = rig.dir.path().join("volumes");
    std::fs::write(root.join(filled.name().as_str()).join("_data/f"), "").unwrap();

    let volumes = Volumes::open(rig.config(), rig.store.clone()).await.unwrap();
    let listed = volumes.list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert!(!root.join("bare").exists());
    assert!(root.join("filled/_data/f").exists(), "content is never thrown away");
    // Finished: it even survives the loss of the database.
    let store = Store::open(&rig.dir.path().join("other-db"), &[SCHEMA]).unwrap().store;
    assert_eq!(Volumes::open(rig.config(), store).await.unwrap().list().await.unwrap(), listed);
    volumes.remove(committed.name()).await.unwrap();
}

#[tokio::test]
async fn subpaths_stay_inside() {
    let rig = rig().await;
    let volume = rig.create("data").await;
    std::fs::create_dir_all(volume.mountpoint.join("a/b")).unwrap();
    symlink("/etc", volume.mountpoint.join("evil")).unwrap();
    symlink("/a", volume.mountpoint.join("inside")).unwrap();
    let at = |path: &str| {
        let pinned = rig.volumes.resolve_subpath(&volume.name, path)?;
        Ok::<_, VolumeError>(std::fs::read_link(pinned.proc_path()).unwrap())
    };
    assert_eq!(at("a/b").unwrap(), volume.mountpoint.join("a/b"));
    assert_eq!(at("inside/b").unwrap(), volume.mountpoint.join("a/b"));
    for bad in ["", "..", "a/../..", "/a", "/etc"] {
        assert!(matches!(at(bad), Err(VolumeError::Subpath(_))), "{bad}");
    }
    assert_eq!(at("evil").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(at("none").unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_directory_open_to_others_is_refused() {
    let rig = rig().await;
    let root = rig.config().root;
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o777)).unwrap();
    let error = Volumes::open(rig.config(), rig.store.clone()).await.unwrap_err();
    assert!(matches!(error, VolumeError::Insecure { mode: 0o777, .. }), "{error}");
}

/// Runs the test again in a child with a mount namespace of its own; true in the child.
fn in_own_mount_namespace(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("not root: {test} is skipped");
        return false;
    }
    if std::env::var_os("POUCH_VOLUME_NAMESPACE").is_some() {
        return true;
    }
    let status = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("POUCH_VOLUME_NAMESPACE", "1")
        .status()
        .unwrap();
    assert!(status.success());
    false
}

fn mounts_at(path: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let path = path.to_str().unwrap();
    table.lines().filter(|l| l.split(' ').nth(4) == Some(path)).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_first_user_mounts_and_the_last_unmounts() {
    if !in_own_mount_namespace("the_first_user_mounts_and_the_last_unmounts") {
        return;
    }
    let rig = rig().await;
    let options = map(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,nodev,mode=0700")]);
    let volume = rig.volumes.create(Some(name("mem")), "", options, map(&[])).await.unwrap();
    assert!(mounts_at(&volume.mountpoint).is_empty(), "not before it is used");
    let (a, b) = (ContainerId::random().unwrap(), ContainerId::random().unwrap());
    assert_eq!(rig.volumes.attach(&volume.name, &a).await.unwrap(), volume.mountpoint);
    rig.volumes.attach(&volume.name, &b).await.unwrap();
    rig.volumes.attach(&volume.name, &b).await.unwrap();
    let lines = mounts_at(&volume.mountpoint);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("nodev") && lines[0].contains("size=1024k"), "{lines:?}");
    std::fs::write(volume.mountpoint.join("f"), "x").unwrap();

    // A new daemon knows nothing; its first user finds the mount and does not mount again.
    let again = Volumes::open(rig.config(), rig.store.clone()).await.unwrap();
    again.attach(&volume.name, &a).await.unwrap();
    assert_eq!(mounts_at(&volume.mountpoint).len(), 1);
    assert!(volume.mountpoint.join("f").exists());
    let error = again.remove(&volume.name).await.unwrap_err();
    assert!(matches!(error, VolumeError::Mounted(_)), "{error}");

    rig.volumes.detach(&volume.name, &a).await.unwrap();
    assert_eq!(mounts_at(&volume.mountpoint).len(), 1);
    rig.volumes.detach(&volume.name, &b).await.unwrap();
    assert!(mounts_at(&volume.mountpoint).is_empty());
    rig.volumes.detach(&volume.name, &b).await.unwrap();
    rig.volumes.remove(&volume.name).await.unwrap();
}

#[tokio::test]
async fn bind_volumes_keep_their_source() {
    if !in_own_mount_namespace("bind_volumes_keep_their_source") {
        return;
    }
    let rig = rig().await;
    let source = rig.dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("f"), "host").unwrap();
    let device = source.to_str().unwrap();
    let options = map(&[("type", "none"), ("device", device), ("o", "bind,ro")]);
    let volume = rig.volumes.create(Some(name("bind")), "", options, map(&[])).await.unwrap();
    let user = ContainerId::random().unwrap();
    rig.volumes.attach(&volume.name, &user).await.unwrap();
    assert_eq!(std::fs::read_to_string(volume.mountpoint.join("f")).unwrap(), "host");
    let error = std::fs::write(volume.mountpoint.join("f"), "x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    // Left mounted by a daemon that died: removal unmounts, and touches nothing of the source.
    let again = Volumes::open(rig.config(), rig.store.clone()).await.unwrap();
    again.remove(&volume.name).await.unwrap();
    assert!(mounts_at(&volume.mountpoint).is_empty());
    assert_eq!(std::fs::read_to_string(source.join("f")).unwrap(), "host");

    let missing = map(&[("type", "none"), ("device", "/does/not/exist"), ("o", "bind")]);
    let broken = rig.volumes.create(Some(name("gone")), "", missing, map(&[])).await.unwrap();
    let error = rig.volumes.attach(&broken.name, &user).await.unwrap_err();
    assert!(error.to_string().contains("/does/not/exist"), "{error}");
    assert!(mounts_at(&PathBuf::from(&broken.mountpoint)).is_empty());
}

/// A mount that somebody made by hand deeper in a volume is never entered.
#[tokio::test]
async fn removal_never_crosses_a_mount() {
    if !in_own_mount_namespace("removal_never_crosses_a_mount") {
        return;
    }
    let rig = rig().await;
    let host = rig.dir.path().join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("canary"), "").unwrap();
    let volume = rig.create("data").await;
    let inside = volume.mountpoint.join("sub");
    std::fs::create_dir(&inside).unwrap();
    rustix::mount::mount_bind(&host, &inside).unwrap();
    rig.volumes.remove(&volume.name).await.unwrap();
    assert!(host.join("canary").exists());
}
