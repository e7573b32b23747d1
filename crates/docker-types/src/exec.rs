//! Processes added to a container.

use crate::StrSlice;
use crate::wire::is_default;

wire! { "PascalCase";
    /// Body of `POST /containers/{id}/exec`.
    pub struct ExecCreate {
        pub user: String,
        pub privileged: bool,
        pub tty: bool,
        #[serde(skip_serializing_if = "is_default")]
        pub console_size: Option<[u32; 2]>,
        pub attach_stdin: bool,
        pub attach_stderr: bool,
        pub attach_stdout: bool,
        pub detach_keys: String,
        pub env: Option<Vec<String>>,
        pub working_dir: String,
        pub cmd: Option<StrSlice>,
        /// Ignored by dockerd; what counts is `ExecStart::detach`.
        pub detach: bool,
    }

    /// Body of `POST /exec/{id}/start`.
    pub struct ExecStart {
        pub detach: bool,
        pub tty: bool,
        /// Rows and columns.
        #[serde(skip_serializing_if = "is_default")]
        pub console_size: Option<[u32; 2]>,
    }

    /// Reply of `GET /exec/{id}/json`.
    pub struct ExecInspect {
        #[serde(rename = "ID")]
        pub id: String,
        pub running: bool,
        /// `null` until the process has ended.
        pub exit_code: Option<i64>,
        pub process_config: ExecProcessConfig,
        pub open_stdin: bool,
        pub open_stderr: bool,
        pub open_stdout: bool,
        pub can_remove: bool,
        #[serde(rename = "ContainerID")]
        pub container_id: String,
        pub detach_keys: String,
        pub pid: i64,
    }
}

wire! { "camelCase";
    /// What an exec runs.
    pub struct ExecProcessConfig {
        pub tty: bool,
        pub entrypoint: String,
        pub arguments: Vec<String>,
        #[serde(skip_serializing_if = "is_default")]
        pub privileged: Option<bool>,
        #[serde(skip_serializing_if = "is_default")]
        pub user: String,
    }
}
