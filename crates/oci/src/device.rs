//! Device nodes and the rules that let a container use them.

use std::fmt::Debug;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use pouch_types::spec::{ContainerSpec, DeviceSpec};

use crate::error::SpecError;
use crate::mount::check_destination;
use crate::spec::{Device, DeviceKind, DeviceRule};

/// Nodes that one `--device` directory may hold, and a privileged container may get.
const MAX_DEVICES: usize = 4096;
/// Rules that one request may name.
const MAX_RULES: usize = 1024;
/// Levels of directories that are searched for nodes.
const MAX_DEPTH: usize = 16;

/// Where device nodes are looked up: the machine's `/dev`, or a test's idea of it.
pub trait DeviceSource: Debug {
    /// The node at a path, links followed; `None` when something else is there. The path of the
    /// result is the one asked for.
    ///
    /// # Errors
    /// Of stat(2).
    fn node(&self, path: &str) -> io::Result<Option<Device>>;

    /// All nodes in a directory and below, links to directories not followed.
    ///
    /// # Errors
    /// Of opendir(3) on the directory itself; what vanishes meanwhile is left out.
    fn nodes_below(&self, directory: &str) -> io::Result<Vec<Device>>;
}

/// The machine's.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostDevices;

impl DeviceSource for HostDevices {
    fn node(&self, path: &str) -> io::Result<Option<Device>> {
        Ok(device(path, &fs::metadata(path)?))
    }

    fn nodes_below(&self, directory: &str) -> io::Result<Vec<Device>> {
        let mut found = Vec::new();
        let mut todo = vec![(directory.to_owned(), 0)];
        while let Some((directory, depth)) = todo.pop() {
            let entries = match fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) if depth == 0 => return Err(error),
                Err(_) => continue,
            };
            for entry in entries.flatten() {
                // A name that is no text cannot be in a JSON document.
                let Ok(name) = entry.file_name().into_string() else { continue };
                let path = format!("{}/{name}", directory.trim_end_matches('/'));
                let Ok(kind) = entry.file_type() else { continue };
                if kind.is_dir() {
                    if depth < MAX_DEPTH {
                        todo.push((path, depth + 1));
                    }
                } else if kind.is_block_device() || kind.is_char_device() {
                    if found.len() >= MAX_DEVICES {
                        return Err(io::Error::other("too many device nodes"));
                    }
                    found.extend(entry.metadata().ok().and_then(|meta| device(&path, &meta)));
                }
            }
        }
        found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }
}

fn device(path: &str, meta: &fs::Metadata) -> Option<Device> {
    let kind = if meta.file_type().is_block_device() {
        DeviceKind::B
    } else if meta.file_type().is_char_device() {
        DeviceKind::C
    } else {
        return None;
    };
    Some(Device {
        path: path.to_owned(),
        kind,
        major: rustix::fs::major(meta.rdev()),
        minor: rustix::fs::minor(meta.rdev()),
        file_mode: Some(meta.mode() & 0o7777),
        uid: Some(meta.uid()),
        gid: Some(meta.gid()),
    })
}

/// Nodes to make and rules, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct DeviceSet {
    pub(crate) devices: Vec<Device>,
    pub(crate) rules: Vec<DeviceRule>,
}

/// The nodes and rules of a container.
///
/// The default rules deny all but null, zero, full, random, urandom, tty, console and the
/// terminals; the nodes themselves are made by every runtime. A privileged container gets all
/// nodes of the host, except those of terminals and queues that it has of its own.
pub(crate) fn resolve(
    spec: &ContainerSpec,
    source: &dyn DeviceSource,
) -> Result<DeviceSet, SpecError> {
    let privileged = spec.security.privileged;
    let mut set = DeviceSet::default();
    if privileged {
        let below = source.nodes_below("/dev").map_err(|source| SpecError::Device {
            field: "HostConfig.Privileged",
            path: "/dev".to_owned(),
            source,
        })?;
        set.devices.extend(below.into_iter().filter(|device| !is_own(&device.path)));
        set.rules.push(all(true));
    } else {
        set.rules = default_rules();
    }
    for asked in &spec.resources.devices {
        // In a privileged container it is there already.
        if privileged && asked.host_path == asked.container_path {
            continue;
        }
        add(asked, source, &mut set, privileged)?;
    }
    if !privileged {
        if spec.resources.device_cgroup_rules.len() > MAX_RULES {
            return Err(SpecError::invalid("HostConfig.DeviceCgroupRules", "too many rules"));
        }
        for rule in &spec.resources.device_cgroup_rules {
            set.rules.push(parse_rule(rule)?);
        }
    }
    Ok(set)
}

/// Nodes of the host that a container has of its own, or that are not its.
fn is_own(path: &str) -> bool {
    const DIRECTORIES: [&str; 7] = [
        "/dev/pts/",
        "/dev/shm/",
        "/dev/fd/",
        "/dev/mqueue/",
        "/dev/.lxc/",
        "/dev/.lxd-mounts/",
        "/dev/.udev/",
    ];
    const NODES: [&str; 8] = [
        "/dev/console",
        "/dev/null",
        "/dev/zero",
        "/dev/full",
        "/dev/random",
        "/dev/urandom",
        "/dev/tty",
        "/dev/ptmx",
    ];
    NODES.contains(&path) || DIRECTORIES.iter().any(|directory| path.starts_with(directory))
}

fn add(
    asked: &DeviceSpec,
    source: &dyn DeviceSource,
    set: &mut DeviceSet,
    privileged: bool,
) -> Result<(), SpecError> {
    const FIELD: &str = "HostConfig.Devices";
    check_destination(FIELD, &asked.container_path)?;
    if !is_access(&asked.permissions) {
        return Err(SpecError::invalid(
            FIELD,
            format!("permissions {:?} are no subset of rwm", asked.permissions),
        ));
    }
    let failed = |source| SpecError::Device { field: FIELD, path: asked.host_path.clone(), source };
    let found = match source.node(&asked.host_path).map_err(failed)? {
        Some(device) => vec![Device { path: asked.container_path.clone(), ..device }],
        None => source
            .nodes_below(&asked.host_path)
            .map_err(failed)?
            .into_iter()
            .filter_map(|device| {
                let rest = device.path.strip_prefix(asked.host_path.trim_end_matches('/'))?;
                let path = format!("{}{rest}", asked.container_path.trim_end_matches('/'));
                Some(Device { path, ..device })
            })
            .collect(),
    };
    if found.is_empty() {
        return Err(SpecError::invalid(
            FIELD,
            format!("{} is no device node and holds none", asked.host_path),
        ));
    }
    for device in found {
        if !privileged {
            set.rules.push(DeviceRule {
                allow: true,
                kind: Some(device.kind),
                major: Some(device.major),
                minor: Some(device.minor),
                access: asked.permissions.clone(),
            });
        }
        // Two nodes at one path cannot be made; the later request wins, as the last rule does.
        set.devices.retain(|known| known.path != device.path);
        set.devices.push(device);
        if set.devices.len() > MAX_DEVICES {
            return Err(SpecError::invalid(FIELD, "too many device nodes"));
        }
    }
    Ok(())
}

fn all(allow: bool) -> DeviceRule {
    DeviceRule { allow, kind: None, major: None, minor: None, access: "rwm".to_owned() }
}

fn default_rules() -> Vec<DeviceRule> {
    let char_rule = |allow, major, minor| DeviceRule {
        allow,
        kind: Some(DeviceKind::C),
        major: Some(major),
        minor: Some(minor),
        access: "rwm".to_owned(),
    };
    vec![
        all(false),
        char_rule(true, 1, 5),
        char_rule(true, 1, 3),
        char_rule(true, 1, 9),
        char_rule(true, 1, 8),
        char_rule(true, 5, 0),
        char_rule(true, 5, 1),
        // fuse
        char_rule(false, 10, 229),
    ]
}

/// `c 1:3 mr`, `b *:* r`, `a *:* rwm`.
fn parse_rule(text: &str) -> Result<DeviceRule, SpecError> {
    let wrong = || {
        SpecError::invalid(
            "HostConfig.DeviceCgroupRules",
            format!("invalid device cgroup rule format: '{}'", text.escape_debug()),
        )
    };
    let mut fields = text.split(' ');
    let (Some(kind), Some(numbers), Some(access), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(wrong());
    };
    let kind = match kind {
        "a" => DeviceKind::A,
        "b" => DeviceKind::B,
        "c" => DeviceKind::C,
        _ => return Err(wrong()),
    };
    let number = |text: &str| -> Result<Option<u32>, SpecError> {
        if text == "*" {
            Ok(None)
        } else if text.bytes().all(|b| b.is_ascii_digit()) {
            text.parse().map(Some).map_err(|_| wrong())
        } else {
            Err(wrong())
        }
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(wrong)?;
    if !is_access(access) {
        return Err(wrong());
    }
    Ok(DeviceRule {
        allow: true,
        kind: Some(kind),
        major: number(major)?,
        minor: number(minor)?,
        access: access.to_owned(),
    })
}

fn is_access(text: &str) -> bool {
    (1..=3).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'r' | b'w' | b'm'))
}

/// `major` and `minor` of a block device by path.
pub(crate) fn block_device(
    field: &'static str,
    path: &str,
    source: &dyn DeviceSource,
) -> Result<(u32, u32), SpecError> {
    let found = source.node(path).map_err(|source| SpecError::Device {
        field,
        path: path.to_owned(),
        source,
    })?;
    match found {
        Some(device) if device.kind == DeviceKind::B => Ok((device.major, device.minor)),
        _ => Err(SpecError::invalid(field, format!("{path} is no block device"))),
    }
}

#[cfg(test)]
pub(crate) mod fake {
    use super::*;

    /// A machine with a disk, fuse and a card with two nodes.
    #[derive(Debug)]
    pub(crate) struct FakeDevices;

    fn nodes() -> Vec<Device> {
        let node = |path: &str, kind, major, minor| Device {
            path: path.to_owned(),
            kind,
            major,
            minor,
            file_mode: Some(0o660),
            uid: Some(0),
            gid: Some(6),
        };
        vec![
            node("/dev/console", DeviceKind::C, 5, 1),
            node("/dev/dri/card0", DeviceKind::C, 226, 0),
            node("/dev/dri/renderD128", DeviceKind::C, 226, 128),
            node("/dev/fuse", DeviceKind::C, 10, 229),
            node("/dev/null", DeviceKind::C, 1, 3),
            node("/dev/pts/0", DeviceKind::C, 136, 0),
            node("/dev/vda", DeviceKind::B, 254, 0),
        ]
    }

    impl DeviceSource for FakeDevices {
        fn node(&self, path: &str) -> io::Result<Option<Device>> {
            let prefix = format!("{path}/");
            if nodes().iter().any(|node| node.path.starts_with(&prefix)) {
                return Ok(None);
            }
            nodes()
                .into_iter()
                .find(|node| node.path == path)
                .map(Some)
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        }

        fn nodes_below(&self, directory: &str) -> io::Result<Vec<Device>> {
            let prefix = format!("{}/", directory.trim_end_matches('/'));
            Ok(nodes().into_iter().filter(|node| node.path.starts_with(&prefix)).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use pouch_types::spec::{Resources, SecuritySpec};

    use super::fake::FakeDevices;
    use super::*;

    fn asked(host: &str, container: &str, permissions: &str) -> ContainerSpec {
        let device = DeviceSpec {
            host_path: host.into(),
            container_path: container.into(),
            permissions: permissions.into(),
        };
        ContainerSpec {
            resources: Resources { devices: vec![device], ..Resources::default() },
            ..ContainerSpec::default()
        }
    }

    #[test]
    fn one_node_under_another_name() {
        let set = resolve(&asked("/dev/fuse", "/dev/f", "rw"), &FakeDevices).unwrap();
        assert_eq!(set.devices.len(), 1);
        assert_eq!(set.devices[0].path, "/dev/f");
        let last = set.rules.last().unwrap();
        assert_eq!((last.major, last.minor, last.access.as_str()), (Some(10), Some(229), "rw"));
        assert_eq!(set.rules[0], all(false));
    }

    #[test]
    fn a_directory_of_nodes() {
        let set = resolve(&asked("/dev/dri", "/gpu/", "rwm"), &FakeDevices).unwrap();
        let paths: Vec<&str> = set.devices.iter().map(|device| device.path.as_str()).collect();
        assert_eq!(paths, ["/gpu/card0", "/gpu/renderD128"]);
    }

    #[test]
    fn refusals() {
        for (host, container, permissions) in [
            ("/dev/none", "/dev/none", "rwm"),
            ("/dev/fuse", "dev/fuse", "rwm"),
            ("/dev/fuse", "/proc/kcore", "rwm"),
            ("/dev/fuse", "/dev/fuse", "x"),
            ("/dev/fuse", "/dev/fuse", ""),
            ("/dev/fuse", "/dev/fuse", "rwmr"),
        ] {
            let refused = resolve(&asked(host, container, permissions), &FakeDevices);
            assert!(refused.is_err(), "{host} {container} {permissions}");
        }
    }

    #[test]
    fn privileged_gets_all_but_its_own() {
        let mut spec = asked("/dev/fuse", "/dev/fuse", "r");
        spec.security = SecuritySpec { privileged: true, ..SecuritySpec::default() };
        let set = resolve(&spec, &FakeDevices).unwrap();
        let paths: Vec<&str> = set.devices.iter().map(|device| device.path.as_str()).collect();
        assert_eq!(paths, ["/dev/dri/card0", "/dev/dri/renderD128", "/dev/fuse", "/dev/vda"]);
        assert_eq!(set.rules, [all(true)]);
    }

    #[test]
    fn rules() {
        let rule = parse_rule("c 1:* mr").unwrap();
        assert_eq!((rule.kind, rule.major, rule.minor), (Some(DeviceKind::C), Some(1), None));
        assert_eq!(parse_rule("a *:* rwm").unwrap().kind, Some(DeviceKind::A));
        for text in [
            "",
            "c",
            "c 1:3",
            "d 1:3 r",
            "c 1 r",
            "c 1:3 x",
            "c 1:3 rwmr",
            "c 1:3  r",
            "c -1:3 r",
            "c 4294967296:3 r",
            "c 1:3 r\n",
            "c +1:3 r",
        ] {
            assert!(parse_rule(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn block_devices() {
        assert_eq!(block_device("f", "/dev/vda", &FakeDevices).unwrap(), (254, 0));
        assert!(block_device("f", "/dev/fuse", &FakeDevices).is_err());
        assert!(block_device("f", "/dev/none", &FakeDevices).is_err());
    }

    #[test]
    fn the_machines_nodes() {
        let null = HostDevices.node("/dev/null").unwrap().unwrap();
        assert_eq!((null.kind, null.major, null.minor), (DeviceKind::C, 1, 3));
        assert_eq!(HostDevices.node("/dev").unwrap(), None);
        assert!(HostDevices.nodes_below("/dev").unwrap().iter().any(|d| d.path == "/dev/null"));
    }
}
