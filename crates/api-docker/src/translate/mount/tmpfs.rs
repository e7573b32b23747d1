//! `Tmpfs`: a destination and options of tmpfs(5).

use pouch_types::spec::{MountKind, MountOrigin, MountSpec};

use super::{mount, push_word};
use crate::http::ApiResult;
use crate::translate::value::{bad, destination, size};

const FIELD: &str = "Tmpfs";

/// Mount flags without a value.
const FLAGS: [&str; 24] = [
    "rw",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "noexec",
    "sync",
    "async",
    "dirsync",
    "remount",
    "mand",
    "nomand",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "bind",
    "rbind",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "defaults",
];

/// Options with a number, or whatever tmpfs(5) says for the last two.
const NUMBERS: [&str; 4] = ["uid", "gid", "nr_inodes", "nr_blocks"];

/// Permission bits including set-ids and sticky.
pub(super) fn check_mode(mode: u32) -> ApiResult<u32> {
    if mode > 0o7777 {
        return Err(bad(FIELD, format_args!("mode {mode:o}")));
    }
    Ok(mode)
}

pub(super) fn read(path: &str, text: &str) -> ApiResult<MountSpec> {
    let mut spec = mount(
        destination(FIELD, path)?,
        MountKind::Tmpfs { size: None, mode: None, options: Vec::new() },
        MountOrigin::Tmpfs,
    );
    let MountKind::Tmpfs { size: bytes, mode, options } = &mut spec.kind else { return Ok(spec) };
    for word in text.split(',').filter(|word| !word.is_empty()) {
        let wrong = || bad(FIELD, format_args!("invalid tmpfs option {word:?}"));
        match word.split_once('=') {
            None if word == "ro" => spec.read_only = true,
            // `bind` and `remount` would make it something else than a tmpfs.
            None if FLAGS.contains(&word) && !matches!(word, "bind" | "rbind" | "remount") => {
                if word == "rw" {
                    spec.read_only = Default::default();
                } else {
                    options.push(word.to_owned());
                }
            }
            Some(("size", value)) => match size(value) {
                Some(value) => *bytes = Some(value),
                None if is_percentage(value) => options.push(word.to_owned()),
                None => return Err(wrong()),
            },
            Some(("mode", value)) => {
                let bits = u32::from_str_radix(value, 8).map_err(|_| wrong())?;
                *mode = Some(check_mode(bits)?);
            }
            Some((key, value))
                if NUMBERS.contains(&key) && size(value).is_some()
                    || key == "mpol" && !value.is_empty() =>
            {
                options.push(word.to_owned());
            }
            _ => return Err(wrong()),
        }
    }
    Ok(spec)
}

fn is_percentage(text: &str) -> bool {
    text.strip_suffix('%').is_some_and(|n| n.parse::<u8>().is_ok_and(|n| n <= 100))
}

pub(super) fn write(mount: &MountSpec) -> String {
    let MountKind::Tmpfs { size, mode, options } = &mount.kind else { return String::new() };
    let mut words = String::new();
    if mount.read_only {
        push_word(&mut words, "ro");
    }
    if let Some(size) = size {
        push_word(&mut words, &format!("size={size}"));
    }
    if let Some(mode) = mode {
        push_word(&mut words, &format!("mode={mode:o}"));
    }
    for option in options {
        push_word(&mut words, option);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        for (given, shown) in [
            ("", ""),
            ("rw,noexec,size=64m,mode=1777", "size=67108864,mode=1777,noexec"),
            ("ro,size=50%", "ro,size=50%"),
            ("uid=1000,gid=1000,exec,nr_inodes=1k", "uid=1000,gid=1000,exec,nr_inodes=1k"),
        ] {
            let spec = read("/run", given).unwrap();
            assert_eq!(write(&spec), shown);
            assert_eq!(read("/run", shown).unwrap(), spec);
        }
        for bad in
            ["nope", "size=x", "size=101%", "mode=9", "mode=77777", "uid=x", "bind", "remount"]
        {
            assert!(read("/run", bad).is_err(), "{bad}");
        }
        assert!(read("run", "").is_err() && read("/", "").is_err());
    }
}
