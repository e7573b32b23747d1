//! What happened, told to everybody who listens, in order.
//!
//! The newest events are kept for `since`. A listener that falls behind by more than the ring
//! holds is told so by the end of its stream; nothing is skipped silently.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::broadcast;

/// Events kept for replay, and the most that a listener may lag behind.
const KEPT: usize = 1024;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the kinds")]
pub enum EventKind {
    Container,
    Image,
    Network,
    Volume,
    Daemon,
    /// A pod's sandbox. Docker has no such thing, so its face does not tell of it.
    Pod,
}

impl EventKind {
    /// Docker's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
            Self::Daemon => "daemon",
            Self::Pod => "pod",
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it is about.
    pub kind: EventKind,
    /// Docker's action, with its argument: `start`, `exec_create: sh`.
    pub action: String,
    /// Id or name of the object.
    pub actor: String,
    /// Name, image, labels, exit code …
    pub attributes: BTreeMap<String, String>,
    /// When.
    pub time: Timestamp,
}

/// Where events go in and come out.
#[derive(Debug)]
pub(crate) struct EventBus {
    ring: Mutex<VecDeque<Arc<Event>>>,
    sender: broadcast::Sender<Arc<Event>>,
}

/// A listener.
#[derive(Debug)]
pub struct EventStream {
    past: VecDeque<Arc<Event>>,
    future: Option<broadcast::Receiver<Arc<Event>>>,
    until: Option<Timestamp>,
}

impl Default for EventBus {
    fn default() -> Self {
        Self { ring: Mutex::default(), sender: broadcast::channel(KEPT).0 }
    }
}

impl EventBus {
    /// Tells an event.
    pub(crate) fn publish(
        &self,
        kind: EventKind,
        action: impl Into<String>,
        actor: impl Into<String>,
        attributes: BTreeMap<String, String>,
    ) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Arc::new(Event {
            kind,
            action: action.into(),
            actor: actor.into(),
            attributes,
            // Taken under the lock: the order of the ring is the order of the times.
            time: Timestamp::now(),
        });
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(Arc::clone(&event));
        // Without listeners there is nobody to tell.
        let _ = self.sender.send(event);
    }

    /// Listens: what is kept from `since` on, then what comes until `until`.
    #[must_use]
    pub(crate) fn subscribe(
        &self,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> EventStream {
        // Under the lock, so that no event falls between the replay and the subscription.
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = |e: &&Arc<Event>| {
            since.is_some_and(|s| e.time >= s) && until.is_none_or(|u| e.time <= u)
        };
        let past = ring.iter().filter(wanted).cloned().collect();
        let over = until.is_some_and(|u| u <= Timestamp::now());
        EventStream { past, future: (!over).then(|| self.sender.subscribe()), until }
    }
}

impl EventStream {
    /// The next event; `None` at `until`, or when this listener fell too far behind.
    ///
    /// Cancel-safe: a dropped call loses no event.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        if let Some(event) = self.past.pop_front() {
            return Some(event);
        }
        let future = self.future.as_mut()?;
        let received = match self.until {
            None => future.recv().await,
            Some(until) => {
                let left = until.duration_since(Timestamp::now());
                let left = std::time::Duration::try_from(left).unwrap_or_default();
                tokio::time::timeout(left, future.recv()).await.ok()?
            }
        };
        match received {
            Ok(event) => Some(event),
            Err(error) => {
                tracing::warn!(%error, "an event listener ends");
                self.future = None;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(bus: &EventBus, action: &str) {
        bus.publish(EventKind::Container, action, "x", BTreeMap::new());
    }

    #[tokio::test]
    async fn replays_then_follows_in_order() {
        let bus = EventBus::default();
        publish(&bus, "create");
        let mut stream = bus.subscribe(Some(Timestamp::UNIX_EPOCH), None);
        publish(&bus, "start");
        let mut seen = Vec::new();
        for _ in 0..2 {
            seen.push(stream.next().await.unwrap().action.clone());
        }
        assert_eq!(seen, ["create", "start"]);
    }

    #[tokio::test]
    async fn ends_at_until_and_without_since_there_is_no_past() {
        let bus = EventBus::default();
        publish(&bus, "create");
        assert!(bus.subscribe(None, Some(Timestamp::now())).next().await.is_none());
        let mut replay = bus.subscribe(Some(Timestamp::UNIX_EPOCH), Some(Timestamp::now()));
        assert_eq!(replay.next().await.unwrap().action, "create");
        assert!(replay.next().await.is_none());
    }

    #[tokio::test]
    async fn a_slow_listener_is_ended_not_cheated() {
        let bus = EventBus::default();
        let mut stream = bus.subscribe(None, None);
        for _ in 0..=KEPT {
            publish(&bus, "x");
        }
        assert!(stream.next().await.is_none());
    }
}
