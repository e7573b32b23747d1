//! Which images may come here: the verification policy, in the format of podman and skopeo
//! (containers-policy.json(5)).
//!
//! **What it concerns.** Each pull, load and import. Images that are here already are left alone,
//! and so is what is made here (commit, tag). One rule decides, that of the most specific scope,
//! and all of its requirements must hold.
//!
//! **Fail closed.** A file that is not understood in full is refused as a whole. A check that is
//! known and not made here refuses what it is for, and only that: the policy that a distribution
//! brings for its own registry must not keep the daemon from starting. Signatures that
//! cannot be fetched are not there. What a rule refuses outright is refused before anything is
//! asked of a registry, the rest before anything of the image is kept.
//!
//! **What is signed.** The manifest that was chosen for the platform, as containers/image has it,
//! or the index that it was chosen from, which is what `cosign sign` signs without `--recursive`
//! and which names the manifest by digest.

mod attachment;
mod file;
mod identity;
mod key;
mod scope;
mod signature;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pouch_registry::{Repository, Resolved};
use pouch_types::{Digest, ImageRef};

use crate::error::ImageError;
use attachment::Found;
use scope::Transport;
use signature::{SignatureError, Signed};

pub use file::PolicyError;

/// Signatures of which it is told why they do not count.
const TOLD: usize = 4;

/// What images may come. Clones share it. The default accepts everything.
#[derive(Debug, Clone, Default)]
pub struct Policy(Option<Arc<Rules>>);

/// A policy file.
#[derive(Debug)]
struct Rules {
    path: PathBuf,
    default: Arc<Rule>,
    transports: BTreeMap<Transport, BTreeMap<String, Arc<Rule>>>,
}

/// What holds in one scope.
#[derive(Debug)]
struct Rule {
    /// The file.
    policy: PathBuf,
    /// Where it stands there.
    place: String,
    /// Never empty.
    requirements: Vec<Requirement>,
}

#[derive(Debug)]
enum Requirement {
    Accept,
    Reject,
    Signed(Signed),
    /// A check of this name, which is not made here.
    Unsupported(String),
}

/// The policy's answer to an image.
#[derive(Debug, thiserror::Error)]
#[error("{image} is rejected by the policy in {policy}, {place}: {why}")]
pub struct Rejected {
    /// What should have come.
    image: String,
    /// The file.
    policy: PathBuf,
    /// Which rule of it.
    place: String,
    why: Reason,
}

/// Why an image is rejected.
#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("nothing is accepted")]
    Reject,
    #[error("it asks for {0}, which pouchd cannot check")]
    Unsupported(String),
    #[error("a signature is required, and {0} has none")]
    NoSignatures(&'static str),
    #[error("a signature is required, and none is accepted: {}", list(.0))]
    Signatures(Vec<SignatureError>),
}

/// What is not signed and therefore cannot be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsigned {
    /// Docker's own archive.
    DockerArchive,
    /// An OCI layout in an archive.
    OciArchive,
    /// A root file system.
    Tarball,
}

/// What is still to be shown of an image that is on its way.
#[derive(Debug)]
pub(crate) struct Demand(Option<Arc<Rule>>);

impl Policy {
    /// Reads a policy with all keys that it names. Blocks on files.
    ///
    /// # Errors
    /// [`PolicyError`] with the place of the first thing that cannot be honoured.
    pub fn read(path: &Path) -> Result<Self, PolicyError> {
        Ok(Self(Some(Arc::new(file::read(path)?))))
    }

    /// The file; `None` when everything is accepted for want of one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.as_ref().map(|rules| rules.path.as_path())
    }

    /// Asks for the rule of an image of a registry, before anything is asked of that.
    ///
    /// # Errors
    /// [`Rejected`] when no signature can help.
    pub(crate) fn on_pull(&self, image: &ImageRef) -> Result<Demand, Rejected> {
        let Some(rules) = &self.0 else { return Ok(Demand(None)) };
        let rule = rules.find(Transport::Docker, &scope::scopes(image));
        match rule.requirements.iter().find_map(Requirement::refuses) {
            Some(why) => Err(rule.reject(image.familiar(), why)),
            None => Ok(Demand(Some(rule))),
        }
    }

    /// Asks for the rule of what comes without a registry.
    ///
    /// # Errors
    /// [`Rejected`], also when a signature is required.
    pub(crate) fn on_unsigned(&self, what: Unsigned) -> Result<(), Rejected> {
        let Some(rules) = &self.0 else { return Ok(()) };
        let (transport, image) = match what {
            Unsigned::DockerArchive => (Transport::DockerArchive, "an archive of docker"),
            Unsigned::OciArchive => (Transport::OciArchive, "an OCI archive"),
            Unsigned::Tarball => (Transport::Tarball, "a root file system"),
        };
        let rule = rules.find(transport, &[]);
        let why = rule.requirements.iter().find_map(|one| match one {
            Requirement::Signed(_) => Some(Reason::NoSignatures("what comes as a file")),
            other => other.refuses(),
        });
        why.map_or(Ok(()), |why| Err(rule.reject(image.to_owned(), why)))
    }
}

impl Rules {
    /// The rule of the first of these scopes that has one, else the transport's, else the default.
    fn find(&self, transport: Transport, scopes: &[String]) -> Arc<Rule> {
        let rules = self.transports.get(&transport);
        let found = rules.and_then(|rules| {
            scopes.iter().map(String::as_str).chain([""]).find_map(|scope| rules.get(scope))
        });
        Arc::clone(found.unwrap_or(&self.default))
    }
}

impl Requirement {
    /// Why nothing can meet it.
    fn refuses(&self) -> Option<Reason> {
        match self {
            Self::Accept | Self::Signed(_) => None,
            Self::Reject => Some(Reason::Reject),
            Self::Unsupported(what) => Some(Reason::Unsupported(what.clone())),
        }
    }
}

impl Rule {
    fn reject(&self, image: String, why: Reason) -> Rejected {
        Rejected { image, policy: self.policy.clone(), place: self.place.clone(), why }
    }
}

impl Demand {
    /// Fetches the signatures of an image, if any are required, and checks them.
    ///
    /// A mirror's signatures may be enough, as any good signature is. When they are not, those of
    /// the registry itself decide: the mirror may be behind.
    ///
    /// # Errors
    /// [`ImageError::Rejected`]; [`ImageError::Signatures`] when they cannot be fetched.
    pub(crate) async fn check(
        &self,
        repository: &Repository,
        resolved: &Resolved,
    ) -> Result<(), ImageError> {
        let Some(rule) = &self.0 else { return Ok(()) };
        let mut required: Vec<&Signed> = Vec::new();
        for one in &rule.requirements {
            // Refused on the way here already; it must not depend on that.
            if let Some(why) = one.refuses() {
                return Err(rejected(rule, repository, why));
            }
            if let Requirement::Signed(signed) = one {
                required.push(signed);
            }
        }
        if required.is_empty() {
            return Ok(());
        }
        let subjects = match (resolved.descriptor.digest, resolved.top.digest) {
            (manifest, index) if manifest == index => vec![manifest],
            (manifest, index) => vec![manifest, index],
        };
        let image = repository.reference();
        let mut why = Reason::NoSignatures("the image");
        for source in std::iter::once(repository.clone()).chain(repository.without_mirrors()) {
            let mut found = Vec::new();
            for subject in &subjects {
                let signatures = attachment::signatures(&source, subject).await;
                let signatures = signatures
                    .map_err(|source| ImageError::Signatures { image: image.familiar(), source })?;
                found.extend(signatures.into_iter().map(|signature| (*subject, signature)));
                match required.iter().find_map(|signed| shortcoming(signed, &found, image)) {
                    None => return Ok(()),
                    Some(errors) if errors.is_empty() => why = Reason::NoSignatures("the image"),
                    Some(errors) => why = Reason::Signatures(errors),
                }
            }
        }
        Err(rejected(rule, repository, why))
    }
}

/// What is wrong with each signature; `None` when one of them is good.
fn shortcoming(
    signed: &Signed,
    found: &[(Digest, Found)],
    image: &ImageRef,
) -> Option<Vec<SignatureError>> {
    let mut errors = Vec::new();
    for (subject, signature) in found {
        let checked = match signature {
            Ok(signature) => signed.check(signature, subject, image),
            Err(error) => Err(error.clone()),
        };
        match checked {
            Ok(()) => return None,
            Err(error) => errors.push(error),
        }
    }
    Some(errors)
}

fn rejected(rule: &Rule, repository: &Repository, why: Reason) -> ImageError {
    Box::new(rule.reject(repository.reference().familiar(), why)).into()
}

fn list(errors: &[SignatureError]) -> String {
    let told = errors.iter().take(TOLD).enumerate();
    let mut text: Vec<String> =
        told.map(|(at, error)| format!("signature {} {error}", at + 1)).collect();
    if errors.len() > TOLD {
        text.push(format!("and {} more", errors.len() - TOLD));
    }
    text.join("; ")
}
