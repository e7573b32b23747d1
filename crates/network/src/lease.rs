//! The rows of networks, endpoints and published ports: who has which address and port.
//!
//! Addresses go round (see [`Subnet::hosts_after`]): a neighbour's ARP cache or a client's retry
//! meets nobody rather than the next container. That no two containers share an address or a port
//! is a constraint of the tables, whatever the code above believes.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pouch_store::{Schema, StoreError};
use pouch_types::{ContainerId, NetworkId};
use rusqlite::{Connection, OptionalExtension, params};

use crate::driver::{Addressing, Leased};
use crate::endpoint::{Driver, Endpoint, Ipv4Config, PublishedPort};
use crate::error::{NetworkError, PortHolder};
use crate::mac::MacAddr;
use crate::subnet::Subnet;

/// The tables of this crate.
pub const SCHEMA: Schema = Schema {
    owner: "network",
    migrations: &["
        CREATE TABLE networks (
            id      TEXT PRIMARY KEY,
            name    TEXT NOT NULL UNIQUE,
            driver  TEXT NOT NULL,
            created INTEGER NOT NULL,
            subnet  TEXT,
            gateway TEXT,
            cursor  INTEGER NOT NULL DEFAULT 0
        ) STRICT;
        CREATE TABLE network_endpoints (
            endpoint  TEXT PRIMARY KEY,
            container TEXT NOT NULL,
            network   TEXT NOT NULL REFERENCES networks (id),
            name      TEXT NOT NULL,
            netns     TEXT,
            address   INTEGER,
            record    TEXT NOT NULL,
            UNIQUE (container, network),
            UNIQUE (network, address)
        ) STRICT;
        CREATE TABLE network_ports (
            protocol  TEXT NOT NULL,
            host_port INTEGER NOT NULL,
            host_ip   INTEGER NOT NULL,
            endpoint  TEXT NOT NULL REFERENCES network_endpoints (endpoint) ON DELETE CASCADE,
            PRIMARY KEY (protocol, host_port, host_ip)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX network_ports_endpoint ON network_ports (endpoint);
    "],
};

/// A network's row.
#[derive(Debug, Clone)]
pub(crate) struct NetworkRow {
    pub(crate) id: NetworkId,
    pub(crate) name: String,
    pub(crate) driver: Driver,
    pub(crate) created: SystemTime,
}

/// An endpoint's row.
#[derive(Debug, Clone)]
pub(crate) struct EndpointRow {
    pub(crate) container: ContainerId,
    pub(crate) name: String,
    pub(crate) leased: Leased,
}

/// What an endpoint's row is made of.
#[derive(Debug)]
pub(crate) struct NewLease {
    pub(crate) container: ContainerId,
    pub(crate) name: String,
    pub(crate) network: NetworkRow,
    pub(crate) endpoint_id: String,
    pub(crate) netns: Option<PathBuf>,
    pub(crate) interface: Option<String>,
    pub(crate) addressing: Option<Addressing>,
    pub(crate) ports: Vec<PublishedPort>,
}

/// The row of the predefined network `name`, made at the first start.
pub(crate) fn predefined(
    tx: &Connection,
    name: &str,
    driver: Driver,
    fresh: NetworkId,
) -> Result<NetworkRow, NetworkError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    tx.execute(
        "INSERT INTO networks (id, name, driver, created) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (name) DO NOTHING",
        params![fresh.as_str(), name, driver.as_str(), i64::try_from(now).unwrap_or(i64::MAX)],
    )?;
    let (id, created): (String, i64) =
        tx.query_row("SELECT id, created FROM networks WHERE name = ?1", [name], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let created = UNIX_EPOCH + Duration::from_nanos(created.unsigned_abs());
    Ok(NetworkRow { id: parse(id)?, name: name.to_owned(), driver, created })
}

fn parse(id: String) -> Result<NetworkId, NetworkError> {
    use rusqlite::types::Type;
    id.parse().map_err(|error: pouch_types::id::InvalidId| {
        rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error)).into()
    })
}

/// Subnet and gateway as recorded.
pub(crate) fn recorded_subnet(
    tx: &Connection,
    network: &NetworkId,
) -> Result<Option<(Subnet, Ipv4Addr)>, NetworkError> {
    let (subnet, gateway): (Option<String>, Option<String>) = tx.query_row(
        "SELECT subnet, gateway FROM networks WHERE id = ?1",
        [network.as_str()],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(subnet.and_then(|s| s.parse().ok()).zip(gateway.and_then(|g| g.parse().ok())))
}

/// Records subnet and gateway.
pub(crate) fn record_subnet(
    tx: &Connection,
    network: &NetworkId,
    subnet: Subnet,
    gateway: Ipv4Addr,
) -> Result<(), NetworkError> {
    tx.execute(
        "UPDATE networks SET subnet = ?2, gateway = ?3, cursor = 0 WHERE id = ?1",
        params![network.as_str(), subnet.to_string(), gateway.to_string()],
    )?;
    Ok(())
}

/// Takes an address and the ports, and writes the endpoint.
pub(crate) fn insert(tx: &Connection, new: NewLease) -> Result<Leased, NetworkError> {
    let taken = tx
        .query_row(
            "SELECT 1 FROM network_endpoints WHERE container = ?1 AND network = ?2",
            [new.container.as_str(), new.network.id.as_str()],
            |_| Ok(()),
        )
        .optional()?;
    if taken.is_some() {
        let (container, network) = (new.container, new.network.name);
        return Err(NetworkError::AlreadyAttached { container, network });
    }
    let ipv4 = match new.addressing {
        None => None,
        Some(a) => Some(Ipv4Config {
            address: address(tx, &new.network.id, a)?,
            prefix: a.subnet.prefix(),
            gateway: a.gateway,
        }),
    };
    let container = new.container;
    let derived = ipv4.map(|ipv4| MacAddr::of(ipv4.address));
    let endpoint = Endpoint {
        network_id: new.network.id,
        network: new.network.name,
        endpoint_id: new.endpoint_id,
        interface: new.interface,
        mac: new.addressing.and_then(|a| a.mac).or(derived),
        ipv4,
        ipv6: None,
        ports: new.ports,
    };
    let record = serde_json::to_string(&endpoint)
        .map_err(|source| StoreError::Row { table: "network_endpoints", source })?;
    tx.execute(
        "INSERT INTO network_endpoints
             (endpoint, container, network, name, netns, address, record)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            endpoint.endpoint_id,
            container.as_str(),
            endpoint.network_id.as_str(),
            new.name,
            new.netns.as_ref().map(|p| p.to_string_lossy()),
            ipv4.map(|ipv4| ipv4.address.to_bits()),
            record,
        ],
    )?;
    take_ports(tx, &endpoint)?;
    Ok(Leased { endpoint, netns: new.netns })
}

fn address(
    tx: &Connection,
    network: &NetworkId,
    want: Addressing,
) -> Result<Ipv4Addr, NetworkError> {
    let mut query =
        tx.prepare("SELECT name FROM network_endpoints WHERE network = ?1 AND address = ?2")?;
    let mut holder = |address: Ipv4Addr| -> Result<Option<String>, NetworkError> {
        let key = params![network.as_str(), address.to_bits()];
        Ok(query.query_row(key, |row| row.get(0)).optional()?)
    };
    if let Some(address) = want.fixed {
        return match holder(address)? {
            None => Ok(address),
            Some(holder) => Err(NetworkError::AddressInUse { address, holder }),
        };
    }
    let cursor: u32 =
        tx.query_row("SELECT cursor FROM networks WHERE id = ?1", [network.as_str()], |row| {
            row.get(0)
        })?;
    for address in want.subnet.hosts_after(Ipv4Addr::from_bits(cursor)) {
        if address != want.gateway && holder(address)?.is_none() {
            tx.execute(
                "UPDATE networks SET cursor = ?2 WHERE id = ?1",
                params![network.as_str(), address.to_bits()],
            )?;
            return Ok(address);
        }
    }
    Err(NetworkError::AddressesExhausted { subnet: want.subnet })
}

fn take_ports(tx: &Connection, endpoint: &Endpoint) -> Result<(), NetworkError> {
    let mut query = tx.prepare(
        "SELECT e.container, e.name FROM network_ports p JOIN network_endpoints e USING (endpoint)
         WHERE p.protocol = ?1 AND p.host_port = ?2
           AND (p.host_ip = ?3 OR p.host_ip = 0 OR ?3 = 0)",
    )?;
    let mut insert = tx.prepare(
        "INSERT INTO network_ports (protocol, host_port, host_ip, endpoint)
         VALUES (?1, ?2, ?3, ?4)",
    )?;
    for port in &endpoint.ports {
        let IpAddr::V4(host_ip) = port.host_ip else {
            return Err(NetworkError::Ipv6 { address: port.host_ip });
        };
        let (protocol, host_port) = (port.container.protocol, port.host_port);
        let (word, bits) = (protocol.as_str(), host_ip.to_bits());
        let in_the_way: Option<(String, String)> = query
            .query_row(params![word, host_port, bits], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        if let Some((id, name)) = in_the_way {
            let holder = match id.parse() {
                Ok(id) => PortHolder::Container { id, name },
                Err(_) => PortHolder::Unknown,
            };
            return Err(NetworkError::PortInUse { host_ip, host_port, protocol, holder });
        }
        insert.execute(params![word, host_port, bits, endpoint.endpoint_id])?;
    }
    Ok(())
}

/// Frees the address and the ports of one endpoint; of that one only, so that a late repetition
/// does not hit the container's next.
pub(crate) fn delete(tx: &Connection, endpoint_id: &str) -> Result<(), NetworkError> {
    tx.execute("DELETE FROM network_endpoints WHERE endpoint = ?1", [endpoint_id])?;
    Ok(())
}

/// The endpoints of `container`, or of all.
pub(crate) fn endpoints(
    db: &Connection,
    container: Option<&ContainerId>,
) -> Result<Vec<EndpointRow>, NetworkError> {
    let mut query = db.prepare(
        "SELECT container, name, netns, record FROM network_endpoints
         WHERE ?1 IS NULL OR container = ?1 ORDER BY rowid",
    )?;
    let mut rows = query.query([container.map(ContainerId::as_str)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (container, name): (String, String) = (row.get(0)?, row.get(1)?);
        let (netns, record): (Option<String>, String) = (row.get(2)?, row.get(3)?);
        let endpoint: Endpoint = serde_json::from_str(&record)
            .map_err(|source| StoreError::Row { table: "network_endpoints", source })?;
        // Written from an id; a row that says otherwise is damaged and belongs to nobody.
        let Ok(container) = container.parse() else { continue };
        let leased = Leased { endpoint, netns: netns.map(PathBuf::from) };
        found.push(EndpointRow { container, name, leased });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use pouch_types::spec::{Port, Protocol};

    use super::*;

    fn database() -> (Connection, NetworkRow) {
        let db = Connection::open_in_memory().unwrap();
        db.pragma_update(None, "foreign_keys", true).unwrap();
        db.execute_batch(SCHEMA.migrations[0]).unwrap();
        let row = predefined(&db, "bridge", Driver::Bridge, NetworkId::random().unwrap()).unwrap();
        (db, row)
    }

    fn new(network: &NetworkRow, subnet: &str, fixed: Option<&str>) -> NewLease {
        let subnet: Subnet = subnet.parse().unwrap();
        NewLease {
            container: ContainerId::random().unwrap(),
            name: "web".into(),
            network: network.clone(),
            endpoint_id: pouch_types::id::random_hex().unwrap(),
            netns: Some("/run/ns".into()),
            interface: Some("eth0".into()),
            addressing: Some(Addressing {
                subnet,
                gateway: subnet.hosts_after(subnet.base()).next().unwrap(),
                fixed: fixed.map(|a| a.parse().unwrap()),
                mac: None,
            }),
            ports: Vec::new(),
        }
    }

    fn last(leased: &Leased) -> u8 {
        leased.endpoint.ipv4.unwrap().address.octets()[3]
    }

    #[test]
    fn a_network_keeps_its_id() {
        let (db, row) = database();
        let again =
            predefined(&db, "bridge", Driver::Bridge, NetworkId::random().unwrap()).unwrap();
        assert_eq!(row.id, again.id);
        assert_eq!(row.created, again.created);
    }

    #[test]
    fn addresses_go_round_and_run_out() {
        let (db, network) = database();
        let lease = || insert(&db, new(&network, "10.0.0.0/29", None));
        let first = lease().unwrap();
        assert_eq!(last(&first), 2);
        assert_eq!(last(&lease().unwrap()), 3);
        delete(&db, &first.endpoint.endpoint_id).unwrap();
        for expected in [4, 5, 6, 2] {
            assert_eq!(last(&lease().unwrap()), expected);
        }
        assert!(matches!(lease(), Err(NetworkError::AddressesExhausted { .. })));
    }

    #[test]
    fn a_fixed_address_is_kept_from_others() {
        let (db, network) = database();
        let fixed = insert(&db, new(&network, "10.0.0.0/24", Some("10.0.0.2"))).unwrap();
        assert_eq!(fixed.endpoint.mac.unwrap().to_string(), "02:42:0a:00:00:02");
        let again = insert(&db, new(&network, "10.0.0.0/24", Some("10.0.0.2")));
        assert!(matches!(again, Err(NetworkError::AddressInUse { holder, .. }) if holder == "web"));
        assert_eq!(last(&insert(&db, new(&network, "10.0.0.0/24", None)).unwrap()), 3);
    }

    #[test]
    fn ports_conflict_with_all_addresses_and_by_protocol() {
        let (db, network) = database();
        let publish = |ip: &str, protocol| {
            let mut lease = new(&network, "10.0.0.0/24", None);
            lease.ports.push(PublishedPort {
                container: Port { number: 80, protocol },
                host_ip: ip.parse().unwrap(),
                host_port: 8080,
            });
            insert(&db, lease)
        };
        let first = publish("127.0.0.1", Protocol::Tcp).unwrap();
        publish("10.9.9.9", Protocol::Tcp).unwrap();
        publish("0.0.0.0", Protocol::Udp).unwrap();
        for (ip, protocol) in
            [("127.0.0.1", Protocol::Tcp), ("0.0.0.0", Protocol::Tcp), ("127.0.0.1", Protocol::Udp)]
        {
            let error = publish(ip, protocol).unwrap_err();
            assert!(error.to_string().contains("already allocated by container web"), "{error}");
        }
        delete(&db, &first.endpoint.endpoint_id).unwrap();
        publish("127.0.0.1", Protocol::Tcp).unwrap();
    }

    #[test]
    fn a_second_attachment_is_refused_and_rows_read_back() {
        let (db, network) = database();
        let lease = new(&network, "10.0.0.0/24", None);
        let id = lease.container.clone();
        let leased = insert(&db, lease).unwrap();
        let mut twice = new(&network, "10.0.0.0/24", None);
        twice.container = id.clone();
        assert!(matches!(insert(&db, twice), Err(NetworkError::AlreadyAttached { .. })));
        let rows = endpoints(&db, Some(&id)).unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].leased.endpoint, leased.endpoint);
        assert_eq!(rows[0].leased.netns.as_deref(), Some("/run/ns".as_ref()));
        delete(&db, &leased.endpoint.endpoint_id).unwrap();
        assert!(endpoints(&db, None).unwrap().is_empty());
    }
}
