//! Restart policies.

use pouch_testkit::{Daemon, daemon, eventually};

fn count(d: &Daemon, name: &str) -> u64 {
    d.inspect(name)["RestartCount"].as_u64().unwrap()
}

fn run(d: &Daemon, name: &str, policy: &str, script: &str) {
    d.docker(&["run", "-d", "--name", name, "--restart", policy, "busybox", "sh", "-c", script])
        .check();
}

#[test]
fn each_policy_does_what_it_says() {
    daemon(|d| {
        run(d, "no", "no", "exit 1");
        run(d, "always", "always", "sleep 0.2; exit 0");
        run(d, "failure", "on-failure", "sleep 0.2; exit 1");
        run(d, "success", "on-failure", "exit 0");
        run(d, "limited", "on-failure:2", "exit 3");
        run(d, "unless", "unless-stopped", "sleep 0.2");
        for name in ["always", "failure", "unless"] {
            eventually(&format!("{name} was restarted"), || count(d, name) >= 2);
        }
        eventually("limited gave up", || {
            d.state("limited") == "exited" && count(d, "limited") == 2
        });
        assert_eq!(d.inspect("limited")["State"]["ExitCode"], 3);
        for name in ["no", "success"] {
            assert_eq!((d.state(name).as_str(), count(d, name)), ("exited", 0), "{name}");
        }
        for name in ["always", "failure", "unless"] {
            d.docker(&["stop", "-t", "0", name]).check();
            let stopped = count(d, name);
            std::thread::sleep(std::time::Duration::from_millis(500));
            assert_eq!((d.state(name).as_str(), count(d, name)), ("exited", stopped), "{name}");
        }
        // A signal by hand is a stop too, as with Docker.
        d.docker(&["start", "always"]).check();
        d.docker(&["kill", "always"]).check();
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert_eq!(d.state("always"), "exited");
        d.docker(&["create", "--restart", "odd", "busybox"]).fails_with("restart policy");
        d.docker(&["create", "--rm", "--restart", "always", "busybox"]).exits(125);
    });
}

#[test]
fn the_daemon_s_return_starts_what_policy_demands() {
    daemon(|d| {
        run(d, "always", "always", "sleep 600");
        run(d, "unless", "unless-stopped", "sleep 600");
        d.docker(&["stop", "-t", "0", "always", "unless"]).check();
        d.restart();
        // Stopped by hand: `always` comes back with the daemon, `unless-stopped` does not.
        eventually("always runs", || d.state("always") == "running");
        assert_eq!(d.state("unless"), "exited");
    });
}

#[test]
fn a_loop_is_slowed_down() {
    daemon(|d| {
        run(d, "box", "always", "exit 1");
        std::thread::sleep(std::time::Duration::from_secs(3));
        let n = count(d, "box");
        // 100 ms, 200, 400, 800, 1600: five within three seconds, and some time to start.
        assert!((2..=6).contains(&n), "{n} restarts in 3 s");
        d.docker(&["rm", "-f", "box"]).check();
    });
}
