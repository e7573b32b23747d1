//! What a caller may choose for a container: our own options, or those of runc's shim.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pouch_logfile::{Driver, Rotation};
use pouch_protocol::options::{self, runc};
use pouch_protocol::{Any, any_url, unpack};

use crate::error::TaskError;

/// Bytes held for the disk by a non-blocking log, when the options do not say.
const DEFAULT_LOG_BUFFER: usize = 1024 * 1024;
/// And at most.
const MAX_LOG_BUFFER: usize = 64 * 1024 * 1024;

/// The log of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogOptions {
    pub(crate) driver: Driver,
    pub(crate) path: PathBuf,
    pub(crate) max_size: u64,
    pub(crate) max_files: u32,
    /// Bytes of the queue of a non-blocking log; `None` for a blocking one.
    pub(crate) buffer: Option<usize>,
    pub(crate) attrs: BTreeMap<String, String>,
}

impl LogOptions {
    pub(crate) fn rotation(&self) -> Rotation {
        Rotation { max_size: self.max_size, max_files: self.max_files }
    }
}

/// Options of one container.
#[derive(Debug, Clone)]
pub(crate) struct TaskOptions {
    /// Path or name; `None` for our own.
    pub(crate) runtime: Option<PathBuf>,
    pub(crate) root: PathBuf,
    pub(crate) systemd_cgroup: bool,
    pub(crate) args: Vec<String>,
    pub(crate) log: Option<LogOptions>,
    pub(crate) exit_file: Option<PathBuf>,
    pub(crate) generation: u64,
    /// Listener for attach clients; `None` under containerd.
    pub(crate) io_socket: Option<PathBuf>,
    pub(crate) stdin_once: bool,
}

impl TaskOptions {
    /// The options in `any`; a type that is not known gives defaults.
    pub(crate) fn parse(
        any: Option<&Any>,
        namespace: &str,
        bundle: &Path,
    ) -> Result<Self, TaskError> {
        let invalid = |detail: String| TaskError::Invalid { what: "options", detail };
        let defaults = Self {
            runtime: None,
            root: Path::new("/run/pouch-runtime").join(namespace),
            systemd_cgroup: false,
            args: Vec::new(),
            log: None,
            exit_file: None,
            generation: 0,
            io_socket: None,
            stdin_once: false,
        };
        let Some(any) = any else { return Ok(defaults) };
        match any_url(any) {
            options::OPTIONS_TYPE => {
                let own: options::Options =
                    unpack(any, options::OPTIONS_TYPE).map_err(|e| invalid(e.to_string()))?;
                Self::of_pouch(own, defaults, bundle)
            }
            runc::OPTIONS_TYPE => {
                let runc: runc::Options =
                    unpack(any, runc::OPTIONS_TYPE).map_err(|e| invalid(e.to_string()))?;
                Ok(Self {
                    runtime: path(&runc.binary_name),
                    root: path(&runc.root).map_or(defaults.root, |root| root.join(namespace)),
                    systemd_cgroup: runc.systemd_cgroup,
                    ..defaults
                })
            }
            _ => Ok(defaults),
        }
    }

    fn of_pouch(own: options::Options, defaults: Self, bundle: &Path) -> Result<Self, TaskError> {
        Ok(Self {
            runtime: path(&own.runtime_binary),
            root: absolute("runtime_root", &own.runtime_root)?.unwrap_or(defaults.root),
            systemd_cgroup: own.systemd_cgroup,
            args: own.runtime_args,
            log: own.log.into_option().map(log).transpose()?.flatten(),
            exit_file: absolute("exit_file", &own.exit_file)?,
            generation: own.generation,
            io_socket: Some(
                absolute("io_socket", &own.io_socket)?.unwrap_or_else(|| bundle.join("io.sock")),
            ),
            stdin_once: own.stdin_once,
        })
    }
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

fn absolute(what: &'static str, text: &str) -> Result<Option<PathBuf>, TaskError> {
    match path(text) {
        Some(path) if !path.is_absolute() => {
            Err(TaskError::Invalid { what, detail: format!("{text:?} is not an absolute path") })
        }
        path => Ok(path),
    }
}

pub(crate) fn log(log: options::LogOptions) -> Result<Option<LogOptions>, TaskError> {
    let driver = match log.driver.as_str() {
        "json-file" => Driver::JsonFile,
        "local" => Driver::Local,
        "cri" => Driver::Cri,
        "none" | "" => return Ok(None),
        other => {
            let detail = format!("{other:?} is not a driver of this shim");
            return Err(TaskError::Invalid { what: "log driver", detail });
        }
    };
    let path = absolute("log path", &log.path)?
        .ok_or_else(|| TaskError::Invalid { what: "log path", detail: "is empty".to_owned() })?;
    let buffer = match usize::try_from(log.buffer_size).unwrap_or(usize::MAX) {
        0 => DEFAULT_LOG_BUFFER,
        size => size.min(MAX_LOG_BUFFER),
    };
    Ok(Some(LogOptions {
        driver,
        path,
        max_size: log.max_size,
        max_files: log.max_files.max(1),
        buffer: log.non_blocking.then_some(buffer),
        attrs: log.extra.into_iter().collect(),
    }))
}

#[cfg(test)]
mod tests {
    use pouch_protocol::any;

    use super::*;

    fn parse(any: Option<&Any>) -> Result<TaskOptions, TaskError> {
        TaskOptions::parse(any, "ns", Path::new("/b"))
    }

    #[test]
    fn defaults_without_options_and_for_unknown_ones() {
        let unknown = Any { type_url: "x/y.Z".to_owned(), value: vec![0xff], ..Any::default() };
        for any in [None, Some(&unknown)] {
            let options = parse(any).unwrap();
            assert_eq!(options.root, Path::new("/run/pouch-runtime/ns"));
            assert_eq!((options.runtime, options.io_socket), (None, None));
        }
    }

    #[test]
    fn those_of_runc() {
        let message = runc::Options {
            binary_name: "crun".to_owned(),
            root: "/r".to_owned(),
            ..runc::Options::default()
        };
        let options = parse(Some(&any(runc::OPTIONS_TYPE, &message).unwrap())).unwrap();
        assert_eq!(options.runtime.as_deref(), Some(Path::new("crun")));
        assert_eq!(options.root, Path::new("/r/ns"));
    }

    #[test]
    fn our_own() {
        let mut message = options::Options { stdin_once: true, ..Default::default() };
        message.log = Some(options::LogOptions {
            driver: "json-file".to_owned(),
            path: "/l".to_owned(),
            ..Default::default()
        })
        .into();
        let pack = |message: &options::Options| any(options::OPTIONS_TYPE, message).unwrap();
        let parsed = parse(Some(&pack(&message))).unwrap();
        assert_eq!(parsed.io_socket.as_deref(), Some(Path::new("/b/io.sock")));
        let log = parsed.log.unwrap();
        assert_eq!((log.max_files, log.buffer), (1, None));

        message.exit_file = "relative".to_owned();
        assert!(parse(Some(&pack(&message))).is_err());
        message.exit_file.clear();
        message.log.as_mut().unwrap().driver = "syslog".to_owned();
        assert!(parse(Some(&pack(&message))).is_err());
    }

    /// The bytes, not the message: daemon and shim may be of different builds.
    #[test]
    fn those_of_another_build_are_read() {
        let parse_bytes = |value: &[u8]| {
            let url = options::OPTIONS_TYPE.to_owned();
            parse(Some(&Any { type_url: url, value: value.to_vec(), ..Any::default() }))
        };
        // A daemon that knows less: everything that it does not say has a default.
        let least = parse_bytes(b"\x2a\x02/e\x30\x07").unwrap();
        assert_eq!(least.exit_file.as_deref(), Some(Path::new("/e")));
        assert_eq!((least.generation, least.stdin_once, least.log), (7, false, None));
        assert_eq!(least.root, Path::new("/run/pouch-runtime/ns"));
        // One that knows more: a number, bytes and fixed words under numbers that are not taken.
        let more = b"\x2a\x02/e\xc0\x3e\x01\xca\x3e\x03new\x30\x07\xd5\x3e\x00\x00\x00\x00";
        let more = parse_bytes(more).unwrap();
        assert_eq!((more.exit_file, more.generation), (least.exit_file, 7));
        assert!(parse_bytes(b"\x2a\x09/e").is_err(), "cut off");
    }
}
