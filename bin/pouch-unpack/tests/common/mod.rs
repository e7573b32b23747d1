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
    pub size: u64,
    pub device: (u32, u32),
}

impl Default for Head<'_> {
    fn default() -> Self {
        Self { path: b"", kind: b'0', link: b"", mode: 0o644, uid: 0, size: 0, device: (0, 0) }
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
        put(116, b"0000000");
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
    let output = child.wait_with_output().expect("wait for pouch-unpack");
    feeder.join().expect("feeder");
    output
}

/// The kind in the error line, or `None` after success.
pub fn failure_kind(output: &Output) -> Option<String> {
    if output.status.success() {
        return None;
    }
    assert_eq!(output.status.code(), Some(1), "crashed: {output:?}");
    let line: serde_json::Value = serde_json::from_slice(&output.stderr)
        .unwrap_or_else(|_| panic!("no error line: {}", String::from_utf8_lossy(&output.stderr)));
    Some(line["error"]["kind"].as_str().expect("kind").to_owned())
}

/// Everything below `path` with what could be changed, in order.
pub fn census(path: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    let mut todo = vec![path.to_owned()];
    while let Some(at) = todo.pop() {
        let meta = std::fs::symlink_metadata(&at).expect("stat");
        let content = if meta.is_file() { std::fs::read(&at).expect("read") } else { Vec::new() };
        found.push(format!(
            "{} {:o} {}:{} {}.{} {} {:?}",
            at.display(),
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.nlink(),
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

pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("not root: skipped");
    }
    root
}
