//! Options of `docker run` that shape the process and its file system.

use pouch_testkit::{daemon, embedded};

#[test]
fn user_by_name_number_and_group() {
    daemon(|d| {
        let id = |user: &str| {
            let words = ["run", "--rm", "-u", user, "busybox", "sh", "-c", "id -u; id -g; id -G"];
            d.docker(&words).ok().replace('\n', " ")
        };
        assert_eq!(id("alice"), "1000 1000 1000 2000");
        assert_eq!(id("1000"), "1000 1000 1000 2000");
        assert_eq!(id("alice:extra"), "1000 2000 2000");
        assert_eq!(id("1234"), "1234 0 0");
        assert_eq!(id("1234:5678"), "1234 5678 5678");
        let words = ["run", "--rm", "-u", "1234", "--group-add", "extra", "--group-add", "77"];
        let run = d.docker(&[&words[..], &["busybox", "id", "-G"]].concat());
        let mut groups: Vec<u32> = run.ok().split(' ').map(|gid| gid.parse().unwrap()).collect();
        groups.sort_unstable();
        assert_eq!(groups, [0, 77, 2000]);
        d.import("alice", pouch_testkit::busybox(), &["USER alice"]);
        assert_eq!(d.docker(&["run", "--rm", "alice", "id", "-un"]).ok(), "alice");
        assert_eq!(d.docker(&["run", "--rm", "alice", "sh", "-c", "echo $HOME"]).ok(), "/home");
    });
}

#[test]
fn hostname_domain_and_workdir() {
    daemon(|d| {
        let words = ["run", "--rm", "-h", "box", "--domainname", "example.org", "-w", "/new/dir"];
        let script = "hostname; cat /proc/sys/kernel/domainname; cat /etc/hostname; pwd";
        let run = d.docker(&[&words[..], &["busybox", "sh", "-c", script]].concat());
        assert_eq!(run.ok(), "box\nexample.org\nbox\n/new/dir");
        let id = d.docker(&["create", "busybox", "hostname"]).ok().to_owned();
        assert_eq!(d.docker(&["start", "-a", &id]).ok(), &id[..12]);
    });
}

#[test]
fn init_reaps_and_forwards() {
    daemon(|d| {
        let script = "(sleep 0.1 &) ; sleep 0.5; ps -o pid,stat,args";
        let words = ["run", "--rm", "--init", "busybox", "sh", "-c", script];
        let run = d.docker(&words);
        let lines: Vec<&str> = run.ok().lines().map(str::trim).collect();
        assert!(lines.iter().any(|l| l.starts_with("1 ") && l.contains("init")), "{lines:?}");
        assert!(!lines.iter().any(|l| l.contains(" Z")), "a zombie: {lines:?}");
        let trap = "trap 'exit 13' TERM; echo up; while :; do sleep 0.05; done";
        d.docker(&["run", "-d", "--init", "--name", "box", "busybox", "sh", "-c", trap]).check();
        pouch_testkit::eventually("up", || d.docker(&["logs", "box"]).stdout == "up\n");
        d.docker(&["stop", "box"]).check();
        assert_eq!(d.inspect("box")["State"]["ExitCode"], 13);
        d.docker(&["run", "--rm", "--init", "busybox", "sh", "-c", "exit 14"]).exits(14);
        d.docker(&["run", "--rm", "--init", "busybox", "/nowhere"]).exits(127);
    });
}

#[test]
fn a_read_only_root_takes_tmpfs_and_volumes() {
    daemon(|d| {
        let script = "touch /x 2>&1; touch /tmp/t && touch /v/v && echo fine; \
                      grep ' /tmp ' /proc/mounts; df -k /tmp | tail -1 | awk '{print $2}'";
        let words = ["run", "--rm", "--read-only", "--tmpfs", "/tmp:size=1m,mode=1770", "-v", "/v"];
        let run = d.docker(&[&words[..], &["busybox", "sh", "-c", script]].concat());
        let text = run.ok();
        assert!(text.starts_with("touch: /x: Read-only file system\nfine\n"), "{text}");
        assert!(text.contains("nosuid,nodev,noexec"), "{text}");
        assert!(text.ends_with("\n1024"), "{text}");
    });
}

#[test]
fn shm_size_ulimits_and_sysctls() {
    daemon(|d| {
        let words = [
            "run",
            "--rm",
            "--shm-size",
            "2m",
            "--ulimit",
            "nofile=100:200",
            "--sysctl",
            "net.ipv4.ip_unprivileged_port_start=99",
            "busybox",
            "sh",
            "-c",
            "df -k /dev/shm | tail -1 | awk '{print $2}'; ulimit -n; ulimit -Hn; \
             cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
        ];
        assert_eq!(d.docker(&words).ok(), "2048\n100\n200\n99");
        d.docker(&["run", "--sysctl", "kernel.core_pattern=x", "busybox"])
            .exits(125)
            .fails_with("kernel.core_pattern");
        let host = ["run", "--network", "host", "--sysctl", "net.ipv4.ip_forward=1", "busybox"];
        d.docker(&host).exits(125).fails_with("sysctl");
        d.docker(&["run", "--ulimit", "nofile=200:100", "busybox"]).exits(125);
    });
}

#[test]
fn devices_are_there_only_when_given() {
    if !std::path::Path::new("/dev/net/tun").exists() {
        println!("skipped: no /dev/net/tun");
        return;
    }
    daemon(|d| {
        let script = "exec 3< /dev/net/tun && stat -c %F /dev/net/tun";
        let run = |words: &[&str]| {
            d.docker(&[&["run", "--rm"], words, &["busybox", "sh", "-c", script]].concat())
        };
        assert_ne!(run(&[]).code(), 0);
        assert_eq!(run(&["--device", "/dev/net/tun"]).ok(), "character special file");
        let other = ["run", "--rm", "--device", "/dev/net/tun:/dev/other:r", "busybox", "sh", "-c"];
        d.docker(&[&other[..], &["exec 3< /dev/other"]].concat()).check();
        d.docker(&[&other[..], &["exec 3<> /dev/other"]].concat()).fails_with("not permitted");
        let none = ["run", "--device", "/dev/no-such", "busybox"];
        d.docker(&none).exits(125).fails_with("/dev/no-such");
        // A node of one's own does not open without a rule, even for root with CAP_MKNOD.
        let made = "mknod /tmp/tun c 10 200 && exec 3< /tmp/tun";
        d.docker(&["run", "--rm", "busybox", "sh", "-c", made]).fails_with("not permitted");
        let rule = ["run", "--rm", "--device-cgroup-rule", "c 10:200 r", "busybox", "sh", "-c"];
        d.docker(&[&rule[..], &[made]].concat()).check();
    });
}

#[test]
fn namespaces_can_be_shared() {
    daemon(|d| {
        d.docker(&[
            "run",
            "-d",
            "--name",
            "first",
            "--ipc",
            "shareable",
            "busybox",
            "sleep",
            "600",
        ])
        .check();
        let link = |words: &[&str], kind: &str| {
            let path = format!("/proc/self/ns/{kind}");
            let all = [&["run", "--rm"], words, &["busybox", "readlink", &path]].concat();
            d.docker(&all).ok().to_owned()
        };
        let host = |kind: &str| {
            let link = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            link.to_str().unwrap().to_owned()
        };
        let a = |kind: &str| {
            let path = format!("/proc/1/ns/{kind}");
            d.docker(&["exec", "first", "readlink", &path]).ok().to_owned()
        };
        assert_eq!(link(&["--pid", "host"], "pid"), host("pid"));
        assert_eq!(link(&["--uts", "host"], "uts"), host("uts"));
        assert_eq!(link(&["--ipc", "host"], "ipc"), host("ipc"));
        assert_eq!(link(&["--pid", "container:first"], "pid"), a("pid"));
        assert_eq!(link(&["--ipc", "container:first"], "ipc"), a("ipc"));
        assert_eq!(link(&["--network", "container:first"], "net"), a("net"));
        for kind in ["pid", "uts", "ipc", "net", "mnt"] {
            assert_ne!(link(&[], kind), host(kind), "{kind}");
            assert_ne!(link(&[], kind), a(kind), "{kind}");
        }
        let words = ["run", "--rm", "--pid", "container:first", "busybox", "ps"];
        assert!(d.docker(&words).ok().contains("sleep 600"));
        d.docker(&["run", "--pid", "container:nobody", "busybox"]).exits(125).fails_with("nobody");
    });
}

#[test]
fn other_runtimes_can_be_chosen() {
    daemon(|d| {
        for runtime in ["runc", "crun"] {
            if !pouch_testkit::have(runtime) {
                continue;
            }
            let words = ["run", "--rm", "--runtime", runtime, "busybox", "echo", "by", runtime];
            let run = d.docker(&words);
            if run.stderr.contains("cgroups in hybrid mode not supported") {
                println!("{runtime} refuses this machine's control groups");
                continue;
            }
            assert_eq!(run.ok(), format!("by {runtime}"));
            let name = format!("long-{runtime}");
            d.docker(&[
                "run",
                "-d",
                "--runtime",
                runtime,
                "--name",
                &name,
                "busybox",
                "sleep",
                "600",
            ])
            .check();
            assert_eq!(d.docker(&["exec", &name, "echo", "in"]).ok(), "in");
            d.docker(&["exec", &name, "/nowhere"]).exits(127);
            d.docker(&["pause", &name]).check();
            d.docker(&["unpause", &name]).check();
            d.docker(&["stop", "-t", "0", &name]).check();
        }
        d.docker(&["run", "--runtime", "no-such", "busybox"]).exits(125).fails_with("no-such");
    });
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    daemon(|d| {
        for (words, said) in [
            (&["--storage-opt", "size=1G"][..], "storage-opt"),
            (&["--isolation", "hyperv"], "isolation"),
            (&["--volume-driver", "nfs"], "nfs"),
            (&["--network", "no-such-network"], "no-such-network"),
        ] {
            let all = [&["create"], words, &["busybox"]].concat();
            let run = d.docker(&all);
            run.exits(1);
            let text = run.stderr.to_lowercase().replace(['-', '.'], "");
            assert!(text.contains(&said.replace(['-', '.'], "")), "{words:?}: {}", run.stderr);
        }
        // Which shims a containerd can start only a start shows.
        if embedded("a shim of somebody else's is refused at create") {
            d.docker(&["create", "--runtime", "io.containerd.kata.v2", "busybox"])
                .fails_with("io.containerd.kata.v2: shims of containerd need pouchd --backend");
        }
    });
}
