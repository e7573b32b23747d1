//! The start of the daemon: what the store says, what the backend still holds, and what follows.
//!
//! The same path serves the first start, a restart, a crash and a reboot:
//!
//! 1. Rows are loaded; after a quarantine of the database, the copies beside the containers.
//! 2. The backend lists what it holds. Shims that answer are adopted with their pids.
//! 3. Each container gets the one event that tells its state machine what was found; clean-ups,
//!    removals by `--rm` and restarts by policy are its effects and run after the engine answers.
//! 4. What lies on disk and belongs to no row is removed.
//!
//! A reboot is a restart with every task gone: `/run` is empty, so no shim is found.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use pouch_containerd::{Loaded, LoadedTask};
use pouch_store::StoreError;
use pouch_types::ContainerId;
use pouch_types::spec::MountKind;

use crate::EngineError;
use crate::container::actor::{self, Volatile};
use crate::container::record::{self, ExitFile, Record};
use crate::container::state::{Event, Frozen, Phase};
use crate::elsewhere::{self, SameBoot};
use crate::engine::{Inner, Rebuild};
use crate::lifecycle::create::CommitError;
use crate::lifecycle::{cleanup, remove, start};
use crate::records;

pub(crate) async fn restore(engine: &Arc<Inner>, rebuild: Rebuild) -> Result<(), EngineError> {
    make_directories(engine)?;
    let mut records: Vec<Record> = engine
        .store
        .read(|connection| records::load_all::<Record>(connection, record::NAME))
        .await
        .map_err(|e: StoreError| EngineError::wrap("load the containers", e))?;
    if rebuild == Rebuild::FromCopies {
        records = forget_removed(engine, records).await;
        records.extend(from_copies(engine, &records).await?);
    }
    let loaded = engine
        .backend
        .load_all()
        .await
        .map_err(|e| EngineError::wrap("list what the backend holds", e))?;
    let mut loaded: HashMap<ContainerId, Loaded> =
        loaded.into_iter().map(|l| (l.container.id().clone(), l)).collect();
    crate::pod::restore::load(engine, rebuild, &mut loaded).await?;
    let (mut live, mut others) = (Vec::new(), Vec::new());
    let now = Timestamp::now();
    for mut record in records {
        let dir = engine.config.container_dir(&record.id);
        prefer_copy(&mut record, &dir);
        let same_boot = record.boot_id == engine.boot_id;
        let same = if same_boot { SameBoot::Yes } else { SameBoot::No };
        if let Some(held) = elsewhere::find(engine, &record, same) {
            let volatile = Volatile { elsewhere: Some(held), ..of_living(engine, &record).await };
            live.push(lives(engine, &record.id, &volatile));
            let container = actor::spawn(engine, record, volatile);
            engine.index.insert(Arc::clone(&container));
            others.push(container);
            continue;
        }
        // A process only runs after its start is on record, so what a container that was never
        // started is held for did not get that far.
        let found = match record.state.phase {
            Phase::Created => None,
            _ => loaded.remove(&record.id),
        };
        record.state.dirty |= found.is_some();
        record.boot_id.clone_from(&engine.boot_id);
        let (event, volatile) = match &found {
            Some(found) => adopt(engine, &record, found, now).await,
            None => (gone(&record, &dir, now), Volatile::default()),
        };
        tracing::debug!(
            container.id = %record.id, phase = ?record.state.phase, same_boot, ?event, "restored"
        );
        if matches!(event, Event::Adopted { .. }) {
            live.push(lives(engine, &record.id, &volatile));
        }
        let spec = record.spec.clone();
        let generation = record.state.generation;
        let container = actor::spawn(engine, record, volatile);
        if let Some(found) = found {
            let mut run = container.run();
            run.container = Some(found.container);
            run.spec = start::kept_spec(&dir);
            run.task = match found.task {
                LoadedTask::Running(task)
                | LoadedTask::Paused(task)
                | LoadedTask::Stopped(task, _)
                | LoadedTask::Created(task)
                | LoadedTask::Silent(task) => Some(task),
                LoadedTask::Orphaned => None,
            };
        }
        engine.index.insert(Arc::clone(&container));
        let adopted = matches!(event, Event::Adopted { .. });
        // Waited for, so that the first reader sees the state and not what was stored.
        if let Err(error) = container.ask(event).await {
            tracing::error!(container.id = %container.id, error = error.text(), "not restored");
        }
        if adopted {
            crate::health::spawn(engine, &container, &spec, generation);
        }
    }
    crate::pod::restore::resume(engine);
    // What is left is of containers that nobody knows any more.
    for (id, stray) in loaded {
        engine.tasks.spawn(async move {
            if let Err(error) = stray.container.delete().await {
                let error = pouch_types::error::chain(&error);
                tracing::error!(container.id = %id, error, "cannot remove a stray task");
            }
        });
    }
    elsewhere::watch(engine, others);
    match engine.networks.reconcile(live).await {
        Ok(report) => {
            for (id, error) in report.failed {
                let error = pouch_types::error::chain(&error);
                tracing::error!(container.id = %id, error, "cannot restore the network");
            }
        }
        Err(error) => {
            let error = pouch_types::error::chain(&error);
            tracing::error!(error, "cannot restore the networks");
        }
    }
    // After a loss nothing is called a stray: it may be what the rows are missing.
    if rebuild == Rebuild::No {
        // Listed before anybody can create: what is made from now on is not among them.
        let strays = Strays::list(engine);
        let sweeper = Arc::clone(engine);
        engine.tasks.spawn(async move { strays.remove(&sweeper).await });
    }
    Ok(())
}

fn make_directories(engine: &Inner) -> Result<(), EngineError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let config = &engine.config;
    for dir in [
        config.data_root.join("containers"),
        config.exec_root.join("netns"),
        config.exec_root.join("shm"),
        config.exec_root.join("runtime"),
        config.data_root.join("pods"),
        config.exec_root.join("pods"),
    ] {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o710)
            .create(&dir)
            .map_err(|e| EngineError::io(format!("create {}", dir.display()), e))?;
    }
    Ok(())
}

/// Takes over what the copy knows better: of the same run, the pid and the start time.
fn prefer_copy(record: &mut Record, dir: &std::path::Path) {
    if let Ok(copy) = records::read_copy::<Record>(dir)
        && copy.id == record.id
        && copy.revision > record.revision
        && copy.state.generation == record.state.generation
    {
        *record = copy;
    }
}

/// After a quarantine: rows of the older copy whose containers were removed since are dropped.
async fn forget_removed(engine: &Inner, records: Vec<Record>) -> Vec<Record> {
    let (here, gone): (Vec<_>, Vec<_>) =
        records.into_iter().partition(|r| engine.config.container_dir(&r.id).exists());
    for record in gone {
        let result = remove::forget_row(engine, &record).await;
        if let Err(error) = result {
            let error = pouch_types::error::chain(&error);
            tracing::error!(container.id = %record.id, error, "cannot forget a removed container");
        }
    }
    here
}

/// After a quarantine: the records beside the containers, put back into the store.
async fn from_copies(engine: &Inner, known: &[Record]) -> Result<Vec<Record>, EngineError> {
    let base = engine.config.data_root.join("containers");
    let known: HashSet<&ContainerId> = known.iter().map(|r| &r.id).collect();
    let entries = std::fs::read_dir(&base)
        .map_err(|e| EngineError::io(format!("read {}", base.display()), e))?;
    let mut rebuilt = Vec::new();
    for entry in entries.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|n| n.parse::<ContainerId>().ok())
        else {
            continue;
        };
        if known.contains(&id) {
            continue;
        }
        let record = match records::read_copy::<Record>(&entry.path()) {
            Ok(record) if record.id == id => record,
            Ok(_) => continue,
            Err(error) => {
                tracing::error!(container.id = %id, %error, "no record to rebuild from");
                continue;
            }
        };
        let row = record.clone();
        let mut result = engine.store.write(move |tx| row.insert_with_uses(tx)).await;
        if let Err(CommitError::Image(_) | CommitError::Volume(_)) = &result {
            // What it used is lost too. A container that runs is still better known than not.
            let row = record.clone();
            result = engine.store.write(move |tx| Ok(row.insert(tx)?)).await;
        }
        match result {
            Ok(()) => rebuilt.push(record),
            Err(error) => {
                let error = pouch_types::error::chain(&error);
                tracing::error!(container.id = %id, error, "cannot rebuild the record");
            }
        }
    }
    tracing::warn!(containers = rebuilt.len(), "rebuilt the database from the containers");
    Ok(rebuilt)
}

/// What the state machine is told of a container that the backend still holds.
async fn adopt(
    engine: &Arc<Inner>,
    record: &Record,
    found: &Loaded,
    now: Timestamp,
) -> (Event, Volatile) {
    let dir = engine.config.container_dir(&record.id);
    let generation = record.state.generation;
    let adopted = |pid: u32, paused| Event::Adopted {
        generation,
        pid,
        paused,
        started_at: record.state.started_at.or(Some(now)),
    };
    let event = match &found.task {
        LoadedTask::Running(task) => adopted(task.pid(), Frozen::No),
        LoadedTask::Paused(task) => adopted(task.pid(), Frozen::Yes),
        // It cannot say; it is taken for what it was, and its end will show in the exit file.
        LoadedTask::Silent(task) => {
            let pid = if task.pid() == 0 { record.state.pid } else { task.pid() };
            let paused = if record.state.phase == Phase::Paused { Frozen::Yes } else { Frozen::No };
            adopted(pid, paused)
        }
        LoadedTask::Created(_) | LoadedTask::Stopped(..) | LoadedTask::Orphaned => {
            Event::Boot { exit: cleanup::observed(&found.task, &dir, generation), at: now }
        }
    };
    match event {
        Event::Adopted { .. } => {
            let health = crate::health::initial(&record.spec);
            (event, Volatile { health, ..of_living(engine, record).await })
        }
        _ => (event, Volatile::default()),
    }
}

/// For the networks, a container whose run goes on.
fn lives(engine: &Inner, id: &ContainerId, volatile: &Volatile) -> pouch_network::LiveContainer {
    let netns = volatile.sandbox_key.clone().filter(|p| *p == engine.config.netns_path(id));
    pouch_network::LiveContainer { id: id.clone(), netns }
}

/// What a run that goes on has besides its record; its volumes' users are counted.
async fn of_living(engine: &Arc<Inner>, record: &Record) -> Volatile {
    let mut volatile = Volatile::default();
    let netns = engine.config.netns_path(&record.id);
    volatile.sandbox_key = netns.exists().then_some(netns);
    match engine.networks.endpoints(&record.id).await {
        Ok(endpoints) => {
            volatile.endpoints = endpoints.into_iter().map(start::endpoint_view).collect();
        }
        Err(error) => {
            let error = pouch_types::error::chain(&error);
            tracing::error!(container.id = %record.id, error, "endpoints unknown");
        }
    }
    tell_volumes(engine, record);
    volatile
}

/// Counts a running container among the users of its volumes, so that the end of another one does
/// not unmount them. Not waited for: a volume's server may be gone.
fn tell_volumes(engine: &Arc<Inner>, record: &Record) {
    let id = record.id.clone();
    let names: Vec<_> = record
        .mounts
        .iter()
        .filter_map(|mount| match &mount.spec.kind {
            MountKind::Volume { name, .. } => name.clone(),
            _ => None,
        })
        .collect();
    let volumes = engine.volumes.clone();
    engine.tasks.spawn(async move {
        for name in names {
            if let Err(error) = volumes.attach(&name, &id).await {
                let error = pouch_types::error::chain(&error);
                tracing::error!(container.id = %id, volume = %name, error, "use is not known");
            }
        }
    });
}

/// What it is told of a container that nobody holds: it ended, or never ran.
fn gone(record: &Record, dir: &std::path::Path, now: Timestamp) -> Event {
    let exit = ExitFile::read(dir, record.state.generation)
        .and_then(|_| cleanup::exit_of(dir, record.state.generation));
    Event::Boot { exit, at: now }
}

/// What lies on disk and belongs to no row: a create that was not committed, a removal that was.
struct Strays {
    directories: Vec<std::path::PathBuf>,
    snapshots: Vec<ContainerId>,
    namespaces: Vec<std::path::PathBuf>,
    shared_memory: Vec<ContainerId>,
}

impl Strays {
    fn list(engine: &Inner) -> Self {
        let config = &engine.config;
        let named = |dir: std::path::PathBuf| {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries.filter_map(|entry| {
                let id = entry.file_name().to_str()?.parse::<ContainerId>().ok()?;
                Some((id, entry.path()))
            })
        };
        let unknown = |id: &ContainerId| engine.index.get(id).is_none();
        let mounted: HashSet<ContainerId> = engine
            .index
            .all()
            .iter()
            .flat_map(|c| c.view().mounts.clone())
            .filter_map(|mount| Some(mount.image?.snapshot))
            .collect();
        let idle =
            |id: &ContainerId| engine.index.get(id).is_none_or(|c| c.view().sandbox_key.is_none());
        Self {
            directories: named(config.data_root.join("containers"))
                .filter(|(id, _)| unknown(id))
                .map(|(_, path)| path)
                .collect(),
            snapshots: engine
                .snapshots
                .containers()
                .into_iter()
                .filter(|id| unknown(id) && !mounted.contains(id))
                .collect(),
            namespaces: named(config.exec_root.join("netns"))
                .filter(|(id, _)| idle(id))
                .map(|(_, path)| path)
                .collect(),
            shared_memory: named(config.exec_root.join("shm"))
                .filter(|(id, _)| idle(id))
                .map(|(id, _)| id)
                .collect(),
        }
    }

    async fn remove(self, engine: &Inner) {
        for id in &self.snapshots {
            if let Err(error) = engine.snapshots.remove(id).await {
                let error = pouch_types::error::chain(&error);
                tracing::warn!(container.id = %id, error, "cannot remove a stray snapshot");
            }
        }
        let Self { directories, namespaces, shared_memory, .. } = self;
        let config = engine.config.clone();
        let files = tokio::task::spawn_blocking(move || {
            for path in directories {
                if let Err(error) = std::fs::remove_dir_all(&path) {
                    tracing::warn!(path = %path.display(), %error, "cannot remove a stray directory");
                }
            }
            for path in namespaces {
                if let Err(error) = pouch_netns::remove(&path) {
                    let error = pouch_types::error::chain(&error);
                    tracing::warn!(path = %path.display(), error, "cannot remove a stray namespace");
                }
            }
            for id in shared_memory {
                crate::lifecycle::namespaces::remove_shm(&config, &id);
            }
        });
        if let Err(error) = files.await {
            tracing::error!(%error, "the sweep of strays ended early");
        }
    }
}
