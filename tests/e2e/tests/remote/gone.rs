//! containerd is away, hangs or dies in the middle of what it is asked for.

use std::time::{Duration, Instant};

use pouch_testkit::{Daemon, Outcome, eventually, is_alive};
use rustix::process::Signal;

use crate::{OBEDIENT, remote};

/// What is said of a containerd that is not there.
const AWAY: &str = "containerd unavailable";

/// Starts a command of the docker CLI, calls `meanwhile`, and gives the command's end.
fn during(d: &mut Daemon, words: &[&str], meanwhile: impl FnOnce(&mut Daemon)) -> Outcome {
    let command = d.docker_command(words);
    std::thread::scope(|scope| {
        let running = scope.spawn(move || pouch_testkit::to_its_end(command));
        meanwhile(d);
        running.join().unwrap()
    })
}

/// Whatever became of the call: it ended, and not by the patience of the test.
#[track_caller]
fn ended(outcome: &Outcome) {
    assert_ne!(outcome.code(), 124, "it hung: {outcome:?}");
    if outcome.code() != 0 {
        outcome.says(AWAY);
    }
}

fn freeze_and_kill(d: &mut Daemon) {
    std::thread::sleep(Duration::from_millis(400));
    let containerd = d.containerd().unwrap();
    containerd.kill9();
    containerd.start_again();
}

#[test]
fn containerd_may_die_in_the_middle_of_each_call() {
    remote(|d| {
        d.docker(&["run", "-d", "--name", "stays", "busybox", "sleep", "1000"]).check();
        let pid = d.container_pid("stays");
        let again = ["run", "-d", "--name", "again", "--restart", "always", "busybox"];
        d.docker(&[&again[..], &["sleep", "1000"]].concat()).check();
        // The call has been sent and is never answered: create, exec, kill, delete.
        let calls: [&[&str]; 5] = [
            &["run", "--name", "one", "busybox", "true"],
            &["exec", "stays", "true"],
            &["restart", "-t", "0", "again"],
            &["kill", "two"],
            &["rm", "-f", "three"],
        ];
        for name in ["two", "three"] {
            d.docker(&["run", "-d", "--name", name, "busybox", "sleep", "1000"]).check();
        }
        for words in calls {
            d.containerd().unwrap().signal(Signal::STOP);
            ended(&during(d, words, freeze_and_kill));
            eventually("it is back", || {
                let info = d.get("/pouch/backend").json();
                info["Containerd"]["State"] == "connected"
            });
            assert_eq!(d.docker(&["exec", "stays", "echo", "well"]).ok(), "well", "{words:?}");
            assert_eq!(d.container_pid("stays"), pid);
        }
        // And at any moment of a start or an end, not only between calls.
        for number in 0..8_u64 {
            let name = format!("n{number}");
            let outcome = during(d, &["run", "--rm", "--name", &name, "busybox", "true"], |d| {
                std::thread::sleep(Duration::from_millis(120 + 40 * number));
                let containerd = d.containerd().unwrap();
                containerd.kill9();
                containerd.start_again();
            });
            assert_ne!(outcome.code(), 124, "it hung: {outcome:?}");
            eventually("it has an end", || {
                let state = d.get(&format!("/containers/{name}/json"));
                state.status == 404 || state.json()["State"]["Running"] == false
            });
            d.docker(&["run", "--rm", "busybox", "true"]).check();
        }
        assert_eq!(d.container_pid("stays"), pid);
        eventually("the policy's container runs", || d.state("again") == "running");
    });
}

#[test]
fn a_containerd_that_hangs_holds_nobody_for_ever() {
    remote(|d| {
        d.docker(&["run", "-d", "--name", "stays", "busybox", "sleep", "1000"]).check();
        d.docker(&["run", "-d", "--name", "ends", "busybox", "sh", "-c", OBEDIENT]).check();
        let policy = ["run", "-d", "--name", "again", "--restart", "always", "busybox"];
        d.docker(&[&policy[..], &["sh", "-c", OBEDIENT]].concat()).check();
        let pids = ["stays", "ends", "again"].map(|name| d.container_pid(name));
        d.containerd().unwrap().signal(Signal::STOP);
        let began = Instant::now();
        d.docker(&["exec", "stays", "true"]).says(AWAY);
        // What looks does not wait for it.
        assert_eq!(d.state("stays"), "running");
        d.docker(&["ps"]).check();
        d.docker(&["top", "stays"]).check();
        for pid in &pids[1..] {
            let pid = rustix::process::Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap();
            rustix::process::kill_process(pid, Signal::TERM).unwrap();
        }
        eventually("the ends came", || !is_alive(pids[1]) && !is_alive(pids[2]));
        std::thread::sleep(Duration::from_secs(30).saturating_sub(began.elapsed()));
        d.containerd().unwrap().signal(Signal::CONT);
        eventually("the end is noticed", || d.state("ends") == "exited");
        assert_eq!(d.inspect("ends")["State"]["ExitCode"], 0);
        eventually("the policy acts", || d.inspect("again")["RestartCount"].as_u64() >= Some(1));
        assert_eq!(d.docker(&["exec", "stays", "echo", "well"]).ok(), "well");
        assert_eq!(d.container_pid("stays"), pids[0]);
        d.docker(&["run", "--rm", "busybox", "true"]).check();
    });
}

#[test]
fn the_state_of_the_connection_is_told() {
    remote(|d| {
        let told = d.pouch(&["system", "backend"]);
        assert!(told.ok().contains("Backend: remote"), "{}", told.stdout);
        assert!(told.ok().contains("State: connected since"), "{}", told.stdout);
        assert!(told.ok().contains("Namespace: pouch"), "{}", told.stdout);
        let before = d.containerd().unwrap().calls();
        d.get("/pouch/backend").is(200);
        let since = d.containerd().unwrap().calls_since(&before);
        assert!(since.is_empty(), "{since:?}");
        let version = d.get("/pouch/backend").json()["Version"].as_str().unwrap().to_owned();
        assert!(!version.is_empty());
        d.containerd().unwrap().kill9();
        eventually("the loss is told", || {
            let info = d.get("/pouch/backend").json();
            info["Containerd"]["State"] == "unavailable" && info["Containerd"]["Error"] != ""
        });
        d.containerd().unwrap().start_again();
        eventually("the return is told", || {
            let info = d.get("/pouch/backend").json();
            info["Containerd"]["State"] == "connected" && info["Containerd"]["Error"] == ""
        });
        assert_eq!(d.get("/pouch/backend").json()["Version"], version);
    });
}
