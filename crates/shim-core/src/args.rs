//! The command line of containerd's shim contract: flags as Go's `flag` package takes them.

use std::ffi::OsString;
use std::path::PathBuf;

/// What the shim is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Find or start the shim for a container and print its address.
    Start,
    /// Clean up after a shim that died.
    Delete,
    /// Be the shim: serve the listener on standard input.
    Serve,
    /// Hold the streams of a foreign shim's container; orders come by the listener on standard
    /// input.
    Stdio,
    /// Print the version.
    Version,
    /// Print a description, as protobuf.
    Info,
}

/// The flags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) namespace: String,
    pub(crate) id: String,
    /// containerd's gRPC address for `start`, the ttrpc server for events for `serve`.
    pub(crate) address: String,
    pub(crate) bundle: Option<PathBuf>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) debug: bool,
}

/// A command line that makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub(crate) struct UsageError(String);

/// Parses the arguments after the program's name.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<(Action, Flags), UsageError> {
    let mut flags = Flags::default();
    let mut action = None;
    let mut arguments = arguments.into_iter().map(|argument| {
        argument.into_string().map_err(|raw| UsageError(format!("not UTF-8: {raw:?}")))
    });
    while let Some(argument) = arguments.next() {
        let argument = argument?;
        let Some(flag) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
            action = Some(match argument.as_str() {
                "start" => Action::Start,
                "delete" => Action::Delete,
                "serve" => Action::Serve,
                "stdio" => Action::Stdio,
                other => return Err(UsageError(format!("unknown action {other:?}"))),
            });
            break;
        };
        let (name, inline) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        match name {
            "v" | "version" => return Ok((Action::Version, flags)),
            "info" => return Ok((Action::Info, flags)),
            "debug" => flags.debug = !matches!(inline.as_deref(), Some("false" | "0")),
            _ => {
                let value = match inline {
                    Some(value) => value,
                    None => arguments
                        .next()
                        .unwrap_or_else(|| Err(UsageError(format!("-{name} needs a value"))))?,
                };
                match name {
                    "namespace" => flags.namespace = value,
                    "id" => flags.id = value,
                    "address" => flags.address = value,
                    "bundle" => flags.bundle = Some(value.into()),
                    "socket" => flags.socket = Some(value.into()),
                    // containerd's binary, which published events before there was ttrpc, and
                    // a Go profiler's socket.
                    "publish-binary" | "debug-socket" => {}
                    _ => return Err(UsageError(format!("unknown flag -{name}"))),
                }
            }
        }
    }
    let action =
        action.ok_or_else(|| UsageError("no action: start, delete, serve or stdio".to_owned()))?;
    if flags.namespace.is_empty() || flags.id.is_empty() && action != Action::Serve {
        return Err(UsageError("-namespace and -id are needed".to_owned()));
    }
    Ok((action, flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<(Action, Flags), UsageError> {
        parse(text.split_whitespace().map(OsString::from))
    }

    #[test]
    fn as_containerd_calls() {
        let (action, flags) = parse_text(
            "-namespace k8s.io -address /run/containerd.sock -publish-binary /bin/containerd \
             -id abc -debug start",
        )
        .unwrap();
        assert_eq!(action, Action::Start);
        assert_eq!((flags.namespace.as_str(), flags.id.as_str()), ("k8s.io", "abc"));
        assert!(flags.debug);
        let (action, flags) =
            parse_text("--namespace=a --id=b --bundle=/x -debug=false delete").unwrap();
        assert_eq!((action, flags.bundle), (Action::Delete, Some("/x".into())));
        assert!(!flags.debug);
        assert_eq!(parse_text("-v").unwrap().0, Action::Version);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for bad in [
            "",
            "start",
            "-namespace a -id",
            "-namespace a -id b",
            "-x y start",
            "-namespace a -id b stop",
        ] {
            assert!(parse_text(bad).is_err(), "{bad}");
        }
    }
}
