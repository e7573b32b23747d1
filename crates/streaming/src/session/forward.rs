//! Port forwarding: each pair of streams is a connection into the pod.
//!
//! Both directions are half-closed on their own, so that a request which ends with its input gets
//! its whole answer. What goes wrong with one connection is told on its error stream and touches
//! no other.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pouch_types::error::chain;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Context;
use crate::outlet::Outlet;
use crate::pipe::{Gone, Inlet};
use crate::request::{Connect, Duplex};
use crate::spdy::Incoming;
use crate::websocket::Channel;
use crate::wire::CHUNK;

/// Time for a connection into the pod to be made.
const CONNECT: Duration = Duration::from_secs(30);
/// A connection of which one direction has ended may be silent in the other for so long. Clients
/// that vanish half-close and say no more, so without an end each would stay.
const HALF_CLOSED: Duration = Duration::from_secs(5 * 60);

/// Entries of pairs that are complete which may be left among those that wait.
const SLACK: usize = 64;

/// Both streams of one connection.
#[derive(Debug)]
struct Pair {
    port: u16,
    inlet: Inlet,
    data: Outlet,
    error: Outlet,
}

/// What a stream is to its pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Data,
    Error,
}

/// A pair of which one stream has come.
#[derive(Debug)]
struct Half {
    role: Role,
    port: u16,
    inlet: Inlet,
    outlet: Outlet,
    number: u64,
}

/// The other halves are waited for.
#[derive(Debug, Default)]
struct Halves {
    waiting: HashMap<String, Half>,
    due: VecDeque<(Instant, String, u64)>,
    number: u64,
}

/// What a stream says of itself.
fn describe(incoming: &Incoming) -> Option<(Role, u16, String)> {
    let role = match incoming.headers.get("streamtype")? {
        "data" => Role::Data,
        "error" => Role::Error,
        _ => return None,
    };
    let port = incoming.headers.get("port")?.parse().ok().filter(|port| *port != 0)?;
    let request = match incoming.headers.get("requestid").filter(|id| !id.is_empty()) {
        Some(request) => request.to_owned(),
        // Clients before request ids opened the error stream first and the data stream next.
        None => match role {
            Role::Error => incoming.id.to_string(),
            Role::Data => incoming.id.checked_sub(2)?.to_string(),
        },
    };
    Some((role, port, request))
}

impl Halves {
    /// Accepts a stream; a pair when it was the second of one.
    fn add(&mut self, incoming: Incoming, patience: Duration) -> Option<Pair> {
        let Some((role, port, request)) = describe(&incoming) else {
            // Dropping it refuses it.
            tracing::debug!(headers = ?incoming.headers, "stream refused");
            return None;
        };
        match self.waiting.remove(&request) {
            Some(first) if first.role != role => {
                let (inlet, outlet) = incoming.accept();
                let outlet = Outlet::Spdy(outlet);
                Some(match role {
                    Role::Data => Pair { port, inlet, data: outlet, error: first.outlet },
                    Role::Error => Pair {
                        port: first.port,
                        inlet: first.inlet,
                        data: first.outlet,
                        error: outlet,
                    },
                })
            }
            Some(first) => {
                tracing::debug!(?role, request, "a second stream of a kind is refused");
                self.waiting.insert(request, first);
                None
            }
            None => {
                let (inlet, outlet) = incoming.accept();
                let outlet = Outlet::Spdy(outlet);
                self.number += 1;
                let number = self.number;
                self.due.push_back((Instant::now() + patience, request.clone(), number));
                self.waiting.insert(request, Half { role, port, inlet, outlet, number });
                // Of pairs that came together behind one that waits.
                if self.due.len() > 2 * self.waiting.len() + SLACK {
                    let waiting = &self.waiting;
                    self.due.retain(|(_, request, number)| {
                        waiting.get(request).is_some_and(|half| half.number == *number)
                    });
                }
                None
            }
        }
    }

    /// Until the oldest half has waited too long.
    async fn overdue(&mut self) -> (String, Half) {
        loop {
            let Some((due, request, number)) = self.due.front() else {
                return std::future::pending().await;
            };
            let (request, number) = (request.clone(), *number);
            let waits = self.waiting.get(&request).is_some_and(|half| half.number == number);
            if waits {
                tokio::time::sleep_until(*due).await;
            }
            self.due.pop_front();
            if waits && let Some(half) = self.waiting.remove(&request) {
                return (request, half);
            }
        }
    }
}

/// Pairs the streams that a client opens, and forwards each pair.
pub(super) async fn pairs(
    mut incoming: mpsc::Receiver<Incoming>,
    connect: Connect,
    context: &Context,
) {
    let mut halves = Halves::default();
    // Ends what it holds when the session is dropped.
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            opened = incoming.recv() => {
                let Some(opened) = opened else { return };
                if let Some(pair) = halves.add(opened, context.shared.limits.creation) {
                    running.spawn(forward(pair, Arc::clone(&connect)));
                }
            }
            // Cancel-safe: a half is taken out only when this returns.
            (request, half) = halves.overdue() => {
                tracing::info!(request, missing = ?half.role, "port forward without its other stream");
                if half.role == Role::Error {
                    running.spawn(async move {
                        let text = format!("(request={request}) timed out waiting for streams");
                        tell(half.outlet, text).await;
                    });
                }
            }
            Some(_) = running.join_next() => {}
            () = context.stop.cancelled() => return,
        }
    }
}

/// Forwards the ports that a request named, each on its pair of channels, until all have ended.
pub(super) async fn fixed(
    channels: Vec<Channel>,
    ports: &[u16],
    connect: Connect,
    context: &Context,
) {
    let mut running = JoinSet::new();
    let mut channels = channels.into_iter();
    for &port in ports {
        let (Some((Some(inlet), Some(data))), Some((_, Some(error)))) =
            (channels.next(), channels.next())
        else {
            return;
        };
        let (mut data, mut error) = (Outlet::WebSocket(data), Outlet::WebSocket(error));
        let connect = Arc::clone(&connect);
        running.spawn(async move {
            // Both channels begin with the port, in little endian.
            let port_bytes = Bytes::copy_from_slice(&port.to_le_bytes());
            for outlet in [&mut data, &mut error] {
                if outlet.send(port_bytes.clone()).await.is_err() {
                    return;
                }
            }
            forward(Pair { port, inlet, data, error }, connect).await;
        });
    }
    tokio::select! {
        () = async { while running.join_next().await.is_some() {} } => {}
        () = context.stop.cancelled() => {}
    }
}

async fn tell(mut error: Outlet, text: String) {
    // The client may be gone; there is nobody else to tell.
    if error.send(Bytes::from(text)).await.is_ok() {
        let _ = error.finish().await;
    }
}

async fn forward(pair: Pair, connect: Connect) {
    let Pair { port, inlet, data, error } = pair;
    let failed = match tokio::time::timeout(CONNECT, connect(port)).await {
        Ok(Ok(stream)) => match splice(stream, inlet, data).await {
            Ok(()) => {
                let _ = error.finish().await;
                return;
            }
            Err(failed) => failed,
        },
        // Dropping the data stream resets it, which ends the client's wait.
        Ok(Err(cause)) => chain(&*cause),
        Err(_) => format!("no connection within {CONNECT:?}"),
    };
    tracing::debug!(port, error = failed, "port forward");
    tell(error, format!("error forwarding port {port}: {failed}")).await;
}

/// Whether anything moved, for one direction to learn of the other.
#[derive(Debug, Default)]
struct Progress {
    moved: AtomicU64,
    half_closed: AtomicBool,
}

impl Progress {
    fn moved(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    fn ended(&self) {
        self.half_closed.store(true, Ordering::Relaxed);
    }

    /// Until a half-closed connection has been silent for too long.
    async fn silent(&self) {
        let mut seen = None;
        loop {
            let now = self.moved.load(Ordering::Relaxed);
            let half_closed = self.half_closed.load(Ordering::Relaxed);
            if half_closed && seen == Some(now) {
                return;
            }
            seen = half_closed.then_some(now);
            tokio::time::sleep(HALF_CLOSED).await;
        }
    }
}

/// Moves bytes both ways until both directions have ended. The error is for the client.
async fn splice(stream: Box<dyn Duplex>, inlet: Inlet, data: Outlet) -> Result<(), String> {
    let progress = Progress::default();
    let (read, write) = tokio::io::split(stream);
    let moving = async {
        let (mut up, mut down) = (
            std::pin::pin!(up(inlet, write, &progress)),
            std::pin::pin!(down(read, data, &progress)),
        );
        tokio::select! {
            ended = &mut up => match ended {
                Ok(()) => down.await,
                // The client gave it up: so does the pod's side.
                Err(Gone) => Ok(()),
            },
            ended = &mut down => {
                ended?;
                // A client that resets its stream now has got everything.
                let _ = up.await;
                Ok(())
            }
        }
    };
    tokio::select! {
        ended = moving => ended,
        () = progress.silent() => Err(format!("half-closed and silent for {HALF_CLOSED:?}")),
    }
}

/// From the client into the pod.
async fn up(
    mut inlet: Inlet,
    mut write: WriteHalf<Box<dyn Duplex>>,
    progress: &Progress,
) -> Result<(), Gone> {
    let mut open = true;
    while let Some(bytes) = inlet.next().await? {
        progress.moved();
        let moved = async {
            write.write_all(&bytes).await?;
            write.flush().await
        };
        // A server that reads no more may still answer: the rest is dropped, the client goes on.
        if open && let Err(error) = moved.await {
            tracing::debug!(%error, "the pod reads no more");
            open = false;
        }
    }
    if open && let Err(error) = write.shutdown().await {
        tracing::debug!(%error, "half-closing a forwarded connection");
    }
    progress.ended();
    Ok(())
}

/// From the pod to the client.
async fn down(
    mut read: ReadHalf<Box<dyn Duplex>>,
    mut data: Outlet,
    progress: &Progress,
) -> Result<(), String> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        match read.read_buf(&mut buffer).await {
            Ok(0) => break,
            Ok(_) => progress.moved(),
            Err(error) => return Err(chain(&error)),
        }
        if data.send(buffer.split().freeze()).await.is_err() {
            // The client reset it; the other direction sees that, too.
            return Ok(());
        }
    }
    let _ = data.finish().await;
    progress.ended();
    Ok(())
}
