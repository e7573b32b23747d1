//! Who holds a port of the host: reads /proc/net for the socket and /proc/*/fd for its owner.
//!
//! Only asked after a bind was refused, to name the culprit. Bounded: the answer is a courtesy,
//! and a host may have millions of sockets.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;

use pouch_types::spec::Protocol;

use crate::error::PortHolder;

const MAX_LINES: usize = 200_000;
const MAX_PROCESSES: usize = 50_000;
const MAX_DESCRIPTORS: usize = 200_000;
/// `TCP_LISTEN` of the kernel's state column.
const LISTEN: &str = "0A";
/// `TCP_TIME_WAIT`: no process behind it.
const TIME_WAIT: &str = "06";

/// The program that holds the port; looks in the namespace of the calling thread.
pub(crate) fn find(protocol: Protocol, address: Ipv4Addr, port: u16) -> PortHolder {
    let tables: &[(&str, Family)] = match protocol {
        Protocol::Tcp => &[("tcp", Family::V4), ("tcp6", Family::V6)],
        Protocol::Udp => &[("udp", Family::V4), ("udp6", Family::V6)],
        // /proc/net/sctp names no inode that an owner could be found by.
        Protocol::Sctp => &[],
    };
    tables
        .iter()
        .find_map(|(table, family)| {
            let file = File::open(Path::new("/proc/thread-self/net").join(table)).ok()?;
            let lines = BufReader::new(file).lines().map_while(Result::ok).take(MAX_LINES);
            socket(lines, *family, address, port)
        })
        .and_then(owner)
        .unwrap_or(PortHolder::Unknown)
}

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

/// The inode of the socket that is in the way of `address`:`port`. A listener comes before a mere
/// connection.
fn socket(
    lines: impl Iterator<Item = String>,
    family: Family,
    address: Ipv4Addr,
    port: u16,
) -> Option<u64> {
    let mut connection = None;
    for line in lines.skip(1) {
        let mut fields = line.split_ascii_whitespace();
        let (Some(local), Some(state)) = (fields.nth(1), fields.nth(1)) else { continue };
        let Some((host, number)) = local.split_once(':') else { continue };
        if u16::from_str_radix(number, 16) != Ok(port) || state == TIME_WAIT {
            continue;
        }
        if !overlaps(host, family, address) {
            continue;
        }
        let Some(inode) = fields.nth(5).and_then(|i| i.parse().ok()).filter(|i| *i != 0) else {
            continue;
        };
        // A UDP socket has no listening state: 07 is an unconnected one.
        if state == LISTEN || state == "07" {
            return Some(inode);
        }
        connection = connection.or(Some(inode));
    }
    connection
}

/// Whether a socket on `host`, in the kernel's hexadecimal of native words, excludes `address`.
fn overlaps(host: &str, family: Family, address: Ipv4Addr) -> bool {
    let word = match family {
        Family::V4 => host,
        // `::`, or an IPv4 address in IPv6 dress.
        Family::V6 if host.bytes().all(|b| b == b'0') => return true,
        Family::V6 => match host.strip_prefix("0000000000000000FFFF0000") {
            Some(word) => word,
            None => return false,
        },
    };
    let Ok(bits) = u32::from_str_radix(word, 16) else { return false };
    let bound = Ipv4Addr::from(bits.to_ne_bytes());
    bound == address || bound.is_unspecified() || address.is_unspecified()
}

fn owner(inode: u64) -> Option<PortHolder> {
    let wanted = format!("socket:[{inode}]");
    let mut budget = MAX_DESCRIPTORS;
    for process in fs::read_dir("/proc").ok()?.flatten().take(MAX_PROCESSES) {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        // A process may end while it is looked at.
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            budget = budget.checked_sub(1)?;
            if fs::read_link(descriptor.path()).is_ok_and(|t| t.as_os_str() == wanted.as_str()) {
                let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some(PortHolder::Process { pid, command: command.trim().to_owned() });
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(rows: &[&str]) -> impl Iterator<Item = String> {
        std::iter::once("sl local_address rem_address st ...")
            .chain(rows.iter().copied())
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .into_iter()
    }

    #[test]
    fn listeners_win_over_connections_and_time_wait_is_nobody() {
        let host = format!("{:08X}", u32::from_ne_bytes([127, 0, 0, 1]));
        let row = |state: &str, inode: u64| {
            format!(" 0: {host}:1F90 00000000:0000 {state} 0:0 00:0 0 0 0 {inode} 1 0")
        };
        let (wait, open, listen) = (row("06", 0), row("01", 7), row("0A", 9));
        let address = Ipv4Addr::LOCALHOST;
        let look = |rows: &[&str]| socket(lines(rows), Family::V4, address, 8080);
        assert_eq!(look(&[&wait]), None);
        assert_eq!(look(&[&wait, &open]), Some(7));
        assert_eq!(look(&[&wait, &open, &listen]), Some(9));
        assert_eq!(socket(lines(&[&listen]), Family::V4, address, 80), None);
        let other = Ipv4Addr::new(10, 0, 0, 1);
        assert_eq!(socket(lines(&[&listen]), Family::V4, other, 8080), None);
        assert_eq!(socket(lines(&[&listen]), Family::V4, Ipv4Addr::UNSPECIFIED, 8080), Some(9));
    }

    #[test]
    fn a_dual_stack_listener_is_in_the_way_of_ipv4() {
        let any = "0".repeat(32);
        assert!(overlaps(&any, Family::V6, Ipv4Addr::LOCALHOST));
        assert!(!overlaps("00000000000000000000000001000000", Family::V6, Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn finds_this_very_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let holder = find(Protocol::Tcp, Ipv4Addr::UNSPECIFIED, port);
        let PortHolder::Process { pid, command } = holder else { panic!("{holder:?}") };
        assert_eq!(pid, std::process::id());
        assert!(!command.is_empty());
        drop(listener);
        assert_eq!(find(Protocol::Tcp, Ipv4Addr::LOCALHOST, port), PortHolder::Unknown);
    }
}
