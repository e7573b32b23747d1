//! What happens when a process ends, in the order that keeps every promise:
//!
//! 1. the status is taken, and the control group's OOM counter before the group goes;
//! 2. for the container's first process, the exit file is written, durably;
//! 3. the io thread drains what is left of the output, which nothing here waits for;
//! 4. the exit is published, after the start was, and who waits for it is told.

use std::sync::Arc;
use std::time::Duration;

use pouch_protocol::events::{TOPIC_EXIT, TaskExit};
use pouch_protocol::timestamp;
use rustix::process::Signal;
use tokio::sync::oneshot;

use crate::blocking;
use crate::bundle::PidNamespace;
use crate::child::{Tracked, shell_code};
use crate::container::Container;
use crate::exit::{Exit, ExitFile};
use crate::io::Command;
use crate::process::Process;
use crate::shim::Shim;

/// Time that a disk may take for the exit file before others are told all the same.
const RECORD: Duration = Duration::from_secs(30);

/// Waits for the end of `process`.
pub(crate) async fn run(
    shim: Arc<Shim>,
    container: Arc<Container>,
    process: Arc<Process>,
    tracked: Arc<Tracked>,
) {
    let status = shell_code(tracked.wait().await);
    let exit = Exit { status, at: jiff::Timestamp::now() };
    process.set_stopped(exit);
    let is_init = process.exec.is_empty();
    let pid = process.snapshot().pid;
    if is_init {
        let oom_killed = container.ended_by_oom(exit);
        record(&container, pid, exit, oom_killed).await;
        if oom_killed {
            shim.publish_oom(&container);
        }
        if container.pid_namespace == PidNamespace::Shared {
            kill_rest(Arc::clone(&container));
        }
    }
    drain(&shim, &process);

    // A process can end while its start is being answered.
    let _started = process.starting.lock().await;
    let id = if is_init { container.id.to_string() } else { process.exec.to_string() };
    let event = TaskExit {
        container_id: container.id.to_string(),
        id,
        pid,
        exit_status: exit.status,
        exited_at: Some(timestamp(exit.at)).into(),
        ..TaskExit::default()
    };
    shim.events.publish(TOPIC_EXIT, "TaskExit", &event);
    process.publish_exit(exit);
}

async fn record(container: &Container, pid: u32, exit: Exit, oom_killed: bool) {
    let Some(path) = container.options.exit_file.clone() else { return };
    let file = ExitFile {
        generation: container.options.generation,
        pid,
        exit_status: exit.status,
        exited_at: exit.at,
        oom_killed,
    };
    let target = path.clone();
    let written = blocking::run("exit-file", move || file.write(&target));
    let path = path.display();
    match tokio::time::timeout(RECORD, written).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::error!(%path, %error, "the exit file is not written"),
        Ok(Err(error)) => tracing::error!(%path, %error, "the exit file is not written"),
        Err(_) => tracing::error!(%path, "the disk does not take the exit file in time"),
    }
}

/// Ends what the first process left behind in a pid namespace that is not its own.
fn kill_rest(container: Arc<Container>) {
    tokio::spawn(async move {
        if let Err(error) = container.signal_all(Signal::KILL).await {
            let id = &*container.id;
            tracing::warn!(id, %error, "processes of an ended container may be left");
        }
    });
}

fn drain(shim: &Arc<Shim>, process: &Process) {
    let (drained, receiver) = oneshot::channel();
    process.set_drained(receiver);
    let (io, key) = (shim.io.clone(), process.key);
    // The io thread may be behind, and the exit must not wait for it.
    tokio::spawn(async move { io.send(Command::Exited { key, drained }).await });
}
