//! Waiting for what another process will do, never longer than said.

use std::time::{Duration, Instant};

/// Between two looks.
const PACE: Duration = Duration::from_millis(20);

/// Looks until there is something.
///
/// # Panics
///
/// When there is nothing within `patience`.
#[track_caller]
pub fn within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {patience:?}: {what}");
        std::thread::sleep(PACE);
    }
}

/// Looks until it holds, for at most 20 seconds.
///
/// # Panics
///
/// When it does not hold by then.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    within(Duration::from_secs(20), what, || holds().then_some(()));
}

/// Whether a process runs. One that ended and waits for its parent to take notice does not.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}
