//! `/exec`.

use bytes::Bytes;
use pouch_docker_types::IdResponse;
use pouch_docker_types::exec::{ExecCreate, ExecInspect, ExecStart};

use super::containers::{TerminalSize, size_query};
use crate::client::{Call, Client};
use crate::error::ClientError;
use crate::hijack::Hijacked;
use crate::query::segment;

fn path(id: &str, rest: &str) -> String {
    format!("/exec/{}{rest}", segment(id))
}

impl Client {
    /// `POST /containers/{id}/exec`: prepares a process, returns its id.
    ///
    /// # Errors
    /// 404; 409 when the container does not run or is paused.
    pub async fn create_exec(
        &self,
        container: &str,
        exec: &ExecCreate,
    ) -> Result<String, ClientError> {
        let target = format!("/containers/{}/exec", segment(container));
        let created: IdResponse = self.json(Call::post(target).json(exec)?).await?;
        Ok(created.id)
    }

    /// `POST /exec/{id}/start`, attached.
    ///
    /// # Errors
    /// 404; 409; 400 when the command cannot be run.
    pub async fn start_exec(&self, id: &str, start: &ExecStart) -> Result<Hijacked, ClientError> {
        self.hijack(
            Call::post(path(id, "/start")).json(&ExecStart { detach: false, ..start.clone() })?,
        )
        .await
    }

    /// `POST /exec/{id}/start`, detached.
    ///
    /// # Errors
    /// As [`Client::start_exec`].
    pub async fn start_exec_detached(
        &self,
        id: &str,
        start: &ExecStart,
    ) -> Result<(), ClientError> {
        let start = ExecStart { detach: true, ..start.clone() };
        self.unit(Call::post(path(id, "/start")).json(&start)?).await
    }

    /// `POST /exec/{id}/resize`.
    ///
    /// # Errors
    /// 404; 409 when it does not run.
    pub async fn resize_exec(&self, id: &str, size: TerminalSize) -> Result<(), ClientError> {
        self.unit(Call::post(path(id, "/resize")).query(size_query(size))).await
    }

    /// `GET /exec/{id}/json`.
    ///
    /// # Errors
    /// 404.
    pub async fn inspect_exec(&self, id: &str) -> Result<ExecInspect, ClientError> {
        self.json(Call::get(path(id, "/json"))).await
    }

    /// [`Client::inspect_exec`] undecoded.
    ///
    /// # Errors
    /// 404.
    pub async fn inspect_exec_raw(&self, id: &str) -> Result<Bytes, ClientError> {
        self.bytes(Call::get(path(id, "/json"))).await
    }
}
