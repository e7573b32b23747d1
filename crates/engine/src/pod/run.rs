//! RunPodSandbox: from a specification to a sandbox that containers can be made in.
//!
//! Order: check; the row, as the intent that a crash leaves; namespaces and name files; the
//! network and, where processes are shared, the pod's own process, side by side; the row again,
//! ready. What fails undoes what was made and leaves no row.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use pouch_types::pod::{PodKey, PodSpec};
use pouch_types::{ContainerId, ErrorKind};

use super::record::PodRecord;
use super::state::{PodEvent, PodState};
use super::{Pod, PodPhase, files, namespaces, network, process, stop};
use crate::engine::Inner;
use crate::{Engine, EngineError, failpoint};

impl Engine {
    /// Makes a pod's sandbox and gives its id. Asked again for the same pod and attempt, it is the
    /// one that is being made or that is ready.
    ///
    /// # Errors
    /// `Invalid` with the field, `NotFound` for an unknown runtime handler, `AlreadyExists` when the
    /// sandbox of this attempt has ended; what the kernel or the network says.
    pub async fn run_pod(&self, spec: PodSpec) -> Result<ContainerId, EngineError> {
        check(&self.inner, &spec)?;
        let engine = &self.inner;
        let work = || run(Arc::clone(engine), spec.clone());
        engine.pods.making.join(&engine.tasks, spec.key.clone(), work).await
    }
}

fn check(engine: &Inner, spec: &PodSpec) -> Result<(), EngineError> {
    engine.config.runtime_of_handler(&spec.runtime_handler)?;
    if spec.key.name.is_empty() || spec.key.uid.is_empty() || spec.key.namespace.is_empty() {
        return Err(EngineError::invalid("metadata: name, uid and namespace must not be empty"));
    }
    if let Some(user) = &spec.namespaces.user {
        namespaces::check(user)?;
        if !engine.config.has_own_user_namespaces(&spec.runtime_handler) {
            return Err(EngineError::new(
                ErrorKind::Unsupported,
                format!(
                    "namespace_options.userns_options: not with runtime handler {:?}",
                    spec.runtime_handler
                ),
            ));
        }
        if spec.privileged {
            return Err(EngineError::invalid(
                "a privileged pod cannot have a user namespace of its own",
            ));
        }
    }
    Ok(())
}

/// The pod's directory, closed to everybody but root.
fn make_dir(dir: &Path) -> Result<(), EngineError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| EngineError::io(format!("create {}", dir.display()), e))
}

/// The pod of a key. One that an earlier daemon left half made or half removed is ended first, so
/// that whoever asks again is not told to wait for it.
async fn known(engine: &Arc<Inner>, key: &PodKey) -> Result<Option<Arc<Pod>>, EngineError> {
    let find = || engine.pods.all().into_iter().find(|pod| pod.view().spec.key == *key);
    let Some(found) = find() else { return Ok(None) };
    if matches!(found.view().phase, PodPhase::Making | PodPhase::Removing) {
        let _turn = found.turn.lock().await;
        stop::complete(engine, &found).await?;
    }
    Ok(find())
}

async fn run(engine: Arc<Inner>, spec: PodSpec) -> Result<ContainerId, EngineError> {
    if let Some(known) = known(&engine, &spec.key).await? {
        return match known.view().phase {
            PodPhase::Ready => Ok(known.id.clone()),
            PodPhase::Making | PodPhase::NotReady | PodPhase::Removing | PodPhase::Gone => {
                Err(EngineError::new(
                    ErrorKind::AlreadyExists,
                    format!("pod sandbox {} of {} has ended; remove it first", known.id, spec.key),
                ))
            }
        };
    }
    let id = ContainerId::random()
        .map_err(|e| EngineError::new(ErrorKind::Internal, format!("no random bytes: {e}")))?;
    let record = PodRecord {
        id: id.clone(),
        created: Timestamp::now(),
        spec,
        state: PodState::NEW,
        ips: Vec::new(),
        boot_id: engine.boot_id.clone(),
    };
    let row = record.clone();
    engine
        .store
        .write(move |tx| row.put(tx))
        .await
        .map_err(|e| EngineError::wrap("record the pod", e))?;
    failpoint::hit("pod:recorded");
    let pod = Pod::new(&engine.config, record);
    // Before anybody finds it.
    let _turn = pod.turn.lock().await;
    engine.pods.insert(Arc::clone(&pod));
    match make(&engine, &pod).await {
        Ok(()) => {
            pod.announce(&engine, "create");
            pod.announce(&engine, "start");
            Ok(id)
        }
        Err(error) => {
            tracing::info!(pod.id = %id, error = error.text(), "the pod could not be made");
            stop::undo(&engine, &pod).await;
            Err(error)
        }
    }
}

async fn make(engine: &Arc<Inner>, pod: &Arc<Pod>) -> Result<(), EngineError> {
    let mut record = pod.record().clone();
    let dir = engine.config.pod_dir(&record.id);
    make_dir(&dir)?;
    namespaces::make(engine, &record).await?;
    failpoint::hit("pod:namespaces-made");
    let (ips, process) =
        tokio::join!(network::attach(engine, &record), process::start(engine, &record),);
    failpoint::hit("pod:network-attached");
    // Kept before an error returns, so that the undo finds it.
    let process = process.map(|process| *pod.process() = process);
    record.ips = ips?;
    process?;
    files::write(engine, &record)?;
    record.state = record.state.step(PodEvent::Made).map_err(|_| {
        EngineError::new(ErrorKind::Internal, "the pod was ended while it was being made")
    })?;
    pod.replace(engine, record).await.map_err(|e| EngineError::wrap("record the pod", e))?;
    failpoint::hit("pod:ready");
    Ok(())
}
