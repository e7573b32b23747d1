//! The containers of one shim and what can be asked of them.
//!
//! Every method that changes something runs to its end: the service layer gives it a task of its
//! own, so a client that goes away leaves nothing half done.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use pouch_cgroup::{Cgroup, Layout};
use pouch_logfile::{Encoder, Writer};
use pouch_protocol::events::{
    TOPIC_CREATE, TOPIC_DELETE, TOPIC_EXEC_ADDED, TOPIC_EXEC_STARTED, TOPIC_OOM, TOPIC_PAUSED,
    TOPIC_RESUMED, TOPIC_START, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskIO,
    TaskOOM, TaskPaused, TaskResumed, TaskStart,
};
use pouch_protocol::task::{CreateTaskRequest, ExecProcessRequest, KillRequest, ResizePtyRequest};
use pouch_protocol::timestamp;
use rustix::process::Signal;
use tokio::sync::Notify;

use crate::args::Flags;
use crate::blocking;
use crate::bundle::{self, Config};
use crate::child::{Reaper, Tracked};
use crate::console::ConsoleSocket;
use crate::container::{Container, Parts};
use crate::error::TaskError;
use crate::events::Publisher;
use crate::exit::{Exit, ExitFile};
use crate::io::{Command, Framing, IoThread, Key, Log, NewSession, StdinEnd};
use crate::mounts;
use crate::options::TaskOptions;
use crate::process::{Life, Process, StdioNames};
use crate::recovery::Recovery;
use crate::runtime::{LinuxRuntime, Making, RuntimeHandler, SealedRuntime};
use crate::stdio::{ChildStdio, Endpoints, Opened, Terminal};
use crate::supervise;

/// Time for the terminal to come after the runtime ended well.
const TERMINAL: Duration = Duration::from_secs(5);
/// Time that a deleted container's output has to reach its log and FIFOs.
const DRAIN: Duration = Duration::from_secs(5);
/// Time for a killed process to be seen dead.
const DEATH: Duration = Duration::from_secs(10);

/// Entry for an id: taken while the container is being made.
enum Slot {
    Making,
    Ready(Arc<Container>),
}

/// One shim.
pub(crate) struct Shim {
    pub(crate) namespace: String,
    pub(crate) events: Publisher,
    pub(crate) io: IoThread,
    pub(crate) reaper: Reaper,
    pub(crate) shutdown: Notify,
    containers: Mutex<BTreeMap<String, Slot>>,
    /// What it was started for: its only container, or a group of them.
    id: String,
    /// The mounts of others were found and are about to be let go of, once.
    lightened: AtomicBool,
    /// Nothing is made any more. Changed only under the lock of `containers`.
    closed: AtomicBool,
    /// Notified when a container is made, or is not going to be.
    settled: Notify,
    sealed: SealedRuntime,
    layout: OnceLock<Option<Arc<Layout>>>,
    next_key: AtomicU32,
}

/// Whether containers keep a shim from ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Close {
    Now,
    IfEmpty,
}

/// Removes the claim on an id when making the container fails.
struct Claim<'a> {
    shim: &'a Shim,
    id: &'a str,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut containers = self.shim.lock();
        if matches!(containers.get(self.id), Some(Slot::Making)) {
            containers.remove(self.id);
        }
        self.shim.settled.notify_waiters();
    }
}

impl Shim {
    pub(crate) fn new(flags: &Flags, events: Publisher, io: IoThread, reaper: Reaper) -> Self {
        Self {
            namespace: flags.namespace.clone(),
            id: flags.id.clone(),
            lightened: AtomicBool::new(false),
            events,
            io,
            reaper,
            shutdown: Notify::new(),
            containers: Mutex::default(),
            closed: AtomicBool::new(false),
            settled: Notify::new(),
            sealed: SealedRuntime::default(),
            layout: OnceLock::new(),
            next_key: AtomicU32::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Slot>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, TaskError> {
        match self.lock().get(id) {
            Some(Slot::Ready(container)) => Ok(Arc::clone(container)),
            _ => Err(TaskError::NoContainer(id.to_owned())),
        }
    }

    /// Whether a container is left, running or not.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn claim<'a>(&'a self, id: &'a str) -> Result<Claim<'a>, TaskError> {
        let mut containers = self.lock();
        if self.closed.load(Ordering::Relaxed) {
            return Err(TaskError::ShuttingDown);
        }
        if containers.contains_key(id) {
            return Err(TaskError::Exists(id.to_owned()));
        }
        containers.insert(id.to_owned(), Slot::Making);
        Ok(Claim { shim: self, id })
    }

    /// Refuses new containers and waits for those that are being made, so that the shim does not
    /// end under a runtime at work. Whether it is to end.
    pub(crate) async fn close(&self, when: Close) -> bool {
        {
            let containers = self.lock();
            if when == Close::IfEmpty && !containers.is_empty() {
                return false;
            }
            self.closed.store(true, Ordering::Relaxed);
        }
        self.settle_all(|_, slot| matches!(slot, Slot::Making)).await;
        true
    }

    /// Waits until no entry is `unsettled`. Making one has a deadline of its own.
    async fn settle_all(&self, unsettled: impl Fn(&str, &Slot) -> bool) {
        loop {
            let mut settled = std::pin::pin!(self.settled.notified());
            // From here on no notification is missed.
            settled.as_mut().enable();
            if !self.lock().iter().any(|(id, slot)| unsettled(id, slot)) {
                return;
            }
            settled.await;
        }
    }

    /// Names of what is not the concern of the container `id` alone: the other containers, and the
    /// group. A container that says its group may have the group's own id.
    fn names_beside(&self, id: &str, group: Option<&str>) -> Vec<String> {
        let containers = self.lock();
        let beside = containers.keys().chain([&self.id]);
        beside.filter(|name| *name != id || group == Some(name.as_str())).cloned().collect()
    }

    fn key(&self) -> Key {
        self.next_key.fetch_add(1, Ordering::Relaxed)
    }

    fn layout(&self) -> Option<&Arc<Layout>> {
        self.layout
            .get_or_init(|| match Layout::detect() {
                Ok(layout) => Some(layout),
                Err(error) => {
                    tracing::warn!(%error, "working without control groups");
                    None
                }
            })
            .as_ref()
    }

    /// Makes a container that waits for its start; returns its pid.
    pub(crate) async fn create(
        self: &Arc<Self>,
        request: CreateTaskRequest,
    ) -> Result<u32, TaskError> {
        check_id("container id", &request.id)?;
        if !request.checkpoint.is_empty() {
            return Err(TaskError::Unsupported("restoring a checkpoint"));
        }
        let bundle = PathBuf::from(&request.bundle);
        if !bundle.is_absolute() {
            let detail = format!("{:?} is not an absolute path", request.bundle);
            return Err(TaskError::Invalid { what: "bundle", detail });
        }
        let claim = self.claim(&request.id)?;
        let options = TaskOptions::parse(request.options.as_ref(), &self.namespace, &bundle)?;
        let config = Config::read(&bundle)?;
        let runtime: Arc<dyn RuntimeHandler> =
            Arc::new(LinuxRuntime::new(&options, &self.sealed, self.reaper.clone())?);

        let root = Container::rootfs(&bundle);
        let mut others = Vec::new();
        if !request.rootfs.is_empty() {
            std::fs::create_dir_all(&root).map_err(TaskError::io("make", &root))?;
            let (rootfs, target) = (request.rootfs.clone(), root.clone());
            let mine = self.names_beside(&request.id, config.group());
            let (first, own) = (!self.lightened.swap(true, Ordering::Relaxed), bundle.clone());
            others = blocking::run("mount", move || {
                mounts::isolate(&target)?;
                let own = mounts::Own { bundle: &own, names: &mine };
                let others = if first { mounts::find_others(&own)? } else { Vec::new() };
                mounts::mount_all(&rootfs, &target)?;
                Ok(others)
            })
            .await
            .flatten()
            .inspect_err(|_| {
                if first {
                    self.lightened.store(false, Ordering::Relaxed);
                }
            })?;
        }
        let made = self.make(&request, bundle.clone(), options, &config, runtime.clone()).await;
        match made {
            Ok(container) => {
                let pid = container.init.snapshot().pid;
                // Not before: the runtime joins namespaces by paths that may be among them.
                if !others.is_empty() {
                    let dropped = blocking::run("let go", move || mounts::drop_others(&others));
                    if let Err(error) = dropped.await.and_then(|result| result) {
                        tracing::warn!(id = request.id, %error, "mounts of others stay");
                    }
                }
                self.lock().insert(request.id.clone(), Slot::Ready(container));
                drop(claim);
                Ok(pid)
            }
            Err(error) => {
                // What the runtime left of its failure must not keep the id or the mount.
                if let Err(error) = runtime.delete(&request.id, &bundle).await {
                    tracing::debug!(id = request.id, %error, "nothing to delete");
                }
                if !request.rootfs.is_empty()
                    && let Err(error) = unmount(root).await
                {
                    tracing::warn!(id = request.id, %error, "the root file system stays mounted");
                }
                Err(error)
            }
        }
    }

    /// The part of [`Shim::create`] that is undone by deleting the container and unmounting.
    async fn make(
        self: &Arc<Self>,
        request: &CreateTaskRequest,
        bundle: PathBuf,
        mut options: TaskOptions,
        config: &Config,
        runtime: Arc<dyn RuntimeHandler>,
    ) -> Result<Arc<Container>, TaskError> {
        let id: Arc<str> = request.id.as_str().into();
        let terminal = if request.terminal { Terminal::Yes } else { Terminal::No };
        let endpoints = Endpoints::parse(&request.stdin, &request.stdout, &request.stderr)?;
        if let Some(held) = endpoints.held() {
            options.generation = held.generation.unwrap_or(options.generation);
            options.stdin_once |= held.stdin_once;
        }
        let opened = endpoints.open(terminal)?;
        let key = self.key();
        let log = match &options.log {
            Some(log) if endpoints.attachable() => Some(open_log(log)?),
            _ => None,
        };
        if let Some(path) = &options.exit_file {
            ExitFile::reserve(path).map_err(TaskError::io("make", path))?;
        }
        if let (Some(path), true) = (&options.io_socket, endpoints.attachable()) {
            let listener = listen(path)?;
            self.io.send(Command::Listen { container: Arc::clone(&id), listener }).await;
        }
        let stdin_end = if options.stdin_once { StdinEnd::WithClient } else { StdinEnd::OnRequest };
        let child =
            self.add_session(key, &id, "", terminal, stdin_end, &endpoints, log, opened).await;

        let record = |pid| {
            if let Err(error) = Recovery::new(&options, pid).write(&bundle) {
                // Only the clean-up after a shim that died would miss it.
                tracing::warn!(id = &*id, %error, "no recovery record");
            }
        };
        // It may die under the runtime.
        record(0);
        let making = self.reaper.making();
        let made = self
            .run_with_terminal(&bundle, key, terminal, async |console| {
                let making = Making { id: &request.id, bundle: &bundle, stdio: child, console };
                runtime.create(making).await
            })
            .await;
        let tracked = made.and_then(|(pid, master)| Ok((pid, self.reaper.track(pid)?, master)));
        drop(making);
        let (pid, tracked, master) = match tracked {
            Ok(made) => made,
            Err(error) => {
                self.io.send(Command::Unlisten { container: id }).await;
                if let Some(path) = &options.io_socket {
                    let _ = std::fs::remove_file(path);
                }
                self.io.send(Command::Remove { key }).await;
                return Err(error);
            }
        };

        let names = StdioNames {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
        };
        record(pid);
        let init = Process::new("", key, terminal, names, Life::Making, config.console_size());
        if let Some(master) = master {
            init.set_master(master);
        }
        let tracked = Arc::new(tracked);
        init.set_created(pid, Arc::clone(&tracked));
        let cgroup = self.layout().and_then(|layout| {
            Cgroup::of_pid(layout, pid)
                .inspect_err(|error| tracing::warn!(id = &*id, %error, "no control group"))
                .ok()
        });
        let container = Arc::new(Container::new(Parts {
            id: Arc::clone(&id),
            bundle,
            options,
            runtime,
            init: Arc::new(init),
            pid_namespace: config.pid_namespace(),
            cgroup,
        }));
        self.events.publish(
            TOPIC_CREATE,
            "TaskCreate",
            &TaskCreate {
                container_id: request.id.clone(),
                bundle: request.bundle.clone(),
                rootfs: request.rootfs.clone(),
                io: Some(TaskIO {
                    stdin: request.stdin.clone(),
                    stdout: request.stdout.clone(),
                    stderr: request.stderr.clone(),
                    terminal: request.terminal,
                    ..TaskIO::default()
                })
                .into(),
                pid,
                ..TaskCreate::default()
            },
        );
        self.supervise(&container, Arc::clone(&container.init), tracked);
        Ok(container)
    }

    #[expect(clippy::too_many_arguments, reason = "one call for init and one for exec")]
    async fn add_session(
        &self,
        key: Key,
        container: &Arc<str>,
        exec: &str,
        terminal: Terminal,
        stdin_end: StdinEnd,
        endpoints: &Endpoints,
        log: Option<Log>,
        opened: Opened,
    ) -> ChildStdio {
        let session = NewSession {
            key,
            container: Arc::clone(container),
            exec: exec.into(),
            framing: if terminal == Terminal::Yes { Framing::Raw } else { Framing::Docker },
            stdin_end,
            attachable: endpoints.attachable(),
            stdin: opened.stdin,
            stdout: opened.stdout,
            stderr: opened.stderr,
            log,
        };
        self.io.send(Command::Add(Box::new(session))).await;
        opened.child
    }

    /// Runs `make`, with a console socket if there is to be a terminal, and hands the terminal to
    /// the io thread. Returns the pid and the master for resizing.
    async fn run_with_terminal(
        &self,
        bundle: &Path,
        key: Key,
        terminal: Terminal,
        make: impl AsyncFnOnce(Option<&Path>) -> Result<u32, TaskError>,
    ) -> Result<(u32, Option<OwnedFd>), TaskError> {
        if terminal == Terminal::No {
            return Ok((make(None).await?, None));
        }
        let socket = Arc::new(ConsoleSocket::bind(bundle, key)?);
        let receiver = Arc::clone(&socket);
        let master = tokio::spawn(async move { receiver.receive().await });
        let pid = match make(Some(socket.path())).await {
            Ok(pid) => pid,
            Err(error) => {
                master.abort();
                return Err(error);
            }
        };
        let master = match tokio::time::timeout(TERMINAL, master).await {
            Ok(Ok(master)) => master?,
            Ok(Err(_)) => return Err(TaskError::Internal("the terminal's task ended early")),
            Err(_) => {
                let seconds = TERMINAL.as_secs();
                return Err(TaskError::Deadline { stage: "handing over the terminal", seconds });
            }
        };
        let copy = |fd: &OwnedFd| {
            rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(TaskError::errno("copy", "the terminal"))
        };
        let (output, input) = (copy(&master)?, copy(&master)?);
        self.io.send(Command::Terminal { key, output, input }).await;
        Ok((pid, Some(master)))
    }

    fn supervise(
        self: &Arc<Self>,
        container: &Arc<Container>,
        process: Arc<Process>,
        tracked: Arc<Tracked>,
    ) {
        let (shim, container) = (Arc::clone(self), Arc::clone(container));
        tokio::spawn(supervise::run(shim, container, process, tracked));
    }

    /// Lets the first process, or an exec, run; returns its pid.
    pub(crate) async fn start(self: &Arc<Self>, id: &str, exec: &str) -> Result<u32, TaskError> {
        let container = self.container(id)?;
        let process = container.process(exec)?;
        let _starting = process.starting.lock().await;
        if exec.is_empty() {
            let _changing = container.changing.lock().await;
            process.expect_created()?;
            self.io.send(Command::Started { key: process.key }).await;
            container.runtime.start(id, &container.bundle).await?;
            process.set_running();
            let pid = process.snapshot().pid;
            let event = TaskStart { container_id: id.to_owned(), pid, ..TaskStart::default() };
            self.events.publish(TOPIC_START, "TaskStart", &event);
            self.watch_oom(&container);
            return Ok(pid);
        }
        self.start_exec(&container, &process).await
    }

    async fn start_exec(
        self: &Arc<Self>,
        container: &Arc<Container>,
        process: &Arc<Process>,
    ) -> Result<u32, TaskError> {
        let (spec, stdio) = process.begin()?;
        self.io.send(Command::Started { key: process.key }).await;
        let making = self.reaper.making();
        let made = self
            .run_with_terminal(&container.bundle, process.key, process.terminal, async |console| {
                let making =
                    Making { id: &container.id, bundle: &container.bundle, stdio, console };
                container.runtime.exec(making, &spec).await
            })
            .await;
        let tracked = made.and_then(|(pid, master)| Ok((pid, self.reaper.track(pid)?, master)));
        drop(making);
        let (pid, tracked, master) = match tracked {
            Ok(made) => made,
            Err(error) => {
                // Clients see the end of the output; the caller deletes it.
                let exit = Exit { status: 255, at: jiff::Timestamp::now() };
                process.set_stopped(exit);
                process.publish_exit(exit);
                self.io.send(Command::Remove { key: process.key }).await;
                return Err(error);
            }
        };
        if let Some(master) = master {
            process.set_master(master);
        }
        let tracked = Arc::new(tracked);
        process.set_created(pid, Arc::clone(&tracked));
        process.set_running();
        let event = TaskExecStarted {
            container_id: container.id.to_string(),
            exec_id: process.exec.to_string(),
            pid,
            ..TaskExecStarted::default()
        };
        self.events.publish(TOPIC_EXEC_STARTED, "TaskExecStarted", &event);
        self.supervise(container, Arc::clone(process), tracked);
        Ok(pid)
    }

    /// Adds a process that [`Shim::start`] makes.
    pub(crate) async fn exec(&self, request: ExecProcessRequest) -> Result<(), TaskError> {
        check_id("exec id", &request.exec_id)?;
        let container = self.container(&request.id)?;
        let spec = request.spec.into_option().map(|spec| spec.value).unwrap_or_default();
        let parsed: bundle::Process = serde_json::from_slice(&spec).map_err(|error| {
            TaskError::Invalid { what: "process of the exec", detail: error.to_string() }
        })?;
        let terminal = if request.terminal { Terminal::Yes } else { Terminal::No };
        let endpoints = Endpoints::parse(&request.stdin, &request.stdout, &request.stderr)?;
        let opened = endpoints.open(terminal)?;
        let key = self.key();
        if container.process(&request.exec_id).is_ok() {
            return Err(TaskError::Exists(request.exec_id));
        }
        let stdio = self
            .add_session(
                key,
                &container.id,
                &request.exec_id,
                terminal,
                StdinEnd::WithClient,
                &endpoints,
                None,
                opened,
            )
            .await;
        let names =
            StdioNames { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr };
        let life = Life::Added { spec, stdio };
        let process =
            Process::new(&request.exec_id, key, terminal, names, life, parsed.console_size());
        if let Err(error) = container.add_exec(Arc::new(process)) {
            self.io.send(Command::Remove { key }).await;
            return Err(error);
        }
        let event = TaskExecAdded {
            container_id: request.id,
            exec_id: request.exec_id,
            ..TaskExecAdded::default()
        };
        self.events.publish(TOPIC_EXEC_ADDED, "TaskExecAdded", &event);
        Ok(())
    }

    /// Removes an exec, or the container with everything in it. Returns its pid and exit.
    pub(crate) async fn delete(&self, id: &str, exec: &str) -> Result<(u32, Exit), TaskError> {
        // Who made it may have died meanwhile, and its successor removes what it began.
        self.settle_all(|other, slot| other == id && matches!(slot, Slot::Making)).await;
        let container = self.container(id)?;
        let process = container.process(exec)?;
        let _changing = container.changing.lock().await;
        process.expect_not_running()?;
        let exit = if exec.is_empty() {
            self.delete_container(&container).await?
        } else {
            let exit = self.settle(&process).await;
            container.remove_exec(exec);
            exit
        };
        let pid = process.snapshot().pid;
        let event = TaskDelete {
            container_id: id.to_owned(),
            pid,
            exit_status: exit.status,
            exited_at: Some(timestamp(exit.at)).into(),
            id: exec.to_owned(),
            ..TaskDelete::default()
        };
        self.events.publish(TOPIC_DELETE, "TaskDelete", &event);
        Ok((pid, exit))
    }

    async fn delete_container(&self, container: &Arc<Container>) -> Result<Exit, TaskError> {
        let init = &container.init;
        // One that never started still waits in its init.
        match init.signal(Signal::KILL) {
            Ok(()) | Err(TaskError::Finished) => {}
            Err(error) => return Err(error),
        }
        let exit = match tokio::time::timeout(DEATH, init.ended()).await {
            Ok(Some(exit)) => exit,
            _ => {
                let seconds = DEATH.as_secs();
                return Err(TaskError::Deadline { stage: "the death of the process", seconds });
            }
        };
        container.runtime.delete(&container.id, &container.bundle).await?;
        for exec in container.all_execs() {
            self.settle(&exec).await;
        }
        self.settle(init).await;
        self.io.send(Command::Unlisten { container: Arc::clone(&container.id) }).await;
        if let Some(path) = &container.options.io_socket {
            let _ = std::fs::remove_file(path);
        }
        unmount(Container::rootfs(&container.bundle)).await?;
        self.lock().remove(&*container.id);
        Ok(exit)
    }

    /// Gives a stopped process's output its time, and forgets its stdio.
    async fn settle(&self, process: &Process) -> Exit {
        if let Some(drained) = process.take_drained() {
            // Late output is lost then, but deleting never hangs on it.
            let _ = tokio::time::timeout(DRAIN, drained).await;
        }
        process.drop_master();
        self.io.send(Command::Remove { key: process.key }).await;
        process.snapshot().exit.unwrap_or_else(|| Exit { status: 0, at: jiff::Timestamp::now() })
    }

    /// Sends a signal.
    pub(crate) async fn kill(&self, request: &KillRequest) -> Result<(), TaskError> {
        let container = self.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        let signal = crate::sys::signal(request.signal).ok_or_else(|| TaskError::Invalid {
            what: "signal",
            detail: request.signal.to_string(),
        })?;
        if signal == Signal::KILL && request.exec_id.is_empty() {
            container.note_kill();
        }
        if request.all && request.exec_id.is_empty() {
            container.signal_all(signal).await?;
        } else if request.all {
            process.signal_family(signal).await?;
        } else {
            process.signal(signal)?;
        }
        // A frozen process of cgroup v1 dies only when it is thawed.
        if signal == Signal::KILL && container.is_paused() {
            container.resume().await?;
        }
        Ok(())
    }

    /// Stops all processes of a container.
    pub(crate) async fn pause(&self, id: &str) -> Result<(), TaskError> {
        let container = self.container(id)?;
        let _changing = container.changing.lock().await;
        container.pause().await?;
        let event = TaskPaused { container_id: id.to_owned(), ..TaskPaused::default() };
        self.events.publish(TOPIC_PAUSED, "TaskPaused", &event);
        Ok(())
    }

    /// Lets them go on.
    pub(crate) async fn resume(&self, id: &str) -> Result<(), TaskError> {
        let container = self.container(id)?;
        let _changing = container.changing.lock().await;
        container.resume().await?;
        let event = TaskResumed { container_id: id.to_owned(), ..TaskResumed::default() };
        self.events.publish(TOPIC_RESUMED, "TaskResumed", &event);
        Ok(())
    }

    /// Applies new limits.
    pub(crate) async fn update(&self, id: &str, resources: &[u8]) -> Result<(), TaskError> {
        let container = self.container(id)?;
        let _changing = container.changing.lock().await;
        container.runtime.update(id, &container.bundle, resources).await
    }

    /// Changes the size of a terminal.
    pub(crate) fn resize(&self, request: &ResizePtyRequest) -> Result<(), TaskError> {
        let size =
            bundle::winsize(request.width.into(), request.height.into()).ok_or_else(|| {
                let detail = format!("{} x {}", request.width, request.height);
                TaskError::Invalid { what: "size", detail }
            })?;
        self.container(&request.id)?.process(&request.exec_id)?.resize(size)
    }

    /// Ends the input of a process.
    pub(crate) async fn close_stdin(&self, id: &str, exec: &str) -> Result<(), TaskError> {
        let process = self.container(id)?.process(exec)?;
        self.io.send(Command::CloseStdin { key: process.key }).await;
        Ok(())
    }

    /// Publishes the first out-of-memory kill as it happens.
    fn watch_oom(self: &Arc<Self>, container: &Arc<Container>) {
        let watch = match container.cgroup.as_ref().map(Cgroup::oom_watch) {
            Some(Ok(Some(watch))) => watch,
            Some(Err(error)) => {
                return tracing::warn!(id = &*container.id, %error, "cannot watch for OOM");
            }
            _ => return,
        };
        let (shim, container) = (Arc::clone(self), Arc::clone(container));
        tokio::spawn(async move {
            let Ok(watch) = crate::sys::watch(watch.into_fd()) else { return };
            // The group's removal ends the watch at the latest: v1 wakes it, v2's process ended.
            loop {
                let mut ready = tokio::select! {
                    ready = watch.readable() => match ready {
                        Ok(ready) => ready,
                        Err(_) => return,
                    },
                    _ = container.init.ended() => return,
                };
                ready.clear_ready();
                // What it says does not matter; read so that the next event is seen.
                let _ = rustix::io::read(watch.get_ref(), &mut [0; 256]);
                if container.was_oom_killed() {
                    return shim.publish_oom(&container);
                }
            }
        });
    }

    pub(crate) fn publish_oom(&self, container: &Container) {
        if container.first_oom() {
            let event = TaskOOM { container_id: container.id.to_string(), ..TaskOOM::default() };
            self.events.publish(TOPIC_OOM, "TaskOOM", &event);
        }
    }
}

/// Ids become file names and arguments.
pub(crate) fn check_id(what: &'static str, id: &str) -> Result<(), TaskError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let good = (1..=128).contains(&id.len())
        && id.bytes().all(plain)
        && id.as_bytes()[0].is_ascii_alphanumeric();
    if good { Ok(()) } else { Err(TaskError::Invalid { what, detail: format!("{id:?}") }) }
}

async fn unmount(root: PathBuf) -> Result<(), TaskError> {
    blocking::run("unmount", move || mounts::unmount_all(&root)).await?
}

pub(crate) fn open_log(options: &crate::options::LogOptions) -> Result<Log, TaskError> {
    let encoder = Encoder::new(options.driver, &options.attrs);
    let writer =
        Writer::open(&options.path, encoder, options.rotation()).map_err(TaskError::Log)?;
    match options.buffer {
        None => Ok(Log::direct(writer)),
        Some(capacity) => Log::queued(writer, capacity)
            .map_err(TaskError::io("start a thread for", &options.path)),
    }
}

/// A listener at `path`, for root only. A longer path than an address holds is reached through
/// its directory's descriptor.
pub(crate) fn listen(path: &Path) -> Result<OwnedFd, TaskError> {
    let failed = |source| TaskError::Io { action: "listen at", path: path.to_owned(), source };
    crate::bootstrap::bind_private(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_file_names() {
        for good in ["a", "0123", "pod_1.x-y"] {
            check_id("id", good).unwrap();
        }
        for bad in ["", ".", "..", "-x", "a/b", "a b", "a\0", &"x".repeat(129), "ü"] {
            assert!(check_id("id", bad).is_err(), "{bad:?}");
        }
    }
}
