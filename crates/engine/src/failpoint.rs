//! Named places at which a test can end the process: `POUCH_FAILPOINT=name:abort`.
//!
//! The crash matrix kills the daemon at each and checks what a new one makes of it. Without the
//! variable a hit costs one atomic load.

use std::sync::OnceLock;

static ARMED: OnceLock<Option<String>> = OnceLock::new();

/// Every failpoint of the engine, for the crash matrix.
pub const ALL: &[&str] = &[
    "create:before-snapshot",
    "create:before-commit",
    "create:committed",
    "start:before-backend",
    "start:backend-created",
    "start:network-attached",
    "start:task-created",
    "start:committed",
    "start:task-started",
    "start:started",
    "exit:reported",
    "cleanup:task-deleted",
    "cleanup:network-detached",
    "remove:before-commit",
    "remove:committed",
    "remove:snapshot-removed",
];

/// Ends the process when `name` is armed.
pub fn hit(name: &str) {
    debug_assert!(ALL.contains(&name), "unlisted failpoint {name}");
    let armed = ARMED.get_or_init(|| {
        let value = std::env::var("POUCH_FAILPOINT").ok()?;
        value.strip_suffix(":abort").map(str::to_owned)
    });
    if armed.as_deref() == Some(name) {
        tracing::error!(failpoint = name, "aborting as the environment asks");
        std::process::abort();
    }
}
