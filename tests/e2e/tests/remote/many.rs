//! Many containers and many calls at once over few connections.
//! `POUCH_TEST_MANY` is the number of containers; 60 unless given.

use std::sync::atomic::{AtomicUsize, Ordering};

use pouch_testkit::{Daemon, Host, eventually};
use serde_json::{Value, json};

use crate::{remote, remote_with};

/// Execs at once.
const EXECS: usize = 200;
/// Clients that start containers.
const CLIENTS: usize = 16;

/// Does `count` things by `workers` threads.
fn share(workers: usize, count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..workers.min(count) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    work(number);
                }
            });
        }
    });
}

fn backend(d: &Daemon) -> Value {
    d.get("/pouch/backend").is(200).json()
}

/// Waits until no call is under way: what follows an end goes on behind the answer.
fn idle(d: &Daemon) {
    eventually("no call is under way", || backend(d)["Containerd"]["CallsInFlight"] == 0);
}

#[test]
fn many_containers_and_execs_share_few_connections() {
    remote(|d| share_connections(d, 1));
}

#[test]
fn many_containers_and_execs_share_few_connections_with_images_of_our_own() {
    remote_with(Host::new().with_own_images(), |d| share_connections(d, 0));
}

/// `images` is what learning of the images costs at a start.
fn share_connections(d: &mut Daemon, images: u64) {
    let many = std::env::var("POUCH_TEST_MANY").map_or(60, |text| text.parse().unwrap());
    let this = &*d;
    share(CLIENTS, many, |number| {
        let body = json!({"Image": "busybox", "Cmd": ["sleep", "100000"],
                          "HostConfig": {"NetworkMode": "none"}});
        let made = this.post(&format!("/containers/create?name=m{number}"), &body);
        made.is(201);
        this.post(&format!("/containers/m{number}/start"), &Value::Null).is(204);
    });
    let info = backend(d);
    assert_eq!(info["Containers"]["remote"]["Running"], many);
    assert_eq!(info["Containerd"]["Connections"], 2, "no more than configured");
    // Nothing is used up by how long a container lives.
    idle(this);
    // All at once, each to its end with its own output and exit code.
    share(EXECS, EXECS, |number| {
        let script = format!("echo exec {number}; exit {}", number % 256);
        let body = json!({"Cmd": ["sh", "-c", script], "AttachStdout": true});
        let made = this.post(&format!("/containers/m{}/exec", number % many), &body);
        let id = made.is(201).json()["Id"].as_str().unwrap().to_owned();
        let body = json!({"Detach": false, "Tty": false});
        let said = this.post(&format!("/exec/{id}/start"), &body).is(200).text();
        assert!(said.ends_with(&format!("exec {number}\n")), "{said:?}");
        eventually("the exec's end is known", || {
            let exec = this.get(&format!("/exec/{id}/json")).json();
            exec["ExitCode"] == number % 256 && exec["Running"] == false
        });
    });
    idle(this);
    // A restart finds all of them again, whatever their number, with the same few calls.
    let before = d.containerd().unwrap().calls();
    d.restart();
    let mut since = d.containerd().unwrap().calls_since(&before);
    assert!(matches!(since.remove("events.Publish"), Some(1..=3)));
    assert_eq!(since.values().sum::<u64>(), 4 + images, "{since:?}");
    let this = &*d;
    assert_eq!(backend(this)["Containers"]["remote"]["Running"], many);
    share(CLIENTS, many, |number| {
        this.delete(&format!("/containers/m{number}?force=1")).is(204);
    });
    assert_eq!(backend(this)["Containers"]["remote"]["Total"], 0);
}
