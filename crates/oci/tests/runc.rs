//! Specifications as a runtime takes them: a container of busybox, run by runc where it is
//! installed. Needs root.
#![expect(clippy::unwrap_used, reason = "the rig of a test fails like a test")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use pouch_oci::{
    BuildContext, Defaults, HostDevices, HostFeatures, ResolvedNamespaces, build, resolve_user,
};
use pouch_rootfd::RootFd;
use pouch_types::ContainerId;
use pouch_types::spec::ContainerSpec;

/// What a container prints, or `None`, said why, where it cannot be run.
fn run(number: u8, script: &str, change: impl FnOnce(&mut ContainerSpec)) -> Option<String> {
    const BUSYBOX: &str = "/bin/busybox";
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return None;
    }
    if Command::new("runc").arg("--version").stdout(Stdio::null()).status().is_err()
        || !Path::new(BUSYBOX).exists()
    {
        eprintln!("skipped: needs runc and {BUSYBOX}");
        return None;
    }
    let bundle = tempfile::tempdir().unwrap();
    let rootfs = bundle.path().join("rootfs");
    for directory in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
        std::fs::create_dir_all(rootfs.join(directory)).unwrap();
    }
    std::fs::copy(BUSYBOX, rootfs.join("bin/busybox")).unwrap();
    std::fs::set_permissions(rootfs.join("bin/busybox"), std::fs::Permissions::from_mode(0o755))
        .unwrap();
    std::fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:7:8::/:/x\n")
        .unwrap();
    std::fs::write(rootfs.join("etc/group"), "more:x:9:app\n").unwrap();

    let mut spec = ContainerSpec::default();
    spec.process.cmd =
        Some(["/bin/busybox", "sh", "-c", script].iter().map(|word| (*word).to_owned()).collect());
    change(&mut spec);
    let root = RootFd::open(&rootfs).unwrap();
    let user =
        resolve_user(&root, &spec.process.user, &spec.process.group_add, spec.process.groups)
            .unwrap();
    let host = HostFeatures::detect().unwrap();
    let id: ContainerId = format!("{:032x}{number:032x}", std::process::id()).parse().unwrap();
    let defaults = Defaults { cgroup_parent: "/pouch-oci-test".to_owned(), ..Defaults::default() };
    let namespaces = ResolvedNamespaces::default();
    let built = build(&BuildContext {
        id: &id,
        spec: &spec,
        rootfs: "rootfs",
        user: &user,
        hostname: "testbox",
        environment: &[],
        mounts: &[],
        namespaces: &namespaces,
        init_path: None,
        selinux: None,
        defaults: &defaults,
        host: &host,
        devices: &HostDevices,
        cdi: None,
    })
    .unwrap();
    std::fs::write(
        bundle.path().join("config.json"),
        serde_json::to_vec_pretty(&built.spec).unwrap(),
    )
    .unwrap();
    let output = Command::new("timeout")
        .args(["-k", "5", "60", "runc", "--root"])
        .arg(bundle.path().join("state"))
        .args(["run", "--bundle"])
        .arg(bundle.path())
        .arg(id.to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        // The parent is left by the runtime, and another test may still be in it.
        let _ = std::fs::remove_dir(hierarchy.path().join("pouch-oci-test"));
    }
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stderr),
        serde_json::to_string(&built.spec.process).unwrap()
    );
    Some(String::from_utf8(output.stdout).unwrap())
}

const PROBE: &str = "\
    grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status
    busybox id -G; hostname; echo $HOME
    cat /proc/sys/net/ipv4/ip_unprivileged_port_start
    wc -c < /proc/interrupts
    (: > /proc/sys/kernel/shmmax) 2>/dev/null && echo writable
    for path in /sys/fs/cgroup/*; do
        mkdir $path/x 2>/dev/null && echo writable $path
    done
    unshare -m true 2>/dev/null && echo unshared
    mount -t tmpfs x /tmp 2>/dev/null && echo mounted
    true";

fn script() -> String {
    // Every applet by its own name.
    format!("/bin/busybox --install /bin; PATH=/bin; {PROBE}")
}

#[test]
fn a_default_container() {
    let Some(text) = run(1, &script(), |_| ()) else { return };
    for line in [
        "CapInh:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "CapBnd:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "NoNewPrivs:\t0",
        "Seccomp:\t2",
        "testbox",
        "/root",
        "0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} in\n{text}");
    }
    for word in ["writable", "unshared", "mounted"] {
        assert!(!text.contains(word), "{word} in\n{text}");
    }
}

#[test]
fn another_user() {
    let Some(text) = run(2, &script().replace("--install /bin", "true"), |spec| {
        spec.process.user = "app".to_owned();
        spec.security.no_new_privileges = Some(true);
        spec.security.cap_drop = vec!["ALL".to_owned()];
    }) else {
        return;
    };
    for line in ["CapBnd:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(text.lines().any(|found| found == line), "{line:?} in\n{text}");
    }
}

#[test]
fn a_privileged_container() {
    let Some(text) = run(3, &script(), |spec| spec.security.privileged = true) else { return };
    assert!(text.lines().any(|line| line == "Seccomp:\t0"), "{text}");
    assert!(text.contains("mounted") && text.contains("unshared"), "{text}");
    assert!(text.contains("CapInh:\t0000000000000000"), "{text}");
}
