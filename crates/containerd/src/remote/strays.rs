//! Objects in containerd that nobody holds any more: what could not be removed when it was due.
//!
//! A removal that failed because containerd is away is tried again until it succeeds or the id is
//! needed for a new run. While there are none, nothing runs here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pouch_types::ContainerId;

use super::Shared;
use super::container::remove_by_id;

/// The first and the longest pause between attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Held while a stray is being removed.
type Gate = Arc<tokio::sync::Mutex<()>>;

#[derive(Debug, Default)]
struct Inner {
    waiting: HashMap<ContainerId, Gate>,
    sweeping: bool,
}

/// The set of them.
#[derive(Debug, Default)]
pub(crate) struct Strays(Mutex<Inner>);

impl Strays {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an id back for a new run. An attempt to remove it that is under way ends first.
    pub(crate) async fn reclaim(&self, id: &ContainerId) {
        let gate = self.lock().waiting.remove(id);
        if let Some(gate) = gate {
            drop(gate.lock().await);
        }
    }

    /// Removes what containerd holds of `id`, now or as soon as it can be done.
    pub(crate) fn add(shared: &Arc<Shared>, id: ContainerId) {
        let mut inner = shared.strays.lock();
        inner.waiting.entry(id).or_default();
        if !std::mem::replace(&mut inner.sweeping, true) {
            tokio::spawn(sweep(Arc::clone(shared)));
        }
    }

    fn waiting(&self) -> Vec<(ContainerId, Gate)> {
        let mut inner = self.lock();
        inner.sweeping = !inner.waiting.is_empty();
        inner.waiting.iter().map(|(id, gate)| (id.clone(), Arc::clone(gate))).collect()
    }
}

async fn sweep(shared: Arc<Shared>) {
    let mut pause = PAUSES.0;
    loop {
        let waiting = shared.strays.waiting();
        if waiting.is_empty() {
            return;
        }
        for (id, gate) in waiting {
            let _removing = gate.lock().await;
            if !shared.strays.lock().waiting.contains_key(&id) {
                continue;
            }
            match remove_by_id(&shared, &id).await {
                Ok(()) => {
                    shared.strays.lock().waiting.remove(&id);
                    tracing::info!(container.id = %id, "removed what was left in containerd");
                    pause = PAUSES.0;
                }
                Err(error) => {
                    let error = pouch_types::error::chain(&error);
                    tracing::debug!(container.id = %id, error, "not removed from containerd yet");
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}
