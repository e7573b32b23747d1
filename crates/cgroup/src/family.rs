//! The processes that came from one that was added to a container, wherever they are.
//!
//! A control group of its own is not possible for each exec, and the kernel has no other name for
//! "all that this process started". Runtimes make an exec the leader of a session, which its
//! children stay in when their parents die; so the family are that session and all descendants.
//! Who leaves the session *and* is left by its parents belongs to the container alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::Error;
use crate::freeze::pause;

/// Bytes of what a process says of itself; some fifty numbers and a name of 15 bytes.
const STAT_CAP: u64 = 4096;

/// Whether the process that the family is named after has been waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leader {
    /// It has not, so the number is its own.
    Held,
    /// It has. The number stays taken as long as the session has members, so when another process
    /// has it, there are none.
    Reaped,
}

/// What a process says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: u32,
    session: u32,
    /// Waits to be waited for: it cannot be signalled any more.
    ended: bool,
}

/// Sends SIGKILL to the family of `pid`, a number of the caller's pid namespace, until none of it
/// is left. None is no error.
///
/// # Errors
/// [`Error::Deadline`] when processes remain; [`Error::Io`] without a /proc.
pub fn kill_family(pid: u32, leader: Leader, deadline: Instant) -> Result<(), Error> {
    let mut attempt = 0;
    while signal_family(pid, leader, Signal::KILL)? > 0 {
        if !pause(attempt, deadline) {
            return Err(Error::Deadline { group: format!("family of {pid}"), stage: "kill" });
        }
        attempt += 1;
    }
    Ok(())
}

/// Sends `signal` once to each of the family of `pid`; how many there were.
///
/// # Errors
/// [`Error::Io`] without a /proc.
pub fn signal_family(pid: u32, leader: Leader, signal: Signal) -> Result<usize, Error> {
    let found = members(pid, leader, &all()?);
    let open = |member: &u32| {
        let process = i32::try_from(*member).ok().and_then(Pid::from_raw)?;
        // It may have ended since.
        Some((*member, pidfd_open(process, PidfdFlags::empty()).ok()?))
    };
    let opened: Vec<_> = found.iter().filter_map(open).collect();
    // Another one that had the number by then is no member.
    let still = members(pid, leader, &all()?);
    for (member, process) in opened {
        if still.contains(&member) {
            let _ = pidfd_send_signal(&process, signal);
        }
    }
    Ok(found.len())
}

/// The family among `processes`, without those that have ended.
fn members(pid: u32, leader: Leader, processes: &BTreeMap<u32, Stat>) -> BTreeSet<u32> {
    if leader == Leader::Reaped && processes.contains_key(&pid) {
        return BTreeSet::new();
    }
    let own = std::process::id();
    let in_session = processes.iter().filter(|(_, stat)| stat.session == pid).map(|(pid, _)| *pid);
    let mut family: BTreeSet<u32> = in_session.chain([pid]).collect();
    loop {
        let before = family.len();
        for (child, stat) in processes {
            if family.contains(&stat.parent) {
                family.insert(*child);
            }
        }
        if family.len() == before {
            break;
        }
    }
    family.retain(|pid| *pid != own && processes.get(pid).is_some_and(|stat| !stat.ended));
    family
}

/// All processes that can be seen.
fn all() -> Result<BTreeMap<u32, Stat>, Error> {
    let failed = |source| Error::Io { action: "read", path: "/proc".into(), source };
    let mut processes = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let mut text = Vec::new();
        let file = File::open(Path::new("/proc").join(&name).join("stat"));
        // Gone meanwhile, or not ours to see. A process's name is any bytes.
        if file.and_then(|file| file.take(STAT_CAP).read_to_end(&mut text)).is_ok()
            && let Some(stat) = parse(&String::from_utf8_lossy(&text))
        {
            processes.insert(pid, stat);
        }
    }
    Ok(processes)
}

/// `pid (name) state ppid pgrp session …`; the name may contain anything.
fn parse(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some(Stat { parent, session, ended })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_a_session_and_all_descendants() {
        let process = |parent, session| Stat { parent, session, ended: false };
        let processes = BTreeMap::from([
            (10, process(1, 10)),
            (11, process(10, 10)),
            // Left the session, not its parent.
            (12, process(11, 12)),
            (13, process(12, 12)),
            // Was left by its parent, not its session.
            (14, process(1, 10)),
            (15, Stat { parent: 10, session: 10, ended: true }),
            (20, process(1, 20)),
        ]);
        let expected = BTreeSet::from([10, 11, 12, 13, 14]);
        assert_eq!(members(10, Leader::Held, &processes), expected);
        assert!(members(10, Leader::Reaped, &processes).is_empty(), "another one has the number");
        let mut processes = processes;
        processes.remove(&10);
        assert_eq!(members(10, Leader::Reaped, &processes), BTreeSet::from([11, 12, 13, 14]));
        assert!(members(30, Leader::Held, &processes).is_empty());
    }

    #[test]
    fn names_of_processes_confuse_nothing() {
        let stat = parse("7 (a) Z 1 (b) S 3 4 5 0 -1\n").unwrap();
        assert_eq!(stat, Stat { parent: 3, session: 5, ended: false });
        assert!(parse("7 (a) Z 3 4 5").unwrap().ended);
        assert!(parse("7 (a").is_none());
    }

    #[test]
    fn all_of_a_real_one_die() {
        use std::io::BufRead as _;
        let mut child = std::process::Command::new("setsid")
            .args(["sh", "-c"])
            .arg("sleep 1000 & sh -c 'sleep 1000 & echo $!; exec >&-; wait' & echo $!; exit 0")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let leader = child.id();
        let output = std::io::BufReader::new(child.stdout.take().unwrap());
        let pids: Vec<u32> =
            output.lines().take(2).map(|line| line.unwrap().parse().unwrap()).collect();
        child.wait().unwrap();
        let deadline = Instant::now() + std::time::Duration::from_secs(10);
        kill_family(leader, Leader::Reaped, deadline).unwrap();
        let processes = all().unwrap();
        for pid in pids {
            assert!(processes.get(&pid).is_none_or(|stat| stat.ended || stat.session != leader));
        }
        assert!(members(leader, Leader::Reaped, &processes).is_empty());
    }
}
