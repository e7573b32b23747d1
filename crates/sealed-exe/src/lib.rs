//! Executables that nobody who reaches them through `/proc/<pid>/exe` can write to.
//!
//! A process that enters a container is visible there before it has executed the container's own
//! program, and `/proc/<pid>/exe` of it names a file of the host (CVE-2019-5736). This crate owns
//! the two ways out: a private, detached, read-only clone of the mount that holds the binary
//! (no byte is copied; Linux 5.12 and CAP_SYS_ADMIN), or else a sealed in-memory copy.
//!
//! Invariant: what [`open_readonly_clone`] returns has passed [`is_sealed`]; a binary that runs
//! from such a descriptor sees itself as sealed, so a second re-execution cannot happen.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use pouch_mountfd::{Attributes, Depth, RDONLY};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};
use rustix::io::Errno;

/// The name under which this process reaches its own binary.
const SELF_EXE: &str = "/proc/self/exe";

/// Why a binary could not be protected.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The binary could not be opened or inspected.
    #[error("cannot open {path}")]
    Open {
        /// The binary.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Neither a read-only clone nor a sealed copy could be made.
    #[error("cannot make a protected copy of {path}")]
    Copy {
        /// The binary.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The process runs from a descriptor that ought to be protected and is not.
    #[error("the running binary is still writable after it was executed from a descriptor")]
    StillWritable,
    /// The protected binary could not be executed.
    #[error("cannot execute the protected copy of {path}")]
    Execute {
        /// The binary.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// Opens `path` so that executing the descriptor leaves no way to write to the file through
/// `/proc/<pid>/exe`. The descriptor is close-on-exec.
///
/// # Errors
/// [`SealError::Open`] when the file cannot be opened, [`SealError::Copy`] when the kernel permits
/// neither the clone nor a sealed copy.
pub fn open_readonly_clone(path: &Path) -> Result<OwnedFd, SealError> {
    let clone = clone_mount(path);
    if let Ok(fd) = clone
        && is_sealed(fd.as_fd()).unwrap_or(false)
    {
        return Ok(fd);
    }
    let copy = sealed_copy(path)?;
    match is_sealed(copy.as_fd()) {
        Ok(true) => Ok(copy),
        Ok(false) => Err(SealError::StillWritable),
        Err(source) => Err(SealError::Copy { path: path.to_owned(), source }),
    }
}

/// Makes sure that the running binary is protected: returns at once when it is, and otherwise
/// executes a protected clone of it with the same arguments and environment.
///
/// # Errors
/// As [`open_readonly_clone`]; [`SealError::StillWritable`] when this process was already executed
/// from a descriptor and its binary is writable all the same (there is no second attempt).
pub fn ensure_sealed() -> Result<(), SealError> {
    let path = Path::new(SELF_EXE);
    let own =
        File::open(path).map_err(|source| SealError::Open { path: path.to_owned(), source })?;
    let sealed = is_sealed(own.as_fd())
        .map_err(|source| SealError::Open { path: path.to_owned(), source })?;
    if sealed {
        return Ok(());
    }
    if executed_from_descriptor() {
        return Err(SealError::StillWritable);
    }
    let fd = open_readonly_clone(path)?;
    let args: Vec<_> = std::env::args_os().collect();
    let env: Vec<_> = std::env::vars_os()
        .map(|(mut key, value)| {
            key.push("=");
            key.push(value);
            key
        })
        .collect();
    Err(execute(fd.as_fd(), &args, &env))
}

/// Executes `fd` in place of this process; returns only the failure.
fn execute<S: AsRef<OsStr>>(fd: BorrowedFd<'_>, args: &[S], env: &[S]) -> SealError {
    let failure = |source| SealError::Execute { path: PathBuf::from(SELF_EXE), source };
    let to_c = |strings: &[S]| -> Result<Vec<CString>, io::Error> {
        strings
            .iter()
            .map(|s| CString::new(s.as_ref().as_bytes()).map_err(io::Error::other))
            .collect()
    };
    let (args, env) = match (to_c(args), to_c(env)) {
        (Ok(args), Ok(env)) => (args, env),
        (Err(error), _) | (_, Err(error)) => return failure(error),
    };
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(&args), pointers(&env));
    // SAFETY: the path is an empty C string, argv and envp are null-terminated arrays of C strings
    // that live until the call returns, and it returns only on failure.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    failure(io::Error::last_os_error())
}

/// Whether the file behind `fd` cannot be written to through it: its mount is read-only, or it is
/// memory sealed against writing.
///
/// # Errors
/// The failure of `fstatvfs`.
pub fn is_sealed(fd: BorrowedFd<'_>) -> io::Result<bool> {
    if rustix::fs::fstatvfs(fd)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(true);
    }
    let wanted = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
    Ok(rustix::fs::fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(wanted)))
}

fn clone_mount(path: &Path) -> io::Result<OwnedFd> {
    let fd = pouch_mountfd::clone_path(path, Depth::One)?;
    Attributes::setting(RDONLY).apply(fd.as_fd(), Depth::One)?;
    Ok(fd)
}

/// A copy in memory that not even its owner can change any more.
fn sealed_copy(path: &Path) -> Result<OwnedFd, SealError> {
    let failure = |source: io::Error| SealError::Copy { path: path.to_owned(), source };
    let mut source = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map(File::from)
        .map_err(|e| SealError::Open { path: path.to_owned(), source: e.into() })?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC is unknown before Linux 6.3 and required where vm.memfd_noexec is set.
    let memfd = match rustix::fs::memfd_create("pouch-sealed", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => rustix::fs::memfd_create("pouch-sealed", flags),
        other => other,
    }
    .map_err(|e| failure(e.into()))?;
    let mut copy = File::from(memfd);
    io::copy(&mut source, &mut copy).map_err(failure)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals).map_err(|e| failure(e.into()))?;
    // A descriptor opened for writing makes execve fail with ETXTBSY; reopen it for reading.
    let name = format!("/proc/self/fd/{}", copy.as_raw_fd());
    rustix::fs::open(name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| failure(e.into()))
}

/// Whether the kernel started this program through a descriptor (`execveat` with an empty path
/// makes `AT_EXECFN` read `/dev/fd/<n>`).
fn executed_from_descriptor() -> bool {
    rustix::param::linux_execfn().to_bytes().starts_with(b"/dev/fd/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::process::CommandExt;

    fn program() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::copy("/bin/true", &path).unwrap();
        (dir, path)
    }

    fn reopen_for_writing(fd: &OwnedFd) -> io::Result<File> {
        File::options().write(true).open(format!("/proc/self/fd/{}", fd.as_raw_fd()))
    }

    #[test]
    fn a_clone_cannot_be_reopened_for_writing() {
        let (_dir, path) = program();
        let fd = open_readonly_clone(&path).unwrap();
        assert!(is_sealed(fd.as_fd()).unwrap());
        assert!(reopen_for_writing(&fd).is_err());
        File::options().append(true).open(&path).unwrap().write_all(b" ").unwrap();
    }

    #[test]
    fn a_sealed_copy_is_whole_and_constant() {
        let (_dir, path) = program();
        let fd = sealed_copy(&path).unwrap();
        assert!(is_sealed(fd.as_fd()).unwrap());
        if let Ok(mut file) = reopen_for_writing(&fd) {
            assert!(file.write_all(b"x").is_err());
        }
        let copy = std::fs::read(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        assert_eq!(copy, std::fs::read(&path).unwrap());
    }

    #[test]
    fn what_is_opened_can_be_executed() {
        let (_dir, path) = program();
        for fd in [open_readonly_clone(&path).unwrap(), sealed_copy(&path).unwrap()] {
            let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let status = std::process::Command::new(name).arg0("true").status().unwrap();
            assert!(status.success());
        }
    }

    #[test]
    fn an_ordinary_file_is_not_sealed() {
        let (_dir, path) = program();
        assert!(!is_sealed(File::open(path).unwrap().as_fd()).unwrap());
    }
}
