//! From settings to a serving daemon, and back.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pouch_api_docker::Config as ApiConfig;
use pouch_engine::{Engine, EngineError, Rebuild, Seams};
use pouch_image::Policy;
use pouch_network::Networks;
use pouch_store::Store;
use pouch_volume::{VolumeConfig, Volumes};
use rustix::fs::{FlockOperation, flock};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry as LogRegistry, reload};

use crate::image_store;
use crate::listen::{self, SocketError};
use crate::policy::PolicyFile;
use crate::settings::Settings;

/// Why the daemon does not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    #[error("cannot {doing}")]
    Start {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot {doing} {path}")]
    Path {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{path} is mode {mode:o}, owner {owner}: it must belong to root and be closed to others"
    )]
    Open { path: PathBuf, mode: u32, owner: u32 },
    #[error("another pouchd (pid {pid}) uses the data in {path}")]
    Running { pid: String, path: PathBuf },
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("cannot open the store")]
    Store(#[from] pouch_store::OpenError),
    #[error("cannot open the {what}")]
    Seam {
        what: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "{data} has images or containers that {theirs} keeps: start with {theirs_flag}, or with \
         another data root"
    )]
    OtherStore { data: PathBuf, theirs: &'static str, theirs_flag: &'static str },
    #[error("cannot open the engine")]
    Engine(#[from] EngineError),
}

/// Changes the log level while the daemon runs.
pub(crate) type LogReload = reload::Handle<EnvFilter, LogRegistry>;

/// Logs to standard error, which is the journal under systemd.
pub(crate) fn init_log(level: &str) -> LogReload {
    let (filter, handle) = reload::Layer::new(filter(level));
    let format = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false);
    // A second initialisation is a defect of the program, not of its environment.
    let _ = tracing_subscriber::registry().with(filter).with(format).try_init();
    handle
}

fn filter(level: &str) -> EnvFilter {
    let level = if level == "fatal" { "error" } else { level };
    // The libraries below are told from our own crates, whose names all begin alike.
    EnvFilter::new(format!("warn,pouch={level},pouchd={level},{}", ours(level)))
}

fn ours(level: &str) -> String {
    const CRATES: [&str; 14] = [
        "api_cri",
        "api_docker",
        "cgroup",
        "cni",
        "containerd",
        "containerd_images",
        "content",
        "engine",
        "image",
        "network",
        "registry",
        "snapshot",
        "store",
        "streaming",
    ];
    CRATES.map(|name| format!("pouch_{name}={level}")).join(",")
}

pub(crate) async fn run(
    settings: Settings,
    policy: Policy,
    config_file: PathBuf,
    reload: LogReload,
) -> Result<(), DaemonError> {
    let data = settings.engine.data_root.clone();
    prepare_root(&data, 0o710)?;
    prepare_root(&settings.engine.exec_root, 0o710)?;
    let _lock = lock(&data)?;
    let _pidfile = PidFile::write(&settings.pidfile)?;
    // Bound before the engine is opened: a client that comes early waits instead of failing.
    let listeners = listen::open(&settings).await?;
    let pods = settings.cri.as_ref().map(|cri| Ok::<_, SocketError>((cri.listen()?, cri.api())));
    let pods = pods.transpose()?;
    let engine = open_engine(&settings, policy).await?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), data = %data.display(), "pouchd is ready");

    let closing = CancellationToken::new();
    let metrics = pouch_metrics::Metrics::new(engine.clone());
    let scraped = metrics.clone();
    let encode: Arc<pouch_api_docker::Encode> = Arc::new(move || {
        let metrics = scraped.clone();
        Box::pin(async move { metrics.encode().await })
    });
    let counted = metrics.clone();
    let telemetry = pouch_api_docker::Telemetry {
        record: Arc::new(move |call, status, elapsed| counted.record(call, status, elapsed)),
        encode,
    };
    let api = ApiConfig {
        telemetry: Some(telemetry.clone()),
        allowed_origins: Vec::new(),
        registry_mirrors: settings.registry.mirrors.clone(),
        insecure_registries: settings.registry.insecure.clone(),
        debug: settings.log_level == "debug",
    };
    if let Some(address) = settings.metrics {
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .map_err(|source| DaemonError::Start { doing: "listen on metrics-addr", source })?;
        let scrape = pouch_api_docker::serve_metrics(listener, telemetry.clone(), closing.clone());
        tokio::spawn(scrape);
    }
    tokio::spawn(give_memory_back(engine.clone()));
    let signals = Signals::new()?;
    let reload = Reload {
        config_file,
        log: reload,
        policy: settings.image_policy.clone(),
        engine: engine.clone(),
    };
    tokio::spawn(signals.handle(reload, closing.clone()));
    let pods = pods.map(|(listener, mut config)| {
        let counted = metrics.clone();
        let record = move |call: &str, code, elapsed| counted.record(call, code, elapsed);
        config.record = Some(pouch_api_cri::Recorder::new(record));
        let (engine, closing) = (engine.clone(), closing.clone());
        tokio::spawn(async move {
            let served = pouch_api_cri::serve(engine, config, listener, closing.clone()).await;
            if let Err(error) = &served {
                let error = pouch_types::error::chain(error);
                tracing::error!(error, "the CRI is not served");
                // A node without its runtime is better restarted than half there.
                closing.cancel();
            }
            served
        })
    });
    // No NOTIFY_SOCKET, nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    pouch_api_docker::serve(engine.clone(), api, listeners, closing).await;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let served = match pods {
        Some(pods) => pods.await.unwrap_or(Ok(())),
        None => Ok(()),
    };
    engine.close().await;
    tracing::info!("pouchd stops; containers go on");
    served.map_err(seam("CRI"))
}

/// How long nothing must have happened for the memory of the last burst to be given back.
const QUIET: Duration = Duration::from_secs(5);

/// After each burst of work, and never while nothing happens.
async fn give_memory_back(engine: Engine) {
    loop {
        let mut events = engine.events(None, None);
        // A stream ends when this listener falls behind, which is a burst as well.
        let _ = events.next().await;
        while let Ok(Some(_)) = tokio::time::timeout(QUIET, events.next()).await {}
        let _ = tokio::task::spawn_blocking(pouch_heap::give_back).await;
    }
}

async fn open_engine(settings: &Settings, policy: Policy) -> Result<Engine, DaemonError> {
    let config = settings.engine.clone();
    let schemas = [
        pouch_engine::SCHEMA,
        pouch_image::SCHEMA,
        pouch_snapshot::SCHEMA,
        pouch_network::SCHEMA,
        pouch_volume::SCHEMA,
    ];
    let opened = Store::open(&config.data_root.join("pouch.db"), &schemas)?;
    if let Some(moved) = &opened.quarantined {
        tracing::error!(moved = %moved.display(), "the database was damaged; rebuilding it");
    }
    let store = opened.store;
    let backend = settings.backend.open(settings).await?;
    let (images, snapshots) =
        image_store::open(settings, &store, backend.containerd, policy).await?;
    let networks =
        Networks::open(settings.network.clone(), store.clone()).await.map_err(seam("networks"))?;
    let volumes = VolumeConfig { root: config.data_root.join("volumes") };
    let volumes = Volumes::open(volumes, store.clone()).await.map_err(seam("volumes"))?;
    let cni = match &settings.cri {
        Some(cri) => Some(cri.networks().await.map_err(seam("networks of pods"))?),
        None => None,
    };
    let seams = Seams {
        cni,
        store,
        backend: backend.client,
        backend_events: backend.events,
        images,
        snapshots,
        networks,
        volumes,
        rebuild: match opened.quarantined {
            Some(_) => Rebuild::FromCopies,
            None => Rebuild::No,
        },
    };
    Ok(Engine::open(config, seams).await?)
}

pub(crate) fn seam<E>(what: &'static str) -> impl FnOnce(E) -> DaemonError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| DaemonError::Seam { what, source: Box::new(source) }
}

/// Makes a root directory, or checks that nobody else can reach into it.
fn prepare_root(path: &Path, mode: u32) -> Result<(), DaemonError> {
    let failed = |doing| move |source| DaemonError::Path { doing, path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed("create the directory above"))?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(failed("create")(e)),
    }
    let found = std::fs::metadata(path).map_err(failed("look at"))?;
    let own = rustix::process::geteuid().as_raw();
    if found.uid() != own || found.permissions().mode() & 0o022 != 0 {
        let (mode, owner) = (found.permissions().mode() & 0o7777, found.uid());
        return Err(DaemonError::Open { path: path.to_owned(), mode, owner });
    }
    // Wider than needed and still ours: tightened, so that no user reaches an image's programs.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed("close"))
}

/// One daemon per data root. The lock ends with the process, however it ends.
fn lock(data: &Path) -> Result<File, DaemonError> {
    use std::io::Read as _;
    let path = data.join("lock");
    let failed = |doing| {
        let path = path.clone();
        move |source| DaemonError::Path { doing, path, source }
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(failed("open"))?;
    if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(failed("lock")(error.into()));
        }
        let mut pid = String::new();
        let _ = (&mut file).take(16).read_to_string(&mut pid);
        return Err(DaemonError::Running { pid: pid.trim().to_owned(), path: data.to_owned() });
    }
    file.set_len(0).map_err(failed("write"))?;
    write!(file, "{}", std::process::id()).map_err(failed("write"))?;
    Ok(file)
}

/// Removed at an orderly end.
struct PidFile(PathBuf);

impl PidFile {
    fn write(path: &Path) -> Result<Self, DaemonError> {
        std::fs::write(path, format!("{}\n", std::process::id())).map_err(|source| {
            DaemonError::Path { doing: "write the pid file", path: path.to_owned(), source }
        })?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, DaemonError> {
        let open = |kind| {
            signal(kind).map_err(|source| DaemonError::Start { doing: "handle signals", source })
        };
        Ok(Self {
            terminate: open(SignalKind::terminate())?,
            interrupt: open(SignalKind::interrupt())?,
            hangup: open(SignalKind::hangup())?,
        })
    }

    async fn handle(mut self, reload: Reload, closing: CancellationToken) {
        loop {
            // Cancel-safe: a signal that is not taken stays pending.
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hangup.recv() => reload.all(),
            }
        }
        closing.cancel();
    }
}

/// What SIGHUP reads again.
struct Reload {
    config_file: PathBuf,
    log: LogReload,
    policy: PolicyFile,
    engine: Engine,
}

impl Reload {
    fn all(&self) {
        reread(&self.config_file, &self.log);
        self.policy.read_again(self.engine.images());
    }
}

/// Takes over what can change: the log level. What cannot is named.
fn reread(config_file: &Path, reload: &LogReload) {
    let file = match crate::reread(config_file) {
        Ok(file) => file,
        Err(error) => {
            let error = pouch_types::error::chain(&error);
            tracing::error!(error, "the configuration was not reloaded");
            return;
        }
    };
    let debug = file.debug.unwrap_or(false);
    let level = file.log_level.unwrap_or_else(|| if debug { "debug" } else { "info" }.to_owned());
    match reload.reload(filter(&level)) {
        Ok(()) => tracing::info!(level, "reloaded the log level; other changes need a restart"),
        Err(error) => tracing::error!(%error, "the log level was not reloaded"),
    }
}
