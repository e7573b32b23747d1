//! Which namespaces a container gets new, which it joins, and in what order.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::{Linux, LinuxNamespaceType};
use rustix::process::Pid;
use rustix::thread::{
    ThreadNameSpaceType, UnshareFlags, move_into_link_name_space, move_into_thread_name_spaces,
};

use crate::error::{IoContext, RuntimeError, SystemContext};

/// `CLONE_NEWTIME`; its value is taken from the exit-signal bits, so only `clone3` knows it.
const NEW_TIME: u64 = 0x80;

/// A kind of namespace: its file below `/proc/<pid>/ns` and its clone flag.
const KINDS: [(LinuxNamespaceType, &str, u64); 8] = [
    (LinuxNamespaceType::User, "user", libc::CLONE_NEWUSER as u64),
    (LinuxNamespaceType::Pid, "pid", libc::CLONE_NEWPID as u64),
    (LinuxNamespaceType::Time, "time", NEW_TIME),
    (LinuxNamespaceType::Ipc, "ipc", libc::CLONE_NEWIPC as u64),
    (LinuxNamespaceType::Uts, "uts", libc::CLONE_NEWUTS as u64),
    (LinuxNamespaceType::Network, "net", libc::CLONE_NEWNET as u64),
    (LinuxNamespaceType::Cgroup, "cgroup", libc::CLONE_NEWCGROUP as u64),
    (LinuxNamespaceType::Mount, "mnt", libc::CLONE_NEWNS as u64),
];

fn flag_of(kind: LinuxNamespaceType) -> u64 {
    KINDS.iter().find(|(k, ..)| *k == kind).map_or(0, |(.., flag)| *flag)
}

/// The namespaces of a container to be.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    new: u64,
    /// In the order of [`KINDS`]: the user namespace first, because it gives the right to join
    /// the others; the mount namespace last, because it takes `/proc` away.
    join: Vec<(LinuxNamespaceType, OwnedFd)>,
}

impl Plan {
    pub(crate) fn of(linux: &Linux) -> Result<Self, RuntimeError> {
        let mut plan = Self::default();
        let wanted = linux.namespaces().as_deref().unwrap_or_default();
        for (kind, _, flag) in KINDS {
            let mut of_kind = wanted.iter().filter(|ns| ns.typ() == kind);
            let Some(namespace) = of_kind.next() else { continue };
            if of_kind.next().is_some() {
                return Err(RuntimeError::Invalid(format!("namespace {kind} is given twice")));
            }
            match namespace.path() {
                Some(path) if !path.as_os_str().is_empty() => {
                    let file = File::open(path).context("open the namespace", path)?;
                    plan.join.push((kind, file.into()));
                }
                _ => plan.new |= flag,
            }
        }
        Ok(plan)
    }

    pub(crate) fn is_new(&self, kind: LinuxNamespaceType) -> bool {
        self.new & flag_of(kind) != 0
    }

    pub(crate) fn has(&self, kind: LinuxNamespaceType) -> bool {
        self.is_new(kind) || self.joined(kind).is_some()
    }

    fn joined(&self, kind: LinuxNamespaceType) -> Option<&OwnedFd> {
        self.join.iter().find(|(k, _)| *k == kind).map(|(_, fd)| fd)
    }

    /// Whether an existing user namespace must be entered before the new ones are made, which
    /// takes a process in between.
    pub(crate) fn joins_user(&self) -> bool {
        self.joined(LinuxNamespaceType::User).is_some()
    }

    /// What is made together with the process. Not the cgroup namespace: its root is where the
    /// process is when it is made, so it comes after the placement.
    pub(crate) fn clone_flags(&self) -> u64 {
        self.new & !flag_of(LinuxNamespaceType::Cgroup)
    }

    /// Runs `make` so that the process it makes is born in the pid namespace to be joined, if any.
    pub(crate) fn in_joined_pid_namespace<T>(
        &self,
        make: impl FnOnce() -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        let Some(target) = self.joined(LinuxNamespaceType::Pid) else { return make() };
        let own_path = std::path::Path::new("/proc/self/ns/pid");
        let own = File::open(own_path).context("open the namespace", own_path)?;
        move_into_link_name_space(target.as_fd(), None).call("setns to the pid namespace")?;
        let made = make();
        // Hooks are children of this process too; they belong into its own namespace.
        move_into_link_name_space(own.as_fd(), None).call("setns to the own pid namespace")?;
        made
    }

    /// In the process in between: its children are born in the pid namespace to be joined, if any.
    /// Before it enters the user namespace, below which that one need not be.
    pub(crate) fn enter_pid_for_children(&self) -> Result<(), RuntimeError> {
        match self.joined(LinuxNamespaceType::Pid) {
            Some(target) => {
                move_into_link_name_space(target.as_fd(), None).call("setns to the pid namespace")
            }
            None => Ok(()),
        }
    }

    /// In the process in between: enters the user namespace and makes the new ones below it.
    pub(crate) fn enter_user(&self) -> Result<(), RuntimeError> {
        if let Some(user) = self.joined(LinuxNamespaceType::User) {
            move_into_link_name_space(user.as_fd(), None).call("setns to the user namespace")?;
        }
        unshare(self.clone_flags())
    }

    /// In the container's process: joins what is to be joined, and makes the cgroup namespace.
    pub(crate) fn enter(&self) -> Result<(), RuntimeError> {
        if self.is_new(LinuxNamespaceType::Cgroup) {
            unshare(flag_of(LinuxNamespaceType::Cgroup))?;
        }
        for (kind, fd) in &self.join {
            if matches!(kind, LinuxNamespaceType::User | LinuxNamespaceType::Pid) {
                continue;
            }
            move_into_link_name_space(fd.as_fd(), None).call(joining(*kind))?;
        }
        Ok(())
    }
}

/// What fails when one cannot be joined.
const fn joining(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Network => "setns to the network namespace",
        LinuxNamespaceType::Ipc => "setns to the IPC namespace",
        LinuxNamespaceType::Uts => "setns to the UTS namespace",
        LinuxNamespaceType::Mount => "setns to the mount namespace",
        LinuxNamespaceType::Cgroup => "setns to the cgroup namespace",
        LinuxNamespaceType::Time => "setns to the time namespace",
        LinuxNamespaceType::Pid => "setns to the pid namespace",
        LinuxNamespaceType::User => "setns to the user namespace",
    }
}

fn unshare(flags: u64) -> Result<(), RuntimeError> {
    let flags = u32::try_from(flags).map_or(UnshareFlags::empty(), UnshareFlags::from_bits_retain);
    // SAFETY: CLONE_FILES is never among the flags, so descriptors keep their meaning.
    unsafe { rustix::thread::unshare_unsafe(flags) }.call("unshare")
}

/// The namespaces of a running process that are not ours, to be entered by its pidfd.
#[derive(Debug)]
pub(crate) struct Foreign {
    flags: u64,
}

impl Foreign {
    /// Compares the namespaces of `pid` with ours. Entering one's own user namespace is an error
    /// (EINVAL), hence the comparison and not simply all of them.
    pub(crate) fn of(pid: i32) -> Result<Self, RuntimeError> {
        let mut flags = 0;
        for (_, name, flag) in KINDS {
            let theirs = crate::process::namespace_path(pid, name);
            let ours = std::path::PathBuf::from(format!("/proc/self/ns/{name}"));
            let (theirs, ours) = match (std::fs::read_link(&theirs), std::fs::read_link(&ours)) {
                (Ok(theirs), Ok(ours)) => (theirs, ours),
                // A kernel without this kind of namespace.
                (Err(_), Err(e)) if e.kind() == io::ErrorKind::NotFound => continue,
                (Err(e), _) => return Err(RuntimeError::io("read", theirs, e)),
                (_, Err(e)) => return Err(RuntimeError::io("read", ours, e)),
            };
            if theirs != ours {
                flags |= flag;
            }
        }
        Ok(Self { flags })
    }

    /// Makes the next child be born in the target's pid namespace.
    pub(crate) fn enter_pid_for_children(&self, pidfd: &OwnedFd) -> Result<(), RuntimeError> {
        setns(pidfd, self.flags & flag_of(LinuxNamespaceType::Pid))
    }

    /// Enters all others at once; the kernel orders them.
    pub(crate) fn enter_rest(&self, pidfd: &OwnedFd) -> Result<(), RuntimeError> {
        setns(pidfd, self.flags & !flag_of(LinuxNamespaceType::Pid))
    }

    pub(crate) fn has_user(&self) -> bool {
        self.flags & flag_of(LinuxNamespaceType::User) != 0
    }
}

fn setns(pidfd: &OwnedFd, flags: u64) -> Result<(), RuntimeError> {
    if flags == 0 {
        return Ok(());
    }
    let flags = u32::try_from(flags)
        .map_or(ThreadNameSpaceType::empty(), ThreadNameSpaceType::from_bits_retain);
    move_into_thread_name_spaces(pidfd.as_fd(), flags).call("setns")
}

/// Writes a file of a process's directory in `/proc`, such as its id maps.
pub(crate) fn write_proc(pid: Pid, file: &str, content: &str) -> Result<(), RuntimeError> {
    let path = std::path::PathBuf::from(format!("/proc/{}/{file}", pid.as_raw_nonzero()));
    std::fs::write(&path, content).context("write", &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(namespaces: serde_json::Value) -> Result<Plan, RuntimeError> {
        let linux =
            serde_json::from_value(serde_json::json!({ "namespaces": namespaces })).unwrap();
        Plan::of(&linux)
    }

    #[test]
    fn the_cgroup_namespace_is_not_made_with_the_process() {
        let plan = plan(serde_json::json!([{ "type": "cgroup" }, { "type": "mount" }])).unwrap();
        assert!(plan.is_new(LinuxNamespaceType::Cgroup));
        assert_eq!(plan.clone_flags(), libc::CLONE_NEWNS as u64);
    }

    #[test]
    fn a_path_means_joining_and_comes_in_the_right_order() {
        let plan = plan(serde_json::json!([
            { "type": "network", "path": "/proc/self/ns/net" },
            { "type": "user", "path": "/proc/self/ns/user" },
        ]))
        .unwrap();
        assert!(plan.joins_user() && plan.has(LinuxNamespaceType::Network));
        assert!(!plan.is_new(LinuxNamespaceType::Network));
        assert_eq!(plan.join[0].0, LinuxNamespaceType::User);
    }

    #[test]
    fn a_kind_given_twice_is_refused() {
        assert!(plan(serde_json::json!([{ "type": "ipc" }, { "type": "ipc" }])).is_err());
    }

    #[test]
    fn our_own_process_has_nothing_foreign() {
        let pid = std::process::id().cast_signed();
        assert_eq!(Foreign::of(pid).unwrap().flags, 0);
    }
}
