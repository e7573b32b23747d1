//! How a command fails: what the user reads, and the exit code.

use pouch_client::ClientError;

/// The engine could not do it, as opposed to the program in the container.
pub(crate) const ENGINE: u8 = 125;
/// The program cannot be executed.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// The program does not exist.
pub(crate) const NOT_FOUND: u8 = 127;

/// The end of a command that did not succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// For stderr; `None` when all has been said, or when the exit code is the container's.
    pub(crate) message: Option<String>,
    pub(crate) code: u8,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: Some(message.into()), code: 1 }
    }

    /// A flag that docker has and this command cannot honour.
    pub(crate) fn unsupported(flag: &str, why: &str) -> Self {
        Self::new(format!("{flag} is not supported: {why}"))
    }

    /// Ends with `code` and without a word.
    pub(crate) const fn silent(code: u8) -> Self {
        Self { message: None, code }
    }

    pub(crate) const fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// `action path: why`.
    pub(crate) fn io(
        action: &str,
        path: impl AsRef<std::path::Path>,
        error: &std::io::Error,
    ) -> Self {
        Self::new(format!("cannot {action} {}: {}", path.as_ref().display(), plain(error)))
    }
}

/// An I/O error in words, without Rust's `(os error 2)`.
pub(crate) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

/// One line for a failed call. The daemon's words stand as they are; a broken connection shows the
/// one cause that matters, the innermost.
pub(crate) fn describe(error: &ClientError) -> String {
    if error.is_from_daemon() {
        return format!("Error response from daemon: {error}");
    }
    if matches!(error, ClientError::Connect { .. }) {
        return error.to_string();
    }
    let mut innermost: Option<&dyn std::error::Error> = None;
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        innermost = Some(inner);
        cause = inner.source();
    }
    match innermost {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::new(describe(&error))
    }
}

impl From<crate::template::TemplateError> for Failure {
    fn from(error: crate::template::TemplateError) -> Self {
        Self::new(format!("template parsing error: {error}"))
    }
}
