//! The calls. A handler reads the request, asks the engine once, and renders its answer.

pub(crate) mod absent;
