//! `create`: everything up to a process that waits for `start`.
//!
//! The command's side of it: claim the id, make the process in its namespaces, put it into its
//! cgroup with its limits, let it go on, and write down what later commands need. Whatever fails
//! is undone in reverse.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, PosixRlimitType};
use rustix::process::{Pid, Resource, Rlimit};

use crate::cgroup::{self, Driver, Entry, Placement};
use crate::channel::{self, Channel, Message};
use crate::error::{IoContext, RuntimeError, SystemContext};
use crate::hooks;
use crate::identity::Identity;
use crate::idmap::Copies;
use crate::init::{self, Init, Keyring, RootSwitch};
use crate::log::Log;
use crate::namespaces::{Plan, write_proc};
use crate::process::{self, Stat};
use crate::seccomp::Filter;
use crate::spawn::{self, Child, Parent};
use crate::spec::Bundle;
use crate::state::{OCI_VERSION, Record, StateDir};
use crate::terminal::{self, ConsoleSocket};

/// The longest silence of the process: mounts of network file systems and hooks take their time.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// The options of `create` and `run`.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The bundle directory.
    pub bundle: PathBuf,
    /// Where the pid of the init process is written.
    pub pid_file: Option<PathBuf>,
    /// Who receives the terminal.
    pub console_socket: Option<PathBuf>,
    /// How the root is changed.
    pub root_switch: RootSwitch,
    /// What becomes of the session keyring.
    pub keyring: Keyring,
    /// How many descriptors after the standard streams the program gets.
    pub preserved_fds: u32,
    /// Who makes the cgroup.
    pub driver: Driver,
}

/// Creates a container and returns the pid of its init process.
///
/// # Errors
/// Whatever failed first; nothing of the container is left then.
pub fn create(root: &Path, id: &str, options: &Options, log: &Log) -> Result<i32, RuntimeError> {
    let bundle = Bundle::load(&options.bundle)?;
    let directory = StateDir::create(root, id)?;
    let mut undo = Undo { directory: &directory, child: None, placement: None };
    let created =
        Creation { root, id, options, log, bundle: &bundle, directory: &directory }.run(&mut undo);
    if created.is_err() {
        undo.run(log);
    }
    created
}

/// What has been made so far.
struct Undo<'a> {
    directory: &'a StateDir,
    child: Option<Child>,
    placement: Option<Placement>,
}

impl Undo<'_> {
    fn run(self, log: &Log) {
        if let Some(child) = &self.child {
            let _ = process::send_signal(&child.pidfd, libc::SIGKILL);
            let _ = spawn::wait(child.pid);
        }
        let removed = self.placement.map_or(Ok(()), |placement| placement.remove());
        if let Err(error) = removed.and_then(|()| self.directory.remove()) {
            log.warn(&format!("clean-up: {}", pouch_types::error::chain(&error)));
        }
    }
}

struct Creation<'a> {
    root: &'a Path,
    id: &'a str,
    options: &'a Options,
    log: &'a Log,
    bundle: &'a Bundle,
    directory: &'a StateDir,
}

impl Creation<'_> {
    fn run(&self, undo: &mut Undo<'_>) -> Result<i32, RuntimeError> {
        let process = self.bundle.process()?;
        let linux = self.bundle.linux()?;
        terminal::check(process, self.options.console_socket.as_deref())?;
        let plan = Plan::of(linux)?;
        let identity = Identity::of(process)?;
        let filter = match linux.seccomp() {
            Some(profile) => {
                let filter = Filter::of(profile, self.root)?;
                filter.save(&self.directory.seccomp_file())?;
                Some(filter)
            }
            None => None,
        };
        let console =
            self.options.console_socket.as_deref().map(ConsoleSocket::connect).transpose()?;
        let listener = self.listen()?;
        let entry = self.make_cgroup(undo)?;
        // Before the process, which takes them with it.
        let copies = Copies::of(&self.bundle.spec, &self.bundle.rootfs, &plan)?;
        let (ours, theirs) = channel::pair()?;
        let (listen_fds, extra_env) = init::listen_fds();
        let child = {
            // Non-dumpable before it exists: nobody in a joined pid namespace may look into a
            // process that still holds the host's descriptors.
            set_dumpable(Dumpable::No)?;
            let init = Init {
                id: self.id,
                bundle: self.bundle,
                plan: &plan,
                identity: &identity,
                filter: filter.as_ref(),
                copies: &copies,
                console,
                listener: &listener,
                channel: &theirs,
                entry: &entry,
                root_switch: self.options.root_switch,
                keyring: self.options.keyring,
                preserved_fds: self.options.preserved_fds.saturating_add(listen_fds),
                extra_env: &extra_env,
            };
            make(&plan, init, &ours)?
        };
        drop(theirs);
        let pid = child.pid;
        undo.child = Some(child);
        ours.set_deadline(SILENCE_MAX)?;
        self.furnish(pid, &plan, undo)?;
        ours.send(&Message::Go).call("telling the process to go on")?;
        self.follow(pid, &ours)?;
        self.record(pid, undo.placement.clone().unwrap_or_default())?;
        Ok(pid)
    }

    /// The socket that `start` will connect to.
    fn listen(&self) -> Result<UnixListener, RuntimeError> {
        let path = self.directory.start_socket();
        // By descriptor: the whole path may be too long for a socket address.
        let handle = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        let directory = rustix::fs::open(self.directory.path(), handle, rustix::fs::Mode::empty())
            .context("open", self.directory.path())?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let short = format!("/proc/self/fd/{}/{name}", std::os::fd::AsRawFd::as_raw_fd(&directory));
        UnixListener::bind(short).context("bind", &path)
    }

    /// The cgroup, before the process; a scope of systemd cannot be without one and comes after.
    fn make_cgroup(&self, undo: &mut Undo<'_>) -> Result<Entry, RuntimeError> {
        if self.options.driver == Driver::Systemd {
            return Ok(Entry::default());
        }
        let linux = self.bundle.linux()?;
        let path = linux.cgroups_path().as_deref();
        let placement = cgroup::create(path, self.id, linux.resources().as_ref())?;
        let entry = self.directory.save_placement(&placement).and_then(|()| placement.entry());
        undo.placement = Some(placement);
        entry
    }

    /// What only the outside can give the process.
    fn furnish(&self, pid: i32, plan: &Plan, undo: &mut Undo<'_>) -> Result<(), RuntimeError> {
        let linux = self.bundle.linux()?;
        let process = self.bundle.process()?;
        let raw =
            Pid::from_raw(pid).ok_or_else(|| RuntimeError::Invalid(String::from("no pid")))?;
        if self.options.driver == Driver::Systemd {
            let path = linux.cgroups_path().as_deref();
            let resources = linux.resources().as_ref();
            let placement = cgroup::create_scope(path, self.id, pid, resources)?;
            let saved = self.directory.save_placement(&placement);
            undo.placement = Some(placement);
            saved?;
        }
        if plan.is_new(LinuxNamespaceType::User) {
            write_proc(raw, "uid_map", &map_text(linux.uid_mappings().as_deref())?)?;
            write_proc(raw, "gid_map", &map_text(linux.gid_mappings().as_deref())?)?;
        }
        limit(Some(raw), process, self.log)?;
        if let Some(score) = process.oom_score_adj() {
            adjust_oom_score(Some(raw), score, self.log)?;
        }
        Ok(())
    }

    /// Answers the process until it is ready.
    fn follow(&self, pid: i32, channel: &Channel) -> Result<(), RuntimeError> {
        loop {
            match channel.receive() {
                Ok(Some(Message::Ready)) => return Ok(()),
                Ok(Some(Message::HooksRequested)) => {
                    self.run_hooks(pid)?;
                    channel.send(&Message::HooksDone).call("reporting the hooks done")?;
                }
                Ok(Some(Message::Failed(text))) => return Err(RuntimeError::Process(text)),
                Ok(Some(other)) => {
                    return Err(RuntimeError::Process(format!("unexpected message {other:?}")));
                }
                Ok(None) => {
                    return Err(RuntimeError::Process(String::from(
                        "it ended before it was ready",
                    )));
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Err(RuntimeError::Deadline {
                        stage: "the container's init process",
                        seconds: SILENCE_MAX.as_secs(),
                    });
                }
                Err(error) => return Err(error).call("waiting for the process"),
            }
        }
    }

    fn run_hooks(&self, pid: i32) -> Result<(), RuntimeError> {
        let Some(list) = self.bundle.spec.hooks() else { return Ok(()) };
        let state = hooks::State::creating(self.id, self.bundle, pid);
        hooks::run(list.prestart().as_ref(), &state, &[])?;
        hooks::run(list.create_runtime().as_ref(), &state, &[])
    }

    fn record(&self, pid: i32, cgroup: Placement) -> Result<(), RuntimeError> {
        let stat = Stat::read(pid).ok_or_else(|| {
            RuntimeError::Process(String::from("it ended before it was recorded"))
        })?;
        if let Some(path) = &self.options.pid_file {
            write_pid_file(path, pid)?;
        }
        let annotations: BTreeMap<_, _> = self
            .bundle
            .spec
            .annotations()
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        self.directory.save(&Record {
            oci_version: OCI_VERSION.to_owned(),
            id: self.id.to_owned(),
            pid,
            start_time: stat.start_time,
            bundle: self.bundle.path.clone(),
            rootfs: self.bundle.rootfs.clone(),
            created: jiff::Timestamp::now().to_string(),
            owner: rustix::process::geteuid().as_raw(),
            annotations,
            cgroup,
            hooks: self.bundle.spec.hooks().clone(),
            process: self.bundle.process()?.clone(),
            personality: self.bundle.linux()?.personality().clone(),
        })
    }
}

/// Makes the init process: at once, or through a process in between when an existing user
/// namespace has to be entered first.
fn make(plan: &Plan, init: Init<'_>, ours: &Channel) -> Result<Child, RuntimeError> {
    if !plan.joins_user() {
        return plan.in_joined_pid_namespace(|| {
            spawn::spawn(plan.clone_flags(), Parent::Us, init.entry.birthplace(), || {
                ours.close_copy();
                init.run()
            })
        });
    }
    let between = spawn::spawn(0, Parent::Us, init.entry.birthplace(), || {
        ours.close_copy();
        let channel = init.channel;
        // It stays in our pid namespace itself, so the pid that it tells is one of ours.
        let made = plan
            .enter_pid_for_children()
            .and_then(|()| plan.enter_user())
            .and_then(|()| spawn::spawn(0, Parent::OurParent, None, || init.run()));
        let message = match made {
            Ok(child) => Message::Successor(child.pid),
            Err(error) => Message::Failed(pouch_types::error::chain(&error)),
        };
        i32::from(channel.send(&message).is_err())
    })?;
    ours.set_deadline(SILENCE_MAX)?;
    let message = ours.receive();
    spawn::wait(between.pid)?;
    match message.call("waiting for the process")? {
        Some(Message::Successor(pid)) => {
            let raw = Pid::from_raw(pid)
                .ok_or_else(|| RuntimeError::Process(String::from("it has no pid")))?;
            let pidfd = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty())
                .call("pidfd_open")?;
            Ok(Child { pid, pidfd })
        }
        Some(Message::Failed(text)) => Err(RuntimeError::Process(text)),
        _ => Err(RuntimeError::Process(String::from("it ended before it was made"))),
    }
}

/// Whether others of the same user may look into this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dumpable {
    No,
}

pub(crate) fn set_dumpable(Dumpable::No: Dumpable) -> Result<(), RuntimeError> {
    let behavior = rustix::process::DumpableBehavior::NotDumpable;
    rustix::process::set_dumpable_behavior(behavior).call("prctl(PR_SET_DUMPABLE)")
}

pub(crate) fn map_text(mappings: Option<&[LinuxIdMapping]>) -> Result<String, RuntimeError> {
    let mappings = mappings.unwrap_or_default();
    if mappings.is_empty() {
        return Err(RuntimeError::Invalid(String::from("a new user namespace needs id mappings")));
    }
    Ok(mappings
        .iter()
        .map(|m| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size()))
        .collect())
}

/// Replaces the file at once: a reader that waits for it must not see half a number.
pub(crate) fn write_pid_file(path: &Path, pid: i32) -> Result<(), RuntimeError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    std::fs::write(&temporary, pid.to_string()).context("write", &temporary)?;
    std::fs::rename(&temporary, path).context("write", path)
}

/// Sets the resource limits of a process, our own without a pid. Raising a hard limit takes CAP_SYS_RESOURCE; without it
/// the limit is what the runtime itself has, and the log says so.
pub(crate) fn limit(
    pid: Option<Pid>,
    process: &oci_spec::runtime::Process,
    log: &Log,
) -> Result<(), RuntimeError> {
    for wanted in process.rlimits().iter().flatten() {
        let resource = resource_of(wanted.typ());
        let exact = Rlimit { current: finite(wanted.soft()), maximum: finite(wanted.hard()) };
        match rustix::process::prlimit(pid, resource, exact) {
            Ok(_) => {}
            Err(rustix::io::Errno::PERM) => {
                let own = rustix::process::getrlimit(resource);
                let cut = |value: Option<u64>| match (value, own.maximum) {
                    (Some(value), Some(maximum)) => Some(value.min(maximum)),
                    (None, maximum) => maximum,
                    (value, None) => value,
                };
                let possible = Rlimit {
                    current: cut(finite(wanted.soft())),
                    maximum: cut(finite(wanted.hard())),
                };
                rustix::process::prlimit(pid, resource, possible).call("prlimit")?;
                log.warn(&format!(
                    "{:?} is limited to {:?} instead of {}",
                    wanted.typ(),
                    possible.maximum,
                    wanted.hard()
                ));
            }
            Err(error) => return Err(error).call("prlimit"),
        }
    }
    Ok(())
}

/// The largest number is "no limit", to the kernel and in specifications.
fn finite(value: u64) -> Option<u64> {
    (value != u64::MAX).then_some(value)
}

fn resource_of(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}

/// Lowering the score takes CAP_SYS_RESOURCE; without it the inherited score stays.
pub(crate) fn adjust_oom_score(
    pid: Option<Pid>,
    score: i32,
    log: &Log,
) -> Result<(), RuntimeError> {
    let name = pid.map_or_else(|| String::from("self"), |p| p.as_raw_nonzero().to_string());
    let path = PathBuf::from(format!("/proc/{name}/oom_score_adj"));
    match std::fs::write(&path, score.to_string()) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            log.warn(&format!("oom_score_adj {score} is not permitted and left as inherited"));
            Ok(())
        }
        other => other.context("write", &path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_have_one_line_each_and_none_is_an_error() {
        let mapping: LinuxIdMapping = serde_json::from_value(
            serde_json::json!({ "containerID": 0, "hostID": 100_000, "size": 65_536 }),
        )
        .unwrap();
        assert_eq!(map_text(Some(&[mapping])).unwrap(), "0 100000 65536\n");
        assert!(map_text(None).is_err());
    }

    #[test]
    fn the_largest_number_is_no_limit() {
        assert_eq!(finite(u64::MAX), None);
        assert_eq!(finite(0), Some(0));
    }

    #[test]
    fn a_pid_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        write_pid_file(&path, 123).unwrap();
        write_pid_file(&path, 4).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "4");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
