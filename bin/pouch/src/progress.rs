//! Progress of pull, push, load and import.

use std::collections::HashMap;
use std::io::IsTerminal as _;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use pouch_client::{ClientError, Ndjson};
use pouch_docker_types::progress::ProgressMessage;

use crate::failure::Failure;
use crate::output;

/// Bars at most; a daemon that names more layers gets lines for them.
const BAR_LIMIT: usize = 512;

/// Where progress goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// How progress looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Bars on a terminal, else lines.
    Auto,
    Plain,
    Bars,
    /// The daemon's messages, one JSON object per line.
    Json,
    /// Nothing but failures.
    Silent,
}

impl Look {
    pub(crate) fn from_flag(flag: &str, quiet: bool) -> Self {
        match flag {
            _ if quiet => Self::Silent,
            "plain" => Self::Plain,
            "tty" => Self::Bars,
            "json" => Self::Json,
            _ => Self::Auto,
        }
    }
}

enum Display {
    Silent,
    Json,
    Lines,
    Bars { all: MultiProgress, by_id: HashMap<String, ProgressBar> },
}

/// Shows a stream of messages to its end and returns the last `aux` object.
pub(crate) async fn show(
    mut messages: Ndjson<ProgressMessage>,
    look: Look,
    stream: Stream,
) -> Result<Option<serde_json::Value>, Failure> {
    let terminal = match stream {
        Stream::Stdout => std::io::stdout().is_terminal(),
        Stream::Stderr => std::io::stderr().is_terminal(),
    };
    let mut display = match look {
        Look::Silent => Display::Silent,
        Look::Json => Display::Json,
        Look::Plain => Display::Lines,
        Look::Auto if !terminal => Display::Lines,
        Look::Auto | Look::Bars => {
            let target = match stream {
                Stream::Stdout => ProgressDrawTarget::stdout(),
                Stream::Stderr => ProgressDrawTarget::stderr(),
            };
            Display::Bars { all: MultiProgress::with_draw_target(target), by_id: HashMap::new() }
        }
    };
    let mut aux = None;
    while let Some(message) = messages.next().await? {
        if let Some(error) = message.error_detail {
            return Err(ClientError::InBand { message: error.message }.into());
        }
        if !message.error.is_empty() {
            return Err(ClientError::InBand { message: message.error }.into());
        }
        display.message(&message, stream)?;
        aux = message.aux.or(aux);
    }
    Ok(aux)
}

impl Display {
    fn message(&mut self, message: &ProgressMessage, stream: Stream) -> Result<(), Failure> {
        match self {
            Self::Silent => Ok(()),
            Self::Json => {
                let text = serde_json::to_string(message)
                    .map_err(|error| Failure::new(format!("cannot encode progress: {error}")))?;
                write(&format!("{text}\n"), stream)
            }
            Self::Lines => lines(message, stream),
            Self::Bars { all, by_id } => bars(message, all, by_id),
        }
    }
}

fn write(text: &str, stream: Stream) -> Result<(), Failure> {
    match stream {
        Stream::Stdout => output::print(text),
        Stream::Stderr => {
            use std::io::Write as _;
            // Without anybody to read it the operation still goes on.
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
            Ok(())
        }
    }
}

fn has_counts(message: &ProgressMessage) -> bool {
    message.progress_detail.as_ref().is_some_and(|d| d.current > 0 || d.total > 0)
}

fn lines(message: &ProgressMessage, stream: Stream) -> Result<(), Failure> {
    if !message.stream.is_empty() {
        return write(&message.stream, stream);
    }
    // A log has no use for a bar that grows.
    if message.status.is_empty() || has_counts(message) {
        return Ok(());
    }
    let id = if message.id.is_empty() { String::new() } else { format!("{}: ", message.id) };
    write(&format!("{id}{}\n", message.status), stream)
}

fn bars(
    message: &ProgressMessage,
    all: &MultiProgress,
    by_id: &mut HashMap<String, ProgressBar>,
) -> Result<(), Failure> {
    let text =
        if message.stream.is_empty() { message.status.as_str() } else { message.stream.trim_end() };
    if message.id.is_empty() || (by_id.len() >= BAR_LIMIT && !by_id.contains_key(&message.id)) {
        if !text.is_empty() {
            all.println(text).map_err(|error| output::broken(&error))?;
        }
        return Ok(());
    }
    let bar = by_id.entry(message.id.clone()).or_insert_with(|| {
        let bar = all.add(ProgressBar::no_length());
        bar.set_style(style("{prefix}: {msg}"));
        bar.set_prefix(message.id.clone());
        bar
    });
    bar.set_message(text.to_owned());
    match &message.progress_detail {
        Some(detail) if has_counts(message) => {
            let count = |n: i64| u64::try_from(n).unwrap_or(0);
            if detail.total > 0 {
                bar.set_length(count(detail.total));
                bar.set_style(style("{prefix}: {msg} [{bar:40}] {bytes}/{total_bytes} {eta}"));
            } else {
                bar.set_style(style("{prefix}: {msg} {bytes}"));
            }
            bar.set_position(count(detail.current));
        }
        _ => {
            bar.set_style(style("{prefix}: {msg}"));
            bar.tick();
        }
    }
    Ok(())
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants; the default style stands in for one that would not parse.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
