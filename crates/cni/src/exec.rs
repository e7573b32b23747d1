//! One run of one plugin: fed on its standard input, read with a cap, ended with everything that
//! it started.
//!
//! A plugin is the leader of a process group of its own. It is not reaped before the group was
//! killed, so that the number still means the group. What left the group is found through
//! `/proc/<pid>/task/*/children` when the time is over; a process that made itself an orphan
//! before, as a daemon does, is not followed: it is then meant to stay, and holds none of what we
//! wait for.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{
    Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open, test_kill_process,
};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// A result has some hundred bytes.
pub(crate) const MAX_ANSWER: u64 = 1024 * 1024;
/// Of what a plugin complains, the end is told.
const MAX_COMPLAINT: usize = 4096;
const MAX_COMPLAINT_READ: u64 = 8 * 1024 * 1024;
/// For bytes that are in the pipes when the plugin has ended.
const REST: Duration = Duration::from_millis(500);
/// Processes looked at below a plugin.
const MAX_TREE: usize = 4096;
/// An installer may be writing the file just now (ETXTBSY): tries, and the pause between.
const BUSY: (u32, Duration) = (5, Duration::from_millis(200));

/// What a plugin said, and how it ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) end: End,
    pub(crate) answer: Vec<u8>,
    pub(crate) complaint: String,
}

#[derive(Debug)]
pub(crate) enum End {
    Exited(ExitStatus),
    /// Its time was over.
    Killed,
    /// It wrote more than [`MAX_ANSWER`].
    TooLong,
}

/// Runs `program` with exactly this environment.
pub(crate) async fn run(
    program: &Path,
    environment: &BTreeMap<&str, String>,
    input: &[u8],
    deadline: Duration,
) -> io::Result<Output> {
    let mut child = spawn(program, environment).await?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let group = group.ok_or_else(|| io::Error::other("a process without a number"))?;
    let mut tree = Tree { group, ended: false };
    let ended = watch(group)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut answer, mut complaint) = (Vec::new(), Vec::new());

    let feed = async {
        if let Some(mut stdin) = stdin {
            // Who answers without reading all has read enough.
            drop(stdin.write_all(input).await);
        }
    };
    let end = {
        let (out, err) = (collect(stdout, &mut answer), drain(stderr, &mut complaint));
        tokio::pin!(feed, out, err);
        let over = sleep(deadline);
        tokio::pin!(over);
        let (mut fed, mut answered, mut silent) = (false, false, false);
        // No branch loses anything when another is taken: the futures are kept and polled on.
        let end = loop {
            tokio::select! {
                ready = ended.readable() => break ready.map(|_| Waited::Ended),
                () = &mut over => break Ok(Waited::Over),
                () = &mut feed, if !fed => fed = true,
                amount = &mut out, if !answered => match amount {
                    Amount::All => answered = true,
                    Amount::TooMuch => break Ok(Waited::Flooded),
                },
                () = &mut err, if !silent => silent = true,
            }
        };
        if !matches!(end, Ok(Waited::Ended)) {
            tree.kill_descendants();
        }
        tree.kill_group();
        // The group is dead: what is left is in the pipes, or with somebody who left the group.
        let rest = async {
            if !answered && matches!(end, Ok(Waited::Ended)) {
                out.await;
            }
            if !silent {
                err.await;
            }
        };
        drop(timeout(REST, rest).await);
        end
    };
    let status = child.wait().await?;
    tree.ended = true;
    let end = match end? {
        Waited::Over => End::Killed,
        Waited::Flooded => End::TooLong,
        Waited::Ended if answer.len() as u64 > MAX_ANSWER => End::TooLong,
        Waited::Ended => End::Exited(status),
    };
    Ok(Output { end, answer, complaint: tail(&complaint) })
}

/// What the waiting for a plugin ended with.
enum Waited {
    Ended,
    Over,
    Flooded,
}

async fn spawn(program: &Path, environment: &BTreeMap<&str, String>) -> io::Result<Child> {
    let (mut tries, pause) = BUSY;
    loop {
        let spawned = Command::new(program)
            .env_clear()
            .envs(environment)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        match spawned {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries > 0 => {
                tries -= 1;
                sleep(pause).await;
            }
            other => return other,
        }
    }
}

/// Readable when the process has ended; it stays a zombie until it is waited for.
fn watch(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    #[expect(deprecated, reason = "the successor is unsafe; an OwnedFd keeps its promise")]
    AsyncFd::with_interest(pidfd, tokio::io::Interest::READABLE)
}

enum Amount {
    All,
    TooMuch,
}

/// Reads the answer; one byte beyond the cap tells that there was more.
async fn collect(stream: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> Amount {
    let Some(stream) = stream else { return Amount::All };
    drop(stream.take(MAX_ANSWER + 1).read_to_end(into).await);
    if into.len() as u64 > MAX_ANSWER { Amount::TooMuch } else { Amount::All }
}

/// Keeps the end of what comes.
async fn drain(stream: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    let Some(stream) = stream else { return };
    let mut stream = stream.take(MAX_COMPLAINT_READ);
    let mut piece = vec![0; MAX_COMPLAINT];
    while let Ok(length) = stream.read(&mut piece).await {
        if length == 0 {
            return;
        }
        into.extend_from_slice(piece.get(..length).unwrap_or_default());
        let excess = into.len().saturating_sub(MAX_COMPLAINT);
        into.drain(..excess);
    }
}

fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim().chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// Kills what is left of a plugin's processes when it goes, so also when the future is dropped.
struct Tree {
    group: Pid,
    /// The leader was waited for: its number may be another's by now.
    ended: bool,
}

impl Tree {
    fn kill_group(&self) {
        if !self.ended {
            // ESRCH: all have gone.
            let _ = kill_process_group(self.group, Signal::KILL);
        }
    }

    /// Kills those below the leader, in whatever group and session they are.
    fn kill_descendants(&self) {
        let mut found = vec![self.group];
        let mut next = 0;
        while let Some(pid) = found.get(next).copied()
            && found.len() < MAX_TREE
        {
            // Stopped, it makes no more while we look.
            let _ = kill_process(pid, Signal::STOP);
            found.extend(children(pid));
            next += 1;
        }
        for pid in found.into_iter().rev() {
            if test_kill_process(pid).is_ok() {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.kill_group();
    }
}

fn children(pid: Pid) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()));
    let mut found = Vec::new();
    for task in tasks.into_iter().flatten().flatten() {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let numbers = text.split_ascii_whitespace().filter_map(|n| n.parse().ok());
        found.extend(numbers.filter_map(Pid::from_raw));
    }
    found
}
