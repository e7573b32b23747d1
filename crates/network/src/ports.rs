//! Ports of the host: chosen, reserved, released.
//!
//! Translation by packet rules does not make a port busy, so without more a program of the host
//! could bind it and wonder why nobody comes. Each published port is therefore reserved by a socket
//! that is bound and does not listen: a later binder gets "address in use", and a port that
//! somebody else has is refused to us by the same kernel check. The reservation ends with the
//! daemon and is made again by reconciliation; the traffic does not depend on it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use pouch_types::ContainerId;
use pouch_types::spec::{Port, PortBinding, Protocol};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::endpoint::PublishedPort;
use crate::error::{NetworkError, PortHolder};
use crate::holder;

/// Host ports for bindings that name none, when the kernel does not say.
const EPHEMERAL: (u16, u16) = (49153, 65535);
/// Descriptors by which the soft limit grows when it is reached.
const MORE_DESCRIPTORS: u64 = 4096;

/// See [`patiently`].
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// Who has reserved which port.
#[derive(Debug, Default)]
pub(crate) struct PortTable {
    held: HashMap<(Protocol, u16), Vec<Held>>,
    /// Where the search for a free ephemeral port goes on, so that a port is not given to the
    /// next container at once.
    cursor: u16,
}

#[derive(Debug)]
struct Held {
    host_ip: Ipv4Addr,
    container: ContainerId,
    name: String,
    /// Empty for SCTP on a kernel without it, where nothing else can bind either.
    _sockets: Vec<OwnedFd>,
}

/// A binding that passed the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    port: Port,
    host_ip: Ipv4Addr,
    range: Option<(u16, u16)>,
}

/// Checks what is asked, and adds the exposed ports that no binding names.
pub(crate) fn plan(
    bindings: &[PortBinding],
    exposed: &[Port],
    default_ip: Ipv4Addr,
) -> Result<Vec<Wanted>, NetworkError> {
    let mut wanted = Vec::with_capacity(bindings.len());
    for binding in bindings {
        let host_ip = match binding.host_ip {
            None => default_ip,
            Some(IpAddr::V4(address)) => address,
            Some(address @ IpAddr::V6(_)) => return Err(NetworkError::Ipv6 { address }),
        };
        if host_ip.is_multicast() || host_ip.is_broadcast() {
            return Err(NetworkError::InvalidPort { reason: "the host address is a group's" });
        }
        if let Some((first, last)) = binding.host_ports
            && (first == 0 || first > last)
        {
            return Err(NetworkError::InvalidPort { reason: "the range of host ports is empty" });
        }
        wanted.push(Wanted { port: binding.container, host_ip, range: binding.host_ports });
    }
    for port in exposed {
        if !bindings.iter().any(|b| b.container == *port) {
            wanted.push(Wanted { port: *port, host_ip: default_ip, range: None });
        }
    }
    if wanted.iter().any(|w| w.port.number == 0) {
        return Err(NetworkError::InvalidPort { reason: "a container's port is 0" });
    }
    Ok(wanted)
}

/// Reserves with `reserve`, and names the program that holds a refused port; apart from the
/// reservation, since that reads much of /proc and nobody else's reservation should wait for it.
///
/// A port that nobody visible holds is tried again for a moment: a process that this one is just
/// starting has a copy of every descriptor until its exec, of sockets released meanwhile too.
pub(crate) fn patiently<T>(
    mut reserve: impl FnMut() -> Result<T, NetworkError>,
) -> Result<T, NetworkError> {
    for _ in 0..ATTEMPTS {
        match reserve().map_err(name_holder) {
            Err(NetworkError::PortInUse { holder: PortHolder::Unknown, .. }) => {
                std::thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
    reserve().map_err(name_holder)
}

fn name_holder(error: NetworkError) -> NetworkError {
    match error {
        NetworkError::PortInUse { host_ip, host_port, protocol, holder: PortHolder::Unknown } => {
            let holder = holder::find(protocol, host_ip, host_port);
            NetworkError::PortInUse { host_ip, host_port, protocol, holder }
        }
        other => other,
    }
}

/// Why one port cannot be had.
#[derive(Debug)]
enum Refusal {
    Ours(PortHolder),
    Foreign,
    Failed(io::Error),
}

impl PortTable {
    /// Reserves all of `wanted` or nothing. The answer is in the same order.
    pub(crate) fn reserve(
        &mut self,
        container: &ContainerId,
        name: &str,
        wanted: &[Wanted],
    ) -> Result<Vec<PublishedPort>, NetworkError> {
        let mut done = Vec::with_capacity(wanted.len());
        for one in wanted {
            match self.reserve_one(container, name, *one) {
                Ok(host_port) => done.push(PublishedPort {
                    container: one.port,
                    host_ip: one.host_ip.into(),
                    host_port,
                }),
                Err(error) => {
                    self.release_ports(container, &done);
                    return Err(error);
                }
            }
        }
        Ok(done)
    }

    fn reserve_one(
        &mut self,
        container: &ContainerId,
        name: &str,
        want: Wanted,
    ) -> Result<u16, NetworkError> {
        let (first, last) = want.range.unwrap_or_else(ephemeral_range);
        let start = match want.range {
            Some(_) => first,
            None => self.cursor.clamp(first, last),
        };
        for host_port in (start..=last).chain(first..start) {
            match self.try_port(container, name, want, host_port) {
                Ok(()) => {
                    if want.range.is_none() {
                        self.cursor = host_port.wrapping_add(1);
                    }
                    return Ok(host_port);
                }
                Err(Refusal::Failed(source)) => {
                    let host_ip = want.host_ip.into();
                    return Err(NetworkError::Reserve { host_ip, host_port, source });
                }
                Err(refusal) if first == last => {
                    let protocol = want.port.protocol;
                    let holder = match refusal {
                        Refusal::Ours(holder) => holder,
                        _ => PortHolder::Unknown,
                    };
                    let host_ip = want.host_ip;
                    return Err(NetworkError::PortInUse { host_ip, host_port, protocol, holder });
                }
                Err(_) => {}
            }
        }
        Err(NetworkError::PortsExhausted { port: want.port, first, last })
    }

    fn try_port(
        &mut self,
        container: &ContainerId,
        name: &str,
        want: Wanted,
        host_port: u16,
    ) -> Result<(), Refusal> {
        let Wanted { port, host_ip, .. } = want;
        let held = self.held.get(&(port.protocol, host_port));
        let any = Ipv4Addr::is_unspecified;
        let in_the_way = held
            .into_iter()
            .flatten()
            .find(|h| h.host_ip == host_ip || any(&h.host_ip) || any(&host_ip));
        if let Some(held) = in_the_way {
            let (id, name) = (held.container.clone(), held.name.clone());
            return Err(Refusal::Ours(PortHolder::Container { id, name }));
        }
        let sockets = bind_all(port.protocol, host_ip, host_port)?;
        self.held.entry((port.protocol, host_port)).or_default().push(Held {
            host_ip,
            container: container.clone(),
            name: name.to_owned(),
            _sockets: sockets,
        });
        Ok(())
    }

    /// Reserves again what the records say is published, best effort: the ports that could not be
    /// bound are returned, and count as held all the same.
    pub(crate) fn restore(
        &mut self,
        container: &ContainerId,
        name: &str,
        ports: &[PublishedPort],
    ) -> Vec<PublishedPort> {
        self.release(container);
        let mut unbound = Vec::new();
        for port in ports {
            let IpAddr::V4(host_ip) = port.host_ip else { continue };
            let protocol = port.container.protocol;
            let sockets = bind_all(protocol, host_ip, port.host_port).unwrap_or_else(|_| {
                unbound.push(*port);
                Vec::new()
            });
            self.held.entry((protocol, port.host_port)).or_default().push(Held {
                host_ip,
                container: container.clone(),
                name: name.to_owned(),
                _sockets: sockets,
            });
        }
        unbound
    }

    /// Gives everything of `container` back.
    pub(crate) fn release(&mut self, container: &ContainerId) {
        self.held.retain(|_, holders| {
            holders.retain(|h| h.container != *container);
            !holders.is_empty()
        });
    }

    /// Gives these ports of `container` back.
    pub(crate) fn release_ports(&mut self, container: &ContainerId, ports: &[PublishedPort]) {
        for port in ports {
            let key = (port.container.protocol, port.host_port);
            if let Some(holders) = self.held.get_mut(&key) {
                holders
                    .retain(|h| h.container != *container || IpAddr::V4(h.host_ip) != port.host_ip);
                if holders.is_empty() {
                    self.held.remove(&key);
                }
            }
        }
    }
}

/// The range that the kernel gives its own clients, as Docker does.
fn ephemeral_range() -> (u16, u16) {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| parse_range(&text))
        .unwrap_or(EPHEMERAL)
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse::<u16>);
    let (first, last) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (0 < first && first <= last).then_some((first, last))
}

/// The reserving sockets: IPv4 and, for all addresses, IPv6 too, although nothing is published
/// there yet: a port belongs to one program whatever the family. Somebody else's purely IPv6
/// socket is let be.
fn bind_all(protocol: Protocol, host_ip: Ipv4Addr, port: u16) -> Result<Vec<OwnedFd>, Refusal> {
    let mut sockets = Vec::with_capacity(2);
    match bound(protocol, SocketAddr::new(host_ip.into(), port)) {
        Ok(socket) => sockets.extend(socket),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(Refusal::Foreign),
        Err(error) => return Err(Refusal::Failed(error)),
    }
    if host_ip.is_unspecified() {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        sockets.extend(bound(protocol, any).ok().flatten());
    }
    Ok(sockets)
}

/// A bound socket; `None` where the kernel does not speak the protocol.
fn bound(protocol: Protocol, address: SocketAddr) -> io::Result<Option<OwnedFd>> {
    match bind_once(protocol, address, Reuse::Never) {
        // Connections of an earlier listener may linger (TIME_WAIT) for a minute. With the option
        // set for the bind alone they are no obstacle; a live listener still is.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && protocol == Protocol::Tcp => {
            bind_once(protocol, address, Reuse::WhileBinding)
        }
        other => other,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reuse {
    Never,
    WhileBinding,
}

fn bind_once(protocol: Protocol, address: SocketAddr, reuse: Reuse) -> io::Result<Option<OwnedFd>> {
    use rustix::io::Errno;
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let open = || socket_with(family, kind, SocketFlags::CLOEXEC, Some(number));
    let socket = match open() {
        Err(Errno::PROTONOSUPPORT | Errno::SOCKTNOSUPPORT | Errno::AFNOSUPPORT) => return Ok(None),
        Err(Errno::MFILE) => {
            raise_descriptor_limit()?;
            open()?
        }
        other => other?,
    };
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if reuse == Reuse::WhileBinding {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    if protocol == Protocol::Udp {
        // What is sent past the translation, to `::` say, is never read: keep the kernel's least.
        sockopt::set_socket_recv_buffer_size(&socket, 0)?;
    }
    bind(&socket, &address)?;
    if reuse == Reuse::WhileBinding {
        sockopt::set_socket_reuseaddr(&socket, false)?;
    }
    Ok(Some(socket))
}

/// Raises the soft limit a step towards the hard one: a thousand published ports are two thousand
/// descriptors.
fn raise_descriptor_limit() -> io::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let grown = current.map(|soft| {
        let more = soft.saturating_add(MORE_DESCRIPTORS);
        maximum.map_or(more, |hard| more.min(hard))
    });
    if grown == current {
        return Err(io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error()));
    }
    setrlimit(Resource::Nofile, Rlimit { current: grown, maximum })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn binding(port: u16, host_ip: Option<&str>, host_ports: Option<(u16, u16)>) -> PortBinding {
        PortBinding {
            container: Port { number: port, protocol: Protocol::Tcp },
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_ports,
        }
    }

    fn planned(bindings: &[PortBinding]) -> Vec<Wanted> {
        plan(bindings, &[], Ipv4Addr::LOCALHOST).unwrap()
    }

    #[test]
    fn a_plan_refuses_what_cannot_be() {
        let refused = |b| plan(&[b], &[], Ipv4Addr::UNSPECIFIED).unwrap_err();
        assert!(matches!(refused(binding(80, Some("::"), None)), NetworkError::Ipv6 { .. }));
        for bad in [
            binding(0, None, None),
            binding(80, None, Some((0, 5))),
            binding(80, None, Some((9, 8))),
            binding(80, Some("224.0.0.1"), None),
        ] {
            assert!(matches!(refused(bad), NetworkError::InvalidPort { .. }));
        }
        let udp = Port { number: 80, protocol: Protocol::Udp };
        let tcp = Port { number: 80, protocol: Protocol::Tcp };
        let both = plan(&[binding(80, None, None)], &[tcp, udp], Ipv4Addr::UNSPECIFIED).unwrap();
        assert_eq!(both.iter().map(|w| w.port).collect::<Vec<_>>(), [tcp, udp]);
    }

    #[test]
    fn a_reserved_port_is_busy_until_it_is_released() {
        let (mut table, a) = (PortTable::default(), ContainerId::random().unwrap());
        let ports = table.reserve(&a, "a", &planned(&[binding(80, None, None)])).unwrap();
        let port = ports[0].host_port;
        let busy = TcpListener::bind(("127.0.0.1", port)).unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::AddrInUse);

        let b = ContainerId::random().unwrap();
        let fixed = planned(&[binding(80, None, Some((port, port)))]);
        let error = table.reserve(&b, "b", &fixed).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("port is already allocated by container a"), "{text}");

        table.release(&a);
        TcpListener::bind(("127.0.0.1", port)).unwrap();
        assert!(table.held.is_empty());
    }

    #[test]
    fn a_failure_releases_what_the_same_request_got() {
        let mut table = PortTable::default();
        let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = foreign.local_addr().unwrap().port();
        let id = ContainerId::random().unwrap();
        let wanted = planned(&[binding(80, None, None), binding(81, None, Some((taken, taken)))]);
        let error = name_holder(table.reserve(&id, "c", &wanted).unwrap_err());
        let text = error.to_string();
        assert!(text.contains(&format!("pid {}", std::process::id())), "{text}");
        assert!(table.held.is_empty());
    }

    #[test]
    fn a_port_that_a_starting_process_still_has_is_waited_for() {
        let id = ContainerId::random().unwrap();
        let mut table = PortTable::default();
        // Bound and not listening, as a copy of our own reservation: /proc shows no holder.
        let port = table.reserve(&id, "c", &planned(&[binding(80, None, None)])).unwrap()[0];
        let fixed = planned(&[binding(80, None, Some((port.host_port, port.host_port)))]);
        let mut copy = Some(table);
        let (mut next, mut tries) = (PortTable::default(), 0);
        let reserved = patiently(|| {
            tries += 1;
            if tries == 3 {
                copy = None;
            }
            next.reserve(&id, "c", &fixed)
        });
        assert_eq!((reserved.unwrap(), tries), (vec![port], 3));
        assert!(copy.is_none());
    }

    #[test]
    fn a_range_gives_the_next_free_one_and_udp_is_separate() {
        let mut table = PortTable::default();
        let id = ContainerId::random().unwrap();
        let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = foreign.local_addr().unwrap().port();
        let range = (taken, taken.saturating_add(50));
        let ports = table.reserve(&id, "c", &planned(&[binding(80, None, Some(range))])).unwrap();
        assert!(ports[0].host_port > taken);
        UdpSocket::bind(("127.0.0.1", ports[0].host_port)).unwrap();
        let only = planned(&[binding(80, None, Some((taken, taken + 1)))]);
        let other = ContainerId::random().unwrap();
        if ports[0].host_port == taken + 1 {
            let error = table.reserve(&other, "d", &only).unwrap_err();
            assert!(matches!(error, NetworkError::PortsExhausted { .. }));
        }
    }

    #[test]
    fn lingering_connections_are_no_obstacle() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        // The side that closes first keeps the port in TIME_WAIT.
        drop(server);
        drop(client);
        drop(listener);
        let (mut table, id) = (PortTable::default(), ContainerId::random().unwrap());
        let fixed = planned(&[binding(80, None, Some((address.port(), address.port())))]);
        table.reserve(&id, "c", &fixed).unwrap();
        let late = TcpListener::bind(address).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn the_kernel_range_is_read() {
        assert_eq!(parse_range("32768\t60999\n"), Some((32768, 60999)));
        assert_eq!(parse_range("0 5"), None);
        assert_eq!(parse_range("9"), None);
        assert_eq!(parse_range("70000 80000"), None);
    }
}
