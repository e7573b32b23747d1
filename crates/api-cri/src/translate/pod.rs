//! Sandboxes.

use std::net::IpAddr;

use pouch_cri_grpc as cri;
use pouch_engine::{PodPhase, PodView};
use pouch_types::pod::{
    HostPort, IdRange, PidScope, PodDns, PodKey, PodNamespaces, PodSpec, Scope, UserScope,
};
use pouch_types::spec::{Port, Protocol};
use tonic::Status;

use super::{clean_path, nanoseconds, resources};
use crate::error::{invalid, unsupported};

/// Of one kind in a request.
const MAX_ITEMS: usize = 4096;
/// As the kernel has it, bytes.
const MAX_HOSTNAME: usize = 64;

/// A sandbox as asked for.
pub(crate) fn spec(config: cri::PodSandboxConfig, handler: String) -> Result<PodSpec, Status> {
    let metadata = config.metadata.ok_or_else(|| invalid("config.metadata", "is missing"))?;
    if config.windows.is_some() {
        return Err(unsupported("config.windows", "this is a node with Linux"));
    }
    let linux = config.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    if security.run_as_group.is_some() && security.run_as_user.is_none() {
        return Err(invalid(
            "linux.security_context.run_as_group",
            "cannot be given without run_as_user",
        ));
    }
    let namespaces = namespaces(security.namespace_options.unwrap_or_default())?;
    if config.hostname.len() > MAX_HOSTNAME || config.hostname.contains(['/', '\0', '\n']) {
        return Err(invalid("config.hostname", "is no host name"));
    }
    if config.hostname.is_empty() && namespaces.network == Scope::Pod {
        tracing::debug!(pod = metadata.name, "a pod without a host name");
    }
    let log_directory = match config.log_directory.as_str() {
        "" => String::new(),
        path => clean_path(path)
            .ok_or_else(|| invalid("config.log_directory", "is not an absolute path"))?,
    };
    for (name, count) in [
        ("labels", config.labels.len()),
        ("annotations", config.annotations.len()),
        ("port_mappings", config.port_mappings.len()),
    ] {
        if count > MAX_ITEMS {
            return Err(invalid(name, format!("more than {MAX_ITEMS}")));
        }
    }
    Ok(PodSpec {
        key: PodKey {
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            attempt: metadata.attempt,
        },
        hostname: config.hostname,
        log_directory,
        dns: config.dns_config.map(dns).transpose()?,
        ports: config
            .port_mappings
            .into_iter()
            .filter_map(|p| port(p).transpose())
            .collect::<Result<_, _>>()?,
        labels: config.labels.into_iter().collect(),
        annotations: config.annotations.into_iter().collect(),
        cgroup_parent: linux.cgroup_parent,
        sysctls: linux.sysctls.into_iter().collect(),
        namespaces,
        privileged: security.privileged,
        resources: linux.resources.map(|r| resources::limits(&r)).transpose()?,
        overhead: linux.overhead.map(|r| resources::limits(&r)).transpose()?,
        runtime_handler: handler,
    })
}

fn dns(dns: cri::DnsConfig) -> Result<PodDns, Status> {
    let word =
        |field: &str, text: &str| match text.contains(|c: char| c.is_whitespace() || c == '\0') {
            true => Err(invalid(field, format!("{text:?} has blanks"))),
            false => Ok(()),
        };
    for search in &dns.searches {
        word("dns_config.searches", search)?;
    }
    for option in &dns.options {
        word("dns_config.options", option)?;
    }
    let servers = dns.servers.iter().map(|server| {
        // A zone names the interface that a link-local server is reached by.
        let address = server.split('%').next().unwrap_or_default();
        address
            .parse::<IpAddr>()
            .map_err(|_| invalid("dns_config.servers", format!("{server:?} is no address")))
    });
    Ok(PodDns {
        servers: servers.collect::<Result<_, _>>()?,
        searches: dns.searches,
        options: dns.options,
    })
}

/// `None` for a port that is not to be published.
fn port(mapping: cri::PortMapping) -> Result<Option<HostPort>, Status> {
    let wrong = |why: String| invalid("port_mappings", why);
    let number = |port: i32| u16::try_from(port).map_err(|_| wrong(format!("{port} is no port")));
    let protocol = match mapping.protocol() {
        cri::Protocol::Tcp => Protocol::Tcp,
        cri::Protocol::Udp => Protocol::Udp,
        cri::Protocol::Sctp => Protocol::Sctp,
    };
    let (container, host_port) = (number(mapping.container_port)?, number(mapping.host_port)?);
    if host_port == 0 {
        return Ok(None);
    }
    if container == 0 {
        return Err(wrong("a host port needs a port of the container".to_owned()));
    }
    let host_ip = match mapping.host_ip.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| wrong(format!("{text:?} is no address")))?),
    };
    let host_ip = host_ip.filter(|ip: &IpAddr| !ip.is_unspecified());
    Ok(Some(HostPort { container: Port { number: container, protocol }, host_port, host_ip }))
}

fn namespaces(options: cri::NamespaceOption) -> Result<PodNamespaces, Status> {
    use cri::NamespaceMode::{Container, Node, Pod, Target};
    let scope = |field: &str, mode| match mode {
        Pod => Ok(Scope::Pod),
        Node => Ok(Scope::Node),
        Container | Target => {
            Err(unsupported(field, format!("{} is not a mode for a sandbox", mode.as_str_name())))
        }
    };
    let user = options.userns_options.as_ref();
    let user = match user.map(cri::UserNamespace::mode) {
        None | Some(Node) => None,
        Some(Pod) => user.map(user_scope),
        Some(mode @ (Container | Target)) => {
            return Err(unsupported(
                "namespace_options.userns_options.mode",
                format!("{} is not a mode for user namespaces", mode.as_str_name()),
            ));
        }
    };
    Ok(PodNamespaces {
        network: scope("namespace_options.network", options.network())?,
        ipc: scope("namespace_options.ipc", options.ipc())?,
        pid: match options.pid() {
            Pod => PidScope::Pod,
            Container => PidScope::Container,
            Node => PidScope::Node,
            Target => return Err(unsupported("namespace_options.pid", "TARGET is for containers")),
        },
        user: user.transpose()?,
    })
}

fn user_scope(options: &cri::UserNamespace) -> Result<UserScope, Status> {
    let ranges = |field: &str, list: &[cri::IdMapping]| match list {
        [] => Err(invalid(field, "a user namespace of the pod needs a mapping")),
        list => Ok(list
            .iter()
            .map(|m| IdRange { container: m.container_id, host: m.host_id, length: m.length })
            .collect()),
    };
    Ok(UserScope {
        uids: ranges("namespace_options.userns_options.uids", &options.uids)?,
        gids: ranges("namespace_options.userns_options.gids", &options.gids)?,
    })
}

fn metadata(key: &PodKey) -> cri::PodSandboxMetadata {
    cri::PodSandboxMetadata {
        name: key.name.clone(),
        uid: key.uid.clone(),
        namespace: key.namespace.clone(),
        attempt: key.attempt,
    }
}

pub(crate) fn state(pod: &PodView) -> cri::PodSandboxState {
    match pod.phase {
        PodPhase::Ready => cri::PodSandboxState::SandboxReady,
        PodPhase::Making | PodPhase::NotReady | PodPhase::Removing | PodPhase::Gone => {
            cri::PodSandboxState::SandboxNotready
        }
    }
}

/// A line of a list.
pub(crate) fn item(pod: &PodView) -> cri::PodSandbox {
    cri::PodSandbox {
        id: pod.id.to_string(),
        metadata: Some(metadata(&pod.spec.key)),
        state: state(pod).into(),
        created_at: nanoseconds(Some(pod.created)),
        labels: pod.spec.labels.clone().into_iter().collect(),
        annotations: pod.spec.annotations.clone().into_iter().collect(),
        runtime_handler: pod.spec.runtime_handler.clone(),
    }
}

pub(crate) fn status(pod: &PodView) -> cri::PodSandboxStatus {
    let mut ips = pod.ips.iter().map(ToString::to_string);
    let network = cri::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| cri::PodIp { ip }).collect(),
    };
    cri::PodSandboxStatus {
        id: pod.id.to_string(),
        metadata: Some(metadata(&pod.spec.key)),
        state: state(pod).into(),
        created_at: nanoseconds(Some(pod.created)),
        network: Some(network),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace { options: Some(options(&pod.spec.namespaces)) }),
        }),
        labels: pod.spec.labels.clone().into_iter().collect(),
        annotations: pod.spec.annotations.clone().into_iter().collect(),
        runtime_handler: pod.spec.runtime_handler.clone(),
    }
}

fn options(namespaces: &PodNamespaces) -> cri::NamespaceOption {
    let mode = |scope| match scope {
        Scope::Pod => cri::NamespaceMode::Pod,
        Scope::Node => cri::NamespaceMode::Node,
    };
    let ranges = |list: &[IdRange]| {
        list.iter()
            .map(|r| cri::IdMapping {
                host_id: r.host,
                container_id: r.container,
                length: r.length,
            })
            .collect()
    };
    cri::NamespaceOption {
        network: mode(namespaces.network).into(),
        pid: match namespaces.pid {
            PidScope::Pod => cri::NamespaceMode::Pod,
            PidScope::Container => cri::NamespaceMode::Container,
            PidScope::Node => cri::NamespaceMode::Node,
        }
        .into(),
        ipc: mode(namespaces.ipc).into(),
        target_id: String::new(),
        userns_options: namespaces.user.as_ref().map(|user| cri::UserNamespace {
            mode: cri::NamespaceMode::Pod.into(),
            uids: ranges(&user.uids),
            gids: ranges(&user.gids),
        }),
    }
}

/// Who a pod is, for figures.
pub(crate) fn attributes(pod: &PodView) -> cri::PodSandboxAttributes {
    cri::PodSandboxAttributes {
        id: pod.id.to_string(),
        metadata: Some(metadata(&pod.spec.key)),
        labels: pod.spec.labels.clone().into_iter().collect(),
        annotations: pod.spec.annotations.clone().into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn config() -> cri::PodSandboxConfig {
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: "p".into(),
                uid: "u".into(),
                namespace: "n".into(),
                attempt: 2,
            }),
            hostname: "h".into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_pod_is_what_was_asked_for() {
        let asked = cri::PodSandboxConfig {
            log_directory: "/var/log/pods/x/".into(),
            dns_config: Some(cri::DnsConfig {
                servers: vec!["10.0.0.1".into(), "fe80::1%eth0".into()],
                ..Default::default()
            }),
            port_mappings: vec![
                cri::PortMapping { container_port: 80, host_port: 8080, ..Default::default() },
                cri::PortMapping { container_port: 81, ..Default::default() },
            ],
            ..config()
        };
        let spec = spec(asked, "runc".into()).unwrap();
        assert_eq!(spec.key.to_string(), "n/p (u, attempt 2)");
        assert_eq!(spec.log_directory, "/var/log/pods/x");
        assert_eq!(spec.ports.len(), 1, "a port without one of the host is not published");
        assert_eq!(spec.dns.unwrap().servers.len(), 2);
        assert_eq!(spec.namespaces, PodNamespaces::default());
        assert_eq!(spec.runtime_handler, "runc");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_its_field() {
        let with = |change: fn(&mut cri::PodSandboxConfig)| {
            let mut config = config();
            change(&mut config);
            let refused = spec(config, String::new()).unwrap_err();
            (refused.code(), refused.message().to_owned())
        };
        let ports = |port: cri::PortMapping| {
            let config = cri::PodSandboxConfig { port_mappings: vec![port], ..config() };
            spec(config, String::new()).unwrap_err().message().to_owned()
        };
        let (code, text) = with(|c| c.metadata = None);
        assert!(code == Code::InvalidArgument && text.contains("metadata"), "{text}");
        let (_, text) = with(|c| c.log_directory = "var/log".into());
        assert!(text.contains("log_directory"), "{text}");
        let (code, text) = with(|c| c.windows = Some(Default::default()));
        assert!(code == Code::Unimplemented && text.contains("windows"), "{text}");
        let port = cri::PortMapping { host_port: 70000, container_port: 1, ..Default::default() };
        assert!(ports(port).contains("70000"));
        let text = ports(cri::PortMapping { host_port: 1, ..Default::default() });
        assert!(text.contains("port_mappings"), "{text}");
    }

    #[test]
    fn modes_that_a_sandbox_cannot_have() {
        let target =
            cri::NamespaceOption { pid: cri::NamespaceMode::Target.into(), ..Default::default() };
        assert_eq!(namespaces(target).unwrap_err().code(), Code::Unimplemented);
        let user = cri::NamespaceOption {
            userns_options: Some(cri::UserNamespace::default()),
            ..Default::default()
        };
        assert!(namespaces(user).unwrap_err().message().contains("uids"));
    }
}
