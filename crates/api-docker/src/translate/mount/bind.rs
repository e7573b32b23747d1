//! The short form: `source:destination[:options]`, `name:destination[:options]`, `destination`.

use pouch_types::VolumeName;
use pouch_types::spec::{MountKind, MountOrigin, MountSpec, ReadOnlyRecursion};

use super::{mount, plain_volume, propagation, push_word};
use crate::http::{ApiError, ApiResult};
use crate::translate::value::{clean_path, destination};

const FIELD: &str = "Binds";

/// What the options come to; each kind may be given once.
#[derive(Debug, Default)]
struct Options {
    access: Option<Access>,
    relabel: Option<char>,
    propagation: Option<pouch_types::spec::Propagation>,
    no_copy: bool,
    consistency: Option<()>,
}

#[derive(Debug, PartialEq, Eq)]
enum Access {
    ReadOnly,
    ReadWrite,
}

impl Options {
    fn read(text: &str) -> Option<Self> {
        let mut options = Self::default();
        if text.is_empty() {
            return Some(options);
        }
        for word in text.split(',') {
            let first = match word {
                "ro" => options.access.replace(Access::ReadOnly).is_none(),
                "rw" => options.access.replace(Access::ReadWrite).is_none(),
                "z" => options.relabel.replace('z').is_none(),
                "Z" => options.relabel.replace('Z').is_none(),
                "nocopy" => !std::mem::replace(&mut options.no_copy, true),
                // Caching of Docker Desktop's file sharing; nothing on Linux.
                "consistent" | "cached" | "delegated" => options.consistency.replace(()).is_none(),
                word => options.propagation.replace(propagation(word)?).is_none(),
            };
            if !first {
                return None;
            }
        }
        Some(options)
    }
}

fn invalid(text: &str) -> ApiError {
    ApiError::invalid(format!("invalid volume specification: '{text}'"))
}

pub(super) fn read(
    text: &str,
    driver: &str,
    read_only_recursion: ReadOnlyRecursion,
) -> ApiResult<MountSpec> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match *parts.as_slice() {
        [target] => ("", target, ""),
        // A destination with options would be a volume without a name, which has none.
        [_, second] if Options::read(second).is_some() => return Err(invalid(text)),
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => return Err(invalid(text)),
    };
    if parts.len() > 1 && source.is_empty() {
        return Err(invalid(text));
    }
    let options = Options::read(options)
        .ok_or_else(|| ApiError::invalid(format!("invalid mode: {options}")))?;
    let target = destination(FIELD, target)?;
    let kind = if source.starts_with('/') {
        if options.no_copy {
            return Err(invalid(text));
        }
        MountKind::Bind {
            source: clean_path(FIELD, source)?,
            create_source: true,
            non_recursive: Default::default(),
            read_only_recursion,
        }
    } else {
        if options.propagation.is_some() {
            return Err(invalid(text));
        }
        let name = match source {
            "" => None,
            name => Some(read_name(name)?),
        };
        let mut kind = plain_volume(name);
        if let MountKind::Volume { no_copy, driver: volume_driver, .. } = &mut kind {
            *no_copy = options.no_copy;
            driver.clone_into(volume_driver);
        }
        kind
    };
    Ok(MountSpec {
        read_only: options.access == Some(Access::ReadOnly),
        mapped: false,
        propagation: options.propagation,
        relabel: options.relabel,
        ..mount(target, kind, MountOrigin::Binds)
    })
}

fn read_name(name: &str) -> ApiResult<VolumeName> {
    name.parse().map_err(|_| {
        ApiError::invalid(format!(
            "\"{name}\" includes invalid characters for a local volume name, only \
             \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, \
             use absolute path"
        ))
    })
}

/// The options in a spelling with a source, when it is the one of this mount.
pub(super) fn options_for<'a>(text: &'a str, mount: &MountSpec) -> Option<&'a str> {
    let mut parts = text.split(':').skip(1);
    let (target, options) = (parts.next()?, parts.next().unwrap_or_default());
    (clean_path(FIELD, target).ok()? == mount.destination).then_some(options)
}

/// The options of a mount in the short form.
pub(super) fn mode(mount: &MountSpec) -> String {
    let mut words = String::new();
    if mount.read_only {
        push_word(&mut words, "ro");
    }
    if let Some(relabel) = mount.relabel {
        push_word(&mut words, relabel.encode_utf8(&mut [0; 4]));
    }
    if let Some(propagation) = mount.propagation {
        push_word(&mut words, propagation.as_str());
    }
    if matches!(mount.kind, MountKind::Volume { no_copy: true, .. }) {
        push_word(&mut words, "nocopy");
    }
    words
}

pub(super) fn write(mount: &MountSpec) -> String {
    let source = match &mount.kind {
        MountKind::Bind { source, .. } => Some(source.as_str()),
        MountKind::Volume { name, .. } => name.as_ref().map(VolumeName::as_str),
        MountKind::Tmpfs { .. } => None,
        MountKind::Image { image, .. } => Some(image.as_str()),
    };
    let mut text = match source {
        Some(source) => format!("{source}:{}", mount.destination),
        None => mount.destination.clone(),
    };
    let options = mode(mount);
    if source.is_some() && !options.is_empty() {
        text.push(':');
        text.push_str(&options);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(text: &str) -> ApiResult<String> {
        read(text, "", ReadOnlyRecursion::Best).map(|mount| write(&mount))
    }

    #[test]
    fn spellings() {
        for (given, shown) in [
            ("/a:/b", "/a:/b"),
            ("/a/:/b//c:ro", "/a:/b/c:ro"),
            ("/a:/b:rw", "/a:/b"),
            ("/a:/b:z,rslave,ro", "/a:/b:ro,z,rslave"),
            ("/a:/b:ro,cached", "/a:/b:ro"),
            ("vol:/b:nocopy", "vol:/b:nocopy"),
            ("vol:/b:Z", "vol:/b:Z"),
            ("/b", "/b"),
        ] {
            assert_eq!(round(given).unwrap(), shown, "{given}");
        }
    }

    #[test]
    fn refuses() {
        for bad in [
            "",
            ":",
            "/a:",
            ":/b",
            "/b:ro",
            "/a:/b:ro:rw",
            "/a:/b:ro,rw",
            "/a:/b:z,Z",
            "/a:/b:nope",
            "/a:/b:ro,",
            "/a:b",
            "/a:/",
            "/a:/b/..",
            "../a:/b",
            "a/b:/c",
            "x:/b",
            "vol:/b:rshared",
            "/a:/b:nocopy",
        ] {
            assert!(round(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_missing_source_is_made() {
        let spec = read("/a:/b", "", ReadOnlyRecursion::Never).unwrap();
        let MountKind::Bind { create_source, read_only_recursion, .. } = spec.kind else {
            panic!()
        };
        assert!(create_source);
        assert_eq!(read_only_recursion, ReadOnlyRecursion::Never);
    }
}
