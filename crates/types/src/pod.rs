//! Pods: containers that share namespaces, as Kubernetes asks for them.
//!
//! As with [`crate::spec`], a face parses a request into these words once, and everything that it
//! has to show again can be rendered from them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::id::ContainerId;
use crate::spec::{Port, Resources};

/// A pod's sandbox to make: what its containers share.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PodSpec {
    /// Whose sandbox it is.
    pub key: PodKey,
    /// Host name; empty only on the node's network, whose name it has then.
    pub hostname: String,
    /// Directory of the containers' logs on the host; empty keeps none.
    pub log_directory: String,
    /// Lines of resolv.conf; `None` is the host's file.
    pub dns: Option<PodDns>,
    /// Ports of the host that lead to the pod.
    pub ports: Vec<HostPort>,
    /// Labels, as given.
    pub labels: BTreeMap<String, String>,
    /// Annotations, as given.
    pub annotations: BTreeMap<String, String>,
    /// Control group above the containers' own; empty is the daemon's default.
    pub cgroup_parent: String,
    /// Namespaced kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// What is the pod's own.
    pub namespaces: PodNamespaces,
    /// A privileged container may come.
    pub privileged: bool,
    /// Limits of the pod as a whole, as kubelet set them on the parent group.
    pub resources: Option<Resources>,
    /// What a virtual machine may take beyond them.
    pub overhead: Option<Resources>,
    /// Runtime, by the name the request has for it; empty is the default one.
    pub runtime_handler: String,
}

/// What names a sandbox: each attempt of a pod has one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct PodKey {
    /// The pod's namespace in the cluster.
    pub namespace: String,
    /// Its name there.
    pub name: String,
    /// Its uid there.
    pub uid: String,
    /// Counts the pod's sandboxes.
    pub attempt: u32,
}

impl std::fmt::Display for PodKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} ({}, attempt {})", self.namespace, self.name, self.uid, self.attempt)
    }
}

/// resolv.conf(5) of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PodDns {
    /// Addresses of servers.
    pub servers: Vec<IpAddr>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

/// A port of the host that leads to one of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// In the pod.
    pub container: Port,
    /// On the host.
    pub host_port: u16,
    /// On this address alone.
    pub host_ip: Option<IpAddr>,
}

/// Whose the namespaces are that a pod's containers live in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PodNamespaces {
    /// Network, and with it the host name.
    pub network: Scope,
    /// IPC objects and /dev/shm.
    pub ipc: Scope,
    /// Processes.
    pub pid: PidScope,
    /// Users and groups; `None` is the node's.
    pub user: Option<UserScope>,
}

/// Whose a namespace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The pod's.
    #[default]
    Pod,
    /// The node's.
    Node,
}

/// Whose the namespace of processes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PidScope {
    /// The pod's: its containers see each other.
    #[default]
    Pod,
    /// Each container's.
    Container,
    /// The node's.
    Node,
}

/// A user namespace of the pod's own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UserScope {
    /// Ranges of users.
    pub uids: Vec<IdRange>,
    /// Ranges of groups.
    pub gids: Vec<IdRange>,
}

/// Ids in a user namespace and what they are outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First inside.
    pub container: u32,
    /// First on the host.
    pub host: u32,
    /// How many.
    pub length: u32,
}

/// What a container is to its pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodMember {
    /// The sandbox.
    pub pod: ContainerId,
    /// Name in the pod.
    pub name: String,
    /// Counts the containers of this name.
    pub attempt: u32,
    /// Labels as given; those of the image are not among them.
    pub labels: BTreeMap<String, String>,
    /// Annotations as given.
    pub annotations: BTreeMap<String, String>,
    /// File of the log below the pod's directory of logs; empty keeps none.
    pub log_path: String,
    /// What the pod's author called the image.
    pub user_specified_image: String,
}
