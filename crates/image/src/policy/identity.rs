//! What a signature may call the image that it is for (`signedIdentity`).
//!
//! A signature names the image as the signer knew it. Without this check a good signature of one
//! image would do for another name of the same bytes, such as an old release under a new tag.

use pouch_types::ImageRef;

/// A reference as somebody wrote it, who may have left out tag and digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    reference: ImageRef,
    is_bare: bool,
}

impl Named {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let reference: ImageRef = text.parse().ok()?;
        let last = text.rsplit('/').next().unwrap_or(text);
        Some(Self { reference, is_bare: !last.contains([':', '@']) })
    }

    /// Whether it has neither tag nor digest.
    pub(super) const fn is_bare(&self) -> bool {
        self.is_bare
    }

    pub(super) fn repository(&self) -> String {
        self.reference.repository()
    }
}

/// How signature and image have to agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identity {
    /// To the letter.
    Exact,
    /// To the letter by tag; by digest the repository is enough, because the digest is checked
    /// anyway and signers know images by tags.
    RepoDigestOrExact,
    /// The repository.
    Repository,
    /// With this, whatever the image is called here.
    ExactReference(Named),
    /// With this repository, whatever the image is called here.
    ExactRepository(String),
    /// As [`Identity::RepoDigestOrExact`] after another prefix was put in place.
    Remap {
        /// Of the image.
        prefix: String,
        /// Of the signature.
        signed: String,
    },
}

impl Identity {
    /// Whether a signature for `signed` is one for `image`.
    pub(super) fn accepts(&self, image: &ImageRef, signed: &str) -> bool {
        let Some(signed) = Named::parse(signed) else { return false };
        let repository = image.repository();
        match self {
            Self::Exact => is_exactly(&signed, &repository, image),
            Self::RepoDigestOrExact => repo_digest_or_exact(&signed, &repository, image),
            Self::Repository => signed.repository() == repository,
            Self::ExactReference(named) => !signed.is_bare && signed.reference == named.reference,
            Self::ExactRepository(repository) => signed.repository() == *repository,
            Self::Remap { prefix, signed: new } => match below(&repository, prefix) {
                Some(rest) => repo_digest_or_exact(&signed, &format!("{new}{rest}"), image),
                None => repo_digest_or_exact(&signed, &repository, image),
            },
        }
    }
}

/// What comes after `prefix` in `repository`, where it ends at a slash or with the name.
fn below<'a>(repository: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = repository.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// The digest of an image decides what is pulled, so a tag beside it says nothing.
fn is_exactly(signed: &Named, repository: &str, image: &ImageRef) -> bool {
    let (tag, digest) = match image.digest() {
        Some(digest) => (None, Some(digest)),
        None => (image.tag(), None),
    };
    !signed.is_bare
        && signed.repository() == repository
        && signed.reference.tag() == tag
        && signed.reference.digest() == digest
}

fn repo_digest_or_exact(signed: &Named, repository: &str, image: &ImageRef) -> bool {
    match image.digest() {
        Some(_) => !signed.is_bare && signed.repository() == repository,
        None => is_exactly(signed, repository, image),
    }
}
