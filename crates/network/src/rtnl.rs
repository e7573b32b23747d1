//! A blocking rtnetlink socket: requests with acknowledgement, batches and dumps.
//!
//! The kernel handles a request inside `send`, so the answer waits in the socket when `send`
//! returns; an asynchronous client would only add a task and two wake-ups per request to what is
//! on the path of every container start. A socket belongs to the namespace of the thread that
//! opened it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

/// Only a dump can make us wait at all.
const DEADLINE: Duration = Duration::from_secs(10);
/// The kernel fills dump datagrams up to 32 KiB.
const BUFFER: usize = 64 * 1024;
const HEADER: usize = 16;
/// Answers read for one request before it is given up.
const MAX_DATAGRAMS: usize = 100_000;

/// One change, with the `NLM_F_*` flags beyond REQUEST and ACK.
pub type Change = (RouteNetlinkMessage, u16);

/// The socket.
#[derive(Debug)]
pub struct Rtnl {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Rtnl {
    /// Opens a socket in the namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        // `None` is NETLINK_ROUTE, protocol 0.
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(DEADLINE))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Makes one change.
    pub fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.changes(vec![(message, flags)])
    }

    /// Makes the changes in order, in one system call. The first failure is returned; the kernel
    /// tries those after it all the same.
    pub fn changes(&mut self, changes: Vec<Change>) -> io::Result<()> {
        let first = self.sequence.wrapping_add(1);
        let mut waiting = changes.len();
        let mut bytes = Vec::new();
        for (message, flags) in changes {
            self.encode(message, flags | NLM_F_ACK, &mut bytes);
        }
        self.send(&bytes)?;
        let mut failures = BTreeMap::new();
        while waiting > 0 {
            for (header, payload) in self.receive()? {
                let NetlinkPayload::Error(answer) = payload else { continue };
                let order = header.sequence_number.wrapping_sub(first);
                waiting = waiting.saturating_sub(1);
                if let Some(code) = answer.code {
                    failures.insert(order, io::Error::from_raw_os_error(-code.get()));
                }
            }
        }
        failures.into_values().next().map_or(Ok(()), Err)
    }

    /// The link of that name, or `None`.
    pub fn link(&mut self, name: &str) -> io::Result<Option<LinkMessage>> {
        let mut query = LinkMessage::default();
        query.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let mut bytes = Vec::new();
        self.encode(RouteNetlinkMessage::GetLink(query), 0, &mut bytes);
        self.send(&bytes)?;
        for (_, payload) in self.receive()? {
            match payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                    return Ok(Some(link));
                }
                NetlinkPayload::Error(answer) => {
                    let code = answer.code.map_or(0, std::num::NonZero::get);
                    let error = io::Error::from_raw_os_error(-code);
                    return if is_absent(&error) { Ok(None) } else { Err(error) };
                }
                _ => {}
            }
        }
        Err(unexpected())
    }

    /// Everything that `query` asks for.
    pub fn dump(&mut self, query: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut bytes = Vec::new();
        self.encode(query, NLM_F_DUMP, &mut bytes);
        self.send(&bytes)?;
        let mut found = Vec::new();
        for _ in 0..MAX_DATAGRAMS {
            for (_, payload) in self.receive()? {
                match payload {
                    NetlinkPayload::InnerMessage(message) => found.push(message),
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(answer) => {
                        let code = answer.code.map_or(0, std::num::NonZero::get);
                        return Err(io::Error::from_raw_os_error(-code));
                    }
                    _ => {}
                }
            }
        }
        Err(unexpected())
    }

    fn encode(&mut self, message: RouteNetlinkMessage, flags: u16, bytes: &mut Vec<u8>) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len(), 0);
        message.serialize(&mut bytes[start..]);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        sendto(&self.socket, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    /// The messages of one datagram. What the decoder does not know (a newer kernel's link type)
    /// is left out: it cannot be one of ours.
    fn receive(&mut self) -> io::Result<Vec<(NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>)>> {
        let (_, length) =
            recv(&self.socket, &mut self.buffer[..], RecvFlags::empty()).map_err(|error| {
                match error {
                    rustix::io::Errno::AGAIN => io::ErrorKind::TimedOut.into(),
                    other => io::Error::from(other),
                }
            })?;
        let mut rest = self.buffer.get(..length).ok_or_else(unexpected)?;
        let mut messages = Vec::new();
        while rest.len() >= HEADER {
            let size = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let Some(one) = rest.get(..size).filter(|_| size >= HEADER) else {
                return Err(unexpected());
            };
            match NetlinkMessage::<RouteNetlinkMessage>::deserialize(one) {
                Ok(message) => messages.push(message.into_parts()),
                Err(error) => tracing::debug!(%error, "a netlink message was passed over"),
            }
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(messages)
    }
}

/// Whether the kernel said that there is no such interface.
pub fn is_absent(error: &io::Error) -> bool {
    const ENODEV: i32 = 19;
    error.raw_os_error() == Some(ENODEV)
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "unexpected answer of rtnetlink")
}

/// The name in a link message.
pub fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}
