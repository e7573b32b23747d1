//! Starting the command: process group, terminal, signal mask.

#![expect(unsafe_code, reason = "the terminal and the mask are set between fork and exec")]

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::Errno;
use rustix::process::{Pid, getpgrp, ioctl_tiocsctty};
use rustix::stdio::stdin;
use rustix::termios::{isatty, tcgetpgrp, tcsetpgrp};

use crate::signals::Blocked;

/// Starts `program`, searched in PATH, in a process group of its own that owns the terminal on
/// standard input, if there is one. An error is the one of `exec`, or of what comes before it.
pub(crate) fn command(
    program: &OsStr,
    arguments: impl Iterator<Item = OsString>,
    blocked: &Blocked,
) -> io::Result<Pid> {
    let terminal = isatty(stdin());
    if terminal && tcgetpgrp(stdin()) == Err(Errno::NOTTY) {
        // A terminal, but not ours yet. Only a session leader can take it, and only if it is no
        // other session's: where that fails the command merely has no job control.
        let _ = ioctl_tiocsctty(stdin());
    }
    let blocked = *blocked;
    let mut command = Command::new(program);
    command.args(arguments).process_group(0);
    // SAFETY: the closure makes system calls only and neither allocates nor locks.
    unsafe {
        command.pre_exec(move || {
            if terminal {
                take_terminal()?;
            }
            blocked.restore()
        });
    }
    let child = command.spawn()?;
    Ok(Pid::from_child(&child))
}

/// Makes the caller's process group the foreground group. In the child and before `exec`, so that
/// the command never reads as a background process; SIGTTOU is blocked then, so this cannot stop.
fn take_terminal() -> io::Result<()> {
    match tcsetpgrp(stdin(), getpgrp()) {
        // Not the controlling terminal, or hung up already.
        Ok(()) | Err(Errno::NOTTY | Errno::NXIO | Errno::IO) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
