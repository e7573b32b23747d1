//! `GET /events`.

use std::collections::BTreeMap;

use crate::wire::is_default;

wire! { "PascalCase";
    /// One line of the stream. The lower-case fields are those of API 1.21 and older; containers
    /// and images still carry them.
    pub struct EventMessage {
        #[serde(rename = "status", skip_serializing_if = "is_default")]
        pub status: String,
        #[serde(rename = "id", skip_serializing_if = "is_default")]
        pub id: String,
        #[serde(rename = "from", skip_serializing_if = "is_default")]
        pub from: String,
        /// `container`, `image`, `network`, `volume`, `daemon` …
        pub r#type: String,
        /// `start`, `die`, `health_status: healthy` …
        pub action: String,
        pub actor: EventActor,
        #[serde(rename = "scope", skip_serializing_if = "is_default")]
        pub scope: String,
        /// Unix seconds.
        #[serde(rename = "time", skip_serializing_if = "is_default")]
        pub time: i64,
        /// Unix nanoseconds.
        #[serde(rename = "timeNano", skip_serializing_if = "is_default")]
        pub time_nano: i64,
    }

    /// Who the event is about.
    pub struct EventActor {
        #[serde(rename = "ID")]
        pub id: String,
        pub attributes: BTreeMap<String, String>,
    }
}
