//! Overlay mounts: as a description for shims, and as a mount that is attached nowhere.

use std::fmt::Write as _;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use pouch_rootfd::RootFd;
use pouch_types::{Classified, ContainerId, ErrorKind};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

use crate::error::{Result, SnapshotError};
use crate::layout::{SnapshotConfig, discard, random_name};
use crate::reaper::When;

/// The kernel copies one page of options, with a NUL at its end.
const MAX_OPTIONS: usize = 4095;

/// One mount as containerd's `types.Mount` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// File system type, or `bind`.
    pub kind: String,
    /// Source; `overlay` for overlay.
    pub source: String,
    /// Options, each `key` or `key=value`.
    pub options: Vec<String>,
}

/// The directories of one container root.
#[derive(Debug, Clone)]
pub(crate) struct Stack {
    /// Numbers of the layers, top first.
    pub(crate) lower: Vec<i64>,
    pub(crate) container: ContainerId,
}

impl Stack {
    fn lower_paths(&self, config: &SnapshotConfig) -> impl Iterator<Item = PathBuf> {
        let base = config.state.join("l");
        self.lower.iter().map(move |number| base.join(number.to_string()))
    }

    fn own(&self, config: &SnapshotConfig, name: &str) -> PathBuf {
        config.root.join("c").join(self.container.as_str()).join(name)
    }
}

/// What the running kernel's overlay can do.
#[derive(Debug)]
pub(crate) struct Overlay {
    /// Features that a distribution may have on by default and that would make the upper
    /// directory mean something only together with this machine's other state.
    off: Vec<&'static str>,
    /// `fsconfig` takes layers one by one (Linux 6.7), so no page limits them.
    lower_by_lower: bool,
}

impl Overlay {
    /// Tries a mount below `root`.
    pub(crate) fn probe(root: &RootFd, config: &SnapshotConfig) -> Result<Self> {
        let fail = |source| SnapshotError::Overlay { path: config.root.clone(), source };
        let name = random_name()?;
        let parts = ["a", "b", "upper", "work"];
        let made = parts
            .iter()
            .try_for_each(|part| root.create_dir_all(format!("s/{name}/{part}"), 0o700).map(drop));
        let base = config.root.join("s").join(&name);
        let mut overlay = Self { off: Vec::new(), lower_by_lower: true };
        let mut mounted = match &made {
            Ok(()) => {
                let (upper, work) = (base.join("upper"), base.join("work"));
                let own = Some((upper.as_path(), work.as_path()));
                overlay.try_one(config, &[base.join("a"), base.join("b")], own)
            }
            Err(_) => Err(Errno::NOSPC.into()),
        };
        discard(&root.resolve("s")?, name.as_ref(), &root.resolve("t")?, When::Now)?;
        match made {
            Err(error) if error.kind() != ErrorKind::ResourceExhausted => return Err(error.into()),
            _ => {}
        }
        if mounted.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::StorageFull) {
            // Who cannot start cannot remove either: on a full disk a mount must do that makes
            // nothing below it.
            overlay.lower_by_lower = true;
            mounted =
                overlay.try_one(config, &[config.root.join("l"), config.root.join("c")], None);
        }
        mounted.map_err(fail)?;
        // The module is loaded now, so its parameters can be seen.
        for (parameter, option) in [
            ("index", "index=off"),
            ("metacopy", "metacopy=off"),
            ("redirect_dir", "redirect_dir=off"),
        ] {
            let path = format!("/sys/module/overlay/parameters/{parameter}");
            if rustix::fs::access(path.as_str(), rustix::fs::Access::EXISTS).is_ok() {
                overlay.off.push(option);
            }
        }
        Ok(overlay)
    }

    /// Mounts and lets go, in the old way when the new one fails, and notes which it was.
    fn try_one(
        &mut self,
        config: &SnapshotConfig,
        lower: &[PathBuf],
        own: Option<(&Path, &Path)>,
    ) -> io::Result<()> {
        let mut mounted = self.mount_new(lower, own);
        if mounted.is_err() {
            self.lower_by_lower = false;
            mounted = self.mount_old(config, lower, own);
        }
        mounted.map(drop)
    }

    /// The mount of `stack` for a shim.
    pub(crate) fn entry(&self, config: &SnapshotConfig, stack: &Stack) -> Result<MountEntry> {
        if stack.lower.is_empty() {
            // Overlay needs a lower directory; an image without layers is just its upper one.
            return Ok(MountEntry {
                kind: "bind".into(),
                source: stack.own(config, "fs").display().to_string(),
                options: vec!["rbind".into(), "rw".into()],
            });
        }
        let lower: Vec<_> = stack.lower_paths(config).collect();
        let (upper, work) = (stack.own(config, "fs"), stack.own(config, "work"));
        let options = self.options(&lower, Some((&upper, &work)));
        check_length(&options, lower.len())?;
        Ok(MountEntry { kind: "overlay".into(), source: "overlay".into(), options })
    }

    fn options(&self, lower: &[PathBuf], own: Option<(&Path, &Path)>) -> Vec<String> {
        let mut list = String::from("lowerdir=");
        for (n, path) in lower.iter().enumerate() {
            let colon = if n == 0 { "" } else { ":" };
            // Writing to a string does not fail.
            let _ = write!(list, "{colon}{}", path.display());
        }
        let mut options = vec![list];
        if let Some((upper, work)) = own {
            options.push(format!("upperdir={}", upper.display()));
            options.push(format!("workdir={}", work.display()));
        }
        options.extend(self.off.iter().map(|option| (*option).to_owned()));
        options
    }

    /// Mounts `stack` attached nowhere.
    pub(crate) fn mount(&self, config: &SnapshotConfig, stack: &Stack) -> Result<RootFd> {
        if stack.lower.is_empty() {
            return Ok(RootFd::open(stack.own(config, "fs"))?);
        }
        let lower: Vec<_> = stack.lower_paths(config).collect();
        let (upper, work) = (stack.own(config, "fs"), stack.own(config, "work"));
        self.mount_directories(config, &lower, Some((&upper, &work)))
    }

    fn mount_directories(
        &self,
        config: &SnapshotConfig,
        lower: &[PathBuf],
        own: Option<(&Path, &Path)>,
    ) -> Result<RootFd> {
        let fail = |source| SnapshotError::Overlay { path: config.root.clone(), source };
        let fd = if self.lower_by_lower {
            self.mount_new(lower, own).map_err(fail)?
        } else {
            check_length(&self.options(lower, own), lower.len())?;
            self.mount_old(config, lower, own).map_err(fail)?
        };
        Ok(RootFd::from_fd(fd)?)
    }

    /// By the mount API of Linux 5.2 with the overlay keys of 6.7: never attached at all.
    fn mount_new(&self, lower: &[PathBuf], own: Option<(&Path, &Path)>) -> io::Result<OwnedFd> {
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for path in lower {
            fsconfig_set_string(&fs, "lowerdir+", path)?;
        }
        if let Some((upper, work)) = own {
            fsconfig_set_string(&fs, "upperdir", upper)?;
            fsconfig_set_string(&fs, "workdir", work)?;
        }
        for option in &self.off {
            if let Some((key, value)) = option.split_once('=') {
                fsconfig_set_string(&fs, key, value)?;
            }
        }
        fsconfig_create(&fs)?;
        let flags = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
        Ok(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
    }

    /// By `mount(2)` on a directory of ours, and off again as soon as it is open.
    fn mount_old(
        &self,
        config: &SnapshotConfig,
        lower: &[PathBuf],
        own: Option<(&Path, &Path)>,
    ) -> io::Result<OwnedFd> {
        let name = random_name().map_err(io::Error::other)?;
        let target = config.state.join(format!("m-{name}"));
        rustix::fs::mkdirat(CWD, &target, Mode::from_raw_mode(0o700))?;
        let options = self.options(lower, own).join(",");
        let options = std::ffi::CString::new(options)?;
        let flags = MountFlags::NODEV | MountFlags::NOSUID;
        let mounted = rustix::mount::mount("overlay", &target, "overlay", flags, &*options);
        let opened = mounted.and_then(|()| {
            let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(CWD, &target, open, Mode::empty());
            rustix::mount::unmount(&target, UnmountFlags::DETACH).and(opened)
        });
        let removed = rustix::fs::unlinkat(CWD, &target, rustix::fs::AtFlags::REMOVEDIR);
        match (opened, removed) {
            // Another mount namespace may still show the mount for a moment.
            (opened, Err(Errno::BUSY)) => Ok(opened?),
            (opened, removed) => Ok(opened.and_then(|fd| removed.map(|()| fd))?),
        }
    }
}

/// The layers of `stack` without what the container changed.
pub(crate) fn lower_view(
    overlay: &Overlay,
    config: &SnapshotConfig,
    stack: &Stack,
) -> Result<Option<RootFd>> {
    let lower: Vec<_> = stack.lower_paths(config).collect();
    match lower.as_slice() {
        [] => Ok(None),
        // Overlay does not mount one lower directory alone. Its own whiteouts show, and readers
        // take them for absent files.
        [only] => Ok(Some(RootFd::open(only)?)),
        several => overlay.mount_directories(config, several, None).map(Some),
    }
}

/// Opens the root that `mounts` make up, in their order and without a place that anybody sees.
/// `state` is a directory for where the mount API of Linux 5.2 does not do.
///
/// # Errors
/// [`SnapshotError::Mount`] names the mount that failed.
pub fn open_mounts(mounts: &[MountEntry], state: &Path) -> Result<RootFd> {
    match mounts {
        [only] if only.is_bind() => Ok(RootFd::open(&only.source)?),
        [only] => match mount_by_option(only) {
            Ok(fd) => Ok(RootFd::from_fd(fd)?),
            Err(error) => {
                tracing::debug!(%error, kind = only.kind, "mounting in the old way");
                mount_and_let_go(mounts, state)
            }
        },
        several => mount_and_let_go(several, state),
    }
}

impl MountEntry {
    fn is_bind(&self) -> bool {
        self.kind == "bind" || self.options.iter().any(|o| o == "bind" || o == "rbind")
    }

    fn failed(&self, source: impl Into<io::Error>) -> SnapshotError {
        let (kind, origin) = (self.kind.clone(), self.source.clone());
        SnapshotError::Mount { kind, origin, source: source.into() }
    }
}

/// By the mount API of Linux 5.2, lower directories one by one (6.7).
fn mount_by_option(mount: &MountEntry) -> io::Result<OwnedFd> {
    let fs = fsopen(mount.kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "source", mount.source.as_str())?;
    for option in &mount.options {
        match option.split_once('=') {
            Some(("lowerdir", layers)) => {
                for layer in layers.split(':') {
                    fsconfig_set_string(&fs, "lowerdir+", layer)?;
                }
            }
            Some((key, value)) => fsconfig_set_string(&fs, key, value)?,
            None if option == "rw" || option == "defaults" || option.is_empty() => {}
            None => fsconfig_set_flag(&fs, option.as_str())?,
        }
    }
    fsconfig_create(&fs)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    Ok(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}

/// By `mount(2)` on a directory of ours, one over the other, and off again as soon as it is open.
fn mount_and_let_go(mounts: &[MountEntry], state: &Path) -> Result<RootFd> {
    let target = state.join(format!("m-{}", random_name()?));
    let io = |operation| move |e: Errno| SnapshotError::io(operation, "", e);
    rustix::fs::mkdirat(CWD, &target, Mode::from_raw_mode(0o700)).map_err(io("make"))?;
    let mut made = 0;
    let mounted = mounts.iter().try_for_each(|mount| {
        let done = mount_old_style(mount, &target).map_err(|e| mount.failed(e));
        made += usize::from(done.is_ok());
        done
    });
    let opened = mounted.and_then(|()| {
        let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, &target, open, Mode::empty()).map_err(io("open"))
    });
    for _ in 0..made {
        let _ = rustix::mount::unmount(&target, UnmountFlags::DETACH);
    }
    let _ = rustix::fs::unlinkat(CWD, &target, rustix::fs::AtFlags::REMOVEDIR);
    Ok(RootFd::from_fd(opened?)?)
}

fn mount_old_style(mount: &MountEntry, target: &Path) -> io::Result<()> {
    if mount.is_bind() {
        let flags = MountFlags::BIND | MountFlags::REC;
        return Ok(rustix::mount::mount(mount.source.as_str(), target, "", flags, c"")?);
    }
    let mut flags = MountFlags::NODEV | MountFlags::NOSUID;
    let mut data = Vec::new();
    for option in &mount.options {
        match option.as_str() {
            "ro" => flags |= MountFlags::RDONLY,
            "rw" | "defaults" | "" => {}
            other => data.push(other),
        }
    }
    let data = std::ffi::CString::new(data.join(","))?;
    Ok(rustix::mount::mount(
        mount.source.as_str(),
        target,
        mount.kind.as_str(),
        flags,
        data.as_c_str(),
    )?)
}

fn check_length(options: &[String], layers: usize) -> Result<()> {
    let length: usize = options.iter().map(|option| option.len() + 1).sum();
    if length <= MAX_OPTIONS {
        return Ok(());
    }
    let lower = options.first().map_or(0, String::len);
    let per_layer = (lower / layers.max(1)).max(1);
    let most = (MAX_OPTIONS - (length - lower)) / per_layer;
    Err(SnapshotError::TooManyLayers { layers, most })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &Path) -> SnapshotConfig {
        SnapshotConfig {
            root: dir.join("data"),
            state: dir.to_owned(),
            unpack_binary: PathBuf::from("/nonexistent"),
        }
    }

    /// Kernels before 6.7 take the other way; both must give the same.
    #[test]
    fn both_ways_to_mount_are_detached() {
        if !rustix::process::geteuid().is_root() {
            println!("not root: skipped");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        for part in ["a", "b", "upper", "work"] {
            std::fs::create_dir(dir.path().join(part)).unwrap();
        }
        std::fs::write(dir.path().join("a/top"), "").unwrap();
        std::fs::write(dir.path().join("b/bottom"), "").unwrap();
        let lower = [dir.path().join("a"), dir.path().join("b")];
        let (upper, work) = (dir.path().join("upper"), dir.path().join("work"));
        for lower_by_lower in [false, true] {
            let overlay = Overlay { off: vec!["metacopy=off"], lower_by_lower };
            let mounted = overlay
                .mount_directories(&config(dir.path()), &lower, Some((&upper, &work)))
                .unwrap();
            assert!(mounted.metadata("top").is_ok() && mounted.metadata("bottom").is_ok());
            mounted.replace_file("written", b"x", 0o644).unwrap();
            assert!(upper.join("written").exists());
            let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!table.contains(dir.path().to_str().unwrap()), "{lower_by_lower}");
        }
        // No mount point is left behind.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
    }

    #[test]
    fn what_does_not_fit_into_a_page_is_refused_with_the_number_that_does() {
        let overlay = Overlay { off: Vec::new(), lower_by_lower: false };
        let base = PathBuf::from(format!("/{}", "d".repeat(60)));
        let lower: Vec<_> = (0..127).map(|n| base.join(n.to_string())).collect();
        let options = overlay.options(&lower, Some((Path::new("/u"), Path::new("/w"))));
        match check_length(&options, lower.len()) {
            Err(SnapshotError::TooManyLayers { layers: 127, most }) => {
                let fewer =
                    overlay.options(&lower[..most], Some((Path::new("/u"), Path::new("/w"))));
                assert!(most > 50 && check_length(&fewer, most).is_ok(), "{most}");
            }
            other => panic!("{other:?}"),
        }
    }
}
