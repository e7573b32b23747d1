//! What an operator may say about registries, and whether it makes sense.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use crate::error::RegistryError;

/// Ranges of a blob, at least.
const PARTS: u64 = 32;
/// Bytes of a range that is worth its request.
const PART_MIN: u64 = 256 << 10;

/// How registries are spoken to.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Hosts (`host[:port]`) or networks (`10.0.0.0/8`) whose certificates are not checked and
    /// that may speak plain HTTP. Loopback addresses always may.
    pub insecure: Vec<String>,
    /// Mirrors of docker.io (`registry-mirrors` of `daemon.json`), asked in this order. They get
    /// no credentials.
    pub mirrors: Vec<String>,
    /// Directories with `<host[:port]>/hosts.toml` as containerd reads them; the first that knows
    /// a registry is right. They are read at each use, so a change needs no restart.
    pub hosts_dirs: Vec<PathBuf>,
    /// Directories with `<host[:port]>/{*.crt,*.cert,*.key}` as Docker reads them; the first that
    /// knows a host is right.
    pub certs_dirs: Vec<PathBuf>,
    /// URL of the proxy of a Dragonfly peer, which is then asked before everybody else. Whoever
    /// sets it agrees that the peer sees the bearer tokens of the registries (short-lived and good
    /// for one repository); it never sees a password.
    pub dragonfly: Option<String>,
    /// For a TCP and TLS connection.
    pub connect_timeout: Duration,
    /// For the next byte, and for an answer to begin.
    pub idle_timeout: Duration,
    /// Attempts of one request in all (Docker's `max-download-attempts`).
    pub attempts: u32,
    /// Before the second attempt; doubled for each further one, and never taken to the letter.
    pub back_off: Duration,
    /// What a mirror gets to connect and give its first bytes, and the longest time in which it
    /// may stay below its pace. A bad mirror costs this once.
    pub mirror_patience: Duration,
    /// Bytes per second that a mirror must give while it is waited for.
    pub mirror_pace: u64,
    /// Blobs that lack more bytes than this come in several ranges at once.
    pub parallel_above: u64,
    /// Ranges of one blob at once; 1 for never.
    pub parallel_ranges: usize,
    /// Bytes of a range, at most; a small blob has smaller ones. A blob on its way takes at most
    /// `parallel_ranges` times this of memory.
    pub parallel_part: u64,
    /// Blobs over this size are uploaded in pieces of it.
    pub upload_chunk: u64,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            mirrors: Vec::new(),
            hosts_dirs: Vec::new(),
            certs_dirs: Vec::new(),
            dragonfly: None,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            attempts: 5,
            back_off: Duration::from_millis(500),
            // Two seconds in all are what a bad mirror may cost; the rest is for noticing.
            mirror_patience: Duration::from_millis(1800),
            mirror_pace: 32 << 10,
            parallel_above: 64 << 20,
            parallel_ranges: 3,
            parallel_part: 8 << 20,
            upload_chunk: 16 << 20,
        }
    }
}

impl RegistryConfig {
    /// Checks everything, the files of its directories included. Connects to nothing.
    ///
    /// # Errors
    /// [`RegistryError::Config`], [`RegistryError::Hosts`] or [`RegistryError::Certs`], which name
    /// the key or the file.
    pub fn validate(&self) -> Result<(), RegistryError> {
        self.parsed_mirrors()?;
        self.parsed_dragonfly()?;
        for dir in &self.hosts_dirs {
            crate::hosts::check_dir(dir)?;
        }
        for dir in &self.certs_dirs {
            crate::certs::check_dir(dir)?;
        }
        Ok(())
    }

    /// Bytes of a range of a blob of `size` bytes. What came ahead of its turn is lost when the
    /// daemon dies, so it is kept to a small share of the blob.
    pub(crate) fn part(&self, size: u64) -> u64 {
        self.parallel_part.min((size / PARTS).max(PART_MIN)).max(1)
    }

    pub(crate) fn parsed_mirrors(&self) -> Result<Vec<Url>, RegistryError> {
        self.mirrors.iter().map(|text| base("registry-mirrors", text)).collect()
    }

    pub(crate) fn parsed_dragonfly(&self) -> Result<Option<Url>, RegistryError> {
        self.dragonfly.as_deref().map(|text| base("dragonfly", text)).transpose()
    }
}

/// `https://mirror[:port]` as the base of the registry API there.
fn base(key: &'static str, text: &str) -> Result<Url, RegistryError> {
    let refuse = |why: &str| RegistryError::Config {
        key,
        // What is wrong may be that there is a password in it.
        value: text.rsplit('@').next().unwrap_or_default().to_owned(),
        why: why.to_owned(),
    };
    let url = Url::parse(text).map_err(|_| refuse("is no URL: want https://host[:port]"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(refuse("wants the scheme http or https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("must not carry credentials"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("must be a scheme, a host and a port only"));
    }
    url.join("v2/").map_err(|_| refuse("is no base of a URL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_urls_are_named() {
        let mirrors = |list: &[&str]| RegistryConfig {
            mirrors: list.iter().map(|&text| text.to_owned()).collect(),
            ..RegistryConfig::default()
        };
        let good = mirrors(&["https://m.lan", "http://10.0.0.1:5000/"]).parsed_mirrors().unwrap();
        assert_eq!(good[0].as_str(), "https://m.lan/v2/");
        assert_eq!(good[1].as_str(), "http://10.0.0.1:5000/v2/");
        for bad in [
            "m.lan:5000",
            "m.lan",
            "ftp://m.lan",
            "https://m.lan/x",
            "https://m.lan/?a=b",
            "https://",
        ] {
            let error = mirrors(&[bad]).validate().unwrap_err().to_string();
            assert!(error.starts_with("registry-mirrors: ") && error.contains(bad), "{error}");
        }
        let error = mirrors(&["https://u:pass@m.lan"]).validate().unwrap_err().to_string();
        assert!(error.contains("credentials") && !error.contains("pass"), "{error}");
        let config = RegistryConfig { dragonfly: Some("x".into()), ..RegistryConfig::default() };
        assert!(config.validate().unwrap_err().to_string().starts_with("dragonfly: "));
    }
}
