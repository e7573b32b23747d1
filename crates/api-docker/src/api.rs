//! What every handler holds: the engine and this face's settings.

use std::sync::Arc;

use pouch_engine::Engine;
use pouch_types::spec::CgroupnsMode;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::http::{ApiError, ApiResult};
use crate::service::Telemetry;
use crate::stream::hijack::Sessions;
use crate::translate::Defaults;

/// Settings of this face.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Where measurements go; without it `/metrics` does not exist.
    pub telemetry: Option<Telemetry>,
    /// Values of `Origin` that are let in on TCP.
    pub allowed_origins: Vec<String>,
    /// Mirrors, as `info` shows them.
    pub registry_mirrors: Vec<String>,
    /// Hosts that are spoken to without TLS or verification, as `info` shows them.
    pub insecure_registries: Vec<String>,
    /// The daemon logs at debug level, as `info` shows it.
    pub debug: bool,
}

/// Shared by all handlers.
#[derive(Debug)]
pub(crate) struct Api {
    pub engine: Engine,
    pub config: Config,
    pub defaults: Defaults,
    pub sessions: Sessions,
}

/// As axum hands it out.
pub(crate) type Shared = Arc<Api>;

impl Api {
    pub(crate) fn new(
        engine: Engine,
        config: Config,
        tracker: TaskTracker,
        closing: CancellationToken,
    ) -> Self {
        let settings = engine.config();
        let defaults = Defaults {
            log: settings.default_log.clone(),
            runtime: settings.default_runtime.clone(),
            cgroupns: settings.default_cgroupns.unwrap_or_else(cgroupns_of_machine),
            masked: engine.masked_paths(),
            read_only: engine.readonly_paths(),
        };
        Self { engine, config, defaults, sessions: Sessions { tracker, closing } }
    }

    /// Ends streams when the server does.
    pub(crate) fn closing(&self) -> CancellationToken {
        self.sessions.closing.clone()
    }

    /// Runs a change to its end although its client may leave.
    ///
    /// # Errors
    /// The change's own; 500 when it panicked.
    pub(crate) async fn carry_out<T, E>(
        &self,
        change: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> ApiResult<T>
    where
        T: Send + 'static,
        E: Into<ApiError> + Send + 'static,
    {
        match self.sessions.tracker.spawn(change).await {
            Ok(result) => result.map_err(Into::into),
            Err(error) => Err(ApiError::new(
                http::StatusCode::INTERNAL_SERVER_ERROR,
                format!("the call was cut off: {error}"),
            )),
        }
    }
}

/// Docker's default: private on v2, the host's on v1.
fn cgroupns_of_machine() -> CgroupnsMode {
    match pouch_cgroup::Layout::detect() {
        Ok(layout) if layout.mode() == pouch_cgroup::Mode::V2 => CgroupnsMode::Private,
        _ => CgroupnsMode::Host,
    }
}
