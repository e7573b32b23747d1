//! Namespaces that outlive their processes: made, pinned to a path, entered, removed.
//!
//! A namespace is kept alive by a bind mount of its `nsfs` file on `path`, so it outlives the
//! daemon and every process in it; the container joins it later. Namespaces are a property of a
//! thread: whatever unshares or enters one does so on a thread of its own that ends afterwards,
//! so no pool's worker ever runs in a wrong namespace. If a closure panics, its thread is the only
//! loss.
//!
//! Made namespaces have `lo` up and take no router advertisements (CVE-2020-13401). With
//! [`Ipv6::Disabled`] interfaces that are created later have no IPv6 at all, while `::1` keeps
//! working, as in Docker. Other sysctls belong to the OCI specification of the container.
//!
//! A [`Pod`] is more than a network: its containers share further namespaces, which are pinned
//! likewise, and with them its kernel parameters.

#![deny(unsafe_code)]

mod error;
mod loopback;
mod pin;
mod pod;
mod thread;
mod user;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

pub use error::NetnsError;
pub use loopback::up as raise_loopback;
pub use pin::{list, remove};
pub use pod::{IdMap, IdMaps, Pinned, Pod, pin_pid, remove_pod};

/// Whether interfaces of a new namespace speak IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6 {
    /// Only `lo` has an IPv6 address.
    Disabled,
    /// Interfaces get IPv6; router advertisements are still ignored.
    Enabled,
}

/// An open network namespace. Dropping it closes the descriptor and leaves the pin.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    path: PathBuf,
}

impl Netns {
    /// Makes a namespace and pins it on `path`, which must not exist; its directory is made with
    /// mode 0700 when missing. Blocks for the kernel's time to make it, some hundred microseconds;
    /// from async code use [`Netns::create_async`].
    ///
    /// On failure nothing is left behind.
    ///
    /// # Errors
    /// [`NetnsError`], which names the step.
    pub fn create(path: &Path, ipv6: Ipv6) -> Result<Self, NetnsError> {
        let owned = path.to_owned();
        thread::run(move || pin::create(&owned, ipv6))?
    }

    /// As [`Netns::create`]. The namespace is made to the end even when the future is dropped.
    ///
    /// # Errors
    /// As [`Netns::create`].
    pub async fn create_async(path: &Path, ipv6: Ipv6) -> Result<Self, NetnsError> {
        let owned = path.to_owned();
        thread::run_async(move || pin::create(&owned, ipv6)).await?
    }

    /// Opens what is pinned on `path`.
    ///
    /// # Errors
    /// [`NetnsError::NotFound`] when there is no file, [`NetnsError::NotANamespace`] when the
    /// pin is gone and only the plain file is left, as after a reboot.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|source| match source {
            rustix::io::Errno::NOENT => NetnsError::NotFound { path: path.to_owned() },
            _ => NetnsError::io("open", path)(source),
        })?;
        pin::expect_nsfs(fd.as_fd(), path)?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Opens the namespace of the calling thread.
    ///
    /// # Errors
    /// [`NetnsError::Io`] when /proc is not there.
    pub fn current() -> Result<Self, NetnsError> {
        pin::open_current()
    }

    /// Where it is pinned.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `f` inside, on a fresh thread, and blocks until it has ended.
    ///
    /// # Errors
    /// [`NetnsError`] when the namespace cannot be entered or `f` panics.
    pub fn run<T, F>(&self, f: F) -> Result<T, NetnsError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let work = self.entering(f)?;
        thread::run(work)?
    }

    /// As [`Netns::run`]. `f` runs to its end even when the future is dropped.
    ///
    /// # Errors
    /// As [`Netns::run`].
    pub async fn run_async<T, F>(&self, f: F) -> Result<T, NetnsError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let work = self.entering(f)?;
        thread::run_async(work).await?
    }

    fn entering<T, F>(
        &self,
        f: F,
    ) -> Result<impl FnOnce() -> Result<T, NetnsError> + Send + 'static, NetnsError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let fd = self.fd.try_clone().map_err(|source| NetnsError::Io {
            step: "duplicate",
            path: self.path.clone(),
            source,
        })?;
        let path = self.path.clone();
        Ok(move || {
            enter(fd.as_fd(), &path)?;
            Ok(f())
        })
    }

    /// Moves the calling thread into the namespace, for good: there is no way back. Only for a
    /// thread that ends afterwards; it lets one thread prepare in its old namespace (open a
    /// socket) and go on in the new one.
    ///
    /// # Errors
    /// [`NetnsError::Io`].
    pub fn enter_thread(&self) -> Result<(), NetnsError> {
        enter(self.fd.as_fd(), &self.path)
    }
}

fn enter(fd: BorrowedFd<'_>, path: &Path) -> Result<(), NetnsError> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    move_into_link_name_space(fd, Some(LinkNameSpaceType::Network))
        .map_err(NetnsError::io("enter", path))
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
