//! Forcing layers to the disk, together.
//!
//! `syncfs` writes what anybody wrote to the file system, so of several layers that end while one
//! is under way a single further one serves all. Each call returns after a round that began after
//! the call.

use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, PoisonError};

use pouch_rootfd::RootFd;

use crate::error::{Result, SnapshotError};

#[derive(Debug, Default)]
struct State {
    /// Rounds that began.
    begun: u64,
    /// The newest round that ended well.
    good: u64,
    running: Running,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Running {
    #[default]
    No,
    Yes,
}

/// The rounds of one file system.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    state: Mutex<State>,
    ended: Condvar,
}

impl Rounds {
    /// Returns when all that was written before is on the disk. Blocking.
    pub(crate) fn sync(&self, root: &RootFd) -> Result<()> {
        self.join(|| syncfs(root))
    }

    fn join(&self, work: impl Fn() -> Result<()>) -> Result<()> {
        // The counters are right after every statement that holds the lock.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = state.begun + 1;
        loop {
            if state.good >= mine {
                return Ok(());
            }
            if state.running == Running::Yes {
                state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.begun += 1;
            state.running = Running::Yes;
            let round = state.begun;
            drop(state);
            let done = work();
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.running = Running::No;
            self.ended.notify_all();
            // Of a round that failed only the caller that ran it hears; the others try themselves.
            done?;
            state.good = round;
        }
    }
}

fn syncfs(root: &RootFd) -> Result<()> {
    // syncfs(2) does not take an O_PATH descriptor.
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let real = rustix::fs::openat(root.as_fd(), ".", flags, rustix::fs::Mode::empty())
        .map_err(|e| SnapshotError::io("open", "/", e))?;
    rustix::fs::syncfs(&real).map_err(|e| SnapshotError::io("syncfs", "/", e))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn those_that_wait_share_one_round() {
        let (rounds, count) = (Rounds::default(), AtomicUsize::new(0));
        let work = || {
            count.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(100));
            Ok(())
        };
        std::thread::scope(|scope| {
            scope.spawn(|| rounds.join(work).unwrap());
            std::thread::sleep(Duration::from_millis(30));
            for _ in 0..5 {
                scope.spawn(|| rounds.join(work).unwrap());
            }
        });
        let rounds_run = count.load(Ordering::SeqCst);
        assert!((2..=3).contains(&rounds_run), "{rounds_run}");
        rounds.join(work).unwrap();
        assert_eq!(count.load(Ordering::SeqCst), rounds_run + 1, "what ended before is too old");
    }

    #[test]
    fn a_round_that_fails_is_tried_by_the_next() {
        let (rounds, count) = (Rounds::default(), AtomicUsize::new(0));
        let work = || match count.fetch_add(1, Ordering::SeqCst) {
            0 => Err(SnapshotError::Cancelled),
            _ => Ok(()),
        };
        assert!(rounds.join(work).is_err());
        rounds.join(work).unwrap();
    }
}
