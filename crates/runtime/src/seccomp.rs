//! Seccomp profiles: compiled once to the kernel's filter program, remembered, and loaded by the
//! process that they restrict.
//!
//! Compiling Docker's default profile costs more than everything else that `create` does, and
//! nearly all containers share it. The program is therefore kept below the root directory under
//! a hash of the profile, together with the profile itself, which is compared on every use: a
//! collision costs a compilation and nothing else. `exec` loads the program that `create` stored
//! with the container, so a changed bundle does not weaken a running container.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use libseccomp::error::SeccompError;
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator,
};

use crate::error::{IoContext, RuntimeError, SystemContext};

/// The directory of compiled profiles below the root; no container id begins with a dot.
const CACHE_DIR: &str = ".seccomp";
/// The first bytes of a stored filter: format and byte order of this machine.
const MAGIC: [u8; 8] = *b"pouchbp1";
/// Size of one instruction (`struct sock_filter`).
const INSTRUCTION: usize = 8;
/// The kernel's limit of instructions (`BPF_MAXINSNS`).
const INSTRUCTIONS_MAX: usize = 4096;

/// A program that the kernel can load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Flags of `seccomp(2)`.
    flags: u32,
    program: Vec<u8>,
}

impl Filter {
    /// The program for `profile`, from the cache below `root` or compiled now.
    pub(crate) fn of(profile: &LinuxSeccomp, root: &Path) -> Result<Self, RuntimeError> {
        let key = serde_json::to_vec(profile)
            .map_err(|source| RuntimeError::library("cannot encode the seccomp profile", source))?;
        let path = root.join(CACHE_DIR).join(format!("{:016x}", fingerprint(&key)));
        if let Some(filter) = read_cached(&path, &key) {
            return Ok(filter);
        }
        let filter = compile(profile)?;
        // The cache is a convenience: a full disk must not fail the container.
        let _ = write_cached(&path, &key, &filter);
        Ok(filter)
    }

    /// The stored form, for the container's own directory.
    pub(crate) fn save(&self, path: &Path) -> Result<(), RuntimeError> {
        fs::write(path, self.encode(&[])).context("write", path)
    }

    /// Reads what [`save`](Self::save) wrote; `None` when the container has no filter.
    pub(crate) fn load(path: &Path) -> Result<Option<Self>, RuntimeError> {
        match fs::read(path) {
            Ok(bytes) => Self::decode(&bytes, &[]).map(Some).ok_or_else(|| {
                RuntimeError::Invalid(format!("{} is not a seccomp filter", path.display()))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("read", path),
        }
    }

    fn encode(&self, key: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(24 + key.len() + self.program.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&(key.len() as u64).to_ne_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(&self.flags.to_ne_bytes());
        bytes.extend_from_slice(&self.program);
        bytes
    }

    fn decode(bytes: &[u8], key: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&MAGIC)?;
        let rest = rest.strip_prefix(&(key.len() as u64).to_ne_bytes())?;
        let rest = rest.strip_prefix(key)?;
        let (flags, program) = rest.split_first_chunk::<4>()?;
        let count = program.len() / INSTRUCTION;
        let whole = program.len() % INSTRUCTION == 0 && (1..=INSTRUCTIONS_MAX).contains(&count);
        whole.then(|| Self { flags: u32::from_ne_bytes(*flags), program: program.to_vec() })
    }

    /// Puts the calling thread under the filter, for ever. Takes CAP_SYS_ADMIN in its user
    /// namespace or the no-new-privileges bit.
    pub(crate) fn apply(&self) -> Result<(), RuntimeError> {
        let too_long = || RuntimeError::Invalid(String::from("the seccomp filter is too long"));
        let instructions: Vec<libc::sock_filter> = self
            .program
            .chunks_exact(INSTRUCTION)
            .filter_map(|chunk| <[u8; INSTRUCTION]>::try_from(chunk).ok())
            .map(|[a, b, jt, jf, k @ ..]| libc::sock_filter {
                code: u16::from_ne_bytes([a, b]),
                jt,
                jf,
                k: u32::from_ne_bytes(k),
            })
            .collect();
        let program = libc::sock_fprog {
            len: u16::try_from(instructions.len()).map_err(|_| too_long())?,
            filter: instructions.as_ptr().cast_mut(),
        };
        // SAFETY: the program points to `len` instructions, which the kernel copies and checks.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                self.flags,
                &raw const program,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()).call("seccomp") }
    }
}

/// FNV-1a, 64 bits: names a cache entry and decides nothing.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn read_cached(path: &Path, key: &[u8]) -> Option<Filter> {
    Filter::decode(&fs::read(path).ok()?, key)
}

fn write_cached(path: &Path, key: &[u8], filter: &Filter) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    let temporary = PathBuf::from(format!("{}.{}", path.display(), std::process::id()));
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = io::Write::write_all(&mut file, &filter.encode(key))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn compile(profile: &LinuxSeccomp) -> Result<Filter, RuntimeError> {
    let failed = |source: SeccompError| RuntimeError::library("cannot compile seccomp", source);
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut context = ScmpFilterContext::new(default).map_err(failed)?;
    // The bit is the specification's business, never a side effect of the filter.
    context.set_ctl_nnp(false).map_err(failed)?;
    // A binary tree over the syscall numbers; older libraries keep the linear order.
    let _ = context.set_ctl_optimize(2);
    for arch in profile.architectures().iter().flatten() {
        context.add_arch(architecture(*arch)?).map_err(failed)?;
    }
    for rule in profile.syscalls().iter().flatten() {
        let wanted = action(rule.action(), rule.errno_ret())?;
        if wanted == default {
            continue;
        }
        let comparisons: Vec<_> =
            rule.args().iter().flatten().map(comparison).collect::<Result<_, _>>()?;
        for name in rule.names() {
            // A name that this library does not know has no number here; nothing to permit.
            let Ok(syscall) = ScmpSyscall::from_name(name) else { continue };
            add_rule(&mut context, wanted, syscall, rule.args().as_deref(), &comparisons)
                .map_err(failed)?;
        }
    }
    let program = export(&context)?;
    let mut flags = 0;
    for flag in profile.flags().iter().flatten() {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => {
                libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW
            }
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
            }
        };
    }
    let flags = u32::try_from(flags)
        .map_err(|_| RuntimeError::Invalid(String::from("unknown seccomp flags")))?;
    let filter = Filter { flags, program };
    // The same check as on reading, so that what is compiled can also be stored.
    Filter::decode(&filter.encode(&[]), &[])
        .ok_or_else(|| RuntimeError::Invalid(String::from("the seccomp filter is too long")))
}

fn export(context: &ScmpFilterContext) -> Result<Vec<u8>, RuntimeError> {
    let memory = rustix::fs::memfd_create("seccomp", rustix::fs::MemfdFlags::CLOEXEC)
        .call("memfd_create")?;
    context
        .export_bpf(&memory)
        .map_err(|source| RuntimeError::library("cannot compile seccomp", source))?;
    let mut file = fs::File::from(memory);
    let mut program = Vec::new();
    io::Seek::rewind(&mut file)
        .and_then(|()| io::Read::read_to_end(&mut file, &mut program))
        .call("reading the seccomp filter")?;
    Ok(program)
}

/// Conditions on different arguments must all hold; several on the same argument cannot be put
/// into one rule and are alternatives, as in every other runtime.
fn add_rule(
    context: &mut ScmpFilterContext,
    action: ScmpAction,
    syscall: ScmpSyscall,
    args: Option<&[LinuxSeccompArg]>,
    comparisons: &[ScmpArgCompare],
) -> Result<(), SeccompError> {
    let args = args.unwrap_or_default();
    let repeats = args
        .iter()
        .enumerate()
        .any(|(i, a)| args.iter().skip(i + 1).any(|b| b.index() == a.index()));
    if comparisons.is_empty() {
        context.add_rule(action, syscall)?;
    } else if repeats {
        for one in comparisons {
            context.add_rule_conditional(action, syscall, std::slice::from_ref(one))?;
        }
    } else {
        context.add_rule_conditional(action, syscall, comparisons)?;
    }
    Ok(())
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, RuntimeError> {
    // EPERM, the specification's default.
    let errno = errno.unwrap_or(1);
    let number = || {
        i32::try_from(errno)
            .map_err(|_| RuntimeError::Invalid(format!("seccomp errno {errno} is out of range")))
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(number()?),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            ScmpAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActTrace => {
            ScmpAction::Trace(u16::try_from(errno).map_err(|_| {
                RuntimeError::Invalid(format!("seccomp trace value {errno} is out of range"))
            })?)
        }
        LinuxSeccompAction::ScmpActNotify => {
            return Err(RuntimeError::Unsupported(String::from(
                "the seccomp action SCMP_ACT_NOTIFY",
            )));
        }
    })
}

fn comparison(arg: &LinuxSeccompArg) -> Result<ScmpArgCompare, RuntimeError> {
    let index = u32::try_from(arg.index())
        .ok()
        .filter(|index| *index < 6)
        .ok_or_else(|| RuntimeError::Invalid(format!("seccomp argument {} of 6", arg.index())))?;
    // A masked comparison has the mask in `value` and the datum in `valueTwo`.
    let (op, value) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (ScmpCompareOp::MaskedEqual(arg.value()), arg.value_two().unwrap_or(0))
        }
    };
    Ok(ScmpArgCompare::new(index, op, value))
}

fn architecture(arch: Arch) -> Result<ScmpArch, RuntimeError> {
    Ok(match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        other => {
            return Err(RuntimeError::Unsupported(format!("the seccomp architecture {other:?}")));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn profile(syscalls: serde_json::Value) -> LinuxSeccomp {
        serde_json::from_value(json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": syscalls,
        }))
        .unwrap()
    }

    #[test]
    fn a_program_survives_storage() {
        let dir = tempfile::tempdir().unwrap();
        let profile = profile(json!([{ "names": ["read"], "action": "SCMP_ACT_ALLOW" }]));
        let filter = compile(&profile).unwrap();
        let path = dir.path().join("f");
        filter.save(&path).unwrap();
        assert_eq!(Filter::load(&path).unwrap(), Some(filter));
        assert_eq!(Filter::load(&dir.path().join("none")).unwrap(), None);
    }

    #[test]
    fn the_cache_answers_only_for_the_same_profile() {
        let dir = tempfile::tempdir().unwrap();
        let profile = profile(json!([{ "names": ["read"], "action": "SCMP_ACT_ALLOW" }]));
        let filter = Filter::of(&profile, dir.path()).unwrap();
        let entries: Vec<_> =
            fs::read_dir(dir.path().join(CACHE_DIR)).unwrap().map(|e| e.unwrap().path()).collect();
        let [entry] = entries.as_slice() else { panic!("{entries:?}") };
        let key = serde_json::to_vec(&profile).unwrap();
        assert_eq!(read_cached(entry, &key), Some(filter));
        assert_eq!(read_cached(entry, b"{}"), None);
    }

    #[test]
    fn a_damaged_file_is_no_filter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"pouchbp1\0\0\0\0\0\0\0\0\0\0\0\0abc").unwrap();
        assert!(Filter::load(&path).is_err());
    }

    #[test]
    fn unknown_names_are_skipped_and_notify_is_refused() {
        assert!(
            compile(&profile(json!([{ "names": ["no_such"], "action": "SCMP_ACT_ALLOW" }])))
                .is_ok()
        );
        assert!(
            compile(&profile(json!([{ "names": ["read"], "action": "SCMP_ACT_NOTIFY" }]))).is_err()
        );
    }

    #[test]
    fn two_conditions_on_one_argument_are_alternatives() {
        let arg = |value: u64| json!({ "index": 0, "value": value, "op": "SCMP_CMP_EQ" });
        let rule = json!([{ "names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [arg(0), arg(8)] }]);
        assert!(compile(&profile(rule)).is_ok());
    }
}
