//! Images.

use pouch_cri_grpc as cri;
use pouch_image::{Image, Owner};
use pouch_registry::Credentials;
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
    use base64::Engine as _;
    let Some(auth) = auth else { return Ok(Credentials::default()) };
    let mut credentials = Credentials {
        username: auth.username,
        password: auth.password.into(),
        identity_token: auth.identity_token.into(),
        registry_token: auth.registry_token.into(),
        ..Credentials::default()
    };
    if credentials.username.is_empty() && !auth.auth.is_empty() {
        let wrong = || invalid("auth.auth", "is not base64 of user:password");
        let bytes = base64::engine::general_purpose::STANDARD.decode(auth.auth.trim_end_matches('\0'));
        let text = String::from_utf8(bytes.map_err(|_| wrong())?).map_err(|_| wrong())?;
        let (user, password) = text.split_once(':').ok_or_else(wrong)?;
        credentials.username = user.to_owned();
        credentials.password = password.trim_end_matches('\0').to_owned().into();
    }
    Ok(credentials)
}
