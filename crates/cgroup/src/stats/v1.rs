//! Counters of the first version's controllers.

use std::path::Path;

use super::{Cpu, HugeTlb, IoEntry, Stats, page_sizes};
use crate::error::Error;
use crate::file::{flat, flat_value, limit, number, read_optional};
use crate::group::Cgroup;

pub(super) fn read(group: &Cgroup, stats: &mut Stats) -> Result<(), Error> {
    if let Some(dir) = group.v1("cpuacct") {
        cpuacct(dir, &mut stats.cpu)?;
    }
    if let Some(dir) = group.v1("cpu") {
        let text = read_optional(&dir.join("cpu.stat"))?.unwrap_or_default();
        stats.cpu.periods = flat_value(&text, "nr_periods").unwrap_or_default();
        stats.cpu.throttled_periods = flat_value(&text, "nr_throttled").unwrap_or_default();
        stats.cpu.throttled = flat_value(&text, "throttled_time").unwrap_or_default();
    }
    if let Some(dir) = group.v1("memory") {
        memory(dir, stats)?;
    }
    if let Some(dir) = group.v1("pids") {
        stats.pids.current = number(&dir.join("pids.current"))?.unwrap_or_default();
        stats.pids.limit = limit(&dir.join("pids.max"))?.flatten();
    }
    if let Some(dir) = group.v1("blkio") {
        stats.io.bytes = blkio(dir, "io_service_bytes_recursive")?;
        stats.io.operations = blkio(dir, "io_serviced_recursive")?;
    }
    if let Some(dir) = group.v1("hugetlb") {
        for page_size in page_sizes(dir)? {
            let file = |what: &str| dir.join(format!("hugetlb.{page_size}.{what}"));
            stats.hugetlb.push(HugeTlb {
                usage: number(&file("usage_in_bytes"))?.unwrap_or_default(),
                max_usage: number(&file("max_usage_in_bytes"))?.unwrap_or_default(),
                failures: number(&file("failcnt"))?.unwrap_or_default(),
                limit: limit(&file("limit_in_bytes"))?.flatten(),
                page_size,
            });
        }
    }
    Ok(())
}

fn cpuacct(dir: &Path, cpu: &mut Cpu) -> Result<(), Error> {
    cpu.total = number(&dir.join("cpuacct.usage"))?.unwrap_or_default();
    if let Some(text) = read_optional(&dir.join("cpuacct.usage_percpu"))? {
        cpu.per_cpu = text.split_whitespace().filter_map(|value| value.parse().ok()).collect();
    }
    // In nanoseconds since Linux 4.6; `cpuacct.stat` counts in hundredths of a second.
    cpu.user = number(&dir.join("cpuacct.usage_user"))?.unwrap_or_default();
    cpu.system = number(&dir.join("cpuacct.usage_sys"))?.unwrap_or_default();
    Ok(())
}

fn memory(dir: &Path, stats: &mut Stats) -> Result<(), Error> {
    let memory = &mut stats.memory;
    memory.usage = number(&dir.join("memory.usage_in_bytes"))?.unwrap_or_default();
    memory.max_usage = number(&dir.join("memory.max_usage_in_bytes"))?.unwrap_or_default();
    memory.failures = number(&dir.join("memory.failcnt"))?.unwrap_or_default();
    memory.limit = limit(&dir.join("memory.limit_in_bytes"))?.flatten();
    memory.swap_usage = number(&dir.join("memory.memsw.usage_in_bytes"))?;
    memory.swap_limit = limit(&dir.join("memory.memsw.limit_in_bytes"))?.flatten();
    memory.kernel_usage = number(&dir.join("memory.kmem.usage_in_bytes"))?;
    if let Some(text) = read_optional(&dir.join("memory.stat"))? {
        memory.stat = flat(&text).map(|(key, value)| (key.to_owned(), value)).collect();
    }
    if let Some(text) = read_optional(&dir.join("memory.oom_control"))? {
        memory.oom_kills = flat_value(&text, "oom_kill").unwrap_or_default();
    }
    Ok(())
}

/// The first scheduler's file that has numbers: BFQ where it runs the disk, then CFQ of Linux
/// before 5.0, then the throttling layer, which counts everything that passes it.
fn blkio(dir: &Path, what: &str) -> Result<Vec<IoEntry>, Error> {
    for prefix in ["blkio.bfq.", "blkio.", "blkio.throttle."] {
        let Some(text) = read_optional(&dir.join(format!("{prefix}{what}")))? else { continue };
        let entries: Vec<IoEntry> = text.lines().filter_map(entry).collect();
        if !entries.is_empty() {
            return Ok(entries);
        }
    }
    Ok(Vec::new())
}

/// `254:0 Read 4096`; the closing `Total 4096` of all devices is left out.
fn entry(line: &str) -> Option<IoEntry> {
    let mut fields = line.split_whitespace();
    let (major, minor) = fields.next()?.split_once(':')?;
    Some(IoEntry {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        op: fields.next()?.to_owned(),
        value: fields.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blkio_takes_the_scheduler_that_counts() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        put("blkio.bfq.io_serviced_recursive", "Total 0\n");
        put(
            "blkio.throttle.io_serviced_recursive",
            "254:0 Read 7\n254:0 Write 3\n254:0 Discard 0\n254:0 Total 10\nTotal 10\n",
        );
        let found = blkio(dir.path(), "io_serviced_recursive").unwrap();
        assert_eq!(found.len(), 4);
        assert_eq!(found[0], IoEntry { major: 254, minor: 0, op: "Read".into(), value: 7 });
        put("blkio.bfq.io_serviced_recursive", "8:16 Read 9\nTotal 9\n");
        assert_eq!(blkio(dir.path(), "io_serviced_recursive").unwrap()[0].value, 9);
        assert!(blkio(dir.path(), "none").unwrap().is_empty());
    }
}
