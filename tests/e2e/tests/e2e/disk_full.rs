//! A disk filled to its last byte: what frees space goes on working, what needs space says which
//! disk is full, containers keep running and their ends are known, and nothing must be restarted.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pouch_testkit::{Daemon, busybox, daemon, docker_archive, eventually, have};
use rustix::fs::statvfs;
use rustix::mount::{UnmountFlags, unmount};
use serde_json::json;

/// A small ext4 of its own for a data root. Unmounted when dropped.
pub(crate) struct Disk {
    at: PathBuf,
}

impl Disk {
    const MEGABYTES: u64 = 192;

    /// Puts a fresh one over the data root of a daemon that does not run.
    fn mount(d: &Daemon) -> Self {
        let (image, at) = (d.path("disk.img"), d.data_root());
        std::fs::File::create(&image).unwrap().set_len(Self::MEGABYTES << 20).unwrap();
        let tool = |program: &str, words: &[&str]| {
            let output = Command::new(program).args(words).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{program}: {said}");
        };
        let (image, point) = (image.to_str().unwrap(), at.to_str().unwrap());
        // No blocks kept for root, who is who works here.
        tool("mkfs.ext4", &["-q", "-F", "-m", "0", image]);
        tool("mount", &["-o", "loop", image, point]);
        rustix::fs::chmod(&at, rustix::fs::Mode::from_raw_mode(0o710)).unwrap();
        Self { at }
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }

    /// Takes every byte that is left.
    fn fill(&self) {
        let mut options = std::fs::File::options();
        let mut file = options.create(true).append(true).open(self.ballast()).unwrap();
        // What a removal gave back arrives with the file system's next commit.
        let mut full = 0;
        while full < 3 {
            let mut step = 1 << 20;
            let mut took = false;
            while step > 0 {
                match file.write(&vec![0x55; step]) {
                    Ok(n) => took |= n > 0,
                    Err(_) => step /= 16,
                }
            }
            file.sync_all().unwrap();
            full = if took { 0 } else { full + 1 };
        }
        let left = statvfs(&self.at).unwrap();
        assert!(left.f_bavail * left.f_frsize < 1 << 16, "{} blocks left", left.f_bavail);
    }

    fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
        // Deleted blocks are free with the journal's next commit.
        std::fs::File::open(&self.at).unwrap().sync_all().unwrap();
        eventually("there is space again", || {
            let fs = statvfs(&self.at).unwrap();
            fs.f_bavail * fs.f_frsize > 32 << 20
        });
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if unmount(&self.at, UnmountFlags::empty()).is_err() {
            let _ = unmount(&self.at, UnmountFlags::DETACH);
        }
    }
}

/// A test on a daemon whose data root is such a disk, with the image busybox.
pub(crate) fn on_a_small_disk(test: impl FnOnce(&mut Daemon, &Disk)) {
    if !have("mkfs.ext4") || !Path::new("/dev/loop-control").exists() {
        println!("skipped: needs mkfs.ext4 and loop devices");
        return;
    }
    daemon(|d| {
        d.stop();
        let disk = Disk::mount(d);
        d.start_again();
        d.import("busybox", busybox(), &["CMD [\"sh\"]"]);
        d.docker(&["run", "--rm", "busybox", "true"]).check();
        test(d, &disk);
        d.clear();
        d.stop();
        drop(disk);
        d.start_again();
    });
}

/// That a refusal says what is full: the words of the kernel and the path.
#[track_caller]
pub(crate) fn says_what_is_full(d: &Daemon, said: &str) {
    let root = d.data_root();
    assert!(said.to_lowercase().contains("no space left"), "{said}");
    assert!(said.contains(root.to_str().unwrap()), "without the path: {said}");
}

#[test]
fn what_frees_space_works_and_what_needs_it_says_what_is_full() {
    on_a_small_disk(|d, disk| {
        let script = "trap 'exit 9' TERM; echo first; while :; do sleep 0.05; done";
        for name in ["box", "other"] {
            d.docker(&["run", "-d", "--name", name, "busybox", "sh", "-c", script]).check();
            eventually("it runs", || d.docker(&["logs", name]).stdout == "first\n");
        }
        for name in ["old", "older"] {
            d.docker(&["run", "--name", name, "-v", &format!("{name}:/v"), "busybox", "true"])
                .check();
        }
        d.docker(&["create", "--name", "ready", "busybox", "true"]).check();
        let mut layer = pouch_testkit::Archive::new();
        layer.file("f", 0o644, &vec![7; 1 << 20]);
        let layer = layer.finish();
        d.import("spare", &layer, &[]);
        let saved = docker_archive("loaded:1", &layer, &json!({}));
        let pid = d.pid();

        disk.fill();
        assert_eq!(d.docker(&["ps", "-aq"]).ok().lines().count(), 5);
        assert_eq!(d.state("box"), "running");
        assert_eq!(d.docker(&["logs", "box"]).ok(), "first");
        assert_eq!(d.docker(&["exec", "box", "echo", "in"]).ok(), "in");
        d.docker(&["images"]).check();
        for words in [
            &["create", "busybox"][..],
            &["run", "--rm", "busybox", "true"],
            &["create", "-v", "fresh:/v", "busybox"],
        ] {
            let run = d.docker(words);
            assert_ne!(run.code(), 0, "{words:?} succeeds");
            says_what_is_full(d, &run.stderr);
        }
        for (words, input) in [(&["load"][..], &saved), (&["import", "-", "more"], &layer)] {
            let run = d.docker_with(words, input);
            assert_ne!(run.code(), 0, "{words:?} succeeds");
            says_what_is_full(d, &format!("{}{}", run.stdout, run.stderr));
        }
        let start = d.docker(&["start", "ready"]);
        assert_ne!(start.code(), 0);
        says_what_is_full(d, &start.stderr);

        // Each of these frees a little, which is taken away again before the next.
        let began = Instant::now();
        d.docker(&["stop", "-t", "5", "box"]).check();
        assert_eq!(d.inspect("box")["State"]["ExitCode"], 9);
        disk.fill();
        d.docker(&["kill", "other"]).check();
        assert_eq!(d.inspect("other")["State"]["ExitCode"], 137);
        disk.fill();
        assert_eq!(d.docker(&["logs", "box"]).ok(), "first");
        d.docker(&["rm", "box"]).check();
        disk.fill();
        d.docker(&["rm", "-f", "-v", "old"]).check();
        disk.fill();
        d.docker(&["rmi", "spare"]).check();
        disk.fill();
        d.docker(&["container", "prune", "-f"]).check();
        assert_eq!(d.docker(&["ps", "-aq"]).ok(), "");
        disk.fill();
        d.docker(&["volume", "prune", "-a", "-f"]).check();
        assert_eq!(d.docker(&["volume", "ls", "-q"]).ok(), "");
        disk.fill();
        d.docker(&["image", "prune", "-f"]).check();
        d.docker(&["system", "prune", "-f"]).check();
        println!("all that frees space took {:?}", began.elapsed());

        disk.free();
        d.docker_with(&["load"], &saved).check();
        assert_eq!(d.docker(&["run", "--rm", "busybox", "echo", "after"]).ok(), "after");
        d.docker(&["run", "--name", "new", "-v", "fresh:/v", "busybox", "true"]).check();
        assert_eq!(d.pid(), pid);
        // And what was done then has lasted.
        d.crash();
        assert_eq!(d.docker(&["ps", "-a", "--format", "{{.Names}}"]).ok(), "new");
    });
}

#[test]
fn a_container_that_fills_the_disk_harms_only_itself() {
    on_a_small_disk(|d, disk| {
        // Each talks through the time when nothing can be written, and ends with a code of its own.
        let talk = "i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); sleep 0.05; done; exit ";
        let run = |name: &str, options: &[&str], script: &str| {
            let words = ["run", "-d", "--name", name];
            d.docker(&[&words[..], options, &["busybox", "sh", "-c", script]].concat()).check();
        };
        run("json", &[], &format!("{talk} 7"));
        run("local", &["--log-driver", "local"], &format!("{talk} 8"));
        run("queued", &["--log-opt", "mode=non-blocking"], &format!("{talk} 9"));
        let hog =
            "trap 'exit 3' TERM; while :; do cat /dev/zero >> /big; sleep 0.02; done 2> /dev/null";
        run("hog", &[], hog);
        let full = || {
            let fs = statvfs(&disk.at).unwrap();
            fs.f_bavail * fs.f_frsize < 1 << 16
        };
        eventually("the disk is full", full);
        let began = Instant::now();
        for (name, code) in [("json", "7"), ("local", "8"), ("queued", "9")] {
            assert_eq!(d.docker(&["wait", name]).ok(), code);
            let state = &d.inspect(name)["State"];
            assert_eq!(
                (&state["Status"], &state["ExitCode"]),
                (&json!("exited"), &json!(code.parse::<i64>().unwrap()))
            );
            let log = d.docker(&["logs", name]).ok().to_owned();
            assert!(log.starts_with("line 0\nline 1\n"), "{name}: {log}");
        }
        assert!(full() && began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
        d.docker(&["exec", "hog", "true"]).check();
        d.docker(&["stop", "-t", "10", "hog"]).check();
        assert_eq!(d.inspect("hog")["State"]["ExitCode"], 3);
        d.docker(&["rm", "hog"]).check();
        assert_eq!(d.docker(&["run", "--rm", "busybox", "echo", "after"]).ok(), "after");
    });
}

#[test]
fn a_daemon_starts_on_a_full_disk_and_knows_what_ended_meanwhile() {
    on_a_small_disk(|d, disk| {
        for (name, code) in [("quick", 5), ("slow", 6)] {
            let script = format!("while [ ! -e /dev/shm/end ]; do sleep 0.05; done; exit {code}");
            d.docker(&["run", "-d", "--name", name, "busybox", "sh", "-c", &script]).check();
        }
        d.docker(&["exec", "-d", "quick", "sh", "-c", "sleep 1.5; touch /dev/shm/end"]).check();
        disk.fill();
        d.kill9();
        disk.fill();
        std::thread::sleep(Duration::from_secs(2));
        d.start_again();
        let state = &d.inspect("quick")["State"];
        assert_eq!((&state["Status"], &state["ExitCode"]), (&json!("exited"), &json!(5)));
        assert_eq!(d.state("slow"), "running");
        d.docker(&["exec", "slow", "touch", "/dev/shm/end"]).check();
        assert_eq!(d.docker(&["wait", "slow"]).ok(), "6");
        disk.fill();
        // What was learnt then is not forgotten when the daemon goes.
        d.crash();
        for (name, code) in [("quick", 5), ("slow", 6)] {
            assert_eq!(d.inspect(name)["State"]["ExitCode"], code, "{name}");
        }
        d.docker(&["rm", "quick", "slow"]).check();
        disk.free();
        assert_eq!(d.docker(&["run", "--rm", "busybox", "echo", "after"]).ok(), "after");
    });
}
