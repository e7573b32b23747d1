//! The pouch daemon: flags and configuration, wiring of the floors, signals. No rule of its own.
//!
//! SIGTERM and SIGINT stop the daemon; containers go on and are found again by the next one.
//! SIGHUP reads the configuration file again and takes over what can change while running.

#![forbid(unsafe_code)]

mod args;
mod backend;
mod config;
mod cri;
mod daemon;
mod image_store;
mod listen;
mod policy;
mod settings;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use args::Args;
use config::{ConfigError, FileConfig, Required};
use settings::Settings;

/// Worker threads: the engine waits more than it computes.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    pouch_heap::bound_arenas();
    let args = Args::parse();
    let validate = args.validate;
    let (config_file, required) = config_file(&args);
    let settings =
        FileConfig::read(&config_file, required).and_then(|file| Settings::resolve(args, file));
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => return fail(&error),
    };
    let policy = match settings.image_policy.read() {
        Ok(policy) => policy,
        Err(error) => return fail(&error),
    };
    if validate {
        println!("configuration OK");
        return ExitCode::SUCCESS;
    }
    let reload = daemon::init_log(&settings.log_level);
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers.max(2))
        .thread_stack_size(1 << 20)
        .thread_name("pouchd")
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(daemon::run(settings, policy, config_file, reload));
            // Blocking threads may hang on a dead file system; the process must end all the same.
            runtime.shutdown_background();
            result
        }
        Err(source) => Err(daemon::DaemonError::Start { doing: "start the runtime", source }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// The file to read; one that was asked for must be there.
fn config_file(args: &Args) -> (std::path::PathBuf, Required) {
    let asked = std::env::args_os().any(|a| {
        a.to_str().is_some_and(|a| a == "--config-file" || a.starts_with("--config-file="))
    });
    (args.config_file.clone(), if asked { Required::Yes } else { Required::No })
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    let text = pouch_types::error::chain(error);
    // Nothing can be done about a closed standard error.
    let _ = writeln!(std::io::stderr(), "pouchd: {text}");
    ExitCode::FAILURE
}

/// Reads the file again; errors leave everything as it was.
fn reread(path: &std::path::Path) -> Result<FileConfig, ConfigError> {
    FileConfig::read(path, Required::No)
}
