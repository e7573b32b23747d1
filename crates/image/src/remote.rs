//! What registries have, looked at without bringing it here, and all tags of a repository.

use bytes::Bytes;
use pouch_registry::{Content, Credentials, Document, Hit, SearchError};
use pouch_types::{Digest, ImageRef};

use crate::Images;
use crate::error::ImageError;
use crate::image::Image;
use crate::limits;
use crate::progress::Progress;
use crate::pull::PullRequest;

/// What a registry has under a reference.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The manifest or index.
    pub document: Document,
    /// The configuration of a manifest, which says what machine it is for; of an index, its
    /// entries do. `None` also when it could not be had.
    pub config: Option<Bytes>,
}

impl Images {
    /// Looks at what a registry has under a reference. Nothing is kept.
    ///
    /// # Errors
    /// The registry's refusals and failures.
    pub async fn offer(
        &self,
        reference: &ImageRef,
        credentials: Credentials,
    ) -> Result<Offer, ImageError> {
        let repository = self.0.registry.repository(reference, credentials).await?;
        let document = repository.document().await?;
        let config = match &document.content {
            Content::Manifest(manifest) => {
                repository.small_blob(&manifest.config, limits::CONFIG_BYTES).await.ok()
            }
            Content::Index(_) => None,
        };
        Ok(Offer { document, config })
    }

    /// Looks for repositories; see [`pouch_registry::Registry::search`].
    ///
    /// # Errors
    /// [`SearchError`].
    pub async fn search(
        &self,
        term: &str,
        limit: u32,
        credentials: &Credentials,
    ) -> Result<Vec<Hit>, SearchError> {
        self.0.registry.search(term, limit, credentials).await
    }

    /// Pulls each tag of a repository, one after the other, and tells `pulled` of each. The tag or
    /// digest of the request's reference has no meaning. What is attached to images is left out.
    ///
    /// # Errors
    /// As [`Images::pull`]; what was pulled before stays.
    pub async fn pull_all_tags(
        &self,
        request: PullRequest,
        progress: &Progress,
        pulled: impl Fn(&ImageRef, &Image),
    ) -> Result<(), ImageError> {
        let credentials = request.credentials.clone();
        let repository = self.0.registry.repository(&request.reference, credentials).await?;
        let tags = repository.tags().await?;
        for reference in tags.into_iter().filter(|tag| !tag.tag().is_some_and(is_attachment)) {
            let one = PullRequest { reference: reference.clone(), ..request.clone() };
            pulled(&reference, &*self.pull(one, progress).await?);
        }
        Ok(())
    }
}

/// Whether a tag is that of signatures, attestations or other referrers of an image: its digest as
/// a tag (distribution-spec, "Referrers Tag Schema"), with cosign's ending.
fn is_attachment(tag: &str) -> bool {
    let digest = tag.split('.').next().unwrap_or_default();
    digest
        .strip_prefix("sha256-")
        .is_some_and(|hex| format!("sha256:{hex}").parse::<Digest>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_attached_to_an_image_has_its_digest_for_a_tag() {
        let hex = "a".repeat(64);
        for tag in
            [format!("sha256-{hex}"), format!("sha256-{hex}.sig"), format!("sha256-{hex}.att")]
        {
            assert!(is_attachment(&tag), "{tag}");
        }
        for tag in ["latest", "sha256-abc", "sha256-abc.sig", "1.2.3"] {
            assert!(!is_attachment(tag), "{tag}");
        }
    }
}
