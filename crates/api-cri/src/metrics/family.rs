//! Names of metrics, and a list that only takes values that fit them.

use pouch_cri_grpc as cri;

/// Labels that each metric has, under cAdvisor's names and in the order of its values.
pub(super) const LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// Whose figures they are: values of [`LABELS`]. Those of a pod have neither a container nor an
/// image nor a name, as the group above the containers has none for cAdvisor.
#[derive(Debug, Clone, Default)]
pub(super) struct Subject {
    /// Name in the pod.
    pub(super) container: String,
    /// Path of the control group.
    pub(super) id: String,
    pub(super) image: String,
    /// Id of the container.
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) pod: String,
}

/// A metric: `N` labels of its own behind [`LABELS`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Family<const N: usize> {
    name: &'static str,
    help: &'static str,
    kind: cri::MetricType,
    labels: [&'static str; N],
}

impl<const N: usize> Family<N> {
    /// Only grows while its subject lives.
    pub(super) const fn counter(
        name: &'static str,
        labels: [&'static str; N],
        help: &'static str,
    ) -> Self {
        Self { name, help, kind: cri::MetricType::Counter, labels }
    }

    /// Goes up and down.
    pub(super) const fn gauge(
        name: &'static str,
        labels: [&'static str; N],
        help: &'static str,
    ) -> Self {
        Self { name, help, kind: cri::MetricType::Gauge, labels }
    }

    pub(super) fn descriptor(&self) -> cri::MetricDescriptor {
        let labels = LABELS.iter().chain(&self.labels);
        cri::MetricDescriptor {
            name: self.name.to_owned(),
            help: self.help.to_owned(),
            label_keys: labels.map(|label| (*label).to_owned()).collect(),
        }
    }
}

/// The metrics of one subject.
#[derive(Debug)]
pub(super) struct List {
    labels: [String; 6],
    metrics: Vec<cri::Metric>,
}

impl List {
    pub(super) fn of(subject: Subject) -> Self {
        let Subject { container, id, image, name, namespace, pod } = subject;
        Self { labels: [container, id, image, name, namespace, pod], metrics: Vec::new() }
    }

    /// A value that was just read.
    pub(super) fn put<const N: usize>(
        &mut self,
        family: &Family<N>,
        labels: [&str; N],
        value: u64,
    ) {
        self.put_seen(family, labels, value, 0);
    }

    /// A value that was read at `at`, nanoseconds since 1970; the contract has 0 for just now.
    pub(super) fn put_seen<const N: usize>(
        &mut self,
        family: &Family<N>,
        labels: [&str; N],
        value: u64,
        at: i64,
    ) {
        let own = labels.iter().map(|label| (*label).to_owned());
        self.metrics.push(cri::Metric {
            name: family.name.to_owned(),
            timestamp: at,
            metric_type: family.kind.into(),
            label_values: self.labels.iter().cloned().chain(own).collect(),
            value: Some(cri::UInt64Value { value }),
        });
    }

    pub(super) fn metrics(self) -> Vec<cri::Metric> {
        self.metrics
    }
}

/// Nanoseconds in whole seconds: the contract has no fractions.
pub(super) const fn seconds(nanoseconds: u64) -> u64 {
    nanoseconds / 1_000_000_000
}
