//! Containers whose run the other backend holds.
//!
//! A daemon that is started with one backend finds containers that were left running with the
//! other. They are none of this daemon's business, and must not be lost: their records stay as
//! they are, so that the right backend finds everything as it was; their network, volumes and name
//! stay theirs; they are listed with what can be seen from outside (the exit file, and whether
//! somebody holds the streams); and whatever would need their backend is refused with the way back.
//!
//! Only a run ties a container to a backend. One that was never started, or of whose last run
//! nothing is left, is started by whichever backend there is, from the same root file system.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pouch_containerd::{Kind, is_held};
use pouch_types::ContainerId;

use crate::EngineError;
use crate::container::Container;
use crate::container::actor::Message;
use crate::container::record::Record;
use crate::container::state::{Exit, Phase};
use crate::engine::Inner;
use crate::lifecycle::cleanup;

/// Label by which such a container is found in lists.
pub const LABEL: &str = "dev.pouch.backend";
/// Between two looks at such containers; where there are none, nobody looks.
const LOOK: Duration = Duration::from_secs(5);

/// Who holds a container's run, when it is not the backend that serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// The backend that does.
    pub backend: Kind,
    /// What can be seen of the run from here.
    pub seen: Seen,
}

/// What can be seen of a run from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Its streams are held: it runs, as far as anybody here can tell.
    Running,
    /// Its end is on record.
    Ended(Exit),
    /// Nobody holds its streams, and no end was recorded: its shim died.
    Lost,
}

impl Elsewhere {
    /// Why a request is refused, and what to do about it.
    pub(crate) fn refusal(&self, id: &ContainerId) -> EngineError {
        EngineError::conflict(format!("container {id} {}", self.explain()))
    }

    /// What a user should know.
    #[must_use]
    pub fn explain(&self) -> String {
        let (theirs, ours) = (self.backend, self.backend.other());
        let seen = match self.seen {
            Seen::Running => "runs under",
            Seen::Ended(_) => "has ended, and is not cleaned up yet, under",
            Seen::Lost => "was left without its shim under",
        };
        format!(
            "{seen} the backend \"{theirs}\", and this pouchd serves \"{ours}\": to manage it, \
             restart pouchd with --backend {theirs}"
        )
    }
}

/// Whether the run of `record` is held by the other backend. `same_boot`: the machine was not
/// restarted since the record was written, which no run outlives.
pub(crate) fn find(engine: &Inner, record: &Record, same_boot: SameBoot) -> Option<Elsewhere> {
    if same_boot == SameBoot::No || record.state.phase == Phase::Created {
        return None;
    }
    let ours = engine.backend.status().kind;
    let theirs = ours.other();
    let exists = |kind: Kind| kind.run_dir(&engine.config.exec_root, &record.id).exists();
    // A record of an earlier version does not say: then the directories do.
    let held = match record.backend {
        Some(kind) => kind == theirs && exists(theirs),
        None => exists(theirs) && !exists(ours),
    };
    held.then(|| Elsewhere { backend: theirs, seen: look(engine, theirs, record) })
}

/// See [`find`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SameBoot {
    Yes,
    No,
}

fn look(engine: &Inner, kind: Kind, record: &Record) -> Seen {
    let dir = engine.config.container_dir(&record.id);
    let run_dir = kind.run_dir(&engine.config.exec_root, &record.id);
    seen(&run_dir, &dir, record.state.generation)
}

fn seen(run_dir: &Path, dir: &Path, generation: u64) -> Seen {
    match cleanup::exit_of(dir, generation) {
        Some(exit) => Seen::Ended(exit),
        None if is_held(run_dir) => Seen::Running,
        None => Seen::Lost,
    }
}

/// Keeps what is shown of these containers true.
pub(crate) fn watch(engine: &Arc<Inner>, containers: Vec<Arc<Container>>) {
    if containers.is_empty() {
        return;
    }
    tracing::warn!(
        containers = containers.len(),
        backend = %engine.backend.status().kind.other(),
        "containers of the other backend are listed and left alone"
    );
    let (closing, exec_root) = (engine.closing.clone(), engine.config.exec_root.clone());
    tokio::spawn(async move {
        // Cancel-safe: it only looks.
        while closing.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            for container in &containers {
                let snapshot = container.snapshot();
                let Some(elsewhere) = &snapshot.view.elsewhere else { continue };
                let run_dir = elsewhere.backend.run_dir(&exec_root, &container.id);
                let (dir, generation) = (container.dir.clone(), snapshot.generation);
                let look = tokio::task::spawn_blocking(move || seen(&run_dir, &dir, generation));
                match look.await {
                    Ok(now) if now != elsewhere.seen => {
                        // It may be that nobody is there to be told any more.
                        let _ = container.send(Message::Seen(now)).await;
                    }
                    Ok(_) => {}
                    Err(error) => tracing::error!(%error, "cannot look at a container"),
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_on_record_decides_over_what_still_listens() {
        let (run, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_eq!(seen(run.path(), dir.path(), 3), Seen::Lost);
        let _listener = std::os::unix::net::UnixListener::bind(run.path().join("io.sock")).unwrap();
        assert_eq!(seen(run.path(), dir.path(), 3), Seen::Running);
        let end = r#"{"generation":2,"pid":9,"exit_status":7,"exited_at":"2026-01-02T03:04:05Z"}"#;
        std::fs::write(dir.path().join("exit.json"), end).unwrap();
        assert_eq!(seen(run.path(), dir.path(), 3), Seen::Running, "that was an earlier run");
        let Seen::Ended(exit) = seen(run.path(), dir.path(), 2) else { panic!("it ended") };
        assert_eq!(exit.code, 7);
    }

    #[test]
    fn a_refusal_names_the_backend_and_the_way_back() {
        let id: ContainerId = "a".repeat(64).parse().unwrap();
        let elsewhere = Elsewhere { backend: Kind::Local, seen: Seen::Running };
        let text = elsewhere.refusal(&id).text();
        assert!(text.contains("runs under the backend \"local\""), "{text}");
        assert!(text.contains("--backend local"), "{text}");
    }
}
