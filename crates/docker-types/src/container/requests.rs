//! Bodies and replies of the calls on containers.

use super::config::ContainerConfig;
use super::host_config::{HostConfig, Resources, RestartPolicy};
use crate::network::NetworkingConfig;
use crate::wire::is_default;

wire! { "PascalCase";
    /// Body of `POST /containers/create`.
    pub struct ContainerCreate {
        #[serde(skip_serializing_if = "Option::is_none")]
        pub host_config: Option<HostConfig>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub networking_config: Option<NetworkingConfig>,
    } + {
        pub config: ContainerConfig,
    }

    /// Its reply.
    pub struct ContainerCreated {
        pub id: String,
        pub warnings: Vec<String>,
    }

    /// Body of `POST /containers/{id}/update`.
    pub struct ContainerUpdate {
        pub restart_policy: RestartPolicy,
    } + {
        pub resources: Resources,
    }

    /// Its reply.
    pub struct ContainerUpdated {
        pub warnings: Option<Vec<String>>,
    }

    /// Reply of `POST /containers/{id}/wait`.
    pub struct ContainerWait {
        #[serde(skip_serializing_if = "is_default")]
        pub error: Option<WaitError>,
        pub status_code: i64,
    }

    /// Why a wait has no exit code.
    pub struct WaitError {
        #[serde(skip_serializing_if = "is_default")]
        pub message: String,
    }

    /// Reply of `POST /containers/prune`.
    pub struct ContainerPrune {
        pub containers_deleted: Option<Vec<String>>,
        /// Bytes.
        pub space_reclaimed: u64,
    }
}
