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
    let released = forget_row(engine, record.id.clone(), record.image.clone())
        .await
        .map_err(|e| EngineError::wrap("forget the container", e))?;
    failpoint::hit("remove:committed");
    engine.execs.forget(&record.id);
    // From here on nothing can bring the container back: report what fails and go on.
    if let Err(error) = engine.snapshots.remove(&record.id).await {
        let error = pouch_types::error::chain(&error);
        tracing::error!(container.id = %record.id, error, "cannot remove the root file system");
    }
    failpoint::hit("remove:snapshot-removed");
    // Only now do its layers carry nothing any more.
    if released == pouch_image::Released::Gone {
        engine.images.forget(&record.image).await;
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

/// Deletes a container's row with what it held, in one transaction.
pub(crate) async fn forget_row(
    engine: &Inner,
    id: ContainerId,
    image: ImageId,
) -> Result<pouch_image::Released, CommitError> {
    let forget = move |tx: &rusqlite::Transaction<'_>| {
        pouch_volume::release(tx, &id)?;
        Record::delete(tx, &id)?;
        Ok(pouch_image::release_image(tx, &image, &id)?)
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
