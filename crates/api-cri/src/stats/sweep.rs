//! One pass over control groups, each read once, for everything that a call answers from.
//!
//! Reads block and are many, so a pass runs beside the async runtime; it ends after a while with
//! what it has, for a figure that comes too late is worth nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pouch_cgroup::{Cgroup, Stats};
use pouch_engine::{ContainerView, Engine, EngineError, PodNetworks, PodPhase, PodView};
use pouch_types::{ContainerId, ErrorKind};

use super::timestamp;

/// Time for one pass over all pods.
const PATIENCE: Duration = Duration::from_secs(5);

/// A control group at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) group: Cgroup,
    pub(crate) stats: Stats,
    /// For rates.
    pub(super) seen: Instant,
    /// Nanoseconds since 1970.
    pub(super) at: i64,
}

impl Reading {
    fn take(group: Cgroup) -> Result<Self, EngineError> {
        let stats = group.stats();
        let stats = stats.map_err(|e| EngineError::wrap("read the control groups", e))?;
        Ok(Self { group, stats, seen: Instant::now(), at: timestamp() })
    }

    /// One that is to be shown.
    #[cfg(test)]
    pub(crate) fn fixed(group: Cgroup, stats: Stats) -> Self {
        Self { group, stats, seen: Instant::now(), at: 1 }
    }
}

/// A container and what it uses; `None` when it does not run.
#[derive(Debug, Clone)]
pub(crate) struct ContainerReading {
    pub(crate) view: Arc<ContainerView>,
    pub(crate) reading: Option<Reading>,
}

/// A pod and what it uses.
#[derive(Debug, Clone)]
pub(crate) struct PodReading {
    pub(crate) view: Arc<PodView>,
    /// Of the group above its containers; `None` when it has none of its own.
    pub(crate) group: Option<Reading>,
    pub(crate) networks: PodNetworks,
    /// Those that run.
    pub(crate) containers: Vec<ContainerReading>,
}

/// Runs `pass` where it may block.
pub(crate) async fn beside<T: Send + 'static>(
    pass: impl FnOnce() -> T + Send + 'static,
) -> Result<T, EngineError> {
    let done = tokio::task::spawn_blocking(pass).await;
    done.map_err(|e| EngineError::new(ErrorKind::Internal, format!("read control groups: {e}")))
}

/// Reads one container.
pub(super) fn container(
    engine: &Engine,
    view: Arc<ContainerView>,
) -> Result<ContainerReading, EngineError> {
    let read = match view.state.is_running() {
        true => engine.container_group(&view).and_then(Reading::take).map(Some),
        false => Ok(None),
    };
    let reading = match read {
        Ok(reading) => reading,
        // It ended between the two looks.
        Err(_) if !engine.pod_container(view.id.as_str()).is_ok_and(|v| v.state.is_running()) => {
            None
        }
        Err(error) => return Err(error),
    };
    Ok(ContainerReading { view, reading })
}

/// Reads those of `views` that run.
pub(super) fn containers(engine: &Engine, views: Vec<Arc<ContainerView>>) -> Vec<ContainerReading> {
    let mut time = Time::default();
    views
        .into_iter()
        .filter(|view| view.state.is_running() && time.left())
        .filter_map(|view| some(container(engine, view)))
        .filter(|read| read.reading.is_some())
        .collect()
}

/// Reads one pod with those of its containers that run.
fn pod(
    engine: &Engine,
    view: Arc<PodView>,
    members: Vec<Arc<ContainerView>>,
) -> Result<PodReading, EngineError> {
    let pids = [view.pid].into_iter().chain(members.iter().map(|member| member.state.pid));
    let pid = pids.into_iter().find(|pid| *pid != 0);
    let group = engine.pod_group(&view).and_then(|group| group.map(Reading::take).transpose());
    let networks = engine.pod_networks(&view, pid);
    Ok(PodReading {
        group: group.or_else(|error| unless_stopped(engine, &view, error))?,
        networks: networks.or_else(|error| unless_stopped(engine, &view, error))?,
        containers: containers(engine, members),
        view,
    })
}

/// Nothing of a pod that was stopped between two looks; the error of any other.
fn unless_stopped<T: Default>(
    engine: &Engine,
    view: &PodView,
    error: EngineError,
) -> Result<T, EngineError> {
    match engine.pod(view.id.as_str()) {
        Ok(now) if now.phase == PodPhase::Ready => Err(error),
        Ok(_) | Err(_) => Ok(T::default()),
    }
}

/// Reads one pod.
pub(super) fn one_pod(engine: &Engine, view: Arc<PodView>) -> Result<PodReading, EngineError> {
    let members = members(engine).remove(&view.id).unwrap_or_default();
    pod(engine, view, members)
}

/// Reads pods; what fails is told to the log and left out.
pub(crate) fn pods(engine: &Engine, views: Vec<Arc<PodView>>) -> Vec<PodReading> {
    let mut members = members(engine);
    let mut time = Time::default();
    views
        .into_iter()
        .filter(|_| time.left())
        .filter_map(|view| {
            let members = members.remove(&view.id).unwrap_or_default();
            some(pod(engine, view, members))
        })
        .collect()
}

/// Containers that run, by pod.
fn members(engine: &Engine) -> HashMap<ContainerId, Vec<Arc<ContainerView>>> {
    let mut members: HashMap<_, Vec<_>> = HashMap::new();
    for view in engine.pod_containers() {
        let Some(member) = view.spec.pod.as_ref().filter(|_| view.state.is_running()) else {
            continue;
        };
        members.entry(member.pod.clone()).or_default().push(view);
    }
    members
}

/// What a list leaves out is in the log.
fn some<T>(read: Result<T, EngineError>) -> Option<T> {
    read.inspect_err(|error| {
        let error = pouch_types::error::chain(error);
        tracing::debug!(error, "left out of a list of figures");
    })
    .ok()
}

/// The time of a pass.
#[derive(Debug)]
struct Time {
    until: Instant,
    over: bool,
}

impl Default for Time {
    fn default() -> Self {
        Self { until: Instant::now() + PATIENCE, over: false }
    }
}

impl Time {
    fn left(&mut self) -> bool {
        if !self.over && Instant::now() >= self.until {
            self.over = true;
            tracing::warn!("reading control groups takes too long; figures are incomplete");
        }
        !self.over
    }
}
