//! The task service, v2 and v3: the wire in front of [`Shim`].
//!
//! A ttrpc server drops a handler when its client goes away or its time is up; what changes
//! something therefore runs in a task of its own, and the handler only waits for it.

use std::sync::Arc;

use async_trait::async_trait;
use pouch_protocol::options::runc::{PROCESS_DETAILS_TYPE, ProcessDetails};
use pouch_protocol::task::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use pouch_protocol::types::{ProcessInfo, Status as WireStatus};
use pouch_protocol::{Empty, any, task_ttrpc_v2, task_ttrpc_v3, timestamp};
use ttrpc::r#async::TtrpcContext;

use crate::error::{TaskError, status};
use crate::exit::Exit;
use crate::process::Status;
use crate::shim::{Close, Shim};
use crate::stdio::Terminal;

/// Serves one shim under both names.
#[derive(Clone)]
pub(crate) struct TaskService(pub(crate) Arc<Shim>);

/// Runs a change to its end, whatever happens to the one who asked for it.
async fn complete<T: Send + 'static>(
    change: impl Future<Output = Result<T, TaskError>> + Send + 'static,
) -> Result<T, TaskError> {
    // A panic ends the process (release) or shows here (tests).
    tokio::spawn(change).await.unwrap_or(Err(TaskError::Internal("the operation ended early")))
}

fn wire_time(exit: Exit) -> pouch_protocol::MessageField<pouch_protocol::Timestamp> {
    Some(timestamp(exit.at)).into()
}

impl TaskService {
    async fn do_state(&self, request: StateRequest) -> Result<StateResponse, TaskError> {
        let container = self.0.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        let now = process.snapshot();
        let status = match now.status {
            Status::Created => WireStatus::CREATED,
            Status::Running if container.is_paused() => WireStatus::PAUSED,
            Status::Running => WireStatus::RUNNING,
            Status::Stopped => WireStatus::STOPPED,
        };
        Ok(StateResponse {
            id: request.id,
            bundle: container.bundle.to_string_lossy().into_owned(),
            pid: now.pid,
            status: status.into(),
            stdin: process.names.stdin.clone(),
            stdout: process.names.stdout.clone(),
            stderr: process.names.stderr.clone(),
            terminal: process.terminal == Terminal::Yes,
            exit_status: now.exit.map_or(0, |exit| exit.status),
            exited_at: now.exit.map(|exit| timestamp(exit.at)).into(),
            exec_id: request.exec_id,
            ..StateResponse::default()
        })
    }

    async fn do_create(&self, request: CreateTaskRequest) -> Result<CreateTaskResponse, TaskError> {
        let shim = Arc::clone(&self.0);
        let pid = complete(async move { shim.create(request).await }).await?;
        Ok(CreateTaskResponse { pid, ..CreateTaskResponse::default() })
    }

    async fn do_start(&self, request: StartRequest) -> Result<StartResponse, TaskError> {
        let shim = Arc::clone(&self.0);
        let pid = complete(async move { shim.start(&request.id, &request.exec_id).await }).await?;
        Ok(StartResponse { pid, ..StartResponse::default() })
    }

    async fn do_delete(&self, request: DeleteRequest) -> Result<DeleteResponse, TaskError> {
        let shim = Arc::clone(&self.0);
        let (pid, exit) =
            complete(async move { shim.delete(&request.id, &request.exec_id).await }).await?;
        Ok(DeleteResponse {
            pid,
            exit_status: exit.status,
            exited_at: wire_time(exit),
            ..DeleteResponse::default()
        })
    }

    async fn do_pids(&self, request: PidsRequest) -> Result<PidsResponse, TaskError> {
        let container = self.0.container(&request.id)?;
        let execs: Vec<(u32, String)> = container
            .all_execs()
            .iter()
            .map(|process| (process.snapshot().pid, process.exec.to_string()))
            .collect();
        let details = |pid: u32| {
            let (_, exec_id) = execs.iter().find(|(exec, _)| *exec == pid)?;
            let details = ProcessDetails { exec_id: exec_id.clone(), ..ProcessDetails::default() };
            any(PROCESS_DETAILS_TYPE, &details).ok()
        };
        let processes = container
            .pids()?
            .into_iter()
            .map(|pid| ProcessInfo { pid, info: details(pid).into(), ..ProcessInfo::default() })
            .collect();
        Ok(PidsResponse { processes, ..PidsResponse::default() })
    }

    async fn do_pause(&self, request: PauseRequest) -> Result<Empty, TaskError> {
        let shim = Arc::clone(&self.0);
        complete(async move { shim.pause(&request.id).await }).await?;
        Ok(Empty::default())
    }

    async fn do_resume(&self, request: ResumeRequest) -> Result<Empty, TaskError> {
        let shim = Arc::clone(&self.0);
        complete(async move { shim.resume(&request.id).await }).await?;
        Ok(Empty::default())
    }

    async fn do_checkpoint(&self, request: CheckpointTaskRequest) -> Result<Empty, TaskError> {
        self.0.container(&request.id)?;
        Err(TaskError::Unsupported("checkpointing"))
    }

    async fn do_kill(&self, request: KillRequest) -> Result<Empty, TaskError> {
        let shim = Arc::clone(&self.0);
        complete(async move { shim.kill(&request).await }).await?;
        Ok(Empty::default())
    }

    async fn do_exec(&self, request: ExecProcessRequest) -> Result<Empty, TaskError> {
        let shim = Arc::clone(&self.0);
        complete(async move { shim.exec(request).await }).await?;
        Ok(Empty::default())
    }

    async fn do_resize_pty(&self, request: ResizePtyRequest) -> Result<Empty, TaskError> {
        self.0.resize(&request)?;
        Ok(Empty::default())
    }

    async fn do_close_io(&self, request: CloseIORequest) -> Result<Empty, TaskError> {
        if request.stdin {
            self.0.close_stdin(&request.id, &request.exec_id).await?;
        }
        Ok(Empty::default())
    }

    async fn do_update(&self, request: UpdateTaskRequest) -> Result<Empty, TaskError> {
        let shim = Arc::clone(&self.0);
        let resources = request.resources.into_option().map(|any| any.value).unwrap_or_default();
        complete(async move { shim.update(&request.id, &resources).await }).await?;
        Ok(Empty::default())
    }

    async fn do_wait(&self, request: WaitRequest) -> Result<WaitResponse, TaskError> {
        let process = self.0.container(&request.id)?.process(&request.exec_id)?;
        let exit = process.ended().await.ok_or(TaskError::Finished)?;
        Ok(WaitResponse {
            exit_status: exit.status,
            exited_at: wire_time(exit),
            ..WaitResponse::default()
        })
    }

    async fn do_stats(&self, request: StatsRequest) -> Result<StatsResponse, TaskError> {
        let stats = self.0.container(&request.id)?.stats()?;
        let stats = Some(crate::stats::metrics(&stats)?).into();
        Ok(StatsResponse { stats, ..StatsResponse::default() })
    }

    async fn do_connect(&self, request: ConnectRequest) -> Result<ConnectResponse, TaskError> {
        // A shim without the container is alive all the same; containerd asks this after its own
        // restart.
        let task_pid =
            self.0.container(&request.id).map_or(0, |container| container.init.snapshot().pid);
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..ConnectResponse::default()
        })
    }

    async fn do_shutdown(&self, request: ShutdownRequest) -> Result<Empty, TaskError> {
        // Others of the pod may need the shim.
        let when = if request.now { Close::Now } else { Close::IfEmpty };
        let shim = Arc::clone(&self.0);
        let close = async move {
            if shim.close(when).await {
                shim.shutdown.notify_one();
            }
            Ok(())
        };
        complete(close).await?;
        Ok(Empty::default())
    }
}

/// The same methods under a service's name.
macro_rules! serve {
    ($service:ident, $(($method:ident, $run:ident, $request:ty, $response:ty)),+ $(,)?) => {
        #[async_trait]
        impl $service::Task for TaskService {
            $(
                async fn $method(
                    &self,
                    _: &TtrpcContext,
                    request: $request,
                ) -> ttrpc::Result<$response> {
                    self.$run(request).await.map_err(|error| {
                        tracing::debug!(request = stringify!($method), %error, "refused");
                        status(&error)
                    })
                }
            )+
        }
    };
}

macro_rules! serve_all {
    ($($service:ident),+) => {
        $(serve!(
            $service,
            (state, do_state, StateRequest, StateResponse),
            (create, do_create, CreateTaskRequest, CreateTaskResponse),
            (start, do_start, StartRequest, StartResponse),
            (delete, do_delete, DeleteRequest, DeleteResponse),
            (pids, do_pids, PidsRequest, PidsResponse),
            (pause, do_pause, PauseRequest, Empty),
            (resume, do_resume, ResumeRequest, Empty),
            (checkpoint, do_checkpoint, CheckpointTaskRequest, Empty),
            (kill, do_kill, KillRequest, Empty),
            (exec, do_exec, ExecProcessRequest, Empty),
            (resize_pty, do_resize_pty, ResizePtyRequest, Empty),
            (close_io, do_close_io, CloseIORequest, Empty),
            (update, do_update, UpdateTaskRequest, Empty),
            (wait, do_wait, WaitRequest, WaitResponse),
            (stats, do_stats, StatsRequest, StatsResponse),
            (connect, do_connect, ConnectRequest, ConnectResponse),
            (shutdown, do_shutdown, ShutdownRequest, Empty),
        );)+
    };
}

serve_all!(task_ttrpc_v2, task_ttrpc_v3);
