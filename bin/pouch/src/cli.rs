//! The command line as data: commands, their flags, and how they are read.
//!
//! The flags are the docker CLI's. Four rules of its parser differ from clap's and are put on in
//! [`command`]: every switch also takes `=true` or `=false`, a flag given twice takes the last
//! value, a value may begin with a dash, and `--help` has no short form where `-h` means something else.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::flags::container::{CreateFlags, RunFlags};
use crate::flags::plain::*;
use crate::flags::registry::{CommitFlags, LoginFlags, LogoutFlags, SearchFlags};
use crate::flags::resources::UpdateFlags;

/// A container engine: the docker commands, on pouchd or any daemon with the Docker Engine API.
#[derive(Debug, Parser)]
#[command(
    name = "pouch",
    version,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalFlags,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags before the command.
#[derive(Debug, Default, Args)]
pub(crate) struct GlobalFlags {
    /// Daemon socket to connect to
    #[arg(short = 'H', long, value_name = "HOST", action = ArgAction::Append)]
    pub(crate) host: Vec<String>,
    /// Name of the context to use (overrides DOCKER_HOST)
    #[arg(short, long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Location of client config files
    #[arg(long, value_name = "DIR")]
    pub(crate) config: Option<PathBuf>,
    /// Use TLS; implied by --tlsverify
    #[arg(long)]
    pub(crate) tls: bool,
    /// Use TLS and verify the remote
    #[arg(long = "tlsverify")]
    pub(crate) tls_verify: bool,
    /// Trust certs signed only by this CA
    #[arg(long = "tlscacert", value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Path to TLS certificate file
    #[arg(long = "tlscert", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Path to TLS key file
    #[arg(long = "tlskey", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Enable debug mode (accepted as docker does; it changes nothing here)
    #[arg(short = 'D', long)]
    pub(crate) debug: bool,
    /// Set the logging level (accepted as docker does; it changes nothing here)
    #[arg(short = 'l', long, value_name = "LEVEL", value_parser = ["debug", "info", "warn", "error", "fatal"])]
    pub(crate) log_level: Option<String>,
}

/// Everything that pouch can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Attach local standard input, output, and error streams to a running container
    Attach(AttachFlags),
    /// Create a new image from a container's changes
    Commit(CommitFlags),
    /// Generate the autocompletion script for a shell
    Completion(CompletionFlags),
    /// Manage containers
    #[command(subcommand)]
    Container(ContainerCommand),
    /// Copy files/folders between a container and the local filesystem
    Cp(CpFlags),
    /// Create a new container
    Create(Box<CreateFlags>),
    /// Inspect changes to files or directories on a container's filesystem
    Diff(OneContainer),
    /// Get real time events from the server
    Events(EventsFlags),
    /// Execute a command in a running container
    Exec(ExecFlags),
    /// Export a container's filesystem as a tar archive
    Export(ExportFlags),
    /// Show the history of an image
    History(HistoryFlags),
    /// Manage images
    #[command(subcommand)]
    Image(ImageCommand),
    /// List images
    Images(ImagesFlags),
    /// Import the contents from a tarball to create a filesystem image
    Import(ImportFlags),
    /// Display system-wide information
    Info(FormatFlag),
    /// Return low-level information on objects
    Inspect(InspectFlags),
    /// Kill one or more running containers
    Kill(KillFlags),
    /// Load an image from a tar archive or STDIN
    Load(LoadFlags),
    /// Authenticate to a registry
    Login(LoginFlags),
    /// Log out from a registry
    Logout(LogoutFlags),
    /// Fetch the logs of a container
    Logs(LogsFlags),
    /// Manage networks
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Pause all processes within one or more containers
    Pause(Containers),
    /// List port mappings or a specific mapping for the container
    Port(PortFlags),
    /// List containers
    Ps(PsFlags),
    /// Download an image from a registry
    Pull(PullFlags),
    /// Upload an image to a registry
    Push(PushFlags),
    /// Rename a container
    Rename(RenameFlags),
    /// Restart one or more containers
    Restart(StopFlags),
    /// Remove one or more containers
    Rm(RmFlags),
    /// Remove one or more images
    Rmi(RmiFlags),
    /// Create and run a new container from an image
    Run(Box<RunFlags>),
    /// Save one or more images to a tar archive (streamed to STDOUT by default)
    Save(SaveFlags),
    /// Search Docker Hub, or another registry, for images
    Search(SearchFlags),
    /// Start one or more stopped containers
    Start(StartFlags),
    /// Display a live stream of container(s) resource usage statistics
    Stats(StatsFlags),
    /// Stop one or more running containers
    Stop(StopFlags),
    /// Manage the engine
    #[command(subcommand)]
    System(SystemCommand),
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag(TagFlags),
    /// Display the running processes of a container
    Top(TopFlags),
    /// Unpause all processes within one or more containers
    Unpause(Containers),
    /// Update configuration of one or more containers
    Update(Box<UpdateFlags>),
    /// Show version information
    Version(FormatFlag),
    /// Manage volumes
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Block until one or more containers stop, then print their exit codes
    Wait(Containers),
}

/// `pouch container …`
#[derive(Debug, Subcommand)]
pub(crate) enum ContainerCommand {
    /// Attach local standard input, output, and error streams to a running container
    Attach(AttachFlags),
    /// Create a new image from a container's changes
    Commit(CommitFlags),
    /// Copy files/folders between a container and the local filesystem
    Cp(CpFlags),
    /// Create a new container
    Create(Box<CreateFlags>),
    /// Inspect changes to files or directories on a container's filesystem
    Diff(OneContainer),
    /// Execute a command in a running container
    Exec(ExecFlags),
    /// Export a container's filesystem as a tar archive
    Export(ExportFlags),
    /// Display detailed information on one or more containers
    Inspect(InspectContainerFlags),
    /// Kill one or more running containers
    Kill(KillFlags),
    /// Fetch the logs of a container
    Logs(LogsFlags),
    /// List containers
    #[command(name = "ls", visible_aliases = ["ps", "list"])]
    Ls(PsFlags),
    /// Pause all processes within one or more containers
    Pause(Containers),
    /// List port mappings or a specific mapping for the container
    Port(PortFlags),
    /// Remove all stopped containers
    Prune(PruneFlags),
    /// Rename a container
    Rename(RenameFlags),
    /// Restart one or more containers
    Restart(StopFlags),
    /// Remove one or more containers
    #[command(visible_alias = "remove")]
    Rm(RmFlags),
    /// Create and run a new container from an image
    Run(Box<RunFlags>),
    /// Start one or more stopped containers
    Start(StartFlags),
    /// Display a live stream of container(s) resource usage statistics
    Stats(StatsFlags),
    /// Stop one or more running containers
    Stop(StopFlags),
    /// Display the running processes of a container
    Top(TopFlags),
    /// Unpause all processes within one or more containers
    Unpause(Containers),
    /// Update configuration of one or more containers
    Update(Box<UpdateFlags>),
    /// Block until one or more containers stop, then print their exit codes
    Wait(Containers),
}

/// `pouch image …`
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Show the history of an image
    History(HistoryFlags),
    /// Import the contents from a tarball to create a filesystem image
    Import(ImportFlags),
    /// Display detailed information on one or more images
    Inspect(InspectImageFlags),
    /// Load an image from a tar archive or STDIN
    Load(LoadFlags),
    /// List images
    #[command(name = "ls", visible_alias = "list")]
    Ls(ImagesFlags),
    /// Remove unused images
    Prune(ImagePruneFlags),
    /// Download an image from a registry
    Pull(PullFlags),
    /// Upload an image to a registry
    Push(PushFlags),
    /// Remove one or more images
    #[command(visible_alias = "remove")]
    Rm(RmiFlags),
    /// Save one or more images to a tar archive (streamed to STDOUT by default)
    Save(SaveFlags),
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag(TagFlags),
}

/// `pouch volume …`
#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Create a volume
    Create(Box<VolumeCreateFlags>),
    /// Display detailed information on one or more volumes
    Inspect(InspectOne),
    /// List volumes
    #[command(name = "ls", visible_alias = "list")]
    Ls(VolumeListFlags),
    /// Remove unused local volumes
    Prune(VolumePruneFlags),
    /// Remove one or more volumes
    #[command(visible_alias = "remove")]
    Rm(VolumeRmFlags),
}

/// `pouch network …`
#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Display detailed information on one or more networks
    Inspect(InspectNetworkFlags),
    /// List networks
    #[command(name = "ls", visible_alias = "list")]
    Ls(NetworkListFlags),
}

/// `pouch system …`
#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// Show what runs the containers, and how it does
    Backend(FormatFlag),
    /// Show disk usage
    Df(DfFlags),
    /// Proxy the stdio stream to the daemon connection
    DialStdio,
    /// Get real time events from the server
    Events(EventsFlags),
    /// Display system-wide information
    Info(FormatFlag),
    /// Remove unused data
    Prune(SystemPruneFlags),
}

/// The whole tree with docker's rules put on.
pub(crate) fn command() -> clap::Command {
    adapt(Cli::command())
}

fn adapt(command: clap::Command) -> clap::Command {
    let takes_h = command.get_arguments().any(|arg| arg.get_short() == Some('h'));
    command
        .args_override_self(true)
        .disable_help_flag(true)
        .mut_args(|arg| match arg.get_action() {
            ArgAction::SetTrue => arg
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .default_value("false")
                .hide_default_value(true)
                .value_name("bool")
                .value_parser(BoolishValueParser::new()),
            // Like pflag: what follows a flag that wants a value is the value.
            ArgAction::Set | ArgAction::Append
                if !arg.is_positional() && !arg.is_require_equals_set() =>
            {
                arg.allow_hyphen_values(true)
            }
            _ => arg,
        })
        .arg({
            let help =
                clap::Arg::new("help").long("help").help("Print help").action(ArgAction::Help);
            if takes_h { help } else { help.short('h') }
        })
        .mut_subcommands(adapt)
}

/// Parses the process's arguments.
///
/// # Errors
/// What clap has to say; help and version are such errors too.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = std::ffi::OsString>,
) -> Result<Cli, clap::Error> {
    let matches = command().try_get_matches_from(arguments)?;
    Cli::from_arg_matches(&matches)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Cli, clap::Error> {
        parse(std::iter::once("pouch").chain(words.iter().copied()).map(Into::into))
    }

    fn run_flags(words: &[&str]) -> RunFlags {
        match parse_words(&[&["run"], words].concat()).unwrap().command {
            Command::Run(flags) => *flags,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_tree_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn flags_after_the_image_belong_to_the_command() {
        let flags =
            run_flags(&["--rm", "-it", "busybox", "sh", "-c", "x", "--rm=false", "--", "-v"]);
        assert!(flags.rm && flags.create.interactive && flags.create.tty);
        assert_eq!(flags.create.words, ["busybox", "sh", "-c", "x", "--rm=false", "--", "-v"]);
        assert_eq!(run_flags(&["busybox", "--help"]).create.words, ["busybox", "--help"]);
        assert_eq!(run_flags(&["busybox", "-d"]).create.words, ["busybox", "-d"]);
        assert!(!run_flags(&["busybox", "-d"]).detach);
        assert_eq!(run_flags(&["--", "busybox", "ls"]).create.words, ["busybox", "ls"]);
    }

    #[test]
    fn switches_take_values_and_the_last_one_wins() {
        assert!(!run_flags(&["--rm", "--rm=false", "x"]).rm);
        assert!(run_flags(&["-dit", "x"]).detach);
        assert_eq!(run_flags(&["--name", "a", "--name=b", "x"]).create.name, "b");
        assert_eq!(run_flags(&["-p8080:80", "-p", "81", "x"]).create.publish, ["8080:80", "81"]);
        assert_eq!(run_flags(&["-h", "box", "x"]).create.hostname, "box");
        assert_eq!(run_flags(&["-e", "A=-b", "-w=/x", "x"]).create.env, ["A=-b"]);
        assert_eq!(run_flags(&["--memory-swap", "-1", "x"]).create.resources.memory_swap, "-1");
        assert_eq!(run_flags(&["--sig-proxy=false", "x"]).sig_proxy, Some(false));
    }

    #[test]
    fn unknown_flags_before_the_image_are_errors() {
        assert!(parse_words(&["run", "--bogus", "x"]).is_err());
        assert!(parse_words(&["run"]).is_err());
        assert!(parse_words(&["ps", "x"]).is_err());
    }

    #[test]
    fn exec_and_top_stop_at_their_first_word() {
        match parse_words(&["exec", "-e", "A=1", "c", "ls", "-la"]).unwrap().command {
            Command::Exec(flags) => assert_eq!(flags.words, ["c", "ls", "-la"]),
            other => panic!("{other:?}"),
        }
        match parse_words(&["top", "c", "-o", "pid"]).unwrap().command {
            Command::Top(flags) => assert_eq!(flags.words, ["c", "-o", "pid"]),
            other => panic!("{other:?}"),
        }
    }
}
