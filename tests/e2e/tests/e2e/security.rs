//! Incidents of the field, tried on this engine: each test says which (`SEC-nn`), and passes when
//! the attempt fails or is harmless and nothing of the host is read, made or changed.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pouch_testkit::{Archive, Connection, Daemon, daemon, docker_archive, eventually};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use serde_json::json;

/// What a race may take.
const RACE: Duration = Duration::from_secs(3);
const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// A part of the host that nothing may touch, and the kernel's core pattern, the classic way out.
struct Canary {
    dir: PathBuf,
    before: Vec<String>,
    core: String,
}

impl Canary {
    fn new(d: &Daemon) -> Self {
        let dir = d.path("canary");
        std::fs::create_dir_all(dir.join("d")).unwrap();
        std::fs::write(dir.join("secret"), "the host's\n").unwrap();
        rustix::fs::chmod(dir.join("secret"), Mode::RUSR | Mode::WUSR).unwrap();
        let core = std::fs::read_to_string(CORE_PATTERN).unwrap();
        Self { before: survey(&dir), dir, core }
    }

    fn path(&self) -> &str {
        self.dir.to_str().unwrap()
    }

    #[track_caller]
    fn is_intact(&self) {
        let core = std::fs::read_to_string(CORE_PATTERN).unwrap();
        if core != self.core {
            // The machine is worth more than the evidence.
            std::fs::write(CORE_PATTERN, &self.core).unwrap();
            panic!("the core pattern became {core}");
        }
        assert_eq!(survey(&self.dir), self.before);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.path()), "mounted on the host: {mounts}");
    }
}

/// Every entry with what could have changed of it.
fn survey(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let m = std::fs::symlink_metadata(&path).unwrap();
        let (name, time) = (path.display(), (m.mtime(), m.mtime_nsec(), m.ctime_nsec()));
        lines.push(format!("{name} {:o} {}:{} {time:?}", m.mode(), m.uid(), m.gid()));
        if m.is_dir() {
            lines.extend(survey(&path));
        } else {
            lines.push(std::fs::read_to_string(&path).unwrap());
        }
    }
    lines
}

/// Swaps two names of a directory again and again while `work` runs on some threads, until the
/// race's time is over.
fn race(dir: &Path, names: (&str, &str), work: impl Fn() + Sync) {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let at = rustix::fs::openat(CWD, dir, flags, Mode::empty()).unwrap();
    let (over, rounds) = (AtomicBool::new(false), AtomicU32::new(0));
    let swap = || {
        let (a, b) = names;
        let mut swaps = 0_u64;
        while !over.load(Ordering::Relaxed) {
            rustix::fs::renameat_with(&at, a, &at, b, RenameFlags::EXCHANGE).unwrap();
            swaps += 1;
            // Leaves the other side some of the machine, and each name some time.
            std::thread::sleep(Duration::from_micros(20));
        }
        swaps
    };
    let began = Instant::now();
    let run = || {
        while began.elapsed() < RACE {
            work();
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    };
    let swaps = std::thread::scope(|scope| {
        let swapper = scope.spawn(swap);
        let runners: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        let ends: Vec<_> = runners.into_iter().map(|runner| runner.join()).collect();
        over.store(true, Ordering::Relaxed);
        for end in ends {
            end.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        swapper.join().unwrap()
    });
    println!("{} rounds against {swaps} swaps", rounds.load(Ordering::Relaxed));
    assert!(swaps > 1000);
}

/// The host's path of a volume's content.
fn volume(d: &Daemon, name: &str) -> PathBuf {
    d.docker(&["volume", "create", name]).check();
    let answer = d.get(&format!("/volumes/{name}")).is(200).json();
    PathBuf::from(answer["Mountpoint"].as_str().unwrap())
}

fn sleeper(d: &Daemon, name: &str, options: &[&str]) {
    let words = ["run", "-d", "--name", name];
    d.docker(&[&words[..], options, &["busybox", "sleep", "600"]].concat()).check();
}

/// All that the daemon says to an archive, or to a request for one, before it closes the connection:
/// what vanishes while it is packed cuts the answer off, even before its head.
fn said(d: &Daemon, method: &str, path: &str, archive: &[u8]) -> String {
    let kind = "application/x-tar";
    let mut stream = Connection::send(&d.socket(), method, path, kind, archive).stream;
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    String::from_utf8_lossy(&all).into_owned()
}

/// Kilobytes that the daemon has in memory.
fn memory(d: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", d.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// SEC-02: a working directory behind a descriptor, named directly or by a link of the image, while
/// the daemon has hundreds of descriptors open.
#[test]
fn no_descriptor_leads_a_working_directory_out() {
    daemon(|d| {
        let mut archive = Archive::busybox();
        for n in 0..24 {
            archive.link(&format!("w{n}"), &format!("/proc/self/fd/{n}"));
        }
        d.import("links", &archive.finish(), &[]);
        let idle: Vec<_> = (0..300)
            .map(|_| Connection::raw(&d.socket(), b"GET /events HTTP/1.1\r\nHost: p\r\n\r\n"))
            .collect();
        d.docker(&["run", "-d", "--name", "box", "links", "sleep", "600"]).check();
        let list = d.docker(&["exec", "box", "sh", "-c", "exec ls /proc/self/fd"]);
        // ls has the directory itself open as 3.
        assert_eq!(list.ok().split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
        let out = "ls -d /proc/self/cwd/../../../../../../etc/shadow; pwd";
        for n in 3..24 {
            for workdir in [format!("/proc/self/fd/{n}"), format!("/w{n}")] {
                let exec = d.docker(&["exec", "-w", &workdir, "box", "sh", "-c", out]);
                assert_ne!(exec.code(), 0, "{workdir}: {}", exec.stdout);
            }
        }
        for n in [3, 5, 7, 8, 9, 10, 11, 12] {
            let run = d.docker(&["run", "--rm", "-w", &format!("/w{n}"), "links", "sh", "-c", out]);
            assert_ne!(run.code(), 0, "/w{n}: {}", run.stdout);
        }
        drop(idle);
    });
}

/// SEC-03: `/dev/null` of a shared volume swapped for a link to the core pattern while containers
/// start that hide paths behind it.
#[test]
fn a_swapped_null_device_hides_nothing_behind_a_file_of_the_host() {
    daemon(|d| {
        let canary = Canary::new(d);
        let dev = volume(d, "dev");
        let kind = rustix::fs::FileType::CharacterDevice;
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(CWD, dev.join("null"), kind, mode, rustix::fs::makedev(1, 3)).unwrap();
        std::os::unix::fs::symlink(CORE_PATTERN, dev.join("link")).unwrap();
        let script = "for f in /proc/timer_list /proc/keys /proc/interrupts /dev/null; do \
                      echo '|/intruder' > $f; done 2>/dev/null; true";
        race(&dev, ("null", "link"), || {
            let words = ["run", "--rm", "-v", "dev:/dev", "busybox", "sh", "-c", script];
            // Refused, or started with the true device: both are fine.
            let _ = d.docker(&words);
            canary.is_intact();
        });
    });
}

/// SEC-04: the terminal's node swapped for a link out while containers with terminals start.
#[test]
fn a_swapped_terminal_mounts_nothing_of_the_host() {
    daemon(|d| {
        let canary = Canary::new(d);
        let dev = volume(d, "dev");
        std::fs::create_dir(dev.join("pts")).unwrap();
        std::fs::write(dev.join("console"), "").unwrap();
        std::os::unix::fs::symlink(CORE_PATTERN, dev.join("link")).unwrap();
        let script = "echo '|/intruder' > /dev/console; echo '|/intruder' > /dev/pts/0; true";
        race(&dev, ("console", "link"), || {
            let words = ["run", "--rm", "-t", "-v", "dev:/dev", "busybox", "sh", "-c", script];
            let _ = d.docker(&words);
            canary.is_intact();
        });
        std::fs::remove_file(dev.join("link")).unwrap();
        std::os::unix::fs::symlink(canary.path(), dev.join("link")).unwrap();
        race(&dev, ("pts", "link"), || {
            let words = ["run", "--rm", "-t", "-v", "dev:/dev", "busybox", "sh", "-c", script];
            let _ = d.docker(&words);
            canary.is_intact();
        });
    });
}

/// SEC-05, SEC-09: nothing is mounted over or into procfs, so no write to it goes elsewhere; a
/// sysctl of the container arrives in its own procfs.
#[test]
fn nothing_is_put_over_proc() {
    daemon(|d| {
        d.docker(&["volume", "create", "vol"]).check();
        for destination in
            ["/proc", "/proc/self", "/proc/self/attr", "/proc/sys", "/proc/sys/net", "/x/../proc"]
        {
            let bind = format!("vol:{destination}");
            d.docker(&["create", "-v", &bind, "busybox"]).exits(1);
            d.docker(&["create", "--tmpfs", destination, "busybox"]).exits(1);
        }
        let refused = d.docker(&["create", "-v", "vol:/proc/self/attr", "busybox"]);
        refused.fails_with("inside /proc");
        let mut archive = Archive::busybox();
        archive.link("indirect", "proc").link("sysdir", "sys");
        d.import("links", &archive.finish(), &[]);
        // Over a link of the image that leads into procfs: an error, or procfs as it should be.
        let script = "ls /proc/self/attr/current && cat /proc/sys/net/ipv4/ip_forward";
        for destination in ["/indirect", "/indirect/self/attr", "/indirect/sys"] {
            let bind = format!("vol:{destination}");
            let sysctl = ["--sysctl", "net.ipv4.ip_forward=0"];
            let words = [&["run", "--rm", "-v", &bind], &sysctl[..]].concat();
            let run = d.docker(&[&words[..], &["links", "sh", "-c", script]].concat());
            if run.code() == 0 {
                assert!(run.stdout.ends_with("\n0\n"), "{destination}: {}", run.stdout);
            } else {
                assert_eq!(run.code(), 125, "{destination}: {run:?}");
            }
        }
        // A part of sysfs may be covered, but what is hidden stays hidden.
        let hidden = "ls /sys/firmware | wc -l; echo x > /sys/kernel/x";
        let words = ["run", "--rm", "-v", "vol:/sys/fs/bpf", "busybox", "sh", "-c", hidden];
        let run = d.docker(&words);
        if run.code() != 125 {
            assert!(run.stdout == "0\n" && run.stderr.contains("ead-only"), "{run:?}");
        }
        let mut archive = Archive::new();
        archive.dir("bin", 0o755).link("proc", "/bin").dir("dev", 0o755).dir("sys", 0o755);
        archive.file("bin/busybox", 0o755, &std::fs::read("/bin/busybox").unwrap());
        archive.link("bin/sh", "busybox");
        d.import("moved", &archive.finish(), &[]);
        let run = d.docker(&["run", "--rm", "moved", "/proc/sh", "-c", "echo in"]);
        assert_ne!(run.stdout, "in\n", "procfs is missing");
    });
}

/// SEC-06, SEC-07: the engine's own mount points and files in `/dev` are links of the image or of a
/// volume, for each way to have standard streams.
#[test]
fn links_in_place_of_devices_make_nothing_on_the_host() {
    daemon(|d| {
        let canary = Canary::new(d);
        let up = format!("{}{}", "../".repeat(20), &canary.path()[1..]);
        for target in [canary.path(), &up] {
            let mut archive = Archive::busybox();
            archive.link("dev/pts", target).link("dev/shm", target).link("dev/mqueue", target);
            archive.link("dev/console", &format!("{target}/made"));
            archive.link("dev/null", &format!("{target}/secret"));
            archive.link("dev/stdin", &format!("{target}/secret"));
            archive.link("var/lib", target).link("mnt", target);
            d.import("links", &archive.finish(), &[]);
            let dev = volume(d, "dev");
            for (name, to) in [("console", "made"), ("null", "secret"), ("pts", ""), ("shm", "")] {
                std::os::unix::fs::symlink(format!("{target}/{to}"), dev.join(name)).unwrap();
            }
            let script =
                "echo x > /dev/null; echo x > /dev/console; touch /dev/shm/x /dev/pts/x; true";
            for streams in ["-t", "-i", "-d"] {
                for mount in [&[][..], &["-v", "dev:/dev"], &["-v", "dev:/mnt/d"]] {
                    let words = [&["run", streams][..], mount, &["links", "sh", "-c", script]];
                    let _ = d.docker(&words.concat());
                    canary.is_intact();
                }
            }
            let ids = d.docker(&["ps", "-aq"]);
            let ids: Vec<&str> = ids.ok().split_whitespace().collect();
            d.docker(&[&["rm", "-f"][..], &ids].concat()).check();
            d.docker(&["volume", "rm", "dev"]).check();
        }
        canary.is_intact();
    });
}

/// SEC-08: what restores a container is refused by name, and a read-only bind is read-only for
/// everybody who has it from the container's first moment on.
#[test]
fn checkpoints_are_refused_and_read_only_binds_are_never_writable() {
    daemon(|d| {
        sleeper(d, "box", &[]);
        let answer = d.post("/containers/box/checkpoints", &json!({"CheckpointID": "../x"}));
        assert!([400, 501].contains(&answer.status), "{} {}", answer.status, answer.text());
        d.docker(&["create", "--name", "other", "busybox", "true"]).check();
        let answer = d.post("/containers/other/start?checkpoint=x", &json!(null));
        assert!([400, 501].contains(&answer.status), "{} {}", answer.status, answer.text());
        assert!(answer.message().contains("checkpoint"), "{}", answer.text());

        let canary = Canary::new(d);
        // What the host looks at for the whole of a start: the mount table of the first process.
        let bind = format!("{}:/ro:ro", canary.path());
        let script = "echo x > /ro/secret; touch /ro/new /ro/d/new; mount -o remount,rw /ro";
        for _ in 0..5 {
            let run = d.docker(&["run", "--rm", "-v", &bind, "busybox", "sh", "-c", script]);
            assert_ne!(run.code(), 0);
        }
        canary.is_intact();
    });
}

/// SEC-10: a mount point in a shared volume swapped for a link to the host while containers start
/// that mount something there.
#[test]
fn a_swapped_mount_point_in_a_shared_volume_never_leads_out() {
    daemon(|d| {
        let canary = Canary::new(d);
        let shared = volume(d, "shared");
        std::fs::create_dir(shared.join("dst")).unwrap();
        std::os::unix::fs::symlink(canary.path(), shared.join("link")).unwrap();
        let source = d.path("source");
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("mine"), "mine\n").unwrap();
        let bind = |to: &str| format!("{}:/vol/{to}", source.display());
        let (direct, deeper) = (bind("dst"), bind("dst/sub/deep"));
        let started = AtomicU32::new(0);
        race(&shared, ("dst", "link"), || {
            for bind in [&direct, &deeper] {
                let words = ["run", "--rm", "-v", "shared:/vol", "-v", bind, "busybox"];
                let look = ["sh", "-c", "cat /vol/dst/secret; cat /vol/dst/mine"];
                let run = d.docker(&[&words[..], &look].concat());
                assert!(!run.stdout.contains("the host's"), "{run:?}");
                started.fetch_add(u32::from(run.stdout.contains("mine")), Ordering::Relaxed);
            }
            canary.is_intact();
        });
        let started = started.into_inner();
        println!("{started} containers had their mount where they asked for it");
    });
}

/// SEC-11: more than 64 KiB of what the runtime hands to the container's first process.
#[test]
fn large_settings_arrive_whole_or_are_refused() {
    daemon(|d| {
        let long = "x".repeat(100_000);
        let words = ["run", "--rm", "-e", &format!("A={long}"), "-e", &format!("B={long}")];
        let look = ["sh", "-c", "echo ${#A} ${#B}; readlink /proc/self/ns/pid"];
        let run = d.docker(&[&words[..], &["busybox"], &look].concat());
        let own = std::fs::read_link("/proc/self/ns/pid").unwrap();
        let (lengths, namespace) = run.ok().split_once('\n').unwrap();
        assert_eq!(lengths, "100000 100000");
        assert_ne!(Path::new(namespace), own);
        // Longer than the kernel takes: told, and not cut off.
        let env = format!("A={}", "x".repeat(200_000));
        let body = json!({"Image": "busybox", "Cmd": ["true"], "Env": [env]});
        let made = d.post("/containers/create", &body);
        if made.status == 201 {
            let id = made.json()["Id"].as_str().unwrap().to_owned();
            let answer = d.post(&format!("/containers/{id}/start"), &json!(null));
            assert!(answer.status >= 400, "{}", answer.status);
            assert!(
                answer.text().to_lowercase().contains("argument list too long"),
                "{}",
                answer.text()
            );
        } else {
            assert_eq!(made.status, 400, "{}", made.text());
        }
        let deep = format!("/{}", "d/".repeat(3000));
        let run = d.docker(&["run", "--rm", "-w", &deep, "busybox", "true"]);
        assert_ne!(run.code(), 0);
        assert!(run.stderr.contains("WorkingDir"), "{}", run.stderr);
    });
}

/// SEC-12: no process of a container inherits capabilities, whichever way it was started.
#[test]
fn inheritable_and_ambient_sets_are_empty_everywhere() {
    daemon(|d| {
        let probe =
            ["--health-cmd", "cat /proc/self/status > /tmp/probe", "--health-interval", "100ms"];
        for (name, options) in [
            ("plain", &[][..]),
            ("user", &["-u", "1000"]),
            ("more", &["--cap-add", "ALL"]),
            ("all", &["--privileged"]),
        ] {
            sleeper(d, name, &[&probe[..], options].concat());
            let check = |text: &str, way: &str| {
                for set in ["CapInh", "CapAmb"] {
                    let line = text.lines().find(|line| line.starts_with(set)).unwrap();
                    assert_eq!(line, format!("{set}:\t0000000000000000"), "{name} {way}");
                }
            };
            for (way, words) in [
                ("exec", &["exec", name][..]),
                ("exec -u", &["exec", "-u", "1000", name]),
                ("exec --privileged", &["exec", "--privileged", name]),
            ] {
                check(d.docker(&[words, &["cat", "/proc/self/status"]].concat()).ok(), way);
            }
            check(d.docker(&["exec", name, "cat", "/proc/1/status"]).ok(), "run");
            let mut text = String::new();
            eventually("the probe ran", || {
                text = d.docker(&["exec", name, "cat", "/tmp/probe"]).stdout;
                text.contains("Seccomp")
            });
            check(&text, "probe");
        }
    });
}

/// SEC-16: numbers that no user id can hold are refused wherever a user can be named, although the
/// image has a root of that name.
#[test]
fn numbers_that_wrap_are_no_users_in_images_execs_and_groups() {
    daemon(|d| {
        let long = "1".to_owned() + &"0".repeat(30);
        let wide = "\u{ff10}\u{ff10}";
        let mut archive = Archive::busybox();
        let passwd = format!(
            "root:x:0:0::/:/bin/sh\n{long}:x:0:0::/:/bin/sh\n4294967295:x:0:0::/:/bin/sh\n\
             4294967296:x:0:0::/:/bin/sh\n2147483648:x:0:0::/:/bin/sh\n"
        );
        archive.file("etc/passwd", 0o644, passwd.as_bytes());
        let archive = archive.finish();
        d.import("ids", &archive, &[]);
        d.docker(&["run", "-d", "--name", "box", "ids", "sleep", "600"]).check();
        let users = ["4294967295", "4294967296", "2147483648", "-1", &long, wide, "0x0"];
        for user in users {
            let flag = format!("--user={user}");
            let exec = d.docker(&["exec", &flag, "box", "id", "-u"]);
            assert_ne!(exec.code(), 0, "exec as {user} is {}", exec.stdout);
            let group = d.docker(&["run", "--rm", &format!("--user=5:{user}"), "ids", "id", "-g"]);
            assert_ne!(group.code(), 0, "group {user} is {}", group.stdout);
            let add = ["run", "--rm", "-u", "5", &format!("--group-add={user}"), "ids", "id", "-G"];
            let add = d.docker(&add);
            assert_ne!(add.code(), 0, "--group-add {user} is {}", add.stdout);
            let _ = d.docker(&["rmi", "-f", "named"]);
            d.import("named", &archive, &[&format!("USER {user}")]);
            let run = d.docker(&["run", "--rm", "named", "id", "-u"]);
            assert_ne!(run.code(), 0, "an image's USER {user} is {}", run.stdout);
        }
        let run = d.docker(&["run", "--rm", "--user=4294967295", "ids", "true"]);
        assert!(run.stderr.contains("range"), "{}", run.stderr);
        assert_eq!(
            d.docker(&["run", "--rm", "--user=65536:65536", "ids", "id", "-u"]).ok(),
            "65536"
        );
    });
}

/// SEC-17: the groups of a process are the image's for that user, its own group among them; a file
/// that forbids itself to a group stays forbidden.
#[test]
fn supplementary_groups_are_the_image_s_and_hold() {
    daemon(|d| {
        sleeper(d, "box", &[]);
        let numbers = |text: &str| {
            let mut ids: Vec<u32> = text.split_whitespace().map(|id| id.parse().unwrap()).collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        for (user, added, want) in [
            ("root", None, &[0][..]),
            ("alice", None, &[1000, 2000]),
            ("alice", Some("77"), &[77, 1000, 2000]),
            ("1000:1000", None, &[1000]),
            ("1000:extra", None, &[2000]),
            ("1234:5678", Some("extra"), &[2000, 5678]),
        ] {
            let mut words = vec!["run", "--rm", "-u", user];
            words.extend(added.map(|group| ["--group-add", group]).into_iter().flatten());
            words.extend(["busybox", "id", "-G"]);
            assert_eq!(numbers(d.docker(&words).ok()), want, "run -u {user} {added:?}");
            if added.is_none() {
                let exec = d.docker(&["exec", "-u", user, "box", "id", "-G"]);
                assert_eq!(numbers(exec.ok()), want, "exec -u {user}");
            }
        }
        let forbid = "echo x > /tmp/f; chown 0:extra /tmp/f; chmod 0604 /tmp/f; \
                      echo y > /tmp/g; chown 0:1000 /tmp/g; chmod 0604 /tmp/g";
        d.docker(&["exec", "box", "sh", "-c", forbid]).check();
        for file in ["/tmp/f", "/tmp/g"] {
            let read = d.docker(&["exec", "-u", "alice", "box", "cat", file]);
            assert_ne!(read.code(), 0, "{file} was read");
            d.docker(&["exec", "-u", "1234:1234", "box", "cat", file]).check();
        }
    });
}

/// SEC-18: account files that never end, never answer or are none, and number lists of billions.
#[test]
fn hostile_account_files_and_number_lists_cost_nothing() {
    daemon(|d| {
        sleeper(d, "box", &[]);
        let before = memory(d);
        for file in ["passwd", "group"] {
            for make in ["mkfifo", "mkdir", "ln -s /dev/zero", "truncate -s 4G", "ln -s /dev/tty"] {
                let script = format!("cd /etc; rm -rf {file}; {make} {file}");
                d.docker(&["exec", "box", "sh", "-c", &script]).check();
                let began = Instant::now();
                let exec = d.docker(&["exec", "-u", "alice:extra", "box", "true"]);
                assert_ne!(exec.code(), 0, "{make} {file}");
                assert!(began.elapsed() < Duration::from_secs(5), "{make}: {:?}", began.elapsed());
                // A restart looks the user up in the same files.
                let restart = d.post("/containers/box/restart?t=0", &json!(null));
                assert!(restart.status == 204 || restart.status >= 400);
                assert!(began.elapsed() < Duration::from_secs(20), "{make}: {:?}", began.elapsed());
                if d.state("box") != "running" {
                    d.docker(&["rm", "-f", "box"]).check();
                    sleeper(d, "box", &[]);
                }
            }
            d.docker(&["rm", "-f", "box"]).check();
            sleeper(d, "box", &[]);
        }
        for cpus in
            ["0-4294967295", "0-2147483647", "0-18446744073709551615", &"0,".repeat(100_000)]
        {
            for field in ["CpusetCpus", "CpusetMems"] {
                let body = json!({"Image": "busybox", "HostConfig": {field: cpus}});
                let began = Instant::now();
                let answer = d.post("/containers/create", &body);
                assert_eq!(answer.status, 400, "{field}: {}", answer.text());
                assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
            }
        }
        let grown = memory(d).saturating_sub(before);
        println!("the daemon grew by {grown} KiB");
        assert!(grown < 16 * 1024, "the daemon grew by {grown} KiB");
    });
}

/// SEC-19: a line end in what becomes an environment or a user never becomes a line of a file. The
/// bytes themselves, not their escapes.
#[test]
fn a_line_end_in_the_environment_adds_no_account() {
    daemon(|d| {
        let home = "/home\nintruder::0:0::/:/bin/sh";
        let body = |env: &[&str], extra: serde_json::Value| {
            let files = ["passwd", "group", "hosts", "resolv.conf", "hostname"];
            let cat = format!("cd /etc; cat {}", files.join(" "));
            let mut body = json!({"Image": "busybox", "Cmd": ["sh", "-c", cat], "Env": env});
            body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            body
        };
        for env in
            [&[&*format!("HOME={home}")][..], &["USER=a\nintruder:0"], &["HOSTNAME=a\r\nintruder"]]
        {
            for user in ["", "1234", "1234:1234"] {
                let made = d.post("/containers/create", &body(env, json!({"User": user})));
                if made.status != 201 {
                    assert_eq!(made.status, 400, "{}", made.text());
                    continue;
                }
                let id = made.json()["Id"].as_str().unwrap().to_owned();
                let run = d.docker(&["start", "-a", &id]);
                assert!(!run.stdout.contains("intruder"), "{run:?}");
                d.docker(&["rm", &id]).check();
            }
        }
        for (field, value) in [
            ("User", "a\nb"),
            ("User", "a\0b"),
            ("Hostname", "a\nb"),
            ("Hostname", "a\rb"),
            ("Hostname", "a:b"),
            ("Domainname", "a\nb"),
        ] {
            let made = d.post("/containers/create", &body(&[], json!({field: value})));
            if made.status == 201 {
                let id = made.json()["Id"].as_str().unwrap().to_owned();
                let answer = d.post(&format!("/containers/{id}/start"), &json!(null));
                assert!(answer.status >= 400, "{field} {value:?} starts");
            } else {
                assert_eq!(made.status, 400, "{field} {value:?}: {}", made.text());
            }
        }
        for (field, value) in [
            ("ExtraHosts", "a\nb:1.2.3.4"),
            ("ExtraHosts", "a:1.2.3.4\n6.6.6.6 evil"),
            ("DnsSearch", "a\nnameserver 6.6.6.6"),
            ("DnsSearch", "a\rb"),
            ("DnsOptions", "a\nb"),
            ("Dns", "1.2.3.4\nsearch x"),
        ] {
            let made =
                d.post("/containers/create", &body(&[], json!({"HostConfig": {field: [value]}})));
            assert_eq!(made.status, 400, "{field} {value:?}: {}", made.text());
        }
    });
}

/// SEC-20, SEC-24: a directory of a running container, with a volume mounted below it or not,
/// swapped for a link to the host while files are copied both ways.
#[test]
fn copying_through_a_swapped_directory_stays_inside() {
    daemon(|d| {
        let canary = Canary::new(d);
        volume(d, "vol");
        sleeper(d, "box", &["-v", "vol:/w/v"]);
        let root = PathBuf::from(format!("/proc/{}/root", d.container_pid("box")));
        let script =
            format!("mkdir /d; echo mine > /d/secret; ln -s {0} /l; ln -s {0} /k", canary.path());
        d.docker(&["exec", "box", "sh", "-c", &script]).check();
        let mut archive = Archive::new();
        archive.dir("d", 0o777).file("d/made", 0o777, b"x").file("secret", 0o777, b"changed");
        let archive = archive.finish();
        for (names, paths) in
            [(("d", "l"), ["/d", "/d/secret", "/d/d"]), (("w", "k"), ["/w", "/w/v", "/w/secret"])]
        {
            race(&root, names, || {
                for path in paths {
                    let path = format!("/containers/box/archive?path={path}");
                    let got = said(d, "GET", &path, b"");
                    assert!(!got.contains("the host's"), "the host's file was read");
                    let _ = said(d, "PUT", &path, &archive);
                }
                canary.is_intact();
            });
        }
        assert_eq!(d.state("box"), "running");
    });
}

/// SEC-25: links on the way to what is made when it is missing lead to places of the container, and
/// the usual link of `/var/run` goes on working.
#[test]
fn what_is_made_behind_a_link_is_made_inside() {
    daemon(|d| {
        let canary = Canary::new(d);
        let mut archive = Archive::busybox();
        archive.link("var/run", "/run").link("out", canary.path());
        archive.link("up", &format!("{}{}", "../".repeat(20), &canary.path()[1..]));
        d.import("links", &archive.finish(), &[]);
        let file = d.path("f");
        std::fs::write(&file, "carried\n").unwrap();
        let script = "cat /run/f; ls /var/run/v /out/made";
        let words = ["create", "--name", "box", "-v", "vol:/var/run/v", "-v", "other:/out/made"];
        let words =
            [&words[..], &["-v", "third:/up/made"], &["links", "sh", "-c", script]].concat();
        d.docker(&words).check();
        for to in ["box:/var/run/f", "box:/var/run/", "box:/var/run/v/f"] {
            d.docker(&["cp", file.to_str().unwrap(), to]).check();
        }
        let run = d.docker(&["start", "-a", "box"]);
        canary.is_intact();
        assert!(run.stdout.starts_with("carried\n/out/made:"), "{run:?}");
        for to in ["box:/out/", "box:/up/new", "box:/out/secret"] {
            let _ = d.docker(&["cp", file.to_str().unwrap(), to]);
            canary.is_intact();
        }
    });
}

/// SEC-26, SEC-27: modes, owners, times and content of what links and names of an archive lead to,
/// however the archive comes in.
#[test]
fn entries_through_links_change_nothing_outside() {
    daemon(|d| {
        let canary = Canary::new(d);
        let secret = format!("{}/secret", canary.path());
        let up = format!("{}{}", "../".repeat(12), &secret[1..]);
        let (secret, up, dir) = (secret.as_str(), up.as_str(), canary.path());
        let mut archives = Vec::new();
        let mut one = |name: &str, fill: &dyn Fn(&mut Archive)| {
            let mut archive = Archive::new();
            fill(&mut archive);
            archives.push((name.to_owned(), archive.finish()));
        };
        for (kind, target) in [("absolute", secret), ("climbing", up)] {
            one(&format!("file over {kind} link"), &|a| {
                a.link("l", target).file("l", 0o4777, b"x");
            });
            one(&format!("hard link to {kind} link"), &|a| {
                a.link("l", target).hard_link("h", "l").file("h", 0o4777, b"x");
            });
            one(&format!("{kind} hard link"), &|a| {
                a.hard_link("h", target).file("h", 0o4777, b"x");
            });
            one(&format!("{kind} name"), &|a| {
                a.file(target, 0o4777, b"x");
            });
        }
        one("directory over link", &|a| {
            a.link("l", dir).dir("l", 0o777).file("l/secret", 0o777, b"x").dir("l/d", 0o777);
        });
        one("link over directory", &|a| {
            a.dir("l", 0o755).file("l/x", 0o644, b"").link("l", dir).file("l/made", 0o777, b"x");
        });
        one("whiteout behind a link", &|a| {
            a.link("l", dir).file("l/.wh.secret", 0, b"").file("l/.wh..wh..opq", 0, b"");
        });
        one("whiteout that climbs", &|a| {
            a.file(".wh...", 0, b"").file(".wh.", 0, b"").file("d/.wh...", 0, b"");
        });
        sleeper(d, "box", &[]);
        for (name, archive) in &archives {
            println!("{name}");
            let _ = d.docker_with(&["cp", "-", "box:/tmp"], archive);
            canary.is_intact();
            if d.docker_with(&["import", "-", "evil"], archive).code() == 0 {
                let _ = d.docker(&["create", "--rm", "evil", "x"]);
                let _ = d.docker(&["rmi", "-f", "evil"]);
            }
            canary.is_intact();
            let image = docker_archive("loaded:1", archive, &json!({}));
            let _ = d.docker_with(&["load"], &image);
            canary.is_intact();
        }
        assert_eq!(d.state("box"), "running");
    });
}

/// SEC-50: names that could be paths, wherever a name is taken.
#[test]
fn no_name_is_a_path() {
    daemon(|d| {
        let before = d.census().only("file").to_string();
        let long = "n".repeat(300);
        for name in ["..", "../x", "a/b", ".", "a\u{0}b", "a\nb", &long] {
            let status = |path: &str, body: serde_json::Value| d.post(path, &body).status;
            assert_eq!(status("/volumes/create", json!({"Name": name})), 400, "volume {name:?}");
            let network = status("/networks/create", json!({"Name": name}));
            assert!([400, 501].contains(&network), "network {name:?}: {network}");
            let mount = json!({"Type": "volume", "Source": name, "Target": "/v"});
            let body = json!({"Image": "busybox", "HostConfig": {"Mounts": [mount]}});
            assert_eq!(status("/containers/create", body), 400, "mount {name:?}");
            let body = json!({"Image": "busybox", "HostConfig": {"Runtime": name}});
            assert_eq!(status("/containers/create", body), 400, "runtime {name:?}");
            let escaped: String = name.bytes().map(|b| format!("%{b:02x}")).collect();
            let made =
                status(&format!("/containers/create?name={escaped}"), json!({"Image": "busybox"}));
            assert_eq!(made, 400, "container {name:?}");
            let tag = status(&format!("/images/busybox/tag?repo=x&tag={escaped}"), json!(null));
            assert_eq!(tag, 400, "tag {name:?}");
            for path in ["plugins", "secrets", "configs", "exec", "volumes", "networks"] {
                let answer = d.get(&format!("/{path}/{escaped}/json")).status;
                assert!((400..504).contains(&answer), "{path} {name:?}: {answer}");
                let answer = d.delete(&format!("/{path}/{escaped}")).status;
                assert!((400..504).contains(&answer), "{path} {name:?}: {answer}");
            }
        }
        for repo in ["..", "../x", "x/../y", "/etc", ".", "a\u{0}b"] {
            let escaped: String = repo.bytes().map(|b| format!("%{b:02x}")).collect();
            let answer = d.post(&format!("/images/busybox/tag?repo={escaped}&tag=1"), &json!(null));
            assert_eq!(answer.status, 400, "repository {repo:?}: {}", answer.text());
        }
        assert_eq!(d.census().only("file").to_string(), before);
    });
}

/// SEC-51: removing a volume or a container never removes what a user pointed it to.
#[test]
fn removal_takes_nothing_of_the_user_s() {
    daemon(|d| {
        let host = d.path("host");
        std::fs::create_dir_all(host.join("sub")).unwrap();
        std::fs::write(host.join("sub/precious"), "kept\n").unwrap();
        let device = format!("device={}", host.display());
        for o in ["o=bind", "o=rbind"] {
            d.docker(&["volume", "create", "-o", "type=none", "-o", o, "-o", &device, "vol"])
                .check();
            sleeper(
                d,
                "box",
                &["-v", "vol:/v", "-v", &format!("{}:/b", host.display()), "-v", "/anon"],
            );
            d.docker(&["volume", "rm", "vol"]).exits(1);
            d.docker(&["rm", "-f", "-v", "box"]).check();
            d.docker(&["volume", "rm", "vol"]).check();
            assert_eq!(std::fs::read_to_string(host.join("sub/precious")).unwrap(), "kept\n");
        }
        // By prune, with the mount left by a daemon that died; and behind a link in the volume.
        d.docker(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "vol"])
            .check();
        sleeper(d, "box", &["-v", "vol:/v", "-v", "plain:/p"]);
        let link = format!("ln -s {} /p/link", host.display());
        d.docker(&["exec", "box", "sh", "-c", &link]).check();
        d.crash();
        d.docker(&["rm", "-f", "box"]).check();
        d.docker(&["volume", "prune", "-a", "-f"]).check();
        assert_eq!(d.docker(&["volume", "ls", "-q"]).ok(), "");
        assert_eq!(std::fs::read_to_string(host.join("sub/precious")).unwrap(), "kept\n");
        // A directory that stands where a volume would be, and is none of ours.
        let stranger = d.data_root().join("volumes/stranger/_data");
        std::fs::create_dir_all(&stranger).unwrap();
        std::fs::write(stranger.join("precious"), "kept\n").unwrap();
        let _ = d.docker(&["volume", "rm", "-f", "stranger"]);
        d.docker(&["volume", "prune", "-a", "-f"]).check();
        assert_eq!(std::fs::read_to_string(stranger.join("precious")).unwrap(), "kept\n");
        std::fs::remove_dir_all(d.data_root().join("volumes/stranger")).unwrap();
    });
}

/// How a program calls the kernel.
#[derive(Clone, Copy, PartialEq)]
enum Abi {
    X86_64,
    X32,
    I386,
}

/// A program of a few instructions: makes one system call and exits with its errno, 0 for success.
/// `words` lie in memory; an argument of `None` is their address.
fn probe(abi: Abi, number: u32, arguments: &[Option<u32>], words: &[u32]) -> Vec<u8> {
    const BASE: u32 = 0x40_0000;
    const HEADERS: u32 = 64 + 56;
    // 32-bit moves clear the upper halves: edi esi edx, or ebx ecx edx.
    let moves: [u8; 3] = if abi == Abi::I386 { [0xbb, 0xb9, 0xba] } else { [0xbf, 0xbe, 0xba] };
    let number = if abi == Abi::X32 { number | 0x4000_0000 } else { number };
    let call: [u8; 2] = if abi == Abi::I386 { [0xcd, 0x80] } else { [0x0f, 0x05] };
    // test eax,eax; jns +4; neg eax; jmp +2; xor eax,eax; mov edi,eax; mov eax,60; syscall
    let end = [
        0x85, 0xc0, 0x79, 0x04, 0xf7, 0xd8, 0xeb, 0x02, 0x31, 0xc0, 0x89, 0xc7, 0xb8, 60, 0, 0, 0,
        0x0f, 0x05,
    ];
    let length = u32::try_from(5 + 5 * arguments.len() + call.len() + end.len()).unwrap();
    let mut code = vec![0xb8];
    code.extend(number.to_le_bytes());
    for (instruction, argument) in moves.into_iter().zip(arguments) {
        code.push(instruction);
        code.extend(argument.unwrap_or(BASE + HEADERS + length).to_le_bytes());
    }
    code.extend(call);
    code.extend(end);
    code.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    let size = u64::from(HEADERS) + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for value in [u64::from(BASE + HEADERS), 64, 0] {
        elf.extend(value.to_le_bytes());
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    for value in [0, u64::from(BASE), u64::from(BASE), size, size, 0x1000] {
        elf.extend(value.to_le_bytes());
    }
    assert_eq!(elf.len(), HEADERS as usize);
    elf.extend(code);
    elf
}

/// SEC-58: system calls and socket families that a default container has no use for, by each way
/// into the kernel; without the filter the same programs get other answers.
#[test]
fn the_filter_holds_for_every_way_into_the_kernel() {
    const EPERM: i32 = 1;
    const ENOSYS: i32 = 38;
    const AF_ALG: u32 = 38;
    const AF_VSOCK: u32 = 40;
    const NEWUSER: u32 = 0x1000_0000;
    const SOCK_STREAM: u32 = 1;
    let number = |value: u32| Some(value);
    let socket = |family: u32| vec![number(family), number(SOCK_STREAM), number(0)];
    let mut probes: Vec<(String, Vec<u8>, i32)> = Vec::new();
    let mut add = |name: String, program: Vec<u8>, want: i32| probes.push((name, program, want));
    for (abi, prefix) in [(Abi::X86_64, "x86_64"), (Abi::X32, "x32"), (Abi::I386, "i386")] {
        let i386 = abi == Abi::I386;
        let of = |native: u32, compat: u32| if i386 { compat } else { native };
        for (name, family) in [("alg", AF_ALG), ("vsock", AF_VSOCK)] {
            let program = probe(abi, of(41, 359), &socket(family), &[]);
            add(format!("{prefix}_socket_{name}"), program, EPERM);
        }
        for (name, call) in [
            ("unshare", of(272, 310)),
            ("io_uring_setup", 425),
            ("keyctl", of(250, 288)),
            ("add_key", of(248, 286)),
            ("bpf", of(321, 357)),
            ("userfaultfd", of(323, 374)),
            ("kexec_load", of(if abi == Abi::X32 { 528 } else { 246 }, 283)),
            ("mount", of(165, 21)),
            ("setns", of(308, 346)),
            ("pivot_root", of(155, 217)),
            ("init_module", of(175, 128)),
            ("perf_event_open", of(298, 336)),
            ("open_by_handle_at", of(304, 342)),
            ("fsopen", 430),
            ("fsconfig", 431),
            ("move_mount", 429),
        ] {
            let arguments =
                [number(if name == "unshare" { NEWUSER } else { 0 }), number(0), number(0)];
            add(format!("{prefix}_{name}"), probe(abi, call, &arguments, &[]), EPERM);
        }
        add(format!("{prefix}_clone3"), probe(abi, 435, &[number(0), number(0)], &[]), ENOSYS);
        let clone = [number(NEWUSER | 17), number(0), number(0)];
        add(format!("{prefix}_clone_newuser"), probe(abi, of(56, 120), &clone, &[]), EPERM);
    }
    // socketcall(SYS_SOCKET, {family, type, protocol}): what is in memory no filter sees.
    for (name, family) in [("alg", AF_ALG), ("vsock", AF_VSOCK), ("inet", 2)] {
        let program = probe(Abi::I386, 102, &[number(1), None], &[family, SOCK_STREAM, 0]);
        add(format!("i386_socketcall_{name}"), program, ENOSYS);
    }
    let direct = |abi, call, name: &str| (name.to_owned(), probe(abi, call, &socket(2), &[]), 0);
    probes.push(direct(Abi::X86_64, 41, "x86_64_socket_inet"));
    probes.push(direct(Abi::I386, 359, "i386_socket_inet"));

    daemon(|d| {
        let mut archive = Archive::busybox();
        archive.dir("p", 0o755);
        for (name, program, _) in &probes {
            archive.file(&format!("p/{name}"), 0o755, program);
        }
        d.import("probes", &archive.finish(), &[]);
        let script = "for p in /p/*; do $p; echo ${p##*/} $?; done";
        let answers = |options: &[&str]| {
            let words = [&["run", "--rm"], options, &["probes", "sh", "-c", script]].concat();
            let text = d.docker(&words).ok().to_owned();
            let pair = |line: &str| {
                let (name, code) = line.split_once(' ').unwrap();
                (name.to_owned(), code.parse::<i32>().unwrap())
            };
            text.lines().map(pair).collect::<std::collections::BTreeMap<_, _>>()
        };
        let filtered = answers(&[]);
        let wrong: Vec<_> = probes
            .iter()
            .filter(|(name, _, want)| filtered[name] != *want)
            .map(|(name, _, want)| format!("{name}: {} instead of {want}", filtered[name]))
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        // Else the refusals above would not be the filter's.
        let open = answers(&["--security-opt", "seccomp=unconfined"]);
        assert_eq!(open["i386_socketcall_inet"], 0, "no 32-bit calls on this machine");
        for name in ["i386_socketcall_alg", "x86_64_socket_alg", "i386_socket_alg"] {
            assert!(![EPERM, ENOSYS].contains(&open[name]), "{name}: {}", open[name]);
        }
        // Ordinary processes of any user are under the filter, those of exec too.
        d.docker(&["run", "-d", "--name", "box", "probes", "sleep", "600"]).check();
        d.docker(&["exec", "box", "/p/i386_socketcall_alg"]).exits(ENOSYS);
        d.docker(&["exec", "-u", "1000", "box", "/p/x86_64_socket_alg"]).exits(EPERM);
    });
}

/// The survey of these tests sees what it is there to see.
#[test]
fn the_canary_notices_each_change() {
    daemon(|d| {
        let canary = Canary::new(d);
        canary.is_intact();
        let secret = canary.dir.join("secret");
        let changes: [&dyn Fn(); 4] = [
            &|| std::fs::write(&secret, "x").unwrap(),
            &|| rustix::fs::chmod(&secret, Mode::from_raw_mode(0o777)).unwrap(),
            &|| std::fs::write(canary.dir.join("d/made"), "").unwrap(),
            &|| {
                let user = Some(rustix::fs::Uid::from_raw(5));
                rustix::fs::chownat(CWD, &secret, user, None, AtFlags::empty()).unwrap();
            },
        ];
        for change in changes {
            let before = survey(&canary.dir);
            change();
            assert_ne!(survey(&canary.dir), before);
        }
    });
}
