//! The pseudo terminal of a process, made from the container's own devpts and sent to whoever
//! listens at the console socket.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{Box as Size, Process};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use rustix::pty::{OpenptFlags, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::error::{IoContext, RuntimeError, SystemContext};

/// `statfs` type of devpts.
const DEVPTS_MAGIC: i64 = 0x1cd1;
const PTMX: &str = "/dev/pts/ptmx";
const CONSOLE: &str = "/dev/console";
/// The longest path that fits a socket address.
const ADDRESS_MAX: usize = 107;

/// A connection to the console socket, made before the container's file system hides it.
#[derive(Debug)]
pub(crate) struct ConsoleSocket(OwnedFd);

impl ConsoleSocket {
    pub(crate) fn connect(path: &Path) -> Result<Self, RuntimeError> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .call("socket")?;
        let address = if path.as_os_str().len() <= ADDRESS_MAX {
            SocketAddrUnix::new(path).context("connect to", path)?
        } else {
            // A path too long for an address is reached through a descriptor of it.
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let fd = rustix::fs::open(path, flags, Mode::empty()).context("open", path)?;
            let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", fd.as_raw_fd()))
                .context("connect to", path)?;
            rustix::net::connect(&socket, &address).context("connect to", path)?;
            return Ok(Self(socket));
        };
        rustix::net::connect(&socket, &address).context("connect to", path)?;
        Ok(Self(socket))
    }
}

/// Checks that a terminal is asked for exactly when there is somewhere to send it.
pub(crate) fn check(process: &Process, socket: Option<&Path>) -> Result<(), RuntimeError> {
    match (process.terminal().unwrap_or(false), socket) {
        (true, None) => Err(RuntimeError::Invalid(String::from(
            "a process with a terminal needs --console-socket",
        ))),
        (false, Some(_)) => Err(RuntimeError::Invalid(String::from(
            "--console-socket is given for a process without a terminal",
        ))),
        _ => Ok(()),
    }
}

/// What the new terminal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The container's console, also seen at `/dev/console`.
    Init,
    /// A further process.
    Exec,
}

/// Makes a terminal, sends its master away and makes it the controlling terminal and the
/// standard streams of this process, which leads a session.
pub(crate) fn set_up(
    socket: &ConsoleSocket,
    role: Role,
    size: Option<&Size>,
    uid: u32,
) -> Result<(), RuntimeError> {
    let path = Path::new(PTMX);
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let master = rustix::fs::open(path, flags, Mode::empty()).context("open", path)?;
    check_device(&master, 5, Some(2))?;
    unlockpt(&master).call("unlockpt")?;
    let slave = open_slave(&master)?;
    check_device(&slave, 136, None)?;
    if let Some(size) = size {
        let cut = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
        let size = Winsize {
            ws_row: cut(size.height()),
            ws_col: cut(size.width()),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).call("TIOCSWINSZ")?;
    }
    // The user of the process must be able to open its own terminal again by name.
    let _ = rustix::fs::fchown(&slave, Some(rustix::fs::Uid::from_raw(uid)), None);
    if role == Role::Init {
        mount_console(&slave)?;
    }
    send(socket, &master)?;
    rustix::process::ioctl_tiocsctty(&slave).call("TIOCSCTTY")?;
    for stream in 0..3 {
        // SAFETY: the slave is open and the numbers 0 to 2 are ours to replace.
        if unsafe { libc::dup2(slave.as_raw_fd(), stream) } < 0 {
            return Err(std::io::Error::last_os_error()).call("dup2");
        }
    }
    Ok(())
}

/// By ioctl where the kernel has it, so that no path inside the container is trusted.
fn open_slave(master: &OwnedFd) -> Result<OwnedFd, RuntimeError> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    if let Ok(slave) = rustix::pty::ioctl_tiocgptpeer(master, flags) {
        return Ok(slave);
    }
    let name = ptsname(master, Vec::new()).call("ptsname")?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(name.as_c_str(), flags, Mode::empty()).call("opening the terminal")
}

/// A terminal must come from a devpts and have the numbers of one; an image can put anything at
/// its path (CVE-2025-52565).
fn check_device(fd: &OwnedFd, major: u32, minor: Option<u32>) -> Result<(), RuntimeError> {
    let stat = rustix::fs::fstat(fd).call("fstat of the terminal")?;
    let magic = rustix::fs::fstatfs(fd).call("fstatfs of the terminal")?.f_type;
    let matches = magic == DEVPTS_MAGIC
        && FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && rustix::fs::major(stat.st_rdev) == major
        && minor.is_none_or(|minor| rustix::fs::minor(stat.st_rdev) == minor);
    if matches {
        Ok(())
    } else {
        Err(RuntimeError::Invalid(String::from("the container's pseudo terminal is not one")))
    }
}

fn mount_console(slave: &OwnedFd) -> Result<(), RuntimeError> {
    let path = Path::new(CONSOLE);
    let flags =
        OFlags::CREATE | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
    // An existing /dev/console may be a device that cannot be opened; then a path handle will do.
    let handle = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = match rustix::fs::open(path, handle, Mode::empty()) {
        Ok(fd) => fd,
        Err(_) => {
            let made = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600));
            drop(made.context("create", path)?);
            rustix::fs::open(path, handle, Mode::empty()).context("open", path)?
        }
    };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = open_tree(slave, "", flags).context("clone the terminal for", path)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&mount, "", &target, "", flags).context("mount the terminal on", path)
}

fn send(socket: &ConsoleSocket, master: &OwnedFd) -> Result<(), RuntimeError> {
    let fds = [master.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    // The receiver takes the text for the descriptor's name.
    let name = [IoSlice::new(b"/dev/ptmx")];
    rustix::net::sendmsg(&socket.0, &name, &mut control, SendFlags::NOSIGNAL)
        .call("sending the terminal")?;
    Ok(())
}
