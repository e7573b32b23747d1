//! A shim of its own for each test: bundle, events server, attach clients.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(unreachable_pub, reason = "a module of several programs")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pouch_protocol::events::TaskExit;
use pouch_protocol::events_ttrpc::{Events, ForwardRequest, create_events};
use pouch_protocol::options::{LogOptions, OPTIONS_TYPE, Options};
use pouch_protocol::task::*;
use pouch_protocol::task_ttrpc_v3::TaskClient;
use pouch_protocol::types::{Envelope, Mount};
use pouch_protocol::{Any, Empty, Message, any};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use ttrpc::r#async::{Client, Server, TtrpcContext};

pub const WAIT: Duration = Duration::from_secs(20);

pub struct Rig {
    pub dir: tempfile::TempDir,
    pub id: String,
    pub bundle: PathBuf,
    pub socket: PathBuf,
    pub shim: Child,
    pub task: TaskClient,
    pub events: mpsc::Receiver<Envelope>,
    server: Option<Server>,
    pub config: Value,
    pub options: Options,
}

struct Sink(mpsc::Sender<Envelope>);

#[async_trait]
impl Events for Sink {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let _ = self.0.send(request.envelope.unwrap()).await;
        Ok(Empty::default())
    }
}

/// False, with the reason printed, where containers cannot be made.
pub fn possible() -> bool {
    let root = rustix::process::geteuid().is_root();
    let tools = Path::new("/bin/busybox").exists() && runtime().is_some();
    if !root || !tools {
        eprintln!("skipped: needs root, an OCI runtime and a static busybox");
    }
    root && tools
}

/// The runtime to test with: `POUCH_TEST_RUNTIME`, or runc.
pub fn runtime() -> Option<PathBuf> {
    std::env::var_os("POUCH_TEST_RUNTIME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from("/usr/sbin/runc")))
        .filter(|path| path.exists())
}

pub fn ctx() -> ttrpc::context::Context {
    ttrpc::context::with_timeout(60_000_000_000)
}

/// Whether events have somewhere to go.
#[derive(PartialEq)]
pub enum Daemon {
    Alive,
    Dead,
}

impl Rig {
    pub async fn new() -> Self {
        Self::with(Daemon::Alive).await
    }

    pub async fn with(daemon: Daemon) -> Self {
        Self::within(tempfile::tempdir().unwrap(), daemon).await
    }

    /// In `dir`, whose mounts the shim sees if they are made before it.
    pub async fn within(dir: tempfile::TempDir, daemon: Daemon) -> Self {
        let name = dir.path().file_name().unwrap().to_str().unwrap();
        let id = format!("pouch-test-{}", name.trim_start_matches('.'));
        let bundle = dir.path().join("bundle");
        let rootfs = bundle.join("rootfs");
        for directory in ["bin", "proc", "dev", "sys", "tmp", "etc"] {
            std::fs::create_dir_all(rootfs.join(directory)).unwrap();
        }
        std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
        for applet in ["sh", "cat", "sleep", "yes", "head", "stty", "true", "dd", "tail"] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        let events_path = dir.path().join("events");
        let (sender, events) = mpsc::channel(1000);
        let server = if daemon == Daemon::Alive {
            let mut server = Server::new()
                .bind(&format!("unix://{}", events_path.display()))
                .unwrap()
                .register_service(create_events(Arc::new(Sink(sender))));
            server.start().await.unwrap();
            Some(server)
        } else {
            None
        };

        let socket = dir.path().join("shim");
        let listener = UnixListener::bind(&socket).unwrap();
        let errors = std::fs::File::create(dir.path().join("shim.log")).unwrap();
        let shim = Command::new(env!("CARGO_BIN_EXE_containerd-shim-pouch-v2"))
            .args(["-namespace", "test", "-debug", "-id", &id, "-bundle"])
            .arg(&bundle)
            .arg("-address")
            .arg(&events_path)
            .arg("serve")
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .unwrap();
        let address = format!("unix://{}", socket.display());
        let task = TaskClient::new(Client::connect(&address).await.unwrap());
        let options = Options {
            runtime_binary: runtime().unwrap().to_str().unwrap().to_owned(),
            runtime_root: dir.path().join("runtime").to_str().unwrap().to_owned(),
            exit_file: dir.path().join("exit.json").to_str().unwrap().to_owned(),
            generation: 7,
            log: Some(LogOptions {
                driver: "json-file".to_owned(),
                path: dir.path().join("log").to_str().unwrap().to_owned(),
                max_files: 1,
                ..LogOptions::default()
            })
            .into(),
            ..Options::default()
        };
        let config = config(&id);
        Self { dir, id, bundle, socket, shim, task, events, server, config, options }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn args(&mut self, args: &[&str]) {
        self.config["process"]["args"] = json!(args);
    }

    pub fn sh(&mut self, script: &str) {
        self.args(&["/bin/sh", "-c", script]);
    }

    pub fn request(&self, terminal: bool, stdin: bool) -> CreateTaskRequest {
        let held = "pouch-io:".to_owned();
        CreateTaskRequest {
            id: self.id.clone(),
            bundle: self.bundle.to_str().unwrap().to_owned(),
            terminal,
            stdin: if stdin { held.clone() } else { String::new() },
            stdout: held.clone(),
            stderr: if terminal { String::new() } else { held },
            options: Some(any(OPTIONS_TYPE, &self.options).unwrap()).into(),
            ..CreateTaskRequest::default()
        }
    }

    pub fn write_config(&self) {
        std::fs::write(self.bundle.join("config.json"), self.config.to_string()).unwrap();
    }

    /// Creates with held stdio.
    pub async fn create(&mut self, terminal: bool, stdin: bool) -> u32 {
        self.config["process"]["terminal"] = json!(terminal);
        let request = self.request(terminal, stdin);
        self.create_with(request).await
    }

    pub async fn create_with(&self, request: CreateTaskRequest) -> u32 {
        self.write_config();
        match self.task.create(ctx(), &request).await {
            Ok(response) => response.pid,
            Err(error) => panic!("create: {error:?}\n{}", self.shim_log()),
        }
    }

    pub fn shim_log(&self) -> String {
        std::fs::read_to_string(self.path("shim.log")).unwrap_or_default()
    }

    pub async fn start(&self) -> u32 {
        self.start_process("").await.unwrap_or_else(|e| panic!("start: {e:?}\n{}", self.shim_log()))
    }

    pub async fn start_process(&self, exec: &str) -> ttrpc::Result<u32> {
        let request = StartRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            ..StartRequest::default()
        };
        self.task.start(ctx(), &request).await.map(|response| response.pid)
    }

    pub async fn wait(&self, exec: &str) -> u32 {
        let request =
            WaitRequest { id: self.id.clone(), exec_id: exec.to_owned(), ..Default::default() };
        let wait = self.task.wait(ctx(), &request);
        tokio::time::timeout(WAIT, wait).await.expect("wait hangs").unwrap().exit_status
    }

    pub async fn kill(&self, exec: &str, signal: u32) -> ttrpc::Result<Empty> {
        let request = KillRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            signal,
            ..KillRequest::default()
        };
        self.task.kill(ctx(), &request).await
    }

    pub async fn state(&self, exec: &str) -> ttrpc::Result<StateResponse> {
        let request =
            StateRequest { id: self.id.clone(), exec_id: exec.to_owned(), ..Default::default() };
        self.task.state(ctx(), &request).await
    }

    pub async fn delete(&self, exec: &str) -> ttrpc::Result<DeleteResponse> {
        let request =
            DeleteRequest { id: self.id.clone(), exec_id: exec.to_owned(), ..Default::default() };
        self.task.delete(ctx(), &request).await
    }

    pub async fn add_exec(
        &self,
        exec: &str,
        terminal: bool,
        process: Value,
    ) -> ttrpc::Result<Empty> {
        let held = "pouch-io:".to_owned();
        let request = ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            terminal,
            stdin: held.clone(),
            stdout: held.clone(),
            stderr: if terminal { String::new() } else { held },
            spec: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned(),
                value: process.to_string().into_bytes(),
                ..Any::default()
            })
            .into(),
            ..ExecProcessRequest::default()
        };
        self.task.exec(ctx(), &request).await
    }

    /// Attaches to the container or an exec.
    pub fn attach(&self, exec: &str, stdin: bool) -> UnixStream {
        let stream = UnixStream::connect(self.bundle.join("io.sock")).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        let hello = json!({"id": exec, "stdin": stdin, "stdout": true, "stderr": true});
        (&stream).write_all(format!("{hello}\n").as_bytes()).unwrap();
        assert_eq!(read_line(&stream), "{\"ok\":true}");
        stream
    }

    /// What is said to the request for a new log file.
    pub fn reopen_log(&self) -> String {
        let Ok(stream) = UnixStream::connect(self.bundle.join("io.sock")) else {
            return "nobody listens".to_owned();
        };
        stream.set_read_timeout(Some(WAIT)).unwrap();
        (&stream).write_all(b"{\"order\":\"reopen-log\",\"id\":\".\"}\n").unwrap();
        read_line(&stream)
    }

    /// Ends the shim in the orderly way and checks that it is gone.
    pub async fn finish(mut self) {
        if self.kill("", 9).await.is_ok() {
            self.wait("").await;
        }
        let request = ShutdownRequest { id: self.id.clone(), ..Default::default() };
        let deleted = self.delete("").await;
        if let Err(error) = &deleted {
            let text = format!("{error:?}");
            assert!(text.contains("NOT_FOUND"), "{text}\n{}", self.shim_log());
        }
        let _ = self.task.shutdown(ctx(), &request).await;
        let deadline = Instant::now() + WAIT;
        while self.shim.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the shim does not end\n{}", self.shim_log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let left: Vec<_> = std::fs::read_dir(&self.bundle)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !["config.json", "rootfs", "shim.json"].contains(&name.as_str()))
            .collect();
        assert!(left.is_empty(), "left in the bundle: {left:?}");
    }

    pub async fn event(&mut self) -> Envelope {
        tokio::time::timeout(WAIT, self.events.recv()).await.expect("no event").unwrap()
    }

    /// Topics until the exit of the container.
    pub async fn topics(&mut self) -> Vec<String> {
        let mut topics = Vec::new();
        loop {
            let event = self.event().await;
            let exit = event.topic == "/tasks/exit"
                && TaskExit::parse_from_bytes(&event.event.value).unwrap().id == self.id;
            topics.push(event.topic);
            if exit {
                return topics;
            }
        }
    }

    pub fn log_lines(&self) -> Vec<String> {
        let path = self.path("log");
        let mut reader = pouch_logfile::Reader::open(
            &path,
            pouch_logfile::Driver::JsonFile,
            &pouch_logfile::ReadOptions::default(),
        )
        .unwrap();
        std::iter::from_fn(|| reader.poll_next().unwrap())
            .map(|record| {
                format!("{}:{}", record.stream.as_str(), String::from_utf8_lossy(&record.line))
            })
            .collect()
    }

    pub fn exit_file(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.path("exit.json")).unwrap()).unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // The runtimes remove a container's own group only; the last test removes the parent.
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(hierarchy.path().join("pouch-test"));
        }
        let _ = std::fs::remove_dir("/sys/fs/cgroup/pouch-test");
        if self.shim.try_wait().ok().flatten().is_some() {
            return;
        }
        // A test failed: leave nothing behind.
        let _ = self.shim.kill();
        let _ = self.shim.wait();
        if let Some(runtime) = runtime() {
            let _ = Command::new(runtime)
                .arg("--root")
                .arg(&self.options.runtime_root)
                .args(["delete", "--force", &self.id])
                .status();
        }
    }
}

pub fn read_line(mut stream: &UnixStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// All frames until the end: (stdout, stderr).
pub fn read_frames(mut stream: &UnixStream) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut header = [0; 8];
    while stream.read_exact(&mut header).is_ok() {
        let length = u32::from_be_bytes(header[4..].try_into().unwrap());
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).unwrap();
        match header[0] {
            1 => out.extend(payload),
            2 => err.extend(payload),
            other => panic!("stream {other}"),
        }
    }
    (out, err)
}

pub fn read_raw(mut stream: &UnixStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

/// Reads raw output until it contains `want`.
pub fn read_until(mut stream: &UnixStream, want: &str) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let seen = String::from_utf8_lossy(&text).into_owned();
        if seen.contains(want) {
            return seen;
        }
        let count = stream.read(&mut buffer).unwrap_or_else(|e| panic!("{e}: {seen:?}"));
        assert!(count > 0, "the end before {want:?}: {seen:?}");
        text.extend_from_slice(&buffer[..count]);
    }
}

pub fn process(args: &[&str]) -> Value {
    json!({
        "args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
        "capabilities": {},
    })
}

pub fn config(id: &str) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": process(&["/bin/true"]),
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        ],
        "linux": {
            "cgroupsPath": format!("/pouch-test/{id}"),
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
            ],
        },
    })
}

pub fn overlay(dir: &Path, lower: &[&Path]) -> Mount {
    let lower: Vec<_> = lower.iter().map(|path| path.to_str().unwrap()).collect();
    Mount {
        type_: "overlay".to_owned(),
        source: "overlay".to_owned(),
        options: vec![
            format!("lowerdir={}", lower.join(":")),
            format!("upperdir={}", dir.join("upper").display()),
            format!("workdir={}", dir.join("work").display()),
            "index=off".to_owned(),
        ],
        ..Mount::default()
    }
}
