//! `/version`, `/info`, `/events`, `/system/df`.

use bytes::Bytes;
use pouch_docker_types::Filters;
use pouch_docker_types::event::EventMessage;
use pouch_docker_types::system::{BuildPrune, DiskUsage, Info, Version};

use crate::client::{Call, Client};
use crate::error::ClientError;
use crate::ndjson::Ndjson;
use crate::query::Query;

/// Which events.
#[derive(Debug, Clone, Default)]
pub struct EventRange {
    /// Unix seconds with fraction, RFC 3339 or a duration back; empty is now.
    pub since: String,
    /// As `since`; empty is for ever.
    pub until: String,
    /// Which.
    pub filters: Filters,
}

/// What `GET /system/df` sums up; API 1.42 can leave parts out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskUsageOf {
    /// All.
    Everything,
    /// Only containers.
    Containers,
    /// Only images.
    Images,
    /// Only volumes.
    Volumes,
}

impl Client {
    /// `GET /version`.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn daemon_version(&self) -> Result<Version, ClientError> {
        self.json(Call::get("/version")).await
    }

    /// [`Client::daemon_version`] undecoded.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn daemon_version_raw(&self) -> Result<Bytes, ClientError> {
        self.bytes(Call::get("/version")).await
    }

    /// `GET /info`.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn info(&self) -> Result<Info, ClientError> {
        self.json(Call::get("/info")).await
    }

    /// [`Client::info`] undecoded.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn info_raw(&self) -> Result<Bytes, ClientError> {
        self.bytes(Call::get("/info")).await
    }

    /// `GET /pouch/backend`, undecoded. Other daemons than pouchd do not have it.
    ///
    /// # Errors
    /// When the daemon does not answer, or has no such page.
    pub async fn backend_raw(&self) -> Result<Bytes, ClientError> {
        self.bytes(Call::get("/pouch/backend")).await
    }

    /// `GET /events`: from `since` on, then as they happen.
    ///
    /// # Errors
    /// 400 for a filter that it does not know.
    pub async fn events(&self, range: &EventRange) -> Result<Ndjson<EventMessage>, ClientError> {
        let query = Query::new()
            .with_text("since", &range.since)
            .with_text("until", &range.until)
            .with_filters(&range.filters);
        self.ndjson(Call::get("/events").query(query)).await
    }

    /// `GET /system/df`.
    ///
    /// # Errors
    /// 409 while another one is under way.
    pub async fn disk_usage(&self, of: DiskUsageOf) -> Result<DiskUsage, ClientError> {
        let query = match of {
            DiskUsageOf::Everything => Query::new(),
            DiskUsageOf::Containers => Query::new().with("type", "container"),
            DiskUsageOf::Images => Query::new().with("type", "image"),
            DiskUsageOf::Volumes => Query::new().with("type", "volume"),
        };
        self.json(Call::get("/system/df").query(query)).await
    }

    /// `POST /build/prune`.
    ///
    /// # Errors
    /// 501 where there is no builder.
    pub async fn prune_build_cache(&self, filters: &Filters) -> Result<BuildPrune, ClientError> {
        self.json(Call::post("/build/prune").query(Query::new().with_filters(filters))).await
    }
}
