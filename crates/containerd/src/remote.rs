//! The remote backend: an existing containerd drives the shims, over its gRPC API.
//!
//! Calls are the fewest that the job allows: a start is `Containers.Create`, `Tasks.Create` and
//! `Tasks.Start`; an end is `Tasks.Delete` and `Containers.Delete`, or, when a new run follows at
//! once, `Containers.Update` in place of the two calls between. Nothing is asked that is known
//! already, no call waits for a container, and exits come from one stream of events. Events are
//! not repeated, so each (re)connection subscribes first, then lists, then reconciles.
//!
//! Containers of this daemon carry labels, of which [`labels::OWNER`] tells several daemons on one
//! namespace apart. Streams, logs and exit files are our shim's, as with the embedded backend: it
//! is told by the same options. Its `io.sock` lies in `<state>/r/<container id>/`. For the
//! containers of a foreign shim the same is done by a [`keeper`], and the exit file written here.
//!
//! The only map by id is that of the runs that events are routed to.

mod call;
mod container;
mod events;
mod exit_file;
mod hung;
mod images;
mod keeper;
mod linger;
mod run;
mod strays;
mod task;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use pouch_containerd_grpc::containers::ListContainersRequest;
use pouch_containerd_grpc::tasks::{ListTasksRequest, Process};
use pouch_containerd_grpc::{Pool, PoolConfig, containers};
use pouch_types::{Classified as _, ErrorKind};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    Client, Container, CreateRequest, Error, Event, Kind, Link, Loaded, RemoteStatus, Result,
    Shims, Status,
};
use call::{Call, LISTS, QUICK};
use container::RemoteContainer;
use linger::Lingering;
use run::Runs;
use strays::Strays;

pub use images::{ImageFeed, ImageNews, Naming, image_mark};

/// Events that may wait for their consumer; the stream waits in turn.
const EVENT_QUEUE: usize = 1024;
/// Pause between attempts to reach a containerd that is not there yet.
const PAUSE: Duration = Duration::from_millis(200);

/// Labels of containers.
pub(crate) mod labels {
    /// Which daemon a container belongs to.
    pub(crate) const OWNER: &str = "dev.pouch.owner";
    /// Number of the run.
    pub(crate) const GENERATION: &str = "dev.pouch.generation";
    /// Where the run's end is recorded.
    pub(crate) const EXIT_FILE: &str = "dev.pouch.exit-file";
    /// Who holds the streams: [`STDIO_SHIM`] or [`STDIO_KEEPER`].
    pub(crate) const STDIO: &str = "dev.pouch.stdio";
    /// Our shim.
    pub(crate) const STDIO_SHIM: &str = "shim";
    /// A process beside a foreign shim.
    pub(crate) const STDIO_KEEPER: &str = "keeper";
}

/// Where containerd is, and where its shims find things of ours.
#[derive(Debug, Clone)]
pub struct RemoteConfig {
    /// containerd's socket.
    pub socket: PathBuf,
    /// Namespace of all our objects.
    pub namespace: String,
    /// Connections at most.
    pub connections: NonZeroUsize,
    /// State directory, lost at a reboot.
    pub state: PathBuf,
    /// The shim's binary, absolute: containerd starts it by this path.
    pub shim: PathBuf,
    /// Tells the containers of several daemons in one namespace apart, in 1000 bytes at most.
    pub owner: String,
    /// Time that containerd has to come: it may be starting as the daemon does.
    pub patience: Duration,
}

/// The remote backend.
#[derive(Debug)]
pub struct Remote {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: RemoteConfig,
    pub(crate) pool: Pool,
    pub(crate) runs: Runs,
    pub(crate) strays: Strays,
    pub(crate) lingering: Lingering,
    pub(crate) images: Arc<ImageFeed>,
    /// Set once the containers of before are in `runs`, where events find them.
    loaded: watch::Sender<bool>,
    /// What is known of the server.
    pub(crate) server: Mutex<Server>,
}

/// The server as it was seen last.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) version: String,
    pub(crate) link: Link,
}

impl Server {
    /// Its events are heard from now on.
    fn found(&mut self) {
        self.link = Link::Up { since: Timestamp::now() };
    }

    /// They are not, or still not.
    fn lost(&mut self, error: String) {
        let since = match &self.link {
            Link::Up { .. } => Timestamp::now(),
            Link::Down { since, .. } => *since,
        };
        self.link = Link::Down { since, error };
    }
}

impl Shared {
    pub(crate) fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remote {
    /// Connects to containerd and subscribes to its events. A containerd that is not there yet is
    /// waited for.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when it does not come; [`Error::NotContainerd`] when something else
    /// answers, or one that lacks what is needed.
    pub async fn open(config: RemoteConfig) -> Result<(Self, mpsc::Receiver<Event>)> {
        let pool = Pool::new(PoolConfig {
            socket: config.socket.clone(),
            namespace: config.namespace.clone(),
            connections: config.connections,
        })
        .map_err(|e| Error::Codec(e.to_string()))?;
        container::create_private_dir(&Kind::Remote.runs(&config.state))?;
        let patience = config.patience;
        let socket = config.socket.clone();
        let strange = |error| stranger(&socket, error);
        let version = await_server(&pool, patience).await.map_err(strange)?;
        tracing::info!(socket = %socket.display(), version, "connected to containerd");
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let link = Link::Down { since: Timestamp::now(), error: "not subscribed yet".to_owned() };
        let shared = Arc::new(Shared {
            config,
            pool,
            runs: Runs::default(),
            strays: Strays::default(),
            lingering: Lingering::default(),
            images: Arc::default(),
            loaded: watch::Sender::new(false),
            server: Mutex::new(Server { version, link }),
        });
        let (subscribed, first) = oneshot::channel();
        tokio::spawn(events::run(Arc::clone(&shared), events, subscribed));
        match tokio::time::timeout(patience, first).await {
            Ok(Ok(Ok(()))) => Ok((Self { shared }, receiver)),
            Ok(Ok(Err(error))) => Err(strange(error)),
            Ok(Err(_)) | Err(_) => {
                let said = match &shared.server().link {
                    Link::Down { error, .. } => error.clone(),
                    Link::Up { .. } => String::new(),
                };
                let message = format!("not within {} s: {said}", patience.as_secs_f32());
                Err(Error::Unreachable { stage: "subscribe to events", message })
            }
        }
    }

    /// The connections.
    #[must_use]
    pub fn pool(&self) -> Pool {
        self.shared.pool.clone()
    }

    /// News of images in the namespace but for those that carry the owner's
    /// [mark](image_mark).
    #[must_use]
    pub fn images(&self) -> Arc<ImageFeed> {
        Arc::clone(&self.shared.images)
    }
}

/// An error of what answers at the socket and should be a containerd.
fn stranger(socket: &std::path::Path, error: Error) -> Error {
    let socket = socket.to_owned();
    match error {
        // What the socket's mode says, not who listens there.
        denied @ Error::Refused { kind: ErrorKind::Denied, .. } => denied,
        Error::Refused { kind: ErrorKind::Unsupported, message } => {
            let message = format!("it lacks a service that is needed: {message}");
            Error::NotContainerd { socket, message }
        }
        Error::Refused { message, .. } => Error::NotContainerd { socket, message },
        other => other,
    }
}

/// The server's version, as soon as there is a server.
async fn await_server(pool: &Pool, patience: Duration) -> Result<String> {
    let end = tokio::time::Instant::now() + patience;
    let mut told = false;
    loop {
        match ask_version(pool).await {
            // That is not a matter of time.
            Err(error) if error.kind() == ErrorKind::Denied => return Err(error),
            Err(error @ Error::Unreachable { .. }) if tokio::time::Instant::now() < end => {
                if !told {
                    told = true;
                    tracing::warn!(%error, "waiting for containerd");
                }
                tokio::time::sleep(PAUSE).await;
            }
            other => return other,
        }
    }
}

/// What the server calls its version.
pub(crate) async fn ask_version(pool: &Pool) -> Result<String> {
    let call = Call { stage: "version", container: "-", limit: QUICK };
    Ok(call.answer(pool.version().version(call.request(()))).await?.version)
}

impl Shared {
    /// The containers of this daemon that containerd knows.
    pub(crate) async fn list_containers(&self) -> Result<Vec<containers::Container>> {
        let call = Call { stage: "list containers", container: "-", limit: LISTS };
        let quoted = self.config.owner.replace('\\', "\\\\").replace('"', "\\\"");
        let filter = format!("labels.\"{}\"==\"{quoted}\"", labels::OWNER);
        let request = call.request(ListContainersRequest { filters: vec![filter] });
        let collect = async {
            // A stream: a thousand specifications are more than one message holds.
            let mut stream = call.answer(self.pool.containers().list_stream(request)).await?;
            let mut found = Vec::new();
            while let Some(message) =
                stream.message().await.map_err(|status| Error::grpc(call.stage, &status))?
            {
                found.extend(message.container);
            }
            Ok(found)
        };
        tokio::time::timeout(LISTS, collect).await.map_err(|_| call.unanswered())?
    }

    /// All tasks of the namespace.
    pub(crate) async fn list_tasks(&self) -> Result<Vec<Process>> {
        let call = Call { stage: "list tasks", container: "-", limit: LISTS };
        let request = call.request(ListTasksRequest {});
        Ok(call.answer(self.pool.tasks().list(request)).await?.tasks)
    }
}

#[async_trait]
impl Client for Remote {
    fn status(&self) -> Status {
        let shared = &self.shared;
        let (version, link) = {
            let server = shared.server();
            (server.version.clone(), server.link.clone())
        };
        let remote = RemoteStatus {
            socket: shared.config.socket.clone(),
            namespace: shared.config.namespace.clone(),
            link,
            pool: shared.pool.status(),
        };
        Status { kind: Kind::Remote, version, remote: Some(remote) }
    }

    fn shims(&self) -> Shims {
        Shims::Any
    }

    async fn create(&self, request: CreateRequest) -> Result<Arc<dyn Container>> {
        let container = RemoteContainer::create(Arc::clone(&self.shared), request).await?;
        Ok(Arc::new(container))
    }

    async fn load_all(&self) -> Result<Vec<Loaded>> {
        let (containers, tasks) =
            tokio::join!(self.shared.list_containers(), self.shared.list_tasks());
        // A list of tasks waits for all shims, and one that hangs may be too much for it. Then
        // each is taken for silent, and the consumer's records serve.
        let tasks = match tasks {
            Ok(tasks) => Some(tasks),
            Err(error @ Error::Refused { .. }) => {
                tracing::error!(%error, "the tasks are not known");
                None
            }
            Err(error) => return Err(error),
        };
        let mut loaded = Vec::new();
        for container in containers? {
            let task = match &tasks {
                None => container::Known::Unknown,
                Some(tasks) => tasks
                    .iter()
                    .find(|task| task.id == container.id)
                    .map_or(container::Known::Absent, container::Known::Present),
            };
            loaded.extend(RemoteContainer::load(&self.shared, &container, task).await);
        }
        self.shared.loaded.send_replace(true);
        Ok(loaded)
    }

    async fn close(&self) {
        Lingering::finish(&self.shared).await;
    }
}
