//! Why a file is not used, and why devices cannot be had.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use pouch_types::{Classified, ErrorKind};

use crate::name::NameError;

/// Why one file is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It or its directory cannot be read.
    #[error("cannot be read")]
    Read(#[source] io::Error),
    /// More bytes than any vendor needs.
    #[error("larger than {0} bytes")]
    TooLarge(u64),
    /// A pipe, a device, a directory.
    #[error("not a regular file")]
    NotAFile,
    /// More files, or more bytes in them, than are read.
    #[error("not read: over {0}")]
    TooMany(&'static str),
    /// No JSON of the known form.
    #[error("not a CDI specification")]
    Json(#[source] serde_json::Error),
    /// No YAML of the known form.
    #[error("not a CDI specification: {0}")]
    Yaml(String),
    /// A version that nobody released, or that lacks what the file uses.
    #[error("{0}")]
    Version(String),
    /// A name that is none.
    #[error("bad name")]
    Name(#[from] NameError),
    /// A value that cannot be meant.
    #[error("invalid {field}: {detail}")]
    Invalid {
        /// `deviceNodes.path` …
        field: &'static str,
        /// What is wrong.
        detail: String,
    },
}

impl FileError {
    pub(crate) fn invalid(field: &'static str, detail: impl Into<String>) -> Self {
        Self::Invalid { field, detail: detail.into() }
    }
}

/// A file that is not used.
#[derive(Debug, Clone)]
pub struct Unusable {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub reason: Arc<FileError>,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), pouch_types::error::chain(&*self.reason))
    }
}

/// Why devices cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// Not a fully qualified name.
    #[error("invalid CDI device")]
    Name(#[from] NameError),
    /// No file has them.
    #[error("unresolvable CDI devices {}{}", .devices.join(", "), Told(.unusable))]
    Unknown {
        /// All that were not found.
        devices: Vec<String>,
        /// Files that might have them.
        unusable: Vec<Unusable>,
    },
    /// More than one file of one directory has it.
    #[error("conflicting CDI device {device}: in {}", .paths.join(" and "))]
    Conflict {
        /// Its name.
        device: String,
        /// The files.
        paths: Vec<String>,
    },
    /// It needs what containers cannot get here.
    #[error("CDI device {device} needs {field}, which is not supported")]
    Unsupported {
        /// Its name.
        device: String,
        /// `intelRdt` …
        field: &'static str,
    },
    /// More names than anybody asks for.
    #[error("more than {0} CDI devices")]
    TooMany(usize),
}

impl Classified for ResolveError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Name(_) | Self::Unknown { .. } | Self::Conflict { .. } | Self::TooMany(_) => {
                ErrorKind::Invalid
            }
            Self::Unsupported { .. } => ErrorKind::Unsupported,
        }
    }
}

/// The first files that were left out: who misses a device looks there.
struct Told<'a>(&'a [Unusable]);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        for (at, file) in self.0.iter().take(SHOWN).enumerate() {
            f.write_str(if at == 0 { " (not usable: " } else { "; " })?;
            file.fmt(f)?;
        }
        match self.0.len() {
            0 => Ok(()),
            len if len > SHOWN => write!(f, " and {} more)", len - SHOWN),
            _ => f.write_str(")"),
        }
    }
}
