//! Flags of all other commands.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

#[derive(Debug, Args)]
pub(crate) struct Containers {
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct OneContainer {
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
}

#[derive(Debug, Args)]
pub(crate) struct FormatFlag {
    /// Format output using a custom template: 'json' or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AttachFlags {
    /// Override the key sequence for detaching a container
    #[arg(long, default_value = "", hide_default_value = true, value_name = "KEYS")]
    pub(crate) detach_keys: String,
    /// Do not attach STDIN
    #[arg(long)]
    pub(crate) no_stdin: bool,
    /// Proxy all received signals to the process
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "bool")]
    pub(crate) sig_proxy: Option<bool>,
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionFlags {
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct CpFlags {
    /// Archive mode (copy all uid/gid information)
    #[arg(short, long)]
    pub(crate) archive: bool,
    /// Always follow symbol link in SRC_PATH
    #[arg(short = 'L', long)]
    pub(crate) follow_link: bool,
    /// Suppress progress output during copy
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// CONTAINER:PATH, a local path, or - for a tar archive on STDIN
    #[arg(value_name = "SRC")]
    pub(crate) source: String,
    /// CONTAINER:PATH, a local path, or - for a tar archive on STDOUT
    #[arg(value_name = "DEST")]
    pub(crate) destination: String,
}

#[derive(Debug, Args)]
pub(crate) struct EventsFlags {
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Format output using a custom template: 'json' or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Show all events created since timestamp
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true,
        value_name = "TIME"
    )]
    pub(crate) since: String,
    /// Stream events until this timestamp
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true,
        value_name = "TIME"
    )]
    pub(crate) until: String,
}

#[derive(Debug, Args)]
pub(crate) struct ExecFlags {
    /// Detached mode: run command in the background
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, default_value = "", hide_default_value = true, value_name = "KEYS")]
    pub(crate) detach_keys: String,
    /// Set environment variables
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give extended privileges to the command
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "USER")]
    pub(crate) user: String,
    /// Working directory inside the container
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "DIR")]
    pub(crate) workdir: String,
    /// The container, then the command and its arguments, which are passed on untouched
    #[arg(required = true, trailing_var_arg = true, num_args = 2.., value_name = "CONTAINER COMMAND [ARG]")]
    pub(crate) words: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExportFlags {
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryFlags {
    /// Format output using a custom template: 'table', 'json' or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Print sizes and dates in human readable format
    #[arg(short = 'H', long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "bool")]
    pub(crate) human: Option<bool>,
    /// Don't truncate output
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) platform: PlatformFlag,
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
}

#[derive(Debug, Args)]
pub(crate) struct ImagesFlags {
    /// Show all images (default hides intermediate images)
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Show digests
    #[arg(long)]
    pub(crate) digests: bool,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Format output using a custom template: 'table', 'json' or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// List multi-platform images as a tree (not supported)
    #[arg(long)]
    pub(crate) tree: bool,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(crate) repository: Option<String>,
}

/// Which of an image's machines.
#[derive(Debug, Args)]
pub(crate) struct PlatformFlag {
    /// Only the image for this platform: os[/arch[/variant]]
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    pub(crate) platform: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ImportFlags {
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub(crate) change: Vec<String>,
    /// Set commit message for imported image
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub(crate) message: String,
    /// Set platform if server is multi-platform capable
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,
    /// A file, a URL, or - for STDIN
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(crate) repository: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectFlags {
    /// Format output using a custom template: 'json' or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Display total file sizes if the type is container
    #[arg(short, long)]
    pub(crate) size: bool,
    /// Return JSON for specified type
    #[arg(long = "type", value_name = "TYPE", value_parser = ["container", "image", "network", "volume"])]
    pub(crate) kind: Option<String>,
    #[arg(required = true, value_name = "NAME|ID")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectOne {
    /// Format output using a custom template: 'json' or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    #[arg(required = true, value_name = "NAME|ID")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectContainerFlags {
    /// Display total file sizes
    #[arg(short, long)]
    pub(crate) size: bool,
    #[command(flatten)]
    pub(crate) inspect: InspectOne,
}

#[derive(Debug, Args)]
pub(crate) struct InspectImageFlags {
    #[command(flatten)]
    pub(crate) platform: PlatformFlag,
    #[command(flatten)]
    pub(crate) inspect: InspectOne,
}

#[derive(Debug, Args)]
pub(crate) struct InspectNetworkFlags {
    /// Verbose output for diagnostics
    #[arg(short, long)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) inspect: InspectOne,
}

#[derive(Debug, Args)]
pub(crate) struct KillFlags {
    /// Signal to send to the container
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "SIGNAL")]
    pub(crate) signal: String,
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LoadFlags {
    /// Read from tar archive file, instead of STDIN
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Suppress the load output
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) platform: PlatformFlag,
    #[command(flatten)]
    pub(crate) progress: ProgressFlag,
}

#[derive(Debug, Args)]
pub(crate) struct ProgressFlag {
    /// How progress is shown
    #[arg(long, default_value = "auto", value_name = "HOW", value_parser = ["auto", "plain", "tty", "json", "quiet"])]
    pub(crate) progress: String,
}

#[derive(Debug, Args)]
pub(crate) struct LogsFlags {
    /// Show extra details provided to logs
    #[arg(long)]
    pub(crate) details: bool,
    /// Follow log output
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Show logs since timestamp or relative (e.g. 42m for 42 minutes)
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TIME")]
    pub(crate) since: String,
    /// Number of lines to show from the end of the logs
    #[arg(short = 'n', long, default_value = "all", allow_hyphen_values = true, value_name = "N")]
    pub(crate) tail: String,
    /// Show timestamps
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Show logs before a timestamp or relative (e.g. 42m for 42 minutes)
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TIME")]
    pub(crate) until: String,
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
}

#[derive(Debug, Args)]
pub(crate) struct PortFlags {
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    pub(crate) port: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PsFlags {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Format output using a custom template: 'table', 'json' or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Show n last created containers (includes all states)
    #[arg(short = 'n', long, allow_negative_numbers = true, value_name = "N")]
    pub(crate) last: Option<i64>,
    /// Show the latest created container (includes all states)
    #[arg(short, long)]
    pub(crate) latest: bool,
    /// Don't truncate output
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Only display container IDs
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Display total file sizes
    #[arg(short, long)]
    pub(crate) size: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PruneFlags {
    /// Provide filter values (e.g. 'until=<timestamp>')
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ImagePruneFlags {
    /// Remove all unused images, not just dangling ones
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) prune: PruneFlags,
}

#[derive(Debug, Args)]
pub(crate) struct VolumePruneFlags {
    /// Remove all unused volumes, not just anonymous ones
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) prune: PruneFlags,
}

#[derive(Debug, Args)]
pub(crate) struct SystemPruneFlags {
    /// Remove all unused images not just dangling ones
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Prune anonymous volumes
    #[arg(long)]
    pub(crate) volumes: bool,
    #[command(flatten)]
    pub(crate) prune: PruneFlags,
}

#[derive(Debug, Args)]
pub(crate) struct PullFlags {
    /// Download all tagged images in the repository
    #[arg(short, long)]
    pub(crate) all_tags: bool,
    /// Skip image verification (there is none: =false is refused)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "bool")]
    pub(crate) disable_content_trust: Option<bool>,
    /// Set platform if server is multi-platform capable
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,
    /// Suppress verbose output
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) progress: ProgressFlag,
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub(crate) image: String,
}

#[derive(Debug, Args)]
pub(crate) struct PushFlags {
    /// Push all tags of an image to the repository
    #[arg(short, long)]
    pub(crate) all_tags: bool,
    /// Skip image signing (there is none: =false is refused)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "bool")]
    pub(crate) disable_content_trust: Option<bool>,
    /// Suppress verbose output
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) platform: PlatformFlag,
    #[command(flatten)]
    pub(crate) progress: ProgressFlag,
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) image: String,
}

#[derive(Debug, Args)]
pub(crate) struct RenameFlags {
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
    #[arg(value_name = "NEW_NAME")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct RmFlags {
    /// Force the removal of a running container (uses SIGKILL)
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Remove the specified link
    #[arg(short, long)]
    pub(crate) link: bool,
    /// Remove anonymous volumes associated with the container
    #[arg(short, long)]
    pub(crate) volumes: bool,
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RmiFlags {
    /// Force removal of the image
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Do not delete untagged parents
    #[arg(long)]
    pub(crate) no_prune: bool,
    #[command(flatten)]
    pub(crate) platform: PlatformFlag,
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SaveFlags {
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) platform: PlatformFlag,
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StartFlags {
    /// Attach STDOUT/STDERR and forward signals
    #[arg(short, long)]
    pub(crate) attach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, default_value = "", hide_default_value = true, value_name = "KEYS")]
    pub(crate) detach_keys: String,
    /// Attach container's STDIN
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Restore from this checkpoint (not supported)
    #[arg(long, value_name = "NAME")]
    pub(crate) checkpoint: Option<String>,
    /// Use a custom checkpoint storage directory (not supported)
    #[arg(long, value_name = "DIR")]
    pub(crate) checkpoint_dir: Option<String>,
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StatsFlags {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Format output using a custom template: 'table', 'json' or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Do not truncate output
    #[arg(long)]
    pub(crate) no_trunc: bool,
    #[arg(value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StopFlags {
    /// Signal to send to the container
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "SIGNAL")]
    pub(crate) signal: String,
    /// Seconds to wait before killing the container
    #[arg(short, long, alias = "time", allow_negative_numbers = true, value_name = "SECONDS")]
    pub(crate) timeout: Option<i64>,
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TagFlags {
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    pub(crate) source: String,
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    pub(crate) target: String,
}

#[derive(Debug, Args)]
pub(crate) struct TopFlags {
    /// The container, then options for ps
    #[arg(required = true, trailing_var_arg = true, num_args = 1.., value_name = "CONTAINER [ps OPTIONS]")]
    pub(crate) words: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ListFlags {
    /// Provide filter values (e.g. 'dangling=true')
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Format output using a custom template: 'table', 'json' or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Only display names or IDs
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkListFlags {
    #[command(flatten)]
    pub(crate) list: ListFlags,
    /// Do not truncate the output
    #[arg(long)]
    pub(crate) no_trunc: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeCreateFlags {
    /// Specify volume driver name
    #[arg(short, long, default_value = "local", value_name = "DRIVER")]
    pub(crate) driver: String,
    /// Set metadata for a volume
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// Specify volume name
    #[arg(long, default_value = "", hide = true, value_name = "NAME")]
    pub(crate) name: String,
    /// Set driver specific options
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) opt: Vec<String>,
    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
    #[arg(value_name = "VOLUME")]
    pub(crate) volume: Option<String>,
}

/// Flags of Swarm cluster volumes, which need a swarm.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster volumes (not supported: they need a swarm)")]
pub(crate) struct ClusterFlags {
    #[arg(long)]
    availability: Option<String>,
    #[arg(long)]
    group: Option<String>,
    #[arg(long)]
    limit_bytes: Option<String>,
    #[arg(long)]
    required_bytes: Option<String>,
    #[arg(long)]
    scope: Option<String>,
    #[arg(long)]
    secret: Option<String>,
    #[arg(long)]
    sharing: Option<String>,
    #[arg(long)]
    topology_preferred: Option<String>,
    #[arg(long)]
    topology_required: Option<String>,
    #[arg(long = "type")]
    kind: Option<String>,
}

impl ClusterFlags {
    /// # Errors
    /// When one of them is given.
    pub(crate) fn refuse(&self) -> Result<(), crate::failure::Failure> {
        let given = [
            ("--availability", &self.availability),
            ("--group", &self.group),
            ("--limit-bytes", &self.limit_bytes),
            ("--required-bytes", &self.required_bytes),
            ("--scope", &self.scope),
            ("--secret", &self.secret),
            ("--sharing", &self.sharing),
            ("--topology-preferred", &self.topology_preferred),
            ("--topology-required", &self.topology_required),
            ("--type", &self.kind),
        ];
        match given.into_iter().find(|(_, value)| value.is_some()) {
            Some((flag, _)) => {
                Err(crate::failure::Failure::unsupported(flag, "cluster volumes need a swarm"))
            }
            None => Ok(()),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct VolumeListFlags {
    /// Display only cluster volumes (not supported)
    #[arg(long)]
    pub(crate) cluster: bool,
    #[command(flatten)]
    pub(crate) list: ListFlags,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeRmFlags {
    /// Force the removal of one or more volumes
    #[arg(short, long)]
    pub(crate) force: bool,
    #[arg(required = true, value_name = "VOLUME")]
    pub(crate) volumes: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DfFlags {
    /// Format output using a custom template: 'table', 'json' or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Show detailed information on space usage
    #[arg(short, long)]
    pub(crate) verbose: bool,
}
