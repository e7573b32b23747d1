//! Mounts: `Binds`, `Mounts`, `Tmpfs` and `VolumesFrom`, which say the same in four ways.

mod bind;
mod long;
mod tmpfs;

use std::collections::BTreeSet;

use pouch_docker_types::container::HostConfig;
use pouch_types::spec::{
    ContainerSpec, MountKind, MountOrigin, MountSpec, Propagation, ReadOnlyRecursion, VolumesFrom,
};

use super::value::{bad, list, unsupported};
use crate::http::{ApiError, ApiResult, ApiVersion};

/// Reads every mount of a request.
pub(super) fn read(
    host: &mut HostConfig,
    version: ApiVersion,
    spec: &mut ContainerSpec,
) -> ApiResult<()> {
    match host.volume_driver.as_str() {
        "" | "local" => {}
        other => return Err(unsupported("VolumeDriver", format_args!("\"{other}\""))),
    }
    spec.volume_driver = std::mem::take(&mut host.volume_driver);
    // Before 1.44 read-only meant the top mount alone.
    let recursion =
        if version.below(44) { ReadOnlyRecursion::Never } else { ReadOnlyRecursion::Best };
    let mut mounts = Vec::new();
    spec.spelled.binds = host.binds.take().unwrap_or_default();
    for text in &spec.spelled.binds {
        mounts.push(bind::read(text, &spec.volume_driver, recursion)?);
    }
    for mount in std::mem::take(&mut host.mounts) {
        mounts.push(long::read(mount, version, recursion)?);
    }
    spec.spelled.tmpfs = std::mem::take(&mut host.tmpfs);
    for (path, options) in &spec.spelled.tmpfs {
        mounts.push(tmpfs::read(path, options)?);
    }
    let mut taken = BTreeSet::new();
    for mount in &mounts {
        if !taken.insert(mount.destination.as_str()) {
            return Err(ApiError::invalid(format!("Duplicate mount point: {}", mount.destination)));
        }
    }
    spec.volumes_from = host
        .volumes_from
        .take()
        .unwrap_or_default()
        .iter()
        .map(|text| read_volumes_from(text))
        .collect::<ApiResult<_>>()?;
    spec.mounts = mounts;
    Ok(())
}

/// Writes them back by where each came from, as they were spelled. A container that was not made
/// through this face has no spelling, so one is found for it.
pub(super) fn write(spec: &ContainerSpec, host: &mut HostConfig) {
    host.volume_driver = spec.volume_driver.clone();
    let of = |origin: MountOrigin| spec.mounts.iter().filter(move |m| m.origin == origin);
    host.binds = list(spec.spelled.binds.clone())
        .or_else(|| list(of(MountOrigin::Binds).map(bind::write).collect()));
    host.mounts = of(MountOrigin::Mounts).map(long::write).collect();
    host.tmpfs = spec.spelled.tmpfs.clone();
    if host.tmpfs.is_empty() {
        let tmpfs = of(MountOrigin::Tmpfs);
        host.tmpfs = tmpfs.map(|mount| (mount.destination.clone(), tmpfs::write(mount))).collect();
    }
    host.volumes_from = list(spec.volumes_from.iter().map(write_volumes_from).collect());
}

/// `Mode` of a mount as lists and inspect show it: the options as spelled. Docker shows `z` for a
/// named volume without any.
pub(crate) fn mode(spec: &ContainerSpec, mount: &MountSpec) -> String {
    let named = matches!(mount.kind, MountKind::Volume { .. });
    let spelled = || spec.spelled.binds.iter().find_map(|text| bind::options_for(text, mount));
    match mount.origin {
        MountOrigin::Binds => match spelled() {
            Some("") if named => "z".to_owned(),
            Some(options) => options.to_owned(),
            None => bind::mode(mount),
        },
        MountOrigin::Mounts if named => "z".to_owned(),
        _ => String::new(),
    }
}

/// `container[:ro|rw]`.
fn read_volumes_from(text: &str) -> ApiResult<VolumesFrom> {
    let (container, mode) = text.split_once(':').unwrap_or((text, ""));
    if container.is_empty() {
        return Err(bad("VolumesFrom", "it names no container"));
    }
    let read_only = match mode {
        "" => None,
        "ro" => Some(true),
        "rw" => Some(Default::default()),
        other => return Err(bad("VolumesFrom", format_args!("invalid mode: {other}"))),
    };
    Ok(VolumesFrom { container: container.to_owned(), read_only })
}

fn write_volumes_from(from: &VolumesFrom) -> String {
    match from.read_only {
        None => from.container.clone(),
        Some(true) => format!("{}:ro", from.container),
        Some(_) => format!("{}:rw", from.container),
    }
}

fn propagation(word: &str) -> Option<Propagation> {
    Some(match word {
        "private" => Propagation::Private,
        "rprivate" => Propagation::Rprivate,
        "shared" => Propagation::Shared,
        "rshared" => Propagation::Rshared,
        "slave" => Propagation::Slave,
        "rslave" => Propagation::Rslave,
        _ => return None,
    })
}

/// A volume with nothing said about it.
fn plain_volume(name: Option<pouch_types::VolumeName>) -> MountKind {
    MountKind::Volume {
        name,
        no_copy: Default::default(),
        subpath: None,
        driver: String::new(),
        driver_opts: Default::default(),
        labels: Default::default(),
    }
}

/// Writes a word after a comma where one is needed.
fn push_word(words: &mut String, word: &str) {
    if !words.is_empty() {
        words.push(',');
    }
    words.push_str(word);
}

/// A mount with the fields that most spellings leave alone.
fn mount(destination: String, kind: MountKind, origin: MountOrigin) -> MountSpec {
    MountSpec {
        destination,
        kind,
        read_only: Default::default(),
        mapped: false,
        propagation: None,
        relabel: None,
        origin,
    }
}
