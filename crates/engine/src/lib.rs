//! Use cases of the container engine, over all seams.
//!
//! The two faces (Docker API, CRI) translate requests into calls of [`Engine`] and its answers
//! back; every rule of the business lives here. See `container` for how a container is kept,
//! [`container::state`] for its life, and `lifecycle` for what the effects do.

#![forbid(unsafe_code)]

pub mod api;
mod archive;
mod boot;
mod commit;
pub mod config;
pub mod container;
pub mod elsewhere;
mod engine;
mod error;
mod events;
mod exec;
mod files;
mod health;
mod images;
mod lifecycle;
mod logs;
mod manage;
mod names;
mod observe;
pub mod pod;
mod records;
mod resources;
mod streams;
pub mod system;
pub mod view;

pub use api::*;
pub use commit::{CommitRequest, WhileCommitting};
pub use config::{EngineConfig, RuntimeConfig};
pub use elsewhere::{Elsewhere, Seen};
pub use engine::{Engine, POD_ATTRIBUTE, Rebuild, Seams};
pub use error::EngineError;
pub use events::{Event, EventKind, EventStream};
pub use images::ImageNews;
pub use manage::{LabelFilter, Pruned};
pub use pod::{ExecOutput, ExecSync, NetworkState, PodNetworks, PodPhase, PodView, ProcessUser};
pub use pouch_containerd::CgroupDriver;
pub use pouch_snapshot::Usage as Written;
pub use view::*;

use pouch_types::failpoint;

/// Tables of the engine itself.
pub const SCHEMA: pouch_store::Schema = container::record::SCHEMA;
