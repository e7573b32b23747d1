//! Changes of images, as far as containers have a say in them and listeners are to hear of them.
//!
//! The image store decides and does; the engine knows who uses an image and tells what happened.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use pouch_image::{
    Image, ImageUser, ListFilter, Owner, PruneFilter, PruneReport, RemoveOptions, Removed,
};
use pouch_types::{ImageId, ImageRef};

use crate::events::EventKind;
use crate::{Engine, EngineError};

/// What came of a transfer of images.
#[derive(Debug, Clone, Copy)]
pub enum ImageNews<'a> {
    /// Fetched from a registry under this name.
    Pulled(&'a ImageRef, &'a Image),
    /// Sent to a registry under this name.
    Pushed(&'a ImageRef, &'a Image),
    /// Made from a root file system, and named when a name was asked for.
    Imported(&'a Image, Option<&'a ImageRef>),
    /// Read from an archive.
    Loaded(&'a Image),
    /// Written to an archive.
    Saved(&'a Image),
}

impl Engine {
    /// Gives an image a further name.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for a name with a digest; the store's.
    pub async fn tag_image(&self, source: &str, name: &ImageRef) -> Result<(), EngineError> {
        let image = self.inner.images.tag(source, name, Owner::Docker).await?;
        self.tell("tag", image.id.to_string(), &name.familiar(), &image);
        Ok(())
    }

    /// Removes an image, or one of its names.
    ///
    /// # Errors
    /// `Conflict` when a container uses it, in Docker's words.
    pub async fn remove_image(
        &self,
        name: &str,
        options: RemoveOptions,
    ) -> Result<Vec<Removed>, EngineError> {
        let image = self.inner.images.resolve(name)?;
        let before = self.named();
        let removed = self.inner.images.remove(name, options, self.image_users()).await?;
        self.tell_removed(&removed, &before, Some(&image));
        Ok(removed)
    }

    /// Gives up Kubernetes' claim on all names of an image; it goes when nobody else holds one.
    ///
    /// # Errors
    /// The store's.
    pub async fn disown_image(&self, id: &ImageId) -> Result<(), EngineError> {
        let before = self.named();
        let removed = self.inner.images.disown(id, Owner::Cri).await?;
        self.tell_removed(&removed, &before, None);
        Ok(())
    }

    /// Removes images that no container uses.
    ///
    /// # Errors
    /// The store's; an image that cannot be removed is passed over.
    pub async fn prune_images(&self, filter: &PruneFilter) -> Result<PruneReport, EngineError> {
        let before = self.named();
        let report = self.inner.images.prune(filter, self.image_users()).await?;
        self.tell_removed(&report.removed, &before, None);
        self.announce_prune(EventKind::Image, report.reclaimed);
        Ok(report)
    }

    /// Tells listeners of a transfer that has succeeded.
    pub fn announce_image(&self, news: ImageNews<'_>) {
        match news {
            // Docker names the actor by what was asked for here, and by the id elsewhere.
            ImageNews::Pulled(name, image) => {
                self.tell("pull", name.familiar(), &name.familiar_repository(), image);
            }
            ImageNews::Pushed(name, image) => {
                self.tell("push", name.familiar(), &name.familiar_repository(), image);
            }
            ImageNews::Imported(image, name) => {
                let id = image.id.to_string();
                if let Some(name) = name {
                    self.tell("tag", id.clone(), &name.familiar(), image);
                }
                self.tell("import", id.clone(), &id, image);
            }
            ImageNews::Loaded(image) => {
                self.tell("load", image.id.to_string(), &image.id.to_string(), image);
            }
            ImageNews::Saved(image) => {
                self.tell("save", image.id.to_string(), &image.id.to_string(), image);
            }
        }
    }

    /// Tells how much a prune of one kind gave back, in bytes.
    pub fn announce_prune(&self, kind: EventKind, reclaimed: u64) {
        let attributes = BTreeMap::from([("reclaimed".to_owned(), reclaimed.to_string())]);
        self.inner.events.publish(kind, "prune", "", attributes);
    }

    fn tell(&self, action: &str, actor: String, name: &str, image: &Image) {
        let mut attributes = image.config.config.labels.clone();
        attributes.insert("name".to_owned(), name.to_owned());
        self.inner.events.publish(EventKind::Image, action, actor, attributes);
    }

    /// Every image by each of its names and by its id.
    fn named(&self) -> HashMap<String, Arc<Image>> {
        let everything = ListFilter { intermediate: true, ..ListFilter::default() };
        // Without `before` and `since` a list cannot fail.
        let images = self.inner.images.list(&everything).unwrap_or_default();
        let mut named = HashMap::new();
        for image in images {
            let names = image.repo_tags.iter().chain(&image.repo_digests);
            for name in names.cloned().chain([image.id.to_string()]) {
                named.insert(name, Arc::clone(&image));
            }
        }
        named
    }

    /// Tells of each step of a removal. `asked` is the image that was asked for, which has a name
    /// that the list before may have lacked.
    fn tell_removed(
        &self,
        removed: &[Removed],
        before: &HashMap<String, Arc<Image>>,
        asked: Option<&Arc<Image>>,
    ) {
        for step in removed {
            let (action, image) = match step {
                Removed::Untagged(name) => ("untag", before.get(name).or(asked)),
                // A layer is not among the images.
                Removed::Deleted(id) => ("delete", before.get(&id.to_string())),
            };
            if let Some(image) = image {
                let id = image.id.to_string();
                self.tell(action, id.clone(), &id, image);
            }
        }
    }

    /// Which containers use an image, for the image store's rules.
    fn image_users(&self) -> impl Fn(&ImageId) -> Vec<ImageUser> + Send + Sync + use<> {
        let engine = self.clone();
        move |image| {
            engine
                .list()
                .iter()
                .filter(|view| view.image == *image)
                .map(|view| ImageUser {
                    container: view.id.clone(),
                    running: view.state.is_running(),
                })
                .collect()
        }
    }
}
