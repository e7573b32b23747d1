//! Containers: each is an actor that owns its record and steps its state machine.
//!
//! A [`Container`] is the handle that everybody else holds. Readers take the published
//! [`Snapshot`]; whoever wants a change sends a message. The actor never waits for an effect:
//! effects are tasks that post an event back, so `kill` and `rm -f` are taken while a
//! `stop -t 60` is under way.

pub(crate) mod actor;
pub(crate) mod attach;
pub(crate) mod index;
pub(crate) mod record;
pub mod state;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pouch_containerd as backend;
use pouch_types::{ContainerId, ErrorKind};
use tokio::sync::{mpsc, oneshot, watch};

use crate::EngineError;
use crate::view::ContainerView;
use actor::Message;
use state::{Event, Phase, Refused};

/// Messages that may wait for an actor; a sender beyond them waits in turn.
const MAILBOX: usize = 64;

/// What readers see, published as a whole.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) view: Arc<ContainerView>,
    pub(crate) phase: Phase,
    pub(crate) generation: u64,
    /// Ends of runs and failed starts since the daemon started.
    pub(crate) ends: u64,
}

/// The objects of the current run, kept so that no operation has to look them up.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) container: Option<Arc<dyn backend::Container>>,
    pub(crate) task: Option<Arc<dyn backend::Task>>,
    /// The specification that it was made with.
    pub(crate) spec: Option<Arc<pouch_oci::spec::Spec>>,
    /// Clients that attached before the start.
    pub(crate) waiting: Vec<attach::Waiting>,
}

/// The handle on a container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    /// Its directory on disk.
    pub(crate) dir: PathBuf,
    snapshot: watch::Sender<Snapshot>,
    mailbox: mpsc::Sender<Message>,
    run: Mutex<Run>,
}

impl Container {
    /// A handle whose actor does not run yet; the receiver is the actor's.
    pub(crate) fn new(
        id: ContainerId,
        dir: PathBuf,
        snapshot: Snapshot,
    ) -> (Arc<Self>, mpsc::Receiver<Message>) {
        let (mailbox, receiver) = mpsc::channel(MAILBOX);
        let snapshot = watch::Sender::new(snapshot);
        (Arc::new(Self { id, dir, snapshot, mailbox, run: Mutex::default() }), receiver)
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.snapshot.borrow().clone()
    }

    pub(crate) fn view(&self) -> Arc<ContainerView> {
        Arc::clone(&self.snapshot.borrow().view)
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Snapshot> {
        self.snapshot.subscribe()
    }

    pub(crate) fn publish(&self, snapshot: Snapshot) {
        self.snapshot.send_replace(snapshot);
    }

    /// The objects of the current run. Never held over an await.
    pub(crate) fn run(&self) -> MutexGuard<'_, Run> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That this daemon's backend has it.
    ///
    /// # Errors
    /// `Conflict` with the way to the one that does.
    pub(crate) fn here(&self) -> Result<(), EngineError> {
        match &self.snapshot.borrow().view.elsewhere {
            Some(elsewhere) => Err(elsewhere.refusal(&self.id)),
            None => Ok(()),
        }
    }

    /// The task, when a process exists.
    ///
    /// # Errors
    /// `Conflict` in Docker's words when it does not run, or is not of this backend.
    pub(crate) fn task(&self) -> Result<Arc<dyn backend::Task>, EngineError> {
        self.here()?;
        let running = matches!(self.snapshot.borrow().phase, Phase::Running | Phase::Paused);
        let task = if running { self.run().task.clone() } else { None };
        task.ok_or_else(|| EngineError::conflict(format!("container {} is not running", self.id)))
    }

    /// The task, when its processes are not frozen either.
    ///
    /// # Errors
    /// `Conflict` in Docker's words.
    pub(crate) fn thawed_task(&self) -> Result<Arc<dyn backend::Task>, EngineError> {
        self.here()?;
        if self.snapshot.borrow().phase == Phase::Paused {
            return Err(EngineError::conflict(format!(
                "container {} is paused, unpause the container before exec",
                self.id
            )));
        }
        self.task()
    }

    /// Posts an event that nobody waits for.
    pub(crate) async fn post(&self, event: Event) {
        // The actor ends only when the container is gone.
        let _ = self.mailbox.send(Message::Event(event, None)).await;
    }

    /// Posts an event and waits for the state machine's verdict, not for effects.
    pub(crate) async fn ask(&self, event: Event) -> Result<(), EngineError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Event(event, Some(reply))).await?;
        match answer.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refused)) => Err(self.refusal(refused)),
            Err(_) => Err(self.gone()),
        }
    }

    pub(crate) async fn send(&self, message: Message) -> Result<(), EngineError> {
        self.mailbox.send(message).await.map_err(|_| self.gone())
    }

    pub(crate) fn gone(&self) -> EngineError {
        EngineError::no_such_container(self.id.as_str())
    }

    /// A refusal in Docker's words.
    pub(crate) fn refusal(&self, refused: Refused) -> EngineError {
        let id = &self.id;
        let name = self.view().name.clone();
        match refused {
            Refused::AlreadyRunning => EngineError::new(
                ErrorKind::NotModified,
                format!("container {id} is already running"),
            ),
            Refused::Starting => {
                EngineError::new(ErrorKind::NotModified, format!("container {id} is being started"))
            }
            Refused::Paused => EngineError::conflict(format!("container {id} is already paused")),
            Refused::NotRunning => EngineError::conflict(format!("container {id} is not running")),
            Refused::NotPaused => EngineError::conflict(format!("container {id} is not paused")),
            Refused::Removing => EngineError::conflict(format!(
                "container is marked for removal and cannot be started: {id}"
            )),
            Refused::Elsewhere => match self.here() {
                Err(refusal) => refusal,
                Ok(()) => EngineError::conflict(format!("container {id} is of another backend")),
            },
            Refused::RunningNotForced => EngineError::conflict(format!(
                "cannot remove container \"/{name}\": container is running: stop the container \
                 before removing or force remove"
            )),
        }
    }
}
