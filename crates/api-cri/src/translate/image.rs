//! Images.

use pouch_cri_grpc as cri;
use pouch_image::{Image, Owner};
use pouch_registry::{AuthFields, Credentials};
use tonic::Status;

use crate::error::invalid;

/// A line of a list, and the answer to a status. What Docker's users named is pinned: kubelet's
/// garbage collection is not theirs.
pub(crate) fn item(image: &Image) -> cri::Image {
    let user = image.config.config.user.as_str();
    // A group behind it is not asked about.
    let user = user.split(':').next().unwrap_or_default();
    let uid = user.parse::<i64>().ok();
    cri::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.iter().map(|name| canonical(name)).collect(),
        repo_digests: image.repo_digests.iter().map(|name| canonical(name)).collect(),
        size: image.size,
        uid: uid.map(|value| cri::Int64Value { value }),
        username: if uid.is_none() { user.to_owned() } else { String::new() },
        spec: Some(cri::ImageSpec::default()),
        pinned: image.owners.contains(Owner::Docker),
    }
}

/// The full name, as Kubernetes has names: `docker.io/library/busybox:latest`.
fn canonical(name: &str) -> String {
    name.parse::<pouch_types::ImageRef>().map_or_else(|_| name.to_owned(), |name| name.to_string())
}

/// Credentials of one pull.
pub(crate) fn credentials(auth: Option<cri::AuthConfig>) -> Result<Credentials, Status> {
    let Some(auth) = auth else { return Ok(Credentials::Anonymous) };
    let fields = AuthFields {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    };
    Credentials::from_fields(fields).map_err(|e| invalid("auth", e))
}
