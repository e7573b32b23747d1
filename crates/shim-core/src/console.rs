//! Receives a terminal's master from the runtime, by `--console-socket`.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

use crate::error::TaskError;

/// Bytes of a path that fit every runtime's socket address.
const MAX_PATH: usize = 100;
/// Where the socket goes when the bundle's path is too long.
const SHORT_DIRECTORY: &str = "/run/pouch-shim";

/// A listener for one terminal; its file vanishes with it.
#[derive(Debug)]
pub(crate) struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Listens in `bundle`, or in a short directory; `number` makes the name unique in this shim.
    pub(crate) fn bind(bundle: &Path, number: u32) -> Result<Self, TaskError> {
        let mut path = bundle.join(format!("tty{number}.sock"));
        if path.as_os_str().len() > MAX_PATH {
            crate::bootstrap::make_private_directory(Path::new(SHORT_DIRECTORY))?;
            path = Path::new(SHORT_DIRECTORY)
                .join(format!("tty-{}-{number}.sock", std::process::id()));
        }
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(TaskError::io("listen at", &path))?;
        Ok(Self { listener, path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the runtime to send the master. Callers put a deadline around it.
    pub(crate) async fn receive(&self) -> Result<OwnedFd, TaskError> {
        let failed = TaskError::io("receive the terminal from", &self.path);
        let received = async {
            let (stream, _) = self.listener.accept().await?;
            if !crate::sys::is_trusted_peer(&stream) {
                return Err(std::io::ErrorKind::PermissionDenied.into());
            }
            stream.async_io(Interest::READABLE, || receive_fd(&stream)).await
        };
        let master = received.await.map_err(failed)?;
        rustix::io::ioctl_fionbio(&master, true)
            .map_err(TaskError::errno("set up", "the terminal"))?;
        Ok(master)
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One message with one descriptor; its bytes, a name, do not matter.
fn receive_fd(stream: &UnixStream) -> std::io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 4096];
    let message =
        recvmsg(stream, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        })
        .flatten()
        .collect();
    if message.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() != 1 {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    descriptors.pop().ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}
