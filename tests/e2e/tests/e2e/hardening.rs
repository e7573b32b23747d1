//! What a container may not do without being told that it may.

use pouch_testkit::{Archive, daemon};

/// moby's fourteen: CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP
/// NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE.
const DEFAULT_CAPABILITIES: &str = "00000000a80425fb";

#[test]
fn capabilities_are_the_default_fourteen_and_change_as_told() {
    daemon(|d| {
        let caps = |words: &[&str]| {
            let all =
                [&["run", "--rm"], words, &["busybox", "grep", "^Cap", "/proc/1/status"]].concat();
            let text = d.docker(&all).ok().to_owned();
            let set = |name: &str| {
                let line = text.lines().find(|l| l.starts_with(name)).unwrap();
                line.split('\t').nth(1).unwrap().to_owned()
            };
            assert_eq!(set("CapInh"), "0000000000000000");
            assert_eq!(set("CapAmb"), "0000000000000000");
            (set("CapEff"), set("CapBnd"))
        };
        let default = DEFAULT_CAPABILITIES.to_owned();
        assert_eq!(caps(&[]), (default.clone(), default.clone()));
        assert_eq!(caps(&["-u", "alice"]), ("0000000000000000".into(), default));
        assert_eq!(caps(&["--cap-drop", "all"]).1, "0000000000000000");
        assert_eq!(caps(&["--cap-drop", "ALL", "--cap-add", "chown"]).1, "0000000000000001");
        assert_eq!(caps(&["--cap-add", "SYS_ADMIN"]).1, "00000000a82425fb");
        d.docker(&["create", "--cap-add", "NO_SUCH", "busybox"]).fails_with("no_such");
    });
}

#[test]
fn masked_and_read_only_paths() {
    daemon(|d| {
        let script = "cat /proc/keys | wc -c; ls /sys/firmware | wc -l; \
                      echo x > /proc/sys/kernel/domainname; echo 1 > /sys/kernel/x";
        let run = d.docker(&["run", "--rm", "busybox", "sh", "-c", script]);
        assert_eq!(run.stdout, "0\n0\n");
        assert_eq!(run.stderr.matches("ead-only file system").count(), 2, "{}", run.stderr);
        let open =
            ["run", "--rm", "--security-opt", "systempaths=unconfined", "busybox", "sh", "-c"];
        d.docker(&[&open[..], &["test -r /proc/timer_list && cat /proc/keys"]].concat()).check();
        let privileged = "echo privileged > /proc/sys/kernel/domainname && hostname -d; mount";
        let words = ["run", "--rm", "--privileged", "busybox", "sh", "-c", privileged];
        let text = d.docker(&words).ok().to_owned();
        assert!(text.contains("sysfs (rw"), "{text}");
    });
}

#[test]
fn dangerous_system_calls_fail() {
    daemon(|d| {
        let run = |words: &[&str], script: &str| {
            let all = [&["run", "--rm"], words, &["busybox", "sh", "-c", script]].concat();
            d.docker(&all)
        };
        for script in [
            "unshare -U true",
            "unshare -m true",
            "mount -t tmpfs x /tmp",
            "mount -t cgroup -o memory x /tmp",
            "mknod /tmp/sda b 8 0 && head -c1 /tmp/sda",
            "chroot /proc/1/root mount -t proc x /tmp",
            "hostname other",
            "insmod /bin/busybox",
            "ip link add x type dummy",
        ] {
            let code = run(&[], script).code();
            assert_ne!(code, 0, "{script}");
        }
        let status = "grep -E '^(Seccomp|NoNewPrivs):' /proc/1/status | tr -d '\\t\\n'";
        assert_eq!(run(&[], status).ok(), "NoNewPrivs:0Seccomp:2");
        let without = ["--security-opt", "seccomp=unconfined"];
        assert_eq!(run(&without, status).ok(), "NoNewPrivs:0Seccomp:0");
        let nnp = ["--security-opt", "no-new-privileges"];
        assert_eq!(run(&nnp, status).ok(), "NoNewPrivs:1Seccomp:2");
        assert_eq!(run(&["--privileged"], status).ok(), "NoNewPrivs:0Seccomp:0");
        let profile = d.path("profile.json");
        let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":13}]}"#;
        std::fs::write(&profile, text).unwrap();
        let own = format!("seccomp={}", profile.display());
        let denied = run(&["--security-opt", &own], "mkdir /tmp/x");
        denied.fails_with("permission denied");
        d.docker(&["create", "--security-opt", "odd=1", "busybox"]).fails_with("odd");
    });
}

#[test]
fn no_descriptor_of_the_engine_is_inherited() {
    daemon(|d| {
        let script = "ls /proc/1/fd";
        d.docker(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]).check();
        let list = d.docker(&["exec", "box", "sh", "-c", script]).ok().replace('\n', " ");
        assert_eq!(list, "0 1 2");
        let own =
            d.docker(&["exec", "box", "sh", "-c", "exec ls -l /proc/self/fd"]).ok().to_owned();
        let entries: Vec<&str> = own.lines().filter(|l| l.starts_with('l')).collect();
        // ls itself has the directory open as 3.
        assert_eq!(entries.len(), 4, "{own}");
        for n in 3..20 {
            let workdir = format!("/proc/self/fd/{n}");
            let run = d.docker(&["run", "--rm", "-w", &workdir, "busybox", "pwd"]);
            assert_ne!(run.code(), 0, "{workdir}: {}", run.stdout);
            let run = d.docker(&["exec", "-w", &workdir, "box", "pwd"]);
            assert_ne!(run.code(), 0, "{workdir}: {}", run.stdout);
        }
    });
}

#[test]
fn numbers_out_of_range_never_become_root() {
    daemon(|d| {
        let mut archive = Archive::busybox();
        let long = "1".repeat(30);
        let passwd =
            format!("root:x:0:0::/:/bin/sh\n{long}:x:0:0::/:/bin/sh\n0x0:x:0:0::/:/bin/sh\n");
        archive.file("etc/passwd", 0o644, passwd.as_bytes());
        d.import("ids", &archive.finish(), &[]);
        for user in ["4294967295", "2147483648", "4294967296", "-1", &long, "1:4294967296"] {
            let run = d.docker(&["run", "--rm", &format!("--user={user}"), "ids", "id", "-u"]);
            assert_ne!(run.code(), 0, "--user {user} runs as {}", run.stdout);
            assert!(!run.stdout.contains('0'), "--user {user} is root");
        }
    });
}

#[test]
fn a_hostile_etc_passwd_or_dev_harms_nobody() {
    daemon(|d| {
        let canary = d.path("canary");
        std::fs::create_dir(&canary).unwrap();
        let outside = canary.to_str().unwrap();
        let up = format!("{}{}", "../".repeat(20), &outside[1..]);
        for (number, dir) in ["dev", "proc", "sys", "etc"].into_iter().enumerate() {
            for (variant, target) in [outside, &up].into_iter().enumerate() {
                let mut archive = Archive::new();
                archive.dir("bin", 0o755).link(dir, target);
                archive.file("bin/busybox", 0o755, &std::fs::read("/bin/busybox").unwrap());
                archive.link("bin/sh", "busybox").link("bin/true", "busybox");
                let name = format!("links:{number}{variant}");
                d.import(&name, &archive.finish(), &[]);
                // An error or a container that works within its root: the canary decides.
                let _ = d.docker(&["run", "--rm", "-t", &name, "/bin/true"]);
            }
        }
        for file in ["hosts", "resolv.conf", "hostname", "mtab", "passwd", "group"] {
            let mut archive = Archive::busybox();
            archive.link(&format!("etc/{file}"), &format!("{outside}/made"));
            d.import(&format!("file:{file}"), &archive.finish(), &[]);
            let _ = d.docker(&["run", "--rm", &format!("file:{file}"), "true"]);
        }
        assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 0);
        // Endless ones end.
        let mut archive = Archive::busybox();
        archive.link("etc/passwd", "/dev/zero");
        d.import("zero", &archive.finish(), &[]);
        let began = std::time::Instant::now();
        d.docker(&["run", "--rm", "-u", "alice", "zero", "true"]).exits(125);
        assert!(began.elapsed() < std::time::Duration::from_secs(10));
    });
}

#[test]
fn control_characters_are_refused_where_lines_are_made() {
    daemon(|d| {
        for words in [
            &["--add-host", "a\nb:1.2.3.4"][..],
            &["--hostname", "a\nb"],
            &["--dns-search", "a\nnameserver 1.2.3.4"],
            &["--dns-option", "a\nb"],
        ] {
            let all = [&["create"], words, &["busybox"]].concat();
            assert_ne!(d.docker(&all).code(), 0, "{words:?}");
        }
    });
}

#[test]
fn the_runtime_cannot_be_overwritten_from_inside() {
    daemon(|d| {
        let before = std::fs::read(pouch_testkit::program("pouch-runtime")).unwrap();
        let mut archive = Archive::busybox();
        archive.link("entry", "/proc/self/exe");
        d.import("self", &archive.finish(), &[]);
        let _ = d.docker(&["run", "--rm", "self", "/entry", "--version"]);
        d.docker(&[
            "run",
            "-d",
            "--name",
            "box",
            "busybox",
            "sh",
            "-c",
            "while :; do for p in /proc/[0-9]*; do echo x 2>/dev/null >> $p/exe; done; done",
        ])
        .check();
        for _ in 0..10 {
            let _ = d.docker(&["exec", "box", "true"]);
        }
        d.docker(&["kill", "box"]).check();
        let after = std::fs::read(pouch_testkit::program("pouch-runtime")).unwrap();
        assert!(before == after, "the runtime's file changed");
    });
}

#[test]
fn state_and_data_are_closed_to_other_users() {
    use std::os::unix::fs::MetadataExt as _;
    daemon(|d| {
        d.docker(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]).check();
        for root in [d.data_root(), d.exec_root()] {
            let mode = std::fs::metadata(&root).unwrap().mode() & 0o777;
            assert_eq!(mode & 0o066, 0, "{} is {mode:o}", root.display());
        }
        let socket = std::fs::metadata(d.socket()).unwrap().mode() & 0o777;
        assert!(socket == 0o600 || socket == 0o660, "{socket:o}");
        // No abstract sockets: a container on the host's network could talk to them.
        let listening = d.netns().command("cat").arg("/proc/net/unix").output().unwrap();
        let listening = String::from_utf8_lossy(&listening.stdout).into_owned();
        let ours = listening.lines().filter(|l| l.contains("@") && l.contains("pouch"));
        assert_eq!(ours.count(), 0, "{listening}");
    });
}
