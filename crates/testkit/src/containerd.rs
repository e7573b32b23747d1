//! A private containerd for one test.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::outcome::Outcome;
use crate::programs::in_path;
use crate::wait::within;

/// From its start to its first answer.
const START: Duration = Duration::from_secs(20);
/// From SIGTERM to its end.
const STOP: Duration = Duration::from_secs(10);
/// Where it serves its metrics, in its own network namespace.
const METRICS: &str = "127.0.0.1:1338";
/// What is of no use here and would look beyond the test's directory.
const DISABLED: [&str; 10] = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.internal.v1.opt",
    "io.containerd.nri.v1.nri",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.blockfile",
];

/// A containerd with private root, state and socket, in a network namespace.
#[derive(Debug)]
pub struct Containerd {
    dir: tempfile::TempDir,
    binary: PathBuf,
    enter: Vec<String>,
    child: Option<Child>,
}

/// Calls by `Service.Method`, as containerd counts them.
pub type Calls = BTreeMap<String, u64>;

impl Containerd {
    /// The binary under test: `POUCH_CONTAINERD`, or containerd in PATH. Says why there is none.
    #[must_use]
    pub fn binary() -> Option<PathBuf> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        let found = std::env::var_os("POUCH_CONTAINERD").map(PathBuf::from);
        let found = found.or_else(|| in_path("containerd"));
        if found.is_none() {
            println!("skipped: containerd is not installed");
        }
        found
    }

    /// Starts `binary` in a network namespace of its own.
    #[must_use]
    pub fn start(binary: &Path) -> Self {
        // Its loopback has to be up for the metrics.
        let script = "ip link set lo up && exec \"$@\"";
        Self::start_by(binary, &["unshare", "--net", "sh", "-c", script, "sh"])
    }

    /// Starts `binary` by the words of `enter`, which must become the program that follows them.
    #[must_use]
    pub(crate) fn start_by(binary: &Path, enter: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("pc").tempdir_in("/var/tmp").unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = {DISABLED:?}\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n\
             [metrics]\naddress = {METRICS:?}\ngrpc_histogram = true\n[debug]\nlevel = \"debug\"\n",
            path("root"),
            path("state"),
            path("c.sock"),
            path("t.sock"),
        );
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        let enter = enter.iter().map(|&word| word.to_owned()).collect();
        let mut containerd = Self { dir, binary: binary.to_owned(), enter, child: None };
        containerd.start_again();
        containerd
    }

    /// Starts it after [`Containerd::kill9`] or [`Containerd::stop`].
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "containerd runs");
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = Command::new(&self.enter[0]);
        // Shims of its own version before others.
        let mut path =
            self.binary.parent().unwrap_or_else(|| Path::new("/")).as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut child = command
            .env("PATH", path)
            .args(&self.enter[1..])
            .arg(&self.binary)
            .arg("--config")
            .arg(self.path("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        within(START, "containerd listens", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("containerd ended with {status}:\n{}", self.log());
            }
            let up = UnixStream::connect(self.socket()).is_ok()
                && UnixStream::connect(self.path("t.sock")).is_ok();
            up.then_some(())
        });
        self.child = Some(child);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path("c.sock")
    }

    /// All that it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.path("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running containerd").id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Kills it as a crash would. Containers go on.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// What a power failure does: it, its shims and its state are gone, and it is started again.
    /// The shims' containers are the caller's to end.
    pub fn power_off(&mut self) {
        self.kill9();
        self.end_shims();
        let _ = std::fs::remove_dir_all(self.path("state"));
        self.start_again();
    }

    fn end_shims(&self) {
        for (pid, _) in self.shims() {
            send(pid, Signal::CONT);
            send(pid, Signal::KILL);
        }
        for mount in crate::census::mounts(self.dir.path()).iter().rev() {
            let _ = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
        }
    }

    /// Ends it in order. Containers go on.
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("a running containerd");
        send(child.id(), Signal::TERM);
        within(STOP, "containerd ends after SIGTERM", || child.try_wait().unwrap());
    }

    /// Runs `ctr` against it and gives what it printed.
    ///
    /// # Panics
    ///
    /// When it fails or takes more than a minute.
    #[track_caller]
    #[must_use]
    pub fn ctr(&self, words: &[&str]) -> String {
        let outcome = self.try_ctr(words);
        outcome.check();
        outcome.stdout
    }

    /// Runs `ctr` against it; exits with 124 after a minute.
    #[must_use]
    pub fn try_ctr(&self, words: &[&str]) -> Outcome {
        // The one that belongs to the binary comes first.
        let beside = self.binary.with_file_name("ctr");
        let ctr = if beside.exists() { beside } else { "ctr".into() };
        let output = Command::new("timeout")
            .args(["-k", "5", "60"])
            .arg(ctr)
            .arg("--address")
            .arg(self.socket())
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Outcome::new(format!("ctr {}", words.join(" ")), &output)
    }

    /// Calls that it has begun to serve since its start.
    #[must_use]
    pub fn calls(&self) -> Calls {
        let namespace = format!("/proc/{}/ns/net", self.pid());
        let text = crate::netns::enter(Path::new(&namespace), || {
            let mut stream = TcpStream::connect(METRICS).unwrap();
            stream.set_read_timeout(Some(START)).unwrap();
            stream.write_all(b"GET /v1/metrics HTTP/1.0\r\n\r\n").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        let mut calls = Calls::new();
        for line in text.lines().filter(|l| l.starts_with("grpc_server_started_total{")) {
            let value = |key: &str| {
                let (_, rest) = line.split_once(&format!("{key}=\"")).unwrap();
                rest.split('"').next().unwrap()
            };
            let count = line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
            let service = value("grpc_service").trim_start_matches("containerd.services.");
            let service = service.split('.').next().unwrap();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
            let count = count as u64;
            if count > 0 {
                *calls.entry(format!("{service}.{}", value("grpc_method"))).or_default() += count;
            }
        }
        calls
    }

    /// Calls that came since `before`.
    #[must_use]
    pub fn calls_since(&self, before: &Calls) -> Calls {
        let mut calls = self.calls();
        for (name, count) in before {
            if let Some(now) = calls.get_mut(name) {
                *now -= count;
            }
        }
        calls.retain(|_, count| *count > 0);
        calls
    }

    /// Asserts that nothing is left of a namespace: containers, tasks, shims.
    #[track_caller]
    pub fn assert_empty(&self, namespace: &str) {
        let left = || {
            let containers = self.ctr(&["-n", namespace, "containers", "ls", "-q"]);
            let shims: String = self.shims().into_iter().map(|(_, line)| line + "\n").collect();
            let left = containers + &shims;
            if left.is_empty() { Ok(()) } else { Err(left) }
        };
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while let Err(left) = left() {
            assert!(std::time::Instant::now() < end, "left in containerd:\n{left}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Processes that name its directory, without itself.
    fn shims(&self) -> Vec<(u32, String)> {
        let dir = self.dir.path().to_string_lossy().into_owned();
        let own = self.child.as_ref().map(Child::id);
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&dir) && Some(pid) != own && pid != std::process::id() {
                found.push((pid, line));
            }
        }
        found
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.kill9();
        self.end_shims();
    }
}

/// Sends a signal; the process may be gone.
fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}
