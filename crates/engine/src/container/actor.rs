//! The task that owns a container's record: takes messages one by one, steps the state machine,
//! persists, publishes, runs effects.
//!
//! Durable writes of a run: one before its process may run (the start effect awaits the commit
//! just before it lets the process go), one after its exit (nobody waits for it: the shim's exit
//! file is durable already), one for its removal, which is also the exit's when `--rm` is set.

use std::sync::Arc;

use jiff::Timestamp;
use pouch_store::{Commit, StoreError};
use pouch_types::spec::ContainerSpec;
use pouch_types::{ContainerName, ErrorKind};
use tokio::sync::{mpsc, oneshot};

use super::record::Record;
use super::state::{Announcement, Effect, Event, Exit, Force, Phase, Refused, Rules, State};
use super::{Container, Snapshot};
use crate::elsewhere::{self, Elsewhere, Seen};
use crate::engine::Inner;
use crate::lifecycle::{cleanup, remove, start};
use crate::view::{ContainerView, EndpointView, Health, HealthStatus, StateView, Status};
use crate::{EngineError, failpoint};

pub(crate) type Reply<T> = oneshot::Sender<Result<T, EngineError>>;

/// What an actor is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// An event for the state machine; the reply is its verdict.
    Event(Event, Option<oneshot::Sender<Result<(), Refused>>>),
    /// Start, and answer when the process runs or the start has failed.
    Start(Reply<()>),
    /// A start effect has ended.
    StartDone { generation: u64, result: Result<Started, EngineError> },
    /// Remove, and answer when it is gone.
    Remove(Force, Volumes, Reply<()>),
    /// Give it another name.
    Rename(ContainerName, Reply<()>),
    /// Replace what it is to be (limits, restart policy).
    Respec(Box<ContainerSpec>, Reply<()>),
    /// The health probe's verdict of a run.
    Health(u64, Health),
    /// An exec began or ended.
    Exec(pouch_types::ExecId),
    /// What can be seen now of a run that the other backend holds.
    Seen(Seen),
}

/// Whether anonymous volumes go with the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Volumes {
    Remove,
    Keep,
}

/// A start that succeeded.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: u32,
    pub(crate) at: Timestamp,
    pub(crate) endpoints: Vec<EndpointView>,
    pub(crate) sandbox_key: Option<std::path::PathBuf>,
}

/// What is known of a run besides its state, and lost with it.
#[derive(Debug, Default)]
pub(crate) struct Volatile {
    pub(crate) endpoints: Vec<EndpointView>,
    pub(crate) sandbox_key: Option<std::path::PathBuf>,
    pub(crate) health: Option<Health>,
    pub(crate) execs: Vec<pouch_types::ExecId>,
    /// Set for as long as this daemon serves, when the other backend holds the run.
    pub(crate) elsewhere: Option<Elsewhere>,
}

pub(crate) struct Actor {
    engine: Arc<Inner>,
    container: Arc<Container>,
    record: Record,
    volatile: Volatile,
    ends: u64,
    remove_volumes: Volumes,
    starting: Vec<Reply<()>>,
    removing: Vec<Reply<()>>,
}

impl Record {
    pub(crate) fn rules(&self) -> Rules {
        Rules { restart: self.spec.restart, auto_remove: self.spec.auto_remove }
    }
}

/// Makes the handle of `record` and starts its actor.
pub(crate) fn spawn(engine: &Arc<Inner>, record: Record, volatile: Volatile) -> Arc<Container> {
    let dir = engine.config.container_dir(&record.id);
    let snapshot = snapshot(engine, &record, &volatile, 0);
    let (container, mailbox) = Container::new(record.id.clone(), dir, snapshot);
    let actor = Actor {
        engine: Arc::clone(engine),
        container: Arc::clone(&container),
        record,
        volatile,
        ends: 0,
        remove_volumes: Volumes::Keep,
        starting: Vec::new(),
        removing: Vec::new(),
    };
    tokio::spawn(actor.run(mailbox));
    container
}

fn snapshot(engine: &Inner, record: &Record, volatile: &Volatile, ends: u64) -> Snapshot {
    let state = &record.state;
    let dir = engine.config.container_dir(&record.id);
    let (path, args) = record
        .argv
        .split_first()
        .map_or_else(Default::default, |(path, args)| (path.clone(), args.to_vec()));
    let elsewhere = volatile.elsewhere.clone();
    let mut spec = record.spec.clone();
    let (phase, state_view) = match &elsewhere {
        None => (state.phase, state_view(state, volatile.health.clone())),
        Some(elsewhere) => {
            spec.labels.insert(elsewhere::LABEL.to_owned(), elsewhere.backend.to_string());
            from_outside(state, elsewhere)
        }
    };
    Snapshot {
        phase,
        generation: state.generation,
        ends,
        view: Arc::new(ContainerView {
            id: record.id.clone(),
            name: record.name.clone(),
            created: record.created,
            spec: Arc::new(spec),
            image: record.image.clone(),
            path,
            args,
            state: state_view,
            restart_count: state.restart_count,
            endpoints: volatile.endpoints.clone(),
            sandbox_key: volatile.sandbox_key.clone(),
            mounts: record.mounts.clone(),
            log_path: crate::logs::path(&dir, &record.id, &record.spec.log),
            upper_dir: engine.snapshots.upper_path(&record.id),
            dir,
            execs: volatile.execs.clone(),
            elsewhere,
        }),
    }
}

fn state_view(state: &State, health: Option<Health>) -> StateView {
    let status = match state.phase {
        // Docker has no word for a start under way: it shows where it came from.
        Phase::Starting if state.restart_count > 0 => Status::Restarting,
        Phase::Starting if state.started_at.is_some() => Status::Exited,
        Phase::Created | Phase::Starting => Status::Created,
        Phase::Running => Status::Running,
        Phase::Paused => Status::Paused,
        Phase::Exited => Status::Exited,
        Phase::Restarting => Status::Restarting,
        Phase::Removing | Phase::Gone => Status::Removing,
        Phase::Dead => Status::Dead,
    };
    let running = matches!(state.phase, Phase::Running | Phase::Paused);
    let exit = state.exit.filter(|_| !running);
    StateView {
        status,
        pid: state.pid,
        exit_code: exit.map_or(0, |e| e.code),
        error: state.error.clone(),
        oom_killed: exit.is_some_and(|e| e.oom_killed),
        started_at: state.started_at,
        finished_at: state.exit.map(|e| e.at),
        health: health.filter(|_| running),
    }
}

/// Phase and state of a container that the other backend holds.
fn from_outside(state: &State, elsewhere: &Elsewhere) -> (Phase, StateView) {
    let runs = matches!(state.phase, Phase::Running | Phase::Paused | Phase::Starting);
    let mut seen = state.clone();
    match elsewhere.seen {
        Seen::Running if runs && state.phase == Phase::Paused => {}
        Seen::Running if runs => seen.phase = Phase::Running,
        // Its end was taken note of before, and what is left of it was not removed.
        Seen::Running => {}
        Seen::Ended(exit) => (seen.phase, seen.exit) = (Phase::Exited, Some(exit)),
        Seen::Lost if runs => {
            seen.phase = Phase::Exited;
            seen.exit = Some(Exit { code: 255, at: Timestamp::now(), oom_killed: false });
        }
        Seen::Lost => {}
    }
    if !matches!(seen.phase, Phase::Running | Phase::Paused) {
        seen.pid = 0;
    }
    let view = StateView { error: elsewhere.explain(), ..state_view(&seen, None) };
    (seen.phase, view)
}

impl Actor {
    async fn run(mut self, mut mailbox: mpsc::Receiver<Message>) {
        while let Some(message) = mailbox.recv().await {
            self.handle(message).await;
            if self.record.state.phase == Phase::Gone {
                break;
            }
        }
        for reply in self.starting.drain(..) {
            let _ = reply.send(Err(self.container.gone()));
        }
    }

    async fn handle(&mut self, message: Message) {
        let Some(message) = self.refuse_elsewhere(message) else { return };
        match message {
            Message::Event(event, reply) => {
                let verdict = self.step(event).await;
                if let Some(reply) = reply {
                    let _ = reply.send(verdict);
                }
            }
            Message::Start(reply) => match self.step(Event::Start).await {
                Ok(()) => self.starting.push(reply),
                Err(refused) => drop(reply.send(Err(self.container.refusal(refused)))),
            },
            Message::StartDone { generation, result } => self.start_done(generation, result).await,
            Message::Remove(force, volumes, reply) => {
                if volumes == Volumes::Remove {
                    self.remove_volumes = volumes;
                }
                match self.step(Event::Remove(force)).await {
                    Ok(()) => self.removing.push(reply),
                    Err(refused) => drop(reply.send(Err(self.container.refusal(refused)))),
                }
            }
            Message::Rename(name, reply) => drop(reply.send(self.rename(name).await)),
            Message::Respec(spec, reply) => {
                let before = std::mem::replace(&mut self.record.spec, *spec);
                let result = self.persist_now().await;
                if result.is_err() {
                    self.record.spec = before;
                }
                self.publish();
                drop(reply.send(result));
            }
            Message::Health(generation, health) => self.health(generation, health),
            Message::Exec(session) => {
                self.volatile.execs.retain(|id| *id != session);
                // Asked for now: the news of start and end may arrive in either order.
                if self.engine.execs.runs(&session) {
                    self.volatile.execs.push(session);
                }
                self.publish();
            }
            Message::Seen(seen) => {
                if let Some(elsewhere) = &mut self.volatile.elsewhere {
                    elsewhere.seen = seen;
                    self.publish();
                }
            }
        }
    }

    /// Answers what needs a run that the other backend holds. Its record stays as it is, but for
    /// what does not concern the run.
    fn refuse_elsewhere(&self, message: Message) -> Option<Message> {
        let Some(elsewhere) = &self.volatile.elsewhere else { return Some(message) };
        let refusal = || Err(elsewhere.refusal(&self.record.id));
        match message {
            Message::Event(_, reply) => {
                if let Some(reply) = reply {
                    let _ = reply.send(Err(Refused::Elsewhere));
                }
            }
            Message::Start(reply) | Message::Remove(_, _, reply) => drop(reply.send(refusal())),
            Message::StartDone { .. } | Message::Health(..) | Message::Exec(_) => {}
            Message::Rename(..) | Message::Respec(..) | Message::Seen(_) => return Some(message),
        }
        None
    }

    async fn step(&mut self, event: Event) -> Result<(), Refused> {
        let (next, effects) = self.record.state.step(event, self.record.rules())?;
        let before = std::mem::replace(&mut self.record.state, next);
        if ended(&before, &self.record.state) {
            self.ends += 1;
            self.volatile = Volatile::default();
        }
        self.record.revision += 1;
        let starts = effects.iter().any(|e| matches!(e, Effect::StartTask(_)));
        if starts {
            self.record.backend = Some(self.engine.backend.status().kind);
        }
        let commit = if starts { Some(self.submit().await) } else { None };
        if commit.is_none() && self.worth_keeping(&before) {
            self.persist_later().await;
        }
        if before.phase != Phase::Starting
            && before.phase != self.record.state.phase
            && matches!(self.record.state.phase, Phase::Running | Phase::Paused)
        {
            // Frozen or not is worth no durable write: who holds the run knows it, but a daemon
            // with the other backend cannot ask.
            self.write_copy();
        }
        self.publish();
        let mut commit = commit;
        for effect in effects {
            self.run_effect(effect, commit.take());
        }
        self.removal_ended();
        Ok(())
    }

    /// Whether a step is written down although no process starts by it.
    fn worth_keeping(&self, before: &State) -> bool {
        let now = &self.record.state;
        // With --rm the removal follows at once and is the one write.
        let rests = now.phase == Phase::Exited && !self.record.spec.auto_remove;
        (rests && before.phase != Phase::Exited)
            || now.phase == Phase::Dead
            || (now.phase == Phase::Created && before.phase == Phase::Starting)
    }

    fn run_effect(&self, effect: Effect, commit: Option<Result<Durable, StoreError>>) {
        let engine = Arc::clone(&self.engine);
        let container = Arc::clone(&self.container);
        match effect {
            Effect::StartTask(generation) => {
                let record = self.record.clone();
                self.engine.tasks.spawn(async move {
                    let result = match commit {
                        Some(Ok(durable)) => {
                            start::start(&engine, &container, &record, durable).await
                        }
                        Some(Err(error)) => Err(error.into()),
                        None => Err(EngineError::new(ErrorKind::Internal, "start without record")),
                    };
                    let message = Message::StartDone { generation, result };
                    let _ = container.send(message).await;
                });
            }
            Effect::KillTask(generation) => {
                self.engine.tasks.spawn(async move {
                    cleanup::kill(&container, generation).await;
                });
            }
            Effect::CleanUp(generation) => {
                self.engine.tasks.spawn(async move {
                    cleanup::clean_up(&engine, &container).await;
                    container.post(Event::Cleaned { generation }).await;
                });
            }
            Effect::Delay(generation, delay) => {
                // Nothing is half-done while it waits: the daemon's end need not wait for it.
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    container.post(Event::BackoffElapsed { generation }).await;
                });
            }
            Effect::RemoveAll => {
                let record = self.record.clone();
                let volumes =
                    if record.spec.auto_remove { Volumes::Remove } else { self.remove_volumes };
                self.engine.tasks.spawn(async move {
                    let event =
                        match remove::remove_all(&engine, &container, &record, volumes).await {
                            Ok(()) => Event::Removed,
                            Err(error) => {
                                let error = error.text();
                                tracing::error!(container.id = %record.id, error, "removal failed");
                                Event::RemoveFailed { error }
                            }
                        };
                    container.post(event).await;
                });
            }
            Effect::Announce(what) => self.announce(what),
        }
    }

    async fn start_done(&mut self, generation: u64, result: Result<Started, EngineError>) {
        let event = match &result {
            Ok(started) => {
                failpoint::hit("start:started");
                if generation == self.record.state.generation
                    && self.record.state.phase == Phase::Starting
                {
                    self.volatile.endpoints.clone_from(&started.endpoints);
                    self.volatile.sandbox_key.clone_from(&started.sandbox_key);
                    self.volatile.health = crate::health::initial(&self.record.spec);
                }
                Event::Started { generation, pid: started.pid, at: started.at }
            }
            Err(error) => Event::StartFailed {
                generation,
                code: start::exit_code(error),
                error: error.text(),
                at: Timestamp::now(),
            },
        };
        // Both events are always taken; a stale one changes nothing.
        let _ = self.step(event).await;
        if result.is_ok() && self.record.state.phase == Phase::Running {
            self.write_copy();
            crate::health::spawn(&self.engine, &self.container, &self.record.spec, generation);
        }
        let replies = self.starting.drain(..);
        match result {
            Ok(_) => replies.for_each(|reply| drop(reply.send(Ok(())))),
            Err(error) => {
                let kind = pouch_types::Classified::kind(&error);
                let text = error.text();
                replies.for_each(|reply| {
                    drop(reply.send(Err(EngineError::new(kind, text.clone()))));
                });
            }
        }
    }

    async fn rename(&mut self, name: ContainerName) -> Result<(), EngineError> {
        let before = std::mem::replace(&mut self.record.name, name.clone());
        if let Err(error) = self.persist_now().await {
            self.record.name = before;
            return Err(error);
        }
        self.engine.index.rename(&self.record.id, &before, name);
        self.publish();
        let mut attributes = self.attributes();
        attributes.insert("oldName".to_owned(), format!("/{before}"));
        self.engine.announce_container("rename", &self.record.id, attributes);
        Ok(())
    }

    fn health(&mut self, generation: u64, health: Health) {
        let current = generation == self.record.state.generation
            && matches!(self.record.state.phase, Phase::Running | Phase::Paused);
        if !current {
            return;
        }
        let before = self.volatile.health.as_ref().map(|h| h.status);
        let now = health.status;
        self.volatile.health = Some(health);
        self.publish();
        if before != Some(now) && now != HealthStatus::Starting {
            let action = format!("health_status: {}", now.as_str());
            self.engine.announce_container(action, &self.record.id, self.attributes());
        }
    }

    fn publish(&self) {
        let snapshot = snapshot(&self.engine, &self.record, &self.volatile, self.ends);
        self.container.publish(snapshot);
    }

    fn attributes(&self) -> std::collections::BTreeMap<String, String> {
        crate::engine::event_attributes(&self.record)
    }

    fn announce(&self, what: Announcement) {
        let mut attributes = self.attributes();
        let action = match what {
            Announcement::Start => "start",
            Announcement::Die => {
                let exit = self.record.state.exit;
                attributes.insert("exitCode".to_owned(), exit.map_or(0, |e| e.code).to_string());
                "die"
            }
            Announcement::Oom => "oom",
            Announcement::Pause => "pause",
            Announcement::Unpause => "unpause",
            Announcement::Destroy => "destroy",
        };
        self.engine.announce_container(action, &self.record.id, attributes);
    }

    /// Answers those who wait for the removal.
    fn removal_ended(&mut self) {
        let phase = self.record.state.phase;
        if phase == Phase::Gone {
            self.engine.index.remove(&self.record.id, &self.record.name);
        }
        if !matches!(phase, Phase::Gone | Phase::Dead) {
            return;
        }
        for reply in self.removing.drain(..) {
            let result = match phase {
                Phase::Gone => Ok(()),
                _ => Err(EngineError::new(
                    ErrorKind::Internal,
                    format!(
                        "cannot remove container {}: {}",
                        self.record.id, self.record.state.error
                    ),
                )),
            };
            let _ = reply.send(result);
        }
    }

    /// Queues the record's write and hands back the wait for its commit.
    async fn submit(&self) -> Result<Durable, StoreError> {
        let record = self.record.clone();
        let dir = self.container.dir.clone();
        let commit = self
            .engine
            .store
            .submit(move |tx| {
                record.update(tx)?;
                Ok::<_, StoreError>(record)
            })
            .await?;
        Ok(Durable { commit, dir })
    }

    async fn persist_later(&self) {
        match self.submit().await {
            Ok(durable) => {
                let id = self.record.id.clone();
                self.engine.tasks.spawn(async move {
                    if let Err(error) = durable.wait().await {
                        let error = pouch_types::error::chain(&error);
                        tracing::error!(container.id = %id, error, "cannot record the state");
                    }
                });
            }
            Err(error) => {
                tracing::error!(container.id = %self.record.id, %error, "cannot record the state");
            }
        }
    }

    async fn persist_now(&mut self) -> Result<(), EngineError> {
        self.record.revision += 1;
        let result = match self.submit().await {
            Ok(durable) => durable.wait().await,
            Err(error) => Err(error),
        };
        result.map_err(|error| {
            if error.is_unique_violation() {
                EngineError::conflict(format!(
                    "the container name \"/{}\" is already in use",
                    self.record.name
                ))
            } else {
                error.into()
            }
        })
    }

    /// Notes what is not worth a durable write beside the record.
    fn write_copy(&self) {
        if let Err(error) = crate::records::write_copy(&self.record, &self.container.dir) {
            tracing::warn!(container.id = %self.record.id, %error, "cannot write record.json");
        }
    }
}

/// A record on its way to the disk.
#[derive(Debug)]
pub(crate) struct Durable {
    commit: Commit<Record, StoreError>,
    dir: std::path::PathBuf,
}

impl Durable {
    /// Waits for the commit, then renews the copy beside the record.
    pub(crate) async fn wait(self) -> Result<(), StoreError> {
        let record = self.commit.wait().await?;
        // The copy is a help, not a promise: the container may even be gone by now.
        let _ = crate::records::write_copy(&record, &self.dir);
        Ok(())
    }
}

/// Whether a step was the end of a run or of an attempt to start one.
fn ended(before: &State, after: &State) -> bool {
    let active = |p| matches!(p, Phase::Starting | Phase::Running | Phase::Paused);
    active(before.phase) && !active(after.phase)
}
