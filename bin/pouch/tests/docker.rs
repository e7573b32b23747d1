//! The same command lines through `pouch` and through the stock docker CLI, against one dockerd:
//! what users and scripts read must be the same, byte for byte.
//!
//! The daemon has its own mount and network namespace, its own directories and socket, and is gone
//! when the test ends. Without root, dockerd or the docker CLI the tests say so and pass.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const START_DEADLINE: Duration = Duration::from_secs(60);

struct Daemon {
    process: Child,
    directory: tempfile::TempDir,
    /// Collected, so that one run shows them all.
    differences: std::cell::RefCell<Vec<String>>,
}

impl Daemon {
    /// A running dockerd with the image `bb:1`, or why there is none.
    fn start() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("not root".to_owned());
        }
        for program in ["dockerd", "docker", "unshare", "busybox"] {
            let found = std::env::var_os("PATH").is_some_and(|path| {
                std::env::split_paths(&path).any(|dir| dir.join(program).exists())
            });
            if !found && !Path::new("/usr/sbin").join(program).exists() {
                return Err(format!("{program} is not installed"));
            }
        }
        let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
        let root = directory.path().display();
        let script = format!(
            "ip link set lo up; exec dockerd --data-root {root}/d --exec-root {root}/e \
             -H unix://{root}/d.sock --pidfile {root}/p --bridge=none --iptables=false \
             --storage-driver=vfs >{root}/log 2>&1"
        );
        let process = Command::new("unshare")
            .args(["-m", "-n", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .map_err(|e| e.to_string())?;
        let daemon = Self { process, directory, differences: std::cell::RefCell::default() };
        let begun = Instant::now();
        while !daemon.docker(&["version"]).status.success() {
            if begun.elapsed() > START_DEADLINE {
                let log = std::fs::read_to_string(daemon.directory.path().join("log"));
                return Err(format!("dockerd does not start: {}", log.unwrap_or_default()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        daemon.image()?;
        Ok(daemon)
    }

    fn image(&self) -> Result<(), String> {
        let root = self.directory.path().join("rootfs");
        std::fs::create_dir_all(root.join("bin")).map_err(|e| e.to_string())?;
        for dir in ["etc", "tmp", "data"] {
            std::fs::create_dir_all(root.join(dir)).map_err(|e| e.to_string())?;
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).map_err(|e| e.to_string())?;
        for applet in [
            "sh", "echo", "cat", "ls", "sleep", "true", "env", "stty", "kill", "touch", "ln",
            "mkdir",
        ] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))
                .map_err(|e| e.to_string())?;
        }
        let tar = self.directory.path().join("bb.tar");
        let status =
            Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status();
        if !status.is_ok_and(|s| s.success()) {
            return Err("tar failed".to_owned());
        }
        let import = [
            "import",
            "-c",
            "LABEL a=1 b=two",
            "-c",
            "ENV X=y",
            &tar.display().to_string(),
            "bb:1",
        ];
        let output = self.pouch(&import);
        if output.status.success() { Ok(()) } else { Err(text(&output.stderr)) }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg("-H")
            .arg(format!("unix://{}/d.sock", self.directory.path().display()))
            .env("DOCKER_CONFIG", self.directory.path().join("config"))
            .env("DOCKER_CLI_HINTS", "false")
            .stdin(Stdio::null());
        command
    }

    fn docker(&self, arguments: &[&str]) -> Output {
        self.command("docker").args(arguments).output().unwrap()
    }

    fn pouch(&self, arguments: &[&str]) -> Output {
        self.command(env!("CARGO_BIN_EXE_pouch")).args(arguments).output().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Both say the same on stdout and end the same.
    fn same(&self, arguments: &[&str]) {
        // Ages are shown by the second, so two commands may fall on two sides of one.
        for attempt in 0.. {
            let (theirs, ours) = (self.docker(arguments), self.pouch(arguments));
            if attempt < 3 && theirs.stdout != ours.stdout {
                continue;
            }
            let context =
                format!("{arguments:?}\n{}\n{}", text(&theirs.stderr), text(&ours.stderr));
            if theirs.stdout != ours.stdout || theirs.status.code() != ours.status.code() {
                self.differences.borrow_mut().push(format!(
                    "{context}\ndocker ({:?}):\n{}\npouch ({:?}):\n{}\n",
                    theirs.status.code(),
                    text(&theirs.stdout),
                    ours.status.code(),
                    text(&ours.stdout)
                ));
            }
            return;
        }
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.pouch(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let ids = text(&self.docker(&["ps", "-aq"]).stdout);
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if !ids.is_empty() {
            self.docker(&[&["rm", "-f"], ids.as_slice()].concat());
        }
        if let Some(pid) =
            i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.process.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// One daemon for all, since starting it takes seconds.
#[test]
fn pouch_reads_like_docker() {
    let daemon = match Daemon::start() {
        Ok(daemon) => daemon,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return;
        }
    };
    lists(&daemon);
    inspection(&daemon);
    exit_codes(&daemon);
    streams(&daemon);
    copies(&daemon);
    archives(&daemon);
    life(&daemon);
    let differences = daemon.differences.borrow();
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

fn lists(daemon: &Daemon) {
    daemon.same(&["ps", "-a"]);
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "one",
        "-l",
        "com.example.my-key=v",
        "-v",
        "vol1:/data",
        "bb:1",
        "sleep",
        "1000",
    ]);
    daemon.ok(&[
        "create",
        "--name",
        "two",
        "-e",
        "A=1",
        "--expose",
        "80",
        "bb:1",
        "sh",
        "-c",
        "echo \"a\tlong <command> & more\"",
    ]);
    daemon.ok(&["tag", "bb:1", "r.example:5000/other/bb:2"]);
    daemon.ok(&["volume", "create", "vol10", "--label", "k=v"]);
    daemon.ok(&["volume", "create", "vol9"]);
    for arguments in [
        vec!["ps"],
        vec!["ps", "-a"],
        vec!["ps", "-aq"],
        vec!["ps", "-l"],
        vec!["ps", "-n", "1"],
        vec!["ps", "-s"],
        vec!["ps", "-a", "--no-trunc"],
        vec!["ps", "-af", "name=two"],
        vec![
            "ps",
            "-f",
            "label=com.example.my-key",
            "--format",
            "{{.Names}}: {{.Label \"com.example.my-key\"}}",
        ],
        vec![
            "ps",
            "-a",
            "--format",
            "table {{.ID}}\\t{{.Names}}\\t{{.Status}}\\t{{.Label \"com.example.my-key\"}}",
        ],
        vec!["ps", "-a", "--format", "json"],
        vec!["ps", "-a", "--format", "{{json .}}"],
        vec![
            "ps",
            "-a",
            "--format",
            "{{.CreatedAt}}|{{.Mounts}}|{{.LocalVolumes}}|{{.Networks}}|{{.Ports}}|{{.State}}",
        ],
        vec!["ps", "-a", "--format", "{{upper .Names | printf \"%-8s|\"}}{{truncate .ID 4}}"],
        vec!["container", "ls", "--format", "table {{.Names}}\\t{{.Image}}"],
        vec!["images"],
        vec!["images", "-q"],
        vec!["images", "--no-trunc"],
        vec!["images", "--digests"],
        vec!["images", "bb"],
        vec!["images", "-f", "label=a=1"],
        vec!["images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}} {{.CreatedAt}}"],
        vec!["images", "--format", "table {{.Repository}}\\t{{.Size}}"],
        vec!["image", "ls", "-q", "--no-trunc"],
        vec!["history", "bb:1"],
        vec!["history", "-q", "--no-trunc", "bb:1"],
        vec!["volume", "ls"],
        vec!["volume", "ls", "-q"],
        vec![
            "volume",
            "ls",
            "--format",
            "{{.Name}} {{.Driver}} {{.Scope}} {{.Mountpoint}} {{.Labels}}",
        ],
        vec!["volume", "ls", "-f", "label=k=v"],
        vec!["network", "ls"],
        vec!["network", "ls", "-q"],
        vec![
            "network",
            "ls",
            "--no-trunc",
            "--format",
            "{{.Name}} {{.ID}} {{.Driver}} {{.Scope}} {{.Internal}} {{.IPv6}}",
        ],
        vec!["top", "one"],
        vec!["top", "one", "-o", "pid,args"],
        vec!["port", "one"],
        vec!["diff", "one"],
        vec!["system", "df"],
        vec!["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"],
        vec!["version", "--format", "{{.Server.Version}} {{.Server.APIVersion}}"],
        vec![
            "info",
            "--format",
            "{{.Driver}} {{.NCPU}} {{json .SecurityOptions}} {{.Swarm.LocalNodeState}}",
        ],
    ] {
        daemon.same(&arguments);
    }
}

fn inspection(daemon: &Daemon) {
    for arguments in [
        vec!["inspect", "one"],
        vec!["inspect", "-s", "two"],
        vec!["inspect", "one", "bb:1", "vol10", "host"],
        vec!["inspect", "--type", "image", "bb:1"],
        vec!["container", "inspect", "one", "two"],
        vec!["image", "inspect", "bb:1"],
        vec!["volume", "inspect", "vol10"],
        vec!["network", "inspect", "host", "none"],
        vec!["inspect", "missing"],
        vec!["inspect", "missing", "one"],
        vec!["inspect", "-f", "{{.State.Status}} {{.State.Pid}} {{.Name}} {{.ID}}", "one"],
        vec!["inspect", "-f", "{{json .State}}", "two"],
        vec!["inspect", "-f", "{{.Config.Env}} {{.Config.Labels}} {{.Config.Cmd}}", "one"],
        vec![
            "inspect",
            "-f",
            "{{range .Mounts}}{{.Type}}:{{.Name}}->{{.Destination}} {{.RW}}{{end}}",
            "one",
        ],
        vec![
            "inspect",
            "-f",
            "{{range $k, $v := .NetworkSettings.Networks}}{{$k}}={{$v.MacAddress}};{{end}}",
            "one",
        ],
        vec!["inspect", "-f", "{{if .State.Running}}up{{else}}down{{end}}", "one", "two"],
        vec![
            "inspect",
            "-f",
            "{{.HostConfig.Binds}} {{.HostConfig.PortBindings}} {{.Config.ExposedPorts}}",
            "two",
        ],
        vec!["inspect", "-f", "{{json .Config.Labels}} {{.Architecture}}", "bb:1"],
        vec!["inspect", "-f", "{{.RepoTags}} {{.Size}} {{len .RootFS.Layers}}", "bb:1"],
        vec![
            "inspect",
            "-f",
            "{{index .Config.Labels \"a\"}}|{{index .Config.Labels \"zz\"}}",
            "bb:1",
        ],
        vec!["inspect", "-f", "{{.Options}} {{.Labels}} {{.Driver}}", "--type", "volume", "vol9"],
    ] {
        daemon.same(&arguments);
    }
}

fn exit_codes(daemon: &Daemon) {
    for arguments in [
        vec!["run", "--rm", "bb:1", "sh", "-c", "echo out; echo err >&2; exit 7"],
        vec!["run", "--rm", "bb:1", "sh", "-c", "kill -9 $$"],
        vec!["run", "--rm", "bb:1", "no-such-program"],
        vec!["run", "--rm", "bb:1", "/etc"],
        vec!["run", "--rm", "--bogus", "bb:1"],
        vec!["run", "--rm", "--pull=never", "no-such-image:1"],
        vec!["run", "--rm", "-m", "lots", "bb:1", "true"],
        vec!["run", "--rm", "--entrypoint", "echo", "bb:1", "a", "--rm", "-it"],
        vec!["run", "--rm", "-e", "A=1", "-e", "B", "-w", "/tmp", "-h", "box", "bb:1", "env"],
        vec!["exec", "one", "sh", "-c", "echo x; exit 3"],
        vec!["exec", "one", "no-such-program"],
        vec!["exec", "-e", "Q=1", "-w", "/etc", "one", "sh", "-c", "echo $Q $PWD"],
        vec!["exec", "two", "true"],
        vec!["exec", "missing", "true"],
        vec!["start", "missing"],
        vec!["rm", "missing"],
        vec!["rm", "one"],
        vec!["stop", "missing"],
        vec!["logs", "missing"],
        vec!["rmi", "missing"],
        vec!["volume", "inspect", "missing"],
        vec!["volume", "rm", "vol1"],
        vec!["tag", "missing", "x"],
        vec!["ps", "-f", "nonsense=1"],
        vec!["ps", "--bogus"],
        vec!["rename", "two", "one"],
        vec!["no-such-command"],
    ] {
        daemon.same(&arguments);
    }
}

fn streams(daemon: &Daemon) {
    // Input and its end reach the process, and output after that still comes.
    let mut child = daemon
        .command(env!("CARGO_BIN_EXE_pouch"))
        .args(["run", "--rm", "-i", "bb:1", "sh", "-c", "cat; echo end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let payload: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_be_bytes).collect();
    let mut stdin = child.stdin.take().unwrap();
    let sent = payload.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let mut received = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut received).unwrap();
    writer.join().unwrap().unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(received.len(), payload.len() + 4);
    assert!(received.starts_with(&payload) && received.ends_with(b"end\n"));

    let both =
        daemon.pouch(&["run", "--name", "talk", "bb:1", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((text(&both.stdout).as_str(), text(&both.stderr).as_str()), ("out\n", "err\n"));
    daemon.same(&["logs", "talk"]);
    daemon.same(&["logs", "-t", "--tail", "1", "talk"]);
    daemon.same(&["logs", "--since", "1h", "--until", "0s", "talk"]);
    assert_eq!(text(&daemon.pouch(&["logs", "talk"]).stderr), "err\n");

    // A terminal: the process has one, its output is raw.
    let tty = daemon.pouch(&["run", "--rm", "-t", "bb:1", "sh", "-c", "test -t 1 && echo tty"]);
    assert_eq!(text(&tty.stdout), "tty\r\n");
    let refused = daemon.pouch(&["run", "--rm", "-it", "bb:1", "true"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("not a TTY"));

    // A signal to the CLI reaches the container.
    let trap = "trap 'echo got; exit 5' TERM; echo ready; while true; do sleep 0.05; done";
    let mut child = daemon
        .command(env!("CARGO_BIN_EXE_pouch"))
        .args(["run", "--rm", "bb:1", "sh", "-c", trap])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut ready = [0u8; 6];
    stdout.read_exact(&mut ready).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("got\n", Some(5)));

    // A file for the id, only once.
    let id_file = daemon.path("cid");
    let id = daemon.ok(&["run", "-d", "--cidfile", id_file.to_str().unwrap(), "bb:1", "true"]);
    assert_eq!(std::fs::read_to_string(&id_file).unwrap(), id.trim());
    let again = daemon.pouch(&["run", "--cidfile", id_file.to_str().unwrap(), "bb:1", "true"]);
    assert_eq!(again.status.code(), Some(125));
}

fn copies(daemon: &Daemon) {
    let local = daemon.path("cp");
    std::fs::create_dir_all(local.join("tree/sub")).unwrap();
    std::fs::write(local.join("tree/sub/f"), "hello").unwrap();
    std::fs::write(local.join("file"), "plain").unwrap();
    let at = |name: &str| local.join(name).display().to_string();
    // What each copy does, and how the container then looks.
    for (source, destination) in [
        (at("file"), "one:/tmp/renamed"),
        (at("file"), "one:/tmp"),
        (at("file"), "one:/tmp/"),
        (at("file"), "one:/tmp/none/"),
        (at("file"), "one:/none/x"),
        (at("tree"), "one:/tmp"),
        (at("tree"), "one:/tmp/new"),
        (at("tree/."), "one:/tmp/new"),
        (at("tree/"), "one:/tmp/file"),
        (at("missing"), "one:/tmp"),
    ] {
        daemon.ok(&["exec", "one", "sh", "-c", "rm -rf /tmp/*; mkdir -p /tmp; touch /tmp/file"]);
        let theirs = daemon.docker(&["cp", "-q", &source, destination]);
        let after_theirs = daemon.ok(&["exec", "one", "busybox", "find", "/tmp"]);
        daemon.ok(&["exec", "one", "sh", "-c", "rm -rf /tmp/*; touch /tmp/file"]);
        let ours = daemon.pouch(&["cp", "-q", &source, destination]);
        let after_ours = daemon.ok(&["exec", "one", "busybox", "find", "/tmp"]);
        let context =
            format!("{source} {destination}\n{}\n{}", text(&theirs.stderr), text(&ours.stderr));
        assert_eq!(ours.status.code(), theirs.status.code(), "{context}");
        let sorted = |text: String| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(after_ours), sorted(after_theirs), "{context}");
    }
    daemon.ok(&[
        "exec",
        "one",
        "sh",
        "-c",
        "rm -rf /tmp/*; mkdir -p /tmp/d/e; echo deep >/tmp/d/e/f; ln -s d/e/f /tmp/l",
    ]);
    for (source, destination, flags) in [
        ("one:/tmp/d", "out", "-q"),
        ("one:/tmp/d/.", "out", "-q"),
        ("one:/tmp/d", "existing", "-q"),
        ("one:/tmp/d/.", "existing", "-q"),
        ("one:/tmp/d/e/f", "existing", "-q"),
        ("one:/tmp/d/e/f", "name", "-q"),
        ("one:/tmp/d/e/f", "none/", "-q"),
        ("one:/tmp/d/e/f", "no/where", "-q"),
        ("one:/tmp/l", "link", "-q"),
        ("one:/tmp/l", "followed", "-qL"),
        ("one:/tmp/l", "existing", "-qL"),
        ("one:/tmp/missing", "x", "-q"),
    ] {
        let run = |theirs: bool| {
            let base = local.join(if theirs { "theirs" } else { "ours" });
            let _ = std::fs::remove_dir_all(&base);
            std::fs::create_dir_all(base.join("existing")).unwrap();
            let target = base.join(destination).display().to_string();
            let target = if destination.ends_with('/') {
                format!("{}/", target.trim_end_matches('/'))
            } else {
                target
            };
            let arguments = ["cp", flags, source, &target];
            let output = if theirs { daemon.docker(&arguments) } else { daemon.pouch(&arguments) };
            let tree = Command::new("find")
                .arg(".")
                .args(["-printf", "%p %y %l %m\\n"])
                .current_dir(&base)
                .output()
                .unwrap();
            let mut lines: Vec<String> = text(&tree.stdout).lines().map(str::to_owned).collect();
            lines.sort();
            (output.status.code(), lines, text(&output.stderr))
        };
        let (theirs, ours) = (run(true), run(false));
        assert_eq!(
            (&ours.0, &ours.1),
            (&theirs.0, &theirs.1),
            "{source} {destination}\n{}\n{}",
            theirs.2,
            ours.2
        );
    }
    // Tar on stdin and stdout.
    let tar = daemon.pouch(&["cp", "one:/tmp/d", "-"]).stdout;
    let mut names: Vec<String> = tar::Archive::new(tar.as_slice())
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    names.sort();
    assert_eq!(names, ["d/", "d/e/", "d/e/f"]);
    let mut child = daemon
        .command(env!("CARGO_BIN_EXE_pouch"))
        .args(["cp", "-", "one:/etc"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&tar).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(daemon.ok(&["exec", "one", "cat", "/etc/d/e/f"]), "deep\n");
}

fn archives(daemon: &Daemon) {
    let file = daemon.path("save.tar").display().to_string();
    daemon.ok(&["save", "-o", &file, "bb:1", "r.example:5000/other/bb:2"]);
    daemon.ok(&["rmi", "r.example:5000/other/bb:2"]);
    daemon.same(&["load", "-i", &file]);
    daemon.same(&["load", "-q", "-i", &file]);
    daemon.same(&["images"]);
    let exported = daemon.pouch(&["export", "two"]);
    assert!(exported.status.success() && exported.stdout.len() > 1_000_000);
    assert_eq!(daemon.docker(&["export", "two"]).stdout.len(), exported.stdout.len());
    // A file that cannot be whole does not exist.
    assert!(
        !daemon
            .pouch(&["save", "-o", &daemon.path("no").display().to_string(), "missing"])
            .status
            .success()
    );
    assert!(!daemon.path("no").exists());
}

fn life(daemon: &Daemon) {
    assert_eq!(daemon.ok(&["pause", "one"]), "one\n");
    assert!(daemon.ok(&["ps", "--format", "{{.Status}}", "-f", "name=one"]).contains("(Paused)"));
    assert_eq!(daemon.ok(&["unpause", "one"]), "one\n");
    daemon.ok(&["update", "--cpu-shares", "512", "one"]);
    assert_eq!(daemon.ok(&["inspect", "-f", "{{.HostConfig.CpuShares}}", "one"]), "512\n");
    daemon.ok(&["rename", "one", "uno"]);
    assert_eq!(daemon.ok(&["restart", "-t", "0", "uno"]), "uno\n");
    assert_eq!(daemon.ok(&["kill", "-s", "KILL", "uno"]), "uno\n");
    assert_eq!(daemon.ok(&["wait", "uno"]), "137\n");
    assert_eq!(daemon.ok(&["start", "-a", "two"]), "a\tlong <command> & more\n");
    daemon.same(&[
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "-f",
        "container=two",
        "-f",
        "event=create",
    ]);
    daemon.same(&[
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "-f",
        "event=die",
        "--format",
        "{{.Type}} {{.Action}} {{.Actor.Attributes.exitCode}} {{.ID}}",
    ]);
    daemon.same(&[
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "-f",
        "container=two",
        "--format",
        "json",
    ]);
    let mut removed = daemon.ok(&["rm", "-f", "uno", "two", "talk"]);
    removed.truncate(13);
    assert_eq!(removed, "uno\ntwo\ntalk\n"[..13]);
    daemon.ok(&["container", "prune", "-f"]);
    assert_eq!(daemon.ok(&["ps", "-aq"]), "");
    assert_eq!(daemon.ok(&["volume", "rm", "vol9", "vol10"]), "vol9\nvol10\n");
    assert!(daemon.ok(&["rmi", "bb:1"]).starts_with("Untagged: bb:1\n"));
}
