//! Threads that live for one piece of work, so that a namespace they entered dies with them.

use std::thread::Builder;

use tokio::sync::oneshot;

use crate::NetnsError;

/// Enough for netlink buffers; small, because a burst of starts makes many.
const STACK: usize = 256 * 1024;

pub(crate) fn run<T, F>(work: F) -> Result<T, NetnsError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let builder = Builder::new().name("netns".into()).stack_size(STACK);
    let thread = builder.spawn(work).map_err(NetnsError::Thread)?;
    thread.join().map_err(|_| NetnsError::Panicked)
}

pub(crate) async fn run_async<T, F>(work: F) -> Result<T, NetnsError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let builder = Builder::new().name("netns".into()).stack_size(STACK);
    builder
        // The receiver may have gone; the work is done all the same.
        .spawn(move || drop(reply.send(work())))
        .map_err(NetnsError::Thread)?;
    answer.await.map_err(|_| NetnsError::Panicked)
}
