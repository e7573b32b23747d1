//! Whom to ask next.
//!
//! A round asks every source once: mirrors in their order and in haste, then the registry itself,
//! then, with all patience, the mirrors that failed before. What any mirror says against a request
//! is no reason to give up; what the registry says is, unless it may say otherwise in a moment.
//! Between rounds there is a growing wait, or the one that the registry asks for.

use std::collections::VecDeque;
use std::time::Duration;

use pouch_types::Digest;

use crate::error::RegistryError;
use crate::session::Session;
use crate::source::{Kind, Offence};
use crate::transport::PATIENCE;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// What a tag stands for.
    Tag,
    /// A manifest or index by its digest.
    Document(Digest),
    /// Configuration or layer.
    Blob(Digest),
}

impl Want {
    pub(crate) const fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Tag => None,
            Self::Document(digest) | Self::Blob(digest) => Some(digest),
        }
    }
}

/// How long the source is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Haste {
    /// There are others to ask.
    Strict,
    /// There is nobody better.
    Patient,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Index among the session's sources.
    pub(crate) source: usize,
    pub(crate) haste: Haste,
}

/// What a source did instead of answering.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) error: RegistryError,
    /// When to come back.
    pub(crate) retry_after: Option<Duration>,
    /// The registry says so, through whomever it was asked.
    pub(crate) is_verdict: bool,
}

impl From<RegistryError> for Fault {
    fn from(error: RegistryError) -> Self {
        Self { error, retry_after: None, is_verdict: false }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Rounds<'a> {
    session: &'a Session,
    want: Want,
    /// Rounds begun.
    attempt: u32,
    queue: VecDeque<Turn>,
    wait: Option<Duration>,
    /// What the registry said, or else the last mirror.
    error: Option<(Kind, RegistryError)>,
}

impl<'a> Rounds<'a> {
    pub(crate) const fn new(session: &'a Session, want: Want) -> Self {
        Self { session, want, attempt: 0, queue: VecDeque::new(), wait: None, error: None }
    }

    /// The next to ask, after the wait between rounds.
    pub(crate) async fn next(&mut self) -> Result<Turn, RegistryError> {
        loop {
            if let Some(turn) = self.queue.pop_front() {
                // Another stream may have found out meanwhile.
                let benched = turn.haste == Haste::Strict && self.session.is_benched(turn.source);
                if benched && self.queue.iter().any(|t| self.session.is_origin(t.source)) {
                    self.queue.push_back(Turn { haste: Haste::Patient, ..turn });
                    continue;
                }
                return Ok(turn);
            }
            let transport = &self.session.inner().transport;
            if self.attempt > 0 {
                let wait = self.wait.take().unwrap_or_else(|| transport.back_off(self.attempt));
                if self.attempt >= transport.config.attempts.max(1) || wait > PATIENCE {
                    return Err(self.give_up());
                }
                let repository = self.session.reference.path();
                tracing::debug!(repository, attempt = self.attempt, ?wait, "trying again");
                tokio::time::sleep(wait).await;
            }
            self.attempt += 1;
            self.queue = self.session.order(&self.want);
        }
    }

    fn give_up(&mut self) -> RegistryError {
        let error = self.error.take().map(|(_, error)| error);
        error.unwrap_or_else(|| RegistryError::Protocol {
            host: self.session.reference.domain().to_owned(),
            why: "cannot be asked".to_owned(),
        })
    }

    /// Takes note of a failure.
    ///
    /// # Errors
    /// When it is final.
    pub(crate) fn failed(&mut self, turn: Turn, fault: Fault) -> Result<(), RegistryError> {
        let source = self.session.source(turn.source);
        if fault.is_verdict {
            return Err(fault.error);
        }
        if source.kind == Kind::Origin {
            if !fault.error.is_transient() {
                return Err(fault.error);
            }
            self.wait = self.wait.max(fault.retry_after);
            self.error = Some((Kind::Origin, fault.error));
            return Ok(());
        }
        let (place, error) = (source.key(), pouch_types::error::chain(&fault.error));
        if offence(&fault.error).is_some() {
            tracing::warn!(mirror = %place, %error, "mirror passed over");
        } else {
            tracing::debug!(mirror = %place, %error, "mirror does not have it");
        }
        self.session.blame(turn.source, &self.want, &fault.error);
        if !matches!(self.error, Some((Kind::Origin, _))) {
            self.error = Some((source.kind, fault.error));
        }
        Ok(())
    }
}

/// What an error says of the mirror that gave it; `None` when it just does not have the thing.
pub(crate) fn offence(error: &RegistryError) -> Option<Offence> {
    match error {
        RegistryError::Digest { .. } | RegistryError::TooLarge { .. } => Some(Offence::Lied),
        RegistryError::Transport { .. }
        | RegistryError::Idle { .. }
        | RegistryError::Slow { .. }
        | RegistryError::Short { .. }
        | RegistryError::RateLimited { .. }
        | RegistryError::Unsafe { .. }
        | RegistryError::Protocol { .. } => Some(Offence::Failed),
        RegistryError::Status { status, .. } if *status >= 500 => Some(Offence::Failed),
        _ => None,
    }
}
