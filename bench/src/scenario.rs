//! What is measured, and in which order.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use pouch_bench::memory;
use pouch_bench::report::{MEGABYTE, Row};
use pouch_bench::stats::Unit;

use crate::cpu;
use crate::docker::{self, Docker, Network, Watch};

/// Runs before the first sample: caches, lazily started parts.
const WARM_UP: u32 = 2;

/// For memory: what was freed is given back, what was started has settled.
const SETTLE: Duration = Duration::from_secs(2);

/// An engine is idle again when its own garbage collection had time to come.
const IDLE: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "engine {name} has {shims} shims for {containers} containers: their memory is not known"
    )]
    Shims { name: String, shims: usize, containers: u32 },
    #[error("engine {name}")]
    Docker { name: String, source: docker::Error },
    #[error("processor time of engine {name}")]
    Cpu { name: String, source: cpu::Error },
    #[error("memory of engine {name}")]
    Memory { name: String, source: memory::Error },
    #[error("engine {name} lists {listed} containers instead of {expected}")]
    List { name: String, listed: usize, expected: usize },
}

/// An engine under measurement.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) name: String,
    pid: u32,
    pub(crate) docker: Docker,
}

impl Subject {
    pub(crate) fn new(name: String, pid: u32, docker: Docker) -> Self {
        Self { name, pid, docker }
    }

    /// Runs calls with an error that names this engine.
    fn call<T>(
        &mut self,
        f: impl FnOnce(&mut Docker) -> Result<T, docker::Error>,
    ) -> Result<T, Error> {
        f(&mut self.docker).map_err(|source| Error::Docker { name: self.name.clone(), source })
    }

    fn memory<T>(&self, f: impl FnOnce(u32) -> Result<T, memory::Error>) -> Result<T, Error> {
        f(self.pid).map_err(|source| Error::Memory { name: self.name.clone(), source })
    }
}

#[derive(Debug)]
pub(crate) struct Scenarios {
    image: String,
    rounds: u32,
    parallel: u32,
    parallel_rounds: u32,
    /// In the order of their first sample.
    pub(crate) rows: Vec<Row>,
}

impl Scenarios {
    pub(crate) fn new(image: &str, rounds: u32, parallel: u32, parallel_rounds: u32) -> Self {
        Self { image: image.to_owned(), rounds, parallel, parallel_rounds, rows: Vec::new() }
    }

    /// Adds a sample to the row of that name, which the first sample makes.
    fn sample(&mut self, engine: &str, name: &str, unit: Unit, floor: Option<f64>, value: f64) {
        if !self.rows.iter().any(|row| row.name == name) {
            self.rows.push(Row::new(name, unit, floor));
        }
        if let Some(row) = self.rows.iter_mut().find(|row| row.name == name) {
            row.push(engine, value);
        }
    }

    fn time(&mut self, engine: &str, name: &str, floor: Option<f64>, duration: Duration) {
        self.sample(engine, name, Unit::Seconds, floor, duration.as_secs_f64());
    }

    /// create + start + wait + remove of a container that runs `true`, and each of the four.
    pub(crate) fn run(&mut self, engines: &mut [Subject]) -> Result<(), Error> {
        for (network, name, floor) in [
            (Network::None, "run true, no network", 0.045),
            (Network::Bridge, "run true, bridge", 0.060),
        ] {
            for round in 0..self.rounds + WARM_UP {
                for engine in &mut *engines {
                    let times = engine.call(|docker| run_once(docker, &self.image, network))?;
                    if round < WARM_UP {
                        continue;
                    }
                    self.time(
                        &engine.name,
                        name,
                        Some(floor),
                        times.iter().map(|(_, time)| *time).sum(),
                    );
                    for (step, time) in times {
                        self.time(&engine.name, &format!("{name}: {step}"), None, time);
                    }
                }
            }
        }
        Ok(())
    }

    /// Processor time of the daemon for 1,000 runs of `true`, from samples of `runs` each.
    pub(crate) fn cpu(
        &mut self,
        engines: &mut [Subject],
        runs: u32,
        samples: u32,
    ) -> Result<(), Error> {
        for (network, name) in [
            (Network::None, "daemon's CPU of 1,000 runs, no network"),
            (Network::Bridge, "daemon's CPU of 1,000 runs, bridge"),
        ] {
            for _ in 0..samples {
                for engine in &mut *engines {
                    let spent = |engine: &Subject| {
                        let name = engine.name.clone();
                        cpu::spent(engine.pid).map_err(|source| Error::Cpu { name, source })
                    };
                    let before = spent(engine)?;
                    for _ in 0..runs {
                        engine.call(|docker| run_once(docker, &self.image, network))?;
                    }
                    // What is done behind the answers belongs to them.
                    thread::sleep(SETTLE);
                    let used = spent(engine)?.saturating_sub(before);
                    let value = used.as_secs_f64() * 1000.0 / f64::from(runs);
                    self.sample(&engine.name, name, Unit::Seconds, None, value);
                }
            }
        }
        Ok(())
    }

    /// exec of `true` in a container that sleeps.
    pub(crate) fn exec(&mut self, engines: &mut [Subject]) -> Result<(), Error> {
        let mut containers = Vec::new();
        for engine in &mut *engines {
            containers.push(engine.call(|docker| {
                let id = docker.create(&self.image, Network::None, &["sleep", "86400"])?;
                docker.start(&id).map(|()| id)
            })?);
        }
        for (watch, name) in [
            (Watch::Attached, "exec true, attached"),
            (Watch::Polled, "exec true, detached and polled"),
        ] {
            for round in 0..self.rounds + WARM_UP {
                for (engine, id) in engines.iter_mut().zip(&containers) {
                    let start = Instant::now();
                    engine.call(|docker| docker.exec(id, &["true"], watch))?;
                    let time = start.elapsed();
                    if round >= WARM_UP {
                        self.time(&engine.name, name, Some(0.012), time);
                    }
                }
            }
        }
        for (engine, id) in engines.iter_mut().zip(&containers) {
            engine.call(|docker| docker.force_remove(id))?;
        }
        Ok(())
    }

    /// Many containers on the bridge: created, started and removed at once; their list and their
    /// shims' memory in between. Engine after engine, since each uses the whole machine.
    pub(crate) fn parallel(&mut self, engines: &mut [Subject]) -> Result<(), Error> {
        let count = self.parallel;
        for round in 0..self.parallel_rounds {
            for engine in &mut *engines {
                let name = engine.name.clone();
                let mut connections = engine.call(|docker| {
                    (0..count).map(|_| docker.another()).collect::<Result<Vec<_>, _>>()
                })?;
                let image = self.image.clone();
                let (time, ids) = engine.call(|_| {
                    at_once(&mut connections, |docker, _| {
                        docker.create(&image, Network::Bridge, &["sleep", "86400"])
                    })
                })?;
                self.time(&name, &format!("create {count} at once"), None, time);

                let (time, _) = engine
                    .call(|_| at_once(&mut connections, |docker, i| docker.start(&ids[i])))?;
                self.time(&name, &format!("start {count} at once, bridge"), Some(1.0), time);

                if round == 0 {
                    self.list(engine, ids.len())?;
                    thread::sleep(SETTLE);
                    self.shims(engine)?;
                }

                let (time, _) = engine.call(|_| {
                    at_once(&mut connections, |docker, i| docker.force_remove(&ids[i]))
                })?;
                self.time(&name, &format!("force-remove {count} at once"), Some(0.8), time);
            }
        }
        Ok(())
    }

    fn list(&mut self, engine: &mut Subject, expected: usize) -> Result<(), Error> {
        let row = format!("list of {expected}");
        for round in 0..self.rounds + WARM_UP {
            let start = Instant::now();
            let listed = engine.call(Docker::list)?;
            let time = start.elapsed();
            if listed != expected {
                return Err(Error::List { name: engine.name.clone(), listed, expected });
            }
            if round >= WARM_UP {
                self.time(&engine.name, &row, Some(0.001), time);
            }
        }
        Ok(())
    }

    fn shims(&mut self, engine: &Subject) -> Result<(), Error> {
        let count = self.parallel;
        let shims = engine.memory(memory::shims)?;
        if u32::try_from(shims.len()) != Ok(count) {
            let name = engine.name.clone();
            return Err(Error::Shims { name, shims: shims.len(), containers: count });
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let mean = shims.iter().sum::<u64>() as f64 / f64::from(count);
        let row = format!("PSS of shims per container, {count} running");
        self.sample(&engine.name, &row, Unit::Bytes, Some(1.2 * MEGABYTE), mean);
        let row = format!("PSS of the daemon, {count} running");
        self.daemon(engine, &row, None)
    }

    /// Before the first container.
    pub(crate) fn memory_idle(&mut self, engines: &[Subject]) -> Result<(), Error> {
        thread::sleep(SETTLE);
        engines
            .iter()
            .try_for_each(|e| self.daemon(e, "PSS of the daemon, fresh", Some(20.0 * MEGABYTE)))
    }

    /// After the last one.
    pub(crate) fn memory_after(&mut self, engines: &[Subject]) -> Result<(), Error> {
        thread::sleep(IDLE);
        engines.iter().try_for_each(|e| {
            self.daemon(e, "PSS of the daemon, idle after all", Some(20.0 * MEGABYTE))
        })
    }

    fn daemon(&mut self, engine: &Subject, row: &str, floor: Option<f64>) -> Result<(), Error> {
        let bytes = engine.memory(memory::daemon)?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        self.sample(&engine.name, row, Unit::Bytes, floor, bytes as f64);
        Ok(())
    }
}

fn run_once(
    docker: &mut Docker,
    image: &str,
    network: Network,
) -> Result<[(&'static str, Duration); 4], docker::Error> {
    let begin = Instant::now();
    let id = docker.create(image, network, &["true"])?;
    let created = Instant::now();
    docker.start(&id)?;
    let started = Instant::now();
    docker.wait(&id)?;
    let ended = Instant::now();
    docker.remove(&id)?;
    Ok([
        ("create", created - begin),
        ("start", started - created),
        ("wait", ended - started),
        ("remove", ended.elapsed()),
    ])
}

/// Runs `f` on every connection at the same moment; the time until the last is done, and the
/// results in order.
fn at_once<T: Send>(
    connections: &mut [Docker],
    f: impl Fn(&mut Docker, usize) -> Result<T, docker::Error> + Sync,
) -> Result<(Duration, Vec<T>), docker::Error> {
    let barrier = Barrier::new(connections.len() + 1);
    let (barrier, f) = (&barrier, &f);
    thread::scope(|scope| {
        let threads: Vec<_> = connections
            .iter_mut()
            .enumerate()
            .map(|(i, docker)| {
                scope.spawn(move || {
                    barrier.wait();
                    f(docker, i)
                })
            })
            .collect();
        barrier.wait();
        let start = Instant::now();
        let results: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        let time = start.elapsed();
        Ok((time, results.into_iter().collect::<Result<_, _>>()?))
    })
}
