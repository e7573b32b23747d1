//! The engine's one error: what failed, on which object, and what class of failure it is.

use pouch_types::{Classified, ErrorKind};

/// A failed use case.
#[derive(Debug)]
pub struct EngineError {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl EngineError {
    /// A failure that starts here.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// A failure of a floor below, with what the engine was doing.
    pub fn wrap<E>(doing: impl Into<String>, error: E) -> Self
    where
        E: Classified + Send + Sync + 'static,
    {
        Self { kind: error.kind(), message: doing.into(), source: Some(Box::new(error)) }
    }

    /// An I/O failure with what the engine was doing.
    pub fn io(doing: impl Into<String>, error: std::io::Error) -> Self {
        Self {
            kind: pouch_types::error::io_kind(&error),
            message: doing.into(),
            source: Some(Box::new(error)),
        }
    }

    /// No such container.
    #[must_use]
    pub fn no_such_container(key: &str) -> Self {
        let key: String = key.chars().take(128).collect();
        Self::new(ErrorKind::NotFound, format!("No such container: {key}"))
    }

    /// The same failure under another class.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// A request that cannot be meant.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// A state that forbids it.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// The message with its causes.
    #[must_use]
    pub fn text(&self) -> String {
        pouch_types::error::chain(self)
    }
}

impl std::fmt::Display for EngineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for EngineError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

impl Classified for EngineError {
    fn kind(&self) -> ErrorKind {
        self.kind
    }
}

macro_rules! transparent {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for EngineError {
            fn from(error: $error) -> Self {
                // A floor below already names the object; its text stands for itself.
                Self {
                    kind: error.kind(),
                    message: pouch_types::error::chain(&error),
                    source: None,
                }
            }
        }
    )*};
}

transparent!(
    pouch_store::StoreError,
    pouch_image::ImageError,
    pouch_volume::VolumeError,
    pouch_types::id::InvalidId,
    pouch_types::name::InvalidName,
    pouch_types::signal::InvalidSignal,
    pouch_types::reference::InvalidReference,
);
