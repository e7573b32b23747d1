//! Windows of flow control (SPDY/3.1): of each stream, and of the connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::pipe::Gone;

/// A fresh stream's, and the connection's.
pub(super) const INITIAL: i64 = 64 * 1024;

/// Bytes that the peer has room for. Counted always, heeded only for peers with flow control.
#[derive(Debug)]
pub(super) struct Window {
    left: Mutex<Left>,
    changed: Notify,
}

#[derive(Debug)]
struct Left {
    bytes: i64,
    broken: bool,
}

impl Window {
    pub(super) fn new(bytes: i64) -> Self {
        Self { left: Mutex::new(Left { bytes, broken: false }), changed: Notify::new() }
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds room; `false` when there cannot be so much.
    pub(super) fn grow(&self, delta: i64) -> bool {
        let mut left = self.left();
        left.bytes += delta;
        let sane = left.bytes <= i64::from(i32::MAX);
        drop(left);
        self.changed.notify_waiters();
        sane
    }

    pub(super) fn break_off(&self) {
        self.left().broken = true;
        self.changed.notify_waiters();
    }

    /// Takes up to `want` bytes of room as soon as there is any; all of it from a peer that does
    /// not control its flow.
    pub(super) async fn take(&self, want: usize, controlled: &AtomicBool) -> Result<usize, Gone> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            {
                let mut left = self.left();
                if left.broken {
                    return Err(Gone);
                }
                let wanted = i64::try_from(want).unwrap_or(i64::MAX);
                let granted = match controlled.load(Ordering::Acquire) {
                    true => wanted.min(left.bytes),
                    false => wanted,
                };
                if granted > 0 {
                    left.bytes -= granted;
                    return Ok(usize::try_from(granted).unwrap_or(want));
                }
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn room_counts_for_peers_that_control_it() {
        let (window, controlled) = (Window::new(10), AtomicBool::new(false));
        // More than there is: the debt is remembered.
        assert_eq!(window.take(30, &controlled).await, Ok(30));
        controlled.store(true, Ordering::Release);
        assert!(window.take(1, &controlled).now_or_never().is_none());
        assert!(window.grow(25));
        assert_eq!(window.take(30, &controlled).await, Ok(5));
        let mut waiting = std::pin::pin!(window.take(30, &controlled));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(window.grow(1));
        assert_eq!(waiting.await, Ok(1));
        assert!(!window.grow(i64::from(i32::MAX) + 1));
        window.break_off();
        assert_eq!(window.take(1, &controlled).await, Err(Gone));
    }
}
