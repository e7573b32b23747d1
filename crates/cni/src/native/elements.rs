//! Elements of the sets and maps of our table, put there and taken away by netlink: one
//! transaction, some hundred microseconds, where the program `nft` takes milliseconds.
//!
//! Constants are of linux/netfilter/nf_tables.h and nfnetlink.h.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pouch_network::netfilter::{attribute, attributes, check, messages, open};
use pouch_types::spec::Protocol;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, recv, sendto};
use serde::{Deserialize, Serialize};

use super::rules::{self, TABLE};
use crate::cidr::Cidr;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
const NEW_ELEMENT: u16 = SUBSYSTEM << 8 | 12;
const GET_ELEMENT: u16 = SUBSYSTEM << 8 | 13;
const DELETE_ELEMENT: u16 = SUBSYSTEM << 8 | 14;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const CREATE: u16 = 0x400;
const ERROR: u16 = 2;
const NESTED: u16 = 0x8000;
const INET: u8 = 1;

const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_USERDATA: u16 = 6;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
/// `NFT_JUMP` and `NFT_GOTO`.
const JUMP: i32 = -3;
const GOTO: i32 = -4;
/// nft shows at most so much of a comment.
const MAX_COMMENT: usize = 120;

const DEADLINE: Duration = Duration::from_secs(5);
const BUFFER: usize = 64 * 1024;

/// One element; what it does is in [`rules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Element {
    /// What the pod sends out of its subnet gets the host's address.
    Masquerade { address: Cidr },
    /// Connections to the pod's published ports that could not find back are masqueraded.
    Returning { address: Cidr },
    /// A port of the host is the pod's.
    Port { protocol: Protocol, host_ip: Option<IpAddr>, host_port: u16, address: IpAddr, port: u16 },
}

impl Element {
    /// Whether both claim the same port of the host.
    pub(crate) fn collides(&self, other: &Self) -> bool {
        self.set() == other.set() && self.key() == other.key()
    }

    fn set(&self) -> &'static str {
        match self {
            Self::Masquerade { address } => rules::masquerade(*address),
            Self::Returning { address } => rules::returning(*address),
            Self::Port { host_ip, address, .. } => rules::ports(*address, host_ip.is_some()),
        }
    }

    fn key(&self) -> Vec<u8> {
        match self {
            Self::Masquerade { address } | Self::Returning { address } => octets(address.address()),
            Self::Port { protocol, host_ip, host_port, .. } => {
                let mut key = host_ip.map(octets).unwrap_or_default();
                let number = match protocol {
                    Protocol::Tcp => 6,
                    Protocol::Udp => 17,
                    Protocol::Sctp => 132,
                };
                // Each part of a concatenation fills four bytes.
                key.extend([number, 0, 0, 0]);
                key.extend(host_port.to_be_bytes());
                key.extend([0, 0]);
                key
            }
        }
    }

    fn data(&self) -> Vec<u8> {
        let verdict = |code: i32, chain: &str| {
            let mut verdict = Vec::new();
            put(&mut verdict, VERDICT_CODE, &code.to_be_bytes());
            put(&mut verdict, VERDICT_CHAIN, &text(chain));
            nest(DATA_VERDICT, &verdict)
        };
        match self {
            Self::Masquerade { address } => verdict(GOTO, &rules::masquerade_chain(*address)),
            Self::Returning { address } => verdict(JUMP, &rules::returning_chain(*address)),
            Self::Port { address, port, .. } => {
                let mut value = octets(*address);
                value.extend(port.to_be_bytes());
                value.extend([0, 0]);
                let mut data = Vec::new();
                put(&mut data, DATA_VALUE, &value);
                data
            }
        }
    }

    /// The attributes of a message about this element alone.
    fn attributes(&self, form: Form<'_>) -> Vec<u8> {
        let mut key = Vec::new();
        put(&mut key, DATA_VALUE, &self.key());
        let mut element = nest(ELEMENT_KEY, &key);
        if let Form::Whole { owner } = form {
            element.extend(nest(ELEMENT_DATA, &self.data()));
            // libnftnl's comment: type 0, length, a text that ends with 0.
            let comment = text(owner.get(..MAX_COMMENT).unwrap_or(owner));
            let mut userdata = vec![0, u8::try_from(comment.len()).unwrap_or(0)];
            userdata.extend(comment);
            put(&mut element, ELEMENT_USERDATA, &userdata);
        }
        let mut all = Vec::new();
        put(&mut all, LIST_TABLE, &text(TABLE));
        put(&mut all, LIST_SET, &text(self.set()));
        all.extend(nest(LIST_ELEMENTS, &nest(ELEMENT, &element)));
        all
    }
}

#[derive(Clone, Copy)]
enum Form<'a> {
    Key,
    Whole { owner: &'a str },
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn put(into: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let size = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    into.extend(size.to_ne_bytes());
    into.extend(kind.to_ne_bytes());
    into.extend(value);
    into.resize(into.len().next_multiple_of(4), 0);
}

fn nest(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    put(&mut all, kind | NESTED, value);
    all
}

fn message(into: &mut Vec<u8>, kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]) {
    let size = u32::try_from(20 + body.len()).unwrap_or(u32::MAX);
    into.extend(size.to_ne_bytes());
    into.extend(kind.to_ne_bytes());
    into.extend((REQUEST | flags).to_ne_bytes());
    into.extend([0; 8]);
    into.extend([family, 0]);
    into.extend(resource.to_be_bytes());
    into.extend(body);
}

/// The way to the kernel's tables: one socket for good, of the namespace that first used it.
///
/// To close a socket of nfnetlink waits until what was deleted before is freed, an RCU grace period
/// or two; kept open, that happens beside us.
#[derive(Debug, Default)]
pub(crate) struct Channel {
    socket: Mutex<Option<OwnedFd>>,
}

impl Channel {
    /// Makes the changes, all or none.
    fn transaction(&self, changes: &[(u16, u16, Vec<u8>)]) -> io::Result<()> {
        let mut batch = Vec::new();
        message(&mut batch, BATCH_BEGIN, 0, 0, SUBSYSTEM, &[]);
        for (kind, flags, body) in changes {
            message(&mut batch, *kind, ACK | flags, INET, 0, body);
        }
        message(&mut batch, BATCH_END, 0, 0, SUBSYSTEM, &[]);
        self.ask(&batch, changes.len()).map(drop)
    }

    /// Sends and reads until `answers` acknowledgements or a refusal came. Gives the first message
    /// that came with content.
    fn ask(&self, request: &[u8], answers: usize) -> io::Result<Option<Vec<u8>>> {
        let mut place = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let socket = match place.take() {
            Some(socket) => socket,
            None => {
                let socket = open(SocketFlags::empty())?;
                set_socket_timeout(&socket, Timeout::Recv, Some(DEADLINE))?;
                socket
            }
        };
        let mut buffer = vec![0; BUFFER];
        // What is left of a request that was refused.
        while recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT).is_ok() {}
        sendto(&socket, request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let (mut waiting, mut content, mut told) = (answers, None, Ok(()));
        while waiting > 0 && told.is_ok() {
            // An answer that did not come may come later: such a socket is not kept.
            let (_, length) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
            for (kind, body) in messages(buffer.get(..length).unwrap_or_default()) {
                if kind == ERROR {
                    told = told.and_then(|()| check(body));
                    waiting = waiting.saturating_sub(1);
                } else if content.is_none() {
                    content = Some(body.to_vec());
                }
            }
        }
        *place = Some(socket);
        told.map(|()| content)
    }

    /// Adds all of `elements` with `owner` as their comment.
    ///
    /// `ENOENT` says that the table is not (wholly) there, `EBUSY` that a key leads elsewhere.
    pub(crate) fn add(&self, elements: &[Element], owner: &str) -> io::Result<()> {
        if elements.is_empty() {
            return Ok(());
        }
        let form = Form::Whole { owner };
        let changes: Vec<_> =
            elements.iter().map(|e| (NEW_ELEMENT, CREATE, e.attributes(form))).collect();
        self.transaction(&changes)
    }

    /// Takes all of `elements` away; those that are not there are no error.
    pub(crate) fn remove(&self, elements: &[Element]) -> io::Result<()> {
        if elements.is_empty() {
            return Ok(());
        }
        let change = |e: &Element| (DELETE_ELEMENT, 0, e.attributes(Form::Key));
        let all: Vec<_> = elements.iter().map(change).collect();
        match self.transaction(&all) {
            Err(error) if is_missing(&error) => {}
            other => return other,
        }
        // Some are missing: one by one, then.
        for one in all {
            match self.transaction(&[one]) {
                Err(error) if !is_missing(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the element is there and leads where it should.
    pub(crate) fn has(&self, element: &Element) -> io::Result<bool> {
        let mut request = Vec::new();
        message(&mut request, GET_ELEMENT, ACK, INET, 0, &element.attributes(Form::Key));
        match self.ask(&request, 1) {
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(error),
            // After the header of nfnetlink.
            Ok(listed) => Ok(listed
                .is_some_and(|body| body.get(4..).is_some_and(|listing| leads(listing, element)))),
        }
    }

    /// Removes the table; an absent one is no error.
    pub(crate) fn remove_table(&self) -> io::Result<()> {
        let mut name = Vec::new();
        put(&mut name, 1, &text(TABLE));
        match self.transaction(&[(DELETE_TABLE, 0, name)]) {
            Err(error) if is_missing(&error) => Ok(()),
            other => other,
        }
    }
}

/// Whether the listing's element has this one's data.
fn leads(listing: &[u8], element: &Element) -> bool {
    let wanted = element.data();
    let wanted = attributes(&wanted).next();
    let found = attribute(listing, LIST_ELEMENTS)
        .and_then(|list| attribute(list, ELEMENT))
        .and_then(|one| attribute(one, ELEMENT_DATA))
        .and_then(|data| attributes(data).next());
    match (found, wanted) {
        // A verdict may come back with more than was given.
        (Some((DATA_VERDICT, found)), Some((DATA_VERDICT, wanted))) => {
            attribute(found, VERDICT_CHAIN) == attribute(wanted, VERDICT_CHAIN)
        }
        (found, wanted) => found == wanted,
    }
}

/// Whether the kernel said that there is no such table, set, chain or element.
pub(crate) fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOENT.raw_os_error())
}

/// Whether the kernel said that the key is there with other data.
pub(crate) fn is_taken(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(rustix::io::Errno::BUSY.raw_os_error())
        || code == Some(rustix::io::Errno::EXIST.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host_ip: Option<&str>, address: &str) -> Element {
        Element::Port {
            protocol: Protocol::Tcp,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port: 8080,
            address: address.parse().unwrap(),
            port: 80,
        }
    }

    #[test]
    fn keys_and_data_are_laid_out_as_concatenations() {
        assert_eq!(port(None, "10.0.0.2").key(), [6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        let with = port(Some("127.0.0.1"), "10.0.0.2");
        assert_eq!(with.key(), [127, 0, 0, 1, 6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(attribute(&with.data(), DATA_VALUE).unwrap(), [10, 0, 0, 2, 0, 80, 0, 0]);
        assert_eq!(port(Some("::1"), "fd00::2").key().len(), 24);
    }

    #[test]
    fn ports_collide_by_what_the_host_hears_on() {
        assert!(port(None, "10.0.0.2").collides(&port(None, "10.0.0.3")));
        assert!(!port(None, "10.0.0.2").collides(&port(Some("127.0.0.1"), "10.0.0.2")));
        assert!(!port(None, "10.0.0.2").collides(&port(None, "fd00::2")));
    }

    #[test]
    fn a_listing_is_compared_with_what_was_meant() {
        let listed = port(None, "10.0.0.2").attributes(Form::Whole { owner: "x" });
        assert!(leads(&listed, &port(None, "10.0.0.2")));
        assert!(!leads(&listed, &port(None, "10.0.0.3")));
        let pod = Element::Masquerade { address: "10.0.0.2/24".parse().unwrap() };
        assert!(leads(&pod.attributes(Form::Whole { owner: "x" }), &pod));
        assert!(!leads(&[], &pod));
    }
}
