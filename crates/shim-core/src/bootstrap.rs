//! `start`: finds the shim of a container's pod, or starts one, and prints its address.
//!
//! The new shim is this binary with the action `serve` and the listener as its standard input, so
//! a socket exists, and queues connections, before anybody learns its address. Sockets are files
//! in a directory for root only, never abstract: the network namespace of a container that shares
//! the host's would reach those (CVE-2020-15257).
//!
//! Who called is told by what it sends: containerd 2.3 writes protobuf parameters to standard
//! input and reads a protobuf result; everything older, down to 1.6, takes a plain address, which
//! means version 2 of the task service.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pouch_protocol::Message as _;
use pouch_protocol::bootstrap::{BootstrapParams, BootstrapResult};
use pouch_types::Digest;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::args::Flags;
use crate::bundle::Config;
use crate::error::TaskError;

/// Sockets of shims under containerd.
const SOCKETS: &str = "/run/pouch-shim";
/// Bytes of a socket's path that every kernel and caller takes.
const MAX_SOCKET_PATH: usize = 100;
/// Bytes read from standard input.
const MAX_PARAMS: u64 = 1024 * 1024;
/// Connections that may wait for the shim to accept them.
const BACKLOG: i32 = 128;

/// Runs the action; the working directory is the bundle.
pub(crate) fn start(flags: &Flags) -> Result<(), TaskError> {
    let params = read_params(flags)?;
    let bundle = match &flags.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(TaskError::io("find", "the bundle"))?,
    };
    let config = Config::read(&bundle)?;
    let group = config.group().unwrap_or(&flags.id);
    let directory = match &params {
        Some(params) if !params.socket_dir.is_empty() => PathBuf::from(&params.socket_dir),
        _ => PathBuf::from(SOCKETS),
    };
    make_private_directory(&directory)?;
    let name = Digest::of(format!("{}\0{}\0{group}", flags.address, flags.namespace).as_bytes());
    let path = directory.join(&name.hex()[..32]);
    if UnixStream::connect(&path).is_err() {
        let listener = bind_private(&path).map_err(TaskError::io("listen at", &path))?;
        let events = match &params {
            Some(params) => params.containerd_ttrpc_address.clone(),
            None => std::env::var("TTRPC_ADDRESS").unwrap_or_default(),
        };
        if let Err(error) = spawn(flags, &bundle, &events, listener) {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
    }
    let address = format!("unix://{}", path.display());
    // containerd 1.6 finds the shim again by this file; later ones write their own.
    let file = bundle.join("address");
    std::fs::write(&file, &address).map_err(TaskError::io("write", &file))?;
    answer(params.is_some(), address)
}

/// The parameters, if the caller sent any. Older ones send runtime options in another message,
/// which can decode as this one, so the identity has to match.
fn read_params(flags: &Flags) -> Result<Option<BootstrapParams>, TaskError> {
    let mut input = Vec::new();
    io::stdin()
        .take(MAX_PARAMS)
        .read_to_end(&mut input)
        .map_err(TaskError::io("read", "standard input"))?;
    let params = BootstrapParams::parse_from_bytes(&input).ok();
    Ok(params
        .filter(|params| params.instance_id == flags.id && params.namespace == flags.namespace))
}

fn answer(protobuf: bool, address: String) -> Result<(), TaskError> {
    let failed = TaskError::io("write to", "standard output");
    let text = if protobuf {
        let result = BootstrapResult {
            version: 3,
            address,
            protocol: "ttrpc".to_owned(),
            ..BootstrapResult::default()
        };
        result.write_to_bytes().map_err(|_| TaskError::Internal("an address too long"))?
    } else {
        address.into_bytes()
    };
    io::stdout().write_all(&text).map_err(failed)
}

fn spawn(flags: &Flags, bundle: &Path, events: &str, listener: OwnedFd) -> Result<(), TaskError> {
    let own = std::env::current_exe().map_err(TaskError::io("find", "this binary"))?;
    let mut command = Command::new(&own);
    command.arg("-namespace").arg(&flags.namespace).arg("-id").arg(&flags.id);
    command.arg("-address").arg(events).arg("-bundle").arg(bundle);
    if flags.debug {
        command.arg("-debug");
    }
    command.arg("serve").stdin(listener).stdout(Stdio::null()).stderr(shim_log(bundle));
    // Signals for the caller's group are not for the shim.
    command.process_group(0);
    command.spawn().map_err(TaskError::io("start", own))?;
    Ok(())
}

/// containerd's FIFO for the shim's log. Open for both ways, so that neither opening nor a
/// containerd that is away blocks or breaks it; what does not fit is lost.
fn shim_log(bundle: &Path) -> Stdio {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(bundle.join("log"), flags, Mode::empty())
        .map_or_else(|_| Stdio::null(), Stdio::from)
}

/// Makes `path`, or checks that it is nobody else's.
pub(crate) fn make_private_directory(path: &Path) -> Result<(), TaskError> {
    let failed = |source| TaskError::Io { action: "make", path: path.to_owned(), source };
    std::fs::DirBuilder::new().mode(0o700).recursive(true).create(path).map_err(failed)?;
    let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
    let own = metadata.uid() == rustix::process::geteuid().as_raw();
    if !metadata.is_dir() || !own || metadata.mode() & 0o077 != 0 {
        let detail = format!("{} is not a directory for its owner only", path.display());
        return Err(TaskError::Invalid { what: "socket directory", detail });
    }
    Ok(())
}

/// Listens at `path` with mode 0600, replacing what was there. A path longer than an address is
/// reached through its directory's descriptor. Non-blocking, close-on-exec.
pub(crate) fn bind_private(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory;
    let mut short = path.to_owned();
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        directory = rustix::fs::open(parent, flags, Mode::empty())?;
        short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    }
    rustix::net::bind(&socket, &SocketAddrUnix::new(&short)?)?;
    // Before listen(2) nobody can connect, so no one slips in with the wider mode.
    rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_private_and_may_have_long_paths() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        for path in [dir.path().join("s"), deep.join("s")] {
            // The second time replaces the first.
            drop(bind_private(&path).unwrap());
            let _listener = bind_private(&path).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        }
        UnixStream::connect(dir.path().join("s")).unwrap_err();
    }

    #[test]
    fn a_wide_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        make_private_directory(&path).unwrap();
        make_private_directory(&path).unwrap();
        rustix::fs::chmod(&path, Mode::from_raw_mode(0o755)).unwrap();
        assert!(make_private_directory(&path).is_err());
    }
}
