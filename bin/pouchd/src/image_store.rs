//! Who keeps images and root file systems: we, or the containerd below. A data root belongs to one
//! of them as long as there is anything in it, since neither finds what the other keeps.

use std::io;
use std::path::Path;
use std::sync::Arc;

use pouch_containerd::remote::{ImageFeed, ImageNews, Naming};
use pouch_containerd_grpc::Pool;
use pouch_containerd_images::{ContainerdStore, StoreConfig};
use pouch_content::ContentStore;
use pouch_image::{Images, Policy};
use pouch_registry::Registry;
use pouch_snapshot::{Roots, SnapshotConfig, Snapshotter};
use pouch_store::Store;

use crate::backend::BackendSettings;
use crate::config::RemoteImageStore;
use crate::daemon::{DaemonError, seam};
use crate::policy;
use crate::settings::Settings;

/// In the data root: who keeps what it refers to.
const MARKER: &str = "image-store";
/// Directory of ours in the data root and the state directory, with containerd as the keeper.
const DIRECTORY: &str = "containerd";

/// Opens images and root file systems.
///
/// # Errors
/// When the data root is the other's, or either cannot be opened.
pub(crate) async fn open(
    settings: &Settings,
    store: &Store,
    containerd: Option<(Pool, Arc<ImageFeed>)>,
    policy: Policy,
) -> Result<(Images, Arc<dyn Roots>), DaemonError> {
    let config = &settings.engine;
    let (asked, snapshotter) = match &settings.backend {
        BackendSettings::Local => (Some(RemoteImageStore::Local), ""),
        BackendSettings::Remote { store, snapshotter, .. } => (*store, snapshotter.as_str()),
    };
    let keeper = decide(&config.data_root, store, asked).await?;
    let registry = Registry::new(settings.registry.clone()).map_err(seam("registry client"))?;
    let content = config.data_root.join("content");
    let (images, roots, feed): (_, Arc<dyn Roots>, _) = match (keeper, containerd) {
        (RemoteImageStore::Containerd, Some((pool, feed))) => {
            let opened = ContainerdStore::open(
                StoreConfig {
                    snapshotter: snapshotter.to_owned(),
                    directory: config.data_root.join(DIRECTORY),
                    state: config.exec_root.join(DIRECTORY),
                    owner: config.data_root.to_string_lossy().into_owned(),
                    unpack_binary: config.unpack_binary.clone(),
                },
                pool,
            );
            let opened = opened.await.map_err(seam("image store in containerd"))?;
            let content = ContentStore::open_over(&content, Box::new(opened.clone()));
            let content = content.map_err(seam("content store"))?;
            let kept = Arc::new(opened.clone());
            let registrar = Some(Arc::clone(&kept) as _);
            let images = Images::open_with(store.clone(), content, kept, registrar, registry).await;
            (images, Arc::new(opened), Some(feed))
        }
        (RemoteImageStore::Containerd | RemoteImageStore::Local, _) => {
            let snapshots = SnapshotConfig {
                root: config.data_root.join("overlay"),
                state: config.exec_root.join("overlay"),
                unpack_binary: config.unpack_binary.clone(),
            };
            let snapshots = Snapshotter::open(snapshots, store.clone()).await;
            let snapshots = snapshots.map_err(seam("snapshotter"))?;
            let content = ContentStore::open(&content).map_err(seam("content store"))?;
            let layers = Arc::new(snapshots.clone());
            let images = Images::open(store.clone(), content, layers, registry).await;
            (images, Arc::new(snapshots), None)
        }
    };
    let images = images.map_err(seam("images"))?;
    policy::tell(&policy);
    images.set_policy(policy);
    if let Some(feed) = feed {
        tokio::spawn(follow(images.clone(), feed));
    }
    Ok((images, roots))
}

/// Who keeps: as asked, else as the data root has it, else containerd; never against what the data
/// root has.
async fn decide(
    data: &Path,
    store: &Store,
    asked: Option<RemoteImageStore>,
) -> Result<RemoteImageStore, DaemonError> {
    let marker = data.join(MARKER);
    let failed = |doing| {
        let path = marker.clone();
        move |source| DaemonError::Path { doing, path, source }
    };
    let has = match std::fs::read_to_string(&marker) {
        Ok(text) if text == name(RemoteImageStore::Containerd) => {
            Some(RemoteImageStore::Containerd)
        }
        Ok(_) => Some(RemoteImageStore::Local),
        // Before there was a choice, it was always we.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            data.join("overlay").exists().then_some(RemoteImageStore::Local)
        }
        Err(source) => return Err(failed("read")(source)),
    };
    let has = match has {
        Some(has) if is_in_use(data, store).await? => Some(has),
        _ => None,
    };
    let keeper = asked.or(has).unwrap_or(RemoteImageStore::Containerd);
    if let Some(theirs) = has.filter(|has| *has != keeper) {
        let theirs_flag = match theirs {
            RemoteImageStore::Containerd => "--backend remote --remote-image-store containerd",
            RemoteImageStore::Local => "--remote-image-store local",
        };
        let (data, theirs) = (data.to_owned(), name(theirs));
        return Err(DaemonError::OtherStore { data, theirs, theirs_flag });
    }
    std::fs::write(&marker, name(keeper)).map_err(failed("write"))?;
    Ok(keeper)
}

const fn name(keeper: RemoteImageStore) -> &'static str {
    match keeper {
        RemoteImageStore::Containerd => "containerd",
        RemoteImageStore::Local => "local",
    }
}

/// Whether the data root has images, or containers with root file systems.
async fn is_in_use(data: &Path, store: &Store) -> Result<bool, DaemonError> {
    let roots = ["overlay/c", "containerd/roots"].map(|path| data.join(path));
    let any = |path: &Path| std::fs::read_dir(path).is_ok_and(|mut found| found.next().is_some());
    if roots.iter().any(|path| any(path)) {
        return Ok(true);
    }
    pouch_image::is_any(store).await.map_err(seam("images"))
}

/// Follows what others do with images.
async fn follow(images: Images, feed: Arc<ImageFeed>) {
    loop {
        let followed = match feed.next().await {
            ImageNews::All => images.compare().await,
            ImageNews::Names(names) => {
                let mut followed = Ok(());
                for (name, naming) in names {
                    if naming == Naming::Gone && !images.is_named(&name) {
                        continue;
                    }
                    followed = images.follow(&name).await;
                    if followed.is_err() {
                        break;
                    }
                }
                if followed.is_err() {
                    // All are looked at when containerd is back, which is told to the feed too.
                    feed.tell_all();
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
                followed
            }
        };
        if let Err(error) = followed {
            let error = pouch_types::error::chain(&error);
            tracing::warn!(error, "images in containerd could not be followed");
        }
    }
}
