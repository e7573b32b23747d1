//! Progress of pull, push, load and import: a stream of messages made into bars, lines or JSON.

mod layers;
mod rate;
mod screen;

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use pouch_client::{ClientError, Ndjson};
use pouch_docker_types::progress::ProgressMessage;
use tokio::time::MissedTickBehavior;

use crate::failure::Failure;
use crate::output;
use layers::Layers;
use screen::Screen;

/// Between two pictures of the bars.
const PICTURE: Duration = Duration::from_millis(100);

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
            "quiet" => Self::Silent,
            _ => Self::Auto,
        }
    }

    /// Whether words beside the progress are welcome.
    pub(crate) const fn is_talkative(self) -> bool {
        !matches!(self, Self::Silent | Self::Json)
    }
}

enum Display {
    Silent,
    Json(Stream),
    Lines(Stream),
    Bars(Box<Bars>),
}

/// Bars on a terminal.
struct Bars {
    layers: Layers,
    screen: Screen,
}

/// Shows a stream of messages to its end and returns the last `aux` object.
pub(crate) async fn show(
    mut messages: Ndjson<ProgressMessage>,
    look: Look,
    stream: Stream,
) -> Result<Option<serde_json::Value>, Failure> {
    let mut display = Display::new(look, stream);
    let outcome = pump(&mut messages, &mut display).await;
    // The last picture stays also above a failure: it says how far it was.
    display.end()?;
    outcome
}

async fn pump(
    messages: &mut Ndjson<ProgressMessage>,
    display: &mut Display,
) -> Result<Option<serde_json::Value>, Failure> {
    let mut aux = None;
    let mut pictures = tokio::time::interval(PICTURE);
    pictures.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Both branches are cancel-safe.
        let message = tokio::select! {
            message = messages.next() => message?,
            _ = pictures.tick(), if matches!(display, Display::Bars(_)) => {
                display.picture()?;
                continue;
            }
        };
        let Some(message) = message else { return Ok(aux) };
        if let Some(error) = message.error_detail {
            return Err(ClientError::InBand { message: error.message }.into());
        }
        if !message.error.is_empty() {
            return Err(ClientError::InBand { message: message.error }.into());
        }
        display.message(&message)?;
        aux = message.aux.or(aux);
    }
}

impl Display {
    fn new(look: Look, stream: Stream) -> Self {
        let terminal = match stream {
            Stream::Stdout => std::io::stdout().is_terminal(),
            Stream::Stderr => std::io::stderr().is_terminal(),
        };
        let able = terminal && std::env::var_os("TERM").is_none_or(|kind| kind != "dumb");
        match look {
            Look::Silent => Self::Silent,
            Look::Json => Self::Json(stream),
            Look::Plain => Self::Lines(stream),
            Look::Auto if !able => Self::Lines(stream),
            Look::Auto | Look::Bars => Self::Bars(Box::new(Bars {
                layers: Layers::new(Instant::now()),
                screen: Screen::new(stream),
            })),
        }
    }

    fn message(&mut self, message: &ProgressMessage) -> Result<(), Failure> {
        match self {
            Self::Silent => Ok(()),
            Self::Json(stream) => {
                let text = serde_json::to_string(message)
                    .map_err(|error| Failure::new(format!("cannot encode progress: {error}")))?;
                write(&format!("{text}\n"), *stream)
            }
            Self::Lines(stream) => match line(message) {
                Some(line) => write(&format!("{line}\n"), *stream),
                None => Ok(()),
            },
            Self::Bars(bars) => bars.message(message),
        }
    }

    fn picture(&mut self) -> Result<(), Failure> {
        if let Self::Bars(bars) = self {
            bars.picture(&[])?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Failure> {
        if let Self::Bars(bars) = self {
            bars.settle()?;
        }
        Ok(())
    }
}

impl Bars {
    fn message(&mut self, message: &ProgressMessage) -> Result<(), Failure> {
        if message.progress_detail.is_some() && !message.id.is_empty() {
            self.layers.update(message, Instant::now());
            return Ok(());
        }
        // What is said when all layers are there, or of the next image, belongs below them.
        if self.layers.are_over() || !message.stream.is_empty() {
            self.settle()?;
        }
        match line(message) {
            Some(line) => self.picture(&[line]),
            None => Ok(()),
        }
    }

    /// Paints the bars anew, below these lines, which stay.
    fn picture(&mut self, lines: &[String]) -> Result<(), Failure> {
        let (rows, columns) = self.screen.size();
        let frame = self.layers.frame(rows, columns, Instant::now());
        self.screen.paint(lines, &frame)
    }

    /// Leaves the layers as they are now on the screen, and begins anew.
    fn settle(&mut self) -> Result<(), Failure> {
        let (_, columns) = self.screen.size();
        let now = Instant::now();
        let lines = std::mem::replace(&mut self.layers, Layers::new(now)).last_words(columns, now);
        self.screen.paint(&lines, &[])
    }
}

/// A message as a line of its own; `None` for one that only moves a bar.
fn line(message: &ProgressMessage) -> Option<String> {
    if !message.stream.is_empty() {
        let lines = message.stream.trim_end().lines().map(clean);
        return Some(lines.collect::<Vec<_>>().join("\n"));
    }
    // A log has no use for a bar that grows.
    if message.status.is_empty() || layers::amount(message).is_some() {
        return None;
    }
    let id = if message.id.is_empty() { String::new() } else { format!("{}: ", message.id) };
    Some(clean(&format!("{id}{}", message.status)))
}

/// Without what a terminal would obey: names come from others.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_of_milestones() {
        let read = |text: &str| line(&serde_json::from_str(text).unwrap());
        let moving =
            r#"{"status":"Downloading","progressDetail":{"current":1,"total":2},"id":"a"}"#;
        assert_eq!(read(moving), None);
        let done = r#"{"status":"Pull complete","progressDetail":{},"id":"a"}"#;
        assert_eq!(read(done).unwrap(), "a: Pull complete");
        assert_eq!(read(r#"{"status":"Digest: x"}"#).unwrap(), "Digest: x");
        let loaded = r#"{"stream":"Loaded image: x\u001b[2J\n"}"#;
        assert_eq!(read(loaded).unwrap(), "Loaded image: x[2J");
    }
}
