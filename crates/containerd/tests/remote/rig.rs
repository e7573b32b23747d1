//! A containerd, a backend on it, and containers of busybox.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pouch_containerd::remote::{Remote, RemoteConfig};
use pouch_containerd::*;
use pouch_testkit::{Containerd, program};
use pouch_types::ContainerId;
use pouch_types::spec::{Attach, LogDriver};
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

/// Time for anything that is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Rig {
    pub(crate) containerd: Containerd,
    pub(crate) backend: Remote,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) dir: tempfile::TempDir,
    group: String,
}

impl Rig {
    /// `None` where it cannot work, with the reason printed.
    pub(crate) async fn new() -> Option<Self> {
        let binary = Containerd::binary()?;
        for name in ["containerd-shim-pouch-v2", "pouch-runtime"] {
            if !program(name).exists() {
                println!("skipped: {name} is not built");
                return None;
            }
        }
        let dir = tempfile::Builder::new().prefix("pr").tempdir_in("/var/tmp").unwrap();
        let root = dir.path().join("rootfs");
        std::fs::create_dir_all(root.join("bin")).unwrap();
        for dir in ["proc", "dev"] {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in ["sh", "sleep", "true", "cat", "echo"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let containerd = Containerd::start(&binary);
        let config = config(&containerd, &dir, "here");
        let (backend, events) = Remote::open(config).await.unwrap();
        // Events are told only then.
        assert!(backend.load_all().await.unwrap().is_empty());
        let group = format!("/{}", dir.path().file_name().unwrap().to_str().unwrap());
        Some(Self { containerd, backend, events, dir, group })
    }

    pub(crate) fn config(&self, owner: &str) -> RemoteConfig {
        config(&self.containerd, &self.dir, owner)
    }

    /// As a new daemon would.
    pub(crate) async fn reopen(&mut self) {
        let (backend, events) = Remote::open(self.config("here")).await.unwrap();
        (self.backend, self.events) = (backend, events);
    }

    pub(crate) fn request(&self, words: &[&str]) -> CreateRequest {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:032x}{number:032x}", std::process::id());
        let kinds = ["pid", "mount", "ipc", "uts", "network"];
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {
                "args": words, "cwd": "/", "env": ["PATH=/bin"],
                "user": { "uid": 0, "gid": 0 }, "noNewPrivileges": true,
                "capabilities": { "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"],
                                  "permitted": ["CAP_KILL"] },
            },
            "root": { "path": "rootfs" },
            "hostname": "box",
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                  "options": ["mode=755"] },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                  "options": ["newinstance", "ptmxmode=0666", "mode=0620"] },
            ],
            "linux": {
                "namespaces": kinds.map(|kind| json!({ "type": kind })),
                "cgroupsPath": format!("{}/{id}", self.group),
            },
        });
        let run = self.dir.path().join(&id);
        std::fs::create_dir_all(&run).unwrap();
        CreateRequest {
            id: id.parse().unwrap(),
            group: None,
            spec: spec.to_string().into_bytes(),
            rootfs: vec![Mount {
                kind: "bind".to_owned(),
                source: self.dir.path().join("rootfs").display().to_string(),
                options: vec!["rbind".to_owned(), "rw".to_owned()],
            }],
            runtime: RuntimeOptions {
                shim: None,
                binary: None,
                args: Vec::new(),
                root: self.dir.path().join("runtime"),
                cgroup_driver: CgroupDriver::Cgroupfs,
            },
            log: Some(LogTarget {
                driver: LogDriver::JsonFile,
                path: run.join("log"),
                max_size: 0,
                max_files: 1,
                mode: LogMode::Blocking,
                attributes: Vec::new(),
            }),
            exit_file: run.join("exit.json"),
            generation: 7,
        }
    }

    /// Makes a container and its task.
    pub(crate) async fn prepare(&self, words: &[&str]) -> (Arc<dyn Container>, Arc<dyn Task>) {
        let container = self.backend.create(self.request(words)).await.unwrap();
        let task = container.new_task(PIPES).await.unwrap();
        (container, task)
    }

    /// Starts a container.
    pub(crate) async fn start(&self, words: &[&str]) -> (Arc<dyn Container>, Arc<dyn Task>) {
        let (container, task) = self.prepare(words).await;
        task.start().await.unwrap();
        (container, task)
    }

    pub(crate) fn file(&self, container: &dyn Container, name: &str) -> PathBuf {
        self.dir.path().join(container.id().as_str()).join(name)
    }

    /// The next exit, whatever else comes before.
    pub(crate) async fn exit(&mut self) -> (ContainerId, Option<String>, ExitStatus) {
        loop {
            let event = within("an exit is reported", self.events.recv()).await.unwrap();
            if let Event::Exit { container, exec, status, .. } = event {
                return (container, exec, status);
            }
        }
    }

    /// Asserts that nothing is left anywhere.
    pub(crate) fn assert_empty(&self) {
        self.containerd.assert_empty("pouch");
        let runs = self.dir.path().join("state/r");
        assert_eq!(std::fs::read_dir(runs).unwrap().count(), 0);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.containerd.log();
            println!("--- end of containerd's log\n{}", &log[log.len().saturating_sub(6000)..]);
        }
        // Keepers of a test that failed.
        let dir = self.dir.path().to_string_lossy().into_owned();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw)
                && String::from_utf8_lossy(&line).contains(&dir)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let Ok(mounts) = std::fs::read_to_string("/proc/self/mounts") else { return };
        for mount in mounts.lines().filter(|line| line.contains("cgroup")) {
            let root = mount.split(' ').nth(1).unwrap_or_default();
            let _ = std::fs::remove_dir(format!("{root}{}", self.group));
        }
    }
}

fn config(containerd: &Containerd, dir: &tempfile::TempDir, owner: &str) -> RemoteConfig {
    RemoteConfig {
        socket: containerd.socket(),
        namespace: "pouch".to_owned(),
        connections: NonZeroUsize::new(2).unwrap(),
        state: dir.path().join("state"),
        shim: program("containerd-shim-pouch-v2"),
        owner: owner.to_owned(),
        patience: PATIENCE,
    }
}

/// Pipes, nothing to read.
pub(crate) const PIPES: Stdio = Stdio { terminal: Terminal::No, stdin: Stdin::Null };
/// Both outputs.
pub(crate) const OUTPUT: Attach = Attach { stdin: false, stdout: true, stderr: true };

pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// All that comes until the end.
pub(crate) async fn read_all(mut stream: tokio::net::UnixStream) -> String {
    let mut bytes = Vec::new();
    within("the stream ends", stream.read_to_end(&mut bytes)).await.unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
