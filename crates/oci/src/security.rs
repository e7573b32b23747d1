//! Hardening beyond capabilities: covered paths, labels, filters, annotations.

use std::collections::BTreeMap;

use pouch_types::spec::{Seccomp as Asked, SecuritySpec};

use crate::capability::CapabilitySet;
use crate::context::{BuildContext, Defaults};
use crate::error::SpecError;
use crate::host::HostFeatures;
use crate::mount::check_path;
use crate::seccomp::{Conditions, default_profile, parse_profile};
use crate::spec::Seccomp;

const FIELD: &str = "HostConfig.SecurityOpt";
/// Paths in one list.
const MAX_PATHS: usize = 1024;
/// Annotations, and bytes of a name or value.
const MAX_ANNOTATIONS: usize = 1024;
const MAX_ANNOTATION: usize = 256 << 10;

/// What `/proc` and `/sys` say about the machine rather than about the container. `interrupts`
/// and `thermal_throttle` count what others do, `powercap` measures what they compute on.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Names by which runtimes take orders, whatever the daemon's configuration lets through.
const RESERVED_ANNOTATIONS: [&str; 9] = [
    "run.oci.",
    "org.systemd.property.",
    "org.criu.",
    "org.opencontainers.",
    "io.containerd.",
    "io.kubernetes.",
    "io.katacontainers.",
    "module.wasm.",
    "dev.pouch.",
];

/// Paths that are covered in a container which asks for nothing else.
#[must_use]
pub fn default_masked_paths(host: &HostFeatures) -> Vec<String> {
    let mut paths: Vec<String> = MASKED.map(str::to_owned).to_vec();
    paths.extend_from_slice(&host.thermal_throttle);
    paths
}

/// Paths that are read-only in a container which asks for nothing else.
#[must_use]
pub fn default_readonly_paths() -> Vec<String> {
    READ_ONLY.map(str::to_owned).to_vec()
}

/// Paths to cover.
pub(crate) fn masked(
    security: &SecuritySpec,
    host: &HostFeatures,
) -> Result<Vec<String>, SpecError> {
    match &security.masked_paths {
        Some(paths) => checked("HostConfig.MaskedPaths", paths),
        None if security.privileged => Ok(Vec::new()),
        None => Ok(default_masked_paths(host)),
    }
}

/// Paths to make read-only.
pub(crate) fn read_only(security: &SecuritySpec) -> Result<Vec<String>, SpecError> {
    match &security.readonly_paths {
        Some(paths) => checked("HostConfig.ReadonlyPaths", paths),
        None if security.privileged => Ok(Vec::new()),
        None => Ok(default_readonly_paths()),
    }
}

fn checked(field: &'static str, paths: &[String]) -> Result<Vec<String>, SpecError> {
    if paths.len() > MAX_PATHS {
        return Err(SpecError::invalid(field, "too many paths"));
    }
    for path in paths {
        check_path(field, path)?;
    }
    Ok(paths.to_vec())
}

/// The filter of a container; `None` is none.
pub(crate) fn seccomp(
    security: &SecuritySpec,
    defaults: &Defaults,
    host: &HostFeatures,
    granted: CapabilitySet,
    warnings: &mut Vec<String>,
) -> Result<Option<Seccomp>, SpecError> {
    let conditions = Conditions::new(host, granted);
    if !host.seccomp {
        return match &security.seccomp {
            Asked::Profile(_) => Err(SpecError::unsupported(
                FIELD,
                "seccomp is not enabled in your kernel, cannot run a custom seccomp profile",
            )),
            Asked::Default if !security.privileged => {
                warnings.push(
                    "Your kernel does not support seccomp. The container runs without a system call filter."
                        .to_owned(),
                );
                Ok(None)
            }
            Asked::Default | Asked::Unconfined => Ok(None),
        };
    }
    match (&security.seccomp, &defaults.seccomp) {
        (Asked::Unconfined, _) => Ok(None),
        (Asked::Profile(text), _) => parse_profile(text, &conditions),
        (Asked::Default, _) if security.privileged => Ok(None),
        (Asked::Default, Some(text)) => parse_profile(text, &conditions),
        (Asked::Default, None) => Ok(Some(default_profile(&conditions))),
    }
}

/// Name of the AppArmor profile; empty where the kernel has no AppArmor.
pub(crate) fn apparmor(
    security: &SecuritySpec,
    defaults: &Defaults,
    host: &HostFeatures,
    warnings: &mut Vec<String>,
) -> Result<String, SpecError> {
    let asked = security.apparmor.as_deref().filter(|name| !name.is_empty());
    if let Some(name) = asked
        && (name.len() > 4096 || name.contains(|c: char| c.is_control()))
    {
        return Err(SpecError::invalid(FIELD, "name of the AppArmor profile"));
    }
    if !host.apparmor {
        if let Some(name) = asked.filter(|name| *name != "unconfined") {
            warnings
                .push(format!("Your kernel does not support AppArmor. Profile {name} discarded."));
        }
        return Ok(String::new());
    }
    Ok(match asked {
        Some(name) => name,
        None if security.privileged => "unconfined",
        None => &defaults.apparmor,
    }
    .to_owned())
}

/// Labels of the process and of its mounts; empty where the kernel has no SELinux.
pub(crate) fn selinux(context: &BuildContext<'_>) -> Result<(String, String), SpecError> {
    let asked = &context.spec.security.selinux;
    let disabled = asked.iter().any(|option| option == "disable");
    let wanted = asked.iter().any(|option| option != "disable");
    match context.selinux.filter(|_| context.host.selinux && !disabled) {
        Some((process, mounts)) => Ok((process.to_owned(), mounts.to_owned())),
        None if wanted && !disabled => {
            Err(SpecError::unsupported(FIELD, "label: SELinux is not enabled on this host"))
        }
        None => Ok((String::new(), String::new())),
    }
}

/// Annotations that reach the runtime.
pub(crate) fn annotations(
    asked: &BTreeMap<String, String>,
    defaults: &Defaults,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<String, String>, SpecError> {
    const FIELD: &str = "HostConfig.Annotations";
    if asked.len() > MAX_ANNOTATIONS {
        return Err(SpecError::invalid(FIELD, "too many annotations"));
    }
    let mut passed = BTreeMap::new();
    for (name, value) in asked {
        if name.is_empty() || name.len() > MAX_ANNOTATION || value.len() > MAX_ANNOTATION {
            return Err(SpecError::invalid(FIELD, "an annotation without a name or too long"));
        }
        let starts = |prefix: &str| name.starts_with(prefix);
        let allowed = defaults.annotation_prefixes.iter().any(|prefix| starts(prefix))
            && !RESERVED_ANNOTATIONS.iter().any(|prefix| starts(prefix));
        if allowed {
            passed.insert(name.clone(), value.clone());
        } else {
            let shown: String = name.chars().take(128).collect();
            warnings.push(format!(
                "Annotation {shown:?} is not passed to the runtime: it is not on the daemon's list."
            ));
        }
    }
    Ok(passed)
}
