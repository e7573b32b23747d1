//! What pods use: which control groups tell it, and the kernel's counters of their network.
//!
//! These block: they read files of the kernel, and who looks at many pods does it beside the async
//! runtime, in one go.

use pouch_cgroup::Cgroup;

use super::network::INTERFACE;
use super::{PodPhase, PodView};
use crate::api::NetworkCounters;
use crate::observe::{network_counters, parse_counters};
use crate::view::ContainerView;
use crate::{Engine, EngineError};

/// Counters of a pod's interfaces, loopback excepted; none on the node's network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodNetworks {
    /// The interface that leads out.
    pub default: Option<(String, NetworkCounters)>,
    /// The others, tunnels that the kernel makes in each namespace among them.
    pub others: Vec<(String, NetworkCounters)>,
}

impl PodNetworks {
    fn new(mut all: Vec<(String, NetworkCounters)>) -> Self {
        let default = all.iter().position(|(name, _)| name == INTERFACE);
        Self { default: default.map(|at| all.remove(at)), others: all }
    }
}

impl Engine {
    /// The control group of a container that runs.
    ///
    /// # Errors
    /// When it has none, mostly because it has ended.
    pub fn container_group(&self, view: &ContainerView) -> Result<Cgroup, EngineError> {
        Cgroup::of_pid(&self.inner.cgroups, view.state.pid)
            .map_err(|e| EngineError::wrap("find the container's control group", e))
    }

    /// The control group above a pod's containers; `None` when it has none of its own.
    ///
    /// # Errors
    /// When its name cannot be that of a group.
    pub fn pod_group(&self, view: &PodView) -> Result<Option<Cgroup>, EngineError> {
        let parent = view.spec.cgroup_parent.as_str();
        // The root is everybody's.
        if parent.trim_matches('/').is_empty() || view.phase != PodPhase::Ready {
            return Ok(None);
        }
        let path = match parent.ends_with(".slice") && !parent.contains('/') {
            true => slice_path(parent),
            false => format!("/{}", parent.trim_matches('/')),
        };
        let group = Cgroup::new(&self.inner.cgroups, &path)
            .map_err(|e| EngineError::wrap("find the control group of the pod", e))?;
        Ok(Some(group).filter(Cgroup::exists))
    }

    /// What went through a pod's network. `pid` is a process of it, which shows its interfaces;
    /// without one a thread goes there to look.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn pod_networks(
        &self,
        view: &PodView,
        pid: Option<u32>,
    ) -> Result<PodNetworks, EngineError> {
        let Some(netns) = view.netns.as_ref().filter(|_| view.phase == PodPhase::Ready) else {
            return Ok(PodNetworks::default());
        };
        let seen = pid.map(network_counters).unwrap_or_default();
        if !seen.is_empty() {
            return Ok(PodNetworks::new(seen));
        }
        // No process, or one that has ended meanwhile.
        let failed = |e| EngineError::wrap("look into the network of the pod", e);
        let entered = pouch_netns::Netns::open(netns).map_err(failed)?;
        let text = entered.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"));
        Ok(PodNetworks::new(parse_counters(&text.map_err(failed)?.unwrap_or_default())))
    }
}

/// Where systemd puts a slice: each dash is a level (systemd.slice(5)).
fn slice_path(slice: &str) -> String {
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    let mut path = String::new();
    for (at, _) in name.match_indices('-') {
        path.push_str(&format!("/{}.slice", &name[..at]));
    }
    format!("{path}/{slice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_interface_is_named_and_not_the_first() {
        let text = "\n\n tunl0: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n    lo: 5 0 0 0 0 0 0 0 5 0 0 0 0 0 0 0\n  \
            eth0: 7 0 0 0 0 0 0 0 9 0 0 0 0 0 0 0\n  net1: 1 0 0 0 0 0 0 0 1 0 0 0 0 0 0 0\n";
        let networks = PodNetworks::new(parse_counters(text));
        let (name, counters) = networks.default.unwrap();
        assert_eq!((name.as_str(), counters.rx_bytes, counters.tx_bytes), ("eth0", 7, 9));
        let others: Vec<&str> = networks.others.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(others, ["tunl0", "net1"]);
        assert_eq!(PodNetworks::new(Vec::new()).default, None);
    }

    #[test]
    fn slices_lie_in_slices() {
        assert_eq!(
            slice_path("kubepods-burstable-pod1.slice"),
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice"
        );
        assert_eq!(slice_path("system.slice"), "/system.slice");
    }
}
