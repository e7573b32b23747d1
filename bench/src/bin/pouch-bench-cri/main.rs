//! `pouch-bench-cri`: what pods cost at the Kubernetes Container Runtime Interface, runtimes side by
//! side.
//!
//! One call after the other over one connection, as a kubelet makes them for one pod. Samples of the
//! runtimes are interleaved: what else the machine does meets all of them alike. `bench/cri` starts
//! the runtimes, all in one world with one network, and calls this.

#![forbid(unsafe_code)]

mod node;

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use pouch_bench::engine::{Engine, told};
use pouch_bench::report::{Load, Report, Row};
use pouch_bench::stats::Unit;
use pouch_bench::{memory, processor};

use node::{Node, Pod};

/// Measures pods and containers of one or more runtimes at their CRI sockets.
#[derive(Debug, Parser)]
#[command(name = "pouch-bench-cri", version)]
struct Args {
    /// Runtime to measure; the first is the one that others are compared with
    #[arg(long = "runtime", value_name = "NAME=SOCKET,PID", required = true)]
    runtimes: Vec<Engine>,
    /// Samples of each operation; the median is shown
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Pods that run while lists are asked for and memory is looked at
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=200))]
    pods: u32,
    /// Image to run; needs `sleep`
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// Control group that pods are made in
    #[arg(long, value_name = "PATH", default_value = "/bench")]
    cgroup_parent: String,
    /// Where to write all samples
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Pods before the first sample: caches, lazily started parts.
const WARM_UP: u32 = 2;

/// Relists that one sample of processor time is for: the kubelet's of 20 seconds.
const RELISTS: u32 = 20;

/// Samples of that, since one call takes little.
const RELIST_ROUNDS: u32 = 5;

/// What was started has settled.
const SETTLE: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("runtime {name}")]
    Node { name: String, source: node::Error },
    #[error("memory of pods of {name}")]
    Memory { name: String, source: memory::Error },
    #[error("processor time of {name}")]
    Processor { name: String, source: processor::Error },
    #[error("{name} lists {pods} pods and {containers} containers instead of {expected}")]
    Listed { name: String, pods: usize, containers: usize, expected: u32 },
}

/// A runtime under measurement.
#[derive(Debug)]
struct Subject {
    name: String,
    pid: u32,
    node: Node,
}

impl Subject {
    /// Makes a call with an error that names this runtime.
    fn call<T>(&mut self, f: impl FnOnce(&mut Node) -> Result<T, node::Error>) -> Result<T, Error> {
        f(&mut self.node).map_err(|source| Error::Node { name: self.name.clone(), source })
    }

    fn timed<T>(
        &mut self,
        row: &mut Row,
        f: impl FnOnce(&mut Node) -> Result<T, node::Error>,
    ) -> Result<T, Error> {
        let start = Instant::now();
        let value = self.call(f)?;
        row.push(&self.name, start.elapsed().as_secs_f64());
        Ok(value)
    }
}

fn main() -> ExitCode {
    told("pouch-bench-cri", run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let before = Load::now()?;
    let mut subjects = Vec::new();
    let mut versions = Vec::new();
    for Engine { name, socket, pid } in &args.runtimes {
        let name = name.clone();
        let node = Node::new(socket, &args.image, &args.cgroup_parent)
            .map_err(|source| Error::Node { name: name.clone(), source })?;
        let mut subject = Subject { name, pid: *pid, node };
        versions.push((subject.name.clone(), subject.call(Node::version)?));
        subject.call(Node::pull)?;
        subjects.push(subject);
    }
    let mut rows = one_by_one(&mut subjects, args.rounds)?;
    rows.extend(many(&mut subjects, args.pods)?);
    let report = Report::new(versions, args.rounds, args.pods, before, Load::now()?, rows);
    print!("{report}");
    if let Some(path) = &args.json {
        fs::write(path, report.to_json()?)?;
    }
    Ok(())
}

/// A pod's whole life, again and again, the runtimes by turns.
fn one_by_one(subjects: &mut [Subject], rounds: u32) -> Result<Vec<Row>, Error> {
    let row = |name| Row::new(name, Unit::Seconds, None);
    let mut run = row("RunPodSandbox, bridge network");
    let mut start = row("CreateContainer + StartContainer");
    let mut stop = row("StopPodSandbox, a container in it");
    let mut remove = row("RemovePodSandbox");
    // Thrown away.
    let mut warm_up = row("");
    for round in 0..WARM_UP + rounds {
        for subject in &mut *subjects {
            let mut timed =
                |kept: &mut Row, f: &mut dyn FnMut(&mut Node) -> Result<(), node::Error>| {
                    let row = if round < WARM_UP { &mut warm_up } else { kept };
                    subject.timed(row, f)
                };
            let mut pod = None;
            timed(&mut run, &mut |node| node.run_pod().map(|made| pod = Some(made)))?;
            let Some(pod) = pod else { continue };
            timed(&mut start, &mut |node| node.start_container(&pod))?;
            timed(&mut stop, &mut |node| node.stop_pod(&pod))?;
            timed(&mut remove, &mut |node| node.remove_pod(&pod))?;
        }
    }
    Ok(vec![run, start, stop, remove])
}

/// Pods that are there: what they use, and what asking for them costs. One runtime after the other,
/// since memory of a pod is that of all processes that came with it.
fn many(subjects: &mut [Subject], pods: u32) -> Result<Vec<Row>, Error> {
    let mut used = Row::new("memory per pod (PSS of its processes)", Unit::Bytes, None);
    let mut relist = Row::new("processor time of 20 relists", Unit::Seconds, None);
    for subject in subjects {
        let memory = |source| Error::Memory { name: subject.name.clone(), source };
        let known: HashSet<u32> = memory::all().map_err(memory)?;
        let running: Vec<Pod> = (0..pods)
            .map(|_| {
                let pod = subject.call(Node::run_pod)?;
                subject.call(|node| node.start_container(&pod))?;
                Ok(pod)
            })
            .collect::<Result<_, Error>>()?;
        thread::sleep(SETTLE);
        let memory = |source| Error::Memory { name: subject.name.clone(), source };
        let bytes = memory::since(&known).map_err(memory)?;
        used.push(&subject.name, bytes_of(bytes) / f64::from(pods));
        for _ in 0..RELIST_ROUNDS {
            let processor = |source| Error::Processor { name: subject.name.clone(), source };
            let before = processor::used(subject.pid).map_err(processor)?;
            for _ in 0..RELISTS {
                let (pods, containers) = subject.call(Node::relist)?;
                let expected = running.len();
                if (pods, containers) != (expected, expected) {
                    let name = subject.name.clone();
                    let expected = u32::try_from(expected).unwrap_or(u32::MAX);
                    return Err(Error::Listed { name, pods, containers, expected });
                }
            }
            let processor = |source| Error::Processor { name: subject.name.clone(), source };
            let after = processor::used(subject.pid).map_err(processor)?;
            relist.push(&subject.name, after.saturating_sub(before).as_secs_f64());
        }
        for pod in &running {
            subject.call(|node| node.stop_pod(pod))?;
            subject.call(|node| node.remove_pod(pod))?;
        }
    }
    Ok(vec![used, relist])
}

#[expect(clippy::cast_precision_loss, reason = "exact up to eight petabytes")]
const fn bytes_of(bytes: u64) -> f64 {
    bytes as f64
}
