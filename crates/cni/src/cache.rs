//! libcni's cache of results: `<cache>/results/<network>-<id>-<interface>`, kind `cniCacheV1`.
//!
//! It is what a DEL needs after a restart, ours or another runtime's.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::CniError;

const KIND: &str = "cniCacheV1";
const MAX_FILE: u64 = 4 * 1024 * 1024;
const MAX_FILES: usize = 65_536;

/// One cached attachment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cached {
    kind: String,
    pub(crate) container_id: String,
    /// The list as JSON, in base64.
    config: String,
    pub(crate) if_name: String,
    pub(crate) network_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) netns: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cni_args: Option<Vec<(String, String)>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) capability_args: Option<Map<String, Value>>,
    #[serde(default)]
    pub(crate) result: Value,
}

impl Cached {
    pub(crate) fn new(
        network: &str,
        call: &crate::plugin::Call,
        config: &[u8],
        result: Value,
    ) -> Self {
        let capabilities = &call.capability_args;
        Self {
            kind: KIND.to_owned(),
            container_id: call.id.clone(),
            config: STANDARD.encode(config),
            if_name: call.ifname.clone(),
            network_name: network.to_owned(),
            netns: call.netns.clone(),
            cni_args: (!call.args.is_empty()).then(|| call.args.clone()),
            capability_args: (!capabilities.is_empty()).then(|| capabilities.clone()),
            result,
        }
    }

    /// The list that the ADD was made with.
    pub(crate) fn config(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.config).ok().filter(|bytes| !bytes.is_empty())
    }
}

impl Cached {
    /// Whether the result has an interface of that name.
    pub(crate) fn mentions(&self, interface: &str) -> bool {
        let all = self.result.get("interfaces").and_then(Value::as_array);
        let name = |one: &Value| one.get("name").is_some_and(|name| name == interface);
        all.is_some_and(|all| all.iter().any(name))
    }
}

/// The directory of results.
#[derive(Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
}

impl Cache {
    pub(crate) fn new(cache_dir: &Path) -> Self {
        Self { directory: cache_dir.join("results") }
    }

    fn path(&self, network: &str, id: &str, ifname: &str) -> PathBuf {
        self.directory.join(format!("{network}-{id}-{ifname}"))
    }

    pub(crate) fn put(&self, cached: &Cached) -> Result<(), CniError> {
        let path = self.path(&cached.network_name, &cached.container_id, &cached.if_name);
        let bytes = serde_json::to_vec(cached)
            .map_err(|source| CniError::Malformed { path: path.clone(), source })?;
        write(&path, &bytes)
    }

    /// What is cached; `None` as well for what is not of this format.
    pub(crate) fn get(&self, network: &str, id: &str, ifname: &str) -> Option<Cached> {
        let cached = read(&self.path(network, id, ifname))?;
        let same =
            cached.network_name == network && cached.container_id == id && cached.if_name == ifname;
        same.then_some(cached)
    }

    /// Forgets; what is not there is forgotten.
    pub(crate) fn remove(&self, network: &str, id: &str, ifname: &str) -> Result<(), CniError> {
        remove(&self.path(network, id, ifname))
    }

    /// Those of this id and interface, in whatever network. Names of files are looked at first.
    pub(crate) fn of(&self, id: &str, ifname: &str) -> Vec<Cached> {
        let end = format!("-{id}-{ifname}");
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let named = entries.filter(|e| e.file_name().to_str().is_some_and(|n| n.ends_with(&end)));
        let all = named.take(MAX_FILES).filter_map(|entry| read(&entry.path()));
        all.filter(|cached| cached.container_id == id && cached.if_name == ifname).collect()
    }

    /// All attachments in the cache, whoever made them.
    pub(crate) fn all(&self) -> Vec<Cached> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        // A hidden one is a write that a crash cut short.
        let entries = entries.filter(|e| !e.file_name().as_encoded_bytes().starts_with(b"."));
        let mut all: Vec<_> =
            entries.take(MAX_FILES).filter_map(|entry| read(&entry.path())).collect();
        all.sort_by(|a, b| a.network_name.cmp(&b.network_name));
        all
    }
}

fn read(path: &Path) -> Option<Cached> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    let cached: Cached = serde_json::from_slice(&bytes).ok()?;
    (cached.kind == KIND).then_some(cached)
}

/// Writes a file as a whole or not at all; its directory is made when missing. It is not synced: what
/// it tells of does not outlive the machine either.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), CniError> {
    let failed = || CniError::file("write", path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.new"));
    let create = || {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)
    };
    let file = match create() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = path.parent().unwrap_or_else(|| Path::new("/"));
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700).create(directory).map_err(failed())?;
            create()
        }
        other => other,
    };
    let written = file.and_then(|mut file| file.write_all(bytes));
    written.and_then(|()| fs::rename(&temporary, path)).map_err(|error| {
        // The write's failure is the one to tell.
        let _ = fs::remove_file(&temporary);
        failed()(error)
    })
}

/// Removes a file; an absent one is no error.
pub(crate) fn remove(path: &Path) -> Result<(), CniError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(CniError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// The arguments of a call as text, for those that look for one.
pub(crate) fn arguments(args: &[(String, String)]) -> BTreeMap<&str, &str> {
    args.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugin::Call;

    #[test]
    fn what_libcni_wrote_is_read_and_what_we_write_has_its_fields() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let call = Call {
            id: "pod1".into(),
            netns: "/run/netns/x".into(),
            ifname: "eth0".into(),
            args: vec![("IgnoreUnknown".into(), "1".into())],
            capability_args: Map::new(),
        };
        let result = json!({"cniVersion": "1.0.0"});
        cache.put(&Cached::new("net", &call, b"{}", result.clone())).unwrap();
        let bytes = fs::read(dir.path().join("results/net-pod1-eth0")).unwrap();
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        let expected = json!({
            "kind": "cniCacheV1", "containerId": "pod1", "config": "e30=", "ifName": "eth0",
            "networkName": "net", "netns": "/run/netns/x", "cniArgs": [["IgnoreUnknown", "1"]],
            "result": result
        });
        assert_eq!(value, expected);
        let back = cache.get("net", "pod1", "eth0").unwrap();
        assert_eq!(back.config().unwrap(), b"{}");
        assert_eq!(cache.all().len(), 1);
        cache.remove("net", "pod1", "eth0").unwrap();
        cache.remove("net", "pod1", "eth0").unwrap();
        assert!(cache.get("net", "pod1", "eth0").is_none());
    }

    #[test]
    fn a_name_with_dashes_is_not_taken_for_another() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let call = Call { id: "b-c".into(), ifname: "eth0".into(), ..Call::default() };
        cache.put(&Cached::new("a", &call, b"{}", Value::Null)).unwrap();
        assert!(cache.get("a-b", "c", "eth0").is_none());
        assert!(cache.get("a", "b-c", "eth0").is_some());
    }
}
