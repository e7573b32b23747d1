//! Mounting what the options of volumes name, once per volume, with a deadline.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pouch_rootfd::{PinnedFd, RootFd};
use pouch_types::{ContainerId, VolumeName};
use rustix::mount::{MountFlags, UnmountFlags};
use tokio::sync::oneshot;

use crate::error::{Result, VolumeError};
use crate::local::{Kind, MountPlan};

/// A file server that does not answer for this long is down.
const DEADLINE: Duration = Duration::from_secs(30);

/// Who holds which volume's mount.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    slots: Mutex<HashMap<VolumeName, Arc<tokio::sync::Mutex<Slot>>>>,
}

#[derive(Debug, Default)]
struct Slot {
    users: HashSet<ContainerId>,
    /// A mount or unmount that passed its deadline and is still in the kernel.
    hanging: Option<oneshot::Receiver<io::Result<()>>>,
}

impl Mounts {
    fn slot(&self, name: &VolumeName) -> Arc<tokio::sync::Mutex<Slot>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(name.clone()).or_default())
    }

    /// Forgets a volume that was removed.
    pub(crate) fn forget(&self, name: &VolumeName) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Mounts `plan` for `user` unless it is mounted.
    pub(crate) async fn attach(
        &self,
        root: &RootFd,
        name: &VolumeName,
        plan: MountPlan,
        user: &ContainerId,
    ) -> Result<()> {
        let slot = self.slot(name);
        let mut slot = slot.lock().await;
        slot.settle(name, "mounting")?;
        let volume = root.resolve(name.as_str())?;
        if !is_mounted(&volume)? {
            let target = volume.pin_dir("_data")?;
            let device = plan.device.clone();
            let work = move || mount(&plan, &target);
            let done = slot.run(name, "mounting", work).await?;
            done.map_err(|source| VolumeError::Mount { name: name.clone(), device, source })?;
        }
        slot.users.insert(user.clone());
        Ok(())
    }

    /// Unmounts the volume when `user` was the last one.
    pub(crate) async fn detach(
        &self,
        root: &RootFd,
        name: &VolumeName,
        user: &ContainerId,
    ) -> Result<()> {
        let slot = self.slot(name);
        let mut slot = slot.lock().await;
        slot.users.remove(user);
        if slot.users.is_empty() { slot.unmount(root, name).await } else { Ok(()) }
    }

    /// Unmounts a volume that is about to be removed.
    pub(crate) async fn unmount_unused(&self, root: &RootFd, name: &VolumeName) -> Result<()> {
        let slot = self.slot(name);
        let mut slot = slot.lock().await;
        if slot.users.is_empty() {
            slot.unmount(root, name).await
        } else {
            Err(VolumeError::Mounted(name.clone()))
        }
    }
}

impl Slot {
    async fn unmount(&mut self, root: &RootFd, name: &VolumeName) -> Result<()> {
        self.settle(name, "unmounting")?;
        let volume = root.resolve(name.as_str())?;
        let work = move || {
            // As often as it was mounted: somebody may have stacked a mount by hand.
            while is_mounted(&volume).map_err(io::Error::other)? {
                let target = volume.proc_path().join("_data");
                // Detached: the last user is gone, and a dead server must not hold us.
                let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
                rustix::mount::unmount(&target, flags)?;
            }
            Ok(())
        };
        let done = self.run(name, "unmounting", work).await?;
        done.map_err(|source| VolumeError::Io {
            operation: "unmount",
            path: name.as_str().into(),
            source,
        })
    }

    /// Whether a late operation has come back.
    fn settle(&mut self, name: &VolumeName, stage: &'static str) -> Result<()> {
        if let Some(hanging) = &mut self.hanging {
            match hanging.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return Err(late(name, stage)),
                // Whatever came of it, the mount table is asked again.
                Ok(_) | Err(oneshot::error::TryRecvError::Closed) => self.hanging = None,
            }
        }
        Ok(())
    }

    /// Runs `work` on a thread of its own: in a pool, a few dead servers would hold every thread.
    async fn run(
        &mut self,
        name: &VolumeName,
        stage: &'static str,
        work: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Result<io::Result<()>> {
        let (report, mut done) = oneshot::channel();
        std::thread::Builder::new()
            .name("volume-mount".into())
            .spawn(move || {
                // Nobody listens after the deadline; the next look at the mount table tells.
                let _ = report.send(work());
            })
            .map_err(|source| VolumeError::Io {
                operation: "start thread for",
                path: name.as_str().into(),
                source,
            })?;
        match tokio::time::timeout(DEADLINE, &mut done).await {
            Ok(result) => result.map_err(|_| VolumeError::Cancelled),
            Err(_) => {
                self.hanging = Some(done);
                Err(late(name, stage))
            }
        }
    }
}

fn late(name: &VolumeName, stage: &'static str) -> VolumeError {
    VolumeError::Deadline { stage, name: name.clone(), seconds: DEADLINE.as_secs() }
}

/// Whether something is mounted on `_data`. Looking does not ask the mounted file system.
pub(crate) fn is_mounted(volume: &PinnedFd) -> pouch_rootfd::Result<bool> {
    volume.is_mount_point("_data")
}

fn mount(plan: &MountPlan, target: &PinnedFd) -> io::Result<()> {
    let at = target.proc_path();
    match plan.kind {
        Kind::FileSystem => {
            let data = CString::new(plan.data.as_str())?;
            rustix::mount::mount(
                plan.device.as_str(),
                &at,
                plan.fs_type.as_str(),
                plan.flags,
                &*data,
            )?;
        }
        Kind::Bind => rustix::mount::mount_bind(plan.device.as_str(), &at)?,
        Kind::RecursiveBind => rustix::mount::mount_bind_recursive(plan.device.as_str(), &at)?,
    }
    // The descriptor stays below the new mount; its path leads onto it. Every directory of that
    // path is ours alone.
    let mounted = rustix::fs::readlinkat(rustix::fs::CWD, &at, Vec::new())?;
    let finish = || -> io::Result<()> {
        if plan.kind != Kind::FileSystem && !plan.flags.is_empty() {
            // mount(2) ignores other flags when it binds, so they take a second call.
            let flags = plan.flags | MountFlags::BIND;
            rustix::mount::mount_remount(&*mounted, flags, c"")?;
        }
        if let Some(propagation) = plan.propagation {
            rustix::mount::mount_change(&*mounted, propagation)?;
        }
        Ok(())
    };
    finish().inspect_err(|_| {
        // The first error is the one to report.
        let _ = rustix::mount::unmount(&*mounted, UnmountFlags::DETACH);
    })
}
