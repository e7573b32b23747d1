//! A network namespace for a daemon and those who talk to its published ports.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fd::AsFd as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A named network namespace with `lo` up and one more interface, so that it looks like a host.
/// Gone when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// The address of the second interface.
    pub const ADDRESS: &str = "10.213.0.1";

    pub(crate) fn new(name: String) -> Self {
        ip(&["netns", "add", &name]);
        let made = Self { name };
        for words in [
            "link set lo up",
            "link add lan0 type veth peer name lan1",
            "link set lan1 up",
            "addr add 10.213.0.1/24 dev lan0",
            "link set lan0 up",
            "route add default via 10.213.0.254",
        ] {
            let mut all = vec!["-n", &made.name];
            all.extend(words.split(' '));
            ip(&all);
        }
        made
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A command that will run inside.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Calls `work` on a thread inside.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        enter(&self.path(), work)
    }
}

/// Calls `work` on a thread in the network namespace at `path`.
pub(crate) fn enter<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(path).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), kind).unwrap();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

#[track_caller]
fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {said}", words.join(" "));
}
