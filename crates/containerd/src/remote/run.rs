//! Runs of containers, as far as events need to find them.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::Timestamp;
use pouch_types::ContainerId;
use tokio::sync::{RwLock, watch};

use super::exit_file::Recorder;
use super::keeper::Keeper;
use crate::ExitStatus;

/// One run of a container: from the making of its object in containerd to its removal.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: ContainerId,
    /// Our directory of the run, with `io.sock`.
    pub(crate) dir: PathBuf,
    /// What a foreign shim does not do; `None` with ours.
    pub(crate) foreign: Option<Foreign>,
    /// When a task was asked for: from then on one may have to be deleted, and an end of before is
    /// one of an earlier run.
    tasked: OnceLock<Timestamp>,
    /// Of the main process; 0 before it is known.
    pid: AtomicU32,
    /// Read as long as a start is being answered. containerd answers one by asking the shim once
    /// more, so an end is not told before, lest the process be deleted in between.
    pub(crate) starting: Arc<RwLock<()>>,
    /// Execs whose end was not reported.
    execs: Mutex<BTreeSet<String>>,
    /// The end of the main process was reported.
    ended: watch::Sender<bool>,
}

/// What is done here for a container whose shim is not ours.
#[derive(Debug)]
pub(crate) struct Foreign {
    /// Holds its streams.
    pub(crate) keeper: Keeper,
    /// Records its end.
    pub(crate) recorder: Recorder,
    /// The kernel killed a process of it for memory.
    pub(crate) oom: AtomicBool,
}

/// Whether an event is news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    Yes,
    /// It was reported before, or is of an earlier run.
    No,
}

impl Run {
    /// `recorder` is of a run below a foreign shim.
    pub(crate) fn new(id: ContainerId, dir: PathBuf, recorder: Option<Recorder>) -> Self {
        let foreign = recorder.map(|recorder| Foreign {
            keeper: Keeper::of(&id, &dir),
            recorder,
            oom: AtomicBool::new(false),
        });
        Self {
            id,
            dir,
            foreign,
            tasked: OnceLock::new(),
            pid: AtomicU32::new(0),
            starting: Arc::default(),
            execs: Mutex::default(),
            ended: watch::Sender::new(false),
        }
    }

    /// A run that an earlier daemon made: `since` it was made, `pid` as listed.
    pub(crate) fn loaded(self, since: Timestamp, pid: u32) -> Self {
        Self { tasked: OnceLock::from(since), pid: AtomicU32::new(pid), ..self }
    }

    /// Records the end of the main process where its shim does not, before anybody is told.
    pub(crate) async fn record(&self, mut status: ExitStatus) -> ExitStatus {
        let Some(foreign) = &self.foreign else { return status };
        status.oom_killed |= foreign.oom.load(Ordering::Relaxed);
        let (recorder, pid) = (foreign.recorder.clone(), self.pid());
        let written = tokio::task::spawn_blocking(move || recorder.write(pid, status)).await;
        if let Err(error) | Ok(Err(error)) = written.map_err(std::io::Error::other) {
            tracing::error!(container.id = %self.id, %error, "the exit file is not written");
        }
        status
    }

    pub(crate) fn io_socket(&self) -> PathBuf {
        self.dir.join("io.sock")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    pub(crate) fn set_pid(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    pub(crate) fn set_tasked(&self) {
        // The first one counts.
        let _ = self.tasked.set(Timestamp::now());
    }

    pub(crate) fn is_tasked(&self) -> bool {
        self.tasked.get().is_some()
    }

    /// Takes note of the end of the main process. containerd gives pid 0 when it does not know.
    pub(crate) fn end(&self, pid: u32, at: Timestamp) -> News {
        let own = self.pid();
        let other = match own {
            0 => self.tasked.get().is_none_or(|tasked| at < *tasked),
            own => pid != 0 && pid != own,
        };
        if !other && !self.ended.send_replace(true) { News::Yes } else { News::No }
    }

    pub(crate) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits for the report of the end.
    pub(crate) async fn ended(&self) {
        // The sender lives in self.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    fn lock_execs(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add_exec(&self, id: &str) {
        self.lock_execs().insert(id.to_owned());
    }

    /// Takes note of the end of an exec.
    pub(crate) fn end_exec(&self, id: &str) -> News {
        if self.lock_execs().remove(id) { News::Yes } else { News::No }
    }

    pub(crate) fn execs(&self) -> Vec<String> {
        self.lock_execs().iter().cloned().collect()
    }
}

/// All runs.
#[derive(Debug, Default)]
pub(crate) struct Runs(Mutex<HashMap<ContainerId, Arc<Run>>>);

impl Runs {
    fn lock(&self) -> MutexGuard<'_, HashMap<ContainerId, Arc<Run>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, run: Arc<Run>) {
        self.lock().insert(run.id.clone(), run);
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<Run>> {
        self.lock().get(&id.parse::<ContainerId>().ok()?).cloned()
    }

    /// Forgets `run`, unless another one of the container has taken its place.
    pub(crate) fn remove(&self, run: &Arc<Run>) {
        let mut runs = self.lock();
        if runs.get(&run.id).is_some_and(|found| Arc::ptr_eq(found, run)) {
            runs.remove(&run.id);
        }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Run>> {
        self.lock().values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> ContainerId {
        "a".repeat(64).parse().unwrap()
    }

    #[test]
    fn an_end_is_reported_once_and_only_of_this_run() {
        let run = Run::new(id(), "/d".into(), None);
        assert_eq!(run.end(7, Timestamp::now()), News::No, "there is no task yet");
        run.set_tasked();
        let now = Timestamp::now();
        let earlier = now - jiff::SignedDuration::from_secs(1);
        assert_eq!(run.end(7, earlier), News::No, "a late end of the run before");
        run.set_pid(42);
        assert_eq!(run.end(7, now), News::No, "another process");
        assert!(!run.has_ended());
        assert_eq!(run.end(42, earlier), News::Yes, "the process decides, not the clock");
        assert_eq!(run.end(42, now), News::No);
        let run = Run::new(id(), "/d".into(), None).loaded(now, 42);
        assert_eq!(run.end(0, now), News::Yes, "the shim died with its knowledge");
    }

    #[test]
    fn a_new_run_is_not_forgotten_for_the_old_one() {
        let runs = Runs::default();
        let old = Arc::new(Run::new(id(), "/d".into(), None));
        let new = Arc::new(Run::new(id(), "/d".into(), None));
        runs.insert(Arc::clone(&old));
        runs.insert(Arc::clone(&new));
        runs.remove(&old);
        assert!(Arc::ptr_eq(&runs.get(id().as_str()).unwrap(), &new));
        assert!(runs.get("not an id").is_none());
        runs.remove(&new);
        assert!(runs.all().is_empty());
    }
}
