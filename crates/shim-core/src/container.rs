//! One container of the shim.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pouch_cgroup::Cgroup;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::blocking;
use crate::bundle::PidNamespace;
use crate::error::TaskError;
use crate::exit::Exit;
use crate::options::TaskOptions;
use crate::process::Process;
use crate::runtime::RuntimeHandler;

/// Time that stopping or thawing all processes may take; one in uninterruptible sleep cannot be
/// stopped at all.
const FREEZE: Duration = Duration::from_secs(10);
/// Time that killing all may take.
const KILL: Duration = Duration::from_secs(10);

/// Status of a process that SIGKILL ended.
const SIGKILLED: u32 = 128 + 9;

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: Arc<str>,
    pub(crate) bundle: PathBuf,
    pub(crate) options: TaskOptions,
    pub(crate) runtime: Arc<dyn RuntimeHandler>,
    pub(crate) init: Arc<Process>,
    pub(crate) pid_namespace: PidNamespace,
    /// Absent on a machine without control groups.
    pub(crate) cgroup: Option<Cgroup>,
    /// OOM kills that the group had counted when the container was made.
    pub(crate) oom_base: u64,
    /// Those of the group above at that time, where it counts.
    oom_base_above: Option<u64>,
    /// SIGKILL was sent on request.
    killed: AtomicBool,
    execs: Mutex<BTreeMap<String, Arc<Process>>>,
    paused: AtomicBool,
    oom_seen: AtomicBool,
    /// Taken by what changes the container through the runtime; signals need not wait for it.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

/// What a new [`Container`] is made of.
pub(crate) struct Parts {
    pub(crate) id: Arc<str>,
    pub(crate) bundle: PathBuf,
    pub(crate) options: TaskOptions,
    pub(crate) runtime: Arc<dyn RuntimeHandler>,
    pub(crate) init: Arc<Process>,
    pub(crate) pid_namespace: PidNamespace,
    pub(crate) cgroup: Option<Cgroup>,
}

impl Container {
    pub(crate) fn new(parts: Parts) -> Self {
        let oom_base = parts.cgroup.as_ref().map_or(0, kills);
        let oom_base_above = parts.cgroup.as_ref().and_then(kills_above);
        Self {
            id: parts.id,
            bundle: parts.bundle,
            options: parts.options,
            runtime: parts.runtime,
            init: parts.init,
            pid_namespace: parts.pid_namespace,
            cgroup: parts.cgroup,
            oom_base,
            oom_base_above,
            killed: AtomicBool::new(false),
            execs: Mutex::default(),
            paused: AtomicBool::new(false),
            oom_seen: AtomicBool::new(false),
            changing: tokio::sync::Mutex::new(()),
        }
    }

    pub(crate) fn rootfs(bundle: &Path) -> PathBuf {
        bundle.join("rootfs")
    }

    fn execs(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Process>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process `exec`, or the first one if that is empty.
    pub(crate) fn process(&self, exec: &str) -> Result<Arc<Process>, TaskError> {
        if exec.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        self.execs().get(exec).cloned().ok_or_else(|| TaskError::NoExec(exec.to_owned()))
    }

    pub(crate) fn add_exec(&self, process: Arc<Process>) -> Result<(), TaskError> {
        let mut execs = self.execs();
        let exec = process.exec.to_string();
        if execs.contains_key(&exec) {
            return Err(TaskError::Exists(exec));
        }
        execs.insert(exec, process);
        Ok(())
    }

    pub(crate) fn remove_exec(&self, exec: &str) {
        self.execs().remove(exec);
    }

    pub(crate) fn all_execs(&self) -> Vec<Arc<Process>> {
        self.execs().values().cloned().collect()
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// The group, or that there is none.
    fn group(&self, action: &'static str) -> Result<&Cgroup, TaskError> {
        self.cgroup
            .as_ref()
            .ok_or(TaskError::Cgroup { action, source: pouch_cgroup::Error::Unmounted })
    }

    /// Stops all its processes.
    pub(crate) async fn pause(&self) -> Result<(), TaskError> {
        self.freeze("pause", Cgroup::freeze).await?;
        self.paused.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Lets them go on.
    pub(crate) async fn resume(&self) -> Result<(), TaskError> {
        self.freeze("resume", Cgroup::thaw).await?;
        self.paused.store(false, Ordering::Relaxed);
        Ok(())
    }

    async fn freeze(
        &self,
        action: &'static str,
        step: fn(&Cgroup, Instant) -> Result<(), pouch_cgroup::Error>,
    ) -> Result<(), TaskError> {
        let group = self.group(action)?.clone();
        blocking::run("freeze", move || step(&group, Instant::now() + FREEZE))
            .await?
            .map_err(|source| TaskError::Cgroup { action, source })
    }

    /// Signals every process of the container.
    pub(crate) async fn signal_all(&self, signal: Signal) -> Result<(), TaskError> {
        let action = "signal all processes of";
        let failed = |source| TaskError::Cgroup { action, source };
        let Ok(group) = self.group(action) else { return self.init.signal(signal) };
        if signal == Signal::KILL {
            let group = group.clone();
            return blocking::run("kill", move || group.kill_all(Instant::now() + KILL))
                .await?
                .map_err(failed);
        }
        for pid in group.pids().map_err(failed)? {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            if let Some(Ok(process)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
                // It may have ended since it was listed.
                let _ = pidfd_send_signal(&process, signal);
            }
        }
        Ok(())
    }

    pub(crate) fn pids(&self) -> Result<Vec<u32>, TaskError> {
        let action = "list the processes of";
        self.group(action)?.pids().map_err(|source| TaskError::Cgroup { action, source })
    }

    pub(crate) fn stats(&self) -> Result<pouch_cgroup::Stats, TaskError> {
        let action = "measure";
        self.group(action)?.stats().map_err(|source| TaskError::Cgroup { action, source })
    }

    /// The kernel killed a process of it for want of memory.
    pub(crate) fn was_oom_killed(&self) -> bool {
        self.cgroup.as_ref().map_or(0, kills) > self.oom_base
    }

    /// As [`Container::was_oom_killed`], when its first process has ended.
    ///
    /// systemd removes an emptied scope at once, and the counter with it, perhaps before we look.
    /// Then a SIGKILL that nobody asked us for counts as one for want of memory if the group above
    /// saw any since the container was made.
    pub(crate) fn ended_by_oom(&self, exit: Exit) -> bool {
        if self.oom_seen.load(Ordering::Relaxed) || self.was_oom_killed() {
            return true;
        }
        let above = self.cgroup.as_ref().filter(|group| !group.exists()).and_then(kills_above);
        exit.status == SIGKILLED
            && !self.killed.load(Ordering::Relaxed)
            && above.zip(self.oom_base_above).is_some_and(|(now, then)| now > then)
    }

    /// Notes that SIGKILL is about to be sent on request.
    pub(crate) fn note_kill(&self) {
        self.killed.store(true, Ordering::Relaxed);
    }

    /// True for the caller that is to publish the event, which happens once per container.
    pub(crate) fn first_oom(&self) -> bool {
        !self.oom_seen.swap(true, Ordering::Relaxed)
    }
}

fn kills_above(group: &Cgroup) -> Option<u64> {
    group.oom_kills_above().ok().flatten()
}

/// The group's counter; an unreadable one counts nothing.
fn kills(group: &Cgroup) -> u64 {
    group.oom_kills().ok().flatten().unwrap_or(0)
}
