//! Processor time of a daemon, without what it starts: shims and runtimes are others' children or
//! are not waited for by it, and are measured as latency.

use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io};

/// What the kernel counts in, on every architecture: hundredths of a second.
const TICK: Duration = Duration::from_millis(10);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("reading {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not as proc(5) has it", .path.display())]
    Form { path: PathBuf },
}

/// Time that all threads of `pid` have used since its start, those that ended included.
pub(crate) fn spent(pid: u32) -> Result<Duration, Error> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let stat = fs::read_to_string(&path);
    let stat = stat.map_err(|source| Error::Read { path: path.clone(), source })?;
    ticks(&stat).map(|ticks| TICK * ticks).ok_or(Error::Form { path })
}

/// Fields 14 and 15, counted behind the name, which may have anything in it.
fn ticks(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_are_added() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 1 2 3 4 150 25 9 9 20 0 1 0 5 6 7";
        assert_eq!(ticks(stat), Some(175));
        assert_eq!(ticks("7 (a) S 1"), None);
        assert!(spent(std::process::id()).is_ok());
        assert!(spent(u32::MAX).is_err());
    }
}
