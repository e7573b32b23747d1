//! Removal, prune and the collection of bytes that no image needs.
//!
//! Rows go in one transaction, the catalog follows, the bytes last: each digest is condemned, so
//! that no pull can begin to build on it, looked up once more and deleted. A deletion that fails is
//! logged and left to the next start.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use pouch_content::ContentError;
use pouch_types::{Digest, ImageId, failpoint};

use crate::Images;
use crate::error::{ImageError, InUse};
use crate::filter::{LabelFilter, ListFilter};
use crate::image::{Image, Layer, Owner};
use crate::limits;
use crate::remove::{self, ImageUser, Plan, Planner, RemoveOptions, Removed};
use crate::rows::{self, Deleted};

/// Which images [`Images::prune`] removes.
#[derive(Debug, Clone, Default)]
pub struct PruneFilter {
    /// Also images with a name (`docker image prune -a`).
    pub all: bool,
    /// Only those with all of these labels.
    pub labels: Vec<LabelFilter>,
    /// Only those with none of these labels.
    pub without_labels: Vec<LabelFilter>,
    /// Only those made before this time.
    pub until: Option<Timestamp>,
}

/// What a prune did.
#[derive(Debug, Clone, Default)]
pub struct PruneReport {
    /// Names and images that are gone.
    pub removed: Vec<Removed>,
    /// Bytes freed, unpacked layers and blobs together.
    pub reclaimed: u64,
}

/// Disk use of images.
#[derive(Debug, Clone)]
pub struct Usage {
    /// Bytes of all unpacked layers, each counted once.
    pub layers: u64,
    /// Bytes of all layer blobs, each counted once.
    pub blobs: u64,
    /// Each image with the bytes of its layers that other images share.
    pub images: Vec<(Arc<Image>, u64)>,
}

impl Images {
    /// Removes a name or an image by Docker's rules. `users` tells which containers use an image;
    /// it is asked while the change is planned and must not block.
    ///
    /// # Errors
    /// As [`Images::resolve`]; [`ImageError::ReferenceInUse`], [`ImageError::ImageInUse`],
    /// [`ImageError::ReferenceOfPods`]; the database. Nothing is removed then.
    pub async fn remove(
        &self,
        text: &str,
        options: RemoveOptions,
        users: impl Fn(&ImageId) -> Vec<ImageUser> + Send + Sync,
    ) -> Result<Vec<Removed>, ImageError> {
        let change = self.0.change.lock().await;
        let plan = Planner::new(&self.catalog(), options, &users).remove(text)?;
        let carried = self.carry_out(plan, options).await?;
        drop(change);
        self.sweep(carried.free).await;
        Ok(carried.removed)
    }

    /// Gives up one face's claim on all names of an image; the image goes when nobody holds a
    /// name. A container that uses it keeps its bytes. For CRI, whose RemoveImage means exactly
    /// this.
    ///
    /// # Errors
    /// The database. An image that is not here is no error.
    pub async fn disown(&self, id: &ImageId, owner: Owner) -> Result<Vec<Removed>, ImageError> {
        let change = self.0.change.lock().await;
        let Some(image) = self.get(id) else { return Ok(Vec::new()) };
        let plan = remove::disown(&self.catalog(), &image, owner);
        let forced = RemoveOptions { force: true, ..RemoveOptions::default() };
        let carried = self.carry_out(plan, forced).await?;
        drop(change);
        self.sweep(carried.free).await;
        Ok(carried.removed)
    }

    /// Removes every image that no container uses: those without a tag, or all. Names and images
    /// that only pods hold stay. What failed pulls left goes too, see [`Images::collect`].
    ///
    /// # Errors
    /// The database. An image that cannot go is skipped.
    pub async fn prune(
        &self,
        filter: &PruneFilter,
        users: impl Fn(&ImageId) -> Vec<ImageUser> + Send + Sync,
    ) -> Result<PruneReport, ImageError> {
        let candidates = self.list(&ListFilter {
            dangling: (!filter.all).then_some(true),
            labels: filter.labels.clone(),
            without_labels: filter.without_labels.clone(),
            until: filter.until,
            ..ListFilter::default()
        })?;
        let mut report = PruneReport::default();
        for image in candidates {
            if !users(&image.id).is_empty() {
                continue;
            }
            let change = self.0.change.lock().await;
            let names = self.catalog().names(&image.id.0);
            let targets: Vec<String> = if names.is_empty() {
                vec![image.id.to_string()]
            } else {
                names
                    .iter()
                    .filter(|name| name.owners.contains(Owner::Docker))
                    .map(|name| name.name.to_string())
                    .collect()
            };
            let mut freed = Vec::new();
            for target in targets {
                let options = RemoveOptions::default();
                let plan = Planner::new(&self.catalog(), options, &users).remove(&target);
                match plan {
                    Ok(plan) => {
                        let carried = self.carry_out(plan, options).await?;
                        report.removed.extend(carried.removed);
                        report.reclaimed += carried.collected;
                        freed.extend(carried.free);
                    }
                    // The last of its names took the others along, or it came into use.
                    Err(ImageError::NotFound(_)) => {}
                    Err(refused) => tracing::debug!(%target, %refused, "not pruned"),
                }
            }
            drop(change);
            report.reclaimed += self.sweep(freed).await;
        }
        report.reclaimed += self.collect(Collect::Everything).await?;
        Ok(report)
    }

    /// Disk use. No I/O.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let catalog = self.catalog();
        let mut users: HashMap<Digest, (u64, usize)> = HashMap::new();
        let mut packed: HashMap<Digest, u64> = HashMap::new();
        for image in catalog.images() {
            for layer in distinct(image) {
                users.entry(layer.diff_id).or_insert((layer.size, 0)).1 += 1;
                packed.insert(layer.blob, layer.blob_size);
            }
        }
        let shared = |layer: &&Layer| users.get(&layer.diff_id).is_some_and(|(_, n)| *n > 1);
        let images = catalog
            .images()
            .map(|image| {
                let bytes = distinct(image).filter(shared).map(|l| l.size).sum();
                (Arc::clone(image), bytes)
            })
            .collect();
        let layers = users.values().map(|(size, _)| size).sum();
        let blobs = packed.values().sum();
        Usage { layers, blobs, images }
    }

    /// Frees the bytes of an image after [`release_image`](crate::release_image) said
    /// [`Gone`](crate::Released::Gone) and its transaction was committed.
    pub async fn forget(&self, id: &ImageId) {
        let before = self.known_as(std::iter::once(&id.0));
        let change = self.0.change.lock().await;
        let free = {
            let mut catalog = self.catalog_mut();
            // It may have been pulled again in between, which made it a new image.
            if catalog.get(&id.0).is_some() { Vec::new() } else { catalog.remove(&id.0) }
        };
        self.follow_removal(before).await;
        drop(change);
        self.sweep(free).await;
    }

    /// Commits a plan and makes the catalog follow. The caller holds the change lock.
    pub(crate) async fn carry_out(
        &self,
        plan: Plan,
        options: RemoveOptions,
    ) -> Result<Carried, ImageError> {
        let Plan { references, images, removed } = plan;
        let touched = references.iter().map(|r| &r.image).chain(images.iter().map(|i| &i.id.0));
        let before = self.known_as(touched);
        let changed = references.clone();
        let ids: Vec<ImageId> = images.iter().map(|image| image.id.clone()).collect();
        failpoint::hit("rmi:before-commit");
        let fates = self
            .0
            .store
            .write(move |tx| {
                for reference in &changed {
                    if reference.owners.is_empty() {
                        rows::delete_reference(tx, &reference.name.to_string())?;
                    } else {
                        rows::put_reference(tx, reference)?;
                    }
                }
                let mut fates = Vec::new();
                for id in ids {
                    let text = id.to_string();
                    // A container that came into being after the plan was made.
                    if !options.force
                        && let Some(user) = rows::users(tx, &text)?.first()
                    {
                        let short = user.chars().take(12).collect();
                        return Err(ImageError::in_use(&id, InUse::Stopped(short)));
                    }
                    fates.push((id, rows::delete_image(tx, &text)?));
                }
                Ok::<_, ImageError>(fates)
            })
            .await?;
        failpoint::hit("rmi:committed");
        let mut free = Vec::new();
        {
            let mut catalog = self.catalog_mut();
            for reference in references {
                if reference.owners.is_empty() {
                    catalog.unpoint(&reference.name);
                } else {
                    catalog.point(reference);
                }
            }
            for (id, fate) in fates {
                match fate {
                    Deleted::Gone => free.extend(catalog.remove(&id.0)),
                    Deleted::Retired => catalog.retire(&id.0),
                }
            }
        }
        let mut collected = 0;
        if self.0.registrar.is_some() {
            self.follow_removal(before).await;
            let layers: HashSet<&Layer> = images.iter().flat_map(|i| i.layers.iter()).collect();
            let is_free = |digest: &Digest| free.contains(digest);
            for layer in layers {
                collected += if is_free(&layer.diff_id) { layer.size } else { 0 };
                collected += if is_free(&layer.blob) { layer.blob_size } else { 0 };
            }
        }
        Ok(Carried { removed, free, collected })
    }

    /// Deletes layers and blobs that are still unneeded and unpinned; the bytes that were freed.
    pub(crate) async fn sweep(&self, digests: impl IntoIterator<Item = Digest>) -> u64 {
        let mut freed = 0;
        // Whoever keeps what is named lets go what is not.
        let ours = self.0.registrar.is_none();
        for digest in digests.into_iter().filter(|_| ours) {
            let Some(_condemned) = self.0.pins.condemn(&digest) else { continue };
            // From here on nobody can begin to need it; somebody may have before.
            if self.catalog().is_needed(&digest) {
                continue;
            }
            freed += self.delete_bytes(&digest).await;
        }
        freed
    }

    async fn delete_bytes(&self, digest: &Digest) -> u64 {
        let mut freed = 0;
        match self.0.layers.get(std::slice::from_ref(digest)).await {
            Ok(Some(layer)) => match self.0.layers.remove(digest).await {
                Ok(()) => {
                    failpoint::hit("rmi:layer-removed");
                    freed += layer.size;
                }
                Err(error) => tracing::warn!(%digest, %error, "layer is left for the next start"),
            },
            Ok(None) => {}
            Err(error) => tracing::warn!(%digest, %error, "layer cannot be looked up"),
        }
        let blob = self.0.content.info(digest).await;
        match blob {
            Ok(Some(info)) => match self.0.content.delete(digest).await {
                Ok(()) => {
                    failpoint::hit("rmi:blob-removed");
                    freed += info.size;
                }
                Err(error) => tracing::warn!(%digest, %error, "blob is left for the next start"),
            },
            Ok(None) => {}
            Err(error) => tracing::warn!(%digest, %error, "blob cannot be looked up"),
        }
        freed
    }

    /// Deletes layers and blobs that no image and no operation under way needs, and the beginnings
    /// of downloads. A pull that was broken off keeps what it fetched, so that the next one has
    /// less to do; this ends it. Returns the bytes freed.
    ///
    /// # Errors
    /// When the content store cannot be listed.
    pub async fn collect(&self, which: Collect) -> Result<u64, ImageError> {
        let now = SystemTime::now();
        let age = Duration::from_secs(limits::LEFTOVER_AGE_SECONDS);
        let border = match which {
            Collect::Everything => None,
            Collect::Old => Some(now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)),
        };
        let is_old = |since: SystemTime| border.is_none_or(|border| since < border);
        let blobs = match border {
            Some(border) => self.0.content.walk_before(border).await?,
            None => self.0.content.walk().await?,
        };
        let mut found: HashSet<Digest> = blobs.into_iter().map(|blob| blob.digest).collect();
        match self.0.layers.list().await {
            Ok(layers) => {
                found.extend(layers.iter().filter(|l| is_old(l.since)).map(|l| l.diff_id));
            }
            Err(error) => tracing::warn!(%error, "layers cannot be listed"),
        }
        if let (Some(registrar), Collect::Everything) = (&self.0.registrar, which)
            && let Err(error) = registrar.collect().await
        {
            tracing::warn!(%error, "what is not named stays in containerd for now");
        }
        found.retain(|digest| !self.catalog().is_needed(digest));
        let mut freed = self.sweep(found).await;
        for ingest in self.0.content.ingests().await? {
            if is_old(ingest.modified) || !ingest.key.is_resumable() {
                match self.0.content.delete_ingest(&ingest.key).await {
                    Ok(()) => freed += ingest.size,
                    // A load or a pull is writing it.
                    Err(ContentError::Busy(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(freed)
    }

    pub(crate) async fn collect_and_tell(&self) -> Result<(), ImageError> {
        let freed = self.collect(Collect::Old).await?;
        if freed > 0 {
            tracing::info!(bytes = freed, "collected what unfinished pulls left");
        }
        Ok(())
    }
}

/// What became of a [`Plan`].
#[derive(Debug)]
pub(crate) struct Carried {
    /// To be reported.
    pub(crate) removed: Vec<Removed>,
    /// What nobody needs any more.
    pub(crate) free: Vec<Digest>,
    /// Bytes of it that the registrar has let go.
    pub(crate) collected: u64,
}

/// Which leftovers [`Images::collect`] takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collect {
    /// All.
    Everything,
    /// Those that no pull went on with for a day.
    Old,
}

/// Collects old leftovers each hour, as long as anybody holds the images.
pub(crate) fn collect_hourly(images: &Images) {
    let images = Arc::downgrade(&images.0);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(limits::COLLECT_EVERY_SECONDS)).await;
            let Some(inner) = images.upgrade() else { return };
            if let Err(error) = Images(inner).collect_and_tell().await {
                tracing::warn!(error = %pouch_types::error::chain(&error), "collect leftovers");
            }
        }
    });
}

/// The layers of an image, one that it lists twice only once.
fn distinct(image: &Image) -> impl Iterator<Item = &Layer> {
    let mut seen = HashSet::new();
    image.layers.iter().filter(move |layer| seen.insert(layer.diff_id))
}
