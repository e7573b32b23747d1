//! `pouch-bench`: what container operations cost at the Docker API, engines side by side.
//!
//! Speaks plain HTTP over one kept connection per engine (one per container where the operation is
//! a parallel one) and shares no code with the engine, so that every engine is measured by the same
//! means. Samples of the engines are interleaved: what else the machine does meets all of them
//! alike. `bench/run` starts the engines and calls this.

#![forbid(unsafe_code)]

mod cpu;
mod docker;
mod http;
mod scenario;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use docker::Docker;
use pouch_bench::engine::{Engine, told};
use pouch_bench::report;
use scenario::Scenarios;

/// Measures container operations of one or more engines at their Docker API sockets.
#[derive(Debug, Parser)]
#[command(name = "pouch-bench", version)]
struct Args {
    /// Engine to measure; the first is the one that others are compared with
    #[arg(long = "engine", value_name = "NAME=SOCKET,PID", required_unless_present = "probe")]
    engines: Vec<Engine>,
    /// Samples of each operation; the median is shown
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Containers of the parallel operations
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    parallel: u32,
    /// Samples of the parallel operations
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    parallel_rounds: u32,
    /// Runs of each sample of processor time
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    cpu_runs: u32,
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Run, Part::Exec, Part::Parallel, Part::Memory])]
    parts: Vec<Part>,
    /// Image to run; needs `true` and `sleep`
    #[arg(long, value_name = "IMAGE", default_value = "bench")]
    image: String,
    /// Archive of a root file system to import as that image first
    #[arg(long, value_name = "FILE")]
    import: Option<PathBuf>,
    /// Only find out whether an engine answers at this socket
    #[arg(long, value_name = "SOCKET", exclusive = true)]
    probe: Option<PathBuf>,
    /// Where to write all samples
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// create, start, wait and remove, one after the other
    Run,
    /// exec in a running container
    Exec,
    /// processor time of the daemons alone
    Cpu,
    /// many containers at once, and their list
    Parallel,
    /// proportional set sizes of the daemons and the shims
    Memory,
}

/// Beyond this load per processor figures say more about the rest of the machine.
const QUIET: f64 = 0.5;

/// A single request takes no longer than this, or the engine counts as hung.
const DEADLINE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    told("pouch-bench", run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    if let Some(socket) = &args.probe {
        return Ok(Docker::connect(socket, Duration::from_secs(5)).map(drop)?);
    }
    let before = report::Load::now()?;
    if before.per_processor() > QUIET {
        eprintln!("warning: this machine is not quiet (load {before}): figures are too high");
    }
    let mut engines = Vec::new();
    for engine in &args.engines {
        let mut docker = Docker::connect(&engine.socket, DEADLINE)?;
        if let Some(archive) = &args.import {
            docker.import(&args.image, archive)?;
        }
        docker.remove_ours()?;
        engines.push(scenario::Subject::new(engine.name.clone(), engine.pid, docker));
    }
    let mut scenarios =
        Scenarios::new(&args.image, args.rounds, args.parallel, args.parallel_rounds);
    let measured = measure(&mut scenarios, args, &mut engines);
    for engine in &mut engines {
        engine.docker.remove_ours()?;
    }
    measured?;

    let after = report::Load::now()?;
    let versions = engines
        .iter_mut()
        .map(|e| Ok((e.name.clone(), e.docker.version()?)))
        .collect::<Result<Vec<_>, docker::Error>>()?;
    let report =
        report::Report::new(versions, args.rounds, args.parallel, before, after, scenarios.rows);
    print!("{report}");
    if let Some(path) = &args.json {
        fs::write(path, report.to_json()?)?;
    }
    Ok(())
}

fn measure(
    scenarios: &mut Scenarios,
    args: &Args,
    engines: &mut [scenario::Subject],
) -> Result<(), scenario::Error> {
    let wants = |part| args.parts.contains(&part);
    if wants(Part::Memory) {
        scenarios.memory_idle(engines)?;
    }
    if wants(Part::Run) {
        scenarios.run(engines)?;
    }
    if wants(Part::Exec) {
        scenarios.exec(engines)?;
    }
    if wants(Part::Cpu) {
        scenarios.cpu(engines, args.cpu_runs, args.parallel_rounds)?;
    }
    if wants(Part::Parallel) {
        scenarios.parallel(engines)?;
    }
    if wants(Part::Memory) {
        scenarios.memory_after(engines)?;
    }
    Ok(())
}
