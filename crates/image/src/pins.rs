//! Protection of digests from collection while an operation builds on them, and one worker per
//! digest however many want it.
//!
//! A pull first pins every digest that its image will need, then looks what is there. The
//! collector condemns a digest only when nobody pins it, and a pin waits for a condemned one to be
//! gone. So what was seen to be there stays there until the image's rows protect it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use pouch_types::Digest;
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard, watch};

use crate::progress::Amount;
use crate::registrar::Hold;

#[derive(Debug, Default)]
struct State {
    held: HashMap<Digest, usize>,
    condemned: HashSet<Digest>,
}

/// All pins of one image store.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    state: Mutex<State>,
    executed: Notify,
}

impl Pins {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the maps consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pins all of `digests` until the guard is dropped.
    pub(crate) async fn pin(self: &Arc<Self>, digests: impl IntoIterator<Item = Digest>) -> Pinned {
        let digests: Vec<Digest> = digests.into_iter().collect();
        loop {
            let executed = self.executed.notified();
            {
                let mut state = self.state();
                if !digests.iter().any(|d| state.condemned.contains(d)) {
                    for digest in &digests {
                        *state.held.entry(*digest).or_default() += 1;
                    }
                    break;
                }
            }
            executed.await;
        }
        Pinned { pins: Arc::clone(self), digests, hold: None }
    }

    /// Marks a digest for deletion, unless it is pinned or being deleted already.
    pub(crate) fn condemn(self: &Arc<Self>, digest: &Digest) -> Option<Condemned> {
        let mut state = self.state();
        if state.held.contains_key(digest) || !state.condemned.insert(*digest) {
            return None;
        }
        Some(Condemned { pins: Arc::clone(self), digest: *digest })
    }
}

/// Digests that stay. See [`Pins::pin`].
#[derive(Debug)]
pub(crate) struct Pinned {
    pins: Arc<Pins>,
    digests: Vec<Digest>,
    /// With a registrar: what keeps the work from its collector.
    pub(crate) hold: Option<Hold>,
}

impl Pinned {
    /// Ends it: what was made has its rows, or is of no use to anybody.
    pub(crate) fn release(mut self) {
        if let Some(hold) = self.hold.take() {
            hold.release();
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut state = self.pins.state();
        for digest in &self.digests {
            if let Some(count) = state.held.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    state.held.remove(digest);
                }
            }
        }
    }
}

/// A digest that is being deleted. See [`Pins::condemn`].
#[derive(Debug)]
pub(crate) struct Condemned {
    pins: Arc<Pins>,
    digest: Digest,
}

impl Drop for Condemned {
    fn drop(&mut self) {
        self.pins.state().condemned.remove(&self.digest);
        self.pins.executed.notify_waiters();
    }
}

/// Work on one digest: whoever holds the lock does it, the others watch and find it done.
#[derive(Debug)]
struct Flight {
    lock: Arc<AsyncMutex<()>>,
    amount: watch::Sender<Amount>,
}

/// The work under way by digest. When the worker's client goes away, the next one takes over.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<Digest, Weak<Flight>>>);

/// The right to work on a digest.
#[derive(Debug)]
pub(crate) struct Turn {
    flight: Arc<Flight>,
    _lock: OwnedMutexGuard<()>,
}

impl Turn {
    /// Tells the ones that wait how far it is.
    pub(crate) fn report(&self, amount: Amount) {
        self.flight.amount.send_replace(amount);
    }
}

impl Flights {
    fn flight(&self, digest: &Digest) -> Arc<Flight> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.strong_count() > 0);
        if let Some(flight) = flights.get(digest).and_then(Weak::upgrade) {
            return flight;
        }
        let flight = Arc::new(Flight {
            lock: Arc::default(),
            amount: watch::Sender::new(Amount { current: 0, total: 0 }),
        });
        flights.insert(*digest, Arc::downgrade(&flight));
        flight
    }

    /// Waits for the turn to work on `digest`, telling `watcher` what the worker reports.
    pub(crate) async fn turn(&self, digest: &Digest, mut watcher: impl FnMut(Amount)) -> Turn {
        let flight = self.flight(digest);
        let mut amounts = flight.amount.subscribe();
        let lock = Arc::clone(&flight.lock).lock_owned();
        tokio::pin!(lock);
        let lock = loop {
            tokio::select! {
                biased;
                // Both branches are cancel-safe: the lock's future is kept over the loop, and
                // `changed` only marks a value as seen.
                lock = &mut lock => break lock,
                Ok(()) = amounts.changed() => {
                    let amount = *amounts.borrow_and_update();
                    watcher(amount);
                }
            }
        };
        Turn { flight, _lock: lock }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_pin_and_a_deletion_exclude_each_other() {
        let pins = Arc::new(Pins::default());
        let digest = Digest::of(b"x");
        let first = pins.pin([digest]).await;
        let second = pins.pin([digest]).await;
        assert!(pins.condemn(&digest).is_none());
        drop(first);
        assert!(pins.condemn(&digest).is_none());
        drop(second);
        let condemned = pins.condemn(&digest).unwrap();
        assert!(pins.condemn(&digest).is_none());
        let waiting = tokio::spawn({
            let pins = Arc::clone(&pins);
            async move { pins.pin([Digest::of(b"y"), digest]).await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiting.is_finished());
        assert!(pins.condemn(&Digest::of(b"y")).is_some(), "a waiting pin holds nothing yet");
        drop(condemned);
        let pinned = waiting.await.unwrap();
        assert!(pins.condemn(&digest).is_none());
        drop(pinned);
        assert!(pins.state().held.is_empty());
    }

    #[tokio::test]
    async fn the_next_takes_over_when_the_worker_is_dropped() {
        let flights = Arc::new(Flights::default());
        let digest = Digest::of(b"x");
        let turn = flights.turn(&digest, |_| {}).await;
        let (seen, mut amounts) = tokio::sync::mpsc::channel(8);
        let next = tokio::spawn({
            let flights = Arc::clone(&flights);
            async move {
                flights
                    .turn(&digest, move |a| {
                        let _ = seen.try_send(a.current);
                    })
                    .await;
            }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        turn.report(Amount { current: 5, total: 9 });
        assert_eq!(amounts.recv().await, Some(5));
        assert!(!next.is_finished());
        drop(turn);
        next.await.unwrap();
        flights.turn(&Digest::of(b"other"), |_| {}).await;
        assert_eq!(flights.0.lock().unwrap().len(), 1, "finished work is forgotten");
    }
}
