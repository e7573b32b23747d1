//! What pods use: read from control groups and from the kernel's counters of their network.

use std::path::PathBuf;

use pouch_cgroup::Cgroup;

use super::{Pod, PodPhase};
use crate::api::NetworkCounters;
use crate::observe::{network_counters, parse_counters};
use crate::{Engine, EngineError};

/// One measurement of a pod.
#[derive(Debug, Clone, Default)]
pub struct PodUsage {
    /// Of the control group above its containers; `None` when it has none of its own.
    pub cgroup: Option<pouch_cgroup::Stats>,
    /// Counters per interface, loopback excepted; none on the node's network.
    pub networks: Vec<(String, NetworkCounters)>,
}

impl Engine {
    /// What a pod uses now.
    ///
    /// # Errors
    /// `NotFound`; what reading the control groups says.
    pub async fn pod_usage(&self, key: &str) -> Result<PodUsage, EngineError> {
        let pod = self.find_pod(key)?;
        let view = pod.view();
        if view.phase != PodPhase::Ready {
            return Ok(PodUsage::default());
        }
        let cgroup = self.parent_group(&pod)?;
        let cgroup = cgroup.filter(Cgroup::exists).map(|group| group.stats()).transpose();
        let cgroup =
            cgroup.map_err(|e| EngineError::wrap("read the control group of the pod", e))?;
        let networks = match &view.netns {
            None => Vec::new(),
            Some(path) => self.counters(&pod, path.clone()).await?,
        };
        Ok(PodUsage { cgroup, networks })
    }

    fn parent_group(&self, pod: &Pod) -> Result<Option<Cgroup>, EngineError> {
        let view = pod.view();
        let parent = view.spec.cgroup_parent.as_str();
        if parent.is_empty() {
            return Ok(None);
        }
        let path = match parent.ends_with(".slice") && !parent.contains('/') {
            true => slice_path(parent),
            false => format!("/{}", parent.trim_matches('/')),
        };
        Cgroup::new(&self.inner.cgroups, &path)
            .map(Some)
            .map_err(|e| EngineError::wrap("find the control group of the pod", e))
    }

    async fn counters(
        &self,
        pod: &Pod,
        netns: PathBuf,
    ) -> Result<Vec<(String, NetworkCounters)>, EngineError> {
        // Any process of the pod shows them; without one a thread goes there to look.
        let members = super::stop::members(&self.inner, pod);
        let pids = members.iter().map(|container| container.view().state.pid);
        let pid = [pod.view().pid].into_iter().chain(pids).find(|pid| *pid != 0);
        if let Some(pid) = pid {
            return Ok(network_counters(pid));
        }
        let failed = |e| EngineError::wrap("look into the network of the pod", e);
        let entered = pouch_netns::Netns::open(&netns).map_err(failed)?;
        let text = entered.run_async(|| std::fs::read_to_string("/proc/thread-self/net/dev"));
        Ok(parse_counters(&text.await.map_err(failed)?.unwrap_or_default()))
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
    #[test]
    fn slices_lie_in_slices() {
        assert_eq!(
            super::slice_path("kubepods-burstable-pod1.slice"),
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice"
        );
        assert_eq!(super::slice_path("system.slice"), "/system.slice");
    }
}
