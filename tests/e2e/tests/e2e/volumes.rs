//! Volumes, binds and tmpfs mounts.

use pouch_testkit::daemon;

#[test]
fn a_named_volume_keeps_data_between_containers() {
    daemon(|d| {
        assert_eq!(d.docker(&["volume", "create", "--label", "k=v", "data"]).ok(), "data");
        let write = ["run", "--rm", "-v", "data:/v", "busybox", "sh", "-c", "echo kept > /v/f"];
        d.docker(&write).check();
        let read = ["run", "--rm", "-v", "data:/v:ro", "busybox", "cat", "/v/f"];
        assert_eq!(d.docker(&read).ok(), "kept");
        let refused = ["run", "--rm", "-v", "data:/v:ro", "busybox", "touch", "/v/g"];
        d.docker(&refused).exits(1).fails_with("read-only");
        let volume = d.get("/volumes/data").is(200).json();
        assert_eq!((&volume["Driver"], &volume["Labels"]["k"]), (&"local".into(), &"v".into()));
        let mount = volume["Mountpoint"].as_str().unwrap();
        assert_eq!(std::fs::read_to_string(format!("{mount}/f")).unwrap(), "kept\n");
        d.docker(&["create", "--name", "box", "-v", "data:/v", "busybox"]).check();
        d.docker(&["volume", "rm", "data"]).fails_with("in use");
        d.docker(&["rm", "-v", "box"]).check();
        // -v takes anonymous volumes only.
        assert_eq!(d.docker(&["volume", "ls", "-q"]).ok(), "data");
        assert_eq!(d.docker(&["volume", "rm", "data"]).ok(), "data");
        d.docker(&["volume", "inspect", "data"]).fails_with("no such volume");
    });
}

#[test]
fn a_new_volume_begins_with_what_the_image_has_there() {
    daemon(|d| {
        let mut archive = pouch_testkit::Archive::busybox();
        archive.dir("data", 0o750).file("data/seed", 0o640, b"seed\n").link("data/l", "seed");
        d.import("seeded", &archive.finish(), &["VOLUME /data"]);
        let words = ["run", "--rm", "-v", "vol:/data", "seeded", "sh", "-c"];
        let look = d.docker(&[&words[..], &["cat /data/l; stat -c %a /data /data/seed"]].concat());
        assert_eq!(look.ok(), "seed\n750\n640");
        let empty = ["run", "--rm", "--mount", "type=volume,src=vol2,dst=/data,volume-nocopy"];
        let look = d.docker(&[&empty[..], &["seeded", "ls", "-A", "/data"]].concat());
        assert_eq!(look.ok(), "");
        // The image's own volume is an anonymous one, and goes with --rm.
        d.docker(&["run", "--rm", "seeded", "cat", "/data/seed"]).check();
        let names = d.docker(&["volume", "ls", "-q"]);
        assert_eq!(names.ok().lines().collect::<Vec<_>>(), ["vol", "vol2"]);
    });
}

#[test]
fn anonymous_volumes_go_with_their_container_when_asked() {
    daemon(|d| {
        d.docker(&["create", "--name", "box", "-v", "/v", "busybox"]).check();
        let name = d.inspect("box")["Mounts"][0]["Name"].as_str().unwrap().to_owned();
        assert_eq!(name.len(), 64);
        d.docker(&["rm", "box"]).check();
        assert_eq!(d.docker(&["volume", "ls", "-q"]).ok(), name);
        d.docker(&["create", "--name", "box", "--volumes-from", "nobody", "busybox"])
            .fails_with("nobody");
        d.docker(&["create", "--name", "box", "-v", "/v", "busybox"]).check();
        d.docker(&["rm", "-v", "box"]).check();
        assert_eq!(d.docker(&["volume", "ls", "-q"]).ok(), name);
        assert!(d.docker(&["volume", "prune", "-f"]).ok().contains(&name));
    });
}

#[test]
fn volumes_from_takes_over_mounts() {
    daemon(|d| {
        let words = ["run", "--name", "first", "-v", "/v", "-v", "named:/n", "busybox"];
        d.docker(&[&words[..], &["sh", "-c", "echo 1 > /v/f; echo 2 > /n/f"]].concat()).check();
        let read = ["run", "--rm", "--volumes-from", "first", "busybox", "cat", "/v/f", "/n/f"];
        assert_eq!(d.docker(&read).ok(), "1\n2");
        let words = ["run", "--rm", "--volumes-from", "first:ro", "busybox", "touch", "/v/g"];
        d.docker(&words).exits(1);
    });
}

#[test]
fn binds_show_the_host_s_directory_as_wanted() {
    daemon(|d| {
        let dir = d.path("bind");
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        std::fs::write(dir.join("f"), "host\n").unwrap();
        let at = dir.to_str().unwrap();
        let run = |volume: &str, script: &str| {
            d.docker(&["run", "--rm", "-v", volume, "busybox", "sh", "-c", script])
        };
        assert_eq!(run(&format!("{at}:/b"), "cat /b/f; echo new > /b/g").ok(), "host");
        assert_eq!(std::fs::read_to_string(dir.join("g")).unwrap(), "new\n");
        run(&format!("{at}:/b:ro"), "touch /b/h").exits(1).fails_with("read-only");
        // A single file, and a place that the image does not have.
        assert_eq!(run(&format!("{at}/f:/deep/er/file"), "cat /deep/er/file").ok(), "host");
        // -v makes what is missing, --mount does not.
        run(&format!("{at}/made:/b"), "ls -A /b").check();
        assert!(dir.join("made").is_dir());
        let missing = format!("type=bind,src={at}/missing,dst=/b");
        d.docker(&["run", "--mount", &missing, "busybox"]).exits(125).fails_with("missing");
        assert!(!dir.join("missing").exists());
        d.docker(&["run", "-v", "relative/path:/b", "busybox"]).exits(125);
        d.docker(&["run", "-v", &format!("{at}:relative"), "busybox"]).exits(125);
        d.docker(&["run", "-v", &format!("{at}:/b:odd"), "busybox"]).exits(125).fails_with("odd");
        let twice = ["run", "-v", &format!("{at}:/b"), "-v", &format!("{at}/sub:/b"), "busybox"];
        d.docker(&twice).exits(125).fails_with("duplicate mount point");
    });
}

#[test]
fn a_bind_is_recursive_and_so_is_its_being_read_only() {
    daemon(|d| {
        let dir = d.path("bind");
        let inner = dir.join("inner");
        std::fs::create_dir_all(&inner).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", &inner, "tmpfs", flags, None).unwrap();
        std::fs::write(inner.join("f"), "inner\n").unwrap();
        let at = dir.to_str().unwrap();
        let result = std::panic::catch_unwind(|| {
            let words = ["run", "--rm", "-v", &format!("{at}:/b:ro"), "busybox", "sh", "-c"];
            let run = d.docker(&[&words[..], &["cat /b/inner/f; touch /b/inner/g"]].concat());
            run.fails_with("read-only");
            assert_eq!(run.stdout, "inner\n");
            // A running container does not keep the host's mount busy.
            let words = ["run", "-d", "-v", &format!("{at}:/b:rslave"), "busybox", "sleep", "60"];
            d.docker(&words).check();
        });
        rustix::mount::unmount(&inner, rustix::mount::UnmountFlags::empty()).unwrap();
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn tmpfs_mounts_have_size_and_mode() {
    daemon(|d| {
        let words = ["run", "--rm", "--mount", "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=0700"];
        let script = "stat -c %a /t; df -k /t | tail -1 | awk '{print $1, $2}'";
        let run = d.docker(&[&words[..], &["busybox", "sh", "-c", script]].concat());
        assert_eq!(run.ok(), "700\ntmpfs 1024");
    });
}

#[test]
fn lists_are_filtered_and_prune_obeys() {
    daemon(|d| {
        d.docker(&["volume", "create", "--label", "keep=1", "kept"]).check();
        d.docker(&["volume", "create", "used"]).check();
        d.docker(&["volume", "create", "lost"]).check();
        d.docker(&["create", "--name", "box", "-v", "used:/v", "busybox"]).check();
        let names = |filter: &str| {
            let run = d.docker(&["volume", "ls", "-q", "-f", filter]);
            run.ok().replace('\n', " ")
        };
        assert_eq!(names("dangling=true"), "kept lost");
        assert_eq!(names("dangling=false"), "used");
        assert_eq!(names("label=keep"), "kept");
        assert_eq!(names("name=lo"), "lost");
        d.docker(&["volume", "ls", "-f", "odd=1"]).fails_with("invalid filter");
        d.docker(&["volume", "prune", "-a", "-f", "--filter", "label!=keep"]).check();
        let left = d.docker(&["volume", "ls", "-q"]);
        assert_eq!(left.ok().lines().collect::<Vec<_>>(), ["kept", "used"]);
    });
}

#[test]
fn local_volumes_take_mount_options() {
    daemon(|d| {
        let words =
            ["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m"];
        d.docker(&[&words[..], &["small"]].concat()).check();
        let script = "df -k /v | tail -1 | awk '{print $1, $2}'";
        let run = d.docker(&["run", "--rm", "-v", "small:/v", "busybox", "sh", "-c", script]);
        assert_eq!(run.ok(), "tmpfs 1024");
        d.docker(&["volume", "create", "-o", "odd=1", "vol"]).fails_with("odd");
    });
}
