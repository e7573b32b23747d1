//! A container object in containerd: made for one run, removed with it.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use pouch_containerd_grpc::containers::{
    self, CreateContainerRequest, DeleteContainerRequest, UpdateContainerRequest,
    container::Runtime,
};
use pouch_containerd_grpc::tasks::{
    CreateTaskRequest, DeleteTaskRequest, KillRequest, Process as Listed, Status,
};
use pouch_containerd_grpc::{Any, any_bytes, to_jiff, types};
use pouch_protocol::options::Options;
use pouch_types::{Classified as _, ContainerId, ErrorKind, Signal};

use super::call::{CREATE, Call, DELETE, QUICK};
use super::exit_file::Recorder;
use super::hung::{self, Ended};
use super::keeper::Keeper;
use super::linger::{Lingering, Taken};
use super::run::Run;
use super::strays::Strays;
use super::task::{self, RemoteTask, Streams};
use super::{Shared, labels};
use crate::{
    Container, CreateRequest, Error, ExitStatus, Kind, Loaded, LoadedTask, Result, Stdin, Stdio,
    Task, Terminal, options,
};

/// Name of the type by which containerd's clients know a specification.
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// Member of a specification.
const ANNOTATIONS: &str = "annotations";
/// The annotation by which shims, runc's too, know that they serve several containers.
const GROUP: &str = "io.kubernetes.cri.sandbox-id";
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

/// What stays as it is as long as there is a container object.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct OfRuntime {
    /// The name of a foreign shim, or the path of ours.
    name: String,
    /// For our shim.
    options: Option<Options>,
}

/// A container.
#[derive(Debug)]
pub(crate) struct RemoteContainer {
    shared: Arc<Shared>,
    run: Arc<Run>,
    request: Option<CreateRequest>,
    runtime: OfRuntime,
    deleted: AtomicBool,
}

/// Makes a directory that only root can enter.
pub(crate) fn create_private_dir(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io("create", path))
}

impl RemoteContainer {
    pub(crate) async fn create(shared: Arc<Shared>, request: CreateRequest) -> Result<Self> {
        let id = request.id.clone();
        shared.strays.reclaim(&id).await;
        let dir = directory(&shared, &id);
        clear(&id, &dir).await?;
        create_private_dir(&dir)?;
        let recorder = request
            .runtime
            .shim
            .is_some()
            .then(|| Recorder { path: request.exit_file.clone(), generation: request.generation });
        let run = Arc::new(Run::new(id, dir, recorder));
        // Before containerd knows it, so that nobody takes it for a stray.
        shared.runs.insert(Arc::clone(&run));
        let runtime = match &request.runtime.shim {
            Some(name) => OfRuntime { name: name.clone(), options: None },
            None => OfRuntime {
                name: shared.config.shim.to_string_lossy().into_owned(),
                options: Some(options::of_container(&request, &run.io_socket())),
            },
        };
        let deleted = AtomicBool::new(false);
        let container = Self { shared, run, request: Some(request), runtime, deleted };
        match container.register().await {
            Ok(()) => Ok(container),
            Err(error) => {
                container.shared.runs.remove(&container.run);
                // It may be there all the same.
                Strays::add(&container.shared, container.run.id.clone());
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
                create_private_dir(&self.run.dir)?;
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
            (
                labels::STDIO,
                match self.run.foreign {
                    None => labels::STDIO_SHIM.to_owned(),
                    Some(_) => labels::STDIO_KEEPER.to_owned(),
                },
            ),
        ];
        let options = self.runtime.options.as_ref().map(options::pack_own).transpose()?;
        let runtime = Runtime { name: self.runtime.name.clone(), options: options.map(for_grpc) };
        let container = containers::Container {
            id: self.run.id.to_string(),
            labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
            runtime: Some(runtime),
            spec: Some(any_bytes(SPEC_TYPE, spec(request)?)),
            ..Default::default()
        };
        if self.shared.lingering.take(&self.run.id, &self.runtime) == Taken::Object {
            let call = self.call("update container", QUICK);
            let message = UpdateContainerRequest { container: Some(container.clone()) };
            let mut client = self.shared.pool.containers();
            match call.answer(client.update(call.request(message))).await {
                // Somebody else removed it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                other => return other.map(drop),
            }
        }
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
        let dir = directory(shared, &id);
        let since = found.created_at.as_ref().and_then(to_jiff).unwrap_or(Timestamp::MIN);
        let pid = match known {
            Known::Present(task) => task.pid,
            Known::Absent | Known::Unknown => 0,
        };
        let run = Arc::new(Run::new(id, dir, recorder(found)).loaded(since, pid));
        shared.runs.insert(Arc::clone(&run));
        let adopt = || Arc::new(RemoteTask::new(Arc::clone(shared), Arc::clone(&run), pid));
        let state = match known {
            Known::Absent => LoadedTask::Orphaned,
            Known::Unknown => LoadedTask::Silent(adopt()),
            Known::Present(listed) => match listed.status() {
                Status::Running => LoadedTask::Running(adopt()),
                Status::Paused | Status::Pausing => LoadedTask::Paused(adopt()),
                Status::Created => LoadedTask::Created(adopt()),
                Status::Stopped => {
                    let status = exit_status(listed);
                    run.end(pid, status.at);
                    let status = run.record(status).await;
                    LoadedTask::Stopped(adopt(), status)
                }
                Status::Unknown => LoadedTask::Silent(adopt()),
            },
        };
        if let (LoadedTask::Running(_) | LoadedTask::Paused(_), Known::Present(listed)) =
            (&state, known)
            && !listed.stdin.is_empty()
            && !listed.terminal
        {
            task::pass_on_input_end(shared, &run, "");
        }
        let container = Arc::new(Self {
            shared: Arc::clone(shared),
            run,
            request: None,
            // Not known to be that of the next run.
            runtime: OfRuntime::default(),
            deleted: AtomicBool::new(false),
        });
        Some(Loaded { container, task: state })
    }

    fn call(&self, stage: &'static str, limit: Duration) -> Call<'_> {
        Call { stage, container: self.run.id.as_str(), limit }
    }

    /// All but the object itself.
    async fn empty(&self) -> Result<()> {
        if self.run.is_tasked() {
            remove_task(&self.shared, &self.run.id, Some(&self.run)).await?;
        }
        clear(&self.run.id, &self.run.dir).await
    }
}

/// The specification, which tells a shim the group that it serves.
fn spec(request: &CreateRequest) -> Result<Vec<u8>> {
    let Some(group) = &request.group else { return Ok(request.spec.clone()) };
    let codec = |e: serde_json::Error| Error::Codec(e.to_string());
    let mut spec: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&request.spec).map_err(codec)?;
    let annotations = spec.entry(ANNOTATIONS.to_owned()).or_insert_with(|| serde_json::json!({}));
    let Some(annotations) = annotations.as_object_mut() else {
        return Err(Error::Codec("the annotations of the specification are no object".to_owned()));
    };
    annotations.insert(GROUP.to_owned(), group.as_str().into());
    serde_json::to_vec(&spec).map_err(codec)
}

/// Removes the directory of a run, and ends the keeper in it, which there is beside a foreign shim.
async fn clear(id: &ContainerId, dir: &Path) -> Result<()> {
    Keeper::of(id, dir).finish().await?;
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", dir)(error))
        }
        _ => Ok(()),
    }
}

/// Our directory of a run.
fn directory(shared: &Shared, id: &ContainerId) -> PathBuf {
    Kind::Remote.run_dir(&shared.config.state, id)
}

/// Where the end of a run below a foreign shim is to be recorded, from its labels.
fn recorder(found: &containers::Container) -> Option<Recorder> {
    let label = |name: &str| found.labels.get(name).map(String::as_str);
    if label(labels::STDIO) != Some(labels::STDIO_KEEPER) {
        return None;
    }
    let generation = label(labels::GENERATION)?.parse().ok()?;
    Some(Recorder { path: label(labels::EXIT_FILE)?.into(), generation })
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
    clear(id, &directory(shared, id)).await?;
    remove_container(shared, id).await
}

/// Deletes the task, killed if it must be. One that is gone is no error.
async fn remove_task(shared: &Shared, id: &ContainerId, run: Option<&Run>) -> Result<()> {
    let delete = Call { stage: "the shim's delete", container: id.as_str(), limit: DELETE };
    let once = || async {
        let message = DeleteTaskRequest { container_id: id.to_string() };
        let answer = delete.answer(shared.pool.tasks().delete(delete.request(message))).await;
        gone_is_well(answer.map(drop))
    };
    match once().await {
        // Its process exists.
        Err(error) if error.kind() == ErrorKind::Conflict => {
            let kill = Call { stage: "the shim's kill", container: id.as_str(), limit: QUICK };
            let message = KillRequest {
                container_id: id.to_string(),
                exec_id: String::new(),
                signal: Signal::KILL.number().unsigned_abs(),
                all: true,
            };
            gone_is_well(kill.answer(shared.pool.tasks().kill(kill.request(message))).await)?;
        }
        // It hangs. containerd cleans up after a shim that is dead.
        Err(error @ Error::Deadline { .. }) => {
            match hung::end_shim(id, &directory(shared, id)).await? {
                Ended::Yes => {}
                Ended::NotOurs => return Err(error),
            }
        }
        Err(error) if !matches!(error, Error::Refused { .. }) => return Err(error),
        // Its shim has just died.
        Err(error) => tracing::debug!(container.id = %id, %error, "the task is not deleted yet"),
        Ok(()) => return Ok(()),
    }
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
            // It dies; while a shim is cleaned up after, containerd may fail in many words.
            Err(Error::Refused { .. }) if tokio::time::Instant::now() < end => {}
            other => return other,
        }
    }
}

pub(crate) async fn remove_container(shared: &Shared, id: &ContainerId) -> Result<()> {
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
        let rootfs = rootfs.collect();
        self.run.set_tasked();
        let streams = match &self.run.foreign {
            None => Streams::held(stdio, Some(create.generation)),
            Some(foreign) => {
                let config = &self.shared.config;
                foreign.keeper.spawn(&config.shim, &config.namespace, &self.run.dir)?;
                Streams::piped(foreign.keeper.open("", stdio, create.log.as_ref()).await?)
            }
        };
        // Ours are the container's: see `Streams::held`.
        let options = match &create.runtime.shim {
            None => None,
            Some(shim) => options::pack_foreign(create, shim)?,
        };
        let message = CreateTaskRequest {
            container_id: self.run.id.to_string(),
            rootfs,
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            terminal: stdio.terminal == Terminal::Yes,
            options: options.map(for_grpc),
        };
        let call = self.call("create task", CREATE);
        let answer = call.answer(self.shared.pool.tasks().create(call.request(message))).await;
        let pid = answer.map_err(unwrapped)?.pid;
        self.run.set_pid(pid);
        if stdio.stdin != Stdin::Null && stdio.terminal == Terminal::No {
            task::pass_on_input_end(&self.shared, &self.run, "");
        }
        Ok(Arc::new(RemoteTask::new(Arc::clone(&self.shared), Arc::clone(&self.run), pid)))
    }

    async fn delete(&self) -> Result<()> {
        if self.deleted.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let emptied = self.empty().await;
        self.shared.runs.remove(&self.run);
        let id = self.run.id.clone();
        match emptied {
            Ok(()) => Lingering::add(&self.shared, id, self.runtime.clone()),
            Err(_) => {
                self.deleted.store(false, Ordering::Release);
                Strays::add(&self.shared, id);
            }
        }
        emptied
    }
}

fn for_grpc(any: pouch_protocol::Any) -> Any {
    Any { type_url: any.type_url, value: any.value }
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
