//! Sources of bind mounts that only the outside can take: those of a container in a user namespace,
//! and those whose files belong to others inside than outside (Linux 5.12).
//!
//! Root of a user namespace cannot pass a directory that is closed to others, such as kubelet's.
//! And only who is root outside may map a mount, and only before anybody can see it. So the sources
//! are copied, and mapped, before there is a container, and its first process, which has our
//! descriptors, puts them where they belong. A map is a user namespace to the kernel: one is made
//! for each that is asked for, with a process that ends at once.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Mount, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;

use crate::channel;
use crate::create::map_text;
use crate::error::{IoContext, RuntimeError};
use crate::mounts::{self, Attributes, Depth};
use crate::namespaces::{Plan, write_proc};
use crate::process::namespace_path;
use crate::rootfs::options::Options;
use crate::spawn::{self, Parent};

/// The copy of each source that needs one, by the mount's place in the specification's list.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    /// Of the root file system.
    root: Option<OwnedFd>,
    mounts: Vec<Option<OwnedFd>>,
}

impl Copies {
    /// Copies what has to be, and maps what the specification wants mapped.
    pub(crate) fn of(spec: &Spec, rootfs: &Path, plan: &Plan) -> Result<Self, RuntimeError> {
        let mut root = None;
        if plan.has(LinuxNamespaceType::User) {
            let copy = mounts::clone_path(rootfs, Depth::All).context("clone", rootfs)?;
            // As all that a new mount namespace begins with is made to be.
            Attributes::propagating(libc::MS_SLAVE)
                .apply(copy.as_fd(), Depth::All)
                .context("detach", rootfs)?;
            root = Some(copy);
        }
        let list = spec.mounts().as_deref().unwrap_or_default();
        let mut maps = Maps { known: Vec::new() };
        let mut mapped = Vec::with_capacity(list.len());
        for mount in list {
            let options = Options::parse(mount.options().as_deref().unwrap_or_default())?;
            let uids = mount.uid_mappings().as_deref().unwrap_or_default();
            let gids = mount.gid_mappings().as_deref().unwrap_or_default();
            let depth = match (options.idmap, uids.is_empty() && gids.is_empty()) {
                (None, true) => {
                    let bound = plan.has(LinuxNamespaceType::User).then(|| bind(mount, &options));
                    let copy =
                        bound.flatten().map(|(depth, source)| mounts::clone_path(source, depth));
                    // What does not work here is told where the mount is made.
                    mapped.push(copy.and_then(Result::ok));
                    continue;
                }
                (depth, _) => depth.unwrap_or(Depth::One),
            };
            let (uids, gids) = if uids.is_empty() && gids.is_empty() {
                own(spec, plan)?
            } else {
                (map_text(Some(uids))?, map_text(Some(gids))?)
            };
            mapped.push(Some(maps.copy(mount, &options, depth, (uids, gids))?));
        }
        Ok(Self { root, mounts: mapped })
    }

    /// That of the mount at `index` of the list.
    pub(crate) fn get(&self, index: usize) -> Option<&OwnedFd> {
        self.mounts.get(index).and_then(Option::as_ref)
    }

    /// That of the root file system.
    pub(crate) fn root(&self) -> Option<&OwnedFd> {
        self.root.as_ref()
    }
}

/// The container's own maps, which `idmap` without others means.
fn own(spec: &Spec, plan: &Plan) -> Result<(String, String), RuntimeError> {
    let linux = spec.linux().as_ref();
    if !plan.is_new(LinuxNamespaceType::User) {
        let text = "an idmap mount without maps needs a user namespace with maps";
        return Err(RuntimeError::Invalid(String::from(text)));
    }
    let list =
        |list: Option<&Option<Vec<LinuxIdMapping>>>| map_text(list.and_then(Option::as_deref));
    Ok((list(linux.map(|l| l.uid_mappings()))?, list(linux.map(|l| l.gid_mappings()))?))
}

/// How much a bind mount takes of what; `None` for other mounts.
fn bind<'a>(mount: &'a Mount, options: &Options) -> Option<(Depth, &'a Path)> {
    let named = matches!(mount.typ().as_deref(), Some("bind" | "none" | "") | None);
    let depth = options.bind.or_else(|| named.then_some(Depth::One))?;
    Some((depth, mount.source().as_deref()?))
}

/// User namespaces by their maps, of users and groups.
struct Maps {
    known: Vec<((String, String), OwnedFd)>,
}

impl Maps {
    fn copy(
        &mut self,
        mount: &Mount,
        options: &Options,
        depth: Depth,
        maps: (String, String),
    ) -> Result<OwnedFd, RuntimeError> {
        let destination = mount.destination();
        let Some((bind, source)) = bind(mount, options) else {
            return Err(RuntimeError::Unsupported(format!(
                "id mappings of the mount at {destination:?}, which is no bind mount"
            )));
        };
        let failed = |step: &str, source_error: std::io::Error| RuntimeError::Mount {
            from: source.to_owned(),
            to: destination.to_owned(),
            hint: step.to_owned(),
            source: source_error,
        };
        let copy = mounts::clone_path(source, bind).map_err(|e| failed("copying it", e.into()))?;
        let namespace = self.namespace(maps)?;
        Attributes::default()
            .map_ids(copy.as_fd(), depth, namespace.as_fd())
            .map_err(|e| failed("mapping its ids: does the file system support it?", e))?;
        Ok(copy)
    }

    fn namespace(&mut self, maps: (String, String)) -> Result<&OwnedFd, RuntimeError> {
        if let Some(index) = self.known.iter().position(|(known, _)| *known == maps) {
            return Ok(&self.known[index].1);
        }
        let fd = make(&maps.0, &maps.1)?;
        self.known.push((maps, fd));
        match self.known.last() {
            Some((_, fd)) => Ok(fd),
            None => Err(RuntimeError::Invalid(String::from("no user namespace"))),
        }
    }
}

/// A user namespace with these maps, by a process that waits only for them.
fn make(uids: &str, gids: &str) -> Result<OwnedFd, RuntimeError> {
    let (ours, theirs) = channel::pair()?;
    let child = spawn::spawn(libc::CLONE_NEWUSER as u64, Parent::Us, None, || {
        ours.close_copy();
        // Until we close our end.
        i32::from(theirs.receive().is_err())
    })?;
    let made = (|| {
        let pid = Pid::from_raw(child.pid)
            .ok_or_else(|| RuntimeError::Process(String::from("it has no pid")))?;
        write_proc(pid, "uid_map", uids)?;
        write_proc(pid, "gid_map", gids)?;
        let path = namespace_path(child.pid, "user");
        rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .context("open", Path::new(&path))
    })();
    drop(theirs);
    drop(ours);
    spawn::wait(child.pid)?;
    made
}
