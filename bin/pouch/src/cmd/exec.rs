//! `exec`.

use pouch_client::Framing;
use pouch_docker_types::StrSlice;
use pouch_docker_types::exec::{ExecCreate, ExecStart};

use super::Outcome;
use super::run::keys;
use crate::context::Session;
use crate::create::exec_environment;
use crate::failure::{self, Failure};
use crate::flags::plain::ExecFlags;
use crate::signals::{self, Resizable};
use crate::streams::{Attachment, Ended, Input};
use crate::{output, terminal};

/// `pouch exec`.
pub(crate) async fn exec(session: &Session, flags: ExecFlags) -> Outcome {
    let (container, command) = flags
        .words
        .split_first()
        .ok_or_else(|| Failure::new("a container and a command are needed"))?;
    let stdin = flags.interactive && !flags.detach;
    if stdin && flags.tty && !terminal::stdin_is_terminal() {
        return Err(Failure::new(
            "the input device is not a TTY: leave out -t, or run in a terminal",
        ));
    }
    let detach_keys = keys(session, &flags.detach_keys);
    let parsed = terminal::detach_keys(&detach_keys)?;
    let size =
        terminal::size().filter(|_| flags.tty).map(|s| [u32::from(s.rows), u32::from(s.columns)]);
    let client = &session.client;
    let create = ExecCreate {
        user: flags.user.clone(),
        privileged: flags.privileged,
        tty: flags.tty,
        console_size: size,
        attach_stdin: stdin,
        attach_stdout: !flags.detach,
        attach_stderr: !flags.detach,
        detach_keys,
        env: Some(exec_environment(&flags.env, &flags.env_file)?).filter(|env| !env.is_empty()),
        working_dir: flags.workdir.clone(),
        cmd: Some(StrSlice(command.to_vec())),
        detach: flags.detach,
    };
    let id = client.create_exec(container, &create).await?;
    let start = ExecStart { detach: flags.detach, tty: flags.tty, console_size: size };
    if flags.detach {
        client.start_exec_detached(&id, &start).await?;
        return Ok(0);
    }
    let stream = client.start_exec(&id, &start).await?;
    let input = match (stdin, flags.tty) {
        (false, _) => Input::None,
        (true, false) => Input::Plain,
        (true, true) => Input::Terminal(parsed),
    };
    let framing = if flags.tty { Framing::Raw } else { Framing::Multiplexed };
    let resizing = flags.tty.then(|| signals::follow_size(client, Resizable::Exec(id.clone())));
    let ended = tokio::select! {
        ended = (Attachment { stream, framing, input }).pump() => ended?,
        code = signals::ending() => return Ok(code),
    };
    drop(resizing);
    if ended == Ended::Detached {
        return Ok(0);
    }
    let inspect = client.inspect_exec(&id).await?;
    match inspect.exit_code {
        Some(code) => Ok(u8::try_from(code & 0xff).unwrap_or(failure::ENGINE)),
        None => {
            output::note("the command has closed its output and still runs");
            Ok(0)
        }
    }
}
