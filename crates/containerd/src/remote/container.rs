//! A container object in containerd: made for one run, removed with it.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use pouch_containerd_grpc::containers::{
    self, CreateContainerRequest, DeleteContainerRequest, container::Runtime,
};
use pouch_containerd_grpc::tasks::{
    CreateTaskRequest, DeleteTaskRequest, KillRequest, Process as Listed, Status,
};
use pouch_containerd_grpc::{Any, any_bytes, to_jiff, types};
use pouch_types::{Classified as _, ContainerId, ErrorKind, Signal};

use super::call::{CREATE, Call, QUICK, RUNTIME};
use super::run::Run;
use super::strays::Strays;
use super::task::RemoteTask;
use super::{Shared, labels};
use crate::{
    Container, CreateRequest, Error, ExitStatus, Loaded, LoadedTask, Result, Stdin, Stdio, Task,
    Terminal, options, streams,
};

/// Name of the directory of runs in the state directory.
pub(crate) const DIRECTORY: &str = "r";
/// Name of the type by which containerd's clients know a specification.
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// Time for a killed process to be reported dead.
const DEATH: Duration = Duration::from_secs(10);

/// What is known of a loaded container's task.
pub(crate) enum Known<'a> {
    /// It is listed so.
    Present(&'a Listed),
    /// It is not among those that are listed.
    Absent,
    /// The list is not known.
    Unknown,
}

/// A container.
#[derive(Debug)]
pub(crate) struct RemoteContainer {
    shared: Arc<Shared>,
    run: Arc<Run>,
    request: Option<CreateRequest>,
}

/// Makes a directory that only root can enter.
pub(crate) fn create_private_dir(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io("create", path))
}

impl RemoteContainer {
    pub(crate) async fn create(shared: Arc<Shared>, request: CreateRequest) -> Result<Self> {
        let id = request.id.clone();
        shared.strays.reclaim(&id).await;
        let dir = shared.config.state.join(DIRECTORY).join(id.as_str());
        create_private_dir(&dir)?;
        let run = Arc::new(Run::new(id, dir));
        // Before containerd knows it, so that nobody takes it for a stray.
        shared.runs.insert(Arc::clone(&run));
        let container = Self { shared, run, request: Some(request) };
        match container.register().await {
            Ok(()) => Ok(container),
            Err(error) => {
                container.forget();
                // It may be there all the same.
                if matches!(error, Error::Unreachable { .. } | Error::Deadline { .. }) {
                    Strays::add(&container.shared, container.run.id.clone());
                }
                Err(error)
            }
        }
    }

    async fn register(&self) -> Result<()> {
        match self.register_once().await {
            // A run whose end was not seen: by a daemon that died, or when containerd was away.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                tracing::warn!(container.id = %self.run.id, "replacing what an earlier run left");
                remove_by_id(&self.shared, &self.run.id).await?;
                self.register_once().await
            }
            other => other,
        }
    }

    async fn register_once(&self) -> Result<()> {
        let Some(request) = &self.request else { return Err(started_before()) };
        let config = &self.shared.config;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let labels = [
            (labels::OWNER, config.owner.clone()),
            (labels::GENERATION, request.generation.to_string()),
            (labels::EXIT_FILE, text(&request.exit_file)),
        ];
        let container = containers::Container {
            id: self.run.id.to_string(),
            labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
            runtime: Some(Runtime { name: text(&config.shim), options: None }),
            spec: Some(any_bytes(SPEC_TYPE, request.spec.clone())),
            ..Default::default()
        };
        let call = self.call("create container", QUICK);
        let message = CreateContainerRequest { container: Some(container) };
        call.answer(self.shared.pool.containers().create(call.request(message))).await.map(drop)
    }

    /// What an earlier daemon made; `None` for what is not a container of ours.
    pub(crate) async fn load(
        shared: &Arc<Shared>,
        found: &containers::Container,
        known: Known<'_>,
    ) -> Option<Loaded> {
        let Ok(id) = found.id.parse::<ContainerId>() else {
            tracing::warn!(container.id = found.id, "a container with our label and another id");
            return None;
        };
        let dir = shared.config.state.join(DIRECTORY).join(id.as_str());
        let since = found.created_at.as_ref().and_then(to_jiff).unwrap_or(Timestamp::MIN);
        let pid = match known {
            Known::Present(task) => task.pid,
            Known::Absent | Known::Unknown => 0,
        };
        let run = Arc::new(Run::loaded(id, dir, since, pid));
        shared.runs.insert(Arc::clone(&run));
        let task = || Arc::new(RemoteTask::new(Arc::clone(shared), Arc::clone(&run), pid));
        let state = match known {
            Known::Absent => LoadedTask::Orphaned,
            Known::Unknown => LoadedTask::Silent(task()),
            Known::Present(listed) => match listed.status() {
                Status::Running => LoadedTask::Running(task()),
                Status::Paused | Status::Pausing => LoadedTask::Paused(task()),
                Status::Created => LoadedTask::Created(task()),
                Status::Stopped => {
                    let status = exit_status(listed);
                    run.end(pid, status.at);
                    LoadedTask::Stopped(task(), status)
                }
                Status::Unknown => LoadedTask::Silent(task()),
            },
        };
        let container = Arc::new(Self { shared: Arc::clone(shared), run, request: None });
        Some(Loaded { container, task: state })
    }

    fn call(&self, stage: &'static str, limit: Duration) -> Call<'_> {
        Call { stage, container: self.run.id.as_str(), limit }
    }

    /// Takes back what [`RemoteContainer::create`] did on this side.
    fn forget(&self) {
        self.shared.runs.remove(&self.run);
        match std::fs::remove_dir_all(&self.run.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let path = self.run.dir.display();
                tracing::warn!(%path, %error, "cannot remove the directory of a run");
            }
            _ => {}
        }
    }

    async fn remove(&self) -> Result<()> {
        if self.run.is_tasked() {
            remove_task(&self.shared, &self.run.id, Some(&self.run)).await?;
        }
        remove_container(&self.shared, &self.run.id).await
    }
}

/// What containerd says of a process that has ended.
pub(crate) fn exit_status(process: &Listed) -> ExitStatus {
    let at = process.exited_at.as_ref().and_then(to_jiff);
    ExitStatus {
        code: i32::try_from(process.exit_status).unwrap_or(255),
        at: at.unwrap_or_else(Timestamp::now),
        oom_killed: false,
    }
}

fn started_before() -> Error {
    Error::Codec("a loaded container is not started again".to_owned())
}

/// Removes whatever containerd holds of `id`, by force.
pub(crate) async fn remove_by_id(shared: &Shared, id: &ContainerId) -> Result<()> {
    remove_task(shared, id, None).await?;
    remove_container(shared, id).await
}

/// Deletes the task, killed if it must be. One that is gone is no error.
async fn remove_task(shared: &Shared, id: &ContainerId, run: Option<&Run>) -> Result<()> {
    let delete = Call { stage: "delete task", container: id.as_str(), limit: RUNTIME };
    let once = || async {
        let message = DeleteTaskRequest { container_id: id.to_string() };
        let answer = delete.answer(shared.pool.tasks().delete(delete.request(message))).await;
        gone_is_well(answer.map(drop))
    };
    match once().await {
        Err(error) if error.kind() == ErrorKind::Conflict => {}
        other => return other,
    }
    // Its process exists.
    let kill = Call { stage: "kill task", container: id.as_str(), limit: QUICK };
    let message = KillRequest {
        container_id: id.to_string(),
        exec_id: String::new(),
        signal: Signal::KILL.number().unsigned_abs(),
        all: true,
    };
    gone_is_well(kill.answer(shared.pool.tasks().kill(kill.request(message))).await)?;
    let mut pause = Duration::from_millis(10);
    let end = tokio::time::Instant::now() + DEATH;
    loop {
        let dead = async {
            match run {
                Some(run) if !run.has_ended() => run.ended().await,
                _ => std::future::pending().await,
            }
        };
        // The report is the quick way; without one the task is asked for again.
        let _ = tokio::time::timeout(pause, dead).await;
        pause = (pause * 2).min(Duration::from_secs(1));
        match once().await {
            Err(error)
                if error.kind() == ErrorKind::Conflict && tokio::time::Instant::now() < end => {}
            other => return other,
        }
    }
}

async fn remove_container(shared: &Shared, id: &ContainerId) -> Result<()> {
    let call = Call { stage: "delete container", container: id.as_str(), limit: QUICK };
    let message = DeleteContainerRequest { id: id.to_string() };
    gone_is_well(call.answer(shared.pool.containers().delete(call.request(message))).await)
}

fn gone_is_well(answer: Result<()>) -> Result<()> {
    match answer {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[async_trait]
impl Container for RemoteContainer {
    fn id(&self) -> &ContainerId {
        &self.run.id
    }

    async fn new_task(&self, stdio: Stdio) -> Result<Arc<dyn Task>> {
        let Some(create) = &self.request else { return Err(started_before()) };
        let rootfs = create.rootfs.iter().map(|mount| types::Mount {
            r#type: mount.kind.clone(),
            source: mount.source.clone(),
            target: String::new(),
            options: mount.options.clone(),
        });
        let options = options::pack(create, stdio, &self.run.io_socket())?;
        let held = || streams::HELD.to_owned();
        let message = CreateTaskRequest {
            container_id: self.run.id.to_string(),
            rootfs: rootfs.collect(),
            stdin: if stdio.stdin == Stdin::Null { String::new() } else { held() },
            stdout: held(),
            stderr: if stdio.terminal == Terminal::Yes { String::new() } else { held() },
            terminal: stdio.terminal == Terminal::Yes,
            options: Some(Any { type_url: options.type_url, value: options.value }),
        };
        self.run.set_tasked();
        let call = self.call("create task", CREATE);
        let answer = call.answer(self.shared.pool.tasks().create(call.request(message))).await;
        let pid = answer.map_err(unwrapped)?.pid;
        self.run.set_pid(pid);
        Ok(Arc::new(RemoteTask::new(Arc::clone(&self.shared), Arc::clone(&self.run), pid)))
    }

    async fn delete(&self) -> Result<()> {
        let removed = self.remove().await;
        self.forget();
        if removed.is_err() {
            Strays::add(&self.shared, self.run.id.clone());
        }
        removed
    }
}

/// containerd's words around what the shim said; the caller has the same.
fn unwrapped(error: Error) -> Error {
    match error {
        Error::Refused { kind, message } => {
            let said = message.strip_prefix("failed to create shim task: ").unwrap_or(&message);
            Error::Refused { kind, message: said.to_owned() }
        }
        other => other,
    }
}
