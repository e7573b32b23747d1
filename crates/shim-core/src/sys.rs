//! What has no safe wrapper: the allocator's limits, the mount namespace, raw signal numbers.

#![expect(unsafe_code, reason = "the one module that calls the kernel and libc without a wrapper")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::Signal;
use rustix::thread::UnshareFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Keeps the heap of a mostly idle process small: one arena for both threads, large buffers as
/// mappings of their own that vanish when freed, and a heap that is trimmed at its top.
pub(crate) fn limit_heap() {
    for (option, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, 64 * 1024),
        (libc::M_TRIM_THRESHOLD, 64 * 1024),
        (libc::M_TOP_PAD, 16 * 1024),
    ] {
        // SAFETY: mallopt only stores numbers, and no other thread runs yet.
        unsafe { libc::mallopt(option, value) };
    }
}

/// A mount namespace of our own. Threads that are started later share it.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: without CLONE_FILES no thread loses descriptors.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    Ok(())
}

/// A working directory of this thread's own.
pub(crate) fn unshare_cwd() -> io::Result<()> {
    // SAFETY: without CLONE_FILES no thread loses descriptors.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
    Ok(())
}

/// `fd` in the reactor, for becoming readable.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd stays open, and the same, for as long as it is owned.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    Ok(watched?)
}

/// The signal `number`, if it is one.
pub(crate) fn signal(number: u32) -> Option<Signal> {
    let number = i32::try_from(number).ok().filter(|n| (1..=64).contains(n))?;
    // SAFETY: it is a signal's number. 32 and 33 are libc's own only between threads of one
    // process; here it goes to another process.
    Some(unsafe { Signal::from_raw_unchecked(number) })
}

/// Whether the process behind a connection runs as root or as ourselves.
pub(crate) fn is_trusted_peer(socket: impl AsFd) -> bool {
    let own = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(socket)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == own)
}
