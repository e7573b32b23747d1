//! A task and its execs, by way of containerd.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use pouch_cgroup::Leader;
use pouch_containerd_grpc::any_bytes;
use pouch_containerd_grpc::tasks::{
    CloseIoRequest, DeleteProcessRequest, DeleteTaskRequest, ExecProcessRequest, KillRequest,
    PauseTaskRequest, ResizePtyRequest, ResumeTaskRequest, StartRequest, UpdateTaskRequest,
};
use pouch_types::spec::Attach;
use pouch_types::{Classified as _, ErrorKind, Signal};
use tokio::net::UnixStream;

use super::Shared;
use super::call::{Call, QUICK, RUNTIME};
use super::keeper::Pipes;
use super::run::Run;
use crate::{Error, Process, Result, Stdin, Stdio, Task, Terminal, streams};

/// Names of types by which containerd's clients know parts of a specification.
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// As [`PROCESS_TYPE`].
const RESOURCES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// The main process (`exec` empty) or an added one.
#[derive(Debug)]
pub(crate) struct RemoteTask {
    shared: Arc<Shared>,
    run: Arc<Run>,
    exec: String,
    pid: AtomicU32,
}

/// Where a process's streams lead, as requests say it.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Streams {
    /// Held by our shim, which is told here what is of this run alone: containerd 2 takes no
    /// options of ours with a task, and those of a container cannot change. An exec has no
    /// generation, and nothing is told with it.
    pub(crate) fn held(stdio: Stdio, generation: Option<u64>) -> Self {
        let settings = generation.map_or_else(String::new, |generation| {
            let once = if stdio.stdin == Stdin::Once { ",stdin=once" } else { "" };
            format!("generation={generation}{once}")
        });
        let held = || format!("{}{settings}", streams::HELD);
        Self {
            stdin: if stdio.stdin == Stdin::Null { String::new() } else { held() },
            stdout: held(),
            stderr: if stdio.terminal == Terminal::Yes { String::new() } else { held() },
        }
    }

    /// Named pipes, which a keeper holds.
    pub(crate) fn piped(pipes: Pipes) -> Self {
        Self { stdin: pipes.stdin, stdout: pipes.stdout, stderr: pipes.stderr }
    }
}

/// Tells a foreign shim of the end of a process's input, when it comes: such a shim holds the pipe
/// open itself.
pub(crate) fn pass_on_input_end(shared: &Arc<Shared>, run: &Arc<Run>, exec: &str) {
    let Some(keeper) = run.foreign.as_ref().map(|foreign| foreign.keeper.clone()) else { return };
    let (shared, run, exec) = (Arc::clone(shared), Arc::clone(run), exec.to_owned());
    // Ends with the process at the latest, or with its keeper.
    tokio::spawn(async move {
        if keeper.input_end(&exec).await.is_err() || run.has_ended() {
            return;
        }
        let call = Call { stage: "end the input", container: run.id.as_str(), limit: QUICK };
        let container_id = run.id.to_string();
        let message = CloseIoRequest { container_id, exec_id: exec, stdin: true };
        let told = call.answer(shared.pool.tasks().close_io(call.request(message))).await;
        if let Err(error) = told {
            tracing::debug!(container.id = %run.id, %error, "the end of input was not told");
        }
    });
}

/// Awaits one call of the tasks service.
macro_rules! call {
    ($self:expr, $method:ident, $stage:literal, $limit:expr, $message:expr) => {{
        let stage = concat!("the shim's ", $stage);
        let call = Call { stage, container: $self.run.id.as_str(), limit: $limit };
        call.answer($self.shared.pool.tasks().$method(call.request($message))).await
    }};
}

impl RemoteTask {
    pub(crate) fn new(shared: Arc<Shared>, run: Arc<Run>, pid: u32) -> Self {
        Self { shared, run, exec: String::new(), pid: AtomicU32::new(pid) }
    }

    fn id(&self) -> String {
        self.run.id.to_string()
    }

    /// Signals what an exec below a foreign shim has started. That shim has waited for it when its
    /// end was reported.
    async fn signal_family(&self, pid: u32, signal: Signal) -> Result<()> {
        let leader =
            if self.run.execs().contains(&self.exec) { Leader::Held } else { Leader::Reaped };
        let work = move || match signal {
            Signal::KILL => pouch_cgroup::kill_family(pid, leader, Instant::now() + QUICK),
            other => match rustix::process::Signal::from_named_raw(other.number()) {
                Some(other) => pouch_cgroup::signal_family(pid, leader, other).map(drop),
                None => Ok(()),
            },
        };
        let done = tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other);
        done.map_err(Error::io("signal the processes of an exec of", self.run.id.as_str()))?
            .map_err(|error| Error::Refused {
                kind: error.kind(),
                message: pouch_types::error::chain(&error),
            })
    }

    async fn send_signal(&self, signal: Signal, all: bool) -> Result<()> {
        let message = KillRequest {
            container_id: self.id(),
            exec_id: self.exec.clone(),
            signal: signal.number().unsigned_abs(),
            all,
        };
        call!(self, kill, "kill", QUICK, message)
    }
}

#[async_trait]
impl Process for RemoteTask {
    fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    async fn start(&self) -> Result<u32> {
        let message = StartRequest { container_id: self.id(), exec_id: self.exec.clone() };
        if let Some(foreign) = &self.run.foreign {
            foreign.keeper.started(&self.exec).await?;
        }
        if !self.exec.is_empty() {
            self.run.add_exec(&self.exec);
        }
        let _starting = self.run.starting.read().await;
        let answer = call!(self, start, "start", RUNTIME, message);
        if answer.is_err() && !self.exec.is_empty() {
            self.run.end_exec(&self.exec);
        }
        let pid = answer?.pid;
        self.pid.store(pid, Ordering::Relaxed);
        Ok(pid)
    }

    async fn kill(&self, signal: Signal) -> Result<()> {
        self.send_signal(signal, false).await
    }

    async fn kill_all(&self, signal: Signal) -> Result<()> {
        match (&self.run.foreign, self.pid()) {
            // Such a shim signals the one process only.
            (Some(_), pid @ 1..) if !self.exec.is_empty() => {
                let own = self.send_signal(signal, false).await;
                self.signal_family(pid, signal).await?;
                match own {
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                    other => other,
                }
            }
            _ => self.send_signal(signal, true).await,
        }
    }

    async fn resize(&self, width: u16, height: u16) -> Result<()> {
        let message = ResizePtyRequest {
            container_id: self.id(),
            exec_id: self.exec.clone(),
            width: width.into(),
            height: height.into(),
        };
        call!(self, resize_pty, "resize", QUICK, message)
    }

    async fn delete(&self) -> Result<()> {
        if self.exec.is_empty() {
            let message = DeleteTaskRequest { container_id: self.id() };
            return call!(self, delete, "delete", RUNTIME, message).map(drop);
        }
        let message = DeleteProcessRequest { container_id: self.id(), exec_id: self.exec.clone() };
        let deleted = call!(self, delete_process, "delete", RUNTIME, message).map(drop);
        if let Some(foreign) = &self.run.foreign {
            foreign.keeper.close(&self.exec).await?;
        }
        deleted
    }

    async fn attach(&self, streams: Attach) -> Result<UnixStream> {
        streams::attach(&self.run.io_socket(), &self.run.id, &self.exec, streams).await
    }
}

#[async_trait]
impl Task for RemoteTask {
    async fn pause(&self) -> Result<()> {
        call!(self, pause, "pause", QUICK, PauseTaskRequest { container_id: self.id() })
    }

    async fn resume(&self) -> Result<()> {
        call!(self, resume, "resume", QUICK, ResumeTaskRequest { container_id: self.id() })
    }

    async fn exec(&self, id: &str, process: Vec<u8>, stdio: Stdio) -> Result<Arc<dyn Process>> {
        let streams = match &self.run.foreign {
            None => Streams::held(stdio, None),
            Some(foreign) => Streams::piped(foreign.keeper.open(id, stdio, None).await?),
        };
        let terminal = stdio.terminal == Terminal::Yes;
        let message = ExecProcessRequest {
            container_id: self.id(),
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            terminal,
            spec: Some(any_bytes(PROCESS_TYPE, process)),
            exec_id: id.to_owned(),
        };
        let added = call!(self, exec, "exec", QUICK, message);
        match (&self.run.foreign, &added) {
            (Some(foreign), Err(_)) => foreign.keeper.close(id).await?,
            (Some(_), Ok(())) if stdio.stdin != Stdin::Null && !terminal => {
                pass_on_input_end(&self.shared, &self.run, id);
            }
            _ => {}
        }
        added?;
        Ok(Arc::new(Self {
            shared: Arc::clone(&self.shared),
            run: Arc::clone(&self.run),
            exec: id.to_owned(),
            pid: AtomicU32::new(0),
        }))
    }

    async fn update(&self, resources: Vec<u8>) -> Result<()> {
        let resources = Some(any_bytes(RESOURCES_TYPE, resources));
        let message = UpdateTaskRequest { container_id: self.id(), resources };
        call!(self, update, "update", RUNTIME, message)
    }

    async fn reopen_log(&self) -> Result<()> {
        streams::reopen_log(&self.run.io_socket(), &self.run.id).await
    }

    fn as_process(self: Arc<Self>) -> Arc<dyn Process> {
        self
    }
}
