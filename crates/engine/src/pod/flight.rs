//! Operations that are asked for again while they are under way: who comes later joins the one
//! that runs and gets its result. kubelet repeats what it has lost patience with, and must not be
//! told that its own first attempt is in the way.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pouch_types::{Classified as _, ErrorKind};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::EngineError;

/// A result that several callers get.
type Outcome<T> = Result<T, (ErrorKind, String)>;

/// What runs, by what it is about.
#[derive(Debug)]
pub(crate) struct Flights<K, T> {
    running: Mutex<HashMap<K, watch::Receiver<Option<Outcome<T>>>>>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self { running: Mutex::default() }
    }
}

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    fn running(&self) -> MutexGuard<'_, HashMap<K, watch::Receiver<Option<Outcome<T>>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins what runs for `key`, or runs `work`, to its end whoever leaves.
    pub(crate) async fn join<F>(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        key: K,
        work: impl FnOnce() -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, EngineError>> + Send + 'static,
    {
        let mut outcome = {
            let mut running = self.running();
            match running.get(&key) {
                Some(outcome) => outcome.clone(),
                None => {
                    let (sender, outcome) = watch::channel(None);
                    running.insert(key.clone(), outcome.clone());
                    let (flights, work) = (Arc::clone(self), work());
                    tasks.spawn(async move {
                        // Also when it panics: the key must not be taken for ever.
                        let done = Landing { flights, key };
                        let result = work.await.map_err(|e| (e.kind(), e.text()));
                        drop(done);
                        sender.send_replace(Some(result));
                    });
                    outcome
                }
            }
        };
        let result = outcome.wait_for(Option::is_some).await.ok().and_then(|o| o.clone());
        match result {
            Some(Ok(value)) => Ok(value),
            Some(Err((kind, text))) => Err(EngineError::new(kind, text)),
            None => Err(EngineError::new(ErrorKind::Internal, "the operation ended early")),
        }
    }
}

/// Frees the key.
struct Landing<K: Eq + Hash, T> {
    flights: Arc<Flights<K, T>>,
    key: K,
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        self.flights.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_second_caller_joins_and_a_later_one_begins_anew() {
        let flights = Arc::new(Flights::<u32, u32>::default());
        let tasks = TaskTracker::new();
        let runs = Arc::new(AtomicU32::new(0));
        let (go, gate) = watch::channel(false);
        let work = || {
            let (runs, mut gate) = (Arc::clone(&runs), gate.clone());
            async move {
                let _ = gate.wait_for(|open| *open).await;
                Ok(runs.fetch_add(1, Ordering::SeqCst))
            }
        };
        let both = async {
            tokio::join!(flights.join(&tasks, 1, work), flights.join(&tasks, 1, work), async {
                tokio::task::yield_now().await;
                go.send_replace(true);
            })
        };
        let (first, second, ()) = both.await;
        assert_eq!((first.unwrap(), second.unwrap()), (0, 0));
        assert_eq!(flights.join(&tasks, 1, work).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_panic_frees_the_key_and_is_an_error() {
        let flights = Arc::new(Flights::<u32, u32>::default());
        let tasks = TaskTracker::new();
        let panics = || async { panic!("as asked") };
        assert!(flights.join(&tasks, 1, panics).await.is_err());
        assert_eq!(flights.join(&tasks, 1, || async { Ok(7) }).await.unwrap(), 7);
    }
}
