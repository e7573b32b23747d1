//! The containers of a pod, as Kubernetes drives them: made once, run once, removed by force.

use std::sync::Arc;
use std::time::Duration;

use pouch_types::pod::PodMember;
use pouch_types::spec::ContainerSpec;
use pouch_types::{Classified as _, ContainerId, ContainerName, ErrorKind};

use super::stop::gone_is_fine;
use super::{Pod, PodPhase};
use crate::api::{StopOptions, UpdateOptions};
use crate::container::Container;
use crate::container::actor::Volumes;
use crate::container::state::{Force, Phase};
use crate::engine::Inner;
use crate::lifecycle::{create, stop as lifecycle};
use crate::view::ContainerView;
use crate::{Engine, EngineError};

/// Time for opening the new file of a renamed log.
const REOPEN_PATIENCE: Duration = Duration::from_secs(10);

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessUser {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Engine {
    /// The containers of all pods, in no order.
    #[must_use]
    pub fn pod_containers(&self) -> Vec<Arc<ContainerView>> {
        let views = self.inner.index.all().into_iter().map(|container| container.view());
        views.filter(|view| view.spec.pod.is_some()).collect()
    }

    /// One container of a pod, by its id or an unambiguous beginning of it.
    ///
    /// # Errors
    /// `NotFound`, also for a container of Docker's.
    pub fn pod_container(&self, key: &str) -> Result<Arc<ContainerView>, EngineError> {
        Ok(self.find_member(key)?.view())
    }

    fn find_member(&self, key: &str) -> Result<Arc<Container>, EngineError> {
        let found = self.find(key)?;
        match found.view().spec.pod {
            Some(_) => Ok(found),
            None => Err(EngineError::no_such_container(key)),
        }
    }

    /// Who the first process of a container of a pod runs as, once it was started.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn process_user(&self, key: &str) -> Result<Option<ProcessUser>, EngineError> {
        let container = self.find_member(key)?;
        let spec = container.run().spec.clone();
        Ok(spec.map(|spec| ProcessUser {
            uid: spec.process.user.uid,
            gid: spec.process.user.gid,
            groups: spec.process.user.additional_gids.clone(),
        }))
    }

    /// The OCI specification of a container of a pod, once it was started.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn oci_spec(&self, key: &str) -> Result<Option<serde_json::Value>, EngineError> {
        let container = self.find_member(key)?;
        let spec = container.run().spec.clone();
        Ok(spec.and_then(|spec| serde_json::to_value(&*spec).ok()))
    }

    /// Makes a container in a pod; asked again for the same name and attempt, it is the one that is
    /// being made or that was made and not started.
    ///
    /// # Errors
    /// `Conflict` when the pod is not ready, `AlreadyExists` for an attempt that has run, and what
    /// [`Engine::create`] says.
    pub async fn create_pod_container(
        &self,
        spec: ContainerSpec,
    ) -> Result<ContainerId, EngineError> {
        let member = spec.pod.clone().ok_or_else(|| {
            EngineError::new(ErrorKind::Internal, "a container of a pod without its pod")
        })?;
        let pod = self.find_pod(member.pod.as_str())?;
        let engine = &self.inner;
        let key = (pod.id.clone(), member.name.clone(), member.attempt);
        let work = || make(Arc::clone(engine), Arc::clone(&pod), member.clone(), spec);
        engine.pods.creating.join(&engine.tasks, key, work).await
    }

    /// Starts a container of a pod.
    ///
    /// # Errors
    /// `Conflict` when it has run or its pod is not ready; why it could not be started.
    pub async fn start_pod_container(&self, key: &str) -> Result<(), EngineError> {
        let container = self.find_member(key)?;
        let view = container.view();
        let ready = view.spec.pod.as_ref().map(|member| ready(&self.inner, &member.pod));
        ready.transpose()?;
        let fresh = view.state.finished_at.is_none();
        match container.snapshot().phase {
            Phase::Created | Phase::Starting if fresh => {}
            _ => {
                return Err(EngineError::conflict(format!(
                    "container {} was started before: Kubernetes' containers run once",
                    view.id
                )));
            }
        }
        match lifecycle::start(&container).await {
            // The first of two callers is enough.
            Err(error) if error.kind() == ErrorKind::NotModified => Ok(()),
            other => other,
        }
    }

    /// Stops a container of a pod; one that does not run or is gone is no error.
    ///
    /// # Errors
    /// `DeadlineExceeded` when SIGKILL has no effect.
    pub async fn stop_pod_container(
        &self,
        key: &str,
        timeout: Option<i64>,
    ) -> Result<(), EngineError> {
        let Some(container) = gone_is_fine(self.find_member(key))? else { return Ok(()) };
        let engine = Arc::clone(&self.inner);
        let options = StopOptions { timeout, ..StopOptions::default() };
        match self.detached(lifecycle::stop(engine, container, options)).await {
            Err(e) if matches!(e.kind(), ErrorKind::NotModified | ErrorKind::NotFound) => Ok(()),
            other => other,
        }
    }

    /// Removes a container of a pod, by force when it runs; one that is gone is no error.
    ///
    /// # Errors
    /// As [`Engine::remove`].
    pub async fn remove_pod_container(&self, key: &str) -> Result<(), EngineError> {
        let Some(container) = gone_is_fine(self.find_member(key))? else { return Ok(()) };
        let removed = lifecycle::remove(&container, Force::Yes, Volumes::Remove).await;
        gone_is_fine(removed).map(drop)
    }

    /// Changes limits of a container of a pod, at once when it runs.
    ///
    /// # Errors
    /// As [`Engine::update`].
    pub async fn update_pod_container(
        &self,
        key: &str,
        options: UpdateOptions,
    ) -> Result<Vec<String>, EngineError> {
        let container = self.find_member(key)?;
        self.update_container(&container, options).await
    }

    /// Has the log of a container of a pod written to a new file, after somebody renamed the old
    /// one.
    ///
    /// # Errors
    /// `Conflict` when it does not run; no file is made then.
    pub async fn reopen_log(&self, key: &str) -> Result<(), EngineError> {
        let container = self.find_member(key)?;
        let task = container.task()?;
        match tokio::time::timeout(REOPEN_PATIENCE, task.reopen_log()).await {
            Ok(done) => done.map_err(|e| EngineError::wrap("reopen the log", e)),
            Err(_) => Err(EngineError::new(
                ErrorKind::DeadlineExceeded,
                format!("the log was not reopened within {} s", REOPEN_PATIENCE.as_secs()),
            )),
        }
    }
}

/// The pod, when containers may be made and started in it.
pub(crate) fn ready(engine: &Inner, id: &ContainerId) -> Result<Arc<Pod>, EngineError> {
    let pod = engine.pods.get(id).ok_or_else(|| super::no_such_pod(id.as_str()))?;
    match pod.view().phase {
        PodPhase::Ready => Ok(pod),
        PodPhase::Making | PodPhase::NotReady | PodPhase::Removing | PodPhase::Gone => {
            Err(EngineError::conflict(format!("pod sandbox {id} is not ready")))
        }
    }
}

async fn make(
    engine: Arc<Inner>,
    pod: Arc<Pod>,
    member: PodMember,
    spec: ContainerSpec,
) -> Result<ContainerId, EngineError> {
    ready(&engine, &pod.id)?;
    let name = name(&pod, &member)?;
    let mut spec = spec;
    spec.runtime = Some(engine.config.runtime_of_handler(&pod.view().spec.runtime_handler)?);
    if let Some(known) = engine.index.holder(&name).and_then(|id| engine.index.get(&id)) {
        let view = known.view();
        if known.snapshot().phase == Phase::Created && view.state.finished_at.is_none() {
            return Ok(view.id.clone());
        }
        return Err(EngineError::new(
            ErrorKind::AlreadyExists,
            format!("attempt {} of container {:?} is {}", member.attempt, member.name, view.id),
        ));
    }
    let created = Box::pin(create::create(Arc::clone(&engine), Some(name), spec)).await?;
    for warning in &created.warnings {
        tracing::warn!(container.id = %created.id, "{warning}");
    }
    // A stop of the pod that came meanwhile did not see it.
    if let Err(error) = ready(&engine, &pod.id) {
        if let Some(container) = engine.index.get(&created.id) {
            let _ = lifecycle::remove(&container, Force::Yes, Volumes::Remove).await;
        }
        return Err(error);
    }
    Ok(created.id)
}

/// Longest name of a container, bytes: what [`ContainerName`] takes.
const NAME_MAX: usize = 255;

/// The name of a container of a pod among all containers, as dockershim gave it, so that it can be
/// read in lists and is taken once. What a name may not hold is replaced and what is too long cut;
/// the digest of the real one keeps it apart then.
fn name(pod: &Pod, member: &PodMember) -> Result<ContainerName, EngineError> {
    let view = pod.view();
    let key = &view.spec.key;
    let whole = format!(
        "k8s_{}_{}_{}_{}_{}_{}",
        member.name,
        key.name,
        key.namespace,
        key.uid,
        pod.id.short(),
        member.attempt
    );
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if whole.len() <= NAME_MAX && whole.chars().all(plain) {
        return Ok(whole.parse()?);
    }
    let digest = pouch_types::Digest::of(whole.as_bytes()).hex()[..16].to_owned();
    let words = whole.chars().map(|c| if plain(c) { c } else { '-' });
    let shown: String = words.take(NAME_MAX - digest.len() - 1).collect();
    Ok(format!("{shown}_{digest}").parse()?)
}
