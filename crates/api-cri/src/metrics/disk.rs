//! What is on the disk, and what went to devices.

use std::collections::HashMap;
use std::path::Path;

use pouch_cgroup::stats::{Io, IoEntry};
use pouch_cri_grpc as cri;

use super::family::{Family, List};
use crate::stats::Layer;

const DEVICE: [&str; 1] = ["device"];

const INODES_FREE: Family<1> =
    Family::gauge("container_fs_inodes_free", DEVICE, "Inodes that can still be made.");
const INODES: Family<1> =
    Family::gauge("container_fs_inodes_total", DEVICE, "Inodes of the file system.");
const LIMIT: Family<1> =
    Family::gauge("container_fs_limit_bytes", DEVICE, "Size of the file system, in bytes.");
const USAGE: Family<1> =
    Family::gauge("container_fs_usage_bytes", DEVICE, "What the container wrote, in bytes.");
const READ_BYTES: Family<1> =
    Family::counter("container_fs_reads_bytes_total", DEVICE, "Bytes read from the device.");
const READS: Family<1> =
    Family::counter("container_fs_reads_total", DEVICE, "Reads from the device.");
const WRITTEN_BYTES: Family<1> =
    Family::counter("container_fs_writes_bytes_total", DEVICE, "Bytes written to the device.");
const WRITES: Family<1> =
    Family::counter("container_fs_writes_total", DEVICE, "Writes to the device.");
const BLKIO: Family<4> = Family::counter(
    "container_blkio_device_usage_total",
    ["device", "major", "minor", "operation"],
    "Bytes that went through the device, by operation.",
);

pub(super) fn descriptors() -> Vec<cri::MetricDescriptor> {
    let by_device = [INODES_FREE, INODES, LIMIT, USAGE, READ_BYTES, READS, WRITTEN_BYTES, WRITES];
    let blkio = std::iter::once(BLKIO.descriptor());
    by_device.iter().map(Family::descriptor).chain(blkio).collect()
}

/// The file system that containers write to.
#[derive(Debug, Clone, Default)]
pub(super) struct Filesystem {
    pub(super) device: String,
    pub(super) bytes: u64,
    pub(super) inodes: u64,
    pub(super) inodes_free: u64,
}

impl Filesystem {
    /// Blocks as long as the file system does. `None` when it does not answer.
    pub(super) fn look(at: &Path, devices: &mut Devices) -> Option<Self> {
        let known = rustix::fs::statvfs(at).ok()?;
        let device = rustix::fs::stat(at).ok()?.st_dev;
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        Some(Self {
            device: devices.name(major.into(), minor.into()).to_owned(),
            bytes: known.f_blocks.saturating_mul(known.f_frsize),
            inodes: known.f_files,
            inodes_free: known.f_ffree,
        })
    }
}

/// Names of block devices, each looked up once.
#[derive(Debug, Default)]
pub(super) struct Devices(HashMap<(u64, u64), String>);

impl Devices {
    /// `/dev/sda`; the numbers where there is no such name, as of a file system without a device.
    pub(super) fn name(&mut self, major: u64, minor: u64) -> &str {
        self.0.entry((major, minor)).or_insert_with(|| {
            let numbers = format!("{major}:{minor}");
            let link = std::fs::read_link(format!("/sys/dev/block/{numbers}"));
            let name = link.ok().and_then(|to| Some(to.file_name()?.to_str()?.to_owned()));
            name.map_or(numbers, |name| format!("/dev/{name}"))
        })
    }
}

/// What the container has on the disk, of what there is.
pub(super) fn put_filesystem(list: &mut List, on: &Filesystem, layer: Option<Layer>) {
    let device = [on.device.as_str()];
    list.put(&INODES_FREE, device, on.inodes_free);
    list.put(&INODES, device, on.inodes);
    list.put(&LIMIT, device, on.bytes);
    if let Some(layer) = layer {
        list.put_seen(&USAGE, device, layer.written.size, layer.at);
    }
}

/// What went to devices.
pub(super) fn put_io(list: &mut List, io: &Io, devices: &mut Devices) {
    let mut by_device = |entries: &[IoEntry], read: &Family<1>, write: &Family<1>| {
        for entry in entries {
            let family = match entry.op.as_str() {
                "Read" => read,
                "Write" => write,
                _ => continue,
            };
            list.put(family, [devices.name(entry.major, entry.minor)], entry.value);
        }
    };
    by_device(&io.bytes, &READ_BYTES, &WRITTEN_BYTES);
    by_device(&io.operations, &READS, &WRITES);
    for entry in &io.bytes {
        let (major, minor) = (entry.major.to_string(), entry.minor.to_string());
        let device = devices.name(entry.major, entry.minor);
        list.put(&BLKIO, [device, &major, &minor, &entry.op], entry.value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_without_a_name_have_numbers() {
        let mut devices = Devices::default();
        assert_eq!(devices.name(0, 4095), "0:4095");
        assert_eq!(devices.0.len(), 1);
        let root = Filesystem::look(Path::new("/"), &mut devices).unwrap();
        assert!(root.bytes > 0 && !root.device.is_empty());
        assert!(Filesystem::look(Path::new("/no/such/place"), &mut devices).is_none());
    }
}
