//! containerd over gRPC: the wire contract and the pool of connections that carries it.
//!
//! The files in `proto/` are our transcription of the calls in use from containerd's api v1.12
//! (names and field numbers are the contract); each of them is served by every containerd from 1.6
//! on. Code is generated at build time. [`Pool`] is what a client of such a service needs to reach
//! the server; it decides nothing about containers.

// Not `forbid`: the generated files carry an `allow`, though no unsafe code.
#![deny(unsafe_code)]

mod pool;

pub use pool::{InvalidNamespace, Pool, PoolConfig, PoolStatus, is_unreachable};
pub use prost::{DecodeError, Message};
pub use prost_types::{Any, FieldMask, Timestamp};
pub use tonic::{Code, Request, Response, Status, Streaming};

/// Generated modules, laid out as the packages are, because they refer to each other so.
#[allow(
    clippy::all,
    clippy::pedantic,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    reason = "generated from proto/"
)]
mod generated {
    pub mod containerd {
        pub mod types {
            tonic::include_proto!("containerd.types");
        }
        pub mod v1 {
            pub mod types {
                tonic::include_proto!("containerd.v1.types");
            }
        }
        pub mod services {
            pub mod containers {
                pub mod v1 {
                    tonic::include_proto!("containerd.services.containers.v1");
                }
            }
            pub mod tasks {
                pub mod v1 {
                    tonic::include_proto!("containerd.services.tasks.v1");
                }
            }
            pub mod events {
                pub mod v1 {
                    tonic::include_proto!("containerd.services.events.v1");
                }
            }
            pub mod content {
                pub mod v1 {
                    tonic::include_proto!("containerd.services.content.v1");
                }
            }
            pub mod diff {
                pub mod v1 {
                    tonic::include_proto!("containerd.services.diff.v1");
                }
            }
            pub mod images {
                pub mod v1 {
                    tonic::include_proto!("containerd.services.images.v1");
                }
            }
            pub mod introspection {
                pub mod v1 {
                    tonic::include_proto!("containerd.services.introspection.v1");
                }
            }
            pub mod leases {
                pub mod v1 {
                    tonic::include_proto!("containerd.services.leases.v1");
                }
            }
            pub mod snapshots {
                pub mod v1 {
                    tonic::include_proto!("containerd.services.snapshots.v1");
                }
            }
            pub mod version {
                pub mod v1 {
                    tonic::include_proto!("containerd.services.version.v1");
                }
            }
        }
    }
}

/// `containerd.services.containers.v1`.
pub mod containers {
    pub use crate::generated::containerd::services::containers::v1::*;
}

/// `containerd.services.tasks.v1`.
pub mod tasks {
    pub use crate::generated::containerd::services::tasks::v1::*;
    pub use crate::generated::containerd::v1::types::{Process, Status};
}

/// `containerd.services.events.v1` and the events in use.
pub mod events {
    pub use crate::generated::containerd::services::events::v1::*;
    pub use crate::generated::containerd::types::Envelope;
}

/// `containerd.services.version.v1`.
pub mod version {
    pub use crate::generated::containerd::services::version::v1::*;
}

/// `containerd.services.content.v1`.
pub mod content {
    pub use crate::generated::containerd::services::content::v1::*;
}

/// `containerd.services.diff.v1`.
pub mod diff {
    pub use crate::generated::containerd::services::diff::v1::*;
}

/// `containerd.services.images.v1` and its events.
pub mod images {
    pub use crate::generated::containerd::services::images::v1::*;
}

/// `containerd.services.introspection.v1`.
pub mod introspection {
    pub use crate::generated::containerd::services::introspection::v1::*;
}

/// `containerd.services.leases.v1`.
pub mod leases {
    pub use crate::generated::containerd::services::leases::v1::*;
}

/// `containerd.services.snapshots.v1`.
pub mod snapshots {
    pub use crate::generated::containerd::services::snapshots::v1::*;
}

/// Types that several services share.
pub mod types {
    pub use crate::generated::containerd::types::{Descriptor, Mount};
}

/// `message` as an `Any`, named as containerd names types: without a prefix.
#[must_use]
pub fn any(type_name: &str, message: &impl Message) -> Any {
    Any { type_url: type_name.to_owned(), value: message.encode_to_vec() }
}

/// Bytes, such as JSON, under the name by which containerd's own clients know them.
#[must_use]
pub fn any_bytes(type_name: &str, value: Vec<u8>) -> Any {
    Any { type_url: type_name.to_owned(), value }
}

/// The time of `stamp`; `None` outside the years that jiff counts (-9999 to 9999).
#[must_use]
pub fn to_jiff(stamp: &Timestamp) -> Option<jiff::Timestamp> {
    jiff::Timestamp::new(stamp.seconds, stamp.nanos).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field numbers are the contract: an answer as containerd's own encoder writes it.
    #[test]
    fn decodes_the_bytes_of_another_encoder() {
        let wire = b"\x12\x02c1\x18\x2a\x20\x03\x48\x89\x01\x52\x04\x08\x07\x10\x08";
        let process = tasks::Process::decode(&wire[..]).unwrap();
        assert_eq!((process.id.as_str(), process.pid), ("c1", 42));
        assert_eq!((process.status(), process.exit_status), (tasks::Status::Stopped, 137));
        let at = to_jiff(&process.exited_at.unwrap()).unwrap();
        assert_eq!((at.as_second(), at.subsec_nanosecond()), (7, 8));
    }

    #[test]
    fn a_task_is_asked_for_as_containerd_reads_it() {
        let request = tasks::CreateTaskRequest {
            container_id: "c".to_owned(),
            stdout: "o".to_owned(),
            terminal: true,
            options: Some(any_bytes("t", b"v".to_vec())),
            ..Default::default()
        };
        assert_eq!(
            request.encode_to_vec(),
            b"\x0a\x01c\x2a\x01o\x38\x01\x4a\x06\x0a\x01t\x12\x01v"
        );
    }
}
