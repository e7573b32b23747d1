//! What happens to a container from its creation to its removal: the use cases that ask for a
//! step, and the effects that a step calls for. Every effect is idempotent.

pub(crate) mod cdi;
pub(crate) mod cleanup;
pub(crate) mod create;
pub(crate) mod mounts;
pub(crate) mod namespaces;
pub(crate) mod remove;
pub(crate) mod start;
pub(crate) mod stop;
