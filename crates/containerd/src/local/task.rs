//! A task and its execs, over the connection to their shim.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pouch_protocol::task_ttrpc_v2::TaskClient;
use pouch_protocol::{Any, MessageField, task as proto};
use pouch_types::spec::Attach;
use pouch_types::{ContainerId, Signal};
use tokio::net::UnixStream;

use crate::{Error, Process, Result, Stdin, Stdio, Task, Terminal, streams};

/// What only sends a signal or writes a file.
const QUICK: Duration = Duration::from_secs(10);
/// What runs the OCI runtime.
const RUNTIME: Duration = Duration::from_secs(30);
/// By how much the transport's deadline is behind ours.
const GRACE: Duration = Duration::from_secs(2);

/// Awaits one call with a deadline and names the stage in errors.
macro_rules! call {
    ($self:expr, $method:ident, $stage:literal, $limit:expr, $request:expr) => {{
        // Longer than ours, so that our own error, which names the stage, comes first.
        let context = ttrpc::context::with_duration($limit + GRACE);
        tokio::time::timeout($limit, $self.client.$method(context, &$request))
            .await
            .map_err(|_| Error::Deadline {
                stage: concat!("the shim's ", $stage),
                container: $self.id.to_string(),
                after: $limit,
            })?
            .map_err(|e| Error::rpc($stage, $self.id.as_str(), e))
    }};
}

/// The main process (`exec` empty) or an added one.
pub(crate) struct LocalTask {
    client: TaskClient,
    id: ContainerId,
    exec: String,
    io_socket: PathBuf,
    pid: AtomicU32,
}

impl LocalTask {
    pub(crate) fn new(client: TaskClient, id: ContainerId, io_socket: PathBuf, pid: u32) -> Self {
        Self { client, id, exec: String::new(), io_socket, pid: AtomicU32::new(pid) }
    }

    async fn send_signal(&self, signal: Signal, all: bool) -> Result<()> {
        let request = proto::KillRequest {
            id: self.id.to_string(),
            exec_id: self.exec.clone(),
            signal: signal.number().unsigned_abs(),
            all,
            ..Default::default()
        };
        call!(self, kill, "kill", QUICK, request).map(drop)
    }
}

impl std::fmt::Debug for LocalTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalTask")
            .field("id", &self.id)
            .field("exec", &self.exec)
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Process for LocalTask {
    fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    async fn start(&self) -> Result<u32> {
        let request = proto::StartRequest {
            id: self.id.to_string(),
            exec_id: self.exec.clone(),
            ..Default::default()
        };
        let answer = call!(self, start, "start", RUNTIME, request)?;
        self.pid.store(answer.pid, Ordering::Relaxed);
        Ok(answer.pid)
    }

    async fn kill(&self, signal: Signal) -> Result<()> {
        self.send_signal(signal, false).await
    }

    async fn kill_all(&self, signal: Signal) -> Result<()> {
        self.send_signal(signal, true).await
    }

    async fn resize(&self, width: u16, height: u16) -> Result<()> {
        let request = proto::ResizePtyRequest {
            id: self.id.to_string(),
            exec_id: self.exec.clone(),
            width: width.into(),
            height: height.into(),
            ..Default::default()
        };
        call!(self, resize_pty, "resize", QUICK, request).map(drop)
    }

    async fn delete(&self) -> Result<()> {
        let request = proto::DeleteRequest {
            id: self.id.to_string(),
            exec_id: self.exec.clone(),
            ..Default::default()
        };
        call!(self, delete, "delete", RUNTIME, request).map(drop)
    }

    async fn attach(&self, streams: Attach) -> Result<UnixStream> {
        streams::attach(&self.io_socket, &self.id, &self.exec, streams).await
    }
}

#[async_trait]
impl Task for LocalTask {
    async fn pause(&self) -> Result<()> {
        let request = proto::PauseRequest { id: self.id.to_string(), ..Default::default() };
        call!(self, pause, "pause", QUICK, request).map(drop)
    }

    async fn resume(&self) -> Result<()> {
        let request = proto::ResumeRequest { id: self.id.to_string(), ..Default::default() };
        call!(self, resume, "resume", QUICK, request).map(drop)
    }

    async fn exec(&self, id: &str, process: Vec<u8>, stdio: Stdio) -> Result<Arc<dyn Process>> {
        let held = || streams::HELD.to_owned();
        let terminal = stdio.terminal == Terminal::Yes;
        let request = proto::ExecProcessRequest {
            id: self.id.to_string(),
            exec_id: id.to_owned(),
            terminal,
            stdin: if stdio.stdin == Stdin::Null { String::new() } else { held() },
            stdout: held(),
            stderr: if terminal { String::new() } else { held() },
            spec: MessageField::some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned(),
                value: process,
                ..Default::default()
            }),
            ..Default::default()
        };
        call!(self, exec, "exec", QUICK, request)?;
        Ok(Arc::new(Self {
            client: self.client.clone(),
            id: self.id.clone(),
            exec: id.to_owned(),
            io_socket: self.io_socket.clone(),
            pid: AtomicU32::new(0),
        }))
    }

    async fn update(&self, resources: Vec<u8>) -> Result<()> {
        let request = proto::UpdateTaskRequest {
            id: self.id.to_string(),
            resources: MessageField::some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
                    .to_owned(),
                value: resources,
                ..Default::default()
            }),
            ..Default::default()
        };
        call!(self, update, "update", RUNTIME, request).map(drop)
    }

    async fn reopen_log(&self) -> Result<()> {
        streams::reopen_log(&self.io_socket, &self.id).await
    }

    fn as_process(self: Arc<Self>) -> Arc<dyn Process> {
        self
    }
}
