//! The life of a pod's sandbox as a pure function, as that of a container is
//! ([`crate::container::state`]): no I/O, no clock.
//!
//! ```text
//! Making ─Made→ Ready ─Stop|Lost→ NotReady (held) ─Released→ NotReady
//!    │ Failed                │ Remove                │ Remove
//!    ▼                       ▼                       ▼
//!   Gone ←───Removed──── Removing
//! ```
//!
//! A sandbox that is not ready may still hold namespaces and addresses: they are given back by the
//! stop that kubelet repeats until it succeeds.

use serde::{Deserialize, Serialize};

/// Where a sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PodPhase {
    /// On record, and not complete.
    Making,
    /// Its namespaces and its network stand.
    Ready,
    /// Stopped, or lost what it stood on.
    NotReady,
    /// Being removed.
    Removing,
    /// Removed.
    Gone,
}

/// What decides about a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodState {
    pub(crate) phase: PodPhase,
    /// Namespaces, addresses or a process of it may exist.
    pub(crate) held: bool,
}

/// What happened, or what is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PodEvent {
    /// Everything stands.
    Made,
    /// It could not be made, and what was made is undone.
    Failed,
    /// What it stands on is gone: a reboot, or the end of its process.
    Lost,
    /// Somebody wants it stopped.
    Stop,
    /// It holds nothing any more.
    Released,
    /// Somebody wants it gone.
    Remove,
    /// It is gone.
    Removed,
}

/// The event makes no sense now: the sandbox is being removed or gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

impl PodState {
    pub(crate) const NEW: Self = Self { phase: PodPhase::Making, held: true };

    /// The next state.
    pub(crate) fn step(self, event: PodEvent) -> Result<Self, Refused> {
        use PodPhase::{Gone, Making, NotReady, Ready, Removing};
        let phase = match (event, self.phase) {
            (PodEvent::Made, Making) => Ready,
            (PodEvent::Failed, Making) => Gone,
            (PodEvent::Lost | PodEvent::Stop, Making | Ready | NotReady) => NotReady,
            (PodEvent::Remove, Making | Ready | NotReady | Removing) => Removing,
            (PodEvent::Removed, Removing) => Gone,
            // What is released is a fact in each phase.
            (PodEvent::Released, phase) => phase,
            // A stop that was overtaken by the removal has nothing left to do.
            (PodEvent::Lost | PodEvent::Stop, Removing) => Removing,
            (PodEvent::Made, Ready | NotReady | Removing | Gone)
            | (PodEvent::Failed, Ready | NotReady | Removing | Gone)
            | (PodEvent::Lost | PodEvent::Stop | PodEvent::Remove, Gone)
            | (PodEvent::Removed, Making | Ready | NotReady | Gone) => return Err(Refused),
        };
        let held = match event {
            PodEvent::Released | PodEvent::Failed | PodEvent::Removed => false,
            PodEvent::Made | PodEvent::Lost | PodEvent::Stop | PodEvent::Remove => self.held,
        };
        Ok(Self { phase, held })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVENTS: [PodEvent; 7] = [
        PodEvent::Made,
        PodEvent::Failed,
        PodEvent::Lost,
        PodEvent::Stop,
        PodEvent::Released,
        PodEvent::Remove,
        PodEvent::Removed,
    ];

    proptest! {
        #[test]
        fn no_order_of_events_makes_a_stopped_sandbox_ready(
            order in prop::collection::vec(prop::sample::select(&EVENTS[..]), 0..24)
        ) {
            let mut state = PodState::NEW;
            let mut ended = false;
            for event in order {
                let Ok(next) = state.step(event) else { continue };
                ended |= matches!(event, PodEvent::Stop | PodEvent::Lost | PodEvent::Remove);
                prop_assert!(!(ended && next.phase == PodPhase::Ready));
                prop_assert!(state.held || !next.held, "what was given back does not return");
                prop_assert!(state.phase != PodPhase::Gone || next.phase == PodPhase::Gone);
                state = next;
            }
        }
    }

    #[test]
    fn stop_and_removal_may_be_asked_again() {
        let stopped = PodState::NEW.step(PodEvent::Made).unwrap().step(PodEvent::Stop).unwrap();
        assert_eq!(stopped.step(PodEvent::Stop), Ok(stopped));
        let removing = stopped.step(PodEvent::Remove).unwrap();
        assert_eq!(removing.step(PodEvent::Remove), Ok(removing));
        assert_eq!(removing.step(PodEvent::Stop), Ok(removing));
        assert_eq!(removing.step(PodEvent::Removed).unwrap().phase, PodPhase::Gone);
    }
}
