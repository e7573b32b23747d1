//! `/networks`.

use bytes::Bytes;
use pouch_docker_types::Filters;
use pouch_docker_types::network::{
    Network, NetworkConnect, NetworkCreate, NetworkCreated, NetworkDisconnect, NetworkPrune,
};

use crate::client::{Call, Client};
use crate::error::ClientError;
use crate::query::{Query, segment};

fn path(id: &str, rest: &str) -> String {
    format!("/networks/{}{rest}", segment(id))
}

impl Client {
    /// `GET /networks`.
    ///
    /// # Errors
    /// 400 for a filter that it does not know.
    pub async fn networks(&self, filters: &Filters) -> Result<Vec<Network>, ClientError> {
        self.json(Call::get("/networks").query(Query::new().with_filters(filters))).await
    }

    /// `GET /networks/{id}`.
    ///
    /// # Errors
    /// 404.
    pub async fn inspect_network(&self, id: &str) -> Result<Network, ClientError> {
        self.json(Call::get(path(id, ""))).await
    }

    /// [`Client::inspect_network`] undecoded.
    ///
    /// # Errors
    /// 404.
    pub async fn inspect_network_raw(&self, id: &str) -> Result<Bytes, ClientError> {
        self.bytes(Call::get(path(id, ""))).await
    }

    /// `POST /networks/create`.
    ///
    /// # Errors
    /// 409 when the name is taken; 403 for a predefined one.
    pub async fn create_network(
        &self,
        create: &NetworkCreate,
    ) -> Result<NetworkCreated, ClientError> {
        self.json(Call::post("/networks/create").json(create)?).await
    }

    /// `DELETE /networks/{id}`.
    ///
    /// # Errors
    /// 404; 403 while containers are attached.
    pub async fn remove_network(&self, id: &str) -> Result<(), ClientError> {
        self.unit(Call::delete(path(id, ""))).await
    }

    /// `POST /networks/{id}/connect`.
    ///
    /// # Errors
    /// 404; 403 when it is attached.
    pub async fn connect_network(
        &self,
        id: &str,
        connect: &NetworkConnect,
    ) -> Result<(), ClientError> {
        self.unit(Call::post(path(id, "/connect")).json(connect)?).await
    }

    /// `POST /networks/{id}/disconnect`.
    ///
    /// # Errors
    /// 404; 403 when it is not attached.
    pub async fn disconnect_network(
        &self,
        id: &str,
        disconnect: &NetworkDisconnect,
    ) -> Result<(), ClientError> {
        self.unit(Call::post(path(id, "/disconnect")).json(disconnect)?).await
    }

    /// `POST /networks/prune`.
    ///
    /// # Errors
    /// 400 for a filter that it does not know.
    pub async fn prune_networks(&self, filters: &Filters) -> Result<NetworkPrune, ClientError> {
        self.json(Call::post("/networks/prune").query(Query::new().with_filters(filters))).await
    }
}
