//! One operation at a time on one attachment; others go on beside it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

type Key = (String, String);

/// The attachments that somebody works on, or waits for.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    held: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
}

/// While it lives, nobody else works on the attachment.
#[derive(Debug)]
pub(crate) struct Held {
    locks: Arc<Locks>,
    key: Key,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Locks {
    /// Waits its turn, first come first served. Cancel-safe. Each operation has deadlines of its
    /// own, so that the wait ends.
    pub(crate) async fn hold(self: &Arc<Self>, id: &str, ifname: &str) -> Held {
        let key = (id.to_owned(), ifname.to_owned());
        let lock = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(held.entry(key.clone()).or_default())
        };
        let mut held = Held { locks: Arc::clone(self), key, guard: None };
        held.guard = Some(lock.lock_owned().await);
        held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.guard = None;
        let mut held = self.locks.held.lock().unwrap_or_else(PoisonError::into_inner);
        // Only the table has it: nobody waits.
        if held.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            held.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_nothing_is_left() {
        let locks = Arc::new(Locks::default());
        let first = locks.hold("a", "eth0").await;
        let other = locks.hold("b", "eth0").await;
        let waiting = tokio::spawn({
            let locks = Arc::clone(&locks);
            async move { drop(locks.hold("a", "eth0").await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
        drop(other);
        assert!(locks.held.lock().unwrap().is_empty());
    }
}
