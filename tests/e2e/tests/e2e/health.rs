//! Healthchecks.

use pouch_testkit::daemon;

fn status(d: &pouch_testkit::Daemon) -> String {
    d.inspect("box")["State"]["Health"]["Status"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn health_follows_the_probe() {
    daemon(|d| {
        let probe = "test -e /tmp/well && echo well || { echo ill; exit 1; }";
        d.docker(&[
            "run",
            "-d",
            "--name",
            "box",
            "--health-cmd",
            probe,
            "--health-interval",
            "200ms",
            "--health-retries",
            "2",
            "--health-timeout",
            "2s",
            "busybox",
            "sleep",
            "600",
        ])
        .check();
        assert_eq!(status(d), "starting");
        pouch_testkit::eventually("it is unhealthy", || status(d) == "unhealthy");
        assert!(d.docker(&["ps"]).ok().contains("(unhealthy)"));
        d.docker(&["exec", "box", "touch", "/tmp/well"]).check();
        pouch_testkit::eventually("it is healthy", || status(d) == "healthy");
        let log = d.inspect("box")["State"]["Health"]["Log"].clone();
        let last = log.as_array().unwrap().last().unwrap().clone();
        assert_eq!((&last["ExitCode"], &last["Output"]), (&0.into(), &"well\n".into()));
        assert!(log.as_array().unwrap().len() <= 5, "{log}");
        let words = ["events", "--since", "1m", "--until=-1s", "--filter", "type=container"];
        let told = d.docker(&words).ok().to_owned();
        assert!(told.contains("health_status: unhealthy"), "{told}");
        assert!(told.contains("health_status: healthy"), "{told}");
        // Probes go on after a crash of the daemon.
        d.crash();
        d.docker(&["exec", "box", "rm", "/tmp/well"]).check();
        pouch_testkit::eventually("it is unhealthy again", || status(d) == "unhealthy");
    });
}

#[test]
fn a_probe_that_hangs_is_ended_and_counts() {
    daemon(|d| {
        d.docker(&[
            "run",
            "-d",
            "--name",
            "box",
            "--health-cmd",
            "sleep 600",
            "--health-interval",
            "100ms",
            "--health-retries",
            "1",
            "--health-timeout",
            "300ms",
            "busybox",
            "sleep",
            "600",
        ])
        .check();
        pouch_testkit::eventually("it is unhealthy", || status(d) == "unhealthy");
        let log = d.inspect("box")["State"]["Health"]["Log"].clone();
        assert_eq!(log[0]["ExitCode"], -1);
        assert!(log[0]["Output"].as_str().unwrap().contains("exceeded timeout"), "{log}");
        d.docker(&["stop", "-t", "0", "box"]).check();
    });
}

#[test]
fn the_image_s_probe_counts_unless_switched_off() {
    daemon(|d| {
        let check = serde_json::json!({
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 200_000_000u64},
            "Cmd": ["sleep", "600"],
        });
        let archive = pouch_testkit::docker_archive("h:1", pouch_testkit::busybox(), &check);
        d.docker_with(&["load"], &archive).check();
        d.docker(&["run", "-d", "--name", "box", "h:1"]).check();
        pouch_testkit::eventually("it is healthy", || status(d) == "healthy");
        d.docker(&["rm", "-f", "box"]).check();
        d.docker(&["run", "-d", "--name", "box", "--no-healthcheck", "h:1"]).check();
        assert!(d.inspect("box")["State"]["Health"].is_null());
    });
}
