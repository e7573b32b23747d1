//! The command line, in dockerd's spelling where dockerd has the flag.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::Parser;

use crate::config::Backend;

/// The pouch daemon: a container engine with the Docker API.
#[derive(Debug, Parser)]
#[command(name = "pouchd", version, about, disable_version_flag = true)]
pub(crate) struct Args {
    /// Check the configuration and exit
    #[arg(long)]
    pub(crate) validate: bool,
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/pouch/config.json")]
    pub(crate) config_file: PathBuf,
    /// Data that survives a reboot [default: /var/lib/pouch]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_root: Option<PathBuf>,
    /// State that does not [default: /run/pouch]
    #[arg(long, value_name = "DIR")]
    pub(crate) exec_root: Option<PathBuf>,
    /// Socket to listen on: unix://PATH, tcp://ADDR:PORT (with TLS), fd:// [default:
    /// unix:///var/run/pouchd.sock]
    #[arg(short = 'H', long = "host", value_name = "URL")]
    pub(crate) hosts: Vec<String>,
    /// Group that may use the socket [default: pouch, where it exists]
    #[arg(short = 'G', long)]
    pub(crate) group: Option<String>,
    /// Pid file [default: /var/run/pouchd.pid]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) pidfile: Option<PathBuf>,
    /// debug, info, warn or error
    #[arg(short, long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// As --log-level debug
    #[arg(short = 'D', long)]
    pub(crate) debug: bool,
    /// What runs containers: the embedded backend or an existing containerd
    #[arg(long, value_enum)]
    pub(crate) backend: Option<Backend>,
    /// Socket of containerd, for --backend remote [default: /run/containerd/containerd.sock]
    #[arg(long, value_name = "SOCKET")]
    pub(crate) containerd: Option<PathBuf>,
    /// Namespace of our objects in containerd [default: pouch]
    #[arg(long, value_name = "NAME")]
    pub(crate) containerd_namespace: Option<String>,
    /// Who keeps images and root file systems, for --backend remote: containerd, or pouch itself
    /// [default: containerd, or what the data root has]
    #[arg(long, value_name = "STORE", value_enum)]
    pub(crate) remote_image_store: Option<crate::config::RemoteImageStore>,
    /// Snapshotter of containerd for what it keeps [default: overlayfs]
    #[arg(long, value_name = "NAME")]
    pub(crate) snapshotter: Option<String>,
    /// Socket of the Kubernetes CRI, which it also enables [default: unix:///var/run/pouchcri.sock]
    #[arg(long, value_name = "URL")]
    pub(crate) cri_host: Option<String>,
    /// Serve the Kubernetes CRI
    #[arg(long)]
    pub(crate) enable_cri: bool,
    /// Address for the streams of exec, attach and port-forward of the CRI [default: 127.0.0.1:0]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) cri_stream_address: Option<String>,
    /// Configurations of pod networks [default: /etc/cni/net.d]
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_conf_dir: Option<PathBuf>,
    /// Plugins of pod networks, searched in order [default: /opt/cni/bin and /usr/lib/cni]
    #[arg(long = "cni-bin-dir", value_name = "DIR")]
    pub(crate) cni_bin_dirs: Vec<PathBuf>,
    /// Bridge of the default network [default: pouch0]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) bridge: Option<String>,
    /// Address and prefix of that bridge, which set its subnet
    #[arg(long, value_name = "CIDR")]
    pub(crate) bip: Option<String>,
    /// Host address of ports that are published without one
    #[arg(long, value_name = "IP")]
    pub(crate) ip: Option<Ipv4Addr>,
    /// MTU of the bridge
    #[arg(long)]
    pub(crate) mtu: Option<u32>,
    /// DNS server of containers
    #[arg(long, value_name = "IP")]
    pub(crate) dns: Vec<IpAddr>,
    /// DNS search domain of containers
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) dns_search: Vec<String>,
    /// DNS option of containers
    #[arg(long = "dns-opt", value_name = "OPTION")]
    pub(crate) dns_opts: Vec<String>,
    /// Registry spoken to without TLS, or with a certificate that nobody checks
    #[arg(long = "insecure-registry", value_name = "HOST")]
    pub(crate) insecure_registries: Vec<String>,
    /// Mirror of docker.io
    #[arg(long = "registry-mirror", value_name = "URL")]
    pub(crate) registry_mirrors: Vec<String>,
    /// How often a request of a pull is made at most
    #[arg(long, value_name = "COUNT")]
    pub(crate) max_download_attempts: Option<u32>,
    /// Verification policy of images, "" for none [default: /etc/containers/policy.json, where it
    /// exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) image_policy: Option<String>,
    /// Further OCI runtime
    #[arg(long = "add-runtime", value_name = "NAME=PATH")]
    pub(crate) runtimes: Vec<String>,
    /// OCI runtime of containers that name none
    #[arg(long, value_name = "NAME")]
    pub(crate) default_runtime: Option<String>,
    /// Parent control group of all containers
    #[arg(long, value_name = "GROUP")]
    pub(crate) cgroup_parent: Option<String>,
    /// native.cgroupdriver=cgroupfs|systemd
    #[arg(long = "exec-opt", value_name = "OPTION")]
    pub(crate) exec_opts: Vec<String>,
    /// Log driver of containers that name none
    #[arg(long, value_name = "DRIVER")]
    pub(crate) log_driver: Option<String>,
    /// Option of that log driver
    #[arg(long = "log-opt", value_name = "KEY=VALUE")]
    pub(crate) log_opts: Vec<String>,
    /// Run an init in every container
    #[arg(long)]
    pub(crate) init: bool,
    /// Address for Prometheus metrics
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) metrics_addr: Option<String>,
    /// Require clients of tcp:// to have a certificate of the CA
    #[arg(long)]
    pub(crate) tlsverify: bool,
    /// CA of the clients
    #[arg(long, value_name = "FILE")]
    pub(crate) tlscacert: Option<PathBuf>,
    /// Certificate of the daemon
    #[arg(long, value_name = "FILE")]
    pub(crate) tlscert: Option<PathBuf>,
    /// Key of the daemon
    #[arg(long, value_name = "FILE")]
    pub(crate) tlskey: Option<PathBuf>,
    /// Print the version
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    pub(crate) version: Option<bool>,
}
