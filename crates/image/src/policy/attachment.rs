//! Where signatures are kept: in the image's own repository, under a tag made of the digest that
//! they are for (`sha256-….sig`), as an image whose layers are the payloads.
//!
//! This is what skopeo, podman and `cosign sign` write (cosign from version 3 on only with
//! `--new-bundle-format=false`; what it writes without is not looked for).

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use pouch_registry::{Descriptor, RegistryError, Repository};
use pouch_types::Digest;
use serde::Deserialize;

use super::signature::{Signature, SignatureError};

const MEDIA_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ANNOTATION: &str = "dev.cosignproject.cosign/signature";

/// Signatures of one image that are looked at.
const SIGNATURES: usize = 128;
/// Bytes of a payload: two names, a digest and the signer's annotations.
const PAYLOAD_BYTES: u64 = 64 << 10;
/// Bytes of a signature in base64; an RSA key of 8192 bits needs 1368.
const PROOF_BYTES: usize = 4096;

/// Of the manifest, what the registry's reader leaves out.
#[derive(Deserialize)]
struct Attachment {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(flatten)]
    descriptor: Descriptor,
    annotations: Option<Annotations>,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "dev.cosignproject.cosign/signature")]
    proof: Option<String>,
}

/// A signature, or what is wrong with its form.
pub(super) type Found = Result<Signature, SignatureError>;

/// The signatures of a document of the repository; none when nobody has signed it.
///
/// # Errors
/// Whatever else the registry answers than that there is no such tag.
pub(super) async fn signatures(
    repository: &Repository,
    subject: &Digest,
) -> Result<Vec<Found>, RegistryError> {
    let document = match repository.document_of_tag(&tag(subject)).await {
        Ok(document) => document,
        Err(RegistryError::ManifestUnknown { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let attachment: Attachment = match serde_json::from_slice(&document.raw) {
        Ok(attachment) => attachment,
        Err(error) => return Ok(vec![Err(SignatureError::Payload(error.to_string()))]),
    };
    // Attestations and the like may be kept beside them.
    let layers = attachment.layers.into_iter().filter(|l| l.descriptor.media_type == MEDIA_TYPE);
    let mut found = Vec::new();
    // Several signers may have signed the very same words.
    let mut payloads: HashMap<Digest, Bytes> = HashMap::new();
    for layer in layers.take(SIGNATURES) {
        let proof = match proof(&layer) {
            Ok(proof) => proof,
            Err(error) => {
                found.push(Err(error));
                continue;
            }
        };
        let payload = match payloads.entry(layer.descriptor.digest) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(place) => {
                let payload = repository.small_blob(&layer.descriptor, PAYLOAD_BYTES).await?;
                place.insert(payload).clone()
            }
        };
        found.push(Ok(Signature { payload, proof }));
    }
    Ok(found)
}

fn tag(subject: &Digest) -> String {
    format!("sha256-{}.sig", subject.hex())
}

fn proof(layer: &Layer) -> Result<Vec<u8>, SignatureError> {
    if layer.descriptor.size > PAYLOAD_BYTES {
        return Err(SignatureError::TooLarge(PAYLOAD_BYTES));
    }
    let text = layer.annotations.as_ref().and_then(|annotations| annotations.proof.as_deref());
    let text = text.ok_or(SignatureError::NoProof(ANNOTATION))?;
    if text.len() > PROOF_BYTES {
        return Err(SignatureError::Base64);
    }
    STANDARD.decode(text).map_err(|_| SignatureError::Base64)
}
