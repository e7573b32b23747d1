//! Prometheus metrics of the engine, in the OpenMetrics text format.
//!
//! Counters of this process are kept as things happen; everything about containers and the
//! process is looked at when somebody scrapes, so that nobody pays who does not. Series are
//! bounded: operations are route templates, states are a fixed set, and a container's series go
//! with it.

#![forbid(unsafe_code)]

mod operations;
mod process;
mod scrape;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pouch_engine::Engine;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::Registry;

use operations::Operations;
use scrape::Picture;

/// All metrics. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: Engine,
    operations: Operations,
    registry: Registry,
    picture: Arc<Shown>,
}

/// What the next encoding shows; replaced as a whole by each scrape.
#[derive(Debug, Default)]
struct Shown(Mutex<Picture>);

impl Collector for Shown {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).encode(encoder)
    }
}

impl Metrics {
    /// Metrics of an engine.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        let mut registry = Registry::default();
        let operations = Operations::register(registry.sub_registry_with_prefix("pouch"));
        let picture = Arc::new(Shown::default());
        registry.register_collector(Box::new(Arc::clone(&picture)));
        Self(Arc::new(Inner { engine, operations, registry, picture }))
    }

    /// Counts a call: its method and route template, its status, the time until its reply began.
    pub fn record(&self, operation: &str, status: u16, elapsed: Duration) {
        self.0.operations.record(operation, status, elapsed);
    }

    /// Looks at everything and writes it down.
    pub async fn encode(&self) -> String {
        let picture = Picture::take(&self.0.engine).await;
        *self.0.picture.0.lock().unwrap_or_else(PoisonError::into_inner) = picture;
        let mut text = String::new();
        // Writing to a string does not fail.
        if text::encode(&mut text, &self.0.registry).is_err() {
            tracing::error!("metrics could not be encoded");
        }
        text
    }
}
