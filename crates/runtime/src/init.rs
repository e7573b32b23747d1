//! The first process of a container, from its birth in new namespaces to its program.
//!
//! It runs on a copy of the command's memory. It says everything that can fail over the channel
//! before it reports ready, so that `create` fails and not `start`; then it waits on the start
//! socket, and what fails after that (the execution itself) goes to `start` over its connection.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};

use oci_spec::runtime::{LinuxNamespaceType, LinuxPersonalityDomain};
use rustix::thread::{Gid, Uid};

use crate::cgroup::Entry;
use crate::channel::{Channel, Message};
use crate::command::{self, Command};
use crate::confine;
use crate::error::{RuntimeError, SystemContext};
use crate::hooks::{self, State};
use crate::identity::Identity;
use crate::idmap::Copies;
use crate::namespaces::Plan;
use crate::rootfs::{self, Nodes, Root};
use crate::seccomp::Filter;
use crate::spec::Bundle;
use crate::terminal::{self, ConsoleSocket, Role};

/// How the new root becomes the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RootSwitch {
    /// `pivot_root(2)`.
    #[default]
    Pivot,
    /// Moving the mount, for a root on an initial ramdisk, where pivoting is impossible.
    Move,
}

/// What becomes of the session keyring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keyring {
    /// A new one, so that the host's keys stay the host's.
    #[default]
    New,
    /// The runtime's own.
    Inherited,
}

/// Everything that the process needs, gathered before it is made.
#[derive(Debug)]
pub(crate) struct Init<'a> {
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a Bundle,
    pub(crate) plan: &'a Plan,
    pub(crate) identity: &'a Identity,
    pub(crate) filter: Option<&'a Filter>,
    pub(crate) copies: &'a Copies,
    pub(crate) console: Option<ConsoleSocket>,
    pub(crate) listener: &'a UnixListener,
    pub(crate) channel: &'a Channel,
    pub(crate) entry: &'a Entry,
    pub(crate) root_switch: RootSwitch,
    pub(crate) keyring: Keyring,
    pub(crate) preserved_fds: u32,
    pub(crate) extra_env: &'a [String],
}

impl Init<'_> {
    /// Runs to the execution of the program; returns the exit code of a failure.
    pub(crate) fn run(mut self) -> i32 {
        let command = match self.prepare() {
            Ok(command) => command,
            Err(error) => {
                let _ = self.channel.send(&Message::Failed(pouch_types::error::chain(&error)));
                return 1;
            }
        };
        let Ok((mut starter, _)) = self.listener.accept() else { return 1 };
        let error = match self.finish(&mut starter) {
            Ok(()) => command.execute(),
            Err(error) => error,
        };
        let _ = starter.write_all(pouch_types::error::chain(&error).as_bytes());
        1
    }

    fn prepare(&mut self) -> Result<Command, RuntimeError> {
        self.entry.enter()?;
        match self.channel.receive().call("waiting for the runtime")? {
            Some(Message::Go) => {}
            _ => return Err(RuntimeError::Invalid(String::from("the runtime went away"))),
        }
        rustix::process::setsid().call("setsid")?;
        if self.plan.has(LinuxNamespaceType::User) {
            become_root()?;
        }
        self.plan.enter()?;
        self.set_names()?;
        if self.plan.is_new(LinuxNamespaceType::Network) {
            bring_up_loopback();
        }
        if self.keyring == Keyring::New {
            join_new_keyring(self.id);
        }
        let root = self.make_root()?;
        match self.root_switch {
            RootSwitch::Pivot => root.pivot()?,
            RootSwitch::Move => root.move_to_top()?,
        }
        let process = self.bundle.process()?;
        let spec = &self.bundle.spec;
        let linux = self.bundle.linux()?;
        rootfs::set_propagation(linux)?;
        confine::reopen_null_streams()?;
        confine::set_sysctls(linux.sysctl().iter().flatten())?;
        if let Some(socket) = self.console.take() {
            let size = process.console_size();
            terminal::set_up(&socket, Role::Init, size.as_ref(), process.user().uid())?;
        }
        if let Some(personality) = linux.personality() {
            set_personality(personality.domain())?;
        }
        if let Some(profile) = process.apparmor_profile().as_deref().filter(|p| !p.is_empty()) {
            confine::set_apparmor_profile(profile)?;
        }
        let umask = process.user().umask().unwrap_or(0o022);
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
        // The directory may have to be made, so this precedes the read-only root.
        let entered = confine::enter_or_make_directory(process.cwd());
        if spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false) {
            confine::make_root_readonly()?;
        }
        confine::make_readonly(linux.readonly_paths().as_deref().unwrap_or_default())?;
        confine::mask(linux.masked_paths().as_deref().unwrap_or_default())?;
        self.become_user(entered)?;
        let command = Command::find(process, self.extra_env)?;
        close_on_exec_from(3 + self.preserved_fds)?;
        command::reset_signals()?;
        self.channel.send(&Message::Ready).call("reporting ready")?;
        Ok(command)
    }

    /// Between the start and the execution.
    fn finish(&self, starter: &mut UnixStream) -> Result<(), RuntimeError> {
        // One byte says go; a starter that dies before it has said so starts nothing.
        let mut byte = [0];
        starter.read_exact(&mut byte).call("waiting for start")?;
        if let Some(hooks) = self.bundle.spec.hooks() {
            let env = self.bundle.process()?.env().as_deref().unwrap_or_default();
            hooks::run(hooks.start_container().as_ref(), &self.hook_state(), env)?;
        }
        self.identity.seal(self.filter)
    }

    /// Directories that only the user may enter are entered after the change of user, and those
    /// that only root may enter before it.
    fn become_user(&self, entered: Result<(), RuntimeError>) -> Result<(), RuntimeError> {
        confine::give_pipes_to(self.identity.uid);
        self.identity.assume(self.filter)?;
        match entered {
            Err(RuntimeError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                confine::enter_or_make_directory(self.bundle.process()?.cwd())
            }
            other => other,
        }
    }

    fn set_names(&self) -> Result<(), RuntimeError> {
        if !self.plan.is_new(LinuxNamespaceType::Uts) {
            return Ok(());
        }
        if let Some(name) = self.bundle.spec.hostname() {
            rustix::system::sethostname(name.as_bytes()).call("sethostname")?;
        }
        if let Some(name) = self.bundle.spec.domainname() {
            rustix::system::setdomainname(name.as_bytes()).call("setdomainname")?;
        }
        Ok(())
    }

    /// Mounts, devices and links below the root file system, and the hooks that see it there.
    fn make_root(&self) -> Result<Root, RuntimeError> {
        let bound = self.plan.has(LinuxNamespaceType::User) || in_user_namespace();
        let nodes = if bound { Nodes::Bound } else { Nodes::Made };
        let Bundle { spec, rootfs, .. } = self.bundle;
        let root = Root::prepare(spec, rootfs, nodes, self.entry.view(), self.copies)?;
        let Some(hooks) = spec.hooks() else { return Ok(root) };
        if hooks.create_runtime().is_some() || hooks.prestart().is_some() {
            self.channel.send(&Message::HooksRequested).call("asking for the hooks")?;
            match self.channel.receive().call("waiting for the hooks")? {
                Some(Message::HooksDone) => {}
                _ => return Err(RuntimeError::Invalid(String::from("the hooks did not finish"))),
            }
        }
        hooks::run(hooks.create_container().as_ref(), &self.hook_state(), &[])?;
        Ok(root)
    }

    fn hook_state(&self) -> State<'_> {
        State::creating(self.id, self.bundle, std::process::id().cast_signed())
    }
}

/// Root of the user namespace, without the host's groups.
pub(crate) fn become_root() -> Result<(), RuntimeError> {
    // Denied where the namespace forbids it, and then there is nothing copies to drop.
    let _ = rustix::thread::set_thread_groups(&[]);
    let gid = Gid::ROOT;
    rustix::thread::set_thread_res_gid(gid, gid, gid).call("setresgid")?;
    let uid = Uid::ROOT;
    rustix::thread::set_thread_res_uid(uid, uid, uid).call("setresuid")
}

/// Whether we ourselves run in a user namespace, where no device node can be made.
fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        map.split_ascii_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"]
    })
}

pub(crate) fn set_personality(domain: LinuxPersonalityDomain) -> Result<(), RuntimeError> {
    let persona = match domain {
        // PER_LINUX and PER_LINUX32 of linux/personality.h.
        LinuxPersonalityDomain::PerLinux => 0x0000,
        LinuxPersonalityDomain::PerLinux32 => 0x0008,
    };
    // SAFETY: takes a number.
    match unsafe { libc::personality(persona) } {
        -1 => Err(std::io::Error::last_os_error()).call("personality"),
        _ => Ok(()),
    }
}

/// A new network namespace has a loopback device that is down; every runtime raises it. Without
/// the right to, the container has none, as it would without us.
fn bring_up_loopback() {
    /// `IFF_UP | IFF_RUNNING`, in the width that the request has.
    const UP: libc::c_short = 0x41;
    let Ok(socket) = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    ) else {
        return;
    };
    // SAFETY: a request of zeros is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = UP;
    // SAFETY: the request names a device and holds the flags, as this ioctl reads them.
    unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
}

/// Without keyrings in the kernel, or over the quota of keys, the old one stays.
fn join_new_keyring(id: &str) {
    let Ok(name) = std::ffi::CString::new(format!("_ses.{id}")) else { return };
    // SAFETY: the name is a C string.
    unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr());
    }
}

/// Marks every descriptor from `first` on, so that the program sees none of them; descriptors
/// below stay as they are given.
pub(crate) fn close_on_exec_from(first: u32) -> Result<(), RuntimeError> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: changes a flag of descriptors only.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()).call("close_range") }
}

/// Descriptors that systemd passed on, and the environment that announces them inside.
pub(crate) fn listen_fds() -> (u32, Vec<String>) {
    let count = std::env::var("LISTEN_FDS").ok().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    if count == 0 {
        return (0, Vec::new());
    }
    (count, vec![format!("LISTEN_FDS={count}"), String::from("LISTEN_PID=1")])
}
