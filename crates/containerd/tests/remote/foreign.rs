//! Containers of a shim that is not ours: runc's.

use pouch_containerd::*;
use pouch_types::spec::Attach;
use pouch_types::spec::LogDriver;
use pouch_types::{Classified as _, ErrorKind, Signal};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::rig::*;

/// A rig and a request below runc's shim; `None` where there is no runc.
async fn foreign(words: &[&str]) -> Option<(Rig, CreateRequest)> {
    if !pouch_testkit::have("runc") {
        return None;
    }
    let rig = Rig::new().await?;
    let mut request = rig.request(words);
    request.runtime.shim = Some("io.containerd.runc.v2".to_owned());
    Some((rig, request))
}

fn exit_file(rig: &Rig, container: &dyn Container) -> Value {
    serde_json::from_slice(&std::fs::read(rig.file(container, "exit.json")).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_log_and_exit_file_are_as_with_our_shim() {
    let words = ["sh", "-c", "cat; echo err >&2; exit 3"];
    let Some((mut rig, request)) = foreign(&words).await else { return };
    let container = rig.backend.create(request).await.unwrap();
    let stdio = Stdio { terminal: Terminal::No, stdin: Stdin::Once };
    let task = container.new_task(stdio).await.unwrap();
    let all = Attach { stdin: true, stdout: true, stderr: true };
    let mut stream = task.attach(all).await.unwrap();
    task.start().await.unwrap();
    stream.write_all(b"through and through\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let (id, exec, status) = rig.exit().await;
    assert_eq!((&id, exec, status.code), (container.id(), None, 3));
    // The end is on record before it is told.
    let file = exit_file(&rig, &*container);
    assert_eq!((&file["generation"], &file["exit_status"]), (&json!(7), &json!(3)));
    container.delete().await.unwrap();
    let text = read_all(stream).await;
    assert!(text.contains("through and through\n") && text.contains("err\n"), "{text:?}");
    let log = std::fs::read_to_string(rig.file(&*container, "log")).unwrap();
    assert!(log.contains("through and through\\n") && log.contains("err\\n"), "{log}");
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn execs_and_terminals_work() {
    let Some((mut rig, request)) = foreign(&["sleep", "1000"]).await else { return };
    let container = rig.backend.create(request).await.unwrap();
    let task = container.new_task(PIPES).await.unwrap();
    task.start().await.unwrap();
    let process = |terminal: bool, script: &str| {
        json!({ "args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"],
                "user": { "uid": 0, "gid": 0 }, "terminal": terminal })
        .to_string()
        .into_bytes()
    };
    let exec = task.exec("one", process(false, "echo hi; exit 4"), PIPES).await.unwrap();
    let stream = exec.attach(OUTPUT).await.unwrap();
    exec.start().await.unwrap();
    let (_, name, status) = rig.exit().await;
    assert_eq!((name.as_deref(), status.code), (Some("one"), 4));
    exec.delete().await.unwrap();
    assert!(read_all(stream).await.contains("hi\n"));

    let stdio = Stdio { terminal: Terminal::Yes, stdin: Stdin::Keep };
    let exec = task.exec("two", process(true, "read x; echo got $x; exit 5"), stdio).await.unwrap();
    let mut stream = exec.attach(Attach { stdin: true, stdout: true, stderr: true }).await.unwrap();
    exec.start().await.unwrap();
    exec.resize(80, 24).await.unwrap();
    stream.write_all(b"it\n").await.unwrap();
    let (_, name, status) = rig.exit().await;
    assert_eq!((name.as_deref(), status.code), (Some("two"), 5));
    exec.delete().await.unwrap();
    assert!(read_all(stream).await.contains("got it"));

    task.kill(Signal::KILL).await.unwrap();
    let (_, name, status) = rig.exit().await;
    assert_eq!((name, status.code), (None, 137));
    container.delete().await.unwrap();
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_daemon_loses_no_line_and_no_exit() {
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exit 9";
    let Some((mut rig, request)) = foreign(&["sh", "-c", script]).await else { return };
    let container = rig.backend.create(request).await.unwrap();
    let task = container.new_task(PIPES).await.unwrap();
    task.start().await.unwrap();
    // Nobody listens from here on; what runs beside is a process of its own.
    let (_, silent) = tokio::sync::mpsc::channel(1);
    rig.events = silent;
    let pid = task.pid();
    let id = container.id().clone();
    drop((task, container));
    within("the container ends", async {
        while pouch_testkit::is_alive(pid) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    rig.reopen().await;
    let loaded = rig.backend.load_all().await.unwrap();
    assert_eq!(loaded.len(), 1);
    let LoadedTask::Stopped(_, status) = &loaded[0].task else { panic!("{loaded:?}") };
    assert_eq!(status.code, 9);
    let container = &loaded[0].container;
    assert_eq!(container.id(), &id);
    assert_eq!(exit_file(&rig, &**container)["exit_status"], json!(9));
    container.delete().await.unwrap();
    let log = std::fs::read_to_string(rig.file(&**container, "log")).unwrap();
    assert_eq!(log.lines().count(), 20_000);
    assert!(log.contains("line 19999\\n"));
    rig.assert_empty();
}

/// A log in Kubernetes' format is renamed and reopened while the container prints.
async fn reopens(mut rig: Rig, mut request: CreateRequest) {
    let log = request.log.as_mut().unwrap();
    log.driver = LogDriver::Cri;
    let path = log.path.clone();
    let container = rig.backend.create(request).await.unwrap();
    let task = container.new_task(PIPES).await.unwrap();
    let refused = task.reopen_log().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    task.start().await.unwrap();
    let old = path.with_extension("old");
    std::fs::rename(&path, &old).unwrap();
    let lines = |path: &std::path::Path| std::fs::read_to_string(path).unwrap().lines().count();
    within("lines before", async {
        while lines(&old) == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(!path.exists());
    task.reopen_log().await.unwrap();
    let before = lines(&old);
    within("lines after", async {
        while lines(&path) == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(lines(&old), before);
    task.kill(Signal::KILL).await.unwrap();
    rig.exit().await;
    container.delete().await.unwrap();
    let text = std::fs::read_to_string(&old).unwrap() + &std::fs::read_to_string(&path).unwrap();
    let numbers: Vec<usize> =
        text.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>());
    rig.assert_empty();
}

const COUNTS: [&str; 3] = ["sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.001; done"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_reopened_by_the_keeper() {
    let Some((rig, request)) = foreign(&COUNTS).await else { return };
    reopens(rig, request).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_reopened_by_our_shim() {
    let Some(rig) = Rig::new().await else { return };
    let request = rig.request(&COUNTS);
    reopens(rig, request).await;
}
