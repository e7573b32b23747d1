//! Attach and resize: the streams of a container's main process.

use pouch_types::spec::Attach;
use tokio::io::AsyncReadExt as _;

use crate::api::{AttachOptions, Attached, LogOptions, LogRecord};
use crate::container::attach;
use crate::container::state::Phase;
use crate::{Engine, EngineError};

impl Engine {
    /// Attaches to a container. To one that does not run yet the streams begin with its start.
    ///
    /// # Errors
    /// `Conflict` when it is frozen or its shim refuses; `NotFound`.
    pub async fn attach(&self, key: &str, options: AttachOptions) -> Result<Attached, EngineError> {
        let container = self.find(key)?;
        let view = container.view();
        let phase = container.snapshot().phase;
        if phase == Phase::Paused {
            return Err(EngineError::conflict(format!(
                "container {} is paused, unpause the container before attach",
                view.id
            )));
        }
        let tty = view.spec.process.tty;
        let streams = Attach {
            stdin: options.streams.stdin && view.spec.process.open_stdin,
            ..options.streams
        };
        let past =
            if options.logs { self.past_output(key, streams, tty).await? } else { Vec::new() };
        if !options.stream {
            return Ok(Attached { tty, output: Box::new(std::io::Cursor::new(past)), input: None });
        }
        let task = if phase == Phase::Running { Some(container.task()?) } else { None };
        let attached = match task {
            Some(task) => {
                let stream = task
                    .attach(streams)
                    .await
                    .map_err(|e| EngineError::wrap("cannot attach", e))?;
                let (read, write) = stream.into_split();
                Attached {
                    tty,
                    output: Box::new(read),
                    input: streams.stdin.then(|| Box::new(write) as _),
                }
            }
            None => {
                let (waiting, read, write) = attach::waiting(streams);
                container.run().waiting.push(waiting);
                Attached {
                    tty,
                    output: Box::new(read),
                    input: streams.stdin.then(|| Box::new(write) as _),
                }
            }
        };
        let attributes = crate::engine::view_attributes(&view);
        self.inner.announce_container("attach", &view.id, attributes);
        if past.is_empty() {
            return Ok(attached);
        }
        let output = std::io::Cursor::new(past).chain(attached.output);
        Ok(Attached { output: Box::new(output), ..attached })
    }

    /// What the log holds, in the form of the stream.
    async fn past_output(
        &self,
        key: &str,
        streams: Attach,
        tty: bool,
    ) -> Result<Vec<u8>, EngineError> {
        let options =
            LogOptions { stdout: streams.stdout, stderr: streams.stderr, ..LogOptions::default() };
        if !options.stdout && !options.stderr {
            return Ok(Vec::new());
        }
        let mut log = self.logs(key, options).await?;
        let mut past = Vec::new();
        while let Some(record) = log.records.recv().await {
            let LogRecord { stream, bytes, .. } = record?;
            if !tty {
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                past.extend_from_slice(&[stream, 0, 0, 0]);
                past.extend_from_slice(&length.to_be_bytes());
            }
            past.extend_from_slice(&bytes);
        }
        Ok(past)
    }

    /// Sets the size of the terminal, in characters.
    ///
    /// # Errors
    /// `Conflict` when it does not run.
    pub async fn resize(&self, key: &str, width: u16, height: u16) -> Result<(), EngineError> {
        let container = self.find(key)?;
        let task = container.task()?;
        task.resize(width, height).await.map_err(|e| EngineError::wrap("cannot resize", e))?;
        let view = container.view();
        let mut attributes = crate::engine::view_attributes(&view);
        attributes.insert("height".to_owned(), height.to_string());
        attributes.insert("width".to_owned(), width.to_string());
        self.inner.announce_container("resize", &view.id, attributes);
        Ok(())
    }
}
