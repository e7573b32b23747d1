//! Which namespaces are own, shared or the host's.

use pouch_docker_types::container::HostConfig;
use pouch_types::spec::{CgroupnsMode, IpcMode, Namespaces, PidMode, UtsMode};

use super::Defaults;
use super::value::{bad, unsupported};
use crate::http::{ApiResult, ApiVersion};

/// The container of `container:name`, when it is that form and has a name.
pub(super) fn container(mode: &str) -> Option<&str> {
    mode.strip_prefix("container:").filter(|name| !name.is_empty())
}

/// Reads the namespace modes of a host configuration.
pub(super) fn read(host: &HostConfig, version: ApiVersion) -> ApiResult<Namespaces> {
    let wrong = |field: &str, mode: &str| bad(field, format_args!("'{mode}'"));
    let pid = match host.pid_mode.as_str() {
        "" | "private" => PidMode::Private,
        "host" => PidMode::Host,
        other => match container(other) {
            Some(name) => PidMode::Container(name.to_owned()),
            None => return Err(wrong("PidMode", other)),
        },
    };
    let ipc = match host.ipc_mode.as_str() {
        // Clients of those days expect that others may join.
        "" if version.below(40) => IpcMode::Shareable,
        "" | "private" => IpcMode::Private,
        "shareable" => IpcMode::Shareable,
        "none" => IpcMode::None,
        "host" => IpcMode::Host,
        other => match container(other) {
            Some(name) => IpcMode::Container(name.to_owned()),
            None => return Err(wrong("IpcMode", other)),
        },
    };
    let uts = match host.uts_mode.as_str() {
        "" | "private" => UtsMode::Private,
        "host" => UtsMode::Host,
        other => return Err(wrong("UTSMode", other)),
    };
    let cgroup = match host.cgroupns_mode.as_str() {
        "" => None,
        "private" => Some(CgroupnsMode::Private),
        "host" => Some(CgroupnsMode::Host),
        other => return Err(wrong("CgroupnsMode", other)),
    };
    let userns_host = match host.userns_mode.as_str() {
        "" => Default::default(),
        "host" => true,
        other => return Err(wrong("UsernsMode", other)),
    };
    if !host.cgroup.is_empty() {
        return Err(unsupported("Cgroup", "joining the control group of a container"));
    }
    Ok(Namespaces { pid, ipc, uts, cgroup, userns_host })
}

/// A namespace of the pod that a container belongs to; no request can ask for it.
pub(super) const POD: &str = "pod";

/// Writes them back.
pub(super) fn write(namespaces: &Namespaces, defaults: &Defaults, host: &mut HostConfig) {
    host.pid_mode = match &namespaces.pid {
        PidMode::Private => String::new(),
        PidMode::Host => "host".to_owned(),
        PidMode::Container(name) => format!("container:{name}"),
        PidMode::Pod => POD.to_owned(),
    };
    host.ipc_mode = match &namespaces.ipc {
        IpcMode::Private => "private".to_owned(),
        IpcMode::Shareable => "shareable".to_owned(),
        IpcMode::None => "none".to_owned(),
        IpcMode::Host => "host".to_owned(),
        IpcMode::Container(name) => format!("container:{name}"),
        IpcMode::Pod => POD.to_owned(),
    };
    host.uts_mode = match namespaces.uts {
        UtsMode::Private => String::new(),
        UtsMode::Host => "host".to_owned(),
        UtsMode::Pod => POD.to_owned(),
    };
    host.cgroupns_mode = match namespaces.cgroup.unwrap_or(defaults.cgroupns) {
        CgroupnsMode::Private => "private".to_owned(),
        CgroupnsMode::Host => "host".to_owned(),
    };
    if namespaces.userns_host {
        host.userns_mode = "host".to_owned();
    }
}
