//! The command line, which only the engine writes: no defaults that depend on the environment, no
//! abbreviations.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::extract::{Limits, Ownership, Replace};
use crate::failure::{Failure, Result};
use crate::stream::Hashing;

/// Whether the result is forced to the disk before the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    Yes,
    No,
}

/// One invocation.
#[derive(Debug)]
pub(crate) enum Verb {
    Layer { root: PathBuf, limits: Limits, sync: Sync, hashing: Hashing },
    Put { root: PathBuf, path: PathBuf, ownership: Ownership, replace: Replace, limits: Limits },
    Get { root: PathBuf, path: PathBuf },
    Stat { root: PathBuf, path: PathBuf },
    Tree { from: PathBuf, path: PathBuf, to: PathBuf },
    Diff { upper: PathBuf },
    Export { root: PathBuf },
}

/// Reads the arguments behind the program's name.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Verb> {
    let mut arguments = arguments.into_iter();
    let usage = |text: String| Failure::Usage(text);
    let verb = arguments.next().unwrap_or_default();
    let verb = verb.to_string_lossy().into_owned();
    let mut root = None;
    let mut from = None;
    let mut to = None;
    let mut upper = None;
    let mut path = None;
    let mut limits = Limits::default();
    let mut ownership = Ownership::Archive;
    let mut replace = Replace::Anything;
    let mut sync = Sync::No;
    let mut hashing = Hashing::Both;
    while let Some(flag) = arguments.next() {
        let flag = flag.to_string_lossy().into_owned();
        let mut value =
            || arguments.next().ok_or_else(|| Failure::Usage(format!("{flag} needs a value")));
        let number = |text: OsString| {
            let text = text.to_string_lossy();
            text.parse::<u64>().map_err(|_| Failure::Usage(format!("{text:?} is no number")))
        };
        match (verb.as_str(), flag.as_str()) {
            ("layer" | "put" | "get" | "stat" | "export", "--root") => root = Some(value()?),
            ("tree", "--from") => from = Some(value()?),
            ("tree", "--to") => to = Some(value()?),
            ("diff", "--upper") => upper = Some(value()?),
            ("put" | "get" | "stat" | "tree", "--path") => path = Some(value()?),
            ("layer" | "put", "--max-bytes") => limits.bytes = number(value()?)?,
            ("layer" | "put", "--max-entries") => limits.entries = number(value()?)?,
            ("layer", "--sync") => sync = Sync::Yes,
            ("layer", "--blob-verified") => hashing = Hashing::Tar,
            ("put", "--no-overwrite-dir-non-dir") => replace = Replace::NotDirectories,
            ("put", "--chown") => ownership = owner(&value()?.to_string_lossy())?,
            _ => return Err(usage(format!("unknown argument {flag:?} of {verb:?}"))),
        }
    }
    let need = |value: Option<OsString>, flag: &str| {
        value.map(PathBuf::from).ok_or_else(|| Failure::Usage(format!("{flag} is missing")))
    };
    match verb.as_str() {
        "layer" => Ok(Verb::Layer { root: need(root, "--root")?, limits, sync, hashing }),
        "put" => {
            let (root, path) = (need(root, "--root")?, need(path, "--path")?);
            Ok(Verb::Put { root, path, ownership, replace, limits })
        }
        "get" => Ok(Verb::Get { root: need(root, "--root")?, path: need(path, "--path")? }),
        "stat" => Ok(Verb::Stat { root: need(root, "--root")?, path: need(path, "--path")? }),
        "tree" => {
            let (from, path) = (need(from, "--from")?, need(path, "--path")?);
            Ok(Verb::Tree { from, path, to: need(to, "--to")? })
        }
        "diff" => Ok(Verb::Diff { upper: need(upper, "--upper")? }),
        "export" => Ok(Verb::Export { root: need(root, "--root")? }),
        other => Err(usage(format!(
            "unknown verb {other:?}: want layer, put, get, stat, tree, diff or export"
        ))),
    }
}

fn owner(text: &str) -> Result<Ownership> {
    let bad = || Failure::Usage(format!("--chown {text:?}: want UID:GID"));
    let (uid, gid) = text.split_once(':').ok_or_else(bad)?;
    let id = |text: &str| text.parse::<u32>().ok().filter(|id| *id != u32::MAX).ok_or_else(bad);
    Ok(Ownership::Fixed(id(uid)?, id(gid)?))
}
