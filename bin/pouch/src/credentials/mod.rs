//! Credentials of registries: from `config.json`, or from a `docker-credential-*` program; and how
//! they get there.

mod file;
mod helper;

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pouch_docker_types::auth::AuthConfig;
use serde_json::json;

use crate::failure::Failure;
use crate::output;
use crate::settings::{ConfigFile, StoredAuth};
use helper::Helper;

/// The key under which credentials of Docker Hub are stored.
pub(crate) const HUB: &str = "https://index.docker.io/v1/";

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
    of_registry(config, &registry_of(reference)).await
}

/// Credentials for a registry, as `auths` names it, if there are any.
pub(crate) async fn of_registry(
    config: &ConfigFile,
    registry: &str,
) -> Result<Option<AuthConfig>, Failure> {
    if let Some(auth) = find(&config.auths_of_environment, registry) {
        return from_file(registry, auth).map(Some);
    }
    if let Some(helper) = helper(config, registry)? {
        return helper.get(registry).await;
    }
    find(&config.auths, registry).map(|auth| from_file(registry, auth)).transpose()
}

fn find<'a>(
    auths: &'a std::collections::BTreeMap<String, StoredAuth>,
    registry: &str,
) -> Option<&'a StoredAuth> {
    auths.get(registry).or_else(|| {
        // Older files have the scheme and a path in the key.
        auths.iter().find(|(key, _)| host_of(key) == host_of(registry)).map(|(_, auth)| auth)
    })
}

/// Who keeps the credentials of a registry; `None` is the file. An empty name of a helper for one
/// registry says that.
fn helper(config: &ConfigFile, registry: &str) -> Result<Option<Helper>, Failure> {
    let name = config
        .cred_helpers
        .get(registry)
        .or_else(|| config.cred_helpers.get(&host_of(registry)))
        .unwrap_or(&config.creds_store);
    if name.is_empty() { Ok(None) } else { Helper::new(name).map(Some) }
}

/// Keeps credentials that are good, for [`AuthConfig::serveraddress`], where the configuration
/// says.
pub(crate) async fn keep(
    config: &ConfigFile,
    directory: &Path,
    auth: &AuthConfig,
) -> Result<(), Failure> {
    let registry = &auth.serveraddress;
    if let Some(helper) = helper(config, registry)? {
        helper.store(registry, auth).await?;
        // So docker tells for which registries there is something in the helper; and what was here
        // in clear goes.
        file::set(directory, registry, Some(json!({})))?;
        return Ok(());
    }
    let pair = format!("{}:{}", auth.username, auth.password.expose());
    let mut entry = json!({"auth": STANDARD.encode(pair)});
    if !auth.identitytoken.is_empty() {
        entry["identitytoken"] = auth.identitytoken.expose().into();
    }
    if !auth.registrytoken.is_empty() {
        entry["registrytoken"] = auth.registrytoken.expose().into();
    }
    file::set(directory, registry, Some(entry))?;
    // A token can be taken back; a password is worth more than this registry.
    if !auth.password.is_empty() {
        output::note(&format!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\n\
             Configure a credential helper to remove this warning. See\n\
             https://docs.docker.com/go/credential-store/\n",
            directory.join("config.json").display()
        ));
    }
    Ok(())
}

/// Forgets the credentials of a registry.
pub(crate) async fn forget(
    config: &ConfigFile,
    directory: &Path,
    registry: &str,
) -> Result<(), Failure> {
    if let Some(helper) = helper(config, registry)? {
        helper.erase(registry).await?;
    }
    file::set(directory, registry, None).map(drop)
}

/// The key of a server as users name it: a host, without scheme and path.
pub(crate) fn key_of(server: Option<&str>) -> String {
    match server.map(str::trim) {
        None | Some("" | "docker.io") => HUB.to_owned(),
        Some(server) if host_of(server) == host_of(HUB) => HUB.to_owned(),
        Some(server) => host_of(server),
    }
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

    #[test]
    fn servers_are_kept_by_their_host() {
        for (server, key) in [
            (None, HUB),
            (Some("docker.io"), HUB),
            (Some(HUB), HUB),
            (Some("https://r.example/v2/"), "r.example"),
            (Some("box:5000"), "box:5000"),
        ] {
            assert_eq!(key_of(server), key);
        }
    }

    #[test]
    fn a_registry_may_have_its_own_helper() {
        let text = r#"{"credsStore":"a","credHelpers":{"r.example":"b","plain.example":""}}"#;
        let config: ConfigFile = serde_json::from_str(text).unwrap();
        let of = |registry: &str| helper(&config, registry).unwrap().map(|h| format!("{h:?}"));
        assert!(of("r.example").unwrap().contains("docker-credential-b"));
        assert!(of("x.example").unwrap().contains("docker-credential-a"));
        assert!(of("plain.example").is_none());
        let config: ConfigFile = serde_json::from_str(r#"{"credsStore":"../x"}"#).unwrap();
        assert!(helper(&config, "x").is_err());
    }

    #[tokio::test]
    async fn what_is_kept_is_found_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut auth = AuthConfig {
            username: "me".to_owned(),
            password: "pa:ss".to_owned().into(),
            serveraddress: "r.example".to_owned(),
            ..AuthConfig::default()
        };
        let config = || ConfigFile::load(dir.path()).unwrap();
        keep(&config(), dir.path(), &auth).await.unwrap();
        let found = lookup(&config(), "r.example/x:1").await.unwrap().unwrap();
        assert_eq!((found.username.as_str(), found.password.expose()), ("me", "pa:ss"));
        auth.identitytoken = "token".to_owned().into();
        auth.password = String::new().into();
        keep(&config(), dir.path(), &auth).await.unwrap();
        let found = lookup(&config(), "r.example/x:1").await.unwrap().unwrap();
        assert_eq!(found.identitytoken.expose(), "token");
        forget(&config(), dir.path(), "r.example").await.unwrap();
        assert!(lookup(&config(), "r.example/x:1").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn the_environment_comes_first() {
        let mut config = ConfigFile::default();
        let stored = |pair: &str| StoredAuth { auth: STANDARD.encode(pair), ..Default::default() };
        config.auths.insert("r.example".to_owned(), stored("file:1"));
        config.auths_of_environment.insert("r.example".to_owned(), stored("env:2"));
        let found = lookup(&config, "r.example/x").await.unwrap().unwrap();
        assert_eq!(found.username, "env");
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
