//! The end of a pod: its containers first, then its process, its network and its namespaces.
//!
//! Each step may have been done before; what fails is told, so that kubelet comes again, and what
//! does not depend on it is done all the same.

use std::sync::Arc;

use pouch_types::spec::Resources;
use pouch_types::{Classified as _, ErrorKind};

use super::record::PodRecord;
use super::state::PodEvent;
use super::{Pod, PodPhase, namespaces, network};
use crate::api::StopOptions;
use crate::container::Container;
use crate::container::actor::Volumes;
use crate::container::state::Force;
use crate::engine::Inner;
use crate::lifecycle::stop as lifecycle;
use crate::{Engine, EngineError, failpoint};

impl Engine {
    /// Stops a pod: its containers are killed, its addresses and namespaces given back. One that is
    /// gone is no error.
    ///
    /// # Errors
    /// What could not be given back; asked again, it is tried again.
    pub async fn stop_pod(&self, key: &str) -> Result<(), EngineError> {
        self.in_turn(key, |engine, pod| async move { stop(&engine, &pod).await }).await
    }

    /// Removes a pod with its containers, by force when they run. One that is gone is no error.
    ///
    /// # Errors
    /// As [`Engine::stop_pod`], and the store's.
    pub async fn remove_pod(&self, key: &str) -> Result<(), EngineError> {
        self.in_turn(key, |engine, pod| async move { finish(&engine, &pod).await }).await
    }

    /// Does `work` with a pod when its turn comes; nothing with one that is gone by then.
    async fn in_turn<W>(
        &self,
        key: &str,
        work: impl FnOnce(Arc<Inner>, Arc<Pod>) -> W + Send + 'static,
    ) -> Result<(), EngineError>
    where
        W: Future<Output = Result<(), EngineError>> + Send,
    {
        let Some(pod) = gone_is_fine(self.find_pod(key))? else { return Ok(()) };
        let engine = Arc::clone(&self.inner);
        self.detached(async move {
            let _turn = pod.turn.lock().await;
            match engine.pods.get(&pod.id) {
                Some(_) => work(engine, Arc::clone(&pod)).await,
                None => Ok(()),
            }
        })
        .await
    }

    /// Notes what a pod as a whole may take; kubelet has set its control group itself.
    ///
    /// # Errors
    /// `NotFound`, the store's.
    pub async fn resize_pod(
        &self,
        key: &str,
        resources: Option<Resources>,
        overhead: Option<Resources>,
    ) -> Result<(), EngineError> {
        let pod = self.find_pod(key)?;
        let engine = Arc::clone(&self.inner);
        self.detached(async move {
            let _turn = pod.turn.lock().await;
            let mut record = pod.record().clone();
            record.spec.resources = resources.or(record.spec.resources);
            record.spec.overhead = overhead.or(record.spec.overhead);
            pod.replace(&engine, record).await
        })
        .await
    }
}

/// `None` for what does not exist.
pub(super) fn gone_is_fine<T>(found: Result<T, EngineError>) -> Result<Option<T>, EngineError> {
    match found {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// The containers of a pod.
pub(super) fn members(engine: &Inner, pod: &Pod) -> Vec<Arc<Container>> {
    let mut all = engine.index.all();
    all.retain(|c| c.view().spec.pod.as_ref().is_some_and(|member| member.pod == pod.id));
    all
}

async fn stop(engine: &Arc<Inner>, pod: &Arc<Pod>) -> Result<(), EngineError> {
    // First, so that no container is made in it any more.
    pod.step(engine, PodEvent::Stop).await?;
    failpoint::hit("pod:stopping");
    let kill = StopOptions { timeout: Some(0), ..StopOptions::default() };
    let ends = members(engine, pod).into_iter().map(|container| {
        let engine = Arc::clone(engine);
        async move {
            match lifecycle::stop(engine, container, kill).await {
                Err(e) if matches!(e.kind(), ErrorKind::NotModified | ErrorKind::NotFound) => {
                    Ok(())
                }
                // It is being removed, which ends it too.
                Err(e) if e.kind() == ErrorKind::Conflict => Ok(()),
                other => other,
            }
        }
    });
    for ended in futures::future::join_all(ends).await {
        ended?;
    }
    failpoint::hit("pod:containers-stopped");
    let record = pod.record().clone();
    if !record.state.held {
        return Ok(());
    }
    release(engine, pod, &record).await?;
    pod.step(engine, PodEvent::Released).await?;
    pod.announce(engine, "die");
    failpoint::hit("pod:released");
    Ok(())
}

/// Gives back what a sandbox holds.
async fn release(engine: &Arc<Inner>, pod: &Pod, record: &PodRecord) -> Result<(), EngineError> {
    // Bound first: the guard must not live over the wait.
    let process = pod.process().clone();
    let (ended, detached) = tokio::join!(
        async {
            match &process {
                Some(process) => process.end().await,
                None => Ok(()),
            }
        },
        network::detach(engine, record),
    );
    if ended.is_ok() {
        *pod.process() = None;
        pod.publish(engine);
    }
    // The namespaces go last: plugins look into that of the network.
    detached?;
    ended?;
    namespaces::remove(&engine.config, &record.id).await
}

/// Takes back what a failed or interrupted making left, the row included.
pub(super) async fn undo(engine: &Arc<Inner>, pod: &Arc<Pod>) {
    let record = pod.record().clone();
    if let Err(error) = release(engine, pod, &record).await {
        tracing::error!(pod.id = %pod.id, error = error.text(), "cannot undo the making of a pod");
        // What is left is told by a sandbox that is not ready; kubelet stops and removes it.
        let _ = pod.step(engine, PodEvent::Lost).await;
        return;
    }
    if let Err(error) = forget(engine, pod, PodEvent::Failed).await {
        tracing::error!(pod.id = %pod.id, error = error.text(), "cannot forget a pod");
        // Shown as not ready, so that somebody removes it.
        let _ = pod.step(engine, PodEvent::Lost).await;
    }
}

/// Undoes a making and ends a removal that an earlier daemon began. Only for who has the turn.
pub(super) async fn complete(engine: &Arc<Inner>, pod: &Arc<Pod>) -> Result<(), EngineError> {
    match pod.view().phase {
        PodPhase::Making => undo(engine, pod).await,
        PodPhase::Removing => finish(engine, pod).await?,
        PodPhase::Ready | PodPhase::NotReady | PodPhase::Gone => {}
    }
    Ok(())
}

/// Stops and removes.
async fn finish(engine: &Arc<Inner>, pod: &Arc<Pod>) -> Result<(), EngineError> {
    stop(engine, pod).await?;
    remove(engine, pod).await
}

async fn remove(engine: &Arc<Inner>, pod: &Arc<Pod>) -> Result<(), EngineError> {
    pod.step(engine, PodEvent::Remove).await?;
    failpoint::hit("pod:removing");
    let ends = members(engine, pod).into_iter().map(|container| async move {
        gone_is_fine(lifecycle::remove(&container, Force::Yes, Volumes::Remove).await)
    });
    for ended in futures::future::join_all(ends).await {
        ended?;
    }
    failpoint::hit("pod:containers-removed");
    forget(engine, pod, PodEvent::Removed).await?;
    pod.announce(engine, "destroy");
    Ok(())
}

/// Deletes the row, and then what lies beside it.
async fn forget(engine: &Arc<Inner>, pod: &Arc<Pod>, event: PodEvent) -> Result<(), EngineError> {
    let id = pod.id.clone();
    let deleted = engine.store.write(move |tx| PodRecord::delete(tx, &id)).await;
    deleted.map_err(|e| EngineError::wrap("forget the pod", e))?;
    failpoint::hit("pod:forgotten");
    engine.pods.remove(&pod.id);
    {
        let mut record = pod.record();
        if let Ok(state) = record.state.step(event) {
            record.state = state;
        }
    }
    pod.publish(engine);
    let dir = engine.config.pod_dir(&pod.id);
    let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(dir)).await;
    if let Ok(Err(error)) = removed
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::error!(pod.id = %pod.id, %error, "cannot remove the pod's directory");
    }
    Ok(())
}
