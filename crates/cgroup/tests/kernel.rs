//! The crate against the running kernel, whatever layout it has. Needs root; each test works in a
//! group of its own below `/pouch-test-<pid>-<name>` and removes it.

#![expect(clippy::unwrap_used, reason = "the rig of a test fails like a test")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pouch_cgroup::parent::{ensure_parent, remove_empty_parent};
use pouch_cgroup::{Cgroup, Error, Frozen, Layout, Mode};
use pouch_types::spec::Resources;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// A parent and one group in it; gone, with its processes, when dropped.
struct Rig {
    layout: Arc<Layout>,
    parent: String,
    group: Cgroup,
}

impl Rig {
    /// `None`, said why, where the machine does not let us.
    fn new(name: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let layout = match Layout::detect() {
            Ok(layout) => layout,
            Err(error) => {
                eprintln!("skipped: {error}");
                return None;
            }
        };
        let parent = format!("/pouch-test-{}-{name}", std::process::id());
        if let Err(error) = ensure_parent(&layout, &parent) {
            eprintln!("skipped: cgroups cannot be made here: {error}");
            return None;
        }
        let group = Cgroup::new(&layout, &format!("{parent}/one")).unwrap();
        group.create().unwrap();
        Some(Self { layout, parent, group })
    }

    /// A shell in the group; its script starts only after it was moved there.
    fn spawn(&self, script: &str) -> Child {
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        self.group.add(child.id()).unwrap();
        drop(child.stdin.take());
        child
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.group.kill_all(soon());
        let _ = self.group.remove(soon());
        let _ = remove_empty_parent(&self.layout, &self.parent);
    }
}

fn line(child: &mut Child) -> String {
    let mut text = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut text).unwrap();
    text.trim().to_owned()
}

#[test]
fn processes_are_found_frozen_and_killed() {
    let Some(rig) = Rig::new("kill") else { return };
    let mut child = rig.spawn("sleep 300 & sleep 300 & echo ready; wait");
    assert_eq!(line(&mut child), "ready");
    let pids = rig.group.pids().unwrap();
    assert_eq!(pids.len(), 3, "{pids:?}");
    assert!(pids.contains(&child.id()));

    let found = Cgroup::of_pid(&rig.layout, child.id()).unwrap();
    assert_eq!(found.path(), rig.group.path());
    assert_eq!(found.pids().unwrap(), pids);

    assert_eq!(rig.group.frozen().unwrap(), Frozen::No);
    rig.group.freeze(soon()).unwrap();
    rig.group.freeze(soon()).unwrap();
    assert_eq!(rig.group.frozen().unwrap(), Frozen::Yes);

    // What is frozen dies too, and is not left frozen.
    rig.group.kill_all(soon()).unwrap();
    assert!(rig.group.pids().unwrap().is_empty());
    assert!(!child.wait().unwrap().success());
    rig.group.thaw(soon()).unwrap();
    assert_eq!(rig.group.frozen().unwrap(), Frozen::No);

    rig.group.remove(soon()).unwrap();
    assert!(!rig.group.exists());
    rig.group.remove(soon()).unwrap();
    rig.group.kill_all(soon()).unwrap();
    assert!(matches!(rig.group.pids(), Err(Error::NotFound(_))));
    assert!(matches!(rig.group.stats(), Err(Error::NotFound(_))));
    assert!(remove_empty_parent(&rig.layout, &rig.parent).unwrap());
}

/// The same machine, as if it had only the unified hierarchy: a root of our own whose mountinfo
/// names nothing else.
#[test]
fn the_unified_hierarchy_alone() {
    let Some(rig) = Rig::new("unified") else { return };
    let real = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .into_iter()
        .find(|path| std::path::Path::new(path).join("cgroup.controllers").exists());
    let Some(real) = real else {
        eprintln!("skipped: no cgroup2 mount");
        return;
    };
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("proc/self")).unwrap();
    std::fs::write(root.path().join("proc/self/mountinfo"), "1 1 0:1 / /cg rw - cgroup2 c rw\n")
        .unwrap();
    std::os::unix::fs::symlink(real, root.path().join("cg")).unwrap();
    let layout = Layout::detect_under(root.path()).unwrap();
    assert_eq!(layout.mode(), Mode::V2);
    let group = Cgroup::new(&layout, rig.group.path()).unwrap();

    let mut child = rig.spawn("sleep 300 & echo ready; wait");
    assert_eq!(line(&mut child), "ready");
    assert_eq!(group.pids().unwrap().len(), 2);
    group.freeze(soon()).unwrap();
    assert_eq!(group.frozen().unwrap(), Frozen::Yes);
    group.thaw(soon()).unwrap();
    assert_eq!(group.frozen().unwrap(), Frozen::No);
    assert!(group.stats().unwrap().cpu.total > 0);
    group.freeze(soon()).unwrap();
    group.kill_all(soon()).unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(group.pids().unwrap().is_empty());
    group.thaw(soon()).unwrap();
}

#[test]
fn a_fork_bomb_is_killed() {
    let Some(rig) = Rig::new("fork") else { return };
    rig.group.update(&Resources { pids_limit: Some(200), ..Resources::default() }).unwrap();
    let mut child =
        rig.spawn("echo ready; f() { while :; do f & sleep 0.01; done; }; f 2>/dev/null");
    assert_eq!(line(&mut child), "ready");
    // Soon: at the limit a fork fails, and a shell that cannot fork ends.
    while rig.group.pids().unwrap().len() <= 5 {
        assert!(child.try_wait().unwrap().is_none(), "the bomb is over");
        std::thread::sleep(Duration::from_millis(1));
    }
    rig.group.kill_all(Instant::now() + Duration::from_secs(60)).unwrap();
    assert!(rig.group.pids().unwrap().is_empty());
    child.wait().unwrap();
}

#[test]
fn a_group_with_processes_is_not_removed() {
    let Some(rig) = Rig::new("busy") else { return };
    let mut child = rig.spawn("echo ready; sleep 300");
    assert_eq!(line(&mut child), "ready");
    let short = Instant::now() + Duration::from_millis(50);
    assert!(matches!(rig.group.remove(short), Err(Error::Deadline { stage: "remove", .. })));
    assert!(!remove_empty_parent(&rig.layout, &rig.parent).unwrap());
    rig.group.kill_all(soon()).unwrap();
    child.wait().unwrap();
}

#[test]
fn use_is_counted() {
    let Some(rig) = Rig::new("stats") else { return };
    let mut child =
        rig.spawn("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo ready; sleep 300");
    assert_eq!(line(&mut child), "ready");
    let stats = rig.group.stats().unwrap();
    assert!(stats.cpu.total > 1_000_000, "{:?}", stats.cpu);
    assert!(stats.cpu.user > 0);
    if rig.layout.has("memory") {
        assert!(stats.memory.usage > 0);
        assert_eq!(stats.memory.limit, None);
        assert!(stats.memory.stat.contains_key("inactive_file"));
        assert!(stats.memory.working_set() <= stats.memory.usage);
    }
    if rig.layout.has("pids") {
        assert!((1..=2).contains(&stats.pids.current), "{:?}", stats.pids);
    }
    rig.group.kill_all(soon()).unwrap();
    child.wait().unwrap();
}

#[test]
fn limits_move_both_ways() {
    let Some(rig) = Rig::new("limits") else { return };
    let support = rig.layout.support();
    const MIB: u64 = 1 << 20;
    let with = |memory: u64, swap: i64| {
        let mut limits = Resources {
            memory: Some(memory * MIB),
            memory_swap: Some(swap),
            cpu_shares: Some(512),
            nano_cpus: Some(500_000_000),
            pids_limit: Some(77),
            ..Resources::default()
        };
        support.clamp(&mut limits);
        limits
    };
    let mib = |count: u64| i64::try_from(count * MIB).unwrap();
    for (memory, swap) in [(64, mib(128)), (256, mib(512)), (32, mib(32)), (128, -1), (16, mib(24))]
    {
        let limits = with(memory, swap);
        rig.group.update(&limits).unwrap_or_else(|error| {
            panic!("{memory} {swap}: {}", pouch_types::error::chain(&error))
        });
        let stats = rig.group.stats().unwrap();
        if support.memory {
            assert_eq!(stats.memory.limit, Some(memory * MIB));
        }
        if support.swap && !stats.unified {
            assert_eq!(stats.memory.swap_limit, u64::try_from(swap).ok());
        }
        if support.pids {
            assert_eq!(stats.pids.limit, Some(77));
        }
    }
    let unlimited = Resources { pids_limit: Some(-1), cpu_quota: Some(-1), ..Resources::default() };
    rig.group.update(&unlimited).unwrap();
    assert_eq!(rig.group.stats().unwrap().pids.limit, None);
}

#[test]
fn an_oom_kill_is_counted_and_announced() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let Some(rig) = Rig::new("oom") else { return };
    let support = rig.layout.support();
    if !support.memory {
        eprintln!("skipped: no memory controller");
        return;
    }
    let mut limits =
        Resources { memory: Some(16 << 20), memory_swap: Some(16 << 20), ..Resources::default() };
    support.clamp(&mut limits);
    rig.group.update(&limits).unwrap();
    assert_eq!(rig.group.oom_kills().unwrap(), Some(0));
    let watch = rig.group.oom_watch().unwrap().expect("a memory controller");

    // The shell itself grows, as nothing else in the group does.
    let mut child = rig.spawn("x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done");
    let mut fds = [PollFd::new(&watch, PollFlags::IN)];
    let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
    assert_eq!(poll(&mut fds, Some(&limit)).unwrap(), 1, "no announcement");
    assert!(!child.wait().unwrap().success());
    watch.drain().unwrap();
    watch.drain().unwrap();
    assert_eq!(rig.group.oom_kills().unwrap(), Some(1));
    assert_eq!(rig.group.stats().unwrap().memory.oom_kills, 1);
}

#[test]
fn refusals_name_the_field() {
    let Some(rig) = Rig::new("refused") else { return };
    if rig.layout.has("cpuset") {
        let far = Resources { cpuset_cpus: Some("8000".into()), ..Resources::default() };
        match rig.group.update(&far) {
            Err(Error::Refused { field: "cpuset_cpus", .. }) => {}
            // v2 takes any number and runs on what is there.
            Ok(()) => assert!(rig.group.stats().unwrap().unified),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(Cgroup::new(&rig.layout, "/"), Err(Error::BadPath(_))));
    assert!(matches!(ensure_parent(&rig.layout, "/a/../b"), Err(Error::BadPath(_))));
}

#[test]
fn pressure_is_what_the_kernel_prints() {
    let Some(rig) = Rig::new("pressure") else { return };
    if std::fs::read("/proc/pressure/cpu").is_err() || rig.layout.mode() == Mode::V1 {
        eprintln!("skipped: this kernel counts no pressure of groups");
        return;
    }
    let pressure = rig.group.stats().unwrap().pressure;
    for (name, one) in [("cpu", pressure.cpu), ("memory", pressure.memory), ("io", pressure.io)] {
        let one = one.unwrap_or_else(|| panic!("{name}"));
        assert!(one.full.is_some_and(|full| full.total <= one.some.total), "{name}");
    }
}
