//! Mounts of a container: what each destination gets, decided at create and made at start.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use pouch_oci::{Access, ResolvedKind, ResolvedMount, SourcePropagation};
use pouch_types::spec::{
    ContainerSpec, MountKind, MountOrigin, MountSpec, Propagation, ReadOnlyRecursion, VolumesFrom,
};
use pouch_types::{Classified, ContainerId, ErrorKind};
use tokio::sync::Semaphore;

use crate::container::Container;
use crate::container::record::Record;
use crate::engine::Inner;
use crate::view::{ContainerView, ImageMount, MountPoint};
use crate::{EngineError, files};

/// Driver of volumes that name none.
const LOCAL: &str = "local";

/// Decides every mount; makes volumes that do not exist and fills the new ones from the image. The
/// images that were given a root file system are in `files` also when it fails.
pub(crate) async fn resolve(
    engine: &Inner,
    id: &ContainerId,
    spec: &ContainerSpec,
    warnings: &mut Vec<String>,
    files: &mut Vec<ImageMount>,
) -> Result<Vec<MountPoint>, EngineError> {
    let mut points: BTreeMap<String, MountPoint> = BTreeMap::new();
    for from in &spec.volumes_from {
        for point in inherited(engine, from)? {
            points.insert(point.spec.destination.clone(), point);
        }
    }
    let mut own = BTreeSet::new();
    for mount in &spec.mounts {
        if !own.insert(mount.destination.as_str()) {
            return Err(EngineError::invalid(format!(
                "Duplicate mount point: {}",
                mount.destination
            )));
        }
        let point = point(engine, mount, &spec.volume_driver, warnings).await?;
        files.extend(point.image.clone());
        points.insert(mount.destination.clone(), point);
    }
    for destination in &spec.volumes {
        if points.contains_key(destination) {
            continue;
        }
        let mount = anonymous_at(destination);
        let point = point(engine, &mount, &spec.volume_driver, warnings).await?;
        points.insert(destination.clone(), point);
    }
    for point in points.values() {
        fill(engine, id, point).await?;
    }
    Ok(points.into_values().collect())
}

fn anonymous_at(destination: &str) -> MountSpec {
    MountSpec {
        destination: destination.to_owned(),
        kind: MountKind::Volume {
            name: None,
            no_copy: false,
            subpath: None,
            driver: String::new(),
            driver_opts: BTreeMap::new(),
            labels: BTreeMap::new(),
        },
        read_only: false,
        mapped: false,
        propagation: None,
        relabel: None,
        origin: MountOrigin::Anonymous,
    }
}

/// The mounts of another container, tmpfs excepted.
fn inherited(engine: &Inner, from: &VolumesFrom) -> Result<Vec<MountPoint>, EngineError> {
    let view = engine.index.find(&from.container)?.view();
    let shared = view.mounts.iter().filter(|m| !matches!(m.spec.kind, MountKind::Tmpfs { .. }));
    Ok(shared
        .cloned()
        .map(|mut point| {
            point.spec.origin = MountOrigin::VolumesFrom;
            point.spec.read_only = from.read_only.unwrap_or(point.spec.read_only);
            point.anonymous = false;
            point
        })
        .collect())
}

async fn point(
    engine: &Inner,
    mount: &MountSpec,
    default_driver: &str,
    warnings: &mut Vec<String>,
) -> Result<MountPoint, EngineError> {
    let mut spec = mount.clone();
    let mut point = MountPoint {
        spec: mount.clone(),
        source: String::new(),
        volume: None,
        driver: None,
        propagation: mount.propagation,
        anonymous: false,
        image: None,
    };
    match &mut spec.kind {
        MountKind::Tmpfs { .. } => {}
        MountKind::Image { image, subpath } => {
            let image = engine.images.resolve(image)?;
            let snapshot = ContainerId::random().map_err(|e| {
                EngineError::new(ErrorKind::Internal, format!("no random bytes: {e}"))
            })?;
            let layers: Vec<_> = image.diff_ids().copied().collect();
            let made = engine.snapshots.prepare(&snapshot, &layers).await;
            made.map_err(|e| EngineError::wrap("make the files of the image", e))?;
            let files = ImageMount { image: image.id.clone(), snapshot };
            // What cannot be mounted is told now.
            if let Err(error) = image_files(engine, subpath.as_deref(), &files).await {
                discard_images(engine, &[files]).await;
                return Err(error);
            }
            point.image = Some(files);
        }
        MountKind::Bind { source, create_source, .. } => {
            if !*create_source && !exists(source).await? {
                return Err(EngineError::invalid(format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: \
                     {source}"
                )));
            }
            point.source.clone_from(source);
            point.propagation = point.propagation.or(Some(Propagation::Rprivate));
        }
        MountKind::Volume { name, driver, driver_opts, labels, .. } => {
            let driver = [driver.as_str(), default_driver, LOCAL]
                .into_iter()
                .find(|d| !d.is_empty())
                .unwrap_or(LOCAL);
            point.anonymous = name.is_none();
            let volume = engine
                .volumes
                .create(name.clone(), driver, driver_opts.clone(), labels.clone())
                .await
                .map_err(|e| EngineError::wrap("make the volume", e))?;
            if mount.relabel.is_some() && !engine.host.selinux {
                warnings.push(format!(
                    "SELinux is off: the relabelling of {} has no effect",
                    mount.destination
                ));
            }
            *name = Some(volume.name.clone());
            point.volume = Some(volume.name.to_string());
            point.driver = Some(volume.driver.clone());
            point.source = volume.mountpoint.to_string_lossy().into_owned();
        }
    }
    point.spec = spec;
    Ok(point)
}

/// Copies what the image has at the destination into a volume that is still empty.
async fn fill(engine: &Inner, id: &ContainerId, point: &MountPoint) -> Result<(), EngineError> {
    let MountKind::Volume { name: Some(name), no_copy: false, subpath: None, .. } =
        &point.spec.kind
    else {
        return Ok(());
    };
    let doing = || format!("fill the volume {name} from the image");
    let (volumes, opened, failed) = (engine.volumes.clone(), name.clone(), doing());
    let open = move || volumes.open_data(&opened).map_err(|e| EngineError::wrap(failed, e));
    let into = look(format!("the volume {name}"), open).await?;
    let root =
        engine.snapshots.mount_detached(id).await.map_err(|e| EngineError::wrap(doing(), e))?;
    match root.metadata(&point.spec.destination) {
        Ok(stat) if stat.is_dir() => {}
        Ok(_) => return Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(EngineError::wrap(doing(), e)),
    }
    engine
        .snapshots
        .unpacker()
        .copy_tree(&root, &point.spec.destination, &into)
        .await
        .map(drop)
        .map_err(|e| EngineError::wrap(doing(), e))
}

/// The mounts that a container asks for, as far as they are known without their sources.
pub(crate) fn foreseen(spec: &ContainerSpec) -> Vec<ResolvedMount> {
    let anonymous = spec.volumes.iter().filter(|destination| {
        let taken = |mount: &MountSpec| mount.destination == **destination;
        !spec.mounts.iter().any(taken)
    });
    let anonymous = anonymous.map(|destination| anonymous_at(destination));
    let all = spec.mounts.iter().cloned().chain(anonymous);
    all.map(|mount| ResolvedMount {
        destination: mount.destination,
        kind: match mount.kind {
            MountKind::Tmpfs { size, mode, options } => ResolvedKind::Tmpfs { size, mode, options },
            MountKind::Bind { .. } | MountKind::Volume { .. } | MountKind::Image { .. } => {
                ResolvedKind::Bind {
                    source: "/".to_owned(),
                    non_recursive: false,
                    source_propagation: SourcePropagation::Unknown,
                }
            }
        },
        access: Access::ReadWrite,
        propagation: None,
        mapped: false,
    })
    .collect()
}

/// The mounts of a run, with every source in place: the user's and the name files.
pub(crate) async fn for_start(
    engine: &Inner,
    container: &Container,
    record: &Record,
) -> Result<Vec<ResolvedMount>, EngineError> {
    let mut mounts = Vec::with_capacity(record.mounts.len() + files::NAME_FILES.len());
    let taken: BTreeSet<&str> = record.mounts.iter().map(|m| m.spec.destination.as_str()).collect();
    let names = match &record.spec.pod {
        Some(member) => engine.config.pod_dir(&member.pod),
        None => {
            files::touch(&container.dir)?;
            container.dir.clone()
        }
    };
    for (name, destination) in files::NAME_FILES {
        if !taken.contains(destination) {
            mounts.push(ResolvedMount {
                destination: destination.to_owned(),
                kind: ResolvedKind::Bind {
                    source: names.join(name).to_string_lossy().into_owned(),
                    non_recursive: false,
                    source_propagation: SourcePropagation::Unknown,
                },
                access: Access::ReadWrite,
                propagation: None,
                mapped: false,
            });
        }
    }
    for point in &record.mounts {
        mounts.push(resolved(engine, record, point).await?);
        engine.announce_mount("mount", &record.id, point);
    }
    Ok(mounts)
}

async fn resolved(
    engine: &Inner,
    record: &Record,
    point: &MountPoint,
) -> Result<ResolvedMount, EngineError> {
    let spec = &point.spec;
    let mut recursion = ReadOnlyRecursion::Best;
    // The kubelet counts on a refusal of what a source cannot pass on; Docker's users get what
    // there is. Only asked for what needs to know: it is a look at all mounts.
    let passes_on = record.spec.pod.is_some()
        && !matches!(spec.propagation, None | Some(Propagation::Private | Propagation::Rprivate));
    let bind = |source: String, non_recursive| ResolvedKind::Bind {
        source_propagation: match passes_on {
            true => SourcePropagation::of(Path::new(&source)).unwrap_or_default(),
            false => SourcePropagation::Unknown,
        },
        source,
        non_recursive,
    };
    let kind = match &spec.kind {
        MountKind::Bind { source, create_source, non_recursive, read_only_recursion } => {
            recursion = *read_only_recursion;
            if *create_source {
                make_source(source).await?;
            }
            bind(source.clone(), *non_recursive)
        }
        MountKind::Volume { name: Some(name), subpath, .. } => {
            let doing = || format!("mount the volume {name}");
            let root = engine
                .volumes
                .attach(name, &record.id)
                .await
                .map_err(|e| EngineError::wrap(doing(), e))?;
            let source = match subpath {
                None => root,
                Some(subpath) => {
                    // Resolved inside the volume; the runtime mounts what the path then names.
                    let (volumes, volume) = (engine.volumes.clone(), name.clone());
                    let (inside, failed) = (subpath.clone(), doing());
                    let resolve = move || {
                        let found = volumes.resolve_subpath(&volume, &inside);
                        found.map(drop).map_err(|e| EngineError::wrap(failed, e))
                    };
                    look(format!("the volume {name}"), resolve).await?;
                    root.join(subpath)
                }
            };
            bind(source.to_string_lossy().into_owned(), false)
        }
        MountKind::Volume { name: None, .. } => {
            return Err(EngineError::new(ErrorKind::Internal, "a volume without a name"));
        }
        MountKind::Tmpfs { size, mode, options } => {
            ResolvedKind::Tmpfs { size: *size, mode: *mode, options: options.clone() }
        }
        MountKind::Image { image, subpath } => {
            let lost =
                || EngineError::new(ErrorKind::Internal, format!("image {image} was not prepared"));
            let files = point.image.as_ref().ok_or_else(lost)?;
            image_files(engine, subpath.as_deref(), files).await?
        }
    };
    Ok(ResolvedMount {
        destination: spec.destination.clone(),
        kind,
        access: if spec.read_only { Access::ReadOnly(recursion) } else { Access::ReadWrite },
        propagation: spec.propagation,
        mapped: spec.mapped,
    })
}

/// The files of an image, as the snapshotter mounts them, or those below a path in it.
async fn image_files(
    engine: &Inner,
    subpath: Option<&str>,
    files: &ImageMount,
) -> Result<ResolvedKind, EngineError> {
    let doing = || format!("find the files of image {}", files.image);
    let mut mounts =
        engine.snapshots.mounts(&files.snapshot).map_err(|e| EngineError::wrap(doing(), e))?;
    let mount = mounts.pop().filter(|_| mounts.is_empty());
    let mount = mount.ok_or_else(|| EngineError::new(ErrorKind::Internal, doing()))?;
    let mount = match subpath {
        None => mount,
        Some(subpath) => {
            let inside = subpath.to_owned();
            tokio::task::spawn_blocking(move || pouch_snapshot::below(&mount, &inside))
                .await
                .map_err(|e| EngineError::new(ErrorKind::Internal, e.to_string()))?
                .map_err(|e| EngineError::wrap(doing(), e))?
        }
    };
    Ok(ResolvedKind::Other { kind: mount.kind, source: mount.source, options: mount.options })
}

/// Forgets the images that were mounted into a container.
pub(crate) async fn discard_images(engine: &Inner, all: &[ImageMount]) {
    for files in all {
        if let Err(error) = engine.snapshots.remove(&files.snapshot).await {
            let error = pouch_types::error::chain(&error);
            tracing::error!(image = %files.image, error, "cannot remove the files of an image");
        }
    }
}

/// Time that a mount source gets to answer: a file server may be gone.
const SOURCE_PATIENCE: Duration = Duration::from_secs(20);
/// Looks at mount sources that may hang in the kernel at the same time.
static LOOKS: Semaphore = Semaphore::const_new(64);

/// Whether there is something at `source`, links followed: the host path is the administrator's.
async fn exists(source: &str) -> Result<bool, EngineError> {
    let path = source.to_owned();
    look(format!("mount source path '{source}'"), move || Ok(Path::new(&path).exists())).await
}

/// `-v` makes a missing directory.
async fn make_source(source: &str) -> Result<(), EngineError> {
    let path = source.to_owned();
    let make = move || {
        let made = match std::fs::metadata(&path) {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => std::fs::create_dir_all(&path),
            Err(e) => Err(e),
        };
        let failed = || format!("error while creating mount source path '{path}'");
        made.map_err(|e| EngineError::io(failed(), e))
    };
    look(format!("mount source path '{source}'"), make).await
}

/// Asks a file system about `what`, on a thread of its own: one that hangs in the kernel never comes
/// back, and in a pool it would be missed.
async fn look<T: Send + 'static>(
    what: String,
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    let lost = |e: String| EngineError::new(ErrorKind::Internal, e);
    let asked = async {
        let permit = LOOKS.acquire().await.map_err(|e| lost(e.to_string()))?;
        let (reply, answer) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("mount-source".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || {
                // Nobody listens after the deadline.
                let _ = reply.send(work());
                drop(permit);
            })
            .map_err(|e| EngineError::io(format!("start a thread for {what}"), e))?;
        answer.await.map_err(|e| lost(e.to_string()))?
    };
    match tokio::time::timeout(SOURCE_PATIENCE, asked).await {
        Ok(result) => result,
        Err(_) => Err(EngineError::new(
            ErrorKind::DeadlineExceeded,
            format!("{what} did not answer within {} s", SOURCE_PATIENCE.as_secs()),
        )),
    }
}

/// Lets go of the volumes of a run.
pub(crate) async fn release(
    engine: &Inner,
    view: &ContainerView,
) -> Result<(), pouch_volume::VolumeError> {
    let mut failed = None;
    for point in &view.mounts {
        if let MountKind::Volume { name: Some(name), .. } = &point.spec.kind {
            match engine.volumes.detach(name, &view.id).await {
                Ok(()) => engine.announce_mount("unmount", &view.id, point),
                Err(error) => failed = Some(error),
            }
        }
    }
    failed.map_or(Ok(()), Err)
}
