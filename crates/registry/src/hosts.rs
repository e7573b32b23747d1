//! `hosts.toml`: where the repositories of a registry may be had (containerd,
//! `docs/hosts.md`).
//!
//! ```toml
//! server = "https://registry-1.docker.io"
//!
//! [host."https://mirror.lan:5000"]
//!   capabilities = ["pull", "resolve"]
//!   ca = "mirror.crt"
//! ```
//!
//! The order of the tables in the file is the order in which hosts are asked; `server`, to which
//! the settings outside of all tables belong, is the last.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use toml::{Table, Value};

use crate::certs::{self, Identity};
use crate::error::{HostsError, RegistryError};

/// The largest file.
const FILE_BYTES: u64 = 1 << 20;
/// Hosts of one registry.
const HOSTS: usize = 64;
/// Its name in the directory of a registry.
const FILE: &str = "hosts.toml";

/// What a host may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// Content of a known digest.
    pub(crate) pull: bool,
    /// What a tag stands for: a host with this is believed.
    pub(crate) resolve: bool,
    pub(crate) push: bool,
}

impl Capabilities {
    pub(crate) const ALL: Self = Self { pull: true, resolve: true, push: true };
    pub(crate) const READ: Self = Self { pull: true, resolve: true, push: false };
}

/// One host of a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Host {
    /// With `/v2/` at its end unless the file says otherwise.
    pub(crate) base: Url,
    pub(crate) capabilities: Capabilities,
    pub(crate) headers: HeaderMap,
    pub(crate) identity: Identity,
    pub(crate) skip_verify: bool,
}

/// What is known of a registry.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Hosts {
    /// In the order of the file.
    pub(crate) mirrors: Vec<Host>,
    /// Instead of the registry itself.
    pub(crate) server: Option<Host>,
    /// Of a directory without the file, which then is one of certificates.
    pub(crate) identity: Identity,
}

impl Hosts {
    /// What the first of `dirs` that knows the registry `domain` says. Port `5000` of a host may
    /// be written `host:5000` or `host_5000_`; `_default` is for all that have no directory.
    pub(crate) fn find(dirs: &[PathBuf], domain: &str) -> Result<Option<Self>, RegistryError> {
        let mut names = Vec::new();
        if let Some((host, port)) = domain.rsplit_once(':') {
            names.push(format!("{host}_{port}_"));
        }
        names.push(domain.to_owned());
        names.push("_default".to_owned());
        for name in names.iter().filter(|name| certs::is_plain(name)) {
            for dir in dirs {
                let dir = dir.join(name);
                if let Some(hosts) = read(&dir.join(FILE))? {
                    return Ok(Some(hosts));
                }
                let identity = Identity::of_dir(&dir)?;
                if !identity.is_empty() {
                    return Ok(Some(Self { identity, ..Self::default() }));
                }
            }
        }
        Ok(None)
    }
}

/// Checks all registries of a directory.
pub(crate) fn check_dir(dir: &Path) -> Result<(), RegistryError> {
    for registry in certs::entries(dir)?.iter().filter(|path| path.is_dir()) {
        if read(&registry.join(FILE))?.is_none() {
            Identity::of_dir(registry)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Option<Hosts>, RegistryError> {
    let fail = |why| RegistryError::Hosts { path: path.to_owned(), why };
    let mut text = String::new();
    let opened = match File::open(path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(source) => return Err(fail(HostsError::Read(source))),
    };
    opened.take(FILE_BYTES).read_to_string(&mut text).map_err(|e| fail(HostsError::Read(e)))?;
    let table: Table = text.parse().map_err(|e: toml::de::Error| {
        let line = e.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count());
        fail(HostsError::Parse { line: line.max(1), message: e.message().to_owned() })
    })?;
    let dir = path.parent().unwrap_or_else(|| Path::new("/"));
    parse(&table, path, dir).map(Some)
}

fn parse(table: &Table, path: &Path, dir: &Path) -> Result<Hosts, RegistryError> {
    let mut hosts = Hosts::default();
    match table.get("server") {
        None => {}
        Some(Value::String(server)) => {
            hosts.server = Some(host(server, table, "server", path, dir)?);
        }
        Some(_) => return Err(wrong(path, "server", "wants a URL")),
    }
    let tables = match table.get("host") {
        None => return Ok(hosts),
        Some(Value::Table(tables)) if tables.len() <= HOSTS => tables,
        Some(Value::Table(_)) => return Err(wrong(path, "host", "lists too many hosts")),
        Some(_) => return Err(wrong(path, "host", "wants tables")),
    };
    for (name, value) in tables {
        let key = format!("host.{name:?}");
        let Value::Table(table) = value else { return Err(wrong(path, &key, "wants a table")) };
        hosts.mirrors.push(host(name, table, &key, path, dir)?);
    }
    Ok(hosts)
}

fn wrong(path: &Path, key: &str, why: &str) -> RegistryError {
    let why = HostsError::Key { key: key.to_owned(), why: why.to_owned() };
    RegistryError::Hosts { path: path.to_owned(), why }
}

fn host(
    name: &str,
    table: &Table,
    key: &str,
    path: &Path,
    dir: &Path,
) -> Result<Host, RegistryError> {
    let of = |field: &str| format!("{key}.{field}");
    let flag = |field: &str| match table.get(field) {
        None => Ok(false),
        Some(Value::Boolean(value)) => Ok(*value),
        Some(_) => Err(wrong(path, &of(field), "wants true or false")),
    };
    for unknown in table.keys().filter(|k| !KNOWN.contains(&k.as_str())) {
        tracing::warn!(path = %path.display(), key = %of(unknown), "hosts.toml: unknown key");
    }
    let base = base(name, flag("override_path")?).ok_or_else(|| {
        wrong(path, key, "wants a URL of http or https without credentials, query or fragment")
    })?;
    let mut identity = Identity::default();
    for file in strings(table.get("ca")).ok_or_else(|| wrong(path, &of("ca"), "wants files"))? {
        identity.add_ca(&dir.join(file))?;
    }
    for (cert, file) in clients(table.get("client"))
        .ok_or_else(|| wrong(path, &of("client"), "wants files or pairs of files"))?
    {
        identity.set_client(&dir.join(cert), file.map(|file| dir.join(file)).as_deref())?;
    }
    let listed = strings(table.get("capabilities"))
        .ok_or_else(|| wrong(path, &of("capabilities"), "wants a list"))?;
    let mut capabilities = Capabilities { pull: false, resolve: false, push: false };
    for word in &listed {
        match word.as_str() {
            "pull" => capabilities.pull = true,
            "resolve" => capabilities.resolve = true,
            "push" => capabilities.push = true,
            // Of newer versions of the format; nothing here asks for them.
            "referrers" => {}
            other => {
                let why = format!("{other:?} is none of pull, resolve and push");
                return Err(wrong(path, &of("capabilities"), &why));
            }
        }
    }
    if listed.is_empty() {
        capabilities = Capabilities::ALL;
    }
    let headers = headers(table.get("header"))
        .ok_or_else(|| wrong(path, &of("header"), "wants names with a text or a list of texts"))?;
    Ok(Host { base, capabilities, headers, identity, skip_verify: flag("skip_verify")? })
}

const KNOWN: [&str; 9] = [
    "server",
    "host",
    "capabilities",
    "ca",
    "client",
    "skip_verify",
    "header",
    "override_path",
    // Connecting has one limit here, which is the shorter one.
    "dial_timeout",
];

fn base(text: &str, as_it_is: bool) -> Option<Url> {
    let full = if text.starts_with("http://") || text.starts_with("https://") {
        text.to_owned()
    } else if text.contains("://") {
        return None;
    } else {
        let host = text.split('/').next().unwrap_or_default();
        let bare = host.rsplit_once(':').map_or(host, |(bare, _)| bare);
        let scheme = if crate::endpoint::is_loopback(bare) { "http" } else { "https" };
        format!("{scheme}://{text}")
    };
    let mut url = Url::parse(&full).ok()?;
    let clean = url.username().is_empty() && url.password().is_none();
    if !clean || url.query().is_some() || url.fragment().is_some() || url.host_str().is_none() {
        return None;
    }
    if url.host_str() == Some("docker.io") {
        url.set_host(Some(crate::endpoint::DOCKER_HUB)).ok()?;
    }
    let mut path = url.path().trim_end_matches('/').to_owned();
    if !as_it_is && !path.ends_with("/v2") {
        path.push_str("/v2");
    }
    path.push('/');
    url.set_path(&path);
    Some(url)
}

/// One text or a list of them.
fn strings(value: Option<&Value>) -> Option<Vec<String>> {
    match value {
        None => Some(Vec::new()),
        Some(Value::String(one)) => Some(vec![one.clone()]),
        Some(Value::Array(list)) => list.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        Some(_) => None,
    }
}

/// A file with certificate and key, a list of such files, or a list of pairs.
fn clients(value: Option<&Value>) -> Option<Vec<(String, Option<String>)>> {
    if let Some(single) = strings(value) {
        return Some(single.into_iter().map(|file| (file, None)).collect());
    }
    let list = value?.as_array()?;
    list.iter()
        .map(|pair| match strings(Some(pair))?.as_slice() {
            [file] => Some((file.clone(), None)),
            [cert, key] => Some((cert.clone(), (!key.is_empty()).then(|| key.clone()))),
            _ => None,
        })
        .collect()
}

fn headers(value: Option<&Value>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    let Some(value) = value else { return Some(headers) };
    for (name, value) in value.as_table()? {
        let name: HeaderName = name.parse().ok()?;
        for text in strings(Some(value))? {
            let mut value = HeaderValue::from_str(&text).ok()?;
            // Often a key to the mirror.
            value.set_sensitive(true);
            headers.append(name.clone(), value);
        }
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, registry: &str, text: &str) {
        let dir = dir.join(registry);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(FILE), text).unwrap();
    }

    fn find(text: &str) -> Result<Hosts, RegistryError> {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "reg.lan", text);
        Hosts::find(&[dir.path().to_owned()], "reg.lan").map(|found| found.unwrap())
    }

    #[test]
    fn the_order_of_the_file_is_kept() {
        let hosts = find(
            "server = \"https://docker.io\"\nskip_verify = true\n\
             [host.\"https://z.lan\"]\n capabilities = [\"pull\"]\n\
             [host.\"http://a.lan:5000/base\"]\n header = {X-Key = \"k\", X-Two = [\"1\", \"2\"]}\n\
             [host.\"https://m.lan/own/path\"]\n override_path = true\n skip_verify = true\n\
             [host.\"b.lan\"]\n[host.\"127.0.0.1:5000\"]\n",
        )
        .unwrap();
        let bases: Vec<_> = hosts.mirrors.iter().map(|m| m.base.as_str()).collect();
        assert_eq!(
            bases,
            [
                "https://z.lan/v2/",
                "http://a.lan:5000/base/v2/",
                "https://m.lan/own/path/",
                "https://b.lan/v2/",
                "http://127.0.0.1:5000/v2/",
            ]
        );
        let pull = Capabilities { pull: true, resolve: false, push: false };
        assert_eq!(hosts.mirrors[0].capabilities, pull);
        assert_eq!(hosts.mirrors[1].capabilities, Capabilities::ALL);
        assert_eq!(hosts.mirrors[1].headers["x-key"], "k");
        assert_eq!(hosts.mirrors[1].headers.get_all("x-two").iter().count(), 2);
        assert!(hosts.mirrors[2].skip_verify && !hosts.mirrors[1].skip_verify);
        let server = hosts.server.unwrap();
        assert_eq!(server.base.as_str(), "https://registry-1.docker.io/v2/");
        assert!(server.skip_verify);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, want) in [
            ("server = 1", "server"),
            ("x = ", "line 1"),
            ("\n\nserver = \"a\" b", "line 3"),
            ("[host.\"https://m\"]\ncapabilities = [\"fetch\"]", "\"fetch\""),
            ("[host.\"https://m\"]\nca = \"/nonexistent/ca.crt\"", "/nonexistent/ca.crt"),
            ("[host.\"https://m\"]\nskip_verify = \"yes\"", "skip_verify"),
            ("[host.\"https://u:p@m\"]", "credentials"),
            ("[host.\"ftp://m\"]", "host.\"ftp://m\""),
            ("[host.\"https://m\"]\nheader = [\"a\"]", "header"),
            ("[host.\"https://m\"]\nclient = 5", "client"),
        ] {
            let error = find(text).unwrap_err();
            let all = pouch_types::error::chain(&error);
            assert!(all.contains("hosts.toml") || text.contains("ca ="), "{all}");
            assert!(all.contains(want), "{text:?}: {all}");
        }
    }

    #[test]
    fn directories_are_found_by_every_name() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dirs = [one.path().to_owned(), two.path().to_owned()];
        let server = |domain: &str| {
            let hosts = Hosts::find(&dirs, domain).unwrap();
            hosts.map(|h| h.server.map_or_else(String::new, |s| s.base.host_str().unwrap().into()))
        };
        assert_eq!(server("reg.lan:5000"), None);
        write(two.path(), "_default", "server = \"https://default\"");
        assert_eq!(server("reg.lan:5000").unwrap(), "default");
        write(one.path(), "reg.lan:5000", "server = \"https://colon\"");
        assert_eq!(server("reg.lan:5000").unwrap(), "colon");
        write(two.path(), "reg.lan_5000_", "server = \"https://underscore\"");
        assert_eq!(server("reg.lan:5000").unwrap(), "underscore");
        assert_eq!(server("other.lan").unwrap(), "default");
        check_dir(one.path()).unwrap();
        write(one.path(), "bad.lan", "[");
        assert!(check_dir(one.path()).is_err());
    }
}
