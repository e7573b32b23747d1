//! Makes and removes containers: the seam between the services and what runs a container.
//!
//! [`RuntimeHandler`] is the seam; [`LinuxRuntime`] fills it with an OCI runtime's command line,
//! the interface that runc, crun and our own runtime share. Signals, pausing and waiting need no
//! runtime and are done on pidfds and control groups.

use std::fmt;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rustix::fs::MemfdFlags;
use serde::Deserialize;

use crate::child::Reaper;
use crate::error::TaskError;
use crate::options::TaskOptions;
use crate::stdio::ChildStdio;

/// Time that a runtime has to make a container or process. Pulling pages of a cold binary and
/// hooks count, so it is generous; a hung one must still end.
const MAKE: Duration = Duration::from_secs(120);
/// Time for everything else.
const OTHER: Duration = Duration::from_secs(30);
/// Bytes read from the end of a runtime's log.
const LOG_TAIL: u64 = 64 * 1024;

/// Our own runtime.
const OWN_RUNTIME: &str = "pouch-runtime";

/// What a new process needs.
#[derive(Debug)]
pub(crate) struct Making<'a> {
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a Path,
    pub(crate) stdio: ChildStdio,
    /// Where the runtime sends the terminal.
    pub(crate) console: Option<&'a Path>,
}

/// Runs containers of one kind. Methods are not cancelled half-way: their callers are tasks of
/// their own.
#[async_trait]
pub(crate) trait RuntimeHandler: fmt::Debug + Send + Sync {
    /// Makes a container whose first process waits for [`start`](Self::start); returns its pid.
    /// The pid is a child of ours, alive or a zombie.
    async fn create(&self, making: Making<'_>) -> Result<u32, TaskError>;
    /// Lets the first process run.
    async fn start(&self, id: &str, bundle: &Path) -> Result<(), TaskError>;
    /// Adds a process; `spec` is the OCI process object.
    async fn exec(&self, making: Making<'_>, spec: &[u8]) -> Result<u32, TaskError>;
    /// Applies an OCI resources object.
    async fn update(&self, id: &str, bundle: &Path, resources: &[u8]) -> Result<(), TaskError>;
    /// Removes the container, killing what is left of it. One that does not exist is removed.
    async fn delete(&self, id: &str, bundle: &Path) -> Result<(), TaskError>;
}

/// An OCI runtime's command line.
#[derive(Debug)]
pub(crate) struct LinuxRuntime {
    name: String,
    program: PathBuf,
    /// Keeps `program`, a path in /proc/self/fd, alive.
    _sealed: Option<Arc<OwnedFd>>,
    root: PathBuf,
    args: Vec<String>,
    systemd_cgroup: bool,
    reaper: Reaper,
    sequence: AtomicU32,
}

/// The sealed binary of our runtime, made once per shim.
#[derive(Debug, Default)]
pub(crate) struct SealedRuntime(std::sync::Mutex<Option<(PathBuf, Arc<OwnedFd>)>>);

impl SealedRuntime {
    fn open(&self, path: &Path) -> Result<Arc<OwnedFd>, TaskError> {
        let mut cached = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((known, fd)) = &*cached
            && known == path
        {
            return Ok(Arc::clone(fd));
        }
        let fd = pouch_sealed_exe::open_readonly_clone(path).map_err(TaskError::Sealed)?;
        let fd = Arc::new(fd);
        *cached = Some((path.to_owned(), Arc::clone(&fd)));
        Ok(fd)
    }
}

/// Where our runtime is: beside this binary, else in PATH.
fn own_runtime() -> PathBuf {
    std::env::current_exe()
        .ok()
        .map(|own| own.with_file_name(OWN_RUNTIME))
        .filter(|path| path.is_file())
        .unwrap_or_else(|| PathBuf::from(OWN_RUNTIME))
}

/// The file that `program` names; a bare name is looked up in PATH.
fn resolve(program: PathBuf) -> Result<PathBuf, TaskError> {
    if program.components().count() > 1 || program.is_absolute() {
        return Ok(program);
    }
    let path = std::env::var_os("PATH")
        .unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path)
        .map(|directory| directory.join(&program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| {
            TaskError::io("find the runtime", program)(std::io::ErrorKind::NotFound.into())
        })
}

impl LinuxRuntime {
    /// The runtime that `options` ask for.
    pub(crate) fn new(
        options: &TaskOptions,
        sealed: &SealedRuntime,
        reaper: Reaper,
    ) -> Result<Self, TaskError> {
        let program = resolve(options.runtime.clone().unwrap_or_else(own_runtime))?;
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Ours relies on it for the protection of its binary; others protect themselves.
        let sealed = (name == OWN_RUNTIME).then(|| sealed.open(&program)).transpose()?;
        let program = match &sealed {
            Some(fd) => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
            None => program,
        };
        Ok(Self {
            name,
            program,
            _sealed: sealed,
            root: options.root.clone(),
            args: options.args.clone(),
            systemd_cgroup: options.systemd_cgroup,
            reaper,
            sequence: AtomicU32::new(0),
        })
    }

    /// Names of this invocation's files in the bundle.
    fn file(&self, bundle: &Path, kind: &str) -> Scratch {
        let number = self.sequence.fetch_add(1, Ordering::Relaxed);
        Scratch(bundle.join(format!("rt-{number}.{kind}")))
    }

    fn command(&self, bundle: &Path, log: &Scratch) -> Command {
        let mut command = Command::new(&self.program);
        command.arg0(&self.name).current_dir(bundle);
        // A daemon below systemd has this for itself; runc would make it the container's, and not
        // return from `start` until that has said that it is ready.
        command.env_remove("NOTIFY_SOCKET");
        command.args(&self.args).arg("--root").arg(&self.root);
        command.arg("--log").arg(&log.0).args(["--log-format", "json"]);
        if self.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command
    }

    /// Runs a command that makes a process, and reads its pid.
    async fn make(
        &self,
        name: &'static str,
        making: Making<'_>,
        spec: Option<&[u8]>,
    ) -> Result<u32, TaskError> {
        let log = self.file(making.bundle, "log");
        let pid = self.file(making.bundle, "pid");
        let process = self.file(making.bundle, "json");
        let mut command = self.command(making.bundle, &log);
        command.arg(name);
        match spec {
            Some(spec) => {
                std::fs::write(&process.0, spec).map_err(TaskError::io("write", &process.0))?;
                command.arg("--process").arg(&process.0).arg("--detach");
                if making.console.is_some() {
                    command.arg("--tty");
                }
            }
            None => {
                command.arg("--bundle").arg(making.bundle);
            }
        }
        command.arg("--pid-file").arg(&pid.0);
        if let Some(console) = making.console {
            command.arg("--console-socket").arg(console);
        }
        command.arg(making.id);
        making.stdio.give_to(&mut command);
        let status = self.reaper.run(command, name, MAKE).await?;
        if !status.success() {
            return Err(Self::failure(name, &log, status, String::new()));
        }
        let text =
            std::fs::read_to_string(&pid.0).map_err(TaskError::io("read the pid file", &pid.0))?;
        text.trim().parse().map_err(|_| TaskError::Invalid { what: "pid file", detail: text })
    }

    /// Runs a command without stdio of its own; `input` becomes its standard input.
    async fn run(
        &self,
        name: &'static str,
        bundle: &Path,
        arguments: &[&str],
        input: Option<&[u8]>,
    ) -> Result<(), TaskError> {
        let log = self.file(bundle, "log");
        let mut command = self.command(bundle, &log);
        command.arg(name).args(arguments);
        command.stdin(match input {
            Some(input) => Stdio::from(memory_file(input)?),
            None => Stdio::null(),
        });
        let mut errors = memory_file(&[])?;
        let copy = errors.try_clone().map_err(TaskError::io("copy", "a memory file"))?;
        command.stdout(Stdio::null()).stderr(copy);
        let status = self.reaper.run(command, name, OTHER).await?;
        if status.success() {
            return Ok(());
        }
        let mut text = Vec::new();
        let _ = errors.seek(SeekFrom::Start(0));
        let _ = errors.take(4096).read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        Err(Self::failure(name, &log, status, text))
    }

    fn failure(
        command: &'static str,
        log: &Scratch,
        status: std::process::ExitStatus,
        said: String,
    ) -> TaskError {
        let message = last_error(&log.0)
            .unwrap_or_else(|| if said.is_empty() { status.to_string() } else { said });
        TaskError::Runtime { command, message }
    }
}

#[async_trait]
impl RuntimeHandler for LinuxRuntime {
    async fn create(&self, making: Making<'_>) -> Result<u32, TaskError> {
        self.make("create", making, None).await
    }

    async fn start(&self, id: &str, bundle: &Path) -> Result<(), TaskError> {
        self.run("start", bundle, &[id], None).await
    }

    async fn exec(&self, making: Making<'_>, spec: &[u8]) -> Result<u32, TaskError> {
        self.make("exec", making, Some(spec)).await
    }

    async fn update(&self, id: &str, bundle: &Path, resources: &[u8]) -> Result<(), TaskError> {
        self.run("update", bundle, &["--resources", "-", id], Some(resources)).await
    }

    async fn delete(&self, id: &str, bundle: &Path) -> Result<(), TaskError> {
        self.run("delete", bundle, &["--force", id], None).await
    }
}

/// A file of one invocation, removed with it.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn memory_file(content: &[u8]) -> Result<File, TaskError> {
    let failed = TaskError::io("make", "a memory file");
    let make = || {
        let mut file = File::from(rustix::fs::memfd_create("pouch", MemfdFlags::CLOEXEC)?);
        file.write_all(content)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    };
    make().map_err(failed)
}

/// The message of the last error in a runtime's JSON log.
fn last_error(log: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let mut file = File::open(log).ok()?;
    let size = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(LOG_TAIL))).ok()?;
    let mut text = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut text).ok()?;
    text.split(|&byte| byte == b'\n')
        .rev()
        .filter_map(|line| serde_json::from_slice::<Line>(line).ok())
        .find(|line| matches!(line.level.as_str(), "error" | "fatal" | "ERROR"))
        .map(|line| line.msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_line_is_the_message() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(
            &log,
            "{\"level\":\"error\",\"msg\":\"first\",\"time\":\"t\"}\ngarbage\n\
             {\"level\":\"error\",\"msg\":\"last\"}\n{\"level\":\"info\",\"msg\":\"after\"}\n",
        )
        .unwrap();
        assert_eq!(last_error(&log).as_deref(), Some("last"));
        assert_eq!(last_error(&dir.path().join("absent")), None);
    }

    #[test]
    fn names_are_looked_up_and_paths_are_not() {
        assert!(resolve("sh".into()).unwrap().is_absolute());
        assert_eq!(resolve("/no/such".into()).unwrap(), Path::new("/no/such"));
        assert!(resolve("no-such-program-anywhere".into()).is_err());
    }
}
