//! One sigstore signature: a payload that names an image by digest and by name, and what proves
//! who wrote it.
//!
//! The payload is "simple signing" (containers-signature(5)). Nothing in it is read before its
//! signature is found good.

use bytes::Bytes;
use pouch_types::{Digest, ImageRef};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::identity::Identity;
use super::key::PublicKey;

/// What the payload says that it is.
const TYPE: &str = "cosign container image signature";

/// A signature that nobody has checked.
#[derive(Debug, Clone)]
pub(super) struct Signature {
    pub(super) payload: Bytes,
    pub(super) proof: Vec<u8>,
}

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SignatureError {
    #[error("has no annotation {0}")]
    NoProof(&'static str),
    #[error("has a payload of more than {0} bytes")]
    TooLarge(u64),
    #[error("is not in base64")]
    Base64,
    #[error("was not made by a trusted key, or is damaged")]
    Key,
    #[error("has a payload that does not parse: {0}")]
    Payload(String),
    #[error("is of type {0:?}")]
    Type(String),
    #[error("is for the digest {0}")]
    Digest(String),
    #[error("is for {0:?}")]
    Identity(String),
}

/// Who has to have signed, and as what.
#[derive(Debug, Clone)]
pub(super) struct Signed {
    /// Any of them.
    pub(super) keys: Vec<PublicKey>,
    pub(super) identity: Identity,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    critical: Critical,
    /// For people.
    #[serde(default, rename = "optional")]
    _optional: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    r#type: String,
    image: Image,
    identity: Name,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Image {
    docker_manifest_digest: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Name {
    docker_reference: String,
}

impl Signed {
    /// Checks one signature of the document `subject`, which came as `image`.
    pub(super) fn check(
        &self,
        signature: &Signature,
        subject: &Digest,
        image: &ImageRef,
    ) -> Result<(), SignatureError> {
        let Signature { payload, proof } = signature;
        if !self.keys.iter().any(|key| key.has_signed(payload, proof)) {
            return Err(SignatureError::Key);
        }
        let Payload { critical, .. } = serde_json::from_slice(payload)
            .map_err(|error| SignatureError::Payload(clip(&error.to_string())))?;
        if critical.r#type != TYPE {
            return Err(SignatureError::Type(clip(&critical.r#type)));
        }
        let digest = critical.image.docker_manifest_digest;
        if digest != subject.to_string() {
            return Err(SignatureError::Digest(clip(&digest)));
        }
        let name = critical.identity.docker_reference;
        if !self.identity.accepts(image, &name) {
            return Err(SignatureError::Identity(clip(&name)));
        }
        Ok(())
    }
}

/// Enough of a stranger's text to recognise it.
fn clip(text: &str) -> String {
    text.chars().take(300).collect()
}
