//! Volumes and leftovers, as far as containers have a say in them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pouch_types::spec::MountKind;
use pouch_types::{Classified, ErrorKind, VolumeName};
use pouch_volume::{Volume, VolumeError};

use crate::api::RemoveOptions;
use crate::events::EventKind;
use crate::system::DiskUsage;
use crate::view::Status;
use crate::{Engine, EngineError};

/// What a prune removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Ids or names.
    pub deleted: Vec<String>,
    /// Bytes.
    pub reclaimed: u64,
}

/// Label conditions of a prune: `key` or `key=value`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelFilter {
    /// All of these must be there.
    pub with: Vec<String>,
    /// None of these may be there.
    pub without: Vec<String>,
}

impl LabelFilter {
    /// Whether `labels` meet the conditions.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |condition: &String| match condition.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
            None => labels.contains_key(condition),
        };
        self.with.iter().all(has) && !self.without.iter().any(has)
    }
}

impl Engine {
    /// Makes a volume, or returns the one of that name.
    ///
    /// # Errors
    /// `Conflict` when the name is taken by another kind, `Invalid` for unknown options.
    pub async fn create_volume(
        &self,
        name: Option<VolumeName>,
        driver: &str,
        options: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
    ) -> Result<Volume, EngineError> {
        let driver = if driver.is_empty() { "local" } else { driver };
        let volume = self
            .inner
            .volumes
            .create(name, driver, options, labels)
            .await
            .map_err(|e| EngineError::wrap("create the volume", e))?;
        self.announce_volume("create", &volume.name, &volume.driver);
        Ok(volume)
    }

    /// All volumes.
    ///
    /// # Errors
    /// The store's.
    pub async fn list_volumes(&self) -> Result<Vec<Volume>, EngineError> {
        self.inner.volumes.list().await.map_err(|e| EngineError::wrap("list the volumes", e))
    }

    /// One volume.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn volume(&self, name: &VolumeName) -> Result<Volume, EngineError> {
        self.inner.volumes.get(name).await.map_err(EngineError::from)
    }

    /// Removes a volume. With `force` one that does not exist is no error.
    ///
    /// # Errors
    /// `Conflict` naming the containers that use it.
    pub async fn remove_volume(&self, name: &VolumeName, force: bool) -> Result<(), EngineError> {
        match self.inner.volumes.remove(name).await {
            Err(e) if force && e.kind() == ErrorKind::NotFound => return Ok(()),
            // In Docker's words, which tools look for.
            Err(VolumeError::InUse { containers, .. }) => {
                let ids: Vec<String> = containers.iter().map(ToString::to_string).collect();
                return Err(EngineError::conflict(format!(
                    "remove {name}: volume is in use - [{}]",
                    ids.join(", ")
                )));
            }
            other => {
                other.map_err(|e| EngineError::wrap(format!("remove {name}"), e))?;
            }
        }
        self.announce_volume("destroy", name, "local");
        Ok(())
    }

    /// Removes volumes that no container uses: anonymous ones, or with `all` every one.
    ///
    /// # Errors
    /// The store's; a volume that cannot be removed is passed over.
    pub async fn prune_volumes(
        &self,
        all: bool,
        labels: &LabelFilter,
    ) -> Result<Pruned, EngineError> {
        let mut pruned = Pruned::default();
        for volume in self.list_volumes().await? {
            if !(all || volume.anonymous) || !labels.matches(&volume.labels) {
                continue;
            }
            let size = self.inner.volumes.size(&volume.name).await.unwrap_or(0);
            if self.remove_volume(&volume.name, false).await.is_ok() {
                pruned.reclaimed += size;
                pruned.deleted.push(volume.name.to_string());
            }
        }
        self.announce_prune(EventKind::Volume, pruned.reclaimed);
        Ok(pruned)
    }

    /// Removes containers that do not run.
    ///
    /// # Errors
    /// None today; one that cannot be removed is passed over.
    pub async fn prune_containers(
        &self,
        until: Option<Timestamp>,
        labels: &LabelFilter,
    ) -> Result<Pruned, EngineError> {
        let mut pruned = Pruned::default();
        for view in self.list() {
            let rests =
                matches!(view.state.status, Status::Created | Status::Exited | Status::Dead);
            let old = until.is_none_or(|until| view.created < until);
            // What rests in a pod is kubelet's to collect.
            let free = view.spec.pod.is_none();
            if !free || !rests || !old || !labels.matches(&view.spec.labels) {
                continue;
            }
            let id = view.id.as_str();
            let size = self.size(id).await.map_or(0, |(own, _)| own);
            if self.remove(id, RemoveOptions::default()).await.is_ok() {
                pruned.reclaimed += size;
                pruned.deleted.push(id.to_owned());
            }
        }
        self.announce_prune(EventKind::Container, pruned.reclaimed);
        Ok(pruned)
    }

    /// Sizes of everything.
    ///
    /// # Errors
    /// What measuring says.
    pub async fn disk_usage(&self) -> Result<DiskUsage, EngineError> {
        let views = self.list();
        let mut containers = Vec::with_capacity(views.len());
        for view in &views {
            // One that vanishes meanwhile is not part of the picture.
            if let Ok((own, root)) = self.size(view.id.as_str()).await {
                containers.push((view.id.clone(), own, root));
            }
        }
        let mut volumes = Vec::new();
        for volume in self.list_volumes().await? {
            let size = self.inner.volumes.size(&volume.name).await.unwrap_or(0);
            let uses = |m: &crate::view::MountPoint| matches!(&m.spec.kind, MountKind::Volume { name: Some(n), .. } if *n == volume.name);
            let users = views.iter().filter(|v| v.mounts.iter().any(uses)).count();
            volumes.push((volume, size, users));
        }
        let layers = self.inner.images.usage().layers;
        Ok(DiskUsage { layers, containers, volumes })
    }

    fn announce_volume(&self, action: &str, name: &VolumeName, driver: &str) {
        let attributes = BTreeMap::from([("driver".to_owned(), driver.to_owned())]);
        self.inner.events.publish(EventKind::Volume, action, name.as_str(), attributes);
    }
}
