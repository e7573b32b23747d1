//! The built-in profile: what dockerd allows by default, as a table.
//!
//! Everything that is not named fails with EPERM, so a system call that the kernel learns later is
//! denied until it is looked at. The content follows moby/profiles at cd3bed8 (June 2026); its
//! notable parts:
//!
//! - no `io_uring_*`, `keyctl`, `userfaultfd`, `kexec_*`, `mount` and the like without the
//!   capability that they belong to;
//! - `clone` only without new namespaces, and `clone3`, whose flags a filter cannot see, answers
//!   ENOSYS, so that the C library falls back to `clone`;
//! - `socket` for all families but AF_ALG (38) and AF_VSOCK (40): three ranges, because a filter
//!   of one syscall cannot say "neither";
//! - `socketcall`, by which 32-bit x86 could ask for both in memory that no filter sees, answers
//!   ENOSYS. Since Linux 4.3 there is `socket` itself on each machine, and the C libraries use it.
//!   moby had the same rule for five days (moby/profiles#21) and then left it to AppArmor and
//!   SELinux (moby#52547), because 32-bit Go programs know nothing else; we set up neither of the
//!   two, so here the filter is what there is, and such programs need a profile of their own.
//!
//! Names that the filter library does not know yet are passed over by our runtime and by runc.

use crate::host::Arch;
use crate::spec::Operator;

/// When a rule applies.
#[derive(Debug, Clone, Copy)]
pub(super) enum When {
    /// On this kernel or newer. Docker asks for 4.8 before it lets processes trace each other:
    /// from there on a tracer cannot get past its tracee's filter.
    Kernel(u32, u32),
    Arch(Arch),
    /// The container has the capability.
    With(&'static str),
}

/// System calls allowed under a condition.
pub(super) const CONDITIONAL: &[(When, &[&str])] = &[
    (When::Kernel(4, 8), &["process_vm_readv", "process_vm_writev", "ptrace"]),
    (
        When::Arch(Arch::Aarch64),
        &[
            "arm_fadvise64_64",
            "arm_sync_file_range",
            "breakpoint",
            "cacheflush",
            "set_tls",
            "sync_file_range2",
        ],
    ),
    (When::Arch(Arch::X86_64), &["arch_prctl", "modify_ldt"]),
    (When::With("DAC_READ_SEARCH"), &["open_by_handle_at"]),
    (
        When::With("SYS_ADMIN"),
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "lsm_get_self_attr",
            "lsm_list_modules",
            "lsm_set_self_attr",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    (When::With("SYS_BOOT"), &["reboot"]),
    (When::With("SYS_CHROOT"), &["chroot"]),
    (When::With("SYS_MODULE"), &["delete_module", "finit_module", "init_module"]),
    (When::With("SYS_PACCT"), &["acct"]),
    (
        When::With("SYS_PTRACE"),
        &[
            "kcmp",
            "pidfd_getfd",
            "process_madvise",
            "process_vm_readv",
            "process_vm_writev",
            "ptrace",
        ],
    ),
    (When::With("SYS_RAWIO"), &["ioperm", "iopl"]),
    (When::With("SYS_TIME"), &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    (When::With("SYS_TTY_CONFIG"), &["vhangup"]),
    (
        When::With("SYS_NICE"),
        &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"],
    ),
    (When::With("SYSLOG"), &["syslog"]),
    (When::With("BPF"), &["bpf"]),
    (When::With("PERFMON"), &["perf_event_open"]),
];

/// One condition on the first argument: operator, value, second value.
pub(super) type Condition = (Operator, u64, u64);

const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET.
const CLONE_NAMESPACES: u64 =
    0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000;

/// System calls allowed for some values of their first argument, each line on its own.
pub(super) const BY_ARGUMENT: &[(&str, Condition)] = &[
    ("socket", (Operator::ScmpCmpLt, AF_ALG, 0)),
    ("socket", (Operator::ScmpCmpEq, AF_ALG + 1, 0)),
    ("socket", (Operator::ScmpCmpGt, AF_VSOCK, 0)),
    // PER_LINUX, PER_LINUX32, both with UNAME26, and the query.
    ("personality", (Operator::ScmpCmpEq, 0, 0)),
    ("personality", (Operator::ScmpCmpEq, 0x0008, 0)),
    ("personality", (Operator::ScmpCmpEq, 0x2_0000, 0)),
    ("personality", (Operator::ScmpCmpEq, 0x2_0008, 0)),
    ("personality", (Operator::ScmpCmpEq, 0xffff_ffff, 0)),
];

/// As [`BY_ARGUMENT`], for containers without a capability.
pub(super) const BY_ARGUMENT_WITHOUT: &[(&str, &str, Condition)] =
    &[("SYS_ADMIN", "clone", (Operator::ScmpCmpMaskedEq, CLONE_NAMESPACES, 0))];

/// System calls that fail with a number of their own in containers without a capability.
pub(super) const ERRNO_WITHOUT: &[(&str, &str, u32)] = &[("SYS_ADMIN", "clone3", ENOSYS)];

/// System calls that fail with a number of their own everywhere. These rules come first: the library
/// derives a permission of `socketcall` from each of `socket`. The number must not be the default
/// action's, or the runtimes pass the rule over and the derived permission stands.
pub(super) const ERRNO: &[(&str, u32)] = &[("socketcall", ENOSYS)];

/// Of the default action.
pub(super) const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// System calls allowed to everybody.
#[rustfmt::skip]
pub(super) const ALLOWED: &[&str] = &[
    "_llseek", "_newselect", "accept", "accept4", "access", "adjtimex", "alarm", "bind", "brk",
    "cachestat", "capget", "capset", "chdir", "chmod", "chown", "chown32", "clock_adjtime",
    "clock_adjtime64", "clock_getres", "clock_getres_time64", "clock_gettime", "clock_gettime64",
    "clock_nanosleep", "clock_nanosleep_time64", "close", "close_range", "connect",
    "copy_file_range", "creat", "dup", "dup2", "dup3", "epoll_create", "epoll_create1",
    "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait", "epoll_wait_old",
    "eventfd", "eventfd2", "execve", "execveat", "exit", "exit_group", "faccessat", "faccessat2",
    "fadvise64", "fadvise64_64", "fallocate", "fanotify_mark", "fchdir", "fchmod", "fchmodat",
    "fchmodat2", "fchown", "fchown32", "fchownat", "fcntl", "fcntl64", "fdatasync", "fgetxattr",
    "flistxattr", "flock", "fork", "fremovexattr", "fsetxattr", "fstat", "fstat64", "fstatat64",
    "fstatfs", "fstatfs64", "fsync", "ftruncate", "ftruncate64", "futex", "futex_requeue",
    "futex_time64", "futex_wait", "futex_waitv", "futex_wake", "futimesat", "get_robust_list",
    "get_thread_area", "getcpu", "getcwd", "getdents", "getdents64", "getegid", "getegid32",
    "geteuid", "geteuid32", "getgid", "getgid32", "getgroups", "getgroups32", "getitimer",
    "getpeername", "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getrandom",
    "getresgid", "getresgid32", "getresuid", "getresuid32", "getrlimit", "getrusage", "getsid",
    "getsockname", "getsockopt", "gettid", "gettimeofday", "getuid", "getuid32", "getxattr",
    "getxattrat", "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch",
    "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_pgetevents_time64", "io_setup",
    "io_submit", "ioctl", "ioprio_get", "ioprio_set", "ipc", "kill", "landlock_add_rule",
    "landlock_create_ruleset", "landlock_restrict_self", "lchown", "lchown32", "lgetxattr", "link",
    "linkat", "listen", "listmount", "listxattr", "listxattrat", "llistxattr", "lremovexattr",
    "lseek", "lsetxattr", "lstat", "lstat64", "madvise", "map_shadow_stack", "membarrier",
    "memfd_create", "memfd_secret", "mincore", "mkdir", "mkdirat", "mknod", "mknodat", "mlock",
    "mlock2", "mlockall", "mmap", "mmap2", "mprotect", "mq_getsetattr", "mq_notify", "mq_open",
    "mq_timedreceive", "mq_timedreceive_time64", "mq_timedsend", "mq_timedsend_time64",
    "mq_unlink", "mremap", "mseal", "msgctl", "msgget", "msgrcv", "msgsnd", "msync", "munlock",
    "munlockall", "munmap", "name_to_handle_at", "nanosleep", "newfstatat", "open", "openat",
    "openat2", "pause", "pidfd_open", "pidfd_send_signal", "pipe", "pipe2", "pkey_alloc",
    "pkey_free", "pkey_mprotect", "poll", "ppoll", "ppoll_time64", "prctl", "pread64", "preadv",
    "preadv2", "prlimit64", "process_mrelease", "pselect6", "pselect6_time64", "pwrite64",
    "pwritev", "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv", "recv",
    "recvfrom", "recvmmsg", "recvmmsg_time64", "recvmsg", "remap_file_pages", "removexattr",
    "removexattrat", "rename", "renameat", "renameat2", "restart_syscall", "riscv_hwprobe",
    "rmdir", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo",
    "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64",
    "rt_tgsigqueueinfo", "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity",
    "sched_getattr", "sched_getparam", "sched_getscheduler", "sched_rr_get_interval",
    "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr", "sched_setparam",
    "sched_setscheduler", "sched_yield", "seccomp", "select", "semctl", "semget", "semop",
    "semtimedop", "semtimedop_time64", "send", "sendfile", "sendfile64", "sendmmsg", "sendmsg",
    "sendto", "set_robust_list", "set_thread_area", "set_tid_address", "setfsgid", "setfsgid32",
    "setfsuid", "setfsuid32", "setgid", "setgid32", "setgroups", "setgroups32", "setitimer",
    "setpgid", "setpriority", "setregid", "setregid32", "setresgid", "setresgid32", "setresuid",
    "setresuid32", "setreuid", "setreuid32", "setrlimit", "setsid", "setsockopt", "setuid",
    "setuid32", "setxattr", "setxattrat", "shmat", "shmctl", "shmdt", "shmget", "shutdown",
    "sigaltstack", "signalfd", "signalfd4", "sigprocmask", "sigreturn", "socketpair", "splice",
    "stat", "stat64", "statfs", "statfs64", "statmount", "statx", "symlink", "symlinkat",
    "sync", "sync_file_range", "syncfs", "sysinfo", "tee", "tgkill", "time", "timer_create",
    "timer_delete", "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime",
    "timer_settime64", "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime",
    "timerfd_settime64", "times", "tkill", "truncate", "truncate64", "ugetrlimit", "umask",
    "uname", "unlink", "unlinkat", "uretprobe", "utime", "utimensat", "utimensat_time64", "utimes",
    "vfork", "vmsplice", "wait4", "waitid", "waitpid", "write", "writev",
];
