//! What a crash, a reboot or a lost database leaves: everything.

use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

use pouch_testkit::{Daemon, daemon, eventually};
use rustix::process::{Pid, Signal, kill_process};

/// How long after the start of the daemon everything is to be known.
const SOON: Duration = Duration::from_secs(10);

fn run(d: &Daemon, name: &str, options: &[&str], script: &str) {
    let words =
        [&["run", "-d", "--name", name], options, &["busybox", "sh", "-c", script]].concat();
    d.docker(&words).check();
}

fn end(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[test]
fn twenty_containers_survive_the_daemon_s_crash() {
    daemon(|d| {
        let loops = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.05; done";
        for n in 0..8 {
            run(d, &format!("on{n}"), &["--network", "none"], loops);
        }
        for n in 0..8 {
            // Ends while nobody looks, each with a code of its own.
            let script = format!("trap 'exit {}' USR1; while :; do sleep 0.05; done", 20 + n);
            run(d, &format!("off{n}"), &[], &script);
        }
        run(d, "paused", &[], loops);
        d.docker(&["pause", "paused"]).check();
        run(d, "tty", &["-t"], loops);
        run(d, "rm", &["--rm"], "trap 'exit 5' USR1; while :; do sleep 0.05; done");
        run(
            d,
            "always",
            &["--restart", "always"],
            "trap 'exit 6' USR1; while :; do sleep 0.05; done",
        );
        // The traps are set.
        std::thread::sleep(Duration::from_millis(500));
        let kept = ["on0", "on1", "on7", "paused", "tty"];
        let pids: Vec<u32> = kept.iter().map(|name| d.container_pid(name)).collect();
        let off: Vec<u32> = (0..8).map(|n| d.container_pid(&format!("off{n}"))).collect();
        let (rm, always) = (d.container_pid("rm"), d.container_pid("always"));
        d.kill9();
        let died = Instant::now();
        off.iter().chain([&rm, &always]).for_each(|pid| end(*pid, Signal::USR1));
        // Lines come while nobody listens.
        std::thread::sleep(Duration::from_secs(1));
        let began = Instant::now();
        d.start_again();
        assert!(began.elapsed() < Duration::from_secs(2), "answers after {:?}", began.elapsed());
        for (name, pid) in kept.iter().zip(&pids) {
            assert_eq!(d.container_pid(name), *pid, "{name}");
        }
        assert_eq!(d.state("paused"), "paused");
        for n in 0..8 {
            let name = format!("off{n}");
            eventually(&format!("{name} is known to have ended"), || d.state(&name) == "exited");
            let state = d.inspect(&name)["State"].clone();
            assert_eq!(state["ExitCode"], 20 + n, "{name}");
            // The time is of the end, not of its discovery.
            let shown =
                d.docker(&["inspect", "-f", "{{.State.FinishedAt}}", &name]).ok().to_owned();
            let words = ["-d", &shown, "+%s%3N"];
            let date = std::process::Command::new("date").args(words).output().unwrap();
            let finished: u128 = String::from_utf8(date.stdout).unwrap().trim().parse().unwrap();
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            let ago = Duration::from_millis(u64::try_from(now.as_millis() - finished).unwrap());
            assert!(ago + Duration::from_millis(500) > died.elapsed().min(SOON), "{name}: {ago:?}");
        }
        eventually("--rm was done", || d.get("/containers/rm/json").status == 404);
        eventually("always runs again", || d.state("always") == "running");
        assert_ne!(d.container_pid("always"), always);
        d.docker(&["unpause", "paused"]).check();
        for name in ["on0", "on7", "tty"] {
            d.docker(&["stop", "-t", "0", name]).check();
            let logs = d.docker(&["logs", name]);
            let lines: Vec<&str> = logs.ok().lines().map(|line| line.trim_end()).collect();
            assert!(lines.len() > 15, "{name}: {} lines", lines.len());
            for (n, line) in lines.iter().enumerate() {
                assert_eq!(*line, format!("line {n}"), "{name}");
            }
        }
        assert_eq!(d.docker(&["exec", "on1", "echo", "in"]).ok(), "in");
    });
}

#[test]
fn streams_and_waits_come_back_after_a_crash() {
    daemon(|d| {
        let script = "trap 'exit 3' USR1; while read x; do echo got $x; done; sleep 600 & wait";
        run(d, "box", &["-i"], script);
        d.crash();
        let mut attach = d.docker_live(&["attach", "box"]);
        std::thread::sleep(Duration::from_millis(500));
        attach.send("one\n");
        attach.expect("got one");
        let mut wait = d.docker_live(&["wait", "box"]);
        std::thread::sleep(Duration::from_millis(300));
        d.docker(&["kill", "-s", "USR1", "box"]).check();
        wait.expect("3");
        attach.wait();
    });
}

#[test]
fn repeated_crashes_lose_nothing() {
    daemon(|d| {
        run(d, "box", &[], "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.02; done");
        let pid = d.container_pid("box");
        for round in 0..5 {
            d.crash();
            assert_eq!(d.container_pid("box"), pid, "round {round}");
        }
        d.docker(&["stop", "-t", "0", "box"]).check();
        let logs = d.docker(&["logs", "box"]);
        assert!(logs.ok().lines().enumerate().all(|(n, line)| line == format!("line {n}")));
    });
}

#[test]
fn a_reboot_is_a_restart_with_every_task_gone() {
    daemon(|d| {
        run(d, "always", &["--restart", "always", "-p", "8080:80"], "sleep 600");
        run(d, "unless", &["--restart", "unless-stopped"], "sleep 600");
        run(d, "stopped", &["--restart", "unless-stopped"], "sleep 600");
        run(d, "no", &[], "sleep 600");
        run(d, "rm", &["--rm", "-v", "/anonymous"], "sleep 600");
        d.docker(&["stop", "-t", "0", "stopped"]).check();
        let before = d.container_pid("always");
        d.power_off();
        d.start_again();
        eventually("always runs", || d.state("always") == "running");
        eventually("unless runs", || d.state("unless") == "running");
        assert_ne!(d.container_pid("always"), before);
        assert_eq!(d.state("stopped"), "exited");
        assert_eq!(d.state("no"), "exited");
        eventually("--rm was done", || d.get("/containers/rm/json").status == 404);
        assert_eq!(d.docker(&["volume", "ls", "-q"]).ok(), "");
        d.docker(&["start", "no"]).check();
        assert_eq!(d.docker(&["exec", "no", "echo", "in"]).ok(), "in");
    });
}

#[test]
fn a_damaged_database_is_set_aside_and_containers_are_found_again() {
    daemon(|d| {
        for damage in ["truncated", "overwritten"] {
            run(d, "box", &["--label", "k=v"], "sleep 600");
            d.docker(&["create", "--name", "made", "busybox", "echo", "made"]).check();
            let pid = d.container_pid("box");
            // What was committed within the last second may be missing from the copy.
            std::thread::sleep(Duration::from_millis(2500));
            d.kill9();
            let db = d.data_root().join("pouch.db");
            for suffix in ["-wal", "-shm"] {
                let _ = std::fs::remove_file(d.data_root().join(format!("pouch.db{suffix}")));
            }
            let size = usize::try_from(std::fs::metadata(&db).unwrap().len()).unwrap();
            match damage {
                "truncated" => File::options().write(true).open(&db).unwrap().set_len(100).unwrap(),
                _ => std::fs::write(&db, vec![0x5a; size]).unwrap(),
            }
            d.start_again();
            assert_eq!(d.container_pid("box"), pid, "{damage}");
            assert_eq!(d.inspect("box")["Config"]["Labels"]["k"], "v", "{damage}");
            assert_eq!(d.state("made"), "created", "{damage}");
            assert_eq!(d.docker(&["start", "-a", "made"]).ok(), "made", "{damage}");
            d.docker(&["rm", "-f", "box", "made"]).check();
            let aside = std::fs::read_dir(d.data_root()).unwrap().flatten().filter(|e| {
                let name = e.file_name().to_string_lossy().into_owned();
                name.starts_with("pouch.db") && name.len() > "pouch.db-wal".len()
            });
            assert!(aside.count() > 0, "{damage}: the damaged file was not kept");
            assert_eq!(d.docker(&["run", "--rm", "busybox", "echo", "fine"]).ok(), "fine");
        }
    });
}

#[test]
fn sigterm_leaves_containers_alone() {
    daemon(|d| {
        run(d, "box", &[], "sleep 600");
        let pid = d.container_pid("box");
        d.stop();
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
        d.start_again();
        assert_eq!(d.container_pid("box"), pid);
    });
}

#[test]
fn a_daemon_killed_between_the_steps_of_starts_leaves_nothing() {
    const ROUNDS: u64 = 12;
    const CLIENTS: usize = 4;
    daemon(|d| {
        let tasks = d.exec_root().join("t");
        for round in 0..ROUNDS {
            let mut clients: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    let mut client = d.docker_command(&["run", "--rm", "busybox", "true"]);
                    client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
                })
                .collect();
            let end = Instant::now() + SOON;
            // Over containerd there is no such directory, and nothing to wait for.
            let none_yet = || std::fs::read_dir(&tasks).is_ok_and(|mut all| all.next().is_none());
            while none_yet() && Instant::now() < end {
                std::hint::spin_loop();
            }
            // The four are at different steps, so each round hits several.
            std::thread::sleep(Duration::from_millis(round * 5));
            d.kill9();
            for client in &mut clients {
                let _ = client.kill();
                client.wait().unwrap();
            }
            d.start_again();
            let ids = d.docker(&["ps", "-aq"]).ok().to_owned();
            for id in ids.split_whitespace() {
                // Removed by --rm meanwhile, perhaps.
                let _ = d.docker(&["rm", "-f", id]);
            }
            let left = || {
                let all = d.census();
                format!("{}{}", all.only("process"), all.only("cgroup"))
            };
            eventually(&format!("all is gone in round {round}"), || left().is_empty());
        }
    });
}
