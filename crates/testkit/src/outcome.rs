//! What a command that ended has said.

use std::process::Output;

/// A command's end, with its output as text.
#[derive(Debug, Clone)]
pub struct Outcome {
    command: String,
    code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    pub(crate) fn new(command: String, output: &Output) -> Self {
        Self {
            command,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The exit code; -1 for an end by signal.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.code.unwrap_or(-1)
    }

    /// Standard output without white space around it, of a command that must have succeeded.
    #[track_caller]
    #[must_use = "use `check` when only success counts"]
    pub fn ok(&self) -> &str {
        self.check();
        self.stdout.trim()
    }

    /// Asserts success.
    #[track_caller]
    pub fn check(&self) -> &Self {
        self.exits(0)
    }

    /// Asserts the exit code.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &Self {
        assert_eq!(
            self.code(),
            code,
            "exit code of `{}`\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Asserts failure and that `text` comes in either stream: what goes wrong once a connection
    /// is a stream is said in it.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Self {
        assert_ne!(self.code(), 0, "`{}` succeeded: {}", self.command, self.stdout);
        let all = format!("{}{}", self.stdout, self.stderr);
        assert!(all.contains(text), "`{}` does not say {text:?}, but:\n{all}", self.command);
        self
    }

    /// Asserts failure and that standard error has `text` in it, whatever the case.
    #[track_caller]
    pub fn fails_with(&self, text: &str) -> &Self {
        assert_ne!(self.code(), 0, "`{}` succeeded: {}", self.command, self.stdout);
        assert!(
            self.stderr.to_lowercase().contains(&text.to_lowercase()),
            "`{}` does not say {text:?}, but:\n{}",
            self.command,
            self.stderr
        );
        self
    }
}
