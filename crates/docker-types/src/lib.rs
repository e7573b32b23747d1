//! Types of the Docker Engine API (moby v28, API 1.51) as its clients see them on the wire.
//!
//! They describe shape, not meaning: a request is kept as it was spelled (parsing `Binds` or ports
//! is the business of the face that serves it) and a response has exactly what the face puts in.
//! Two rules make them fit for both directions:
//!
//! - Requests are read tolerantly, as Go's decoder does: unknown fields are ignored, `null` stands
//!   for the zero value, and numbers may come as strings (some clients send `"Memory": "512"`).
//! - Responses are written with the shape that dockerd has. It is observable whether an unset list
//!   is `null`, `[]` or absent, so `Option<Vec<_>>` is `null` when unset, `Vec<_>` is `[]`, and only
//!   what Go marks `omitempty` is left out.
//!
//! Timestamps are RFC 3339 strings with up to nine fractional digits ([`ZERO_TIME`] when unset), or
//! unix seconds where the field is an integer.

#![forbid(unsafe_code)]

#[macro_use]
mod wire;

pub mod archive;
pub mod auth;
pub mod container;
pub mod event;
pub mod exec;
pub mod filters;
pub mod image;
pub mod network;
pub mod progress;
pub mod system;
pub mod volume;

pub use filters::Filters;
pub use wire::{BodyError, Empty, Lenient, StrSlice, from_slice};

/// How Go prints a time that was never set.
pub const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

wire! { "snake_case";
    /// Body of every failed request.
    pub struct ErrorResponse {
        /// What went wrong, for people.
        pub message: String,
    }
}

wire! { "PascalCase";
    /// Reply of calls that make something: exec create, commit.
    pub struct IdResponse {
        pub id: String,
    }
}
