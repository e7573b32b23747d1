//! What our shim is told of a new task, whoever starts the shim.

use std::path::Path;

use pouch_protocol::{MessageField, options};
use pouch_types::spec::LogDriver;

use crate::{CgroupDriver, CreateRequest, Error, LogMode, LogTarget, Result, Stdin, Stdio};

/// The options of a task whose streams are served at `io_socket`.
pub(crate) fn pack(
    request: &CreateRequest,
    stdio: Stdio,
    io_socket: &Path,
) -> Result<pouch_protocol::Any> {
    let message = options::Options {
        runtime_binary: request.runtime.binary.as_deref().map(text).unwrap_or_default(),
        runtime_root: text(&request.runtime.root),
        systemd_cgroup: request.runtime.cgroup_driver == CgroupDriver::Systemd,
        log: MessageField::some(log_options(request.log.as_ref())),
        exit_file: text(&request.exit_file),
        generation: request.generation,
        io_socket: text(io_socket),
        stdin_once: stdio.stdin == Stdin::Once,
        runtime_args: request.runtime.args.clone(),
        ..Default::default()
    };
    pouch_protocol::any(options::OPTIONS_TYPE, &message).map_err(|e| Error::Codec(e.to_string()))
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
