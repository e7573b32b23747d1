//! Debian's `docker-registry` on loopback inside a daemon's network namespace.

use std::process::{Child, Stdio};
use std::time::Duration;

use crate::daemon::Daemon;
use crate::programs::have;
use crate::wait::within;

/// A running registry. Stops when dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    _dir: tempfile::TempDir,
}

impl Registry {
    /// Where it listens, and the first part of its images' names.
    pub const HOST: &str = "127.0.0.1:5000";

    /// Starts one beside `daemon`; `None`, with the reason printed, where there is none.
    #[must_use]
    pub fn start(daemon: &Daemon) -> Option<Self> {
        if !have("docker-registry") || !have("skopeo") {
            return None;
        }
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let config = dir.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: {}\n",
            dir.path().join("data").display(),
            Self::HOST
        );
        std::fs::write(&config, text).unwrap();
        let mut command = daemon.netns().command("docker-registry");
        command.arg("serve").arg(&config);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let registry = Self { child, _dir: dir };
        within(Duration::from_secs(10), "the registry listens", || {
            daemon.netns().enter(|| std::net::TcpStream::connect(Self::HOST).ok())
        });
        Some(registry)
    }

    /// Pushes an archive of [`crate::docker_archive`] by skopeo as `name`.
    pub fn push(&self, daemon: &Daemon, archive: &[u8], name: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), archive).unwrap();
        let output = daemon
            .netns()
            .command("skopeo")
            .args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"])
            .arg(format!("docker-archive:{}", file.path().display()))
            .arg(format!("docker://{}/{name}", Self::HOST))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "skopeo copy: {said}");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
