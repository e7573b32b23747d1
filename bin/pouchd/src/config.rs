//! `/etc/pouch/config.json`: the keys of Docker's `daemon.json` in its spelling, and ours.
//!
//! A key that is not known is an error with its line, never ignored. Flags win over the file for
//! what can be said once; a value in both places that differs is refused, as dockerd does.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The largest configuration that is read.
const FILE_MAX: u64 = 1 << 20;

/// The file's content. Every key is optional.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct FileConfig {
    pub(crate) authorization_plugins: Option<Vec<String>>,
    pub(crate) backend: Option<Backend>,
    pub(crate) bip: Option<String>,
    pub(crate) bridge: Option<String>,
    pub(crate) cdi_spec_dirs: Option<Vec<PathBuf>>,
    pub(crate) cgroup_parent: Option<String>,
    pub(crate) containerd: Option<PathBuf>,
    pub(crate) containerd_connections: Option<std::num::NonZeroUsize>,
    pub(crate) containerd_namespace: Option<String>,
    pub(crate) cni_bin_dirs: Option<Vec<PathBuf>>,
    pub(crate) cni_cache_dir: Option<PathBuf>,
    pub(crate) cni_conf_dir: Option<PathBuf>,
    pub(crate) cni_native: Option<bool>,
    pub(crate) cri_host: Option<String>,
    pub(crate) cri_stream_address: Option<String>,
    pub(crate) data_root: Option<PathBuf>,
    pub(crate) debug: Option<bool>,
    pub(crate) default_cgroupns_mode: Option<String>,
    pub(crate) default_runtime: Option<String>,
    pub(crate) default_shm_size: Option<Size>,
    pub(crate) default_stop_timeout: Option<i64>,
    pub(crate) default_ulimits: Option<BTreeMap<String, UlimitConfig>>,
    pub(crate) dns: Option<Vec<IpAddr>>,
    pub(crate) dns_opts: Option<Vec<String>>,
    pub(crate) dns_search: Option<Vec<String>>,
    pub(crate) dragonfly: Option<String>,
    pub(crate) enable_cri: Option<bool>,
    pub(crate) exec_opts: Option<Vec<String>>,
    pub(crate) exec_root: Option<PathBuf>,
    pub(crate) group: Option<String>,
    pub(crate) hosts: Option<Vec<String>>,
    pub(crate) icc: Option<bool>,
    pub(crate) image_policy: Option<String>,
    pub(crate) init: Option<bool>,
    pub(crate) init_path: Option<PathBuf>,
    pub(crate) insecure_registries: Option<Vec<String>>,
    pub(crate) ip: Option<Ipv4Addr>,
    pub(crate) ip_forward: Option<bool>,
    pub(crate) ip_masq: Option<bool>,
    pub(crate) labels: Option<Vec<String>>,
    pub(crate) live_restore: Option<bool>,
    pub(crate) log_driver: Option<String>,
    pub(crate) log_level: Option<String>,
    pub(crate) log_opts: Option<BTreeMap<String, String>>,
    pub(crate) max_download_attempts: Option<u32>,
    pub(crate) metrics_addr: Option<String>,
    pub(crate) mtu: Option<u32>,
    pub(crate) no_new_privileges: Option<bool>,
    pub(crate) pidfile: Option<PathBuf>,
    pub(crate) registry_certs_dirs: Option<Vec<PathBuf>>,
    pub(crate) registry_hosts_dirs: Option<Vec<PathBuf>>,
    pub(crate) registry_mirrors: Option<Vec<String>>,
    pub(crate) remote_image_store: Option<RemoteImageStore>,
    pub(crate) runtimes: Option<BTreeMap<String, RuntimeFile>>,
    pub(crate) seccomp_profile: Option<PathBuf>,
    pub(crate) snapshotter: Option<String>,
    pub(crate) storage_driver: Option<String>,
    pub(crate) tls: Option<bool>,
    pub(crate) tlscacert: Option<PathBuf>,
    pub(crate) tlscert: Option<PathBuf>,
    pub(crate) tlskey: Option<PathBuf>,
    pub(crate) tlsverify: Option<bool>,
}

/// Which backend runs containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Backend {
    /// Embedded.
    Local,
    /// An existing containerd.
    Remote,
}

/// Who keeps images and root file systems with the remote backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RemoteImageStore {
    /// containerd: its content store and one of its snapshotters.
    Containerd,
    /// We, as with the embedded backend.
    Local,
}

/// One limit in `default-ulimits`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(crate) struct UlimitConfig {
    #[serde(default)]
    pub(crate) name: Option<String>,
    pub(crate) soft: i64,
    pub(crate) hard: i64,
}

/// One runtime in `runtimes`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RuntimeFile {
    pub(crate) path: PathBuf,
    #[serde(default)]
    pub(crate) runtime_args: Vec<String>,
}

/// Bytes, as a number or with a unit of 1024 (`64M`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SizeText")]
pub(crate) struct Size(pub(crate) u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum SizeText {
    Number(u64),
    Text(String),
}

impl TryFrom<SizeText> for Size {
    type Error = String;

    fn try_from(text: SizeText) -> Result<Self, String> {
        match text {
            SizeText::Number(n) => Ok(Self(n)),
            SizeText::Text(text) => {
                let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
                let unit = text[digits.len()..].to_ascii_lowercase();
                let factor = match unit.trim_end_matches('b') {
                    "" => 1,
                    "k" => 1 << 10,
                    "m" => 1 << 20,
                    "g" => 1 << 30,
                    _ => return Err(format!("invalid size {text:?}")),
                };
                let number: u64 =
                    digits.trim().parse().map_err(|_| format!("invalid size {text:?}"))?;
                number
                    .checked_mul(factor)
                    .map(Self)
                    .ok_or_else(|| format!("size {text:?} is too large"))
            }
        }
    }
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path}, line {line}, column {column}: {message}")]
    Parse { path: PathBuf, line: usize, column: usize, message: String },
    #[error("{0}")]
    Value(String),
}

impl FileConfig {
    /// Reads a file; a missing one is an empty one unless `required`.
    pub(crate) fn read(path: &Path, required: Required) -> Result<Self, ConfigError> {
        use std::io::Read as _;
        let mut text = String::new();
        let opened = std::fs::File::open(path);
        let read = opened.and_then(|file| file.take(FILE_MAX).read_to_string(&mut text));
        match read {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && required == Required::No => {
                return Ok(Self::default());
            }
            Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        }
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_str(&text).map_err(|e| {
            let message = e.to_string();
            // serde_json repeats the place at the end; it is said first here.
            let message = message.rsplit_once(" at line ").map_or(&*message, |(m, _)| m);
            ConfigError::Parse {
                path: path.to_owned(),
                line: e.line(),
                column: e.column(),
                message: hint(message),
            }
        })
    }
}

/// Whether a missing file is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Required {
    Yes,
    No,
}

/// Shortens serde's list of all keys to the nearest one.
fn hint(message: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field `") else { return message.to_owned() };
    let Some((field, rest)) = rest.split_once('`') else { return message.to_owned() };
    let known = rest.split('`').skip(1).step_by(2);
    let nearest = known.map(|k| (distance(field, k), k)).min().filter(|(d, _)| *d <= 3);
    match nearest {
        Some((_, key)) => format!("unknown key \"{field}\": did you mean \"{key}\"?"),
        None => format!("unknown key \"{field}\""),
    }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<FileConfig, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        FileConfig::read(&path, Required::Yes)
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error =
            parse("{\n  \"debug\": true,\n  \"data-rot\": \"/x\"\n}").unwrap_err().to_string();
        assert!(error.contains("line 3"), "{error}");
        assert!(error.contains("\"data-rot\"") && error.contains("\"data-root\""), "{error}");
        let error = parse("{\"zzzzzzzzz\": 1}").unwrap_err().to_string();
        assert!(
            error.contains("unknown key \"zzzzzzzzz\"") && !error.contains("did you"),
            "{error}"
        );
    }

    #[test]
    fn docker_spelling_is_understood() {
        let config = parse(
            r#"{"data-root": "/d", "log-opts": {"max-size": "10m"}, "default-shm-size": "64M",
                "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}},
                "runtimes": {"crun": {"path": "/usr/bin/crun", "runtimeArgs": ["--x"]}}}"#,
        )
        .unwrap();
        assert_eq!(config.default_shm_size, Some(Size(64 << 20)));
        assert_eq!(config.runtimes.unwrap()["crun"].runtime_args, ["--x"]);
    }

    #[test]
    fn wrong_types_are_refused_and_a_missing_file_is_empty() {
        assert!(parse("{\"debug\": \"yes\"}").is_err());
        assert!(parse("[").is_err());
        assert_eq!(parse("").unwrap(), FileConfig::default());
        let nowhere = Path::new("/nonexistent/pouch.json");
        assert_eq!(FileConfig::read(nowhere, Required::No).unwrap(), FileConfig::default());
        assert!(FileConfig::read(nowhere, Required::Yes).is_err());
    }
}
