//! Flags of the commands: what was typed, before it means anything.

pub(crate) mod container;
pub(crate) mod plain;
pub(crate) mod registry;
pub(crate) mod resources;
