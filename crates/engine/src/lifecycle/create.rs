//! Creation: everything that a start needs is decided and recorded here, so that a start can only
//! fail for what has changed since.
//!
//! Order: check, resolve, make what can be thrown away (snapshot, volumes, directory), commit the
//! row. A crash before the commit leaves directories without a row, which the next start of the
//! daemon removes.

use std::sync::Arc;

use jiff::Timestamp;
use pouch_oci::{BuildContext, HostDevices, ImageConfigView, ResolvedUser};
use pouch_store::StoreError;
use pouch_types::spec::{ContainerSpec, Healthcheck, NetworkMode};
use pouch_types::{Classified, ContainerId, ContainerName, ErrorKind};

use crate::api::Created;
use crate::container::actor::{self, Volatile};
use crate::container::record::Record;
use crate::container::state::State;
use crate::engine::Inner;
use crate::{Engine, EngineError, failpoint, names};

/// Attempts to find a free name before giving up.
const NAME_ATTEMPTS: u32 = 10;

impl Engine {
    /// Creates a container.
    ///
    /// # Errors
    /// `NotFound` without the image ("No such image: x:latest"), `Conflict` for a used name, `Invalid`
    /// with the field for what cannot be meant.
    pub async fn create(
        &self,
        name: Option<ContainerName>,
        spec: ContainerSpec,
    ) -> Result<Created, EngineError> {
        let inner = Arc::clone(&self.inner);
        // The client may leave; what has begun is finished, so that nothing is left half-made.
        match self.inner.tasks.spawn(create(inner, name, spec)).await {
            Ok(result) => result,
            Err(error) => Err(EngineError::new(ErrorKind::Internal, error.to_string())),
        }
    }
}

pub(crate) fn name_in_use(name: &ContainerName, holder: &ContainerId) -> EngineError {
    EngineError::conflict(format!(
        "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You \
         have to remove (or rename) that container to be able to reuse that name."
    ))
}

pub(crate) async fn create(
    engine: Arc<Inner>,
    name: Option<ContainerName>,
    mut spec: ContainerSpec,
) -> Result<Created, EngineError> {
    if let Some(name) = &name
        && let Some(holder) = engine.index.holder(name)
    {
        return Err(name_in_use(name, &holder));
    }
    let image = engine.images.resolve(&spec.image_name).map_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            // Alone and with the tag: clients pull what this names.
            EngineError::from(error)
        } else {
            EngineError::wrap("find the image", error)
        }
    })?;
    pouch_oci::merge_image(&mut spec, &image_view(&image)?);
    spec.image = Some(image.id.clone());
    apply_defaults(&engine, &mut spec);
    let mut warnings = check(&engine, &mut spec).await?;
    let argv = pouch_oci::command(&spec.process)
        .map_err(|e| EngineError::wrap("the command cannot be run", e))?;

    let id = ContainerId::random()
        .map_err(|e| EngineError::new(ErrorKind::Internal, format!("no random bytes: {e}")))?;
    let cdi = super::cdi::resolve(&engine, &spec).await?;
    warnings.extend(rehearse(&engine, &id, &spec, &cdi)?);
    let layers: Vec<_> = image.diff_ids().copied().collect();
    failpoint::hit("create:before-snapshot");
    let mut files = Vec::new();
    let made = async {
        let mut prepared = engine.snapshots.prepare(&id, &layers).await;
        if prepared.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            engine.images.unpack_again(&image).await?;
            prepared = engine.snapshots.prepare(&id, &layers).await;
        }
        prepared.map_err(|e| EngineError::wrap("make the root file system", e))?;
        let mounts = super::mounts::resolve(&engine, &id, &spec, &mut warnings, &mut files).await?;
        let dir = engine.config.container_dir(&id);
        tokio::task::spawn_blocking(move || make_dir(&dir))
            .await
            .map_err(|e| EngineError::new(ErrorKind::Internal, e.to_string()))??;
        failpoint::hit("create:before-commit");
        let record = Record {
            id: id.clone(),
            // Replaced below when the user gave none.
            name: match &name {
                Some(name) => name.clone(),
                None => free_name(0)?,
            },
            created: Timestamp::now(),
            image: image.id.clone(),
            argv,
            mounts,
            state: State::default(),
            boot_id: engine.boot_id.clone(),
            backend: None,
            revision: 1,
            spec,
        };
        commit(&engine, record, name.is_some()).await
    }
    .await;
    let record = match made {
        Ok(record) => record,
        Err(error) => {
            undo(&engine, &id).await;
            super::mounts::discard_images(&engine, &files).await;
            return Err(match error.kind() {
                // The floors below name what they made by its path below their own roots.
                ErrorKind::ResourceExhausted => EngineError::new(
                    error.kind(),
                    format!("in {}: {}", engine.config.data_root.display(), error.text()),
                ),
                _ => error,
            });
        }
    };
    failpoint::hit("create:committed");
    // A missing copy is made by the next change; the row stands.
    let _ = crate::records::write_copy(&record, &engine.config.container_dir(&id));
    let attributes = crate::engine::event_attributes(&record);
    let container = actor::spawn(&engine, record, Volatile::default());
    engine.index.insert(container);
    engine.announce_container("create", &id, attributes);
    Ok(Created { id, warnings })
}

/// Writes the row with what it uses; a taken random name is replaced by another.
async fn commit(engine: &Inner, mut record: Record, given: bool) -> Result<Record, EngineError> {
    for attempt in 1..=NAME_ATTEMPTS {
        let row = record.clone();
        let result = engine.store.write(move |tx| row.insert_with_uses(tx)).await;
        match result {
            Ok(()) => return Ok(record),
            Err(CommitError::Store(error)) if error.is_unique_violation() && !given => {
                record.name = free_name(attempt)?;
            }
            Err(CommitError::Store(error)) if error.is_unique_violation() => {
                let holder = engine.index.holder(&record.name);
                return Err(match holder {
                    Some(holder) => name_in_use(&record.name, &holder),
                    None => EngineError::conflict(format!(
                        "Conflict. The container name \"/{}\" is already in use.",
                        record.name
                    )),
                });
            }
            Err(error) => return Err(EngineError::wrap("record the container", error)),
        }
    }
    Err(EngineError::conflict("no free container name was found; give one with --name"))
}

/// A failure of the transaction that records a container with what it uses.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Image(#[from] pouch_image::ImageError),
    #[error(transparent)]
    Volume(#[from] pouch_volume::VolumeError),
}

impl Classified for CommitError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            // Gone since it was looked up.
            Self::Image(error) if error.kind() == ErrorKind::NotFound => ErrorKind::Conflict,
            Self::Image(error) => error.kind(),
            Self::Volume(error) => error.kind(),
        }
    }
}

impl Record {
    /// Adds the row and the use of image and volumes, all or nothing.
    pub(crate) fn insert_with_uses(
        &self,
        tx: &rusqlite::Transaction<'_>,
    ) -> Result<(), CommitError> {
        self.insert(tx)?;
        pouch_image::use_image(tx, &self.image, &self.id)?;
        for files in self.mounts.iter().filter_map(|mount| mount.image.as_ref()) {
            pouch_image::use_image(tx, &files.image, &files.snapshot)?;
        }
        for mount in &self.mounts {
            if let Some(name) = mount.volume.as_deref().and_then(|n| n.parse().ok()) {
                pouch_volume::use_volume(tx, &name, &self.id, &mount.spec.destination)?;
            }
        }
        Ok(())
    }
}

async fn undo(engine: &Inner, id: &ContainerId) {
    if let Err(error) = engine.snapshots.remove(id).await {
        let error = pouch_types::error::chain(&error);
        tracing::warn!(container.id = %id, error, "undo of create: the root file system stays");
    }
    let dir = engine.config.container_dir(id);
    let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(dir)).await;
}

fn free_name(attempt: u32) -> Result<ContainerName, EngineError> {
    names::random(attempt)
        .map_err(|e| EngineError::new(ErrorKind::Internal, format!("no random bytes: {e}")))
}

/// The container's directory, closed to everybody but root.
fn make_dir(dir: &std::path::Path) -> Result<(), EngineError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .mode(0o710)
        .create(dir)
        .map_err(|e| EngineError::io(format!("create {}", dir.display()), e))
}

fn apply_defaults(engine: &Inner, spec: &mut ContainerSpec) {
    if spec.log.options.is_empty() && spec.log == pouch_types::spec::LogSpec::default() {
        spec.log = engine.config.default_log.clone();
    }
    // Docker keeps the probe's verdict only for a probe that exists.
    if spec.healthcheck.as_ref().is_some_and(|h| h.test.first().is_some_and(|t| t == "NONE")) {
        spec.healthcheck =
            Some(Healthcheck { test: vec!["NONE".into()], ..Healthcheck::default() });
    }
}

/// Refuses what cannot work, with the field's name; takes out what the machine cannot do and tells.
async fn check(engine: &Inner, spec: &mut ContainerSpec) -> Result<Vec<String>, EngineError> {
    if let Some(runtime) = &spec.runtime
        && !engine.config.runtimes.contains_key(runtime)
        && !super::start::is_foreign_shim(engine, runtime)
    {
        return Err(super::start::unknown_runtime(runtime));
    }
    if spec.auto_remove && spec.restart != pouch_types::spec::RestartPolicy::No {
        return Err(EngineError::invalid(
            "can't create 'AutoRemove' container with restart policy",
        ));
    }
    if let NetworkMode::Named(name) = &spec.network.mode {
        let known = engine.networks.inspect(name).await;
        known.map_err(|_| {
            EngineError::new(ErrorKind::NotFound, format!("network {name} not found"))
        })?;
    }
    crate::logs::check(&spec.log)?;
    super::namespaces::check(engine, spec)?;
    let discarded = engine.support.clamp(&mut spec.resources);
    let mut warnings: Vec<String> = discarded.into_iter().map(|w| w.text.to_owned()).collect();
    if matches!(spec.network.mode, NetworkMode::Host) && !spec.network.ports.is_empty() {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    Ok(warnings)
}

/// Builds the specification as a start will, for what it refuses and what it warns of. Only what is
/// found in the root file system, by the sources of mounts and by names is left to the start.
fn rehearse(
    engine: &Inner,
    id: &ContainerId,
    spec: &ContainerSpec,
    cdi: &pouch_cdi::Edits,
) -> Result<Vec<String>, EngineError> {
    let built = pouch_oci::build(&BuildContext {
        id,
        spec,
        rootfs: "rootfs",
        user: &ResolvedUser::default(),
        hostname: "",
        environment: &[],
        mounts: &super::mounts::foreseen(spec),
        namespaces: &super::namespaces::foreseen(spec),
        init_path: engine.config.init_binary.to_str(),
        selinux: None,
        defaults: &super::start::defaults(engine),
        host: &engine.host,
        devices: &HostDevices,
        cdi: Some(cdi),
    });
    built.map(|built| built.warnings).map_err(|error| {
        let kind = error.kind();
        EngineError::new(kind, pouch_types::error::chain(&error))
    })
}

/// The image's contribution, as far as a container may be steered by an image.
fn image_view(image: &pouch_image::Image) -> Result<ImageConfigView, EngineError> {
    let config = &image.config.config;
    let invalid = |what: &str, value: &str| {
        EngineError::invalid(format!("the image's {what} {value:?} is not valid"))
    };
    let exposed = config
        .exposed_ports
        .iter()
        .map(|text| parse_port(text).ok_or_else(|| invalid("ExposedPorts entry", text)));
    let stop_signal = config.stop_signal.as_deref().filter(|s| !s.is_empty()).map(str::parse);
    Ok(ImageConfigView {
        env: config.env.clone(),
        cmd: config.cmd.clone().unwrap_or_default(),
        entrypoint: config.entrypoint.clone().unwrap_or_default(),
        working_dir: config.working_dir.clone(),
        user: config.user.clone(),
        labels: config.control_labels().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        volumes: config.volumes.clone(),
        exposed_ports: exposed.collect::<Result<_, _>>()?,
        stop_signal: stop_signal.transpose()?,
        healthcheck: config.healthcheck.as_ref().map(|h| Healthcheck {
            test: h.test.clone(),
            interval_ns: h.interval,
            timeout_ns: h.timeout,
            start_period_ns: h.start_period,
            start_interval_ns: h.start_interval,
            retries: u32::try_from(h.retries).unwrap_or(0),
        }),
        shell: config.shell.clone(),
    })
}

/// `80`, `80/tcp`, `53/udp`.
fn parse_port(text: &str) -> Option<pouch_types::spec::Port> {
    use pouch_types::spec::{Port, Protocol};
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    };
    Some(Port { number: number.parse().ok().filter(|n| *n > 0)?, protocol })
}
