//! One file of a vendor: its form, and what its values may be.

use std::collections::BTreeMap;

use crate::edits::{DeviceNode, Edits, Hook, HookStage, Mount, NodeKind};
use crate::error::FileError;
use crate::name::{DeviceName, Kind, beginning};
use crate::version;
use crate::yaml;

/// Devices in one file.
const MAX_DEVICES: usize = 4096;
/// Entries in one list of changes.
const MAX_ENTRIES: usize = 1024;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `.json`.
    Json,
    /// `.yaml`.
    Yaml,
}

/// A file whose every value was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecFile {
    /// For every container that gets one of the devices.
    pub(crate) common: Changes,
    pub(crate) devices: BTreeMap<DeviceName, Changes>,
}

/// What is changed, and what should be and cannot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Changes {
    pub(crate) edits: Edits,
    pub(crate) unsupported: Option<&'static str>,
}

/// Reads a file's content.
///
/// # Errors
/// When it is not of the form, uses what its version does not have, or has a value that cannot be
/// meant.
pub fn parse(content: &[u8], format: Format) -> Result<SpecFile, FileError> {
    let spec: raw::Spec = match format {
        Format::Json => serde_json::from_slice(content).map_err(FileError::Json)?,
        Format::Yaml => {
            let text = std::str::from_utf8(content)
                .map_err(|_| FileError::Yaml("not UTF-8".to_owned()))?;
            yaml::parse(text)?
        }
    };
    version::check(&spec)?;
    let kind: Kind = spec.kind.parse()?;
    let common = changes(spec.container_edits)?;
    if spec.devices.is_empty() {
        return Err(FileError::invalid("devices", "none"));
    }
    cap("devices", &spec.devices, MAX_DEVICES)?;
    let mut devices = BTreeMap::new();
    for device in spec.devices {
        let name = DeviceName::new(kind.clone(), &device.name)?;
        if devices.insert(name, changes(device.container_edits)?).is_some() {
            return Err(FileError::invalid("devices", format!("{:?} twice", device.name)));
        }
    }
    Ok(SpecFile { common, devices })
}

fn cap<T>(field: &'static str, list: &[T], max: usize) -> Result<(), FileError> {
    if list.len() > max {
        return Err(FileError::invalid(field, format!("more than {max}")));
    }
    Ok(())
}

fn changes(raw: raw::Edits) -> Result<Changes, FileError> {
    cap("env", &raw.env, MAX_ENTRIES)?;
    cap("deviceNodes", &raw.device_nodes, MAX_ENTRIES)?;
    cap("mounts", &raw.mounts, MAX_ENTRIES)?;
    cap("hooks", &raw.hooks, MAX_ENTRIES)?;
    cap("additionalGids", &raw.additional_gids, MAX_ENTRIES)?;
    cap("netDevices", &raw.net_devices, MAX_ENTRIES)?;
    variables("env", &raw.env)?;
    let pipe = raw.device_nodes.iter().any(|node| node.kind == "p");
    let unsupported = if raw.intel_rdt.is_some() {
        Some("intelRdt")
    } else if !raw.net_devices.is_empty() {
        Some("netDevices")
    } else if pipe {
        Some("a deviceNode of type p")
    } else {
        None
    };
    Ok(Changes {
        edits: Edits {
            env: raw.env,
            device_nodes: raw.device_nodes.into_iter().map(node).collect::<Result<_, _>>()?,
            mounts: raw.mounts.into_iter().map(mount).collect::<Result<_, _>>()?,
            hooks: raw.hooks.into_iter().map(hook).collect::<Result<_, _>>()?,
            // The superuser's group is not given away by a file; the specification has it so.
            additional_gids: raw.additional_gids.into_iter().filter(|gid| *gid != 0).collect(),
        },
        unsupported,
    })
}

fn node(raw: raw::DeviceNode) -> Result<DeviceNode, FileError> {
    absolute("deviceNodes.path", &raw.path)?;
    let host_path = if raw.host_path.is_empty() { raw.path.clone() } else { raw.host_path };
    absolute("deviceNodes.hostPath", &host_path)?;
    let kind = match raw.kind.as_str() {
        "" | "p" => None,
        "b" => Some(NodeKind::Block),
        "c" | "u" => Some(NodeKind::Char),
        other => return Err(FileError::invalid("deviceNodes.type", shown(other))),
    };
    let number = |value: i64| {
        u32::try_from(value)
            .map_err(|_| FileError::invalid("deviceNodes.major or .minor", value.to_string()))
    };
    let (major, minor) = (number(raw.major)?, number(raw.minor)?);
    let access = match raw.permissions.as_str() {
        "" => "rwm".to_owned(),
        "none" => String::new(),
        some if some.len() <= 3 && some.bytes().all(|b| matches!(b, b'r' | b'w' | b'm')) => {
            raw.permissions
        }
        other => return Err(FileError::invalid("deviceNodes.permissions", shown(other))),
    };
    Ok(DeviceNode {
        path: raw.path,
        host_path,
        kind,
        // A file that leaves the driver out leaves the device out too: 0 is nobody's number.
        numbers: (major != 0).then_some((major, minor)),
        // The other bits are Go's words for the kind of file.
        file_mode: raw.file_mode.map(|mode| mode & 0o7777),
        access,
        uid: raw.uid,
        gid: raw.gid,
    })
}

fn mount(raw: raw::Mount) -> Result<Mount, FileError> {
    if raw.host_path.is_empty() {
        return Err(FileError::invalid("mounts.hostPath", "empty"));
    }
    absolute("mounts.containerPath", &raw.container_path)?;
    cap("mounts.options", &raw.options, MAX_ENTRIES)?;
    for text in raw.options.iter().chain([&raw.host_path, &raw.kind]) {
        plain("mounts", text)?;
    }
    Ok(Mount {
        source: raw.host_path,
        destination: raw.container_path,
        kind: raw.kind,
        options: raw.options,
    })
}

fn hook(raw: raw::Hook) -> Result<Hook, FileError> {
    let stage = match raw.hook_name.as_str() {
        "prestart" => HookStage::Prestart,
        "createRuntime" => HookStage::CreateRuntime,
        "createContainer" => HookStage::CreateContainer,
        "startContainer" => HookStage::StartContainer,
        "poststart" => HookStage::Poststart,
        "poststop" => HookStage::Poststop,
        other => return Err(FileError::invalid("hooks.hookName", shown(other))),
    };
    absolute("hooks.path", &raw.path)?;
    cap("hooks.args", &raw.args, MAX_ENTRIES)?;
    cap("hooks.env", &raw.env, MAX_ENTRIES)?;
    for arg in &raw.args {
        plain("hooks.args", arg)?;
    }
    variables("hooks.env", &raw.env)?;
    if raw.timeout.is_some_and(|seconds| seconds <= 0) {
        return Err(FileError::invalid("hooks.timeout", "not above zero"));
    }
    Ok(Hook { stage, path: raw.path, args: raw.args, env: raw.env, timeout: raw.timeout })
}

fn variables(field: &'static str, list: &[String]) -> Result<(), FileError> {
    for variable in list {
        plain(field, variable)?;
        if variable.find('=').is_none_or(|at| at == 0) {
            return Err(FileError::invalid(
                field,
                format!("{} is not NAME=value", shown(variable)),
            ));
        }
    }
    Ok(())
}

fn absolute(field: &'static str, path: &str) -> Result<(), FileError> {
    plain(field, path)?;
    if !path.starts_with('/') {
        return Err(FileError::invalid(field, format!("{} is not absolute", shown(path))));
    }
    Ok(())
}

/// Text that the kernel can take.
fn plain(field: &'static str, text: &str) -> Result<(), FileError> {
    if text.contains('\0') {
        return Err(FileError::invalid(field, "a NUL byte"));
    }
    Ok(())
}

fn shown(text: &str) -> String {
    format!("{:?}", beginning(text))
}

/// The form of a file, every field of every version.
pub(crate) mod raw {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    pub(crate) struct Spec {
        pub(crate) cdi_version: String,
        pub(crate) kind: String,
        #[serde(default)]
        pub(crate) annotations: BTreeMap<String, String>,
        #[serde(default)]
        pub(crate) devices: Vec<Device>,
        #[serde(default)]
        pub(crate) container_edits: Edits,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    pub(crate) struct Device {
        pub(crate) name: String,
        #[serde(default)]
        pub(crate) annotations: BTreeMap<String, String>,
        #[serde(default)]
        pub(crate) container_edits: Edits,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
    pub(crate) struct Edits {
        pub(crate) env: Vec<String>,
        pub(crate) device_nodes: Vec<DeviceNode>,
        pub(crate) net_devices: Vec<NetDevice>,
        pub(crate) hooks: Vec<Hook>,
        pub(crate) mounts: Vec<Mount>,
        pub(crate) intel_rdt: Option<IntelRdt>,
        pub(crate) additional_gids: Vec<u32>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    pub(crate) struct DeviceNode {
        pub(crate) path: String,
        #[serde(default)]
        pub(crate) host_path: String,
        #[serde(default, rename = "type")]
        pub(crate) kind: String,
        #[serde(default)]
        pub(crate) major: i64,
        #[serde(default)]
        pub(crate) minor: i64,
        pub(crate) file_mode: Option<u32>,
        #[serde(default)]
        pub(crate) permissions: String,
        pub(crate) uid: Option<u32>,
        pub(crate) gid: Option<u32>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    pub(crate) struct Mount {
        pub(crate) host_path: String,
        pub(crate) container_path: String,
        #[serde(default)]
        pub(crate) options: Vec<String>,
        #[serde(default, rename = "type")]
        pub(crate) kind: String,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    pub(crate) struct Hook {
        pub(crate) hook_name: String,
        pub(crate) path: String,
        #[serde(default)]
        pub(crate) args: Vec<String>,
        #[serde(default)]
        pub(crate) env: Vec<String>,
        pub(crate) timeout: Option<i64>,
    }

    /// Refused when it is asked for; read, so that the file's other devices can be had.
    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
    pub(crate) struct IntelRdt {
        #[serde(rename = "closID")]
        clos_id: String,
        l3_cache_schema: String,
        mem_bw_schema: String,
        pub(crate) schemata: Option<Vec<String>>,
        pub(crate) enable_monitoring: bool,
        /// Until 1.0.0.
        #[serde(rename = "enableCMT")]
        enable_cmt: bool,
        /// Until 1.0.0.
        #[serde(rename = "enableMBM")]
        enable_mbm: bool,
    }

    /// As [`IntelRdt`].
    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[expect(dead_code, reason = "only that they are there is looked at")]
    pub(crate) struct NetDevice {
        host_interface_name: String,
        name: String,
    }
}
