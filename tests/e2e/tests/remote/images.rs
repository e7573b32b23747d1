//! Images and root file systems in containerd, by the docker CLI and beside containerd's own.

use pouch_testkit::{Daemon, Host, Registry, eventually};

use super::remote_with;

/// `ctr` in the daemon's namespace; its lines.
#[track_caller]
fn ctr(d: &mut Daemon, words: &[&str]) -> Vec<String> {
    let said = d.containerd().unwrap().ctr(&[&["-n", "pouch"], words].concat());
    said.lines().map(|line| line.trim().to_owned()).collect()
}

/// Runs containerd's collector.
fn collect(d: &mut Daemon) {
    let _ = ctr(d, &["leases", "create", "--id", "throw-away"]);
    let _ = ctr(d, &["leases", "delete", "--sync", "throw-away"]);
}

/// Everything that containerd keeps.
fn kept(d: &mut Daemon, snapshotter: &str) -> Vec<String> {
    let mut kept = ctr(d, &["content", "ls", "-q"]);
    kept.extend(ctr(d, &["snapshots", "--snapshotter", snapshotter, "ls"]));
    kept.extend(ctr(d, &["images", "ls", "-q"]));
    kept.extend(ctr(d, &["leases", "ls", "-q"]));
    kept.sort();
    kept
}

fn whole_life(d: &mut Daemon, snapshotter: &str) {
    let Some(_registry) = Registry::start(d) else { return };
    let name = format!("{}/box:1", Registry::HOST);
    d.docker(&["tag", "busybox", &name]).check();
    d.docker(&["push", &name]).check();
    d.docker(&["rmi", &name]).check();
    // From now on its layer is kept as it was packed for the push.
    let before = kept(d, snapshotter);
    assert!(d.docker(&["pull", &name]).ok().contains("Downloaded newer image"));
    assert!(ctr(d, &["images", "ls", "-q"]).contains(&name));
    d.docker(&["run", "-d", "--name", "one", &name, "sleep", "1000"]).check();
    let script = "echo hi > /new; mkdir /dir; rm /etc/passwd";
    d.docker(&["exec", "one", "sh", "-c", script]).check();
    let diff = d.docker(&["diff", "one"]);
    for line in ["A /new", "A /dir", "D /etc/passwd", "C /etc"] {
        assert!(diff.ok().lines().any(|l| l == line), "{line}: {}", diff.stdout);
    }
    d.docker(&["commit", "one", "made"]).check();
    assert_eq!(d.docker(&["run", "--rm", "made", "cat", "/new"]).ok(), "hi");
    d.docker(&["run", "--rm", "made", "cat", "/etc/passwd"]).fails_with("No such file");
    let (inside, outside) = (d.path("inside"), d.path("outside"));
    let inside = inside.display().to_string();
    d.docker(&["cp", "one:/new", &inside]).check();
    assert_eq!(std::fs::read_to_string(&inside).unwrap(), "hi\n");
    d.docker(&["stop", "-t", "0", "one"]).check();
    d.docker(&["cp", &inside, "one:/dir/back"]).check();
    let outside = outside.display().to_string();
    d.docker(&["export", "-o", &outside, "one"]).check();
    let exported = std::fs::read(&outside).unwrap();
    let mut exported = tar::Archive::new(&exported[..]);
    let has = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        entry.unwrap().path().unwrap().ends_with("dir/back")
    };
    assert!(exported.entries().unwrap().any(has));
    d.docker(&["start", "one"]).check();
    assert_eq!(d.docker(&["exec", "one", "cat", "/dir/back"]).ok(), "hi");
    d.docker(&["rm", "-f", "one"]).check();
    d.docker(&["save", "-o", &outside, "made", &name]).check();
    d.docker(&["rmi", "made", &name]).check();
    assert_eq!(kept(d, snapshotter), before, "nothing is left of what was removed");
    assert!(d.docker(&["load", "-i", &outside]).ok().contains("Loaded image: made:latest"));
    assert_eq!(d.docker(&["run", "--rm", "made", "cat", "/new"]).ok(), "hi");
    let history = d.docker(&["history", "-q", "made"]);
    assert!(history.ok().lines().count() >= 2, "{}", history.stdout);
    d.docker(&["system", "df"]).check();
    d.docker(&["image", "prune", "-a", "-f"]).check();
    assert!(!ctr(d, &["images", "ls", "-q"]).contains(&"docker.io/library/made:latest".to_owned()));
    d.import("busybox", pouch_testkit::busybox(), &["CMD [\"sh\"]"]);
}

#[test]
fn the_whole_life_of_an_image() {
    remote_with(Host::new(), |d| whole_life(d, "overlayfs"));
}

#[test]
fn the_whole_life_of_an_image_over_another_snapshotter() {
    remote_with(Host::new().flags(&["--snapshotter", "native"]), |d| whole_life(d, "native"));
}

#[test]
fn the_collector_takes_nothing_of_ours() {
    remote_with(Host::new(), |d| {
        d.docker(&["create", "--name", "one", "busybox", "sh", "-c", "echo kept > /file"]).check();
        collect(d);
        d.docker(&["start", "-a", "one"]).check();
        collect(d);
        // Its image loses its name, and its containers all the same nothing.
        d.docker(&["rmi", "-f", "busybox"]).check();
        collect(d);
        d.restart();
        collect(d);
        d.docker(&["start", "-a", "one"]).check();
        d.docker(&["commit", "one", "made"]).check();
        collect(d);
        assert_eq!(d.docker(&["run", "--rm", "made", "cat", "/file"]).ok(), "kept");
        d.docker(&["rm", "one"]).check();
        d.docker(&["rmi", "made"]).check();
        assert_eq!(kept(d, "overlayfs").len(), 1, "the head of a list");
        d.import("busybox", pouch_testkit::busybox(), &["CMD [\"sh\"]"]);
    });
}

#[test]
fn images_of_others_come_and_go() {
    remote_with(Host::new(), |d| {
        let names = |d: &Daemon| {
            let list = d.docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
            list.ok().lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let has = |d: &Daemon, name: &str| names(d).iter().any(|n| n == name);
        d.docker(&["tag", "busybox", "their/box:1"]).check();
        let archive = d.path("archive").display().to_string();
        d.docker(&["save", "-o", &archive, "their/box:1"]).check();
        d.docker(&["rmi", "their/box:1"]).check();
        let full = "docker.io/their/box:1";
        let _ = ctr(d, &["images", "import", &archive]);
        eventually("it comes", || has(d, "their/box:1"));
        d.docker(&["run", "--name", "user", "their/box:1", "true"]).check();
        let _ = ctr(d, &["images", "rm", full]);
        eventually("its name goes", || !has(d, "their/box:1"));
        // Under its other name it is as it was.
        assert!(has(d, "busybox:latest"));
        d.docker(&["start", "-a", "user"]).check();
        d.docker(&["rm", "user"]).check();
        // While we are away.
        d.stop();
        let _ = ctr(d, &["images", "tag", "docker.io/library/busybox:latest", full]);
        d.start_again();
        eventually("it is found", || has(d, "their/box:1"));
        d.docker(&["rmi", "their/box:1"]).check();
        assert!(!ctr(d, &["images", "ls", "-q"]).contains(&full.to_owned()));
        // While containerd is away.
        let _ = ctr(d, &["images", "tag", "docker.io/library/busybox:latest", full]);
        d.containerd().unwrap().kill9();
        d.containerd().unwrap().start_again();
        eventually("it is still there", || has(d, "their/box:1"));
        let _ = ctr(d, &["images", "rm", full]);
        eventually("it goes", || !has(d, "their/box:1"));
        // And theirs are programs that run ours.
        let run = ["run", "--rm", "docker.io/library/busybox:latest", "beside", "echo", "well"];
        assert_eq!(ctr(d, &run), ["well"]);
    });
}

#[test]
fn what_is_missing_is_said() {
    remote_with(Host::new(), |d| {
        d.docker(&["tag", "busybox", "broken"]).check();
        let before = ctr(d, &["content", "ls", "-q"]);
        for blob in &before {
            let _ = ctr(d, &["content", "rm", blob]);
        }
        let archive = d.path("archive").display().to_string();
        d.docker(&["save", "-o", &archive, "broken"]).fails_with("not complete any more");
        d.restart();
        // What holds the layers is gone, so the collector takes them now or has them already.
        collect(d);
        d.docker(&["run", "--rm", "broken", "true"]).fails_with("remove and pull it again");
        d.docker(&["rmi", "broken", "busybox"]).check();
        assert_eq!(kept(d, "overlayfs").len(), 1, "the head of a list");
        d.import("busybox", pouch_testkit::busybox(), &["CMD [\"sh\"]"]);
    });
}
