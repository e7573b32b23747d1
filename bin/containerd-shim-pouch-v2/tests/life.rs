//! Containers from creation to removal.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod rig;

use std::io::Write as _;
use std::time::{Duration, Instant};

use pouch_protocol::task::*;
use pouch_protocol::types::Status;
use rig::{Daemon, Rig, ctx, overlay, process, read_frames, read_raw, read_until};
use serde_json::json;

/// Tests run on one runtime each; `skip!` leaves when containers are impossible here.
macro_rules! skip {
    () => {
        if !rig::possible() {
            return;
        }
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn run_to_completion() {
    skip!();
    let mut rig = Rig::new().await;
    rig.sh("echo out; echo err >&2; printf rest; exit 7");
    let pid = rig.create(false, false).await;
    assert_eq!(rig.state("").await.unwrap().status.enum_value(), Ok(Status::CREATED));
    let client = rig.attach("", false);
    assert_eq!(rig.start().await, pid);
    assert_eq!(rig.wait("").await, 7);
    let file = rig.exit_file();
    assert_eq!((&file["generation"], &file["pid"]), (&json!(7), &json!(pid)));
    assert_eq!((&file["exit_status"], &file["oom_killed"]), (&json!(7), &json!(false)));
    let (out, err) = tokio::task::spawn_blocking(move || read_frames(&client)).await.unwrap();
    assert_eq!((out.as_slice(), err.as_slice()), (&b"out\nrest"[..], &b"err\n"[..]));
    assert_eq!(rig.topics().await, ["/tasks/create", "/tasks/start", "/tasks/exit"]);
    assert_eq!(rig.state("").await.unwrap().status.enum_value(), Ok(Status::STOPPED));
    let deleted = rig.delete("").await.unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 7));
    assert!(deleted.exited_at.is_some());
    assert!(rig.state("").await.is_err());
    let mut lines = rig.log_lines();
    lines.sort();
    assert_eq!(lines, ["stderr:err", "stdout:out", "stdout:rest"]);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_the_service_answer() {
    skip!();
    let rig = Rig::new().await;
    let address = format!("unix://{}", rig.socket.display());
    let client = ttrpc::r#async::Client::connect(&address).await.unwrap();
    let v2 = pouch_protocol::task_ttrpc_v2::TaskClient::new(client);
    let request = ConnectRequest { id: rig.id.clone(), ..Default::default() };
    assert_eq!(v2.connect(ctx(), &request).await.unwrap().shim_pid, rig.shim.id());
    assert_eq!(rig.task.connect(ctx(), &request).await.unwrap().shim_pid, rig.shim.id());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlay_is_mounted_out_of_the_hosts_sight() {
    skip!();
    let mut rig = Rig::new().await;
    let lower = rig.path("lower");
    std::fs::rename(rig.bundle.join("rootfs"), &lower).unwrap();
    let layers = rig.path("layers");
    for directory in ["upper", "work"] {
        std::fs::create_dir_all(layers.join(directory)).unwrap();
    }
    rig.sh("echo hello > /written; cat /written");
    let mut request = rig.request(false, false);
    request.rootfs = vec![overlay(&layers, &[&lower])];
    rig.create_with(request).await;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(rig.bundle.to_str().unwrap()), "{mounts}");
    rig.start().await;
    assert_eq!(rig.wait("").await, 0);
    rig.delete("").await.unwrap();
    assert_eq!(rig.log_lines(), ["stdout:hello"]);
    assert_eq!(std::fs::read(layers.join("upper/written")).unwrap(), b"hello\n");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlay_with_more_layers_than_a_page_of_options() {
    skip!();
    let mut rig = Rig::new().await;
    let lower = rig.path("lower");
    std::fs::rename(rig.bundle.join("rootfs"), &lower).unwrap();
    let layers = rig.path("layers");
    for directory in ["upper", "work"] {
        std::fs::create_dir_all(layers.join(directory)).unwrap();
    }
    let mut all = Vec::new();
    for n in 0..100 {
        let layer = layers.join(format!("{n}{}", "x".repeat(40)));
        std::fs::create_dir_all(&layer).unwrap();
        std::fs::write(layer.join(format!("f{n}")), "x").unwrap();
        all.push(layer);
    }
    all.push(lower);
    let all: Vec<_> = all.iter().map(|path| path.as_path()).collect();
    rig.sh("set -- /f*; echo $#");
    let mut request = rig.request(false, false);
    request.rootfs = vec![overlay(&layers, &all)];
    assert!(request.rootfs[0].options[0].len() > 5000);
    rig.create_with(request).await;
    rig.start().await;
    assert_eq!(rig.wait("").await, 0);
    rig.delete("").await.unwrap();
    assert_eq!(rig.log_lines(), ["stdout:100"]);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn input_before_the_start_and_its_end() {
    skip!();
    let mut rig = Rig::new().await;
    rig.options.stdin_once = true;
    rig.args(&["/bin/cat"]);
    rig.create(false, true).await;
    let mut client = rig.attach("", true);
    client.write_all(b"before\n").unwrap();
    rig.start().await;
    client.write_all(b"after\n").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rig.wait("").await, 0);
    let (out, _) = read_frames(&client);
    assert_eq!(out, b"before\nafter\n");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_detaches_does_not_end_the_input() {
    skip!();
    let mut rig = Rig::new().await;
    rig.args(&["/bin/cat"]);
    rig.create(false, true).await;
    rig.start().await;
    let mut first = rig.attach("", true);
    first.write_all(b"one\n").unwrap();
    drop(first);
    let mut second = rig.attach("", true);
    second.write_all(b"two\n").unwrap();
    // Its half-close is only its own end.
    second.shutdown(std::net::Shutdown::Write).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(rig.state("").await.unwrap().status.enum_value(), Ok(Status::RUNNING));
    let request = CloseIORequest { id: rig.id.clone(), stdin: true, ..Default::default() };
    rig.task.close_io(ctx(), &request).await.unwrap();
    assert_eq!(rig.wait("").await, 0);
    assert_eq!(rig.log_lines(), ["stdout:one", "stdout:two"]);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn megabytes_of_input_arrive() {
    skip!();
    let mut rig = Rig::new().await;
    rig.options.stdin_once = true;
    rig.sh("sleep 0.3; busybox md5sum");
    rig.create(false, true).await;
    let mut client = rig.attach("", true);
    rig.start().await;
    let writer = client.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        for n in 0..400u32 {
            client.write_all(&n.to_le_bytes().repeat(2500)).unwrap();
        }
        // Gone altogether, with bytes still on their way.
        drop(client);
    });
    drop(writer);
    thread.join().unwrap();
    assert_eq!(rig.wait("").await, 0);
    let mut data = Vec::new();
    for n in 0..400u32 {
        data.extend(n.to_le_bytes().repeat(2500));
    }
    let file = rig.path("data");
    std::fs::write(&file, data).unwrap();
    let sum = std::process::Command::new("md5sum").arg(&file).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    let sum = sum.split(' ').next().unwrap();
    assert_eq!(rig.log_lines(), [format!("stdout:{sum}  -")]);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_and_its_size() {
    skip!();
    let mut rig = Rig::new().await;
    rig.config["process"]["consoleSize"] = json!({"height": 30, "width": 100});
    rig.sh("stty size; read x; stty size; test -t 0 && test -t 2 && echo got $x");
    rig.create(true, true).await;
    let mut client = rig.attach("", true);
    rig.start().await;
    read_until(&client, "30 100\r\n");
    let request = ResizePtyRequest {
        id: rig.id.clone(),
        width: 77,
        height: 33,
        ..ResizePtyRequest::default()
    };
    rig.task.resize_pty(ctx(), &request).await.unwrap();
    client.write_all(b"hello\n").unwrap();
    let text = read_raw(&client);
    assert!(text.contains("33 77\r\n") && text.ends_with("got hello\r\n"), "{text:?}");
    assert_eq!(rig.wait("").await, 0);
    assert!(rig.log_lines().contains(&"stdout:got hello\r".to_owned()), "{:?}", rig.log_lines());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_set_before_the_start_counts() {
    skip!();
    let mut rig = Rig::new().await;
    rig.sh("stty size");
    rig.create(true, false).await;
    let request = ResizePtyRequest {
        id: rig.id.clone(),
        width: 91,
        height: 17,
        ..ResizePtyRequest::default()
    };
    rig.task.resize_pty(ctx(), &request).await.unwrap();
    let client = rig.attach("", false);
    rig.start().await;
    assert_eq!(read_raw(&client), "17 91\r\n");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn execs() {
    skip!();
    let mut rig = Rig::new().await;
    rig.args(&["/bin/sleep", "1000"]);
    rig.create(false, false).await;
    rig.start().await;

    rig.add_exec("e1", false, process(&["/bin/sh", "-c", "cat; echo err >&2; exit 3"]))
        .await
        .unwrap();
    assert!(rig.add_exec("e1", false, process(&["/bin/true"])).await.is_err());
    let mut client = rig.attach("e1", true);
    let pid = rig.start_process("e1").await.unwrap();
    client.write_all(b"in\n").unwrap();
    let request = PidsRequest { id: rig.id.clone(), ..Default::default() };
    let pids = rig.task.pids(ctx(), &request).await;
    let pids: Vec<u32> = pids.unwrap().processes.iter().map(|p| p.pid).collect();
    assert!(pids.contains(&pid), "{pids:?}");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rig.wait("e1").await, 3);
    assert_eq!(read_frames(&client), (b"in\n".to_vec(), b"err\n".to_vec()));
    assert_eq!(rig.delete("e1").await.unwrap().exit_status, 3);
    assert!(rig.state("e1").await.is_err());

    rig.add_exec("tty", true, {
        let mut process = process(&["/bin/sh", "-c", "stty size; sleep 1000"]);
        process["terminal"] = json!(true);
        process["consoleSize"] = json!({"height": 5, "width": 50});
        process
    })
    .await
    .unwrap();
    let client = rig.attach("tty", true);
    rig.start_process("tty").await.unwrap();
    read_until(&client, "5 50\r\n");
    rig.kill("tty", 15).await.unwrap();
    assert_eq!(rig.wait("tty").await, 128 + 15);
    rig.delete("tty").await.unwrap();

    // Fifty that end at once: none is lost between the runtime and the shim.
    for n in 0..50 {
        let exec = format!("q{n}");
        rig.add_exec(&exec, false, process(&["/bin/sh", "-c", &format!("exit {n}")]))
            .await
            .unwrap();
        rig.start_process(&exec).await.unwrap();
        assert_eq!(rig.wait(&exec).await, n);
        rig.delete(&exec).await.unwrap();
    }

    rig.add_exec("bad", false, process(&["/no/such"])).await.unwrap();
    let error = format!("{:?}", rig.start_process("bad").await.unwrap_err());
    assert!(error.contains("no such file"), "{error}");
    rig.delete("bad").await.unwrap();
    // Output of execs is not the container's log.
    assert!(rig.log_lines().is_empty());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals() {
    skip!();
    let mut rig = Rig::new().await;
    rig.sh("trap 'echo term; exit 5' TERM; echo ready; while :; do sleep 0.05; done");
    rig.create(false, false).await;
    let client = rig.attach("", false);
    rig.start().await;
    read_until(&client, "ready");
    assert!(rig.kill("", 0).await.is_err());
    assert!(rig.delete("").await.is_err(), "it runs");
    rig.kill("", 15).await.unwrap();
    assert_eq!(rig.wait("").await, 5);
    let error = format!("{:?}", rig.kill("", 15).await.unwrap_err());
    assert!(error.contains("NOT_FOUND"), "{error}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_created_container_can_be_killed_and_deleted() {
    skip!();
    let mut rig = Rig::new().await;
    rig.create(false, false).await;
    rig.kill("", 9).await.unwrap();
    assert_eq!(rig.wait("").await, 137);
    assert!(rig.start_process("").await.is_err());
    rig.delete("").await.unwrap();
    // The id is free again.
    rig.create(false, false).await;
    rig.delete("").await.unwrap();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_resume_and_kill_while_paused() {
    skip!();
    let mut rig = Rig::new().await;
    rig.sh("while :; do echo tick; sleep 0.05; done");
    rig.create(false, false).await;
    rig.start().await;
    let pause = PauseRequest { id: rig.id.clone(), ..Default::default() };
    let resume = ResumeRequest { id: rig.id.clone(), ..Default::default() };
    rig.task.pause(ctx(), &pause).await.unwrap();
    assert_eq!(rig.state("").await.unwrap().status.enum_value(), Ok(Status::PAUSED));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = rig.log_lines().len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(rig.log_lines().len(), before);
    rig.task.resume(ctx(), &resume).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(rig.log_lines().len() > before);
    rig.task.pause(ctx(), &pause).await.unwrap();
    rig.kill("", 9).await.unwrap();
    assert_eq!(rig.wait("").await, 137);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_exist() {
    skip!();
    let mut rig = Rig::new().await;
    rig.args(&["/no/such"]);
    rig.write_config();
    let error = match rig.task.create(ctx(), &rig.request(false, false)).await {
        Err(error) => error,
        // Runtimes differ in when they look.
        Ok(_) => rig.start_process("").await.unwrap_err(),
    };
    let error = format!("{error:?}");
    assert!(error.contains("no such file"), "{error}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_memory() {
    skip!();
    let mut rig = Rig::new().await;
    rig.config["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    rig.sh("busybox tail /dev/zero; echo survived; exec tail /dev/zero");
    rig.config["mounts"][1]["options"] = json!(["nosuid", "mode=755"]);
    rig.create(false, false).await;
    rig.start().await;
    assert_eq!(rig.wait("").await, 137);
    assert_eq!(rig.exit_file()["oom_killed"], json!(true));
    let topics = rig.topics().await;
    assert_eq!(topics.iter().filter(|topic| *topic == "/tasks/oom").count(), 1, "{topics:?}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn update_and_stats() {
    skip!();
    let mut rig = Rig::new().await;
    rig.args(&["/bin/sleep", "1000"]);
    rig.create(false, false).await;
    rig.start().await;
    let resources = pouch_protocol::Any {
        type_url: "r".to_owned(),
        value: json!({"memory": {"limit": 64 << 20}}).to_string().into_bytes(),
        ..Default::default()
    };
    let request = UpdateTaskRequest {
        id: rig.id.clone(),
        resources: Some(resources).into(),
        ..Default::default()
    };
    rig.task.update(ctx(), &request).await.unwrap();
    let request = StatsRequest { id: rig.id.clone(), ..Default::default() };
    let stats = rig.task.stats(ctx(), &request).await.unwrap().stats.unwrap();
    use pouch_protocol::metrics::{v1, v2};
    let limit = match pouch_protocol::unpack::<v1::Metrics>(&stats, v1::METRICS_TYPE) {
        Ok(metrics) => metrics.memory.usage.limit,
        Err(_) => {
            pouch_protocol::unpack::<v2::Metrics>(&stats, v2::METRICS_TYPE)
                .unwrap()
                .memory
                .usage_limit
        }
    };
    assert_eq!(limit, 64 << 20);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_is_dead() {
    skip!();
    let mut rig = Rig::with(Daemon::Dead).await;
    rig.sh("exit 9");
    rig.create(false, false).await;
    rig.start().await;
    assert_eq!(rig.wait("").await, 9);
    assert_eq!(rig.exit_file()["exit_status"], json!(9));
    let begun = Instant::now();
    rig.finish().await;
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shim_outlives_signals_and_its_parent_session() {
    skip!();
    let mut rig = Rig::new().await;
    rig.args(&["/bin/sleep", "1000"]);
    rig.create(false, false).await;
    rig.start().await;
    let raw = i32::try_from(rig.shim.id()).unwrap();
    let shim = rustix::process::Pid::from_raw(raw).unwrap();
    for signal in [rustix::process::Signal::HUP, rustix::process::Signal::TERM] {
        rustix::process::kill_process(shim, signal).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(rig.state("").await.is_ok());
    assert_eq!(rustix::process::getsid(Some(shim)).unwrap(), shim);
    // Signals that the shim handles have their default effect in the container.
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", rig.state("").await.unwrap().pid));
    let status = status.unwrap();
    let ignored = status.lines().find(|line| line.starts_with("SigIgn:")).unwrap();
    let ignored = u64::from_str_radix(ignored.split_whitespace().nth(1).unwrap(), 16).unwrap();
    for signal in [1, 13, 15] {
        assert_eq!(ignored >> (signal - 1) & 1, 0, "{signal} is ignored: {ignored:x}");
    }
    rig.kill("", 9).await.unwrap();
    rig.wait("").await;
    rig.delete("").await.unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::TERM).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(rig.shim.try_wait().unwrap().is_some(), "empty, it ends by SIGTERM");
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_reaped() {
    skip!();
    let mut rig = Rig::new().await;
    // Without a pid namespace orphans come to the shim.
    rig.config["linux"]["namespaces"] = json!([{"type": "mount"}]);
    rig.sh("(sleep 0.2 &) ; (sleep 0.2 &) ; sleep 1000");
    rig.create(false, false).await;
    rig.start().await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    let path = format!("/proc/{0}/task/{0}/children", rig.shim.id());
    let children = std::fs::read_to_string(path).unwrap();
    assert_eq!(children.split_whitespace().count(), 1, "{children}");
    rig.finish().await;
}
