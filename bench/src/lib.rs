//! What the benchmarks share: samples and their table, and what processes use of the machine.

#![forbid(unsafe_code)]

pub mod engine;
pub mod memory;
pub mod processor;
pub mod report;
pub mod stats;
