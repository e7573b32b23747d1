//! Archives byte by byte, and running the program on them.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(unreachable_pub, reason = "a module of each test")]
#![expect(clippy::expect_used, reason = "a failed set-up is a failed test")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A tar under construction, valid or not.
#[derive(Clone, Default)]
pub struct Tar(pub Vec<u8>);

/// One header's fields as they are written.
#[derive(Clone)]
pub struct Head<'a> {
    pub path: &'a [u8],
    pub kind: u8,
    pub link: &'a [u8],
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub size: u64,
    pub device: (u32, u32),
}

impl Default for Head<'_> {
    fn default() -> Self {
        Self {
            path: b"",
            kind: b'0',
            link: b"",
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            device: (0, 0),
        }
    }
}

/// The checksum of a header block.
pub fn sum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..512].iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn head(mut self, head: &Head<'_>) -> Self {
        let mut block = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &head.path[..head.path.len().min(100)]);
        put(100, format!("{:07o}", head.mode).as_bytes());
        put(108, format!("{:07o}", head.uid).as_bytes());
        put(116, format!("{:07o}", head.gid).as_bytes());
        put(124, format!("{:011o}", head.size).as_bytes());
        put(136, format!("{:011o}", 1_700_000_000).as_bytes());
        put(156, &[head.kind]);
        put(157, &head.link[..head.link.len().min(100)]);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}", head.device.0).as_bytes());
        put(337, format!("{:07o}", head.device.1).as_bytes());
        sum(&mut block);
        self.0.extend_from_slice(&block);
        self
    }

    pub fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, path: &str, content: &str) -> Self {
        self.head(&Head { path: path.as_bytes(), size: content.len() as u64, ..Head::default() })
            .data(content.as_bytes())
    }

    pub fn dir(self, path: &str) -> Self {
        self.head(&Head { path: path.as_bytes(), kind: b'5', mode: 0o755, ..Head::default() })
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.link(path, target, b'2')
    }

    pub fn hardlink(self, path: &str, target: &str) -> Self {
        self.link(path, target, b'1')
    }

    pub fn link(self, path: &str, target: &str, kind: u8) -> Self {
        self.head(&Head {
            path: path.as_bytes(),
            link: target.as_bytes(),
            kind,
            mode: 0o777,
            ..Head::default()
        })
    }

    pub fn device(self, path: &str, kind: u8, device: (u32, u32), mode: u32) -> Self {
        self.head(&Head { path: path.as_bytes(), kind, mode, device, ..Head::default() })
    }

    /// A header of type `kind` with this as its data.
    pub fn extension(self, kind: u8, data: &[u8]) -> Self {
        let size = data.len() as u64;
        self.head(&Head { path: b"././@LongLink", kind, size, ..Head::default() }).data(data)
    }

    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.extension(b'x', &data)
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// No archive of a test takes this long; a program that does is killed, which no test takes for an
/// answer.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(120);

/// Runs the program with `input` on standard input.
pub fn unpack(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pouch-unpack"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start pouch-unpack");
    let mut stdin = child.stdin.take().expect("pipe");
    let input = input.to_vec();
    // The child may end before it has read everything.
    let feeder = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let pid = rustix::process::Pid::from_child(&child);
    let (ended, guard) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        use std::sync::mpsc::RecvTimeoutError::Timeout;
        if guard.recv_timeout(DEADLINE) == Err(Timeout) {
            // Not waited for yet, so the number is still its own.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    });
    let output = child.wait_with_output().expect("wait for pouch-unpack");
    drop(ended);
    watch.join().expect("watch");
    feeder.join().expect("feeder");
    output
}

/// The kind in the error line, or `None` after success.
pub fn failure_kind(output: &Output) -> Option<String> {
    failure(output).map(|(kind, _)| kind)
}

/// Kind and message in the error line, or `None` after success.
pub fn failure(output: &Output) -> Option<(String, String)> {
    if output.status.success() {
        return None;
    }
    assert_eq!(output.status.code(), Some(1), "crashed: {output:?}");
    let line: serde_json::Value = serde_json::from_slice(&output.stderr)
        .unwrap_or_else(|_| panic!("no error line: {}", String::from_utf8_lossy(&output.stderr)));
    let part = |name: &str| line["error"][name].as_str().expect(name).to_owned();
    Some((part("kind"), part("message")))
}

/// Everything below `path` with what could be changed, in order.
pub fn census(path: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    let mut todo = vec![path.to_owned()];
    while let Some(at) = todo.pop() {
        let meta = std::fs::symlink_metadata(&at).expect("stat");
        let content = if meta.is_file() { std::fs::read(&at).expect("read") } else { Vec::new() };
        let mut names = [0u8; 1024];
        let listed = rustix::fs::llistxattr(&at, &mut names[..]).unwrap_or(0);
        let attributes: Vec<String> = names[..listed]
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| {
                let mut value = [0u8; 1024];
                let read = rustix::fs::lgetxattr(&at, name, &mut value[..]);
                format!("{}={:?}", String::from_utf8_lossy(name), read.map(|n| &value[..n]))
            })
            .collect();
        found.push(format!(
            "{} {:o} {}:{} {}.{} {} {} {} {attributes:?} {:?}",
            at.display(),
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.nlink(),
            meta.rdev(),
            meta.ino(),
            content
        ));
        if meta.is_dir() {
            let entries = std::fs::read_dir(&at).expect("list");
            todo.extend(entries.map(|entry| entry.expect("entry").path()));
        }
    }
    found.sort();
    found
}

/// A directory to unpack into and, around it, what must not change.
pub struct Rig {
    pub dir: tempfile::TempDir,
    pub root: PathBuf,
}

impl Rig {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let canary = dir.path().join("canary");
        std::fs::create_dir_all(canary.join("d")).expect("canary");
        std::fs::write(canary.join("secret"), "secret").expect("canary");
        let root = dir.path().join("root");
        std::fs::create_dir(&root).expect("root");
        Self { dir, root }
    }

    pub fn canary(&self) -> PathBuf {
        self.dir.path().join("canary")
    }

    pub fn root_text(&self) -> &str {
        self.root.to_str().expect("UTF-8")
    }

    pub fn layer(&self, tar: &[u8]) -> Output {
        unpack(&["layer", "--root", self.root_text()], tar)
    }

    pub fn put(&self, tar: &[u8]) -> Output {
        unpack(&["put", "--root", self.root_text(), "--path", "/"], tar)
    }
}

/// Everything around one root after another: what is outside must stay as it was.
pub struct Outside {
    rig: Rig,
    before: Vec<String>,
}

impl Outside {
    /// A canary with one of each kind of file, with owners, modes, times and attributes.
    pub fn new() -> Self {
        let rig = Rig::new();
        let canary = rig.canary();
        let secret = canary.join("secret");
        std::fs::write(canary.join("d/inside"), "inside").expect("canary");
        std::fs::hard_link(&secret, canary.join("second")).expect("canary");
        std::os::unix::fs::symlink("secret", canary.join("link")).expect("canary");
        std::os::unix::fs::chown(&secret, Some(12), Some(34)).expect("canary");
        let dir = rustix::fs::open(&canary, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty());
        let dir = dir.expect("canary");
        for (name, kind, device) in [
            ("fifo", rustix::fs::FileType::Fifo, 0),
            ("null", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
            ("gone", rustix::fs::FileType::CharacterDevice, 0),
        ] {
            let mode = rustix::fs::Mode::from_raw_mode(0o640);
            rustix::fs::mknodat(&dir, name, kind, mode, device).expect("canary");
        }
        let set = |path: &Path, name: &str, value: &[u8]| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(path, name, value, flags).expect("attribute");
        };
        set(&secret, "user.canary", b"sings");
        set(&canary.join("d"), "trusted.overlay.opaque", b"y");
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o2750);
        std::fs::set_permissions(canary.join("d"), permissions).expect("canary");
        let before = census(&canary);
        Self { rig, before }
    }

    pub fn canary(&self) -> PathBuf {
        self.rig.canary()
    }

    /// An empty root in place of the last one.
    pub fn fresh_root(&self) -> PathBuf {
        let outside = pouch_rootfd::RootFd::open(self.rig.dir.path()).expect("open");
        outside.remove_tree("root").expect("remove root");
        std::fs::create_dir(&self.rig.root).expect("root");
        self.rig.root.clone()
    }

    pub fn layer(&self, tar: &[u8]) -> Output {
        self.rig.layer(tar)
    }

    pub fn put(&self, tar: &[u8]) -> Output {
        self.rig.put(tar)
    }

    /// What is not as it was, and what is new beside the root.
    pub fn changes(&self) -> Vec<String> {
        let now = census(&self.canary());
        let mut changes: Vec<String> =
            now.iter().filter(|line| !self.before.contains(line)).cloned().collect();
        changes.extend(self.before.iter().filter(|line| !now.contains(line)).cloned());
        for entry in std::fs::read_dir(self.rig.dir.path()).expect("list") {
            let name = entry.expect("entry").file_name();
            if name != "root" && name != "canary" {
                changes.push(format!("{} is new", name.display()));
            }
        }
        changes
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // A tree can be too deep for the way in which temporary directories are removed.
        if let Ok(outside) = pouch_rootfd::RootFd::open(self.rig.dir.path()) {
            let _ = outside.remove_tree("root");
        }
    }
}

pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("not root: skipped");
    }
    root
}
