//! `run` and `create`.
//!
//! The order of calls decides whether anything is lost: attach, then wait (the daemon answers as
//! soon as it waits), then start. Output before the attach and an exit before the wait cannot be.

use std::io::Write as _;
use std::path::Path;

use pouch_client::{Attach, ClientError, Condition, CreateImage, Framing, RemoveContainer, Wait};

use super::Outcome;
use crate::context::Session;
use crate::create::{self, Streams, Surroundings};
use crate::failure::{self, Failure, describe};
use crate::flags::container::{ContainerFlags, CreateFlags, RunFlags};
use crate::progress::{self, Look, Stream};
use crate::signals::{self, Resizable};
use crate::streams::{Attachment, Ended, Input};
use crate::{credentials, output, terminal};

/// `pouch create`.
pub(crate) async fn create(session: &Session, flags: CreateFlags) -> Outcome {
    let streams = Streams::of(&flags.create)?;
    let id = make(session, &flags.create, streams, flags.rm).await?;
    output::line(&id)?;
    Ok(0)
}

/// `pouch run`. Whatever keeps the engine from running the program is exit code 125.
pub(crate) async fn run(session: &Session, flags: RunFlags) -> Outcome {
    let streams = if flags.detach {
        if !flags.create.attach.is_empty() {
            return Err(Failure::new("conflicting options: -a and -d exclude each other")
                .with_code(failure::ENGINE));
        }
        Streams::NONE
    } else {
        Streams::of(&flags.create).map_err(engine_failed)?
    };
    if streams.stdin && flags.create.tty && !terminal::stdin_is_terminal() {
        return Err(Failure::new(
            "the input device is not a TTY: leave out -t, or run in a terminal",
        ));
    }
    let detach_keys = keys(session, &flags.detach_keys);
    let parsed_keys = terminal::detach_keys(&detach_keys).map_err(engine_failed)?;
    let id = make(session, &flags.create, streams, flags.rm).await.map_err(engine_failed)?;
    let tty = flags.create.tty;
    let client = &session.client;

    let attachment = if streams.any() {
        let attach = Attach {
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            stream: true,
            detach_keys: detach_keys.clone(),
            ..Attach::default()
        };
        let stream = client.attach(&id, &attach).await.map_err(|e| engine_failed(e.into()))?;
        let input = match (streams.stdin, tty) {
            (false, _) => Input::None,
            (true, false) => Input::Plain,
            (true, true) => Input::Terminal(parsed_keys),
        };
        let framing = if tty { Framing::Raw } else { Framing::Multiplexed };
        Some(Attachment { stream, framing, input })
    } else {
        None
    };
    // A terminal sends its keys to the process; only without one do signals have another way.
    let proxy = attachment.is_some() && !tty && flags.sig_proxy.unwrap_or(true);
    let forwarding = proxy.then(|| signals::forward(client, &id));
    let condition = if flags.rm { Condition::Removed } else { Condition::NextExit };
    let wait = match &attachment {
        Some(_) => {
            Some(client.wait_container(&id, condition).await.map_err(|e| engine_failed(e.into()))?)
        }
        None => None,
    };
    if let Err(error) = client.start_container(&id, "").await {
        let code = start_code(&error);
        // With --rm the daemon removes it only after a start; docker leaves a created container
        // behind here, which nobody wants.
        if flags.rm {
            let remove = RemoveContainer { force: true, volumes: true, link: false };
            let _ = client.remove_container(&id, remove).await;
        }
        return Err(run_failure(&describe(&error)).with_code(code));
    }
    let (Some(attachment), Some(wait)) = (attachment, wait) else {
        output::line(&id)?;
        return Ok(0);
    };
    if !streams.stdout && !streams.stderr {
        output::line(&id)?;
    }
    let resizing = tty.then(|| signals::follow_size(client, Resizable::Container(id.clone())));
    let code = attached(attachment, wait, proxy).await;
    drop((forwarding, resizing));
    code
}

/// Pumps until the output ends or the user detaches, then takes the exit code.
pub(crate) async fn attached(attachment: Attachment, wait: Wait, proxy: bool) -> Outcome {
    let ended = if proxy {
        attachment.pump().await?
    } else {
        // Dropping the pump restores the terminal.
        tokio::select! {
            ended = attachment.pump() => ended?,
            code = signals::ending() => return Ok(code),
        }
    };
    match ended {
        Ended::Detached => Ok(0),
        Ended::Output => exit_code(wait).await,
    }
}

/// The container's exit code as ours.
pub(crate) async fn exit_code(wait: Wait) -> Outcome {
    let exit = wait.result().await?;
    match exit.error.filter(|error| !error.message.is_empty()) {
        Some(error) => Err(Failure::new(format!("error waiting for container: {}", error.message))
            .with_code(failure::ENGINE)),
        None => Ok(u8::try_from(exit.status_code & 0xff).unwrap_or(failure::ENGINE)),
    }
}

/// `--detach-keys`, else the configuration's.
pub(crate) fn keys(session: &Session, flag: &str) -> String {
    if flag.is_empty() { session.config.detach_keys.clone() } else { flag.to_owned() }
}

fn engine_failed(failure: Failure) -> Failure {
    match failure.message {
        Some(message) => run_failure(&message).with_code(failure::ENGINE),
        None => failure,
    }
}

fn run_failure(message: &str) -> Failure {
    Failure::new(format!(
        "pouch: {}\n\nRun 'pouch run --help' for more information",
        message.trim_end()
    ))
}

/// 127 for a program that is not there, 126 for one that cannot be executed, else 125. The API
/// gives only text, and the runtime's words for the two are fixed.
fn start_code(error: &ClientError) -> u8 {
    let text = error.to_string();
    let any = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if any(&[
        "executable file not found",
        "no such file or directory",
        "system cannot find the file specified",
    ]) {
        failure::NOT_FOUND
    } else if any(&["permission denied", "is a directory"]) {
        failure::NOT_EXECUTABLE
    } else {
        failure::ENGINE
    }
}

async fn make(
    session: &Session,
    flags: &ContainerFlags,
    streams: Streams,
    auto_remove: bool,
) -> Result<String, Failure> {
    let proxies = session.config.proxy_environment(&session.host);
    let new = create::build(flags, Surroundings { streams, auto_remove, proxies: &proxies })?;
    let id_file = flags.cidfile.as_deref().map(IdFile::create).transpose()?;
    let image = &new.body.config.image;
    if flags.pull == "always" {
        pull(session, image, &new.platform, flags.quiet).await?;
    }
    let request = || session.client.create_container(&new.name, &new.platform, &new.body);
    let created = match request().await {
        Err(error) if error.is_not_found() && flags.pull == "missing" && is_image(&error) => {
            if !flags.quiet {
                let (name, tag) = super::split_reference(image);
                let separator = if tag.contains(':') { '@' } else { ':' };
                output::note(&format!("Unable to find image '{name}{separator}{tag}' locally"));
            }
            pull(session, image, &new.platform, flags.quiet).await?;
            request().await?
        }
        other => other?,
    };
    for warning in &created.warnings {
        output::note(&format!("WARNING: {warning}"));
    }
    if let Some(file) = id_file {
        file.keep(&created.id)?;
    }
    Ok(created.id)
}

/// Whether a 404 of a create speaks of the image: it may also be a network or a volume's driver.
fn is_image(error: &ClientError) -> bool {
    error.to_string().to_lowercase().contains("no such image")
}

async fn pull(session: &Session, image: &str, platform: &str, quiet: bool) -> Result<(), Failure> {
    let (name, tag) = super::split_reference(image);
    let auth = credentials::lookup(&session.config, image).await?;
    let create = CreateImage {
        from_image: name,
        tag,
        platform: platform.to_owned(),
        ..CreateImage::default()
    };
    let messages = session.client.pull_image(&create, auth.as_ref()).await?;
    let look = if quiet { Look::Silent } else { Look::Auto };
    // Stdout belongs to the program.
    progress::show(messages, look, Stream::Stderr).await.map(drop)
}

/// `--cidfile`: made before the container, so that a name that is taken costs nothing, and removed
/// again when there is no container to name.
struct IdFile<'a> {
    path: &'a Path,
    file: std::fs::File,
    kept: bool,
}

impl<'a> IdFile<'a> {
    fn create(path: &'a Path) -> Result<Self, Failure> {
        match std::fs::File::create_new(path) {
            Ok(file) => Ok(Self { path, file, kept: false }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(Failure::new(format!(
                    "container ID file found, make sure the other container isn't running or delete {}",
                    path.display()
                )))
            }
            Err(error) => Err(Failure::io("create the container ID file", path, &error)),
        }
    }

    fn keep(mut self, id: &str) -> Result<(), Failure> {
        self.kept = true;
        self.file
            .write_all(id.as_bytes())
            .map_err(|error| Failure::io("write the container ID file", self.path, &error))
    }
}

impl Drop for IdFile<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // An empty file that stays is a nuisance, not an error.
            let _ = std::fs::remove_file(self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(message: &str) -> ClientError {
        ClientError::Api { status: http::StatusCode::BAD_REQUEST, message: message.to_owned() }
    }

    #[test]
    fn exit_codes_of_a_failed_start() {
        assert_eq!(
            start_code(&api(r#"exec: "x": executable file not found in $PATH: unknown"#)),
            127
        );
        assert_eq!(start_code(&api("exec: \"/x\": stat /x: no such file or directory")), 127);
        assert_eq!(start_code(&api("exec: \"/etc/passwd\": permission denied")), 126);
        assert_eq!(start_code(&api("driver failed programming external connectivity")), 125);
    }

    #[test]
    fn an_id_file_exists_only_with_its_container() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        drop(IdFile::create(&path).ok().unwrap());
        assert!(!path.exists());
        IdFile::create(&path).ok().unwrap().keep("abc").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "abc");
        assert!(IdFile::create(&path).err().unwrap().message.unwrap().contains("delete"));
    }
}
