//! Host names without glibc: literals, then `/etc/hosts`, then DNS by hickory.

use std::io;
use std::net::IpAddr;

/// /etc/hosts beyond this is not read: it is a local file, but nobody's hosts file is larger.
const HOSTS_LIMIT: u64 = 1 << 20;

/// The addresses of `host`, in the order to try.
pub(crate) async fn addresses(host: &str) -> io::Result<Vec<IpAddr>> {
    if let Ok(literal) = host.parse::<IpAddr>() {
        return Ok(vec![literal]);
    }
    let local = from_hosts(&hosts_file(), host);
    if !local.is_empty() {
        return Ok(local);
    }
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)]);
    }
    let resolver = hickory_resolver::TokioResolver::builder_tokio()
        .and_then(|builder| builder.build())
        .map_err(io::Error::other)?;
    let found: Vec<IpAddr> =
        resolver.lookup_ip(host).await.map_err(io::Error::other)?.iter().collect();
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")));
    }
    Ok(found)
}

fn hosts_file() -> String {
    use std::io::Read as _;
    let mut text = String::new();
    if let Ok(file) = std::fs::File::open("/etc/hosts") {
        // A file that cannot be read or is not UTF-8 counts as empty: DNS still answers.
        if file.take(HOSTS_LIMIT).read_to_string(&mut text).is_err() {
            text.clear();
        }
    }
    text
}

fn from_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let address = words.next()?.parse::<IpAddr>().ok()?;
            words.any(|name| name.eq_ignore_ascii_case(host)).then_some(address)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_lines() {
        let text = "127.0.0.1 localhost\n# 9.9.9.9 box\n10.1.2.3\tbox Box.lan # 8.8.8.8\nfe80::1 box\nx box\n";
        assert_eq!(
            from_hosts(text, "BOX"),
            vec!["10.1.2.3".parse::<IpAddr>().unwrap(), "fe80::1".parse().unwrap()]
        );
        assert!(from_hosts(text, "8.8.8.8").is_empty());
    }
}
