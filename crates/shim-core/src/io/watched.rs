//! A descriptor and what the loop waits for on it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};

/// Registers its descriptor with epoll when, and only when, an event can be acted upon: everything
/// is level-triggered, so an event that nobody takes would spin.
#[derive(Debug)]
pub(crate) struct Watched {
    fd: OwnedFd,
    token: u64,
    armed: Option<EventFlags>,
}

impl Watched {
    pub(crate) fn new(fd: OwnedFd, token: u64) -> Self {
        Self { fd, token, armed: None }
    }

    /// Waits for `flags` from now on. `Some(empty)` still reports that the peer hung up; `None`
    /// reports nothing. False when epoll cannot watch it (a regular file).
    pub(crate) fn arm(&mut self, epoll: impl AsFd, flags: Option<EventFlags>) -> bool {
        if self.armed == flags {
            return true;
        }
        let data = EventData::new_u64(self.token);
        let result = match (self.armed, flags) {
            (None, Some(flags)) => epoll::add(epoll, &self.fd, data, flags),
            (Some(_), Some(flags)) => epoll::modify(epoll, &self.fd, data, flags),
            (_, None) => epoll::delete(epoll, &self.fd),
        };
        if result.is_ok() {
            self.armed = flags;
        }
        result.is_ok()
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
