//! Profiles in Docker's format: an OCI filter with conditions.
//!
//! The text comes with a request, so its bytes and counts are capped. Conditions are resolved
//! here; what is left is what every runtime takes.

use serde::Deserialize;

use super::Conditions;
use crate::error::SpecError;
use crate::spec::{Action, Operator, Seccomp, SyscallArg, SyscallRule};

/// Bytes of a profile; Docker's own has 12,000.
const MAX_BYTES: usize = 1 << 20;
/// Rules of a profile.
const MAX_RULES: usize = 4096;
/// Names of all rules together.
const MAX_NAMES: usize = 16_384;
/// Bytes of a name.
const MAX_NAME: usize = 64;
/// Arguments that a system call has.
const ARGUMENTS: u8 = 6;

const FIELD: &str = "HostConfig.SecurityOpt";

const ARCHITECTURES: [&str; 20] = [
    "SCMP_ARCH_NATIVE",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
];

/// Those that work without somebody who listens.
const FLAGS: [&str; 3] =
    ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: Option<String>,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Option<String>,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    includes: Option<Filter>,
    excludes: Option<Filter>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    #[serde(default)]
    index: u8,
    #[serde(default)]
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: Operator,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Reads a profile and resolves its conditions. `None` for the empty profile `{}`, which is no
/// filter at all.
///
/// # Errors
/// [`SpecError::Seccomp`] for what is no JSON of this form, [`SpecError::Invalid`] for what
/// contradicts itself or is too large, [`SpecError::Unsupported`] for rules that would need an
/// agent (`SCMP_ACT_NOTIFY`, `listenerPath`).
pub fn parse_profile(text: &str, conditions: &Conditions) -> Result<Option<Seccomp>, SpecError> {
    if text.len() > MAX_BYTES {
        return Err(wrong(format!("seccomp profile of more than {MAX_BYTES} bytes")));
    }
    let profile: Profile = serde_json::from_str(text).map_err(SpecError::Seccomp)?;
    let rules = profile.syscalls.unwrap_or_default();
    let default_action = profile.default_action.unwrap_or_default();
    if default_action.is_empty() && rules.is_empty() {
        return Ok(None);
    }
    if profile.listener_path.is_some_and(|path| !path.is_empty()) {
        return Err(SpecError::unsupported(FIELD, "listenerPath in a seccomp profile"));
    }
    let flags = profile.flags.unwrap_or_default();
    if let Some(flag) = flags.iter().find(|flag| !FLAGS.contains(&flag.as_str())) {
        return Err(SpecError::unsupported(FIELD, format!("seccomp flag {}", shown(flag))));
    }
    let architectures = architectures(profile.architectures, profile.arch_map, conditions)?;

    if rules.len() > MAX_RULES {
        return Err(wrong(format!("seccomp profile of more than {MAX_RULES} rules")));
    }
    let mut syscalls = Vec::with_capacity(rules.len());
    let mut count = 0;
    for rule in rules {
        let rule = rule.checked()?;
        count += rule.rule.names.len();
        if count > MAX_NAMES {
            return Err(wrong(format!("seccomp profile of more than {MAX_NAMES} names")));
        }
        if rule.applies(conditions)? {
            syscalls.push(rule.rule);
        }
    }
    Ok(Some(Seccomp {
        default_action: action(&default_action)?,
        default_errno_ret: profile.default_errno_ret,
        architectures,
        flags,
        syscalls,
    }))
}

fn architectures(
    listed: Option<Vec<String>>,
    map: Option<Vec<ArchMap>>,
    conditions: &Conditions,
) -> Result<Vec<String>, SpecError> {
    let listed = listed.unwrap_or_default();
    let map = map.unwrap_or_default();
    if !listed.is_empty() && !map.is_empty() {
        return Err(wrong(
            "both 'architectures' and 'archMap' are specified in the seccomp profile",
        ));
    }
    let native = conditions.arch.seccomp_name();
    let mut found = listed;
    if let Some(entry) = map.into_iter().find(|entry| entry.architecture.as_deref() == Some(native))
    {
        found.extend(entry.architecture);
        found.extend(entry.sub_architectures.unwrap_or_default());
    }
    if let Some(name) = found.iter().find(|name| !ARCHITECTURES.contains(&name.as_str())) {
        return Err(wrong(format!("unknown architecture {}", shown(name))));
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

struct Checked {
    rule: SyscallRule,
    includes: Filter,
    excludes: Filter,
}

impl Rule {
    fn checked(self) -> Result<Checked, SpecError> {
        let mut names = self.names.unwrap_or_default();
        if let Some(name) = self.name.filter(|name| !name.is_empty()) {
            if !names.is_empty() {
                return Err(wrong("both 'name' and 'names' are specified in the seccomp profile"));
            }
            names.push(name);
        }
        let is_name = |name: &String| {
            !name.is_empty()
                && name.len() <= MAX_NAME
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        if let Some(name) = names.iter().find(|name| !is_name(name)) {
            return Err(wrong(format!("system call name {}", shown(name))));
        }
        let mut args = Vec::new();
        for arg in self.args.unwrap_or_default() {
            if arg.index >= ARGUMENTS || args.len() >= usize::from(ARGUMENTS) {
                return Err(wrong("system calls have six arguments"));
            }
            let Argument { index, value, value_two, op } = arg;
            args.push(SyscallArg { index, value, value_two, op });
        }
        Ok(Checked {
            rule: SyscallRule {
                names,
                action: action(&self.action)?,
                errno_ret: self.errno_ret,
                args,
            },
            includes: self.includes.unwrap_or_default(),
            excludes: self.excludes.unwrap_or_default(),
        })
    }
}

impl Checked {
    /// Every inclusion holds and no exclusion does.
    fn applies(&self, conditions: &Conditions) -> Result<bool, SpecError> {
        let arch = conditions.arch.profile_name();
        let list = |names: &Option<Vec<String>>| names.clone().unwrap_or_default();

        let (caps, arches) = (list(&self.excludes.caps), list(&self.excludes.arches));
        if arches.iter().any(|name| name == arch)
            || caps.iter().any(|name| conditions.has(name))
            || reached(self.excludes.min_kernel.as_deref(), conditions)? == Some(true)
        {
            return Ok(false);
        }
        let (caps, arches) = (list(&self.includes.caps), list(&self.includes.arches));
        Ok((arches.is_empty() || arches.iter().any(|name| name == arch))
            && caps.iter().all(|name| conditions.has(name))
            && reached(self.includes.min_kernel.as_deref(), conditions)? != Some(false))
    }
}

/// Whether the kernel is at least the named one, `4.8`; `None` where none is named.
fn reached(version: Option<&str>, conditions: &Conditions) -> Result<Option<bool>, SpecError> {
    let Some(text) = version.filter(|text| !text.is_empty()) else { return Ok(None) };
    let parse = || {
        let (major, minor) = text.split_once('.')?;
        let (major, minor): (u8, u8) = (major.parse().ok()?, minor.parse().ok()?);
        (major != 0 || minor != 0).then_some((major, minor))
    };
    let (major, minor) = parse().ok_or_else(|| {
        wrong(format!("invalid kernel version: {}, expected \"<kernel>.<major>\"", shown(text)))
    })?;
    Ok(Some(conditions.at_least(major.into(), minor.into())))
}

fn action(name: &str) -> Result<Action, SpecError> {
    Ok(match name {
        "SCMP_ACT_KILL" => Action::ScmpActKill,
        "SCMP_ACT_KILL_PROCESS" => Action::ScmpActKillProcess,
        "SCMP_ACT_KILL_THREAD" => Action::ScmpActKillThread,
        "SCMP_ACT_TRAP" => Action::ScmpActTrap,
        "SCMP_ACT_ERRNO" => Action::ScmpActErrno,
        "SCMP_ACT_TRACE" => Action::ScmpActTrace,
        "SCMP_ACT_ALLOW" => Action::ScmpActAllow,
        "SCMP_ACT_LOG" => Action::ScmpActLog,
        "SCMP_ACT_NOTIFY" => {
            return Err(SpecError::unsupported(FIELD, "SCMP_ACT_NOTIFY in a seccomp profile"));
        }
        other => return Err(wrong(format!("seccomp action {}", shown(other)))),
    })
}

fn wrong(detail: impl Into<String>) -> SpecError {
    SpecError::invalid(FIELD, detail)
}

/// A piece of the profile for a message.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(64).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::CapabilitySet;
    use crate::seccomp::tests::conditions;

    fn parse(text: &str) -> Result<Option<Seccomp>, SpecError> {
        parse_profile(text, &conditions(CapabilitySet::DEFAULT))
    }

    fn names(text: &str) -> Vec<String> {
        parse(text).unwrap().unwrap().syscalls.into_iter().flat_map(|rule| rule.names).collect()
    }

    #[test]
    fn conditions_decide() {
        let text = r#"{
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
            "archMap": [
                {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
            "syscalls": [
                {"name": "old", "action": "SCMP_ACT_ALLOW", "args": null},
                {"names": ["a"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_CHOWN"]}},
                {"names": ["b"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["c"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_CHOWN"]}},
                {"names": ["d"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64"]}},
                {"names": ["e"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
                {"names": ["f"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
                {"names": ["g"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.1"}},
                {"names": ["h"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "4.8"}},
                {"names": ["i"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_OF_TOMORROW"]}},
                {"names": ["j"], "action": "SCMP_ACT_LOG", "comment": "x",
                 "args": [{"index": 1, "value": 18446744073709551615, "op": "SCMP_CMP_EQ"}]}
            ]}"#;
        assert_eq!(names(text), ["old", "a", "d", "f", "j"]);
        let profile = parse(text).unwrap().unwrap();
        assert_eq!(profile.default_errno_ret, Some(38));
        assert_eq!(profile.architectures, ["SCMP_ARCH_X86", "SCMP_ARCH_X86_64"]);
        assert_eq!(profile.syscalls.last().unwrap().args[0].value, u64::MAX);
    }

    #[test]
    fn the_empty_profile_is_no_filter() {
        assert_eq!(parse("{}").unwrap(), None);
        assert_eq!(parse(r#"{"syscalls": null}"#).unwrap(), None);
    }

    #[test]
    fn agents_are_refused_by_name() {
        for text in [
            r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent.sock"}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#,
        ] {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, SpecError::Unsupported { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "[]",
            "null",
            "{\"defaultAction\": 1}",
            r#"{"defaultAction": "SCMP_ACT_DANCE"}"#,
            r#"{"syscalls": [{"names": ["a"], "action": "SCMP_ACT_ALLOW"}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_VAX"]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "archMap": [{}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "names": ["b"], "action": "SCMP_ACT_ALLOW"}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a b"], "action": "SCMP_ACT_ALLOW"}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "op": "SCMP_CMP_EQ"}]}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "4"}}]}"#,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_capped() {
        let blank = " ".repeat(MAX_BYTES + 1);
        assert!(matches!(parse(&blank), Err(SpecError::Invalid { .. })));
        let rule = r#"{"names": ["a"], "action": "SCMP_ACT_ALLOW"}"#;
        let many = |count: usize| {
            let rules = vec![rule; count].join(",");
            parse(&format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{rules}]}}"#))
        };
        assert!(many(MAX_RULES).is_ok());
        assert!(matches!(many(MAX_RULES + 1), Err(SpecError::Invalid { .. })));
    }
}
