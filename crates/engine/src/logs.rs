//! Logs: where the shim is to write them, and reading them back.
//!
//! The shim writes, the engine only reads, so nothing here can block or lose a line. A follower
//! runs on a thread of its own; it is woken by inotify when the file grows or is rotated, and ends
//! with the container or with its reader.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pouch_containerd::{LogMode, LogTarget};
use pouch_logfile::{Driver, Extent, ReadOptions, Reader, Stream};
use pouch_types::spec::{LogDriver, LogSpec};
use pouch_types::{ContainerId, ErrorKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use tokio::sync::mpsc;

use crate::api::{LogOptions, LogRecord, LogStream};
use crate::container::Container;
use crate::container::record::Record;
use crate::container::state::Phase;
use crate::{Engine, EngineError};

/// Rotation unless the user says otherwise: 5 files of 20 MB, so that no log fills a disk.
const MAX_SIZE: u64 = 20 << 20;
const MAX_FILES: u32 = 5;
/// Memory of `mode=non-blocking`.
const BUFFER: u64 = 1 << 20;
/// Records that may wait for a slow client.
const QUEUE: usize = 64;
/// The longest that a follower sleeps before it looks whether its container or client is gone.
const NAP: Duration = Duration::from_millis(500);

/// The options of a log driver, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Settings {
    max_size: u64,
    max_files: u32,
    mode: LogMode,
}

/// Refuses what the driver does not know, by name.
pub(crate) fn check(spec: &LogSpec) -> Result<(), EngineError> {
    settings(spec).map(drop)
}

fn settings(spec: &LogSpec) -> Result<Settings, EngineError> {
    let driver = spec.driver.as_str();
    let bad = |name: &str, value: &str| {
        EngineError::invalid(format!("invalid value {value:?} for log opt '{name}' of {driver}"))
    };
    let mut settings =
        Settings { max_size: MAX_SIZE, max_files: MAX_FILES, mode: LogMode::Blocking };
    let mut non_blocking = false;
    let mut buffer = BUFFER;
    for (name, value) in &spec.options {
        match (name.as_str(), spec.driver) {
            ("max-size", LogDriver::JsonFile | LogDriver::Local) => {
                settings.max_size = match value.as_str() {
                    "-1" => 0,
                    text => size(text).filter(|n| *n > 0).ok_or_else(|| bad(name, value))?,
                };
            }
            ("max-file", LogDriver::JsonFile | LogDriver::Local) => {
                settings.max_files =
                    value.parse().ok().filter(|n| *n >= 1).ok_or_else(|| bad(name, value))?;
            }
            ("path", LogDriver::Cri) if Path::new(value).is_absolute() => {}
            ("path", LogDriver::Cri) => return Err(bad(name, value)),
            ("mode", _) => match value.as_str() {
                "blocking" => non_blocking = false,
                "non-blocking" => non_blocking = true,
                _ => return Err(bad(name, value)),
            },
            ("max-buffer-size", _) => {
                buffer = size(value).ok_or_else(|| bad(name, value))?;
            }
            ("compress", LogDriver::JsonFile | LogDriver::Local) if value == "false" => {}
            ("compress", LogDriver::JsonFile | LogDriver::Local) => {
                return Err(EngineError::new(
                    ErrorKind::Unsupported,
                    "log opt 'compress' is not supported yet",
                ));
            }
            ("labels" | "env" | "tag" | "labels-regex" | "env-regex", LogDriver::JsonFile) => {
                if !matches!(name.as_str(), "labels" | "env") {
                    return Err(EngineError::new(
                        ErrorKind::Unsupported,
                        format!("log opt '{name}' is not supported yet"),
                    ));
                }
            }
            _ => {
                return Err(EngineError::invalid(format!(
                    "unknown log opt '{name}' for {driver} log driver"
                )));
            }
        }
    }
    if non_blocking {
        settings.mode = LogMode::NonBlocking(buffer);
    }
    Ok(settings)
}

/// `20m`, `1g`, `1024`: units of 1024 as Docker reads them.
fn size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let (digits, factor) = match text.as_bytes().last()? {
        b'k' => (&text[..text.len() - 1], 1 << 10),
        b'm' => (&text[..text.len() - 1], 1 << 20),
        b'g' => (&text[..text.len() - 1], 1 << 30),
        b't' => (&text[..text.len() - 1], 1u64 << 40),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// The log file of a container; `None` when its driver keeps none.
pub(crate) fn path(dir: &Path, id: &ContainerId, spec: &LogSpec) -> Option<PathBuf> {
    match spec.driver {
        LogDriver::JsonFile => Some(dir.join(format!("{id}-json.log"))),
        LogDriver::Local => Some(dir.join("container.log")),
        LogDriver::Cri => spec.cri_path().map(PathBuf::from),
        LogDriver::None => None,
    }
}

/// What the shim is told.
pub(crate) fn target(dir: &Path, record: &Record) -> Option<LogTarget> {
    let spec = &record.spec.log;
    let path = path(dir, &record.id, spec)?;
    // Checked at create; a record from elsewhere falls back to the defaults.
    let settings = settings(spec).unwrap_or(Settings {
        max_size: MAX_SIZE,
        max_files: MAX_FILES,
        mode: LogMode::Blocking,
    });
    let names = |option: &str| {
        let list = spec.options.get(option).cloned().unwrap_or_default();
        list.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let labels = names("labels").into_iter().filter_map(|name| {
        record.spec.labels.get(&name).map(|value| (name.clone(), value.clone()))
    });
    let wanted = names("env");
    let variables = record.spec.process.env.iter().filter_map(|variable| {
        let (name, value) = variable.split_once('=')?;
        wanted.iter().any(|w| w == name).then(|| (name.to_owned(), value.to_owned()))
    });
    Some(LogTarget {
        driver: spec.driver,
        path,
        max_size: settings.max_size,
        max_files: settings.max_files,
        mode: settings.mode,
        attributes: labels.chain(variables).collect(),
    })
}

impl Engine {
    /// Reads a container's log.
    ///
    /// # Errors
    /// `NotFound`; `Unsupported` for a driver that keeps nothing; what opening the file says.
    pub async fn logs(&self, key: &str, options: LogOptions) -> Result<LogStream, EngineError> {
        let container = self.find(key)?;
        let view = container.view();
        if !options.stdout && !options.stderr {
            return Err(EngineError::invalid(
                "Bad parameters: you must choose at least one stream",
            ));
        }
        let driver = match view.spec.log.driver {
            LogDriver::JsonFile => Driver::JsonFile,
            LogDriver::Local => Driver::Local,
            LogDriver::Cri => Driver::Cri,
            LogDriver::None => {
                return Err(EngineError::new(
                    ErrorKind::Unsupported,
                    "configured logging driver does not support reading",
                ));
            }
        };
        let path = path(&container.dir, &container.id, &view.spec.log)
            .ok_or_else(|| EngineError::new(ErrorKind::Internal, "a log without a file"))?;
        let nanoseconds = |t: Timestamp| i64::try_from(t.as_nanosecond()).unwrap_or(i64::MAX);
        let read = ReadOptions {
            since: options.since.map(nanoseconds),
            until: options.until.map(nanoseconds),
            tail: options.tail,
            extent: if options.follow { Extent::Follow } else { Extent::Present },
        };
        let (sender, records) = mpsc::channel(QUEUE);
        let tty = view.spec.process.tty;
        std::thread::Builder::new()
            .name("log-reader".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || {
                if let Err(error) = pump(&container, &path, driver, &read, &options, &sender) {
                    // The client may have gone already.
                    let _ = sender.blocking_send(Err(error));
                }
            })
            .map_err(|e| EngineError::io("start a log reader", e))?;
        Ok(LogStream { tty, records })
    }
}

type Sender = mpsc::Sender<Result<LogRecord, EngineError>>;

fn pump(
    container: &Arc<Container>,
    path: &Path,
    driver: Driver,
    read: &ReadOptions,
    options: &LogOptions,
    sender: &Sender,
) -> Result<(), EngineError> {
    let follow = read.extent == Extent::Follow;
    // Watched before the first read, so that nothing falls in between.
    let watch = if follow { Some(Watch::new(&container.dir)?) } else { None };
    let wrap = |e| EngineError::io(format!("read the log {}", path.display()), e);
    let open = |error: pouch_logfile::LogError| {
        let kind = error.io().kind();
        wrap(std::io::Error::new(kind, error.to_string()))
    };
    let mut reader = match Reader::open(path, driver, read) {
        Ok(reader) => reader,
        Err(error) if error.io().kind() == std::io::ErrorKind::NotFound && !follow => return Ok(()),
        Err(error) => return Err(open(error)),
    };
    loop {
        // Looked at before reading: what came before the end is read after it.
        let ended = over(container);
        while let Some(record) = reader.poll_next().map_err(open)? {
            let wanted = match record.stream {
                Stream::Stdout => options.stdout,
                Stream::Stderr => options.stderr,
            };
            if !wanted {
                continue;
            }
            let mut bytes = record.line;
            if !record.partial {
                bytes.push(b'\n');
            }
            let record = LogRecord {
                stream: match record.stream {
                    Stream::Stdout => 1,
                    Stream::Stderr => 2,
                },
                time: Timestamp::from_nanosecond(record.time_ns.into())
                    .unwrap_or(Timestamp::UNIX_EPOCH),
                bytes,
                attributes: Vec::new(),
            };
            if sender.blocking_send(Ok(record)).is_err() {
                return Ok(());
            }
        }
        let past_until = options.until.is_some_and(|until| Timestamp::now() > until);
        let Some(watch) = &watch else { return Ok(()) };
        if ended || past_until || sender.is_closed() {
            return Ok(());
        }
        watch.wait()?;
    }
}

/// Whether nothing more will be written: the shim has let go of the log.
fn over(container: &Container) -> bool {
    let snapshot = container.snapshot();
    match snapshot.phase {
        Phase::Starting | Phase::Running | Phase::Paused | Phase::Restarting => false,
        // The shim drains what the process left until the clean-up has ended it.
        Phase::Exited => container.run().container.is_none(),
        Phase::Created | Phase::Removing | Phase::Dead | Phase::Gone => true,
    }
}

/// Wakes a follower when something happens in the container's directory.
struct Watch(std::os::fd::OwnedFd);

impl Watch {
    fn new(dir: &Path) -> Result<Self, EngineError> {
        let wrap = |e: rustix::io::Errno| EngineError::io("watch the log", e.into());
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)
            .map_err(wrap)?;
        let events = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&fd, dir, events).map_err(wrap)?;
        Ok(Self(fd))
    }

    /// Until something happened, or a nap is over.
    fn wait(&self) -> Result<(), EngineError> {
        let nap = Timespec::try_from(NAP).ok();
        let wrap = |e: rustix::io::Errno| EngineError::io("wait for the log", e.into());
        match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], nap.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(wrap(error)),
        }
        let mut buffer = [0u8; 4096];
        loop {
            match rustix::io::read(&self.0, &mut buffer) {
                Ok(n) if n == buffer.len() => {}
                Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(()),
                Err(error) => return Err(wrap(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(driver: LogDriver, options: &[(&str, &str)]) -> LogSpec {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        LogSpec { driver, options }
    }

    #[test]
    fn options_are_parsed_or_refused_by_name() {
        let parsed =
            settings(&spec(LogDriver::JsonFile, &[("max-size", "10k"), ("max-file", "3")]))
                .unwrap();
        assert_eq!((parsed.max_size, parsed.max_files), (10240, 3));
        let unlimited = settings(&spec(LogDriver::Local, &[("max-size", "-1")])).unwrap();
        assert_eq!(unlimited.max_size, 0);
        for (driver, name, value) in [
            (LogDriver::JsonFile, "max-size", "x"),
            (LogDriver::JsonFile, "max-file", "0"),
            (LogDriver::JsonFile, "mode", "maybe"),
            (LogDriver::JsonFile, "compress", "true"),
            (LogDriver::Local, "labels", "a"),
            (LogDriver::None, "max-size", "1m"),
            (LogDriver::JsonFile, "nope", "1"),
        ] {
            let error = settings(&spec(driver, &[(name, value)])).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
