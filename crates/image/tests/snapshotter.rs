//! The whole way: registry, content store, `pouch-unpack`, overlay. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use common::{LocalRegistry, body, busybox, collect, gzip, import, registry, tar};
use pouch_content::ContentStore;
use pouch_image::{Images, ImportOptions, Owner, Progress, PullRequest, RemoveOptions, SCHEMA};
use pouch_registry::{Credentials, Wanted};
use pouch_snapshot::{SnapshotConfig, Snapshotter};
use pouch_store::Store;

/// The program beside this one's directory, built if need be.
fn unpack_binary() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let directory = here.parent().unwrap().parent().unwrap();
    let built =
        Command::new(env!("CARGO")).args(["build", "-q", "-p", "pouch-unpack"]).status().unwrap();
    assert!(built.success(), "cargo build -p pouch-unpack");
    directory.join("pouch-unpack")
}

struct Rig {
    dir: tempfile::TempDir,
    images: Images,
    snapshotter: Snapshotter,
}

async fn rig() -> Option<Rig> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let schemas = [SCHEMA, pouch_snapshot::SCHEMA];
    let store = Store::open(&dir.path().join("db"), &schemas).unwrap().store;
    let config = SnapshotConfig {
        root: dir.path().join("overlay"),
        state: dir.path().join("state"),
        unpack_binary: unpack_binary(),
    };
    let snapshotter = Snapshotter::open(config, store.clone()).await.unwrap();
    let content = ContentStore::open(&dir.path().join("content")).unwrap();
    let images = Images::open(store, content, Arc::new(snapshotter.clone()), registry());
    let images = images.await.unwrap();
    Some(Rig { dir, images, snapshotter })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_registry_to_files_and_back() {
    let (Some(source), Some(target), Some(rootfs)) = (rig().await, rig().await, busybox()) else {
        return;
    };
    let Some(registry) = LocalRegistry::start().await else { return };
    let made = import(&source.images, "box", gzip(&rootfs)).await;
    let saved = collect(source.images.save(&["box".to_owned()]).await.unwrap()).await;
    let archive = source.dir.path().join("box.tar");
    std::fs::write(&archive, &saved).unwrap();
    registry.push(&archive, "box", &[]);
    let request = PullRequest {
        reference: format!("{}/box", registry.host).parse().unwrap(),
        credentials: Credentials::Anonymous,
        platform: Wanted::Host,
        owner: Owner::Docker,
    };
    let image = target.images.pull(request, &Progress::none()).await.unwrap();
    assert_eq!(image.layers[0].diff_id, made.layers[0].diff_id);
    assert!(target.snapshotter.has_layer(&image.layers[0].diff_id));
    let layer = target.dir.path().join("overlay/l/1");
    assert_eq!(std::fs::read(layer.join("etc/hostname")).unwrap(), b"box\n");
    assert!(image.size > 1 << 20);

    target
        .images
        .remove(&image.id.to_string(), RemoveOptions::default(), |_| Vec::new())
        .await
        .unwrap();
    assert!(!layer.exists());
    let loaded = target.images.load(body(saved), Owner::Docker, &Progress::none()).await.unwrap();
    assert!(target.snapshotter.has_layer(&loaded[0].layers[0].diff_id));
}

/// SEC-27: a layer that climbs out is refused or contained, whichever way it comes in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_layers_stay_inside() {
    let Some(rig) = rig().await else { return };
    let canary = rig.dir.path().join("canary");
    std::fs::write(&canary, b"alive").unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    link.set_mode(0o777);
    builder.append_link(&mut link, "out", rig.dir.path()).unwrap();
    let mut file = tar::Header::new_gnu();
    file.set_size(4);
    file.set_mode(0o644);
    builder.append_data(&mut file, "out/canary", &b"dead"[..]).unwrap();
    let hostile = builder.into_inner().unwrap();
    // Refused or contained: both are fine, the canary decides.
    let _ = rig.images.import(body(hostile), ImportOptions::default(), Owner::Docker).await;
    assert_eq!(std::fs::read(&canary).unwrap(), b"alive");

    let not_a_tar = rig.images.import(body(vec![1; 5000]), ImportOptions::default(), Owner::Docker);
    assert!(not_a_tar.await.is_err());
    assert!(rig.snapshotter.layers().len() <= 1);
    let good = import(&rig.images, "good", tar(&[("a", b"1")])).await;
    assert!(rig.snapshotter.has_layer(&good.layers[0].diff_id));
}
