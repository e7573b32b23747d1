//! System call filters: the built-in profile, and profiles in Docker's format.

mod profile;
mod table;

use crate::capability::{Capability, CapabilitySet};
use crate::host::{Arch, HostFeatures, KernelVersion};
use crate::spec::{Action, Seccomp, SyscallArg, SyscallRule};
use table::When;

pub use profile::parse_profile;

/// What the conditions of a profile are held against.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    /// Of the machine.
    pub arch: Arch,
    /// Of the machine.
    pub kernel: KernelVersion,
    /// Of the container: its bounding set.
    pub capabilities: CapabilitySet,
}

impl Conditions {
    /// A container with these capabilities on this machine.
    #[must_use]
    pub const fn new(host: &HostFeatures, capabilities: CapabilitySet) -> Self {
        Self { arch: host.arch, kernel: host.kernel, capabilities }
    }

    /// By name with or without `CAP_`; a name that nobody knows is nobody's capability.
    fn has(&self, name: &str) -> bool {
        name.parse::<Capability>().is_ok_and(|capability| self.capabilities.contains(capability))
    }

    fn at_least(&self, major: u32, minor: u32) -> bool {
        self.kernel >= KernelVersion { major, minor }
    }
}

impl Arch {
    /// The name in the `arches` lists of profiles.
    const fn profile_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// libseccomp's name.
    const fn seccomp_name(self) -> &'static str {
        match self {
            Self::X86_64 => "SCMP_ARCH_X86_64",
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
        }
    }

    /// libseccomp's names of this architecture and of those whose programs run on it too.
    const fn compatible(self) -> &'static [&'static str] {
        match self {
            Self::X86_64 => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            Self::Aarch64 => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        }
    }
}

/// The built-in profile for a container.
#[must_use]
pub fn default_profile(conditions: &Conditions) -> Seccomp {
    let holds = |when: &When| match when {
        When::Kernel(major, minor) => conditions.at_least(*major, *minor),
        When::Arch(arch) => *arch == conditions.arch,
        When::With(name) => conditions.has(name),
    };
    let mut syscalls: Vec<_> =
        table::ERRNO.iter().map(|(name, errno)| refuse(name, *errno)).collect();
    syscalls.push(allow(table::ALLOWED, None));
    for (when, names) in table::CONDITIONAL {
        if holds(when) {
            syscalls.push(allow(names, None));
        }
    }
    for (name, condition) in table::BY_ARGUMENT {
        syscalls.push(allow(&[name], Some(*condition)));
    }
    for (capability, name, condition) in table::BY_ARGUMENT_WITHOUT {
        if !conditions.has(capability) {
            syscalls.push(allow(&[name], Some(*condition)));
        }
    }
    for (capability, name, errno) in table::ERRNO_WITHOUT {
        if !conditions.has(capability) {
            syscalls.push(refuse(name, *errno));
        }
    }
    Seccomp {
        default_action: Action::ScmpActErrno,
        default_errno_ret: Some(table::EPERM),
        architectures: conditions.arch.compatible().iter().map(|a| (*a).to_owned()).collect(),
        flags: Vec::new(),
        syscalls,
    }
}

fn refuse(name: &str, errno: u32) -> SyscallRule {
    SyscallRule {
        names: vec![name.to_owned()],
        action: Action::ScmpActErrno,
        errno_ret: Some(errno),
        args: Vec::new(),
    }
}

fn allow(names: &[&str], condition: Option<table::Condition>) -> SyscallRule {
    SyscallRule {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        action: Action::ScmpActAllow,
        errno_ret: None,
        args: condition
            .into_iter()
            .map(|(op, value, value_two)| SyscallArg { index: 0, value, value_two, op })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::spec::Operator;

    pub(super) fn conditions(capabilities: CapabilitySet) -> Conditions {
        Conditions {
            arch: Arch::X86_64,
            kernel: KernelVersion { major: 6, minor: 18 },
            capabilities,
        }
    }

    fn unconditional(profile: &Seccomp) -> BTreeSet<&str> {
        profile
            .syscalls
            .iter()
            .filter(|rule| rule.action == Action::ScmpActAllow && rule.args.is_empty())
            .flat_map(|rule| rule.names.iter().map(String::as_str))
            .collect()
    }

    /// Whether a first argument passes one of the rules of a call.
    fn passes(profile: &Seccomp, name: &str, value: u64) -> bool {
        profile
            .syscalls
            .iter()
            .filter(|rule| {
                rule.action == Action::ScmpActAllow && rule.names.iter().any(|n| n == name)
            })
            .any(|rule| {
                rule.args.iter().all(|arg| match arg.op {
                    Operator::ScmpCmpLt => value < arg.value,
                    Operator::ScmpCmpEq => value == arg.value,
                    Operator::ScmpCmpGt => value > arg.value,
                    Operator::ScmpCmpMaskedEq => value & arg.value == arg.value_two,
                    other => panic!("{other:?}"),
                })
            })
    }

    #[test]
    fn a_default_container() {
        let profile = default_profile(&conditions(CapabilitySet::DEFAULT));
        let allowed = unconditional(&profile);
        for name in ["read", "execve", "ptrace", "chroot", "arch_prctl", "futex_waitv"] {
            assert!(allowed.contains(name), "{name}");
        }
        for name in [
            "mount",
            "unshare",
            "setns",
            "bpf",
            "keyctl",
            "add_key",
            "userfaultfd",
            "kexec_load",
            "io_uring_setup",
            "clone",
            "clone3",
            "socket",
            "personality",
            "perf_event_open",
            "init_module",
            "open_by_handle_at",
            "iopl",
            "reboot",
            "swapon",
            "mbind",
        ] {
            assert!(!allowed.contains(name), "{name}");
        }
        assert!(passes(&profile, "socket", 2) && passes(&profile, "socket", 39));
        assert!(!passes(&profile, "socket", AF_ALG) && !passes(&profile, "socket", AF_VSOCK));
        assert!(passes(&profile, "clone", 0x0100_0000 | 17));
        for namespace in [1_u64 << 17, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30] {
            assert!(!passes(&profile, "clone", namespace | 17), "{namespace:x}");
        }
        let socketcall = &profile.syscalls[0];
        assert_eq!(socketcall.names, ["socketcall"]);
        assert_eq!((socketcall.action, socketcall.errno_ret), (Action::ScmpActErrno, Some(38)));
        let clone3 = profile.syscalls.iter().find(|rule| rule.names == ["clone3"]).unwrap();
        assert_eq!((clone3.action, clone3.errno_ret), (Action::ScmpActErrno, Some(38)));
        assert_eq!(profile.default_action, Action::ScmpActErrno);
        assert_eq!(profile.architectures[0], "SCMP_ARCH_X86_64");
        assert_eq!(profile.architectures.len(), 3);
    }

    const AF_ALG: u64 = 38;
    const AF_VSOCK: u64 = 40;

    #[test]
    fn capabilities_open_their_calls() {
        let profile = default_profile(&conditions(CapabilitySet::ALL));
        let allowed = unconditional(&profile);
        for name in ["mount", "clone", "clone3", "bpf", "reboot", "init_module", "mbind"] {
            assert!(allowed.contains(name), "{name}");
        }
        assert!(!allowed.contains("io_uring_setup"));
        let refused = profile.syscalls.iter().filter(|rule| rule.action != Action::ScmpActAllow);
        let refused: Vec<_> = refused.flat_map(|rule| &rule.names).collect();
        assert_eq!(refused, ["socketcall"]);
    }

    #[test]
    fn old_kernels_and_other_machines() {
        let old = Conditions {
            arch: Arch::Aarch64,
            kernel: KernelVersion { major: 4, minor: 7 },
            capabilities: CapabilitySet::DEFAULT,
        };
        let profile = default_profile(&old);
        let allowed = unconditional(&profile);
        assert!(!allowed.contains("ptrace") && !allowed.contains("arch_prctl"));
        assert!(allowed.contains("cacheflush"));
        assert_eq!(profile.architectures, ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]);
    }

    #[test]
    fn the_table_names_nothing_twice() {
        let mut seen = BTreeSet::new();
        for name in table::ALLOWED {
            assert!(seen.insert(*name), "{name}");
        }
        assert_eq!(table::ALLOWED.len(), 360);
        for (when, names) in table::CONDITIONAL {
            if let When::With(name) = when {
                assert!(name.parse::<Capability>().is_ok(), "{name}");
            }
            assert!(names.iter().all(|name| !seen.contains(name)), "{names:?}");
        }
    }
}
