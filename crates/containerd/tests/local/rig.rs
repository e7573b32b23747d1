//! An embedded backend of its own, and containers of busybox.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pouch_containerd::local::{Local, LocalConfig};
use pouch_containerd::*;
use pouch_testkit::program;
use pouch_types::ContainerId;
use pouch_types::spec::{Attach, LogDriver};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

/// Time for anything that is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Pipes, nothing to read.
pub(crate) const PIPES: Stdio = Stdio { terminal: Terminal::No, stdin: Stdin::Null };
/// Both outputs.
pub(crate) const OUTPUT: Attach = Attach { stdin: false, stdout: true, stderr: true };

pub(crate) struct Rig {
    pub(crate) backend: Local,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) dir: tempfile::TempDir,
}

impl Rig {
    /// `None` where it cannot work, with the reason printed.
    pub(crate) async fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new("/bin/busybox").exists() {
            println!("skipped: needs root and a static busybox");
            return None;
        }
        for name in ["containerd-shim-pouch-v2", "pouch-runtime"] {
            if !program(name).exists() {
                println!("skipped: {name} is not built");
                return None;
            }
        }
        let dir = tempfile::Builder::new().prefix("pl").tempdir_in("/var/tmp").unwrap();
        let root = dir.path().join("rootfs");
        for name in ["bin", "proc", "dev"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in ["sh", "sleep", "true", "cat", "echo", "yes", "readlink", "kill"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        std::fs::create_dir(dir.path().join("state")).unwrap();
        let (backend, events) = Local::open(config(dir.path())).await.unwrap();
        assert!(backend.load_all().await.unwrap().is_empty());
        Some(Self { backend, events, dir })
    }

    /// As a new daemon would.
    pub(crate) async fn reopen(&mut self) {
        let (backend, events) = Local::open(config(self.dir.path())).await.unwrap();
        (self.backend, self.events) = (backend, events);
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn cgroup(&self) -> String {
        format!("/{}", self.dir.path().file_name().unwrap().to_str().unwrap())
    }

    pub(crate) fn spec(&self, id: &str, words: &[&str]) -> Value {
        let kinds = ["pid", "mount", "ipc", "uts", "network"];
        json!({
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
            ],
            "linux": {
                "namespaces": kinds.map(|kind| json!({ "type": kind })),
                "cgroupsPath": format!("{}/{id}", self.cgroup()),
            },
        })
    }

    /// A container of `group`, of which `change` may alter the specification.
    pub(crate) fn request(
        &self,
        group: Option<&ContainerId>,
        words: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> CreateRequest {
        let id = fresh();
        let mut spec = self.spec(id.as_str(), words);
        change(&mut spec);
        let run = self.dir.path().join(id.as_str());
        std::fs::create_dir_all(&run).unwrap();
        CreateRequest {
            id,
            group: group.cloned(),
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
                driver: LogDriver::Cri,
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

    /// Makes and starts a container of `group`.
    pub(crate) async fn start(
        &self,
        group: Option<&ContainerId>,
        words: &[&str],
    ) -> (Arc<dyn Container>, Arc<dyn Task>) {
        let request = self.request(group, words, |_| {});
        let container = self.backend.create(request).await.unwrap();
        let task = container.new_task(PIPES).await.unwrap();
        task.start().await.unwrap();
        (container, task)
    }

    pub(crate) fn file(&self, container: &dyn Container, name: &str) -> PathBuf {
        self.dir.path().join(container.id().as_str()).join(name)
    }

    pub(crate) async fn event(&mut self) -> Event {
        within("an event", self.events.recv()).await.unwrap()
    }

    /// Pids of the shims that are this backend's.
    pub(crate) fn shims(&self) -> Vec<u32> {
        let state = self.state().display().to_string();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            if line.contains(&state)
                && line.contains("\0serve")
                && let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok())
            {
                found.push(pid);
            }
        }
        found
    }

    /// Asserts that nothing is left.
    pub(crate) async fn assert_empty(&self) {
        within("the shims end", async {
            while !self.shims().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        for name in ["t", "p"] {
            let left = std::fs::read_dir(self.state().join(name)).map_or(0, Iterator::count);
            assert_eq!(left, 0, "in {name}");
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "{mounts}");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Those of a test that failed.
        for pid in self.shims() {
            let children = format!("/proc/{pid}/task/{pid}/children");
            let children = std::fs::read_to_string(children).unwrap_or_default();
            let children = children.split_whitespace().filter_map(|child| child.parse().ok());
            for pid in children.chain([pid]) {
                let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
                if let Some(pid) = pid {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
        let Ok(mounts) = std::fs::read_to_string("/proc/self/mounts") else { return };
        for mount in mounts.lines().filter(|line| line.contains("cgroup")) {
            let root = mount.split(' ').nth(1).unwrap_or_default();
            let _ = std::fs::remove_dir(format!("{root}{}", self.cgroup()));
        }
    }
}

fn config(dir: &Path) -> LocalConfig {
    LocalConfig {
        state: dir.join("state"),
        shim: program("containerd-shim-pouch-v2"),
        namespace: "pouch-test".to_owned(),
    }
}

/// An id that no other has.
pub(crate) fn fresh() -> ContainerId {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{:032x}{number:032x}", std::process::id()).parse().unwrap()
}

pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// All that comes until the end.
pub(crate) async fn read_all(mut stream: tokio::net::UnixStream) -> String {
    let mut bytes = Vec::new();
    within("the stream ends", stream.read_to_end(&mut bytes)).await.unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
