//! The parts of a bundle's `config.json` that the shim acts on.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use rustix::termios::Winsize;
use serde::Deserialize;

use crate::error::TaskError;

/// Bytes that a configuration may have.
const LIMIT: u64 = 16 * 1024 * 1024;

/// Annotations that name the group of a container, and so the shim it shares; the first that is
/// there counts, as with runc's shim.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Config {
    #[serde(default)]
    process: Option<Process>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    linux: Option<Linux>,
}

/// The process object, of a configuration or an exec.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Process {
    #[serde(default, rename = "consoleSize")]
    console_size: Option<ConsoleSize>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct ConsoleSize {
    #[serde(default)]
    height: u64,
    #[serde(default)]
    width: u64,
}

#[derive(Debug, Default, Deserialize)]
struct Linux {
    #[serde(default)]
    namespaces: Vec<Namespace>,
}

#[derive(Debug, Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

/// Whether the kernel ends a container's processes with its first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PidNamespace {
    /// The container's first process is the first of its pid namespace.
    Own,
    /// It lives in another one, so what it leaves behind must be killed.
    Shared,
}

impl Config {
    pub(crate) fn read(bundle: &Path) -> Result<Self, TaskError> {
        let path = bundle.join("config.json");
        let mut text = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(LIMIT).read_to_end(&mut text))
            .map_err(TaskError::io("read", &path))?;
        serde_json::from_slice(&text).map_err(|error| TaskError::Io {
            action: "understand",
            path,
            source: error.into(),
        })
    }

    /// Whose shim the container shares.
    pub(crate) fn group(&self) -> Option<&str> {
        GROUPS.iter().find_map(|name| self.annotations.get(*name)).map(String::as_str)
    }

    pub(crate) fn console_size(&self) -> Option<Winsize> {
        self.process.as_ref()?.console_size()
    }

    pub(crate) fn pid_namespace(&self) -> PidNamespace {
        let own = self
            .linux
            .iter()
            .flat_map(|linux| &linux.namespaces)
            .any(|namespace| namespace.kind == "pid" && namespace.path.is_empty());
        if own { PidNamespace::Own } else { PidNamespace::Shared }
    }
}

impl Process {
    pub(crate) fn console_size(&self) -> Option<Winsize> {
        self.console_size.and_then(|size| winsize(size.width, size.height))
    }
}

/// A terminal's size; `None` when a side is beyond the kernel's 16 bits.
pub(crate) fn winsize(width: u64, height: u64) -> Option<Winsize> {
    let side = |n| u16::try_from(n).ok();
    Some(Winsize { ws_row: side(height)?, ws_col: side(width)?, ws_xpixel: 0, ws_ypixel: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_matters_and_ignores_the_rest() {
        let config: Config = serde_json::from_str(
            r#"{"ociVersion":"1.0.2","process":{"args":["a"],"consoleSize":{"height":4,"width":9}},
                "linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/n"}]},
                "annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#,
        )
        .unwrap();
        assert_eq!(config.console_size().map(|s| (s.ws_col, s.ws_row)), Some((9, 4)));
        assert_eq!(config.pid_namespace(), PidNamespace::Own);
        assert_eq!(config.group(), Some("pod"));
        let both = r#"{"annotations":{"io.containerd.runc.v2.group":"a",
            "io.kubernetes.cri.sandbox-id":"b"}}"#;
        assert_eq!(serde_json::from_str::<Config>(both).unwrap().group(), Some("a"));
        let shared: Config =
            serde_json::from_str(r#"{"linux":{"namespaces":[{"type":"pid","path":"/p"}]}}"#)
                .unwrap();
        assert_eq!(shared.pid_namespace(), PidNamespace::Shared);
        // Clients without a terminal of their own send it.
        assert!(winsize(0, 0).is_some());
        assert!(winsize(80, 1 << 20).is_none());
    }
}
