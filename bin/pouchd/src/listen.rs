//! The sockets of the API: made here, or inherited from systemd.

use std::os::fd::OwnedFd;

use pouch_api_docker::{ListenError, Listener};
use pouch_types::error::io_kind;
use pouch_types::{Classified, ErrorKind};

use crate::settings::{Host, Settings};

/// Group of the socket when none is configured and this one exists.
const DEFAULT_GROUP: &str = "pouch";

/// Sockets that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Tls(#[from] pouch_api_docker::TlsError),
    #[error("group {0:?} is not in /etc/group")]
    Group(String),
    #[error("fd:// was asked for, but no socket was passed (LISTEN_FDS)")]
    NothingInherited,
    #[error("cannot take over an inherited socket")]
    Inherited(#[source] std::io::Error),
}

impl Classified for SocketError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Listen(e) => e.kind(),
            Self::Tls(_) | Self::Group(_) | Self::NothingInherited => ErrorKind::Invalid,
            Self::Inherited(e) => io_kind(e),
        }
    }
}

pub(crate) async fn open(settings: &Settings) -> Result<Vec<Listener>, SocketError> {
    let group = group(settings.group.as_deref())?;
    let tls = settings
        .tls
        .as_ref()
        .map(|t| pouch_api_docker::server_config(&t.ca, &t.cert, &t.key))
        .transpose()?;
    let mut listeners = Vec::new();
    for host in &settings.hosts {
        match host {
            Host::Unix(path) => listeners.push(Listener::unix(path, group)?),
            Host::Tcp(address) => {
                // The settings refuse TCP without certificates.
                if let Some(tls) = &tls {
                    listeners.push(Listener::tcp(*address, tls.clone()).await?);
                }
            }
            Host::Inherited => {
                let mut passed = listenfd::ListenFd::from_env();
                if passed.len() == 0 {
                    return Err(SocketError::NothingInherited);
                }
                for index in 0..passed.len() {
                    let socket = passed.take_unix_listener(index);
                    if let Some(socket) = socket.map_err(SocketError::Inherited)? {
                        listeners.push(Listener::inherited(OwnedFd::from(socket), tls.clone())?);
                    }
                }
            }
        }
    }
    Ok(listeners)
}

/// The number of the group that may use the socket.
fn group(configured: Option<&str>) -> Result<Option<u32>, SocketError> {
    let name = configured.unwrap_or(DEFAULT_GROUP);
    if let Ok(number) = name.parse() {
        return Ok(Some(number));
    }
    let text = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    match (found, configured) {
        (Some(number), _) => Ok(Some(number)),
        (None, None) => Ok(None),
        (None, Some(name)) => Err(SocketError::Group(name.to_owned())),
    }
}
