//! `/volumes`.

use bytes::Bytes;
use pouch_docker_types::Filters;
use pouch_docker_types::volume::{Volume, VolumeCreate, VolumeList, VolumePrune};

use crate::client::{Call, Client};
use crate::error::ClientError;
use crate::query::{Query, segment};

fn path(name: &str) -> String {
    format!("/volumes/{}", segment(name))
}

/// Whether a volume goes although its driver cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeRemoval {
    /// The driver must agree.
    Orderly,
    /// `--force`.
    Forced,
}

impl Client {
    /// `GET /volumes`.
    ///
    /// # Errors
    /// 400 for a filter that it does not know.
    pub async fn volumes(&self, filters: &Filters) -> Result<VolumeList, ClientError> {
        self.json(Call::get("/volumes").query(Query::new().with_filters(filters))).await
    }

    /// `POST /volumes/create`. A volume that exists with the same driver is returned as it is.
    ///
    /// # Errors
    /// 409 when it exists with another driver.
    pub async fn create_volume(&self, create: &VolumeCreate) -> Result<Volume, ClientError> {
        self.json(Call::post("/volumes/create").json(create)?).await
    }

    /// `GET /volumes/{name}`.
    ///
    /// # Errors
    /// 404.
    pub async fn inspect_volume(&self, name: &str) -> Result<Volume, ClientError> {
        self.json(Call::get(path(name))).await
    }

    /// [`Client::inspect_volume`] undecoded.
    ///
    /// # Errors
    /// 404.
    pub async fn inspect_volume_raw(&self, name: &str) -> Result<Bytes, ClientError> {
        self.bytes(Call::get(path(name))).await
    }

    /// `DELETE /volumes/{name}`.
    ///
    /// # Errors
    /// 404; 409 when a container uses it.
    pub async fn remove_volume(
        &self,
        name: &str,
        removal: VolumeRemoval,
    ) -> Result<(), ClientError> {
        let query = Query::new().with_switch("force", removal == VolumeRemoval::Forced);
        self.unit(Call::delete(path(name)).query(query)).await
    }

    /// `POST /volumes/prune`.
    ///
    /// # Errors
    /// 400 for a filter that it does not know.
    pub async fn prune_volumes(&self, filters: &Filters) -> Result<VolumePrune, ClientError> {
        self.json(Call::post("/volumes/prune").query(Query::new().with_filters(filters))).await
    }
}
