//! Pressure stall information: how long the tasks of a group waited for what they lacked.
//!
//! The files belong to the core of the unified hierarchy (Documentation/accounting/psi.rst), so a
//! hybrid layout has them too, for the processes that are in the group there. A kernel without
//! them, and a group whose `cgroup.pressure` is 0, have none.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::file::read_optional;

/// By resource; `None` where the kernel does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Pressures {
    /// For a processor.
    pub cpu: Option<Pressure>,
    /// For memory: reclaim, swapping in, refaults.
    pub memory: Option<Pressure>,
    /// For block devices.
    pub io: Option<Pressure>,
}

/// Waiting for one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Pressure {
    /// At least one task waited.
    pub some: Share,
    /// All that could have run waited; for the processor only since Linux 5.13.
    pub full: Option<Share>,
}

/// Time that went by in waiting. Averages are hundredths of a percent, as exact as the kernel
/// prints them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Share {
    /// Of the last 10 seconds.
    pub avg10: u32,
    /// Of the last minute.
    pub avg60: u32,
    /// Of the last 5 minutes.
    pub avg300: u32,
    /// Nanoseconds since the group was made.
    pub total: u64,
}

pub(super) fn read(dir: &Path) -> Result<Pressures, Error> {
    let one = |name: &str| {
        let path = dir.join(name);
        let Some(text) = read_optional(&path)? else { return Ok(None) };
        match parse(&text) {
            Some(pressure) => Ok(Some(pressure)),
            None => Err(Error::malformed(path, "no line of tasks that wait")),
        }
    };
    Ok(Pressures {
        cpu: one("cpu.pressure")?,
        memory: one("memory.pressure")?,
        io: one("io.pressure")?,
    })
}

/// `some avg10=0.12 avg60=0.00 avg300=0.00 total=345`, and the same for `full`.
fn parse(text: &str) -> Option<Pressure> {
    let line = |kind: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let field = |key: &str| {
            rest.split(' ').find_map(|field| field.strip_prefix(key)?.strip_prefix('='))
        };
        Some(Share {
            avg10: hundredths(field("avg10")?)?,
            avg60: hundredths(field("avg60")?)?,
            avg300: hundredths(field("avg300")?)?,
            total: field("total")?.trim().parse::<u64>().ok()?.saturating_mul(1_000),
        })
    };
    Some(Pressure { some: line("some")?, full: line("full") })
}

/// `12.34` as 1234.
fn hundredths(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.')?;
    let part = (part.len() == 2).then(|| part.parse::<u32>().ok()).flatten()?;
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_numbers_without_loss() {
        let text = "some avg10=99.32 avg60=98.94 avg300=0.07 total=4373925979\n\
            full avg10=0.00 avg60=0.00 avg300=0.00 total=1\n";
        let pressure = parse(text).unwrap();
        let some = Share { avg10: 9932, avg60: 9894, avg300: 7, total: 4_373_925_979_000 };
        assert_eq!(pressure.some, some);
        assert_eq!(pressure.full.unwrap().total, 1_000);
    }

    #[test]
    fn before_linux_5_13_not_all_can_wait_for_a_processor() {
        let pressure = parse("some avg10=0.00 avg60=0.00 avg300=0.00 total=2\n").unwrap();
        assert_eq!((pressure.some.total, pressure.full), (2_000, None));
    }

    #[test]
    fn what_is_no_pressure_is_none() {
        for text in ["", "some\n", "some avg10=1 avg60=1.00 avg300=1.00 total=1\n", "fullish x\n"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert_eq!(hundredths("1.234"), None);
        assert_eq!(hundredths("99999999999.00"), None);
    }
}
