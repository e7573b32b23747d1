//! `pouch-init -- COMMAND [ARG…]`: pid 1 of a container that was created with an init.
//! `pouch-init --pause`: pid 1 of a pid namespace that containers share.
//!
//! Does what a program that was not written to be pid 1 leaves undone: every signal that arrives
//! here goes to the command, every orphan is reaped, and the command's end is the container's end.
//! The command runs in a process group of its own, which is the terminal's foreground group if
//! standard input is a terminal, so that ^C reaches the command once and never through here.
//!
//! There is no signal handler: all signals are blocked from the first instruction of `main` and
//! taken one by one by `sigwaitinfo`, so nothing is lost between two of them and nothing runs
//! asynchronously. The faults (SIGSEGV and its like) are blocked too: the kernel forces a genuine
//! one through regardless, and one that was sent by `kill` then reaches the command instead of
//! being dropped, as the kernel does with unhandled signals of a pid 1.
//!
//! With `--pause` there is no command: it reaps orphans until SIGTERM or SIGINT ends it, and with
//! it all that is left in its pid namespace. It needs nothing but its own file: no directory, no
//! /proc, no input or output; as a container, a root file system with only itself in it, read-only,
//! no capability, any user.
//!
//! Exit code: the command's; 0 of `--pause`; 128+n if signal n ended it; 127 if it was not found and 126 if it
//! could not be executed (reason on standard error); 125 if the init itself failed.

#![deny(unsafe_code)]

mod signals;
mod spawn;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, getpid, set_child_subreaper, wait};

use signals::Blocked;

/// The init's own failure, as docker reports one of the engine.
const FAILED: u8 = 125;
const CANNOT_EXECUTE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Hold a pid namespace instead of running a command.
const PAUSE: &str = "--pause";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.peek().is_some_and(|argument| argument == PAUSE) {
        return match pause() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(FAILED, &error.to_string()),
        };
    }
    arguments.next_if(|argument| argument == "--");
    let Some(program) = arguments.next() else {
        return fail(FAILED, "usage: pouch-init -- COMMAND [ARG…] | pouch-init --pause");
    };
    match run(program, arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(FAILED, &error.to_string()),
    }
}

fn run(program: OsString, arguments: impl Iterator<Item = OsString>) -> io::Result<u8> {
    let blocked = Blocked::all()?;
    // Under `--pid host` or `--pid container:` somebody else is pid 1 and would get the orphans.
    if !getpid().is_init() {
        set_child_subreaper(Some(getpid()))?;
    }
    let command = match spawn::command(&program, arguments, &blocked) {
        Ok(pid) => pid,
        Err(error) => {
            let code =
                if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_EXECUTE };
            complain(&format!("{}: {error}", program.display()));
            return Ok(code);
        }
    };
    loop {
        match blocked.next()? {
            libc::SIGCHLD => {
                if let Some(code) = reap(command)? {
                    return Ok(code);
                }
            }
            signal => signals::forward(command, signal)?,
        }
    }
}

/// Reaps until it is told to end.
fn pause() -> io::Result<()> {
    let blocked = Blocked::all()?;
    if !getpid().is_init() {
        set_child_subreaper(Some(getpid()))?;
    }
    loop {
        match blocked.next()? {
            libc::SIGTERM | libc::SIGINT => return Ok(()),
            libc::SIGCHLD => reap_all()?,
            // Nobody here has a use for others.
            _ => {}
        }
    }
}

fn reap_all() -> io::Result<()> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reaps all that has ended, since one SIGCHLD may stand for several; the exit code once the
/// command is among them.
fn reap(command: Pid) -> io::Result<Option<u8>> {
    let mut code = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == command => code = exit_code(status),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return Ok(code),
            // The command was the last one and has just been reaped.
            Err(Errno::CHILD) if code.is_some() => return Ok(code),
            Err(error) => return Err(error.into()),
        }
    }
}

fn exit_code(status: WaitStatus) -> Option<u8> {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => return None,
    };
    Some(u8::try_from(code).unwrap_or(FAILED))
}

fn fail(code: u8, message: &str) -> ExitCode {
    complain(message);
    ExitCode::from(code)
}

fn complain(message: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr(), "pouch-init: {message}");
}
