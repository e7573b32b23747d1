//! A command that runs while the test goes on: attach, logs -f, events, terminals.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fd::AsFd as _;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::wait::within;

/// What a test waits for output or an end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running command with its output so far. Killed when dropped.
#[derive(Debug)]
pub struct Live {
    child: Child,
    input: Option<File>,
    master: Option<File>,
    output: Arc<Mutex<Vec<u8>>>,
    seen: usize,
}

impl Live {
    /// Starts a command on pipes; standard error goes the way of standard output.
    #[must_use]
    pub fn piped(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = Arc::default();
        collect(child.stdout.take().unwrap(), &output);
        collect(child.stderr.take().unwrap(), &output);
        let input = child.stdin.take().map(|pipe| File::from(std::os::fd::OwnedFd::from(pipe)));
        Self { child, input, master: None, output, seen: 0 }
    }

    /// Starts a command on a terminal of its own, 24 rows by 80 columns.
    #[must_use]
    pub fn terminal(command: &Command) -> Self {
        // Not for programs that another test starts meanwhile.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = File::from(rustix::fs::open(name, flags, Mode::empty()).unwrap());
        let master = File::from(master);
        // setsid makes the terminal the controlling one, which takes unsafe code to do from here.
        let mut leader = Command::new("setsid");
        leader.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => leader.env(key, value),
                None => leader.env_remove(key),
            };
        }
        leader.stdin(slave.try_clone().unwrap());
        leader.stdout(slave.try_clone().unwrap()).stderr(slave);
        let output = Arc::default();
        let mut live = Self {
            child: leader.spawn().unwrap(),
            input: Some(master.try_clone().unwrap()),
            master: Some(master),
            output,
            seen: 0,
        };
        live.resize(24, 80);
        collect(live.master.as_ref().unwrap().try_clone().unwrap(), &live.output);
        live
    }

    /// Sets the terminal's size.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(self.master.as_ref().expect("a terminal").as_fd(), size).unwrap();
    }

    /// Types.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.input.as_ref().expect("open input").write_all(bytes.as_ref()).unwrap();
    }

    /// Ends the command's standard input, if that is a pipe.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Waits until `text` comes in the output, behind what was expected before.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let seen = self.seen;
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.output()[seen..].find(text) {
                self.seen = seen + at + text.len();
                return;
            }
            assert!(Instant::now() < end, "no {text:?} in:\n{}", self.output());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// All output so far.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned()
    }

    /// Waits for the end; the exit code, or -1 after a signal.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        let status = within(PATIENCE, "the command ends", || self.child.try_wait().unwrap());
        // The readers end with the pipes.
        std::thread::sleep(Duration::from_millis(20));
        status.code().unwrap_or(-1)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Kills it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads to the end on a thread; a terminal's end is an error, which ends it too.
fn collect(mut from: impl Read + Send + 'static, into: &Arc<Mutex<Vec<u8>>>) {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut buffer = [0; 65536];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            into.lock().unwrap().extend_from_slice(&buffer[..n]);
        }
    });
}
