//! Which daemon to talk to: flags, environment, contexts, the default socket, in this order.

use std::path::{Path, PathBuf};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use pouch_client::{ApiVersion, Client, ClientOptions, DEFAULT_HOST, Endpoint, TlsOptions, Verify};
use serde::Deserialize;

use crate::cli::GlobalFlags;
use crate::failure::Failure;
use crate::settings::{self, ConfigFile};

/// Everything that a command needs besides its own flags.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) config: ConfigFile,
    /// Where that configuration is.
    pub(crate) directory: PathBuf,
    /// The daemon as the user would name it, the key of `proxies`.
    pub(crate) host: String,
}

/// `contexts/meta/<sha256 of the name>/meta.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    name: String,
    #[serde(default)]
    endpoints: std::collections::BTreeMap<String, ContextEndpoint>,
}

#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct ContextEndpoint {
    host: String,
    #[serde(rename = "SkipTLSVerify")]
    skip_tls_verify: bool,
}

struct Target {
    host: String,
    tls: Option<TlsOptions>,
}

impl Session {
    /// Resolves flags, environment and files. Nothing is connected yet.
    pub(crate) fn open(flags: &GlobalFlags) -> Result<Self, Failure> {
        let directory = settings::directory(flags.config.as_deref());
        let config = ConfigFile::open(&directory)?;
        let target = target(flags, &config, &directory)?;
        let endpoint: Endpoint = target.host.parse()?;
        let version = match settings::variable("API_VERSION") {
            Some(text) => Some(text.parse().map_err(|e| Failure::new(format!("{e}")))?),
            None => None,
        };
        let headers = headers(&config)?;
        let client = Client::new(ClientOptions { endpoint, tls: target.tls, version, headers })?;
        Ok(Self { client, config, directory, host: target.host })
    }
}

impl Session {
    /// Refuses a flag that the daemon would pass over: it speaks less than API `1.{since}`.
    pub(crate) async fn wants(&self, flag: &str, since: u16) -> Result<(), Failure> {
        let version = self.client.version().await?;
        if version >= (ApiVersion { major: 1, minor: since }) {
            return Ok(());
        }
        Err(Failure::new(format!(
            "\"{flag}\" requires API version 1.{since}, but the Docker daemon API version is \
             {version}"
        )))
    }
}

fn target(flags: &GlobalFlags, config: &ConfigFile, directory: &Path) -> Result<Target, Failure> {
    if let Some(host) = flags.host.last() {
        if flags.context.is_some() {
            return Err(Failure::new("--host and --context exclude each other: give one of them"));
        }
        return direct(host, flags, directory);
    }
    if let Some(name) = &flags.context {
        return from_context(name, flags, directory);
    }
    if let Some(host) = settings::variable("HOST") {
        return direct(&host, flags, directory);
    }
    match settings::variable("CONTEXT").or_else(|| Some(config.current_context.clone())) {
        Some(name) if !name.is_empty() => from_context(&name, flags, directory),
        _ => direct(DEFAULT_HOST, flags, directory),
    }
}

fn direct(host: &str, flags: &GlobalFlags, directory: &Path) -> Result<Target, Failure> {
    // `-H box:2375`, `-H /run/x.sock` and `-H :2375` are accepted as docker accepts them.
    let host = match host {
        _ if host.contains("://") => host.to_owned(),
        _ if host.starts_with('/') => format!("unix://{host}"),
        _ if host.starts_with(':') => format!("tcp://localhost{host}"),
        _ => format!("tcp://{host}"),
    };
    Ok(Target { tls: tls(flags, directory), host })
}

fn tls(flags: &GlobalFlags, directory: &Path) -> Option<TlsOptions> {
    let verify = flags.tls_verify || settings::variable("TLS_VERIFY").is_some();
    let named = flags.tls_ca.is_some() || flags.tls_cert.is_some() || flags.tls_key.is_some();
    if !(verify || named || flags.tls || settings::variable("TLS").is_some()) {
        return None;
    }
    let certificates =
        settings::variable("CERT_PATH").map_or_else(|| directory.to_owned(), PathBuf::from);
    let pick = |flag: &Option<PathBuf>, name: &str| match flag {
        Some(path) => Some(path.clone()),
        None => Some(certificates.join(name)).filter(|path| path.exists()),
    };
    Some(TlsOptions {
        ca: pick(&flags.tls_ca, "ca.pem"),
        identity: pick(&flags.tls_cert, "cert.pem").zip(pick(&flags.tls_key, "key.pem")),
        verify: if verify { Verify::Full } else { Verify::Nothing },
    })
}

fn from_context(name: &str, flags: &GlobalFlags, directory: &Path) -> Result<Target, Failure> {
    if name == "default" {
        return direct(DEFAULT_HOST, flags, directory);
    }
    let contexts = directory.join("contexts");
    // The directory is named by a digest; looking into each is simpler than to compute it, and
    // there are a handful.
    let found = std::fs::read_dir(contexts.join("meta"))
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .find_map(|entry| {
            let text = settings::read_capped(&entry.path().join("meta.json")).ok()?;
            let metadata: Metadata = serde_json::from_str(&text).ok()?;
            (metadata.name == name).then(|| (entry.file_name(), metadata))
        });
    let Some((id, metadata)) = found else {
        return Err(Failure::new(format!(
            "context {name:?} does not exist below {}: create it, or unset DOCKER_CONTEXT and --context",
            contexts.display()
        )));
    };
    let Some(endpoint) = metadata.endpoints.get("docker").filter(|e| !e.host.is_empty()) else {
        return Err(Failure::new(format!("context {name:?} names no docker endpoint")));
    };
    let files = contexts.join("tls").join(id).join("docker");
    let file = |name: &str| Some(files.join(name)).filter(|path| path.exists());
    let identity = file("cert.pem").zip(file("key.pem"));
    let ca = file("ca.pem");
    let wanted = identity.is_some() || ca.is_some() || endpoint.skip_tls_verify;
    let verify = if endpoint.skip_tls_verify { Verify::Nothing } else { Verify::Full };
    Ok(Target {
        host: endpoint.host.clone(),
        tls: wanted.then_some(TlsOptions { ca, identity, verify }),
    })
}

fn headers(config: &ConfigFile) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for (name, value) in &config.http_headers {
        let invalid =
            || Failure::new(format!("HttpHeaders of config.json: {name:?} is not a header"));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
        headers.insert(name, HeaderValue::from_str(value).map_err(|_| invalid())?);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> GlobalFlags {
        GlobalFlags::default()
    }

    #[test]
    fn the_host_flag_takes_dockers_short_forms() {
        let dir = Path::new("/nonexistent");
        let host = |text: &str| direct(text, &flags(), dir).ok().unwrap().host;
        assert_eq!(host("/run/x.sock"), "unix:///run/x.sock");
        assert_eq!(host(":2375"), "tcp://localhost:2375");
        assert_eq!(host("box:1"), "tcp://box:1");
    }

    #[test]
    fn contexts_are_found_by_name_with_their_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let meta = dir.path().join("contexts/meta/abc");
        let tls = dir.path().join("contexts/tls/abc/docker");
        std::fs::create_dir_all(&meta).unwrap();
        std::fs::create_dir_all(&tls).unwrap();
        std::fs::write(
            meta.join("meta.json"),
            r#"{"Name":"remote","Metadata":{},"Endpoints":{"docker":{"Host":"tcp://box:2376","SkipTLSVerify":false}}}"#,
        )
        .unwrap();
        std::fs::write(tls.join("ca.pem"), "x").unwrap();
        let target = from_context("remote", &flags(), dir.path()).ok().unwrap();
        assert_eq!(target.host, "tcp://box:2376");
        assert_eq!(target.tls.unwrap().ca.unwrap(), tls.join("ca.pem"));
        let missing = from_context("nope", &flags(), dir.path()).err().unwrap();
        assert!(missing.message.unwrap().contains("\"nope\" does not exist"));
    }

    #[test]
    fn the_flag_decides_over_the_context() {
        let flags = GlobalFlags {
            host: vec!["unix:///a".to_owned()],
            context: Some("x".to_owned()),
            ..flags()
        };
        assert!(target(&flags, &ConfigFile::default(), Path::new("/nonexistent")).is_err());
    }
}
