//! Signals as values: all blocked, taken one at a time, passed on.

#![expect(unsafe_code, reason = "signal sets and sigwaitinfo have no safe wrapper")]

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use rustix::process::Pid;

/// While it lives every signal is blocked in this (only) thread.
#[derive(Clone, Copy)]
pub(crate) struct Blocked {
    all: libc::sigset_t,
    /// The mask that was inherited, which the command gets.
    inherited: libc::sigset_t,
}

impl Blocked {
    pub(crate) fn all() -> io::Result<Self> {
        let mut all = MaybeUninit::uninit();
        // SAFETY: sigfillset writes the whole set behind a valid pointer.
        check(unsafe { libc::sigfillset(all.as_mut_ptr()) })?;
        // SAFETY: initialised by sigfillset, which succeeded.
        let all = unsafe { all.assume_init() };
        let inherited = set_mask(&all)?;
        Ok(Self { all, inherited })
    }

    /// Restores the inherited mask. Async-signal-safe: for the child between fork and exec.
    pub(crate) fn restore(&self) -> io::Result<()> {
        set_mask(&self.inherited).map(drop)
    }

    /// Waits for the next signal, without a limit: pid 1 has nothing else to do.
    pub(crate) fn next(&self) -> io::Result<libc::c_int> {
        loop {
            // SAFETY: the set is initialised; a null siginfo is allowed.
            let signal = unsafe { libc::sigwaitinfo(&self.all, ptr::null_mut()) };
            match check(signal) {
                // Comes after a stop and SIGCONT, see signal(7).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

/// Sends `signal` to the command.
///
/// The pid cannot have been reused: only `reap` frees it, and then the loop ends. `ESRCH` is no
/// case either, since a zombie takes signals.
pub(crate) fn forward(command: Pid, signal: libc::c_int) -> io::Result<()> {
    // rustix's `Signal` leaves real-time signals out.
    // SAFETY: kill reads its arguments only.
    match check(unsafe { libc::kill(command.as_raw_nonzero().get(), signal) }) {
        // A set-user-id command under another user without CAP_KILL; the container still ends with
        // SIGKILL from outside.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result.map(drop),
    }
}

fn set_mask(mask: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    let mut previous = MaybeUninit::uninit();
    // SAFETY: the new set is initialised and the old one's place is valid for writing.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, mask, previous.as_mut_ptr()) })?;
    // SAFETY: written by sigprocmask, which succeeded.
    Ok(unsafe { previous.assume_init() })
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
