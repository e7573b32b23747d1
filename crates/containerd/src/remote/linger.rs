//! Container objects whose task is deleted and that are about to be.
//!
//! A restart removes an object and makes the same one again at once. So an object stays for a
//! moment, in which a new run takes it over with one call instead of two.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pouch_types::ContainerId;

use super::Shared;
use super::container::{OfRuntime, remove_container};
use super::strays::Strays;

/// How long: a restart follows within milliseconds.
const MOMENT: Duration = Duration::from_millis(250);

#[derive(Debug)]
struct Object {
    runtime: OfRuntime,
    ticket: u64,
}

#[derive(Debug, Default)]
struct Inner {
    objects: HashMap<ContainerId, Object>,
    tickets: u64,
}

/// The set of them.
#[derive(Debug, Default)]
pub(crate) struct Lingering(Mutex<Inner>);

impl Lingering {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the object of `id` in a moment, unless it is taken over.
    pub(crate) fn add(shared: &Arc<Shared>, id: ContainerId, runtime: OfRuntime) {
        let ticket = {
            let mut inner = shared.lingering.lock();
            inner.tickets += 1;
            let ticket = inner.tickets;
            inner.objects.insert(id.clone(), Object { runtime, ticket });
            ticket
        };
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            tokio::time::sleep(MOMENT).await;
            {
                let mut inner = shared.lingering.lock();
                if inner.objects.get(&id).is_none_or(|object| object.ticket != ticket) {
                    return;
                }
                inner.objects.remove(&id);
            }
            remove(&shared, id).await;
        });
    }

    /// Removes all of them now.
    pub(crate) async fn finish(shared: &Arc<Shared>) {
        let objects = std::mem::take(&mut shared.lingering.lock().objects);
        for id in objects.into_keys() {
            remove(shared, id).await;
        }
    }

    /// Whether `id` has an object of that runtime, which is then the caller's. One of another
    /// runtime cannot be changed; it is the caller's to remove.
    pub(crate) fn take(&self, id: &ContainerId, runtime: &OfRuntime) -> Taken {
        match self.lock().objects.remove(id) {
            Some(object) if object.runtime == *runtime => Taken::Object,
            Some(_) | None => Taken::Nothing,
        }
    }

    pub(crate) fn contains(&self, id: &ContainerId) -> bool {
        self.lock().objects.contains_key(id)
    }
}

async fn remove(shared: &Arc<Shared>, id: ContainerId) {
    if let Err(error) = remove_container(shared, &id).await {
        let error = pouch_types::error::chain(&error);
        tracing::warn!(container.id = %id, error, "an object stays in containerd for now");
        Strays::add(shared, id);
    }
}

/// What [`Lingering::take`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// An object to be changed.
    Object,
    /// None that can be used.
    Nothing,
}
