//! `exec`: a further process in a running container.
//!
//! One clone: the child is born in the container's pid namespace, enters its cgroups, takes its
//! limits and enters all other namespaces in one call. Nothing of the bundle
//! is read again; what the process may do comes from its own specification and from the filter
//! that `create` stored.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::{LinuxPersonality, Process};

use crate::cgroup::Entry;
use crate::command::{self, Command};
use crate::confine;
use crate::create::{Dumpable, adjust_oom_score, limit, set_dumpable, write_pid_file};
use crate::error::{RuntimeError, SystemContext};
use crate::identity::Identity;
use crate::init::{become_root, close_on_exec_from, set_personality};
use crate::log::Log;
use crate::namespaces::Foreign;
use crate::process;
use crate::seccomp::Filter;
use crate::spawn::{self, Parent};
use crate::spec::{check_process, read_json};
use crate::state::{Record, StateDir, Status};
use crate::terminal::{self, ConsoleSocket, Role};

/// How long the process may take to its execution.
const EXEC_LIMIT: Duration = Duration::from_secs(60);
/// Longest failure text that is read back.
const FAILURE_MAX: u64 = 16 * 1024;

/// Where the process's specification comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A file with an OCI process object.
    File(PathBuf),
    /// The container's own process with these changes.
    Changes(Changes),
}

/// What the command line changes of the container's own process.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// The command.
    pub args: Vec<String>,
    /// The working directory.
    pub cwd: Option<PathBuf>,
    /// Further or other environment variables.
    pub env: Vec<String>,
    /// User and group.
    pub user: Option<(u32, Option<u32>)>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Further capabilities, `CAP_…`.
    pub capabilities: Vec<String>,
    /// No-new-privileges, when given.
    pub no_new_privileges: Option<bool>,
    /// The AppArmor profile.
    pub apparmor: Option<String>,
    /// Whether the process gets a terminal.
    pub terminal: Option<bool>,
}

/// The options of `exec`.
#[derive(Debug, Clone)]
pub struct Options {
    /// What to run.
    pub source: Source,
    /// Where its pid is written.
    pub pid_file: Option<PathBuf>,
    /// Who receives the terminal.
    pub console_socket: Option<PathBuf>,
    /// How many descriptors after the standard streams it gets.
    pub preserved_fds: u32,
    /// Whether a paused container is entered, where the process waits for the thaw.
    pub paused: Paused,
}

/// What to do with a paused container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Paused {
    /// Refuse it.
    #[default]
    Refuse,
    /// Enter it.
    Enter,
}

/// Runs a process and returns its pid once its program has been executed.
///
/// # Errors
/// [`RuntimeError::Status`] unless the container runs; [`RuntimeError::Process`] when the program
/// cannot be found or executed.
pub fn exec(root: &Path, id: &str, options: &Options, log: &Log) -> Result<i32, RuntimeError> {
    let directory = StateDir::open(root, id)?;
    let record = directory.load("exec")?;
    let status = directory.status(&record);
    let allowed =
        status == Status::Running || status == Status::Paused && options.paused == Paused::Enter;
    if !allowed {
        return Err(RuntimeError::Status { operation: "exec in", status });
    }
    let init = directory
        .init(&record)
        .ok_or(RuntimeError::Status { operation: "exec in", status: Status::Stopped })?;
    let process = process_of(&options.source, &record)?;
    check_process(&process)?;
    terminal::check(&process, options.console_socket.as_deref())?;
    let identity = Identity::of(&process)?;
    let filter = Filter::load(&directory.seccomp_file())?;
    let foreign = Foreign::of(record.pid)?;
    let console = options.console_socket.as_deref().map(ConsoleSocket::connect).transpose()?;
    let entry = record.cgroup.entry_beside(record.pid)?;
    let (failure_read, failure_write) = std::io::pipe().call("pipe")?;
    set_dumpable(Dumpable::No)?;
    foreign.enter_pid_for_children(&init)?;
    let entrant = Entrant {
        process: &process,
        identity: &identity,
        filter: filter.as_ref(),
        foreign: &foreign,
        init: &init,
        console,
        log,
        entry: &entry,
        failure: failure_write,
        preserved_fds: options.preserved_fds,
        personality: record.personality.as_ref(),
    };
    // The closure owns the writing end of the pipe; with it gone here, the end of file comes when
    // the process executes its program.
    let child = spawn::spawn(0, Parent::Us, entry.birthplace(), || entrant.run())?;
    let outcome = follow(failure_read).and_then(|()| {
        let path = options.pid_file.as_deref();
        path.map_or(Ok(()), |path| write_pid_file(path, child.pid))
    });
    match outcome {
        Ok(()) => Ok(child.pid),
        Err(error) => {
            let _ = process::send_signal(&child.pidfd, libc::SIGKILL);
            let _ = spawn::wait(child.pid);
            Err(error)
        }
    }
}

/// Waits until the pipe closes by the execution, or brings the reason why there was none.
fn follow(failure: std::io::PipeReader) -> Result<(), RuntimeError> {
    let mut ready = [rustix::event::PollFd::new(&failure, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: EXEC_LIMIT.as_secs().cast_signed(), tv_nsec: 0 };
    if rustix::event::poll(&mut ready, Some(&limit)).call("poll")? == 0 {
        let seconds = EXEC_LIMIT.as_secs();
        return Err(RuntimeError::Deadline { stage: "the execution of the process", seconds });
    }
    let mut text = String::new();
    failure.take(FAILURE_MAX).read_to_string(&mut text).call("reading the failure")?;
    if text.is_empty() { Ok(()) } else { Err(RuntimeError::Process(text)) }
}

fn process_of(source: &Source, record: &Record) -> Result<Process, RuntimeError> {
    match source {
        Source::File(path) => read_json(path),
        Source::Changes(changes) => changes.apply(&record.process),
    }
}

impl Changes {
    fn apply(&self, base: &Process) -> Result<Process, RuntimeError> {
        let mut process = base.clone();
        process.set_args(Some(self.args.clone()));
        process.set_terminal(Some(self.terminal.unwrap_or(false)));
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.clone());
        }
        let mut env = process.env().clone().unwrap_or_default();
        env.extend(self.env.iter().cloned());
        process.set_env(Some(env));
        if let Some((uid, gid)) = self.user {
            let mut user = process.user().clone();
            user.set_uid(uid);
            if let Some(gid) = gid {
                user.set_gid(gid);
            }
            process.set_user(user);
            // The home of another user is another one.
            let env = process.env().iter().flatten().filter(|e| !e.starts_with("HOME=")).cloned();
            let env = env.chain(self.env.iter().filter(|e| e.starts_with("HOME=")).cloned());
            let env = env.collect();
            process.set_env(Some(env));
        }
        if !self.groups.is_empty() {
            let mut user = process.user().clone();
            let mut groups = user.additional_gids().clone().unwrap_or_default();
            groups.extend(&self.groups);
            user.set_additional_gids(Some(groups));
            process.set_user(user);
        }
        self.add_capabilities(&mut process)?;
        if let Some(value) = self.no_new_privileges {
            process.set_no_new_privileges(Some(value));
        }
        if let Some(profile) = &self.apparmor {
            process.set_apparmor_profile(Some(profile.clone()));
        }
        Ok(process)
    }

    fn add_capabilities(&self, process: &mut Process) -> Result<(), RuntimeError> {
        let mut sets = process.capabilities().clone().unwrap_or_default();
        let names: Vec<_> = self.capabilities.iter().map(|name| serde_json::json!(name)).collect();
        let more: oci_spec::runtime::Capabilities =
            serde_json::from_value(serde_json::Value::Array(names))
                .map_err(|source| RuntimeError::library("unknown capability", source))?;
        let add = |set: &Option<_>| {
            let mut set: oci_spec::runtime::Capabilities = set.clone().unwrap_or_default();
            set.extend(more.iter().copied());
            Some(set)
        };
        sets.set_bounding(add(sets.bounding()));
        sets.set_permitted(add(sets.permitted()));
        sets.set_effective(add(sets.effective()));
        // What a further process inherits or gets ambient is never more than nothing.
        sets.set_inheritable(None);
        sets.set_ambient(None);
        process.set_capabilities(Some(sets));
        Ok(())
    }
}

/// The process on its way in.
struct Entrant<'a> {
    process: &'a Process,
    identity: &'a Identity,
    filter: Option<&'a Filter>,
    foreign: &'a Foreign,
    init: &'a OwnedFd,
    console: Option<ConsoleSocket>,
    log: &'a Log,
    entry: &'a Entry,
    failure: std::io::PipeWriter,
    preserved_fds: u32,
    personality: Option<&'a LinuxPersonality>,
}

impl Entrant<'_> {
    fn run(mut self) -> i32 {
        let error = match self.prepare() {
            Ok(command) => command.execute(),
            Err(error) => error,
        };
        let _ = self.failure.write_all(pouch_types::error::chain(&error).as_bytes());
        1
    }

    fn prepare(&mut self) -> Result<Command, RuntimeError> {
        // Opened before the host's /proc is out of reach; only the process itself may write it.
        let apparmor = self.apparmor()?;
        self.entry.enter()?;
        limit(None, self.process, self.log)?;
        if let Some(score) = self.process.oom_score_adj() {
            adjust_oom_score(None, score, self.log)?;
        }
        rustix::process::setsid().call("setsid")?;
        self.foreign.enter_rest(self.init)?;
        if self.foreign.has_user() {
            become_root()?;
        }
        let user = self.process.user();
        if let Some(socket) = self.console.take() {
            let size = self.process.console_size();
            terminal::set_up(&socket, Role::Exec, size.as_ref(), user.uid())?;
        }
        if let Some(personality) = self.personality {
            set_personality(personality.domain())?;
        }
        if let Some((mut file, profile)) = apparmor {
            file.write_all(format!("exec {profile}").as_bytes())
                .call("setting the apparmor profile")?;
        }
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(user.umask().unwrap_or(0o022)));
        let cwd = self.process.cwd();
        let entered = confine::enter_directory(cwd);
        confine::give_pipes_to(self.identity.uid);
        self.identity.assume(self.filter)?;
        match entered {
            Err(RuntimeError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                confine::enter_directory(cwd)?;
            }
            other => other?,
        }
        let command = Command::find(self.process, &[])?;
        close_on_exec_from(3 + self.preserved_fds)?;
        command::reset_signals()?;
        self.identity.seal(self.filter)?;
        Ok(command)
    }

    fn apparmor(&self) -> Result<Option<(std::fs::File, String)>, RuntimeError> {
        let Some(profile) = self.process.apparmor_profile().as_deref().filter(|p| !p.is_empty())
        else {
            return Ok(None);
        };
        let open = |path: &str| std::fs::File::options().write(true).open(path);
        let file = open("/proc/self/attr/apparmor/exec")
            .or_else(|_| open("/proc/self/attr/exec"))
            .call("opening the apparmor attribute")?;
        Ok(Some((file, profile.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn base() -> Process {
        serde_json::from_value(json!({
            "cwd": "/work", "args": ["init"], "terminal": true,
            "env": ["A=1", "HOME=/root"],
            "user": { "uid": 0, "gid": 0, "additionalGids": [5] },
            "capabilities": { "bounding": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"],
                              "effective": ["CAP_CHOWN"], "inheritable": ["CAP_CHOWN"] },
        }))
        .unwrap()
    }

    #[test]
    fn changes_replace_the_command_and_keep_the_rest() {
        let changes =
            Changes { args: vec!["ls".into()], env: vec!["B=2".into()], ..Changes::default() };
        let process = changes.apply(&base()).unwrap();
        assert_eq!(process.args().as_deref().unwrap(), ["ls"]);
        assert_eq!(process.cwd(), Path::new("/work"));
        assert_eq!(process.terminal(), Some(false));
        assert_eq!(process.env().as_deref().unwrap(), ["A=1", "HOME=/root", "B=2"]);
    }

    #[test]
    fn capabilities_are_added_and_never_inheritable() {
        let changes = Changes {
            args: vec!["ls".into()],
            capabilities: vec!["CAP_KILL".into()],
            ..Changes::default()
        };
        let process = changes.apply(&base()).unwrap();
        let sets = process.capabilities().as_ref().unwrap();
        assert_eq!(sets.effective().as_ref().unwrap().len(), 2);
        assert!(sets.inheritable().is_none() && sets.ambient().is_none());
        let unknown = Changes { capabilities: vec!["CAP_NOPE".into()], ..changes };
        assert!(unknown.apply(&base()).is_err());
    }

    #[test]
    fn another_user_has_another_home() {
        let changes =
            Changes { args: vec!["ls".into()], user: Some((7, Some(8))), ..Changes::default() };
        let process = changes.apply(&base()).unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (7, 8));
        assert_eq!(process.env().as_deref().unwrap(), ["A=1"]);
    }
}
