//! Operations that block in the kernel (mounts, freezing, fsync), on threads that end with them.
//!
//! They are rare and short, so a pool that keeps idle threads would cost more than it saves.

use tokio::sync::oneshot;

use crate::error::TaskError;

/// Runs `operation` on a thread called `name` and waits for it. Dropping the future does not stop
/// it.
pub(crate) async fn run<T: Send + 'static>(
    name: &'static str,
    operation: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TaskError> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(128 * 1024)
        .spawn(move || {
            let _ = sender.send(operation());
        })
        .map_err(TaskError::io("start a thread for", name))?;
    receiver.await.map_err(|_| TaskError::Internal("a helper thread ended early"))
}
