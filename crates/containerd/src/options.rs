//! What our shim is told of a new task, whoever starts the shim.

use std::path::Path;

use pouch_protocol::MessageField;
use pouch_protocol::options::{self, runc};
use pouch_types::spec::LogDriver;

use crate::{CgroupDriver, CreateRequest, Error, LogMode, LogTarget, Result, Stdin, Stdio};

/// The shim of runc.
const RUNC: &str = "io.containerd.runc.v2";

/// The options of a task whose streams are served at `io_socket`.
pub(crate) fn pack(
    request: &CreateRequest,
    stdio: Stdio,
    io_socket: &Path,
) -> Result<pouch_protocol::Any> {
    let message = options::Options {
        generation: request.generation,
        stdin_once: stdio.stdin == Stdin::Once,
        ..of_container(request, io_socket)
    };
    pack_own(&message)
}

/// As [`pack`], without what is of one run.
pub(crate) fn of_container(request: &CreateRequest, io_socket: &Path) -> options::Options {
    options::Options {
        runtime_binary: request.runtime.binary.as_deref().map(text).unwrap_or_default(),
        runtime_root: text(&request.runtime.root),
        systemd_cgroup: request.runtime.cgroup_driver == CgroupDriver::Systemd,
        log: MessageField::some(log_options(request.log.as_ref())),
        exit_file: text(&request.exit_file),
        io_socket: text(io_socket),
        runtime_args: request.runtime.args.clone(),
        ..Default::default()
    }
}

/// Options of our shim, for the wire.
pub(crate) fn pack_own(options: &options::Options) -> Result<pouch_protocol::Any> {
    pouch_protocol::any(options::OPTIONS_TYPE, options).map_err(|e| Error::Codec(e.to_string()))
}

/// Options for a shim that is not ours, where we know any: runc's.
pub(crate) fn pack_foreign(
    request: &CreateRequest,
    shim: &str,
) -> Result<Option<pouch_protocol::Any>> {
    if shim != RUNC {
        return Ok(None);
    }
    let message = runc::Options {
        systemd_cgroup: request.runtime.cgroup_driver == CgroupDriver::Systemd,
        ..Default::default()
    };
    let packed = pouch_protocol::any(runc::OPTIONS_TYPE, &message);
    packed.map(Some).map_err(|e| Error::Codec(e.to_string()))
}

fn log_options(log: Option<&LogTarget>) -> options::LogOptions {
    let Some(log) = log else {
        let driver = LogDriver::None.as_str().to_owned();
        return options::LogOptions { driver, ..Default::default() };
    };
    let (non_blocking, buffer_size) = match log.mode {
        LogMode::Blocking => (false, 0),
        LogMode::NonBlocking(bytes) => (true, bytes),
    };
    options::LogOptions {
        driver: log.driver.as_str().to_owned(),
        path: text(&log.path),
        max_size: log.max_size,
        max_files: log.max_files,
        non_blocking,
        buffer_size,
        extra: log.attributes.iter().cloned().collect(),
        ..Default::default()
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
