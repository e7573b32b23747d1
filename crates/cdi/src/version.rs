//! Versions of the specification, and what each of them brought.

use crate::error::FileError;
use crate::file::raw;

/// All versions that are understood, oldest first; the drafts before the first have another form.
const RELEASED: [&str; 8] =
    ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

fn rank(version: &str) -> Option<usize> {
    RELEASED.iter().position(|known| *known == version)
}

/// Refuses a version that is not known, or that is older than what the file uses.
pub(crate) fn check(spec: &raw::Spec) -> Result<(), FileError> {
    let stated = spec.cdi_version.strip_prefix('v').unwrap_or(&spec.cdi_version);
    let Some(stated) = rank(stated) else {
        let shown = crate::name::beginning(&spec.cdi_version);
        return Err(FileError::Version(format!("cdiVersion {shown:?} is not known")));
    };
    let (needed, field) = needed(spec);
    if rank(needed).is_some_and(|needed| stated < needed) {
        let shown = crate::name::beginning(&spec.cdi_version);
        return Err(FileError::Version(format!(
            "{field} needs cdiVersion {needed}, the file says {shown}"
        )));
    }
    Ok(())
}

/// The oldest version that has all that the file uses, and the field that says so.
fn needed(spec: &raw::Spec) -> (&'static str, &'static str) {
    let devices = &spec.devices;
    let edits = || {
        std::iter::once(&spec.container_edits)
            .chain(devices.iter().map(|device| &device.container_edits))
    };
    let rdt = || edits().filter_map(|edits| edits.intel_rdt.as_ref());
    if edits().any(|edits| !edits.net_devices.is_empty()) {
        return ("1.1.0", "netDevices");
    }
    if rdt().any(|rdt| rdt.schemata.is_some() || rdt.enable_monitoring) {
        return ("1.1.0", "intelRdt.schemata");
    }
    if rdt().next().is_some() {
        return ("0.7.0", "intelRdt");
    }
    if edits().any(|edits| !edits.additional_gids.is_empty()) {
        return ("0.7.0", "additionalGids");
    }
    if !spec.annotations.is_empty() || devices.iter().any(|device| !device.annotations.is_empty()) {
        return ("0.6.0", "annotations");
    }
    if spec.kind.split_once('/').is_some_and(|(_, class)| class.contains('.')) {
        return ("0.6.0", "a dot in the class");
    }
    if devices.iter().any(|device| device.name.starts_with(|c: char| c.is_ascii_digit())) {
        return ("0.5.0", "a device name that starts with a digit");
    }
    if edits().flat_map(|edits| &edits.device_nodes).any(|node| !node.host_path.is_empty()) {
        return ("0.5.0", "deviceNodes.hostPath");
    }
    if edits().flat_map(|edits| &edits.mounts).any(|mount| !mount.kind.is_empty()) {
        return ("0.4.0", "mounts.type");
    }
    ("0.3.0", "a CDI specification")
}
