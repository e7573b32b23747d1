//! `volume prune`, and how large a volume is.

use std::collections::{BTreeMap, HashSet};

use pouch_rootfd::RootFd;
use pouch_types::VolumeName;

use crate::error::{Result, VolumeError};
use crate::volumes::Volumes;

/// Levels of directories that are open at a time while a volume is measured; what is deeper is
/// not counted, because a container must not use up the daemon's descriptors.
const MAX_DEPTH: usize = 256;

/// Which unused volumes go.
#[derive(Debug, Clone, Default)]
pub struct PruneFilter {
    /// Named ones too?
    pub scope: PruneScope,
    /// All must match.
    pub labels: Vec<LabelFilter>,
}

/// Which kinds of volumes `prune` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PruneScope {
    /// Those that were made without a name.
    #[default]
    Anonymous,
    /// Every unused one.
    All,
}

/// A condition on labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelFilter {
    /// `label=key` or `label=key=value`.
    Has(String, Option<String>),
    /// `label!=key` or `label!=key=value`.
    HasNot(String, Option<String>),
}

impl LabelFilter {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |key: &String, value: &Option<String>| {
            labels.get(key).is_some_and(|there| value.as_ref().is_none_or(|v| v == there))
        };
        match self {
            Self::Has(key, value) => has(key, value),
            Self::HasNot(key, value) => !has(key, value),
        }
    }
}

/// What `prune` did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PruneReport {
    /// The volumes that are gone.
    pub removed: Vec<VolumeName>,
    /// Bytes that they had on the disk.
    pub reclaimed: u64,
}

impl Volumes {
    /// Removes the unused volumes that `filter` admits. A volume that comes into use meanwhile
    /// stays; one that cannot be removed is logged and does not stop the rest.
    ///
    /// # Errors
    /// Store errors.
    pub async fn prune(&self, filter: &PruneFilter) -> Result<PruneReport> {
        let users = self.users().await?;
        let mut report = PruneReport::default();
        for volume in self.list().await? {
            let in_scope = volume.anonymous || filter.scope == PruneScope::All;
            let labels = filter.labels.iter().all(|label| label.matches(&volume.labels));
            if !in_scope || !labels || users.contains_key(&volume.name) {
                continue;
            }
            // Only for the report; a mount's content is not ours to count.
            let size = if volume.options.is_empty() {
                self.size(&volume.name).await.unwrap_or(0)
            } else {
                0
            };
            match self.remove(&volume.name).await {
                Ok(()) => {
                    report.removed.push(volume.name);
                    report.reclaimed += size;
                }
                Err(VolumeError::InUse { .. } | VolumeError::NotFound(_)) => {}
                Err(error) => tracing::warn!(
                    volume = %volume.name,
                    error = %pouch_types::error::chain(&error),
                    "prune volume"
                ),
            }
        }
        Ok(report)
    }
}

/// Bytes allocated below `root`, in its own mount, each file once.
pub(crate) fn size_of(root: &RootFd) -> Result<u64> {
    let top = root.pin()?;
    let outside = top.metadata()?;
    let (mut size, mut seen) = (0u64, HashSet::new());
    let mut levels = vec![(top.read_dir()?, top)];
    while let Some((entries, directory)) = levels.last_mut() {
        let Some(entry) = entries.next() else {
            levels.pop();
            continue;
        };
        let name = entry?.name;
        // Containers write meanwhile: what went away does not count.
        let Ok(meta) = directory.metadata_of(&name) else { continue };
        if !meta.is_dir() && meta.links() > 1 && !seen.insert(meta.inode()) {
            continue;
        }
        size = size.saturating_add(meta.allocated());
        if meta.is_dir() && meta.same_mount(&outside) && levels.len() < MAX_DEPTH {
            let Some((_, directory)) = levels.last() else { continue };
            if let Ok(next) = directory.pin_dir(&name) {
                levels.push((next.read_dir()?, next));
            }
        }
    }
    Ok(size)
}
