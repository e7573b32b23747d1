//! Mounts of a container: Docker's own, in Docker's order, then the user's by depth.
//!
//! The checks here are on the words of a destination. That a symbolic link of the image does not
//! lead such a word elsewhere is the business of whoever mounts.

use std::collections::BTreeSet;

use pouch_types::spec::{IpcMode, Propagation, ReadOnlyRecursion};

use crate::context::{Access, BuildContext, ResolvedKind, ResolvedMount, SourcePropagation};
use crate::error::SpecError;
use crate::spec::Mount;

/// Mounts in one request.
const MAX_MOUNTS: usize = 4096;
/// Bytes of a path, PATH_MAX.
const MAX_PATH: usize = 4096;
pub(crate) const FIELD: &str = "HostConfig.Binds";
const TMPFS: &str = "HostConfig.Tmpfs";

/// The files that lxcfs provides: a container's own view of its limits. Nothing else may be
/// mounted at or below `/proc`, for a covered `/proc/self/attr` or `/proc/sys` sends what the
/// runtime writes there elsewhere.
const PROC_FILES: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/pressure/cpu",
    "/proc/pressure/io",
    "/proc/pressure/memory",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
];

/// Mounts, and what the root mount must be for them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Mounts {
    pub(crate) list: Vec<Mount>,
    /// Empty, `slave` or `shared`: the words that every runtime knows.
    pub(crate) rootfs_propagation: &'static str,
}

/// All mounts of a container, without that of its init.
pub(crate) fn resolve(context: &BuildContext<'_>) -> Result<Mounts, SpecError> {
    if context.mounts.len() > MAX_MOUNTS {
        return Err(SpecError::invalid(FIELD, format!("more than {MAX_MOUNTS} mounts")));
    }
    let mut destinations = BTreeSet::new();
    for mount in context.mounts {
        check_destination(FIELD, &mount.destination)?;
        if !destinations.insert(mount.destination.as_str()) {
            return Err(SpecError::invalid(
                FIELD,
                format!("Duplicate mount point: {}", mount.destination),
            ));
        }
    }
    let own_dev = destinations.contains("/dev");
    let replaced = |destination: &str| {
        destinations.contains(destination) || own_dev && destination.starts_with("/dev/")
    };
    let mut list: Vec<Mount> =
        defaults(context).into_iter().filter(|mount| !replaced(&mount.destination)).collect();

    let spec = context.spec;
    let privileged = spec.security.privileged;
    if spec.read_only_rootfs {
        // Of the default ones only /sys and the cgroups are left to be read-only; what the
        // container needs to write to at all stays writable.
        for mount in &mut list {
            let writable = ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"]
                .contains(&mount.destination.as_str());
            if !writable && !mount.options.iter().any(|option| option == "ro") {
                mount.options.push("ro".to_owned());
            }
        }
    }
    // In a user namespace the cgroup mount cannot be remounted; its files belong to others there.
    let writable_cgroups = privileged || context.namespaces.user.is_some();
    for mount in &mut list {
        if mount.kind == "sysfs" && privileged || mount.kind == "cgroup" && writable_cgroups {
            mount.options.retain(|option| option != "ro");
        }
    }

    let mut rootfs_propagation = "";
    let mut asked: Vec<&ResolvedMount> = context.mounts.iter().collect();
    // Stable: what was given first is mounted first among those of one depth.
    asked.sort_by_key(|mount| depth(&mount.destination));
    for mount in asked {
        list.push(user_mount(mount, context)?);
        rootfs_propagation = match (mount.propagation, rootfs_propagation) {
            (Some(Propagation::Shared | Propagation::Rshared), _) => "shared",
            (Some(Propagation::Slave | Propagation::Rslave), "") => "slave",
            (_, before) => before,
        };
    }
    Ok(Mounts { list, rootfs_propagation })
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.to_owned(),
        kind: kind.to_owned(),
        source: source.to_owned(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..Mount::default()
    }
}

fn defaults(context: &BuildContext<'_>) -> Vec<Mount> {
    let mut list = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ];
    let shm = match (&context.spec.namespaces.ipc, &context.namespaces.shm) {
        (IpcMode::None, _) => None,
        (_, Some(path)) => Some(mount("/dev/shm", "bind", path, &["rbind", "rprivate"])),
        (IpcMode::Host, None) => {
            Some(mount("/dev/shm", "bind", "/dev/shm", &["rbind", "rprivate"]))
        }
        (IpcMode::Private | IpcMode::Shareable | IpcMode::Container(_) | IpcMode::Pod, None) => {
            let bytes = context.spec.shm_size.unwrap_or(context.defaults.shm_size);
            let size = format!("size={bytes}");
            let options = ["nosuid", "noexec", "nodev", "mode=1777", size.as_str()];
            Some(mount("/dev/shm", "tmpfs", "shm", &options))
        }
    };
    list.extend(shm);
    list
}

fn user_mount(asked: &ResolvedMount, context: &BuildContext<'_>) -> Result<Mount, SpecError> {
    match &asked.kind {
        ResolvedKind::Bind { source, non_recursive, source_propagation } => {
            check_path(FIELD, source)?;
            check_propagation(asked, source, *source_propagation)?;
            let mut options = vec![if *non_recursive { "bind" } else { "rbind" }];
            options.extend(read_only(asked, context)?);
            options.push(asked.propagation.unwrap_or(Propagation::Rprivate).as_str());
            let mut bind = mount(&asked.destination, "bind", source, &options);
            if let Some(maps) = context.namespaces.user.as_ref().filter(|_| asked.mapped) {
                bind.uid_mappings.clone_from(&maps.uids);
                bind.gid_mappings.clone_from(&maps.gids);
            }
            Ok(bind)
        }
        ResolvedKind::Other { kind, source, options } => {
            let mut options: Vec<&str> = options.iter().map(String::as_str).collect();
            // What a snapshot says of itself stands against it being read-only here.
            options.retain(|option| *option != "rw");
            options.extend(["ro", "nosuid", "nodev"]);
            Ok(mount(&asked.destination, kind, source, &options))
        }
        ResolvedKind::Tmpfs { size, mode, options } => {
            let mut all = vec!["noexec", "nosuid", "nodev", "rprivate"];
            all.extend(options.iter().map(String::as_str));
            let size = size.map(|bytes| format!("size={bytes}"));
            all.extend(size.as_deref());
            let mode = mode.map(|mode| format!("mode={mode:o}"));
            all.extend(mode.as_deref());
            if asked.access != Access::ReadWrite {
                all.push("ro");
            }
            Ok(mount(&asked.destination, "tmpfs", "tmpfs", &merge_tmpfs(&all)?))
        }
    }
}

fn read_only(
    asked: &ResolvedMount,
    context: &BuildContext<'_>,
) -> Result<Option<&'static str>, SpecError> {
    let recursive = context.host.recursive_read_only();
    Ok(match asked.access {
        Access::ReadWrite => None,
        Access::ReadOnly(ReadOnlyRecursion::Never) => Some("ro"),
        Access::ReadOnly(ReadOnlyRecursion::Best) => Some(if recursive { "rro" } else { "ro" }),
        Access::ReadOnly(ReadOnlyRecursion::Force) => {
            if !recursive {
                return Err(SpecError::unsupported(
                    "HostConfig.Mounts",
                    "ReadOnlyForceRecursive needs Linux 5.12 or newer",
                ));
            }
            // What is mounted on the host later would appear writable.
            if !matches!(asked.propagation, None | Some(Propagation::Rprivate)) {
                return Err(SpecError::invalid(
                    "HostConfig.Mounts",
                    "ReadOnlyForceRecursive requires Propagation: \"rprivate\"",
                ));
            }
            Some("rro")
        }
    })
}

fn check_propagation(
    asked: &ResolvedMount,
    source: &str,
    found: SourcePropagation,
) -> Result<(), SpecError> {
    let wrong = |wanted: &str| {
        Err(SpecError::invalid(
            FIELD,
            format!("path {source} is mounted on a mount that is not {wanted}"),
        ))
    };
    match (asked.propagation, found) {
        (_, SourcePropagation::Unknown) => Ok(()),
        (
            Some(Propagation::Shared | Propagation::Rshared),
            SourcePropagation::Private | SourcePropagation::Slave,
        ) => wrong("shared"),
        (Some(Propagation::Slave | Propagation::Rslave), SourcePropagation::Private) => {
            wrong("shared or slave")
        }
        _ => Ok(()),
    }
}

/// Absolute and clean, as a path of the host or of the container.
pub(crate) fn check_path(field: &'static str, path: &str) -> Result<(), SpecError> {
    let shown = || path.chars().take(256).collect::<String>();
    let Some(rest) = path.strip_prefix('/') else {
        return Err(SpecError::invalid(field, format!("{:?} is not an absolute path", shown())));
    };
    if path.len() > MAX_PATH || path.contains(|c: char| c.is_control()) {
        return Err(SpecError::invalid(field, format!("{:?} is no usable path", shown())));
    }
    let parts = rest.trim_end_matches('/').split('/');
    if !rest.is_empty() && parts.into_iter().any(|part| matches!(part, "" | "." | "..")) {
        return Err(SpecError::invalid(field, format!("{:?} is not a clean path", shown())));
    }
    Ok(())
}

/// A place in the container where something may be mounted.
pub(crate) fn check_destination(field: &'static str, path: &str) -> Result<(), SpecError> {
    check_path(field, path)?;
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return Err(SpecError::invalid(field, "destination can't be '/'"));
    }
    let in_proc = path == "/proc" || path.starts_with("/proc/");
    if in_proc && !PROC_FILES.contains(&path) {
        return Err(SpecError::invalid(
            field,
            format!("{path} cannot be mounted because it is inside /proc"),
        ));
    }
    Ok(())
}

pub(crate) fn depth(path: &str) -> usize {
    path.trim_end_matches('/').matches('/').count()
}

/// What an option sets, so that the last of two that contradict each other wins.
fn tmpfs_key(option: &str) -> Option<&str> {
    Some(match option {
        "ro" | "rw" => "ro",
        "suid" | "nosuid" => "suid",
        "dev" | "nodev" => "dev",
        "exec" | "noexec" => "exec",
        "sync" | "async" => "sync",
        "atime" | "noatime" => "atime",
        "diratime" | "nodiratime" => "diratime",
        "relatime" | "norelatime" => "relatime",
        "strictatime" | "nostrictatime" => "strictatime",
        "mand" | "nomand" => "mand",
        "dirsync" => "dirsync",
        "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" | "unbindable"
        | "runbindable" => "propagation",
        _ => {
            let (name, value) = option.split_once('=')?;
            let plain = value.bytes().all(|b| b.is_ascii_graphic() && b != b',');
            let known =
                ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"].contains(&name);
            if !known || !plain || value.is_empty() {
                return None;
            }
            name
        }
    })
}

/// Each thing set once, by the last option that sets it, in the order of these.
fn merge_tmpfs<'a>(options: &[&'a str]) -> Result<Vec<&'a str>, SpecError> {
    let mut seen = BTreeSet::new();
    let mut merged = Vec::new();
    for option in options.iter().rev().filter(|option| **option != "defaults") {
        let key = tmpfs_key(option).ok_or_else(|| {
            let shown: String = option.chars().take(64).collect();
            SpecError::invalid(TMPFS, format!("invalid tmpfs option {shown:?}"))
        })?;
        if seen.insert(key) {
            merged.push(*option);
        }
    }
    merged.reverse();
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_over_proc() {
        for path in [
            "/",
            "//",
            "/proc",
            "/proc/",
            "/proc/self",
            "/proc/self/attr",
            "/proc/sys/net",
            "/proc/cpuinfo/x",
            "/proc/pressure",
            "/a/../proc",
            "/./proc",
            "//proc",
            "proc",
            "",
            "/a\n",
            "/a\0b",
        ] {
            assert!(check_destination(FIELD, path).is_err(), "{path:?}");
        }
        for path in
            ["/proc/cpuinfo", "/proc/uptime", "/process", "/sys/fs/cgroup", "/data/", "/a b"]
        {
            assert!(check_destination(FIELD, path).is_ok(), "{path:?}");
        }
    }

    #[test]
    fn the_last_tmpfs_option_wins() {
        assert_eq!(
            merge_tmpfs(&["noexec", "nosuid", "nodev", "rprivate", "exec", "size=1", "size=2"])
                .unwrap(),
            ["nosuid", "nodev", "rprivate", "exec", "size=2"]
        );
        assert_eq!(merge_tmpfs(&["defaults", "rw", "ro"]).unwrap(), ["ro"]);
        for option in ["size", "size=", "bind", "remount", "lowerdir=/", "size=1,uid=0", "uid=0 0"]
        {
            assert!(merge_tmpfs(&[option]).is_err(), "{option}");
        }
    }

    #[test]
    fn depths() {
        assert!(depth("/a") < depth("/a/b"));
        assert_eq!(depth("/a/"), depth("/b"));
    }
}
