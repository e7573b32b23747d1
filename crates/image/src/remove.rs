//! What `docker rmi`, a prune and CRI's RemoveImage take away: a pure plan over the catalog.
//!
//! Docker's rules: by name, the name goes, and with an image's last name the image; by id, the
//! image goes if all its names are of one repository. A running container and a child image always
//! forbid it, a stopped container and further names unless forced. On top of them, owners: each
//! face gives up only its own claim on a name; a name goes with its last claim.

use std::collections::HashSet;
use std::sync::Arc;

use pouch_types::{ContainerId, Digest, ImageId, ImageRef};

use crate::catalog::Catalog;
use crate::error::{ImageError, InUse};
use crate::image::{Image, Owner, Owners, Reference};

/// A container that uses an image.
#[derive(Debug, Clone)]
pub struct ImageUser {
    /// The container.
    pub container: ContainerId,
    /// Whether it runs (or is paused) now.
    pub running: bool,
}

/// How to remove.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Despite stopped containers, further names and claims of pods.
    pub force: bool,
    /// Keep the nameless images that the removed one was made from.
    pub no_prune: bool,
}

/// One line of a removal's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name, as people know it.
    Untagged(String),
    /// An image, or (by its chain id) a layer.
    Deleted(Digest),
}

/// What a removal will do.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// References with the owners that they keep; without owners they go.
    pub(crate) references: Vec<Reference>,
    /// Images that go.
    pub(crate) images: Vec<Arc<Image>>,
    /// The result to report.
    pub(crate) removed: Vec<Removed>,
}

pub(crate) struct Planner<'a, F> {
    catalog: &'a Catalog,
    options: RemoveOptions,
    users: F,
    plan: Plan,
}

impl<'a, F: Fn(&ImageId) -> Vec<ImageUser>> Planner<'a, F> {
    pub(crate) fn new(catalog: &'a Catalog, options: RemoveOptions, users: F) -> Self {
        Self { catalog, options, users, plan: Plan::default() }
    }

    /// Docker's removal of a name or id.
    pub(crate) fn remove(mut self, text: &str) -> Result<Plan, ImageError> {
        let (image, reference) = self.catalog.resolve(text)?;
        let quiet = match reference {
            Some(reference) => {
                if !self.unname(text, &image, reference)? {
                    return Ok(self.plan);
                }
                true
            }
            None => {
                if !self.unname_all(&image)? {
                    return Ok(self.plan);
                }
                false
            }
        };
        self.delete(&image, quiet)?;
        Ok(self.plan)
    }

    /// The names that the image still has under the plan so far.
    fn names(&self, id: &Digest) -> Vec<Reference> {
        let planned = |name: &ImageRef| self.plan.references.iter().find(|r| r.name == *name);
        self.catalog
            .names(id)
            .into_iter()
            .map(|reference| planned(&reference.name).cloned().unwrap_or(reference))
            .filter(|reference| !reference.owners.is_empty())
            .collect()
    }

    /// Gives up Docker's claim on a name, or every claim when forced.
    fn give_up(&mut self, reference: &Reference) {
        let owners = if self.options.force {
            Owners::default()
        } else {
            reference.owners.without(Owner::Docker)
        };
        self.plan.removed.push(Removed::Untagged(reference.name.familiar()));
        self.plan.references.push(Reference { owners, ..reference.clone() });
    }

    /// Removes one name, and with the last tag of its repository the digests of that repository.
    /// Says whether the image is left without names.
    fn unname(
        &mut self,
        text: &str,
        image: &Image,
        reference: &Reference,
    ) -> Result<bool, ImageError> {
        let force = self.options.force;
        if !force && !reference.owners.contains(Owner::Docker) {
            return Err(ImageError::ReferenceOfPods(text.to_owned()));
        }
        if !force
            && is_single(&self.names(&image.id.0))
            && let Some(user) = (self.users)(&image.id).first()
        {
            return Err(ImageError::ReferenceInUse {
                reference: text.to_owned(),
                container: user.container.short().to_owned(),
                image: image.id.short().to_owned(),
            });
        }
        self.give_up(reference);
        let rest = self.names(&image.id.0);
        let same = |other: &Reference| {
            other.name.domain() == reference.name.domain()
                && other.name.path() == reference.name.path()
        };
        // A tag that only pods hold keeps none of Docker's digests.
        let counts = |other: &Reference| force || other.owners.contains(Owner::Docker);
        let tagged = rest.iter().any(|r| same(r) && r.name.digest().is_none() && counts(r));
        if reference.name.digest().is_none() && !tagged {
            for other in rest.iter().filter(|other| same(other) && counts(other)) {
                self.give_up(other);
            }
        }
        Ok(self.names(&image.id.0).is_empty())
    }

    /// Removes all names if they are of one repository. Says whether to go on and delete.
    fn unname_all(&mut self, image: &Image) -> Result<bool, ImageError> {
        let names = self.names(&image.id.0);
        if !is_single(&names) {
            return Ok(true);
        }
        self.check(&image.id, Names::Allowed)?;
        let ours = |r: &&Reference| self.options.force || r.owners.contains(Owner::Docker);
        let mine: Vec<Reference> = names.iter().filter(ours).cloned().collect();
        if mine.is_empty() && !names.is_empty() {
            return Err(ImageError::in_use(&image.id, InUse::Pods));
        }
        for reference in &mine {
            self.give_up(reference);
        }
        Ok(self.names(&image.id.0).is_empty())
    }

    fn check(&self, image: &ImageId, names: Names) -> Result<(), ImageError> {
        let refuse = |because| Err(ImageError::in_use(image, because));
        if self.catalog.images().any(|child| {
            child.parent.as_ref() == Some(image)
                && !self.plan.images.iter().any(|gone| gone.id == child.id)
        }) {
            return refuse(InUse::Children);
        }
        let users = (self.users)(image);
        if let Some(user) = users.iter().find(|user| user.running) {
            return refuse(InUse::running(&user.container));
        }
        if self.options.force {
            return Ok(());
        }
        if names == Names::Forbidden && !self.names(&image.0).is_empty() {
            return refuse(InUse::References);
        }
        match users.first() {
            Some(user) => refuse(InUse::stopped(&user.container)),
            None => Ok(()),
        }
    }

    /// Deletes the image, and the nameless images that it was made from.
    fn delete(&mut self, image: &Arc<Image>, quiet: bool) -> Result<(), ImageError> {
        let mut next = Some(Arc::clone(image));
        let mut quiet = quiet;
        while let Some(image) = next.take() {
            if let Err(conflict) = self.check(&image.id, Names::Forbidden) {
                // A name was asked to go, and went. That the image stays matters only when it
                // stays without a name and without a user.
                let used = (self.users)(&image.id).iter().any(|user| user.running);
                let nameless = self.names(&image.id.0).is_empty();
                return if quiet && (!nameless || used) { Ok(()) } else { Err(conflict) };
            }
            for reference in self.names(&image.id.0) {
                self.plan.removed.push(Removed::Untagged(reference.name.familiar()));
                self.plan.references.push(Reference { owners: Owners::default(), ..reference });
            }
            self.plan.removed.push(Removed::Deleted(image.id.0));
            self.plan.images.push(Arc::clone(&image));
            self.report_layers(&image);
            if self.options.no_prune {
                break;
            }
            next = image
                .parent
                .as_ref()
                .and_then(|parent| self.catalog.get(&parent.0))
                .filter(|parent| self.names(&parent.id.0).is_empty())
                .filter(|parent| self.check(&parent.id, Names::Forbidden).is_ok())
                .cloned();
            quiet = true;
        }
        Ok(())
    }

    /// Docker reports each freed layer by its chain id, top first.
    fn report_layers(&mut self, image: &Image) {
        let gone = |other: &Image| self.plan.images.iter().any(|gone| gone.id == other.id);
        let kept: HashSet<Digest> = self
            .catalog
            .images()
            .filter(|other| !gone(other))
            .flat_map(|other| other.chain_ids())
            .collect();
        let mut chain = image.chain_ids();
        chain.reverse();
        let freed = chain.into_iter().filter(|id| !kept.contains(id)).map(Removed::Deleted);
        let freed: Vec<Removed> = freed.filter(|line| !self.plan.removed.contains(line)).collect();
        self.plan.removed.extend(freed);
    }
}

/// Whether names are in the way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Allowed,
    Forbidden,
}

/// At most one tag, and every digest of that tag's repository.
fn is_single(names: &[Reference]) -> bool {
    if names.len() <= 1 {
        return true;
    }
    let mut tags = names.iter().filter(|r| r.name.digest().is_none());
    let (tag, more) = (tags.next(), tags.next());
    let Some(first) = tag.or_else(|| names.first()) else { return true };
    more.is_none()
        && names
            .iter()
            .all(|r| r.name.domain() == first.name.domain() && r.name.path() == first.name.path())
}

/// Gives up one owner's claim on every name of an image (CRI's RemoveImage). The image goes when
/// no name is left.
pub(crate) fn disown(catalog: &Catalog, image: &Arc<Image>, owner: Owner) -> Plan {
    let mut plan = Plan::default();
    let mut left = false;
    for reference in catalog.names(&image.id.0) {
        let owners = reference.owners.without(owner);
        left |= !owners.is_empty();
        if owners != reference.owners {
            if owners.is_empty() {
                plan.removed.push(Removed::Untagged(reference.name.familiar()));
            }
            plan.references.push(Reference { owners, ..reference });
        }
    }
    if !left && !catalog.children(&image.id) {
        plan.removed.push(Removed::Deleted(image.id.0));
        plan.images.push(Arc::clone(image));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::{name, record};
    use crate::rows::Record;

    const FORCE: RemoveOptions = RemoveOptions { force: true, no_prune: false };

    fn container(running: bool) -> Vec<ImageUser> {
        vec![ImageUser { container: "ab".repeat(32).parse().unwrap(), running }]
    }

    fn plan(catalog: &Catalog, text: &str, options: RemoveOptions) -> Result<Plan, String> {
        used(catalog, text, options, Vec::new())
    }

    fn used(
        catalog: &Catalog,
        text: &str,
        options: RemoveOptions,
        users: Vec<ImageUser>,
    ) -> Result<Plan, String> {
        Planner::new(catalog, options, |_: &ImageId| users.clone())
            .remove(text)
            .map_err(|e| e.to_string())
    }

    fn id(n: u64) -> Digest {
        Digest::of(&n.to_le_bytes())
    }

    fn digested(repository: &str, n: u64) -> Reference {
        let mut reference = name(repository, n);
        reference.name = reference.name.with_digest(Digest::of(b"manifest"));
        reference
    }

    #[test]
    fn the_last_name_takes_the_image_and_its_own_layers() {
        let catalog =
            Catalog::new(vec![record(1), record(2)], vec![name("a", 1), digested("a", 1)]);
        let plan = plan(&catalog, "a", RemoveOptions::default()).unwrap();
        let chain = catalog.get(&id(1)).unwrap().chain_ids();
        assert_eq!(
            plan.removed,
            [
                Removed::Untagged("a:latest".into()),
                Removed::Untagged(format!("a@{}", Digest::of(b"manifest"))),
                Removed::Deleted(id(1)),
                Removed::Deleted(chain[1]),
            ]
        );
    }

    #[test]
    fn one_of_several_names_is_only_untagged() {
        let catalog = Catalog::new(vec![record(1)], vec![name("a", 1), name("b", 1)]);
        let plan = plan(&catalog, "a", RemoveOptions::default()).unwrap();
        assert_eq!(plan.removed, [Removed::Untagged("a:latest".into())]);
        assert!(plan.images.is_empty());
    }

    #[test]
    fn containers_forbid() {
        let catalog = Catalog::new(vec![record(1)], vec![name("a", 1)]);
        let short = &id(1).hex()[..12].to_owned();
        let none = RemoveOptions::default();
        assert_eq!(
            used(&catalog, "a", none, container(false)).unwrap_err(),
            format!(
                "conflict: unable to remove repository reference \"a\" (must force) - container \
                 abababababab is using its referenced image {short}"
            )
        );
        assert_eq!(
            used(&catalog, short, none, container(false)).unwrap_err(),
            format!(
                "conflict: unable to delete {short} (must be forced) - image is being used by \
                 stopped container abababababab"
            )
        );
        assert_eq!(
            used(&catalog, short, FORCE, container(true)).unwrap_err(),
            format!(
                "conflict: unable to delete {short} (cannot be forced) - image is being used by \
                 running container abababababab"
            )
        );
        let forced = used(&catalog, "a", FORCE, container(false)).unwrap();
        assert_eq!(forced.images.len(), 1);
        // By name and by force beside a running container: the name goes, the image stays.
        let forced = used(&catalog, "a", FORCE, container(true)).unwrap();
        assert_eq!(forced.removed, [Removed::Untagged("a:latest".into())]);
        assert!(forced.images.is_empty());
    }

    #[test]
    fn several_repositories_forbid_by_id() {
        let catalog = Catalog::new(vec![record(1)], vec![name("a", 1), name("b", 1)]);
        let text = id(1).to_string();
        let refused = plan(&catalog, &text, RemoveOptions::default()).unwrap_err();
        assert!(
            refused.ends_with("(must be forced) - image is referenced in multiple repositories")
        );
        assert_eq!(plan(&catalog, &text, FORCE).unwrap().references.len(), 2);
    }

    fn family() -> Vec<Record> {
        let mut child = record(2);
        child.parent = Some(ImageId(id(1)));
        vec![record(1), child]
    }

    #[test]
    fn children_forbid_and_nameless_parents_go_along() {
        let catalog = Catalog::new(family(), vec![name("p", 1), name("c", 2)]);
        let parent = id(1).to_string();
        assert!(plan(&catalog, &parent, FORCE).unwrap_err().contains("dependent child"));
        // By name the name goes; the parent stays because its child needs it, and the user is told.
        assert!(plan(&catalog, "p", RemoveOptions::default()).is_err());
        let child = plan(&catalog, "c", RemoveOptions::default()).unwrap();
        assert_eq!(child.images.len(), 1, "the parent has a name");

        let nameless = Catalog::new(family(), vec![name("c", 2)]);
        assert_eq!(plan(&nameless, "c", RemoveOptions::default()).unwrap().images.len(), 2);
        let keep = RemoveOptions { no_prune: true, ..RemoveOptions::default() };
        assert_eq!(plan(&nameless, "c", keep).unwrap().images.len(), 1);
    }

    #[test]
    fn each_face_gives_up_its_own_claim() {
        let mut shared = name("s", 1);
        shared.owners = shared.owners.with(Owner::Cri);
        let catalog = Catalog::new(vec![record(1)], vec![shared]);
        let docker = plan(&catalog, "s", RemoveOptions::default()).unwrap();
        assert!(docker.images.is_empty());
        assert!(docker.references[0].owners.contains(Owner::Cri));
        let cri = disown(&catalog, catalog.get(&id(1)).unwrap(), Owner::Cri);
        assert!(cri.images.is_empty() && cri.removed.is_empty());
        assert!(cri.references[0].owners.contains(Owner::Docker));

        let mut tag = name("s", 1);
        tag.owners = tag.owners.with(Owner::Cri);
        let digest = name(&format!("s@{}", id(9)), 1);
        let catalog = Catalog::new(vec![record(1)], vec![tag, digest]);
        let docker = plan(&catalog, "s", RemoveOptions::default()).unwrap();
        assert_eq!(docker.removed.len(), 2, "the digest that came with the tag goes with it");
        assert!(docker.images.is_empty());

        let mut pods = name("s", 1);
        pods.owners = Owners::default().with(Owner::Cri);
        let catalog = Catalog::new(vec![record(1)], vec![pods]);
        assert!(plan(&catalog, "s", RemoveOptions::default()).is_err());
        assert!(plan(&catalog, &id(1).to_string(), RemoveOptions::default()).is_err());
        assert_eq!(plan(&catalog, "s", FORCE).unwrap().images.len(), 1);
        let cri = disown(&catalog, catalog.get(&id(1)).unwrap(), Owner::Cri);
        assert_eq!((cri.images.len(), cri.references[0].owners.is_empty()), (1, true));
    }
}
