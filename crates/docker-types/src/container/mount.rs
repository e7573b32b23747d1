//! Mounts in the long form of `--mount`.

use std::collections::BTreeMap;

use crate::wire::is_default;

wire! { "PascalCase";
    /// A mount that is asked for.
    pub struct Mount {
        /// `bind`, `volume`, `tmpfs`, `image`.
        #[serde(skip_serializing_if = "is_default")]
        pub r#type: String,
        #[serde(skip_serializing_if = "is_default")]
        pub source: String,
        #[serde(skip_serializing_if = "is_default")]
        pub target: String,
        #[serde(skip_serializing_if = "is_default")]
        pub read_only: bool,
        /// Docker Desktop only; ignored on Linux.
        #[serde(skip_serializing_if = "is_default")]
        pub consistency: String,
        #[serde(skip_serializing_if = "is_default")]
        pub bind_options: Option<BindOptions>,
        #[serde(skip_serializing_if = "is_default")]
        pub volume_options: Option<VolumeOptions>,
        #[serde(skip_serializing_if = "is_default")]
        pub image_options: Option<ImageOptions>,
        #[serde(skip_serializing_if = "is_default")]
        pub tmpfs_options: Option<TmpfsOptions>,
        /// Swarm only.
        #[serde(skip_serializing_if = "is_default")]
        pub cluster_options: Option<serde_json::Value>,
    }

    /// Options of a bind mount.
    pub struct BindOptions {
        #[serde(skip_serializing_if = "is_default")]
        pub propagation: String,
        #[serde(skip_serializing_if = "is_default")]
        pub non_recursive: bool,
        #[serde(skip_serializing_if = "is_default")]
        pub create_mountpoint: bool,
        #[serde(skip_serializing_if = "is_default")]
        pub read_only_non_recursive: bool,
        #[serde(skip_serializing_if = "is_default")]
        pub read_only_force_recursive: bool,
    }

    /// Options of a volume mount.
    pub struct VolumeOptions {
        #[serde(skip_serializing_if = "is_default")]
        pub no_copy: bool,
        #[serde(skip_serializing_if = "is_default")]
        pub labels: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "is_default")]
        pub subpath: String,
        #[serde(skip_serializing_if = "is_default")]
        pub driver_config: Option<VolumeDriver>,
    }

    /// Driver for a volume that is made.
    pub struct VolumeDriver {
        #[serde(skip_serializing_if = "is_default")]
        pub name: String,
        #[serde(skip_serializing_if = "is_default")]
        pub options: BTreeMap<String, String>,
    }

    /// Options of an image mount.
    pub struct ImageOptions {
        #[serde(skip_serializing_if = "is_default")]
        pub subpath: String,
    }

    /// Options of a tmpfs.
    pub struct TmpfsOptions {
        #[serde(skip_serializing_if = "is_default")]
        pub size_bytes: i64,
        /// Permission bits.
        #[serde(skip_serializing_if = "is_default")]
        pub mode: u32,
        /// Each a flag or a pair.
        #[serde(skip_serializing_if = "is_default")]
        pub options: Vec<Vec<String>>,
    }
}
