//! What can go wrong with a namespace.

use std::io;
use std::path::{Path, PathBuf};

use pouch_types::error::io_kind;
use pouch_types::{Classified, ErrorKind};

/// A failure to make, pin, open, enter or remove a network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// Nothing is at that path.
    #[error("no network namespace at {path}")]
    NotFound {
        /// Where it was expected.
        path: PathBuf,
    },
    /// The path is taken.
    #[error("cannot make a network namespace at {path}: the path exists")]
    Exists {
        /// The path asked for.
        path: PathBuf,
    },
    /// The file is there, the namespace is not: its mount went away, as after a reboot.
    #[error("{path} is not a network namespace")]
    NotANamespace {
        /// The file.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {step} network namespace {path}")]
    Io {
        /// What was being done, as a verb.
        step: &'static str,
        /// The namespace or the file concerned.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A kernel parameter that cannot be set for a pod.
    #[error("sysctl {name:?}: {detail}")]
    Sysctl {
        /// Its name.
        name: String,
        /// Why not.
        detail: String,
    },
    /// No thread could be made for it.
    #[error("cannot start a thread for a network namespace")]
    Thread(#[source] io::Error),
    /// The closure that ran inside panicked.
    #[error("the work inside the network namespace panicked")]
    Panicked,
}

impl NetnsError {
    pub(crate) fn io<E: Into<io::Error>>(
        step: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self + use<E> {
        let path = path.to_owned();
        move |source| Self::Io { step, path, source: source.into() }
    }
}

impl Classified for NetnsError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Exists { .. } => ErrorKind::AlreadyExists,
            Self::NotANamespace { .. } => ErrorKind::Conflict,
            Self::Sysctl { .. } => ErrorKind::Invalid,
            Self::Io { source, .. } => io_kind(source),
            Self::Thread(_) => ErrorKind::ResourceExhausted,
            Self::Panicked => ErrorKind::Internal,
        }
    }
}
