//! The crash matrix: the daemon dies at each named step of create, start, exit and remove; a new
//! one finds a container in a state that exists, goes on from there, and leaves nothing behind.

use pouch_testkit::{Daemon, Host};
use pouch_types::failpoint;
use serde_json::{Value, json};

/// The points at which the given test crashes the daemon: one of `parts`, so that they share the
/// test threads.
fn points(part: usize) -> Vec<&'static str> {
    const PARTS: usize = 4;
    failpoint::CONTAINER.iter().skip(part).step_by(PARTS).copied().collect()
}

fn create(d: &Daemon) -> bool {
    let body = json!({
        "Image": "busybox",
        "Cmd": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done"],
        "HostConfig": {"Binds": ["/anonymous"]},
    });
    asked(d, "POST", "/containers/create?name=box", &body)
}

/// Sends a request; false when the daemon died of it.
fn asked(d: &Daemon, method: &str, path: &str, body: &Value) -> bool {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    // The connection breaks where the daemon does; not being able to connect is the same.
    std::panic::catch_unwind(|| d.request(method, path, &body).status < 400).unwrap_or(false)
}

/// Goes through a container's life until the daemon dies at its point.
fn live(d: &Daemon) {
    let _ = create(d)
        && asked(d, "POST", "/containers/box/start", &Value::Null)
        && asked(d, "POST", "/containers/box/stop?t=5", &Value::Null)
        && asked(d, "DELETE", "/containers/box?v=1", &Value::Null);
}

fn matrix(part: usize) {
    for point in points(part) {
        println!("--- {point}");
        Host::new().run(|d| {
            if point == "start:shim-spawned" && d.containerd().is_some() {
                // containerd starts them itself.
                return;
            }
            d.stop();
            let before = d.census_of_disk();
            d.start_again_with("POUCH_FAILPOINT", &format!("{point}:abort"));
            live(d);
            pouch_testkit::eventually(&format!("the daemon dies at {point}"), || !d.is_running());
            d.start_again();
            let answer = d.get("/containers/box/json");
            if answer.status == 200 {
                let state = answer.json()["State"]["Status"].as_str().unwrap().to_owned();
                let legal = ["created", "running", "exited"].contains(&state.as_str());
                assert!(legal, "{point}: the state is {state:?}");
                if state != "running" {
                    d.docker(&["start", "box"]).check();
                }
                assert_eq!(d.docker(&["exec", "box", "echo", "in"]).ok(), "in", "{point}");
                d.docker(&["stop", "box"]).check();
                assert_eq!(d.inspect("box")["State"]["ExitCode"], 0, "{point}");
                d.docker(&["rm", "-v", "box"]).check();
            } else {
                assert_eq!(answer.status, 404, "{point}: {}", answer.text());
            }
            // The name is free, and everything works from the start.
            assert!(create(d), "{point}: create after the crash");
            d.docker(&["start", "box"]).check();
            d.docker(&["rm", "-f", "-v", "box"]).check();
            d.clear();
            d.stop();
            let left = d.census_of_disk().since(&before);
            assert!(left.is_empty(), "{point} left behind:\n{left}");
            d.start_again();
        });
    }
}

#[test]
fn crash_matrix_first_quarter() {
    matrix(0);
}

#[test]
fn crash_matrix_second_quarter() {
    matrix(1);
}

#[test]
fn crash_matrix_third_quarter() {
    matrix(2);
}

#[test]
fn crash_matrix_fourth_quarter() {
    matrix(3);
}

#[test]
fn every_point_is_in_one_quarter() {
    let mut all: Vec<&str> = (0..4).flat_map(points).collect();
    let mut listed = failpoint::CONTAINER.to_vec();
    all.sort_unstable();
    listed.sort_unstable();
    assert_eq!(all, listed);
    assert!(all.len() >= 16, "points of the matrix are gone");
}
