//! Removal: the row goes first, in one transaction with all that it held; what lies on disk is
//! then nobody's and goes as fast as it can. A crash in between leaves directories without a row,
//! which the next start of the daemon removes.

use std::sync::Arc;

use crate::EngineError;
use crate::container::Container;
use crate::container::actor::Volumes;
use crate::container::record::Record;
use crate::engine::Inner;
use crate::failpoint;
use crate::lifecycle::create::CommitError;
use crate::view::MountPoint;
use pouch_types::spec::MountKind;
use pouch_types::{ContainerId, ImageId};

pub(crate) async fn remove_all(
    engine: &Arc<Inner>,
    container: &Arc<Container>,
    record: &Record,
    volumes: Volumes,
) -> Result<(), EngineError> {
    failpoint::hit("remove:before-commit");
    let freed = forget_row(engine, record)
        .await
        .map_err(|e| EngineError::wrap("forget the container", e))?;
    failpoint::hit("remove:committed");
    engine.execs.forget(&record.id);
    // From here on nothing can bring the container back: report what fails and go on.
    if let Err(error) = engine.snapshots.remove(&record.id).await {
        let error = pouch_types::error::chain(&error);
        tracing::error!(container.id = %record.id, error, "cannot remove the root file system");
    }
    let mounted: Vec<_> = record.mounts.iter().filter_map(|mount| mount.image.clone()).collect();
    super::mounts::discard_images(engine, &mounted).await;
    failpoint::hit("remove:snapshot-removed");
    // Only now do its layers carry nothing any more.
    for image in &freed {
        engine.images.forget(image).await;
    }
    if volumes == Volumes::Remove {
        for name in record.mounts.iter().filter_map(anonymous) {
            if let Err(error) = engine.volumes.remove(name).await {
                // Another container may use it by --volumes-from.
                let error = pouch_types::error::chain(&error);
                tracing::debug!(volume.name = %name, error, "anonymous volume kept");
            }
        }
    }
    let dir = container.dir.clone();
    let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(dir)).await;
    match removed {
        Ok(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::error!(container.id = %record.id, %error, "cannot remove the directory");
        }
        _ => {}
    }
    Ok(())
}

/// Deletes a container's row with what it held, in one transaction. Gives the images that were
/// removed before and whose last use this was.
pub(crate) async fn forget_row(
    engine: &Inner,
    record: &Record,
) -> Result<Vec<ImageId>, CommitError> {
    let id = record.id.clone();
    let mounted = record.mounts.iter().filter_map(|mount| mount.image.as_ref());
    let mut uses: Vec<(ImageId, ContainerId)> =
        mounted.map(|files| (files.image.clone(), files.snapshot.clone())).collect();
    uses.push((record.image.clone(), id.clone()));
    let forget = move |tx: &rusqlite::Transaction<'_>| {
        pouch_volume::release(tx, &id)?;
        Record::delete(tx, &id)?;
        let mut freed = Vec::new();
        for (image, user) in uses {
            if pouch_image::release_image(tx, &image, &user)? == pouch_image::Released::Gone {
                freed.push(image);
            }
        }
        Ok(freed)
    };
    engine.store.write(forget).await
}

/// The name of the volume that this mount made for itself.
fn anonymous(mount: &MountPoint) -> Option<&pouch_types::VolumeName> {
    match &mount.spec.kind {
        MountKind::Volume { name: Some(name), .. } if mount.anonymous => Some(name),
        _ => None,
    }
}
