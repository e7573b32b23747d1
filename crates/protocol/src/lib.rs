//! Wire contracts between a daemon and a shim, over ttrpc.
//!
//! The `.proto` files are our transcription of containerd's api v2.1 (names and field numbers are
//! the contract) and our own [`options`]. Task v2 and v3 carry the same messages ([`task`]) under
//! two service names, so a shim serves both with one implementation, and a client picks the one
//! that a foreign shim speaks. Code is generated at build time; nothing here does I/O.

// Not `forbid`: the generated service files carry an `allow`, though no unsafe code.
#![deny(unsafe_code)]

mod convert;

#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    reason = "generated from proto/"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}

pub use convert::{UnexpectedType, any, any_url, timestamp, to_jiff, unpack};
pub use protobuf::well_known_types::any::Any;
pub use protobuf::well_known_types::empty::Empty;
pub use protobuf::well_known_types::timestamp::Timestamp;
pub use protobuf::{EnumOrUnknown, Message, MessageField};

/// Requests and replies of the task service.
pub mod task {
    pub use crate::generated::task::*;
}

/// `containerd.task.v2.Task`: `TaskClient`, the server trait `Task` and `create_task`.
pub mod task_ttrpc_v2 {
    pub use crate::generated::task_v2_ttrpc::*;
}

/// `containerd.task.v3.Task`: `TaskClient`, the server trait `Task` and `create_task`.
pub mod task_ttrpc_v3 {
    pub use crate::generated::task_v3_ttrpc::*;
}

/// What shims publish, by topic.
pub mod events {
    pub use crate::generated::events::*;

    /// Topic of [`TaskCreate`].
    pub const TOPIC_CREATE: &str = "/tasks/create";
    /// Topic of [`TaskStart`].
    pub const TOPIC_START: &str = "/tasks/start";
    /// Topic of [`TaskExit`].
    pub const TOPIC_EXIT: &str = "/tasks/exit";
    /// Topic of [`TaskDelete`].
    pub const TOPIC_DELETE: &str = "/tasks/delete";
    /// Topic of [`TaskOOM`].
    pub const TOPIC_OOM: &str = "/tasks/oom";
    /// Topic of [`TaskExecAdded`].
    pub const TOPIC_EXEC_ADDED: &str = "/tasks/exec-added";
    /// Topic of [`TaskExecStarted`].
    pub const TOPIC_EXEC_STARTED: &str = "/tasks/exec-started";
    /// Topic of [`TaskPaused`].
    pub const TOPIC_PAUSED: &str = "/tasks/paused";
    /// Topic of [`TaskResumed`].
    pub const TOPIC_RESUMED: &str = "/tasks/resumed";
}

/// `containerd.services.events.ttrpc.v1.Events`: `EventsClient`, the server trait `Events` and
/// `create_events`, with its `ForwardRequest`.
pub mod events_ttrpc {
    pub use crate::generated::events_service::*;
    pub use crate::generated::events_service_ttrpc::*;
}

/// What a shim tells about itself.
pub mod introspection {
    pub use crate::generated::introspection::*;

    /// Type of [`RuntimeInfo::features`], as containerd's clients know it.
    pub const FEATURES: &str =
        "types.containerd.io/opencontainers/runtime-spec/1/features/Features";
}

/// What containerd 2.3 and later exchange with a shim that they start.
pub mod bootstrap {
    pub use crate::generated::bootstrap::*;
}

/// Types that several contracts share.
pub mod types {
    pub use crate::generated::task_types::*;
    pub use crate::generated::types::*;
}

/// Options of `CreateTaskRequest`: ours and, under [`options::runc`], those of `io.containerd.runc.v2`.
pub mod options {
    pub use crate::generated::options::*;

    /// Short type URL of [`Options`].
    pub const OPTIONS_TYPE: &str = "pouch.runtime.v1.Options";

    /// What containerd's clients send to runc's shim and its likes.
    pub mod runc {
        pub use crate::generated::runc_options::*;

        /// Short type URL of [`Options`].
        pub const OPTIONS_TYPE: &str = "containerd.runc.v1.Options";
        /// Short type URL of [`ProcessDetails`].
        pub const PROCESS_DETAILS_TYPE: &str = "containerd.runc.v1.ProcessDetails";
    }
}

/// What `Stats` answers, by version of the cgroup hierarchy.
pub mod metrics {
    /// `io.containerd.cgroups.v1`.
    pub mod v1 {
        pub use crate::generated::cgroup1::*;

        /// Short type URL of [`Metrics`].
        pub const METRICS_TYPE: &str = "io.containerd.cgroups.v1.Metrics";
    }
    /// `io.containerd.cgroups.v2`.
    pub mod v2 {
        pub use crate::generated::cgroup2::*;

        /// Short type URL of [`Metrics`].
        pub const METRICS_TYPE: &str = "io.containerd.cgroups.v2.Metrics";
    }
}
