//! Pods at the daemon's start: what still stands is ready, what a reboot took is not, and what was
//! being made or removed is undone or finished.

use std::collections::HashMap;
use std::sync::Arc;

use pouch_containerd::{Loaded, LoadedTask};
use pouch_types::ContainerId;
use pouch_types::pod::PidScope;

use super::record::{self, PodRecord};
use super::state::{PodEvent, PodPhase};
use super::{Pod, namespaces, network, process, stop};
use crate::EngineError;
use crate::engine::{Inner, Rebuild};
use crate::records;

/// Loads all pods. Takes what belongs to them out of `loaded`, what the backend holds.
pub(crate) async fn load(
    engine: &Arc<Inner>,
    rebuild: Rebuild,
    loaded: &mut HashMap<ContainerId, Loaded>,
) -> Result<(), EngineError> {
    let records = engine.store.read(|c| records::load_all::<PodRecord>(c, record::NAME)).await;
    let mut records = records.map_err(|e| EngineError::wrap("load the pods", e))?;
    if rebuild == Rebuild::FromCopies {
        records.retain(|r| engine.config.pod_dir(&r.id).exists());
        let known: Vec<ContainerId> = records.iter().map(|r| r.id.clone()).collect();
        for record in copies(engine).into_iter().filter(|r| !known.contains(&r.id)) {
            let row = record.clone();
            match engine.store.write(move |tx| row.put(tx)).await {
                Ok(()) => records.push(record),
                Err(error) => {
                    let error = pouch_types::error::chain(&error);
                    tracing::error!(pod.id = %record.id, error, "cannot rebuild the pod's record");
                }
            }
        }
    }
    for record in records {
        let found = loaded.remove(&record.id);
        let pod = Pod::new(&engine.config, record);
        engine.pods.insert(Arc::clone(&pod));
        observe(engine, &pod, found).await;
    }
    if rebuild == Rebuild::No {
        remove_strays(engine).await;
        let engine = Arc::clone(engine);
        engine.clone().tasks.spawn(async move { network::collect(&engine).await });
    }
    Ok(())
}

/// Records beside the pods, for a database that was lost.
fn copies(engine: &Inner) -> Vec<PodRecord> {
    let entries = std::fs::read_dir(engine.config.data_root.join("pods"));
    let entries = entries.into_iter().flatten().flatten();
    entries.filter_map(|entry| records::read_copy::<PodRecord>(&entry.path()).ok()).collect()
}

async fn observe(engine: &Arc<Inner>, pod: &Arc<Pod>, found: Option<Loaded>) {
    let record = pod.record().clone();
    let mut lives = false;
    if let Some(found) = found {
        let pid = match &found.task {
            LoadedTask::Running(task) | LoadedTask::Paused(task) | LoadedTask::Silent(task) => {
                lives = true;
                pouch_containerd::Process::pid(&**task)
            }
            LoadedTask::Stopped(..) | LoadedTask::Created(_) | LoadedTask::Orphaned => 0,
        };
        // Also of a dead one: its end frees what is left of it.
        let pin = namespaces::Pins::of(&engine.config, &record).pid;
        *pod.process() = Some(process::Handle::new(found.container, pid, pin.as_deref()));
    }
    let whole = record.boot_id == engine.boot_id
        && namespaces::stand(&engine.config, &record)
        && (lives || record.spec.namespaces.pid != PidScope::Pod);
    match record.state.phase {
        PodPhase::Ready if !whole => {
            if let Err(error) = pod.step(engine, PodEvent::Lost).await {
                tracing::error!(pod.id = %pod.id, error = error.text(), "cannot record a lost pod");
            }
        }
        PodPhase::Ready
        | PodPhase::NotReady
        | PodPhase::Gone
        | PodPhase::Making
        | PodPhase::Removing => pod.publish(engine),
    }
}

/// Undoes and finishes what an earlier daemon began, when the containers are known: a removal takes
/// them along.
pub(crate) fn resume(engine: &Arc<Inner>) {
    for pod in engine.pods.all() {
        if !matches!(pod.view().phase, PodPhase::Making | PodPhase::Removing) {
            continue;
        }
        let engine = Arc::clone(engine);
        engine.clone().tasks.spawn(async move {
            let _turn = pod.turn.lock().await;
            if let Err(error) = stop::complete(&engine, &pod).await {
                let error = error.text();
                tracing::error!(pod.id = %pod.id, error, "what a crash cut off stays unfinished");
            }
        });
    }
}

/// Directories and pins that belong to no row.
async fn remove_strays(engine: &Arc<Inner>) {
    let config = engine.config.clone();
    let unknown = |dir: std::path::PathBuf| -> Vec<ContainerId> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let ids = entries.filter_map(|e| e.file_name().to_str()?.parse::<ContainerId>().ok());
        ids.filter(|id| engine.pods.get(id).is_none()).collect()
    };
    let data = unknown(config.data_root.join("pods"));
    let state = unknown(config.exec_root.join("pods"));
    for id in state {
        if let Err(error) = namespaces::remove(&config, &id).await {
            tracing::warn!(pod.id = %id, error = error.text(), "cannot remove stray namespaces");
        }
    }
    let removed = tokio::task::spawn_blocking(move || {
        for id in data {
            let path = config.pod_dir(&id);
            if let Err(error) = std::fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a stray directory");
            }
        }
    });
    let _ = removed.await;
}
