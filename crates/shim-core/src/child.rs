//! Children: commands that the shim runs, processes that runtimes leave to it, and orphans.
//!
//! The shim is a child subreaper, so the processes of containers become its children when the
//! runtime that made them exits. Each process that matters is *tracked* and waited for by pidfd.
//! Everything else that ends up here is reaped as it dies: within a pid namespace an unreaped
//! stranger would even keep the namespace's first process from ending. While a runtime command
//! runs, a process that it will report may be dead already, so nothing unknown is reaped then.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, pidfd_open,
    pidfd_send_signal, waitid,
};
use tokio::io::unix::AsyncFd;

use crate::error::TaskError;

#[derive(Debug, Default)]
struct Children {
    tracked: HashSet<i32>,
    /// Runtime commands that may be making processes.
    making: usize,
}

/// Knows which children are whose.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reaper(Arc<Mutex<Children>>);

/// While it lives, unknown children are left alone.
#[derive(Debug)]
pub(crate) struct Making(Reaper);

impl Drop for Making {
    fn drop(&mut self) {
        self.0.lock().making -= 1;
        self.0.reap_orphans();
    }
}

impl Reaper {
    fn lock(&self) -> MutexGuard<'_, Children> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn making(&self) -> Making {
        self.lock().making += 1;
        Making(self.clone())
    }

    /// Reaps dead children that nobody waits for. Called on SIGCHLD, which is only a hint here.
    pub(crate) fn reap_orphans(&self) {
        let children = self.lock();
        if children.making > 0 {
            return;
        }
        for pid in own_children() {
            if !children.tracked.contains(&pid.as_raw_pid()) {
                let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
            }
        }
    }

    /// Takes charge of the child `pid`.
    pub(crate) fn track(&self, pid: u32) -> Result<Tracked, TaskError> {
        let raw = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| TaskError::Invalid { what: "pid", detail: pid.to_string() })?;
        let fd = pidfd_open(raw, PidfdFlags::NONBLOCK)
            .map_err(TaskError::errno("open the process", pid.to_string()))?;
        let fd =
            crate::sys::watch(fd).map_err(TaskError::io("watch the process", pid.to_string()))?;
        self.lock().tracked.insert(raw.as_raw_pid());
        Ok(Tracked { pid: raw, fd, reaper: self.clone() })
    }

    /// Runs `command` to its end; kills it after `limit`.
    pub(crate) async fn run(
        &self,
        mut command: Command,
        stage: &'static str,
        limit: Duration,
    ) -> Result<ExitStatus, TaskError> {
        let program = command.get_program().to_owned();
        let child = command.spawn().map_err(TaskError::io("run", program))?;
        // No other task ran since the spawn, so the child cannot have been reaped.
        let tracked = self.track(child.id())?;
        match tokio::time::timeout(limit, tracked.wait()).await {
            Ok(exit) => Ok(exit),
            Err(_) => {
                let _ = tracked.signal(Signal::KILL);
                // A process in uninterruptible sleep is left to the reaper.
                let _ = tokio::time::timeout(Duration::from_secs(1), tracked.wait()).await;
                Err(TaskError::Deadline { stage, seconds: limit.as_secs() })
            }
        }
    }
}

/// Children of all our threads, as the kernel lists them.
fn own_children() -> Vec<Pid> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| {
            list.split_ascii_whitespace()
                .filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// A child that is waited for here and nowhere else.
#[derive(Debug)]
pub(crate) struct Tracked {
    pid: Pid,
    fd: AsyncFd<OwnedFd>,
    reaper: Reaper,
}

impl Tracked {
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Errno> {
        pidfd_send_signal(self.pidfd(), signal)
    }

    /// Waits for the end and reaps it. To be called once.
    pub(crate) async fn wait(&self) -> ExitStatus {
        loop {
            // Readable is forever once the process is dead, so the guard need not be cleared.
            let ready = self.fd.readable().await;
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            match waitid(WaitId::PidFd(self.pidfd()), options) {
                Ok(Some(status)) => return exit_status(&status),
                Ok(None) => match ready {
                    Ok(mut guard) => guard.clear_ready(),
                    Err(_) => return lost(),
                },
                Err(Errno::INTR) => {}
                // Not our child: its status went to someone else.
                Err(_) => return lost(),
            }
        }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.reaper.lock().tracked.remove(&self.pid.as_raw_pid());
    }
}

fn exit_status(status: &WaitIdStatus) -> ExitStatus {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitStatus::from_raw((code & 0xff) << 8),
        (None, Some(signal)) => ExitStatus::from_raw(signal),
        (None, None) => lost(),
    }
}

/// A process whose status is not known; Docker and containerd say 255 too.
fn lost() -> ExitStatus {
    ExitStatus::from_raw(255 << 8)
}

/// The code as shells have it: that of exit(2), or 128 and the signal.
pub(crate) fn shell_code(status: ExitStatus) -> u32 {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    };
    u32::try_from(code).unwrap_or(255)
}
