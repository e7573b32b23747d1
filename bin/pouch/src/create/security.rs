//! `--security-opt`.

use crate::failure::Failure;
use crate::settings;

/// The options as the daemon takes them.
#[derive(Debug, Default)]
pub(super) struct Security {
    pub(super) options: Vec<String>,
    /// `systempaths=unconfined`: nothing of /proc and /sys is masked.
    pub(super) unmasked: bool,
}

pub(super) fn options(flags: &[String]) -> Result<Security, Failure> {
    let mut out = Security::default();
    for text in flags {
        if text == "systempaths=unconfined" {
            out.unmasked = true;
            continue;
        }
        // `label:disable` is the older spelling of `label=disable`.
        let (key, value) = match text.split_once('=').or_else(|| text.split_once(':')) {
            Some(pair) => pair,
            None if text == "no-new-privileges" => {
                out.options.push(text.clone());
                continue;
            }
            None => return Err(Failure::new(format!("invalid --security-opt: {text:?}"))),
        };
        if key == "seccomp" && value != "unconfined" && value != "builtin" {
            out.options.push(format!("seccomp={}", profile(value)?));
        } else {
            out.options.push(text.clone());
        }
    }
    Ok(out)
}

/// The daemon cannot read our files, so the profile itself goes to it.
fn profile(path: &str) -> Result<String, Failure> {
    let text = settings::read_capped(path.as_ref())
        .map_err(|error| Failure::io("open the seccomp profile", path, &error))?;
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| {
        Failure::new(format!("the seccomp profile {path} is not JSON: {error}"))
    })?;
    Ok(value.to_string())
}
