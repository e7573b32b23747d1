//! ExecSync: a command in a container, waited for, with what it printed. kubelet's probes.

use std::sync::Arc;
use std::time::Duration;

use pouch_types::ErrorKind;
use pouch_types::spec::Attach;

use crate::view::ExecSpec;
use crate::{Engine, EngineError, exec};

/// Bytes kept of both streams together; what comes beyond is read and dropped. kubelet takes
/// messages of 16 MiB, and what is around the output is one too.
const OUTPUT_MAX: usize = (16 << 20) - 1024;
/// After the command's end its output may still be under way; what a process that it left behind
/// prints later is not its output.
const DRAIN: Duration = Duration::from_secs(1);
/// Time for the processes of a command that must end.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// A command to run.
#[derive(Debug, Clone)]
pub struct ExecSync {
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// After which it and all that it started are killed; `None` waits for ever.
    pub timeout: Option<Duration>,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecOutput {
    /// With the other one less than 16 MiB.
    pub stdout: Vec<u8>,
    /// With the other one less than 16 MiB.
    pub stderr: Vec<u8>,
    /// 128 + n after signal n.
    pub exit_code: i32,
}

impl Engine {
    /// Runs a command in a container of a pod to its end.
    ///
    /// # Errors
    /// `DeadlineExceeded` after the timeout, when everything that the command started was killed;
    /// `Conflict` when the container does not run; why the command could not be started.
    pub async fn exec_sync(&self, key: &str, asked: ExecSync) -> Result<ExecOutput, EngineError> {
        let view = self.pod_container(key)?;
        let container = self.find(view.id.as_str())?;
        let inner = Arc::clone(&self.inner);
        // A caller that leaves must not leave the command without its deadline.
        self.detached(async move {
            let spec = ExecSpec {
                cmd: asked.cmd,
                attach: Attach { stdin: false, stdout: true, stderr: true },
                ..ExecSpec::default()
            };
            let attach = spec.attach;
            let session = exec::create(&inner, &container, spec)?;
            let stream = exec::start(&inner, &session, attach, None).await?;
            let mut output = ExecOutput::default();
            let keep = |fd: u8, bytes: &[u8]| {
                let kept = output.stdout.len() + output.stderr.len();
                let into = if fd == 2 { &mut output.stderr } else { &mut output.stdout };
                let room = OUTPUT_MAX.saturating_sub(kept).min(bytes.len());
                into.extend_from_slice(&bytes[..room]);
            };
            let reading = async {
                if let Some(stream) = stream {
                    exec::read_frames(stream, keep).await;
                }
            };
            let ended = async {
                let mut reading = std::pin::pin!(reading);
                // Cancel-safe: `exit_code` only watches, and the reading goes on below.
                let code = tokio::select! {
                    code = session.exit_code() => code,
                    () = &mut reading => return session.exit_code().await,
                };
                let _ = tokio::time::timeout(DRAIN, reading).await;
                code
            };
            let ended = match asked.timeout {
                None => Some(ended.await),
                Some(limit) => tokio::time::timeout(limit, ended).await.ok(),
            };
            if let Some(code) = ended {
                output.exit_code = code;
                return Ok(output);
            }
            session.kill_tree().await;
            let _ = tokio::time::timeout(KILL_PATIENCE, session.exit_code()).await;
            let seconds = asked.timeout.unwrap_or_default().as_secs_f32();
            Err(EngineError::new(
                ErrorKind::DeadlineExceeded,
                format!("the command timed out after {seconds} s and was killed"),
            ))
        })
        .await
    }
}
