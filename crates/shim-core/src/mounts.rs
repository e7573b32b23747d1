//! The root file system: mounted by the shim, in a mount namespace of its own.
//!
//! So it vanishes with the shim and never keeps a host path busy. Only the mount that holds the
//! bundle is cut off from the host's view ([`isolate`]); volumes keep their propagation.

use std::ffi::CString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use pouch_protocol::types::Mount;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    UnmountFlags,
};

use crate::error::TaskError;
use crate::idmap::{self, IdMap};

/// mount(2) takes one page of options.
const MAX_DATA: usize = 4095;
/// Bytes of mountinfo that are read.
const MOUNTINFO_LIMIT: u64 = 16 * 1024 * 1024;

/// A mount(2) in parts.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parsed {
    flags: u32,
    propagation: u32,
    /// Path of the user namespace whose ids it gets.
    idmap: Option<String>,
    data: Vec<String>,
}

fn parse(options: &[String]) -> Parsed {
    let mut parsed = Parsed::default();
    for option in options {
        let set = |flag: MountFlags| (flag.bits(), 0);
        let clear = |flag: MountFlags| (0, flag.bits());
        let (on, off) = match option.as_str() {
            "" | "defaults" => continue,
            "ro" => set(MountFlags::RDONLY),
            "rw" => clear(MountFlags::RDONLY),
            "bind" => set(MountFlags::BIND),
            "rbind" => set(MountFlags::BIND | MountFlags::REC),
            "nosuid" => set(MountFlags::NOSUID),
            "suid" => clear(MountFlags::NOSUID),
            "nodev" => set(MountFlags::NODEV),
            "dev" => clear(MountFlags::NODEV),
            "noexec" => set(MountFlags::NOEXEC),
            "exec" => clear(MountFlags::NOEXEC),
            "sync" => set(MountFlags::SYNCHRONOUS),
            "async" => clear(MountFlags::SYNCHRONOUS),
            "dirsync" => set(MountFlags::DIRSYNC),
            "noatime" => set(MountFlags::NOATIME),
            "atime" => clear(MountFlags::NOATIME),
            "nodiratime" => set(MountFlags::NODIRATIME),
            "relatime" => set(MountFlags::RELATIME),
            "strictatime" => set(MountFlags::STRICTATIME),
            other => {
                match (propagation(other), other.strip_prefix(idmap::OPTION)) {
                    (Some(flags), _) => parsed.propagation = flags.bits(),
                    (None, Some(path)) => parsed.idmap = Some(path.to_owned()),
                    (None, None) => parsed.data.push(other.to_owned()),
                }
                continue;
            }
        };
        parsed.flags = (parsed.flags | on) & !off;
    }
    parsed
}

fn propagation(option: &str) -> Option<MountPropagationFlags> {
    use MountPropagationFlags as Flags;
    Some(match option {
        "private" => Flags::PRIVATE,
        "rprivate" => Flags::PRIVATE | Flags::REC,
        "shared" => Flags::SHARED,
        "rshared" => Flags::SHARED | Flags::REC,
        "slave" => Flags::DOWNSTREAM,
        "rslave" => Flags::DOWNSTREAM | Flags::REC,
        "unbindable" => Flags::UNBINDABLE,
        "runbindable" => Flags::UNBINDABLE | Flags::REC,
        _ => return None,
    })
}

/// Mounts `mounts` in order at `root` or below it.
pub(crate) fn mount_all(mounts: &[Mount], root: &Path) -> Result<(), TaskError> {
    for (count, mount) in mounts.iter().enumerate() {
        let result = target(root, &mount.target).and_then(|target| mount_one(mount, &target));
        if let Err(error) = result {
            if count > 0 {
                let _ = unmount_all(root);
            }
            return Err(error);
        }
    }
    Ok(())
}

/// `root`, or the directory `below` it, which must not lead out.
fn target(root: &Path, below: &str) -> Result<PathBuf, TaskError> {
    let mut target = root.to_owned();
    for component in Path::new(below).components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => target.push(name),
            Component::ParentDir | Component::Prefix(_) => {
                let detail = format!("{below:?} leads out of the root");
                return Err(TaskError::Invalid { what: "mount target", detail });
            }
        }
        // A link in a mounted layer could lead anywhere.
        if std::fs::symlink_metadata(&target).is_ok_and(|metadata| metadata.is_symlink()) {
            let detail = format!("{} is a symbolic link", target.display());
            return Err(TaskError::Invalid { what: "mount target", detail });
        }
    }
    Ok(target)
}

fn mount_one(mount: &Mount, target: &Path) -> Result<(), TaskError> {
    let failed = |errno: rustix::io::Errno| TaskError::Mount {
        fstype: mount.type_.clone(),
        target: target.to_owned(),
        source: errno.into(),
    };
    let mut parsed = parse(&mount.options);
    let flags = MountFlags::from_bits_retain(parsed.flags);
    let bind = flags.contains(MountFlags::BIND);
    let map = parsed.idmap.as_deref().map(IdMap::open).transpose()?;
    // Held until the overlay is made of them.
    let mut _layers = None;
    if let (Some(map), false) = (&map, bind) {
        if mount.type_ != "overlay" {
            return Err(TaskError::Unsupported("idmap of a mount that is no bind or overlay"));
        }
        let (options, layers) = map.layers(&parsed.data, target)?;
        parsed.data = options;
        _layers = Some(layers);
    }
    let data = parsed.data.join(",");
    let invalid = |_| TaskError::Invalid { what: "mount options", detail: "NUL byte".to_owned() };
    let c_data = CString::new(data.as_str()).map_err(invalid)?;
    if let (Some(map), true) = (&map, bind) {
        map.bind(Path::new(&mount.source), target, flags)?;
    } else if data.len() > MAX_DATA && mount.type_ == "overlay" {
        mount_long_overlay(&parsed.data, flags, target).map_err(failed)?;
    } else {
        // The kernel ignores a type here, but a name that it does not know would be refused.
        let fstype = if bind { "" } else { mount.type_.as_str() };
        rustix::mount::mount(mount.source.as_str(), target, fstype, flags, c_data.as_c_str())
            .map_err(failed)?;
    }
    // A bind mount takes its other flags only by a second call.
    let rest = flags.difference(MountFlags::BIND | MountFlags::REC);
    if bind && !rest.is_empty() {
        rustix::mount::mount_remount(target, rest | MountFlags::BIND, c"").map_err(failed)?;
    }
    if parsed.propagation != 0 {
        let flags = MountPropagationFlags::from_bits_retain(parsed.propagation);
        rustix::mount::mount_change(target, flags).map_err(failed)?;
    }
    Ok(())
}

/// Overlay with more lower layers than one page of options can name: by the mount API of Linux
/// 5.2, layer by layer (`lowerdir+`, Linux 6.8), or with paths relative to the layers' common
/// directory.
fn mount_long_overlay(
    options: &[String],
    flags: MountFlags,
    target: &Path,
) -> Result<(), rustix::io::Errno> {
    match mount_by_layer(options, flags, target) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            mount_relative(options, flags, target)
        }
        result => result,
    }
}

fn mount_by_layer(
    options: &[String],
    flags: MountFlags,
    target: &Path,
) -> Result<(), rustix::io::Errno> {
    use rustix::mount as m;
    let context = m::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    m::fsconfig_set_string(&context, "source", "overlay")?;
    for option in options {
        match option.split_once('=') {
            Some(("lowerdir", layers)) => {
                for layer in layers.split(':') {
                    m::fsconfig_set_string(&context, "lowerdir+", layer)?;
                }
            }
            Some((key, value)) => m::fsconfig_set_string(&context, key, value)?,
            None => m::fsconfig_set_flag(&context, option.as_str())?,
        }
    }
    if flags.contains(MountFlags::RDONLY) {
        m::fsconfig_set_flag(&context, "ro")?;
    }
    m::fsconfig_create(&context)?;
    let mut attributes = MountAttrFlags::empty();
    for (flag, attribute) in [
        (MountFlags::RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (MountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (MountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
        (MountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (MountFlags::NOATIME, MountAttrFlags::MOUNT_ATTR_NOATIME),
    ] {
        if flags.contains(flag) {
            attributes |= attribute;
        }
    }
    let mount = m::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    m::move_mount(&mount, "", rustix::fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn mount_relative(
    options: &[String],
    flags: MountFlags,
    target: &Path,
) -> Result<(), rustix::io::Errno> {
    let Some((base, data)) = relative_to_common(options) else {
        return Err(rustix::io::Errno::NAMETOOLONG);
    };
    let data = CString::new(data).map_err(|_| rustix::io::Errno::INVAL)?;
    let target = target.to_owned();
    // The working directory is changed on a thread that does not share it.
    let thread = std::thread::Builder::new().name("mount".to_owned()).spawn(move || {
        crate::sys::unshare_cwd().map_err(|_| rustix::io::Errno::PERM)?;
        rustix::process::chdir(&base)?;
        rustix::mount::mount("overlay", &target, "overlay", flags, data.as_c_str())
    });
    thread.map_err(|_| rustix::io::Errno::AGAIN)?.join().map_err(|_| rustix::io::Errno::FAULT)?
}

/// The layers' deepest common directory, and the options with the layers relative to it; `None`
/// if that is still too long or the layers have nothing in common.
fn relative_to_common(options: &[String]) -> Option<(PathBuf, String)> {
    let lower = options.iter().find_map(|option| option.strip_prefix("lowerdir="))?;
    let layers: Vec<&Path> = lower.split(':').map(Path::new).collect();
    let mut base = layers.first()?.parent()?.to_owned();
    while !layers.iter().all(|layer| layer.starts_with(&base)) {
        base.pop();
    }
    // Relative to the root, nothing gets shorter.
    base.parent()?;
    let short: Vec<&str> = layers
        .iter()
        .map(|layer| layer.strip_prefix(&base).ok()?.to_str())
        .collect::<Option<_>>()?;
    let data: Vec<String> = options
        .iter()
        .map(|option| match option.strip_prefix("lowerdir=") {
            Some(_) => format!("lowerdir={}", short.join(":")),
            None => option.clone(),
        })
        .collect();
    let data = data.join(",");
    (data.len() <= MAX_DATA).then_some((base, data))
}

/// Unmounts everything at `root`; nothing mounted there is no error.
pub(crate) fn unmount_all(root: &Path) -> Result<(), TaskError> {
    loop {
        // Detached, because a process that outlived the container must not keep it from going.
        match rustix::mount::unmount(root, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(TaskError::errno("unmount", root)(errno)),
        }
    }
}

/// Keeps what is mounted below `directory` from appearing on the host: the one mount that holds
/// it receives the host's changes but sends none. Every other mount keeps its propagation.
///
/// To be called in a mount namespace of our own.
pub(crate) fn isolate(directory: &Path) -> Result<(), TaskError> {
    let directory =
        std::fs::canonicalize(directory).map_err(TaskError::io("resolve", directory))?;
    let mount = holding(&mountinfo()?, &directory);
    rustix::mount::mount_change(&mount, MountPropagationFlags::DOWNSTREAM)
        .map_err(TaskError::errno("isolate", mount))
}

/// Whose mounts below the state directory a shim needs.
#[derive(Debug)]
pub(crate) struct Own<'a> {
    /// The bundle of the container that is being made.
    pub(crate) bundle: &'a Path,
    /// What names things of the group: mounts below a directory, or on a file, of such a name.
    pub(crate) names: &'a [String],
}

/// What the host had mounted for other containers when our namespace was copied from it: pinned
/// namespaces and shared memory beside our bundle, to be let go of by [`drop_others`]. They would
/// live as long as this shim, since on a host without shared propagation their unmount never gets
/// here.
pub(crate) fn find_others(own: &Own<'_>) -> Result<Vec<PathBuf>, TaskError> {
    let bundle = std::fs::canonicalize(own.bundle).map_err(TaskError::io("resolve", own.bundle))?;
    // `<state>/<group>/<id>`: the state directory of whoever started us.
    let Some(state) = bundle.parent().and_then(Path::parent).filter(|s| s.parent().is_some())
    else {
        return Ok(Vec::new());
    };
    Ok(others(&mountinfo()?, state, &Own { bundle: &bundle, names: own.names }))
}

/// Lets go of them. To be called after [`isolate`], so that nothing of it reaches the host.
pub(crate) fn drop_others(mounts: &[PathBuf]) -> Result<(), TaskError> {
    for mount in mounts {
        match rustix::mount::unmount(mount, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(TaskError::errno("let go of", mount)(errno)),
        }
    }
    Ok(())
}

/// Mount points strictly below `state` that are not our own, the deepest first.
fn others(mountinfo: &str, state: &Path, own: &Own<'_>) -> Vec<PathBuf> {
    let named = |mount: &Path| {
        let below = mount.strip_prefix(state).unwrap_or(mount);
        below
            .components()
            .any(|part| own.names.iter().any(|name| part.as_os_str() == name.as_str()))
    };
    let mut mounts: Vec<PathBuf> = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)))
        .filter(|mount| mount.starts_with(state) && mount != state)
        .filter(|mount| !mount.starts_with(own.bundle) && !named(mount))
        .collect();
    mounts.reverse();
    mounts
}

fn mountinfo() -> Result<String, TaskError> {
    let mut text = String::new();
    File::open("/proc/self/mountinfo")
        .and_then(|file| file.take(MOUNTINFO_LIMIT).read_to_string(&mut text))
        .map_err(TaskError::io("read", "/proc/self/mountinfo"))?;
    Ok(text)
}

/// The mount point that holds `path`: the longest one; of several, mountinfo lists the top last.
fn holding(mountinfo: &str, path: &Path) -> PathBuf {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)))
        .filter(|mount| path.starts_with(mount))
        .max_by_key(|mount| mount.components().count())
        .unwrap_or_else(|| PathBuf::from("/"))
}

/// mountinfo writes blanks and backslashes in octal.
fn unescape(field: &str) -> String {
    let mut text = field.to_owned();
    for (code, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(code, character);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(options: &[&str]) -> Vec<String> {
        options.iter().map(|&option| option.to_owned()).collect()
    }

    #[test]
    fn options_are_flags_propagation_or_data() {
        let parsed = parse(&strings(&[
            "ro",
            "nosuid",
            "rw",
            "rslave",
            "lowerdir=/a",
            "idmap=/u",
            "userxattr",
        ]));
        assert_eq!(parsed.idmap.as_deref(), Some("/u"));
        assert_eq!(parsed.flags, MountFlags::NOSUID.bits());
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        assert_eq!(parsed.propagation, slave.bits());
        assert_eq!(parsed.data, ["lowerdir=/a", "userxattr"]);
    }

    #[test]
    fn targets_stay_inside() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(target(root, "").unwrap(), root);
        assert_eq!(target(root, "/a/./b").unwrap(), root.join("a/b"));
        assert!(target(root, "a/../..").is_err());
        std::os::unix::fs::symlink("/etc", root.join("link")).unwrap();
        assert!(target(root, "link/x").is_err());
    }

    #[test]
    fn long_lists_become_relative() {
        let layers: Vec<String> =
            (0..60).map(|n| format!("/var/lib/pouch/{:064}/diff", n)).collect();
        let options = vec![format!("lowerdir={}", layers.join(":")), "index=off".to_owned()];
        assert!(options.join(",").len() > MAX_DATA);
        assert!(relative_to_common(&options).is_none());
        let layers: Vec<String> =
            (0..60).map(|n| format!("/var/lib/{}/{n}/diff", "x".repeat(64))).collect();
        let options = vec![format!("lowerdir={}", layers.join(":")), "index=off".to_owned()];
        let (base, data) = relative_to_common(&options).unwrap();
        assert_eq!(base, Path::new("/var/lib").join("x".repeat(64)));
        assert!(data.starts_with("lowerdir=0/diff:1/diff:"), "{data}");
        assert!(data.ends_with(",index=off"));
    }

    #[test]
    fn others_are_those_beside_the_bundle() {
        let mountinfo = "1 0 0:1 / / rw - ext4 x rw\n\
            2 1 0:2 / /run/p rw - tmpfs x rw\n\
            3 2 0:3 net:[1] /run/p/netns/a rw - nsfs nsfs rw\n\
            4 2 0:4 / /run/p/t/me/rootfs rw - overlay x rw\n\
            5 2 0:5 / /run/p/shm/b rw - tmpfs x rw\n\
            6 1 0:6 / /run/pp rw - tmpfs x rw\n\
            7 2 0:6 net:[2] /run/p/pods/pod/ns/net rw - nsfs nsfs rw\n";
        let bundle = Path::new("/run/p/t/me");
        let find = |names: &[String]| {
            others(mountinfo, Path::new("/run/p"), &Own { bundle, names })
                .into_iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(find(&[]), ["/run/p/pods/pod/ns/net", "/run/p/shm/b", "/run/p/netns/a"]);
        assert_eq!(find(&["pod".to_owned(), "b".to_owned()]), ["/run/p/netns/a"]);
    }

    #[test]
    fn the_deepest_mount_holds_a_path() {
        let info = "1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / /run rw shared:1 - tmpfs x rw\n\
                    3 2 0:3 / /run/a\\040b rw - tmpfs x rw\n4 1 0:4 / /runner rw - tmpfs x rw\n";
        assert_eq!(holding(info, Path::new("/run/a b/c")), Path::new("/run/a b"));
        assert_eq!(holding(info, Path::new("/run/c")), Path::new("/run"));
        assert_eq!(holding(info, Path::new("/home")), Path::new("/"));
    }
}
