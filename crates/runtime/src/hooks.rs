//! Programs of the host that are run at points of a container's life (OCI runtime specification
//! 1.2, config.md, "POSIX-platform Hooks").

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::Hook;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;

use crate::error::{IoContext, RuntimeError, SystemContext};
use crate::spec::Bundle;
use crate::state::{OCI_VERSION, Status};

/// The state of a container as a hook reads it on its standard input.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State<'a> {
    oci_version: &'static str,
    id: &'a str,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    bundle: PathBuf,
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    annotations: Vec<(String, String)>,
}

fn as_map<S: serde::Serializer>(
    pairs: &[(String, String)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

impl<'a> State<'a> {
    pub(crate) fn new(
        id: &'a str,
        status: Status,
        pid: Option<i32>,
        bundle: PathBuf,
        annotations: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let annotations = annotations.into_iter().collect();
        Self { oci_version: OCI_VERSION, id, status, pid, bundle, annotations }
    }

    /// Of a container that is being made, whose process has the given pid.
    pub(crate) fn creating(id: &'a str, bundle: &Bundle, pid: i32) -> Self {
        let annotations = bundle.spec.annotations().clone().unwrap_or_default();
        Self::new(id, Status::Creating, Some(pid), bundle.path.clone(), annotations)
    }
}

/// Runs the hooks in order; the first failure ends it. A hook without an environment of its own
/// gets `env`, and of the runtime's nothing.
pub(crate) fn run(
    hooks: Option<&Vec<Hook>>,
    state: &State<'_>,
    env: &[String],
) -> Result<(), RuntimeError> {
    hooks.into_iter().flatten().try_for_each(|hook| run_one(hook, state, env))
}

fn run_one(hook: &Hook, state: &State<'_>, env: &[String]) -> Result<(), RuntimeError> {
    let path = hook.path();
    let mut command = Command::new(path);
    if let Some((name, args)) = hook.args().as_ref().and_then(|args| args.split_first()) {
        command.arg0(name).args(args);
    }
    let env = hook.env().as_deref().unwrap_or(env);
    let mut child = command
        .env_clear()
        .envs(env.iter().filter_map(|entry| entry.split_once('=')))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("run the hook", path)?;
    let text = serde_json::to_vec(state)
        .map_err(|error| RuntimeError::Invalid(format!("a state that is no JSON: {error}")))?;
    if let Some(mut stdin) = child.stdin.take()
        && let Err(error) = stdin.write_all(&text)
        // One that does not read is no failure; how it ends decides.
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        let _ = child.kill();
        let _ = child.wait();
        return Err(error).context("give the state to the hook", path);
    }
    let limit = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
    if let Some(seconds) = limit.filter(|seconds| *seconds > 0)
        && !ends_within(&child, Duration::from_secs(seconds))?
    {
        let _ = child.kill();
        let _ = child.wait();
        return Err(RuntimeError::Deadline { stage: "a hook", seconds });
    }
    let status = child.wait().context("wait for the hook", path)?;
    if status.success() {
        return Ok(());
    }
    Err(RuntimeError::Process(format!("hook {}: {status}", path.display())))
}

fn ends_within(child: &Child, limit: Duration) -> Result<bool, RuntimeError> {
    let Some(pid) = Pid::from_raw(child.id().cast_signed()) else { return Ok(true) };
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).call("pidfd_open")?;
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map(|ready| ready > 0).call("waiting for a hook"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hooks(list: serde_json::Value) -> Vec<Hook> {
        serde_json::from_value(list).unwrap()
    }

    fn state() -> State<'static> {
        let annotations = [(String::from("a"), String::from("b"))];
        State::new("box", Status::Created, Some(7), "/bundle".into(), annotations)
    }

    #[test]
    fn a_hook_reads_the_state_and_sees_only_its_environment() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let script = format!("{{ cat; echo; echo $0 $1; env; }} > {}", out.display());
        let list = hooks(json!([{
            "path": "/bin/sh", "args": ["sh", "-c", script, "me", "too"], "env": ["X=1"],
        }]));
        run(Some(&list), &state(), &[String::from("Y=2")]).unwrap();
        let text = std::fs::read_to_string(out).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        let first: serde_json::Value = serde_json::from_str(first).unwrap();
        let expected = json!({
            "ociVersion": OCI_VERSION, "id": "box", "status": "created", "pid": 7,
            "bundle": "/bundle", "annotations": { "a": "b" },
        });
        assert_eq!(first, expected);
        assert!(rest.starts_with("me too\n") && rest.contains("X=1"), "{rest}");
        assert!(!rest.contains("Y=2") && !rest.contains("HOME="), "{rest}");
    }

    #[test]
    fn one_that_does_not_read_is_fine_and_one_that_fails_ends_it() {
        let list = hooks(json!([{ "path": "/bin/true" }, { "path": "/bin/false" }]));
        let error = run(Some(&list), &state(), &[]).unwrap_err().to_string();
        assert!(error.contains("/bin/false"), "{error}");
        assert!(run(Some(&list[..1].to_vec()), &state(), &[]).is_ok());
        assert!(run(None, &state(), &[]).is_ok());
    }

    #[test]
    fn one_that_takes_too_long_is_killed() {
        let list = hooks(json!([{ "path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1 }]));
        let error = run(Some(&list), &state(), &[]).unwrap_err();
        assert!(matches!(error, RuntimeError::Deadline { seconds: 1, .. }), "{error}");
    }
}
