use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;

use super::*;

/// A root without mounts, in a directory with a canary beside it.
struct Rig {
    directory: tempfile::TempDir,
    root: Root,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("root");
        std::fs::create_dir(&inside).unwrap();
        let fd = rustix::fs::open(&inside, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        Self { directory, root: Root { fd } }
    }

    fn inside(&self, path: &str) -> PathBuf {
        self.directory.path().join("root").join(path)
    }

    /// Where a target came to be, below the root.
    fn target(&self, path: &str, kind: Kind, links: Links) -> Result<String, RuntimeError> {
        let fd = self.root.target(Path::new(path), kind, links)?;
        let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        let base = self.inside("").canonicalize().unwrap();
        let below = path.strip_prefix(base).expect("a target outside of the root");
        Ok(below.to_str().unwrap().to_owned())
    }
}

#[test]
fn what_is_missing_is_made() {
    let rig = Rig::new();
    assert_eq!(rig.target("/a/b/c", Kind::Directory, Links::Followed).unwrap(), "a/b/c");
    assert!(rig.inside("a/b/c").is_dir());
    assert_eq!(rig.target("/a/b/file", Kind::File, Links::Followed).unwrap(), "a/b/file");
    assert!(rig.inside("a/b/file").is_file());
    assert_eq!(rig.target("/a/../x/./y", Kind::Directory, Links::Refused).unwrap(), "x/y");
}

#[test]
fn dangling_links_lead_on_inside() {
    let rig = Rig::new();
    std::fs::create_dir(rig.inside("etc")).unwrap();
    symlink("../run/systemd/stub.conf", rig.inside("etc/resolv.conf")).unwrap();
    symlink("/somewhere/else", rig.inside("etc/absolute")).unwrap();
    symlink("../../../../../up", rig.inside("etc/up")).unwrap();
    let file = |path| rig.target(path, Kind::File, Links::Followed).unwrap();
    assert_eq!(file("/etc/resolv.conf"), "run/systemd/stub.conf");
    assert_eq!(file("/etc/absolute"), "somewhere/else");
    assert_eq!(file("/etc/up"), "up");
    assert!(!rig.directory.path().join("up").exists());
}

#[test]
fn links_are_refused_where_they_must_be() {
    let rig = Rig::new();
    std::fs::create_dir(rig.inside("real")).unwrap();
    symlink("real", rig.inside("proc")).unwrap();
    symlink("nowhere", rig.inside("sys")).unwrap();
    for path in ["/proc", "/sys"] {
        let error = rig.target(path, Kind::Directory, Links::Refused).unwrap_err().to_string();
        assert!(error.contains("ordinary directory"), "{error}");
    }
    assert!(!rig.inside("nowhere").exists());
}

#[test]
fn a_link_in_a_circle_ends() {
    let rig = Rig::new();
    symlink("b", rig.inside("a")).unwrap();
    symlink("a", rig.inside("b")).unwrap();
    assert!(rig.target("/a/x", Kind::Directory, Links::Followed).is_err());
}

#[test]
fn the_root_itself_is_no_target() {
    let rig = Rig::new();
    for path in ["/", "/.", "/.."] {
        assert!(rig.target(path, Kind::Directory, Links::Followed).is_err(), "{path}");
    }
}

#[test]
fn a_file_is_no_directory_on_the_way() {
    let rig = Rig::new();
    std::fs::write(rig.inside("file"), "").unwrap();
    assert!(rig.target("/file/x", Kind::Directory, Links::Followed).is_err());
}
