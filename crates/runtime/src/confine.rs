//! The last changes to a container's view of its root: hidden paths, read-only paths, sysctls and
//! the null device. All of it runs inside, after the change of root.

use std::fs::File;
use std::io;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{IoContext, RuntimeError, SystemContext};
use crate::mounts::{self, Attributes, Depth, NODEV, NOEXEC, NOSUID, RDONLY};

fn open_path(path: &Path) -> Result<Option<OwnedFd>, RuntimeError> {
    match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error).context("open", path),
    }
}

/// Makes each path, with what is mounted below it, read-only. A path that does not exist is
/// skipped: the list names what some kernels have.
pub(crate) fn make_readonly(paths: &[String]) -> Result<(), RuntimeError> {
    for path in paths.iter().map(Path::new) {
        let Some(target) = open_path(path)? else { continue };
        let mount = mounts::clone_at(target.as_fd(), Depth::All).context("clone", path)?;
        Attributes::setting(RDONLY | NOSUID | NODEV | NOEXEC)
            .apply(mount.as_fd(), Depth::All)
            .context("make read-only", path)?;
        mounts::attach(mount.as_fd(), target.as_fd()).context("mount read-only", path)?;
    }
    Ok(())
}

/// Hides each path: a file behind the null device, a directory behind an empty file system.
pub(crate) fn mask(paths: &[String]) -> Result<(), RuntimeError> {
    let mut null = None;
    let mut empty: Option<OwnedFd> = None;
    for path in paths.iter().map(Path::new) {
        let Some(target) = open_path(path)? else { continue };
        let stat = rustix::fs::fstat(&target).context("inspect", path)?;
        let source = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            match &empty {
                Some(fd) => fd,
                // The first directory gets the mount itself and the others get copies of it:
                // before Linux 6.15 the kernel copies only what is mounted somewhere.
                None => {
                    let made = empty_directory()?;
                    mounts::attach(made.as_fd(), target.as_fd()).context("mask", path)?;
                    empty = Some(made);
                    continue;
                }
            }
        } else {
            match &mut null {
                Some(fd) => fd,
                slot => slot.insert(null_device()?),
            }
        };
        let mount = mounts::clone_at(source.as_fd(), Depth::One).context("mask", path)?;
        mounts::attach(mount.as_fd(), target.as_fd()).context("mask", path)?;
    }
    Ok(())
}

/// A detached read-only tmpfs.
fn empty_directory() -> Result<OwnedFd, RuntimeError> {
    mounts::new_filesystem("tmpfs", Some("tmpfs"), [], RDONLY | NOSUID | NODEV | NOEXEC)
        .map_err(|error| error.source)
        .call("making an empty file system")
}

/// The container's `/dev/null`, if it is the null device and nothing that was put in its place.
fn null_device() -> Result<OwnedFd, RuntimeError> {
    let path = Path::new("/dev/null");
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).context("open", path)?;
    let stat = rustix::fs::fstat(&fd).context("inspect", path)?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3);
    if is_null {
        Ok(fd)
    } else {
        Err(RuntimeError::Invalid(String::from("/dev/null is not the null device")))
    }
}

/// Standard streams that are the host's null device become the container's, so that no
/// descriptor of a host file system stays behind.
pub(crate) fn reopen_null_streams() -> Result<(), RuntimeError> {
    let path = Path::new("/dev/null");
    let mut inside = None;
    for stream in 0..3 {
        // SAFETY: descriptors 0 to 2 are open in every Rust program.
        let fd = unsafe { BorrowedFd::borrow_raw(stream) };
        let stat = rustix::fs::fstat(fd).call("fstat of a standard stream")?;
        let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(1, 3);
        if !is_null {
            continue;
        }
        let own = match &inside {
            Some(file) => file,
            None => {
                null_device()?;
                let file =
                    File::options().read(true).write(true).open(path).context("open", path)?;
                &*inside.insert(file)
            }
        };
        // SAFETY: both descriptors are open, and the numbers 0 to 2 are ours to replace.
        if unsafe { libc::dup2(own.as_raw_fd(), stream) } < 0 {
            return Err(io::Error::last_os_error()).call("dup2");
        }
    }
    Ok(())
}

/// The root of the mount namespace, read-only, without what is mounted below it.
pub(crate) fn make_root_readonly() -> Result<(), RuntimeError> {
    let root = Path::new("/");
    let fd = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .context("open", root)?;
    Attributes::setting(RDONLY).apply(fd.as_fd(), Depth::One).context("make read-only", root)
}

/// Sets kernel parameters through a procfs of our own, so that nothing mounted over `/proc` in
/// the container can lead the write elsewhere (CVE-2025-52881).
pub(crate) fn set_sysctls<'a>(
    parameters: impl Iterator<Item = (&'a String, &'a String)>,
) -> Result<(), RuntimeError> {
    let mut proc = None;
    for (name, value) in parameters {
        let root = match &mut proc {
            Some(fd) => fd,
            slot => slot.insert(private_proc()?),
        };
        let path = Path::new("sys").join(name.replace('.', "/"));
        let fd = rustix::fs::openat2(
            &*root,
            &path,
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
        )
        .context("open the sysctl", Path::new(name))?;
        File::from(fd).write_all(value.as_bytes()).context("set the sysctl", Path::new(name))?;
    }
    Ok(())
}

/// Has AppArmor change the profile at the next execution, by a procfs of our own for the same
/// reason. The directory of its own is of Linux 5.8.
pub(crate) fn set_apparmor_profile(profile: &str) -> Result<(), RuntimeError> {
    let proc = private_proc()?;
    let pid = std::process::id();
    let open = |path: String| {
        rustix::fs::openat2(
            &proc,
            path,
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
        )
    };
    open(format!("{pid}/attr/apparmor/exec"))
        .or_else(|_| open(format!("{pid}/attr/exec")))
        .map_err(io::Error::from)
        .and_then(|fd| File::from(fd).write_all(format!("exec {profile}").as_bytes()))
        .context("set the apparmor profile", Path::new(profile))
}

fn private_proc() -> Result<OwnedFd, RuntimeError> {
    mounts::new_filesystem("proc", Some("proc"), [], NOSUID | NODEV | NOEXEC)
        .map_err(|error| error.source)
        .call("making a procfs")
}

/// Goes to the working directory and checks that it is inside: a directory of the host that was
/// reached through a descriptor has no path below our root (CVE-2024-21626).
pub(crate) fn enter_directory(path: &Path) -> Result<(), RuntimeError> {
    rustix::process::chdir(path).context("enter the working directory", path)?;
    check_directory(path)
}

/// As [`enter_directory`], for a container's first process: makes a directory that is missing.
pub(crate) fn enter_or_make_directory(path: &Path) -> Result<(), RuntimeError> {
    if rustix::process::chdir(path) == Err(Errno::NOENT) {
        // Below the descriptors of a process nothing can be made; the plain error says so.
        std::fs::create_dir_all(path).context("create the working directory", path)?;
    }
    enter_directory(path)
}

pub(crate) fn check_directory(path: &Path) -> Result<(), RuntimeError> {
    let outside =
        || RuntimeError::Invalid(format!("cwd {path:?} is outside of the container's root"));
    let mut buffer = vec![0_u8; libc::PATH_MAX.unsigned_abs() as usize];
    // The C library hides unreachable directories or invents a path: ask the kernel.
    // SAFETY: the pointer and the length describe a buffer that we own.
    let length = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    if length > 0 && buffer.first() == Some(&b'/') { Ok(()) } else { Err(outside()) }
}

/// Gives pipes that are standard streams to the user, so that `/dev/stdout` can be opened again.
/// Nothing else changes its owner: files, sockets and terminals are the host's.
pub(crate) fn give_pipes_to(uid: u32) {
    for stream in 0..3 {
        // SAFETY: descriptors 0 to 2 are open in every Rust program.
        let fd = unsafe { BorrowedFd::borrow_raw(stream) };
        let Ok(stat) = rustix::fs::fstat(fd) else { continue };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo && stat.st_uid != uid {
            // A pipe of a foreign user namespace cannot be given away, which is no reason to fail.
            let _ = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), None);
        }
    }
}
