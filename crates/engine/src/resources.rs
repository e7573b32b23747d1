//! Changing limits and the restart policy of a container that exists.

use pouch_types::spec::Resources;

use crate::api::UpdateOptions;
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
        let container = self.find(key)?;
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
        let warnings = self.inner.support.unsupported(&options.resources);
        if view.state.is_running() && options.resources != Resources::default() {
            let cgroup = self.cgroup(&container)?;
            let limits = options.resources.clone();
            tokio::task::spawn_blocking(move || cgroup.update(&limits))
                .await
                .map_err(|e| EngineError::new(pouch_types::ErrorKind::Internal, e.to_string()))?
                .map_err(|e| {
                    EngineError::wrap(format!("Cannot update container {}", view.id), e)
                })?;
        }
        let (reply, answer) = tokio::sync::oneshot::channel();
        container.send(Message::Respec(Box::new(spec), reply)).await?;
        answer.await.map_err(|_| container.gone())??;
        let view = container.view();
        self.inner.announce_container("update", &view.id, crate::engine::view_attributes(&view));
        Ok(warnings.into_iter().map(|w| w.text.to_owned()).collect())
    }
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
