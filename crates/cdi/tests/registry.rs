//! Directories of vendors' files: what is found in them, and what is told of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs;
use std::path::{Path, PathBuf};

use pouch_cdi::{DeviceNode, Edits, HookStage, NodeKind, Registry, ResolveError};
use pouch_types::{Classified, ErrorKind};
use tempfile::TempDir;

struct Dirs {
    _dir: TempDir,
    installed: PathBuf,
    running: PathBuf,
    registry: Registry,
}

impl Dirs {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (installed, running) = (dir.path().join("etc"), dir.path().join("run"));
        fs::create_dir(&installed).unwrap();
        fs::create_dir(&running).unwrap();
        let absent = dir.path().join("absent");
        let registry = Registry::new(vec![absent, installed.clone(), running.clone()]);
        Self { _dir: dir, installed, running, registry }
    }

    fn fixtures() -> Self {
        let dirs = Self::new();
        for name in ["gpu.yaml", "disk.json"] {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
            fs::copy(from, dirs.installed.join(name)).unwrap();
        }
        dirs
    }

    fn resolve(&self, names: &[&str]) -> Result<Edits, ResolveError> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.registry.resolve(&names)
    }

    fn env(&self, names: &[&str]) -> Vec<String> {
        self.resolve(names).unwrap().env
    }

    fn message(&self, names: &[&str]) -> String {
        pouch_types::error::chain(&self.resolve(names).unwrap_err())
    }
}

/// A file with one device that says where it is from.
fn file(kind: &str, device: &str, from: &str) -> String {
    format!(
        r#"{{"cdiVersion": "0.3.0", "kind": "{kind}",
            "devices": [{{"name": "{device}", "containerEdits": {{"env": ["FROM={from}"]}}}}]}}"#
    )
}

#[test]
fn all_edits_of_a_vendors_file() {
    let dirs = Dirs::fixtures();
    let edits = dirs.resolve(&["vendor.com/gpu=0"]).unwrap();
    assert_eq!(edits.env, ["VENDOR_VISIBLE=void"]);
    assert_eq!(edits.additional_gids, [44], "the superuser's is left out");
    assert_eq!(
        edits.device_nodes,
        [DeviceNode {
            path: "/dev/vendor0".to_owned(),
            host_path: "/dev/null".to_owned(),
            kind: None,
            numbers: None,
            file_mode: Some(0o660),
            access: "rw".to_owned(),
            uid: Some(0),
            gid: Some(44),
        }]
    );
    let [hook] = edits.hooks.as_slice() else { panic!("{edits:?}") };
    assert_eq!((hook.stage, hook.timeout), (HookStage::CreateContainer, Some(10)));
    assert_eq!(hook.args, ["vendor-hook", "update", "--folder", "/usr/lib"]);
    let [mount] = edits.mounts.as_slice() else { panic!("{edits:?}") };
    assert_eq!(mount.destination, "/usr/lib/libvendor.so.1");
    assert_eq!(mount.options, ["ro", "nosuid", "nodev", "bind"]);

    let edits = dirs.resolve(&["vendor.com/disk=scratch"]).unwrap();
    assert_eq!(edits.device_nodes[0].kind, Some(NodeKind::Block));
    assert_eq!(
        (edits.device_nodes[0].file_mode, edits.device_nodes[0].numbers),
        (Some(0o660), None)
    );
    assert_eq!(edits.mounts[0].kind, "bind");
}

#[test]
fn common_edits_come_once_and_before_the_devices() {
    let dirs = Dirs::fixtures();
    let names = ["vendor.com/disk=scratch", "vendor.com/gpu=0", "vendor.com/gpu=all"];
    let twice = [&names[..], &names[..]].concat();
    let edits = dirs.resolve(&twice).unwrap();
    assert_eq!(edits.env, ["SCRATCH=/scratch", "VENDOR_VISIBLE=void"]);
    assert_eq!(edits.hooks.len(), 1);
    let access: Vec<&str> = edits.device_nodes.iter().map(|node| node.access.as_str()).collect();
    assert_eq!(access, ["rwm", "rw", "rwm", ""], "none is no right at all");
    assert_eq!(edits.device_nodes[3].numbers, Some((195, 1)));
    assert!(dirs.resolve(&[]).unwrap().is_empty());
}

#[test]
fn unknown_devices_are_all_named() {
    let dirs = Dirs::fixtures();
    let error = dirs.resolve(&["vendor.com/gpu=0", "vendor.com/gpu=7", "a.b/c=d"]).unwrap_err();
    assert_eq!(error.to_string(), "unresolvable CDI devices vendor.com/gpu=7, a.b/c=d");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(dirs.message(&["/dev/null"]).contains("not vendor/class=name"));
    let none = Registry::new(Vec::new());
    let error = none.resolve(&["vendor.com/gpu=0".to_owned()]).unwrap_err();
    assert_eq!(error.to_string(), "unresolvable CDI devices vendor.com/gpu=0");
    let many = vec!["vendor.com/gpu=0".to_owned(); 257];
    assert!(matches!(dirs.registry.resolve(&many), Err(ResolveError::TooMany(256))));
}

#[test]
fn what_is_not_supported_is_refused_by_its_name() {
    let dirs = Dirs::fixtures();
    let error = dirs.resolve(&["vendor.com/gpu=cache"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "CDI device vendor.com/gpu=cache needs intelRdt, which is not supported"
    );
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = r#"{"cdiVersion": "1.1.0", "kind": "vendor.com/net", "devices": [
        {"name": "eth", "containerEdits": {"netDevices": [{"hostInterfaceName": "a", "name": "b"}]}},
        {"name": "pipe", "containerEdits": {"deviceNodes": [{"path": "/dev/p", "type": "p"}]}}]}"#;
    fs::write(dirs.running.join("net.json"), text).unwrap();
    assert!(dirs.message(&["vendor.com/net=eth"]).contains("netDevices"));
    assert!(dirs.message(&["vendor.com/net=pipe"]).contains("type p"));
}

#[test]
fn a_later_directory_wins_and_one_directory_conflicts() {
    let dirs = Dirs::new();
    fs::write(dirs.installed.join("a.json"), file("v.com/c", "x", "a")).unwrap();
    fs::write(dirs.installed.join("b.json"), file("v.com/c", "x", "b")).unwrap();
    fs::write(dirs.installed.join("other.json"), file("v.com/c", "y", "other")).unwrap();
    let message = dirs.message(&["v.com/c=x"]);
    assert!(message.starts_with("conflicting CDI device v.com/c=x"), "{message}");
    assert!(message.contains("a.json") && message.contains("b.json"), "{message}");
    assert_eq!(dirs.env(&["v.com/c=y"]), ["FROM=other"]);

    fs::write(dirs.running.join("z.json"), file("v.com/c", "x", "run")).unwrap();
    assert_eq!(dirs.env(&["v.com/c=x"]), ["FROM=run"]);
}

#[test]
fn a_bad_file_is_told_and_hides_no_other() {
    let dirs = Dirs::fixtures();
    let write = |name: &str, text: &str| fs::write(dirs.running.join(name), text).unwrap();
    write("broken.json", "{");
    write("unknown.yaml", "cdiVersion: 1.0.0\nkind: v.com/c\nfuture: 1\ndevices: [{name: a}]\n");
    write("large.json", &" ".repeat((1 << 20) + 1));
    write("notes.txt", "no file of a vendor");
    fs::create_dir(dirs.running.join("dir.json")).unwrap();
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        dirs.running.join("pipe.yaml"),
        rustix::fs::Mode::from_raw_mode(0o600),
    )
    .unwrap();
    assert_eq!(dirs.env(&["vendor.com/disk=scratch"]), ["SCRATCH=/scratch"]);
    let error = dirs.resolve(&["v.com/c=a"]).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("unresolvable CDI devices v.com/c=a (not usable: "), "{text}");
    assert!(text.ends_with(" and 2 more)"), "{text}");
    let ResolveError::Unknown { unusable, .. } = error else { panic!("{error:?}") };
    let told: Vec<String> = unusable.iter().map(ToString::to_string).collect();
    for (name, why) in [
        ("broken.json", "EOF"),
        ("dir.json", "not a regular file"),
        ("large.json", "1048576"),
        ("pipe.yaml", "not a regular file"),
        ("unknown.yaml", "future"),
    ] {
        let found = told.iter().any(|text| text.contains(name) && text.contains(why));
        assert!(found, "{name}: {told:#?}");
    }
    assert_eq!(told.len(), 5);
}

#[test]
fn changes_are_seen_at_the_next_use() {
    let dirs = Dirs::new();
    let path = dirs.running.join("a.json");
    assert!(dirs.resolve(&["v.com/c=x"]).is_err());
    fs::write(&path, file("v.com/c", "x", "one")).unwrap();
    assert_eq!(dirs.env(&["v.com/c=x"]), ["FROM=one"]);
    assert_eq!(dirs.env(&["v.com/c=x"]), ["FROM=one"]);
    let next = dirs.running.join("a.tmp");
    fs::write(&next, file("v.com/c", "x", "two")).unwrap();
    fs::rename(&next, &path).unwrap();
    assert_eq!(dirs.env(&["v.com/c=x"]), ["FROM=two"]);
    fs::remove_file(&path).unwrap();
    assert!(dirs.resolve(&["v.com/c=x"]).is_err());
}
