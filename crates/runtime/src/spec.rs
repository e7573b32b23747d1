//! Reading a bundle's `config.json` and the process files of `exec`, and refusing what cannot be
//! honoured before anything is made.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespaceType, Process, Spec};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::de::DeserializeOwned;

use crate::error::{IoContext, RuntimeError};

/// Largest specification that is read; runc's own limit on what it passes on is of this order.
const SPEC_MAX: u64 = 16 << 20;

/// A bundle that passed the checks.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// The bundle directory, absolute.
    pub(crate) path: PathBuf,
    /// The root file system, absolute.
    pub(crate) rootfs: PathBuf,
    pub(crate) spec: Spec,
}

impl Bundle {
    pub(crate) fn load(path: &Path) -> Result<Self, RuntimeError> {
        let path = path.canonicalize().context("open the bundle", path)?;
        let spec: Spec = read_json(&path.join("config.json"))?;
        let rootfs = check(&spec, &path)?;
        Ok(Self { path, rootfs, spec })
    }

    pub(crate) fn process(&self) -> Result<&Process, RuntimeError> {
        self.spec.process().as_ref().ok_or_else(|| missing("process"))
    }

    pub(crate) fn linux(&self) -> Result<&Linux, RuntimeError> {
        self.spec.linux().as_ref().ok_or_else(|| missing("linux"))
    }
}

fn missing(field: &str) -> RuntimeError {
    RuntimeError::Invalid(format!("the specification lacks {field}"))
}

/// Parses a JSON file of bounded size.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, RuntimeError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SPEC_MAX + 1).read_to_end(&mut bytes))
        .context("read", path)?;
    if bytes.len() as u64 > SPEC_MAX {
        return Err(RuntimeError::Invalid(format!(
            "{} is larger than {SPEC_MAX} bytes",
            path.display()
        )));
    }
    serde_json::from_slice(&bytes)
        .map_err(|source| RuntimeError::Json { path: path.to_owned(), source })
}

fn check(spec: &Spec, bundle: &Path) -> Result<PathBuf, RuntimeError> {
    if !spec.version().starts_with("1.") {
        return Err(RuntimeError::Invalid(format!(
            "specification version {:?} is not 1.x",
            spec.version()
        )));
    }
    let linux = spec.linux().as_ref().ok_or_else(|| missing("linux"))?;
    if !has_own(linux, LinuxNamespaceType::Mount) {
        return Err(RuntimeError::Unsupported(String::from(
            "a container without a mount namespace of its own",
        )));
    }
    check_namespaces(spec, linux)?;
    refuse(linux.intel_rdt().is_some(), "linux.intelRdt")?;
    refuse(linux.net_devices().as_ref().is_some_and(|d| !d.is_empty()), "linux.netDevices")?;
    refuse(linux.memory_policy().is_some(), "linux.memoryPolicy")?;
    refuse(linux.time_offsets().as_ref().is_some_and(|o| !o.is_empty()), "linux.timeOffsets")?;
    check_process(spec.process().as_ref().ok_or_else(|| missing("process"))?)?;
    let root = spec.root().as_ref().ok_or_else(|| missing("root"))?;
    let rootfs = bundle.join(root.path());
    let rootfs = rootfs.canonicalize().context("open the root file system", &rootfs)?;
    check_mounts(spec, &rootfs)?;
    if rootfs == Path::new("/") {
        return Err(RuntimeError::Invalid(String::from("the root file system is the host's")));
    }
    Ok(rootfs)
}

/// Whether the container has a namespace of that kind that is not the host's.
fn has_own(linux: &Linux, kind: LinuxNamespaceType) -> bool {
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    namespaces.iter().any(|namespace| namespace.typ() == kind)
}

/// What is set must be the container's, not the host's.
fn check_namespaces(spec: &Spec, linux: &Linux) -> Result<(), RuntimeError> {
    let invalid = |text: &str| Err(RuntimeError::Invalid(text.to_owned()));
    let uts = has_own(linux, LinuxNamespaceType::Uts);
    if !uts && (spec.hostname().is_some() || spec.domainname().is_some()) {
        return invalid("a host name without a uts namespace");
    }
    let mapped = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|list| !list.is_empty());
    if !has_own(linux, LinuxNamespaceType::User)
        && (mapped(linux.uid_mappings()) || mapped(linux.gid_mappings()))
    {
        return invalid("id mappings without a user namespace");
    }
    for name in linux.sysctl().iter().flatten().map(|(name, _)| name.replace('/', ".")) {
        check_sysctl(linux, &name)?;
    }
    Ok(())
}

/// Kernel parameters that belong to the ipc namespace (`sysctl(8)`, ipc/ipc_sysctl.c).
const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// A parameter that belongs to no namespace of the container's would change the host.
fn check_sysctl(linux: &Linux, name: &str) -> Result<(), RuntimeError> {
    let kind = if IPC_SYSCTLS.contains(&name) || name.starts_with("fs.mqueue.") {
        LinuxNamespaceType::Ipc
    } else if name.starts_with("net.") {
        LinuxNamespaceType::Network
    } else if name == "kernel.domainname" {
        LinuxNamespaceType::Uts
    } else if name.starts_with("user.") {
        LinuxNamespaceType::User
    } else {
        return Err(RuntimeError::Invalid(format!(
            "sysctl {name:?} is not in a separate kernel namespace"
        )));
    };
    let is_hosts = match linux.namespaces().iter().flatten().find(|ns| ns.typ() == kind) {
        None => true,
        Some(namespace) => match namespace.path() {
            Some(path) if kind == LinuxNamespaceType::Network && !path.as_os_str().is_empty() => {
                let own = Path::new("/proc/self/ns/net");
                let id = |path: &Path| rustix::fs::stat(path).map(|s| (s.st_dev, s.st_ino));
                id(path).context("inspect", path)? == id(own).context("inspect", own)?
            }
            _ => false,
        },
    };
    if is_hosts {
        return Err(RuntimeError::Invalid(format!(
            "sysctl {name:?} is the host's: the container has no {kind} namespace of its own"
        )));
    }
    Ok(())
}

/// What may be mounted inside `/proc`: files that resource views replace, and no process's.
const PROC_FILES: [&str; 11] = [
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "net/dev",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
];

/// A volume over `/proc` or a part of it makes later writes to attributes and sysctls go where the
/// volume's owner wants (CVE-2019-16884, CVE-2023-27561).
fn check_mounts(spec: &Spec, rootfs: &Path) -> Result<(), RuntimeError> {
    for mount in spec.mounts().iter().flatten() {
        let destination = mount.destination();
        let inside = resolve(rootfs, destination)?;
        let Ok(below) = inside.strip_prefix("proc") else { continue };
        let whole = below.as_os_str().is_empty() && mount.typ().as_deref() == Some("proc");
        if !whole && !PROC_FILES.iter().any(|file| below == Path::new(file)) {
            return Err(RuntimeError::Invalid(format!(
                "mount destination {} is inside /proc",
                destination.display()
            )));
        }
    }
    Ok(())
}

/// Where a path of the container leads below its root, as a relative path: links are followed
/// inside the root, and what does not exist yet is taken as it is written.
fn resolve(rootfs: &Path, path: &Path) -> Result<PathBuf, RuntimeError> {
    let root =
        rustix::fs::open(rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .context("open", rootfs)?;
    let mut resolved = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => resolved.push(name),
            Component::ParentDir => {
                resolved.pop();
            }
            _ => continue,
        }
        let found = rustix::fs::openat2(
            &root,
            &resolved,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        );
        // A missing component has nothing below it that could lead elsewhere.
        let Ok(found) = found else { continue };
        let name = format!("/proc/self/fd/{}", found.as_raw_fd());
        let real = std::fs::read_link(&name).context("read", Path::new(&name))?;
        if let Ok(real) = real.strip_prefix(rootfs) {
            resolved = real.to_owned();
        }
    }
    Ok(resolved)
}

/// The checks that `create` and `exec` share.
pub(crate) fn check_process(process: &Process) -> Result<(), RuntimeError> {
    if process.args().as_ref().is_none_or(|args| args.first().is_none_or(String::is_empty)) {
        return Err(RuntimeError::Invalid(String::from("args must not be empty")));
    }
    if !process.cwd().is_absolute() {
        return Err(RuntimeError::Invalid(format!(
            "cwd {:?} is not an absolute path",
            process.cwd()
        )));
    }
    refuse(process.scheduler().is_some(), "process.scheduler")?;
    refuse(process.io_priority().is_some(), "process.ioPriority")?;
    refuse(process.exec_cpu_affinity().is_some(), "process.execCPUAffinity")
}

/// A field that is set and would be ignored is an error, not a surprise.
fn refuse(set: bool, field: &str) -> Result<(), RuntimeError> {
    if set { Err(RuntimeError::Unsupported(field.to_owned())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn load(change: impl FnOnce(&mut serde_json::Value)) -> Result<Bundle, RuntimeError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("rootfs")).unwrap();
        let mut spec = json!({
            "ociVersion": "1.0.2",
            "root": { "path": "rootfs" },
            "process": { "args": ["true"], "cwd": "/", "user": { "uid": 0, "gid": 0 } },
            "linux": { "namespaces": [{ "type": "mount" }] },
        });
        change(&mut spec);
        std::fs::write(dir.path().join("config.json"), spec.to_string()).unwrap();
        Bundle::load(dir.path())
    }

    #[test]
    fn a_plain_bundle_is_accepted() {
        let bundle = load(|_| {}).unwrap();
        assert!(bundle.rootfs.is_absolute());
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        let error = load(|s| s["linux"]["intelRdt"] = json!({ "closID": "x" })).unwrap_err();
        assert!(error.to_string().contains("linux.intelRdt"), "{error}");
        assert!(load(|s| s["linux"]["namespaces"] = json!([])).is_err());
        assert!(load(|s| s["process"]["args"] = json!([])).is_err());
        assert!(load(|s| s["process"]["cwd"] = json!("relative")).is_err());
        assert!(load(|s| s["ociVersion"] = json!("2.0.0")).is_err());
        assert!(load(|s| s["root"]["path"] = json!("/")).is_err());
    }

    #[test]
    fn what_would_change_the_host_is_refused() {
        let with = |kinds: &[&str], sysctl: &str| {
            load(|s| {
                let kinds = kinds.iter().chain(&["mount"]);
                s["linux"]["namespaces"] =
                    kinds.map(|kind| json!({ "type": kind })).collect::<Vec<_>>().into();
                s["linux"]["sysctl"] = json!({ sysctl: "1" });
            })
        };
        with(&["ipc"], "kernel.shmmax").unwrap();
        with(&["network"], "net.ipv4.ip_forward").unwrap();
        with(&["network"], "net/ipv4/ip_forward").unwrap();
        with(&["uts"], "kernel.domainname").unwrap();
        for (kinds, sysctl) in [
            (&["network"][..], "kernel.shmmax"),
            (&["ipc"], "net.ipv4.ip_forward"),
            (&["ipc", "network", "uts"], "kernel.hostname"),
            (&["ipc", "network", "uts"], "vm.swappiness"),
            (&[], "user.max_user_namespaces"),
        ] {
            let error = with(kinds, sysctl).unwrap_err().to_string();
            assert!(error.contains(sysctl), "{error}");
        }
        let host_network = json!([
            { "type": "mount" }, { "type": "network", "path": "/proc/self/ns/net" },
        ]);
        let joined = load(|s| {
            s["linux"]["namespaces"] = host_network.clone();
            s["linux"]["sysctl"] = json!({ "net.core.somaxconn": "1" });
        });
        assert!(joined.is_err());
        assert!(load(|s| s["hostname"] = json!("x")).is_err());
        let map = json!([{ "containerID": 0, "hostID": 1, "size": 1 }]);
        assert!(load(|s| s["linux"]["uidMappings"] = map.clone()).is_err());
    }

    #[test]
    fn nothing_is_mounted_over_proc_however_it_is_spelled() {
        let with = |destination: &str, kind: &str| {
            load(|s| s["mounts"] = json!([{ "destination": destination, "type": kind }]))
        };
        with("/proc", "proc").unwrap();
        with("/proc/meminfo", "bind").unwrap();
        with("/process", "bind").unwrap();
        for destination in ["/proc", "/proc/self/attr", "/x/../proc/sys", "//proc/1", "proc"] {
            assert!(with(destination, "bind").is_err(), "{destination}");
        }
    }

    #[test]
    fn links_to_proc_are_seen_through() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("proc")).unwrap();
        for (link, target) in [("a", "/proc"), ("b", "../../proc"), ("c", "/a/sys")] {
            std::os::unix::fs::symlink(target, dir.path().join(link)).unwrap();
        }
        let root = dir.path().canonicalize().unwrap();
        assert_eq!(resolve(&root, Path::new("/a/self")).unwrap(), Path::new("proc/self"));
        assert_eq!(resolve(&root, Path::new("/b/x")).unwrap(), Path::new("proc/x"));
        assert_eq!(resolve(&root, Path::new("/data")).unwrap(), Path::new("data"));
    }
}
