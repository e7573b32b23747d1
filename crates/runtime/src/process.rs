//! Processes of the host's pid namespace, named by pid *and* start time so that a reused pid is
//! never taken for the container's.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{RuntimeError, SystemContext};

/// What `/proc/<pid>/stat` says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// The one-letter state.
    pub(crate) state: char,
    /// Start time in clock ticks since boot (field 22).
    pub(crate) start_time: u64,
}

impl Stat {
    /// `None` when there is no such process.
    pub(crate) fn read(pid: i32) -> Option<Self> {
        parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Whether the process has exited and only waits to be reaped.
    pub(crate) fn is_dead(self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// The command name may hold spaces and parentheses: fields count from the last `)`.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start_time = fields.nth(18)?.parse().ok()?;
    Some(Stat { state, start_time })
}

/// Opens a descriptor of the process `pid` if it still is the one that began at `start_time`.
pub(crate) fn open(pid: i32, start_time: u64) -> Option<OwnedFd> {
    let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    // Read after opening: the descriptor pins the process that this pid names now.
    let stat = Stat::read(pid)?;
    (stat.start_time == start_time && !stat.is_dead()).then_some(fd)
}

/// Sends `signal`; 0 probes. A real-time signal is as good as any other.
pub(crate) fn send_signal(pidfd: &OwnedFd, signal: i32) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open and a null siginfo is allowed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Whether the process behind `pidfd` has ended before `limit` passed.
pub(crate) fn wait_exit(pidfd: &OwnedFd, limit: Duration) -> Result<bool, RuntimeError> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left)
            .map_err(|e| RuntimeError::system("poll", std::io::Error::other(e)))?;
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).call("poll"),
        }
    }
}

/// The namespace file of a process.
pub(crate) fn namespace_path(pid: i32, kind: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/{kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let text = "7 (a) R (b)) S 1 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        assert_eq!(parse_stat(text), Some(Stat { state: 'S', start_time: 4242 }));
    }

    #[test]
    fn a_truncated_line_is_no_process() {
        assert_eq!(parse_stat("7 (a) S 1 2"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn a_process_of_another_start_time_is_not_opened() {
        let pid = std::process::id().cast_signed();
        let start = Stat::read(pid).unwrap().start_time;
        assert!(open(pid, start).is_some());
        assert!(open(pid, start + 1).is_none());
    }
}
