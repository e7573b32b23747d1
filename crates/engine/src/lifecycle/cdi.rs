//! Devices of vendors, by their names: looked up at create, for what it refuses, and at each start,
//! for the files may say something else by then.

use std::sync::Arc;

use pouch_cdi::Edits;
use pouch_types::spec::ContainerSpec;
use pouch_types::{Classified, ErrorKind};

use crate::EngineError;
use crate::engine::Inner;

/// What the devices of a container change.
pub(super) async fn resolve(engine: &Inner, spec: &ContainerSpec) -> Result<Edits, EngineError> {
    let names = spec.resources.cdi_devices.clone();
    if names.is_empty() {
        return Ok(Edits::default());
    }
    let registry = Arc::clone(&engine.cdi);
    tokio::task::spawn_blocking(move || registry.resolve(&names))
        .await
        .map_err(|e| EngineError::new(ErrorKind::Internal, e.to_string()))?
        .map_err(|error| {
            let text = pouch_types::error::chain(&error);
            EngineError::new(error.kind(), format!("CDI device injection failed: {text}"))
        })
}
