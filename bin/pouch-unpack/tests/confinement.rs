//! What the process is while it reads: a half archive keeps it waiting, and `/proc` tells.
#![expect(clippy::expect_used, reason = "a failed set-up is a failed test")]

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Rig, Tar, is_root};

/// One of each way to wait: for an archive's rest, or for a reader of what is packed.
const VERBS: [(&str, &[&str]); 4] = [
    ("layer", &["--root"]),
    ("put", &["--path", "/", "--root"]),
    ("get", &["--path", "/", "--root"]),
    ("export", &["--root"]),
];

/// Bits of capabilities, `include/uapi/linux/capability.h`.
const CHOWN: u64 = 1 << 0;
const DAC_OVERRIDE: u64 = 1 << 1;
const DAC_READ_SEARCH: u64 = 1 << 2;
const FOWNER: u64 = 1 << 3;
const FSETID: u64 = 1 << 4;
const SYS_ADMIN: u64 = 1 << 21;
const MKNOD: u64 = 1 << 27;
const SETFCAP: u64 = 1 << 31;
const FILES: u64 = CHOWN | DAC_OVERRIDE | DAC_READ_SEARCH | FOWNER | FSETID | MKNOD | SETFCAP;

struct Stalled {
    rig: Rig,
    child: Child,
}

impl Stalled {
    /// Starts `verb` with descriptors and an environment that a careless parent would leave.
    fn start(verb: &str, words: &[&str]) -> Self {
        let rig = Rig::new();
        if matches!(verb, "get" | "export") {
            // More than fits into a pipe that nobody reads.
            std::fs::write(rig.root.join("big"), vec![7; 4 << 20]).expect("write");
        }
        let line = format!(
            "exec 7</etc/passwd 8</proc/self/ns/net 9<>/dev/null; exec {} {verb} {} {}",
            env!("CARGO_BIN_EXE_pouch-unpack"),
            words.join(" "),
            rig.root_text()
        );
        let mut child = Command::new("sh")
            .args(["-c", &line])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start");
        let half = Tar::new().file("f", &"x".repeat(2000)).end();
        child.stdin.as_mut().expect("pipe").write_all(&half[..1024]).expect("half an archive");
        let mut stalled = Self { rig, child };
        stalled.wait_until_it_waits(verb);
        stalled
    }

    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.child.id()))
    }

    fn status(&self, field: &str) -> String {
        let status = std::fs::read_to_string(self.proc("status")).expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:\t")));
        line.unwrap_or_else(|| panic!("no {field}: {status}")).trim().to_owned()
    }

    /// The filter is installed, and it sleeps in a read or a write of a pipe.
    fn wait_until_it_waits(&mut self, verb: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                panic!("{verb} ended: {status}");
            }
            if self.status("Seccomp") == "2" && self.status("State").starts_with('S') {
                let syscall = std::fs::read_to_string(self.proc("syscall")).unwrap_or_default();
                let number = syscall.split(' ').next().unwrap_or_default();
                if matches!(number, "0" | "1" | "") {
                    return;
                }
            }
            assert!(Instant::now() < deadline, "{verb} does not wait");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn limit(&self, name: &str) -> (String, String) {
        let limits = std::fs::read_to_string(self.proc("limits")).expect("limits");
        let line = limits.lines().find(|line| line.starts_with(name)).expect(name);
        let mut values = line[26..].split_whitespace();
        let mut next = || values.next().expect("value").to_owned();
        (next(), next())
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_waiting_process_has_given_everything_up() {
    if !is_root() {
        return;
    }
    let ours: u64 = {
        let status = std::fs::read_to_string("/proc/self/status").expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).expect("CapEff");
        u64::from_str_radix(line, 16).expect("hex")
    };
    for (verb, words) in VERBS {
        let stalled = Stalled::start(verb, words);
        let mask = |field: &str| u64::from_str_radix(&stalled.status(field), 16).expect("hex");
        assert_eq!(stalled.status("NoNewPrivs"), "1", "{verb}");
        assert_eq!(stalled.status("Seccomp_filters"), "1", "{verb}");
        assert_eq!(stalled.status("Threads"), "1", "{verb}");
        // Only overlay's own attributes take more than what files take.
        let wanted = ours & if verb == "layer" { FILES | SYS_ADMIN } else { FILES };
        assert_eq!(mask("CapEff"), wanted, "{verb}");
        assert_eq!((mask("CapPrm"), mask("CapInh"), mask("CapAmb")), (wanted, 0, 0), "{verb}");
        for (name, most) in
            [("Max core file size", 0), ("Max address space", 2u64 << 30), ("Max open files", 8192)]
        {
            let (soft, hard) = stalled.limit(name);
            assert_eq!(soft, hard, "{verb}: {name}");
            assert!(hard.parse::<u64>().expect("number") <= most, "{verb}: {name} {hard}");
        }
        let mut others = Vec::new();
        for entry in std::fs::read_dir(stalled.proc("fd")).expect("fd") {
            let entry = entry.expect("entry");
            let number: u32 = entry.file_name().to_string_lossy().parse().expect("number");
            let target = entry.path().read_link().expect("link");
            match number {
                0..=2 => assert!(target.to_string_lossy().starts_with("pipe:"), "{target:?}"),
                _ => others.push(target),
            }
        }
        assert!(!others.is_empty(), "{verb}");
        let inside = |path: &PathBuf| path.starts_with(&stalled.rig.root);
        assert!(others.iter().all(inside), "{verb}: {others:?}");
        // No program and no library but itself is in its memory, and nothing can become one.
        let maps = std::fs::read_to_string(stalled.proc("maps")).expect("maps");
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            let flags = words.nth(1).expect("flags");
            assert!(!(flags.contains('w') && flags.contains('x')), "{verb}: {line}");
            if let Some(file) = words.nth(3).filter(|name| name.starts_with('/')) {
                assert_eq!(
                    Path::new(file),
                    Path::new(env!("CARGO_BIN_EXE_pouch-unpack")),
                    "{verb}"
                );
            }
        }
    }
}

/// The order in which it goes, and Landlock where the kernel has it.
#[test]
fn everything_is_given_up_before_the_first_byte_is_read() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let (input, trace) = (rig.dir.path().join("input"), rig.dir.path().join("trace"));
    std::fs::write(&input, Tar::new().file("f", "x").end()).expect("write");
    let status = Command::new("strace")
        .arg("-o")
        .arg(&trace)
        .arg(env!("CARGO_BIN_EXE_pouch-unpack"))
        .args(["layer", "--root", rig.root_text()])
        .stdin(std::fs::File::open(&input).expect("open"))
        .stdout(Stdio::null())
        .status();
    if !status.is_ok_and(|status| status.success()) {
        println!("strace does not work here: skipped");
        return;
    }
    let trace = std::fs::read_to_string(trace).expect("trace");
    let at = |word: &str| trace.lines().position(|line| line.starts_with(word));
    let must = |word: &str| at(word).unwrap_or_else(|| panic!("no {word}: {trace}"));
    let order = [
        must("close_range(3"),
        must("prctl(PR_SET_NO_NEW_PRIVS"),
        must("capset("),
        must("seccomp(SECCOMP_SET_MODE_FILTER"),
        must("read(0"),
    ];
    assert!(order.is_sorted(), "{order:?}: {trace}");
    let ruleset = must("landlock_create_ruleset(NULL");
    let version = trace.lines().nth(ruleset).expect("line").rsplit(" = ").next().expect("result");
    match version.split(' ').next().expect("number").parse::<i32>() {
        Ok(version) if version >= 2 => {
            assert!(must("landlock_restrict_self(") < must("read(0"), "{trace}");
        }
        _ => println!("no Landlock of version 2 here ({version}): not checked"),
    }
}
