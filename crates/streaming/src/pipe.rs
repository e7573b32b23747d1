//! What a client sent on one stream and the session has not taken yet.
//!
//! The reader of a connection never waits while it puts something in: a client may speak on other
//! streams too. Instead all pipes of a connection share a [`Budget`], and the reader takes nothing
//! more from the socket while it is used up. Clients without flow control (all of Kubernetes')
//! leave no other way that loses nothing and bounds memory.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// Counted for each piece beside its bytes, so that empty pieces are not free.
const PIECE: usize = 64;

/// The client reset the stream, or is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// Bytes that wait in all pipes of a connection.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    queued: AtomicUsize,
    freed: Notify,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, queued: AtomicUsize::new(0), freed: Notify::new() })
    }

    pub(crate) fn is_spent(&self) -> bool {
        self.queued.load(Ordering::Acquire) >= self.limit
    }

    /// Until there is room. For one waiter at a time.
    pub(crate) async fn room(&self) {
        while self.is_spent() {
            self.freed.notified().await;
        }
    }

    fn take(&self, bytes: usize) {
        self.queued.fetch_add(bytes, Ordering::AcqRel);
    }

    fn give_back(&self, bytes: usize) {
        self.queued.fetch_sub(bytes, Ordering::AcqRel);
        self.freed.notify_one();
    }
}

#[derive(Debug, Default)]
struct Queue {
    pieces: VecDeque<Bytes>,
    end: Option<End>,
    /// The session does not want it any more.
    abandoned: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Finished,
    Broken,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Notify,
    budget: Arc<Budget>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, end: End) {
        self.queue().end.get_or_insert(end);
        self.changed.notify_one();
    }
}

/// The connection's end. Dropping it before [`finish`](Self::finish) breaks the pipe.
#[derive(Debug)]
pub(crate) struct Feed(Arc<Shared>);

/// What happened to a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Queued,
    /// Nobody will read it.
    Dropped,
}

impl Feed {
    pub(crate) fn push(&self, bytes: Bytes) -> Fate {
        let mut queue = self.0.queue();
        if queue.abandoned || queue.end.is_some() {
            return Fate::Dropped;
        }
        if !bytes.is_empty() {
            self.0.budget.take(bytes.len() + PIECE);
            queue.pieces.push_back(bytes);
            self.0.changed.notify_one();
        }
        Fate::Queued
    }

    /// The client half-closed the stream.
    pub(crate) fn finish(&self) {
        self.0.end(End::Finished);
    }

    /// The client gave the stream up.
    pub(crate) fn break_off(&self) {
        self.0.end(End::Broken);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.break_off();
    }
}

/// Who wants to know what a session does with its end.
pub(crate) trait Observer: Send + Sync {
    /// Bytes left the pipe.
    fn taken(&self, bytes: usize);
    /// The session reads no more.
    fn abandoned(&self);
}

/// The session's end.
pub(crate) struct Inlet {
    shared: Arc<Shared>,
    observer: Option<Box<dyn Observer>>,
}

impl fmt::Debug for Inlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inlet").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Inlet {
    pub(crate) fn observed(mut self, observer: impl Observer + 'static) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// The next piece; `None` after a half-close. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Gone> {
        loop {
            {
                let mut queue = self.shared.queue();
                if let Some(bytes) = queue.pieces.pop_front() {
                    drop(queue);
                    self.account(1, bytes.len());
                    return Ok(Some(bytes));
                }
                match queue.end {
                    Some(End::Finished) => return Ok(None),
                    Some(End::Broken) => return Err(Gone),
                    None => {}
                }
            }
            self.shared.changed.notified().await;
        }
    }

    fn account(&self, pieces: usize, bytes: usize) {
        self.shared.budget.give_back(bytes + pieces * PIECE);
        if let Some(observer) = &self.observer {
            observer.taken(bytes);
        }
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        let pieces = {
            let mut queue = self.shared.queue();
            queue.abandoned = true;
            std::mem::take(&mut queue.pieces)
        };
        self.account(pieces.len(), pieces.iter().map(Bytes::len).sum());
        if let Some(observer) = &self.observer {
            observer.abandoned();
        }
    }
}

/// A pipe within `budget`.
pub(crate) fn pipe(budget: &Arc<Budget>) -> (Feed, Inlet) {
    let shared = Arc::new(Shared {
        queue: Mutex::default(),
        changed: Notify::new(),
        budget: Arc::clone(budget),
    });
    (Feed(Arc::clone(&shared)), Inlet { shared, observer: None })
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn pieces_come_in_order_and_then_the_end() {
        let (feed, mut inlet) = pipe(&Budget::new(1000));
        feed.push(Bytes::from_static(b"a"));
        feed.push(Bytes::new());
        feed.push(Bytes::from_static(b"b"));
        feed.finish();
        feed.break_off();
        assert_eq!(feed.push(Bytes::from_static(b"late")), Fate::Dropped);
        assert_eq!(inlet.next().await, Ok(Some(Bytes::from_static(b"a"))));
        assert_eq!(inlet.next().await, Ok(Some(Bytes::from_static(b"b"))));
        assert_eq!(inlet.next().await, Ok(None));
        assert_eq!(inlet.next().await, Ok(None));
    }

    #[tokio::test]
    async fn a_dropped_feed_is_no_end_of_input() {
        let (feed, mut inlet) = pipe(&Budget::new(1000));
        feed.push(Bytes::from_static(b"a"));
        drop(feed);
        assert_eq!(inlet.next().await, Ok(Some(Bytes::from_static(b"a"))));
        assert_eq!(inlet.next().await, Err(Gone));
    }

    #[tokio::test]
    async fn the_budget_is_shared_and_comes_back() {
        let budget = Budget::new(300);
        let (one, mut first) = pipe(&budget);
        let (two, second) = pipe(&budget);
        one.push(Bytes::from(vec![0; 100]));
        two.push(Bytes::from(vec![0; 100]));
        assert!(budget.room().now_or_never().is_none());
        drop(second);
        assert_eq!(two.push(Bytes::from_static(b"x")), Fate::Dropped);
        assert!(budget.room().now_or_never().is_some());
        let _ = first.next().await;
        assert_eq!(budget.queued.load(Ordering::Acquire), 0);
    }
}
