//! `--device`, `--gpus` and the limits per device.

use std::collections::BTreeMap;

use pouch_docker_types::container::{DeviceMapping, DeviceRequest, ThrottleDevice, WeightDevice};

use crate::failure::Failure;
use crate::units;

/// `--device` by its two kinds.
#[derive(Debug, Default)]
pub(super) struct Devices {
    pub(super) mappings: Vec<DeviceMapping>,
    pub(super) requests: Vec<DeviceRequest>,
}

pub(super) fn devices(flags: &[String], gpus: Option<&str>) -> Result<Devices, Failure> {
    let mut out = Devices::default();
    let mut cdi = Vec::new();
    for text in flags {
        if is_cdi(text) {
            cdi.push(text.clone());
        } else {
            out.mappings.push(mapping(text)?);
        }
    }
    if let Some(text) = gpus {
        out.requests.push(gpu_request(text)?);
    }
    if !cdi.is_empty() {
        let request = DeviceRequest {
            driver: "cdi".to_owned(),
            device_ids: Some(cdi),
            ..DeviceRequest::default()
        };
        out.requests.push(request);
    }
    Ok(out)
}

/// `vendor.com/class=name`, as opposed to a path.
fn is_cdi(text: &str) -> bool {
    match text.split_once('=') {
        Some((kind, name)) => !text.starts_with('/') && kind.contains('/') && !name.is_empty(),
        None => false,
    }
}

fn mapping(text: &str) -> Result<DeviceMapping, Failure> {
    let fail = || {
        Failure::new(format!("invalid device specification: {text} (want HOST[:CONTAINER][:rwm])"))
    };
    let parts: Vec<&str> = text.split(':').collect();
    let is_mode =
        |word: &str| !word.is_empty() && word.len() <= 3 && word.chars().all(|c| "rwm".contains(c));
    let (host, container, mode) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, mode] if is_mode(mode) => (*host, *host, *mode),
        [host, container] => (*host, *container, "rwm"),
        [host, container, mode] if is_mode(mode) => (*host, *container, *mode),
        _ => return Err(fail()),
    };
    if host.is_empty() || container.is_empty() {
        return Err(fail());
    }
    Ok(DeviceMapping {
        path_on_host: host.to_owned(),
        path_in_container: container.to_owned(),
        cgroup_permissions: mode.to_owned(),
    })
}

/// `all`, a count, or `driver=…,count=…,device=…,capabilities=…,options=…`.
fn gpu_request(text: &str) -> Result<DeviceRequest, Failure> {
    let fail = |why: String| Failure::new(format!("invalid argument {text:?} for --gpus: {why}"));
    let mut request = DeviceRequest::default();
    let mut capabilities = vec!["gpu".to_owned()];
    let mut count = None;
    for field in super::mounts::fields(text).map_err(fail)? {
        let (key, value) = field.split_once('=').unwrap_or(("count", &field));
        match key {
            "count" if value == "all" => count = Some(-1),
            "count" => {
                count = Some(value.parse().map_err(|_| fail(format!("{value:?} is not a count")))?)
            }
            "driver" => request.driver = value.to_owned(),
            "device" => {
                request.device_ids = Some(value.split(',').map(str::to_owned).collect());
            }
            "capabilities" => capabilities.extend(value.split(',').map(str::to_owned)),
            "options" => {
                let words: Vec<String> = value.split(',').map(str::to_owned).collect();
                request.options = Some(super::pairs(&words, "--gpus")?);
            }
            key => return Err(fail(format!("unexpected key {key:?}"))),
        }
    }
    if count.is_some() && request.device_ids.is_some() {
        return Err(fail("cannot set both count and device".to_owned()));
    }
    let default = if request.device_ids.is_some() { 0 } else { 1 };
    request.count = count.unwrap_or(default);
    request.capabilities = Some(vec![capabilities]);
    request.options.get_or_insert_with(BTreeMap::new);
    Ok(request)
}

/// `DEVICE:VALUE`, split at the last colon.
fn device_value<'a>(flag: &str, text: &'a str) -> Result<(&'a str, &'a str), Failure> {
    text.rsplit_once(':').filter(|(path, _)| path.starts_with("/dev/")).ok_or_else(|| {
        Failure::new(format!("bad format for {flag}: {text:?} (want /dev/NAME:VALUE)"))
    })
}

pub(super) fn weights(flags: &[String]) -> Result<Option<Vec<WeightDevice>>, Failure> {
    let weights = flags
        .iter()
        .map(|text| {
            let (path, value) = device_value("--blkio-weight-device", text)?;
            let weight = value.parse::<u16>().ok().filter(|w| *w == 0 || (10..=1000).contains(w));
            let weight = weight.ok_or_else(|| {
                Failure::new(format!("--blkio-weight-device: {value:?} is not 0 or 10 to 1000"))
            })?;
            Ok(WeightDevice { path: path.to_owned(), weight })
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    Ok(Some(weights))
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rate {
    Bytes,
    Operations,
}

pub(super) fn throttles(
    flag: &str,
    flags: &[String],
    rate: Rate,
) -> Result<Option<Vec<ThrottleDevice>>, Failure> {
    if flags.is_empty() {
        return Ok(None);
    }
    let limits = flags
        .iter()
        .map(|text| {
            let (path, value) = device_value(flag, text)?;
            let parsed = match rate {
                Rate::Bytes => units::parse_bytes(value).ok().and_then(|n| u64::try_from(n).ok()),
                Rate::Operations => value.parse().ok(),
            };
            let rate =
                parsed.ok_or_else(|| Failure::new(format!("{flag}: {value:?} is not a rate")))?;
            Ok(ThrottleDevice { path: path.to_owned(), rate })
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    Ok(Some(limits))
}
