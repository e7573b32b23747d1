//! The program of a process: its environment, where it is, and its execution.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Process;

use crate::error::{RuntimeError, SystemContext};

/// Largest `/etc/passwd` that is read for HOME.
const PASSWD_MAX: u64 = 1 << 20;

/// A program that was found, with its arguments and environment in the kernel's form.
#[derive(Debug)]
pub(crate) struct Command {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Command {
    /// Finds the program of `process`. Runs inside the container, in the working directory.
    pub(crate) fn find(process: &Process, extra_env: &[String]) -> Result<Self, RuntimeError> {
        let args = process.args().as_deref().unwrap_or_default();
        let name = args
            .first()
            .ok_or_else(|| RuntimeError::Invalid(String::from("args must not be empty")))?;
        let mut env = environment(process.env().as_deref().unwrap_or_default());
        env.extend(extra_env.iter().cloned());
        if value_of(&env, "HOME").is_none_or(str::is_empty) {
            env.retain(|entry| !entry.starts_with("HOME="));
            let home = home_of(process.user().uid());
            env.push(format!("HOME={}", home.as_deref().unwrap_or("/")));
        }
        let path = locate(name, value_of(&env, "PATH").unwrap_or_default())?;
        Ok(Self {
            path: c_string(path.as_os_str().as_bytes())?,
            args: args.iter().map(|a| c_string(a.as_bytes())).collect::<Result<_, _>>()?,
            env: env.iter().map(|e| c_string(e.as_bytes())).collect::<Result<_, _>>()?,
        })
    }

    /// Replaces this process; returns only the failure.
    pub(crate) fn execute(&self) -> RuntimeError {
        let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
            strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (args, env) = (pointers(&self.args), pointers(&self.env));
        // SAFETY: path is a C string, the arrays are null-terminated and outlive the call.
        unsafe { libc::execve(self.path.as_ptr(), args.as_ptr(), env.as_ptr()) };
        let error = io::Error::last_os_error();
        let name = self.args.first().map_or_else(String::new, |a| a.to_string_lossy().into_owned());
        RuntimeError::Invalid(format!("exec: {name:?}: {}", errno_text(&error)))
    }
}

/// SIGSYS; nobody ignores real-time signals for others.
const LAST_STANDARD_SIGNAL: libc::c_int = 31;

/// Puts signal handling back to what a fresh process expects: the Rust runtime ignores SIGPIPE, a
/// shell that started the daemon in the background SIGINT and SIGQUIT, and ignored signals and
/// blocked masks survive an execution.
pub(crate) fn reset_signals() -> Result<(), RuntimeError> {
    for signal in 1..=LAST_STANDARD_SIGNAL {
        // SAFETY: installs no handler. Those that cannot be changed are refused, which is fine.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the pointer is to a set that the call initialises.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: the set was initialised above; the old mask is not asked for.
    match unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).call("sigprocmask"),
    }
}

fn c_string(bytes: &[u8]) -> Result<CString, RuntimeError> {
    CString::new(bytes).map_err(|_| {
        RuntimeError::Invalid(String::from("arguments and environment must not hold NUL bytes"))
    })
}

/// One entry per name, in the order of first appearance, with the last value.
pub(crate) fn environment(entries: &[String]) -> Vec<String> {
    let mut order: Vec<String> = Vec::with_capacity(entries.len());
    let mut seen: HashMap<&str, usize> = HashMap::with_capacity(entries.len());
    for entry in entries {
        let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name);
        match seen.get(name).and_then(|at| order.get_mut(*at)) {
            Some(slot) => slot.clone_from(entry),
            None => {
                seen.insert(name, order.len());
                order.push(entry.clone());
            }
        }
    }
    order
}

fn value_of<'a>(env: &'a [String], name: &str) -> Option<&'a str> {
    env.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
}

/// The words of these errors are part of the interface: callers tell "no such program" (127)
/// from "cannot be executed" (126) by them, as with runc.
fn locate(name: &str, path_variable: &str) -> Result<PathBuf, RuntimeError> {
    let failure = |what: &str| RuntimeError::Invalid(format!("exec: {name:?}: {what}"));
    if name.contains('/') {
        let path = PathBuf::from(name);
        return match executable(&path) {
            Ok(()) => Ok(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(failure(&format!("stat {name}: no such file or directory")))
            }
            Err(error) => Err(failure(&errno_text(&error))),
        };
    }
    let mut denied = false;
    for dir in path_variable.split(':') {
        let dir = if dir.is_empty() { "." } else { dir };
        let path = Path::new(dir).join(name);
        match executable(&path) {
            Ok(()) => return Ok(path),
            Err(error) => denied |= error.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    Err(failure(if denied { "permission denied" } else { "executable file not found in $PATH" }))
}

fn executable(path: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    Ok(())
}

/// The C library's words, in lower case and without Rust's "(os error n)".
fn errno_text(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// The home directory of `uid` in the container's `/etc/passwd`. The file is the image's: it is
/// read only when regular, only to a limit, and a bad line is not an error.
fn home_of(uid: u32) -> Option<String> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/etc/passwd")
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(PASSWD_MAX).read_to_end(&mut bytes).ok()?;
    home_in(&String::from_utf8_lossy(&bytes), uid)
}

fn home_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let matches = fields.get(2)?.parse::<u32>().ok()? == uid;
        let home = *fields.get(5)?;
        (matches && home.starts_with('/')).then(|| home.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str, path: &str) -> String {
        locate(name, path).unwrap_err().to_string()
    }

    #[test]
    fn a_program_is_found_as_a_shell_would() {
        assert_eq!(locate("sh", "/nowhere:/bin").unwrap(), Path::new("/bin/sh"));
        assert_eq!(locate("/bin/sh", "").unwrap(), Path::new("/bin/sh"));
    }

    #[test]
    fn the_words_of_a_failure_are_those_that_callers_know() {
        assert_eq!(message("nope", "/bin"), r#"exec: "nope": executable file not found in $PATH"#);
        assert_eq!(message("sh", ""), r#"exec: "sh": executable file not found in $PATH"#);
        assert!(message("/nope", "").ends_with("stat /nope: no such file or directory"));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("plain"), "").unwrap();
        let path = dir.path().to_str().unwrap();
        assert!(message(&format!("{path}/plain"), "").ends_with("permission denied"));
        assert!(message("plain", path).ends_with("permission denied"));
        assert!(message("/etc", "").ends_with("is a directory"));
    }

    #[test]
    fn the_last_value_of_a_variable_counts_and_order_stays() {
        let env = ["A=1", "B=2", "A=3"].map(String::from);
        assert_eq!(environment(&env), ["A=3", "B=2"]);
        assert_eq!(value_of(&env, "B"), Some("2"));
        assert_eq!(value_of(&env, "C"), None);
    }

    #[test]
    fn a_home_is_taken_from_the_right_line_only() {
        let passwd = "root:x:0:0:r:/root:/bin/sh\nbad\nx:x:1000:1:x:relative:/bin/sh\n\
                      y:x:1000:1:y:/home/y:/bin/sh\n";
        assert_eq!(home_in(passwd, 0).as_deref(), Some("/root"));
        assert_eq!(home_in(passwd, 1000).as_deref(), Some("/home/y"));
        assert_eq!(home_in(passwd, 7), None);
    }
}
