//! A file system that stops answering, as a network one does when its server is gone: what waits
//! for it ends with its stage named, and nothing else waits.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pouch_testkit::{Daemon, Live, daemon, within};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::never_hangs::times;

/// What a look must never take. The requirement is 50 ms; the rest is for a machine under load.
const LOOK: Duration = Duration::from_secs(1);
/// What an operation on the stuck file system may take to say so.
const PATIENCE: Duration = Duration::from_secs(55);

/// Operations of `linux/fuse.h`.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const BATCH_FORGET: u32 = 42;
const ENOENT: i32 = 2;
const ENOSYS: i32 = 38;

/// An empty directory served over the kernel's own protocol. Once it hangs it takes requests and
/// answers none, which is worse than not taking them: who waits cannot even be killed. Goes when
/// dropped, and with it every wait.
struct Server {
    at: PathBuf,
    hangs: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn mount(at: PathBuf) -> Self {
        std::fs::create_dir(&at).unwrap();
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0\0", device.as_raw_fd());
        let data = std::ffi::CStr::from_bytes_with_nul(data.as_bytes()).unwrap();
        mount("stuck", &at, "fuse", MountFlags::NOSUID | MountFlags::NODEV, data).unwrap();
        let (hangs, ends) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (hung, ended) = (Arc::clone(&hangs), Arc::clone(&ends));
        let thread = std::thread::spawn(move || serve(device, &hung, &ended));
        // Its first answers are in before anybody is made to wait.
        assert_eq!(std::fs::read_dir(&at).unwrap().count(), 0);
        Self { at, hangs, ends, thread: Some(thread) }
    }

    fn hang(&self) {
        self.hangs.store(true, Ordering::SeqCst);
    }

    fn path(&self) -> &str {
        self.at.to_str().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        // With the thread the device is closed, and the kernel fails what waits.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = unmount(&self.at, UnmountFlags::DETACH);
    }
}

fn serve(mut device: File, hangs: &AtomicBool, ends: &AtomicBool) {
    let mut request = vec![0; 1 << 17];
    while !ends.load(Ordering::SeqCst) {
        let tick = rustix::time::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        let mut ready = [PollFd::new(&device, PollFlags::IN)];
        if poll(&mut ready, Some(&tick)) == Ok(0) {
            continue;
        }
        let Ok(length) = device.read(&mut request) else { return };
        let number = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let (operation, unique) = (number(4), &request[8..16]);
        if length < 40 || matches!(operation, FORGET | BATCH_FORGET) {
            continue;
        }
        if hangs.load(Ordering::SeqCst) {
            continue;
        }
        let (error, body) = match operation {
            INIT => (0, init()),
            GETATTR => (0, attributes()),
            OPENDIR => (0, vec![0; 16]),
            READDIR | RELEASEDIR => (0, Vec::new()),
            LOOKUP => (-ENOENT, Vec::new()),
            _ => (-ENOSYS, Vec::new()),
        };
        let total = u32::try_from(16 + body.len()).unwrap();
        let answer = [&total.to_ne_bytes()[..], &i32::to_ne_bytes(error), unique, &body].concat();
        let _ = device.write(&answer);
    }
}

/// `struct fuse_init_out` of protocol 7.31.
fn init() -> Vec<u8> {
    let words = [7_u32, 31, 0, 0, 0, 65536, 1];
    let mut body: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    body.resize(64, 0);
    body
}

/// `struct fuse_attr_out`: a directory whose attributes are asked for each time.
fn attributes() -> Vec<u8> {
    let mut body = vec![0; 104];
    body[16] = 1;
    body[76..80].copy_from_slice(&0o040_755_u32.to_ne_bytes());
    body[80] = 2;
    body
}

/// Asserts that looking at everything is quick, and prints how quick: the median of 21 requests.
fn looks_are_quick(d: &Daemon, paths: &[&str]) {
    for path in paths {
        let times = times(d, path);
        println!("{path}: median {:?}, longest {:?}", times[10], times[20]);
        assert!(times[20] < LOOK, "{path} takes {:?}", times[20]);
    }
}

/// Waits for the end of a command that must fail and say each of the words.
#[track_caller]
fn fails_saying(command: &mut Live, words: &[&str]) {
    within(PATIENCE, "the command ends", || (!command.is_running()).then_some(()));
    assert_ne!(command.wait(), 0);
    let said = command.output();
    assert!(words.iter().all(|word| said.contains(word)), "{words:?} not in: {said}");
}

#[test]
fn a_bind_source_that_never_answers_fails_its_container_alone() {
    daemon(|d| {
        d.docker(&["run", "-d", "--name", "fine", "busybox", "sleep", "600"]).check();
        let server = Server::mount(d.path("stuck"));
        server.hang();
        let flag = format!("{}:/m", server.path());
        let mount = format!("type=bind,src={},dst=/m", server.path());
        let mut run = d.docker_live(&["run", "--name", "box", "-v", &flag, "busybox", "true"]);
        // More than the daemon has threads for requests.
        let mut creates: Vec<_> = (0..8)
            .map(|_| d.docker_live(&["create", "--mount", &mount, "busybox", "true"]))
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        let paths = ["/_ping", "/containers/json?all=1", "/containers/fine/json", "/volumes"];
        looks_are_quick(d, &paths);
        assert_eq!(d.docker(&["exec", "fine", "echo", "in"]).ok(), "in");
        assert_eq!(d.docker(&["run", "--rm", "busybox", "echo", "new"]).ok(), "new");
        assert!(run.is_running());
        for create in &mut creates {
            fails_saying(create, &[server.path(), "did not answer within"]);
        }
        fails_saying(&mut run, &[server.path(), "did not answer within"]);
        d.docker(&["rm", "box"]).check();
        drop(server);
        assert_eq!(d.docker(&["run", "--rm", "busybox", "echo", "after"]).ok(), "after");
    });
}

#[test]
fn a_volume_that_stops_answering_under_its_container_holds_up_nobody() {
    daemon(|d| {
        let server = Server::mount(d.path("stuck"));
        let device = format!("device={}", server.path());
        d.docker(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "vol"])
            .check();
        let sleep = |name: &str, options: &[&str]| {
            let words = ["run", "-d", "--name", name];
            d.docker(&[&words[..], options, &["busybox", "sleep", "600"]].concat()).check();
        };
        sleep("user", &["-v", "vol:/m"]);
        sleep("fine", &[]);
        sleep("frozen", &[]);
        let trap = "trap '' TERM; while :; do sleep 0.1; done";
        d.docker(&["run", "-d", "--name", "stubborn", "busybox", "sh", "-c", trap]).check();
        // Three things hang at once: a file system, a shim, and a stop that waits.
        server.hang();
        let shim = Pid::from_raw(d.shim_pid("frozen").cast_signed()).unwrap();
        kill_process(shim, Signal::STOP).unwrap();
        let mut list = d.docker_live(&["exec", "user", "ls", "/m"]);
        let mut second =
            d.docker_live(&["run", "--name", "second", "-v", "vol:/m", "busybox", "ls", "/m"]);
        let mut long = d.docker_live(&["stop", "-t", "60", "stubborn"]);
        std::thread::sleep(Duration::from_millis(500));
        let paths = [
            "/_ping",
            "/info",
            "/containers/json?all=1",
            "/containers/user/json",
            "/containers/fine/json",
            "/containers/frozen/json",
            "/containers/stubborn/json",
            "/volumes",
            "/volumes/vol",
            "/images/json",
        ];
        looks_are_quick(d, &paths);
        assert_eq!(d.docker(&["exec", "fine", "echo", "in"]).ok(), "in");
        assert_eq!(d.docker(&["run", "--rm", "busybox", "echo", "new"]).ok(), "new");
        assert!(list.is_running() && long.is_running());
        // The listing cannot even be killed; the stop ends all the same, and says why it failed or
        // that the engine let go of the container.
        let began = Instant::now();
        let stop = d.docker(&["stop", "-t", "1", "user"]);
        println!("stop: {:?} after {:?}", stop, began.elapsed());
        assert_ne!(stop.code(), 124, "the stop hangs");
        if stop.code() != 0 {
            stop.says("after SIGKILL");
        }
        looks_are_quick(d, &paths);
        d.docker(&["kill", "stubborn"]).check();
        assert_eq!(long.wait(), 0);
        kill_process(shim, Signal::CONT).unwrap();
        drop(server);
        // Whatever waited goes on.
        within(PATIENCE, "what waited ends", || {
            (!list.is_running() && !second.is_running()).then_some(())
        });
        d.docker(&["rm", "-f", "user", "second"]).check();
        assert_eq!(d.docker(&["run", "--rm", "busybox", "echo", "after"]).ok(), "after");
    });
}

#[test]
fn a_daemon_comes_back_although_a_volume_does_not_answer() {
    daemon(|d| {
        let server = Server::mount(d.path("stuck"));
        let device = format!("device={}", server.path());
        d.docker(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "vol"])
            .check();
        let flag = format!("{}:/b", server.path());
        let words = ["run", "-d", "--name", "user", "-v", "vol:/m", "-v", &flag];
        d.docker(&[&words[..], &["busybox", "sleep", "600"]].concat()).check();
        server.hang();
        d.kill9();
        let began = Instant::now();
        d.start_again();
        println!("answers after {:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(3), "answers after {:?}", began.elapsed());
        looks_are_quick(d, &["/_ping", "/containers/json?all=1", "/containers/user/json"]);
        // And it ends when told to.
        d.restart();
        assert_eq!(d.state("user"), "running");
        drop(server);
        d.docker(&["rm", "-f", "user"]).check();
    });
}

/// The fixture itself: it answers at first, and what it holds up is let go with it.
#[test]
fn the_server_of_these_tests_hangs_and_lets_go() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        println!("skipped: needs root and /dev/fuse");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("stuck");
    let server = Server::mount(at.clone());
    assert!(std::fs::metadata(&at).unwrap().is_dir());
    server.hang();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(std::fs::read_dir(&at).is_ok()));
    assert!(receiver.recv_timeout(Duration::from_millis(300)).is_err(), "it answers");
    drop(server);
    assert!(!receiver.recv_timeout(Duration::from_secs(5)).unwrap());
}
