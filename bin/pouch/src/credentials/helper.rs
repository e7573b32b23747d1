//! The programs that keep credentials: `docker-credential-NAME get|store|erase`.
//!
//! Protocol: <https://github.com/docker/docker-credential-helpers>.

use std::process::Stdio;
use std::time::Duration;

use pouch_docker_types::auth::AuthConfig;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::failure::Failure;

/// A helper may ask an agent, or the user.
const DEADLINE: Duration = Duration::from_secs(60);
const REPLY_LIMIT: u64 = 1 << 20;
/// The user name that says: the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// What `get` answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Reply {
    username: String,
    secret: String,
}

/// What `store` takes.
#[derive(Serialize)]
struct Entry<'a> {
    #[serde(rename = "ServerURL")]
    server: &'a str,
    #[serde(rename = "Username")]
    username: &'a str,
    #[serde(rename = "Secret")]
    secret: &'a str,
}

/// A helper by the name that `credsStore` and `credHelpers` give it.
#[derive(Debug)]
pub(super) struct Helper {
    program: String,
}

impl Helper {
    pub(super) fn new(name: &str) -> Result<Self, Failure> {
        if name.contains('/') {
            return Err(Failure::new(format!(
                "config.json: {name:?} is not the name of a credential helper"
            )));
        }
        Ok(Self { program: format!("docker-credential-{name}") })
    }

    /// What it keeps for `registry`, if anything.
    pub(super) async fn get(&self, registry: &str) -> Result<Option<AuthConfig>, Failure> {
        let Some(reply) = self.run("get", registry, registry.as_bytes()).await? else {
            return Ok(None);
        };
        let reply: Reply = serde_json::from_slice(&reply).map_err(|_| {
            Failure::new(format!("{} answered with something else than credentials", self.program))
        })?;
        let mut auth = AuthConfig { serveraddress: registry.to_owned(), ..AuthConfig::default() };
        if reply.username == TOKEN_USER {
            auth.identitytoken = reply.secret.into();
        } else {
            auth.username = reply.username;
            auth.password = reply.secret.into();
        }
        Ok(Some(auth))
    }

    /// Has it keep credentials.
    pub(super) async fn store(&self, registry: &str, auth: &AuthConfig) -> Result<(), Failure> {
        let entry = if auth.identitytoken.is_empty() {
            let (username, secret) = (auth.username.as_str(), auth.password.expose());
            Entry { server: registry, username, secret }
        } else {
            Entry { server: registry, username: TOKEN_USER, secret: auth.identitytoken.expose() }
        };
        let text = serde_json::to_vec(&entry)
            .map_err(|error| Failure::new(format!("cannot encode credentials: {error}")))?;
        self.run("store", registry, &text).await.map(drop)
    }

    /// Has it forget what it keeps for `registry`; that there is nothing is no failure.
    pub(super) async fn erase(&self, registry: &str) -> Result<(), Failure> {
        self.run("erase", registry, registry.as_bytes()).await.map(drop)
    }

    /// Its output; `None` when it says that it has nothing for the registry.
    async fn run(
        &self,
        verb: &str,
        registry: &str,
        input: &[u8],
    ) -> Result<Option<Vec<u8>>, Failure> {
        let program = &self.program;
        let run = async {
            let mut child = Command::new(program)
                .arg(verb)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                match stdin.write_all(input).await {
                    // It may know enough without.
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
                    other => other?,
                }
            }
            let mut reply = Vec::new();
            if let Some(stdout) = child.stdout.take() {
                stdout.take(REPLY_LIMIT).read_to_end(&mut reply).await?;
            }
            Ok::<_, std::io::Error>((child.wait().await?, reply))
        };
        let (status, reply) = tokio::time::timeout(DEADLINE, run)
            .await
            .map_err(|_| {
                Failure::new(format!("{program} did not answer within {} s", DEADLINE.as_secs()))
            })?
            .map_err(|error| Failure::io("run", program, &error))?;
        if status.success() {
            return Ok(Some(reply));
        }
        let text = String::from_utf8_lossy(&reply);
        // The protocol's words for "none".
        if text.contains("credentials not found") {
            return Ok(None);
        }
        Err(Failure::new(format!("{program} {verb} failed for {registry}: {}", text.trim())))
    }
}
