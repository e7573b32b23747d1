//! Processes that are added to a running container.
//!
//! A session is made, started once and kept until its container ends or too many newer ones have
//! ended, so that a client can read the exit status afterwards.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pouch_containerd::{ExitStatus, Process, Stdin, Stdio, Terminal};
use pouch_oci::{ExecProcess, Rights};
use pouch_rootfd::RootFd;
use pouch_types::spec::Attach;
use pouch_types::{Classified as _, ContainerId, ErrorKind, ExecId};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::api::Attached;
use crate::container::Container;
use crate::container::actor::Message;
use crate::container::state::Phase;
use crate::engine::Inner;
use crate::view::{ExecSpec, ExecView};
use crate::{Engine, EngineError};

/// Sessions kept per container; beyond them the oldest that ended is forgotten.
const KEPT: usize = 256;
/// Bytes read at once of a session's output.
const CHUNK: usize = 16 << 10;
/// Exit code of a session that was forgotten before its end.
const NO_CODE: i32 = 255;
/// Time for the processes of a session that must end.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Execs {
    sessions: Mutex<HashMap<ExecId, Arc<Session>>>,
}

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: ExecId,
    container: ContainerId,
    spec: Arc<ExecSpec>,
    number: u64,
    state: watch::Sender<State>,
    process: Mutex<Option<Arc<dyn Process>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Created,
    Starting,
    Running { pid: u32 },
    Ended { code: i32 },
}

impl Session {
    fn view(&self) -> ExecView {
        let state = *self.state.borrow();
        ExecView {
            id: self.id.clone(),
            container: self.container.clone(),
            spec: Arc::clone(&self.spec),
            running: matches!(state, State::Running { .. }),
            exit_code: match state {
                State::Ended { code } => Some(code),
                State::Created | State::Starting | State::Running { .. } => None,
            },
            pid: match state {
                State::Running { pid } => pid,
                State::Created | State::Starting | State::Ended { .. } => 0,
            },
        }
    }

    fn process(&self) -> Option<Arc<dyn Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the end.
    pub(crate) async fn exit_code(&self) -> i32 {
        let mut watch = self.state.subscribe();
        let ended = watch.wait_for(|s| matches!(s, State::Ended { .. })).await;
        match ended.as_deref() {
            Ok(State::Ended { code }) => *code,
            _ => NO_CODE,
        }
    }

    /// Kills the process and all that it has started.
    pub(crate) async fn kill_tree(&self) {
        if let Some(process) = self.process()
            && let Err(error) = process.kill_all(pouch_types::Signal::KILL).await
        {
            let error = pouch_types::error::chain(&error);
            tracing::debug!(exec.id = %self.id, error, "cannot kill what the exec started");
        }
    }

    /// Kills the process.
    pub(crate) async fn kill(&self) {
        if let Some(process) = self.process()
            && let Err(error) = process.kill(pouch_types::Signal::KILL).await
        {
            let error = pouch_types::error::chain(&error);
            tracing::debug!(exec.id = %self.id, error, "cannot kill the exec");
        }
    }
}

impl Execs {
    fn sessions(&self) -> MutexGuard<'_, HashMap<ExecId, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &str) -> Result<Arc<Session>, EngineError> {
        let unknown = || {
            let id: String = id.chars().take(80).collect();
            EngineError::new(ErrorKind::NotFound, format!("No such exec instance: {id}"))
        };
        let sessions = self.sessions();
        if let Ok(id) = id.parse::<ExecId>() {
            return sessions.get(&id).cloned().ok_or_else(unknown);
        }
        let mut matching = sessions.values().filter(|s| s.id.as_str().starts_with(id));
        match (matching.next(), matching.next()) {
            (Some(only), None) if !id.is_empty() => Ok(Arc::clone(only)),
            _ => Err(unknown()),
        }
    }

    /// Whether the process of a session exists now.
    pub(crate) fn runs(&self, id: &ExecId) -> bool {
        let sessions = self.sessions();
        sessions.get(id).is_some_and(|s| matches!(*s.state.borrow(), State::Running { .. }))
    }

    fn add(&self, container: ContainerId, spec: ExecSpec) -> Result<Arc<Session>, EngineError> {
        let id = ExecId::random()
            .map_err(|e| EngineError::new(ErrorKind::Internal, format!("no random bytes: {e}")))?;
        let mut sessions = self.sessions();
        let number = sessions.values().map(|s| s.number).max().map_or(0, |n| n + 1);
        let same = sessions.values().filter(|s| s.container == container);
        if same.clone().count() >= KEPT {
            let oldest = same
                .filter(|s| matches!(*s.state.borrow(), State::Ended { .. } | State::Created))
                .min_by_key(|s| s.number)
                .map(|s| s.id.clone());
            let Some(oldest) = oldest else {
                return Err(EngineError::new(
                    ErrorKind::ResourceExhausted,
                    format!("container {container} has {KEPT} running exec sessions"),
                ));
            };
            sessions.remove(&oldest);
        }
        let session = Arc::new(Session {
            id: id.clone(),
            container,
            spec: Arc::new(spec),
            number,
            state: watch::Sender::new(State::Created),
            process: Mutex::new(None),
        });
        sessions.insert(id, Arc::clone(&session));
        Ok(session)
    }

    /// A shim reported the end of an exec.
    pub(crate) async fn ended(
        &self,
        engine: &Arc<Inner>,
        container: &ContainerId,
        exec: &str,
        status: ExitStatus,
    ) {
        let Ok(session) = self.find(exec) else { return };
        session.state.send_replace(State::Ended { code: status.code });
        // What the shim keeps of it is freed without anybody waiting.
        if let Some(process) = session.process() {
            engine.tasks.spawn(async move {
                if let Err(error) = process.delete().await {
                    let error = pouch_types::error::chain(&error);
                    tracing::debug!(error, "cannot free an exec");
                }
            });
        }
        if let Some(container) = engine.index.get(container) {
            let _ = container.send(Message::Exec(session.id.clone())).await;
            let mut attributes = crate::engine::view_attributes(&container.view());
            attributes.insert("execID".to_owned(), session.id.to_string());
            attributes.insert("exitCode".to_owned(), status.code.to_string());
            engine.announce_container("exec_die", &container.id, attributes);
        }
    }

    /// A container ended and its execs with it. They stay to be asked how they ended.
    pub(crate) fn container_ended(&self, container: &ContainerId) {
        for session in self.sessions().values().filter(|s| s.container == *container) {
            session.state.send_if_modified(|state| {
                let lives = !matches!(state, State::Ended { .. });
                if lives {
                    *state = State::Ended { code: 137 };
                }
                lives
            });
        }
    }

    /// A container was removed.
    pub(crate) fn forget(&self, container: &ContainerId) {
        self.sessions().retain(|_, session| session.container != *container);
    }
}

impl Engine {
    /// Makes a session.
    ///
    /// # Errors
    /// `Conflict` when the container does not run or is frozen, `Invalid` without a command.
    pub async fn exec_create(&self, key: &str, spec: ExecSpec) -> Result<ExecId, EngineError> {
        let container = self.find(key)?;
        container.thawed_task()?;
        let session = create(&self.inner, &container, spec)?;
        Ok(session.id.clone())
    }

    /// Starts a session; with `attach` naming a stream its streams come back, else it is detached.
    ///
    /// # Errors
    /// `Conflict` when it was started before or the container does not run.
    pub async fn exec_start(
        &self,
        id: &str,
        attach: Attach,
        console_size: Option<(u16, u16)>,
    ) -> Result<Option<Attached>, EngineError> {
        let session = self.inner.execs.find(id)?;
        let inner = Arc::clone(&self.inner);
        // A client that leaves must not leave a process half-started.
        let work = async move {
            let stream = start(&inner, &session, attach, console_size).await?;
            Ok(stream.map(|stream| {
                let (read, write) = stream.into_split();
                Attached {
                    tty: session.spec.tty,
                    output: Box::new(read),
                    input: attach.stdin.then(|| Box::new(write) as _),
                }
            }))
        };
        match self.inner.tasks.spawn(work).await {
            Ok(result) => result,
            Err(error) => Err(EngineError::new(ErrorKind::Internal, error.to_string())),
        }
    }

    /// Waits for the end of a session and gives its exit code. A session that is never started
    /// never ends but with its container.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn exec_wait(&self, id: &str) -> Result<i32, EngineError> {
        // Not the session itself, which would then outlive its container's removal.
        let mut state = self.inner.execs.find(id)?.state.subscribe();
        match state.wait_for(|s| matches!(s, State::Ended { .. })).await.as_deref() {
            Ok(State::Ended { code }) => Ok(*code),
            // Forgotten before its end.
            _ => Ok(NO_CODE),
        }
    }

    /// A session as it is now.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn exec_view(&self, id: &str) -> Result<ExecView, EngineError> {
        Ok(self.inner.execs.find(id)?.view())
    }

    /// Sets the size of a session's terminal, in characters.
    ///
    /// # Errors
    /// `Conflict` when it does not run.
    pub async fn exec_resize(&self, id: &str, width: u16, height: u16) -> Result<(), EngineError> {
        let session = self.inner.execs.find(id)?;
        let running = matches!(*session.state.borrow(), State::Running { .. });
        let process = session.process().filter(|_| running).ok_or_else(|| {
            EngineError::conflict(format!("exec instance {} is not running", session.id))
        })?;
        process.resize(width, height).await.map_err(|e| EngineError::wrap("cannot resize", e))
    }
}

pub(crate) fn create(
    engine: &Inner,
    container: &Container,
    spec: ExecSpec,
) -> Result<Arc<Session>, EngineError> {
    if spec.cmd.is_empty() {
        return Err(EngineError::invalid("No exec command specified"));
    }
    let action = format!("exec_create: {}", spec.cmd.join(" "));
    let session = engine.execs.add(container.id.clone(), spec)?;
    let mut attributes = crate::engine::view_attributes(&container.view());
    attributes.insert("execID".to_owned(), session.id.to_string());
    engine.announce_container(action, &container.id, attributes);
    Ok(session)
}

/// Starts a session; the stream carries what `attach` names.
pub(crate) async fn start(
    engine: &Arc<Inner>,
    session: &Arc<Session>,
    attach: Attach,
    console_size: Option<(u16, u16)>,
) -> Result<Option<UnixStream>, EngineError> {
    let container = engine
        .index
        .get(&session.container)
        .ok_or_else(|| EngineError::no_such_container(session.container.as_str()))?;
    let task = container.thawed_task()?;
    let mut first = false;
    session.state.send_if_modified(|state| {
        first = *state == State::Created;
        if first {
            *state = State::Starting;
        }
        first
    });
    if !first {
        return Err(EngineError::conflict(format!("exec {} has already been started", session.id)));
    }
    // Told before it is done, as dockerd does: the end of a short command may be reported before
    // its start is answered, and listeners must not hear of it first.
    let mut attributes = crate::engine::view_attributes(&container.view());
    attributes.insert("execID".to_owned(), session.id.to_string());
    let action = format!("exec_start: {}", session.spec.cmd.join(" "));
    engine.announce_container(action, &container.id, attributes);
    let started = launch(engine, &container, &*task, session, attach, console_size).await;
    match started {
        Ok((stream, pid)) => {
            // The end may have been reported before the start was answered.
            session.state.send_if_modified(|state| {
                let first = *state == State::Starting;
                if first {
                    *state = State::Running { pid };
                }
                first
            });
            let _ = container.send(Message::Exec(session.id.clone())).await;
            Ok(stream)
        }
        Err(error) => {
            let code = match crate::lifecycle::start::exit_code(&error) {
                128 => 126,
                code => code,
            };
            session.state.send_replace(State::Ended { code });
            Err(error)
        }
    }
}

async fn launch(
    engine: &Arc<Inner>,
    container: &Container,
    task: &dyn pouch_containerd::Task,
    session: &Session,
    attach: Attach,
    console_size: Option<(u16, u16)>,
) -> Result<(Option<UnixStream>, u32), EngineError> {
    let process = process(engine, container, &session.spec, task.pid(), console_size).await?;
    let stdio = Stdio {
        terminal: if session.spec.tty { Terminal::Yes } else { Terminal::No },
        stdin: if attach.stdin { Stdin::Once } else { Stdin::Null },
    };
    // The shim says that it was the OCI runtime's exec that failed.
    let failed = |e: pouch_containerd::Error| {
        let error = EngineError::new(e.kind(), pouch_types::error::chain(&e));
        match crate::lifecycle::start::exit_code(&error) {
            126 | 127 => error.with_kind(ErrorKind::Invalid),
            _ => error,
        }
    };
    let added = task.exec(session.id.as_str(), process, stdio).await.map_err(failed)?;
    *session.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&added));
    let work = async {
        let wanted = attach.stdin || attach.stdout || attach.stderr;
        let stream = if wanted { Some(added.attach(attach).await?) } else { None };
        let pid = added.start().await?;
        Ok((stream, pid))
    };
    let result: Result<_, pouch_containerd::Error> = work.await;
    if result.is_err() {
        // Best effort: the shim frees it with the container at the latest.
        let _ = tokio::time::timeout(END_PATIENCE, added.delete()).await;
    }
    result.map_err(failed)
}

/// The OCI `process` object of a session.
async fn process(
    engine: &Arc<Inner>,
    container: &Container,
    exec: &Arc<ExecSpec>,
    pid: u32,
    console_size: Option<(u16, u16)>,
) -> Result<Vec<u8>, EngineError> {
    let spec = Arc::clone(&container.view().spec);
    let oci = container.run().spec.clone();
    let oci = oci.ok_or_else(|| {
        EngineError::conflict(format!("container {} is not running", container.id))
    })?;
    let exec = Arc::clone(exec);
    let engine = Arc::clone(engine);
    let work = move || {
        let user = if exec.user.is_empty() {
            None
        } else {
            // The container's own view of its files, links followed inside it.
            let root = RootFd::open(format!("/proc/{pid}/root"))
                .map_err(|e| EngineError::wrap("open the container's root", e))?;
            let user = pouch_oci::resolve_user(
                &root,
                &exec.user,
                &spec.process.group_add,
                spec.process.groups,
            )
            .map_err(|e| EngineError::wrap("find the user", e))?;
            Some(user)
        };
        let asked = ExecProcess {
            args: &exec.cmd,
            env: &exec.env,
            configured_env: &spec.process.env,
            working_dir: &exec.working_dir,
            user: user.as_ref(),
            rights: if exec.privileged { Rights::Privileged } else { Rights::Container },
            terminal: exec.tty.then_some(console_size.or(exec.console_size)),
        };
        let process = pouch_oci::exec(&oci, &asked, &engine.host)
            .map_err(|e| EngineError::wrap("the exec cannot be made as asked", e))?;
        serde_json::to_vec(&process)
            .map_err(|e| EngineError::new(ErrorKind::Internal, e.to_string()))
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| EngineError::new(ErrorKind::Internal, e.to_string()))?
}

/// Reads Docker's frames to their end and hands each piece on with its stream's number: 1 is
/// standard output, 2 standard error.
pub(crate) async fn read_frames(mut stream: UnixStream, mut each: impl FnMut(u8, &[u8])) {
    let mut header = [0u8; 8];
    let mut chunk = vec![0u8; CHUNK];
    while stream.read_exact(&mut header).await.is_ok() {
        let mut left = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        while left > 0 {
            let part = left.min(chunk.len());
            match stream.read(&mut chunk[..part]).await {
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    each(header[0], &chunk[..n]);
                    left -= n;
                }
            }
        }
    }
}

/// Whether a container may be given more processes.
pub(crate) fn accepts(container: &Container) -> bool {
    container.snapshot().phase == Phase::Running
}
