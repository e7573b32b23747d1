//! Containers that share a shim.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pouch_containerd::*;
use pouch_types::{ContainerId, Signal};
use rustix::process::{Pid, kill_process};
use serde_json::json;

use crate::rig::*;

const SLEEP: [&str; 2] = ["sleep", "1000"];

fn alive(pid: u32) -> bool {
    pouch_testkit::is_alive(pid)
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Threads of a process, and its proportional share of memory in KiB.
fn size(pid: u32) -> (usize, u64) {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let pss = rollup.lines().find(|line| line.starts_with("Pss:")).unwrap();
    (threads, pss.split_whitespace().nth(1).unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_shim_serves_them_all_and_ends_with_the_last() {
    let Some(mut rig) = Rig::new().await else { return };
    let pod = fresh();
    let words = ["sh", "-c", "echo mine; exit 3"];
    let first = rig.start(Some(&pod), &SLEEP).await;
    let second = rig.start(Some(&pod), &SLEEP).await;
    let alone = rig.start(None, &SLEEP).await;
    let shims = rig.shims();
    assert_eq!(shims.len(), 2, "{shims:?}");
    first.1.kill_all(Signal::KILL).await.unwrap();
    let Event::Exit { container, status, .. } = rig.event().await else { panic!("no exit") };
    assert_eq!((&container, status.code), (first.0.id(), 137));
    first.0.delete().await.unwrap();
    first.0.delete().await.unwrap();
    assert!(alive(second.1.pid()));

    let request = rig.request(Some(&pod), &words, |_| {});
    let third = rig.backend.create(request).await.unwrap();
    let task = third.new_task(PIPES).await.unwrap();
    let stream = task.attach(OUTPUT).await.unwrap();
    task.start().await.unwrap();
    let Event::Exit { container, status, .. } = rig.event().await else { panic!("no exit") };
    assert_eq!((&container, status.code), (third.id(), 3));
    assert!(read_all(stream).await.contains("mine\n"));
    assert_eq!(rig.shims(), shims, "a new shim came");
    third.delete().await.unwrap();
    let log = std::fs::read_to_string(rig.file(&*third, "log")).unwrap();
    assert!(log.ends_with(" stdout F mine\n"), "{log}");
    let exit = std::fs::read_to_string(rig.file(&*third, "exit.json")).unwrap();
    assert!(exit.contains("\"exit_status\":3"), "{exit}");

    // One that runs is killed.
    let pid = second.1.pid();
    second.0.delete().await.unwrap();
    assert!(!alive(pid));
    assert_eq!(rig.shims().len(), 1);
    alone.0.delete().await.unwrap();
    rig.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_daemon_finds_all_of_them() {
    let Some(mut rig) = Rig::new().await else { return };
    let pod = fresh();
    let running = rig.start(Some(&pod), &SLEEP).await;
    let ended = rig.start(Some(&pod), &["sh", "-c", "exit 4"]).await;
    let request = rig.request(Some(&pod), &SLEEP, |_| {});
    let created = rig.backend.create(request).await.unwrap();
    created.new_task(PIPES).await.unwrap();
    // Died before it asked for the task.
    let unasked = rig.backend.create(rig.request(Some(&pod), &SLEEP, |_| {})).await.unwrap();
    let Event::Exit { .. } = rig.event().await else { panic!("no exit") };
    let shims = rig.shims();
    rig.reopen().await;
    let loaded = rig.backend.load_all().await.unwrap();
    assert_eq!(loaded.len(), 4);
    for Loaded { container, task } in &loaded {
        match task {
            LoadedTask::Running(task) => assert_eq!(task.pid(), running.1.pid()),
            LoadedTask::Stopped(_, status) => {
                assert_eq!((container.id(), status.code), (ended.0.id(), 4));
            }
            LoadedTask::Created(_) => assert_eq!(container.id(), created.id()),
            LoadedTask::Orphaned => assert_eq!(container.id(), unasked.id()),
            LoadedTask::Paused(_) | LoadedTask::Silent(_) => panic!("{task:?}"),
        }
    }
    // A new one joins those of before.
    let new = rig.start(Some(&pod), &SLEEP).await;
    assert_eq!(rig.shims(), shims);
    for Loaded { container, .. } in &loaded {
        container.delete().await.unwrap();
        assert!(alive(new.1.pid()));
    }
    new.0.delete().await.unwrap();
    rig.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_their_shim_is_told_for_each_and_cleaned_for_each() {
    let Some(mut rig) = Rig::new().await else { return };
    let pod = fresh();
    let mut members = Vec::new();
    for _ in 0..3 {
        members.push(rig.start(Some(&pod), &SLEEP).await);
    }
    kill(rig.shims()[0]);
    let mut lost = BTreeSet::new();
    for _ in 0..3 {
        let Event::Lost { container } = rig.event().await else { panic!("another event") };
        lost.insert(container);
    }
    assert_eq!(lost, members.iter().map(|member| member.0.id().clone()).collect());
    // As the daemon that saw it does, with a container that comes in between.
    members[0].0.delete().await.unwrap();
    assert!(!alive(members[0].1.pid()));
    let new = rig.start(Some(&pod), &SLEEP).await;
    members[1].0.delete().await.unwrap();
    assert!(!alive(members[1].1.pid()) && alive(new.1.pid()));
    // And as the next one does.
    rig.reopen().await;
    for Loaded { container, task } in rig.backend.load_all().await.unwrap() {
        match task {
            LoadedTask::Orphaned => assert_eq!(container.id(), members[2].0.id()),
            LoadedTask::Running(_) => assert_eq!(container.id(), new.0.id()),
            other => panic!("{other:?}"),
        }
        container.delete().await.unwrap();
    }
    for (_, task) in members.iter().chain([&new]) {
        assert!(!alive(task.pid()));
    }
    rig.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_that_lost_its_last_container_with_the_daemon_is_ended() {
    let Some(mut rig) = Rig::new().await else { return };
    let pod = fresh();
    let (container, task) = rig.start(Some(&pod), &["true"]).await;
    let Event::Exit { .. } = rig.event().await else { panic!("no exit") };
    task.delete().await.unwrap();
    std::fs::remove_dir_all(rig.state().join("t").join(container.id().as_str())).unwrap();
    assert_eq!(rig.shims().len(), 1);
    rig.reopen().await;
    assert!(rig.backend.load_all().await.unwrap().is_empty());
    rig.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_and_who_goes_take_turns() {
    let Some(rig) = Rig::new().await else { return };
    let pod = fresh();
    let rig = Arc::new(rig);
    let cycles = (0..4).map(|_| {
        let (rig, pod) = (Arc::clone(&rig), pod.clone());
        tokio::spawn(async move {
            for _ in 0..5 {
                let (container, task) = rig.start(Some(&pod), &SLEEP).await;
                task.kill_all(Signal::KILL).await.unwrap();
                container.delete().await.unwrap();
            }
        })
    });
    for cycle in cycles.collect::<Vec<_>>() {
        cycle.await.unwrap();
    }
    rig.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_threads_nor_much_memory_come_with_a_container() {
    let Some(rig) = Rig::new().await else { return };
    let pod = fresh();
    let mut members = vec![rig.start(Some(&pod), &SLEEP).await];
    let shim = rig.shims()[0];
    // Buffers are given back after a second; runtimes' threads end with their work.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let one = size(shim);
    for _ in 1..10 {
        members.push(rig.start(Some(&pod), &SLEEP).await);
    }
    let mut streams = Vec::new();
    for (_, task) in &members {
        streams.push(task.attach(OUTPUT).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let ten = size(shim);
    println!("threads, KiB of memory: {one:?} with 1 container, {ten:?} with 10");
    assert_eq!((one.0, ten.0), (2, 2));
    // The programs of a debug build share no pages with others.
    assert!(ten.1 < one.1 + 2048, "{one:?} {ten:?}");
    for (container, _) in members {
        container.delete().await.unwrap();
    }
    drop(streams);
    rig.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_does_not_read_holds_up_no_other() {
    let Some(rig) = Rig::new().await else { return };
    let pod = fresh();
    // An early client that reads nothing holds its container up.
    let request = rig.request(Some(&pod), &["yes"], |_| {});
    let stuck = rig.backend.create(request).await.unwrap();
    let task = stuck.new_task(PIPES).await.unwrap();
    let unread = task.attach(OUTPUT).await.unwrap();
    task.start().await.unwrap();
    // Another one fills its log as fast as it can.
    let loud = rig.start(Some(&pod), &["yes"]).await;
    let quiet = rig.start(Some(&pod), &SLEEP).await;
    for round in 0..20 {
        let process = json!({ "args": ["echo", "here"], "cwd": "/", "env": ["PATH=/bin"],
                              "user": { "uid": 0, "gid": 0 } });
        let exec = format!("e{round}");
        let exec = quiet.1.exec(&exec, process.to_string().into_bytes(), PIPES).await.unwrap();
        let stream = exec.attach(OUTPUT).await.unwrap();
        exec.start().await.unwrap();
        assert!(read_all(stream).await.contains("here\n"));
        exec.delete().await.unwrap();
    }
    let log = std::fs::metadata(rig.file(&*loud.0, "log")).unwrap().len();
    assert!(log > 100_000, "{log}");
    for container in [&stuck, &loud.0, &quiet.0] {
        container.delete().await.unwrap();
    }
    drop(unread);
    rig.assert_empty().await;
}

/// Two containers of a pod whose ids are its own, on one set of layers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_appear_with_the_ids_of_the_pod_and_stay_as_they_are() {
    use std::os::unix::fs::MetadataExt as _;
    let Some(mut rig) = Rig::new().await else { return };
    let pod = fresh();
    let dir = rig.state().join("pods").join(pod.as_str());
    let map = pouch_netns::IdMap { container: 0, host: 300_000, size: 65_536 };
    let maps = pouch_netns::IdMaps { uids: vec![map], gids: vec![map] };
    let pinned = pouch_netns::Pod {
        net: Some(pouch_netns::Ipv6::Disabled),
        ipc: Some(1 << 20),
        uts: Some("peapod".to_owned()),
        user: Some(maps),
        ..Default::default()
    }
    .create(&dir)
    .unwrap();
    let lower = rig.dir.path().join("rootfs");
    let empty = rig.dir.path().join("layer");
    std::fs::create_dir(&empty).unwrap();
    std::os::unix::fs::chown(lower.join("dev"), Some(7), Some(8)).unwrap();
    let script = "hostname; stat -c %u:%g / /bin/busybox /dev; echo x > /new && stat -c %u:%g /new";
    let script = script.replace("stat", "busybox stat").replace("hostname", "busybox hostname");
    let mut shims = Vec::new();
    for round in 0..2 {
        let upper = rig.dir.path().join(format!("upper{round}"));
        let work = rig.dir.path().join(format!("work{round}"));
        for path in [&upper, &work] {
            std::fs::create_dir(path).unwrap();
        }
        let mut request = rig.request(Some(&pod), &["sh", "-c", &script], |spec| {
            spec["hostname"] = serde_json::Value::Null;
            let pins = [("network", &pinned.net), ("ipc", &pinned.ipc), ("uts", &pinned.uts)];
            let mut kinds = vec![json!({ "type": "pid" }), json!({ "type": "mount" })];
            for (kind, path) in pins.into_iter().chain([("user", &pinned.user)]) {
                kinds.push(json!({ "type": kind, "path": path }));
            }
            spec["linux"]["namespaces"] = json!(kinds);
            spec["mounts"].as_array_mut().unwrap().truncate(1);
        });
        request.rootfs = vec![Mount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: vec![
                format!("lowerdir={}:{}", empty.display(), lower.display()),
                format!("upperdir={}", upper.display()),
                format!("workdir={}", work.display()),
                format!("idmap={}", pinned.user.as_ref().unwrap().display()),
            ],
        }];
        let container = rig.backend.create(request).await.unwrap();
        let task = container.new_task(PIPES).await.unwrap();
        let stream = task.attach(OUTPUT).await.unwrap();
        task.start().await.unwrap();
        let Event::Exit { status, .. } = rig.event().await else { panic!("no exit") };
        let said = read_all(stream).await;
        assert_eq!(status.code, 0, "{said}");
        // Nothing but the mapped owner is seen anywhere.
        for expected in ["peapod\n", "0:0\n0:0\n7:8\n", "0:0\n"] {
            assert!(said.contains(expected), "{said}");
        }
        let made = std::fs::metadata(upper.join("new")).unwrap();
        assert_eq!((made.uid(), made.gid()), (300_000, 300_000));
        let bundle = rig.state().join("t").join(container.id().as_str());
        assert!(!bundle.join("rootfs.l").exists());
        shims.extend(rig.shims());
        container.delete().await.unwrap();
    }
    let unchanged = std::fs::metadata(lower.join("bin/busybox")).unwrap();
    assert_eq!((unchanged.uid(), unchanged.gid()), (0, 0));
    pouch_netns::remove_pod(&dir).unwrap();
    rig.assert_empty().await;
}

/// What `sh -c script` is as an exec.
fn shell(script: &str) -> Vec<u8> {
    json!({ "args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"],
            "user": { "uid": 0, "gid": 0 } })
    .to_string()
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_is_ended_with_all_that_it_started() {
    let Some(mut rig) = Rig::new().await else { return };
    let (container, task) = rig.start(None, &SLEEP).await;
    let children = "sleep 1001 & (sleep 1002 & sleep 1003) & echo up;";
    // One that runs, and one that has ended and left them behind.
    for (id, script) in [("runs", format!("{children} wait")), ("ended", children.to_owned())] {
        let exec = task.exec(id, shell(&script), PIPES).await.unwrap();
        let mut stream = exec.attach(OUTPUT).await.unwrap();
        exec.start().await.unwrap();
        let mut first = [0; 11];
        let read = tokio::io::AsyncReadExt::read_exact(&mut stream, &mut first);
        within("it is up", read).await.unwrap();
        if id == "ended" {
            // Told at once, although others hold its pipes.
            let Event::Exit { exec, .. } = rig.event().await else { panic!("no exit") };
            assert_eq!(exec.as_deref(), Some(id));
        }
        let inside = || {
            let pids = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
                let line = std::fs::read(entry.path().join("cmdline")).ok()?;
                line.starts_with(b"sleep\x00100").then_some(line)
            });
            pids.filter(|line| !line.starts_with(b"sleep\x001000")).count()
        };
        within("its children are up", async {
            while inside() < 3 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        exec.kill_all(Signal::KILL).await.unwrap();
        assert_eq!(inside(), 0);
        if id == "runs" {
            let Event::Exit { exec, .. } = rig.event().await else { panic!("no exit") };
            assert_eq!(exec.as_deref(), Some(id));
        }
        read_all(stream).await;
        exec.kill_all(Signal::KILL).await.unwrap();
        exec.delete().await.unwrap();
    }
    assert!(alive(task.pid()));
    container.delete().await.unwrap();
    rig.assert_empty().await;
}

/// The second container's runtime joins, by path, what was pinned before the shim was made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_pod_pinned_stays_for_later_containers() {
    let Some(rig) = Rig::new().await else { return };
    let pod = fresh();
    let other: ContainerId = fresh();
    let pins = rig.state().join("netns");
    let pin = pins.join(pod.as_str());
    for path in [pin.clone(), pins.join(other.as_str())] {
        std::fs::create_dir_all(&pins).unwrap();
        std::fs::write(&path, "").unwrap();
        let status = std::process::Command::new("unshare")
            .arg(format!("--net={}", path.display()))
            .arg("true")
            .status()
            .unwrap();
        assert!(status.success());
    }
    let join = |spec: &mut serde_json::Value| {
        spec["linux"]["namespaces"][4]["path"] = json!(pin);
    };
    let mut members = Vec::new();
    for _ in 0..2 {
        let request = rig.request(Some(&pod), &SLEEP, join);
        let container = rig.backend.create(request).await.unwrap();
        let task = container.new_task(PIPES).await.unwrap();
        task.start().await.unwrap();
        members.push((container, task));
    }
    let namespace = |pid| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!(namespace(members[0].1.pid()), namespace(members[1].1.pid()));
    let shim = rig.shims()[0];
    let mounts = std::fs::read_to_string(format!("/proc/{shim}/mounts")).unwrap();
    assert!(mounts.contains(pin.to_str().unwrap()) && !mounts.contains(other.as_str()), "{mounts}");
    // And each root file system stays where it is, whoever came after.
    for (container, _) in &members {
        assert!(mounts.contains(&format!("/t/{}/rootfs", container.id())), "{mounts}");
        container.delete().await.unwrap();
    }
    for path in [pin, pins.join(other.as_str())] {
        rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
    rig.assert_empty().await;
}
