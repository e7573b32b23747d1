//! Resource limits, as the container's own control group shows them.

use std::path::PathBuf;

use pouch_testkit::{Daemon, daemon};

/// The value of a file of the container's control group of a version 1 controller.
fn value(d: &Daemon, container: &str, controller: &str, file: &str) -> Option<String> {
    let pid = d.container_pid(container);
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        fields.next().unwrap().split(',').any(|c| c == controller).then(|| fields.next().unwrap())
    })?;
    let root = PathBuf::from("/sys/fs/cgroup").join(controller);
    std::fs::read_to_string(root.join(path.trim_start_matches('/')).join(file))
        .ok()
        .map(|text| text.trim().to_owned())
}

fn is_v1(controller: &str) -> bool {
    let v1 = PathBuf::from("/sys/fs/cgroup").join(controller).join("cgroup.procs").exists();
    if !v1 {
        println!("skipped: no version 1 controller {controller}");
    }
    v1
}

#[test]
fn limits_reach_the_control_groups_of_version_1() {
    if !["memory", "cpu", "pids", "cpuset"].into_iter().all(is_v1) {
        return;
    }
    daemon(|d| {
        d.docker(&[
            "run",
            "-d",
            "--name",
            "box",
            "-m",
            "64m",
            "--memory-reservation",
            "32m",
            "--memory-swap",
            "-1",
            "--cpus",
            "0.5",
            "--cpu-shares",
            "512",
            "--pids-limit",
            "33",
            "--cpuset-cpus",
            "0",
            "busybox",
            "sleep",
            "600",
        ])
        .check();
        let v = |controller: &str, file: &str| value(d, "box", controller, file).unwrap();
        assert_eq!(v("memory", "memory.limit_in_bytes"), (64 << 20).to_string());
        assert_eq!(v("memory", "memory.soft_limit_in_bytes"), (32 << 20).to_string());
        assert_eq!(v("cpu", "cpu.cfs_quota_us"), "50000");
        assert_eq!(v("cpu", "cpu.cfs_period_us"), "100000");
        assert_eq!(v("cpu", "cpu.shares"), "512");
        assert_eq!(v("pids", "pids.max"), "33");
        assert_eq!(v("cpuset", "cpuset.cpus"), "0");
        d.docker(&["update", "-m", "128m", "--memory-swap", "-1", "--pids-limit", "44", "box"])
            .check();
        assert_eq!(v("memory", "memory.limit_in_bytes"), (128 << 20).to_string());
        assert_eq!(v("pids", "pids.max"), "44");
        assert_eq!(d.inspect("box")["HostConfig"]["Memory"], 128 << 20);
        d.restart();
        d.docker(&["restart", "-t", "0", "box"]).check();
        assert_eq!(
            value(d, "box", "pids", "pids.max").unwrap(),
            "44",
            "an update outlives restarts"
        );
    });
}

#[test]
fn a_container_out_of_memory_is_killed_and_says_so() {
    if !is_v1("memory") {
        return;
    }
    daemon(|d| {
        let script = "x=a; while :; do x=$x$x; done";
        let words = ["run", "--name", "box", "-m", "16m", "--memory-swap", "16m", "busybox", "sh"];
        d.docker(&[&words[..], &["-c", script]].concat()).exits(137);
        assert_eq!(d.inspect("box")["State"]["OOMKilled"], true);
        let events = ["events", "--since", "1m", "--until=-1s", "--filter", "event=oom"];
        assert!(d.docker(&events).ok().contains(" oom "));
        d.docker(&["run", "--name", "fine", "-m", "16m", "busybox", "true"]).check();
        assert_eq!(d.inspect("fine")["State"]["OOMKilled"], false);
    });
}

#[test]
fn the_process_limit_holds() {
    if !is_v1("pids") {
        return;
    }
    daemon(|d| {
        let script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; wait";
        let run = d.docker(&["run", "--rm", "--pids-limit", "5", "busybox", "sh", "-c", script]);
        assert!(run.stderr.contains("fork"), "{}", run.stderr);
    });
}

#[test]
fn impossible_limits_are_refused() {
    daemon(|d| {
        for (words, said) in [
            (&["--memory", "1m"][..], "memory"),
            (&["--memory", "64m", "--memory-swap", "32m"], "memory"),
            (&["--cpus", "10000"], "cpu"),
            (&["--cpuset-cpus", "9999"], "cpu"),
            (&["--cpuset-cpus", "0-4294967295"], "cpu"),
            (&["--cpu-period", "10"], "period"),
            (&["--oom-score-adj", "1001"], "oom"),
        ] {
            let all = [&["create"], words, &["busybox"]].concat();
            let run = d.docker(&all);
            run.exits(1).fails_with(said);
        }
    });
}

#[test]
fn a_cgroup_parent_of_one_s_own_is_used() {
    daemon(|d| {
        let parent = format!("{}/own", d.cgroup_parent());
        let words =
            ["run", "-d", "--name", "box", "--cgroup-parent", &parent, "busybox", "sleep", "9"];
        d.docker(&words).check();
        let pid = d.container_pid("box");
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(groups.contains(&format!(":{parent}/")), "{groups}");
        d.docker(&["create", "--cgroup-parent", "../../x", "busybox"]).fails_with("cgroup");
        d.docker(&["rm", "-f", "box"]).check();
        // The parent was asked for by the user, so it is not the daemon's to remove.
        for root in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let _ = std::fs::remove_dir(root.path().join(parent.trim_start_matches('/')));
        }
    });
}

#[test]
fn stats_tell_what_is_used() {
    daemon(|d| {
        let script = "while :; do :; done";
        d.docker(&["run", "-d", "--name", "box", "-m", "64m", "busybox", "sh", "-c", script])
            .check();
        let stats = d.get("/containers/box/stats?stream=0").is(200).json();
        assert_eq!(stats["memory_stats"]["limit"], 64 << 20);
        assert!(stats["memory_stats"]["usage"].as_u64().unwrap() > 0, "{stats}");
        let used = |of: &str| stats[of]["cpu_usage"]["total_usage"].as_u64().unwrap();
        assert!(used("cpu_stats") > used("precpu_stats"), "{stats}");
        assert!(stats["networks"]["eth0"]["rx_bytes"].is_u64(), "{stats}");
        let line =
            d.docker(&["stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", "box"]);
        assert!(line.ok().starts_with("box ") && line.ok().ends_with("/ 64MiB"), "{}", line.ok());
    });
}
