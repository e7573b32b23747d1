//! A `pouchd` with private roots, socket, bridge, control groups and network namespace.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::census::{self, Census, Places};
use crate::containerd::Containerd;
use crate::host::Host;
use crate::http::{Answer, Connection};
use crate::kubelet::{self, Kubelet};
use crate::live::Live;
use crate::netns::Netns;
use crate::outcome::Outcome;
use crate::programs::program;
use crate::wait::within;

/// From the start of `pouchd` to its first answer.
const START: Duration = Duration::from_secs(20);
/// From SIGTERM to its end.
const STOP: Duration = Duration::from_secs(15);
/// What a command of a CLI may take before the test fails instead of hanging.
const COMMAND: &str = "60";
/// Bytes of the log shown when a test fails.
const LOG_TAIL: usize = 12_000;

/// A running daemon and how to talk to it.
#[derive(Debug)]
pub struct Daemon {
    dir: tempfile::TempDir,
    tag: String,
    netns: Netns,
    flags: Vec<String>,
    containerd: Option<Containerd>,
    backend: Backend,
    own_images: bool,
    /// Where its programs are, when not those under test.
    programs: Option<PathBuf>,
    child: Option<Child>,
    pods: bool,
    /// How often it was started.
    pub(crate) starts: u32,
}

/// Which backend a daemon with a containerd serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The embedded one; containerd runs beside it.
    Local,
    /// That containerd.
    Remote,
}

impl Daemon {
    pub(crate) fn start(host: Host) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let tag = format!("pt{}x{number}", std::process::id());
        // Short, for the sockets below; not in /tmp, which may be in memory.
        let dir = tempfile::Builder::new().prefix("pt").tempdir_in("/var/tmp").unwrap();
        std::fs::create_dir(dir.path().join("home")).unwrap();
        let netns = Netns::new(tag.clone());
        let containerd = (host.on_containerd || remote()).then(|| {
            let binary = Containerd::binary().expect("a containerd to put the daemon on");
            let place = format!("--net={}", netns.path().display());
            Containerd::start_by(&binary, &["nsenter", &place, "--"])
        });
        let backend = if containerd.is_some() { Backend::Remote } else { Backend::Local };
        let mut flags = host.flags;
        let (pods, own_images) = (host.pods, host.own_images);
        if pods {
            flags.extend(kubelet::prepare(dir.path()));
        }
        forward(&netns);
        let (programs, child, starts) = (None, None, 0);
        let mut daemon = Self {
            dir,
            tag,
            netns,
            flags,
            containerd,
            backend,
            own_images,
            programs,
            child,
            pods,
            starts,
        };
        daemon.spawn(&[]);
        if !host.bare {
            daemon.import("busybox", crate::busybox(), &["CMD [\"sh\"]"]);
            daemon.warm_up();
        }
        if !host.environment.is_empty() {
            daemon.stop();
            daemon.spawn(&host.environment);
        }
        daemon
    }

    fn spawn(&mut self, environment: &[(String, String)]) {
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let pouchd = match &self.programs {
            Some(dir) => dir.join("pouchd"),
            None => program("pouchd"),
        };
        let mut command = self.netns.command(pouchd);
        if let (Some(containerd), Backend::Remote) = (&self.containerd, self.backend) {
            command.args(["--backend", "remote", "--containerd"]).arg(containerd.socket());
            // The embedded backend refuses the option: it has no other store.
            if self.own_images {
                command.args(["--remote-image-store", "local"]);
            }
        }
        // The machine's own policy is none of a test's, which may bring one.
        let own = self.flags.iter().any(|flag| flag.starts_with("--image-policy"));
        let policy = (!own).then_some("--image-policy=");
        command
            .arg("--data-root")
            .arg(self.data_root())
            .arg("--exec-root")
            .arg(self.exec_root())
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .arg("--pidfile")
            .arg(self.path("pid"))
            .arg("--config-file")
            .arg(self.path("config.json"))
            .args(["--bridge", &self.bridge(), "--bip", "172.31.0.1/24"])
            .args(["--cgroup-parent", &self.cgroup_parent()])
            .args(policy)
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .env_remove("POUCH_FAILPOINT")
            .envs(environment.iter().map(|(k, v)| (k, v)));
        if !self.path("config.json").exists() {
            std::fs::write(self.path("config.json"), "{}").unwrap();
        }
        // nsenter without --fork becomes the daemon, so the child's pid is the daemon's.
        let mut child = command.spawn().unwrap();
        let end = Instant::now() + START;
        while !self.answers() {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("pouchd ended with {status}:\n{}", self.log_tail());
            }
            if Instant::now() > end {
                let _ = child.kill();
                panic!("pouchd does not answer:\n{}", self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child = Some(child);
        self.starts += 1;
    }

    /// Brings into being what stays after the first use: bridge, rules, caches, the engine's id.
    pub(crate) fn warm_up(&self) {
        self.get("/info").is(200);
        self.docker(&["run", "--rm", "busybox", "true"]).check();
        if self.pods {
            self.kubelet().warm_up();
        }
    }

    /// A client of the CRI, of a host [`Host::with_pods`].
    #[must_use]
    pub fn kubelet(&self) -> Kubelet {
        Kubelet::new(self.dir.path())
    }

    /// Takes away what the networks of pods keep for the next pod, as on each node: their bridge
    /// and the base of their rules.
    pub(crate) fn forget_pod_network(&self) {
        if !self.pods {
            return;
        }
        let netns = &self.netns;
        for words in [&["ip", "link", "delete", kubelet::BRIDGE][..], &["nft", "flush", "ruleset"]]
        {
            let _ = netns.command(words[0]).args(&words[1..]).stderr(Stdio::null()).status();
        }
    }

    fn answers(&self) -> bool {
        UnixStream::connect(self.socket()).is_ok() && self.get("/_ping").status == 200
    }

    /// A path in the daemon's directory, for files of the test.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `--data-root`.
    #[must_use]
    pub fn data_root(&self) -> PathBuf {
        self.path("d")
    }

    /// `--exec-root`.
    #[must_use]
    pub fn exec_root(&self) -> PathBuf {
        self.path("x")
    }

    /// The containerd below it, with the remote backend.
    pub fn containerd(&mut self) -> Option<&mut Containerd> {
        self.containerd.as_mut()
    }

    /// The API's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path("s")
    }

    /// Name of the bridge.
    #[must_use]
    pub fn bridge(&self) -> String {
        // At most 15 bytes.
        format!("b{}", self.tag.trim_start_matches("pt"))
    }

    /// Parent control group of all containers, from `/`.
    #[must_use]
    pub fn cgroup_parent(&self) -> String {
        format!("/{}", self.tag)
    }

    /// The network namespace that stands for the host's.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    fn log_path(&self) -> PathBuf {
        self.path("log")
    }

    /// All that the daemon has logged.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let from = log.len().saturating_sub(LOG_TAIL);
        log.get(from..).or_else(|| log.get(from + 1..)).unwrap_or(&log).to_owned()
    }

    /// The daemon's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running daemon").id()
    }

    /// Whether the daemon runs; notices its end.
    pub fn is_running(&mut self) -> bool {
        let running = self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none());
        if !running {
            self.child = None;
        }
        running
    }

    /// Sends SIGTERM and waits for an orderly end.
    #[track_caller]
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("a running daemon");
        send(child.id(), Signal::TERM);
        let status = within(STOP, "pouchd ends after SIGTERM", || child.try_wait().unwrap());
        assert!(status.success(), "pouchd ended with {status}:\n{}", self.log_tail());
    }

    /// Kills the daemon as a crash would.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts the daemon again after [`Daemon::stop`] or [`Daemon::kill9`].
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "the daemon still runs");
        self.spawn(&[]);
    }

    /// As [`Daemon::start_again`], with another backend, or the same.
    #[track_caller]
    pub fn start_again_on(&mut self, backend: Backend) {
        self.backend = backend;
        self.start_again();
    }

    /// Starts the daemon again with a variable in its environment.
    #[track_caller]
    pub fn start_again_with(&mut self, name: &str, value: &str) {
        assert!(self.child.is_none(), "the daemon still runs");
        self.spawn(&[(name.to_owned(), value.to_owned())]);
    }

    /// Stops in order and starts again with another backend, or the same.
    #[track_caller]
    pub fn restart_on(&mut self, backend: Backend) {
        assert!(self.containerd.is_some(), "there is no containerd");
        self.stop();
        self.start_again_on(backend);
    }

    /// Stops in order and starts the programs in another directory, or those under test.
    #[track_caller]
    pub fn restart_from(&mut self, programs: Option<&Path>) {
        self.stop();
        self.programs = programs.map(Path::to_owned);
        self.start_again();
    }

    /// Stops in order and starts again.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    /// Crashes and starts again.
    #[track_caller]
    pub fn crash(&mut self) {
        self.kill9();
        self.start_again();
    }

    /// What a power failure leaves: data on disk. Processes, mounts, control groups, links, packet
    /// rules and the state directory are gone. Only the kernel's boot id stays what it was.
    pub fn power_off(&mut self) {
        self.demolish();
        if let Some(containerd) = &mut self.containerd {
            containerd.power_off();
        }
        let _ = std::fs::remove_dir_all(self.exec_root());
        forward(&self.netns);
        let netns = &self.netns;
        for words in [&["ip", "link", "delete", &self.bridge()][..], &["nft", "flush", "ruleset"]] {
            let _ = netns.command(words[0]).args(&words[1..]).stderr(Stdio::null()).status();
        }
        self.forget_pod_network();
        let _ = std::fs::remove_file(self.path("pid"));
    }

    /// The census of a stopped daemon: what is on disk and in the kernel.
    ///
    /// # Panics
    ///
    /// When the daemon runs.
    #[must_use]
    pub fn census_of_disk(&self) -> Census {
        assert!(self.child.is_none(), "the daemon runs");
        self.census()
    }

    /// Sends a signal to the daemon.
    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// The docker CLI, not yet run, for this daemon and with an empty home.
    #[must_use]
    pub fn docker_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("docker");
        self.client(&mut command, words);
        command
    }

    /// Our CLI, likewise.
    #[must_use]
    pub fn pouch_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program("pouch"));
        self.client(&mut command, words);
        command
    }

    fn client(&self, command: &mut Command, words: &[&str]) {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("DOCKER_") {
                command.env_remove(name);
            }
        }
        command
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .env("HOME", self.path("home"))
            .env_remove("NO_COLOR")
            .env("TERM", "xterm")
            .args(words);
    }

    /// Runs the docker CLI to its end, without input.
    #[must_use]
    pub fn docker(&self, words: &[&str]) -> Outcome {
        run(self.docker_command(words), None)
    }

    /// Runs the docker CLI to its end with this standard input.
    #[must_use]
    pub fn docker_with(&self, words: &[&str], input: &[u8]) -> Outcome {
        run(self.docker_command(words), Some(input))
    }

    /// Runs our CLI to its end, without input.
    #[must_use]
    pub fn pouch(&self, words: &[&str]) -> Outcome {
        run(self.pouch_command(words), None)
    }

    /// Runs our CLI to its end with this standard input.
    #[must_use]
    pub fn pouch_with(&self, words: &[&str], input: &[u8]) -> Outcome {
        run(self.pouch_command(words), Some(input))
    }

    /// Starts the docker CLI on pipes.
    #[must_use]
    pub fn docker_live(&self, words: &[&str]) -> Live {
        Live::piped(self.docker_command(words))
    }

    /// Starts the docker CLI on a terminal.
    #[must_use]
    pub fn docker_terminal(&self, words: &[&str]) -> Live {
        Live::terminal(&self.docker_command(words))
    }

    /// GET over the API.
    #[must_use]
    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, b"")
    }

    /// DELETE over the API.
    #[must_use]
    pub fn delete(&self, path: &str) -> Answer {
        self.request("DELETE", path, b"")
    }

    /// POST of JSON over the API.
    #[must_use]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.request("POST", path, body.as_bytes())
    }

    /// Any request over the API, said to have a JSON body.
    #[must_use]
    pub fn request(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        Connection::send(&self.socket(), method, path, "application/json", body).answer()
    }

    /// Makes the image `name` of a root file system.
    #[track_caller]
    pub fn import(&self, name: &str, archive: &[u8], changes: &[&str]) {
        let mut words = vec!["import"];
        for change in changes {
            words.extend(["--change", change]);
        }
        words.extend(["-", name]);
        self.docker_with(&words, archive).check();
    }

    /// `docker inspect` of a container, as JSON.
    #[track_caller]
    #[must_use]
    pub fn inspect(&self, container: &str) -> Value {
        self.get(&format!("/containers/{container}/json")).is(200).json()
    }

    /// `.State.Status` of a container.
    #[track_caller]
    #[must_use]
    pub fn state(&self, container: &str) -> String {
        self.inspect(container)["State"]["Status"].as_str().unwrap().to_owned()
    }

    /// `.State.Pid` of a container that runs.
    #[track_caller]
    #[must_use]
    pub fn container_pid(&self, container: &str) -> u32 {
        let pid = self.inspect(container)["State"]["Pid"].as_u64().unwrap();
        assert_ne!(pid, 0, "{container} does not run");
        u32::try_from(pid).unwrap()
    }

    /// Calls `work` on a thread in a running container's network namespace.
    pub fn enter_container<T: Send>(&self, container: &str, work: impl FnOnce() -> T + Send) -> T {
        let pid = self.container_pid(container);
        crate::netns::enter(Path::new(&format!("/proc/{pid}/ns/net")), work)
    }

    /// The shim of a container: the parent of its first process.
    #[track_caller]
    #[must_use]
    pub fn shim_pid(&self, container: &str) -> u32 {
        let pid = self.container_pid(container);
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Takes the census now.
    #[must_use]
    pub fn census(&self) -> Census {
        Census::take(&self.places())
    }

    fn places(&self) -> Places<'_> {
        Places {
            dir: self.dir.path(),
            netns: &self.netns,
            cgroup: &self.tag,
            pid: self.child.as_ref().map(Child::id),
        }
    }

    /// The census when two in a row are alike: connections and children of past requests gone.
    pub(crate) fn settled(&self) -> Census {
        let mut last = self.census();
        within(Duration::from_secs(10), "the census settles", || {
            std::thread::sleep(Duration::from_millis(30));
            let now = self.census();
            let same = now == last;
            last = now.clone();
            same.then_some(now)
        })
    }

    /// Removes all containers and volumes, and the images that the test added.
    #[track_caller]
    pub fn clear(&mut self) {
        if !self.is_running() {
            self.spawn(&[]);
        }
        if self.pods {
            self.kubelet().clear();
        }
        let ids = self.docker(&["ps", "-aq", "--no-trunc"]);
        let ids: Vec<&str> = ids.ok().split_whitespace().collect();
        if !ids.is_empty() {
            let words: Vec<&str> = ["rm", "-f", "-v"].into_iter().chain(ids).collect();
            // One that removes itself may be gone by now.
            let _ = self.docker(&words);
        }
        within(Duration::from_secs(20), "all containers are gone", || {
            self.docker(&["ps", "-aq"]).ok().is_empty().then_some(())
        });
        self.docker(&["volume", "prune", "-a", "-f"]).check();
        let list = self.docker(&["images", "-a", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]);
        for line in list.ok().lines().filter(|line| !line.starts_with("busybox:latest ")) {
            let (name, id) = line.split_once(' ').unwrap();
            let unnamed = name.contains("<none>");
            self.docker(&["rmi", "-f", if unnamed { id } else { name }]).check();
        }
    }

    /// Asserts that the census comes back to what it was.
    #[track_caller]
    pub fn assert_nothing_since(&self, before: &Census) {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let difference = self.census().since(before);
            if difference.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "left behind:\n{difference}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asserts that a stopped daemon without containers leaves neither processes nor mounts nor
    /// control groups nor links nor rules.
    #[track_caller]
    pub(crate) fn assert_gone(&self) {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let census = self.census();
            let kinds = ["mount", "process", "cgroup", "rule"];
            let left: String = kinds.iter().map(|kind| census.only(kind).to_string()).collect();
            let links = census.only("link").to_string();
            if left.is_empty() && links == "link lan0\nlink lan1\nlink lo\n" {
                return;
            }
            assert!(Instant::now() < end, "left after the daemon:\n{left}{links}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asserts that nothing of a daemon without containers is left in containerd.
    #[track_caller]
    pub(crate) fn assert_no_shims(&self) {
        if let Some(containerd) = &self.containerd {
            containerd.assert_empty("pouch");
        }
    }

    /// Prints what helps to understand a failure.
    pub(crate) fn dump(&mut self) {
        if self.is_running() {
            // With a limit of its own: the daemon may be what hangs.
            let list = self.docker(&["ps", "-a", "--no-trunc"]);
            println!("--- docker ps -a\n{}{}", list.stdout, list.stderr);
        } else {
            println!("--- the daemon does not run");
        }
        println!("--- end of the daemon's log\n{}", self.log_tail());
    }

    /// Takes away by force whatever there is, for a test that failed.
    pub(crate) fn demolish(&mut self) {
        self.kill9();
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let processes = census::processes(&self.places());
            for (pid, _) in &processes {
                send(*pid, Signal::CONT);
                send(*pid, Signal::KILL);
            }
            if processes.is_empty() || Instant::now() > end {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        for mount in census::mounts(self.dir.path()).iter().rev() {
            let _ = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
        }
        for group in census::cgroups(&self.tag).iter().rev() {
            let _ = std::fs::remove_dir(group);
        }
        for root in census::hierarchies() {
            let _ = std::fs::remove_dir(root.join(&self.tag));
        }
    }
}

/// Whether tests are to run over a containerd: `POUCH_E2E_BACKEND=remote`.
pub(crate) fn remote() -> bool {
    std::env::var_os("POUCH_E2E_BACKEND").is_some_and(|backend| backend == "remote")
}

/// Lets a namespace forward, whatever it took over from the host: who comes to need it first, and
/// whether a network is in use when files are counted, must not matter to what a test finds.
fn forward(netns: &Netns) {
    netns.enter(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")).unwrap();
}

/// Sends a signal; the process may be gone.
fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Runs a client of [`Daemon::docker_command`] to its end, without input.
#[must_use]
pub fn to_its_end(command: Command) -> Outcome {
    run(command, None)
}

/// Runs a client to its end. A hanging one is killed after a minute, which exits with 124.
fn run(command: Command, input: Option<&[u8]>) -> Outcome {
    let shown = format!(
        "{} {}",
        Path::new(command.get_program()).file_name().unwrap_or_default().display(),
        command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    );
    let mut limited = Command::new("timeout");
    limited.args(["-k", "5", COMMAND]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(key, value),
            None => limited.env_remove(key),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        limited.current_dir(dir);
    }
    limited.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child =
        limited.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a client program");
    let output = std::thread::scope(|scope| {
        if let (Some(mut pipe), Some(bytes)) = (child.stdin.take(), input) {
            // A client may end before it has read everything.
            scope.spawn(move || drop(std::io::Write::write_all(&mut pipe, bytes)));
        }
        child.wait_with_output().unwrap()
    });
    Outcome::new(shown, &output)
}
