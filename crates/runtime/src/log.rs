//! Where warnings and the final error go: the file of `--log`, in text or in the JSON lines that
//! containerd's runtime driver reads, or else standard error.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::error::{IoContext, RuntimeError};

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// `time="…" level=error msg="…"`.
    #[default]
    Text,
    /// `{"level":"error","msg":"…","time":"…"}`.
    Json,
}

/// Whether debug lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verbosity {
    /// Warnings and errors.
    #[default]
    Normal,
    /// Everything.
    Debug,
}

#[derive(Serialize)]
struct Line<'a> {
    level: &'a str,
    msg: &'a str,
    time: String,
}

/// The log of one command.
#[derive(Debug, Default)]
pub struct Log {
    file: Option<File>,
    format: Format,
    verbosity: Verbosity,
}

impl Log {
    /// Opens the log; without a file it is standard error.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn open(
        path: Option<&Path>,
        format: Format,
        verbosity: Verbosity,
    ) -> Result<Self, RuntimeError> {
        let file = path
            .map(|path| {
                File::options().append(true).create(true).open(path).context("open the log", path)
            })
            .transpose()?;
        Ok(Self { file, format, verbosity })
    }

    /// A condition that was worked around.
    pub fn warn(&self, message: &str) {
        self.write("warning", message);
    }

    /// A step, for those who follow one.
    pub fn debug(&self, message: impl FnOnce() -> String) {
        if self.verbosity == Verbosity::Debug {
            self.write("debug", &message());
        }
    }

    /// The error that ends the command: into the log file when there is one, and as one line on
    /// standard error in any case.
    pub fn error(&self, message: &str) {
        if self.file.is_some() {
            self.write("error", message);
        }
        eprintln!("{}", message.replace('\n', " "));
    }

    fn write(&self, level: &str, message: &str) {
        let time = jiff::Timestamp::now().to_string();
        let line = match self.format {
            Format::Json => serde_json::to_string(&Line { level, msg: message, time })
                .unwrap_or_else(|_| String::from("{}")),
            Format::Text => format!("time={time:?} level={level} msg={message:?}"),
        };
        // A log that cannot be written must not fail the command.
        let _ = match &self.file {
            Some(file) => writeln!(&*file, "{line}"),
            None => writeln!(std::io::stderr(), "{line}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(format: Format, write: impl FnOnce(&Log)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&Log::open(Some(&path), format, Verbosity::Normal).unwrap());
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn json_lines_have_the_three_keys_that_drivers_read() {
        let text = logged(Format::Json, |log| log.warn("a \"quoted\"\nthing"));
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["level"], "warning");
        assert_eq!(line["msg"], "a \"quoted\"\nthing");
        assert!(line["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn debug_lines_are_silent_unless_asked_for() {
        assert_eq!(logged(Format::Text, |log| log.debug(|| "x".into())), "");
    }

    #[test]
    fn text_lines_stay_one_line() {
        assert_eq!(logged(Format::Text, |log| log.warn("a\nb")).lines().count(), 1);
    }
}
