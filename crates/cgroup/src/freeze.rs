//! Stops and continues all processes of a group.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::file;
use crate::group::Cgroup;

/// Whether a group is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frozen {
    /// Runs.
    No,
    /// On its way; some task has not stopped yet.
    Freezing,
    /// Every task has stopped, or a parent is frozen.
    Yes,
}

/// Longest pause between two looks at a state.
const MAX_PAUSE: Duration = Duration::from_millis(10);
/// Looks at FREEZING before v1 is let go for a moment: two tasks that freeze against each other
/// (a vfork parent and its child) never finish otherwise.
const LOOKS_BEFORE_THAW: u32 = 40;

/// Sleeps a growing pause; `false` when the deadline has passed.
pub(crate) fn pause(attempt: u32, deadline: Instant) -> bool {
    let now = Instant::now();
    if now >= deadline {
        return false;
    }
    let wanted = Duration::from_micros(200).saturating_mul(1 << attempt.min(6)).min(MAX_PAUSE);
    std::thread::sleep(wanted.min(deadline - now));
    true
}

impl Cgroup {
    /// Stops every process of the group and of the groups below. Idempotent.
    ///
    /// A group that is not frozen by the deadline is thawed again, so that a failed pause leaves
    /// nothing half stopped.
    ///
    /// # Errors
    /// [`Error::Deadline`], [`Error::NoController`] without a freezer, [`Error::Io`].
    pub fn freeze(&self, deadline: Instant) -> Result<(), Error> {
        let control = self.freezer()?;
        let outcome = control.freeze(deadline);
        if outcome.is_err() {
            // The first error says more than a failure to undo it.
            let _ = control.set(Frozen::No);
        }
        match outcome {
            Ok(true) => Ok(()),
            Ok(false) => {
                let _ = control.set(Frozen::No);
                Err(Error::Deadline { group: self.path().to_owned(), stage: "freeze" })
            }
            Err(error) => Err(error),
        }
    }

    /// Lets it run again. Idempotent.
    ///
    /// # Errors
    /// As [`Cgroup::freeze`]; a group below a frozen parent stays frozen and runs into the
    /// deadline.
    pub fn thaw(&self, deadline: Instant) -> Result<(), Error> {
        let control = self.freezer()?;
        let mut attempt = 0;
        loop {
            control.set(Frozen::No)?;
            if control.state()? == Frozen::No {
                return Ok(());
            }
            if !pause(attempt, deadline) {
                return Err(Error::Deadline { group: self.path().to_owned(), stage: "thaw" });
            }
            attempt += 1;
        }
    }

    /// Whether it is stopped.
    ///
    /// # Errors
    /// [`Error::NoController`] without a freezer, [`Error::Io`].
    pub fn frozen(&self) -> Result<Frozen, Error> {
        self.freezer()?.state()
    }

    fn freezer(&self) -> Result<Freezer<'_>, Error> {
        if let Some(dir) = self.v1("freezer") {
            return Ok(Freezer::V1(dir));
        }
        if let Some(dir) = self.v2() {
            return Ok(Freezer::V2(dir));
        }
        if self.exists() {
            Err(Error::NoController { field: "freezer", controller: "freezer" })
        } else {
            Err(Error::NotFound(self.path().to_owned()))
        }
    }
}

enum Freezer<'a> {
    V1(&'a Path),
    V2(&'a Path),
}

impl Freezer<'_> {
    fn set(&self, to: Frozen) -> Result<(), Error> {
        let freeze = !matches!(to, Frozen::No);
        match self {
            Self::V1(dir) => {
                file::write(&dir.join("freezer.state"), if freeze { "FROZEN" } else { "THAWED" })
            }
            Self::V2(dir) => {
                file::write(&dir.join("cgroup.freeze"), if freeze { "1" } else { "0" })
            }
        }
    }

    fn state(&self) -> Result<Frozen, Error> {
        match self {
            Self::V1(dir) => {
                let path = dir.join("freezer.state");
                match file::read(&path)?.trim() {
                    "THAWED" => Ok(Frozen::No),
                    "FREEZING" => Ok(Frozen::Freezing),
                    "FROZEN" => Ok(Frozen::Yes),
                    other => Err(Error::malformed(path, other)),
                }
            }
            Self::V2(dir) => {
                let events = file::read(&dir.join("cgroup.events"))?;
                if file::flat_value(&events, "frozen") == Some(1) {
                    return Ok(Frozen::Yes);
                }
                let asked = file::read(&dir.join("cgroup.freeze"))?;
                Ok(if asked.trim() == "1" { Frozen::Freezing } else { Frozen::No })
            }
        }
    }

    /// `false` when the deadline passed.
    fn freeze(&self, deadline: Instant) -> Result<bool, Error> {
        let mut attempt = 0;
        loop {
            // v1 looks for tasks that were forked meanwhile only when it is written again.
            if attempt == 0 || matches!(self, Self::V1(_)) {
                self.set(Frozen::Yes)?;
            }
            if self.state()? == Frozen::Yes {
                return Ok(true);
            }
            if matches!(self, Self::V1(_)) && attempt > 0 && attempt % LOOKS_BEFORE_THAW == 0 {
                self.set(Frozen::No)?;
            }
            if !pause(attempt, deadline) {
                return Ok(false);
            }
            attempt += 1;
        }
    }
}
