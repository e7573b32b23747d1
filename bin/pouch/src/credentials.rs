//! Credentials of registries: from `config.json`, or from a `docker-credential-*` program.
//!
//! Protocol of the helpers: <https://github.com/docker/docker-credential-helpers>.

use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pouch_docker_types::auth::AuthConfig;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::failure::Failure;
use crate::settings::{ConfigFile, StoredAuth};

/// The key under which credentials of Docker Hub are stored.
const HUB: &str = "https://index.docker.io/v1/";
/// A helper may ask an agent, or the user.
const HELPER_DEADLINE: Duration = Duration::from_secs(60);
const HELPER_LIMIT: u64 = 1 << 20;

/// What a helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperReply {
    username: String,
    secret: String,
}

/// The host that an image reference points to, as `auths` names it.
pub(crate) fn registry_of(reference: &str) -> String {
    match reference.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => {
            if first == "docker.io" || first == "index.docker.io" {
                HUB.to_owned()
            } else {
                first.to_owned()
            }
        }
        _ => HUB.to_owned(),
    }
}

/// Credentials for the registry of `reference`, if there are any.
pub(crate) async fn lookup(
    config: &ConfigFile,
    reference: &str,
) -> Result<Option<AuthConfig>, Failure> {
    let registry = registry_of(reference);
    let helper = config
        .cred_helpers
        .get(&registry)
        .or_else(|| config.cred_helpers.get(&host_of(&registry)))
        .or(Some(&config.creds_store))
        .filter(|name| !name.is_empty());
    if let Some(helper) = helper {
        return from_helper(helper, &registry).await;
    }
    let stored = config.auths.get(&registry).or_else(|| {
        // Older files have the scheme and a path in the key.
        config
            .auths
            .iter()
            .find(|(key, _)| host_of(key) == host_of(&registry))
            .map(|(_, auth)| auth)
    });
    stored.map(|auth| from_file(&registry, auth)).transpose()
}

fn host_of(key: &str) -> String {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest).to_owned()
}

fn from_file(registry: &str, stored: &StoredAuth) -> Result<AuthConfig, Failure> {
    let mut auth = AuthConfig {
        username: stored.username.clone(),
        password: stored.password.clone().into(),
        identitytoken: stored.identitytoken.clone().into(),
        registrytoken: stored.registrytoken.clone().into(),
        serveraddress: registry.to_owned(),
        ..AuthConfig::default()
    };
    if !stored.auth.is_empty() {
        let invalid = || {
            Failure::new(format!(
                "config.json: the credentials of {registry} are damaged; log in again"
            ))
        };
        let pair = STANDARD.decode(stored.auth.trim()).map_err(|_| invalid())?;
        let pair = String::from_utf8(pair).map_err(|_| invalid())?;
        let (user, password) = pair.split_once(':').ok_or_else(invalid)?;
        auth.username = user.to_owned();
        // Some writers end the password with NULs.
        auth.password = password.trim_end_matches('\0').to_owned().into();
    }
    Ok(auth)
}

async fn from_helper(helper: &str, registry: &str) -> Result<Option<AuthConfig>, Failure> {
    if helper.contains('/') {
        return Err(Failure::new(format!(
            "config.json: {helper:?} is not the name of a credential helper"
        )));
    }
    let program = format!("docker-credential-{helper}");
    let run = async {
        let mut child = Command::new(&program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(registry.as_bytes()).await?;
        }
        let mut reply = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(HELPER_LIMIT).read_to_end(&mut reply).await?;
        }
        Ok::<_, std::io::Error>((child.wait().await?, reply))
    };
    let (status, reply) = tokio::time::timeout(HELPER_DEADLINE, run)
        .await
        .map_err(|_| Failure::new(format!("{program} did not answer within 60 s")))?
        .map_err(|error| Failure::io("run", &program, &error))?;
    if !status.success() {
        let text = String::from_utf8_lossy(&reply);
        // The protocol's words for "none".
        if text.contains("credentials not found") {
            return Ok(None);
        }
        return Err(Failure::new(format!("{program} failed for {registry}: {}", text.trim())));
    }
    let reply: HelperReply = serde_json::from_slice(&reply).map_err(|_| {
        Failure::new(format!("{program} answered with something else than credentials"))
    })?;
    let mut auth = AuthConfig { serveraddress: registry.to_owned(), ..AuthConfig::default() };
    if reply.username == "<token>" {
        auth.identitytoken = reply.secret.into();
    } else {
        auth.username = reply.username;
        auth.password = reply.secret.into();
    }
    Ok(Some(auth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_point_to_registries() {
        for (reference, registry) in [
            ("busybox", HUB),
            ("library/busybox:1", HUB),
            ("docker.io/library/busybox", HUB),
            ("r.example/x", "r.example"),
            ("localhost/x", "localhost"),
            ("box:5000/x/y@sha256:aa", "box:5000"),
        ] {
            assert_eq!(registry_of(reference), registry);
        }
    }

    #[tokio::test]
    async fn stored_credentials_are_decoded_and_found_under_old_keys() {
        let mut config = ConfigFile::default();
        let stored = StoredAuth { auth: STANDARD.encode("me:pa:ss"), ..StoredAuth::default() };
        config.auths.insert("https://r.example/v1/".to_owned(), stored);
        let auth = lookup(&config, "r.example/x").await.unwrap().unwrap();
        assert_eq!((auth.username.as_str(), auth.password.expose()), ("me", "pa:ss"));
        assert!(lookup(&config, "other.example/x").await.unwrap().is_none());
        let broken = StoredAuth { auth: "%%%".to_owned(), ..StoredAuth::default() };
        config.auths.insert("bad.example".to_owned(), broken);
        assert!(lookup(&config, "bad.example/x").await.is_err());
    }
}
