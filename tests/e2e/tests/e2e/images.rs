//! Images: load, save, import, tag, remove, list, inspect, pull.

use pouch_testkit::{Archive, Connection, Registry, busybox, daemon, docker_archive};
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
            if pouch_testkit::have(tool) {
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
