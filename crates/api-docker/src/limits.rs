//! The caps of this face, in one table (SEC-46).

use std::time::Duration;

/// Connections at a time over all listeners; further ones wait in the kernel's backlog.
pub const CONNECTIONS: usize = 1024;

/// Bytes of the request line and headers.
pub const HEADERS: usize = 32 * 1024;

/// Time for a client to send its headers, from the first byte or from the end of the reply before;
/// the latter makes it the time that an idle connection is kept, which clients with a pool expect
/// to be long. moby gives headers the same.
pub const HEADER_READ: Duration = Duration::from_secs(300);

/// Time for the TLS handshake.
pub const HANDSHAKE: Duration = Duration::from_secs(10);

/// Bytes of a JSON body: far more than the largest create request, seccomp profile included.
pub const JSON_BODY: usize = 4 * 1024 * 1024;

/// Time for a JSON body to arrive.
pub const BODY_READ: Duration = Duration::from_secs(60);

/// Time that a refused upload is read on, so that its client sees why.
pub const LINGER: Duration = Duration::from_secs(2);

/// Time that running requests get at shutdown before their connections are cut.
pub const DRAIN: Duration = Duration::from_secs(5);
