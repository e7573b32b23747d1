//! Debian's `docker-registry` on loopback: inside a daemon's network namespace, or on this host's
//! own loopback for the tests of clients.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::daemon::Daemon;
use crate::fault::dead_port;
use crate::outcome::Outcome;
use crate::programs::have;
use crate::wait::within;

/// A running registry. Stops when dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    _dir: tempfile::TempDir,
}

/// Who may use a [`LocalRegistry`], and how.
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// PEM of its certificate and key: it speaks TLS then.
    pub tls: Option<(String, String)>,
    /// PEM of the CA of client certificates, which it wants to see then.
    pub client_ca: Option<String>,
    /// Who gets in.
    pub access: Access,
}

/// Who may use a registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    #[default]
    Open,
    /// [`LocalRegistry::USER`] with [`LocalRegistry::PASSWORD`], by basic auth.
    Password,
}

impl Registry {
    /// Where it listens, and the first part of its images' names.
    pub const HOST: &str = "127.0.0.1:5000";

    /// Starts one beside `daemon`; `None`, with the reason printed, where there is none.
    #[must_use]
    pub fn start(daemon: &Daemon) -> Option<Self> {
        Self::start_at(daemon, Self::HOST, &RegistryOptions::default())
    }

    /// As [`Registry::start`], at another `address:port`.
    #[must_use]
    pub fn start_at(daemon: &Daemon, at: &str, options: &RegistryOptions) -> Option<Self> {
        if !have("docker-registry") || !have("skopeo") {
            return None;
        }
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let config = configure(dir.path(), at, options);
        let child = spawn(daemon.netns().command("docker-registry"), &config);
        let registry = Self { child, _dir: dir };
        within(Duration::from_secs(10), "the registry listens", || {
            daemon.netns().enter(|| std::net::TcpStream::connect(at).ok())
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

/// A registry on a free port of this host's loopback. Needs no root. Stops when dropped.
#[derive(Debug)]
pub struct LocalRegistry {
    child: Child,
    host: String,
    options: RegistryOptions,
    dir: tempfile::TempDir,
}

impl LocalRegistry {
    /// Who gets in where a password is wanted.
    pub const USER: &str = "alice";
    /// Her password.
    pub const PASSWORD: &str = "s3cret";
    /// Of that password.
    const BCRYPT: &str = "$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK";

    /// Starts one; `None`, with the reason printed, where the programs are missing.
    #[must_use]
    pub fn start(options: RegistryOptions) -> Option<Self> {
        if !have("docker-registry") || !have("skopeo") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let host = format!("127.0.0.1:{}", dead_port());
        let config = configure(dir.path(), &host, &options);
        let child = spawn(Command::new("docker-registry"), &config);
        within(Duration::from_secs(10), "the registry listens", || {
            std::net::TcpStream::connect(&host).ok()
        });
        Some(Self { child, host, options, dir })
    }

    /// `127.0.0.1:port`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Runs `skopeo` with what it needs to know of this registry; `verb` is its subcommand, and
    /// the last of `words` are the image names as skopeo spells them (`docker://…`).
    #[must_use]
    pub fn skopeo(&self, verb: &str, words: &[&str]) -> Outcome {
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", verb]);
        match verb {
            "copy" => command.args(["-q", "--dest-tls-verify=false", "--src-tls-verify=false"]),
            _ => command.arg("--tls-verify=false"),
        };
        if self.options.access == Access::Password {
            let pair = format!("{}:{}", Self::USER, Self::PASSWORD);
            match verb {
                "copy" => command.args(["--dest-creds", &pair]),
                _ => command.args(["--creds", &pair]),
            };
        }
        command.args(words).stdin(Stdio::null());
        let output = command.output().unwrap();
        Outcome::new(format!("skopeo {verb} {}", words.join(" ")), &output)
    }

    /// Pushes an archive of [`crate::docker_archive`] by skopeo as `name`.
    pub fn push(&self, archive: &[u8], name: &str) {
        let file = self.dir.path().join("archive.tar");
        std::fs::write(&file, archive).unwrap();
        let from = format!("docker-archive:{}", file.display());
        let to = format!("docker://{}/{name}", self.host);
        self.skopeo("copy", &[&from, &to]).check();
    }
}

impl Drop for LocalRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a configuration into `dir`.
fn configure(dir: &Path, address: &str, options: &RegistryOptions) -> PathBuf {
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let mut text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
         http:\n  addr: {address}\n",
        dir.join("data").display(),
    );
    if let Some((cert, key)) = &options.tls {
        let (cert, key) = (write("cert.pem", cert), write("key.pem", key));
        text.push_str(&format!("  tls:\n    certificate: {cert}\n    key: {key}\n"));
        if let Some(ca) = &options.client_ca {
            text.push_str(&format!("    clientcas:\n      - {}\n", write("client-ca.pem", ca)));
        }
    }
    if options.access == Access::Password {
        let line = format!("{}:{}\n", LocalRegistry::USER, LocalRegistry::BCRYPT);
        let path = write("htpasswd", &line);
        text.push_str(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {path}\n"));
    }
    PathBuf::from(write("config.yml", &text))
}

fn spawn(mut command: Command, config: &Path) -> Child {
    command.arg("serve").arg(config);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}
