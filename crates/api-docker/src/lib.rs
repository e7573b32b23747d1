//! The Docker Engine API over HTTP
