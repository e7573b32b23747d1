//! What can go wrong with a pod's network.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pouch_netns::NetnsError;
use pouch_network::ruleset::RulesetError;
use pouch_types::error::io_kind;
use pouch_types::{Classified, ErrorKind};

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Attach.
    Add,
    /// Look whether the attachment is as it was made.
    Check,
    /// Detach.
    Del,
    /// Clean up what belongs to no attachment.
    Gc,
    /// Tell whether an ADD would succeed.
    Status,
    /// Tell the versions understood.
    Version,
}

impl Stage {
    /// The value of `CNI_COMMAND`.
    #[must_use]
    pub const fn command(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.command())
    }
}

/// How a plugin failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginFailure {
    /// None of the directories has it.
    #[error("it is in none of {}", list(dirs))]
    Missing {
        /// Where it was looked for.
        dirs: Vec<PathBuf>,
    },
    /// Its type is no file name.
    #[error("that is not a name of a plugin")]
    Name,
    /// It could not be run.
    #[error("it cannot be run")]
    Run(#[source] io::Error),
    /// It was killed, with everything it had started.
    #[error("it did not end within {after:?}{}", quote(stderr))]
    Deadline {
        /// Its time.
        after: Duration,
        /// End of what it said.
        stderr: String,
    },
    /// It ended with an error object.
    #[error("code {code}: {message}{}{}", more(details), quote(stderr))]
    Told {
        /// Of the specification when below 100, else the plugin's own.
        code: u32,
        /// For people.
        message: String,
        /// For people, longer; may be empty.
        details: String,
        /// End of what it said besides.
        stderr: String,
    },
    /// It ended otherwise than well, without an error object.
    #[error("it ended with {status}{}", quote(stderr))]
    Ended {
        /// As the kernel tells it.
        status: String,
        /// End of what it said.
        stderr: String,
    },
    /// It wrote more than anybody reads.
    #[error("it wrote more than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: u64,
    },
    /// What it answered is not what the specification says.
    #[error("it gave an answer that does not parse: {text:?}")]
    Answer {
        /// The beginning of it.
        text: String,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// It answered in a version that it was not asked for and that nobody knows.
    #[error("it answered in version {version:?}")]
    Version {
        /// As answered.
        version: String,
    },
    /// It says that it does not understand the configuration's version.
    #[error("it does not understand version {wanted}, only {}", supported.join(", "))]
    Unsupported {
        /// The list's.
        wanted: String,
        /// What it understands.
        supported: Vec<String>,
    },
}

fn list(dirs: &[PathBuf]) -> String {
    dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn quote(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(" (it said: {stderr})") }
}

fn more(details: &str) -> String {
    if details.is_empty() { String::new() } else { format!("; {details}") }
}

/// A failure of an operation on a pod's network.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// Nothing is configured.
    #[error("no network configuration in {}", dir.display())]
    NoNetwork {
        /// Where one would be.
        dir: PathBuf,
    },
    /// No configuration has that name.
    #[error("no network {name:?} in {}{}", dir.display(), unreadable.as_deref().map(|u| format!(" ({u})")).unwrap_or_default())]
    NoSuchNetwork {
        /// As asked for.
        name: String,
        /// Where it would be.
        dir: PathBuf,
        /// What could not be read there, and might have been it.
        unreadable: Option<String>,
    },
    /// A configuration is not JSON. The cause has line and column.
    #[error("network configuration {} does not parse", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A configuration is JSON and no network.
    #[error("network configuration {}: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A configuration is of a version that this program does not speak.
    #[error("network configuration {} is of version {version:?}; 0.3.0 to 1.1.0 are supported", path.display())]
    SpecVersion {
        /// The file.
        path: PathBuf,
        /// As written there; empty when it is not.
        version: String,
    },
    /// A parameter that no plugin could take.
    #[error("invalid {what}: {value:?}")]
    Invalid {
        /// Of what.
        what: &'static str,
        /// As given.
        value: String,
    },
    /// The attachment exists already.
    #[error("{id} already has interface {ifname} in network {network}")]
    Attached {
        /// The network.
        network: String,
        /// The container.
        id: String,
        /// The interface.
        ifname: String,
    },
    /// CHECK is not possible for this version of the specification.
    #[error("network {network} is of version {version}, which has no CHECK")]
    NoCheck {
        /// The network.
        network: String,
        /// Its version.
        version: String,
    },
    /// CHECK found something else than ADD made.
    #[error("network {network}: {what}")]
    Differs {
        /// The network.
        network: String,
        /// What is missing or other.
        what: String,
    },
    /// A plugin failed.
    #[error("network {network}: {stage} of plugin {plugin} failed")]
    Plugin {
        /// The network.
        network: String,
        /// Its type.
        plugin: String,
        /// What it was to do.
        stage: Stage,
        /// How it failed.
        #[source]
        failure: Box<PluginFailure>,
    },
    /// No address is left.
    #[error("network {network}: no address is left in {ranges}")]
    NoAddress {
        /// The network.
        network: String,
        /// The ranges asked.
        ranges: String,
    },
    /// The address asked for cannot be had.
    #[error("network {network}: address {address} {reason}")]
    Address {
        /// The network.
        network: String,
        /// As asked for.
        address: String,
        /// Why not.
        reason: &'static str,
    },
    /// A port of the host belongs to another attachment.
    #[error("network {network}: host port {port} is taken by another pod")]
    PortInUse {
        /// The network.
        network: String,
        /// Address, number and transport.
        port: String,
    },
    /// The kernel refused a change of interfaces, addresses or routes.
    #[error("network {network}: cannot {step} {interface}")]
    Link {
        /// The network.
        network: String,
        /// As a verb.
        step: &'static str,
        /// The interface.
        interface: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The packet rules could not be changed.
    #[error("network {network}: cannot change the packet rules")]
    Rules {
        /// The network.
        network: String,
        /// What nft answered.
        #[source]
        source: RulesetError,
    },
    /// A lock was held by another program for too long.
    #[error("network {network}: {} was locked by another program for {after:?}", path.display())]
    Locked {
        /// The network.
        network: String,
        /// The lock.
        path: PathBuf,
        /// For how long.
        after: Duration,
    },
    /// The pod's namespace.
    #[error("network {network}")]
    Netns {
        /// The network.
        network: String,
        /// What went wrong with it.
        #[source]
        source: NetnsError,
    },
    /// A file.
    #[error("cannot {step} {}", path.display())]
    File {
        /// As a verb.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The work was given up inside this program.
    #[error("the work on network {network} panicked")]
    Panicked {
        /// The network.
        network: String,
    },
}

impl CniError {
    pub(crate) fn file<E: Into<io::Error>>(
        step: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::File { step, path, source: source.into() }
    }

    pub(crate) fn link(
        network: &str,
        step: &'static str,
        interface: &str,
    ) -> impl FnOnce(io::Error) -> Self + use<> {
        let (network, interface) = (network.to_owned(), interface.to_owned());
        move |source| Self::Link { network, step, interface, source }
    }

    pub(crate) fn netns(network: &str) -> impl FnOnce(NetnsError) -> Self + use<> {
        let network = network.to_owned();
        move |source| Self::Netns { network, source }
    }
}

impl Classified for PluginFailure {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. } => ErrorKind::Unavailable,
            Self::Name => ErrorKind::Invalid,
            Self::Run(source) => io_kind(source),
            Self::Deadline { .. } => ErrorKind::DeadlineExceeded,
            // The codes of the specification, section 5, "Error".
            Self::Told { code, .. } => match code {
                1 | 2 => ErrorKind::Unsupported,
                3 => ErrorKind::NotFound,
                4 | 6 | 7 => ErrorKind::Invalid,
                11 | 50 | 51 => ErrorKind::Unavailable,
                _ => ErrorKind::Internal,
            },
            Self::Unsupported { .. } | Self::Version { .. } => ErrorKind::Unsupported,
            Self::Ended { .. } | Self::TooLong { .. } | Self::Answer { .. } => ErrorKind::Internal,
        }
    }
}

impl Classified for CniError {
    fn kind(&self) -> ErrorKind {
        match self {
            // Nothing is wrong with the request: the node's network is not ready.
            Self::NoNetwork { .. } | Self::Malformed { .. } | Self::Unusable { .. } => {
                ErrorKind::Unavailable
            }
            Self::NoSuchNetwork { .. } => ErrorKind::NotFound,
            Self::SpecVersion { .. } | Self::NoCheck { .. } => ErrorKind::Unsupported,
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::Attached { .. } => ErrorKind::AlreadyExists,
            Self::Differs { .. } | Self::PortInUse { .. } | Self::Address { .. } => {
                ErrorKind::Conflict
            }
            Self::Plugin { failure, .. } => failure.kind(),
            Self::NoAddress { .. } => ErrorKind::ResourceExhausted,
            Self::Link { source, .. } | Self::File { source, .. } => io_kind(source),
            Self::Rules { source, .. } => source.kind(),
            Self::Locked { .. } => ErrorKind::DeadlineExceeded,
            Self::Netns { source, .. } => source.kind(),
            Self::Panicked { .. } => ErrorKind::Internal,
        }
    }
}
