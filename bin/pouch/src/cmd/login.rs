//! `login` and `logout`.
//!
//! The daemon tries the credentials, since it is the one that will use them; this side keeps them.

use std::io::{BufRead as _, Read as _};

use pouch_client::ClientError;
use pouch_docker_types::auth::AuthConfig;

use super::Outcome;
use crate::context::Session;
use crate::credentials::{self, HUB};
use crate::failure::{Failure, describe};
use crate::flags::registry::{LoginFlags, LogoutFlags};
use crate::terminal::{self, NoEcho};
use crate::{output, signals};

/// Bytes of a password on standard input.
const PASSWORD_LIMIT: u64 = 64 << 10;

/// `pouch login`.
pub(crate) async fn login(session: &Session, flags: LoginFlags) -> Outcome {
    let password = password_of(&flags)?;
    let server = credentials::key_of(flags.server.as_deref());
    let known = credentials::of_registry(&session.config, &server).await?;
    if flags.username.is_none()
        && password.is_none()
        && let Some(known) = known.clone().filter(|known| !is_empty(known))
    {
        let who = match known.username.as_str() {
            "" => String::new(),
            name => format!(" [Username: {name}]"),
        };
        output::line(&format!("Authenticating with existing credentials...{who}"))?;
        match try_and_keep(session, AuthConfig { serveraddress: server.clone(), ..known }).await {
            Ok(()) => return Ok(0),
            Err(Refused::Credentials(why)) => {
                output::note(&format!("Login did not succeed, error: {why}"));
            }
            Err(Refused::Otherwise(failure)) => return Err(failure),
        }
    }
    let user = known.map(|known| known.username).unwrap_or_default();
    let auth = complete(&server, flags.username, password, &user).await?;
    match try_and_keep(session, auth).await {
        Ok(()) => Ok(0),
        Err(Refused::Credentials(why)) => Err(Failure::new(why)),
        Err(Refused::Otherwise(failure)) => Err(failure),
    }
}

/// The password of the flags or of standard input, if one was given.
fn password_of(flags: &LoginFlags) -> Result<Option<String>, Failure> {
    if !flags.password_stdin {
        if flags.password.is_some() {
            output::note(
                "WARNING! Using --password via the CLI is insecure. Use --password-stdin.",
            );
        }
        return Ok(flags.password.clone());
    }
    if flags.password.is_some() {
        return Err(Failure::new(
            "conflicting options: cannot specify both --password and --password-stdin",
        ));
    }
    if flags.username.as_ref().is_none_or(String::is_empty) {
        return Err(Failure::new("the --password-stdin option requires --username to be set"));
    }
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(PASSWORD_LIMIT)
        .read_to_string(&mut text)
        .map_err(|error| Failure::new(format!("cannot read the password: {error}")))?;
    // One line end belongs to the file or the echo that it comes from.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Some(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

fn is_empty(auth: &AuthConfig) -> bool {
    auth.username.is_empty() && auth.identitytoken.is_empty() && auth.registrytoken.is_empty()
}

/// Asks for what the flags left out. `user` is offered as the name.
async fn complete(
    server: &str,
    username: Option<String>,
    password: Option<String>,
    user: &str,
) -> Result<AuthConfig, Failure> {
    let username = username.filter(|name| !name.is_empty());
    let password = password.filter(|password| !password.is_empty());
    if (username.is_none() || password.is_none()) && !terminal::stdin_is_terminal() {
        return Err(Failure::new(
            "Error: Cannot perform an interactive login from a non TTY device: give --username and \
             --password-stdin",
        ));
    }
    let username = match username {
        Some(name) => name,
        None => {
            if server == HUB {
                output::line(
                    "Log in with your Docker ID or email address to push and pull images from \
                     Docker Hub. If you don't have a Docker ID, head over to \
                     https://hub.docker.com/ to create one.\nYou can log in with your password \
                     or a Personal Access Token (PAT).\n",
                )?;
            }
            let offer = if user.is_empty() { String::new() } else { format!(" ({user})") };
            let typed = ask(&format!("Username{offer}: ")).await?.trim().to_owned();
            if typed.is_empty() { user.to_owned() } else { typed }
        }
    };
    if username.is_empty() {
        return Err(Failure::new("username is required"));
    }
    let password = match password {
        Some(password) => password,
        None => {
            let silence = NoEcho::enter()?;
            let typed = ask("Password: ").await;
            drop(silence);
            // The key that ended it was not shown either.
            output::line("")?;
            typed?
        }
    };
    if password.is_empty() {
        return Err(Failure::new("password is required"));
    }
    Ok(AuthConfig {
        username,
        password: password.into(),
        serveraddress: server.to_owned(),
        ..AuthConfig::default()
    })
}

/// A line from the terminal. A signal ends the question as it would end the program, but after
/// the terminal is itself again.
async fn ask(question: &str) -> Result<String, Failure> {
    output::print(question)?;
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        let read = std::io::stdin().lock().take(PASSWORD_LIMIT).read_line(&mut line);
        read.map(|_| line)
    });
    let line = tokio::select! {
        code = signals::ending() => return Err(Failure::silent(code)),
        line = answer => line,
    };
    let line = line
        .map_err(|error| Failure::new(format!("cannot read the answer: {error}")))?
        .map_err(|error| Failure::new(format!("cannot read the answer: {error}")))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Why a login failed.
enum Refused {
    /// These credentials are not good.
    Credentials(String),
    Otherwise(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Otherwise(failure)
    }
}

async fn try_and_keep(session: &Session, mut auth: AuthConfig) -> Result<(), Refused> {
    let reply = session.client.login(&auth).await.map_err(|error| match &error {
        ClientError::Api { status, .. } if *status == http::StatusCode::UNAUTHORIZED => {
            Refused::Credentials(describe(&error))
        }
        _ => Refused::Otherwise(error.into()),
    })?;
    if !reply.identity_token.is_empty() {
        auth.password = String::new().into();
        auth.identitytoken = reply.identity_token.into();
    }
    credentials::keep(&session.config, &session.directory, &auth).await?;
    let words = if reply.status.is_empty() { "Login Succeeded" } else { &reply.status };
    Ok(output::line(words)?)
}

/// `pouch logout`.
pub(crate) async fn logout(session: &Session, flags: LogoutFlags) -> Outcome {
    let server = credentials::key_of(flags.server.as_deref());
    output::line(&format!("Removing login credentials for {server}"))?;
    let mut keys = vec![server.clone()];
    if server != HUB {
        // Keys that were written long ago, or as the user typed them.
        let typed = flags.server.unwrap_or_default();
        keys.extend([typed, format!("http://{server}"), format!("https://{server}")]);
        keys.dedup();
    }
    let mut failed = Vec::new();
    for key in &keys {
        if let Err(failure) = credentials::forget(&session.config, &session.directory, key).await {
            failed.push(failure.message.unwrap_or_default());
        }
    }
    if failed.len() == keys.len() {
        output::note(&format!("WARNING: could not erase credentials:\n{}", failed.join("\n")));
    }
    Ok(0)
}
