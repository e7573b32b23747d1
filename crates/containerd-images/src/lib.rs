//! Images and root file systems in an existing containerd, where its own tools see them.
//!
//! Blobs lie in its content store, layers and root file systems in one of its snapshotters, and what
//! an image is called is an Image object. One [`ContainerdStore`] is all four seams of the crates
//! above: [`Blobs`](pouch_content::Blobs), [`LayerStore`](pouch_image::LayerStore),
//! [`Registrar`](pouch_image::Registrar) and [`Roots`](pouch_snapshot::Roots).
//!
//! **Lifetime.** containerd collects what nothing refers to, so nothing is ever deleted here but
//! references. What is being made is held by a lease of bounded life ([`lease`]). What is made is
//! held by its name: the Image object refers to the manifest, that by labels to the configuration
//! and the blobs, and the configuration by a label to the topmost layer of each snapshotter that
//! has it, as containerd's own clients do it. The root of a container is a root of the collector
//! too, until it is removed.
//!
//! **Layers** are snapshots by their chain ids, made by containerd's own differ, so that they are
//! shared with everybody in the namespace and with any snapshotter.
//!
//! **Calls.** A root costs one call, its removal one, looking at it none: its mounts are kept in a
//! file of ours. All else may cost what it costs.

#![forbid(unsafe_code)]

mod blobs;
mod call;
mod layers;
mod lease;
mod names;
mod roots;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pouch_containerd_grpc::Pool;
use pouch_containerd_grpc::introspection::{Plugin, PluginsRequest};
use pouch_snapshot::Unpacker;
use pouch_types::{Classified, ErrorKind};

use call::{Call, QUICK};
use lease::Leases;
use roots::Records;

/// What is needed of the server, as its plugins are called.
const SERVICES: [&str; 5] = ["content", "diff", "images", "leases", "snapshots"];
/// Type of the plugins that serve calls.
const GRPC: &str = "io.containerd.grpc.v1";
/// Type of the plugins that are snapshotters.
const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";
/// In our directory: the snapshotter that was found to be there.
const FOUND: &str = "snapshotter";

/// Where things are.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Name of the snapshotter.
    pub snapshotter: String,
    /// Directory of ours for what containerd is not asked again.
    pub directory: PathBuf,
    /// Directory for what does not survive a reboot.
    pub state: PathBuf,
    /// Tells the names of several daemons in one namespace apart.
    pub owner: String,
    /// The `pouch-unpack` program.
    pub unpack_binary: PathBuf,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No such snapshotter.
    #[error("containerd has no snapshotter {wanted:?}; it has {there}")]
    NoSnapshotter {
        /// As configured.
        wanted: String,
        /// What there is.
        there: String,
    },
    /// A plugin that is needed is not there, or not in use.
    #[error("containerd's {plugin} cannot be used: {why}")]
    Plugin {
        /// Which.
        plugin: String,
        /// What the server says of it.
        why: String,
    },
    /// It cannot be asked.
    #[error("ask containerd what it has")]
    Ask(#[source] pouch_containerd::Error),
    /// Our own directory.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// Verb phrase.
        doing: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Classified for OpenError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSnapshotter { .. } => ErrorKind::NotFound,
            Self::Plugin { .. } => ErrorKind::Unsupported,
            Self::Ask(error) => error.kind(),
            Self::Io { source, .. } => pouch_types::error::io_kind(source),
        }
    }
}

/// Images and root file systems in a containerd. Clones share everything.
#[derive(Debug, Clone)]
pub struct ContainerdStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pool: Pool,
    config: StoreConfig,
    leases: Leases,
    roots: Records,
    unpacker: Unpacker,
    /// For the calls of blocking threads.
    runtime: tokio::runtime::Handle,
}

impl ContainerdStore {
    /// Opens the store, within the daemon's runtime. The server is asked whether it has what is
    /// needed unless it said so before.
    ///
    /// # Errors
    /// [`OpenError`] names what is missing.
    pub async fn open(config: StoreConfig, pool: Pool) -> Result<Self, OpenError> {
        let io = |doing, path: &std::path::Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { doing, path, source }
        };
        for directory in [&config.directory, &config.state] {
            let mut builder = std::fs::DirBuilder::new();
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.recursive(true).create(directory).map_err(io("create", directory))?;
        }
        let found = config.directory.join(FOUND);
        if std::fs::read_to_string(&found).unwrap_or_default() != config.snapshotter {
            check(&pool, &config.snapshotter).await?;
            std::fs::write(&found, &config.snapshotter).map_err(io("write", &found))?;
        }
        let roots = Records::open(config.directory.join("roots"))
            .map_err(io("open", &config.directory.join("roots")))?;
        let shared = Shared {
            leases: Leases::new(pool.clone(), config.owner.clone()),
            unpacker: Unpacker::new(config.unpack_binary.clone()),
            runtime: tokio::runtime::Handle::current(),
            pool,
            config,
            roots,
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl Shared {
    fn call(&self, stage: &'static str, limit: Duration) -> Call {
        Call { stage, limit, lease: None }
    }

    /// A call that makes something, which the lease of the work under way holds.
    fn making(&self, stage: &'static str, limit: Duration) -> Call {
        Call { stage, limit, lease: self.leases.current() }
    }
}

async fn check(pool: &Pool, snapshotter: &str) -> Result<(), OpenError> {
    let filters = vec![format!("type=={GRPC}"), format!("type=={SNAPSHOTTER}")];
    let call = Call { stage: "list plugins", limit: QUICK, lease: None };
    let request = call.request(PluginsRequest { filters });
    let answer = call.answer(pool.introspection().plugins(request)).await;
    let plugins = answer.map_err(OpenError::Ask)?.plugins;
    let find = |kind: &str, id: &str| plugins.iter().find(|p| p.r#type == kind && p.id == id);
    for service in SERVICES {
        in_use(find(GRPC, service), &format!("service {service}"))?;
    }
    let Some(found) = find(SNAPSHOTTER, snapshotter) else {
        let usable = |plugin: &&Plugin| plugin.r#type == SNAPSHOTTER && plugin.init_err.is_none();
        let there: Vec<&str> = plugins.iter().filter(usable).map(|p| p.id.as_str()).collect();
        let (wanted, there) = (snapshotter.to_owned(), there.join(", "));
        return Err(OpenError::NoSnapshotter { wanted, there });
    };
    in_use(Some(found), &format!("snapshotter {snapshotter}"))
}

fn in_use(plugin: Option<&Plugin>, name: &str) -> Result<(), OpenError> {
    let why = match plugin {
        None => "it is not there".to_owned(),
        Some(Plugin { init_err: Some(error), .. }) => error.message.clone(),
        Some(_) => return Ok(()),
    };
    Err(OpenError::Plugin { plugin: name.to_owned(), why })
}
