//! What containers of pods ask of a runtime: shared namespaces, mapped ids, mounts that reach
//! further than one.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use pouch_netns::{IdMap, IdMaps, Ipv6, Pod};
use serde_json::{Value, json};
use support::{Rig, text, unable};

macro_rules! rig {
    ($name:expr, $args:expr) => {{
        if let Some(reason) = unable() {
            println!("{reason}");
            return;
        }
        Rig::new($name, $args)
    }};
}

/// A directory with a file system in it, unmounted at the end.
struct Mounted(PathBuf);

impl Mounted {
    fn new(path: PathBuf) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        run("mount", &["-t", "tmpfs", "tmpfs", path.to_str().unwrap()]);
        Self(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-R", "-l"]).arg(&self.0).status();
    }
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", text(&output.stderr));
}

fn add_mount(rig: &mut Rig, source: &Path, destination: &str, options: &[&str]) {
    rig.spec["mounts"].as_array_mut().unwrap().push(json!({
        "destination": destination, "type": "bind", "source": source, "options": options,
    }));
}

fn lines(rig: &Rig) -> Vec<String> {
    let output = rig.run_to_end();
    let said = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}: {said:?}", output.status);
    said.0.lines().map(str::to_owned).collect()
}

const MAP: IdMap = IdMap { container: 0, host: 300_000, size: 65_536 };

fn mapping() -> Value {
    json!([{ "containerID": MAP.container, "hostID": MAP.host, "size": MAP.size }])
}

#[test]
fn read_only_reaches_the_mounts_below_when_it_is_to() {
    let script = "for d in one all; do for p in $d $d/below; do \
                  touch /$p/x 2>/dev/null && echo $p writable || echo $p read-only; done; done";
    let mut rig = rig!("rro", &["sh", "-c", script]);
    let source = Mounted::new(rig.path("source"));
    let _below = Mounted::new(source.0.join("below"));
    add_mount(&mut rig, &source.0, "/one", &["rbind", "ro"]);
    add_mount(&mut rig, &source.0, "/all", &["rbind", "rro"]);
    let expected = ["one read-only", "one/below writable", "all read-only", "all/below read-only"];
    assert_eq!(lines(&rig), expected);
}

#[test]
fn mounts_go_to_and_come_from_the_host_as_they_are_asked_to() {
    let script = "until test -e /go/made; do sleep 0.02; done; \
                  for d in private slave shared; do test -e /$d/new/here && echo $d; done; \
                  mount -t tmpfs tmpfs /shared/back; touch /shared/back/inside; echo done";
    let mut rig = rig!("propagation", &["sh", "-c", script]);
    let source = Mounted::new(rig.path("source"));
    run("mount", &["--make-shared", source.0.to_str().unwrap()]);
    for name in ["new", "back"] {
        std::fs::create_dir(source.0.join(name)).unwrap();
    }
    let go = rig.path("go");
    std::fs::create_dir(&go).unwrap();
    add_mount(&mut rig, &go, "/go", &["bind"]);
    for kind in ["private", "slave", "shared"] {
        add_mount(&mut rig, &source.0, &format!("/{kind}"), &["rbind", &format!("r{kind}")]);
    }
    rig.spec["linux"]["rootfsPropagation"] = json!("shared");
    for set in ["bounding", "effective", "permitted"] {
        rig.spec["process"]["capabilities"][set]
            .as_array_mut()
            .unwrap()
            .push(json!("CAP_SYS_ADMIN"));
    }
    rig.start();
    run("mount", &["-t", "tmpfs", "tmpfs", source.0.join("new").to_str().unwrap()]);
    std::fs::write(source.0.join("new/here"), "").unwrap();
    std::fs::write(go.join("made"), "").unwrap();
    rig.wait_status("stopped");
    let output = std::fs::read_to_string(rig.path("out")).unwrap();
    assert_eq!(
        output,
        "slave\nshared\ndone\n",
        "{}",
        text(&std::fs::read(rig.path("err")).unwrap())
    );
    assert!(source.0.join("back/inside").exists());
}

#[test]
fn a_volume_belongs_to_others_inside_than_outside() {
    let script = "stat -c %u:%g /plain/f /mapped/f /mapped/below/g; touch /mapped/new /mapped/below/new 2>/dev/null; true";
    let mut rig =
        rig!("idmap", &["/bin/busybox", "sh", "-c", &script.replace("stat", "busybox stat")]);
    // With the container's own map, and without a user namespace by one of the mount's.
    let source = Mounted::new(rig.path("source"));
    let _below = Mounted::new(source.0.join("below"));
    for file in ["f", "below/g"] {
        std::fs::write(source.0.join(file), "").unwrap();
        chown(source.0.join(file), Some(7), Some(8)).unwrap();
    }
    for directory in ["", "below"] {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = source.0.join(directory);
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    add_mount(&mut rig, &source.0, "/plain", &["rbind"]);
    add_mount(&mut rig, &source.0, "/mapped", &["rbind", "ridmap"]);
    let count = rig.spec["mounts"].as_array().unwrap().len();
    rig.spec["mounts"][count - 1]["uidMappings"] = mapping();
    rig.spec["mounts"][count - 1]["gidMappings"] = mapping();
    assert_eq!(lines(&rig), ["7:8", "300007:300008", "300007:300008"]);
    // Root of the host is nobody whom the map knows: it can make nothing there.
    assert!(!source.0.join("new").exists());
    rig.ok(&["delete", "--force", rig.id()]);

    rig.spec["linux"]["uidMappings"] = mapping();
    rig.spec["linux"]["gidMappings"] = mapping();
    rig.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
    for own in [false, true] {
        if own {
            let mount = rig.spec["mounts"][count - 1].as_object_mut().unwrap();
            mount.remove("uidMappings");
            mount.remove("gidMappings");
        }
        assert_eq!(lines(&rig), ["65534:65534", "7:8", "7:8"]);
        for new in ["new", "below/new"] {
            let made = std::fs::metadata(source.0.join(new)).unwrap();
            assert_eq!((made.uid(), made.gid()), (0, 0));
            std::fs::remove_file(source.0.join(new)).unwrap();
        }
        rig.ok(&["delete", "--force", rig.id()]);
    }
}

#[test]
fn all_that_a_pod_pinned_is_joined_with_and_without_ids_of_its_own() {
    for user in [false, true] {
        let script = "hostname; cat /proc/sys/kernel/shm_rmid_forced; head -n1 /proc/self/uid_map; \
                      touch /dev/shm/f; readlink /proc/self/ns/net; kill -0 1; echo $?; ls /proc/1";
        let mut rig = rig!("pinned", &["sh", "-c", script]);
        let dir = rig.path("pod");
        let maps = IdMaps { uids: vec![MAP], gids: vec![MAP] };
        let pod = Pod {
            net: Some(Ipv6::Disabled),
            ipc: Some(1 << 20),
            uts: Some("peapod".to_owned()),
            sysctls: [("kernel.shm_rmid_forced".to_owned(), "1".to_owned())].into(),
            user: user.then_some(maps),
        };
        let pinned = pod.create(&dir).unwrap();
        let init = support_init();
        // The pause: a root that holds nothing but it.
        let mut pause = Rig::new("pause", &["/pouch-init", "--pause"]);
        std::fs::remove_dir_all(pause.rootfs()).unwrap();
        std::fs::create_dir(pause.rootfs()).unwrap();
        // The runtime makes what it mounts onto; that root is a tmpfs of the pod's root.
        let owner = if user { MAP.host } else { 0 };
        chown(pause.rootfs(), Some(owner), Some(owner)).unwrap();
        pause.spec["mounts"] = json!([]);
        add_mount(&mut pause, &init, "/pouch-init", &["bind", "ro"]);
        pause.spec["root"]["readonly"] = json!(true);
        pause.spec["process"]["capabilities"] = json!({});
        pause.spec["linux"]["maskedPaths"] = json!([]);
        pause.spec["linux"]["readonlyPaths"] = json!([]);
        let mut shared = vec![json!({ "type": "mount" }), json!({ "type": "cgroup" })];
        let pins = [("network", &pinned.net), ("ipc", &pinned.ipc), ("uts", &pinned.uts)];
        for (kind, path) in pins.into_iter().chain([("user", &pinned.user)]) {
            shared.extend(path.as_ref().map(|path| json!({ "type": kind, "path": path })));
        }
        let with = |pid: Value| json!(shared.iter().cloned().chain([pid]).collect::<Vec<_>>());
        for rig in [&mut pause, &mut rig] {
            rig.spec["hostname"] = Value::Null;
        }
        pause.spec["linux"]["namespaces"] = with(json!({ "type": "pid" }));
        pause.start();
        let state: Value = serde_json::from_str(&pause.ok(&["state", pause.id()])).unwrap();
        let pid = state["pid"].as_i64().unwrap();
        rig.spec["linux"]["namespaces"] =
            with(json!({ "type": "pid", "path": format!("/proc/{pid}/ns/pid") }));
        add_mount(&mut rig, pinned.shm.as_ref().unwrap(), "/dev/shm", &["rbind"]);
        let said = lines(&rig);
        let net = std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        assert_eq!(said[..2], ["peapod", "1"]);
        let map: Vec<&str> = said[2].split_whitespace().collect();
        let expected = if user { ["0", "300000", "65536"] } else { ["0", "0", "4294967295"] };
        assert_eq!(map, expected);
        assert_eq!(said[3], net.to_str().unwrap());
        assert_eq!(said[4], "0", "the pause is process 1");
        let made = std::fs::metadata(pinned.shm.as_ref().unwrap().join("f")).unwrap();
        assert_eq!(made.uid(), if user { 300_000 } else { 0 });
        pause.ok(&["kill", pause.id(), "TERM"]);
        pause.wait_status("stopped");
        rig.ok(&["delete", "--force", rig.id()]);
        drop((pause, rig));
        // The directories of a pod go with their pins.
        pouch_netns::remove_pod(&dir).unwrap();
    }
}

/// Our init, beside the runtime.
fn support_init() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_pouch-runtime")).with_file_name("pouch-init")
}

#[test]
fn groups_privileges_and_empty_lists_are_as_given() {
    let script = "id -G; grep NoNewPrivs /proc/self/status; \
                  test -w /proc/sys/kernel/shmmax && echo writable; cat /proc/sys/net/core/somaxconn";
    let mut rig = rig!("plain", &["sh", "-c", script]);
    rig.spec["process"]["user"]["additionalGids"] = json!([5, 4711]);
    rig.spec["process"]["noNewPrivileges"] = json!(true);
    rig.spec["linux"]["maskedPaths"] = json!([]);
    rig.spec["linux"]["readonlyPaths"] = json!([]);
    rig.spec["linux"]["sysctl"] = json!({ "net.core.somaxconn": "77" });
    let said = lines(&rig);
    assert_eq!(said[0], "0 5 4711");
    assert!(said[1].ends_with('1'), "{said:?}");
    assert_eq!(said[2..], ["writable", "77"]);
}
