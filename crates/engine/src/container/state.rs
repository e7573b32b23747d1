//! The life of a container as a pure function: `step(state, event) → (state, effects)`.
//!
//! No I/O, no clock: times come with the events. The actor persists the new state as its
//! [`Durability`] asks, publishes the view and then runs the effects, each of which is idempotent,
//! because after a crash the same effects run again.
//!
//! Each run of the container has a **generation**. What is reported of an earlier generation is
//! ignored: a late exit event can never end a newer run.
//!
//! ```text
//! Created ─Start→ Starting ─Started→ Running ⇄ Paused
//!    ▲               │ StartFailed       │ Exited
//!    │               ▼                   ▼
//!    │            Exited ←──────────── Exited (cleaning) ─policy→ Restarting ─BackoffElapsed→ Starting
//!    └─ … any resting phase ─Remove→ Removing ─Removed→ Gone        (RemoveFailed → Dead)
//! ```

use std::time::Duration;

use jiff::Timestamp;
use pouch_types::spec::RestartPolicy;
use serde::{Deserialize, Serialize};

/// A run that lasted this long resets the back-off, as Docker's does.
const STABLE_RUN: Duration = Duration::from_secs(10);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Where a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Never started.
    Created,
    /// A start is under way.
    Starting,
    /// Its process runs.
    Running,
    /// Its process is frozen.
    Paused,
    /// Its process has ended.
    Exited,
    /// Ended; starts again by itself.
    Restarting,
    /// Being removed.
    Removing,
    /// A removal failed half-way.
    Dead,
    /// Removed.
    Gone,
}

/// Who wants the container stopped. Decides what the restart policy may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopIntent {
    /// Nobody.
    #[default]
    None,
    /// A user, by stop, kill or a force-remove: no policy starts it again now, and
    /// `unless-stopped` not at the next boot either.
    User,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 0..=255; 128 + n after signal n.
    pub code: i32,
    /// When.
    pub at: Timestamp,
    /// The kernel killed a process of it for memory.
    pub oom_killed: bool,
}

/// Everything that decides what happens next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Where it is.
    pub phase: Phase,
    /// Number of the current or last run; 0 before the first.
    pub generation: u64,
    /// What the last run left (task, network, mounts) is not yet cleaned up.
    pub dirty: bool,
    /// Start again as soon as the clean-up has finished.
    pub start_when_clean: bool,
    /// Remove as soon as the clean-up has finished.
    pub remove_when_clean: bool,
    /// Who stops it.
    pub stop_intent: StopIntent,
    /// Pid of the main process; 0 when none.
    pub pid: u32,
    /// Start of the current or last run.
    pub started_at: Option<Timestamp>,
    /// End of the last run.
    pub exit: Option<Exit>,
    /// Why the last start failed.
    pub error: String,
    /// Automatic restarts since the last start by hand.
    pub restart_count: u32,
    /// The delay of the last automatic restart, in milliseconds.
    pub backoff_ms: u64,
}

/// What happened, or what is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Somebody wants it to run.
    Start,
    /// The daemon starts and this container was not found running.
    Boot {
        /// Its exit was decided in this boot of the machine; false after a reboot.
        exit: Option<Exit>,
        /// Now.
        at: Timestamp,
    },
    /// The daemon starts and found its process.
    Adopted {
        /// Run that the shim holds.
        generation: u64,
        /// Its pid.
        pid: u32,
        /// Whether it is frozen.
        paused: Frozen,
        /// Its start.
        started_at: Option<Timestamp>,
    },
    /// Its process runs.
    Started {
        /// Which run.
        generation: u64,
        /// Its pid.
        pid: u32,
        /// When.
        at: Timestamp,
    },
    /// A start failed; everything it made is undone.
    StartFailed {
        /// Which run.
        generation: u64,
        /// Exit status that `docker run` reports: 125, 126 or 127.
        code: i32,
        /// Why.
        error: String,
        /// When.
        at: Timestamp,
    },
    /// A user wants it stopped; what sends the signal follows.
    StopRequested,
    /// The main process ended.
    Exited {
        /// Which run.
        generation: u64,
        /// How.
        exit: Exit,
    },
    /// It is frozen now.
    Paused,
    /// It runs again.
    Resumed,
    /// What the run left is gone.
    Cleaned {
        /// Which run.
        generation: u64,
    },
    /// The delay before an automatic restart is over.
    BackoffElapsed {
        /// The run before it.
        generation: u64,
    },
    /// Somebody wants it gone.
    Remove(Force),
    /// It is gone.
    Removed,
    /// The removal failed.
    RemoveFailed {
        /// Why.
        error: String,
    },
}

/// Whether a process was found frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frozen {
    /// By the freezer.
    Yes,
    /// It runs.
    No,
}

/// Whether a running container may be killed for its removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// Kill it.
    Yes,
    /// Refuse.
    No,
}

/// What is to be done after the new state stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Start this run.
    StartTask(u64),
    /// Kill the main process (SIGKILL).
    KillTask(u64),
    /// Delete the task, detach the network, drop the mounts of this run.
    CleanUp(u64),
    /// Send [`Event::BackoffElapsed`] after the delay.
    Delay(u64, Duration),
    /// Remove the container's record, snapshot and directory.
    RemoveAll,
    /// Tell the world.
    Announce(Announcement),
}

/// Docker's event actions that follow from a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the actions")]
pub enum Announcement {
    Start,
    Die,
    Oom,
    Pause,
    Unpause,
    Destroy,
}

/// Facts of the container that do not change with its state.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// What happens after an exit.
    pub restart: RestartPolicy,
    /// Remove it after its exit.
    pub auto_remove: bool,
}

/// An event that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Start of what runs.
    AlreadyRunning,
    /// Start or unpause of what is frozen, stop of nothing …
    Paused,
    /// It does not run.
    NotRunning,
    /// It is not frozen.
    NotPaused,
    /// A start is under way.
    Starting,
    /// It is being removed, or gone.
    Removing,
    /// Remove of what runs, without force.
    RunningNotForced,
    /// The other backend has it; said by its actor, not by the machine.
    Elsewhere,
}

impl Default for State {
    fn default() -> Self {
        Self {
            phase: Phase::Created,
            generation: 0,
            dirty: false,
            start_when_clean: false,
            remove_when_clean: false,
            stop_intent: StopIntent::None,
            pid: 0,
            started_at: None,
            exit: None,
            error: String::new(),
            restart_count: 0,
            backoff_ms: 0,
        }
    }
}

/// The outcome of a step.
pub type Step = Result<(State, Vec<Effect>), Refused>;

impl State {
    /// The next state and what to do about it.
    ///
    /// # Errors
    /// [`Refused`] when the event makes no sense in this state; the state stands.
    pub fn step(&self, event: Event, rules: Rules) -> Step {
        let mut next = self.clone();
        let effects = match event {
            Event::Start => next.on_start()?,
            Event::Boot { exit, at } => next.on_boot(exit, at, rules),
            Event::Adopted { generation, pid, paused, started_at } => {
                next.on_adopted(generation, pid, paused, started_at)
            }
            Event::Started { generation, pid, at } => next.on_started(generation, pid, at),
            Event::StartFailed { generation, code, error, at } => {
                next.on_start_failed(generation, code, error, at, rules)
            }
            Event::StopRequested => next.on_stop_requested(rules)?,
            Event::Exited { generation, exit } => next.on_exited(generation, exit),
            Event::Paused => next.on_paused()?,
            Event::Resumed => next.on_resumed()?,
            Event::Cleaned { generation } => next.on_cleaned(generation, rules),
            Event::BackoffElapsed { generation } => next.on_backoff_elapsed(generation),
            Event::Remove(force) => next.on_remove(force)?,
            Event::Removed => next.on_removed(),
            Event::RemoveFailed { error } => next.on_remove_failed(error),
        };
        Ok((next, effects))
    }

    fn begin_run(&mut self) -> Vec<Effect> {
        self.phase = Phase::Starting;
        self.generation += 1;
        self.dirty = true;
        self.start_when_clean = false;
        self.stop_intent = StopIntent::None;
        self.error.clear();
        vec![Effect::StartTask(self.generation)]
    }

    fn on_start(&mut self) -> Result<Vec<Effect>, Refused> {
        match self.phase {
            Phase::Running => Err(Refused::AlreadyRunning),
            Phase::Paused => Err(Refused::Paused),
            Phase::Starting => Err(Refused::Starting),
            Phase::Removing | Phase::Dead | Phase::Gone => Err(Refused::Removing),
            Phase::Created | Phase::Exited | Phase::Restarting => {
                if self.remove_when_clean {
                    return Err(Refused::Removing);
                }
                self.restart_count = 0;
                self.backoff_ms = 0;
                if self.dirty {
                    self.start_when_clean = true;
                    self.stop_intent = StopIntent::None;
                    Ok(Vec::new())
                } else {
                    Ok(self.begin_run())
                }
            }
        }
    }

    fn on_started(&mut self, generation: u64, pid: u32, at: Timestamp) -> Vec<Effect> {
        if generation != self.generation || self.phase != Phase::Starting {
            return Vec::new();
        }
        self.phase = Phase::Running;
        self.pid = pid;
        self.started_at = Some(at);
        let mut effects = vec![Effect::Announce(Announcement::Start)];
        // A removal by force came while it started.
        if self.remove_when_clean {
            effects.push(Effect::KillTask(generation));
        }
        effects
    }

    fn on_adopted(
        &mut self,
        generation: u64,
        pid: u32,
        paused: Frozen,
        started_at: Option<Timestamp>,
    ) -> Vec<Effect> {
        if generation != self.generation || self.phase == Phase::Gone {
            return Vec::new();
        }
        self.dirty = true;
        self.pid = pid;
        if started_at.is_some() {
            self.started_at = started_at;
        }
        if matches!(self.phase, Phase::Removing | Phase::Dead) || self.remove_when_clean {
            self.phase = Phase::Running;
            self.remove_when_clean = true;
            return vec![Effect::KillTask(generation)];
        }
        self.phase = match paused {
            Frozen::Yes => Phase::Paused,
            Frozen::No => Phase::Running,
        };
        Vec::new()
    }

    fn on_start_failed(
        &mut self,
        generation: u64,
        code: i32,
        error: String,
        at: Timestamp,
        rules: Rules,
    ) -> Vec<Effect> {
        if generation != self.generation || self.phase != Phase::Starting {
            return Vec::new();
        }
        self.phase = if self.started_at.is_none() {
            // Docker leaves a container that never ran in `created`, however often it failed.
            Phase::Created
        } else {
            Phase::Exited
        };
        self.pid = 0;
        self.error = error;
        self.exit = Some(Exit { code, at, oom_killed: false });
        // A failed start undoes itself, so there is nothing to clean.
        self.dirty = false;
        if self.restart_count > 0 && !self.remove_when_clean {
            // The policy made this attempt; it goes on with the next.
            self.phase = Phase::Exited;
            return self.after_clean(rules);
        }
        if rules.auto_remove {
            self.remove_when_clean = true;
        }
        self.after_clean(Rules { restart: RestartPolicy::No, ..rules })
    }

    fn on_stop_requested(&mut self, rules: Rules) -> Result<Vec<Effect>, Refused> {
        match self.phase {
            Phase::Running | Phase::Paused | Phase::Starting => {
                self.stop_intent = StopIntent::User;
                Ok(Vec::new())
            }
            Phase::Restarting => {
                self.phase = Phase::Exited;
                self.stop_intent = StopIntent::User;
                Ok(Vec::new())
            }
            // It ended, and would start again as soon as it is cleaned up.
            Phase::Exited if self.dirty && self.starts_again(rules) => {
                self.start_when_clean = false;
                self.stop_intent = StopIntent::User;
                Ok(Vec::new())
            }
            Phase::Created | Phase::Exited => Err(Refused::NotRunning),
            Phase::Removing | Phase::Dead | Phase::Gone => Err(Refused::Removing),
        }
    }

    fn starts_again(&self, rules: Rules) -> bool {
        self.start_when_clean || self.clone().restart_delay(rules).is_some()
    }

    fn on_exited(&mut self, generation: u64, exit: Exit) -> Vec<Effect> {
        let runs = matches!(self.phase, Phase::Starting | Phase::Running | Phase::Paused);
        if generation != self.generation || !runs {
            return Vec::new();
        }
        let mut effects = Vec::new();
        if self.phase == Phase::Starting {
            // The exit overtook the start's answer.
            self.started_at = Some(exit.at);
            effects.push(Effect::Announce(Announcement::Start));
        }
        self.phase = Phase::Exited;
        self.pid = 0;
        self.exit = Some(exit);
        if exit.oom_killed {
            effects.push(Effect::Announce(Announcement::Oom));
        }
        effects.push(Effect::Announce(Announcement::Die));
        effects.push(Effect::CleanUp(generation));
        effects
    }

    fn on_paused(&mut self) -> Result<Vec<Effect>, Refused> {
        match self.phase {
            Phase::Running => {
                self.phase = Phase::Paused;
                Ok(vec![Effect::Announce(Announcement::Pause)])
            }
            Phase::Paused => Err(Refused::Paused),
            Phase::Created
            | Phase::Starting
            | Phase::Exited
            | Phase::Restarting
            | Phase::Removing
            | Phase::Dead
            | Phase::Gone => Err(Refused::NotRunning),
        }
    }

    fn on_resumed(&mut self) -> Result<Vec<Effect>, Refused> {
        match self.phase {
            Phase::Paused => {
                self.phase = Phase::Running;
                Ok(vec![Effect::Announce(Announcement::Unpause)])
            }
            Phase::Created
            | Phase::Starting
            | Phase::Running
            | Phase::Exited
            | Phase::Restarting
            | Phase::Removing
            | Phase::Dead
            | Phase::Gone => Err(Refused::NotPaused),
        }
    }

    fn on_cleaned(&mut self, generation: u64, rules: Rules) -> Vec<Effect> {
        if generation != self.generation || !self.dirty || self.phase != Phase::Exited {
            return Vec::new();
        }
        self.dirty = false;
        self.after_clean(rules)
    }

    /// What follows when nothing of the last run is left.
    fn after_clean(&mut self, rules: Rules) -> Vec<Effect> {
        if self.remove_when_clean {
            self.phase = Phase::Removing;
            return vec![Effect::RemoveAll];
        }
        if self.start_when_clean {
            return self.begin_run();
        }
        if let Some(delay) = self.restart_delay(rules) {
            self.phase = Phase::Restarting;
            self.restart_count += 1;
            return vec![Effect::Delay(self.generation, delay)];
        }
        if rules.auto_remove && self.phase == Phase::Exited {
            self.phase = Phase::Removing;
            return vec![Effect::RemoveAll];
        }
        Vec::new()
    }

    /// The delay before the next automatic start; `None` when there is none.
    fn restart_delay(&mut self, rules: Rules) -> Option<Duration> {
        let exit = self.exit?;
        if self.stop_intent == StopIntent::User {
            return None;
        }
        let wanted = match rules.restart {
            RestartPolicy::No => false,
            RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
            RestartPolicy::OnFailure { max_retries } => {
                exit.code != 0 && (max_retries == 0 || self.restart_count < max_retries)
            }
        };
        if !wanted {
            return None;
        }
        let ran = self
            .started_at
            .and_then(|start| Duration::try_from(exit.at.duration_since(start)).ok())
            .unwrap_or_default();
        let previous = Duration::from_millis(self.backoff_ms);
        let delay = if previous.is_zero() || ran >= STABLE_RUN {
            BACKOFF_FIRST
        } else {
            (previous * 2).min(BACKOFF_MAX)
        };
        self.backoff_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        Some(delay)
    }

    fn on_backoff_elapsed(&mut self, generation: u64) -> Vec<Effect> {
        if generation != self.generation || self.phase != Phase::Restarting {
            return Vec::new();
        }
        self.begin_run()
    }

    fn on_remove(&mut self, force: Force) -> Result<Vec<Effect>, Refused> {
        match self.phase {
            Phase::Gone => Err(Refused::Removing),
            Phase::Removing => Ok(Vec::new()),
            Phase::Running | Phase::Paused | Phase::Starting => {
                if force == Force::No {
                    return Err(Refused::RunningNotForced);
                }
                self.remove_when_clean = true;
                self.stop_intent = StopIntent::User;
                Ok(match self.phase {
                    // Killed as soon as it has started.
                    Phase::Starting => Vec::new(),
                    _ => vec![Effect::KillTask(self.generation)],
                })
            }
            Phase::Created | Phase::Exited | Phase::Restarting | Phase::Dead => {
                self.stop_intent = StopIntent::User;
                self.start_when_clean = false;
                if self.dirty && self.phase != Phase::Dead {
                    self.remove_when_clean = true;
                    return Ok(Vec::new());
                }
                self.phase = Phase::Removing;
                Ok(vec![Effect::RemoveAll])
            }
        }
    }

    fn on_removed(&mut self) -> Vec<Effect> {
        if self.phase != Phase::Removing {
            return Vec::new();
        }
        self.phase = Phase::Gone;
        vec![Effect::Announce(Announcement::Destroy)]
    }

    fn on_remove_failed(&mut self, error: String) -> Vec<Effect> {
        if self.phase == Phase::Removing {
            self.phase = Phase::Dead;
            self.error = error;
        }
        Vec::new()
    }

    /// The daemon starts and found no process.
    fn on_boot(&mut self, exit: Option<Exit>, at: Timestamp, rules: Rules) -> Vec<Effect> {
        match self.phase {
            Phase::Created => Vec::new(),
            Phase::Gone => Vec::new(),
            Phase::Removing | Phase::Dead => {
                self.phase = Phase::Removing;
                vec![Effect::RemoveAll]
            }
            Phase::Starting | Phase::Running | Phase::Paused => {
                // It ended while nobody watched. Without a witness the status is 255, as
                // Docker's; the shim's exit file, when there is one, knows better.
                self.phase = Phase::Exited;
                self.pid = 0;
                self.dirty = true;
                self.exit = Some(exit.unwrap_or(Exit { code: 255, at, oom_killed: false }));
                vec![Effect::Announce(Announcement::Die), Effect::CleanUp(self.generation)]
            }
            Phase::Exited | Phase::Restarting => {
                let waited = self.phase == Phase::Restarting;
                self.phase = Phase::Exited;
                let again = match rules.restart {
                    RestartPolicy::Always => true,
                    RestartPolicy::UnlessStopped => self.stop_intent == StopIntent::None,
                    RestartPolicy::OnFailure { .. } => waited,
                    RestartPolicy::No => false,
                };
                if self.dirty || self.remove_when_clean {
                    // The clean-up itself is not recorded: it may have to be done again.
                    self.dirty = true;
                    self.start_when_clean = again && !self.remove_when_clean;
                    return vec![Effect::CleanUp(self.generation)];
                }
                if again {
                    return self.begin_run();
                }
                if rules.auto_remove {
                    self.phase = Phase::Removing;
                    return vec![Effect::RemoveAll];
                }
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
