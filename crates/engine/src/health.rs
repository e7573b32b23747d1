//! Health probes: a program run in the container again and again, and what follows from its
//! exit status (Docker's HEALTHCHECK).
//!
//! A probe that takes too long is killed. While the container is frozen probing waits. The times
//! are monotonic, so a jump of the clock neither fails a probe nor delays the next.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pouch_types::spec::{Attach, ContainerSpec, Healthcheck};
use tokio::time::Instant;

use crate::container::Container;
use crate::container::actor::Message;
use crate::container::state::Phase;
use crate::engine::Inner;
use crate::exec;
use crate::view::{ExecSpec, Health, HealthStatus, ProbeResult};

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// Bytes of a probe's output that are kept.
const OUTPUT_MAX: usize = 4096;
/// Probes that are kept.
const LOG_LEN: usize = 5;
/// Time for a killed probe to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// A probe with its times resolved.
#[derive(Debug, Clone)]
struct Probe {
    cmd: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

fn probe(spec: &ContainerSpec) -> Option<Probe> {
    let check: &Healthcheck = spec.healthcheck.as_ref()?;
    let cmd = match check.test.split_first() {
        Some((kind, rest)) if kind == "CMD" && !rest.is_empty() => rest.to_vec(),
        Some((kind, rest)) if kind == "CMD-SHELL" => {
            let line = rest.first()?.clone();
            vec!["/bin/sh".to_owned(), "-c".to_owned(), line]
        }
        _ => return None,
    };
    let or = |ns: i64, default: Duration| match u64::try_from(ns) {
        Ok(ns) if ns > 0 => Duration::from_nanos(ns),
        _ => default,
    };
    Some(Probe {
        cmd,
        interval: or(check.interval_ns, INTERVAL),
        timeout: or(check.timeout_ns, TIMEOUT),
        start_period: or(check.start_period_ns, Duration::ZERO),
        start_interval: or(check.start_interval_ns, START_INTERVAL),
        retries: if check.retries == 0 { RETRIES } else { check.retries },
    })
}

/// Health at the start of a run; `None` without a probe.
pub(crate) fn initial(spec: &ContainerSpec) -> Option<Health> {
    probe(spec).map(|_| Health {
        status: HealthStatus::Starting,
        failing_streak: 0,
        log: Vec::new(),
    })
}

/// Probes a run until it ends.
pub(crate) fn spawn(
    engine: &Arc<Inner>,
    container: &Arc<Container>,
    spec: &ContainerSpec,
    generation: u64,
) {
    let (Some(probe), Some(health)) = (probe(spec), initial(spec)) else { return };
    let monitor = Monitor {
        engine: Arc::clone(engine),
        container: Arc::clone(container),
        generation,
        started: Instant::now(),
        probe,
        health,
    };
    tokio::spawn(monitor.run());
}

struct Monitor {
    engine: Arc<Inner>,
    container: Arc<Container>,
    generation: u64,
    started: Instant,
    probe: Probe,
    health: Health,
}

impl Monitor {
    async fn run(mut self) {
        let mut watch = self.container.watch();
        loop {
            let generation = self.generation;
            let over = watch.wait_for(|s| {
                s.generation != generation || !matches!(s.phase, Phase::Running | Phase::Paused)
            });
            // Cancel-safe: a timeout only drops a wait that changes nothing.
            if tokio::time::timeout(self.pause(), over).await.is_ok() {
                return;
            }
            if !exec::accepts(&self.container) {
                continue;
            }
            let Some(result) = self.once().await else { continue };
            self.health = judge(
                &self.health,
                result,
                self.probe.retries,
                self.started.elapsed() < self.probe.start_period,
            );
            let message = Message::Health(generation, self.health.clone());
            if self.container.send(message).await.is_err() {
                return;
            }
        }
    }

    fn pause(&self) -> Duration {
        let starting = self.health.status == HealthStatus::Starting
            && self.started.elapsed() < self.probe.start_period;
        if starting { self.probe.start_interval } else { self.probe.interval }
    }

    /// One probe; `None` when the container ended under it.
    async fn once(&self) -> Option<ProbeResult> {
        let start = Timestamp::now();
        let spec = ExecSpec {
            cmd: self.probe.cmd.clone(),
            attach: Attach { stdin: false, stdout: true, stderr: true },
            ..ExecSpec::default()
        };
        let done = |exit_code: i32, output: String| ProbeResult {
            start,
            end: Timestamp::now(),
            exit_code,
            output,
        };
        let attach = spec.attach;
        let begun = match exec::create(&self.engine, &self.container, spec) {
            Ok(session) => match exec::start(&self.engine, &session, attach, None).await {
                Ok(stream) => Ok((session, stream)),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        let (session, stream) = match begun {
            Ok(begun) => begun,
            Err(_) if !exec::accepts(&self.container) => return None,
            Err(error) => return Some(done(-1, error.text())),
        };
        let mut output = Vec::new();
        let work = async {
            if let Some(stream) = stream {
                // What exceeds the cap is read and dropped.
                let keep = |_, bytes: &[u8]| {
                    let room = OUTPUT_MAX.saturating_sub(output.len()).min(bytes.len());
                    output.extend_from_slice(&bytes[..room]);
                };
                exec::read_frames(stream, keep).await;
            }
            session.exit_code().await
        };
        let code = tokio::time::timeout(self.probe.timeout, work).await;
        if let Ok(code) = code {
            return Some(done(code, String::from_utf8_lossy(&output).into_owned()));
        }
        session.kill().await;
        let _ = tokio::time::timeout(KILL_PATIENCE, session.exit_code()).await;
        let timeout = self.probe.timeout.as_secs_f32();
        Some(done(-1, format!("Health check exceeded timeout ({timeout}s)")))
    }
}

/// The verdict after one more probe.
fn judge(before: &Health, result: ProbeResult, retries: u32, in_start_period: bool) -> Health {
    let mut health = before.clone();
    if result.exit_code == 0 {
        health.failing_streak = 0;
        health.status = HealthStatus::Healthy;
    } else if !(in_start_period && before.status == HealthStatus::Starting) {
        health.failing_streak = health.failing_streak.saturating_add(1);
        if health.failing_streak >= retries {
            health.status = HealthStatus::Unhealthy;
        }
    }
    health.log.push(result);
    if health.log.len() > LOG_LEN {
        health.log.remove(0);
    }
    health
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(exit_code: i32) -> ProbeResult {
        let now = Timestamp::UNIX_EPOCH;
        ProbeResult { start: now, end: now, exit_code, output: String::new() }
    }

    fn fresh() -> Health {
        Health { status: HealthStatus::Starting, failing_streak: 0, log: Vec::new() }
    }

    #[test]
    fn retries_and_recovery() {
        let mut health = fresh();
        for expected in [HealthStatus::Starting, HealthStatus::Starting, HealthStatus::Unhealthy] {
            health = judge(&health, result(1), 3, false);
            assert_eq!(health.status, expected);
        }
        health = judge(&health, result(0), 3, false);
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Healthy, 0));
        for _ in 0..9 {
            health = judge(&health, result(0), 3, false);
        }
        assert_eq!(health.log.len(), LOG_LEN);
    }

    #[test]
    fn the_start_period_forgives_failures_and_honours_success() {
        let health = judge(&fresh(), result(1), 1, true);
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Starting, 0));
        let health = judge(&health, result(0), 1, true);
        assert_eq!(health.status, HealthStatus::Healthy);
        let health = judge(&health, result(1), 1, true);
        assert_eq!(health.status, HealthStatus::Unhealthy);
    }

    #[test]
    fn forms_of_a_test() {
        let with = |test: &[&str]| {
            let test = test.iter().map(|s| (*s).to_owned()).collect();
            let healthcheck = Some(Healthcheck { test, ..Healthcheck::default() });
            probe(&ContainerSpec { healthcheck, ..ContainerSpec::default() })
        };
        assert!(with(&[]).is_none() && with(&["NONE"]).is_none() && with(&["CMD"]).is_none());
        assert_eq!(with(&["CMD", "true"]).unwrap().cmd, ["true"]);
        assert_eq!(with(&["CMD-SHELL", "exit 1"]).unwrap().cmd, ["/bin/sh", "-c", "exit 1"]);
    }
}
