//! Images: load, save, import, tag, remove, list, inspect, pull, push, commit, login.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pouch_testkit::{
    Archive, Connection, Daemon, Registry, busybox, daemon, docker_archive, eventually, have,
};
use serde_json::json;

#[test]
fn load_and_save_round_trip() {
    daemon(|d| {
        let config = json!({"Cmd": ["echo", "loaded"], "Env": ["A=b"], "Labels": {"k": "v"}});
        let archive = docker_archive("example.org/team/app:1.0", busybox(), &config);
        let load = d.docker_with(&["load"], &archive);
        assert!(load.ok().contains("Loaded image: example.org/team/app:1.0"), "{}", load.ok());
        assert_eq!(d.docker(&["run", "--rm", "example.org/team/app:1.0"]).ok(), "loaded");
        let id = d.docker(&["images", "-q", "--no-trunc", "example.org/team/app"]).ok().to_owned();
        let file = d.path("saved.tar");
        d.docker(&["save", "-o", file.to_str().unwrap(), "example.org/team/app:1.0"]).check();
        d.docker(&["rmi", "example.org/team/app:1.0"]).check();
        d.docker(&["load", "-i", file.to_str().unwrap()]).check();
        let again =
            d.docker(&["images", "-q", "--no-trunc", "example.org/team/app"]).ok().to_owned();
        assert_eq!(again, id);
        assert_eq!(d.docker(&["run", "--rm", "example.org/team/app:1.0"]).ok(), "loaded");
        d.docker_with(&["load"], b"not an archive at all").exits(1);
    });
}

#[test]
fn import_takes_changes_and_compressed_archives() {
    daemon(|d| {
        let changes = ["CMD echo shell form", "LABEL a=b", "EXPOSE 80/tcp", "USER alice"];
        d.import("imported:tag", busybox(), &changes);
        let image = d.get("/images/imported:tag/json").is(200).json();
        assert_eq!(image["Config"]["Cmd"], json!(["/bin/sh", "-c", "echo shell form"]));
        assert_eq!(image["Config"]["Labels"]["a"], "b");
        assert_eq!(image["Config"]["User"], "alice");
        assert!(image["Config"]["ExposedPorts"]["80/tcp"].is_object());
        assert_eq!(d.docker(&["run", "--rm", "imported:tag"]).ok(), "shell form");
        let plain = d.path("plain.tar");
        std::fs::write(&plain, busybox()).unwrap();
        for tool in ["gzip", "zstd"] {
            if have(tool) {
                let packed =
                    std::process::Command::new(tool).arg("-c").arg(&plain).output().unwrap();
                d.import(tool, &packed.stdout, &[]);
                assert_eq!(d.docker(&["run", "--rm", tool, "echo", "fine"]).ok(), "fine");
            }
        }
        d.docker_with(&["import", "--change", "NOSUCH x", "-", "bad"], busybox())
            .fails_with("nosuch");
    });
}

#[test]
fn names_are_given_listed_and_taken() {
    daemon(|d| {
        d.docker(&["tag", "busybox", "example.org/a:1"]).check();
        d.docker(&["tag", "busybox", "b"]).check();
        let list = d.docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
        let mut names: Vec<&str> = list.ok().lines().collect();
        names.sort_unstable();
        assert_eq!(names, ["b:latest", "busybox:latest", "example.org/a:1"]);
        assert_eq!(
            d.docker(&["images", "-q", "b"]).ok(),
            d.docker(&["images", "-q", "busybox"]).ok()
        );
        assert_eq!(d.docker(&["images", "-q", "-f", "reference=*/a"]).ok().lines().count(), 1);
        let gone = d.docker(&["rmi", "b"]);
        assert_eq!(gone.ok(), "Untagged: b:latest");
        d.docker(&["rmi", "b"]).fails_with("no such image");
        for bad in ["UPPER", "a//b", "a:", "-x", "a:b:c"] {
            d.docker(&["tag", "busybox", bad]).exits(1);
        }
        d.docker(&["tag", "nothing", "box"]).fails_with("no such image");
        d.docker(&["rmi", "example.org/a:1"]).check();
    });
}

#[test]
fn an_image_in_use_stays_and_one_without_a_name_is_pruned() {
    daemon(|d| {
        let config = json!({"Cmd": ["sleep", "600"]});
        let mut archive = Archive::busybox();
        archive.file("extra", 0o644, b"1");
        d.docker_with(&["load"], &docker_archive("app:1", &archive.finish(), &config)).check();
        d.docker(&["run", "-d", "--name", "box", "app:1"]).check();
        d.docker(&["rmi", "app:1"]).fails_with("is using");
        // By force the name goes; a running container's image stays.
        let id = d.docker(&["images", "-q", "--no-trunc", "app"]).ok().to_owned();
        d.docker(&["rmi", "-f", &id]).fails_with("running container");
        d.docker(&["rm", "-f", "box"]).check();
        let mut archive = Archive::busybox();
        archive.file("extra", 0o644, b"2");
        d.docker_with(&["load"], &docker_archive("app:1", &archive.finish(), &config)).check();
        // The name moved; the first image has none left.
        assert_eq!(d.docker(&["images", "-q", "-f", "dangling=true"]).ok().lines().count(), 1);
        let prune = d.docker(&["image", "prune", "-f"]);
        assert!(prune.ok().contains(&format!("deleted: {id}")), "{}", prune.ok());
        assert_eq!(d.docker(&["images", "-q", "-f", "dangling=true"]).ok(), "");
    });
}

#[test]
fn a_name_that_moves_away_leaves_its_containers_working() {
    daemon(|d| {
        d.docker(&["create", "--name", "box", "busybox", "echo", "still here"]).check();
        let mut archive = Archive::busybox();
        archive.file("extra", 0o644, b"3");
        d.import("other", &archive.finish(), &[]);
        let old = d.inspect("box")["Image"].as_str().unwrap().to_owned();
        d.docker(&["tag", "busybox", "kept"]).check();
        d.docker(&["tag", "other", "busybox"]).check();
        assert_eq!(d.docker(&["start", "-a", "box"]).ok(), "still here");
        assert_eq!(d.inspect("box")["Image"], old.as_str());
        d.docker(&["tag", "kept", "busybox"]).check();
    });
}

#[test]
fn pull_by_tag_and_digest_from_a_registry() {
    daemon(|d| {
        let Some(registry) = Registry::start(d) else { return };
        let config = json!({"Cmd": ["echo", "pulled"]});
        registry.push(d, &docker_archive("x:1", busybox(), &config), "team/app:1");
        let name = format!("{}/team/app", Registry::HOST);
        let pull = d.docker(&["pull", &format!("{name}:1")]);
        let text = pull.ok().to_owned();
        assert!(text.contains("Status: Downloaded newer image"), "{text}");
        let digest = text.lines().find_map(|l| l.strip_prefix("Digest: ")).unwrap().to_owned();
        assert_eq!(d.docker(&["run", "--rm", &format!("{name}:1")]).ok(), "pulled");
        let again = d.docker(&["pull", &format!("{name}:1")]);
        assert!(again.ok().contains("Image is up to date"), "{}", again.ok());
        let image = d.get(&format!("/images/{name}:1/json")).is(200).json();
        assert_eq!(image["RepoDigests"], json!([format!("{name}@{digest}")]));
        d.docker(&["rmi", &format!("{name}:1")]).check();
        let by_digest = format!("{name}@{digest}");
        assert_eq!(d.docker(&["run", "--rm", &by_digest]).ok(), "pulled");
        d.docker(&["rmi", &by_digest]).check();
        // run pulls what is missing.
        let run = d.docker(&["run", "--rm", &format!("{name}:1")]);
        assert_eq!(run.ok(), "pulled");
        d.docker(&["pull", &format!("{name}:none")]).fails_with("not found");
        let wrong = format!("{name}@sha256:{}", "0".repeat(64));
        d.docker(&["pull", &wrong]).fails_with("not found");
        d.docker(&["pull", "127.0.0.1:1/none"]).fails_with("connection refused");
    });
}

#[test]
fn progress_is_a_stream_of_objects_and_errors_come_within() {
    daemon(|d| {
        let Some(registry) = Registry::start(d) else { return };
        registry.push(d, &docker_archive("x:1", busybox(), &json!({})), "app:1");
        let path = format!("/images/create?fromImage={}/app&tag=1", Registry::HOST);
        let answer = Connection::send(&d.socket(), "POST", &path, "text/plain", b"").answer();
        answer.is(200);
        let text = answer.text();
        assert!(text.lines().count() >= 4, "{text}");
        for line in text.lines() {
            let message: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(message["status"].is_string(), "{line}");
        }
    });
}

#[test]
fn hostile_images_are_refused_or_contained() {
    daemon(|d| {
        let canary = d.path("canary");
        std::fs::create_dir(&canary).unwrap();
        let outside = canary.to_str().unwrap();
        let mut archive = Archive::busybox();
        archive.link("out", outside).file("out/made", 0o644, b"x");
        let _ = d.docker_with(&["load"], &docker_archive("evil:1", &archive.finish(), &json!({})));
        let mut archive = Archive::busybox();
        archive.file(&format!("{}{}/made", "../".repeat(20), &outside[1..]), 0o644, b"x");
        let _ = d.docker_with(&["load"], &docker_archive("evil:2", &archive.finish(), &json!({})));
        assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 0);
        // A layer that is not what its digest says.
        let mut archive = Archive::busybox();
        archive.file("etc/motd", 0o644, b"honest words");
        let mut lie = docker_archive("evil:3", &archive.finish(), &json!({}));
        let at = lie.windows(6).position(|w| w == b"honest").unwrap();
        lie[at] = b'H';
        d.docker_with(&["load"], &lie).exits(1);
        // A volume that would lie over the host's files.
        let odd = json!({"Volumes": {"/../../etc": {}, "/proc": {}}, "Cmd": ["true"]});
        let _ = d.docker_with(&["load"], &docker_archive("evil:4", busybox(), &odd));
        let _ = d.docker(&["run", "--rm", "evil:4"]);
        // Labels of ours and of others that steer engines do not come from images.
        let labels = json!({"Labels": {"dev.pouch.x": "1", "plain": "2"}, "Cmd": ["true"]});
        d.docker_with(&["load"], &docker_archive("evil:5", busybox(), &labels)).check();
        d.docker(&["create", "--name", "box", "evil:5"]).check();
        let labels = d.inspect("box")["Config"]["Labels"].clone();
        assert_eq!(labels, json!({"plain": "2"}));
    });
}

#[test]
fn what_is_missing_is_404_so_that_clients_pull() {
    daemon(|d| {
        let body = json!({"Image": "nothing:here", "Cmd": ["true"]});
        let answer = d.post("/containers/create", &body);
        assert_eq!(answer.is(404).message(), "No such image: nothing:here");
        d.get("/images/nothing/json").is(404);
        let run = d.docker(&["run", "--pull", "never", "nothing"]);
        run.exits(125).fails_with("no such image");
    });
}

#[test]
fn a_commit_is_pushed_and_pulled_again() {
    daemon(|d| {
        let Some(_registry) = Registry::start(d) else { return };
        let make = "mkdir /made; echo kept > /made/file; rm /bin/wc; echo scratch > /v/volume";
        d.docker(&["run", "--name", "box", "-v", "/v", "-e", "A=b", "busybox", "sh", "-c", make])
            .check();
        let name = format!("{}/team/made:1", Registry::HOST);
        let changes = ["-c", "CMD cat /made/file", "-c", "LABEL how=committed"];
        let words = [&["commit", "-m", "words", "-a", "me"][..], &changes, &["box", &name]];
        let commit = d.docker(&words.concat());
        let id = commit.ok().to_owned();
        let image = d.get(&format!("/images/{name}/json")).is(200).json();
        assert_eq!(image["Id"], id.as_str());
        assert_eq!((&image["Author"], &image["Comment"]), (&json!("me"), &json!("words")));
        assert_eq!(image["Config"]["Labels"]["how"], "committed");
        let env = image["Config"]["Env"].as_array().unwrap();
        assert!(env.contains(&json!("A=b")), "{env:?}");
        assert_eq!(d.docker(&["run", "--rm", &name]).ok(), "kept");
        let ls = "ls /bin/wc /v/volume; ls /made";
        let seen = d.docker(&["run", "--rm", &name, "sh", "-c", ls]);
        assert_eq!(seen.ok(), "file", "what was removed stays so, and volumes are no part of it");
        let history =
            d.docker(&["history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Comment}}", &name]);
        let newest = history.ok().lines().next().unwrap().to_owned();
        assert!(newest.contains("mkdir /made") && newest.ends_with("|words"), "{newest}");
        assert!(history.ok().lines().count() >= 2, "{}", history.ok());

        let push = d.docker(&["push", &name]);
        let text = push.ok().to_owned();
        assert!(text.contains("The push refers to repository"), "{text}");
        assert!(text.contains("1: digest: sha256:"), "{text}");
        let again = d.docker(&["push", &name]);
        assert!(again.ok().contains("Layer already exists"), "{}", again.ok());
        let other = format!("{}/team/other:2", Registry::HOST);
        d.docker(&["tag", &name, &other]).check();
        let mounted = d.docker(&["push", &other]);
        assert!(mounted.ok().contains("Mounted from team/made"), "{}", mounted.ok());
        d.docker(&["push", &format!("{}/team/none", Registry::HOST)])
            .fails_with("does not exist locally");
        d.docker(&["rm", "-v", "box"]).check();
        d.docker(&["rmi", &name, &other]).check();
        d.docker(&["pull", &other]).check();
        assert_eq!(d.docker(&["run", "--rm", &other]).ok(), "kept");
        d.docker(&["rmi", &other]).check();
    });
}

#[test]
fn a_running_container_is_committed_and_goes_on() {
    daemon(|d| {
        let count = "i=0; while :; do i=$((i+1)); echo $i > /new; mv /new /count; done";
        d.docker(&["run", "-d", "--name", "box", "busybox", "sh", "-c", count]).check();
        eventually("it counts", || d.docker(&["exec", "box", "cat", "/count"]).code() == 0);
        d.docker(&["commit", "box", "counted"]).check();
        assert_eq!(d.state("box"), "running");
        let first = d.docker(&["run", "--rm", "counted", "cat", "/count"]).ok().to_owned();
        assert!(first.parse::<u64>().is_ok(), "{first:?}");
        d.docker(&["commit", "--pause=false", "box", "again"]).check();
        d.docker(&["pause", "box"]).check();
        d.docker(&["commit", "box", "paused"]).check();
        assert_eq!(d.state("box"), "paused", "who paused it unpauses it");
        // Its image may have lost its name.
        d.docker(&["rm", "-f", "box"]).check();
        d.docker(&["create", "--name", "orphan", "again", "true"]).check();
        d.docker(&["rmi", "-f", "again"]).check();
        d.docker(&["commit", "orphan", "of-orphan"]).check();
        d.docker(&["run", "--rm", "of-orphan", "test", "-s", "/count"]).check();
        d.docker(&["commit", "nobody"]).fails_with("no such container");
        d.docker(&["commit", "-c", "NOSUCH x", "orphan"]).fails_with("nosuch");
    });
}

/// A registry beside the daemon that wants a password.
struct Private {
    child: Child,
    _dir: tempfile::TempDir,
}

impl Private {
    const HOST: &str = "127.0.0.1:5001";
    /// alice, s3cret.
    const LINE: &str = "alice:$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK\n";

    fn start(d: &Daemon) -> Option<Self> {
        if !have("docker-registry") {
            return None;
        }
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let at = dir.path().display();
        std::fs::write(dir.path().join("users"), Self::LINE).unwrap();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem:\n    rootdirectory: \
             {at}/data\nauth:\n  htpasswd:\n    realm: test\n    path: {at}/users\nhttp:\n  \
             addr: {}\n",
            Self::HOST
        );
        std::fs::write(dir.path().join("config.yml"), config).unwrap();
        let mut command = d.netns().command("docker-registry");
        command.arg("serve").arg(dir.path().join("config.yml"));
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = quiet.spawn().unwrap();
        let private = Self { child, _dir: dir };
        eventually("the private registry listens", || {
            d.netns().enter(|| TcpStream::connect(Self::HOST).is_ok())
        });
        Some(private)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_private_registry_wants_a_login() {
    daemon(|d| {
        let Some(_private) = Private::start(d) else { return };
        let name = format!("{}/secret:1", Private::HOST);
        d.import(&name, busybox(), &[]);
        d.docker(&["push", &name]).fails_with("docker login");
        let login = |password: &str| {
            let words = ["login", "-u", "alice", "--password-stdin", Private::HOST];
            d.docker_with(&words, password.as_bytes())
        };
        login("wrong").fails_with("unauthorized");
        assert!(login("s3cret").ok().contains("Login Succeeded"));
        d.docker(&["push", &name]).check();
        d.docker(&["rmi", &name]).check();
        d.docker(&["pull", &name]).check();
        d.docker(&["logout", Private::HOST]).check();
        d.docker(&["rmi", &name]).check();
        let refused = d.docker(&["pull", &name]);
        refused.fails_with("docker login");
    });
}

/// A way to the registry that counts what comes back and can be held up.
struct Weir {
    passed: Arc<AtomicU64>,
    limit: Arc<AtomicU64>,
}

impl Weir {
    const HOST: &str = "127.0.0.1:5002";

    fn start(d: &Daemon) -> Self {
        let (passed, limit) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(u64::MAX)));
        let (count, most) = (Arc::clone(&passed), Arc::clone(&limit));
        // The threads stay in the namespace in which they are made.
        d.netns().enter(move || {
            let listener = TcpListener::bind(Self::HOST).unwrap();
            std::thread::spawn(move || {
                for client in listener.incoming() {
                    let (Ok(client), Ok(server)) = (client, TcpStream::connect(Registry::HOST))
                    else {
                        return;
                    };
                    let (count, most) = (Arc::clone(&count), Arc::clone(&most));
                    let (mut up, mut to) =
                        (client.try_clone().unwrap(), server.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut up, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                    std::thread::spawn(move || pass(server, client, &count, &most));
                }
            });
        });
        Self { passed, limit }
    }

    fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }
}

/// Passes bytes on as long as all together are below the limit.
fn pass(mut from: TcpStream, mut to: TcpStream, passed: &AtomicU64, limit: &AtomicU64) {
    let mut buffer = [0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        while passed.load(Ordering::SeqCst) + n as u64 > limit.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        passed.fetch_add(n as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
}

/// An image whose layer does not compress, in the registry as `name`.
fn push_noise(d: &Daemon, registry: &Registry, megabytes: usize, name: &str) -> Vec<u8> {
    let mut noise = vec![0; megabytes << 20];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
    let mut layer = Archive::new();
    layer.file("noise", 0o644, &noise);
    let config = json!({"Cmd": ["none"]});
    registry.push(d, &docker_archive("x:1", &layer.finish(), &config), name);
    noise
}

/// Whether the image of that name has the noise whole; removes it.
fn check_noise(d: &Daemon, name: &str, noise: &[u8]) {
    d.docker(&["create", "--name", "noisy", name]).check();
    let copy = d.path("noise");
    d.docker(&["cp", "noisy:/noise", copy.to_str().unwrap()]).check();
    assert!(std::fs::read(copy).unwrap() == noise);
    d.docker(&["rm", "noisy"]).check();
    d.docker(&["rmi", name]).check();
}

#[test]
fn a_pull_goes_on_where_a_killed_daemon_was() {
    daemon(|d| {
        let Some(registry) = Registry::start(d) else { return };
        let noise = push_noise(d, &registry, 48, "noise:1");
        let size = noise.len() as u64;
        let weir = Weir::start(d);
        let name = format!("{}/noise:1", Weir::HOST);
        weir.limit.store(size / 10 * 9, Ordering::SeqCst);
        let mut pull = d.docker_live(&["pull", &name]);
        eventually("nine tenths are there", || weir.passed() + (64 << 10) > size / 10 * 9);
        // What is on its way through sockets arrives.
        std::thread::sleep(Duration::from_millis(500));
        d.kill9();
        pull.kill();
        let before = weir.passed();
        weir.limit.store(u64::MAX, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(200));
        weir.passed.store(0, Ordering::SeqCst);
        d.start_again();
        d.docker(&["pull", &name]).check();
        let all = before + weir.passed();
        assert!(all <= size / 100 * 105, "{all} bytes for {size}, {} after", weir.passed());
        check_noise(d, &name, &noise);
    });
}

#[test]
fn many_clients_fetch_once_and_leave_as_they_like() {
    daemon(|d| {
        let Some(registry) = Registry::start(d) else { return };
        let noise = push_noise(d, &registry, 16, "noise:1");
        let size = noise.len() as u64;
        let weir = Weir::start(d);
        weir.limit.store(size / 2, Ordering::SeqCst);
        let name = format!("{}/noise", Weir::HOST);
        let path = format!("/images/create?fromImage={name}&tag=1");
        let socket = d.socket();
        let ask = || Connection::send(&socket, "POST", &path, "text/plain", b"");
        let leavers: Vec<_> = (0..6).map(|_| ask()).collect();
        eventually("half is there", || weir.passed() + (64 << 10) > size / 2);
        let stayers: Vec<_> = (0..6).map(|_| ask()).collect();
        std::thread::sleep(Duration::from_millis(300));
        drop(leavers);
        std::thread::sleep(Duration::from_millis(300));
        weir.limit.store(u64::MAX, Ordering::SeqCst);
        for stayer in stayers {
            let text = stayer.answer().text();
            assert!(text.contains("Status: Downloaded newer image"), "{text}");
        }
        let all = weir.passed();
        assert!(all <= size / 100 * 105, "{all} bytes for {size}");
        check_noise(d, &format!("{name}:1"), &noise);
    });
}

#[test]
fn shared_layers_are_counted_once() {
    daemon(|d| {
        d.docker(&[
            "run",
            "--name",
            "box",
            "busybox",
            "dd",
            "if=/dev/zero",
            "of=/z",
            "bs=1M",
            "count=3",
        ])
        .check();
        d.docker(&["commit", "box", "child"]).check();
        d.docker(&["rm", "box"]).check();
        let usage = d.get("/system/df").is(200).json();
        let images = usage["Images"].as_array().unwrap();
        let of = |name: &str| {
            let image = images.iter().find(|i| i["RepoTags"][0] == format!("{name}:latest"));
            image.unwrap_or_else(|| panic!("{name} in {images:?}"))
        };
        let size = |name: &str, field: &str| of(name)[field].as_i64().unwrap();
        let base = size("busybox", "Size");
        assert_eq!(size("busybox", "SharedSize"), base);
        assert_eq!(size("child", "SharedSize"), base);
        assert!(size("child", "Size") - base >= 3 << 20);
        assert_eq!(usage["LayersSize"].as_i64().unwrap(), size("child", "Size"));
    });
}
