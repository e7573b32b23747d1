//! Archives made in memory: root file systems, hostile ones too, and what `docker load` reads.

use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

/// Builds a tar archive. Unlike a tool's, its entries may be as wrong as a test needs.
pub struct Archive {
    builder: Builder<Vec<u8>>,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Archive({} bytes)", self.builder.get_ref().len())
    }
}

impl Default for Archive {
    fn default() -> Self {
        Self::new()
    }
}

impl Archive {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self { builder: Builder::new(Vec::new()) }
    }

    /// A root file system of busybox, to which more can be added.
    #[must_use]
    pub fn busybox() -> Self {
        let mut archive = Self::new();
        for dir in ["bin", "dev", "etc", "home", "proc", "root", "run", "sys", "usr", "var"] {
            archive.dir(dir, 0o755);
        }
        archive.dir("tmp", 0o1777);
        archive.file("bin/busybox", 0o755, &std::fs::read("/bin/busybox").unwrap());
        for applet in applets() {
            archive.link(&format!("bin/{applet}"), "busybox");
        }
        archive.link("usr/bin", "../bin");
        archive.file(
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home:/bin/sh\n",
        );
        archive.file("etc/group", 0o644, b"root:x:0:\nalice:x:1000:\nextra:x:2000:alice\n");
        archive
    }

    fn entry(&mut self, name: &str, kind: EntryType, mode: u32, target: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        // Written as bytes: `set_path` refuses what hostile archives are made of.
        let name = name.as_bytes();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
        let target = target.as_bytes();
        header.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(target);
        header.set_cksum();
        self.builder.append(&header, content).unwrap();
    }

    /// Adds a directory. Names are at most 100 bytes, here and below.
    pub fn dir(&mut self, name: &str, mode: u32) -> &mut Self {
        self.entry(&format!("{name}/"), EntryType::Directory, mode, "", b"");
        self
    }

    /// Adds a file.
    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> &mut Self {
        self.entry(name, EntryType::Regular, mode, "", content);
        self
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, name: &str, target: &str) -> &mut Self {
        self.entry(name, EntryType::Symlink, 0o777, target, b"");
        self
    }

    /// Adds a hard link.
    pub fn hard_link(&mut self, name: &str, target: &str) -> &mut Self {
        self.entry(name, EntryType::Link, 0o644, target, b"");
        self
    }

    /// The archive's bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.builder.into_inner().unwrap()
    }
}

/// The root file system of busybox; the same bytes each time.
#[must_use]
pub fn busybox() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| Archive::busybox().finish())
}

/// An image of one layer in the format that `docker save` writes, with `config` as the image's
/// `config` object (`Cmd`, `User`, `Volumes`, …).
#[must_use]
pub fn docker_archive(name: &str, layer: &[u8], config: &Value) -> Vec<u8> {
    let image = json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "2024-01-02T03:04:05Z",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(layer))]},
        "history": [{"created": "2024-01-02T03:04:05Z", "created_by": "a test"}],
    })
    .to_string();
    let config_name = format!("{}.json", sha256(image.as_bytes()));
    let manifest = json!([{
        "Config": config_name,
        "RepoTags": [name],
        "Layers": ["layer.tar"],
    }]);
    let mut archive = Archive::new();
    archive.file(&config_name, 0o644, image.as_bytes());
    archive.file("layer.tar", 0o644, layer);
    archive.file("manifest.json", 0o644, manifest.to_string().as_bytes());
    archive.finish()
}

/// By coreutils, so that the digest does not come from the code under test.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use std::io::Write as _;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let output = Command::new("sha256sum").arg(file.path()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

fn applets() -> Vec<String> {
    let output = Command::new("/bin/busybox").arg("--list").output().unwrap();
    let list = String::from_utf8(output.stdout).unwrap();
    list.lines().filter(|name| *name != "busybox").map(str::to_owned).collect()
}
