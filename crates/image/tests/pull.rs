//! Pulls: from Debian's registry filled by skopeo, and from one that misbehaves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;
#[path = "../../registry/tests/fake/mod.rs"]
mod fake;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{LocalRegistry, Rig, collect, config, gzip, import, rig, tar};
use fake::{Answer, CONFIG, MANIFEST, Request, Server, descriptor, manifest};
use pouch_image::{
    Collect, Event, Image, ImageError, LayerState, ListFilter, Owner, Progress, PullRequest,
    RemoveOptions,
};
use pouch_registry::{Credentials, Wanted};
use pouch_types::{Classified, Digest, ErrorKind};

fn request(name: &str) -> PullRequest {
    PullRequest {
        reference: name.parse().unwrap(),
        credentials: Credentials::Anonymous,
        platform: Wanted::Host,
        owner: Owner::Docker,
    }
}

async fn pull(rig: &Rig, name: &str) -> Result<(Arc<Image>, Vec<Event>), ImageError> {
    let (progress, mut events) = Progress::channel();
    let seen = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(event) = events.recv().await {
            seen.push(event);
        }
        seen
    });
    let image = rig.images.pull(request(name), &progress).await;
    drop(progress);
    Ok((image?, seen.await.unwrap()))
}

fn statuses(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Pulling { repository, id } => Some(format!("{id}: Pulling from {repository}")),
            Event::Layer {
                state: LayerState::Downloading(_) | LayerState::Extracting(_), ..
            } => None,
            Event::Layer { state, .. } => Some(state.status().to_owned()),
            Event::Digest(digest) => Some(format!("Digest: {digest}")),
            Event::Status(text) => Some(text.clone()),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn pulls_what_skopeo_pushed() {
    let (Some(registry), Some(rootfs)) = (LocalRegistry::start().await, common::busybox()) else {
        return;
    };
    let source = rig().await;
    let made = import(&source.images, "box:1", gzip(&rootfs)).await;
    let saved = collect(source.images.save(&["box:1".to_owned()]).await.unwrap()).await;
    let archive = source.dir.path().join("box.tar");
    std::fs::write(&archive, saved).unwrap();
    registry.push(&archive, "lib/box:1", &["--format", "v2s2"]);
    registry.push(&archive, "lib/box:oci", &["--format", "oci"]);
    let name = format!("{}/lib/box:1", registry.host);

    let rig = rig().await;
    let (image, events) = pull(&rig, &name).await.unwrap();
    assert_eq!(image.diff_ids().collect::<Vec<_>>(), made.diff_ids().collect::<Vec<_>>());
    assert_eq!(image.config.config.cmd.as_deref().unwrap(), ["sh"]);
    assert_eq!(image.repo_tags, std::slice::from_ref(&name));
    let digest = image.manifest.unwrap();
    assert_eq!(image.repo_digests, [format!("{}/lib/box@{digest}", registry.host)]);
    assert_eq!(
        statuses(&events),
        [
            "1: Pulling from lib/box".to_owned(),
            "Pulling fs layer".into(),
            "Verifying Checksum".into(),
            "Download complete".into(),
            "Pull complete".into(),
            format!("Digest: {digest}"),
            format!("Status: Downloaded newer image for {name}"),
        ]
    );
    let (_, events) = pull(&rig, &name).await.unwrap();
    let again = statuses(&events);
    assert_eq!(again[1], "Already exists");
    assert_eq!(again.last().unwrap(), &format!("Status: Image is up to date for {name}"));
    // By digest, and in the other format, whose layer is the same.
    let (pinned, _) = pull(&rig, &image.repo_digests[0]).await.unwrap();
    assert_eq!(pinned.id, image.id);
    pull(&rig, &format!("{}/lib/box:oci", registry.host)).await.unwrap();
    assert_eq!(rig.layer_count(), 1);

    let error = pull(&rig, &format!("{}/lib/box:nope", registry.host)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().starts_with("manifest for 127.0.0.1:"), "{error}");
    let error = pull(&rig, &format!("{}/no/such", registry.host)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // The manifest and all blobs are kept, so what is saved is what was pulled.
    let saved = collect(rig.images.save(&[name]).await.unwrap()).await;
    let target = common::rig().await;
    let loaded = target.images.load(common::body(saved), Owner::Docker, &Progress::none()).await;
    assert_eq!(loaded.unwrap()[0].manifest, Some(digest));
}

/// A registry with one image of the given layers; `twist` may change an answer for a path.
async fn serve(
    layers: Vec<Vec<u8>>,
    twist: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static,
) -> Server {
    let plain: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let config = config(&plain, "served");
    let manifest = manifest(&config, &plain);
    Server::start(move |r: &Request| {
        let has = |bytes: &[u8]| r.path.ends_with(&Digest::of(bytes).to_string());
        let answer = if r.path == "/v2/" {
            return Answer::ok("{}");
        } else if r.path.contains("/manifests/") {
            Answer::ok(manifest.clone()).header("content-type", MANIFEST)
        } else if has(&config) {
            Answer::ok(config.clone())
        } else {
            match layers.iter().find(|layer| has(layer)) {
                Some(layer) => Answer::ok(layer.clone()),
                None => Answer::new(404),
            }
        };
        twist(r, answer)
    })
    .await
}

fn blob_path(bytes: &[u8]) -> String {
    format!("/v2/a/blobs/{}", Digest::of(bytes))
}

#[tokio::test]
async fn wrong_bytes_are_never_an_image() {
    let layer = tar(&[("a", &[1; 5000])]);
    let wanted = blob_path(&layer);
    let server = serve(vec![layer], move |r, answer| {
        let mut answer = answer;
        if r.path == wanted {
            answer.body[100] ^= 1;
        }
        answer
    })
    .await;
    let rig = rig().await;
    let error = pull(&rig, &format!("{}/a", server.host())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(pouch_types::error::chain(&error).contains("digest mismatch"), "{error:?}");
    assert!(rig.images.resolve(&format!("{}/a", server.host())).is_err());
    assert_eq!((rig.blobs().await, rig.layer_count()), (0, 0));
    assert!(rig.content.ingests().await.unwrap().is_empty(), "bad bytes are not resumed");
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_stopped() {
    let layer = tar(&[("a", &(0..400_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>())]);
    let size = layer.len();
    let wanted = blob_path(&layer);
    let server = serve(vec![layer.clone()], move |r, answer| {
        if r.path != wanted {
            return answer;
        }
        let start = r.headers.get("range").map_or(0, |range| {
            range.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().unwrap()
        });
        // Half a MiB at a time, then the connection breaks.
        let end = (start + (1 << 19)).min(size);
        let mut part = Answer::ok(&layer[start..end]);
        part.length = Some((size - start) as u64);
        if start > 0 {
            part.status = 206;
            part = part.header("content-range", format!("bytes {start}-{}/{size}", size - 1));
        }
        part
    })
    .await;
    let rig = rig().await;
    // More breaks than attempts: each one got further.
    let (image, _) = pull(&rig, &format!("{}/a", server.host())).await.unwrap();
    assert_eq!(image.layers[0].blob_size, size as u64);
    let sent: Vec<_> = server
        .requests()
        .iter()
        .filter(|r| r.path.contains("blobs"))
        .filter_map(|r| r.headers.get("range").cloned())
        .collect();
    assert_eq!(sent, ["bytes=524288-", "bytes=1048576-", "bytes=1572864-"]);
}

#[tokio::test]
async fn a_resumed_download_that_is_wrong_is_fetched_afresh() {
    let layer = tar(&[("a", &[3; 9000])]);
    let digest = Digest::of(&layer);
    let server = serve(vec![layer.clone()], |r, answer| match r.headers.get("range") {
        None => answer,
        Some(range) => {
            assert_eq!(range, "bytes=100-");
            let mut part = Answer::ok(&answer.body[100..]);
            part.status = 206;
            part.header(
                "content-range",
                format!("bytes 100-{}/{}", answer.body.len() - 1, answer.body.len()),
            )
        }
    })
    .await;
    let rig = rig().await;
    let key = pouch_content::IngestKey::of_blob(&digest);
    let mut ingest = rig.content.ingest_blocking(key, pouch_content::Expected::default()).unwrap();
    ingest.append(&[0xee; 100]).unwrap();
    drop(ingest);
    let (image, _) = pull(&rig, &format!("{}/a", server.host())).await.unwrap();
    assert_eq!(image.layers[0].blob, digest);
}

#[tokio::test]
async fn many_clients_one_fetch() {
    let layers: Vec<_> = (0..5u8).map(|n| tar(&[("f", &[n; 20_000])])).collect();
    let fetches = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&fetches);
    let paths: Vec<_> = layers.iter().map(|layer| blob_path(layer)).collect();
    let server = serve(layers, move |r, answer| {
        if paths.contains(&r.path) {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        answer
    })
    .await;
    let rig = rig().await;
    let name = format!("{}/a", server.host());
    let pulls = (0..8).map(|_| pull(&rig, &name));
    let pulled = futures::future::try_join_all(pulls).await.unwrap();
    assert!(pulled.iter().all(|(image, _)| image.layers.len() == 5));
    assert_eq!(fetches.load(Ordering::SeqCst), 5);
    assert_eq!(rig.layers.applied.load(Ordering::SeqCst), 5);
}

/// A registry whose only layer stops coming in the middle of its first download.
async fn stalling(layer: Vec<u8>, upto: usize) -> Server {
    let wanted = blob_path(&layer);
    let tries = AtomicUsize::new(0);
    serve(vec![layer], move |r, answer| {
        if r.path == wanted && tries.fetch_add(1, Ordering::SeqCst) == 0 {
            let length = Some(answer.body.len() as u64);
            return Answer { body: answer.body[..upto].to_vec(), length, hang: true, ..answer };
        }
        let start = r.headers.get("range").and_then(|range| {
            range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
        });
        match start {
            Some(start) => {
                let size = answer.body.len();
                let mut part = Answer::ok(&answer.body[start..]);
                part.status = 206;
                part.header("content-range", format!("bytes {start}-{}/{size}", size - 1))
            }
            None => answer,
        }
    })
    .await
}

fn blob_requests(server: &Server) -> Vec<Option<String>> {
    let requests = server.requests();
    let blobs = requests.iter().filter(|r| r.path.contains("blobs"));
    // The first blob is the configuration.
    blobs.skip(1).map(|r| r.headers.get("range").cloned()).collect()
}

async fn wait_for_downloads(server: &Server, count: usize) {
    while blob_requests(server).len() < count {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_takes_nothing_from_the_others() {
    let server = stalling(tar(&[("f", &[7; 300_000])]), 150_000).await;
    let rig = rig().await;
    let name = format!("{}/a", server.host());
    let (images, first) = (rig.images.clone(), request(&name));
    let stalled =
        tokio::spawn(async move { images.pull(first, &Progress::none()).await.map(drop) });
    wait_for_downloads(&server, 1).await;
    let second = pull(&rig, &name);
    tokio::pin!(second);
    // Time to join the first one, and for that to get as far as it comes.
    let half_a_second = tokio::time::sleep(std::time::Duration::from_millis(500));
    tokio::pin!(half_a_second);
    let early = futures::future::select(&mut second, half_a_second).await;
    assert!(matches!(early, futures::future::Either::Right(_)), "it cannot be done yet");
    stalled.abort();
    let (image, _) = second.await.unwrap();
    assert_eq!(image.layers.len(), 1);
    let layers: Vec<_> =
        blob_requests(&server).into_iter().filter(|range| range.is_some()).collect();
    assert_eq!(layers, [Some("bytes=150000-".to_owned())]);
    assert_eq!(rig.layers.applied.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_the_last_client_leaves_is_taken_up_after_a_restart() {
    let layer = tar(&[("f", &(0..700_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>())]);
    let size = layer.len();
    let server = stalling(layer, 2_500_000).await;
    let rig = rig().await;
    let name = format!("{}/a", server.host());
    let (images, first) = (rig.images.clone(), request(&name));
    let stopped =
        tokio::spawn(async move { images.pull(first, &Progress::none()).await.map(drop) });
    let come = async {
        loop {
            let ingests = rig.content.ingests().await.unwrap();
            if ingests.iter().any(|ingest| ingest.size >= 1 << 20) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    come.await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    stopped.abort();
    let _ = stopped.await;
    let rig = rig.reopen().await;
    let (image, _) = pull(&rig, &name).await.unwrap();
    assert_eq!(image.layers[0].blob_size, size as u64);
    let ranges: Vec<_> = blob_requests(&server).into_iter().flatten().collect();
    assert_eq!(ranges, ["bytes=2500000-"], "no byte comes twice");
}

/// The rights of the client that happened to begin say nothing about the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refused_client_does_not_fail_one_that_may() {
    let layer = tar(&[("f", b"secret")]);
    let wanted = blob_path(&layer);
    let server = serve(vec![layer], move |r, answer| {
        if r.path != wanted || r.headers.contains_key("authorization") {
            return answer;
        }
        // Long enough for the second client to join.
        std::thread::sleep(std::time::Duration::from_millis(300));
        Answer::new(401).header("www-authenticate", "Basic realm=\"x\"")
    })
    .await;
    let rig = rig().await;
    let name = format!("{}/a", server.host());
    let (images, first) = (rig.images.clone(), request(&name));
    let refused = tokio::spawn(async move { images.pull(first, &Progress::none()).await });
    wait_for_downloads(&server, 1).await;
    let mut second = request(&name);
    second.credentials = Credentials::Basic { username: "u".to_owned(), password: "p".to_owned() };
    let image = rig.images.pull(second, &Progress::none()).await.unwrap();
    assert_eq!(image.layers.len(), 1);
    // In Docker's words: no such repository, or not for you.
    assert_eq!(refused.await.unwrap().unwrap_err().kind(), ErrorKind::NotFound);
}

/// SEC-30: layers come from the registry that was named, whatever their descriptors say.
#[tokio::test]
async fn urls_of_foreign_layers_are_not_fetched() {
    let thief = Server::start(|_| Answer::ok("x")).await;
    let layer = tar(&[("a", b"1")]);
    let config = config(&[&layer], "x");
    let mut foreign =
        descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", &layer);
    foreign.pop();
    let foreign = format!(r#"{foreign},"urls":["http://{}/x"]}}"#, thief.host());
    let body = format!(
        r#"{{"mediaType":"{MANIFEST}","config":{},"layers":[{foreign}]}}"#,
        descriptor(CONFIG, &config)
    );
    let server = serve(Vec::new(), move |r, answer| {
        if r.path.contains("manifests") {
            return Answer::ok(body.clone()).header("content-type", MANIFEST);
        }
        if r.path == blob_path(&config) { Answer::ok(config.clone()) } else { answer }
    })
    .await;
    let error = pull(&rig().await, &format!("{}/a", server.host())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(thief.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn another_platform_is_refused() {
    let server = serve(vec![tar(&[("a", b"1")])], |_, answer| answer).await;
    let mut request = request(&format!("{}/a", server.host()));
    request.platform = Wanted::Exactly("linux/arm64".parse().unwrap());
    let error = rig().await.images.pull(request, &Progress::none()).await.unwrap_err();
    assert!(error.to_string().ends_with("wanted linux/arm64, actual: linux/amd64"), "{error}");
}

/// Pulls, removals and collections of the same layers at once: what a name holds is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn collections_take_nothing_that_a_pull_needs() {
    let layers: Vec<_> = (0..3u8).map(|n| tar(&[("f", &[n; 50_000])])).collect();
    let server = serve(layers, |_, answer| answer).await;
    let rig = Arc::new(rig().await);
    let collector = tokio::spawn({
        let rig = Arc::clone(&rig);
        async move {
            loop {
                rig.images.collect(Collect::Everything).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(3)).await;
            }
        }
    });
    let mut pullers = Vec::new();
    for n in 0..3 {
        let (rig, name) = (Arc::clone(&rig), format!("{}/a:{n}", server.host()));
        pullers.push(tokio::spawn(async move {
            for _ in 0..5 {
                pull(&rig, &name).await.unwrap();
                let image = rig.images.resolve(&name).unwrap();
                for layer in image.layers.iter() {
                    assert!(rig.content.exists(&layer.blob).await.unwrap());
                    assert!(rig.layers.layers.lock().unwrap().contains_key(&layer.diff_id));
                }
                let options = RemoveOptions::default();
                rig.images.remove(&name, options, |_| Vec::new()).await.unwrap();
            }
        }));
    }
    for puller in pullers {
        puller.await.unwrap();
    }
    collector.abort();
    let _ = collector.await;
    for image in rig.images.list(&ListFilter::default()).unwrap() {
        let forced = RemoveOptions { force: true, ..RemoveOptions::default() };
        rig.images.remove(&image.id.to_string(), forced, |_| Vec::new()).await.unwrap();
    }
    rig.images.collect(Collect::Everything).await.unwrap();
    assert_eq!((rig.blobs().await, rig.layer_count()), (0, 0));
}
