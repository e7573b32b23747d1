//! Counters of the unified hierarchy.

use std::path::Path;

use super::{HugeTlb, Io, IoEntry, Stats, page_sizes};
use crate::error::Error;
use crate::file::{flat, flat_value, limit, number, read_optional};
use crate::group::Cgroup;

const MICROSECOND: u64 = 1_000;

pub(super) fn read(group: &Cgroup, dir: &Path, stats: &mut Stats) -> Result<(), Error> {
    let has = |controller: &str| group.v2_controller(controller).is_some();
    // Times are part of the core and there without the cpu controller.
    if group.v1("cpuacct").is_none()
        && let Some(text) = read_optional(&dir.join("cpu.stat"))?
    {
        let get = |key| flat_value(&text, key).unwrap_or_default();
        stats.cpu.total = get("usage_usec").saturating_mul(MICROSECOND);
        stats.cpu.user = get("user_usec").saturating_mul(MICROSECOND);
        stats.cpu.system = get("system_usec").saturating_mul(MICROSECOND);
        if group.v1("cpu").is_none() {
            stats.cpu.periods = get("nr_periods");
            stats.cpu.throttled_periods = get("nr_throttled");
            stats.cpu.throttled = get("throttled_usec").saturating_mul(MICROSECOND);
        }
    }
    if has("memory") {
        memory(dir, stats)?;
    }
    if has("pids") {
        stats.pids.current = number(&dir.join("pids.current"))?.unwrap_or_default();
        stats.pids.limit = limit(&dir.join("pids.max"))?.flatten();
    }
    if has("io")
        && let Some(text) = read_optional(&dir.join("io.stat"))?
    {
        stats.io = io(&text);
    }
    if has("hugetlb") {
        for page_size in page_sizes(dir)? {
            let file = |what: &str| dir.join(format!("hugetlb.{page_size}.{what}"));
            let events = read_optional(&file("events"))?.unwrap_or_default();
            stats.hugetlb.push(HugeTlb {
                usage: number(&file("current"))?.unwrap_or_default(),
                max_usage: 0,
                failures: flat_value(&events, "max").unwrap_or_default(),
                limit: limit(&file("max"))?.flatten(),
                page_size,
            });
        }
    }
    Ok(())
}

fn memory(dir: &Path, stats: &mut Stats) -> Result<(), Error> {
    let memory = &mut stats.memory;
    memory.usage = number(&dir.join("memory.current"))?.unwrap_or_default();
    memory.max_usage = number(&dir.join("memory.peak"))?.unwrap_or_default();
    memory.limit = limit(&dir.join("memory.max"))?.flatten();
    memory.swap_usage = number(&dir.join("memory.swap.current"))?;
    memory.swap_limit = limit(&dir.join("memory.swap.max"))?.flatten();
    if let Some(text) = read_optional(&dir.join("memory.stat"))? {
        memory.stat = flat(&text).map(|(key, value)| (key.to_owned(), value)).collect();
    }
    if let Some(text) = read_optional(&dir.join("memory.events"))? {
        memory.failures = flat_value(&text, "max").unwrap_or_default();
        memory.oom_kills = flat_value(&text, "oom_kill").unwrap_or_default();
    }
    Ok(())
}

/// `254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
fn io(text: &str) -> Io {
    let mut io = Io::default();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let Some((major, minor)) = fields.next().and_then(|device| device.split_once(':')) else {
            continue;
        };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for field in fields {
            let Some((key, value)) = field.split_once('=') else { continue };
            let Ok(value) = value.parse() else { continue };
            let (list, op) = match key {
                "rbytes" => (&mut io.bytes, "Read"),
                "wbytes" => (&mut io.bytes, "Write"),
                "rios" => (&mut io.operations, "Read"),
                "wios" => (&mut io.operations, "Write"),
                _ => continue,
            };
            list.push(IoEntry { major, minor, op: op.to_owned(), value });
        }
    }
    io
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_stat() {
        let io =
            io("254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:0 \nbad\n7:x rios=1\n");
        assert_eq!(io.bytes.len(), 2);
        assert_eq!(io.operations[1].value, 4);
        assert_eq!((io.bytes[0].major, io.bytes[0].op.as_str()), (254, "Read"));
    }
}
