//! The built binary as pid 1 of a pid namespace, as containers have it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const INIT: &str = env!("CARGO_BIN_EXE_pouch-init");
const DEADLINE: Duration = Duration::from_secs(20);

fn unable() -> bool {
    if rustix::process::geteuid().is_root() {
        return false;
    }
    eprintln!("skipped: a pid namespace needs root");
    true
}

/// `pouch-init -- arguments` as pid 1, with a /proc of its own.
fn pid1(arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", INIT, "--"])
        .args(arguments)
        .stdin(Stdio::null());
    command
}

fn shell(script: &str) -> Command {
    pid1(&["sh", "-c", script])
}

/// Runs to the end, or fails the test after [`DEADLINE`].
fn finish(mut command: Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + DEADLINE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("{command:?} did not end: {:?}", child.wait_with_output().unwrap());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Exit code of a started init, or a failed test after [`DEADLINE`].
fn end_of(child: &mut std::process::Child) -> Option<i32> {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() > end {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("init did not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn code(command: Command) -> i32 {
    let output = finish(command);
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

fn stdout(command: Command) -> String {
    let output = finish(command);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Host pid of the init whose command line holds `marker`.
fn find_init(marker: &str) -> Pid {
    let end = Instant::now() + DEADLINE;
    while Instant::now() < end {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
            let line = String::from_utf8_lossy(&line);
            if line.starts_with(INIT) && line.contains(marker) {
                let pid = entry.file_name().to_str().unwrap().parse().unwrap();
                return Pid::from_raw(pid).unwrap();
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("no init with {marker} appeared");
}

/// Waits until the script wrote `path`.
fn wait_for(path: &std::path::Path) {
    let end = Instant::now() + DEADLINE;
    while !path.exists() {
        assert!(Instant::now() < end, "{} never appeared", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn exit_codes_are_the_commands() {
    if unable() {
        return;
    }
    assert_eq!(code(shell("exit 0")), 0);
    assert_eq!(code(shell("exit 7")), 7);
    assert_eq!(code(shell("exit 255")), 255);
    assert_eq!(code(shell("kill -9 $$")), 137);
    assert_eq!(code(shell("kill -15 $$")), 143);
}

#[test]
fn what_cannot_be_executed_is_told() {
    if unable() {
        return;
    }
    let output = finish(pid1(&["no-such-program-here"]));
    assert_eq!(output.status.code(), Some(127));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("pouch-init: no-such-program-here: No such file"), "{message}");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("plain");
    std::fs::write(&file, "data").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = finish(pid1(&[file.to_str().unwrap()]));
    assert_eq!(output.status.code(), Some(126));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"));

    let output = finish(Command::new(INIT));
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage:"));
}

#[test]
fn init_is_pid_1_and_the_command_leads_a_group() {
    if unable() {
        return;
    }
    // Field 5 of stat is the process group.
    let output =
        stdout(shell("echo $$ $PPID; read -r a b c d pgrp rest < /proc/$$/stat; echo $pgrp"));
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines, ["2 1", "2"]);
}

#[test]
fn the_command_gets_a_clean_signal_state() {
    if unable() {
        return;
    }
    const SHOW: &str = "grep -E '^Sig(Blk|Ign)' /proc/self/status";
    // Not simply zeros: what the test itself inherited as ignored stays so.
    let mut plain = Command::new("sh");
    plain.args(["-c", SHOW]);
    let expected = stdout(plain);
    assert_eq!(expected.lines().count(), 2);
    assert_eq!(stdout(shell(SHOW)), expected);
}

#[test]
fn orphans_are_reaped() {
    if unable() {
        return;
    }
    // Twenty orphans end while the command lives on; a zombie would still be in /proc.
    let script = "for i in 1 2 3 4 5 6 7 8 9 10; do ( sleep 0.1 & sleep 0.05 & ) ; done; sleep 0.5; \
                  grep -l '^State:.Z' /proc/[0-9]*/status; echo end";
    assert_eq!(stdout(shell(script)), "end\n");
}

#[test]
fn the_end_of_the_command_ends_all() {
    if unable() {
        return;
    }
    let started = Instant::now();
    assert_eq!(code(shell("sleep 60 >/dev/null 2>&1 & exit 3")), 3);
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn signals_reach_the_command() {
    if unable() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // SEGV and ABRT would be dropped at a pid 1 that leaves them unblocked; RTMIN+2 is 36.
    for (name, number) in [
        ("TERM", 15),
        ("HUP", 1),
        ("USR1", 10),
        ("WINCH", 28),
        ("ABRT", 6),
        ("SEGV", 11),
        ("36", 36),
    ] {
        let ready = dir.path().join(name);
        let script = format!(
            "trap 'exit 42' {number}; : > {}; while :; do sleep 0.02; done",
            ready.display()
        );
        let mut child = shell(&script).spawn().unwrap();
        wait_for(&ready);
        let init = find_init(ready.to_str().unwrap());
        let status = Command::new("kill")
            .args([format!("-{number}"), init.as_raw_nonzero().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(end_of(&mut child), Some(42), "signal {name}");
    }
}

#[test]
fn a_signal_without_a_trap_ends_the_command() {
    if unable() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    let mut child = shell(&format!(": > {0}; exec sleep 60", ready.display())).spawn().unwrap();
    wait_for(&ready);
    kill_process(find_init(ready.to_str().unwrap()), Signal::TERM).unwrap();
    assert_eq!(end_of(&mut child), Some(143));
}

#[test]
fn without_being_pid_1_it_reaps_too() {
    let mut command = Command::new(INIT);
    // The orphan's new parent is the init, not the test's reaper.
    command.args(["--", "sh", "-c"]).arg(
        "( ( sleep 0.2; read -r a b c parent rest < /proc/self/stat; echo $parent ) & ) ; \
         sleep 0.05; echo $PPID; sleep 0.4",
    );
    let output = stdout(command);
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines.len(), 2, "{output}");
    // `read` runs in the orphaned subshell itself, whose parent is the init.
    assert_eq!(lines[0], lines[1], "{output}");
}

#[test]
fn the_command_owns_the_terminal() {
    if unable() {
        return;
    }
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = OpenOptions::new()
        .read(true)
        .write(true)
        .open(PathBuf::from(name.to_str().unwrap()))
        .unwrap();
    // Fields 5 and 8 of stat: process group, foreground group of the terminal.
    let script = "read -r a b c d pgrp session tty tpgid rest < /proc/$$/stat; \
                  echo groups $pgrp $tpgid; read -r line; echo got $line; while :; do sleep 0.1; done";
    let mut child = Command::new("setsid")
        .args(["--ctty", "--wait", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args([INIT, "--", "sh", "-c", script])
        .stdin(slave.try_clone().unwrap())
        .stdout(slave.try_clone().unwrap())
        .stderr(slave)
        .spawn()
        .unwrap();
    rustix::io::write(&master, b"hello\n").unwrap();
    let mut master = std::fs::File::from(master);
    let mut text = String::new();
    let mut buffer = [0; 256];
    while !text.contains("got hello\r\n") {
        let n = master.read(&mut buffer).unwrap();
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    // Both are pid 2: the shell.
    assert!(text.contains("groups 2 2\r\n"), "{text:?}");
    // ^C ends the command by the terminal, without the init's help.
    rustix::io::write(&master, b"\x03").unwrap();
    assert_eq!(end_of(&mut child), Some(130));
}

#[test]
fn a_pause_reaps_until_it_is_told_to_end_and_ends_all_with_it() {
    if unable() {
        return;
    }
    // Another one's processes come into its namespace as a container's do.
    let mut pause = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", INIT, "--pause"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let children = format!("/proc/{0}/task/{0}/children", pause.id());
    let end = Instant::now() + DEADLINE;
    let init: i32 = loop {
        let text = std::fs::read_to_string(&children).unwrap();
        let child = text.split_whitespace().next().and_then(|pid| pid.parse().ok());
        if let Some(pid) = child {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.trim() == "pouch-init" {
                break pid;
            }
        }
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    };
    let enter = |script: &str| {
        let mut command = Command::new("nsenter");
        let namespace = format!("--pid=/proc/{init}/ns/pid");
        command.args([&namespace, "sh", "-c", script]).stdin(Stdio::null());
        command
    };
    // An orphan becomes the pause's, and is gone when it has ended.
    let output = finish(enter("sh -c 'sleep 0.1 & sleep 0.01 & exec true'; echo done"));
    assert_eq!(output.stdout, b"done\n");
    let orphans = format!("/proc/{init}/task/{init}/children");
    while !std::fs::read_to_string(&orphans).unwrap().trim().is_empty() {
        assert!(Instant::now() < end, "an orphan is not reaped");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut left = enter("exec sleep 1000").spawn().unwrap();
    let init = Pid::from_raw(init).unwrap();
    kill_process(init, Signal::HUP).unwrap();
    assert!(pause.try_wait().unwrap().is_none());
    kill_process(init, Signal::TERM).unwrap();
    assert_eq!(end_of(&mut pause), Some(0));
    end_of(&mut left);
}
