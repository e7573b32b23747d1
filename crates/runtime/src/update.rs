//! `update`: other limits for a container that exists.

use std::io::Read;
use std::path::Path;

use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use crate::error::{RuntimeError, SystemContext};
use crate::spec::read_json;
use crate::state::StateDir;

/// Largest resources object that is read from standard input.
const RESOURCES_MAX: u64 = 1 << 20;

/// runc's options, each one value of the resources object.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Flags {
    /// Memory limit in bytes.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory: Option<i64>,
    /// Memory reservation in bytes.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_reservation: Option<i64>,
    /// Memory and swap together in bytes; -1 for no limit.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<i64>,
    /// CPU time in microseconds per period; -1 for no limit.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// The period in microseconds.
    #[arg(long)]
    pub(crate) cpu_period: Option<u64>,
    /// CPU shares.
    #[arg(long)]
    pub(crate) cpu_share: Option<u64>,
    /// CPUs that may be used.
    #[arg(long)]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes that may be used.
    #[arg(long)]
    pub(crate) cpuset_mems: Option<String>,
    /// Largest number of processes; -1 for no limit.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    /// Block I/O weight, 10 to 1000.
    #[arg(long)]
    pub(crate) blkio_weight: Option<u16>,
}

impl Flags {
    fn resources(&self) -> Result<LinuxResources, RuntimeError> {
        let object = |fields: [(&str, Option<Value>); 5]| {
            let fields: Map<String, Value> = fields
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?)))
                .collect();
            (!fields.is_empty()).then_some(Value::Object(fields))
        };
        let value = |v: Option<i64>| v.map(|v| json!(v));
        let memory = object([
            ("limit", value(self.memory)),
            ("reservation", value(self.memory_reservation)),
            ("swap", value(self.memory_swap)),
            ("", None),
            ("", None),
        ]);
        let cpu = object([
            ("quota", value(self.cpu_quota)),
            ("period", self.cpu_period.map(|v| json!(v))),
            ("shares", self.cpu_share.map(|v| json!(v))),
            ("cpus", self.cpuset_cpus.as_ref().map(|v| json!(v))),
            ("mems", self.cpuset_mems.as_ref().map(|v| json!(v))),
        ]);
        let all = object([
            ("memory", memory),
            ("cpu", cpu),
            ("pids", self.pids_limit.map(|limit| json!({ "limit": limit }))),
            ("blockIO", self.blkio_weight.map(|weight| json!({ "weight": weight }))),
            ("", None),
        ]);
        serde_json::from_value(all.unwrap_or_else(|| json!({})))
            .map_err(|source| RuntimeError::library("cannot build the resources", source))
    }
}

/// Applies the limits that are named and leaves the others. Device rules stay as created: they
/// are the container's confinement, not its share of the machine.
///
/// # Errors
/// When a value is refused by the kernel; those before it are in force then.
pub(crate) fn update(
    root: &Path,
    id: &str,
    file: Option<&Path>,
    flags: &Flags,
) -> Result<(), RuntimeError> {
    let record = StateDir::open(root, id)?.load("update")?;
    let mut resources = match file {
        Some(path) if path == Path::new("-") => from_input()?,
        Some(path) => read_json(path)?,
        None => flags.resources()?,
    };
    resources.set_devices(None);
    record.cgroup.update(&resources)
}

fn from_input() -> Result<LinuxResources, RuntimeError> {
    let mut bytes = Vec::new();
    std::io::stdin().take(RESOURCES_MAX).read_to_end(&mut bytes).call("reading the resources")?;
    serde_json::from_slice(&bytes)
        .map_err(|source| RuntimeError::Json { path: "standard input".into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_resources() {
        let flags = Flags {
            memory: Some(1 << 20),
            memory_swap: Some(-1),
            cpu_share: Some(512),
            cpuset_cpus: Some("0".into()),
            pids_limit: Some(5),
            ..Flags::default()
        };
        let resources = flags.resources().unwrap();
        let memory = resources.memory().as_ref().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(1 << 20), Some(-1)));
        assert_eq!(resources.cpu().as_ref().unwrap().shares(), Some(512));
        assert_eq!(resources.pids().unwrap().limit(), 5);
        assert!(resources.block_io().is_none());
    }

    #[test]
    fn no_option_changes_nothing() {
        let resources = Flags::default().resources().unwrap();
        assert!(resources.memory().is_none() && resources.cpu().is_none());
    }
}
