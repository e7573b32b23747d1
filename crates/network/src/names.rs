//! The three name files of a container, as text: /etc/hosts, /etc/resolv.conf, /etc/hostname.
//!
//! Pure functions but for reading the host's resolver configuration. What comes from a request is
//! refused if it could end a line or a field (SEC-19), so that no option adds a line of its own.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;

use pouch_types::spec::ExtraHost;
use pouch_types::{Classified, ErrorKind};

/// Longest file of the host that is read, bytes.
const MAX_FILE: u64 = 1024 * 1024;
/// Longest name or option, bytes; DNS allows names of 253.
const MAX_WORD: usize = 255;

const OWN_HOSTS: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::\tip6-localnet\n\
    ff00::\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// A value that must not get into a name file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// It is empty, too long, or has a character that means something in these files.
    #[error("invalid {what} {text:?}")]
    Invalid {
        /// Which option.
        what: &'static str,
        /// Its value, cut.
        text: String,
    },
    /// `host-gateway` was asked for where there is none.
    #[error("host-gateway has no address on this network (wanted by {name})")]
    NoHostGateway {
        /// The name that was to get the address.
        name: String,
    },
}

impl Classified for NameError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// One line of /etc/hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLine {
    /// Address.
    pub address: IpAddr,
    /// Name and aliases; at least one.
    pub names: Vec<String>,
}

impl HostLine {
    /// The container's own line: its host name with its domain, and the first label alone.
    #[must_use]
    pub fn own(address: IpAddr, hostname: &str, domain: &str) -> Self {
        let mut names = Vec::new();
        if !domain.is_empty() {
            names.push(format!("{hostname}.{domain}"));
        }
        names.push(hostname.to_owned());
        if let Some((label, _)) = hostname.split_once('.') {
            names.push(label.to_owned());
        }
        Self { address, names }
    }
}

/// Resolver settings of the request, or else the daemon's. What is empty comes from the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsSettings {
    /// Name servers.
    pub servers: Vec<IpAddr>,
    /// Search domains; `.` alone clears the host's.
    pub search: Vec<String>,
    /// Options of resolv.conf(5).
    pub options: Vec<String>,
}

fn check(what: &'static str, text: &str, extra: &str) -> Result<(), NameError> {
    // What a name, a domain or an option may consist of; everything else, `#` and `;` (comments),
    // blanks and line ends among it, would be read as structure.
    let good = |b: u8| {
        b.is_ascii_alphanumeric()
            || matches!(b, b'.' | b'-' | b'_')
            || extra.as_bytes().contains(&b)
    };
    if !text.is_empty() && text.len() <= MAX_WORD && text.bytes().all(good) {
        Ok(())
    } else {
        Err(NameError::Invalid { what, text: text.chars().take(80).collect() })
    }
}

/// The content of /etc/hostname.
///
/// # Errors
/// [`NameError::Invalid`] when `hostname` could be more than a name.
pub fn hostname_file(hostname: &str) -> Result<String, NameError> {
    check("host name", hostname, "")?;
    Ok(format!("{hostname}\n"))
}

/// The content of /etc/hosts: the usual names of loopback, or on the host's network the host's own
/// file (`host`), then `extra` and `lines` in order. `gateway` is what `host-gateway` stands for.
///
/// # Errors
/// [`NameError`] when a name could be more than a name, or `host-gateway` has no address.
pub fn hosts_file(
    host: Option<&str>,
    lines: &[HostLine],
    extra: &[ExtraHost],
    gateway: Option<IpAddr>,
) -> Result<String, NameError> {
    let mut text = host.unwrap_or(OWN_HOSTS).to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for ExtraHost { name, address } in extra {
        check("extra host", name, "")?;
        let address =
            address.or(gateway).ok_or_else(|| NameError::NoHostGateway { name: name.clone() })?;
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(text, "{address}\t{name}");
    }
    for HostLine { address, names } in lines {
        for name in names {
            check("host name", name, "")?;
        }
        let _ = writeln!(text, "{address}\t{}", names.join(" "));
    }
    Ok(text)
}

/// The content of /etc/resolv.conf, from the host's and what overrides it.
///
/// Of the host's name servers those on loopback are left out, since loopback is the container's
/// own there, and those of IPv6, which it has not. If none is left `fallback` serves.
///
/// # Errors
/// [`NameError::Invalid`] when a domain or an option could be more than a word.
pub fn resolv_conf(
    host: &str,
    settings: &DnsSettings,
    fallback: &[IpAddr],
) -> Result<String, NameError> {
    for domain in &settings.search {
        check("search domain", domain, "")?;
    }
    for option in &settings.options {
        check("resolver option", option, ":")?;
    }
    let host = Parsed::of(host);
    let usable = |server: &IpAddr| server.is_ipv4() && !server.is_loopback();
    let servers: Vec<IpAddr> = if !settings.servers.is_empty() {
        settings.servers.clone()
    } else if host.servers.iter().any(usable) {
        host.servers.into_iter().filter(usable).collect()
    } else {
        fallback.to_vec()
    };
    let search = if settings.search.is_empty() { &host.search } else { &settings.search };
    let options = if settings.options.is_empty() { &host.options } else { &settings.options };
    let mut text = String::new();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !search.is_empty() && search.as_slice() != ["."] {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    Ok(text)
}

/// The host's resolver configuration, at most 1 MiB. Where that is only the stub of
/// systemd-resolved, the file with its upstream servers; none at all is an empty text.
///
/// # Errors
/// When a file is there and cannot be read.
pub fn read_host_resolv_conf() -> io::Result<String> {
    let own = read("/etc/resolv.conf")?;
    if is_resolved_stub(&own) {
        let upstream = read("/run/systemd/resolve/resolv.conf")?;
        if !upstream.is_empty() {
            return Ok(upstream);
        }
    }
    Ok(own)
}

fn is_resolved_stub(text: &str) -> bool {
    let servers = Parsed::of(text).servers;
    !servers.is_empty() && servers.iter().all(|s| *s == IpAddr::from([127, 0, 0, 53]))
}

fn read(path: &str) -> io::Result<String> {
    let mut text = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => {
            other?.take(MAX_FILE).read_to_end(&mut text)?;
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// What counts of a resolv.conf(5).
#[derive(Debug, Default)]
struct Parsed {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    options: Vec<String>,
}

impl Parsed {
    fn of(text: &str) -> Self {
        let mut parsed = Self::default();
        for line in text.lines().filter(|l| !l.starts_with(['#', ';'])) {
            let mut words = line.split_ascii_whitespace();
            let rest =
                |words: std::str::SplitAsciiWhitespace<'_>| words.map(str::to_owned).collect();
            match words.next() {
                Some("nameserver") => {
                    // A link-local server carries a zone that means nothing in a container.
                    let server = words.next().and_then(|s| s.parse::<IpAddr>().ok());
                    parsed.servers.extend(server);
                }
                // The last line wins, and `domain` is an older `search` of one word.
                Some("search" | "domain") => parsed.search = rest(words),
                Some("options") => parsed.options.extend::<Vec<String>>(rest(words)),
                _ => {}
            }
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_has_loopback_extras_and_the_container() {
        let own = HostLine::own(ip("172.30.0.2"), "web", "example.org");
        let extra = [
            ExtraHost { name: "db".into(), address: Some(ip("10.1.1.1")) },
            ExtraHost { name: "host.docker.internal".into(), address: None },
        ];
        let text = hosts_file(None, &[own], &extra, Some(ip("172.30.0.1"))).unwrap();
        assert!(text.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost"));
        assert!(text.ends_with(
            "10.1.1.1\tdb\n172.30.0.1\thost.docker.internal\n\
             172.30.0.2\tweb.example.org web\n"
        ));
        let error = hosts_file(None, &[], &extra[1..], None).unwrap_err();
        assert!(matches!(error, NameError::NoHostGateway { .. }));
        let text = hosts_file(Some("1.1.1.1 h"), &[], &extra[..1], None).unwrap();
        assert_eq!(text, "1.1.1.1 h\n10.1.1.1\tdb\n");
    }

    #[test]
    fn no_value_adds_a_line_or_a_field() {
        for bad in ["", "a\nb", "a\rb", "a b", "a\tb", "a:b", "a#b", "a;b", "a\0b", "é"] {
            assert!(hostname_file(bad).is_err(), "{bad:?}");
            let line = HostLine { address: ip("1.1.1.1"), names: vec![bad.into()] };
            assert!(hosts_file(None, &[line], &[], None).is_err(), "{bad:?}");
            let extra = ExtraHost { name: bad.into(), address: Some(ip("1.1.1.1")) };
            assert!(hosts_file(None, &[], &[extra], None).is_err(), "{bad:?}");
            let search = DnsSettings { search: vec![bad.into()], ..DnsSettings::default() };
            assert!(resolv_conf("", &search, &[]).is_err(), "{bad:?}");
        }
        let options = |o: &str| DnsSettings { options: vec![o.into()], ..DnsSettings::default() };
        assert!(resolv_conf("", &options("ndots:2"), &[]).is_ok());
        assert!(resolv_conf("", &options("x\nnameserver 6.6.6.6"), &[]).is_err());
        assert_eq!(hostname_file("web-1.example").unwrap(), "web-1.example\n");
    }

    #[test]
    fn loopback_and_ipv6_servers_of_the_host_are_left_out() {
        let host = "# c\nnameserver 127.0.0.1\nnameserver 8.8.8.8\nnameserver fe80::1%eth0\n\
            nameserver ::1\nnameserver 2001:db8::1\nsearch a.example b.example\noptions ndots:1\n";
        let text = resolv_conf(host, &DnsSettings::default(), &[ip("9.9.9.9")]).unwrap();
        assert_eq!(text, "nameserver 8.8.8.8\nsearch a.example b.example\noptions ndots:1\n");
        let only = resolv_conf("nameserver 127.0.0.1\n", &DnsSettings::default(), &[ip("9.9.9.9")]);
        assert_eq!(only.unwrap(), "nameserver 9.9.9.9\n");
    }

    #[test]
    fn settings_override_and_a_dot_clears_the_search() {
        let settings = DnsSettings {
            servers: vec![ip("127.0.0.1"), ip("2001:db8::1")],
            search: vec![".".into()],
            options: vec!["timeout:3".into()],
        };
        let text = resolv_conf("nameserver 8.8.8.8\nsearch x\n", &settings, &[]).unwrap();
        assert_eq!(text, "nameserver 127.0.0.1\nnameserver 2001:db8::1\noptions timeout:3\n");
    }

    #[test]
    fn the_stub_of_resolved_is_known() {
        assert!(is_resolved_stub("nameserver 127.0.0.53\noptions edns0\n"));
        assert!(!is_resolved_stub("nameserver 127.0.0.53\nnameserver 8.8.8.8\n"));
        assert!(!is_resolved_stub(""));
    }
}
