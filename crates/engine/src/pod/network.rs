//! The network of a pod, by CNI.

use std::net::IpAddr;
use std::path::PathBuf;

use pouch_cni::{Attachment, Bandwidth, PortMapping, ValidAttachment};
use pouch_types::ErrorKind;
use pouch_types::pod::{PodSpec, Scope};

use super::namespaces::Pins;
use super::record::PodRecord;
use crate::engine::Inner;
use crate::{Engine, EngineError};

/// The interface that every pod has.
pub(super) const INTERFACE: &str = "eth0";
/// Kubernetes' annotations for limits of traffic, in bits a second with its units.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// What a pod may send at once, bits: as containerd and kubenet have it, no limit that matters.
const BURST: u64 = i32::MAX as u64;

/// Whether pods can get a network now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkState {
    /// They can.
    Ready,
    /// They cannot, and why.
    NotReady(String),
}

impl Engine {
    /// Whether pods can get a network now.
    pub async fn pod_network(&self) -> NetworkState {
        let Some(cni) = &self.inner.cni else {
            return NetworkState::NotReady("no network is configured for pods".to_owned());
        };
        match cni.status().await {
            Ok(_) => NetworkState::Ready,
            Err(error) => NetworkState::NotReady(pouch_types::error::chain(&error)),
        }
    }

    /// Where the node's networks are configured.
    #[must_use]
    pub fn cni(&self) -> Option<&pouch_cni::Cni> {
        self.inner.cni.as_ref()
    }
}

/// Connects a pod; gives its addresses.
pub(super) async fn attach(engine: &Inner, record: &PodRecord) -> Result<Vec<IpAddr>, EngineError> {
    let Some(netns) = Pins::of(&engine.config, record).net else { return Ok(Vec::new()) };
    let Some(cni) = &engine.cni else {
        return Err(EngineError::new(ErrorKind::Unavailable, "no network is configured for pods"));
    };
    let attachment = attachment(record, netns)?;
    let _not_collected = engine.pods.networks.read().await;
    let added = cni.add(&attachment).await;
    let added = added.map_err(|e| EngineError::wrap("connect the pod to its network", e))?;
    Ok(added.pod_ips().collect())
}

/// Takes a pod off its network. One that is not on it, or whose namespace is gone, is no error.
pub(super) async fn detach(engine: &Inner, record: &PodRecord) -> Result<(), EngineError> {
    let Some(netns) = Pins::of(&engine.config, record).net else { return Ok(()) };
    let Some(cni) = &engine.cni else { return Ok(()) };
    let deleted = cni.del(&attachment(record, netns)?).await;
    deleted.map_err(|e| EngineError::wrap("disconnect the pod from its network", e))
}

/// Gives back what networks hold for pods that are not there any more.
pub(super) async fn collect(engine: &Inner) {
    let Some(cni) = &engine.cni else { return };
    let _alone = engine.pods.networks.write().await;
    let held = engine.pods.all().into_iter().filter(|pod| pod.record().state.held);
    let valid: Vec<_> = held
        .map(|pod| ValidAttachment { id: pod.id.to_string(), ifname: INTERFACE.to_owned() })
        .collect();
    if let Err(error) = cni.gc(&valid).await {
        let error = pouch_types::error::chain(&error);
        tracing::warn!(error, "cannot collect attachments of pods that are gone");
    }
}

fn attachment(record: &PodRecord, netns: PathBuf) -> Result<Attachment, EngineError> {
    let spec = &record.spec;
    debug_assert_eq!(spec.namespaces.network, Scope::Pod, "the node's network is left alone");
    let args = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", &spec.key.namespace),
        ("K8S_POD_NAME", &spec.key.name),
        ("K8S_POD_INFRA_CONTAINER_ID", record.id.as_str()),
        ("K8S_POD_UID", &spec.key.uid),
    ];
    let mut capabilities = std::collections::BTreeMap::new();
    if !spec.cgroup_parent.is_empty() {
        capabilities.insert("cgroupPath".to_owned(), spec.cgroup_parent.clone().into());
    }
    if let Some(dns) = &spec.dns {
        let told = serde_json::json!({
            "servers": dns.servers, "searches": dns.searches, "options": dns.options,
        });
        capabilities.insert("dns".to_owned(), told);
    }
    Ok(Attachment {
        id: record.id.to_string(),
        netns,
        ifname: INTERFACE.to_owned(),
        args: args.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec(),
        port_mappings: spec
            .ports
            .iter()
            .map(|port| PortMapping {
                host_port: port.host_port,
                container_port: port.container.number,
                protocol: port.container.protocol,
                host_ip: port.host_ip,
            })
            .collect(),
        bandwidth: bandwidth(spec)?,
        capabilities,
        network: None,
    })
}

fn bandwidth(spec: &PodSpec) -> Result<Option<Bandwidth>, EngineError> {
    let rate = |annotation: &str| match spec.annotations.get(annotation) {
        None => Ok(None),
        Some(text) => quantity(text)
            .filter(|rate| (1_000..=1_000_000_000_000_000).contains(rate))
            .map(Some)
            .ok_or_else(|| {
                EngineError::invalid(format!("annotation {annotation}: invalid rate {text:?}"))
            }),
    };
    let (ingress, egress) = (rate(INGRESS)?, rate(EGRESS)?);
    if ingress.is_none() && egress.is_none() {
        return Ok(None);
    }
    let burst = |rate: Option<u64>| rate.map_or(0, |_| BURST);
    Ok(Some(Bandwidth {
        ingress_rate: ingress.unwrap_or(0),
        ingress_burst: burst(ingress),
        egress_rate: egress.unwrap_or(0),
        egress_burst: burst(egress),
    }))
}

/// A whole number with one of Kubernetes' units (`10M`, `1Gi`).
fn quantity(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match &text[digits.len()..] {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_kubernetes_units() {
        for (text, bits) in [("1000", 1000), ("10M", 10_000_000), ("2Gi", 2 << 30)] {
            assert_eq!(quantity(text), Some(bits), "{text}");
        }
        for text in ["", "M", "1.5M", "-1", "1m", "10 M", "99999999999T"] {
            assert_eq!(quantity(text), None, "{text}");
        }
    }

    #[test]
    fn a_rate_that_cannot_be_is_refused_by_its_annotation() {
        let with = |rate: &str| PodSpec {
            annotations: [(EGRESS.to_owned(), rate.to_owned())].into(),
            ..PodSpec::default()
        };
        let limits = bandwidth(&with("10M")).unwrap().unwrap();
        assert_eq!((limits.egress_rate, limits.ingress_rate), (10_000_000, 0));
        assert!(bandwidth(&PodSpec::default()).unwrap().is_none());
        for rate in ["0", "fast", "10"] {
            let error = bandwidth(&with(rate)).unwrap_err().text();
            assert!(error.contains(EGRESS), "{error}");
        }
    }
}
