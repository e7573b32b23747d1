//! The HTTP server to which a CRI runtime sends the streams of Exec, Attach and PortForward.
//!
//! A CRI call registers what is to be done ([`Server::issue`]) and answers with a URL that holds a
//! single-use token; the client (kubectl through the API server and kubelet, crictl, critest)
//! connects there and upgrades the connection to
//!
//! * SPDY/3.1 with `v1` to `v4.channel.k8s.io` or `portforward.k8s.io`,
//! * a WebSocket with `channel.k8s.io`, its `v4` and `v5` and the base64 forms,
//! * or a WebSocket that tunnels SPDY (`SPDY/3.1+portforward.k8s.io`).
//!
//! The server knows protocols; processes and pods are what the [`Request`] brings along. It holds
//! no name of a container: a token stands for a closure.
//!
//! ```no_run
//! # use pouch_streaming::{Cause, Limits, Process, Request, Server, StreamSet};
//! # async fn serve<F>(start: impl FnOnce() -> F + Send + 'static) -> Result<(), Cause>
//! # where F: Future<Output = Result<(tokio::net::UnixStream, i32), Cause>> + Send + 'static {
//! let server = Server::bind("127.0.0.1:0".parse()?, Limits::default()).await?;
//! let streams = StreamSet { stdout: true, stderr: true, ..StreamSet::default() };
//! let url = server.issue(Request::exec(streams, move || async move {
//!     let (socket, code) = start().await?;
//!     let mut process = Process::over(socket, streams);
//!     process.exit = Some(Box::pin(async move { Ok(code) }));
//!     Ok(process)
//! })?)?;
//! # Ok(())
//! # }
//! ```
//!
//! Memory of a connection is bounded by [`Limits`], a client that does not read stops its own
//! process and nobody else, and a connection's end takes along all that was made for it.

#![forbid(unsafe_code)]

// The fakes that the tests share name the crate as its users do.
#[cfg(test)]
extern crate self as pouch_streaming;

mod outlet;
mod pipe;
mod request;
mod server;
mod session;
mod spdy;
mod status;
#[cfg(test)]
mod tests;
mod tokens;
mod upgrade;
mod websocket;
mod wire;

pub use request::{
    Cause, Duplex, InvalidRequest, Output, Process, Request, Resize, StreamSet, TerminalSize,
};
pub use server::{BindError, Limits, Server};
pub use tokens::IssueError;
