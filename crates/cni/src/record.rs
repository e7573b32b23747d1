//! What we know of our own attachments beyond libcni's cache: that they are ours, and by which way
//! they were made.
//!
//! A record is written before the first change and removed after the last, so that what a crash
//! leaves has one. Records are in memory too; the directory is read once.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cache::{remove, write};
use crate::error::CniError;
use crate::native::{Element, Wiring};
use crate::plugin::Call;

const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Which attachment: id, interface, network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) ifname: String,
    pub(crate) network: String,
}

/// How an attachment was made, and so is undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    Executed,
    Native(Made),
    /// Detached natively; the pair, cut off from the bridge's traffic, is still to be removed.
    Leaving {
        bridge: String,
        near: String,
    },
}

/// What a native attachment consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) wiring: Wiring,
    /// Host's end of the pair.
    pub(crate) near: String,
    /// Where the reservations are.
    pub(crate) reservations: PathBuf,
    pub(crate) addresses: Vec<IpAddr>,
    /// In the packet rules.
    pub(crate) elements: Vec<Element>,
}

/// One attachment of ours.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) key: Key,
    pub(crate) netns: String,
    /// The list as JSON.
    pub(crate) config: String,
    pub(crate) args: Vec<(String, String)>,
    pub(crate) capability_args: Map<String, Value>,
    pub(crate) how: How,
}

impl Record {
    /// Whether it is detached, but for its pair.
    pub(crate) const fn is_leaving(&self) -> bool {
        matches!(self.how, How::Leaving { .. })
    }

    pub(crate) fn call(&self) -> Call {
        Call {
            id: self.key.id.clone(),
            netns: self.netns.clone(),
            ifname: self.key.ifname.clone(),
            args: self.args.clone(),
            capability_args: self.capability_args.clone(),
        }
    }
}

/// All records of this daemon.
#[derive(Debug)]
pub(crate) struct Records {
    directory: PathBuf,
    all: Mutex<BTreeMap<Key, Record>>,
}

impl Records {
    /// Reads the directory; what does not parse is passed over with a warning.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, CniError> {
        let directory = state_dir.join("attachments");
        let mut all = BTreeMap::new();
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other.map_err(CniError::file("list", &directory))?),
        };
        for entry in entries.into_iter().flatten() {
            let path = entry.map_err(CniError::file("list", &directory))?.path();
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
                // A write that a crash cut short.
                remove(&path)?;
                continue;
            }
            match read(&path) {
                Ok(record) => drop(all.insert(record.key.clone(), record)),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a record was passed over");
                }
            }
        }
        Ok(Self { directory, all: Mutex::new(all) })
    }

    /// Neither an id nor a network's name has a `+`.
    fn path(&self, key: &Key) -> PathBuf {
        self.directory.join(format!("{}+{}+{}", key.id, key.ifname, key.network))
    }

    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<Key, Record>) -> T) -> T {
        f(&mut self.all.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn put(&self, record: Record) -> Result<(), CniError> {
        let path = self.path(&record.key);
        let bytes = serde_json::to_vec(&record)
            .map_err(|source| CniError::Malformed { path: path.clone(), source })?;
        self.with(|all| {
            write(&path, &bytes)?;
            all.insert(record.key.clone(), record);
            Ok(())
        })
    }

    /// Writes a native attachment with its elements, unless another claims one of their keys: then
    /// gives that one.
    pub(crate) fn claim(&self, record: Record, made: Made) -> Result<Option<Record>, CniError> {
        let collides = |other: &Record| match &other.how {
            How::Native(theirs) => {
                other.key != record.key
                    && theirs.elements.iter().any(|a| made.elements.iter().any(|b| a.collides(b)))
            }
            How::Executed | How::Leaving { .. } => false,
        };
        let record = Record { how: How::Native(made.clone()), ..record.clone() };
        let holder = self.with(|all| {
            let holder = all.values().find(|other| collides(other)).cloned();
            if holder.is_none() {
                // At once, so that two who want the same cannot both have it.
                all.insert(record.key.clone(), record.clone());
            }
            holder
        });
        if holder.is_none() {
            self.put(record)?;
        }
        Ok(holder)
    }

    pub(crate) fn remove(&self, key: &Key) -> Result<(), CniError> {
        self.with(|all| {
            remove(&self.path(key))?;
            all.remove(key);
            Ok(())
        })
    }

    /// Removes the record of a detached attachment, unless it has become another's.
    pub(crate) fn remove_leaving(&self, key: &Key, pair: &str) -> Result<(), CniError> {
        self.with(|all| {
            let same = all.get(key).is_some_and(|record| match &record.how {
                How::Leaving { near, .. } => near == pair,
                How::Executed | How::Native(_) => false,
            });
            if same {
                remove(&self.path(key))?;
                all.remove(key);
            }
            Ok(())
        })
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Record> {
        self.with(|all| all.get(key).cloned())
    }

    pub(crate) fn all(&self) -> Vec<Record> {
        self.with(|all| all.values().cloned().collect())
    }

    /// Native attachments of which `concerned` is true, but for `own`.
    pub(crate) fn native_where(&self, own: &Key, concerned: impl Fn(&Made) -> bool) -> Vec<Record> {
        let native = |record: &&Record| match &record.how {
            How::Native(made) => record.key != *own && concerned(made),
            How::Executed | How::Leaving { .. } => false,
        };
        self.with(|all| all.values().filter(native).cloned().collect())
    }
}

fn read(path: &Path) -> io::Result<Record> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}
