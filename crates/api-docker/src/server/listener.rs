//! Where clients come in: unix sockets, TCP with mutual TLS, and sockets that systemd opened.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pouch_types::{Classified, ErrorKind};
use rustix::net::{AddressFamily, sockopt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;

/// Mode of a socket that a group may use, and of one that only root may.
const MODE_GROUP: u32 = 0o660;
const MODE_ROOT: u32 = 0o600;

/// A listener that could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another daemon answers on the socket.
    #[error("{path} is in use by a running daemon")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// A path that is not a socket is in the way, and is not ours to remove.
    #[error("{path} exists and is no socket")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The socket could not be made.
    #[error("listening on {at}")]
    Io {
        /// Path or address.
        at: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An inherited descriptor is neither a unix nor a TCP socket.
    #[error("the inherited descriptor is no stream socket of a family that is served")]
    Family,
    /// An inherited TCP socket without TLS.
    #[error("the inherited socket on {address} is TCP, which is served with mutual TLS only")]
    PlainTcp {
        /// Its address.
        address: SocketAddr,
    },
}

impl Classified for ListenError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::InUse { .. } => ErrorKind::Conflict,
            Self::NotASocket { .. } | Self::Family | Self::PlainTcp { .. } => ErrorKind::Invalid,
            Self::Io { source, .. } => pouch_types::error::io_kind(source),
        }
    }
}

/// An open listener.
pub struct Listener(Kind);

enum Kind {
    /// With the path and inode that we made, which is removed at the end.
    Unix {
        listener: UnixListener,
        made: Option<(PathBuf, Inode)>,
    },
    Tls {
        listener: TcpListener,
        acceptor: TlsAcceptor,
    },
}

/// Device and inode.
type Inode = (u64, u64);

fn inode(path: &Path) -> io::Result<Inode> {
    std::fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// An accepted connection.
pub(super) enum Socket {
    Unix(UnixStream),
    Tls(TcpStream, TlsAcceptor),
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Unix { listener, .. } => f.debug_tuple("Unix").field(listener).finish(),
            Kind::Tls { listener, .. } => f.debug_tuple("Tls").field(listener).finish(),
        }
    }
}

impl Listener {
    /// Opens a unix socket, mode 0660 for `group` (a numeric id) or 0600 without one. The socket
    /// appears under `path` only with its rights set; a dead one in the way is replaced.
    ///
    /// # Errors
    /// When a daemon answers there, or a file that is no socket is in the way.
    pub fn unix(path: &Path, group: Option<u32>) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Io { at: path.display().to_string(), source };
        clear(path)?;
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let temporary = PathBuf::from(name);
        let _ = std::fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary).map_err(failed)?;
        let ready = || {
            let mode = if group.is_some() { MODE_GROUP } else { MODE_ROOT };
            std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
            if let Some(group) = group {
                std::os::unix::fs::chown(&temporary, None, Some(group))?;
            }
            std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(mode))?;
            let inode = inode(&temporary)?;
            std::fs::rename(&temporary, path)?;
            Ok(inode)
        };
        match ready() {
            Ok(inode) => Ok(Self(Kind::Unix { listener, made: Some((path.to_owned(), inode)) })),
            Err(error) => {
                let _ = std::fs::remove_file(&temporary);
                Err(failed(error))
            }
        }
    }

    /// Opens a TCP socket that is served with TLS and client certificates.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn tcp(
        address: SocketAddr,
        tls: Arc<rustls::ServerConfig>,
    ) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Io { at: address.to_string(), source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        Ok(Self(Kind::Tls { listener, acceptor: TlsAcceptor::from(tls) }))
    }

    /// Takes over a listening socket, as from systemd's socket activation. A TCP one needs `tls`.
    ///
    /// # Errors
    /// When it is not a unix or TCP socket, or TCP without TLS.
    pub fn inherited(
        fd: OwnedFd,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Result<Self, ListenError> {
        let failed =
            |source: io::Error| ListenError::Io { at: "an inherited socket".to_owned(), source };
        let family = sockopt::socket_domain(&fd).map_err(|error| failed(error.into()))?;
        match family {
            AddressFamily::UNIX => {
                let listener = std::os::unix::net::UnixListener::from(fd);
                listener.set_nonblocking(true).map_err(failed)?;
                let listener = UnixListener::from_std(listener).map_err(failed)?;
                Ok(Self(Kind::Unix { listener, made: None }))
            }
            AddressFamily::INET | AddressFamily::INET6 => {
                let listener = std::net::TcpListener::from(fd);
                let Some(tls) = tls else {
                    let address = listener.local_addr().map_err(failed)?;
                    return Err(ListenError::PlainTcp { address });
                };
                listener.set_nonblocking(true).map_err(failed)?;
                let listener = TcpListener::from_std(listener).map_err(failed)?;
                Ok(Self(Kind::Tls { listener, acceptor: TlsAcceptor::from(tls) }))
            }
            _ => Err(ListenError::Family),
        }
    }

    /// The address of a TCP listener, for port 0.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Tls { listener, .. } => listener.local_addr().ok(),
            Kind::Unix { .. } => None,
        }
    }

    /// The next connection of a unix listener, for a face that does not speak HTTP/1. Cancel-safe.
    ///
    /// # Errors
    /// The kernel's; `Unsupported` for a listener of another kind.
    pub async fn accept_unix(&mut self) -> io::Result<UnixStream> {
        match &self.0 {
            Kind::Unix { listener, .. } => Ok(listener.accept().await?.0),
            Kind::Tls { .. } => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Cancel-safe, as tokio's accepts are.
    pub(super) async fn accept(&mut self) -> io::Result<Socket> {
        match &self.0 {
            Kind::Unix { listener, .. } => Ok(Socket::Unix(listener.accept().await?.0)),
            Kind::Tls { listener, acceptor } => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                // A client that vanished without a word is noticed within minutes.
                sockopt::set_socket_keepalive(&stream, true)?;
                Ok(Socket::Tls(stream, acceptor.clone()))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Kind::Unix { made: Some((path, made)), .. } = &self.0 {
            // A successor may have put its own socket there already; that one must stay.
            if inode(path).is_ok_and(|found| found == *made) {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// Removes a socket that nobody listens on.
fn clear(path: &Path) -> Result<(), ListenError> {
    use std::os::unix::fs::FileTypeExt;
    let failed = |source| ListenError::Io { at: path.display().to_string(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ListenError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(ListenError::InUse { path: path.to_owned() }),
        // Renaming over it replaces it; only a refused connection proves that it is dead.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replaces_dead_sockets_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let first = Listener::unix(&path, None).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(Listener::unix(&path, None), Err(ListenError::InUse { .. })));
        drop(first);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let second = Listener::unix(&path, Some(rustix::process::getgid().as_raw())).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        std::fs::remove_file(&path).unwrap();
        let third = Listener::unix(&path, None).unwrap();
        drop(second);
        assert!(path.exists(), "the socket of a successor stays");
        drop(third);
        assert!(!path.exists());
        std::fs::write(&path, "data").unwrap();
        assert!(matches!(Listener::unix(&path, None), Err(ListenError::NotASocket { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn inherited_tcp_needs_tls() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let refused = Listener::inherited(tcp.into(), None);
        assert!(matches!(refused, Err(ListenError::PlainTcp { .. })));
        let file = tempfile::tempfile().unwrap();
        assert!(matches!(Listener::inherited(file.into(), None), Err(ListenError::Io { .. })));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut listener = Listener::inherited(unix.into(), None).unwrap();
        let client = UnixStream::connect(&path).await.unwrap();
        assert!(matches!(listener.accept().await.unwrap(), Socket::Unix(_)));
        drop((client, listener));
        assert!(path.exists(), "not ours to remove");
    }
}
