//! `-e`, `--env-file`, `-l`, `--label-file`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::failure::Failure;
use crate::settings;

/// The variables of a container: files first, then flags; proxies where neither sets them.
pub(super) fn container(
    flags: &[String],
    files: &[PathBuf],
    proxies: &[(String, String)],
) -> Result<Vec<String>, Failure> {
    let mut out = exec_environment(flags, files)?;
    for (name, value) in proxies {
        let prefix = format!("{name}=");
        if !out.iter().any(|entry| entry.starts_with(&prefix) || entry == name) {
            out.push(format!("{name}={value}"));
        }
    }
    Ok(out)
}

/// The variables of an exec.
pub(crate) fn exec_environment(
    flags: &[String],
    files: &[PathBuf],
) -> Result<Vec<String>, Failure> {
    let mut out = Vec::new();
    for (path, line) in lines(files)? {
        out.extend(variable(&line).map_err(|why| {
            Failure::new(format!("poorly formatted environment in {}: {why}", path.display()))
        })?);
    }
    for text in flags {
        out.extend(
            variable(text)
                .map_err(|why| Failure::new(format!("invalid environment variable: {why}")))?,
        );
    }
    Ok(out)
}

/// `NAME=value`, or `NAME` for our own value of it; nothing when we have none.
fn variable(text: &str) -> Result<Option<String>, String> {
    let name = text.split('=').next().unwrap_or_default();
    if name.is_empty() {
        return Err(format!("{text:?} has no name"));
    }
    if name.contains(char::is_whitespace) {
        return Err(format!("variable {name:?} contains whitespaces"));
    }
    if text.contains('=') {
        return Ok(Some(text.to_owned()));
    }
    Ok(std::env::var(name).ok().map(|value| format!("{name}={value}")))
}

pub(super) fn labels(
    flags: &[String],
    files: &[PathBuf],
) -> Result<BTreeMap<String, String>, Failure> {
    let mut words: Vec<String> = lines(files)?.into_iter().map(|(_, line)| line).collect();
    words.extend(flags.iter().cloned());
    super::pairs(&words, "--label")
}

/// The lines of the files that are neither empty nor comments.
fn lines(files: &[PathBuf]) -> Result<Vec<(&PathBuf, String)>, Failure> {
    let mut out = Vec::new();
    for path in files {
        let text =
            settings::read_capped(path).map_err(|error| Failure::io("read", path, &error))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        for line in text.lines() {
            let line = line.trim_start();
            if !line.is_empty() && !line.starts_with('#') {
                out.push((path, line.to_owned()));
            }
        }
    }
    Ok(out)
}
