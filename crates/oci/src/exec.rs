//! One more process in a container that runs.

use crate::capability;
use crate::error::SpecError;
use crate::host::HostFeatures;
use crate::process::{check_strings, check_variables, directory, overlay};
use crate::spec::{ConsoleSize, Process, Spec, User};
use crate::user::ResolvedUser;

/// What `exec` asks for.
#[derive(Debug, Clone, Copy)]
pub struct ExecProcess<'a> {
    /// Program and arguments.
    pub args: &'a [String],
    /// Further variables; a bare name removes.
    pub env: &'a [String],
    /// Variables of the container's configuration (image and user): a `HOME` among them is
    /// everybody's, any other is that of the first process's user.
    pub configured_env: &'a [String],
    /// Empty is the container's.
    pub working_dir: &'a str,
    /// `None` is the container's.
    pub user: Option<&'a ResolvedUser>,
    /// What the process may have.
    pub rights: Rights,
    /// Rows and columns of the terminal, for a process that has one.
    pub terminal: Option<Option<(u16, u16)>>,
}

/// Rights of a further process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rights {
    /// Those of the first process.
    #[default]
    Container,
    /// All that the machine has; the filter of system calls stays.
    Privileged,
}

/// The process for the runtime, from the specification that the container was made with.
///
/// # Errors
/// [`SpecError::Invalid`] for an empty command, a variable or a directory that cannot be passed on.
pub fn exec(
    container: &Spec,
    asked: &ExecProcess<'_>,
    host: &HostFeatures,
) -> Result<Process, SpecError> {
    let first = &container.process;
    if asked.args.first().is_none_or(String::is_empty) {
        return Err(SpecError::invalid("Cmd", "No exec command specified"));
    }
    check_strings("Cmd", asked.args)?;
    let mut base = first.env.clone();
    if asked.terminal.is_some() && !base.iter().any(|v| v.starts_with("TERM=")) {
        base.push("TERM=xterm".to_owned());
    }
    if let Some(user) = asked.user {
        let configured = asked.configured_env.iter().any(|v| v.starts_with("HOME="));
        if user.uid != first.user.uid && !configured {
            base.retain(|variable| !variable.starts_with("HOME="));
            base.push(format!("HOME={}", user.home));
        }
    }
    let env = overlay(base, asked.env)?;
    check_variables(&env)?;
    let capabilities = match asked.rights {
        Rights::Container => first.capabilities.clone(),
        Rights::Privileged => Some(capability::sets(host.capabilities)),
    };
    Ok(Process {
        terminal: asked.terminal.is_some(),
        console_size: asked.terminal.flatten().map(|(height, width)| ConsoleSize { height, width }),
        user: asked.user.map_or_else(|| first.user.clone(), user_of),
        args: asked.args.to_vec(),
        env,
        cwd: if asked.working_dir.is_empty() {
            first.cwd.clone()
        } else {
            directory(asked.working_dir)?
        },
        capabilities,
        ..first.clone()
    })
}

pub(crate) fn user_of(user: &ResolvedUser) -> User {
    let mut additional_gids = user.additional_gids.clone();
    // A file may deny its group what everybody else may: the primary group must be a real one.
    if !additional_gids.contains(&user.gid) {
        additional_gids.insert(0, user.gid);
    }
    User { uid: user.uid, gid: user.gid, additional_gids }
}
