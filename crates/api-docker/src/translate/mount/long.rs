//! The long form: objects of `Mounts`.

use pouch_docker_types::container::{
    BindOptions, Mount, TmpfsOptions, VolumeDriver, VolumeOptions,
};
use pouch_types::VolumeName;
use pouch_types::spec::{MountKind, MountOrigin, MountSpec, Propagation, ReadOnlyRecursion};

use super::{mount, propagation, tmpfs};
use crate::http::{ApiError, ApiResult, ApiVersion};
use crate::translate::value::{bad, clean_path, destination, local_path, unsupported};

const FIELD: &str = "Mounts";

fn invalid(wire: &Mount, why: &str) -> ApiError {
    let kind = &wire.r#type;
    ApiError::invalid(format!("invalid mount config for type \"{kind}\": {why}"))
}

pub(super) fn read(
    mut wire: Mount,
    version: ApiVersion,
    default_recursion: ReadOnlyRecursion,
) -> ApiResult<MountSpec> {
    if wire.target.is_empty() {
        return Err(invalid(&wire, "field Target must not be empty"));
    }
    if version.below(42) {
        // Clients before 1.42 send options of other types along.
        match wire.r#type.as_str() {
            "volume" => wire.tmpfs_options = None,
            "tmpfs" => wire.volume_options = None,
            _ => (wire.tmpfs_options, wire.volume_options) = (None, None),
        }
    }
    for (kind, name, given) in [
        ("bind", "BindOptions", wire.bind_options.is_some()),
        ("volume", "VolumeOptions", wire.volume_options.is_some()),
        ("tmpfs", "TmpfsOptions", wire.tmpfs_options.is_some()),
    ] {
        if given && wire.r#type != kind {
            return Err(ApiError::invalid(format!(
                "{name} must not be specified on mount type \"{}\"",
                wire.r#type
            )));
        }
    }
    let target = destination(FIELD, &wire.target)?;
    let spec = match wire.r#type.as_str() {
        "bind" => read_bind(&wire, version, default_recursion, target)?,
        "volume" => read_volume(&wire, version, target)?,
        "tmpfs" => read_tmpfs(&wire, target)?,
        kind @ ("image" | "cluster" | "npipe") => {
            return Err(unsupported(FIELD, format_args!("type \"{kind}\"")));
        }
        _ => return Err(invalid(&wire, "mount type unknown")),
    };
    Ok(MountSpec { read_only: wire.read_only, ..spec })
}

fn read_bind(
    wire: &Mount,
    version: ApiVersion,
    default_recursion: ReadOnlyRecursion,
    target: String,
) -> ApiResult<MountSpec> {
    if wire.source.is_empty() {
        return Err(invalid(wire, "field Source must not be empty"));
    }
    let options = wire.bind_options.clone().unwrap_or_default();
    let propagation = match options.propagation.as_str() {
        "" => None,
        word => Some(
            propagation(word)
                .ok_or_else(|| invalid(wire, &format!("invalid propagation mode: {word}")))?,
        ),
    };
    let (never, force) = (options.read_only_non_recursive, options.read_only_force_recursive);
    if force && version.below(44) {
        return Err(ApiError::invalid(
            "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer",
        ));
    }
    if (never || force) && !wire.read_only {
        return Err(invalid(wire, "recursion of read-only is given without ReadOnly"));
    }
    let read_only_recursion = match (never, force) {
        (true, true) => {
            return Err(invalid(
                wire,
                "ReadOnlyNonRecursive and ReadOnlyForceRecursive exclude each other",
            ));
        }
        (true, _) => ReadOnlyRecursion::Never,
        (_, true) if !matches!(propagation, None | Some(Propagation::Rprivate)) => {
            return Err(invalid(
                wire,
                "ReadOnlyForceRecursive is possible with propagation rprivate only",
            ));
        }
        (_, true) => ReadOnlyRecursion::Force,
        _ => default_recursion,
    };
    let kind = MountKind::Bind {
        source: clean_path(FIELD, &wire.source)?,
        create_source: options.create_mountpoint && !version.below(42),
        non_recursive: options.non_recursive && !version.below(40),
        read_only_recursion,
    };
    Ok(MountSpec { propagation, ..mount(target, kind, MountOrigin::Mounts) })
}

fn read_volume(wire: &Mount, version: ApiVersion, target: String) -> ApiResult<MountSpec> {
    let options = wire.volume_options.clone().unwrap_or_default();
    let subpath = match options.subpath.as_str() {
        "" => None,
        _ if version.below(45) => {
            return Err(ApiError::invalid("VolumeOptions.Subpath needs API v1.45 or newer"));
        }
        _ if wire.source.is_empty() => {
            return Err(invalid(wire, "a subpath needs a volume with a name"));
        }
        path => Some(local_path("VolumeOptions.Subpath", path)?),
    };
    if wire.read_only && wire.source.is_empty() {
        return Err(invalid(wire, "must not set ReadOnly mode when using anonymous volumes"));
    }
    let name = match wire.source.as_str() {
        "" => None,
        name => Some(name.parse::<VolumeName>().map_err(|error| bad(FIELD, error))?),
    };
    let driver = options.driver_config.unwrap_or_default();
    let kind = MountKind::Volume {
        name,
        no_copy: options.no_copy,
        subpath,
        driver: driver.name,
        driver_opts: driver.options,
        labels: options.labels,
    };
    Ok(mount(target, kind, MountOrigin::Mounts))
}

fn read_tmpfs(wire: &Mount, target: String) -> ApiResult<MountSpec> {
    if !wire.source.is_empty() {
        return Err(invalid(wire, "field Source must not be specified"));
    }
    let options = wire.tmpfs_options.clone().unwrap_or_default();
    let size = match u64::try_from(options.size_bytes) {
        Ok(0) => None,
        Ok(size) => Some(size),
        Err(_) => return Err(invalid(wire, "SizeBytes is negative")),
    };
    let mode = match options.mode {
        0 => None,
        mode => Some(tmpfs::check_mode(mode)?),
    };
    let mut words = Vec::new();
    for option in &options.options {
        words.push(match option.as_slice() {
            [flag] if matches!(flag.as_str(), "exec" | "noexec") => flag.clone(),
            _ => return Err(invalid(wire, &format!("invalid option: {}", option.join("=")))),
        });
    }
    Ok(mount(target, MountKind::Tmpfs { size, mode, options: words }, MountOrigin::Mounts))
}

pub(super) fn write(mount: &MountSpec) -> Mount {
    let mut wire =
        Mount { target: mount.destination.clone(), read_only: mount.read_only, ..Mount::default() };
    match &mount.kind {
        MountKind::Bind { source, create_source, non_recursive, read_only_recursion } => {
            wire.r#type = "bind".to_owned();
            wire.source = source.clone();
            let options = BindOptions {
                propagation: mount.propagation.map(|p| p.as_str().to_owned()).unwrap_or_default(),
                non_recursive: *non_recursive,
                create_mountpoint: *create_source,
                // Also the default of old clients, who never asked; it shows on read-only only.
                read_only_non_recursive: mount.read_only
                    && *read_only_recursion == ReadOnlyRecursion::Never,
                read_only_force_recursive: *read_only_recursion == ReadOnlyRecursion::Force,
            };
            wire.bind_options = (options != BindOptions::default()).then_some(options);
        }
        MountKind::Volume { name, no_copy, subpath, driver, driver_opts, labels } => {
            wire.r#type = "volume".to_owned();
            wire.source = name.as_ref().map(ToString::to_string).unwrap_or_default();
            let driver = VolumeDriver { name: driver.clone(), options: driver_opts.clone() };
            let options = VolumeOptions {
                no_copy: *no_copy,
                labels: labels.clone(),
                subpath: subpath.clone().unwrap_or_default(),
                driver_config: (driver != VolumeDriver::default()).then_some(driver),
            };
            wire.volume_options = (options != VolumeOptions::default()).then_some(options);
        }
        MountKind::Tmpfs { size, mode, options } => {
            wire.r#type = "tmpfs".to_owned();
            let options = TmpfsOptions {
                size_bytes: crate::translate::value::signed(*size),
                mode: mode.unwrap_or(0),
                options: options.iter().map(|word| vec![word.clone()]).collect(),
            };
            wire.tmpfs_options = (options != TmpfsOptions::default()).then_some(options);
        }
        MountKind::Image { image, .. } => {
            wire.r#type = "image".to_owned();
            wire.source = image.clone();
        }
    }
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str, version: ApiVersion) -> String {
        let wire: Mount = serde_json::from_str(json).unwrap();
        read(wire, version, ReadOnlyRecursion::Best).unwrap_err().message().to_owned()
    }

    #[test]
    fn refuses() {
        let new = ApiVersion::MAX;
        for json in [
            r#"{"Type":"bind","Source":"/a"}"#,
            r#"{"Type":"bind","Target":"/b"}"#,
            r#"{"Type":"bind","Source":"a","Target":"/b"}"#,
            r#"{"Type":"bind","Source":"/a","Target":"/"}"#,
            r#"{"Type":"bind","Source":"/a","Target":"/b","VolumeOptions":{}}"#,
            r#"{"Type":"bind","Source":"/a","Target":"/b","BindOptions":{"Propagation":"x"}}"#,
            r#"{"Type":"bind","Source":"/a","Target":"/b","BindOptions":{"ReadOnlyNonRecursive":true}}"#,
            r#"{"Type":"volume","Source":"../x","Target":"/b"}"#,
            r#"{"Type":"volume","Target":"/b","ReadOnly":true}"#,
            r#"{"Type":"volume","Source":"vol","Target":"/b","VolumeOptions":{"Subpath":"../x"}}"#,
            r#"{"Type":"volume","Target":"/b","VolumeOptions":{"Subpath":"x"}}"#,
            r#"{"Type":"tmpfs","Source":"x","Target":"/b"}"#,
            r#"{"Type":"tmpfs","Target":"/b","TmpfsOptions":{"Options":[["suid"]]}}"#,
            r#"{"Type":"tmpfs","Target":"/b","TmpfsOptions":{"SizeBytes":-1}}"#,
            r#"{"Type":"image","Source":"busybox","Target":"/b"}"#,
            r#"{"Type":"nope","Target":"/b"}"#,
            r#"{"Target":"/b"}"#,
        ] {
            refused(json, new);
        }
        let old: ApiVersion = ApiVersion::MIN;
        assert!(
            refused(
                r#"{"Type":"volume","Source":"vol","Target":"/b","VolumeOptions":{"Subpath":"x"}}"#,
                old
            )
            .contains("v1.45")
        );
    }

    #[test]
    fn old_clients_send_options_of_other_types() {
        let wire: Mount = serde_json::from_str(
            r#"{"Type":"bind","Source":"/a","Target":"/b","ReadOnly":true,"VolumeOptions":{},
                "BindOptions":{"NonRecursive":true,"CreateMountpoint":true}}"#,
        )
        .unwrap();
        let spec = read(wire, ApiVersion::MIN, ReadOnlyRecursion::Never).unwrap();
        let MountKind::Bind { create_source, non_recursive, read_only_recursion, .. } = spec.kind
        else {
            panic!()
        };
        assert!(!create_source && !non_recursive);
        assert_eq!(read_only_recursion, ReadOnlyRecursion::Never);
    }
}
