//! The shim's own log: one line per event on standard error.
//!
//! A subscriber of a few hundred bytes, because the usual one costs each shim more memory than
//! everything else it does.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Bytes of one line.
const LIMIT: usize = 2048;

struct StderrSubscriber {
    level: Level,
}

/// Writes events of `level` and above from now on.
pub(crate) fn install(level: Level) {
    // Only fails when there is one already, which a test may have.
    let _ = tracing::subscriber::set_global_default(StderrSubscriber { level });
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

impl Subscriber for StderrSubscriber {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    // Spans are not used here: each event names its container.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("{} {}", jiff::Timestamp::now(), event.metadata().level()));
        event.record(&mut line);
        let mut text = line.0.replace('\n', " ");
        if text.len() > LIMIT {
            let end = text.floor_char_boundary(LIMIT);
            text.truncate(end);
        }
        text.push('\n');
        // One write, so that lines of two threads do not mix; a reader that is gone is no matter.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}
