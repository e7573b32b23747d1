//! `attach`, and `start -a`.

use pouch_client::{Attach, Condition, Framing};

use super::Outcome;
use super::run::{attached, keys};
use crate::context::Session;
use crate::failure::{Failure, describe};
use crate::flags::plain::{AttachFlags, StartFlags};
use crate::signals::{self, Resizable};
use crate::streams::{Attachment, Input};
use crate::{output, terminal};

/// `pouch attach`.
pub(crate) async fn attach(session: &Session, flags: AttachFlags) -> Outcome {
    let client = &session.client;
    let container = client.inspect_container(&flags.container).await?;
    let name = &flags.container;
    let state = &container.state;
    if !state.running {
        return Err(Failure::new(format!(
            "cannot attach to container {name}, which is stopped: start it first (pouch start -a {name})"
        )));
    }
    if state.paused {
        return Err(Failure::new(format!(
            "cannot attach to container {name}, which is paused: unpause it first (pouch unpause {name})"
        )));
    }
    if state.restarting {
        return Err(Failure::new(format!(
            "cannot attach to container {name}, which is restarting: wait until it runs"
        )));
    }
    let tty = container.config.tty;
    let stdin = !flags.no_stdin && container.config.open_stdin;
    if stdin && tty && !terminal::stdin_is_terminal() {
        return Err(Failure::new(
            "the input device is not a TTY: use --no-stdin, or run in a terminal",
        ));
    }
    let wait = client.wait_container(&container.id, Condition::NotRunning).await?;
    let attachment = join(session, &container.id, tty, stdin, &flags.detach_keys).await?;
    let proxy = !tty && flags.sig_proxy.unwrap_or(true);
    let forwarding = proxy.then(|| signals::forward(client, &container.id));
    let resizing =
        tty.then(|| signals::follow_size(client, Resizable::Container(container.id.clone())));
    let code = attached(attachment, wait, proxy).await;
    drop((forwarding, resizing));
    code
}

/// `pouch start`.
pub(crate) async fn start(session: &Session, flags: StartFlags) -> Outcome {
    let client = &session.client;
    for (flag, value) in
        [("--checkpoint", &flags.checkpoint), ("--checkpoint-dir", &flags.checkpoint_dir)]
    {
        if value.is_some() {
            return Err(Failure::unsupported(flag, "containers are not restored from checkpoints"));
        }
    }
    if !flags.attach && !flags.interactive {
        return start_all(session, &flags.containers).await;
    }
    let [name] = flags.containers.as_slice() else {
        return Err(Failure::new("you cannot start and attach multiple containers at once"));
    };
    let container = client.inspect_container(name).await?;
    let tty = container.config.tty;
    let stdin = flags.interactive && container.config.open_stdin;
    let attachment = join(session, &container.id, tty, stdin, &flags.detach_keys).await?;
    let proxy = !tty;
    let forwarding = proxy.then(|| signals::forward(client, &container.id));
    let removed = container.host_config.auto_remove;
    let condition = if removed { Condition::Removed } else { Condition::NextExit };
    let wait = client.wait_container(&container.id, condition).await?;
    client.start_container(&container.id, "").await?;
    let resizing =
        tty.then(|| signals::follow_size(client, Resizable::Container(container.id.clone())));
    let code = attached(attachment, wait, proxy).await;
    drop((forwarding, resizing));
    code
}

/// One after the other, in the order given: they may depend on each other.
async fn start_all(session: &Session, names: &[String]) -> Outcome {
    let mut said = Vec::new();
    let mut failed = Vec::new();
    for name in names {
        match session.client.start_container(name, "").await {
            Ok(()) => output::line(name)?,
            Err(error) => {
                said.push(describe(&error));
                failed.push(name.as_str());
            }
        }
    }
    if failed.is_empty() {
        return Ok(0);
    }
    said.push(format!("Error: failed to start containers: {}", failed.join(", ")));
    Err(Failure::new(said.join("\n")))
}

async fn join(
    session: &Session,
    id: &str,
    tty: bool,
    stdin: bool,
    detach_keys: &str,
) -> Result<Attachment, Failure> {
    let detach_keys = keys(session, detach_keys);
    let parsed = terminal::detach_keys(&detach_keys)?;
    let attach = Attach {
        stdin,
        stdout: true,
        stderr: true,
        stream: true,
        detach_keys,
        ..Attach::default()
    };
    let stream = session.client.attach(id, &attach).await?;
    let input = match (stdin, tty) {
        (false, _) => Input::None,
        (true, false) => Input::Plain,
        (true, true) => Input::Terminal(parsed),
    };
    let framing = if tty { Framing::Raw } else { Framing::Multiplexed };
    Ok(Attachment { stream, framing, input })
}

/// `pouch wait`.
pub(crate) async fn wait(session: &Session, names: &[String]) -> Outcome {
    let client = &session.client;
    super::each(names, |name| async move {
        let exit = client.wait_container(name, Condition::NotRunning).await?.result().await?;
        Ok(exit.status_code.to_string())
    })
    .await
}

/// `pouch rename`.
pub(crate) async fn rename(session: &Session, container: &str, name: &str) -> Outcome {
    if name.trim().is_empty() {
        output::note("the new name is empty: pouch rename CONTAINER NEW_NAME");
        return Ok(1);
    }
    match session.client.rename_container(container, name.trim()).await {
        Ok(()) => Ok(0),
        Err(error) => Err(Failure::new(format!(
            "{}\nError: failed to rename container named {container}",
            describe(&error)
        ))),
    }
}
