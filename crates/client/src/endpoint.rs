//! Where a daemon listens, as `DOCKER_HOST` and contexts spell it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::ClientError;

/// The daemon's socket when nothing else is configured.
pub const DEFAULT_HOST: &str = "unix:///var/run/pouchd.sock";

const PLAIN_PORT: u16 = 2375;
const TLS_PORT: u16 = 2376;

/// A parsed host specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `unix:///path`.
    Unix(PathBuf),
    /// `tcp://host[:port][/prefix]`, `http://` and `https://`.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// 2375, or 2376 for TLS, when not given.
        port: Option<u16>,
        /// Path before `/v1.xx`, without a trailing slash.
        prefix: String,
        /// `https://`.
        tls: bool,
    },
    /// `ssh://[user@]host[:port][/path/of/remote/socket]`.
    Ssh(SshTarget),
}

/// The destination of an ssh endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshTarget {
    /// Login name.
    pub user: Option<String>,
    /// Name or address, without brackets.
    pub host: String,
    /// `None` leaves it to ssh_config(5).
    pub port: Option<u16>,
    /// Socket on the remote host; `None` takes the remote CLI's default.
    pub socket: Option<String>,
}

impl Endpoint {
    /// The port to connect to, given whether TLS is on.
    #[must_use]
    pub fn tcp_port(port: Option<u16>, tls: &Transport) -> u16 {
        port.unwrap_or(match tls {
            Transport::Plain => PLAIN_PORT,
            Transport::Tls => TLS_PORT,
        })
    }
}

/// Whether bytes are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In the clear.
    Plain,
    /// TLS 1.2 or newer.
    Tls,
}

impl FromStr for Endpoint {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        let fail = |reason| ClientError::Endpoint { host: text.to_owned(), reason };
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| fail("want unix://PATH, tcp://HOST:PORT or ssh://USER@HOST"))?;
        match scheme {
            "unix" | "fd" if rest.is_empty() => Err(fail("the socket's path is missing")),
            "unix" => {
                let path = Path::new(rest);
                if path.is_absolute() {
                    Ok(Self::Unix(path.to_owned()))
                } else {
                    Err(fail("the socket's path must be absolute"))
                }
            }
            "tcp" | "http" | "https" => {
                let (authority, prefix) = match rest.find('/') {
                    Some(at) => rest.split_at(at),
                    None => (rest, ""),
                };
                let (host, port) = split_authority(authority).map_err(fail)?;
                Ok(Self::Tcp {
                    host,
                    port,
                    prefix: prefix.trim_end_matches('/').to_owned(),
                    tls: scheme == "https",
                })
            }
            "ssh" => {
                let (authority, path) = match rest.find('/') {
                    Some(at) => rest.split_at(at),
                    None => (rest, ""),
                };
                let (user, host) = match authority.rsplit_once('@') {
                    Some((user, host)) => (Some(user.to_owned()), host),
                    None => (None, authority),
                };
                if user.as_deref().is_some_and(|u| u.contains(':')) {
                    return Err(fail("a password in an ssh host is not supported: use a key"));
                }
                let (host, port) = split_authority(host).map_err(fail)?;
                // ssh would take such a word as an option.
                if host.starts_with('-') || user.as_deref().is_some_and(|u| u.starts_with('-')) {
                    return Err(fail("user and host must not begin with a dash"));
                }
                let socket = Some(path.to_owned()).filter(|p| !p.is_empty() && p != "/");
                Ok(Self::Ssh(SshTarget { user, host, port, socket }))
            }
            "npipe" => Err(fail("named pipes exist on Windows only")),
            "fd" => Err(fail("fd:// is for the daemon")),
            _ => Err(fail("want unix://PATH, tcp://HOST:PORT or ssh://USER@HOST")),
        }
    }
}

fn split_authority(text: &str) -> Result<(String, Option<u16>), &'static str> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("a bracket of the address is missing")?;
        match rest {
            "" => (host, None),
            _ => (host, Some(rest.strip_prefix(':').ok_or("want [ADDRESS]:PORT")?)),
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if host.is_empty() {
        return Err("the host's name is missing");
    }
    let port = match port {
        None => None,
        Some(digits) => Some(digits.parse::<u16>().map_err(|_| "the port is not a number")?),
    };
    Ok((host.to_owned(), port))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = |host: &str, port: &Option<u16>| {
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            match port {
                Some(port) => format!("{host}:{port}"),
                None => host,
            }
        };
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port, prefix, tls } => {
                let scheme = if *tls { "https" } else { "tcp" };
                write!(f, "{scheme}://{}{prefix}", authority(host, port))
            }
            Self::Ssh(SshTarget { user, host, port, socket }) => {
                f.write_str("ssh://")?;
                if let Some(user) = user {
                    write!(f, "{user}@")?;
                }
                write!(f, "{}{}", authority(host, port), socket.as_deref().unwrap_or(""))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_every_scheme_and_prints_it_back() {
        for text in [
            "unix:///var/run/pouchd.sock",
            "tcp://10.0.0.1:2375",
            "tcp://[::1]:2375/prefix",
            "https://daemon.example",
            "ssh://me@box:2222/run/d.sock",
            "ssh://box",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_cannot_be_reached() {
        for text in [
            "",
            "/var/run/x",
            "unix://",
            "unix://relative",
            "tcp://",
            "tcp://h:port",
            "tcp://[::1",
            "ssh://-oProxyCommand=x",
            "ssh://-l@h",
            "ssh://u:pw@h",
            "npipe:////./pipe/x",
            "ftp://x",
            "fd://",
            "tcp://h:99999",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn ports_depend_on_tls() {
        assert_eq!(Endpoint::tcp_port(None, &Transport::Plain), 2375);
        assert_eq!(Endpoint::tcp_port(None, &Transport::Tls), 2376);
        assert_eq!(Endpoint::tcp_port(Some(1), &Transport::Tls), 1);
    }
}
