//! The end of a run: how it is learnt, and how nothing of it is left.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pouch_containerd::{ExitStatus, LoadedTask};
use pouch_types::Signal;

use crate::container::record::ExitFile;
use crate::container::state::{Event, Exit, Phase};
use crate::container::{Container, Snapshot};
use crate::engine::Inner;
use crate::failpoint;

/// Time that a process gets to vanish after SIGKILL before its supervisor is forced.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// A shim reported the exit of the main process. The exit file, which it wrote before, decides.
pub(crate) async fn reported(container: &Container, status: ExitStatus) {
    let generation = container.snapshot().generation;
    let exit = exit_of(&container.dir, generation).unwrap_or(Exit {
        code: status.code,
        at: status.at,
        oom_killed: status.oom_killed,
    });
    container.post(Event::Exited { generation, exit }).await;
}

/// What the exit file says of a run.
pub(crate) fn exit_of(dir: &Path, generation: u64) -> Option<Exit> {
    ExitFile::read(dir, generation).map(|file| Exit {
        code: file.exit_status,
        at: file.exited_at,
        oom_killed: file.oom_killed,
    })
}

/// The shim died while its container was thought to run. Nobody holds the container's streams or
/// learns its exit any more, so what is left of it is killed: better an end that is known than a
/// container that is running for ever.
pub(crate) async fn supervisor_lost(container: &Container) {
    let snapshot = container.snapshot();
    if !matches!(snapshot.phase, Phase::Running | Phase::Paused) {
        return;
    }
    tracing::warn!(container.id = %container.id, "the shim died; ending its container");
    force(container, snapshot.generation).await;
}

/// Kills the main process; when that does not end the run in time, its supervisor too.
pub(crate) async fn kill(container: &Container, generation: u64) {
    let mut watch = container.watch();
    let task = container.run().task.clone();
    let ended = async {
        if let Some(task) = task {
            if let Err(error) = task.kill(Signal::KILL).await {
                tracing::debug!(container.id = %container.id, %error, "SIGKILL was not delivered");
            }
            // The v1 freezer holds even a killed process.
            if container.snapshot().phase == Phase::Paused
                && let Err(error) = task.resume().await
            {
                tracing::debug!(container.id = %container.id, %error, "cannot thaw for SIGKILL");
            }
        }
        let over = |s: &Snapshot| {
            s.generation != generation || !matches!(s.phase, Phase::Running | Phase::Paused)
        };
        // An error means that the container is gone, which is an end too.
        let _ = watch.wait_for(over).await;
    };
    if tokio::time::timeout(KILL_PATIENCE, ended).await.is_err() {
        tracing::warn!(container.id = %container.id, "SIGKILL had no effect; forcing the shim");
        force(container, generation).await;
    }
}

/// Ends a run without the help of its shim.
async fn force(container: &Container, generation: u64) {
    let backend = container.run().container.clone();
    if let Some(backend) = backend
        && let Err(error) = backend.delete().await
    {
        let error = pouch_types::error::chain(&error);
        tracing::error!(container.id = %container.id, error, "cannot force the end");
    }
    let exit = exit_of(&container.dir, generation).unwrap_or_else(|| Exit {
        code: 128 + Signal::KILL.number(),
        at: Timestamp::now(),
        oom_killed: false,
    });
    container.post(Event::Exited { generation, exit }).await;
}

/// Removes what a run left: task, shim, network, mounts. Reports what fails and goes on; what
/// could not be removed now is tried again at the next start of the daemon.
pub(crate) async fn clean_up(engine: &Arc<Inner>, container: &Arc<Container>) {
    let (backend, waiting) = {
        let mut run = container.run();
        run.task = None;
        (run.container.take(), std::mem::take(&mut run.waiting))
    };
    drop(waiting);
    engine.execs.container_ended(&container.id);
    let id = &container.id;
    let log = |what: &str, error: &dyn std::error::Error| {
        let error = pouch_types::error::chain(error);
        tracing::error!(container.id = %id, error, "clean-up: {what}");
    };
    let (deleted, detached) = tokio::join!(
        async {
            match &backend {
                Some(backend) => backend.delete().await,
                None => Ok(()),
            }
        },
        async {
            // Known only as long as the attachment is.
            let endpoints = engine.networks.endpoints(id).await.unwrap_or_default();
            engine.networks.detach(id).await.map(|()| endpoints)
        },
    );
    failpoint::hit("cleanup:task-deleted");
    if let Err(error) = deleted {
        log("the task", &error);
    }
    match detached {
        Ok(endpoints) => {
            for endpoint in endpoints {
                engine.announce_network("disconnect", id, &super::start::endpoint_view(endpoint));
            }
        }
        Err(error) => log("the network", &error),
    }
    failpoint::hit("cleanup:network-detached");
    let netns = engine.config.netns_path(id);
    let removed = tokio::task::spawn_blocking(move || pouch_netns::remove(&netns)).await;
    match removed {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log("the network namespace", &error),
        Err(error) => log("the network namespace", &error),
    }
    let view = container.view();
    if let Err(error) = super::mounts::release(engine, &view).await {
        log("the volumes", &error);
    }
    super::namespaces::remove_shm(&engine.config, id);
}

/// What a task found at boot means for the state machine.
pub(crate) fn observed(task: &LoadedTask, dir: &Path, generation: u64) -> Option<Exit> {
    match task {
        LoadedTask::Stopped(_, status) => Some(exit_of(dir, generation).unwrap_or(Exit {
            code: status.code,
            at: status.at,
            oom_killed: status.oom_killed,
        })),
        LoadedTask::Orphaned | LoadedTask::Created(_) => exit_of(dir, generation),
        LoadedTask::Running(_) | LoadedTask::Paused(_) | LoadedTask::Silent(_) => None,
    }
}
