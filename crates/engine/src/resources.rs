//! Changing limits and the restart policy of a container that exists.

use std::sync::Arc;

use pouch_containerd as backend;
use pouch_types::spec::Resources;

use crate::api::UpdateOptions;
use crate::container::Container;
use crate::container::actor::Message;
use crate::{Engine, EngineError};

impl Engine {
    /// Changes what `options` name, at once when the container runs. Returns warnings.
    ///
    /// # Errors
    /// `Invalid` for limits that contradict each other; what the kernel refuses.
    pub async fn update(
        &self,
        key: &str,
        options: UpdateOptions,
    ) -> Result<Vec<String>, EngineError> {
        let container = self.find_free(key)?;
        self.update_container(&container, options).await
    }

    pub(crate) async fn update_container(
        &self,
        container: &Arc<Container>,
        mut options: UpdateOptions,
    ) -> Result<Vec<String>, EngineError> {
        let warnings = self.inner.support.clamp(&mut options.resources);
        let view = container.view();
        let mut spec = (*view.spec).clone();
        merge(&mut spec.resources, &options.resources);
        if let Some(restart) = options.restart {
            if spec.auto_remove && restart != pouch_types::spec::RestartPolicy::No {
                return Err(EngineError::conflict(
                    "Restart policy cannot be updated because AutoRemove is enabled for the container",
                ));
            }
            spec.restart = restart;
        }
        if view.state.is_running() && options.resources != Resources::default() {
            let cgroup = self.cgroup(container)?;
            let limits = options.resources.clone();
            tokio::task::spawn_blocking(move || cgroup.update(&limits))
                .await
                .map_err(|e| EngineError::new(pouch_types::ErrorKind::Internal, e.to_string()))?
                .map_err(|e| {
                    EngineError::wrap(format!("Cannot update container {}", view.id), e)
                })?;
            // systemd would set the old limits again when it reloads; the runtime tells it.
            if self.inner.config.cgroup_driver == backend::CgroupDriver::Systemd {
                let told = in_oci_terms(&options.resources, &spec.resources).to_string();
                container.task()?.update(told.into_bytes()).await.map_err(|e| {
                    EngineError::wrap(
                        format!("Cannot update the scope of container {}", view.id),
                        e,
                    )
                })?;
            }
        }
        let (reply, answer) = tokio::sync::oneshot::channel();
        container.send(Message::Respec(Box::new(spec), reply)).await?;
        answer.await.map_err(|_| container.gone())??;
        let view = container.view();
        self.inner.announce_container("update", &view.id, crate::engine::view_attributes(&view));
        Ok(warnings.into_iter().map(|w| w.text.to_owned()).collect())
    }
}

/// The changes as `LinuxResources` of the OCI runtime specification; `merged` is all that holds now.
/// A limit of swap includes the memory and says nothing without it.
fn in_oci_terms(changes: &Resources, merged: &Resources) -> serde_json::Value {
    let swap = changes.memory_swap.filter(|swap| *swap != 0);
    let memory = swap.map_or(changes.memory, |_| merged.memory).filter(|bytes| *bytes != 0);
    let (quota, period) = match changes.nano_cpus.filter(|nano| *nano != 0) {
        Some(nano) => (i64::try_from(nano / 10_000).ok(), Some(100_000)),
        None => (changes.cpu_quota, changes.cpu_period),
    };
    let pids = changes.pids_limit.map(|limit| if limit > 0 { limit } else { -1 });
    serde_json::json!({
        "memory": { "limit": memory, "swap": swap, "reservation": changes.memory_reservation },
        "cpu": {
            "shares": changes.cpu_shares, "quota": quota, "period": period,
            "cpus": changes.cpuset_cpus, "mems": changes.cpuset_mems,
        },
        "pids": pids.map(|limit| serde_json::json!({ "limit": limit })),
        "blockIO": { "weight": changes.blkio_weight },
    })
}

/// Takes over what is set.
fn merge(into: &mut Resources, from: &Resources) {
    macro_rules! take {
        ($($field:ident),*) => {$(
            if from.$field.is_some() {
                into.$field.clone_from(&from.$field);
            }
        )*};
    }
    take!(
        memory,
        memory_reservation,
        memory_swap,
        memory_swappiness,
        oom_kill_disable,
        oom_score_adj,
        cpu_shares,
        cpu_period,
        cpu_quota,
        cpu_realtime_period,
        cpu_realtime_runtime,
        cpuset_cpus,
        cpuset_mems,
        pids_limit,
        blkio_weight
    );
    if from.nano_cpus.is_some() {
        into.nano_cpus = from.nano_cpus;
        into.cpu_quota = None;
        into.cpu_period = None;
    } else if from.cpu_quota.is_some() || from.cpu_period.is_some() {
        into.nano_cpus = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_told_and_swap_with_its_memory() {
        let merged = Resources { memory: Some(100), cpu_shares: Some(5), ..Resources::default() };
        let changes = Resources {
            memory_swap: Some(150),
            nano_cpus: Some(1_500_000_000),
            pids_limit: Some(0),
            ..Resources::default()
        };
        let told = in_oci_terms(&changes, &merged);
        assert_eq!(told["memory"]["limit"], 100);
        assert_eq!(told["memory"]["swap"], 150);
        assert_eq!(told["cpu"]["quota"], 150_000);
        assert_eq!(told["cpu"]["period"], 100_000);
        assert_eq!(told["pids"]["limit"], -1);
        assert!(told["cpu"]["shares"].is_null());

        let told = in_oci_terms(&Resources::default(), &merged);
        assert!(told["memory"]["limit"].is_null() && told["pids"].is_null());
    }
}
