//! Named places at which a test can end the process: `POUCH_FAILPOINT=name:abort`.
//!
//! The crash matrices kill the daemon at each and check what a new one makes of it. The names are
//! listed here, below every crate that changes what is on the disk, so that no matrix can miss
//! one. Without the variable a hit costs one atomic load.

use std::io::Write as _;
use std::sync::OnceLock;

static ARMED: OnceLock<Option<String>> = OnceLock::new();

/// The steps of a container's life.
pub const CONTAINER: &[&str] = &[
    "create:before-snapshot",
    "create:before-commit",
    "create:committed",
    "start:before-backend",
    "start:shim-spawned",
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

/// The steps by which images come and go.
pub const IMAGE: &[&str] = &[
    "pull:resolved",
    "pull:blob-begun",
    "pull:blob-nine-tenths",
    "pull:blob-kept",
    "pull:layers-complete",
    "load:spooled",
    "commit:spooled",
    "content:synced",
    "content:renamed",
    "layer:staged",
    "layer:synced",
    "layer:renamed",
    "layer:recorded",
    "admit:before-commit",
    "admit:committed",
    "rmi:before-commit",
    "rmi:committed",
    "layer:forgotten",
    "rmi:layer-removed",
    "rmi:blob-removed",
];

/// The steps of a pod's life.
pub const POD: &[&str] = &[
    "pod:recorded",
    "pod:namespaces-made",
    "pod:network-attached",
    "pod:ready",
    "pod:stopping",
    "pod:containers-stopped",
    "pod:released",
    "pod:removing",
    "pod:containers-removed",
    "pod:forgotten",
];

/// Ends the process when `name` is armed.
pub fn hit(name: &str) {
    debug_assert!(
        [CONTAINER, IMAGE, POD].iter().any(|list| list.contains(&name)),
        "unlisted failpoint {name}"
    );
    let armed = ARMED.get_or_init(|| {
        let value = std::env::var("POUCH_FAILPOINT").ok()?;
        value.strip_suffix(":abort").map(str::to_owned)
    });
    if armed.as_deref() == Some(name) {
        // The log belongs to the floors above; what is told here is for the reader of a test.
        let _ = writeln!(std::io::stderr(), "aborting at the failpoint {name}");
        std::process::abort();
    }
}
