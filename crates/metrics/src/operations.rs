//! How long calls take.

use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Operation and status.
type Labels = [(&'static str, String); 2];

/// Latencies by operation and status.
#[derive(Debug, Clone)]
pub(crate) struct Operations(Family<Labels, Histogram, fn() -> Histogram>);

/// From 1 ms, which reads take, to 33 s, in which a slow start has ended.
fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

impl Operations {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let family = Family::new_with_constructor(histogram as fn() -> Histogram);
        registry.register_with_unit(
            "api_operation",
            "Time from a request to the beginning of its reply",
            Unit::Seconds,
            family.clone(),
        );
        Self(family)
    }

    pub(crate) fn record(&self, operation: &str, status: u16, elapsed: Duration) {
        let labels = [("operation", operation.to_owned()), ("code", status.to_string())];
        self.0.get_or_create(&labels).observe(elapsed.as_secs_f64());
    }
}
