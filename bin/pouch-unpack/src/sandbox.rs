//! What the process gives up before it reads the first foreign byte.
//!
//! The roots are open already. From here on: no program, no socket, no thread or child, no mount
//! and no namespace (a seccomp allow-list), no executable memory, no new privileges, no capability
//! that unpacking does not need, and, where the kernel has Landlock with cross-directory rights
//! (5.19), no file opened or changed outside the roots. A defect in a decoder then can damage the
//! tree that is being made and nothing else.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use pouch_rootfd::RootFd;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::failure::{Failure, Result};
use crate::limits::{FILES, MEMORY};

/// Whether the work sets `trusted.*` attributes, which takes `CAP_SYS_ADMIN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TrustedXattrs {
    Needed,
    Unused,
}

/// Closes what a careless parent left open. Call first: roots are named by path.
#[expect(unsafe_code, reason = "neither rustix nor libc wraps this call")]
pub(crate) fn close_inherited() -> Result<()> {
    // SAFETY: takes numbers only, and nothing in this process owns a descriptor above 2 yet.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
    if done == 0 {
        return Ok(());
    }
    let source = io::Error::last_os_error();
    Err(Failure::Sandbox { what: "inherited descriptors", source })
}

/// Confines the process to `roots` for the rest of its life.
pub(crate) fn enter(roots: &[&RootFd], trusted: TrustedXattrs) -> Result<()> {
    let fail = |what| move |source: io::Error| Failure::Sandbox { what, source };
    limits().map_err(fail("resource limits"))?;
    rustix::thread::set_no_new_privs(true).map_err(|e| fail("no_new_privs")(e.into()))?;
    landlock(roots).map_err(fail("landlock"))?;
    drop_capabilities(trusted).map_err(fail("capabilities"))?;
    seccomp().map_err(fail("seccomp"))
}

fn limits() -> io::Result<()> {
    for (resource, most) in [(Resource::Core, 0), (Resource::As, MEMORY), (Resource::Nofile, FILES)]
    {
        let maximum = getrlimit(resource).maximum.map_or(most, |hard| hard.min(most));
        setrlimit(resource, Rlimit { current: Some(maximum), maximum: Some(maximum) })?;
    }
    Ok(())
}

fn drop_capabilities(trusted: TrustedXattrs) -> io::Result<()> {
    let mut keep = CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::DAC_READ_SEARCH
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::MKNOD
        | CapabilitySet::SETFCAP;
    if trusted == TrustedXattrs::Needed {
        keep |= CapabilitySet::SYS_ADMIN;
    }
    let have = rustix::thread::capabilities(None)?.permitted & keep;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: have, permitted: have, inheritable: CapabilitySet::empty() },
    )?;
    Ok(())
}

/// `struct landlock_ruleset_attr` of ABI 1 to 3.
#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
const LANDLOCK_RULE_PATH_BENEATH: u32 = 1;
const LANDLOCK_EXECUTE: u64 = 1;
/// EXECUTE up to MAKE_SYM.
const LANDLOCK_ABI_1: u64 = (1 << 13) - 1;
const LANDLOCK_REFER: u64 = 1 << 13;
const LANDLOCK_TRUNCATE: u64 = 1 << 14;

/// ABI 1 denies every link and rename between directories, so it is left alone.
#[expect(unsafe_code, reason = "neither rustix nor libc wraps these calls")]
fn landlock(roots: &[&RootFd]) -> io::Result<()> {
    // SAFETY: with a null attribute and this flag the kernel only returns its version.
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<RulesetAttr>(),
            0usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    if abi < 2 {
        return Ok(());
    }
    let truncate = if abi >= 3 { LANDLOCK_TRUNCATE } else { 0 };
    let attr = RulesetAttr { handled_access_fs: LANDLOCK_ABI_1 | LANDLOCK_REFER | truncate };
    // SAFETY: `attr` is a live structure of the size that is passed.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attr,
            size_of::<RulesetAttr>(),
            0u32,
        )
    };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor and nobody else holds it.
    let ruleset = unsafe { OwnedFd::from_raw_fd(fd) };
    for root in roots {
        let rule = PathBeneathAttr {
            allowed_access: attr.handled_access_fs & !LANDLOCK_EXECUTE,
            parent_fd: root.as_fd().as_raw_fd(),
        };
        // SAFETY: `rule` is a live structure of the type that the rule type names.
        let added = unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                ruleset.as_raw_fd(),
                LANDLOCK_RULE_PATH_BENEATH,
                &raw const rule,
                0u32,
            )
        };
        if added != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: takes a descriptor and flags only.
    let done =
        unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// Everything that unpacking, the allocator and a panic call. Allowed apart: `mmap` and `mprotect`
/// without `PROT_EXEC`, and `tgkill`, by which abort(3) ends, of this process alone.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getdents64,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_linkat,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_lremovexattr,
    libc::SYS_lseek,
    libc::SYS_lsetxattr,
    libc::SYS_madvise,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_removexattr,
    libc::SYS_renameat2,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sendfile,
    libc::SYS_setxattr,
    libc::SYS_sigaltstack,
    libc::SYS_splice,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_syncfs,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Offsets into `struct seccomp_data`; the argument's low half, on a little-endian machine.
const DATA_NR: u32 = 0;
const DATA_ARCH: u32 = 4;
const DATA_ARG_0: u32 = 16;
const DATA_ARG_2: u32 = 16 + 2 * 8;

const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

fn program(own: rustix::process::Pid) -> Vec<libc::sock_filter> {
    let op = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let jump = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let number = |call: libc::c_long| u32::try_from(call).unwrap_or(u32::MAX);
    let deny = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    let mut code = vec![
        op(LOAD, DATA_ARCH),
        jump(JUMP_IF_EQUAL, AUDIT_ARCH, 1, 0),
        op(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
        op(LOAD, DATA_NR),
    ];
    for call in ALLOWED {
        code.push(jump(JUMP_IF_EQUAL, number(*call), 0, 1));
        code.push(op(RETURN, libc::SECCOMP_RET_ALLOW));
    }
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        code.push(jump(JUMP_IF_EQUAL, number(call), 0, 4));
        code.push(op(LOAD, DATA_ARG_2));
        code.push(jump(JUMP_IF_ANY_BIT, libc::PROT_EXEC.unsigned_abs(), 1, 0));
        code.push(op(RETURN, libc::SECCOMP_RET_ALLOW));
        code.push(op(RETURN, deny));
    }
    code.extend([
        jump(JUMP_IF_EQUAL, number(libc::SYS_tgkill), 0, 3),
        op(LOAD, DATA_ARG_0),
        jump(JUMP_IF_EQUAL, own.as_raw_pid().unsigned_abs(), 0, 1),
        op(RETURN, libc::SECCOMP_RET_ALLOW),
        op(RETURN, deny),
    ]);
    code
}

#[expect(unsafe_code, reason = "neither rustix nor libc wraps this call")]
fn seccomp() -> io::Result<()> {
    let mut code = program(rustix::process::getpid());
    let filter = libc::sock_fprog {
        len: u16::try_from(code.len()).map_err(io::Error::other)?,
        filter: code.as_mut_ptr(),
    };
    // SAFETY: `filter` points to `len` live instructions; the kernel copies them.
    let done = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0u32, &raw const filter)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_leaves_the_process_is_allowed() {
        for call in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_ptrace,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_memfd_create,
            libc::SYS_kill,
            libc::SYS_prctl,
            libc::SYS_ioctl,
            libc::SYS_mmap,
            libc::SYS_open_by_handle_at,
            libc::SYS_chroot,
            libc::SYS_tgkill,
        ] {
            assert!(!ALLOWED.contains(&call), "{call}");
        }
    }

    /// What the kernel does for a call, by running the program as it does.
    fn verdict(arch: u32, call: libc::c_long, arguments: [u64; 6]) -> u32 {
        let own = rustix::process::Pid::from_raw(77).unwrap();
        let number = u32::try_from(call).unwrap();
        let mut data = [&number.to_ne_bytes()[..], &arch.to_ne_bytes(), &[0; 8]].concat();
        for argument in arguments {
            data.extend_from_slice(&argument.to_ne_bytes());
        }
        let (code, mut at, mut loaded) = (program(own), 0, 0);
        loop {
            let op = code[at];
            let holds = match op.code {
                LOAD => {
                    let from = usize::try_from(op.k).unwrap();
                    loaded = u32::from_ne_bytes(data[from..from + 4].try_into().unwrap());
                    at += 1;
                    continue;
                }
                RETURN => return op.k,
                JUMP_IF_EQUAL => loaded == op.k,
                JUMP_IF_ANY_BIT => loaded & op.k != 0,
                other => panic!("instruction {other:#x}"),
            };
            at += 1 + usize::from(if holds { op.jt } else { op.jf });
        }
    }

    #[test]
    fn the_filter_says_what_it_should() {
        let none = [0; 6];
        let third = |value: libc::c_int| [0, 0, u64::try_from(value).unwrap(), 0, 0, 0];
        let denied = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
        let allowed = libc::SECCOMP_RET_ALLOW;
        for call in [libc::SYS_openat2, libc::SYS_read, libc::SYS_linkat, libc::SYS_exit_group] {
            assert_eq!(verdict(AUDIT_ARCH, call, none), allowed, "{call}");
        }
        for call in [
            libc::SYS_execve,
            libc::SYS_socket,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_ptrace,
            libc::SYS_mount,
            libc::SYS_kill,
            // The ABI of 32-bit pointers has the same architecture and a bit in the number.
            libc::SYS_openat2 | 0x4000_0000,
        ] {
            assert_eq!(verdict(AUDIT_ARCH, call, none), denied, "{call}");
        }
        for call in [libc::SYS_mmap, libc::SYS_mprotect] {
            let write = libc::PROT_READ | libc::PROT_WRITE;
            assert_eq!(verdict(AUDIT_ARCH, call, third(write)), allowed, "{call}");
            let run = libc::PROT_READ | libc::PROT_EXEC;
            assert_eq!(verdict(AUDIT_ARCH, call, third(run)), denied, "{call}");
        }
        assert_eq!(verdict(AUDIT_ARCH, libc::SYS_tgkill, [77, 77, 6, 0, 0, 0]), allowed);
        assert_eq!(verdict(AUDIT_ARCH, libc::SYS_tgkill, [1, 77, 6, 0, 0, 0]), denied);
        let other = verdict(AUDIT_ARCH ^ 1, libc::SYS_read, none);
        assert_eq!(other, libc::SECCOMP_RET_KILL_PROCESS);
    }
}
