//! What a container goes through, and what it costs.

use std::sync::Arc;

use pouch_containerd::remote::Remote;
use pouch_containerd::*;
use pouch_testkit::Calls;
use pouch_types::{Classified as _, ErrorKind, Signal};
use serde_json::{Value, json};

use crate::rig::*;

fn calls(list: &[(&str, u64)]) -> Calls {
    list.iter().map(|&(name, count)| (name.to_owned(), count)).collect()
}

/// The process object of an exec.
fn process(words: &[&str]) -> Vec<u8> {
    let user = json!({ "uid": 0, "gid": 0 });
    json!({ "args": words, "cwd": "/", "env": ["PATH=/bin"], "user": user }).to_string().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_costs_five_calls_and_its_end_is_on_record() {
    let Some(mut rig) = Rig::new().await else { return };
    let before = rig.containerd.calls();
    let words = ["sh", "-c", "echo out; echo err >&2; exit 3"];
    let (container, task) = rig.prepare(&words).await;
    let stream = task.attach(OUTPUT).await.unwrap();
    let pid = task.start().await.unwrap();
    assert_eq!(pid, task.pid());
    assert_eq!(
        rig.containerd.calls_since(&before),
        calls(&[("containers.Create", 1), ("tasks.Create", 1), ("tasks.Start", 1)])
    );
    let (id, exec, status) = rig.exit().await;
    assert_eq!((&id, exec, status.code), (container.id(), None, 3));
    let text = read_all(stream).await;
    assert!(text.contains("out\n") && text.contains("err\n"), "{text:?}");
    let file = std::fs::read(rig.file(&*container, "exit.json")).unwrap();
    let file: Value = serde_json::from_slice(&file).unwrap();
    assert_eq!((&file["generation"], &file["exit_status"]), (&json!(7), &json!(3)));
    container.delete().await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert_eq!(
        rig.containerd.calls_since(&before),
        calls(&[
            ("containers.Create", 1),
            ("containers.Delete", 1),
            ("tasks.Create", 1),
            ("tasks.Delete", 1),
            ("tasks.Start", 1),
        ])
    );
    let log = std::fs::read_to_string(rig.file(&*container, "log")).unwrap();
    assert!(log.contains("\"out\\n\"") && log.contains("\"err\\n\""), "{log}");
    container.delete().await.unwrap();
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_follows_at_once_takes_the_object_over() {
    let Some(mut rig) = Rig::new().await else { return };
    let request = rig.request(&["sh", "-c", "exit 1"]);
    let mut next = rig.request(&["sh", "-c", "exit 2"]);
    next.id = request.id.clone();
    next.generation = 8;
    (next.exit_file, next.log) = (request.exit_file.clone(), request.log.clone());
    let container = rig.backend.create(request).await.unwrap();
    container.new_task(PIPES).await.unwrap().start().await.unwrap();
    assert_eq!(rig.exit().await.2.code, 1);
    let before = rig.containerd.calls();
    container.delete().await.unwrap();
    let container = rig.backend.create(next).await.unwrap();
    container.new_task(PIPES).await.unwrap().start().await.unwrap();
    assert_eq!(rig.exit().await.2.code, 2);
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    let expected =
        [("containers.Update", 1), ("tasks.Create", 1), ("tasks.Delete", 1), ("tasks.Start", 1)];
    assert_eq!(rig.containerd.calls_since(&before), calls(&expected));
    container.delete().await.unwrap();
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn execs_signals_and_freezing_cost_one_call_each_step() {
    let Some(mut rig) = Rig::new().await else { return };
    let (container, task) = rig.start(&["sleep", "1000"]).await;
    let before = rig.containerd.calls();
    let exec = task.exec("one", process(&["sh", "-c", "echo hi; exit 4"]), PIPES).await.unwrap();
    let stream = exec.attach(OUTPUT).await.unwrap();
    assert_ne!(exec.start().await.unwrap(), 0);
    assert!(read_all(stream).await.contains("hi\n"));
    let (_, name, status) = rig.exit().await;
    assert_eq!((name.as_deref(), status.code), (Some("one"), 4));
    exec.delete().await.unwrap();
    let expected = [("tasks.DeleteProcess", 1), ("tasks.Exec", 1), ("tasks.Start", 1)];
    assert_eq!(rig.containerd.calls_since(&before), calls(&expected));

    // An end is told when the start was answered, however short the process.
    for number in 0..30 {
        let name = format!("short{number}");
        let exec = task.exec(&name, process(&["true"]), PIPES).await.unwrap();
        let (started, ended) = tokio::join!(exec.start(), async {
            let ended = rig.exit().await;
            (ended, exec.delete().await)
        });
        started.unwrap();
        ended.1.unwrap();
        assert_eq!(ended.0.1, Some(name));
    }

    let missing = task.exec("two", process(&["nowhere"]), PIPES).await.unwrap();
    let error = missing.start().await.unwrap_err();
    assert!(pouch_types::error::chain(&error).contains("nowhere"), "{error}");
    missing.delete().await.unwrap();

    let before = rig.containerd.calls();
    task.pause().await.unwrap();
    task.resume().await.unwrap();
    let error = task.resize(80, 24).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    task.kill(Signal::KILL).await.unwrap();
    let (_, name, status) = rig.exit().await;
    assert_eq!((name, status.code), (None, 137));
    let expected =
        [("tasks.Kill", 1), ("tasks.Pause", 1), ("tasks.ResizePty", 1), ("tasks.Resume", 1)];
    assert_eq!(rig.containerd.calls_since(&before), calls(&expected));
    let error = task.kill(Signal::KILL).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    container.delete().await.unwrap();
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_run_is_refused_with_the_reason_and_leaves_nothing() {
    let Some(rig) = Rig::new().await else { return };
    let container = rig.backend.create(rig.request(&["nowhere"])).await.unwrap();
    let error = container.new_task(PIPES).await.unwrap_err().to_string();
    assert!(error.contains("nowhere") && error.contains("executable file not found"), "{error}");
    assert!(!error.contains("failed to create shim task"), "said once, by the caller: {error}");
    container.delete().await.unwrap();
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_container_is_removed_by_force_and_an_id_can_be_used_again() {
    let Some(mut rig) = Rig::new().await else { return };
    let (container, task) = rig.start(&["sleep", "1000"]).await;
    // The id of a run that was never removed.
    let mut request = rig.request(&["sh", "-c", "exit 5"]);
    request.id = container.id().clone();
    let again = rig.backend.create(request).await.unwrap();
    let _ = again.new_task(PIPES).await.unwrap().start().await.unwrap();
    let (id, _, status) = rig.exit().await;
    assert_eq!(&id, container.id());
    assert_eq!(status.code, 5, "the end of the replaced run is not one of the new run");
    assert!(task.kill(Signal::KILL).await.is_err());
    again.delete().await.unwrap();

    let (container, _) = rig.start(&["sleep", "1000"]).await;
    container.delete().await.unwrap();
    let created = rig.prepare(&["sleep", "1000"]).await.0;
    created.delete().await.unwrap();
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_found_again_with_five_calls_whatever_there_is() {
    let Some(mut rig) = Rig::new().await else { return };
    let (running, task) = rig.start(&["sleep", "1000"]).await;
    let (paused, other) = rig.start(&["sleep", "1000"]).await;
    other.pause().await.unwrap();
    let (stopped, _) = rig.start(&["sh", "-c", "exit 9"]).await;
    rig.exit().await;
    let (created, _) = rig.prepare(&["true"]).await;
    let bare = rig.backend.create(rig.request(&["true"])).await.unwrap();
    let before = rig.containerd.calls();
    rig.reopen().await;
    let loaded = rig.backend.load_all().await.unwrap();
    let mut cost = rig.containerd.calls_since(&before);
    // On a busy machine a mark may be too early and be repeated.
    let marks = cost.remove("events.Publish");
    assert!(matches!(marks, Some(1..=3)), "{marks:?}");
    assert_eq!(
        cost,
        calls(&[
            ("containers.ListStream", 1),
            ("events.Subscribe", 1),
            ("tasks.List", 1),
            ("version.Version", 1),
        ])
    );
    assert_eq!(loaded.len(), 5);
    let state = |container: &Arc<dyn Container>| {
        let found = loaded.iter().find(|l| l.container.id() == container.id()).unwrap();
        match &found.task {
            LoadedTask::Running(task) => format!("running {}", task.pid()),
            LoadedTask::Paused(_) => "paused".to_owned(),
            LoadedTask::Stopped(_, status) => format!("stopped {}", status.code),
            LoadedTask::Created(_) => "created".to_owned(),
            LoadedTask::Silent(_) => "silent".to_owned(),
            LoadedTask::Orphaned => "orphaned".to_owned(),
        }
    };
    assert_eq!(state(&running), format!("running {}", task.pid()));
    assert_eq!(state(&paused), "paused");
    assert_eq!(state(&stopped), "stopped 9");
    assert_eq!(state(&created), "created");
    assert_eq!(state(&bare), "orphaned");

    // Another daemon in the same namespace has its own.
    let (stranger, _events) = Remote::open(rig.config("there")).await.unwrap();
    assert!(stranger.load_all().await.unwrap().is_empty());

    // What was adopted works as before.
    let adopted = loaded.iter().find(|l| l.container.id() == running.id()).unwrap();
    let LoadedTask::Running(task) = &adopted.task else { panic!("it runs") };
    task.kill(Signal::TERM).await.unwrap();
    task.kill(Signal::KILL).await.unwrap();
    let (id, _, status) = rig.exit().await;
    assert_eq!((&id, status.code), (running.id(), 137));
    for found in &loaded {
        found.container.delete().await.unwrap();
    }
    rig.assert_empty();
}
