//! Making a process that shares nothing but its memory image with us.
//!
//! `clone3` is called directly because no wrapper of it can create namespaces and return in the
//! child like `fork`. The child then runs ordinary, allocating Rust code. That is sound only in a
//! single-threaded program: no other thread can hold the allocator's lock at the moment of the
//! clone. [`spawn`] checks it and refuses otherwise.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::error::{RuntimeError, SystemContext};

/// `struct clone_args` of `linux/sched.h`, version 2 (88 bytes).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// The process that was made, as its maker sees it.
#[derive(Debug)]
pub(crate) struct Child {
    /// Its pid in our pid namespace.
    pub(crate) pid: i32,
    /// A descriptor of it.
    pub(crate) pidfd: OwnedFd,
}

/// Whose child the new process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parent {
    /// Ours; its exit raises SIGCHLD.
    Us,
    /// Our parent's, as a sibling of ours.
    OurParent,
}

/// `CLONE_INTO_CGROUP` of `linux/sched.h`.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Makes a process in new namespaces (`flags`, of the `CLONE_NEW*` kind), in the version 2 cgroup
/// `birthplace` if one is given, that runs `body` and exits with what it returns.
pub(crate) fn spawn(
    flags: u64,
    parent: Parent,
    birthplace: Option<BorrowedFd<'_>>,
    body: impl FnOnce() -> i32,
) -> Result<Child, RuntimeError> {
    check_single_threaded()?;
    let mut pidfd: libc::c_int = -1;
    let (extra, exit_signal) = match parent {
        Parent::Us => (0, libc::SIGCHLD),
        Parent::OurParent => (libc::CLONE_PARENT, 0),
    };
    let args = CloneArgs {
        flags: flags
            | u64::from((libc::CLONE_PIDFD | extra).cast_unsigned())
            | birthplace.map_or(0, |_| INTO_CGROUP),
        pidfd: (&raw mut pidfd).expose_provenance() as u64,
        exit_signal: u64::from(exit_signal.cast_unsigned()),
        cgroup: birthplace.map_or(0, |fd| u64::from(fd.as_raw_fd().cast_unsigned())),
        ..CloneArgs::default()
    };
    // SAFETY: the arguments are valid for their stated size; without CLONE_VM and with no stack
    // given, the child continues here on a copy of this stack, and this is the only thread.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match result {
        -1 => Err(std::io::Error::last_os_error()).call("clone3"),
        0 => {
            let code = body();
            // SAFETY: ends the child at once; the maker's exit handlers and buffers are not ours.
            unsafe { libc::_exit(code) }
        }
        pid => {
            // SAFETY: the kernel stored a descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = i32::try_from(pid)
                .map_err(|e| RuntimeError::system("clone3", std::io::Error::other(e)))?;
            Ok(Child { pid, pidfd })
        }
    }
}

fn check_single_threaded() -> Result<(), RuntimeError> {
    let path = std::path::Path::new("/proc/self/task");
    let metadata = std::fs::metadata(path).map_err(|e| RuntimeError::io("inspect", path, e))?;
    // The link count of the directory is the number of threads plus two.
    if std::os::unix::fs::MetadataExt::nlink(&metadata) > 3 {
        return Err(RuntimeError::Unsupported("making a container from a threaded process".into()));
    }
    Ok(())
}

/// Waits for a child of ours and returns its exit code, 128 + signal when it was killed.
pub(crate) fn wait(pid: i32) -> Result<i32, RuntimeError> {
    let pid = rustix::process::Pid::from_raw(pid)
        .ok_or_else(|| RuntimeError::Invalid(String::from("no process to wait for")))?;
    loop {
        match rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()) {
            Ok(Some((_, status))) => {
                if let Some(code) = status.exit_status() {
                    return Ok(code);
                }
                if let Some(signal) = status.terminating_signal() {
                    return Ok(128 + signal);
                }
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).call("waitpid"),
        }
    }
}
