//! Stop, kill, restart, pause: what a user asks of a running container.
//!
//! Each runs to its end although the client leaves. None waits in the actor's way: the intent is
//! posted, the signal sent over the task that the handle keeps, and the end is watched for.

use std::sync::Arc;
use std::time::Duration;

use pouch_types::{Classified, ErrorKind, Signal};

use crate::api::{RemoveOptions, StopOptions, WaitCondition, WaitResult, Waiting};
use crate::container::actor::{Message, Volumes};
use crate::container::state::{Event, Force, Phase};
use crate::container::{Container, Snapshot};
use crate::engine::Inner;
use crate::{Engine, EngineError};

/// Time that a process gets to vanish after SIGKILL.
const KILL_PATIENCE: Duration = Duration::from_secs(12);
/// Time for starting a container, all stages together; each stage has its own limit below it.
const START_PATIENCE: Duration = Duration::from_secs(180);
/// Time for a removal once its container has ended.
const REMOVE_PATIENCE: Duration = Duration::from_secs(120);

impl Engine {
    /// Starts a container and returns when its process runs.
    ///
    /// # Errors
    /// `NotModified` when it runs; otherwise why it could not be started.
    pub async fn start(&self, key: &str) -> Result<(), EngineError> {
        let container = self.find_free(key)?;
        start(&container).await
    }

    /// Stops a container: its signal first, SIGKILL after the timeout.
    ///
    /// # Errors
    /// `NotModified` when it does not run, `DeadlineExceeded` when SIGKILL has no effect.
    pub async fn stop(&self, key: &str, options: StopOptions) -> Result<(), EngineError> {
        let container = self.find_free(key)?;
        self.detached(stop(Arc::clone(&self.inner), container, options)).await
    }

    /// Stops a container that runs, and starts it.
    ///
    /// # Errors
    /// As stop and start.
    pub async fn restart(&self, key: &str, options: StopOptions) -> Result<(), EngineError> {
        let container = self.find_free(key)?;
        let inner = Arc::clone(&self.inner);
        self.detached(async move {
            match stop(Arc::clone(&inner), Arc::clone(&container), options).await {
                Err(error) if error.kind() != ErrorKind::NotModified => return Err(error),
                _ => {}
            }
            start(&container).await?;
            let view = container.view();
            inner.announce_container("restart", &view.id, crate::engine::view_attributes(&view));
            Ok(())
        })
        .await
    }

    /// Sends a signal. SIGKILL and the stop signal are a stop by the user: no restart follows.
    ///
    /// # Errors
    /// `Conflict` when it does not run.
    pub async fn kill(&self, key: &str, signal: Signal) -> Result<(), EngineError> {
        let container = self.find_free(key)?;
        let inner = Arc::clone(&self.inner);
        self.detached(async move {
            let task = container.task()?;
            let view = container.view();
            let mut attributes = crate::engine::view_attributes(&view);
            attributes.insert("signal".to_owned(), signal.number().to_string());
            if signal == Signal::KILL || signal == stop_signal(&view.spec) {
                container.ask(Event::StopRequested).await?;
            }
            inner.announce_container("kill", &view.id, attributes);
            if signal == Signal::KILL {
                return kill_and_wait(&container).await;
            }
            task.kill(signal)
                .await
                .map_err(|e| EngineError::wrap(format!("cannot kill container {}", view.id), e))
        })
        .await
    }

    /// Freezes a container.
    ///
    /// # Errors
    /// `Conflict` when it does not run or is frozen.
    pub async fn pause(&self, key: &str) -> Result<(), EngineError> {
        let container = self.find_free(key)?;
        self.detached(async move {
            container.here()?;
            if container.snapshot().phase == Phase::Paused {
                return Err(EngineError::conflict(format!(
                    "container {} is already paused",
                    container.id
                )));
            }
            let task = container.task()?;
            task.pause().await.map_err(|e| EngineError::wrap("cannot pause", e))?;
            container.ask(Event::Paused).await
        })
        .await
    }

    /// Lets a frozen container go on.
    ///
    /// # Errors
    /// `Conflict` when it is not frozen.
    pub async fn unpause(&self, key: &str) -> Result<(), EngineError> {
        let container = self.find_free(key)?;
        self.detached(async move {
            container.here()?;
            if container.snapshot().phase != Phase::Paused {
                return Err(EngineError::conflict(format!(
                    "container {} is not paused",
                    container.id
                )));
            }
            let task = container.task()?;
            task.resume().await.map_err(|e| EngineError::wrap("cannot unpause", e))?;
            container.ask(Event::Resumed).await
        })
        .await
    }

    /// Removes a container and returns when it is gone.
    ///
    /// # Errors
    /// `Conflict` when it runs and `force` is not set.
    pub async fn remove(&self, key: &str, options: RemoveOptions) -> Result<(), EngineError> {
        let container = self.find_free(key)?;
        let force = if options.force { Force::Yes } else { Force::No };
        let volumes = if options.volumes { Volumes::Remove } else { Volumes::Keep };
        remove(&container, force, volumes).await
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// `Conflict` when the name is taken.
    pub async fn rename(
        &self,
        key: &str,
        name: pouch_types::ContainerName,
    ) -> Result<(), EngineError> {
        let container = self.find_free(key)?;
        if let Some(holder) = self.inner.index.holder(&name) {
            return Err(super::create::name_in_use(&name, &holder));
        }
        let (reply, answer) = tokio::sync::oneshot::channel();
        container.send(Message::Rename(name, reply)).await?;
        answer.await.map_err(|_| container.gone())?
    }

    /// Registers a wait; what happens after this call is not missed.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn wait(&self, key: &str, condition: WaitCondition) -> Result<Waiting, EngineError> {
        let container = self.find(key)?;
        if container.view().state.is_running() {
            container.here()?;
        }
        let mut watch = container.watch();
        let ends = watch.borrow_and_update().ends;
        // The handle is held, so that the channel lives as long as somebody waits.
        Ok(Box::pin(async move {
            let over = |s: &Snapshot| match condition {
                WaitCondition::NotRunning => !matches!(
                    s.phase,
                    Phase::Starting | Phase::Running | Phase::Paused | Phase::Restarting
                ),
                WaitCondition::NextExit => s.ends > ends || s.phase == Phase::Gone,
                WaitCondition::Removed => matches!(s.phase, Phase::Gone | Phase::Dead),
            };
            let last = match watch.wait_for(over).await {
                Ok(snapshot) => snapshot.clone(),
                Err(_) => container.snapshot(),
            };
            let error = match (condition, last.phase) {
                (WaitCondition::Removed, Phase::Dead) => last.view.state.error.clone(),
                _ => String::new(),
            };
            WaitResult { exit_code: last.view.state.exit_code, error }
        }))
    }

    /// Runs a change to its end although its caller may leave.
    pub(crate) async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
    ) -> Result<T, EngineError> {
        match self.inner.tasks.spawn(work).await {
            Ok(result) => result,
            Err(error) => Err(EngineError::new(ErrorKind::Internal, error.to_string())),
        }
    }
}

/// Removes a container and returns when it is gone.
pub(crate) async fn remove(
    container: &Container,
    force: Force,
    volumes: Volumes,
) -> Result<(), EngineError> {
    let (reply, answer) = tokio::sync::oneshot::channel();
    container.send(Message::Remove(force, volumes, reply)).await?;
    match tokio::time::timeout(REMOVE_PATIENCE, answer).await {
        Ok(Ok(result)) => result,
        // The actor has ended: somebody else's removal was faster.
        Ok(Err(_)) => Ok(()),
        Err(_) => Err(hung("the removal", container, REMOVE_PATIENCE)),
    }
}

pub(crate) async fn start(container: &Container) -> Result<(), EngineError> {
    let (reply, answer) = tokio::sync::oneshot::channel();
    container.send(Message::Start(reply)).await?;
    match tokio::time::timeout(START_PATIENCE, answer).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(container.gone()),
        Err(_) => Err(hung("the start", container, START_PATIENCE)),
    }
}

/// The signal of an orderly stop.
fn stop_signal(spec: &pouch_types::spec::ContainerSpec) -> Signal {
    spec.stop_signal.unwrap_or(Signal::TERM)
}

pub(crate) async fn stop(
    engine: Arc<Inner>,
    container: Arc<Container>,
    options: StopOptions,
) -> Result<(), EngineError> {
    // Not `NotModified`, which it would be for one that does not run.
    container.here()?;
    let view = container.view();
    match container.ask(Event::StopRequested).await {
        Err(error) if error.kind() == ErrorKind::Conflict => {
            return Err(error.with_kind(ErrorKind::NotModified));
        }
        other => other?,
    }
    let mut watch = container.watch();
    // A start under way is let through first: a process can only be stopped once it is there.
    let settled = watch.wait_for(|s| s.phase != Phase::Starting);
    let hangs = tokio::time::timeout(START_PATIENCE, settled).await.is_err();
    if hangs {
        return Err(hung("the start before the stop", &container, START_PATIENCE));
    }
    let generation = container.snapshot().generation;
    let signal = options.signal.unwrap_or_else(|| stop_signal(&view.spec));
    let seconds =
        options.timeout.or(view.spec.stop_timeout).unwrap_or(engine.config.default_stop_timeout);
    let Ok(task) = container.task() else { return Ok(()) };
    let mut attributes = crate::engine::view_attributes(&view);
    attributes.insert("signal".to_owned(), signal.number().to_string());
    engine.announce_container("kill", &view.id, attributes);
    if let Err(error) = task.kill(signal).await {
        let error = pouch_types::error::chain(&error);
        tracing::debug!(container.id = %view.id, error, "the stop signal was not delivered");
    }
    let ended = watch.wait_for(|s| over(s, generation));
    let in_time = match u64::try_from(seconds) {
        Ok(seconds) => tokio::time::timeout(Duration::from_secs(seconds), ended).await.is_ok(),
        Err(_) => ended.await.is_ok(),
    };
    if !in_time {
        kill_and_wait(&container).await?;
    }
    engine.announce_container("stop", &view.id, crate::engine::view_attributes(&view));
    Ok(())
}

fn over(snapshot: &Snapshot, generation: u64) -> bool {
    snapshot.generation != generation || !matches!(snapshot.phase, Phase::Running | Phase::Paused)
}

async fn kill_and_wait(container: &Container) -> Result<(), EngineError> {
    let generation = container.snapshot().generation;
    let mut watch = container.watch();
    super::cleanup::kill(container, generation).await;
    let ended = watch.wait_for(|s| over(s, generation));
    match tokio::time::timeout(KILL_PATIENCE, ended).await {
        Ok(_) => Ok(()),
        Err(_) => Err(hung("the end after SIGKILL", container, KILL_PATIENCE)),
    }
}

fn hung(stage: &str, container: &Container, after: Duration) -> EngineError {
    EngineError::new(
        ErrorKind::DeadlineExceeded,
        format!(
            "{stage} of container {} did not finish within {} s",
            container.id,
            after.as_secs()
        ),
    )
}
