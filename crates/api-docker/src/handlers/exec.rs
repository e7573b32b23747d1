//! Processes added to a container.

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use futures::future::BoxFuture;
use http::StatusCode;
use pouch_docker_types::IdResponse;
use pouch_docker_types::exec::{ExecCreate, ExecInspect, ExecProcessConfig, ExecStart};
use pouch_engine::ExecSpec;
use pouch_types::spec::Attach;

use super::output::terminal_size;
use crate::api::Shared;
use crate::http::{ApiError, ApiResult, ApiVersion, Json, Query, created, empty, ok};
use crate::stream::Framing;
use crate::stream::detach::DetachKeys;
use crate::stream::hijack::{Hijack, Streams, Terms};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/containers/{id}/exec", post(create))
        .route("/exec/{id}/start", post(start))
        .route("/exec/{id}/resize", post(resize))
        .route("/exec/{id}/json", get(inspect))
}

/// Rows and columns; what no terminal has is refused.
fn console_size(size: Option<[u32; 2]>, version: ApiVersion) -> ApiResult<Option<(u16, u16)>> {
    let Some([rows, columns]) = size.filter(|size| !version.below(42) && *size != [0, 0]) else {
        return Ok(None);
    };
    match (u16::try_from(rows), u16::try_from(columns)) {
        (Ok(rows), Ok(columns)) => Ok(Some((rows, columns))),
        _ => Err(ApiError::invalid(format!("invalid ConsoleSize: {rows}x{columns}"))),
    }
}

async fn create(
    State(api): State<Shared>,
    Path(id): Path<String>,
    version: ApiVersion,
    Json(body): Json<ExecCreate>,
) -> ApiResult<Response> {
    let cmd = body.cmd.map(Vec::from).unwrap_or_default();
    if cmd.is_empty() {
        return Err(ApiError::invalid("No exec command specified"));
    }
    // Refused now, although they are needed at the start only.
    DetachKeys::parse(&body.detach_keys)?;
    let spec = ExecSpec {
        cmd,
        env: body.env.unwrap_or_default(),
        working_dir: body.working_dir,
        user: body.user,
        tty: body.tty,
        attach: Attach {
            stdin: body.attach_stdin,
            stdout: body.attach_stdout,
            stderr: body.attach_stderr,
        },
        privileged: body.privileged,
        console_size: console_size(body.console_size, version)?,
        detach_keys: Some(body.detach_keys).filter(|keys| !keys.is_empty()),
    };
    let id = api.engine.exec_create(&id, spec).await?;
    created(&IdResponse { id: id.to_string() })
}

async fn start(
    State(api): State<Shared>,
    Path(id): Path<String>,
    version: ApiVersion,
    hijack: Hijack,
    Json(body): Json<ExecStart>,
) -> ApiResult<Response> {
    let exec = api.engine.exec_view(&id)?;
    let conflict = |why: &str| {
        Err(ApiError::new(StatusCode::CONFLICT, format!("Error: Exec command {id} {why}")))
    };
    if exec.running {
        return conflict("is already running");
    }
    if exec.exit_code.is_some() {
        return conflict("has already run");
    }
    let size = console_size(body.console_size, version)?.filter(|_| exec.spec.tty);
    if body.detach {
        api.engine.exec_start(&id, Attach::default(), size).await?;
        return Ok(empty(StatusCode::OK));
    }
    let terms = Terms {
        version,
        framing: Framing::of_tty(exec.spec.tty),
        detach: DetachKeys::parse(exec.spec.detach_keys.as_deref().unwrap_or_default())?,
        wants_input: exec.spec.attach.stdin,
    };
    let engine = api.engine.clone();
    // After the answer: clients look for a program that cannot be started in the stream, and for
    // its exit code in inspect.
    hijack.respond(terms, api.sessions.clone(), async move {
        let attached = engine.exec_start(&id, exec.spec.attach, size).await?;
        let (output, input) = match attached {
            Some(attached) => (attached.output, attached.input),
            None => (Box::new(tokio::io::empty()) as _, None),
        };
        // The CLI asks for the exit code as soon as the stream ends, and takes one that is not
        // there yet for 0.
        let settled: BoxFuture<'static, ()> = Box::pin(async move {
            let _ = engine.exec_wait(&id).await;
        });
        Ok(Streams { output, input, settled: Some(settled) })
    })
}

async fn resize(
    State(api): State<Shared>,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<Response> {
    let (height, width) = terminal_size(&query)?;
    api.engine.exec_resize(&id, width, height).await?;
    Ok(empty(StatusCode::OK))
}

async fn inspect(State(api): State<Shared>, Path(id): Path<String>) -> ApiResult<Response> {
    let exec = api.engine.exec_view(&id)?;
    let spec = &exec.spec;
    let (entrypoint, arguments) = match spec.cmd.split_first() {
        Some((first, rest)) => (first.clone(), rest.to_vec()),
        None => (String::new(), Vec::new()),
    };
    ok(&ExecInspect {
        id: exec.id.to_string(),
        running: exec.running,
        exit_code: exec.exit_code.map(i64::from),
        process_config: ExecProcessConfig {
            tty: spec.tty,
            entrypoint,
            arguments,
            privileged: Some(spec.privileged),
            user: spec.user.clone(),
        },
        open_stdin: spec.attach.stdin,
        open_stderr: spec.attach.stderr,
        open_stdout: spec.attach.stdout,
        can_remove: exec.exit_code.is_some(),
        container_id: exec.container.to_string(),
        detach_keys: spec.detach_keys.clone().unwrap_or_default(),
        pid: i64::from(exec.pid),
    })
}
