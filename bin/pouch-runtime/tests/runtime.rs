//! The binary as its callers see it: life cycle, confinement, errors. Needs root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use serde_json::{Value, json};
use support::{Rig, deny, text, unable, until};

macro_rules! rig {
    ($name:expr, $args:expr) => {{
        if let Some(reason) = unable() {
            eprintln!("{reason}");
            return;
        }
        Rig::new($name, $args)
    }};
}

#[test]
fn a_container_lives_and_leaves_nothing() {
    let rig = rig!("life", &["sleep", "1000"]);
    let created = rig.create();
    assert!(created.status.success(), "{}", text(&created.stderr));
    assert_eq!(rig.status(), "created");
    let again = rig.create();
    assert!(!again.status.success());
    assert!(text(&again.stderr).contains("exists"), "{}", text(&again.stderr));
    assert!(!rig.exec(&["true"]).status.success(), "exec in a created container");

    rig.ok(&["kill", rig.id(), "0"]);
    assert_eq!(rig.status(), "created", "a signal is no start");
    rig.ok(&["start", rig.id()]);
    let state: Value = serde_json::from_str(&rig.ok(&["state", rig.id()])).unwrap();
    assert_eq!(state["status"], "running");
    assert_eq!(state["annotations"]["dev.pouch.test"], "1");
    assert_eq!(state["owner"], "root");
    assert!(state["pid"].as_i64().unwrap() > 0);
    assert_eq!(state["rootfs"].as_str().unwrap(), rig.rootfs().to_str().unwrap());
    assert!(!rig.run(&["start", rig.id()]).status.success(), "a second start");
    assert!(!rig.run(&["delete", rig.id()]).status.success(), "delete of a running one");

    rig.ok(&["kill", rig.id(), "KILL"]);
    rig.wait_status("stopped");
    let late = rig.run(&["kill", rig.id(), "TERM"]);
    assert!(text(&late.stderr).contains("container not running"), "{}", text(&late.stderr));
    rig.ok(&["delete", rig.id()]);
    assert!(!rig.cgroup("memory").exists(), "the cgroup stayed");
    assert!(!rig.path("state").join(rig.id()).exists(), "the state stayed");
    assert!(!rig.run(&["delete", rig.id()]).status.success());
    rig.ok(&["delete", "--force", rig.id()]);
}

#[test]
fn a_killed_creation_is_cleaned_up_by_force() {
    let mut rig = rig!("killed", &["sleep", "1000"]);
    // A hook that never ends holds the creation half-way, with process and cgroup there.
    rig.spec["hooks"] =
        json!({ "createRuntime": [{ "path": "/bin/sleep", "args": ["sleep", "5"] }] });
    rig.write_spec();
    let bundle = rig.bundle();
    let args = ["create", "--bundle", bundle.to_str().unwrap(), rig.id()];
    let mut creation =
        rig.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let procs = rig.cgroup("memory").join("cgroup.procs");
    until("a process in the cgroup", || {
        std::fs::read_to_string(&procs).is_ok_and(|t| !t.is_empty())
    });
    assert_eq!(rig.status(), "creating");
    creation.kill().unwrap();
    creation.wait().unwrap();
    assert!(!rig.run(&["delete", rig.id()]).status.success());
    rig.ok(&["delete", "--force", rig.id()]);
    assert!(!rig.cgroup("memory").exists(), "the cgroup stayed");
    assert!(!rig.path("state").join(rig.id()).exists());
}

#[test]
fn the_exit_code_is_the_programs() {
    for (program, code) in [("exit 7", 7), ("kill -9 $$; exit 3", 3), ("true", 0)] {
        let rig = rig!("exit", &["sh", "-c", program]);
        assert_eq!(rig.run_to_end().status.code(), Some(code), "{program}");
    }
}

#[test]
fn a_missing_program_fails_create_in_known_words() {
    for (name, words) in [
        ("nope", r#"exec: "nope": executable file not found in $PATH"#),
        ("/nope", "no such file or directory"),
        ("/etc/passwd", "permission denied"),
    ] {
        let rig = rig!("missing", &[name]);
        let output = rig.create();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
        assert_eq!(text(&output.stderr).lines().count(), 1);
        let log = std::fs::read_to_string(rig.path("log")).unwrap();
        let line: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        assert_eq!(line["level"], "error");
        assert!(line["msg"].as_str().unwrap().contains(words));
        assert!(!rig.path("state").join(rig.id()).exists(), "a failed create left its state");
        assert!(!rig.cgroup("memory").exists(), "a failed create left its cgroup");
    }
}

#[test]
fn what_cannot_be_executed_fails_start() {
    let rig = rig!("format", &["/bin/broken"]);
    let path = rig.rootfs().join("bin/broken");
    std::fs::write(&path, "not a program").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert!(rig.create().status.success());
    let output = rig.run(&["start", rig.id()]);
    assert!(text(&output.stderr).contains("exec format error"), "{}", text(&output.stderr));
    rig.wait_status("stopped");
}

#[test]
fn exec_has_the_confinement_of_the_container() {
    let mut rig = rig!("exec", &["sleep", "1000"]);
    rig.spec["linux"]["seccomp"] = deny(&["unshare"]);
    rig.start();
    let status = "grep -E 'Cap|Seccomp:|NoNew' /proc/self/status | sed 's/[[:space:]]+/ /g'";
    let output = rig.exec(&["sh", "-c", status]);
    let fields: Vec<String> = text(&output.stdout)
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    for expected in [
        "CapInh: 0000000000000000",
        "CapEff: 00000000a80425fb",
        "CapBnd: 00000000a80425fb",
        "CapAmb: 0000000000000000",
        "NoNewPrivs: 0",
        "Seccomp: 2",
    ] {
        assert!(fields.iter().any(|line| line == expected), "{expected} not in {fields:?}");
    }
    assert!(!rig.exec(&["unshare", "-m", "true"]).status.success(), "the filter is not in force");
    assert_eq!(rig.exec(&["sh", "-c", "exit 5"]).status.code(), Some(5));
    assert_eq!(text(&rig.exec(&["hostname"]).stdout), "box\n");
    let init = text(&rig.exec(&["readlink", "/proc/1/ns/pid"]).stdout);
    assert_eq!(text(&rig.exec(&["readlink", "/proc/self/ns/pid"]).stdout), init);
}

#[test]
fn exec_reports_what_is_missing() {
    let rig = rig!("execmiss", &["sleep", "1000"]);
    rig.start();
    let output = rig.exec(&["nope"]);
    assert_eq!(output.status.code(), Some(1));
    let words = r#"exec: "nope": executable file not found in $PATH"#;
    assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
    assert!(text(&rig.exec(&["/etc/passwd"]).stderr).contains("permission denied"));
}

#[test]
fn exec_takes_a_process_file_and_detaches() {
    let rig = rig!("execfile", &["sleep", "1000"]);
    rig.start();
    let file = rig.path("process.json");
    let mut process = json!({
        "args": ["sh", "-c", "id -u; id -g; id -G; pwd; echo $HOME; echo $X"],
        "env": ["PATH=/bin", "X=1", "X=2"], "cwd": "/proc/sys",
        "user": { "uid": 1000, "gid": 1001, "additionalGids": [1001, 7] },
    });
    let file_name = file.to_str().unwrap().to_owned();
    let exec = |process: &Value| {
        std::fs::write(&file, process.to_string()).unwrap();
        rig.run(&["exec", "--process", &file_name, rig.id()])
    };
    let output = exec(&process);
    assert_eq!(
        text(&output.stdout),
        "1000\n1001\n1001 7\n/proc/sys\n/home/u\n2\n",
        "{}",
        text(&output.stderr)
    );
    // Only the first process of a container has its working directory made for it.
    process["cwd"] = json!("/not/there");
    let output = exec(&process);
    assert!(!output.status.success());
    let error = text(&output.stderr);
    assert!(error.contains("/not/there"), "{error}");
    let pid_file = rig.path("pid");
    let out = std::fs::File::create(rig.path("detached")).unwrap();
    let status = rig
        .command(&[
            "exec",
            "--detach",
            "--pid-file",
            pid_file.to_str().unwrap(),
            rig.id(),
            "sleep",
            "99",
        ])
        .stdin(Stdio::null())
        .stdout(out)
        .status()
        .unwrap();
    assert!(status.success());
    let pid: i32 = std::fs::read_to_string(pid_file).unwrap().parse().unwrap();
    let pids: Vec<i32> =
        serde_json::from_str(&rig.ok(&["ps", "--format", "json", rig.id()])).unwrap();
    assert!(pids.contains(&pid) && pids.len() == 2, "{pid} in {pids:?}");
}

#[test]
fn a_program_sees_three_descriptors() {
    let list = "for f in /proc/$$/fd/*; do readlink $f > /dev/null && echo ${f##*/}; done";
    let rig = rig!("fds", &["sh", "-c", list]);
    // A spray of descriptors that are not close-on-exec must not reach the program.
    let spray: Vec<_> = (0..40).map(|_| std::fs::File::open("/sys/fs/cgroup").unwrap()).collect();
    for file in &spray {
        rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty()).unwrap();
    }
    let seen = |output: std::process::Output| {
        let mut numbers: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
        // The shell's own, of the running script.
        numbers.retain(|n| n != "10");
        numbers
    };
    assert_eq!(seen(rig.run_to_end()), ["0", "1", "2"]);
    let mut rig = rig;
    rig.spec["process"]["args"] = json!(["sleep", "1000"]);
    rig.start();
    assert_eq!(seen(rig.exec(&["sh", "-c", list])), ["0", "1", "2"]);
}

#[test]
fn a_working_directory_outside_is_refused() {
    // What a leaked descriptor would offer: every number, with host directories open.
    let spray: Vec<_> = (0..8).map(|_| std::fs::File::open("/").unwrap()).collect();
    for file in &spray {
        rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty()).unwrap();
    }
    let mut rig = rig!("cwd", &["true"]);
    for number in 0..32 {
        rig.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
        let output = rig.create();
        assert!(!output.status.success(), "descriptor {number} as cwd");
    }
    std::os::unix::fs::symlink("/proc/self/fd/7", rig.rootfs().join("link")).unwrap();
    rig.spec["process"]["cwd"] = json!("/link");
    assert!(!rig.create().status.success(), "a link to a descriptor as cwd");
    rig.spec["process"]["cwd"] = json!("/");
    rig.spec["process"]["args"] = json!(["sleep", "1000"]);
    rig.start();
    for number in 3..32 {
        let cwd = format!("/proc/self/fd/{number}");
        assert!(!rig.run(&["exec", "--cwd", &cwd, rig.id(), "true"]).status.success(), "{cwd}");
    }
}

#[test]
fn a_filter_holds_without_no_new_privileges_and_for_any_user() {
    for (uid, nnp) in [(0, false), (1000, false), (0, true), (1000, true)] {
        let mut rig = rig!(
            "seccomp",
            &[
                "sh",
                "-c",
                "grep -c 'Seccomp:.*2' /proc/self/status; touch /tmp/x && mknod /tmp/p p"
            ]
        );
        std::fs::set_permissions(
            rig.rootfs().join("tmp"),
            std::os::unix::fs::PermissionsExt::from_mode(0o1777),
        )
        .unwrap();
        rig.spec["process"]["user"] = json!({ "uid": uid, "gid": 0 });
        rig.spec["process"]["noNewPrivileges"] = json!(nnp);
        rig.spec["linux"]["seccomp"] = deny(&["mknod", "mknodat"]);
        let output = rig.run_to_end();
        assert_eq!(text(&output.stdout), "1\n", "{uid} {nnp}: {}", text(&output.stderr));
        assert!(
            text(&output.stderr).contains("Operation not permitted"),
            "{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn paths_are_hidden_and_read_only() {
    let script = "cat /proc/timer_list; ls /sys/firmware; echo 1 > /proc/sys/kernel/hostname;
        cat /proc/keys; touch /sys/fs/cgroup/memory/x /sys/fs/cgroup/x; echo end";
    let rig = rig!("masked", &["sh", "-c", script]);
    let output = rig.run_to_end();
    assert_eq!(text(&output.stdout), "end\n");
    let errors = text(&output.stderr);
    assert!(errors.contains("/proc/sys/kernel/hostname: Read-only file system"), "{errors}");
    assert!(errors.matches("Read-only file system").count() >= 2, "{errors}");
}

#[test]
fn a_read_only_root_is_read_only() {
    let mut rig = rig!("readonly", &["sh", "-c", "touch /x; touch /dev/x && echo dev"]);
    rig.spec["root"]["readonly"] = json!(true);
    let output = rig.run_to_end();
    assert!(text(&output.stderr).contains("/x: Read-only file system"));
    assert_eq!(text(&output.stdout), "dev\n");
    assert!(!rig.rootfs().join("x").exists());
}

#[test]
fn the_runtimes_groups_do_not_leak() {
    let mut rig = rig!("groups", &["sh", "-c", "id -G; umask; echo $HOME"]);
    rig.spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000, "umask": 0o027 });
    assert_eq!(text(&rig.run_to_end().stdout), "1000\n0027\n/home/u\n");
    rig.spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000, "additionalGids": [1000, 33] });
    assert_eq!(text(&rig.run_to_end().stdout), "1000 33\n0022\n/home/u\n");
    rig.spec["process"]["user"] = json!({ "uid": 4_294_967_295_u32, "gid": 0 });
    assert!(!rig.create().status.success());
}

#[test]
fn limits_are_in_force_and_can_be_changed() {
    let mut rig = rig!("limits", &["sleep", "1000"]);
    rig.spec["linux"]["resources"]["memory"] = json!({ "limit": 67_108_864 });
    rig.spec["linux"]["resources"]["pids"] = json!({ "limit": 50 });
    rig.spec["linux"]["resources"]["cpu"] =
        json!({ "shares": 512, "quota": 50_000, "period": 100_000 });
    rig.start();
    let read = |controller: &str, one: &str, two: &str| {
        let dir = rig.cgroup(controller);
        let file = if dir.join(one).exists() { one } else { two };
        std::fs::read_to_string(dir.join(file)).unwrap().trim().to_owned()
    };
    let memory = || read("memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(memory(), "67108864");
    assert_eq!(read("pids", "pids.max", "pids.max"), "50");
    rig.ok(&["update", "--memory", "33554432", "--pids-limit", "-1", rig.id()]);
    assert_eq!(memory(), "33554432");
    assert_eq!(read("pids", "pids.max", "pids.max"), "max");
    let file = rig.path("resources");
    std::fs::write(&file, json!({ "memory": { "limit": 134_217_728 } }).to_string()).unwrap();
    rig.ok(&["update", "--resources", file.to_str().unwrap(), rig.id()]);
    assert_eq!(memory(), "134217728");
}

#[test]
fn a_device_outside_of_the_list_cannot_be_used() {
    let script = "mknod /tmp/disk b 7 0; head -c 1 /tmp/disk; head -c 1 /dev/zero | wc -c";
    let rig = rig!("devices", &["sh", "-c", script]);
    let output = rig.run_to_end();
    assert_eq!(text(&output.stdout), "1\n");
    assert!(text(&output.stderr).contains("Operation not permitted"), "{}", text(&output.stderr));
}

#[test]
fn a_paused_container_stands_still_and_dies_when_killed() {
    let rig = rig!("pause", &["sh", "-c", "while true; do echo x; sleep 0.01; done"]);
    rig.start();
    until("output", || std::fs::metadata(rig.path("out")).unwrap().len() > 0);
    rig.ok(&["pause", rig.id()]);
    assert_eq!(rig.status(), "paused");
    let before = std::fs::metadata(rig.path("out")).unwrap().len();
    std::thread::sleep(std::time::Duration::from_millis(150));
    assert_eq!(std::fs::metadata(rig.path("out")).unwrap().len(), before);
    assert!(!rig.exec(&["true"]).status.success());
    rig.ok(&["resume", rig.id()]);
    until("more output", || std::fs::metadata(rig.path("out")).unwrap().len() > before);
    rig.ok(&["pause", rig.id()]);
    rig.ok(&["kill", rig.id(), "KILL"]);
    rig.wait_status("stopped");
}

#[test]
fn a_terminal_arrives_at_the_console_socket() {
    let mut rig =
        rig!("tty", &["sh", "-c", "tty; stty size; test -c /dev/console && echo console"]);
    rig.spec["process"]["terminal"] = json!(true);
    rig.spec["process"]["consoleSize"] = json!({ "height": 33, "width": 77 });
    assert!(!rig.create().status.success(), "a terminal without a console socket");
    rig.write_spec();
    let path = rig.path("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let bundle = rig.bundle();
    let args = [
        "create",
        "--bundle",
        bundle.to_str().unwrap(),
        "--console-socket",
        path.to_str().unwrap(),
        rig.id(),
    ];
    let output = rig.run(&args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (stream, _) = listener.accept().unwrap();
    let master = receive_fd(&stream);
    rig.ok(&["start", rig.id()]);
    let seen = read_terminal(master);
    assert_eq!(seen, "/dev/pts/0\r\n33 77\r\nconsole\r\n");
}

fn read_terminal(master: std::os::fd::OwnedFd) -> String {
    let mut seen = String::new();
    let mut file = std::fs::File::from(master);
    let mut buffer = [0; 256];
    // The end of the last slave is EIO on the master.
    while let Ok(count @ 1..) = std::io::Read::read(&mut file, &mut buffer) {
        seen.push_str(&text(&buffer[..count]));
    }
    seen
}

fn receive_fd(stream: &std::os::unix::net::UnixStream) -> std::os::fd::OwnedFd {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    let mut name = [0; 64];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [std::io::IoSliceMut::new(&mut name)];
    rustix::net::recvmsg(stream, &mut into, &mut control, RecvFlags::empty()).unwrap();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message {
            return fds.next().unwrap();
        }
    }
    panic!("no descriptor came");
}

/// CVE-2019-5736: a container whose program is the runtime binary opens it for writing.
#[test]
fn the_runtime_binary_cannot_be_overwritten() {
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_pouch-runtime"));
    let rig = rig!("sealed", &["sleep", "1000"]);
    let before = std::fs::metadata(binary).unwrap();
    let hash = fingerprint(binary);
    rig.start();
    // `exec /proc/self/exe` runs the runtime itself inside the container.
    let output = rig.exec(&["/proc/self/exe", "--version"]);
    let attacker = rig.path("process.json");
    std::fs::write(&attacker, json!({
        "args": ["sh", "-c", "for p in /proc/[0-9]*/exe; do dd if=/dev/zero of=$p bs=1 count=1 conv=notrunc; done"],
        "env": ["PATH=/bin"], "cwd": "/", "user": { "uid": 0, "gid": 0 },
    }).to_string()).unwrap();
    let attacker = attacker.to_str().unwrap().to_owned();
    for _ in 0..5 {
        let _ = rig.run(&["exec", "--process", &attacker, rig.id()]);
    }
    drop(output);
    assert_eq!(fingerprint(binary), hash);
    let after = std::fs::metadata(binary).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());

    // The way of the incident: a handle on what the waiting process runs from, opened for
    // writing once nobody executes it any more.
    let waiting = rig!("sealed2", &["sleep", "1000"]);
    assert!(waiting.create().status.success());
    let state: Value = serde_json::from_str(&waiting.ok(&["state", waiting.id()])).unwrap();
    let handle = std::fs::File::open(format!("/proc/{}/exe", state["pid"])).unwrap();
    waiting.ok(&["start", waiting.id()]);
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let mut refusal = None;
    until("nobody executes the binary", || {
        let error = std::fs::File::options().write(true).open(&path).unwrap_err();
        let busy = error.raw_os_error() == Some(rustix::io::Errno::TXTBSY.raw_os_error());
        refusal = Some(error);
        !busy
    });
    let refusal = refusal.unwrap().raw_os_error();
    let allowed = [rustix::io::Errno::ROFS, rustix::io::Errno::PERM];
    assert!(allowed.iter().any(|e| Some(e.raw_os_error()) == refusal), "{refusal:?}");
}

/// Images choose what `/dev`, `/proc` and `/sys` of their root file system are.
#[test]
fn links_in_the_image_create_nothing_on_the_host() {
    for name in ["dev", "proc", "sys"] {
        for target in ["/canary", "../../../canary", "/tmp/../../../../canary"] {
            let rig = rig!("links", &["true"]);
            let canary = rig.path("canary");
            std::fs::create_dir(&canary).unwrap();
            let link = rig.rootfs().join(name);
            std::fs::remove_dir(&link).unwrap();
            let target = target.replace("/canary", canary.to_str().unwrap());
            std::os::unix::fs::symlink(&target, &link).unwrap();
            // Whether it fails or stays inside, nothing may appear outside.
            let output = rig.run_to_end();
            let made = std::fs::read_dir(&canary).unwrap().count();
            assert_eq!(made, 0, "{name} -> {target}: {}", text(&output.stderr));
        }
    }
}

#[test]
fn exec_works_with_a_terminal_and_in_a_user_namespace() {
    let mut rig = rig!("exectty", &["sleep", "1000"]);
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    rig.spec["linux"]["uidMappings"] = map.clone();
    rig.spec["linux"]["gidMappings"] = map;
    rig.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
    rig.start();
    let output = rig.exec(&["sh", "-c", "id -u; head -n 1 /proc/self/uid_map"]);
    let words: Vec<String> = text(&output.stdout).split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["0", "0", "100000", "65536"], "{}", text(&output.stderr));
    let path = rig.path("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let args =
        ["exec", "--detach", "--tty", "--console-socket", path.to_str().unwrap(), rig.id(), "tty"];
    let output = rig.run(&args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (stream, _) = listener.accept().unwrap();
    assert_eq!(read_terminal(receive_fd(&stream)), "/dev/pts/0\r\n");
}

fn fingerprint(path: &std::path::Path) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    std::fs::read(path).unwrap().hash(&mut hasher);
    hasher.finish()
}

#[test]
fn a_user_namespace_maps_root_away() {
    let mut rig =
        rig!("userns", &["sh", "-c", "id -u; head -n 1 /proc/self/uid_map; touch /tmp/x"]);
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    rig.spec["linux"]["uidMappings"] = map.clone();
    rig.spec["linux"]["gidMappings"] = map;
    rig.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
    let output = rig.run_to_end();
    let words: Vec<String> = text(&output.stdout).split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["0", "0", "100000", "65536"], "{}", text(&output.stderr));
    assert!(!rig.rootfs().join("tmp/x").exists(), "host root's directory was written");
}

#[test]
fn namespaces_of_another_container_are_joined() {
    let rig = rig!("sandbox", &["sleep", "1000"]);
    rig.start();
    let state: Value = serde_json::from_str(&rig.ok(&["state", rig.id()])).unwrap();
    let pid = state["pid"].as_i64().unwrap();
    let mut second = rig!(
        "member",
        &["sh", "-c", "hostname; readlink /proc/self/ns/net; ls /proc | grep -c '^[0-9]'"]
    );
    second.spec["hostname"] = Value::Null;
    second.spec["linux"]["namespaces"] = json!([
        { "type": "mount" }, { "type": "cgroup" },
        { "type": "pid", "path": format!("/proc/{pid}/ns/pid") },
        { "type": "network", "path": format!("/proc/{pid}/ns/net") },
        { "type": "ipc", "path": format!("/proc/{pid}/ns/ipc") },
        { "type": "uts", "path": format!("/proc/{pid}/ns/uts") },
    ]);
    let output = second.run_to_end();
    let lines: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
    let net = std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!(lines.first().map(String::as_str), Some("box"), "{}", text(&output.stderr));
    assert_eq!(lines.get(1).map(String::as_str), net.to_str());
    assert!(lines.get(2).unwrap().parse::<u32>().unwrap() >= 3, "{lines:?}");
}

#[test]
fn hooks_run_where_and_when_they_should() {
    let mut rig = rig!("hooks", &["true"]);
    let note = rig.path("note");
    let hook = |name: &str| {
        let script = format!("cat >> {0}; echo ' {name}' >> {0}", note.display());
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }])
    };
    rig.spec["hooks"] = json!({
        "createRuntime": hook("createRuntime"), "poststart": hook("poststart"),
        "poststop": hook("poststop"),
    });
    assert!(rig.run_to_end().status.success());
    let lines = std::fs::read_to_string(&note).unwrap();
    let names: Vec<&str> = lines.lines().filter_map(|l| l.rsplit(' ').next()).collect();
    assert_eq!(names, ["createRuntime", "poststart", "poststop"]);
    let state: Value =
        serde_json::from_str(lines.lines().next().unwrap().rsplit_once(' ').unwrap().0).unwrap();
    assert_eq!(state["bundle"].as_str().unwrap(), rig.bundle().to_str().unwrap());
    rig.spec["hooks"] = json!({ "createRuntime": [{ "path": "/bin/false" }] });
    assert!(!rig.create().status.success(), "a failing hook is a failing create");
}

#[test]
fn the_version_and_the_features_are_in_the_usual_form() {
    let rig = rig!("version", &["true"]);
    let version = rig.ok(&["--version"]);
    let lines: Vec<&str> = version.lines().collect();
    assert!(lines[0].starts_with("pouch-runtime version "), "{version}");
    assert_eq!(lines[1], "spec: 1.2.0");
    let features: Value = serde_json::from_str(&rig.ok(&["features"])).unwrap();
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    assert!(!rig.run(&["events", "--stats", "x"]).status.success());
    assert!(!rig.run(&["state", "nobody"]).status.success());
    assert_eq!(rig.command(&["--version"]).stdin(Stdio::null()).status().unwrap().code(), Some(0));
}
