//! Load, import and save, with skopeo as the judge.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use common::{body, collect, docker_archive, gzip, have, import, rig, skopeo, tar};
use pouch_image::{
    Event, ImageError, ImportOptions, ListFilter, Loaded, Owner, Packing, Progress, RemoveOptions,
};
use pouch_types::{Classified, Digest, ErrorKind};

#[tokio::test]
async fn loads_an_old_docker_archive_and_survives_a_restart() {
    let rig = rig().await;
    let layers = [tar(&[("a", b"1")]), gzip(&tar(&[("b", b"2")]))];
    let plain = [layers[0].clone(), tar(&[("b", b"2")])];
    // The configuration names the uncompressed layers.
    let config = common::config(&[&plain[0], &plain[1]], "x");
    let manifest = br#"[{"Config":"c.json","RepoTags":["x:1","x:2"],"Layers":["l0","d/l1"]}]"#;
    let archive = tar(&[
        ("manifest.json", manifest),
        ("l0", &layers[0]),
        ("d/l1", &layers[1]),
        ("c.json", &config),
    ]);
    let (progress, mut events) = Progress::channel();
    let loaded = rig.images.load(body(gzip(&archive)), Owner::Docker, &progress).await.unwrap();
    drop(progress);
    assert_eq!(loaded[0].id.0, Digest::of(&config));
    assert_eq!(loaded[0].repo_tags, ["x:1", "x:2"]);
    assert_eq!(loaded[0].layers[1].packing, Packing::Gzip);
    let mut last = Vec::new();
    while let Some(event) = events.recv().await {
        if let Event::Loaded(loaded) = event {
            last.push(loaded);
        }
    }
    assert_eq!(last, [Loaded::Name("x:1".into()), Loaded::Name("x:2".into())]);
    assert_eq!(last[0].to_string(), "Loaded image: x:1");
    assert_eq!((rig.blobs().await, rig.layer_count()), (2, 2));

    let rig = rig.reopen().await;
    let image = rig.images.resolve("x:2").unwrap();
    assert_eq!(image.id, loaded[0].id);
    assert_eq!(image.config.config.cmd.as_deref().unwrap(), ["sh"]);
    assert_eq!(rig.images.raw_config(&image.id).await.unwrap(), config);
    assert_eq!(image.size, (plain[0].len() + plain[1].len()) as u64);
    assert_eq!((rig.blobs().await, rig.layer_count()), (2, 2), "nothing was swept");
}

#[tokio::test]
async fn an_archive_that_lies_changes_nothing() {
    let layer = tar(&[("a", b"1")]);
    let config = common::config(&[&layer], "x");
    let manifest = br#"[{"Config":"c","RepoTags":["x"],"Layers":["l"]}]"#;
    let other = tar(&[("a", b"2")]);
    let index = br#"{"manifests":[]}"#;
    for (archive, kind) in [
        (tar(&[("manifest.json", manifest), ("c", &config), ("l", &other)]), ErrorKind::Invalid),
        (tar(&[("manifest.json", manifest), ("c", &config)]), ErrorKind::Invalid),
        (tar(&[("manifest.json", manifest), ("l", &layer)]), ErrorKind::Invalid),
        (tar(&[("manifest.json", b"[{}"), ("l", &layer)]), ErrorKind::Invalid),
        (tar(&[("x", b"y")]), ErrorKind::Invalid),
        (b"not a tar at all".to_vec(), ErrorKind::Invalid),
        (
            tar(&[("index.json", index), ("manifest.json", br#"[{"Config":"../c","Layers":[]}]"#)]),
            ErrorKind::Invalid,
        ),
        (
            tar(&[
                ("manifest.json", br#"[{"Config":"c","RepoTags":["a/UP"],"Layers":["l"]}]"#),
                ("c", &config),
                ("l", &layer),
            ]),
            ErrorKind::Invalid,
        ),
    ] {
        let rig = rig().await;
        let error =
            rig.images.load(body(archive), Owner::Docker, &Progress::none()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{}", pouch_types::error::chain(&error));
        assert!(rig.images.list(&ListFilter::default()).unwrap().is_empty());
        assert!(rig.content.ingests().await.unwrap().is_empty(), "no ingest stays");
        let rig = rig.reopen().await;
        assert_eq!((rig.blobs().await, rig.layer_count()), (0, 0), "the next start collects");
    }
}

/// A client that goes away in the middle leaves nothing.
#[tokio::test]
async fn a_broken_upload_leaves_nothing() {
    use futures::StreamExt;
    let rig = rig().await;
    let archive = docker_archive(&["x"], &[&tar(&[("a", &[7; 100_000])])], "x");
    let cut = body(archive[..60_000].to_vec())
        .chain(futures::stream::iter([Err(std::io::ErrorKind::ConnectionReset.into())]));
    let error = rig.images.load(cut, Owner::Docker, &Progress::none()).await.unwrap_err();
    assert!(matches!(error, ImageError::Input(_)));
    assert!(rig.content.ingests().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_saved_loads_again() {
    let source = rig().await;
    let base = tar(&[("base", b"b")]);
    let top = tar(&[("top", b"t")]);
    let archive = docker_archive(&["one", "localhost:5000/uno:2"], &[&base, &top], "one");
    source.images.load(body(archive), Owner::Docker, &Progress::none()).await.unwrap();
    let archive = docker_archive(&["two"], &[&base], "two");
    source.images.load(body(archive), Owner::Docker, &Progress::none()).await.unwrap();
    let names = ["one".to_owned(), "localhost:5000/uno:2".to_owned(), "two".to_owned()];
    let saved = collect(source.images.save(&names).await.unwrap()).await;

    let target = rig().await;
    let loaded = target.images.load(body(saved), Owner::Docker, &Progress::none()).await.unwrap();
    assert_eq!(loaded.len(), 2);
    assert_eq!(loaded[0].repo_tags, ["one:latest", "localhost:5000/uno:2"]);
    assert_eq!(loaded[0].id, source.images.resolve("one").unwrap().id);
    assert!(loaded[0].manifest.is_some(), "the manifest of the layout is kept");
    assert_eq!(target.layer_count(), 2, "the base is shared");

    // By id there is no tag, and a missing name is an error before the first byte.
    let id = source.images.resolve("two").unwrap().id.to_string();
    let saved = collect(source.images.save(&[id]).await.unwrap()).await;
    let target = rig().await;
    let loaded = target.images.load(body(saved), Owner::Docker, &Progress::none()).await.unwrap();
    assert!(loaded[0].is_dangling());
    let error = source.images.save(&["nope".to_owned()]).await.unwrap_err();
    assert_eq!(error.to_string(), "No such image: nope:latest");
}

#[tokio::test]
async fn skopeo_reads_what_is_saved_and_we_read_what_skopeo_writes() {
    let Some(rootfs) = common::busybox() else {
        eprintln!("skipped: no /bin/busybox");
        return;
    };
    if !have("skopeo") {
        return;
    }
    let rig = rig().await;
    let image = import(&rig.images, "box:1", gzip(&rootfs)).await;
    let saved = collect(rig.images.save(&["box:1".to_owned()]).await.unwrap()).await;
    let path = |name: &str| rig.dir.path().join(name).display().to_string();
    std::fs::write(path("box.tar"), saved).unwrap();

    let seen =
        skopeo(&["inspect", "--raw", "--config", &format!("docker-archive:{}", path("box.tar"))]);
    assert_eq!(Digest::of(seen.as_bytes()), image.id.0);
    // The same file is an OCI archive.
    skopeo(&["inspect", &format!("oci-archive:{}", path("box.tar"))]);

    for (kind, name) in [
        ("docker-archive", "d.tar:again:1"),
        ("oci-archive", "o.tar:again:1"),
        ("oci", "layout:again:1"),
    ] {
        let target = format!("{kind}:{}", path(name));
        skopeo(&["copy", "-q", &format!("docker-archive:{}", path("box.tar")), &target]);
        let archive = match kind {
            "oci" => {
                let tar = path("layout.tar");
                let done = std::process::Command::new("tar")
                    .args(["-C", &path("layout"), "-cf", &tar, "."])
                    .status()
                    .unwrap();
                assert!(done.success());
                tar
            }
            _ => path(name.split(':').next().unwrap()),
        };
        let target = common::rig().await;
        let bytes = std::fs::read(archive).unwrap();
        let loaded = target.images.load(body(bytes), Owner::Docker, &Progress::none()).await;
        let loaded = loaded.unwrap_or_else(|e| panic!("{kind}: {}", pouch_types::error::chain(&e)));
        assert_eq!(loaded[0].repo_tags, ["again:1"], "{kind}");
        assert_eq!(loaded[0].diff_ids().collect::<Vec<_>>(), image.diff_ids().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn imports_every_packing() {
    let plain = tar(&[("etc/hostname", b"x")]);
    let mut xz = liblzma_encode(&plain);
    for bytes in [plain.clone(), gzip(&plain), std::mem::take(&mut xz)] {
        let rig = rig().await;
        let image = import(&rig.images, "i:1", bytes).await;
        assert_eq!(image.layers[0].diff_id, Digest::of(&plain));
        assert_eq!(image.config.config.env, ["A=b"]);
        assert_eq!(image.config.comment, "made by a test");
        assert_eq!(image.history()[0].size, plain.len() as u64);
        assert!(image.created.is_some());
        assert_eq!(rig.images.resolve("i:1").unwrap().id, image.id);
    }
    let rig = rig().await;
    let pinned = format!("i@{}", Digest::of(b"x")).parse().unwrap();
    let options = ImportOptions { reference: Some(pinned), ..ImportOptions::default() };
    let error = rig.images.import(body(plain), options, Owner::Docker).await.unwrap_err();
    assert!(matches!(error, ImageError::TagWithDigest));
}

fn liblzma_encode(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// What is saved stays readable while it is removed.
#[tokio::test]
async fn a_save_outlives_the_removal_of_its_image() {
    let rig = rig().await;
    let rootfs = tar(&[("big", &vec![9; 3_000_000])]);
    import(&rig.images, "x", rootfs).await;
    let stream = rig.images.save(&["x".to_owned()]).await.unwrap();
    rig.images.remove("x", RemoveOptions::default(), |_| Vec::new()).await.unwrap();
    assert!(collect(stream).await.len() > 3_000_000);
    assert!(rig.images.resolve("x").is_err());
}
