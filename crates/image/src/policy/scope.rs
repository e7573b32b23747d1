//! Scopes: which rule of a transport is the one for an image.
//!
//! For `docker`, an image is looked up by its full reference, then its repository, each namespace
//! above it, its host, and `*.` with ever fewer labels of the host's name without port.

use pouch_types::ImageRef;

/// Where an image can come from, with the names of containers-transports(5). pouchd takes images
/// from some of them only; the others are known so that a misspelt one is not taken for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Transport {
    /// A registry.
    Docker,
    /// `docker load` of an archive with `manifest.json`.
    DockerArchive,
    /// `docker load` of an OCI layout in an archive.
    OciArchive,
    /// `docker import`.
    Tarball,
    /// Of podman or skopeo only.
    Foreign(&'static str),
}

impl Transport {
    pub(super) fn parse(name: &str) -> Option<Self> {
        const FOREIGN: [&str; 7] =
            ["atomic", "containers-storage", "dir", "docker-daemon", "oci", "ostree", "sif"];
        [Self::Docker, Self::DockerArchive, Self::OciArchive, Self::Tarball]
            .into_iter()
            .chain(FOREIGN.map(Self::Foreign))
            .find(|transport| transport.name() == name)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::DockerArchive => "docker-archive",
            Self::OciArchive => "oci-archive",
            Self::Tarball => "tarball",
            Self::Foreign(name) => name,
        }
    }

    /// Refuses a scope that no image can be in: whoever wrote it thinks that it does something.
    pub(super) fn check_scope(self, scope: &str) -> Result<(), &'static str> {
        match self {
            _ if scope.is_empty() => Ok(()),
            Self::Docker => check_name(scope),
            Self::DockerArchive | Self::Tarball => Err("this transport has no scope but \"\""),
            // Paths, which an archive that a client sends does not have.
            Self::OciArchive if scope.starts_with('/') => Ok(()),
            Self::OciArchive => Err("a scope of this transport is an absolute path"),
            Self::Foreign(_) => Ok(()),
        }
    }
}

fn check_name(scope: &str) -> Result<(), &'static str> {
    if let Some(domain) = scope.strip_prefix("*.") {
        let good = !domain.contains(['*', ':', '/']) && is_prefix(&format!("x.{domain}"));
        return if good { Ok(()) } else { Err("a wildcard is \"*.\" and a domain without port") };
    }
    let last = scope.rsplit_once('/').map(|(_, last)| last);
    let is_image = last.is_some_and(|last| last.contains([':', '@']));
    let good = match scope.parse::<ImageRef>() {
        Ok(image) if is_image => image.to_string() == scope && !has_both(&image),
        _ => is_prefix(scope),
    };
    if good {
        return Ok(());
    }
    Err("no image has this name in full, as in \"docker.io/library/busybox:latest\", or one that \
         begins so")
}

fn has_both(image: &ImageRef) -> bool {
    image.tag().is_some() && image.digest().is_some()
}

/// Whether full names of repositories can begin so, up to a slash: a host, a namespace, a
/// repository.
pub(super) fn is_prefix(text: &str) -> bool {
    let below = format!("{text}/x/y");
    below.parse::<ImageRef>().is_ok_and(|image| image.repository() == below)
}

/// The scopes that an image of a registry is in, the most specific first.
pub(super) fn scopes(image: &ImageRef) -> Vec<String> {
    let repository = image.repository();
    let mut scopes = Vec::new();
    match (image.digest(), image.tag()) {
        // What is pulled is what the digest says; a tag beside it means nothing.
        (Some(digest), _) => scopes.push(format!("{repository}@{digest}")),
        (None, Some(tag)) => scopes.push(format!("{repository}:{tag}")),
        (None, None) => {}
    }
    let mut name = repository.as_str();
    scopes.push(name.to_owned());
    while let Some((above, _)) = name.rsplit_once('/') {
        scopes.push(above.to_owned());
        name = above;
    }
    let mut host = name.split(':').next().unwrap_or(name);
    while let Some((_, above)) = host.split_once('.') {
        scopes.push(format!("*.{above}"));
        host = above;
    }
    scopes
}
