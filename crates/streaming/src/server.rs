//! The listener, the routes, and the life of connections.
//!
//! A session belongs to its connection and ends with it; connections belong to the server. Closing
//! is in order: no new requests, then sessions tell their clients, then the rest is cut.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use pouch_types::{Classified, ErrorKind};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::request::{Command, Request, Work};
use crate::session;
use crate::tokens::{self, IssueError, Tokens};
use crate::upgrade::{Answer, Protocol, answer, negotiate};
use crate::wire::Wire;

/// Time for a client to send its request, and bytes that it may have.
const HEADER_READ: Duration = Duration::from_secs(10);
const HEADER_BYTES: usize = 16 * 1024;
/// Time for the HTTP layer to hand a connection over once `101` is written.
const HANDOVER: Duration = Duration::from_secs(30);
/// Time for sessions to take leave.
const DRAIN: Duration = Duration::from_secs(5);
/// How often requests whose client did not come are dropped.
const SWEEP: Duration = Duration::from_secs(20);
/// Pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the server allows. The default is what kubelet's library does, as far as that has limits.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long a token is good for.
    pub token_life: Duration,
    /// Tokens that may wait for their client.
    pub pending: usize,
    /// Time for a client to open its streams.
    pub creation: Duration,
    /// A connection on which nothing moves for so long is closed.
    pub idle: Duration,
    /// Connections at a time; further ones wait in the kernel's queue.
    pub connections: usize,
    /// Streams of one connection. A forwarded connection has two.
    pub streams: usize,
    /// Bytes from one client that may wait for processes or pods, over all its streams. Beyond,
    /// the client's connection is not read.
    pub queued_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            token_life: Duration::from_secs(60),
            pending: 1000,
            creation: Duration::from_secs(30),
            idle: Duration::from_secs(4 * 60 * 60),
            connections: 4096,
            streams: 2048,
            queued_bytes: 1 << 20,
        }
    }
}

/// A server that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Clients are told the address, so it has to be one.
    #[error("{0} is no address that a client can be sent to")]
    Unspecified(SocketAddr),
    /// The socket could not be made.
    #[error("listening on {address}")]
    Io {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Classified for BindError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unspecified(_) => ErrorKind::Invalid,
            Self::Io { source, .. } => pouch_types::error::io_kind(source),
        }
    }
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    tokens: Tokens,
    /// Holds sessions, and the opening of processes that goes on without its client.
    pub(crate) tracker: TaskTracker,
    /// Sessions take leave.
    pub(crate) closing: CancellationToken,
    /// They did not in time.
    cut: CancellationToken,
}

/// A running server. Dropped without [`close`](Self::close) it is cut.
#[derive(Debug)]
pub struct Server {
    pub(crate) shared: Arc<Shared>,
    base: String,
}

impl Server {
    /// Listens and serves, in tasks of the runtime it is called in. Port 0 takes a free one. What
    /// is served is HTTP without TLS, for clients on this machine: only tokens guard it.
    ///
    /// # Errors
    /// An address without a host, or one that cannot be listened on.
    pub async fn bind(address: SocketAddr, limits: Limits) -> Result<Self, BindError> {
        if address.ip().is_unspecified() {
            return Err(BindError::Unspecified(address));
        }
        let wrap = |source| BindError::Io { address, source };
        let listener = TcpListener::bind(address).await.map_err(wrap)?;
        let base = format!("http://{}", listener.local_addr().map_err(wrap)?);
        let shared = Arc::new(Shared {
            tokens: Tokens::new(limits.token_life, limits.pending),
            limits,
            tracker: TaskTracker::new(),
            closing: CancellationToken::new(),
            cut: CancellationToken::new(),
        });
        shared.tracker.spawn(accept(listener, Arc::clone(&shared)));
        shared.tracker.spawn(sweep(Arc::clone(&shared)));
        Ok(Self { shared, base })
    }

    /// `http://host:port`, which all URLs begin with.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.base
    }

    /// Keeps a request for its client. The URL is good for one use within
    /// [`Limits::token_life`].
    ///
    /// # Errors
    /// Too many wait, or the server is closed.
    pub fn issue(&self, request: Request) -> Result<String, IssueError> {
        if self.shared.closing.is_cancelled() {
            return Err(IssueError::Closed);
        }
        let what = route_of(&request.0);
        let token = self.shared.tokens.issue(request.0, Instant::now())?;
        Ok(format!("{}/{what}/{token}", self.base))
    }

    /// Ends the server: clients of running sessions are told, which takes some seconds at most.
    pub async fn close(self) {
        let shared = &self.shared;
        shared.closing.cancel();
        shared.tokens.clear();
        shared.tracker.close();
        if tokio::time::timeout(DRAIN, shared.tracker.wait()).await.is_err() {
            tracing::info!(tasks = shared.tracker.len(), "cutting sessions that did not end");
            shared.cut.cancel();
            let _ = tokio::time::timeout(DRAIN, shared.tracker.wait()).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closing.cancel();
        self.shared.cut.cancel();
        self.shared.tokens.clear();
    }
}

async fn sweep(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.closing.cancelled() => return,
            () = tokio::time::sleep(SWEEP) => shared.tokens.expire(Instant::now()),
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(shared.limits.connections));
    loop {
        // All branches are cancel-safe: a permit or a connection is either taken or left.
        let place = tokio::select! {
            () = shared.closing.cancelled() => return,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        // The semaphore is never closed.
        let Ok(place) = place else { return };
        let accepted = tokio::select! {
            () = shared.closing.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _)) => {
                // Frames are small and answered.
                if let Err(error) = socket.set_nodelay(true) {
                    tracing::debug!(%error, "setting TCP_NODELAY");
                }
                shared.tracker.spawn(serve(socket, place, Arc::clone(&shared)));
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a streaming client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(socket: TcpStream, place: OwnedSemaphorePermit, shared: Arc<Shared>) {
    let place = Arc::new(place);
    let handler = service_fn(|request| {
        let response = handle(request, &place, &shared);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .half_close(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(socket), handler)
        .with_upgrades();
    tokio::select! {
        () = shared.closing.cancelled() => {}
        ended = connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "streaming client");
            }
        }
    }
}

fn handle(
    mut request: http::Request<Incoming>,
    place: &Arc<OwnedSemaphorePermit>,
    shared: &Arc<Shared>,
) -> Answer {
    let not_found = || answer(StatusCode::NOT_FOUND, "404 page not found");
    let mut parts = request.uri().path().split('/');
    let (Some(""), Some(what), Some(token), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return not_found();
    };
    if !["exec", "attach", "portforward"].contains(&what) || token.len() != tokens::LENGTH {
        return not_found();
    }
    if *request.method() != Method::GET && *request.method() != Method::POST {
        return answer(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    }
    let taken = shared.tokens.take(token, Instant::now());
    let Some(work) = taken.filter(|work| route_of(work) == what) else {
        return not_found();
    };
    let (protocol, response) = match negotiate(request.headers(), &work) {
        Ok(agreed) => agreed,
        Err(refusal) => {
            tracing::debug!(what, status = %refusal.status(), "streaming client refused");
            return *refusal;
        }
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let (place, shared) = (Arc::clone(place), Arc::clone(shared));
    let tracker = shared.tracker.clone();
    tracker.spawn(async move {
        let cut = shared.cut.clone();
        tokio::select! {
            () = run(upgrade, protocol, work, &shared) => {}
            () = cut.cancelled() => {}
        }
        drop(place);
    });
    response
}

async fn run(upgrade: OnUpgrade, protocol: Protocol, work: Work, shared: &Arc<Shared>) {
    let upgraded = match tokio::time::timeout(HANDOVER, upgrade).await {
        Ok(Ok(upgraded)) => upgraded,
        Ok(Err(error)) => return tracing::debug!(%error, "client left before the upgrade"),
        Err(_) => return tracing::debug!("the connection was not handed over in time"),
    };
    match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => {
            let wire = Wire::new(parts.io.into_inner(), parts.read_buf);
            session::run(wire, protocol, work, shared).await;
        }
        Err(_) => tracing::error!("an upgraded connection is not the one that was served"),
    }
}

fn route_of(work: &Work) -> &'static str {
    match work {
        Work::Command { kind: Command::Exec, .. } => "exec",
        Work::Command { kind: Command::Attach, .. } => "attach",
        Work::Forward { .. } => "portforward",
    }
}
