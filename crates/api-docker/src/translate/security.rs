//! Rights and hardening: capabilities, `--security-opt`, masked paths.

use pouch_docker_types::StrSlice;
use pouch_docker_types::container::HostConfig;
use pouch_types::spec::{ContainerSpec, Seccomp, SecuritySpec};

use super::Defaults;
use super::value::{bad, list, unsupported};
use crate::http::{ApiError, ApiResult};

/// capabilities(7), Linux 5.9 and newer.
const CAPABILITIES: [&str; 41] = [
    "CAP_AUDIT_CONTROL",
    "CAP_AUDIT_READ",
    "CAP_AUDIT_WRITE",
    "CAP_BLOCK_SUSPEND",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_KILL",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_RAW",
    "CAP_PERFMON",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_CHROOT",
    "CAP_SYS_MODULE",
    "CAP_SYS_NICE",
    "CAP_SYS_PACCT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
];

/// `net_admin`, `CAP_NET_ADMIN`, `all` to the canonical name.
fn capabilities(field: &str, names: Option<StrSlice>) -> ApiResult<Vec<String>> {
    let mut canonical: Vec<String> = Vec::new();
    for name in names.map(Vec::from).unwrap_or_default() {
        let upper = name.trim().to_ascii_uppercase();
        let full = match upper.as_str() {
            "ALL" | "CAP_ALL" => "ALL".to_owned(),
            other if other.starts_with("CAP_") => other.to_owned(),
            other => format!("CAP_{other}"),
        };
        if full != "ALL" && !CAPABILITIES.contains(&full.as_str()) {
            return Err(bad(field, format_args!("unknown capability: \"{name}\"")));
        }
        if !canonical.contains(&full) {
            canonical.push(full);
        }
    }
    Ok(canonical)
}

/// Reads the security fields of a host configuration.
pub(super) fn read(host: &mut HostConfig) -> ApiResult<SecuritySpec> {
    let mut spec = SecuritySpec {
        privileged: host.privileged,
        cap_add: capabilities("CapAdd", host.cap_add.take())?,
        cap_drop: capabilities("CapDrop", host.cap_drop.take())?,
        masked_paths: host.masked_paths.take(),
        readonly_paths: host.readonly_paths.take(),
        ..SecuritySpec::default()
    };
    for option in host.security_opt.take().unwrap_or_default() {
        option_into(&option, &mut spec)?;
    }
    Ok(spec)
}

fn option_into(option: &str, spec: &mut SecuritySpec) -> ApiResult<()> {
    let invalid = || {
        let shown: String = option.chars().take(80).collect();
        ApiError::invalid(format!("invalid --security-opt: {shown:?}"))
    };
    // Single words, and before `=` the colon that Docker 1.11 had.
    let (key, value) = match (option, option.split_once('=').or_else(|| option.split_once(':'))) {
        ("no-new-privileges", _) => ("no-new-privileges", "true"),
        ("disable", _) => ("label", "disable"),
        ("writable-cgroups", _) => ("writable-cgroups", "true"),
        (_, Some(pair)) => pair,
        (_, None) => return Err(invalid()),
    };
    match key {
        "seccomp" => {
            spec.seccomp = match value {
                "unconfined" => Seccomp::Unconfined,
                "builtin" => Seccomp::Default,
                profile => match serde_json::from_str::<serde_json::Value>(profile) {
                    Ok(json) if json.is_object() => Seccomp::Profile(profile.to_owned()),
                    _ => {
                        return Err(bad("SecurityOpt", "seccomp wants a profile in JSON"));
                    }
                },
            };
        }
        "no-new-privileges" => {
            spec.no_new_privileges = Some(match value {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Default::default(),
                _ => return Err(invalid()),
            });
        }
        "apparmor" if !value.is_empty() => spec.apparmor = Some(value.to_owned()),
        "label" if !value.is_empty() => spec.selinux.push(value.to_owned()),
        "systempaths" if value == "unconfined" => {
            spec.masked_paths = Some(Vec::new());
            spec.readonly_paths = Some(Vec::new());
        }
        "writable-cgroups" => return Err(unsupported("SecurityOpt", "writable-cgroups")),
        _ => return Err(invalid()),
    }
    Ok(())
}

/// Writes them back. What nobody asked for shows as the default lists, except of a privileged
/// container; `systempaths=unconfined` shows as empty ones, as dockerd has it.
pub(super) fn write(spec: &ContainerSpec, defaults: &Defaults, host: &mut HostConfig) {
    let security = &spec.security;
    let default = |list: &[String]| (!security.privileged).then(|| list.to_vec());
    host.privileged = security.privileged;
    host.cap_add = list(security.cap_add.clone()).map(StrSlice);
    host.cap_drop = list(security.cap_drop.clone()).map(StrSlice);
    host.masked_paths = security.masked_paths.clone().or_else(|| default(&defaults.masked));
    host.readonly_paths = security.readonly_paths.clone().or_else(|| default(&defaults.read_only));
    host.security_opt = list(spec.spelled.security_opt.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(options: &[&str]) -> ApiResult<SecuritySpec> {
        let options = options.iter().map(|o| (*o).to_owned()).collect();
        read(&mut HostConfig { security_opt: Some(options), ..HostConfig::default() })
    }

    #[test]
    fn options() {
        assert_eq!(with(&["no-new-privileges"]).unwrap().no_new_privileges, Some(true));
        assert_eq!(with(&["no-new-privileges:true"]).unwrap().no_new_privileges, Some(true));
        assert_eq!(with(&["no-new-privileges=false"]).unwrap().no_new_privileges, Some(false));
        assert_eq!(with(&["seccomp=unconfined"]).unwrap().seccomp, Seccomp::Unconfined);
        assert_eq!(with(&["seccomp:unconfined"]).unwrap().seccomp, Seccomp::Unconfined);
        let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#;
        let spec =
            with(&[&format!("seccomp={profile}"), "label=type:a_t", "label=disable"]).unwrap();
        assert_eq!(spec.seccomp, Seccomp::Profile(profile.to_owned()));
        assert_eq!(spec.selinux, ["type:a_t", "disable"]);
        assert_eq!(with(&["systempaths=unconfined"]).unwrap().masked_paths, Some(vec![]));
        for bad in [
            "nope",
            "nope=1",
            "seccomp=x",
            "seccomp=[]",
            "no-new-privileges=maybe",
            "apparmor=",
            "systempaths=some",
            "writable-cgroups",
            "",
        ] {
            assert!(with(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn capability_names() {
        let read = |name: &str| capabilities("CapAdd", Some(StrSlice(vec![name.to_owned()])));
        assert_eq!(read("net_admin").unwrap(), ["CAP_NET_ADMIN"]);
        assert_eq!(read("CAP_SYSLOG").unwrap(), ["CAP_SYSLOG"]);
        assert_eq!(read("all").unwrap(), ["ALL"]);
        let error = read("NET_ADMINN").unwrap_err();
        assert_eq!(error.message(), "invalid CapAdd: unknown capability: \"NET_ADMINN\"");
    }
}
