//! `docker cp`, with containers that mean no good, too.

use std::path::Path;

use pouch_testkit::{Archive, Daemon, daemon};

fn cp(d: &Daemon, from: &str, to: &str) -> pouch_testkit::Outcome {
    d.docker(&["cp", "-q", from, to])
}

#[test]
fn files_and_directories_go_both_ways() {
    daemon(|d| {
        d.docker(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]).check();
        let dir = d.path("host");
        std::fs::create_dir_all(dir.join("tree/sub")).unwrap();
        std::fs::write(dir.join("tree/sub/f"), "content\n").unwrap();
        std::os::unix::fs::symlink("sub/f", dir.join("tree/link")).unwrap();
        let at = dir.to_str().unwrap();
        cp(d, &format!("{at}/tree"), "box:/tmp").check();
        let look = "cat /tmp/tree/link; readlink /tmp/tree/link";
        assert_eq!(d.docker(&["exec", "box", "sh", "-c", look]).ok(), "content\nsub/f");
        cp(d, &format!("{at}/tree/sub/f"), "box:/tmp/renamed").check();
        assert_eq!(d.docker(&["exec", "box", "cat", "/tmp/renamed"]).ok(), "content");
        cp(d, &format!("{at}/tree/."), "box:/home").check();
        assert_eq!(d.docker(&["exec", "box", "cat", "/home/sub/f"]).ok(), "content");
        cp(d, "box:/tmp/tree", &format!("{at}/back")).check();
        assert_eq!(std::fs::read_to_string(dir.join("back/sub/f")).unwrap(), "content\n");
        assert_eq!(std::fs::read_link(dir.join("back/link")).unwrap(), Path::new("sub/f"));
        cp(d, "box:/etc/passwd", &format!("{at}/passwd")).check();
        assert!(std::fs::read_to_string(dir.join("passwd")).unwrap().starts_with("root:"));
        cp(d, "box:/no/such", at).fails_with("could not find");
        cp(d, &format!("{at}/passwd"), "box:/no/such/dir/").exits(1);
        cp(d, &format!("{at}/tree"), "box:/etc/passwd").exits(1);
    });
}

#[test]
fn it_works_on_containers_that_do_not_run_and_sees_volumes() {
    daemon(|d| {
        d.docker(&["create", "--name", "box", "-v", "vol:/v", "busybox", "cat", "/v/f", "/tmp/f"])
            .check();
        let file = d.path("f");
        std::fs::write(&file, "given\n").unwrap();
        cp(d, file.to_str().unwrap(), "box:/v/f").check();
        cp(d, file.to_str().unwrap(), "box:/tmp/f").check();
        assert_eq!(d.docker(&["start", "-a", "box"]).ok(), "given\ngiven");
        let volume = d.get("/volumes/vol").json();
        let mount = volume["Mountpoint"].as_str().unwrap();
        assert_eq!(std::fs::read_to_string(format!("{mount}/f")).unwrap(), "given\n");
        cp(d, "box:/v/f", d.path("back").to_str().unwrap()).check();
        assert_eq!(std::fs::read_to_string(d.path("back")).unwrap(), "given\n");
    });
}

#[test]
fn a_read_only_container_takes_no_files() {
    daemon(|d| {
        let words = ["create", "--name", "box", "--read-only", "-v", "vol:/v:ro", "--tmpfs", "/t"];
        d.docker(&[&words[..], &["busybox", "sleep", "60"]].concat()).check();
        let file = d.path("f");
        std::fs::write(&file, "x").unwrap();
        cp(d, file.to_str().unwrap(), "box:/tmp/f").fails_with("read-only");
        cp(d, file.to_str().unwrap(), "box:/v/f").fails_with("read-only");
    });
}

#[test]
fn archives_stream_through_standard_input_and_output() {
    daemon(|d| {
        d.docker(&["create", "--name", "box", "busybox", "cat", "/tmp/x"]).check();
        let mut archive = Archive::new();
        archive.file("x", 0o644, b"streamed\n");
        d.docker_with(&["cp", "-", "box:/tmp"], &archive.finish()).check();
        assert_eq!(d.docker(&["start", "-a", "box"]).ok(), "streamed");
        let out = d.docker(&["cp", "box:/tmp/x", "-"]);
        assert!(out.stdout.contains("streamed") && out.stdout.starts_with("x\0"), "no tar");
        d.docker_with(&["cp", "-", "box:/tmp"], b"this is no archive").exits(1);
    });
}

#[test]
fn links_out_of_the_root_lead_nowhere() {
    daemon(|d| {
        let canary = d.path("canary");
        std::fs::create_dir(&canary).unwrap();
        std::fs::write(canary.join("secret"), "secret\n").unwrap();
        let outside = canary.to_str().unwrap();
        let up = format!("{}{outside}", "../".repeat(20));
        let mut archive = Archive::busybox();
        archive
            .link("abs", outside)
            .link("up", &up)
            .link("proc1", "/proc/1/root")
            .link("loop", "loop");
        d.import("evil", &archive.finish(), &[]);
        d.docker(&["run", "-d", "--name", "box", "evil", "sleep", "600"]).check();
        let file = d.path("f");
        std::fs::write(&file, "intruder").unwrap();
        for link in ["abs", "up", "proc1"] {
            let out = d.path("out");
            let _ = cp(d, &format!("box:/{link}/secret"), out.to_str().unwrap());
            assert!(!out.exists(), "{link} leads to the host's file");
            let _ = cp(d, file.to_str().unwrap(), &format!("box:/{link}/"));
            let _ = cp(d, file.to_str().unwrap(), &format!("box:/{link}/secret"));
        }
        cp(d, "box:/loop/x", d.path("out").to_str().unwrap()).exits(1);
        let left: Vec<_> = std::fs::read_dir(&canary).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(std::fs::read_to_string(canary.join("secret")).unwrap(), "secret\n");
    });
}

#[test]
fn hostile_archives_stay_inside() {
    daemon(|d| {
        let canary = d.path("canary");
        std::fs::create_dir(&canary).unwrap();
        std::fs::write(canary.join("secret"), "secret\n").unwrap();
        let outside = canary.to_str().unwrap();
        let up = format!("{}{}", "../".repeat(20), &outside[1..]);
        d.docker(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]).check();
        let mut archives = Vec::new();
        let mut one = |fill: &dyn Fn(&mut Archive)| {
            let mut archive = Archive::new();
            fill(&mut archive);
            archives.push(archive.finish());
        };
        one(&|a| {
            a.file(&format!("{up}/made"), 0o644, b"x");
        });
        one(&|a| {
            a.file(&format!("{outside}/made"), 0o644, b"x");
        });
        one(&|a| {
            a.link("l", outside).file("l/made", 0o644, b"x");
        });
        one(&|a| {
            a.link("l", &format!("{outside}/secret")).file("l", 0o644, b"x");
        });
        one(&|a| {
            a.hard_link("h", &format!("{up}/secret")).file("h", 0o644, b"x");
        });
        one(&|a| {
            a.hard_link("h2", &format!("{outside}/secret")).file("h2", 0o644, b"x");
        });
        for archive in archives {
            // Refused or contained: both are fine.
            let _ = d.docker_with(&["cp", "-", "box:/tmp"], &archive);
        }
        let left: Vec<_> = std::fs::read_dir(&canary).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(std::fs::read_to_string(canary.join("secret")).unwrap(), "secret\n");
        assert_eq!(d.state("box"), "running");
    });
}

#[test]
fn a_container_that_swaps_its_directories_wins_nothing() {
    daemon(|d| {
        let canary = d.path("canary");
        std::fs::create_dir(&canary).unwrap();
        std::fs::write(canary.join("secret"), "secret\n").unwrap();
        let outside = canary.to_str().unwrap();
        // Without renameat2 in busybox: a directory and a link take turns under one name.
        let script = format!(
            "mkdir /real; echo mine > /real/secret; ln -s {outside} /lnk; \
             while :; do mv -T /real /d; mv -T /d /real; mv -T /lnk /d; mv -T /d /lnk; done"
        );
        d.docker(&["run", "-d", "--name", "box", "busybox", "sh", "-c", &script]).check();
        let mut archive = Archive::new();
        archive.file("made", 0o644, b"x");
        let archive = archive.finish();
        for _ in 0..100 {
            let got = d.get("/containers/box/archive?path=/d/secret");
            assert!(!got.text().contains("secret\n\0"), "the host's file was read");
            let kind = "application/x-tar";
            let path = "/containers/box/archive?path=/d";
            let put = pouch_testkit::Connection::send(&d.socket(), "PUT", path, kind, &archive);
            let _ = put.answer();
        }
        let left: Vec<_> = std::fs::read_dir(&canary).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        d.docker(&["kill", "box"]).check();
    });
}

#[test]
fn no_program_of_the_image_is_run_to_unpack() {
    daemon(|d| {
        let mut archive = Archive::busybox();
        for tool in ["gzip", "xz", "unpigz", "pigz", "zstd", "bzip2"] {
            // Beside busybox's own, and first in PATH.
            archive.dir("usr/local/bin", 0o755);
            archive.file(&format!("usr/local/bin/{tool}"), 0o755, b"#!/bin/sh\ntouch /trap\n");
        }
        d.import("traps", &archive.finish(), &[]);
        d.docker(&["run", "-d", "--name", "box", "traps", "sleep", "600"]).check();
        let mut tree = Archive::new();
        tree.file("fine", 0o644, b"fine\n");
        let plain = d.path("t.tar");
        std::fs::write(&plain, tree.finish()).unwrap();
        for tool in ["gzip", "xz", "zstd", "bzip2"] {
            if !pouch_testkit::have(tool) {
                continue;
            }
            let packed = std::process::Command::new(tool).arg("-c").arg(&plain).output().unwrap();
            d.docker_with(&["cp", "-", "box:/tmp"], &packed.stdout).check();
            let look = "cat /tmp/fine && rm /tmp/fine && ls /trap";
            let run = d.docker(&["exec", "box", "sh", "-c", look]);
            assert_eq!((run.stdout.as_str(), run.code()), ("fine\n", 1), "{tool}");
        }
    });
}

#[test]
fn owners_are_the_archive_s_or_on_request_the_container_s() {
    daemon(|d| {
        // Entries of this archive belong to root.
        let mut archive = Archive::new();
        archive.file("f", 0o644, b"x").dir("sub", 0o755);
        let archive = archive.finish();
        let owners = |d: &Daemon, name: &str, query: &str| {
            let path = format!("/containers/{name}/archive?path=/tmp{query}");
            d.request("PUT", &path, &archive).is(200);
            d.docker(&["exec", "-u", "0", name, "stat", "-c", "%u:%g", "/tmp/f", "/tmp/sub"])
                .ok()
                .replace('\n', " ")
        };
        d.docker(&["run", "-d", "--name", "named", "-u", "alice", "busybox", "sleep", "600"])
            .check();
        assert_eq!(owners(d, "named", ""), "0:0 0:0");
        assert_eq!(owners(d, "named", "&copyUIDGID=1"), "1000:1000 1000:1000");
        d.docker(&["run", "-d", "--name", "plain", "busybox", "sleep", "600"]).check();
        assert_eq!(owners(d, "plain", "&copyUIDGID=true"), "0:0 0:0");
        // Of a container that does not run, too; by number, without an account.
        d.docker(&["create", "--name", "cold", "-u", "77:88", "-v", "vol:/v", "busybox", "stat"])
            .check();
        d.request("PUT", "/containers/cold/archive?path=/v&copyUIDGID=1", &archive).is(200);
        let look = ["run", "--rm", "-v", "vol:/v", "busybox", "stat", "-c", "%u:%g", "/v/f"];
        assert_eq!(d.docker(&look).ok(), "77:88");
    });
}

#[test]
fn a_directory_and_a_file_replace_each_other_only_when_they_may() {
    daemon(|d| {
        let script = "mkdir -p /tmp/a/x; echo q > /tmp/b; sleep 600";
        d.docker(&["run", "-d", "--name", "box", "busybox", "sh", "-c", script]).check();
        pouch_testkit::eventually("the files are there", || {
            d.docker(&["exec", "box", "test", "-f", "/tmp/b"]).code() == 0
        });
        let (mut file, mut dir) = (Archive::new(), Archive::new());
        let (file, dir) = (file.file("a", 0o644, b"x"), dir.dir("b", 0o755));
        let (file, dir) = (std::mem::take(file).finish(), std::mem::take(dir).finish());
        let put = |archive: &[u8], query: &str| {
            d.request("PUT", &format!("/containers/box/archive?path=/tmp{query}"), archive)
        };
        let refused = put(&file, "&noOverwriteDirNonDir=1");
        assert!(refused.is(400).message().contains("cannot overwrite directory"));
        let refused = put(&dir, "&noOverwriteDirNonDir=true");
        assert!(refused.is(400).message().contains("cannot overwrite non-directory"));
        put(&file, "").is(200);
        put(&dir, "").is(200);
        let kinds = d.docker(&["exec", "box", "stat", "-c", "%F", "/tmp/a", "/tmp/b"]);
        assert_eq!(kinds.ok(), "regular file\ndirectory");
    });
}
