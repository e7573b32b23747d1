//! One part that hangs holds up nothing else, and what waits for it ends with its stage named.

use std::time::{Duration, Instant};

use pouch_testkit::{Daemon, daemon};
use rustix::process::{Pid, Signal, kill_process};

/// What a look may take: the 50 ms of the requirement.
const AT_ONCE: Duration = Duration::from_millis(50);

/// The times of 21 requests, in order.
pub(crate) fn times(d: &Daemon, path: &str) -> Vec<Duration> {
    let mut times: Vec<Duration> = (0..21)
        .map(|_| {
            let began = Instant::now();
            d.get(path).is(200);
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    times
}

/// The median: a machine under other load may delay a few.
fn median(d: &Daemon, path: &str) -> Duration {
    times(d, path)[10]
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

#[test]
fn a_stopped_shim_and_a_long_stop_hold_up_nobody() {
    daemon(|d| {
        d.docker(&["run", "-d", "--name", "stuck", "busybox", "sleep", "600"]).check();
        d.docker(&["run", "-d", "--name", "fine", "busybox", "sleep", "600"]).check();
        let trap = "trap '' TERM; while :; do sleep 0.1; done";
        d.docker(&["run", "-d", "--name", "stubborn", "busybox", "sh", "-c", trap]).check();
        let shim = d.shim_pid("stuck");
        signal(shim, Signal::STOP);
        let mut stop = d.docker_live(&["stop", "-t", "60", "stubborn"]);
        let mut hung = d.docker_live(&["exec", "stuck", "true"]);
        std::thread::sleep(Duration::from_millis(300));
        for path in [
            "/_ping",
            "/containers/json?all=1",
            "/containers/stuck/json",
            "/containers/fine/json",
            "/containers/stubborn/json",
            "/images/json",
            "/info",
        ] {
            let took = median(d, path);
            assert!(took < AT_ONCE, "{path} takes {took:?}");
        }
        assert_eq!(d.docker(&["exec", "fine", "echo", "in"]).ok(), "in");
        assert_eq!(d.docker(&["run", "--rm", "busybox", "echo", "new"]).ok(), "new");
        assert!(stop.is_running());
        d.docker(&["kill", "stubborn"]).check();
        assert_eq!(stop.wait(), 0);
        // What needs the stuck shim ends in time and says at which stage it hung.
        let exec = d.docker(&["exec", "stuck", "true"]);
        assert!(!["0", "124"].contains(&&*exec.code().to_string()), "{exec:?}");
        // What goes wrong after the upgrade is said in the stream.
        let said = format!("{}{}", exec.stdout, exec.stderr).to_lowercase();
        assert!(said.contains("shim") && said.contains("did not answer"), "{said}");
        // A kill goes past it.
        let (pid, began) = (d.container_pid("stuck"), Instant::now());
        d.docker(&["kill", "stuck"]).check();
        assert!(began.elapsed() < Duration::from_secs(45), "{:?}", began.elapsed());
        // Gone, or waiting for the machine's pid 1 to reap it: the shim, its parent, is dead.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").map_or("gone", |(_, rest)| &rest[..1]);
        assert!(matches!(state, "gone" | "Z" | "X"), "{stat}");
        assert_ne!(hung.wait(), 0);
        d.docker(&["rm", "-f", "stuck"]).check();
    });
}

#[test]
fn the_daemon_starts_although_a_shim_does_not_answer() {
    daemon(|d| {
        d.docker(&["run", "-d", "--name", "stuck", "busybox", "sleep", "600"]).check();
        d.docker(&["run", "-d", "--name", "fine", "busybox", "sleep", "600"]).check();
        let shim = d.shim_pid("stuck");
        signal(shim, Signal::STOP);
        d.kill9();
        let began = Instant::now();
        d.start_again();
        assert!(began.elapsed() < Duration::from_secs(3), "answers after {:?}", began.elapsed());
        assert_eq!(d.docker(&["exec", "fine", "echo", "in"]).ok(), "in");
        d.get("/containers/stuck/json").is(200);
        signal(shim, Signal::CONT);
        d.docker(&["rm", "-f", "stuck"]).check();
    });
}

#[test]
fn a_container_whose_shim_was_killed_can_be_removed() {
    daemon(|d| {
        d.docker(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]).check();
        let (shim, pid) = (d.shim_pid("box"), d.container_pid("box"));
        signal(shim, Signal::KILL);
        pouch_testkit::eventually("the container is not running any more", || {
            d.state("box") == "exited"
        });
        pouch_testkit::eventually("its process is gone", || !pouch_testkit::is_alive(pid));
        d.docker(&["rm", "box"]).check();
    });
}

#[test]
fn a_client_that_stalls_in_its_request_holds_up_nobody() {
    daemon(|d| {
        let half = b"POST /containers/create HTTP/1.1\r\nHost: p\r\nContent-Length: 1000\r\n\r\n{";
        let stuck: Vec<_> =
            (0..50).map(|_| pouch_testkit::Connection::raw(&d.socket(), half)).collect();
        assert!(median(d, "/_ping") < AT_ONCE);
        assert_eq!(d.docker(&["run", "--rm", "busybox", "echo", "new"]).ok(), "new");
        drop(stuck);
    });
}
