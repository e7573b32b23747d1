//! What our programs are: static, and never asking the C library for names.

use std::process::Command;

use pouch_testkit::{Registry, busybox, docker_archive, have, program};

const PROGRAMS: [&str; 6] =
    ["pouchd", "pouch", "containerd-shim-pouch-v2", "pouch-runtime", "pouch-unpack", "pouch-init"];

/// Types of a program header that only a dynamically linked program has.
const PT_INTERP: u32 = 3;

/// The types of an ELF file's program headers.
fn segments(elf: &[u8]) -> Vec<u32> {
    assert_eq!(&elf[..6], b"\x7fELF\x02\x01", "64 bit, little endian");
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([elf[at], elf[at + 1]]));
    let start = usize::try_from(u64::from_le_bytes(elf[32..40].try_into().unwrap())).unwrap();
    let (size, count) = (u16_at(54), u16_at(56));
    (0..count)
        .map(|n| start + n * size)
        .map(|at| u32::from_le_bytes(elf[at..at + 4].try_into().unwrap()))
        .collect()
}

#[test]
fn they_need_no_interpreter() {
    for name in PROGRAMS {
        let path = program(name);
        if !path.exists() {
            println!("skipped: {} is not built", path.display());
            return;
        }
        let elf = std::fs::read(&path).unwrap();
        let segments = segments(&elf);
        assert!(segments.len() > 2, "{name}");
        assert!(!segments.contains(&PT_INTERP), "{name} is linked dynamically");
    }
    // The check itself works: a shell is dynamic on Debian.
    let shell = std::fs::read("/bin/bash").unwrap();
    assert!(segments(&shell).contains(&PT_INTERP));
}

#[test]
fn a_pull_by_name_opens_nothing_of_the_name_service_switch() {
    pouch_testkit::daemon(|d| {
        if !have("strace") {
            return;
        }
        let Some(registry) = Registry::start(d) else { return };
        registry.push(d, &docker_archive("x:1", busybox(), &serde_json::json!({})), "app:1");
        let trace = d.path("trace");
        let mut strace = Command::new("strace")
            .args(["-f", "-q", "-e", "trace=open,openat,connect,execve", "-o"])
            .arg(&trace)
            .args(["-p", &d.pid().to_string()])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(500));
        // One name that the hosts file knows, and one that a server would have to.
        let by_name = Registry::HOST.replace("127.0.0.1", "localhost");
        d.docker(&["pull", &format!("{by_name}/app:1")]).check();
        let _ = d.docker(&["pull", "registry.invalid/app:1"]);
        let pid = rustix::process::Pid::from_raw(strace.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        strace.wait().unwrap();
        let text = std::fs::read_to_string(&trace).unwrap();
        if text.is_empty() {
            println!("skipped: strace does not work here");
            return;
        }
        assert!(text.contains("connect("), "the pull was not traced:\n{text}");
        for word in ["nsswitch.conf", "libnss", "/nscd/", "ld.so.cache"] {
            let line = text.lines().find(|line| line.contains(word));
            assert!(line.is_none(), "{word}: {line:?}");
        }
    });
}

#[test]
fn they_say_their_version() {
    for name in ["pouchd", "pouch", "pouch-runtime"] {
        let path = program(name);
        if !path.exists() {
            println!("skipped: {} is not built", path.display());
            return;
        }
        let output = Command::new(path).arg("--version").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains(env!("CARGO_PKG_VERSION")), "{said}");
    }
}
