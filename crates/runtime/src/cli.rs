//! The command line, as runc spells it.
//!
//! What is accepted and has no meaning here is accepted because callers pass it; what is known
//! and cannot be honoured is refused.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cgroup::Driver;
use crate::create::{self, Options};
use crate::error::RuntimeError;
use crate::exec::{self, Changes, Paused, Source};
use crate::features;
use crate::init::{Keyring, RootSwitch};
use crate::lifecycle::{self, Force, Target};
use crate::log::{Format, Log, Verbosity};
use crate::state::{OCI_VERSION, StateDir};
use crate::{spawn, template, update};

/// Where containers are remembered unless `--root` says otherwise.
pub const DEFAULT_ROOT: &str = "/run/pouch-runtime";

/// clap puts the name before it, as runc does with "version" in between.
const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.2.0");

/// OCI runtime of pouch.
#[derive(Debug, Parser)]
#[command(name = "pouch-runtime", version = VERSION)]
#[command(disable_help_subcommand = true)]
struct Cli {
    /// Directory of container state.
    #[arg(long, default_value = DEFAULT_ROOT)]
    root: PathBuf,
    /// File for warnings and errors.
    #[arg(long)]
    log: Option<PathBuf>,
    /// Form of the lines in the log.
    #[arg(long, value_enum, default_value_t)]
    log_format: Format,
    /// Let systemd make the cgroups; cgroupsPath is slice:prefix:name.
    #[arg(long)]
    systemd_cgroup: bool,
    /// Log every step.
    #[arg(long)]
    debug: bool,
    /// Accepted for runc's callers; what is permitted is found out.
    #[arg(long, hide = true)]
    rootless: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a container whose process waits for start.
    Create(CreateArgs),
    /// Run the program of a created container.
    Start { id: String },
    /// Create, start and, unless detached, wait.
    Run {
        #[command(flatten)]
        create: CreateArgs,
        /// Return when the program runs.
        #[arg(short, long)]
        detach: bool,
        /// Leave the stopped container behind.
        #[arg(long)]
        keep: bool,
    },
    /// Print the state as JSON.
    State { id: String },
    /// Send a signal, SIGTERM by default.
    Kill {
        /// To every process of the container.
        #[arg(short, long)]
        all: bool,
        id: String,
        #[arg(default_value = "SIGTERM")]
        signal: String,
    },
    /// Remove a container.
    Delete {
        /// Kill it when it runs; no error when it does not exist.
        #[arg(short, long)]
        force: bool,
        id: String,
    },
    /// Run a further process in a running container.
    Exec(ExecArgs),
    /// Freeze all processes.
    Pause { id: String },
    /// Thaw all processes.
    Resume { id: String },
    /// List the processes.
    Ps {
        #[arg(short, long, value_enum, default_value_t)]
        format: ListFormat,
        id: String,
        /// Accepted for runc's callers, who pass options of ps(1).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        rest: Vec<String>,
    },
    /// List the containers.
    List {
        #[arg(short, long, value_enum, default_value_t)]
        format: ListFormat,
        /// Print ids only.
        #[arg(short, long)]
        quiet: bool,
    },
    /// Change resource limits.
    Update(UpdateArgs),
    /// Refused: statistics are read from the cgroup by the engine.
    #[command(hide = true)]
    Events {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Print what this runtime can do, as OCI features JSON.
    Features,
    /// Write a config.json to start from.
    Spec {
        /// The bundle directory.
        #[arg(short, long, default_value = ".")]
        bundle: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum ListFormat {
    #[default]
    Table,
    Json,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// The bundle directory.
    #[arg(short, long, default_value = ".")]
    bundle: PathBuf,
    /// File that gets the pid of the container's process.
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Unix socket that receives the terminal.
    #[arg(long)]
    console_socket: Option<PathBuf>,
    /// Move the root instead of pivoting, for an initial ramdisk.
    #[arg(long)]
    no_pivot: bool,
    /// Keep the session keyring.
    #[arg(long)]
    no_new_keyring: bool,
    /// Pass this many descriptors after the standard streams.
    #[arg(long, default_value_t)]
    preserve_fds: u32,
    /// Accepted for runc's callers.
    #[arg(long, hide = true)]
    no_subreaper: bool,
    id: String,
}

impl CreateArgs {
    fn options(&self, driver: Driver) -> Options {
        Options {
            bundle: self.bundle.clone(),
            pid_file: self.pid_file.clone(),
            console_socket: self.console_socket.clone(),
            root_switch: if self.no_pivot { RootSwitch::Move } else { RootSwitch::Pivot },
            keyring: if self.no_new_keyring { Keyring::Inherited } else { Keyring::New },
            preserved_fds: self.preserve_fds,
            driver,
        }
    }
}

#[derive(Debug, Args)]
struct ExecArgs {
    /// File with an OCI process object, instead of a command.
    #[arg(short, long)]
    process: Option<PathBuf>,
    /// File that gets the pid.
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Unix socket that receives the terminal.
    #[arg(long)]
    console_socket: Option<PathBuf>,
    /// Give the process a terminal.
    #[arg(short, long)]
    tty: bool,
    /// Return when the process runs.
    #[arg(short, long)]
    detach: bool,
    /// Working directory.
    #[arg(long)]
    cwd: Option<PathBuf>,
    /// uid[:gid], as numbers.
    #[arg(short, long)]
    user: Option<String>,
    /// Further supplementary groups, as numbers.
    #[arg(short = 'g', long)]
    additional_gids: Vec<u32>,
    /// NAME=value.
    #[arg(short, long)]
    env: Vec<String>,
    /// Further capabilities.
    #[arg(short, long)]
    cap: Vec<String>,
    /// No new privileges.
    #[arg(long)]
    no_new_privs: bool,
    /// AppArmor profile.
    #[arg(long)]
    apparmor: Option<String>,
    /// Pass this many descriptors after the standard streams.
    #[arg(long, default_value_t)]
    preserve_fds: u32,
    /// Enter a paused container as well.
    #[arg(long)]
    ignore_paused: bool,
    id: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl ExecArgs {
    fn options(self) -> Result<exec::Options, RuntimeError> {
        let source = match self.process {
            Some(path) => Source::File(path),
            None => Source::Changes(Changes {
                args: self.command,
                cwd: self.cwd,
                env: self.env,
                user: self.user.as_deref().map(parse_user).transpose()?,
                groups: self.additional_gids,
                capabilities: self.cap.iter().map(|cap| capability_name(cap)).collect(),
                no_new_privileges: self.no_new_privs.then_some(true),
                apparmor: self.apparmor,
                terminal: self.tty.then_some(true),
            }),
        };
        Ok(exec::Options {
            source,
            pid_file: self.pid_file,
            console_socket: self.console_socket,
            preserved_fds: self.preserve_fds,
            paused: if self.ignore_paused { Paused::Enter } else { Paused::Refuse },
        })
    }
}

/// Numbers only: names are the engine's to resolve.
fn parse_user(text: &str) -> Result<(u32, Option<u32>), RuntimeError> {
    let number = |part: &str| {
        part.parse::<u32>()
            .ok()
            .filter(|_| part.bytes().all(|b| b.is_ascii_digit()))
            .ok_or_else(|| RuntimeError::Invalid(format!("user {text:?} is not uid[:gid]")))
    };
    match text.split_once(':') {
        Some((uid, gid)) => Ok((number(uid)?, Some(number(gid)?))),
        None => Ok((number(text)?, None)),
    }
}

fn capability_name(name: &str) -> String {
    let name = name.to_uppercase();
    if name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
}

#[derive(Debug, Args)]
struct UpdateArgs {
    /// File with OCI resources as JSON, or - for standard input; excludes the other options.
    #[arg(short, long)]
    resources: Option<PathBuf>,
    #[command(flatten)]
    flags: update::Flags,
    id: String,
}

/// Runs the command line and returns the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no failure.
            let failed = error.use_stderr();
            let _ = error.print();
            return if failed { ExitCode::from(1) } else { ExitCode::SUCCESS };
        }
    };
    let verbosity = if cli.debug { Verbosity::Debug } else { Verbosity::Normal };
    let log = match Log::open(cli.log.as_deref(), cli.log_format, verbosity) {
        Ok(log) => log,
        Err(error) => {
            Log::default().error(&pouch_types::error::chain(&error));
            return ExitCode::from(1);
        }
    };
    match dispatch(cli, &log) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            log.error(&pouch_types::error::chain(&error));
            ExitCode::from(1)
        }
    }
}

fn dispatch(cli: Cli, log: &Log) -> Result<u8, RuntimeError> {
    let root = cli.root.as_path();
    let driver = if cli.systemd_cgroup { Driver::Systemd } else { Driver::Filesystem };
    log.debug(|| format!("{:?}", cli.command));
    match cli.command {
        Command::Create(args) => {
            crate::sealed::ensure_sealed()?;
            create::create(root, &args.id, &args.options(driver), log)?;
        }
        Command::Run { create: args, detach, keep } => {
            crate::sealed::ensure_sealed()?;
            let attend = match (detach, keep) {
                (true, _) => Attend::Start,
                (false, true) => Attend::End,
                (false, false) => Attend::Removal,
            };
            return run_container(root, &args, driver, attend, log);
        }
        Command::Exec(args) => {
            crate::sealed::ensure_sealed()?;
            let (id, detach) = (args.id.clone(), args.detach);
            let pid = exec::exec(root, &id, &args.options()?, log)?;
            return if detach { Ok(0) } else { wait_code(pid) };
        }
        Command::Start { id } => lifecycle::start(root, &id, log)?,
        Command::State { id } => print_json(&StateDir::open(root, &id)?.view()?)?,
        Command::Kill { all, id, signal } => {
            let target = if all { Target::All } else { Target::Init };
            lifecycle::kill(root, &id, parse_signal(&signal)?, target)?;
        }
        Command::Delete { force, id } => {
            lifecycle::delete(root, &id, if force { Force::Yes } else { Force::No }, log)?;
        }
        Command::Pause { id } => lifecycle::pause(root, &id)?,
        Command::Resume { id } => lifecycle::resume(root, &id)?,
        Command::Ps { format, id, .. } => {
            let record = StateDir::open(root, &id)?.load("list the processes of")?;
            let pids = record.cgroup.pids()?;
            match format {
                ListFormat::Json => print_json(&pids)?,
                ListFormat::Table => {
                    let rows = pids.iter().map(|pid| [pid.to_string(), program_name(*pid)]);
                    print_table(["PID", "CMD"], rows)?;
                }
            }
        }
        Command::List { format, quiet } => list(root, format, quiet, log)?,
        Command::Update(args) => {
            update::update(root, &args.id, args.resources.as_deref(), &args.flags)?;
        }
        Command::Events { .. } => {
            return Err(RuntimeError::Unsupported(String::from("the command events")));
        }
        Command::Features => print_json(&features::features())?,
        Command::Spec { bundle } => template::write(&bundle)?,
    }
    Ok(0)
}

/// How far `run` goes along with a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attend {
    /// Until its program runs.
    Start,
    /// Until it has ended.
    End,
    /// Until it has ended and is removed.
    Removal,
}

fn run_container(
    root: &Path,
    args: &CreateArgs,
    driver: Driver,
    attend: Attend,
    log: &Log,
) -> Result<u8, RuntimeError> {
    let pid = create::create(root, &args.id, &args.options(driver), log)?;
    if let Err(error) = lifecycle::start(root, &args.id, log) {
        let _ = lifecycle::delete(root, &args.id, Force::Yes, log);
        return Err(error);
    }
    if attend == Attend::Start {
        return Ok(0);
    }
    let code = wait_code(pid);
    if attend == Attend::Removal {
        lifecycle::delete(root, &args.id, Force::Yes, log)?;
    }
    code
}

fn wait_code(pid: i32) -> Result<u8, RuntimeError> {
    Ok(u8::try_from(spawn::wait(pid)?).unwrap_or(u8::MAX))
}

fn parse_signal(text: &str) -> Result<i32, RuntimeError> {
    // 0 is no signal and still a question that callers ask.
    if text == "0" {
        return Ok(0);
    }
    text.parse::<pouch_types::Signal>()
        .map(|signal| signal.number())
        .map_err(|error| RuntimeError::Invalid(error.to_string()))
}

fn program_name(pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text: String = String::from_utf8_lossy(&bytes).replace('\0', " ");
    // Control characters are the container's and the terminal is ours.
    text.trim_end().chars().map(|c| if c.is_control() { '?' } else { c }).take(200).collect()
}

fn list(root: &Path, format: ListFormat, quiet: bool, log: &Log) -> Result<(), RuntimeError> {
    let ids = StateDir::ids(root)?;
    if quiet {
        return print_table([""; 0], ids.into_iter().map(|id| [id]));
    }
    let mut views = Vec::with_capacity(ids.len());
    for id in ids {
        match StateDir::open(root, &id).and_then(|directory| directory.view()) {
            Ok(view) => views.push(view),
            // Deleted since the listing.
            Err(RuntimeError::NotFound { .. }) => {}
            Err(error) => log.warn(&pouch_types::error::chain(&error)),
        }
    }
    match format {
        ListFormat::Json => print_json(&views),
        ListFormat::Table => print_table(
            ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"],
            views.iter().map(crate::state::View::columns),
        ),
    }
}

fn print_json(value: &impl serde::Serialize) -> Result<(), RuntimeError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|source| RuntimeError::library("cannot encode the output", source))?;
    print(&format!("{text}\n"))
}

fn print_table<const H: usize, const N: usize>(
    head: [&str; H],
    rows: impl Iterator<Item = [String; N]>,
) -> Result<(), RuntimeError> {
    let mut lines: Vec<Vec<String>> = Vec::new();
    if H > 0 {
        lines.push(head.iter().map(|cell| (*cell).to_owned()).collect());
    }
    lines.extend(rows.map(|row| row.to_vec()));
    let width = |column: usize| {
        lines.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..N).map(|column| width(column).unwrap_or(0)).collect();
    let text: String = lines
        .iter()
        .map(|row| {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            format!("{}\n", cells.join("  ").trim_end())
        })
        .collect();
    print(&text)
}

fn print(text: &str) -> Result<(), RuntimeError> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|source| RuntimeError::system("writing the output", source))
}

const _: () = assert!(OCI_VERSION.len() == "1.2.0".len());

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
        assert!(VERSION.ends_with(OCI_VERSION));
    }

    #[test]
    fn containerds_spelling_is_understood() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        let id = "0".repeat(64);
        for line in [
            format!("r --root /x --log /l --log-format json create --bundle /b --pid-file /p {id}"),
            format!(
                "r --root /x exec --process /p --detach --pid-file /q --console-socket /s {id}"
            ),
            format!("r kill --all {id} 9"),
            format!("r --systemd-cgroup delete --force {id}"),
            format!("r ps --format json {id}"),
            format!("r update --resources - {id}"),
            format!("r exec -e A=1 --user 1:2 {id} sh -c ls"),
        ] {
            parse(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        assert!(parse("r create --no-such x").is_err());
    }

    #[test]
    fn users_are_numbers() {
        assert_eq!(parse_user("7").unwrap(), (7, None));
        assert_eq!(parse_user("7:8").unwrap(), (7, Some(8)));
        for text in ["", "root", "-1", "+1", "0x0", "4294967296", "1:", "1:x"] {
            assert!(parse_user(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!(parse_signal("SIGKILL").unwrap(), 9);
        assert_eq!(parse_signal("TERM").unwrap(), 15);
        assert_eq!(parse_signal("9").unwrap(), 9);
        assert_eq!(parse_signal("0").unwrap(), 0);
        assert!(parse_signal("NOPE").is_err());
    }
}
