//! host-local's configuration: range sets, and in which order their addresses are tried.
//!
//! Each set gives one address. The search begins after the address given last and goes once around
//! all ranges of the set, so that an address comes back late.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;

use crate::cidr::{Cidr, bits, next, number, previous};
use crate::result::Route;

const DATA_DIR: &str = "/var/lib/cni/networks";

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct IpamFile {
    #[serde(rename = "type")]
    kind: String,
    subnet: Option<Cidr>,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
    #[serde(default)]
    ranges: Vec<Vec<RangeFile>>,
    #[serde(default)]
    routes: Vec<RouteFile>,
    #[serde(default)]
    data_dir: String,
    #[serde(default)]
    resolv_conf: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RangeFile {
    subnet: Cidr,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

/// Metrics, tables and scopes are the plugin's.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteFile {
    dst: Cidr,
    gw: Option<IpAddr>,
}

/// Addresses of one subnet, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) subnet: Cidr,
    pub(crate) start: IpAddr,
    pub(crate) end: IpAddr,
    pub(crate) gateway: IpAddr,
}

/// Ranges of one family that one address is taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RangeSet(Vec<Range>);

/// host-local as configured.
#[derive(Debug, Clone)]
pub(crate) struct Ipam {
    pub(crate) sets: Vec<RangeSet>,
    pub(crate) routes: Vec<Route>,
    pub(crate) data_dir: PathBuf,
    /// A file that the resolver's settings are read from.
    pub(crate) resolv_conf: Option<PathBuf>,
}

impl Range {
    /// `None` for what host-local refuses.
    fn of(file: RangeFile) -> Option<Self> {
        let RangeFile { subnet, range_start, range_end, gateway } = file;
        let address = subnet.address();
        // No address would be left; and an IPv4 address in IPv6 clothes is read in Go as IPv4.
        if subnet.prefix() > bits(address) - 2
            || subnet.network() != subnet
            || address.to_canonical() != address
        {
            return None;
        }
        let last = if subnet.is_v4() { previous(subnet.last()) } else { subnet.last() };
        let range = Self {
            subnet,
            start: range_start.unwrap_or_else(|| next(address)),
            end: range_end.unwrap_or(last),
            gateway: gateway.unwrap_or_else(|| next(address)),
        };
        let inside = |address| subnet.contains(address);
        (inside(range.start)
            && inside(range.end)
            && inside(range.gateway)
            && number(range.start) <= number(range.end))
        .then_some(range)
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.subnet.contains(address)
            && number(self.start) <= number(address)
            && number(address) <= number(self.end)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.start)
            || self.contains(other.end)
            || other.contains(self.start)
            || other.contains(self.end)
    }
}

impl RangeSet {
    fn of(ranges: Vec<Range>) -> Option<Self> {
        let first = ranges.first()?;
        let mixed = ranges.iter().any(|r| r.subnet.is_v4() != first.subnet.is_v4());
        (!mixed && !any_overlap(&ranges, Range::overlaps)).then_some(Self(ranges))
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|a| other.0.iter().any(|b| a.overlaps(b)))
    }

    /// The range that has the address.
    pub(crate) fn range_of(&self, address: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(address))
    }

    /// Every address but the gateways', beginning after `last`, that one at the end.
    pub(crate) fn from(&self, last: Option<IpAddr>) -> impl Iterator<Item = (IpAddr, &Range)> {
        let position = last.and_then(|last| {
            let index = self.0.iter().position(|range| range.contains(last))?;
            Some((index, last))
        });
        let (first, begin) = position.map_or_else(
            || (0, self.0.first().map(|range| range.start)),
            |(index, last)| self.after(index, last),
        );
        let mut cursor = begin.map(|begin| (first, begin));
        std::iter::from_fn(move || {
            let (index, address) = cursor?;
            let (following, next) = self.after(index, address);
            cursor = next.map(|next| (following, next)).filter(|at| Some(at.1) != begin);
            Some((address, self.0.get(index)?))
        })
        .filter(|(address, range)| *address != range.gateway)
    }

    /// What comes after an address of the range `index`.
    fn after(&self, index: usize, address: IpAddr) -> (usize, Option<IpAddr>) {
        if self.0.get(index).is_some_and(|range| range.end != address) {
            return (index, Some(next(address)));
        }
        let index = (index + 1) % self.0.len().max(1);
        (index, self.0.get(index).map(|range| range.start))
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{}-{}", range.start, range.end)?;
        }
        Ok(())
    }
}

fn any_overlap<T>(all: &[T], overlap: impl Fn(&T, &T) -> bool) -> bool {
    all.iter().enumerate().any(|(i, a)| all.iter().skip(i + 1).any(|b| overlap(a, b)))
}

impl Ipam {
    /// `None` for what host-local refuses, or may understand otherwise than we would.
    pub(crate) fn of(file: IpamFile) -> Option<Self> {
        if file.kind != "host-local" {
            return None;
        }
        let alone = match file.subnet {
            Some(subnet) => Some(vec![RangeFile {
                subnet,
                range_start: file.range_start,
                range_end: file.range_end,
                gateway: file.gateway,
            }]),
            None if file.range_start.or(file.range_end).or(file.gateway).is_some() => return None,
            None => None,
        };
        let sets = alone.into_iter().chain(file.ranges);
        let set = |ranges: Vec<RangeFile>| {
            RangeSet::of(ranges.into_iter().map(Range::of).collect::<Option<_>>()?)
        };
        let sets = sets.map(set).collect::<Option<Vec<_>>>()?;
        if sets.is_empty() || any_overlap(&sets, RangeSet::overlaps) {
            return None;
        }
        let route = |route: RouteFile| {
            let same_family = route.gw.is_none_or(|gw| gw.is_ipv4() == route.dst.is_v4());
            let clean = route.dst.network() == route.dst;
            (same_family && clean).then(|| Route {
                dst: route.dst,
                gw: route.gw,
                other: serde_json::Map::new(),
            })
        };
        let data_dir = if file.data_dir.is_empty() { DATA_DIR } else { &file.data_dir };
        Some(Self {
            sets,
            routes: file.routes.into_iter().map(route).collect::<Option<_>>()?,
            data_dir: PathBuf::from(data_dir),
            resolv_conf: (!file.resolv_conf.is_empty()).then(|| file.resolv_conf.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ipam(mut value: Value) -> Option<Ipam> {
        value["type"] = "host-local".into();
        Ipam::of(serde_json::from_value(value).ok()?)
    }

    fn order(set: &RangeSet, last: Option<&str>) -> Vec<String> {
        set.from(last.map(|l| l.parse().unwrap())).map(|(ip, _)| ip.to_string()).collect()
    }

    #[test]
    fn a_subnet_gives_all_but_gateway_network_and_broadcast() {
        let all = ipam(json!({"subnet": "10.0.0.0/29"})).unwrap();
        let range = all.sets[0].0[0];
        assert_eq!(range.gateway.to_string(), "10.0.0.1");
        let wanted = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"];
        assert_eq!(order(&all.sets[0], None), wanted);
        assert_eq!(
            order(&all.sets[0], Some("10.0.0.4")),
            ["10.0.0.5", "10.0.0.6", "10.0.0.2", "10.0.0.3", "10.0.0.4"]
        );
        // The last one given may be of an earlier configuration.
        assert_eq!(order(&all.sets[0], Some("10.9.0.4")), wanted);
        let v6 = ipam(json!({"subnet": "fd00::/126"})).unwrap();
        assert_eq!(order(&v6.sets[0], None), ["fd00::2", "fd00::3"]);
    }

    #[test]
    fn start_end_and_gateway_are_kept() {
        let one = json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.10",
                         "rangeEnd": "10.0.0.12", "gateway": "10.0.0.11"});
        let all = ipam(one).unwrap();
        assert_eq!(order(&all.sets[0], None), ["10.0.0.10", "10.0.0.12"]);
        assert_eq!(order(&all.sets[0], Some("10.0.0.12")), ["10.0.0.10", "10.0.0.12"]);
        let single = json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9",
                            "rangeEnd": "10.0.0.9"});
        let all = ipam(single).unwrap();
        assert_eq!(order(&all.sets[0], None), ["10.0.0.9"]);
        assert_eq!(order(&all.sets[0], Some("10.0.0.9")), ["10.0.0.9"]);
    }

    #[test]
    fn sets_of_several_ranges_go_on_from_one_to_the_next() {
        let ranges = json!({"ranges": [
            [{"subnet": "10.0.0.0/30"}, {"subnet": "10.0.1.0/30", "gateway": "10.0.1.2"}],
            [{"subnet": "fd00::/64", "rangeStart": "fd00::10", "rangeEnd": "fd00::11"}]
        ]});
        let all = ipam(ranges).unwrap();
        assert_eq!(all.sets.len(), 2);
        assert_eq!(order(&all.sets[0], None), ["10.0.0.2", "10.0.1.1"]);
        assert_eq!(order(&all.sets[0], Some("10.0.0.2")), ["10.0.1.1", "10.0.0.2"]);
        assert_eq!(order(&all.sets[1], Some("fd00::11")), ["fd00::10", "fd00::11"]);
        assert_eq!(all.sets[0].to_string(), "10.0.0.1-10.0.0.2, 10.0.1.1-10.0.1.2");
    }

    #[test]
    fn what_host_local_refuses_is_not_taken() {
        for bad in [
            json!({}),
            json!({"subnet": "10.0.0.0/31"}),
            json!({"subnet": "10.0.0.1/24"}),
            json!({"subnet": "10.0.0.0/24", "gateway": "10.0.1.1"}),
            json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"}),
            json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.8"}),
            json!({"ranges": [[]]}),
            json!({"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]]}),
            json!({"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.0.0/16"}]]}),
            json!({"subnet": "10.0.0.0/24", "routes": [{"dst": "0.0.0.0/0", "priority": 5}]}),
            json!({"subnet": "10.0.0.0/24", "routes": [{"dst": "::/0", "gw": "10.0.0.1"}]}),
            json!({"subnet": "10.0.0.0/24", "unknown": 1}),
        ] {
            assert!(ipam(bad.clone()).is_none(), "{bad}");
        }
    }
}
