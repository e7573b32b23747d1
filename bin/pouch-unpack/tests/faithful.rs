//! What a layer, a copy and an archive keep.
#![expect(clippy::expect_used, reason = "a failed set-up is a failed test")]

mod common;

use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use common::{Head, Rig, Tar, failure_kind, is_root, unpack};

fn meta(root: &Path, path: &str) -> std::fs::Metadata {
    root.join(path).symlink_metadata().expect(path)
}

fn report(output: &std::process::Output) -> serde_json::Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("report")
}

#[test]
fn a_layer_keeps_what_its_tar_says() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let capability = [1u8, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tar = Tar::new()
        .head(&Head { path: b"setgid/", kind: b'5', mode: 0o2775, uid: 5, ..Head::default() })
        .file("setgid/plain", "x")
        .dir("setgid/sub/")
        .head(&Head { path: b"suid", mode: 0o6755, uid: 1000, size: 1, ..Head::default() })
        .data(b"x")
        .pax(&[("SCHILY.xattr.security.capability", &capability[..]), ("mtime", b"1600000000.25")])
        .head(&Head { path: b"ping", mode: 0o755, uid: 7, size: 1, ..Head::default() })
        .data(b"x")
        .head(&Head { path: b"locked/", kind: b'5', mode: 0o000, ..Head::default() })
        .file("locked/inside", "x")
        .device("null", b'3', (1, 3), 0o666)
        .device("pipe", b'6', (0, 0), 0o4600)
        .symlink("link", "/nowhere")
        .hardlink("second", "suid")
        .file("implied/by/path", "x")
        .end();
    let output = rig.layer(&tar);
    let report = report(&output);
    assert_eq!((report["entries"].as_u64(), report["size"].as_u64()), (Some(12), Some(5)));
    let r = &rig.root;
    let mode = |path: &str| meta(r, path).permissions().mode() & 0o7777;
    assert_eq!((mode("setgid"), meta(r, "setgid").uid()), (0o2775, 5));
    // A setgid directory must not pass its group and bit on to what the tar makes in it.
    assert_eq!((mode("setgid/plain"), meta(r, "setgid/plain").gid()), (0o644, 0));
    assert_eq!((mode("setgid/sub"), meta(r, "setgid/sub").gid()), (0o755, 0));
    assert_eq!((mode("suid"), meta(r, "suid").uid()), (0o6755, 1000));
    assert_eq!((mode("locked"), mode("pipe")), (0o000, 0o4600));
    assert_eq!(meta(r, "suid").ino(), meta(r, "second").ino());
    assert!(meta(r, "null").file_type().is_char_device());
    assert_eq!(meta(r, "null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(mode("implied"), 0o755);
    let ping = meta(r, "ping");
    assert_eq!((ping.mtime(), ping.mtime_nsec()), (1_600_000_000, 250_000_000));
    let mut value = [0u8; 64];
    let n = rustix::fs::lgetxattr(r.join("ping"), "security.capability", &mut value[..]);
    assert_eq!(&value[..n.expect("capability")], &capability[..]);
    for path in ["setgid", "locked", "link", "pipe", "suid"] {
        assert_eq!(meta(r, path).mtime(), 1_700_000_000, "{path}");
    }
}

#[test]
fn a_layer_goes_into_an_empty_directory_only() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    std::fs::write(rig.root.join("there"), "").expect("write");
    let output = rig.layer(&Tar::new().file("f", "").end());
    assert_eq!(failure_kind(&output).as_deref(), Some("invalid"));
    assert!(!rig.root.join("f").exists());
}

#[test]
fn limits_are_kept_and_named() {
    if !is_root() {
        return;
    }
    let run = |flag: &str, value: &str, tar: Vec<u8>| {
        let rig = Rig::new();
        unpack(&["layer", "--root", rig.root_text(), flag, value], &tar)
    };
    let ten = "x".repeat(10);
    let fits = || Tar::new().file("a", &ten).file("b", &ten).end();
    assert_eq!(failure_kind(&run("--max-bytes", "20", fits())), None);
    let kind = failure_kind(&run("--max-bytes", "19", fits()));
    assert_eq!(kind.as_deref(), Some("resource_exhausted"));
    assert_eq!(failure_kind(&run("--max-entries", "2", fits())), None);
    let kind = failure_kind(&run("--max-entries", "1", fits()));
    assert_eq!(kind.as_deref(), Some("resource_exhausted"));
}

#[test]
fn a_bad_call_has_its_kind() {
    if !is_root() {
        return;
    }
    for arguments in
        [&["layer"][..], &["nonsense"], &["put", "--root", "/x"], &["layer", "--path", "/"]]
    {
        assert_eq!(
            failure_kind(&unpack(arguments, b"")).as_deref(),
            Some("invalid"),
            "{arguments:?}"
        );
    }
    let output = unpack(&["layer", "--root", "/does/not/exist"], b"");
    assert_eq!(failure_kind(&output).as_deref(), Some("not_found"));
}

/// The tree of another implementation's tar, through every compression that is understood.
#[test]
fn agrees_with_gnu_tar() {
    if !is_root() {
        return;
    }
    let source = tempfile::tempdir().expect("temporary directory");
    let at = source.path();
    let long = "l".repeat(120);
    let script = format!(
        "mkdir -p {long}/{long} etc && echo x > {long}/{long}/f && ln {long}/{long}/f etc/hard &&
         ln -s ../{long} etc/soft && mkfifo etc/fifo && mknod etc/dev c 5 1 && chmod 4755 etc/hard &&
         chown 12:34 etc/soft && truncate -s 1M etc/sparse && echo end >> etc/sparse &&
         touch -h -d @1234567890 etc/soft etc"
    );
    let made = Command::new("sh").args(["-c", &script]).current_dir(at).status().expect("sh");
    assert!(made.success());
    let describe = |root: &Path| {
        let script = "find . -mindepth 1 -printf '%P %y %m %U:%G %s %T@ %n %l\\n' | sort;
                      find . -type f | sort | xargs sha256sum";
        let out = Command::new("sh").args(["-c", script]).current_dir(root).output().expect("sh");
        String::from_utf8(out.stdout).expect("UTF-8")
    };
    for format in [
        "gnu",
        "posix",
        "posix --sparse-version=0.0",
        "posix --sparse-version=0.1",
        "posix --sparse-version=1.0",
    ] {
        for filter in ["", "--gzip", "--bzip2", "--xz", "--zstd"] {
            let script = format!("tar --sparse --format={format} {filter} -c .");
            let tar =
                Command::new("sh").args(["-c", &script]).current_dir(at).output().expect("tar");
            if !tar.status.success() {
                println!("{filter}: not installed, skipped");
                continue;
            }
            let rig = Rig::new();
            report(&rig.layer(&tar.stdout));
            let (got, want) = (describe(&rig.root), describe(at));
            // GNU's own format has whole seconds.
            let whole = |text: &str| {
                let words = text.split(' ').map(|word| word.split('.').next().unwrap_or_default());
                words.collect::<Vec<_>>().join(" ")
            };
            if format == "gnu" {
                assert_eq!(whole(&got), whole(&want), "{format} {filter}");
            } else {
                assert_eq!(got, want, "{format} {filter}");
            }
        }
    }
}

/// One of everything, made by other programs.
const RICH: &str = r#"
    umask 022
    mkdir -p etc bin setgid sticky deep/a/b/c empty
    echo plain > etc/plain; echo conf > etc/conf; chmod 600 etc/conf; chown 1000:2000 etc/conf
    cp /bin/true bin/capable; setcap cap_net_raw,cap_net_bind_service+ep bin/capable
    cp /bin/true bin/suid; chown 3:4 bin/suid; chmod 6755 bin/suid
    ln bin/suid bin/second; ln bin/suid deep/a/b/c/third
    chgrp 5 setgid; chmod 2775 setgid; touch setgid/f; mkdir setgid/sub; chmod 755 setgid/sub
    chmod 1777 sticky; chmod 000 empty
    ln -s ../etc/plain deep/relative; ln -s /nowhere deep/absolute; chown -h 7:8 deep/absolute
    ln deep/absolute deep/linked-link
    mkfifo deep/fifo; mknod deep/char c 10 200; mknod deep/block b 253 7; chmod 640 deep/block
    chown 9:10 deep/char
    truncate -s 8M deep/sparse; printf middle | dd of=deep/sparse bs=1 seek=4M conv=notrunc 2>/dev/null
    truncate -s 3M deep/hole; printf end >> deep/sparse; printf x > deep/odd; truncate -s 70000 deep/odd
    long=$(printf 'l%.0s' $(seq 150)); mkdir -p $long/$long; echo long > $long/$long/$long
    ln $long/$long/$long $long/hard; ln -s $long/$long/$long $long-link
    printf x > 'with space'; printf x > 'new
line'; printf x > "$(printf 'latin\\351')"; printf x > '*'; printf x > ' '; printf x > ünï
    touch -d @1234567890.123456789 etc/plain; touch -d @-1.5 etc/conf; touch -d @4294967296.5 deep/odd
    touch -h -d @1111111111.000000001 deep/relative; touch -d @1222222222.25 bin setgid deep etc .
"#;

/// A tree by what a layer describes: for each path everything but inode and change times.
fn described(root: &Path) -> std::collections::BTreeMap<std::ffi::OsString, String> {
    let mut found = std::collections::BTreeMap::new();
    let mut names = std::collections::HashMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(at) = todo.pop() {
        let meta = at.symlink_metadata().expect("stat");
        let path = at.strip_prefix(root).expect("below").as_os_str().to_owned();
        if meta.is_dir() {
            let entries = std::fs::read_dir(&at).expect("list");
            todo.extend(entries.map(|entry| entry.expect("entry").path()));
        } else {
            names.entry(meta.ino()).or_insert_with(Vec::new).push(path.clone());
        }
        let mut list = [0u8; 4096];
        let n = rustix::fs::llistxattr(&at, &mut list[..]).expect("attributes");
        let mut attributes: Vec<String> = list[..n]
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| {
                let mut value = [0u8; 4096];
                let n = rustix::fs::lgetxattr(&at, name, &mut value[..]).expect("attribute");
                format!("{}={:?}", String::from_utf8_lossy(name), &value[..n])
            })
            .collect();
        attributes.sort();
        let content = if meta.is_file() {
            pouch_types::Digest::of(&std::fs::read(&at).expect("read")).to_string()
        } else {
            at.read_link().map(|target| format!("{target:?}")).unwrap_or_default()
        };
        let size = if meta.is_dir() { 0 } else { meta.size() };
        let links = if meta.is_dir() { 0 } else { meta.nlink() };
        let line = format!(
            "{:o} {}:{} {size} {}.{:09} {links} {} {attributes:?} {content}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.rdev(),
        );
        found.insert(path, line);
    }
    for mut group in names.into_values() {
        group.sort();
        for path in &group {
            found.get_mut(path).expect("path").push_str(&format!(" same as {:?}", group[0]));
        }
    }
    found
}

fn differences(
    want: &std::collections::BTreeMap<std::ffi::OsString, String>,
    got: &std::collections::BTreeMap<std::ffi::OsString, String>,
) -> Vec<String> {
    let paths: std::collections::BTreeSet<_> = want.keys().chain(got.keys()).collect();
    let differ = paths.into_iter().filter(|path| want.get(*path) != got.get(*path));
    differ.map(|path| format!("{path:?}:\n  {:?}\n  {:?}", want.get(path), got.get(path))).collect()
}

/// GNU tar and umoci make the same tree of a layer that has everything.
#[test]
fn a_rich_layer_is_the_same_tree_for_others() {
    if !is_root() {
        return;
    }
    let work = tempfile::tempdir().expect("temporary directory");
    let at = |name: &str| work.path().join(name);
    let sh = |script: &str, directory: &Path| {
        let out = Command::new("bash").args(["-ec", script]).current_dir(directory).output();
        let out = out.expect("bash");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    std::fs::create_dir(at("source")).expect("mkdir");
    // The top as `layer` finds it.
    std::fs::set_permissions(at("source"), PermissionsExt::from_mode(0o755)).expect("chmod");
    for (path, name, value) in [
        ("user-file", "user.mime_type", &b"text/plain"[..]),
        ("user-file", "user.bytes", b"\x00\xff=\n "),
        ("user-dir", "user.dir", b"y"),
    ] {
        let path = at("source").join(path);
        if path.ends_with("user-dir") {
            std::fs::create_dir(&path).expect("mkdir");
        } else {
            std::fs::write(&path, "x").expect("write");
        }
        rustix::fs::setxattr(&path, name, value, rustix::fs::XattrFlags::empty())
            .expect("setxattr");
    }
    if Command::new("setcap").arg("-h").output().is_err() {
        println!("setcap is not installed: skipped");
        return;
    }
    sh(RICH, &at("source"));
    let source = described(&at("source"));
    assert!(source.len() >= 40, "{}", source.len());
    let keep = "--xattrs --xattrs-include=* --numeric-owner";
    for sparse in ["", "--sparse --sparse-version=1.0", "--sparse --sparse-version=0.0"] {
        sh(&format!("tar {keep} --format=posix {sparse} -cf layer.tar -C source ."), work.path());
        sh(
            &format!("rm -rf theirs; mkdir theirs; tar {keep} -p -xf layer.tar -C theirs"),
            work.path(),
        );
        let tar = std::fs::read(at("layer.tar")).expect("read");
        let rig = Rig::new();
        report(&rig.layer(&tar));
        let ours = described(&rig.root);
        assert_eq!(differences(&source, &ours), Vec::<String>::new(), "source, {sparse:?}");
        assert_eq!(differences(&described(&at("theirs")), &ours), Vec::<String>::new(), "GNU tar");
        if !sparse.is_empty() {
            for name in ["deep/sparse", "deep/hole", "deep/odd"] {
                let blocks = |root: &Path| meta(root, name).blocks();
                assert!(blocks(&rig.root) <= blocks(&at("source")), "{name} takes more space");
            }
        }
    }
    if Command::new("umoci").arg("--version").output().is_err() {
        println!("umoci is not installed: not compared");
        return;
    }
    // Its reader knows no sparse files of version 0.0.
    sh(&format!("tar {keep} --format=posix -cf layer.tar -C source ."), work.path());
    sh(
        "umoci init --layout image && umoci new --image image:t &&
         umoci raw add-layer --image image:t layer.tar && umoci unpack --image image:t bundle",
        work.path(),
    );
    let theirs = described(&at("bundle/rootfs"));
    let rig = Rig::new();
    report(&rig.layer(&std::fs::read(at("layer.tar")).expect("read")));
    assert_eq!(differences(&theirs, &described(&rig.root)), Vec::<String>::new(), "umoci");
}

/// What is packed is what was unpacked, whoever reads it.
#[test]
fn gnu_tar_reads_what_is_exported() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let capability = [1u8, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let long = "l".repeat(150);
    let tar = Tar::new()
        .pax(&[("SCHILY.xattr.security.capability", &capability[..])])
        .head(&Head { path: b"capable", mode: 0o755, uid: 7, size: 1, ..Head::default() })
        .data(b"x")
        .pax(&[("path", [&long[..], &long].join("/").as_bytes()), ("SCHILY.xattr.user.k", b"v")])
        .file("x", "long")
        .dir("d/")
        .device("d/null", b'3', (1, 3), 0o640)
        .hardlink("second", "capable")
        .symlink("l", "/nowhere")
        .end();
    report(&rig.layer(&tar));
    // Whole seconds are what an exported header has.
    let script = format!("find {} -exec touch -h -d @1700000000 {{}} +", rig.root_text());
    assert!(Command::new("sh").args(["-c", &script]).status().expect("sh").success());
    let out = unpack(&["export", "--root", rig.root_text()], b"");
    assert!(out.status.success());
    let theirs = tempfile::tempdir().expect("temporary directory");
    std::fs::write(theirs.path().join("layer.tar"), &out.stdout).expect("write");
    let script =
        "mkdir tree && tar --xattrs --xattrs-include=* --numeric-owner -p -xf layer.tar -C tree
                  chmod 755 tree; touch -d @1700000000 tree";
    let done = Command::new("sh").args(["-c", script]).current_dir(theirs.path()).status();
    assert!(done.expect("sh").success());
    let theirs = described(&theirs.path().join("tree"));
    assert_eq!(differences(&described(&rig.root), &theirs), Vec::<String>::new());
}

#[test]
fn what_goes_out_comes_back_in() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let tar = Tar::new()
        .dir("a/")
        .head(&Head { path: b"a/f", mode: 0o4711, uid: 3, size: 3, ..Head::default() })
        .data(b"abc")
        .hardlink("a/g", "a/f")
        .symlink("a/l", "f")
        .device("a/p", b'6', (0, 0), 0o600)
        .end();
    report(&rig.layer(&tar));
    let out = unpack(&["export", "--root", rig.root_text()], b"");
    assert!(out.status.success());
    let copy = Rig::new();
    report(&copy.layer(&out.stdout));
    let again = unpack(&["export", "--root", copy.root_text()], b"");
    assert!(again.stdout == out.stdout, "not the same bytes");

    // A socket is left out; the rest goes.
    let _socket = std::os::unix::net::UnixListener::bind(rig.root.join("a/s")).expect("bind");
    let got = unpack(&["get", "--root", rig.root_text(), "--path", "/a"], b"");
    let mut archive = tar::Archive::new(&got.stdout[..]);
    let mut names = Vec::new();
    for entry in archive.entries().expect("entries") {
        let mut entry = entry.expect("entry");
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("read");
        names.push(format!("{} {text}", entry.path().expect("path").display()));
    }
    assert_eq!(names, ["a/ ", "a/f abc", "a/g ", "a/l ", "a/p "]);
}

/// SEC-22, SEC-23: seen from outside, the process opens nothing but its root and runs nothing.
#[test]
fn strace_sees_no_library_no_program_and_no_socket() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let bin = Tar::new()
        .dir("lib/")
        .file("lib/libnss_files.so.2", "\x7fELF")
        .file("etc/nsswitch.conf", "passwd: files")
        .file("etc/passwd", "root:x:0:0::/:/bin/sh")
        .head(&Head { path: b"usr/bin/xz", mode: 0o755, ..Head::default() })
        .end();
    report(&rig.layer(&bin));
    let input = rig.dir.path().join("input");
    std::fs::write(&input, Tar::new().file("f", "x").end()).expect("write");
    let trace = rig.dir.path().join("trace");
    let status = Command::new("strace")
        .args([
            "-f",
            "-e",
            "trace=execve,execveat,openat,open,openat2,socket,clone,clone3,fork",
            "-o",
        ])
        .arg(&trace)
        .arg(env!("CARGO_BIN_EXE_pouch-unpack"))
        .args(["put", "--root", rig.root_text(), "--path", "/"])
        .stdin(std::fs::File::open(&input).expect("open"))
        .stdout(std::process::Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() => {}
        other => {
            println!("strace does not work here ({other:?}): skipped");
            return;
        }
    }
    let trace = std::fs::read_to_string(trace).expect("trace");
    assert!(trace.contains("openat2("), "{trace}");
    assert_eq!(trace.matches("execve").count(), 1, "{trace}");
    for word in ["libnss", ".so", "passwd", "socket(", "clone", "fork("] {
        assert!(!trace.contains(word), "{word}: {trace}");
    }
}

/// SEC-20: `cp` in and out while a directory is swapped for a link to the outside.
#[test]
fn a_swapped_directory_never_leads_out() {
    use std::sync::atomic::{AtomicBool, Ordering};
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let canary = rig.canary();
    std::fs::create_dir(rig.root.join("d")).expect("mkdir");
    std::fs::write(rig.root.join("d/secret"), "inside").expect("write");
    std::os::unix::fs::symlink(&canary, rig.root.join("evil")).expect("symlink");
    let before = common::census(&canary);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (d, evil) = (rig.root.join("d"), rig.root.join("evil"));
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(rustix::fs::CWD, &d, rustix::fs::CWD, &evil, flags)
                    .expect("swap");
            }
        });
        let planted = Tar::new().dir("sub/").file("sub/planted", "x").file("planted", "x").end();
        for _ in 0..150 {
            unpack(&["put", "--root", rig.root_text(), "--path", "/d"], &planted);
            unpack(
                &["put", "--root", rig.root_text(), "--path", "/"],
                &Tar::new().file("d/deep", "x").end(),
            );
            let out = unpack(&["get", "--root", rig.root_text(), "--path", "/d/secret"], b"");
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(out.stdout.is_empty() || text.contains("inside"), "{text}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(common::census(&canary), before);
}
