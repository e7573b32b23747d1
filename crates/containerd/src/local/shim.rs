//! One shim process: started or found again, watched, removed.

use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind as Io};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio as Redirect;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pouch_protocol::task_ttrpc_v2::TaskClient;
use pouch_protocol::types::Status;
use pouch_protocol::{MessageField, task as proto, to_jiff};
use pouch_types::{ContainerId, failpoint};
use rustix::process::{Pid, PidfdFlags, Signal as RawSignal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use super::task::LocalTask;
use super::{Shared, group};
use crate::{
    Container, CreateRequest, Error, Event, ExitStatus, Loaded, LoadedTask, Result, Stdin, Stdio,
    Task, Terminal, options, streams,
};

/// Making a container includes mounts and a runtime; a loaded disk may take its time.
const CREATE: Duration = Duration::from_secs(60);
/// Answers that need no work.
const QUICK: Duration = Duration::from_secs(10);
/// A shim that is loaded at boot must not delay the others for long.
const LOAD: Duration = Duration::from_secs(2);

/// Between two looks at a directory that is about to go.
const POLL: Duration = Duration::from_millis(20);

/// By how much the transport's deadline is behind ours, so that our own error comes first.
const GRACE: Duration = Duration::from_secs(2);

/// Names of files in a shim's directory.
pub(crate) const SOCKET: &str = "s.sock";
/// As [`SOCKET`]: who it is.
pub(crate) const IDENTITY: &str = "process.json";

/// Identity of a shim process, so that its pid is never trusted alone.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Identity {
    pid: u32,
    /// Field 22 of /proc/pid/stat, clock ticks since boot.
    start_time: u64,
}

/// A living shim.
pub(crate) struct Reached {
    pub(crate) identity: Identity,
    pub(crate) client: TaskClient,
}

/// How a container went that its shim was asked to delete.
enum Deleted {
    /// As it should, or it was never made.
    Orderly,
    /// The shim lives and has not heard of it.
    Unknown,
    /// The shim would not.
    Refused(ttrpc::Error),
    /// There is no answer.
    Unanswered,
}

/// A container: its bundle, and the shim that has it.
pub(crate) struct Shim {
    shared: Arc<Shared>,
    id: ContainerId,
    /// Whose shim it shares; `None` has one of its own, in its bundle.
    group: Option<ContainerId>,
    bundle: PathBuf,
    request: Option<CreateRequest>,
    /// `None` when it was found dead.
    client: Option<TaskClient>,
    /// `None` when it was found dead, or did not say who it is.
    identity: Option<Identity>,
    /// Set before an end that we caused, so that it is not reported as a loss.
    expected_end: Arc<AtomicBool>,
}

impl std::fmt::Debug for Shim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shim").field("id", &self.id).field("identity", &self.identity).finish()
    }
}

/// Makes a directory that only root can enter, or tightens it.
pub(crate) fn create_private_dir(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io("create", path))
}

impl Shim {
    pub(crate) async fn spawn(shared: Arc<Shared>, request: CreateRequest) -> Result<Self> {
        let id = request.id.clone();
        let bundle = shared.tasks().join(id.as_str());
        vacated(&bundle).await;
        // Another's bundle is not removed.
        DirBuilder::new().mode(0o700).create(&bundle).map_err(Error::io("create", &bundle))?;
        let reached = match Self::prepare(&shared, &bundle, &request).await {
            Ok(reached) => reached,
            Err(error) => {
                let _ = std::fs::remove_dir_all(&bundle);
                return Err(error);
            }
        };
        let shim = Self {
            client: Some(reached.client),
            shared,
            id,
            group: request.group.clone(),
            bundle,
            request: Some(request),
            identity: Some(reached.identity),
            expected_end: Arc::new(AtomicBool::new(false)),
        };
        shim.watch(reached.identity);
        Ok(shim)
    }

    /// Writes the bundle, and starts the shim or joins that of the group.
    async fn prepare(shared: &Shared, bundle: &Path, request: &CreateRequest) -> Result<Reached> {
        // Before there is a shim, so that one always has a container that leads to it.
        if let Some(group) = &request.group {
            group::write(bundle, group)?;
        }
        let config = bundle.join("config.json");
        std::fs::write(&config, &request.spec).map_err(Error::io("write", &config))?;
        let Some(group) = &request.group else { return start(shared, &request.id, bundle) };
        let members = shared.groups.members(group);
        let mut members = members.lock().await;
        let reached = group::join(shared, group).await?;
        members.insert(request.id.clone());
        Ok(reached)
    }

    /// Finds a shim of an earlier daemon, or what it left.
    pub(crate) async fn load(shared: Arc<Shared>, id: ContainerId) -> Loaded {
        let bundle = shared.tasks().join(id.as_str());
        let group = group::read(&bundle);
        let home = match &group {
            Some(group) => {
                shared.groups.members(group).lock().await.insert(id.clone());
                shared.home(group)
            }
            None => bundle.clone(),
        };
        let mut identity = recorded(&home);
        let connected = connect(&home).ok();
        if let (None, Some(client)) = (identity, &connected) {
            // The daemon died between starting it and writing down whom it had started.
            identity = identify(client, &id).await.unwrap_or_else(|error| {
                let error = pouch_types::error::chain(&error);
                tracing::error!(container.id = %id, error, "a shim without a name");
                None
            });
        }
        let shim = Arc::new(Self {
            shared,
            id,
            group,
            bundle,
            request: None,
            client: connected,
            identity,
            expected_end: Arc::new(AtomicBool::new(false)),
        });
        let task = shim.load_task().await;
        if let (Some(identity), false) = (identity, matches!(task, LoadedTask::Orphaned)) {
            shim.watch(identity);
        }
        Loaded { container: shim, task }
    }

    async fn load_task(&self) -> LoadedTask {
        let Some(client) = &self.client else { return LoadedTask::Orphaned };
        let request = proto::StateRequest { id: self.id.to_string(), ..Default::default() };
        let context = ttrpc::context::with_duration(LOAD);
        let state = match tokio::time::timeout(LOAD, client.state(context, &request)).await {
            Ok(Ok(state)) => state,
            // It answers and knows no task: it never got as far as Create.
            Ok(Err(ttrpc::Error::RpcStatus(_))) => return LoadedTask::Orphaned,
            Ok(Err(_)) | Err(_) => {
                return LoadedTask::Silent(Arc::new(self.task(client.clone(), 0)));
            }
        };
        let task = Arc::new(self.task(client.clone(), state.pid));
        match state.status.enum_value_or_default() {
            Status::RUNNING => LoadedTask::Running(task),
            Status::PAUSED | Status::PAUSING => LoadedTask::Paused(task),
            Status::CREATED => LoadedTask::Created(task),
            Status::STOPPED => {
                let at = state.exited_at.as_ref().and_then(to_jiff);
                let status = ExitStatus {
                    code: i32::try_from(state.exit_status).unwrap_or(255),
                    at: at.unwrap_or_else(jiff::Timestamp::now),
                    oom_killed: false,
                };
                LoadedTask::Stopped(task, status)
            }
            Status::UNKNOWN => LoadedTask::Silent(task),
        }
    }

    /// Whether the shim answers at all.
    async fn answers(&self) -> bool {
        let Some(client) = &self.client else { return false };
        let request = proto::StateRequest { id: self.id.to_string(), ..Default::default() };
        let context = ttrpc::context::with_duration(LOAD);
        let state = tokio::time::timeout(LOAD, client.state(context, &request)).await;
        matches!(state, Ok(Ok(_) | Err(ttrpc::Error::RpcStatus(_))))
    }

    fn task(&self, client: TaskClient, pid: u32) -> LocalTask {
        LocalTask::new(client, self.id.clone(), self.io_socket(), pid)
    }

    fn io_socket(&self) -> PathBuf {
        self.bundle.join("io.sock")
    }

    /// Reports the shim's end unless it was expected.
    fn watch(&self, identity: Identity) {
        let (id, events) = (self.id.clone(), self.shared.events.clone());
        let expected = Arc::clone(&self.expected_end);
        tokio::spawn(async move {
            if let Err(error) = wait_gone(identity).await {
                tracing::warn!(container.id = %id, %error, "cannot watch the shim");
                return;
            }
            if !expected.load(Ordering::Acquire) {
                let _ = events.send(Event::Lost { container: id }).await;
            }
        });
    }

    /// Asks the shim to delete the container.
    async fn ask_to_delete(&self) -> Deleted {
        let Some(client) = &self.client else { return Deleted::Unanswered };
        let request = proto::DeleteRequest { id: self.id.to_string(), ..Default::default() };
        let context = ttrpc::context::with_duration(QUICK);
        let mut deleted = std::pin::pin!(client.delete(context, &request));
        // A delete may take its time; a shim that does not even say what it holds hangs.
        let mut answer = tokio::time::timeout(LOAD, &mut deleted).await;
        if answer.is_err() && self.answers().await {
            answer = tokio::time::timeout(QUICK, &mut deleted).await;
        }
        match answer {
            Ok(Ok(_)) => Deleted::Orderly,
            Ok(Err(ttrpc::Error::RpcStatus(status))) if status.code() == ttrpc::Code::NOT_FOUND => {
                // A container of an earlier daemon may be half made.
                if self.request.is_some() { Deleted::Orderly } else { Deleted::Unknown }
            }
            Ok(Err(error @ ttrpc::Error::RpcStatus(_))) => Deleted::Refused(error),
            Ok(Err(_)) | Err(_) => Deleted::Unanswered,
        }
    }

    /// Kills every process of the container and waits for the end of its first one.
    async fn kill_all(&self) {
        let Some(client) = &self.client else { return };
        let id = self.id.to_string();
        let signal = RawSignal::KILL.as_raw().unsigned_abs();
        let kill = proto::KillRequest { id: id.clone(), signal, all: true, ..Default::default() };
        let wait = proto::WaitRequest { id, ..Default::default() };
        let killed = async {
            client.kill(ttrpc::context::with_duration(QUICK), &kill).await?;
            client.wait(ttrpc::context::with_duration(QUICK), &wait).await
        };
        // Whether it worked is seen by the deletion that follows.
        let _ = tokio::time::timeout(QUICK, killed).await;
    }

    async fn delete_alone(&self) -> Result<()> {
        let orderly = matches!(self.ask_to_delete().await, Deleted::Orderly);
        self.expected_end.store(true, Ordering::Release);
        end(&self.id, &self.bundle, self.identity, self.client.as_ref()).await?;
        if orderly { Ok(()) } else { self.clean_up_dead().await }
    }

    /// Deletes the container from a shim that others need, which ends when there are none.
    async fn delete_member(&self, group: &ContainerId) -> Result<()> {
        let mut deleted = self.ask_to_delete().await;
        if matches!(deleted, Deleted::Refused(_)) {
            self.kill_all().await;
            deleted = self.ask_to_delete().await;
        }
        match deleted {
            Deleted::Orderly => {}
            Deleted::Unknown => self.clean_up_dead().await?,
            Deleted::Refused(error) => return Err(Error::rpc("delete", self.id.as_str(), error)),
            Deleted::Unanswered => {
                // Dead, or of no use to anybody: the other members are told of their loss.
                self.expected_end.store(true, Ordering::Release);
                let home = self.shared.home(group);
                end(&self.id, &home, self.identity, self.client.as_ref()).await?;
                self.clean_up_dead().await?;
            }
        }
        self.expected_end.store(true, Ordering::Release);
        let members = self.shared.groups.members(group);
        let mut members = members.lock().await;
        if members.iter().all(|member| *member == self.id) {
            group::end(&self.shared, group).await?;
        }
        members.remove(&self.id);
        Ok(())
    }

    /// Runs the shim's own clean-up of a dead predecessor: kills what is left of the container.
    async fn clean_up_dead(&self) -> Result<()> {
        let run = tokio::process::Command::new(&self.shared.config.shim)
            .arg("-namespace")
            .arg(&self.shared.config.namespace)
            .arg("-id")
            .arg(self.id.as_str())
            .arg("-address")
            .arg(self.shared.events_socket())
            .arg("-bundle")
            .arg(&self.bundle)
            .arg("delete")
            .current_dir(&self.bundle)
            .stdin(Redirect::null())
            .stdout(Redirect::null())
            .stderr(Redirect::piped())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(CREATE, run)
            .await
            .map_err(|_| Error::Deadline {
                stage: "clean-up by the shim",
                container: self.id.to_string(),
                after: CREATE,
            })?
            .map_err(Error::io("run", &self.shared.config.shim))?;
        if output.status.success() {
            Ok(())
        } else {
            let said = String::from_utf8_lossy(&output.stderr);
            let said: String = said.trim().chars().take(1000).collect();
            Err(Error::Codec(format!("the shim's clean-up failed: {said}")))
        }
    }
}

#[async_trait]
impl Container for Shim {
    fn id(&self) -> &ContainerId {
        &self.id
    }

    async fn new_task(&self, stdio: Stdio) -> Result<Arc<dyn Task>> {
        let (Some(client), Some(create)) = (&self.client, &self.request) else {
            return Err(Error::Codec("a loaded container is not started again".to_owned()));
        };
        let rootfs = create.rootfs.iter().map(|mount| pouch_protocol::types::Mount {
            type_: mount.kind.clone(),
            source: mount.source.clone(),
            options: mount.options.clone(),
            ..Default::default()
        });
        let held = || streams::HELD.to_owned();
        let request = proto::CreateTaskRequest {
            id: self.id.to_string(),
            bundle: self.bundle.to_string_lossy().into_owned(),
            rootfs: rootfs.collect(),
            terminal: stdio.terminal == Terminal::Yes,
            stdin: if stdio.stdin == Stdin::Null { String::new() } else { held() },
            stdout: held(),
            stderr: if stdio.terminal == Terminal::Yes { String::new() } else { held() },
            options: MessageField::some(options::pack(create, stdio, &self.io_socket())?),
            ..Default::default()
        };
        let context = ttrpc::context::with_duration(CREATE + GRACE);
        let answer = tokio::time::timeout(CREATE, client.create(context, &request))
            .await
            .map_err(|_| Error::Deadline {
                stage: "create in the shim",
                container: self.id.to_string(),
                after: CREATE,
            })?
            .map_err(|e| Error::rpc("create", self.id.as_str(), e))?;
        Ok(Arc::new(self.task(client.clone(), answer.pid)))
    }

    async fn delete(&self) -> Result<()> {
        if !self.bundle.exists() {
            return Ok(());
        }
        match &self.group {
            None => self.delete_alone().await?,
            Some(group) => {
                self.delete_member(group).await?;
                self.shared.groups.forget(group);
            }
        }
        match std::fs::remove_dir_all(&self.bundle) {
            Err(e) if e.kind() != Io::NotFound => Err(Error::io("remove", &self.bundle)(e)),
            _ => Ok(()),
        }
    }
}

/// Starts a shim that lives in `home`, and connects to it.
pub(crate) fn start(shared: &Shared, id: &ContainerId, home: &Path) -> Result<Reached> {
    let socket = home.join(SOCKET);
    let listener = StdUnixListener::bind(&socket).map_err(Error::io("bind", &socket))?;
    let log = home.join("shim.log");
    let stderr = streams::open_log(&log)?;
    // The child is reaped by tokio when it ends; until then it is nobody's business.
    let mut child = tokio::process::Command::new(&shared.config.shim)
        .arg("-namespace")
        .arg(&shared.config.namespace)
        .arg("-id")
        .arg(id.as_str())
        .arg("-address")
        .arg(shared.events_socket())
        .arg("-bundle")
        .arg(home)
        .arg("serve")
        .stdin(Redirect::from(std::os::fd::OwnedFd::from(listener)))
        .stdout(Redirect::null())
        .stderr(Redirect::from(stderr))
        .current_dir(home)
        .process_group(0)
        .spawn()
        .map_err(Error::io("start the shim", &shared.config.shim))?;
    failpoint::hit("start:shim-spawned");
    let pid = child.id().unwrap_or_default();
    record(pid, home)
        .and_then(|identity| Ok(Reached { identity, client: connect(home)? }))
        .inspect_err(|_| {
            // Without its directory nobody would ever find it again.
            if let Err(error) = child.start_kill() {
                tracing::error!(container.id = %id, pid, %error, "cannot end the new shim");
            }
        })
}

/// Writes down who the new shim is.
fn record(pid: u32, home: &Path) -> Result<Identity> {
    let start_time = start_time(pid).map_err(Error::io("read the start time of", home))?;
    let identity = Identity { pid, start_time };
    let record = home.join(IDENTITY);
    let text = serde_json::to_vec(&identity).map_err(|e| Error::Codec(e.to_string()))?;
    std::fs::write(&record, text).map_err(Error::io("write", &record))?;
    Ok(identity)
}

/// Who was written down, if it lives.
fn recorded(home: &Path) -> Option<Identity> {
    let file = File::open(home.join(IDENTITY)).ok()?;
    serde_json::from_reader(file).ok().filter(|identity: &Identity| {
        start_time(identity.pid).is_ok_and(|now| now == identity.start_time)
    })
}

/// Nobody but the shim has the listener, so what can be connected to lives.
fn connect(home: &Path) -> Result<TaskClient> {
    std::os::unix::net::UnixStream::connect(home.join(SOCKET))
        .map_err(Error::io("connect to", home))
        .and_then(client)
}

/// The living shim in `home`, if there is one.
pub(crate) async fn reach(home: &Path, id: &ContainerId) -> Result<Option<Reached>> {
    let Ok(client) = connect(home) else { return Ok(None) };
    let identity = match recorded(home) {
        Some(identity) => Some(identity),
        None => identify(&client, id).await?,
    };
    Ok(identity.map(|identity| Reached { identity, client }))
}

/// Ends the shim in `home`, whatever it does, and waits until it is gone.
pub(crate) async fn end(
    id: &ContainerId,
    home: &Path,
    identity: Option<Identity>,
    client: Option<&TaskClient>,
) -> Result<()> {
    let identity = match (identity, client) {
        (None, Some(client)) => identify(client, id).await?,
        (identity, _) => identity,
    };
    let Some(identity) = identity else { return Ok(()) };
    if let Some(client) = client {
        let request =
            proto::ShutdownRequest { id: id.to_string(), now: true, ..Default::default() };
        let context = ttrpc::context::with_duration(QUICK);
        // It may end before it answers.
        let _ = tokio::time::timeout(LOAD, client.shutdown(context, &request)).await;
        if tokio::time::timeout(LOAD, wait_gone(identity)).await.is_ok() {
            return Ok(());
        }
    }
    tracing::warn!(container.id = %id, pid = identity.pid, "killing a shim that hangs");
    if let Some(pidfd) = open(identity).map_err(Error::io("open the shim of", home))? {
        match pidfd_send_signal(&pidfd, RawSignal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(e) => return Err(Error::io("kill the shim of", home)(e.into())),
        }
    }
    tokio::time::timeout(QUICK, wait_gone(identity))
        .await
        .map_err(|_| Error::Deadline {
            stage: "end of the killed shim",
            container: id.to_string(),
            after: QUICK,
        })?
        .map_err(Error::io("wait for the shim of", home))
}

fn client(stream: std::os::unix::net::UnixStream) -> Result<TaskClient> {
    let wrap = |e| Error::io("use the socket of", "the shim")(e);
    stream.set_nonblocking(true).map_err(wrap)?;
    let stream = UnixStream::from_std(stream).map_err(wrap)?;
    let socket = ttrpc::r#async::transport::Socket::new(stream);
    Ok(TaskClient::new(ttrpc::r#async::Client::new(socket)))
}

/// Waits for a bundle to go that a daemon which died had begun: it is removed while this one
/// serves already.
async fn vacated(bundle: &Path) {
    let gone = async {
        while bundle.exists() {
            tokio::time::sleep(POLL).await;
        }
    };
    // What is there for longer, the caller cannot create.
    let _ = tokio::time::timeout(QUICK, gone).await;
}

/// Asks a shim who it is; `None` when it has ended.
async fn identify(client: &TaskClient, id: &ContainerId) -> Result<Option<Identity>> {
    let request = proto::ConnectRequest { id: id.to_string(), ..Default::default() };
    let context = ttrpc::context::with_duration(QUICK + GRACE);
    let pid = match tokio::time::timeout(QUICK, client.connect(context, &request)).await {
        Ok(Ok(answer)) => answer.shim_pid,
        Ok(Err(error @ ttrpc::Error::RpcStatus(_))) => {
            return Err(Error::rpc("connect", id.as_str(), error));
        }
        Ok(Err(_)) => return Ok(None),
        Err(_) => {
            return Err(Error::Deadline {
                stage: "identity of the shim",
                container: id.to_string(),
                after: QUICK,
            });
        }
    };
    Ok(start_time(pid).ok().map(|start_time| Identity { pid, start_time }))
}

/// Field 22 of /proc/pid/stat: clock ticks after boot at which the process started.
fn start_time(pid: u32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name in parentheses and may contain anything.
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(19))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::new(Io::InvalidData, "malformed /proc/pid/stat"))
}

/// A pidfd of the process, or `None` when it is gone or another has its pid.
fn open(identity: Identity) -> io::Result<Option<std::os::fd::OwnedFd>> {
    let Some(pid) = i32::try_from(identity.pid).ok().and_then(Pid::from_raw) else {
        return Ok(None);
    };
    let pidfd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    // Compared after the open: from here on the pidfd cannot come to mean another process.
    Ok(start_time(identity.pid).is_ok_and(|now| now == identity.start_time).then_some(pidfd))
}

async fn wait_gone(identity: Identity) -> io::Result<()> {
    let Some(pidfd) = open(identity)? else { return Ok(()) };
    #[expect(deprecated, reason = "the successor is unsafe; an OwnedFd keeps its promise")]
    let watched = AsyncFd::with_interest(pidfd, tokio::io::Interest::READABLE)?;
    // A pidfd becomes readable once, when the process has ended.
    watched.readable().await.map(drop)
}
