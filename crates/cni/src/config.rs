//! Configurations of networks: found in a directory, read, kept until a file changes.
//!
//! The default network is that of the first file by name that ends in `.conflist`, `.conf` or
//! `.json`, as for containerd. When that file does not parse there is no default network: taking
//! the next one would put pods where nobody meant them to be.
//!
//! Each use looks at the names, times and sizes of the files (some ten system calls) and reads them
//! again when one is other than before; nothing watches or polls, and a directory that is made
//! later is found.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::CniError;
use crate::version::SpecVersion;

/// A configuration is a page or two.
const MAX_FILE: u64 = 1024 * 1024;
const MAX_FILES: usize = 256;
const EXTENSIONS: [&str; 3] = ["conflist", "conf", "json"];

/// One plugin of a network.
#[derive(Debug, Clone)]
pub(crate) struct PluginConf {
    /// Its type, which is its file name.
    pub(crate) kind: String,
    /// Capabilities that it announces, in `capabilities`.
    pub(crate) capabilities: Vec<String>,
    /// All of it.
    pub(crate) raw: Map<String, Value>,
}

/// A network: plugins in order.
#[derive(Debug, Clone)]
pub(crate) struct NetworkList {
    pub(crate) name: String,
    pub(crate) version: SpecVersion,
    pub(crate) check: Use,
    pub(crate) gc: Use,
    pub(crate) plugins: Vec<PluginConf>,
    /// The list as JSON, all plugins inside: what the cache keeps for DEL.
    pub(crate) bytes: Vec<u8>,
}

/// Whether the configuration lets an operation be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Allowed,
    Disabled,
}

/// `true`, or as a text, as libcni takes it too.
#[derive(Deserialize)]
#[serde(untagged)]
enum Flag {
    Plain(bool),
    Text(FlagText),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum FlagText {
    #[serde(alias = "True", alias = "TRUE")]
    True,
    #[serde(alias = "False", alias = "FALSE")]
    False,
}

impl Flag {
    const fn is_set(&self) -> bool {
        matches!(self, Self::Plain(true) | Self::Text(FlagText::True))
    }
}

fn disables(flag: Option<&Flag>) -> Use {
    if flag.is_some_and(Flag::is_set) { Use::Disabled } else { Use::Allowed }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListFile {
    name: Option<String>,
    cni_version: Option<String>,
    cni_versions: Option<Vec<String>>,
    disable_check: Option<Flag>,
    #[serde(rename = "disableGC")]
    disable_gc: Option<Flag>,
    load_only_inlined_plugins: Option<Flag>,
    plugins: Option<Vec<Map<String, Value>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PluginFile {
    name: Option<String>,
    cni_version: Option<String>,
}

impl NetworkList {
    /// Reads a list. `path` is for errors, and its directory may have more plugins of the list.
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Self, CniError> {
        let file: ListFile = serde_json::from_slice(bytes).map_err(malformed(path))?;
        let name = named(file.name, path)?;
        let inlined = file.load_only_inlined_plugins.is_some_and(|flag| flag.is_set());
        let mut raw = file.plugins.unwrap_or_default();
        let mut bytes = bytes.to_vec();
        let further = if inlined { Vec::new() } else { further_plugins(path, &name)? };
        if !further.is_empty() {
            let mut whole: Map<String, Value> =
                serde_json::from_slice(&bytes).map_err(malformed(path))?;
            raw.extend(further);
            whole.insert("plugins".into(), json!(raw));
            whole.insert("loadOnlyInlinedPlugins".into(), true.into());
            bytes = serde_json::to_vec(&whole).map_err(malformed(path))?;
        }
        let versions = file.cni_versions.unwrap_or_default();
        let offered = file.cni_version.iter().chain(&versions).map(String::as_str);
        Ok(Self {
            name,
            version: SpecVersion::choose(offered).ok_or_else(|| CniError::SpecVersion {
                path: path.to_owned(),
                version: file.cni_version.clone().unwrap_or_default(),
            })?,
            check: disables(file.disable_check.as_ref()),
            gc: disables(file.disable_gc.as_ref()),
            plugins: plugins(raw, path)?,
            bytes,
        })
    }

    /// Reads a file with one plugin as a list of one.
    fn parse_single(bytes: &[u8], path: &Path) -> Result<Self, CniError> {
        let file: PluginFile = serde_json::from_slice(bytes).map_err(malformed(path))?;
        let raw: Map<String, Value> = serde_json::from_slice(bytes).map_err(malformed(path))?;
        let mut list = json!({"name": named(file.name, path)?, "plugins": [raw]});
        if let (Some(version), Value::Object(list)) = (file.cni_version, &mut list) {
            list.insert("cniVersion".into(), version.into());
        }
        if let Value::Object(list) = &mut list {
            list.insert("loadOnlyInlinedPlugins".into(), true.into());
        }
        Self::parse(&serde_json::to_vec(&list).map_err(malformed(path))?, path)
    }
}

fn malformed(path: &Path) -> impl FnOnce(serde_json::Error) -> CniError {
    let path = path.to_owned();
    move |source| CniError::Malformed { path, source }
}

fn unusable(path: &Path, reason: impl Into<String>) -> CniError {
    CniError::Unusable { path: path.to_owned(), reason: reason.into() }
}

/// Letters, digits, `_`, `.` and `-`, the first a letter or digit: libcni's rule for names of
/// networks and ids of containers. Such a name is one component of a path.
pub(crate) fn is_name(text: &str) -> bool {
    text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn named(name: Option<String>, path: &Path) -> Result<String, CniError> {
    let name = name.ok_or_else(|| unusable(path, "it has no name"))?;
    if is_name(&name) {
        Ok(name)
    } else {
        Err(unusable(path, format!("{name:?} is not a name of a network")))
    }
}

fn plugins(raw: Vec<Map<String, Value>>, path: &Path) -> Result<Vec<PluginConf>, CniError> {
    if raw.is_empty() {
        return Err(unusable(path, "it has no plugins"));
    }
    raw.into_iter().map(|raw| plugin(raw, path)).collect()
}

fn plugin(raw: Map<String, Value>, path: &Path) -> Result<PluginConf, CniError> {
    let kind = match raw.get("type") {
        Some(Value::String(kind)) if !kind.is_empty() => kind.clone(),
        Some(_) => return Err(unusable(path, "the type of a plugin is not a name")),
        None => return Err(unusable(path, "a plugin has no type")),
    };
    let capabilities = match raw.get("capabilities") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Object(all)) if all.values().all(Value::is_boolean) => {
            let on = all.iter().filter(|(_, value)| **value == Value::Bool(true));
            on.map(|(name, _)| name.clone()).collect()
        }
        Some(_) => {
            return Err(unusable(
                path,
                format!("the capabilities of {kind} are not true or false"),
            ));
        }
    };
    Ok(PluginConf { kind, capabilities, raw })
}

/// `<directory>/<network>/*.conf`: plugins that others add to a list (specification 1.1.0).
fn further_plugins(path: &Path, network: &str) -> Result<Vec<Map<String, Value>>, CniError> {
    let Some(directory) = path.parent() else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for file in listing(&directory.join(network), &["conf"])? {
        let bytes = read(&file.path)?;
        found.push(serde_json::from_slice(&bytes).map_err(malformed(&file.path))?);
    }
    Ok(found)
}

/// What tells a changed file from the one that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// Files of these kinds in `directory`, by name; of a missing directory none.
fn listing(directory: &Path, extensions: &[&str]) -> Result<Vec<Seen>, CniError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(CniError::file("list", directory))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(CniError::file("list", directory))?.path();
        let extension = path.extension().and_then(|e| e.to_str());
        if !extension.is_some_and(|e| extensions.contains(&e)) {
            continue;
        }
        // A link that leads nowhere is no configuration; installers leave such.
        let Ok(meta) = fs::metadata(&path) else { continue };
        if meta.is_file() {
            let changed = (meta.ctime(), meta.ctime_nsec());
            found.push(Seen { inode: meta.ino(), size: meta.len(), changed, path });
        }
        if found.len() > MAX_FILES {
            return Err(unusable(directory, format!("more than {MAX_FILES} files")));
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, CniError> {
    let failed = || CniError::file("read", path);
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(failed())?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed())?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(unusable(path, format!("it is longer than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

fn load(path: &Path) -> Result<NetworkList, CniError> {
    let bytes = read(path)?;
    if path.extension().is_some_and(|e| e == "conflist") {
        NetworkList::parse(&bytes, path)
    } else {
        NetworkList::parse_single(&bytes, path)
    }
}

/// Networks in the order of their files.
type Lists = Arc<Vec<Arc<NetworkList>>>;

/// The networks of one directory. Its methods block for a few system calls.
#[derive(Debug)]
pub(crate) struct Configurations {
    directory: PathBuf,
    last: Mutex<Option<(Vec<Seen>, Lists)>>,
}

impl Configurations {
    pub(crate) const fn new(directory: PathBuf) -> Self {
        Self { directory, last: Mutex::new(None) }
    }

    /// The network that pods get which ask for none.
    pub(crate) fn default_network(&self) -> Result<Arc<NetworkList>, CniError> {
        let files = listing(&self.directory, &EXTENSIONS)?;
        let none = || CniError::NoNetwork { dir: self.directory.clone() };
        if let Some(all) = self.unchanged(&self.with_further(&files)?) {
            return all.first().cloned().ok_or_else(none);
        }
        let first = files.first().ok_or_else(none)?;
        let list = Arc::new(load(&first.path)?);
        // The others too, so that the next use finds all of them kept; a defect of theirs is told
        // when one of them is asked for.
        drop(self.all());
        Ok(list)
    }

    /// The first network of that name.
    pub(crate) fn named(&self, name: &str) -> Result<Arc<NetworkList>, CniError> {
        let (all, defect) = self.all()?;
        all.iter().find(|list| list.name == name).cloned().ok_or_else(|| CniError::NoSuchNetwork {
            name: name.to_owned(),
            dir: self.directory.clone(),
            unreadable: defect.as_ref().map(|defect| pouch_types::error::chain(defect)),
        })
    }

    /// All that can be read, in order, and the first defect among the others.
    pub(crate) fn all(&self) -> Result<(Lists, Option<CniError>), CniError> {
        let files = listing(&self.directory, &EXTENSIONS)?;
        let seen = self.with_further(&files)?;
        if let Some(all) = self.unchanged(&seen) {
            return Ok((all, None));
        }
        let (mut all, mut defect) = (Vec::new(), None);
        for file in &files {
            match load(&file.path) {
                Ok(list) => all.push(Arc::new(list)),
                Err(error) => defect = defect.or(Some(error)),
            }
        }
        let all = Arc::new(all);
        let keep = defect.is_none().then(|| (seen, Arc::clone(&all)));
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = keep;
        Ok((all, defect))
    }

    fn unchanged(&self, seen: &[Seen]) -> Option<Lists> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(then, _)| then == seen).map(|(_, all)| Arc::clone(all))
    }

    /// Adds the files of subdirectories, which belong to lists.
    fn with_further(&self, files: &[Seen]) -> Result<Vec<Seen>, CniError> {
        let mut seen = files.to_vec();
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let names: Vec<_> =
            last.iter().flat_map(|(_, all)| all.iter().map(|list| list.name.clone())).collect();
        drop(last);
        for name in names {
            seen.extend(listing(&self.directory.join(name), &["conf"])?);
        }
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use pouch_types::{Classified, ErrorKind};

    use super::*;

    fn list(name: &str) -> String {
        format!(r#"{{"cniVersion":"1.0.0","name":"{name}","plugins":[{{"type":"x"}}]}}"#)
    }

    #[test]
    fn the_first_file_by_name_is_the_default_and_others_have_names() {
        let dir = tempfile::tempdir().unwrap();
        let configurations = Configurations::new(dir.path().join("net.d"));
        assert!(matches!(configurations.default_network(), Err(CniError::NoNetwork { .. })));
        let dir = dir.path().join("net.d");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("20-b.conflist"), list("b")).unwrap();
        assert_eq!(configurations.default_network().unwrap().name, "b");
        let single = r#"{"cniVersion":"0.4.0","name":"a","type":"y","capabilities":{"p":true}}"#;
        fs::write(dir.join("10-a.json"), single).unwrap();
        fs::write(dir.join("00-readme.txt"), "no").unwrap();
        fs::create_dir(dir.join("05.conf")).unwrap();
        let first = configurations.default_network().unwrap();
        assert_eq!((first.name.as_str(), first.version), ("a", SpecVersion::V0_4_0));
        assert_eq!(first.plugins[0].capabilities, ["p"]);
        assert_eq!(configurations.named("b").unwrap().plugins[0].kind, "x");
        fs::remove_file(dir.join("10-a.json")).unwrap();
        assert_eq!(configurations.default_network().unwrap().name, "b");
        assert!(matches!(configurations.named("a"), Err(CniError::NoSuchNetwork { .. })));
    }

    #[test]
    fn an_unchanged_directory_is_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let configurations = Configurations::new(dir.path().to_owned());
        fs::write(dir.path().join("a.conflist"), list("a")).unwrap();
        configurations.default_network().unwrap();
        let first = configurations.default_network().unwrap();
        assert!(Arc::ptr_eq(&first, &configurations.default_network().unwrap()));
        fs::write(dir.path().join("a.conflist"), list("longer")).unwrap();
        assert_eq!(configurations.default_network().unwrap().name, "longer");
    }

    #[test]
    fn plugins_of_a_subdirectory_belong_to_the_list() {
        let dir = tempfile::tempdir().unwrap();
        let configurations = Configurations::new(dir.path().to_owned());
        fs::write(dir.path().join("a.conflist"), list("a")).unwrap();
        configurations.default_network().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/50-more.conf"), r#"{"type":"more"}"#).unwrap();
        let both = configurations.default_network().unwrap();
        let kinds: Vec<_> = both.plugins.iter().map(|p| p.kind.as_str()).collect();
        assert_eq!(kinds, ["x", "more"]);
        // What is kept for DEL needs no directory.
        let kept = NetworkList::parse(&both.bytes, Path::new("/nowhere/x")).unwrap();
        assert_eq!(kept.plugins.len(), 2);
    }

    #[test]
    fn a_defect_names_the_file_and_the_line_and_is_not_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let configurations = Configurations::new(dir.path().to_owned());
        fs::write(dir.path().join("b.conflist"), list("b")).unwrap();
        fs::write(dir.path().join("a.conflist"), "{\n \"name\": \"a\",\n oops\n}").unwrap();
        let error = configurations.default_network().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let text = pouch_types::error::chain(&error);
        assert!(text.contains("a.conflist") && text.contains("line 3"), "{text}");
        assert_eq!(configurations.named("b").unwrap().name, "b");
        let text = configurations.named("a").unwrap_err().to_string();
        assert!(text.contains("a.conflist"), "{text}");
    }

    #[test]
    fn what_is_no_network_is_refused_with_the_reason() {
        let refused = |text: &str| {
            let error = NetworkList::parse(text.as_bytes(), Path::new("/x.conflist")).unwrap_err();
            pouch_types::error::chain(&error)
        };
        let cases = [
            (r#"{"cniVersion":"1.0.0","plugins":[{"type":"x"}]}"#, "no name"),
            (r#"{"cniVersion":"1.0.0","name":"../x","plugins":[{"type":"x"}]}"#, "not a name"),
            (r#"{"cniVersion":"1.0.0","name":"x","plugins":[]}"#, "no plugins"),
            (r#"{"cniVersion":"1.0.0","name":"x","plugins":[{}]}"#, "no type"),
            (r#"{"cniVersion":"1.0.0","name":"x","plugins":{}}"#, "line 1"),
            (r#"{"cniVersion":"0.2.0","name":"x","plugins":[{"type":"x"}]}"#, "0.3.0 to 1.1.0"),
            (r#"{"name":"x","plugins":[{"type":"x"}]}"#, "0.3.0 to 1.1.0"),
            (
                r#"{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"x","capabilities":{"a":1}}]}"#,
                "capabilities",
            ),
        ];
        for (text, reason) in cases {
            assert!(refused(text).contains(reason), "{text}: {}", refused(text));
        }
    }

    #[test]
    fn the_highest_of_several_versions_is_used() {
        let text = r#"{"cniVersion":"0.4.0","cniVersions":["0.3.1","1.1.0","9.0.0"],"name":"x",
            "disableCheck":"true","plugins":[{"type":"x"}]}"#;
        let list = NetworkList::parse(text.as_bytes(), Path::new("/x.conflist")).unwrap();
        assert_eq!(list.version, SpecVersion::V1_1_0);
        assert_eq!((list.check, list.gc), (Use::Disabled, Use::Allowed));
    }
}
