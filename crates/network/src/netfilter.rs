//! Two things that packet rules need of nfnetlink besides the rules: to hear when somebody
//! deletes them, and to make the connection table forget UDP flows whose translation changed.
//!
//! A UDP flow keeps the translation of its first packet for as long as packets come, so a client
//! that never pauses would talk to the host, or to a container that is gone, for ever.

use std::collections::HashSet;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use pouch_types::spec::Protocol;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};
use tokio::io::unix::AsyncFd;

use crate::ruleset::Forward;

/// `NFNL_SUBSYS_CTNETLINK << 8`.
const CONNTRACK: u16 = 1 << 8;
/// `NFNL_SUBSYS_NFTABLES << 8`.
const NFTABLES: u16 = 10 << 8;
const CT_NEW: u16 = CONNTRACK;
const CT_GET: u16 = CONNTRACK | 1;
const CT_DELETE: u16 = CONNTRACK | 2;
const TABLE_DELETED: u16 = NFTABLES | 2;
const CHAIN_DELETED: u16 = NFTABLES | 5;
/// `NFTA_TABLE_NAME` and `NFTA_CHAIN_TABLE`.
const TABLE_NAME: u16 = 1;
/// The bit of `NFNLGRP_NFTABLES`.
const GROUP: u32 = 1 << 6;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const TYPE_MASK: u16 = 0x3fff;
/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADERS: usize = 16 + 4;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;

const BUFFER: usize = 64 * 1024;
/// A connection table may have a million entries; beyond this the rest stays.
const DEADLINE: Duration = Duration::from_secs(5);
/// Between a deletion and the answer to it: whoever flushed may be loading a new set.
const CALM: Duration = Duration::from_millis(200);

/// Opens an nfnetlink socket in the namespace of the calling thread.
///
/// # Errors
/// The kernel's answer.
pub fn open(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(NETFILTER))?)
}

#[expect(
    deprecated,
    reason = "sound for an OwnedFd, which nobody else closes; its successor is an unsafe function"
)]
fn watched(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(socket)
}

/// The messages of one datagram: type and what follows the header.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let size = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
        let body = rest.get(16..size)?;
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes of a message or of a nested attribute: type and value.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let size = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let value = rest.get(4..size)?;
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of that type.
#[must_use]
pub fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn request(kind: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
    let size = u32::try_from(HEADERS + attributes.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(HEADERS + attributes.len());
    message.extend(size.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]);
    // AF_INET, NFNETLINK_V0, no resource.
    message.extend([2, 0, 0, 0]);
    message.extend(attributes);
    message
}

/// Hears of deleted tables and chains.
#[derive(Debug)]
pub(crate) struct Deletions {
    socket: AsyncFd<OwnedFd>,
    table: String,
}

impl Deletions {
    /// Listens, in the namespace of the calling thread, for deletions in `inet table`.
    pub(crate) fn of(table: String) -> io::Result<Self> {
        let socket = open(SocketFlags::NONBLOCK)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUP))?;
        Ok(Self { socket: watched(socket)?, table })
    }

    /// Returns a moment after our table or a chain of it was deleted. Cancel-safe: what was not
    /// read yet stays in the socket.
    pub(crate) async fn next(&self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        while !self.read(&mut buffer).await? {}
        tokio::time::sleep(CALM).await;
        // What came meanwhile is answered with the same installation.
        while let Ok((_, length)) = recv(self.socket.get_ref(), &mut buffer[..], RecvFlags::empty())
        {
            tracing::trace!(length, "further changes of the rules");
        }
        Ok(())
    }

    /// Reads a datagram; whether it tells of our table.
    async fn read(&self, buffer: &mut [u8]) -> io::Result<bool> {
        let mut ready = self.socket.readable().await?;
        match ready.try_io(|fd| Ok(recv(fd.get_ref(), &mut *buffer, RecvFlags::empty())?)) {
            Ok(Ok((_, length))) => Ok(self.concerns(buffer.get(..length).unwrap_or_default())),
            // Messages were lost; ours may have been among them.
            Ok(Err(error)) if error.raw_os_error() == Some(NOBUFS) => Ok(true),
            Ok(Err(error)) => Err(error),
            Err(_would_block) => Ok(false),
        }
    }

    fn concerns(&self, datagram: &[u8]) -> bool {
        messages(datagram).any(|(kind, body)| {
            let name = body.get(4..).and_then(|rest| attribute(rest, TABLE_NAME));
            matches!(kind, TABLE_DELETED | CHAIN_DELETED)
                && name.and_then(|n| n.strip_suffix(&[0])) == Some(self.table.as_bytes())
        })
    }
}

const NOBUFS: i32 = 105;

/// Forgets the UDP flows to the host ports of `changed`; `local` are the host's addresses. Returns
/// how many there were.
/// # Errors
/// The kernel's answer.
pub fn forget_udp(changed: &[Forward], local: &HashSet<Ipv4Addr>) -> io::Result<usize> {
    let ports: Vec<_> = changed.iter().filter(|f| f.protocol == Protocol::Udp).collect();
    if ports.is_empty() {
        return Ok(0);
    }
    let concerned = |(address, port): (Ipv4Addr, u16)| {
        ports.iter().any(|f| {
            let addressed = if f.host_ip.is_unspecified() {
                local.contains(&address) || address.is_loopback()
            } else {
                f.host_ip == address
            };
            f.host_port == port && addressed
        })
    };
    let end = Instant::now() + DEADLINE;
    let socket = open(SocketFlags::empty())?;
    set_socket_timeout(&socket, Timeout::Recv, Some(DEADLINE))?;
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(&socket, &request(CT_GET, DUMP, &[]), SendFlags::empty(), &kernel)?;
    let mut buffer = vec![0; BUFFER];
    let mut doomed = Vec::new();
    'dump: while Instant::now() < end {
        let (_, length) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        for (kind, body) in messages(buffer.get(..length).unwrap_or_default()) {
            match kind {
                NLMSG_DONE => break 'dump,
                NLMSG_ERROR => check(body)?,
                CT_NEW => {
                    let tuple = body.get(4..).and_then(|rest| attribute(rest, CTA_TUPLE_ORIG));
                    if let Some(tuple) = tuple
                        && udp_destination(tuple).is_some_and(concerned)
                    {
                        doomed.push(tuple.to_vec());
                    }
                }
                _ => {}
            }
        }
    }
    // A second socket: the dump of the first may not be at its end.
    let socket = open(SocketFlags::empty())?;
    set_socket_timeout(&socket, Timeout::Recv, Some(DEADLINE))?;
    let mut forgotten = 0;
    for tuple in doomed {
        let size = u16::try_from(tuple.len() + 4).unwrap_or(u16::MAX);
        let mut nested = Vec::with_capacity(tuple.len() + 4);
        nested.extend(size.to_ne_bytes());
        nested.extend((CTA_TUPLE_ORIG | NESTED).to_ne_bytes());
        nested.extend(tuple);
        sendto(&socket, &request(CT_DELETE, ACK, &nested), SendFlags::empty(), &kernel)?;
        let (_, length) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        for (kind, body) in messages(buffer.get(..length).unwrap_or_default()) {
            // It may have timed out by itself.
            if kind == NLMSG_ERROR && check(body).is_ok() {
                forgotten += 1;
            }
        }
    }
    Ok(forgotten)
}

/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

/// Reads a `struct nlmsgerr` without its header.
///
/// # Errors
/// The failure that it tells of.
pub fn check(body: &[u8]) -> io::Result<()> {
    match body.get(..4).map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]])) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Where the first packet of a UDP flow went.
fn udp_destination(tuple: &[u8]) -> Option<(Ipv4Addr, u16)> {
    let protocol = attribute(tuple, CTA_TUPLE_PROTO)?;
    if attribute(protocol, CTA_PROTO_NUM)? != [UDP] {
        return None;
    }
    let port: [u8; 2] = attribute(protocol, CTA_PROTO_DST_PORT)?.try_into().ok()?;
    let addresses = attribute(tuple, CTA_TUPLE_IP)?;
    let address: [u8; 4] = attribute(addresses, CTA_IP_V4_DST)?.try_into().ok()?;
    Some((address.into(), u16::from_be_bytes(port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(u16::try_from(value.len() + 4).unwrap().to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn tuples_are_read() {
        let addresses = [attr(1, &[10, 0, 0, 9]), attr(2, &[10, 0, 0, 1])].concat();
        let ports = |p| [attr(1, &[p]), attr(2, &[1, 2]), attr(3, &[0, 53])].concat();
        let tuple = |p| [attr(1 | NESTED, &addresses), attr(2 | NESTED, &ports(p))].concat();
        assert_eq!(udp_destination(&tuple(17)), Some((Ipv4Addr::new(10, 0, 0, 1), 53)));
        assert_eq!(udp_destination(&tuple(6)), None);
        assert_eq!(udp_destination(&tuple(17)[..9]), None);
    }

    #[test]
    fn malformed_messages_end_the_reading() {
        for bytes in [&[][..], &[0; 3], &[0; 40], &[255; 40], &[17, 0, 0, 0, 1, 0]] {
            assert!(messages(bytes).count() <= 3, "{bytes:?}");
            assert!(attributes(bytes).count() <= 10, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn only_deletions_in_our_table_count() {
        let socket = watched(open(SocketFlags::NONBLOCK).unwrap()).unwrap();
        let deletions = Deletions { socket, table: "pouch".into() };
        let told = |kind, name: &[u8]| deletions.concerns(&request(kind, 0, &attr(1, name)));
        assert!(told(TABLE_DELETED, b"pouch\0"));
        assert!(told(CHAIN_DELETED, b"pouch\0"));
        assert!(!told(TABLE_DELETED, b"pouch2\0"));
        assert!(!told(NFTABLES, b"pouch\0"));
    }
}
