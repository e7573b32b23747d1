//! Which verification policy of images is in force, at the start and after SIGHUP.

use std::path::{Path, PathBuf};

use pouch_image::{Images, Policy, PolicyError};

/// The policy of podman and skopeo, which is that of the machine.
const DEFAULT: &str = "/etc/containers/policy.json";

/// Where the policy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PolicyFile {
    /// Nowhere: everything may come.
    None,
    /// In this file, which has to be there.
    At(PathBuf),
    /// In the machine's file, if it has one.
    Default,
}

impl PolicyFile {
    /// From flag or key; an empty path says that there is none.
    pub(crate) fn new(path: Option<String>) -> Self {
        match path {
            None => Self::Default,
            Some(path) if path.is_empty() => Self::None,
            Some(path) => Self::At(path.into()),
        }
    }

    /// Reads the policy with its keys. One that cannot be honoured is an error, never passed over.
    pub(crate) fn read(&self) -> Result<Policy, PolicyError> {
        match self {
            Self::None => Ok(Policy::default()),
            Self::At(path) => Policy::read(path),
            Self::Default => match Policy::read(Path::new(DEFAULT)) {
                Err(PolicyError::Read { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound =>
                {
                    Ok(Policy::default())
                }
                read => read,
            },
        }
    }

    /// Reads it again. Errors leave the one that was in force, and so does a file that is gone:
    /// who deletes it by mistake must not let everything in.
    pub(crate) fn read_again(&self, images: &Images) {
        let kept = match (self.read(), images.policy().path()) {
            (Ok(policy), Some(path)) if policy.path().is_none() => {
                format!("{} is gone", path.display())
            }
            (Ok(policy), _) => {
                tell(&policy);
                images.set_policy(policy);
                return;
            }
            (Err(error), _) => pouch_types::error::chain(&error),
        };
        tracing::error!(error = kept, "the image policy was not reloaded");
    }
}

/// Says what holds from now on.
pub(crate) fn tell(policy: &Policy) {
    match policy.path() {
        Some(path) => tracing::info!(policy = %path.display(), "images are checked by a policy"),
        None => tracing::info!("there is no image policy: every image is accepted"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_path_is_no_policy() {
        assert_eq!(PolicyFile::new(None), PolicyFile::Default);
        assert_eq!(PolicyFile::new(Some(String::new())), PolicyFile::None);
        assert!(PolicyFile::None.read().unwrap().path().is_none());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.json");
        let file = PolicyFile::new(Some(path.display().to_string()));
        assert!(file.read().is_err(), "one that was asked for has to be there");
        std::fs::write(&path, r#"{"default": [{"type": "reject"}]}"#).unwrap();
        assert_eq!(file.read().unwrap().path(), Some(path.as_path()));
        std::fs::write(&path, r#"{"default": [{"type": "signedByAll"}]}"#).unwrap();
        assert!(file.read().is_err());
    }
}
