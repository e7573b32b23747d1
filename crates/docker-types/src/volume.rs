//! Volumes.

use std::collections::BTreeMap;

use crate::wire::is_default;

wire! { "PascalCase";
    /// A volume in lists and inspect.
    pub struct Volume {
        #[serde(skip_serializing_if = "is_default")]
        pub created_at: String,
        pub driver: String,
        /// `null` for a volume made without labels.
        pub labels: Option<BTreeMap<String, String>>,
        pub mountpoint: String,
        pub name: String,
        /// `null` for a volume made without driver options.
        pub options: Option<BTreeMap<String, String>>,
        /// `local` or `global`.
        pub scope: String,
        #[serde(skip_serializing_if = "is_default")]
        pub status: Option<BTreeMap<String, serde_json::Value>>,
        /// Only in `GET /system/df`.
        #[serde(skip_serializing_if = "is_default")]
        pub usage_data: Option<VolumeUsage>,
    }

    /// Use of a volume.
    pub struct VolumeUsage {
        /// Containers that mount it; -1 when unknown.
        pub ref_count: i64,
        /// Bytes; -1 when unknown.
        pub size: i64,
    }

    /// Body of `POST /volumes/create`.
    pub struct VolumeCreate {
        /// Empty asks for a random name.
        #[serde(skip_serializing_if = "is_default")]
        pub name: String,
        #[serde(skip_serializing_if = "is_default")]
        pub driver: String,
        #[serde(skip_serializing_if = "is_default")]
        pub driver_opts: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "is_default")]
        pub labels: BTreeMap<String, String>,
        /// Swarm only.
        #[serde(skip_serializing_if = "is_default")]
        pub cluster_volume_spec: Option<serde_json::Value>,
    }

    /// Reply of `GET /volumes`.
    pub struct VolumeList {
        pub volumes: Vec<Volume>,
        pub warnings: Option<Vec<String>>,
    }

    /// Reply of `POST /volumes/prune`.
    pub struct VolumePrune {
        pub volumes_deleted: Option<Vec<String>>,
        /// Bytes.
        pub space_reclaimed: u64,
    }
}
