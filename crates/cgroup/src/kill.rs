//! Ends all processes of a group.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::Error;
use crate::file;
use crate::freeze::pause;
use crate::group::Cgroup;

/// Time that one round may spend on stopping the group before it signals what it sees.
const FREEZE_SHARE: Duration = Duration::from_millis(200);

impl Cgroup {
    /// Sends SIGKILL to every process of the group and of the groups below, until none is left.
    ///
    /// With `cgroup.kill` (Linux 5.14, v2) the kernel does it at once. Otherwise the group is
    /// stopped first, so that nothing can fork away, each process is signalled and the group is
    /// thawed; repeated while processes remain. The group is not frozen afterwards, even if it was
    /// before. A group that does not exist is done. The calling process is never signalled and does
    /// not count.
    ///
    /// # Errors
    /// [`Error::Deadline`] when processes remain (one in uninterruptible sleep cannot die),
    /// [`Error::Io`].
    pub fn kill_all(&self, deadline: Instant) -> Result<(), Error> {
        let own = std::process::id();
        let mut attempt = 0;
        loop {
            let mut pids = match self.pids() {
                Ok(pids) => pids,
                Err(Error::NotFound(_)) => return Ok(()),
                Err(error) => return Err(error),
            };
            let with_us =
                pids.iter().position(|pid| *pid == own).map(|at| pids.remove(at)).is_some();
            if pids.is_empty() {
                return Ok(());
            }
            if with_us || !self.kill_by_kernel()? || self.outside_v2(&pids)? {
                self.kill_each(&pids, deadline)?;
            }
            self.thaw_v1()?;
            if !pause(attempt, deadline) {
                return Err(Error::Deadline { group: self.path().to_owned(), stage: "kill" });
            }
            attempt += 1;
        }
    }

    /// Writes `cgroup.kill`; `false` where there is none.
    fn kill_by_kernel(&self) -> Result<bool, Error> {
        let Some(dir) = self.v2() else { return Ok(false) };
        match file::write(&dir.join("cgroup.kill"), "1") {
            Ok(()) => Ok(true),
            Err(Error::Io { source, .. }) if file::is_absent(&source) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// In a hybrid layout a process can be in our v1 groups and not in our unified one.
    fn outside_v2(&self, pids: &[u32]) -> Result<bool, Error> {
        let Some(dir) = self.v2() else { return Ok(true) };
        if self.dirs().count() == 1 {
            return Ok(false);
        }
        let mut inside = BTreeSet::new();
        for group in crate::group::tree(dir)? {
            let text = file::read_optional(&group.join("cgroup.procs"))?.unwrap_or_default();
            inside.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
        Ok(pids.iter().any(|pid| !inside.contains(pid)))
    }

    fn kill_each(&self, pids: &[u32], deadline: Instant) -> Result<(), Error> {
        let own = std::process::id();
        // Best effort: without a freezer the outer loop catches what is forked meanwhile. Never
        // when we are inside: we would stop ourselves.
        if !self.pids()?.contains(&own) {
            // A failure has thawed it again and costs nothing but another round.
            let _ = self.freeze(deadline.min(Instant::now() + FREEZE_SHARE));
        }
        self.signal(pids)
    }

    /// A task that v1 has frozen, by us or before, takes no signal before it is thawed; v2 lets
    /// frozen tasks die. Groups below can be frozen on their own.
    fn thaw_v1(&self) -> Result<(), Error> {
        let Some(dir) = self.v1("freezer") else { return Ok(()) };
        for group in crate::group::tree(dir)? {
            match file::write(&group.join("freezer.state"), "THAWED") {
                Ok(()) => {}
                Err(Error::Io { source, .. }) if file::is_absent(&source) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn signal(&self, pids: &[u32]) -> Result<(), Error> {
        let handles: Vec<(u32, OwnedFd)> = pids
            .iter()
            .filter_map(|pid| {
                let raw = Pid::from_raw(i32::try_from(*pid).ok()?)?;
                Some((*pid, pidfd_open(raw, PidfdFlags::empty()).ok()?))
            })
            .collect();
        // A number that is still listed after its pidfd was opened belongs to the group: either to
        // the process behind the pidfd, or to a later one while that process is dead.
        let members = match self.pids() {
            Ok(members) => members,
            Err(Error::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        for (pid, handle) in handles {
            if members.binary_search(&pid).is_ok() {
                // ESRCH means that it is dead already; there is no other failure for SIGKILL by
                // root that a repetition would not meet again and report by deadline.
                let _ = pidfd_send_signal(handle, Signal::KILL);
            }
        }
        Ok(())
    }
}
