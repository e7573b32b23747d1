//! Namespaces that belong to a user namespace of their own.
//!
//! A thread of a program with several cannot unshare its user namespace, so a process is made for
//! it, which executes nothing: it unshares between fork and exec, waits until its ids are mapped,
//! becomes root inside to set what only that root may, waits until everything is pinned, and ends
//! without having executed anything. If we die meanwhile, its pipe ends and it with it.

#![expect(unsafe_code, reason = "what runs between fork and exec has no safe form")]

use std::ffi::CString;
use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::mount::mount_bind;
use rustix::thread::UnshareFlags;

use crate::pod::{IdMap, IdMaps, KINDS, Sysctl};
use crate::{NetnsError, pin};

/// The pin's name.
pub(crate) const NAME: &str = "user";
/// Bytes of one map; the kernel takes a page.
const MAX_MAP: usize = 4096;

/// What the process says: its pid, then the number of the parameter that could not be set and
/// why, or zeros.
type Report = [u8; 8];

/// Makes a user namespace with `maps` and, in it, those of `flags`, and pins them in `dir`.
/// `sysctls` are set in them.
pub(crate) fn make(
    dir: &Path,
    flags: UnshareFlags,
    maps: &IdMaps,
    sysctls: &[Sysctl],
) -> Result<(), NetnsError> {
    let uids = text(&maps.uids, dir)?;
    let gids = text(&maps.gids, dir)?;
    let failed = || NetnsError::io("make a process in", dir);
    let (reports, reporting) = io::pipe().map_err(failed())?;
    let (waiting, orders) = io::pipe().map_err(failed())?;
    let sysctls_of_child = prepare(sysctls).map_err(failed())?;
    let child = Child { flags, sysctls: sysctls_of_child, reporting, waiting };
    let mut command = Command::new("/proc/self/exe");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).env_clear();
    // SAFETY: the closure makes system calls only and neither allocates nor locks.
    unsafe { command.pre_exec(move || child.run()) };
    // spawn(2) comes back when the child has executed or ended, and it waits for us.
    let spawning = std::thread::Builder::new()
        .name("userns".to_owned())
        .stack_size(256 * 1024)
        .spawn(move || {
            let spawned = command.spawn();
            // And with it our copies of the child's ends.
            drop(command);
            spawned.and_then(|mut child| child.wait().map(drop))
        })
        .map_err(NetnsError::Thread)?;
    let pinned = pin_all(dir, flags, [&uids, &gids], reports, orders, sysctls);
    let ended = spawning.join().map_err(|_| NetnsError::Panicked)?;
    match pinned {
        // There was no process.
        Err(Failed::Silent(error)) => Err(failed()(ended.err().unwrap_or(error))),
        Err(Failed::Step(error)) => Err(error),
        Ok(()) => Ok(()),
    }
}

/// Why not all is pinned.
enum Failed {
    /// The process ended before it said anything.
    Silent(io::Error),
    Step(NetnsError),
}

impl From<NetnsError> for Failed {
    fn from(error: NetnsError) -> Self {
        Self::Step(error)
    }
}

fn pin_all(
    dir: &Path,
    flags: UnshareFlags,
    [uids, gids]: [&str; 2],
    mut reports: io::PipeReader,
    mut orders: io::PipeWriter,
    sysctls: &[Sysctl],
) -> Result<(), Failed> {
    let mut report: Report = [0; 8];
    // All that the process waits for itself is us.
    reports.read_exact(&mut report).map_err(Failed::Silent)?;
    let (pid, errno) = read(report);
    if errno != 0 {
        let error = io::Error::from_raw_os_error(errno);
        return Err(NetnsError::io("make", &dir.join(NAME))(error).into());
    }
    let process = Path::new("/proc").join(pid.to_string());
    for (name, map) in [("uid_map", uids), ("gid_map", gids)] {
        let path = process.join(name);
        std::fs::write(&path, map).map_err(NetnsError::io("map the ids of", dir))?;
    }
    orders.write_all(&[0]).map_err(NetnsError::io("go on with", dir))?;
    reports.read_exact(&mut report).map_err(NetnsError::io("configure", dir))?;
    let (number, errno) = read(report);
    if errno != 0 {
        let sysctl = usize::try_from(number).ok().and_then(|number| sysctls.get(number));
        let path = sysctl.map_or(dir, |sysctl| &sysctl.path);
        return Err(NetnsError::io("set", path)(io::Error::from_raw_os_error(errno)).into());
    }
    let kinds = KINDS.into_iter().filter(|(_, flag)| flags.contains(*flag));
    for name in kinds.map(|(name, _)| name).chain([NAME]) {
        let path = dir.join(name);
        pin::touch(&path)?;
        mount_bind(process.join("ns").join(name), &path).map_err(NetnsError::io("pin", &path))?;
    }
    Ok(())
}

fn read(report: Report) -> (i32, i32) {
    let [a, b, c, d, e, f, g, h] = report;
    (i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h]))
}

/// A mapping as the kernel reads it.
fn text(maps: &[IdMap], dir: &Path) -> Result<String, NetnsError> {
    let mut text = String::new();
    for map in maps {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{} {} {}", map.container, map.host, map.size);
    }
    if text.is_empty() || text.len() >= MAX_MAP {
        let invalid =
            io::Error::new(io::ErrorKind::InvalidInput, "a mapping of no or of too many ids");
        return Err(NetnsError::io("map the ids of", dir)(invalid));
    }
    Ok(text)
}

fn prepare(sysctls: &[Sysctl]) -> io::Result<Vec<(CString, Vec<u8>)>> {
    sysctls
        .iter()
        .map(|sysctl| {
            let path = CString::new(sysctl.path.as_os_str().as_bytes())?;
            Ok((path, sysctl.value.clone().into_bytes()))
        })
        .collect()
}

/// What the process needs.
struct Child {
    flags: UnshareFlags,
    sysctls: Vec<(CString, Vec<u8>)>,
    reporting: io::PipeWriter,
    waiting: io::PipeReader,
}

impl Child {
    /// Between fork and exec.
    fn run(&self) -> io::Result<()> {
        self.close_others();
        // SAFETY: no descriptor table is unshared.
        let made = unsafe { rustix::thread::unshare_unsafe(self.flags | UnshareFlags::NEWUSER) };
        let errno = made.map_or_else(rustix::io::Errno::raw_os_error, |()| 0);
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        tell(self.reporting.as_fd(), pid, errno)?;
        await_order(self.waiting.as_fd())?;
        // SAFETY: system calls on numbers; raw, since the library's own would tell other threads,
        // of which there are none here.
        let root = unsafe {
            libc::syscall(libc::SYS_setresgid, 0, 0, 0) == 0
                && libc::syscall(libc::SYS_setresuid, 0, 0, 0) == 0
        };
        let (mut number, mut errno) = (0, 0);
        if !root {
            errno = libc::EPERM;
        }
        for (index, (path, value)) in self.sysctls.iter().enumerate() {
            if errno != 0 {
                break;
            }
            number = i32::try_from(index).unwrap_or(-1);
            errno = match set(path, value) {
                Ok(()) => 0,
                Err(error) => error.raw_os_error(),
            };
        }
        tell(self.reporting.as_fd(), number, errno)?;
        // Until all is pinned.
        await_order(self.waiting.as_fd())?;
        // SAFETY: ends the process without destructors, which are the parent's.
        unsafe { libc::_exit(0) }
    }

    /// All but the two pipes, of which one like this at the same time would hold an end; also the
    /// one by which spawn(2) learns of an error here.
    fn close_others(&self) {
        let (a, b) = (self.reporting.as_raw_fd(), self.waiting.as_raw_fd());
        let (low, high) = (a.min(b).unsigned_abs(), a.max(b).unsigned_abs());
        for (first, last) in [(3, low - 1), (low + 1, high - 1), (high + 1, u32::MAX)] {
            if first <= last {
                // SAFETY: this process has one thread, and uses nothing but the two.
                unsafe { libc::close_range(first, last, 0) };
            }
        }
    }
}

fn set(path: &CString, value: &[u8]) -> rustix::io::Result<()> {
    let file = rustix::fs::open(path.as_c_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value).map(drop)
}

fn tell(pipe: BorrowedFd<'_>, first: i32, second: i32) -> rustix::io::Result<()> {
    let mut report: Report = [0; 8];
    report[..4].copy_from_slice(&first.to_ne_bytes());
    report[4..].copy_from_slice(&second.to_ne_bytes());
    // Less than a pipe writes at once.
    rustix::io::write(pipe, &report).map(drop)
}

/// Waits for a byte, or for the end of who would send it.
fn await_order(pipe: BorrowedFd<'_>) -> rustix::io::Result<()> {
    loop {
        match rustix::io::read(pipe, &mut [0; 1]) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}
