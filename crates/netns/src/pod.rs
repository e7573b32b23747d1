//! The namespaces that the containers of a pod share, kept without a process.
//!
//! All of them are made at once, on a thread that ends afterwards, and pinned to files of one
//! directory: `net`, `ipc`, `uts`, and `user` above them. The namespace of processes is made by its
//! first process and pinned beside them later, as `pid` ([`pin_pid`]). Beside them, `shm` is the shared memory
//! that belongs to the IPC namespace: a tmpfs that each container gets as its `/dev/shm`. The
//! directory belongs below what a reboot clears. What a crash left of an unfinished one is removed
//! before it is made again; [`remove_pod`] takes any state of it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use rustix::thread::UnshareFlags;

use crate::{Ipv6, NetnsError, loopback, pin, thread, user};

/// Directories of containers in `shm` have nothing above them.
const SHM: &str = "shm";
/// Pin of the namespace of processes.
const PID: &str = "pid";

/// One piece of a mapping: `size` ids from `container` on are those from `host` on outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    /// First id inside.
    pub container: u32,
    /// First id outside.
    pub host: u32,
    /// How many.
    pub size: u32,
}

/// The ids of a user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMaps {
    /// Of users. Inside, 0 has to be among them.
    pub uids: Vec<IdMap>,
    /// Of groups, likewise.
    pub gids: Vec<IdMap>,
}

/// What a pod gets for itself. What is `None` is the host's.
#[derive(Debug, Clone, Default)]
pub struct Pod {
    /// A network, and whether interfaces that are made in it speak IPv6.
    pub net: Option<Ipv6>,
    /// System V IPC and POSIX message queues, and so many bytes of shared memory (Kubernetes: 64
    /// MiB).
    pub ipc: Option<u64>,
    /// A host name.
    pub uts: Option<String>,
    /// Kernel parameters, each of one of the namespaces above; dots or slashes separate.
    pub sysctls: BTreeMap<String, String>,
    /// Ids; the namespaces above belong to this one.
    pub user: Option<IdMaps>,
}

/// Where the parts of a pod are pinned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pinned {
    /// For `linux.namespaces[].path`.
    pub net: Option<PathBuf>,
    /// As `net`.
    pub ipc: Option<PathBuf>,
    /// As `net`.
    pub uts: Option<PathBuf>,
    /// As `net`.
    pub user: Option<PathBuf>,
    /// As `net`, once it was added by [`pin_pid`].
    pub pid: Option<PathBuf>,
    /// To be bound to `/dev/shm`.
    pub shm: Option<PathBuf>,
}

/// The kinds that can be pinned: file name, `/proc` name, flag.
pub(crate) const KINDS: [(&str, UnshareFlags); 3] =
    [("net", UnshareFlags::NEWNET), ("ipc", UnshareFlags::NEWIPC), ("uts", UnshareFlags::NEWUTS)];

impl Pod {
    /// Makes it all in `dir`, which is made with mode 0700. What an unfinished attempt left there
    /// is removed first. On failure nothing is left behind.
    ///
    /// Blocks for the kernel's time, a millisecond or so.
    ///
    /// # Errors
    /// [`NetnsError::Sysctl`] for a parameter of a namespace that the pod does not have;
    /// [`NetnsError`] of the step.
    pub fn create(&self, dir: &Path) -> Result<Pinned, NetnsError> {
        let (pod, dir) = (self.clone(), dir.to_owned());
        thread::run(move || pod.make(&dir))?
    }

    /// As [`Pod::create`]. It is made to the end even when the future is dropped.
    ///
    /// # Errors
    /// As [`Pod::create`].
    pub async fn create_async(&self, dir: &Path) -> Result<Pinned, NetnsError> {
        let (pod, dir) = (self.clone(), dir.to_owned());
        thread::run_async(move || pod.make(&dir)).await?
    }

    /// Runs on a thread of its own: it leaves that thread in the new namespaces.
    fn make(&self, dir: &Path) -> Result<Pinned, NetnsError> {
        let sysctls = self.sysctls()?;
        remove_pod(dir)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(NetnsError::io("make the directory of", dir))?;
        let made = self.make_in(dir, &sysctls);
        if made.is_err() {
            // The first error is the one to tell.
            let _ = remove_pod(dir);
        }
        made
    }

    fn make_in(&self, dir: &Path, sysctls: &[Sysctl]) -> Result<Pinned, NetnsError> {
        let pinned = self.paths(dir);
        // A mount in the host's namespace, which this thread does not leave.
        if let (Some(size), Some(shm)) = (self.ipc, &pinned.shm) {
            mount_shm(shm, size)?;
        }
        let flags = self.flags();
        match &self.user {
            None => {
                unshare(flags, dir)?;
                for (name, flag) in KINDS {
                    if flags.contains(flag) {
                        let path = dir.join(name);
                        pin::touch(&path)?;
                        mount_bind(format!("/proc/thread-self/ns/{name}"), &path)
                            .map_err(NetnsError::io("pin", &path))?;
                    }
                }
                self.configure(dir)?;
                sysctls.iter().try_for_each(Sysctl::write)?;
            }
            Some(maps) => {
                user::make(dir, flags, maps, sysctls)?;
                // Who is root outside may do in them what their own root may.
                for (name, flag) in KINDS {
                    if flags.contains(flag) {
                        enter(&dir.join(name))?;
                    }
                }
                self.configure(dir)?;
            }
        }
        Ok(pinned)
    }

    /// In the namespaces.
    fn configure(&self, dir: &Path) -> Result<(), NetnsError> {
        if let Some(name) = &self.uts {
            rustix::system::sethostname(name.as_bytes())
                .map_err(NetnsError::io("set the host name in", dir))?;
        }
        if let Some(ipv6) = self.net {
            pin::sysctls(ipv6).map_err(NetnsError::io("configure", dir))?;
            loopback::up().map_err(NetnsError::io("bring up lo in", dir))?;
        }
        Ok(())
    }

    fn flags(&self) -> UnshareFlags {
        let wanted = [self.net.is_some(), self.ipc.is_some(), self.uts.is_some()];
        let wanted = KINDS.iter().zip(wanted).filter(|(_, wanted)| *wanted);
        wanted.fold(UnshareFlags::empty(), |flags, ((_, flag), _)| flags | *flag)
    }

    fn paths(&self, dir: &Path) -> Pinned {
        Pinned {
            net: self.net.map(|_| dir.join("net")),
            ipc: self.ipc.map(|_| dir.join("ipc")),
            uts: self.uts.as_ref().map(|_| dir.join("uts")),
            user: self.user.as_ref().map(|_| dir.join(user::NAME)),
            pid: None,
            shm: self.ipc.map(|_| dir.join(SHM)),
        }
    }

    fn sysctls(&self) -> Result<Vec<Sysctl>, NetnsError> {
        self.sysctls
            .iter()
            .map(|(name, value)| {
                let sysctl = Sysctl::parse(name, value)?;
                let own = match sysctl.kind {
                    "net" => self.net.is_some(),
                    "ipc" => self.ipc.is_some(),
                    _ => self.uts.is_some(),
                };
                if own {
                    Ok(sysctl)
                } else {
                    let detail = format!("the pod has no {} namespace of its own", sysctl.kind);
                    Err(NetnsError::Sysctl { name: name.clone(), detail })
                }
            })
            .collect()
    }
}

impl Pinned {
    /// What is pinned in `dir`, as by a daemon that has ended.
    ///
    /// # Errors
    /// [`NetnsError::NotFound`] without the directory; [`NetnsError::NotANamespace`] when a file
    /// is there and what was pinned to it is not, as after a reboot.
    pub fn find(dir: &Path) -> Result<Self, NetnsError> {
        if !dir.is_dir() {
            return Err(NetnsError::NotFound { path: dir.to_owned() });
        }
        let found = |name: &str| {
            let path = dir.join(name);
            if !path.exists() {
                return Ok(None);
            }
            let fd = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(NetnsError::io("open", &path))?;
            pin::expect_nsfs(fd.as_fd(), &path)?;
            Ok(Some(path))
        };
        let shm = dir.join(SHM);
        Ok(Self {
            net: found("net")?,
            ipc: found("ipc")?,
            uts: found("uts")?,
            user: found(user::NAME)?,
            pid: found(PID)?,
            shm: shm.is_dir().then_some(shm),
        })
    }
}

/// Pins the namespace of processes that `pid` is in beside what a [`Pod`] has in `dir`, and gives its
/// path. Whoever joins it by that path never meets a later process with the same number: without
/// its first process a namespace takes no others.
///
/// # Errors
/// [`NetnsError::Exists`] when there is one; [`NetnsError::Io`], also when `pid` has ended.
pub fn pin_pid(dir: &Path, pid: u32) -> Result<PathBuf, NetnsError> {
    let path = dir.join(PID);
    pin::touch(&path)?;
    let pinned = mount_bind(format!("/proc/{pid}/ns/pid"), &path);
    if pinned.is_err() {
        // The first error is the one to tell.
        let _ = pin::remove(&path);
    }
    pinned.map_err(NetnsError::io("pin", &path))?;
    Ok(path)
}

/// Removes what is pinned in `dir`, and `dir`; what processes still use goes with them. Whatever
/// is missing is no error, so it can be done again and after a crash.
///
/// # Errors
/// [`NetnsError::Io`] when the kernel refuses, or `dir` holds what [`Pod::create`] does not make.
pub fn remove_pod(dir: &Path) -> Result<(), NetnsError> {
    for (name, _) in KINDS {
        pin::remove(&dir.join(name))?;
    }
    pin::remove(&dir.join(user::NAME))?;
    pin::remove(&dir.join(PID))?;
    let shm = dir.join(SHM);
    loop {
        match unmount(&shm, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::INVAL) => break,
            Err(error) => return Err(NetnsError::io("unmount the shared memory of", dir)(error)),
        }
    }
    for path in [&*shm, dir] {
        match fs::remove_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(NetnsError::io("remove the directory of", path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn mount_shm(path: &Path, size: u64) -> Result<(), NetnsError> {
    DirBuilder::new().mode(0o700).create(path).map_err(NetnsError::io("make", path))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let options = std::ffi::CString::new(format!("mode=1777,size={size}")).unwrap_or_default();
    mount("shm", path, "tmpfs", flags, options.as_c_str())
        .map_err(NetnsError::io("mount the shared memory of", path))
}

#[expect(unsafe_code, reason = "rustix marks all of unshare unsafe because of CLONE_FILES")]
fn unshare(flags: UnshareFlags, dir: &Path) -> Result<(), NetnsError> {
    // SAFETY: only namespaces of this thread change; no descriptor table, file system root or
    // memory is unshared, so what other threads rely on stays.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(NetnsError::io("make", dir))
}

/// Moves the calling thread into what is pinned on `path`.
fn enter(path: &Path) -> Result<(), NetnsError> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(NetnsError::io("open", path))?;
    rustix::thread::move_into_link_name_space(fd.as_fd(), None)
        .map_err(NetnsError::io("enter", path))
}

/// A kernel parameter of a namespace.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sysctl {
    /// Whose: `net`, `ipc` or `uts`.
    kind: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) value: String,
}

/// Bytes of a value; the kernel takes a page.
const MAX_VALUE: usize = 4096;

impl Sysctl {
    /// As sysctl(8) reads a name: what comes first of dot and slash separates.
    fn parse(name: &str, value: &str) -> Result<Self, NetnsError> {
        let bad = |detail: &str| NetnsError::Sysctl {
            name: name.chars().take(256).collect(),
            detail: detail.to_owned(),
        };
        let swap = |c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        };
        let dots = name.find(['.', '/']).is_some_and(|at| name[at..].starts_with('.'));
        let path: String = if dots { name.chars().map(swap).collect() } else { name.to_owned() };
        let clean = |part: &str| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
            !part.is_empty() && part != "." && part != ".." && part.bytes().all(plain)
        };
        if !path.split('/').all(clean) {
            return Err(bad("is not the name of a parameter"));
        }
        if value.len() > MAX_VALUE || value.contains('\0') {
            return Err(bad("has a value that no parameter takes"));
        }
        let kind = match path.split_once('/') {
            Some(("net", _)) => "net",
            Some(("fs", rest)) if rest.starts_with("mqueue/") => "ipc",
            Some(("kernel", "domainname")) => "uts",
            Some(("kernel", "sem")) => "ipc",
            Some(("kernel", rest)) if rest.starts_with("shm") || rest.starts_with("msg") => "ipc",
            _ => return Err(bad("is not a parameter of a pod's own namespaces")),
        };
        let path = Path::new("/proc/sys").join(path);
        Ok(Self { kind, path, value: value.to_owned() })
    }

    /// In the namespaces of the calling thread.
    fn write(&self) -> Result<(), NetnsError> {
        fs::write(&self.path, &self.value).map_err(NetnsError::io("set", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_belong_to_namespaces_or_are_refused() {
        let parse = |name: &str| Sysctl::parse(name, "1").map(|s| (s.kind, s.path));
        let path = |text: &str| Path::new("/proc/sys").join(text);
        assert_eq!(parse("net.core.somaxconn").unwrap(), ("net", path("net/core/somaxconn")));
        let dotted = path("net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(parse("net/ipv4/conf/eth0.1/forwarding").unwrap().1, dotted);
        assert_eq!(parse("net.ipv4.conf.eth0/1.forwarding").unwrap().1, dotted);
        assert_eq!(parse("kernel.shm_rmid_forced").unwrap().0, "ipc");
        assert_eq!(parse("fs.mqueue.msg_max").unwrap().0, "ipc");
        assert_eq!(parse("kernel.domainname").unwrap().0, "uts");
        for bad in [
            "",
            "net",
            "kernel.panic",
            "vm.swappiness",
            "net...x",
            "net/../kernel/panic",
            "net./../../kernel/panic",
            "fs.file-max",
            "kernel.hostname",
            "net.a b",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(Sysctl::parse("net.a", &"x".repeat(5000)).is_err());
    }

    #[test]
    fn a_parameter_of_the_hosts_namespace_is_refused() {
        let sysctls = BTreeMap::from([("net.core.somaxconn".to_owned(), "1".to_owned())]);
        let pod = Pod { uts: Some("a".to_owned()), sysctls, ..Pod::default() };
        let error = pod.create(Path::new("/nowhere")).unwrap_err();
        assert!(matches!(error, NetnsError::Sysctl { .. }), "{error}");
        assert!(!Path::new("/nowhere").exists());
    }
}
