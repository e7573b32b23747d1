//! Out-of-memory kills of a group: counted, and announced through a descriptor.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::EventfdFlags;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::error::Error;
use crate::file;
use crate::group::Cgroup;

impl Cgroup {
    /// Processes that the kernel has killed for want of memory, in this group and (v2) below.
    ///
    /// `None` where no memory controller counts for this group. To be read before the group is
    /// removed. v1 counts the group itself only.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn oom_kills(&self) -> Result<Option<u64>, Error> {
        if let Some(dir) = self.v1("memory") {
            let text = file::read_optional(&dir.join("memory.oom_control"))?;
            return Ok(text.and_then(|text| file::flat_value(&text, "oom_kill")));
        }
        if let Some(dir) = self.v2_controller("memory") {
            let text = file::read_optional(&dir.join("memory.events"))?;
            return Ok(text.and_then(|text| file::flat_value(&text, "oom_kill")));
        }
        Ok(None)
    }

    /// As [`Cgroup::oom_kills`], of the group above this one (v2), whose counter includes this
    /// group's and outlives it. `None` below the root, which does not count.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn oom_kills_above(&self) -> Result<Option<u64>, Error> {
        let Some(above) = self.v2_dir().and_then(std::path::Path::parent) else { return Ok(None) };
        let text = file::read_optional(&above.join("memory.events"))?;
        Ok(text.and_then(|text| file::flat_value(&text, "oom_kill")))
    }

    /// Whether a process waits for memory under a disabled OOM killer (v1).
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn under_oom(&self) -> Result<bool, Error> {
        let Some(dir) = self.v1("memory") else { return Ok(false) };
        let text = file::read_optional(&dir.join("memory.oom_control"))?.unwrap_or_default();
        Ok(file::flat_value(&text, "under_oom") == Some(1))
    }

    /// A descriptor that becomes readable when the group runs out of memory.
    ///
    /// `None` where no memory controller watches this group.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn oom_watch(&self) -> Result<Option<OomWatch>, Error> {
        if let Some(dir) = self.v1("memory") {
            let control_path = dir.join("memory.oom_control");
            let control = match File::open(&control_path) {
                Ok(control) => control,
                Err(error) if file::is_absent(&error) => return Ok(None),
                Err(error) => return Err(Error::io("open", control_path)(error)),
            };
            let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(|errno| Error::io("watch", &control_path)(errno.into()))?;
            let registration = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
            file::write(&dir.join("cgroup.event_control"), &registration)?;
            return Ok(Some(OomWatch { fd: event }));
        }
        if let Some(dir) = self.v2_controller("memory") {
            let path = dir.join("memory.events");
            let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
                .map_err(|errno| Error::io("watch", &path)(errno.into()))?;
            return match inotify::add_watch(&fd, &path, WatchFlags::MODIFY) {
                Ok(_) => Ok(Some(OomWatch { fd })),
                Err(rustix::io::Errno::NOENT) => Ok(None),
                Err(errno) => Err(Error::io("watch", path)(errno.into())),
            };
        }
        Ok(None)
    }
}

/// Readable after the group's memory ran out: an eventfd on v1, an inotify descriptor on v2.
///
/// A hint only. v1 also wakes it when the group is removed, v2 for every change of
/// `memory.events`; [`Cgroup::oom_kills`] tells what happened. Non-blocking, close-on-exec.
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
}

impl OomWatch {
    /// Takes what is pending, so that the descriptor is readable only after the next event.
    ///
    /// # Errors
    /// Of read(2), never `WouldBlock`.
    pub fn drain(&self) -> io::Result<()> {
        let mut buffer = [0_u8; 4096];
        loop {
            match rustix::io::read(&self.fd, &mut buffer) {
                // An eventfd is empty after one read; inotify may hold more than one buffer.
                Ok(length) if length < buffer.len() => return Ok(()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The descriptor alone, for a reactor that wants to own it.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for OomWatch {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Layout;

    #[test]
    fn the_group_above_remembers_what_its_removed_child_counted() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        std::fs::create_dir_all(path("proc/self")).unwrap();
        std::fs::create_dir_all(path("cg/a.slice/b.scope")).unwrap();
        std::fs::write(path("proc/self/mountinfo"), "1 1 0:1 / /cg rw - cgroup2 cgroup2 rw\n")
            .unwrap();
        std::fs::write(path("cg/cgroup.controllers"), "memory\n").unwrap();
        let group = Cgroup::new(&Layout::detect_under(root.path()).unwrap(), "/a.slice/b.scope");
        let group = group.unwrap();
        let events = |kills: u32| format!("low 0\nmax 3\noom 1\noom_kill {kills}\n");
        std::fs::write(path("cg/a.slice/memory.events"), events(4)).unwrap();
        std::fs::write(path("cg/a.slice/b.scope/memory.events"), events(1)).unwrap();
        assert_eq!(group.oom_kills().unwrap(), Some(1));
        assert_eq!(group.oom_kills_above().unwrap(), Some(4));
        std::fs::remove_dir_all(path("cg/a.slice/b.scope")).unwrap();
        assert_eq!(group.oom_kills().unwrap(), None);
        assert_eq!(group.oom_kills_above().unwrap(), Some(4));
    }
}
