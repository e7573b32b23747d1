//! Images.

use std::collections::BTreeMap;

use crate::StrSlice;
use crate::container::{Empty, HealthConfig};
use crate::wire::is_default;

wire! { "PascalCase";
    /// An image in `GET /images/json`.
    pub struct ImageSummary {
        /// Containers that use it; -1 when not counted.
        pub containers: i64,
        /// Unix seconds.
        pub created: i64,
        /// `sha256:` and 64 hex digits.
        pub id: String,
        /// `null` for an image without labels.
        pub labels: Option<BTreeMap<String, String>>,
        pub parent_id: String,
        pub repo_digests: Vec<String>,
        pub repo_tags: Vec<String>,
        /// Bytes that other images share; -1 when not computed.
        pub shared_size: i64,
        /// Bytes.
        pub size: i64,
        /// As `size`; only below API 1.44.
        #[serde(skip_serializing_if = "is_default")]
        pub virtual_size: i64,
    }

    /// Reply of `GET /images/{name}/json`.
    pub struct ImageInspect {
        pub id: String,
        pub repo_tags: Vec<String>,
        pub repo_digests: Vec<String>,
        pub parent: String,
        pub comment: String,
        /// RFC 3339.
        #[serde(skip_serializing_if = "is_default")]
        pub created: String,
        pub docker_version: String,
        pub author: String,
        pub config: Option<ImageConfig>,
        pub architecture: String,
        #[serde(skip_serializing_if = "is_default")]
        pub variant: String,
        pub os: String,
        #[serde(skip_serializing_if = "is_default")]
        pub os_version: String,
        /// Bytes.
        pub size: i64,
        /// As `size`; only below API 1.44.
        #[serde(skip_serializing_if = "is_default")]
        pub virtual_size: i64,
        pub graph_driver: GraphDriver,
        #[serde(rename = "RootFS")]
        pub root_fs: RootFs,
        pub metadata: ImageMetadata,
    }

    /// What a container of this image gets.
    pub struct ImageConfig {
        #[serde(skip_serializing_if = "is_default")]
        pub user: String,
        #[serde(skip_serializing_if = "is_default")]
        pub exposed_ports: BTreeMap<String, Empty>,
        #[serde(skip_serializing_if = "is_default")]
        pub env: Vec<String>,
        #[serde(skip_serializing_if = "is_default")]
        pub entrypoint: Vec<String>,
        #[serde(skip_serializing_if = "is_default")]
        pub cmd: Vec<String>,
        #[serde(skip_serializing_if = "is_default")]
        pub volumes: BTreeMap<String, Empty>,
        #[serde(skip_serializing_if = "is_default")]
        pub working_dir: String,
        #[serde(skip_serializing_if = "is_default")]
        pub labels: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "is_default")]
        pub stop_signal: String,
        #[serde(skip_serializing_if = "is_default")]
        pub args_escaped: bool,
        #[serde(skip_serializing_if = "is_default")]
        pub healthcheck: Option<HealthConfig>,
        #[serde(skip_serializing_if = "is_default")]
        pub on_build: Vec<String>,
        #[serde(skip_serializing_if = "is_default")]
        pub shell: Option<StrSlice>,
    }

    /// Where the storage driver keeps it.
    pub struct GraphDriver {
        pub data: Option<BTreeMap<String, String>>,
        pub name: String,
    }

    /// Layers by the digest of their content.
    pub struct RootFs {
        #[serde(skip_serializing_if = "is_default")]
        pub r#type: String,
        #[serde(skip_serializing_if = "is_default")]
        pub layers: Vec<String>,
    }

    /// What only this engine knows of an image.
    pub struct ImageMetadata {
        /// RFC 3339.
        pub last_tag_time: String,
    }

    /// One step of `DELETE /images/{name}`: exactly one field is set.
    pub struct ImageDelete {
        #[serde(skip_serializing_if = "is_default")]
        pub deleted: String,
        #[serde(skip_serializing_if = "is_default")]
        pub untagged: String,
    }

    /// One line of `GET /images/{name}/history`.
    pub struct ImageHistory {
        pub comment: String,
        /// Unix seconds.
        pub created: i64,
        pub created_by: String,
        /// `<missing>` for the layers below.
        pub id: String,
        /// Bytes.
        pub size: i64,
        pub tags: Option<Vec<String>>,
    }

    /// Reply of `POST /images/prune`.
    pub struct ImagePrune {
        pub images_deleted: Option<Vec<ImageDelete>>,
        /// Bytes.
        pub space_reclaimed: u64,
    }

    /// Reply of `GET /distribution/{name}/json`.
    pub struct DistributionInspect {
        pub descriptor: OciDescriptor,
        pub platforms: Vec<OciPlatform>,
    }
}

wire! { "camelCase";
    /// A descriptor of the OCI image specification.
    pub struct OciDescriptor {
        pub media_type: String,
        pub digest: String,
        /// Bytes.
        pub size: i64,
        #[serde(skip_serializing_if = "is_default")]
        pub annotations: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "is_default")]
        pub platform: Option<OciPlatform>,
    }

    /// A platform of the OCI image specification.
    pub struct OciPlatform {
        pub architecture: String,
        pub os: String,
        #[serde(rename = "os.version", skip_serializing_if = "is_default")]
        pub os_version: String,
        #[serde(rename = "os.features", skip_serializing_if = "is_default")]
        pub os_features: Vec<String>,
        #[serde(skip_serializing_if = "is_default")]
        pub variant: String,
    }
}

wire! { "snake_case";
    /// One hit of `GET /images/search`.
    pub struct SearchResult {
        pub star_count: i64,
        pub is_official: bool,
        pub name: String,
        pub is_automated: bool,
        pub description: String,
    }
}
