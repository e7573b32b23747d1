//! Makes and removes groups: parents of containers, and a group with all below it.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use rustix::io::Errno;

use crate::error::Error;
use crate::file;
use crate::freeze::pause;
use crate::group::{Cgroup, check_path, tree};
use crate::layout::Layout;

/// Makes the group `path` in every hierarchy, as a place for containers' groups. Idempotent.
///
/// On v1 `cpuset.cpus` and `cpuset.mems` are filled from above where they are empty, since the
/// kernel admits no process before. On v2 every controller is delegated to the children at each
/// level. A hierarchy that is mounted read-only is left alone, for the runtimes do so too.
///
/// # Errors
/// [`Error::BadPath`], [`Error::Io`].
pub fn ensure_parent(layout: &Layout, path: &str) -> Result<(), Error> {
    make(layout, path)?;
    for hierarchy in layout.hierarchies().iter().filter(|h| h.unified) {
        delegate(&hierarchy.dir(path), &hierarchy.controllers)?;
    }
    Ok(())
}

/// Makes the group and those above it, and delegates from above.
fn make(layout: &Layout, path: &str) -> Result<(), Error> {
    check_path(path)?;
    for hierarchy in layout.hierarchies() {
        let mut group = String::new();
        for part in path.trim_start_matches('/').split('/') {
            if hierarchy.unified {
                delegate(&hierarchy.dir(&group), &hierarchy.controllers)?;
            }
            group.push('/');
            group.push_str(part);
            let dir = hierarchy.dir(&group);
            match fs::create_dir(&dir) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => break,
                Err(error) => return Err(Error::io("create", dir)(error)),
            }
            if hierarchy.has("cpuset") && !hierarchy.unified {
                inherit_cpuset(&dir)?;
            }
        }
    }
    Ok(())
}

/// Removes the group `path` from every hierarchy where it is empty; `true` when it is gone
/// everywhere.
///
/// # Errors
/// [`Error::BadPath`], [`Error::Io`] other than "not empty" and "busy".
pub fn remove_empty_parent(layout: &Layout, path: &str) -> Result<bool, Error> {
    check_path(path)?;
    let mut gone = true;
    for hierarchy in layout.hierarchies() {
        let dir = hierarchy.dir(path);
        match fs::remove_dir(&dir) {
            Ok(()) => {}
            Err(error) if file::is_absent(&error) => {}
            Err(error) if is_busy(&error) => gone = false,
            Err(error) => return Err(Error::io("remove", dir)(error)),
        }
    }
    Ok(gone)
}

impl Cgroup {
    /// Makes the group in every hierarchy, as a place for processes. Idempotent.
    ///
    /// Nothing is delegated to groups below it: on v2 a group either has processes or gives
    /// controllers to its children.
    ///
    /// # Errors
    /// As [`ensure_parent`].
    pub fn create(&self) -> Result<(), Error> {
        make(self.layout(), self.path())
    }

    /// Removes the group and all below it from every hierarchy. What does not exist is done.
    ///
    /// The kernel answers EBUSY for a moment after the last process was reaped; that is retried.
    ///
    /// # Errors
    /// [`Error::Deadline`] when a process or a busy group remains, [`Error::Io`].
    pub fn remove(&self, deadline: Instant) -> Result<(), Error> {
        let mut attempt = 0;
        loop {
            let mut busy = false;
            for dir in self.dirs() {
                for group in tree(dir)?.iter().rev() {
                    match fs::remove_dir(group) {
                        Ok(()) => {}
                        Err(error) if file::is_absent(&error) => {}
                        Err(error) if is_busy(&error) => busy = true,
                        Err(error) => return Err(Error::io("remove", group)(error)),
                    }
                }
            }
            if !busy {
                return Ok(());
            }
            if !pause(attempt, deadline) {
                return Err(Error::Deadline { group: self.path().to_owned(), stage: "remove" });
            }
            attempt += 1;
        }
    }
}

fn is_busy(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::BUSY | Errno::NOTEMPTY))
}

fn inherit_cpuset(dir: &Path) -> Result<(), Error> {
    let Some(parent) = dir.parent() else { return Ok(()) };
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let own = dir.join(name);
        let Some(text) = file::read_optional(&own)? else { continue };
        if !text.trim().is_empty() {
            continue;
        }
        if let Some(value) = file::read_optional(&parent.join(name))? {
            let value = value.trim();
            if !value.is_empty() {
                file::write(&own, value)?;
            }
        }
    }
    Ok(())
}

/// Gives the children of a group every controller that the group itself has.
///
/// One controller at a time: a single refused one (`cpu` while real-time tasks run elsewhere)
/// would take the others with it. A refusal is not an error, for limits that need the controller
/// report it by their own name.
fn delegate(dir: &Path, controllers: &[String]) -> Result<(), Error> {
    let control = dir.join("cgroup.subtree_control");
    let Some(enabled) = file::read_optional(&control)? else { return Ok(()) };
    for controller in controllers {
        if enabled.split_whitespace().any(|name| name == controller) {
            continue;
        }
        if let Err(error) = file::write(&control, &format!("+{controller}")) {
            tracing::debug!(%controller, path = %control.display(), %error, "not delegated");
        }
    }
    Ok(())
}
