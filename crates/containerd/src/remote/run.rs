//! Runs of containers, as far as events need to find them.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use pouch_types::ContainerId;
use tokio::sync::watch;

/// One run of a container: from the making of its object in containerd to its removal.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: ContainerId,
    /// Our directory of the run, with `io.sock`.
    pub(crate) dir: PathBuf,
    /// An event of before is one of an earlier run.
    since: Timestamp,
    /// Of the main process; 0 before it exists.
    pid: AtomicU32,
    /// A task was asked for, so one may have to be deleted.
    tasked: AtomicBool,
    /// Execs whose end was not reported.
    execs: Mutex<BTreeSet<String>>,
    /// The end of the main process was reported.
    ended: watch::Sender<bool>,
}

/// Whether an event is news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    Yes,
    /// It was reported before, or is of an earlier run.
    No,
}

impl Run {
    pub(crate) fn new(id: ContainerId, dir: PathBuf) -> Self {
        Self {
            id,
            dir,
            since: Timestamp::now(),
            pid: AtomicU32::new(0),
            tasked: AtomicBool::new(false),
            execs: Mutex::default(),
            ended: watch::Sender::new(false),
        }
    }

    /// A run that an earlier daemon made: `since` it was made, `pid` as listed.
    pub(crate) fn loaded(id: ContainerId, dir: PathBuf, since: Timestamp, pid: u32) -> Self {
        let tasked = AtomicBool::new(true);
        Self { since, pid: AtomicU32::new(pid), tasked, ..Self::new(id, dir) }
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
        self.tasked.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_tasked(&self) -> bool {
        self.tasked.load(Ordering::Relaxed)
    }

    /// Takes note of the end of the main process. containerd gives pid 0 when it does not know.
    pub(crate) fn end(&self, pid: u32, at: Timestamp) -> News {
        let own = self.pid();
        let other = if own == 0 { at < self.since } else { pid != 0 && pid != own };
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
        let run = Run::new(id(), "/d".into());
        let now = Timestamp::now();
        let earlier = run.since - jiff::SignedDuration::from_secs(1);
        assert_eq!(run.end(7, earlier), News::No, "a late end of the run before");
        run.set_pid(42);
        assert_eq!(run.end(7, now), News::No, "another process");
        assert!(!run.has_ended());
        assert_eq!(run.end(42, earlier), News::Yes, "the process decides, not the clock");
        assert_eq!(run.end(42, now), News::No);
        let run = Run::loaded(id(), "/d".into(), now, 42);
        assert_eq!(run.end(0, now), News::Yes, "the shim died with its knowledge");
    }

    #[test]
    fn a_new_run_is_not_forgotten_for_the_old_one() {
        let runs = Runs::default();
        let old = Arc::new(Run::new(id(), "/d".into()));
        let new = Arc::new(Run::new(id(), "/d".into()));
        runs.insert(Arc::clone(&old));
        runs.insert(Arc::clone(&new));
        runs.remove(&old);
        assert!(Arc::ptr_eq(&runs.get(id().as_str()).unwrap(), &new));
        assert!(runs.get("not an id").is_none());
        runs.remove(&new);
        assert!(runs.all().is_empty());
    }
}
