//! The result of an ADD, read from any version and written in any.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cidr::Cidr;
use crate::version::SpecVersion;

/// An interface that belongs to the attachment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its Ethernet address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Its MTU; 0 when not told (1.1.0).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mtu: u32,
    /// The namespace that it is in; empty for the host's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// Socket of a vhost-user interface (1.1.0).
    #[serde(default, rename = "socketPath", skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// PCI address of the device (1.1.0).
    #[serde(default, rename = "pciID", skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// An address of the attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// Which of the interfaces has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// The address and its prefix.
    pub address: Cidr,
    /// Where packets leave by default.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "maybe_ip")]
    pub gateway: Option<IpAddr>,
}

/// A route of the attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub dst: Cidr,
    /// By which neighbour; the address's gateway when absent.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "maybe_ip")]
    pub gw: Option<IpAddr>,
    /// `mtu`, `advmss`, `priority`, `table`, `scope` (1.1.0), and what may come.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What a resolver is told.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Dns {
    /// Servers, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Domains to try.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_empty")]
    pub search: Vec<String>,
    /// As in resolv.conf(5).
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_empty")]
    pub options: Vec<String>,
}

/// What an ADD gave, whatever the version it came in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct AddResult {
    /// Everything made, the host's side too.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_empty")]
    pub(crate) interfaces: Vec<Interface>,
    /// Addresses, in the order of the plugin.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_empty")]
    pub(crate) ips: Vec<IpConfig>,
    /// Routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_empty")]
    pub(crate) routes: Vec<Route>,
    /// Resolver.
    #[serde(default)]
    pub(crate) dns: Dns,
}

/// Go writes an absent list as `null`.
fn null_as_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Go writes an absent address as `""` or `null`.
mod maybe_ip {
    use std::net::IpAddr;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<IpAddr>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
        if text.is_empty() {
            return Ok(None);
        }
        text.parse::<IpAddr>().map(|ip| Some(ip.to_canonical())).map_err(serde::de::Error::custom)
    }

    pub(super) fn serialize<S: Serializer>(
        ip: &Option<IpAddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        ip.serialize(serializer)
    }
}

/// Why a result could not be read.
#[derive(Debug)]
pub(crate) enum Unreadable {
    Json(serde_json::Error),
    Version(String),
}

impl AddResult {
    /// Reads a result of any version from 0.3.0 on. One that does not tell is of the version that
    /// it was asked for (libcni, since plugins in shell often forget it).
    pub(crate) fn read(raw: &Value) -> Result<Self, Unreadable> {
        if let Some(version) = raw.get("cniVersion").and_then(Value::as_str)
            && !version.is_empty()
            && SpecVersion::of(version).is_none()
        {
            return Err(Unreadable::Version(version.to_owned()));
        }
        // A list would do for a structure too.
        let fields = Map::<String, Value>::deserialize(raw).map_err(Unreadable::Json)?;
        Self::deserialize(Value::Object(fields)).map_err(Unreadable::Json)
    }

    /// As a plugin of `version` would write it.
    ///
    /// # Errors
    /// None in practice: every field has a JSON form.
    pub(crate) fn write(&self, version: SpecVersion) -> Result<Value, serde_json::Error> {
        let mut value = serde_json::to_value(self)?;
        if let Value::Object(fields) = &mut value {
            fields.insert("cniVersion".into(), version.text().into());
        }
        let newer = version.has_status_and_gc();
        let families = self.ips.iter().map(|ip| if ip.address.is_v4() { "4" } else { "6" });
        if version.has_address_family()
            && let Some(ips) = value.get_mut("ips").and_then(Value::as_array_mut)
        {
            for (ip, family) in ips.iter_mut().zip(families) {
                if let Value::Object(fields) = ip {
                    fields.insert("version".into(), family.into());
                }
            }
        }
        if !newer
            && let Some(interfaces) = value.get_mut("interfaces").and_then(Value::as_array_mut)
        {
            for interface in interfaces {
                if let Value::Object(fields) = interface {
                    fields.retain(|key, _| matches!(key.as_str(), "name" | "mac" | "sandbox"));
                }
            }
        }
        if !newer && let Some(routes) = value.get_mut("routes").and_then(Value::as_array_mut) {
            for route in routes {
                if let Value::Object(fields) = route {
                    fields.retain(|key, _| matches!(key.as_str(), "dst" | "gw"));
                }
            }
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn old() -> Value {
        json!({
            "cniVersion": "0.4.0",
            "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/n"}],
            "ips": [
                {"version": "4", "interface": 0, "address": "10.1.0.5/16", "gateway": "10.1.0.1"},
                {"version": "6", "interface": 0, "address": "fd00::5/64"}
            ],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dns": {}
        })
    }

    #[test]
    fn results_go_from_version_to_version_and_back() {
        let result = AddResult::read(&old()).unwrap();
        assert_eq!(result.write(SpecVersion::V0_4_0).unwrap(), old());
        let new = result.write(SpecVersion::V1_0_0).unwrap();
        assert_eq!(new["ips"][0].get("version"), None);
        assert_eq!(new["cniVersion"], "1.0.0");
        assert_eq!(AddResult::read(&new).unwrap(), result);
    }

    #[test]
    fn what_only_1_1_has_is_left_out_before() {
        let new = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "eth0", "mtu": 1400, "pciID": "x"}],
            "ips": null,
            "routes": [{"dst": "10.0.0.0/8", "gw": "10.1.0.1", "mtu": 1400, "scope": 0}]
        });
        let result = AddResult::read(&new).unwrap();
        assert_eq!(result.write(SpecVersion::V1_1_0).unwrap()["routes"], new["routes"]);
        let old = result.write(SpecVersion::V1_0_0).unwrap();
        assert_eq!(old["routes"], json!([{"dst": "10.0.0.0/8", "gw": "10.1.0.1"}]));
        assert_eq!(old["interfaces"], json!([{"name": "eth0"}]));
    }

    #[test]
    fn other_versions_and_garbage_are_refused() {
        let other = json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.2/24"}});
        assert!(matches!(AddResult::read(&other), Err(Unreadable::Version(v)) if v == "0.2.0"));
        for bad in [json!([]), json!({"ips": [{"address": "10.0.0.2"}]}), json!({"ips": 3})] {
            assert!(matches!(AddResult::read(&bad), Err(Unreadable::Json(_))), "{bad}");
        }
    }
}
