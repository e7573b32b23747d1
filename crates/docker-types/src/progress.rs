//! Progress of pull, push, load and build: a stream of JSON objects, each followed by CRLF.

use crate::wire::is_default;

wire! { "camelCase";
    /// One message.
    pub struct ProgressMessage {
        /// Output of a build or of a load.
        #[serde(skip_serializing_if = "is_default")]
        pub stream: String,
        /// What is done to `id`.
        #[serde(skip_serializing_if = "is_default")]
        pub status: String,
        #[serde(skip_serializing_if = "is_default")]
        pub progress_detail: Option<ProgressDetail>,
        /// The bar as text, for clients that draw none.
        #[serde(skip_serializing_if = "is_default")]
        pub progress: String,
        /// Short layer id or tag.
        #[serde(skip_serializing_if = "is_default")]
        pub id: String,
        /// Set in the last message of a failed operation.
        #[serde(skip_serializing_if = "is_default")]
        pub error_detail: Option<ProgressError>,
        /// The same text again, for clients older than `errorDetail`.
        #[serde(skip_serializing_if = "is_default")]
        pub error: String,
        /// Image id of a build, digest of a push.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub aux: Option<serde_json::Value>,
    }

    /// Bytes done.
    pub struct ProgressDetail {
        #[serde(skip_serializing_if = "is_default")]
        pub current: i64,
        #[serde(skip_serializing_if = "is_default")]
        pub total: i64,
        #[serde(skip_serializing_if = "is_default")]
        pub start: i64,
        #[serde(rename = "hidecounts", skip_serializing_if = "is_default")]
        pub hide_counts: bool,
        #[serde(skip_serializing_if = "is_default")]
        pub units: String,
    }

    /// A failure after the first byte.
    pub struct ProgressError {
        #[serde(skip_serializing_if = "is_default")]
        pub code: i64,
        #[serde(skip_serializing_if = "is_default")]
        pub message: String,
    }
}

wire! { "PascalCase";
    /// `aux` of a finished push.
    pub struct PushResult {
        pub tag: String,
        pub digest: String,
        pub size: i64,
    }
}

impl ProgressMessage {
    /// The message that ends a failed stream.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            error_detail: Some(ProgressError { code: 0, message: message.clone() }),
            error: message,
            ..Self::default()
        }
    }
}
