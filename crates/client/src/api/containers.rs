//! `/containers`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderMap;
use pouch_docker_types::Filters;
use pouch_docker_types::archive::PathStat;
use pouch_docker_types::container::{
    ContainerCreate, ContainerCreated, ContainerInspect, ContainerPrune, ContainerSummary,
    ContainerUpdate, ContainerUpdated, ContainerWait, FilesystemChange, Stats, Top,
};
use tokio::io::AsyncRead;

use crate::body::{self, ReplyBody};
use crate::client::{Call, Client};
use crate::error::ClientError;
use crate::hijack::Hijacked;
use crate::ndjson::Ndjson;
use crate::query::{Query, segment};

/// A wait's reply is one small object.
const WAIT_LIMIT: usize = 64 << 10;

/// What `GET /containers/json` lists.
#[derive(Debug, Clone, Default)]
pub struct ListContainers {
    /// Also those that do not run.
    pub all: bool,
    /// The newest so many, running or not.
    pub limit: Option<i64>,
    /// With sizes on disk, which costs the daemon a walk.
    pub size: bool,
    /// Which.
    pub filters: Filters,
}

/// How a stop or restart is done.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Seconds until the kill; -1 never kills; `None` is the container's own setting.
    pub timeout: Option<i64>,
    /// Instead of the container's stop signal; API 1.42.
    pub signal: String,
}

/// What goes with a container.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveContainer {
    /// Kill it first.
    pub force: bool,
    /// Its anonymous volumes too.
    pub volumes: bool,
    /// Only the link of this name.
    pub link: bool,
}

/// When a wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It does not run; at once when it does not run now.
    NotRunning,
    /// The next exit, even when it does not run now.
    NextExit,
    /// It is gone.
    Removed,
}

impl Condition {
    const fn as_str(self) -> &'static str {
        match self {
            Self::NotRunning => "not-running",
            Self::NextExit => "next-exit",
            Self::Removed => "removed",
        }
    }
}

/// Whether sizes on disk are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeInfo {
    /// `SizeRw` and `SizeRootFs` are filled in.
    With,
    /// They are absent.
    Without,
}

/// Which logs, and how.
#[derive(Debug, Clone, Default)]
pub struct Logs {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Stay until the container ends.
    pub follow: bool,
    /// A time before each line.
    pub timestamps: bool,
    /// Attributes of the log driver before each line.
    pub details: bool,
    /// Unix seconds with fraction, or RFC 3339.
    pub since: String,
    /// As `since`.
    pub until: String,
    /// Lines from the end, or `all`.
    pub tail: String,
}

/// Which streams an attach joins.
#[derive(Debug, Clone, Default)]
pub struct Attach {
    /// Send input.
    pub stdin: bool,
    /// Receive output.
    pub stdout: bool,
    /// Receive errors.
    pub stderr: bool,
    /// Receive what was logged before.
    pub logs: bool,
    /// Receive what comes.
    pub stream: bool,
    /// Key sequence that detaches, as `ctrl-p,ctrl-q`.
    pub detach_keys: String,
}

/// Rows and columns of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters per line.
    pub columns: u16,
}

/// How often stats come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// Once a second.
    Stream,
    /// One sample with rates, which takes the daemon a second.
    Once,
}

/// How an archive is unpacked.
#[derive(Debug, Clone, Copy, Default)]
pub struct PutArchive {
    /// Fail when a directory would replace something else, or be replaced.
    pub no_overwrite_dir_non_dir: bool,
    /// Owners as in the archive.
    pub copy_uid_gid: bool,
}

/// A file or directory of a container, as tar.
#[derive(Debug)]
pub struct ArchiveReader {
    /// What it is.
    pub stat: PathStat,
    /// The tar stream.
    pub body: ReplyBody,
}

/// A wait that the daemon has begun.
#[derive(Debug)]
pub struct Wait(ReplyBody);

impl Wait {
    /// The exit, when it has come.
    ///
    /// # Errors
    /// When the connection or the daemon ends first.
    pub async fn result(self) -> Result<ContainerWait, ClientError> {
        let what = self.0.what().to_owned();
        let bytes = self.0.collect(WAIT_LIMIT).await?;
        serde_json::from_slice(&bytes).map_err(|source| ClientError::Decode { what, source })
    }
}

fn path(id: &str, rest: &str) -> String {
    format!("/containers/{}{rest}", segment(id))
}

impl Client {
    /// `GET /containers/json`.
    ///
    /// # Errors
    /// [`ClientError`]; a malformed filter is the daemon's 400.
    pub async fn containers(
        &self,
        list: &ListContainers,
    ) -> Result<Vec<ContainerSummary>, ClientError> {
        let query = Query::new()
            .with_switch("all", list.all)
            .with_number("limit", list.limit)
            .with_switch("size", list.size)
            .with_filters(&list.filters);
        self.json(Call::get("/containers/json").query(query)).await
    }

    /// `POST /containers/create`.
    ///
    /// # Errors
    /// 404 when the image is missing, 409 when the name is taken.
    pub async fn create_container(
        &self,
        name: &str,
        platform: &str,
        body: &ContainerCreate,
    ) -> Result<ContainerCreated, ClientError> {
        let query = Query::new().with_text("name", name).with_text("platform", platform);
        self.json(Call::post("/containers/create").query(query).json(body)?).await
    }

    /// `GET /containers/{id}/json`.
    ///
    /// # Errors
    /// 404.
    pub async fn inspect_container(&self, id: &str) -> Result<ContainerInspect, ClientError> {
        self.json(Call::get(path(id, "/json"))).await
    }

    /// [`Client::inspect_container`] undecoded.
    ///
    /// # Errors
    /// 404.
    pub async fn inspect_container_raw(
        &self,
        id: &str,
        size: SizeInfo,
    ) -> Result<Bytes, ClientError> {
        let query = Query::new().with_switch("size", size == SizeInfo::With);
        self.bytes(Call::get(path(id, "/json")).query(query)).await
    }

    /// `POST /containers/{id}/start`. Already running is a success.
    ///
    /// # Errors
    /// 404; 400 when the command cannot be run; 500 with the runtime's words.
    pub async fn start_container(&self, id: &str, detach_keys: &str) -> Result<(), ClientError> {
        let query = Query::new().with_text("detachKeys", detach_keys);
        self.unit(Call::post(path(id, "/start")).query(query)).await
    }

    /// `POST /containers/{id}/stop`. Already stopped is a success.
    ///
    /// # Errors
    /// 404.
    pub async fn stop_container(&self, id: &str, stop: &Stop) -> Result<(), ClientError> {
        self.unit(Call::post(path(id, "/stop")).query(stop_query(stop))).await
    }

    /// `POST /containers/{id}/restart`.
    ///
    /// # Errors
    /// 404.
    pub async fn restart_container(&self, id: &str, stop: &Stop) -> Result<(), ClientError> {
        self.unit(Call::post(path(id, "/restart")).query(stop_query(stop))).await
    }

    /// `POST /containers/{id}/kill`; an empty signal is KILL.
    ///
    /// # Errors
    /// 404; 409 when it does not run.
    pub async fn kill_container(&self, id: &str, signal: &str) -> Result<(), ClientError> {
        let query = Query::new().with_text("signal", signal);
        self.unit(Call::post(path(id, "/kill")).query(query)).await
    }

    /// `POST /containers/{id}/pause`.
    ///
    /// # Errors
    /// 404; 409 when it is paused or does not run.
    pub async fn pause_container(&self, id: &str) -> Result<(), ClientError> {
        self.unit(Call::post(path(id, "/pause"))).await
    }

    /// `POST /containers/{id}/unpause`.
    ///
    /// # Errors
    /// 404; 409 when it is not paused.
    pub async fn unpause_container(&self, id: &str) -> Result<(), ClientError> {
        self.unit(Call::post(path(id, "/unpause"))).await
    }

    /// `POST /containers/{id}/rename`.
    ///
    /// # Errors
    /// 404; 409 when the name is taken.
    pub async fn rename_container(&self, id: &str, name: &str) -> Result<(), ClientError> {
        self.unit(Call::post(path(id, "/rename")).query(Query::new().with("name", name))).await
    }

    /// `POST /containers/{id}/update`.
    ///
    /// # Errors
    /// 404; 400 for limits that do not fit together.
    pub async fn update_container(
        &self,
        id: &str,
        update: &ContainerUpdate,
    ) -> Result<ContainerUpdated, ClientError> {
        self.json(Call::post(path(id, "/update")).json(update)?).await
    }

    /// `DELETE /containers/{id}`.
    ///
    /// # Errors
    /// 404; 409 when it runs and `force` is off.
    pub async fn remove_container(
        &self,
        id: &str,
        remove: RemoveContainer,
    ) -> Result<(), ClientError> {
        let query = Query::new()
            .with_switch("force", remove.force)
            .with_switch("v", remove.volumes)
            .with_switch("link", remove.link);
        self.unit(Call::delete(path(id, "")).query(query)).await
    }

    /// `POST /containers/{id}/wait`. When this returns, the daemon is waiting: an exit from now on
    /// cannot be missed.
    ///
    /// # Errors
    /// 404.
    pub async fn wait_container(
        &self,
        id: &str,
        condition: Condition,
    ) -> Result<Wait, ClientError> {
        let query = Query::new().with("condition", condition.as_str());
        Ok(Wait(self.send(Call::post(path(id, "/wait")).query(query)).await?.body))
    }

    /// `GET /containers/{id}/top`.
    ///
    /// # Errors
    /// 404; 409 when it does not run.
    pub async fn top(&self, id: &str, ps_args: &str) -> Result<Top, ClientError> {
        let query = Query::new().with_text("ps_args", ps_args);
        self.json(Call::get(path(id, "/top")).query(query)).await
    }

    /// `GET /containers/{id}/logs`: framed unless the container has a terminal.
    ///
    /// # Errors
    /// 404; 501 when its log driver keeps nothing.
    pub async fn logs(&self, id: &str, logs: &Logs) -> Result<ReplyBody, ClientError> {
        let query = Query::new()
            .with_switch("stdout", logs.stdout)
            .with_switch("stderr", logs.stderr)
            .with_switch("follow", logs.follow)
            .with_switch("timestamps", logs.timestamps)
            .with_switch("details", logs.details)
            .with_text("since", &logs.since)
            .with_text("until", &logs.until)
            .with_text("tail", &logs.tail);
        Ok(self.send(Call::get(path(id, "/logs")).query(query)).await?.body)
    }

    /// `POST /containers/{id}/attach`.
    ///
    /// # Errors
    /// 404; 400 for malformed detach keys; 409 when it is paused.
    pub async fn attach(&self, id: &str, attach: &Attach) -> Result<Hijacked, ClientError> {
        let query = Query::new()
            .with_switch("stdin", attach.stdin)
            .with_switch("stdout", attach.stdout)
            .with_switch("stderr", attach.stderr)
            .with_switch("logs", attach.logs)
            .with_switch("stream", attach.stream)
            .with_text("detachKeys", &attach.detach_keys);
        self.hijack(Call::post(path(id, "/attach")).query(query)).await
    }

    /// `POST /containers/{id}/resize`.
    ///
    /// # Errors
    /// 404; 409 when it does not run.
    pub async fn resize_container(&self, id: &str, size: TerminalSize) -> Result<(), ClientError> {
        self.unit(Call::post(path(id, "/resize")).query(size_query(size))).await
    }

    /// `GET /containers/{id}/changes`.
    ///
    /// # Errors
    /// 404.
    pub async fn changes(&self, id: &str) -> Result<Vec<FilesystemChange>, ClientError> {
        let changes: Option<_> = self.json(Call::get(path(id, "/changes"))).await?;
        Ok(changes.unwrap_or_default())
    }

    /// `GET /containers/{id}/export`: the root file system as tar.
    ///
    /// # Errors
    /// 404.
    pub async fn export(&self, id: &str) -> Result<ReplyBody, ClientError> {
        Ok(self.send(Call::get(path(id, "/export"))).await?.body)
    }

    /// `GET /containers/{id}/stats`.
    ///
    /// # Errors
    /// 404.
    pub async fn stats(&self, id: &str, sampling: Sampling) -> Result<Ndjson<Stats>, ClientError> {
        let stream = if sampling == Sampling::Stream { "1" } else { "0" };
        self.ndjson(Call::get(path(id, "/stats")).query(Query::new().with("stream", stream))).await
    }

    /// `HEAD /containers/{id}/archive`.
    ///
    /// # Errors
    /// 404 when the container or the path is missing.
    pub async fn stat_path(&self, id: &str, file: &str) -> Result<PathStat, ClientError> {
        let call = Call::new(http::Method::HEAD, path(id, "/archive"))
            .query(Query::new().with("path", file));
        let reply = self.send(call).await?;
        path_stat(&reply.head.headers, reply.body.what())
    }

    /// `GET /containers/{id}/archive`.
    ///
    /// # Errors
    /// 404 when the container or the path is missing.
    pub async fn get_archive(&self, id: &str, file: &str) -> Result<ArchiveReader, ClientError> {
        let call = Call::get(path(id, "/archive")).query(Query::new().with("path", file));
        let reply = self.send(call).await?;
        let stat = path_stat(&reply.head.headers, reply.body.what())?;
        Ok(ArchiveReader { stat, body: reply.body })
    }

    /// `PUT /containers/{id}/archive`: unpacks `tar` into the directory.
    ///
    /// # Errors
    /// 404 when the container or the directory is missing, 400 when it is not one, 403 when it is
    /// read-only.
    pub async fn put_archive<R: AsyncRead + Send + 'static>(
        &self,
        id: &str,
        directory: &str,
        options: PutArchive,
        tar: R,
    ) -> Result<(), ClientError> {
        let mut query = Query::new().with("path", directory);
        if options.no_overwrite_dir_non_dir {
            query = query.with("noOverwriteDirNonDir", "true");
        }
        if options.copy_uid_gid {
            query = query.with("copyUIDGID", "true");
        }
        let call = Call::new(http::Method::PUT, path(id, "/archive"))
            .query(query)
            .body(body::stream(tar), "application/x-tar");
        self.unit(call).await
    }

    /// `POST /containers/prune`.
    ///
    /// # Errors
    /// 400 for a filter that it does not know.
    pub async fn prune_containers(&self, filters: &Filters) -> Result<ContainerPrune, ClientError> {
        let query = Query::new().with_filters(filters);
        self.json(Call::post("/containers/prune").query(query)).await
    }
}

fn stop_query(stop: &Stop) -> Query {
    Query::new().with_number("t", stop.timeout).with_text("signal", &stop.signal)
}

pub(crate) fn size_query(size: TerminalSize) -> Query {
    Query::new().with("h", &size.rows.to_string()).with("w", &size.columns.to_string())
}

fn path_stat(headers: &HeaderMap, what: &str) -> Result<PathStat, ClientError> {
    let missing = |reason| ClientError::Protocol { what: what.to_owned(), reason };
    let header = headers
        .get("x-docker-container-path-stat")
        .ok_or_else(|| missing("the header X-Docker-Container-Path-Stat is missing"))?;
    let json = STANDARD
        .decode(header.as_bytes())
        .map_err(|_| missing("the header X-Docker-Container-Path-Stat is not base64"))?;
    serde_json::from_slice(&json)
        .map_err(|source| ClientError::Decode { what: what.to_owned(), source })
}
