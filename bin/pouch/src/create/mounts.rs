//! `-v`, `--mount` and `--tmpfs`.

use std::collections::BTreeMap;
use std::path::Path;

use pouch_docker_types::container::{
    BindOptions, ImageOptions, Mount, TmpfsOptions, VolumeDriver, VolumeOptions,
};

use crate::failure::Failure;
use crate::units;

/// `-v`, by its two kinds.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    /// With a source: a path of the host or a volume's name.
    pub(super) binds: Vec<String>,
    /// Destination only.
    pub(super) anonymous: Vec<String>,
}

pub(super) fn volumes(flags: &[String]) -> Result<Volumes, Failure> {
    let mut out = Volumes::default();
    for text in flags {
        match text.split_once(':') {
            None => out.anonymous.push(text.clone()),
            Some((source, rest)) if source.starts_with('.') => {
                out.binds.push(format!("{}:{rest}", absolute(source)?));
            }
            Some(_) => out.binds.push(text.clone()),
        }
    }
    Ok(out)
}

/// `path` from the current directory on, without `.` and `..`, links untouched.
fn absolute(path: &str) -> Result<String, Failure> {
    let here = std::env::current_dir().map_err(|error| Failure::io("find", ".", &error))?;
    let mut out = std::path::PathBuf::new();
    for part in here.join(path).components() {
        match part {
            std::path::Component::ParentDir => {
                out.pop();
            }
            std::path::Component::CurDir => {}
            part => out.push(part),
        }
    }
    Ok(out.to_string_lossy().into_owned())
}

pub(super) fn tmpfs(flags: &[String]) -> BTreeMap<String, String> {
    flags
        .iter()
        .map(|text| {
            let (path, options) = text.split_once(':').unwrap_or((text, ""));
            (path.to_owned(), options.to_owned())
        })
        .collect()
}

/// `--mount type=bind,source=/a,target=/b,readonly`.
pub(super) fn mount(text: &str) -> Result<Mount, Failure> {
    parse(text).map_err(|why| Failure::new(format!("invalid argument {text:?} for --mount: {why}")))
}

fn parse(text: &str) -> Result<Mount, String> {
    let mut mount = Mount { r#type: "volume".to_owned(), ..Mount::default() };
    let mut bind = BindOptions::default();
    let mut volume = VolumeOptions::default();
    let mut driver = VolumeDriver::default();
    let mut tmpfs = TmpfsOptions::default();
    let mut image = ImageOptions::default();
    for field in fields(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        let flag = || match value {
            None => Ok(true),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(other) => Err(format!("invalid value for {key}: {other}")),
        };
        let text = || {
            value
                .map(str::to_owned)
                .ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"))
        };
        let pair = || {
            let text = text()?;
            let (name, value) = text.split_once('=').unwrap_or((&text, ""));
            Ok::<_, String>((name.to_owned(), value.to_owned()))
        };
        match key.as_str() {
            "type" => mount.r#type = text()?.to_lowercase(),
            "source" | "src" => mount.source = text()?,
            "target" | "dst" | "destination" => mount.target = text()?,
            "readonly" | "ro" => mount.read_only = flag()?,
            "consistency" => mount.consistency = text()?.to_lowercase(),
            "bind-propagation" => bind.propagation = text()?.to_lowercase(),
            "bind-nonrecursive" => bind.non_recursive = flag()?,
            "bind-create-src" | "bind-create-mountpoint" => bind.create_mountpoint = flag()?,
            "bind-recursive" => match text()?.as_str() {
                "enabled" => {}
                "disabled" => bind.non_recursive = true,
                "writable" => bind.read_only_non_recursive = true,
                "readonly" => bind.read_only_force_recursive = true,
                other => {
                    return Err(format!(
                        "invalid value for bind-recursive: {other} (want enabled, disabled, writable or readonly)"
                    ));
                }
            },
            "volume-nocopy" => volume.no_copy = flag()?,
            "volume-subpath" => volume.subpath = text()?,
            "volume-label" => {
                let (name, value) = pair()?;
                volume.labels.insert(name, value);
            }
            "volume-driver" => driver.name = text()?,
            "volume-opt" => {
                let (name, value) = pair()?;
                driver.options.insert(name, value);
            }
            "image-subpath" => image.subpath = text()?,
            "tmpfs-size" => tmpfs.size_bytes = units::parse_bytes(&text()?)?,
            "tmpfs-mode" => {
                let text = text()?;
                tmpfs.mode = u32::from_str_radix(&text, 8)
                    .map_err(|_| format!("invalid value for {key}: {text}"))?;
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if mount.target.is_empty() {
        return Err("target is required".to_owned());
    }
    let misplaced = |given: bool, prefix: &str| {
        if given {
            Err(format!("cannot mix '{prefix}-*' options with mount type '{}'", mount.r#type))
        } else {
            Ok(())
        }
    };
    if driver != VolumeDriver::default() {
        volume.driver_config = Some(driver);
    }
    if mount.r#type != "bind" {
        misplaced(bind != BindOptions::default(), "bind")?;
    }
    if mount.r#type != "volume" {
        misplaced(volume != VolumeOptions::default(), "volume")?;
    }
    if mount.r#type != "tmpfs" {
        misplaced(tmpfs != TmpfsOptions::default(), "tmpfs")?;
    }
    if mount.r#type != "image" {
        misplaced(image != ImageOptions::default(), "image")?;
    }
    if mount.r#type == "bind"
        && (mount.source.starts_with('.') || !Path::new(&mount.source).is_absolute())
        && !mount.source.is_empty()
    {
        mount.source = absolute(&mount.source).map_err(|f| f.message.unwrap_or_default())?;
    }
    let some = |given: bool| given.then_some(());
    mount.bind_options = some(bind != BindOptions::default()).map(|()| bind);
    mount.volume_options = some(volume != VolumeOptions::default()).map(|()| volume);
    mount.tmpfs_options = some(tmpfs != TmpfsOptions::default()).map(|()| tmpfs);
    mount.image_options = some(image != ImageOptions::default()).map(|()| image);
    Ok(mount)
}

/// The fields of one CSV record (RFC 4180): a field with commas stands in quotes.
pub(super) fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        let (field, tail) = if let Some(quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut chars = quoted.char_indices().peekable();
            let end = loop {
                match chars.next() {
                    None => return Err("a quote is not closed".to_owned()),
                    Some((_, '"')) if chars.next_if(|(_, c)| *c == '"').is_some() => {
                        field.push('"')
                    }
                    Some((at, '"')) => break at + 1,
                    Some((_, c)) => field.push(c),
                }
            };
            (field, &quoted[end..])
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            (rest[..end].to_owned(), &rest[end..])
        };
        out.push(field);
        match tail.strip_prefix(',') {
            Some(next) => rest = next,
            None if tail.is_empty() => return Ok(out),
            None => return Err("text follows a closing quote".to_owned()),
        }
    }
}
