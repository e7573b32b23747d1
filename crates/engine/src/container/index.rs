//! Finds containers by id, by name and by the beginning of an id.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use pouch_types::{ContainerId, ContainerName, ErrorKind};

use super::Container;
use crate::EngineError;

/// All containers of the engine.
#[derive(Debug, Default)]
pub(crate) struct Index {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_id: BTreeMap<ContainerId, Arc<Container>>,
    by_name: HashMap<ContainerName, ContainerId>,
}

impl Index {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// By exact id.
    pub(crate) fn get(&self, id: &ContainerId) -> Option<Arc<Container>> {
        self.read().by_id.get(id).cloned()
    }

    /// By id, name (with or without a slash) or unambiguous beginning of an id, in this order.
    ///
    /// # Errors
    /// `NotFound`, also when several ids begin so: Docker answers 404 then too.
    pub(crate) fn find(&self, key: &str) -> Result<Arc<Container>, EngineError> {
        let inner = self.read();
        let key = key.strip_prefix('/').unwrap_or(key);
        let named = key.parse::<ContainerName>().ok().and_then(|name| inner.by_name.get(&name));
        if let Some(found) =
            key.parse::<ContainerId>().ok().as_ref().or(named).and_then(|id| inner.by_id.get(id))
        {
            return Ok(Arc::clone(found));
        }
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(EngineError::no_such_container(key));
        }
        // Ids sort as text, so those with a common beginning are neighbours.
        let mut matches = inner
            .by_id
            .iter()
            .skip_while(|(id, _)| id.as_str() < key)
            .take_while(|(id, _)| id.as_str().starts_with(key))
            .map(|(_, container)| container);
        match (matches.next(), matches.next()) {
            (Some(only), None) => Ok(Arc::clone(only)),
            (Some(_), Some(_)) => Err(EngineError::new(
                ErrorKind::NotFound,
                format!("multiple IDs found with provided prefix: {key}"),
            )),
            (None, _) => Err(EngineError::no_such_container(key)),
        }
    }

    /// All, by id.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.read().by_id.values().cloned().collect()
    }

    /// Who has this name.
    pub(crate) fn holder(&self, name: &ContainerName) -> Option<ContainerId> {
        self.read().by_name.get(name).cloned()
    }

    /// Adds a container under its present name.
    pub(crate) fn insert(&self, container: Arc<Container>) {
        let name = container.view().name.clone();
        let mut inner = self.write();
        inner.by_name.insert(name, container.id.clone());
        inner.by_id.insert(container.id.clone(), container);
    }

    /// Gives a container another name.
    pub(crate) fn rename(&self, id: &ContainerId, from: &ContainerName, to: ContainerName) {
        let mut inner = self.write();
        if inner.by_name.get(from) == Some(id) {
            inner.by_name.remove(from);
        }
        inner.by_name.insert(to, id.clone());
    }

    /// Forgets a container.
    pub(crate) fn remove(&self, id: &ContainerId, name: &ContainerName) {
        let mut inner = self.write();
        inner.by_id.remove(id);
        if inner.by_name.get(name) == Some(id) {
            inner.by_name.remove(name);
        }
    }
}
