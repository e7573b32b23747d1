//! `docker commit`: a container's changes as a new image.
//!
//! A container that runs is frozen meanwhile, so that the image shows it at one moment. It goes on
//! in any case: the work is a task of its own, whatever becomes of the client.

use std::collections::BTreeMap;

use pouch_image::{Changes, CommitOptions, ContainerConfig, HealthConfig, Owner};
use pouch_types::spec::ContainerSpec;
use pouch_types::{ErrorKind, ImageId, ImageRef};
use tokio_util::io::ReaderStream;

use crate::container::state::Phase;
use crate::{Engine, EngineError};

/// Bytes of one piece of the changes on their way to the image store.
const PIECE: usize = 256 << 10;

/// What to do with processes while the changes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhileCommitting {
    /// Freeze them.
    Pause,
    /// Let them write; a file may be caught half-written.
    Run,
}

/// How to commit.
#[derive(Debug, Clone)]
pub struct CommitRequest {
    /// Name of the image.
    pub reference: Option<ImageRef>,
    /// Who commits.
    pub author: String,
    /// Free text.
    pub message: String,
    /// Instructions on top of the configuration.
    pub changes: Changes,
    /// What replaces parts of the container's configuration; empty fields leave it as it is.
    pub config: ContainerConfig,
    /// Of a container that runs.
    pub processes: WhileCommitting,
}

impl Engine {
    /// Makes an image of a container's image and what it changed since.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while it is being removed; the image store's.
    pub async fn commit(&self, key: &str, request: CommitRequest) -> Result<ImageId, EngineError> {
        let container = self.find(key)?;
        let id = container.id.to_string();
        if matches!(container.snapshot().phase, Phase::Removing | Phase::Dead) {
            return Err(EngineError::conflict(format!(
                "You cannot commit container {id} which is being removed"
            )));
        }
        let engine = self.clone();
        let work = self.inner.tasks.spawn(async move {
            let running = container.snapshot().phase == Phase::Running;
            let paused = running && request.processes == WhileCommitting::Pause;
            if paused {
                engine.pause(&id).await?;
            }
            let committed = engine.commit_changes(&id, request).await;
            if paused {
                match engine.unpause(&id).await {
                    Ok(()) => {}
                    // It was killed or unpaused by somebody else.
                    Err(error) if container.snapshot().phase != Phase::Paused => {
                        tracing::debug!(container.id = %id, error = %error.text(), "not paused");
                    }
                    Err(error) => return Err(error),
                }
            }
            committed
        });
        work.await.map_err(|e| EngineError::new(ErrorKind::Internal, e.to_string()))?
    }

    async fn commit_changes(
        &self,
        id: &str,
        mut request: CommitRequest,
    ) -> Result<ImageId, EngineError> {
        let container = self.find(id)?;
        let view = container.view();
        let snapshots = &self.inner.snapshots;
        let read = |e| EngineError::wrap("read the container's changes", e);
        let changes = snapshots.diff(&container.id).await.map_err(read)?;
        let below = self.inner.images.get(&view.image);
        let below = below.as_ref().map(|image| &image.config.config);
        let mut config = std::mem::take(&mut request.config);
        // As dockerd does: instructions change what was given, and the rest is the container's.
        let given = config != ContainerConfig::default();
        let mut whole = configuration(&view.spec, below);
        if !given {
            config = std::mem::take(&mut whole);
        }
        request.changes.apply(&mut config);
        if given {
            config.inherit(whole);
        }
        let options = CommitOptions {
            reference: request.reference.clone(),
            parent: view.image.clone(),
            config,
            created_by: std::iter::once(&view.path)
                .chain(&view.args)
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(" "),
            author: std::mem::take(&mut request.author),
            message: request.message.clone(),
        };
        let diff = ReaderStream::with_capacity(changes, PIECE);
        let image = self.inner.images.commit(diff, options, Owner::Docker).await?;
        let mut attributes = crate::engine::view_attributes(&view);
        attributes.extend(commit_attributes(&image.id, &request));
        self.inner.announce_container("commit", &view.id, attributes);
        Ok(image.id.clone())
    }
}

fn commit_attributes(image: &ImageId, request: &CommitRequest) -> BTreeMap<String, String> {
    let name = request.reference.as_ref().map(ImageRef::familiar).unwrap_or_default();
    BTreeMap::from([
        ("comment".to_owned(), request.message.clone()),
        ("imageID".to_owned(), image.to_string()),
        ("imageRef".to_owned(), name),
    ])
}

/// Without what is only shown of a container that another backend holds.
fn own_labels(spec: &ContainerSpec) -> BTreeMap<String, String> {
    let mut labels = spec.labels.clone();
    labels.remove(crate::elsewhere::LABEL);
    labels
}

/// The defaults that a container runs with, as an image's configuration. What only images have
/// comes from the container's own.
fn configuration(spec: &ContainerSpec, below: Option<&ContainerConfig>) -> ContainerConfig {
    let process = &spec.process;
    ContainerConfig {
        user: process.user.clone(),
        exposed_ports: spec
            .exposed_ports
            .iter()
            .map(|port| format!("{}/{}", port.number, port.protocol.as_str()))
            .collect(),
        env: process.env.clone(),
        entrypoint: process.entrypoint.clone().filter(|words| !words.is_empty()),
        cmd: process.cmd.clone(),
        volumes: spec.volumes.clone(),
        working_dir: process.working_dir.clone(),
        labels: own_labels(spec),
        stop_signal: spec.stop_signal.map(|signal| signal.to_string()),
        stop_timeout: spec.stop_timeout,
        healthcheck: spec.healthcheck.as_ref().map(|health| HealthConfig {
            test: health.test.clone(),
            interval: health.interval_ns,
            timeout: health.timeout_ns,
            start_period: health.start_period_ns,
            start_interval: health.start_interval_ns,
            retries: i64::from(health.retries),
        }),
        args_escaped: Default::default(),
        on_build: below.map(|below| below.on_build.clone()).unwrap_or_default(),
        shell: below.map(|below| below.shell.clone()).unwrap_or_default(),
    }
}
