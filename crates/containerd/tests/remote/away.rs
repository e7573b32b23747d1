//! containerd or a shim dies, hangs, comes back, or never was.

use std::time::{Duration, Instant};

use pouch_containerd::*;
use pouch_types::{Classified as _, ErrorKind, Signal};
use rustix::process::{Pid, Signal as RawSignal, kill_process};

use crate::rig::*;

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, RawSignal::KILL).unwrap();
}

fn parent(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_outlive_containerd_and_no_end_is_missed() {
    let Some(mut rig) = Rig::new().await else { return };
    let (lasting, task) = rig.start(&["sleep", "1000"]).await;
    let (ending, mortal) = rig.start(&["sleep", "1000"]).await;
    let (lost, orphan) = rig.start(&["sleep", "1000"]).await;
    rig.containerd.kill9();

    let began = Instant::now();
    let error = task.kill(Signal::HUP).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().starts_with("containerd unavailable"), "{error}");
    let request = rig.request(&["true"]);
    let error = rig.backend.create(request.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(began.elapsed() < Duration::from_secs(2), "not waited for");
    kill(mortal.pid());
    kill(parent(orphan.pid()));

    rig.containerd.start_again();
    let mut codes = Vec::new();
    let mut gone = Vec::new();
    while codes.len() + gone.len() < 2 {
        match within("both ends are told", rig.events.recv()).await.unwrap() {
            Event::Exit { container, status, .. } => codes.push((container, status.code)),
            Event::Lost { container } => gone.push(container),
            Event::Oom { .. } => {}
        }
    }
    // containerd 2 deletes what it finds dead when it starts; the exit file is there all the same.
    for container in [&ending, &lost] {
        let told = codes.iter().any(|(id, _)| id == container.id());
        assert!(told || gone.contains(container.id()), "{codes:?} {gone:?}");
    }
    assert!(codes.iter().all(|(_, code)| *code == 137), "{codes:?}");
    let file = std::fs::read_to_string(rig.file(&*ending, "exit.json")).unwrap();
    assert!(file.contains("\"exit_status\":137"), "{file}");

    // All works again, with the same objects, and each end was told once.
    task.kill(Signal::HUP).await.unwrap();
    task.kill(Signal::KILL).await.unwrap();
    let mut ended = rig.exit().await;
    while ended.0 != *lasting.id() {
        // That of the dead shim, whose loss was told before.
        assert_eq!(ended.0, *lost.id());
        ended = rig.exit().await;
    }
    assert_eq!(ended.2.code, 137);
    let container = rig.backend.create(request).await.unwrap();
    container.new_task(PIPES).await.unwrap().start().await.unwrap();
    let (id, _, status) = rig.exit().await;
    assert_eq!((&id, status.code), (container.id(), 0));
    for container in [lasting, ending, lost, container] {
        container.delete().await.unwrap();
    }
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_an_exec_in_a_gap_is_told() {
    let Some(mut rig) = Rig::new().await else { return };
    let (container, task) = rig.start(&["sleep", "1000"]).await;
    let process =
        br#"{"args":["sleep","2"],"cwd":"/","env":["PATH=/bin"],"user":{"uid":0,"gid":0}}"#;
    let exec = task.exec("short", process.to_vec(), PIPES).await.unwrap();
    exec.start().await.unwrap();
    rig.containerd.kill9();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    rig.containerd.start_again();
    let (id, name, status) = rig.exit().await;
    assert_eq!((&id, name.as_deref(), status.code), (container.id(), Some("short"), 0));
    container.delete().await.unwrap();
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_failed_is_made_up_for() {
    let Some(mut rig) = Rig::new().await else { return };
    let (container, _) = rig.start(&["sleep", "1000"]).await;
    rig.containerd.kill9();
    let error = container.delete().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    rig.containerd.start_again();
    rig.assert_empty();
    // And then nothing is asked any more.
    let before = rig.containerd.calls();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(rig.containerd.calls_since(&before).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_that_is_killed_ends_its_container() {
    let Some(mut rig) = Rig::new().await else { return };
    let (container, task) = rig.start(&["sleep", "1000"]).await;
    kill(parent(task.pid()));
    let (id, _, status) = rig.exit().await;
    assert_eq!((&id, status.code), (container.id(), 137));
    container.delete().await.unwrap();
    assert!(!pouch_testkit::is_alive(task.pid()));
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_that_hangs_is_ended_by_force() {
    let Some(rig) = Rig::new().await else { return };
    let (container, task) = rig.start(&["sleep", "1000"]).await;
    let shim = Pid::from_raw(i32::try_from(parent(task.pid())).unwrap()).unwrap();
    kill_process(shim, RawSignal::STOP).unwrap();
    let began = Instant::now();
    let error = task.kill(Signal::TERM).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
    assert!(error.to_string().contains("shim"), "{error}");
    container.delete().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    assert!(!pouch_testkit::is_alive(task.pid()));
    rig.assert_empty();
}
