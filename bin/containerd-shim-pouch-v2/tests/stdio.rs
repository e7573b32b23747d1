//! Output that nobody takes, logs that fill, and containerd's FIFOs.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod rig;

use std::io::Read as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use pouch_protocol::task::*;
use rig::{Daemon, Rig, ctx, read_frames};
use serde_json::json;

macro_rules! skip {
    () => {
        if !rig::possible() {
            return;
        }
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_rotates_and_loses_nothing() {
    skip!();
    let mut rig = Rig::new().await;
    let log = rig.options.log.as_mut().unwrap();
    log.max_size = 100_000;
    log.max_files = 20;
    rig.sh("i=0; while [ $i -lt 8000 ]; do echo line $i; i=$((i+1)); done");
    rig.create(false, false).await;
    rig.start().await;
    assert_eq!(rig.wait("").await, 0);
    rig.delete("").await.unwrap();
    let want: Vec<_> = (0..8000).map(|n| format!("stdout:line {n}")).collect();
    assert_eq!(rig.log_lines(), want);
    assert!(rig.path("log.3").exists());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_kubernetes_is_reopened_when_asked_and_only_then() {
    skip!();
    let mut rig = Rig::new().await;
    let log = rig.options.log.as_mut().unwrap();
    log.driver = "cri".to_owned();
    log.max_size = 100;
    // Both kinds of writers.
    for non_blocking in [false, true] {
        let log = rig.options.log.as_mut().unwrap();
        log.non_blocking = non_blocking;
        let path = rig.path("log");
        rig.sh("i=0; while test ! -e /stop; do echo $i; i=$((i+1)); sleep 0.001; done; printf $i");
        rig.create(false, false).await;
        std::fs::rename(&path, rig.path("log.before")).unwrap();
        assert!(rig.reopen_log().contains("does not run"));
        assert!(!path.exists());
        rig.start().await;
        let mut files = vec![rig.path("log.before")];
        for round in 0..3 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(rig.reopen_log(), "{\"ok\":true}");
            let before = std::fs::read(files.last().unwrap()).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(std::fs::read(files.last().unwrap()).unwrap(), before, "written after");
            let renamed = rig.path(&format!("log.{round}-renamed"));
            std::fs::rename(&path, &renamed).unwrap();
            files.push(renamed);
        }
        std::fs::write(rig.bundle.join("rootfs/stop"), "").unwrap();
        assert_eq!(rig.wait("").await, 0);
        assert_ne!(rig.reopen_log(), "{\"ok\":true}");
        rig.delete("").await.unwrap();
        assert!(!path.exists(), "made without a process to fill it");
        let text: String =
            files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
        let numbers: Vec<u64> =
            text.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert!(numbers.len() > 100);
        assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
        let last = text.lines().last().unwrap();
        assert!(last.contains(" stdout P "), "{last}");
        for file in files {
            std::fs::remove_file(file).unwrap();
        }
        std::fs::remove_file(rig.bundle.join("rootfs/stop")).unwrap();
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_line_is_cut() {
    skip!();
    let mut rig = Rig::new().await;
    rig.sh("head -c 1000000 /dev/zero; echo");
    rig.config["mounts"][1]["type"] = json!("tmpfs");
    rig.create(false, false).await;
    rig.start().await;
    assert_eq!(rig.wait("").await, 0);
    rig.delete("").await.unwrap();
    let lines = rig.log_lines();
    assert!(lines.len() >= 1_000_000 / 16384);
    let bytes: usize = lines.iter().map(|line| line.len() - "stdout:".len()).sum();
    assert_eq!(bytes, 1_000_000);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_client_holds_the_process_up_but_not_its_end() {
    skip!();
    let mut rig = Rig::new().await;
    rig.args(&["/bin/yes"]);
    rig.create(false, false).await;
    let client = rig.attach("", false);
    rig.start().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let held = std::fs::metadata(rig.path("log")).unwrap().len();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(std::fs::metadata(rig.path("log")).unwrap().len(), held, "not held up");
    let begun = Instant::now();
    rig.kill("", 9).await.unwrap();
    assert_eq!(rig.wait("").await, 137);
    rig.delete("").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    // What was read for the client is still there for it, even after the shim.
    rig.finish().await;
    let (out, _) = read_frames(&client);
    assert!(out.len() > 100_000, "{}", out.len());
    assert!(out.chunks_exact(2).all(|line| line == b"y\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_client_holds_up_nothing() {
    skip!();
    let mut rig = Rig::new().await;
    let log = rig.options.log.as_mut().unwrap();
    log.max_size = 1_000_000;
    rig.args(&["/bin/yes"]);
    rig.create(false, false).await;
    rig.start().await;
    let mut client = rig.attach("", false);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let size = || {
        let metadata = std::fs::metadata(rig.path("log")).unwrap();
        (std::os::unix::fs::MetadataExt::ino(&metadata), metadata.len())
    };
    let before = size();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_ne!(size(), before, "the log stands still");
    // Dropped for want of progress: the end comes after what its buffers hold.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let mut sink = Vec::new();
    client.read_to_end(&mut sink).unwrap();
    assert!(sink.len() > 100_000 && sink.len() < 2_000_000, "{}", sink.len());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_client_that_comes_back_is_told_what_it_missed() {
    skip!();
    let mut rig = Rig::new().await;
    rig.options.log = None.into();
    rig.sh("head -c 3000000 /dev/zero; sleep 1; echo end");
    rig.create(false, false).await;
    rig.sh("");
    rig.start().await;
    let client = rig.attach("", false);
    tokio::time::sleep(Duration::from_millis(700)).await;
    let (out, err) = read_frames(&client);
    assert!(out.ends_with(b"end\n"));
    let notice = String::from_utf8(err).unwrap();
    assert!(out.len() > 2_900_000 || notice.contains("bytes were left out"), "{notice:?}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_disturbs_nothing() {
    skip!();
    let mut rig = Rig::new().await;
    rig.sh("i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); sleep 0.002; done");
    rig.create(false, false).await;
    let early = rig.attach("", false);
    rig.start().await;
    let late = rig.attach("", false);
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop((early, late));
    assert_eq!(rig.wait("").await, 0);
    rig.delete("").await.unwrap();
    assert_eq!(rig.log_lines().len(), 300);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_that_a_survivor_holds_does_not_hold_the_end() {
    skip!();
    let mut rig = Rig::new().await;
    // Leaves the container's cgroup, so that it survives with the pipe.
    rig.config["linux"]["namespaces"] = json!([{"type": "mount"}]);
    rig.config["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/host", "type": "bind", "source": "/sys/fs/cgroup", "options": ["rbind"],
    }));
    rig.sh("echo hi; for f in /host/cgroup.procs /host/*/cgroup.procs; do \
         [ -w $f ] && echo $$ > $f 2>/dev/null; done; sleep 6 & exit 4");
    rig.create(false, false).await;
    rig.start().await;
    let begun = Instant::now();
    assert_eq!(rig.wait("").await, 4);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    rig.delete("").await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(4500), "{:?}", begun.elapsed());
    assert_eq!(rig.log_lines(), ["stdout:hi"]);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_are_checked() {
    skip!();
    let mut rig = Rig::new().await;
    rig.args(&["/bin/sleep", "1000"]);
    rig.create(false, false).await;
    let connect = || {
        let stream = std::os::unix::net::UnixStream::connect(rig.bundle.join("io.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
        stream
    };
    for (line, word) in [
        ("{\"id\":\"nope\"}\n".to_owned(), "no such process"),
        ("garbage\n".to_owned(), "not a request"),
        ("x".repeat(5000), "not a request"),
    ] {
        let mut stream = connect();
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.contains(word), "{answer:?}");
    }
    // One that says nothing is closed in the end.
    let mut silent = connect();
    assert_eq!(silent.read(&mut [0; 8]).unwrap(), 0);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(rig.bundle.join("io.sock")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_neither_container_nor_shim() {
    skip!();
    let dir = tempfile::tempdir().unwrap();
    let small = dir.path().join("small");
    std::fs::create_dir(&small).unwrap();
    rustix::mount::mount(
        "tmpfs",
        &small,
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        c"size=256k",
    )
    .unwrap();
    let mut rig = Rig::within(dir, Daemon::Alive).await;
    let log = rig.options.log.as_mut().unwrap();
    log.path = small.join("log").to_str().unwrap().to_owned();
    rig.sh("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exit 6");
    rig.create(false, false).await;
    rig.start().await;
    assert_eq!(rig.wait("").await, 6);
    rig.delete("").await.unwrap();
    assert!(std::fs::metadata(small.join("log")).unwrap().len() > 100_000);
    rustix::mount::unmount(&small, rustix::mount::UnmountFlags::DETACH).unwrap();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_non_blocking_log_is_written_too() {
    skip!();
    let mut rig = Rig::new().await;
    let log = rig.options.log.as_mut().unwrap();
    log.non_blocking = true;
    log.buffer_size = 1 << 20;
    rig.sh("i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done");
    rig.create(false, false).await;
    rig.start().await;
    assert_eq!(rig.wait("").await, 0);
    rig.delete("").await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while rig.log_lines().len() < 1000 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let want: Vec<_> = (0..1000).map(|n| format!("stdout:line {n}")).collect();
    assert_eq!(rig.log_lines(), want);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifos_as_containerd_gives_them() {
    skip!();
    let mut rig = Rig::new().await;
    rig.args(&["/bin/cat"]);
    let fifo = |name: &str| {
        let path = rig.path(name);
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        path
    };
    let (stdin, stdout, stderr) = (fifo("in"), fifo("out"), fifo("err"));
    let mut request = rig.request(false, false);
    request.stdin = stdin.to_str().unwrap().to_owned();
    request.stdout = stdout.to_str().unwrap().to_owned();
    request.stderr = format!("file://{}", rig.path("stderr.txt").display());
    drop(stderr);
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        std::fs::File::open(stdout).unwrap().read_to_string(&mut text).unwrap();
        text
    });
    rig.create_with(request).await;
    rig.start().await;
    let mut writer = std::fs::OpenOptions::new().write(true).open(&stdin).unwrap();
    writer.write_all(b"through the fifo\n").unwrap();
    drop(writer);
    assert_eq!(rig.wait("").await, 0);
    rig.delete("").await.unwrap();
    assert_eq!(reader.join().unwrap(), "through the fifo\n");
    assert!(rig.path("stderr.txt").exists());
    let request = StateRequest { id: rig.id.clone(), ..Default::default() };
    assert!(rig.task.state(ctx(), &request).await.is_err());
    rig.finish().await;
}
