//! What users touch of image distribution: progress, all tags, platforms, commit, lists.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use pouch_testkit::{
    Archive, Connection, Daemon, Live, Outcome, Registry, busybox, daemon, docker_archive,
    eventually,
};
use serde_json::{Value, json};

/// A way to the registry that lets some 3 MB/s through.
const SLOW: &str = "127.0.0.1:5004";

fn slow_way(d: &Daemon) {
    d.netns().enter(|| {
        let listener = TcpListener::bind(SLOW).unwrap();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(Registry::HOST)) else {
                    return;
                };
                let (mut up, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut up, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
                std::thread::spawn(move || trickle(server, client));
            }
        });
    });
}

fn trickle(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 32 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
}

/// An image of one layer that does not compress, in the registry as `name`.
fn push_noise(d: &Daemon, registry: &Registry, megabytes: usize, name: &str) {
    let mut noise = vec![0; megabytes << 20];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
    let mut layer = Archive::new();
    layer.file("noise", 0o644, &noise);
    let config = json!({"Cmd": ["none"]});
    registry.push(d, &docker_archive("x:1", &layer.finish(), &config), name);
}

/// What a terminal shows of these bytes, as far as our bars use it.
fn screen(bytes: &str) -> Vec<String> {
    let (mut lines, mut row) = (vec![String::new()], 0);
    let mut rest = bytes.chars();
    // Where the next character goes; to the left of it a line keeps what it had.
    let mut column = 0;
    while let Some(c) = rest.next() {
        match c {
            '\x1b' => {
                assert_eq!(rest.next(), Some('['));
                let mut number = String::new();
                let verb = loop {
                    match rest.next().unwrap() {
                        digit if digit.is_ascii_digit() => number.push(digit),
                        verb => break verb,
                    }
                };
                match verb {
                    'A' => row -= number.parse::<usize>().unwrap(),
                    'K' => lines[row].truncate(column),
                    'J' => {
                        lines.truncate(row + 1);
                        lines[row].truncate(column);
                    }
                    other => panic!("unknown sequence {other}"),
                }
            }
            '\r' => column = 0,
            '\n' => {
                (row, column) = (row + 1, 0);
                if lines.len() == row {
                    lines.push(String::new());
                }
            }
            c => {
                lines[row].truncate(column);
                lines[row].push(c);
                column += 1;
            }
        }
    }
    lines.into_iter().map(|line| line.trim_end().to_owned()).filter(|l| !l.is_empty()).collect()
}

/// Every line that was ever painted.
fn painted(bytes: &str) -> Vec<String> {
    let strip = |line: &str| {
        let mut out = String::new();
        let mut inside = false;
        for c in line.chars() {
            match c {
                '\x1b' => inside = true,
                c if inside => inside = !c.is_ascii_alphabetic(),
                '\r' => {}
                c => out.push(c),
            }
        }
        out
    };
    bytes.split('\n').map(strip).collect()
}

#[test]
fn bars_show_sizes_speed_and_time_left() {
    daemon(|d| {
        let Some(registry) = Registry::start(d) else { return };
        slow_way(d);
        push_noise(d, &registry, 8, "noise:1");
        let name = format!("{SLOW}/noise:1");
        for columns in [100, 40] {
            let mut pull = Live::terminal(&d.pouch_command(&["pull", &name]));
            pull.resize(24, columns);
            pull.expect("Status: Downloaded newer image");
            assert_eq!(pull.wait(), 0);
            let output = pull.output();
            let bars: Vec<String> = painted(&output)
                .into_iter()
                .filter(|line| line.contains("Downloading") || line.starts_with("Total"))
                .collect();
            let widest = bars.iter().map(|line| line.chars().count()).max().unwrap();
            assert!(widest < usize::from(columns), "{bars:#?}");
            let moving = |part: &str| {
                let found = bars.iter().any(|line| line.contains(part));
                assert!(found, "{part} in {columns} columns: {bars:#?}");
            };
            moving("left");
            if columns > 80 {
                moving("/8.3");
                moving("MB/s");
                moving("=>");
                moving("Total: 0 of 1 layers");
            } else {
                moving("%");
            }
            let last = screen(&output);
            assert!(last[0].starts_with("1: Pulling from noise"), "{last:#?}");
            assert!(last[1].ends_with(": Pull complete"), "{last:#?}");
            assert!(last[2].starts_with("Total: 8.3") && last[2].contains("MB/s"), "{last:#?}");
            assert!(last[3].starts_with("Digest: sha256:"), "{last:#?}");
            assert_eq!(last[5], name, "{last:#?}");
            d.docker(&["rmi", &name]).check();
        }
    });
}

#[test]
fn without_a_terminal_progress_is_lines_or_json_or_nothing() {
    daemon(|d| {
        let Some(registry) = Registry::start(d) else { return };
        push_noise(d, &registry, 1, "noise:1");
        let name = format!("{}/noise:1", Registry::HOST);
        let gone = || d.docker(&["rmi", &name]).check().code();
        let plain = d.pouch(&["pull", &name]);
        gone();
        let lines: Vec<&str> = plain.ok().lines().collect();
        let has = |text: &str| lines.iter().filter(|line| line.ends_with(text)).count();
        assert_eq!(lines[0], "1: Pulling from noise");
        for once in ["Pulling fs layer", "Verifying Checksum", "Download complete", "Pull complete"]
        {
            assert_eq!(has(once), 1, "{once}: {lines:?}");
        }
        assert!(!plain.stdout.contains('\x1b'));
        // The same words as the stock CLI's.
        let docker = d.docker(&["pull", &name]);
        gone();
        let words = |run: &Outcome| run.ok().lines().map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(words(&plain), words(&docker));
        let text = d.pouch(&["pull", "--progress", "json", &name]);
        gone();
        let messages: Vec<Value> =
            text.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(messages.iter().any(|m| m["status"] == "Pull complete"), "{messages:?}");
        for words in [&["pull", "-q", &name][..], &["pull", "--progress", "quiet", &name]] {
            assert_eq!(d.pouch(words).ok(), name);
            gone();
        }
        d.docker(&["pull", &name]).check();
        assert!(d.pouch(&["pull", &name]).ok().contains("Image is up to date for"));
        let again = d.pouch(&["push", &name]);
        assert!(again.ok().contains("Layer already exists"), "{}", again.ok());
        assert_eq!(words(&again), words(&d.docker(&["push", &name])));
        assert_eq!(d.pouch(&["push", "-q", &name]).ok(), d.docker(&["push", "-q", &name]).ok());
        let archive = d.path("saved.tar");
        d.pouch(&["save", "-o", archive.to_str().unwrap(), &name]).check();
        gone();
        let load = ["load", "-i", archive.to_str().unwrap()];
        assert_eq!(d.pouch(&load).ok(), format!("Loaded image: {name}"));
        gone();
        let mut live = Live::terminal(&d.pouch_command(&load));
        live.expect("Loading layer");
        live.expect("Loaded image: ");
        assert_eq!(live.wait(), 0);
        for (missing, why) in [
            (format!("{}/noise:none", Registry::HOST), "manifest unknown"),
            (format!("{}/nothing:1", Registry::HOST), "not found"),
        ] {
            d.pouch(&["pull", &missing]).exits(1).fails_with(why);
            d.docker(&["pull", &missing]).exits(1).fails_with(why);
        }
    });
}

#[test]
fn a_resumed_layer_begins_where_it_was() {
    daemon(|d| {
        let Some(registry) = Registry::start(d) else { return };
        slow_way(d);
        push_noise(d, &registry, 12, "noise:1");
        let mut pull = Live::piped(d.pouch_command(&["pull", &format!("{SLOW}/noise:1")]));
        pull.expect("Pulling fs layer");
        std::thread::sleep(Duration::from_millis(2500));
        pull.kill();
        std::thread::sleep(Duration::from_millis(500));
        let path = format!("/images/create?fromImage={SLOW}/noise&tag=1");
        let answer = Connection::send(&d.socket(), "POST", &path, "text/plain", b"").answer();
        let first = answer
            .text()
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .find(|message| message["status"] == "Downloading")
            .unwrap();
        let detail = &first["progressDetail"];
        assert!(detail["current"].as_u64().unwrap() > 1 << 20, "{first}");
        assert!(detail["total"].as_u64().unwrap() > 12 << 20, "{first}");
        d.docker(&["rmi", &format!("{SLOW}/noise:1")]).check();
    });
}

#[test]
fn all_tags_come_and_go_at_once() {
    daemon(|d| {
        let Some(_registry) = Registry::start(d) else { return };
        let name = format!("{}/team/many", Registry::HOST);
        let tagged = |tag: &str| format!("{name}:{tag}");
        d.import(&tagged("other"), busybox(), &["LABEL other=1"]);
        for tag in ["1", "2.0-rc_1"] {
            d.import(&tagged(tag), busybox(), &[]);
        }
        let push = d.pouch(&["push", "-a", &name]);
        assert_eq!(push.ok().matches(": digest: sha256:").count(), 3, "{}", push.ok());
        let forget = || {
            for tag in ["1", "2.0-rc_1", "other"] {
                d.docker(&["rmi", &tagged(tag)]).check();
            }
        };
        let here = || {
            let list = d.docker(&["images", "--format", "{{.Tag}}", &name]);
            list.ok().lines().map(str::to_owned).collect::<BTreeSet<_>>().len()
        };
        for run in [
            d.docker(&["push", "-a", &name]),
            {
                forget();
                d.docker(&["pull", "-a", &name])
            },
            {
                assert_eq!(here(), 3);
                forget();
                d.pouch(&["pull", "--all-tags", &name])
            },
        ] {
            run.check();
        }
        assert_eq!(here(), 3);
        forget();
        d.post(&format!("/images/create?fromImage={name}"), &Value::Null).is(200);
        assert_eq!(here(), 3);
        for run in [d.docker(&["pull", "-a", &tagged("1")]), d.pouch(&["pull", "-a", &tagged("1")])]
        {
            run.exits(1).fails_with("tag can't be used with --all-tags/-a");
        }
        let none = format!("{}/none", Registry::HOST);
        d.pouch(&["pull", "-a", &none]).exits(1).fails_with("not found");
        d.docker(&["pull", "-a", &none]).exits(1).fails_with("not found");
        forget();
    });
}

#[test]
fn a_platform_is_right_or_wrong() {
    daemon(|d| {
        let Some(_registry) = Registry::start(d) else { return };
        let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let other = if arch == "amd64" { "linux/arm64/v8" } else { "linux/amd64" };
        let own = format!("linux/{arch}");
        let name = format!("{}/plat:1", Registry::HOST);
        d.import(&name, busybox(), &[]);
        let file = d.path("p.tar").display().to_string();
        for words in
            [&["push"][..], &["pull"], &["image", "inspect"], &["history"], &["save", "-o", &file]]
        {
            let with = |platform: &str| {
                let all = [words, &["--platform", platform, &name]].concat();
                [d.docker(&all), d.pouch(&all)]
            };
            for run in with(&own) {
                run.check();
            }
            if words == ["pull"] {
                continue;
            }
            for run in with(other) {
                run.exits(1).fails_with("does not match the specified platform");
            }
        }
        let load = |platform: &str| {
            let words = ["load", "--platform", platform, "-i", &file];
            [d.docker(&words), d.pouch(&words)]
        };
        for run in load(&own) {
            run.check();
        }
        for run in load(other) {
            run.exits(1).fails_with("does not match the specified platform");
        }
        d.pouch(&["rmi", "--platform", other, &name]).exits(1).fails_with("platform");
        d.docker(&["rmi", "--platform", other, &name]).exits(1).fails_with("platform");
        d.pouch(&["rmi", "--platform", &own, &name]).check();
        d.pouch(&["history", "--platform", "a/b/c/d", "busybox"]).fails_with("invalid platform");
        d.get("/images/busybox/json?platform=linux").is(400);
    });
}

#[test]
fn a_look_at_what_a_registry_has() {
    daemon(|d| {
        let Some(_registry) = Registry::start(d) else { return };
        let name = format!("{}/look:1", Registry::HOST);
        d.import(&name, busybox(), &[]);
        d.docker(&["push", &name]).check();
        let path = |name: &str| format!("/distribution/{name}/json");
        let found = d.get(&path(&name)).is(200).json();
        let digests = d.docker(&["inspect", "-f", "{{json .RepoDigests}}", &name]);
        let digest = found["Descriptor"]["digest"].as_str().unwrap();
        assert!(digests.ok().contains(digest), "{found} {}", digests.ok());
        assert!(found["Descriptor"]["size"].as_u64().unwrap() > 100);
        let kind = found["Descriptor"]["mediaType"].as_str().unwrap();
        assert!(kind.contains("manifest"), "{kind}");
        assert_eq!(found["Platforms"][0]["os"], "linux");
        let by_digest = format!("{}/look@{digest}", Registry::HOST);
        assert_eq!(d.get(&path(&by_digest)).is(200).json(), found);
        d.get(&path(&format!("{}/look:none", Registry::HOST))).is(404);
        d.get(&path("UPPER")).is(400);
        d.get("/distribution/x").is(404);
        d.docker(&["rmi", &name]).check();
    });
}

#[test]
fn a_commit_is_the_docker_cli_s() {
    daemon(|d| {
        d.docker(&["run", "--name", "box", "busybox", "sh", "-c", "echo kept > /file"]).check();
        let flags = ["-a", "me", "-m", "words", "-c", "CMD cat /file", "-c", "LABEL a=b"];
        let id = d.pouch(&[&["commit"][..], &flags, &["box", "made:1"]].concat());
        assert!(id.ok().starts_with("sha256:") && id.ok().len() == 71, "{}", id.ok());
        assert_eq!(d.pouch(&["run", "--rm", "made:1"]).ok(), "kept");
        let image = d.get("/images/made:1/json").is(200).json();
        assert_eq!((&image["Author"], &image["Comment"]), (&json!("me"), &json!("words")));
        assert_eq!(image["Config"]["Labels"]["a"], "b");
        d.docker(&["run", "-d", "--name", "live", "busybox", "sleep", "600"]).check();
        for words in [
            &["commit", "live"][..],
            &["commit", "-p=false", "live", "running"],
            &["container", "commit", "--pause", "live", "paused"],
        ] {
            d.pouch(words).check();
            assert_eq!(d.state("live"), "running");
        }
        assert_eq!(d.pouch(&["images", "-q", "running"]).ok().lines().count(), 1);
        for words in [&["commit", "nobody"][..], &["commit", "-c", "NOSUCH x", "box"], &["commit"]]
        {
            let (docker, pouch) = (d.docker(words), d.pouch(words));
            assert_eq!(pouch.code(), docker.code(), "{words:?}");
        }
        d.docker(&["rm", "-f", "box", "live"]).check();
    });
}

/// The long and short flags that a command's help names.
fn flags(help: &str) -> BTreeSet<String> {
    let mut flags = BTreeSet::new();
    for line in help.lines().map(str::trim_start).filter(|line| line.starts_with('-')) {
        for word in line.split([' ', ',', '=', '[']).take(3).filter(|word| word.starts_with('-')) {
            flags.insert(word.to_owned());
        }
    }
    flags
}

#[test]
fn every_flag_of_the_docker_cli_is_there() {
    daemon(|d| {
        for command in [
            "login",
            "logout",
            "commit",
            "search",
            "pull",
            "push",
            "images",
            "rmi",
            "tag",
            "history",
            "save",
            "load",
            "import",
            "export",
            "image prune",
            "image inspect",
            "image ls",
            "image rm",
            "image pull",
            "image push",
            "image save",
            "image load",
            "image import",
            "image tag",
            "image history",
            "system df",
            "container commit",
        ] {
            let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
            let (docker, pouch) = (d.docker(&words), d.pouch(&words));
            let missing: Vec<String> =
                flags(docker.ok()).difference(&flags(pouch.ok())).cloned().collect();
            assert!(missing.is_empty(), "{command}: {missing:?}");
        }
    });
}

#[test]
fn lists_of_images_are_the_docker_cli_s_to_the_letter() {
    daemon(|d| {
        let Some(_registry) = Registry::start(d) else { return };
        let name = format!("{}/listed:1", Registry::HOST);
        d.import("labelled:1", busybox(), &["LABEL k=v", "CMD [\"ls\"]", "EXPOSE 80"]);
        d.import(&name, busybox(), &[]);
        d.docker(&["push", &name]).check();
        d.docker(&["run", "--name", "box", "busybox", "touch", "/made"]).check();
        d.docker(&["commit", "-m", "words\tand more", "box", "made:1"]).check();
        d.docker(&["commit", "box"]).check();
        std::thread::sleep(Duration::from_millis(1500));
        let stable = |text: &str, is_list: bool| {
            let line = |line: &str| {
                let cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
                cells.filter(|cell| !cell.contains("second")).collect::<Vec<_>>().join(" | ")
            };
            let mut lines: Vec<String> = text.lines().map(line).collect();
            // The names of one image come from a map, in another order each time.
            if is_list {
                lines.sort();
            }
            lines.join("\n")
        };
        // Collected, so that one run shows them all.
        let mut differences: Vec<String> = Vec::new();
        for words in [
            &["images"][..],
            &["images", "-a"],
            &["images", "--digests"],
            &["images", "--digests", "--no-trunc", "-q"],
            &["images", "labelled"],
            &["images", "labelled:2"],
            &["images", "-f", "dangling=true"],
            &["images", "-f", "dangling=false", "-f", "label=k=v"],
            &["images", "-f", "label!=k"],
            &["images", "-f", "before=made:1", "-q"],
            &["images", "-f", "since=busybox"],
            &["images", "-f", "reference=*list*"],
            &["images", "-f", "reference=*/list*"],
            &["images", "-f", "bogus=1"],
            &["images", "-f", "bogus"],
            &["images", "--format", "table {{.ID}}\t{{.Digest}}"],
            &["images", "--format", "{{.Repository}}@{{.Digest}} {{.CreatedAt}}"],
            &["images", "--format", "{{.Bogus}}"],
            &["image", "ls", "-q", "--no-trunc"],
            &["history", "made:1"],
            &["history", "--no-trunc", "made:1"],
            &["history", "-q", "--no-trunc", "made:1"],
            &["history", "-H=false", "--format", "{{.ID}} {{.Size}} {{.Comment}}", "made:1"],
            &["history", "--format", "{{.CreatedBy}}|{{.Size}}", "made:1"],
            &["history", "--format", "table {{.ID}}\t{{.Comment}}", "made:1"],
            &["history", "nobody"],
            &["image", "inspect", "made:1"],
            &["image", "inspect", "-f", "{{.Id}} {{json .Config.Cmd}} {{.RootFS.Type}}", "made:1"],
            &["image", "inspect", "nobody"],
            &["image", "inspect", "-f", "json", &name],
            &["system", "df"],
            &["system", "df", "-v"],
            &["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Size}} {{.Reclaimable}}"],
            &["rmi", "nobody"],
            &["rmi", "spare", "nobody"],
            &["rmi", "-f", "nobody"],
            &["tag", "nobody", "x"],
            &["tag", "made:1", "UPPER"],
            &["tag", "made:1", "x@sha256:aa"],
            &["save", "nobody"],
            &["import", "/no/such/file"],
            &["load", "-i", "/no/such/file"],
            &["export", "nobody"],
            &["push", "127.0.0.1:5000/nobody"],
            &["image", "prune", "-f", "--filter", "label=none"],
            &["image", "prune", "-f", "--filter", "bogus=1"],
        ] {
            let spare = || d.docker(&["tag", "busybox", "spare"]).check().code();
            spare();
            let docker = d.docker(words);
            spare();
            let pouch = d.pouch(words);
            let said = |run: &Outcome| {
                // Failures are told in other words, successes in the same.
                let errors = if run.code() == 0 { run.stderr.clone() } else { String::new() };
                (stable(&run.stdout, words[0] == "images"), run.code(), errors)
            };
            if said(&pouch) != said(&docker) {
                differences.push(format!("{words:?}:\n docker {docker:?}\n pouch  {pouch:?}"));
            }
        }
        assert!(differences.is_empty(), "{}", differences.join("\n"));
        d.docker(&["rm", "box"]).check();
        // Two that change things, each once per CLI.
        let dangling = || {
            d.docker(&["run", "--name", "gone", "busybox", "touch", "/gone"]).check();
            d.docker(&["commit", "gone"]).check();
            d.docker(&["rm", "gone"]).check();
        };
        let first = |run: Outcome| run.ok().lines().next().unwrap_or_default().to_owned();
        dangling();
        let docker = first(d.docker(&["image", "prune", "-f"]));
        dangling();
        assert_eq!(first(d.pouch(&["image", "prune", "-f"])), docker);
        eventually("images are gone", || {
            d.docker(&["images", "-q", "-f", "dangling=true"]).ok().is_empty()
        });
        d.docker(&["rmi", &name, "labelled:1", "made:1", "spare"]).check();
    });
}
