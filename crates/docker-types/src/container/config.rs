//! The portable part of a container: what an image also could say.

use std::collections::BTreeMap;

use crate::StrSlice;
use crate::wire::{Empty, is_default};

wire! { "PascalCase";
    /// What runs, and as whom.
    pub struct ContainerConfig {
        pub hostname: String,
        pub domainname: String,
        /// `user[:group]`, names or numbers.
        pub user: String,
        pub attach_stdin: bool,
        pub attach_stdout: bool,
        pub attach_stderr: bool,
        /// Keys are `port[/protocol]`.
        #[serde(skip_serializing_if = "is_default")]
        pub exposed_ports: BTreeMap<String, Empty>,
        pub tty: bool,
        pub open_stdin: bool,
        pub stdin_once: bool,
        pub env: Option<Vec<String>>,
        pub cmd: Option<StrSlice>,
        #[serde(skip_serializing_if = "is_default")]
        pub healthcheck: Option<HealthConfig>,
        /// Windows only.
        #[serde(skip_serializing_if = "is_default")]
        pub args_escaped: bool,
        pub image: String,
        /// Anonymous volumes by destination.
        pub volumes: Option<BTreeMap<String, Empty>>,
        pub working_dir: String,
        pub entrypoint: Option<StrSlice>,
        #[serde(skip_serializing_if = "is_default")]
        pub network_disabled: bool,
        /// Before API 1.44; later it is in the endpoint's settings.
        #[serde(skip_serializing_if = "is_default")]
        pub mac_address: String,
        pub on_build: Option<Vec<String>>,
        pub labels: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "is_default")]
        pub stop_signal: String,
        /// Seconds.
        #[serde(skip_serializing_if = "is_default")]
        pub stop_timeout: Option<i64>,
        #[serde(skip_serializing_if = "is_default")]
        pub shell: Option<StrSlice>,
    }

    /// A health probe; durations in nanoseconds.
    pub struct HealthConfig {
        /// `[]` inherits, `["NONE"]` disables, `["CMD", …]`, `["CMD-SHELL", line]`.
        #[serde(skip_serializing_if = "is_default")]
        pub test: Vec<String>,
        #[serde(skip_serializing_if = "is_default")]
        pub interval: i64,
        #[serde(skip_serializing_if = "is_default")]
        pub timeout: i64,
        #[serde(skip_serializing_if = "is_default")]
        pub start_period: i64,
        /// API 1.44 and newer.
        #[serde(skip_serializing_if = "is_default")]
        pub start_interval: i64,
        #[serde(skip_serializing_if = "is_default")]
        pub retries: i64,
    }
}
