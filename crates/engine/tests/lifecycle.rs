//! The engine over real seams: shim, runtime, overlay, store. Needs root and the built programs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pouch_containerd::local::{Local, LocalConfig};
use pouch_engine::*;
use pouch_network::NetworkConfig;
use pouch_types::Signal;
use pouch_types::spec::{Attach, ContainerSpec, LogSpec, NetworkMode, ProcessSpec};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn programs() -> PathBuf {
    // target/<triple>/debug/deps/<test> → target/<triple>/debug
    let mut dir = std::env::current_exe().unwrap();
    dir.pop();
    dir.pop();
    dir
}

struct Rig {
    dir: tempfile::TempDir,
    engine: Engine,
}

impl Rig {
    async fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        for program in ["containerd-shim-pouch-v2", "pouch-runtime", "pouch-unpack"] {
            if !programs().join(program).exists() {
                println!("skipped: {program} is not built");
                return None;
            }
        }
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let engine = open(dir.path()).await;
        import(&engine).await;
        Some(Self { dir, engine })
    }

    /// As a new daemon would.
    async fn reopen(&mut self) {
        self.engine = open(self.dir.path()).await;
    }

    async fn run(&self, words: &[&str]) -> String {
        let created = self.engine.create(None, spec(words)).await.unwrap();
        created.id.to_string()
    }
}

async fn open(dir: &Path) -> Engine {
    let bin = programs();
    let (data, exec) = (dir.join("d"), dir.join("x"));
    std::fs::create_dir_all(&data).unwrap();
    std::fs::create_dir_all(&exec).unwrap();
    let schemas = [
        SCHEMA,
        pouch_image::SCHEMA,
        pouch_snapshot::SCHEMA,
        pouch_network::SCHEMA,
        pouch_volume::SCHEMA,
    ];
    let store = pouch_store::Store::open(&data.join("db"), &schemas).unwrap().store;
    let local = LocalConfig {
        state: exec.clone(),
        shim: bin.join("containerd-shim-pouch-v2"),
        namespace: "test".into(),
    };
    let (backend, backend_events) = Local::open(local).await.unwrap();
    let snapshots = pouch_snapshot::Snapshotter::open(
        pouch_snapshot::SnapshotConfig {
            root: data.join("overlay"),
            state: exec.join("overlay"),
            unpack_binary: bin.join("pouch-unpack"),
        },
        store.clone(),
    )
    .await
    .unwrap();
    let images = pouch_image::Images::open(
        store.clone(),
        pouch_content::ContentStore::open(&data.join("content")).unwrap(),
        std::sync::Arc::new(snapshots.clone()),
        pouch_registry::Registry::new(Default::default()).unwrap(),
    )
    .await
    .unwrap();
    let mut network = NetworkConfig::new(exec.clone());
    network.bridge = format!("pt{}", std::process::id() % 100_000);
    let networks = pouch_network::Networks::open(network, store.clone()).await.unwrap();
    let volumes = pouch_volume::Volumes::open(
        pouch_volume::VolumeConfig { root: data.join("volumes") },
        store.clone(),
    )
    .await
    .unwrap();
    let runtimes = BTreeMap::from([(
        "pouch-runtime".to_owned(),
        RuntimeConfig { path: None, args: Vec::new() },
    )]);
    let config = EngineConfig {
        data_root: data,
        exec_root: exec,
        unpack_binary: bin.join("pouch-unpack"),
        init_binary: bin.join("pouch-init"),
        runtimes,
        default_runtime: "pouch-runtime".into(),
        cgroup_driver: CgroupDriver::Cgroupfs,
        cgroup_parent: String::new(),
        default_log: LogSpec::default(),
        default_ulimits: Vec::new(),
        default_shm_size: 64 << 20,
        default_stop_timeout: 10,
        default_cgroupns: None,
        init: false,
        no_new_privileges: false,
        seccomp_profile: None,
        cdi_spec_dirs: Vec::new(),
        dns: Vec::new(),
        dns_search: Vec::new(),
        dns_options: Vec::new(),
        labels: Vec::new(),
    };
    let seams = Seams {
        store,
        backend: std::sync::Arc::new(backend),
        backend_events,
        images,
        snapshots: std::sync::Arc::new(snapshots),
        networks,
        volumes,
        cni: None,
        rebuild: Rebuild::No,
    };
    Engine::open(config, seams).await.unwrap()
}

async fn import(engine: &Engine) {
    let rootfs = tempfile::tempdir().unwrap();
    let root = rootfs.path();
    std::fs::create_dir(root.join("bin")).unwrap();
    std::fs::create_dir(root.join("etc")).unwrap();
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in ["sh", "sleep", "true", "cat", "echo", "id", "ls", "env", "ip", "kill"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let tar = std::process::Command::new("tar")
        .args(["-C", root.to_str().unwrap(), "-c", "."])
        .output()
        .unwrap();
    let bytes = bytes::Bytes::from(tar.stdout);
    let input = futures::stream::iter([Ok::<_, std::io::Error>(bytes)]);
    let options = pouch_image::ImportOptions {
        reference: Some("busybox".parse().unwrap()),
        ..Default::default()
    };
    engine.images().import(input, options, pouch_image::Owner::Docker).await.unwrap();
}

fn spec(words: &[&str]) -> ContainerSpec {
    let mut spec = ContainerSpec {
        image_name: "busybox".into(),
        process: ProcessSpec {
            cmd: Some(words.iter().map(|w| (*w).to_owned()).collect()),
            ..ProcessSpec::default()
        },
        ..ContainerSpec::default()
    };
    spec.network.mode = NetworkMode::None;
    spec
}

async fn logs(engine: &Engine, id: &str) -> String {
    let options = LogOptions { stdout: true, stderr: true, follow: true, ..Default::default() };
    let mut stream = engine.logs(id, options).await.unwrap();
    let mut text = Vec::new();
    while let Some(record) = stream.records.recv().await {
        text.extend(record.unwrap().bytes);
    }
    String::from_utf8(text).unwrap()
}

async fn within<T>(seconds: u64, what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(seconds), work)
        .await
        .unwrap_or_else(|_| panic!("{what} did not end in {seconds} s"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_lives_and_goes() {
    let Some(rig) = Rig::new().await else { return };
    let engine = &rig.engine;
    let id = rig.run(&["sh", "-c", "echo hello; exit 3"]).await;
    let wait = engine.wait(&id, WaitCondition::NextExit).unwrap();
    within(20, "start", engine.start(&id)).await.unwrap();
    assert_eq!(within(20, "exit", wait).await.exit_code, 3);
    assert_eq!(within(20, "logs", logs(engine, &id)).await, "hello\n");
    let view = engine.view(&id).unwrap();
    assert_eq!((view.state.status, view.state.exit_code), (Status::Exited, 3));
    within(20, "remove", engine.remove(&id, RemoveOptions::default())).await.unwrap();
    assert!(engine.view(&id).is_err());
    assert!(!view.dir.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_before_start_exec_and_stop() {
    let Some(rig) = Rig::new().await else { return };
    let engine = &rig.engine;
    let mut cat = spec(&["cat"]);
    cat.process.open_stdin = true;
    cat.process.stdin_once = true;
    let id = engine.create(None, cat).await.unwrap().id.to_string();
    let streams = Attach { stdin: true, stdout: true, stderr: true };
    let options = AttachOptions { streams, stream: true, logs: false };
    let attached = engine.attach(&id, options).await.unwrap();
    within(20, "start", engine.start(&id)).await.unwrap();
    let mut input = attached.input.unwrap();
    let mut output = attached.output;
    input.write_all(b"ping").await.unwrap();
    input.shutdown().await.unwrap();
    let mut back = Vec::new();
    within(10, "echo", output.read_to_end(&mut back)).await.unwrap();
    assert_eq!(back, b"\x01\0\0\0\0\0\0\x04ping");

    let id = rig.run(&["sleep", "1000"]).await;
    within(20, "start", engine.start(&id)).await.unwrap();
    let exec = ExecSpec {
        cmd: vec!["sh".into(), "-c".into(), "echo out; exit 7".into()],
        attach: Attach { stdin: false, stdout: true, stderr: true },
        ..ExecSpec::default()
    };
    let exec_id = engine.exec_create(&id, exec.clone()).await.unwrap();
    let attached =
        within(10, "exec", engine.exec_start(exec_id.as_str(), exec.attach, None)).await.unwrap();
    let mut back = Vec::new();
    within(10, "exec output", attached.unwrap().output.read_to_end(&mut back)).await.unwrap();
    assert_eq!(back, b"\x01\0\0\0\0\0\0\x04out\n");
    for _ in 0..100 {
        if engine.exec_view(exec_id.as_str()).unwrap().exit_code.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(engine.exec_view(exec_id.as_str()).unwrap().exit_code, Some(7));
    // sleep as pid 1 ignores SIGTERM: the stop ends in SIGKILL.
    let options = StopOptions { timeout: Some(1), signal: None };
    within(15, "stop", engine.stop(&id, options)).await.unwrap();
    assert_eq!(engine.view(&id).unwrap().state.exit_code, 137);
    let force = RemoveOptions { force: true, volumes: false };
    within(15, "remove", engine.remove(&id, force)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_daemon_takes_over() {
    let Some(mut rig) = Rig::new().await else { return };
    let running = rig.run(&["sleep", "1000"]).await;
    let ending = rig.run(&["sh", "-c", "sleep 2; exit 42"]).await;
    for id in [&running, &ending] {
        within(20, "start", rig.engine.start(id)).await.unwrap();
    }
    let pid = rig.engine.view(&running).unwrap().state.pid;
    rig.reopen().await;
    let view = rig.engine.view(&running).unwrap();
    assert_eq!((view.state.status, view.state.pid), (Status::Running, pid), "{:?}", view.state);
    let wait = rig.engine.wait(&ending, WaitCondition::NotRunning).unwrap();
    assert_eq!(within(20, "exit", wait).await.exit_code, 42);
    within(20, "kill", rig.engine.kill(&running, Signal::KILL)).await.unwrap();
    assert_eq!(rig.engine.view(&running).unwrap().state.exit_code, 137);
    for id in [running, ending] {
        within(20, "remove", rig.engine.remove(&id, RemoveOptions::default())).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_program_is_told() {
    let Some(rig) = Rig::new().await else { return };
    let id = rig.run(&["nope"]).await;
    let error = within(20, "start", rig.engine.start(&id)).await.unwrap_err();
    assert!(error.text().contains("executable file not found"), "{}", error.text());
    let view = rig.engine.view(&id).unwrap();
    assert_eq!((view.state.status, view.state.exit_code), (Status::Created, 127));
    within(20, "remove", rig.engine.remove(&id, RemoveOptions::default())).await.unwrap();
}
