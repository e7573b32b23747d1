//! `~/.docker/config.json` and the environment: what docker's users have set up already.
//!
//! The file is the docker CLI's, which reads and writes it too; unknown members are ignored, and a
//! file that is not JSON is an error, since going on without credentials would only fail later and
//! less clearly.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::failure::Failure;

/// The file is read up to this many bytes.
const FILE_LIMIT: u64 = 4 << 20;

/// The members that matter here.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ConfigFile {
    pub(crate) auths: BTreeMap<String, StoredAuth>,
    /// `DOCKER_AUTH_CONFIG`, which comes before the file and is never written to.
    #[serde(skip)]
    pub(crate) auths_of_environment: BTreeMap<String, StoredAuth>,
    #[serde(rename = "HttpHeaders")]
    pub(crate) http_headers: BTreeMap<String, String>,
    pub(crate) creds_store: String,
    pub(crate) cred_helpers: BTreeMap<String, String>,
    pub(crate) ps_format: String,
    pub(crate) images_format: String,
    pub(crate) volumes_format: String,
    pub(crate) networks_format: String,
    pub(crate) stats_format: String,
    pub(crate) detach_keys: String,
    pub(crate) current_context: String,
    pub(crate) proxies: BTreeMap<String, Proxies>,
}

/// One entry of `auths`.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "lowercase")]
pub(crate) struct StoredAuth {
    /// base64 of `user:password`.
    pub(crate) auth: String,
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) identitytoken: String,
    pub(crate) registrytoken: String,
}

/// Proxy variables for containers.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Proxies {
    pub(crate) http_proxy: String,
    pub(crate) https_proxy: String,
    pub(crate) no_proxy: String,
    pub(crate) ftp_proxy: String,
    pub(crate) all_proxy: String,
}

impl ConfigFile {
    /// Reads `config.json` of `directory`, where a missing file is an empty one, and
    /// `DOCKER_AUTH_CONFIG`.
    pub(crate) fn open(directory: &Path) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Environment {
            #[serde(default)]
            auths: BTreeMap<String, StoredAuth>,
        }
        let mut config = Self::load(directory)?;
        if let Some(text) = variable("AUTH_CONFIG") {
            let found: Environment = serde_json::from_str(&text).map_err(|error| {
                Failure::new(format!("cannot parse DOCKER_AUTH_CONFIG: {error}"))
            })?;
            config.auths_of_environment = found.auths;
        }
        Ok(config)
    }

    /// Reads `config.json` of `directory`; a missing file is an empty one.
    pub(crate) fn load(directory: &Path) -> Result<Self, Failure> {
        let path = directory.join("config.json");
        let text = match read_capped(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            // Root's directory is not everybody's: without the file there are only no credentials.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Ok(Self::default());
            }
            Err(error) => return Err(Failure::io("read", &path, &error)),
        };
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_str(&text)
            .map_err(|error| Failure::new(format!("cannot parse {}: {error}", path.display())))
    }

    /// Environment variables that containers get for the proxies of this daemon, `NAME=value` in
    /// both spellings.
    pub(crate) fn proxy_environment(&self, host: &str) -> Vec<(String, String)> {
        let proxies = self.proxies.get(host).or_else(|| self.proxies.get("default"));
        let Some(proxies) = proxies else { return Vec::new() };
        [
            ("HTTP_PROXY", &proxies.http_proxy),
            ("HTTPS_PROXY", &proxies.https_proxy),
            ("NO_PROXY", &proxies.no_proxy),
            ("FTP_PROXY", &proxies.ftp_proxy),
            ("ALL_PROXY", &proxies.all_proxy),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .flat_map(|(name, value)| {
            [(name.to_owned(), value.clone()), (name.to_lowercase(), value.clone())]
        })
        .collect()
    }
}

/// A file's text up to the cap.
pub(crate) fn read_capped(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_LIMIT).read_to_string(&mut text)?;
    Ok(text)
}

/// An environment variable under its own name or docker's: `POUCH_HOST` before `DOCKER_HOST`.
/// Empty counts as unset.
pub(crate) fn variable(name: &str) -> Option<String> {
    ["POUCH", "DOCKER"]
        .iter()
        .filter_map(|prefix| std::env::var(format!("{prefix}_{name}")).ok())
        .find(|value| !value.is_empty())
}

/// Where the configuration is: `--config`, `DOCKER_CONFIG`, `~/.docker`.
pub(crate) fn directory(flag: Option<&Path>) -> PathBuf {
    match (flag, variable("CONFIG")) {
        (Some(path), _) => path.to_owned(),
        (None, Some(path)) => PathBuf::from(path),
        (None, None) => match std::env::var_os("HOME") {
            Some(home) => Path::new(&home).join(".docker"),
            None => PathBuf::from("/root/.docker"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_docker_writes() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ConfigFile::load(dir.path()).unwrap().auths.is_empty());
        std::fs::write(
            dir.path().join("config.json"),
            r#"{"auths":{"r.example":{"auth":"dTpw"},"other":{}},"credsStore":"pass","psFormat":"x",
               "detachKeys":"ctrl-a","unknown":{"x":1},
               "proxies":{"default":{"httpProxy":"http://p:1","noProxy":"h"}}}"#,
        )
        .unwrap();
        let config = ConfigFile::load(dir.path()).unwrap();
        assert_eq!(config.auths["r.example"].auth, "dTpw");
        assert_eq!((config.creds_store.as_str(), config.ps_format.as_str()), ("pass", "x"));
        let environment = config.proxy_environment("unix:///x");
        assert!(environment.contains(&("http_proxy".to_owned(), "http://p:1".to_owned())));
        assert_eq!(environment.len(), 4);
        std::fs::write(dir.path().join("config.json"), "{").unwrap();
        assert!(ConfigFile::load(dir.path()).unwrap_err().message.unwrap().contains("config.json"));
    }
}
