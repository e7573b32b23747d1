//! Containers below systemd: a transient scope, asked for over D-Bus, on a host with version 2 only.
//!
//! systemd makes the directory and moves the process in; the rest of the runtime then sees a
//! directory like any other. What has a property of systemd is told as one too, since systemd
//! writes its own idea of the limits whenever it reloads. The scope is delegated: what is below it
//! is the container's, and an OOM kill in it is no reason for systemd to end the others.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;

use super::bus::{Bus, BusError, Target, Writer};
use super::limits::{self, io_weight_of, weight_of_shares};
use super::mounts::{Hierarchy, Version};
use super::{Directory, Placement};
use crate::error::{IoContext, RuntimeError};

const MANAGER: Target = Target {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
/// How long systemd may take for a scope: on a machine that boots it has much else to do.
const SCOPE_LIMIT: Duration = Duration::from_secs(60);
/// How long the scope of an earlier run may take to be forgotten.
const NAME_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);
/// Longest name that systemd takes for a unit.
const NAME_MAX: usize = 255;
/// What systemd's properties call "no limit".
const UNLIMITED: u64 = u64::MAX;
/// A property that this systemd does not know is refused so.
const UNKNOWN_PROPERTY: &str = "org.freedesktop.DBus.Error.PropertyReadOnly";
/// Properties that came after version 239, the oldest with version 2 in use. Without them the
/// limits hold all the same, until systemd reloads.
const NEWER: [&str; 3] = ["CPUQuotaPeriodUSec", "AllowedCPUs", "AllowedMemoryNodes"];

/// Where a container goes: the two halves of `slice:prefix:name`.
#[derive(Debug, PartialEq, Eq)]
struct Name {
    slice: String,
    scope: String,
}

impl Name {
    fn parse(path: Option<&Path>, id: &str) -> Result<Self, RuntimeError> {
        let text = path.map_or_else(|| format!(":pouch:{id}"), |path| path.display().to_string());
        let invalid = |why: &str| RuntimeError::Invalid(format!("cgroupsPath {text:?} {why}"));
        let parts: Vec<_> = text.split(':').collect();
        let [slice, prefix, name] = parts[..] else {
            return Err(invalid("is not of the form slice:prefix:name"));
        };
        let slice = if slice.is_empty() { "system.slice" } else { slice };
        let scope = match (prefix, name) {
            (_, "") => return Err(invalid("has no name")),
            ("", name) => format!("{name}.scope"),
            (prefix, name) => format!("{prefix}-{name}.scope"),
        };
        if !slice.ends_with(".slice") || slice.contains('/') || slice.len() > NAME_MAX {
            return Err(invalid("does not begin with a slice"));
        }
        if scope.contains('/') || scope.len() > NAME_MAX {
            return Err(invalid("makes no name of a scope"));
        }
        Ok(Self { slice: slice.to_owned(), scope })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Flag,
    Number(u64),
    Text(String),
    Bytes(Vec<u8>),
    Pid(u32),
}

type Property = (&'static str, Value);

fn write_properties(writer: &mut Writer, properties: &[Property]) {
    writer.array(8, |array| {
        for (name, value) in properties {
            array.structure().text(name);
            match value {
                Value::Flag => array.signature("b").number(1),
                Value::Number(number) => array.signature("t").long(*number),
                Value::Text(text) => array.signature("s").text(text),
                Value::Pid(pid) => array.signature("au").array(4, |pids| {
                    pids.number(*pid);
                }),
                Value::Bytes(bytes) => array.signature("ay").array(1, |array| {
                    for byte in bytes {
                        array.byte(*byte);
                    }
                }),
            };
        }
    });
}

pub(super) fn create(
    path: Option<&Path>,
    id: &str,
    pid: i32,
    resources: Option<&LinuxResources>,
    hierarchies: &[Hierarchy],
) -> Result<Placement, RuntimeError> {
    let [Hierarchy { version: Version::Two, mount, .. }] = hierarchies else {
        return Err(RuntimeError::Unsupported(String::from(
            "--systemd-cgroup on a host with cgroup version 1",
        )));
    };
    let name = Name::parse(path, id)?;
    let failed = |source| RuntimeError::library("cannot make the systemd scope", source);
    let mut properties = vec![
        ("Description", Value::Text(format!("container {id}"))),
        ("Slice", Value::Text(name.slice.clone())),
        ("PIDs", Value::Pid(pid.unsigned_abs())),
        ("Delegate", Value::Flag),
        ("MemoryAccounting", Value::Flag),
        ("CPUAccounting", Value::Flag),
        ("IOAccounting", Value::Flag),
        ("TasksAccounting", Value::Flag),
        // A failed one would keep the name until somebody resets it.
        ("CollectMode", Value::Text(String::from("inactive-or-failed"))),
    ];
    properties.extend(resources.map(limits_of).transpose()?.unwrap_or_default());
    let mut bus = Bus::connect(SCOPE_LIMIT).map_err(failed)?;
    let job = with_known(properties, |known| start(&mut bus, &name.scope, known));
    job.and_then(|job| bus.wait_job(&job)).map_err(failed)?;

    let placement = Placement {
        directories: vec![Directory::unified(directory_of(pid, mount, &name.scope)?)],
        unified: true,
        scope: Some(name.scope),
    };
    // What systemd has no property for, and exactly what it rounds.
    match resources.map_or(Ok(()), |resources| limits::apply(&placement, resources)) {
        Ok(()) => Ok(placement),
        Err(error) => {
            let _ = placement.remove();
            Err(error)
        }
    }
}

/// Asks for the scope. The one of the container's last run may be about to go.
fn start(bus: &mut Bus, scope: &str, properties: &[Property]) -> Result<String, BusError> {
    let mut arguments = Writer::default();
    arguments.text(scope).text("fail");
    write_properties(&mut arguments, properties);
    // Units to make with it: none.
    arguments.array(8, |_| {});
    let deadline = Instant::now() + NAME_LIMIT;
    loop {
        match bus.call(MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", &arguments) {
            Err(BusError::Refused { name, .. })
                if name == "org.freedesktop.systemd1.UnitExists" && Instant::now() < deadline =>
            {
                std::thread::sleep(POLL);
            }
            other => return other,
        }
    }
}

/// Tells systemd about limits that have changed; the caller then sets them.
pub(super) fn update(scope: &str, resources: &LinuxResources) -> Result<(), RuntimeError> {
    let properties = limits_of(resources)?;
    if properties.is_empty() {
        return Ok(());
    }
    let set = |bus: &mut Bus, known: &[Property]| {
        let mut arguments = Writer::default();
        // Until the next boot, as the scope itself.
        arguments.text(scope).number(1);
        write_properties(&mut arguments, known);
        bus.call(MANAGER, "SetUnitProperties", "sba(sv)", &arguments).map(|_| ())
    };
    Bus::connect(SCOPE_LIMIT)
        .and_then(|mut bus| with_known(properties, |known| set(&mut bus, known)))
        .map_err(|source| RuntimeError::library("cannot change the systemd scope", source))
}

/// Ends an emptied scope, which systemd would do by itself a moment later: when this returns, the
/// name is free for the next run.
pub(super) fn stop(scope: &str) -> Result<(), RuntimeError> {
    let mut arguments = Writer::default();
    arguments.text(scope).text("replace");
    let stopped = Bus::connect(NAME_LIMIT).and_then(|mut bus| {
        let job = bus.call(MANAGER, "StopUnit", "ss", &arguments)?;
        bus.wait_job(&job)
    });
    match stopped {
        Err(BusError::Refused { name, .. }) if name == "org.freedesktop.systemd1.NoSuchUnit" => {
            Ok(())
        }
        other => {
            other.map_err(|source| RuntimeError::library("cannot stop the systemd scope", source))
        }
    }
}

/// Asks with all properties, and where systemd is too old for some, without those.
fn with_known<T>(
    mut properties: Vec<Property>,
    mut ask: impl FnMut(&[Property]) -> Result<T, BusError>,
) -> Result<T, BusError> {
    match ask(&properties) {
        Err(BusError::Refused { name, .. })
            if name == UNKNOWN_PROPERTY && properties.iter().any(|p| NEWER.contains(&p.0)) =>
        {
            properties.retain(|property| !NEWER.contains(&property.0));
            ask(&properties)
        }
        other => other,
    }
}

/// The limits that systemd has a property for.
fn limits_of(resources: &LinuxResources) -> Result<Vec<Property>, RuntimeError> {
    let mut found = Vec::new();
    let mut number = |name, value| found.push((name, Value::Number(value)));
    if let Some(memory) = resources.memory() {
        let limit = memory.limit().filter(|limit| *limit != 0);
        if let Some(limit) = limit {
            number("MemoryMax", or_unlimited(limit));
        }
        if let Some(swap) = memory.swap().filter(|swap| *swap != 0) {
            number("MemorySwapMax", limits::swap_alone(limit, swap)?.unwrap_or(UNLIMITED));
        }
        if let Some(reservation) = memory.reservation().filter(|value| *value != 0) {
            number("MemoryLow", or_unlimited(reservation));
        }
    }
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
            number("CPUWeight", weight_of_shares(shares));
        }
        let period = cpu.period().filter(|period| *period != 0);
        if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
            number("CPUQuotaPerSecUSec", quota_per_second(quota, period.unwrap_or(100_000)));
        }
        if let Some(period) = period {
            number("CPUQuotaPeriodUSec", period);
        }
    }
    if let Some(pids) = resources.pids() {
        number("TasksMax", or_unlimited(pids.limit()));
    }
    if let Some(weight) = resources.block_io().as_ref().and_then(|block| block.weight())
        && weight != 0
    {
        number("IOWeight", io_weight_of(u64::from(weight)));
    }
    if let Some(cpu) = resources.cpu() {
        for (name, list) in [("AllowedCPUs", cpu.cpus()), ("AllowedMemoryNodes", cpu.mems())] {
            if let Some(list) = list.as_deref().filter(|list| !list.is_empty()) {
                found.push((name, Value::Bytes(bits_of(list)?)));
            }
        }
    }
    Ok(found)
}

/// Negative and zero mean unlimited.
fn or_unlimited(limit: i64) -> u64 {
    u64::try_from(limit).ok().filter(|limit| *limit != 0).unwrap_or(UNLIMITED)
}

/// Microseconds per second. systemd keeps whole percents: rounded up, so that what is below the
/// scope can still have all that it was promised.
fn quota_per_second(quota: i64, period: u64) -> u64 {
    const PERCENT: u64 = 10_000;
    match u64::try_from(quota) {
        Ok(quota) => quota
            .saturating_mul(1_000_000)
            .div_ceil(period)
            .checked_next_multiple_of(PERCENT)
            .unwrap_or(UNLIMITED),
        Err(_) => UNLIMITED,
    }
}

/// A list as `0-2,5` as a set of bits, the first in the lowest bit of the first byte.
fn bits_of(list: &str) -> Result<Vec<u8>, RuntimeError> {
    /// More than any kernel counts.
    const MAX: usize = 1 << 16;
    let invalid = || RuntimeError::Invalid(format!("invalid list of numbers {list:?}"));
    let mut bits = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| invalid())?;
        let last: usize = last.trim().parse().map_err(|_| invalid())?;
        if first > last || last >= MAX {
            return Err(invalid());
        }
        for bit in first..=last {
            if bits.len() <= bit / 8 {
                bits.resize(bit / 8 + 1, 0);
            }
            if let Some(byte) = bits.get_mut(bit / 8) {
                *byte |= 1 << (bit % 8);
            }
        }
    }
    Ok(bits)
}

/// The directory that systemd made. It must be the scope's: what is in it will be killed.
fn directory_of(pid: i32, mount: &Path, scope: &str) -> Result<PathBuf, RuntimeError> {
    let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let text = fs::read_to_string(&path).context("read", &path)?;
    text.lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .filter(|own| Path::new(own).file_name().is_some_and(|name| name == scope))
        .map(|own| mount.join(own))
        .ok_or_else(|| {
            RuntimeError::Invalid(format!("systemd put the container elsewhere than in {scope}"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_path_names_slice_and_scope() {
        let parse = |path: &str| Name::parse(Some(Path::new(path)), "id");
        let name = |slice: &str, scope: &str| Name { slice: slice.into(), scope: scope.into() };
        assert_eq!(parse("a-b.slice:pouch:1f").unwrap(), name("a-b.slice", "pouch-1f.scope"));
        assert_eq!(parse("::1f").unwrap(), name("system.slice", "1f.scope"));
        assert_eq!(Name::parse(None, "id").unwrap(), name("system.slice", "pouch-id.scope"));
        for bad in
            ["/pouch/x", "a.slice:b", "a:b:c", "a.slice:b:", "a.slice:b:c:d", "a/b.slice:c:d"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse(&format!("a.slice:b:{}", "c".repeat(250))).is_err());
    }

    #[test]
    fn limits_become_properties() {
        let resources = json!({
            "memory": { "limit": 100, "swap": 150, "reservation": 50 },
            "cpu": { "shares": 1024, "quota": 50_500, "period": 100_000, "cpus": "0-2,9" },
            "pids": { "limit": -1 },
        });
        let found = limits_of(&serde_json::from_value(resources).unwrap()).unwrap();
        assert_eq!(
            found,
            [
                ("MemoryMax", Value::Number(100)),
                ("MemorySwapMax", Value::Number(50)),
                ("MemoryLow", Value::Number(50)),
                ("CPUWeight", Value::Number(39)),
                ("CPUQuotaPerSecUSec", Value::Number(510_000)),
                ("CPUQuotaPeriodUSec", Value::Number(100_000)),
                ("TasksMax", Value::Number(UNLIMITED)),
                ("AllowedCPUs", Value::Bytes(vec![0b111, 0b10])),
            ]
        );
        assert!(limits_of(&LinuxResources::default()).unwrap().is_empty());
        assert_eq!(quota_per_second(-1, 100_000), UNLIMITED);
    }

    #[test]
    fn only_lists_of_numbers_become_bits() {
        assert_eq!(bits_of("7,8").unwrap(), [0x80, 0x01]);
        for bad in ["", "x", "3-1", "0-99999999999", "1,,2", "70000"] {
            assert!(bits_of(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_old_systemd_is_asked_again_without_what_it_does_not_know() {
        let refused = || BusError::Refused { name: UNKNOWN_PROPERTY.into(), text: String::new() };
        let properties = vec![("TasksMax", Value::Number(1)), ("AllowedCPUs", Value::Flag)];
        let mut asked = Vec::new();
        let answer = with_known(properties, |known| {
            asked.push(known.len());
            if known.len() == 2 { Err(refused()) } else { Ok(()) }
        });
        assert!(answer.is_ok());
        assert_eq!(asked, [2, 1]);
        let mut calls = 0;
        let answer: Result<(), _> = with_known(vec![("TasksMax", Value::Flag)], |_| {
            calls += 1;
            Err(refused())
        });
        assert!(answer.is_err());
        assert_eq!(calls, 1);
    }
}
