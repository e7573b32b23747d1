//! Which backend runs containers.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pouch_containerd::local::{Local, LocalConfig};
use pouch_containerd::remote::{ImageFeed, Remote, RemoteConfig};
use pouch_containerd::{Client, Event};
use pouch_containerd_grpc::Pool;
use tokio::sync::mpsc;

use crate::args::Args;
use crate::config::{Backend, ConfigError, FileConfig, RemoteImageStore};
use crate::daemon::{DaemonError, seam};
use crate::settings::Settings;

/// Where containerd listens unless it is told otherwise.
const SOCKET: &str = "/run/containerd/containerd.sock";
/// Namespace of our objects in containerd.
const NAMESPACE: &str = "pouch";
/// Snapshotter unless it is told otherwise.
const SNAPSHOTTER: &str = "overlayfs";
/// The namespace of containerd's own CRI service.
const KUBERNETES: &str = "k8s.io";
/// Connections to containerd: a large message does not hold up all others.
const CONNECTIONS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);
/// And at most.
const MAX_CONNECTIONS: usize = 64;
/// Time that containerd has to come when both start together.
const PATIENCE: Duration = Duration::from_secs(20);

/// The backend, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BackendSettings {
    /// Embedded.
    Local,
    /// An existing containerd.
    Remote {
        socket: PathBuf,
        namespace: String,
        connections: NonZeroUsize,
        /// What was asked for, if anything.
        store: Option<RemoteImageStore>,
        snapshotter: String,
    },
}

/// An opened backend.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) client: Arc<dyn Client>,
    pub(crate) events: mpsc::Receiver<Event>,
    /// The containerd that it is, for images.
    pub(crate) containerd: Option<(Pool, Arc<ImageFeed>)>,
}

impl BackendSettings {
    pub(crate) fn resolve(args: &Args, file: &FileConfig) -> Result<Self, ConfigError> {
        let refuse = |message: String| Err(ConfigError::Value(message));
        let socket = args.containerd.as_ref().or(file.containerd.as_ref());
        let namespace = args.containerd_namespace.as_ref().or(file.containerd_namespace.as_ref());
        let connections = file.containerd_connections;
        let store = args.remote_image_store.or(file.remote_image_store);
        let snapshotter = args.snapshotter.as_ref().or(file.snapshotter.as_ref());
        if args.backend.or(file.backend) != Some(Backend::Remote) {
            for (given, key) in [
                (socket.is_some(), "containerd"),
                (namespace.is_some(), "containerd-namespace"),
                (connections.is_some(), "containerd-connections"),
                (store.is_some(), "remote-image-store"),
                (snapshotter.is_some(), "snapshotter"),
            ] {
                if given {
                    return refuse(format!("{key} needs backend \"remote\""));
                }
            }
            return Ok(Self::Local);
        }
        let socket = socket.cloned().unwrap_or_else(|| SOCKET.into());
        if !socket.is_absolute() {
            return refuse(format!("containerd: {} is not an absolute path", socket.display()));
        }
        if snapshotter.is_some() && store == Some(RemoteImageStore::Local) {
            return refuse("snapshotter needs remote-image-store \"containerd\"".to_owned());
        }
        let snapshotter = snapshotter.cloned().unwrap_or_else(|| SNAPSHOTTER.to_owned());
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if snapshotter.is_empty() || !snapshotter.bytes().all(plain) {
            return refuse(format!("snapshotter {snapshotter:?} is no name"));
        }
        let connections = match connections {
            None => CONNECTIONS,
            Some(count) if count.get() <= MAX_CONNECTIONS => count,
            Some(count) => {
                return refuse(format!(
                    "containerd-connections {count} is above {MAX_CONNECTIONS}"
                ));
            }
        };
        let namespace = namespace.cloned().unwrap_or_else(|| NAMESPACE.to_owned());
        Ok(Self::Remote { socket, namespace, connections, store, snapshotter })
    }

    /// Opens the backend. Containers that the other one still holds are the engine's to know.
    ///
    /// # Errors
    /// When it is not there, or is not what it should be.
    pub(crate) async fn open(&self, settings: &Settings) -> Result<Opened, DaemonError> {
        let state = settings.engine.exec_root.clone();
        match self {
            Self::Local => {
                let config = LocalConfig {
                    state,
                    shim: settings.shim.clone(),
                    namespace: NAMESPACE.to_owned(),
                };
                let (backend, events) = Local::open(config).await.map_err(seam("backend"))?;
                Ok(Opened { client: Arc::new(backend), events, containerd: None })
            }
            Self::Remote { socket, namespace, connections, .. } => {
                if namespace == KUBERNETES {
                    tracing::warn!(
                        "containerd's CRI service collects what it does not know in {KUBERNETES}: \
                         another containerd-namespace is safer"
                    );
                }
                let config = RemoteConfig {
                    socket: socket.clone(),
                    namespace: namespace.clone(),
                    connections: *connections,
                    state,
                    shim: settings.shim.clone(),
                    patience: PATIENCE,
                    owner: settings.engine.data_root.to_string_lossy().into_owned(),
                };
                let (backend, events) = Remote::open(config).await.map_err(seam("backend"))?;
                let containerd = Some((backend.pool(), backend.images()));
                Ok(Opened { client: Arc::new(backend), events, containerd })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser as _;

    use super::*;

    fn resolve(args: &[&str], file: &str) -> Result<BackendSettings, String> {
        let args = Args::parse_from(std::iter::once(&"pouchd").chain(args));
        let file = serde_json::from_str(file).unwrap();
        BackendSettings::resolve(&args, &file).map_err(|e| e.to_string())
    }

    #[test]
    fn the_embedded_one_unless_told() {
        assert_eq!(resolve(&[], "{}").unwrap(), BackendSettings::Local);
        let remote = resolve(&["--backend", "remote"], "{}").unwrap();
        let BackendSettings::Remote { socket, namespace, connections, store, snapshotter } = remote
        else {
            panic!()
        };
        assert_eq!((store, snapshotter.as_str()), (None, "overlayfs"));
        assert_eq!(socket, Path::new("/run/containerd/containerd.sock"));
        assert_eq!((namespace.as_str(), connections.get()), ("pouch", 2));
        let file = r#"{"backend": "remote", "containerd": "/c", "containerd-namespace": "n",
            "containerd-connections": 3, "remote-image-store": "local"}"#;
        let BackendSettings::Remote { socket, .. } =
            resolve(&["--containerd", "/d"], file).unwrap()
        else {
            panic!()
        };
        assert_eq!(socket, Path::new("/d"), "flags win");
    }

    #[test]
    fn settings_without_effect_are_refused_by_name() {
        for (args, file, want) in [
            (&["--containerd", "/c"][..], "{}", "containerd needs"),
            (&[], r#"{"containerd-connections": 1}"#, "containerd-connections needs"),
            (&["--backend", "remote", "--containerd", "c"], "{}", "not an absolute path"),
            (&[], r#"{"remote-image-store": "containerd"}"#, "remote-image-store needs"),
            (&["--snapshotter", "native"], "{}", "snapshotter needs backend"),
            (
                &["--backend", "remote", "--snapshotter", "native"],
                r#"{"remote-image-store": "local"}"#,
                "snapshotter needs remote-image-store",
            ),
            (&["--backend", "remote", "--snapshotter", "a/b"], "{}", "is no name"),
            (&["--backend", "remote"], r#"{"containerd-connections": 65}"#, "above 64"),
        ] {
            let error = resolve(args, file).unwrap_err();
            assert!(error.contains(want), "{file}: {error}");
        }
    }
}
