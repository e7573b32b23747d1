//! What lives how long: names, images, layers, blobs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use bytes::Bytes;
use common::{Rig, body, docker_archive, rig, tar};
use pouch_image::{
    ImageError, ImageUser, ListFilter, Owner, Progress, PruneFilter, Released, RemoveOptions,
    Removed, release_image, use_image,
};
use pouch_store::StoreError;
use pouch_types::{ContainerId, ImageId};

async fn load(rig: &Rig, names: &[&str], layers: &[&[u8]], label: &str, owner: Owner) -> ImageId {
    let archive = docker_archive(names, layers, label);
    let loaded = rig.images.load(body(archive), owner, &Progress::none()).await.unwrap();
    loaded[0].id.clone()
}

const NONE: RemoveOptions = RemoveOptions { force: false, no_prune: false };
const FORCE: RemoveOptions = RemoveOptions { force: true, no_prune: false };

fn nobody(_: &ImageId) -> Vec<ImageUser> {
    Vec::new()
}

async fn uses(rig: &Rig, image: &ImageId, container: &ContainerId) -> Result<(), ImageError> {
    let (image, container) = (image.clone(), container.clone());
    rig.store.write(move |tx| use_image(tx, &image, &container)).await
}

#[tokio::test]
async fn bytes_go_with_the_last_image_that_needs_them() {
    let rig = rig().await;
    let (base, top) = (tar(&[("b", b"b")]), tar(&[("t", b"t")]));
    load(&rig, &["one"], &[&base, &top], "1", Owner::Docker).await;
    load(&rig, &["two"], &[&base], "2", Owner::Docker).await;
    assert_eq!((rig.blobs().await, rig.layer_count()), (2, 2));
    let usage = rig.images.usage();
    assert_eq!(usage.layers, (base.len() + top.len()) as u64);
    assert!(usage.images.iter().all(|(_, shared)| *shared == base.len() as u64));
    let removed = rig.images.remove("one", NONE, nobody).await.unwrap();
    assert_eq!(removed[0], Removed::Untagged("one:latest".into()));
    assert_eq!(removed.len(), 3, "the name, the image and its top layer");
    assert_eq!((rig.blobs().await, rig.layer_count()), (1, 1));
    rig.images.remove("two", NONE, nobody).await.unwrap();
    assert_eq!((rig.blobs().await, rig.layer_count()), (0, 0));
    let rig = rig.reopen().await;
    assert!(rig.images.list(&ListFilter::default()).unwrap().is_empty());
}

#[tokio::test]
async fn tags_move_and_last() {
    let rig = rig().await;
    let one = load(&rig, &["a"], &[&tar(&[("1", b"1")])], "1", Owner::Docker).await;
    let two = load(&rig, &["b"], &[&tar(&[("2", b"2")])], "2", Owner::Docker).await;
    rig.images.tag("b", &"a".parse().unwrap(), Owner::Docker).await.unwrap();
    let (short, name) = (&one.to_string()[..20], "c/d:e".parse().unwrap());
    assert_eq!(rig.images.tag(short, &name, Owner::Docker).await.unwrap().id, one);
    let tagged = rig.images.get(&one).unwrap().last_tagged.unwrap();
    let rig = rig.reopen().await;
    assert_eq!(rig.images.resolve("a").unwrap().id, two);
    let one = rig.images.get(&one).unwrap();
    assert_eq!(one.repo_tags, ["c/d:e"]);
    let apart = one.last_tagged.unwrap().as_millisecond() - tagged.as_millisecond();
    assert!(apart.abs() < 100, "a restart is no tagging");
    let error = rig.images.tag("nope", &"x".parse().unwrap(), Owner::Docker).await.unwrap_err();
    assert!(matches!(error, ImageError::NotFound(_)));
}

#[tokio::test]
async fn a_forced_removal_keeps_what_a_container_stands_on() {
    let rig = rig().await;
    let image = load(&rig, &["a"], &[&tar(&[("1", b"1")])], "1", Owner::Docker).await;
    let container = ContainerId::random().unwrap();
    uses(&rig, &image, &container).await.unwrap();
    // The engine's own view is behind: the row decides.
    let error = rig.images.remove("a", NONE, nobody).await.unwrap_err();
    assert!(matches!(error, ImageError::ImageInUse { .. }), "{error}");
    assert!(rig.images.resolve("a").is_ok(), "and nothing was removed");

    let stopped = |_: &ImageId| vec![ImageUser { container: container.clone(), running: false }];
    let removed = rig.images.remove("a", FORCE, stopped).await.unwrap();
    assert!(removed.contains(&Removed::Deleted(image.0)));
    assert!(rig.images.list(&ListFilter::default()).unwrap().is_empty());
    assert_eq!(rig.layer_count(), 1, "the container still has its layer");
    let late = uses(&rig, &image, &ContainerId::random().unwrap()).await;
    assert!(matches!(late, Err(ImageError::NotFound(_))));

    let rig = rig.reopen().await;
    assert_eq!((rig.blobs().await, rig.layer_count()), (1, 1), "also over a restart");
    let (i, c) = (image.clone(), container.clone());
    let released = rig.store.write(move |tx| release_image(tx, &i, &c)).await.unwrap();
    assert_eq!(released, Released::Gone);
    rig.images.forget(&image).await;
    assert_eq!((rig.blobs().await, rig.layer_count()), (0, 0));
}

#[tokio::test]
async fn a_retired_image_that_comes_again_is_whole() {
    let rig = rig().await;
    let layer = tar(&[("1", b"1")]);
    let image = load(&rig, &["a"], &[&layer], "1", Owner::Docker).await;
    let container = ContainerId::random().unwrap();
    uses(&rig, &image, &container).await.unwrap();
    rig.images.remove("a", FORCE, nobody).await.unwrap();
    assert_eq!(load(&rig, &["b"], &[&layer], "1", Owner::Docker).await, image);
    let (i, c) = (image.clone(), container.clone());
    let released = rig.store.write(move |tx| release_image(tx, &i, &c)).await.unwrap();
    assert_eq!(released, Released::Kept);
    assert_eq!(rig.images.resolve("b").unwrap().id, image);
    assert_eq!(rig.layer_count(), 1);
}

#[tokio::test]
async fn faces_share_bytes_and_not_claims() {
    let rig = rig().await;
    let layer = tar(&[("1", b"1")]);
    let image = load(&rig, &["pause"], &[&layer], "1", Owner::Cri).await;
    rig.images.tag("pause", &"mine".parse().unwrap(), Owner::Docker).await.unwrap();
    let owners = rig.images.references(&image);
    assert!(owners[0].1.contains(Owner::Docker) && owners[1].1.contains(Owner::Cri));
    // `system prune -a` takes what is Docker's and leaves what pods hold.
    let all = PruneFilter { all: true, ..PruneFilter::default() };
    let report = rig.images.prune(&all, nobody).await.unwrap();
    assert_eq!(report.removed, [Removed::Untagged("mine:latest".into())]);
    assert_eq!(report.reclaimed, 0);
    let removed = rig.images.disown(&image, Owner::Cri).await.unwrap();
    assert_eq!(removed.last(), Some(&Removed::Deleted(image.0)));
    assert_eq!(rig.layer_count(), 0);
    assert!(rig.images.disown(&image, Owner::Cri).await.unwrap().is_empty());
}

#[tokio::test]
async fn prune_takes_the_dangling_and_the_unused() {
    let rig = rig().await;
    let layer = |n: u8| tar(&[("f", &[n])]);
    let first = load(&rig, &["a"], &[&layer(1)], "1", Owner::Docker).await;
    let used = load(&rig, &["b"], &[&layer(2)], "2", Owner::Docker).await;
    load(&rig, &["a"], &[&layer(3)], "3", Owner::Docker).await;
    let report = rig.images.prune(&PruneFilter::default(), nobody).await.unwrap();
    assert_eq!(report.removed[0], Removed::Deleted(first.0));
    assert_eq!(report.reclaimed, 2 * layer(1).len() as u64, "layer and blob");
    let users = |id: &ImageId| {
        let user = ImageUser { container: "ab".repeat(32).parse().unwrap(), running: true };
        if *id == used { vec![user] } else { Vec::new() }
    };
    let all = PruneFilter { all: true, ..PruneFilter::default() };
    rig.images.prune(&all, users).await.unwrap();
    let left = rig.images.list(&ListFilter::default()).unwrap();
    assert_eq!((left.len(), &left[0].id), (1, &used));
}

/// What a killed daemon left of a pull is there for the next one for a day.
#[tokio::test]
async fn leftovers_are_collected_when_they_are_old() {
    let rig = rig().await;
    load(&rig, &["a"], &[&tar(&[("1", b"1")])], "1", Owner::Docker).await;
    let orphan = rig.content.put(Bytes::from_static(b"orphan")).await.unwrap();
    rig.layers.layers.lock().unwrap().insert(pouch_types::Digest::of(b"orphan layer"), 1);
    let part = pouch_types::Digest::of(b"partial");
    let keys = [
        pouch_content::IngestKey::unique("load").unwrap(),
        pouch_content::IngestKey::of_blob(&part),
    ];
    for key in &keys {
        let writer = rig.content.ingest(key.clone(), pouch_content::Expected::default());
        writer.await.unwrap().write(Bytes::from_static(b"x")).await.unwrap();
    }
    while matches!(
        rig.content.delete_ingest(&keys[0]).await,
        Err(pouch_content::ContentError::Busy(_))
    ) {
        tokio::task::yield_now().await;
    }
    let rig = rig.reopen().await;
    assert_eq!((rig.blobs().await, rig.layer_count()), (2, 2));
    let left = rig.content.ingests().await.unwrap();
    assert_eq!(left.iter().map(|left| &left.key).collect::<Vec<_>>(), [&keys[1]]);

    let day = std::time::Duration::from_secs(25 * 3600);
    let content = rig.dir.path().join("content");
    for path in [
        content.join("blobs/sha256").join(orphan.digest.hex()),
        content.join("ingest").join(keys[1].as_str()),
    ] {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(std::time::SystemTime::now() - day).unwrap();
    }
    *rig.layers.age.lock().unwrap() = day;
    let rig = rig.reopen().await;
    assert_eq!((rig.blobs().await, rig.layer_count()), (1, 1), "what the image needs stays");
    assert!(rig.content.ingests().await.unwrap().is_empty());
}

/// Many removals and loads of overlapping images at once: at the end every image has its bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn loads_and_removals_do_not_pull_the_rug() {
    let rig = std::sync::Arc::new(rig().await);
    let shared = tar(&[("shared", &[1; 1000])]);
    let mut tasks = Vec::new();
    for n in 0..4u8 {
        let (rig, shared) = (std::sync::Arc::clone(&rig), shared.clone());
        tasks.push(tokio::spawn(async move {
            for _ in 0..8 {
                let own = tar(&[("own", &[n])]);
                let name = format!("i{n}");
                load(&rig, &[&name], &[&shared, &own], &name, Owner::Docker).await;
                let image = rig.images.resolve(&name).unwrap();
                for layer in image.layers.iter() {
                    assert!(rig.content.exists(&layer.blob).await.unwrap());
                    assert!(rig.layers.layers.lock().unwrap().contains_key(&layer.diff_id));
                }
                rig.images.remove(&name, NONE, nobody).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!((rig.blobs().await, rig.layer_count()), (0, 0));
    let rows = rig.store.read(|c| {
        Ok::<i64, StoreError>(c.query_row("SELECT count(*) FROM image_layers", [], |r| r.get(0))?)
    });
    assert_eq!(rows.await.unwrap(), 0);
}

/// A commit stands on its parent's layers, and an empty one has no layer of its own.
#[tokio::test]
async fn commits_share_the_layers_of_their_parent() {
    let rig = rig().await;
    let parent = load(&rig, &["a"], &[&tar(&[("1", b"1")])], "1", Owner::Docker).await;
    let commit = |name: &str, parent: &ImageId, diff: Vec<u8>| {
        let options = pouch_image::CommitOptions {
            reference: Some(name.parse().unwrap()),
            parent: parent.clone(),
            config: pouch_image::ContainerConfig::default(),
            created_by: "sh".to_owned(),
            author: "me".to_owned(),
            message: "words".to_owned(),
        };
        rig.images.commit(body(diff), options, Owner::Docker)
    };
    let child = commit("b", &parent, tar(&[("2", b"2")])).await.unwrap();
    let below = rig.images.get(&parent).unwrap();
    assert_eq!((child.layers.len(), child.layers[0]), (2, below.layers[0]));
    assert_eq!((child.parent.as_ref(), rig.layer_count()), (Some(&parent), 2));
    let step = &child.history()[0].history;
    assert_eq!((step.created_by.as_str(), step.comment.as_str()), ("sh", "words"));
    let same = commit("c", &child.id, vec![0; 1024]).await.unwrap();
    assert_eq!((same.layers.len(), same.history()[0].history.empty_layer), (2, true));
    assert_ne!(same.id, child.id);
    let stranger = ImageId(pouch_types::Digest::of(b"no image"));
    let refused = commit("d", &stranger, vec![0; 1024]).await.unwrap_err();
    assert!(matches!(refused, ImageError::NotFound(_)), "{refused}");
    for name in ["c", "b", "a"] {
        rig.images.remove(name, NONE, nobody).await.unwrap();
    }
    assert_eq!((rig.blobs().await, rig.layer_count()), (0, 0));
}
