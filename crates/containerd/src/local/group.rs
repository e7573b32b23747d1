//! Shims that several containers share: those of one pod.
//!
//! Such a shim lives in `<state>/p/<group>/` (`s.sock`, `process.json`, `shim.log`); the bundle of
//! each container says in the file `group` whose it is. The first container starts the shim, later
//! ones join it, and it ends with the last. Who joins and who leaves take turns, so that nobody
//! joins a shim that is about to end.

use std::collections::{BTreeSet, HashMap};
use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use pouch_types::ContainerId;

use super::Shared;
use super::shim::{self, Reached};
use crate::{Error, Result};

/// Name of the file in a bundle.
const FILE: &str = "group";

/// The members of one group. Held locked while one joins or leaves.
pub(crate) type Members = Arc<tokio::sync::Mutex<BTreeSet<ContainerId>>>;

/// All groups that have, or had, members in this daemon's time.
#[derive(Debug, Default)]
pub(crate) struct Groups(Mutex<HashMap<ContainerId, Members>>);

impl Groups {
    pub(crate) fn members(&self, group: &ContainerId) -> Members {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(groups.entry(group.clone()).or_default())
    }

    /// Forgets a group that nobody holds and that has no members.
    pub(crate) fn forget(&self, group: &ContainerId) {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = |members: &Members| {
            Arc::strong_count(members) == 1
                && members.try_lock().is_ok_and(|members| members.is_empty())
        };
        if groups.get(group).is_some_and(unused) {
            groups.remove(group);
        }
    }
}

impl Shared {
    /// Where the shims of groups live.
    pub(crate) fn shims(&self) -> PathBuf {
        self.config.state.join("p")
    }

    /// Where that of `group` does.
    pub(crate) fn home(&self, group: &ContainerId) -> PathBuf {
        self.shims().join(group.as_str())
    }
}

/// Writes down whose container a bundle holds.
pub(crate) fn write(bundle: &Path, group: &ContainerId) -> Result<()> {
    let path = bundle.join(FILE);
    std::fs::write(&path, group.as_str()).map_err(Error::io("write", path))
}

/// The group of a bundle's container, if it has one.
pub(crate) fn read(bundle: &Path) -> Option<ContainerId> {
    std::fs::read_to_string(bundle.join(FILE)).ok()?.parse().ok()
}

/// The living shim of `group`, or a new one. The caller holds the members.
pub(crate) async fn join(shared: &Shared, group: &ContainerId) -> Result<Reached> {
    let home = shared.home(group);
    if let Some(found) = shim::reach(&home, group).await? {
        return Ok(found);
    }
    shim::create_private_dir(&home)?;
    // Of a dead one.
    for name in [shim::SOCKET, shim::IDENTITY] {
        let path = home.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != Io::NotFound => {
                return Err(Error::io("remove", path)(error));
            }
            _ => {}
        }
    }
    shim::start(shared, group, &home)
}

/// Ends the shim of `group`, which has no containers any more, and removes its directory. The
/// caller holds the members.
pub(crate) async fn end(shared: &Shared, group: &ContainerId) -> Result<()> {
    let home = shared.home(group);
    if let Some(found) = shim::reach(&home, group).await? {
        shim::end(group, &home, Some(found.identity), Some(&found.client)).await?;
    }
    match std::fs::remove_dir_all(&home) {
        Err(error) if error.kind() != Io::NotFound => Err(Error::io("remove", home)(error)),
        _ => Ok(()),
    }
}

/// Ends the shims whose containers are all gone: a daemon died between the two. To be called when
/// all containers are loaded.
pub(crate) async fn sweep(shared: &Shared) -> Result<()> {
    let shims = shared.shims();
    let entries = match std::fs::read_dir(&shims) {
        Err(error) if error.kind() == Io::NotFound => return Ok(()),
        other => other.map_err(Error::io("read", &shims))?,
    };
    for entry in entries {
        let entry = entry.map_err(Error::io("read", &shims))?;
        let Some(group) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let members = shared.groups.members(&group);
        let members = members.lock().await;
        if members.is_empty()
            && let Err(error) = end(shared, &group).await
        {
            let error = pouch_types::error::chain(&error);
            tracing::warn!(pod.id = %group, error, "a shim without containers stays");
        }
    }
    Ok(())
}
