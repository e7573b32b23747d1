//! The embedded backend: pouchd starts one shim per container, or per pod, and speaks ttrpc to it.
//!
//! A shim lives in `<state>/t/<container id>/`, its OCI bundle: `config.json`, the sockets
//! `s.sock` (ttrpc) and `io.sock` (streams), `process.json` (pid and start time, so that a pid is
//! never trusted alone) and `shim.log`. The listening socket is made here and given to the shim
//! as its standard input, so that connecting needs no waiting and no retries. The shim of a pod has
//! a directory of its own ([`group`]); its containers' bundles have all but what is the shim's.
//!
//! A shim's death is seen through its pidfd, never through a signal, also for shims that an
//! earlier daemon started.

mod events;
mod group;
mod shim;
mod task;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::{Client, Container, CreateRequest, Error, Event, Kind, Loaded, Result, Shims, Status};

pub(crate) use shim::Shim;

/// Where the embedded backend finds and puts things.
#[derive(Debug, Clone)]
pub struct LocalConfig {
    /// State directory, lost at a reboot.
    pub state: PathBuf,
    /// The shim's binary.
    pub shim: PathBuf,
    /// Namespace that shims are told; separates daemons in process lists.
    pub namespace: String,
}

/// The embedded backend.
#[derive(Debug)]
pub struct Local {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: LocalConfig,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) groups: group::Groups,
}

impl Shared {
    pub(crate) fn tasks(&self) -> PathBuf {
        Kind::Local.runs(&self.config.state)
    }

    pub(crate) fn events_socket(&self) -> PathBuf {
        self.config.state.join("events.sock")
    }
}

/// Events that may wait for their consumer; a shim that reports more waits.
const EVENT_QUEUE: usize = 1024;

impl Local {
    /// Opens the backend and serves the socket at which shims report.
    ///
    /// # Errors
    /// When the state directory or the socket cannot be made.
    pub async fn open(config: LocalConfig) -> Result<(Self, mpsc::Receiver<Event>)> {
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let shared = Arc::new(Shared { config, events, groups: group::Groups::default() });
        let tasks = shared.tasks();
        shim::create_private_dir(&tasks)?;
        events::serve(&shared).await?;
        Ok((Self { shared }, receiver))
    }
}

#[async_trait]
impl Client for Local {
    fn status(&self) -> Status {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Status { kind: Kind::Local, version, remote: None }
    }

    fn shims(&self) -> Shims {
        Shims::Own
    }

    async fn create(&self, request: CreateRequest) -> Result<Arc<dyn Container>> {
        if let Some(shim) = &request.runtime.shim {
            return Err(Error::Refused {
                kind: pouch_types::ErrorKind::Unsupported,
                message: format!("the embedded backend does not start the shim {shim}"),
            });
        }
        let shim = Shim::spawn(Arc::clone(&self.shared), request).await?;
        Ok(Arc::new(shim) as Arc<dyn Container>)
    }

    async fn load_all(&self) -> Result<Vec<Loaded>> {
        let tasks = self.shared.tasks();
        let entries = std::fs::read_dir(&tasks).map_err(Error::io("read", &tasks))?;
        let mut loading = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("read", &tasks))?;
            // Only what is named by an id is a bundle of ours.
            let Some(id) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            loading.push(Shim::load(Arc::clone(&self.shared), id));
        }
        let loaded = futures::future::join_all(loading).await;
        group::sweep(&self.shared).await?;
        Ok(loaded)
    }
}
