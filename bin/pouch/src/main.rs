//! `pouch`, the command line of the engine: docker's commands over the Docker Engine API.
//!
//! It speaks HTTP only, so it works with pouchd and with any other daemon that has the API. One
//! thread runs everything: a command is a conversation, and starting fast matters more than
//! parallel work.

#![forbid(unsafe_code)]

mod archive;
mod cli;
mod cmd;
mod context;
mod create;
mod credentials;
mod failure;
mod flags;
mod json_text;
mod listing;
mod natural;
mod output;
mod progress;
mod settings;
mod signals;
mod streams;
mod table;
mod template;
mod terminal;
mod units;

use std::process::ExitCode;

use cli::{
    Cli, Command, ContainerCommand, ImageCommand, NetworkCommand, SystemCommand, VolumeCommand,
};
use cmd::Outcome;
use context::Session;
use failure::Failure;

fn main() -> ExitCode {
    terminal::install_panic_hook();
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    if let Command::Completion(flags) = &cli.command {
        let mut text = Vec::new();
        clap_complete::generate(flags.shell, &mut cli::command(), "pouch", &mut text);
        return finish(output::print(&String::from_utf8_lossy(&text)).map(|()| 0));
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return finish(Err(Failure::new(format!("cannot start: {error}")))),
    };
    let outcome = runtime.block_on(async {
        let session = Session::open(&cli.global)?;
        run(&session, cli).await
    });
    // A thread may still wait for a key; it ends with the process.
    runtime.shutdown_background();
    finish(outcome)
}

fn finish(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(Failure { message, code }) => {
            if let Some(message) = message {
                output::note(&message);
            }
            ExitCode::from(code)
        }
    }
}

/// Docker's exit codes: 125 for flags that a command does not know, 1 for a command that does not
/// exist, lacks arguments or has too many, 0 for a group of commands without one of them.
fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            finish(output::print(&error.render().to_string()).map(|()| 0))
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            finish(output::print(&error.render().to_string()).map(|()| 0))
        }
        kind => {
            output::note(error.render().to_string().trim_end());
            let flags = match kind {
                // A word too many is no flag.
                ErrorKind::UnknownArgument => matches!(
                    error.get(clap::error::ContextKind::InvalidArg),
                    Some(clap::error::ContextValue::String(word)) if word.starts_with('-')
                ),
                ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::NoEquals => true,
                _ => Default::default(),
            };
            ExitCode::from(if flags { failure::ENGINE } else { 1 })
        }
    }
}

async fn run(session: &Session, cli: Cli) -> Outcome {
    use cmd::{
        attach, container, cp, exec, image, images, inspect, lifecycle, login, logs, ps, search,
        stats, system, version,
    };
    match cli.command {
        Command::Attach(f) | Command::Container(ContainerCommand::Attach(f)) => {
            attach::attach(session, f).await
        }
        Command::Commit(f) | Command::Container(ContainerCommand::Commit(f)) => {
            image::commit(session, f).await
        }
        Command::Completion(_) => Ok(0),
        Command::Cp(f) | Command::Container(ContainerCommand::Cp(f)) => cp::cp(session, f).await,
        Command::Create(f) | Command::Container(ContainerCommand::Create(f)) => {
            Box::pin(cmd::run::create(session, *f)).await
        }
        Command::Diff(f) | Command::Container(ContainerCommand::Diff(f)) => {
            container::diff(session, &f.container).await
        }
        Command::Events(f) | Command::System(SystemCommand::Events(f)) => {
            system::events(session, f).await
        }
        Command::Exec(f) | Command::Container(ContainerCommand::Exec(f)) => {
            exec::exec(session, f).await
        }
        Command::Export(f) | Command::Container(ContainerCommand::Export(f)) => {
            container::export(session, f).await
        }
        Command::History(f) | Command::Image(ImageCommand::History(f)) => {
            images::history(session, f).await
        }
        Command::Images(f) | Command::Image(ImageCommand::Ls(f)) => {
            images::images(session, f).await
        }
        Command::Import(f) | Command::Image(ImageCommand::Import(f)) => {
            image::import(session, f).await
        }
        Command::Info(f) | Command::System(SystemCommand::Info(f)) => {
            version::info(session, f).await
        }
        Command::Inspect(f) => inspect::any(session, f).await,
        Command::Container(ContainerCommand::Inspect(f)) => inspect::container(session, f).await,
        Command::Image(ImageCommand::Inspect(f)) => inspect::image(session, f).await,
        Command::Network(NetworkCommand::Inspect(f)) => inspect::network(session, f).await,
        Command::Volume(VolumeCommand::Inspect(f)) => inspect::volume(session, f).await,
        Command::Kill(f) | Command::Container(ContainerCommand::Kill(f)) => {
            lifecycle::kill(session, f).await
        }
        Command::Load(f) | Command::Image(ImageCommand::Load(f)) => image::load(session, f).await,
        Command::Login(f) => login::login(session, f).await,
        Command::Logout(f) => login::logout(session, f).await,
        Command::Logs(f) | Command::Container(ContainerCommand::Logs(f)) => {
            logs::logs(session, f).await
        }
        Command::Network(NetworkCommand::Ls(f)) => cmd::network::ls(session, f).await,
        Command::Pause(f) | Command::Container(ContainerCommand::Pause(f)) => {
            lifecycle::pause(session, &f.containers).await
        }
        Command::Port(f) | Command::Container(ContainerCommand::Port(f)) => {
            container::port(session, f).await
        }
        Command::Ps(f) | Command::Container(ContainerCommand::Ls(f)) => ps::ps(session, f).await,
        Command::Pull(f) | Command::Image(ImageCommand::Pull(f)) => image::pull(session, f).await,
        Command::Push(f) | Command::Image(ImageCommand::Push(f)) => image::push(session, f).await,
        Command::Rename(f) | Command::Container(ContainerCommand::Rename(f)) => {
            attach::rename(session, &f.container, &f.name).await
        }
        Command::Restart(f) | Command::Container(ContainerCommand::Restart(f)) => {
            lifecycle::restart(session, f).await
        }
        Command::Rm(f) | Command::Container(ContainerCommand::Rm(f)) => {
            lifecycle::rm(session, f).await
        }
        Command::Rmi(f) | Command::Image(ImageCommand::Rm(f)) => image::rmi(session, f).await,
        Command::Run(f) | Command::Container(ContainerCommand::Run(f)) => {
            Box::pin(cmd::run::run(session, *f)).await
        }
        Command::Save(f) | Command::Image(ImageCommand::Save(f)) => image::save(session, f).await,
        Command::Search(f) => search::search(session, f).await,
        Command::Start(f) | Command::Container(ContainerCommand::Start(f)) => {
            attach::start(session, f).await
        }
        Command::Stats(f) | Command::Container(ContainerCommand::Stats(f)) => {
            stats::stats(session, f).await
        }
        Command::Stop(f) | Command::Container(ContainerCommand::Stop(f)) => {
            lifecycle::stop(session, f).await
        }
        Command::System(SystemCommand::Backend(f)) => cmd::backend::backend(session, f).await,
        Command::System(SystemCommand::Df(f)) => system::df(session, f).await,
        Command::System(SystemCommand::DialStdio) => system::dial_stdio(session).await,
        Command::System(SystemCommand::Prune(f)) => system::prune(session, f).await,
        Command::Tag(f) | Command::Image(ImageCommand::Tag(f)) => image::tag(session, f).await,
        Command::Top(f) | Command::Container(ContainerCommand::Top(f)) => {
            container::top(session, f).await
        }
        Command::Unpause(f) | Command::Container(ContainerCommand::Unpause(f)) => {
            lifecycle::unpause(session, &f.containers).await
        }
        Command::Update(f) | Command::Container(ContainerCommand::Update(f)) => {
            lifecycle::update(session, *f).await
        }
        Command::Version(f) => version::version(session, f).await,
        Command::Volume(VolumeCommand::Create(f)) => cmd::volume::create(session, *f).await,
        Command::Volume(VolumeCommand::Ls(f)) => cmd::volume::ls(session, f).await,
        Command::Volume(VolumeCommand::Prune(f)) => cmd::volume::prune(session, f).await,
        Command::Volume(VolumeCommand::Rm(f)) => cmd::volume::rm(session, f).await,
        Command::Wait(f) | Command::Container(ContainerCommand::Wait(f)) => {
            attach::wait(session, &f.containers).await
        }
        Command::Container(ContainerCommand::Prune(f)) => lifecycle::prune(session, f).await,
        Command::Image(ImageCommand::Prune(f)) => image::prune(session, f).await,
    }
}
