//! The one stream of events, and what makes up for its gaps.
//!
//! containerd repeats nothing and sends nothing back when a subscription begins, so each
//! connection publishes a mark of its own: once the mark comes back, nothing is missed from here
//! on. Then the tasks are listed and compared with the runs that are known. Between connections the
//! loop waits with growing pauses; calls meanwhile fail on their own account.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use pouch_containerd_grpc::events::{
    Envelope, NamespaceUpdate, PublishRequest, SubscribeRequest, TaskExit, TaskOom,
};
use pouch_containerd_grpc::images::{ImageCreate, ImageDelete};
use pouch_containerd_grpc::tasks::{GetRequest, Process, Status};
use pouch_containerd_grpc::{Message, Request, Streaming, any, to_jiff};
use pouch_types::{Classified as _, ContainerId, ErrorKind};
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::call::{Call, QUICK};
use super::container::exit_status;
use super::images::{Naming, image_mark};
use super::run::{News, Run};
use super::strays::Strays;
use crate::{Error, Event, ExitStatus, Result};

/// The first and the longest pause between attempts to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Head start of the subscription before its mark; one that was too early is repeated after
/// [`REMARK`].
const HEAD_START: Duration = Duration::from_millis(30);
/// See [`HEAD_START`].
const REMARK: Duration = Duration::from_millis(250);
/// Time for a mark to come back.
const MARKED: Duration = Duration::from_secs(10);
/// Topic of ends.
const EXIT: &str = "/tasks/exit";
/// Topic of kills for memory.
const OOM: &str = "/tasks/oom";
/// Topics of names of images.
const IMAGES: [&str; 3] = ["/images/create", "/images/update", IMAGE_GONE];
/// See [`IMAGES`].
const IMAGE_GONE: &str = "/images/delete";
/// What our marks are published as; a type that everybody can decode.
const MARK_TYPE: &str = "containerd.events.NamespaceUpdate";
/// Exit code of an exec whose end nobody knows any more.
const UNKNOWN_CODE: i32 = 255;

/// Feeds `events` until nobody receives them. `first` is told how the first connection went: made,
/// or refused by a server that answers. One that does not answer is tried again.
pub(crate) async fn run(
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
    first: oneshot::Sender<Result<()>>,
) {
    let mut feed = Feed { shared, events, first: Some(first) };
    let mut pause = PAUSES.0;
    // Said once per absence; what is tried in it is for who debugs.
    let mut told = false;
    loop {
        let gone = feed.events.clone();
        // Cancel-safe: a connection may be dropped at any time.
        let ended = tokio::select! {
            () = gone.closed() => return,
            ended = feed.connection() => ended,
        };
        feed.shared.server().lost(match &ended {
            Ok(broken) => broken.clone(),
            Err(error) => error.to_string(),
        });
        match ended {
            Ok(_) => (pause, told) = (PAUSES.0, false),
            Err(error) if error.kind() != ErrorKind::Unavailable && feed.first.is_some() => {
                // The consumer that is told may have given up by now.
                let _ = feed.first.take().map(|first| first.send(Err(error)));
                return;
            }
            Err(error) if told => tracing::debug!(%error, "the events are still not heard"),
            Err(error) => {
                told = true;
                tracing::warn!(%error, "the events of containerd are not heard");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

enum Heard {
    Exit(TaskExit),
    Oom(TaskOom),
    ImageSet(ImageCreate),
    ImageGone(ImageDelete),
}

struct Feed {
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
    /// Whom to tell of the first connection.
    first: Option<oneshot::Sender<Result<()>>>,
}

impl Feed {
    /// One connection, from subscription to loss, with what ended it. An error is one before the
    /// stream was in use.
    async fn connection(&mut self) -> Result<String> {
        let mut stream = self.subscribe().await?;
        self.shared.server().found();
        if let Some(first) = self.first.take() {
            let _ = first.send(Ok(()));
            // Events wait in the stream until the runs of before are known.
            let mut loaded = self.shared.loaded.subscribe();
            let _ = loaded.wait_for(|yes| *yes).await;
        } else {
            tracing::info!("the events of containerd are heard again");
            self.shared.images.tell_all();
            // It may be another one than before.
            let version = super::ask_version(&self.shared.pool).await?;
            self.shared.server().version = version;
            self.reconcile().await?;
        }
        loop {
            match stream.message().await {
                Ok(Some(envelope)) => self.take(&envelope).await,
                Ok(None) => {
                    tracing::warn!("containerd ended the stream of events");
                    return Ok("it ended the stream of events".to_owned());
                }
                Err(status) => {
                    let error = status.message();
                    tracing::warn!(error, "the stream of events of containerd broke");
                    return Ok(error.to_owned());
                }
            }
        }
    }

    /// A stream that misses nothing from now on.
    async fn subscribe(&self) -> Result<Streaming<Envelope>> {
        let namespace = &self.shared.config.namespace;
        let mark = format!("/pouch/mark/{:x}", Timestamp::now().as_nanosecond());
        let filters = [EXIT, OOM, &mark]
            .into_iter()
            .chain(IMAGES)
            .map(|topic| format!("namespace==\"{namespace}\",topic==\"{topic}\""))
            .collect();
        let stage = "subscribe to events";
        let mut client = self.shared.pool.events();
        let work = async {
            self.shared.pool.connect().await.map_err(|status| Error::grpc(stage, &status))?;
            // No deadline for the server: it would end the stream.
            let subscribing = client.subscribe(Request::new(SubscribeRequest { filters }));
            let mut subscribing = std::pin::pin!(subscribing);
            let mut marking = std::pin::pin!(self.mark(&mark));
            // The answer begins with the first event. Cancel-safe: both go on where they were.
            let mut stream = tokio::select! {
                answer = &mut subscribing => {
                    answer.map_err(|status| Error::grpc(stage, &status))?.into_inner()
                }
                error = &mut marking => return Err(error),
            };
            // What comes before the mark is in the lists that follow.
            loop {
                // Cancel-safe: a message is taken whole or not at all.
                let message = tokio::select! {
                    message = stream.message() => message,
                    error = &mut marking => return Err(error),
                };
                match message.map_err(|status| Error::grpc(stage, &status))? {
                    Some(envelope) if envelope.topic == mark => return Ok(stream),
                    Some(_) => {}
                    None => {
                        let message = "the stream ended".to_owned();
                        return Err(Error::Unreachable { stage, message });
                    }
                }
            }
        };
        tokio::time::timeout(MARKED, work).await.map_err(|_| {
            let message = format!("no answer within {} s", MARKED.as_secs());
            Error::Unreachable { stage, message }
        })?
    }

    /// Publishes the mark again and again; returns when that fails.
    async fn mark(&self, topic: &str) -> Error {
        let mut pause = HEAD_START;
        loop {
            tokio::time::sleep(pause).await;
            pause = REMARK;
            let call = Call { stage: "publish an event", container: "-", limit: QUICK };
            let name = self.shared.config.namespace.clone();
            let event = Some(any(MARK_TYPE, &NamespaceUpdate { name }));
            let request = call.request(PublishRequest { topic: topic.to_owned(), event });
            if let Err(error) = call.answer(self.shared.pool.events().publish(request)).await {
                return error;
            }
        }
    }

    async fn take(&self, envelope: &Envelope) {
        let Some(event) = &envelope.event else { return };
        let decoded = match envelope.topic.as_str() {
            EXIT => TaskExit::decode(&event.value[..]).map(Heard::Exit),
            OOM => TaskOom::decode(&event.value[..]).map(Heard::Oom),
            IMAGE_GONE => ImageDelete::decode(&event.value[..]).map(Heard::ImageGone),
            topic if IMAGES.contains(&topic) => {
                ImageCreate::decode(&event.value[..]).map(Heard::ImageSet)
            }
            _ => return,
        };
        match decoded {
            Ok(Heard::Exit(exit)) => self.exited(exit).await,
            Ok(Heard::ImageGone(gone)) => self.shared.images.tell(gone.name, Naming::Gone),
            Ok(Heard::ImageSet(set)) => {
                let (key, value) = image_mark(&self.shared.config.owner, &set.name);
                if set.labels.get(&key) != Some(&value) {
                    self.shared.images.tell(set.name, Naming::Set);
                }
            }
            Ok(Heard::Oom(oom)) => {
                if let Some(run) = self.shared.runs.get(&oom.container_id) {
                    if let Some(foreign) = &run.foreign {
                        foreign.oom.store(true, Ordering::Relaxed);
                    }
                    self.send(Event::Oom { container: run.id.clone() }).await;
                }
            }
            Err(error) => {
                tracing::warn!(topic = envelope.topic, %error, "undecodable event of containerd");
            }
        }
    }

    async fn exited(&self, exit: TaskExit) {
        let Some(run) = self.shared.runs.get(&exit.container_id) else { return };
        let status = ExitStatus {
            code: i32::try_from(exit.exit_status).unwrap_or(255),
            at: exit.exited_at.as_ref().and_then(to_jiff).unwrap_or_else(Timestamp::now),
            // Our shim says so in the exit file.
            oom_killed: false,
        };
        let exec = (exit.id != exit.container_id).then_some(exit.id);
        self.report(&run, exec, exit.pid, status).await;
    }

    async fn report(&self, run: &Run, exec: Option<String>, pid: u32, status: ExitStatus) {
        let news = match &exec {
            None => run.end(pid, status.at),
            Some(exec) => run.end_exec(exec),
        };
        if news == News::Yes {
            let status = if exec.is_none() { run.record(status).await } else { status };
            let event = Event::Exit { container: run.id.clone(), exec, pid, status };
            if run.starting.try_write().is_ok() {
                return self.send(event).await;
            }
            // The others' events need not wait for that start, which has a deadline.
            let (starting, events) = (Arc::clone(&run.starting), self.events.clone());
            tokio::spawn(async move {
                drop(starting.write().await);
                let _ = events.send(event).await;
            });
        }
    }

    async fn send(&self, event: Event) {
        // Closed only when the daemon ends.
        let _ = self.events.send(event).await;
    }

    /// After a gap: finds what ended meanwhile, and what is left of removals that failed.
    async fn reconcile(&self) -> Result<()> {
        let (containers, tasks) =
            tokio::join!(self.shared.list_containers(), self.shared.list_tasks());
        let (containers, tasks) = (containers?, tasks?);
        for run in self.shared.runs.all() {
            // One that is being made finds out itself.
            if run.pid() == 0 || run.has_ended() {
                continue;
            }
            let task = tasks.iter().find(|task| task.id == run.id.as_str());
            self.compare(&run, task).await?;
        }
        for container in containers {
            if self.shared.runs.get(&container.id).is_none()
                && let Ok(id) = container.id.parse::<ContainerId>()
                && !self.shared.lingering.contains(&id)
            {
                Strays::add(&self.shared, id);
            }
        }
        Ok(())
    }

    async fn compare(&self, run: &Run, task: Option<&Process>) -> Result<()> {
        match task.map(|task| (task, task.status())) {
            None => {
                tracing::warn!(container.id = %run.id, "containerd has lost the task");
                self.send(Event::Lost { container: run.id.clone() }).await;
            }
            Some((task, Status::Stopped)) => {
                self.report(run, None, task.pid, exit_status(task)).await;
            }
            // A hung shim may still answer.
            Some((_, Status::Unknown)) => {}
            Some((_, Status::Created | Status::Running | Status::Paused | Status::Pausing)) => {
                for exec in run.execs() {
                    self.compare_exec(run, exec).await?;
                }
            }
        }
        Ok(())
    }

    async fn compare_exec(&self, run: &Run, exec: String) -> Result<()> {
        let call = Call { stage: "look at an exec", container: run.id.as_str(), limit: QUICK };
        let message = GetRequest { container_id: run.id.to_string(), exec_id: exec.clone() };
        let answer = call.answer(self.shared.pool.tasks().get(call.request(message))).await;
        let status = match answer.map(|answer| answer.process) {
            Ok(Some(process)) if process.status() == Status::Stopped => exit_status(&process),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                ExitStatus { code: UNKNOWN_CODE, at: Timestamp::now(), oom_killed: false }
            }
            Err(error @ Error::Unreachable { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!(container.id = %run.id, exec, %error, "an exec is not known");
                return Ok(());
            }
        };
        self.report(run, Some(exec), 0, status).await;
        Ok(())
    }
}
