//! Processor time of a process.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} does not begin with a number", .path.display())]
    NoNumber { path: PathBuf },
}

/// Time that a process's threads ran until now, without its children: nanoseconds of the scheduler,
/// since ticks are too coarse for what takes microseconds. Threads that ended are not in it.
pub fn used(pid: u32) -> Result<Duration, Error> {
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Read { path, source }
    };
    let mut total = Duration::ZERO;
    for task in fs::read_dir(&tasks).map_err(read(&tasks))? {
        let path = task.map_err(read(&tasks))?.path().join("schedstat");
        match fs::read_to_string(&path) {
            Ok(text) => total += first_number(&text).ok_or(Error::NoNumber { path })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Read { path, source }),
        }
    }
    Ok(total)
}

/// Running, waiting and slices, in one line.
fn first_number(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat() {
        assert_eq!(first_number("1500 20 3\n"), Some(Duration::from_nanos(1500)));
        assert_eq!(first_number(""), None);
    }

    #[test]
    fn own_time_passes() {
        let before = used(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while used(std::process::id()).unwrap() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(used(u32::MAX).is_err());
    }
}
