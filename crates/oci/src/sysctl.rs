//! Kernel parameters of a container: only those that its own namespaces hold.
//!
//! A parameter outside them would be the host's. So there is a list of what may be set, each with
//! the namespace that it needs; everything else is refused by name, whoever asks.

use std::collections::BTreeMap;

use pouch_types::spec::{ContainerSpec, IpcMode};

use crate::context::{IdMaps, NetworkNamespace, ResolvedNamespaces};
use crate::error::SpecError;
use crate::host::HostFeatures;

const FIELD: &str = "HostConfig.Sysctls";
/// Parameters in one request.
const MAX_SYSCTLS: usize = 1024;
/// Bytes of a name or a value; the kernel takes a page.
const MAX_BYTES: usize = 4096;

/// Parameters of System V IPC.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// What every container with a network of its own gets unless it says otherwise: ports below 1024
/// and ping without capabilities.
pub const NETWORK_DEFAULTS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", PING_GROUPS)];

const PING_GROUPS: &str = "0 2147483647";

/// The parameters of a container.
pub(crate) fn resolve(
    spec: &ContainerSpec,
    namespaces: &ResolvedNamespaces,
    host: &HostFeatures,
) -> Result<BTreeMap<String, String>, SpecError> {
    let asked = &spec.resources.sysctls;
    if asked.len() > MAX_SYSCTLS {
        return Err(SpecError::invalid(FIELD, "too many parameters"));
    }
    let mut set = BTreeMap::new();
    if matches!(namespaces.network, NetworkNamespace::New | NetworkNamespace::Own(_)) {
        for (name, value) in NETWORK_DEFAULTS {
            // The kernel refuses a range with groups that the user namespace does not map.
            let fits = value != PING_GROUPS || namespaces.user.as_ref().is_none_or(maps_all_groups);
            if fits && host.network_sysctls.iter().any(|known| known == name) {
                set.insert(name.to_owned(), value.to_owned());
            }
        }
    }
    if !spec.domainname.is_empty() && spec.namespaces.uts == pouch_types::spec::UtsMode::Private {
        set.insert("kernel.domainname".to_owned(), spec.domainname.clone());
    }
    for (name, value) in asked {
        check(name, value, &spec.namespaces.ipc, &namespaces.network)?;
        set.insert(name.clone(), value.clone());
    }
    Ok(set)
}

fn maps_all_groups(maps: &IdMaps) -> bool {
    let mapped: u64 = maps.gids.iter().map(|map| u64::from(map.size)).sum();
    mapped > u64::from(i32::MAX as u32)
}

fn check(
    name: &str,
    value: &str,
    ipc: &IpcMode,
    network: &NetworkNamespace,
) -> Result<(), SpecError> {
    let wrong = |why: &str| {
        let name: String = name.chars().take(128).collect();
        Err(SpecError::invalid(FIELD, format!("sysctl '{}' {why}", name.escape_debug())))
    };
    // `net/ipv4/..` and `net.ipv4/../../kernel` are other spellings of paths.
    let clean = name.len() <= MAX_BYTES
        && name.split('.').all(|part| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        });
    if !clean {
        return wrong("is not a name of parts joined by dots");
    }
    // A newline would be a second line of a file, `+` and `=` a second parameter to programs that
    // join them.
    if value.len() > MAX_BYTES
        || value.contains(['+', '='])
        || value.contains(|c: char| c.is_control() && c != '\t')
    {
        return wrong("has a value with bytes that no parameter takes");
    }
    if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        return match ipc {
            IpcMode::Host => wrong("is not allowed in the host's IPC namespace"),
            IpcMode::Container(_) => wrong("is not allowed in another container's IPC namespace"),
            IpcMode::Pod => wrong("is the pod's to set"),
            IpcMode::Private | IpcMode::Shareable | IpcMode::None => Ok(()),
        };
    }
    if name.starts_with("net.") {
        return match network {
            NetworkNamespace::Host => wrong("is not allowed in the host's network namespace"),
            NetworkNamespace::Joined(_) => {
                wrong("is not allowed in another container's network namespace")
            }
            NetworkNamespace::New | NetworkNamespace::Own(_) => Ok(()),
        };
    }
    wrong("is not in a separate kernel namespace")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(name: &str, value: &str) -> bool {
        check(name, value, &IpcMode::Private, &NetworkNamespace::New).is_ok()
    }

    #[test]
    fn what_namespaces_hold() {
        for (name, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.core.somaxconn", "1024"),
            ("net.ipv4.conf.eth0.rp_filter", "2"),
            ("net.ipv4.ip_local_port_range", "1024\t65535"),
            ("net.ipv4.ip_local_reserved_ports", "8080,9000-9100"),
            ("kernel.sem", "32000 1024000000 500 32000"),
            ("fs.mqueue.msg_max", "20"),
        ] {
            assert!(allowed(name, value), "{name}");
        }
    }

    #[test]
    fn everything_else_is_the_hosts() {
        for (name, value) in [
            ("kernel.core_pattern", "|/bin/sh"),
            ("kernel.hostname", "x"),
            ("kernel.domainname", "x"),
            ("vm.swappiness", "1"),
            ("fs.file-max", "1"),
            ("fs.mqueue", "1"),
            ("net", "1"),
            ("net/ipv4/ip_forward", "1"),
            ("net.ipv4/../../kernel.core_pattern", "x"),
            ("net...kernel", "1"),
            ("net.ipv4.ip_forward\0", "1"),
            ("", "1"),
            ("net.ipv4.ip_forward", "1\nkernel.core_pattern=x"),
            ("net.ipv4.ip_forward", "1+kernel.core_pattern"),
            ("kernel.shmmax", "1=2"),
        ] {
            assert!(!allowed(name, value), "{name} {value}");
        }
    }

    #[test]
    fn shared_namespaces_are_not_ours_to_change() {
        let joined = NetworkNamespace::Joined("/proc/7/ns/net".into());
        for network in [NetworkNamespace::Host, joined] {
            assert!(check("net.core.somaxconn", "1", &IpcMode::Private, &network).is_err());
            assert!(check("kernel.sem", "1", &IpcMode::Private, &network).is_ok());
        }
        for ipc in [IpcMode::Host, IpcMode::Container("x".into())] {
            assert!(check("kernel.shmmax", "1", &ipc, &NetworkNamespace::New).is_err());
            assert!(check("fs.mqueue.msg_max", "1", &ipc, &NetworkNamespace::New).is_err());
        }
    }
}
