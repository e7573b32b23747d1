//! A bundle from the host's static busybox, and the runtime binary under a private root.

#![allow(dead_code, reason = "each test file uses a part")]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: &[&str] = &[
    "sh", "true", "false", "ls", "cat", "id", "sleep", "mount", "touch", "grep", "env", "pwd",
    "mknod", "unshare", "stty", "tty", "kill", "echo", "readlink", "head", "wc", "dd", "ulimit",
    "test", "hostname", "sed", "od",
];

/// Why root tests cannot run here, printed by the test that is skipped.
pub(crate) fn unable() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("skipped: needs root");
    }
    if !Path::new(BUSYBOX).exists() {
        return Some("skipped: needs a static /bin/busybox");
    }
    None
}

/// One bundle and one state directory; everything of them is removed at the end.
pub(crate) struct Rig {
    dir: tempfile::TempDir,
    pub(crate) spec: Value,
    id: String,
}

impl Rig {
    pub(crate) fn new(name: &str, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path().join("bundle/rootfs");
        for sub in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
            std::fs::create_dir_all(rootfs.join(sub)).unwrap();
        }
        std::fs::copy(BUSYBOX, rootfs.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        std::fs::write(
            rootfs.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\n\
            u:x:1000:1000::/home/u:/bin/sh\n",
        )
        .unwrap();
        let id = format!("{name}-{}", std::process::id());
        let rig = Self { spec: default_spec(args, &id), dir, id };
        // A container's user must be able to pass the directories above its root.
        for path in [rig.dir.path().to_owned(), rig.bundle(), rig.rootfs()] {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        rig
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.bundle().join("rootfs")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The directory of a controller's hierarchy, or of version 2.
    pub(crate) fn cgroup(&self, controller: &str) -> PathBuf {
        let one = Path::new("/sys/fs/cgroup").join(controller);
        let mount = if one.is_dir() { one } else { PathBuf::from("/sys/fs/cgroup") };
        mount.join("pouch-runtime-test").join(&self.id)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pouch-runtime"));
        command.arg("--root").arg(self.path("state"));
        command.arg("--log").arg(self.path("log")).args(["--log-format", "json"]).args(args);
        command
    }

    /// Runs to the end, with pipes, and at most 60 seconds.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        finish(
            self.command(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()),
        )
    }

    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    pub(crate) fn write_spec(&self) {
        std::fs::write(self.bundle().join("config.json"), self.spec.to_string()).unwrap();
    }

    fn create_args<'a>(&'a self, bundle: &'a str) -> [&'a str; 4] {
        ["create", "--bundle", bundle, &self.id]
    }

    /// Creates with the output in a file, since the process keeps its streams.
    pub(crate) fn create(&self) -> Output {
        self.write_spec();
        let out = std::fs::File::create(self.path("out")).unwrap();
        let errors = std::fs::File::create(self.path("err")).unwrap();
        let bundle = self.bundle();
        let mut command = self.command(&self.create_args(bundle.to_str().unwrap()));
        let mut output = finish(command.stdin(Stdio::null()).stdout(out).stderr(errors));
        output.stderr = std::fs::read(self.path("err")).unwrap();
        output
    }

    /// Creates and starts.
    pub(crate) fn start(&self) {
        let output = self.create();
        assert!(output.status.success(), "create: {}", text(&output.stderr));
        self.ok(&["start", &self.id]);
    }

    /// Runs the container in the foreground; its output and exit code.
    pub(crate) fn run_to_end(&self) -> Output {
        self.write_spec();
        self.run(&["run", "--bundle", self.bundle().to_str().unwrap(), &self.id])
    }

    pub(crate) fn status(&self) -> String {
        let state: Value = serde_json::from_str(&self.ok(&["state", &self.id])).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }

    pub(crate) fn wait_status(&self, wanted: &str) {
        until(wanted, || self.status() == wanted);
    }

    pub(crate) fn exec(&self, args: &[&str]) -> Output {
        self.run(&[&["exec", self.id.as_str()], args].concat())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.run(&["delete", "--force", &self.id]);
        if let Ok(entries) = std::fs::read_dir("/sys/fs/cgroup") {
            for entry in entries.flatten() {
                let _ = std::fs::remove_dir(entry.path().join("pouch-runtime-test"));
            }
        }
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn finish(command: &mut Command) -> Output {
    let mut child = command.spawn().unwrap();
    let pid = child.id();
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    let streams = (child.stdout.take(), child.stderr.take());
    std::thread::spawn(move || {
        let read = |stream: Option<&mut dyn std::io::Read>| {
            let mut bytes = Vec::new();
            if let Some(stream) = stream {
                let _ = stream.read_to_end(&mut bytes);
            }
            bytes
        };
        let (mut out, mut err) = streams;
        let errors = std::thread::spawn(move || read(err.as_mut().map(|e| e as _)));
        let stdout = read(out.as_mut().map(|o| o as _));
        let _ = send.send((stdout, errors.join().unwrap()));
    });
    let streams = receive.recv_timeout(Duration::from_secs(60));
    if streams.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().unwrap();
    let (stdout, stderr) = streams.unwrap_or_else(|_| panic!("pid {pid}: no end in 60 s"));
    Output { status, stdout, stderr }
}

/// Docker's usual confinement.
fn default_spec(args: &[&str], id: &str) -> Value {
    let caps = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE",
    ];
    let mount = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": args,
            "env": ["PATH=/usr/bin:/bin"],
            "noNewPrivileges": false,
            "capabilities": { "bounding": caps, "effective": caps, "permitted": caps },
        },
        "root": { "path": "rootfs" },
        "hostname": "box",
        "annotations": { "dev.pouch.test": "1" },
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "cgroupsPath": format!("/pouch-runtime-test/{id}"),
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" },
                { "type": "mount" }, { "type": "cgroup" },
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// A profile that permits everything but the named calls, which fail with EPERM.
pub(crate) fn deny(names: &[&str]) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }],
    })
}
